"""Differences from a baseline, with their intervals."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tinyunet import plot
from tinyunet.errors import ShapeError

VALUES = {
    "whole": {"IoU": [0.8, 0.7, 0.9], "SEG": [0.5, 0.6, 0.7]},
    "no skips": {"IoU": [0.7, 0.61, 0.79], "SEG": [0.6, 0.5, 0.7]},
    "no mirror": {"IoU": [0.8, 0.7, 0.9], "SEG": [0.5, 0.6, 0.7]},
}


def test_the_interval_is_students():
    """It has the ends that SciPy's t test gives."""
    values = np.random.default_rng(0).standard_normal(7)
    mean, half = plot.t_interval(values)
    assert np.allclose((mean - half, mean + half), ttest_1samp(values, 0).confidence_interval(0.95))


def test_an_interval_excludes_what_lies_outside():
    """On either side, and not what lies within."""
    interval = plot.t_interval([1.0, 2.0, 3.0])  # 2 +- 2.48
    assert interval.excludes(-0.5)
    assert interval.excludes(4.5)
    assert not interval.excludes(0)


def test_one_value_has_no_interval():
    """One seed does not say how much seeds differ."""
    with pytest.raises(ShapeError, match=r"^t_interval: 1 values say nothing about how much they vary\. Give two or more"):
        plot.t_interval([0.5])


def test_the_figure_tells_differences_seed_by_seed():
    """Its words hold mean and interval of the pairs; drawn are a dot a seed, and the mean."""
    figure = plot.ablation(VALUES)
    mean, half = plot.t_interval([-0.1, -0.09, -0.11])
    text = plot.description(figure)
    assert f"no skips, IoU {mean:+.3f} ± {half:.3f}" in text
    assert "over 3 seeds" in text
    assert "no mirror, SEG +0.000 ± 0.000" in text
    iou = figure.axes[0]
    dots = [line.get_xdata() for line in iou.lines if len(line.get_xdata()) == 3]
    assert np.allclose(dots[0], [-0.1, -0.09, -0.11])
    assert iou.get_title() == "IoU\nbaseline 0.800"


def test_only_some_measures():
    """Those that are asked for, in that order."""
    figure = plot.ablation(VALUES, ("SEG",))
    assert [ax.get_title().splitlines()[0] for ax in figure.axes] == ["SEG"]


def test_numbers_that_cannot_be_paired():
    """A seed that is lacking is told."""
    values = {**VALUES, "no skips": {"IoU": [0.7], "SEG": [0.6, 0.5, 0.7]}}
    with pytest.raises(ShapeError, match=r"^ablation: no skips has 1 values of IoU, the baseline 3\. Give one for each seed"):
        plot.ablation(values)
