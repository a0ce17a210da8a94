"""Convolution: against SciPy's correlation, its gradients, and what a convolution must do whatever its numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import convolve2d, correlate2d

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import ConfigError, DTypeError, ShapeError
from tinyunet.ops import conv2d_backward, conv2d_forward

paddings = st.sampled_from(["valid", "same"])
sizes = st.sampled_from([1, 3])
sides = st.integers(3, 7)
channels = st.integers(1, 4)
geometry = given(st.integers(1, 3), sides, sides, channels, channels, sizes, paddings, st.integers(0, 2**32 - 1))


def close(got, wanted):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def draw(n, h, w, c, o, size, seed):
    """x, w, b and the generator to go on with."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, h, w, c)), rng.standard_normal((size, size, c, o)), rng.standard_normal(o), rng


@pytest.fixture
def xwb(rng):
    """Arguments of one 3x3 convolution: N = 2, 6 x 5 pixels, 3 channels to 4."""
    return rng.standard_normal((2, 6, 5, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)


# Reference ----------------------------------------------------------------------------------------------------------


@geometry
def test_forward_is_correlation(n, h, w, c, o, size, padding, seed):
    """Every output map is the sum over channels of SciPy's correlation with an unflipped kernel, plus the bias."""
    x, k, b, _ = draw(n, h, w, c, o, size, seed)
    y, _ = conv2d_forward(x, k, b, padding)
    for i in range(n):
        for j in range(o):
            wanted = b[j] + sum(correlate2d(x[i, :, :, m], k[:, :, m, j], mode=padding) for m in range(c))
            close(y[i, :, :, j], wanted)


@pytest.mark.parametrize("tap", [(0, 0), (0, 2), (1, 0), (1, 1), (2, 1)])
def test_a_kernel_with_a_single_one_shifts(tap, rng):
    """A kernel that is 1 at (r, s) copies the image from r rows below and s columns to the right."""
    x = rng.standard_normal((2, 6, 5, 1))
    k = np.zeros((3, 3, 1, 1))
    k[tap] = 1
    y, _ = conv2d_forward(x, k, np.zeros(1))
    np.testing.assert_array_equal(y, x[:, tap[0] : tap[0] + 4, tap[1] : tap[1] + 3])


def test_a_1x1_convolution_is_a_matrix_for_every_pixel(rng):
    """Each pixel's channels are multiplied by the same matrix."""
    x, k, b, _ = draw(2, 3, 5, 3, 4, 1, 0)
    y, _ = conv2d_forward(x, k, b)
    close(y[1, 2, 3], k[0, 0].T @ x[1, 2, 3] + b)


def test_backward_is_the_transpose_of_the_dense_matrix(rng):
    """Written out as a matrix A by feeding unit images, forward is A x and the gradient of x is A' dy."""
    k = rng.standard_normal((3, 3, 2, 3))
    unit = np.eye(4 * 5 * 2).reshape(-1, 4, 5, 2)
    y, ctx = conv2d_forward(unit, k, np.zeros(3), "same")
    matrix = y.reshape(40, -1).T  # (4 * 5 * 3, 40)
    dy = rng.standard_normal((40, 4, 5, 3))
    dx, _, _ = conv2d_backward(dy, ctx)
    close(dx.reshape(40, 40), dy.reshape(40, -1) @ matrix)


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_gradients_by_differences(n, h, w, c, o, size, padding, seed):
    """dx, dw and db agree with difference quotients."""
    x, k, b, rng = draw(n, h, w, c, o, size, seed)
    check_grad(lambda x, w, b: conv2d_forward(x, w, b, padding), conv2d_backward, {"x": x, "w": k, "b": b}, rng)


@geometry
def test_gradients_by_complex_step(n, h, w, c, o, size, padding, seed):
    """dx, dw and db agree with the complex step to rounding."""
    x, k, b, rng = draw(n, h, w, c, o, size, seed)
    check_complex_step(lambda x, w, b: conv2d_forward(x, w, b, padding), conv2d_backward, {"x": x, "w": k, "b": b}, rng)


# Properties ---------------------------------------------------------------------------------------------------------


@geometry
def test_backward_is_the_adjoint_in_x_and_in_w(n, h, w, c, o, size, padding, seed):
    """<C x, v> = <x, dx> = <w, dw> for a gradient v."""
    x, k, _, rng = draw(n, h, w, c, o, size, seed)
    zero = np.zeros(o)
    y, _ = conv2d_forward(x, k, zero, padding)
    v = rng.standard_normal(y.shape)

    def forward(x, k):
        return conv2d_forward(x, k, zero, padding)

    check_adjoint(lambda x: forward(x, k)[0], lambda v: conv2d_backward(v, forward(x, k)[1])[0], x, v)
    check_adjoint(lambda k: forward(x, k)[0], lambda v: conv2d_backward(v, forward(x, k)[1])[1], k, v)


@geometry
def test_sizes(n, h, w, c, o, size, padding, seed):
    """valid: H - K + 1; same: H. The batch is kept, and there are O channels."""
    x, k, b, _ = draw(n, h, w, c, o, size, seed)
    shrink = size - 1 if padding == "valid" else 0
    assert conv2d_forward(x, k, b, padding)[0].shape == (n, h - shrink, w - shrink, o)


def test_linear_in_x_and_in_w(xwb, rng):
    """Without a bias, forward of a sum is the sum of forwards, for images and for weights."""
    x, w, b = xwb
    zero = np.zeros_like(b)
    x2, w2 = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    y = conv2d_forward(x, w, zero)[0]
    close(conv2d_forward(2 * x + x2, w, zero)[0], 2 * y + conv2d_forward(x2, w, zero)[0])
    close(conv2d_forward(x, 2 * w + w2, zero)[0], 2 * y + conv2d_forward(x, w2, zero)[0])


def test_the_bias_is_added_and_its_gradient_is_a_sum(xwb, rng):
    """b is added to every pixel, and db adds dy up over images and pixels."""
    x, w, b = xwb
    y, ctx = conv2d_forward(x, w, b)
    close(y - conv2d_forward(x, w, np.zeros(4))[0], np.broadcast_to(b, y.shape))
    dy = rng.standard_normal(y.shape)
    close(conv2d_backward(dy, ctx)[2], np.einsum("nijo->o", dy))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_shifted_image_gives_a_shifted_map(padding, xwb):
    """Away from the border, moving the image by (1, 2) pixels moves the result by as much."""
    _, w, b = xwb
    x = np.random.default_rng(5).standard_normal((1, 9, 10, 3))
    whole = conv2d_forward(x, w, b, padding)[0]
    moved = conv2d_forward(x[:, 1:, 2:], w, b, padding)[0]
    inner = slice(1, -1)
    close(moved[:, inner, inner], whole[:, 1:, 2:][:, inner, inner])


def test_channels_may_be_renamed(xwb):
    """Permuting the channels of x together with those of w changes nothing; permuting the outputs of w and b permutes y."""
    x, w, b = xwb
    y = conv2d_forward(x, w, b)[0]
    into, out = [1, 2, 0], [2, 0, 3, 1]
    close(conv2d_forward(x[..., into], w[:, :, into], b)[0], y)
    close(conv2d_forward(x, w[..., out], b[out])[0], y[..., out])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    "turn",
    [lambda a, axes: np.rot90(a, 1, axes), lambda a, axes: np.flip(a, axes[0]), lambda a, axes: np.swapaxes(a, *axes)],
    ids=["rot90", "flip", "transpose"],
)
def test_turning_image_and_kernel_turns_the_map(turn, padding, xwb):
    """Rotating, flipping or transposing image and kernel does the same to the result."""
    x, w, b = xwb
    y = conv2d_forward(x, w, b, padding)[0]
    turned = conv2d_forward(turn(x, (1, 2)), turn(w, (0, 1)), b, padding)[0]
    close(turned, turn(y, (1, 2)))


