"""Lesson 17: your own images. An honest split, IoU and SEG with their conventions, an interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, exercise
from tinyunet.errors import CheckError

Names = list[str]

# The split ------------------------------------------------------------------------------------------------------------


def _names(draw: Draw) -> tuple[Names, Names]:
    """Frames of some dishes in no order, and the dishes; dish1 is the beginning of dish10."""
    dishes = ["dish1", "dish10", "dish12", "dish2", *(f"dish{k}" for k in range(3, draw.integer(4, 6)))]
    names = [f"{dish}_t{t}" for dish in dishes for t in range(draw.integer(2, 4))]
    return [names[k] for k in draw.rng.permutation(len(names))], dishes


def _dish(name: str) -> str:
    return name.rpartition("_")[0]


def _split(split: Callable[..., Any], names: Names, fraction: float, seed: int) -> tuple[Names, Names]:
    """What a student's split gives, if it is two lists that hold every name once."""
    handed = list(names)
    parts = split(handed, fraction, np.random.default_rng(seed))
    if handed != names:
        raise CheckError("Your code changes the list of names that it was given. Work on a copy.")
    if not isinstance(parts, tuple) or len(parts) != 2 or not all(isinstance(part, list) for part in parts):
        raise CheckError("The result should be two lists of names: return train, val.")
    train, val = ([str(name) for name in part] for part in parts)
    if strange := set(train + val) - set(names):
        raise CheckError(f"{sorted(strange)[0]!r} is in your split and not among the names. Give names of images, not of dishes.")
    if lost := set(names) - set(train + val):
        raise CheckError(f"{len(lost)} of {len(names)} images are in neither part, {sorted(lost)[0]!r} for one.")
    for part, name in ((train, "train"), (val, "val")):
        if not part:
            dishes = len({_dish(n) for n in names})
            raise CheckError(f"{name} is empty, with fraction {fraction} of {dishes} dishes. Each part gets at least one dish.")
        if part != [n for n in names if n in part]:
            raise CheckError(f"{name} is not in the order given, or has a name twice. Go through the names once.")
    return train, val


def _no_dish_in_both(draw: Draw, split: Callable[..., Any]) -> None:
    names, _ = _names(draw)
    for fraction in (0.05, 0.4):
        for seed in range(4):
            train, val = _split(split, names, fraction, seed)
            if shared := {_dish(n) for n in train} & {_dish(n) for n in val}:
                dish = min(shared)
                twins = [next(n for n in part if _dish(n) == dish) for part in (train, val)]
                raise CheckError(f"{twins[0]!r} trains and {twins[1]!r} validates: near twins, from one dish. Draw dishes, not "
                                 "images.")  # fmt: skip


def _dishes_are_drawn(draw: Draw, split: Callable[..., Any]) -> None:
    """As many as asked for, any of them, by the generator handed in."""
    names, dishes = _names(draw)
    fraction = draw.choice((0.3, 0.4))
    count = round(fraction * len(dishes))
    chosen = [{_dish(n) for n in _split(split, names, fraction, seed)[1]} for seed in range(30)]
    if chosen[0] != {_dish(n) for n in _split(split, names, fraction, 0)[1]}:
        raise CheckError("Two calls with the same seed give two splits. Draw from the rng that is handed in.")
    if all(part == chosen[0] for part in chosen):
        raise CheckError(f"30 seeds, and always the same dishes validate: {', '.join(sorted(chosen[0]))}. Draw them with rng.")
    if all(("dish1" in part) == ("dish10" in part) for part in chosen):
        raise CheckError("dish1 and dish10 are always in the same part. Do you take a fixed number of letters? Take all "
                         "before the last underscore.")  # fmt: skip
    for part in chosen:
        if len(part) != count:
            why = " Are the parts exchanged? return train, val." if len(part) == len(dishes) - count else ""
            if all({"dish10", "dish12"} <= other for other in chosen if "dish1" in other):
                why = " What begins with dish1 need not be of dish1: there is a dish10. Compare with ==."
            raise CheckError(f"{len(part)} of {len(dishes)} dishes validate, expected {count}: "
                             f"round({fraction} * {len(dishes)}), counted in dishes.{why}")  # fmt: skip
    if never := set(dishes) - {dish for part in chosen for dish in part}:
        raise CheckError(f"In 30 draws {min(never)} never validates. Give every dish the same chance.")
    _split(split, names, 0.97, 0)  # one dish is left to train on


