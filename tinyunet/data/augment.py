"""Augmentation on the fly: the tile that the network sees and the labels of its centre, moved and bent in the same way.

        tile[i, j] = image[c + shift + M (i, j) + bend[i, j]]                                              (section 3.1)

(i, j) counts from the middle of the tile, c is that middle in the image, M rotates, scales and flips, and `bend` is the
smooth random field of `elastic_field`. All of it goes into one array of coordinates, and the image, the labels and the
weights are each read there once, straight from the full arrays: nothing is resampled twice, and what a tile does not
need is never touched. Grey values are varied last. Beyond its edges the image continues as in a mirror, as it does when
predicting.

Letters: H rows, W columns, C channels, of the full image; h_in, w_in of the tile; h_out, w_out of its centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DTypeError, ShapeError
from tinyunet.ops.pad import mirror_index


@dataclass(frozen=True)
class Augment:
    """How far every kind of augmentation may go; 0 (or False) switches a kind off, `Augment.none()` all of them.

    shift     pixels, uniform in [-shift, shift] along each axis
    rotation  degrees, uniform in [-rotation, rotation]; 180 is any angle
    scale     factor (1 + scale)^u, u uniform in [-1, 1]
    flips     mirror each axis with probability 1/2
    elastic   pixels, standard deviation of the displacement at the nodes of a coarse grid
    grid      nodes of that grid along each axis, over the input tile
    gain      contrast times a factor uniform in [1 - gain, 1 + gain], about the tile's mean
    offset    brightness plus a number uniform in [-offset, offset], in units of the image's standard deviation
    gamma     grey value to the power (1 + gamma)^u, u uniform in [-1, 1], darkest and brightest value of the tile kept
    order     interpolation of the image: 1 linear, 3 cubic spline (sharper, takes twice as long, overshoots at edges)

    The paper names shift, rotation, grey values and elastic deformation, and gives numbers for the last one only: a 3x3
    grid with 10 px (section 3.1). All other numbers are ours. Scale is off: cells of one kind have one size.

    Raises ConfigError for a number out of range.
    """

    shift: float = 10.0
    rotation: float = 180.0
    scale: float = 0.0
    flips: bool = True
    elastic: float = 10.0
    grid: int = 3
    gain: float = 0.2
    offset: float = 0.2
    gamma: float = 0.2
    order: int = 1

    def __post_init__(self) -> None:
        for name in ("shift", "rotation", "scale", "elastic", "gain", "offset", "gamma"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"Augment: {name} {value!r} must be a number of at least 0; 0 is off.")
        if not isinstance(self.flips, bool):
            raise ConfigError(f"Augment: flips {self.flips!r} is neither True nor False.")
        for name in ("grid", "order"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"Augment: {name} {value!r} is not a whole number. Give e.g. {getattr(type(self), name)}.")
        if self.gain >= 1:
            raise ConfigError(f"Augment: gain {self.gain} could invert the contrast. Give less than 1, e.g. 0.2.")
        if self.grid < 2:
            raise ConfigError(f"Augment: a grid of {self.grid} nodes cannot bend anything. Give 2 or more, e.g. 3.")
        if self.order not in (1, 3):
            raise ConfigError(f"Augment: order {self.order} is neither 1 (linear) nor 3 (cubic).")

    @classmethod
    def none(cls) -> Augment:
        """Everything off: tiles are exact copies, as for validation."""
        return cls(shift=0, rotation=0, scale=0, flips=False, elastic=0, gain=0, offset=0, gamma=0)

    @property
    def moves(self) -> bool:
        """Whether any kind that displaces pixels is on."""
        return bool(self.shift or self.rotation or self.scale or self.flips or self.elastic)


class Tile(NamedTuple):
    """What one training step takes: the network's input, and what its smaller output is compared with."""

    image: Array  # (h_in, w_in, C) float32
    labels: Array  # (h_out, w_out) int32
    weights: Array  # (h_out, w_out) float32


