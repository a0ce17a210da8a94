"""Splits keep every image once, leave no part empty, and a block split validates on the end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.data.sample import Dataset, Sample
from tinyunet.data.splits import block_split, random_split
from tinyunet.errors import ConfigError, DataError


def dataset(n):
    """n samples named by their place."""
    blank = np.zeros((2, 2), np.int32)
    return Dataset(tuple(Sample(str(i), np.zeros((2, 2, 1), np.uint8), blank) for i in range(n)), ("no", "yes"), "stack")


def names(part):
    return [sample.name for sample in part]


@given(n=st.integers(2, 40), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32 - 1))
def test_every_image_once(n, fraction, seed):
    """Both splits: each image in one part, in order, round(fraction n) of them to validate on, none left empty."""
    whole = dataset(n)
    for train, val in (block_split(whole, fraction), random_split(whole, fraction, np.random.default_rng(seed))):
        assert sorted(names(train) + names(val), key=int) == names(whole)
        assert names(train) == sorted(names(train), key=int)
        assert names(val) == sorted(names(val), key=int)
        assert len(val) == min(max(round(fraction * n), 1), n - 1)
        assert (val.class_names, val.name) == (train.class_names, train.name) == (whole.class_names, "stack")


def test_block_is_the_end():
    """24 slices, a sixth: 00-19 train, 20-23 validate."""
    train, val = block_split(dataset(24), 1 / 6)
    assert names(val) == ["20", "21", "22", "23"]
    assert len(train) == 20


def test_random_split_follows_the_seed():
    """Same seed, same split; over seeds every image validates at some time, and not only a block of them."""
    draws = [names(random_split(dataset(8), 0.25, np.random.default_rng(seed))[1]) for seed in range(60)]
    assert draws[3] == names(random_split(dataset(8), 0.25, np.random.default_rng(3))[1])
    assert {name for draw in draws for name in draw} == set(map(str, range(8)))
    assert any(abs(int(a) - int(b)) > 1 for a, b in draws)


@pytest.mark.parametrize("fraction", [1.5, 0, 1, -0.2, float("nan")])
def test_fraction(fraction):
    """A fraction outside (0, 1) is refused with an example."""
    for split, more in ((block_split, ()), (random_split, (np.random.default_rng(0),))):
        with pytest.raises(ConfigError) as caught:
            split(dataset(4), fraction, *more)
        assert str(caught.value) == (
            f"{split.__name__}: fraction {fraction} is not between 0 and 1. Give the share to validate on, e.g. 0.2.")


def test_too_few():
    """One image, or none, cannot be split."""
    with pytest.raises(DataError) as caught:
        block_split(dataset(1), 0.5)
    assert str(caught.value) == ("block_split: 'stack' holds 1 image, and both parts need one. Add images, cut a large one into "
                                 "parts, or train without validation.")
    with pytest.raises(DataError, match=r"^random_split: 'stack' holds 0 images, and both"):
        random_split(dataset(0), 0.5, np.random.default_rng(0))
