"""Winograd's convolution along one axis: F(4, 3) down the image, and the three taps along the rows as in `strips`.

Four rows of the output from six rows of the input: with the matrices of `winograd`, and d[r], y[i] whole rows of the image,

    v[k] = sum over r of B^T[k,r] d[r]               6 rows, k = 0..5
    m[k] = runs(v[k]) @ u[k]                         runs of 3 pixels: (W - 2, 3 C) @ (3 C, O)
    y[i] = sum over k of A^T[i,k] m[k]               4 rows

Half of the multiplications of im2col, where two dimensions need a quarter. But the transforms mix whole rows, in one go for
all pixels, and are a third of the work that they are there. With few channels the transforms are what takes the time, so
this is the fastest rung for maps of 16 to 64 channels. The gradients are the transposes, as in `winograd`.

No run is written out. Pixel p begins a run of 3 C numbers, and so does pixel p + 3 behind it: the pixels p = g, g+3, g+6 ... of
a flat strip are, as they lie in memory, a matrix (pixels / 3, 3 C). Three matrices, g = 0, 1, 2, have all runs. Those that
wrap around the end of a row give numbers that are never read.

Letters: as in `winograd`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from tinyunet.backend import Array
from tinyunet.ladder import Rung
from tinyunet.parallel import each, groups, workspace
from tinyunet.rungs.strips import add_bias, padded_rows
from tinyunet.rungs.winograd import A, B, G, refuses

STRIP_BYTES = 2**21
"""Size of the transformed inputs and outputs of one strip, in bytes: what the cache of one core holds. Half as much is a little
faster on one thread, and no faster on two than on one: calls so short spend their time handing over the lock of Python."""

LONGEST = 2**14
"""Numbers of a row that are transformed in one go: BLAS has a faster way for small products."""


def strips(images: int, rows: int, bytes_per_row: int) -> list[tuple[int, int, int]]:
    """Split the rows of tiles of all images: (image, first, last but one); a row of tiles is six transformed rows."""
    down, step = -(-rows // 4), max(1, STRIP_BYTES // max(1, 6 * bytes_per_row))
    return [(n, top, min(top + step, down)) for n in range(images) for top in range(0, down, step)]


def mix(matrix: Array, rows: Array, out: Array) -> None:
    """out[i, k] = sum over r of matrix[k, r] rows[i, r]: (I, R, W, C) -> (I, K, W, C); a pixel's channels lie side by side."""
    _, _, width, c = rows.shape
    if width * c <= LONGEST:
        i, r, k = len(rows), rows.shape[1], len(matrix)
        flat = np.lib.stride_tricks.as_strided
        item = rows.itemsize
        rows = flat(rows, (i, r, width * c), (*rows.strides[:2], item))
        np.matmul(matrix, rows, out=flat(out, (i, k, width * c), (*out.strides[:2], item)))
    else:
        np.matmul(matrix, rows.transpose(0, 2, 1, 3), out=out.transpose(0, 2, 1, 3))


def take_rows(image: Array, top: int, stop: int, pad: int, width: int) -> Array:
    """v: rows of tiles [top, stop) of an image (H, W, C), transformed: -> (6, I, W + 2 pad, C), in the workspace"""
    rows = padded_rows(image, 4 * top, 4 * stop + 2, pad, width)
    c = image.shape[2]
    v = workspace("v", (6, stop - top, width, c), np.float32)
    down, right, item = rows.strides
    six = np.lib.stride_tricks.as_strided(rows, (stop - top, 6, width, c), (4 * down, down, right, item))
    mix(B.T, six, v.transpose(1, 0, 2, 3))
    return v


def runs(v: Array, m: Array) -> Iterator[tuple[Array, Array]]:
    """The three matrices of runs of v, (6, pixels / 3, 3 C), with the pixels of m, (6, pixels / 3, O), that they begin at."""
    c = v.shape[3]
    flat, outputs = v.reshape(6, -1), m.reshape(6, -1, m.shape[3])
    pixels = outputs.shape[1] - 2  # the last two begin no run
    for g in range(3):
        n = (pixels - g + 2) // 3
        yield flat[:, g * c : (g + 3 * n) * c].reshape(6, n, 3 * c), outputs[:, g:pixels:3]


def correlate(x: Array, u: Array, pad: int, b: Array | None = None) -> Array:
    """Convolve with a transformed kernel (6, 3 C, O), and add b."""
    images, height, width, c_in = x.shape
    c_out = u.shape[2]
    rows, wide = height + 2 * pad - 2, width + 2 * pad
    y = np.empty((images, rows, wide - 2, c_out), np.float32)
    bias = None if b is None else np.tile(b, wide - 2)

    def strip(job: tuple[int, int, int]) -> None:
        n, top, stop = job
        v = take_rows(x[n], top, stop, pad, wide)
        m = workspace("m", (6, stop - top, wide, c_out), np.float32)
        for run, out in runs(v, m):
            np.matmul(run, u, out=out)
        products = m[:, :, : wide - 2].transpose(1, 0, 2, 3)
        whole = min(stop, rows // 4) - top  # tiles that do not reach beyond the map
        here = y[n, 4 * top : 4 * stop]
        if whole:
            mix(A.T, products[:whole], here[: 4 * whole].reshape(whole, 4, wide - 2, c_out))
        if top + whole < stop:
            rest = here[4 * whole :]
            mix(A.T[: len(rest)], products[whole:], rest[None])
        if bias is not None:
            add_bias(here, bias)

    each(strip, strips(images, rows, wide * (c_in + c_out) * 4))
    return y


def forward(x: Array, w: Array, pad: int, b: Array | None = None) -> Array:
    """y = A^T [ (G w) * (B^T d) ] (+ b), where * multiplies and adds along the rows"""
    c_in, c_out = w.shape[2:]
    return correlate(x, (G @ w.reshape(3, -1)).reshape(6, 3 * c_in, c_out), pad, b)


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx = dy, padded by 2 - pad, convolved with the flipped kernel in which C and O have changed places"""
    return forward(dy, np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)), 2 - pad)


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw = G^T [ sum over rows and pixels of (B^T d) * (A dy) ]"""
    images, rows, cols, c_out = dy.shape
    c_in, wide = x.shape[3], cols + 2

    def products(part: Sequence[tuple[int, int, int]]) -> Array:
        du = np.zeros((6, 3 * c_in, c_out), np.float32)
        product = workspace("product", du.shape, np.float32)
        for n, top, stop in part:
            v = take_rows(x[n], top, stop, pad, wide)
            m = workspace("m", (6, stop - top, wide, c_out), np.float32)
            m[:, :, cols:] = 0  # runs that wrap around count nothing
            here = padded_rows(dy[n], 4 * top, 4 * stop, 0, cols)
            mix(A, here.reshape(stop - top, 4, cols, c_out), m[:, :, :cols].transpose(1, 0, 2, 3))
            for run, gradient in runs(v, m):
                np.matmul(run.transpose(0, 2, 1), gradient, out=product)
                du += product
        return G.T @ du.reshape(6, -1)

    parts = each(products, groups(strips(images, rows, wide * (c_in + c_out) * 4)))
    return reduce(np.add, parts, np.zeros((3, 3 * c_in * c_out), np.float32)).reshape(3, 3, c_in, c_out)


CONV = Rung("winograd1d", forward, grad_x, grad_w, refuses, fused=forward)
