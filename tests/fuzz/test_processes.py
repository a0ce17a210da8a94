"""Real processes: what a person sees of hostile input, of a full disk, of two runs at once, and of a run that was killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import settings_in

import tinyunet
from tinyunet.checkpoint import load_checkpoint
from tinyunet.data.images import read_mask

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of files are those of POSIX")
ROOT = Path(tinyunet.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TRAIN = ("train", "cells", "--base", "2", "--depth", "1", "--tile", "20", "--warmup", "0")


@pytest.fixture
def work(tmp_path):
    """A folder with images, masks, checkpoints, and things that are none of these."""
    return shutil.copytree(settings_in.stage(), tmp_path / "stage", symlinks=True)


def start(work, *arguments, blocks=None):
    """The command in a process of its own; with `blocks`, no file may have more than so many blocks of 512 bytes."""
    command = [sys.executable, "-m", "tinyunet", *arguments]
    if blocks is not None:
        command = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *command]
    return subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process):
    """-> exit code, stderr"""
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, err


def whole(folder):
    """Every file of a folder that is not hidden can be read to its end."""
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors" and not path.name.startswith("."):
            load_checkpoint(path)
        elif path.suffix == ".png" and not path.name.startswith(".") and "curves" not in path.name and "overlay" not in path.name:
            read_mask(path)
        elif path.suffix == ".npy" and not path.name.startswith("."):
            np.load(path)


HOSTILE = [
    ("predict", "broken.safetensors", "cells/images"), ("predict", "best.safetensors", "broken.png"),
    ("predict", "best.safetensors", "cells/images", "--out", "text.txt"), ("predict", "loop", "cells/images"),
    ("predict", "best.safetensors", "cells/images", "--out", "loop/x"), ("predict", "best.safetensors", "x" * 300),
    ("evaluate", "best.safetensors", "/dev/zero"), ("evaluate", "best.safetensors", "loop"), ("evaluate", "best.safetensors",
        "empty"),
    ("evaluate", "best.safetensors", "cells", "--json", "nowhere/x.json"), ("evaluate", "best.safetensors", "cells",
        "--max-mem", "nan"),
    ("train", "cells", "--config", "broken.toml"), ("train", "cells", "--config", "/dev/zero"), ("train", "\udcff"), ("train",
        "cells\n\n"),
    ("train", "cells", "--base", "1000000"), ("train", "cells", "--base", "9" * 30), ("train", "cells", "--lr", "nan"),
    ("train", "cells", "--out", "cells"), ("train", "cells", "--out", "x" * 300), ("train", "[red]"), ("train", "--resume",
        "--out", "loop"),
    ("shapes", "--base", "1000000000"), ("shapes", "0"), ("shapes", "9" * 30), ("demo", "--out", "text.txt"), ("--bogus",),
    ("trian",),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arguments", HOSTILE, ids=lambda a: " ".join(a)[:40].encode("ascii", "replace").decode())
def test_hostile_commands(work, arguments):
    """Exit code 0 or 2; of a refusal one line, or the usage in a frame; never a traceback."""
    code, err = end(start(work, *arguments))
    assert code in (0, 2)
    assert bool(err) == bool(code)
    assert not code or err.startswith("Usage: ") or (err.startswith("error: ") and err.count("\n") == 1), err


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [0, 1, 8])
@pytest.mark.parametrize("arguments", [
    (*TRAIN, "--steps", "3", "--out", "new"),
    ("predict", "best.safetensors", "cells/images", "--out", "new", "--proba", "--overlay"),
    ("evaluate", "best.safetensors", "cells", "--json", "new.json", "--each"),
], ids=lambda a: a[0])  # fmt: skip
def test_a_full_disk(work, arguments, blocks):
    """Files that may not grow: one line that names the file and asks for space; what is there is whole."""
    code, err = end(start(work, *arguments, blocks=blocks))
    assert code == 2 or (code == 0 and arguments[0] == "evaluate" and blocks == 8)
    assert code == 0 or ("new" in err and "Is there space left?" in err and err.count("\n") == 1), err
    if (work / "new").exists():
        whole(work / "new")
        assert {path.name for path in (work / "new").rglob(".*")} <= {".lock"}  # which stays, empty; removing it would be a race


@pytest.mark.slow
def test_two_predictions_in_one_folder(work):
    """Both may write the same results: each file is whole, and as one of them alone would have made it."""
    arguments = ("predict", "best.safetensors", "cells/images", "--overwrite", "--proba")
    assert end(start(work, *arguments, "--out", "one"))[0] == 0
    for code, err in [end(process) for process in [start(work, *arguments, "--out", "both") for _ in range(2)]]:
        assert code == 0, err
    one, both = ({p.name: p.read_bytes() for p in (work / name).iterdir()} for name in ("one", "both"))
    assert both == one


@pytest.mark.slow
def test_two_trainings_in_one_folder(work):
    """Started at once, one comes through; the other is told that it is at work there, or was; its files are whole."""
    arguments = (*TRAIN, "--steps", "5", "--out", "both")
    codes = [end(process) for process in [start(work, *arguments) for _ in range(2)]]
    assert sorted(code for code, _ in codes) == [0, 2]
    assert any("another run is at work in both" in err or "both already holds" in err for _, err in codes), codes
    whole(work / "both")
    assert load_checkpoint(work / "both" / "last.safetensors").step == 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_training(work, seed):
    """SIGKILL at any time: the folder's files are whole, and the run goes on from its last checkpoint, or starts anew."""
    process = start(work, *TRAIN, "--steps", "40", "--save-every", "1", "--validate-every", "5", "--out", "run2")
    deadline = time.monotonic() + 60
    while not (work / "run2" / "last.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(seed).random())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole(work / "run2")
    code, err = end(start(work, "train", "--resume", "--out", "run2"))
    assert code == 0, err
    assert load_checkpoint(work / "run2" / "last.safetensors").step == 40
