"""The energy function (section 3, eq. 1): cross-entropy of every pixel, weighted by a map.

    E = 1/M sum over pixels x of w(x) (-log p_label(x)(x))

As printed, eq. 1 lacks the minus sign and would be maximised. The paper sums; we divide by M, the number of annotated pixels in
the batch, so that a learning rate does not depend on the tile size. Nothing else in tinyunet divides by a number of
pixels. We do not divide by the sum of w, so E stays linear in the weight map. Pixels labelled `IGNORE` count nowhere.

The network gives logits. Softmax or sigmoid happens here, and in prediction; never inside the network.

The loss is where the backward pass begins: its output is the number E, and dE = 1. So `*_backward(ctx)` takes no dy. To check
it with `tinyunet.check`, hand in `lambda dy, ctx: dy * softmax_cross_entropy_backward(ctx)`.

`.real` stands where numbers are compared: complex numbers have no order, and complex-step gradient checks send some through.

Letters: N images, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

from tinyunet.backend import Array, array_module, require_together, to_numpy
from tinyunet.errors import DataError, ShapeError
from tinyunet.ops.contract import as_map
from tinyunet.parallel import over_rows

IGNORE = -1
"""The label of a pixel that nobody annotated."""


class LossContext(NamedTuple):
    """Probabilities, what they should have been, and the factor of each pixel."""

    p: Array  # (N, H, W, K): probabilities
    target: Array  # (N, H, W, K): 1 for the true class, else 0
    factor: Array  # (N, H, W, 1): w / M, and 0 where ignored


def softmax(logits: Array) -> Array:
    """p_k = exp(a_k) / sum over j of exp(a_j)

    (..., K) -> (..., K)

    The largest logit is subtracted first; this changes nothing and keeps exp finite.
    """
    xp = array_module(logits)
    e = xp.exp(logits - _over_classes(xp.maximum, logits.real))
    return e / _over_classes(xp.add, e)


def sigmoid(logits: Array) -> Array:
    """p = 1 / (1 + exp(-a)), written with exp of negative numbers only

    any shape -> the same shape
    """
    xp = array_module(logits)
    positive = logits.real > 0
    e = xp.exp(xp.where(positive, -logits, logits))  # |e| <= 1
    return xp.where(positive, 1 / (1 + e), e / (1 + e))


def softmax_cross_entropy_forward(
    logits: Array, labels: Array, weights: Array | None = None
) -> tuple[Any, LossContext]:
    """E = 1/M sum of w (log(sum over j of exp(a_j)) - a_label)

    (N, H, W, K) logits, (N, H, W) integer labels, (N, H, W) weights or None for 1 -> a number

    Finite for any finite logits: the log of the sum is taken after subtracting the largest.

    Raises ShapeError if shapes differ, DataError for a label that is no class. With no annotated pixel, E = 0.
    """
    factor = _factor("softmax_cross_entropy", logits, labels, weights, logits.shape[-1])
    xp = array_module(logits)

    def formula(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        target = (labels[..., None] == xp.arange(logits.shape[-1])).astype(logits.real.dtype)
        shifted = logits - _over_classes(xp.maximum, logits.real)
        log_sum = xp.log(_over_classes(xp.add, xp.exp(shifted)))
        cross_entropy = log_sum - _over_classes(xp.add, shifted * target)
        return cross_entropy, xp.exp(shifted - log_sum), target

    cross_entropy, p, target = over_rows(formula, logits, labels)
    return _total(factor, cross_entropy), LossContext(p, target, factor)


def softmax_cross_entropy_backward(ctx: LossContext) -> Array:
    """da_k = w / M (p_k - [k is the label])

    -> (N, H, W, K), summing to zero over the classes of each pixel
    """
    return (ctx.p - ctx.target) * ctx.factor


def sigmoid_cross_entropy_forward(
    logits: Array, labels: Array, weights: Array | None = None
) -> tuple[Any, LossContext]:
    """E = 1/M sum of w (log(1 + exp(a)) - a [label is 1])

    (N, H, W, 1) logits, (N, H, W) labels 0 or 1, (N, H, W) weights or None for 1 -> a number

    The same as softmax cross-entropy with the two logits (0, a).

    Raises ShapeError if shapes differ, DataError for a label other than 0, 1 or `IGNORE`.
    """
    if logits.shape[-1] != 1:
        raise ShapeError(f"sigmoid_cross_entropy: got {logits.shape[-1]} logits a pixel, expected 1. Use softmax for several.")
    factor = _factor("sigmoid_cross_entropy", logits, labels, weights, 2)
    xp = array_module(logits)

    def formula(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        target = (labels[..., None] == 1).astype(logits.real.dtype)
        positive = logits.real > 0
        # log(1 + exp(a)) = max(a, 0) + log(1 + exp(-|a|)), which cannot overflow
        softplus = xp.where(positive, logits, logits.dtype.type(0)) + xp.log1p(xp.exp(xp.where(positive, -logits, logits)))
        return softplus - logits * target, sigmoid(logits), target

    cross_entropy, p, target = over_rows(formula, logits, labels)
    return _total(factor, cross_entropy), LossContext(p, target, factor)


def sigmoid_cross_entropy_backward(ctx: LossContext) -> Array:
    """da = w / M (p - [label is 1])

    -> (N, H, W, 1)
    """
    return (ctx.p - ctx.target) * ctx.factor


def _over_classes(fold: Callable[[Array, Array], Array], values: Array) -> Array:
    """fold(..., fold(first class, second)): (..., K) -> (..., 1). NumPy's own sums and maxima are slow along so short an axis."""
    return reduce(fold, (values[..., k : k + 1] for k in range(values.shape[-1])))


