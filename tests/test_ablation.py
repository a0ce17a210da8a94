"""benchmarks/ablation.py: what it leaves out is left out, what it measures is what it says, and its page holds the results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.bugs import plant
from tinyunet.data.augment import Augment, augment_tile
from tinyunet.data.sample import IGNORE, Sample

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation  # noqa: E402

SMALL = ablation.Plan(seeds=2, train=1, test=1, size=64, cells=4, base=2, depth=1, steps=1, tile=20, min_size=0, edge=2)

# What is left out ----------------------------------------------------------------------------------------------------


def test_without_skips_nothing_passes_through_them(rng):
    """The up path's half is as it was, the skip's half is 0; so is the gradient that goes back through it."""
    up, skip = (rng.standard_normal(shape) for shape in ((1, 4, 6, 2), (1, 8, 8, 3)))
    layer = ablation.CutConcat("up.0.concat")
    y = layer.forward(up, skip)
    assert (y != 0).any(axis=(0, 1, 2)).sum() == 2
    whole = ablation.CropConcat("up.0.concat").forward(up, skip)
    assert (y[whole == y] == whole[whole == y]).all()
    assert (np.sort(np.abs(y).sum(axis=(0, 1, 2)))[-2:] == np.sort(np.abs(up).sum(axis=(0, 1, 2)))).all()
    dup, dskip = layer.backward(np.ones_like(y))
    assert (dup == 1).all()
    assert dskip.shape == skip.shape
    assert (dskip == 0).all()


def test_variants_of_a_seed_begin_alike():
    """All have the same first weights; another seed has others."""
    states = [ablation.network(v, ablation.FULL, 3).state() for v in ablation.VARIANTS.values()]
    for state in states[1:]:
        assert all((state[key] == array).all() for key, array in states[0].items())
    other = ablation.network(ablation.VARIANTS["baseline"], ablation.FULL, 4).state()
    assert (other["down.0.conv1.w"] != states[0]["down.0.conv1.w"]).any()


def test_every_variant_changes_one_thing():
    """Against the baseline one field differs, beside its words."""
    first, *others = (v._asdict() for v in ablation.VARIANTS.values())
    for other in others:
        assert sum(first[key] != other[key] for key in first if key not in ("title", "says")) == 1


def test_only_without_skips_is_the_concatenation_cut():
    """On every level."""
    for name, variant in ablation.VARIANTS.items():
        cut = [isinstance(up.concat, ablation.CutConcat) for up in ablation.network(variant, ablation.FULL, 0).up]
        assert cut == [name == "no_skips"] * ablation.FULL.depth


def test_a_tile_inside_is_the_same_in_zeros(rng):
    """Where the mirror is not needed, an image in a field of zeros gives the tile that it gives without."""
    image = rng.integers(0, 255, (40, 44, 1)).astype(np.uint8)
    labels, weights = rng.integers(0, 2, (40, 44)), rng.random((40, 44), dtype=np.float32)
    arguments = (image, labels, weights, (21, 19), (24, 24), (12, 12), Augment.none())
    mirrored, zeros = (f(*arguments, np.random.default_rng(1), std=1.0) for f in (augment_tile, ablation.augment_in_zeros))
    for a, b in zip(mirrored, zeros, strict=True):
        assert np.allclose(a, b, atol=1e-4)


def test_beyond_the_image_are_zeros_that_nobody_learns(rng):
    """Outside, the image is its mean, the labels are IGNORE, and the weights 0, given or not."""
    image = rng.integers(0, 255, (40, 44, 1)).astype(np.uint8)
    labels = np.ones((40, 44), int)
    for weights in (None, np.full((40, 44), 2, np.float32)):
        arguments = (image, labels, weights, (3, 30), (24, 24), (12, 12), Augment.none())
        tile = ablation.augment_in_zeros(*arguments, np.random.default_rng(1), std=1.0)
        assert np.allclose(tile.image[:9], image.mean(), atol=1e-4)  # rows -9 to -1
        assert np.allclose(tile.image[9:, :, 0], image[:15, 18:42, 0], atol=1e-4)
        assert (tile.labels == np.repeat([IGNORE, 1], [3, 9])[:, None]).all()  # rows -3 to 8
        assert (tile.weights == np.repeat([0, 2 if weights is not None else 1], [3, 9])[:, None]).all()


def test_prediction_in_zeros_is_that_of_the_bug():
    """It is what tinyunet's own prediction gives with zeros planted in place of the mirror, and nothing like the mirror."""
    image = tu.synthetic("phase", 1, (90, 77), np.random.default_rng(0))[0].image
    model = ablation.network(ablation.VARIANTS["zeros"], ablation.FULL, 0)
    for name, array in model.params().items():
        if name.endswith((".b", ".beta")):  # without them a network does not notice by how much its input is scaled
            array += np.random.default_rng(1).normal(0, 0.5, array.shape)
    found = ablation.segment(model, image, zeros=True)
    with plant("zeros_beyond_the_image"):
        assert (found == tu.predict(model, image)).all()
    mirrored = ablation.segment(model, image, zeros=False)
    assert (mirrored == tu.predict(model, image)).all()
    assert (found != mirrored).any()


