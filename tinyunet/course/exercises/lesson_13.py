"""Lesson 13: elastic deformation, momentum and the training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.errors import CheckError
from tinyunet.optim import SGD
from tinyunet.spec import preset
from tinyunet.train import energy
from tinyunet.unet import UNet

# Bicubic interpolation -----------------------------------------------------------------------------------------------


def _keys(t: Array, a: float = -0.5) -> Array:
    """Keys' kernel; a = -1/2 is the usual one."""
    s = np.abs(t)
    inner, outer = (a + 2) * s**3 - (a + 3) * s**2 + 1, a * (s**3 - 5 * s**2 + 8 * s - 4)
    return np.where(s < 1, inner, np.where(s < 2, outer, 0.0))


def _hat(t: Array) -> Array:
    return np.maximum(1 - np.abs(t), 0.0)


def _matrix(n: int, grid: int, kernel: Callable[[Array], Array] = _keys, last: int = 1, repeat: bool = True) -> Array:
    """B[i, k] by loops; `last`: the last node stands on pixel n - last."""
    b = np.zeros((n, grid))
    for i in range(n):
        for k in range(-1, grid + 1):
            if repeat or 0 <= k < grid:
                b[i, min(max(k, 0), grid - 1)] += float(kernel(np.asarray(i * (grid - 1) / (n - last) - k)))
    return b


def _n_grid(draw: Draw) -> dict[str, int]:
    return {"n": draw.integer(6, 20), "grid": draw.integer(3, 5)}


def _endless(t: Array) -> Array:
    s = np.abs(t)
    return np.where(s < 1, _keys(t), -0.5 * (s**3 - 5 * s**2 + 8 * s - 4))


def _kernel(draw: Draw, keys: Callable[[Array], Any], _: object) -> None:
    equals(_keys, lambda draw: {"t": draw.rng.uniform(-3, 3, (4, 6))}, {
        "That is linear interpolation, 1 - |t|. The cubic has two pieces.": _hat,
        "Beyond |t| = 2 the kernel is 0.": _endless,
        "That is the kernel with a = -3/4, as one well-known library has it. Ours has a = -1/2.": lambda t: _keys(t, -0.75),
    }, what="keys(t)")(draw, keys)  # fmt: skip


def _interpolation(draw: Draw, _: object, cubic: Callable[..., Any]) -> None:
    equals(_matrix, _n_grid, {
        "Rows near the edge do not add up to 1: the kernel reaches one node beyond, k = -1 and k = grid. Their share goes to "
        "the outermost node.":
            lambda n, grid: _matrix(n, grid, repeat=False),
        "That is linear interpolation: it has corners at the nodes.": lambda n, grid: _matrix(n, grid, _hat),
        "The last node stands on pixel n - 1, so t = i (grid - 1) / (n - 1).": lambda n, grid: _matrix(n, grid, last=0),
        "Rows are pixels, columns are nodes; yours is the transpose.": lambda n, grid: _matrix(n, grid).T,
    }, what="B")(draw, cubic)  # fmt: skip


INNER, OUTER = "1.5 * s**3 - 2.5 * s**2 + 1", "-0.5 * s**3 + 2.5 * s**2 - 4 * s + 2"
"""The two pieces, as the solution has them."""

exercise(
    "13.cubic",
    "keys(t) -> the kernel, cubic(n, grid) -> B (n, grid), what each node adds to each pixel",
    laws=(_kernel, _interpolation),
    mistakes=(
        Mistake("The cubic has two pieces", edits=((INNER, "1 - s"), (OUTER, "0"))),
        Mistake("Beyond |t| = 2", edits=((f"np.where(s < 2, {OUTER}, 0)", OUTER),)),
        Mistake("as one well-known library has it",
                edits=((INNER, "1.25 * s**3 - 2.25 * s**2 + 1"), (OUTER, "-0.75 * s**3 + 3.75 * s**2 - 6 * s + 3"))),
        Mistake("do not add up to 1", edits=(("range(-1, grid + 1)", "range(grid)"),)),
        Mistake("The last node stands on pixel n - 1", edits=(("(grid - 1) / (n - 1)", "(grid - 1) / n"),)),
        Mistake("B is", edits=(("+= keys(t - k)", "= keys(t - k)"),)),
    ),
)  # fmt: skip

# One field for all ---------------------------------------------------------------------------------------------------


def _reflect(i: int, n: int) -> int:
    """Beyond 0 1 2 comes 1: the edge pixel is not repeated."""
    i = abs(i) % (2 * (n - 1))
    return min(i, 2 * (n - 1) - i)


