"""What a 3x3 convolution keeps in float32, where some rungs are made for this dtype and are not exact.

Winograd's transforms lose digits, so the laws of `conv`, which ask for twelve, cannot be asked of them. What can be asked is that
every result is that of float64 to `FLOAT32` of its size. All other tolerances here follow from this one: if each y is off by at
most e, a sum of dy y is off by at most e sum |dy|.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.conv import convolve, output_shape, paddings
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import FLOAT32, Case, gradients_of, keep_laws, require_equal

SUBJECT = "conv2d_float32"

class Maps(NamedTuple):
    """One convolution in float32: its arguments and a gradient."""

    x: Array
    w: Array
    b: Array
    dy: Array
    padding: str

    @property
    def sizes(self) -> dict[str, float]:
        """The root of the number of products that a result is the sum of."""
        return {"y": np.sqrt(self.w[..., 0].size), "dx": np.sqrt(9 * self.w.shape[3]), "dw": np.sqrt(self.dy[..., 0].size),
                "db": np.sqrt(self.dy[..., 0].size)}  # fmt: skip


def maps(draw: Draw, padding: str, n: int, height: int, width: int, c: int, o: int) -> Maps:
    """Random normal values."""
    def normal(*shape: int) -> Array:
        return draw.rng.standard_normal(shape).astype(np.float32)

    x, w, b = normal(n, height, width, c), normal(3, 3, c, o), normal(o)
    return Maps(x, w, b, normal(*output_shape(x, w, padding)), padding)


def small(op: Op, draw: Draw) -> Iterator[Maps]:
    """With each padding; tiles of 4x4 pixels end anywhere at the border, and the image may be smaller than the kernel."""
    for padding in paddings(op):
        low = 2 if padding == "same" else 3
        height = draw.integer(low, 11)
        width = height if draw.choice((False, False, True)) else draw.integer(low, 11)
        c = draw.integer(1, 6)
        o = c if draw.choice((False, False, True)) else draw.integer(1, 6)
        yield maps(draw, padding, draw.choice((2, 1, 3)), height, width, c, o)


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    """The same as a case of the common laws."""
    for m in small(op, draw):

        def forward(x: Array, w: Array, b: Array, padding: str = m.padding) -> Any:
            return convolve(op, x, w, b, padding)

        yield Case({"x": m.x, "w": m.w, "b": m.b}, forward, op.backward, m.dy.shape,
                   name=f"padding={m.padding!r}" if len(paddings(op)) > 1 else "")


TAKE_FLOAT64 = ("gradient_by_differences", "gradient_by_complex_step", "the_dtype_survives", "float32_is_float64_rounded")
TO_TWELVE_DIGITS = ("backward_is_linear_in_dy", "backward_is_the_adjoint", "linear_where_it_should_be", "images_do_not_mix")
"""Common laws that are not for rungs of float32; those of the second line stand below with a tolerance that is."""

keep_laws(SUBJECT, cases, without=[*TAKE_FLOAT64, *TO_TWELVE_DIGITS])


def exact(m: Maps) -> dict[str, Array]:
    """y, dx, dw, db in float64, as nine shifted matrix products."""
    x, w, b, dy = (a.astype(np.float64) for a in m[:4])
    pad = 1 if m.padding == "same" else 0
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y: Array = np.broadcast_to(b, dy.shape).copy()
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for r, s in product(range(3), range(3)):
        window = np.s_[:, r : r + dy.shape[1], s : s + dy.shape[2]]
        y += x[window] @ w[r, s]
        dx[window] += dy @ w[r, s].T
        dw[r, s] = np.tensordot(x[window], dy, ((0, 1, 2), (0, 1, 2)))
    dx = dx[:, pad : dx.shape[1] - pad, pad : dx.shape[2] - pad]
    return {"y": y, "dx": dx, "dw": dw, "db": dy.sum(axis=(0, 1, 2))}


def results(op: Op, m: Maps) -> dict[str, Array]:
    """y, dx, dw, db of the op."""
    y, ctx = convolve(op, m.x, m.w, m.b, m.padding)
    case = Case({"x": m.x, "w": m.w, "b": m.b}, op.forward, op.backward, m.dy.shape)
    return {"y": y, **dict(zip(("dx", "dw", "db"), gradients_of(case, m.dy, ctx), strict=True))}


def with_argument(op: Op, m: Maps, name: str, value: Array, b: Array | None = None) -> Array:
    """y with another x or w."""
    x, w = (value, m.w) if name == "x" else (m.x, value)
    return np.asarray(convolve(op, x, w, m.b if b is None else b, m.padding)[0])


def off_by(m: Maps, name: str, value: Array) -> float:
    """How far each value of a result may be from the exact one."""
    return FLOAT32 * max(float(np.abs(value).max(initial=0)), m.sizes[name])


def require_exact(op: Op, m: Maps, *names: str) -> None:
    """Raise CheckError unless results are those of float64."""
    found, expected = results(op, m), exact(m)
    for name in names or tuple(expected):
        what = f"{name} in float32 with padding={m.padding!r}"
        require_close(what, found[name], expected[name], rtol=FLOAT32, scale=m.sizes[name])


def require_sum(what: str, found: float, expected: float, off: float) -> None:
    """Raise CheckError unless two sums agree within what their terms may be off by."""
    require(abs(found - expected) <= off, f"{what} is {found:.7g}, expected {expected:.7g} within {off:.1g}")


def require_within(what: str, found: Array, expected: Array, off: float) -> None:
    """Raise CheckError unless two arrays agree within what their values may be off by."""
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}")
    gap = float(np.abs(found - expected).max(initial=0))
    require(gap <= off, f"{what} is off by {gap:.3g}, where rounding allows {off:.1g}")


def dot(a: Array, b: Array) -> float:
    """<a, b>, added up in float64."""
    return float(np.sum(a.astype(np.float64) * b))


# ---------------------------------------------------------------------------------------------------------------------
# Agreement
# ---------------------------------------------------------------------------------------------------------------------


@holds(SUBJECT, "reference")
def y_is_that_of_float64(op: Op, draw: Draw) -> None:
    """y is off from the exact convolution by at most 2e-5 of the largest y."""
    for m in small(op, draw):
        y = with_argument(op, m, "x", m.x)
        require_close(f"y in float32 with padding={m.padding!r}", y, exact(m)["y"], rtol=FLOAT32, scale=m.sizes["y"])


@holds(SUBJECT, "reference")
def dx_is_that_of_float64(op: Op, draw: Draw) -> None:
    """dx is off from the exact gradient by at most 2e-5 of the largest dx."""
    for m in small(op, draw):
        require_exact(op, m, "dx")


@holds(SUBJECT, "reference")
def dw_is_that_of_float64(op: Op, draw: Draw) -> None:
    """dw and db are off from the exact gradients by at most 2e-5 of the largest dw and db."""
    for m in small(op, draw):
        require_exact(op, m, "dw", "db")


@holds(SUBJECT, "reference")
def a_map_of_several_strips(op: Op, draw: Draw) -> None:
    """A map too large for one piece of work memory gives y, dx and dw as exact as a small one."""
    padding, (c, o) = draw.choice(paddings(op)), draw.choice(((42, 40), (40, 42)))
    require_exact(op, maps(draw, padding, 1, draw.integer(48, 51), draw.integer(46, 49), c, o))


@holds(SUBJECT, "reference")
def more_channels_than_tiles(op: Op, draw: Draw) -> None:
    """Many channels of a map of a few pixels, as at the bottom of the U, give y, dx and dw as exact as a few channels."""
    padding, (c, o) = draw.choice(paddings(op)), draw.choice(((130, 270), (270, 130), (200, 200)))
    require_exact(op, maps(draw, padding, 2, draw.integer(6, 9), draw.integer(4, 8), c, o))


@holds(SUBJECT, "reference")
def rows_of_many_numbers(op: Op, draw: Draw) -> None:
    """Rows that are too long for the quick way of BLAS give y, dx and dw as exact as short ones."""
    padding, (c, o) = draw.choice(paddings(op)), draw.choice(((240, 3), (3, 240)))
    require_exact(op, maps(draw, padding, 1, draw.integer(4, 7), 70, c, o))


# ---------------------------------------------------------------------------------------------------------------------
# Gradients and adjoints, with the tolerance that follows
# ---------------------------------------------------------------------------------------------------------------------


def on_a_grid(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Random normal values, rounded to 64ths: sums and small multiples of them are exact in float32."""
    return (np.round(64 * draw.rng.standard_normal(shape)) / 64).astype(np.float32)


