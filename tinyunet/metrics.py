"""How good a segmentation is: the measures of the paper and of its data sets.

Four questions, four families. *Are the pixels right?* `iou`, `dice` and `pixel_error` of a confusion matrix. *Is each
object found?* `seg`, the cell tracking challenge's measure. *Is the image cut into the right pieces?* `v_rand` and
`v_info`, the EM challenge's. *Do errors change who is connected to whom?* `warping_error`, the one in which the paper
was best.

The prediction comes first, the truth second, everywhere. Arrays may live on the device; the work is done on the host.

Letters: K classes; R an object of the reference and S one of the prediction; p_ij the share of pixels that lie in
object i of the reference and object j of the prediction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.data.instances import check_instances, check_mask, components
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError

# ---- pixels: the confusion matrix and what follows from it ----


def confusion_matrix(prediction: Array, labels: Array, classes: int) -> Array:
    """confusion[k, l] = number of pixels of class k in truth that were predicted as l: rows truth, columns prediction.

    prediction (...), labels (...) integers or bool -> confusion (K, K) int64

    Pixels labelled `IGNORE` (-1) are left out. Matrices of several images add up, and a data set's measure is that of
    the *sum*: the mean of per-image IoUs weighs a cell more where it is alone, and has no answer for an image without
    cells.

    Raises ShapeError where the two differ in shape, DTypeError for floats, DataError for a value that is no class.
    """
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 2:
        raise ConfigError(f"confusion_matrix: {classes!r} classes cannot be told apart. "
                          "Give an integer of 2 or more; background counts as one.")
    prediction, labels = to_numpy(prediction), to_numpy(labels)
    if prediction.shape != labels.shape:
        raise ShapeError(f"confusion_matrix: the prediction is {prediction.shape} and the labels are {labels.shape}. "
                         "Give two arrays of one shape; a prediction has no class axis, so take the argmax first.")
    _check_classes(prediction, "prediction", 0, classes)
    _check_classes(labels, "labels", IGNORE, classes)
    known = labels != IGNORE
    pairs = labels[known].astype(np.intp) * classes + prediction[known].astype(np.intp)  # NumPy indexes with this, 32 bits or 64
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def iou(confusion: Array) -> Array:
    """IoU_k = TP / (TP + FP + FN), intersection over union (Jaccard index) of each class.

    confusion (K, K) -> (K,) float64

    NaN for a class that is in neither truth nor prediction: there was nothing to find and nothing was claimed, and
    neither 0 nor 1 would be fair. 0 for a class that is in one of them only.
    """
    hit, truth, claim = _counts(confusion, "iou")
    return _ratio(hit, truth + claim - hit)


def dice(confusion: Array) -> Array:
    """Dice_k = 2 TP / (2 TP + FP + FN) = 2 IoU / (1 + IoU), also known as the F1 score of the pixels of each class.

    confusion (K, K) -> (K,) float64

    NaN for a class that is in neither truth nor prediction, as in `iou`. Swapping truth and prediction changes
    nothing.
    """
    hit, truth, claim = _counts(confusion, "dice")
    return _ratio(2 * hit, truth + claim)


def pixel_error(confusion: Array) -> float:
    """The share of annotated pixels that have the wrong class, 0 to 1; NaN if no pixel is annotated.

    confusion (K, K) -> float

    Where one class fills most of an image this number is small whatever the network does, so read it next to `iou`.
    The last column of the paper's EM table is another quantity: 1 minus the largest F-score over thresholds, where the
    F-score of a class is its `dice`.
    """
    hit, truth, _ = _counts(confusion, "pixel_error")
    return float(_ratio(truth.sum() - hit.sum(), truth.sum()))


def foreground_mean(per_class: Array) -> float:
    """The mean over classes 1..K-1, without those that are NaN (in neither truth nor prediction). NaN if none is left.

    per_class (K,), from `iou` or `dice` -> float

    Background is left out because it is large and easy: it would lift every mean.
    """
    per_class = np.asarray(per_class, np.float64)
    if per_class.ndim != 1:
        raise ShapeError(f"foreground_mean: shape {per_class.shape} is not one number a class. "
                         "Give iou(...) or dice(...).")
    present = per_class[1:][~np.isnan(per_class[1:])]
    return float(present.mean()) if present.size else float("nan")


# ---- objects: SEG of the Cell Tracking Challenge ----


def seg(prediction: Array, reference: Array) -> float:
    """SEG = mean over the reference's objects R of J(R, S), where S is the object that covers more than half of R.

    prediction (H, W), reference (H, W) instance maps, 0 background -> float; NaN if the reference has no object

    The measure of the Cell Tracking Challenge, which the paper's second table calls IoU. It is about objects, not
    classes: two cells that touch in the prediction are one S, and lose. Objects that only the prediction has cost
    nothing, so it is fair where only some of the cells were annotated; by the same rule it does not see false alarms.

    Of several images it is the mean over all objects of all images: join their `seg_scores`, then take the mean.
    """
    scores = seg_scores(prediction, reference)
    return float(scores.mean()) if scores.size else float("nan")


def seg_scores(prediction: Array, reference: Array) -> Array:
    """J(R, S) = |R and S| / |R or S| of each object R, if some S has |R and S| > |R| / 2; otherwise 0.

    prediction (H, W), reference (H, W) instance maps, 0 background -> (objects in reference,) float64, by ascending id

    More than half, strictly: then no two S can claim one R, and a cell cut into equal halves is not found.

    Raises ShapeError, DTypeError or DataError for something that is no instance map, or for two sizes.
    """
    prediction, reference = _check_instance_pair(prediction, reference, "seg")
    table = _overlaps(prediction, reference)
    size_R = np.bincount(table.i, table.pixels)  # by index of R, entry 0 background
    size_S = np.bincount(table.j, table.pixels)
    J = table.pixels / (size_R[table.i] + size_S[table.j] - table.pixels)
    match = (table.i > 0) & (table.j > 0) & (2 * table.pixels > size_R[table.i])
    scores = np.zeros(len(size_R))
    scores[table.i[match]] = J[match]
    return scores[1:]


# ---- pieces: V_Rand and V_Info of the EM challenge ----


class Agreement(NamedTuple):
    """How well two cuttings of an image agree: each 0 to 1, 1 is perfect; all NaN without foreground in the truth.

    f_score   2 merge split / (merge + split)
    merge     low where objects of the truth were merged; the challenge's code calls it precision
    split     low where objects of the truth were split; the challenge's code calls it recall
    """

    f_score: float
    merge: float
    split: float


def v_rand(prediction: Array, reference: Array) -> Agreement:
    """The foreground-restricted Rand score: merge sum p_ij^2 / sum b_j^2, split sum p_ij^2 / sum a_i^2, F-score.

    prediction (H, W), reference (H, W) instance maps, 0 background -> Agreement

    Take two pixels of the truth's foreground. split: those in one object of the truth, how often does the prediction
    keep them together? merge: those that the prediction puts together, how often does the truth? a_i and b_j are the
    shares of an object of the truth and of the prediction.

    Only foreground of the *truth* counts, so where exactly a membrane runs does not matter much. Inside it, each pixel
    that the prediction calls background is an object of its own, never one big object of membranes.

    The Rand error of the paper's first table is 1 minus this F-score at the best threshold (`best_threshold`). Objects
    of an EM image are 4-connected: `components(mask)`. The challenge's present ranking first thins the predicted
    membranes by a watershed; that is not done here. Arganda-Carreras et al. 2015, Frontiers in Neuroanatomy 9.
    """
    p, a, b, singles, n = _foreground_shares(prediction, reference, "v_rand")
    if not n:
        return Agreement(float("nan"), float("nan"), float("nan"))
    alone = singles / n**2  # sum of (1/n)^2 over the pixels that are objects of their own
    both = (p**2).sum() + alone
    return _agreement(merge=both / ((b**2).sum() + alone), split=both / (a**2).sum())


def v_info(prediction: Array, reference: Array) -> Agreement:
    """The foreground-restricted information score: merge = I(T;S) / H(T), split = I(T;S) / H(S), and their F-score.

    prediction (H, W), reference (H, W) instance maps, 0 background -> Agreement

    H is the entropy of the object that a random pixel of the truth's foreground lies in, I the mutual information of
    truth T and prediction S: I = H(T) + H(S) - H(T,S). Foreground and single pixels are treated as in `v_rand`; by
    squares that one looks most at large objects, while this one weighs small ones too.

    A side with entropy 0 (one object) has no information that could be lost, and scores 1.
    """
    p, a, b, singles, n = _foreground_shares(prediction, reference, "v_info")
    if not n:
        return Agreement(float("nan"), float("nan"), float("nan"))
    alone = singles / n * np.log(n)  # entropy of the pixels that are objects of their own
    H_T = -(a * np.log(a)).sum()
    H_S = -(b * np.log(b)).sum() + alone
    H_TS = -(p * np.log(p)).sum() + alone
    mutual = H_T + H_S - H_TS
    return _agreement(merge=mutual / H_T if len(a) > 1 else 1.0, split=mutual / H_S if len(b) + singles > 1 else 1.0)


TENTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The thresholds of the EM challenge."""


