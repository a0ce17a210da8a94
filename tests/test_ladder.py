"""The ladder: which rung runs, and how to pick one by hand."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import tinyunet.rungs
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
        assert ladder.pick("upconv2x2", X, W).name == ladder.able("upconv2x2", X, W)[0]
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


# Costs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def costs(monkeypatch, tmp_path):
    """Write a file of costs and use it: costs({"op": {"slow": {"forward": [...]}}})."""
    monkeypatch.setenv("TINYUNET_COSTS", str(tmp_path / "costs.json"))

    def write(found):
        (tmp_path / "costs.json").write_text(json.dumps({"costs": found}))
        ladder.costs.cache_clear()

    yield write
    monkeypatch.undo()
    ladder.costs.cache_clear()


def test_the_cheapest_rung_runs(two_rungs, costs):
    """By the model, for each direction and shape; picks by hand still win."""
    slow = {"forward": [1, 0, 0, 0, 0], "grad_x": [0, 0, 0, 1, 0]}
    fast = {"forward": [2, 0, 0, 0, 0], "grad_x": [5e3, 0, 0, 0, 0]}
    costs({"op": {"slow": slow, "fast": fast}})
    small, large = X.astype("float32"), np.zeros((1, 40, 40, 2), "float32")
    assert ladder.pick("op", small, W, "forward").name == "slow"
    assert ladder.pick("op", small, W, "grad_x").name == "slow"
    assert ladder.pick("op", large, W, "grad_x").name == "fast"
    assert ladder.pick("op", large.astype("float64"), W, "grad_x").name == "slow"
    with ladder.rung(op="fast"):
        assert ladder.pick("op", small, W, "forward").name == "fast"


def test_a_rung_without_costs_is_the_last_resort(two_rungs, costs):
    """One whose costs are known is preferred; where none are known, the highest runs."""
    costs({"op": {"slow": {"forward": [9, 0, 0, 0, 0]}}})
    assert ladder.pick("op", X.astype("float32"), W, "forward").name == "slow"
    assert ladder.pick("op", X.astype("float32"), W, "grad_w").name == "fast"


def test_work_counts_bytes_and_multiply_adds():
    """1, 4 x 4 pixels of 2 + 3 channels of 8 bytes, 3 x 3 x 2 x 3 weights of 8 bytes, and a product for each pixel and weight."""
    assert ladder.work(X, np.zeros((3, 3, 2, 3))) == (1, 16 * 5 * 8, 54 * 8, 2 * 16 * 54, 16 * 2 * 9 * 8)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", '{"costs": {"op": {"slow": {"forward": [1, 2]}}}}',
    '{"costs": {"op": {"slow": {"forward": [1, 2, -3, 4, 5]}}}}',
])
def test_a_damaged_file_of_costs(two_rungs, costs, text, tmp_path):
    """It is refused with its name and a way out."""
    costs({})
    (tmp_path / "costs.json").write_text(text)
    ladder.costs.cache_clear()
    with pytest.raises(ConfigError, match=r"costs\.json holds no costs of rungs: .*\. Delete it, or measure anew"):
        picked()


def test_where_the_costs_of_a_machine_are(monkeypatch, tmp_path):
    """TINYUNET_COSTS, or the user's cache folder; without a file, those that come with tinyunet."""
    monkeypatch.setenv("TINYUNET_COSTS", "/some/where.json")
    assert ladder.costs_file() == Path("/some/where.json")
    monkeypatch.delenv("TINYUNET_COSTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ladder.costs_file() == tmp_path / "tinyunet" / "costs.json"
    ladder.costs.cache_clear()
    assert set(ladder.costs()["conv3x3"]) == {"strips", "planes", "winograd1d", "winograd"}


@pytest.mark.parametrize(("c", "o", "side", "dtype", "wanted"), [
    (1, 64, 572, "float32", "planes"),
    (16, 16, 570, "float32", "winograd1d"),
    (32, 32, 282, "float32", "winograd1d"),
    (128, 128, 138, "float32", "winograd"),
    (1024, 1024, 30, "float32", "winograd"),
    (128, 128, 138, "float64", "strips"),
    (16, 16, 570, "complex128", "strips"),
    (1, 16, 570, "float64", "planes"),
])
def test_what_is_picked_by_the_costs_that_come_along(c, o, side, dtype, wanted, monkeypatch, tmp_path):
    """One channel: planes. Few: Winograd in one dimension. Many: in two. Not float32: the exact strips."""
    monkeypatch.setenv("TINYUNET_COSTS", str(tmp_path / "none"))
    ladder.costs.cache_clear()
    x, w = np.broadcast_to(np.zeros((), dtype), (1, side, side, c)), np.broadcast_to(np.zeros((), dtype), (3, 3, c, o))
    assert {ladder.pick("conv3x3", x, w, direction).name for direction in ("forward", "grad_x", "grad_w")} == {wanted}


def test_kernels_come_before_rungs_with_known_costs(two_rungs, monkeypatch):
    """Where kernels take the arrays the highest of them runs, whatever the CPU's rungs would cost; else those go on as before."""
    monkeypatch.setattr(ladder, "seconds", lambda op, name, *_: 1.0 if name == "slow" else float("inf"))
    takes = []
    for name in ("01", "02"):
        refuses = lambda x, w, name=name: None if name in takes else "not these"  # noqa: E731
        ladder.register("op", ladder.Rung(name, np.add, np.add, np.add, refuses, kernel=True))
    assert picked() == "slow"
    takes.append("01")
    assert picked() == "01"
    takes.append("02")
    assert picked() == "02"


def test_the_kernels_are_on_top_of_the_ladders():
    """Those of CUDA stand above those of the CPU, from the naive one on, and refuse NumPy's arrays outside `emulated`."""
    names = ladder.rungs("conv3x3")
    assert names.index("winograd") + 1 == names.index("01_naive")
    assert names.index("06_pipelined") < names.index("08_mma_3xtf32_pipe")
    assert not [name for name in ladder.able("conv3x3", X.astype("float32"), W.astype("float32")) if name[0].isdigit()]


def test_a_precision_picks_the_fastest_rungs_that_have_it():
    """By its name, for the whole network; another name is refused."""
    x, w = X.astype("float32"), W.astype("float32")
    x = np.concatenate((x, x, x), axis=3)
    w = np.concatenate((w, w, w), axis=2)
    with tinyunet.cuda.emulated():
        assert ladder.pick("conv3x3", x, w).name == "08_mma_3xtf32_pipe"
        for precision, conv, upconv in (("fp32", "06_pipelined", "02_gemm"), ("tf32", "08_mma_tf32_pipe", "03_mma_tf32")):
            with tinyunet.cuda.precision(precision):
                assert ladder.pick("conv3x3", x, w).name == conv
                assert ladder.pick("upconv2x2", x, w).name == upconv
    with pytest.raises(ConfigError, match=r"precision 'bf16' is unknown\. Choose one of: fp32, tf32, 3xtf32"):
        tinyunet.cuda.precision("bf16").__enter__()
