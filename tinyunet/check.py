"""Checks of hand-written backward passes, for tests, for lessons, and for anyone who adds an op.

An op is a pair, with one gradient for every argument, in the same order:

    y, ctx = forward(x, w, b)
    dx, dw, db = backward(dy, ctx)

Three questions can be asked of it. `check_grad` takes differences, and works for anything smooth. `check_complex_step` needs a
forward pass that takes complex numbers, and is exact to rounding. `check_adjoint` is for linear maps, and needs no derivative.
`numerical_grad` asks nothing: it gives the whole gradient by differences, to be looked at next to one's own.

The gradient dy of the output is always drawn at random. With ones, the usual choice, softmax and batch norm have gradient zero,
and a backward pass that returns nothing but zeros would pass. No check of this kind sees a forward pass that is wrong
together with its backward pass, a flipped kernel for instance: forward needs a reference of its own. `tinyunet.catalogue` has
one for every op, with many more questions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, combinations, permutations
from typing import Any, Literal

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import CheckError, DTypeError, ShapeError

Forward = Callable[..., tuple[Any, Any]]
"""forward(*arguments) -> (y, ctx)"""

Backward = Callable[[Any, Any], Any]
"""backward(dy, ctx) -> one gradient, or a tuple with one for every argument"""

ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Allowed error of a sum, relative to the sum of the absolute values of what is added."""

PROBES = 50
"""How many entries of a large wrong gradient are looked at one by one, to say where it is wrong."""

WHOLE = 600
"""A wrong gradient with up to so many entries is compared with the true one entry by entry, to say how they are related."""

SAME = 1e-5
"""Entries of a wrong gradient within this share of the largest count as right: what differences can tell."""


def check_grad(
    forward: Forward,
    backward: Backward,
    arguments: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    eps: float = 1e-5,
    rtol: float = 1e-7,
    directions: int = 2,
    zero_ok: Collection[str] = (),
) -> dict[str, float]:
    """<dv, u> = <dy, (f(v + eps u) - f(v - eps u)) / 2 eps>   for every argument v, along random directions u

    A random direction is as sharp as a look at every entry, and costs two forward passes instead of two for every entry.

        check_grad(conv2d_forward, conv2d_backward, {"x": x, "w": w, "b": b}, rng)

    arguments   float64, by name, in the order that forward takes them; what has no gradient goes into a lambda
    eps, rtol   step, and allowed error relative to the size of the gradient
    zero_ok     names whose gradient may be zero everywhere; for others that counts as a mistake

    -> the largest relative error of each argument

    Raises CheckError that names the argument and how its gradient is wrong (zero, wrong sign, divided by N, a term missing,
    transposed, that of another argument, some entries), or says that a kink lies within eps; DTypeError for arguments that are
    not float64.
    """
    y, dy, grads = _analytic("check_grad", forward, backward, arguments, rng, zero_ok)

    def slope(name: str, u: Array, step: float = eps) -> float:
        ahead, _ = forward(*_moved(arguments, name, step * u))
        behind, _ = forward(*_moved(arguments, name, -step * u))
        return _dot(dy, np.asarray(ahead) - np.asarray(behind)) / (2 * step)

    def refuse_kink(name: str, u: Array) -> None:
        whole, half = slope(name, u), slope(name, u, eps / 2)
        if abs(whole - half) > 10 * (rtol * abs(whole) + rounding):
            raise CheckError(
                f"check_grad: cannot judge {name!r}, a kink is near: the difference quotient is {whole:.9g} with eps = {eps:g} "
                f"and {half:.9g} with half of it{where_kinked(name)}. {_KINK_REMEDY}"
            )

    def where_kinked(name: str) -> str:
        sides = _one_sided(forward, arguments, name, dy)
        for entry in rng.permutation(arguments[name].size)[:PROBES].tolist():
            if found := _kink(partial(sides, entry), eps, rounding):
                return f"; {_at(arguments[name], entry)}, its slope is {found[0]:.4g} ahead and {found[1]:.4g} behind"
        return ""

    rounding = ROUNDING * float(np.abs(dy * y).sum()) / eps
    return {
        name: _judge("check_grad", name, grads, y, slope, rng, directions, rtol, rounding, refuse_kink) for name in arguments
    }


