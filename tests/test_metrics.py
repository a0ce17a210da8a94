"""The measures, against loops written from their definitions, worked examples, and scikit-image where it is installed."""

import json
import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tinyunet import metrics
from tinyunet.data.instances import components
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError
from tinyunet.metrics import (
    Scores,
    best_threshold,
    confusion_matrix,
    dice,
    evaluate_pair,
    foreground_mean,
    iou,
    pixel_error,
    seg,
    seg_scores,
    total,
    v_info,
    v_rand,
    warp,
    warping_error,
)

sizes = st.tuples(st.integers(1, 8), st.integers(1, 8))
seeds = st.integers(0, 2**32 - 1)
INT_DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64]
nan = float("nan")


def two_maps(size, seed, ids=4):
    """A reference with gaps between its ids, and a prediction that is mostly like it under other ids."""
    rng = np.random.default_rng(seed)
    names = np.array([0, 2, 3, 9, 17])[: ids + 1]
    reference = rng.choice(names, size)
    prediction = np.where(rng.random(size) < rng.random(), reference * 3, rng.choice([0, 5, 6, 51], size))
    return prediction, reference


def mask(*rows):
    """A mask drawn with # for foreground."""
    return np.array([[c == "#" for c in row] for row in rows])


# ---- confusion matrix, IoU, Dice, pixel error ----


@given(sizes, seeds, st.integers(2, 5))
def test_confusion_against_a_loop(size, seed, classes):
    """Rows are truth, columns prediction, and pixels to ignore are not counted."""
    rng = np.random.default_rng(seed)
    prediction, labels = rng.integers(0, classes, size), rng.integers(IGNORE, classes, size)
    expected = np.zeros((classes, classes), int)
    for truth, claim in zip(labels.flat, prediction.flat, strict=True):
        if truth != IGNORE:
            expected[truth, claim] += 1
    found = confusion_matrix(prediction, labels, classes)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)


def test_confusion_by_hand():
    """One cell pixel taken for background stands in row 1, column 0."""
    labels, prediction = np.array([1, 1, 1, 0, IGNORE]), np.array([1, 0, 1, 0, 1])
    assert confusion_matrix(prediction, labels, 2).tolist() == [[1, 0], [1, 2]]


@given(sizes, seeds)
def test_iou_and_dice_against_sets(size, seed):
    """IoU and Dice are those of the sets of pixels; NaN where both sets are empty; pixel error counts what differs."""
    rng = np.random.default_rng(seed)
    prediction, labels = rng.integers(0, 4, size), rng.integers(0, 3, size)
    prediction[prediction == 1] = 0
    confusion = confusion_matrix(prediction, labels, 5)
    for k in range(5):
        P, T = set(np.flatnonzero(prediction == k)), set(np.flatnonzero(labels == k))
        if P | T:
            assert iou(confusion)[k] == pytest.approx(len(P & T) / len(P | T))
            assert dice(confusion)[k] == pytest.approx(2 * len(P & T) / (len(P) + len(T)))
        else:
            assert np.isnan(iou(confusion)[k])
            assert np.isnan(dice(confusion)[k])
    assert pixel_error(confusion) == pytest.approx((prediction != labels).mean())


