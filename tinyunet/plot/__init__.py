"""Figures: results, outlines, errors, weight maps, training curves, the profile of a step, a U-Net drawn to scale, warps;
feature maps, one pixel's arithmetic.

Every function takes plain arrays and returns a Matplotlib `Figure`. The figures are built without pyplot: they need no
display, keep no global state and go away with their last reference. Each carries a text alternative, `description(figure)`,
and `save` writes it into the file.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; what must be told apart in a grey print differs in
lightness as well.
"""

from tinyunet.plot.ablation import Interval, ablation, t_interval
from tinyunet.plot.arithmetic import (
    conv_pixel,
    conv_pixel_backward,
    loss_pixel,
    norm_pixel,
    pool_pixel,
    upconv_pixel,
    upconv_pixel_backward,
)
from tinyunet.plot.base import ERRORS, check_kind, description, diverging, save
from tinyunet.plot.geometry import crops, mirror, receptive, weight_at
from tinyunet.plot.health import dead_units, gradient_flow, over_time
from tinyunet.plot.images import Row, errors, overlay, results, weight_map
from tinyunet.plot.maps import film_strip, filters, maps
from tinyunet.plot.network import draw_unet
from tinyunet.plot.profile import row_of, step_profile
from tinyunet.plot.training import read_log, training_curves
from tinyunet.plot.warps import warps

__all__ = [
    "ERRORS",
    "Interval",
    "Row",
    "ablation",
    "check_kind",
    "conv_pixel",
    "conv_pixel_backward",
    "crops",
    "dead_units",
    "description",
    "diverging",
    "draw_unet",
    "errors",
    "film_strip",
    "filters",
    "gradient_flow",
    "loss_pixel",
    "maps",
    "mirror",
    "norm_pixel",
    "over_time",
    "overlay",
    "pool_pixel",
    "read_log",
    "receptive",
    "results",
    "row_of",
    "save",
    "step_profile",
    "t_interval",
    "training_curves",
    "upconv_pixel",
    "upconv_pixel_backward",
    "warps",
    "weight_at",
    "weight_map",
]
