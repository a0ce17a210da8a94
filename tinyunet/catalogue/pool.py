"""What max-pooling keeps: the largest of four, ties to the first, and a gradient for the winner alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import (
    OF_LINEAR_OPS,
    OF_PARAMETERS,
    Case,
    geometry,
    hard,
    keep_laws,
    require_close_or_name,
    require_equal,
    require_refused,
    spaced,
)


def even(draw: Draw) -> tuple[int, int, int, int]:
    """N, H, W, C with even H and W"""
    n, height, width, c = geometry(draw, high=3)
    return n, 2 * height, 2 * width, c


def windows(x: Array) -> Array:
    """(N, H, W, C) -> (N, H/2, W/2, C, 4), the four values of every window in row-major order"""
    n, height, width, c = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, height // 2, width // 2, c, 4)


def unwindowed(four: Array) -> Array:
    """(N, h, w, C, 4) -> (N, 2h, 2w, C), the opposite of `windows`"""
    n, height, width, c, _ = four.shape
    return four.reshape(n, height, width, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * height, 2 * width, c)


def ties(four: Array, dy: Any) -> dict[str, Array]:
    """(..., 4) -> (..., 4), the gradients of backward passes that treat equal values in other ways than the first alone"""
    equal = four == four.max(axis=-1, keepdims=True)
    last = np.arange(4) == 3 - equal[..., ::-1].argmax(axis=-1)[..., None]
    dy = dy[..., None]
    return {"a backward pass that gives dy to the last of equal values": last * dy,
            "a backward pass that gives dy to each of equal values": equal * dy,
            "a backward pass that shares dy among equal values": equal / equal.sum(axis=-1, keepdims=True) * dy}  # fmt: skip


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    n, height, width, c = even(draw)
    x = spaced(draw, (n, height, width, c))
    yield Case({"x": x}, op.forward, op.backward, (n, height // 2, width // 2, c))


keep_laws("max_pool", cases, without=[*OF_LINEAR_OPS, *OF_PARAMETERS])


@holds("max_pool", "reference")
def forward_and_backward_are_the_formula(op: Op, draw: Draw) -> None:
    """y is the maximum of every 2x2 window; dx holds dy at the first place that attains it, and zero elsewhere."""
    shape = even(draw)
    x = draw.choice((spaced, hard))(draw, shape)
    y, ctx = op.forward(x)
    dy = draw.rng.standard_normal(y.shape)
    dx = op.backward(dy, ctx)
    n, height, width, c = shape
    expected, expected_dx = np.empty((n, height // 2, width // 2, c)), np.zeros(shape)
    for m, i, j, k in np.ndindex(expected.shape):
        rows, cols = slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2)
        a, b = divmod(int(x[m, rows, cols, k].argmax()), 2)
        expected[m, i, j, k] = x[m, 2 * i + a, 2 * j + b, k]
        expected_dx[m, 2 * i + a, 2 * j + b, k] = dy[m, i, j, k]
    four = windows(x)
    averaged = {"the mean of each window": four.mean(axis=-1), "the smallest of each window": four.min(axis=-1)}
    require_close_or_name("y", y, expected, lambda: averaged)
    require_equal("y", y, expected)
    require_close_or_name("dx", dx, expected_dx, lambda: {name: unwindowed(d) for name, d in ties(four, dy).items()})
    require_equal("dx", dx, expected_dx)


@holds("max_pool", "convention")
def the_first_of_equal_values_wins(op: Op, draw: Draw) -> None:
    """Of equal values the first in row-major order gets the whole gradient: not the last, and no share for each."""
    x = np.array(draw.rng.permutation([1.0, 1.0, 1.0, 0.0]) if draw.choice((True, False)) else [2.0] * 4)
    first = int(x.argmax())
    _, ctx = op.forward(x.reshape(1, 2, 2, 1))
    dx = op.backward(np.full((1, 1, 1, 1), 7.0), ctx)
    what, expected = f"dx of the window {x.tolist()} for dy = 7", 7.0 * (np.arange(4) == first)
    require_close_or_name(what, dx.ravel(), expected, lambda: ties(x, np.float64(7)))
    require_equal(what, dx.ravel(), expected)


@holds("max_pool", "convention")
def a_nan_wins(op: Op, draw: Draw) -> None:
    """A NaN beats every number wherever it stands, infinity too, and its place gets the gradient."""
    x = draw.rng.permutation([np.inf, 3.0, -1.0, 2.0])
    place = draw.integer(0, 3)
    x[place] = np.nan
    with np.errstate(invalid="ignore"):
        y, ctx = op.forward(x.reshape(1, 2, 2, 1))
        dx = op.backward(np.ones((1, 1, 1, 1)), ctx)
    require(bool(np.isnan(y).all()), f"the largest of {x.tolist()} is {y.item()}: the NaN is hidden")
    require_equal(f"dx of the window {x.tolist()}", dx.ravel(), 1.0 * (np.arange(4) == place))


@holds("max_pool", "convention")
def infinities_are_numbers(op: Op, draw: Draw) -> None:
    """Minus infinity loses to every number; a window of it alone gives it back, and its first place gets the gradient."""
    x = np.full(4, -np.inf)
    if draw.choice((False, True)):
        x[draw.integer(0, 3)] = -1e300
    y, ctx = op.forward(x.reshape(1, 2, 2, 1))
    require_equal(f"y of the window {x.tolist()}", y.ravel(), [x.max()])
    dx = op.backward(np.ones((1, 1, 1, 1)), ctx)
    require_equal(f"dx of the window {x.tolist()}", dx.ravel(), 1.0 * (np.arange(4) == x.argmax()))


@holds("max_pool", "invariance")
def no_gradient_is_lost_or_doubled_in_ties(op: Op, draw: Draw) -> None:
    """In every window, ties or not, dx sums to dy and sits in a single place."""
    x = draw.rng.integers(0, 2, even(draw)).astype(float)
    y, ctx = op.forward(x)
    dy = draw.rng.standard_normal(y.shape)
    dx = windows(op.backward(dy, ctx))
    places = (dx != 0).sum(axis=-1)
    require(places.max() == 1, f"the gradient of one window goes to {places.max()} places")
    require_equal("dx summed over a window", dx.sum(axis=-1), dy)


@holds("max_pool", "invariance")
def every_output_is_a_value_of_its_window(op: Op, draw: Draw) -> None:
    """y is one of the four values, unrounded, and none of them is larger."""
    x = draw.choice((spaced, hard))(draw, even(draw))
    y, _ = op.forward(x)
    require(bool((windows(x) == y[..., None]).any(axis=-1).all()), "y holds a value that is not in its window")
    require(bool((windows(x) <= y[..., None]).all()), "y holds a value that is not the largest of its window")


@holds("max_pool", "invariance")
def scale_shift_and_order(op: Op, draw: Draw) -> None:
    """max(a x + b) = a max(x) + b for a > 0; a larger image has a larger maximum."""
    x = spaced(draw, even(draw))
    y, _ = op.forward(x)
    require_close("y of 3 x + 2", op.forward(3 * x + 2)[0], 3 * y + 2)
    more = op.forward(x + draw.rng.uniform(0, 1, x.shape))[0]
    require(bool((more >= y).all()), "y went down where x went up")


@holds("max_pool", "invariance")
def constant_blocks_come_back(op: Op, draw: Draw) -> None:
    """Pooling undoes the repetition of every pixel."""
    x = draw.rng.standard_normal(geometry(draw, high=3))
    require_equal("y of an image repeated 2x2", op.forward(x.repeat(2, axis=1).repeat(2, axis=2))[0], x)


@holds("max_pool", "invariance")
def negative_values_stay_negative(op: Op, draw: Draw) -> None:
    """No zero, from a border or a start value, beats a negative pixel."""
    y, _ = op.forward(-1 - draw.rng.random(even(draw)))
    require(bool((y <= -1).all()), f"all of x is below -1, and y reaches {y.max():g}")


@holds("max_pool", "invariance")
def the_winner_moves_with_its_value(op: Op, draw: Draw) -> None:
    """Permuting the four values of all windows keeps y, and the gradient moves with the values."""
    x = spaced(draw, even(draw))
    order = draw.rng.permutation(4)

    def permuted(a: Array) -> Array:
        return unwindowed(windows(a)[..., order])

    (y, ctx), (y2, ctx2) = op.forward(x), op.forward(permuted(x))
    dy = draw.rng.standard_normal(y.shape)
    require_equal("y of permuted windows", y2, y)
    require_equal("dx of permuted windows", op.backward(dy, ctx2), permuted(op.backward(dy, ctx)))


@holds("max_pool", "invariance")
def channels_do_not_compete(op: Op, draw: Draw) -> None:
    """Each channel has its own maximum: raising one channel leaves the others as they were."""
    n, height, width, _ = even(draw)
    x = spaced(draw, (n, height, width, 3))
    other = x.copy()
    other[..., 0] += 100
    require_equal("y of the other channels", op.forward(other)[0][..., 1:], op.forward(x)[0][..., 1:])


@holds("max_pool", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """An odd side is refused rather than cut, with a message that names it; so is an image without a batch axis."""
    height, width = draw.choice(((5, 4), (4, 7), (3, 3), (1, 2)))
    odd = height if height % 2 else width
    require_refused(f"a {height}x{width} map", lambda: op.forward(np.zeros((1, height, width, 1))), str(odd))
    require_refused("an image without a batch axis", lambda: op.forward(np.zeros((4, 4, 2))))
