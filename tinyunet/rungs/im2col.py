"""Convolution as one matrix product: write each output pixel's K x K x C inputs into a row ("im2col"), multiply by w.

The rows of a whole 572 x 572 image with 64 channels would take 709 MiB, nine times the image. So a strip of a few output
rows is done at a time, in a workspace that fits the cache: less memory, and faster, because the product finds its operands warm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung

STRIP_BYTES = 2 * 2**20
"""Size of the columns of one strip, in bytes: about what the cache of one core holds; the time is flat around it."""


def _strips(rows: int, bytes_per_row: int) -> Iterator[tuple[int, int]]:
    """Split output rows into strips whose columns stay within STRIP_BYTES."""
    step = max(1, STRIP_BYTES // bytes_per_row)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _padded_rows(image: Array, start: int, stop: int, pad: int) -> Array:
    """Rows [start - pad, stop - pad) of one image (H, W, C) with zeros outside: -> (stop - start, W + 2 pad, C), contiguous."""
    xp = array_module(image)
    height, width, c = image.shape
    if not pad:
        return xp.ascontiguousarray(image[start:stop])
    rows = xp.zeros((stop - start, width + 2 * pad, c), image.dtype)
    low, high = max(start - pad, 0), min(stop - pad, height)
    rows[low - start + pad : high - start + pad, pad : pad + width] = image[low:high]
    return rows


def _columns(rows: Array, size: int) -> Array:
    """Every K x K window of (h + K-1, Q + K-1, C) rows, written out: -> (h Q, K K C)

    The strided view shows each pixel up to K K times without a copy; the reshape is the copy. C is the fastest axis, so
    K pixels of a row are one run of K C numbers.
    """
    xp = array_module(rows)
    height, width, c = rows.shape
    h, q = height - size + 1, width - size + 1
    # From the shape and not rows.strides: of an axis of length 1, as image[..., None] makes it, NumPy may call any stride right.
    item = rows.itemsize
    down, right = width * c * item, c * item
    windows = xp.lib.stride_tricks.as_strided(rows, (h, q, size, size * c), (down, right, down, item))
    return windows.reshape(h * q, size * size * c)


def forward(x: Array, w: Array, pad: int) -> Array:
    """y = columns(x) @ w, with w as a matrix (K K C, O)"""
    n_images, height, width, c_in = x.shape
    size, _, _, c_out = w.shape
    rows, cols = height + 2 * pad - size + 1, width + 2 * pad - size + 1
    y = array_module(x).empty((n_images, rows, cols, c_out), x.dtype)
    matrix = w.reshape(size * size * c_in, c_out)
    for n in range(n_images):
        for start, stop in _strips(rows, cols * matrix.shape[0] * x.itemsize):
            columns = _columns(_padded_rows(x[n], start, stop + size - 1, pad), size)
            y[n, start:stop] = (columns @ matrix).reshape(stop - start, cols, c_out)
    return y


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx = fold(dy @ w^T): the transpose of writing windows out is adding them up where they came from ("col2im")"""
    xp = array_module(dy)
    n_images, rows, cols, c_out = dy.shape
    size, _, c_in, _ = w.shape
    if c_in >= c_out:
        # Gathering windows of dy moves less memory than folding windows of dx. Each input pixel was read through every
        # tap, so dx is also dy, widely padded, convolved with the flipped kernel.
        flipped = xp.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
        return forward(dy, flipped, size - 1 - pad)
    dx = xp.zeros((n_images, rows + size - 1, cols + size - 1, c_in), dy.dtype)
    matrix = w.reshape(size * size * c_in, c_out).T
    for n in range(n_images):
        for start, stop in _strips(rows, cols * matrix.shape[1] * dy.itemsize):
            h = stop - start
            windows = (dy[n, start:stop].reshape(h * cols, c_out) @ matrix).reshape(h, cols, size, size, c_in)
            for r in range(size):
                for s in range(size):
                    dx[n, start + r : stop + r, s : s + cols] += windows[:, :, r, s]
    return xp.ascontiguousarray(dx[:, pad : dx.shape[1] - pad, pad : dx.shape[2] - pad])


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw = columns(x)^T @ dy, summed over strips"""
    n_images, _, _, c_in = x.shape
    _, rows, cols, c_out = dy.shape
    dw = array_module(x).zeros((size * size * c_in, c_out), x.dtype)
    for n in range(n_images):
        for start, stop in _strips(rows, cols * dw.shape[0] * x.itemsize):
            columns = _columns(_padded_rows(x[n], start, stop + size - 1, pad), size)
            dw += columns.T @ dy[n, start:stop].reshape(-1, c_out)
    return dw.reshape(size, size, c_in, c_out)


def refuses(x: Array, w: Array) -> str | None:
    """Strips that fit the cache of a processor's core would keep a GPU waiting."""
    return None if array_module(x) is np else "its strips are cut for a CPU; 'taps' takes whole maps"


CONV = Rung("im2col", forward, grad_x, grad_w, refuses)
