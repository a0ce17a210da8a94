"""Laws that every op keeps, whatever it computes, each written once. An op's own file says how arguments for it are made.

An op comes as a `Case`: one way to call it, with its arguments by name. `keep_laws` enters every law of this file for an op,
less those that do not apply to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Kind, Op, holds, require, require_close
from tinyunet.check import check_adjoint, check_complex_step, check_grad, described, pair_of
from tinyunet.errors import CheckError


class Case(NamedTuple):
    """One way to call an op: y, ctx = forward(*arguments.values()), gradients = backward(dy, ctx)."""

    arguments: dict[str, Array]  # what has a gradient; float64 but for what is about another dtype
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    shape: tuple[int, ...]  # of y
    mapped: tuple[str, ...] = ("x",)  # arguments with an axis of images in front
    linear: tuple[str, ...] = ()  # arguments in which y is linear, but for a constant
    name: str = ""  # of this way to call it: "padding='same'"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its arguments."""
        return next(iter(self.arguments.values())).dtype


Cases = Callable[[Op, Draw], Iterator[Case]]
Law = Callable[[Case, Draw], None]

LAWS: dict[str, tuple[Kind, Law]] = {}

FLOAT32 = 2e-5
"""What results in float32 may be off by, relative to the largest one."""

OF_LINEAR_OPS = ("backward_is_the_adjoint", "linear_where_it_should_be")
OF_PARAMETERS = ("a_nan_in_a_parameter_is_not_hidden",)
"""Laws that say nothing of an op that is not linear, or has no parameters."""


def law(kind: Kind) -> Callable[[Law], Law]:
    """Note a law under its name."""

    def note(run: Law) -> Law:
        LAWS[run.__name__] = kind, run
        return run

    return note


def keep_laws(subject: str, cases: Cases, *, without: Sequence[str] = ()) -> None:
    """Enter every law for an op, but for those named in `without`."""
    for name, (kind, one) in LAWS.items():
        if name not in without:
            holds(subject, kind)(_of_every_case(one, cases))


def _of_every_case(one: Law, cases: Cases) -> Callable[[Op, Draw], None]:
    @wraps(one)
    def run(op: Op, draw: Draw) -> None:
        for case in cases(op, draw):
            try:
                one(case, draw)
            except Exception as failure:
                if not case.name:
                    raise
                raise CheckError(f"with {case.name}: {told(failure)}") from failure

    return run


# ---------------------------------------------------------------------------------------------------------------------
# What op files and laws share
# ---------------------------------------------------------------------------------------------------------------------

HARD_VALUES = (0.0, -0.0, 1.0, 1.0, -1.0, 2.0, 1e4, -1e4, 5e-324, -1e-310, 1e-20)
"""Ties, both zeros, whole numbers, large and tiny ones, and two below the smallest normal number."""


def spaced(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Values 0.01 apart in random order, of both signs, none nearer to zero than 0.002: no small step crosses a kink."""
    size = int(np.prod(shape))
    return draw.rng.permutation((np.arange(size) - size // 2) * 0.01 + 0.002).reshape(shape)


def hard(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Values that break careless code, in random order."""
    return draw.rng.choice(HARD_VALUES, shape)


def geometry(draw: Draw, low: int = 1, high: int = 5) -> tuple[int, int, int, int]:
    """N, H, W, C: one image or several, square or not."""
    height = draw.integer(low, high)
    width = height if draw.choice((False, False, True)) else draw.integer(low, high)
    return draw.choice((2, 1, 3)), height, width, draw.integer(1, 4)


def gradients_of(case: Case, dy: Any, ctx: Any) -> tuple[Array, ...]:
    """The gradients as a tuple with one for every argument, or a CheckError."""
    gradients = case.backward(dy, ctx)
    gradients = tuple(gradients) if isinstance(gradients, tuple | list) else (gradients,)
    for name, gradient in zip(case.arguments, gradients, strict=False):
        require(isinstance(gradient, np.ndarray), f"backward returned {described(gradient)} as d{name}, expected an array")
    names = ", ".join("d" + name for name in case.arguments)
    require(len(gradients) == len(case.arguments), f"backward returned {len(gradients)} gradients, expected {names}")
    return gradients


def require_equal(what: str, found: Any, expected: Any) -> None:
    """Raise CheckError unless two arrays agree bit for bit; two NaN agree."""
    found, expected = np.asarray(found), np.asarray(expected)
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}")
    differ = ~((found == expected) | ((found != found) & (expected != expected)))
    if differ.any():
        worst = tuple(int(i) for i in np.argwhere(differ)[0])
        raise CheckError(f"{what} is {found[worst]!s} at {list(worst)}, expected {expected[worst]!s}")


