"""Where the time of a training step goes, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyunet.plot.base import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tinyunet.profile import Part, Profile

STYLES: dict[Part, tuple[str, str]] = {
    "forward": (BLUE, ""), "by input": (ORANGE, "///"), "by weight": (SKY, "..."), "elementwise": (YELLOW, ""),
    "augmentation": (GREEN, ""), "loss": (PURPLE, ""), "optimizer": (BLACK, ""),
}  # fmt: skip
"""Colour and hatching of every part."""


def step_profile(profile: Profile, title: str = "") -> Figure:
    """A bar for every layer, in the order of the forward pass, cut into parts; behind it what it took and how fast that was.

    A convolution stands together with what follows it: norm, ReLU, dropout.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows: dict[str, dict[str, float]] = {}
    products: dict[str, tuple[float, float]] = {}  # seconds of the products, seconds that they would take at the peak
    for entry in profile.entries:
        name = row_of(entry.layer)
        parts = rows.setdefault(name, {})
        parts[entry.part] = parts.get(entry.part, 0.0) + 1000 * entry.seconds
        if entry.macs:
            seconds, best = products.get(name, (0.0, 0.0))
            products[name] = seconds + entry.seconds, best + 2 * entry.macs / profile.peak.flops
    total = 1000 * sum(entry.seconds for entry in profile.entries)
    longest = max(sum(parts.values()) for parts in rows.values())

    figure = Figure(figsize=(8.5, 1.4 + 0.26 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, (_, parts) in enumerate(rows.items()):
        left = 0.0
        for part, (colour, hatch) in STYLES.items():
            if part in parts:
                ax.barh(y, parts[part], left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, height=0.8)
                left += parts[part]
        name = list(rows)[y]
        speed = f", products at {products[name][1] / products[name][0]:.0%} of BLAS" if name in products else ""
        ax.text(left + 0.01 * longest, y, f"{left:,.1f} ms{speed}", va="center", fontsize=8)
    ax.set(yticks=range(len(rows)), xlabel="milliseconds", xlim=(0, 1.42 * longest), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticklabels(list(rows), fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    used = [part for part in STYLES if any(part in parts for parts in rows.values())]
    handles = [Patch(facecolor=STYLES[p][0], hatch=STYLES[p][1], edgecolor="white", label=p) for p in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    heading = f"One training step, base {profile.spec.base}, {profile.size} px, batch {profile.batch}: {total:,.0f} ms"
    ax.set_title(title or heading, loc="left", fontsize=11, weight="bold")
    shares = ", ".join(f"{part} {1000 * profile.total(part).seconds / total:.0%}" for part in used)
    slowest = max(rows, key=lambda name: sum(rows[name].values()))
    figure.set_label(
        f"{title or heading} on {profile.peak.threads} threads, by layer. {shares}. "
        f"The longest bar is {slowest} with {longest:,.0f} ms."
    )
    return figure


def row_of(layer: str) -> str:
    """The convolution that a norm, a ReLU or a dropout belongs to; any other layer's own name."""
    where, _, last = layer.rpartition(".")
    if last == "dropout":
        return f"{where}.conv2"
    return f"{where}.conv{last[-1]}" if last[-1].isdigit() else layer
