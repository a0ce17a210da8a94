"""Sums over pixels, in a fixed order: kernels/reduce/channel_sum.cu. So they are the same bytes in every run."""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.vectors import columns, ints, vector


def column_sums(a: Array) -> Array:
    """s[c] = the sum of a[..., c]

    (..., C) -> (C,), of float32 or float64
    """
    return add_parts(_pass(a, one_part=False))


def add_parts(parts: Array) -> Array:
    """The second pass: (parts, C) -> (C,)"""
    return parts[0] if len(parts) == 1 else _pass(parts, one_part=True)[0]


def _pass(a: Array, one_part: bool) -> Array:
    """(..., C) -> (parts, C)"""
    channels = a.shape[-1]
    kind, width = vector(channels, arrays=(a,)) if a.dtype == "float32" else ("double", 1)
    rows, vectors = a.size // channels, channels // width
    launch = columns(rows, vectors)
    grid, n = (launch.last, 1) if one_part else (launch.grid, launch.parts)
    parts = array_module(a).empty((n, channels), a.dtype)
    runtime.run("reduce/channel_sum.cu", f"channel_sum<{kind}>", grid, launch.block, (a, parts, *ints(rows, vectors)))
    return parts
