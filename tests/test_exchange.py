"""Weights as PyTorch and Keras have them, by plain arrays: layout, names, round trip, refusals. Neither framework is needed."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyunet as tu
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError

SPECS = {
    "paper": tu.PAPER.but(base=2, depth=2),
    "release": tu.RELEASE.but(base=2, depth=1, channels=3, classes=3),
    "same_bn": tu.SAME_BN.but(base=2, depth=2, classes=1),
}
WAYS = {"torch": (tu.to_torch, tu.from_torch), "keras": (tu.to_keras, tu.from_keras)}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
both_ways = pytest.mark.parametrize("way", WAYS)


def randomised(spec, seed=0):
    """A network in eval mode, none of whose arrays is 0 or 1."""
    model, rng = tu.UNet(spec).eval(), np.random.default_rng(seed)
    model.load_state({name: rng.uniform(0.1, 1, a.shape).astype(np.float32) for name, a in model.state().items()})
    return model


def copies(model):
    """All arrays of a network as they are now."""
    return {name: a.copy() for name, a in model.state().items()}


def same(model, state):
    """Whether a network holds exactly these arrays."""
    return all((a == state[name]).all() for name, a in model.state().items())


# Layout and names ----------------------------------------------------------------------------------------------------


def test_layout_of_pytorch():
    """W[o,c,r,s] = w[r,s,c,o] for convolutions, W[c,o,a,d] = w[a,d,o,c] for up-convolutions, number by number."""
    model = randomised(SPECS["release"])
    ours, theirs = model.state(), tu.to_torch(model)
    for layer, shape in (("down.0.conv1", (2, 3, 3, 3)), ("head", (3, 2, 1, 1)), ("up.0.upconv", (4, 4, 2, 2))):
        w, big = ours[f"{layer}.w"], theirs[f"{layer}.weight"]
        assert big.shape == shape
        for i, j, r, s in np.ndindex(*shape):  # i is the channel out of a convolution, into an up-convolution
            assert big[i, j, r, s] == w[r, s, j, i]
        assert (theirs[f"{layer}.bias"] == ours[f"{layer}.b"]).all()


@every_spec
def test_layout_of_keras(spec):
    """Keras has our axes: kernels are (K, K, C, O), those of up-convolutions (2, 2, O, C)."""
    model = randomised(spec)
    theirs = list(tu.to_keras(model).values())
    assert all((a == b).all() for a, b in zip(theirs, model.state().values(), strict=True))


def test_names_of_pytorch():
    """Names are those of a module with ModuleLists `down` and `up`; batch norm has running statistics."""
    names = list(tu.to_torch(tu.UNet(SPECS["same_bn"].but(depth=1))))
    block = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    block += [f"norm{i}.{key}" for i in (1, 2) for key in ("weight", "bias", "running_mean", "running_var")]
    wanted = {f"{where}.{name}" for where in ("down.0", "bottom", "up.0") for name in block}
    assert set(names) == wanted | {"up.0.upconv.weight", "up.0.upconv.bias", "head.weight", "head.bias"}


def test_names_of_keras():
    """Names are the paths of variables: the layer's name, a slash, the variable's."""
    names = list(tu.to_keras(tu.UNet(SPECS["same_bn"].but(depth=1))))
    block = ["conv1/kernel", "conv1/bias", "conv2/kernel", "conv2/bias"]
    block += [f"norm{i}/{key}" for i in (1, 2) for key in ("gamma", "beta", "moving_mean", "moving_variance")]
    wanted = {f"{where}_{name}" for where in ("down_0", "bottom", "up_0") for name in block}
    assert set(names) == wanted | {"up_0_upconv/kernel", "up_0_upconv/bias", "head/kernel", "head/bias"}


@pytest.mark.parametrize(
    ("out", "slash", "keys"),
    [
        (tu.to_torch, ".", ("weight", "bias", "running_mean", "running_var")),
        (tu.to_keras, "/", ("gamma", "beta", "moving_mean", "moving_variance")),
    ],
    ids=["torch", "keras"],
)
def test_every_vector_has_its_own_name(out, slash, keys):
    """gamma, beta, mean and variance of batch norm, and biases, are not mistaken for one another."""
    model = randomised(SPECS["same_bn"])
    theirs = {name.replace("_", ".", 2 if slash == "/" else 0): a for name, a in out(model).items()}
    for key, name in zip(("gamma", "beta", "mean", "var"), keys, strict=True):
        assert (theirs[f"up.1.norm2{slash}{name}"] == model.state()[f"up.1.norm2.{key}"]).all()
    assert (theirs[f"up.1.conv2{slash}bias"] == model.state()["up.1.conv2.b"]).all()


@both_ways
@every_spec
def test_arrays_are_copies(spec, way):
    """What goes out is C-contiguous, writable, of the network's dtype, and shares no memory with it."""
    model = randomised(spec).astype("float64")
    for array in WAYS[way][0](model).values():
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.dtype == np.float64
        assert not any(np.shares_memory(array, own) for own in model.state().values())


