"""A U-Net drawn to scale: every map a box with its true side, crops on the skips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tinyunet.plot.base import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from tinyunet.shapes import Step, count_params, trace
from tinyunet.spec import UNetSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SLANT = (0.82, 0.57)  # channels recede up and to the right, at 35 degrees
_FONT = 8.5  # points
_LABEL = 0.34  # inches that the two lines below a box take
_STRAIGHT = ("pool", "concat")  # lead to a map straight below or above
_INK = {"conv3x3": "#222222", "pool": VERMILION, "concat": GREEN, "conv1x1": PURPLE}


def draw_unet(spec: UNetSpec, height: int, width: int | None = None) -> Figure:
    """The network as a U, to scale: each map a box with the map's true height and width, receding farther for more channels.

    One unit of the axes is one pixel of the map, on every level. A box recedes with the square root of its channels. The
    skips go straight across; the dashed rectangle on a skip map is what the crop leaves, drawn where it is cut.
    Where maps of one level overlap, the later stands before the earlier.

    Raises ShapeError with the nearest sizes that fit if this one does not.
    """
    from matplotlib.figure import Figure

    steps = trace(spec, height, width)
    maps = _maps(spec, steps)
    inch = max(max(m.size) for m in maps) / 1.75  # in pixels: the largest map is drawn 1.75 inches long
    widest = max(m.channels for m in maps)
    for m in maps:
        m.depth = 0.45 * inch * (m.channels / widest) ** 0.5
        m.words = inch * max(_text_width(t, _FONT) for t in m.label)
    pairs = [(skip, join) for join in maps if join.op == "concat"
             for skip in [m for m in maps if m.level == join.level and not m.rising][-1:]]  # fmt: skip
    _place_across(maps, pairs, inch)
    _place_down(maps, inch)

    figure = Figure()
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_aspect("equal")
    for skip, join in pairs:
        _draw_skip(ax, skip, join, inch)
    for i, m in enumerate(maps):
        _draw_box(ax, m, 3 + i)
        if i:
            _draw_arrow(ax, maps[i - 1], m, inch, 2.5 + i)
        for row, (text, color) in enumerate(zip(m.label, ("black", "0.35"), strict=True)):
            y = m.floor - (0.05 + 0.14 * row) * inch
            ax.text(m.x + m.middle, y, text, fontsize=_FONT, color=color, ha="center", va="top", zorder=99)
    for skip, join in pairs:
        _draw_crop(ax, skip, join, inch, 3 + maps.index(skip) + 0.2)

    (h, w), (p, q) = maps[0].size, maps[-1].size
    heading = f"U-Net of depth {spec.depth}, {spec.padding} convolutions"
    facts = (
        f"{h}×{w} px in, {p}×{q} px out     {count_params(spec):,} parameters     "
        f"{_count_macs(sum(s.macs for s in steps))} for one image"
    )
    x0, x1, y0, y1 = _write_words(ax, spec, maps, heading, facts, inch)
    ax.set(xlim=(x0, x1), ylim=(y0, y1))
    figure.set_size_inches((x1 - x0) / inch, (y1 - y0) / inch)
    cuts = ", ".join(f"{join.crop[0]} px at level {join.level}" for _, join in pairs)
    figure.set_label(
        f"{heading}, drawn as a U to scale: {facts.replace('     ', '; ')}. On the way down {_chain(maps, False)} px; "
        f"on the way up {_chain(maps, True)} px. Skips are "
        + (f"cropped on each side by {cuts}." if spec.padding == "valid" else "not cropped.")
    )
    return figure


@dataclass
class _Map:
    """One box of `draw_unet`. All lengths are in pixels of the map; x, y is the centre of its face."""

    op: str  # what made it: "input", "conv3x3", "pool", "concat", "conv1x1"
    level: int
    rising: bool  # on the expansive path
    size: tuple[int, int]
    parts: tuple[tuple[int, str], ...]  # channels and colour, front to back
    crop: tuple[int, int] = (0, 0)  # that the concatenation cuts off its skip: top and left
    depth: float = 0.0  # how far the box recedes
    words: float = 0.0  # width of its label
    floor: float = 0.0  # where its label begins
    middle: float = 0.0  # of the visible part of its face, from x
    x: float = 0.0
    y: float = 0.0

    @property
    def label(self) -> tuple[str, str]:
        h, w = self.size
        return f"{h}²" if h == w else f"{h}×{w}", "+".join(str(c) for c, _ in self.parts)

    @property
    def room(self) -> float:
        return max(self.size[1], self.words)

    @property
    def channels(self) -> int:
        return sum(c for c, _ in self.parts)

    @property
    def roof(self) -> float:
        return self.y + self.size[0] / 2 + _SLANT[1] * self.depth

    @property
    def side_at_centre(self) -> float:
        """How far the receding side reaches to the right at half the height of the face."""
        return min(_SLANT[0] * self.depth, self.size[0] / 2 * _SLANT[0] / _SLANT[1])


def _maps(spec: UNetSpec, steps: Sequence[Step]) -> list[_Map]:
    maps = [_Map("input", 0, False, steps[0].in_size, ((spec.channels, "#BBBBBB"),))]
    for s in steps:
        kind, level, rising = s.layer.kind, s.layer.level, maps[-1].rising
        color = ORANGE if rising else BLUE
        match kind:
            case "conv3x3":
                maps.append(_Map(kind, level, rising, s.out_size, ((s.layer.c_out, color),)))
            case "pool":
                maps.append(_Map(kind, level + 1, rising, s.out_size, ((s.layer.c_out, color),)))
            case "concat" if s.crop:
                parts = ((s.layer.c_in, ORANGE), (s.layer.c_out - s.layer.c_in, BLUE))
                maps.append(_Map(kind, level, True, s.out_size, parts, (s.crop.top, s.crop.left)))
            case "conv1x1":
                maps.append(_Map(kind, level, rising, s.out_size, ((s.layer.c_out, PURPLE),)))
    return maps


def _chain(maps: Sequence[_Map], rising: bool) -> str:
    return ", ".join(m.label[0] for m in maps if m.rising == rising)


def _count_macs(macs: int) -> str:
    unit, size = next(((u, n) for u, n in (("GMAC", 1e9), ("MMAC", 1e6)) if macs >= n), ("kMAC", 1e3))
    return f"{macs / size:.4g} {unit}"


def _crop_text(join: _Map) -> str:
    return f"crop {join.crop[0]} px" if any(join.crop) else "no crop"


def _place_across(maps: Sequence[_Map], pairs: Sequence[tuple[_Map, _Map]], inch: float) -> None:
    """Convolutions step to the right; poolings and up-convolutions go straight down and up.

    Skip and join must stand apart far enough for the words between them: the lowest level makes the room for all.
    """
    bottom = max(m.level for m in maps)
    extra = 0.0
    while True:
        steps = [_step_right(a, b, inch) + extra * (b.level == bottom) for a, b in pairwise(maps)]
        for (a, b), step in zip(pairwise(maps), steps, strict=True):
            hidden = (a.size[1] + b.size[1]) / 2 - step  # how far b stands before a
            a.middle = 0.0 if b.op in _STRAIGHT else -max(0.0, hidden) / 2
        for (a, b), step in zip(pairwise(maps), steps, strict=True):
            b.x = a.x + (a.middle - b.middle if b.op in _STRAIGHT else step)
        lack = max(_need(skip, join, inch) - (join.x - skip.x) for skip, join in pairs)
        if lack < 1e-6 * inch:
            return
        extra += lack / 2  # two convolutions at the bottom


def _step_right(a: _Map, b: _Map, inch: float) -> float:
    """From the centre of one map to that of the next, made of it by a convolution."""
    half = (a.size[1] + b.size[1]) / 2
    stacked = 0.26 * inch + 0.22 * b.size[1]  # large maps stand before one another, with room for an arrow
    apart = half + max(a.side_at_centre + 0.2 * inch, _SLANT[0] * a.depth + 0.06 * inch)
    return max((a.words + b.words) / 2 + 0.1 * inch, stacked if stacked < half else apart)


def _need(skip: _Map, join: _Map, inch: float) -> float:
    """From the centre of a skip to that of the map it is joined to, at least."""
    words = (_text_width(_crop_text(join), _FONT) + 0.25) * inch
    return (skip.size[1] + join.room) / 2 + max(_SLANT[0] * skip.depth, (skip.room - skip.size[1]) / 2) + words


def _place_down(maps: Sequence[_Map], inch: float) -> None:
    """Each level below the labels of the one above. Labels of one side of a level share a baseline."""
    y = 0.0
    for level in range(max(m.level for m in maps) + 1):
        row = [m for m in maps if m.level == level]
        if level:
            y -= max(max(m.size[0] / 2 + _SLANT[1] * m.depth for m in row), 0.2 * inch) + 0.3 * inch  # 0.3 for the arrow
        for m in row:
            m.y, m.floor = y, y - max(n.size[0] for n in row if n.rising == m.rising) / 2
        y = min(m.floor for m in row) - _LABEL * inch


def _mix(color: str, share: float, other: str = "white") -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(share * a + (1 - share) * b for a, b in zip(to_rgb(color), to_rgb(other), strict=True))


def _draw_box(ax: Axes, m: _Map, zorder: float) -> None:
    from matplotlib.patches import Polygon, Rectangle

    h, w = m.size
    x0, y0 = m.x - w / 2, m.y - h / 2
    front = 0.0
    edge: dict[str, Any] = {"edgecolor": "0.25", "linewidth": 0.6, "joinstyle": "round", "zorder": zorder}
    for channels, color in m.parts:
        back = front + m.depth * channels / m.channels
        (fx, fy), (bx, by) = ((_SLANT[0] * d, _SLANT[1] * d) for d in (front, back))
        top = [(x0 + fx, y0 + h + fy), (x0 + w + fx, y0 + h + fy), (x0 + w + bx, y0 + h + by), (x0 + bx, y0 + h + by)]
        side = [(x0 + w + fx, y0 + fy), (x0 + w + fx, y0 + h + fy), (x0 + w + bx, y0 + h + by), (x0 + w + bx, y0 + by)]
        ax.add_patch(Polygon(top, facecolor=_mix(color, 0.75), **edge))
        ax.add_patch(Polygon(side, facecolor=_mix(color, 0.8, "black"), **edge))
        front = back
    ax.add_patch(Rectangle((x0, y0), w, h, facecolor=_mix(m.parts[0][1], 0.35), gid=f"map {m.op} {m.level}", **edge))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str, zorder: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import withStroke

    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, linewidth=1.4, color=color, shrinkA=0, shrinkB=0,
                                 zorder=zorder, path_effects=[withStroke(linewidth=2.8, foreground="white")]))  # fmt: skip


def _draw_arrow(ax: Axes, a: _Map, b: _Map, inch: float, zorder: float) -> None:
    pad = 0.03 * inch
    if b.op == "pool":
        x = a.x + a.middle
        start, end = (x, a.floor - _LABEL * inch), (x, b.y + b.size[0] / 2 + _lift(b) + pad)
    elif b.op == "concat":
        x = a.x + a.middle
        start, end = (x, a.y + a.size[0] / 2 + _lift(a) + pad), (x, b.floor - _LABEL * inch)
    else:
        tip = b.x - b.size[1] / 2 - pad / 2
        free = a.x + a.size[1] / 2 + a.side_at_centre + pad
        start, end = (min(free, tip) if tip - free > 0.15 * inch else tip - 0.22 * inch, a.y), (tip, a.y)
    _arrow(ax, start, end, _INK[b.op], zorder)


def _lift(m: _Map) -> float:
    """How far the top of a box rises above the middle of its face's upper edge."""
    return min(_SLANT[1] * m.depth, m.size[1] / 2 * _SLANT[1] / _SLANT[0])


