"""Convolution with a 3x3 or 1x1 kernel and stride 1 (section 2 of the paper: "unpadded", that is "valid").

What deep learning calls convolution is correlation: the kernel is not flipped. So is this.

The sum itself is written several times in `tinyunet/rungs/`: as the formula says (loops.py), as nine shifted matrix products
(taps.py, the one to read), as one large matrix product (im2col.py, strips.py; planes.py for an image of one channel), and with
fewer multiplications (winograd1d.py, winograd.py). `ladder.pick` takes the one that should be fastest. A 1x1 convolution is a
single matrix product and stands here.

Letters: N images, H rows, W columns, C channels in, P x Q the output's rows x columns, O channels out, K kernel size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import tinyunet.rungs  # noqa: F401  puts the rungs on the ladder
from tinyunet import cuda, ladder
from tinyunet.backend import Array
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.ops.contract import add_bias, as_gradient, as_map, channel_sum, check_param, with_bias
from tinyunet.parallel import each, over_rows

Padding = Literal["valid", "same"]


class ConvContext(NamedTuple):
    """The two factors of the product; each one's gradient needs the other.

    x is kept and not its im2col columns: for one 572 x 572 image through the paper's network, 442 MiB instead of 3.5 GiB.
    """

    x: Array  # (N, H, W, C)
    w: Array  # (K, K, C, O)
    pad: int  # zeros on each side, in pixels


def conv2d_forward(x: Array, w: Array, b: Array, padding: Padding = "valid") -> tuple[Array, ConvContext]:
    """y[n,i,j,o] = b[o] + sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o]

    (N, H, W, C), (K, K, C, O), (O,) -> (N, P, Q, O)

    padding="valid": pad = 0 and P = H - K + 1; every output pixel saw a full window of real pixels.
    padding="same": pad = (K-1)/2 and P = H; x counts as zero outside the image.

    Raises ShapeError if the shapes do not go together or the image is smaller than the kernel, DTypeError for mixed dtypes.
    """
    x = as_map("conv2d", x)
    if w.ndim != 4 or w.shape[0] != w.shape[1] or w.shape[0] not in (1, 3):
        raise ShapeError(f"conv2d: w has shape {w.shape}, expected (K, K, C, O) with K = 1 or 3.")
    size, _, _, c_out = w.shape
    check_param("conv2d", "w", w, (size, size, x.shape[3], c_out), x)
    check_param("conv2d", "b", b, (c_out,), x)
    pad = _pad(padding, size)
    if min(x.shape[1], x.shape[2]) + 2 * pad < size:
        raise ShapeError(
            f"conv2d: a {x.shape[1]}x{x.shape[2]} map is smaller than the {size}x{size} kernel. Give at least {size}x{size}."
        )
    if size == 3:
        y = with_bias(ladder.pick("conv3x3", x, w, "forward"), b, x, w, pad)
    elif cuda.takes(x) and cuda.head.takes(x.shape[3], c_out):
        y = cuda.head.forward(x, w, b)
    else:
        y = over_rows(lambda x: x @ w[0, 0], x)
        add_bias(y, b)
    return y, ConvContext(x, w, pad)


def conv2d_backward(dy: Array, ctx: ConvContext) -> tuple[Array, Array, Array]:
    """dx[n,h,v,c] = sum over r,s,o of dy[n, h-r+pad, v-s+pad, o] w[r,s,c,o]
    dw[r,s,c,o]   = sum over n,i,j of x[n, i+r-pad, j+s-pad, c] dy[n,i,j,o]
    db[o]         = sum over n,i,j of dy[n,i,j,o]

    (N, P, Q, O) -> (N, H, W, C), (K, K, C, O), (O,)

    Forward is linear in x, so it is some large matrix times x, and dx is the transpose of that matrix times dy. (The
    transpose of a linear map is called its adjoint.) The same holds for w and dw.
    """
    x, w, pad = ctx
    size, _, c_in, c_out = w.shape
    dy = as_gradient("conv2d", dy, (x.shape[0], *(n + 2 * pad - size + 1 for n in x.shape[1:3]), c_out), x.dtype)
    if size == 1 and cuda.takes(dy) and cuda.head.takes(c_in, c_out):
        return cuda.head.backward(dy, x, w)
    if size == 1:
        # As a job: left to itself, BLAS would cut this long sum by the number of its threads.
        (dw,) = each(lambda dy: (x.reshape(-1, c_in).T @ dy.reshape(-1, c_out)).reshape(w.shape), [dy])
        del x, ctx  # before dx needs memory: of a large map, one is enough
        dx = over_rows(lambda dy: dy @ w[0, 0].T, dy)
    else:
        by_x, by_w = ladder.pick("conv3x3", x, w, "grad_x"), ladder.pick("conv3x3", x, w, "grad_w")
        dw = by_w.grad_w(x, dy, size, pad)
        del x, ctx
        dx = by_x.grad_x(dy, w, pad)
    return dx, dw, channel_sum(dy)


def _pad(padding: Padding, size: int) -> int:
    if padding not in ("valid", "same"):
        raise ConfigError(f"conv2d: padding is {padding!r}. Choose 'valid' or 'same'.")
    return (size - 1) // 2 if padding == "same" else 0
