"""Prediction by tiles against one pass over the whole image, averages against flips written out, and a budget that is kept."""

import re
import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet import inference, parallel, shapes
from tinyunet.data.instances import INSTANCE_BYTES
from tinyunet.data.normalize import Normalization
from tinyunet.errors import ConfigError, DataError, ShapeError
from tinyunet.inference import BASELINE, as_image, default_tile, instances_of, predict, predict_proba, predict_tiles
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

PLAIN = Normalization("none")
PADDINGS = ["valid", "same"]


def network(seed=1, training=False, **choices):
    """A small network whose biases and running statistics are random too. The biases are above 0, which keeps the ReLUs alive."""
    rng = np.random.default_rng(seed)
    model = UNet(UNetSpec(**{"base": 2, "depth": 1, **choices}), rng)
    for layer in model.layers:
        for key in sorted(layer.params.keys() - {"w"}):  # a set has another order in every process
            layer.params[key] += rng.uniform(0, 0.6, layer.params[key].shape).astype(np.float32)
        for key, value in layer.buffers.items():
            layer.buffers[key] = value + 0.3 * rng.random(value.shape, dtype=np.float32)
    return model.train() if training else model.eval()


def picture(seed, *shape, dtype=np.float32):
    """Random grey values: 0 to 2, which keeps probabilities away from 0 and 1, or whole numbers up to 200."""
    return (np.random.default_rng(seed).random(shape) * (2 if np.dtype(dtype).kind == "f" else 200)).astype(dtype)


def probabilities(logits):
    """Softmax written out; one logit a is the two logits (0, a)."""
    a = logits.astype(np.float64)
    a = np.concatenate([np.zeros_like(a), a], -1) if a.shape[-1] == 1 else a
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def whole(model, image):
    """One pass over the whole image, without tiles: NumPy's mirror padding, the network in eval mode, the result cut out."""
    spec, image = model.spec, image.reshape(*image.shape[:2], -1)
    pads = []
    for n in image.shape[:2]:
        side = n + 2 * shapes.margin(spec)
        while not shapes.fits(spec, side):
            side += 1
        pads.append((shapes.margin(spec), side - n - shapes.margin(spec)))
    x = np.pad(image, [*pads, (0, 0)], mode="reflect")[None].astype(model.head.params["w"].dtype)
    return probabilities(model.eval().forward(x))[0, : image.shape[0], : image.shape[1]]


def smallest_tile(spec):
    """The smallest tile that keeps anything of an image much larger than itself."""
    tile = shapes.smallest_size(spec)
    while True:
        try:
            shapes.tile_spans(spec, 100_000, tile)
        except ShapeError:
            tile += shapes.size_step(spec)
        else:
            return tile


def check_tiles(model, image, tile, atol):
    """Assert that tiles give what one pass over the whole image gives."""
    np.testing.assert_allclose(predict_proba(model, image, PLAIN, tile_in=tile), whole(model, image), rtol=0, atol=atol)


# Tiles are exact -----------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 3), st.sampled_from(PADDINGS), st.integers(1, 50), st.integers(1, 50), st.integers(0, 6),
    st.integers(1, 3), st.sampled_from([None, "batch"]), st.integers(1, 2), st.integers(0, 2**32),
)  # fmt: skip
def test_tiles_equal_the_whole_image(depth, padding, height, width, more, classes, norm, channels, seed):
    """Overlap tiles equal one pass over the whole image within rounding: any image size, any tile, both paddings."""
    model = network(seed, depth=depth, padding=padding, classes=classes, norm=norm, channels=channels)
    image = picture(seed, height, width, channels)
    check_tiles(model, image, smallest_tile(model.spec) + more * 2**depth, atol=1e-4)  # Winograd rounds by position in a tile


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_in_float64_they_equal_it_to_the_last_digits(depth, padding):
    """With float64 weights the difference is at most 1e-12: what is left in float32 is rounding, and nothing else."""
    model = network(3, depth=depth, padding=padding).astype("float64")
    proba = predict_proba(model, picture(4, 61, 90), PLAIN, tile_in=smallest_tile(model.spec) + 2 * 2**depth)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba, whole(model, picture(4, 61, 90)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_only_multiples_of_the_pooling_grid_are_exact(depth, padding):
    """A window moved by a multiple of 2^depth gives what the whole image gives there; moved by anything else it does not."""
    model, step = network(5, depth=depth, padding=padding), 2**depth
    margin = shapes.margin(model.spec)
    side = smallest_tile(model.spec) + 2 * step
    x = picture(6, 1, side + 4 * step, side + 4 * step, 1)
    y = model.forward(x)
    inner = slice(None) if padding == "valid" else slice(side // 2 - 1, side // 2 + 1)  # what zero borders cannot reach
    off = {}
    for shift in range(1, 2 * step + 1):
        part = model.forward(np.ascontiguousarray(x[:, shift : shift + side, shift : shift + side]))
        there = y[:, shift : shift + side - 2 * margin, shift : shift + side - 2 * margin]
        off[shift] = np.abs(part - there)[:, inner, inner].max() / np.abs(y).max()
    for shift, difference in off.items():
        assert difference < 1e-5 if shift % step == 0 else difference > 1e-3, (shift, off)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 90), (33, 34)])
