"""Images with outlines, errors, results, weight maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.data.sample import IGNORE
from tinyunet.errors import DataError, ShapeError
from tinyunet.plot.base import BLUE, ERRORS, MIXED, OBJECTS, YELLOW, largest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def overlay(image: Array, labels: Array, truth: Array | None = None, title: str = "") -> Figure:
    """An image with the outline of every object, and in a second colour those of the truth.

    image (H, W), (H, W, 1) or (H, W, 3); labels, truth (H, W): instance ids or classes.
    Outlines run between pixels, wherever two neighbours differ; touching objects are kept apart. A casing of the opposite
    lightness keeps each line visible on dark and on bright ground.

    Raises ShapeError if the arrays do not match.
    """
    shown = _image("overlay", image)
    size = shown.shape[:2]
    figure, (ax,) = _panels(size, 1)
    _show(ax, shown)
    lines = [(_pixels("overlay", "labels", labels, size), "white", "black", "prediction")]
    if truth is not None:
        lines = [(_pixels("overlay", "truth", truth, size), BLUE, "white", "truth"),
                 (lines[0][0], YELLOW, "black", "prediction")]  # fmt: skip
    for ids, core, casing, name in lines:
        _outline(ax, ids, core, casing, name)
    if truth is not None:
        ax.legend(*_legend([(name, core) for _, core, _, name in lines]), loc="upper right", fontsize=8)
    ax.set_title(title, fontsize=10)
    figure.set_label(f"Image of {size[0]}x{size[1]} pixels with the outlines of {_count(lines[-1][0])} labelled objects.")
    return figure


def errors(image: Array, prediction: Array, truth: Array, title: str = "") -> Figure:
    """Where a segmentation is right and where it is not: hits, invented pixels (false positives), missed ones (false negatives).

    image (H, W[, C]); prediction, truth (H, W), foreground is > 0. Pixels whose truth is `IGNORE` count as neither.
    The image shows through faintly. The legend counts pixels.

    Raises ShapeError if the arrays do not match.
    """
    shown = _image("errors", image)
    size = shown.shape[:2]
    kinds = _error_kinds(_pixels("errors", "prediction", prediction, size), _pixels("errors", "truth", truth, size))
    figure, (ax,) = _panels(size, 1, below=0.75)
    _show(ax, _paint_errors(shown, kinds))
    ax.set_title(title, fontsize=10)
    counts = {name: int(mask.sum()) for name, mask in kinds.items()}
    entries = [(f"{name} {n:,} px", ERRORS[name]) for name, n in counts.items() if n or name in ("hit", "invented", "missed")]
    figure.legend(*_legend(entries), loc="lower center", ncols=2, fontsize=8, frameon=False)
    listed = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    figure.set_label(f"Errors of a segmentation of {size[0]}x{size[1]} pixels: {listed}.")
    return figure


def _image(who: str, image: Array) -> Array:
    """(H, W) or (H, W, 3) floats from 0 to 1: the darkest and brightest half percent of the pixels are clipped."""
    a = to_numpy(image)
    if a.ndim == 3 and a.shape[2] == 1:
        a = a[..., 0]
    if not (a.ndim == 2 or (a.ndim == 3 and a.shape[2] == 3)) or a.size == 0:
        raise ShapeError(f"{who}: an image of shape {a.shape} cannot be shown. Give one of (H, W), (H, W, 1) or (H, W, 3).")
    a = a.astype(np.float64)
    low, high = np.percentile(a[np.isfinite(a)], (0.5, 99.5)) if np.isfinite(a).any() else (0.0, 1.0)
    return np.nan_to_num(np.clip((a - low) / (high - low if high > low else 1.0), 0.0, 1.0))


def _pixels(who: str, name: str, values: Array, size: tuple[int, ...]) -> Array:
    """The array on the host, if it has one value for each pixel of the image."""
    a = to_numpy(values)
    if a.shape != tuple(size):
        raise ShapeError(
            f"{who}: {name} of shape {a.shape} does not match the image of {size[0]}x{size[1]} pixels. "
            "Give one value per pixel (H, W); a network with valid convolutions returns less, `predict` does not."
        )
    return a


def _count(ids: Array) -> int:
    return int(np.sum(np.unique(ids) > 0))


def _panels(size: tuple[int, ...], columns: int, side: float = 4.0, below: float = 0.05) -> tuple[Figure, list[Axes]]:
    """A figure with a row of equal panels for maps of (H, W), `side` inches long, and free space below, in inches."""
    from matplotlib.figure import Figure

    h, w = (side * n / max(size) for n in size[:2])
    pad, above = 0.12, 0.35
    width, height = columns * (w + pad) + pad, h + above + below
    figure = Figure(figsize=(max(width, 3.0), height))
    left = (max(width, 3.0) - width) / 2 + pad
    axes = [
        figure.add_axes(((left + i * (w + pad)) / max(width, 3.0), below / height, w / max(width, 3.0), h / height))
        for i in range(columns)
    ]
    return figure, axes


def _show(ax: Axes, values: Array, **kwargs: Any) -> AxesImage:
    """An image without ticks. Grey unless a colour map is named; pixels stay squares when enlarged."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(linewidth=0.6, color="0.4")
    if values.ndim == 2:
        kwargs = {"cmap": "gray", **({} if "norm" in kwargs else {"vmin": 0, "vmax": 1}), **kwargs}
    return ax.imshow(values, interpolation="nearest", **kwargs)


