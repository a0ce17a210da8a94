"""The ladders: the loops against a reference of their own, every other rung against the loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d

import tinyunet.rungs  # noqa: F401  registers the rungs
from tinyunet import ladder
from tinyunet.check import check_adjoint
from tinyunet.errors import BackendError
from tinyunet.parallel import threads
from tinyunet.rungs import im2col, loops, planes, strips, taps, winograd, winograd1d

ANY = np.zeros((1, 3, 3, 1), np.float32), np.zeros((3, 3, 1, 1), np.float32)
DOUBLE = np.zeros((1, 3, 3, 1)), np.zeros((3, 3, 1, 1))


def rung_of(op, name):
    """A rung by its name."""
    with ladder.rung(**{op: name}):
        return ladder.pick(op, *ANY)


convs = pytest.mark.parametrize("name", ladder.able("conv3x3", *DOUBLE)[::-1])  # all that are exact
threaded = pytest.mark.parametrize("name", ["strips", "planes", "winograd1d", "winograd"])
float32_only = pytest.mark.parametrize("module", [winograd1d, winograd])
upconvs = pytest.mark.parametrize("name", ladder.able("upconv2x2", *DOUBLE)[::-1])
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


@threaded
@pytest.mark.parametrize(("n", "h", "w", "c", "o"), [(2, 23, 30, 3, 5), (1, 9, 10, 8, 150), (3, 5, 6, 1, 1)])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_fused_bias_is_a_bias(name, n, h, w, c, o, pad, rng, monkeypatch):
    """Added while a strip is in the cache, or block by block of many channels, every pixel gets it once."""
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**12)
    monkeypatch.setattr(winograd1d, "STRIP_BYTES", 2**13)
    monkeypatch.setattr(winograd, "STRIP_TILES", (5, 5))
    x, k, _ = (a.astype(np.float32) for a in conv_arguments(n, h, w, c, o, pad, 0))
    b, rung = rng.standard_normal(o, dtype=np.float32), rung_of("conv3x3", name)
    np.testing.assert_array_equal(rung.fused(x, k, pad, b), rung.forward(x, k, pad) + b)


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


@pytest.mark.parametrize("module", [im2col, strips, planes])
@pytest.mark.parametrize("strip_bytes", [1, 3000, 5000, 10**9])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("c", "o"), [(4, 2), (2, 4)])
def test_every_height_of_strip_agrees(module, strip_bytes, pad, c, o, monkeypatch):
    """Strips of one row, of a few, with a remainder, and a single one give what the loops give."""
    monkeypatch.setattr(strips if module is planes else module, "STRIP_BYTES", strip_bytes)
    x, k, dy = conv_arguments(2, 9, 7, c, o, pad, 0)
    close(module.forward(x, k, pad), loops.conv_forward(x, k, pad))
    close(module.grad_x(dy, k, pad), loops.conv_grad_x(dy, k, pad))
    close(module.grad_w(x, dy, 3, pad), loops.conv_grad_w(x, dy, 3, pad))


# Winograd and threads: float32 -----------------------------------------------------------------------------------------


def near(got, wanted):
    """float32 within 2e-5 of the largest wanted value, which is given in float64."""
    assert got.dtype == np.float32
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max(initial=0) <= 2e-5 * np.abs(wanted).max(initial=0)


def in_float32(module, x, k, dy, pad):
    """Forward and both gradients of a rung's module."""
    x, k, dy = (a.astype(np.float32) for a in (x, k, dy))
    return module.forward(x, k, pad), module.grad_x(dy, k, pad), module.grad_w(x, dy, 3, pad)


def in_float64(x, k, dy, pad):
    """The same, exactly."""
    return taps.forward(x, k, pad), taps.grad_x(dy, k, pad), taps.grad_w(x, dy, 3, pad)


@float32_only
@given(st.integers(1, 3), st.integers(3, 14), st.integers(3, 14), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1), seeds)
def test_winograd_agrees(module, n, h, w, c, o, pad, seed):
    """Any size, from one pixel of output, also where tiles reach beyond the map; more channels than tiles and fewer."""
    x, k, dy = conv_arguments(n, h, w, c, o, pad, seed)
    for got, wanted in zip(in_float32(module, x, k, dy, pad), in_float64(x, k, dy, pad), strict=True):
        near(got, wanted)


@float32_only
@pytest.mark.parametrize(("n", "h", "w", "c", "o"), [(1, 30, 30, 256, 320), (1, 45, 150, 64, 48), (2, 23, 400, 48, 16)])
def test_winograd_agrees_over_strips_and_blocks(module, n, h, w, c, o):
    """The same for maps of several strips, kernels of several blocks of channels, and rows too long for one product."""
    for pad in (0, 1):
        x, k, dy = conv_arguments(n, h, w, c, o, pad, 0)
        for got, wanted in zip(in_float32(module, x, k, dy, pad), in_float64(x, k, dy, pad), strict=True):
            near(got, wanted)


def test_winograds_matrices_are_the_identity_of_a_correlation():
    """In one dimension, A^T ((G w) * (B^T d)) is the correlation of d and w, for Lavin's points and for ours."""
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal(6), rng.standard_normal(3)
    for points in (winograd.POINTS, (0, 1, -1, 2, -2)):
        a, b, g = winograd.matrices(points)
        close(a.T @ ((g @ w) * (b.T @ d)), np.correlate(d, w, "valid"))


