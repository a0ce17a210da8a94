"""Lesson 12: gradient checks. The student writes checkers, which are tried on ops that are right and on ops that are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.bugs import plant
from tinyunet.catalogue import Draw
from tinyunet.catalogue.laws import spaced
from tinyunet.course.exercise import Mistake, difference, exercise
from tinyunet.errors import CheckError, TinyUNetError

# The whole gradient --------------------------------------------------------------------------------------------------


def _numeric(draw: Draw, numerical_gradient: Callable[..., Any]) -> None:
    """A cubic, whose differences are known exactly, also the wrong ones."""
    shape, e = draw.choice(((3, 4), (2, 3, 2), (5, 1, 2))), 1e-3
    v, a = draw.rng.uniform(0.5, 1.5, shape), draw.rng.uniform(0.5, 2.0, shape)

    def f(v: Array) -> float:
        return float((a * v**3).sum() + v.sum() ** 2 / 4)

    kept = v.copy()
    found = numerical_gradient(f, v, e)
    if not np.array_equal(v, kept):
        raise CheckError("Your code changes v, and does not put it back. Move one entry of a copy, or add an array that is zero "
                         "but there.")  # fmt: skip
    one = np.eye(v.size).reshape(v.size, *shape)  # one[k] is 1 at entry k
    ahead, behind = (np.array([f(v + s * e * u) for u in one]).reshape(shape) for s in (1, -1))
    right = (ahead - behind) / (2 * e)
    if wrong := difference("dv", found, right, 1e-9):
        heap = np.cumsum(one, axis=0)
        rows = [one[np.arange(v.size) // (v.size // len(v)) == i].sum(axis=0) for i in range(len(v))]  # rows[i] is 1 in v[i]
        by_row = np.array([f(v + e * u) - f(v - e * u) for u in rows]).reshape(-1, *[1] * (v.ndim - 1)) / (2 * e)
        lookalikes = {
            "That is (f(v + e) - f(v)) / e, one-sided: its error is e, not e^2. Step to both sides.": (ahead - f(v)) / e,
            "That is (f(v) - f(v - e)) / e, one-sided: its error is e, not e^2. Step to both sides.": (f(v) - behind) / e,
            "That is twice the slope: the two places are 2 e apart, not e.": 2 * right,
            "All entries of v[i] are moved at once. Move them one by one: for i in np.ndindex(v.shape).": by_row + 0 * v,
            "All entries before this one are moved, too. Move one entry at a time.":
                np.array([f(v + e * u) - f(v - e * u) for u in heap]).reshape(shape) / (2 * e),
        }  # fmt: skip
        wrong += next((f"\nHint: {hint}" for hint, other in lookalikes.items() if not difference("", found, other, 1e-9)), "")
        raise CheckError(f"{wrong}\nCalled with v {shape}, e = {e:g}.")


exercise(
    "12.numeric",
    "numerical_gradient(f, v, e) -> dv, entry by entry by differences",
    laws=(_numeric,),
    mistakes=(
        Mistake("one-sided: its error is e", edits=(("f(v - step)) / (2 * e)", "f(v)) / e"),)),
        Mistake("2 e apart", edits=(("/ (2 * e)", "/ e"),)),
        Mistake("All entries before this one are moved",
                edits=(("    for i in np.ndindex(v.shape):\n        step = np.zeros(v.shape)\n",
                        "    step = np.zeros(v.shape)\n    for i in np.ndindex(v.shape):\n"),)),
        Mistake("All entries of v[i] are moved at once", edits=(("np.ndindex(v.shape)", "range(len(v))"),)),
        Mistake("does not put it back", edits=(("f(v + step)", "f(np.add(v, step, out=v))"),)),
        Mistake("dv has shape", edits=(("return dv", "return dv.ravel()"),)),
    ),
)  # fmt: skip

# Ops, right and wrong ------------------------------------------------------------------------------------------------

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def _tuple(backward: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """A backward pass with one gradient gives a tuple of one."""

    def wrapped(dy: Array, ctx: Any) -> tuple[Any, ...]:
        grads = backward(dy, ctx)
        return grads if isinstance(grads, tuple) else (grads,)

    return wrapped


CONV: Pair = (ops.conv2d_forward, ops.conv2d_backward)
UPCONV: Pair = (ops.upconv_forward, ops.upconv_backward)
NORM: Pair = (ops.batch_norm_forward, ops.batch_norm_backward)
RELU: Pair = (ops.relu_forward, _tuple(ops.relu_backward))
POOL: Pair = (ops.max_pool_forward, _tuple(ops.max_pool_backward))


def _changed(pair: Pair, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Pair:
    """The pair, with other gradients."""
    return pair[0], lambda dy, ctx: change(_tuple(pair[1])(dy, ctx))


def _conv_arguments(draw: Draw) -> tuple[Array, ...]:
    return (draw.rng.standard_normal((2, draw.integer(4, 5), 7, 3)), draw.rng.standard_normal((3, 3, 3, 2)),
            draw.rng.standard_normal(2))  # fmt: skip


def _upconv_arguments(draw: Draw) -> tuple[Array, ...]:
    return draw.rng.standard_normal((2, 3, 4, 3)), draw.rng.standard_normal((2, 2, 2, 3)), draw.rng.standard_normal(2)


def _norm_arguments(draw: Draw) -> tuple[Array, ...]:
    return draw.rng.standard_normal((2, 3, 4, 2)), draw.rng.uniform(0.5, 1.5, 2), draw.rng.standard_normal(2)


def _planted(bug: str) -> AbstractContextManager[Any]:
    return plant(bug) if bug else nullcontext()


def _number(checker: Callable[..., Any], *given: Any) -> float:
    """What a checker returns, as a number."""
    who = getattr(checker, "__name__", "Your check")
    try:
        with np.errstate(all="ignore"):  # a wrong checker may divide by zero
            gap = checker(*given)
    except TinyUNetError as error:
        raise CheckError(f"Your check stops. {error}") from None
    if isinstance(gap, bool | np.bool_) or not isinstance(gap, int | float | np.number | np.ndarray) or np.ndim(gap):
        what = f"an array of shape {gap.shape}" if isinstance(gap, np.ndarray) else f"{gap!r}"
        raise CheckError(f"{who} returned {what}, expected one number: how far the two sides are apart.")
    return float(gap)


def _require_seen(gap: float, who: str, hint: str) -> None:
    if not gap > 1e-3:  # "not >", so that a NaN is no proof
        raise CheckError(f"{who} gets past your check: the gap is {gap:.1g}, expected more than 1e-3.\nHint: {hint}")


ONES = "Is your dy all ones? Such a dy cannot tell one pixel from another. Draw it at random."
EVERY = "Is every argument moved, each by itself, and do you keep the largest gap?"
DIRECTION = "Is your u all ones? Then only the sum of dx is tested, and that is right. Draw u at random."


def _direction(draw: Draw, direction_gap: Callable[..., Any]) -> None:
    """Right backward passes get a small number, wrong ones a large one."""

    def gap(pair: Pair, arguments: tuple[Array, ...]) -> float:
        kept = [v.copy() for v in arguments]
        found = _number(direction_gap, *pair, list(arguments), np.random.default_rng(draw.integer(0, 10**6)))
        if not all(np.array_equal(v, k) for v, k in zip(arguments, kept, strict=True)):
            raise CheckError("Your check changes the arguments that it was given: v += e * u works in place. Write v + e * u.")
        return found

    def passes(name: str, pair: Pair, arguments: tuple[Array, ...]) -> None:
        if not (found := gap(pair, arguments)) < 1e-7:
            raise CheckError(f"The backward pass of {name} is right, but your check finds a gap of {found:.1g}, expected less "
                             "than 1e-7.\nHint: a difference to both sides, over 2 e, with e = 1e-5? Is only v moved, and is dv "
                             "the gradient of this v? Is dy random, and the same on both sides?")  # fmt: skip

    def fails(bug: str, pair: Pair, arguments: tuple[Array, ...], does: str, hint: str) -> None:
        with _planted(bug):
            found = gap(pair, arguments)
        _require_seen(found, f"A backward pass that {does}", hint)

    x = spaced(draw, (2, 4, 6, 2))  # no kink near
    passes("a convolution", CONV, _conv_arguments(draw))
    passes("max-pooling, with no kink near,", POOL, (x,))
    fails("", _changed(CONV, lambda g: tuple(-v for v in g)), _conv_arguments(draw), "returns -dx, -dw, -db",
          "Take the difference of <dv, u> and the slope first, and then its absolute value.")
    fails("", _changed(RELU, lambda g: tuple(0 * v for v in g)), (x,), "returns zeros",
          "A gradient of zeros is a usual mistake. Do not skip it, and divide by the larger of the two, as the formula says.")
    fails("dx_is_mean_of_dy", RELU, (x,), "hands back the mean of dy everywhere (dx_is_mean_of_dy)", ONES)
    fails("pool_gradient_misplaced", POOL, (x,), "sends dy to the wrong pixels (pool_gradient_misplaced)", DIRECTION)
    fails("dw_is_a_mean", CONV, _conv_arguments(draw), "halves dw alone (dw_is_a_mean)", EVERY)
    fails("bias_gradient_is_a_mean", CONV, _conv_arguments(draw), "halves db alone (bias_gradient_is_a_mean)", EVERY)
    passes("batch norm", NORM, _norm_arguments(draw))
    fails("batch_norm_no_variance_term", NORM, _norm_arguments(draw), "forgets the variance (batch_norm_no_variance_term)", ONES)


exercise(
    "12.direction",
    "direction_gap(forward, backward, arguments, rng) -> the largest gap between <dv, u> and the slope along u",
    laws=(_direction,),
    mistakes=(
        Mistake("Is your dy all ones?", edits=(("dy = rng.standard_normal(y.shape)", "dy = np.ones(y.shape)"),)),
        Mistake("Is your u all ones?", edits=(("u = rng.standard_normal(v.shape)", "u = np.ones(v.shape)"),)),
        Mistake("is right, but your check finds", edits=(("e = 1e-5", "e = 1e-12"),)),
        Mistake("is right, but your check finds", edits=(("/ (2 * e)", "/ e"),)),
        Mistake("a difference to both sides", edits=(("forward(*behind)[0])) / (2 * e)", "y)) / e"),)),
        Mistake("and then its absolute value", edits=(("abs(np.sum(dv * u) - slope)", "abs(abs(np.sum(dv * u)) - abs(slope))"),)),
        Mistake("Is every argument moved", edits=(("return worst", "return gap"),)),
        Mistake("Is every argument moved", edits=(("zip(arguments, grads)", "zip(arguments[:1], grads)"),)),
        Mistake("Do not skip it",
                edits=(("        gap = abs(", "        if not dv.any():\n            continue\n        gap = abs("),)),
        Mistake("changes the arguments", edits=(("v + e * u", "np.add(v, e * u, out=v)"),)),
        Mistake("returned an array of shape", edits=(("return worst", "return np.array([worst])"),)),
    ),
)  # fmt: skip

# Values without kinks ------------------------------------------------------------------------------------------------


def _far_apart(draw: Draw, apart: Callable[..., Any]) -> None:
    shape, gap = (1, 8, 2 * draw.integer(4, 6), 2), draw.choice((0.1, 0.25))
    seed = draw.integer(0, 10**6)
    v = apart(shape, gap, np.random.default_rng(seed))
    if not isinstance(v, np.ndarray) or v.shape != shape:
        what = f"of shape {v.shape}" if isinstance(v, np.ndarray) else f"{v!r}"
        raise CheckError(f"The result is {what}, expected an array of shape {shape}.")
    if v.dtype != np.float64:
        raise CheckError(f"The values are {v.dtype}. A gradient check takes float64.")
    flat = np.sort(v, axis=None)
    if (nearest := float(np.diff(flat).min())) < gap * (1 - 1e-9):
        raise CheckError(f"Two values are only {nearest:.3g} apart, expected at least {gap:g}. If they meet in one window, a "
                         "step changes the winner. Random numbers are not enough: take multiples of gap, each once.")  # fmt: skip
    if (least := float(np.abs(flat).min())) < gap / 2 * (1 - 1e-9):
        raise CheckError(f"A value is {least:.3g} away from 0, expected at least {gap / 2:g}: there a ReLU has its kink. Shift "
                         "all values by half a gap.")  # fmt: skip
    if not 0.25 < (share := float((flat < 0).mean())) < 0.75:
        raise CheckError(f"{100 * share:.0f} % of the values are negative. About half should be: on positive values alone a ReLU "
                         "is the identity, on negative ones it is 0.")  # fmt: skip
    winners = v.reshape(1, 4, 2, shape[2] // 2, 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4).argmax(axis=1)
    if len(np.unique(winners)) < 4:
        raise CheckError("In every 2x2 window the largest value stands in the same place, or in few. A max-pool that always "
                         "takes that one would pass. Shuffle the values.")  # fmt: skip
    if np.array_equal(v, apart(shape, gap, np.random.default_rng(seed + 1))):
        raise CheckError("Another rng gives the same values. Let rng do the shuffling.")


exercise(
    "12.apart",
    "apart(shape, gap, rng) -> values without kinks near: no two closer than gap, none closer to 0 than gap / 2",
    laws=(_far_apart,),
    mistakes=(
        Mistake("Shuffle the values", edits=(("rng.permutation(values)", "values"),)),
        Mistake("Shift all values by half a gap", edits=((" + 0.5", ""),)),
        Mistake("on positive values alone", edits=((" - n // 2", ""),)),
        Mistake("Random numbers are not enough", edits=(("gap * (np.arange(n) - n // 2 + 0.5)", "rng.standard_normal(n)"),)),
        Mistake("Let rng do the shuffling", edits=(("rng.permutation(values)", "np.random.default_rng(0).permutation(values)"),)),
        Mistake("Random numbers are not enough", edits=(("gap * (", "0.5 * gap * ("),)),
    ),
)  # fmt: skip

# Adjoints ------------------------------------------------------------------------------------------------------------


def _mean_pool(x: Array) -> tuple[Array, tuple[int, ...]]:
    y: Array = (x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 4
    return y, x.shape


def _first_of_four(dy: Array, shape: tuple[int, ...]) -> Array:
    dx = np.zeros(shape)
    dx[:, ::2, ::2] = dy
    return dx


def _spread(dy: Array, shape: tuple[int, ...]) -> Array:
    return np.full(shape, dy.mean() / 4)


def _adjoint(draw: Draw, adjoint_gap: Callable[..., Any]) -> None:
    """Right pairs, with bias and without, and pairs that agree as long as x or dy are constant."""
    _, w, b = _conv_arguments(draw)
    _, w2, b2 = _upconv_arguments(draw)
    shape = (2, draw.integer(4, 5), 7, 3)

    def convolve(x: Array) -> Any:
        return ops.conv2d_forward(x, w, b, "same")

    def upconvolve(x: Array) -> Any:
        return ops.upconv_forward(x, w2, b2)

    def mirror(x: Array) -> Any:
        return ops.mirror_pad_forward(x, 2, 1, 0, 3)

    def dx_of(backward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda dy, ctx: backward(dy, ctx)[0]

    def gap(forward: Callable[..., Any], backward: Callable[..., Any], shape: tuple[int, ...]) -> float:
        rng = np.random.default_rng(draw.integer(0, 10**6))
        return _number(adjoint_gap, forward, backward, shape, rng)

    conv_back, up_back = dx_of(ops.conv2d_backward), dx_of(ops.upconv_backward)
    rights = {"mirror padding": (mirror, ops.mirror_pad_backward), "a convolution": (convolve, conv_back),
              "an up-convolution": (upconvolve, up_back)}  # fmt: skip
    for name, (forward, backward) in rights.items():
        if not (found := gap(forward, backward, shape)) < 1e-12:
            hint = ("Hint: is the gap divided by the sum of the absolute products?" if name == "mirror padding" else
                    "Hint: y = A x + b, and the adjoint is that of A alone. Take forward(0) off y.")  # fmt: skip
            raise CheckError(f"The backward pass of {name} is right, but your check finds a gap of {found:.1g}, expected less "
                             f"than 1e-12.\n{hint}")  # fmt: skip
    wrongs: tuple[tuple[str, Callable[..., Any], Callable[..., Any], str, str], ...] = (
        ("", _mean_pool, _first_of_four, "gives the first of four pixels all of dy (for the mean of the four)",
         "Is x all ones? Then only the sum of dx is tested, and that is right. Draw x at random."),
        ("", _mean_pool, _spread, "spreads the mean of dy over the whole map (for the mean of four)", ONES),
        ("padding_not_folded_back", mirror, ops.mirror_pad_backward, "overwrites where it should add (padding_not_folded_back)",
         "Does your gap compare <A x, dy> with <x, backward(dy)>?"),
        ("same_crops_at_the_corner", convolve, conv_back, "is a pixel off (same_crops_at_the_corner)",
         "Does your gap compare <A x, dy> with <x, backward(dy)>?"),
        ("upconv_gradient_of_one_row", upconvolve, up_back, "counts one row of each block twice (upconv_gradient_of_one_row)",
         "Does your gap compare <A x, dy> with <x, backward(dy)>?"),
        ("", convolve, lambda dy, ctx: -conv_back(dy, ctx), "returns -dx",
         "Take the difference of the two products first, and then its absolute value."),
    )  # fmt: skip
    for bug, forward, backward, does, hint in wrongs:
        with _planted(bug):
            found = gap(forward, backward, (2, 4, 6, 3))
        _require_seen(found, f"A backward pass that {does}", hint)


exercise(
    "12.adjoint",
    "adjoint_gap(forward, backward, shape, rng) -> how far <A x, dy> and <x, backward(dy)> are apart",
    laws=(_adjoint,),
    mistakes=(
        Mistake("Is your dy all ones?", edits=(("dy = rng.standard_normal(y.shape)", "dy = np.ones(y.shape)"),)),
        Mistake("Is x all ones?", edits=(("x = rng.standard_normal(shape)", "x = np.ones(shape)"),)),
        Mistake("Take forward(0) off y", edits=(("y - forward(np.zeros(shape))[0]", "y"),)),
        Mistake("and then its absolute value", edits=(("abs(left - right)", "abs(abs(left) - abs(right))"),)),
        Mistake("Your check stops", edits=(("rng.standard_normal(shape)", "rng.standard_normal(shape, np.float32)"),)),
    ),
)  # fmt: skip

# What no gradient check sees -----------------------------------------------------------------------------------------


def _first_image(x: Array, w: Array, b: Array) -> Array:
    return np.repeat(ops.conv2d_forward(x[:1], w, b)[0], len(x), axis=0)


def _height_for_width(x: Array, w: Array, b: Array) -> Array:
    n, height, width, c = x.shape
    y = ops.conv2d_forward(x.reshape(n, width, height, c), w, b)[0]
    return y.reshape(n, height - 2, width - 2, -1)


def _as_many_channels(x: Array, w: Array, b: Array) -> Array:
    """Right as long as C = O."""
    m = min(w.shape[2:])
    y = np.zeros((len(x), x.shape[1] - 2, x.shape[2] - 2, w.shape[3]), x.dtype)
    y[..., :m] = ops.conv2d_forward(x[..., :m], w[:, :, :m, :m], b[:m])[0]
    return y


def _plain(x: Array, w: Array, b: Array) -> Array:
    y: Array = ops.conv2d_forward(x, w, b)[0]
    return y


REFERENCE = "Is your w symmetric? Or does your reference call conv2d_forward, so that the bug is in both? Write the formula out."

WRONG_CONVOLUTIONS: Mapping[str, tuple[str, Callable[..., Array], str]] = {
    "turns its kernel by 180 degrees (kernel_flipped)": ("kernel_flipped", _plain, REFERENCE),
    "exchanges rows and columns of its kernel (kernel_transposed)": ("kernel_transposed", _plain, REFERENCE),
    "never adds the bias (bias_forgotten)": ("bias_forgotten", _plain, "Is your b zero? A new network's is, and that hides it."),
    "uses the first image for the whole batch": ("", _first_image, "With N = 1 nobody notices. Give it two images."),
    "takes the height for the width": ("", _height_for_width, "On a square image the two are equal. Give it one with H != W."),
    "has as many channels out as in": ("", _as_many_channels, "With C = O that is right. Give it C != O."),
}


def _forward(draw: Draw, forward_gap: Callable[..., Any]) -> None:
    def gap(conv: Callable[..., Array]) -> float:
        return _number(forward_gap, conv, np.random.default_rng(draw.integer(0, 10**6)))

    if not (found := gap(_plain)) < 1e-9:
        raise CheckError(f"The convolution is right, but your check finds {found:.1g}, expected less than 1e-9.\n"
                         "Hint: y[n, i, j, o] = b[o] + the sum over r, s, c of x[n, i + r, j + s, c] w[r, s, c, o].")  # fmt: skip
    for does, (bug, conv, hint) in WRONG_CONVOLUTIONS.items():
        with _planted(bug):
            found = gap(conv)
        _require_seen(found, f"A convolution that {does}", hint)


exercise(
    "12.forward",
    "forward_gap(conv, rng) -> the largest error of y = conv(x, w, b), on x, w and b of your choice",
    laws=(_forward,),
    mistakes=(
        Mistake("Write the formula out", edits=(("rng.standard_normal((3, 3, 3, 2))", "np.ones((3, 3, 3, 2))"),)),
        Mistake("does your reference call conv2d_forward",
                edits=(("should = b[o] + np.sum(x[n, i : i + 3, j : j + 3] * w[:, :, :, o])",
                        "should = ops.conv2d_forward(x, w, b)[0][n, i, j, o]"),)),
        Mistake("Is your b zero?", edits=(("rng.standard_normal(2)", "np.zeros(2)"),)),
        Mistake("Give it two images", edits=(("(2, 5, 7, 3)", "(1, 5, 7, 3)"),)),
        Mistake("H != W", edits=(("(2, 5, 7, 3)", "(2, 7, 7, 3)"),)),
        Mistake("Give it C != O", edits=(("(2, 5, 7, 3)", "(2, 5, 7, 2)"), ("(3, 3, 3, 2)", "(3, 3, 2, 2)"))),
        Mistake("The convolution is right", edits=(("b[o] + ", ""),)),
    ),
)  # fmt: skip
