"""im2col of a few rows at a time, on all cores, with a third of the columns.

Written out in full, a 3x3 window makes nine numbers of each one. But the window of the row below shares two of its three
rows. So only the runs of K pixels along a row are written out, K C numbers a pixel; the K rows of the kernel then are K
matrix products, over the same columns, one row further down each time:

    y[i] = sum over r of columns[i + r] @ w[r]

A strip of rows is a job. Its columns stay in the cache, in memory that its thread keeps, and an image is never padded as a
whole, only the rows of the strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung
from tinyunet.parallel import each, groups, workspace

STRIP_BYTES = 2**20
"""Size of the columns and outputs of one strip, in bytes: what the cache of one core holds; the time is flat around it."""


def padded_rows(image: Array, start: int, stop: int, pad: int, width: int) -> Array:
    """Rows [start - pad, stop - pad) and columns [-pad, width - pad) of an image (H, W, C) with zeros outside.

    -> (stop - start, width, C) in C order: a view where there is nothing to fill in, else the workspace
    """
    height, cols, c = image.shape
    if not pad and stop <= height and width == cols and image.strides[0] == cols * image.strides[1] and image.flags.c_contiguous:
        return image[start:stop]
    rows = workspace("rows", (stop - start, width, c), image.dtype)
    low, high = max(start - pad, 0), max(min(stop - pad, height), 0)
    low = min(low, high)
    right = min(cols + pad, width)
    above, below = low - (start - pad), high - (start - pad)
    rows[:above] = 0
    rows[below:] = 0
    rows[above:below, :pad] = 0
    rows[above:below, right:] = 0
    rows[above:below, pad:right] = image[low:high, : right - pad]
    return rows


def add_bias(rows: Array, bias: Array) -> None:
    """rows += bias, in place: (h, W, C), and a whole row of biases (W C,), which `np.tile(b, W)` makes of b (C,)

    NumPy adds long rows faster than many pixels of few channels.
    """
    flat = rows.reshape(*rows.shape[:-2], len(bias))
    flat += bias


def strips(images: int, rows: int, bytes_per_row: int) -> list[tuple[int, int, int]]:
    """Split the output rows of all images: (image, start, stop)."""
    step = max(1, STRIP_BYTES // max(1, bytes_per_row))
    return [(n, start, min(start + step, rows)) for n in range(images) for start in range(0, rows, step)]


def columns(rows: Array, size: int) -> Array:
    """Every run of K pixels along a row, written out: (h, W, C) -> (h, W - K + 1, K C), in the workspace

    The strided view shows each pixel up to K times without a copy. C is the fastest axis, so K pixels are one run of K C numbers.
    """
    height, width, c = rows.shape
    item = rows.itemsize
    shape = (height, width - size + 1, size * c)
    runs = np.lib.stride_tricks.as_strided(rows, shape, (width * c * item, c * item, item))
    written = workspace("columns", shape, rows.dtype)
    np.copyto(written, runs)
    return written


def forward(x: Array, w: Array, pad: int, b: Array | None = None) -> Array:
    """y[i] = sum over r of columns[i + r] @ w[r] (+ b), with w[r] as a matrix (K C, O)"""
    images, height, width, c_in = x.shape
    size, _, _, c_out = w.shape
    rows, cols = height + 2 * pad - size + 1, width + 2 * pad - size + 1
    y = np.empty((images, rows, cols, c_out), x.dtype)
    matrices = w.reshape(size, size * c_in, c_out)

    def strip(job: tuple[int, int, int]) -> None:
        n, start, stop = job
        written = columns(padded_rows(x[n], start, stop + size - 1, pad, width + 2 * pad), size)
        out, h = y[n, start:stop].reshape(-1, c_out), stop - start
        np.matmul(written[:h].reshape(-1, size * c_in), matrices[0], out=out)
        product = workspace("product", out.shape, x.dtype)
        for r in range(1, size):
            np.matmul(written[r : r + h].reshape(-1, size * c_in), matrices[r], out=product)
            out += product
        if b is not None:
            out += b

    each(strip, strips(images, rows, cols * (size * c_in + c_out) * x.itemsize))
    return y


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx = dy, padded by K - 1 - pad, convolved with the flipped kernel in which C and O have changed places"""
    return forward(dy, np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)), w.shape[0] - 1 - pad)


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw[r] = sum over i of columns[i + r]^T @ dy[i], over the strips of a group, and then over the groups"""
    images, rows, cols, c_out = dy.shape
    width, c_in = x.shape[2:]

    def products(part: Sequence[tuple[int, int, int]]) -> Array:
        dw = np.zeros((size, size * c_in, c_out), x.dtype)
        product = workspace("product", dw.shape[1:], x.dtype)
        for n, start, stop in part:
            written = columns(padded_rows(x[n], start, stop + size - 1, pad, width + 2 * pad), size)
            gradient, h = dy[n, start:stop].reshape(-1, c_out), stop - start
            for r in range(size):
                np.matmul(written[r : r + h].reshape(-1, size * c_in).T, gradient, out=product)
                dw[r] += product
        return dw

    jobs = groups(strips(images, rows, cols * (size * c_in + c_out) * x.itemsize))
    dw = reduce(np.add, each(products, jobs), np.zeros((size, size * c_in, c_out), x.dtype))
    return dw.reshape(size, size, c_in, c_out)


def refuses(x: Array, w: Array) -> str | None:
    """Threads are for arrays of the host."""
    return None if array_module(x) is np else "it takes NumPy arrays"


CONV = Rung("strips", forward, grad_x, grad_w, refuses, fused=forward)
