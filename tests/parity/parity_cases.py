"""What is compared with PyTorch: every op, three networks, ten training steps, as functions from inputs to named arrays.

Inputs come from a formula and not from a generator, so that they are the same numbers wherever and whenever they are made. They
have 24 bits, so that float32 and float64 begin with the same ones. No PyTorch here: `parity_oracle` computes the same in it.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import tinyunet as tu
from tinyunet import ops
from tinyunet.layers import BatchNorm


def rungs(case, dtype):
    """Names of the rungs on which a case runs in this dtype; None where there is no ladder."""
    if case.op is None:
        return (None,)
    given = case.given(dtype)
    able = tu.ladder.able(case.op, given["x"], given["w"])
    return tuple(name for name in tu.ladder.rungs(case.op) if name in able)


def values(seed, *shape):
    """Numbers in [-1, 1) that look random: the top 24 bits of a 64-bit mix of each place (splitmix64)."""
    z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(1 + (seed << 32))
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def classes(seed, count, *shape):
    """Labels from -1, for pixels to ignore, to count - 1."""
    return np.floor((values(seed, *shape) + 1) / 2 * (count + 1)).astype(np.int64) - 1


class Case(NamedTuple):
    """One comparison: `ours(**inputs)` and `parity_oracle.THEIRS[kind](**inputs)` give the same arrays by the same names."""

    kind: str
    inputs: dict  # arrays of float64, cast to the dtype that is asked for; and settings
    ours: Callable
    op: str | None = None  # whose ladder has several rungs for this

    def given(self, dtype):
        """The inputs, their floating-point arrays in a dtype."""
        return {
            key: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
            for key, value in self.inputs.items()
        }


TOLERANCE = {
    "op": {"float64": 1e-14, "float32": 3e-6},
    "network": {"float64": 1e-12, "float32": 3e-5},
    "training": {"float64": 1e-11, "float32": 2e-3},
}
"""How far from PyTorch in float64 is allowed, relative to the largest value of an array. One rounding is 1e-16 or 6e-8."""


def check(case, got, wanted, dtype):
    """Raise if an array is further off than its kind of case allows."""
    found = errors(got, wanted)
    worst = max(found, key=found.get)
    allowed = TOLERANCE.get(case.kind, TOLERANCE["op"])[dtype]
    assert found[worst] <= allowed, f"{worst} differs by {found[worst]:.1e}, allowed are {allowed:.0e}"


def errors(got, wanted):
    """The largest |got - wanted| / max |wanted| of each array.

    Arrays of one layer, "dw of up.0.conv1" and "db of up.0.conv1", share the larger maximum: a bias in front of batch norm has
    the gradient zero, and what is left of it is rounding.
    """
    assert got.keys() == wanted.keys(), got.keys() ^ wanted.keys()
    scale = {}
    for name, array in wanted.items():
        layer = re.sub(r"^.* of ", "", name)
        scale[layer] = max(scale.get(layer, 0.0), float(np.abs(array).max()))
    result = {}
    for name, array in wanted.items():
        assert np.shape(got[name]) == np.shape(array), (name, np.shape(got[name]), np.shape(array))
        difference = float(np.abs(np.asarray(got[name], np.float64) - array).max())
        result[name] = difference / scale[re.sub(r"^.* of ", "", name)] if difference else 0.0
    return result


# Ops -----------------------------------------------------------------------------------------------------------------


def conv(x, w, b, dy, padding):
    y, ctx = ops.conv2d_forward(x, w, b, padding)
    return dict(zip(("y", "dx", "dw", "db"), (y, *ops.conv2d_backward(dy, ctx)), strict=True))


def upconv(x, w, b, dy):
    y, ctx = ops.upconv_forward(x, w, b)
    return dict(zip(("y", "dx", "dw", "db"), (y, *ops.upconv_backward(dy, ctx)), strict=True))


def max_pool(x, dy):
    y, ctx = ops.max_pool_forward(x)
    return {"y": y, "dx": ops.max_pool_backward(dy, ctx)}


def relu(x, dy):
    y, ctx = ops.relu_forward(x)
    return {"y": y, "dx": ops.relu_backward(dy, ctx)}


def batch_norm(xs, gamma, beta, dy):
    """Three batches in training, which move the running statistics, then the third again in eval mode."""
    layer = BatchNorm("norm", gamma.size)
    layer.params.update(gamma=gamma, beta=beta)
    layer.grads.update(gamma=np.zeros_like(gamma), beta=np.zeros_like(beta))
    layer.buffers.update(mean=np.zeros_like(gamma), var=np.ones_like(gamma))
    result = {}
    for x in xs:
        result["y"] = layer.forward(x)
    result["dx"] = layer.backward(dy)
    result |= {"dgamma": layer.grads["gamma"].copy(), "dbeta": layer.grads["beta"].copy()}
    result |= {"running mean": layer.buffers["mean"], "running var": layer.buffers["var"]}
    layer.training = False
    layer.accumulate(gamma=-layer.grads["gamma"], beta=-layer.grads["beta"])
    result["y in eval"] = layer.forward(xs[-1])
    result["dx in eval"] = layer.backward(dy)
    return result | {"dgamma in eval": layer.grads["gamma"], "dbeta in eval": layer.grads["beta"]}


class Mask:
    """In place of a generator: draws numbers of which a given mask keeps the right ones."""

    def __init__(self, kept):
        self.kept = kept

    def random(self, shape, dtype):
        assert shape == self.kept.shape
        return self.kept.astype(dtype)


def dropout(x, kept, rate, dy):
    y, ctx = ops.dropout_forward(x, rate, Mask(kept))
    return {"y": y, "dx": ops.dropout_backward(dy, ctx)}


def crop_concat(up, skip, dy):
    y, ctx = ops.crop_concat_forward(up, skip)
    dup, dskip = ops.crop_concat_backward(dy, ctx)
    return {"y": y, "dup": dup, "dskip": dskip}


def mirror_pad(x, dy, amounts):
    y, ctx = ops.mirror_pad_forward(x, *amounts)
    return {"y": y, "dx": ops.mirror_pad_backward(dy, ctx)}


def loss(logits, labels, weights):
    energy, dlogits = tu.energy(logits, labels, weights)
    p = ops.sigmoid(logits) if logits.shape[-1] == 1 else ops.softmax(logits)
    return {"p": p, "E": np.float64(energy), "dlogits": dlogits}


# Networks ------------------------------------------------------------------------------------------------------------


def network(spec, dtype):
    """A network whose every array is in use: biases, gammas and running statistics are not 0 and 1."""
    model = tu.UNet(spec).astype(dtype)
    state = {}
    for seed, (name, array) in enumerate(model.state().items(), start=1000):
        drawn = values(seed, *array.shape)
        key = name.rpartition(".")[2]
        if key == "w":  # of the variance that `tinyunet.init` gives it
            drawn = drawn * math.sqrt(6 / (array.shape[3] if ".upconv." in name else array[..., 0].size))
        state[name] = (1 + drawn / 2 if key in ("gamma", "var") else drawn).astype(np.float32)
    model.load_state(state)
    return model


def seeds(seed):
    """A generator for the masks of dropout; the oracle draws from one of the same seed."""
    return np.random.Generator(np.random.MT19937(seed))


def forward_backward(spec, x, labels, weights):
    """Logits, E and every gradient of one training step."""
    model = network(spec, x.dtype)
    model.seed_dropout(seeds(0))
    logits = model.forward(x)
    energy, dlogits = tu.energy(logits, labels, weights)
    dx = model.backward(dlogits)
    result = {"logits": logits, "E": np.float64(energy), "dx": dx, **gradients(model.grads())}
    return result | {"logits in eval": model.eval().forward(x)}


def gradients(grads):
    """ "down.0.conv1.w" -> "dw of down.0.conv1" """
    return {f"d{key} of {layer}": array for (layer, _, key), array in ((n.rpartition("."), a) for n, a in grads.items())}


def training(spec, optimizer, xs, labels, weights):
    """How far ten steps move every weight, and the logits in training mode after them.

    A bias in front of batch norm is left out: its gradient is rounding, which Adam divides by its own size. The batch's mean
    takes it out again.
    """
    model = network(spec, xs.dtype)
    before = {name: a.copy() for name, a in model.params().items()}
    model.seed_dropout(seeds(0))
    update = OPTIMIZERS[optimizer](model)
    for x in xs:
        _, dlogits = tu.energy(model.forward(x), labels, weights)
        model.backward(dlogits)
        update.step()
        model.zero_grad()
    return {"logits": model.forward(xs[0]), **moves(spec, before, model.params())}


def moves(spec, before, after):
    """ "down.0.conv1.w" -> "move of w of down.0.conv1" """
    result = {}
    for name, w in after.items():
        layer, _, key = name.rpartition(".")
        if not (spec.norm and key == "b" and "conv" in layer and "upconv" not in layer):
            result[f"move of {key} of {layer}"] = w - before[name]
    return result


OPTIMIZERS = {
    "SGD": lambda model: tu.SGD(model, lr=1e-3, momentum=0.99, weight_decay=0.01),
    "Adam": lambda model: tu.Adam(model, lr=1e-3, weight_decay=0.01),
}


def energy_inputs(spec, size, n):
    """Image, labels and weights for a network; the labels have the size of its output."""
    height, width = size
    out = tuple(tu.shapes.output_size(spec, side) for side in size)
    return {
        "x": values(1, n, height, width, spec.channels),
        "labels": classes(2, max(spec.classes, 2), n, *out),
        "weights": 1.5 + values(3, n, *out),
    }


def network_case(spec, size, n):
    return Case("network", {"spec": spec, **energy_inputs(spec, size, n)}, forward_backward)


def training_case(spec, size, optimizer, steps=10):
    inputs = energy_inputs(spec, size, 1)
    inputs["xs"] = np.stack([values(10 + step, *inputs["x"].shape) for step in range(steps)])
    del inputs["x"]
    return Case("training", {"spec": spec, "optimizer": optimizer, **inputs}, training)


# All of them ---------------------------------------------------------------------------------------------------------


def conv_case(padding, size):
    shrink = size - 1 if padding == "valid" else 0
    inputs = {
        "x": values(1, 2, 6, 8, 3), "w": values(2, size, size, 3, 4), "b": values(3, 4),
        "dy": values(4, 2, 6 - shrink, 8 - shrink, 4), "padding": padding,
    }  # fmt: skip
    return Case("conv", inputs, conv, "conv3x3" if size == 3 else None)


def batch_norm_case():
    inputs = {
        "xs": values(1, 3, 2, 3, 5, 4) * [0.1, 1, 3, 10] + [0, 1, -3, 100],
        "gamma": values(2, 4), "beta": values(3, 4), "dy": values(4, 2, 3, 5, 4),
    }  # fmt: skip
    return Case("batch_norm", inputs, batch_norm)


X, DY = values(1, 2, 4, 6, 3), values(2, 2, 2, 3, 3)
OPS = {
    "conv 3x3 valid": conv_case("valid", 3),
    "conv 3x3 same": conv_case("same", 3),
    "conv 1x1": conv_case("valid", 1),
    "upconv 2x2": Case(
        "upconv",
        {"x": values(1, 2, 3, 5, 4), "w": values(2, 2, 2, 3, 4), "b": values(3, 3), "dy": values(4, 2, 6, 10, 3)},
        upconv, "upconv2x2",
    ),
    "max-pool": Case("max_pool", {"x": X, "dy": DY}, max_pool),
    "max-pool with ties": Case("max_pool", {"x": np.round(X), "dy": DY}, max_pool),
    "ReLU": Case("relu", {"x": X, "dy": values(2, *X.shape)}, relu),
    "ReLU at zero": Case("relu", {"x": np.round(X), "dy": values(2, *X.shape)}, relu),
    "batch norm": batch_norm_case(),
    "dropout": Case("dropout", {"x": X, "kept": values(2, *X.shape) > -0.4, "rate": 0.3, "dy": values(3, *X.shape)}, dropout),
    "crop and concatenate": Case(
        "crop_concat",
        {"up": values(1, 2, 4, 6, 3), "skip": values(2, 2, 7, 12, 2), "dy": values(3, 2, 4, 6, 5)},
        crop_concat,
    ),
    "mirror pad": Case("mirror_pad", {"x": X, "dy": values(2, 2, 9, 14, 3), "amounts": (2, 3, 5, 3)}, mirror_pad),
    "mirror pad, several times the image": Case(
        "mirror_pad", {"x": X[:1, ..., :1], "dy": values(2, 1, 24, 36, 1), "amounts": (8, 12, 13, 17)}, mirror_pad
    ),
    "softmax cross-entropy": Case(
        "loss", {"logits": 5 * values(1, 2, 4, 5, 3), "labels": classes(2, 3, 2, 4, 5), "weights": 2 + values(3, 2, 4, 5)}, loss
    ),
    "softmax cross-entropy, large logits": Case(
        "loss", {"logits": 1e4 * values(1, 2, 4, 5, 3), "labels": classes(2, 3, 2, 4, 5), "weights": 2 + values(3, 2, 4, 5)}, loss
    ),
    "sigmoid cross-entropy": Case(
        "loss", {"logits": 5 * values(1, 2, 4, 5, 1), "labels": classes(2, 2, 2, 4, 5), "weights": 2 + values(3, 2, 4, 5)}, loss
    ),
    "sigmoid cross-entropy, large logits": Case(
        "loss", {"logits": 1e4 * values(1, 2, 4, 5, 1), "labels": classes(2, 2, 2, 4, 5), "weights": 2 + values(3, 2, 4, 5)}, loss
    ),
}  # fmt: skip

NETWORKS = {
    "paper": network_case(tu.PAPER.but(base=2), (188, 204), 1),
    "release": network_case(tu.RELEASE.but(base=2, channels=3, classes=3), (188, 188), 1),
    "same_bn": network_case(tu.SAME_BN.but(base=2, classes=1), (48, 32), 2),
}

SMALL_NETWORKS = {
    "paper, depth 2": network_case(tu.PAPER.but(base=2, depth=2), (44, 48), 1),
    "release, depth 1": network_case(tu.RELEASE.but(base=2, depth=1, channels=3, classes=3), (20, 24), 1),
    "same_bn, depth 2": network_case(tu.SAME_BN.but(base=2, depth=2, classes=1), (12, 16), 2),
}
"""Small enough for their gradients to be stored, see `STORED`."""

TRAINING = {
    f"{name}, {optimizer}": training_case(spec, size, optimizer)
    for name, spec, size in (
        ("paper", tu.PAPER.but(base=3, depth=1), (20, 28)),
        ("release", tu.RELEASE.but(base=3, depth=1), (20, 28)),
        ("same_bn", tu.SAME_BN.but(base=3, depth=1), (12, 16)),
    )
    for optimizer in OPTIMIZERS
}

def flat(arrays):
    """Named arrays as one vector, in the order of their names."""
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])


STORED = {**OPS, **SMALL_NETWORKS, **TRAINING}
"""What `tests/golden/make.py` stores."""