def _symmetric(i: int, n: int) -> int:
    i %= 2 * n
    return min(i, 2 * n - 1 - i)


def _clamp(i: int, n: int) -> int:
    return min(max(i, 0), n - 1)


def _read(plane: Array, bend: Array, order: int = 1, fold: Callable[[int, int], int] = _reflect, sign: int = 1) -> Array:
    """plane (H, W) at (i + bend[0], j + bend[1]), pixel by pixel: nearest for order 0, else linear."""
    height, width = plane.shape
    y = np.zeros(plane.shape)
    for i, j in np.ndindex(plane.shape):
        r, s = i + sign * bend[0, i, j], j + sign * bend[1, i, j]
        if order == 0:
            y[i, j] = plane[fold(math.floor(r + 0.5), height), fold(math.floor(s + 0.5), width)]
            continue
        r0, s0 = math.floor(r), math.floor(s)
        for a, b in np.ndindex(2, 2):
            share = (1 - abs(r - r0 - a)) * (1 - abs(s - s0 - b))
            y[i, j] += share * plane[fold(r0 + a, height), fold(s0 + b, width)]
    return y


FIELD: Mapping[str, Callable[[Array, Array, int], Array]] = {
    "The displacement has the wrong sign: read at the pixel's place *plus* the field.": lambda p, b, o: _read(p, b, o, sign=-1),
    "Rows and columns of the field are exchanged: bend[0] is along rows.": lambda p, b, o: _read(p, b[::-1], o),
    "Beyond the edge the edge pixel is repeated. That is SciPy's \"reflect\"; NumPy's \"reflect\" is called \"mirror\" there.":
        lambda p, b, o: _read(p, b, o, _symmetric),
    "Beyond the edge all stands still (\"nearest\"). It is to continue as in a mirror: mode=\"mirror\".":
        lambda p, b, o: _read(p, b, o, _clamp),
    "It is not moved at all.": lambda p, b, o: p,
}  # fmt: skip
"""hint -> a wrong way to read a plane"""


def _warp(draw: Draw, warp: Callable[..., Any]) -> None:
    """Image linear, labels nearest, weights linear, all at the same places; beyond the edge a mirror."""
    shape = (draw.integer(8, 11), draw.integer(12, 15))
    image = draw.rng.uniform(0, 200, (*shape, 2))
    labels = draw.rng.choice(np.array([0, 2, 7]), shape)
    weights = draw.rng.uniform(1, 10, shape)
    bend = draw.rng.uniform(-2.4, 2.4, (2, *shape))
    kept = [a.copy() for a in (image, labels, weights, bend)]
    found = warp(image, labels, weights, bend)
    if not isinstance(found, tuple) or len(found) != 3:
        raise CheckError("Return three arrays: image, labels, weights.")
    if not all(np.array_equal(a, b) for a, b in zip((image, labels, weights, bend), kept, strict=True)):
        raise CheckError("Your code changes an array that it was given. Work on copies.")
    planes, ys, ws = map(np.asarray, found)
    _compare("the image", planes, np.stack([_read(image[..., c], bend) for c in range(2)], axis=2), image, bend, 1)
    if strange := sorted(set(np.unique(ys).tolist()) - {0, 2, 7}):
        raise CheckError(f"The labels were 0, 2 and 7, and now there is a {strange[0]:g} as well. Interpolation makes classes "
                         "up: labels are taken from the nearest pixel, order=0.")  # fmt: skip
    if ys.dtype.kind not in "iu":
        raise CheckError(f"The labels are {ys.dtype} now, expected integers as before.")
    _compare("labels", ys, _read(labels, bend, 0), labels, bend, 0)
    _compare("weights", ws, _read(weights, bend), weights, bend, 1)


def _nearest(plane: Array, bend: Array, _: int) -> Array:
    return _read(plane, bend, 0)


def _compare(what: str, found: Array, expected: Array, source: Array, bend: Array, order: int) -> None:
    if not (wrong := difference(what, found, expected, 1e-6)):
        return
    source = source if source.ndim == 3 else source[..., None]
    ways = {**FIELD, "Take linear interpolation here, order=1: the nearest pixel gives steps.": _nearest}
    for hint, way in ways.items():
        other = np.stack([way(source[..., c], bend, order) for c in range(source.shape[2])], axis=2).reshape(expected.shape)
        if not difference(what, found, other, 1e-6):
            raise CheckError(f"{wrong}\nHint: {hint}")
    if found.max() > source.max() or (found < source.min()).any():
        wrong += "\nHint: It goes beyond the values that were there, as a cubic spline does at edges. Take order=1."
    raise CheckError(wrong)