@given(sizes, seeds)
def test_dice_is_symmetric_and_follows_from_iou(size, seed):
    """Swapping truth and prediction leaves IoU and Dice alone, and Dice = 2 IoU / (1 + IoU)."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, (2, *size))
    ab, ba = confusion_matrix(a, b, 3), confusion_matrix(b, a, 3)
    assert np.array_equal(ab, ba.T)
    np.testing.assert_array_equal(dice(ab), dice(ba))
    np.testing.assert_array_equal(iou(ab), iou(ba))
    np.testing.assert_allclose(dice(ab), 2 * iou(ab) / (1 + iou(ab)))


@given(sizes, seeds, st.integers(0, 3))
def test_ignored_pixels_change_nothing(size, seed, claim):
    """Whatever is predicted where the truth is unknown, the confusion stays the same."""
    rng = np.random.default_rng(seed)
    prediction, labels = rng.integers(0, 4, size), rng.integers(IGNORE, 4, size)
    other = np.where(labels == IGNORE, claim, prediction)
    assert np.array_equal(confusion_matrix(prediction, labels, 4), confusion_matrix(other, labels, 4))


def test_perfect_is_one():
    """The truth itself has IoU and Dice 1 in every class that it holds."""
    labels = np.array([[0, 1], [2, 2]])
    confusion = confusion_matrix(labels, labels, 4)
    np.testing.assert_array_equal(iou(confusion), [1, 1, 1, nan])
    np.testing.assert_array_equal(dice(confusion), [1, 1, 1, nan])
    assert pixel_error(confusion) == 0


def test_empty_cases_are_pinned():
    """Nothing there and nothing claimed is NaN; one of the two alone is 0; no annotated pixel at all is NaN."""
    nothing, one = np.zeros((2, 2), int), np.array([[0, 0], [0, 1]])
    np.testing.assert_array_equal(dice(confusion_matrix(nothing, nothing, 2)), [1, nan])
    assert iou(confusion_matrix(one, nothing, 2))[1] == 0
    assert iou(confusion_matrix(nothing, one, 2))[1] == 0
    unknown = confusion_matrix(nothing, np.full((2, 2), IGNORE), 2)
    assert not unknown.any()
    assert np.isnan(pixel_error(unknown))
    assert np.isnan(iou(unknown)).all()


def test_foreground_mean():
    """Background and absent classes are left out; without any class left the mean is NaN."""
    assert foreground_mean(np.array([0.9, 0.5, nan, 0.1])) == pytest.approx(0.3)
    assert np.isnan(foreground_mean(np.array([0.9, nan])))


def test_a_data_set_is_the_sum_of_confusions():
    """Two images: IoU of the sum, 3 of 4 pixels, not the mean of 1/2 and 1."""
    one = confusion_matrix(np.array([1, 0, 0]), np.array([1, 1, 0]), 2)
    two = confusion_matrix(np.array([1, 1, 0]), np.array([1, 1, 0]), 2)
    joined = confusion_matrix(np.array([1, 0, 0, 1, 1, 0]), np.array([1, 1, 0, 1, 1, 0]), 2)
    assert np.array_equal(one + two, joined)
    assert iou(one + two)[1] == 0.75


@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_confusion_of_any_integer_dtype(dtype, rng):
    """Integers of any width and sign, bool, stacks and strided views give the same counts."""
    prediction, labels = rng.integers(0, 3, (2, 2, 6, 8)).astype(dtype)
    expected = confusion_matrix(prediction.astype(int), labels.astype(int), 3)
    assert np.array_equal(confusion_matrix(np.asfortranarray(prediction), labels.copy()[::1], 3), expected)
    assert np.array_equal(confusion_matrix(prediction[..., ::-2], labels[..., ::-2], 3),
                          confusion_matrix(prediction[..., ::-2].copy(), labels[..., ::-2].copy(), 3))
    assert np.array_equal(confusion_matrix(prediction == 1, labels == 1, 2),
                          confusion_matrix((prediction == 1).astype(int), (labels == 1).astype(int), 2))


# ---- SEG ----


@given(sizes, seeds)
def test_seg_against_a_loop(size, seed):
    """Each reference object scores its Jaccard index with the one object that covers more than half of it, or 0."""
    prediction, reference = two_maps(size, seed)
    expected = []
    for r in sorted(set(reference.flat) - {0}):
        R, score = reference == r, 0.0
        for s in set(prediction.flat) - {0}:
            S = prediction == s
            if (R & S).sum() > 0.5 * R.sum():
                score = (R & S).sum() / (R | S).sum()
        expected.append(score)
    np.testing.assert_allclose(seg_scores(prediction, reference), expected)
    if expected:
        assert seg(prediction, reference) == pytest.approx(np.mean(expected))
    else:
        assert np.isnan(seg(prediction, reference))


def test_seg_half_is_not_enough():
    """Exactly half of an object is no match, one pixel more is."""
    reference = np.array([[1, 1, 1, 1, 1, 1]])
    assert seg(np.array([[1, 1, 1, 0, 0, 0]]), reference) == 0
    assert seg(np.array([[1, 1, 1, 1, 0, 0]]), reference) == pytest.approx(4 / 6)
    assert seg(np.array([[1, 1, 1, 2, 2, 2]]), reference) == 0


def test_seg_by_hand():
    """A good object, a lost one, and two merged into one that still covers both: 2/3, 0, 2/5 and 3/5."""
    reference = np.array([[1, 1, 1, 0, 2, 2, 0, 3, 3, 4, 4, 4]])
    prediction = np.array([[8, 8, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5]])
    np.testing.assert_allclose(seg_scores(prediction, reference), [2 / 3, 0, 2 / 5, 3 / 5])


def test_seg_does_not_charge_false_positives():
    """Objects where the reference has none cost nothing, so a partly annotated image is measured fairly."""
    reference = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert seg(np.array([[4, 4, 0, 0], [0, 0, 7, 7]]), reference) == 1
    assert seg(np.array([[4, 4, 0, 0], [4, 0, 7, 7]]), reference) == pytest.approx(2 / 3)


def test_seg_of_a_data_set_is_the_mean_over_objects():
    """Joined scores weigh objects alike, also where images hold different numbers of them."""
    one = seg_scores(np.array([[1, 2, 3]]), np.array([[1, 2, 3]]))
    two = seg_scores(np.array([[0, 0, 0]]), np.array([[1, 1, 1]]))
    assert np.concatenate([one, two]).mean() == 0.75


def test_seg_without_objects():
    """No reference object: NaN and no scores, whatever was predicted. No background: all is measured."""
    nothing = np.zeros((2, 3), int)
    assert np.isnan(seg(nothing, nothing))
    assert seg_scores(nothing + 1, nothing).shape == (0,)
    assert seg(nothing, nothing + 7) == 0
    assert seg(nothing + 2, nothing + 7) == 1


# ---- V_Rand and V_Info ----


def singletons(prediction):
    """Every background pixel as an object of its own."""
    out = prediction.astype(np.int64)
    zeros = out == 0
    out[zeros] = out.max() + 1 + np.arange(zeros.sum())
    return out


@given(sizes, seeds)
def test_v_rand_against_pairs(size, seed):
    """merge and split are the two conditional chances that a pair of pixels lies together, a pixel with itself included."""
    prediction, reference = two_maps(size, seed)
    T = reference[reference > 0].tolist()
    S = singletons(prediction)[reference > 0].tolist()
    if not T:
        assert all(map(math.isnan, v_rand(prediction, reference)))
        return
    both = same_T = same_S = 0
    for (t, s), (u, v) in product(zip(T, S, strict=True), repeat=2):
        both += t == u and s == v
        same_T += t == u
        same_S += s == v
    found = v_rand(prediction, reference)
    assert found.split == pytest.approx(both / same_T)
    assert found.merge == pytest.approx(both / same_S)
    assert found.f_score == pytest.approx(2 * both / (same_T + same_S))


@given(sizes, seeds)
def test_v_info_against_entropies(size, seed):
    """merge and split are mutual information over the entropy of truth and of prediction; an entropy of 0 scores 1."""
    prediction, reference = two_maps(size, seed)
    T = reference[reference > 0].tolist()
    S = singletons(prediction)[reference > 0].tolist()
    if not T:
        assert all(map(math.isnan, v_info(prediction, reference)))
        return

    def entropy(objects):
        return -sum(c / len(T) * math.log(c / len(T)) for c in Counter(objects).values())

    mutual = entropy(T) + entropy(S) - entropy(zip(T, S, strict=True))
    merge = mutual / entropy(T) if len(set(T)) > 1 else 1
    split = mutual / entropy(S) if len(set(S)) > 1 else 1
    found = v_info(prediction, reference)
    assert found.merge == pytest.approx(merge, abs=1e-12)
    assert found.split == pytest.approx(split, abs=1e-12)
    assert found.f_score == pytest.approx(2 * merge * split / (merge + split) if merge + split > 1e-12 else 0, abs=1e-9)


def test_v_rand_by_hand():
    """Two objects of two pixels, merged: half of the pairs put together are wrong. One object, halved: half are lost."""
    two, one = np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]])
    assert v_rand(one, two) == pytest.approx((2 / 3, 0.5, 1))
    assert v_rand(two, one) == pytest.approx((2 / 3, 1, 0.5))


def test_v_info_by_hand():
    """Merging two equal objects leaves no information about either; four quarters of two halves know too much."""
    two, one = np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]])
    assert v_info(one, two) == pytest.approx((0, 0, 1))
    assert v_info(two, one) == pytest.approx((0, 1, 0))
    assert v_info(np.array([[1, 2, 3, 4]]), two) == pytest.approx((2 / 3, 1, 0.5))


def test_predicted_background_is_many_objects():
    """Background inside the truth counts pixel by pixel: it splits, and never merges what lies on its two sides."""
    reference = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    prediction = np.array([[1, 1, 0, 0, 0, 0, 2, 2]])
    # Pairs of pixels, a pixel with itself included: 2 * 4 in two objects and 4 alone, of 2 * 16 in the truth.
    assert v_rand(prediction, reference) == pytest.approx((2 * 12 / (12 + 32), 1, 12 / 32))
    assert v_info(prediction, reference).merge == pytest.approx(1)
    assert v_info(prediction, reference).split == pytest.approx(math.log(2) / (math.log(4) / 2 + math.log(8) / 2))


def test_background_of_the_truth_does_not_count():
    """What is predicted on the truth's membranes changes nothing."""
    reference = np.array([[1, 1, 0, 0, 2, 2]])
    for membrane in ([0, 0], [1, 2], [1, 1], [7, 8]):
        prediction = np.array([[1, 1, *membrane, 2, 2]])
        assert v_rand(prediction, reference) == (1, 1, 1)
        assert v_info(prediction, reference) == pytest.approx((1, 1, 1))


