"""The up-convolution, forward and both gradients, emulated: each rung agrees with the loops, and the checker finds nothing."""

import numpy as np
import pytest

from tinyunet.cuda import emulated, runtime, tiles, upconv2x2
from tinyunet.cuda.source import kernels_folder
from tinyunet.errors import ConfigError
from tinyunet.rungs import loops

every_rung = pytest.mark.parametrize("rung", upconv2x2.RUNGS)
# N, H, W, C, O: one pixel, one channel; sizes that are no multiples of a tile, of 4, of 2
SHAPES = [(2, 5, 7, 5, 3), (1, 1, 1, 1, 1), (3, 3, 2, 8, 6), (1, 9, 8, 68, 20)]


def arguments(rng, n, h, w, c, o):
    """x, w, b, dy in float32."""
    return tuple(rng.standard_normal(shape, np.float32) for shape in ((n, h, w, c), (2, 2, o, c), (o,), (n, 2 * h, 2 * w, o)))


def error(v, wanted):
    """||v - wanted|| / ||wanted||"""
    return np.linalg.norm(v - wanted) / np.linalg.norm(wanted)


def limit(rung):
    """The error that a rung may have, by its precision."""
    return 5e-6 if "3xtf32" in rung else 6e-4 if "tf32" in rung else 2e-6


def agree(rung, x, w, b, dy):
    """All directions against the loops in float64, in check mode."""
    with emulated(mode="check") as run:
        got = (upconv2x2.forward(rung, x, w), upconv2x2.forward(rung, x, w, b, relu=True), upconv2x2.grad_x(rung, dy, w),
               upconv2x2.grad_w(rung, x, dy))  # fmt: skip
    assert not run.problems
    x, w, b, dy = (a.astype(np.float64) for a in (x, w, b, dy))
    y = loops.upconv_forward(x, w)
    for v, wanted in zip(got, (y, np.maximum(y + b, 0), loops.upconv_grad_x(dy, w), loops.upconv_grad_w(x, dy)), strict=True):
        assert v.shape == wanted.shape
        assert np.abs(v - wanted).max() == 0 or error(v, wanted) < limit(rung)


@every_rung
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rung_agrees_with_the_loops(rung, shape, compiler, poisoned, rng):
    """Forward, with and without bias and ReLU, and both gradients: within the precision, all written, no problem found."""
    agree(rung, *arguments(rng, *shape))


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["03_mma_tf32", "03_mma_3xtf32"])
@pytest.mark.parametrize("shape", [(1, 9, 15, 136, 36), (1, 2, 70, 12, 18)], ids=str)
def test_large_tiles_agree_too(rung, shape, compiler, poisoned, monkeypatch, rng):
    """Tiles of 128x128 and 128x64, which the launcher takes where there is enough for every multiprocessor."""
    monkeypatch.setattr(runtime, "EMULATED_MULTIPROCESSORS", 2)
    agree(rung, *arguments(rng, *shape))


@every_rung
def test_every_order_of_threads_gives_the_same(rung, compiler, monkeypatch, rng):
    """In index, reverse and random order, grad_w in splits: bit for bit one result in all directions."""
    monkeypatch.setattr(tiles, "splits", lambda steps, tiles, slots: (min(2, steps), -(-steps // 2)))
    x, w, b, dy = arguments(rng, 2, 4, 5, 6, 3)
    first = None
    for options in ({}, {"schedule": "reverse"}, *({"schedule": "random", "seed": s} for s in range(3))):
        with emulated(**options):
            got = upconv2x2.forward(rung, x, w, b), upconv2x2.grad_x(rung, dy, w), upconv2x2.grad_w(rung, x, dy)
        first = first or got
        assert all(np.array_equal(a, b) for a, b in zip(first, got, strict=True))
    assert error(first[2], loops.upconv_grad_w(x.astype(np.float64), dy.astype(np.float64))) < limit(rung)


@every_rung
def test_the_gradients_are_adjoints_of_forward(rung, compiler, rng):
    """<dy, forward(x, w)> = <grad_x(dy, w), x> = <grad_w(x, dy), w>, as far as the precision goes."""
    x, w, _, dy = arguments(rng, 2, 3, 4, 5, 3)
    with emulated():
        y, dx, dw = upconv2x2.forward(rung, x, w), upconv2x2.grad_x(rung, dy, w), upconv2x2.grad_w(rung, x, dy)
    products = [np.vdot(a.astype(np.float64), b) for a, b in ((dy, y), (dx, x), (dw, w))]
    scale = np.linalg.norm(dy) * np.linalg.norm(y)
    assert np.ptp(products) < limit(rung) * scale
    assert abs(products[0]) > 0.01 * scale  # or else it would say nothing


def test_what_the_rungs_ask_of_the_memory(compiler, rng):
    """Loads for a product, as the heads of the files claim; in 03 no bank twice and no sector for nothing."""
    x, w, _, dy = arguments(rng, 1, 8, 16, 64, 32)
    products, counts = 128 * 128 * 64, {}
    for rung in upconv2x2.RUNGS:
        with emulated(mode="trace") as run:
            upconv2x2.forward(rung, x, w), upconv2x2.grad_x(rung, dy, w), upconv2x2.grad_w(rung, x, dy)
        reports = [r for r in run.reports if r.kernel.split("<")[0] in ("forward", "grad_x", "grad_w")]
        counts[rung] = {(r.totals.global_loads / products, r.totals.shared_loads / products) for r in reports}
        assert len(reports) == 3
        if rung.startswith("03"):
            assert all(line.ratio == 1 for r in reports for line in r.lines), reports
    assert counts["01_naive"] == {(2, 0)}
    assert counts["02_gemm"] == {(128 / 4 / 4096, 4 / 64)}  # a vector of 4 is one load
    assert counts["03_mma_tf32"] == {(128 / 4 / 4096, 1 / 32)}
    assert counts["03_mma_3xtf32"] == {(192 / 4 / 8192, 3 / 64), (128 / 4 / 4096, 3 / 64)}  # tiles of 128x64, in grad_w 64x64
    readme = (kernels_folder() / "README.md").read_text()
    assert readme.count(f"| {128 / 4 / 4096:.3g} | 16 | {1 / 32:.3g}, in 3xTF32 {3 / 64:.3g} |") == 1


def test_a_nan_is_not_hidden_by_relu(compiler, rng):
    """max(0, NaN) is NaN, as in NumPy."""
    x, w, b, _ = arguments(rng, 1, 1, 1, 2, 2)
    b[0] = np.nan
    with emulated():
        assert np.isnan(upconv2x2.forward("02_gemm", x, w, b, relu=True)[..., 0]).all()


def test_a_rung_that_there_is_not(rng):
    """The error lists those that there are."""
    x, w, _, _ = arguments(rng, 1, 1, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"upconv2x2: the rung 'magic' is unknown. Choose one of: 01_naive, 02_gemm, "):
        upconv2x2.forward("magic", x, w)