def best_threshold(measure: Callable[[Array, Array], float], probabilities: Sequence[Array],
                   references: Sequence[Array], thresholds: Sequence[float] = TENTHS,
                   lowest: bool = False) -> tuple[float, float]:
    """max over t of mean over images of measure(probability > t, reference): the EM challenge's way to score a network.

    probabilities: (H, W) each, 0 to 1; references: whatever `measure` takes -> (best mean, its threshold)

    For example `measure=lambda mask, truth: v_rand(components(mask), truth).f_score`. With `lowest=True` the minimum,
    for errors; the challenge stops at 0.9 for warping. Images for which the measure is NaN are left out of the mean;
    where that leaves none, the answer is (NaN, NaN). Of equal thresholds the first wins.

    The threshold is chosen with the truth in sight. That is fair between entries to a challenge, and flatters in use.
    For the paper's Rand column the challenge summed pairs over all images instead of taking a mean, so expect small
    differences.

    Raises ShapeError for lists of two lengths, DataError for values outside 0 to 1, ConfigError without a threshold.
    """
    if len(probabilities) != len(references) or not len(probabilities):
        raise ShapeError(f"best_threshold: {len(probabilities)} probability maps and {len(references)} references. "
                         "Give one reference for each map, and at least one pair.")
    if not len(thresholds):
        raise ConfigError("best_threshold: no threshold to try. Give some between 0 and 1, e.g. (0.3, 0.5, 0.7).")
    maps = [to_numpy(p) for p in probabilities]
    for index, p in enumerate(maps):
        if p.size and not (p.min() >= 0 and p.max() <= 1):  # a NaN fails both
            raise DataError(f"best_threshold: map {index} runs from {p.min():.4g} to {p.max():.4g}, not within 0 to 1. "
                            "Give probabilities, not logits.")
    best = (float("nan"), float("nan"))
    for threshold in thresholds:
        values = [measure(p > threshold, reference) for p, reference in zip(maps, references, strict=True)]
        known = [v for v in values if not np.isnan(v)]
        if not known:
            continue
        mean = float(np.mean(known))
        if np.isnan(best[0]) or (mean < best[0] if lowest else mean > best[0]):
            best = (mean, float(threshold))
    return best


