"""Max-pooling: the largest of four, ties to the first, and a gradient for the winner alone."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_complex_step, check_grad
from tinyunet.errors import ShapeError
from tinyunet.ops import max_pool_backward, max_pool_forward

geometry = given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))


def lattice(shape, rng):
    """Values 0.01 apart in random order, around zero: no step of 1e-5 changes a winner."""
    values = np.arange(np.prod(shape)) * 0.01 - 0.2
    return rng.permutation(values).reshape(shape)


def draw(n, h, w, c, seed):
    """An image of 2h x 2w distinct values, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return lattice((n, 2 * h, 2 * w, c), rng), rng


def one_window(*values):
    """An image of one 2x2 window with these four values, in row-major order."""
    return np.array(values, float).reshape(1, 2, 2, 1)


# Reference ----------------------------------------------------------------------------------------------------------


@geometry
def test_forward_and_backward_are_the_formula(n, h, w, c, seed):
    """y is the maximum of every window; dx holds dy at the first place that attains it and zero elsewhere."""
    x, rng = draw(n, h, w, c, seed)
    y, ctx = max_pool_forward(x)
    dy = rng.standard_normal(y.shape)
    dx = max_pool_backward(dy, ctx)
    assert y.shape == (n, h, w, c)
    for m, i, j, k in product(range(n), range(h), range(w), range(c)):
        window = x[m, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k]
        assert y[m, i, j, k] == window.max()
        wanted = np.zeros(4)
        wanted[window.argmax()] = dy[m, i, j, k]
        np.testing.assert_array_equal(dx[m, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k], wanted.reshape(2, 2))


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradient_by_differences(n, h, w, c, seed):
    """dx agrees with difference quotients where no two values are near each other."""
    x, rng = draw(n, h, w, c, seed)
    check_grad(max_pool_forward, max_pool_backward, {"x": x}, rng)


@geometry
def test_gradient_by_complex_step(n, h, w, c, seed):
    """dx agrees with the complex step to rounding."""
    x, rng = draw(n, h, w, c, seed)
    check_complex_step(max_pool_forward, max_pool_backward, {"x": x}, rng)


# Ties and NaN, by exact value ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ((5, 5, 5, 5), 0),
        ((1, 5, 5, 5), 1),
        ((1, 2, 5, 5), 2),
        ((5, 1, 5, 1), 0),
        ((1, 5, 1, 5), 1),
        ((0, 0, -1, 0), 0),
        ((-0.0, 0.0, 0, 0), 0),
        ((-np.inf, -np.inf, -np.inf, -np.inf), 0),
        ((1, np.inf, np.inf, 2), 1),
    ],
)
def test_the_first_of_equal_values_wins(values, winner):
    """Of equal values the first in row-major order gets the whole gradient."""
    y, ctx = max_pool_forward(one_window(*values))
    assert y.item() == max(values)
    np.testing.assert_array_equal(max_pool_backward(np.full((1, 1, 1, 1), 7.0), ctx).ravel(), 7.0 * (np.arange(4) == winner))


@pytest.mark.parametrize("place", range(4))
def test_a_nan_wins(place):
    """A NaN beats every number wherever it stands, infinity too, and its place gets the gradient."""
    values = [np.inf, 3.0, -1.0, 2.0]
    values[place] = np.nan
    y, ctx = max_pool_forward(one_window(*values))
    assert np.isnan(y).all()
    np.testing.assert_array_equal(max_pool_backward(np.ones((1, 1, 1, 1)), ctx).ravel(), np.arange(4) == place)


@given(st.integers(0, 2**32 - 1))
def test_no_gradient_is_lost_or_doubled_in_ties(seed):
    """On images of zeros and ones, full of ties, dx sums to dy in every window and sits in one place of it."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (2, 6, 8, 3)).astype(float)
    y, ctx = max_pool_forward(x)
    dy = rng.standard_normal(y.shape)
    windows = max_pool_backward(dy, ctx).reshape(2, 3, 2, 4, 2, 3)
    np.testing.assert_array_equal(windows.sum(axis=(2, 4)), dy)
    assert ((windows != 0).sum(axis=(2, 4)) == 1).all()


# Properties ---------------------------------------------------------------------------------------------------------


@geometry
def test_order_and_scale(n, h, w, c, seed):
    """max(a x + b) = a max(x) + b for a > 0; a larger image has a larger maximum."""
    x, rng = draw(n, h, w, c, seed)
    y = max_pool_forward(x)[0]
    np.testing.assert_allclose(max_pool_forward(3 * x + 2)[0], 3 * y + 2, rtol=1e-12)
    assert (max_pool_forward(x + rng.uniform(0, 1, x.shape))[0] >= y).all()


def test_constant_blocks_come_back(rng):
    """Pooling undoes the repetition of pixels."""
    x = rng.standard_normal((2, 3, 4, 2))
    np.testing.assert_array_equal(max_pool_forward(x.repeat(2, axis=1).repeat(2, axis=2))[0], x)


def test_negative_values_stay_negative(rng):
    """No zero from a border or a start value creeps in."""
    assert (max_pool_forward(-1 - rng.random((2, 4, 6, 3)))[0] <= -1).all()


def test_the_winner_moves_with_its_value(rng):
    """Swapping the rows of all windows keeps y and moves the gradient with the values."""
    x = lattice((2, 4, 6, 3), rng)
    swapped = x.reshape(2, 2, 2, 6, 3)[:, :, ::-1].reshape(x.shape)
    (y, ctx), (y2, ctx2) = max_pool_forward(x), max_pool_forward(swapped)
    dy = rng.standard_normal(y.shape)
    np.testing.assert_array_equal(y, y2)
    dx = max_pool_backward(dy, ctx).reshape(2, 2, 2, 6, 3)[:, :, ::-1].reshape(x.shape)
    np.testing.assert_array_equal(max_pool_backward(dy, ctx2), dx)


def test_the_context_is_a_byte_for_every_output(rng):
    """What is remembered takes one byte an output value, not the input."""
    y, ctx = max_pool_forward(rng.standard_normal((2, 4, 6, 3)))
    assert ctx.winner.nbytes == y.size
    assert sum(isinstance(value, np.ndarray) for value in ctx) == 1


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "remedy"), [(5, 4, "6x4"), (4, 7, "4x8"), (3, 3, "4x4")])
def test_odd_sizes(height, width, remedy):
    """An odd side is refused rather than cut, with the next even size."""
    with pytest.raises(ShapeError, match=rf"max_pool: a {height}x{width} map is odd\. Pad or crop it to {remedy}"):
        max_pool_forward(np.zeros((1, height, width, 1)))
