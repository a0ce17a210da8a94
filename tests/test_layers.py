"""Layers: parameters, gradients that add up, one remembered context, hooks, and the two modes."""

import weakref

import numpy as np
import pytest

from tinyunet import ops
from tinyunet.errors import OrderError
from tinyunet.layers import BatchNorm, Conv, CropConcat, Dropout, MaxPool, ReLU, UpConv

UNARY = {
    "conv": lambda rng: Conv("c", 3, 4, 3, "valid", rng),
    "conv same": lambda rng: Conv("c", 3, 4, 3, "same", rng),
    "conv 1x1": lambda rng: Conv("c", 3, 2, 1, "valid", rng),
    "upconv": lambda rng: UpConv("u", 3, 2, rng),
    "pool": lambda rng: MaxPool("p"),
    "relu": lambda rng: ReLU("r"),
    "norm": lambda rng: BatchNorm("n", 3),
    "dropout": lambda rng: Dropout("d", 0.5, np.random.default_rng(1)),
}
every_unary = pytest.mark.parametrize("kind", UNARY)


def close(got, wanted):
    """Equal up to rounding in float32."""
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture
def x(rng):
    """Two images of 6 x 4 pixels and 3 channels, float32."""
    return rng.standard_normal((2, 6, 4, 3)).astype(np.float32)


# What a layer owns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("conv", {"w": (3, 3, 3, 4), "b": (4,)}),
        ("conv 1x1", {"w": (1, 1, 3, 2), "b": (2,)}),
        ("upconv", {"w": (2, 2, 2, 3), "b": (2,)}),
        ("norm", {"gamma": (3,), "beta": (3,)}),
        ("relu", {}),
        ("pool", {}),
        ("dropout", {}),
    ],
)
def test_parameters_and_gradients(kind, shapes, rng):
    """Parameters have these names and shapes in float32; gradients have the same and start at zero."""
    layer = UNARY[kind](rng)
    assert {key: value.shape for key, value in layer.params.items()} == shapes
    assert {key: value.shape for key, value in layer.grads.items()} == shapes
    assert all(value.dtype == np.float32 for value in (*layer.params.values(), *layer.grads.values()))
    assert not any(value.any() for value in layer.grads.values())


@pytest.mark.parametrize(("kind", "fan_in"), [("conv", 27), ("conv 1x1", 3), ("upconv", 3)])
def test_weights_are_drawn_for_the_numbers_an_output_adds_up(kind, fan_in):
    """Weights are he_normal with 9 C, C and C; biases are zero; the generator decides."""
    layer, again = (UNARY[kind](np.random.default_rng(3)) for _ in range(2))
    wanted = np.random.default_rng(3).standard_normal(layer.params["w"].shape, dtype=np.float32) * np.sqrt(2 / fan_in)
    close(layer.params["w"], wanted)
    np.testing.assert_array_equal(layer.params["w"], again.params["w"])
    assert not layer.params["b"].any()


def test_repr(rng):
    """A layer shows its name and its parameters."""
    assert repr(UNARY["conv"](rng)) == "Conv('c', w (3, 3, 3, 4), b (4,))"
    assert repr(UNARY["relu"](rng)) == "ReLU('r')"


# A layer is its op --------------------------------------------------------------------------------------------------


def test_conv_is_its_op(x, rng):
    """Forward and backward are those of the op, with the layer's parameters and padding."""
    for padding in ("valid", "same"):
        layer = Conv("c", 3, 4, 3, padding, rng)
        layer.params["b"][...] = rng.standard_normal(4)
        y, ctx = ops.conv2d_forward(x, layer.params["w"], layer.params["b"], padding)
        np.testing.assert_array_equal(layer.forward(x), y)
        dx, dw, db = ops.conv2d_backward(y, ctx)
        np.testing.assert_array_equal(layer.backward(y), dx)
        np.testing.assert_array_equal(layer.grads["w"], dw)
        np.testing.assert_array_equal(layer.grads["b"], db)


