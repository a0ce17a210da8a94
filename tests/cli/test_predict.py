"""`tinyunet predict`: files in, files out, never over one that is there."""

import json
import os
import re
import sys

import numpy as np
import pytest
from command import one_line, run, start
from PIL import Image

import tinyunet as tu
from tinyunet import cli
from tinyunet.cli.demo import _options as demo_options
from tinyunet.config import RunConfig, put
from tinyunet.data.images import read_mask, write_image
from tinyunet.demo import FULL, QUICK


def test_predict_writes_what_is_asked_for(work, tmp_path):
    """Labels, 16-bit instances, probabilities and overlays of a folder, the numbers being those of the library."""
    options = ["--out", tmp_path, "--proba", "--overlay", "--min-size", 5]
    said = run("predict", "runs/a/best.safetensors", "cells/images", *options, cwd=work)
    assert "5 images segmented; 20 files in" in said
    assert re.search(r"5 images  5/5  phase-004.png  .* took", said)
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    image = tu.read_image(work / "cells" / "images" / "phase-002.png")
    proba = np.load(tmp_path / "phase-002_proba.npy")
    labels, instances = (read_mask(tmp_path / f"phase-002_{what}.png") for what in ("labels", "instances"))
    np.testing.assert_array_equal(proba, best.predict_proba(image))
    np.testing.assert_array_equal(labels, proba.argmax(-1))
    np.testing.assert_array_equal(instances, tu.instances_of(labels, 5))
    assert (labels.dtype, instances.dtype) == (np.uint8, np.uint16)
    assert tu.read_image(tmp_path / "phase-002_overlay.png").shape[2] == 3


