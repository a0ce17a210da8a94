"""Optimizers against their formulas written out, schedules against their values, and going on as if nothing had happened."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tinyunet.errors import CheckpointError, ConfigError
from tinyunet.optim import SGD, Adam, schedule


class Toy:
    """A model of one weight matrix and one bias, with gradients that the test sets."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.arrays = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)}
        self.gradients = {name: np.zeros_like(value) for name, value in self.arrays.items()}

    def params(self):
        """Parameters by name."""
        return self.arrays

    def grads(self):
        """Gradients by name."""
        return self.gradients


def gradients(steps, seed=1):
    """A random gradient for every step."""
    rng = np.random.default_rng(seed)
    return [{"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)} for _ in range(steps)]


def run(optimizer, model, many):
    """One step for each gradient."""
    for gradient in many:
        for name, g in gradient.items():
            model.gradients[name][...] = g
        optimizer.step()


# Reference ----------------------------------------------------------------------------------------------------------


def test_sgd_without_momentum_is_a_straight_line():
    """With momentum 0, w = w_0 - lr * sum of gradients."""
    model, many = Toy(), gradients(5)
    run(SGD(model, lr=0.1, momentum=0.0), model, many)
    np.testing.assert_allclose(model.arrays["w"], Toy().arrays["w"] - 0.1 * sum(g["w"] for g in many), rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_momentum_has_a_closed_form(momentum):
    """Under a constant g, v_t = g (1 - m^t) / (1 - m), and w has moved by lr times the sum of all v_t."""
    model, g, t = Toy(), gradients(1)[0], 20
    optimizer = SGD(model, lr=0.01, momentum=momentum)
    run(optimizer, model, [g] * t)
    np.testing.assert_allclose(optimizer.velocity["w"], g["w"] * (1 - momentum**t) / (1 - momentum), rtol=1e-12)
    moved = sum((1 - momentum**s) / (1 - momentum) for s in range(1, t + 1))
    np.testing.assert_allclose(model.arrays["w"], Toy().arrays["w"] - 0.01 * moved * g["w"], rtol=1e-12)


def test_adam_is_algorithm_1():
    """Five steps of changing gradients agree with the algorithm written out for single numbers."""
    model, many = Toy(), gradients(5)
    run(Adam(model, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3), model, many)
    for name, start in Toy().arrays.items():
        for place in np.ndindex(start.shape):
            w, m, s = start[place], 0.0, 0.0
            for t, gradient in enumerate(many, start=1):
                g = gradient[name][place]
                m = 0.8 * m + 0.2 * g
                s = 0.95 * s + 0.05 * g * g
                w -= 0.02 * (m / (1 - 0.8**t)) / (math.sqrt(s / (1 - 0.95**t)) + 1e-3)
            np.testing.assert_allclose(model.arrays[name][place], w, rtol=1e-12)


def test_the_first_step_of_adam_is_the_learning_rate():
    """Without the corrections it would be a third of it; with them every weight moves by lr against its gradient's sign."""
    model, g = Toy(), gradients(1)[0]
    run(Adam(model, lr=0.01), model, [g])
    np.testing.assert_allclose(model.arrays["w"] - Toy().arrays["w"], -0.01 * np.sign(g["w"]), rtol=1e-6)


# Properties ---------------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("make", [SGD, Adam])


@both
def test_parameters_change_in_place(make):
    """The arrays of the network are the ones that move; the gradients are left alone."""
    model, many = Toy(), gradients(1)
    w, before = model.arrays["w"], model.arrays["w"].copy()
    run(make(model), model, many)
    assert model.arrays["w"] is w
    assert (w != before).all()
    np.testing.assert_array_equal(model.gradients["w"], many[0]["w"])


@both
def test_weight_decay_acts_on_weights_only(make):
    """With zero gradients, weights shrink and biases, as everything of one dimension, stay."""
    model = Toy()
    run(make(model, lr=0.1, weight_decay=0.5), model, [{"w": np.zeros((3, 2)), "b": np.zeros(2)}])
    assert (abs(model.arrays["w"]) < abs(Toy().arrays["w"])).all()
    np.testing.assert_array_equal(model.arrays["b"], Toy().arrays["b"])


@both
def test_weight_decay_is_a_gradient_of_half_the_square(make):
    """Decay lambda is the gradient lambda w added to g."""
    decayed, plain, many = Toy(), Toy(), gradients(1)
    run(make(decayed, weight_decay=0.3), decayed, many)
    run(make(plain), plain, [{"w": many[0]["w"] + 0.3 * plain.arrays["w"], "b": many[0]["b"]}])
    np.testing.assert_allclose(decayed.arrays["w"], plain.arrays["w"], rtol=1e-12)


@both
def test_the_learning_rate_may_change_between_steps(make):
    """`lr` is read at every step: with 1e-300 nothing moves."""
    model, many = Toy(), gradients(2)
    optimizer = make(model, lr=0.1)
    run(optimizer, model, many[:1])
    after = model.arrays["w"].copy()
    optimizer.lr = 1e-300
    run(optimizer, model, many[1:])
    np.testing.assert_array_equal(model.arrays["w"], after)


@both
def test_going_on_from_a_stored_state_is_the_undisturbed_run(make):
    """Three steps, state and weights into new objects, three more steps: bit for bit the result of six."""
    straight, many = Toy(), gradients(6)
    run(make(straight, lr=0.05), straight, many)

    first = Toy()
    optimizer = make(first, lr=0.05)
    run(optimizer, first, many[:3])
    stored = {name: value.copy() for name, value in optimizer.state().items()}
    second = Toy(seed=5)
    for name, value in first.arrays.items():
        second.arrays[name][...] = value
    resumed = make(second, lr=0.05)
    resumed.load_state(stored, optimizer.steps)
    run(resumed, second, many[3:])
    assert resumed.steps == 6
    for name in straight.arrays:
        np.testing.assert_array_equal(second.arrays[name], straight.arrays[name])


@both
def test_float32_stays_float32(make):
    """Neither parameters nor state drift to another dtype."""
    w = np.ones((2, 2), np.float32)
    model = SimpleNamespace(params=lambda: {"w": w}, grads=lambda: {"w": np.ones_like(w)})
    optimizer = make(model, weight_decay=0.1)
    optimizer.step()
    assert {a.dtype for a in (w, *optimizer.state().values())} == {np.dtype(np.float32)}


@both
def test_both_find_the_bottom_of_a_bowl(make):
    """On half the squared distance to a target, 500 steps end near it."""
    model, target = Toy(), 3.0
    optimizer = make(model, lr=0.05, **({"momentum": 0.9} if make is SGD else {}))
    for _ in range(500):
        for name, w in model.arrays.items():
            model.gradients[name][...] = w - target
        optimizer.step()
    np.testing.assert_allclose(model.arrays["w"], target, atol=1e-3)


# Schedules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, (1 - math.cos(math.pi / 100)) / 2, 0]),
        ("poly", [1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.01**0.9, 0]),
        ("step", [1, 1, 0.1, 0.01, 0.01, 0.01]),
    ],
)
def test_schedules(name, values):
    """Values at the start, at the quarters, at the last step, and where the run would end."""
    np.testing.assert_allclose([schedule(name, step, 100) for step in (0, 25, 50, 75, 99, 100)], values, rtol=1e-12, atol=1e-15)


def test_the_step_schedule_changes_on_the_step():
    """49 of 100 still has 1, 50 has 0.1; 74 has 0.1, 75 has 0.01."""
    assert [schedule("step", step, 100) for step in (49, 50, 74, 75)] == [1.0, 0.1, 0.1, 0.01]


def test_warm_up_grows_to_one():
    """With a warm-up of 4 steps the factors are 1/5, 2/5, 3/5, 4/5 and then 1, on top of any schedule."""
    np.testing.assert_allclose([schedule("constant", step, 100, warmup=4) for step in range(6)], [0.2, 0.4, 0.6, 0.8, 1, 1])
    assert schedule("cosine", 1, 100, warmup=4) == pytest.approx(0.4 * schedule("cosine", 1, 100))


# Errors -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf")])
def test_learning_rates_that_are_none(make, lr):
    """The learning rate must be a positive number."""
    with pytest.raises(ConfigError, match=rf"{make.__name__}: the learning rate is {lr}\. Give a positive number"):
        make(Toy(), lr=lr)


@both
@pytest.mark.parametrize("decay", [-1e-4, float("nan"), float("inf")])
def test_weight_decays_that_are_none(make, decay):
    """Weight decay must be zero or positive."""
    with pytest.raises(ConfigError, match=rf"{make.__name__}: weight_decay is {decay}\. Give 0 or a positive number"):
        make(Toy(), weight_decay=decay)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5])
