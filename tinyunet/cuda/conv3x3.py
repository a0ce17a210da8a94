"""Launches the 3x3 convolutions of `kernels/conv3x3`. The one place that knows how they are launched.

Arrays are float32, NHWC, C-contiguous, of NumPy (emulated) or of CuPy. A rung is named as its file is, and its precision is part
of the name: 07 and 08 multiply in TF32, `08_mma_3xtf32_pipe` is the file of 08 in 3xTF32, three products of TF32 for one and
nearly the accuracy of float32. The others compute in float32.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime, sums, tiles
from tinyunet.cuda.vectors import cpp, ints, vector
from tinyunet.errors import ConfigError, ShapeError

RUNGS = {"01_naive": 75, "02_coalesced": 75, "03_halo_tile": 75, "04_implicit_gemm": 75, "05_register_tile": 75,
         "06_pipelined": 75, "07_mma_tf32": 80, "08_mma_tf32_pipe": 80, "08_mma_3xtf32_pipe": 80}  # fmt: skip
"""Rung -> lowest architecture, from the one that teaches to the fastest."""

FIRST_LAYER = "first_layer"
"""The name of the kernel for 1 to 4 channels in, which `forward` takes, too: it stands beside the ladder."""

_STAGES, _DEPTH = 4, 16  # of 08
_PARTS = 512  # blocks that share the gradient by weight of the first layer; a number of ours, so every GPU gives the same bytes


class Launch(NamedTuple):
    """How a kernel is called, but for its arrays."""

    kernel: str  # its name, with template arguments
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_mem: int = 0


def pick(x: Array, w: Array, arch: int) -> str:
    """The fastest rung with the accuracy of float32, for these arrays on a GPU of an architecture: 75, 80, 90, ..."""
    if x.shape[3] <= 4:
        return FIRST_LAYER
    return "08_mma_3xtf32_pipe" if arch >= RUNGS["08_mma_3xtf32_pipe"] else "06_pipelined"


def forward(rung: str, x: Array, w: Array, pad: int, b: Array | None = None, relu: bool = False,
            splits: int | None = None) -> Array:  # fmt: skip
    """y[n,i,j,o] = sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o], then + b[o], then max(0, y) if relu

    (N, H, W, C), (3, 3, C, O), (O,) -> (N, H + 2 pad - 2, W + 2 pad - 2, O), pad 0, 1 or 2

    Rungs from 04 on add b and take the ReLU before they store, at no cost. 08 cuts the sum into `splits` if there are fewer
    tiles than the GPU runs at once, and adds them in order: as many splits, the same bits, on any GPU.

    Raises ConfigError for a rung that there is not, and for b or relu with rungs 01 to 03; ShapeError for shapes that do not fit.
    """
    n, height, width, c_in = x.shape
    c_out = w.shape[-1]
    if w.shape != (3, 3, c_in, c_out) or (b is not None and b.shape != (c_out,)):
        raise ShapeError(f"conv3x3: x has shape {x.shape}, w {w.shape}, b {None if b is None else b.shape}. "
                         f"Give w of (3, 3, {c_in}, O) and b of (O,).")  # fmt: skip
    if pad not in (0, 1, 2) or min(height, width) + 2 * pad < 3:
        raise ShapeError(f"conv3x3: {height}x{width} pixels with pad {pad} leave no output. "
                         "Use pad 0, 1 or 2, and 3x3 pixels with it.")  # fmt: skip
    y = array_module(x).empty((n, height + 2 * pad - 2, width + 2 * pad - 2, c_out), x.dtype)
    launch = rule(rung, x, w, y)
    file, sizes = f"conv3x3/{rung.replace('3xtf32', 'tf32')}.cu", ints(n, height, width, c_in, c_out, pad)
    if rung < "04":
        if b is not None or relu:
            raise ConfigError(f"conv3x3: the rung {rung!r} adds no bias and takes no ReLU. "
                              "Do both after it, or use a rung from 04 on.")  # fmt: skip
        runtime.run(file, launch.kernel, launch.grid, launch.block, (x, w, y, *sizes))
        return y
    if rung == FIRST_LAYER:
        del sizes[3]
    if rung.startswith("08"):
        tiles_of_y = prod(launch.grid)
        slots = (3 if launch.kernel == "conv3x3<64, true, true>" else 2) * runtime.multiprocessors(x)
        splits = splits or tiles.splits(9 * -(-c_in // _DEPTH), tiles_of_y, slots)[0]
        if splits > 1:
            return _in_splits(splits, file, launch, x, w, b, y, sizes, relu)
    runtime.run(file, launch.kernel, launch.grid, launch.block, (x, w, b, y, *sizes, np.int32(relu)), launch.shared_mem)
    return y


def rule(rung: str, x: Array, w: Array, y: Array) -> Launch:
    """Grid, block, template arguments and dynamic shared memory of a rung: what the head of its file says."""
    n, rows, cols, c_out = y.shape
    pixels, narrow, wide = n * rows * cols, c_out <= 64, cpp(vector(x.shape[3], c_out, arrays=(x, w)).width == 4)

    def grid(tile_pixels: int, tile_channels: int) -> tuple[int, int]:
        return -(-pixels // tile_pixels), -(-c_out // tile_channels)

    match rung:
        case "01_naive" | "02_coalesced":
            return Launch("conv3x3", (-(-pixels * c_out // 256),), (256,))
        case "03_halo_tile":
            return Launch("conv3x3", (-(-cols // 8), -(-rows // 8), n * -(-c_out // 32)), (32, 8))
        case "04_implicit_gemm":
            return Launch("conv3x3", grid(64, 64), (128,))
        case "05_register_tile" | "07_mma_tf32":
            return Launch(f"conv3x3<{wide}>", grid(128, 128), (256,))
        case "06_pipelined":
            channels = 64 if narrow else 128
            return Launch(f"conv3x3<{channels}, {wide}>", grid(128, channels), (2 * channels,))
        case "08_mma_tf32_pipe" | "08_mma_3xtf32_pipe":
            precise = "3xtf32" in rung
            channels = 64 if narrow else 128
            tile_pixels = 256 if narrow and not precise else 128
            threads = tile_pixels * channels // (64 * (32 if precise else 64)) * 32
            stage = 4 * (tile_pixels * (_DEPTH + 4) + _DEPTH * (channels + 8))
            kernel = f"conv3x3<{channels}, {wide}, {cpp(precise)}>"
            return Launch(kernel, grid(tile_pixels, channels), (threads,), _STAGES * stage)
        case "first_layer":
            if x.shape[3] > 4:
                raise ConfigError(f"conv3x3: the rung {rung!r} is for 1 to 4 channels, x has {x.shape[3]}. "
                                  f"Use one of {', '.join(RUNGS)}.")  # fmt: skip
            lanes = min(16, -(-c_out // 4))
            pieces, at_once = n * rows * -(-cols // 8), 256 // lanes
            wide = cpp(vector(c_out, arrays=(w,)).width == 4)
            return Launch(f"conv3x3<{x.shape[3]}, {wide}>", (-(-pieces // at_once), -(-c_out // (4 * lanes))), (lanes, at_once))
    raise ConfigError(f"conv3x3: the rung {rung!r} is unknown. Choose one of: {', '.join((*RUNGS, FIRST_LAYER))}.")


def _in_splits(splits: int, file: str, launch: Launch, x: Array, w: Array, b: Array | None, y: Array, sizes: list[np.int32],
               relu: bool) -> Array:  # fmt: skip
    """Every split writes sums of its own; a second kernel adds them in order, and finishes."""
    xp = array_module(x)
    parts = xp.empty((splits, *y.shape), y.dtype)
    args = (x, w, None, parts, *sizes, np.int32(0))
    runtime.run(file, launch.kernel, (*launch.grid, splits), launch.block, args, launch.shared_mem)
    c_out = y.shape[-1]
    pixels, wide = y.size // c_out, cpp(vector(c_out).width == 4)
    grid = (-(-pixels * -(-c_out // 4) // 256),)
    args = (parts, b, y, *ints(splits, pixels, c_out, relu))
    runtime.run("reduce/add_splits.cu", f"add_splits<{wide}>", grid, (256,), args)
    return y


def first_layer_grad_w(x: Array, dy: Array, pad: int) -> Array:
    """dw[r,s,c,o] = sum over n,i,j of x[n, i+r-pad, j+s-pad, c] dy[n,i,j,o], for 1 to 4 channels C

    (N, H, W, C), (N, P, Q, O) -> (3, 3, C, O)
    """
    n, height, width, c_in = x.shape
    _, rows, cols, c_out = dy.shape
    parts = min(_PARTS, -(-n * rows * -(-cols // 64) // 8))  # a block takes 8 pieces of 64 pixels at a time
    partials = array_module(x).empty((parts, 9 * c_in * c_out), x.dtype)
    args = (x, dy, partials, *ints(n, height, width, c_out, pad))
    runtime.run("conv3x3/first_layer.cu", f"conv3x3_grad_w<{c_in}>", (parts, -(-c_out // 32)), (32, 8), args)
    return sums.add_parts(partials).reshape(3, 3, c_in, c_out)
