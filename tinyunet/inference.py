"""Segmenting an image of any size: mirror the border, go tile by tile, keep what is exact (section 1, figure 2).

With tiles placed by `tinyunet.shapes.tile_spans` the result is that of one huge pass over the whole image, up to rounding, in
a fraction of the memory. There are no seams to blend.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypedDict, get_args

import numpy as np

from tinyunet import parallel, shapes
from tinyunet.backend import Array, array_module, move, to_numpy
from tinyunet.data.instances import components
from tinyunet.data.masks import is_grey
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError, DataError, ShapeError
from tinyunet.ops.loss import sigmoid, softmax
from tinyunet.ops.pad import mirror_index
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

Average = Literal["none", "mirror4", "dihedral8", "rotate7"]
Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of all tiles."""

MAX_MEM = 1024.0
"""Default memory budget of a prediction, in MiB."""

BASELINE = 160 * shapes.MIB
"""What a Python process with NumPy and SciPy takes before any work, in bytes; part of every budget."""

# Flips along rows and columns, and the transpose, before the network; undone after it in reverse order.
_VIEWS: dict[str, tuple[tuple[bool, bool, bool], ...]] = {
    "none": ((False, False, False),),
    "mirror4": tuple((r, c, False) for r in (False, True) for c in (False, True)),
    "dihedral8": tuple((r, c, t) for t in (False, True) for r in (False, True) for c in (False, True)),
}
_TURNS = 7


class Tiling(TypedDict, total=False):
    """Options that `predict` has, for those that hand them on to it."""

    tile_in: int | tuple[int, int] | None
    max_mem: float
    average: Average
    progress: Progress | None
    reserved: int


class TileResult(NamedTuple):
    """Probabilities of one window of the result."""

    rows: slice
    cols: slice
    proba: Array  # (h, w, K), float32 as the network


def predict_tiles(
    model: UNet,
    image: Array,
    normalization: Normalization | None = None,
    *,
    tile_in: int | tuple[int, int] | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
    reserved: int = 0,
) -> Iterator[TileResult]:
    """Class probabilities of an image, tile by tile: windows that cover it once.

    (H, W) or (H, W, C) -> windows of (h, w, K); K = 2 for a network with one logit: background and foreground

    tile_in   side of the network's input in pixels, or (rows, columns), as `default_tile` gives them; by default the largest
              that `max_mem` allows. Along an axis where the image needs less, less is computed
    max_mem   MiB for everything: the process, the image (of a view the whole array), the weights, one tile in the network,
              and `reserved`. A `tile_in` of your own is taken whatever it needs
    average   "mirror4": mean over the image and its three mirror images, as the authors' release does; "dihedral8": over
              all eight flips and quarter turns. (The release averages scores; we average probabilities.) Each tile is
              turned by itself, with its mirrored border, so that the memory budget holds. The average of a turned image is
              exactly the turned average if its sides suit the grid of the poolings: if a side and twice the margin make an
              input that fits (with same padding: a multiple of 2^depth). If not, the grid, which begins at the first pixel,
              lies otherwise in the turned image, and the two differ a little
              "rotate7": over seven rotations by multiples of 360/7 degrees, for the "7 rotated versions" of the paper's EM
              result (section 4; it does not say which angles); in one window, for it needs the whole image
    reserved  bytes for what the caller makes of the result, e.g. H W `tinyunet.data.instances.INSTANCE_BYTES` for objects

    The network is in eval mode within a tile, and between tiles as it was. Arguments are checked by the call itself; pixels,
    and the canvas of each rotation, when their turn comes.

    Raises ConfigError for an impossible average or budget, DataError for an image that is not finite, ShapeError for one with
    the wrong number of channels or a `tile_in` that does not fit.
    """
    if average not in get_args(Average):
        raise ConfigError(f"predict: average {average!r} is none of {', '.join(get_args(Average))}.")
    image = as_image(image, model.spec.channels)
    normalization = normalization or Normalization()
    height, width = image.shape[:2]
    chosen = _checked_sides(model.spec, tile_in) if tile_in is not None else None
    mean, std = normalization.stats(image)
    if average == "rotate7":

        def whole() -> Iterator[TileResult]:
            proba = _rotated_mean(model, image, mean, std, tile_in, max_mem, progress, reserved)
            yield TileResult(slice(0, height), slice(0, width), proba)

        return whole()
    sides = chosen or _sides_for_budget(model, image, max_mem, reserved)
    rows, cols = (_spans(model.spec, n, side) for n, side in zip((height, width), sides, strict=True))
    dtype = model.head.params["w"].dtype

    def tiles() -> Iterator[TileResult]:
        for done, (row, col) in enumerate(((row, col) for row in rows for col in cols), start=1):
            pixels = np.ix_(mirror_index(row.in_start, row.in_stop, height), mirror_index(col.in_start, col.in_stop, width))
            x = image[pixels].astype(dtype)[None]
            x -= mean
            x /= std
            if not np.isfinite(x).all():
                raise DataError("predict: the image holds NaN or infinite values. Replace them, e.g. with numpy.nan_to_num.")
            x, views = move(x, model.device), _VIEWS[average]
            with _eval_mode(model):
                proba = _forward(model, x, views[0])
                for view in views[1:]:
                    proba += _forward(model, x, view)
            proba /= len(views)
            (top, bottom), (left, right) = ((s.offset, s.offset + s.stop - s.start) for s in (row, col))
            yield TileResult(slice(row.start, row.stop), slice(col.start, col.stop), to_numpy(proba[0, top:bottom, left:right]))
            if progress:
                progress(done, len(rows) * len(cols))

    return tiles()