def test_our_points_lose_less_than_lavins():
    """The rounding error in float32 is less than half of that with the points 0, 1, -1, 2, -2."""
    rng = np.random.default_rng(0)
    d, w = rng.standard_normal((6, 20000)), rng.standard_normal((3, 20000))
    wanted = np.stack([(d[i : i + 3] * w).sum(axis=0) for i in range(4)])

    def error(points):
        a, b, g = (m.astype(np.float32) for m in winograd.matrices(points))
        return np.abs(a.T @ ((g @ w.astype(np.float32)) * (b.T @ d.astype(np.float32))) - wanted).max()

    assert error(winograd.POINTS) < error((0, 1, -1, 2, -2)) / 2


@pytest.mark.parametrize("name", ["winograd1d", "winograd"])
def test_winograd_refuses_what_it_cannot_do(name):
    """Other dtypes and other kernels are refused with the reason."""
    x, w = DOUBLE
    with ladder.rung(conv3x3=name):
        with pytest.raises(BackendError, match="it takes float32, not float64, because its rounding errors are larger"):
            ladder.pick("conv3x3", x, w)
        with pytest.raises(BackendError, match="it takes 3x3 kernels, not 5x5"):
            ladder.pick("conv3x3", ANY[0], np.zeros((5, 5, 1, 1), np.float32))


@threaded
@pytest.mark.parametrize(("n", "h", "w", "c", "o"), [(1, 40, 260, 8, 8), (3, 21, 22, 3, 70), (1, 70, 64, 32, 16)])
def test_the_number_of_threads_changes_no_byte(name, n, h, w, c, o, monkeypatch):
    """One, two and three threads give the same bytes, for strips small enough that there are many."""
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**13)
    monkeypatch.setattr(winograd1d, "STRIP_BYTES", 2**14)
    monkeypatch.setattr(winograd, "STRIP_TILES", (20, 20))
    x, k, dy = (a.astype(np.float32) for a in conv_arguments(n, h, w, c, o, 1, 0))
    rung = rung_of("conv3x3", name)
    seen = set()
    for number in (1, 2, 3):
        with threads(number):
            results = rung.forward(x, k, 1), rung.grad_x(dy, k, 1), rung.grad_w(x, dy, 3, 1)
        seen.add(b"".join(result.tobytes() for result in results))
    assert len(seen) == 1


@pytest.mark.parametrize(("tiles_bytes", "large_kernel", "parts"), [(2**25, 1, 1), (2**16, 1, 3), (1, 1, 13), (1, 2**16, 0)])
def test_winograds_ways_to_cut_the_work_agree(tiles_bytes, large_kernel, parts, monkeypatch):
    """By strips of tiles, by blocks of channels, with all tiles of a part of the channels at a time: equally exact."""
    taken, all_tiles = [], winograd.all_tiles
    monkeypatch.setattr(winograd, "all_tiles", lambda x, tiles, pad: taken.append(x.shape[3]) or all_tiles(x, tiles, pad))
    monkeypatch.setattr(winograd, "TILES_BYTES", tiles_bytes)
    monkeypatch.setattr(winograd, "LARGE_KERNEL", large_kernel)
    arguments = conv_arguments(2, 21, 26, 13, 66, 1, 0)
    x, k, dy = (a.astype(np.float32) for a in arguments)
    rung, (x64, k64, dy64) = rung_of("conv3x3", "winograd"), arguments
    pairs = [(rung.forward(x, k, 1), strips.forward(x64, k64, 1)), (rung.grad_x(dy, k, 1), strips.grad_x(dy64, k64, 1))]
    taken.clear()
    pairs.append((rung.grad_w(x, dy, 3, 1), strips.grad_w(x64, dy64, 3, 1)))
    assert len(taken) == parts
    assert sum(taken) == (13 if parts else 0)
    for found, wanted in pairs:
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@threaded
@pytest.mark.parametrize("channels", [2, 70])
def test_no_images_are_no_error(name, channels):
    """An empty batch gives an empty output, an empty dx, and a dw of zeros."""
    x, k, dy = (a.astype(np.float32) for a in conv_arguments(0, 8, 9, channels, channels, 0, 0))
    rung = rung_of("conv3x3", name)
    assert rung.forward(x, k, 0).shape == dy.shape
    assert rung.grad_x(dy, k, 0).shape == x.shape
    assert not rung.grad_w(x, dy, 3, 0).any()


@threaded
def test_nothing_is_left_in_the_workspace(name):
    """A call after one on a larger map full of NaN gives what it gives without: no number is read before it is written."""
    rung = rung_of("conv3x3", name)
    arguments = [a.astype(np.float32) for a in conv_arguments(2, 9, 11, 5, 6, 1, 0)]
    with threads(1):
        x, k, dy = arguments
        before = rung.forward(x, k, 1), rung.grad_x(dy, k, 1), rung.grad_w(x, dy, 3, 1)
        x, k, dy = (np.full_like(a.astype(np.float32), np.nan) for a in conv_arguments(2, 30, 33, 9, 9, 1, 0))
        rung.forward(x, k, 1), rung.grad_x(dy, k, 1), rung.grad_w(x, dy, 3, 1)
        x, k, dy = arguments
        after = rung.forward(x, k, 1), rung.grad_x(dy, k, 1), rung.grad_w(x, dy, 3, 1)
    for was, is_now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, is_now)
