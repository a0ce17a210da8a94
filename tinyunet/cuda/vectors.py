"""How the kernels that do little with much data are launched: how much a thread moves at a time, and who adds up what."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import ConfigError

THREADS = 256
"""In a block; COLUMN_THREADS of kernels/include/tu_columns.cuh."""

PARTS = 512
"""At most so many blocks add up one sum. The number follows from sizes alone, so every GPU gives the same bytes."""

WORTH = 8
"""A thread that adds up should have at least so many pixels, or else fewer blocks do."""


class Vector(NamedTuple):
    """What a thread moves at a time."""

    kind: str  # as C++ writes it
    width: int  # values


def vector(*sizes: int, arrays: tuple[Array, ...] = ()) -> Vector:
    """float4 if every size, in values, is a multiple of 4, else float: 16 bytes can only be moved where they lie together.

    Arrays that were cut out of others may start anywhere; a GPU moves 16 bytes only from multiples of 16.
    """
    aligned = all(getattr(a.data, "ptr", 0) % 16 == 0 for a in arrays)  # the emulator copies NumPy's, to where they are aligned
    return Vector("float4", 4) if aligned and not any(size % 4 for size in sizes) else Vector("float", 1)


def blocks(n: int) -> tuple[int]:
    """The grid that gives each of n vectors a thread."""
    return (max(1, -(-n // THREADS)),)


class Columns(NamedTuple):
    """The launch of a sum over pixels; see kernels/include/tu_columns.cuh."""

    parts: int
    groups: int  # of channels
    block: tuple[int, int]  # vectors of channels x pixels

    @property
    def grid(self) -> tuple[int, int]:
        """Of the first pass: a block for every group and part."""
        return self.groups, self.parts

    @property
    def last(self) -> tuple[int]:
        """Of the second pass: a block for every group."""
        return (self.groups,)


def columns(pixels: int, vectors: int) -> Columns:
    """How pixels are shared out, for so many vectors of channels."""
    groups = -(-vectors // 32)
    across = -(-vectors // groups)
    rows = THREADS // across
    return Columns(min(PARTS, max(1, -(-pixels // (rows * WORTH)))), groups, (across, rows))


def ints(*values: int) -> list[Any]:
    """As the kernels take them. Raises ConfigError for numbers that do not fit."""
    try:
        return [np.int32(value) for value in values]
    except OverflowError:
        raise ConfigError(f"kernels count with 32 bits, and an array has {max(values)} values. "
                          "Use smaller tiles or batches.") from None  # fmt: skip


def cpp(flag: bool) -> str:
    """As a template argument."""
    return "true" if flag else "false"
