"""Lesson 09: softmax and cross-entropy, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.errors import CheckError

IGNORE = -1
"""The label of a pixel that nobody annotated."""


def _softmax(a: Array) -> Array:
    """One pixel after another."""
    p = np.empty(a.shape)
    for place in np.ndindex(a.shape[:-1]):
        e = np.exp(a[place] - a[place].max())
        p[place] = e / e.sum()
    return p


def _logits(draw: Draw, classes: int | None = None) -> Array:
    """(N, H, W, K), no two sizes alike."""
    height = draw.integer(3, 4)
    return draw.rng.standard_normal((2, height, height + 2, classes or draw.choice((3, 4)))) * 2


def _over(axis: int | tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda a: np.exp(a) / np.exp(a).sum(axis=axis, keepdims=True)


WRONG_AXIS = "Your p do not add up to 1 over the classes of a pixel, but over {}. The classes are the last axis here: axis=-1."
SOFTMAXES: dict[str, Callable[[Array], Array]] = {
    WRONG_AXIS.format("axis 1, where PyTorch has them. Ours are rows"): _over(1),
    WRONG_AXIS.format("the images"): _over(0),
    WRONG_AXIS.format("axis 2, the columns"): _over(2),
    WRONG_AXIS.format("everything"): lambda a: np.exp(a) / np.exp(a).sum(),
    "Each class has a sigmoid of its own. Then they need not add up to 1: divide by the sum over classes.":
        lambda a: 1 / (1 + np.exp(-a)),
    "That is exp(a), not yet divided by its sum over the classes.": np.exp,
    "Divided by the largest, not by the sum.": lambda a: np.exp(a - a.max(axis=-1, keepdims=True)),
    "That is log p.": lambda a: np.log(_softmax(a)),
}  # fmt: skip


def _far_apart(draw: Draw, softmax: Callable[[Array], Any]) -> None:
    """One pixel near 1000, one near -1000, one with logits thousands apart: each sees its own differences only."""
    a = _logits(draw)
    a[0, 0, 0] += 1000
    a[0, 0, 1] -= 1000
    a[0, 0, 2] *= 2000
    with np.errstate(all="ignore"):
        p = np.asarray(softmax(a.copy()))
    if wrong := difference("p", p, _softmax(a), 1e-9):
        if not np.isfinite(p[1]).all():
            why = ("You subtract the largest logit of the whole array. A pixel far below it has exp(...) = 0 for every class, "
                   "and 0 / 0 is NaN. Each pixel subtracts its own largest: axis=-1, keepdims=True.")  # fmt: skip
        elif not np.isfinite(p[0, 0, 0]).all():
            why = "exp(1000) is infinite, and infinite / infinite is NaN. Subtract the largest logit first."
        elif not np.isfinite(p).all():
            why = "What you subtract is not the largest: then exp of the largest can still be infinite."
        else:
            why = "Finite, but not right. Did you cut the logits off? Subtract the largest of each pixel: that changes nothing."
        where = "One pixel's are near 1000 now, one's near -1000, one's far apart."
        raise CheckError(f"Right for small logits. {where} {wrong}\nHint: {why}")


exercise(
    "09.softmax",
    "softmax(a) -> p, the probabilities of K classes for every pixel",
    laws=(equals(_softmax, lambda draw: {"a": _logits(draw)}, SOFTMAXES, what="p"), _far_apart),
    mistakes=(
        Mistake("where PyTorch has them", edits=(("a.max(axis=-1, keepdims=True)", "a.max(axis=1, keepdims=True)"),
                                                 ("e.sum(axis=-1, keepdims=True)", "e.sum(axis=1, keepdims=True)"))),
        Mistake("everything", edits=(("e.sum(axis=-1, keepdims=True)", "e.sum()"), ("a.max(axis=-1, keepdims=True)", "a.max()"))),
        Mistake("exp(1000) is infinite", edits=((" - a.max(axis=-1, keepdims=True)", ""),)),
        Mistake("Each pixel subtracts its own", edits=(("a.max(axis=-1, keepdims=True)", "a.max()"),)),
        Mistake("is not the largest", edits=(("a.max(axis=-1, keepdims=True)", "a.mean(axis=-1, keepdims=True)"),)),
        Mistake("Did you cut the logits off", edits=(("a - a.max(axis=-1, keepdims=True)", "np.clip(a, -30, 30)"),)),
        Mistake("a sigmoid of its own", edits=(("np.exp(a - a.max(axis=-1, keepdims=True))", "np.exp(a)"),
                                               ("e.sum(axis=-1, keepdims=True)", "(1 + e)"))),
        Mistake("changes its argument a", edits=(("    e = np.exp(a - a.max(axis=-1, keepdims=True))",
                                                  "    a -= a.max(axis=-1, keepdims=True)\n    e = np.exp(a)"),)),
        Mistake("Your code stops", edits=(("e.sum(axis=-1, keepdims=True)", "e.sum(axis=-1)"),)),
    ),
)  # fmt: skip


# The loss ------------------------------------------------------------------------------------------------------------


def _cross_entropy(logits: Array, labels: Array) -> Array:
    """log sum exp a - a_label, for labels that are classes; complex logits may pass."""
    shifted = logits - logits.real.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - picked)


def _energy(logits: Array, labels: Array, weights: Array) -> Any:
    counted = labels != IGNORE
    return (weights * _cross_entropy(logits, np.maximum(labels, 0)))[counted].sum() / max(counted.sum(), 1)


def _loss_arguments(draw: Draw) -> dict[str, Any]:
    """About a quarter of the pixels is to be ignored: at least the first, and not the second."""
    logits = _logits(draw)
    shape, k = logits.shape[:3], logits.shape[3]
    labels = np.where(draw.rng.random(shape) < 0.25, IGNORE, draw.rng.integers(0, k, shape))
    labels[0, 0, 0], labels[0, 0, 1] = IGNORE, draw.integer(0, k - 1)
    return {"logits": logits, "labels": labels, "weights": draw.rng.uniform(0.2, 5, shape)}


def _times(factor: Callable[[Array, Array, Array], float]) -> Callable[[Array, Array, Array], Any]:
    return lambda logits, labels, weights: factor(logits, labels, weights) * _energy(logits, labels, weights)


def _counted(labels: Array) -> int:
    return int((labels != IGNORE).sum())


def _all_classes(logits: Array, labels: Array, weights: Array) -> Any:
    """Python's index -1 is the last class."""
    return _energy(logits, labels % logits.shape[-1], weights)


