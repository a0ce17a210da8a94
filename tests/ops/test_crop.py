"""Crop and concatenate: which pixels, in which order, and where the gradient goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ops import crop_concat_backward, crop_concat_forward

geometry = given(
    st.integers(1, 3), *[st.integers(1, 4)] * 2, *[st.integers(0, 5)] * 2, *[st.integers(1, 3)] * 2, st.integers(0, 2**32 - 1)
)


def draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """A map of the up path, a skip that is larger by the extras, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, h, w, c_up)), rng.standard_normal((n, h + extra_h, w + extra_w, c_skip)), rng


def ramp(height, width):
    """A skip whose two channels hold each pixel's row and column."""
    return np.stack(np.mgrid[:height, :width], axis=-1)[None].astype(float)


# Reference ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skip", "up", "top", "left"),
    [((6, 8), (2, 4), 2, 2), ((7, 8), (2, 5), 2, 1), ((5, 5), (4, 2), 0, 1), ((4, 3), (4, 3), 0, 0), ((64, 64), (56, 56), 4, 4)],
)
def test_the_centre_is_kept(skip, up, top, left):
    """A ramp of coordinates shows which window is cut out; of an odd difference the larger part goes at the bottom and right."""
    y, _ = crop_concat_forward(np.zeros((1, *up, 1)), ramp(*skip))
    np.testing.assert_array_equal(y[0, :, 0, 1], np.arange(top, top + up[0]))
    np.testing.assert_array_equal(y[0, 0, :, 2], np.arange(left, left + up[1]))


@geometry
def test_the_up_path_comes_first(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """Channels are [up, skip]: the first C_up are the up path's, untouched, and the others the cropped skip's."""
    up, skip, _ = draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed)
    y, _ = crop_concat_forward(up, skip)
    top, left = extra_h // 2, extra_w // 2
    assert y.shape == (n, h, w, c_up + c_skip)
    for i in range(h):
        for j in range(w):
            np.testing.assert_array_equal(y[:, i, j, :c_up], up[:, i, j])
            np.testing.assert_array_equal(y[:, i, j, c_up:], skip[:, top + i, left + j])


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradients_by_differences(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """dup and dskip agree with difference quotients."""
    up, skip, rng = draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed)
    check_grad(crop_concat_forward, crop_concat_backward, {"up": up, "skip": skip}, rng)


@geometry
def test_gradients_by_complex_step(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """dup and dskip agree with the complex step to rounding."""
    up, skip, rng = draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed)
    check_complex_step(crop_concat_forward, crop_concat_backward, {"up": up, "skip": skip}, rng)


# Properties ---------------------------------------------------------------------------------------------------------


@geometry
def test_backward_is_the_adjoint_in_both(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """Cropping is undone by padding with zeros, concatenating by splitting."""
    up, skip, rng = draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed)
    y, ctx = crop_concat_forward(up, skip)
    v = rng.standard_normal(y.shape)
    check_adjoint(lambda up: crop_concat_forward(up, 0 * skip)[0], lambda v: crop_concat_backward(v, ctx)[0], up, v)
    check_adjoint(lambda skip: crop_concat_forward(0 * up, skip)[0], lambda v: crop_concat_backward(v, ctx)[1], skip, v)


@geometry
def test_the_border_that_was_cut_off_has_no_gradient(n, h, w, extra_h, extra_w, c_up, c_skip, seed):
    """dskip is exactly zero outside the window, and the gradient itself inside; splitting undoes the concatenation."""
    up, skip, rng = draw(n, h, w, extra_h, extra_w, c_up, c_skip, seed)
    y, ctx = crop_concat_forward(up, skip)
    dy = rng.standard_normal(y.shape)
    dup, dskip = crop_concat_backward(dy, ctx)
    top, left = extra_h // 2, extra_w // 2
    np.testing.assert_array_equal(dup, dy[..., :c_up])
    np.testing.assert_array_equal(dskip[:, top : top + h, left : left + w], dy[..., c_up:])
    assert np.count_nonzero(dskip) == np.count_nonzero(dy[..., c_up:])
    same_up, same_skip = crop_concat_backward(y, ctx)
    np.testing.assert_array_equal(same_up, up)
    np.testing.assert_array_equal(same_skip[:, top : top + h, left : left + w], skip[:, top : top + h, left : left + w])


def test_no_pixel_is_remembered(rng):
    """The context holds shapes and offsets, not arrays."""
    up, skip, _ = draw(2, 3, 4, 2, 2, 2, 3, 0)
    assert not any(isinstance(value, np.ndarray) for value in crop_concat_forward(up, skip)[1])


# Errors -------------------------------------------------------------------------------------------------------------


def test_a_skip_that_is_too_small():
    """The skip may not be smaller than the up path's map, along either axis."""
    for skip in ((3, 9), (9, 3)):
        with pytest.raises(ShapeError, match=rf"center_crop: a {skip[0]}x{skip[1]} skip cannot be cropped to 4x4"):
            crop_concat_forward(np.zeros((1, 4, 4, 1)), np.zeros((1, *skip, 1)))


def test_different_numbers_of_images():
    """Both maps must come from the same images; nothing is broadcast."""
    with pytest.raises(ShapeError, match=r"crop_concat: 2 images come up and 1 across\. They must be the same images"):
        crop_concat_forward(np.zeros((2, 4, 4, 1)), np.zeros((1, 4, 4, 1)))


def test_mixed_dtypes():
    """Nothing is converted silently."""
    with pytest.raises(DTypeError, match=r"crop_concat: up is float64 and skip is float32\. Convert one of them"):
        crop_concat_forward(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1), np.float32))
