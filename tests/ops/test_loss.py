"""Cross-entropy: against SciPy, its gradients, weights, pixels to ignore, and extreme logits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from tinyunet.check import check_complex_step, check_grad
from tinyunet.errors import DataError, ShapeError
from tinyunet.ops import (
    sigmoid,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    softmax,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from tinyunet.ops.loss import IGNORE

geometry = given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(2, 5), st.integers(0, 2**32 - 1))


def close(got, wanted):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def draw(n, h, w, k, seed):
    """Logits, labels of which about one in five is to be ignored (not the first), weights, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((n, h, w)) < 0.2, IGNORE, rng.integers(0, k, (n, h, w)))
    labels[0, 0, 0] = 0
    return rng.standard_normal((n, h, w, k)), labels, rng.uniform(0.2, 5, (n, h, w)), rng


def softmax_pair(labels, weights=None):
    """Softmax cross-entropy as a pair of functions of the logits alone."""
    return (
        lambda logits: softmax_cross_entropy_forward(logits, labels, weights),
        lambda dy, ctx: dy * softmax_cross_entropy_backward(ctx),
    )


def sigmoid_pair(labels, weights=None):
    """Sigmoid cross-entropy as a pair of functions of the logits alone."""
    return (
        lambda logits: sigmoid_cross_entropy_forward(logits, labels, weights),
        lambda dy, ctx: dy * sigmoid_cross_entropy_backward(ctx),
    )


# Reference ----------------------------------------------------------------------------------------------------------


@geometry
def test_softmax_loss_is_the_weighted_mean_of_minus_log_p(n, h, w, k, seed):
    """E = sum over annotated pixels of -w log p_label, divided by how many they are; log p is SciPy's."""
    logits, labels, weights, _ = draw(n, h, w, k, seed)
    log_p = log_softmax(logits, axis=-1)
    terms = [-weights[place] * log_p[place][labels[place]] for place in np.ndindex(labels.shape) if labels[place] != IGNORE]
    close(softmax_cross_entropy_forward(logits, labels, weights)[0], sum(terms) / len(terms))


@geometry
def test_sigmoid_loss_is_the_weighted_mean_of_minus_log_p(n, h, w, k, seed):
    """E = mean of -w log sigmoid(a) where the label is 1, of -w log sigmoid(-a) where it is 0."""
    logits, labels, weights, _ = draw(n, h, w, 2, seed)
    a = logits[..., 0]
    terms = [
        -weights[place] * np.log(expit(a[place] if labels[place] else -a[place]))
        for place in np.ndindex(labels.shape)
        if labels[place] != IGNORE
    ]
    close(sigmoid_cross_entropy_forward(logits[..., :1], labels, weights)[0], sum(terms) / len(terms))


def test_probabilities(rng):
    """Softmax sums to one over classes and follows exp; sigmoid is SciPy's expit."""
    logits = 10 * rng.standard_normal((2, 3, 4, 5))
    close(softmax(logits).sum(axis=-1), 1)
    close(softmax(logits), np.exp(log_softmax(logits, axis=-1)))
    close(sigmoid(logits), expit(logits))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_of_extreme_logits(dtype):
    """Each pixel by itself: nothing overflows, also beside a pixel whose logits are thousands away."""
    logits = np.array([[1000, 999, -1000], [-3000, -3001, -3002]], dtype)
    np.testing.assert_allclose(softmax(logits), np.exp(log_softmax(logits.astype(float), axis=-1)), rtol=1e-6)
    np.testing.assert_array_equal(sigmoid(logits[0]), np.array([1, 1, 0], dtype))


def test_the_context_holds_the_probabilities(rng):
    """What backward uses as p are softmax and sigmoid of the logits."""
    logits, labels, weights, _ = draw(2, 3, 4, 2, 0)
    close(softmax_cross_entropy_forward(logits, labels, weights)[1].p, softmax(logits))
    close(sigmoid_cross_entropy_forward(logits[..., :1], labels, weights)[1].p, sigmoid(logits[..., :1]))


# Gradient -----------------------------------------------------------------------------------------------------------


@geometry
def test_softmax_gradient_by_differences(n, h, w, k, seed):
    """The gradient of the logits agrees with difference quotients."""
    logits, labels, weights, rng = draw(n, h, w, k, seed)
    check_grad(*softmax_pair(labels, weights), {"logits": logits}, rng)