exercise(
    "17.split",
    "split_by_dish(names, fraction, rng) -> (train, val), without a dish in both",
    laws=(_no_dish_in_both, _dishes_are_drawn),
    mistakes=(
        Mistake("near twins, from one dish", edits=(('name.rpartition("_")[0]', "name"),)),
        Mistake("always in the same part", edits=(('name.rpartition("_")[0]', "name[:5]"),)),
        Mistake("there is a dish10", edits=(("if d in chosen", "if any(name.startswith(c) for c in chosen)"),
                                            ("if d not in chosen", "if not any(name.startswith(c) for c in chosen)"))),
        Mistake("always the same dishes validate", edits=(("rng.permutation(dishes)", "dishes"),)),
        Mistake("val is empty", edits=(("max(round(fraction * len(dishes)), 1)", "round(fraction * len(dishes))"),)),
        Mistake("train is empty", edits=(("min(max(round(fraction * len(dishes)), 1), len(dishes) - 1)",
                                          "max(round(fraction * len(dishes)), 1)"),)),
        Mistake("Are the parts exchanged?", edits=(("return train, val", "return val, train"),)),
        Mistake("same seed give two splits", edits=(("rng.permutation", "np.random.default_rng().permutation"),)),
        Mistake("counted in dishes", edits=(("round(fraction * len(dishes))", "round(fraction * len(dishes)) + 1"),)),
    ),
)  # fmt: skip


# IoU ------------------------------------------------------------------------------------------------------------------


def _areas(predictions: list[Array], truths: list[Array]) -> tuple[Array, Array]:
    pairs = list(zip(predictions, truths, strict=True))
    return np.array([np.sum(p & t) for p, t in pairs]), np.array([np.sum(p | t) for p, t in pairs])


def _pooled(predictions: list[Array], truths: list[Array]) -> float:
    both, either = _areas(predictions, truths)
    return float(both.sum() / either.sum())


def _mean(predictions: list[Array], truths: list[Array], empty: float | None = None) -> float:
    """The mean over images; `empty` is what 0/0 counts for, None leaves it out."""
    both, either = _areas(predictions, truths)
    ratios = [b / e if e else empty for b, e in zip(both, either, strict=True)]
    return float(np.mean([r for r in ratios if r is not None]))


def _images(draw: Draw) -> tuple[list[Array], list[Array]]:
    """Images of unequal sizes, full of cells and nearly without, so that the two means differ."""
    truths, predictions = [], []
    for density in (0.6, 0.1, 0.3, 0.2):
        truth = (draw.rng.random((draw.integer(6, 9), draw.integer(10, 16))) < density).astype(int)
        truth[0, :3] = 1
        truths.append(truth)
        predictions.append(np.where(draw.rng.random(truth.shape) < 0.15 + 0.2 * draw.rng.random(), 1 - truth, truth))
        predictions[-1][0, 1] = 1
    return predictions, truths


def _call(iou_twice: Callable[..., Any], predictions: list[Array], truths: list[Array]) -> Any:
    """The answer, as plain numbers; dividing by 0 gives NaN without a warning."""
    with np.errstate(all="ignore"):
        found = iou_twice([p.copy() for p in predictions], [t.copy() for t in truths])
    return tuple(found) if isinstance(found, tuple | list | np.ndarray) else found