def check_complex_step(
    forward: Forward,
    backward: Backward,
    arguments: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    h: float = 1e-30,
    rtol: float = 1e-12,
    directions: int = 2,
    zero_ok: Collection[str] = (),
) -> dict[str, float]:
    """<dv, u> = <dy, Im f(v + i h u) / h>   for every argument v, along random directions u

    f(v + i h u) = f(v) + i h f'(v) u - h^2 ...: the derivative stands alone in the imaginary part. Nothing is subtracted, so h
    can be so small that no kink is near and no digit is lost, and the check is a hundred thousand times sharper than
    differences. (Squire, Trapp 1998.) It also notices a forward pass that casts to float32.

    Arguments, result and errors are those of `check_grad`; forward must take complex128 and compare by real parts.
    """
    y, dy, grads = _analytic("check_complex_step", forward, backward, arguments, rng, zero_ok)
    as_complex = {name: value.astype(np.complex128) for name, value in arguments.items()}

    def slope(name: str, u: Array) -> float:
        moved, _ = forward(*_moved(as_complex, name, 1j * h * u))
        if not np.iscomplexobj(moved):
            raise CheckError(
                f"check_complex_step: forward returned real numbers for a complex {name!r}. Something on the way casts to a "
                "fixed dtype or takes a real part; keep the dtype of the input."
            )
        return _dot(dy, np.asarray(moved).imag / h)

    rounding = ROUNDING * float(np.abs(dy * y).sum())
    return {name: _judge("check_complex_step", name, grads, y, slope, rng, directions, rtol, rounding) for name in arguments}


def check_adjoint(
    forward: Callable[[Array], Array],
    backward: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    rtol: float = 1e-12,
    zero_ok: bool = False,
) -> float:
    """<A x, y> = <x, A^T y>   for a linear map A = forward and its adjoint A^T = backward

    The backward pass of a linear op is its adjoint, and this tells without any derivative. Take x and y at random.

    zero_ok   both results may be zero everywhere; if not, that counts as a mistake, for 0 = 0 says nothing

    -> the error relative to the sum of absolute products

    Raises CheckError with both numbers if they differ by more than rtol times that sum; if A x or A^T y is zero everywhere.
    """
    ax, aty = np.asarray(forward(x)), np.asarray(backward(y))
    if ax.shape != y.shape or aty.shape != x.shape:
        raise CheckError(
            f"check_adjoint: forward makes {ax.shape} of {x.shape} and backward makes {aty.shape} of {y.shape}. "
            "Backward must go the other way: from the shape of forward's result to the shape of x."
        )
    for who, result, formula in (("forward", ax, "A x"), ("backward", aty, "A'y")):
        if not zero_ok and not result.any():
            raise CheckError(
                f"check_adjoint: {formula}, which {who} makes, is zero everywhere. Is it computed at all? If it must be zero, "
                "say zero_ok=True."
            )
    left, right = _dot(ax, y), _dot(x, aty)
    scale = max(float(np.abs(ax * y).sum()), float(np.abs(x * aty).sum()))
    error = abs(left - right) / scale if scale else 0.0
    if not error <= rtol:  # "not <=" so that a NaN fails
        raise CheckError(
            f"check_adjoint: <Ax, y> = {left:.9g} but <x, A'y> = {right:.9g}, {error:.1e} apart; allowed is {rtol:.0e}. "
            "Backward is not the adjoint of forward."
        )
    return error


def numerical_grad(
    forward: Forward,
    arguments: Mapping[str, Array],
    dy: Array | float = 1.0,
    *,
    eps: float = 1e-5,
    kinks: Literal["raise", "nan"] = "raise",
) -> dict[str, Array]:
    """dv[i] = <dy, f(v + eps e_i) - f(v - eps e_i)> / 2 eps   for every entry i of every argument v

        numerical_grad(conv2d_forward, {"x": x, "w": w, "b": b}, dy)["w"]

    dy      the gradient of y, drawn at random; 1 for a loss, whose y is a number
    kinks   "nan" leaves a NaN at entries where f has a kink within eps, "raise" explains the first one

    -> the whole gradient of each argument by name. Two forward passes an entry: for small arrays, to look at.

    Raises CheckError where f has a kink, the slopes ahead and behind being different; DTypeError for arguments that are not
    float64; ShapeError for a dy that has not the shape of y.
    """
    for name, value in arguments.items():
        _need_float64("numerical_grad", name, value)
    y = np.asarray(pair_of(forward(*arguments.values()), "numerical_grad: forward")[0])
    dy = np.asarray(dy)
    if dy.shape != y.shape:
        raise ShapeError(f"numerical_grad: dy has shape {dy.shape}, y {y.shape}. Draw dy = rng.standard_normal({y.shape}).")
    rounding = ROUNDING * float(np.abs(dy * y).sum()) / eps
    grads = {}
    for name, value in arguments.items():
        sides = _one_sided(forward, arguments, name, dy)
        grads[name] = np.empty(value.shape)
        for entry in range(value.size):
            found = _kink(partial(sides, entry), eps, rounding)
            if found and kinks == "raise":
                raise CheckError(
                    f"numerical_grad: {name!r} has no gradient {_at(value, entry)}: with eps = {eps:g} the slope ahead is "
                    f"{found[0]:.6g} and the slope behind {found[1]:.6g}, so a kink lies between (a ReLU at zero, two equal "
                    f"values in a max-pool). {_KINK_REMEDY}"
                )
            grads[name].flat[entry] = np.nan if found else sum(sides(entry, eps)) / 2
    return grads


