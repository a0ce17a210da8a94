"""Launches the up-convolution 2x2, forward and both gradients: the ladder in `kernels/upconv2x2`.

The one place that knows how these kernels are launched. Arrays are float32, NHWC, C-contiguous, of NumPy (emulated) or CuPy.
The rung `03_mma_3xtf32` is the file `03_mma_tf32.cu` in 3xTF32: three products of TF32 for one, and nearly the accuracy of
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime, sums, tiles
from tinyunet.cuda.vectors import cpp, ints, vector
from tinyunet.errors import ConfigError

RUNGS = {"01_naive": 75, "02_gemm": 75, "03_mma_tf32": 80, "03_mma_3xtf32": 80}
"""Rung -> lowest architecture, from the one that teaches to the fastest."""


def forward(rung: str, x: Array, w: Array, b: Array | None = None, relu: bool = False) -> Array:
    """y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c], and max(0, y) of it if relu

    (N, H, W, C), (2, 2, O, C), (O,) or None -> (N, 2H, 2W, O)
    """
    n, height, width, _ = x.shape
    y = array_module(x).empty((n, 2 * height, 2 * width, w.shape[2]), x.dtype)
    _run(rung, "forward", x, y, (x, w, b, y), ints(relu))
    return y


def grad_x(rung: str, dy: Array, w: Array) -> Array:
    """dx[n,i,j,c] = sum over a,d,o of dy[n, 2i+a, 2j+d, o] w[a,d,o,c]

    (N, 2H, 2W, O), (2, 2, O, C) -> (N, H, W, C)
    """
    n, rows, cols, _ = dy.shape
    dx = array_module(dy).empty((n, rows // 2, cols // 2, w.shape[3]), dy.dtype)
    _run(rung, "grad_x", dx, dy, (dy, w, dx))
    return dx


def grad_w(rung: str, x: Array, dy: Array, sms: int | None = None) -> Array:
    """dw[a,d,o,c] = sum over n,i,j of dy[n, 2i+a, 2j+d, o] x[n,i,j,c]

    (N, H, W, C), (N, 2H, 2W, O) -> (2, 2, O, C)

    Rungs from 02 on split the sum into shares, by the number of multiprocessors. `sms` gives another than that of the GPU:
    the same number, the same bits.
    """
    c_in, c_out = x.shape[3], dy.shape[3]
    splits, share = 1, ints()
    if rung != "01_naive":
        tile = _tile(rung, "grad_w", x, dy)
        down, across = tile.grid(4 * c_out, c_in)
        slots = tile.resident * (sms or runtime.multiprocessors(x))
        splits, steps = tiles.splits(-(-x.size // c_in // tiles.DEPTH), down * across, slots)
        share = ints(steps * tiles.DEPTH)
    partials = array_module(x).empty((splits, 4 * c_out * c_in), x.dtype)
    _run(rung, "grad_w", x, dy, (x, dy, partials), share, splits)
    return sums.add_parts(partials).reshape(2, 2, c_out, c_in)


def _run(rung: str, direction: str, x: Array, y: Array, arrays: tuple[Array | None, ...], last: Sequence[Any] = (),
         splits: int = 1) -> None:  # fmt: skip
    """Launch a kernel on arrays; x and y (or their gradients) are those that tell the sizes."""
    if rung not in RUNGS:
        raise ConfigError(f"upconv2x2: the rung {rung!r} is unknown. Choose one of: {', '.join(RUNGS)}.")
    c_in, c_out, pixels = x.shape[3], y.shape[3], x.size // x.shape[3]
    args = (*arrays, *ints(pixels, x.shape[2], c_in, c_out), *last)
    rows, columns = {"forward": (pixels, 4 * c_out), "grad_x": (pixels, c_in), "grad_w": (4 * c_out, c_in)}[direction]
    if rung == "01_naive":
        runtime.run("upconv2x2/01_naive.cu", direction, (-(-rows * columns // 256),), (256,), args)
        return
    tile = _tile(rung, direction, x, y)
    present = tuple(a for a in arrays if a is not None)
    template, shared = f"{vector(c_in, arrays=present).width}, {vector(2 * c_out, arrays=present).width}", 0
    if rung != "02_gemm":
        template = f"{tile.rows}, {tile.columns}, {cpp('3xtf32' in rung)}, {template}"
        pads = {"forward": 0, "grad_x": 8, "grad_w": 16}[direction]
        shared = 4 * 4 * tiles.DEPTH * (tile.rows + tile.columns + pads)  # 4 stages of floats
    file = f"upconv2x2/{rung.replace('3xtf32', 'tf32')}.cu"
    runtime.run(file, f"{direction}<{template}>", (*tile.grid(rows, columns), splits), (tile.threads,), args, shared)


def _tile(rung: str, direction: str, x: Array, y: Array) -> tiles.Tile:
    """A block's part of the result."""
    if rung == "02_gemm":
        return tiles.FMA
    c_in, c_out, pixels = x.shape[3], y.shape[3], x.size // x.shape[3]
    precise, multiprocessors = "3xtf32" in rung, runtime.multiprocessors(x)
    if direction == "grad_w":  # splits fill the GPU, whatever the tile
        side = 128 if min(4 * c_out, c_in) > 64 else 64
        return tiles.mma(side, side, precise)
    return tiles.largest(pixels, 4 * c_out if direction == "forward" else c_in, precise, multiprocessors)
