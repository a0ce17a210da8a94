"""Weight maps: how much every pixel counts in the loss, so that the network learns the gaps between touching cells.

        w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))                                                  (section 3, eq. 2)

w_c balances the classes; d1 and d2 are the distances, in pixels, to the nearest and to the second nearest cell. The
second term is large where both are small, which is in the gap between two cells, and there only.

The usual order: `separate` opens the gaps, `weight_map` (or `cached_weight_map`) weighs them, `weight_parts` shows why.
Letters: H rows, W columns, K classes.
"""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import check_instances, check_integers
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DataError, ShapeError
from tinyunet.files import atomic_write

REACH = math.sqrt(2 * math.log(1e9))
"""Beyond REACH * sigma (6.44 sigma) the border term is below 1e-9 of w0, 60 times finer than float32 resolves w0."""

FORMAT = 1
"""Version of what `weight_map` computes: a change of the formula raises it, and no old cache file is found any more."""


@dataclass(frozen=True)
class WeightMap:
    """w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), and which w_c.

    w0       weight added in the narrowest gap; 0 switches the border term off
    sigma    its width in pixels
    balance  "frequency"  w_c = n / (K n_k): every class counts alike, see `class_weights`
             "distance"   w_c = 1 on foreground, v_bal + (1 - v_bal) exp(-d1^2 / (2 sigma1^2)) on background
             "none"       w_c = 1
    v_bal    weight of background far from every cell ("distance" only)
    sigma1   width in pixels of the zone around the cells that keeps a larger weight ("distance" only)

    Raises ConfigError for a number out of range or an unknown balance.
    """

    w0: float = 10.0
    sigma: float = 5.0
    balance: Literal["frequency", "distance", "none"] = "frequency"
    v_bal: float = 0.1
    sigma1: float = 10.0

    def __post_init__(self) -> None:
        if self.balance not in ("frequency", "distance", "none"):
            raise ConfigError(f"WeightMap: balance {self.balance!r} is none of 'frequency', 'distance', 'none'.")
        for name in ("w0", "v_bal"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"WeightMap: {name} {getattr(self, name)} must be a number of at least 0.")
        for name in ("sigma", "sigma1"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"WeightMap: {name} {getattr(self, name)} must be a positive number of pixels.")


PRESETS = {
    # The paper: w0 and sigma are its own; it gives no formula for w_c, so "frequency" is ours.
    "ronneberger2015": WeightMap(w0=10.0, sigma=5.0, balance="frequency"),
    # The authors' later pipeline (Falk et al. 2019), which specifies everything.
    "falk2019": WeightMap(w0=50.0, sigma=6.0, balance="distance", v_bal=0.1, sigma1=10.0),
}


class WeightParts(NamedTuple):
    """A weight map and what it is made of, for figures. All (H, W) float32."""

    w: Array  # w_c + border, and 0 where the label is IGNORE
    w_c: Array  # class balance, 0 where the label is IGNORE
    border: Array  # w0 exp(...), 0 outside the background
    d1: Array  # pixels to the nearest cell, inf beyond the cut-off
    d2: Array  # pixels to the second nearest cell, inf beyond the cut-off


