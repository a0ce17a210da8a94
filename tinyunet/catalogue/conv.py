"""What a convolution keeps: it is linear, it moves with its image, and its gradients are its adjoints.

Two subjects, as the kernels go separate ways: "conv2d" has a 3x3 kernel, "conv1x1" one of a single pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from itertools import product
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require_close
from tinyunet.catalogue.laws import Case, hard, keep_laws, require_close_or_name, require_equal, require_refused


def paddings(op: Op) -> tuple[str, ...]:
    """What an op can be asked for: "valid" alone if forward's fourth argument is no padding, as in a first one of one's own."""
    return ("valid", "same") if list(signature(op.forward).parameters)[3:4] == ["padding"] else ("valid",)


def convolve(op: Op, x: Array, w: Array, b: Array, padding: str = "valid") -> Any:
    """y, ctx of forward; the padding is handed over only where it is not the usual one."""
    return op.forward(x, w, b) if padding == "valid" else op.forward(x, w, b, padding)


def values(draw: Draw, size: int, low: int = 3, high: int = 6) -> tuple[Array, Array, Array]:
    """x, w, b with random normal values, square or not, with more channels out than in, fewer, or as many."""
    height = draw.integer(low, high)
    width = height if draw.choice((False, False, True)) else draw.integer(low, high)
    n, c, o = draw.choice((2, 1, 3)), draw.integer(1, 4), draw.integer(1, 4)
    normal = draw.rng.standard_normal
    return normal((n, height, width, c)), normal((size, size, c, o)), normal(o)


def output_shape(x: Array, w: Array, padding: str) -> tuple[int, ...]:
    """valid: H - K + 1, same: H"""
    cut = w.shape[0] - 1 if padding == "valid" else 0
    return x.shape[0], x.shape[1] - cut, x.shape[2] - cut, w.shape[3]


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    """A 3x3 convolution with each padding; with zeros around it, the image may be smaller than the kernel."""
    for padding in paddings(op):
        x, w, b = values(draw, 3, low=2 if padding == "same" else 3)

        def forward(x: Array, w: Array, b: Array, padding: str = padding) -> Any:
            return convolve(op, x, w, b, padding)

        yield Case({"x": x, "w": w, "b": b}, forward, op.backward, output_shape(x, w, padding), linear=("x", "w", "b"),
                   name=f"padding={padding!r}" if len(paddings(op)) > 1 else "")


def cases_1x1(op: Op, draw: Draw) -> Iterator[Case]:
    """A convolution whose kernel is one pixel."""
    x, w, b = values(draw, 1, low=1)
    yield Case({"x": x, "w": w, "b": b}, op.forward, op.backward, output_shape(x, w, "valid"), linear=("x", "w", "b"))


keep_laws("conv2d", cases)
keep_laws("conv1x1", cases_1x1)


# ---------------------------------------------------------------------------------------------------------------------
# Reference
# ---------------------------------------------------------------------------------------------------------------------


def formula(x: Array, w: Array, b: Array, padding: str) -> Array:
    """y[n,i,j,o] = b[o] + sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o], x zero outside the image"""
    pad = 1 if padding == "same" else 0
    y = np.broadcast_to(b, output_shape(x, w, padding)).copy()
    for n, i, j, o in np.ndindex(y.shape):
        for r, s in product(range(3), range(3)):
            if 0 <= i + r - pad < x.shape[1] and 0 <= j + s - pad < x.shape[2]:
                y[n, i, j, o] += x[n, i + r - pad, j + s - pad] @ w[r, s, :, o]
    return y


def kernels(w: Array) -> dict[str, Array]:
    """Kernels that are taken for w by mistake."""
    return {"the kernel turned by 180 degrees": w[::-1, ::-1], "the transposed kernel": np.swapaxes(w, 0, 1),
            "the kernel upside down": w[::-1], "the kernel with left and right swapped": w[:, ::-1]}  # fmt: skip


def mistakes(x: Array, w: Array, b: Array, padding: str) -> dict[str, Array]:
    """What forward gives if it makes one of the well-known mistakes."""
    wrong = {name: formula(x, kernel, b, padding) for name, kernel in kernels(w).items()}
    wrong["the convolution without the bias"] = formula(x, w, 0 * b, padding)
    for name, kernel in kernels(w).items():
        wrong[f"{name}, without the bias"] = formula(x, kernel, 0 * b, padding)
    for way, axis, by in (("down", 1, 1), ("up", 1, -1), ("to the right", 2, 1), ("to the left", 2, -1)):
        moved = np.zeros_like(x)  # zeros come in from outside
        here, there = [slice(None)] * 4, [slice(None)] * 4
        here[axis], there[axis] = (slice(1, None), slice(None, -1))[::by]
        moved[tuple(here)] = x[tuple(there)]
        wrong[f"an image shifted {way} by one pixel"] = formula(moved, w, b, padding)
    return wrong


@holds("conv2d", "reference")
def forward_is_the_formula(op: Op, draw: Draw) -> None:
    """y[n,i,j,o] = b[o] + sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o], x zero outside the image."""
    for padding in paddings(op):
        x, w, b = values(draw, 3, high=5)
        if draw.choice((False, True)):
            x = hard(draw, x.shape)
        y, _ = convolve(op, x, w, b, padding)
        expected, wrong = formula(x, w, b, padding), partial(mistakes, x, w, b, padding)
        require_close_or_name(f"y with padding={padding!r}", y, expected, wrong, scale=float(np.abs(x).max()))


@holds("conv2d", "reference")
def forward_is_scipys_correlation(op: Op, draw: Draw) -> None:
    """The kernel is not flipped: y is SciPy's correlate2d, summed over the input channels, and not its convolve2d."""
    from scipy.signal import correlate2d

    for padding in paddings(op):
        x, w, b = values(draw, 3)
        expected = np.empty(output_shape(x, w, padding))
        for n, o in product(range(expected.shape[0]), range(expected.shape[3])):
            maps = [correlate2d(x[n, :, :, c], w[:, :, c, o], mode=padding) for c in range(x.shape[3])]
            expected[n, :, :, o] = b[o] + np.sum(maps, axis=0)
        y, _ = convolve(op, x, w, b, padding)
        require_close_or_name(f"y with padding={padding!r}", y, expected, partial(mistakes, x, w, b, padding), scale=1.0)


