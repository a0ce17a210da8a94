"""Lesson 01: mirror padding, and its adjoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, catalogue, difference, equals, exercise
from tinyunet.errors import CheckError


def _walk(n: int) -> list[int]:
    """One period, on foot: there, and back without standing still at either end."""
    return [*range(n), *range(n - 2, 0, -1)]


def _sources(start: int, stop: int, n: int) -> list[int]:
    period = _walk(n)
    return [period[i % len(period)] for i in range(start, stop)]


def _edge_twice(start: int, stop: int, n: int) -> list[int]:
    period = [*range(n), *range(n - 1, -1, -1)]
    return [period[i % len(period)] for i in range(start, stop)]


def _once(start: int, stop: int, n: int) -> list[int]:
    return [min(max(abs(i) if i < n else 2 * (n - 1) - i, 0), n - 1) for i in range(start, stop)]


EDGE_TWICE = "The edge stands twice in your border. The edge is the mirror itself: place -1 shows pixel 1, not pixel 0."
ONCE = ("Right as far as one mirror reaches. Beyond that the walker must turn round at the other edge again: bring i into one "
        "period first, i % (2 * (n - 1)).")  # fmt: skip
ANEW = "Beyond the edge your image begins anew, like tiles on a wall. On the way back the pixel number must fall."
LEFT_ONLY = "Right beyond the left edge, wrong beyond the right one: place n shows pixel n - 2."
INDICES: tuple[tuple[str, Callable[[int, int, int], list[int]]], ...] = (
    (EDGE_TWICE, _edge_twice),
    (ONCE, _once),
    (ONCE, lambda start, stop, n: [abs(i) if i < n else 2 * (n - 1) - i for i in range(start, stop)]),
    (ONCE, lambda start, stop, n: [n - 1 - abs(n - 1 - abs(i)) for i in range(start, stop)]),
    (LEFT_ONLY, lambda start, stop, n: [abs(i) for i in range(start, stop)]),
    (LEFT_ONLY, lambda start, stop, n: [min(abs(i), n - 1) for i in range(start, stop)]),
    (ANEW, lambda start, stop, n: [i % n for i in range(start, stop)]),
    (ANEW, lambda start, stop, n: [i % (2 * (n - 1)) for i in range(start, stop)]),
    ("Beyond the edge you repeat the edge pixel. A mirror shows what lies inside of it.",
     lambda start, stop, n: [min(max(i, 0), n - 1) for i in range(start, stop)]),
)  # fmt: skip
"""Indices that people take for a mirror's."""


def _index(draw: Draw, sources: Callable[[int, int, int], Any]) -> None:
    """First a border that is narrower than the image, then one that is several times as wide."""
    n = draw.integer(3, 7)
    for border in (n - 1, 2 * n + draw.integer(0, 2)):
        start, stop = -border, n + border
        found, expected = sources(start, stop, n), _sources(start, stop, n)
        _whole(found)
        if wrong := difference("the list of sources", found, np.array(expected)):
            wrong += f"\nsources({start}, {stop}, {n}) should be {expected}"
            if np.shape(found) == np.shape(expected):
                wrong += f"\n{'':>{len(str(start)) + len(str(stop)) + len(str(n)) + 14}} and is {np.asarray(found).tolist()}"
                told = (f"\nHint: {hint}" for hint, other in INDICES if np.array_equal(found, other(start, stop, n)))
                wrong += next(told, "")
            raise CheckError(wrong)


def _whole(found: Any) -> None:
    if found is not None and (kind := np.asarray(found).dtype).kind not in "iu":
        raise CheckError(f"The sources are of type {kind}. They will index an array: whole numbers, please.")