def predict_proba(
    model: UNet,
    image: Array,
    normalization: Normalization | None = None,
    *,
    tile_in: int | tuple[int, int] | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
    reserved: int = 0,
) -> Array:
    """Class probabilities of every pixel of an image of any size. Arguments as for `predict_tiles`.

    (H, W) or (H, W, C) -> (H, W, K) in the dtype of the network's weights, float32 unless they were converted
    """
    image = as_image(image, model.spec.channels)
    proba = np.empty((*image.shape[:2], max(model.spec.classes, 2)), model.head.params["w"].dtype)
    reserved += proba.nbytes
    for part in predict_tiles(
        model, image, normalization, tile_in=tile_in, max_mem=max_mem, average=average, progress=progress, reserved=reserved
    ):
        proba[part.rows, part.cols] = part.proba
    return proba


def predict(
    model: UNet,
    image: Array,
    normalization: Normalization | None = None,
    *,
    tile_in: int | tuple[int, int] | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
    reserved: int = 0,
) -> Array:
    """The most probable class of every pixel of an image of any size. Arguments as for `predict_tiles`.

    (H, W) or (H, W, C) -> (H, W) uint8 (uint16 beyond 256 classes)

    Probabilities of the whole image are never held, unless they are averaged over rotations.
    """
    image = as_image(image, model.spec.channels)
    labels = np.empty(image.shape[:2], _label_dtype(model))
    reserved += labels.nbytes
    for part in predict_tiles(
        model, image, normalization, tile_in=tile_in, max_mem=max_mem, average=average, progress=progress, reserved=reserved
    ):
        labels[part.rows, part.cols] = part.proba.argmax(-1)
    return labels


def default_tile(model: UNet, image: Array, max_mem: float = MAX_MEM, reserved: int = 0) -> tuple[int, int]:
    """Sides of the tile, in pixels, that `predict` takes for an image. Raises ConfigError if none fits into `max_mem` MiB."""
    image = as_image(image, model.spec.channels)
    labels = image.shape[0] * image.shape[1] * np.dtype(_label_dtype(model)).itemsize
    return _sides_for_budget(model, image, max_mem, reserved + labels)


def instances_of(labels: Array, min_size: int = 0) -> Array:
    """Objects of a segmentation: 4-connected components of everything that is not background.

    (H, W) classes -> (H, W) int32 ids from 1 on, 0 for background

    Components of fewer than `min_size` pixels are removed.
    """
    return components(labels > 0, connectivity=4, min_size=min_size)


