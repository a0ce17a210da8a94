"""Phase contrast: flat cells with halos and dark ruffled edges, like the U373 cells of the Cell Tracking Challenge.

A cell absorbs almost nothing: it delays light. A ring in the microscope sends the direct light a quarter wave ahead and
dims it, so that delay becomes darkness. But the ring also catches light that the cell bent only a little, the coarse part of
the picture, which is lost. Hence the bright halo around a cell, and hence the "shade-off": its middle is nearly as grey as
the background.
"""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import relabel
from tinyunet.data.synthetic.shapes import (
    DIRECTIONS,
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

RADIUS = 26.0  # pixels: a little below the real U373 cells
COVER = 0.3  # the share of the image that discs of this radius would cover
ROUND = 0.35  # the share of cells whose body is round and thick
RING = 0.7  # the ring lets this share of the direct light's amplitude pass
HALO = 8.0  # pixels: how wide the ring blurs what it catches, and so how wide the halo is


def draw(shape: tuple[int, int], rng: np.random.Generator, cells: int | None) -> tuple[Array, Array]:
    """image ~ |U - D - i t D|^2 + noise, U = exp(i delay), D = U blurred -> image (H, W, 1) uint8, instances (H, W) int32.

    For a small delay this is t^2 - 2 t (delay - delay blurred): dark where light is late, and bright around it.
    """
    from scipy import ndimage

    r = min(RADIUS, 0.2 * min(shape))
    n = cells or max(1, round(COVER * shape[0] * shape[1] / (np.pi * r * r)))

    # 1. Cells crawl about on their own, and some meet. The fine warp ruffles their edges.
    placed = scatter(rng, shape, r * rng.uniform(0.7, 1.3, n), spacing=0.95)
    flock = [Cell(y, x, crawling(rng, size)) for y, x, size in placed]
    dy, dx = (1.4 * noise(rng, shape, 3) for _ in range(2))
    owner = keep_largest(territories(shape, flock, (dy, dx)).owner, min_area=max(12, 0.1 * r * r))
    inside = owner > 0

    # 2. The delay of the light, in radians: a thin sheet, thicker where the rim ruffles, ...
    to_rim = ndimage.distance_transform_edt(inside & ~borders(owner))
    ruffle = np.exp(-(((to_rim - 1.5) / 1.3) ** 2)) * np.clip(0.9 + 0.8 * noise(rng, shape, 5), 0, None)
    sheet = 0.07 + 0.17 * ruffle + 0.035 * noise(rng, shape, 1.2) + 0.015 * noise(rng, shape, 4)

    #    ... and the body around the nucleus. Some bodies are so round that they delay light by half a wave and more: there
    #    dark turns to bright.
    bodies = [Cell(y, x, ellipse(r * rng.uniform(0.4, 0.6), rng.uniform(1, 1.4), rng.uniform(0, np.pi)))
              for y, x, _ in placed]
    body = territories(shape, bodies)
    depth = np.where(body.owner > 0, body.centre / np.maximum(body.centre - body.edge, 1), 1)  # 0 centre, 1 outline
    depth[body.owner != owner] = 1
    thick = np.where(rng.random(n + 1) < ROUND, 3.5, rng.uniform(0.1, 0.45, n + 1))[body.owner]
    bulge = ndimage.gaussian_filter(thick * np.sqrt(1 - depth**2), 1.0) * (1 + 0.06 * noise(rng, shape, 1.3))
    delay = inside * (sheet + bulge)

    #    Dust, and the fibres that a crawling cell leaves behind, delay light too. Nobody labels them.
    dust = dots(rng, ~inside, 2e-4) * rng.exponential(3.0, shape)
    trails = fibres(rng, shape, flock, number=0.7, length=1.3 * r)
    delay += ndimage.gaussian_filter(dust + 0.3 * trails, 0.9)

    # 3. U is the light behind the cells, D what the ring catches of it: dimmed, and a quarter wave ahead, a factor -i.
    light = np.exp(1j * ndimage.gaussian_filter(delay, 0.7))
    direct = ndimage.gaussian_filter(light.real, HALO) + 1j * ndimage.gaussian_filter(light.imag, HALO)
    seen = np.abs(light - direct - 1j * RING * direct) ** 2 / RING**2  # 1 where there is no cell

    #    The lamp is not quite centred, far out of focus lie soft shadows, and the camera adds noise.
    image = 85 * seen + 3 * noise(rng, shape, max(shape) / 3) + 1.2 * noise(rng, shape, 12)
    return to_uint8(image + 1.5 * rng.standard_normal(shape, np.float32)), relabel(owner)


def crawling(rng: np.random.Generator, r: float) -> Array:
    """The outline of a crawling cell around its body: a broad fan in front, little behind, some thin protrusions there."""
    front, width = rng.uniform(-np.pi, np.pi), rng.uniform(-0.6, 0.5)
    fan = 0.6 + 0.8 / (1 + np.exp((width - np.cos(DIRECTIONS - front)) / 0.15))
    tails = np.zeros_like(DIRECTIONS)
    for _ in range(rng.integers(0, 4)):
        tails += rng.uniform(0.3, 1.0) * np.exp(90 * (np.cos(DIRECTIONS - front - rng.normal(np.pi, 1.2)) - 1))
    return r * (fan * wobble(rng, 0.05) + tails)
