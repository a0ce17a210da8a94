"""`tinyunet evaluate`: the numbers of the library, on images of one's own."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from command import run
from PIL import Image

import tinyunet as tu
from tinyunet import cli
from tinyunet.data.images import read_mask, write_image


def test_evaluate_measures_as_the_library_does(work, tmp_path):
    """A table by class and one by image; the numbers of the JSON file are those of `evaluate`."""
    options = ["--label-map", "0:0,255:1", "--instances", "components"]
    options += ["--each", "--em", "--json", tmp_path / "s.json"]
    said = run("evaluate", "runs/a/best.safetensors", "cells", *options, cwd=work)
    data = tu.read_dataset(work / "cells", label_map={0: 0, 255: 1}, instances="components")
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    expected = tu.evaluate(best.model, data, best.normalization)
    numbers = json.loads((tmp_path / "s.json").read_text())
    assert {k: v for k, v in numbers["all"].items() if k in expected.as_dict()} == expected.as_dict()
    assert [*numbers["images"]] == [sample.name for sample in data]
    assert f"cell         {expected.iou[1]:.4f}" in said
    assert f"SEG          {expected.seg:.4f} of {expected.seg_scores.size} annotated objects" in said
    third = data[2]
    labels = best.predict(third.image)
    assert numbers["images"][third.name]["v_rand"] == tu.metrics.v_rand(tu.instances_of(labels), third.instances).f_score
    assert numbers["images"][third.name]["warping_error"] == tu.metrics.warping_error(labels, third.labels)
    assert said.count("phase-00") == 5


def test_evaluate_by_other_class_names(work, main, monkeypatch):
    """Names given are those of the scores; without them, the training's. Too many or too few are refused before measuring."""
    monkeypatch.chdir(work)
    arguments = ["evaluate", "runs/a/best.safetensors", "cells", "--label-map", "0:0,255:1"]
    assert re.search(r"^background +\d.*\ncell +\d", main(*arguments)[1], re.MULTILINE)
    code, out, _ = main(*arguments, "--class-names", "medium, nucleus")
    assert code == 0
    assert re.search(r"^medium +\d.*\nnucleus +\d", out, re.MULTILINE)
    code, _, err = main(*arguments, "--kind", "classes", "--class-names", "medium, nucleus, other")
    assert code == 2
    assert "--class-names gives 3 names, the network has 2 classes (background, cell)." in err


def test_evaluate_without_objects(work, main, monkeypatch):
    """Plain masks know no objects: SEG is unknown, and --em says what to add."""
    monkeypatch.chdir(work)
    code, out, _ = main("evaluate", "runs/a/best.safetensors", "cells", "--kind", "binary", "--label-map", "0:0,255:1")
    assert code == 0
    assert "SEG          unknown" in out
    code, _, err = main("evaluate", "runs/a/best.safetensors", "cells", "--kind", "binary", "--label-map", "0:0,255:1", "--em")
    assert code == 2
    assert "Add --instances components" in err


def test_evaluate_reads_masks_as_in_training(work, main, monkeypatch, tmp_path):
    """Label map and objects are those of the training, and said to be; an option changes one of them, --kind all."""
    monkeypatch.chdir(work)
    best, scores = "runs/a/best.safetensors", tmp_path / "scores.json"

    def measured(*options):
        code, out, err = main("evaluate", best, "cells", "--json", scores, *options)
        assert code == 0, err
        return out.splitlines()[0], json.loads(scores.read_text())["all"]

    said, as_trained = measured()
    assert said == "masks read as in training: --kind binary --label-map 0:0,255:1 --instances components"
    data = tu.read_dataset("cells", label_map={0: 0, 255: 1}, instances="components")
    assert as_trained == tu.load_checkpoint(best).evaluate(data).as_dict()
    said, other = measured("--label-map", "0:1,255:0")
    assert said == "masks read as in training: --kind binary --instances components"
    assert other["pixel_error"] == pytest.approx(1 - as_trained["pixel_error"])
    said, plain = measured("--kind", "binary", "--label-map", "0:0,255:1")
    assert "as in training" not in said
    assert plain == {**as_trained, "seg": None, "objects": 0}
    saved = tu.load_checkpoint(best)
    tu.save_checkpoint(tmp_path / "odd.safetensors", replace(saved, reading={**saved.reading, "path": "x", "kind": 3}))
    code, _, err = main("evaluate", tmp_path / "odd.safetensors", "cells")
    assert (code, "kind is 3. Choose one of" in err) == (2, True)
    code, _, err = main("evaluate", best, "cells", "--kind", "binary")
    assert (code, "255" in err) == (2, True)
    for help_text in (main("evaluate", "--help")[1], main("predict", "--help")[1]):
        assert "default as in training" in " ".join(help_text.replace("│", " ").split())


