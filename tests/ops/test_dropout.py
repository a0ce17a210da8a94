"""Dropout: the same draw in both directions, the mean kept, and the randomness of the generator alone."""

import numpy as np
import pytest

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.ops import dropout_backward, dropout_forward

RATES = [0.0, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("rate", RATES)
def test_values_are_kept_and_scaled_or_zero(rate, rng):
    """Each value is x / (1 - rate) or 0; about a share of `rate` is 0."""
    x = rng.uniform(1, 2, (2, 50, 40, 3))
    y, _ = dropout_forward(x, rate, rng)
    zero = y == 0
    np.testing.assert_allclose(y[~zero], (x / (1 - rate))[~zero], rtol=1e-15)
    spread = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(zero.mean() - rate) <= 4 * spread


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_is_kept(rate, rng):
    """The average over many draws is x, within four standard errors."""
    y, _ = dropout_forward(np.ones((4, 50, 50, 4)), rate, rng)
    assert abs(y.mean() - 1) <= 4 * np.sqrt(rate / (1 - rate) / y.size)


@pytest.mark.parametrize("rate", RATES)
def test_gradient_by_differences(rate, rng):
    """dx agrees with difference quotients under a fixed draw."""
    x = rng.standard_normal((2, 4, 5, 3))
    check_grad(lambda x: dropout_forward(x, rate, np.random.default_rng(1)), dropout_backward, {"x": x}, rng)


@pytest.mark.parametrize("rate", RATES)
def test_gradient_by_complex_step(rate, rng):
    """dx agrees with the complex step to rounding under a fixed draw."""
    x = rng.standard_normal((2, 4, 5, 3))
    check_complex_step(lambda x: dropout_forward(x, rate, np.random.default_rng(1)), dropout_backward, {"x": x}, rng)


def test_both_directions_share_one_draw(rng):
    """Forward and backward are adjoint, so they keep the same places with the same factor."""
    x, y = rng.standard_normal((2, 2, 4, 5, 3))
    _, ctx = dropout_forward(x, 0.3, np.random.default_rng(1))
    check_adjoint(lambda x: dropout_forward(x, 0.3, np.random.default_rng(1))[0], lambda y: dropout_backward(y, ctx), x, y)


def test_rate_zero_is_the_identity(rng):
    """Nothing is dropped and nothing is scaled, in both directions."""
    x = rng.standard_normal((2, 4, 5, 3))
    y, ctx = dropout_forward(x, 0.0, rng)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dropout_backward(x, ctx), x)
    assert ctx.kept.dtype == bool


def test_rate_zero_draws_nothing(rng):
    """The generator goes on as if dropout were not there."""
    dropout_forward(np.ones((2, 3)), 0.0, rng)
    assert rng.random() == np.random.default_rng(20150518).random()


def test_which_draws_are_kept(rng):
    """One number a value, in float32; a draw that equals the rate is kept, for draws reach 0 but not 1."""

    class Drawn(np.random.Generator):
        def random(self, shape, dtype):
            assert (shape, dtype) == ((5,), np.float32)
            return np.array([0, 0.25, 0.5, 0.75, 0.25], dtype)

    _, ctx = dropout_forward(np.ones(5), 0.5, Drawn(rng.bit_generator))
    np.testing.assert_array_equal(ctx.kept, [False, False, True, True, False])


def test_the_generator_decides(rng):
    """Equal seeds drop the same places, in float32 as in float64; going on with a generator drops others."""
    x = rng.uniform(1, 2, (2, 20, 20, 3))
    generator = np.random.default_rng(7)
    first, second = dropout_forward(x, 0.5, generator)[0], dropout_forward(x, 0.5, generator)[0]
    np.testing.assert_array_equal(dropout_forward(x, 0.5, np.random.default_rng(7))[0], first)
    single = dropout_forward(x.astype(np.float32), 0.5, np.random.default_rng(7))[0]
    np.testing.assert_array_equal(single == 0, first == 0)
    assert ((first == 0) != (second == 0)).any()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_that_are_none(rate, rng):
    """A rate of 1 would drop everything; it is refused, as are negative ones and NaN."""
    with pytest.raises(ConfigError, match=rf"dropout: rate is {rate}\. Give at least 0 and less than 1"):
        dropout_forward(np.zeros(3), rate, rng)


def test_a_gradient_of_another_shape(rng):
    """Backward refuses what does not fit the draw."""
    _, ctx = dropout_forward(np.zeros((2, 3)), 0.5, rng)
    with pytest.raises(ShapeError, match=r"dropout: dy has shape \(3, 2\), but the output of forward had \(2, 3\)"):
        dropout_backward(np.zeros((3, 2)), ctx)