def _cracks(ids: Array) -> Array:
    """The borders between unlike pixels as straight runs -> (runs, 2, 2), ends as (x, y) in pixels, pixel centres whole."""
    known = np.pad(np.where(ids > 0, ids, 0), 1)
    runs = []
    for vertical, a in ((False, known), (True, known.T)):
        edge = a[1:] != a[:-1]  # edge k lies between rows k - 1 and k of the unpadded array
        change = np.diff(np.pad(edge, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, starts = np.nonzero(change == 1)
        stops = np.nonzero(change == -1)[1]  # row-major as well: the k-th stop ends the k-th start
        along = np.stack([starts, stops], axis=1) - 1.5
        across = np.stack([rows, rows], axis=1) - 0.5
        runs.append(np.stack([across, along] if vertical else [along, across], axis=2))
    return np.concatenate(runs)


def _outline(ax: Axes, ids: Array, core: str, casing: str = "", name: str = "", width: float = 0.9) -> None:
    """Lines of `width` points between unlike pixels, on wider ones in the colour `casing`, if one is given."""
    from matplotlib.collections import LineCollection

    runs = _cracks(ids)
    for color, points in ((casing, width + 1.1), (core, width)):
        if color:
            lines = LineCollection(list(runs), colors=color, linewidths=points, capstyle="projecting", label=f"_{name}")
            ax.add_collection(lines, autolim=False)


def _color_objects(ids: Array) -> Array:
    """(H, W) ids -> (H, W, 3): every object takes the colour whose nearest bearer is farthest away; background is dark."""
    from matplotlib.colors import to_rgb

    names, index = np.unique(np.where(ids > 0, ids, 0), return_inverse=True)
    index = index.reshape(ids.shape)
    palette = np.array([to_rgb(c) for c in OBJECTS])
    colors = np.full((len(names), 3), 0.13)
    n = np.bincount(index.ravel())
    rows, columns = np.indices(ids.shape)
    centers = np.stack([np.bincount(index.ravel(), axis.ravel()) / n for axis in (rows, columns)], axis=1)
    nearest = np.full((len(names), len(palette)), 2.0 * sum(ids.shape))  # of each object to each colour; none used yet
    for i in range(len(names)):
        if names[i] == 0:
            continue
        pick = int(np.argmax(nearest[i]))
        colors[i] = palette[pick]
        nearest[:, pick] = np.minimum(nearest[:, pick], np.hypot(*(centers - centers[i]).T))
    return colors[index]


def _error_kinds(prediction: Array, truth: Array) -> dict[str, Array]:
    """Masks that share out all pixels. Only foreground (> 0) against background counts, not which object."""
    known, found, there = truth != IGNORE, prediction > 0, truth > 0
    return {"hit": known & found & there, "invented": known & found & ~there, "missed": known & ~found & there,
            "unknown": ~known, "background": known & ~found & ~there}  # fmt: skip


def _mixed_up(prediction: Array, truth: Array) -> dict[str, Array]:
    """Ids of predicted objects that hold more than half of each of several true ones ("merged"), and of those that lie by more
    than half in a true one that holds several of them ("split")."""
    both = (prediction > 0) & (truth > 0)
    (i, j), overlap = np.unique(np.stack([truth[both], prediction[both]]), axis=1, return_counts=True)
    half_of_true, half_of_predicted = (
        2 * overlap > sizes[np.searchsorted(ids, of)]
        for of, (ids, sizes) in ((i, np.unique(truth, return_counts=True)), (j, np.unique(prediction, return_counts=True)))
    )
    holders, held = np.unique(j[half_of_true], return_counts=True)
    broken, pieces = np.unique(i[half_of_predicted], return_counts=True)
    merged = holders[held > 1]
    split = j[half_of_predicted & np.isin(i, broken[pieces > 1])]
    return {"merged": merged, "split": np.setdiff1d(split, merged)}


def _paint_errors(image: Array, kinds: Mapping[str, Array]) -> Array:
    """Flat colours, darkened by up to a tenth where the image is dark -> (H, W, 3)."""
    from matplotlib.colors import to_rgb

    grey = image if image.ndim == 2 else image.mean(axis=2)
    painted = np.zeros((*grey.shape, 3))
    for name, mask in kinds.items():
        painted[mask] = to_rgb(ERRORS[name])
    return painted * (0.9 + 0.1 * grey[..., None])


def _legend(entries: Iterable[tuple[str, str]]) -> tuple[list[Any], list[str]]:
    from matplotlib.patches import Patch

    entries = list(entries)
    return [Patch(facecolor=color, edgecolor="0.3", linewidth=0.6) for _, color in entries], [name for name, _ in entries]


def _sqrt_norm(maps: Iterable[Array]) -> Normalize:
    """From 0 to the largest value, by square root: weights of 0.5 and of 12 are both seen, and 0 has a place."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0.0, vmax=max((largest(m) for m in maps), default=0.0) or 1.0)


class Row(NamedTuple):
    """One sample of `results`. All arrays cover the same H x W pixels."""

    image: Array  # (H, W), (H, W, 1) or (H, W, 3)
    truth: Array  # (H, W) instance ids, 0 background, IGNORE unknown
    probability: Array  # (H, W) of foreground, 0 to 1
    prediction: Array  # (H, W) instance ids, 0 background
    weights: Array | None = None  # (H, W) of the loss
    name: str = ""
    iou: float | None = None
    seg: float | None = None


def results(rows: Sequence[Row], title: str = "", side: float = 1.9) -> Figure:
    """What a network made of a few samples, one row each: image, truth, weight map, probability, outlines, errors.

    Outlines of predicted objects are broad and coloured where one covers several true ones ("merged"), or where several share
    a true one ("split"): pixels may be right and the count wrong. An object belongs to where more than half of it lies.

    The weight map is left out if no row has one. All rows share the colour scales, so that they can be compared.
    `side` is the width of a panel in inches.

    Raises ShapeError if the arrays of a row do not match, DataError for no rows.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise DataError("results: there are no rows to show. Give at least one Row.")
    images, sizes = [], []
    for i, row in enumerate(rows):
        images.append(_image(f"results: row {i}", row.image))
        sizes.append(images[-1].shape[:2])
        for name in ("truth", "probability", "prediction", "weights"):
            if getattr(row, name) is not None:
                _pixels(f"results: row {i}", name, getattr(row, name), sizes[-1])
    norm = _sqrt_norm(to_numpy(r.weights) for r in rows if r.weights is not None)
    weighted = any(r.weights is not None for r in rows)
    columns = ["image", "truth", *(["loss weight"] if weighted else []), "probability", "prediction", "errors"]

    # All lengths in inches, from the top left corner.
    pad, caption, header, footer = 0.1, 0.25, 0.3 + 0.35 * bool(title), 0.75
    heights = [side * h / w for h, w in sizes]
    width = len(columns) * (side + pad) + pad
    height = header + sum(h + caption for h in heights) + footer
    figure = Figure(figsize=(width, height))

    def place(column: int, top: float, w: float, h: float) -> Axes:
        return figure.add_axes(((pad + column * (side + pad)) / width, 1 - (top + h) / height, w / width, h / height))

    if title:
        figure.text(pad / width, 1 - 0.2 / height, title, fontsize=13, weight="bold", va="center")
    for c, name in enumerate(columns):
        figure.text((pad + c * (side + pad)) / width, 1 - (header - 0.14) / height, name, fontsize=11, va="center", color="0.25",
                    weight="bold")  # fmt: skip
    top, shown, mixed = header, {}, []
    for row, image, size, h in zip(rows, images, sizes, heights, strict=True):
        top += caption
        panel = {name: place(c, top, side, h) for c, name in enumerate(columns)}
        truth, prediction = to_numpy(row.truth), to_numpy(row.prediction)
        kinds = _error_kinds(prediction, truth)
        _show(panel["image"], image)
        _show(panel["truth"], np.where((truth == IGNORE)[..., None], 0.85, _color_objects(truth)))
        _outline(panel["truth"], truth, "#212121", name="truth", width=0.6)  # a dark seam between objects that touch
        if row.weights is not None:
            shown["loss weight"] = _show(panel["loss weight"], to_numpy(row.weights), cmap="magma", norm=norm)
        elif weighted:
            panel["loss weight"].set_axis_off()
        shown["probability"] = _show(panel["probability"], to_numpy(row.probability), cmap="cividis")
        _show(panel["prediction"], image)
        _outline(panel["prediction"], prediction, "white", "black", "prediction", width=0.7)
        mixed.append(_mixed_up(prediction, truth))
        for name, ids in mixed[-1].items():
            marked = np.where(np.isin(prediction, ids), prediction, 0)
            _outline(panel["prediction"], marked, MIXED[name], "black", name, width=1.4)
        _show(panel["errors"], _paint_errors(image, kinds))
        wrong = kinds["invented"].sum() + kinds["missed"].sum()
        notes = {
            "image": f"{row.name}  {size[0]}×{size[1]} px".strip(),
            "prediction": _scores(row),
            "errors": f"{wrong / max(1, truth.size - kinds['unknown'].sum()):.1%} of pixels wrong",
        }
        for name, note in notes.items():
            panel[name].set_title(note, fontsize=8.5, loc="left", pad=3)
        top += h
    for name, label in (("loss weight", "weight (square-root scale)"), ("probability", "probability of foreground")):
        if name in shown:
            bar_at = place(columns.index(name), top + 0.12, side, 0.1)
            figure.colorbar(shown[name], cax=bar_at, orientation="horizontal")
            bar_at.set_xlabel(label, fontsize=8)
            bar_at.tick_params(labelsize=8)
            if name == "probability":
                bar_at.set_xticks([0, 0.5, 1])
    kinds_shown = ["hit", "invented", "missed"]
    if any((to_numpy(r.truth) == IGNORE).any() for r in rows):
        kinds_shown.append("unknown")
    legend_at = place(len(columns) - 1, top, side, footer - 0.1)
    legend_at.set_axis_off()
    legend_at.legend(*_legend((k, ERRORS[k]) for k in kinds_shown), loc="upper left", fontsize=8, frameon=False, ncols=2,
                     borderaxespad=0.3, columnspacing=1.0)  # fmt: skip
    meaning = {"merged": "merged: several as one", "split": "split: one as several"}
    entries = [("predicted object", "white")] * any((to_numpy(r.prediction) > 0).any() for r in rows)
    if entries := entries + [(meaning[name], color) for name, color in MIXED.items() if any(ids[name].size for ids in mixed)]:
        legend_at = place(columns.index("prediction"), top, side, footer - 0.1)
        legend_at.set_axis_off()
        legend_at.legend(*_legend(entries), loc="upper left", fontsize=8, frameon=False, borderaxespad=0.3)
    scores = []
    for i, (row, found) in enumerate(zip(rows, mixed, strict=True)):
        said = [_scores(row), *(f"{ids.size} {name}" for name, ids in found.items() if ids.size)]
        if any(said):
            scores.append(f"{row.name or f'row {i}'}: {', '.join(filter(None, said))}")
    figure.set_label(f"{len(rows)} samples, one a row, with {', '.join(columns)}. {'; '.join(scores)}".strip())
    return figure


def _scores(row: Row) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in (("IoU", row.iou), ("SEG", row.seg)) if value is not None)


def weight_map(image: Array, instances: Array, d1: Array, d2: Array, border: Array, weights: Array) -> Figure:
    """How the weight of each pixel comes about (section 3, eq. 2): d1, d2 (px), the border term, the sum w.

    image (H, W[, C]); all others (H, W). d1 and d2 are the distances to the nearest and the second nearest cell;
    border = w0 exp(-(d1 + d2)^2 / 2 sigma^2); weights = w_c + border. Pixels with no finite distance are grey.

    Raises ShapeError if the arrays do not match.
    """
    shown = _image("weight_map", image)
    size = shown.shape[:2]
    named = {"instances": instances, "d1": d1, "d2": d2, "border": border, "weights": weights}
    maps = {name: _pixels("weight_map", name, a, size) for name, a in named.items()}
    figure, axes = _panels(size, 5, side=2.6, below=0.7)
    _show(axes[0], shown)
    _outline(axes[0], maps["instances"], "white", "black", "instances")
    axes[0].set_title("image and cells", fontsize=10)
    axes[0].set_xlabel(f"{size[0]}×{size[1]} px, {_count(maps['instances'])} cells", fontsize=9)
    from matplotlib.colors import Normalize

    distance = Normalize(0, max(largest(maps["d1"]), largest(maps["d2"])) or 1.0)  # shared: d2 is never less than d1
    looks: list[tuple[str, str, str, str, Normalize]] = [
        ("d1", "$d_1$: nearest cell", "distance (px)", "viridis", distance),
        ("d2", "$d_2$: second nearest cell", "distance (px)", "viridis", distance),
        ("border", r"$w_0\,\exp(-(d_1+d_2)^2/2\sigma^2)$", "border term", "magma", Normalize(0, largest(maps["border"]) or 1.0)),
        ("weights", "$w$: with class balance", "weight (square-root scale)", "magma", _sqrt_norm([maps["weights"]])),
    ]
    for ax, (name, title, label, cmap, norm) in zip(axes[1:], looks, strict=True):
        seen = np.ma.masked_invalid(maps[name].astype(np.float64))
        drawn = _show(ax, seen, cmap=cmap, norm=norm)
        ax.set_facecolor("0.8")  # shows through where no distance is finite
        ax.set_title(title, fontsize=10)
        x, y, w, _ = ax.get_position().bounds
        inch = 1 / figure.get_figheight()
        bar = figure.colorbar(drawn, cax=figure.add_axes((x, y - 0.2 * inch, w, 0.1 * inch)), orientation="horizontal")
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.set_label(
        f"Weight map of {size[0]}x{size[1]} pixels with {_count(maps['instances'])} cells: the distances to the nearest and the "
        f"second nearest cell in pixels, the border term up to {largest(maps['border']):.2f}, "
        f"the weight up to {largest(maps['weights']):.2f}."
    )
    return figure
