"""Feature maps, their gradients, filters: what layers hold, as grids of small pictures with their true sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.errors import ShapeError
from tinyunet.plot.base import diverging, largest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIGNED = "blue above 0, white at 0, orange below"
_GREY = "grey from black, 0, to white, the largest value"


def maps(
    seen: Mapping[str, Array],
    n: int = 0,
    channels: int = 8,
    width: float = 9.0,
    titles: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """The first channels of every layer, one row a layer, all drawn to one scale: a map of half the side is half as large.

    seen   layer -> (N, H, W, C), activations or gradients, as `tinyunet.probe` gives them
    n      which image of the batch
    titles layer -> what its channels are, written above them

    A layer without negative values runs from black (0) to white (its largest); others from orange (negative) over white (0)
    to blue. Every layer has a scale of its own, and the figure says so.

    Raises ShapeError if there is nothing to show, or an array is no map.
    """
    from matplotlib.figure import Figure

    shown = {name: _one(name, values, n)[..., :channels] for name, values in seen.items()}
    if not shown:
        raise ShapeError("maps: there is nothing to show. Did a forward pass run inside the probe?")
    label, gap = 1.5, 0.05  # inches
    columns = max(a.shape[2] for a in shown.values())
    scale = (width - label - gap * columns) / max(a.shape[1] * a.shape[2] for a in shown.values())  # inches a pixel
    above = {name: tuple((titles or {}).get(name, ())) for name in shown}
    heights = [max(scale * a.shape[0], 0.3) + 0.12 for a in shown.values()]
    colours = sorted({_SIGNED if a.min() < 0 else _GREY for a in shown.values()})
    legend = textwrap.wrap(f"{'; '.join(colours)}{'; each row by itself' * (len(shown) > 1)}", int(16 * width))
    foot = 0.05 + 0.16 * len(legend)
    total = sum(heights) + 0.18 * sum(map(bool, above.values())) + 0.05 + foot
    figure = Figure(figsize=(width, total))
    figure.text(0.06 / width, 0.5 * foot / total, "\n".join(legend), fontsize=7, va="center", color="0.3")
    top = total - 0.05
    for (name, a), height in zip(shown.items(), heights, strict=True):
        size = _size(seen[name])
        top -= 0.18 * bool(above[name])
        figure.text(0.06 / width, (top - height / 2) / total, f"{name}\n{size}", fontsize=8, va="center")
        for k in range(a.shape[2]):
            w, h = scale * a.shape[1], scale * a.shape[0]
            left = label + k * (w + gap)
            ax = figure.add_axes((left / width, (top - height / 2 - h / 2) / total, w / width, h / total))
            _show(ax, a[..., k], a)
            if k < len(above[name]):
                ax.set_title(above[name][k], fontsize=8, pad=3)
        top -= height
    listed = "; ".join(f"{name} {_size(seen[name])}, values from {a.min():.3g} to {a.max():.3g}" for name, a in shown.items())
    named = "".join(f" The channels of {name}: {', '.join(words)}." for name, words in above.items() if words)
    figure.set_label(f"Feature maps to scale, the first {columns} channels of {len(shown)} layers: {listed}.{named}")
    return figure


_ROOM = 0.24
"""Inches that a number such as -0.25 needs."""


def filters(w: Array, inputs: int = 8, outputs: int = 16, width: float = 9.0, titles: Sequence[str] = ()) -> Figure:
    """The kernels of a convolution: a column for each output channel, a row for each input channel.

    w (K, K, C, O): orange negative, blue positive, each output channel to its own largest weight: a mean of 1/9 pales beside a 4.
    Where there is room, the numbers stand in it.
    titles   what the output channels are, written above them

    Raises ShapeError for another shape.
    """
    from matplotlib.figure import Figure

    w = to_numpy(w)
    if w.ndim != 4:
        raise ShapeError(f"filters: w has shape {w.shape}, expected (K, K, C, O).")
    rows, columns = min(w.shape[2], inputs), min(w.shape[3], outputs)
    side = min((width - 0.6) / columns, 1.1)
    figure = Figure(figsize=(0.6 + side * columns, 0.4 + side * rows))
    across, down = figure.get_size_inches()
    for c in range(rows):
        figure.text(0.05 / across, (side * (rows - c - 0.5)) / down, f"c = {c}", fontsize=8, va="center")
        for o in range(columns):
            place = ((0.55 + side * o) / across, (0.05 + side * (rows - 1 - c)) / down, 0.92 * side / across, 0.92 * side / down)
            ax = figure.add_axes(place)
            top = largest(np.abs(w[..., o])) or 1.0
            pale = 2.2 * top  # so that one can read the numbers
            ax.imshow(w[:, :, c, o], cmap=diverging(), vmin=-pale, vmax=pale, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if side / len(w) >= _ROOM:
                power = int(np.floor(np.log10(top)))
                numbers = np.round(w[:, :, c, o], max(2 - power - (power < 0), 0)) + 0.0  # -0.0 becomes 0.0
                for i, j in np.ndindex(w.shape[:2]):
                    ax.text(j, i, f"{numbers[i, j]:g}", ha="center", va="center", fontsize=7)
            if c == 0:
                ax.set_title(titles[o] if o < len(titles) else f"o = {o}", fontsize=8, pad=2)
    figure.set_label(
        f"Filters of a {w.shape[0]}x{w.shape[1]} convolution, {rows} of {w.shape[2]} input and {columns} of {w.shape[3]} output "
        f"channels; weights from {w.min():.3g} to {w.max():.3g}."
    )
    return figure


def film_strip(image: Array, seen: Mapping[str, Array], n: int = 0, width: float = 11.0, rows: int = 3) -> Figure:
    """One image on its way through the whole network: the strongest channel of every layer, in the order of the forward pass.

    image (H, W) or (N, H, W, C); seen layer -> (N, H, W, C). All to one scale, so that the U is seen in the sizes.

    Raises ShapeError if there is nothing to show.
    """
    from matplotlib.figure import Figure

    if not seen:
        raise ShapeError("film_strip: there is nothing to show. Did a forward pass run inside the probe?")
    first = to_numpy(image)
    frames = [("image", first[n, ..., 0] if first.ndim == 4 else first)]
    for name, values in seen.items():
        a = _one(name, values, n)
        frames.append((name, a[..., int(a.std(axis=(0, 1)).argmax())]))
    each = -(-len(frames) // rows)
    lines = [frames[k : k + each] for k in range(0, len(frames), each)]
    gap = 0.2  # inches, at the least: names need the width of a map
    least = 0.45
    scale = 1.2 / max(a.shape[1] for _, a in frames)  # inches a pixel
    while max(sum(max(scale * a.shape[1], least) + gap for _, a in line) for line in lines) > width and scale > 1e-3:
        scale *= 0.97
    heights = [scale * max(a.shape[0] for _, a in line) + 0.55 for line in lines]
    figure = Figure(figsize=(width, sum(heights)))
    total, top = sum(heights), sum(heights)
    for line, height in zip(lines, heights, strict=True):
        left = gap / 2
        for name, a in line:
            w, h = scale * a.shape[1], scale * a.shape[0]
            room = max(w, least)
            middle = (top - 0.32 - (height - 0.55) / 2) / total
            ax = figure.add_axes(((left + (room - w) / 2) / width, middle - h / 2 / total, w / width, h / total))
            _show(ax, a - a.min() if name == "image" else a, a - a.min() if name == "image" else a)
            ax.set_title("\n".join(name.rsplit(".", 1)), fontsize=7, pad=2)
            ax.set_xlabel(f"{a.shape[0]}", fontsize=7, labelpad=1)
            left += room + gap
        top -= height
    (_, start), *others = frames
    figure.set_label(
        f"An image of {start.shape[0]}x{start.shape[1]} pixels on its way through {len(seen)} layers, the channel that varies "
        "most of each: " + ", ".join(f"{name} {a.shape[0]}x{a.shape[1]}" for name, a in others) + "."
    )
    return figure


def _one(name: str, values: Array, n: int) -> Array:
    a = to_numpy(values)
    if a.ndim != 4 or not 0 <= n < a.shape[0]:
        raise ShapeError(f"maps: {name} has shape {a.shape}, expected (N, H, W, C) with an image {n}.")
    return a[n]


def _size(values: Array) -> str:
    return f"{values.shape[1]}×{values.shape[2]}×{values.shape[3]}"


def _show(ax: Axes, values: Array, of: Array) -> None:
    """A map on the colour scale of its layer."""
    top = largest(np.abs(of)) or 1.0
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(linewidth=0.4, color="0.5")
    if of.min() < 0:
        ax.imshow(values, cmap=diverging(), vmin=-top, vmax=top, interpolation="nearest")
    else:
        ax.imshow(values, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
