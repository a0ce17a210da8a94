"""Dropout (Srivastava et al. 2014): in training, values are set to zero at random ("implicit data augmentation", section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.errors import ConfigError
from tinyunet.ops.contract import as_gradient, as_values, keep
from tinyunet.parallel import over_values


class DropoutContext(NamedTuple):
    """The same draw must serve both directions."""

    kept: Array  # bool, the shape of x
    rate: float
    dtype: Any  # of x


def dropout_forward(x: Array, rate: float, rng: np.random.Generator) -> tuple[Array, DropoutContext]:
    """y = x / (1 - rate) where kept, else 0; each value is kept with probability 1 - rate

    any shape -> the same shape

    The division keeps the mean, so that prediction needs no factor. The draw is made on the host, so that one seed gives
    one result on every backend. Rate 0 keeps everything, and draws nothing.

    Raises ConfigError for a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"dropout: rate is {rate}. Give at least 0 and less than 1.")
    x = as_values("dropout", x)
    xp = array_module(x)
    kept = xp.asarray(rng.random(x.shape, dtype=np.float32) >= rate) if rate else xp.ones(x.shape, bool)
    y = over_values(lambda x, kept: keep(x / (1 - rate), kept), x, kept)
    return y, DropoutContext(kept, rate, x.dtype)


def dropout_backward(dy: Array, ctx: DropoutContext) -> Array:
    """dx = dy / (1 - rate) where kept, else 0

    any shape -> the same shape
    """
    dy = as_gradient("dropout", dy, ctx.kept.shape, ctx.dtype)
    return over_values(lambda dy, kept: keep(dy / (1 - ctx.rate), kept), dy, ctx.kept)
