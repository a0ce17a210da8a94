"""The up-convolution as matrix products: no two windows overlap, so nothing needs to be gathered or added up.

Row 2i+a of the output holds, for every input pixel j of row i, the 2 O numbers w[a] x[n,i,j]. Seen as (N, H, 2, W, 2 O) the
output is therefore two matrix products, one for a = 0 and one for a = 1.
"""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung
from tinyunet.parallel import each, over_rows

BLOCK = 64
"""Channels of one job of `grad_w`."""


def forward(x: Array, w: Array, b: Array | None = None) -> Array:
    """y[n,i,a,j,:] = w[a] x[n,i,j] (+ b), with w[a] as a matrix (2 O, C)"""
    c_out, c_in = w.shape[2:]
    n, height, width, _ = x.shape
    xp = array_module(x)
    y = xp.empty((n, 2 * height, 2 * width, c_out), x.dtype)
    matrices = xp.ascontiguousarray(w.reshape(2, 2 * c_out, c_in).transpose(0, 2, 1))
    bias = None if b is None else xp.tile(b, 2)

    def rows(x: Array, y: Array) -> None:
        by_row = y.reshape(*x.shape[:2], 2, width, 2 * c_out)
        for a in range(2):
            products = x.reshape(-1, c_in) @ matrices[a]
            if bias is not None:
                products += bias
            by_row[:, :, a] = products.reshape(*x.shape[:3], 2 * c_out)

    over_rows(rows, x, y)
    return y


def grad_x(dy: Array, w: Array) -> Array:
    """dx[n,i,j] = sum over a of w[a]^T dy[n,i,a,j,:]"""
    c_out, c_in = w.shape[2:]
    n, height, width, _ = dy.shape
    xp = array_module(dy)
    dx = xp.empty((n, height // 2, width // 2, c_in), dy.dtype)

    def rows(dx: Array, dy: Array) -> None:
        by_row = dy.reshape(*dx.shape[:2], 2, dx.shape[2], 2 * c_out)
        pixels = dx.reshape(-1, c_in)
        xp.matmul(by_row[:, :, 0].reshape(-1, 2 * c_out), w[0].reshape(2 * c_out, c_in), out=pixels)
        pixels += by_row[:, :, 1].reshape(-1, 2 * c_out) @ w[1].reshape(2 * c_out, c_in)

    over_rows(rows, dx, dy)
    return dx


def grad_w(x: Array, dy: Array) -> Array:
    """dw[a] = sum over n,i,j of dy[n,i,a,j,:] x[n,i,j]^T

    The sum is over all pixels, so a job is not a strip of them but a block of the 2 O channels: no partial sums to add up.
    """
    n, height, width, c_in = x.shape
    c_out = dy.shape[3]
    by_row = dy.reshape(n, height, 2, width, 2 * c_out)
    pixels = x.reshape(-1, c_in)
    dw = array_module(x).empty((2, 2 * c_out, c_in), x.dtype)

    def block(job: tuple[int, slice]) -> None:
        a, channels = job
        gradient = by_row[:, :, a, :, channels]
        dw[a, channels] = gradient.reshape(-1, gradient.shape[3]).T @ pixels

    jobs = [(a, slice(start, min(start + BLOCK, 2 * c_out))) for a in range(2) for start in range(0, 2 * c_out, BLOCK)]
    if array_module(x) is np:
        each(block, jobs)
    else:
        for job in jobs:
            block(job)
    return dw.reshape(2, 2, c_out, c_in)


UPCONV = Rung("gemm", forward, grad_x, grad_w, fused=forward)
