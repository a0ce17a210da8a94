"""Draws docs/warp.png: what the warps of three rungs of the convolution ladder ask of the memory, from the emulator's trace.

    python benchmarks/warp.py
"""

from pathlib import Path

import numpy as np

from tinyunet import plot
from tinyunet.cuda import emulator

DOCS = Path(__file__).parents[1] / "docs"
N, H, W, C, O, PAD = 1, 18, 18, 32, 32, 0  # noqa: E741


def loads(rung: str, grid: tuple[int, ...], block: tuple[int, ...], arrays: str) -> list[emulator.Line]:
    """The loads of a rung from some of its arrays."""
    x, w, y = (np.zeros(shape, np.float32) for shape in ((N, H, W, C), (3, 3, C, O), (N, H - 2, W - 2, O)))
    kernel = emulator.load(f"conv3x3/{rung}.cu").get("conv3x3")
    sizes = (np.int32(size) for size in (N, H, W, C, O, PAD))
    lines = kernel(grid, block, (x, w, y, *sizes), mode="trace").lines
    return [line for line in lines if line.kind == "load" and line.array in arrays.split()]


def main() -> None:
    """Five panels: x of 01, x and w of 02, x and the shared tile of 03."""
    flat = (-(-(H - 2) * (W - 2) * O // 256),), (256,)
    lines = [*loads("01_naive", *flat, "x"), *loads("02_coalesced", *flat, "x w")]
    lines += loads("03_halo_tile", (2, 2, 1), (32, 8), "x shared")
    plot.save(plot.warps(lines), DOCS / "warp.png", dpi=110)


if __name__ == "__main__":
    main()
