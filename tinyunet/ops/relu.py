"""The rectified linear unit: negative values become zero (section 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyunet.backend import Array, array_module
from tinyunet.ops.contract import as_gradient, as_values


class ReLUContext(NamedTuple):
    """One byte a value instead of four: the gradient needs the sign of x, not x."""

    positive: Array  # bool, the shape of x
    dtype: Any  # of x


def relu_forward(x: Array) -> tuple[Array, ReLUContext]:
    """y = max(x, 0)

    any shape -> the same shape

    A NaN stays a NaN. Complex numbers, in complex-step checks, are compared by their real part.
    """
    x = as_values("relu", x)
    positive = ~(x.real <= 0)
    return array_module(x).where(positive, x, x.dtype.type(0)), ReLUContext(positive, x.dtype)


def relu_backward(dy: Array, ctx: ReLUContext) -> Array:
    """dx = dy where x > 0, else 0; at x = 0 the derivative is taken as 0

    any shape -> the same shape
    """
    dy = as_gradient("relu", dy, ctx.positive.shape, ctx.dtype)
    return array_module(dy).where(ctx.positive, dy, dy.dtype.type(0))
