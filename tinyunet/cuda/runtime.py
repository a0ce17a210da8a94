"""Where kernels run: on a GPU for CuPy's arrays, in the emulator for NumPy's. One call for both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyunet.backend import Array, array_module, device_of
from tinyunet.cuda import loader

if TYPE_CHECKING:  # the emulator needs Linux, and is loaded when something runs in it
    from tinyunet.cuda.emulator import Module, Report

EMULATED_MULTIPROCESSORS, EMULATED_ARCHITECTURE = 132, 90


@dataclass
class Emulated:
    """How kernels are emulated inside `emulated()`, and what was reported."""

    mode: str
    schedule: str
    seed: int
    reports: list[Report] = field(default_factory=list)

    @property
    def problems(self) -> list[Report]:
        """The reports in which something was found; [] if all is well."""
        return [report for report in self.reports if not report.ok]


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


def takes(*arrays: Array) -> bool:
    """Whether operations on these arrays run through the kernels: float32, of CuPy, or of NumPy inside `emulated()`.

    Everything else goes through the formulas: float64 on a GPU, for one, in CuPy's own operations.
    """
    return refusal(*arrays) is None


def refusal(*arrays: Array) -> str | None:
    """Why the kernels do not take these arrays; None if they do."""
    if odd := next((a.dtype for a in arrays if a.dtype != np.float32), None):
        return f"kernels take float32, not {odd}"
    if _EMULATED.get() is None and any(array_module(a) is np for a in arrays):
        return "kernels take CuPy's arrays, or NumPy's inside tinyunet.cuda.emulated()"
    return None


def run(file: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> None:
    """Launch a kernel of `kernels/` on arrays of CuPy (on their GPU) or of NumPy (emulated), which it writes in place.

    Raises ConfigError for arguments that do not fit the kernel, BackendError if it cannot be run here.
    """
    if array_module(*args) is not np:
        loader.load(file, kernel)(grid, block, args, shared_mem)
        return
    how = _EMULATED.get() or Emulated("fast", "index", 0)
    launch = _emulator_module(file).get(kernel)
    how.reports.append(launch(grid, block, args, shared_mem, mode=how.mode, schedule=how.schedule, seed=how.seed))


def multiprocessors(x: Any) -> int:
    """Multiprocessors of the GPU that an array is on, over which a launcher spreads its blocks; those of an H100 if emulated."""
    return loader.attribute(x.device.id, "MultiProcessorCount") if device_of(x) == "cuda" else EMULATED_MULTIPROCESSORS


def architecture(x: Any) -> int:
    """Compute capability, times ten, of the GPU that an array is on; that of an H100 if emulated."""
    return loader.architecture(x.device.id) if device_of(x) == "cuda" else EMULATED_ARCHITECTURE


@lru_cache
def _emulator_module(file: str) -> Module:
    from tinyunet.cuda import emulator

    return emulator.load(file)