# Round trip ----------------------------------------------------------------------------------------------------------


@both_ways
@given(
    channels=st.integers(1, 3), classes=st.integers(1, 3), base=st.integers(1, 3), depth=st.integers(1, 3),
    norm=st.sampled_from([None, "batch"]), halves=st.booleans(), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_round_trip(way, channels, classes, base, depth, norm, halves, seed):
    """Out and in again gives the same bytes, for any network."""
    spec = tu.UNetSpec(channels=channels, classes=classes, base=base, depth=depth, norm=norm, last_up_halves=halves)
    out, back = WAYS[way]
    model, other = randomised(spec, seed), tu.UNet(spec)
    back(other, out(model))
    assert same(other, model.state())


@both_ways
def test_what_comes_in_is_copied_and_cast(way):
    """The network keeps its dtype, and a later change of their arrays does not reach it."""
    out, back = WAYS[way]
    model, other = randomised(SPECS["paper"]), tu.UNet(SPECS["paper"])
    state = {name: a.astype(np.float64) for name, a in out(model).items()}
    back(other, state)
    for array in state.values():
        array += 1
    assert same(other, model.state())
    assert {a.dtype.name for a in other.state().values()} == {"float32"}


def test_keras_from_pytorch():
    """From PyTorch to Keras and back through our network, nothing is lost."""
    state = tu.to_torch(randomised(SPECS["same_bn"]))
    middle, other = tu.UNet(SPECS["same_bn"]), tu.UNet(SPECS["same_bn"])
    tu.from_torch(middle, state)
    tu.from_keras(other, tu.to_keras(middle))
    assert all((a == state[name]).all() for name, a in tu.to_torch(other).items())


# Networks of others --------------------------------------------------------------------------------------------------


def test_the_count_of_batches_is_passed_over():
    """PyTorch's `num_batches_tracked`, an integer, is no reason to refuse."""
    model, other = randomised(SPECS["same_bn"]), tu.UNet(SPECS["same_bn"])
    tu.from_torch(other, {**tu.to_torch(model), "down.0.norm1.num_batches_tracked": np.array(7)})
    assert same(other, model.state())


@both_ways
def test_their_names(way):
    """Layers that are called otherwise come in by a map; layers not in the map keep their names."""
    out, back = WAYS[way]
    model, other = randomised(SPECS["paper"]), tu.UNet(SPECS["paper"])
    dot, slash = (".", ".") if way == "torch" else ("_", "/")
    calls = {f"down{dot}0{dot}conv1": "inc.conv", "head": "outc"}
    state = {}
    for name, array in out(model).items():
        layer, _, key = name.rpartition(slash)
        state[calls.get(layer, layer) + slash + key] = array
    back(other, state, names={"inc.conv": "down.0.conv1", "outc": "head"})
    assert same(other, model.state())


@both_ways
@pytest.mark.parametrize("key", ["paper", "release"])
def test_the_skip_first(key, way):
    """If theirs has [skip, up] where we have [up, skip], the weights behind the concatenation change places, and only they."""
    out, back = WAYS[way]
    model, other = randomised(SPECS[key]), tu.UNet(SPECS[key])
    state = out(model)
    axis = 1 if way == "torch" else 2
    for level in range(model.spec.depth):
        name = f"up.{level}.conv1.weight" if way == "torch" else f"up_{level}_conv1/kernel"
        c_skip = model.spec.base * 2**level
        up, skip = np.split(state[name], [state[name].shape[axis] - c_skip], axis=axis)
        state[name] = np.concatenate([skip, up], axis=axis)
    assert not same(other, model.state())
    back(other, state, skip_first=True)
    assert same(other, model.state())


@both_ways
@pytest.mark.parametrize("epsilon", [1e-3, 1e-8])
def test_another_epsilon(way, epsilon):
    """In eval mode gamma (x - mean) / sqrt(var + epsilon) + beta is theirs, not ours with 1e-5."""
    out, back = WAYS[way]
    spec = SPECS["same_bn"]
    model, other = randomised(spec).astype("float64"), tu.UNet(spec).astype("float64").eval()
    back(other, out(model), epsilon=epsilon)
    mine, theirs = (next(m.find("down.0.norm1")) for m in (other, model))
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 2))
    p, s = theirs.params, theirs.buffers
    wanted = p["gamma"] * (x - s["mean"]) / np.sqrt(s["var"] + epsilon) + p["beta"]
    np.testing.assert_allclose(mine.forward(x), wanted, rtol=1e-12)
    assert not np.allclose(theirs.forward(x), wanted, rtol=1e-6)


