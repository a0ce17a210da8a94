"""What an up-convolution keeps: it paints blocks that do not overlap, and is the adjoint of the convolution of stride 2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Op, holds, require, require_close
from tinyunet.catalogue.laws import Case, geometry, hard, keep_laws, require_equal, require_refused
from tinyunet.check import check_adjoint


def values(draw: Draw) -> tuple[Array, Array, Array]:
    """x, w, b with random normal values."""
    n, height, width, c = geometry(draw, high=4)
    o = draw.integer(1, 4)
    normal = draw.rng.standard_normal
    return normal((n, height, width, c)), normal((2, 2, o, c)), normal(o)


def stride_2_convolution(v: Array, w: Array) -> Array:
    """The convolution that is meant, with kernel w from O to C channels: (N, 2H, 2W, O) -> (N, H, W, C)"""
    n, rows, cols, o = v.shape
    return np.einsum("niajbo,aboc->nijc", v.reshape(n, rows // 2, 2, cols // 2, 2, o), w)


def cases(op: Op, draw: Draw) -> Iterator[Case]:
    x, w, b = values(draw)
    n, height, width, _ = x.shape
    shape = n, 2 * height, 2 * width, w.shape[2]
    yield Case({"x": x, "w": w, "b": b}, op.forward, op.backward, shape, linear=("x", "w", "b"))


keep_laws("upconv", cases)


@holds("upconv", "reference")
def forward_is_the_formula(op: Op, draw: Draw) -> None:
    """y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c], with a and d in {0, 1}."""
    x, w, b = values(draw)
    if draw.choice((False, True)):
        x = hard(draw, x.shape)
    n, height, width, _ = x.shape
    expected = np.empty((n, 2 * height, 2 * width, w.shape[2]))
    for m, i, j in np.ndindex(expected.shape[:3]):
        expected[m, i, j] = w[i % 2, j % 2] @ x[m, i // 2, j // 2] + b
    require_close("y", op.forward(x, w, b)[0], expected, scale=float(np.abs(x).max()))


@holds("upconv", "reference")
def one_pixel_paints_the_kernel(op: Op, draw: Draw) -> None:
    """A single 1 paints the kernel itself, unflipped, into its own 2x2 block and nothing else."""
    x = np.zeros((1, draw.integer(1, 4), draw.integer(1, 4), 1))
    i, j = draw.integer(0, x.shape[1] - 1), draw.integer(0, x.shape[2] - 1)
    x[0, i, j] = 1
    kernel = draw.rng.standard_normal((2, 2))
    expected = np.zeros((2 * x.shape[1], 2 * x.shape[2]))
    expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = kernel
    require_equal("y", op.forward(x, kernel[:, :, None, None], np.zeros(1))[0][0, :, :, 0], expected)


@holds("upconv", "reference")
def gradients_of_w_and_b_are_sums(op: Op, draw: Draw) -> None:
    """dw[a,d,o,c] sums dy[n, 2i+a, 2j+d, o] x[n,i,j,c] over images and pixels, db sums dy; neither is a mean."""
    x, w, b = values(draw)
    y, ctx = op.forward(x, w, b)
    dy = draw.rng.standard_normal(y.shape)
    blocks = dy.reshape(x.shape[0], x.shape[1], 2, x.shape[2], 2, -1)
    _, dw, db = op.backward(dy, ctx)
    require_close("dw", dw, np.einsum("niajbo,nijc->aboc", blocks, x), scale=1.0)
    require_close("db", db, np.einsum("nijo->o", dy), scale=1.0)


@holds("upconv", "adjoint")
def it_is_the_adjoint_of_the_convolution_of_stride_2(op: Op, draw: Draw) -> None:
    """<up(x), v> = <x, conv_stride_2(v)> with one and the same w; and dx is that convolution of dy."""
    x, w, b = values(draw)
    n, height, width, _ = x.shape
    v = draw.rng.standard_normal((n, 2 * height, 2 * width, w.shape[2]))
    check_adjoint(lambda x: op.forward(x, w, 0 * b)[0], lambda v: stride_2_convolution(v, w), x, v)
    require_close("dx", op.backward(v, op.forward(x, w, b)[1])[0], stride_2_convolution(v, w), scale=1.0)


@holds("upconv", "invariance")
def it_is_not_the_inverse(op: Op, draw: Draw) -> None:
    """Convolving the result with stride 2 and the same weights does not give the image back: an adjoint is no inverse."""
    x, w, b = values(draw)
    back = stride_2_convolution(op.forward(x, w, 0 * b)[0], w)
    require(not np.allclose(back, x), "the convolution of stride 2 undoes the up-convolution; with random weights it cannot")


@holds("upconv", "invariance")
def blocks_are_disjoint(op: Op, draw: Draw) -> None:
    """Changing one input pixel changes its own 2x2 block, all of it, and no other pixel."""
    x, w, b = values(draw)
    n, i, j = (draw.integer(0, size - 1) for size in x.shape[:3])
    other = x.copy()
    other[n, i, j] += 1
    changed = (op.forward(other, w, b)[0] != op.forward(x, w, b)[0]).any(axis=3)
    expected = np.zeros(changed.shape, bool)
    expected[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = True
    require((changed == expected).all(), f"input pixel [{n}, {i}, {j}] changes the pixels {np.argwhere(changed).tolist()}, "
            f"expected {np.argwhere(expected).tolist()}")  # fmt: skip


@holds("upconv", "invariance")
def ones_repeat_every_pixel(op: Op, draw: Draw) -> None:
    """A kernel of ones writes every pixel four times: no checkerboard, since each output pixel gets one contribution."""
    x = draw.rng.standard_normal((2, draw.integer(1, 4), draw.integer(1, 4), 1))
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    require_equal("y of a kernel of ones", op.forward(x, np.ones((2, 2, 1, 1)), np.zeros(1))[0], expected)


@holds("upconv", "invariance")
def a_shifted_image_gives_a_map_shifted_twice_as_far(op: Op, draw: Draw) -> None:
    """Dropping rows and columns of the input drops twice as many of the output."""
    n, c, o = draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 3)
    x, w, b = (draw.rng.standard_normal(shape) for shape in ((n, 4, 5, c), (2, 2, o, c), (o,)))
    down, right = draw.integer(0, 3), draw.integer(0, 4)
    moved, whole = op.forward(x[:, down:, right:], w, b)[0], op.forward(x, w, b)[0]
    require_close(f"y of an image moved by ({down}, {right})", moved, whole[:, 2 * down :, 2 * right :], scale=1.0)


@holds("upconv", "invariance")
def channels_may_be_renamed(op: Op, draw: Draw) -> None:
    """Permuting the channels of x with those of w changes nothing; permuting the outputs of w and b permutes y."""
    x, w, b = values(draw)
    into, out = draw.rng.permutation(w.shape[3]), draw.rng.permutation(w.shape[2])
    y, _ = op.forward(x, w, b)
    require_close("y with permuted input channels", op.forward(x[..., into], w[..., into], b)[0], y, scale=1.0)
    require_close("y with permuted output channels", op.forward(x, w[:, :, out], b[out])[0], y[..., out], scale=1.0)


@holds("upconv", "contract")
def an_axis_made_by_none(op: Op, draw: Draw) -> None:
    """image[None, :, :, None], whose axes of length 1 have stride 0, gives what a copy of it gives."""
    image, kernel = draw.rng.standard_normal((draw.integer(1, 4), draw.integer(1, 4))), draw.rng.standard_normal((2, 2))
    arguments = image[None, :, :, None], kernel[:, :, None, None], draw.rng.standard_normal(1)
    y, ctx = op.forward(*arguments)
    copied, copied_ctx = op.forward(*(v.copy() for v in arguments))
    require_close("y", y, copied, scale=1.0)
    dy = draw.rng.standard_normal(y.shape[1:3])[None, :, :, None]
    for name, found, expected in zip("xwb", op.backward(dy, ctx), op.backward(dy.copy(), copied_ctx), strict=True):
        require_close(f"d{name}", found, expected, scale=1.0)


@holds("upconv", "contract")
def what_does_not_fit_is_refused(op: Op, draw: Draw) -> None:
    """Weights for other channels, or laid out (2, 2, C, O), and a bias of another length are refused, not broadcast."""
    x, w, b = values(draw)
    o, c = w.shape[2:]
    more, swapped = np.zeros((2, 2, o, c + 1)), np.zeros((2, 2, c + 1, c + 2))
    require_refused(f"w of shape {more.shape} for x of shape {x.shape}", lambda: op.forward(x, more, b))
    require_refused(f"w of shape {swapped.shape} for x of shape {x.shape}", lambda: op.forward(x, swapped, np.zeros(c + 1)))
    require_refused(f"b of shape {(o + 1,)} for {o} output channels", lambda: op.forward(x, w, np.zeros(o + 1)))
    require_refused("an image without a batch axis", lambda: op.forward(x[0], w, b))
