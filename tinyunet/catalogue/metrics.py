"""Properties of the measures: against loops over pixels, objects and pairs of pixels, and at the cases where they are known."""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np

from tinyunet import metrics
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.data import instances as objects
from tinyunet.data.sample import IGNORE

EDGES = ((-1, 0), (0, 1), (1, 0), (0, -1))
CORNERS = ((-1, -1), (-1, 1), (1, 1), (1, -1))


def same(what: str, found: float, expected: float) -> None:
    """Equal numbers, or both NaN."""
    if math.isnan(expected) or math.isnan(found):
        require(math.isnan(expected) and math.isnan(found), f"{what} is {found:g}, expected {expected:g}")
    else:
        require_close(what, found, expected, rtol=1e-10)


def draw_classes(draw: Draw) -> tuple[Array, Array, int]:
    """A prediction, labels some of which are unknown, and the number of classes; some classes may be missing."""
    k, shape = draw.integer(2, 4), (draw.integer(1, 7), draw.integer(1, 7))
    return draw.rng.integers(0, draw.integer(1, k), shape), draw.rng.integers(IGNORE, draw.integer(0, k), shape), k


def draw_objects(draw: Draw) -> tuple[Array, Array]:
    """A prediction and a reference of a few boxes under scattered ids; the prediction is mostly like the reference."""
    reference = np.zeros((draw.integer(2, 8), draw.integer(2, 8)), np.int64)
    prediction = np.zeros_like(reference)
    for cell in draw.rng.permutation(draw.integer(0, 4)):
        top, left = draw.rng.integers(0, reference.shape)
        box = np.s_[top : top + draw.rng.integers(1, 6), left : left + draw.rng.integers(1, 6)]
        reference[box] = 7 * cell + 3
        if draw.rng.random() < 0.8:
            prediction[box] = draw.rng.integers(1, 5)
    noise = draw.rng.random(reference.shape) < 0.15
    prediction[noise] = draw.rng.integers(0, 3, int(noise.sum()))
    return prediction, reference


def draw_mask(draw: Draw, height: int = 0, width: int = 0) -> Array:
    """A random mask, more or less dense."""
    shape = (height or draw.integer(1, 7), width or draw.integer(1, 7))
    return draw.rng.random(shape) < draw.integer(2, 8) / 10


def flood(mask: Array, steps: tuple[tuple[int, int], ...]) -> Array:
    """Connected pieces by flooding each from its first pixel in row-major order: 1, 2, 3 ..., 0 for what is not in the mask."""
    pieces, count = np.zeros(mask.shape, np.int64), 0
    for start in np.ndindex(mask.shape):
        if mask[start] and not pieces[start]:
            count += 1
            pieces[start] = count
            queue = deque([start])
            while queue:
                i, j = queue.popleft()
                for di, dj in steps:
                    at = (i + di, j + dj)
                    if 0 <= at[0] < mask.shape[0] and 0 <= at[1] < mask.shape[1] and mask[at] and not pieces[at]:
                        pieces[at] = count
                        queue.append(at)
    return pieces


# Pixels --------------------------------------------------------------------------------------------------------------