@holds(SUBJECT, "gradient")
def gradient_by_wide_differences(op: Op, draw: Draw) -> None:
    """y is linear in x and in w, so a difference of any width is exact: along a random direction it is the gradient's."""
    for m in small(op, draw):
        for name in ("x", "w"):
            v, u = (on_a_grid(draw, getattr(m, name).shape) for _ in range(2))
            ahead, behind = with_argument(op, m, name, v + u), with_argument(op, m, name, v - u)
            slope, gradient = dot(m.dy, (ahead.astype(np.float64) - behind) / 2), results(op, m)[f"d{name}"]
            off = (off_by(m, "y", ahead) + off_by(m, "y", behind)) / 2 * float(np.abs(m.dy).sum())
            off += off_by(m, f"d{name}", gradient) * float(np.abs(u).sum())
            require_sum(f"d{name} along a direction, with padding={m.padding!r},", dot(gradient, u), slope, off)


@holds(SUBJECT, "gradient")
def backward_is_linear_in_dy(op: Op, draw: Draw) -> None:
    """Backward of a sum of upstream gradients is the sum of backwards, and backward of zero is zero."""
    for m in small(op, draw):
        one, other = on_a_grid(draw, m.dy.shape), on_a_grid(draw, m.dy.shape)
        a, b, both, zero = (results(op, m._replace(dy=dy)) for dy in (one, other, 2 * one - 3 * other, 0 * one))
        for name in ("dx", "dw", "db"):
            off = off_by(m, name, both[name]) + 2 * off_by(m, name, a[name]) + 3 * off_by(m, name, b[name])
            require_within(f"{name} of 2 dy - 3 dy'", both[name], 2 * a[name] - 3 * b[name], off)
            require(not zero[name].any(), f"{name} is not zero for dy = 0")