def require_refused(what: str, call: Callable[[], Any], *words: str) -> None:
    """Raise CheckError unless a call ends in a ValueError or TypeError whose message holds every word."""
    remedy = "Refuse it with a ValueError that says what came and what is needed"
    try:
        call()
    except CheckError:  # of the call itself: no pair, for instance
        raise
    except (ValueError, TypeError) as refusal:
        missing = [word for word in words if word not in str(refusal)]
        require(not missing, f"{what} is refused, but the message does not name {' and '.join(missing)}: {refusal}")
        return
    except Exception as failure:
        raise CheckError(f"{what} ends in {told(failure)}. {remedy}") from failure
    raise CheckError(f"{what} is accepted. {remedy}")


def require_close_or_name(
    what: str, found: Any, expected: Any, mistakes: Callable[[], dict[str, Array]], *, scale: float = 0.0
) -> None:
    """`require_close`; where it fails and the array equals one that a well-known mistake gives, the error names the mistake."""
    try:
        require_close(what, found, expected, scale=scale)
    except CheckError as failure:
        for mistake, wrong in mistakes().items():
            size = max(float(np.abs(wrong).max(initial=0)), scale)
            if np.shape(found) == wrong.shape and np.allclose(found, wrong, rtol=0, atol=1e-12 * size):
                raise CheckError(f"{failure}. It equals that of {mistake}") from failure
        raise


def told(failure: Exception) -> str:
    """An exception in words, with the notes that were added to it: where it comes from, for instance."""
    what = str(failure) if isinstance(failure, CheckError) else f"{type(failure).__name__}: {failure}"
    notes = getattr(failure, "__notes__", ())
    return f"{what} ({'. '.join(notes)})" if notes else what


def _random_dy(case: Case, y: Any, draw: Draw) -> Any:
    require(np.shape(y) == case.shape, f"y has shape {np.shape(y)}, expected {case.shape}")
    dtype = y.dtype if isinstance(y, np.ndarray) else np.float64
    return np.asarray(draw.rng.standard_normal(case.shape)).astype(dtype)


class _Results(NamedTuple):
    """One call in both directions."""

    y: Any
    dy: Array
    ctx: Any
    gradients: dict[str, Array]


def _both(case: Case, draw: Draw, arguments: dict[str, Array] | None = None, dy: Any = None) -> _Results:
    y, ctx = pair_of(case.forward(*(case.arguments if arguments is None else arguments).values()))
    dy = _random_dy(case, y, draw) if dy is None else dy
    return _Results(y, dy, ctx, dict(zip(case.arguments, gradients_of(case, dy, ctx), strict=True)))


def _copied(arguments: dict[str, Array]) -> dict[str, Array]:
    return {name: value.copy() for name, value in arguments.items()}


