"""The rectified linear unit: negative values become zero (section 2)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinyunet import cuda
from tinyunet.backend import Array, array_module
from tinyunet.ops.contract import as_gradient, as_values, keep
from tinyunet.parallel import over_rows


class ReLUContext(NamedTuple):
    """One bit a value instead of four bytes: the gradient needs the sign of x, not x. A GPU writes a byte a value."""

    positive: Array  # uint8, eight values in a byte; of a GPU bool
    shape: tuple[int, ...]  # of x
    dtype: Any


def relu_forward(x: Array) -> tuple[Array, ReLUContext]:
    """y = max(x, 0)

    any shape -> the same shape

    A NaN stays a NaN. Complex numbers, in complex-step checks, are compared by their real part.
    """
    x = as_values("relu", x)
    if cuda.takes(x):
        y, positive = cuda.relu.forward(x)
        return y, ReLUContext(positive, x.shape, x.dtype)
    xp = array_module(x)
    y = xp.empty_like(x)
    rows = _rows(x)
    positive = xp.empty((*rows.shape[:2], -(-rows.shape[2] // 8)), "uint8") if xp is np else xp.empty(rows.shape, bool)

    def formula(x: Array, y: Array, positive: Array) -> None:
        positive[...] = _pack(~(x.real <= 0))
        if xp.iscomplexobj(x):
            y[...] = xp.where(x.real <= 0, 0, x)
        else:
            xp.maximum(x, 0, out=y)

    over_rows(formula, rows, _rows(y), positive)
    return y, ReLUContext(positive, x.shape, x.dtype)


def relu_backward(dy: Array, ctx: ReLUContext) -> Array:
    """dx = dy where x > 0, else 0; at x = 0 the derivative is taken as 0

    any shape -> the same shape
    """
    dy = as_gradient("relu", dy, ctx.shape, ctx.dtype)
    if cuda.takes(dy):
        return cuda.relu.backward(dy, ctx.positive)
    xp = array_module(dy)
    dx = xp.empty_like(dy)

    def formula(dy: Array, positive: Array, dx: Array) -> None:
        keep(dy, _unpack(positive, dy.shape[2]), out=dx)

    over_rows(formula, _rows(dy), ctx.positive, _rows(dx))
    return dx


def _rows(a: Array) -> Array:
    """Any array as rows, which are packed each by itself: (..., W, C) -> (1, all others, W C)"""
    values = math.prod(a.shape[-2:])
    return a.reshape(1, a.size // max(1, values), values)


def _pack(positive: Array) -> Array:
    """bool (1, rows, V) -> uint8 (1, rows, V / 8), rounded up; arrays of a GPU stay as they are"""
    return np.packbits(positive, axis=2) if array_module(positive) is np else positive


def _unpack(positive: Array, values: int) -> Array:
    """What `_pack` had: numbers 0 and 1, or False and True"""
    return np.unpackbits(positive, axis=2, count=values) if array_module(positive) is np else positive
