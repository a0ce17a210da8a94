"""Weights through Keras: its layers with the arrays of `to_keras` are our network, and `from_keras` brings them back."""

import numpy as np
import parity_cases
import pytest

import tinyunet as tu

SPECS = {
    "paper": (tu.PAPER.but(base=2, depth=2), 44),
    "release": (tu.RELEASE.but(base=2, depth=2, channels=3, classes=3), 44),
    "same_bn": (tu.SAME_BN.but(base=2, depth=2, classes=1), 16),
}
# Keras hands a variable of its own to np.array, which wants to be told about copies since NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
every_spec = pytest.mark.parametrize("name", SPECS)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on PyTorch in float64; skips where it is not installed."""
    why = "Keras, as an oracle for its layout, is not installed: pip install 'tinyunet[parity]'"
    pytest.importorskip("torch", reason=why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # on import it writes its settings there
        keras = pytest.importorskip("keras", reason=why)
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield keras
    keras.config.set_floatx(before)


def build(keras, spec, size, epsilon=1e-5):
    """The network of a spec from Keras's layers, named as `to_keras` has it."""
    layers = keras.layers
    widths = [spec.base * 2**level for level in range(spec.depth + 1)]

    def block(x, name, width):
        for i in (1, 2):
            x = layers.Conv2D(width, 3, padding=spec.padding, name=f"{name}_conv{i}")(x)
            if spec.norm:
                x = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_norm{i}")(x)
            x = layers.ReLU()(x)
        return x

    image = x = keras.Input((size, size, spec.channels))
    skips = []
    for k in range(spec.depth):
        skips.append(block(x, f"down_{k}", widths[k]))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, "bottom", widths[-1])
    for k in reversed(range(spec.depth)):
        c_up = widths[k] if k or spec.last_up_halves else widths[1]
        x = layers.Conv2DTranspose(c_up, 2, strides=2, name=f"up_{k}_upconv")(x)
        x = layers.ReLU()(x) if spec.relu_after_up else x
        crop = tu.shapes.center_crop(skips[k].shape[1:3], x.shape[1:3])
        sides = [(a, n - m - a) for a, n, m in zip((crop.top, crop.left), skips[k].shape[1:3], x.shape[1:3], strict=True)]
        x = block(layers.Concatenate()([x, layers.Cropping2D(sides)(skips[k])]), f"up_{k}", widths[k])
    return keras.Model(image, layers.Conv2D(spec.classes, 1, name="head")(x))


def case(name):
    """A network of ours with every array in use, and an image."""
    spec, size = SPECS[name]
    return parity_cases.network(spec, "float64").eval(), parity_cases.values(1, 2, size, size, spec.channels)


def tolerance(spec):
    """Relative to the largest logit. Keras's batch norm computes in float32 on PyTorch, whatever it is given."""
    return 1e-6 if spec.norm else 1e-12


@every_spec
def test_weights_go_out(keras, name):
    """With our weights, assigned by path, Keras's layers give our logits."""
    model, x = case(name)
    theirs = build(keras, model.spec, x.shape[1])
    weights = tu.to_keras(model)
    assert {v.path: tuple(v.shape) for v in theirs.weights} == {path: a.shape for path, a in weights.items()}
    for v in theirs.weights:
        v.assign(weights[v.path])
    wanted = model.forward(x)
    got = keras.ops.convert_to_numpy(theirs(x, training=False))
    assert np.abs(got - wanted).max() <= tolerance(model.spec) * np.abs(wanted).max()


@every_spec
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_weights_come_in(keras, name, epsilon):
    """A Keras network's weights give our network its logits, whatever its batch norm adds to the variance."""
    model, x = case(name)
    theirs = build(keras, model.spec, x.shape[1], epsilon)
    for seed, v in enumerate(theirs.weights):
        v.assign(parity_cases.values(seed, *v.shape) + 1.5 * ("variance" in v.path))
    tu.from_keras(model, {v.path: keras.ops.convert_to_numpy(v) for v in theirs.weights}, epsilon=epsilon)
    wanted = keras.ops.convert_to_numpy(theirs(x, training=False))
    assert np.abs(model.forward(x) - wanted).max() <= tolerance(model.spec) * np.abs(wanted).max()