def _two_means(draw: Draw, iou_twice: Callable[..., Any]) -> None:
    predictions, truths = _images(draw)
    found, expected = _call(iou_twice, predictions, truths), (_pooled(predictions, truths), _mean(predictions, truths))
    if not (wrong := difference("(pooled, mean)", found, expected)):
        return
    both, _ = _areas(predictions, truths)
    over_truth = both.sum() / sum(int(t.sum()) for t in truths)
    right = [float(np.mean(p == t)) for p, t in zip(predictions, truths, strict=True)]
    for hint, other in {
        "The two are exchanged: return pooled, mean.": expected[::-1],
        "Both are the mean over images. For the pooled one add up the areas of all images, and divide once.": (expected[1],) * 2,
        "Both are pooled. For the mean divide in every image, then average.": (expected[0],) * 2,
    }.items():
        if not difference("", found, other):
            raise CheckError(f"{wrong}\nHint: {hint}")
    if isinstance(found, tuple) and not difference("", found[0], over_truth):
        wrong += "\nHint: That is the share of the truth that was found. Divide by the union."
    if isinstance(found, tuple) and len(found) == 2 and not difference("", found[1], float(np.mean(right))):
        wrong += "\nHint: That is the share of pixels that are right. Leave out those that are background in both."
    raise CheckError(wrong)


def _empty_images(draw: Draw, iou_twice: Callable[..., Any]) -> None:
    """One image empty in both, one in which cells were invented."""
    predictions, truths = _images(draw)
    shape = (draw.integer(4, 6), 7)
    empty, invented = np.zeros(shape, int), np.zeros(shape, int)
    invented[1, 2:5] = 1
    predictions, truths = [*predictions, empty, invented], [*truths, empty, empty]
    found, expected = _call(iou_twice, predictions, truths), (_pooled(predictions, truths), _mean(predictions, truths))
    if not (wrong := difference("(pooled, mean)", found, expected)):
        return
    wrong += "\nOne of the images is empty in truth and prediction, another in the truth alone."
    if isinstance(found, tuple) and len(found) == 2:
        mean = found[1]
        for hint, other in {
            "The image that is empty in both was counted as 1. The convention here leaves it out.":
                _mean(predictions, truths, 1.0),
            "The image that is empty in both was counted as 0, which punishes a right answer. Leave it out.":
                _mean(predictions, truths, 0.0),
            "The image with invented cells was left out. Its truth is empty and its prediction is not: its IoU is 0.":
                _mean(predictions[:-1], truths[:-1]),
        }.items():  # fmt: skip
            if not difference("", mean, other):
                raise CheckError(f"{wrong}\nHint: {hint}")
        if np.isnan(mean):
            wrong += "\nHint: 0/0 is NaN, and one NaN makes the mean NaN. Leave out the image that is empty in both."
    raise CheckError(wrong)


def _nothing_at_all(draw: Draw, iou_twice: Callable[..., Any]) -> None:
    empty = [np.zeros((3, draw.integer(4, 6)), int)] * 2
    try:
        found = _call(iou_twice, empty, empty)
    except ZeroDivisionError:
        found = "a ZeroDivisionError"
    if not isinstance(found, tuple) or len(found) != 2 or not all(np.isnan(v) for v in found):
        raise CheckError(f"Where all images are empty, in truth and prediction, your result is {found}, expected NaN, twice: "
                         "nothing was there to find, and nothing was claimed.")  # fmt: skip


exercise(
    "17.iou",
    "iou_twice(predictions, truths) -> (pooled, mean), the IoU of all pixels and the mean over images",
    laws=(_two_means, _empty_images, _nothing_at_all),
    mistakes=(
        Mistake("The two are exchanged", edits=(("return both.sum() / either.sum(), np.mean(both[some] / either[some])",
                                                 "return np.mean(both[some] / either[some]), both.sum() / either.sum()"),)),
        Mistake("Both are the mean",
                edits=(("return both.sum() / either.sum(), ", "return np.mean(both[some] / either[some]), "),)),
        Mistake("Both are pooled", edits=(("np.mean(both[some] / either[some])", "both.sum() / either.sum()"),)),
        Mistake("counted as 1", edits=(("np.mean(both[some] / either[some])", "np.mean((both + ~some) / (either + ~some))"),)),
        Mistake("counted as 0", edits=(("np.mean(both[some] / either[some])", "np.sum(both[some] / either[some]) / len(both)"),)),
        Mistake("invented cells was left out", edits=(("some = either > 0", "some = np.array([t.any() for t in truths])"),)),
        Mistake("one NaN makes the mean NaN", edits=(("np.mean(both[some] / either[some])", "np.mean(both / either)"),)),
        Mistake("expected NaN, twice", edits=(("return np.nan, np.nan", "return 1.0, 1.0"),)),
        Mistake("share of the truth", edits=(("(p == 1) | (t == 1)", "t == 1"),)),
    ),
)  # fmt: skip