def test_momenta_that_are_none(value):
    """Momentum and the betas of Adam lie in [0, 1)."""
    with pytest.raises(ConfigError, match=rf"SGD: momentum is {value}\. Give at least 0 and less than 1; the paper has 0\.99"):
        SGD(Toy(), momentum=value)
    with pytest.raises(ConfigError, match=rf"Adam: beta1 is {value}\. Give at least 0 and less than 1"):
        Adam(Toy(), beta1=value)
    with pytest.raises(ConfigError, match=rf"Adam: beta2 is {value}\. Give at least 0 and less than 1"):
        Adam(Toy(), beta2=value)


def test_the_state_of_another_optimizer():
    """The state of Adam does not fit SGD; nothing is loaded, and the message names an array that is odd."""
    model = Toy()
    optimizer = SGD(model)
    with pytest.raises(CheckpointError, match=r"SGD: the stored state does not fit, see 'mean\.b'\. Resume with"):
        optimizer.load_state(Adam(model).state(), 3)
    assert optimizer.steps == 0


def test_the_state_of_another_network():
    """Arrays of other shapes are refused before any is loaded, also where NumPy could broadcast them."""
    optimizer = SGD(Toy())
    with pytest.raises(CheckpointError, match=r"SGD: the stored velocity\.b has shape \(1,\), this network needs \(2,\)"):
        optimizer.load_state({"velocity.w": np.ones((3, 2)), "velocity.b": np.ones(1)}, 3)
    assert not optimizer.velocity["w"].any()
    assert optimizer.steps == 0


def test_a_schedule_that_does_not_exist():
    """An unknown name is refused with those that exist."""
    with pytest.raises(ConfigError, match=r"there is no schedule 'linear'\. Choose constant, cosine, poly or step"):
        schedule("linear", 0, 10)