@holds("conv2d", "reference")
def dx_of_one_pixel_is_the_kernel(op: Op, draw: Draw) -> None:
    """A dy that is 1 at one pixel of one channel lays that channel's kernel, unflipped, over the pixels that were read."""
    x, w, b = values(draw, 3)
    y, ctx = convolve(op, x, w, b)
    n, i, j, o = (draw.integer(0, size - 1) for size in output_shape(x, w, "valid"))
    dy = np.zeros(y.shape)
    dy[n, i, j, o] = 1

    def laid(kernel: Array) -> Array:
        dx = np.zeros(x.shape)
        dx[n, i : i + 3, j : j + 3] = kernel[:, :, :, o]
        return dx

    wrong = {name: laid(kernel) for name, kernel in kernels(w).items()}
    require_close_or_name("dx", op.backward(dy, ctx)[0], laid(w), lambda: wrong)


@holds("conv2d", "reference")
def dw_is_the_image_times_the_gradient(op: Op, draw: Draw) -> None:
    """dw[r,s,c,o] is the sum over images and pixels of x shifted by (r, s) times dy."""
    for padding in paddings(op):
        x, w, b = values(draw, 3)
        y, ctx = convolve(op, x, w, b, padding)
        dy = draw.rng.standard_normal(y.shape)
        pad = 1 if padding == "same" else 0
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        expected = np.empty(w.shape)
        for r, s in product(range(3), range(3)):
            expected[r, s] = np.einsum("nijc,nijo->co", padded[:, r : r + y.shape[1], s : s + y.shape[2]], dy)
        wrong = partial(kernels, expected)
        require_close_or_name(f"dw with padding={padding!r}", op.backward(dy, ctx)[1], expected, wrong, scale=1.0)


@holds("conv2d", "reference")
def backward_is_the_transposed_matrix(op: Op, draw: Draw) -> None:
    """Written out as a matrix A, by feeding unit images, forward is A x and dx is A' dy."""
    _, w, b = values(draw, 3)
    c = w.shape[2]
    height, width = draw.choice(((3, 4), (4, 3), (3, 3)))
    inputs = height * width * c
    for padding in paddings(op):
        y, ctx = convolve(op, np.eye(inputs).reshape(-1, height, width, c), w, 0 * b, padding)
        matrix = y.reshape(inputs, -1)  # transposed: a row for every input
        dy = draw.rng.standard_normal(y.shape)
        expected = dy.reshape(inputs, -1) @ matrix.T
        require_close(f"dx with padding={padding!r}", op.backward(dy, ctx)[0].reshape(inputs, inputs), expected, scale=1.0)