# ---------------------------------------------------------------------------------------------------------------------
# What the checks share
# ---------------------------------------------------------------------------------------------------------------------


def _analytic(
    who: str,
    forward: Forward,
    backward: Backward,
    arguments: Mapping[str, Array],
    rng: np.random.Generator,
    zero_ok: Collection[str],
) -> tuple[Array, Array, dict[str, Array]]:
    """y, a random dy, and the gradients that backward gives, after checking what can be checked without a derivative."""
    for name, value in arguments.items():
        _need_float64(who, name, value)
    result, ctx = pair_of(forward(*arguments.values()), f"{who}: forward")
    y = np.asarray(result)
    if y.dtype != np.float64:
        raise CheckError(f"{who}: forward made {y.dtype} of float64 arguments. Something on the way casts; keep the dtype.")
    dy = rng.standard_normal(y.shape)
    grads = backward(dy.copy(), ctx)
    grads = tuple(grads) if isinstance(grads, tuple | list) else (grads,)
    if len(grads) != len(arguments):
        raise CheckError(
            f"{who}: backward returned {len(grads)} gradients for {len(arguments)} arguments ({', '.join(arguments)}). "
            "Return one for each, in the order of forward's arguments."
        )
    for (name, value), grad in zip(arguments.items(), grads, strict=True):
        if not isinstance(grad, np.ndarray):
            raise CheckError(f"{who}: the gradient of {name!r} is {described(grad)}, expected an array of {value.shape}.")
        if grad.shape != value.shape:
            raise CheckError(
                f"{who}: the gradient of {name!r} has shape {grad.shape}, {name!r} itself {value.shape}. They must be equal."
            )
        if not np.isfinite(grad).all():
            raise CheckError(f"{who}: the gradient of {name!r} is not finite: it holds a NaN or an infinity.")
        if name not in zero_ok and not grad.any():
            raise CheckError(
                f"{who}: the gradient of {name!r} is zero everywhere. Is it computed at all? "
                f"If it must be zero, say zero_ok=[{name!r}]."
            )
    return y, dy, dict(zip(arguments, grads, strict=True))


def _need_float64(who: str, name: str, value: Array) -> None:
    if value.dtype != np.float64:
        raise DTypeError(f"{who}: {name!r} is {value.dtype}. Give float64, float32 has too few digits for a gradient check.")