@holds("metrics", "reference")
def confusion_counts_pairs(_: None, draw: Draw) -> None:
    """confusion[k, l] counts pixels of class k that were predicted as l: rows truth, columns prediction, unknown ones nowhere."""
    prediction, labels, k = draw_classes(draw)
    counts = Counter(zip(labels.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    expected = [[counts[i, j] for j in range(k)] for i in range(k)]
    require_close("the confusion matrix", metrics.confusion_matrix(prediction, labels, k), expected, rtol=0)


@holds("metrics", "reference")
def iou_and_dice_are_those_of_sets(_: None, draw: Draw) -> None:
    """IoU = |A and B| / |A or B|, Dice = 2 |A and B| / (|A| + |B|) of the pixels of a class, NaN where both sets are empty."""
    prediction, labels, k = draw_classes(draw)
    confusion, known = metrics.confusion_matrix(prediction, labels, k), labels != IGNORE
    wrong = total = 0
    for c in range(k):
        truth, claim = (set(np.flatnonzero(known & (a == c)).tolist()) for a in (labels, prediction))
        either, both = truth | claim, truth & claim
        iou = len(both) / len(either) if either else math.nan
        dice = 2 * len(both) / (len(truth) + len(claim)) if either else math.nan
        same(f"the IoU of class {c}", float(metrics.iou(confusion)[c]), iou)
        same(f"the Dice of class {c}", float(metrics.dice(confusion)[c]), dice)
        wrong, total = wrong + len(truth - claim), total + len(truth)
    same("the pixel error", metrics.pixel_error(confusion), wrong / total if total else math.nan)


@holds("metrics", "invariance")
def dice_follows_from_iou(_: None, draw: Draw) -> None:
    """Dice = 2 IoU / (1 + IoU), and neither changes when truth and prediction are exchanged."""
    prediction, labels, k = draw_classes(draw)
    confusion = metrics.confusion_matrix(prediction, labels, k)
    iou, dice = metrics.iou(confusion), metrics.dice(confusion)
    for c in range(k):
        same("Dice", float(dice[c]), float(2 * iou[c] / (1 + iou[c])))
        same("IoU of the exchange", float(metrics.iou(confusion.T)[c]), float(iou[c]))


@holds("metrics", "convention")
def unknown_pixels_are_not_scored(_: None, draw: Draw) -> None:
    """Whatever is predicted where the label is IGNORE, every measure of pixels stays the same."""
    prediction, labels, k = draw_classes(draw)
    other = np.where(labels == IGNORE, draw.rng.integers(0, k, labels.shape), prediction)
    require_close("the confusion matrix", metrics.confusion_matrix(other, labels, k),
                  metrics.confusion_matrix(prediction, labels, k), rtol=0)


@holds("metrics", "convention")
def the_mean_is_of_foreground_that_is_there(_: None, draw: Draw) -> None:
    """Means leave out background and classes that are in neither image; with none left they are NaN, never 0 or 1."""
    k = draw.integer(2, 5)
    values = [math.nan if draw.integer(0, 1) else draw.integer(0, 10) / 10 for _class in range(k)]
    present = [v for v in values[1:] if not math.isnan(v)]
    same("the mean", metrics.foreground_mean(np.array(values)), sum(present) / len(present) if present else math.nan)


@holds("metrics", "convention")
def images_are_pooled(_: None, draw: Draw) -> None:
    """The measure of two images is that of their pixels and objects together, not the mean of two measures."""
    k, pairs = 3, []
    for _image in range(2):
        shape = (draw.integer(1, 6), draw.integer(1, 6))
        pairs.append((draw.rng.integers(0, k, shape), draw.rng.integers(IGNORE, k, shape), draw.rng.integers(0, 4, shape)))
    names = ("background", "one", "two")
    scores = [metrics.evaluate_pair(p, t, r, class_names=names) for p, t, r in pairs]
    both = metrics.total(scores)
    joined = [np.concatenate([a.ravel() for a in arrays])[None] for arrays in zip(*pairs, strict=True)]
    confusion = metrics.confusion_matrix(joined[0], joined[1], k)
    require_close("the confusion of both", both.confusion, confusion, rtol=0)
    same("the mean IoU of both", both.mean_iou, metrics.foreground_mean(metrics.iou(confusion)))
    each = [metrics.seg_scores(objects.components(p > 0), r) for p, _labels, r in pairs]
    every = np.concatenate(each)
    same("SEG of both", both.seg, float(every.mean()) if every.size else math.nan)


# Objects -------------------------------------------------------------------------------------------------------------


@holds("metrics", "reference")
def components_are_floods(_: None, draw: Draw) -> None:
    """Objects of a mask are pieces joined by edges (4) or also by corners (8), numbered as a reader meets them."""
    mask = draw_mask(draw)
    require_close("components(mask)", objects.components(mask), flood(mask, EDGES), rtol=0)
    require_close("components(mask, 8)", objects.components(mask, 8), flood(mask, EDGES + CORNERS), rtol=0)


@holds("metrics", "reference")
def small_objects_are_removed(_: None, draw: Draw) -> None:
    """Objects of fewer than min_size pixels become background; the others keep their pixels and their order."""
    ids, least = draw_objects(draw)[1], draw.integer(0, 9)
    expected = np.zeros_like(ids)
    for number, cell in enumerate([c for c in np.unique(ids[ids > 0]) if (ids == c).sum() >= least], start=1):
        expected[ids == cell] = number
    require_close(f"remove_small(ids, {least})", objects.remove_small(ids, least), expected, rtol=0)


@holds("metrics", "reference")
def seg_is_a_loop_over_objects(_: None, draw: Draw) -> None:
    """Each object R scores |R and S| / |R or S| with the S that covers more than half of it, or 0; SEG is their mean."""
    prediction, reference = draw_objects(draw)
    scores = []
    for r in np.unique(reference[reference > 0]):
        score = 0.0
        for s in np.unique(prediction[prediction > 0]):
            both = int(((reference == r) & (prediction == s)).sum())
            if 2 * both > (reference == r).sum():
                score = both / int(((reference == r) | (prediction == s)).sum())
        scores.append(score)
    require_close("the score", metrics.seg_scores(prediction, reference), np.array(scores))
    same("SEG", metrics.seg(prediction, reference), float(np.mean(scores)) if scores else math.nan)


@holds("metrics", "convention")
def exactly_half_is_no_match(_: None, draw: Draw) -> None:
    """An object of 2 n pixels of which n were found scores 0; with one pixel more it scores (n + 1) / 2 n."""
    n = draw.integer(1, 10)
    reference = np.ones((1, 2 * n), np.int64)
    half, more = reference.copy(), reference.copy()
    half[0, n:], more[0, n + 1 :] = 0, 0
    same("SEG of half an object", metrics.seg(half, reference), 0.0)
    same("SEG of one pixel more", metrics.seg(more, reference), (n + 1) / (2 * n))


@holds("metrics", "convention")
def seg_does_not_see_false_alarms(_: None, draw: Draw) -> None:
    """Objects that only the prediction has cost nothing."""
    prediction, reference = draw_objects(draw)
    extra = np.where((prediction == 0) & (reference == 0), draw.integer(50, 60), prediction)
    same("SEG with false alarms", metrics.seg(extra, reference), metrics.seg(prediction, reference))


# Pieces --------------------------------------------------------------------------------------------------------------


def restricted(prediction: Array, reference: Array) -> tuple[list[int], list[int]]:
    """Objects of truth and of prediction for each pixel of the truth's foreground; predicted background makes singletons."""
    inside = reference > 0
    claim = prediction[inside].astype(np.int64)
    claim[claim == 0] = 10**6 + np.arange(int((claim == 0).sum()))
    return reference[inside].tolist(), claim.tolist()


def agree(found: metrics.Agreement, expected: metrics.Agreement, who: str) -> None:
    """Equal F-score, merge and split score."""
    for name, one, other in zip(metrics.Agreement._fields, found, expected, strict=True):
        same(f"{name} of {who}", one, other)


def harmonic(merge: float, split: float) -> float:
    """The F-score of two shares."""
    return 2 * merge * split / (merge + split) if merge + split else 0.0


@holds("metrics", "reference")
def v_rand_counts_pairs(_: None, draw: Draw) -> None:
    """V_Rand counts pairs of the truth's foreground pixels: together in both, in the prediction, in the truth."""
    prediction, reference = draw_objects(draw)
    truth, claim = restricted(prediction, reference)
    pairs = [(i == k, j == m) for i, j in zip(truth, claim, strict=True) for k, m in zip(truth, claim, strict=True)]
    found = metrics.v_rand(prediction, reference)
    if not pairs:
        same("V_Rand without foreground", found.f_score, math.nan)
        return
    both = sum(a and b for a, b in pairs)
    merge, split = both / sum(b for _a, b in pairs), both / sum(a for a, _b in pairs)
    same("the merge score", found.merge, merge)
    same("the split score", found.split, split)
    same("V_Rand", found.f_score, harmonic(merge, split))


@holds("metrics", "reference")
def v_info_sums_entropies(_: None, draw: Draw) -> None:
    """V_Info's merge score is I(T;S) / H(T), its split score I(T;S) / H(S), from entropies summed pixel by pixel."""
    prediction, reference = draw_objects(draw)
    truth, claim = restricted(prediction, reference)
    found = metrics.v_info(prediction, reference)
    if not truth:
        same("V_Info without foreground", found.f_score, math.nan)
        return

    def entropy(names: list[int] | list[tuple[int, int]]) -> float:
        counts = Counter(names)
        return -sum(n / len(names) * math.log(n / len(names)) for n in counts.values())

    H_T, H_S = entropy(truth), entropy(claim)
    mutual = H_T + H_S - entropy(list(zip(truth, claim, strict=True)))
    merge, split = (max(mutual, 0.0) / H if H else 1.0 for H in (H_T, H_S))
    for name, value, expected in (("merge", found.merge, merge), ("split", found.split, split)):
        require(abs(value - expected) < 1e-10, f"the {name} score is {value:.9g}, expected {expected:.9g}")


@holds("metrics", "convention")
def predicted_membranes_are_single_pixels(_: None, draw: Draw) -> None:
    """Background inside the truth counts pixel by pixel, never as one large object: it splits and merges nothing."""
    a, b, gap = draw.integer(1, 5), draw.integer(1, 5), draw.integer(1, 4)
    reference = np.ones((1, a + gap + b), np.int64)
    prediction = reference.copy()
    prediction[0, a : a + gap], prediction[0, a + gap :] = 0, 2
    n, alone = a + gap + b, a * a + b * b + gap
    found = metrics.v_rand(prediction, reference)
    same("the merge score", found.merge, 1.0)
    same("the split score", found.split, alone / n**2)
    apart = np.repeat(np.array([[1, 2]]), 2, axis=1)  # two objects of two pixels, all of them predicted as membrane
    same("the merge score of nothing but membrane", metrics.v_rand(0 * apart, apart).merge, 1.0)


@holds("metrics", "convention")
def only_the_foreground_of_the_truth_counts(_: None, draw: Draw) -> None:
    """What is predicted on the truth's background changes neither V_Rand nor V_Info."""
    prediction, reference = draw_objects(draw)
    other = np.where(reference == 0, draw.rng.integers(0, 9, reference.shape), prediction)
    for measure in (metrics.v_rand, metrics.v_info):
        agree(measure(other, reference), measure(prediction, reference), measure.__name__)


@holds("metrics", "convention")
def merging_lowers_merge_and_splitting_split(_: None, draw: Draw) -> None:
    """Two equal objects in one: merge 1/2, split 1 (V_Info: nothing is known, 0). One object in two: merge 1, split 1/2."""
    n = draw.integer(1, 12)
    one, two = np.ones((1, 2 * n), np.int64), np.repeat([[1, 2]], n, axis=1)
    merged, parted = metrics.v_rand(one, two), metrics.v_rand(two, one)
    require_close("V_Rand of a merge", merged[1:], (0.5, 1.0))
    require_close("V_Rand of a split", parted[1:], (1.0, 0.5))
    require_close("V_Info of a merge", metrics.v_info(one, two)[1:], (0.0, 1.0))
    require_close("V_Info of a split", metrics.v_info(two, one)[1:], (1.0, 0.0))


@holds("metrics", "invariance")
def names_of_objects_do_not_matter(_: None, draw: Draw) -> None:
    """Renaming objects on either side leaves SEG, V_Rand and V_Info as they are."""
    prediction, reference = draw_objects(draw)
    names = np.concatenate([[0], draw.rng.permutation(40) + 1])
    others = names[prediction], names[reference]
    same("SEG", metrics.seg(*others), metrics.seg(prediction, reference))
    for measure in (metrics.v_rand, metrics.v_info):
        agree(measure(*others), measure(prediction, reference), measure.__name__)


@holds("metrics", "invariance")
def the_truth_is_perfect(_: None, draw: Draw) -> None:
    """A prediction that is the truth scores 1 everywhere and has no error; without anything to find the scores are NaN."""
    _prediction, reference = draw_objects(draw)
    perfect = 1.0 if reference.any() else math.nan
    for measure in (metrics.v_rand, metrics.v_info):
        same(measure.__name__, measure(reference, reference).f_score, perfect)
    same("SEG", metrics.seg(reference, reference), perfect)
    mask = (reference > 0).astype(np.int64)
    same("the IoU of the truth", float(metrics.iou(metrics.confusion_matrix(mask, mask, 2))[1]), perfect)
    same("the warping error", metrics.warping_error(mask, mask), 0.0)


@holds("metrics", "reference")
def the_best_threshold_is_found_by_trying(_: None, draw: Draw) -> None:
    """max over t of the mean over images of measure(p > t), the first of equal ones; images without an answer are left out."""
    lowest = bool(draw.integer(0, 1))
    maps = [draw.rng.integers(0, 11, (3, 4)) / 10 for _image in range(2)]
    truths = [draw_mask(draw, 3, 4), np.zeros((3, 4), bool) if draw.integer(0, 1) else draw_mask(draw, 3, 4)]

    def iou(mask: Array, truth: Array) -> float:
        return float((mask & truth).sum() / (mask | truth).sum()) if truth.any() else math.nan

    best = (math.nan, math.nan)
    for t in range(11):
        values = [iou(p > t / 10, truth) for p, truth in zip(maps, truths, strict=True)]
        known = [v for v in values if not math.isnan(v)]
        mean = sum(known) / len(known) if known else math.nan
        if math.isnan(best[0]) or (mean < best[0] if lowest else mean > best[0]):
            best = (mean, t / 10)
    if math.isnan(best[0]):
        best = (math.nan, math.nan)
    for name, found, expected in zip(("mean", "threshold"), metrics.best_threshold(iou, maps, truths, lowest=lowest), best,
                                     strict=True):
        same(f"the best {name}", found, expected)


# Topology ------------------------------------------------------------------------------------------------------------


def pieces_around(mask: Array, place: tuple[int, int]) -> tuple[int, int]:
    """4-connected pieces of foreground and 8-connected pieces of background that touch a pixel, within its 3x3 patch."""
    i, j = place
    patch = mask[i - 1 : i + 2, j - 1 : j + 2].copy()
    patch[1, 1] = False
    front = flood(patch, EDGES)
    patch[1, 1] = True
    back = flood(~patch, EDGES + CORNERS)
    touching = {int(front[1 + di, 1 + dj]) for di, dj in EDGES} - {0}
    return len(touching), int(back.max())


def warped_by_hand(prediction: Array, labels: Array) -> tuple[Array, float]:
    """The truth, bent pixel by pixel, breadth first, and the warping error: merges and splits found by counting pieces."""
    now, goal = np.pad(labels, 1), np.pad(prediction, 1)

    def simple(place: tuple[int, int]) -> bool:
        return pieces_around(now, place) == (1, 1)

    queue = deque(p for p in np.ndindex(now.shape) if now[p] != goal[p] and simple(p))
    while queue:
        place = queue.popleft()
        if not simple(place):
            continue
        now[place] = goal[place]
        for di, dj in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)):
            beside = (place[0] + di, place[1] + dj)
            if now[beside] != goal[beside] and beside not in queue:
                queue.append(beside)
    wrong = 0
    for place in zip(*np.nonzero(now != goal), strict=True):
        flipped = now.copy()
        flipped[place] = goal[place]
        before, after = int(flood(now, EDGES).max()), int(flood(flipped, EDGES).max())
        wrong += after < before if goal[place] else after > before
    return now[1:-1, 1:-1], wrong / prediction.size