@holds("conv2d", "reference")
def a_large_map(op: Op, draw: Draw) -> None:
    """A map too large for one piece of work memory gives the same as a sum of shifted matrix products."""
    c, o = draw.choice(((32, 33), (33, 32)))
    normal = draw.rng.standard_normal
    x, w, b = normal((1, 38, 34, c)), normal((3, 3, c, o)), normal(o)
    y, ctx = convolve(op, x, w, b)
    dy = normal((1, 36, 32, o))
    expected, dx, dw = np.broadcast_to(b, dy.shape).copy(), np.zeros(x.shape), np.empty(w.shape)
    for r, s in product(range(3), range(3)):
        window = np.s_[:, r : r + 36, s : s + 32]
        expected += x[window] @ w[r, s]
        dx[window] += dy @ w[r, s].T
        dw[r, s] = x[window].reshape(-1, c).T @ dy.reshape(-1, o)
    require_close("y", y, expected)
    for name, found, wanted in zip(("dx", "dw", "db"), op.backward(dy, ctx), (dx, dw, dy.sum(axis=(0, 1, 2))), strict=True):
        require_close(name, found, wanted, scale=100.0)


@holds("conv1x1", "reference")
def every_pixel_is_multiplied_by_a_matrix(op: Op, draw: Draw) -> None:
    """A 1x1 convolution multiplies the channels of every pixel by one matrix and adds b."""
    x, w, b = values(draw, 1, low=1)
    if draw.choice((False, True)):
        x = hard(draw, x.shape)
    expected = np.empty(output_shape(x, w, "valid"))
    for n, i, j, o in np.ndindex(expected.shape):
        expected[n, i, j, o] = b[o] + sum(x[n, i, j, c] * w[0, 0, c, o] for c in range(x.shape[3]))
    require_close("y", op.forward(x, w, b)[0], expected, scale=float(np.abs(x).max()))


# ---------------------------------------------------------------------------------------------------------------------
# Invariance
# ---------------------------------------------------------------------------------------------------------------------


@holds("conv2d", "invariance")
def a_kernel_with_a_single_one_shifts(op: Op, draw: Draw) -> None:
    """A kernel that is 1 at (r, s) copies the image from r rows below and s columns to the right, bit for bit."""
    x, _, _ = values(draw, 3)
    x = x[..., :1]
    r, s = draw.integer(0, 2), draw.integer(0, 2)
    w = np.zeros((3, 3, 1, 1))
    w[r, s] = 1
    y, _ = convolve(op, x, w, np.zeros(1))
    require_equal(f"y of a kernel that is 1 at [{r}, {s}]", y, x[:, r : r + x.shape[1] - 2, s : s + x.shape[2] - 2])


@holds("conv2d", "invariance")
def the_bias_is_added_and_its_gradient_is_a_sum(op: Op, draw: Draw) -> None:
    """b is added to every pixel, and db adds dy up over images and pixels: the sum, not the mean."""
    x, w, b = values(draw, 3)
    _bias(op, x, w, b, draw)


@holds("conv1x1", "invariance")
def the_bias_of_one_pixel(op: Op, draw: Draw) -> None:
    """b is added to every pixel, and db adds dy up over images and pixels: the sum, not the mean."""
    x, w, b = values(draw, 1, low=1)
    _bias(op, x, w, b, draw)


def _bias(op: Op, x: Array, w: Array, b: Array, draw: Draw) -> None:
    y, ctx = op.forward(x, w, b)
    require_close("y - y without b", y - op.forward(x, w, 0 * b)[0], np.broadcast_to(b, y.shape), scale=10.0)
    dy = draw.rng.standard_normal(y.shape)
    require_close("db", op.backward(dy, ctx)[2], np.einsum("nijo->o", dy), scale=1.0)


@holds("conv2d", "invariance")
def a_shifted_image_gives_a_shifted_map(op: Op, draw: Draw) -> None:
    """Away from the border, moving the image by some pixels moves the map by as many."""
    down, right = draw.integer(0, 3), draw.integer(0, 3)
    for padding in paddings(op):
        x, w, b = values(draw, 3, low=6, high=8)
        whole, moved = convolve(op, x, w, b, padding)[0], convolve(op, x[:, down:, right:], w, b, padding)[0]
        inner = np.s_[:, 1:-1, 1:-1] if padding == "same" else np.s_[:, :, :]
        require_close(f"y of an image moved by ({down}, {right})", moved[inner], whole[:, down:, right:][inner], scale=1.0)


@holds("conv2d", "invariance")
def channels_may_be_renamed(op: Op, draw: Draw) -> None:
    """Permuting the channels of x with those of w changes nothing; permuting the outputs of w and b permutes y."""
    x, w, b = values(draw, 3)
    into, out = draw.rng.permutation(w.shape[2]), draw.rng.permutation(w.shape[3])
    y, _ = convolve(op, x, w, b)
    require_close("y with permuted input channels", convolve(op, x[..., into], w[:, :, into], b)[0], y, scale=1.0)
    require_close("y with permuted output channels", convolve(op, x, w[..., out], b[out])[0], y[..., out], scale=1.0)


