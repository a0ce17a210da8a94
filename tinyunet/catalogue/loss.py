"""What the cross-entropies keep: finite for any logits, linear in the weights, a mean over the annotated pixels.

A loss is where the backward pass begins: backward(ctx) takes no dy. Softmax and sigmoid themselves are subjects too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, Kind, Op, holds, require, require_close
from tinyunet.catalogue.laws import OF_LINEAR_OPS, OF_PARAMETERS, Case, geometry, keep_laws, require_equal, require_refused

IGNORE = -1
"""The label of a pixel that nobody annotated."""

SOFTMAX, SIGMOID = "softmax_cross_entropy", "sigmoid_cross_entropy"


def values(draw: Draw, classes: int | None = None) -> tuple[Array, Array, Array]:
    """Logits, labels of which about one in five is to be ignored (not the first), and weights."""
    n, height, width, _ = geometry(draw, high=4)
    k = draw.integer(2, 5) if classes is None else classes
    labels = np.where(draw.rng.random((n, height, width)) < 0.2, IGNORE, draw.rng.integers(0, max(k, 2), (n, height, width)))
    labels[0, 0, 0] = draw.integer(0, max(k, 2) - 1)
    return draw.rng.standard_normal((n, height, width, k)), labels, draw.rng.uniform(0.2, 5, labels.shape)


def loss_case(op: Op, logits: Array, labels: Array, weights: Array) -> Case:
    """The loss as a function of the logits, and a backward that takes dy as other ops do."""

    def forward(x: Array) -> Any:
        return op.forward(x, labels, weights.astype(x.real.dtype))

    return Case({"x": logits}, forward, lambda dy, ctx: float(dy) * op.backward(ctx), ())


def softmax_cases(op: Op, draw: Draw) -> Iterator[Case]:
    yield loss_case(op, *values(draw))


def sigmoid_cases(op: Op, draw: Draw) -> Iterator[Case]:
    yield loss_case(op, *values(draw, 1))


# A loss is one number of all images, and has no dy to refuse or to spoil; what it does with a NaN is below.
NO_LAWS = ["images_do_not_mix", "an_empty_batch_is_fine", "a_nan_stays_in_its_image", "a_nan_is_not_hidden",
           "an_infinity_is_not_hidden", "a_nan_in_dy_is_not_hidden", "a_dy_of_another_shape_is_refused",
           "backward_is_linear_in_dy", *OF_LINEAR_OPS, *OF_PARAMETERS]  # fmt: skip
keep_laws(SOFTMAX, softmax_cases, without=NO_LAWS)
keep_laws(SIGMOID, sigmoid_cases, without=NO_LAWS)

Law = Callable[[Op, Draw, int | None], None]
"""A law of both losses; the last argument is the number of logits, None for any."""


def both(kind: Kind) -> Callable[[Law], Law]:
    """Enter a law for softmax with any number of classes, and for the sigmoid with its one logit."""

    def enter(run: Law) -> Law:
        for subject, classes in ((SOFTMAX, None), (SIGMOID, 1)):

            def one(op: Op, draw: Draw, classes: int | None = classes) -> None:
                run(op, draw, classes)

            one.__name__, one.__doc__ = run.__name__, run.__doc__
            holds(subject, kind)(one)
        return run

    return enter


# ---------------------------------------------------------------------------------------------------------------------
# Reference
# ---------------------------------------------------------------------------------------------------------------------


def annotated(labels: Array) -> list[tuple[int, ...]]:
    """The places of the pixels that count."""
    return [place for place in np.ndindex(labels.shape) if labels[place] != IGNORE]


@holds(SOFTMAX, "reference")
def the_loss_is_the_weighted_mean_of_minus_log_p(op: Op, draw: Draw) -> None:
    """E sums -w log p_label over the annotated pixels and divides by their number; log p is SciPy's log_softmax."""
    from scipy.special import log_softmax

    logits, labels, weights = values(draw)
    log_p = log_softmax(logits, axis=-1)
    terms = [-weights[place] * log_p[place][labels[place]] for place in annotated(labels)]
    require_close("E", op.forward(logits, labels, weights)[0], sum(terms) / len(terms))