def test_upconv_is_its_op(x, rng):
    """Forward and backward are those of the op, with the layer's parameters."""
    layer = UpConv("u", 3, 2, rng)
    layer.params["b"][...] = rng.standard_normal(2)
    y, ctx = ops.upconv_forward(x, layer.params["w"], layer.params["b"])
    np.testing.assert_array_equal(layer.forward(x), y)
    dx, dw, db = ops.upconv_backward(y, ctx)
    np.testing.assert_array_equal(layer.backward(y), dx)
    np.testing.assert_array_equal(layer.grads["w"], dw)
    np.testing.assert_array_equal(layer.grads["b"], db)


@pytest.mark.parametrize(
    ("layer", "forward", "backward"),
    [(MaxPool("p"), ops.max_pool_forward, ops.max_pool_backward), (ReLU("r"), ops.relu_forward, ops.relu_backward)],
)
def test_layers_without_parameters_are_their_ops(layer, forward, backward, x):
    """Pooling and ReLU hand on what their ops give."""
    y, ctx = forward(x)
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_array_equal(layer.backward(2 * y), backward(2 * y, ctx))


def test_crop_concat_is_its_op(x, rng):
    """Forward takes the up path and the skip, backward gives the gradients of both."""
    skip = rng.standard_normal((2, 8, 8, 5)).astype(np.float32)
    layer = CropConcat("cc")
    y, ctx = ops.crop_concat_forward(x, skip)
    np.testing.assert_array_equal(layer.forward(x, skip), y)
    for got, wanted in zip(layer.backward(y), ops.crop_concat_backward(y, ctx), strict=True):
        np.testing.assert_array_equal(got, wanted)


# Gradients add up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv", "conv 1x1", "upconv", "norm"])
def test_gradients_of_parameters_accumulate(kind, x, rng):
    """A second pass adds to the gradients of the first, in the same arrays."""
    layer = UNARY[kind](rng)
    dy = rng.standard_normal(layer.forward(x).shape).astype(np.float32)
    layer.backward(dy)
    arrays, once = dict(layer.grads), {key: value.copy() for key, value in layer.grads.items()}
    layer.forward(x)
    layer.backward(dy)
    for key, value in layer.grads.items():
        assert value is arrays[key]
        np.testing.assert_array_equal(value, 2 * once[key])


# Remembering --------------------------------------------------------------------------------------------------------


@every_unary
def test_backward_needs_a_forward(kind, x, rng):
    """Backward without forward, and a second backward, name the layer and the remedy."""
    layer = UNARY[kind](rng)
    message = rf"^{layer.name}\.backward: no forward pass came before it\. Call forward once for every backward"
    with pytest.raises(OrderError, match=message):
        layer.backward(x)
    layer.backward(layer.forward(x))
    with pytest.raises(OrderError, match=message):
        layer.backward(x)


@every_unary
def test_nothing_is_remembered_without_remembering(kind, x, rng):
    """With remembering off, no array of the forward pass is kept alive, and backward says why it cannot."""
    layer = UNARY[kind](rng)
    layer.remembering = False
    y = layer.forward(x)
    with pytest.raises(OrderError, match=r"the network is in eval mode, which remembers nothing\. .*eval\(remember=True\)"):
        layer.backward(y)


@every_unary
def test_a_context_is_freed_by_backward(kind, rng):
    """After backward the layer holds nothing of the forward pass: its input dies with the caller's last reference."""
    layer = UNARY[kind](rng)
    x = rng.standard_normal((2, 6, 4, 3)).astype(np.float32)
    layer.backward(layer.forward(x))
    watch = weakref.ref(x)
    del x
    assert watch() is None


def test_forget_frees_a_context(rng):
    """A context that no backward pass will use can be dropped."""
    layer, x = UNARY["conv"](rng), rng.standard_normal((2, 6, 4, 3)).astype(np.float32)
    layer.forward(x)
    watch = weakref.ref(x)
    del x
    assert watch() is not None
    layer.forget()
    assert watch() is None


# Hooks --------------------------------------------------------------------------------------------------------------


@every_unary
def test_hooks_see_the_output_and_its_gradient(kind, x, rng):
    """A hook is called with "forward" and y, then with "backward" and dy, in this order."""
    layer, seen = UNARY[kind](rng), []
    layer.hooks.append(lambda *call: seen.append(call))
    y = layer.forward(x)
    dy = np.ones_like(y)
    layer.backward(dy)
    assert [(who, event) for who, event, _ in seen] == [(layer, "forward"), (layer, "backward")]
    assert seen[0][2] is y
    assert seen[1][2] is dy


