"""The CUDA kernels held to the operations that they stand for: forward and every gradient agree with float64.

On a GPU, or emulated and watched: then each access of each thread is looked at as well, for races, missing barriers, bounds and
values that were never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import numpy as np

from tinyunet import cuda, ladder, ops
from tinyunet.backend import Array, move, to_numpy
from tinyunet.cuda.rungs import CONV, UPCONV
from tinyunet.optim import SGD, Adam, Optimizer

KernelDevice = Literal["cuda", "emulator"]
Place = Callable[[Array], Array]
"""Brings an array of the host to where the kernels run."""

Pairs = Iterator[tuple[Array, Array]]
"""What kernels gave, and what they should have."""

BOUNDS = {"3xtf32": 5e-6, "tf32": 6e-4, "": 2e-6}
"""Largest ||y - exact|| / ||exact||, by what stands in a rung's name; float32 where nothing does."""

# N, H, W, C, O, pad: sizes that are no multiples of a tile, one pixel, a channel, and groups of four for the wide loads. Enough
# values for a norm: of a single TF32 product the error may be 1e-3, and more beside a bias that cancels it.
CONV_SHAPES = ((2, 7, 9, 5, 6, 1), (1, 3, 4, 1, 9, 0), (3, 1, 1, 3, 7, 1), (1, 6, 5, 8, 12, 0))
UPCONV_SHAPES = ((2, 3, 5, 6, 3), (1, 4, 3, 1, 5), (3, 1, 1, 5, 3), (1, 4, 3, 8, 4))
MAP_SHAPES = ((2, 6, 10, 5), (1, 2, 2, 1), (3, 4, 4, 8))


class KernelOutcome(NamedTuple):
    """What became of one kernel: of all its directions, on all shapes."""

    op: str
    rung: str  # "" for operations that have no ladder
    launches: int  # that were watched, or 0 on a GPU
    error: float  # the largest, relative to `bound`: fine up to 1
    bound: float
    problems: tuple[str, ...]  # what the emulator, or an exception, said

    @property
    def ok(self) -> bool:
        """Whether all agreed and nothing was found."""
        return self.error <= 1 and not self.problems


def kernel_names() -> list[tuple[str, str]]:
    """Every operation that has kernels, with its rungs; "" for the only one: what `check_kernel` takes."""
    convs, upconvs = ([rung.name for rung in rungs] for rungs in (CONV, UPCONV))
    return [*(("conv3x3", name) for name in convs), *(("upconv2x2", name) for name in upconvs), *((op, "") for op in _MAPS)]


def check_kernel(op: str, rung: str, device: KernelDevice, seed: int = 0) -> KernelOutcome:
    """Run a kernel on small arrays and hold what it gives to the formulas in float64."""
    bound = next(limit for word, limit in BOUNDS.items() if word in rung)
    errors, problems, launches = [0.0], [], 0
    emulate = device == "emulator"
    with cuda.emulated(mode="check") if emulate else nullcontext() as run:
        place: Place = (lambda a: a) if emulate else (lambda a: move(a, "cuda"))
        try:
            for found, exact in _compared(op, rung, place, np.random.default_rng(seed)):
                errors.append(relative_error(found, exact) / bound)
        except Exception as error:  # of a kernel that cannot run: the others shall be checked all the same
            problems.append(f"{type(error).__name__}: {error}")
    if run is not None:
        launches = len(run.reports)
        problems += [str(report) for report in run.problems]
    return KernelOutcome(op, rung, launches, max(errors), bound, tuple(problems))


def relative_error(found: Array, exact: Array) -> float:
    """||found - exact|| / ||exact||, infinite where a value is not finite"""
    found, exact = to_numpy(found).astype(np.float64), np.asarray(exact, np.float64)
    if found.shape != exact.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - exact)) / max(float(np.linalg.norm(exact)), 1e-30)


def _compared(op: str, rung: str, place: Place, rng: np.random.Generator) -> Pairs:
    """What the kernels give, and what they should, of every direction and shape."""
    if op in _MAPS:
        for shape in MAP_SHAPES:
            yield from _MAPS[op](shape, place, rng)
        return
    with ladder.rung(**{op: rung}):
        for sizes in CONV_SHAPES if op == "conv3x3" else UPCONV_SHAPES:
            if rung == "first_layer" and sizes[3] > 4:
                continue
            yield from _conv(sizes, place, rng) if op == "conv3x3" else _upconv(sizes, place, rng)