@geometry
def test_softmax_gradient_by_complex_step(n, h, w, k, seed):
    """The gradient of the logits agrees with the complex step to rounding."""
    logits, labels, weights, rng = draw(n, h, w, k, seed)
    check_complex_step(*softmax_pair(labels, weights), {"logits": logits}, rng)


@geometry
def test_sigmoid_gradient_by_differences(n, h, w, k, seed):
    """The gradient of the logit agrees with difference quotients."""
    logits, labels, weights, rng = draw(n, h, w, 2, seed)
    check_grad(*sigmoid_pair(labels, weights), {"logits": logits[..., :1]}, rng)


@geometry
def test_sigmoid_gradient_by_complex_step(n, h, w, k, seed):
    """The gradient of the logit agrees with the complex step to rounding."""
    logits, labels, weights, rng = draw(n, h, w, 2, seed)
    check_complex_step(*sigmoid_pair(labels, weights), {"logits": logits[..., :1]}, rng)


# Properties of softmax ----------------------------------------------------------------------------------------------


def test_a_shift_of_all_logits_of_a_pixel_changes_nothing(rng):
    """Only differences between logits count."""
    logits, labels, weights, _ = draw(2, 3, 4, 3, 0)
    shifted = logits + rng.standard_normal((2, 3, 4, 1))
    close(softmax_cross_entropy_forward(shifted, labels, weights)[0], softmax_cross_entropy_forward(logits, labels, weights)[0])


def test_the_gradient_sums_to_zero_over_classes():
    """What one class gains the others lose, in every pixel."""
    logits, labels, weights, _ = draw(2, 3, 4, 5, 0)
    _, ctx = softmax_cross_entropy_forward(logits, labels, weights)
    np.testing.assert_allclose(softmax_cross_entropy_backward(ctx).sum(axis=-1), 0, atol=1e-16)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_equal_logits_cost_log_k(k):
    """A network that knows nothing has loss ln K."""
    close(softmax_cross_entropy_forward(np.full((2, 3, 4, k), 5.0), np.zeros((2, 3, 4), int))[0], np.log(k))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certainty_costs_nothing_and_large_errors_stay_finite(dtype):
    """Logits of +-10,000: right ones have loss and gradient 0, wrong ones cost their difference, 20,000, and gradient 1."""
    logits = np.array([1e4, -1e4], dtype).reshape(1, 1, 1, 2)
    loss, ctx = softmax_cross_entropy_forward(logits, np.zeros((1, 1, 1), int))
    assert loss == 0
    assert not softmax_cross_entropy_backward(ctx).any()
    loss, ctx = softmax_cross_entropy_forward(logits, np.ones((1, 1, 1), int))
    assert loss == 2e4
    np.testing.assert_array_equal(softmax_cross_entropy_backward(ctx).ravel(), [1, -1])


def test_permuting_classes_permutes_the_gradient():
    """Renaming classes in logits and labels keeps the loss and carries the gradient along."""
    logits, labels, weights, _ = draw(2, 3, 4, 3, 0)
    order = np.array([1, 2, 0])  # class j becomes the place of j in order
    renamed = np.where(labels == IGNORE, IGNORE, np.argsort(order)[labels])
    loss, ctx = softmax_cross_entropy_forward(logits, labels, weights)
    loss2, ctx2 = softmax_cross_entropy_forward(logits[..., order], renamed, weights)
    close(loss2, loss)
    close(softmax_cross_entropy_backward(ctx2), softmax_cross_entropy_backward(ctx)[..., order])


# Properties of sigmoid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("a", "label", "cost", "slope"), [(1e4, 1, 0, 0), (-1e4, 0, 0, 0), (1e4, 0, 1e4, 1), (-1e4, 1, 1e4, -1)])
def test_extreme_logits_of_the_sigmoid(a, label, cost, slope, dtype):
    """A logit of +-10,000 costs nothing where it is right, and 10,000 with gradient +-1 where it is wrong."""
    loss, ctx = sigmoid_cross_entropy_forward(np.full((1, 1, 1, 1), a, dtype), np.full((1, 1, 1), label))
    assert loss == cost
    assert sigmoid_cross_entropy_backward(ctx).item() == slope


def test_a_zero_logit_costs_log_2():
    """At a = 0 the sigmoid is one half and the loss ln 2, for both labels."""
    close(sigmoid_cross_entropy_forward(np.zeros((1, 1, 2, 1)), np.array([[[0, 1]]]))[0], np.log(2))