def _draw_skip(ax: Axes, skip: _Map, join: _Map, inch: float) -> None:
    """A band as high as what is joined, from map to map, behind everything."""
    from matplotlib.patches import Rectangle

    h = join.size[0]
    start, end = skip.x + join.size[1] / 2, join.x - join.size[1] / 2
    ax.add_patch(Rectangle((start, skip.y - h / 2), end - start, h, facecolor=_mix(BLUE, 0.14), edgecolor="none", zorder=1))
    begin = skip.x + skip.size[1] / 2 + skip.side_at_centre + 0.04 * inch
    _arrow(ax, (begin, skip.y), (end - 0.02 * inch, skip.y), BLUE, 2)
    middle = (skip.x + skip.size[1] / 2 + _SLANT[0] * skip.depth + end) / 2
    ax.text(middle, skip.y + 0.04 * inch, _crop_text(join), fontsize=_FONT, color=BLUE, ha="center", va="bottom", zorder=99)


def _draw_crop(ax: Axes, skip: _Map, join: _Map, inch: float, zorder: float) -> None:
    """The rectangle that is cut out of the skip's face, with its distance from the edge where there is room for a number."""
    from matplotlib.patches import Rectangle

    (top, left), (h, w) = join.crop, join.size
    if not top and not left:
        return
    x0, y1 = skip.x - skip.size[1] / 2 + left, skip.y + skip.size[0] / 2 - top
    ax.add_patch(Rectangle((x0, y1 - h), w, h, facecolor=_mix(BLUE, 0.14), edgecolor=BLUE, linewidth=1.1, linestyle=(0, (3, 2)),
                           zorder=zorder, gid=f"crop {join.level}"))  # fmt: skip
    if top > 0.16 * inch:
        ax.text(skip.x, y1 + top / 2, str(top), fontsize=7.5, color=BLUE, ha="center", va="center_baseline", zorder=99)
    if left > (0.1 + _text_width(str(left), 7.5)) * inch:
        ax.text(x0 - left / 2, skip.y, str(left), fontsize=7.5, color=BLUE, ha="center", va="center_baseline", zorder=99)


