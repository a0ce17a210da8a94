"""What every op promises besides its formula: pure, fresh contiguous results, any dtype and layout, no hidden NaN."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from tinyunet import ops, parallel
from tinyunet.errors import DTypeError, ShapeError
from tinyunet.ops.contract import add_bias, channel_sum, keep


class Case(NamedTuple):
    """One op: arguments with random values for n images, and the pair as functions of them."""

    name: str
    arguments: Callable  # (rng, n) -> dict of float64 arrays
    forward: Callable  # (*arguments) -> y, ctx
    backward: Callable  # (dy, ctx) -> gradients
    mapped: tuple[str, ...] = ("x",)  # arguments with a batch axis
    mixes: bool = False  # whether images of a batch influence one another


def images(**shapes):
    """Arguments drawn as random normal numbers; an `n` in a shape stands for the number of images."""
    return lambda rng, n: {name: rng.standard_normal([n if s == "n" else s for s in shape]) for name, shape in shapes.items()}


def eval_arguments(rng, n):
    """Parameters and running statistics, with a positive variance."""
    statistics = {"mean": rng.standard_normal(3), "var": rng.uniform(0.5, 2, 3)}
    return NORM(rng, n) | statistics


def labels_for(logits, classes):
    """Labels that are a fixed function of the place, so that they need no argument."""
    return (np.arange(logits[..., 0].size).reshape(logits.shape[:-1]) % (classes + 1) - 1).astype(np.int32)  # with IGNORE = -1


def weights_for(logits):
    """Weights that differ from pixel to pixel."""
    return np.linspace(0.5, 2, logits[..., 0].size).reshape(logits.shape[:-1])


def softmax_loss(x):
    """Softmax cross-entropy as a pair that takes one array."""
    return ops.softmax_cross_entropy_forward(x, labels_for(x, x.shape[-1]), weights_for(x))


def sigmoid_loss(x):
    """Sigmoid cross-entropy as a pair that takes one array."""
    return ops.sigmoid_cross_entropy_forward(x, labels_for(x, 2), weights_for(x))


CONV = images(x=("n", 6, 5, 3), w=(3, 3, 3, 4), b=(4,))
NORM = images(x=("n", 4, 6, 3), gamma=(3,), beta=(3,))
CASES = [
    Case("conv valid", CONV, ops.conv2d_forward, ops.conv2d_backward),
    Case("conv same", CONV, lambda x, w, b: ops.conv2d_forward(x, w, b, "same"), ops.conv2d_backward),
    Case("conv more in than out", images(x=("n", 5, 5, 4), w=(3, 3, 4, 2), b=(2,)), ops.conv2d_forward, ops.conv2d_backward),
    Case("conv 1x1", images(x=("n", 3, 5, 3), w=(1, 1, 3, 2), b=(2,)), ops.conv2d_forward, ops.conv2d_backward),
    Case("upconv", images(x=("n", 3, 4, 3), w=(2, 2, 2, 3), b=(2,)), ops.upconv_forward, ops.upconv_backward),
    Case("max_pool", images(x=("n", 6, 4, 3)), ops.max_pool_forward, ops.max_pool_backward),
    Case("relu", images(x=("n", 5, 4, 3)), ops.relu_forward, ops.relu_backward),
    Case("batch_norm", NORM, ops.batch_norm_forward, ops.batch_norm_backward, mixes=True),
    Case("batch_norm eval", eval_arguments, ops.batch_norm_eval_forward, ops.batch_norm_eval_backward),
    Case(
        "dropout",
        images(x=("n", 5, 4, 3)),
        lambda x: ops.dropout_forward(x, 0.4, np.random.default_rng(3)),
        ops.dropout_backward,
    ),
    Case(
        "crop_concat",
        images(up=("n", 3, 4, 2), skip=("n", 6, 7, 3)),
        ops.crop_concat_forward,
        ops.crop_concat_backward,
        mapped=("up", "skip"),
    ),
    Case("mirror_pad", images(x=("n", 4, 5, 2)), lambda x: ops.mirror_pad_forward(x, 2, 5, 0, 3), ops.mirror_pad_backward),
    Case(
        "softmax loss",
        images(x=("n", 3, 4, 3)),
        softmax_loss,
        lambda dy, ctx: ops.softmax_cross_entropy_backward(ctx),
        mixes=True,
    ),
    Case(
        "sigmoid loss",
        images(x=("n", 3, 4, 1)),
        sigmoid_loss,
        lambda dy, ctx: ops.sigmoid_cross_entropy_backward(ctx),
        mixes=True,
    ),
]
LOSSES = ("softmax loss", "sigmoid loss")
MAPS = [c for c in CASES if c.name not in LOSSES]
NORMAL = [c for c in MAPS if not c.mixes]

WHO = {"conv": "conv2d", "softmax": "softmax_cross_entropy", "sigmoid": "sigmoid_cross_entropy"}


def who(case):
    """The name that an op's errors begin with."""
    first = case.name.split()[0]
    return WHO.get(first, first)


