"""The probe sees what passes through layers, changes nothing, and its measures are those of the arrays."""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.errors import ConfigError
from tinyunet.probe import dead_share, gradient_norms, influence, probe, skip_shares, update_ratios
from tinyunet.shapes import margin, receptive_field


@pytest.fixture
def model():
    """A small network with valid convolutions and no dropout."""
    return tu.UNet(tu.preset("paper", base=4, depth=2, dropout=0), rng=1)


@pytest.fixture
def step(model, rng):
    """step() runs forward and backward once."""
    x = rng.standard_normal((1, 44, 60, 1)).astype(np.float32)

    def run():
        y = model.forward(x)
        return y, model.backward(np.ones_like(y))

    return run


def test_it_sees_activations_and_gradients_by_pattern(model, step):
    """Outputs of the matching layers, in forward order, and the gradients of just these, in backward order."""
    with probe(model, "down.*.relu2", "head") as seen:
        y, _ = step()
    assert list(seen.y) == ["down.0.relu2", "down.1.relu2", "head"]
    assert list(seen.dy) == ["head", "down.1.relu2", "down.0.relu2"]
    np.testing.assert_array_equal(seen.y["head"], y)
    np.testing.assert_array_equal(seen.dy["head"], np.ones_like(y))
    assert all(seen.dy[name].shape == a.shape for name, a in seen.y.items())


def test_it_keeps_copies_and_leaves_no_trace(model, step):
    """What was seen does not change with the arrays; after the block nothing is seen, also after an error in it."""
    with probe(model) as seen:
        y, _ = step()
    kept = seen.y["head"].copy()
    y[...] = 0
    np.testing.assert_array_equal(seen.y["head"], kept)
    with pytest.raises(ZeroDivisionError), probe(model):
        raise ZeroDivisionError
    assert not any(layer.hooks for layer in model.layers)


def test_the_network_computes_the_same_with_a_probe(model, step):
    """Bit for bit."""
    y, dx = step()
    with probe(model):
        again, dx_again = step()
    np.testing.assert_array_equal(y, again)
    np.testing.assert_array_equal(dx, dx_again)


def test_a_layer_that_two_patterns_fit_is_seen_once(model, step):
    """One hook a layer."""
    with probe(model, "*", "head"):
        assert all(len(layer.hooks) == 1 for layer in model.layers)


def test_a_pattern_without_a_layer_is_refused(model):
    """And no hook is left behind."""
    with pytest.raises(ConfigError, match=r"^no layer is called 'dwn"), probe(model, "head", "dwn.*"):
        pass
    assert not any(layer.hooks for layer in model.layers)


def test_dead_channels_are_those_that_never_fire():
    """One of four is 0 at every pixel; one that fires at a single pixel is alive."""
    y = np.zeros((2, 3, 3, 4))
    y[..., :2], y[1, 2, 2, 2] = 1, 0.5
    assert dead_share(y) == 0.25


def test_gradients_that_meet_at_a_fork_are_the_two_that_add(model, step):
    """Their norms are those of the skip's part of the concatenation's gradient, and of what the pooling hands on."""
    with probe(model, "up.*.concat", "down.*.pool", "*.relu2") as seen:
        step()
    shares = skip_shares(model, seen)
    assert sorted(shares) == [0, 1]
    for level, (skip, below) in shares.items():
        up, down = model.up[1 - level], model.down[level]
        joined = seen.dy[f"up.{level}.concat"]
        c_up = joined.shape[3] - down.block.layers[0].params["w"].shape[3]
        np.testing.assert_allclose(skip, np.linalg.norm(joined[..., c_up:].astype(float)), rtol=1e-6)
        np.testing.assert_allclose(below, np.linalg.norm(seen.dy[down.pool.name].astype(float)), rtol=1e-6)
        assert up.concat.name == f"up.{level}.concat"
        assert skip > 0
        assert below > 0
    norms = gradient_norms(seen)
    np.testing.assert_allclose(norms["up.0.concat"], np.linalg.norm(seen.dy["up.0.concat"].astype(float)), rtol=1e-6)


def test_update_ratios_are_those_of_the_step(model, step):
    """Plain gradient descent changes w by lr |dw|; biases are left out."""
    step()
    before = {name: value.copy() for name, value in model.params().items()}
    for name, value in model.params().items():
        value -= 0.1 * model.grads()[name]
    ratios = update_ratios(before, model.params())
    assert set(ratios) == {name for name in before if name.endswith(".w")}
    name = "bottom.conv1.w"
    np.testing.assert_allclose(ratios[name], 0.1 * np.linalg.norm(model.grads()[name]) / np.linalg.norm(before[name]), rtol=1e-4)


def test_influence_lies_in_the_receptive_field(model, rng):
    """Nothing outside the exact box, something near each of its sides, and the network is left as it was."""
    for grad in model.grads().values():
        grad += 1
    before = {name: value.copy() for name, value in model.state().items()}
    at = (1, 3)
    measured = influence(model, (44, 60), at, rng)
    reach = receptive_field(model.spec)
    box = [(k + margin(model.spec) - reach[k % 4].before, k + margin(model.spec) + reach[k % 4].after + 1) for k in at]
    inside = measured[slice(*box[0]), slice(*box[1])]
    assert inside.shape == tuple(reach[k % 4].size for k in at)
    assert measured.sum() == pytest.approx(inside.sum())
    assert min(inside[:3].max(), inside[-3:].max(), inside[:, :3].max(), inside[:, -3:].max()) > 0
    assert all(np.array_equal(value, before[name]) for name, value in model.state().items())
    assert all((grad == 1).all() for grad in model.grads().values())