def _write_words(
    ax: Axes, spec: UNetSpec, maps: Sequence[_Map], heading: str, facts: str, inch: float
) -> tuple[float, float, float, float]:
    """A heading, and below the arms of the U two blocks, each as high as it can stand -> limits of x and y."""
    norm = "batch norm, " if spec.norm else ""
    conv = f"3×3 convolution, {norm}ReLU; " + ("2 px less" if spec.padding == "valid" else "zero padding")
    keys = [("conv3x3", conv), ("pool", "2×2 max pooling"),
            ("concat", "2×2 up-convolution" + (", ReLU" if spec.relu_after_up else "") + ", joined with the skip"),
            ("conv1x1", f"1×1 convolution to {spec.classes} logit" + "s" * (spec.classes > 1))]  # fmt: skip
    notes = ["side of a box: size in px, to scale", "depth of a box: square root of its channels",
             "below: size in px, channels (up + skip)",
             "dashed: what is kept; crop in px per side" if spec.padding == "valid" else "skips are joined whole",
             *([f"dropout {spec.dropout:g} on the last two levels down"] if spec.dropout else [])]  # fmt: skip
    key_width = (0.4 + max(_text_width(t, _FONT) for _, t in keys)) * inch
    note_width = max(_text_width(t, _FONT) for t in notes) * inch
    left = min(m.x - m.room / 2 for m in maps)
    right = max(m.x + max(m.room / 2, m.size[1] / 2 + _SLANT[0] * m.depth) for m in maps)
    right = max(right, left + key_width + note_width + 0.4 * inch, left + _text_width(facts, 9) * inch)
    roof = max(m.roof for m in maps) + 0.15 * inch
    ax.text(left, roof + 0.3 * inch, heading, fontsize=13, weight="bold", va="bottom")
    ax.text(left, roof + 0.08 * inch, facts, fontsize=9, va="bottom", color="0.25")
    line = 0.185 * inch

    def drop(x0: float, x1: float) -> float:
        x0, x1 = x0 - 0.15 * inch, x1 + 0.15 * inch
        below = [m.floor - _LABEL * inch for m in maps if m.x - m.room / 2 < x1 and m.x + m.room / 2 + _SLANT[0] * m.depth > x0]
        return min(below, default=roof) - 0.2 * inch

    floors = [min(m.floor for m in maps) - _LABEL * inch]
    y = drop(left, left + key_width)
    for op, text in keys:
        _arrow(ax, (left, y), (left + 0.28 * inch, y), _INK[op], 50)
        ax.text(left + 0.4 * inch, y, text, fontsize=_FONT, va="center_baseline")
        y -= line
    floors.append(y)
    y = drop(right - note_width, right)
    for text in notes:
        ax.text(right - note_width, y, text, fontsize=_FONT, va="center_baseline", color="0.25")
        y -= line
    floors.append(y)

    return left - 0.15 * inch, right + 0.15 * inch, min(floors) - 0.1 * inch, roof + 0.65 * inch


def _text_width(text: str, size: float) -> float:
    """Width of a text in inches, at the most: a PNG sets letters on whole dots, up to a seventh wider than their outlines."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 * 1.15
