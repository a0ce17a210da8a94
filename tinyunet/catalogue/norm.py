"""What batch normalisation keeps: in training the statistics it sets and the directions its gradient avoids, else a line.

"batch_norm" is the op of training, "batch_norm_eval" the one with running statistics. How these are followed is the layer's
business: "batch_norm_layer".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import Case, geometry, keep_laws, require_equal, require_refused
from tinyunet.layers import BatchNorm

AXES = (0, 1, 2)
"""Images and pixels: what statistics are taken over."""


def values(draw: Draw) -> tuple[Array, Array, Array]:
    """x with another mean and spread in every channel; gamma of both signs and beta, never 1 and 0."""
    n, height, width, c = geometry(draw, low=3)
    rng = draw.rng
    x = rng.standard_normal((n, height, width, c)) * rng.uniform(0.5, 2, c) + rng.standard_normal(c)
    return x, rng.uniform(0.5, 2, c) * rng.choice([-1, 1], c), rng.standard_normal(c)


def statistics(draw: Draw, c: int) -> tuple[Array, Array]:
    """A running mean and a running variance, far from 0 and 1."""
    return draw.rng.standard_normal(c), draw.rng.uniform(0.2, 3, c)


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    x, gamma, beta = values(draw)
    yield Case({"x": x, "gamma": gamma, "beta": beta}, op.forward, op.backward, x.shape, linear=("gamma", "beta"))


def eval_cases(op: Op, draw: Draw) -> Iterator[Case]:
    x, gamma, beta = values(draw)
    mean, var = statistics(draw, len(gamma))

    def forward(x: Array, gamma: Array, beta: Array) -> Any:
        return op.forward(x, gamma, beta, mean.astype(x.dtype), var.astype(x.dtype))

    yield Case({"x": x, "gamma": gamma, "beta": beta}, forward, op.backward, x.shape, linear=("x", "gamma", "beta"))


# In training, images of a batch share their statistics, and no image has none. A NaN spoils them all.
keep_laws("batch_norm", cases, without=["images_do_not_mix", "an_empty_batch_is_fine", "a_nan_stays_in_its_image"])
keep_laws("batch_norm_eval", eval_cases)


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


@holds("batch_norm", "reference")
def forward_is_the_formula(op: Op, draw: Draw) -> None:
    """Each channel is centred and scaled by its own mean and biased variance over all images and pixels, eps = 1e-5 added."""
    x, gamma, beta = values(draw)
    expected = np.empty(x.shape)
    for c in range(x.shape[3]):
        v = x[..., c].ravel().tolist()
        mean = sum(v) / len(v)
        var = sum((value - mean) ** 2 for value in v) / len(v)
        expected[..., c] = gamma[c] * (x[..., c] - mean) / (var + 1e-5) ** 0.5 + beta[c]
    require_close("y", op.forward(x, gamma, beta)[0], expected)


@holds("batch_norm", "convention")
def eps_is_inside_the_root(op: Op, draw: Draw) -> None:
    """y = gamma (x - mean) / sqrt(var + eps): with variance 3 and eps 1 the divisor is 2, and not sqrt(3) + 1."""
    x = np.sqrt(3) * np.array(draw.rng.permutation([1.0, -1.0])).reshape(1, 1, 2, 1)
    require_close("y", op.forward(x, np.ones(1), np.zeros(1), 1.0)[0], x / 2)


@holds("batch_norm", "invariance")
def the_output_has_mean_beta_and_spread_gamma(op: Op, draw: Draw) -> None:
    """With eps = 0 every channel comes out with mean beta and standard deviation |gamma|, over the whole batch."""
    x, gamma, beta = values(draw)
    y, _ = op.forward(x, gamma, beta, 0.0)
    require_close("the mean of y", y.mean(axis=AXES), beta, scale=1.0)
    require_close("the standard deviation of y", y.std(axis=AXES), abs(gamma))


@holds("batch_norm", "invariance")
def scale_and_shift_of_the_input_do_not_matter(op: Op, draw: Draw) -> None:
    """x -> a x + c in each channel changes nothing for a > 0 and flips the sign for a < 0; dx becomes dx / a."""
    x, gamma, beta = values(draw)
    a, c = draw.rng.uniform(0.5, 3, len(gamma)) * draw.rng.choice([-1, 1], len(gamma)), draw.rng.standard_normal(len(gamma))
    (y, ctx), (y2, ctx2) = op.forward(x, gamma, beta, 0.0), op.forward(a * x + c, gamma, beta, 0.0)
    require_close("y - beta of a x + c", y2 - beta, np.sign(a) * (y - beta), rtol=1e-11)
    dy = draw.rng.standard_normal(x.shape)
    require_close("a dx of a x + c", a * op.backward(np.sign(a) * dy, ctx2)[0], op.backward(dy, ctx)[0], rtol=1e-11)


@holds("batch_norm", "invariance")
def dx_avoids_the_directions_that_were_taken_out(op: Op, draw: Draw) -> None:
    """dx sums to zero over each channel, and with eps = 0 so does dx times the normalised x."""
    x, gamma, beta = values(draw)
    _, ctx = op.forward(x, gamma, beta, 0.0)
    dx, _, _ = op.backward(draw.rng.standard_normal(x.shape), ctx)
    x_hat = (x - x.mean(axis=AXES)) / x.std(axis=AXES)
    size = float(np.abs(dx).sum())
    require_close("the sum of dx over a channel", dx.sum(axis=AXES), np.zeros(len(gamma)), scale=size)
    require_close("the sum of dx x_hat over a channel", (dx * x_hat).sum(axis=AXES), np.zeros(len(gamma)), scale=size)


@holds("batch_norm", "invariance")
def gradients_of_gamma_and_beta_are_sums(op: Op, draw: Draw) -> None:
    """dbeta is the sum of dy and dgamma the sum of dy times the normalised x: sums, not means."""
    x, gamma, beta = values(draw)
    y, ctx = op.forward(x, gamma, beta)
    dy = draw.rng.standard_normal(x.shape)
    _, dgamma, dbeta = op.backward(dy, ctx)
    require_close("dbeta", dbeta, np.einsum("nhwc->c", dy), scale=10.0)
    require_close("dgamma", dgamma, np.einsum("nhwc,nhwc->c", dy, (y - beta) / gamma), scale=10.0)


@holds("batch_norm", "invariance")
def the_order_of_images_and_pixels_does_not_matter(op: Op, draw: Draw) -> None:
    """Shuffling images and pixels of the input shuffles the output alike: every pixel counts the same."""
    x, gamma, beta = values(draw)
    order = draw.rng.permutation(x[..., 0].size)

    def shuffled(a: Array) -> Array:
        return a.reshape(-1, a.shape[3])[order].reshape(a.shape)

    (y, ctx), (y2, ctx2) = op.forward(x, gamma, beta), op.forward(shuffled(x), gamma, beta)
    require_close("y of shuffled pixels", y2, shuffled(y), scale=1.0)
    dy = draw.rng.standard_normal(x.shape)
    dx, dx2 = op.backward(dy, ctx)[0], op.backward(shuffled(dy), ctx2)[0]
    require_close("dx of shuffled pixels", dx2, shuffled(dx), scale=1.0)


@holds("batch_norm", "invariance")
def the_whole_batch_counts(op: Op, draw: Draw) -> None:
    """Statistics are taken over images as well: changing one image changes the output of another."""
    x, gamma, beta = values(draw)
    x = np.concatenate((x[:1], x[:1]))
    other = x.copy()
    other[1] = 2 * other[1] + 3
    same = np.isclose(op.forward(other, gamma, beta)[0][0], op.forward(x, gamma, beta)[0][0]).mean(axis=(0, 1))
    require(bool((same < 0.5).all()), "another second image leaves the first as it was: are images normalised one by one")


@holds("batch_norm", "invariance")
def channels_do_not_mix(op: Op, draw: Draw) -> None:
    """Another first channel leaves the others as they were, in both directions."""
    x, dy = draw.rng.standard_normal((2, 2, 3, 4, 3))
    gamma, beta = draw.rng.uniform(0.5, 2, 3), draw.rng.standard_normal(3)
    other, other_dy = x.copy(), dy.copy()
    other[..., 0], other_dy[..., 0] = x[..., 0] ** 2, 1 - dy[..., 0]
    (y, ctx), (y2, ctx2) = op.forward(x, gamma, beta), op.forward(other, gamma, beta)
    require_close("y of the other channels", y2[..., 1:], y[..., 1:])
    require_close("dx of the other channels", op.backward(other_dy, ctx2)[0][..., 1:], op.backward(dy, ctx)[0][..., 1:])


@holds("batch_norm", "invariance")
def a_constant_channel_becomes_beta(op: Op, draw: Draw) -> None:
    """Where the variance is zero, the output is beta and the gradient is finite."""
    x, gamma, beta = values(draw)
    x[..., 0] = draw.choice((0.0, 7.0, -1e4, 5e-324))
    y, ctx = op.forward(x, gamma, beta)
    require_close("y of a constant channel", y[..., 0], np.full(x.shape[:3], beta[0]))
    require(bool(np.isfinite(op.backward(draw.rng.standard_normal(x.shape), ctx)[0]).all()), "dx is not finite")


@holds("batch_norm", "invariance")
def a_large_offset_loses_little_in_float32(op: Op, draw: Draw) -> None:
    """A mean of 1,000 times the spread leaves float32 right to a few thousandths: var is not mean(x^2) - mean(x)^2."""
    x = (draw.rng.standard_normal((2, 12, 15, 1)) + 1000).astype(np.float32)
    y, _ = op.forward(x, np.ones(1, np.float32), np.zeros(1, np.float32))
    exact = x.astype(np.float64)
    require_close("y", y, (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5), rtol=5e-3)


@holds("batch_norm", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """A single value for a channel, which has no variance, and parameters for other channels are refused."""
    x, gamma, beta = values(draw)
    require_refused("one pixel of one image", lambda: op.forward(x[:1, :1, :1], gamma, beta))
    _parameters(op, x, gamma, beta)


def _parameters(op: Op, x: Array, *others: Array) -> None:
    gamma, beta, *running = others
    c = len(gamma)
    require_refused(f"gamma of length {c + 1} for {c} channels", lambda: op.forward(x, np.ones(c + 1), beta, *running))
    require_refused(f"beta of length {c + 1} for {c} channels", lambda: op.forward(x, gamma, np.ones(c + 1), *running))


# ---------------------------------------------------------------------------------------------------------------------
# With running statistics
# ---------------------------------------------------------------------------------------------------------------------


@holds("batch_norm_eval", "reference")
def a_line_for_every_channel(op: Op, draw: Draw) -> None:
    """y = gamma (x - mean) / sqrt(var + 1e-5) + beta with the running mean and variance, whatever the batch."""
    x, gamma, beta = values(draw)
    mean, var = statistics(draw, len(gamma))
    y, ctx = op.forward(x, gamma, beta, mean, var)
    dy = draw.rng.standard_normal(x.shape)
    dx, dgamma, dbeta = op.backward(dy, ctx)
    expected, expected_dx = np.empty(x.shape), np.empty(x.shape)
    for c in range(len(gamma)):
        slope = gamma[c] / (var[c] + 1e-5) ** 0.5
        expected[..., c] = slope * (x[..., c] - mean[c]) + beta[c]
        expected_dx[..., c] = slope * dy[..., c]
    require_close("y", y, expected)
    require_close("dx", dx, expected_dx)
    require_close("dgamma", dgamma, np.einsum("nhwc,nhwc->c", dy, (expected - beta) / gamma), scale=10.0)
    require_close("dbeta", dbeta, np.einsum("nhwc->c", dy), scale=10.0)


@holds("batch_norm_eval", "convention")
def eps_is_inside_the_root_here_too(op: Op, draw: Draw) -> None:
    """With running variance 3 and eps 1 the divisor is 2, and not sqrt(3) + 1."""
    x = draw.rng.standard_normal((1, 2, 3, 1))
    require_close("y", op.forward(x, np.ones(1), np.zeros(1), np.zeros(1), np.full(1, 3.0), 1.0)[0], x / 2)


@holds("batch_norm_eval", "invariance")
def it_folds_into_a_scale_and_a_shift(op: Op, draw: Draw) -> None:
    """y = a x + c with one a and one c a channel, so it can be folded into the convolution before it."""
    x, gamma, beta = values(draw)
    fixed = gamma, beta, *statistics(draw, len(gamma))
    c = op.forward(np.zeros_like(x), *fixed)[0]
    a = op.forward(np.ones_like(x), *fixed)[0] - c
    require_close("a, the same for every pixel,", a, np.broadcast_to(a[:1, :1, :1], a.shape), scale=1.0)
    require_close("y", op.forward(x, *fixed)[0], a * x + c, rtol=1e-11, scale=1.0)


@holds("batch_norm_eval", "invariance")
def it_folds_into_the_convolution_before_it(op: Op, draw: Draw) -> None:
    """Batch norm of a convolution is a convolution with weights times the slope, and a bias that is scaled and shifted."""
    normal, c = draw.rng.standard_normal, draw.integer(1, 3)
    x, w, b = normal((2, 4, 5, 2)), normal((3, 3, 2, c)), normal(c)
    gamma, beta, (mean, var) = normal(c), normal(c), statistics(draw, c)
    slope = gamma / np.sqrt(var + 1e-5)
    folded, _ = ops.conv2d_forward(x, w * slope, (b - mean) * slope + beta)
    y, _ = op.forward(ops.conv2d_forward(x, w, b)[0], gamma, beta, mean, var)
    require_close("y", y, folded, rtol=1e-11, scale=1.0)


@holds("batch_norm_eval", "contract")
def parameters_that_do_not_fit_are_refused(op: Op, draw: Draw) -> None:
    """gamma and beta for another number of channels are refused, not broadcast."""
    x, gamma, beta = values(draw)
    _parameters(op, x, gamma, beta, *statistics(draw, len(gamma)))


# ---------------------------------------------------------------------------------------------------------------------
# The layer: running statistics
# ---------------------------------------------------------------------------------------------------------------------


def layer(draw: Draw, c: int) -> BatchNorm:
    """A layer whose parameters are random."""
    made = BatchNorm("norm", c, momentum=draw.choice((0.1, 0.3)))
    made.params["gamma"][...] = draw.rng.uniform(0.5, 2, c)
    made.params["beta"][...] = draw.rng.standard_normal(c)
    return made


@holds("batch_norm_layer", "convention")
def running_statistics_follow_the_batches(op: None, draw: Draw) -> None:
    """r <- (1 - momentum) r + momentum s, with s the batch's mean or its unbiased variance: M / (M - 1) times the biased."""
    c = draw.integer(1, 3)
    norm = layer(draw, c)
    mean, var = np.zeros(c), np.ones(c)
    for _ in range(3):
        x = draw.rng.standard_normal((2, 2, 3, c)) * 2 + 3
        norm.forward(x.astype(np.float32))
        mean = (1 - norm.momentum) * mean + norm.momentum * x.mean(axis=AXES)
        var = (1 - norm.momentum) * var + norm.momentum * x.var(axis=AXES, ddof=1)
    require_close("the running mean", norm.buffers["mean"], mean, rtol=1e-5)
    require_close("the running variance", norm.buffers["var"], var, rtol=1e-5)