def test_hooks_work_without_remembering(x, rng):
    """What a layer makes can be looked at in eval mode too."""
    layer, seen = UNARY["relu"](rng), []
    layer.remembering = False
    layer.hooks.append(lambda layer, event, y: seen.append(event))
    layer.forward(x)
    assert seen == ["forward"]


# Batch norm ---------------------------------------------------------------------------------------------------------


def test_running_statistics_follow_the_batches(rng):
    """r <- (1 - momentum) r + momentum s from mean 0 and variance 1; the variance is the unbiased one."""
    layer = BatchNorm("n", 2, momentum=0.3)
    mean, var = np.zeros(2), np.ones(2)
    for _ in range(4):
        x = (rng.standard_normal((2, 2, 3, 2)) * [2, 0.5] + [1, -3]).astype(np.float32)
        layer.forward(x)
        mean = 0.7 * mean + 0.3 * x.mean(axis=(0, 1, 2), dtype=float)
        var = 0.7 * var + 0.3 * x.var(axis=(0, 1, 2), ddof=1, dtype=float)
    close(layer.buffers["mean"], mean)
    close(layer.buffers["var"], var)
    assert layer.buffers["mean"].dtype == layer.buffers["var"].dtype == np.float32


def test_the_usual_momentum_is_a_tenth(rng):
    """One batch moves the running mean by a tenth of the way."""
    layer, x = BatchNorm("n", 3), rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    layer.forward(x)
    close(layer.buffers["mean"], 0.1 * x.mean(axis=(0, 1, 2)))


def test_eval_uses_the_running_statistics_and_leaves_them(x):
    """In eval mode the output is that of the running mean and variance, and both stay as they are."""
    layer = BatchNorm("n", 3)
    layer.params["gamma"][...], layer.params["beta"][...] = [2, -1, 0.5], [1, 2, 3]
    layer.buffers["mean"][...], layer.buffers["var"][...] = [0.5, -0.5, 1], [2, 0.5, 1]
    layer.training = False
    before = {key: value.copy() for key, value in layer.buffers.items()}
    y = layer.forward(x)
    close(y, np.array([2, -1, 0.5]) * (x - [0.5, -0.5, 1]) / np.sqrt(np.array([2, 0.5, 1]) + 1e-5) + [1, 2, 3])
    for key, value in layer.buffers.items():
        np.testing.assert_array_equal(value, before[key])
    close(layer.backward(np.ones_like(y)), np.broadcast_to([2, -1, 0.5] / np.sqrt(np.array([2, 0.5, 1]) + 1e-5), x.shape))


def test_backward_belongs_to_the_forward_that_was_run(x, rng):
    """A switch of mode between forward and backward does not mix the two rules."""
    layer, other = BatchNorm("n", 3), BatchNorm("n", 3)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    layer.forward(x)
    layer.training = False
    other.forward(x)
    np.testing.assert_array_equal(layer.backward(dy), other.backward(dy))


# Dropout ------------------------------------------------------------------------------------------------------------


def test_dropout_drops_in_training_only(x):
    """In training it is the op with the layer's rate and generator; in eval it is the identity, in both directions."""
    layer = Dropout("d", 0.5, np.random.default_rng(1))
    np.testing.assert_array_equal(layer.forward(x), ops.dropout_forward(x, 0.5, np.random.default_rng(1))[0])
    layer.training, before = False, layer.rng.bit_generator.state
    np.testing.assert_array_equal(layer.forward(x), x)
    np.testing.assert_array_equal(layer.backward(2 * x), 2 * x)
    assert layer.rng.bit_generator.state == before  # nothing was drawn


def test_dropout_draws_anew_every_time(x):
    """Two forward passes drop different places; a generator set anew repeats the draw."""
    layer = Dropout("d", 0.5, np.random.default_rng(1))
    first, second = layer.forward(x), layer.forward(x)
    assert (first != second).any()
    layer.rng = np.random.default_rng(1)
    np.testing.assert_array_equal(layer.forward(x), first)