def _plus(eps: float) -> Callable[[Array, Array, Array], Any]:
    """-w log(p + eps)"""

    def formula(logits: Array, labels: Array, weights: Array) -> Any:
        p = np.exp(-_cross_entropy(logits, np.maximum(labels, 0)))
        return -(weights * np.log(p + eps))[labels != IGNORE].sum() / _counted(labels)

    return formula


def _each_class(logits: Array, labels: Array, weights: Array) -> Any:
    """A binary cross-entropy for every class."""
    p = _softmax(logits)
    true = labels[..., None] == np.arange(logits.shape[-1])
    loss = -np.log(np.where(true, p, 1 - p)).sum(axis=-1)
    return (weights * loss)[labels != IGNORE].sum() / _counted(labels)


SIGN = "The minus sign is missing, as in the paper's print. log p is never positive, so the loss must not be negative."
OF_ALL = "You divide by the number of all pixels. Ignored ones count nowhere: M is the number of labels that are not -1."
SUM = "You add up, as the paper does. Ours is divided by M."
BY_WEIGHTS = "You divide by the sum of the weights. Then weighing everything double would change nothing: divide by M."
LAST_CLASS = ("Ignored pixels count, as the last class: in Python, index -1 is the last. Leave out pixels whose label is -1, and "
              "do not count them.")  # fmt: skip