def _factor(who: str, logits: Array, labels: Array, weights: Array | None, classes: int) -> Array:
    """w / M with zeros where ignored: (N, H, W, 1), after checking everything that can be wrong."""
    logits = as_map(who, logits)
    xp = array_module(logits)
    if labels.shape != logits.shape[:3]:
        raise ShapeError(
            f"{who}: labels have shape {labels.shape}, logits {logits.shape}; expected {logits.shape[:3]}. With valid "
            "convolutions the output is smaller than the image: crop the labels to its centre."
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{who}: labels are {labels.dtype}, expected whole numbers. Convert with labels.astype('int32').")
    counted = labels != IGNORE
    lowest, highest, count = _range_and_number(labels, counted) if labels.size else (0, 0, 0)
    if lowest < IGNORE or highest >= classes:
        raise DataError(
            f"{who}: labels run from {lowest} to {highest}, but there are classes 0 to {classes - 1} "
            f"(and {IGNORE} for pixels to ignore). Map the labels to classes first."
        )
    require_together(who, "an array of labels", labels, logits)
    m = max(count, 1)
    factor = counted.astype(logits.real.dtype) / m
    if weights is not None:
        if weights.shape != labels.shape:
            raise ShapeError(f"{who}: weights have shape {weights.shape}, labels {labels.shape}. Give one weight per pixel.")
        require_together(who, "an array of weights", weights, logits)
        factor = factor * xp.where(counted, weights, 0).astype(factor.dtype)
    return factor[..., None]


def _range_and_number(labels: Array, counted: Array) -> list[int]:
    """Lowest and highest label, and how many count. A GPU is asked for them together: it answers when all before is done."""
    found = array_module(labels).stack([labels.min(), labels.max(), counted.sum()])
    return [int(value) for value in to_numpy(found)]


def _total(factor: Array, cross_entropy: Array) -> Any:
    """The sum over pixels as a Python number, added up in double precision."""
    xp = array_module(factor)
    energy = factor * cross_entropy
    return energy.sum(dtype=xp.result_type(energy, xp.float64)).item()
