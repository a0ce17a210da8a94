"""Properties of weight maps: distances to cells, the border term of eq. 2, the balance of classes, gaps, and the cache.

The loops here measure from every pixel to every pixel of every cell, so they share nothing with the distance transforms of
`tinyunet.data.weight_map`.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.data import weight_map as wm
from tinyunet.data.sample import IGNORE

SINGLE = 1e-6
"""Allowed error of what is stored as float32."""


def draw_cells(draw: Draw, least: int = 0) -> Array:
    """(H, W) int32 instances: `least` to least + 3 discs and single pixels, that may touch or overlap, under scattered ids."""
    height, width = draw.integer(8, 16), draw.integer(8, 16)
    rows, cols = np.mgrid[:height, :width]
    while True:
        count = draw.integer(least, least + 3)
        instances = np.zeros((height, width), np.int32)
        for cell in draw.rng.permutation(count):
            r, c, radius = draw.rng.integers(height), draw.rng.integers(width), draw.rng.uniform(0, 4)
            instances[(rows - r) ** 2 + (cols - c) ** 2 <= radius**2] = 3 * cell + 2
        if len(np.unique(instances[instances > 0])) >= least and (instances == 0).any():
            return instances


def two_nearest(instances: Array) -> tuple[Array, Array]:
    """d1, d2 in float64 by measuring from every pixel to every pixel of every cell; inf where there are too few cells."""
    every = np.indices(instances.shape).reshape(2, -1)
    to_cell = [np.full((2, instances.size), np.inf)]
    for cell in np.unique(instances[instances > 0]):
        gaps = every[:, :, None] - np.array(np.nonzero(instances == cell))[:, None]
        to_cell.append(np.sqrt((gaps**2).sum(0)).min(1, keepdims=True).T)
    d1, d2 = np.sort(np.concatenate(to_cell), axis=0)[:2]
    return d1.reshape(instances.shape), d2.reshape(instances.shape)


def border_term(instances: Array, labels: Array, settings: wm.WeightMap) -> Array:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) on background, 0 elsewhere, without any cut-off."""
    d1, d2 = two_nearest(instances)
    return np.where(labels == 0, settings.w0 * np.exp(-((d1 + d2) ** 2) / (2 * settings.sigma**2)), 0.0)


@holds("weight_map", "reference")
def distances_equal_a_loop_over_all_cells(_: None, draw: Draw) -> None:
    """d1 and d2 are the two smallest of the Euclidean distances to all cells, and inf beyond the cut-off."""
    instances, cutoff = draw_cells(draw), draw.integer(1, 20) + 0.25
    for name, found, loop in zip(("d1", "d2"), wm.distances(instances, cutoff), two_nearest(instances), strict=True):
        expected = np.where(loop <= cutoff, loop, np.inf)
        require(bool((np.isinf(found) == np.isinf(expected)).all()), f"{name} is not infinite just where the cut-off is exceeded")
        finite, loop = (np.where(np.isinf(expected), 0, d) for d in (found, loop))
        require_close(name, finite, loop, rtol=SINGLE)


@holds("weight_map", "convention")
def the_nearest_cell_comes_first(_: None, draw: Draw) -> None:
    """d1 <= d2 everywhere, and d1 is 0 on the cells and only there."""
    instances = draw_cells(draw, least=1)
    d1, d2 = wm.distances(instances, 30.0)
    require(bool((d1 <= d2).all()), f"d1 = {d1.max():g} exceeds d2 somewhere: the nearest cell must come first")
    require(bool(((d1 == 0) == (instances > 0)).all()), "d1 must be 0 on every pixel of a cell and on no other")


@holds("weight_map", "reference")
def the_map_is_equation_2(_: None, draw: Draw) -> None:
    """w = n / (K n_k) + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) on background, summed up pixel by pixel."""
    instances = draw_cells(draw)
    settings = wm.WeightMap(w0=float(draw.integer(1, 50)), sigma=draw.integer(2, 12) / 2)
    labels = (instances > 0).astype(np.int32)
    present, counts = np.unique(labels, return_counts=True)
    balance = {int(k): labels.size / (len(present) * int(n)) for k, n in zip(present, counts, strict=True)}
    expected = np.vectorize(balance.__getitem__, otypes=[float])(labels) + border_term(instances, labels, settings)
    require_close("w", wm.weight_map(instances, preset=settings), expected, rtol=SINGLE)


@holds("weight_map", "reference")
def the_distance_balance_is_that_of_falk_2019(_: None, draw: Draw) -> None:
    """Balance "distance" is 1 on cells and v_bal + (1 - v_bal) exp(-d1^2 / (2 sigma1^2)) on background, cut off nowhere."""
    instances = draw_cells(draw, least=1)
    v_bal, sigma1, far = draw.integer(0, 8) / 10, draw.integer(1, 20) / 2, draw.integer(0, 30)
    instances = np.pad(instances, ((0, 0), (0, far)))  # with background far from every cell
    near, _d2 = two_nearest(instances)
    expected = np.where(instances > 0, 1.0, v_bal + (1 - v_bal) * np.exp(-(near**2) / (2 * sigma1**2)))
    found = wm.weight_map(instances, preset=wm.WeightMap(w0=0.0, balance="distance", v_bal=v_bal, sigma1=sigma1))
    require_close("w_c", found, expected, rtol=SINGLE)