NO_WEIGHTS = "The weights are not used."
LOSSES: dict[str, Callable[[Array, Array, Array], Any]] = {
    SIGN: _times(lambda a, labels, w: -1),
    OF_ALL: _times(lambda a, labels, w: _counted(labels) / labels.size),
    SUM: _times(lambda a, labels, w: _counted(labels)),
    f"{SIGN} And divide by M.": _times(lambda a, labels, w: -_counted(labels)),
    BY_WEIGHTS: _times(lambda a, labels, w: _counted(labels) / w[labels != IGNORE].sum()),
    "You divide by the number of logits, N H W K. Each pixel has one loss, not K.":
        _times(lambda a, labels, w: _counted(labels) / a.size),
    "You divide by M K. Each pixel has one loss, not K.": _times(lambda a, labels, w: 1 / a.shape[-1]),
    "The logarithm is the natural one, np.log.": _times(lambda a, labels, w: float(np.log10(np.e))),
    "The logarithm is the natural one, np.log, not that of base 2.": _times(lambda a, labels, w: float(np.log2(np.e))),
    LAST_CLASS: _all_classes,
    NO_WEIGHTS: lambda a, labels, w: _energy(a, labels, np.ones(w.shape)),
    "Softmax is applied twice: what goes in are logits, and it is probabilities that you hand to the logarithm of a softmax.":
        lambda a, labels, w: _energy(_softmax(a), labels, w),
    "The weights multiply the logits. They multiply the loss of a pixel.":
        lambda a, labels, w: _energy(a * w[..., None], labels, np.ones(w.shape)),
    "That is -sum w p, without a logarithm.":
        lambda a, labels, w: -(w * np.take_along_axis(_softmax(a), np.maximum(labels, 0)[..., None], -1)[..., 0])[
            labels != IGNORE].sum() / _counted(labels),
    "Class 0 is left out. Background is a class like any other; ignored are pixels whose label is -1.":
        lambda a, labels, w: _energy(a, np.where(labels == 0, IGNORE, labels), w),
    "You also add the log(1 - p) of the other classes. Cross-entropy of a softmax looks at the true class alone.": _each_class,
    **{f"You add {eps:g} to p before the logarithm. With log(sum of exp a) - a_label no log 0 can occur.": _plus(eps)
       for eps in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)},
}  # fmt: skip


def _certain_and_wrong(draw: Draw, energy: Callable[..., Any]) -> None:
    """Logits hundreds apart: p is 0 in floating point, and its logarithm is not needed."""
    arguments = _loss_arguments(draw)
    arguments["logits"] = logits = arguments["logits"] * 500
    with np.errstate(all="ignore"):
        found = energy(*(v.copy() for v in arguments.values()))
    expected = _energy(**arguments)
    if wrong := difference("E", found, expected, 1e-9):
        value = float(np.real(found)) if np.size(found) == 1 else np.nan
        why = ("Finite, but too small: something keeps p away from 0. Then the loss is flat just where the network is most wrong."
               if np.isfinite(value) else
               "p of the true class is 0 in floating point, and log 0 is infinite. Or exp overflows. Do not go by way of p: "
               "-log p = log(sum of exp a) - a_label, with the largest logit subtracted from all.")  # fmt: skip
        now = f"Now they run from {logits.min():.0f} to {logits.max():.0f}."
        raise CheckError(f"Right for small logits. {now} {wrong}\nHint: {why}")


def _nothing_annotated(draw: Draw, energy: Callable[..., Any]) -> None:
    """A tile without a label costs nothing."""
    arguments = _loss_arguments(draw)
    arguments["labels"][...] = IGNORE
    with np.errstate(all="ignore"):
        found = energy(*arguments.values())
    if wrong := difference("E", found, 0.0):
        raise CheckError(f"All labels are -1: nobody annotated this tile. {wrong}\nHint: M is 0 then. Divide by 1 instead.")