@holds(SIGMOID, "reference")
def the_loss_is_the_weighted_mean_of_log_expit(op: Op, draw: Draw) -> None:
    """E is the mean of -w log sigmoid(a) where the label is 1, and of -w log sigmoid(-a) where it is 0; sigmoid is SciPy's."""
    from scipy.special import log_expit

    logits, labels, weights = values(draw, 1)
    terms = [-weights[place] * log_expit((2 * labels[place] - 1) * logits[place][0]) for place in annotated(labels)]
    require_close("E", op.forward(logits, labels, weights)[0], sum(terms) / len(terms))


@holds(SOFTMAX, "reference")
def the_gradient_is_p_minus_the_target(op: Op, draw: Draw) -> None:
    """da_k = w / M (p_k - 1) for the true class, w / M p_k for the others, and 0 where the label is to be ignored."""
    from scipy.special import softmax

    logits, labels, weights = values(draw)
    expected = np.zeros(logits.shape)
    for place in annotated(labels):
        expected[place] = softmax(logits[place])
        expected[place][labels[place]] -= 1
        expected[place] *= weights[place] / len(annotated(labels))
    require_close("da", op.backward(op.forward(logits, labels, weights)[1]), expected)


@holds(SIGMOID, "reference")
def the_gradient_is_p_minus_the_label(op: Op, draw: Draw) -> None:
    """da = w / M (p - label), and 0 where the label is to be ignored."""
    from scipy.special import expit

    logits, labels, weights = values(draw, 1)
    expected = np.zeros(logits.shape)
    for place in annotated(labels):
        expected[place] = weights[place] * (expit(logits[place]) - labels[place]) / len(annotated(labels))
    require_close("da", op.backward(op.forward(logits, labels, weights)[1]), expected)