@given(sizes, seeds)
def test_object_measures_do_not_read_ids(size, seed):
    """Renaming objects on either side leaves SEG (as a set), V_Rand and V_Info as they are."""
    prediction, reference = two_maps(size, seed)
    rng = np.random.default_rng(seed)
    new = np.concatenate([[0], rng.permutation(np.arange(1, 60)) * 3])
    for measure in (v_rand, v_info):
        np.testing.assert_allclose(measure(new[prediction], new[reference]), measure(prediction, reference), atol=1e-12)
    np.testing.assert_allclose(np.sort(seg_scores(new[prediction], new[reference])),
                               np.sort(seg_scores(prediction, reference)))


@given(sizes, seeds)
def test_object_measures_of_the_truth_itself(size, seed):
    """A prediction that equals the truth scores 1 throughout, if there is anything to find."""
    _, reference = two_maps(size, seed)
    if reference.any():
        assert seg(reference, reference) == 1
        assert v_rand(reference, reference) == pytest.approx((1, 1, 1))
        assert v_info(reference, reference) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_object_measures_of_any_integer_dtype(dtype):
    """Width, sign and memory layout of the ids make no difference, and arguments are not written to."""
    prediction, reference = two_maps((9, 14), 3)
    for measure in (seg, v_rand, v_info):
        p, r = np.asfortranarray(prediction.astype(dtype))[::-1, ::2], reference.astype(dtype)[::-1, ::2]
        before = p.copy(), r.copy()
        np.testing.assert_array_equal(measure(p, r), measure(prediction[::-1, ::2].copy(), reference[::-1, ::2].copy()))
        assert np.array_equal(p, before[0])
        assert np.array_equal(r, before[1])


