"""Segmenting an image of any size: mirror the border, go tile by tile, keep what is exact (section 1, figure 2).

With tiles placed by `tinyunet.shapes.tile_spans` the result is that of one huge pass over the whole image, up to rounding, in
a fraction of the memory. There are no seams to blend.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np

from tinyunet import shapes
from tinyunet.backend import Array, to_numpy
from tinyunet.data.instances import components, remove_small
from tinyunet.data.normalize import Normalization
from tinyunet.errors import ConfigError, DataError, ShapeError
from tinyunet.ops.loss import sigmoid, softmax
from tinyunet.ops.pad import mirror_index
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
    tile: int | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
    reserved: int = 0,
) -> Iterator[TileResult]:
    """Class probabilities of an image, tile by tile: windows that cover it once.

    (H, W) or (H, W, C) -> windows of (h, w, K); K = 2 for a network with one logit: background and foreground

    tile      side of the network's input in pixels; by default the largest that `max_mem` allows
    max_mem   MiB for everything: the process, the image, the weights, one tile in the network, and `reserved` bytes
              that the caller needs for results
    average   "mirror4": mean over the image and its three mirror images, as the authors' release does; "dihedral8": over
              all eight flips and quarter turns. (The release averages scores; we average probabilities.) Each tile is
              turned by itself, with its mirrored border, so that the memory budget holds

    The network is put in eval mode for the duration. Raises ConfigError for an impossible tile or budget, DataError for an
    image that is not finite, ShapeError for one with the wrong number of channels.
    """
    if average not in _VIEWS:
        raise ConfigError(
            f"predict_tiles: average {average!r} is none of {', '.join(_VIEWS)}. 'rotate7' needs the whole image: see `predict`."
        )
    image = as_image(image, model.spec.channels)
    mean, std = (normalization or Normalization()).stats(image)
    height, width = image.shape[:2]
    if tile is None:
        tile = _tile_for_budget(model, image, max_mem, reserved)
    rows, cols = (shapes.tile_spans(model.spec, n, tile) for n in (height, width))
    dtype = model.head.params["w"].dtype
    with _eval_mode(model):
        for done, (row, col) in enumerate(((row, col) for row in rows for col in cols), start=1):
            pixels = np.ix_(mirror_index(row.in_start, row.in_stop, height), mirror_index(col.in_start, col.in_stop, width))
            x = image[pixels].astype(dtype)[None]
            x -= mean
            x /= std
            if not np.isfinite(x).all():
                raise DataError("predict: the image holds NaN or infinite values. Replace them, e.g. with numpy.nan_to_num.")
            views = _VIEWS[average]
            proba = _forward(model, x, views[0])
            for view in views[1:]:
                proba += _forward(model, x, view)
            proba /= len(views)
            (top, bottom), (left, right) = ((s.offset, s.offset + s.stop - s.start) for s in (row, col))
            yield TileResult(slice(row.start, row.stop), slice(col.start, col.stop), proba[0, top:bottom, left:right])
            if progress:
                progress(done, len(rows) * len(cols))


def predict_proba(
    model: UNet,
    image: Array,
    normalization: Normalization | None = None,
    *,
    tile: int | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
) -> Array:
    """Class probabilities of every pixel of an image of any size.

    (H, W) or (H, W, C) -> (H, W, K) in the dtype of the network's weights, float32 unless they were converted

    Arguments as for `predict_tiles`, and `average="rotate7"`: mean over seven rotations by multiples of 360/7 degrees, for
    the "7 rotated versions" of the paper's EM result (section 4; it does not say which angles).
    """
    image = as_image(image, model.spec.channels)
    if average == "rotate7":
        return _rotated_mean(model, image, normalization, 7, tile=tile, max_mem=max_mem, progress=progress)
    proba = np.empty((*image.shape[:2], max(model.spec.classes, 2)), model.head.params["w"].dtype)
    for part in predict_tiles(
        model, image, normalization, tile=tile, max_mem=max_mem, average=average, progress=progress, reserved=proba.nbytes
    ):
        proba[part.rows, part.cols] = part.proba
    return proba


def predict(
    model: UNet,
    image: Array,
    normalization: Normalization | None = None,
    *,
    tile: int | None = None,
    max_mem: float = MAX_MEM,
    average: Average = "none",
    progress: Progress | None = None,
) -> Array:
    """The most probable class of every pixel of an image of any size.

    (H, W) or (H, W, C) -> (H, W) uint8 (uint16 beyond 256 classes)

    Arguments as for `predict_proba`. Probabilities of the whole image are never held, unless they are averaged over rotations.
    """
    if average == "rotate7":
        proba = predict_proba(model, image, normalization, tile=tile, max_mem=max_mem, average=average, progress=progress)
        return proba.argmax(-1).astype(_label_dtype(model))
    image = as_image(image, model.spec.channels)
    labels = np.empty(image.shape[:2], _label_dtype(model))
    for part in predict_tiles(
        model, image, normalization, tile=tile, max_mem=max_mem, average=average, progress=progress, reserved=labels.nbytes
    ):
        labels[part.rows, part.cols] = part.proba.argmax(-1)
    return labels


def default_tile(model: UNet, image: Array, max_mem: float = MAX_MEM) -> int:
    """Side of the tile, in pixels, that `predict` takes for an image. Raises ConfigError if none fits into `max_mem` MiB."""
    image = as_image(image, model.spec.channels)
    reserved = image.shape[0] * image.shape[1] * np.dtype(_label_dtype(model)).itemsize
    return _tile_for_budget(model, image, max_mem, reserved)


def instances_of(labels: Array, min_size: int = 0) -> Array:
    """Objects of a segmentation: 4-connected components of everything that is not background.

    (H, W) classes -> (H, W) int32 ids from 1 on, 0 for background

    Components of fewer than `min_size` pixels are removed.
    """
    return remove_small(components(labels > 0, connectivity=4), min_size)


def as_image(image: Array, channels: int) -> Array:
    """(H, W) or (H, W, C) -> (H, W, C), checked.

    Raises ShapeError for another shape or number of channels, DataError for an empty image or one that is not numbers.
    """
    image = to_numpy(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise ShapeError(f"predict: got an array of shape {image.shape}, expected one image (H, W) or (H, W, C).")
    if image.shape[2] != channels:
        raise ShapeError(
            f"predict: the image has {image.shape[2]} channels, the network takes {channels}. Convert it to "
            f"{'grey, e.g. image.mean(-1)' if channels == 1 else f'{channels} channels'}."
        )
    if not image.size or image.dtype.kind not in "buif":
        raise DataError(f"predict: an image of shape {image.shape} and dtype {image.dtype} cannot be segmented.")
    return image


def _tile_for_budget(model: UNet, image: Array, max_mem: float, reserved: int) -> int:
    """The largest tile that lets everything fit into `max_mem` MiB: what there is anyway, the network, and what is around it.

    Around the network's maps, for every pixel of the tile: the input x, the mean over views and the tile before. At the
    end the maps are gone, and the softmax holds three arrays more. Both grow with the tile as the maps do, so the budget
    is shared in that proportion.
    """
    spec, (height, width) = model.spec, image.shape[:2]
    itemsize = model.head.params["w"].dtype.itemsize
    taken = BASELINE + image.nbytes + sum(array.nbytes for array in model.state().values()) + reserved

    def largest(mem: float) -> int:
        """The tile for a budget of so many MiB; 0 if none fits."""
        budget = (int(mem * shapes.MIB) - taken) * 4 // itemsize  # `tinyunet.shapes` counts in float32
        try:
            tile = shapes.tile_for_budget(spec, height, width, budget)
            maps = shapes.forward_bytes(spec, tile) - shapes.WORKSPACE
            x, proba = 4 * tile**2 * spec.channels, 4 * tile**2 * max(spec.classes, 2)
            share = maps / max(maps + x + 2 * proba, x + 5 * proba)
            return shapes.tile_for_budget(spec, height, width, shapes.WORKSPACE + int((budget - shapes.WORKSPACE) * share))
        except ConfigError:
            return 0

    if tile := largest(max_mem):
        return _tightened(model, height, width, tile)
    enough = 1
    while not largest(enough):
        enough *= 2
    least = bisect_left(range(enough), True, key=lambda mem: largest(mem) > 0)
    raise ConfigError(
        f"predict: max_mem of {max_mem:g} MiB is too small. Process, image, weights and result take {taken / shapes.MIB:.0f} "
        f"MiB, the smallest tile the rest: give at least {least} MiB, or use a network of smaller base or depth."
    )


def _tightened(model: UNet, height: int, width: int, tile: int) -> int:
    """The smallest tile that needs no more tiles: two tiles of 3500 pixels cover 4096 no better than two of 2140 do."""

    def count(tile: int) -> tuple[int, ...]:
        return tuple(len(shapes.tile_spans(model.spec, n, tile)) for n in (height, width))

    wanted, step = count(tile), shapes.size_step(model.spec)
    try:
        while count(tile - step) == wanted:
            tile -= step
    except ShapeError:  # a smaller tile would keep no pixel
        pass
    return tile


def _label_dtype(model: UNet) -> type[np.unsignedinteger]:
    return np.uint8 if model.spec.classes <= 256 else np.uint16


def _forward(model: UNet, x: Array, view: tuple[bool, bool, bool]) -> Array:
    """Probabilities for one flipped or transposed view of a tile, turned back: (1, H, W, C) -> (1, h, w, K).

    Tiles may be flipped one by one: the poolings' grid is symmetric about the centre of a tile that fits.
    """
    flip_rows, flip_cols, transpose = view
    axes = tuple(axis for axis, flip in ((1, flip_rows), (2, flip_cols)) if flip)
    x = np.flip(x, axes)
    x = x.transpose(0, 2, 1, 3) if transpose else x
    logits = model.forward(np.ascontiguousarray(x))
    if model.spec.classes == 1:
        p = sigmoid(logits)
        proba = np.concatenate((1 - p, p), axis=-1)
    else:
        proba = softmax(logits)
    proba = proba.transpose(0, 2, 1, 3) if transpose else proba
    return np.flip(proba, axes)


def _rotated_mean(
    model: UNet,
    image: Array,
    normalization: Normalization | None,
    turns: int,
    *,
    tile: int | None,
    max_mem: float,
    progress: Progress | None,
) -> Array:
    """Rotate the image about its centre onto a canvas that holds it, predict, rotate the probabilities back; take the mean."""
    from scipy.ndimage import affine_transform

    height, width = image.shape[:2]
    mean, std = (normalization or Normalization()).stats(image)
    standard = ((image - mean) / std).astype(np.float32)
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    total = np.zeros((height, width, max(model.spec.classes, 2)), np.float32)
    for turn in range(turns):
        angle = 2 * np.pi * turn / turns
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        size = np.ceil(np.abs(matrix) @ [height, width] - 1e-9).astype(int)  # the rotated image's bounding box
        middle = (size - 1) / 2
        canvas = np.empty((*size, standard.shape[-1]), np.float32)
        for k, plane in enumerate(np.moveaxis(standard, -1, 0)):
            canvas[..., k] = affine_transform(plane, matrix, centre - matrix @ middle, tuple(size), order=1, mode="mirror")
        proba = np.empty((*size, total.shape[-1]), np.float32)
        held = image.nbytes + standard.nbytes + total.nbytes + proba.nbytes
        for part in predict_tiles(
            model,
            canvas,
            Normalization("none"),
            tile=tile,
            max_mem=max_mem,
            progress=_part_of(progress, turn, turns),
            reserved=held,
        ):
            proba[part.rows, part.cols] = part.proba
        back = matrix.T
        for k, plane in enumerate(np.moveaxis(proba, -1, 0)):
            total[..., k] += affine_transform(plane, back, middle - back @ centre, (height, width), order=1, mode="nearest")
        del canvas, proba, plane, part  # the next turn's budget does not know of them
    return total / turns


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
