"""The gradients of the 3x3 convolution, emulated: each rung agrees with the loops in any order, and the checker finds nothing."""

import re

import numpy as np
import pytest

from tinyunet.cuda import conv3x3, conv3x3_gradients, emulated, runtime, sums, tiles
from tinyunet.cuda.source import kernels_folder
from tinyunet.errors import ConfigError
from tinyunet.rungs import loops

every_rung = pytest.mark.parametrize("rung", conv3x3_gradients.GRAD_W)
# N, H, W, C, O, pad: one pixel, one channel; sizes that are no multiples of a tile, of 4, of 2; several tiles across and down
SHAPES = [(2, 11, 19, 5, 9, 1), (1, 3, 3, 1, 1, 0), (3, 1, 1, 2, 3, 1), (2, 10, 7, 12, 33, 0), (1, 9, 18, 8, 68, 1)]


def arguments(rng, n, h, w, c, o, pad):
    """x, dy in float32, and dw of the loops in float64."""
    x = rng.standard_normal((n, h, w, c), np.float32)
    dy = rng.standard_normal((n, h + 2 * pad - 2, w + 2 * pad - 2, o), np.float32)
    return x, dy, loops.conv_grad_w(x.astype(np.float64), dy.astype(np.float64), 3, pad)


def error(v, wanted):
    """||v - wanted|| / ||wanted||"""
    return np.linalg.norm(v - wanted) / np.linalg.norm(wanted)


def limit(rung):
    """The error that a rung may have, by its precision."""
    return 5e-6 if "3xtf32" in rung else 6e-4 if "tf32" in rung else 2e-6


