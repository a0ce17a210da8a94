"""Lesson 06: the up-convolution, its adjoint, its backward pass, and brushes of any size and stride."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.catalogue.core import require
from tinyunet.course.exercise import Law, Mistake, catalogue, equals, exercise
from tinyunet.ops.upconv import UpConvContext


def _paint(x: Array, w: Array, s: int) -> Array:
    """Pixel by pixel: each lays its brush on the rows s i to s i + k - 1, and so with the columns."""
    k = w.shape[0]
    y = np.zeros((len(x), (x.shape[1] - 1) * s + k, (x.shape[2] - 1) * s + k, w.shape[2]), x.dtype)
    for n, i, j in np.ndindex(x.shape[:3]):
        y[n, s * i : s * i + k, s * j : s * j + k] += w @ x[n, i, j]
    return y


def _up(x: Array, w: Array, b: Array) -> Array:
    return _paint(x, w, 2) + b


def _collect(v: Array, w: Array) -> Array:
    """The convolution of stride 2, window by window."""
    z = np.empty((len(v), v.shape[1] // 2, v.shape[2] // 2, w.shape[3]), v.dtype)
    for n, i, j in np.ndindex(z.shape[:3]):
        z[n, i, j] = np.tensordot(v[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], w, 3)
    return z


def _dw(dy: Array, x: Array, w: Array) -> Array:
    """Every pixel adds the product of the block it painted and its own channels."""
    dw = np.zeros_like(w)
    for n, i, j in np.ndindex(x.shape[:3]):
        dw += np.multiply.outer(dy[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], x[n, i, j])
    return dw


def _db(dy: Array, x: Array, w: Array) -> Array:
    return np.array([dy[..., o].sum() for o in range(dy.shape[3])])


def _four_quarters(x: Array, w: Array, b: Array) -> Array:
    rows = (np.concatenate([x @ w[a, d].T for d in range(2)], axis=2) for a in range(2))
    return np.concatenate(list(rows), axis=1) + b


def _xwb(draw: Draw) -> dict[str, Any]:
    """Never square, never as many channels in as out, never one image: such a case hides mistakes."""
    height, c = draw.integer(2, 4), draw.integer(2, 3)
    normal = draw.rng.standard_normal
    shape = draw.integer(2, 3), height, height + draw.integer(1, 2), c
    return {"x": normal(shape), "w": normal((2, 2, c + 2, c)), "b": normal(c + 2)}


def _vw(draw: Draw) -> dict[str, Any]:
    x, w, _ = _xwb(draw).values()
    return {"v": draw.rng.standard_normal((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], w.shape[2])), "w": w}


def _dyxw(draw: Draw) -> dict[str, Any]:
    x, w, _ = _xwb(draw).values()
    return {"dy": draw.rng.standard_normal((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], w.shape[2])), "x": x, "w": w}


def _brush(k: int, s: int) -> Callable[[Draw], dict[str, Any]]:
    def arguments(draw: Draw) -> dict[str, Any]:
        x, w, _ = _xwb(draw).values()
        return {"x": x, "w": draw.rng.standard_normal((k, k, *w.shape[2:])), "s": s}

    return arguments


def _part(k: int, name: str, formula: Callable[..., Array], lookalikes: dict[str, Callable[..., Array]]) -> Law:
    """One of the three gradients, so that the check says which."""
    one = equals(formula, _dyxw, lookalikes, what=name)

    def law(draw: Draw, answer: Callable[..., Any]) -> None:
        def part(*arguments: Array) -> Any:
            found = answer(*arguments)
            require(isinstance(found, tuple) and len(found) == 3, "Three gradients are wanted: return dx, dw, db.")
            return found[k]

        one(draw, part)

    law.__name__ = name
    return law


_adjoint = catalogue("upconv", properties=("backward_is_the_adjoint", "gradient_by_complex_step"))


def _whole(draw: Draw, answer: Callable[..., Any]) -> None:
    """The three together, as the backward half of our op."""
    _adjoint(draw, ops.upconv_forward, lambda dy, ctx: answer(dy, *ctx))


TURNED = "Your blocks are turned by 180 degrees. The brush is laid on as it is: w[0, 0] is the upper left pixel of a block."
TRANSPOSED = "Rows and columns of the kernel are exchanged: w[a, d] belongs to row 2i + a and column 2j + d."
UPSIDE_DOWN = "The two rows of every block are exchanged: w[a] belongs to row 2i + a."
NO_BIAS = "The bias is missing: every pixel of output channel o gets b[o]."
FIRST_IMAGE = "All images of the batch get the result of the first one."
QUARTERS = "The four taps stand in the four quarters of y. Tap (a, d) belongs to the pixels (2i + a, 2j + d): y[:, a::2, d::2]."
ONE_TAP = "Only one pixel of each block is right, the others hold the bias alone. Are all four taps painted?"
MEAN = "You take the mean of the four taps. Nothing is divided here: the adjoint of painting is the plain sum."
SUBSAMPLED = "Only tap (0, 0) is used: three pixels of every block are not looked at."
SHAPE = "has shape"

exercise(
    "06.paint",
    "upconv(x, w, b) -> y, every input pixel paints a 2x2 block",
    laws=(equals(_up, _xwb, {
        TURNED: lambda x, w, b: _up(x, w[::-1, ::-1], b),
        TRANSPOSED: lambda x, w, b: _up(x, w.swapaxes(0, 1), b),
        UPSIDE_DOWN: lambda x, w, b: _up(x, w[::-1], b),
        NO_BIAS: lambda x, w, b: _up(x, w, 0 * b),
        FIRST_IMAGE: lambda x, w, b: _up(np.repeat(x[:1], len(x), 0), w, b),
        QUARTERS: _four_quarters,
        ONE_TAP: lambda x, w, b: _up(x, w * np.array([[0, 0], [0, 1]])[:, :, None, None], b),
    }, what="y"),),
    mistakes=(
        Mistake(TURNED, edits=(("w[a, d].T", "w[1 - a, 1 - d].T"),)),
        Mistake(TRANSPOSED, edits=(("w[a, d].T", "w[d, a].T"),)),
        Mistake(NO_BIAS, edits=(("x.dtype) + b", "x.dtype)"),)),
        Mistake(FIRST_IMAGE, edits=(("x @ w", "x[:1] @ w"),)),
        Mistake(QUARTERS, edits=(("y[:, a::2, d::2]", "y[:, a * height : (a + 1) * height, d * width : (d + 1) * width]"),)),
        Mistake(ONE_TAP, edits=(("y[:, a::2, d::2] += x @ w[a, d].T", "pass\n    y[:, a::2, d::2] += x @ w[a, d].T"),)),
        Mistake("Your code stops", edits=(("w[a, d].T", "w[a, d]"),)),
        Mistake(UPSIDE_DOWN, bug="upconv_rows_exchanged"),
    ),
    ours=lambda x, w, b: ops.upconv_forward(x, w, b)[0],
)  # fmt: skip

exercise(
    "06.collect",
    "conv_stride2(v, w) -> z, the convolution of stride 2 whose windows are the 2x2 blocks",
    laws=(equals(_collect, _vw, {
        MEAN: lambda v, w: _collect(v, w) / 4,
        SUBSAMPLED: lambda v, w: v[:, ::2, ::2] @ w[0, 0],
        "The kernel is turned by 180 degrees: w[a, d] meets pixel (2i + a, 2j + d), as when painting.":
            lambda v, w: _collect(v, w[::-1, ::-1]),
        TRANSPOSED: lambda v, w: _collect(v, w.swapaxes(0, 1)),
        "Only the last tap arrives. Add the four products up.": lambda v, w: v[:, 1::2, 1::2] @ w[1, 1],
    }, what="z"),),
    mistakes=(
        Mistake(MEAN, edits=(("return z", "return z / 4"),)),
        Mistake(SUBSAMPLED, edits=(("z = z + v[:, a::2, d::2] @ w[a, d]", "z = v[:, ::2, ::2] @ w[0, 0]"),)),
        Mistake("turned by 180 degrees", edits=(("@ w[a, d]", "@ w[1 - a, 1 - d]"),)),
        Mistake("Only the last tap arrives", edits=(("z = z + v", "z = v"),)),
        Mistake(SHAPE, edits=(("v[:, a::2, d::2]", "v[:, a : v.shape[1] - 1 + a, d : v.shape[2] - 1 + d]"),)),
        Mistake("Your code stops", edits=(("@ w[a, d]", "@ w[a, d].T"),)),
    ),
)  # fmt: skip

exercise(
    "06.backward",
    "upconv_backward(dy, x, w) -> dx, dw, db",
    laws=(
        _part(0, "dx", lambda dy, x, w: _collect(dy, w), {
            "The kernel is turned by 180 degrees. dx collects with the very w that painted.":
                lambda dy, x, w: _collect(dy, w[::-1, ::-1]),
            "The upper row of each block of dy meets both rows of w, and the lower row none.":
                lambda dy, x, w: _collect(dy[:, ::2].repeat(2, axis=1), w),
            MEAN: lambda dy, x, w: _collect(dy, w) / 4,
        }),
        _part(1, "dw", _dw, {
            "dw is a mean over images. Each image adds to it; if a mean is wanted, the loss has taken it.":
                lambda dy, x, w: _dw(dy, x, w) / len(x),
            "dw is a mean over images and pixels. Each pixel adds to it; nothing is divided.":
                lambda dy, x, w: _dw(dy, x, w) / x[..., 0].size,
            "dw knows the first image alone: N is to be summed over, too.": lambda dy, x, w: _dw(dy[:1], x[:1], w),
            "The taps of dw are turned by 180 degrees: dw[a, d] comes from the pixels (2i + a, 2j + d) of dy.":
                lambda dy, x, w: _dw(dy, x, w)[::-1, ::-1],
        }),
        _part(2, "db", _db, {
            "db is a mean. b[o] was added to every pixel, so all their gradients add up.":
                lambda dy, x, w: _db(dy, x, w) / dy[..., 0].size,
            "db adds up one pixel of each block. b[o] was added to all four.": lambda dy, x, w: _db(dy[:, ::2, ::2], x, w),
        }),
        _whole,
    ),
    mistakes=(
        Mistake("Three gradients are wanted", edits=(("return dx, dw, db", "return dx, dw"),)),
        Mistake("dw is a mean over images and pixels", edits=(("w.shape[3])", "w.shape[3]) / len(block)"),)),
        Mistake("dw knows the first image alone",
                edits=(("dy[:, a::2, d::2]", "dy[:1, a::2, d::2]"), ("x.reshape", "x[:1].reshape"))),
        Mistake("The taps of dw are turned", edits=(("dw[a, d] =", "dw[1 - a, 1 - d] ="),)),
        Mistake("dx collects with the very w", edits=(("conv_stride2(dy, w)", "conv_stride2(dy, w[::-1, ::-1])"),)),
        Mistake("db is a mean", edits=(("dy.sum(", "dy.mean("),)),
        Mistake("db has shape", edits=(("dy.sum(axis=(0, 1, 2))", "dy.sum(axis=(1, 2))"),)),
        Mistake("The upper row of each block of dy meets both", bug="upconv_gradient_of_one_row"),
        Mistake("db adds up one pixel of each block", bug="upconv_bias_of_one_phase"),
    ),
    ours=lambda dy, x, w: ops.upconv_backward(dy, UpConvContext(x, w)),
)  # fmt: skip

OVERWRITTEN = "Where two brushes overlap, the later one wins. Both are to count: y[...] += ..., not y[...] = ..."
STRIDE_2 = "The stride is 2 whatever s says."
_BRUSHES = {
    OVERWRITTEN: lambda x, w, s: _overwriting(x, w, s),
    "The brush is turned by 180 degrees: w[0, 0] is its upper left pixel.": lambda x, w, s: _paint(x, w[::-1, ::-1], s),
    "Rows and columns of the brush are exchanged: w[a, d] belongs to row s i + a and column s j + d.":
        lambda x, w, s: _paint(x, w.swapaxes(0, 1), s),
    "Overlaps are divided by how often a pixel was painted. Nobody does that here: the sum is what is wanted.":
        lambda x, w, s: _paint(x, w, s) / np.maximum(_paint(np.ones_like(x[..., :1]), np.ones((*w.shape[:2], 1, 1)), s), 1),
}  # fmt: skip


def _overwriting(x: Array, w: Array, s: int) -> Array:
    """Tap by tap, each over what stood there."""
    y, (_, height, width, _) = 0 * _paint(x, w, s), x.shape
    for a, d in np.ndindex(w.shape[:2]):
        y[:, a : a + (height - 1) * s + 1 : s, d : d + (width - 1) * s + 1 : s] = x @ w[a, d].T
    return y


def _stroke(k: int, s: int) -> Law:
    one = equals(_paint, _brush(k, s), _BRUSHES, what="y")

    def law(draw: Draw, answer: Callable[..., Any]) -> None:
        one(draw, answer)

    law.__name__ = f"k{k}s{s}"
    return law


exercise(
    "06.any_stride",
    "paint(x, w, s) -> y, a brush of k x k pixels that moves by s",
    laws=tuple(_stroke(k, s) for k, s in ((3, 2), (2, 2), (4, 2), (1, 2), (3, 1), (2, 3))),
    mistakes=(
        Mistake("Both are to count", edits=(("] += x", "] = x"),)),
        Mistake("w[0, 0] is its upper left pixel", edits=(("w[a, d].T", "w[k - 1 - a, k - 1 - d].T"),)),
        Mistake("y has shape", edits=(("y = np.zeros((n, (height - 1) * s + k, (width - 1) * s + k,",
                                       "y = np.zeros((n, height * s + k, width * s + k,"),)),
        Mistake("Overlaps are divided", edits=(
            ("w.shape[2]), x.dtype)", "w.shape[2]), x.dtype)\n    count = np.zeros(y.shape)"),
            ("+= x @ w[a, d].T", "+= x @ w[a, d].T\n            count[:, a::s, d::s][:, :height, :width] += 1"),
            ("return y", "return y / np.maximum(count, 1)"),
        )),
        Mistake("Your code stops", edits=(("w[a, d].T", "w[a, d]"),)),
    ),
)  # fmt: skip
