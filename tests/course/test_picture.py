"""A figure in a notebook: a picture with its words beside it; outside one, nothing."""

import base64

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

from tinyunet import plot
from tinyunet.course import show
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