def test_any_size_of_image(padding, shape):
    """One pixel, one row, smaller than the context that the network needs: the result has the size of the image."""
    model = network(7, depth=2, padding=padding, classes=3)
    image = picture(8, *shape)
    check_tiles(model, image, None, atol=1e-5)
    assert predict(model, image).shape == shape
    assert predict_proba(model, image).shape == (*shape, 3)


def symmetric(start, stop, n):
    """The other mirror, which repeats the edge pixel."""
    i = np.arange(start, stop) % (2 * n)
    return np.where(i < n, i, 2 * n - 1 - i)


def edge_to_edge(spec, n, tile):
    """Tiles laid edge to edge, as if their stride needed not be a multiple of 2^depth."""
    margin, keep = shapes.margin(spec), shapes.output_size(spec, tile)
    return [shapes.Span(a, min(a + keep, n), a - margin, a - margin + tile, 0) for a in range(0, n, keep)]


@pytest.mark.parametrize(
    ("where", "name", "planted"),
    [
        (inference, "mirror_index", symmetric),
        (shapes, "tile_spans", edge_to_edge),
        (inference, "_eval_mode", lambda model: nullcontext()),
    ],
    ids=["symmetric padding", "stride of the output", "training mode"],
)
def test_planted_bugs_are_seen(monkeypatch, where, name, planted):
    """The comparison with the whole image fails for the other mirror, for unaligned tiles, and without eval mode."""
    image, tile = picture(10, 50, 43), 100  # 12 pixels of output, no multiple of 8
    model = network(9, training=True, depth=3, norm="batch").astype("float64")
    check_tiles(model, image, tile, atol=1e-12)
    monkeypatch.setattr(where, name, planted)
    with pytest.raises(AssertionError):
        check_tiles(model.train(), image, tile, atol=1e-12)


