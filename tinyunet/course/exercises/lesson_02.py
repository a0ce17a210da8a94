"""Lesson 02: the convolution by loops, taps and im2col."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, equals, exercise


def _convolve(x: Array, w: Array, b: Array) -> Array:
    """The formula, one output pixel after another."""
    size = w.shape[0]
    y = np.empty((len(x), x.shape[1] - size + 1, x.shape[2] - size + 1, w.shape[3]), x.dtype)
    for n, i, j in np.ndindex(y.shape[:3]):
        y[n, i, j] = np.tensordot(x[n, i : i + size, j : j + size], w, 3) + b
    return y


def _windows(x: Array, size: int) -> Array:
    """-> (N P Q, K, K, C)"""
    return np.array([x[n, i : i + size, j : j + size] for n in range(len(x))
                     for i in range(x.shape[1] - size + 1) for j in range(x.shape[2] - size + 1)])  # fmt: skip


def _columns(x: Array, size: int) -> Array:
    return _windows(x, size).reshape(-1, size * size * x.shape[3])


def _same(x: Array, w: Array, b: Array) -> Array:
    return _convolve(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), w, b)


def _xwb(draw: Draw) -> dict[str, Any]:
    """Never square, never as many channels in as out, never one image: such a case hides mistakes."""
    height = draw.integer(4, 6)
    shape = (draw.integer(2, 3), height, height + draw.integer(1, 2), draw.integer(2, 3))
    normal = draw.rng.standard_normal
    return {"x": normal(shape), "w": normal((3, 3, shape[3], 4)), "b": normal(4)}


def _x_size(draw: Draw) -> dict[str, Any]:
    return {"x": _xwb(draw)["x"], "size": 3}


FLIPPED = "You turn the kernel by 180 degrees. What deep learning calls convolution does not: w[0, 0] meets the upper left pixel."
TRANSPOSED = "Rows and columns of the kernel are exchanged: w[r, s] belongs to row i + r and column j + s."
NO_BIAS = "The bias is missing: every output channel o gets its own b[o]."
LOOKALIKES = {
    FLIPPED: lambda x, w, b: _convolve(x, w[::-1, ::-1], b),
    TRANSPOSED: lambda x, w, b: _convolve(x, w.swapaxes(0, 1), b),
    NO_BIAS: lambda x, w, b: _convolve(x, w, 0 * b),
}
FIRST_IMAGE = "All images of the batch get the result of the first one. Does your code use n?"
SIZE = "has shape"


def _ours(x: Array, w: Array, b: Array) -> Array:
    return ops.conv2d_forward(x, w, b)[0]


exercise(
    "02.loops",
    "conv_loops(x, w, b) -> y, the formula as loops",
    laws=(equals(_convolve, _xwb, {**LOOKALIKES, FIRST_IMAGE: lambda x, w, b: _convolve(np.repeat(x[:1], len(x), 0), w, b)},
                 what="y"),),
    mistakes=(
        Mistake(NO_BIAS, edits=(("= b[o] + total", "= total"),)),
        Mistake(FIRST_IMAGE, edits=(("x[n, i + r, j + s, c]", "x[0, i + r, j + s, c]"),)),
        Mistake(SIZE, edits=(("height - size + 1", "height"), ("i + r, ", "(i + r) % height, "))),
        Mistake(FLIPPED, bug="kernel_flipped"),
        Mistake(TRANSPOSED, bug="kernel_transposed"),
        Mistake(NO_BIAS, bug="bias_forgotten"),
    ),
    ours=_ours,
)  # fmt: skip

exercise(
    "02.taps",
    "conv_taps(x, w, b) -> y, nine shifted products",
    laws=(equals(_convolve, _xwb, {
        **LOOKALIKES,
        "Only the last tap arrives. Add the taps up: y += ..., not y = ...": lambda x, w, b: x[:, 2:, 2:] @ w[2, 2] + b,
        "Every tap adds the bias again. Add it once.": lambda x, w, b: _convolve(x, w, 9 * b),
    }, what="y"),),
    mistakes=(
        Mistake(FLIPPED, edits=(("@ w[r, s]", "@ w[2 - r, 2 - s]"),)),
        Mistake("Add the taps up", edits=(("y += ", "y[:] = "), ("x.dtype) + b\n", "x.dtype)\n"), ("return y", "return y + b"))),
        Mistake("Add it once", edits=(("@ w[r, s]", "@ w[r, s] + b"), ("x.dtype) + b", "x.dtype)"))),
        Mistake("Your code stops", edits=(("r : r + rows", "r : rows"),)),
        Mistake(TRANSPOSED, bug="kernel_transposed"),
    ),
    ours=_ours,
)  # fmt: skip

def _columns_first(x: Array, size: int) -> Array:
    """The rows in another order: down the columns of each image."""
    shape = (len(x), x.shape[1] - size + 1, x.shape[2] - size + 1, -1)
    return _columns(x, size).reshape(shape).swapaxes(1, 2).reshape(-1, size * size * x.shape[3])


exercise(
    "02.im2col",
    "columns(x, size) -> (N P Q, K K C), every window of the image as a row",
    laws=(equals(_columns, _x_size, {
        "Rows and columns inside a window are exchanged: a window is read row by row, each pixel with its channels.":
            lambda x, size: _windows(x, size).swapaxes(1, 2).reshape(-1, size * size * x.shape[3]),
        "Your rows go down the columns of the image first. The order is n, then i, then j: the loop over j is the innermost.":
            _columns_first,
        "The channel is to be the fastest axis, as it is in w.reshape(K K C, O); in your rows the place in the window is.":
            lambda x, size: _windows(x, size).transpose(0, 3, 1, 2).reshape(-1, size * size * x.shape[3]),
    }, what="the array of columns"),),
    mistakes=(
        Mistake("the place in the window is", edits=((".ravel()", ".transpose(2, 0, 1).ravel()"),)),
        Mistake("inside a window are exchanged", edits=((".ravel()", ".swapaxes(0, 1).ravel()"),)),
        Mistake("down the columns of the image first", edits=(
            ("        for i in range(height - size + 1):\n            for j in range(width - size + 1):\n",
             "        for j in range(width - size + 1):\n            for i in range(height - size + 1):\n"),
        )),
        Mistake(SIZE, edits=(("height - size + 1", "height - size"),)),
    ),
)  # fmt: skip

exercise(
    "02.same",
    "conv_same(x, w, b) -> y, as large as x, which counts as zero outside",
    laws=(equals(_same, _xwb, {
        "Beyond the edge your x repeats its last pixel; with same padding it is 0 there.":
            lambda x, w, b: _convolve(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"), w, b),
        "Your zeros stand on one side only, so that the result is moved by a pixel: one row and column on each side.":
            lambda x, w, b: _convolve(np.pad(x, ((0, 0), (0, 2), (0, 2), (0, 0))), w, b),
        "The zeros stand around the result. Padding comes first: at the border a window sees real pixels and zeros.":
            lambda x, w, b: np.pad(_convolve(x, w, b), ((0, 0), (1, 1), (1, 1), (0, 0))),
    }, what="y"),),
    mistakes=(
        Mistake("repeats its last pixel", edits=(("(0, 0)))", '(0, 0)), mode="edge")'),)),
        Mistake("on one side only", edits=(("((0, 0), (1, 1), (1, 1), (0, 0))", "((0, 0), (0, 2), (0, 2), (0, 0))"),)),
        Mistake(SIZE, edits=(("((0, 0), (1, 1), (1, 1), (0, 0))", "((0, 0), (2, 2), (2, 2), (0, 0))"),)),
        Mistake("Your code stops", edits=(("((0, 0), (1, 1), (1, 1), (0, 0))", "((1, 1), (1, 1), (0, 0))"),)),
        Mistake("Take y, the first of the two", edits=(("(padded, w, b)[0]", "(padded, w, b)"),)),
    ),
)  # fmt: skip
