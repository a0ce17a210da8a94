"""The figure of a warp's lanes: as many sectors and rows of banks as the trace counts, each lane at its place."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from tinyunet import plot
from tinyunet.cuda.emulator import Line
from tinyunet.errors import ConfigError


def line(offsets, size=4, array="x", sectors=0, passes=0):
    """A line of a trace with one request; lanes without an offset take no part."""
    lanes = np.full(32, -1)
    lanes[: len(offsets)] = offsets
    return Line("conv3x3/k.cu", 7, "  v = x[i];", array, "load", size, 1, len(offsets), sectors, passes, 1, lanes)


def boxes(figure, panel=0):
    """The rectangles of a panel, as (x, y, width, fill colour)."""
    patches = [p for p in figure.axes[panel].patches if isinstance(p, Rectangle)]
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_facecolor() if p.get_fill() else None) for p in patches]


@pytest.mark.parametrize(("stride", "sectors", "ideal"), [(4, 4, 4), (8, 8, 4), (32, 32, 4), (0, 1, 1)])
def test_sectors_are_drawn_and_counted(stride, sectors, ideal):
    """One outline for each 32-byte sector, one line for each lane; the title says the cost and the line of the kernel."""
    figure = plot.warps([line(np.arange(32) * stride, sectors=sectors)])
    assert sum(color is None for *_, color in boxes(figure)) == sectors
    (lines,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    assert len(lines.get_segments()) == 32
    title = figure.axes[0].get_title(loc="left")
    assert title == (f"k.cu:7   load of x, 4 bytes a lane: {sectors} sector{'s' * (sectors > 1)}, ideal {ideal}\nv = x[i];")
    assert title.split("\n")[0] in plot.description(figure)


@pytest.mark.parametrize(("offsets", "size", "passes", "ideal"), [
    (np.arange(32) * 4, 4, 1, 1), (np.arange(32) * 8, 4, 2, 1), (np.arange(32) * 128, 4, 32, 1), (np.zeros(32), 4, 1, 1),
    (np.arange(32) * 16, 16, 4, 4), (np.arange(20) * 4, 4, 1, 1)])  # fmt: skip
def test_a_row_is_a_pass_over_the_banks(offsets, size, passes, ideal):
    """As many rows of 32 banks as passes; each lane's number in the cell of its word."""
    figure = plot.warps([line(offsets, size, "shared", passes=passes)])
    rows = {y for _, y, *_ in boxes(figure)}
    assert rows == set(range(passes))
    assert len(boxes(figure)) == 32 * passes
    assert f"{passes} pass{'es' * (passes > 1)}, ideal {ideal}" in plot.description(figure)


def test_lanes_stand_in_the_banks_that_serve_them():
    """Stride 33: lane l is in bank l. All at one word: one cell, named 0-31."""
    figure = plot.warps([line(np.arange(32) * 132, array="shared", passes=1), line(np.zeros(32), array="shared", passes=1)])
    cells = [{t.get_position()[0] - 0.5: t.get_text() for t in ax.texts if t.get_position()[1] == 0.5 and t.get_position()[0] > 0}
             for ax in figure.axes]  # fmt: skip
    assert cells == [{i: str(i) for i in range(32)}, {0: "0-31"}]


def test_without_lines_there_is_no_figure():
    """The error says where lines come from."""
    with pytest.raises(ConfigError, match=r"warps: got no line of a trace\. Launch the kernel with mode='trace'"):
        plot.warps([])