# Images as they come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "int64", "float16", "float32", "float64"])
def test_every_type_of_pixel(dtype):
    """Whole numbers give the same result in every type that can hold them, normalised or not; the image is left alone."""
    image = np.random.default_rng(1).integers(0, 2, (21, 30)).astype(dtype)
    copy = image.copy()
    model = network(2, depth=2)
    for normalization in (None, PLAIN, Normalization("dataset", (0.3,), (0.5,))):
        expected = predict_proba(model, image.astype(np.float32), normalization)
        np.testing.assert_allclose(predict_proba(model, image, normalization), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_views_and_read_only_images(dtype):
    """A channel of a larger array, a mirrored and transposed view, a read-only image: as good as a plain copy."""
    model = network(2, depth=1)
    big = picture(3, 40, 60, 3, dtype=dtype)
    big.flags.writeable = False
    for view in (big[..., 1], big[::2, ::-3, :1], big[..., 0].T, np.broadcast_to(big[:1, :, 2], (9, 60))):
        np.testing.assert_array_equal(predict_proba(model, view), predict_proba(model, view.copy()))


def test_grey_images_with_and_without_channel_axis():
    """(H, W) and (H, W, 1) are the same grey image."""
    image = picture(1, 14, 11)
    np.testing.assert_array_equal(predict(network(), image), predict(network(), image[..., None]))


def test_grey_that_was_saved_as_colour():
    """Three equal channels are one to a network of grey, and the image is not copied; a colour image is none of its business."""
    grey = picture(1, 14, 11, dtype=np.uint8)
    rgb = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(predict_proba(network(), rgb), predict_proba(network(), grey))
    assert np.shares_memory(as_image(rgb, 1), rgb)
    assert as_image(rgb, 3) is rgb
    rgb[13, 10, 2] ^= 1
    with pytest.raises(ShapeError, match=r"evaluate: image a has 3 channels, the network takes 1"):
        as_image(rgb, 1, "evaluate: image a")


def test_normalisation_is_that_of_the_whole_image():
    """mode "image", the default, takes mean and std of the image, not of a tile: tiles do not change the result."""
    image = picture(3, 60, 40) + np.linspace(0, 5, 60)[:, None].astype(np.float32)
    standard = (image - image.mean()) / image.std()
    expected = whole(network(4), standard)
    np.testing.assert_allclose(predict_proba(network(4), image, tile_in=18), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "channels", "error", "text"),
    [
        (np.eye(3)[None], 1, ShapeError, r"the image has 3 channels, the network takes 1\. Convert it to grey: .*image\.mean"),
        (np.zeros((4, 4)), 3, ShapeError, r"has 1 channel, the network takes 3\. Convert it to RGB: .*np\.dstack"),
        (np.zeros((4, 4)), 2, ShapeError, r"has 1 channel, the network takes 2\. Convert it to 2 channels\."),
        (np.zeros((4, 4, 2)), 1, ShapeError, r"has 2 channels, the network takes 1\. Convert it to grey"),
        (np.zeros((3, 4, 9)), 3, ShapeError, r"shape \(3, 4, 9\), which is 9 channels, .* takes 3\. Channels come last: give"),
        (np.zeros((7, 9, 9)), 1, ShapeError, r"shape \(7, 9, 9\), which is 9 channels.* of a stack, one image at a time\."),
        (np.zeros((2, 4, 4, 1)), 1, ShapeError, r"shape \(2, 4, 4, 1\), expected \(H, W\) or \(H, W, C\)\. Of a stack, give one"),
        (np.zeros(4), 1, ShapeError, r"shape \(4,\), expected \(H, W\)"),
        (np.zeros((0, 5)), 1, DataError, r"shape \(0, 5, 1\) and dtype float64, and cannot be segmented"),
        (np.zeros((4, 4), complex), 1, DataError, r"dtype complex128, and cannot be segmented"),
        (np.full((4, 4), "a"), 1, DataError, r"cannot be segmented"),
    ],
)
@pytest.mark.parametrize("function", [predict, predict_proba])
def test_images_that_are_none(image, channels, error, text, function):
    """Wrong channels, shapes and types are refused with both values and what to do."""
    with pytest.raises(error, match=text):
        function(network(channels=channels), image)


@pytest.mark.parametrize("average", ["none", "mirror4", "rotate7"])
@pytest.mark.parametrize("normalization", [None, PLAIN, Normalization("dataset", (3.0,), (2.0,))])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_that_are_not_finite(bad, normalization, average):
    """One NaN or infinite pixel is refused, however the image is normalised; nothing is predicted from it."""
    image = picture(1, 20, 20)
    image[17, 3] = bad
    model = network(training=True)
    with pytest.raises(DataError, match=r"the image holds NaN or infinite values\. Replace them, e\.g\. with numpy\.nan_to_num"):
        predict(model, image, normalization, average=average)
    assert model.training


# Eval mode -----------------------------------------------------------------------------------------------------------


def test_prediction_is_in_eval_mode_and_training_goes_on():
    """Dropout and batch statistics do not take part, running statistics stay, and afterwards the network trains again."""
    model = network(3, training=True, norm="batch", dropout=0.5)
    before = {name: a.copy() for name, a in model.state().items()}
    image = picture(2, 20, 26)
    first, second = predict_proba(model, image), predict_proba(model, image)
    assert model.training
    assert all(layer.training and layer.remembering for layer in model.layers)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, predict_proba(network(3, norm="batch", dropout=0.5), image))
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("remember", [False, True])
def test_eval_mode_stays_as_it_was(remember):
    """A network in eval mode stays in it, and goes on to remember if it was asked to; nothing is remembered of tiles."""
    model = network().eval(remember=remember)
    predict(model, picture(1, 9, 9))
    assert not model.training
    assert all(layer.remembering is remember for layer in model.layers)
    assert all(layer._ctx is None for layer in model.layers)


def test_training_goes_on_after_an_error(monkeypatch):
    """Whatever happens within a tile, the mode from before comes back."""
    model = network(training=True)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.head, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(model, picture(1, 9, 9))
    assert model.training


