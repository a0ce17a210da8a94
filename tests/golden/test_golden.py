"""The numbers of PyTorch, stored: parity is checked where it is not installed. `make.py` stored them."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "parity"))

import parity_cases  # noqa: E402


@pytest.fixture(scope="module")
def golden():
    """Case -> all its arrays as one vector of float64."""
    with np.load(HERE / "parity.npz") as file:
        return dict(file)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", parity_cases.STORED)
def test_the_numbers_are_those_of_pytorch(golden, name, dtype):
    """Every stored output and gradient comes out again."""
    case = parity_cases.STORED[name]
    ours = case.ours(**case.given(dtype))
    stored = golden[name]
    assert stored.size == sum(np.size(array) for array in ours.values())
    theirs, start = {}, 0
    for key in sorted(ours):
        theirs[key] = stored[start : start + np.size(ours[key])].reshape(np.shape(ours[key]))
        start += np.size(ours[key])
    parity_cases.check(case, ours, theirs, dtype)


def test_nothing_else_is_stored(golden):
    """The file holds the cases that there are, and is small."""
    assert golden.keys() == parity_cases.STORED.keys()
    assert all(a.dtype == np.float64 and np.isfinite(a).all() for a in golden.values())
    assert (HERE / "parity.npz").stat().st_size < 200_000


def test_the_formula_of_the_inputs():
    """Inputs are known numbers of 24 bits in [-1, 1), alike on every machine, and look random."""
    x = parity_cases.values(1, 4, 1000)
    np.testing.assert_array_equal(x.ravel()[:3] * 2**23, [-3798724, 6815617, 1699251])
    assert x.min() >= -1
    assert x.max() < 1
    assert (x.astype(np.float32) == x).all()
    assert np.abs(x.mean(axis=1)).max() < 0.06
    assert np.abs(np.corrcoef(np.vstack([x, parity_cases.values(2, 4, 1000)])) - np.eye(8)).max() < 0.12
    assert set(np.unique(parity_cases.classes(1, 3, 100))) == {-1, 0, 1, 2}