def test_swapping_the_labels_flips_the_logit():
    """Foreground and background may be exchanged together with the sign of the logit."""
    logits, labels, weights, _ = draw(2, 3, 4, 2, 0)
    a = logits[..., :1]
    swapped = np.where(labels == IGNORE, IGNORE, 1 - labels)
    close(sigmoid_cross_entropy_forward(-a, swapped, weights)[0], sigmoid_cross_entropy_forward(a, labels, weights)[0])


# Agreement ----------------------------------------------------------------------------------------------------------


@geometry
def test_sigmoid_is_softmax_with_the_logits_zero_and_a(n, h, w, k, seed):
    """One logit and a sigmoid: the loss, the gradient and the probability of two logits (0, a) and a softmax."""
    logits, labels, weights, _ = draw(n, h, w, 2, seed)
    a = logits[..., :1]
    one, one_ctx = sigmoid_cross_entropy_forward(a, labels, weights)
    two, two_ctx = softmax_cross_entropy_forward(np.concatenate((0 * a, a), axis=-1), labels, weights)
    close(one, two)
    close(sigmoid_cross_entropy_backward(one_ctx)[..., 0], softmax_cross_entropy_backward(two_ctx)[..., 1])
    close(one_ctx.p[..., 0], two_ctx.p[..., 1])


# Properties of both -------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize(("pair", "k"), [(softmax_pair, 3), (sigmoid_pair, 1)], ids=["softmax", "sigmoid"])
NAMES = {softmax_pair: "softmax_cross_entropy", sigmoid_pair: "sigmoid_cross_entropy"}


def logits_and_labels(k, seed=0):
    """Logits with k channels, labels that fit them, and weights."""
    logits, labels, weights, _ = draw(2, 3, 4, max(k, 2), seed)
    return logits[..., :k], labels, weights


@both
def test_linear_in_the_weights(pair, k):
    """The loss of a sum of weight maps is the sum of the losses: it is divided by pixels, not by the sum of weights."""
    logits, labels, weights = logits_and_labels(k)
    other = np.random.default_rng(9).uniform(0, 3, weights.shape)
    a, b = pair(labels, weights)[0](logits)[0], pair(labels, other)[0](logits)[0]
    close(pair(labels, 2 * weights + other)[0](logits)[0], 2 * a + b)


@both
def test_no_weights_are_weights_of_one(pair, k):
    """None and a map of ones are the same."""
    logits, labels, _ = logits_and_labels(k)
    assert pair(labels, None)[0](logits)[0] == pair(labels, np.ones(labels.shape))[0](logits)[0]


@both
def test_a_pixel_of_weight_zero_has_no_influence(pair, k):
    """Its logits may be anything, and its gradient is zero; but it counts among the pixels."""
    logits, labels, weights = logits_and_labels(k)
    weights[0, 0, 0] = 0
    loss, ctx = pair(labels, weights)[0](logits)
    other = logits.copy()
    other[0, 0, 0] += 5
    assert pair(labels, weights)[0](other)[0] == loss
    assert not pair(labels, weights)[1](1.0, ctx)[0, 0, 0].any()


@both
def test_an_ignored_pixel_does_not_count(pair, k):
    """Ignoring pixels is the same as a batch without them: loss, gradient and the number divided by."""
    logits, labels, weights = logits_and_labels(k)
    counted = labels != IGNORE
    flat = (1, 1, int(counted.sum()))
    forward, backward = pair(labels, weights)
    some_forward, some_backward = pair(labels[counted].reshape(flat), weights[counted].reshape(flat))
    loss, ctx = forward(logits)
    some, some_ctx = some_forward(logits[counted].reshape(*flat, k))
    close(loss, some)
    gradient = backward(1.0, ctx)
    close(gradient[counted], some_backward(1.0, some_ctx)[0, 0])
    assert not gradient[~counted].any()


@both
def test_weights_of_ignored_pixels_are_not_looked_at(pair, k):
    """A NaN in the weight map where nothing is annotated does no harm."""
    logits, labels, weights = logits_and_labels(k)
    wanted = pair(labels, weights)[0](logits)[0]
    assert pair(labels, np.where(labels == IGNORE, np.nan, weights))[0](logits)[0] == wanted


