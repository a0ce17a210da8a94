"""The ladders: the loops against a reference of their own, every other rung against the loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d

import tinyunet.rungs  # noqa: F401  registers the rungs
from tinyunet import ladder
from tinyunet.check import check_adjoint
from tinyunet.rungs import im2col, loops

ANY = np.zeros((1, 3, 3, 1)), np.zeros((3, 3, 1, 1))


def rung_of(op, name):
    """A rung by its name."""
    with ladder.rung(**{op: name}):
        return ladder.pick(op, *ANY)


convs = pytest.mark.parametrize("name", ladder.rungs("conv3x3"))
upconvs = pytest.mark.parametrize("name", ladder.rungs("upconv2x2"))
seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 4)
conv_geometry = given(st.integers(1, 3), st.integers(3, 8), st.integers(3, 8), small, small, st.integers(0, 1), seeds)
upconv_geometry = given(st.integers(1, 3), small, small, small, small, seeds)


def close(got, wanted):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def conv_arguments(n, h, w, c, o, pad, seed):
    """x, w, and a dy that fits their convolution."""
    rng = np.random.default_rng(seed)
    dy = rng.standard_normal((n, h + 2 * pad - 2, w + 2 * pad - 2, o))
    return rng.standard_normal((n, h, w, c)), rng.standard_normal((3, 3, c, o)), dy


def upconv_arguments(n, h, w, c, o, seed):
    """x, w, and a dy that fits their up-convolution."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, h, w, c)), rng.standard_normal((2, 2, o, c)), rng.standard_normal((n, 2 * h, 2 * w, o))


# Reference: the loops -----------------------------------------------------------------------------------------------


@conv_geometry
def test_the_loops_are_scipys_correlation(n, h, w, c, o, pad, seed):
    """The first rung, to which the others are held, gives SciPy's correlation, summed over channels."""
    x, k, _ = conv_arguments(n, h, w, c, o, pad, seed)
    y = loops.conv_forward(x, k, pad)
    for i in range(n):
        for j in range(o):
            maps = [correlate2d(x[i, :, :, m], k[:, :, m, j], mode="same" if pad else "valid") for m in range(c)]
            close(y[i, :, :, j], sum(maps))


@upconv_geometry
def test_the_loops_of_the_upconvolution_are_the_formula(n, h, w, c, o, seed):
    """The first rung gives y[n, 2i+a, 2j+b, o] = sum over c of x[n,i,j,c] w[a,b,o,c], written as one einsum."""
    x, k, _ = upconv_arguments(n, h, w, c, o, seed)
    close(loops.upconv_forward(x, k), np.einsum("nijc,aboc->niajbo", x, k).reshape(n, 2 * h, 2 * w, o))


# Properties of every rung -------------------------------------------------------------------------------------------


@convs
@conv_geometry
def test_a_rungs_gradients_are_adjoint_to_its_forward(name, n, h, w, c, o, pad, seed):
    """<C x, dy> = <x, grad_x(dy)> = <w, grad_w(dy)>."""
    x, k, dy = conv_arguments(n, h, w, c, o, pad, seed)
    rung = rung_of("conv3x3", name)
    check_adjoint(lambda x: rung.forward(x, k, pad), lambda dy: rung.grad_x(dy, k, pad), x, dy)
    check_adjoint(lambda k: rung.forward(x, k, pad), lambda dy: rung.grad_w(x, dy, 3, pad), k, dy)


@upconvs
@upconv_geometry
def test_an_upconv_rungs_gradients_are_adjoint_to_its_forward(name, n, h, w, c, o, seed):
    """<U x, dy> = <x, grad_x(dy)> = <w, grad_w(dy)>."""
    x, k, dy = upconv_arguments(n, h, w, c, o, seed)
    rung = rung_of("upconv2x2", name)
    check_adjoint(lambda x: rung.forward(x, k), lambda dy: rung.grad_x(dy, k), x, dy)
    check_adjoint(lambda k: rung.forward(x, k), lambda dy: rung.grad_w(x, dy), k, dy)


# Agreement with the loops -------------------------------------------------------------------------------------------