def test_a_format_that_says_what_masks_hold_is_not_told(work, main, tmp_path):
    """A Cell Tracking Challenge set is read as such, whatever the masks of the training were."""
    grey = tu.read_image(work / "cells" / "images" / "phase-000.png")
    for folder in ("01", "01_GT/SEG"):
        (tmp_path / folder).mkdir(parents=True)
    write_image(tmp_path / "01" / "t000.tif", grey)
    cells = tu.data.instances.components(read_mask(work / "cells" / "masks" / "phase-000.png") > 0)
    tu.write_labels(tmp_path / "01_GT" / "SEG" / "man_seg000.tif", cells)
    code, out, err = main("evaluate", work / "runs" / "a" / "best.safetensors", tmp_path)
    assert (code, err) == (0, "")
    assert f"of {cells.max()} annotated objects" in out


def test_small_objects_go_as_in_training(work, main, tmp_path):
    """Without --min-size, `predict` and `evaluate` leave out what the training left out."""
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    image = work / "cells" / "images" / "phase-000.png"
    labels = best.predict(tu.read_image(image))
    sizes = np.bincount(tu.instances_of(labels).ravel())[1:]
    least = int(sizes.max())
    assert (sizes < least).any()
    checkpoint = tmp_path / "strict.safetensors"
    tu.save_checkpoint(checkpoint, replace(best, config={**best.config, "min_size": least}))
    for options, expected in (([], least), (["--min-size", 0], 0)):
        assert main("predict", checkpoint, image, "--out", tmp_path / "out", "--overwrite", *options)[0] == 0
        objects = read_mask(tmp_path / "out" / "phase-000_instances.png")
        np.testing.assert_array_equal(objects, tu.instances_of(labels, expected))


def test_the_budget_is_that_of_a_page(work, main, tmp_path):
    """A stack needs as much memory as one of its pages, and what the message advises is enough."""
    pages = [Image.fromarray(np.full((700, 900), 10 * i, np.uint8)) for i in range(6)]
    pages[0].save(tmp_path / "page.tif")
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    advised = []
    for name in ("page.tif", "stack.tif"):
        command = ["predict", work / "runs" / "a" / "best.safetensors", tmp_path / name, "--out", tmp_path / "out"]
        code, _, err = main(*command, "--max-mem", 20)
        assert code == 2
        advised.append(int(re.search(r"give at least (\d+) MiB", err)[1]))
        code, _, err = main(*command, "--max-mem", advised[-1])
        assert (code, err) == (0, "")
    assert advised[0] == advised[1]
    assert len([*tmp_path.glob("out/*_instances.png")]) == 7


def test_overlays_of_large_images_are_smaller():
    """Every pixel is shown if it may be; every n-th where there are too many, or where they take too much memory."""
    assert cli.predict._every((2400, 1), math.inf) == 1
    assert cli.predict._every((100, 2401), math.inf) == 2
    assert cli.predict._every((100, 100), 100 * 100 * cli.predict.OVERLAY) == 1
    assert cli.predict._every((100, 100), 100 * 100 * cli.predict.OVERLAY - 1) == 2
    assert cli.predict._every((100, 100), -5) == 100
