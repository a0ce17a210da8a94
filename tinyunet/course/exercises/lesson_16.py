"""Lesson 16: strips, Winograd's F(2, 3), and its gradient."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, equals, exercise, sizes
from tinyunet.errors import CheckError

# Strips --------------------------------------------------------------------------------------------------------------


def _convolve(x: Array, w: Array, b: Array) -> Array:
    """The formula, one output pixel after another."""
    y = np.empty((len(x), x.shape[1] - 2, x.shape[2] - 2, w.shape[3]), x.dtype)
    for n, i, j in np.ndindex(y.shape[:3]):
        y[n, i, j] = np.tensordot(x[n, i : i + 3, j : j + 3], w, 3) + b
    return y


def _by_strips(draw: Draw, conv_strips: Callable[..., Any]) -> None:
    """The formula, with heights that do not divide the rows."""
    height = draw.integer(3, 5)
    rows = height * draw.integer(2, 3) + draw.integer(1, height - 1)
    normal = draw.rng.standard_normal
    c_in = draw.integer(2, 3)
    handed = {"x": normal((2, rows + 2, rows + draw.integer(3, 5), c_in)), "w": normal((3, 3, c_in, 4)), "b": normal(4)}
    before = {name: value.copy() for name, value in handed.items()}
    expected = _convolve(**before)
    found = conv_strips(**handed, height=height)
    if wrong := difference("y", found, expected):
        if hint := _hint_for_strips(found, before, expected, height):
            wrong += f"\nHint: {hint}"
        raise CheckError(f"{wrong}\nCalled with {sizes(before)}, height {height}: {rows} rows of the output.")
    for name, value in before.items():
        if not np.array_equal(handed[name], value):
            raise CheckError(f"y is right, but your code changes its argument {name}. Whoever called it may still need it.")


def _hint_for_strips(found: Any, given: dict[str, Array], expected: Array, height: int) -> str:
    if not isinstance(found, np.ndarray) or found.shape != expected.shape:
        return ""
    x, w, b = given.values()
    if not difference("y", found + b, expected):
        return "The bias is missing: every output channel o gets its own b[o]."
    if not difference("y", found, np.repeat(expected[:1], len(x), 0)):
        return "All images of the batch get the result of the first one. Does your code use n?"
    if not difference("y", found, _convolve(x, w[::-1, ::-1], b)):
        return "You turn the kernel by 180 degrees: w[0, 0] meets the upper left pixel."
    if not difference("y", found, _convolve(x, w.swapaxes(0, 1), b)):
        return "Rows and columns of the kernel are exchanged: w.reshape(9 C, O) has them in the order of columns."
    if not difference("y[0]", found[0], expected[0]):
        return "The first image is right, others are not. The strips must be cut from every image."
    wrong = sorted({int(i) for i in np.argwhere(~(np.abs(found - expected) <= 1e-9 * np.abs(expected).max()))[:, 1]})
    full = len(expected[0]) // height * height
    if wrong[0] >= full:
        return (f"Only rows from {full} on are wrong: the last strip, which is shorter than the others because {height} does not "
                "divide the rows. It begins where the one before it ends, and stops at the last row.")  # fmt: skip
    if all(i >= min(i // height * height + height, len(expected[0])) - 2 for i in wrong):
        return ("Wrong are only the last two rows of strips. They need two rows of x below the strip, and the real ones: "
                "x[n, start : stop + 2].")  # fmt: skip
    if wrong[0] >= height:
        return f"The first strip is right, others are not: each begins {height} rows below the one before it, in x and in y."
    return ""


def _peak(call: Callable[[], Any]) -> int:
    """The most bytes that a call holds at once, beside what was there before."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - held
    finally:
        if not traced:
            tracemalloc.stop()


