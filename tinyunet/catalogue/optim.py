"""Properties of optimizers and learning-rate schedules: closed forms, recurrences written out for single numbers, resuming."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import get_args

import numpy as np

from tinyunet import optim
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.errors import ConfigError
from tinyunet.optim import Optimizer, ScheduleName

Make = Callable[["Toy"], Optimizer]


class Toy:
    """A model of one weight matrix and one bias, with gradients to be set."""

    def __init__(self, draw: Draw) -> None:
        self.arrays = {"w": draw.rng.standard_normal((3, 2)), "b": draw.rng.standard_normal(2)}
        self.slopes = {name: np.zeros_like(value) for name, value in self.arrays.items()}

    def params(self) -> dict[str, Array]:
        """The weights."""
        return self.arrays

    def grads(self) -> dict[str, Array]:
        """Their gradients."""
        return self.slopes

    def copy(self) -> dict[str, Array]:
        """The weights as they are now."""
        return {name: value.copy() for name, value in self.arrays.items()}


def gradients(draw: Draw, steps: int) -> list[dict[str, Array]]:
    """Random gradients for so many steps."""
    return [{"w": draw.rng.standard_normal((3, 2)), "b": draw.rng.standard_normal(2)} for _step in range(steps)]


def run(model: Toy, optimizer: Optimizer, path: list[dict[str, Array]]) -> None:
    """One step for each gradient."""
    for grads in path:
        for name, g in grads.items():
            model.slopes[name][...] = g
        optimizer.step()


def either(draw: Draw) -> Make:
    """SGD or Adam, with drawn settings."""
    lr, decay = draw.integer(1, 9) / 20, draw.integer(0, 2) / 10
    momentum, beta1, beta2 = (draw.integer(0, 9) / 10 for _number in range(3))
    if draw.integer(0, 1):
        return lambda model: optim.SGD(model, lr, momentum, decay)
    return lambda model: optim.Adam(model, lr, beta1, beta2, weight_decay=decay)


@holds("optim", "reference")
def sgd_is_its_recurrence(_: None, draw: Draw) -> None:
    """v <- m v + g (+ lambda w for weights), w <- w - lr v, written out for single numbers."""
    lr, m, decay = draw.integer(1, 9) / 10, draw.integer(0, 9) / 10, draw.integer(0, 3) / 10
    model, path = Toy(draw), gradients(draw, draw.integer(1, 6))
    expected = model.copy()
    run(model, optim.SGD(model, lr, m, decay), path)
    for name, numbers in expected.items():
        for place in np.ndindex(numbers.shape):
            w, v = float(numbers[place]), 0.0
            for grads in path:
                v = m * v + float(grads[name][place]) + (decay * w if name == "w" else 0.0)
                w -= lr * v
            numbers[place] = w
        require_close(f"{name} after {len(path)} steps of SGD", model.arrays[name], numbers)


@holds("optim", "reference")
def momentum_sums_a_geometric_series(_: None, draw: Draw) -> None:
    """Under a constant gradient w moves by lr g sum over t of (1 - m^t) / (1 - m): in the end by lr / (1 - m) a step."""
    m, steps, lr = draw.integer(0, 99) / 100, draw.integer(1, 20), 0.1
    model, path = Toy(draw), gradients(draw, 1) * steps
    start = model.copy()
    run(model, optim.SGD(model, lr, m), path)
    total = sum((1 - m**t) / (1 - m) for t in range(1, steps + 1))
    for name, w in start.items():
        require_close(f"{name} after {steps} equal gradients", model.arrays[name], w - lr * total * path[0][name])


@holds("optim", "reference")
def adam_is_algorithm_1(_: None, draw: Draw) -> None:
    """Adam is algorithm 1 of Kingma and Ba, bias corrections and all, written out for single numbers."""
    lr, b1, b2, eps, decay = 0.1, draw.integer(0, 9) / 10, draw.integer(1, 99) / 100, 1e-3, draw.integer(0, 3) / 10
    model, path = Toy(draw), gradients(draw, draw.integer(1, 6))
    expected = model.copy()
    run(model, optim.Adam(model, lr, b1, b2, eps, decay), path)
    for name, numbers in expected.items():
        for place in np.ndindex(numbers.shape):
            w, m, s = float(numbers[place]), 0.0, 0.0
            for t, grads in enumerate(path, start=1):
                g = float(grads[name][place]) + (decay * w if name == "w" else 0.0)
                m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g * g
                w -= lr * (m / (1 - b1**t)) / (math.sqrt(s / (1 - b2**t)) + eps)
            numbers[place] = w
        require_close(f"{name} after {len(path)} steps of Adam", model.arrays[name], numbers, rtol=1e-10)


@holds("optim", "convention")
def adam_starts_with_a_full_step(_: None, draw: Draw) -> None:
    """The first step of Adam moves every weight by lr against the sign of its gradient, however large that is."""
    model, path, size = Toy(draw), gradients(draw, 1), 10.0 ** draw.integer(-3, 3)
    start = model.copy()
    path[0] = {name: size * (g + np.sign(g)) for name, g in path[0].items()}  # away from 0, where eps counts
    run(model, optim.Adam(model, lr=0.1), path)
    for name, w in start.items():
        require_close(f"{name} after a step", model.arrays[name], w - 0.1 * np.sign(path[0][name]), rtol=1e-4)


@holds("optim", "convention")
def weights_decay_and_biases_do_not(_: None, draw: Draw) -> None:
    """With gradients of zero SGD shrinks weights by 1 - lr lambda a step, and leaves everything of one dimension alone."""
    lr, decay, steps = 0.5, draw.integer(1, 9) / 10, draw.integer(1, 5)
    model = Toy(draw)
    start = model.copy()
    run(model, optim.SGD(model, lr, momentum=0.0, weight_decay=decay), [{} for _step in range(steps)])
    require_close("the weight", model.arrays["w"], start["w"] * (1 - lr * decay) ** steps)
    require_close("the bias", model.arrays["b"], start["b"], rtol=0)


@holds("optim", "contract")
def a_resumed_optimizer_goes_on(_: None, draw: Draw) -> None:
    """State and number of steps, put into a new optimizer, continue as if nothing had happened, bit for bit."""
    make, path, k = either(draw), gradients(draw, 6), draw.integer(0, 6)
    whole = Toy(draw)
    first, second = Toy(draw), Toy(draw)
    first.arrays = whole.copy()
    run(whole, make(whole), path)
    before = make(first)
    run(first, before, path[:k])
    second.arrays = first.copy()
    after = make(second)
    after.load_state({name: a.copy() for name, a in before.state().items()}, before.steps)
    run(second, after, path[k:])
    require(after.steps == 6, f"the optimizer counts {after.steps} steps, expected 6")
    for name, w in whole.arrays.items():
        require_close(f"{name}, resumed after {k} of 6 steps", second.arrays[name], w, rtol=0)


@holds("optim", "contract")
def the_model_keeps_its_arrays(_: None, draw: Draw) -> None:
    """A step writes into the model's own weights, keeps their dtype, and leaves the gradients alone."""
    model = Toy(draw)
    dtype = draw.choice(("float32", "float64"))
    model.arrays = {name: a.astype(dtype) for name, a in model.arrays.items()}
    model.slopes = {name: draw.rng.standard_normal(a.shape).astype(dtype) for name, a in model.arrays.items()}
    arrays, slopes, start = dict(model.arrays), {name: g.copy() for name, g in model.slopes.items()}, model.copy()
    optimizer = either(draw)(model)
    optimizer.step()
    for name, a in arrays.items():
        require(model.arrays[name] is a and bool((a != start[name]).all()), f"{name} was replaced, or did not move")
        require_close(f"the gradient of {name} after a step", model.slopes[name], slopes[name], rtol=0)
    for name, a in {**arrays, **optimizer.state()}.items():
        require(a.dtype == dtype, f"{name} became {a.dtype}, expected {dtype}")