exercise(
    "13.warp",
    "warp(image, labels, weights, bend) -> the three, read where the field points",
    laws=(_warp,),
    mistakes=(
        Mistake("Interpolation makes classes up", edits=(("labels, at, order=0", "labels, at, order=1"),)),
        Mistake("the wrong sign", edits=(("np.indices(labels.shape) + bend", "np.indices(labels.shape) - bend"),)),
        Mistake("Rows and columns of the field are exchanged", edits=(("+ bend", "+ bend[::-1]"),)),
        Mistake("SciPy's \"reflect\"", edits=(('c], at, order=1, mode="mirror"', 'c], at, order=1, mode="reflect"'),)),
        Mistake("the nearest pixel gives steps", edits=(("weights, at, order=1", "weights, at, order=0"),)),
        Mistake("It is not moved at all", edits=(("w = map_coordinates(weights, at,", "w = weights; map_coordinates(w, at,"),)),
        Mistake("as a cubic spline does", edits=(("c], at, order=1", "c], at, order=3"),)),
        Mistake("the image is", edits=(('c], at, order=1, mode="mirror"', "c], at, order=1"),)),
        Mistake("expected integers as before", edits=(("(labels, at,", "(labels.astype(float), at,"),)),
    ),
)  # fmt: skip

# Momentum ------------------------------------------------------------------------------------------------------------


