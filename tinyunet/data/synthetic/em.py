"""Electron microscopy of a thin section (ssTEM): dark membranes between bright cells, like those of the ISBI 2012 challenge.

Heavy metal stains fat and protein, and stops electrons: membranes are dark lines, around every cell and around every
organelle. Hence the difficulty: only the membranes *between cells* count. A mitochondrion is as dark and a vesicle has as
sharp a rim, and both are the inside of a cell. Most pixels are: look at the IoU of the membranes, class 0, since "cell
everywhere" already reaches about 0.85 for class 1.
"""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import components, remove_small
from tinyunet.data.synthetic.shapes import (
    Cell,
    borders,
    dots,
    ellipse,
    keep_largest,
    noise,
    scatter,
    territories,
    to_uint8,
    wobble,
)

RADIUS = 14.0  # pixels: the typical cell; the largest are four times as wide, as on the real sections
SMALLEST_RADIUS = 5.0  # pixels: below, membranes leave no inside
LEAST_AREA = 20  # pixels of inside: less is no cell but a thicker piece of membrane


def draw(shape: tuple[int, int], rng: np.random.Generator, cells: int | None) -> tuple[Array, Array]:
    """Cells that fill the plane, membranes between them -> image (H, W, 1) uint8, instances (H, W) int32."""
    from scipy import ndimage

    H, W = shape
    r = max(SMALLEST_RADIUS, np.sqrt(H * W / (np.pi * cells))) if cells else min(RADIUS, 0.2 * min(shape))

    # 1. Cells of very different sizes, since the knife meets thick and thin neurites, at any angle. They fill the plane.
    n = round((H + 2 * r) * (W + 2 * r) / (np.pi * r * r))
    radii = r * np.clip(np.exp(0.7 * rng.standard_normal(n)), 0.45, 4)
    packed = [Cell(y, x, ellipse(0.9 * size, rng.uniform(1, 1.8), rng.uniform(0, np.pi)) * wobble(rng, 0.06))
              for y, x, size in scatter(rng, shape, radii, spacing=0.75, margin=1)]
    dy, dx = (0.25 * r * noise(rng, shape, 0.9 * r) + noise(rng, shape, 4) for _ in range(2))
    owner = territories(shape, packed, (dy, dx), grow=r).owner

    #    Gaps, what the warp tore off, and cells too small to see go to the nearest cell.
    whole = keep_largest(owner, min_area=0.15 * r * r + 30)
    owner = whole[tuple(ndimage.distance_transform_edt(whole == 0, return_distances=False, return_indices=True))]

    # 2. Membranes, 2 to 4 pixels wide, stand on the borders. What they enclose is a cell.
    line = borders(owner)
    membrane = line | (ndimage.binary_dilation(line) & (noise(rng, shape, 15) > -0.8))
    instances = remove_small(components(~membrane), LEAST_AREA)
    return paint(rng, instances), instances


def paint(rng: np.random.Generator, instances: Array) -> Array:
    """image = cytoplasm - stain, unevenly lit, + noise: instances (H, W) -> image (H, W, 1) uint8."""
    from scipy import ndimage

    shape = instances.shape
    wall = (instances == 0).astype(np.float32)
    depth = ndimage.distance_transform_edt(instances).astype(np.float32)  # pixels to the nearest membrane

    # 1. Cytoplasm: bright and mottled, a little different from cell to cell.
    tone = rng.normal(0, 6, int(instances.max()) + 1)[instances]
    cytoplasm = 178 + tone + 8 * noise(rng, shape, 9) + 11 * noise(rng, shape, 2)

    # 2. Vesicles come in flocks: rings of some 3 pixels around random points.
    stain = np.zeros(shape, np.float32)
    vesicles = dots(rng, depth > 5, 0.016 * np.clip(noise(rng, shape, 18), 0.1, None))
    if vesicles.any():
        ring = ndimage.distance_transform_edt(~vesicles) - (2.6 + 0.8 * noise(rng, shape, 5))
        stain += np.clip(50 + 25 * noise(rng, shape, 6), 0, None) * np.exp(-(ring**2))

    # 3. Mitochondria lie where a cell is wide.
    for y, x in np.argwhere(dots(rng, depth > 9, 0.0007)):
        stain_mitochondrion(rng, stain, y, x, min(0.55 * depth[y, x], 16.0) * rng.uniform(0.8, 1.1))

    # 4. Membranes: dark where the cut is square to them, a grey smear where it runs along them.
    graze = np.clip(noise(rng, shape, 14) - 0.7, 0, 1)
    stain += 105 * (1 - 0.5 * graze) * ndimage.gaussian_filter(wall, 0.8)
    stain += 170 * graze * ndimage.gaussian_filter(wall, 4.0)

    # 5. The section is not equally thick everywhere nor equally stained; electrons are few, so that the image is grainy.
    image = (cytoplasm - stain) * (1 + 0.06 * noise(rng, shape, max(shape) / 4))
    image -= 14 * np.clip(noise(rng, shape, 30), 0, None)
    return to_uint8(ndimage.gaussian_filter(image + 30 * rng.standard_normal(shape, np.float32), 0.6))


def stain_mitochondrion(rng: np.random.Generator, stain: Array, y: int, x: int, size: float) -> None:
    """Adds an ellipse of about `size` pixels to the stain, in place: a dark rim, and folds (cristae) across the inside."""
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
    reach = int(1.6 * size) + 2
    box = tuple(slice(max(0, c - reach), c + reach + 1) for c in (y, x))
    v, u = np.ogrid[:stain.shape[0], :stain.shape[1]]
    v, u = v[box[0]] - y, u[:, box[1]] - x
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    outside = (np.hypot(along / aspect, across * aspect) / size - 1) * size  # pixels from the rim, about
    body = 1 / (1 + np.exp(np.clip(outside, -20, 20) / 0.7))
    folds = np.sin(2 * np.pi * (along + 1.5 * np.sin(across / 3)) / 4.5)
    stain[box] += body * (45 + 14 * folds - stain[box]) + 30 * np.exp(-((outside / 1.2) ** 2))
