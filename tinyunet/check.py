"""Checks of hand-written backward passes, for tests, for lessons, and for anyone who adds an op.

An op is a pair, with one gradient for every argument, in the same order:

    y, ctx = forward(x, w, b)
    dx, dw, db = backward(dy, ctx)

Three questions can be asked of it. `check_grad` takes differences, and works for anything smooth. `check_complex_step` needs a
forward pass that takes complex numbers, and is exact to rounding. `check_adjoint` is for linear maps, and needs no derivative.

The gradient dy of the output is always drawn at random. With ones, the usual choice, softmax and batch norm have gradient zero,
and a backward pass that returns nothing but zeros would pass. No check of this kind sees a forward pass that is wrong
together with its backward pass, a flipped kernel for instance: forward needs a reference of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import CheckError, DTypeError

Forward = Callable[..., tuple[Any, Any]]
"""forward(*arguments) -> (y, ctx)"""

Backward = Callable[[Any, Any], Any]
"""backward(dy, ctx) -> one gradient, or a tuple with one for every argument"""

ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Allowed error of a sum, relative to the sum of the absolute values of what is added."""

PROBES = 50
"""How many entries of a wrong gradient are looked at one by one, to say where it is wrong."""


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

    Raises CheckError that names the argument and how its gradient is wrong (zero, wrong sign, a constant factor, some
    entries), or says that a kink lies within eps; DTypeError for arguments that are not float64.
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
                f"and {half:.9g} with half of it. Move the values away from ties and zeros, or take a smaller eps."
            )

    rounding = ROUNDING * float(np.abs(dy * y).sum()) / eps
    return {
        name: _judge(f"check_grad: the gradient of {name!r}", grad, y, partial(slope, name), rng, directions, rtol, rounding,
                     partial(refuse_kink, name))
        for name, grad in grads.items()
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
    return {
        name: _judge(f"check_complex_step: the gradient of {name!r}", grad, y, partial(slope, name), rng, directions, rtol,
                     rounding)
        for name, grad in grads.items()
    }


def check_adjoint(
    forward: Callable[[Array], Array], backward: Callable[[Array], Array], x: Array, y: Array, *, rtol: float = 1e-12
) -> float:
    """<A x, y> = <x, A^T y>   for a linear map A = forward and its adjoint A^T = backward

    The backward pass of a linear op is its adjoint, and this tells without any derivative. Take x and y at random.

    -> the error relative to the sum of absolute products

    Raises CheckError with both numbers if they differ by more than rtol times that sum.
    """
    ax, aty = np.asarray(forward(x)), np.asarray(backward(y))
    if ax.shape != y.shape or aty.shape != x.shape:
        raise CheckError(
            f"check_adjoint: forward makes {ax.shape} of {x.shape} and backward makes {aty.shape} of {y.shape}. "
            "Backward must go the other way: from the shape of forward's result to the shape of x."
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
        if value.dtype != np.float64:
            raise DTypeError(f"{who}: {name!r} is {value.dtype}. Give float64, float32 has too few digits for a gradient check.")
    result, ctx = forward(*arguments.values())
    y = np.asarray(result)
    if y.dtype != np.float64:
        raise CheckError(f"{who}: forward made {y.dtype} of float64 arguments. Something on the way casts; keep the dtype.")
    dy = rng.standard_normal(y.shape)
    grads = backward(dy.copy(), ctx)
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(arguments):
        raise CheckError(
            f"{who}: backward returned {len(grads)} gradients for {len(arguments)} arguments ({', '.join(arguments)}). "
            "Return one for each, in the order of forward's arguments."
        )
    for (name, value), grad in zip(arguments.items(), grads, strict=True):
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


def _judge(
    what: str,
    grad: Array,
    y: Array,
    slope: Callable[[Array], float],
    rng: np.random.Generator,
    directions: int,
    rtol: float,
    rounding: float,
    refuse_kink: Callable[[Array], None] | None = None,
) -> float:
    """Compare one gradient with the slope of forward along random directions; -> the largest relative error.

    A component along a random direction is about as large as the norm of the gradient, and by chance much smaller. So errors
    are measured by the norm.
    """
    moves = [rng.standard_normal(grad.shape) for _ in range(directions)]
    analytic, numeric = [_dot(grad, u) for u in moves], [slope(u) for u in moves]
    gaps = [abs(a - b) for a, b in zip(analytic, numeric, strict=True)]
    scale = max(float(np.linalg.norm(grad)), *map(abs, numeric))
    worst = int(np.argmax(gaps))
    if gaps[worst] <= rtol * scale + rounding:
        return gaps[worst] / scale if scale else 0.0
    if refuse_kink:
        refuse_kink(moves[worst])
    how = _factor(analytic, numeric, y if y.ndim == 4 else grad) if grad.any() else "it is zero everywhere, and should not be"
    raise CheckError(
        f"{what} is wrong: {how or _entries(grad, slope, rng)}. Along a random direction backward gives "
        f"{analytic[worst]:.9g}, and forward {numeric[worst]:.9g}."
    )


def _factor(analytic: list[float], numeric: list[float], sized: Array) -> str | None:
    """Say so if the gradient is right but for a sign or a constant, and whether that constant is a size of the array."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array(analytic) / np.array(numeric)
    factor = float(ratios[0])
    if len(ratios) < 2 or not np.isfinite(ratios).all() or np.ptp(ratios) > 1e-5 * abs(factor):
        return None
    if abs(factor + 1) < 1e-5:
        return "it has the wrong sign"
    amount, way = (abs(factor), "large") if abs(factor) > 1 else (1 / abs(factor), "small")
    what = next((what for size, what in _sizes(sized) if size > 1 and abs(amount - size) < 1e-5 * size), "")
    return f"it is {amount:.7g} times too {way}{what}{' and has the wrong sign' if factor < 0 else ''}"


def _sizes(array: Array) -> list[tuple[int, str]]:
    """Numbers that a gradient gets divided by, or fails to be."""
    if array.ndim != 4:
        return []
    n, height, width, channels = array.shape
    return [
        (n, ", the number of images"),
        (height * width, ", the number of pixels"),
        (n * height * width, ", the number of pixels of all images"),
        (channels, ", the number of channels"),
        (array.size, ", the number of values"),
    ]


def _entries(grad: Array, slope: Callable[[Array], float], rng: np.random.Generator) -> str:
    """Look at single entries, all of them if there are few, and say how many are wrong and which is worst."""
    backward, forward = {}, {}
    for entry in rng.permutation(grad.size)[:PROBES].tolist():
        u = np.zeros(grad.shape)
        u.flat[entry] = 1
        backward[entry], forward[entry] = float(grad.flat[entry]), slope(u)
    size = max(map(abs, (*backward.values(), *forward.values())))
    gaps = {entry: abs(backward[entry] - forward[entry]) for entry in backward}
    worst = max(gaps, key=lambda entry: gaps[entry])
    if gaps[worst] < 1e-5 * size:
        return f"few of its {grad.size} entries are off, and none of the {len(gaps)} looked at"
    index = ", ".join(str(int(i)) for i in np.unravel_index(worst, grad.shape))
    return (
        f"{sum(gap > 1e-5 * size for gap in gaps.values())} of {len(gaps)} entries looked at are off, the worst at [{index}]: "
        f"backward gives {backward[worst]:.6g}, forward {forward[worst]:.6g}"
    )


def _moved(arguments: Mapping[str, Array], name: str, by: Array) -> list[Array]:
    return [value + by if key == name else value for key, value in arguments.items()]


def _dot(a: Array, b: Array) -> float:
    return float((a * b).sum())