def _single_pixel(draw: Draw, sources: Callable[[int, int, int], Any]) -> None:
    start, stop = -draw.integer(1, 4), 1 + draw.integer(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = sources(start, stop, 1)
        except (ZeroDivisionError, RuntimeWarning) as failure:
            raise CheckError("For n = 1 your code divides by zero: 2(n - 1) is 0. A single pixel is shown everywhere; "
                             "treat this case first.") from failure  # fmt: skip
    _whole(found)
    if wrong := difference("for n = 1 the list of sources", found, np.zeros(stop - start)):
        raise CheckError(f"{wrong}\nA single pixel, number 0, is shown everywhere: {stop - start} times here.")


exercise(
    "01.index",
    "sources(start, stop, n) -> the pixel that the mirror shows at each place",
    laws=(_index, _single_pixel),
    mistakes=(
        Mistake(EDGE_TWICE, edits=(("period = 2 * (n - 1)", "period = 2 * n"), ("period - i", "period - 1 - i"))),
        Mistake("the list of sources is", edits=(("period - i", "period - 1 - i"),)),
        Mistake(ANEW, edits=(("period = 2 * (n - 1)", "period = n"), ("np.minimum(i, period - i)", "i"))),
        Mistake(ANEW, edits=(("np.minimum(i, period - i)", "i"),)),
        Mistake(LEFT_ONLY, edits=(("np.arange(start, stop) % period", "np.arange(start, stop)"),
                                  ("np.minimum(i, period - i)", "abs(i)"))),
        Mistake(ONCE, edits=(("np.arange(start, stop) % period", "np.arange(start, stop)"),
                             ("np.minimum(i, period - i)", "np.where(i < n, abs(i), period - i)"))),
        Mistake("For n = 1 your code divides by zero", edits=(("if n == 1", "if n == 0"),)),
        Mistake("whole numbers, please", edits=(("np.minimum(i, period - i)", "period / 2 - abs(i - period / 2)"),)),
        Mistake("whole numbers, please", edits=(("np.zeros(stop - start, int)", "np.zeros(stop - start)"),)),
        Mistake("has shape", edits=(("np.arange(start, stop)", "np.arange(start, stop + 1)"),)),
        Mistake(EDGE_TWICE, bug="symmetric_for_reflect"),
        Mistake(ONCE, bug="mirrored_once"),
    ),
    ours=lambda start, stop, n: ops.mirror_index(start, stop, n),
)  # fmt: skip


def _padded(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    rows, cols = _sources(-top, x.shape[1] + bottom, x.shape[1]), _sources(-left, x.shape[2] + right, x.shape[2])
    return x[:, rows][:, :, cols]


def _by_numpy(mode: Any) -> Callable[..., Array]:
    return lambda x, top, bottom, left, right: np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), mode=mode)


def _x_amounts(draw: Draw) -> dict[str, Any]:
    """Never square, before or after; no two amounts the same, and one of them wider than the image."""
    height = draw.integer(3, 4)
    shape = (draw.integer(2, 3), height, height + draw.integer(1, 2), draw.integer(2, 3))
    amounts = draw.rng.permutation([0, 1, 2, height + draw.integer(1, 2)])
    while shape[1] + amounts[:2].sum() == shape[2] + amounts[2:].sum():
        amounts = draw.rng.permutation(amounts)
    names = ("top", "bottom", "left", "right")
    return {"x": draw.rng.standard_normal(shape), **dict(zip(names, amounts.tolist(), strict=True))}


NO_SIZE = ("The rows go from -top to height + bottom, so that the image itself is among them: "
           "mirror_index(-top, height + bottom, height), and columns likewise.")  # fmt: skip