def _compare(case: Case, found: _Results, expected: _Results, why: str, rtol: float = 1e-12) -> None:
    rtol = max(rtol, 2 * FLOAT32) if case.dtype == np.float32 else rtol  # twice: both may be off
    require_close(f"y {why}", found.y, expected.y, rtol=rtol, scale=1.0)
    for name in case.arguments:
        require_close(f"d{name} {why}", found.gradients[name], expected.gradients[name], rtol=rtol, scale=1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------------------------------


@law("gradient")
def gradient_by_differences(case: Case, draw: Draw) -> None:
    """Every gradient equals the difference quotient of forward, along random directions and for a random dy."""
    check_grad(case.forward, case.backward, case.arguments, draw.rng)


@law("gradient")
def gradient_by_complex_step(case: Case, draw: Draw) -> None:
    """Every gradient equals the imaginary part of forward after a tiny imaginary step, to 12 digits."""
    check_complex_step(case.forward, case.backward, case.arguments, draw.rng)


@law("gradient")
def backward_is_linear_in_dy(case: Case, draw: Draw) -> None:
    """Backward of a sum of upstream gradients is the sum of backwards, and backward of zero is zero."""
    first = _both(case, draw)
    second = np.asarray(draw.rng.standard_normal(case.shape))
    of_second = gradients_of(case, second, first.ctx)
    of_sum = gradients_of(case, 2 * first.dy - 3 * second, first.ctx)
    of_zero = gradients_of(case, 0 * second, first.ctx)
    for name, a, b, both, zero in zip(case.arguments, first.gradients.values(), of_second, of_sum, of_zero, strict=True):
        require_close(f"d{name} of 2 dy - 3 dy'", both, 2 * a - 3 * b, scale=1.0)
        require(not zero.any(), f"d{name} is not zero for dy = 0")


# ---------------------------------------------------------------------------------------------------------------------
# Adjoints
# ---------------------------------------------------------------------------------------------------------------------


@law("adjoint")
def backward_is_the_adjoint(case: Case, draw: Draw) -> None:
    """Where forward is linear, <A v, dy> = <v, dv>: backward is the transpose of forward, to 12 digits."""
    for name in case.linear:

        def apply(v: Array, name: str = name) -> Array:
            return case.forward(*(case.arguments | {name: v}).values())[0]

        constant = apply(np.zeros_like(case.arguments[name]))

        def transposed(dy: Array, name: str = name) -> Array:
            ctx = case.forward(*case.arguments.values())[1]
            return gradients_of(case, dy, ctx)[list(case.arguments).index(name)]

        v, dy = draw.rng.standard_normal(case.arguments[name].shape), np.asarray(draw.rng.standard_normal(case.shape))
        try:
            check_adjoint(lambda v, apply=apply, constant=constant: apply(v) - constant, transposed, v, dy)  # type: ignore[misc]
        except CheckError as failure:
            raise CheckError(f"d{name}: {failure}") from failure


@law("invariance")
def linear_where_it_should_be(case: Case, draw: Draw) -> None:
    """Where forward is linear, forward of a sum is the sum of forwards, but for the constant that a bias adds."""
    for name in case.linear:
        v = case.arguments[name]
        u = draw.rng.standard_normal(v.shape)

        def apply(v: Array, name: str = name) -> Array:
            return case.forward(*(case.arguments | {name: v}).values())[0]

        expected = 2 * apply(v) - 3 * apply(u) + 2 * apply(0 * v)  # the constant counts 1 = 2 - 3 + 2 times
        require_close(f"y of 2 {name} - 3 {name}'", apply(2 * v - 3 * u), expected, scale=10.0)


# ---------------------------------------------------------------------------------------------------------------------
# Images of a batch
# ---------------------------------------------------------------------------------------------------------------------


@law("invariance")
def images_do_not_mix(case: Case, draw: Draw) -> None:
    """A batch gives what its images give one by one; gradients of parameters are the sum over images, not the mean."""
    whole = _both(case, draw)
    images = []
    for i in range(len(whole.y)):
        one = {name: v[i : i + 1] if name in case.mapped else v for name, v in case.arguments.items()}
        y, ctx = pair_of(case.forward(*one.values()))
        images.append((y, gradients_of(case, whole.dy[i : i + 1], ctx)))
    require_close("y of a batch, next to its images one by one,", whole.y, np.concatenate([y for y, _ in images]), scale=1.0)
    for k, (name, found) in enumerate(whole.gradients.items()):
        parts = [gradients[k] for _, gradients in images]
        expected = np.concatenate(parts) if name in case.mapped else np.sum(parts, axis=0)
        require_close(f"d{name} of a batch, next to its images one by one,", found, expected, scale=1.0)


@law("invariance")
def an_empty_batch_is_fine(case: Case, draw: Draw) -> None:
    """No image in, no image out; and gradients of parameters are zero."""
    empty = {name: v[:0] if name in case.mapped else v for name, v in case.arguments.items()}
    y, ctx = pair_of(case.forward(*empty.values()))
    require(np.shape(y) == (0, *case.shape[1:]), f"y of no images has shape {np.shape(y)}, expected {(0, *case.shape[1:])}")
    for name, gradient in zip(empty, gradients_of(case, np.zeros_like(y), ctx), strict=True):
        require(gradient.shape == empty[name].shape, f"d{name} has shape {gradient.shape}, expected {empty[name].shape}")
        require(not gradient.any(), f"d{name} of no images is not zero")


# ---------------------------------------------------------------------------------------------------------------------
# The contract
# ---------------------------------------------------------------------------------------------------------------------


@law("contract")
def shapes_of_the_results(case: Case, draw: Draw) -> None:
    """y has the shape that the size arithmetic gives, and every gradient has the shape of its argument."""
    for name, gradient in _both(case, draw).gradients.items():
        expected = case.arguments[name].shape
        require(gradient.shape == expected, f"d{name} has shape {gradient.shape}, {name} itself {expected}. They must be equal")


@law("contract")
def the_dtype_survives(case: Case, draw: Draw) -> None:
    """float32 comes out as float32 and float64 as float64, in both directions."""
    for dtype in ("float32", "float64"):
        results = _both(case, draw, {name: v.astype(dtype) for name, v in case.arguments.items()})
        if case.shape:  # a loss is a Python number
            require(results.y.dtype == dtype, f"y is {results.y.dtype} for {dtype} arguments")
        for name, gradient in results.gradients.items():
            require(gradient.dtype == dtype, f"d{name} is {gradient.dtype} for {dtype} arguments")


@law("contract")
def float32_is_float64_rounded(case: Case, draw: Draw) -> None:
    """In float32 the results are those of float64 to five digits."""
    single = {name: v.astype(np.float32) for name, v in case.arguments.items()}
    exact = _both(case, draw, {name: v.astype(np.float64) for name, v in single.items()})
    rounded = _both(case, draw, single, exact.dy.astype(np.float32))
    _compare(case, rounded, exact, "in float32", rtol=FLOAT32)


@law("contract")
def arguments_are_left_alone(case: Case, draw: Draw) -> None:
    """Neither forward nor backward writes into what it is given."""
    arguments = _copied(case.arguments)
    y, ctx = pair_of(case.forward(*arguments.values()))
    for name, value in arguments.items():
        require_equal(f"{name} after forward", value, case.arguments[name])
    dy = _random_dy(case, y, draw)
    before = dy.copy()
    gradients_of(case, dy, ctx)
    require_equal("dy after backward", dy, before)
    for name, value in arguments.items():
        require_equal(f"{name} after backward", value, case.arguments[name])


@law("contract")
def results_are_fresh(case: Case, draw: Draw) -> None:
    """Results are C-contiguous arrays of their own: no view of an argument, of dy or of one another."""
    results = _both(case, draw)
    given = {**case.arguments, "dy": results.dy}
    made = {name: r for name, r in {"y": results.y, **{f"d{n}": g for n, g in results.gradients.items()}}.items()
            if isinstance(r, np.ndarray)}
    for name, result in made.items():
        require(result.flags.c_contiguous, f"{name} is not C-contiguous")
        require(result.flags.writeable, f"{name} is read-only")
        for other, array in {**given, **{n: r for n, r in made.items() if n != name}}.items():
            require(not np.shares_memory(result, array), f"{name} shares memory with {other}: writing to one changes the other")


@law("contract")
def what_is_remembered_is_safe(case: Case, draw: Draw) -> None:
    """Backward gives the same whether or not y has been overwritten since forward, by a ReLU in place for instance."""
    first = _both(case, draw)
    y, ctx = pair_of(case.forward(*case.arguments.values()))
    if isinstance(y, np.ndarray):
        y[...] = np.nan
    for name, gradient in zip(case.arguments, gradients_of(case, first.dy, ctx), strict=True):
        require_equal(f"d{name} after y was overwritten", gradient, first.gradients[name])


@law("contract")
def backward_can_be_repeated(case: Case, draw: Draw) -> None:
    """Backward of the same dy gives the same bits again, also after its results were overwritten."""
    first = _both(case, draw)
    kept = _copied(first.gradients)
    for gradient in first.gradients.values():
        if gradient.flags.writeable:
            gradient[...] = np.nan
    for name, again in zip(kept, gradients_of(case, first.dy, first.ctx), strict=True):
        require_equal(f"d{name} of a second backward", again, kept[name])


@law("contract")
def forward_can_be_repeated(case: Case, draw: Draw) -> None:
    """Forward of the same arguments gives the same bits, and a later call leaves earlier results and gradients as they were."""
    first = _both(case, draw)
    kept = np.copy(first.y)
    case.forward(*({name: v + 1 if name in case.mapped else v for name, v in case.arguments.items()}).values())
    require_equal("y after another forward", first.y, kept)
    for name, gradient in zip(case.arguments, gradients_of(case, first.dy, first.ctx), strict=True):
        require_equal(f"d{name} of the first forward, after another one,", gradient, first.gradients[name])
    require_equal("y of a second forward", pair_of(case.forward(*case.arguments.values()))[0], kept)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "in Fortran order": np.asfortranarray,
    "with negative strides": lambda a: np.flip(np.flip(a).copy()),
    "of every second value": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "with channels first in memory": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
}


