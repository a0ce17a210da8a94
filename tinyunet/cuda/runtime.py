"""Where kernels run: on a GPU for CuPy's arrays, in the emulator for NumPy's. One call for both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tinyunet.cuda import emulator
from tinyunet.cuda.emulator.launch import Module
from tinyunet.cuda.emulator.report import Report


@dataclass
class Emulated:
    """How kernels are emulated inside `emulated()`, and what was reported."""

    mode: str
    schedule: str
    seed: int
    reports: list[Report] = field(default_factory=list)


_EMULATED: ContextVar[Emulated | None] = ContextVar("how kernels are emulated", default=None)


@contextmanager
def emulated(mode: str = "fast", schedule: str = "index", seed: int = 0) -> Iterator[Emulated]:
    """Inside the block, operations on NumPy arrays of float32 run through the kernels, emulated.

        with tinyunet.cuda.emulated(mode="check") as run:
            model.forward(x)
        print(run.reports)
    """
    how = Emulated(mode, schedule, seed)
    token = _EMULATED.set(how)
    try:
        yield how
    finally:
        _EMULATED.reset(token)


def run(file: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> None:
    """Launch a kernel of `kernels/` on arrays of CuPy (on their GPU) or of NumPy (emulated), which it writes in place."""
    how = _EMULATED.get() or Emulated("fast", "index", 0)
    launch = _emulator_module(file).get(kernel)
    how.reports.append(launch(grid, block, args, shared_mem, mode=how.mode, schedule=how.schedule, seed=how.seed))


@lru_cache
def _emulator_module(file: str) -> Module:
    return emulator.load(file)