# SEG ------------------------------------------------------------------------------------------------------------------


def _seg(prediction: Array, truth: Array, rule: str = "half of R", mean: str = "R") -> float:
    """SEG; or, with another rule or mean, what it is mistaken for."""
    scores = []
    for r in np.unique(truth) if mean == "background too" else np.unique(truth[truth > 0]):
        R = truth == r
        best = 0.0
        for s in np.unique(prediction[R]):
            if s == 0 and mean != "background too" and rule != "background matches":
                continue
            S = prediction == s
            both, either = int(np.sum(R & S)), int(np.sum(R | S))
            found = {
                "at least half": 2 * both >= R.sum(),
                "half of S": 2 * both > S.sum(),
                "half of the union": 2 * both > either,
                "any": True,
            }.get(rule, 2 * both > R.sum())
            best = max(best, both / either if found else 0.0)
        scores.append(best)
    if mean == "found":
        scores = [score for score in scores if score]
    if mean == "invented too":
        scores += [0.0] * sum(not truth[prediction == s].any() for s in np.unique(prediction[prediction > 0]))
    return float(np.mean(scores)) if scores else float("nan")


_LOOKALIKES = {
    "Half is not more than half: a cell that is cut into two halves is not found. Use >.": {"rule": "at least half"},
    "S must cover more than half of R, the true cell; you ask for more than half of S.": {"rule": "half of S"},
    "You ask for an IoU above one half. S must cover more than half of R, however large S is.": {"rule": "half of the union"},
    "You take the best S, however little of R it covers. It must cover more than half.": {"rule": "any"},
    "You let the background be an S: a missed cell then matches it. Only ids > 0 are objects.": {"rule": "background matches"},
    "You average over the cells that were found. Those that were not count as 0.": {"mean": "found"},
    "You count background as a cell. Only ids > 0 are cells.": {"mean": "background too"},
    "You count invented objects as 0. SEG averages over the cells of the truth alone.": {"mean": "invented too"},
}


def _plate(draw: Draw) -> tuple[Array, Array]:
    """Eight cells: found, far too large, two merged, half found, cut in halves, a sliver found, missed; and one is invented."""
    height, half = draw.integer(3, 5), draw.integer(2, 3)
    rows, cols = height + 4, 2 * half + 4
    fates = ["found", "large", "merged", "half", "halves", "sliver", "missed", "invented"]
    ids = iter((draw.rng.permutation(99) + 1).tolist())
    truth, prediction = np.zeros((2, rows * len(fates), 2 * cols), np.int32)
    for k, fate in enumerate(fates[i] for i in draw.rng.permutation(len(fates))):
        t, p = truth[k * rows : (k + 1) * rows], prediction[k * rows : (k + 1) * rows]
        cell = np.s_[2 : 2 + height, 2 : 2 + 2 * half]
        if fate != "invented":
            t[cell] = next(ids)
        if fate == "found":
            p[2 : 1 + height, 2 : 2 + 2 * half] = next(ids)
        elif fate in ("half", "halves"):
            p[2 : 2 + height, 2 : 2 + half] = next(ids)
            if fate == "halves":
                p[2 : 2 + height, 2 + half : 2 + 2 * half] = next(ids)
        elif fate == "sliver":
            p[2 : 2 + height, 3] = next(ids)
        elif fate == "merged":
            t[2 : 2 + height, 2 + cols : 2 + cols + 2 * half] = next(ids)
            p[2 : 2 + height, 2 : 2 + cols + 2 * half] = next(ids)
        elif fate == "large":
            p[1:-1, 1 : 2 + cols] = next(ids)
        elif fate == "invented":
            p[cell] = next(ids)
    return prediction, truth