@holds("conv2d", "invariance")
def turning_image_and_kernel_turns_the_map(op: Op, draw: Draw) -> None:
    """Rotating, flipping or transposing image and kernel alike does the same to the map and to dx."""
    turns: dict[str, Callable[..., Array]] = {"rotated": lambda a, axes: np.rot90(a, 1, axes),
                                              "flipped": lambda a, axes: np.flip(a, axes[0]),
                                              "transposed": lambda a, axes: np.swapaxes(a, *axes)}  # fmt: skip
    for padding in paddings(op):
        x, w, b = values(draw, 3)
        y, ctx = convolve(op, x, w, b, padding)
        dy = draw.rng.standard_normal(y.shape)
        dx, dw, _ = op.backward(dy, ctx)
        for how, turn in turns.items():
            turned, ctx = convolve(op, turn(x, (1, 2)), turn(w, (0, 1)), b, padding)
            require_close(f"y {how}", turned, turn(y, (1, 2)), scale=1.0)
            turned_dx, turned_dw, _ = op.backward(turn(dy, (1, 2)), ctx)
            require_close(f"dx {how}", turned_dx, turn(dx, (1, 2)), scale=1.0)
            require_close(f"dw {how}", turned_dw, turn(dw, (0, 1)), scale=1.0)


@holds("conv2d", "invariance")
def two_convolutions_are_one_of_5x5(op: Op, draw: Draw) -> None:
    """Two 3x3 kernels in a row see 5x5 pixels: they equal SciPy's correlation with their full convolution."""
    from scipy.signal import convolve2d, correlate2d

    image = draw.rng.standard_normal((draw.integer(5, 8), draw.integer(5, 8)))
    first, second = draw.rng.standard_normal((2, 3, 3))
    y, _ = convolve(op, image[None, :, :, None], first[:, :, None, None], np.zeros(1))
    y, _ = convolve(op, y, second[:, :, None, None], np.zeros(1))
    require_close("y", y[0, :, :, 0], correlate2d(image, convolve2d(first, second), mode="valid"), scale=10.0)


@holds("conv2d", "invariance")
def same_is_valid_of_the_zero_padded_image(op: Op, draw: Draw) -> None:
    """Padding "same" gives what "valid" gives of an image with zeros around it, in both directions."""
    for padding in paddings(op)[1:]:
        x, w, b = values(draw, 3, low=1)
        y, ctx = convolve(op, x, w, b, padding)
        padded, padded_ctx = convolve(op, np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), w, b)
        require_close("y", y, padded, scale=1.0)
        dy = draw.rng.standard_normal(y.shape)
        (dx, dw, db), (dpadded, dw2, db2) = op.backward(dy, ctx), op.backward(dy, padded_ctx)
        require_close("dx", dx, dpadded[:, 1:-1, 1:-1], scale=1.0)
        require_close("dw", dw, dw2, scale=1.0)
        require_close("db", db, db2, scale=1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Contract
# ---------------------------------------------------------------------------------------------------------------------


@holds("conv2d", "contract")
def an_axis_made_by_none(op: Op, draw: Draw) -> None:
    """image[None, :, :, None], whose axes of length 1 have stride 0, gives what a copy of it gives."""
    image = draw.rng.standard_normal((draw.integer(3, 6), draw.integer(3, 6)))
    kernel = draw.rng.standard_normal((3, 3))
    for padding in paddings(op):
        x, w, b = image[None, :, :, None], kernel[:, :, None, None], draw.rng.standard_normal(1)
        y, ctx = convolve(op, x, w, b, padding)
        copied, copied_ctx = convolve(op, x.copy(), w.copy(), b, padding)
        require_close("y", y, copied, scale=1.0)
        dy = draw.rng.standard_normal(y.shape[1:3])[None, :, :, None]
        for name, found, expected in zip("xwb", op.backward(dy, ctx), op.backward(dy.copy(), copied_ctx), strict=True):
            require_close(f"d{name}", found, expected, scale=1.0)


@holds("conv2d", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """Weights for other channels, a bias of another length, and a map smaller than the kernel are refused, not broadcast."""
    x, w, b = values(draw, 3)
    c, o = w.shape[2:]
    more = np.zeros((3, 3, c + 1, o))
    require_refused(f"w of shape {more.shape} for x of shape {x.shape}", lambda: op.forward(x, more, b))
    require_refused(f"b of shape {(o + 1,)} for {o} output channels", lambda: op.forward(x, w, np.zeros(o + 1)))
    require_refused("a map of 2 rows under a 3x3 kernel", lambda: op.forward(x[:, :2], w, b))
    require_refused("an image without a batch axis", lambda: op.forward(x[0], w, b))