@both
def test_no_annotated_pixel(pair, k):
    """With nothing to learn from, loss and gradient are zero."""
    logits, labels, weights = logits_and_labels(k)
    forward, backward = pair(np.full_like(labels, IGNORE), weights)
    loss, ctx = forward(logits)
    assert loss == 0
    assert not backward(1.0, ctx).any()


@both
def test_a_duplicated_batch_has_the_same_loss(pair, k):
    """The loss is a mean over pixels: a batch given twice costs the same, and each copy gets half the gradient."""
    logits, labels, weights = logits_and_labels(k)
    twice = [np.concatenate((a, a)) for a in (logits, labels, weights)]
    loss, ctx = pair(labels, weights)[0](logits)
    loss2, ctx2 = pair(*twice[1:])[0](twice[0])
    close(loss2, loss)
    close(pair(labels)[1](1.0, ctx2)[:2], pair(labels)[1](1.0, ctx) / 2)


@both
def test_the_loss_is_a_python_number(pair, k):
    """A plain float, also for float32 logits, added up in double precision."""
    logits, labels, weights = logits_and_labels(k)
    assert type(pair(labels, weights)[0](logits.astype(np.float32))[0]) is float
    many = np.zeros((1, 1000, 1000, k), np.float32)
    loss, _ = pair(np.zeros((1, 1000, 1000), np.uint8))[0](many)
    np.testing.assert_allclose(loss, np.log(max(k, 2)), rtol=1e-6)


def test_the_loss_is_added_up_in_double_precision():
    """Beside one pixel of weight 2^25, thousands of weight 1 would be lost in float32."""
    weights = np.ones((1, 64, 64), np.float32)
    weights[0, 0, 0] = 2**25
    loss, ctx = softmax_cross_entropy_forward(np.zeros((1, 64, 64, 2), np.float32), np.zeros((1, 64, 64), int), weights)
    np.testing.assert_allclose(loss, (ctx.factor * np.log(np.float32(2))).astype(float).sum(), rtol=1e-12)


@both
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_any_integer_labels(pair, k, dtype):
    """Labels of any integer dtype give the same loss."""
    logits, labels, weights = logits_and_labels(k)
    labels = np.abs(labels)
    assert pair(labels.astype(dtype), weights)[0](logits)[0] == pair(labels, weights)[0](logits)[0]


# Errors -------------------------------------------------------------------------------------------------------------


@both
def test_labels_of_another_size(pair, k):
    """Labels of the whole image against the smaller output: the message says to crop them."""
    logits, labels, _ = logits_and_labels(k)
    text = rf"^{NAMES[pair]}: labels have shape \(2, 5, 4\), .* expected \(2, 3, 4\)\. "
    text += r"With valid convolutions .*: crop the labels to its centre\.$"
    with pytest.raises(ShapeError, match=text):
        pair(np.zeros((2, 5, 4), int))[0](logits)
    text = rf"^{NAMES[pair]}: weights have shape \(2, 3\), labels \(2, 3, 4\)\. Give one weight per pixel"
    with pytest.raises(ShapeError, match=text):
        pair(labels, np.ones((2, 3)))[0](logits)


@both
def test_labels_that_are_no_classes(pair, k):
    """A mask of 0 and 255, a label one too high, or one below -1, is refused with the range that was found."""
    logits, labels, _ = logits_and_labels(k)
    for bad in (255, max(k, 2), -2):
        wrong = labels.copy()
        wrong[0, 0, 0] = bad
        text = rf"^{NAMES[pair]}: labels run from .*{bad}.*, but there are classes 0 to {max(k, 2) - 1} \(and -1"
        with pytest.raises(DataError, match=text):
            pair(wrong)[0](logits)


@both
def test_labels_that_are_no_integers(pair, k):
    """Float labels, and a boolean mask, are refused with the conversion to use."""
    logits, labels, _ = logits_and_labels(k)
    for dtype in ("float32", "bool"):
        text = rf"^{NAMES[pair]}: labels are {dtype}, expected whole numbers\. Convert with labels\.astype"
        with pytest.raises(DataError, match=text):
            pair(labels.astype(dtype))[0](logits)


def test_several_logits_for_the_sigmoid():
    """The sigmoid takes one logit a pixel."""
    with pytest.raises(ShapeError, match=r"sigmoid_cross_entropy: got 2 logits a pixel, expected 1\. Use softmax for several"):
        sigmoid_cross_entropy_forward(np.zeros((1, 3, 4, 2)), np.zeros((1, 3, 4), int))
