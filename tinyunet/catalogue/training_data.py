"""Properties of what happens to images before training: how they are split, and how they are normalised."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyunet import checkpoint, train
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.catalogue.training import SAME, draw_data, run, settings
from tinyunet.data import splits
from tinyunet.data.normalize import HIGH, LOW, MODES, Mode, Normalization
from tinyunet.data.sample import Dataset, Sample
from tinyunet.errors import ConfigError
from tinyunet.unet import UNet

# Splits --------------------------------------------------------------------------------------------------------------


def draw_split(draw: Draw) -> tuple[Dataset, float, int]:
    """Images that are only names, a share, and how many of them that is."""
    n, percent = draw.integer(2, 30), draw.integer(1, 99)
    blank = np.zeros((1, 1, 1), np.uint8)
    data = Dataset(tuple(Sample(str(i), blank, blank[..., 0].astype(np.int32)) for i in range(n)))
    return data, percent / 100, min(max(round(percent / 100 * n), 1), n - 1)


def names(data: Dataset) -> list[int]:
    """Which images these are."""
    return [int(sample.name) for sample in data]


@holds("splits", "reference")
def a_block_split_cuts_the_end_off(_: None, draw: Draw) -> None:
    """The last round(fraction n) images validate, at least one and not all; no image is in both parts."""
    data, fraction, m = draw_split(draw)
    train_part, val_part = splits.block_split(data, fraction)
    n = len(data)
    require(names(train_part) == list(range(n - m)), f"to train on are {names(train_part)}, expected the first {n - m} of {n}")
    require(names(val_part) == list(range(n - m, n)), f"to validate on are {names(val_part)}, expected the last {m} of {n}")


@holds("splits", "invariance")
def a_random_split_parts_all_images(_: None, draw: Draw) -> None:
    """Every image is in one part and one only, each part keeps its order, and round(fraction n) validate."""
    data, fraction, m = draw_split(draw)
    train_part, val_part = (names(part) for part in splits.random_split(data, fraction, draw.rng))
    require(sorted(train_part + val_part) == list(range(len(data))), f"{train_part} and {val_part} are not all images, each once")
    require(len(val_part) == m, f"{len(val_part)} images validate, expected {m}")
    require(train_part == sorted(train_part) and val_part == sorted(val_part), "a part is not in the order of the data set")


@holds("splits", "contract")
def a_random_split_follows_its_seed(_: None, draw: Draw) -> None:
    """The same seed gives the same split, and over many seeds every image validates about equally often."""
    n, seed = 6, draw.integer(0, 10**6)
    blank = np.zeros((1, 1, 1), np.uint8)
    data = Dataset(tuple(Sample(str(i), blank, blank[..., 0].astype(np.int32)) for i in range(n)))
    drawn = [names(splits.random_split(data, 0.5, np.random.default_rng(s))[1]) for s in (seed, seed)]
    require(drawn[0] == drawn[1], f"the same seed drew {drawn[0]} and {drawn[1]}")
    counts = Counter(i for _s in range(200) for i in names(splits.random_split(data, 0.5, draw.rng)[1]))
    far = max(abs(counts[i] - 100) for i in range(n))
    require(far < 50, f"of 200 splits into halves an image validates in {100 + far} or {100 - far}, not about 100")  # 7 sigma


@holds("splits", "contract")
def impossible_shares_are_refused(_: None, draw: Draw) -> None:
    """A share of 0, 1, more or NaN is refused with its value."""
    data, _fraction, _m = draw_split(draw)
    wrong = draw.choice((0.0, 1.0, 1.5, -0.2, math.nan))
    for rng in (None, draw.rng):
        try:
            _parts = splits.random_split(data, wrong, rng) if rng else splits.block_split(data, wrong)
        except ConfigError as refusal:
            require(str(wrong) in str(refusal), f"the refusal of {wrong} must name it: {refusal}")
        else:
            require(False, f"a share of {wrong} was taken")


# Normalisation -------------------------------------------------------------------------------------------------------


OF_AN_IMAGE: tuple[Mode, ...] = ("image", "percentile")
"""Modes whose statistics are those of the image itself."""


def draw_image(draw: Draw) -> Array:
    """An image whose channels differ in mean and contrast."""
    c = draw.integer(1, 3)
    return draw.rng.normal(draw.rng.uniform(-50, 50, c), draw.rng.uniform(1, 20, c), (draw.integer(2, 9), draw.integer(2, 9), c))


def normalised(normalization: Normalization, image: Array) -> Array:
    """(x - mean) / std"""
    mean, std = normalization.stats(image)
    return (image - mean) / std


@holds("normalization", "convention")
def an_image_gets_mean_0_and_deviation_1(_: None, draw: Draw) -> None:
    """Mode "image" takes mean and standard deviation of each channel of each image by itself."""
    image = draw_image(draw)
    x = normalised(Normalization("image"), image)
    require_close("the mean", x.mean((0, 1)) + 1, np.ones(x.shape[-1]), rtol=1e-4)
    require_close("the deviation", x.std((0, 1)), np.ones(x.shape[-1]), rtol=1e-4)


@holds("normalization", "invariance")
def brightness_and_contrast_do_not_matter(_: None, draw: Draw) -> None:
    """Modes "image" and "percentile" give a x + b, a > 0, the values of x; "none" gives x itself."""
    image, a, b = draw_image(draw), draw.integer(1, 20) / 4, float(draw.integer(-50, 50))
    for mode in OF_AN_IMAGE:
        one, two = (normalised(Normalization(mode), x) for x in (image, a * image + b))
        require_close(f"the normalised image, mode {mode}", two, one, rtol=1e-3)
    require_close("the image, mode none", normalised(Normalization("none"), image), image, rtol=0)


@holds("normalization", "reference")
def percentiles_are_counted(_: None, draw: Draw) -> None:
    """Mode "percentile" maps the 1st and the 99.8th percentile of each channel to -2 and 2."""
    image = draw_image(draw)
    x = normalised(Normalization("percentile"), image)
    for share, value in ((LOW, -2.0), (HIGH, 2.0)):
        ordered = np.sort(x.reshape(-1, x.shape[-1]), axis=0)
        at = share / 100 * (len(ordered) - 1)
        i = math.floor(at)
        between = ordered[i] + (at - i) * (ordered[min(i + 1, len(ordered) - 1)] - ordered[i])
        require_close(f"the {share:g} % percentile", between, np.full(x.shape[-1], value), rtol=1e-4)


@holds("normalization", "reference")
def a_data_set_is_one_heap_of_pixels(_: None, draw: Draw) -> None:
    """Mode "dataset" takes mean and deviation over all pixels of all training images, not the mean of the images' means."""
    c = draw.integer(1, 3)
    images = [draw.rng.normal(draw.integer(-20, 20), 1 + i, (draw.integer(1, 6), draw.integer(2, 6), c)) for i in range(3)]
    fitted = Normalization.fit("dataset", images)
    pixels = np.concatenate([image.reshape(-1, c) for image in images])
    require_close("the mean", fitted.mean, pixels.mean(0), rtol=1e-9)
    require_close("the deviation", fitted.std, pixels.std(0), rtol=1e-9)
    mean, std = fitted.stats(draw.rng.normal(500, 1, (2, 2, c)))
    require_close("the mean for another image", mean, fitted.mean, rtol=1e-6)
    require_close("the deviation for another image", std, fitted.std, rtol=1e-6)


