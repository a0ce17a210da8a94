"""The ladder: which rung runs, and how to pick one by hand."""

import threading

import numpy as np
import pytest

import tinyunet.rungs  # noqa: F401  registers the rungs
from tinyunet import ladder
from tinyunet.errors import BackendError, ConfigError
from tinyunet.ops import conv2d_forward

X, W = np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2, 2))


@pytest.fixture
def two_rungs(monkeypatch):
    """Nothing but one ladder "op" with a rung "slow" that takes everything, and "fast" that takes only float32."""
    monkeypatch.setattr(ladder, "_LADDERS", {})
    ladder.register("op", ladder.Rung("slow", np.add, np.add, np.add))
    refuses = lambda x, w: None if x.dtype == np.float32 else f"it takes float32, not {x.dtype}"  # noqa: E731
    ladder.register("op", ladder.Rung("fast", np.add, np.add, np.add, refuses))


def picked(dtype="float32"):
    """The name of the rung that would run."""
    return ladder.pick("op", X.astype(dtype), W).name


def test_the_ladders_start_with_the_loops():
    """Both hot operations have the formula written out as their lowest rung."""
    assert ladder.rungs("conv3x3")[:3] == ("loops", "taps", "im2col")
    assert ladder.rungs("upconv2x2")[:2] == ("loops", "gemm")


def test_the_highest_rung_that_takes_the_arrays_runs(two_rungs):
    """The fast rung runs where it can, and the next one below where it cannot."""
    assert ladder.rungs("op") == ("slow", "fast")
    assert picked("float32") == "fast"
    assert picked("float64") == "slow"


def test_picking_by_hand_ends_with_the_block(two_rungs):
    """Inside the block the named rung runs, inner blocks win, and afterwards, also after an error, all is as before."""
    with ladder.rung(op="slow"):
        assert picked() == "slow"
        with ladder.rung(op="fast"):
            assert picked() == "fast"
        assert picked() == "slow"
    assert picked() == "fast"
    with pytest.raises(KeyError), ladder.rung(op="slow"):
        raise KeyError
    assert picked() == "fast"


def test_operations_are_picked_apart():
    """Naming a rung of one operation leaves the others alone; a nested block adds to the outer one."""
    with ladder.rung(conv3x3="taps"):
        assert ladder.pick("upconv2x2", X, W).name == ladder.rungs("upconv2x2")[-1]
        with ladder.rung(upconv2x2="loops"):
            assert ladder.pick("conv3x3", X, W).name == "taps"
            assert ladder.pick("upconv2x2", X, W).name == "loops"


def test_other_threads_pick_for_themselves(two_rungs):
    """A rung picked by hand in one thread does not change what runs in another."""
    seen = []
    with ladder.rung(op="slow"):
        thread = threading.Thread(target=lambda: seen.append(picked()))
        thread.start()
        thread.join()
    assert seen == ["fast"]


def test_the_op_runs_on_the_rung_picked_by_hand(monkeypatch):
    """The convolution calls the rung that was named, and not another."""
    monkeypatch.setitem(ladder._LADDERS, "conv3x3", dict(ladder._LADDERS["conv3x3"]))
    ladder.register("conv3x3", ladder.Rung("sevens", lambda x, w, pad: np.full((1, 2, 2, 2), 7.0), np.add, np.add))
    with ladder.rung(conv3x3="sevens"):
        assert (conv2d_forward(X, W, np.zeros(2))[0] == 7).all()
    with ladder.rung(conv3x3="loops"):
        assert (conv2d_forward(X, W, np.zeros(2))[0] == 0).all()


def test_a_rung_picked_by_hand_is_never_replaced(two_rungs):
    """If it cannot run this, the error says why; no other rung takes over."""
    with (
        ladder.rung(op="fast"),
        pytest.raises(BackendError, match=r"op: the rung 'fast' was picked by hand but cannot .*: it takes float32, not float64"),
    ):
        picked("float64")


def test_names_that_do_not_exist(two_rungs):
    """Unknown operations and rungs are refused with those that exist."""
    with pytest.raises(ConfigError, match=r"rung: op has no rung 'warp'\. It has: slow, fast"), ladder.rung(op="warp"):
        pass
    with pytest.raises(ConfigError, match=r"there is no ladder for 'conv7x7'\. There are: op"), ladder.rung(conv7x7="loops"):
        pass
    with pytest.raises(ConfigError, match=r"there is no ladder for 'conv7x7'"):
        ladder.rungs("conv7x7")
