"""What all figures share: colours, text alternatives, saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.errors import ConfigError
from tinyunet.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""Okabe and Ito's colours."""

def diverging() -> Colormap:
    """The colours of numbers with a sign, everywhere: orange below 0, white at 0, blue above. Apart for colour-blind readers."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("orange_white_blue", ("#6B3A00", ORANGE, "#FFFFFF", BLUE, "#001F33"))


OBJECTS = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, "#F5C9A8", "#B8E0C8")
"""Fills of objects: Okabe and Ito's without black, and two pale ones."""

ERRORS = {"hit": "#B5D3E7", "invented": "#E08214", "missed": "#0B2545", "unknown": "#B4B4B4", "background": "#FFFFFF"}
"""Colours of `errors`. Lightness falls from background over hit and invented to missed: the worse, the darker."""


MIXED = {"merged": YELLOW, "split": SKY}
"""Outlines of predicted objects that are several true ones, or only a part of one. Drawn broader: seen without colour, too."""


KINDS = (".png", ".svg", ".pdf")
"""What `save` writes."""


def description(figure: Figure) -> str:
    """The text alternative of a figure made here: what it shows, for readers who cannot see it."""
    return str(figure.get_label())


def save(figure: Figure, path: str | Path, dpi: float = 150) -> Path:
    """Write a figure as PNG, SVG or PDF, whole or not at all, with its text alternative inside.

    The text goes where readers look for it: PNG "Description", SVG `<title>`, PDF "Title". The same figure gives the same
    bytes: no date is written. dpi (dots per inch) counts for PNG.

    -> the path. Raises ConfigError for another file type, DataError where nothing can be written.
    """
    import matplotlib as mpl

    path, text = Path(path), description(figure)
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Description": text},
        ".svg": {"Title": text, "Date": None},
        ".pdf": {"Title": text, "CreationDate": None},
    }
    kind = check_kind(path)
    with atomic_write(path) as part, mpl.rc_context({"svg.hashsalt": "tinyunet"}):
        figure.savefig(part, format=kind[1:], dpi=dpi, metadata=metadata[kind])
    return path


def check_kind(path: str | Path) -> str:
    """The file type that `save` would write, by its suffix; raises ConfigError for another, before any work is done."""
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise ConfigError(f"save: cannot write a figure as {Path(path).name!r}. Choose one of: {', '.join(KINDS)}.")
    return kind


def largest(values: Array) -> float:
    """The largest finite value, 0 if there is none: where an axis or a colour scale ends."""
    return float(np.max(values, where=np.isfinite(values), initial=0.0))
