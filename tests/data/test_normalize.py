"""Normalisation against mean and standard deviation of all pixels written out, and what it does where there is none."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.data.normalize import Normalization
from tinyunet.errors import ConfigError, DataError, ShapeError

DTYPES = ["uint8", "uint16", "int32", "float16", "float32", "float64"]


def images(seed, count, channels, dtype):
    """A few images of different sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, (count, 2)) + 1
    return [(rng.random((h, w, channels)) * 200).astype(dtype) for h, w in sizes]


@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from(DTYPES))
def test_image_mode_makes_every_image_standard(seed, channels, dtype):
    """mode "image": (x - mean) / std has mean 0 and std 1 in every channel of every image."""
    for image in images(seed, 3, channels, dtype):
        mean, std = Normalization("image").stats(image)
        assert mean.dtype == std.dtype == np.float32
        assert mean.shape == std.shape == (channels,)
        pixels = image.reshape(-1, channels).astype(np.float64)
        np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
        np.testing.assert_allclose(std, np.sqrt(((pixels - pixels.mean(0)) ** 2).mean(0)), rtol=1e-5)
        standard = (pixels - mean) / std
        np.testing.assert_allclose(standard.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(standard.std(0), 1, atol=1e-4)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.sampled_from(DTYPES))
def test_dataset_mode_takes_all_pixels_together(seed, count, channels, dtype):
    """mode "dataset": mean and std are those of all pixels of all images, each pixel counted once."""
    many = images(seed, count, channels, dtype)
    fitted = Normalization.fit("dataset", iter(many))
    pixels = np.concatenate([image.reshape(-1, channels).astype(np.float64) for image in many])
    np.testing.assert_allclose(fitted.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(fitted.std, pixels.std(0), rtol=1e-6)
    for image in many:  # and they are used for every image
        mean, std = fitted.stats(image)
        np.testing.assert_array_equal(mean, np.asarray(fitted.mean, np.float32))
        np.testing.assert_array_equal(std, np.asarray(fitted.std, np.float32))


def test_dataset_mode_is_not_the_mean_of_means():
    """A large image counts more than a small one: 90 pixels of 0 and 10 of 100 have mean 10 and std 30."""
    fitted = Normalization.fit("dataset", [np.zeros((9, 10, 1), np.uint8), np.full((1, 10, 1), 100, np.uint8)])
    assert fitted.mean == (10.0,)
    assert fitted.std == (30.0,)


def test_none_leaves_grey_values():
    """mode "none": mean 0 and std 1, whatever the image."""
    mean, std = Normalization("none").stats(np.full((3, 4, 2), 77, np.uint8))
    assert mean.tolist() == [0, 0]
    assert std.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["image", "percentile", "dataset"])
@pytest.mark.parametrize("value", [0.0, 0.1, 100.3])
def test_a_constant_channel_becomes_zero(dtype, mode, value):
    """A constant channel has std 1 and becomes 0; also 0.1, whose mean is not exactly 0.1 in floating point."""
    image = np.full((7, 9, 2), value).astype(dtype)
    image[..., 1] = np.arange(63).reshape(7, 9)
    mean, std = Normalization.fit(mode, [image]).stats(image)
    assert std[0] == 1
    assert std[1] > 1
    np.testing.assert_allclose(((image - mean) / std)[..., 0], 0, atol=1e-5)


def test_faint_images_keep_their_contrast():
    """A float image of values around 1e-6 is not mistaken for a constant one."""
    image = (1e-6 * np.random.default_rng(0).random((8, 8, 1))).astype(np.float32)
    mean, std = Normalization("image").stats(image)
    np.testing.assert_allclose(((image - mean) / std).std(), 1, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(bad):
    """NaN or infinity is refused with what to do, by "image" and by fitting "dataset"."""
    image = np.ones((4, 4, 1), np.float32)
    image[2, 1] = bad
    with pytest.raises(DataError, match=r"holds NaN or infinite values\. Replace them, e\.g\. with numpy\.nan_to_num"):
        Normalization("image").stats(image)
    with pytest.raises(DataError, match=r"holds NaN or infinite values"):
        Normalization.fit("dataset", [np.ones((4, 4, 1)), image])


def test_dataset_mode_needs_images_and_the_same_channels():
    """No images: nothing to take a mean of. Another number of channels: both numbers are named."""
    with pytest.raises(DataError, match=r"there are no images"):
        Normalization.fit("dataset", [])
    fitted = Normalization.fit("dataset", [np.ones((3, 3, 1))])
    with pytest.raises(DataError, match=r"has 3 channels, the training images had 1"):
        fitted.stats(np.ones((3, 3, 3)))


@pytest.mark.parametrize("mode", ["image", "dataset", "none"])
def test_json_round_trip(mode):
    """to_dict survives JSON, and from_dict gives the same normalisation, to the last bit."""
    fitted = Normalization.fit(mode, images(3, 2, 2, "float32"))
    assert Normalization.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("median",), r"mode 'median' is none of 'image', 'percentile', 'dataset', 'none'"),
        (("dataset", (1.0,), ()), r"mean \(1\.0,\) and std \(\): give a number and a positive number for every channel"),
        (("dataset", (1.0,), (0.0,)), r"a positive number for every channel"),
        (("dataset", (float("nan"),), (1.0,)), r"mean \(nan,\)"),
    ],
)
def test_impossible_normalisations(arguments, text):
    """An unknown mode, or a mean and std that nothing can be normalised with, are refused."""
    with pytest.raises(ConfigError, match=text):
        Normalization(*arguments)


