"""Lesson 03: the backward pass of the convolution."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, catalogue, difference, exercise, sizes
from tinyunet.errors import CheckError, ShapeError
from tinyunet.ops.conv import ConvContext

Gradients = tuple[Array, Array, Array]


def _scattered(dy: Array, x: Array, w: Array) -> Gradients:
    """The reports of every window, one after another."""
    dx, dw, size = np.zeros(x.shape), np.zeros(w.shape), w.shape[0]
    for n, i, j in np.ndindex(dy.shape[:3]):
        dx[n, i : i + size, j : j + size] += w @ dy[n, i, j]
        dw += x[n, i : i + size, j : j + size, :, None] * dy[n, i, j]
    return dx, dw, np.einsum("nijo->o", dy)


def _last_report(dy: Array, x: Array, w: Array, order: str) -> Gradients:
    """What is left if reports are assigned, not added: in the order of loops over pixels, or over taps."""
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    pixels, taps = product(*map(range, dy.shape[:3])), product(range(w.shape[0]), range(w.shape[1]))
    steps = product(pixels, taps) if order != "taps" else (step[::-1] for step in product(taps, list(pixels)))
    for (n, i, j), (r, s) in steps:
        dx[n, i + r, j + s] = w[r, s, :, -1] * dy[n, i, j, -1] if order == "numbers" else w[r, s] @ dy[n, i, j]
        dw[r, s] = x[n, i + r, j + s, :, None] * dy[n, i, j]
    return dx, dw, dy[-1, -1, -1]


def _case(draw: Draw) -> tuple[Array, Array, Array]:
    """dy, x, w: never square, never as many channels in as out, more than one image."""
    height, c_in = draw.integer(4, 6), draw.integer(2, 4)
    c_out = draw.choice([c for c in (2, 3, 4) if c != c_in])
    shape = (draw.integer(2, 3), height, height + draw.integer(1, 2), c_in)
    normal = draw.rng.standard_normal
    return normal((shape[0], shape[1] - 2, shape[2] - 2, c_out)), normal(shape), normal((3, 3, c_in, c_out))


TURNED = "You turn the kernel by 180 degrees. What was read with w[r, s], x at (i + r, j + s), gets its report through w[r, s]."
TRANSPOSED = "Rows and columns of the kernel are exchanged: r goes with i, s with j."
ADD_DX = "A pixel is read by up to nine outputs, and by every channel o of them. Add their reports up: dx[...] += ..."
ADD_DW = "Only one pixel's report is left in dw. All images and pixels use the same kernel: dw[...] += ..."
FIRST_IMAGE = "Only the first image counts. Sum over all images."
MEAN = "That is divided by the number of images. Sum: if the loss is a mean, dy knows of it."
OF_BATCH = "You sum over the images only. The bias is added to every pixel, too: sum over all axes but the last."
OF_PIXELS = "You sum over the pixels only. All images share the bias: sum over all axes but the last."
SWAPPED = "The channels are exchanged: the last two axes of dw are C and O, like those of w. Which factor must be transposed?"


def _part(name: str, found: Any, expected: Array, hints: list[tuple[str, Array]]) -> None:
    if wrong := difference(name, found, expected):
        told = (f"\nHint: {hint}" for hint, other in hints if not difference(name, found, other))
        raise CheckError(wrong + next(told, ""))


def _gradients(draw: Draw, backward: Callable[..., Any]) -> None:
    dy, x, w = _case(draw)
    handed = {"dy": dy.copy(), "x": x.copy(), "w": w.copy()}
    found = backward(*handed.values())
    if not isinstance(found, tuple) or len(found) != 3:
        raise CheckError("backward returns three arrays: return dx, dw, db")
    dx, dw, db = _scattered(dy, x, w)
    of_first = _scattered(dy[:1], x[:1], w)
    try:
        _part("dx", found[0], dx, [
            (TURNED, _scattered(dy, x, w[::-1, ::-1])[0]),
            (TRANSPOSED, _scattered(dy, x, w.swapaxes(0, 1))[0]),
            *((ADD_DX, _last_report(dy, x, w, order)[0]) for order in ("pixels", "numbers", "taps")),
            (MEAN, dx / len(x)),
            ("dx is what dw should be, and dw what dx should be: return dx, dw, db.", dw),
        ])  # fmt: skip
        _part("dw", found[1], dw, [
            (TURNED, dw[::-1, ::-1]),
            (TRANSPOSED, dw.swapaxes(0, 1)),
            (ADD_DW, _last_report(dy, x, w, "pixels")[1]),
            (FIRST_IMAGE, of_first[1]),
            ("Only the last image counts. Sum over all images.", _scattered(dy[-1:], x[-1:], w)[1]),
            (MEAN, dw / len(x)),
            (SWAPPED, dw.swapaxes(2, 3)),
        ])  # fmt: skip
        _part("db", found[2], db, [
            (OF_BATCH, dy.sum(axis=0)),
            (OF_PIXELS, dy.sum(axis=(1, 2))),
            (FIRST_IMAGE, of_first[2]),
            (MEAN, db / len(x)),
            ("That is the mean over images and pixels. Sum: if the loss is a mean, dy knows of it.", dy.mean(axis=(0, 1, 2))),
            ("The bias is added once to every output pixel, not once for every weight.", 9 * x.shape[3] * db),
            ("The bias is added once to every output pixel, not once for every tap.", 9 * db),
            ("Only the last pixel counts: db[o] += ...", dy[-1, -1, -1]),
        ])  # fmt: skip
    except CheckError as failure:
        raise CheckError(f"{failure}\nCalled with {sizes(handed)}.") from None
    for name, before in (("dy", dy), ("x", x), ("w", w)):
        if not np.array_equal(handed[name], before):
            raise CheckError(f"All gradients are right, but your code changes its argument {name}. Others may still need it.")


_LAWS = catalogue(
    "conv2d",
    properties=("gradient_by_differences", "gradient_by_complex_step", "backward_is_the_adjoint", "images_do_not_mix",
                "dx_of_one_pixel_is_the_kernel", "backward_is_the_transposed_matrix"),
)  # fmt: skip


def _laws_of_the_catalogue(draw: Draw, backward: Callable[..., Any]) -> None:
    """The answer behind our valid convolution; the catalogue takes a forward of three arguments to know no padding."""
    def forward(x: Array, w: Array, b: Array) -> Any:
        return ops.conv2d_forward(x, w, b)

    _LAWS(draw, forward, lambda dy, ctx: backward(dy, ctx.x, ctx.w))


def _ours(dy: Array, x: Array, w: Array) -> Any:
    return ops.conv2d_backward(dy, ConvContext(x, w, 0))


exercise(
    "03.loops",
    "backward_loops(dy, x, w) -> dx, dw, db, where every product of the forward pass sends its two reports",
    laws=(_gradients,),
    mistakes=(
        Mistake(TURNED, edits=(("* w[r, s, c, o]", "* w[2 - r, 2 - s, c, o]"),)),
        Mistake(ADD_DX, edits=(("dx[n, i + r, j + s, c] +=", "dx[n, i + r, j + s, c] ="),)),
        Mistake(ADD_DW, edits=(("dw[r, s, c, o] +=", "dw[r, s, c, o] ="),)),
        Mistake("not once for every weight", edits=(("        db[o] += dy[n, i, j, o]\n", ""), ("            dw[r, s, c, o] +=",
                "            db[o] += dy[n, i, j, o]\n            dw[r, s, c, o] +="))),
        Mistake("return dx, dw, db", edits=(("return dx, dw, db", "return dx, dw"),)),
        Mistake("dw what dx should be", edits=(("return dx, dw, db", "return dw, dx, db"),)),
        Mistake(ADD_DW, bug="dw_of_the_last_pixel"),
        Mistake(MEAN, bug="dw_is_a_mean"),
        Mistake(MEAN, bug="bias_gradient_is_a_mean"),
    ),
    ours=_ours,
)  # fmt: skip

exercise(
    "03.taps",
    "backward_taps(dy, x, w) -> dx, dw, db, for each tap two matrix products",
    laws=(_gradients, _laws_of_the_catalogue),
    mistakes=(
        Mistake(TURNED, edits=(("dy @ w[r, s].T", "dy @ w[2 - r, 2 - s].T"),)),
        Mistake(ADD_DX, edits=(("+= dy @", "= dy @"),)),
        Mistake(OF_BATCH, edits=(("dy.sum(axis=(0, 1, 2))", "dy.sum(axis=0)"),)),
        Mistake(OF_PIXELS, edits=(("dy.sum(axis=(0, 1, 2))", "dy.sum(axis=(1, 2))"),)),
        Mistake("w[r, s] is (C, O), so take w[r, s].T", edits=(("w[r, s].T", "w[r, s]"),)),
        Mistake("both factors first", edits=(("window.reshape(-1, c_in).T @ dy.reshape(-1, c_out)", "window.T @ dy"),)),
        Mistake(FIRST_IMAGE, edits=(("window.reshape(-1, c_in).T @ dy.reshape(-1, c_out)",
                                     "window[0].reshape(-1, c_in).T @ dy[0].reshape(-1, c_out)"),)),
        Mistake("dw is", edits=(("window.reshape(-1, c_in).T @", "window.reshape(c_in, -1) @"),)),
        Mistake(TRANSPOSED, edits=(("dw[r, s] = ", "dw[s, r] = "),)),
        Mistake("dx is", bug="dx_with_unflipped_kernel"),
    ),
    ours=_ours,
    stops={"matmul": "For dx: dy has O channels and w[r, s] is (C, O), so take w[r, s].T. For dw, make matrices of N P Q rows "
                     "out of both factors first."},
)  # fmt: skip


RESHAPED = "reshape does not exchange axes, it deals the same numbers out anew: swapaxes(2, 3)."


def _full(draw: Draw, grad_x_full: Callable[..., Any]) -> None:
    dy, x, w = _case(draw)
    handed = {"dy": dy.copy(), "w": w.copy()}

    def convolved(kernel: Array) -> Array:
        """What a full convolution gives with this kernel, (3, 3, O, C)."""
        return ops.conv2d_forward(np.pad(dy, ((0, 0), (2, 2), (2, 2), (0, 0))), kernel, np.zeros(w.shape[2]))[0]

    swapped, c_out, c_in = w.swapaxes(2, 3), w.shape[3], w.shape[2]
    reshaped = w.reshape(3, 3, c_out, c_in)
    try:
        found = grad_x_full(*handed.values())
    except ShapeError as refused:
        why = f"The convolution refuses what you give it: {refused}"
        if f"expected (3, 3, {c_out}" in str(refused) or f"{w.shape}" in str(refused):
            why += "\nHint: C and O are not exchanged. dy has O channels, so the kernel must be (3, 3, O, C): swap two axes."
        raise CheckError(f"{why}\nCalled with {sizes(handed)}, where C is {c_in} and O is {c_out}.") from None
    try:
        _part("dx", found, _scattered(dy, x, w)[0], [
            ("The kernel is not turned. Reversed rows and columns: w[::-1, ::-1].", convolved(swapped)),
            ("The kernel is turned over, not round: reverse its rows and its columns.", convolved(swapped[::-1])),
            ("The kernel is turned over, not round: reverse its rows and its columns.", convolved(swapped[:, ::-1])),
            (RESHAPED, convolved(reshaped)),
            (RESHAPED, convolved(reshaped[::-1, ::-1])),
            ("Rows and columns of the kernel are exchanged.", convolved(swapped[::-1, ::-1].swapaxes(0, 1))),
            ("dy has a border of one pixel. At the corner of x the window meets dy in a single pixel: K - 1 = 2.",
             convolved(swapped[::-1, ::-1])[:, 1:-1, 1:-1]),
            ("dy has no border of zeros. At the corner of x the window meets dy in a single pixel: K - 1 = 2.",
             convolved(swapped[::-1, ::-1])[:, 2:-2, 2:-2]),
        ])  # fmt: skip
    except CheckError as failure:
        raise CheckError(f"{failure}\nCalled with {sizes(handed)}.") from None


def _ours_full(dy: Array, w: Array) -> Any:
    x = np.zeros((len(dy), dy.shape[1] + 2, dy.shape[2] + 2, w.shape[2]))
    return ops.conv2d_backward(dy, ConvContext(x, w, 0))[0]


exercise(
    "03.full",
    "grad_x_full(dy, w) -> dx, as a forward convolution of dy",
    laws=(_full,),
    mistakes=(
        Mistake("The kernel is not turned", edits=(("w[::-1, ::-1].swapaxes(2, 3)", "w.swapaxes(2, 3)"),)),
        Mistake("C and O are not exchanged", edits=(("w[::-1, ::-1].swapaxes(2, 3)", "w[::-1, ::-1]"),)),
        Mistake("turned over, not round", edits=(("w[::-1, ::-1]", "w[::-1]"),)),
        Mistake("reshape does not exchange axes", edits=((".swapaxes(2, 3)", ".reshape(3, 3, w.shape[3], w.shape[2])"),)),
        Mistake("a forward pass returns (y, ctx)", edits=((")[0]", ")"),)),
        Mistake("dy has a border of one pixel", edits=(("(2, 2), (2, 2)", "(1, 1), (1, 1)"),)),
        Mistake("dx is", bug="dx_with_unflipped_kernel"),
        Mistake("dx is", bug="col2im_overwrites"),
    ),
    ours=_ours_full,
)  # fmt: skip


def _slope(draw: Draw, slope: Callable[..., Any]) -> None:
    """Of a function whose derivative is known: f(v) = sum of a sin(v) + exp(v / 2)."""
    shape = (draw.integer(2, 4), draw.integer(2, 4))
    a, v, u = draw.rng.standard_normal((3, *shape))
    kept = v.copy(), u.copy()

    def f(v: Array) -> Any:
        return (a * np.sin(v) + np.exp(v / 2)).sum()

    dv = a * np.cos(v) + np.exp(v / 2) / 2
    found, expected = slope(f, v, u), float((dv * u).sum())
    if np.iscomplexobj(found):
        raise CheckError(f"The slope is {found}, a complex number. Take the imaginary part of f: .imag, or np.imag.")
    if not isinstance(found, int | float | np.number):
        raise CheckError(difference("the slope", found, np.float64(expected)) or "The slope is an array, expected one number.")
    terms = float(np.abs(dv * u).sum())
    gap = abs(float(found) - expected)
    if not gap <= 1e-12 * terms:  # "not <=" so that a NaN is wrong
        hints = (
            ("That is the value of f, or its real part. The slope stands in the imaginary part.", float(f(v)), 1e-9),
            ("That is f divided by h. The slope stands in the imaginary part alone.", float(f(v)) / 1e-30, 1e-9),
            ("That is h times the slope. Divide the imaginary part by h.", 1e-30 * expected, 1e-9),
            ("That is the sum of all slopes, along ones. Step along u.", float(dv.sum()), 1e-5),
            ("That is the slope at 0. Step from v: v + 1j * h * u.", float(((a + 0.5) * u).sum()), 1e-5),
            ("The sign is wrong.", -expected, 1e-5),
            ("You divide by 2 h, as for a difference of two sides. With one step, divide by h.", expected / 2, 1e-5),
            ("It is 0. A real step of 1e-30 is lost in rounding; an imaginary one, 1j * h * u, is not.", 0.0, 0.0),
        )
        told = next((hint for hint, value, near in hints if abs(found - value) <= near * abs(value)), "")
        if not told and gap < 1e-2 * terms:
            told = (f"That is nearly right, {gap:.0e} off: the error of a difference, or of a step that is too large. Step into "
                    "the imaginary direction, v + 1j * h * u with h = 1e-30, and subtract nothing.")  # fmt: skip
        hint = f"\nHint: {told}" if told else ""
        raise CheckError(f"the slope is {found:.15g}, expected {expected:.15g}.{hint}\n"
                         f"Called with a smooth f, v {v.shape} and u {u.shape}.")  # fmt: skip
    if not (np.array_equal(kept[0], v) and np.array_equal(kept[1], u)):
        raise CheckError("The slope is right, but your code changes v or u. Work on a copy.")


exercise(
    "03.slope",
    "slope(f, v, u) -> the derivative of f at v along u, by a complex step",
    laws=(_slope,),
    mistakes=(
        Mistake("the error of a difference", edits=(("h = 1e-30", "h = 1e-6"),
                                                    ("f(v + 1j * h * u).imag / h", "(f(v + h * u) - f(v - h * u)) / (2 * h)"))),
        Mistake("Divide the imaginary part by h", edits=((".imag / h", ".imag"),)),
        Mistake("Take the imaginary part", edits=((".imag / h", " / h"),)),
        Mistake("Step along u", edits=(("1j * h * u", "1j * h"),)),
        Mistake("a step that is too large", edits=(("h = 1e-30", "h = 1e-3"),)),
        Mistake("A real step of 1e-30 is lost", edits=(("f(v + 1j * h * u).imag / h", "(f(v + h * u) - f(v)) / h"),)),
    ),
)  # fmt: skip
