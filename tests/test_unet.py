"""The network: its wiring against the layer list, gradients through all of it, modes, hooks, memory, and invariances."""

import weakref

import numpy as np
import pytest

from tinyunet import ladder, ops, shapes
from tinyunet.check import check_complex_step, check_grad
from tinyunet.errors import ConfigError, DTypeError, OrderError, ShapeError
from tinyunet.optim import Adam
from tinyunet.spec import PAPER, RELEASE, SAME_BN, UNetSpec
from tinyunet.unet import UNet

# Small relatives of the presets that between them use every choice of a spec, with the size of an image that is not square.
SMALL = {
    "paper, depth 1": (PAPER.but(base=3, depth=1, dropout=0.0), (20, 22)),
    "paper, depth 2": (PAPER.but(base=2, depth=2, channels=3, classes=3, dropout=0.3), (44, 48)),
    "release, depth 2": (RELEASE.but(base=2, depth=2, dropout=0.3), (48, 44)),
    "same_bn, depth 1": (SAME_BN.but(base=3, depth=1, classes=4), (6, 8)),
    "same_bn, depth 2": (SAME_BN.but(base=2, depth=2, channels=2), (12, 8)),
    "valid with batch norm": (UNetSpec(base=2, depth=1, norm="batch", dropout=0.2), (22, 20)),
    "one class": (UNetSpec(base=2, depth=2, classes=1, padding="same"), (8, 12)),
}
every_spec = pytest.mark.parametrize(("spec", "size"), SMALL.values(), ids=SMALL)


def close(got, wanted, rtol=1e-10):
    """Equal up to rounding in float64 that has gone through a whole network."""
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


def randomised(spec, seed=0, dtype="float64"):
    """A network in which no parameter and no statistic has a value that could hide a mistake."""
    model, rng = UNet(spec, seed).astype(dtype), np.random.default_rng(seed + 1)
    for name, value in model.state().items():
        if name.endswith((".b", ".beta", ".mean")):
            value[...] = 0.3 * rng.standard_normal(value.shape)
        elif name.endswith((".gamma", ".var")):
            value[...] = rng.uniform(0.5, 1.5, value.shape)
    return model


def image(spec, size, n=2, seed=7, dtype="float64"):
    """A batch of random images."""
    return np.random.default_rng(seed).standard_normal((n, *size, spec.channels)).astype(dtype)


def as_pair(spec, training=True):
    """The network as a pair of pure functions of the image and of every parameter, with a fixed draw of dropout."""

    def forward(x, *params):
        model = randomised(spec, dtype=x.dtype.name)
        for mine, value in zip(model.params().values(), params, strict=True):
            mine[...] = value
        model.seed_dropout(np.random.default_rng(5))
        model = model.train() if training else model.eval(remember=True)
        return model.forward(x), model

    def backward(dy, model):
        dx = model.backward(dy)
        return (dx, *model.grads().values())

    return forward, backward


def one_step(model, x, dy):
    """Forward and backward from zero gradients; -> logits, gradient of the image, gradients of the parameters."""
    model.zero_grad()
    y = model.forward(x)
    dx = model.backward(dy)
    return y, dx, {name: g.copy() for name, g in model.grads().items()}


# The wiring is that of the layer list -------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "count"), [(PAPER, 31_030_658), (RELEASE, 31_100_354)], ids=["paper", "release"])
def test_parameter_counts_of_the_real_networks(spec, count):
    """The networks of the paper and of the authors' release have exactly these numbers of parameters."""
    model = UNet(spec)
    assert sum(value.size for value in model.params().values()) == count == shapes.count_params(spec)
    assert repr(model) == f"UNet({spec}, {count:,} parameters)"


def test_the_paper_makes_388_of_572():
    """Figure 1: a tile of 572 pixels gives 388, with the skips cropped by 4, 16, 40 and 88 pixels on each side."""
    assert shapes.output_size(PAPER, 572) == 388
    assert [step.crop.top for step in shapes.trace(PAPER, 572) if step.crop] == [4, 16, 40, 88]


