"""How the matrix products of gradients and up-convolution are cut up: into tiles, one for a block, and along their sum."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

DEPTH = 16
"""Terms of the sum that a block takes at a time, one step of its loop."""

_START = 12  # what it costs a block to begin and to store its tile, in steps: an estimate
_SECOND_PASS = 8  # what the kernel that adds the splits costs before it has added anything, in steps: an estimate


class Tile(NamedTuple):
    """A block's part of the result."""

    rows: int
    columns: int
    threads: int
    resident: int  # blocks that a multiprocessor runs at once, by their registers

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """How many tiles cover a result, down and across."""
        return -(-rows // self.rows), -(-columns // self.columns)


FMA = Tile(64, 64, 64, 8)
"""RegisterTile in kernels/include/tu_fma.cuh."""


def mma(rows: int, columns: int, precise: bool) -> Tile:
    """BlockTile in kernels/include/tu_mma.cuh: a warp for every 64x64 elements, in 3xTF32 for every 64x32."""
    per_warp = 64 * 32 if precise else 64 * 64
    threads = 32 * rows * columns // per_warp
    return Tile(rows, columns, threads, 256 // threads)  # 256 threads with 255 registers fill a multiprocessor


def largest(rows: int, columns: int, precise: bool, multiprocessors: int) -> Tile:
    """The largest tile of which a result has enough for every multiprocessor; the smallest where none has."""
    sizes = ((128, 128), (128, 64)) if precise else ((128, 128), (128, 64), (64, 64))  # two warps of 64x32 would spill registers
    for size in sizes:
        tile = mma(*size, precise)
        down, across = tile.grid(rows, columns)
        if down * across >= multiprocessors:
            break
    return tile


@lru_cache  # a network asks for the same few at every step, and each takes hundreds of comparisons
def splits(steps: int, tiles: int, slots: int) -> tuple[int, int]:
    """-> how many splits a sum of `steps` steps is cut into, and how many steps each of them has (the last one maybe fewer)

    A GPU runs `slots` blocks at once. With s splits there are tiles s blocks, in waves of slots, and a wave lasts as long as
    a block does: ceil(steps / s) steps and what it costs to start. The s for which all waves are shortest is taken; the
    fewest, where several are.

        >>> splits(steps=20000, tiles=3, slots=264)  # 64 channels, an image of 568x568 pixels: 88 splits fill an H100
        (88, 228)
        >>> splits(steps=49, tiles=576, slots=264)  # 1024 channels, 28x28 pixels: there are enough tiles
        (1, 49)
    """

    def time(s: int) -> int:
        return -(-tiles * s // slots) * (-(-steps // s) + _START) + (_SECOND_PASS if s > 1 else 0)

    s = min(range(1, max(1, min(steps, 4 * slots // tiles)) + 1), key=time)
    each = -(-steps // s)
    return -(-steps // each), each
