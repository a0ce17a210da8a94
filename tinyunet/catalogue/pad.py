"""What mirror padding keeps: the edge pixel stands once, any width of border works, and its adjoint folds the border back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import OF_PARAMETERS, Case, geometry, keep_laws, require_equal, require_refused

Amounts = tuple[int, int, int, int]


def values(draw: Draw) -> tuple[Array, Amounts]:
    """An image, and top, bottom, left and right, up to several widths of it."""
    x = draw.rng.standard_normal(geometry(draw))
    return x, (draw.integer(0, 7), draw.integer(0, 7), draw.integer(0, 7), draw.integer(0, 7))


def bounced(start: int, stop: int, n: int) -> list[int]:
    """Which pixel shows at each place: walk along the axis and turn round at both ends without standing still."""
    there_and_back = [*range(n), *range(n - 2, 0, -1)]
    return [there_and_back[i % len(there_and_back)] for i in range(start, stop)]


def sources(shape: tuple[int, ...], amounts: Amounts) -> tuple[list[int], list[int]]:
    """The source row of every padded row, and the source column of every padded column."""
    top, bottom, left, right = amounts
    return bounced(-top, shape[1] + bottom, shape[1]), bounced(-left, shape[2] + right, shape[2])


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    x, amounts = values(draw)
    rows, cols = sources(x.shape, amounts)

    def forward(x: Array) -> Any:
        return op.forward(x, *amounts)

    yield Case({"x": x}, forward, op.backward, (x.shape[0], len(rows), len(cols), x.shape[3]), linear=("x",))


keep_laws("mirror_pad", cases, without=OF_PARAMETERS)


@holds("mirror_pad", "reference")
def forward_is_the_formula(op: Op, draw: Draw) -> None:
    """Every padded pixel is the one that two facing mirrors show there, also several widths beyond the edge."""
    x, amounts = values(draw)
    rows, cols = sources(x.shape, amounts)
    require_equal("y", op.forward(x, *amounts)[0], x[:, rows][:, :, cols])


@holds("mirror_pad", "reference")
def forward_is_numpys_reflect(op: Op, draw: Draw) -> None:
    """y is np.pad with mode "reflect"; an axis of a single pixel repeats it."""
    x, (top, bottom, left, right) = values(draw)
    expected = np.pad(x, ((0, 0), (top, bottom), (0, 0), (0, 0)), mode="reflect" if x.shape[1] > 1 else "edge")
    expected = np.pad(expected, ((0, 0), (0, 0), (left, right), (0, 0)), mode="reflect" if x.shape[2] > 1 else "edge")
    require_equal("y", op.forward(x, top, bottom, left, right)[0], expected)


@holds("mirror_pad", "convention")
def the_edge_pixel_stands_once(op: Op, draw: Draw) -> None:
    """a b c d becomes d c b | a b c d | c b a: "reflect" and not "symmetric", which repeats the edge."""
    line = np.arange(4.0)
    x, amounts = (line[None, :, None, None], (3, 3, 0, 0)) if draw.choice((True, False)) else (
        line[None, None, :, None], (0, 0, 3, 3))  # fmt: skip
    require_equal("0 1 2 3 padded by 3 on both sides", op.forward(x, *amounts)[0].ravel(), [3, 2, 1, 0, 1, 2, 3, 2, 1, 0])


@holds("mirror_pad", "convention")
def the_four_sides_are_told_apart(op: Op, draw: Draw) -> None:
    """The amounts are top, bottom, left and right, in this order."""
    x, amounts = values(draw)
    y, _ = op.forward(x, *amounts)
    top, _, left, _ = amounts
    require_equal("the image inside its border", y[:, top : top + x.shape[1], left : left + x.shape[2]], x)


@holds("mirror_pad", "reference")
def backward_counts_how_often_a_pixel_is_shown(op: Op, draw: Draw) -> None:
    """A dy of ones comes back as a census: each pixel gets as many as the places that show it, corners the fewest."""
    x, amounts = values(draw)
    y, ctx = op.forward(x, *amounts)
    rows, cols = (np.bincount(source, minlength=n) for source, n in zip(sources(x.shape, amounts), x.shape[1:3], strict=True))
    expected = np.broadcast_to(np.outer(rows, cols)[None, :, :, None].astype(float), x.shape)
    require_equal("dx of a dy of ones", op.backward(np.ones(y.shape), ctx), expected)


@holds("mirror_pad", "reference")
def backward_folds_the_border_back(op: Op, draw: Draw) -> None:
    """dx of a pixel is the sum of dy over all places that show it."""
    x, amounts = values(draw)
    y, ctx = op.forward(x, *amounts)
    dy = draw.rng.standard_normal(y.shape)
    expected = np.zeros(x.shape)
    rows, cols = sources(x.shape, amounts)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            expected[:, row, col] += dy[:, i, j]
    require_close("dx", op.backward(dy, ctx), expected, scale=1.0)


@holds("mirror_pad", "invariance")
def the_border_adds_no_new_values(op: Op, draw: Draw) -> None:
    """All values of y are values of x, and no padding gives x itself."""
    x, amounts = values(draw)
    require(set(op.forward(x, *amounts)[0].ravel()) == set(x.ravel()), "y holds a value that x does not, or misses one")
    require_equal("y with no padding", op.forward(x, 0, 0, 0, 0)[0], x)


@holds("mirror_pad", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """A negative amount and an image without pixels are refused."""
    side = draw.integer(0, 3)
    amounts = [1, 1, 1, 1]
    amounts[side] = -1
    require_refused(f"padding by {amounts}", lambda: op.forward(np.zeros((1, 3, 3, 1)), *amounts), "-1")
    require_refused("an image of 0x3 pixels", lambda: op.forward(np.zeros((1, 0, 3, 1)), 1, 1, 1, 1), "0")