def _one_strip_in_memory(draw: Draw, conv_strips: Callable[..., Any]) -> None:
    """The peak of memory is that of y and of one strip's columns: not that of all columns, and not that of one row's."""
    x, w, b = draw.rng.standard_normal((2, 66, 34, 8)), draw.rng.standard_normal((3, 3, 8, 4)), np.zeros(4)
    strip, y_bytes = 4 * 32 * 72 * x.itemsize, 2 * 64 * 32 * 4 * x.itemsize
    called = f"Called with {sizes({'x': x, 'w': w})}"
    used = _peak(lambda: conv_strips(x, w, b, 4))
    if used > 2 * y_bytes + x.nbytes + 3 * strip:
        raise CheckError(
            f"y is right, but your code holds {used / 2**20:.1f} MiB at once, for columns of {strip / 2**20:.2f} MiB a strip.\n"
            f"Hint: The columns of all 64 rows of both images are {2 * 16 * strip / 2**20:.1f} MiB. Call columns for the rows of "
            f"one strip, x[n, start : stop + 2], inside the loop over strips, and keep none of them.\n{called}, height 4."
        )
    more = _peak(lambda: conv_strips(x, w, b, 32)) - used
    if used > y_bytes / 2 and more < 3 * strip:  # seven are to be expected; nothing where NumPy's memory is not traced
        raise CheckError(
            f"y is right, but height makes no difference: the columns of 32 rows should take {7 * strip / 2**20:.2f} MiB more "
            "than those of 4, and your code needs as little for both.\nHint: Each strip has `height` rows of the output, from "
            f"one call of columns.\n{called}."
        )


exercise(
    "16.strips",
    "conv_strips(x, w, b, height) -> y, by strips of `height` rows of the output",
    laws=(_by_strips, _one_strip_in_memory),
    mistakes=(
        Mistake("the last strip, which is shorter", edits=(("range(0, rows, height)", "range(0, rows - height + 1, height)"),)),
        Mistake("Your code stops", edits=(("x[n, start : stop + 2]", "x[n, start:stop]"),)),
        Mistake("the last two rows of strips", edits=(("columns(x[n, start : stop + 2])",
                                                       "columns(np.pad(x[n, start:stop], ((0, 2), (0, 0), (0, 0))))"),)),
        Mistake("Does your code use n?", edits=(("x[n, start : stop + 2]", "x[0, start : stop + 2]"),)),
        Mistake("The bias is missing", edits=(("@ matrix + b", "@ matrix"),)),
        Mistake("holds", edits=(("range(0, rows, height)", "range(0, rows, rows)"), ("min(start + height, rows)", "rows"))),
        Mistake("holds", edits=(("n in range(n_images):\n", "n in range(n_images):\n        all_columns = columns(x[n])\n"),
                                ("columns(x[n, start : stop + 2])", "all_columns[start * cols : stop * cols]"))),
        Mistake("The first strip is right", edits=(("x[n, start : stop + 2]", "x[n, : stop - start + 2]"),)),
        Mistake("turn the kernel", edits=(("w.reshape", "w[::-1, ::-1].reshape"),)),
        Mistake("exchanged", edits=(("w.reshape", "w.swapaxes(0, 1).reshape"),)),
        Mistake("height makes no difference", edits=(("(0, rows, height)", "(0, rows)"), ("start + height", "start + 1"))),
    ),
)  # fmt: skip

# The matrices --------------------------------------------------------------------------------------------------------

SHAPES = {"A": (4, 2), "B": (4, 4), "G": (4, 3)}


def _terms(a: Array, b: Array, g: Array) -> Array:
    """What stands before d[l] w[r] in y[i]: (2, 4, 3)"""
    return np.einsum("ki,lk,kr->ilr", a, b, g)