exercise(
    "09.energy",
    "energy(logits, labels, weights) -> E, the weighted cross-entropy, a mean over the annotated pixels",
    laws=(equals(_energy, _loss_arguments, LOSSES, what="E"), _certain_and_wrong, _nothing_annotated),
    mistakes=(
        Mistake(SIGN, edits=(("loss = log_sum - true", "loss = true - log_sum"),)),
        Mistake(SUM, edits=((" / max(counted.sum(), 1)", ""),)),
        Mistake(OF_ALL, edits=(("max(counted.sum(), 1)", "labels.size"),)),
        Mistake(BY_WEIGHTS, edits=(("max(counted.sum(), 1)", "weights[counted].sum()"),)),
        Mistake("divide by the number of logits", edits=(("max(counted.sum(), 1)", "logits.size"),)),
        Mistake(LAST_CLASS, edits=(("counted = labels != -1", "counted = labels == labels"),
                                   ("np.where(counted, labels, 0)", "(labels % logits.shape[-1])"))),
        Mistake(NO_WEIGHTS, edits=(("(weights * loss)[counted]", "loss[counted]"),)),
        Mistake("log 0 is infinite", edits=(("loss = log_sum - true", "loss = -np.log(np.exp(true) / np.exp(log_sum))"),)),
        Mistake("log 0 is infinite", edits=((" - logits.max(axis=-1, keepdims=True)", ""),)),
        Mistake("something keeps p away from 0", edits=(("loss = log_sum - true",
                                                         "loss = np.minimum(log_sum - true, -np.log(1e-7))"),)),
        Mistake("M is 0 then", edits=(("max(counted.sum(), 1)", "counted.sum()"),)),
        Mistake("Background is a class", edits=(("counted = labels != -1", "counted = labels > 0"),)),
        Mistake(SIGN, bug="minus_sign_missing"),
        Mistake("log 0 is infinite", bug="log_overflows"),
        Mistake("You add 1e-07 to p", bug="log_of_p_plus_eps"),
        Mistake("Softmax is applied twice", bug="softmax_twice"),
        Mistake("The weights multiply the logits", bug="weights_on_logits"),
        Mistake(OF_ALL, bug="ignored_pixels_counted"),
    ),
    ours=lambda logits, labels, weights: ops.softmax_cross_entropy_forward(logits, labels, weights)[0],
)  # fmt: skip


# Its gradient --------------------------------------------------------------------------------------------------------


def _slopes(logits: Array, labels: Array, weights: Array) -> Array:
    """What the gradient is: the slope of E along every logit, by a complex step. No backward formula in it."""
    da = np.empty(logits.shape)
    for k in range(logits.size):
        moved = logits.astype(complex)
        moved.flat[k] += 1e-30j
        da.flat[k] = _energy(moved, labels, weights).imag / 1e-30
    return da


Gradient = Callable[[Array, Array, Array], Array]


def _parts(
    target: Callable[[Array, Array], Array] | None = None,
    factor: Callable[[Array, Array], Array | float] | None = None,
    extra: Callable[[Array], Array | float] = lambda p: 1,
) -> Gradient:
    """(p - target) factor, with one part exchanged."""

    def formula(logits: Array, labels: Array, weights: Array) -> Array:
        p = _softmax(logits)
        one_hot = np.eye(logits.shape[-1])[labels % logits.shape[-1]]
        usual = np.where(labels == IGNORE, 0, weights) / _counted(labels)
        scale = usual if factor is None else np.asarray(factor(labels, weights))
        return np.asarray(((p - one_hot) if target is None else target(p, one_hot)) * extra(p) * scale[..., None])

    return formula


def _only(labels: Array, weights: Array) -> Array:
    return np.where(labels == IGNORE, 0, weights)


