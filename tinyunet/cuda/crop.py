"""Crop and concatenate, as a copy or inside the convolution that reads it: kernels/crop/, kernels/conv3x3/concat.cu."""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.vectors import THREADS, blocks, ints, vector


def forward(up: Array, skip: Array, top: int, left: int) -> Array:
    """y[..., :C_up] = up,   y[..., C_up:] = skip[:, top : top+H, left : left+W]

    (N, H, W, C_up), (N, A, B, C_skip) -> (N, H, W, C_up + C_skip)
    """
    images, height, width, c_up = up.shape
    _, rows, columns, c_skip = skip.shape
    kind, at_once = vector(c_up, c_skip, arrays=(up, skip))
    y = array_module(up).empty((images, height, width, c_up + c_skip), up.dtype)
    n = y.size // at_once
    runtime.run("crop/forward.cu", f"crop_forward<{kind}>", blocks(n), (THREADS,),
                (up, skip, y, *ints(n, height, width, c_up // at_once, rows, columns, c_skip // at_once, top, left)))  # fmt: skip
    return y


def backward(dy: Array, c_up: int, skip_shape: tuple[int, ...], top: int, left: int) -> tuple[Array, Array]:
    """dup = dy[..., :C_up],   dskip = 0 except dskip[:, top : top+H, left : left+W] = dy[..., C_up:]

    (N, H, W, C_up + C_skip) -> (N, H, W, C_up), (N, A, B, C_skip)
    """
    return _backward(dy, (*dy.shape[:3], c_up), 0, 0, 0), _backward(dy, skip_shape, top, left, c_up)


def _backward(dy: Array, shape: tuple[int, ...], top: int, left: int, channel: int) -> Array:
    """What a map of some shape gets of dy."""
    _, rows, columns, channels = shape
    _, height, width, all_channels = dy.shape
    kind, at_once = vector(channels, all_channels, channel, arrays=(dy,))
    dx = array_module(dy).empty(shape, dy.dtype)
    n = dx.size // at_once
    runtime.run("crop/backward.cu", f"crop_backward<{kind}>", blocks(n), (THREADS,),
                (dy, dx, *ints(n, rows, columns, channels // at_once, height, width, all_channels // at_once,
                               top, left, channel // at_once)))  # fmt: skip
    return dx
