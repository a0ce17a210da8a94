"""Lesson 04: ReLU, first weights and dead units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, catalogue, difference, equals, exercise
from tinyunet.errors import CheckError
from tinyunet.layers import Conv

# ReLU ----------------------------------------------------------------------------------------------------------------

Relu = Callable[[Array], Any]
Back = Callable[[Array, Any], Any]


def _forward(relu: Relu, x: Array) -> tuple[Any, Any]:
    found = relu(x)
    if not isinstance(found, tuple) or len(found) != 2:
        raise CheckError("relu is to return two things: y, and the mask that the backward pass needs: return y, mask.")
    return found


def _say(wrong: str, found: Any, lookalikes: dict[str, Any]) -> None:
    """Raise with the hint whose formula gives what was found."""
    if wrong:
        hint = next((f"\nHint: {hint}" for hint, other in lookalikes.items() if not difference("", found, other)), "")
        raise CheckError(wrong + hint)


def _y_is_the_positive_part(draw: Draw, relu: Relu, relu_back: Back) -> None:
    x = draw.rng.standard_normal((draw.integer(1, 2), draw.integer(2, 3), draw.integer(4, 5), draw.integer(2, 3)))
    handed = x.copy()
    y, _ = _forward(relu, handed)
    _say(difference("y", y, np.maximum(x, 0)), y, {
        "That is the absolute value. Negative x become 0.": np.abs(x),
        "That is what is negative. Keep what is positive.": np.minimum(x, 0),
        "y is the mask. Where it is true, y is x.": (x > 0).astype(float),
        "x comes back unchanged.": x,
    })  # fmt: skip
    if not np.array_equal(handed, x):
        raise CheckError("y is right, but your code changes its argument x. Whoever called it may still need it: work on a copy.")


def _dx_is_dy_where_x_passed(draw: Draw, relu: Relu, relu_back: Back) -> None:
    """Another forward comes between: what belongs to the first must not be overwritten."""
    shape = (draw.integer(1, 2), draw.integer(2, 3), draw.integer(4, 5), draw.integer(2, 3))
    x, other, dy = draw.rng.standard_normal((3, *shape))
    y, mask = _forward(relu, x.copy())
    _forward(relu, other.copy())
    handed = dy.copy()
    dx = relu_back(handed, mask)
    _say(difference("dx", dx, dy * (x > 0)), dx, {
        "You look at the sign of dy. It is the sign of x that decides, and mask knows it; dy may be negative.": dy * (dy > 0),
        "You let positive dy pass only. A negative dy passes just the same where x was positive.": dy * (dy > 0) * (x > 0),
        "dx is the derivative of ReLU, without dy: multiply.": (x > 0).astype(float),
        "dy passes everywhere. Where x was negative, it must not.": dy,
        "Backward multiplies dy by 0 or 1, not by y.": dy * y,
        "Those are the wrong pixels: dy passes where x was positive.": dy * (x <= 0),
        "That is the mask of another forward pass. Use the one that backward is given.": dy * (other > 0),
    })  # fmt: skip
    if not np.array_equal(handed, dy):
        raise CheckError("dx is right, but your code changes its argument dy. A skip connection hands the same array to "
                         "two layers: work on a copy.")  # fmt: skip


def _at_zero_it_is_zero(draw: Draw, relu: Relu, relu_back: Back) -> None:
    x = draw.rng.permutation([0.0, -0.0, 1.0, -1.0]).reshape(1, 2, 2, 1)
    _, mask = _forward(relu, x)
    dx = relu_back(np.full(x.shape, 7.0), mask)
    if np.any(dx[x == 0] != 0):
        raise CheckError(f"At x = 0 and dy = 7, dx is {dx[x == 0].ravel()[0]:g}, expected 0: the derivative at 0 is taken as 0.")


def _nan_stays(draw: Draw, relu: Relu, relu_back: Back) -> None:
    x = draw.rng.standard_normal((1, 2, 2, 1))
    x[0, draw.integer(0, 1), draw.integer(0, 1), 0] = np.nan
    with np.errstate(invalid="ignore"):
        y, _ = _forward(relu, x.copy())
    if not np.array_equal(np.isnan(y), np.isnan(x)):
        raise CheckError("x holds a NaN, and y does not: it is hidden. NaN > 0 is false, and NaN <= 0 is false too; the second, "
                         "turned round with ~, keeps it.")  # fmt: skip


def _complex_numbers_pass(draw: Draw, relu: Relu, relu_back: Back) -> None:
    tiny = 1e-30 * draw.rng.permutation([1.0, 1.0, -1.0, 2.0, -2.0, 3.0])
    x = (draw.rng.permutation([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]) + 1j * tiny).reshape(1, 2, 3, 1)
    y, mask = _forward(relu, x.copy())
    expected = np.where(x.real > 0, x, 0)
    for what, found in (("y", y), ("dx", relu_back(x * 0 + 1 + 1j, mask))):
        if not np.iscomplexobj(found):
            raise CheckError(f"{what} is real, for complex x: its imaginary part is lost.")
    if not np.array_equal(y, expected):
        at = tuple(np.argwhere(y != expected)[0])
        raise CheckError(f"For x = {x[at]:g}, y is {y[at]:g}, expected {expected[at]:g}. "
                         "The real part decides alone: compare x.real.")


exercise(
    "04.relu",
    "relu(x) -> y, mask, and relu_back(dy, mask) -> dx",
    laws=(_y_is_the_positive_part, _dx_is_dy_where_x_passed, _at_zero_it_is_zero, _nan_stays, _complex_numbers_pass,
          catalogue("relu", properties=("any_number_of_axes", "the_dtype_survives", "gradient_by_differences"))),
    mistakes=(
        Mistake("return y, mask", edits=(("np.where(mask, x, 0), mask", "np.where(mask, x, 0)"),)),
        Mistake("That is the absolute value", edits=(("np.where(mask, x, 0)", "np.where(mask, x, -x)"),)),
        Mistake("changes its argument x", edits=(("return np.where(mask, x, 0), mask", "x[~mask] = 0\n    return x, mask"),)),
        Mistake("It is the sign of x that decides", edits=(("np.where(mask, dy, 0)", "np.maximum(dy, 0)"),)),
        Mistake("Where x was negative, it must not", edits=(("np.where(mask, dy, 0)", "dy.copy()"),)),
        Mistake("without dy: multiply", edits=(("np.where(mask, dy, 0)", "np.where(mask, 1.0, 0)"),)),
        Mistake("At x = 0 and dy = 7, dx is 7", edits=(("x.real <= 0", "x.real < 0"),)),
        Mistake("it is hidden", edits=(("~(x.real <= 0)", "x.real > 0"),)),
        Mistake("The real part decides alone", edits=(("x.real <= 0", "x <= 0"),)),
        Mistake("imaginary part is lost", edits=(("np.where(mask, x, 0), mask", "np.where(mask, x.real, 0), mask"),)),
        Mistake("y is float64 for float32", edits=(("np.where(mask, x, 0)", "np.where(mask, x, np.zeros(x.shape))"),)),
        Mistake("At x = 0 and dy = 7, dx is 7", bug="relu_passes_at_zero"),
        Mistake("it is hidden", bug="relu_hides_nan"),
        Mistake("changes its argument dy", bug="relu_writes_upstream"),
        Mistake("changes its argument x", bug="relu_writes_input"),
        Mistake("dx is", bug="dx_is_mean_of_dy"),
    ),
    ours=(ops.relu_forward, ops.relu_backward),
)  # fmt: skip

# A chain of layers ---------------------------------------------------------------------------------------------------


def _through(x: Array, weights: Sequence[Array]) -> tuple[Array, list[Array]]:
    masks = []
    for w in weights:
        z = x @ w
        masks.append(z > 0)
        x = z * masks[-1]
    return x, masks


def _back(dy: Array, weights: Sequence[Array], masks: Sequence[Array]) -> Array:
    for w, mask in zip(weights, masks, strict=True):
        dy = (dy * mask) @ w.T
    return dy


def _relu_of_gradient(dy: Array, weights: Sequence[Array]) -> Array:
    for w in weights:
        dy = np.maximum(dy, 0) @ w.T
    return dy


def _hold_chain(draw: Draw, widths: Sequence[int], chain: Callable[..., Any], chain_back: Callable[..., Any]) -> None:
    x = draw.rng.standard_normal((2, draw.integer(2, 3), draw.integer(4, 5), widths[0]))
    weights = [draw.rng.standard_normal((a, b)) for a, b in pairwise(widths)]
    handed = list(weights)
    found = chain(x.copy(), handed)
    if not isinstance(found, tuple) or len(found) != 2:
        raise CheckError("chain is to return two things: y, and the masks of all layers: return x, masks.")
    y, memory = found
    expected, masks = _through(x, weights)
    linear = x
    for w in weights:
        linear = linear @ w
    before_last = _through(x, weights[:-1])[0] @ weights[-1]
    _say(difference("y", y, expected), y, {
        "The ReLUs are missing.": linear,
        "The last layer has a ReLU, too.": before_last,
        "There is a single ReLU, at the end. Each layer has one.": np.maximum(linear, 0),
    })  # fmt: skip
    dy = draw.rng.standard_normal(y.shape)
    dx = chain_back(dy.copy(), handed, memory)
    if len(handed) != len(weights) or any(a is not b for a, b in zip(handed, weights, strict=True)):
        raise CheckError("Your code changes the list of weights that it was given: .reverse() and .pop() do, reversed() not.")
    ws, ms = weights[::-1], masks[::-1]
    count, others = len(ws), {}
    if len(set(widths)) == 1:
        open_everywhere = [np.ones_like(m) for m in ms]
        others = {
            "One mask serves all layers. Each layer's own is needed: keep a list.": _back(dy, ws, [ms[0]] * count),
            "The mask of the first layer serves all. Each layer's own is needed.": _back(dy, ws, [ms[-1]] * count),
            "The masks come in the order of the forward pass: backward meets the last layer first.": _back(dy, ws, masks),
            "The weights come in the order of the forward pass: backward meets the last layer first.": _back(dy, weights, ms),
            "Layers come in the order of the forward pass: backward meets the last one first.": _back(dy, weights, masks),
            "No mask is used: where a ReLU gave 0, no gradient passes.": _back(dy, ws, open_everywhere),
            "One layer is missing: there are as many steps back as there were forward.": _back(dy, ws[:-1], ms[:-1]),
            "You take the ReLU of the gradient. It may be negative; the mask of the forward pass decides.":
                _relu_of_gradient(dy, ws),
            "Backward goes through w.T, not w: w leads from the layer's input to its output, w.T back.":
                _back(dy, [w.T for w in ws], ms),
            "In each layer, backward meets the ReLU first, then the weights: forward went the other way round.":
                _back(dy @ ws[0].T, [*ws[1:], np.eye(widths[0])], ms),
        }  # fmt: skip
    _say(difference("dx", dx, _back(dy, ws, ms)), dx, others)


def _equal_widths(draw: Draw, chain: Callable[..., Any], chain_back: Callable[..., Any]) -> None:
    """All maps have one shape: what is mixed up fits, and only its values are wrong."""
    _hold_chain(draw, [draw.integer(4, 5)] * draw.integer(4, 5), chain, chain_back)


def _unequal_widths(draw: Draw, chain: Callable[..., Any], chain_back: Callable[..., Any]) -> None:
    _hold_chain(draw, [2, *(int(c) for c in draw.rng.permutation([3, 4, 5, 6]))][: draw.integer(2, 5)], chain, chain_back)


exercise(
    "04.chain",
    "chain(x, weights) -> y, masks, and chain_back(dy, weights, masks) -> dx",
    laws=(_equal_widths, _unequal_widths),
    mistakes=(
        Mistake("One mask serves all layers", edits=(("masks.append(mask)", "masks = [mask] * len(weights)"),)),
        Mistake("The masks come in the order", edits=(("reversed(masks)", "masks"),)),
        Mistake("The weights come in the order", edits=(("reversed(weights)", "weights"),)),
        Mistake("Layers come in the order", edits=(("reversed(masks)", "masks"), ("reversed(weights)", "weights"))),
        Mistake("No mask is used", edits=(("relu_back(dy, mask)", "dy"),)),
        Mistake("w.T, not w", edits=(("@ w.T", "@ w"),)),
        Mistake("One layer is missing", edits=(("zip(reversed(weights), ", "zip(weights[:0:-1], "),)),
        Mistake("You take the ReLU of the gradient", edits=(("relu_back(dy, mask)", "np.maximum(dy, 0)"),)),
        Mistake("backward meets the ReLU first", edits=(("relu_back(dy, mask) @ w.T", "relu_back(dy @ w.T, mask)"),)),
        Mistake("the list of weights",
                edits=(("for w, mask in zip(reversed(weights)", "weights.reverse()\n    for w, mask in zip(weights"),)),
        Mistake("The ReLUs are missing", edits=(("x, mask = relu(x @ w)", "x = x @ w\n        mask = x > 0"),)),
        Mistake("return x, masks", edits=(("return x, masks", "return x"),)),
    ),
)  # fmt: skip

# First weights -------------------------------------------------------------------------------------------------------


def _spread(draw: Draw, first_weights: Callable[..., Any]) -> None:
    for size in (3, 1, 5):
        _has_spread(size, draw, first_weights)


def _has_spread(size: int, draw: Draw, first_weights: Callable[..., Any]) -> None:
    """Enough weights that the deviation is sure to half a percent; C and O are such that no two mix-ups agree."""
    c = draw.integer(24, 29)
    shape = (size, size, c, (3 if size > 1 else 27) * c + draw.integer(1, 5))
    w = first_weights(shape, np.random.default_rng(draw.integer(0, 10**6)))
    if not isinstance(w, np.ndarray) or w.shape != shape:
        raise CheckError(f"The weights are of shape {getattr(w, 'shape', type(w).__name__)}, expected {shape}.")
    n, std = size * size * c, float(np.std(w))
    expected = float(np.sqrt(2 / n))
    if abs(float(np.mean(w))) > 6 * std / np.sqrt(w.size):
        raise CheckError(f"The mean of the weights is {np.mean(w):.4g}, expected about 0.")
    if abs(std / expected - 1) > 0.03:
        hint = next((f"\nHint: {hint}" for hint, other in {
            "that is 2 / N, the variance. The deviation is its root.": 2 / n,
            "that is sqrt(1 / N). The 2 makes up for the ReLU.": np.sqrt(1 / n),
            "you count inputs and outputs. N is what goes into one output, K K C numbers.": np.sqrt(2 / (n + n / c * shape[3])),
            "N counts the numbers that go into one output, K K C of them, not K K O.": np.sqrt(2 / (size * size * shape[3])),
            "N counts all K K taps of all C channels; you count the channels alone.": np.sqrt(2 / c),
            "N counts all K K taps of all C channels; you count the taps alone.": np.sqrt(2 / (size * size)),
            "N is 9 C for a 3x3 kernel only. K is to be read from the shape.": np.sqrt(2 / (9 * c)),
            "N is 576 in the paper's example only. Read it from the shape.": np.sqrt(2 / 576),
            "all K K C O weights are counted. One output adds up K K C products.": np.sqrt(2 / w.size),
            "you draw, but you do not scale.": 1.0,
        }.items() if abs(std / other - 1) < 0.03), "")  # fmt: skip
        raise CheckError(f"For the shape {shape} the standard deviation is {std:.4g}, expected {expected:.4g}.{hint}")
    far = float(np.mean(np.abs(w) > 2 * expected))
    if not 0.035 < far < 0.056:
        raise CheckError(f"{100 * far:.1f} % of the weights are further than two deviations from 0, in a Gaussian it is 4.6 %. "
                         "Draw with rng.standard_normal.")  # fmt: skip
    if w.dtype != np.float32:
        raise CheckError(f"The numbers are right, but the weights are {w.dtype}, expected float32.")


def _from_its_generator(draw: Draw, first_weights: Callable[..., Any]) -> None:
    seed, shape = draw.integer(0, 10**6), (3, 3, 2, 5)
    a, b, c = (first_weights(shape, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    if not np.array_equal(a, b):
        raise CheckError("The same seed gives other weights the second time. Draw from the given rng, and from nothing else.")
    if np.array_equal(a, c):
        raise CheckError("Two seeds give the same weights. Draw from the rng that you are given: a generator made inside your "
                         "function starts anew each time, and all layers get the same weights.")  # fmt: skip


exercise(
    "04.weights",
    "first_weights(shape, rng) -> weights with standard deviation sqrt(2 / N)",
    laws=(_spread, _from_its_generator),
    mistakes=(
        Mistake("that is 2 / N, the variance", edits=(("np.sqrt(2 / (size * size * c))", "2 / (size * size * c)"),)),
        Mistake("you count inputs and outputs",
                edits=(("_, c, _ = shape", "_, c, o = shape"), ("size * size * c)", "size * size * (c + o))"))),
        Mistake("The 2 makes up for the ReLU", edits=(("np.sqrt(2 /", "np.sqrt(1 /"),)),
        Mistake("not K K O", edits=(("_, c, _ = shape", "_, _, c = shape"),)),
        Mistake("the channels alone", edits=(("size * size * c", "c"),)),
        Mistake("for a 3x3 kernel only", edits=(("size * size * c", "9 * c"),)),
        Mistake("in the paper's example only", edits=(("(size * size * c)", "576"),)),
        Mistake("you do not scale", edits=(("std * ", ""),)),
        Mistake("in a Gaussian it is 4.6 %", edits=(("rng.standard_normal(shape)", "np.sqrt(3) * rng.uniform(-1, 1, shape)"),)),
        Mistake("expected about 0", edits=(("rng.standard_normal(shape)", "(1 + rng.standard_normal(shape))"),)),
        Mistake("expected float32", edits=((".astype(np.float32)", ""),)),
        Mistake("The same seed gives other weights", edits=(("rng.standard", "np.random.default_rng().standard"),)),
        Mistake("Two seeds give the same weights", edits=(("rng.standard", "np.random.default_rng(0).standard"),)),
        Mistake("that is 2 / N, the variance", bug="variance_for_deviation"),
        Mistake("not K K O", bug="fan_out_for_fan_in"),
    ),
    ours=lambda shape, rng: Conv("conv", shape[2], shape[3], shape[0], "valid", rng).params["w"],
)  # fmt: skip

# Dead units ----------------------------------------------------------------------------------------------------------


def _never_positive(y: Array) -> Array:
    return np.array([max(y[..., c].ravel()) <= 0 for c in range(y.shape[3])])


def _relu_output(draw: Draw) -> dict[str, Any]:
    """Of seven channels: two dead, one alive in one pixel of the last image, one faint, one alive everywhere, two halfway."""
    shape = (draw.integer(2, 3), draw.integer(3, 4), draw.integer(5, 6), 7)
    y = np.maximum(draw.rng.standard_normal(shape), 0)
    y[0, 0, 0] = 0  # the first pixel says nothing
    order = draw.rng.permutation(7)
    y[..., order[:4]] = 0
    y[-1, -1, draw.integer(0, shape[2] - 1), order[2]] = draw.rng.uniform(0.5, 1)
    y[0, 1, ..., order[3]] = 1e-20
    y[..., order[4]] = draw.rng.uniform(0.5, 1, shape[:3])
    return {"y": y}


exercise(
    "04.dead",
    "dead_channels(y) -> (C,) bool, which channels are 0 everywhere",
    laws=(equals(_never_positive, _relu_output, {
        "Those are the channels that are alive. Turn it round with ~.": lambda y: (y > 0).any(axis=(0, 1, 2)),
        "Those are the channels that are 0 somewhere. That is no harm: dead is 0 everywhere.":
            lambda y: (y == 0).any(axis=(0, 1, 2)),
        "You look at the first image only. A channel that answers to another image is alive.":
            lambda y: ~(y[0] > 0).any(axis=(0, 1)),
        "That is dead in some image. A channel that answers to another image is alive.":
            lambda y: (y == 0).all(axis=(1, 2)).any(axis=0),
        "You look at one pixel only.": lambda y: y[0, 0, 0] == 0,
        "A channel whose values are small is not dead: any value above 0 lets a gradient through.":
            lambda y: (y < 1e-6).all(axis=(0, 1, 2)),
        "A channel whose mean is small is not dead: any value above 0 lets a gradient through.":
            lambda y: y.mean(axis=(0, 1, 2)) < 0.03,
        "That is the share of dead channels. Say of each whether it is dead.": lambda y: np.mean(_never_positive(y)),
    }, what="the result"),),
    mistakes=(
        Mistake("Those are the channels that are alive", edits=(("~(y > 0)", "(y > 0)"),)),
        Mistake("0 somewhere", edits=(("~(y > 0).any", "~(y > 0).all"),)),
        Mistake("That is dead in some image",
                edits=(("~(y > 0).any(axis=(0, 1, 2))", "(~(y > 0).any(axis=(1, 2))).any(axis=0)"),)),
        Mistake("the first image only", edits=(("~(y > 0).any(axis=(0, 1, 2))", "~(y[0] > 0).any(axis=(0, 1))"),)),
        Mistake("has shape", edits=(("axis=(0, 1, 2)", "axis=0"),)),
        Mistake("whose values are small", edits=(("y > 0", "y > 1e-6"),)),
        Mistake("share of dead channels",
                edits=(("return ~(y > 0).any(axis=(0, 1, 2))", "return np.mean(~(y > 0).any(axis=(0, 1, 2)))"),)),
    ),
)  # fmt: skip
