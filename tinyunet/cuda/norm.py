"""Batch normalisation: kernels/norm/. M = N H W is the number of values of one channel."""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.sums import add_parts
from tinyunet.cuda.vectors import THREADS, blocks, columns, cpp, ints, vector


def forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array, Array]:
    """y = gamma x_hat + beta,   x_hat = (x - mean) inv_std,   inv_std = 1 / sqrt(var + eps), with mean and variance of x

    (N, H, W, C), (C,), (C,) -> y and x_hat (N, H, W, C), inv_std, mean and var (C,)
    """
    mean, var, inv_std = statistics(x, eps)
    x_hat = array_module(x).empty_like(x)
    return _apply(x, mean, inv_std, gamma, beta, x_hat, relu=False), x_hat, inv_std, mean, var


def eval_forward(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """y = gamma x_hat + beta,   x_hat = (x - mean) / sqrt(var + eps), with mean and variance given

    (N, H, W, C), (C,), (C,), (C,), (C,) -> y and x_hat (N, H, W, C)
    """
    x_hat = array_module(x).empty_like(x)
    return _apply(x, mean, 1 / array_module(x).sqrt(var + eps), gamma, beta, x_hat, relu=False), x_hat


def relu_forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """y = max(gamma (x - mean) inv_std + beta, 0): batch norm and ReLU in one pass, which leaves neither x_hat nor a mask

    (N, H, W, C), (C,), (C,) -> y (N, H, W, C), inv_std, mean and var (C,)
    """
    mean, var, inv_std = statistics(x, eps)
    return _apply(x, mean, inv_std, gamma, beta, None, relu=True), inv_std, mean, var


def backward(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
    """dx = gamma inv_std (dy - mean(dy) - x_hat mean(dy x_hat)),   dgamma = sum(dy x_hat),   dbeta = sum(dy)

    (N, H, W, C), (N, H, W, C), (C,), (C,) -> (N, H, W, C), (C,), (C,)
    """
    sums = _sums(dy, x_hat)
    return _dx(dy, x_hat, sums, inv_std, gamma), sums[1], sums[0]


def relu_backward(
    dy: Array, x: Array, gamma: Array, beta: Array, inv_std: Array, mean: Array
) -> tuple[Array, Array, Array]:
    """The gradients of `relu_forward`; x_hat and the ReLU's mask are computed anew from x.

    (N, H, W, C), (N, H, W, C), four times (C,) -> dx (N, H, W, C), dgamma and dbeta (C,)
    """
    sums = _sums(dy, x, mean, inv_std, gamma, beta)
    return _dx(dy, x, sums, inv_std, gamma, mean, beta), sums[1], sums[0]


def eval_backward(dy: Array, x_hat: Array, slope: Array) -> tuple[Array, Array, Array]:
    """dx = dy slope,   dgamma = sum(dy x_hat),   dbeta = sum(dy): mean and variance did not depend on x

    (N, H, W, C), (N, H, W, C), (C,) -> (N, H, W, C), (C,), (C,)
    """
    sums = _sums(dy, x_hat)
    return dy * slope, sums[1], sums[0]


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """Mean, variance (biased) and 1 / sqrt(var + eps) of each channel: (N, H, W, C) -> three times (C,)"""
    xp = array_module(x)
    channels = x.shape[3]
    kind, width = vector(channels, arrays=(x,))
    pixels, vectors = x.size // channels, channels // width
    launch = columns(pixels, vectors)
    means, squares = (xp.empty((launch.parts, channels), x.dtype) for _ in range(2))
    mean, var, inv_std = (xp.empty(channels, x.dtype) for _ in range(3))
    runtime.run("norm/statistics.cu", f"norm_parts<{kind}>", launch.grid, launch.block,
                (x, means, squares, *ints(pixels, vectors)))  # fmt: skip
    runtime.run("norm/statistics.cu", f"norm_merge<{kind}>", launch.last, launch.block,
                (means, squares, mean, var, inv_std, *ints(pixels, launch.parts, vectors), np.float32(eps)))  # fmt: skip
    return mean, var, inv_std


def _apply(x: Array, mean: Array, inv_std: Array, gamma: Array, beta: Array, x_hat: Array | None, relu: bool) -> Array:
    """y, and x_hat into the array if there is one."""
    channels = x.shape[3]
    kind, width = vector(channels, arrays=(x, mean, inv_std, gamma, beta))
    y = array_module(x).empty_like(x)
    n = x.size // width
    runtime.run("norm/apply.cu", f"norm_apply<{kind}, {cpp(relu)}>", blocks(n), (THREADS,),
                (x, mean, inv_std, gamma, beta, y, x_hat, *ints(n, channels // width)))  # fmt: skip
    return y


def _sums(dy: Array, x: Array, *fused: Array) -> Array:
    """The sums of dy and of dy x_hat: (2, C). Without mean, inv_std, gamma and beta, x is x_hat."""
    channels = x.shape[3]
    kind, width = vector(channels, arrays=(dy, x, *fused))
    pixels, vectors = x.size // channels, channels // width
    launch = columns(pixels, vectors)
    parts = array_module(x).empty((launch.parts, 2 * channels), x.dtype)
    runtime.run("norm/backward.cu", f"norm_sums<{kind}, {cpp(bool(fused))}>", launch.grid, launch.block,
                (x, dy, *(fused or [None] * 4), parts, *ints(pixels, vectors)))  # fmt: skip
    return add_parts(parts).reshape(2, channels)


def _dx(dy: Array, x: Array, sums: Array, inv_std: Array, gamma: Array, mean: Array | None = None,
        beta: Array | None = None) -> Array:  # fmt: skip
    """The gradient by x, or without mean and beta that by what x_hat was made of."""
    channels = x.shape[3]
    read = (dy, x, sums, inv_std, gamma, mean, beta)
    kind, width = vector(channels, arrays=tuple(a for a in read if a is not None))
    dx = array_module(x).empty_like(dy)
    n = x.size // width
    runtime.run("norm/backward.cu", f"norm_dx<{kind}, {cpp(mean is not None)}>", blocks(n), (THREADS,),
                (x, dy, mean, inv_std, gamma, beta, sums, dx, *ints(n, channels // width)))  # fmt: skip
    return dx