# ---- topology: the warping error ----


@dataclass(frozen=True, eq=False)
class Warping:
    """A truth that was bent towards a prediction as far as topology allows, and the pixels that still differ.

    Each of these pixels is judged by itself, as if it alone were flipped.

    warped   (H, W) bool: the truth, deformed
    merges   (H, W) bool: pixels that the prediction adds and that join two objects
    splits   (H, W) bool: pixels that the prediction lacks and whose loss cuts an object in two
    others   (H, W) bool: the rest: objects or holes that only one of the two has
    """

    warped: Array
    merges: Array
    splits: Array
    others: Array

    @property
    def error(self) -> float:
        """(merges + splits) / pixels, as in the EM challenge. Jain et al. count `others` too."""
        return float((self.merges | self.splits).mean())


def warping_error(prediction: Array, labels: Array) -> float:
    """(pixels in merges + pixels in splits, after warping the truth towards the prediction) / all pixels.

    prediction (H, W), labels (H, W) masks: bool, or integers 0 and 1, 1 the cells -> float, 0 to 1

    A membrane that has moved by less than its thickness costs nothing; one that is broken costs the length of the gap,
    and one too many costs its thickness. An object that is missed or invented is neither merge nor split and costs
    nothing, so an empty prediction can score 0: never read this number alone. It is the first column of the paper's
    first table, by which the challenge was ranked. `warp` says how, and gives the pixels.
    """
    return warp(prediction, labels).error


