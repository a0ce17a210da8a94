"""What `tinyunet demo` does: draw cells, train on them, segment images that the network has not seen, draw the result.

It goes the way that a user's own images go: the drawn images are written to files, read back, and trained on with settings
that lie in a TOML file beside the checkpoints. So everything in the folder is also an example of how to lay out a folder.

    data/images, data/masks     to train on
    val/...                     to choose the best step by
    test/...                    seen once, at the end; test/images/large.png is larger than a tile
    run/                        config.toml, best.safetensors, last.safetensors, log.csv
    results.png, curves.png     to look at
    tinyunet-demo.json          the numbers; and the sign that the demo made this folder and may replace it

Nothing is printed here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyunet import plot, shapes
from tinyunet.checkpoint import load_checkpoint
from tinyunet.config import DataConfig, NetworkConfig, RunConfig, write_config
from tinyunet.data.images import write_image, write_labels
from tinyunet.data.readers import read_folder
from tinyunet.data.sample import Dataset, Sample
from tinyunet.data.synthetic import KINDS, synthetic, synthetic_image
from tinyunet.errors import ConfigError, DataError
from tinyunet.files import atomic_write
from tinyunet.inference import instances_of, predict_proba
from tinyunet.metrics import Scores, evaluate_pair, total
from tinyunet.spec import UNetSpec
from tinyunet.train import StepRecord, fit, prepare
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

SIGN = "tinyunet-demo.json"
"""The file that marks a folder as the demo's own."""

@dataclass(frozen=True)
class Plan:
    """How much the demonstration does. Two minutes on two cores, and IoU well above 0.85, decided all numbers.

    The network is the paper's, smaller and with batch norm, which the paper does not have: after as many seconds of training
    the IoU is 0.05 to 0.08 higher with it, and depends less on the seed. With base 16 it is no higher in that time.
    """

    images: int = 24
    val: int = 3
    test: int = 6
    size: int = 256
    large: tuple[int, int] = (512, 640)
    tile: int = 316  # the network's input in pixels for the large image, which takes several
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(base=8, depth=3, norm="batch", dropout=0.0))
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=360, batch=2, tile=132, lr=3e-3, validate_every=60, min_size=40)
    )


FULL = Plan()
QUICK = Plan(
    test=4, large=(384, 512),
    train=TrainConfig(steps=140, batch=1, tile=132, lr=3e-3, validate_every=35, min_size=40),
)  # fmt: skip


class Outcome(NamedTuple):
    """What came out."""

    scores: Scores  # of the test images, without the large one
    large: Scores  # of the large image
    large_size: tuple[int, int]
    tiles: int  # that the large image took
    pictures: tuple[Path, ...]


