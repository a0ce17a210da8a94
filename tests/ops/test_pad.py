"""Mirror padding: no edge pixel twice, any width of border, and an adjoint that folds the border back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import ShapeError
from tinyunet.ops import mirror_index, mirror_pad_backward, mirror_pad_forward

amounts = st.tuples(*[st.integers(0, 9)] * 4)
geometry = given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), amounts, st.integers(1, 3), st.integers(0, 2**32 - 1))


def draw(n, h, w, c, seed):
    """An image, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, h, w, c)), rng


# Reference ----------------------------------------------------------------------------------------------------------


def walk(start, stop, n):
    """The mirror as a walk: go from pixel 0 up to n - 1, turn round, down to 0, turn round, without standing still at a turn."""
    seen = {0: 0}
    for direction in (1, -1):
        place, step = 0, direction
        for i in range(1, 60):
            if n > 1:
                step = 1 if place == 0 else -1 if place == n - 1 else step
                place += step
            seen[direction * i] = place
    return [seen[i] for i in range(start, stop)]


@given(st.integers(-40, 20), st.integers(0, 40), st.integers(1, 12))
def test_mirror_index_is_a_walk_there_and_back(start, length, n):
    """Any range, also several images beyond the edge, follows the walk between two mirrors."""
    np.testing.assert_array_equal(mirror_index(start, start + length, n), walk(start, start + length, n))


def test_the_edge_pixel_is_not_repeated():
    """a b c d becomes d c b | a b c d | c b a."""
    assert "".join("abcd"[i] for i in mirror_index(-3, 7, 4)) == "dcbabcdcba"


@geometry
def test_forward_is_numpys_reflect(n, h, w, amounts, c, seed):
    """Padding agrees with NumPy's "reflect" along both axes; a single pixel is repeated."""
    x, _ = draw(n, h, w, c, seed)
    top, bottom, left, right = amounts
    y, _ = mirror_pad_forward(x, top, bottom, left, right)
    wanted = np.pad(x, ((0, 0), (top, bottom), (0, 0), (0, 0)), mode="reflect" if h > 1 else "edge")
    wanted = np.pad(wanted, ((0, 0), (0, 0), (left, right), (0, 0)), mode="reflect" if w > 1 else "edge")
    np.testing.assert_array_equal(y, wanted)


def test_backward_counts_how_often_a_pixel_is_shown():
    """A gradient of ones comes back as a census: corner pixels of a 3x4 image padded by one are shown once, inner ones more."""
    _, ctx = mirror_pad_forward(np.zeros((1, 3, 4, 1)), 1, 1, 1, 1)
    census = mirror_pad_backward(np.ones((1, 5, 6, 1)), ctx)
    np.testing.assert_array_equal(census[0, :, :, 0], np.outer([1, 3, 1], [1, 2, 2, 1]))


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradient_by_differences(n, h, w, amounts, c, seed):
    """dx agrees with difference quotients."""
    x, rng = draw(n, h, w, c, seed)
    check_grad(lambda x: mirror_pad_forward(x, *amounts), mirror_pad_backward, {"x": x}, rng)


@geometry
def test_gradient_by_complex_step(n, h, w, amounts, c, seed):
    """dx agrees with the complex step to rounding."""
    x, rng = draw(n, h, w, c, seed)
    check_complex_step(lambda x: mirror_pad_forward(x, *amounts), mirror_pad_backward, {"x": x}, rng)


# Properties ---------------------------------------------------------------------------------------------------------


@geometry
def test_backward_is_the_adjoint(n, h, w, amounts, c, seed):
    """<pad(x), v> = <x, fold(v)>."""
    x, rng = draw(n, h, w, c, seed)
    y, ctx = mirror_pad_forward(x, *amounts)
    v = rng.standard_normal(y.shape)
    check_adjoint(lambda x: mirror_pad_forward(x, *amounts)[0], lambda v: mirror_pad_backward(v, ctx), x, v)


@geometry
def test_cropping_gives_the_image_back(n, h, w, amounts, c, seed):
    """The image lies unchanged inside the border, and the border adds no new values."""
    x, _ = draw(n, h, w, c, seed)
    top, bottom, left, right = amounts
    y, _ = mirror_pad_forward(x, *amounts)
    assert y.shape == (n, top + h + bottom, left + w + right, c)
    np.testing.assert_array_equal(y[:, top : top + h, left : left + w], x)
    assert set(y.ravel()) == set(x.ravel())


# Errors -------------------------------------------------------------------------------------------------------------


def test_negative_amounts(rng):
    """A negative border would be a crop; the message says what to use instead."""
    text = r"^mirror_pad: {'top': 1, 'bottom': 2, 'left': -1, 'right': 0} has a negative amount\. Slice"
    with pytest.raises(ShapeError, match=text):
        mirror_pad_forward(rng.random((1, 3, 3, 1)), 1, 2, -1, 0)


def test_an_empty_image():
    """Nothing cannot be mirrored."""
    with pytest.raises(ShapeError, match=r"mirror_index: an axis of 0 pixels has nothing to mirror\. Give an image"):
        mirror_pad_forward(np.zeros((1, 0, 3, 1)), 1, 1, 1, 1)
