"""Crop and concatenate (section 2): the skip is cut to the centre that the up path still has, and put behind it.

Letters: N images, H x W the rows x columns of the up path's map, A x B those of the larger skip, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyunet import cuda
from tinyunet.backend import Array, array_module, require_together
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ops.contract import as_gradient, as_map
from tinyunet.parallel import over_rows
from tinyunet.shapes import Crop, center_crop


class CropConcatContext(NamedTuple):
    """Shapes, offsets and dtype; no pixel is needed to send a gradient to where it belongs."""

    crop: Crop
    up_shape: tuple[int, ...]  # (N, H, W, C_up)
    skip_shape: tuple[int, ...]  # (N, A, B, C_skip)
    dtype: Any


def crop_concat_forward(up: Array, skip: Array) -> tuple[Array, CropConcatContext]:
    """y[..., :C_up] = up,   y[..., C_up:] = skip[:, top : top+H, left : left+W]

    (N, H, W, C_up), (N, A, B, C_skip) -> (N, H, W, C_up + C_skip)

    The crop is central; of an odd difference the extra pixel is cut at the bottom and right. The order, up path first, is that
    of the authors' release; the paper does not state one.

    Raises ShapeError if the skip is smaller than the up path's map, or the numbers of images differ.
    """
    up = as_map("crop_concat", up)
    skip = as_map("crop_concat", skip)
    if up.shape[0] != skip.shape[0]:
        raise ShapeError(f"crop_concat: {up.shape[0]} images come up and {skip.shape[0]} across. They must be the same images.")
    if up.dtype != skip.dtype:
        raise DTypeError(f"crop_concat: up is {up.dtype} and skip is {skip.dtype}. Convert one of them.")
    require_together("crop_concat", "the skip", skip, up)
    crop = center_crop(skip.shape[1:3], up.shape[1:3])
    if cuda.takes(up):
        y = cuda.crop.forward(up, skip, crop.top, crop.left)
        return y, CropConcatContext(crop, up.shape, skip.shape, up.dtype)
    channels = up.shape[3]
    y = array_module(up).empty((*up.shape[:3], channels + skip.shape[3]), up.dtype)

    def formula(up: Array, skip: Array, y: Array) -> None:
        y[..., :channels] = up
        y[..., channels:] = skip

    over_rows(formula, up, skip[_window(crop, up.shape)], y)
    return y, CropConcatContext(crop, up.shape, skip.shape, up.dtype)


def crop_concat_backward(dy: Array, ctx: CropConcatContext) -> tuple[Array, Array]:
    """dup = dy[..., :C_up],   dskip = 0 except dskip[:, top : top+H, left : left+W] = dy[..., C_up:]

    (N, H, W, C_up + C_skip) -> (N, H, W, C_up), (N, A, B, C_skip)
    """
    channels = ctx.up_shape[3]
    dy = as_gradient("crop_concat", dy, (*ctx.up_shape[:3], channels + ctx.skip_shape[3]), ctx.dtype)
    if cuda.takes(dy):
        return cuda.crop.backward(dy, channels, ctx.skip_shape, ctx.crop.top, ctx.crop.left)
    dup = array_module(dy).empty(ctx.up_shape, dy.dtype)
    dskip = array_module(dy).zeros(ctx.skip_shape, dy.dtype)

    def formula(dy: Array, dup: Array, dskip: Array) -> None:
        dup[...] = dy[..., :channels]
        dskip[...] = dy[..., channels:]

    over_rows(formula, dy, dup, dskip[_window(ctx.crop, ctx.up_shape)])
    return dup, dskip


def _window(crop: Crop, up_shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """From explicit start and stop: a slice like [k:-k] would be empty for k = 0."""
    height, width = up_shape[1:3]
    return slice(None), slice(crop.top, crop.top + height), slice(crop.left, crop.left + width)