every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
every_map = pytest.mark.parametrize("case", MAPS, ids=lambda c: c.name)
every_per_image = pytest.mark.parametrize("case", NORMAL, ids=lambda c: c.name)


def as_tuple(gradients):
    """One gradient or several, as a tuple."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def run(case, arguments, rng):
    """Forward, a random dy, and backward; -> y, dy, ctx, gradients."""
    y, ctx = case.forward(*arguments.values())
    dy = rng.standard_normal(np.shape(y)).astype(np.asarray(y).dtype)
    return y, dy, ctx, as_tuple(case.backward(dy, ctx))


def arrays_of(ctx):
    """Arrays that a context holds."""
    return [value for value in ctx if isinstance(value, np.ndarray)]


# Pure ---------------------------------------------------------------------------------------------------------------


@every
def test_arguments_are_not_written(case, rng):
    """Neither half writes to what it is given: read-only arrays go through both and keep their values."""
    arguments = case.arguments(rng, 2)
    before = {name: value.copy() for name, value in arguments.items()}
    for value in arguments.values():
        value.flags.writeable = False
    y, ctx = case.forward(*arguments.values())
    dy = rng.standard_normal(np.shape(y))
    dy_before = dy.copy()
    if isinstance(dy, np.ndarray):
        dy.flags.writeable = False
    for held in arrays_of(ctx):
        held.flags.writeable = False
    case.backward(dy, ctx)
    np.testing.assert_array_equal(dy, dy_before)
    for name, value in arguments.items():
        np.testing.assert_array_equal(value, before[name])


@every
def test_results_are_fresh_and_contiguous(case, rng):
    """Every result is C-contiguous and writable, and shares no memory with an argument, dy, the context or another result."""
    arguments = case.arguments(rng, 2)
    y, dy, ctx, gradients = run(case, arguments, rng)
    results = [r for r in (y, *gradients) if isinstance(r, np.ndarray)]
    held = [*arguments.values(), dy, *arrays_of(ctx)]
    for i, result in enumerate(results):
        assert result.flags.c_contiguous
        assert result.flags.writeable
        for other in (*held, *results[i + 1 :]):
            assert not np.shares_memory(result, other)


@every
def test_backward_can_be_repeated(case, rng):
    """Backward with the same dy and context gives the same bits again, also after its results were overwritten."""
    _, dy, ctx, first = run(case, case.arguments(rng, 2), rng)
    kept = [g.copy() for g in first]
    for g in first:
        g[...] = np.nan
    for again, before in zip(as_tuple(case.backward(dy, ctx)), kept, strict=True):
        np.testing.assert_array_equal(again, before)


@every
def test_forward_can_be_repeated(case, rng):
    """Forward of the same arguments gives the same bits."""
    arguments = case.arguments(rng, 2)
    np.testing.assert_array_equal(case.forward(*arguments.values())[0], case.forward(*arguments.values())[0])


# Dtype and layout ---------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_dtype_survives(case, dtype, rng):
    """float32, float64 and complex128 come out as they went in, in both directions."""
    arguments = {name: value.astype(dtype) for name, value in case.arguments(rng, 2).items()}
    y, _, _, gradients = run(case, arguments, rng)
    if case.name not in LOSSES:
        assert y.dtype == dtype
    assert [g.dtype for g in gradients] == [dtype] * len(gradients)


@every
def test_float32_is_float64_rounded(case, rng):
    """In float32 the results are those of float64 to six digits."""
    arguments = case.arguments(rng, 2)
    y, dy, _, gradients = run(case, arguments, rng)
    y32, ctx32 = case.forward(*(value.astype(np.float32) for value in arguments.values()))
    single = as_tuple(case.backward(np.asarray(dy, np.float32), ctx32))
    for a, b in zip((y32, *single), (y, *gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: np.flip(np.flip(a).copy()),
    "every second value": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "channels first in memory": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
}


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("conv valid", "conv same", "upconv")], ids=lambda c: c.name)
def test_an_axis_made_by_none(case, rng):
    """image[None, :, :, None] has strides of 0 along its axes of length 1, and counts as contiguous; the result is the same."""
    image = rng.standard_normal((5, 6))
    arguments = case.arguments(rng, 1)
    w = arguments["w"][..., :1] if case.name == "upconv" else arguments["w"][:, :, :1]
    y, _ = case.forward(image[None, :, :, None], w, arguments["b"])
    np.testing.assert_array_equal(y, case.forward(image.reshape(1, 5, 6, 1).copy(), w, arguments["b"])[0])


@every
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(case, layout, rng):
    """How arrays lie in memory changes neither values nor the contiguity of results."""
    arguments = case.arguments(rng, 2)
    y, dy, _, gradients = run(case, arguments, rng)
    change = LAYOUTS[layout]
    strided, ctx = case.forward(*map(change, arguments.values()))
    results = (strided, *as_tuple(case.backward(change(dy) if np.ndim(dy) else dy, ctx)))
    for got, wanted in zip(results, (y, *gradients), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        assert np.asarray(got).flags.c_contiguous


@every_map
def test_broadcast_arrays(case, rng):
    """Arrays with stride 0, as np.broadcast_to makes them, work as x and as dy."""
    arguments = case.arguments(rng, 2)
    for name in case.mapped:
        arguments[name] = np.broadcast_to(rng.standard_normal(arguments[name].shape[2:]), arguments[name].shape)
    y, ctx = case.forward(*arguments.values())
    full, full_ctx = case.forward(*(np.ascontiguousarray(value) for value in arguments.values()))
    dy = np.broadcast_to(rng.standard_normal(y.shape[3:]), y.shape)
    gradients, full_gradients = as_tuple(case.backward(dy, ctx)), as_tuple(case.backward(np.ascontiguousarray(dy), full_ctx))
    for got, wanted in zip((y, *gradients), (full, *full_gradients), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        assert got.flags.c_contiguous


@pytest.fixture
def array_module_of_arrays(monkeypatch):
    """From here on no op may ask for the array module of anything but arrays; NumPy is the answer to everything without a GPU."""

    def array_module(*arrays):
        assert arrays
        assert all(isinstance(a, np.ndarray) for a in arrays)
        return np

    for op in vars(ops).values():
        if isinstance(op, ModuleType) and hasattr(op, "array_module"):
            monkeypatch.setattr(op, "array_module", array_module)


@every
@pytest.mark.usefixtures("array_module_of_arrays")
def test_the_array_module_is_that_of_the_arrays(case, rng):
    """Whether NumPy or CuPy computes is decided by the arrays at hand, in both directions."""
    run(case, case.arguments(rng, 2), rng)


@pytest.mark.parametrize("probabilities", [ops.softmax, ops.sigmoid])
@pytest.mark.usefixtures("array_module_of_arrays")
def test_the_array_module_of_probabilities(probabilities, rng):
    """So it is for softmax and sigmoid by themselves."""
    assert probabilities(rng.standard_normal((2, 3, 4, 2))).shape == (2, 3, 4, 2)


# Batches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in NORMAL if c.name != "dropout"], ids=lambda c: c.name)  # its draw serves the batch
@pytest.mark.parametrize("n", [1, 3])
def test_images_of_a_batch_are_independent(case, n, rng):
    """A batch gives what its images give one by one; gradients of parameters are the sum over images."""
    arguments = case.arguments(rng, n)
    y, dy, _, gradients = run(case, arguments, rng)
    parts, part_gradients = [], []
    for i in range(n):
        one = {name: value[i : i + 1] if name in case.mapped else value for name, value in arguments.items()}
        part, ctx = case.forward(*one.values())
        parts.append(part)
        part_gradients.append(as_tuple(case.backward(dy[i : i + 1], ctx)))
    np.testing.assert_allclose(y, np.concatenate(parts), rtol=1e-12, atol=1e-12)
    for k, got in enumerate(gradients):
        pieces = [g[k] for g in part_gradients]
        wanted = np.concatenate(pieces) if k < len(case.mapped) else np.sum(pieces, axis=0)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@every_per_image
def test_empty_batch(case, rng):
    """No image in, no image out; and the gradients of parameters are zero."""
    y, _, _, gradients = run(case, case.arguments(rng, 0), rng)
    assert y.shape[0] == 0
    for k, g in enumerate(gradients):
        assert g.shape[0] == 0 if k < len(case.mapped) else not g.any()


# NaN ----------------------------------------------------------------------------------------------------------------


@every
def test_a_nan_in_the_image_shows_in_the_output(case, rng):
    """An image of NaN gives NaN, and does not spoil the other images of its batch."""
    for name in case.mapped:
        arguments = case.arguments(rng, 2)
        arguments[name][1] = np.nan
        y, _ = case.forward(*arguments.values())
        if case.mixes:
            assert np.isnan(y).any()
        else:
            assert np.isnan(y[1]).any()
            assert not np.isnan(y[0]).any()


@every_map
def test_a_nan_in_the_gradient_shows_in_the_gradient(case, rng):
    """A dy of NaN gives NaN in every gradient."""
    y, ctx = case.forward(*case.arguments(rng, 2).values())
    for gradient in as_tuple(case.backward(np.full(y.shape, np.nan), ctx)):
        assert np.isnan(gradient).any()


@every_map
def test_a_nan_in_a_parameter_shows_in_the_output(case, rng):
    """A NaN in any parameter reaches the output."""
    names = [name for name in case.arguments(rng, 2) if name not in case.mapped]
    for name in names:
        arguments = case.arguments(rng, 2)
        arguments[name].flat[-1] = np.nan
        assert np.isnan(case.forward(*arguments.values())[0]).any()


# Errors -------------------------------------------------------------------------------------------------------------

SHAPED = [c for c in CASES if c.name not in ("relu", "dropout")]  # those take arrays of any rank


@pytest.mark.parametrize("case", SHAPED, ids=lambda c: c.name)
def test_an_array_that_is_no_batch_of_images(case, rng):
    """An array without a batch axis is refused with a way to make one of it."""
    for name in case.mapped:
        arguments = case.arguments(rng, 2)
        arguments[name] = arguments[name][0]
        text = rf"^{who(case)}: got an array of .*expected \(N, H, W, C\).*\. A single .*image\[None, :, :, None\]\.$"
        with pytest.raises(ShapeError, match=text):
            case.forward(*arguments.values())


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@every_map
def test_an_unsupported_dtype(case, dtype, rng):
    """Bytes of an image file and half precision are refused by name, with the conversion to use."""
    for name in case.mapped:
        arguments = case.arguments(rng, 2)
        arguments[name] = arguments[name].astype(dtype)
        text = rf"^{who(case)}: got dtype {dtype}, expected one of float32, float64, complex128\. Convert with x\.astype"
        with pytest.raises(DTypeError, match=text):
            case.forward(*arguments.values())


@every_map
def test_a_gradient_of_another_shape(case, rng):
    """Backward refuses a dy that has not the shape of y, and names both."""
    y, ctx = case.forward(*case.arguments(rng, 2).values())
    taller = (y.shape[0], y.shape[1] + 2, *y.shape[2:])
    with pytest.raises(ShapeError) as error:
        case.backward(np.zeros(taller), ctx)
    assert f"{who(case)}: dy has shape {taller}, but the output of forward had {y.shape}." in str(error.value)


@pytest.mark.parametrize(("of_x", "of_dy"), [("float32", "float64"), ("float64", "float32")])
@every_map
def test_a_gradient_of_another_dtype(case, of_x, of_dy, rng):
    """Backward refuses a dy of another dtype than y's, which would silently make gradients of another, and names both."""
    y, ctx = case.forward(*(value.astype(of_x) for value in case.arguments(rng, 2).values()))
    text = rf"^{who(case)}: dy is {of_dy}, but the output of forward was {of_x}\. Convert with dy\.astype\('{of_x}'\)"
    with pytest.raises(DTypeError, match=text):
        case.backward(np.zeros(y.shape, of_dy), ctx)


