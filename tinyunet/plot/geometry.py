"""Where pixels come from: mirrored borders, receptive fields, crops, and the distances behind a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.data.weight_map import WeightMap, distances
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.ops.pad import mirror_index
from tinyunet.plot.base import BLUE, GREEN, ORANGE, VERMILION, largest
from tinyunet.plot.images import _image, _outline, _panels, _pixels, _show
from tinyunet.shapes import center_crop, margin, output_size, receptive_field
from tinyunet.spec import UNetSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def mirror(image: Array, border: int, arrows: int = 8) -> Figure:
    """An image with a mirrored border of so many pixels, and arrows from pixels of the border to those that they show.

    image (H, W) or (H, W, 1). Arrows start in the border, evenly spread, and end at the source (`ops.pad.mirror_index`).

    Raises ConfigError for a border below 1.
    """
    if border < 1:
        raise ConfigError(f"mirror: a border of {border} pixels has nothing to show. Give 1 or more.")
    shown = _image("mirror", image)
    height, width = shown.shape[:2]
    rows, cols = mirror_index(-border, height + border, height), mirror_index(-border, width + border, width)
    figure, (ax,) = _panels((height + 2 * border, width + 2 * border), 1)
    _show(ax, shown[rows][:, cols])
    _box(ax, (border, border), (height, width), ORANGE)
    last, far = len(rows) - 1, len(cols) - 1
    halfway = (border - 1) // 2  # pixels from the outer edge
    ring = [(i, j) for i in range(last + 1) for j in range(far + 1) if min(i, j, last - i, far - j) == halfway]
    corner = np.arctan2(-last, -far)  # begin there: from the middle of a side, arrows of opposite sides would lie on each other
    ring.sort(key=lambda at: (np.arctan2(at[0] - last / 2, at[1] - far / 2) - corner) % (2 * np.pi))
    style = {"arrowstyle": "->", "color": VERMILION, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 3}
    for i, j in (ring[k * len(ring) // arrows] for k in range(min(arrows, len(ring)))):
        ax.annotate("", (cols[j] + border, rows[i] + border), (j, i), arrowprops=style)
        for x, y in ((j, i), (cols[j] + border, rows[i] + border)):
            ax.plot(x, y, "o", color=VERMILION, markeredgecolor="white", markersize=5)
    figure.set_label(
        f"An image of {height}x{width} pixels inside a box, and around it {border} pixels of its mirror image. Arrows lead from "
        "pixels of the border to the pixels they repeat: the edge is the mirror, and is not repeated itself."
    )
    return figure


def receptive(spec: UNetSpec, measured: Array, at: tuple[int, int]) -> Figure:
    """What an output pixel may see, as a box, over what it does see: the measured |dy/dx| of `tinyunet.probe.influence`.

    measured (H, W) of the input, at (row, column) of the output. Influence is shown as its logarithm, over four powers of ten.

    Raises ShapeError for a pixel outside the output.
    """
    from matplotlib.colors import LogNorm

    a = to_numpy(measured)
    size = [output_size(spec, n) for n in a.shape]
    if not all(0 <= k < n for k, n in zip(at, size, strict=True)):
        raise ShapeError(f"receptive: pixel {at} is outside the output of {size[0]}x{size[1]} pixels.")
    reaches = receptive_field(spec)
    top, left = (reaches[k % len(reaches)] for k in at)
    row, column = (k + margin(spec) for k in at)
    corner = (row - top.before, column - left.before)
    figure, (ax,) = _panels(a.shape, 1, side=4.5)
    most = largest(a) or 1.0
    _show(ax, np.maximum(a, most * 1e-4), cmap="magma", norm=LogNorm(most * 1e-4, most))
    _box(ax, corner, (top.size, left.size), "white")
    ax.plot(column, row, "+", color="white", markersize=9)
    inside = a[max(corner[0], 0) : corner[0] + top.size, max(corner[1], 0) : corner[1] + left.size]
    strong = int((a > 0.01 * most).sum())
    figure.set_label(
        f"Receptive field of output pixel {at}: a box of {top.size}x{left.size} pixels in an input of {a.shape[0]}x{a.shape[1]}. "
        f"{100 * inside.sum() / (a.sum() or 1):.0f} % of the measured influence lies in it; {strong} pixels have more than a "
        "hundredth of the largest influence."
    )
    return figure


def crops(maps: Mapping[str, tuple[Array, tuple[int, int]]]) -> Figure:
    """Skip maps, and on each the rectangle that is kept of it: all to one scale.

    maps   name -> a map (H, W), and the (height, width) of the map that it is joined to

    Raises ShapeError if there is nothing to show, or a map is smaller than what shall be kept of it.
    """
    from matplotlib.figure import Figure

    if not maps:
        raise ShapeError("crops: there is nothing to show. Give a map and a size for each level.")
    shown = {name: (_image("crops", values), size) for name, (values, size) in maps.items()}
    scale = 3.0 / max(max(a.shape[:2]) for a, _ in shown.values())  # inches a pixel
    gap, wide = 0.35, sum(scale * a.shape[1] for a, _ in shown.values())
    total, tall = wide + gap * (len(shown) + 1), 3.0 + 0.75
    figure = Figure(figsize=(max(total, 4.0), tall))
    left, said = gap, []
    for name, (a, size) in shown.items():
        crop = center_crop(a.shape[:2], size)
        w, h = scale * a.shape[1], scale * a.shape[0]
        ax = figure.add_axes((left / max(total, 4.0), (tall - 0.5 - h) / tall, w / max(total, 4.0), h / tall))
        _show(ax, a)
        _box(ax, (crop.top, crop.left), size, ORANGE)
        ax.set_title(f"{name}\n{a.shape[0]} → {size[0]}", fontsize=8, pad=3)
        left += w + gap
        sizes = f"{a.shape[0]}x{a.shape[1]} to {size[0]}x{size[1]}"
        said.append(f"{name} {sizes}, {crop.top} pixels off the top, {crop.left} off the left")
    figure.set_label("Skip maps with the part that is kept of each in a box: " + "; ".join(said) + ".")
    return figure


def weight_at(instances: Array, at: tuple[int, int], preset: WeightMap | None = None) -> Figure:
    """The weight of one background pixel (eq. 2): lines to the nearest and the second nearest cell, and the numbers.

    instances (H, W), at (row, column)

    Raises ConfigError if the pixel lies on a cell, or there are fewer than two cells.
    """
    from tinyunet.data.weight_map import PRESETS

    preset = preset or PRESETS["ronneberger2015"]
    ids = to_numpy(instances)
    if ids[at] > 0 or len(np.unique(ids[ids > 0])) < 2:
        raise ConfigError(f"weight_at: pixel {at} needs to be background, with two cells or more around it. Choose another.")
    d1, d2 = (float(d[at]) for d in distances(ids, float(np.hypot(*ids.shape))))
    border = preset.w0 * np.exp(-((d1 + d2) ** 2) / (2 * preset.sigma**2))
    near = sorted((_nearest(ids == k, at) for k in np.unique(ids[ids > 0])), key=lambda found: found[0])[:2]
    figure, (ax,) = _panels(ids.shape, 1, below=0.45)
    _show(ax, np.where(ids > 0, 0.75, 0.15))
    _outline(ax, _pixels("weight_at", "instances", ids, ids.shape), "black")
    for (_, place), name, color in zip(near, ("d1", "d2"), (BLUE, VERMILION), strict=True):
        ax.plot([at[1], place[1]], [at[0], place[0]], color=color, linewidth=2.2, label=name)
        ax.plot(place[1], place[0], "o", color=color, markersize=4)
    ax.plot(at[1], at[0], "s", color=GREEN, markersize=5)
    ax.legend(loc="upper right", fontsize=8)
    formula = f"w0 exp(-(d1 + d2)² / 2σ²) = {preset.w0:g} exp(-({d1:.1f} + {d2:.1f})² / {2 * preset.sigma**2:g}) = {border:.3g}"
    figure.text(0.5, 0.14 / figure.get_figheight(), formula, ha="center", fontsize=8)
    figure.set_label(f"Border weight of pixel {at}: {d1:.1f} pixels to the nearest cell, {d2:.1f} to the second; {formula}.")
    return figure


def _nearest(cell: Array, at: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """The distance to the nearest pixel of a cell, and that pixel."""
    rows, columns = np.nonzero(cell)
    away = np.hypot(rows - at[0], columns - at[1])
    k = int(away.argmin())
    return float(away[k]), (int(rows[k]), int(columns[k]))


def _box(ax: Axes, corner: tuple[int, int], size: tuple[int, int], color: str) -> None:
    """A rectangle around pixels, with a dark casing so that it shows on any ground."""
    from matplotlib.patches import Rectangle

    for ink, width in (("black", 3.0), (color, 1.5)):
        ax.add_patch(Rectangle((corner[1] - 0.5, corner[0] - 0.5), size[1], size[0], fill=False, edgecolor=ink, linewidth=width))