@holds("optim", "convention")
def the_learning_rate_is_read_at_every_step(_: None, draw: Draw) -> None:
    """A learning rate set between two steps counts for the next: twice the rate, twice the way."""
    make, path, model = either(draw), gradients(draw, 2), Toy(draw)
    start, moves = model.copy(), []
    for factor in (1, 2):
        model.arrays = {name: a.copy() for name, a in start.items()}
        optimizer = make(model)
        run(model, optimizer, path[:1])
        before = model.copy()
        optimizer.lr *= factor
        run(model, optimizer, path[1:])
        moves.append(model.arrays["w"] - before["w"])
    require_close("the second step at twice the rate", moves[1], 2 * moves[0], rtol=1e-10)


@holds("optim", "invariance")
def both_find_the_bottom(_: None, draw: Draw) -> None:
    """On half the squared distance to a target, four hundred steps end near it."""
    model, target = Toy(draw), gradients(draw, 1)[0]
    optimizer: Optimizer = optim.Adam(model, 0.05) if draw.integer(0, 1) else optim.SGD(model, 0.05, momentum=0.8)
    for _step in range(400):
        run(model, optimizer, [{name: w - target[name] for name, w in model.arrays.items()}])
    gap = max(float(np.abs(w - target[name]).max()) for name, w in model.arrays.items())
    require(gap < 0.05, f"{type(optimizer).__name__} ends {gap:.3g} from the minimum")


