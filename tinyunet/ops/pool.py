"""Max-pooling 2x2 with stride 2 (section 2): keep the largest of four pixels, in every channel by itself.

Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyunet import cuda
from tinyunet.backend import Array, array_module
from tinyunet.errors import ShapeError
from tinyunet.ops.contract import as_gradient, as_map, keep
from tinyunet.parallel import over_rows

WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))
"""The four places of a window as (row, column), numbered in row-major order."""


class MaxPoolContext(NamedTuple):
    """Which pixel of each window won is all that the gradient needs: one byte an output, not the input."""

    winner: Array  # (N, H/2, W/2, C) uint8: index into WINDOW
    dtype: Any  # of x


def max_pool_forward(x: Array) -> tuple[Array, MaxPoolContext]:
    """y[n,i,j,c] = max over a,b in {0,1} of x[n, 2i+a, 2j+b, c]

    (N, H, W, C) -> (N, H/2, W/2, C)

    Of equal values the first in row-major order wins, on every backend. A NaN wins over numbers: it must not be hidden.

    Raises ShapeError for an odd H or W: dropping a row would shift everything that comes after (section 2 asks for even sizes).
    """
    x = as_map("max_pool", x)
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        raise ShapeError(f"max_pool: a {height}x{width} map is odd. Pad or crop it to {height + height % 2}x{width + width % 2}.")

    def formula(x: Array) -> tuple[Array, Array]:
        y, right = _larger(x[:, :, 0::2], x[:, :, 1::2])
        y, below = _larger(y[:, 0::2], y[:, 1::2])
        right = (below & right[:, 1::2]) | (~below & right[:, 0::2])
        return y, 2 * below.astype("uint8") + right

    y, winner = cuda.pool.forward(x) if cuda.takes(x) else over_rows(formula, x, together=2)
    return y, MaxPoolContext(winner, x.dtype)


def max_pool_backward(dy: Array, ctx: MaxPoolContext) -> Array:
    """dx[n, 2i+a, 2j+b, c] = dy[n,i,j,c] if (a, b) won its window, else 0

    (N, H/2, W/2, C) -> (N, H, W, C)

    Written as every input pixel asking "was it me?", so that each is written once.
    """
    dy = as_gradient("max_pool", dy, ctx.winner.shape, ctx.dtype)
    if cuda.takes(dy):
        return cuda.pool.backward(dy, ctx.winner)
    n, height, width, c = dy.shape
    xp = array_module(dy)
    dx = xp.empty((n, 2 * height, 2 * width, c), dy.dtype)

    def formula(dy: Array, winner: Array, dx: Array) -> None:
        for place, (a, b) in enumerate(WINDOW):
            keep(dy, winner == place, out=dx[:, a::2, b::2])

    over_rows(formula, dy, ctx.winner, dx)
    return dx


def _larger(a: Array, b: Array) -> tuple[Array, Array]:
    """The larger of both, and where that is b: not where they are equal; and a NaN counts as larger than a number."""
    xp = array_module(a)
    wins = ~(b.real <= a.real) & (a == a)  # "not <=" lets a NaN win, "a == a" lets it stay
    return xp.where(wins, b, a) if xp.iscomplexobj(a) else xp.maximum(a, b), wins
