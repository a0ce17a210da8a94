"""Initial weights: their spread, and activations that neither vanish nor explode."""

import numpy as np
import pytest

from tinyunet.init import he_normal
from tinyunet.ops import conv2d_forward, relu_forward


@pytest.mark.parametrize(("shape", "fan_in"), [((3, 3, 64, 32), 576), ((1, 1, 64, 900), 64), ((2, 2, 64, 128), 128)])
def test_mean_and_variance(shape, fan_in, rng):
    """Weights have mean 0 and variance 2 / fan_in, within four standard errors; 9 * 64 is the paper's example."""
    w = he_normal(shape, fan_in, rng)
    assert w.shape == shape
    assert w.dtype == np.float32
    assert abs(w.mean()) <= 4 * np.sqrt(2 / fan_in / w.size)
    assert abs(w.var() * fan_in / 2 - 1) <= 4 * np.sqrt(2 / w.size)


def test_weights_are_gaussian(rng):
    """About 68 % lie within one standard deviation and 95 % within two."""
    w = he_normal((3, 3, 64, 64), 576, rng) / np.sqrt(2 / 576)
    assert abs((abs(w) < 1).mean() - 0.6827) < 0.01
    assert abs((abs(w) < 2).mean() - 0.9545) < 0.01


def test_the_generator_decides():
    """Equal seeds give equal bytes, other seeds others."""
    first, again, other = (he_normal((3, 3, 4, 4), 36, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_activations_keep_their_size_through_ten_layers(rng):
    """Ten convolutions with ReLU change the mean square by less than five; half the variance would divide it by a thousand."""
    x = rng.standard_normal((1, 60, 60, 32)).astype(np.float32)
    for _ in range(10):
        y, _ = conv2d_forward(x, he_normal((3, 3, 32, 32), 288, rng), np.zeros(32, np.float32))
        x, _ = relu_forward(y)
    assert 2 / 5 < (y**2).mean() < 2 * 5  # the first map has 2, for an image of mean square 1