def warp(prediction: Array, labels: Array) -> Warping:
    """Flip *simple* pixels of the truth towards the prediction until no differing pixel is simple; sort what is left.

    prediction (H, W), labels (H, W) masks: bool, or integers 0 and 1, 1 the cells -> Warping

    A pixel is simple if flipping it changes no connection: objects, 4-connected, and background, 8-connected, keep
    their number and their neighbours. Its eight neighbours decide that. Outside the image is background, so a membrane
    that crosses the image from edge to edge does cut a cell in two. Definition: Jain et al. 2010, "Boundary Learning
    by Optimization with Topological Constraints", CVPR.

    Which simple pixel goes first can change the error by some per cent, and the definition leaves it open. Here it is
    breadth first: all that are simple at the start in row-major order, then their neighbours, so a border moves in
    waves and two that meet do so half way. It is a greedy descent and may stop short of the least possible error:
    pixels that agree never flip, so a border cannot cross them to reach another place. The challenge's code visits
    pixels by how sure the network is, and tells merges and splits from other errors by a slightly different rule, so
    its number for the same image may differ slightly.

    Raises ShapeError for two sizes, DTypeError or DataError for something that is no mask; `IGNORE` is refused too,
    since an unknown pixel may or may not connect what it touches.
    """
    target = check_mask(prediction, "warping_error: the prediction")
    source = check_mask(labels, "warping_error: the labels")
    _check_same_size(target, source, "warping_error: the prediction", "the labels")
    source, target = np.pad(source, 1), np.pad(target, 1)  # (H+2, W+2): the frame is background in both, so never flips
    width = source.shape[1]
    N, E, S, W = -width, 1, width, -1
    ring = (N, N + E, E, S + E, S, S + W, W, N + W)  # steps to the eight neighbours, clockwise; edges at even places

    # A queue of pixels is slow in NumPy and quick enough in Python, on bytes. A pixel can only become simple when a
    # neighbour flips, so only those are looked at again.
    now, goal = bytearray(source.tobytes()), target.tobytes()
    simple = (_crossings() == 1).tolist()
    queue = deque(np.flatnonzero(source != target).tolist())
    queue = deque(p for p in queue if simple[sum(now[p + step] << k for k, step in enumerate(ring))])
    waiting = bytearray(len(now))
    for p in queue:
        waiting[p] = 1
    while queue:
        p = queue.popleft()
        waiting[p] = 0
        if not simple[sum(now[p + step] << k for k, step in enumerate(ring))]:
            continue
        now[p] = goal[p]
        for step in ring:
            q = p + step
            if now[q] != goal[q] and not waiting[q]:
                waiting[q] = 1
                queue.append(q)

    warped = np.frombuffer(bytes(now), bool).reshape(source.shape)
    merges, splits, others = _sort_mismatches(warped, target, ring)
    inside = np.s_[1:-1, 1:-1]
    return Warping(warped[inside].copy(), merges[inside].copy(), splits[inside].copy(), others[inside].copy())


