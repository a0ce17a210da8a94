"""Figures: results, outlines, errors, weight maps, training curves, a step's profile, a U-Net to scale, warps.

Every function takes plain arrays and returns a Matplotlib `Figure`. The figures are built without pyplot: they need no
display, keep no global state and go away with their last reference. Each carries a text alternative, `description(figure)`,
and `save` writes it into the file.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; what must be told apart in a grey print differs in
lightness as well.
"""

from tinyunet.plot.base import ERRORS, check_kind, description, save
from tinyunet.plot.images import Row, errors, overlay, results, weight_map
from tinyunet.plot.network import draw_unet
from tinyunet.plot.profile import row_of, step_profile
from tinyunet.plot.training import read_log, training_curves
from tinyunet.plot.warps import warps

__all__ = [
    "ERRORS",
    "Row",
    "check_kind",
    "description",
    "draw_unet",
    "errors",
    "overlay",
    "read_log",
    "results",
    "row_of",
    "save",
    "step_profile",
    "training_curves",
    "warps",
    "weight_map",
]