def pair_of(result: Any, who: str = "forward") -> tuple[Any, Any]:
    """y, ctx of what a forward pass returned, or a CheckError for what is no pair."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise CheckError(f"{who} returned {described(result)}, expected the pair (y, ctx): the result, and what backward needs.")
    return result


def described(value: Any) -> str:
    """ "an array", "a tuple of 3" """
    if isinstance(value, np.ndarray):
        return "an array"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def _judge(
    who: str,
    name: str,
    grads: Mapping[str, Array],
    y: Array,
    slope: Callable[[str, Array], float],
    rng: np.random.Generator,
    directions: int,
    rtol: float,
    rounding: float,
    refuse_kink: Callable[[str, Array], None] | None = None,
) -> float:
    """Compare one gradient with the slope of forward along random directions; -> the largest relative error.

    A component along a random direction is about as large as the norm of the gradient, and by chance much smaller. So errors
    are measured by the norm.
    """
    grad = grads[name]
    moves = [rng.standard_normal(grad.shape) for _ in range(directions)]
    analytic, numeric = [_dot(grad, u) for u in moves], [slope(name, u) for u in moves]
    gaps = [abs(a - b) for a, b in zip(analytic, numeric, strict=True)]
    scale = max(float(np.linalg.norm(grad)), *map(abs, numeric))
    worst = int(np.argmax(gaps))
    if gaps[worst] <= rtol * scale + rounding:
        return gaps[worst] / scale if scale else 0.0
    if refuse_kink:
        refuse_kink(name, moves[worst])
    if not grad.any():
        how = "it is zero everywhere, and should not be"
    elif grad.size <= WHOLE:
        others = (other for other, of_other in grads.items() if other != name and of_other.shape == grad.shape)
        truths = ((other, _entry_by_entry(slope, other, grad.shape)) for other in others)
        how = _factor(analytic, numeric, y, grad) or _relation(grad, _entry_by_entry(slope, name, grad.shape), truths)
    else:
        how = _factor(analytic, numeric, y, grad) or _entries(grad, partial(slope, name), rng)
    raise CheckError(
        f"{who}: the gradient of {name!r} is wrong: {how}. Along a random direction backward gives "
        f"{analytic[worst]:.9g}, and forward {numeric[worst]:.9g}."
    )


# ---------------------------------------------------------------------------------------------------------------------
# How a gradient is wrong
# ---------------------------------------------------------------------------------------------------------------------


def _factor(analytic: list[float], numeric: list[float], *sized: Array) -> str | None:
    """Say so if the gradient is right but for a sign or a constant, and whether that constant is a size of an array."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array(analytic) / np.array(numeric)
    factor = float(ratios[0])
    if len(ratios) < 2 or not np.isfinite(ratios).all() or np.ptp(ratios) > SAME * abs(factor) or abs(factor - 1) < SAME:
        return None
    if abs(factor + 1) < SAME:
        return "it has the wrong sign"
    amount, way = (abs(factor), "times") if abs(factor) > 1 else (1 / abs(factor), "divided by")
    sizes = chain.from_iterable(map(_sizes, sized))
    what = next((what for size, what in sizes if size > 1 and abs(amount - size) < SAME * size), "")
    return f"it equals the true one {way} {amount:.7g}{what}{', and has the wrong sign' if factor < 0 else ''}"


def _sizes(array: Array) -> list[tuple[int, str]]:
    """Numbers that a gradient gets divided by, or fails to be."""
    if array.ndim != 4:
        return []
    n, height, width, channels = array.shape
    return [
        (n, ", the number of images (N)"),
        (height * width, ", the number of pixels (H W)"),
        (n * height * width, ", the number of pixels of all images (N H W)"),
        (channels, ", the number of channels (C)"),
        (array.size, ", the number of values (N H W C)"),
    ]


