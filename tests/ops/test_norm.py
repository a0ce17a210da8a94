"""Batch normalisation: statistics per channel over images and pixels, in training and with running averages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_complex_step, check_grad
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ops import batch_norm_backward, batch_norm_eval_backward, batch_norm_eval_forward, batch_norm_forward

geometry = given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))


def close(got, wanted, atol=1e-12):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=atol)


def draw(n, h, w, c, seed):
    """x with another mean and spread in every channel, gamma, beta, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c)) * rng.uniform(0.5, 3, c) + rng.standard_normal(c)
    return {"x": x, "gamma": rng.uniform(0.5, 2, c) * rng.choice([-1, 1], c), "beta": rng.standard_normal(c)}, rng


@pytest.fixture
def arguments():
    """x (3, 4, 5, 2), gamma and beta."""
    return draw(3, 4, 5, 2, 11)[0]


# Reference ----------------------------------------------------------------------------------------------------------


@geometry
def test_forward_is_the_formula_channel_by_channel(n, h, w, c, seed):
    """Each channel is centred and scaled with its own mean and biased variance over all images and pixels."""
    arguments, _ = draw(n, h, w, c, seed)
    y, ctx = batch_norm_forward(**arguments)
    for k in range(c):
        values = arguments["x"][..., k].ravel()
        mean = sum(values) / values.size
        var = sum((values - mean) ** 2) / values.size
        close(ctx.mean[k], mean)
        close(ctx.var[k], var)
        wanted = arguments["gamma"][k] * (values - mean) / (var + 1e-5) ** 0.5 + arguments["beta"][k]
        close(y[..., k].ravel(), wanted, atol=1e-11)


@geometry
def test_eval_forward_is_the_formula(n, h, w, c, seed):
    """With given statistics every value goes through the same straight line."""
    arguments, rng = draw(n, h, w, c, seed)
    mean, var = rng.standard_normal(c), rng.uniform(0.2, 3, c)
    y, _ = batch_norm_eval_forward(**arguments, mean=mean, var=var)
    x, gamma, beta = arguments.values()
    for k in range(c):
        close(y[..., k], gamma[k] * (x[..., k] - mean[k]) / np.sqrt(var[k] + 1e-5) + beta[k])


def test_eps_is_inside_the_root():
    """With variance 3 and eps 1, a value one above the mean becomes 1/2 and not 1/(sqrt(3) + 1)."""
    x = np.sqrt(3) * np.array([1.0, -1.0]).reshape(1, 1, 2, 1)
    close(batch_norm_forward(x, np.ones(1), np.zeros(1), eps=1.0)[0], x / 2)
    close(batch_norm_eval_forward(x, np.ones(1), np.zeros(1), np.zeros(1), np.full(1, 3.0), eps=1.0)[0], x / 2)


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradients_by_differences(n, h, w, c, seed):
    """dx, dgamma and dbeta agree with difference quotients."""
    arguments, rng = draw(n, h, w, c, seed)
    check_grad(batch_norm_forward, batch_norm_backward, arguments, rng)


@geometry
def test_gradients_by_complex_step(n, h, w, c, seed):
    """dx, dgamma and dbeta agree with the complex step to rounding."""
    arguments, rng = draw(n, h, w, c, seed)
    check_complex_step(batch_norm_forward, batch_norm_backward, arguments, rng, rtol=1e-11)


@geometry
def test_eval_gradients_by_differences(n, h, w, c, seed):
    """With fixed statistics, the three gradients agree with difference quotients."""
    arguments, rng = draw(n, h, w, c, seed)
    mean, var = rng.standard_normal(c), rng.uniform(0.2, 3, c)
    check_grad(lambda *a: batch_norm_eval_forward(*a, mean, var), batch_norm_eval_backward, arguments, rng)


@geometry
def test_eval_gradients_by_complex_step(n, h, w, c, seed):
    """With fixed statistics, the three gradients agree with the complex step to rounding."""
    arguments, rng = draw(n, h, w, c, seed)
    mean, var = rng.standard_normal(c), rng.uniform(0.2, 3, c)
    check_complex_step(lambda *a: batch_norm_eval_forward(*a, mean, var), batch_norm_eval_backward, arguments, rng)


# Properties ---------------------------------------------------------------------------------------------------------


def test_the_output_has_mean_beta_and_variance_gamma_squared(arguments):
    """With eps = 0, each channel comes out with mean beta and standard deviation |gamma|."""
    y, _ = batch_norm_forward(**arguments, eps=0.0)
    close(y.mean(axis=(0, 1, 2)), arguments["beta"])
    close(y.std(axis=(0, 1, 2)), abs(arguments["gamma"]))


def test_scale_and_shift_of_the_input_do_not_matter(arguments):
    """x -> a x + c in each channel changes nothing for a > 0, and flips the sign for a < 0; dx becomes dx / a."""
    x, gamma, beta = arguments.values()
    a, c = np.array([2.5, -0.7]), np.array([3.0, -1.0])
    (y, ctx), (y2, ctx2) = batch_norm_forward(x, gamma, beta, 0.0), batch_norm_forward(a * x + c, gamma, beta, 0.0)
    close(y2 - beta, np.sign(a) * (y - beta), atol=1e-11)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    close(batch_norm_backward(np.sign(a) * dy, ctx2)[0] * a, batch_norm_backward(dy, ctx)[0], atol=1e-11)


