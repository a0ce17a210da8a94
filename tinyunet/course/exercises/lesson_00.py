"""Lesson 00: images, masks and a first segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.errors import CheckError


def _is_normalised(draw: Draw, normalise: Callable[[Array], Array]) -> None:
    """Shape, dtype, mean, deviation; then that the picture is still the same one; then an image without any contrast."""
    shape = (draw.integer(5, 9), draw.integer(10, 14), draw.integer(2, 3))
    image = draw.rng.integers(40, 250, shape).astype(draw.choice((np.uint8, np.uint16)))
    image[..., 1] //= 2  # channels of unequal brightness: each by itself would be normalised otherwise
    kept = image.copy()
    x = normalise(image)
    if not isinstance(x, np.ndarray):
        raise CheckError(f"x is a {type(x).__name__}, expected an array of shape {(1, *shape)}.")
    if x.shape != (1, *shape):
        raise CheckError(f"x has shape {x.shape}, expected {(1, *shape)}: the image's, and an axis in front for the batch.")
    expected = ((kept - kept.mean()) / kept.std())[None]
    if difference("x", x, expected, 1e-5):
        if not difference("x", x, ((kept - kept.mean()) / kept.var())[None], 1e-5):
            raise CheckError("x is divided by the variance. Take its root, the standard deviation: image.std().")
        per_channel = kept - kept.mean(axis=(0, 1))
        for deviation in (kept.std(axis=(0, 1)), kept.std()):
            if not difference("x", x, (per_channel / deviation)[None], 1e-5):
                raise CheckError("You normalise each channel by itself; take mean and deviation over all pixels and channels.")
        found = f"x has mean {x.mean():.4g} and standard deviation {x.std():.4g}"
        raise CheckError(f"{found}, expected 0 and 1 over all pixels and channels.\n" + difference("x", x, expected, 1e-5))
    if x.dtype != np.float32:
        raise CheckError(f"The numbers are right, but x is {x.dtype}; networks take float32, half of it: .astype(np.float32).")
    if not np.array_equal(image, kept):
        raise CheckError("x is right, but your code changes the image that it was given. Work on a copy.")


def _empty_is_zero(draw: Draw, normalise: Callable[[Array], Array]) -> None:
    grey = draw.integer(1, 200)
    with np.errstate(all="ignore"):
        x = normalise(np.full((6, 7, 1), grey, np.uint8))
    if not np.all(x == 0):
        why = "Its standard deviation is 0, and you divide by it."
        raise CheckError(f"An image that is {grey} everywhere becomes {x.flat[0]}, expected 0. {why}")


exercise(
    "00.normalise",
    "normalise(image) -> x, with mean 0 and standard deviation 1",
    laws=(_is_normalised, _empty_is_zero),
    mistakes=(
        Mistake("networks take float32", edits=((".astype(np.float32)", ""),)),
        Mistake("an axis in front for the batch", edits=(("x[None]", "x"),)),
        Mistake("divided by the variance", edits=(("image.std()", "image.var()"),)),
        Mistake("You normalise each channel by itself", edits=(("image.mean()", "image.mean(axis=(0, 1))"),)),
        Mistake("You normalise each channel by itself", edits=(("image.mean()", "image.mean(axis=(0, 1))"),
                                                               ("image.std() or 1.0", "image.std(axis=(0, 1))"))),
        Mistake("Its standard deviation is 0", edits=((" or 1.0", ""),)),
        Mistake("has mean", edits=(("image - image.mean()", "image - image.astype(np.uint8).min()"),)),
    ),
)


def _iou(prediction: Array, truth: Array) -> float:
    both = np.sum((prediction == 1) & (truth == 1))
    return float(both / np.sum((prediction == 1) | (truth == 1)))


def _two_masks(draw: Draw) -> dict[str, Any]:
    """More cells in the prediction than in the truth, so that no two of the measures that are mixed up agree."""
    shape = (draw.integer(8, 12), draw.integer(13, 16))
    truth = (draw.rng.random(shape) < 0.2).astype(int)
    found = (truth == 1) & (draw.rng.random(shape) < 0.7)
    return {"prediction": (found | (draw.rng.random(shape) < 0.2)).astype(int), "truth": truth}


exercise(
    "00.iou",
    "iou(prediction, truth) -> intersection over union of the cells",
    laws=(equals(_iou, _two_masks, {
        "That is the share of all pixels that are right. Leave out those that are background in both.":
            lambda p, t: float((p == t).mean()),
        "That is the Dice coefficient, 2 |both| / (|prediction| + |truth|): it counts the pixels in both twice.":
            lambda p, t: float(2 * (p & t).sum() / (p.sum() + t.sum())),
        "That is the share of the truth that was found (recall). Invented cells must count against you: divide by the union.":
            lambda p, t: float((p & t).sum() / t.sum()),
        "That is the share of the prediction that is true (precision). Missed cells must count against you: divide by the union.":
            lambda p, t: float((p & t).sum() / p.sum()),
    }, what="the IoU"),),
    mistakes=(
        Mistake("share of all pixels", edits=(("both = (prediction == 1) & (truth == 1)", "both = prediction == truth"),
                                              ("/ either.sum()", "/ either.size"))),
        Mistake("Dice coefficient", edits=(("both.sum() / either.sum()", "2 * both.sum() / (either.sum() + both.sum())"),)),
        Mistake("(recall)", edits=(("either = (prediction == 1) | (truth == 1)", "either = truth == 1"),)),
        Mistake("(precision)", edits=(("either = (prediction == 1) | (truth == 1)", "either = prediction == 1"),)),
        Mistake("the IoU is", edits=(("(prediction == 1) | (truth == 1)", "(prediction == 1) ^ (truth == 1)"),)),
    ),
)  # fmt: skip


def _pairs_by_pixel(ids: Array) -> set[tuple[int, int]]:
    pairs = set()
    for i, j in np.ndindex(ids.shape):
        for below, right in ((i + 1, j), (i, j + 1)):
            if below < ids.shape[0] and right < ids.shape[1]:
                a, b = sorted((int(ids[i, j]), int(ids[below, right])))
                if 0 < a != b:
                    pairs.add((a, b))
    return pairs


def _touching(draw: Draw, touching: Callable[[Array], Any]) -> None:
    """Cells that meet sideways, above one another, at a corner only, and across a gap of background."""
    ids = np.zeros((9, 12), np.int32)
    a, b, c, d, e = (int(k) for k in draw.rng.permutation(9)[:5] + 1)
    ids[1:3, 1:4], ids[1:3, 4:6] = a, b  # side by side
    ids[3:5, 2:4] = c  # below a
    ids[5:7, 4:6] = d  # at the corner of c alone
    ids[5:7, 7:9] = e  # one pixel of background away from d
    if draw.choice((False, True)):
        ids = np.ascontiguousarray(ids.T)
    found, expected = touching(ids.copy()), _pairs_by_pixel(ids)
    if not isinstance(found, set):
        raise CheckError(f"The result is a {type(found).__name__}, expected a set of pairs: {{(1, 2), (2, 5)}}, say.")
    shown = f"\nThe instances were\n{ids}"
    if any(0 in pair for pair in found):
        raise CheckError(f"{sorted(found)} has pairs with 0, the background. That is no cell." + shown)
    if any(x == y for x, y in found):
        raise CheckError(f"{sorted(found)} has a cell that touches itself. Keep pairs of unequal ids." + shown)
    if any(x > y for x, y in found):
        raise CheckError(f"{sorted(found)} has pairs whose larger id comes first: give each once, the smaller id first." + shown)
    if missing := expected - found:
        raise CheckError(f"{sorted(missing)} is missing. Do you look at neighbours in the row and in the column?" + shown)
    if more := found - expected:
        raise CheckError(f"{sorted(more)} do not touch: they meet at a corner, or not at all." + shown)


exercise(
    "00.touching",
    "touching(ids) -> the set of pairs of cells that touch",
    laws=(_touching,),
    mistakes=(
        Mistake("That is no cell", edits=((" & (first > 0) & (second > 0)", ""),)),
        Mistake("touches itself", edits=(("(first != second) & ", ""),)),
        Mistake("larger id comes first", edits=(("int(min(a, b)), int(max(a, b))", "int(max(a, b)), int(min(a, b))"),)),
        Mistake("is missing", edits=(("((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:]))", "((ids[:, :-1], ids[:, 1:]),)"),)),
        Mistake("they meet at a corner",
                edits=(("(ids[:-1], ids[1:]))", "(ids[:-1], ids[1:]), (ids[:-1, :-1], ids[1:, 1:]))"),)),
        Mistake("is a list, expected a set", edits=(("return pairs", "return list(pairs)"),)),
    ),
)  # fmt: skip
