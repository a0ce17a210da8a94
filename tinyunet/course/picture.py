"""Figures in a notebook, with their text alternative beside them."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyunet.errors import ConfigError
from tinyunet.plot import description

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 90
"""Dots per inch: sharp enough on a page, and a lesson stays below a megabyte."""


OFF = 8
"""How far a channel of a pixel may be from what was drawn, of 255: nobody sees it."""


def smaller(png: bytes) -> bytes:
    """A PNG in fewer bytes: without alpha, and with a palette of 256 colours if that moves no channel by more than OFF."""
    from PIL import Image

    drawn = Image.open(io.BytesIO(png))
    rgb = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn.convert("RGBA")).convert("RGB")
    palette = rgb.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    off = np.abs(np.asarray(palette.convert("RGB"), int) - np.asarray(rgb, int)).max()
    written = io.BytesIO()
    (palette if off <= OFF else rgb).save(written, "PNG", optimize=True)
    return min(png, written.getvalue(), key=len)


def show(figure: Figure, words: str = "") -> None:
    """Show a figure in the notebook as a PNG, and below it, folded up, what it shows in words.

    words   the text alternative; left out, that which the figure carries (`tinyunet.plot.description`)

    No notebook front end reads a text alternative from the output of a picture, so it is an output by itself: screen readers
    and GitHub show it. Outside a notebook nothing happens.

    Raises ConfigError for a figure without words.
    """
    words = words or description(figure)
    if not words:
        raise ConfigError("show: the figure has no text alternative. Say in a sentence what it shows: show(figure, 'words').")
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return
    shell: Any = get_ipython()
    if shell is None:
        return
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    picture = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": words}
    shell.display_pub.publish(picture, {"image/png": {"alt": words}})
    folded = f"<details><summary>This picture in words</summary>{html.escape(words)}</details>"
    shell.display_pub.publish({"text/html": folded, "text/plain": words})
