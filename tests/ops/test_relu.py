"""ReLU: its formula, its kink, and a mask for memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_complex_step, check_grad
from tinyunet.ops import relu_backward, relu_forward

shapes = given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))


def draw(n, h, w, c, seed):
    """Values at least 0.005 away from zero, one half on each side, in random order; one positive value at least."""
    rng = np.random.default_rng(seed)
    values = (np.arange(n * h * w * c) - (n * h * w * c - 1) // 2 + 0.5) * 0.01
    return rng.permutation(values).reshape(n, h, w, c), rng


@shapes
def test_forward_is_the_maximum_with_zero(n, h, w, c, seed):
    """Negative values become zero and the others stay."""
    x, _ = draw(n, h, w, c, seed)
    np.testing.assert_array_equal(relu_forward(x)[0], np.maximum(x, 0))


@shapes
def test_gradient_by_differences(n, h, w, c, seed):
    """dx agrees with difference quotients away from zero."""
    x, rng = draw(n, h, w, c, seed)
    check_grad(relu_forward, relu_backward, {"x": x}, rng)


@shapes
def test_gradient_by_complex_step(n, h, w, c, seed):
    """dx agrees with the complex step to rounding."""
    x, rng = draw(n, h, w, c, seed)
    check_complex_step(relu_forward, relu_backward, {"x": x}, rng)


def test_the_derivative_at_zero_is_zero():
    """At the kink, and at minus zero, no gradient passes."""
    _, ctx = relu_forward(np.array([-1.0, -0.0, 0.0, 5e-324, 1.0]))
    np.testing.assert_array_equal(relu_backward(np.full(5, 3.0), ctx), [0, 0, 0, 3, 3])


def test_nan_and_infinity():
    """NaN stays NaN, infinity stays, minus infinity becomes zero; the gradient passes at NaN."""
    y, ctx = relu_forward(np.array([np.nan, np.inf, -np.inf]))
    np.testing.assert_array_equal(y, [np.nan, np.inf, 0])
    np.testing.assert_array_equal(relu_backward(np.ones(3), ctx), [1, 1, 0])


def test_twice_is_once_and_scale_goes_through(rng):
    """relu(relu(x)) = relu(x), and relu(a x) = a relu(x) for a > 0."""
    x = rng.standard_normal((2, 3, 4, 5))
    y = relu_forward(x)[0]
    np.testing.assert_array_equal(relu_forward(y)[0], y)
    np.testing.assert_array_equal(relu_forward(4 * x)[0], 4 * y)


def test_the_gradient_passes_where_the_output_is_positive(rng):
    """The mask of the gradient is that of y > 0."""
    x = rng.standard_normal((2, 3, 4, 5))
    y, ctx = relu_forward(x)
    dy = rng.standard_normal(x.shape)
    np.testing.assert_array_equal(relu_backward(dy, ctx), dy * (y > 0))


def test_the_context_is_a_bit_for_every_value(rng):
    """What is remembered takes one bit a value, and what fills up the last byte of each row."""
    x = rng.standard_normal((2, 3, 4, 5))
    _, ctx = relu_forward(x)
    assert ctx.positive.nbytes == 2 * 3 * 3  # a row has 20 values: 3 bytes
    assert sum(isinstance(value, np.ndarray) for value in ctx) == 1


def test_complex_numbers_are_compared_by_their_real_part():
    """A large imaginary part does not make a negative number positive."""
    np.testing.assert_array_equal(relu_forward(np.array([1 - 9j, -1 + 9j]))[0], [1 - 9j, 0])
