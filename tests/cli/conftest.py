"""The command in this process, and a folder with images and a run; makes `command` importable here."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import cli
from tinyunet.data.images import write_image

sys.path.insert(0, str(Path(__file__).parent))

from command import TINY, run


@pytest.fixture
def main(monkeypatch, capsys):
    """The command in this process: quicker, for what needs no files. -> exit code, stdout, stderr"""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tinyunet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with five small images of cells, masks 0 and 255, and a run of six steps on them."""
    folder = tmp_path_factory.mktemp("cli")
    cells = tu.synthetic("phase", n=5, size=48, rng=np.random.default_rng(5))
    for name in ("images", "masks"):
        (folder / "cells" / name).mkdir(parents=True)
    for sample in cells:
        write_image(folder / "cells" / "images" / f"{sample.name}.png", sample.image)
        tu.write_labels(folder / "cells" / "masks" / f"{sample.name}.png", 255 * sample.labels)
    folder.joinpath("said").write_text(
        run("train", "cells", "--label-map", "0:0,255:1", "--instances", "components", *TINY, "--steps", 6, "--out", "runs/a",
            cwd=folder)
    )  # fmt: skip
    return folder