def test_tiles_may_be_left_early():
    """Between tiles the network is as it was: whoever takes one and leaves the others may train on."""
    model, image = network(training=True), picture(1, 30, 30)
    tiles = predict_tiles(model, image, tile_in=18)
    first = next(tiles)
    assert model.training
    whole_image = predict_proba(model, image, tile_in=18)  # in eval mode, as the tile was
    np.testing.assert_array_equal(first.proba, whole_image[first.rows, first.cols])


@pytest.mark.parametrize("average", ["none", "rotate7"])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tile_in": 17}, ShapeError, "tile_in 17 does not fit"),
        ({"tile_in": (18, 19)}, ShapeError, "tile_in 19 does not fit"),
        ({"normalization": Normalization("dataset", (1.0, 2.0), (1.0, 1.0))}, DataError, "1 channels, the training .* 2"),
    ],
)
def test_tiles_are_refused_before_the_first(average, options, error, text):
    """A bad argument is an error of the call, not of the loop that may come much later."""
    with pytest.raises(error, match=text):
        predict_tiles(network(), picture(0, 30, 30), average=average, **options)
    with pytest.raises(ConfigError, match="average 'mean' is none of"):
        predict_tiles(network(), picture(0, 30, 30), average="mean")
    with pytest.raises(ConfigError, match="max_mem of 3 MiB is too small"):
        predict_tiles(network(), picture(0, 30, 30), max_mem=3)


def test_a_tile_may_have_two_sides():
    """What `default_tile` gives is a `tile_in`: rows and columns, each of its own size."""
    model, image = network(), picture(3, 40, 90)
    sides = default_tile(model, image)
    assert sides[0] != sides[1]
    np.testing.assert_array_equal(predict(model, image, tile_in=sides), predict(model, image))
    assert max(tiles_fed(model, image, tile_in=(18, 30))) == (18, 30)  # the last ones of a row need less
    np.testing.assert_allclose(predict_proba(model, image, tile_in=(18, 30)), predict_proba(model, image), atol=1e-5)


def test_a_view_counts_as_what_it_is_a_view_of():
    """One page of a stack, or one channel of a colour image, keeps all of it in memory, which the budget knows."""
    model, stack = network(), np.zeros((9, 1100, 1100, 1), np.uint8)
    needed = []
    for image in (stack[3], stack[3].copy(), stack[3, 5:1000, ::2]):
        with pytest.raises(ConfigError) as caught:
            default_tile(model, image, 1)
        needed.append(int(re.search(r"result take (\d+) MiB", str(caught.value))[1]))
    assert needed[0] - needed[1] == pytest.approx(8 * 1100**2 / shapes.MIB, abs=1)
    assert needed[2] > needed[1]


# Tiles and progress --------------------------------------------------------------------------------------------------


@pytest.mark.slow  # that tiles make up the whole image is seen above
@given(st.sampled_from(PADDINGS), st.integers(1, 32), st.integers(1, 32), st.integers(5, 12), st.integers(1, 3))
def test_windows_partition_the_image(padding, height, width, more, classes):
    """The windows of the tiles cover every pixel once, each with probabilities of its own size that add up to 1."""
    model = network(padding=padding, classes=classes)
    count = np.zeros((height, width), int)
    for part in predict_tiles(model, picture(0, height, width), tile_in=smallest_tile(model.spec) + 2 * more):
        count[part.rows, part.cols] += 1
        assert part.proba.shape == (*count[part.rows, part.cols].shape, max(classes, 2))
        assert part.proba.dtype == np.float32
        assert (part.proba >= 0).all()
        np.testing.assert_allclose(part.proba.sum(-1), 1, atol=1e-6)
    assert (count == 1).all()


@pytest.mark.parametrize(("average", "turns"), [("none", 1), ("dihedral8", 1), ("rotate7", 7)])
def test_progress_counts_to_the_end(average, turns):
    """progress is called with (1, n), (2, n), ... (n, n); a rotated average counts the tiles of all rotations."""
    calls = []
    predict(network(), picture(0, 24, 24), tile_in=28, average=average, progress=lambda *call: calls.append(call))
    n = calls[0][1]
    if turns == 1:
        assert n == 4
        assert calls == [(done, n) for done in range(1, n + 1)]
    else:  # canvases of different sizes: how many tiles there will be is known turn by turn
        assert calls[-1][0] == calls[-1][1]
        assert len(calls) > 7 * 4
        assert all(0 < done / all_of <= 1 for done, all_of in calls)
        shares = [done / all_of for done, all_of in calls]
        assert shares == sorted(shares)


