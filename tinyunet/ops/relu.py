"""The rectified linear unit: negative values become zero (section 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyunet import cuda
from tinyunet.backend import Array, array_module
from tinyunet.ops.contract import as_gradient, as_values, keep
from tinyunet.parallel import over_values


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
    if cuda.takes(x):
        y, positive = cuda.relu.forward(x)
        return y, ReLUContext(positive, x.dtype)
    xp = array_module(x)
    y, positive = xp.empty_like(x), xp.empty(x.shape, bool)

    def formula(x: Array, y: Array, positive: Array) -> None:
        positive[...] = ~(x.real <= 0)
        if xp.iscomplexobj(x):
            y[...] = xp.where(positive, x, 0)
        else:
            xp.maximum(x, 0, out=y)

    over_values(formula, x, y, positive)
    return y, ReLUContext(positive, x.dtype)


def relu_backward(dy: Array, ctx: ReLUContext) -> Array:
    """dx = dy where x > 0, else 0; at x = 0 the derivative is taken as 0

    any shape -> the same shape
    """
    dy = as_gradient("relu", dy, ctx.positive.shape, ctx.dtype)
    if cuda.takes(dy):
        return cuda.relu.backward(dy, ctx.positive)
    xp = array_module(dy)
    dx = xp.empty_like(dy)

    def formula(dy: Array, positive: Array, dx: Array) -> None:
        keep(dy, positive, out=dx)

    over_values(formula, dy, ctx.positive, dx)
    return dx
