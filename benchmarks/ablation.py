"""What each part of a U-Net is good for: leave one out, train again, compare. Writes results/ablation.json, docs/ablation.md,
docs/ablation.png, and for lesson 10 tinyunet/course/ablation.json.

    python benchmarks/ablation.py            some minutes on two cores: two processes with one thread each
    python benchmarks/ablation.py --quick    under a minute: two seeds and few steps, to see that it works; writes nothing
    python benchmarks/ablation.py --page     only write page and picture anew, from the results
    python benchmarks/ablation.py --check    exit with 1 if docs/ablation.md is not what the results give

A seed fixes the images, the first weights, the order and the augmentation. All variants of a seed share these, so that their
differences, seed by seed, are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: one thread a process

import numpy as np
from common import RESULTS, save

import tinyunet as tu
from tinyunet import metrics, plot, shapes
from tinyunet.backend import Array
from tinyunet.data.augment import Tile, augment_tile
from tinyunet.data.sample import IGNORE, Sample
from tinyunet.layers import CropConcat
from tinyunet.plot import Interval, t_interval

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ablation.md"
FOR_LESSON = ROOT / "tinyunet" / "course" / "ablation.json"

Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured. All numbers are ours, fixed before any variant but the baseline had been trained."""

    seeds: int = 6
    train: int = 12  # images
    test: int = 8
    size: int = 192  # pixels a side
    cells: int = 14  # an image: crowded, so that many touch
    base: int = 8
    depth: int = 3
    steps: int = 200
    tile: int = 100  # pixels of output; 104 with same padding, whose sizes are multiples of 8
    lr: float = 3e-3
    min_size: int = 40  # predicted objects with fewer pixels are removed
    edge: int = 16  # pixels: how wide the strip along the edge of the image is


FULL = Plan()
QUICK = Plan(seeds=2, train=3, test=2, size=128, cells=7, base=4, depth=2, steps=10, tile=52)


class Variant(NamedTuple):
    """One thing that is left out, or replaced."""

    title: str
    says: str
    weight_map: str = "ronneberger2015"
    padding: str = "valid"
    skips: bool = True
    zeros: bool = False  # beyond the image, in place of its mirror


VARIANTS = {
    "baseline": Variant("baseline", "valid convolutions, skips, mirrored borders, class balance and border term in the loss"),
    "no_border_term": Variant("no border term", "`w = w_c`: classes are balanced, gaps weigh no more than other background",
                              weight_map="balance"),
    "no_weight_map": Variant("no weight map", "`w = 1` at every pixel", weight_map="none"),
    "no_skips": Variant("no skips", "the skip's half of every concatenation is 0, forward and backward; the shapes stay",
                        skips=False),
    "zeros": Variant("zeros for mirror", "beyond the image the network sees 0, its mean grey, in training and in prediction; "
                     "pixels there do not count in the loss", zeros=True),
    "same": Variant("same for valid", "every convolution pads with zeros; the input tile is as small as the output tile",
                    padding="same"),
}  # fmt: skip

BASELINE = VARIANTS["baseline"].title

MEASURES = {
    "iou": "IoU",
    "seg": "SEG",
    "edge_iou": "IoU at the edge",
    "apart": "neighbours told apart",
}


# Variants --------------------------------------------------------------------------------------------------------------


class CutConcat(CropConcat):
    """A concatenation that gets nothing through its skip. The shapes stay, so that all other weights begin as they did."""

    def forward(self, up: Array, skip: Array) -> Array:
        """up, skip -> [up's channels beside zeros]"""
        return super().forward(up, np.zeros_like(skip))

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """dy -> dup, 0"""
        dup, dskip = super().backward(dy)
        return dup, np.zeros_like(dskip)


def network(variant: Variant, plan: Plan, seed: int) -> tu.UNet:
    """The demo's network, smaller: the paper's with few channels, and with batch norm."""
    spec = tu.preset("paper", base=plan.base, depth=plan.depth, norm="batch", dropout=0.0, padding=variant.padding)
    model = tu.UNet(spec, rng=seed)
    if not variant.skips:
        for up in model.up:
            up.concat = CutConcat(up.concat.name)
    return model


def augment_in_zeros(
    image: Array, labels: Array, weights: Array | None, center: tuple[int, int], in_size: tuple[int, int],
    out_size: tuple[int, int], *settings: Any, **std: Any,
) -> Tile:  # fmt: skip
    """`augment_tile` of an image that lies in a wide field of its mean grey, which becomes 0, and is not to be learnt."""
    wide = max(in_size)
    image = np.pad(image - image.mean(), ((wide, wide), (wide, wide), (0, 0))) + image.mean()
    labels = np.pad(labels, wide, constant_values=IGNORE)
    weights = None if weights is None else np.pad(weights, wide)
    row, col = center
    return augment_tile(image.astype(np.float32), labels, weights, (row + wide, col + wide), in_size, out_size, *settings, **std)