def _matrices(draw: Draw, f23: Callable[[], Any]) -> None:
    """Any three matrices that make the two sums are right: there are more than one."""
    found = f23()
    if not isinstance(found, tuple) or len(found) != 3:
        raise CheckError("f23 returns three arrays: return A, B, G")
    matrices = [np.asarray(m, float) for m in found]
    for (name, shape), matrix in zip(SHAPES.items(), matrices, strict=True):
        if matrix.shape != shape:
            hint = f"\nHint: That is {name}^T. The function returns {name}." if matrix.shape == shape[::-1] else ""
            raise CheckError(f"{name} has shape {matrix.shape}, expected {shape}.{hint}")
    a, b, g = matrices
    expected = np.zeros((2, 4, 3))
    for i in range(2):
        for r in range(3):
            expected[i, i + r, r] = 1
    terms = _terms(a, b, g)
    if (gaps := np.abs(terms - expected)).max() <= 1e-9:
        return
    worst = np.unravel_index(int(np.nan_to_num(gaps, nan=np.inf).argmax()), gaps.shape)
    term = f"y[{worst[0]}] has {terms[worst]:.3g} times d[{worst[1]}] w[{worst[2]}], expected {expected[worst]:.0f}"
    doubled = np.diag([1, 0.5, 0.5, 1]) @ g
    hints = {
        "That is B^T. Row k of B^T makes the factor of m_k, so it is column k of B.": _terms(a, b.T, g),
        "The halves of m_1 and m_2 are missing: put them into G.": _terms(a, b, doubled),
        "The last sign of y_1: it takes m_3 away.": _terms(a * [[1, 1], [1, 1], [1, 1], [1, -1]], b, g),
        "The sign of m_2 in y_1: it takes m_2 away.": _terms(a * [[1, 1], [1, 1], [1, -1], [1, 1]], b, g),
        "The sign of m_2: its factor is d_2 - d_1.": _terms(a, b * [1, 1, -1, 1], g),
        "The kernel is the wrong way round: w_0 is the first tap.": _terms(a, b, g[:, ::-1]),
    }
    told = next((f"\nHint: {hint}" for hint, mended in hints.items() if np.abs(mended - expected).max() <= 1e-9), "")
    raise CheckError(f"With your matrices {term} ({int((~(gaps <= 1e-9)).sum())} of 24 such terms are wrong).{told}")


exercise(
    "16.matrices",
    "f23() -> A (4, 2), B (4, 4), G (4, 3)",
    laws=(_matrices,),
    mistakes=(
        Mistake("That is B^T", edits=(("[0, 1, 0, -1]]).T", "[0, 1, 0, -1]])"),)),
        Mistake("That is A^T", edits=(("[0, 1, -1, -1]]).T", "[0, 1, -1, -1]])"),)),
        Mistake("The halves of m_1 and m_2", edits=(("[0.5, 0.5, 0.5], [0.5, -0.5, 0.5]", "[1, 1, 1], [1, -1, 1]"),)),
        Mistake("it takes m_3 away", edits=(("[0, 1, -1, -1]", "[0, 1, -1, 1]"),)),
        Mistake("its factor is d_2 - d_1", edits=(("[0, -1, 1, 0]", "[0, 1, -1, 0]"),)),
        Mistake("times d[", edits=(("[1, 0, -1, 0]", "[1, -1, 0, 0]"),)),
        Mistake("return A, B, G", edits=(("return A, B, G", "return A, B"),)),
    ),
)  # fmt: skip

# Forward and backward ------------------------------------------------------------------------------------------------


def _toom_cook(draw: Draw) -> tuple[Array, Array, Array]:
    """A, B, G of F(2, 3) with points 0, p, -q and infinity: evaluate, multiply, interpolate."""
    points = [0.0, draw.rng.uniform(0.5, 1.5), -draw.rng.uniform(0.5, 1.5)]
    a, b, g = np.zeros((4, 2)), np.zeros((4, 4)), np.zeros((4, 3))
    for k, p in enumerate(points):
        others = [q for q in points if q != p]
        a[k], g[k] = [1, p], np.array([1, p, p * p]) / np.prod([p - q for q in others])
        b[:3, k] = np.poly(others)[::-1]
    a[3, 1] = g[3, 2] = 1
    b[:, 3] = np.poly(points)[::-1]
    return a, b, g


def _any_matrices(draw: Draw) -> tuple[Array, Array, Array]:
    normal = draw.rng.standard_normal
    return normal((4, 2)), normal((4, 4)), normal((4, 3))