# What is measured ----------------------------------------------------------------------------------------------------

CELLS = np.array([
    [1, 1, 2, 2, 0, 5],
    [1, 1, 2, 2, 0, 5],
    [3, 3, 0, 0, 4, 0],
])  # fmt: skip


def test_neighbours_share_an_edge():
    """Side by side or one below the other; a corner or a gap is not enough."""
    assert ablation.neighbours(CELLS) == {(1, 2), (1, 3)}


@pytest.mark.parametrize(
    ("objects", "apart"),
    [
        (CELLS, 2),
        ((CELLS > 0).astype(int), 0),  # all are one
        (np.where(CELLS == 2, 0, CELLS), 1),  # 2 was not found
        (np.where(CELLS == 3, 1, CELLS), 1),  # 3 flowed into 1
        (np.zeros_like(CELLS), 0),
    ],
    ids=["right", "one", "missed", "merged", "nothing"],
)
def test_told_apart(objects, apart):
    """Two of a pair count if each was found, and as another object than its neighbour."""
    assert ablation.told_apart(objects, CELLS) == (apart, 2)


def test_a_cell_belongs_to_the_object_that_covers_most_of_it():
    """A sliver of another object does not part two cells."""
    objects = np.ones_like(CELLS)
    objects[2, 0] = 7
    objects[0, 0] = 8
    assert ablation.told_apart(objects, np.where(CELLS < 3, CELLS, 0)) == (0, 1)


def test_the_strip_lies_along_the_edge():
    """On all four sides, that wide."""
    strip = ablation.edge_strip((6, 9), 2)
    assert not strip[2:4, 2:7].any()
    assert strip.sum() == 6 * 9 - 2 * 5


def test_scores_are_those_of_all_images_together():
    """IoU of all pixels, of the strip alone, SEG over all cells, and the share of all pairs."""
    truth = np.kron(CELLS, np.ones((4, 4), int)).astype(np.int32)
    sample = Sample("a", np.zeros((*truth.shape, 1), np.uint8), (truth > 0).astype(np.int32), truth)
    right = sample.labels.astype(np.uint8)
    rim = np.where(ablation.edge_strip(truth.shape, 2), 0, right)
    scores = ablation.score([right, rim], [sample, sample], SMALL)
    strip = ablation.edge_strip(truth.shape, 2)
    assert scores["iou"] == pytest.approx((right.sum() + rim.sum()) / (2 * right.sum()))
    assert scores["edge_iou"] == pytest.approx(right[strip].sum() / (2 * right[strip].sum()))
    assert scores["apart"] == 0  # the three that touch are one patch, twice
    one = [tu.metrics.seg_scores(tu.instances_of(labels), truth) for labels in (right, rim)]
    assert scores["seg"] == pytest.approx(np.concatenate(one).mean())


def test_a_run_can_be_repeated():
    """Every variant runs; the same seed gives the same numbers."""
    for name in ablation.VARIANTS:
        first, again = (ablation.train_and_score(name, 1, SMALL) for _ in range(2))
        assert set(first) >= set(ablation.MEASURES)
        assert {**first, "seconds": 0} == {**again, "seconds": 0}


# The page ------------------------------------------------------------------------------------------------------------


def runs(**by_variant):
    """Results with one value for all measures: variant -> one number a seed; others are like the baseline."""
    return {"runs": {name: [dict.fromkeys(ablation.MEASURES, v) for v in by_variant.get(name, by_variant["baseline"])]
                     for name in ablation.VARIANTS}}  # fmt: skip


def test_findings_name_what_is_clear():
    """A difference whose interval does not hold 0 is told with its direction; the others are not."""
    found = runs(baseline=[0.5, 0.6, 0.7], no_skips=[0.4, 0.51, 0.59], zeros=[0.6, 0.5, 0.7], same=[0.6, 0.71, 0.79])
    by_variant = dict(sentence.split(": ", 1) for sentence in ablation.findings(ablation.values_of(found)))
    assert by_variant["No skips"].startswith("IoU lower by 0.100, SEG lower by 0.100")
    assert by_variant["Zeros for mirror"] == "no difference seen."
    assert by_variant["Same for valid"].startswith("IoU higher by 0.100")


def test_page_and_lesson_hold_what_was_measured(monkeypatch, tmp_path):
    """Both are what benchmarks/results/ablation.json gives; another page is told."""
    monkeypatch.setattr(sys, "argv", ["ablation", "--check"])
    ablation.main()
    results = json.loads((ROOT / "benchmarks" / "results" / "ablation.json").read_text(encoding="utf-8"))
    assert results["plan"] == ablation.asdict(ablation.FULL)
    assert all(len(found) == ablation.FULL.seeds >= 5 for found in results["runs"].values())
    changed = tmp_path / "ablation.md"
    changed.write_text(ablation.PAGE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(ablation, "PAGE", changed)
    with pytest.raises(SystemExit, match=r"is not what benchmarks/results/ablation.json gives\. Run .* --page"):
        ablation.main()
