"""Which array module an array belongs to, and moving arrays between them. The only file that may import CuPy.

An op never names NumPy for the arrays it is given; it asks `array_module(x)` and works with what comes back. CuPy is found
through `sys.modules`: nobody can hand us a CuPy array without having imported CuPy, so a NumPy user never pays for it.

Arrays go from one device to the other only where a line says so, by `move` or `to_numpy`: such a copy takes longer than most
operations, and must not hide in one.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import BackendError, ConfigError, short

Array: TypeAlias = NDArray[Any]
"""An array of NumPy or of CuPy; the two share their methods, so one annotation serves both."""

Device = Literal["cpu", "cuda"]

INSTALL = 'pip install "tinyunet[cuda13]" (or "tinyunet[cuda12]" for a driver of CUDA 12; nvidia-smi says which)'


def array_module(*arrays: Array) -> ModuleType:
    """NumPy, or CuPy if any of the arrays is CuPy's."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np


def device_of(a: Array) -> Device:
    """Where an array lives."""
    return "cpu" if array_module(a) is np else "cuda"


def to_numpy(a: Array) -> Array:
    """The same values as a NumPy array on the host; a NumPy array comes back as it is."""
    return a.get() if array_module(a) is not np else np.asarray(a)  # type: ignore[attr-defined]


def move(a: Array, device: Device) -> Array:
    """The same values on a device; an array that is there already comes back as it is.

    Raises BackendError if there is no GPU to move to.
    """
    return to_numpy(a) if device == "cpu" else cupy().asarray(a)


def require_together(who: str, name: str, a: Array, x: Array) -> None:
    """Raise BackendError unless two arrays live on one device: nothing is copied behind a caller's back."""
    if array_module(a) is not array_module(x):
        where = {"cpu": "on the CPU (NumPy)", "cuda": "on the GPU (CuPy)"}
        raise BackendError(f"{who}: {name} is {where[device_of(a)]} and the input is {where[device_of(x)]}. Move one of them: "
                           'a network with model.to("cuda") or .to("cpu"), an array with cupy.asarray or .get().')  # fmt: skip


def cupy() -> ModuleType:
    """CuPy, with a GPU that it can use.

    Raises BackendError, with what to do, if CuPy is not installed or damaged, or if it finds no driver or no GPU.
    """
    try:
        import cupy
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        why = "CuPy is not installed" if missing else f"CuPy cannot be imported ({short(error)})"
        raise BackendError(f'device "cuda": {why}. Install it: {INSTALL}. Or use the CPU.') from None
    if not cupy.cuda.is_available():
        try:
            found = f"it counts {cupy.cuda.runtime.getDeviceCount()} of them"
        except RuntimeError as error:  # CUDARuntimeError: "cudaErrorInsufficientDriver: ..."
            found = short(error)
        raise BackendError(f'device "cuda": CuPy {cupy.__version__} finds no GPU that it can use ({found}). nvidia-smi must '
                           "list one, with a driver as new as CuPy's CUDA or newer. Or use the CPU.")  # fmt: skip
    return cupy


def memory_of_gpu() -> int:
    """Bytes that the current GPU has, used or free. Raises BackendError if there is none."""
    return int(cupy().cuda.runtime.memGetInfo()[1])


def choose(device: str) -> tuple[Device, str]:
    """What "cpu", "cuda" or "auto" means on this machine, and why in words: "auto" is the GPU if there is one.

    Raises ConfigError for another name, BackendError if "cuda" was asked for and cannot be had.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"device {device!r} is unknown. Choose cpu, cuda or auto.")
    if device == "cpu":
        return "cpu", "CPU"
    try:
        found = cupy()
    except BackendError as error:
        if device == "cuda":
            raise
        why = str(error).removeprefix('device "cuda": ').split(". ")[0]
        return "cpu", f"CPU ({why})"
    number = found.cuda.runtime.getDevice()
    name = found.cuda.runtime.getDeviceProperties(number)["name"].decode()
    return "cuda", f"GPU {number}, {name}"