@holds("normalization", "convention")
def only_training_images_count(_: None, draw: Draw) -> None:
    """The statistics in a checkpoint are those of the training images, whatever the validation's look like."""
    data = draw_data(draw)
    bright = Sample("bright", data[2].image // 4 + 190, data[2].labels, data[2].instances)
    with tempfile.TemporaryDirectory() as folder:
        run(SAME, Dataset((data[0], data[1], bright)), settings(steps=1, normalization="dataset"), out=folder)
        stored = checkpoint.load_checkpoint(Path(folder) / "last.safetensors").normalization
    pixels = np.concatenate([data[i].image.ravel() for i in range(2)]).astype(np.float64)
    require_close("the stored mean", stored.mean, [pixels.mean()], rtol=1e-9)
    require_close("the stored deviation", stored.std, [pixels.std()], rtol=1e-9)


@holds("normalization", "convention")
def a_constant_image_becomes_zero(_: None, draw: Draw) -> None:
    """A channel without contrast is divided by 1, so that it becomes 0 and not NaN or noise."""
    value = draw.choice((0.0, 0.1, 255.0, -3.7, 1e6))
    image = np.full((draw.integer(1, 9), draw.integer(1, 9), 1), value)
    for mode in OF_AN_IMAGE:
        x = normalised(Normalization(mode), image)
        require(float(np.abs(x).max()) <= 1e-6 * max(1.0, abs(value)), f"{value:g} everywhere becomes {np.abs(x).max():g}, not 0")


@holds("normalization", "contract")
def prediction_sees_what_training_saw(_: None, draw: Draw) -> None:
    """Written to a checkpoint and read back, a normalisation treats an image as in training, to the last bit."""
    data, mode = draw_data(draw), draw.choice(MODES)
    normalization = Normalization.fit(mode, [sample.image for sample in data])
    seen = []

    class Watched(UNet):
        def forward(self, x: Array) -> Array:
            seen.append(x.copy())
            return super().forward(x)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        checkpoint.save_checkpoint(path, checkpoint.Checkpoint(UNet(SAME), normalization))
        again = checkpoint.load_checkpoint(path)
    again = replace(again, model=Watched(SAME))
    for sample, ready in zip(data, train.prepare(data, settings(), normalization), strict=True):
        again.predict(sample.image)
        expected = (sample.image.astype(np.float32) - ready.mean) / ready.std
        require_close("the image that the network sees", seen.pop(), expected[None], rtol=0)
