"""Where cells lie and which pixels they own: the part that all kinds of pictures share.

A cell is a centre and a radius for every direction. Every pixel goes to the cell whose outline it lies deepest inside, or
least far outside, so that two cells that press on one another share a border and never a pixel. The picture is painted
from these pixels afterwards: that is what makes the labels exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyunet.backend import Array

DIRECTIONS = np.linspace(-np.pi, np.pi, 128, endpoint=False)
"""The angles, in radians, at which an outline is stored; in between it is linear."""


class Cell(NamedTuple):
    """A star-shaped outline: a centre in pixels and a radius (pixels) for each of `DIRECTIONS`."""

    y: float
    x: float
    radius: Array


class Territory(NamedTuple):
    """Which cell owns each pixel, and where in that cell the pixel lies.

    owner  (H, W) int32: 0 for nobody, i + 1 for `cells[i]`
    centre (H, W) float32: pixels to the owner's centre, 0 where there is no owner
    edge   (H, W) float32: pixels outside the owner's outline along the ray from its centre; negative inside
    """

    owner: Array
    centre: Array
    edge: Array


def noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    """Smooth noise A G B', G standard normal on knots `scale` pixels apart: (H, W) float32, mean 0, variance 1.

    The rows of A and B are Gaussian weights of width `scale`, each of unit length: hence variance 1 in every pixel. The
    products of matrices get cheaper as noise gets smoother, where filtering white noise gets slower.
    """
    def weights(n: int) -> Array:
        knots = np.arange(-3 * scale, n + 3 * scale, scale)
        w = np.exp(-0.5 * ((np.arange(n)[:, None] - knots) / scale) ** 2)
        return (w / np.linalg.norm(w, axis=1, keepdims=True)).astype(np.float32)

    a, b = weights(shape[0]), weights(shape[1])
    return a @ rng.standard_normal((a.shape[1], b.shape[1]), dtype=np.float32) @ b.T


def dots(rng: np.random.Generator, where: Array, density: Array | float) -> Array:
    """Random points: `where` (H, W) bool -> (H, W) bool. `density` is points a pixel, a number or (H, W)."""
    return where & (rng.random(where.shape, dtype=np.float32) < density)


def ellipse(radius: float, aspect: float, angle: float) -> Array:
    """r(t) = radius / sqrt(cos^2(t - angle) / aspect + aspect sin^2(t - angle)): an ellipse of area pi radius^2."""
    t = DIRECTIONS - angle
    return radius / np.sqrt(np.cos(t) ** 2 / aspect + aspect * np.sin(t) ** 2)


def wobble(rng: np.random.Generator, amplitude: float, waves: int = 6) -> Array:
    """A factor per direction, 1 + sum of cosines 2..waves with random phases: no two outlines are alike."""
    k = np.arange(2, waves + 1)[:, None]
    phase = rng.uniform(0, 2 * np.pi, k.shape)
    return 1 + amplitude * (np.cos(k * DIRECTIONS + phase) * rng.normal(0, 1, k.shape) / np.sqrt(k)).sum(axis=0)


def scatter(rng: np.random.Generator, shape: tuple[int, int], radii: Array, spacing: float, clump: bool = False,
            margin: float = 0.5, tries: int = 24) -> list[tuple[float, float, float]]:
    """Places discs so that centres i and j are at least `spacing` (r_i + r_j) apart: radii -> list of (y, x, r).

    The largest come first, as the small ones still fit between them later. Centres may lie up to `margin` r outside of the
    image, so that cells are cut at its edge; the first lies in the middle half, so that no image is empty. A disc for
    which none of `tries` places has room is left out. `clump` picks the free place nearest to a neighbour: a colony.
    """
    size, placed = np.array(shape, float), np.empty((0, 3))
    for r in np.sort(radii)[::-1]:
        low, high = (-margin * r, size + margin * r) if len(placed) else (size / 4, size * 3 / 4)
        places = rng.uniform(low, high, (tries, 2))
        apart = np.hypot(*(places[:, None, :] - placed[:, :2]).transpose(2, 0, 1)) - spacing * (placed[:, 2] + r)
        room = apart.min(axis=1, initial=np.inf)
        free = np.flatnonzero(room >= 0)
        if len(free):
            best = free[room[free].argmin()] if clump else free[0]
            placed = np.vstack([placed, [*places[best], r]])
    return [(float(y), float(x), float(r)) for y, x, r in placed]


def territories(shape: tuple[int, int], cells: list[Cell], warp: tuple[Array, Array] | None = None,
                grow: float = 0) -> Territory:
    """owner(p) = argmin over cells of |p + warp(p) - centre| - r(direction), where that minimum is below `grow` pixels.

    An additively weighted Voronoi diagram: with `grow` 0 cells keep their outlines and share a border where two of them
    overlap; with a large `grow` they fill the plane, and borders bend around the larger of two cells. `warp`, two (H, W)
    arrays of pixels, bends the outlines further.
    """
    dy, dx = warp if warp else (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    y = np.arange(shape[0], dtype=np.float32)[:, None] + dy
    x = np.arange(shape[1], dtype=np.float32)[None, :] + dx
    bent = max(float(np.abs(dy).max()), float(np.abs(dx).max()))
    owner = np.zeros(shape, np.int32)
    centre = np.zeros(shape, np.float32)
    edge = np.full(shape, grow, np.float32)
    for i, cell in enumerate(cells, start=1):
        reach = float(cell.radius.max()) + grow + bent  # only a window around the cell can be its own
        box = tuple(slice(max(0, int(c - reach)), max(0, int(c + reach) + 2)) for c in (cell.y, cell.x))
        v, u = y[box] - np.float32(cell.y), x[box] - np.float32(cell.x)
        d = np.hypot(v, u)
        e = d - np.interp(np.arctan2(v, u), DIRECTIONS, cell.radius, period=2 * np.pi).astype(np.float32)
        mine = e < edge[box]
        owner[box][mine], centre[box][mine], edge[box][mine] = i, d[mine], e[mine]
    return Territory(owner, centre, edge)


def fibres(rng: np.random.Generator, shape: tuple[int, int], cells: list[Cell], number: float, length: float) -> Array:
    """Thin straight hairs that stand out of the outlines, about `number` a cell, `length` pixels or less: (H, W) bool.

    Filopodia and retraction fibres. No annotator outlines them, so neither do we: they are drawn, and stay background.
    """
    out = np.zeros(shape, bool)
    for cell in cells:
        lean = rng.normal(0, 0.15)
        for i in rng.integers(0, len(DIRECTIONS), rng.poisson(number)):
            along = cell.radius[i] - 3 + np.arange(0, rng.uniform(0.3, 1) * length, 0.5)
            t = DIRECTIONS[i] + lean * (along / cell.radius[i] - 1)
            y, x = np.rint(cell.y + along * np.sin(t)).astype(int), np.rint(cell.x + along * np.cos(t)).astype(int)
            seen = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            out[y[seen], x[seen]] = True
    return out


def borders(owner: Array) -> Array:
    """True on both sides of every border between two owners: (H, W) -> (H, W) bool, a line two pixels wide."""
    out = np.zeros(owner.shape, bool)
    down, right = owner[1:] != owner[:-1], owner[:, 1:] != owner[:, :-1]
    out[1:] |= down
    out[:-1] |= down
    out[:, 1:] |= right
    out[:, :-1] |= right
    return out


def keep_largest(owner: Array, min_area: float) -> Array:
    """Leaves of every id its largest 4-connected part, if that has `min_area` pixels: (H, W) -> (H, W), 0 elsewhere.

    A warp may tear a thin tip off, and the edge of the image may cut a cell in two or leave a sliver of it.
    """
    from scipy import ndimage

    out = owner.copy()
    for i, box in enumerate(ndimage.find_objects(owner), start=1):
        if box is None:
            continue
        parts = ndimage.label(owner[box] == i)[0]
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        largest = areas.argmax() if areas.max() >= min_area else -1
        out[box][(parts > 0) & (parts != largest)] = 0
    return out


def to_uint8(image: Array) -> Array:
    """Rounds and clips to 0..255, as a camera does: (H, W) float -> (H, W, 1) uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)[:, :, None]
