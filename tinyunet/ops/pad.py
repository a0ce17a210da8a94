"""Mirror padding: what a network without padding of its own sees beyond the edge of an image (section 1, figure 2).

        a b c d  ->  d c b | a b c d | c b a        numpy's "reflect": the edge pixel is not repeated

Letters: N images, H rows, W columns, C channels; top, bottom, left, right in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.errors import ShapeError
from tinyunet.ops.contract import as_gradient, as_map


def mirror_index(start: int, stop: int, n: int) -> Array:
    """i -> the pixel that a mirror shows at i, for every i in [start, stop): |((i + n-1) mod 2(n-1)) - (n-1)|.

    -> (stop - start,) int64, every value in [0, n)

    The image goes there and back with period 2(n-1). So any range works, also one that reaches several image widths beyond
    the edge, which happens as soon as an image is smaller than the border that it needs. A single pixel mirrors to itself.
    """
    if n < 1:
        raise ShapeError(f"mirror_index: an axis of {n} pixels has nothing to mirror. Give an image of at least 1 x 1.")
    i = np.arange(start, stop)
    if n == 1:
        return np.zeros_like(i)
    return np.abs((i + n - 1) % (2 * (n - 1)) - (n - 1))


class MirrorPadContext(NamedTuple):
    """Where every padded pixel came from is all that the adjoint needs; the pixels themselves are not."""

    rows: Array  # (top + H + bottom,) int64: source row of every padded row
    cols: Array  # (left + W + right,) int64
    shape: tuple[int, ...]  # (N, H, W, C)
    dtype: Any  # of x


def mirror_pad_forward(x: Array, top: int, bottom: int, left: int, right: int) -> tuple[Array, MirrorPadContext]:
    """y[n, i, j, c] = x[n, rows[i], cols[j], c]

    (N, H, W, C) -> (N, top + H + bottom, left + W + right, C)

    Raises ShapeError for a negative amount or an empty image.
    """
    x = as_map("mirror_pad", x)
    amounts = {"top": top, "bottom": bottom, "left": left, "right": right}
    if min(amounts.values()) < 0:
        raise ShapeError(f"mirror_pad: {amounts} has a negative amount. Slice the array to make it smaller.")
    _, height, width, _ = x.shape
    rows = mirror_index(-top, height + bottom, height)
    cols = mirror_index(-left, width + right, width)
    xp = array_module(x)
    y = xp.take(xp.take(x, xp.asarray(rows), axis=1), xp.asarray(cols), axis=2)
    return xp.ascontiguousarray(y), MirrorPadContext(rows, cols, x.shape, x.dtype)


def mirror_pad_backward(dy: Array, ctx: MirrorPadContext) -> Array:
    """dx[n, r, s, c] = sum of dy[n, i, j, c] over all i, j with rows[i] = r and cols[j] = s

    (N, top + H + bottom, left + W + right, C) -> (N, H, W, C)

    Padding copies pixels, so its adjoint adds the copies up: the border is folded back onto the image.
    """
    n, height, width, c = ctx.shape
    dy = as_gradient("mirror_pad", dy, (n, len(ctx.rows), len(ctx.cols), c), ctx.dtype)
    return _fold(_fold(dy, ctx.rows, height, axis=1), ctx.cols, width, axis=2)


def _fold(dy: Array, source: Array, n: int, axis: int) -> Array:
    """Add every slice i of dy into slice source[i] of a result with n slices along the axis."""
    xp = array_module(dy)
    dx = xp.zeros((*dy.shape[:axis], n, *dy.shape[axis + 1 :]), dy.dtype)
    to, origin = xp.moveaxis(dx, axis, 0), xp.moveaxis(dy, axis, 0)
    for i, target in enumerate(source.tolist()):
        to[target] += origin[i]
    return dx