def test_the_gradient_is_orthogonal_to_what_is_taken_out(arguments, rng):
    """dx sums to zero over each channel, and with eps = 0 so does dx x_hat."""
    y, ctx = batch_norm_forward(**arguments, eps=0.0)
    dx, _, _ = batch_norm_backward(rng.standard_normal(y.shape), ctx)
    close(dx.sum(axis=(0, 1, 2)), 0)
    close((dx * ctx.x_hat).sum(axis=(0, 1, 2)), 0)


def test_gradients_of_gamma_and_beta_are_sums(arguments, rng):
    """dbeta = sum of dy, dgamma = sum of dy x_hat."""
    y, ctx = batch_norm_forward(**arguments)
    dy = rng.standard_normal(y.shape)
    _, dgamma, dbeta = batch_norm_backward(dy, ctx)
    close(dbeta, np.einsum("nhwc->c", dy))
    close(dgamma, np.einsum("nhwc,nhwc->c", dy, (y - arguments["beta"]) / arguments["gamma"]))


def test_the_order_of_images_and_pixels_does_not_matter(arguments, rng):
    """Shuffling images and pixels of the input shuffles the output alike."""
    x, gamma, beta = arguments.values()
    order = rng.permutation(x[..., 0].size)
    y, _ = batch_norm_forward(x, gamma, beta)
    shuffled, _ = batch_norm_forward(x.reshape(-1, 2)[order].reshape(x.shape), gamma, beta)
    close(shuffled.reshape(-1, 2), y.reshape(-1, 2)[order])


def test_channels_do_not_mix(arguments):
    """Another first channel leaves the second as it was."""
    x, gamma, beta = arguments.values()
    other = x.copy()
    other[..., 0] = x[..., 0] ** 2
    y, y_other = batch_norm_forward(x, gamma, beta)[0], batch_norm_forward(other, gamma, beta)[0]
    np.testing.assert_array_equal(y_other[..., 1], y[..., 1])


def test_a_constant_channel_becomes_beta(arguments):
    """Where the variance is zero the output is beta and the gradient is finite."""
    x, gamma, beta = arguments.values()
    y, ctx = batch_norm_forward(np.full_like(x, 7.0), gamma, beta)
    close(y, np.broadcast_to(beta, y.shape))
    assert np.isfinite(batch_norm_backward(np.ones_like(y), ctx)[0]).all()


def test_a_large_offset_loses_little_in_float32(rng):
    """A mean of 1000 times the spread leaves the variance right to a thousandth in float32."""
    x = (rng.standard_normal((2, 50, 60, 1)) + 1000).astype(np.float32)
    _, ctx = batch_norm_forward(x, np.ones(1, np.float32), np.zeros(1, np.float32))
    np.testing.assert_allclose(ctx.var, x.astype(np.float64).var(), rtol=1e-3)


def test_eval_treats_every_image_alone(arguments):
    """With running statistics an image's result does not depend on its batch."""
    mean, var = np.array([0.3, -0.2]), np.array([1.5, 0.4])
    y, _ = batch_norm_eval_forward(**arguments, mean=mean, var=var)
    alone, _ = batch_norm_eval_forward(arguments["x"][1:2], arguments["gamma"], arguments["beta"], mean, var)
    np.testing.assert_array_equal(alone[0], y[1])


# Agreement ----------------------------------------------------------------------------------------------------------


def test_eval_with_the_statistics_of_the_batch_is_training(arguments):
    """Given the batch's own mean and variance, both forward passes agree."""
    y, ctx = batch_norm_forward(**arguments)
    close(batch_norm_eval_forward(**arguments, mean=ctx.mean, var=ctx.var)[0], y)


# Errors -------------------------------------------------------------------------------------------------------------


def test_a_single_value_for_each_channel():
    """One pixel of one image has no variance; the message says how many values are needed."""
    with pytest.raises(ShapeError, match=r"batch_norm: shape \(1, 1, 1, 3\) has 1 value a channel; training needs 2 or more"):
        batch_norm_forward(np.zeros((1, 1, 1, 3)), np.ones(3), np.zeros(3))
    assert batch_norm_eval_forward(np.zeros((1, 1, 1, 3)), *np.ones((4, 3)))[0].shape == (1, 1, 1, 3)


def test_parameters_of_another_shape_or_dtype(arguments):
    """gamma and beta must have one value for each channel, in the dtype of x."""
    x, gamma, beta = arguments.values()
    with pytest.raises(ShapeError, match=r"batch_norm: gamma has shape \(1,\), but an input .* needs \(2,\)"):
        batch_norm_forward(x, gamma[:1], beta)
    with pytest.raises(ShapeError, match=r"batch_norm: beta has shape \(2, 1\), but an input .* needs \(2,\)"):
        batch_norm_eval_forward(x, gamma, beta[:, None], beta, abs(beta))
    with pytest.raises(DTypeError, match=r"batch_norm: beta is float32 and the input is float64"):
        batch_norm_forward(x, gamma, beta.astype(np.float32))
