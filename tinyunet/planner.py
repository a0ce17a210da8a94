"""What the ladder will pick for a network, and the costs that it picks by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinyunet.rungs  # noqa: F401  puts the rungs on the ladder
from tinyunet import ladder
from tinyunet.backend import Array
from tinyunet.ladder import Costs, Direction
from tinyunet.shapes import trace
from tinyunet.spec import UNetSpec

DIRECTIONS: tuple[Direction, ...] = ("forward", "grad_x", "grad_w")

MEASURED = {"conv3x3": ("strips", "winograd1d", "winograd")}
"""The rungs whose costs are fitted; the others are there to be read."""

SIZES = ((1, 16, 284), (16, 16, 284), (32, 32, 140), (32, 16, 196), (64, 64, 140), (128, 64, 72), (128, 128, 72),
         (256, 256, 36), (512, 256, 36), (512, 512, 30), (16, 16, 68), (64, 64, 36))
"""(channels in, channels out, pixels a side) of the convolutions that are timed: what a U-Net has, up to a few seconds."""


class Choice(NamedTuple):
    """One direction of one layer: what runs, what it is expected to take, and why."""

    layer: str
    direction: Direction
    rung: str
    milliseconds: float  # inf where there are no costs
    why: str


def plan(spec: UNetSpec, size: int, batch: int = 1, dtype: str = "float32") -> list[Choice]:
    """The rung for every direction of every convolution on images of size x size pixels, with the runner-up.

    Picks made by hand with `tinyunet.rung` are followed. Raises ShapeError for a size that does not fit.
    """
    rows = []
    for step in trace(spec, size):
        if step.layer.kind not in ("conv3x3", "upconv"):
            continue
        c, o = step.layer.c_in, step.layer.c_out
        op, kernel = ("conv3x3", (3, 3, c, o)) if step.layer.kind == "conv3x3" else ("upconv2x2", (2, 2, o, c))
        # Shapes decide, not values: one number, seen as a large array, costs no memory.
        x = np.broadcast_to(np.zeros((), dtype), (batch, *step.in_size, c))
        w = np.broadcast_to(np.zeros((), dtype), kernel)
        for direction in DIRECTIONS:
            picked = ladder.pick(op, x, w, direction)
            rows.append(Choice(step.layer.name, direction, picked.name, 1000 * _expected(op, picked.name, direction, x, w),
                               _why(op, picked.name, direction, x, w)))
    return rows


def _expected(op: str, name: str, direction: Direction, x: Array, w: Array) -> float:
    return ladder.seconds(op, name, direction, ladder.work(x, w))


def _why(op: str, name: str, direction: Direction, x: Array, w: Array) -> str:
    if ladder.by_hand(op) is not None:
        return "picked by hand"
    expected = {other: _expected(op, other, direction, x, w) for other in ladder.able(op, x, w)}
    known = sorted((seconds, other) for other, seconds in expected.items() if seconds < float("inf") and other != name)
    if expected[name] == float("inf"):
        return "the highest rung that takes these arrays"
    if not known:
        return "the only rung with known costs that takes these arrays"
    return f"{known[0][1]} would take {known[0][0] / expected[name]:.2f} times as long"


def fit(path: Path | None = None, repeats: int = 3, note: Callable[[str], None] = lambda line: None) -> Costs:
    """Measure the rungs on this machine, fit the cost model, and write it where `ladder.pick` looks for it.

    The model is fitted to relative errors, with no term below zero. `note` hears of each measurement. Takes about a minute.
    """
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    works: list[tuple[float, ...]] = []
    times: dict[tuple[str, Direction], list[float]] = {}
    for c, o, side in SIZES:
        x = rng.standard_normal((1, side, side, c), dtype=np.float32)
        w = rng.standard_normal((3, 3, c, o), dtype=np.float32)
        dy = rng.standard_normal((1, side - 2, side - 2, o), dtype=np.float32)
        works.append(ladder.work(x, w))
        for name in MEASURED["conv3x3"]:
            with ladder.rung(conv3x3=name):
                rung = ladder.pick("conv3x3", x, w)
            calls: dict[Direction, tuple[Any, ...]] = {"forward": (x, w, 0), "grad_x": (dy, w, 0), "grad_w": (x, dy, 3, 0)}
            for direction, arguments in calls.items():
                taken = _fastest(getattr(rung, direction), arguments, repeats)
                times.setdefault((name, direction), []).append(taken)
                note(f"{c}->{o} at {side} px, {name}.{direction}: {1000 * taken:.1f} ms")
    costs: Costs = {"conv3x3": {name: {} for name in MEASURED["conv3x3"]}}
    for (name, direction), taken_all in times.items():
        relative = np.array(works) / np.array(taken_all)[:, None]
        scale = relative.max(axis=0)  # bytes and multiply-adds differ by many orders of magnitude
        terms, _ = nnls(relative / scale, np.ones(len(works)))
        costs["conv3x3"][name][direction] = [float(f"{term:.4g}") for term in terms / scale]
    path = path or ladder.costs_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"unit": "seconds", "terms": ["1", "map bytes", "kernel bytes", "multiply-adds"], "costs": costs},
                               indent=1) + "\n", encoding="utf-8")
    ladder.costs.cache_clear()
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
