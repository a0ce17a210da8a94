"""Is the network learning, layer by layer: gradients, dead units, how much a step changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinyunet.errors import ConfigError
from tinyunet.plot.base import BLUE, OBJECTS, ORANGE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def gradient_flow(norms: Mapping[str, float], shares: Mapping[int, tuple[float, float]] | None = None) -> Figure:
    """How large the gradient is at every layer, and at each fork how much of it came through the skip.

    norms    layer -> norm, as `probe.gradient_norms` gives them; drawn in the order given: as bars from 0, or,
             if they differ by a factor of more than 50, as dots on a logarithmic axis
    shares   level -> (through the skip, from below), as `probe.skip_shares` gives them

    Raises ConfigError if there is nothing to show.
    """
    from matplotlib.figure import Figure

    if not norms:
        raise ConfigError("gradient_flow: there is no gradient. Did a backward pass run inside the probe?")
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 2 if shares else 1, squeeze=False, width_ratios=[3, 1] if shares else [1])[0]
    if min(norms.values()) >= max(norms.values()) / 50:
        _bars(axes[0], norms, BLUE)
    else:  # a logarithmic axis has no 0 for a bar to stand on
        axes[0].plot(list(norms), list(norms.values()), "o", color=BLUE)
        axes[0].set_yscale("log")
        axes[0].grid(axis="y", color="0.9")
        axes[0].tick_params(axis="x", rotation=90, labelsize=7)
    axes[0].set_ylabel("norm of the gradient")
    said = ""
    if shares:
        levels = sorted(shares)
        skip = [shares[k][0] / (sum(shares[k]) or 1) for k in levels]
        names = [f"level {k}" for k in levels]
        axes[1].bar(names, skip, color=SKY, edgecolor="0.3", label="through the skip")
        axes[1].bar(names, [1 - s for s in skip], bottom=skip, color=ORANGE, edgecolor="0.3", label="from below")
        axes[1].set_ylabel("share of the two norms")
        axes[1].tick_params(axis="x", labelsize=8)
        axes[1].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        listed = (f"{100 * s:.0f} % at {name}" for s, name in zip(skip, names, strict=True))
        said = f" Through the skip come {', '.join(listed)}."
    figure.set_label("Norms of the gradient: " + ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items()) + "." + said)
    return figure


def dead_units(shares: Mapping[str, float]) -> Figure:
    """The share of channels of each ReLU that are 0 everywhere, as `probe.dead_share` gives it.

    Raises ConfigError if there is nothing to show.
    """
    from matplotlib.figure import Figure

    if not shares:
        raise ConfigError("dead_units: there is no layer. Give name -> share, from 0 to 1.")
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    ax = figure.subplots()
    _bars(ax, shares, VERMILION)
    ax.set(ylim=(0, 1), ylabel="dead channels")
    figure.set_label("Share of dead channels: " + ", ".join(f"{name} {100 * s:.0f} %" for name, s in shares.items()) + ".")
    return figure


def over_time(series: Mapping[str, Sequence[float]], what: str, healthy: tuple[float, float] | None = None) -> Figure:
    """Numbers of several layers, step by step, on a logarithmic axis: update ratios, gradient norms.

    series    layer -> one number a step
    what      they are, for the axis
    healthy   a band that they should lie in: (1e-4, 1e-2) for update ratios

    Raises ConfigError if there is nothing to show.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not series or not all(series.values()):
        raise ConfigError("over_time: there is nothing to show. Give name -> one number a step.")
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    ax = figure.subplots()
    if healthy:
        ax.axhspan(*healthy, color="0.9", zorder=0)
    styles = ("-", "--", ":", "-.")  # lines stay apart without colour, too
    for k, (name, values) in enumerate(series.items()):
        ax.plot(range(1, len(values) + 1), values, styles[k % 4], color=OBJECTS[k % len(OBJECTS)], label=name, linewidth=1.5)
    ax.set(yscale="log", xlabel="step", ylabel=what)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.set_label(f"{what} over {max(map(len, series.values()))} steps: "
                     + ", ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, v in series.items()) + ".")  # fmt: skip
    return figure


def _bars(ax: Axes, values: Mapping[str, float], color: str) -> None:
    ax.bar(list(values), list(values.values()), color=color, edgecolor="0.3", linewidth=0.5)
    ax.tick_params(axis="x", rotation=90, labelsize=7)
