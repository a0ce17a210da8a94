"""Bias and ReLU: kernels/relu/."""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.sums import add_parts
from tinyunet.cuda.vectors import THREADS, blocks, columns, ints, vector


def forward(x: Array, b: Array | None = None) -> tuple[Array, Array]:
    """y = max(x + b, 0), and where x + b > 0

    (..., C), (C,) or None for no bias -> (..., C), (..., C) bool
    """
    xp = array_module(x)
    channels = x.size if b is None else b.size
    kind, width = vector(channels, arrays=(x,) if b is None else (x, b))
    y, positive = xp.empty_like(x), xp.empty(x.shape, bool)
    n = x.size // width
    runtime.run("relu/forward.cu", f"relu_forward<{kind}>", blocks(n), (THREADS,),
                (x, b, y, positive.view("uint8"), *ints(n, channels // width)))  # fmt: skip
    return y, positive


def backward(dy: Array, positive: Array) -> Array:
    """dx = dy where positive, else 0

    any shape -> the same shape
    """
    kind, width = vector(dy.size, arrays=(dy, positive))
    dx = array_module(dy).empty_like(dy)
    n = dy.size // width
    runtime.run("relu/backward.cu", f"relu_backward<{kind}>", blocks(n), (THREADS,), (dy, positive.view("uint8"), dx, *ints(n)))
    return dx


def backward_bias(dy: Array, positive: Array) -> tuple[Array, Array]:
    """dx = dy where positive, else 0,   db = sum of dx over pixels

    (..., C) -> (..., C), (C,)
    """
    xp = array_module(dy)
    channels = dy.shape[-1]
    kind, width = vector(channels, arrays=(dy, positive))
    pixels, vectors = dy.size // channels, channels // width
    launch = columns(pixels, vectors)
    dx, parts = xp.empty_like(dy), xp.empty((launch.parts, channels), dy.dtype)
    runtime.run("relu/backward.cu", f"relu_backward_bias<{kind}>", launch.grid, launch.block,
                (dy, positive.view("uint8"), dx, parts, *ints(pixels, vectors)))  # fmt: skip
    return dx, add_parts(parts)
