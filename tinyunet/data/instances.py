"""Instance maps: from a mask to numbered objects, and keeping the numbers in order.

An instance map is (H, W) int32: 0 is background, every object another id > 0. A network that answers "cell or not"
knows no objects; they are the connected components of its mask, perhaps without the smallest.
"""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError

INSTANCE_BYTES = 11
"""Bytes a pixel that `components` takes at most: 1 for a mask, 4 for the ids, and tables of up to 6 in a checkerboard, where
every second pixel is an object. A table is a few per cent of that in an image of cells."""

_STRIP = 2**17
"""Ids that are made 8 bytes long at a time, 1 MiB."""


def components(mask: Array, connectivity: int = 4, min_size: int = 0) -> Array:
    """Connected components of a mask, numbered 1..n in the order in which a reader, row by row, first meets them.

    mask (H, W) bool or integers 0 and 1, min_size in pixels -> instances (H, W) int32

    `connectivity` 4 joins pixels that share an edge, 8 also those that share only a corner. The default is 4: it is
    what the ISBI 2012 challenge uses, and it keeps two cells apart whose membrane is one pixel wide and runs
    diagonally. Components of fewer than `min_size` pixels are left out, as `remove_small` would, without a second map.

    Raises ShapeError, DTypeError or DataError for something that is no mask, ConfigError for another connectivity or a
    negative size.
    """
    from scipy import ndimage

    mask = check_mask(mask, "components: the mask")
    _check_size(min_size, "components")
    if connectivity not in (4, 8):
        raise ConfigError(f"components: connectivity {connectivity!r} is neither 4 (edges) nor 8 (edges and corners).")
    neighbours = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    instances = np.empty(mask.shape, np.int32)
    ndimage.label(mask, neighbours, output=instances)
    if min_size > 1:
        _drop_small(instances, min_size)
    return instances


def remove_small(instances: Array, min_size: int) -> Array:
    """Objects of fewer than `min_size` pixels become background; the rest are renumbered 1..n in the order of the ids.

    instances (H, W), min_size in pixels -> instances (H, W) int32

    The authors' release dropped objects below 500 pixels before tracking; at another magnification choose
    your own. An object is counted by its id, whether or not its pixels touch. 0 and 1 remove nothing.

    Raises ShapeError, DTypeError or DataError for something that is no instance map, ConfigError for a negative size.
    """
    instances = check_instances(instances, "remove_small: the instance map")
    _check_size(min_size, "remove_small")
    scattered = instances.max(initial=0) > instances.size  # the table of sizes would be longer than the image
    instances = relabel(instances) if scattered else instances.astype(np.int32)
    _drop_small(instances, min_size)
    return instances


def _drop_small(instances: Array, min_size: int) -> None:
    """What `remove_small` does, in place, and some rows at a time: NumPy makes 8 bytes of every id that it counts or looks up."""
    rows = max(1, _STRIP // instances.shape[1])
    strips = [instances[top : top + rows] for top in range(0, len(instances), rows)]
    sizes = np.zeros(int(instances.max()) + 1, np.int32)
    for strip in strips:
        sizes += np.bincount(strip.ravel(), minlength=len(sizes))
    kept = sizes >= max(min_size, 1)  # an id that does not occur has size 0
    kept[0] = False
    number = np.cumsum(kept, dtype=np.int32)
    number[~kept] = 0
    for strip in strips:
        strip[:] = number[strip]


def relabel(instances: Array) -> Array:
    """The same objects with the ids 1..n, without gaps and in the order of the ids that came; background stays 0.

    instances (H, W) -> instances (H, W) int32

    Raises ShapeError, DTypeError or DataError for something that is no instance map.
    """
    instances = check_instances(instances, "relabel: the instance map")
    ids, which = np.unique(instances, return_inverse=True)
    number = np.cumsum(ids > 0, dtype=np.int32)  # (distinct ids,): background, if there, gets 0
    return number[which].reshape(instances.shape)


def check_mask(mask: Array, who: str) -> Array:
    """`mask` as (H, W) bool on the host, or the error that says what is wrong with `who`."""
    mask = check_integers(mask, who)
    if mask.dtype != bool and (wrong := mask[(mask != 0) & (mask != 1)]).size:
        raise DataError(f"{who} holds the value {wrong[0]}, but only 0 and 1 make a mask. "
                        "Compare first, e.g. `labels == 1` or `image > 127`.")
    return mask.astype(bool, copy=False)


def _check_size(min_size: int, who: str) -> None:
    if isinstance(min_size, bool) or not isinstance(min_size, (int, np.integer)) or min_size < 0:
        raise ConfigError(f"{who}: min_size {min_size!r} is not a number of pixels. Give an integer of 0 or more, e.g. 50.")


def check_instances(instances: Array, who: str) -> Array:
    """`instances` as (H, W) integers >= 0 on the host, or the error that says what is wrong with `who`."""
    instances = check_integers(instances, who)
    if instances.dtype == bool:
        raise DTypeError(f"{who} is a mask of bool, which numbers no objects. Number them first: `components(mask)`.")
    if (low := instances.min()) < 0:
        raise DataError(f"{who} holds the id {low}, but ids are 0 (background) or more. Set unknown pixels to 0.")
    return instances


def check_integers(image: Array, who: str) -> Array:
    """`image` as (H, W) integers or bool on the host, or the error that says what is wrong with `who`."""
    image = to_numpy(image)
    if image.ndim != 2 or not image.size:
        raise ShapeError(f"{who} has shape {image.shape}, but one image (H, W) with at least one pixel is needed. "
                         "Of a stack, take one slice at a time.")
    if image.dtype != bool and not np.issubdtype(image.dtype, np.integer):
        raise DTypeError(f"{who} has dtype {image.dtype}, but integers or bool are needed. "
                         "Threshold probabilities first, e.g. `probability > 0.5`.")
    return image