def separate(instances: Array, width: int = 2) -> Array:
    """A pixel becomes background where the window of (width + 1) x (width + 1) pixels around it holds another object.

    (H, W) ids, 0 is background -> (H, W) ids of the same dtype

    Two objects that touch along a straight edge each lose width / 2 pixels, so a gap of `width` pixels opens. Objects
    closer than width / 2 are pushed apart too; a wider gap stays as it is. Which object has which id does not matter,
    and hence the width is even: an odd gap would have to take its middle line from one of the two.

    An object that would disappear keeps all its pixels, and its neighbours alone make room: half the width, or no gap
    between two such objects. No annotated object gets lost, though one may fall apart where it is thinner than the gap.

    The paper computes its separation border "using morphological operations" and says no more (section 3): this one is
    ours. To open the same gaps in the class labels: `labels[(instances > 0) & (opened == 0)] = 0`.

    Raises ConfigError for a negative or odd width.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    instances = check_instances(instances, "separate: the instance map")
    if width < 0 or width % 2:
        raise ConfigError(f"separate: width {width} is not an even number of pixels. Each object gives half: try 2.")
    cell = instances > 0
    top = np.iinfo(instances.dtype).max  # background, where the smallest id is looked for
    largest = maximum_filter(instances, size=width + 1, mode="nearest")
    smallest = minimum_filter(np.where(cell, instances, top), size=width + 1, mode="nearest")
    kept = np.where((largest == instances) & (smallest == instances), instances, 0)
    lost = np.setdiff1d(instances[cell], kept[kept > 0])
    return np.where(np.isin(instances, lost), instances, kept) if lost.size else kept


def distances(instances: Array, cutoff: float) -> tuple[Array, Array]:
    """d1, d2: pixels from every pixel to the nearest and to the second nearest object.

    (H, W) ids, 0 is background -> (H, W) float32, (H, W) float32

    The distance to an object is the Euclidean one to the centre of its nearest pixel: 1 for a pixel beside it, 0 for
    its own pixels. It is inf where it exceeds the cut-off, and d2 is inf where there is no second object.

    An object matters within the cut-off only. So its distance transform is taken in its bounding box grown by that
    much, and merged into the two smallest so far: time grows with the sum of these boxes, not with image times objects.

    Raises ConfigError for a cut-off that is not a positive number.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    instances = check_instances(instances, "distances: the instance map")
    if not 0 < cutoff < math.inf:
        raise ConfigError(f"distances: cutoff {cutoff} must be a positive number of pixels, e.g. 32.")
    if instances.max() > instances.size:  # find_objects lists every number up to the largest id
        cell = instances > 0
        compact = np.zeros(instances.shape, np.intp)
        compact[cell] = np.unique(instances[cell], return_inverse=True)[1] + 1
        instances = compact
    d1 = np.full(instances.shape, np.inf, np.float32)
    d2 = np.full(instances.shape, np.inf, np.float32)
    margin = math.ceil(cutoff)
    for i, box in enumerate(find_objects(instances), start=1):
        if box is None:  # no object has this id
            continue
        grown = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
        d = distance_transform_edt(instances[grown] != i).astype(np.float32)
        d[d > cutoff] = np.inf
        nearest, second = d1[grown], d2[grown]  # views
        np.minimum(second, np.maximum(nearest, d), out=second)
        np.minimum(nearest, d, out=nearest)
    return d1, d2


def class_weights(label_maps: Iterable[Array], classes: int | None = None) -> Array:
    """w_c of class k = n / (K n_k), for n counted pixels, n_k of class k, and K classes that occur at all.

    any number of (H, W) labels -> (classes,) float64

    Every class then has the same total weight, and the mean of w_c over all counted pixels is 1, so the learning rate
    keeps its meaning. Pixels labelled IGNORE are not counted. A class that never occurs gets 1.

    `weight_map` does this for one image by itself. Over the whole training set it is steadier: an image with a single
    small cell does not make that cell a hundred times as important.

    Raises DataError where there is no counted pixel, or a label is `classes` or above.
    """
    counts = np.zeros(classes or 1, np.int64)
    for labels in label_maps:
        labels = _checked_labels("class_weights", labels)
        n_k = np.bincount(labels[labels != IGNORE].astype(np.intp, copy=False), minlength=len(counts))
        counts = np.pad(counts, (0, len(n_k) - len(counts))) + n_k
    if classes is not None and len(counts) > classes:
        raise DataError(f"class_weights: label {len(counts) - 1} does not fit {classes} classes (0 to {classes - 1}).")
    if not counts.any():
        raise DataError(f"class_weights: no pixel counts. Give labels that are not all IGNORE ({IGNORE}).")
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)


def weight_map(instances: Array | None, labels: Array | None = None, preset: str | WeightMap = "ronneberger2015",
               class_weights: Array | None = None) -> Array:
    """w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))                                                 (section 3, eq. 2)

    (H, W) ids, (H, W) labels -> (H, W) float32

    The border term counts on background (label 0) only, and where two cells are within reach: a lone cell has none.
    Cells that touch leave no background between them, so call `separate` first and give its result here, in the labels
    too. Pixels labelled IGNORE weigh 0.

    Without labels, an instance is class 1. Without instances there is no border term, only the balance of classes.
    `class_weights` (K,) replaces, for balance "frequency", that of this image by that of the whole training set.

    Raises DataError for input that cannot be labels, ShapeError where shapes differ, ConfigError for an unknown preset.
    """
    return weight_parts(instances, labels, preset, class_weights).w