@pytest.mark.parametrize("classes", [1, 2, 3, 300])
def test_the_class_is_the_most_probable_one(classes):
    """predict is the argmax of predict_proba, uint8, or uint16 beyond 256 classes."""
    model, image = network(classes=classes), picture(5, 19, 27)
    proba, labels = predict_proba(model, image, tile_in=18), predict(model, image, tile_in=18)
    assert proba.shape[-1] == max(classes, 2)
    assert labels.dtype == (np.uint16 if classes == 300 else np.uint8)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, proba.argmax(-1))


def test_one_logit_is_two_columns():
    """A network with one logit a answers (1 - p, p) with p = sigmoid(a): background and foreground."""
    model, image = network(classes=1), picture(5, 16, 16)
    logit = model.forward(np.pad(image, 8, mode="reflect")[None, :, :, None])[0, :, :, 0]
    proba = predict_proba(model, image, PLAIN)
    np.testing.assert_allclose(proba[..., 1], 1 / (1 + np.exp(-logit.astype(np.float64)))[:16, :16], atol=1e-6)
    np.testing.assert_allclose(proba.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("choices", "tile", "text"),
    [
        ({}, 17, r"tile_in 17 does not fit a network of depth 1 with valid convolutions\. Nearest sizes that work: 18\."),
        ({"depth": 2}, 46, r"tile_in 46 does not fit a network of depth 2.*Nearest sizes that work: 44, 48\."),
        ({}, 101, r"tile_in 101 does not fit"),  # although the image needs no more than 46 of it
        ({}, 0, r"tile_in 0 does not fit"),
        ({"padding": "same"}, 4, r"a tile of 4 keeps nothing beside a halo of 10 pixels on both sides\. Use at least 22"),
    ],
)
def test_tiles_that_do_not_fit(choices, tile, text):
    """A tile that the network cannot take, or that keeps nothing, is refused with one that works."""
    with pytest.raises(ShapeError, match=text):
        predict(network(**choices), picture(0, 30, 30), tile_in=tile)


# Averages ------------------------------------------------------------------------------------------------------------

FLIPS = [(), (0,), (1,), (0, 1)]


def exact_sides(model, k):
    """An image side that the pooling grid fits without rest, so that mirroring maps the grid onto itself."""
    side = smallest_tile(model.spec) + k * 2**model.spec.depth
    return side - 2 * shapes.margin(model.spec)


def averaged(model, image, average):
    """Flip or transpose the whole image, predict, undo it; take the mean."""
    results = []
    for transpose in (False, True)[: 2 if average == "dihedral8" else 1]:
        for axes in FLIPS:
            view = np.flip(image, axes)
            view = view.swapaxes(0, 1) if transpose else view
            proba = predict_proba(model, view, PLAIN)
            results.append(np.flip(proba.swapaxes(0, 1) if transpose else proba, axes))
    return np.mean(results, axis=0)


