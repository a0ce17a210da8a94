"""Up-convolution 2x2 with stride 2 (section 2): every input pixel paints a 2x2 block of the output, and no two blocks overlap.

It is the adjoint of the convolution of stride 2 with the same weights, which is why w is (2, 2, O, C): seen from that
convolution, O goes in and C comes out. It is not its inverse.

Letters: N images, H x W the input's rows x columns, C channels in, O channels out.
"""

from __future__ import annotations

from typing import NamedTuple

import tinyunet.rungs  # noqa: F401  puts the rungs on the ladder
from tinyunet import ladder
from tinyunet.backend import Array
from tinyunet.errors import ShapeError
from tinyunet.ops.contract import as_gradient, as_map, channel_sum, check_param, with_bias


class UpConvContext(NamedTuple):
    """The two factors of the product; each one's gradient needs the other."""

    x: Array  # (N, H, W, C)
    w: Array  # (2, 2, O, C)


def upconv_forward(x: Array, w: Array, b: Array) -> tuple[Array, UpConvContext]:
    """y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c]        a, d in {0, 1}

    (N, H, W, C), (2, 2, O, C), (O,) -> (N, 2H, 2W, O)

    Raises ShapeError if the shapes do not go together, DTypeError for mixed dtypes.
    """
    x = as_map("upconv", x)
    if w.ndim != 4 or w.shape[:2] != (2, 2):
        raise ShapeError(f"upconv: w has shape {w.shape}, expected (2, 2, O, C).")
    check_param("upconv", "w", w, (2, 2, w.shape[2], x.shape[3]), x)
    check_param("upconv", "b", b, (w.shape[2],), x)
    y = with_bias(ladder.pick("upconv2x2", x, w, "forward"), b, x, w)
    return y, UpConvContext(x, w)


def upconv_backward(dy: Array, ctx: UpConvContext) -> tuple[Array, Array, Array]:
    """dx[n,i,j,c] = sum over a,d,o of dy[n, 2i+a, 2j+d, o] w[a,d,o,c], the convolution of stride 2
    dw[a,d,o,c]   = sum over n,i,j of dy[n, 2i+a, 2j+d, o] x[n,i,j,c]
    db[o]         = sum over n and all pixels of dy

    (N, 2H, 2W, O) -> (N, H, W, C), (2, 2, O, C), (O,)
    """
    x, w = ctx
    n, height, width, _ = x.shape
    dy = as_gradient("upconv", dy, (n, 2 * height, 2 * width, w.shape[2]), x.dtype)
    by_x, by_w = ladder.pick("upconv2x2", x, w, "grad_x"), ladder.pick("upconv2x2", x, w, "grad_w")
    dw = by_w.grad_w(x, dy)
    del x, ctx  # before dx needs memory: of a large map, one is enough
    dx = by_x.grad_x(dy, w)
    return dx, dw, channel_sum(dy)