def weight_parts(instances: Array | None, labels: Array | None = None, preset: str | WeightMap = "ronneberger2015",
                 class_weights: Array | None = None) -> WeightParts:
    """`weight_map` with its terms: w, w_c, the border term, d1 and d2. Same arguments, same errors."""
    p, instances, labels = _checked("weight_map", instances, labels, preset)
    counted, background = labels != IGNORE, labels == 0
    cells = labels > 0 if instances is None else instances > 0

    border = np.zeros(labels.shape, np.float32)
    d1, d2 = np.full((2, *labels.shape), np.inf, np.float32)
    if instances is not None and p.w0 > 0:
        d1, d2 = distances(instances, REACH * p.sigma)
        gap = background & np.isfinite(d2)
        d = d1[gap].astype(np.float64) + d2[gap]
        border[gap] = p.w0 * np.exp(-(d**2) / (2 * p.sigma**2))

    w_c = np.zeros(labels.shape, np.float32)
    if p.balance == "frequency":
        w_c[counted] = _lookup(class_weights, labels)[labels[counted]]
    else:
        w_c[counted] = 1
    if p.balance == "distance":
        w_c[background] = p.v_bal
        if cells.any():
            from scipy.ndimage import distance_transform_edt

            near = distance_transform_edt(~cells)[background]  # not cut off: sigma1 reaches further than sigma
            w_c[background] += (1 - p.v_bal) * np.exp(-(near**2) / (2 * p.sigma1**2))
    return WeightParts(w_c + border, w_c, border, d1, d2)


def cached_weight_map(instances: Array | None, labels: Array | None = None,
                      preset: str | WeightMap = "ronneberger2015", class_weights: Array | None = None, *,
                      folder: str | Path) -> Array:
    """`weight_map`, kept in a folder of .npy files and computed once for every input and setting.

    The file is named by a hash of everything that the result depends on: the bytes, shape and dtype of instances,
    labels and class weights, the settings, and the version of the formula. A changed annotation is another file, so
    nothing goes stale; old files may be deleted at any time. A damaged file (each ends in its checksum) is computed
    anew. Files appear whole or not at all, so many processes may share a folder.

    Raises what `weight_map` raises, and DataError where the folder cannot be written.
    """
    p, _, _ = _checked("cached_weight_map", instances, labels, preset)
    key = hashlib.sha256(f"tinyunet weight map {FORMAT} {astuple(p)}".encode())
    for a in (instances, labels, class_weights):
        a = np.asarray(a) if a is not None else np.zeros(0, bool)
        key.update(f"{a.dtype.str} {a.shape}".encode() + np.ascontiguousarray(a).tobytes())
    path = Path(folder) / f"weights-{key.hexdigest()[:32]}.npy"
    w = _load(path)
    if w is None:
        w = weight_map(instances, labels, p, class_weights)
        _save(path, w)
    return w


def _save(path: Path, w: Array) -> None:
    """The array and, where np.load has stopped reading, its checksum: this still is a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, w)
    content = buffer.getvalue()
    with suppress(OSError):  # `atomic_write` says what is wrong with the folder
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(content + _checksum(content))


def _load(path: Path) -> Array | None:
    """The array in a cache file, or None where there is no file or it is damaged."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if content[-4:] != _checksum(content[:-4]):
        return None
    w: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return w


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content, FORMAT).to_bytes(4, "big")


def _lookup(weights: Array | None, labels: Array) -> Array:
    """w_c by class: those given, or those of this image (all 1 where nothing is counted)."""
    if weights is None:
        return class_weights([labels]) if (labels != IGNORE).any() else np.ones(1)
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError(f"weight_map: class_weights {weights.tolist()} must be one number of at least 0 per class.")
    if labels.max() >= len(weights):
        raise DataError(f"weight_map: label {labels.max()} has no weight: class_weights has {len(weights)} (0 to "
                        f"{len(weights) - 1}). Give one weight for each class.")
    return weights


def _checked(who: str, instances: Array | None, labels: Array | None,
             preset: str | WeightMap) -> tuple[WeightMap, Array | None, Array]:
    """Settings, instances and labels after every check; labels come from the instances where none are given."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ConfigError(f"{who}: no preset {preset!r}. Take one of {', '.join(PRESETS)}, or a WeightMap.")
        preset = PRESETS[preset]
    if instances is not None:
        instances = check_instances(instances, f"{who}: the instance map")
    if labels is not None:
        labels = _checked_labels(who, labels)
    elif instances is not None:
        labels = (instances > 0).astype(np.int32)
    else:
        raise DataError(f"{who}: neither instances nor labels. Give at least one of the two.")
    if instances is not None and instances.shape != labels.shape:
        raise ShapeError(f"{who}: instances {instances.shape} and labels {labels.shape} differ in shape.")
    return preset, instances, labels


def _checked_labels(who: str, labels: Array) -> Array:
    labels = check_integers(labels, f"{who}: the label map")
    if labels.min() < IGNORE:
        raise DataError(f"{who}: label {labels.min()} is below {IGNORE}. Classes count from 0; {IGNORE} is IGNORE.")
    return labels.astype(np.uint8) if labels.dtype == bool else labels  # to look weights up by