def augment_tile(image: Array, labels: Array, weights: Array | None, center: tuple[int, int],
                 in_size: tuple[int, int], out_size: tuple[int, int], settings: Augment, rng: np.random.Generator, *,
                 std: float | Array | None = None) -> Tile:
    """tile[i, j] = image[c + shift + M (i, j) + bend[i, j]], then grey values v -> gain (v - mean) + mean + offset std

    (H, W, C) integers or float32, (H, W) integers, (H, W) or None -> Tile

    The input tile has in_size pixels and begins, before it is moved, in_size // 2 above and left of the pixel `center`.
    Labels and weights are read in its middle only, where the network predicts: out_size pixels, same coordinates.

    - Image: linear interpolation, or cubic. Integers become float32 after sampling: no copy of a large uint8 image.
    - Labels: nearest pixel, hence no label that was not there before, and IGNORE stays IGNORE.
    - Weights: linear, hence never below 0. None gives 1, and 0 where the label is IGNORE.
    - With nothing switched on that moves pixels, all three are plain mirror-indexed copies, bit for bit.

    `std` (number, or one per channel) is the unit of the brightness offset; by default it is that of the tile.

    Every call draws 9 + 2 grid^2 numbers from rng (27 for the 3x3 grid), in this order and whatever is switched on, so
    that switching one kind off leaves all others as they were: 9 uniform ones (shift of rows, of columns, rotation,
    scale, flip of rows, of columns, gain, offset, gamma) and 2 grid^2 normal ones (rows, then columns, of the nodes).

    Raises ShapeError where arrays or sizes do not fit one another, DTypeError for labels that are no integers and for
    images of a type that cannot be sampled (float16, complex).
    """
    _check(image, labels, weights, in_size, out_size)
    u = rng.uniform(-1, 1, 9)
    nodes = rng.standard_normal((2, settings.grid, settings.grid))

    rows, cols = (range(c - n // 2, c - n // 2 + n) for c, n in zip(center, in_size, strict=True))
    margins = [(n_in - n_out) // 2 for n_in, n_out in zip(in_size, out_size, strict=True)]
    middle = tuple(slice(m, m + n) for m, n in zip(margins, out_size, strict=True))
    if settings.moves:
        at = _coordinates(rows, cols, settings, u[:6], nodes)  # (2, h_in, w_in)
        out_at = at[:, *middle]  # (2, h_out, w_out): the very same coordinates
        planes = [_sample(image[:, :, c], at, settings.order) for c in range(image.shape[2])]  # C times (h_in, w_in)
        y = _sample(labels, out_at, order=0)
        w = None if weights is None else _sample(weights, out_at, order=1)
    else:
        out_rows, out_cols = rows[middle[0]], cols[middle[1]]
        planes = [_mirrored(image[:, :, c], rows, cols).astype(np.float32) for c in range(image.shape[2])]
        y = _mirrored(labels, out_rows, out_cols).astype(np.int32)
        w = None if weights is None else _mirrored(weights, out_rows, out_cols).astype(np.float32)
    if w is None:
        w = (y != IGNORE).astype(np.float32)
    units = [None] * len(planes) if std is None else np.broadcast_to(std, len(planes))
    x = np.stack([_grey(plane, settings, u[6:], unit) for plane, unit in zip(planes, units, strict=True)], axis=2)
    return Tile(x, y, w)


def elastic_field(shape: tuple[int, int], rng: np.random.Generator, grid: int = 3, std: float = 10.0) -> Array:
    """bend[a] = B_H V_a B_W^T for both axes a: random vectors V at grid x grid nodes, bicubic interpolation between.

    -> (2, H, W) float32: displacement in pixels along rows, along columns

    The nodes are spread evenly over the tile, the outermost ones on its edges; each vector component is normal with the
    given standard deviation (section 3.1: 3x3 nodes, 10 px). Bicubic interpolation is separable, so the whole field is
    two small matrix products; `bicubic_matrix` says which cubic. It passes through the nodes, so the deviation is `std`
    there; halfway between two nodes of the 3x3 grid it is 0.76 of that, in the middle of four 0.57.

    10 px suit tiles of 140 px and more. On smaller ones the nodes are so close that a field may fold over itself (of 92
    px: one in nine; of 64 px: every second), so lower `std` in proportion to the tile.

    Draws 2 grid^2 normal numbers.
    """
    return _bend(std * rng.standard_normal((2, grid, grid)), shape)


def bicubic_matrix(n: int, grid: int) -> Array:
    """B[i, k]: what node k adds to pixel i, for `grid` nodes spread evenly over n pixels (first node 0, last node n-1).

    -> (n, grid) float64, rows add up to 1

    Keys' cubic convolution with a = -1/2, the usual "bicubic": it interpolates (B is the identity at the nodes), has a
    continuous slope, and reproduces straight lines between inner nodes. It needs two nodes on either side: beyond the
    edge the last node is repeated. Equal vectors at all nodes are a plain shift. A single pixel sits in the middle.
    """
    t = np.linspace(0, grid - 1, n) if n > 1 else np.full(1, (grid - 1) / 2)  # in units of the node distance
    k = np.arange(-1, grid + 1)  # nodes, and one repeated on each side: all that |t - k| < 2 can reach
    s = np.abs(t[:, None] - k)  # (n, grid + 2)
    kernel = np.where(s < 1, 1.5 * s**3 - 2.5 * s**2 + 1, np.where(s < 2, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2, 0.0))
    b = kernel[:, 1:-1].copy()
    b[:, 0] += kernel[:, 0]
    b[:, -1] += kernel[:, -1]
    return b


def _bend(nodes: Array, shape: tuple[int, int]) -> Array:
    """(2, grid, grid) displacement of the nodes -> (2, H, W) float32 displacement of every pixel."""
    b_rows, b_cols = (bicubic_matrix(n, nodes.shape[-1]) for n in shape)
    field: Array = (b_rows @ nodes).astype(np.float32) @ b_cols.T.astype(np.float32)
    return field


def _coordinates(rows: range, cols: range, settings: Augment, u: Array, nodes: Array) -> Array:
    """Where in the image each pixel of the tile is read: (2, h_in, w_in) float64, six uniform draws and the nodes."""
    shift_y, shift_x = settings.shift * u[:2]
    angle = math.radians(settings.rotation * u[2])  # positive turns the image counterclockwise, as np.rot90 does
    zoom = (1 + settings.scale) ** u[3]
    flip_y, flip_x = np.where(settings.flips & (u[4:] < 0), -1.0, 1.0)

    i = (np.arange(len(rows)) - (len(rows) - 1) / 2) * flip_y / zoom  # from the middle of the tile
    j = (np.arange(len(cols)) - (len(cols) - 1) / 2) * flip_x / zoom
    c_y, c_x = (rows[0] + rows[-1]) / 2 + shift_y, (cols[0] + cols[-1]) / 2 + shift_x
    cos, sin = math.cos(angle), math.sin(angle)
    at = np.empty((2, len(rows), len(cols)))  # float64: float32 is too coarse for the far end of a large image
    np.add((c_y + cos * i)[:, None], sin * j, out=at[0])
    np.add((c_x - sin * i)[:, None], cos * j, out=at[1])
    if settings.elastic:
        at += _bend(settings.elastic * nodes, (len(rows), len(cols)))
    return at


def _sample(plane: Array, at: Array, order: int) -> Array:
    """plane (H, W) at coordinates (2, h, w): nearest (order 0) as int32, linear or cubic as float32; mirror beyond."""
    from scipy.ndimage import map_coordinates

    if order == 3:
        # A cubic spline filters all pixels first: only those around the tile, with a margin where the filter's memory
        # of its own border (0.27^12 = 1e-7) has faded.
        first = np.floor(at.min(axis=(1, 2))).astype(int) - 12
        last = np.ceil(at.max(axis=(1, 2))).astype(int) + 12
        plane = _mirrored(plane, *(range(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True)))
        at = at - first[:, None, None]
    # SciPy's "mirror" is NumPy's "reflect": the edge pixel is not repeated.
    dtype = np.int32 if order == 0 else np.float32
    sampled: Array = map_coordinates(plane, at, output=dtype, order=order, mode="mirror", prefilter=order == 3)
    return sampled


def _mirrored(a: Array, rows: range, cols: range) -> Array:
    """a[mirror(rows), mirror(cols)] of (H, W, ...): a view where nothing has to be mirrored."""
    height, width = a.shape[:2]
    if rows[0] >= 0 and rows[-1] < height and cols[0] >= 0 and cols[-1] < width:
        view: Array = a[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        return view
    i, j = mirror_index(rows[0], rows[-1] + 1, height), mirror_index(cols[0], cols[-1] + 1, width)
    a = a[i.min() : i.max() + 1, j.min() : j.max() + 1]  # what is needed of a large image
    copy: Array = a.take(i - i.min(), axis=0).take(j - j.min(), axis=1)
    return copy


def _grey(x: Array, settings: Augment, u: Array, std: float | None) -> Array:
    """Gamma, then gain about the mean, then offset, of one channel (h, w) float32; x itself where all three are off."""
    if not (settings.gain or settings.offset or settings.gamma):
        return x
    # Statistics in float64, for tiles of many pixels; the pixels themselves stay float32.
    mean = float(x.mean(dtype=np.float64))
    unit = float(x.std(dtype=np.float64)) if std is None else float(std)
    low, span = float(x.min()), float(x.max()) - float(x.min())
    if settings.gamma and span > 0:
        x = low + span * np.clip((x - low) / span, 0, 1) ** ((1 + settings.gamma) ** u[2].item())
    gain, offset = 1 + settings.gain * u[0].item(), settings.offset * u[1].item()
    y: Array = gain * (x - mean) + (mean + offset * unit)
    return y


def _check(image: Array, labels: Array, weights: Array | None, in_size: tuple[int, int],
           out_size: tuple[int, int]) -> None:
    if image.ndim != 3 or image.size == 0:
        raise ShapeError(f"augment_tile: an image of shape {image.shape} is not (H, W, C). Give a grey image its "
                         f"channel axis with image[:, :, None].")
    if image.dtype.kind not in "iub" and image.dtype not in (np.float32, np.float64):
        raise DTypeError(f"augment_tile: an image of {image.dtype} cannot be sampled. Give integers or float32.")
    for what, a in (("labels", labels), ("weights", weights)):
        if a is not None and a.shape != image.shape[:2]:
            raise ShapeError(f"augment_tile: {what} {a.shape} do not fit an image of {image.shape[:2]} pixels.")
    if labels.dtype.kind not in "iub":
        raise DTypeError(f"augment_tile: labels are {labels.dtype}. Give integers, one class a pixel.")
    for n_in, n_out in zip(in_size, out_size, strict=True):
        if n_out < 1 or n_in < n_out or (n_in - n_out) % 2:
            raise ShapeError(f"augment_tile: an output of {out_size} pixels is not the centre of an input of {in_size}."
                             f" Along each axis the input is larger by twice the margin, e.g. 572 and 388.")
