"""Connected components, small objects and renumbering, against loops written from the definitions."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.catalogue.metrics import CORNERS, EDGES, flood
from tinyunet.data import instances as module
from tinyunet.data.instances import INSTANCE_BYTES, components, relabel, remove_small
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


@given(sizes, seeds, st.sampled_from([(4, EDGES), (8, EDGES + CORNERS)]), st.floats(0, 1))
def test_components_against_flood_fill(size, seed, neighbours, share):
    """The ids are those of a flood fill that starts at the first free pixel in row-major order."""
    mask = np.random.default_rng(seed).random(size) < share
    connectivity, steps = neighbours
    found = components(mask, connectivity)
    assert found.dtype == np.int32
    assert np.array_equal(found, flood(mask, steps))


def test_components_of_a_diagonal():
    """Corners join pixels for 8, not for 4, and 4 is the default."""
    mask = np.eye(3, dtype=bool)
    assert components(mask).max() == 3
    assert components(mask, 4).max() == 3
    assert components(mask, 8).max() == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64, np.uint64])
def test_components_of_any_mask_dtype(dtype, rng):
    """A mask is a mask in any integer dtype and any memory layout, and is not written to."""
    mask = rng.random((7, 10)) < 0.6
    given_mask = np.asfortranarray(mask.astype(dtype))[::-1, ::2]
    before = given_mask.copy()
    assert np.array_equal(components(given_mask), flood(mask[::-1, ::2], EDGES))
    assert np.array_equal(given_mask, before)


@given(sizes, seeds, st.integers(0, 12))
def test_remove_small_against_a_loop(size, seed, min_size):
    """Exactly the objects with fewer pixels go; those that stay are 1..n in the order of their ids."""
    instances = np.random.default_rng(seed).choice([0, 2, 3, 7, 40], size)
    expected, n = np.zeros(size, int), 0
    for k in (2, 3, 7, 40):
        if (instances == k).any() and (instances == k).sum() >= min_size:
            n += 1
            expected[instances == k] = n
    found = remove_small(instances, min_size)
    assert found.dtype == np.int32
    assert np.array_equal(found, expected)


@given(sizes, seeds, st.integers(0, 12), st.sampled_from([4, 8]))
def test_components_without_the_small(size, seed, min_size, connectivity):
    """min_size gives what `remove_small` makes of all components."""
    mask = np.random.default_rng(seed).random(size) < 0.5
    assert np.array_equal(components(mask, connectivity, min_size), remove_small(components(mask, connectivity), min_size))


@pytest.mark.parametrize("strip", [1, 7, 40])
def test_strips_change_nothing(monkeypatch, rng, strip):
    """Counting and renumbering some rows at a time gives what one strip gives, also where an object lies in many."""
    ids = rng.choice([0, 2, 3, 5, 9], (13, 7))
    expected = remove_small(ids, 15)
    monkeypatch.setattr(module, "_STRIP", strip)
    assert np.array_equal(remove_small(ids, 15), expected)


@pytest.mark.parametrize("pattern", ["checkerboard", "noise", "one"])
def test_memory_for_objects(pattern, rng):
    """Components take at most INSTANCE_BYTES a pixel and 4 MiB, also where every second pixel is an object."""
    n = 1000
    mask = {"checkerboard": np.indices((n, n)).sum(0) % 2 == 1, "noise": rng.random((n, n)) < 0.5, "one": np.ones((n, n), bool)}
    classes = mask[pattern].astype(np.uint8)
    components(classes[:9, :9] > 0)  # what is imported the first time does not count
    tracemalloc.start()
    try:
        components(classes > 0, 4, 5)
        assert tracemalloc.get_traced_memory()[1] <= INSTANCE_BYTES * n * n + 4 * 2**20
    finally:
        tracemalloc.stop()


def test_remove_small_at_the_limit():
    """An object of exactly min_size pixels stays."""
    instances = np.array([[5, 5, 5, 0, 9, 9]])
    assert remove_small(instances, 3).tolist() == [[1, 1, 1, 0, 0, 0]]
    assert remove_small(instances, 2).tolist() == [[1, 1, 1, 0, 2, 2]]
    assert not remove_small(instances, 4).any()


def test_small_background_is_no_object():
    """Background of one pixel stays background, and a map without background keeps all its objects."""
    assert remove_small(np.array([[4, 4, 0]]), 2).tolist() == [[1, 1, 0]]
    assert remove_small(np.array([[4, 4, 8, 8]]), 2).tolist() == [[1, 1, 2, 2]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.uint64])
def test_relabel_closes_gaps(dtype):
    """Ids become 1..n in their order, whether or not there is background; the argument stays as it was."""
    instances = np.array([[200, 0, 7], [7, 200, 31]], dtype)
    assert relabel(instances).tolist() == [[3, 0, 1], [1, 3, 2]]
    assert relabel(instances).dtype == np.int32
    assert relabel(np.array([[9, 9], [4, 9]], dtype)).tolist() == [[2, 2], [1, 2]]
    assert instances.tolist() == [[200, 0, 7], [7, 200, 31]]


def test_relabel_is_idempotent(rng):
    """Numbers without gaps stay what they are."""
    once = relabel(rng.choice([0, 3, 900], (6, 8)))
    assert np.array_equal(relabel(once), once)


def test_nothing_there():
    """Without foreground there is no object."""
    assert not components(np.zeros((3, 4), bool)).any()
    assert not remove_small(np.zeros((3, 4), int), 5).any()


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: components(np.zeros((2, 3, 4), bool)), ShapeError,
     r"components: the mask has shape \(2, 3, 4\), but one image \(H, W\) with at least one pixel is needed\. Of a stack"),
    (lambda: components(np.zeros((0, 4), bool)), ShapeError, r"has shape \(0, 4\), but one image"),
    (lambda: components(np.full((2, 2), 0.7)), DTypeError, r"dtype float64, .* e\.g\. `probability > 0\.5`"),
    (lambda: components(np.array([[0, 255]])), DataError, r"holds the value 255, but only 0 and 1 make a mask\. Compare"),
    (lambda: components(np.array([[0, -1]])), DataError, r"holds the value -1"),
    (lambda: components(np.zeros((2, 2), bool), 6), ConfigError, r"connectivity 6 is neither 4 \(edges\) nor 8"),
    (lambda: remove_small(np.zeros((2, 2), int), -1), ConfigError, r"min_size -1 is not a number of pixels\. Give"),
    (lambda: components(np.zeros((2, 2), bool), 4, -1), ConfigError, r"components: min_size -1 is not a number of pixels"),
    (lambda: remove_small(np.zeros((2, 2), int), 2.5), ConfigError, r"min_size 2\.5 is not"),
    (lambda: remove_small(np.zeros((2, 2), bool), 1), DTypeError, r"mask of bool.*`components\(mask\)`"),
    (lambda: relabel(np.array([[1, -3]])), DataError, r"relabel: the instance map holds the id -3, but ids are 0"),
])
def test_errors(call, error, text):
    """Each refusal says who refuses, what came, and what to do."""
    with pytest.raises(error, match=text):
        call()