# Helpers that ops share -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strip_bytes", [200, 2**19])
def test_channel_sum_and_bias(strip_bytes, rng, monkeypatch):
    """The sum over images and pixels, also of a product, and the bias of each channel, in strips and in one go."""
    monkeypatch.setattr(parallel, "STRIP_BYTES", strip_bytes)
    a, b, c = rng.standard_normal((2, 7, 5, 3)), rng.standard_normal((2, 7, 5, 3)), rng.standard_normal(3)
    np.testing.assert_allclose(channel_sum(a), a.sum(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(channel_sum(a, b), (a * b).sum(axis=(0, 1, 2)), rtol=1e-12)
    wanted = a + c
    add_bias(a, c)
    np.testing.assert_array_equal(a, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_what_is_not_kept_is_zero(dtype):
    """Nothing of a value that is masked out comes through, no NaN and no sign; what is kept is kept to the bit."""
    values = np.array([np.nan, np.inf, -np.inf, -1.0, -0.0, 5e-324, 2.5], dtype)
    mask = np.array([True, False] * 7)
    twice = values.repeat(2)
    out = np.full((2, 14), 7, dtype)
    keep(twice, mask, out=out[0])
    for found in (keep(twice, mask), out[0], keep(twice[::-1], mask[::-1])[::-1]):
        assert found[mask].tobytes() == values.tobytes()
        assert found[~mask].tobytes() == np.zeros(7, dtype).tobytes()
        assert found.dtype == dtype
    assert (out[1] == 7).all()


def test_what_does_not_pass_is_zero_also_where_it_is_infinite():
    """A gradient that is infinite or NaN goes no further where ReLU, pooling and dropout let nothing through."""
    for bad in (np.inf, np.nan):
        _, positive = ops.relu_forward(np.array([-1.0, 1.0]))
        np.testing.assert_array_equal(ops.relu_backward(np.array([bad, 2.0]), positive), [0, 2])
        _, winner = ops.max_pool_forward(np.arange(4.0).reshape(1, 2, 2, 1))
        np.testing.assert_array_equal(ops.max_pool_backward(np.full((1, 1, 1, 1), bad), winner).ravel(), [0, 0, 0, bad])
        y, dropped = ops.dropout_forward(np.full(50, bad), 0.5, np.random.default_rng(0))
        for found in (y, ops.dropout_backward(np.full(50, bad), dropped)):
            np.testing.assert_array_equal(found, np.where(dropped.kept, bad, 0))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_strips_change_no_byte(case, rng, monkeypatch):
    """Every op gives the same in strips of a few rows as in one go, forward and backward; sums may round otherwise."""
    arguments = case.arguments(rng, 3)
    results = []
    for strip_bytes in (2**30, 256):
        monkeypatch.setattr(parallel, "STRIP_BYTES", strip_bytes)
        if "rng" in arguments:
            arguments["rng"] = np.random.default_rng(0)
        y, ctx = case.forward(*arguments.values())
        dx = case.backward(np.cos(y), ctx)
        results.append((y, *(dx if isinstance(dx, tuple) else (dx,))))
    for whole, strips in zip(*results, strict=True):
        np.testing.assert_allclose(strips, whole, rtol=1e-12, atol=1e-12)