@law("contract")
def any_memory_layout(case: Case, draw: Draw) -> None:
    """Fortran order, negative strides and other layouts of the arguments and of dy change no value."""
    expected = _both(case, draw)
    for layout, change in LAYOUTS.items():
        arguments = {name: change(v) for name, v in case.arguments.items()}
        found = _both(case, draw, arguments, change(expected.dy) if expected.dy.ndim else expected.dy)
        _compare(case, found, expected, f"for arrays {layout}")
        require(np.asarray(found.y).flags.c_contiguous, f"y is not C-contiguous for arrays {layout}")


@law("contract")
def read_only_arrays(case: Case, draw: Draw) -> None:
    """Arguments and dy may be read-only."""
    expected = _both(case, draw)
    arguments, dy = _copied(case.arguments), expected.dy.copy()
    for value in (*arguments.values(), dy):
        value.flags.writeable = False
    _compare(case, _both(case, draw, arguments, dy), expected, "for read-only arrays")


@law("contract")
def broadcast_arrays(case: Case, draw: Draw) -> None:
    """Arrays whose strides are 0, as np.broadcast_to makes them, work as arguments and as dy."""
    thin = {
        name: np.broadcast_to(np.asarray(draw.rng.standard_normal(v.shape[-1]), v.dtype), v.shape) if name in case.mapped else v
        for name, v in case.arguments.items()
    }
    dy = np.broadcast_to(np.asarray(draw.rng.standard_normal(case.shape[-1:]), case.dtype), case.shape)
    full = {name: np.ascontiguousarray(v) for name, v in thin.items()}
    expected = _both(case, draw, full, np.ascontiguousarray(dy) if dy.ndim else dy)
    _compare(case, _both(case, draw, thin, dy), expected, "for broadcast arrays")


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