def test_percentiles_put_nearly_all_values_between_minus_2_and_2(rng):
    """mean is the middle of the 1st and 99.8th percentile, std a quarter of their distance, whatever a few pixels say."""
    image = rng.integers(40, 60, (50, 60, 2)).astype(np.uint16)
    image[0, 0] = 60000  # a hot pixel
    mean, std = Normalization("percentile").stats(image)
    low, high = np.percentile(image, (1, 99.8), axis=(0, 1))
    np.testing.assert_allclose(mean, (low + high) / 2)
    np.testing.assert_allclose(std, (high - low) / 4)
    assert np.abs((image[1:] - mean) / std).max() < 2.5


def test_percentiles_do_not_depend_on_how_many_cells_there_are():
    """The same cell gets the same value in a full and in a nearly empty image; by mean and std it would not."""
    few, many = np.zeros((100, 100, 1), np.uint8), np.zeros((100, 100, 1), np.uint8)
    few[:10, :10], many[:60] = 200, 200

    def cell(mode, image):
        mean, std = Normalization(mode).stats(image)
        return float(((200 - mean) / std)[0])

    assert cell("percentile", few) == cell("percentile", many) == 2
    assert cell("image", few) > 5 * cell("image", many)


def test_percentiles_that_coincide_leave_the_standard_deviation():
    """Cells on 0.15 % of an image are beyond both percentiles: that channel gets mean and std, the others keep percentiles."""
    image = np.zeros((512, 512, 3), np.uint16)
    image.reshape(-1, 3)[: round(0.0015 * 512**2), 0] = 40000
    image[..., 1] = 77
    image[:100, :, 2] = 300
    mean, std = Normalization("percentile").stats(image)
    usual = Normalization("image").stats(image)
    assert (mean[0], std[0]) == (usual[0][0], usual[1][0])
    assert std[0] > 1000
    assert (mean[1], std[1]) == (77, 1)  # a constant channel becomes 0, as ever
    assert (mean[2], std[2]) == (150, 75)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(700, 300, 1), (90, 500, 3), (3, 70000, 1)])
def test_strips_change_nothing(dtype, shape):
    """Statistics taken some rows at a time are those of the whole image at once, to the last bit of float32."""
    image = (np.random.default_rng(5).random(shape) * 200).astype(dtype)
    mean, std = Normalization("image").stats(image)
    np.testing.assert_array_equal(mean, image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32))
    np.testing.assert_array_equal(std, image.std(axis=(0, 1), dtype=np.float64).astype(np.float32))
    mean, std = Normalization("percentile").stats(image)
    low, high = np.percentile(image, (1, 99.8), axis=(0, 1))
    np.testing.assert_array_equal(mean, ((low + high) / 2).astype(np.float32))
    np.testing.assert_array_equal(std, ((high - low) / 4).astype(np.float32))


@pytest.mark.parametrize(("mode", "channels_copied"), [("image", 0), ("dataset", 0), ("percentile", 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_large_image_costs_no_more_memory(mode, channels_copied, dtype):
    """Beside the image: 3 MiB, and for percentiles a copy of one channel. All of it in float64 would be 24 MiB."""
    image = np.random.default_rng(0).integers(0, 200, (1024, 1024, 3)).astype(dtype)
    Normalization.fit(mode, [image]).stats(image)
    tracemalloc.start()
    try:
        Normalization.fit(mode, [image]).stats(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 3 * 2**20 + channels_copied * image[..., 0].nbytes


@pytest.mark.parametrize("mode", ["image", "percentile", "dataset", "none"])
def test_an_image_without_its_channel_axis(mode):
    """(H, W) is refused with the way to (H, W, C), and not taken for a row of W channels."""
    image = np.zeros((6, 5))
    with pytest.raises(ShapeError, match=r"Normalization\.stats: .*\(6, 5\) is no \(H, W, C\)\. .*image\[\.\.\., None\]"):
        Normalization(mode).stats(image)
    with pytest.raises(ShapeError, match=r"Normalization\.fit: .*\(6, 5\) is no"):
        Normalization.fit("dataset", [image])