@every_spec
def test_names_and_parameters_are_those_of_the_list(spec, size):
    """Every layer has the name, and every parameter count is that, of `shapes.layers`, in the order of forward."""
    model = UNet(spec)
    assert [layer.name for layer in model.layers] == [info.name for info in shapes.layers(spec)]
    for layer, info in zip(model.layers, shapes.layers(spec), strict=True):
        assert sum(value.size for value in layer.params.values()) == info.params
        assert all(name in model.params() for name in (f"{layer.name}.{key}" for key in layer.params))
    assert model.params().keys() == model.grads().keys()


@every_spec
def test_every_map_has_the_size_of_the_list(spec, size):
    """What leaves each layer, seen by hooks in the order of the list, has the traced size and channels."""
    model, seen = UNet(spec), []
    model.hook("*", lambda layer, event, y: seen.append((layer.name, event, y.shape)))
    y = model.forward(image(spec, size, n=3, dtype="float32"))
    wanted = [(s.layer.name, "forward", (3, *s.out_size, s.layer.c_out)) for s in shapes.trace(spec, *size)]
    assert seen == wanted
    assert y.shape == (3, *(n - 2 * shapes.margin(spec) for n in size), spec.classes)


@every_spec
def test_gradients_come_in_reverse_order(spec, size):
    """Backward visits the layers backwards, with a gradient in the shape of each one's output."""
    model, seen = UNet(spec), []
    y = model.forward(image(spec, size, dtype="float32"))
    model.hook("*", lambda layer, event, dy: seen.append((layer.name, event, dy.shape)))
    dx = model.backward(np.ones_like(y))
    wanted = [(s.layer.name, "backward", (2, *s.out_size, s.layer.c_out)) for s in shapes.trace(spec, *size)]
    assert seen == wanted[::-1]
    assert dx.shape == (2, *size, spec.channels)


@every_spec
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_remembered_is_what_the_list_says(spec, size, n):
    """Bytes of the arrays that each layer keeps, parameters and per-channel numbers aside, are `Step.remembered`."""
    model = UNet(spec)
    model.forward(image(spec, size, n, dtype="float32"))
    for layer, step in zip(model.layers, shapes.trace(spec, *size), strict=True):
        own = {id(value) for value in layer.params.values()}
        kept = sum(a.nbytes for a in layer._ctx if isinstance(a, np.ndarray) and a.ndim >= 3 and id(a) not in own)
        assert kept == n * step.remembered(itemsize=4), layer.name


# Gradient through the whole network ---------------------------------------------------------------------------------


@every_spec
def test_gradients_by_complex_step(spec, size, rng):
    """The gradients of the image and of every parameter agree with the complex step to 1e-11, dropout and batch norm included."""
    check_complex_step(*as_pair(spec), {"x": image(spec, size), **randomised(spec).params()}, rng, rtol=1e-11, directions=1)


@every_spec
def test_gradients_in_eval_mode_by_complex_step(spec, size, rng):
    """So do those in eval mode, with running statistics and without dropout."""
    arguments = {"x": image(spec, size), **randomised(spec).params()}
    check_complex_step(*as_pair(spec, training=False), arguments, rng, rtol=1e-11, directions=1)


@every_spec
def test_gradients_by_differences(spec, size, rng):
    """And with difference quotients; the step is small, so that hardly one of ten thousand ReLUs changes sides."""
    arguments = {"x": image(spec, size), **randomised(spec).params()}
    check_grad(*as_pair(spec), arguments, rng, eps=1e-8, rtol=1e-5, directions=1)


# Skips --------------------------------------------------------------------------------------------------------------


@every_spec
def test_every_skip_matters(spec, size):
    """Setting any skip to zero changes the logits."""
    model = randomised(spec).eval()
    x = image(spec, size)
    y = model.forward(x)
    for up in model.up:
        original = up.concat.forward
        up.concat.forward = lambda x, skip, original=original: original(x, 0 * skip)
        assert np.abs(model.forward(x) - y).max() > 1e-6, up.concat.name
        up.concat.forward = original


