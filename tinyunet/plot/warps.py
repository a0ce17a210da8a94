"""What the 32 lanes of a warp ask of the memory, lane by lane: sectors of global memory, banks of shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyunet.errors import ConfigError
from tinyunet.plot.base import BLUE, SKY, VERMILION, YELLOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinyunet.cuda.emulator import Line

_LANES = _BANKS = 32
_SECTOR = 32  # bytes


def warps(lines: Sequence[Line]) -> Figure:
    """The first request of each line of a trace, one panel each; lines are those of `emulator.Report.lines`.

    Global memory: lanes above, and below them the 32-byte sectors that are moved, with the bytes that were asked for filled
    and the rest, moved for nothing, pale. A gap in the row of sectors is memory that is not touched. Shared memory: the 32
    banks as columns, and the lanes that each serves in a pass; the more rows, the longer the warp waits.

    Raises ConfigError if there is no line.
    """
    from matplotlib.figure import Figure

    if not lines:
        raise ConfigError("warps: got no line of a trace. Launch the kernel with mode='trace' and give some of report.lines.")
    heights = [1.5 if line.sectors else 0.9 + 0.16 * _first_passes(line) for line in lines]
    figure = Figure(figsize=(10, sum(heights) + 0.1), layout="constrained")
    grid = figure.add_gridspec(len(lines), height_ratios=heights)
    said = []
    for i, line in enumerate(lines):
        ax = figure.add_subplot(grid[i])
        ax.set_axis_off()
        draw = _draw_sectors if line.sectors else _draw_banks
        cost = draw(ax, line)
        title = f"{line.file.rsplit('/', 1)[-1]}:{line.line}   {line.kind} of {line.array}, {line.size} bytes a lane: {cost}"
        ax.set_title(f"{title}\n{line.code.strip()}", fontsize=8.5, loc="left")
        said.append(title)
    figure.set_label("First request of a warp for each line. " + ". ".join(said) + ".")
    return figure


def _lanes(line: Line) -> list[tuple[int, int]]:
    """The lanes that take part, each with its offset in bytes."""
    return [(lane, int(offset)) for lane, offset in enumerate(line.offsets) if offset >= 0]


def _passes(line: Line) -> list[dict[int, dict[int, list[int]]]]:
    """For each group of lanes that is served together: bank -> word -> lanes. A warp goes at once up to 4 bytes a lane."""
    together = _LANES if line.size <= 4 else 4 * _LANES // line.size
    groups: dict[int, dict[int, dict[int, list[int]]]] = {}
    for lane, offset in _lanes(line):
        for word in range(offset // 4, (offset + line.size - 1) // 4 + 1):
            banks = groups.setdefault(lane // together, {})
            banks.setdefault(word % _BANKS, {}).setdefault(word, []).append(lane)
    return [groups[g] for g in sorted(groups)]


def _first_passes(line: Line) -> int:
    """Passes of the first request: of each group the fullest bank, summed."""
    return sum(max(len(words) for words in banks.values()) for banks in _passes(line))


def _draw_sectors(ax: Axes, line: Line) -> str:
    """Lanes, arrows, sectors; -> the cost in words."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    lanes = _lanes(line)
    asked = sorted({byte for _, offset in lanes for byte in range(offset, offset + line.size)})
    sectors = sorted({byte // _SECTOR for byte in asked})
    left: dict[int, float] = {}  # where a sector is drawn, in sectors
    for before, sector in zip([sectors[0] - 1, *sectors], sectors, strict=False):
        left[sector] = max(left.values(), default=-1.0) + (1.0 if sector == before + 1 else 1.3)
    wide = max(max(left.values()) + 1 - min(left.values()), 4.0)  # one sector alone is not drawn as wide as the page
    start = min(left.values())

    def across(byte: float) -> float:
        return (left[int(byte // _SECTOR)] + byte % _SECTOR / _SECTOR - start) / wide * _LANES

    for sector in sectors:
        ax.add_patch(Rectangle((across(sector * _SECTOR), 0), _LANES / wide, 0.55, facecolor="#E8E8E8", edgecolor="none"))
    for first in sorted({offset for _, offset in lanes}):
        ax.add_patch(Rectangle((across(first), 0), line.size / _SECTOR / wide * _LANES, 0.55, facecolor=SKY, edgecolor="none"))
    for sector in sectors:
        ax.add_patch(Rectangle((across(sector * _SECTOR), 0), _LANES / wide, 0.55, fill=False, edgecolor="0.25", linewidth=0.7))
    segments = [[(lane + 0.5, 1.45), (across(offset + line.size / 2), 0.55)] for lane, offset in lanes]
    ax.add_collection(LineCollection(segments, colors=BLUE, linewidths=0.7))
    for lane in range(_LANES):
        color = YELLOW if line.offsets[lane] >= 0 else "white"
        ax.add_patch(Rectangle((lane + 0.06, 1.45), 0.88, 0.5, facecolor=color, edgecolor="0.25", linewidth=0.7))
        ax.text(lane + 0.5, 1.69, str(lane), ha="center", va="center", fontsize=6.5)
    ax.set_xlim(-0.2, _LANES + 0.2)
    ax.set_ylim(-0.1, 2.05)
    ideal = -(-len(asked) // _SECTOR)
    return f"{len(sectors)} sector{'s' * (len(sectors) != 1)}, ideal {ideal}"


def _draw_banks(ax: Axes, line: Line) -> str:
    """Banks as columns, a row a pass, lanes in the cells; -> the cost in words."""
    from matplotlib.patches import Rectangle

    row, groups = 0, _passes(line)
    for banks in groups:
        height = max(len(words) for words in banks.values())
        for bank in range(_BANKS):
            words = sorted(banks.get(bank, {}).items())
            for i in range(height):
                busy = i < len(words)
                color = ("white", SKY, VERMILION)[0 if not busy else 1 if i == 0 else 2]
                ax.add_patch(Rectangle((bank, row + i), 1, 1, facecolor=color, edgecolor="0.6", linewidth=0.5))
                if busy:
                    ax.text(bank + 0.5, row + i + 0.5, _names(words[i][1]), ha="center", va="center", fontsize=5.5)
        row += height
    for bank in range(_BANKS):
        ax.text(bank + 0.5, -0.15, str(bank), ha="center", va="bottom", fontsize=6, color="0.35")
    ax.text(-0.2, -0.15, "bank", ha="right", va="bottom", fontsize=6, color="0.35")
    for i in range(row):
        if row <= 8 or i in (0, row - 1):
            ax.text(-0.2, i + 0.5, f"pass {i + 1}", ha="right", va="center", fontsize=6, color="0.35")
    ax.set_xlim(-1.6, _BANKS + 0.2)
    ax.set_ylim(row + 0.1, -1.1)
    return f"{row} pass{'es' * (row != 1)}, ideal {len(groups)}"


def _names(lanes: list[int]) -> str:
    """Lanes that share a word: "5", "0-31", "3 +2"."""
    if len(lanes) == 1:
        return str(lanes[0])
    return f"{lanes[0]}-{lanes[-1]}" if np.ptp(lanes) == len(lanes) - 1 else f"{lanes[0]} +{len(lanes) - 1}"