def test_two_convolutions_are_one_with_a_5x5_kernel(rng):
    """Two 3x3 kernels in a row see 5x5 pixels: they equal SciPy's correlation with their full convolution."""
    x, first, second = rng.standard_normal((8, 9)), rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    y = x[None, :, :, None]
    for k in (first, second):
        y, _ = conv2d_forward(y, k[:, :, None, None], np.zeros(1))
    both = convolve2d(first, second, mode="full")
    close(y[0, :, :, 0], correlate2d(x, both, mode="valid"))


# Agreement ----------------------------------------------------------------------------------------------------------


@geometry
def test_same_is_valid_of_the_zero_padded_image(n, h, w, c, o, size, padding, seed):
    """Padding "same" gives what "valid" gives of an image with zeros around it, in both directions."""
    x, k, b, rng = draw(n, h, w, c, o, size, seed)
    pad = (size - 1) // 2
    y, ctx = conv2d_forward(x, k, b, "same")
    padded, padded_ctx = conv2d_forward(np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), k, b, "valid")
    close(y, padded)
    dy = rng.standard_normal(y.shape)
    (dx, dw, db), (dpadded, dw2, db2) = conv2d_backward(dy, ctx), conv2d_backward(dy, padded_ctx)
    close(dx, dpadded[:, pad : pad + h, pad : pad + w])
    close(dw, dw2)
    np.testing.assert_array_equal(db, db2)