def test_predict_takes_stacks_and_leaves_files_alone(work, main, monkeypatch, tmp_path):
    """A TIFF of three pages gives three results; nothing is replaced unasked."""
    pages = [Image.fromarray(tu.read_image(work / "cells" / "images" / f"phase-00{i}.png")[..., 0]) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    checkpoint = work / "runs" / "a" / "last.safetensors"
    arguments = ["predict", checkpoint, "stack.tif", "--out", "out", "--no-labels", "--suffix", "tif"]
    monkeypatch.chdir(tmp_path)
    code, said, _ = main(*arguments, "--average", "mirror4")
    assert code == 0
    assert re.search(r"stack.tif  3/3  .*tiles/s", said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"stack_00{i}_instances.tif" for i in range(3)]
    last = tu.load_checkpoint(checkpoint)
    expected = tu.instances_of(last.predict(np.asarray(pages[1])[..., None], average="mirror4"))
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "stack_001_instances.tif"), expected)
    before = (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns
    code, _, err = main(*arguments)
    assert code == 2
    assert "stack_000_instances.tif is there already. Give --overwrite" in err
    assert (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns == before
    assert main(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns > before


def test_more_objects_than_16_bits_number_are_refused(work, main, monkeypatch, tmp_path):
    """The file, the number of objects and the option that helps; nothing is written."""
    monkeypatch.setattr(cli.predict, "instances_of", lambda labels, min_size: np.full(labels.shape, 65536, np.int32))
    image = work / "cells" / "images" / "phase-000.png"
    code, _, err = main("predict", work / "runs" / "a" / "last.safetensors", image, "--out", tmp_path, "--no-labels")
    assert code == 2
    said = "phase-000_instances.png: 65536 objects are more than 16 bits can number. Remove specks with --min-size."
    assert said in one_line(err)
    assert not [*tmp_path.iterdir()]


def test_a_page_is_not_written_over_an_image(work, main, tmp_path):
    """The first page of a.tif and the image a_000.png would be one result: refused before anything is written."""
    page = Image.fromarray(tu.read_image(work / "cells" / "images" / "phase-000.png")[..., 0])
    stack, image = tmp_path / "in" / "a.tif", tmp_path / "in" / "a_000.png"
    stack.parent.mkdir()
    page.save(stack, save_all=True, append_images=[page])
    page.save(image)
    code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", stack.parent, "--out", tmp_path / "out")
    assert code == 2
    assert f"{stack} and {image} would both be written as a_000. Segment them into two folders." in one_line(err)
    assert not (tmp_path / "out").exists()
    image.rename(image.with_name("a.png"))  # a.tif becomes a_000 and a_001
    assert main("predict", work / "runs" / "a" / "best.safetensors", stack.parent, "--out", tmp_path / "out")[0] == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a_labels.png", "a_000_labels.png", "a_001_labels.png"} <= written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.png"], "there is no file or folder nothing.png"),
        (["runs"], "runs holds no image files"),
        (["cells/images/phase-000.png", "cells/masks/phase-000.png"], "would both be written as phase-000"),
        (["cells/images", "--suffix", "jpg"], "--suffix jpg is neither png nor tif"),
        (["cells/images", "--no-labels", "--no-instances"], "nothing is to be written"),
        (["cells/images", "--average", "mirror"], "average 'mirror' is none of none, mirror4"),
        (["cells/images", "--max-mem", "20"], "max_mem of 20 MiB is too small."),
        (["cells/images", "--tile-in", "21"], "Nearest sizes that work: 20, 22.\n"),
    ],
)
def test_wrong_prediction_options_are_said(work, main, monkeypatch, arguments, says, tmp_path):
    """One line and code 2 again, and no result."""
    monkeypatch.chdir(work)
    code, _, err = main("predict", "runs/a/best.safetensors", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert says in err
    assert not [*tmp_path.glob("out/*")]


def test_predict_never_writes_over_its_own_input(work, main, tmp_path):
    """The folder of the images takes no results, not even with --overwrite; one inside it does."""
    for name in ("a.png", "a_labels.png"):
        (tmp_path / name).write_bytes((work / "cells" / "images" / "phase-000.png").read_bytes())
    before = (tmp_path / "a_labels.png").read_bytes()
    for images in (tmp_path, tmp_path / "a.png"):
        code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", images, "--out", tmp_path, "--overwrite")
        assert code == 2
        assert f"--out {tmp_path} holds the images. Choose a folder for results alone, e.g. --out {tmp_path}/predictions" in err
    assert (tmp_path / "a_labels.png").read_bytes() == before
    assert len([*tmp_path.iterdir()]) == 2
    checkpoint = work / "runs" / "a" / "best.safetensors"
    code, out, _ = main("predict", checkpoint, tmp_path / "a.png", "--out", tmp_path / "predictions")
    assert code == 0
    assert "1 image segmented; 2 files in" in out


def colours(folder, name, equal):
    """An image of three channels, equal or not; (H, W) of the first."""
    grey = np.arange(48 * 48).reshape(48, 48).astype(np.uint8)
    write_image(folder / name, np.stack([grey, grey, grey if equal else 255 - grey], axis=-1))
    return grey


def test_channels_are_checked_before_the_first_result(work, main, tmp_path):
    """Colour for a network of grey: the file is named with a remedy, and images before it gave no result either."""
    (tmp_path / "a.png").write_bytes((work / "cells" / "images" / "phase-000.png").read_bytes())
    colours(tmp_path, "b.png", equal=False)
    code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert f"predict: {tmp_path / 'b.png'} has 3 channels, the network takes 1. Convert it to grey: Image > Type > 8-bit" in err
    assert not (tmp_path / "out").exists()


def test_three_equal_channels_are_grey(work, main, tmp_path):
    """Grey that was saved as RGB is segmented as grey, measured as grey, and said to be."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    grey = colours(tmp_path / "images", "b.png", equal=True)
    checkpoint = work / "runs" / "a" / "best.safetensors"
    code, out, _ = main("predict", checkpoint, tmp_path / "images", "--out", tmp_path / "out")
    assert code == 0
    assert "1 image of three equal channels taken as grey" in out
    expected = tu.load_checkpoint(checkpoint).predict(grey)
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "b_labels.png"), expected)
    tu.write_labels(tmp_path / "masks" / "b.png", expected)
    code, out, err = main("evaluate", checkpoint, tmp_path, "--label-map", "0:0,1:1")
    assert (code, err) == (0, "")
    assert "pixel error  0.0000" in out
    colours(tmp_path / "images", "b.png", equal=False)
    code, _, err = main("evaluate", checkpoint, tmp_path, "--label-map", "0:0,1:1")
    assert code == 2
    assert "evaluate: image b has 3 channels, the network takes 1. Convert it to grey: Image > Type > 8-bit" in err


def test_a_network_of_colours_measures_grey_images(work, main, tmp_path):
    """Grey images saved as RGB are read as one channel, and given to a network of three as they were."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    grey = colours(tmp_path / "images", "b.png", equal=True)
    model = tu.UNet(tu.preset("paper", base=2, depth=1, channels=3))
    tu.save_checkpoint(tmp_path / "rgb.safetensors", tu.Checkpoint(model))
    expected = tu.load_checkpoint(tmp_path / "rgb.safetensors").predict(np.stack([grey] * 3, axis=-1))
    tu.write_labels(tmp_path / "masks" / "b.png", np.where(np.indices(expected.shape)[0] < 24, expected, 1 - expected))
    code, out, err = main("evaluate", tmp_path / "rgb.safetensors", tmp_path)
    assert (code, err) == (0, "")
    assert "pixel error  0.5000" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "runs/a", "cells/images"], "predict: runs/a is a folder. Use runs/a/best.safetensors."),
        (["evaluate", "runs/a", "cells"], "evaluate: runs/a is a folder. Use runs/a/best.safetensors."),
        (["predict", "cells/images", "runs/a/best.safetensors"], "The order is: tinyunet predict CHECKPOINT IMAGES"),
        (["evaluate", "cells", "runs/a/best.safetensors"], "The order is: tinyunet evaluate CHECKPOINT DATA"),
        (["predict", "cells/images/phase-000.png", "runs/a/best.safetensors"], "phase-000.png is not a checkpoint."),
    ],
)
def test_what_is_no_checkpoint_is_said(work, main, monkeypatch, arguments, says):
    """The folder of a run, and arguments in the wrong order."""
    monkeypatch.chdir(work)
    code, _, err = main(*arguments)
    assert code == 2
    assert says in err


