"""Max-pooling: kernels/pool/."""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.vectors import THREADS, blocks, cpp, ints, vector


def forward(x: Array) -> tuple[Array, Array]:
    """y = the largest of 2x2 pixels, and which it was, 0 to 3 in row-major order

    (N, H, W, C) -> (N, H/2, W/2, C), the same of uint8
    """
    xp = array_module(x)
    images, height, width, channels = x.shape
    kind, at_once = vector(channels, arrays=(x,))
    shape = (images, height // 2, width // 2, channels)
    y, winner = xp.empty(shape, x.dtype), xp.empty(shape, "uint8")
    n = y.size // at_once
    runtime.run("pool/forward.cu", f"pool_forward<{kind}>", blocks(n), (THREADS,),
                (x, y, winner, *ints(n, width // 2, channels // at_once)))  # fmt: skip
    return y, winner


def backward(dy: Array, winner: Array, skip: Array | None = None, top: int = 0, left: int = 0, channel: int = 0) -> Array:
    """dx = dy where the pixel won, else 0; plus skip[n, h - top, v - left, channel + c], where there is such a pixel

    (N, P, Q, C), uint8 of the same shape -> (N, 2P, 2Q, C)

    skip is the gradient that came across: dskip itself, or that of the concatenation, of which the cropped skip was the
    channels from `channel` on, and its pixel (0, 0) was (top, left) here.
    """
    images, rows, columns, channels = dy.shape
    height, width, all_channels = (0, 0, 0) if skip is None else skip.shape[1:]
    kind, at_once = vector(channels, all_channels, channel, arrays=(dy, winner) if skip is None else (dy, winner, skip))
    dx = array_module(dy).empty((images, 2 * rows, 2 * columns, channels), dy.dtype)
    n = dy.size // at_once
    runtime.run("pool/backward.cu", f"pool_backward<{kind}, {cpp(skip is not None)}>", blocks(n), (THREADS,),
                (dy, winner, dx, *ints(n, rows, columns, channels // at_once),
                 skip, *ints(height, width, all_channels // at_once, top, left, channel // at_once)))  # fmt: skip
    return dx
