"""From grey values to numbers around zero, the range that He initialisation is made for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import ConfigError, DataError, ShapeError

Mode = Literal["image", "percentile", "dataset", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)

LOW, HIGH = 1.0, 99.8
"""Percentiles of "percentile"; ours, as widely used for fluorescence."""

_STRIP = 2**17
"""Values that are made float64 at a time, 1 MiB: so a large image costs no eight bytes a value."""


@dataclass(frozen=True)
class Normalization:
    """x <- (x - mean) / std, per channel.

    mode  "image": mean and std of each image by itself; exposures and stains may differ from image to image (the default)
          "percentile": the middle of each image's 1st and 99.8th percentile, and a quarter of the way between them, so that
          nearly all values lie in -2 .. 2. For fluorescence: there the std depends on how many cells an image holds,
          and the same cell would look brighter in an empty image. A channel whose percentiles coincide, for its cells cover
          less than 0.2 % of it, has no such scale: it gets its mean and std, as in "image"
          "dataset": mean and std of the training images, also for every image predicted later; keeps absolute brightness
          "none": grey values as they are

    Stored in every checkpoint: a network that is shown other numbers than in training fails silently.
    """

    mode: Mode = "image"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"Normalization: mode {self.mode!r} is none of {', '.join(map(repr, MODES))}.")
        usable = all(map(math.isfinite, self.mean)) and all(0 < s < math.inf for s in self.std)
        if len(self.mean) != len(self.std) or not usable:
            raise ConfigError(
                f"Normalization: mean {self.mean} and std {self.std}: give a number and a positive number for every channel."
            )

    @classmethod
    def fit(cls, mode: Mode, images: Iterable[Array]) -> Normalization:
        """The normalisation for a training set of (H, W, C) images; only "dataset" looks at them."""
        if mode != "dataset":
            return cls(mode)
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for image in images:
            _check_axes(image, "Normalization.fit")
            count, total = count + image.shape[0] * image.shape[1], total + image.sum(axis=(0, 1), dtype=np.float64)
            squares = squares + _squares(image, np.zeros(image.shape[-1]))
        if not count:
            raise DataError("Normalization.fit: there are no images to take a mean of.")
        mean = total / count
        if not np.isfinite(mean).all():
            raise DataError("Normalization.fit: an image holds NaN or infinite values. Replace them, e.g. with numpy.nan_to_num.")
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls(mode, tuple(mean.tolist()), tuple(_or_one(std, mean).tolist()))

    def stats(self, image: Array) -> tuple[Array, Array]:
        """(H, W, C) -> mean (C,), std (C,) float32 for this image. A constant channel has std 1, so that it becomes 0.

        Takes memory beside the image for percentiles alone, which sort a copy of one channel.

        Raises ShapeError for an array that is no (H, W, C), DataError for an image that is not finite, or has other channels
        than the training images.
        """
        _check_axes(image, "Normalization.stats")
        channels = image.shape[-1]
        if self.mode == "none":
            return np.zeros(channels, np.float32), np.ones(channels, np.float32)
        if self.mode == "dataset":
            if len(self.mean) != channels:
                raise DataError(f"the image has {channels} channels, the training images had {len(self.mean)}. Convert it.")
            return np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        mean = image.mean(axis=(0, 1), dtype=np.float64)
        if not np.isfinite(mean).all():
            raise DataError("the image holds NaN or infinite values. Replace them, e.g. with numpy.nan_to_num.")
        if self.mode == "percentile":
            low, high = np.array([np.percentile(image[..., k], (LOW, HIGH)) for k in range(channels)]).T
            flat = low == high
            deviation = _std(image, mean) if flat.any() else 0.0
            mean, std = np.where(flat, mean, (low + high) / 2), np.where(flat, deviation, (high - low) / 4)
        else:
            std = _std(image, mean)
        return mean.astype(np.float32), _or_one(std, mean).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"mode": self.mode, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalization:
        """The inverse of `to_dict`."""
        return cls(values["mode"], tuple(values["mean"]), tuple(values["std"]))


def _or_one(std: Array, mean: Array) -> Array:
    """std, and 1 for a constant channel: in floating point its std is not 0 but what rounding the mean left over."""
    return np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1.0)


def _std(image: Array, mean: Array) -> Array:
    """(H, W, C), (C,) -> (C,) float64"""
    std: Array = np.sqrt(_squares(image, mean) / (image.shape[0] * image.shape[1]))
    return std


def _squares(image: Array, about: Array) -> Array:
    """sum over pixels of (x - about)^2, a strip of rows at a time: (H, W, C), (C,) -> (C,) float64"""
    rows = max(1, _STRIP // (image.shape[1] * image.shape[2]))
    total = np.zeros(image.shape[2])
    for top in range(0, len(image), rows):
        deviation = image[top : top + rows] - about  # (rows, W, C) float64
        deviation *= deviation
        total += deviation.sum(axis=(0, 1))
    return total


def _check_axes(image: Array, who: str) -> None:
    if image.ndim != 3:
        raise ShapeError(f"{who}: an array of shape {image.shape} is no (H, W, C). Of a grey image give image[..., None].")