@holds(SUBJECT, "adjoint")
def backward_is_the_adjoint(op: Op, draw: Draw) -> None:
    """<A v, dy> = <v, dv>, as far as values that are each right to 2e-5 of the largest allow."""
    for m in small(op, draw):
        found = results(op, m)
        for name in ("x", "w"):
            v, dv = getattr(m, name), found[f"d{name}"]
            y = with_argument(op, m, name, v, 0 * m.b)
            off = off_by(m, "y", y) * float(np.abs(m.dy).sum()) + off_by(m, f"d{name}", dv) * float(np.abs(v).sum())
            require_sum(f"<{name}, d{name}> with padding={m.padding!r}", dot(v, dv), dot(y, m.dy), off)


# ---------------------------------------------------------------------------------------------------------------------
# Invariance and contract
# ---------------------------------------------------------------------------------------------------------------------


@holds(SUBJECT, "invariance")
def linear_where_it_should_be(op: Op, draw: Draw) -> None:
    """Forward of a sum of images, or of kernels, is the sum of forwards."""
    for m in small(op, draw):
        for name in ("x", "w"):
            v, u = (on_a_grid(draw, getattr(m, name).shape) for _ in range(2))
            a, b, both = (with_argument(op, m, name, value, 0 * m.b) for value in (v, u, 2 * v - 3 * u))
            off = off_by(m, "y", both) + 2 * off_by(m, "y", a) + 3 * off_by(m, "y", b)
            require_within(f"y of 2 {name} - 3 {name}'", both, 2 * a - 3 * b, off)


@holds(SUBJECT, "invariance")
def images_do_not_mix(op: Op, draw: Draw) -> None:
    """A batch gives what its images give one by one; dw and db are the sum over images, not the mean."""
    for m in small(op, draw):
        whole = results(op, m)
        images = [results(op, m._replace(x=m.x[i : i + 1], dy=m.dy[i : i + 1])) for i in range(len(m.x))]
        for name, found in whole.items():
            parts = [image[name] for image in images]
            expected = np.concatenate(parts) if name in ("y", "dx") else np.sum(parts, axis=0)
            off = off_by(m, name, found) + sum(off_by(m, name, part) for part in parts)
            require_within(f"{name} of a batch, next to its images one by one,", found, expected, off)


@holds(SUBJECT, "invariance")
def what_was_computed_before_does_not_matter(op: Op, draw: Draw) -> None:
    """The same arguments give the same bits whether the work memory holds ones or NaN of another image."""
    for m in small(op, draw):
        found = []
        for value in (1, np.nan):
            n, height, width, c = m.x.shape
            results(op, maps(draw, m.padding, n, height + 5, width + 5, c, len(m.b))._replace(w=np.full_like(m.w, value)))
            found.append(results(op, m))
        for name, after_ones in found[0].items():
            require_equal(f"{name} after a convolution of NaN", found[1][name], after_ones)


@holds(SUBJECT, "contract")
def float32_stays_float32(op: Op, draw: Draw) -> None:
    """y and all gradients are float32."""
    for m in small(op, draw):
        for name, result in results(op, m).items():
            require(result.dtype == np.float32, f"{name} is {result.dtype} for float32 arguments")