def segment(model: tu.UNet, image: Array, zeros: bool) -> Array:
    """Classes of every pixel of an image, with its mirror beyond its edge, or zeros."""
    if not zeros:
        return tu.predict(model, image)
    step = shapes.size_step(model.spec)
    wide = step * (1 + shapes.margin(model.spec) // step)  # whole steps: the grid of the poolings lies as it did
    x = (image - image.mean()) / image.std()
    padded = np.pad(x, ((wide, wide), (wide, wide), (0, 0))).astype(np.float32)
    return tu.predict(model, padded, tu.Normalization("none"))[wide:-wide, wide:-wide]


# Measures --------------------------------------------------------------------------------------------------------------


def edge_strip(shape: tuple[int, int], width: int) -> Array:
    """(H, W) bool: True within `width` pixels of the edge of the image"""
    strip = np.ones(shape, bool)
    strip[width : shape[0] - width, width : shape[1] - width] = False
    return strip


def neighbours(ids: Array) -> set[tuple[int, int]]:
    """Pairs (a, b), a < b, of cells of which some pixel of one lies beside or below one of the other: (H, W) ids -> pairs"""
    pairs = set()
    for one, two in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        meet = (one != two) & (one > 0) & (two > 0)
        pairs |= {(int(min(a, b)), int(max(a, b))) for a, b in zip(one[meet], two[meet], strict=True)}
    return pairs


def told_apart(objects: Array, truth: Array) -> tuple[int, int]:
    """How many pairs of cells that touch were found as two objects, and how many such pairs there are.

    A cell's object is the one that covers most of it; a pair of which one has none, or both the same, is not told apart.
    """
    pairs = neighbours(truth)
    found = {}
    for cell in {cell for pair in pairs for cell in pair}:
        covered = np.bincount(objects[truth == cell])
        found[cell] = int(covered[1:].argmax()) + 1 if covered[1:].any() else 0
    return sum(bool(found[a] and found[b] and found[a] != found[b]) for a, b in pairs), len(pairs)


def score(predictions: Sequence[Array], samples: Sequence[Sample], plan: Plan) -> dict[str, float]:
    """The measures of all images together."""
    confusion, at_edge = np.zeros((2, 2, 2), np.int64)
    segs, apart, pairs = [], 0, 0
    for labels, sample in zip(predictions, samples, strict=True):
        strip = edge_strip(labels.shape, plan.edge)
        confusion += metrics.confusion_matrix(labels, sample.labels, 2)
        at_edge += metrics.confusion_matrix(labels[strip], sample.labels[strip], 2)
        objects = tu.instances_of(labels, plan.min_size)
        segs.append(metrics.seg_scores(objects, sample.instances))
        counts = told_apart(objects, sample.instances)
        apart, pairs = apart + counts[0], pairs + counts[1]
    values = (metrics.iou(confusion)[1], np.concatenate(segs).mean(), metrics.iou(at_edge)[1], apart / pairs if pairs else np.nan)
    return {name: float(value) for name, value in zip(MEASURES, values, strict=True)}


def train_and_score(name: str, seed: int, plan: Plan) -> dict[str, float]:
    """One variant, one seed: draw images, train, measure on those that were held out."""
    variant, began = VARIANTS[name], time.perf_counter()
    data = tu.synthetic("phase", plan.train + plan.test, plan.size, np.random.default_rng((seed, 0)), cells=plan.cells)
    model = network(variant, plan, seed)
    config = tu.TrainConfig(steps=plan.steps, tile=plan.tile, lr=plan.lr, weight_map=variant.weight_map, seed=seed)
    with patch("tinyunet.train.augment_tile", augment_in_zeros if variant.zeros else augment_tile):
        losses = [record.loss for record in tu.fit(model, data[: plan.train], (), config)]
    test = data[plan.train :]
    scores = score([segment(model, sample.image, variant.zeros) for sample in test], test, plan)
    return {**scores, "last_loss": losses[-1], "seconds": round(time.perf_counter() - began, 1)}


def measure(plan: Plan, jobs: int) -> dict[str, Any]:
    """All variants with all seeds."""
    tasks = list(product(range(plan.seeds), VARIANTS))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with ProcessPoolExecutor(jobs) as pool:
        done = pool.map(train_and_score, *zip(*((name, seed, plan) for seed, name in tasks), strict=True))
        for (seed, name), result in zip(tasks, done, strict=True):
            runs[name].append(result)
            print(f"seed {seed}, {name}: " + ", ".join(f"{key} {result[key]:.3f}" for key in MEASURES), flush=True)
    return {"plan": asdict(plan), "runs": runs}


# Page and picture ------------------------------------------------------------------------------------------------------

TEXT = """# What each part is good for

One part of the network or of its training is left out or replaced, all else stays, and it is trained again. Written by
`benchmarks/ablation.py` from `benchmarks/results/ablation.json`; lesson 10 of the course goes through it.

| variant | what it is |
| --- | --- |
{variants}

**Images**: synthetic phase contrast, {size}x{size} pixels with about {cells} cells, many of which touch; {train} to train on
and {test} held out, drawn anew for every seed. **Network**: base {base}, depth {depth}, batch norm. **Training**: {steps} steps
of one tile of {tile} pixels, Adam with learning rate {lr:g}, elastic and other augmentation. Between touching cells a gap of
2 pixels is opened in the training labels, for all variants alike. **{seeds} seeds**. All settings were fixed before any variant
but the baseline had been trained; that one was tried twice, on other images, for its time and to see that it learns. They are
ours and small: the paper's network, trained for long on real images, may behave otherwise.

**Measures**, on the held-out images, in which touching cells have no gap: *IoU* of the cells' pixels. *SEG*, the mean over true
cells of the IoU with the object that covers more than half of it, 0 if none does. *IoU at the edge*: that of the pixels within
{edge} pixels of the edge of the image. *Neighbours told apart*: of all pairs of cells that touch, the share that became two
objects. Predicted objects below {min_size} pixels were removed.

![For each variant the difference from the baseline in four measures, one dot a seed, with mean and interval](ablation.png)

## Means

Mean over {seeds} seeds, and a 95 % interval by Student's t.

{means}

## Differences from the baseline

Seed by seed, so that what is hard about a seed's images cancels; mean and 95 % interval of the {seeds} differences. **Bold**
where the interval does not hold 0. There are {count} intervals, of which about one in twenty would be bold if nothing mattered.

{differences}

{found}

Measured with NumPy {numpy} on {processor}, {date}.
"""


def values_of(results: dict[str, Any]) -> Values:
    """As figure and lesson want them: title of a variant -> title of a measure -> one number a seed."""
    return {
        variant.title: {title: [run[key] for run in results["runs"][name]] for key, title in MEASURES.items()}
        for name, variant in VARIANTS.items()
    }


def difference(values: Values, variant: str, measure: str) -> Interval:
    """Variant less baseline, seed by seed."""
    return t_interval(np.subtract(values[variant][measure], values[BASELINE][measure]))


def shown(value: Interval, sign: bool = False) -> str:
    """ "0.812 ± 0.013", with a sign "+0.012 ± 0.009" """
    return f"{value.mean:{'+' if sign else ''}.3f} ± {value.half:.3f}"


def table(rows: dict[str, list[str]]) -> str:
    """Rows of cells under the measures' names, in Markdown."""
    lines = [f"| variant | {' | '.join(MEASURES.values())} |", "| --- |" + " --- |" * len(MEASURES)]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def page(results: dict[str, Any]) -> str:
    """docs/ablation.md"""
    values = values_of(results)
    others = [name for name in values if name != BASELINE]
    differences = {name: [difference(values, name, measure) for measure in MEASURES.values()] for name in others}
    return TEXT.format(
        **results["plan"],
        **{key: results["machine"][key] for key in ("numpy", "processor", "date")},
        variants="\n".join(f"| {v.title} | {v.says} |" for v in VARIANTS.values()),
        means=table({name: [shown(t_interval(one)) for one in found.values()] for name, found in values.items()}),
        differences=table({
            name: [f"**{shown(d, True)}**" if d.excludes(0) else shown(d, True) for d in found]
            for name, found in differences.items()
        }),
        count=len(others) * len(MEASURES),
        found="\n".join(f"- {sentence}" for sentence in findings(values)),
    )  # fmt: skip


def findings(values: Values) -> list[str]:
    """Of each variant, in words: in which measures it differs from the baseline."""
    sentences = []
    for name in values:
        if name == BASELINE:
            continue
        found = {measure: difference(values, name, measure) for measure in MEASURES.values()}
        clear = [f"{measure} {'lower' if d.mean < 0 else 'higher'} by {abs(d.mean):.3f}" for measure, d in found.items()
                 if d.excludes(0)]  # fmt: skip
        sentences.append(f"{name[0].upper()}{name[1:]}: " + (", ".join(clear) or "no difference seen") + ".")
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps; writes nothing")
    parser.add_argument("--page", action="store_true", help="only write page and picture anew")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not what the results give")
    args = parser.parse_args()
    if args.quick:
        print("\n".join(findings(values_of(measure(QUICK, args.jobs)))))
        return
    if not (args.page or args.check):
        save("ablation", measure(FULL, args.jobs))
    results = json.loads((RESULTS / "ablation.json").read_text())
    values = values_of(results)
    written = {PAGE: page(results), FOR_LESSON: json.dumps(values, indent=1) + "\n"}
    for path, text in written.items():
        if args.check and path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is not what benchmarks/results/ablation.json gives. Run benchmarks/ablation.py --page.")
        if not args.check:
            path.write_text(text, encoding="utf-8")
    if not args.check:
        plot.save(plot.ablation(values), PAGE.with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
