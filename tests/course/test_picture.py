"""A figure in a notebook: a picture with its words beside it; outside one, nothing."""

import base64
import io

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image

from tinyunet import plot
from tinyunet.course import show
from tinyunet.course.picture import smaller
from tinyunet.errors import ConfigError


@pytest.fixture
def figure():
    """A figure that carries words."""
    return plot.maps({"x": np.ones((1, 4, 4, 1))})


def test_a_notebook_gets_the_picture_and_its_words(figure):
    """A PNG with the text alternative in its metadata, then the text, folded up, with special characters escaped."""
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            show(figure, "a < b, in words")
    finally:
        InteractiveShell.clear_instance()
    picture, words = captured.outputs
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert picture.metadata["image/png"]["alt"] == picture.data["text/plain"] == "a < b, in words"
    assert words.data["text/html"] == "<details><summary>This picture in words</summary>a &lt; b, in words</details>"


def test_outside_a_notebook_nothing_happens(figure, capsys):
    """No output, no error."""
    show(figure)
    assert capsys.readouterr().out == ""


def test_a_figure_without_words_is_refused():
    """With what to give."""
    with pytest.raises(ConfigError, match=r"^show: the figure has no text alternative\."):
        show(Figure())


def as_png(pixels):
    """(H, W, 4) uint8 -> a PNG as Matplotlib writes it"""
    written = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(written, "PNG")
    return written.getvalue()


def pixels_of(png):
    """-> (H, W, 3) int"""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)


def test_a_smaller_picture_looks_the_same(rng):
    """Few colours, a ramp of many, and a lone coloured line among greys: nothing is off by more than 8 of 255."""
    ramp = np.full((64, 64, 4), 255, np.uint8)
    ramp[..., :2] = np.arange(0, 256, 4)[:, None, None]
    ramp[..., 2] = np.arange(0, 256, 4)
    greys = np.repeat(rng.integers(0, 256, (64, 64, 1), np.uint8), 4, axis=2)
    greys[..., 3] = 255
    greys[7] = (230, 160, 0, 255)
    two = np.where(ramp > 128, np.uint8(255), np.uint8(40))
    two[..., 3] = 255
    for drawn in (two, ramp, greys):
        png = as_png(drawn)
        small = smaller(png)
        assert len(small) <= len(png)
        assert np.abs(pixels_of(small) - drawn[..., :3]).max() <= 8


def test_a_picture_that_a_palette_would_spoil_keeps_its_colours(rng):
    """Noise in all channels has too many colours for 256: it stays exact, less its alpha."""
    drawn = rng.integers(0, 256, (64, 64, 4), np.uint8)
    drawn[..., 3] = 255
    small = smaller(as_png(drawn))
    np.testing.assert_array_equal(pixels_of(small), drawn[..., :3])
    assert Image.open(io.BytesIO(small)).mode == "RGB"