@holds("weight_map", "invariance")
def names_of_cells_do_not_matter(_: None, draw: Draw) -> None:
    """Giving the same cells other ids changes no weight."""
    instances = draw_cells(draw, least=2)
    ids = np.unique(instances[instances > 0])
    names = np.zeros(int(ids.max()) + 1, np.int64)
    names[ids] = draw.rng.permutation(1000)[: len(ids)] + 1
    require_close("w under other ids", wm.weight_map(names[instances]), wm.weight_map(instances), rtol=0)


@holds("weight_map", "invariance")
def a_lone_cell_has_no_border(_: None, draw: Draw) -> None:
    """With one cell, or none, there is no gap between two, so the weights are those of the class balance alone."""
    instances = draw_cells(draw)
    instances[instances != (instances.max() if draw.integer(0, 3) else -1)] = 0
    border = wm.weight_parts(instances).border
    require(not border.any(), f"the border term reaches {border.max():g} with fewer than two cells, expected 0 everywhere")


@holds("weight_map", "convention")
def between_two_discs_d1_plus_d2_is_the_gap(_: None, draw: Draw) -> None:
    """A ridge runs between two equal discs: on their line w0 exp(-(gap + 1)^2 / (2 sigma^2)), symmetric, highest there."""
    radius, gap, sigma = draw.integer(1, 4), draw.integer(1, 6), draw.integer(4, 12) / 2
    centre, step = radius + 1, 2 * radius + 1 + gap
    rows, cols = np.mgrid[: 2 * centre + 1, : 2 * centre + 1 + step]
    instances = np.zeros(rows.shape, np.int32)
    for cell in (1, 2):
        instances[(rows - centre) ** 2 + (cols - centre - (cell - 1) * step) ** 2 <= radius**2] = cell
    border = wm.weight_parts(instances, preset=wm.WeightMap(w0=10.0, sigma=sigma)).border
    between = border[centre, centre + radius + 1 : centre + radius + 1 + gap]
    ridge = 10 * math.exp(-((gap + 1) ** 2) / (2 * sigma**2))
    require_close("the border term between the discs", between, np.full(gap, ridge), rtol=SINGLE)
    require(bool(border.max() <= ridge * (1 + SINGLE)), f"the border term is {border.max():g} beside the ridge of {ridge:g}")
    for name, mirrored in (("left and right", border[:, ::-1]), ("top and bottom", border[::-1])):
        require_close(f"the ridge with {name} exchanged", mirrored, border, rtol=SINGLE)


@holds("weight_map", "invariance")
def turned_cells_have_turned_weights(_: None, draw: Draw) -> None:
    """Quarter turns and mirror images of the cells turn and mirror the weights."""
    instances, turns, mirror = draw_cells(draw), draw.integer(0, 3), draw.integer(0, 1)
    w = wm.weight_map(instances)

    def turn(a: Array) -> Array:
        return np.rot90(a[:, ::-1] if mirror else a, turns)

    require_close("w of the turned cells", wm.weight_map(turn(instances)), turn(w), rtol=SINGLE)


@holds("weight_map", "invariance")
def moved_cells_have_moved_weights(_: None, draw: Draw) -> None:
    """Far from the edge of the image, cells that move take their border term with them."""
    instances = draw_cells(draw, least=2)
    down, right = draw.integer(0, 7), draw.integer(0, 7)
    settings = wm.WeightMap(sigma=1.0)  # reaches 7 pixels
    borders = []
    for i, j in ((0, 0), (down, right)):
        moved = np.pad(instances, ((i + 7, 14 - i), (j + 7, 14 - j)))
        border = wm.weight_parts(moved, preset=settings).border
        borders.append(border[i : border.shape[0] - 7 + i, j : border.shape[1] - 7 + j])
    require_close("the border term of the moved cells", borders[1], borders[0], rtol=SINGLE)


@holds("weight_map", "convention")
def sigma_sets_the_width(_: None, draw: Draw) -> None:
    """A tiny sigma leaves no border term; a huge one adds w0 to all background as soon as there are two cells."""
    instances = draw_cells(draw, least=2)
    narrow = wm.weight_parts(instances, preset=wm.WeightMap(w0=10.0, sigma=0.05)).border
    require(bool(narrow.max() < 1e-6), f"with sigma = 0.05 px the border term is {narrow.max():g}, expected 0")
    wide = wm.weight_parts(instances, preset=wm.WeightMap(w0=10.0, sigma=1e5)).border
    require_close("the border term with sigma = 100,000 px", wide, np.where(instances == 0, 10.0, 0.0), rtol=SINGLE)