def _plain(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    v = mu * v + g
    return w - lr * v, v


def _damped(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    v = mu * v + (1 - mu) * g
    return w - lr * v, v


def _uphill(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    v = mu * v + g
    return w + lr * v, v


def _nesterov(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    v = mu * v + g
    return w - lr * (g + mu * v), v


def _late(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    return w - lr * v, mu * v + g


def _forgetful(w: Array, v: Array, g: Array, lr: float, mu: float) -> tuple[Array, Array]:
    return w - lr * (mu * v + g), v


RULES: Mapping[str, Callable[..., tuple[Array, Array]]] = {
    "You add (1 - mu) g. That is an average, and with mu = 0.99 each step is a hundredth of what it should be.": _damped,
    "You walk uphill: w - lr v.": _uphill,
    "That is Nesterov's variant, which looks ahead. Here w - lr v, with the new v.": _nesterov,
    "w moves by the old velocity. First make v new, then move w.": _late,
    "The velocity is not kept: velocity[name] must hold the new v afterwards, for the next step.": _forgetful,
}


def _momentum(draw: Draw, momentum_step: Callable[..., Any]) -> None:
    """Four steps of two parameters, seen through the arrays that somebody else holds."""
    lr, mu = 0.1, draw.choice((0.9, 0.99))
    shapes = {"conv.w": (3, 3, 2, 2), "conv.b": (2,)}
    params = {name: draw.rng.standard_normal(shape) for name, shape in shapes.items()}
    velocity = {name: np.zeros(shape) for name, shape in shapes.items()}
    held, start = dict(params), {name: w.copy() for name, w in params.items()}
    gradients = [{name: draw.rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(4)]
    for grads in gradients:
        given = {name: g.copy() for name, g in grads.items()}
        momentum_step(params, given, velocity, lr, mu)
        if any(not np.array_equal(given[name], g) for name, g in grads.items()):
            raise CheckError("Your code changes the gradients. They belong to the layers: leave them.")

    def after(rule: Callable[..., tuple[Array, Array]], name: str) -> Array:
        w, v = start[name], np.zeros(shapes[name])
        for grads in gradients:
            w, v = rule(w, v, grads[name], lr, mu)
        return w

    for name in shapes:
        if wrong := difference(f"after four steps, params[{name!r}]", params[name], after(_plain, name)):
            hints = (f"\nHint: {hint}" for hint, rule in RULES.items() if not difference("", params[name], after(rule, name)))
            raise CheckError(wrong + next(hints, ""))
        if params[name] is not held[name]:
            raise CheckError(f"The numbers are right, but params[{name!r}] is a new array, and the layer still holds the old "
                             "one: the network would never learn. In place: w -= ..., not params[name] = w - ...")  # fmt: skip


exercise(
    "13.momentum",
    "momentum_step(params, grads, velocity, lr, mu): changes params and velocity in place",
    laws=(_momentum,),
    mistakes=(
        Mistake("That is an average", edits=(("v += grads[name]", "v += (1 - mu) * grads[name]"),)),
        Mistake("uphill", edits=(("w -= lr * v", "w += lr * v"),)),
        Mistake("Nesterov", edits=(("w -= lr * v", "w -= lr * (grads[name] + mu * v)"),)),
        Mistake("is a new array", edits=(("w -= lr * v", "params[name] = w - lr * v"),)),
        Mistake("w moves by the old velocity", edits=(("        v *= mu\n        v += grads[name]\n        w -= lr * v",
                                                       "        w -= lr * v\n        v *= mu\n        v += grads[name]"),)),
        Mistake("The velocity is not kept", edits=(("v = velocity[name]", "v = velocity[name].copy()"),)),
        Mistake("changes the gradients", edits=(("v += grads[name]", "grads[name] += v\n        v[...] = grads[name]"),)),
    ),
)  # fmt: skip

# The step ------------------------------------------------------------------------------------------------------------

Step = Callable[[Any, Any, Array, Array, Array], Any]


def _step(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    loss, dlogits = energy(model.forward(x), labels, weights)
    model.backward(dlogits)
    optimizer.step()
    model.zero_grad()
    return loss


def _never_zero(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    loss, dlogits = energy(model.forward(x), labels, weights)
    model.backward(dlogits)
    optimizer.step()
    return loss


def _zero_too_soon(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    return energy(model.forward(x), labels, weights)[0]


def _unweighted(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    return _step(model, optimizer, x, labels, np.ones_like(weights))


def _softmax_twice(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    loss, dlogits = energy(ops.softmax(model.forward(x)), labels, weights)
    model.backward(dlogits)
    optimizer.step()
    model.zero_grad()
    return loss


def _step_first(model: Any, optimizer: Any, x: Array, labels: Array, weights: Array) -> float:
    loss, dlogits = energy(model.forward(x), labels, weights)
    optimizer.step()
    model.zero_grad()
    model.backward(dlogits)
    return loss


STEPS: Mapping[str, Step] = {
    "Gradients add up, and yours are never set to zero: each step drags the earlier ones along. zero_grad()": _never_zero,
    "No weight moves. Are the gradients set to zero before the optimizer has looked? Is step() missing?": _zero_too_soon,
    "The weight map is not used.": _unweighted,
    "The loss gets probabilities. It takes the logits as they are; softmax is inside.": _softmax_twice,
    "The optimizer steps before backward, by the gradients of the last time. First backward, then step.": _step_first,
}


def _train_step(draw: Draw, train_step: Step) -> None:
    """Three steps of a small network."""
    seed = draw.integer(0, 10**6)
    batches = []
    for _ in range(3):
        x = draw.rng.standard_normal((1, 20, 22, 1))
        batches.append((x, draw.rng.integers(0, 2, (1, 4, 6)), draw.rng.uniform(1, 10, (1, 4, 6))))

    def run(step: Step) -> tuple[list[Any], dict[str, Array]]:
        model = UNet(preset("paper", base=3, depth=1, dropout=0), rng=seed).astype("float64")
        optimizer = SGD(model, lr=0.05, momentum=0.9)
        losses = [step(model, optimizer, x.copy(), labels.copy(), weights.copy()) for x, labels, weights in batches]
        return losses, {name: w.copy() for name, w in model.params().items()}

    def apart(one: dict[str, Array], two: dict[str, Array]) -> str:
        gaps = (difference(f"after three steps, {name}", one[name], two[name], 1e-7) for name in two)
        return next(filter(None, gaps), "")

    losses, found = run(train_step)
    right, expected = run(_step)
    wrong = apart(found, expected)
    if wrong or any(loss is None for loss in losses) or difference("the loss", losses, right, 1e-7):
        hints = (f"\nHint: {hint}" for hint, step in STEPS.items() if not apart(found, run(step)[1]))
        if wrong:
            raise CheckError(wrong + next(hints, ""))
        raise CheckError(f"The weights move as they should, but the losses returned are {losses}, expected {right}.")


exercise(
    "13.step",
    "train_step(model, optimizer, x, labels, weights) -> the loss, after one step",
    laws=(_train_step,),
    mistakes=(
        Mistake("each step drags the earlier ones along", edits=(("    model.zero_grad()\n", ""),)),
        Mistake("before the optimizer has looked",
                edits=(("    model.zero_grad()\n", ""), ("    optimizer", "    model.zero_grad()\n    optimizer"))),
        Mistake("The weight map is not used", edits=(("(logits, labels, weights)", "(logits, labels, None)"),)),
        Mistake("softmax is inside", edits=(("tu.energy(logits", "tu.energy(tu.ops.softmax(logits)"),)),
        Mistake("First backward, then step",
                edits=(("    model.backward(dlogits)\n", ""), ("    return", "    model.backward(dlogits)\n    return"))),
        Mistake("the losses returned are", edits=(("return loss", "return dlogits"),)),
    ),
)  # fmt: skip
