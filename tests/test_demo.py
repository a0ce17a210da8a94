"""The demonstration: what it leaves in its folder, that it can be repeated, and that it replaces nothing but its own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.config import NetworkConfig, RunConfig, read_tables
from tinyunet.data.readers import read_folder
from tinyunet.demo import FULL, QUICK, SIGN, Demo, Plan
from tinyunet.errors import ConfigError
from tinyunet.train import fit
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

TINY = Plan(
    images=3, val=1, test=2, size=48, large=(56, 90), tile=60, network=NetworkConfig(base=2, depth=1, dropout=0.0),
    train=TrainConfig(steps=3, batch=1, tile=20, validate_every=3),
)  # fmt: skip


def run(demo):
    """The whole demonstration -> its outcome."""
    demo.draw()
    assert [record.step for record in demo.train()] == [1, 2, 3]
    return demo.finish()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny demonstration that has ended, and its outcome."""
    demo = Demo(tmp_path_factory.mktemp("demo") / "out", "phase", seed=3, plan=TINY)
    return demo, run(demo)


def test_it_leaves_pictures_numbers_and_a_checkpoint(done):
    """The pictures are there, the numbers are those of the test images, and a large image took several tiles."""
    demo, outcome = done
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in outcome.pictures)
    assert outcome.tiles == 2 * 3
    assert outcome.large_size == (56, 90)
    numbers = json.loads((demo.folder / SIGN).read_text())
    assert numbers["test"] == outcome.scores.as_dict()
    test = read_folder(demo.folder / "test", kind="instances")
    assert [sample.name for sample in test] == ["large", "phase-004", "phase-005"]
    best = tu.load_checkpoint(demo.best)
    expected = tu.evaluate(best.model, list(test)[1:], best.normalization)
    assert outcome.scores.as_dict() == expected.as_dict()
    assert outcome.large.as_dict() == tu.evaluate(best.model, list(test)[:1], best.normalization).as_dict()


def test_no_image_is_used_twice(done):
    """What is tested on was neither trained nor validated on."""
    demo, _ = done
    files = [path for part in ("data", "val", "test") for path in (demo.folder / part / "images").iterdir()]
    images = [tu.read_image(path).tobytes() for path in files]
    assert len(images) == len(set(images)) == 3 + 1 + 3


def test_the_run_is_one_that_the_command_line_repeats(done, tmp_path):
    """The folder's data and config.toml make the same checkpoint again, bit for bit."""
    demo, _ = done
    config = RunConfig.from_tables(read_tables(demo.folder / "run" / "config.toml"))
    train, val = config.data.read_split(config.train.seed)
    assert (len(train), len(val)) == (3, 1)
    model = UNet(config.network.spec(1, 2), rng=config.train.seed)
    for _ in fit(model, train, val, config.train, out=tmp_path):
        pass
    assert (tmp_path / "last.safetensors").read_bytes() == (demo.folder / "run" / "last.safetensors").read_bytes()


def test_it_can_be_shown_again_in_the_same_folder(tmp_path):
    """The second time replaces the first; with the same seed it is the same; what others put there stays."""
    first = run(Demo(tmp_path / "out", "dic", seed=1, plan=TINY))
    (tmp_path / "out" / "predictions").mkdir()
    again = run(Demo(tmp_path / "out", "dic", seed=1, plan=TINY))
    assert again.scores.as_dict() == first.scores.as_dict()
    other = Demo(tmp_path / "out", "em", seed=2, plan=TINY)
    assert run(other).scores.class_names == ("membrane", "cell")
    assert (tmp_path / "out" / "predictions").is_dir()
    assert not [*(tmp_path / "out" / "data" / "images").glob("dic*")]


def test_it_replaces_nothing_that_is_not_its_own(tmp_path):
    """A folder with other files, and a file, are refused and left alone; an empty folder will do."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("x")
    with pytest.raises(ConfigError, match=r"holds files that the demo did not make. Choose another folder with --out"):
        Demo(tmp_path, plan=TINY)
    with pytest.raises(ConfigError, match=r"precious is a file"):
        Demo(tmp_path / "data" / "precious", plan=TINY)
    assert (tmp_path / "data" / "precious").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert Demo(tmp_path / "empty", plan=TINY).draw() == (3, 1, 3)


def test_unknown_cells(tmp_path):
    """The kinds are said."""
    with pytest.raises(ConfigError, match=r"there are no 'plant' cells. Choose one of: em, phase, dic."):
        Demo(tmp_path, "plant")


def test_progress_counts_the_images(done):
    """finish reports every image of all; it can be called again."""
    demo, outcome = done
    seen = []
    assert demo.finish(lambda i, n: seen.append((i, n))).scores.as_dict() == outcome.scores.as_dict()
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_large_image_takes_several_tiles_in_both_plans():
    """It is larger than a tile, or there would be nothing to see of tiling."""
    for plan in (FULL, QUICK):
        spec = plan.network.spec(1, 2)
        assert all(len(tu.shapes.tile_spans(spec, n, plan.tile)) > 1 for n in plan.large)
        assert replace(plan, images=1).size == 256


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--quick"], []])
def test_the_real_demo_learns(tmp_path, options):
    """The command as people type it: IoU of at least 0.85 on images that it has not seen, and every path it names exists."""
    command = [sys.executable, "-m", "tinyunet", "demo", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(tu.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    iou = float(re.search(r"test images\s+([\d.]+)\s+([\d.]+)", said)[2])
    assert iou >= 0.85
    for path in ("results.png", "curves.png", "run/best.safetensors", "data", "test/images"):
        assert f"tinyunet-demo/{path}" in said
        assert (tmp_path / "tinyunet-demo" / path).exists()
    numbers = json.loads((tmp_path / "tinyunet-demo" / SIGN).read_text())
    assert np.isclose(numbers["test"]["iou"]["cell"], iou, atol=1e-4)