@every_spec
def test_gradients_of_the_two_ways_add(spec, size, rng):
    """What enters a contracting block from above is the gradient through the pooling plus that of the skip, neither zero."""
    model = randomised(spec).train()
    parts = {}

    def record(layer, key, pick):
        original = layer.backward

        def backward(dy):
            result = original(dy)
            parts[key] = pick(result).copy()
            return result

        layer.backward = backward

    for up in model.up:
        record(up.concat, up.concat.name, lambda result: result[1])
    for down in model.down:
        record(down.pool, down.pool.name, lambda result: result)
        model.hook(down.block.layers[-1].name, lambda layer, event, dy: parts.update({layer.name: dy.copy()}))
    y = model.forward(image(spec, size))
    model.backward(rng.standard_normal(y.shape))
    for level, down in enumerate(model.down):
        skip, pool = parts[f"up.{level}.concat"], parts[f"down.{level}.pool"]
        assert skip.any()
        assert pool.any()
        np.testing.assert_array_equal(parts[down.block.layers[-1].name], pool + skip)


# Invariances --------------------------------------------------------------------------------------------------------


def integers(spec, seed):
    """A network with weights -1, 0 and 1: in float64 every sum is exact, whatever its order."""
    model, rng = UNet(spec).astype("float64"), np.random.default_rng(seed)
    for value in model.params().values():
        value[...] = rng.choice([-1, 0, 0, 1], value.shape)
    return model.eval()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_shift_by_the_pooling_grid_shifts_the_output(depth):
    """Moving the image by 2^depth pixels moves the logits by as much, exactly; moving it by 1 gives other logits."""
    spec = UNetSpec(base=3, depth=depth)
    model, step, n = integers(spec, 3), 2**depth, shapes.legal_size(spec, 20) + 2**depth
    x = np.random.default_rng(4).integers(-3, 4, (1, n + step, n + step, 1)).astype(float)
    whole = model.forward(x)
    out = whole.shape[1] - step
    assert np.ptp(whole) > 0
    for shift in (0, step):
        part = model.forward(x[:, shift : shift + n, :n])
        np.testing.assert_array_equal(part, whole[:, shift : shift + out, :out])
    part = model.forward(x[:, 1 : 1 + n, :n])
    assert (part != whole[:, 1 : 1 + out, :out]).any()


