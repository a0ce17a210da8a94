"""The formulas written out as loops: the slowest rung, and the one that all others are held to."""

from __future__ import annotations

from itertools import product

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung


def conv_forward(x: Array, w: Array, pad: int) -> Array:
    """y[n,i,j,o] = sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o]"""
    n_images, height, width, _ = x.shape
    size, _, _, c_out = w.shape
    rows, cols = height + 2 * pad - size + 1, width + 2 * pad - size + 1
    y = array_module(x).zeros((n_images, rows, cols, c_out), x.dtype)
    for n, i, j, r, s in product(range(n_images), range(rows), range(cols), range(size), range(size)):
        if 0 <= i + r - pad < height and 0 <= j + s - pad < width:
            y[n, i, j] += x[n, i + r - pad, j + s - pad] @ w[r, s]
    return y


def conv_grad_x(dy: Array, w: Array, pad: int) -> Array:
    """Every product of forward sends dy[n,i,j,o] w[r,s,c,o] back to the pixel that it read."""
    n_images, rows, cols, _ = dy.shape
    size, _, c_in, _ = w.shape
    height, width = rows + size - 1 - 2 * pad, cols + size - 1 - 2 * pad
    dx = array_module(dy).zeros((n_images, height, width, c_in), dy.dtype)
    for n, i, j, r, s in product(range(n_images), range(rows), range(cols), range(size), range(size)):
        if 0 <= i + r - pad < height and 0 <= j + s - pad < width:
            dx[n, i + r - pad, j + s - pad] += w[r, s] @ dy[n, i, j]
    return dx


def conv_grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """Every product of forward sends dy[n,i,j,o] x[n, i+r-pad, j+s-pad, c] back to the weight that it used."""
    n_images, height, width, c_in = x.shape
    _, rows, cols, c_out = dy.shape
    dw = array_module(x).zeros((size, size, c_in, c_out), x.dtype)
    for n, i, j, r, s in product(range(n_images), range(rows), range(cols), range(size), range(size)):
        if 0 <= i + r - pad < height and 0 <= j + s - pad < width:
            dw[r, s] += x[n, i + r - pad, j + s - pad, :, None] * dy[n, i, j, None, :]
    return dw


def upconv_forward(x: Array, w: Array) -> Array:
    """y[n, 2i+a, 2j+b, o] = sum over c of x[n,i,j,c] w[a,b,o,c]"""
    n_images, height, width, _ = x.shape
    y = array_module(x).zeros((n_images, 2 * height, 2 * width, w.shape[2]), x.dtype)
    for n, i, j, a, b in product(range(n_images), range(height), range(width), range(2), range(2)):
        y[n, 2 * i + a, 2 * j + b] = w[a, b] @ x[n, i, j]
    return y


def upconv_grad_x(dy: Array, w: Array) -> Array:
    """dx[n,i,j,c] = sum over a,b,o of dy[n, 2i+a, 2j+b, o] w[a,b,o,c], the convolution of stride 2"""
    n_images, rows, cols, _ = dy.shape
    dx = array_module(dy).zeros((n_images, rows // 2, cols // 2, w.shape[3]), dy.dtype)
    for n, i, j, a, b in product(range(n_images), range(rows // 2), range(cols // 2), range(2), range(2)):
        dx[n, i, j] += dy[n, 2 * i + a, 2 * j + b] @ w[a, b]
    return dx


def upconv_grad_w(x: Array, dy: Array) -> Array:
    """dw[a,b,o,c] = sum over n,i,j of dy[n, 2i+a, 2j+b, o] x[n,i,j,c]"""
    n_images, height, width, c_in = x.shape
    dw = array_module(x).zeros((2, 2, dy.shape[3], c_in), x.dtype)
    for n, i, j, a, b in product(range(n_images), range(height), range(width), range(2), range(2)):
        dw[a, b] += dy[n, 2 * i + a, 2 * j + b, :, None] * x[n, i, j, None, :]
    return dw


CONV = Rung("loops", conv_forward, conv_grad_x, conv_grad_w)
UPCONV = Rung("loops", upconv_forward, upconv_grad_x, upconv_grad_w)
