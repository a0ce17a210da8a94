"""Convolution as nine shifted matrix products, one for each tap of the kernel: the rung that explains best.

The slice of x that a tap reads in forward is the slice of dx that it adds to in backward.
"""

from __future__ import annotations

from collections.abc import Iterator

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung


def zero_pad(x: Array, pad: int) -> Array:
    """Zeros around the image: (N, H, W, C) -> (N, H + 2 pad, W + 2 pad, C)"""
    return array_module(x).pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def _taps(size: int, rows: int, cols: int) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
    """Every tap (r, s) with the slice of the padded image that it reads for a map of rows x cols."""
    for r in range(size):
        for s in range(size):
            yield r, s, (slice(None), slice(r, r + rows), slice(s, s + cols))


def forward(x: Array, w: Array, pad: int) -> Array:
    """y = sum over r,s of x shifted by (r, s) @ w[r,s]"""
    size = w.shape[0]
    padded = zero_pad(x, pad)
    rows, cols = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    y = array_module(x).zeros((x.shape[0], rows, cols, w.shape[3]), x.dtype)
    for r, s, window in _taps(size, rows, cols):
        y += padded[window] @ w[r, s]
    return y


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx shifted by (r, s) += dy @ w[r,s]^T, for every tap"""
    n_images, rows, cols, _ = dy.shape
    size, _, c_in, _ = w.shape
    dx = array_module(dy).zeros((n_images, rows + size - 1, cols + size - 1, c_in), dy.dtype)
    for r, s, window in _taps(size, rows, cols):
        dx[window] += dy @ w[r, s].T
    return array_module(dy).ascontiguousarray(dx[:, pad : dx.shape[1] - pad, pad : dx.shape[2] - pad])


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw[r,s] = (x shifted by (r, s))^T @ dy, summed over images and pixels"""
    xp = array_module(x)
    padded = zero_pad(x, pad)
    dw = xp.zeros((size, size, x.shape[3], dy.shape[3]), x.dtype)
    for r, s, window in _taps(size, dy.shape[1], dy.shape[2]):
        dw[r, s] = xp.tensordot(padded[window], dy, axes=((0, 1, 2), (0, 1, 2)))
    return dw


CONV = Rung("taps", forward, grad_x, grad_w)
