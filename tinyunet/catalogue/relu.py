"""What ReLU keeps: a convention at zero, and little else to get wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyunet.catalogue.core import Draw, Op, holds, require
from tinyunet.catalogue.laws import OF_LINEAR_OPS, OF_PARAMETERS, Case, geometry, hard, keep_laws, require_equal, spaced


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    n, height, width, c = geometry(draw, low=3)
    x = spaced(draw, (n, height, width, c))
    yield Case({"x": x}, op.forward, op.backward, x.shape)


keep_laws("relu", cases, without=[*OF_LINEAR_OPS, *OF_PARAMETERS])


@holds("relu", "reference")
def forward_and_backward_are_the_formula(op: Op, draw: Draw) -> None:
    """y is x where x > 0, else 0; dx is dy where x > 0, else 0."""
    shape = geometry(draw)
    x = draw.choice((spaced, hard))(draw, shape)
    y, ctx = op.forward(x)
    dy = draw.rng.standard_normal(shape)
    dx = op.backward(dy, ctx)
    expected, expected_dx = np.zeros(shape), np.zeros(shape)
    for place in np.ndindex(shape):
        if x[place] > 0:
            expected[place], expected_dx[place] = x[place], dy[place]
    require_equal("y", y, expected)
    require_equal("dx", dx, expected_dx)


@holds("relu", "convention")
def the_derivative_at_zero_is_zero(op: Op, draw: Draw) -> None:
    """At x = 0 and x = -0 the gradient is 0; at the smallest positive number it is dy."""
    dy = draw.rng.standard_normal((1, 1, 4, 1))
    _, ctx = op.forward(np.array([0.0, -0.0, 5e-324, -5e-324]).reshape(1, 1, 4, 1))
    require_equal("dx for x = 0, -0, 5e-324 and -5e-324", op.backward(dy, ctx), dy * np.reshape([0, 0, 1, 0], (1, 1, 4, 1)))


@holds("relu", "invariance")
def idempotent_and_homogeneous(op: Op, draw: Draw) -> None:
    """relu(relu(x)) = relu(x), and relu(a x) = a relu(x) for a > 0."""
    x = draw.choice((spaced, hard))(draw, geometry(draw))
    y, _ = op.forward(x)
    require_equal("relu(relu(x))", op.forward(y)[0], y)
    require_equal("relu(4 x)", op.forward(4 * x)[0], 4 * y)


@holds("relu", "invariance")
def two_halves_make_the_whole(op: Op, draw: Draw) -> None:
    """relu(x) - relu(-x) = x, and neither is negative: nothing is capped and nothing leaks."""
    x = draw.choice((spaced, hard))(draw, geometry(draw))
    plus, minus = op.forward(x)[0], op.forward(-x)[0]
    require(bool((plus >= 0).all()), "y holds a negative value")
    require_equal("relu(x) - relu(-x)", plus - minus, x)


@holds("relu", "invariance")
def the_gradient_flows_where_the_output_does(op: Op, draw: Draw) -> None:
    """dx is dy where y > 0 and exactly 0 elsewhere, whatever the sign of dy."""
    x = spaced(draw, geometry(draw))
    y, ctx = op.forward(x)
    dy = draw.rng.standard_normal(x.shape)
    require_equal("dx", op.backward(dy, ctx), np.where(y > 0, dy, 0))


@holds("relu", "contract")
def any_number_of_axes(op: Op, draw: Draw) -> None:
    """ReLU works value by value, so an array of any shape goes through."""
    x = spaced(draw, draw.choice(((6,), (2, 5), (2, 2, 2, 2, 2), (1,))))
    y, ctx = op.forward(x)
    require_equal("y", y, np.maximum(x, 0))
    require_equal("dx", op.backward(np.ones(x.shape), ctx), (x > 0) * 1.0)
