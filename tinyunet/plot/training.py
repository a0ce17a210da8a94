"""Curves of a training run, from its log."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import ConfigError, DataError
from tinyunet.plot.base import BLACK, BLUE, GREEN, VERMILION, largest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The CSV log of a training run: one dictionary a step; an empty cell is NaN.

    A last line that is still being written (no line end yet) is left out. Raises DataError for a cell that is no number
    or a line with too few or too many cells.
    """
    text = Path(path).read_text(encoding="utf-8")
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    header = next(reader, None)
    if header is None:
        raise DataError(f"read_log: {path} holds no header line. Give the CSV log of a training run.")
    records = []
    for cells in reader:
        number = reader.line_num
        if len(cells) != len(header):
            raise DataError(
                f"read_log: {path}, line {number} has {len(cells)} cells, the header {len(header)}. Repair or remove the line."
            )
        record = {}
        for name, cell in zip(header, cells, strict=True):
            try:
                record[name] = float(cell) if cell.strip() else float("nan")
            except ValueError:
                raise DataError(
                    f"read_log: {path}, line {number}: {name} is {cell!r}, not a number. Repair or remove the line."
                ) from None
        records.append(record)
    return records


def training_curves(records: Sequence[Any], smooth: int | None = None, title: str = "") -> Figure:
    """Loss, learning rate and validation scores against the step.

    records   what `fit` yields, or dictionaries as `read_log` gives them: step, loss, lr and, where known, seconds
              (of each step), val_iou, val_seg; None and NaN are unknown
    smooth    number of records in the trailing mean of the loss; by default a fiftieth of them, but 20 in runs of less than
              1,000 steps, and a fifth of them in runs of less than 100

    The raw loss is drawn light behind its mean. Scores are drawn where they were measured, the best is marked.

    Raises DataError for no records or for records without step or loss, ConfigError for smooth < 1.
    """
    from matplotlib.figure import Figure

    if not len(records):
        raise DataError("training_curves: there are no records to draw. Train at least one step.")
    step, loss, lr, seconds, iou, seg = (_column(records, k) for k in ("step", "loss", "lr", "seconds", "val_iou", "val_seg"))
    for name, values in (("step", step), ("loss", loss)):
        if np.isnan(values).all():
            raise DataError(
                f"training_curves: none of {len(records)} records has a {name}. Give the records of `fit` or of `read_log`."
            )
    smooth = max(1, min(20, len(records) // 5), len(records) // 50) if smooth is None else smooth
    if smooth < 1:
        raise ConfigError(f"training_curves: smooth is {smooth}. Give a number of records of at least 1.")
    scores = [("IoU", iou, BLUE, "-", "o"), ("SEG", seg, VERMILION, "--", "s")]
    scores = [s for s in scores if not np.isnan(s[1]).all()]

    ratios = [3, 1, *([2] if scores else [])]
    figure = Figure(figsize=(7.5, 1.2 * sum(ratios) + 0.6), layout="constrained")
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for ax in axes:
        ax.grid(color="0.9", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
    mean = _trailing_mean(loss, smooth)
    axes[0].plot(step, loss, color="0.75", linewidth=0.8, label="each step")
    if smooth > 1:
        axes[0].plot(step, mean, color=BLACK, linewidth=1.8, label=f"mean of the last {smooth}")
    positive = loss[loss > 0]
    if positive.size == np.sum(~np.isnan(loss)) and positive.max() > 20 * positive.min():
        axes[0].set_yscale("log")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].plot(step, lr, color=GREEN, linewidth=1.6)
    axes[1].set_ylabel("learning rate")
    axes[1].set_ylim(0, 1.1 * (largest(lr) or 1.0))
    axes[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for name, values, color, style, marker in scores:
        there = ~np.isnan(values)
        best = int(np.nanargmax(values))
        axes[2].plot(step[there], values[there], style, color=color, marker=marker, markersize=4, linewidth=1.6,
                     label=f"{name}, best {values[best]:.3f} at step {step[best]:,.0f}")  # fmt: skip
        axes[2].plot(step[best], values[best], marker, color=color, markersize=9, markerfacecolor="none", markeredgewidth=1.4)
    if scores:
        axes[2].set(ylabel="validation score", ylim=(0, 1.02))
        axes[2].legend(frameon=False, fontsize=9, loc="lower right")
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    last = int(np.flatnonzero(~np.isnan(step))[-1])
    took = "" if np.isnan(seconds).all() else f" in {_duration(float(np.nansum(seconds)))}"
    axes[0].set_title(title or f"{step[last]:,.0f} steps{took}", loc="left", fontsize=11, weight="bold")
    bests = "".join(f", best validation {name} {np.nanmax(values):.3f}" for name, values, *_ in scores)
    figure.set_label(
        f"Training curves over {step[last]:,.0f} steps{took}: mean loss {mean[0]:.4g} at first, {mean[-1]:.4g} at last{bests}."
    )
    return figure


def _column(records: Sequence[Any], key: str) -> Array:
    """One number of every record, NaN where it is unknown. The scores of a `StepRecord` lie one step deeper."""

    def value(record: Any) -> Any:
        if isinstance(record, Mapping):
            return record.get(key)
        if key.startswith("val_"):
            return getattr(record.scores, {"val_iou": "mean_iou", "val_seg": "seg"}[key], None)
        return getattr(record, key)

    return np.array([np.nan if v is None else v for v in map(value, records)], dtype=np.float64)


def _trailing_mean(values: Array, n: int) -> Array:
    """y_i = mean of the known values among x_(i-n+1) ... x_i; fewer at the start."""
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(a)]) for a in (np.where(known, values, 0.0), known))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - n, 0)
    some = counts[stop] - counts[start]
    return np.where(some > 0, (sums[stop] - sums[start]) / np.maximum(some, 1), np.nan)


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