def support(spec, size, place, rising):
    """Rows and columns of the image on which the logit at `place` depends, by its gradient, as (first, last) each.

    Weights are positive, so nothing cancels. The image rises, so that the last pixel of each pooling window wins, or falls.
    """
    model = UNet(spec).astype("float64").eval(remember=True)
    for name, value in model.params().items():
        value[...] = 0.1 if name.endswith("w") else 0
    rows, cols = np.mgrid[: size[0], : size[1]]
    ramp = 1.0 + (rows + cols if rising else size[0] - rows + size[1] - cols)
    dy = np.zeros_like(model.forward(ramp[None, :, :, None]))
    dy[0, *place, 0] = 1
    dx = model.backward(dy)[0, :, :, 0]
    return [(int(seen.min()), int(seen.max())) for seen in (np.flatnonzero(dx.any(axis=axis)) for axis in (1, 0))]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_receptive_field_is_exact(depth, padding):
    """For every phase along rows, and another along columns, the pixels with a gradient span what `receptive_field` says."""
    spec = UNetSpec(base=1, depth=depth, classes=1, padding=padding)
    reach, margin, step = shapes.receptive_field(spec), shapes.margin(spec), 2**depth
    height = shapes.legal_size(spec, 2 * max(r.size for r in reach))
    size = (height, height + step)
    middle = [(n - 2 * margin) // 2 // step * step for n in size]
    assert len(reach) == step
    for phase in range(step):
        phases = (phase, step - 1 - phase)
        place = [m + p for m, p in zip(middle, phases, strict=True)]
        rising, falling = support(spec, size, place, rising=True), support(spec, size, place, rising=False)
        for axis in range(2):
            here, field = place[axis] + margin, reach[phases[axis]]
            assert (falling[axis][0], rising[axis][1]) == (here - field.before, here + field.after)


@every_spec
def test_channels_inside_may_be_renamed(spec, size):
    """Permuting the channels between the two convolutions of a block, on both sides, leaves the logits as they are."""
    model = randomised(spec).eval()
    x = image(spec, size)
    y = model.forward(x)
    params, state = model.params(), model.state()
    order = np.roll(np.arange(spec.base), 1)
    first = ["down.0.conv1.b", *(f"down.0.norm1.{key}" for key in ("gamma", "beta", "mean", "var") if spec.norm)]
    params["down.0.conv1.w"][...] = params["down.0.conv1.w"][..., order]
    assert (model.forward(x) != y).any()
    for name in first:
        state[name][...] = state[name][order]
    params["down.0.conv2.w"][...] = params["down.0.conv2.w"][:, :, order]
    close(model.forward(x), y)


def test_one_class_is_two_with_a_logit_of_zero(rng):
    """A sigmoid network equals a softmax network whose first logit is 0: the loss, and the gradients of image and weights."""
    spec, size = UNetSpec(base=2, depth=1, classes=1, padding="same"), (8, 6)
    one, two = randomised(spec), randomised(spec.but(classes=2))
    for name, value in two.params().items():
        mine = one.params()[name]
        value[...] = mine if name[:4] != "head" else np.concatenate((0 * mine, mine), axis=-1)
    x, labels, weights = image(spec, size), rng.integers(-1, 2, (2, *size)), rng.uniform(0.5, 2, (2, *size))
    loss1, ctx1 = ops.sigmoid_cross_entropy_forward(one.forward(x), labels, weights)
    loss2, ctx2 = ops.softmax_cross_entropy_forward(two.forward(x), labels, weights)
    assert loss1 == pytest.approx(loss2, rel=1e-12)
    close(one.backward(ops.sigmoid_cross_entropy_backward(ctx1)), two.backward(ops.softmax_cross_entropy_backward(ctx2)))
    for name, g in one.grads().items():
        close(two.grads()[name] if name[:4] != "head" else two.grads()[name][..., 1:], g)


@pytest.mark.parametrize("key", ["same_bn, depth 2", "valid with batch norm"])
def test_a_bias_before_batch_norm_has_no_gradient(key, rng):
    """Batch norm subtracts the mean, and a bias with it: its gradient is zero up to rounding."""
    spec, size = SMALL[key]
    model = randomised(spec)
    _, _, grads = one_step(model, image(spec, size), rng.standard_normal(model.forward(image(spec, size)).shape))
    size_of_gradients = max(np.abs(g).max() for g in grads.values())
    for name, g in grads.items():
        if ".conv" in name and name.endswith(".b"):
            assert np.abs(g).max() < 1e-12 * size_of_gradients, name


# Batches ------------------------------------------------------------------------------------------------------------

WITHOUT_NORM = [(spec.but(dropout=0.0), size) for spec, size in SMALL.values() if not spec.norm]


@pytest.mark.parametrize(("spec", "size"), WITHOUT_NORM)
def test_two_half_batches_add_up_to_the_whole(spec, size, rng):
    """Gradients of two backward passes without `zero_grad` between them are those of one pass over both batches."""
    model, x = randomised(spec), image(spec, size, n=4)
    dy = rng.standard_normal(model.forward(x).shape)
    y, dx, whole = one_step(model, x, dy)
    model.zero_grad()
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        close(model.forward(x[half]), y[half])
        halves.append(model.backward(dy[half]))
    close(np.concatenate(halves), dx)
    for name, g in model.grads().items():
        close(g, whole[name])


@every_spec
def test_images_are_independent_in_eval_mode(spec, size):
    """Predicting an image alone or in a batch gives the same logits, with batch norm too."""
    model, x = randomised(spec).eval(), image(spec, size, n=3)
    close(model.forward(x[1:2])[0], model.forward(x)[1])


def test_gradients_start_anew_with_zero_grad(rng):
    """After `zero_grad` all gradients are zero, in the same arrays."""
    spec, size = SMALL["same_bn, depth 1"]
    model = randomised(spec)
    arrays = model.grads()
    one_step(model, image(spec, size), rng.standard_normal((2, *size, spec.classes)))
    assert all(g.any() for g in arrays.values())
    model.zero_grad()
    for name, g in model.grads().items():
        assert g is arrays[name]
        assert not g.any()


# Agreement of implementations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["paper, depth 1", "same_bn, depth 2"])
def test_the_network_runs_on_every_rung(key, rng):
    """Logits and gradients are the same whichever implementation of the convolutions runs."""
    spec, size = SMALL[key]
    model, x = randomised(spec.but(dropout=0.0)), image(spec, size)
    dy = rng.standard_normal(model.forward(x).shape)
    results = []
    for by_hand in ({"conv3x3": "loops", "upconv2x2": "loops"}, {"conv3x3": "taps", "upconv2x2": "gemm"}, {}):
        with ladder.rung(**by_hand):
            results.append(one_step(model, x, dy))
    for y, dx, grads in results[1:]:
        close(y, results[0][0])
        close(dx, results[0][1])
        for name, g in grads.items():
            close(g, results[0][2][name])


# Modes --------------------------------------------------------------------------------------------------------------


def test_a_new_network_is_in_training_mode():
    """`train` and `eval` switch all layers and give the network back."""
    model = UNet(SMALL["same_bn, depth 1"][0])
    assert model.training
    assert model.eval() is model
    assert not model.training
    assert not any(layer.training or layer.remembering for layer in model.layers)
    model.eval(remember=True)
    assert all(layer.remembering and not layer.training for layer in model.layers)
    assert model.train() is model
    assert all(layer.remembering and layer.training for layer in model.layers)


def test_dropout_acts_in_training_only(rng):
    """Two training passes differ, two predictions do not; a generator set anew repeats a pass; the rate 0 has no layer."""
    spec, size = SMALL["paper, depth 2"]
    model, x = randomised(spec), image(spec, size)
    model.seed_dropout(np.random.default_rng(1))
    first, second = model.forward(x), model.forward(x)
    model.seed_dropout(np.random.default_rng(1))
    np.testing.assert_array_equal(model.forward(x), first)
    assert (first != second).any()
    model.eval()
    np.testing.assert_array_equal(model.forward(x), model.forward(x))
    assert [layer.name for layer in model.find("*.dropout")] == ["down.1.dropout", "bottom.dropout"]
    with pytest.raises(ConfigError):
        UNet(spec.but(dropout=0.0)).find("*.dropout")


def test_prediction_does_not_change_the_network():
    """In eval mode neither parameters nor running statistics move."""
    spec, size = SMALL["same_bn, depth 2"]
    model = randomised(spec).eval()
    before = {name: value.copy() for name, value in model.state().items()}
    model.forward(image(spec, size))
    for name, value in model.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_training_moves_the_running_statistics():
    """In training mode every running mean and variance moves."""
    spec, size = SMALL["same_bn, depth 2"]
    model = randomised(spec).train()
    before = {name: value.copy() for name, value in model.state().items() if name.endswith((".mean", ".var"))}
    model.forward(image(spec, size))
    assert len(before) == 2 * 2 * 5
    for name, value in before.items():
        assert (model.state()[name] != value).all()


def test_backward_needs_a_forward(rng):
    """Backward first, twice, after a switch of mode, and in eval mode: each is refused with the reason and the remedy."""
    spec, size = SMALL["same_bn, depth 1"]
    model, x = UNet(spec), image(spec, size, dtype="float32")
    dy = np.ones((2, *size, spec.classes), np.float32)
    missing = r"^head\.backward: no forward pass came before it\. Call forward once for every backward, in train\(\) mode or with"
    with pytest.raises(OrderError, match=missing):
        model.backward(dy)
    model.forward(x)
    model.backward(dy)
    with pytest.raises(OrderError, match=missing):
        model.backward(dy)
    model.forward(x)
    model.train()
    with pytest.raises(OrderError, match=missing):
        model.backward(dy)
    model.eval().forward(x)
    with pytest.raises(OrderError, match=r"^head\.backward: the network is in eval mode, .*eval\(remember=True\)"):
        model.backward(dy)
    model.eval(remember=True).forward(x)
    assert model.backward(dy).shape == x.shape


# Memory -------------------------------------------------------------------------------------------------------------


def watch(model):
    """Weak references to everything that leaves a layer in forward."""
    seen = []
    model.hook("*", lambda layer, event, y: seen.append(weakref.ref(y)) if event == "forward" else None)
    return seen


@every_spec
def test_backward_leaves_nothing_behind(spec, size):
    """After backward no map of the forward pass is alive."""
    model = UNet(spec)
    seen = watch(model)
    dy = np.ones_like(model.forward(image(spec, size, dtype="float32")))
    assert sum(ref() is not None for ref in seen) > len(seen) / 4
    model.backward(dy)
    assert not any(ref() is not None for ref in seen)


@every_spec
def test_prediction_leaves_only_its_result(spec, size):
    """In eval mode no map but the logits survives the forward pass."""
    model = UNet(spec).eval()
    seen = watch(model)
    y = model.forward(image(spec, size, dtype="float32"))
    assert [ref() for ref in seen if ref() is not None] == [pytest.approx(y)]


def test_a_switch_of_mode_drops_what_was_remembered():
    """A forward pass without backward is forgotten by `eval`."""
    spec, size = SMALL["paper, depth 1"]
    model = UNet(spec)
    seen = watch(model)
    model.forward(image(spec, size, dtype="float32"))
    assert any(ref() is not None for ref in seen)
    model.eval()
    assert not any(ref() is not None for ref in seen)


# Arguments are left alone -------------------------------------------------------------------------------------------


@every_spec
def test_image_and_gradient_are_not_written(spec, size, rng):
    """Read-only arrays go through forward and backward, and no result is a view of them."""
    model, x = randomised(spec), image(spec, size)
    x.flags.writeable = False
    y = model.forward(x)
    dy = rng.standard_normal(y.shape)
    dy.flags.writeable = False
    dx = model.backward(dy)
    assert not np.shares_memory(y, x)
    assert not np.shares_memory(dx, dy)


# Hooks and names ----------------------------------------------------------------------------------------------------


def test_find_takes_patterns():
    """`*` stands for anything; layers come in forward order."""
    model = UNet(UNetSpec(base=1, depth=2))
    parts = ("down.0", "down.1", "bottom", "up.1", "up.0")
    assert [layer.name for layer in model.find("*.conv1")] == [f"{part}.conv1" for part in parts]
    assert [layer.name for layer in model.find("head")] == ["head"]


def test_a_name_that_does_not_exist():
    """The message lists the names that do; a hook is not installed anywhere then."""
    model = UNet(UNetSpec(base=1, depth=1))
    with pytest.raises(ConfigError, match=r"no layer is called 'down\.7\.\*'\. There are: down\.0\.conv1, .*, head\."):
        model.find("down.7.*")
    with pytest.raises(ConfigError, match="no layer is called"):
        model.hook("encoder", lambda *call: None)
    assert not any(layer.hooks for layer in model.layers)


def test_hooks_can_be_removed():
    """`unhook` removes a function from all layers and leaves the others."""
    spec, size = SMALL["paper, depth 1"]
    model, seen, others = UNet(spec), [], []
    record, other = lambda layer, event, y: seen.append(layer.name), lambda layer, event, y: others.append(layer.name)
    model.hook("down.*", record)
    model.hook("head", record)
    model.hook("head", other)
    model.forward(image(spec, size, dtype="float32"))
    assert seen == [layer.name for layer in model.layers if layer.name.startswith(("down", "head"))]
    model.unhook(record)
    model.forward(image(spec, size, dtype="float32"))
    assert seen.count("head") == 1
    assert others == ["head", "head"]


# State --------------------------------------------------------------------------------------------------------------


def test_the_seed_decides():
    """A seed, or a generator with that seed, gives the same weights; another seed others; the dtype is float32."""
    spec = UNetSpec(base=2, depth=1)
    model, again, other = UNet(spec, 3), UNet(spec, np.random.default_rng(3)), UNet(spec, 4)
    for name, value in model.params().items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again.params()[name])
    assert (model.params()["head.w"] != other.params()["head.w"]).all()