def tissue(seed, size=96, cells=30, membrane=2.0):
    """Cells around random centres, with membranes of about twice `membrane` pixels between them, as a mask."""
    rng = np.random.default_rng(seed)
    centres = rng.random((cells, 2)) * size
    d = np.sort(np.linalg.norm(np.indices((size, size)).transpose(1, 2, 0)[:, :, None] - centres, axis=3), axis=2)
    return d[..., 1] - d[..., 0] > 2 * membrane


def bent(image, seed, amount=2.0, smooth=6.0):
    """The mask under a smooth random displacement of up to `amount` pixels."""
    rng = np.random.default_rng(seed)
    shift = np.stack([ndimage.gaussian_filter(rng.normal(size=image.shape), smooth) for _ in range(2)])
    where = np.indices(image.shape) + shift / np.abs(shift).max() * amount
    return ndimage.map_coordinates(image.astype(float), where, order=1, mode="nearest") > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_v_rand_against_scikit_image(seed):
    """After background has become singletons, the adapted Rand error agrees; as one segment it is far off."""
    evaluate = pytest.importorskip("skimage.metrics", reason="scikit-image, an independent implementation, is missing")
    reference = components(tissue(seed))
    prediction = components(tissue(seed, membrane=3.5))
    ours = v_rand(prediction, reference)
    # scikit-image leaves out pairs of a pixel with itself, and calls precision what others call recall
    error, split, merge = evaluate.adapted_rand_error(reference, singletons(prediction))
    assert (1 - error, merge, split) == pytest.approx(ours, abs=0.005)
    error_of_one_segment = evaluate.adapted_rand_error(reference, prediction)[0]
    assert abs(1 - error_of_one_segment - ours.f_score) > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_v_info_against_scikit_image(seed):
    """H(S|T) and H(T|S) of scikit-image, in bits, give the same two scores."""
    evaluate = pytest.importorskip("skimage.metrics", reason="scikit-image, an independent implementation, is missing")
    reference = components(tissue(seed))
    prediction = components(bent(tissue(seed), seed, amount=5))
    S, T = singletons(prediction)[reference > 0], reference[reference > 0]
    over_split, over_merge = evaluate.variation_of_information(T, S)  # H(S|T), H(T|S)

    def bits(objects):
        share = np.unique(objects, return_counts=True)[1] / objects.size
        return -(share * np.log2(share)).sum()

    ours = v_info(prediction, reference)
    assert ours.merge == pytest.approx(1 - over_merge / bits(T))
    assert ours.split == pytest.approx(1 - over_split / bits(S))
    assert 0.3 < ours.split < 0.99


# ---- best threshold ----