def _seg_is(draw: Draw, seg: Callable[..., Any]) -> None:
    prediction, truth = _plate(draw)
    if draw.choice((False, True)):
        prediction, truth = (np.ascontiguousarray(a.T) for a in (prediction, truth))
    handed = prediction.copy(), truth.copy()
    found = seg(*handed)
    if wrong := difference("SEG", found, _seg(prediction, truth)):
        for hint, other in _LOOKALIKES.items():
            if not difference("", found, _seg(prediction, truth, **other)):
                raise CheckError(f"{wrong}\nHint: {hint}")
        if not difference("", found, _seg(truth, prediction)):
            raise CheckError(f"{wrong}\nHint: Truth and prediction are exchanged.")
        if not difference("", found, float(np.sum((truth > 0) & (prediction > 0)) / np.sum((truth > 0) | (prediction > 0)))):
            raise CheckError(f"{wrong}\nHint: That is the IoU of the pixels. Ask cell by cell.")
        raise CheckError(f"{wrong}\nOf eight cells one is found, one found far too large, two are merged, and four count as 0: "
                         "one is half found, one cut in halves, of one there is a sliver, one is missed. Ids are not 1, 2, "
                         "3.")  # fmt: skip
    if not all(np.array_equal(a, b) for a, b in zip(handed, (prediction, truth), strict=True)):
        raise CheckError("SEG is right, but your code changes the arrays that it was given. Work on copies.")


def _no_cells(draw: Draw, seg: Callable[..., Any]) -> None:
    prediction = np.zeros((5, 6), np.int32)
    prediction[1:3, 2:4] = draw.integer(1, 9)
    with np.errstate(all="ignore"):
        try:
            found = seg(prediction, np.zeros((5, 6), np.int32))
        except ZeroDivisionError:
            found = "a ZeroDivisionError"
    if not isinstance(found, float | np.floating) or not np.isnan(found):
        raise CheckError(f"Without a cell in the truth SEG is {found}, expected NaN: there is nothing to take the mean of.")


exercise(
    "17.seg",
    "seg(prediction, truth) -> SEG, the mean IoU of cells and the objects that cover more than half of them",
    laws=(_seg_is, _no_cells),
    mistakes=(
        Mistake("Half is not more than half", edits=(("both > R.sum() / 2", "both >= R.sum() / 2"),)),
        Mistake("more than half of S", edits=(("R.sum() / 2", "S.sum() / 2"),)),
        Mistake("an IoU above one half", edits=(("both > R.sum() / 2", "both / np.sum(R | S) > 0.5"),)),
        Mistake("the best S, however little", edits=(("if both > R.sum() / 2:", "if both / np.sum(R | S) > score:"),)),
        Mistake("let the background be an S", edits=(("prediction[R & (prediction > 0)]", "prediction[R]"),)),
        Mistake("average over the cells that were found",
                edits=(("        scores.append(score)", "        scores += [score] if score else []"),)),
        Mistake("count background as a cell",
                edits=(("np.unique(truth[truth > 0])", "np.unique(truth)"),
                       ("prediction[R & (prediction > 0)]", "prediction[R]"))),
        Mistake("expected NaN", edits=(("if scores else np.nan", "if scores else 1.0"),)),
    ),
)  # fmt: skip


# An interval ----------------------------------------------------------------------------------------------------------

_DRAWS = 4000


def _bounds(values: Array, rng: np.random.Generator, tails: float = 2.5, size: int = 0) -> Array:
    """Two percentiles of the mean of `size` values drawn with replacement, as many as there are unless given; finely."""
    size = size or len(values)
    bounds: Array = np.percentile(values[rng.integers(0, len(values), (50_000, size))].mean(axis=1), [tails, 100 - tails])
    return bounds