@pytest.fixture
def three_splits(monkeypatch):
    """Sums are cut in three, however short they are."""
    monkeypatch.setattr(tiles, "splits", lambda steps, tiles, slots: (min(3, steps), -(-steps // 3)))


@every_rung
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grad_w_agrees_with_the_loops(rung, shape, compiler, poisoned, rng):
    """Within the precision of the rung, every weight written, and no problem found, also where tiles hang over the edges."""
    x, dy, wanted = arguments(rng, *shape)
    with emulated(mode="check") as run:
        dw = conv3x3_gradients.grad_w(rung, x, dy, shape[-1])
    assert not run.problems
    assert dw.shape == wanted.shape
    assert error(dw, wanted) < limit(rung)


@pytest.mark.parametrize("rung", [r for r in conv3x3_gradients.GRAD_W if r >= "03"])
def test_a_sum_in_splits_is_the_same_sum(rung, compiler, poisoned, three_splits, rng):
    """Three splits, the last one shorter: the same gradient, and nothing found in either pass."""
    x, dy, wanted = arguments(rng, 2, 11, 19, 5, 9, 1)
    with emulated(mode="check") as run:
        dw = conv3x3_gradients.grad_w(rung, x, dy, 1)
    assert not run.problems
    assert len(run.reports) == 2
    assert error(dw, wanted) < limit(rung)


@pytest.mark.parametrize("rung", [r for r in conv3x3_gradients.GRAD_W if r != "01_naive_atomics"])
def test_every_order_of_threads_gives_the_same_grad_w(rung, compiler, three_splits, rng):
    """In index, reverse and random order: bit for bit one result."""
    x, dy, _ = arguments(rng, 2, 6, 9, 5, 9, 1)
    results = []
    for options in ({}, {"schedule": "reverse"}, *({"schedule": "random", "seed": s} for s in range(3))):
        with emulated(**options):
            results.append(conv3x3_gradients.grad_w(rung, x, dy, 1))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_atomics_give_a_sum_that_depends_on_the_order(compiler, rng):
    """What the head of 01 warns of is seen: another order, other last bits, and both right."""
    x, dy, wanted = arguments(rng, 2, 6, 9, 5, 9, 1)
    with emulated():
        first = conv3x3_gradients.grad_w("01_naive_atomics", x, dy, 1)
    with emulated(schedule="reverse"):
        second = conv3x3_gradients.grad_w("01_naive_atomics", x, dy, 1)
    assert not np.array_equal(first, second)
    assert max(error(first, wanted), error(second, wanted)) < 2e-6


def test_pack_flips_and_swaps(compiler, poisoned, rng):
    """packed[r,s,o,c] = w[2-r,2-s,c,o], over the edges of its tiles, without a problem."""
    w = rng.standard_normal((3, 3, 37, 33), np.float32)
    with emulated(mode="check") as run:
        packed = conv3x3_gradients.pack(w)
    assert not run.problems
    np.testing.assert_array_equal(packed, w[::-1, ::-1].swapaxes(2, 3))


@pytest.mark.parametrize("rung", conv3x3.RUNGS)
@pytest.mark.parametrize("shape", [(2, 7, 10, 5, 9, 0), (1, 4, 5, 3, 6, 1), (3, 1, 1, 2, 3, 1)], ids=str)
def test_grad_x_agrees_with_the_loops(rung, shape, compiler, rng):
    """Every rung of forward is a gradient by input: of valid (pad' = 2) and of same (pad' = 1) convolutions."""
    n, h, w, c, o, pad = shape
    dy = rng.standard_normal((n, h + 2 * pad - 2, w + 2 * pad - 2, o), np.float32)
    k = rng.standard_normal((3, 3, c, o), np.float32)
    wanted = loops.conv_grad_x(dy.astype(np.float64), k.astype(np.float64), pad)
    with emulated(mode="check") as run:
        dx = conv3x3_gradients.grad_x(rung, dy, k, pad)
    assert not run.problems
    assert dx.shape == (n, h, w, c)
    assert error(dx, wanted) < limit(rung)


@pytest.mark.parametrize("pair", conv3x3_gradients.GRAD_W_OF.items(), ids="-".join)
def test_the_gradients_are_adjoints_of_forward(pair, compiler, rng):
    """<dy, forward(x, w)> = <grad_x(dy, w), x> = <grad_w(x, dy), w>, as far as the precision goes."""
    rung, rung_w = pair
    x, k = rng.standard_normal((2, 6, 7, 5), np.float32), rng.standard_normal((3, 3, 5, 9), np.float32)
    dy = rng.standard_normal((2, 4, 5, 9), np.float32)
    with emulated():
        y = conv3x3.forward(rung, x, k, 0)
        dx = conv3x3_gradients.grad_x(rung, dy, k, 0)
        dw = conv3x3_gradients.grad_w(rung_w, x, dy, 0)
    products = [np.vdot(a.astype(np.float64), b) for a, b in ((dy, y), (dx, x), (dw, k))]
    scale = np.linalg.norm(dy) * np.linalg.norm(y)
    assert np.ptp(products) < max(limit(rung), limit(rung_w)) * scale
    assert abs(products[0]) > 0.01 * scale  # or else it would say nothing


def test_what_the_rungs_ask_of_the_memory(compiler, rng):
    """The counts that the heads of the files claim, for 64 channels; no bank twice, no sector for nothing from 03 on."""
    x, dy, _ = arguments(rng, 1, 4, 10, 64, 64, 0)
    products, counts = 2 * 8 * 9 * 64 * 64, {}
    for rung in conv3x3_gradients.GRAD_W:
        with emulated(mode="trace") as run:
            conv3x3_gradients.grad_w(rung, x, dy, 0)
        totals = run.reports[0].totals
        counts[rung] = (totals.global_loads / products, totals.shared_loads / products, totals.global_atomics / products)
        if rung >= "03":
            assert all(line.ratio == 1 for line in run.reports[0].lines), run.reports[0]
    assert counts["01_naive_atomics"] == (1 + 1 / 576, 0, 1)
    assert counts["02_block_reduction"] == (2, 7 * 32 * 1152 / products, 0)
    # a vector of 4 is one load; 64x64 tiles load 128 values for 4096 products, 192x64 tiles 256 for 12288
    assert counts["03_split_k"] == (128 / 4 / 4096, 4 / 64, 0)
    assert counts["04_mma_tf32"] == counts["04_mma_3xtf32"] == (128 / 4 / 4096, 1 / 16, 0)
    assert counts["05_mma_tf32_pipe"] == (256 / 4 / 12288, 1 / 32, 0)
    assert counts["05_mma_3xtf32_pipe"] == (256 / 4 / 12288, 3 / 64, 0)
    readme = (kernels_folder() / "README.md").read_text()
    for rung in ("03_split_k", "04_mma_tf32", "05_mma_tf32_pipe"):
        loads, shared, _ = counts[rung]
        assert re.search(rf"`{rung}` .* \| {loads:.3g} \| 16 \| {shared:.3g}[ ,]", readme), rung
    assert f"in 3xTF32 {counts['05_mma_3xtf32_pipe'][1]:.3g} |" in readme


def test_splits_fill_the_gpu():
    """Few tiles are split, many are not; the splits cover all steps, none is empty, and never more of them than steps."""
    assert tiles.splits(20000, 3, 264) == (88, 228)
    assert tiles.splits(49, 576, 264) == (1, 49)
    for steps in (1, 2, 7, 100, 5000):
        for count in (1, 5, 300):
            splits, each = tiles.splits(steps, count, 264)
            assert (splits - 1) * each < steps <= splits * each


def test_sms_decides_the_splits(compiler, monkeypatch, rng):
    """The same `sms` gives the same bits on any GPU; another number cuts the sum elsewhere."""
    x, dy, wanted = arguments(rng, 1, 40, 40, 2, 3, 1)
    with emulated() as run:
        one, many = (conv3x3_gradients.grad_w("03_split_k", x, dy, 1, sms=sms) for sms in (1, 132))
        monkeypatch.setattr(runtime, "EMULATED_MULTIPROCESSORS", 1)
        again = conv3x3_gradients.grad_w("03_split_k", x, dy, 1, sms=132)
    assert len(run.reports) == 6  # all in two passes
    assert not np.array_equal(one, many)
    np.testing.assert_array_equal(many, again)
    assert max(error(one, wanted), error(many, wanted)) < 2e-6


def test_a_rung_that_there_is_not(rng):
    """The error lists those that there are."""
    x, dy, _ = arguments(rng, 1, 3, 3, 1, 1, 0)
    with pytest.raises(ConfigError, match=r"the gradient by weight has no rung '09_magic'. Choose one of: 01_naive_atomics, "):
        conv3x3_gradients.grad_w("09_magic", x, dy, 0)


def test_the_gradient_of_a_bias_is_a_sum_of_columns(compiler, poisoned, rng):
    """db[o] is the sum of dy over images and pixels, within float32, in the same order every time."""
    dy = rng.standard_normal((2, 13, 17, 9), np.float32)
    with emulated(mode="check", schedule="random") as run:
        db = sums.column_sums(dy)
    assert not run.problems
    assert error(db, dy.sum((0, 1, 2), np.float64)) < 2e-6