@law("contract")
def hard_values_stay_finite(case: Case, draw: Draw) -> None:
    """Ties, zeros, denormals and +-10,000 give finite results in both directions, and no warning."""
    arguments = {name: hard(draw, v.shape).astype(v.dtype) if name in case.mapped else v for name, v in case.arguments.items()}
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        results = _both(case, draw, arguments)
    require(bool(np.isfinite(results.y).all()), "y is not finite for finite values")
    for name, gradient in results.gradients.items():
        require(bool(np.isfinite(gradient).all()), f"d{name} is not finite for finite values")


@law("contract")
def a_nan_is_not_hidden(case: Case, draw: Draw) -> None:
    """A NaN in an image shows in the output of that image."""
    _spoiled(case, np.nan, np.isnan, "NaN")


@law("contract")
def an_infinity_is_not_hidden(case: Case, draw: Draw) -> None:
    """An infinity in an image shows in the output of that image."""
    _spoiled(case, np.inf, lambda y: ~np.isfinite(y), "infinite")


def _spoiled(case: Case, value: float, bad: Callable[[Any], Any], word: str) -> None:
    for name in case.mapped:
        arguments = _copied(case.arguments)
        arguments[name][-1] = value
        with np.errstate(all="ignore"):
            y = np.asarray(pair_of(case.forward(*arguments.values()))[0])
        shown = y[-1] if case.shape else y
        require(bool(bad(shown).any()), f"the last image of {name} is {word} throughout, its y is finite: where did it go")