@convs
@conv_geometry
def test_conv_rungs_agree(name, n, h, w, c, o, pad, seed):
    """Forward and both gradients of every rung are those of the loops, with and without padding."""
    x, k, dy = conv_arguments(n, h, w, c, o, pad, seed)
    rung = rung_of("conv3x3", name)
    close(rung.forward(x, k, pad), loops.conv_forward(x, k, pad))
    close(rung.grad_x(dy, k, pad), loops.conv_grad_x(dy, k, pad))
    close(rung.grad_w(x, dy, 3, pad), loops.conv_grad_w(x, dy, 3, pad))


@upconvs
@upconv_geometry
def test_upconv_rungs_agree(name, n, h, w, c, o, seed):
    """Forward and both gradients of every rung are those of the loops."""
    x, k, dy = upconv_arguments(n, h, w, c, o, seed)
    rung = rung_of("upconv2x2", name)
    close(rung.forward(x, k), loops.upconv_forward(x, k))
    close(rung.grad_x(dy, k), loops.upconv_grad_x(dy, k))
    close(rung.grad_w(x, dy), loops.upconv_grad_w(x, dy))


@convs
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize(("c", "o"), [(4, 2), (2, 4), (3, 3), (1, 3), (3, 1)])
def test_conv_rungs_keep_dtype_and_order(name, dtype, c, o):
    """Results have the dtype of the input and are C-contiguous, for every proportion of channels."""
    x, k, dy = (a.astype(dtype) for a in conv_arguments(2, 6, 5, c, o, 1, 0))
    rung = rung_of("conv3x3", name)
    for result in (rung.forward(x, k, 1), rung.grad_x(dy, k, 1), rung.grad_w(x, dy, 3, 1)):
        assert result.dtype == dtype
        assert result.flags.c_contiguous


@upconvs
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_upconv_rungs_keep_dtype_and_order(name, dtype):
    """Results have the dtype of the input and are C-contiguous."""
    x, k, dy = (a.astype(dtype) for a in upconv_arguments(2, 3, 4, 3, 2, 0))
    rung = rung_of("upconv2x2", name)
    for result in (rung.forward(x, k), rung.grad_x(dy, k), rung.grad_w(x, dy)):
        assert result.dtype == dtype
        assert result.flags.c_contiguous


@convs
@pytest.mark.parametrize("pad", [0, 1])
def test_conv_rungs_take_an_axis_made_by_none(name, pad, rng):
    """Arrays made with [..., None] claim any stride along that axis; every rung reads the right pixels."""
    rung = rung_of("conv3x3", name)
    image, k, kernel = rng.standard_normal((5, 6)), rng.standard_normal((3, 3, 1, 1)), rng.standard_normal((3, 3))
    x, w = image[None, :, :, None], kernel[:, :, None, None]
    dy = rng.standard_normal((3 + 2 * pad, 4 + 2 * pad))[None, :, :, None]
    close(rung.forward(x, k, pad), loops.conv_forward(x, k, pad))
    close(rung.forward(x, w, pad), loops.conv_forward(x, w, pad))
    close(rung.grad_x(dy, w, pad), loops.conv_grad_x(dy, w, pad))
    close(rung.grad_w(x, dy, 3, pad), loops.conv_grad_w(x, dy, 3, pad))


@pytest.mark.parametrize("strip_bytes", [1, 3000, 5000, 10**9])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("c", "o"), [(4, 2), (2, 4)])
def test_im2col_agrees_for_every_height_of_strip(strip_bytes, pad, c, o, monkeypatch):
    """Strips of one row, of a few, with a remainder, and a single one give what the loops give."""
    monkeypatch.setattr(im2col, "STRIP_BYTES", strip_bytes)
    x, k, dy = conv_arguments(2, 9, 7, c, o, pad, 0)
    close(im2col.forward(x, k, pad), loops.conv_forward(x, k, pad))
    close(im2col.grad_x(dy, k, pad), loops.conv_grad_x(dy, k, pad))
    close(im2col.grad_w(x, dy, 3, pad), loops.conv_grad_w(x, dy, 3, pad))
