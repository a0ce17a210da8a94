"""im2col lying down, for the first layer: an image of one channel, or of a few.

With one channel a window is nine numbers, and writing it out as a row copies three numbers at a time: almost all of the time goes
into finding the next three. Written as a column, all windows of a strip are nine shifted copies of the strip itself, each one
a long row:

    planes[r, s, c] = x[r : r + h, s : s + Q, c]             (9 C, pixels)
    y  = planes^T @ w                                        (pixels, O)
    dw = planes @ dy                                         (9 C, O)
    dx : planes of dx = w @ dy^T, and every plane is added where it was copied from

BLAS reads a matrix lying down as well as standing. With many channels nine copies of everything would be too much, and a pixel
is a long row by itself: there `strips` is the better way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from tinyunet.backend import Array
from tinyunet.ladder import Rung
from tinyunet.parallel import each, groups, workspace
from tinyunet.rungs.strips import add_bias, padded_rows, refuses, strips


def shifts(size: int, rows: Array, h: int) -> Iterator[tuple[int, Array]]:
    """Every plane's number, and the part of some rows (h + K - 1, W, C) that it is a copy of: (h, Q)"""
    cols, c_in = rows.shape[1] - size + 1, rows.shape[2]
    for k in range(size * size * c_in):
        r, s, c = k // (size * c_in), k // c_in % size, k % c_in
        yield k, rows[r : r + h, s : s + cols, c]


def planes(rows: Array, size: int, h: int) -> Array:
    """Every window of some rows as a column: (h + K - 1, W, C) -> (K K C, h Q), in the workspace"""
    c_in, cols = rows.shape[2], rows.shape[1] - size + 1
    written = workspace("planes", (size * size * c_in, h, cols), rows.dtype)
    for k, part in shifts(size, rows, h):
        written[k] = part
    return written.reshape(len(written), h * cols)


def forward(x: Array, w: Array, pad: int, b: Array | None = None) -> Array:
    """y = planes^T @ w (+ b)"""
    images, height, width, _ = x.shape
    size, _, _, c_out = w.shape
    rows, cols = height + 2 * pad - size + 1, width + 2 * pad - size + 1
    y = np.empty((images, rows, cols, c_out), x.dtype)
    matrix = w.reshape(-1, c_out)
    bias = None if b is None else np.tile(b, cols)

    def strip(job: tuple[int, int, int]) -> None:
        n, start, stop = job
        written = planes(padded_rows(x[n], start, stop + size - 1, pad, width + 2 * pad), size, stop - start)
        out = y[n, start:stop]
        np.matmul(written.T, matrix, out=out.reshape(-1, c_out))
        if bias is not None:
            add_bias(out, bias)

    each(strip, strips(images, rows, cols * c_out * x.itemsize))
    return y


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx, with its padding: every plane of w @ dy^T added where it was copied from; then the padding is cut off

    Neighbouring strips overlap by K - 1 rows, so each job gives its rows of dx, and they are added in the order of the jobs.
    """
    images, rows, cols, c_out = dy.shape
    size, _, c_in, _ = w.shape
    width = cols + size - 1
    matrix = np.ascontiguousarray(w.reshape(-1, c_out))

    def strip(job: tuple[int, int, int]) -> Array:
        n, start, stop = job
        products = matrix @ dy[n, start:stop].reshape(-1, c_out).T
        part = np.zeros((stop - start + size - 1, width, c_in), dy.dtype)
        for k, there in shifts(size, part, stop - start):
            there += products[k].reshape(there.shape)
        return part

    jobs = strips(images, rows, cols * c_out * dy.itemsize)
    dx = np.zeros((images, rows + size - 1, width, c_in), dy.dtype)
    for (n, start, stop), part in zip(jobs, each(strip, jobs), strict=True):
        there = dx[n, start : stop + size - 1]
        there += part[: len(there)]  # in a rehearsal all parts are as long as the first
    return np.ascontiguousarray(dx[:, pad : dx.shape[1] - pad, pad : width - pad])


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw = planes @ dy, over the strips of a group, and then over the groups"""
    images, rows, cols, c_out = dy.shape
    width, c_in = x.shape[2:]

    def products(part: Sequence[tuple[int, int, int]]) -> Array:
        dw = np.zeros((size * size * c_in, c_out), x.dtype)
        for n, start, stop in part:
            written = planes(padded_rows(x[n], start, stop + size - 1, pad, width + 2 * pad), size, stop - start)
            dw += written @ dy[n, start:stop].reshape(-1, c_out)
        return dw

    parts = each(products, groups(strips(images, rows, cols * c_out * x.itemsize)))
    return reduce(np.add, parts, np.zeros((size * size * c_in, c_out), x.dtype)).reshape(size, size, c_in, c_out)


CONV = Rung("planes", forward, grad_x, grad_w, refuses, fused=forward)
