"""Batch normalisation (Ioffe, Szegedy 2015, algorithm 1), per channel over images and pixels. The U-Net paper has none.

Training uses the mean and variance of the batch at hand; prediction uses running averages of them, so that the result for
an image does not depend on its neighbours. M = N H W is the number of values of one channel.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyunet import cuda
from tinyunet.backend import Array, array_module
from tinyunet.errors import ShapeError
from tinyunet.ops.contract import as_gradient, as_map, channel_sum, check_param
from tinyunet.parallel import over_rows

EPS = 1e-5
"""Added to the variance, inside the root, so that a constant channel stays finite."""


class BatchNormContext(NamedTuple):
    """x_hat is kept, mean and variance are small; the running averages are the layer's business."""

    x_hat: Array  # (N, H, W, C): (x - mean) / sqrt(var + eps)
    gamma: Array  # (C,)
    inv_std: Array  # (C,): 1 / sqrt(var + eps)
    mean: Array  # (C,) of this batch
    var: Array  # (C,) of this batch, biased: the sum of squares divided by M


def batch_norm_forward(x: Array, gamma: Array, beta: Array, eps: float = EPS) -> tuple[Array, BatchNormContext]:
    """y = gamma x_hat + beta,   x_hat = (x - mean) / sqrt(var + eps)

    (N, H, W, C), (C,), (C,) -> (N, H, W, C)

    The variance is taken from x - mean, not as mean(x^2) - mean^2, which cancels in float32.

    Raises ShapeError for a single value per channel, whose variance says nothing.
    """
    x = _checked(x, gamma, beta)
    count = x.shape[0] * x.shape[1] * x.shape[2]
    if count < 2:
        raise ShapeError(f"batch_norm: shape {x.shape} has {count} value a channel; training needs 2 or more to take a variance.")
    if cuda.takes(x):
        y, x_hat, inv_std, mean, var = cuda.norm.forward(x, gamma, beta, eps)
        return y, BatchNormContext(x_hat, gamma, inv_std, mean, var)
    mean = channel_sum(x) / count
    centred = over_rows(lambda x: x - mean, x)
    var = channel_sum(centred, centred) / count
    inv_std = 1 / array_module(x).sqrt(var + eps)

    def formula(centred: Array) -> tuple[Array, Array]:
        x_hat = centred * inv_std
        return gamma * x_hat + beta, x_hat

    y, x_hat = over_rows(formula, centred)
    return y, BatchNormContext(x_hat, gamma, inv_std, mean, var)


def batch_norm_backward(dy: Array, ctx: BatchNormContext) -> tuple[Array, Array, Array]:
    """dx = gamma inv_std (dy - mean(dy) - x_hat mean(dy x_hat)),   dgamma = sum(dy x_hat),   dbeta = sum(dy)

    (N, H, W, C) -> (N, H, W, C), (C,), (C,)

    Where it comes from, for one channel, with g = gamma dy the gradient of x_hat. x_hat = (x - mean) inv_std has three
    roads from x. The direct one gives inv_std g. Through the mean, every x loses its share of what all lose:
    -inv_std mean(g). Through inv_std, with d inv_std / dx_i = -inv_std^2 x_hat_i / M, comes -inv_std x_hat mean(g x_hat).
    So dx sums to zero over each channel, and a bias in front of batch norm has no gradient.
    """
    x_hat, gamma, inv_std, _, _ = ctx
    dy = as_gradient("batch_norm", dy, x_hat.shape, x_hat.dtype)
    if cuda.takes(dy):
        return cuda.norm.backward(dy, x_hat, gamma, inv_std)
    count = dy.shape[0] * dy.shape[1] * dy.shape[2]
    dgamma, dbeta = channel_sum(dy, x_hat), channel_sum(dy)

    def formula(dy: Array, x_hat: Array) -> Array:
        return (gamma * inv_std) * (dy - dbeta / count - x_hat * (dgamma / count))

    dx = over_rows(formula, dy, x_hat)
    return dx, dgamma, dbeta


class BatchNormEvalContext(NamedTuple):
    """With fixed statistics the layer is an affine map, and this is its slope."""

    x_hat: Array  # (N, H, W, C)
    slope: Array  # (C,): gamma / sqrt(running var + eps)


def batch_norm_eval_forward(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float = EPS
) -> tuple[Array, BatchNormEvalContext]:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with running mean and variance

    (N, H, W, C), (C,), (C,), (C,), (C,) -> (N, H, W, C)
    """
    x = _checked(x, gamma, beta)
    inv_std = 1 / array_module(x).sqrt(var + eps)

    def formula(x: Array) -> tuple[Array, Array]:
        x_hat = (x - mean) * inv_std
        return gamma * x_hat + beta, x_hat

    y, x_hat = cuda.norm.eval_forward(x, gamma, beta, mean, var, eps) if cuda.takes(x) else over_rows(formula, x)
    return y, BatchNormEvalContext(x_hat, gamma * inv_std)


def batch_norm_eval_backward(dy: Array, ctx: BatchNormEvalContext) -> tuple[Array, Array, Array]:
    """dx = dy gamma / sqrt(var + eps),   dgamma = sum(dy x_hat),   dbeta = sum(dy)

    (N, H, W, C) -> (N, H, W, C), (C,), (C,)
    """
    dy = as_gradient("batch_norm", dy, ctx.x_hat.shape, ctx.x_hat.dtype)
    if cuda.takes(dy):
        return cuda.norm.eval_backward(dy, ctx.x_hat, ctx.slope)
    dx = over_rows(lambda dy: dy * ctx.slope, dy)
    return dx, channel_sum(dy, ctx.x_hat), channel_sum(dy)


def _checked(x: Array, gamma: Array, beta: Array) -> Array:
    x = as_map("batch_norm", x)
    check_param("batch_norm", "gamma", gamma, (x.shape[3],), x)
    check_param("batch_norm", "beta", beta, (x.shape[3],), x)
    return x
