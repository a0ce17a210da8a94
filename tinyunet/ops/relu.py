"""The rectified linear unit: negative values become zero (section 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyunet import cuda
from tinyunet.backend import Array
from tinyunet.ops.contract import as_gradient, as_values, select
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

    def formula(x: Array) -> tuple[Array, Array]:
        positive = ~(x.real <= 0)
        return select(positive, x), positive

    y, positive = cuda.relu.forward(x) if cuda.takes(x) else over_values(formula, x)
    return y, ReLUContext(positive, x.dtype)


def relu_backward(dy: Array, ctx: ReLUContext) -> Array:
    """dx = dy where x > 0, else 0; at x = 0 the derivative is taken as 0

    any shape -> the same shape
    """
    dy = as_gradient("relu", dy, ctx.positive.shape, ctx.dtype)

    def formula(dy: Array, positive: Array) -> Array:
        return select(positive, dy)

    return cuda.relu.backward(dy, ctx.positive) if cuda.takes(dy) else over_values(formula, dy, ctx.positive)