@pytest.mark.parametrize("average", ["mirror4", "dihedral8"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("classes", [1, 3])
def test_averages_equal_flips_written_out(average, padding, classes):
    """mirror4 and dihedral8 equal: turn the whole image, predict, turn back, take the mean. In one tile and in many."""
    model = network(3, depth=2, padding=padding, classes=classes)
    image = picture(4, exact_sides(model, 3), exact_sides(model, 6))
    expected = averaged(model, image, average)
    for tile in (None, smallest_tile(model.spec) + 20):
        np.testing.assert_allclose(predict_proba(model, image, PLAIN, average=average, tile_in=tile), expected, atol=2e-6)
    assert np.abs(predict_proba(model, image, PLAIN) - expected).max() > 1e-2  # the mean is something else than one of them


def check_equivariance(average, transforms):
    """Assert that turning the image turns the averaged result, to the last digits of float64."""
    model = network(6, depth=2, padding="valid").astype("float64")
    image = picture(7, exact_sides(model, 6), exact_sides(model, 3))
    proba = predict_proba(model, image, average=average, tile_in=smallest_tile(model.spec) + 8)
    for turn in transforms:
        turned = predict_proba(model, turn(image), average=average, tile_in=smallest_tile(model.spec) + 8)
        np.testing.assert_allclose(turned, turn(proba), rtol=0, atol=1e-13)


MIRRORS = [lambda a, axes=axes: np.flip(a, axes) for axes in FLIPS]
TURNS = [*MIRRORS, *(lambda a, axes=axes: np.flip(a, axes).swapaxes(0, 1) for axes in FLIPS)]


@pytest.mark.parametrize(("average", "transforms"), [pytest.param("mirror4", MIRRORS, marks=pytest.mark.slow),
                                                     ("dihedral8", TURNS)])  # fmt: skip
def test_averages_are_equivariant(average, transforms):
    """The average over all flips of a flipped image is the flipped average; a single prediction is not so."""
    check_equivariance(average, transforms)
    with pytest.raises(AssertionError):
        check_equivariance("none", transforms)


def test_turning_back_is_checked(monkeypatch):
    """Planted: without turning the probabilities back, the average is not equivariant and not that of flips written out."""
    real = inference._forward

    def not_undone(model, x, view):
        rows, cols, _ = view
        return real(model, np.flip(x, [axis for axis, flip in ((1, rows), (2, cols)) if flip]), (False, False, False))

    monkeypatch.setattr(inference, "_forward", not_undone)
    model = network(3, depth=2)
    image = picture(4, exact_sides(model, 5), exact_sides(model, 9))
    assert np.abs(predict_proba(model, image, PLAIN, average="mirror4") - averaged(model, image, "mirror4")).max() > 1e-2


def test_an_unknown_average():
    """The text names all that there is."""
    with pytest.raises(ConfigError, match=r"average 'mirror8' is none of none, mirror4, dihedral8, rotate7\."):
        predict(network(), picture(0, 9, 9), average="mirror8")


def pointwise():
    """A network that answers each pixel by its own grey value: p = sigmoid(x), the same at every phase of the grid."""
    model = UNet(UNetSpec(base=2, depth=1, classes=1))
    for array in model.params().values():
        array[...] = 0
    params = model.params()
    for name in ("down.0.conv1", "down.0.conv2", "up.0.conv2"):
        params[f"{name}.w"][1, 1, 0, 0] = 1
    params["up.0.conv1.w"][1, 1, 2, 0] = 1  # channels 0 and 1 come from below, 2 is the skip
    params["head.w"][0, 0, 0, 0] = 1
    params["down.0.conv1.b"][0] = 10  # keeps the values above 0, through every ReLU
    params["head.b"][0] = -10
    return model.eval()


@pytest.mark.parametrize("shape", [(31, 47), (40, 40), (24, 9)])
def test_rotations_are_turned_back(shape):
    """Where the answer depends on the pixel alone, rotating there and back changes a smooth image only by interpolation."""
    i, j = np.mgrid[: shape[0], : shape[1]]
    image = (2 * np.sin(i / 9 + 1) * np.cos(j / 7) + j / 40).astype(np.float32)
    plain, rotated = (predict_proba(pointwise(), image, PLAIN, average=a) for a in ("none", "rotate7"))
    np.testing.assert_allclose(plain[..., 1], 1 / (1 + np.exp(-image)), atol=1e-5)
    assert rotated.shape == plain.shape
    assert np.abs(rotated - plain).max() < 0.02
    mirrored = predict_proba(pointwise(), image.T[::-1, ::-1].T, PLAIN)
    assert np.abs(mirrored - plain).max() > 0.3  # a half turn that is not undone is far away


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (17, 23)])
def test_rotating_a_constant_image_changes_nothing(shape):
    """A constant image looks the same from every side; with no phase of the grid preferred, so does the answer."""
    model = network(4, classes=3)
    model.params()["up.0.upconv.w"][...] = model.params()["up.0.upconv.w"].mean(axis=(0, 1))  # all four taps alike
    image = np.full(shape, 0.7, np.float32)
    plain = predict_proba(model, image, PLAIN)
    rotated = predict_proba(model, image, PLAIN, average="rotate7")
    np.testing.assert_allclose(rotated, plain, atol=1e-5)
    np.testing.assert_allclose(rotated.sum(-1), 1, atol=1e-5)
    assert predict(model, image, PLAIN, average="rotate7").shape == shape
    model.astype("float64")  # and all is done in float64
    rotated = predict_proba(model, image, PLAIN, average="rotate7")
    np.testing.assert_allclose(rotated, predict_proba(model, image, PLAIN), rtol=0, atol=1e-13)


# Memory --------------------------------------------------------------------------------------------------------------