# Schedules -----------------------------------------------------------------------------------------------------------

NAMES: tuple[ScheduleName, ...] = get_args(ScheduleName)


@holds("schedule", "reference")
def schedules_are_their_closed_forms(_: None, draw: Draw) -> None:
    """With t = step / steps: 1; (1 + cos pi t) / 2; (1 - t)^0.9; and 1, then 0.1 from 1/2 on, then 0.01 from 3/4 on."""
    steps = draw.integer(1, 200)
    step = draw.integer(0, steps - 1)
    t = step / steps
    stairs = 1.0 if 2 * step < steps else 0.1 if 4 * step < 3 * steps else 0.01
    expected = {"constant": 1.0, "cosine": math.cos(math.pi * t / 2) ** 2, "poly": math.exp(0.9 * math.log1p(-t)), "step": stairs}
    require(set(NAMES) == set(expected), f"there are the schedules {NAMES}, expected {tuple(expected)}")
    for name in NAMES:
        require_close(f"{name} at step {step} of {steps}", optim.schedule(name, step, steps), expected[name])


@holds("schedule", "convention")
def schedules_start_at_1_and_fall(_: None, draw: Draw) -> None:
    """Every schedule starts at 1, never rises, and stays above 0 to the last step; cosine and poly would end at 0."""
    steps, name = draw.integer(1, 60), draw.choice(NAMES)
    factors = [optim.schedule(name, step, steps) for step in range(steps)]
    require(factors[0] == 1, f"{name} starts at {factors[0]:g}, expected 1")
    require(all(a >= b > 0 for a, b in itertools.pairwise(factors)), f"{name} rises, or reaches 0 before the end")
    if name in ("cosine", "poly"):
        end = optim.schedule(name, steps, steps)
        require(abs(end) < 1e-12, f"{name} ends at {end:g}, not at 0")


@holds("schedule", "convention")
def stairs_drop_at_half_and_three_quarters(_: None, draw: Draw) -> None:
    """Of 4 n steps, counted from 0, step 2 n is the first with a tenth of the rate and step 3 n the first with a hundredth."""
    n = draw.integer(1, 50)
    found = [optim.schedule("step", step, 4 * n) for step in (2 * n - 1, 2 * n, 3 * n - 1, 3 * n)]
    require(found == [1.0, 0.1, 0.1, 0.01], f"around the drops of {4 * n} steps the factors are {found}, not 1, 0.1, 0.1, 0.01")


@holds("schedule", "convention")
def a_warm_up_grows_to_1(_: None, draw: Draw) -> None:
    """During n steps of warm-up the factor is multiplied by 1 / (n + 1), 2 / (n + 1) ... n / (n + 1), then by 1."""
    steps, warmup, name = draw.integer(1, 60), draw.integer(0, 20), draw.choice(NAMES)
    for step in range(steps):
        ramp = (step + 1) / (warmup + 1) if step < warmup else 1.0
        found, expected = optim.schedule(name, step, steps, warmup), ramp * optim.schedule(name, step, steps)
        require_close(f"{name} at step {step} with {warmup} steps of warm-up", found, expected)


@holds("schedule", "contract")
def an_unknown_schedule_is_refused(_: None, draw: Draw) -> None:
    """A name that there is not is refused with those that there are."""
    wrong: str = draw.choice(("Cosine", "linear", ""))
    try:
        optim.schedule(wrong, 0, 1)  # type: ignore[arg-type]
    except ConfigError as refusal:
        require(all(name in str(refusal) for name in NAMES), f"the refusal must name all schedules: {refusal}")
    else:
        require(False, f"the schedule {wrong!r} was taken")