def test_the_demo_gives_its_own_options(work, main, monkeypatch, tmp_path):
    """The command that the demo ends with has the demo's network and training."""
    for plan in (FULL, QUICK):
        options = demo_options(plan)
        given = {name[2:].replace("-", "_"): value for name, value in zip(options[::2], options[1::2], strict=True)}
        plain = put({}, {name: value if name == "norm" else json.loads(value) for name, value in given.items()})
        config = RunConfig.from_tables(plain)
        assert config.network == plan.network
        assert config.train == plan.train
    assert options[:6] == ["--base", "8", "--norm", "batch", "--dropout", "0"]
    monkeypatch.chdir(work)
    command = ["train", "cells", "--label-map", "0:0,255:1", *options, "--steps", 1, "--base", 2, "--depth", 1, "--tile", 20]
    assert main(*command, "--out", tmp_path / "own")[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no wait4")
def test_a_large_image_stays_within_the_memory_budget(tmp_path):
    """4096 x 4096 with --max-mem 1500: the whole process takes less at its peak, and the tiles are counted on the way."""
    wave = np.sin(np.arange(4096) / 9)
    write_image(tmp_path / "large.png", (120 + 100 * wave * wave[:, None]).astype(np.uint8))
    tu.save_checkpoint(tmp_path / "small.safetensors", tu.Checkpoint(tu.UNet(tu.preset("paper", base=4, depth=2))))
    options = ["--max-mem", 1500, "--min-size", 9, "--out", "out"]
    with start("predict", "small.safetensors", "large.png", *options, cwd=tmp_path) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.stderr.read()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20  # bytes there, KiB on Linux
    assert 300 < peak < 1500  # less than 300 MiB would mean that something else was measured
    assert re.search(r"large.png  2/4  .* left", said)
    assert read_mask(tmp_path / "out" / "large_instances.png").shape == (4096, 4096)
