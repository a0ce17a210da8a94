"""What dropout keeps: one draw for both directions, the mean, and no randomness but the generator's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import OF_PARAMETERS, Case, geometry, keep_laws, require_equal, require_refused

RATES = (0.1, 0.3, 0.5, 0.8)


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    """The generator starts anew in every call, so that the op is a function. With a rate of 0.8 a small x may lose all values."""
    n, height, width, c = geometry(draw, low=4)
    rate, seed = draw.choice(RATES[:-1]), draw.integer(0, 2**32 - 1)
    x = draw.rng.standard_normal((n, height, width, c))

    def forward(x: Array) -> Any:
        return op.forward(x, rate, np.random.default_rng(seed))

    yield Case({"x": x}, forward, op.backward, x.shape, linear=("x",))


# One draw serves the whole batch: an image's mask depends on those before it.
keep_laws("dropout", cases, without=["images_do_not_mix", *OF_PARAMETERS])


@holds("dropout", "reference")
def values_are_scaled_or_zero(op: Op, draw: Draw) -> None:
    """Each value comes out as x / (1 - rate) or as 0, and dx is dy / (1 - rate) or 0 at the same places."""
    rate = draw.choice(RATES)
    x = draw.rng.uniform(1, 2, geometry(draw))
    y, ctx = op.forward(x, rate, draw.rng)
    kept = y != 0
    require_close("y where it is kept", y, np.where(kept, x / (1 - rate), 0), rtol=1e-15)
    dy = draw.rng.uniform(1, 2, x.shape)
    require_close("dx", op.backward(dy, ctx), np.where(kept, dy / (1 - rate), 0), rtol=1e-15)


@holds("dropout", "invariance")
def the_mean_is_kept(op: Op, draw: Draw) -> None:
    """The mean of y is that of x within five standard errors, and the share of zeros is the rate."""
    rate = draw.choice(RATES)
    x = np.ones((2, 30, 30, 4))
    y, _ = op.forward(x, rate, draw.rng)
    error = np.sqrt(rate * (1 - rate) / x.size)
    zeros = float((y == 0).mean())
    require(abs(zeros - rate) <= 5 * error, f"with rate {rate}, {zeros:.3f} of the values are zero")
    require(abs(y.mean() - 1) <= 5 * error / (1 - rate), f"the mean of ones is {y.mean():.4f} after dropout with rate {rate}")


@holds("dropout", "invariance")
def each_value_is_dropped_by_itself(op: Op, draw: Draw) -> None:
    """No image, row, column or channel is dropped as a whole: the share of zeros along each axis is near the rate."""
    rate = draw.choice(RATES)
    y, _ = op.forward(np.ones((3, 20, 20, 6)), rate, draw.rng)
    for axis, what in enumerate(("image", "row", "column", "channel")):
        share = (y == 0).mean(axis=tuple({0, 1, 2, 3} - {axis}))
        error = np.sqrt(rate * (1 - rate) * share.size / y.size)
        worst = float(share[np.abs(share - rate).argmax()])
        require(abs(worst - rate) <= 6 * error, f"with rate {rate}, {worst:.3f} of one {what} is zero")


@holds("dropout", "invariance")
def rate_zero_is_the_identity(op: Op, draw: Draw) -> None:
    """With rate 0 nothing is dropped and nothing is scaled, in both directions."""
    x, dy = draw.rng.standard_normal((2, *geometry(draw)))
    y, ctx = op.forward(x, 0.0, draw.rng)
    require_equal("y", y, x)
    require_equal("dx", op.backward(dy, ctx), dy)


@holds("dropout", "convention")
def the_generator_decides(op: Op, draw: Draw) -> None:
    """Equal seeds drop the same places, in float32 as in float64; going on with a generator drops others."""
    seed = draw.integer(0, 2**32 - 1)
    x = draw.rng.uniform(1, 2, (2, 8, 8, 3))
    generator = np.random.default_rng(seed)
    first, second = op.forward(x, 0.5, generator)[0], op.forward(x, 0.5, generator)[0]
    require_equal("y of the same seed", op.forward(x, 0.5, np.random.default_rng(seed))[0], first)
    single = op.forward(x.astype(np.float32), 0.5, np.random.default_rng(seed))[0]
    require_equal("the places dropped in float32", single == 0, first == 0)
    require(bool(((first == 0) != (second == 0)).any()), "a second draw of the same generator drops the same places")


@holds("dropout", "contract")
def what_is_no_rate_is_refused(op: Op, draw: Draw) -> None:
    """A rate of 1, which would drop everything, and negative ones are refused with the number."""
    rate = draw.choice((1.0, -0.25, 1.5))
    require_refused(f"a rate of {rate}", lambda: op.forward(np.ones((1, 2, 2, 1)), rate, draw.rng), str(rate))
