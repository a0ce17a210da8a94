"""One annotated image, and a list of them: what readers return, the trainer takes, and figures show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from tinyunet.backend import Array
from tinyunet.ops.loss import IGNORE

__all__ = ["IGNORE", "Dataset", "Sample"]


@dataclass(frozen=True)
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
    """A sequence of samples that share one list of classes, `class_names[0]` being background."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] = ("background", "cell")
    name: str = "data"

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
            return Dataset(self.samples[index], self.class_names, self.name)
        return self.samples[index]
