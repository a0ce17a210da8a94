"""The rectified linear unit: negative values become zero (section 2)."""

from __future__ import annotations

from typing import NamedTuple

from tinyunet.backend import Array, array_module
from tinyunet.ops.contract import as_gradient


class ReLUContext(NamedTuple):
    """One byte a value instead of four: the gradient needs the sign of x, not x."""

    positive: Array  # bool, the shape of x


def relu_forward(x: Array) -> tuple[Array, ReLUContext]:
    """y = max(x, 0)

    any shape -> the same shape

    A NaN stays a NaN. Complex numbers, in complex-step checks, are compared by their real part.
    """
    xp = array_module(x)
    x = xp.ascontiguousarray(x)
    positive = ~(x.real <= 0)
    return xp.where(positive, x, x.dtype.type(0)), ReLUContext(positive)


def relu_backward(dy: Array, ctx: ReLUContext) -> Array:
    """dx = dy where x > 0, else 0; at x = 0 the derivative is taken as 0

    any shape -> the same shape
    """
    dy = as_gradient("relu", dy, ctx.positive.shape)
    return array_module(dy).where(ctx.positive, dy, dy.dtype.type(0))