@holds("batch_norm_layer", "convention")
def training_does_not_use_the_running_statistics(op: None, draw: Draw) -> None:
    """In training the output depends on the batch alone, however far the running statistics are from it."""
    norm, x = layer(draw, 2), draw.rng.standard_normal((2, 3, 4, 2)).astype(np.float32)
    y = norm.forward(x)
    norm.buffers["mean"], norm.buffers["var"] = norm.buffers["mean"] + 5, norm.buffers["var"] * 9
    require_equal("y after the running statistics were moved", norm.forward(x), y)


@holds("batch_norm_layer", "convention")
def prediction_uses_the_running_statistics_and_leaves_them_alone(op: None, draw: Draw) -> None:
    """In eval mode y is the line of the running statistics, for each image by itself, and they and the parameters stay."""
    norm, x = layer(draw, 2), draw.rng.standard_normal((3, 3, 4, 2)).astype(np.float32)
    norm.forward(x * 2 + 1)
    norm.training = False
    state = {name: value.copy() for name, value in {**norm.params, **norm.buffers}.items()}
    y = norm.forward(x)
    gamma, beta, mean, var = state["gamma"], state["beta"], state["mean"], state["var"]
    require_close("y in eval mode", y, gamma * (x - mean) / np.sqrt(var + 1e-5) + beta, rtol=1e-5)
    require_close("y of one image of the batch", norm.forward(x[1:2])[0], y[1], rtol=1e-6)
    for name, value in {**norm.params, **norm.buffers}.items():
        require_equal(f"{name} after eval", value, state[name])