def _crossings() -> Array:
    """How many 4-connected pieces of foreground a pixel joins, for each of the 256 settings of its eight neighbours.

    () -> (256,) int64, indexed by sum of neighbour_k << k, k clockwise from north

    c = sum over k = 0, 2, 4, 6 of x_k - x_k x_(k+1) x_(k+2), the crossing number of Yokoi, Toriwaki, Fukumura (1975).
    It is 0 for a pixel alone or deep inside, 1 for a simple one, and otherwise the number of pieces, which then is
    also the number of 8-connected pieces of background around it.
    """
    x = np.arange(256)[:, None] >> np.arange(8) & 1  # (256, 8)
    crossings: Array = sum(x[:, k] - x[:, k] * x[:, k + 1] * x[:, (k + 2) % 8] for k in (0, 2, 4, 6))
    return crossings


def _sort_mismatches(warped: Array, target: Array, ring: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Masks of merges, splits and the other pixels where the two differ; all (H+2, W+2), with their frame."""
    objects, holes = components(warped, 4).ravel(), components(~warped, 8).ravel()
    wrong = np.flatnonzero(warped != target)
    around = wrong[:, None] + np.array(ring)  # (M, 8)
    adds = target.ravel()[wrong]

    # Adding a pixel merges if its edges touch two objects.
    merge = adds & (_distinct(objects[around[:, ::2]]) >= 2)
    # Where c pieces of foreground meet in a pixel, c pieces of background meet once it is removed. Two of those that
    # were connected already, some way round, now close a ring and cut off what is inside: c - (distinct holes) cuts.
    pieces = _crossings()[(warped.ravel()[around] << np.arange(8)).sum(1)]
    split = ~adds & (pieces > _distinct(holes[around]))

    masks = np.zeros((3, warped.size), bool)
    for mask, chosen in zip(masks, (merge, split, ~merge & ~split), strict=True):
        mask[wrong[chosen]] = True
    merges, splits, others = masks.reshape(3, *warped.shape)
    return merges, splits, others


def _distinct(ids: Array) -> Array:
    """How many different ids > 0 each row holds: (M, n) -> (M,)."""
    ids = np.sort(ids, axis=1)
    count: Array = (np.diff(ids, axis=1, prepend=0) > 0).sum(1)  # an id counts where it first appears; zeros come first
    return count


# ---- all together ----


@dataclass(frozen=True, eq=False)
class Scores:
    """The measures of one image, or of a data set: `a + b`, or `total(list)`, is the measure of all images together.

    confusion     (K, K) int64: truth by prediction, see `confusion_matrix`
    seg_scores    (objects,) float64: one score for each annotated object; empty where there are no instances
    class_names   K names
    """

    confusion: Array
    seg_scores: Array = field(default_factory=lambda: np.zeros(0))
    class_names: tuple[str, ...] = ("background", "cell")

    def __post_init__(self) -> None:
        _counts(self.confusion, "Scores")
        if len(self.class_names) != len(self.confusion):
            raise ShapeError(f"Scores: {len(self.class_names)} class names for a confusion matrix "
                             f"{self.confusion.shape}. Give one name for each class, background first.")

    @property
    def iou(self) -> Array:
        """(K,) IoU of each class; NaN for a class that is in neither truth nor prediction."""
        return iou(self.confusion)

    @property
    def dice(self) -> Array:
        """(K,) Dice of each class; NaN as in `iou`."""
        return dice(self.confusion)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the foreground classes that are present."""
        return foreground_mean(self.iou)

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the foreground classes that are present."""
        return foreground_mean(self.dice)

    @property
    def pixel_error(self) -> float:
        """The share of annotated pixels that are wrong."""
        return pixel_error(self.confusion)

    @property
    def seg(self) -> float:
        """Mean over all annotated objects; NaN without any."""
        return float(self.seg_scores.mean()) if self.seg_scores.size else float("nan")

    def __add__(self, other: Scores) -> Scores:
        if self.class_names != other.class_names:
            raise ShapeError(f"Scores: classes {self.class_names} and {other.class_names} do not add up. "
                             "Score all images with the same list of classes.")
        return Scores(self.confusion + other.confusion, np.concatenate([self.seg_scores, other.seg_scores]),
                      self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON, which knows no NaN: what is undefined is None."""
        return {
            "iou": {name: _plain(v) for name, v in zip(self.class_names, self.iou, strict=True)},
            "dice": {name: _plain(v) for name, v in zip(self.class_names, self.dice, strict=True)},
            "mean_iou": _plain(self.mean_iou),
            "mean_dice": _plain(self.mean_dice),
            "pixel_error": _plain(self.pixel_error),
            "seg": _plain(self.seg),
            "objects": int(self.seg_scores.size),
            "pixels": int(self.confusion.sum()),
        }

    def __str__(self) -> str:
        width = max(len("mean of foreground"), *map(len, self.class_names))
        rows = [f"{'class':{width}}     IoU    Dice"]
        rows += [f"{name:{width}}  {i:6.4f}  {d:6.4f}"
                 for name, i, d in zip(self.class_names, self.iou, self.dice, strict=True)]
        rows += [f"{'mean of foreground':{width}}  {self.mean_iou:6.4f}  {self.mean_dice:6.4f}",
                 f"pixel error {self.pixel_error:.4f} of {int(self.confusion.sum())} pixels",
                 f"SEG {self.seg:.4f} of {self.seg_scores.size} objects"]
        return "\n".join(rows)


def evaluate_pair(prediction: Array, labels: Array, reference: Array | None = None, *, instances: Array | None = None,
                  class_names: Sequence[str] = ("background", "cell")) -> Scores:
    """Everything that one image tells: IoU, Dice and pixel error, and SEG where the reference instances are given.

    prediction (H, W) classes, labels (H, W) classes or `IGNORE`, reference (H, W) instances or None -> Scores

    `instances` are the predicted objects; without them they are the connected components of all foreground classes
    together, 4-connected, which is our choice. For a data set, add the results up.

    Raises what `confusion_matrix`, `components` and `seg_scores` raise; ConfigError for `instances` without a
    reference.
    """
    confusion = confusion_matrix(prediction, labels, len(class_names))
    if reference is None:
        if instances is not None:
            raise ConfigError("evaluate_pair: there are predicted instances, but no reference to hold them against. "
                              "Give both or neither.")
        return Scores(confusion, class_names=tuple(class_names))
    if instances is None:
        instances = components(to_numpy(prediction) > 0)
    return Scores(confusion, seg_scores(instances, reference), tuple(class_names))


def total(scores: Iterable[Scores]) -> Scores:
    """The measure of all images together: confusions summed, objects joined. Not the mean of the images' measures."""
    scores = list(scores)
    if not scores:
        raise DataError("total: no scores to add up. Evaluate at least one image.")
    return sum(scores[1:], scores[0])


# ---- shared by the above ----


class _Overlaps(NamedTuple):
    """The non-empty cells of the table of reference objects by predicted objects. Index 0 is background, in both."""

    i: Array  # (cells,) index of the reference object: 1 for the smallest id, and so on
    j: Array  # (cells,) index of the predicted object
    pixels: Array  # (cells,) int64, how many pixels lie in both


def _overlaps(prediction: Array, reference: Array) -> _Overlaps:
    """(...), (...) ids >= 0 -> the table; sparse, since of objects x objects nearly all cells are empty."""
    ids_R, i = np.unique(reference, return_inverse=True)
    ids_S, j = np.unique(prediction, return_inverse=True)
    i, j = i.ravel() + (ids_R[:1] > 0).sum(), j.ravel() + (ids_S[:1] > 0).sum()  # no background: start at 1
    columns = len(ids_S) + 1
    cells, pixels = np.unique(i * columns + j, return_counts=True)
    return _Overlaps(cells // columns, cells % columns, pixels)


def _foreground_shares(prediction: Array, reference: Array, who: str) -> tuple[Array, Array, Array, int, int]:
    """Of the truth's foreground: the shares p_ij, a_i, b_j, pixels that the prediction calls background, all pixels."""
    prediction, reference = _check_instance_pair(prediction, reference, who)
    inside = reference > 0
    n = int(inside.sum())
    if not n:
        return np.zeros(0), np.zeros(0), np.zeros(0), 0, 0
    table = _overlaps(prediction[inside], reference[inside])
    in_object = table.j > 0
    a = np.bincount(table.i, table.pixels)[1:]  # every i >= 1 has pixels here
    b = np.bincount(table.j[in_object], table.pixels[in_object])[1:]
    return table.pixels[in_object] / n, a / n, b / n, int(table.pixels[~in_object].sum()), n


def _agreement(merge: float, split: float) -> Agreement:
    merge, split = float(np.clip(merge, 0, 1)), float(np.clip(split, 0, 1))  # rounding may leave it
    return Agreement(2 * merge * split / (merge + split) if merge + split else 0.0, merge, split)


def _counts(confusion: Array, who: str) -> tuple[Array, Array, Array]:
    """Per class: pixels that are right, pixels in truth, pixels in the prediction."""
    confusion = to_numpy(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or len(confusion) < 2:
        raise ShapeError(f"{who}: shape {confusion.shape} is not a confusion matrix (K, K) with K >= 2. "
                         "Give what confusion_matrix(prediction, labels, classes) returns, or a sum of those.")
    if not np.issubdtype(confusion.dtype, np.integer):
        raise DTypeError(f"{who}: a confusion matrix counts pixels, but this one is {confusion.dtype}. "
                         "Give integers; several images are summed, not averaged.")
    if confusion.min() < 0:
        raise DataError(f"{who}: the confusion matrix holds {confusion.min()}, and a count cannot be negative.")
    return np.diagonal(confusion), confusion.sum(1), confusion.sum(0)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole in float64, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: Array = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio


def _check_classes(a: Array, name: str, lowest: int, classes: int) -> None:
    if a.dtype != bool and not np.issubdtype(a.dtype, np.integer):
        raise DTypeError(f"confusion_matrix: the dtype of the {name} is {a.dtype}, but classes are integers or bool. "
                         "Take the argmax of class scores, or threshold a probability.")
    if (wrong := a[(a < lowest) | (a >= classes)]).size:
        unknown = f" (or {IGNORE} where unknown)" if lowest < 0 else ""
        raise DataError(f"confusion_matrix: {wrong[0]} in the {name} is none of the {classes} classes, "
                        f"0 to {classes - 1}{unknown}. Map the values first, e.g. `labels == 255`.")


def _check_instance_pair(prediction: Array, reference: Array, who: str) -> tuple[Array, Array]:
    prediction = check_instances(prediction, f"{who}: the prediction")
    reference = check_instances(reference, f"{who}: the reference")
    _check_same_size(prediction, reference, f"{who}: the prediction", "the reference")
    return prediction, reference


def _check_same_size(one: Array, other: Array, one_name: str, other_name: str) -> None:
    if one.shape != other.shape:
        raise ShapeError(f"{one_name} is {one.shape} and {other_name} {other.shape}, height by width. "
                         "Give two images of one size; a valid network needs mirror padding or a centre crop.")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