@both_ways
def test_a_bias_in_front_of_batch_norm_may_lack(way):
    """bias=False and a bias of zero are the same there; the old bias does not stay. Elsewhere it is missing."""
    out, back = WAYS[way]
    model, other = randomised(SPECS["same_bn"]), randomised(SPECS["same_bn"], seed=1)
    state = {name: a for name, a in out(model).items() if not ("conv" in name and "upconv" not in name and "bias" in name)}
    assert len(state) == len(model.state()) - 10
    back(other, state)
    for name, array in other.state().items():
        needless = name.endswith((".conv1.b", ".conv2.b"))
        assert (array == (0 if needless else model.state()[name])).all()


# Refusals ------------------------------------------------------------------------------------------------------------


def without(state, name):
    return {key: a for key, a in state.items() if key != name}


REFUSED = {
    "missing": (
        lambda s: without(without(s, "up.0.upconv.bias"), "head.weight"), {}, ConfigError,
        "from_torch: 2 of 26 arrays are missing, first 'up.0.upconv.bias'. Is the spec that of their network? If they call a "
        "layer otherwise, say so with names={their layer: our layer}.",
    ),
    "all missing": (lambda s: {}, {}, ConfigError, "from_torch: 26 of 26 arrays are missing, first 'down.0.conv1.weight'."),
    "unknown": (lambda s: {**s, "down.2.conv1.weight": s["head.weight"]}, {}, ConfigError,
                "from_torch: 1 arrays are unknown, first 'down.2.conv1.weight'. Is the spec that of their network?"),
    "mapped to nothing": (
        lambda s: {**s, "extra.weight": s["head.weight"]}, {"names": {"extra": "down.9.conv1"}}, ConfigError,
        "from_torch: `names` has 'down.9.conv1' for our layer; there is none. There are: down.0.conv1, down.0.conv2, "
        "down.1.conv1, down.1.conv2, bottom.conv1, bottom.conv2, up.1.upconv, up.1.conv1, up.1.conv2, up.0.upconv, up.0.conv1, "
        "up.0.conv2, head.",
    ),
    "mapped from nothing": (
        lambda s: {"outc.weight": s["head.weight"], "outc.bias": s["head.bias"]}, {"names": {"out": "head"}}, ConfigError,
        "from_torch: `names` has 'out' for their layer; there is none. There are: outc.",
    ),
    "mapped from nothing at all": (lambda s: {}, {"names": {"out": "head"}}, ConfigError, "there is none. There are: none."),
    "mapped from an array": (lambda s: s, {"names": {"head.weight": "head"}}, ConfigError,
                             "from_torch: `names` has 'head.weight' for their layer; there is none. There are: down.0.conv1,"),
    "no layer": (lambda s: {**s, "step": np.ones(())}, {}, ConfigError, "from_torch: 1 arrays are unknown, first 'step'."),
    "shape": (lambda s: {**s, "bottom.conv1.weight": s["bottom.conv1.weight"].transpose(2, 3, 1, 0)}, {}, ShapeError,
              "from_torch: bottom.conv1.weight has shape (3, 3, 4, 8), this network needs (8, 4, 3, 3) as PyTorch has it."),
    "shape of a bias": (lambda s: {**s, "head.bias": np.ones(3, np.float32)}, {}, ShapeError,
                        "from_torch: head.bias has shape (3,), this network needs (2,) as PyTorch has it."),
    "integers": (lambda s: {**s, "head.bias": np.ones(2, int)}, {}, DTypeError,
                 "from_torch: head.bias is int64, expected floating point. Are these the weights?"),
    "text": (lambda s: {**s, "head.bias": "weights"}, {}, DTypeError, "from_torch: head.bias is <U7, expected floating point."),
    "ragged": (lambda s: {**s, "head.bias": [[1.0], [1.0, 2.0]]}, {}, DTypeError,
               "from_torch: head.bias cannot be read as an array (setting an array element with a sequence."),
    "two for one": (lambda s: {**s, "a.weight": s["head.weight"]}, {"names": {"a": "head"}}, ConfigError,
                    "from_torch: 'head.weight' and 'a.weight' both become 'head.weight'. In `names`, two layers share one."),
    "epsilon": (lambda s: s, {"epsilon": 0.0}, ConfigError,
                "from_torch: epsilon is 0.0. Give what their batch norm adds to the variance, e.g. 1e-3 for Keras."),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_a_state_that_does_not_fit_changes_nothing(key):
    """The error names the first array, in their names and their layout, and the network stays as it was."""
    change, options, error, message = REFUSED[key]
    model = tu.UNet(SPECS["paper"])
    before = copies(model)
    with pytest.raises(error, match=re.escape(message)):
        tu.from_torch(model, change(tu.to_torch(randomised(model.spec))), **options)
    assert same(model, before)


@both_ways
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("w", np.nan, "holds NaN or infinite values"), ("w", np.inf, "holds NaN or infinite values"),
     ("var", np.nan, "holds NaN or infinite values"), ("var", -0.5, r"goes down to -0\.5, and variance \+ epsilon \(0\.001\)"),
     ("var", -1e-3, r"goes down to -0\.001, and variance \+ epsilon \(0\.001\) must be above 0")],
)  # fmt: skip
def test_numbers_that_no_network_works_with(way, key, value, message):
    """One NaN, one infinity, one variance whose root is none: refused by name, nothing changed. Zero and a bit below pass."""
    out, back = WAYS[way]
    model = tu.UNet(SPECS["same_bn"]).astype("float64")
    before = copies(model)
    ours = "bottom.conv1.w" if key == "w" else "bottom.norm1.var"
    state = dict(zip(model.state(), out(model).items(), strict=True))
    name, array = state[ours]
    array.flat[1] = value
    with pytest.raises(DataError, match=f"from_{way}: {re.escape(name)} {message}"):
        back(model, dict(state.values()), epsilon=1e-3)
    assert same(model, before)
    array.flat[1] = -0.9e-3
    back(model, dict(state.values()), epsilon=1e-3)


def test_refusals_speak_the_language_of_keras():
    """`from_keras` names variables by path, and itself."""
    model = tu.UNet(SPECS["paper"])
    state = tu.to_keras(model)
    with pytest.raises(ConfigError, match=r"from_keras: `names` has 'conv2d' for their layer; there is none\. There are: down_0"):
        tu.from_keras(model, state, names={"conv2d": "down.0.conv1"})
    with pytest.raises(ConfigError, match=r"from_keras: 1 of 26 arrays are missing, first 'down_0_conv1/kernel'\."):
        tu.from_keras(model, without(state, "down_0_conv1/kernel"))
    message = re.escape("from_keras: head/kernel has shape (2, 1, 1, 2), this network needs (1, 1, 2, 2) as Keras has it.")
    with pytest.raises(ShapeError, match=message):
        tu.from_keras(model, {**state, "head/kernel": state["head/kernel"].transpose(2, 0, 1, 3)})
