"""Weight maps: against loops over all cells, closed forms, and symmetries; and the cache on disk."""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.data import weight_map as module
from tinyunet.data.sample import IGNORE
from tinyunet.data.weight_map import (
    PRESETS,
    REACH,
    WeightMap,
    cached_weight_map,
    class_weights,
    distances,
    separate,
    weight_map,
    weight_parts,
)
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError


@st.composite
def instance_maps(draw):
    """A random map of blobs that touch, overlap into pieces, are single pixels, or are missing altogether."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    cells, seed = draw(st.integers(0, 7)), draw(st.integers(0, 2**32 - 1))
    return blobs(shape, cells, np.random.default_rng(seed))


def blobs(shape, cells, rng, radius=4.0):
    y, x = np.ogrid[: shape[0], : shape[1]]
    instances = np.zeros(shape, np.int32)
    for i in range(1, cells + 1):
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.5, radius)
        instances[(y - cy) ** 2 + (x - cx) ** 2 <= r**2] = i
    return instances


def two_discs(radius=12, gap=4, shape=(61, 80)):
    """Two discs of one radius, `gap` background pixels apart on the middle row."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    instances = np.zeros(shape, np.int32)
    left = 15
    instances[(y - 30) ** 2 + (x - left) ** 2 <= radius**2] = 1
    instances[(y - 30) ** 2 + (x - (left + 2 * radius + gap + 1)) ** 2 <= radius**2] = 2
    return instances


def all_distances(instances):
    """(cells, H, W): distance of every pixel to the nearest pixel of every cell, pixel by pixel."""
    here = np.stack(np.indices(instances.shape), axis=-1).reshape(-1, 1, 2)
    ids = np.unique(instances[instances > 0])
    d = [np.sqrt(((here - np.argwhere(instances == i)[None]) ** 2).sum(-1)).min(1).reshape(instances.shape) for i in ids]
    return np.array(d).reshape(len(ids), *instances.shape)


def brute_force_distances(instances, cutoff=math.inf):
    d = np.concatenate([all_distances(instances), np.full((2, *instances.shape), np.inf)])
    d = np.where(d <= cutoff, d, np.inf)
    d.sort(axis=0)
    return d[0], d[1]


def brute_force_separate(instances, width):
    r, out = width // 2, instances.copy()
    for i, j in np.ndindex(instances.shape):
        window = instances[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1]
        if instances[i, j] and ((window != 0) & (window != instances[i, j])).any():
            out[i, j] = 0
    for k in np.unique(instances[instances > 0]):
        if not (out == k).any():
            out[instances == k] = k
    return out


def permuted(instances, seed):
    """The same objects under other ids."""
    ids = np.random.default_rng(seed).permutation(np.arange(1, 60))[: instances.max() + 1]
    return np.where(instances > 0, ids[instances], 0).astype(np.int32), ids


# --- separate ---------------------------------------------------------------------------------------------------------


@given(instance_maps(), st.sampled_from([0, 2, 4, 6]))
def test_separate_equals_a_loop_over_windows(instances, width):
    """Every pixel with another object in its window becomes background, unless its object would disappear."""
    np.testing.assert_array_equal(separate(instances, width), brute_force_separate(instances, width))


@given(instance_maps(), st.integers(0, 1000))
def test_separate_does_not_care_which_id_is_which(instances, seed):
    """Permuting the ids permutes the result."""
    other, ids = permuted(instances, seed)
    opened = separate(instances, 4)
    np.testing.assert_array_equal(separate(other, 4), np.where(opened > 0, ids[opened], 0))


@given(instance_maps(), st.sampled_from([2, 4]))
def test_separate_deletes_no_object_and_adds_no_pixel(instances, width):
    """The same ids are there afterwards, on a subset of their pixels."""
    opened = separate(instances, width)
    np.testing.assert_array_equal(np.unique(opened[opened > 0]), np.unique(instances[instances > 0]))
    assert ((opened == instances) | (opened == 0)).all()


