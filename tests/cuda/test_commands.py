"""--device of train, predict and evaluate: on a CuPy without a GPU, on a GPU, and where there is neither."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import tinyunet as tu
from tinyunet.cli import app
from tinyunet.data.images import read_image, write_image

TINY = ("--base", 2, "--depth", 1, "--tile", 24, "--batch", 1, "--steps", 2, "--optimizer", "sgd", "--lr", 1e-2)


def run(*arguments):
    """The command in this process -> what it printed; the error that it ended with is raised."""
    with tu.rung(conv3x3="taps", upconv2x2="gemm"):  # other tests run the kernels, which take long to compile
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A folder to work in, with three small images and their masks in `cells`."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    for sample in tu.synthetic("phase", n=3, size=48, rng=np.random.default_rng(5)):
        write_image(tmp_path / "cells" / "images" / f"{sample.name}.png", sample.image)
        tu.write_labels(tmp_path / "cells" / "masks" / f"{sample.name}.png", sample.labels)
    return tmp_path


def test_a_run_on_the_device_is_said_and_used_on_both(cupy, compiler, cells):
    """Training says where it runs, its settings do not; the CPU goes on with it, and both segment and measure alike."""
    said = run("train", "cells", *TINY, "--val", 0.34, "--out", "run", "--device", "cuda")
    assert "device   GPU 0, " in said
    assert "\ndevice" not in (cells / "run" / "config.toml").read_text()
    assert "\ndevice" not in run("train", "--resume", "--out", "run", "--steps", 3)
    best = "run/last.safetensors"
    for device, says in (("cpu", False), ("auto", True)):
        text = run("predict", best, "cells/images", "--out", device, "--device", device)
        assert ("device: GPU 0, " in text) == says
        assert ("device: GPU 0, " in run("evaluate", best, "cells", "--device", device)) == says
    here, there = ([read_image(path) for path in sorted((cells / device).glob("*_labels.png"))] for device in ("cpu", "auto"))
    assert len(here) == 3
    assert np.mean(np.array(here) != np.array(there)) < 0.01


def test_without_a_gpu(cells, monkeypatch):
    """`auto` is the CPU, and says why; `cuda` is refused before there is a folder; so is a name that there is not."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    said = run("train", "cells", *TINY, "--val", 0, "--out", "run", "--device", "auto")
    assert "device   CPU (CuPy is not installed)" in said
    with pytest.raises(tu.errors.BackendError, match=r"CuPy is not installed\. Install it: pip install"):
        run("train", "cells", *TINY, "--out", "other", "--device", "cuda")
    with pytest.raises(tu.errors.ConfigError, match=r"device 'gpu' is unknown\. Choose cpu, cuda or auto"):
        run("train", "cells", *TINY, "--out", "other", "--device", "gpu")
    assert not (cells / "other").exists()


def test_a_step_that_does_not_fit_on_the_gpu_is_refused(fake_cupy, cells):
    """What it would take, and what the GPU has."""
    fake_cupy.cuda.runtime.memGetInfo = lambda: (2**20, 2**21)
    with pytest.raises(tu.errors.ConfigError, match=r"train: a step takes .* MiB, and this GPU has 2 MiB\. Use a smaller --tile"):
        run("train", "cells", *TINY, "--out", "run", "--device", "cuda")