@holds(SIGMOID, "reference")
def it_is_softmax_with_a_first_logit_of_zero(op: Op, draw: Draw) -> None:
    """The sigmoid loss of a is the softmax loss of the two logits (0, a), and its gradient is that of the second."""
    from scipy.special import log_softmax

    logits, labels, weights = values(draw, 1)
    two = np.concatenate((0 * logits, logits), axis=-1)
    log_p = log_softmax(two, axis=-1)
    E, ctx = op.forward(logits, labels, weights)
    require_close("E", E, -np.mean([weights[place] * log_p[place][labels[place]] for place in annotated(labels)]))
    counted = (labels != IGNORE)[..., None]
    expected = np.where(counted, (np.exp(log_p[..., 1:]) - (labels[..., None] == 1)) * weights[..., None], 0) / counted.sum()
    require_close("da", op.backward(ctx), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Logits
# ---------------------------------------------------------------------------------------------------------------------


@holds(SOFTMAX, "invariance")
def a_shift_of_all_logits_of_a_pixel_changes_nothing(op: Op, draw: Draw) -> None:
    """Only differences between logits count: adding a number to all logits of a pixel changes neither loss nor gradient."""
    logits, labels, weights = values(draw)
    shifted = logits + 3 * draw.rng.standard_normal((*labels.shape, 1))
    (E, ctx), (E2, ctx2) = op.forward(logits, labels, weights), op.forward(shifted, labels, weights)
    require_close("E of shifted logits", E2, E)
    require_close("da of shifted logits", op.backward(ctx2), op.backward(ctx))


@holds(SOFTMAX, "invariance")
def the_gradient_sums_to_zero(op: Op, draw: Draw) -> None:
    """The gradient sums to zero over the classes of each pixel: what one class gains, the others lose."""
    logits, labels, weights = values(draw)
    da = op.backward(op.forward(logits, labels, weights)[1])
    require_close("da summed over classes", da.sum(axis=-1), np.zeros(labels.shape), scale=float(np.abs(da).max()))


@holds(SOFTMAX, "invariance")
def classes_may_be_renamed(op: Op, draw: Draw) -> None:
    """Permuting the classes of logits and labels alike keeps the loss and permutes the gradient."""
    logits, labels, weights = values(draw)
    order = draw.rng.permutation(logits.shape[-1])
    renamed = np.where(labels == IGNORE, IGNORE, np.argsort(order)[labels])
    (E, ctx), (E2, ctx2) = op.forward(logits, labels, weights), op.forward(logits[..., order], renamed, weights)
    require_close("E of renamed classes", E2, E)
    require_close("da of renamed classes", op.backward(ctx2), op.backward(ctx)[..., order])


@holds(SIGMOID, "invariance")
def the_classes_may_be_swapped(op: Op, draw: Draw) -> None:
    """Swapping 0 and 1 in the labels and the sign of the logits keeps the loss and flips the gradient."""
    logits, labels, weights = values(draw, 1)
    swapped = np.where(labels == IGNORE, IGNORE, 1 - labels)
    (E, ctx), (E2, ctx2) = op.forward(logits, labels, weights), op.forward(-logits, swapped, weights)
    require_close("E of swapped classes", E2, E)
    require_close("da of swapped classes", op.backward(ctx2), -op.backward(ctx))


@both("contract")
def finite_for_extreme_logits(op: Op, draw: Draw, classes: int | None) -> None:
    """Logits of +-10,000 give the exact loss, without an overflow and without a logarithm of zero, in float32 too."""
    _, labels, weights = values(draw, classes)
    k = classes or draw.integer(2, 4)
    labels = np.minimum(labels, max(k, 2) - 1)
    dtype = draw.choice((np.float64, np.float32))
    logits = (draw.rng.choice([-1e4, 1e4], (*labels.shape, k)) + draw.rng.standard_normal((*labels.shape, k))).astype(dtype)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        E, ctx = op.forward(logits, labels, weights.astype(dtype))
        da = op.backward(ctx)
    full = logits.astype(float) if k > 1 else np.concatenate((np.zeros(logits.shape), logits.astype(float)), axis=-1)
    terms = []
    for place in annotated(labels):
        a = full[place] - full[place].max()
        terms.append(weights[place] * (np.log(np.exp(a).sum()) - a[labels[place]]))
    require_close("E", E, np.mean(terms), rtol=1e-12 if dtype == np.float64 else 1e-5)
    require(bool(np.isfinite(da).all()), "da is not finite")


@both("invariance")
def without_knowledge_the_loss_is_ln_k(op: Op, draw: Draw, classes: int | None) -> None:
    """Equal logits cost ln K a pixel (ln 2 for the sigmoid), however many there are."""
    logits, labels, _ = values(draw, classes)
    k = max(logits.shape[-1], 2)
    equal = np.full(logits.shape, draw.rng.standard_normal() if classes is None else 0.0)
    require_close("E of equal logits", op.forward(equal, labels)[0], np.log(k))


@both("invariance")
def certainty_costs_nothing(op: Op, draw: Draw, classes: int | None) -> None:
    """Where the network is certain of the true class, loss and gradient are zero; certain of another, the loss is the margin."""
    _, labels, weights = values(draw, classes)
    labels = np.minimum(np.abs(labels), 1)
    right = (2 * labels[..., None] - 1) * 500.0 * (np.ones(1) if classes else np.array([-1, 1]))
    E, ctx = op.forward(right, labels, weights)
    require(abs(E) < 1e-200, f"E is {E:g} for a network that is certain and right")
    require(float(np.abs(op.backward(ctx)).max()) < 1e-200, "da is not zero for a network that is certain and right")
    margin = 500 if classes else 1000
    require_close("E of a network that is certain and wrong", op.forward(-right, labels, weights)[0], margin * weights.mean())


@both("contract")
def a_nan_in_a_logit_is_not_hidden(op: Op, draw: Draw, classes: int | None) -> None:
    """A NaN in a logit of an annotated pixel makes the loss NaN, and with it the gradient of that pixel."""
    logits, labels, weights = values(draw, classes)
    logits[0, 0, 0, -1] = np.nan
    with np.errstate(invalid="ignore"):
        E, ctx = op.forward(logits, labels, weights)
        da = op.backward(ctx)
    require(bool(np.isnan(E)), f"a logit is NaN, and E is {E}")
    require(bool(np.isnan(da[0, 0, 0]).all()), "a logit is NaN, and da of its pixel is not")
    require(bool(np.isfinite(da).sum() == da.size - da.shape[-1]), "a NaN in one pixel shows in the gradient of another")


# ---------------------------------------------------------------------------------------------------------------------
# Weights, ignored pixels, and the number divided by
# ---------------------------------------------------------------------------------------------------------------------


@both("invariance")
def linear_in_the_weights(op: Op, draw: Draw, classes: int | None) -> None:
    """E of 2 w + v is 2 E of w + E of v: the loss divides by the number of pixels and not by the sum of the weights."""
    logits, labels, w = values(draw, classes)
    v = draw.rng.uniform(0.2, 5, w.shape)
    E, of_w, of_v = (op.forward(logits, labels, weights)[0] for weights in (2 * w + v, w, v))
    require_close("E of the weights 2 w + v", E, 2 * of_w + of_v)


@both("invariance")
def a_weight_of_two_is_a_pixel_given_twice(op: Op, draw: Draw, classes: int | None) -> None:
    """M E with one weight doubled is M E of a batch in which that pixel stands twice."""
    logits, labels, weights = values(draw, classes)
    counted = labels != IGNORE
    flat = logits[counted], labels[counted], weights[counted]
    twice = [np.concatenate((a, a[:1]))[None, None] for a in flat]
    once = [a[None, None].copy() for a in flat]
    once[2][0, 0, 0] *= 2
    require_close("M E", len(flat[1]) * op.forward(*once)[0], (len(flat[1]) + 1) * op.forward(*twice)[0])


@both("convention")
def no_weights_are_weights_of_one(op: Op, draw: Draw, classes: int | None) -> None:
    """Without weights every pixel counts as with a weight of 1."""
    logits, labels, _ = values(draw, classes)
    (E, ctx), (E2, ctx2) = op.forward(logits, labels), op.forward(logits, labels, np.ones(labels.shape))
    require_close("E without weights", E, E2)
    require_close("da without weights", op.backward(ctx), op.backward(ctx2))


@both("invariance")
def a_pixel_of_weight_zero_has_no_influence(op: Op, draw: Draw, classes: int | None) -> None:
    """Where the weight is 0, the logits may be anything and the gradient is 0; but the pixel counts in the mean."""
    logits, labels, weights = values(draw, classes)
    weights[0, 0, 0] = 0
    E, ctx = op.forward(logits, labels, weights)
    other = logits.copy()
    other[0, 0, 0] += draw.rng.uniform(3, 9, logits.shape[-1])
    require_close("E after a change in a pixel of weight 0", op.forward(other, labels, weights)[0], E)
    require(not op.backward(ctx)[0, 0, 0].any(), "da is not zero in a pixel of weight 0")


@both("invariance")
def an_ignored_pixel_does_not_count(op: Op, draw: Draw, classes: int | None) -> None:
    """Ignoring pixels gives what a batch without them gives: loss, gradient, and the number divided by."""
    logits, labels, weights = values(draw, classes)
    counted = labels != IGNORE
    flat = (1, 1, int(counted.sum()))
    E, ctx = op.forward(logits, labels, weights)
    some, some_ctx = op.forward(logits[counted].reshape(*flat, -1), labels[counted].reshape(flat), weights[counted].reshape(flat))
    require_close("E", E, some)
    da = op.backward(ctx)
    require_close("da of annotated pixels", da[counted], op.backward(some_ctx)[0, 0])
    require(not da[~counted].any(), "da is not zero where the label is to be ignored")


@both("convention")
def weights_of_ignored_pixels_are_not_looked_at(op: Op, draw: Draw, classes: int | None) -> None:
    """A NaN in the weight map where nothing is annotated does no harm."""
    logits, labels, weights = values(draw, classes)
    spoiled = np.where(labels == IGNORE, np.nan, weights)
    (E, ctx), (E2, ctx2) = op.forward(logits, labels, weights), op.forward(logits, labels, spoiled)
    require_equal("E", E2, E)
    require_equal("da", op.backward(ctx2), op.backward(ctx))


@both("convention")
def no_annotated_pixel_costs_nothing(op: Op, draw: Draw, classes: int | None) -> None:
    """With nothing to learn from, loss and gradient are zero, and nothing is divided by zero."""
    logits, labels, weights = values(draw, classes)
    E, ctx = op.forward(logits, np.full_like(labels, IGNORE), weights)
    require_equal("E", E, 0.0)
    require(not op.backward(ctx).any(), "da is not zero")


@both("invariance")
def a_duplicated_batch_costs_the_same(op: Op, draw: Draw, classes: int | None) -> None:
    """The loss is a mean over pixels: a batch given twice costs the same, and each copy gets half the gradient."""
    logits, labels, weights = values(draw, classes)
    E, ctx = op.forward(logits, labels, weights)
    E2, ctx2 = op.forward(*(np.concatenate((a, a)) for a in (logits, labels, weights)))
    require_close("E of a batch given twice", E2, E)
    da = op.backward(ctx)
    require_close("da of a batch given twice", op.backward(ctx2), np.concatenate((da, da)) / 2)


@both("invariance")
def images_add_up(op: Op, draw: Draw, classes: int | None) -> None:
    """M E of a batch is the sum of M E of its images, with M the number of annotated pixels of each."""
    logits, labels, weights = values(draw, classes)
    counts = (labels != IGNORE).sum(axis=(1, 2))
    parts = [op.forward(logits[i : i + 1], labels[i : i + 1], weights[i : i + 1])[0] for i in range(len(labels))]
    require_close("M E", counts.sum() * op.forward(logits, labels, weights)[0], float(np.dot(counts, parts)))


# ---------------------------------------------------------------------------------------------------------------------
# Contract
# ---------------------------------------------------------------------------------------------------------------------


@both("contract")
def any_integer_labels(op: Op, draw: Draw, classes: int | None) -> None:
    """Labels of any integer dtype, in any memory layout, give the same loss; weights of any layout too."""
    logits, labels, weights = values(draw, classes)
    labels = np.abs(labels)
    E, _ = op.forward(logits, labels, weights)
    for dtype in ("uint8", "int8", "int32", "int64"):
        require_equal(f"E for {dtype} labels", op.forward(logits, labels.astype(dtype), weights)[0], E)
    fortran = np.asfortranarray(labels), np.asfortranarray(weights)
    require_close("E for labels in Fortran order", op.forward(logits, *fortran)[0], E)
    backwards = np.flip(np.flip(labels).copy()), np.flip(np.flip(weights).copy())
    require_close("E for labels with negative strides", op.forward(logits, *backwards)[0], E)


@both("contract")
def labels_and_weights_are_left_alone(op: Op, draw: Draw, classes: int | None) -> None:
    """Neither forward nor backward writes into the labels or the weights, which may be read-only."""
    logits, labels, weights = values(draw, classes)
    before = labels.copy(), weights.copy()
    expected = op.backward(op.forward(logits, labels, weights)[1])
    require_equal("labels", labels, before[0])
    require_equal("weights", weights, before[1])
    labels.flags.writeable = weights.flags.writeable = False
    require_equal("da for read-only labels", op.backward(op.forward(logits, labels, weights)[1]), expected)


@both("contract")
def the_loss_is_a_number(op: Op, draw: Draw, classes: int | None) -> None:
    """E is a plain number, also for float32 logits, added up in double precision."""
    logits, labels, weights = values(draw, classes)
    E = op.forward(logits.astype(np.float32), labels, weights.astype(np.float32))[0]
    require(isinstance(E, float), f"E is a {type(E).__name__}")
    flat = np.zeros((1, 128, 129, logits.shape[-1]), np.float32)
    labels = np.zeros((1, 128, 129), np.uint8)
    require_close("E of 16,512 equal terms", op.forward(flat, labels)[0], np.log(max(logits.shape[-1], 2)), rtol=3e-7)


@both("contract")
def labels_that_do_not_fit_are_refused(op: Op, draw: Draw, classes: int | None) -> None:
    """Labels of another size, labels that are no class, and labels that are no whole numbers are refused."""
    logits, labels, _ = values(draw, classes)
    n, height, width = labels.shape
    taller, wider = np.zeros((n, height + 1, width), int), np.ones((n, height, width + 1))
    require_refused("labels one row too tall", lambda: op.forward(logits, taller), str(height + 1))
    require_refused("weights one column too wide", lambda: op.forward(logits, labels, wider), str(width + 1))
    for bad in (255, -2):
        wrong = labels.copy()
        wrong[0, 0, 0] = bad
        require_refused(f"the label {bad}", lambda wrong=wrong: op.forward(logits, wrong), str(bad))  # type: ignore[misc]
    require_refused("labels of float32", lambda: op.forward(logits, np.zeros(labels.shape, np.float32)), "float32")


@holds(SIGMOID, "contract")
def one_logit_a_pixel(op: Op, draw: Draw) -> None:
    """The sigmoid takes one logit a pixel; two are refused."""
    require_refused("logits of 2 channels", lambda: op.forward(np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2), int)), "2")