def _without_the_image(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    return x[:, _sources(-top, bottom, x.shape[1])][:, :, _sources(-left, right, x.shape[2])]


AMOUNTS = {
    NO_SIZE: _without_the_image,
    "Left and right are exchanged: the columns begin at -left.": lambda x, t, b, le, r: _padded(x, t, b, r, le),
    "Top and bottom are exchanged: the rows begin at -top.": lambda x, t, b, le, r: _padded(x, b, t, le, r),
    "Rows and columns are exchanged: top and bottom belong to axis 1, left and right to axis 2.":
        lambda x, t, b, le, r: _padded(x, le, r, t, b),
    EDGE_TWICE: _by_numpy("symmetric"),
    "Your border is zero. Show pixels of the image in it.": _by_numpy("constant"),
    "Your border repeats the edge pixel. A mirror shows what lies inside of it.": _by_numpy("edge"),
    "Your border begins the image anew. A mirror shows it turned round.": _by_numpy("wrap"),
}  # fmt: skip

exercise(
    "01.pad",
    "pad(x, top, bottom, left, right) -> y, the image with its mirror image around it",
    laws=(equals(_padded, _x_amounts, AMOUNTS, what="y"),),
    mistakes=(
        Mistake("Left and right are exchanged", edits=(("(-left, width + right, width)", "(-right, width + left, width)"),)),
        Mistake("has shape", edits=(("mirror_index(-top, height + bottom, height)", "mirror_index(-top, height, height)"),)),
        Mistake("y is", edits=(("height + bottom, height)", "height + bottom, height - 1)"),)),
        Mistake("Your border is zero",
                edits=(("return x[:, rows][:, :, cols]", "return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))"),)),
        Mistake("NumPy pairs two lists", edits=(("x[:, rows][:, :, cols]", "x[:, rows, cols]"),)),
        Mistake(NO_SIZE, edits=(("-top, height + bottom,", "-top, bottom,"), ("-left, width + right,", "-left, right,"))),
        Mistake("Left and right are exchanged", bug="left_and_right_exchanged"),
        Mistake(EDGE_TWICE, bug="symmetric_for_reflect"),
    ),
    ours=lambda x, top, bottom, left, right: ops.mirror_pad_forward(x, top, bottom, left, right)[0],
    stops={"indexing arrays": "NumPy pairs two lists of indices, one pixel for each pair. Look up one axis after the other: "
                              "x[:, rows][:, :, cols]"},
)  # fmt: skip


ADDED = ("Of several copies of a pixel, only the last one counts in your dx. Add them up: +=. (And dx[:, rows] += ... with a "
         "list rows does not add up where a number occurs twice.)")  # fmt: skip
ADDED_ALONG_ONE = ADDED.replace("in your dx.", "in your dx, along one of the two axes.")
CUT = "You cut the border off. Its pixels are copies as well, and what they say must reach the pixels that they are copies of."
MEAN = "That is the mean over the copies of a pixel. Each copy changes the loss by itself: take the sum."


def _folded(dy: Array, rows: list[int], cols: list[int], *how: str) -> Array:
    """Along rows and columns: every copy added up, or the last one alone."""
    for axis, source, way in zip((1, 2), (rows, cols), how, strict=True):
        copies = np.moveaxis(dy, axis, 0)
        kept = np.zeros((max(source) + 1, *copies.shape[1:]))
        for i, pixel in enumerate(source):
            kept[pixel] = copies[i] + (kept[pixel] if way == "+" else 0)
        dy = np.moveaxis(kept, 0, axis)
    return dy


def _folds(draw: Draw, fold: Callable[[Array, Any], Any]) -> None:
    """dx by its definition, one pixel of dy after another; narrow borders, so that every mistake looks like itself."""
    height = draw.integer(4, 5)
    x = draw.rng.standard_normal((draw.integer(2, 3), height, height + draw.integer(1, 2), draw.integer(2, 3)))
    top, bottom, left, right = draw.rng.permutation([1, 2, 3, height]).tolist()
    rows, cols = _sources(-top, x.shape[1] + bottom, x.shape[1]), _sources(-left, x.shape[2] + right, x.shape[2])
    y, ctx = ops.mirror_pad_forward(x, top, bottom, left, right)
    dy = draw.rng.standard_normal(y.shape)
    total, count = _folded(dy, rows, cols, "+", "+"), _folded(np.ones(dy.shape), rows, cols, "+", "+")
    hints = (
        (ADDED, _folded(dy, rows, cols, "last", "last")),
        (ADDED_ALONG_ONE, _folded(dy, rows, cols, "last", "+")),
        (ADDED_ALONG_ONE, _folded(dy, rows, cols, "+", "last")),
        (MEAN, total / count),
        (CUT, dy[:, top : top + x.shape[1], left : left + x.shape[2]]),
    )
    given = dy.copy()
    found = fold(given, ctx)
    if wrong := difference("dx", found, total):
        told = (f"\nHint: {hint}" for hint, other in hints if not difference("dx", found, other))
        sides = f"top {top}, bottom {bottom}, left {left}, right {right}"
        raise CheckError(f"{wrong}{next(told, '')}\nCalled with dy {dy.shape}, for x {x.shape}, {sides}.")
    if not np.array_equal(given, dy):
        raise CheckError("dx is right, but your code changes its argument dy. Others may need it.")


exercise(
    "01.fold",
    "fold(dy, ctx) -> dx, where every pixel of dy is added to the pixel that it is a copy of",
    laws=(_folds, catalogue("mirror_pad", kinds=("adjoint", "gradient"), behind_ours=True)),
    mistakes=(
        Mistake(ADDED, edits=(("dx[:, r, s] += dy", "dx[:, r, s] = dy"),)),
        Mistake(ADDED_ALONG_ONE, edits=(("        for j, s in enumerate(ctx.cols):\n            dx[:, r, s] += dy[:, i, j]",
                               "        dx[:, r, ctx.cols] = dx[:, r, ctx.cols] + dy[:, i]"),)),
        Mistake(CUT, edits=(("return dx", "t = list(ctx.rows).index(0)\n"
                             "    return dy[:, t : t + dx.shape[1], list(ctx.cols).index(0) :][:, :, : dx.shape[2]]"),)),
        Mistake(MEAN, edits=(("dy[:, i, j]", "dy[:, i, j] / np.sum(ctx.rows == r) / np.sum(ctx.cols == s)"),)),
        Mistake("Your code stops", edits=(("enumerate(ctx.rows)", "enumerate(ctx.cols)"),
                                          ("for j, s in enumerate(ctx.cols)", "for j, s in enumerate(ctx.rows)"))),
        Mistake("changes its argument dy", edits=(("return dx", "dy *= 0\n    return dx"),)),
        Mistake("dx is", bug="padding_not_folded_back"),
    ),
    ours=lambda dy, ctx: ops.mirror_pad_backward(dy, ctx),
)  # fmt: skip


def _gap(draw: Draw, adjoint_gap: Callable[..., Any]) -> None:
    """A random matrix with its transpose, and with matrices that are not it."""
    rows, cols = draw.integer(5, 7), draw.integer(2, 4)
    a, x, dy = draw.rng.standard_normal((rows, cols)), draw.rng.standard_normal(cols), draw.rng.standard_normal(rows)
    wrong = a.T + 0.3 * draw.rng.standard_normal((cols, rows))
    if a @ x @ dy > x @ (wrong @ dy):
        wrong = 2 * a.T - wrong  # so that the left side is the smaller one: a difference without abs is negative
    for b in (wrong, a.T):
        ax, bdy = a @ x, b @ dy
        left, right, scale = ax @ dy, x @ bdy, np.abs(ax * dy).sum()
        expected = abs(left - right) / scale
        kept = x.copy(), dy.copy()
        found = adjoint_gap(lambda v: a @ v, lambda v, b=b: b @ v, x, dy)
        if isinstance(found, bool | np.bool_):
            raise CheckError("Your test says yes or no. Return the number, so that one sees whether a gap is rounding or a bug.")
        if found is None or np.ndim(found) or not isinstance(found, int | float | np.number):
            raise CheckError(difference("the gap", found, expected) or f"the gap is a {type(found).__name__}, not a number.")
        if not (np.array_equal(kept[0], x) and np.array_equal(kept[1], dy)):
            raise CheckError("Your code changes x or dy. A test must not touch what it tests.")
        if abs(found - expected) <= 1e-9 * max(expected, 1e-3):
            continue
        hints = {
            "The difference has a sign. A test that asks whether the gap is small would pass this: take abs.":
                (left - right) / scale,
            "The difference is not divided by anything, so its size depends on the units of x.": abs(left - right),
            "You divide by <Ax, dy>, whose terms cancel: it can be 0 by chance. Take abs before the sum.":
                abs(left - right) / abs(left),
            "You compare the lengths of Ax and B dy. These need not agree, even for a right pair.":
                abs(np.linalg.norm(ax) - np.linalg.norm(bdy)) / scale,
        }  # fmt: skip
        told = "".join(f"\nHint: {hint}" for hint, value in hints.items() if np.isclose(found, value, rtol=1e-9, atol=0))
        which = "that is deliberately wrong" if b is wrong else "that is the transpose of A"
        raise CheckError(f"For a B {which} your function gives {found:.6g}, it should give {expected:.6g} = |{left:.6g} - "
                         f"{right:.6g}| / {scale:.6g}, that is |<Ax, dy> - <x, B dy>| by the sum of |Ax dy|.{told}")  # fmt: skip


def _finds_wrong_folds(draw: Draw, adjoint_gap: Callable[..., Any]) -> None:
    """On arrays of four axes: our pair, and a border that is cut off."""
    x, dy = draw.rng.standard_normal((2, 4, 6, 2)), draw.rng.standard_normal((2, 9, 9, 2))
    _, ctx = ops.mirror_pad_forward(x, 3, 2, 1, 2)

    def pad(x: Array) -> Array:
        return ops.mirror_pad_forward(x, 3, 2, 1, 2)[0]

    right = adjoint_gap(pad, lambda dy: ops.mirror_pad_backward(dy, ctx), x, dy)
    if not np.ndim(right) == 0 or not right < 1e-12:
        raise CheckError(f"For mirror padding and its fold the gap is {right}, expected about 1e-16. Do you sum over all axes?")
    wrong = adjoint_gap(pad, lambda dy: dy[:, 3:7, 1:7], x, dy)
    if not wrong > 1e-6:
        raise CheckError(f"For a fold that cuts the border off the gap is {wrong}; it should be far from 0.")


exercise(
    "01.adjoint",
    "adjoint_gap(forward, backward, x, dy) -> how far backward is from the adjoint of forward",
    laws=(_gap, _finds_wrong_folds),
    mistakes=(
        Mistake("The difference has a sign", edits=(("abs(left - right)", "(left - right)"),)),
        Mistake("is not divided by anything", edits=((" / np.abs(y * dy).sum()", ""),)),
        Mistake("whose terms cancel", edits=(("np.abs(y * dy).sum()", "abs(left)"),)),
        Mistake("the lengths of Ax and B dy",
                edits=(("np.vdot(y, dy), np.vdot(x, backward(dy))", "np.linalg.norm(y), np.linalg.norm(backward(dy))"),)),
        Mistake("Do you sum over all axes?", edits=(
            ("np.vdot(y, dy), np.vdot(x, backward(dy))",
             "np.sum(y * dy, axis=0).flat[0], np.sum(x * backward(dy), axis=0).flat[0]"),
        )),
    ),
)  # fmt: skip