@pytest.mark.parametrize("width", [0, 2, 4, 6])
def test_separate_opens_the_stated_width(width):
    """Two halves that touch along a straight edge end up `width` pixels apart, each giving half."""
    instances = np.repeat([[1] * 10 + [2] * 10], 5, axis=0)
    row = separate(instances, width)[2]
    assert (row == 0).sum() == width
    assert (row == 1).sum() == (row == 2).sum()


def test_separate_keeps_a_tiny_object_whole():
    """A single pixel inside another cell survives, and a ring of background opens around it."""
    instances = np.ones((7, 9), np.uint16)
    instances[3, 4] = 7
    opened = separate(instances)
    assert opened.dtype == np.uint16
    assert opened[3, 4] == 7
    assert (opened[2:5, 3:6] == 0).sum() == 8
    assert (opened == 1).sum() == 63 - 9


def test_separate_works_at_the_largest_id_of_a_dtype():
    """Id 255 in uint8 is an object like any other."""
    instances = np.repeat([[255, 255, 255, 9, 9, 9, 0, 0]], 2, axis=0).astype(np.uint8)
    assert separate(instances)[0].tolist() == [255, 255, 0, 0, 9, 9, 0, 0]


# --- distances --------------------------------------------------------------------------------------------------------


@given(instance_maps(), st.sampled_from([1.0, 3.5, 8.0, 100.0]))
def test_distances_equal_a_loop_over_all_cells(instances, cutoff):
    """d1 and d2 are the two smallest of the distances to all cells, exactly, and inf beyond the cut-off."""
    for ours, theirs in zip(distances(instances, cutoff), brute_force_distances(instances, cutoff), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))