def test_best_threshold_is_that_of_the_mean():
    """The mean over images decides, once for all images, not each image for itself."""
    maps = [np.array([[0.15, 0.95]]), np.array([[0.35, 0.85]])]
    truths = [np.array([[False, True]])] * 2

    def accuracy(found, truth):
        return (found == truth).mean()

    assert best_threshold(accuracy, maps, truths) == (1.0, 0.4)
    assert best_threshold(accuracy, maps, truths, thresholds=(0.2, 0.9)) == (0.75, 0.2)
    assert best_threshold(lambda f, t: 1 - accuracy(f, t), maps, truths, lowest=True) == (0.0, 0.4)


def test_best_threshold_is_strict():
    """A probability that equals the threshold is background, so nothing is left at 1."""
    seen = []
    best_threshold(lambda found, _: seen.append(int(found.sum())) or 0.0, [np.array([[0.0, 0.5, 1.0]])], [None])
    assert seen == [2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0]


def test_best_threshold_leaves_out_what_has_no_measure():
    """An image without foreground has no V_Rand; where no image has any, the answer is NaN."""
    truth = np.array([[1, 1, 0, 2]])
    p = np.array([[0.9, 0.9, 0.3, 0.9]])

    def measure(found, reference):
        return v_rand(components(found), reference).f_score

    assert best_threshold(measure, [p, p], [truth, truth * 0]) == (1.0, 0.3)
    assert all(map(math.isnan, best_threshold(measure, [p], [truth * 0])))


# ---- warping error ----


def pieces(image, connectivity):
    """Number of connected pieces, by SciPy."""
    return ndimage.label(image, np.ones((3, 3)) if connectivity == 8 else None)[1]


def around(code):
    """The 3x3 patch, centre off, whose eight neighbours, clockwise from north, are the bits of `code`."""
    patch = np.zeros((3, 3), bool)
    for k, place in enumerate([(0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0)]):
        patch[place] = code >> k & 1
    return patch


def is_simple(patch):
    """By definition: one 4-connected piece of foreground and one 8-connected piece of background touch the centre."""
    inside, outside = patch.copy(), ~patch
    inside[1, 1] = outside[1, 1] = False
    objects = ndimage.label(inside)[0]
    touching = set(objects[[0, 1, 1, 2], [1, 0, 2, 1]]) - {0}
    return len(touching) == 1 and pieces(outside, 8) == 1


def test_crossing_numbers_of_all_neighbourhoods():
    """For each of the 256 settings: 1 just where the pixel is simple (116 of them), else the number of pieces, or 0."""
    crossings = metrics._crossings()
    simple = np.array([is_simple(around(code)) for code in range(256)])
    assert np.array_equal(crossings == 1, simple)
    assert simple.sum() == 116
    for code in np.flatnonzero(crossings > 1):
        patch = around(code)
        objects = ndimage.label(patch)[0]
        assert crossings[code] == len(set(objects[[0, 1, 1, 2], [1, 0, 2, 1]]) - {0})
        patch[1, 1] = True  # not background
        assert crossings[code] == pieces(~patch, 8)


@given(sizes, seeds, st.floats(0.1, 0.9))
def test_warp_keeps_topology_and_goes_as_far_as_it_can(size, seed, share):
    """Only pixels on the way to the prediction flip; pieces keep their number; no pixel that still differs is simple."""
    rng = np.random.default_rng(seed)
    prediction, labels = rng.random((2, *size)) < share
    found = warp(prediction, labels)
    assert np.array_equal(found.warped[found.warped != labels], prediction[found.warped != labels])
    before, after = np.pad(labels, 1), np.pad(found.warped, 1)
    assert pieces(before, 4) == pieces(after, 4)
    assert pieces(~before, 8) == pieces(~after, 8)
    for y, x in zip(*np.nonzero(found.warped != prediction), strict=True):
        assert not is_simple(after[y:y + 3, x:x + 3])


@given(sizes, seeds, st.floats(0.1, 0.9))
def test_each_mismatch_is_sorted_by_what_it_would_do(size, seed, share):
    """A merge is a pixel whose addition leaves fewer objects, a split one whose removal leaves more; the rest is other."""
    rng = np.random.default_rng(seed)
    prediction, labels = rng.random((2, *size)) < share
    found = warp(prediction, labels)
    n = pieces(found.warped, 4)
    for y, x in np.ndindex(size):
        flipped = found.warped.copy()
        flipped[y, x] ^= True
        differs = found.warped[y, x] != prediction[y, x]
        assert found.merges[y, x] == (differs and prediction[y, x] and pieces(flipped, 4) < n)
        assert found.splits[y, x] == (differs and not prediction[y, x] and pieces(flipped, 4) > n)
        assert found.others[y, x] == (differs and not found.merges[y, x] and not found.splits[y, x])
    assert found.error == (found.merges.sum() + found.splits.sum()) / prediction.size
    assert warping_error(prediction, labels) == found.error