def as_image(image: Array, channels: int, who: str = "predict: the image") -> Array:
    """(H, W) or (H, W, C) -> (H, W, channels), checked. Three equal channels are grey: a network of grey gets one of them.

    Raises ShapeError for another shape or number of channels, DataError for an empty image or one that is not numbers.
    """
    image = to_numpy(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise ShapeError(f"{who} has shape {image.shape}, expected (H, W) or (H, W, C). Of a stack, give one image at a time.")
    has = image.shape[2]
    if (has, channels) == (3, 1) and is_grey(image):
        image, has = image[..., :1], 1
    if has != channels and has > 4:  # most likely not channels
        raise ShapeError(
            f"{who} has shape {image.shape}, which is {has} channels, and the network takes {channels}. Channels come last: give "
            "np.moveaxis(image, 0, -1) for (C, H, W); of a stack, one image at a time."
        )
    if has != channels:
        kinds = {
            1: "grey: Image > Type > 8-bit in Fiji, image.mean(-1) in Python",
            3: "RGB: Image > Type > RGB Color in Fiji, np.dstack([grey] * 3) in Python",
        }
        raise ShapeError(
            f"{who} has {counted(has, 'channel')}, the network takes {channels}. Convert it to "
            f"{kinds.get(channels, counted(channels, 'channel'))}."
        )
    if not image.size or image.dtype.kind not in "buif":
        raise DataError(f"{who} has shape {image.shape} and dtype {image.dtype}, and cannot be segmented.")
    return image


def _checked_sides(spec: UNetSpec, tile_in: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a tile; raises ShapeError where a side does not fit."""
    rows, cols = tile_in if isinstance(tile_in, tuple) else (tile_in, tile_in)
    for side in (rows, cols):
        if not shapes.fits(spec, side):
            near = ", ".join(map(str, shapes.nearest_sizes(spec, side)))
            raise ShapeError(
                f"predict: tile_in {side} does not fit a network of depth {spec.depth} with {spec.padding} convolutions. "
                f"Nearest sizes that work: {near}."
            )
    return rows, cols


def _spans(spec: UNetSpec, n: int, side: int) -> tuple[shapes.Span, ...]:
    """`shapes.tile_spans`, none fed with more than its pixels need: neither the last one, nor one that is all there is.

    The result is the same. A part of an input that no pixel looks at can be left out, at the end and in steps of the
    pooling grid. (With same padding, spans end with the image as they come.)
    """
    spans = shapes.tile_spans(spec, n, side)
    if spec.padding == "same":
        return spans
    return tuple(s._replace(in_stop=s.in_start + min(side, shapes.input_size(spec, s.stop - s.start))) for s in spans)


def _sides_for_budget(model: UNet, image: Array, max_mem: float, reserved: int) -> tuple[int, int]:
    """Rows and columns of the largest tile that lets everything fit into `max_mem` MiB.

    The largest square is looked for, less what the image does not need of it; then each side becomes the smallest that
    needs no more tiles: two tiles of 3500 pixels cover 4096 no better than two of 2140 do.
    """
    spec, sides = model.spec, image.shape[:2]
    step, needed = shapes.size_step(spec), [shapes.input_size(spec, n) for n in sides]
    border = shapes.margin(spec)
    if spec.padding == "same":  # what the zeros around a tile can reach is not kept
        border = -(-max(max(reach) for reach in shapes.receptive_field(spec)) // step) * step
    smallest = shapes.legal_size(spec, step + 2 * border)
    squares = range(smallest, max(smallest, *needed) + 1, step)
    taken = BASELINE + _held_bytes(image) + sum(array.nbytes for array in model.state().values()) + reserved

    def total(square: int) -> int:
        rows, cols = (min(square, side) for side in needed)
        percentiles = image.nbytes // spec.channels  # sort a copy of a channel, before there is a tile
        return taken + max(_tile_bytes(model, image.dtype.itemsize, rows, cols), percentiles)

    fitting = bisect_left(squares, True, key=lambda square: not total(square) <= max_mem * shapes.MIB)  # NaN fits nothing
    if not fitting:
        raise ConfigError(
            f"predict: max_mem of {max_mem:g} MiB is too small. Process, image, weights and result take "
            f"{taken / shapes.MIB:.0f} MiB, the smallest tile the rest: give at least {math.ceil(total(smallest) / shapes.MIB)} "
            "MiB, or use a network of smaller base or depth."
        )
    rows, cols = (_tightened(spec, n, min(squares[fitting - 1], side)) for n, side in zip(sides, needed, strict=True))
    return rows, cols


def _held_bytes(image: Array) -> int:
    """Bytes that stay taken as long as the image does: those of the array that it is a view of."""
    while isinstance(image.base, np.ndarray):
        image = image.base
    return image.nbytes


def _tile_bytes(model: UNet, itemsize_in: int, rows: int, cols: int) -> int:
    """What one tile takes at its worst: while it is cut out, in the network, or in the softmax.

    In the network there are the maps, and around them the input x, the mean over views and the tile before. In the softmax
    the maps are gone, and there are three arrays more.
    """
    spec, itemsize = model.spec, model.head.params["w"].dtype.itemsize
    workspace = shapes.workspace_bytes(spec, parallel.count()) * itemsize // 4  # given for float32
    maps = shapes.forward_bytes(spec, rows, cols, itemsize) - shapes.workspace_bytes(spec)
    x, proba = (rows * cols * itemsize * c for c in (spec.channels, max(spec.classes, 2)))
    return workspace + max(x * itemsize_in // itemsize + x + proba, maps + x + 2 * proba, x + 5 * proba)


def _tightened(spec: UNetSpec, n: int, side: int) -> int:
    """The smallest side of a tile that needs no more tiles to cover n pixels."""
    count, step = len(shapes.tile_spans(spec, n, side)), shapes.size_step(spec)
    try:
        while len(shapes.tile_spans(spec, n, side - step)) == count:
            side -= step
    except ShapeError:  # a smaller tile would keep no pixel
        pass
    return side


def _label_dtype(model: UNet) -> type[np.unsignedinteger]:
    return np.uint8 if model.spec.classes <= 256 else np.uint16


def _forward(model: UNet, x: Array, view: tuple[bool, bool, bool]) -> Array:
    """Probabilities for one flipped or transposed view of a tile, turned back: (1, H, W, C) -> (1, h, w, K).

    Tiles may be flipped one by one: the poolings' grid is symmetric about the centre of a tile that fits.
    """
    flip_rows, flip_cols, transpose = view
    axes = tuple(axis for axis, flip in ((1, flip_rows), (2, flip_cols)) if flip)
    xp = array_module(x)
    x = xp.flip(x, axes)
    x = x.transpose(0, 2, 1, 3) if transpose else x
    logits = model.forward(xp.ascontiguousarray(x))
    if model.spec.classes == 1:
        p = sigmoid(logits)
        proba = xp.concatenate((1 - p, p), axis=-1)
    else:
        proba = softmax(logits)
    proba = proba.transpose(0, 2, 1, 3) if transpose else proba
    return xp.flip(proba, axes)


def _rotated_mean(
    model: UNet,
    image: Array,
    mean: Array,
    std: Array,
    tile_in: int | tuple[int, int] | None,
    max_mem: float,
    progress: Progress | None,
    reserved: int,
) -> Array:
    """Rotate the image about its centre onto a canvas that holds it, predict, rotate the probabilities back; take the mean."""
    from scipy.ndimage import affine_transform

    height, width = image.shape[:2]
    dtype = model.head.params["w"].dtype
    standard = image.astype(dtype)
    standard -= mean
    standard /= std
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    total = np.zeros((height, width, max(model.spec.classes, 2)), dtype)
    for turn in range(_TURNS):
        angle = 2 * np.pi * turn / _TURNS
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        size = np.ceil(np.abs(matrix) @ [height, width] - 1e-9).astype(int)  # the rotated image's bounding box
        middle = (size - 1) / 2
        canvas = np.empty((*size, standard.shape[-1]), dtype)
        for k, plane in enumerate(np.moveaxis(standard, -1, 0)):
            canvas[..., k] = affine_transform(plane, matrix, centre - matrix @ middle, tuple(size), order=1, mode="mirror")
        proba = np.empty((*size, total.shape[-1]), dtype)
        held = _held_bytes(image) + standard.nbytes + total.nbytes + proba.nbytes + reserved
        show = _part_of(progress, turn, _TURNS)
        for part in predict_tiles(
            model, canvas, Normalization("none"), tile_in=tile_in, max_mem=max_mem, progress=show, reserved=held
        ):
            proba[part.rows, part.cols] = part.proba
        back = matrix.T
        for k, plane in enumerate(np.moveaxis(proba, -1, 0)):
            total[..., k] += affine_transform(plane, back, middle - back @ centre, (height, width), order=1, mode="nearest")
        del canvas, proba, plane, part  # the next turn's budget does not know of them
    total /= _TURNS
    return total


def _part_of(progress: Progress | None, turn: int, turns: int) -> Progress | None:
    return (lambda done, n: progress(turn * n + done, turns * n)) if progress else None


@contextmanager
def _eval_mode(model: UNet) -> Iterator[None]:
    """Eval mode inside the block, the mode from before after it."""
    training, remembering = model.training, model.head.remembering
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
        else:
            model.eval(remembering)
