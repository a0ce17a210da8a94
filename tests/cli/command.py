"""The command as people use it: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import tinyunet as tu

ROOT = Path(tu.__file__).parents[1]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "100",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
COMMANDS = (
    "demo", "train", "predict", "evaluate", "shapes", "check", "bench step", "bench fit",
    "course list", "course start", "course build", "course release", "course site",
)  # fmt: skip
TINY = ("--base", "2", "--depth", "1", "--tile", "20", "--dropout", "0")


def start(*arguments, cwd):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "tinyunet", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, cwd, code=0):
    """Run the command to its end -> stdout; stderr if it was to fail."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out if code == 0 else err


def one_line(text):
    """A text without the line breaks and frames that a narrow terminal puts in."""
    return " ".join(text.replace("│", " ").split())
