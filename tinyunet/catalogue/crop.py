"""What crop-and-concatenate keeps: the centre, the order, and a gradient for exactly the pixels that were used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require
from tinyunet.catalogue.laws import OF_PARAMETERS, Case, geometry, keep_laws, require_equal, require_refused


def values(draw: Draw) -> tuple[Array, Array]:
    """A map of the up path, and a skip that is larger by 0 to 5 rows and columns, an odd number too."""
    n, height, width, c_up = geometry(draw, high=4)
    more_rows, more_cols, c_skip = draw.integer(0, 5), draw.integer(0, 5), draw.integer(1, 3)
    normal = draw.rng.standard_normal
    return normal((n, height, width, c_up)), normal((n, height + more_rows, width + more_cols, c_skip))


def window(up: Array, skip: Array) -> tuple[slice, slice, slice]:
    """The pixels of the skip that are used: of an odd difference one more is cut at the bottom and right."""
    top, left = (skip.shape[1] - up.shape[1]) // 2, (skip.shape[2] - up.shape[2]) // 2
    return slice(None), slice(top, top + up.shape[1]), slice(left, left + up.shape[2])


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    up, skip = values(draw)
    shape = *up.shape[:3], up.shape[3] + skip.shape[3]
    yield Case({"up": up, "skip": skip}, op.forward, op.backward, shape, mapped=("up", "skip"), linear=("up", "skip"))


keep_laws("crop_concat", cases, without=OF_PARAMETERS)


@holds("crop_concat", "reference")
def forward_is_the_formula(op: Op, draw: Draw) -> None:
    """The first C_up channels are the up path's, untouched; the others are the centre of the skip."""
    up, skip = values(draw)
    y, _ = op.forward(up, skip)
    _, rows, cols = window(up, skip)
    require(y.shape == (*up.shape[:3], up.shape[3] + skip.shape[3]), f"y has shape {y.shape}")
    for n, i, j in np.ndindex(up.shape[:3]):
        expected = [*up[n, i, j], *skip[n, rows.start + i, cols.start + j]]
        require_equal(f"y of pixel [{n}, {i}, {j}]", y[n, i, j], expected)


@holds("crop_concat", "convention")
def the_centre_is_kept(op: Op, draw: Draw) -> None:
    """A skip that holds its own coordinates shows which window is cut out; an odd pixel goes at the bottom and right."""
    height, width = draw.integer(1, 6), draw.integer(1, 6)
    rows, cols = height + draw.integer(0, 7), width + draw.integer(0, 7)
    skip = np.indices((rows, cols)).transpose(1, 2, 0)[None].astype(float)
    y, _ = op.forward(np.zeros((1, height, width, 1)), skip)
    top, left = (rows - height) // 2, (cols - width) // 2
    what = f"of a {rows}x{cols} skip cut to {height}x{width}"
    require_equal(f"the first row {what}", y[0, 0, 0, 1], top)
    require_equal(f"the first column {what}", y[0, 0, 0, 2], left)
    require_equal(f"the rows {what}", y[0, :, 0, 1], np.arange(top, top + height))
    require_equal(f"the columns {what}", y[0, 0, :, 2], np.arange(left, left + width))


@holds("crop_concat", "convention")
def the_up_path_comes_first(op: Op, draw: Draw) -> None:
    """Channels are in the order [up, skip], in the output as in the gradients."""
    up, skip = values(draw)
    y, ctx = op.forward(np.ones_like(up), np.full_like(skip, 2.0))
    c = up.shape[3]
    require(bool((y[..., :c] == 1).all() and (y[..., c:] == 2).all()), "the first channels are not those of the up path")
    dup, dskip = op.backward(y, ctx)
    require(bool((dup == 1).all()), "dup is not dy of the first channels")
    require(bool((dskip[window(up, skip)] == 2).all()), "dskip is not dy of the last channels")


@holds("crop_concat", "invariance")
def the_border_has_no_gradient(op: Op, draw: Draw) -> None:
    """dskip is dy inside the window that was cut out, and exactly 0 on the border around it."""
    up, skip = values(draw)
    y, ctx = op.forward(up, skip)
    dy = draw.rng.standard_normal(y.shape)
    dup, dskip = op.backward(dy, ctx)
    require_equal("dup", dup, dy[..., : up.shape[3]])
    require_equal("dskip inside the window", dskip[window(up, skip)], dy[..., up.shape[3] :])
    border = dskip.copy()
    border[window(up, skip)] = 0
    require(not border.any(), "dskip has a non-zero border outside the cropped window; pixels that were cut off had no influence")


@holds("crop_concat", "invariance")
def the_skip_gets_its_gradient(op: Op, draw: Draw) -> None:
    """The gradient reaches the skip: dskip is not zero where dy is not."""
    up, skip = values(draw)
    y, ctx = op.forward(up, skip)
    _, dskip = op.backward(draw.rng.standard_normal(y.shape), ctx)
    require(dskip is not None and bool(dskip[window(up, skip)].all()), "dskip is zero: the contracting path would learn nothing")


@holds("crop_concat", "invariance")
def splitting_undoes_joining(op: Op, draw: Draw) -> None:
    """Backward of y gives the up path's map back, and the skip inside its window."""
    up, skip = values(draw)
    y, ctx = op.forward(up, skip)
    same_up, same_skip = op.backward(y, ctx)
    require_equal("backward of y, the up path's part,", same_up, up)
    require_equal("backward of y, the skip's part,", same_skip[window(up, skip)], skip[window(up, skip)])


@holds("crop_concat", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """A skip smaller than the up path's map, and maps of different numbers of images, are refused, not broadcast."""
    rows, cols = draw.choice(((3, 9), (9, 3), (1, 1)))
    up = np.zeros((2, 4, 4, 1))
    require_refused(f"a {rows}x{cols} skip for a 4x4 map", lambda: op.forward(up, np.zeros((2, rows, cols, 1))))
    require_refused("a skip of 1 image for a map of 2", lambda: op.forward(up, np.zeros((1, 6, 6, 1))))
