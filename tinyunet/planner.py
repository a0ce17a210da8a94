"""What the ladder will pick for a network, and the costs that it picks by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinyunet.rungs  # noqa: F401  puts the rungs on the ladder
from tinyunet import ladder, shapes
from tinyunet.files import atomic_write
from tinyunet.ladder import Costs, Direction, Work
from tinyunet.parallel import STRIP_BYTES, rehearsal
from tinyunet.shapes import trace
from tinyunet.spec import UNetSpec

DIRECTIONS: tuple[Direction, ...] = ("forward", "grad_x", "grad_w")

MEASURED = {"conv3x3": ("strips", "planes", "winograd1d", "winograd")}
"""The rungs whose costs are fitted; the others are there to be read."""

SIZES = ((1, 16, 284), (1, 64, 284), (3, 32, 140), (16, 16, 284), (32, 32, 140), (32, 16, 196), (64, 64, 140), (128, 64, 72),
         (128, 128, 72), (256, 256, 36), (512, 256, 36), (512, 512, 30), (16, 16, 68), (64, 64, 36))
"""(channels in, channels out, pixels a side) of the convolutions that are timed: what a U-Net has, up to a few seconds."""


class Choice(NamedTuple):
    """One direction of one layer: what runs, what it is expected to take, and why."""

    layer: str
    direction: Direction
    rung: str
    milliseconds: float  # inf where there are no costs
    why: str
    able: dict[str, float]  # milliseconds of every rung that could run it, by name, the highest rung first


def plan(
    spec: UNetSpec, height: int, width: int | None = None, batch: int = 1, dtype: str = "float32"
) -> list[Choice]:
    """The rung for every direction of every convolution on images of height x width pixels, with the runner-up.

    Picks made by hand with `tinyunet.rung` are followed. Raises ShapeError for a size that does not fit.
    """
    rows = []
    for step in trace(spec, height, width):
        if step.layer.kind not in ("conv3x3", "upconv"):
            continue
        c, o = step.layer.c_in, step.layer.c_out
        op, kernel = ("conv3x3", (3, 3, c, o)) if step.layer.kind == "conv3x3" else ("upconv2x2", (2, 2, o, c))
        # Shapes decide, not values: one number, seen as a large array, costs no memory.
        x = np.broadcast_to(np.zeros((), dtype), (batch, *step.in_size, c))
        w = np.broadcast_to(np.zeros((), dtype), kernel)
        for direction in DIRECTIONS:
            name = ladder.pick(op, x, w, direction).name
            able = {other: 1000 * ladder.seconds(op, other, direction, ladder.work(x, w)) for other in ladder.able(op, x, w)}
            rows.append(Choice(step.layer.name, direction, name, able[name], _why(op, name, able), able))
    return rows


def workspace_bytes(
    spec: UNetSpec, height: int, width: int | None = None, batch: int = 1, threads: int = 1, training: bool = True
) -> int:
    """What the threads work in during a training step, or a prediction, in float32, in bytes.

    What convolutions keep is found by doing a strip of each. Elsewhere about one array of a strip is alive in a formula, four in
    that of batch norm.

    Takes a second or less. `tinyunet.shapes.workspace_bytes` is a bound that needs no work.
    """
    with rehearsal() as kept:
        for step in trace(spec, height, width):
            if step.layer.kind == "conv3x3":
                c, o = step.layer.c_in, step.layer.c_out
                # Zeros that the system hands out when they are read: what no strip touches costs no memory.
                x, dy = np.zeros((batch, *step.in_size, c), np.float32), np.zeros((batch, *step.out_size, o), np.float32)
                w = np.zeros((3, 3, c, o), np.float32)
                pad = (step.out_size[0] - step.in_size[0] + 2) // 2
                ladder.pick("conv3x3", x, w, "forward").forward(x, w, pad)
                if training:
                    ladder.pick("conv3x3", x, w, "grad_x").grad_x(dy, w, pad)
                    ladder.pick("conv3x3", x, w, "grad_w").grad_w(x, dy, 3, pad)
    return kept.bytes(threads) + (4 if spec.norm == "batch" else 1) * STRIP_BYTES * threads


def training_bytes(
    spec: UNetSpec, height: int, width: int | None = None, batch: int = 1, moments: int = 1, threads: int = 1
) -> int:
    """`tinyunet.shapes.training_bytes` with the workspace that the picked rungs keep, and not a bound on it."""
    workspace = workspace_bytes(spec, height, width, batch, threads)
    return shapes.training_bytes(spec, height, width, batch, moments, threads, workspace)


def forward_bytes(spec: UNetSpec, height: int, width: int | None = None, threads: int = 1) -> int:
    """`tinyunet.shapes.forward_bytes` with the workspace that the picked rungs keep, and not a bound on it."""
    maps = shapes.forward_bytes(spec, height, width) - shapes.workspace_bytes(spec)
    return maps + workspace_bytes(spec, height, width, threads=threads, training=False)


def _why(op: str, name: str, able: dict[str, float]) -> str:
    if ladder.by_hand(op) is not None:
        return "picked by hand"
    known = sorted((milliseconds, other) for other, milliseconds in able.items() if milliseconds < np.inf and other != name)
    if able[name] == np.inf:
        return "the highest rung that takes these arrays"
    if not known:
        return "the only rung with known costs that takes these arrays"
    return f"{known[0][1]} would take {known[0][0] / able[name]:.2f} times as long"


class Measurement(NamedTuple):
    """What one direction of one convolution took with one rung."""

    rung: str
    direction: Direction
    work: Work  # see `tinyunet.ladder.work`
    seconds: float


class Assessment(NamedTuple):
    """What costs are worth, held against measurements."""

    errors: dict[tuple[str, Direction], float]  # median of |expected / measured - 1| of each rung and direction
    picks: dict[tuple[str, Direction], int]  # for how many of the convolutions it would be picked
    lost: float  # share of time that the picks take longer than the fastest rung of each would


def measure(repeats: int = 3, note: Callable[[str], None] = lambda line: None) -> list[Measurement]:
    """Time every rung in every direction on the convolutions of SIZES; `note` hears of each. Takes about a minute."""
    rng = np.random.default_rng(0)
    measured = []
    for c, o, side in SIZES:
        x = rng.standard_normal((1, side, side, c), dtype=np.float32)
        w = rng.standard_normal((3, 3, c, o), dtype=np.float32)
        dy = rng.standard_normal((1, side - 2, side - 2, o), dtype=np.float32)
        for name in MEASURED["conv3x3"]:
            with ladder.rung(conv3x3=name):
                rung = ladder.pick("conv3x3", x, w)
            calls: dict[Direction, tuple[Any, ...]] = {"forward": (x, w, 0), "grad_x": (dy, w, 0), "grad_w": (x, dy, 3, 0)}
            for direction, arguments in calls.items():
                taken = _fastest(getattr(rung, direction), arguments, repeats)
                measured.append(Measurement(name, direction, ladder.work(x, w), taken))
                note(f"{c}->{o} at {side} px, {name}.{direction}: {1000 * taken:.1f} ms")
    return measured


def fit_costs(measured: Sequence[Measurement]) -> Costs:
    """The cost model that has the smallest relative errors, with no term below zero."""
    from scipy.optimize import nnls

    costs: Costs = {"conv3x3": {}}
    for name, direction in dict.fromkeys((m.rung, m.direction) for m in measured):
        mine = [m for m in measured if (m.rung, m.direction) == (name, direction)]
        relative = np.array([m.work for m in mine]) / np.array([m.seconds for m in mine])[:, None]
        scale = relative.max(axis=0)  # bytes and multiply-adds differ by many orders of magnitude
        terms, _ = nnls(relative / scale, np.ones(len(mine)))
        costs["conv3x3"].setdefault(name, {})[direction] = [float(f"{term:.4g}") for term in terms / scale]
    return costs


def assess(costs: Costs, measured: Sequence[Measurement]) -> Assessment:
    """Expected against measured times, and what picking by these costs would lose."""

    def expected(m: Measurement) -> float:
        terms = costs.get("conv3x3", {}).get(m.rung, {}).get(m.direction)
        return float(np.dot(terms, m.work)) if terms else float("inf")

    keys = list(dict.fromkeys((m.rung, m.direction) for m in measured))
    off = {key: [abs(expected(m) / m.seconds - 1) for m in measured if (m.rung, m.direction) == key] for key in keys}
    picks, taken, best = dict.fromkeys(keys, 0), 0.0, 0.0
    for direction, work in dict.fromkeys((m.direction, m.work) for m in measured):
        rivals = [m for m in measured if (m.direction, m.work) == (direction, work)]
        picked = min(rivals, key=expected)
        picks[picked.rung, direction] += 1
        taken, best = taken + picked.seconds, best + min(m.seconds for m in rivals)
    return Assessment({key: float(np.median(values)) for key, values in off.items()}, picks, taken / best - 1)


def write_costs(costs: Costs, path: Path | None = None) -> Path:
    """Write costs to where `ladder.pick` looks for those of this machine -> the path. Delete the file to undo it."""
    path = path or ladder.costs_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        terms = ["1", "map bytes", "kernel bytes", "multiply-adds", "window bytes"]
        temporary.write_text(json.dumps({"unit": "seconds", "terms": terms, "costs": costs}, indent=1) + "\n", encoding="utf-8")
    ladder.costs.cache_clear()
    return path


def fit(path: Path | None = None, repeats: int = 3, note: Callable[[str], None] = lambda line: None) -> Costs:
    """Measure the rungs on this machine, fit the cost model, and write it where `ladder.pick` looks for it."""
    costs = fit_costs(measure(repeats, note))
    write_costs(costs, path)
    return costs


def _fastest(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Seconds of the fastest of several calls, after one to warm up: the others were disturbed."""
    function(*arguments)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)
