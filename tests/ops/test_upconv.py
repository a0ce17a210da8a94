"""Up-convolution: blocks that do not overlap, and the adjoint of the convolution of stride 2."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ops import upconv_backward, upconv_forward

geometry = given(*[st.integers(1, 4)] * 5, st.integers(0, 2**32 - 1))


def close(got, wanted):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def draw(n, h, w, c, o, seed):
    """x, w, b and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, h, w, c)), rng.standard_normal((2, 2, o, c)), rng.standard_normal(o), rng


def stride_2_convolution(v, w):
    """The convolution whose adjoint is meant, with kernel w from O to C channels: (N, 2H, 2W, O) -> (N, H, W, C)."""
    n, height, width, _ = v.shape
    y = np.zeros((n, height // 2, width // 2, w.shape[3]))
    for i, j in product(range(height // 2), range(width // 2)):
        y[:, i, j] = np.einsum("nabo,aboc->nc", v[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], w)
    return y


@pytest.fixture
def xwb(rng):
    """Arguments of one up-convolution: N = 2, 3 x 4 pixels, 3 channels to 2."""
    return rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((2, 2, 2, 3)), rng.standard_normal(2)


# Reference ----------------------------------------------------------------------------------------------------------


@geometry
def test_forward_is_the_formula(n, h, w, c, o, seed):
    """y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c], written as loops."""
    x, k, b, _ = draw(n, h, w, c, o, seed)
    y, _ = upconv_forward(x, k, b)
    assert y.shape == (n, 2 * h, 2 * w, o)
    for m, i, j, p in product(range(n), range(2 * h), range(2 * w), range(o)):
        wanted = b[p] + sum(x[m, i // 2, j // 2, q] * k[i % 2, j % 2, p, q] for q in range(c))
        close(y[m, i, j, p], wanted)


def test_one_pixel_paints_the_kernel():
    """A single 1 paints the kernel itself, unflipped, into its own 2x2 block and nothing else."""
    x = np.zeros((1, 2, 3, 1))
    x[0, 1, 2] = 1
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    y, _ = upconv_forward(x, kernel[:, :, None, None], np.zeros(1))
    wanted = np.zeros((4, 6))
    wanted[2:4, 4:6] = kernel
    np.testing.assert_array_equal(y[0, :, :, 0], wanted)


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradients_by_differences(n, h, w, c, o, seed):
    """dx, dw and db agree with difference quotients."""
    x, k, b, rng = draw(n, h, w, c, o, seed)
    check_grad(upconv_forward, upconv_backward, {"x": x, "w": k, "b": b}, rng)


@geometry
def test_gradients_by_complex_step(n, h, w, c, o, seed):
    """dx, dw and db agree with the complex step to rounding."""
    x, k, b, rng = draw(n, h, w, c, o, seed)
    check_complex_step(upconv_forward, upconv_backward, {"x": x, "w": k, "b": b}, rng)


# Properties ---------------------------------------------------------------------------------------------------------


@geometry
def test_it_is_the_adjoint_of_the_convolution_with_the_same_weights(n, h, w, c, o, seed):
    """<up(x), v> = <x, conv_stride_2(v)> with one w; and the gradient of x is that convolution."""
    x, k, b, rng = draw(n, h, w, c, o, seed)
    v = rng.standard_normal((n, 2 * h, 2 * w, o))
    check_adjoint(lambda x: upconv_forward(x, k, 0 * b)[0], lambda v: stride_2_convolution(v, k), x, v)
    dx, _, _ = upconv_backward(v, upconv_forward(x, k, b)[1])
    close(dx, stride_2_convolution(v, k))


@geometry
def test_backward_is_the_adjoint_in_x_and_in_w(n, h, w, c, o, seed):
    """<up(x), v> = <x, dx> = <w, dw> for a gradient v."""
    x, k, b, rng = draw(n, h, w, c, o, seed)
    v = rng.standard_normal((n, 2 * h, 2 * w, o))
    check_adjoint(lambda x: upconv_forward(x, k, 0 * b)[0], lambda v: upconv_backward(v, upconv_forward(x, k, b)[1])[0], x, v)
    check_adjoint(lambda k: upconv_forward(x, k, 0 * b)[0], lambda v: upconv_backward(v, upconv_forward(x, k, b)[1])[1], k, v)


def test_it_is_not_the_inverse(xwb):
    """Convolving the result with stride 2 and the same weights does not give the image back."""
    x, w, b = xwb
    assert not np.allclose(stride_2_convolution(upconv_forward(x, w, 0 * b)[0], w), x)


def test_blocks_are_disjoint(xwb):
    """Changing one input pixel changes its 2x2 block, all of it, and no other pixel."""
    x, w, b = xwb
    y = upconv_forward(x, w, b)[0]
    x2 = x.copy()
    x2[0, 1, 2] += 1
    changed = (upconv_forward(x2, w, b)[0] != y).any(axis=3)
    assert changed[0, 2:4, 4:6].all()
    assert changed.sum() == 4


def test_ones_repeat_every_pixel(rng):
    """A kernel of ones writes every pixel four times: no checkerboard, since no two blocks overlap."""
    x = rng.standard_normal((2, 3, 4, 1))
    y, _ = upconv_forward(x, np.ones((2, 2, 1, 1)), np.zeros(1))
    np.testing.assert_array_equal(y, x.repeat(2, axis=1).repeat(2, axis=2))


def test_linear_in_x_and_in_w(xwb, rng):
    """Without a bias, forward of a sum is the sum of forwards, for images and for weights."""
    x, w, b = xwb
    x2, w2 = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    y = upconv_forward(x, w, 0 * b)[0]
    close(upconv_forward(2 * x + x2, w, 0 * b)[0], 2 * y + upconv_forward(x2, w, 0 * b)[0])
    close(upconv_forward(x, 2 * w + w2, 0 * b)[0], 2 * y + upconv_forward(x, w2, 0 * b)[0])


def test_a_shifted_image_gives_a_map_shifted_twice_as_far(xwb):
    """Dropping one row and two columns of the input drops two rows and four columns of the output."""
    x, w, b = xwb
    close(upconv_forward(x[:, 1:, 2:], w, b)[0], upconv_forward(x, w, b)[0][:, 2:, 4:])


def test_channels_may_be_renamed(xwb):
    """Permuting the channels of x together with those of w changes nothing; permuting the outputs permutes y."""
    x, w, b = xwb
    y = upconv_forward(x, w, b)[0]
    close(upconv_forward(x[..., [1, 2, 0]], w[..., [1, 2, 0]], b)[0], y)
    close(upconv_forward(x, w[:, :, ::-1], b[::-1])[0], y[..., ::-1])


# Errors -------------------------------------------------------------------------------------------------------------


def test_a_kernel_of_another_size(xwb):
    """Only 2x2 kernels are taken."""
    x, _, b = xwb
    with pytest.raises(ShapeError, match=r"upconv: w has shape \(3, 3, 2, 3\), expected \(2, 2, O, C\)"):
        upconv_forward(x, np.zeros((3, 3, 2, 3)), b)


def test_weights_with_channels_swapped(xwb):
    """Weights laid out (2, 2, C, O), as those of a convolution, are refused with the shape that is needed."""
    x, w, b = xwb
    with pytest.raises(ShapeError, match=r"upconv: w has shape \(2, 2, 3, 2\), but an input .* needs \(2, 2, 3, 3\)"):
        upconv_forward(x, w.transpose(0, 1, 3, 2), b)
    with pytest.raises(ShapeError, match=r"upconv: b has shape \(3,\), but .* needs \(2,\)"):
        upconv_forward(x, w, np.zeros(3))


def test_mixed_dtypes(xwb):
    """Parameters of another dtype than the image are refused."""
    x, w, b = xwb
    with pytest.raises(DTypeError, match=r"upconv: w is float64 and the input is float32"):
        upconv_forward(x.astype(np.float32), w, b)
    with pytest.raises(DTypeError, match=r"upconv: b is float32 and the input is float64"):
        upconv_forward(x, w, b.astype(np.float32))