@law("contract")
def a_nan_stays_in_its_image(case: Case, draw: Draw) -> None:
    """A NaN in one image does not spoil the other images of the batch."""
    for name in case.mapped:
        arguments = _copied(case.arguments)
        arguments[name][-1] = np.nan
        with np.errstate(all="ignore"):
            y = np.asarray(pair_of(case.forward(*arguments.values()))[0])
        require(bool(np.isfinite(y[:-1]).all()), f"a NaN in the last image of {name} shows in the output of another image")


@law("contract")
def a_nan_in_dy_is_not_hidden(case: Case, draw: Draw) -> None:
    """A NaN in dy shows in every gradient."""
    _, ctx = pair_of(case.forward(*case.arguments.values()))
    with np.errstate(all="ignore"):
        gradients = gradients_of(case, np.full(case.shape, np.nan, case.dtype), ctx)
    for name, gradient in zip(case.arguments, gradients, strict=True):
        require(bool(np.isnan(gradient).any()), f"dy is NaN, and d{name} has none")


@law("contract")
def a_nan_in_a_parameter_is_not_hidden(case: Case, draw: Draw) -> None:
    """A NaN in a parameter shows in the output."""
    for name in set(case.arguments) - set(case.mapped):
        arguments = _copied(case.arguments)
        arguments[name].flat[-1] = np.nan
        with np.errstate(all="ignore"):
            y, _ = pair_of(case.forward(*arguments.values()))
        require(bool(np.isnan(y).any()), f"the last value of {name} is NaN, and y has none")


@law("contract")
def a_dy_of_another_shape_is_refused(case: Case, draw: Draw) -> None:
    """Backward refuses a dy whose shape is not that of y, with an error that says so."""
    _, ctx = pair_of(case.forward(*case.arguments.values()))
    taller = (case.shape[0], case.shape[1] + 2, *case.shape[2:])
    require_refused(f"a dy of shape {taller} for a y of {case.shape}", lambda: case.backward(np.zeros(taller, case.dtype), ctx))


@law("contract")
def an_image_of_bytes_is_refused(case: Case, draw: Draw) -> None:
    """Whole numbers, as an image file holds them, are refused with their dtype: bytes would wrap around at 256."""
    arguments = {name: np.ones(v.shape, np.uint8) if name in case.mapped else v for name, v in case.arguments.items()}
    require_refused("an image of uint8", lambda: case.forward(*arguments.values()), "uint8")