def test_state_goes_into_another_network():
    """`state` of one network, loaded into another, gives the same logits; arrays are copied, not shared."""
    spec, size = SMALL["same_bn, depth 2"]
    model, other, x = randomised(spec, 1), randomised(spec, 2), image(spec, size)
    other.load_state(model.state())
    np.testing.assert_array_equal(other.eval().forward(x), model.eval().forward(x))
    assert not any(np.shares_memory(value, other.state()[name]) for name, value in model.state().items())
    assert {name.rsplit(".", 1)[1] for name in model.state()} == {"w", "b", "gamma", "beta", "mean", "var"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("head.w"), ConfigError, r"UNet\.load_state: 1 arrays are missing, first 'head\.w'\. Is the spec"),
        (lambda s: s.update(extra=s["head.b"]), ConfigError, r"1 arrays are unknown, first 'extra'\. Is the spec the same\?"),
        (
            lambda s: s.update({"head.b": np.zeros(3)}),
            ShapeError,
            r"UNet\.load_state: head\.b has shape \(3,\), this network needs \(2,\)",
        ),
        (lambda s: s.update({"head.b": np.zeros(1)}), ShapeError, r"head\.b has shape \(1,\), this network needs \(2,\)"),
    ],
    ids=["missing", "unknown", "shape", "shape that would broadcast"],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, message):
    """Missing, unknown and misshapen arrays are refused before anything is copied."""
    spec = UNetSpec(base=2, depth=1)
    model, state = UNet(spec, 0), dict(UNet(spec, 1).state())
    before = {name: value.copy() for name, value in model.state().items()}
    change(state)
    with pytest.raises(error, match=message):
        model.load_state(state)
    for name, value in model.state().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_astype_converts_everything(dtype, rng):
    """Parameters, gradients and statistics change dtype, the network goes on in it, and the logits stay what they were."""
    spec, size = SMALL["same_bn, depth 1"]
    model, x = UNet(spec).eval(remember=True), image(spec, size, dtype="float32")
    y = model.forward(x)
    assert model.astype(dtype) is model
    assert {value.dtype.name for value in (*model.state().values(), *model.grads().values())} == {dtype}
    converted = model.forward(x.astype(dtype))
    assert converted.dtype == dtype
    np.testing.assert_allclose(converted, y, rtol=1e-4, atol=1e-5)
    assert model.backward(converted).dtype == dtype