def _draw(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def _conv(sizes: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    n, height, width, c, o, pad = sizes
    x, w, b = _draw(rng, n, height, width, c), _draw(rng, 3, 3, c, o), _draw(rng, o)
    dy = _draw(rng, n, height + 2 * pad - 2, width + 2 * pad - 2, o)
    padding: Any = "same" if pad else "valid"
    yield from _both(lambda x, w, b: ops.conv2d_forward(x, w, b, padding), ops.conv2d_backward, (x, w, b), dy, place)


def _upconv(sizes: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    n, height, width, c, o = sizes
    x, w, b, dy = _draw(rng, n, height, width, c), _draw(rng, 2, 2, o, c), _draw(rng, o), _draw(rng, n, 2 * height, 2 * width, o)
    yield from _both(ops.upconv_forward, ops.upconv_backward, (x, w, b), dy, place)


def _both(forward: Callable[..., Any], backward: Callable[..., Any], arguments: tuple[Array, ...], dy: Array,
          place: Place) -> Pairs:  # fmt: skip
    """An op on the device in float32, and on the host in float64: y and all gradients."""
    y, ctx = forward(*map(place, arguments))
    gradients = backward(place(dy), ctx)
    with ladder.rung(conv3x3="taps", upconv2x2="gemm"):
        exact_y, ctx = forward(*(a.astype(np.float64) for a in arguments))
        exact = backward(dy.astype(np.float64), ctx)
    yield y, exact_y
    yield from zip(*(g if isinstance(g, tuple) else (g,) for g in (gradients, exact)), strict=True)


def _relu(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    yield from _both(ops.relu_forward, ops.relu_backward, (_draw(rng, *shape),), _draw(rng, *shape), place)


def _pool(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    n, height, width, c = shape
    x = rng.integers(-2, 3, shape).astype(np.float32)  # with ties, of which the first must win
    yield from _both(ops.max_pool_forward, ops.max_pool_backward, (x,), _draw(rng, n, height // 2, width // 2, c), place)


def _norm(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    x, gamma, beta, dy = 2 + _draw(rng, *shape), _draw(rng, shape[3]), _draw(rng, shape[3]), _draw(rng, *shape)
    yield from _both(ops.batch_norm_forward, ops.batch_norm_backward, (x, gamma, beta), dy, place)
    mean, var = _draw(rng, shape[3]), _draw(rng, shape[3]) ** 2
    yield from _both(ops.batch_norm_eval_forward, ops.batch_norm_eval_backward, (x, gamma, beta, mean, var), dy, place)


def _crop(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    n, height, width, c = shape
    up, skip, dy = _draw(rng, *shape), _draw(rng, n, height + 3, width + 4, 2 * c), _draw(rng, n, height, width, 3 * c)
    yield from _both(ops.crop_concat_forward, ops.crop_concat_backward, (up, skip), dy, place)


def _head(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    for classes in (1, 2, 3):
        x, w, b = _draw(rng, *shape), _draw(rng, 1, 1, shape[3], classes), _draw(rng, classes)
        yield from _both(ops.conv2d_forward, ops.conv2d_backward, (x, w, b), _draw(rng, *shape[:3], classes), place)


def _optimizers(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Pairs:
    class One:
        """A model of one parameter."""

        def __init__(self, w: Array) -> None:
            self.w, self.g = w, np.zeros_like(w)

        def params(self) -> dict[str, Array]:
            return {"w": self.w}

        def grads(self) -> dict[str, Array]:
            return {"w": self.g}

    w, gradients = _draw(rng, *shape), [_draw(rng, *shape) for _ in range(3)]
    kind: Callable[..., Optimizer]
    for kind in (SGD, Adam):
        found, exact = One(place(w.copy())), One(w.astype(np.float64))
        steps = [(model, kind(model, lr=0.1, weight_decay=0.01)) for model in (found, exact)]
        for g in gradients:
            for model, optimizer in steps:
                model.g = place(g) if model is found else g.astype(np.float64)
                optimizer.step()
        yield found.w, exact.w


_MAPS = {"relu": _relu, "max_pool": _pool, "batch_norm": _norm, "crop_concat": _crop, "head": _head, "optimizers": _optimizers}