def test_a_moved_membrane_costs_nothing():
    """A membrane that still overlaps the true one: the truth is bent to the prediction, pixel for pixel."""
    labels, prediction = np.ones((9, 12), bool), np.ones((9, 12), bool)
    labels[:, 3:6] = prediction[:, 5:9] = False
    assert pixel_error(confusion_matrix(prediction, labels, 2)) == 45 / 108
    assert warping_error(prediction, labels) == 0
    assert np.array_equal(warp(prediction, labels).warped, prediction)


def test_a_membrane_out_of_reach_is_one_merge_and_one_split():
    """Pixels that agree do not flip, so a membrane cannot cross them: all of the old one merges, the new one splits."""
    labels, prediction = np.ones((9, 12), bool), np.ones((9, 12), bool)
    labels[:, 3] = prediction[:, 6:8] = False
    found = warp(prediction, labels)
    assert (found.merges.sum(), found.splits.sum(), found.others.sum()) == (9, 2, 0)


def test_a_gap_in_a_membrane_costs_its_length():
    """Two cells joined through a gap of three pixels, in a membrane three pixels wide: three pixels of merge."""
    labels = np.ones((9, 11), bool)
    labels[:, 4:7] = False
    prediction = labels.copy()
    prediction[3:6] = True
    found = warp(prediction, labels)
    assert (found.merges.sum(), found.splits.sum(), found.others.sum()) == (3, 0, 0)
    assert found.error == 3 / 99
    assert set(np.nonzero(found.merges)[0]) == {3, 4, 5}
    assert set(np.nonzero(found.merges)[1]) == {5}  # fronts from both sides met half way


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_a_membrane_too_many_costs_its_thickness(thickness):
    """A cell cut in two by a false membrane from edge to edge stays joined by one bridge across it."""
    labels = np.ones((9, 11), bool)
    prediction = labels.copy()
    prediction[:, 4:4 + thickness] = False
    found = warp(prediction, labels)
    assert (found.merges.sum(), found.splits.sum(), found.others.sum()) == (0, thickness, 0)
    assert warping_error(prediction, labels) == thickness / 99


def test_a_diagonal_membrane_separates():
    """Cells are 4-connected: a diagonal line of single pixels keeps two cells apart, and one missing pixel joins them."""
    labels = ~np.eye(6, dtype=bool)
    assert warping_error(labels, labels) == 0
    prediction = labels.copy()
    prediction[2, 2] = True
    found = warp(prediction, labels)
    assert found.merges.tolist() == (prediction & ~labels).tolist()
    assert found.error == 1 / 36


def test_missed_and_invented_objects_and_holes_are_other_errors():
    """They change the topology too, but are neither merges nor splits, and the error does not count them."""
    labels = mask(".........",
                  ".##......",
                  ".##......",
                  ".....###.",
                  ".....###.",
                  ".....###.",
                  ".........")
    prediction = mask(".........",
                      ".........",
                      ".....##..",
                      ".....###.",
                      ".....#.#.",
                      "##...###.",
                      "##.......")
    found = warp(prediction, labels)
    assert found.error == 0
    assert found.others.sum() == 1 + 4 + 1  # the last pixel of the lost cell, the invented cell, the hole
    assert warping_error(np.zeros_like(labels), labels) == 0


def test_opening_or_closing_a_ring_is_no_split_or_merge():
    """A ring with a pixel less is still one object, and a C whose ends meet was one before: both are other errors."""
    ring = mask("......",
                ".####.",
                ".#..#.",
                ".####.",
                "......")
    c = ring.copy()
    c[2, 4] = False
    for prediction, labels in ((c, ring), (ring, c)):
        found = warp(prediction, labels)
        assert (found.merges.sum(), found.splits.sum()) == (0, 0)
        assert np.argwhere(found.others).tolist() == [[2, 4]]


def test_warping_is_zero_for_the_truth_and_repeats(rng):
    """The truth itself costs nothing; the same input gives the same bytes; bool, integers and views agree."""
    labels, prediction = rng.random((2, 20, 30)) < 0.6
    assert warping_error(labels, labels) == 0
    one, two = warp(prediction, labels), warp(prediction.copy(), labels.copy())
    assert one.warped.tobytes() == two.warped.tobytes()
    wide = np.zeros((20, 60), np.uint8)
    wide[:, ::2] = prediction
    view = warp(wide[:, ::2], np.asfortranarray(labels.astype(np.int64)))
    assert np.array_equal(view.warped, one.warped)
    assert one.warped.flags.writeable
    assert np.array_equal(wide[:, ::2], prediction)