NOT_DIVIDED = "The gradient is not divided by M, E was: with larger tiles the steps would grow."
GRADIENTS: dict[str, Gradient] = {
    "The sign is turned: p - 1 for the true class, which is negative, so that a step downhill raises its logit.":
        _parts(target=lambda p, t: t - p),
    NOT_DIVIDED: _parts(factor=_only),
    OF_ALL: _parts(factor=lambda labels, w: _only(labels, w) / labels.size),
    BY_WEIGHTS: _parts(factor=lambda labels, w: _only(labels, w) / _only(labels, w).sum()),
    "You divide by M K, the number of logits. Each pixel has one loss, not K.":
        _parts(target=lambda p, t: (p - t) / p.shape[-1]),
    NO_WEIGHTS: _parts(factor=lambda labels, w: (labels != IGNORE) / _counted(labels)),
    LAST_CLASS: _parts(factor=lambda labels, w: w / labels.size),
    "Ignored pixels have a gradient. They have no loss, so theirs is 0.": _parts(factor=lambda labels, w: w / _counted(labels)),
    "Pixels whose label is -1 have the gradient p w / M: their target is 0 for every class. They have no loss, so theirs is 0.":
        lambda a, labels, w: (_softmax(a) - (labels[..., None] == np.arange(a.shape[-1]))) * (w / _counted(labels))[..., None],
    "You multiply by the slope of the softmax once more. In p - [k is the label] it is contained already.":
        _parts(extra=lambda p: p * (1 - p)),
    "That is the gradient by p. What is wanted is that by the logits: the softmax lies in between.":
        _parts(target=lambda p, t: -t / p),
    "Only the true class has a gradient. The others lose what it gains: p for each of them.":
        _parts(target=lambda p, t: (p - 1) * t),
    "1 is subtracted for every class. Subtract it for the true one alone.": _parts(target=lambda p, t: p - 1),
    "Nothing is subtracted: p - 1 for the true class.": _parts(target=lambda p, t: p),
}  # fmt: skip

def _nothing_to_learn(draw: Draw, gradient: Callable[..., Any]) -> None:
    """Without a label there is no slope."""
    arguments = _loss_arguments(draw)
    arguments["labels"][...] = IGNORE
    with np.errstate(all="ignore"):
        da = gradient(*arguments.values())
    if wrong := difference("da", da, np.zeros(arguments["logits"].shape)):
        raise CheckError(f"All labels are -1: nobody annotated this tile. {wrong}\nHint: M is 0 then. Divide by 1 instead.")


exercise(
    "09.gradient",
    "gradient(logits, labels, weights) -> da, the gradient of the energy by the logits",
    laws=(equals(_slopes, _loss_arguments, GRADIENTS, what="da"), _nothing_to_learn),
    mistakes=(
        Mistake("The sign is turned", edits=(("softmax(logits) - target", "target - softmax(logits)"),)),
        Mistake(NOT_DIVIDED, edits=((" / max(counted.sum(), 1)", ""),)),
        Mistake(OF_ALL, edits=(("max(counted.sum(), 1)", "labels.size"),)),
        Mistake(BY_WEIGHTS, edits=(("max(counted.sum(), 1)", "weights[counted].sum()"),)),
        Mistake("You divide by M K", edits=(("max(counted.sum(), 1)", "(counted.sum() * logits.shape[-1])"),)),
        Mistake(NO_WEIGHTS, edits=(("np.where(counted, weights, 0)", "counted"),)),
        Mistake("their target is 0 for every class", edits=(("np.where(counted, weights, 0)", "weights"),)),
        Mistake("slope of the softmax once more", edits=(
            ("(softmax(logits) - target) *", "softmax(logits) * (1 - softmax(logits)) * (softmax(logits) - target) *"),)),
        Mistake("Only the true class", edits=(("softmax(logits) - target", "target * (softmax(logits) - 1)"),)),
        Mistake("the gradient by p", edits=(("softmax(logits) - target", "-1 * target / softmax(logits)"),)),
        Mistake("M is 0 then", edits=(("max(counted.sum(), 1)", "counted.sum()"),)),
        Mistake("Nothing is subtracted", edits=(("softmax(logits) - target", "softmax(logits)"),)),
        Mistake(NO_WEIGHTS, bug="weights_not_in_the_gradient"),
        Mistake(OF_ALL, bug="ignored_pixels_counted"),
        Mistake("The sign is turned", bug="minus_sign_missing"),
    ),
    ours=lambda logits, labels, weights: ops.softmax_cross_entropy_backward(
        ops.softmax_cross_entropy_forward(logits, labels, weights)[1]
    ),
)  # fmt: skip