def tiles_fed(model, image, **options):
    """Heights and widths of what the network was given."""
    sizes = []
    forward = model.forward

    def watched(x):
        sizes.append(x.shape[1:3])
        return forward(x)

    model.forward = watched
    predict(model, image, **options)
    del model.forward
    return sizes


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_tile_fits_the_budget(padding):
    """More memory, larger tiles, up to the whole image in one; never a tile whose pass takes more than is left."""
    model, image = network(padding=padding, depth=2, base=4), picture(0, 200, 300, dtype=np.uint8)
    largest = [max(tiles_fed(model, image, max_mem=160 + mib)) for mib in (7, 9, 13, 100)]
    assert largest == sorted(largest)
    assert len(set(largest)) > 2
    for mib, tile in zip((7, 9, 13, 100), largest, strict=True):
        assert shapes.forward_bytes(model.spec, *tile) + BASELINE + image.nbytes <= (160 + mib) * shapes.MIB
    assert tiles_fed(model, image, max_mem=1000) == [(240, 340) if padding == "valid" else (200, 300)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(20, 500), (500, 20)])
def test_no_more_is_computed_than_the_image_needs(padding, shape):
    """Tiles of a long image are as narrow as the image, and its last one ends with it: a third more pixels at the most."""
    model = network(padding=padding)
    extra = 2 * shapes.margin(model.spec)
    for options in ({}, {"tile_in": 116}, {"tile_in": 500}, {"max_mem": 168}):
        fed = sum(height * width for height, width in tiles_fed(model, np.zeros(shape), **options))
        across, along = sorted(n + extra for n in shape)
        assert across * along <= fed <= 1.4 * across * along


@pytest.mark.parametrize("average", ["none", "dihedral8"])
def test_what_is_not_computed_is_not_missed(monkeypatch, average):
    """Narrow tiles give what square ones give, to the last digits of float64; also turned, and where no side suits the grid."""
    model, image = network(3, depth=2).astype("float64"), picture(4, 37, 210)
    options = {"tile_in": smallest_tile(model.spec) + 60, "average": average}
    narrow = predict_proba(model, image, **options)
    monkeypatch.setattr(inference, "_spans", shapes.tile_spans)
    assert set(tiles_fed(model, image, **options)) == {(options["tile_in"], options["tile_in"])}
    np.testing.assert_allclose(narrow, predict_proba(model, image, **options), rtol=0, atol=1e-13)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_tile_is_no_larger_than_its_number_asks_for(padding):
    """Two tiles a side of 1064 px do what two of 1400 px do, in half the time: the smallest that needs no more is taken."""
    model = UNet(UNetSpec(base=2, depth=2, padding=padding))
    image = np.zeros((2000, 1500, 1), np.uint8)
    for max_mem in (175, 220, 280):
        for n, side in zip(image.shape, default_tile(model, image, max_mem), strict=False):
            assert len(shapes.tile_spans(model.spec, n, side - 4)) > len(shapes.tile_spans(model.spec, n, side))


@pytest.fixture(autouse=True)
def one_thread():
    """Budgets of this file are for one thread; each further one has a workspace of its own."""
    with parallel.threads(1):
        yield


@pytest.fixture
def tight(monkeypatch):
    """The budget's share for a convolution's workspace without its reserve, which would hide a few bytes a pixel."""
    monkeypatch.setattr(shapes, "workspace_bytes", lambda spec, threads=1: 5 * shapes.MIB)
    shapes.forward_bytes.cache_clear()
    yield
    shapes.forward_bytes.cache_clear()


def test_what_is_reserved_is_left_alone():
    """Bytes that the caller needs come out of the budget, and into the advice."""
    model, image = network(), np.zeros((900, 900, 1), np.uint8)
    free, less = (default_tile(model, image, 190, reserved) for reserved in (0, 20 * shapes.MIB))
    assert max(less) < max(free)
    needed = []
    for reserved in (0, 100 * shapes.MIB):
        with pytest.raises(ConfigError) as caught:
            predict(model, image, max_mem=1, reserved=reserved)
        needed.append(int(re.search(r"give at least (\d+) MiB", str(caught.value))[1]))
    assert needed[1] == needed[0] + 100


@pytest.mark.parametrize("mode", ["image", "percentile"])
def test_statistics_and_objects_are_in_the_budget(tight, mode):
    """Normalisation before the tiles and objects after them keep to max_mem as well: 8 more bytes a pixel would not."""
    model, image = network(), picture(1, 1500, 1600, dtype=np.float32)
    reserved, max_mem = image.size * INSTANCE_BYTES, 160 + 5 + 50
    predict(model, image[:9, :9], Normalization(mode), average="none")
    tracemalloc.start()
    try:
        instances_of(predict(model, image, Normalization(mode), max_mem=max_mem, reserved=reserved), 4)
        assert tracemalloc.get_traced_memory()[1] <= max_mem * shapes.MIB - BASELINE - image.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("max_mem", [float("nan"), -1.0, 0.0])
