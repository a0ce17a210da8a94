"""What is lost without a part: variants of a training against a baseline, seed by seed, with means and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import ShapeError
from tinyunet.plot.base import SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Interval(NamedTuple):
    """A mean, and how far its 95 % interval reaches to both sides."""

    mean: float
    half: float

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside of the interval."""
        return abs(self.mean - value) > self.half


def t_interval(values: Sequence[float] | Array) -> Interval:
    """mean +- t s / sqrt(n): Student's interval of a mean, t being what 95 % of his distribution with n - 1 degrees lie within.

    It takes the values for independent and about normally distributed. Raises ShapeError for fewer than two values.
    """
    from scipy.stats import t

    n = len(values)
    if n < 2:
        raise ShapeError(f"t_interval: {n} values say nothing about how much they vary. Give two or more, of different seeds.")
    return Interval(float(np.mean(values)), float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)))


def ablation(values: Mapping[str, Mapping[str, Sequence[float]]], measures: Sequence[str] = (), width: float = 11.0) -> Figure:
    """Differences from a baseline: a row for each variant, a panel for each measure, a dot for each seed, mean and interval.

    values     variant -> measure -> one number a seed, in the same order of seeds; the first variant is the baseline
    measures   those to show, all unless given

    Variants of a seed share its data, so that what is compared is the difference of each pair. An interval without 0 is drawn
    in another colour and filled.

    Raises ShapeError if the numbers cannot be paired.
    """
    from matplotlib.figure import Figure

    (_, baseline), *others = values.items()
    measures = measures or tuple(baseline)
    for name, found in others:
        for measure in measures:
            if len(found[measure]) != len(baseline[measure]):
                raise ShapeError(f"ablation: {name} has {len(found[measure])} values of {measure}, the baseline "
                                 f"{len(baseline[measure])}. Give one for each seed.")  # fmt: skip
    figure = Figure(figsize=(width, 0.9 + 0.42 * len(others)), layout="constrained")
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    told = []
    for ax, measure in zip(axes, measures, strict=True):
        ax.axvline(0, color="0.6", linewidth=0.8)
        for y, (name, found) in enumerate(others):
            pairs = np.subtract(found[measure], baseline[measure])
            mean, half = interval = t_interval(pairs)
            clear = interval.excludes(0)
            ax.plot(pairs, np.full(len(pairs), y + 0.22), "o", markersize=3, color=SKY)
            ax.errorbar(mean, y - 0.1, xerr=half, fmt="D", markersize=5, capsize=3, color=VERMILION if clear else "0.4",
                        markerfacecolor=VERMILION if clear else "white")  # fmt: skip
            told.append(f"{name}, {measure} {mean:+.3f} ± {half:.3f}")
        ax.set_title(f"{measure}\nbaseline {np.mean(baseline[measure]):.3f}", fontsize=9.5)
        ax.set_yticks(range(len(others)), [name for name, _ in others])
        ax.tick_params(labelsize=8.5)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(others) - 0.5, -0.5)
    figure.supxlabel("difference from the baseline of the same seed; dots: seeds, diamonds: mean and 95 % interval", fontsize=9)
    seeds = len(next(iter(baseline.values())))
    figure.set_label(f"Differences from the baseline, mean and 95 % interval over {seeds} seeds: {'; '.join(told)}.")
    return figure