@holds("metrics", "reference")
def warping_flips_simple_pixels(_: None, draw: Draw) -> None:
    """The truth bends pixel by pixel where no connection changes; what still differs counts if it merges or splits objects."""
    labels = draw_mask(draw, draw.integer(2, 6), draw.integer(2, 6))
    prediction = labels ^ (draw.rng.random(labels.shape) < 0.4)
    warped, error = warped_by_hand(prediction, labels)
    result = metrics.warp(prediction, labels)
    require_close("the warped truth", result.warped.astype(int), warped.astype(int), rtol=0)
    same("the warping error", metrics.warping_error(prediction, labels), error)
    marked = result.merges.astype(int) + result.splits + result.others  # each pixel that differs is one of the three
    require_close("merges, splits and others", marked, (result.warped != prediction).astype(int), rtol=0)


@holds("metrics", "invariance")
def warping_keeps_the_topology(_: None, draw: Draw) -> None:
    """A warped truth has as many objects and holes as the truth, and only pixels on the way to the prediction moved."""
    labels, prediction = draw_mask(draw, 6, 7), draw_mask(draw, 6, 7)
    warped = metrics.warp(prediction, labels).warped
    for name, steps, a, b in (("objects", EDGES, warped, labels),
                              ("holes", EDGES + CORNERS, ~np.pad(warped, 1), ~np.pad(labels, 1))):
        found, expected = int(flood(a, steps).max()), int(flood(b, steps).max())
        require(found == expected, f"warping made {found} {name} of {expected}")
    require(bool(((warped == labels) | (warped == prediction)).all()), "a pixel moved although truth and prediction agree there")


@holds("metrics", "convention")
def a_moved_membrane_costs_nothing_and_a_gap_its_length(_: None, draw: Draw) -> None:
    """Two cells with a membrane three pixels wide: moved by one pixel it costs nothing, open over n pixels it costs n at most."""
    height, gap = draw.integer(5, 9), draw.integer(1, 3)
    truth = np.ones((height, 11), bool)
    truth[:, 4:7] = False
    moved = np.roll(truth, draw.choice((-1, 1)), axis=1)
    same("the warping error of a moved membrane", metrics.warping_error(moved, truth), 0.0)
    broken = truth.copy()
    top = draw.integer(1, height - gap - 1)
    broken[top : top + gap, 4:7] = True
    merges = int(metrics.warp(broken, truth).merges.sum())
    require(1 <= merges <= 3 * gap, f"a gap of {gap} px in a membrane of 3 px counts {merges} pixels")
    same("the warping error of a gap", metrics.warping_error(broken, truth), merges / truth.size)