class Demo:
    """One demonstration in one folder: `draw`, then the records of `train`, then `finish`.

    Raises ConfigError for an unknown kind of cells, and for a folder that holds something that no demo made.
    """

    def __init__(self, folder: str | Path, kind: str = "phase", seed: int = 0, plan: Plan = FULL) -> None:
        if kind not in KINDS:
            raise ConfigError(f"demo: there are no {kind!r} cells. Choose one of: {', '.join(KINDS)}.")
        self.folder, self.kind, self.seed, self.plan = Path(folder), kind, seed, plan
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"demo: {self.folder} is a file. Choose another folder with --out.")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / SIGN).is_file():
            raise ConfigError(f"demo: {self.folder} holds files that the demo did not make. Choose another folder with --out.")

    @property
    def best(self) -> Path:
        """The checkpoint to use."""
        return self.folder / "run" / "best.safetensors"

    def draw(self) -> tuple[int, int, int]:
        """Make the images, new ones in place of those of an earlier demo -> how many to train on, to validate on, to test on"""
        for name in ("data", "val", "test", "run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("results.png", "curves.png"):
            (self.folder / name).unlink(missing_ok=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"demo: {self.folder} cannot be made ({error.strerror}). Choose another with --out.") from error
        self._sign({})
        plan, rng = self.plan, np.random.default_rng(self.seed)
        drawn = synthetic(self.kind, n=plan.images + plan.val + plan.test, size=plan.size, rng=rng)
        large = synthetic_image(self.kind, plan.large, rng, name="large")
        first, last = plan.images, plan.images + plan.val
        _write(self.folder / "data", drawn[:first])
        _write(self.folder / "val", drawn[first:last])
        _write(self.folder / "test", [*drawn[last:], large])
        data, val = (str(self.folder / name) for name in ("data", "val"))
        images = DataConfig(data, kind="instances", class_names=drawn.class_names, val_data=val)
        self.config = RunConfig(images, plan.network, replace(plan.train, seed=self.seed))
        return plan.images, plan.val, plan.test + 1

    @property
    def spec(self) -> UNetSpec:
        """The network."""
        return self.plan.network.spec(channels=1, classes=2)

    def train(self) -> Iterator[StepRecord]:
        """The records of the training steps, as they are made."""
        train, val = self.config.data.read_split()
        run = self.folder / "run"
        run.mkdir()
        write_config(run / "config.toml", RunConfig(self.config.data, self.config.network.filled(self.spec), self.config.train))
        yield from fit(UNet(self.spec, rng=self.seed), train, val, self.config.train, out=run)

    def finish(self, progress: Callable[[int, int], None] | None = None) -> Outcome:
        """Segment the test images, measure, draw. Calls progress with the number of images done and of all."""
        test = read_folder(self.folder / "test", kind="instances", class_names=self.config.data.class_names)
        trained = load_checkpoint(self.best)
        rows, scores = [], []
        weighed = prepare(test, self.config.train, trained.normalization)
        for i, (sample, ready) in enumerate(zip(test, weighed, strict=True)):
            tile = self.plan.tile if sample.name == "large" else None
            proba = predict_proba(trained.model, sample.image, trained.normalization, tile_in=tile)
            labels = proba.argmax(-1).astype(np.uint8)
            objects = instances_of(labels, self.config.train.min_size)
            one = evaluate_pair(labels, sample.labels, sample.instances, instances=objects, class_names=test.class_names)
            assert sample.instances is not None  # drawn cells are counted
            scores.append(one)
            rows.append(
                plot.Row(sample.image, sample.instances, proba[..., 1], objects, ready.weights, "", one.mean_iou, one.seg)
            )
            if progress:
                progress(i + 1, len(test))
        large = next(i for i, sample in enumerate(test) if sample.name == "large")
        others = sorted((i for i in range(len(test)) if i != large), key=lambda i: scores[i].mean_iou)
        worst, best = others[0], others[-1]
        outcome = Outcome(
            scores=total(scores[i] for i in others),
            large=scores[large],
            large_size=test[large].labels.shape,
            tiles=int(np.prod([len(shapes.tile_spans(self.spec, n, self.plan.tile)) for n in test[large].labels.shape])),
            pictures=(self.folder / "results.png", self.folder / "curves.png"),
        )
        shown = [rows[best]._replace(name="best"), rows[worst]._replace(name="worst"), rows[large]._replace(name="large")]
        iou, seg = outcome.scores.mean_iou, outcome.scores.seg
        title = f"{len(others)} images that the network has not seen: IoU {iou:.3f}, SEG {seg:.3f}; and a large one"
        plot.save(plot.results(shown, title), outcome.pictures[0])
        plot.save(plot.training_curves(plot.read_log(self.folder / "run" / "log.csv")), outcome.pictures[1])
        self._sign({"test": outcome.scores.as_dict(), "large": outcome.large.as_dict()})
        return outcome

    def _sign(self, numbers: dict[str, object]) -> None:
        about = {"made by": "tinyunet demo", "kind": self.kind, "seed": self.seed, "steps": self.plan.train.steps, **numbers}
        with atomic_write(self.folder / SIGN) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write(folder: Path, samples: list[Sample] | Dataset) -> None:
    """images/NAME.png in 8 bits, masks/NAME.png with a number for every object."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for sample in samples:
        assert sample.instances is not None  # drawn cells are counted
        write_image(folder / "images" / f"{sample.name}.png", sample.image)
        write_labels(folder / "masks" / f"{sample.name}.png", sample.instances)