def _entry_by_entry(slope: Callable[[str, Array], float], name: str, shape: tuple[int, ...]) -> Array:
    """The true gradient: the slope along every axis."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.array([slope(name, unit) for unit in units]).reshape(shape)


def _relation(grad: Array, truth: Array, others: Iterator[tuple[str, Array]]) -> str:
    """What the gradient is, compared with the true one; the simplest answer that fits."""
    near = SAME * max(float(np.abs(grad).max()), float(np.abs(truth).max()))

    def same(a: Array, b: Array) -> bool:
        return bool((np.abs(a - b) <= near).all())

    if same(grad, truth):
        return f"it is off by {float(np.abs(grad - truth).max()):.1e} at most: a cast to float32, or a small term that is missing"
    axes = range(grad.ndim)
    for order in list(permutations(axes))[1:]:
        if grad.shape == tuple(grad.shape[k] for k in order) and same(grad, truth.transpose(order)):
            moved = " and ".join(str(k) for k in axes if order[k] != k)
            return f"it equals the true one with axes {moved} swapped, as if transposed"
    for turned in chain.from_iterable(combinations(axes, count) for count in range(1, grad.ndim + 1)):
        if same(grad, np.flip(truth, turned)):
            return f"it equals the true one turned round along ax{'i' if len(turned) == 1 else 'e'}s {_listed(turned)}"
    for other, of_other in others:
        if same(grad, of_other):
            return f"it equals the true gradient of {other!r}. Gradients come back in the order of forward's arguments"
    error = grad - truth
    if same(error, error.mean()) and grad.size > 1:
        return f"it equals the true one plus {error.mean():.6g} in every entry"
    if grad.ndim > 1 and grad.size > grad.shape[-1]:  # several entries a channel
        before = tuple(axes)[:-1]
        if same(error, error.mean(axis=before)):
            return (
                f"its error is the same in all entries of a channel (in the first, {error.flat[0]:.6g}). "
                "A term that was summed or averaged over all others is missing, or there is one too many"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = (grad * truth).sum(axis=before) / (truth * truth).sum(axis=before)
        if same(grad, np.nan_to_num(factors) * truth):
            return (
                f"it equals the true one times a factor for each channel ({_listed(f'{f:.4g}' for f in factors[:4])}"
                f"{', ...' if len(factors) > 4 else ''}). Is a parameter of the channel missing, or there twice"
            )
    wrong = np.abs(error) > near
    if same(np.abs(grad), np.abs(truth)):
        return f"{wrong.sum()} of its {grad.size} entries have the wrong sign, the first at {_index(grad, int(wrong.argmax()))}"
    return (
        f"{wrong.sum()} of {grad.size} entries looked at are off{_where(wrong)}"
        + (". Where it is wrong it is zero, and should not be" if not grad[wrong].any() else "")
        + f", the worst at {_worst(grad, truth)}"
    )


def _where(wrong: Array) -> str:
    """On which slices the wrong entries lie, if there are slices without any."""
    parts = []
    for axis in range(wrong.ndim):
        hit = np.flatnonzero(wrong.any(axis=tuple(k for k in range(wrong.ndim) if k != axis)))
        if len(hit) < wrong.shape[axis] and len(hit) <= 3:
            parts.append(f"axis {axis} is {' or '.join(map(str, hit.tolist()))}")
    return f", all of them where {' and '.join(parts)}" if parts and wrong.sum() > 1 else ""


def _worst(grad: Array, truth: Array) -> str:
    entry = int(np.abs(grad - truth).argmax())
    return f"{_index(grad, entry)}: backward gives {grad.flat[entry]:.6g}, forward {truth.flat[entry]:.6g}"


def _entries(grad: Array, slope: Callable[[Array], float], rng: np.random.Generator) -> str:
    """Look at some single entries of a large gradient, and say how many are wrong and which is worst."""
    entries = rng.permutation(grad.size)[:PROBES]
    truth = np.empty(len(entries))
    for k, entry in enumerate(entries.tolist()):
        u = np.zeros(grad.shape)
        u.flat[entry] = 1
        truth[k] = slope(u)
    found = grad.flat[entries]
    gaps, size = np.abs(found - truth), max(np.abs(found).max(), np.abs(truth).max())
    worst = int(gaps.argmax())
    if gaps[worst] <= SAME * size:
        return f"few of its {grad.size} entries are off, and none of the {len(gaps)} looked at"
    return (
        f"{(gaps > SAME * size).sum()} of {len(gaps)} entries looked at are off, the worst at "
        f"{_index(grad, int(entries[worst]))}: backward gives {found[worst]:.6g}, forward {truth[worst]:.6g}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Kinks
# ---------------------------------------------------------------------------------------------------------------------

_KINK_REMEDY = "Move the values away from ties and zeros, or take a smaller eps."


def _one_sided(
    forward: Forward, arguments: Mapping[str, Array], name: str, dy: Array
) -> Callable[[int, float], tuple[float, float]]:
    """(entry, step) -> the slopes of <dy, f> ahead of that entry and behind it."""
    here = np.asarray(forward(*arguments.values())[0])

    def sides(entry: int, step: float) -> tuple[float, float]:
        u = np.zeros(arguments[name].shape)
        u.flat[entry] = step
        ahead, _ = forward(*_moved(arguments, name, u))
        behind, _ = forward(*_moved(arguments, name, -u))
        return _dot(dy, np.asarray(ahead) - here) / step, _dot(dy, here - np.asarray(behind)) / step

    return sides


def _kink(sides: Callable[[float], tuple[float, float]], eps: float, rounding: float) -> tuple[float, float] | None:
    """The slopes ahead and behind, if a kink lies within eps.

    They differ for a smooth function too, by eps f''. But that shrinks with the step, and what a kink adds does not.
    """
    ahead, behind = sides(eps)
    gap = ahead - behind
    if abs(gap) <= 1e-3 * max(abs(ahead), abs(behind)) + 10 * rounding:
        return None
    closer = sides(eps / 10)
    if abs(closer[0] - closer[1] - gap / 10) <= 0.02 * abs(gap) + 100 * rounding:
        return None
    return ahead, behind


# ---------------------------------------------------------------------------------------------------------------------


def _at(value: Array, entry: int) -> str:
    return f"at {_index(value, entry)}, where it is {value.flat[entry]:.6g}"


def _index(array: Array, entry: int) -> str:
    return f"[{_listed(int(i) for i in np.unravel_index(entry, array.shape))}]"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _moved(arguments: Mapping[str, Array], name: str, by: Array) -> list[Array]:
    return [value + by if key == name else value for key, value in arguments.items()]


def _dot(a: Array, b: Array) -> float:
    return float((a * b).sum())