# Errors of the input ------------------------------------------------------------------------------------------------


def test_a_size_that_does_not_fit():
    """The message says where it stops fitting and which sizes near it work; nothing has run then."""
    model = UNet(UNetSpec(base=1, depth=4))
    with pytest.raises(ShapeError) as error:
        model.forward(np.zeros((1, 570, 570, 1), np.float32))
    assert str(error.value) == (
        "UNet.forward: a 570x570 image does not fit depth 4 with valid convolutions: level 1 (down.1) would pool an odd 279x279. "
        "Nearest sizes that work: 556, 572. `predict` takes any size."
    )


def test_an_image_with_other_channels():
    """A colour image for a grey network is refused with both numbers."""
    with pytest.raises(ShapeError, match=r"UNet\.forward: the image has 3 channels, the network takes 1\. .* with channels=3"):
        UNet(UNetSpec(base=1, depth=1)).forward(np.zeros((1, 20, 20, 3), np.float32))


def test_an_image_that_is_no_batch():
    """A lone image and bytes are refused with the conversion to use."""
    model = UNet(UNetSpec(base=1, depth=1))
    with pytest.raises(ShapeError, match=r"UNet\.forward: got an array of shape \(20, 20\), expected \(N, H, W, C\)"):
        model.forward(np.zeros((20, 20), np.float32))
    with pytest.raises(DTypeError, match=r"UNet\.forward: got dtype uint8, expected one of float32"):
        model.forward(np.zeros((1, 20, 20, 1), np.uint8))
    with pytest.raises(DTypeError, match=r"conv2d: w is float32 and the input is float64"):
        model.forward(np.zeros((1, 20, 20, 1)))


# It learns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "batch"])
def test_it_overfits_one_image(norm):
    """A small network learns one image of a disc in noise by heart in sixty steps."""
    rows, cols = np.mgrid[:16, :20]
    labels = ((rows - 7) ** 2 + (cols - 9) ** 2 < 25).astype(np.int32)[None]
    x = (labels[..., None] + 0.3 * np.random.default_rng(0).standard_normal((1, 16, 20, 1))).astype(np.float32)
    model = UNet(UNetSpec(base=8, depth=1, padding="same", norm=norm))
    optimizer = Adam(model, lr=0.01)
    for _ in range(60):
        model.zero_grad()
        loss, ctx = ops.softmax_cross_entropy_forward(model.forward(x), labels)
        model.backward(ops.softmax_cross_entropy_backward(ctx))
        optimizer.step()
    assert loss < 0.05
