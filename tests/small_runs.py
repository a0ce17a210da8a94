"""A small network, small images and short runs, for all tests of training."""

import csv
from pathlib import Path

import numpy as np

import tinyunet
from tinyunet.data.sample import Dataset, Sample
from tinyunet.spec import UNetSpec
from tinyunet.train import fit
from tinyunet.train_config import TrainConfig

ROOT = Path(tinyunet.__file__).parents[1]
SMALL = UNetSpec(base=2, depth=1)
QUICK = TrainConfig(steps=6, tile=8, batch=2, lr=1e-2, warmup=2, validate_every=2)


def cells(n=4, height=22, width=26, classes=2, seed=0, dtype="uint8"):
    """Images with two bright cells that touch and one by itself, in noise; with three classes that one is of the third."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        instances = np.zeros((height, width), np.int32)
        instances[3:11, 3:9], instances[3:11, 9:15], instances[14:20, 4 + i % 4 : 11 + i % 4] = 1, 2, 3
        labels = np.where((instances == 3) & (classes == 3), 2, instances > 0).astype(np.int32)
        image = (rng.normal(60, 10, (height, width, 1)) + 60 * labels[..., None]).clip(0, 255).astype(dtype)
        samples.append(Sample(f"image {i}", image, labels, instances))
    return Dataset(tuple(samples), ("background", "cell", "other")[:classes])


def run(model, data, config=QUICK, stop=None, **options):
    """Train on all images but the last, validate on that one; leave the loop after step `stop`. -> the records"""
    records = []
    for record in fit(model, data[:-1], data[-1:], config, **options):
        records.append(record)
        if record.step == stop:
            break
    return records


def files(folder):
    """What the two checkpoints of a run contain, and its log without times."""
    with (folder / "log.csv").open(newline="") as file:
        rows = [row[:3] + row[5:] for row in csv.reader(file)]
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in ("last", "best")} | {"log": rows}


def files_left(folder):
    """Every file in a folder with its bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def but(config, **changes):
    """The same settings with some changed."""
    return TrainConfig.from_dict(config.to_dict() | changes)


def changed(sample, **changes):
    """A sample with some fields changed."""
    return Sample(**{"name": sample.name, "image": sample.image, "labels": sample.labels} | changes)