def test_budgets_that_are_none(max_mem):
    """They are too small, as any other that is too small."""
    with pytest.raises(ConfigError, match=rf"max_mem of {max_mem:g} MiB is too small"):
        predict(network(), picture(0, 9, 9), max_mem=max_mem)


def peak_beyond_budget(choices, average, function):
    """Bytes by which all that prediction allocates exceeds max_mem less process and image; negative if it keeps to it."""
    model = network(**choices)
    image = picture(1, 480, 500, model.spec.channels, dtype=np.uint8)
    room = {"none": 9, "rotate7": 14}.get(average, 6)  # in MiB; 9 is enough for the maps of the whole image in one tile
    max_mem = 160 + 5 + room
    function(model, image[:9, :9], average=average)  # what is imported the first time belongs to the process
    tracemalloc.start()
    try:
        function(model, image, average=average, max_mem=max_mem)
        return tracemalloc.get_traced_memory()[1] - (max_mem * shapes.MIB - BASELINE - image.nbytes)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("choices", "average", "function"),
    [
        ({}, "none", predict),
        ({}, "none", predict_proba),
        ({"classes": 5}, "none", predict),
        ({"classes": 5}, "mirror4", predict),
        ({"classes": 1, "padding": "same", "norm": "batch"}, "dihedral8", predict),
        pytest.param({"classes": 5}, "dihedral8", predict, marks=pytest.mark.slow),
        pytest.param({"channels": 3, "base": 4, "depth": 2}, "dihedral8", predict_proba, marks=pytest.mark.slow),
        pytest.param({}, "rotate7", predict_proba, marks=pytest.mark.slow),
    ],
)
def test_memory_stays_within_the_budget(tight, choices, average, function):
    """All that prediction allocates at its peak is within max_mem, also where softmax and averages outweigh a tiny network."""
    assert peak_beyond_budget(choices, average, function) <= 0


def test_the_network_is_not_all_that_counts(tight, monkeypatch):
    """Planted: with tiles chosen by the network's maps alone, the softmax of many classes exceeds the budget."""
    monkeypatch.setattr(inference, "_sides_for_budget", lambda model, image, max_mem, reserved: (516, 516))
    assert peak_beyond_budget({"classes": 5}, "mirror4", predict) > 0


def test_a_budget_that_is_too_small():
    """The text names the budget and what is taken before any tile; the remedy it gives works, and 1 MiB less does not."""
    model, image = network(), picture(0, 50, 50)
    for mem in (20, 163):
        with pytest.raises(ConfigError, match=rf"max_mem of {mem} MiB is too small\. .*result take 160 MiB, the ") as caught:
            predict(model, image, max_mem=mem)
        assert "-" not in str(caught.value)  # nor is any number negative
        least = int(re.search(r"give at least (\d+) MiB", str(caught.value))[1])
    assert predict(model, image, max_mem=least).shape == (50, 50)
    assert min(default_tile(model, image, least)) >= 18
    with pytest.raises(ConfigError, match=f"at least {least} MiB"):
        predict(model, image, max_mem=least - 1)


# Objects and real images ---------------------------------------------------------------------------------------------


def test_objects_of_a_segmentation():
    """Pixels that share an edge are one object, whatever their class; small objects go, and the rest is numbered anew."""
    labels = np.array([[1, 2, 0, 0, 3], [0, 0, 1, 0, 3], [0, 0, 0, 0, 3]], np.uint8)
    assert instances_of(labels).tolist() == [[1, 1, 0, 0, 2], [0, 0, 3, 0, 2], [0, 0, 0, 0, 2]]
    assert instances_of(labels, min_size=3).tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]


def test_a_real_image(real_data):
    """A network with random weights segments a real image: as large as the image, whole probabilities."""
    archive = real_data / "dsb2018" / "tiny32_256.npz"
    if not archive.is_file():
        pytest.skip(f"there is no {archive.name} among the real images")
    with np.load(archive) as content:
        image = content["images"][0]
    grey = image if image.ndim == 2 else image[..., 0]
    model = network(depth=2)
    proba = predict_proba(model, grey, tile_in=60)
    assert proba.shape == (*grey.shape, 2)
    np.testing.assert_allclose(proba.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(predict(model, grey, tile_in=60), proba.argmax(-1))