@holds("weight_map", "invariance")
def the_border_only_adds(_: None, draw: Draw) -> None:
    """w = w_c + border with border >= 0 and 0 on every cell: no weight falls below the class balance."""
    instances = draw_cells(draw)
    parts = wm.weight_parts(instances)
    require_close("w", parts.w, parts.w_c + parts.border, rtol=0)
    require(bool((parts.border >= 0).all()), f"the border term is {parts.border.min():g} somewhere, it must not be negative")
    require(not parts.border[instances > 0].any(), "the border term is not 0 on a cell; it belongs to the background")


@holds("weight_map", "invariance")
def classes_are_balanced(_: None, draw: Draw) -> None:
    """Over all counted pixels w_c has mean 1, and every class that occurs has the same total."""
    maps = [draw.rng.integers(IGNORE, draw.integer(1, 4), (draw.integer(2, 6), 7)) for _image in range(draw.integer(1, 3))]
    maps[0][0, :2] = 0  # at least one pixel counts
    w_c = wm.class_weights(maps)
    labels = np.concatenate([m.ravel() for m in maps])
    labels = labels[labels != IGNORE]
    totals = [w_c[k] * (labels == k).sum() for k in np.unique(labels)]
    require_close("the mean of w_c over counted pixels", w_c[labels].mean(), 1.0)
    require_close("the total weight of a class", totals, np.full(len(totals), labels.size / len(totals)))


@holds("weight_map", "convention")
def unknown_pixels_weigh_nothing(_: None, draw: Draw) -> None:
    """A pixel labelled IGNORE weighs 0, on a cell or between two, and no weight is negative or infinite."""
    instances = draw_cells(draw, least=1)
    labels = (instances > 0).astype(np.int32)
    labels[draw.rng.random(labels.shape) < 0.3] = IGNORE
    w = wm.weight_map(instances, labels, draw.choice(list(wm.PRESETS)))
    require(not w[labels == IGNORE].any(), "a pixel labelled IGNORE has a weight, expected 0")
    require(bool(np.isfinite(w).all() and (w >= 0).all()), f"weights run from {w.min():g} to {w.max():g}")


@holds("weight_map", "convention")
def weights_of_the_training_set_are_looked_up(_: None, draw: Draw) -> None:
    """Class weights that are given replace those of the image, each for its own class."""
    labels = draw.rng.integers(IGNORE, 3, (draw.integer(2, 8), draw.integer(2, 8)))
    given = draw.rng.uniform(0.5, 4, 3)
    expected = [[0 if k == IGNORE else given[k] for k in row] for row in labels]
    require_close("w", wm.weight_map(None, labels, class_weights=given), expected, rtol=SINGLE)


@holds("weight_map", "contract")
def any_kind_of_instances_gives_the_same_map(_: None, draw: Draw) -> None:
    """The weights are float32, depend on no dtype or memory layout, and nothing is written into the arrays handed in."""
    instances = draw_cells(draw, least=1)
    w = wm.weight_map(instances)
    require(w.dtype == np.float32, f"weights are {w.dtype}, expected float32")
    frozen = instances.astype(draw.choice(["uint8", "int64", "uint16"]))
    frozen.flags.writeable = False
    for name, same in (("read-only", frozen), ("Fortran-ordered", np.asfortranarray(instances)),
                       ("strided", np.repeat(instances, 2, axis=1)[:, ::2])):
        require_close(f"w of {name} instances", wm.weight_map(same), w, rtol=0)


@holds("weight_map", "reference")
def separate_opens_every_gap(_: None, draw: Draw) -> None:
    """A pixel becomes background where its window holds another cell, and a cell that would disappear keeps all it has."""
    instances, width = draw_cells(draw, least=1), 2 * draw.integer(0, 3)
    half, kept = width // 2, instances.copy()
    for i, j in np.ndindex(instances.shape):
        window = instances[max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
        if (window[window > 0] != instances[i, j]).any():
            kept[i, j] = 0
    lost = np.setdiff1d(instances[instances > 0], kept[kept > 0])
    expected = np.where(np.isin(instances, lost), instances, kept)
    require_close(f"separate(instances, {width})", wm.separate(instances, width), expected, rtol=0)


@holds("weight_map", "contract")
def the_cache_gives_the_same_bytes(_: None, draw: Draw) -> None:
    """A cached map is the computed one, from the second call on without computing, and each input has a file of its own."""
    instances = draw_cells(draw, least=2)
    labels = (instances > 0).astype(np.int32)
    other = labels.copy()
    other[0, 0] = IGNORE
    settings = wm.WeightMap(sigma=float(draw.integer(2, 6)))
    with tempfile.TemporaryDirectory() as folder:
        calls: list[tuple[Array, wm.WeightMap, Array | None]] = [
            (labels, settings, None),
            (labels, settings, None),
            (labels, wm.WeightMap(sigma=settings.sigma + 1), None),
            (other, settings, None),
            (labels, settings, np.array([1.0, 2.0])),
        ]
        for count, (these, preset, weights) in zip((1, 1, 2, 3, 4), calls, strict=True):
            cached = wm.cached_weight_map(instances, these, preset, weights, folder=folder)
            require_close("the cached map", cached, wm.weight_map(instances, these, preset, weights), rtol=0)
            files = len(list(Path(folder).iterdir()))
            require(files == count, f"{files} files after {count} different inputs: what changes the map must change the name")