# ---------------------------------------------------------------------------------------------------------------------
# Probabilities: forward is a plain function, without a context
# ---------------------------------------------------------------------------------------------------------------------


@holds("softmax", "reference")
def softmax_is_scipys(op: Op, draw: Draw) -> None:
    """p is SciPy's softmax over the last axis, sums to 1, and is finite for logits of +-10,000."""
    from scipy.special import softmax

    logits = draw.choice((1.0, 30.0, 1e4)) * draw.rng.standard_normal((2, 3, 4, draw.integer(1, 5)))
    with np.errstate(over="raise", invalid="raise"):
        p = op.forward(logits)
    require_close("p", p, softmax(logits, axis=-1))
    require_close("the sum of p over classes", p.sum(axis=-1), np.ones(p.shape[:-1]))


@holds("softmax", "invariance")
def softmax_sees_differences_only(op: Op, draw: Draw) -> None:
    """Adding a number to all logits of a pixel changes nothing, and the argument is left alone."""
    logits = draw.rng.standard_normal((2, 3, 4, 3))
    before = logits.copy()
    p = op.forward(logits)
    require_equal("logits", logits, before)
    require_close("p of shifted logits", op.forward(logits + draw.rng.standard_normal((2, 3, 4, 1))), p)


@holds("sigmoid", "reference")
def sigmoid_is_scipys(op: Op, draw: Draw) -> None:
    """p is SciPy's expit, to 14 digits in both tails, and finite for logits of +-10,000."""
    from scipy.special import expit

    a = draw.choice((1.0, 30.0, 1e4)) * draw.rng.standard_normal((2, 3, 4, 1))
    with np.errstate(over="raise", invalid="raise"):
        p = op.forward(a)
    tiny = 1e-307  # SciPy rounds to 0 below it, where numbers have fewer digits
    require(bool((np.abs(p - expit(a)) <= 1e-14 * expit(a) + tiny).all()), "p is not SciPy's expit to 14 digits")


@holds("sigmoid", "invariance")
def sigmoid_of_the_opposite(op: Op, draw: Draw) -> None:
    """sigmoid(a) + sigmoid(-a) = 1, sigmoid(0) = 1/2, and a float32 stays one."""
    a = 5 * draw.rng.standard_normal((2, 3, 4, 1))
    require_close("sigmoid(a) + sigmoid(-a)", op.forward(a) + op.forward(-a), np.ones(a.shape))
    require_equal("sigmoid(0)", op.forward(np.zeros(2)), [0.5, 0.5])
    require(op.forward(a.astype(np.float32)).dtype == np.float32, "sigmoid of float32 is not float32")
