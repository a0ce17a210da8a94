"""Differential interference contrast (DIC): crowded cells in relief, like the HeLa cells of the Cell Tracking Challenge.

A prism splits the light into two beams a fraction of a micrometre apart. They pass the cell side by side and interfere
behind it. What one sees is the *difference* of their optical paths: the slope of the cell along the split. Hence the
relief, lit from one side, and hence the difficulty: a flat region has the same grey inside a cell as outside.
"""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import relabel
from tinyunet.data.synthetic.shapes import (
    Cell,
    borders,
    dots,
    ellipse,
    fibres,
    keep_largest,
    noise,
    scatter,
    territories,
    to_uint8,
    wobble,
)

RADIUS = 28.0  # pixels: half the size of the real HeLa cells, so that 256x256 shows as much as their 512x512
COVER = 0.75  # the share of the image that the cells would cover if none overlapped
SHEAR = np.deg2rad(45)  # the prism does not turn with the cells: light comes from the upper left in every image
ROUND = 0.08  # the share of cells that have rounded up to divide


def draw(shape: tuple[int, int], rng: np.random.Generator, cells: int | None) -> tuple[Array, Array]:
    """image = 128 + gain d(optical thickness)/ds + noise -> image (H, W, 1) uint8, instances (H, W) int32."""
    from scipy import ndimage

    r = min(RADIUS, 0.2 * min(shape))
    n = cells or max(1, round(COVER * shape[0] * shape[1] / (np.pi * r * r)))

    # 1. A colony: daughters stay next to one another, and outlines that overlap become a shared border.
    colony, domes = [], [0.0]
    for y, x, size in scatter(rng, shape, r * rng.uniform(0.75, 1.25, n), spacing=0.78, clump=True):
        dividing = rng.random() < ROUND
        flat = ellipse(size, rng.uniform(1.0, 1.9), rng.uniform(0, np.pi)) * wobble(rng, 0.07)
        colony.append(Cell(y, x, ellipse(0.75 * size, 1.0, 0.0) if dividing else flat))
        domes.append(9.0 if dividing else rng.uniform(2.5, 4.0))
    dy, dx = (1.2 * noise(rng, shape, 5) for _ in range(2))
    land = territories(shape, colony, (dy, dx))
    owner = keep_largest(land.owner, min_area=max(12, 0.1 * r * r))
    inside = owner > 0

    # 2. Optical thickness, in arbitrary units: a dome, steep at the rim and flat behind it. A border of two cells is a
    #    furrow, shallower than the rim: cells that touch are hard to tell apart.
    to_rim = ndimage.distance_transform_edt(inside)
    to_border = ndimage.distance_transform_edt(inside & ~borders(owner))
    dome = np.array(domes)[owner]
    height = dome * (1 - np.exp(-to_rim / 3)) + 0.6 * dome * (1 - np.exp(-to_border / 2))

    #    The nucleus is a lens in the middle, with a few nucleoli. The cytoplasm around it is lumpy and full of small dense
    #    granules, more in some cells than in others.
    depth = np.where(inside, land.centre / np.maximum(land.centre - land.edge, 1), 2)  # 0 centre, 1 outline
    height += inside * (2.2 / (1 + np.exp((depth - 0.5) / 0.03)) + 0.6 * noise(rng, shape, 1.3) + 0.8 * noise(rng, shape, 3))
    granules = dots(rng, inside, np.where(depth > 0.5, 0.06 * (rng.random(len(domes)) ** 2)[owner], 0.004))
    nucleoli = dots(rng, depth < 0.35, 0.008)
    height += 30 * ndimage.gaussian_filter(granules.astype(np.float32), 1.1)
    height += 60 * ndimage.gaussian_filter(nucleoli.astype(np.float32), 2.0)

    #    Filopodia, thin hairs of the rim, lie on the glass around a cell. Nobody labels them.
    hairs = fibres(rng, shape, colony, number=5, length=0.45 * r)
    height += 2.5 * ndimage.gaussian_filter(hairs.astype(np.float32), 0.7)

    # 3. The slope along the shear, blurred by the objective; light that is not quite even; the camera's noise.
    slope_y, slope_x = (ndimage.gaussian_filter(height, 0.8, order=order) for order in ((1, 0), (0, 1)))
    slope = np.sin(SHEAR) * slope_y + np.cos(SHEAR) * slope_x
    image = 128 + 20 * slope + 3 * noise(rng, shape, max(shape) / 3)
    return to_uint8(image + 3 * rng.standard_normal(shape, np.float32)), relabel(owner)