# Memory and errors --------------------------------------------------------------------------------------------------


def test_the_context_keeps_x_itself(xwb):
    """No copy and no columns: the context holds the very arrays it was given."""
    x, w, b = xwb
    _, ctx = conv2d_forward(x, w, b)
    assert ctx.x is x
    assert ctx.w is w


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 1, 3, 4), (5, 5, 3, 4), (2, 2, 3, 4)])
def test_a_kernel_of_another_size(shape, xwb):
    """Only square kernels of 3 or 1 are taken."""
    x, _, b = xwb
    with pytest.raises(ShapeError, match=r"conv2d: w has shape .*, expected \(K, K, C, O\) with K = 1 or 3\."):
        conv2d_forward(x, np.zeros(shape), b)


def test_weights_for_another_number_of_channels(xwb):
    """The message gives the shape that the input needs."""
    x, w, b = xwb
    with pytest.raises(ShapeError, match=r"conv2d: w has shape \(3, 3, 2, 4\), but an input .* needs \(3, 3, 3, 4\)"):
        conv2d_forward(x, w[:, :, :2], b)
    with pytest.raises(ShapeError, match=r"conv2d: b has shape \(3,\), but .* needs \(4,\)"):
        conv2d_forward(x, w, b[:3])


def test_mixed_dtypes(xwb):
    """A float32 image with float64 weights is refused; nothing is converted silently."""
    x, w, b = xwb
    with pytest.raises(DTypeError, match=r"conv2d: w is float64 and the input is float32\. Convert one of them"):
        conv2d_forward(x.astype(np.float32), w, b)
    with pytest.raises(DTypeError, match=r"conv2d: b is float32 and the input is float64"):
        conv2d_forward(x, w, b.astype(np.float32))


def test_a_map_smaller_than_the_kernel(xwb):
    """Valid convolution of two rows is refused; with padding "same" a single pixel is enough, but none is not."""
    x, w, b = xwb
    with pytest.raises(ShapeError, match=r"conv2d: a 2x5 map is smaller than the 3x3 kernel\. Give at least 3x3"):
        conv2d_forward(x[:, :2], w, b)
    assert conv2d_forward(x[:, :1, :1], w, b, "same")[0].shape == (2, 1, 1, 4)
    with pytest.raises(ShapeError, match=r"conv2d: a 0x5 map is smaller than the 3x3 kernel"):
        conv2d_forward(x[:, :0], w, b, "same")


def test_another_padding(xwb):
    """An unknown padding is refused with the two that exist."""
    with pytest.raises(ConfigError, match=r"conv2d: padding is 'full'\. Choose 'valid' or 'same'"):
        conv2d_forward(*xwb, "full")