@holds("batch_norm_layer", "gradient")
def backward_goes_with_the_mode_of_forward(op: None, draw: Draw) -> None:
    """After forward in eval mode dx is dy times one slope a channel; after forward in training it sums to zero."""
    norm, x = layer(draw, 2), draw.rng.standard_normal((2, 3, 4, 2)).astype(np.float32)
    dy = draw.rng.standard_normal(x.shape).astype(np.float32)
    norm.forward(x)
    dx = norm.backward(dy)
    require_close("the sum of dx over a channel, in training,", dx.sum(axis=AXES), np.zeros(2), rtol=1e-5, scale=10.0)
    norm.training = False
    norm.forward(x)
    slope = norm.params["gamma"] / np.sqrt(norm.buffers["var"] + 1e-5)
    require_close("dx in eval mode", norm.backward(dy), dy * slope, rtol=1e-5)


@holds("batch_norm_layer", "convention")
def gradients_of_parameters_add_up(op: None, draw: Draw) -> None:
    """A second backward adds to dgamma and dbeta of the first, so that half batches can be accumulated."""
    norm, x = layer(draw, 2), draw.rng.standard_normal((2, 3, 4, 2)).astype(np.float32)
    dy = draw.rng.standard_normal(x.shape).astype(np.float32)
    norm.forward(x)
    norm.backward(dy)
    once = {name: value.copy() for name, value in norm.grads.items()}
    norm.forward(x)
    norm.backward(dy)
    for name, value in norm.grads.items():
        require_close(f"d{name} after two backward passes", value, 2 * once[name], rtol=1e-6)