@given(instance_maps(), st.integers(0, 1000))
def test_distances_do_not_care_which_id_is_which(instances, seed):
    """Permuting the ids changes nothing."""
    for a, b in zip(distances(instances, 9), distances(permuted(instances, seed)[0], 9), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("background", [0, 1])
def test_distances_take_ids_of_any_size(rng, background):
    """Ids in the billions cost no memory of their own, with or without background in the image."""
    instances = np.maximum(blobs((20, 30), 5, rng), background)
    huge = np.where(instances > 0, instances.astype(np.int64) * 400_000_000 + 3, 0)
    for a, b in zip(distances(huge, 30), distances(instances, 30), strict=True):
        np.testing.assert_array_equal(a, b)


def test_distances_take_small_and_large_ids_together():
    """A first cell of id 1 counts beside one of an id far beyond the number of pixels."""
    for got, wanted in zip(distances(np.array([[1, 0, 0, 10**9]]), 9), ([[0, 1, 1, 0]], [[3, 2, 2, 3]]), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_distance_to_a_cell_counts_from_its_nearest_pixel():
    """0 on the cell, 1 beside it, the diagonal is sqrt(2), and inf just beyond the cut-off."""
    instances = np.zeros((4, 6), np.int32)
    instances[0, 0], instances[0, 5] = 3, 4
    d1, d2 = distances(instances, 4.0)
    np.testing.assert_array_equal(d1[0], [0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(d2[0], [np.inf, 4, 3, 3, 4, np.inf])
    assert d1[1, 1] == np.float32(math.sqrt(2))


# --- class weights ----------------------------------------------------------------------------------------------------


def test_class_weights_by_hand():
    """6 background, 2 cell, ignored pixels not counted: 8 / (2 * 6) and 8 / (2 * 2)."""
    labels = np.array([[0, 0, 0, 0, 0], [0, 1, 1, IGNORE, IGNORE]])
    np.testing.assert_allclose(class_weights([labels]), [2 / 3, 2])
    np.testing.assert_array_equal(class_weights([np.zeros((2, 3), int)]), [1.0])


@given(st.integers(1, 5), st.integers(0, 1000))
def test_class_weights_average_to_one_and_share_alike(classes, seed):
    """Over all images together the mean weight is 1 and every class that occurs has the same total."""
    rng = np.random.default_rng(seed)
    maps = [rng.choice(np.arange(-1, classes), rng.integers(1, 12, 2)) for _ in range(3)]
    everything = np.concatenate([m.ravel() for m in maps])
    everything = everything[everything != IGNORE]
    if everything.size == 0:
        return
    w = class_weights(maps, classes)
    assert w.shape == (classes,)
    np.testing.assert_allclose(w[everything].mean(), 1)
    totals = np.bincount(everything, w[everything])
    np.testing.assert_allclose(totals[totals > 0], everything.size / (totals > 0).sum())


def test_a_class_that_never_occurs_weighs_one():
    """No division by zero, and the other classes are balanced among themselves."""
    np.testing.assert_allclose(class_weights([np.array([[0, 0, 0, 2]])], classes=4), [4 / 6, 1, 2, 1])


# --- the weight map ---------------------------------------------------------------------------------------------------


def brute_force_weights(instances, labels, p):
    """Equation 2 over all cells, without a cut-off, in float64."""
    d1, d2 = brute_force_distances(instances)
    background = labels == 0
    w = np.where(background, p.w0 * np.exp(-((d1 + d2) ** 2) / (2 * p.sigma**2)), 0.0)
    if p.balance == "distance":
        w += np.where(background, p.v_bal + (1 - p.v_bal) * np.exp(-(d1**2) / (2 * p.sigma1**2)), 1.0)
    else:
        counted = labels[labels != IGNORE]
        for k in np.unique(counted):
            w += np.where(labels == k, counted.size / (np.unique(counted).size * (counted == k).sum()), 0.0)
    return np.where(labels == IGNORE, 0.0, w)


def test_presets_have_the_published_numbers():
    """Ronneberger et al. 2015, section 3; Falk et al. 2019."""
    assert sorted(PRESETS) == ["falk2019", "ronneberger2015"]
    assert PRESETS["ronneberger2015"] == WeightMap(w0=10, sigma=5, balance="frequency")
    assert PRESETS["falk2019"] == WeightMap(w0=50, sigma=6, balance="distance", v_bal=0.1, sigma1=10)


@pytest.mark.parametrize("preset", PRESETS)
@given(instance_maps(), st.integers(0, 1000))
def test_weight_map_equals_equation_2_over_all_cells(preset, instances, seed):
    """Both presets, with ignored pixels and three classes, against loops without any cut-off."""
    rng = np.random.default_rng(seed)
    labels = np.where(instances > 0, 1 + instances % 2, 0)
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    if (labels == IGNORE).all():
        labels[0, 0] = 0
    w = weight_map(instances, labels, preset)
    assert w.dtype == np.float32
    np.testing.assert_allclose(w, brute_force_weights(instances, labels, PRESETS[preset]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_cut_off_loses_nothing(preset):
    """A large image with cells at all distances: the border term equals the one without a cut-off to float32."""
    instances = two_discs(radius=3, gap=20, shape=(61, 160))
    instances[30, 100:] = 3
    d1, d2 = brute_force_distances(instances)
    p = PRESETS[preset]
    exact = np.where(instances == 0, p.w0 * np.exp(-((d1 + d2) ** 2) / (2 * p.sigma**2)), 0)
    border = weight_parts(instances, preset=preset).border
    assert (border[instances == 0] == 0).any()  # the cut-off was at work
    np.testing.assert_allclose(border, exact, rtol=1e-6, atol=1e-9 * p.w0)
    assert p.w0 * math.exp(-(REACH**2) / 2) == pytest.approx(1e-9 * p.w0)


@pytest.mark.parametrize(("gap", "expected"), [(1, 9.231), (4, 6.065), (9, 1.353), (14, 0.111), (19, 0.003)])
def test_border_term_between_two_discs(gap, expected):
    """Anywhere on the line between two discs d1 + d2 = gap + 1, so w0 = 10, sigma = 5 give these published values."""
    instances = two_discs(gap=gap)
    border = weight_parts(instances).border
    np.testing.assert_allclose(border[30, 28 : 28 + gap], expected, atol=6e-4)
    assert border.max() == border[30, 28]  # nowhere is the gap narrower


def test_two_discs_are_symmetric():
    """The ridge between equal discs is its own mirror image in both directions."""
    border = weight_parts(two_discs(gap=5)).border[:, :61]  # columns 0 to 60, centred on the gap
    np.testing.assert_array_equal(border, border[::-1])
    np.testing.assert_array_equal(border, border[:, ::-1])


@pytest.mark.parametrize("preset", PRESETS)
def test_fewer_than_two_cells_have_no_border(preset):
    """One cell, or none, leaves the class balance alone."""
    one = (two_discs() == 1).astype(np.int32)
    for instances in (one, np.zeros_like(one)):
        parts = weight_parts(instances, preset=preset)
        assert not parts.border.any()
        assert np.isinf(parts.d2).all()
        np.testing.assert_array_equal(parts.w, parts.w_c)


@given(instance_maps(), st.integers(0, 1000), st.sampled_from(sorted(PRESETS)))
def test_weight_map_turns_with_the_image(instances, seed, preset):
    """Rotation, mirroring, another order of ids: the weights follow."""
    w = weight_map(instances, preset=preset)
    np.testing.assert_array_equal(weight_map(np.rot90(instances), preset=preset), np.rot90(w))
    np.testing.assert_array_equal(weight_map(instances[:, ::-1], preset=preset), w[:, ::-1])
    np.testing.assert_array_equal(weight_map(permuted(instances, seed)[0], preset=preset), w)


def test_weight_map_moves_with_the_cells(rng):
    """Shifting everything, far from the edge, shifts the border term."""
    instances = np.zeros((140, 150), np.int32)
    instances[45:69, 45:75] = blobs((24, 30), 5, rng)
    moved = np.roll(instances, (9, -4), (0, 1))
    np.testing.assert_array_equal(weight_map(moved), np.roll(weight_map(instances), (9, -4), (0, 1)))


@given(instance_maps(), st.sampled_from(sorted(PRESETS)))
def test_parts_add_up(instances, preset):
    """w = w_c + border, the border lies on background only, and d1 <= d2."""
    w, w_c, border, d1, d2 = weight_parts(instances, preset=preset)
    np.testing.assert_array_equal(w, w_c + border)
    assert (w_c > 0).all()
    assert (border >= 0).all()
    assert not border[instances > 0].any()
    assert (d1 <= d2).all()
    assert all(part.dtype == np.float32 and part.shape == instances.shape for part in (w, w_c, border, d1, d2))


def test_limits_of_sigma():
    """A tiny sigma leaves no border term; a huge one adds w0 to all background as soon as there are two cells."""
    instances = two_discs()
    assert not weight_parts(instances, preset=WeightMap(sigma=0.01)).border.any()
    border = weight_parts(instances, preset=WeightMap(sigma=1e6)).border
    np.testing.assert_allclose(border, np.where(instances == 0, 10, 0), rtol=1e-6)


def test_labels_alone_give_the_class_balance():
    """Without instances: inverse class frequency with mean 1, or distance to the foreground; no border term."""
    labels = np.zeros((8, 10), np.uint8)
    labels[2:4, 3:6] = 2
    parts = weight_parts(None, labels)
    np.testing.assert_allclose(parts.w, np.where(labels == 2, 80 / 12, 80 / 148), rtol=1e-6)
    assert not parts.border.any()
    falk = weight_map(None, labels, "falk2019")
    np.testing.assert_array_equal(falk, weight_map((labels > 0).astype(int), preset="falk2019"))
    assert falk[2, 2] == np.float32(0.1 + 0.9 * math.exp(-1 / 200))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_mask_is_two_classes(preset):
    """Labels may be bool: False is class 0, True class 1."""
    instances = two_discs()
    np.testing.assert_array_equal(weight_map(None, instances > 0, preset), weight_map(None, np.minimum(instances, 1), preset))


def test_without_instances_labels_are_the_cells():
    """The zone around cells is that of the labels, of every class, and nothing is said of distances."""
    instances = two_discs()
    parts = weight_parts(None, np.minimum(instances, 1), "falk2019")
    np.testing.assert_array_equal(parts.w, weight_parts(instances, preset="falk2019").w_c)
    for distance in (parts.d1, parts.d2):
        np.testing.assert_array_equal(distance, np.full(instances.shape, np.inf, np.float32), strict=True)


def test_a_small_border_is_one_and_none_is_none():
    """A w0 below 1 counts like any other; with 0 nothing is measured."""
    instances = two_discs()
    half, one, none = (weight_parts(instances, preset=WeightMap(w0=w0)) for w0 in (0.5, 1, 0))
    assert half.border.any()
    np.testing.assert_array_equal(2 * half.border, one.border)
    assert not none.border.any()
    assert np.isinf(none.d1).all()


def test_class_weights_of_the_whole_set_replace_those_of_the_image():
    """Given weights are looked up by class; ignored pixels stay at 0."""
    labels = np.array([[0, 1, 2, IGNORE]])
    w = weight_map(None, labels, class_weights=np.array([0.5, 3, 7]))
    np.testing.assert_array_equal(w, [[0.5, 3, 7, 0]])
    np.testing.assert_array_equal(weight_map(None, labels, class_weights=[1, 0, 2]), [[1, 0, 2, 0]])


def test_balance_none_leaves_the_border_alone():
    """w_c = 1 everywhere; without w0 nothing but that is left."""
    instances = two_discs()
    parts = weight_parts(instances, preset=WeightMap(balance="none"))
    np.testing.assert_array_equal(parts.w, 1 + parts.border)
    np.testing.assert_array_equal(weight_map(instances, preset=WeightMap(balance="none", w0=0)), np.ones((61, 80)))


def test_an_image_that_nobody_annotated_weighs_nothing():
    """All pixels IGNORE: all weights 0, no division by zero."""
    assert not weight_map(None, np.full((3, 4), IGNORE)).any()


def test_ignored_pixels_weigh_nothing_even_in_a_gap():
    """IGNORE wins over the border term."""
    instances = two_discs(gap=2)
    labels = (instances > 0).astype(int)
    assert weight_map(instances, labels)[30, 28] > 8
    labels[30, 28] = IGNORE
    assert weight_map(instances, labels)[30, 28] == 0


def test_touching_cells_get_their_border_once_separated():
    """No background, no border weight; after `separate` the gap weighs most of all."""
    instances = np.zeros((30, 40), np.int32)
    instances[5:25, 5:20], instances[5:25, 20:35] = 1, 2
    assert weight_map(instances)[15, 19] == weight_map(instances)[15, 10]
    w = weight_map(separate(instances))
    assert w[15, 19] == w[15, 20] == w.max()
    assert w[15, 19] > 6


def test_arguments_are_left_alone(rng):
    """Nothing is written into the arrays handed in, whatever their memory order."""
    instances = np.asfortranarray(blobs((20, 26), 6, rng))
    labels = (instances > 0).astype(np.int8)[::-1]
    before = instances.copy(), labels.copy()
    separate(instances)
    w = weight_map(instances, labels)
    np.testing.assert_array_equal(instances, before[0])
    np.testing.assert_array_equal(labels, before[1])
    np.testing.assert_array_equal(w, weight_map(before[0].astype(np.int64), np.ascontiguousarray(before[1])))


def test_real_nuclei(real_data):
    """On 32 annotated images: gaps open, no nucleus is lost, and border weights lie between nuclei only."""
    for instances in np.load(real_data / "dsb2018" / "tiny32_256.npz")["labels"]:
        opened = separate(instances)
        assert set(np.unique(opened)) == set(np.unique(instances))
        parts = weight_parts(opened)
        assert np.isfinite(parts.w).all()
        assert not parts.border[opened > 0].any()
        if opened.any():
            assert parts.w_c.mean() == pytest.approx(1, rel=1e-5)


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_computing(monkeypatch):
    """Call it, and from then on any computation of weights fails the test."""
    def forbid():
        monkeypatch.setattr(module, "weight_map", lambda *_: pytest.fail("computed although it was cached"))
    return forbid


def test_cache_computes_once(tmp_path, no_computing):
    """The second call reads the file: same bytes, no computation, also for another array with equal content."""
    instances = two_discs()
    first = cached_weight_map(instances, folder=tmp_path / "new" / "folder")
    np.testing.assert_array_equal(first, weight_map(instances))
    no_computing()
    again = cached_weight_map(np.asfortranarray(instances), None, PRESETS["ronneberger2015"],
                              folder=str(tmp_path / "new" / "folder"))
    assert again.tobytes() == first.tobytes()
    assert again.dtype == np.float32


def test_every_difference_is_another_file(tmp_path, monkeypatch):
    """Labels, shape, dtype, which of the two arrays, settings, class weights and format version all count."""
    a = np.array([[0, 1, 1, 0, 2, 2]], np.int32)
    other = a.copy()
    other[0, 0] = 3
    calls = [
        {"instances": a}, {"instances": other}, {"instances": a.reshape(2, 3)}, {"instances": a.astype(np.int16)},
        {"instances": a, "labels": a}, {"instances": None, "labels": a}, {"instances": a, "preset": "falk2019"},
        {"instances": a.view(">i4")}, {"instances": a, "preset": WeightMap(sigma=5.5)},
        {"instances": a, "class_weights": np.array([1.0, 2.0])},
    ]
    for n, call in enumerate(calls, start=1):
        np.testing.assert_array_equal(cached_weight_map(**call, folder=tmp_path), weight_map(**call))
        assert len(list(tmp_path.iterdir())) == n
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    cached_weight_map(a, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(calls) + 1


def test_cache_files_are_ordinary_npy_files(tmp_path):
    """Any program that reads .npy can show them."""
    w = cached_weight_map(two_discs(), folder=tmp_path)
    (file,) = tmp_path.glob("weights-*.npy")
    np.testing.assert_array_equal(np.load(file), w)


def test_cache_files_have_the_same_name_everywhere(tmp_path):
    """A name depends on what it stands for alone, not on the process: it finds the files of an earlier run, and of others."""
    cached_weight_map(np.array([[0, 1, 2]], np.int32), folder=tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == "weights-c7a451766a28796466331070c25a75fa.npy"


def test_a_cache_file_is_never_unpickled(tmp_path):
    """Reading a pickle runs what is in it; the checksum keeps away damage, not intent."""
    cached_weight_map(CELLS, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    file.write_bytes(content.getvalue() + module._checksum(content.getvalue()))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cached_weight_map(CELLS, folder=tmp_path)


@pytest.mark.parametrize("damage", [
    lambda b: b"", lambda b: b"\0" * 4, lambda b: b[:50], lambda b: b[:-1], lambda b: b + b"x",
    lambda b: b[:2000] + bytes([b[2000] ^ 1]) + b[2001:], lambda b: b.replace(b"(61, 80)", b"(80, 61)"),
], ids=["empty", "zeros", "header only", "truncated", "longer", "one bit", "other shape"])
def test_a_damaged_file_is_computed_anew(tmp_path, no_computing, damage):
    """Whatever happened to the file, the weights are right, and the file is mended."""
    instances = two_discs()
    w = cached_weight_map(instances, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    np.testing.assert_array_equal(cached_weight_map(instances, folder=tmp_path), w)
    assert list(tmp_path.iterdir()) == [file]
    no_computing()
    np.testing.assert_array_equal(cached_weight_map(instances, folder=tmp_path), w)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    """If the last step fails, neither half a file nor a temporary one stays behind, and the error names the file."""
    def fail(*_):
        raise OSError("disk full")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"weights-\w+\.npy: cannot be written \(disk full\)\. Is there space left"):
        cached_weight_map(two_discs(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file in the place of the folder is refused with the path, not with a raw error."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"file/cache/weights-\w+\.npy: cannot be written .*Does the folder exist"):
        cached_weight_map(two_discs(), folder=tmp_path / "file" / "cache")


def test_many_writers_share_a_folder(tmp_path):
    """Concurrent calls for one image all get the same weights, and one file is left."""
    instances = two_discs()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cached_weight_map(instances, folder=tmp_path), range(24)))
    assert len({w.tobytes() for w in results}) == 1
    assert len(list(tmp_path.iterdir())) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------

CELLS = np.array([[0, 1], [2, 0]])


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: separate(CELLS, 3), ConfigError, "separate: width 3 is not an even number of pixels"),
    (lambda: separate(CELLS, -2), ConfigError, "separate: width -2 is not an even number"),
    (lambda: separate(-CELLS), DataError, "separate: the instance map holds the id -2, but ids are 0"),
    (lambda: separate(CELLS[None]), ShapeError, r"separate: the instance map has shape \(1, 2, 2\), but one image"),
    (lambda: separate(CELLS[:0]), ShapeError, r"separate: the instance map has shape \(0, 2\), but one image"),
    (lambda: distances(CELLS, 0), ConfigError, "distances: cutoff 0 must be a positive number of pixels"),
    (lambda: distances(CELLS, math.inf), ConfigError, "distances: cutoff inf must be"),
    (lambda: distances(CELLS / 2, 9), DTypeError, "distances: the instance map has dtype float64, but integers"),
    (lambda: weight_map(CELLS > 0), DTypeError, r"weight_map: the instance map is a mask of bool.*`components\(mask\)`"),
    (lambda: weight_map(None, CELLS / 2), DTypeError, "weight_map: the label map has dtype float64, but integers or bool"),
    (lambda: class_weights([]), DataError, "class_weights: no pixel counts"),
    (lambda: class_weights([CELLS], 2), DataError, r"class_weights: label 2 does not fit 2 classes \(0 to 1\)"),
    (lambda: class_weights([CELLS - 2]), DataError, "class_weights: label -2 is below -1"),
    (lambda: weight_map(None), DataError, "weight_map: neither instances nor labels"),
    (lambda: weight_map(CELLS, preset="unet"), ConfigError, "no preset 'unet'. Take one of ronneberger2015, falk2019"),
    (lambda: weight_map(CELLS, CELLS[:1]), ShapeError, r"instances \(2, 2\) and labels \(1, 2\) differ in shape"),
    (lambda: weight_map(None, CELLS, class_weights=np.ones(2)), DataError,
     r"label 2 has no weight: class_weights has 2 \(0 to 1\)\. Give one weight for each class"),
    (lambda: weight_map(None, CELLS, class_weights=np.ones((1, 3))), DataError,
     r"class_weights \[\[1.0, 1.0, 1.0\]\] must be one number"),
    (lambda: weight_map(None, CELLS, class_weights=[1, math.inf, 1]), DataError, "one number of at least 0 per class"),
    (lambda: weight_map(None, CELLS, class_weights=-np.ones(3)), DataError, "one number of at least 0 per class"),
    (lambda: cached_weight_map(None, folder="."), DataError, "cached_weight_map: neither instances nor labels"),
    (lambda: WeightMap(w0=-1), ConfigError, "WeightMap: w0 -1 must be a number of at least 0"),
    (lambda: WeightMap(w0=math.inf), ConfigError, "WeightMap: w0 inf must be a number of at least 0"),
    (lambda: WeightMap(sigma=math.inf), ConfigError, "WeightMap: sigma inf must be a positive number of pixels"),
    (lambda: WeightMap(sigma=0), ConfigError, "WeightMap: sigma 0 must be a positive number of pixels"),
    (lambda: WeightMap(sigma1=math.nan), ConfigError, "WeightMap: sigma1 nan must be"),
    (lambda: WeightMap(balance="equal"), ConfigError, "balance 'equal' is none of 'frequency', 'distance', 'none'"),
])
def test_refusals_say_what_to_do(call, error, text):
    """Each refusal names who refuses, the value, and the way out."""
    with pytest.raises(error, match=text):
        call()