def test_warping_of_bent_tissue():
    """Bending all membranes costs many pixels and next to no topology; one broken membrane then stands out."""
    labels = tissue(4, size=128)
    prediction = bent(labels, 5)
    assert (prediction != labels).mean() > 0.03
    assert warping_error(prediction, labels) < 0.0005
    wall = np.argwhere(~labels[60:68, 20:108])
    y, x = wall[len(wall) // 2] + np.array([60, 20])
    broken = labels.copy()
    broken[y - 4:y + 5, x - 4:x + 5] = True
    assert 0.0001 < warping_error(broken, labels) < 0.002


def test_order_changes_little():
    """Where the definition leaves the order open, a mirrored image gives nearly the same error."""
    labels = tissue(6, size=128)
    prediction = tissue(6, size=128, membrane=0.6)  # many gaps
    errors = [warping_error(prediction[flip], labels[flip]) for flip in (np.s_[:], np.s_[::-1], np.s_[:, ::-1])]
    assert min(errors) > 0.0005
    assert max(errors) < 1.15 * min(errors)


def test_real_membranes(real_data):
    """On real labels: the truth is perfect, a shift by one pixel is nearly so, and an eroded membrane merges."""
    from PIL import Image

    file = real_data / "isbi2012_em" / "label" / "20.png"
    if not file.exists():
        pytest.skip("the EM challenge's slices are not in this data folder")
    labels = np.array(Image.open(file)) > 127
    assert warping_error(labels, labels) == 0
    assert v_rand(components(labels), components(labels)).f_score == 1
    assert warping_error(np.roll(labels, 1, 1), labels) < 0.0001
    merged = ndimage.binary_dilation(labels, iterations=2)
    found = warp(merged, labels)
    assert found.merges.any()
    assert not found.splits.any()
    assert v_rand(components(merged), components(labels)).merge < 0.9


# ---- scores ----


def scored():
    """Two images with a known sum."""
    labels = [np.array([[1, 1, 0, 2]]), np.array([[1, 1, IGNORE, 0]])]
    prediction = [np.array([[1, 0, 0, 2]]), np.array([[1, 1, 1, 0]])]
    reference = [np.array([[1, 1, 0, 5]]), np.array([[4, 4, 0, 0]])]
    names = ("background", "cell", "debris")
    return [evaluate_pair(p, t, r, class_names=names) for p, t, r in zip(prediction, labels, reference, strict=True)]


def test_evaluate_pair():
    """One image: each measure is that of the function of the same name; objects are 4-connected components."""
    one, two = scored()
    np.testing.assert_allclose(one.iou, [0.5, 0.5, 1])
    np.testing.assert_allclose(one.dice, [2 / 3, 2 / 3, 1])
    assert one.mean_iou == pytest.approx(0.75)
    assert one.mean_dice == pytest.approx(5 / 6)
    assert one.pixel_error == 0.25
    np.testing.assert_allclose(one.seg_scores, [0, 1])  # half of the first cell is not enough
    np.testing.assert_allclose(two.seg_scores, [2 / 3])
    assert one.seg == 0.5


def test_scores_add_up_to_the_data_set():
    """Confusions are summed and objects joined; that is not the mean over images."""
    one, two = scored()
    both = total([one, two])
    assert np.array_equal(both.confusion, one.confusion + two.confusion)
    np.testing.assert_allclose(both.seg_scores, [0, 1, 2 / 3])
    assert both.seg == pytest.approx(5 / 9)
    assert both.seg != pytest.approx((one.seg + two.seg) / 2)
    assert both.iou[1] == pytest.approx(3 / 4)
    assert both.mean_iou == pytest.approx((3 / 4 + 1) / 2)
    assert np.array_equal((one + two).confusion, both.confusion)
    assert total(iter([one])).seg == one.seg


def test_evaluate_pair_takes_predicted_instances():
    """Objects handed in are used as they are; without a reference there is no SEG."""
    prediction, labels = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 1]])
    reference = np.array([[1, 1, 2, 2]])
    assert evaluate_pair(prediction, labels, reference).seg == 0.5  # one object that covers both
    assert evaluate_pair(prediction, labels, reference, instances=np.array([[3, 3, 8, 8]])).seg == 1
    assert np.isnan(evaluate_pair(prediction, labels).seg)


