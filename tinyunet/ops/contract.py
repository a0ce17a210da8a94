"""What every op asks of its arguments, in one place, so that each op's own file is about its formula."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

from tinyunet import cuda
from tinyunet.backend import Array, array_module, require_together
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ladder import Rung
from tinyunet.parallel import over_rows
from tinyunet.rungs import strips

DTYPES = ("float32", "float64", "complex128")
"""What an op takes and gives back unchanged. complex128 is there for complex-step gradient checks."""


def as_map(who: str, x: Array) -> Array:
    """x itself, or a C-contiguous copy, if it is an (N, H, W, C) array of a supported dtype.

    Results take over the memory layout of what they are computed from, so this also makes them C-contiguous.
    """
    if x.ndim != 4:
        raise ShapeError(
            f"{who}: got an array of shape {x.shape}, expected (N, H, W, C): images, rows, columns, channels. "
            "A single grey image becomes one with image[None, :, :, None]."
        )
    return as_values(who, x)


def as_values(who: str, x: Array) -> Array:
    """x itself, or a C-contiguous copy, if it is an array of a supported dtype; for ops that take any shape."""
    if x.dtype.name not in DTYPES:
        raise DTypeError(f"{who}: got dtype {x.dtype}, expected one of {', '.join(DTYPES)}. Convert with x.astype('float32').")
    return array_module(x).ascontiguousarray(x)


def check_param(who: str, name: str, param: Array, shape: tuple[int, ...], x: Array) -> None:
    """Raise unless a parameter has the shape that x asks for, and the dtype of x, and is on its device."""
    if param.shape != shape:
        raise ShapeError(f"{who}: {name} has shape {param.shape}, but an input of shape {x.shape} needs {shape}.")
    if param.dtype != x.dtype:
        raise DTypeError(f"{who}: {name} is {param.dtype} and the input is {x.dtype}. Convert one of them.")
    require_together(who, name, param, x)


def as_gradient(who: str, dy: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """dy itself, or a C-contiguous copy, if it has the shape and the dtype of the output that it is the gradient of."""
    if dy.shape != shape:
        raise ShapeError(f"{who}: dy has shape {dy.shape}, but the output of forward had {shape}. They must be equal.")
    if dy.dtype != dtype:
        raise DTypeError(f"{who}: dy is {dy.dtype}, but the output of forward was {dtype}. Convert with dy.astype('{dtype}').")
    return array_module(dy).ascontiguousarray(dy)


def channel_sum(a: Array, *factors: Array) -> Array:
    """The sum of a, or of the product a * ..., over images and pixels: (N, H, W, C) -> (C,)

    First along rows of pixels, then over rows. In float32 a running sum over 300,000 pixels loses four digits; two sums over
    600 each lose much less.
    """
    if not factors and cuda.takes(a):
        return cuda.sums.column_sums(a)

    def formula(*maps: Array) -> Array:
        product = reduce(mul, maps)
        ones = array_module(product).ones((1, product.shape[2]), product.dtype)
        return (ones @ product)[:, :, 0]  # a sum as a matrix product: NumPy's own is slow where channels are few

    return over_rows(formula, a, *factors).sum(axis=(0, 1))


def keep(a: Array, mask: Array, out: Array | None = None) -> Array:
    """a where the mask is true, else 0, also where a is infinite or NaN: -> `out`, or a fresh array

    any shape, the same for all -> the same shape

    The bits of a, as a whole number, times 1 or 0: several times as fast as `where`, as floating-point products are, in which
    inf * 0 would be NaN and -1 * 0 would be -0.
    """
    xp = array_module(a)
    out = xp.empty_like(a) if out is None else out
    if xp.iscomplexobj(a):
        out[...] = xp.where(mask, a, 0)
    else:
        bits = f"i{a.itemsize}"
        xp.multiply(a.view(bits), mask, out=out.view(bits))
    return out


def add_bias(y: Array, b: Array) -> None:
    """y += b, in place, for a map that the caller has made: (N, H, W, C), (C,)"""
    bias = array_module(y).tile(b, y.shape[2])
    over_rows(lambda y: strips.add_bias(y, bias), y)


def with_bias(rung: Rung, b: Array, *arguments: Any) -> Array:
    """forward(*arguments) + b: a kernel adds it before it writes a value; for other rungs it is a pass of its own."""
    if rung.fused is not None:
        return rung.fused(*arguments, b)
    y = rung.forward(*arguments)
    add_bias(y, b)
    return y
