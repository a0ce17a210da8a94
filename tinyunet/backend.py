"""Which array module an array belongs to, and moving arrays between them. The only file that may import CuPy.

An op never names NumPy for the arrays it is given; it asks `array_module(x)` and works with what comes back. CuPy is found
through `sys.modules`: nobody can hand us a CuPy array without having imported CuPy, so a NumPy user never pays for it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of NumPy or of CuPy; the two share their methods, so one annotation serves both."""


def array_module(*arrays: Array) -> ModuleType:
    """NumPy, or CuPy if any of the arrays is CuPy's."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np


def to_numpy(a: Array) -> Array:
    """The same values as a NumPy array on the host; a NumPy array comes back as it is."""
    return a.get() if array_module(a) is not np else np.asarray(a)  # type: ignore[attr-defined]