def _interval(draw: Draw, interval: Callable[..., Any]) -> None:
    """Within the error of 4000 draws: with tails of 1.25 to 3.75 %, five standard errors.

    The last image went badly wrong, so that it matters whether it is drawn, and the means are not normally distributed.
    """
    values = draw.rng.beta(4, 2, draw.integer(9, 14))
    values[-1] = 0.02
    seeds = [draw.integer(0, 2**31) for _ in range(2)]
    answers = []
    for seed in (seeds[0], seeds[0], seeds[1]):
        handed = values.copy()
        found = interval(handed, _DRAWS, np.random.default_rng(seed))
        if not np.array_equal(handed, values):
            raise CheckError("Your code changes the values that it was given. Take values[indices], a copy.")
        if not isinstance(found, tuple | list | np.ndarray) or len(found) != 2:
            raise CheckError("The result should be two numbers: return low, high.")
        answers.append((float(found[0]), float(found[1])))
    low, high = answers[0]
    told = f"The interval is {low:.4f} to {high:.4f}"
    if answers[0] != answers[1]:
        raise CheckError("Two calls with the same seed give two intervals. Draw from the rng that is handed in.")
    if low > high:
        raise CheckError(f"{told}: low and high are exchanged.")
    if high - low < 1e-9:
        raise CheckError(f"{told}, both the mean. You draw every image exactly once, so all means are equal: draw with "
                         "replacement.")  # fmt: skip
    expected = _bounds(values, draw.rng)

    def like(bounds: Array) -> bool:
        return bool(np.all(np.abs(bounds - (low, high)) < 0.05 * (expected[1] - expected[0])))

    if like(np.percentile(values, [2.5, 97.5])) or like(_bounds(values, draw.rng, size=1)):
        raise CheckError(f"{told}: so far apart lie single images. Draw as many images as there are, and take their mean.")
    if answers[0] == answers[2]:
        raise CheckError(f"{told} whatever the seed. Draw images with the rng that is handed in.")
    outer, inner = (_bounds(values, draw.rng, tails) for tails in (1.25, 3.75))
    if outer[0] <= low <= inner[0] and inner[1] <= high <= outer[1]:
        return
    wrong = f"{told}, expected {expected[0]:.3f} to {expected[1]:.3f}, about."
    if like(_bounds(values[:-1], draw.rng, size=len(values))):
        wrong += "\nHint: The last image is never drawn. rng.integers(0, n) already leaves out n."
    elif like(_bounds(values, draw.rng, 5)):
        wrong += "\nHint: That is the middle 90 %. 2.5 % are left out at either end."
    elif high - low < 0.8 * (expected[1] - expected[0]):
        wrong += "\nHint: Too narrow. In each draw, draw as many images as there are, no more."
    raise CheckError(wrong)


exercise(
    "17.interval",
    "interval(values, draws, rng) -> (low, high), the middle 95 % of bootstrap means",
    laws=(_interval,),
    mistakes=(
        Mistake("draw with replacement",
                edits=(("rng.integers(0, n, (draws, n))", "np.array([rng.permutation(n) for _ in range(draws)])"),)),
        Mistake("so far apart lie single images", edits=(("rng.integers(0, n, (draws, n))", "rng.integers(0, n, (draws, 1))"),)),
        Mistake("so far apart lie single images", edits=(("np.percentile(means, [2.5, 97.5])",
                                                          "np.percentile(values[rng.integers(0, n, draws)], [2.5, 97.5])"),)),
        Mistake("the middle 90 %", edits=(("[2.5, 97.5]", "[5, 95]"),)),
        Mistake("The last image is never drawn", edits=(("rng.integers(0, n,", "rng.integers(0, n - 1,"),)),
        Mistake("Too narrow", edits=(("(draws, n)", "(draws, 3 * n)"),)),
        Mistake("same seed give two", edits=(("rng.integers", "np.random.default_rng().integers"),)),
        Mistake("whatever the seed", edits=(("rng.integers", "np.random.default_rng(0).integers"),)),
        Mistake("exchanged", edits=(("return low, high", "return high, low"),)),
    ),
)  # fmt: skip