def test_scores_as_dict_is_json():
    """Plain numbers with the class names as keys; what is undefined is null, as JSON has no NaN."""
    scores = evaluate_pair(np.zeros((2, 2), int), np.zeros((2, 2), int))
    assert json.loads(json.dumps(scores.as_dict(), allow_nan=False)) == {
        "iou": {"background": 1.0, "cell": None}, "dice": {"background": 1.0, "cell": None},
        "mean_iou": None, "mean_dice": None, "pixel_error": 0.0, "seg": None, "objects": 0, "pixels": 4}


def test_scores_print():
    """A small table, one class a line."""
    text = str(total(scored()))
    assert text.splitlines() == [
        "class                  IoU    Dice",
        "background          0.6667  0.8000",
        "cell                0.7500  0.8571",
        "debris              1.0000  1.0000",
        "mean of foreground  0.8750  0.9286",
        "pixel error 0.1429 of 7 pixels",
        "SEG 0.5556 of 3 objects"]


# ---- errors ----

ones, square = np.ones((2, 3), int), np.array([[1, 2], [3, 4]])


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: confusion_matrix(ones, ones.T, 2), ShapeError,
     r"^confusion_matrix: the prediction is \(2, 3\) and the labels are \(3, 2\)\. Give two arrays of one shape"),
    (lambda: confusion_matrix(ones * 0.5, ones, 2), DTypeError,
     r"the dtype of the prediction is float64, but classes are integers or bool\. Take the argmax"),
    (lambda: confusion_matrix(ones, ones * 255, 2), DataError,
     r"255 in the labels is none of the 2 classes, 0 to 1 \(or -1 where unknown\)\. Map the values first"),
    (lambda: confusion_matrix(-ones, ones, 2), DataError, r"-1 in the prediction is none of the 2 classes, 0 to 1\. Map"),
    (lambda: confusion_matrix(ones, ones * -2, 2), DataError, r"-2 in the labels is none"),
    (lambda: confusion_matrix(ones, ones, 1), ConfigError, r"1 classes cannot be told apart\. Give an integer of 2"),
    (lambda: iou(np.ones((2, 3), int)), ShapeError, r"^iou: shape \(2, 3\) is not a confusion matrix \(K, K\)"),
    (lambda: dice(square / 10), DTypeError, r"^dice: a confusion matrix counts pixels, but this one is float64"),
    (lambda: pixel_error(-square), DataError, r"^pixel_error: the confusion matrix holds -4, and a count cannot"),
    (lambda: foreground_mean(square), ShapeError, r"shape \(2, 2\) is not one number a class"),
    (lambda: seg(ones, ones.T), ShapeError,
     r"^seg: the prediction is \(2, 3\) and the reference \(3, 2\), height by width\. Give two images of one size"),
    (lambda: seg(ones > 0, ones), DTypeError, r"^seg: the prediction is a mask of bool.*`components\(mask\)`"),
    (lambda: seg(ones, -ones), DataError, r"^seg: the reference holds the id -1, but ids are 0"),
    (lambda: v_rand(ones[None], ones), ShapeError, r"^v_rand: the prediction has shape \(1, 2, 3\).*one slice at a time"),
    (lambda: v_info(ones, ones * 1.0), DTypeError, r"^v_info: the reference has dtype float64"),
    (lambda: warping_error(ones, ones.T), ShapeError, r"^warping_error: the prediction is \(2, 3\) and the labels \(3, 2\)"),
    (lambda: warping_error(ones * 255, ones), DataError, r"the prediction holds the value 255, but only 0 and 1"),
    (lambda: warping_error(ones, ones * IGNORE), DataError, r"the labels holds the value -1, but only 0 and 1"),
    (lambda: best_threshold(warping_error, [ones], []), ShapeError, r"1 probability maps and 0 references"),
    (lambda: best_threshold(warping_error, [ones * 7.5], [ones]), DataError,
     r"map 0 runs from 7\.5 to 7\.5, not within 0 to 1\. Give probabilities, not logits"),
    (lambda: best_threshold(warping_error, [ones * nan], [ones]), DataError, r"map 0 runs from nan to nan"),
    (lambda: best_threshold(warping_error, [ones], [ones], thresholds=()), ConfigError, r"no threshold to try"),
    (lambda: Scores(square, class_names=("a", "b", "c")), ShapeError, r"3 class names for a confusion matrix \(2, 2\)"),
    (lambda: Scores(square) + Scores(square, class_names=("a", "b")), ShapeError,
     r"classes \('background', 'cell'\) and \('a', 'b'\) do not add up"),
    (lambda: total([]), DataError, r"no scores to add up"),
    (lambda: evaluate_pair(ones, ones, instances=ones), ConfigError, r"no reference to hold them against"),
])
def test_errors(call, error, text):
    """Each refusal says who refuses, both values, and what to do."""
    with pytest.raises(error, match=text):
        call()