# One logit -----------------------------------------------------------------------------------------------------------


def _one(logits: Array, labels: Array) -> Any:
    """-log sigmoid(a) where the label is 1, -log sigmoid(-a) where it is 0."""
    return np.logaddexp(0, np.where(labels == 1, -1, 1) * logits[..., 0]).mean()


def _one_arguments(draw: Draw) -> dict[str, Any]:
    """More zeros than ones, so that the two cannot be exchanged."""
    logits = _logits(draw, 1)
    return {"logits": logits, "labels": (draw.rng.random(logits.shape[:3]) < 0.3).astype(int)}


ONES: dict[str, Callable[[Array, Array], Any]] = {
    "The logit is taken for that of class 0. A large logit speaks for class 1: the two logits are (0, a), in this order.":
        lambda a, labels: _one(-a, labels),
    "A softmax over a single class is always 1, its loss always 0. The second logit, 0, is missing.": lambda a, labels: 0.0,
    "You use (-a, a), whose difference is 2 a. The logits are (0, a).": lambda a, labels: _one(2 * a, labels),
    "The minus sign is missing: the loss must not be negative.": lambda a, labels: -_one(a, labels),
    SUM: lambda a, labels: _one(a, labels) * labels.size,
    "Only pixels of class 1 have a loss in yours. Those of class 0 cost -log(1 - p).":
        lambda a, labels: (labels * np.logaddexp(0, -a[..., 0])).mean(),
    "For labels of 0 yours gives log 2, whatever the logit. log(1 + exp(-label a)) is for labels of -1 and 1.":
        lambda a, labels: np.logaddexp(0, -a[..., 0] * labels).mean(),
    "The sigmoid is applied twice.": lambda a, labels: _one(1 / (1 + np.exp(-a)), labels),
}  # fmt: skip


def _one_far(draw: Draw, one_logit: Callable[..., Any]) -> None:
    """exp(a) overflows above 709; so does exp(-a) on the other side."""
    arguments = _one_arguments(draw)
    arguments["logits"] *= 2000
    with np.errstate(all="ignore"):
        found = one_logit(*(v.copy() for v in arguments.values()))
    if wrong := difference("E", found, _one(**arguments)):
        raise CheckError(f"Right for small logits, but here they reach {np.abs(arguments['logits']).max():.0f}. {wrong}\n"
                         "Hint: exp(a) is infinite from a = 710 on, and log 0 too. Let your energy do it, with the logits (0, "
                         "a); or use log(1 + exp(a)) = max(a, 0) + log(1 + exp(-|a|)).")  # fmt: skip


exercise(
    "09.one_logit",
    "one_logit(logits, labels) -> E for networks with a single logit a pixel",
    laws=(equals(_one, _one_arguments, ONES, what="E"), _one_far),
    mistakes=(
        Mistake("for that of class 0", edits=(("(np.zeros_like(logits), logits)", "(logits, np.zeros_like(logits))"),)),
        Mistake("whose difference is 2 a", edits=(("np.zeros_like(logits)", "-logits"),)),
        Mistake("always 1, its loss always 0", edits=(("(two, labels,", "(logits, 0 * labels,"),)),
        Mistake("exp(a) is infinite", edits=(("return energy(two, labels, np.ones(labels.shape))",
                                              "a = logits[..., 0]\n    return np.mean(np.log(1 + np.exp(a)) - a * labels)"),)),
        Mistake(SUM, edits=(("return energy(", "return labels.size * energy("),)),
        Mistake("Only pixels of class 1", edits=(("np.ones(labels.shape)", "labels.astype(float)"),)),
        Mistake("for that of class 0", bug="sigmoid_for_background"),
        Mistake("exp(a) is infinite", bug="sigmoid_overflows"),
    ),
    ours=lambda logits, labels: ops.sigmoid_cross_entropy_forward(logits, labels)[0],
)  # fmt: skip
