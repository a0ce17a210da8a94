"""One annotated image, and a list of them: what readers return, the trainer takes, and figures show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from tinyunet.backend import Array
from tinyunet.ops.loss import IGNORE

__all__ = ["IGNORE", "Dataset", "Sample", "describe"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with what is known about it.

    image      (H, W, C) uint8, uint16 or float32: as read, not normalised
    labels     (H, W)    int32: class of every pixel, 0 is background, `IGNORE` (-1) where unknown
    instances  (H, W)    int32 or None: 0 is background, every object another id > 0
    partial    True where some objects carry no annotation (Cell Tracking Challenge): background is then unknown too
    """

    name: str
    image: Array
    labels: Array
    instances: Array | None = None
    partial: bool = False


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """A sequence of samples that share one list of classes, `class_names[0]` being background.

    `reading` says how the masks were read, in the words of the table [data] (kind, label_map, instances, partial); empty if
    they were not. Training keeps it in the checkpoint, so that others can be read alike.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] = ("background", "cell")
    name: str = "data"
    reading: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        if isinstance(index, slice):
            return replace(self, samples=self.samples[index])
        return self.samples[index]


def describe(data: Dataset) -> str:
    """One line to look at before training: "30 images, 573 objects, median 110 px, smallest 2 px; foreground 11 %".

    Masks that were read wrongly and still make sense, with background and foreground exchanged for one, show here. Without
    instances there are no objects to count. With several classes every one but background has its share. Shares are of the
    pixels that are known; "unknown" is the share of `IGNORE` among all.
    """
    parts = counted(len(data), "image")
    if not len(data):
        return parts
    maps = [sample.instances for sample in data if sample.instances is not None]
    if maps:
        sizes = np.concatenate([np.unique(ids[ids > 0], return_counts=True)[1] for ids in maps])
        parts += f", {counted(len(sizes), 'object')}"
        if len(sizes):
            parts += f", median {np.median(sizes):.0f} px, smallest {sizes.min()} px"
    pixels = sum((np.bincount(sample.labels.ravel() + 1, minlength=len(data.class_names) + 1) for sample in data),
                 start=np.zeros(len(data.class_names) + 1, np.int64))  # entry 0 counts IGNORE, which is -1
    known, total = max(int(pixels[1:].sum()), 1), int(pixels.sum())
    names = data.class_names[1:] if len(data.class_names) > 2 else ("foreground",)
    shares = [f"{name} {_percent(n / known)}" for name, n in zip(names, pixels[2:], strict=True)]
    if pixels[0]:
        shares.append(f"unknown {_percent(pixels[0] / total)}")
    return f"{parts}; {', '.join(shares)}"


def counted(n: int, what: str) -> str:
    """1 image, 2 images"""
    return f"{n} {what}{'s' * (n != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "under 1 %"