def _tiled(x: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    """A^T [(G w) * (B^T d)] of every tile, one number after another."""
    y = np.zeros((len(x) - 2, w.shape[2]))
    for t in range(len(y) // 2):
        y[2 * t : 2 * t + 2] = np.einsum("ki,kr,rco,lk,lc->io", a, g, w, b, x[2 * t : 2 * t + 4])
    return y


def _transposed(dy: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    """The same sum, with what is given and what is wanted exchanged."""
    dx = np.zeros((len(dy) + 2, w.shape[1]))
    for t in range(len(dy) // 2):
        dx[2 * t : 2 * t + 4] += np.einsum("ki,kr,rco,lk,io->lc", a, g, w, b, dy[2 * t : 2 * t + 2])
    return dx


def _row(draw: Draw, matrices: tuple[Array, Array, Array], gradient: bool = False) -> dict[str, Any]:
    """Never as many channels in as out."""
    c_in, width, normal = draw.integer(2, 4), 2 * draw.integer(3, 6), draw.rng.standard_normal
    c_out = draw.choice([c for c in (2, 3, 4, 5) if c != c_in])
    first = {"dy": normal((width - 2, c_out))} if gradient else {"x": normal((width, c_in))}
    return {**first, "w": normal((3, c_in, c_out)), **dict(zip("ABG", matrices, strict=True))}


def _correlation(x: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    return np.array([np.tensordot(x[i : i + 3], w, 2) for i in range(len(x) - 2)])


def _correlation_transposed(dy: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    dx = np.zeros((len(dy) + 2, w.shape[1]))
    for i in range(len(dy)):
        dx[i : i + 3] += w @ dy[i]
    return dx


def _forward_again(dy: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    return _tiled(np.pad(dy, ((2, 2), (0, 0))), w[::-1].swapaxes(1, 2), a, b, g)


def _last_tile_wins(dy: Array, w: Array, a: Array, b: Array, g: Array) -> Array:
    dx = np.zeros((len(dy) + 2, w.shape[1]))
    for t in range(len(dy) // 2):
        dx[2 * t : 2 * t + 4] = _transposed(dy[2 * t : 2 * t + 2], w, a, b, g)
    return dx


AGAIN = ("That is forward once more, with the kernel turned and C and O exchanged: right, and the other road to dx. Here take "
         "the steps of forward in reverse order, each transposed.")  # fmt: skip
DIRECT = "That is the convolution without A, B and G, with six products: right, but with other matrices it is another. Use them."
FLIPPED = "You turn the kernel round: row r of w meets pixel i + r."

exercise(
    "16.forward",
    "winograd_forward(x, w, A, B, G) -> y, by tiles of two outputs",
    laws=(
        equals(_correlation, lambda draw: _row(draw, _toom_cook(draw)), {
            "You multiply the tile by B. It is B^T d: B.T @ d.": lambda x, w, a, b, g: _tiled(x, w, a, b.T, g),
            FLIPPED: lambda x, w, a, b, g: _correlation(x, w[::-1], a, b, g),
            "Your tiles do not overlap: two outputs a tile, so the next tile begins two pixels further on.":
                lambda x, w, a, b, g: _correlation(x, w, a, b, g)[np.arange(len(x) - 2) % 4 < 2],
            "Every tile gives the result of the first one.":
                lambda x, w, a, b, g: np.tile(_correlation(x[:4], w, a, b, g), (len(x) // 2 - 1, 1)),
            "The outputs of a tile lie side by side: y_0, y_1 of tile 0, then of tile 1. Yours are all y_0 first, then all y_1.":
                lambda x, w, a, b, g: np.concatenate([_correlation(x, w, a, b, g)[k::2] for k in (0, 1)]),
        }, what="y"),
        equals(_tiled, lambda draw: _row(draw, _any_matrices(draw)), {DIRECT: _correlation},
               what="y, with any numbers in A, B, G,"),
    ),
    mistakes=(
        Mistake("B.T @ d", edits=(("B.T @ d", "B @ d"),)),
        Mistake("Your code stops", edits=(("len(x) - 2, 2)", "len(x) - 2, 4)"),)),
        Mistake("do not overlap", edits=(("len(x) - 2, 2)", "len(x) - 2, 4)"), ("reshape(len(x) - 2", "reshape(-1"))),
        Mistake("turn the kernel round", edits=(("np.tensordot(G, w, 1)", "np.tensordot(G, w[::-1], 1)"),)),
        Mistake("all y_0 first", edits=(("(A.T @ m).reshape", "(A.T @ m).swapaxes(0, 1).reshape"),)),
        Mistake("without A, B and G", edits=(("(A.T @ m)",
                                              "np.array([np.tensordot(x[i : i + 3], w, 2) for i in range(len(x) - 2)])"),)),
        Mistake("Your code stops", edits=(("(A.T @ m)", "(A @ m)"),)),
        Mistake("y is", edits=(("u = np.tensordot(G, w, 1)", "u = np.tensordot(np.round(G), w, 1)"),)),
    ),
)  # fmt: skip

exercise(
    "16.backward",
    "winograd_grad_x(dy, w, A, B, G) -> dx, the steps of forward in reverse order, each transposed",
    laws=(
        equals(_correlation_transposed, lambda draw: _row(draw, _toom_cook(draw), gradient=True), {
            "Tiles overlap. A pixel that was copied into two tiles gets two reports: dx[...] += dd[t].": _last_tile_wins,
            "You multiply by B^T again. The step was B^T d, so its transpose is B.":
                lambda dy, w, a, b, g: _transposed(dy, w, a, b.T, g),
            "You undo a step: the gradient of v = B^T d is its transpose, B dv, not its inverse.":
                lambda dy, w, a, b, g: _transposed(dy, w, a, np.linalg.inv(b.T), g),
            "You undo a step: the gradient of y = A^T m is its transpose, A dy, not its (pseudo-)inverse.":
                lambda dy, w, a, b, g: _transposed(dy, w, np.linalg.pinv(a.T), b, g),
            "You turn the kernel round. Whoever read pixel i + r with w[r] reports to it through w[r]; the transposes see to it.":
                lambda dy, w, a, b, g: _correlation_transposed(dy, w[::-1], a, b, g),
            "The sum is divided by how many tiles a pixel lies in. Reports are added, not averaged.":
                lambda dy, w, a, b, g: _transposed(dy, w, a, b, g) / np.r_[1, 1, np.full(len(dy) - 2, 2), 1, 1][:, None],
        }, what="dx"),
        equals(_transposed, lambda draw: _row(draw, _any_matrices(draw), gradient=True),
               {DIRECT: _correlation_transposed, AGAIN: _forward_again}, what="dx, with any numbers in A, B, G,"),
    ),
    mistakes=(
        Mistake("dx[...] += dd[t]", edits=(("+= dd[t]", "= dd[t]"),)),
        Mistake("multiply by B^T again", edits=(("B @ dv", "B.T @ dv"),)),
        Mistake("B dv, not its inverse", edits=(("B @ dv", "np.linalg.inv(B.T) @ dv"),)),
        Mistake("not its (pseudo-)inverse", edits=(("A @ dy", "np.linalg.pinv(A.T) @ dy"),)),
        Mistake("Your code stops", edits=(("u[k].T", "u[k]"),)),
        Mistake("Your code stops", edits=(("A @ dy", "A.T @ dy"),)),
        Mistake("turn the kernel round", edits=(("np.tensordot(G, w, 1)", "np.tensordot(G, w[::-1], 1)"),)),
        Mistake("the other road to dx", edits=(("    return dx", "    return winograd_forward(np.pad(dy, ((2, 2), (0, 0))), "
                                                "w[::-1].swapaxes(1, 2), A, B, G)"),)),
        Mistake("without A, B and G", edits=(("    dd = B @ dv\n", ""), ("for t in range(len(dd))", "for i in range(len(dy))"),
                                             ("dx[2 * t : 2 * t + 4] += dd[t]", "dx[i : i + 3] += w @ dy[i]"))),
    ),
)  # fmt: skip
