"""The ladder of 3x3 convolutions, emulated: each rung agrees with the loops, in any order, and the checker finds nothing."""

import re

import numpy as np
import pytest

from tinyunet.cuda import conv3x3, emulated, emulator, runtime
from tinyunet.cuda.source import kernels_folder
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.rungs import loops

every_rung = pytest.mark.parametrize("rung", conv3x3.RUNGS)
WITH_EPILOGUE = [rung for rung in (*conv3x3.RUNGS, "first_layer") if rung >= "04"]
# N, H, W, C, O, pad: sizes that are no multiples of a tile, one pixel, one channel, pad 2 as for gradients; channels that are
# multiples of 4, so that 16 bytes are moved, and others; O above and below 64, which is where tiles change
SHAPES = [(2, 11, 19, 5, 9, 1), (1, 3, 3, 1, 1, 0), (3, 1, 1, 2, 3, 1), (2, 10, 7, 9, 33, 0), (1, 9, 18, 8, 40, 1),
          (1, 6, 5, 20, 132, 2), (1, 5, 8, 17, 70, 2)]  # fmt: skip


def arguments(rng, n, h, w, c, o, pad):
    """x and w in float32, and y of the loops in float64."""
    x, k = rng.standard_normal((n, h, w, c), np.float32), rng.standard_normal((3, 3, c, o), np.float32)
    return x, k, loops.conv_forward(x.astype(np.float64), k.astype(np.float64), pad)


def error(y, wanted):
    """||y - wanted|| / ||wanted||"""
    return np.linalg.norm(y - wanted) / np.linalg.norm(wanted)


def limit(rung):
    """The error that a rung may have, by its precision."""
    return 5e-6 if "3xtf32" in rung else 6e-4 if "tf32" in rung else 2e-6


@every_rung
@pytest.mark.parametrize("shape", [*SHAPES[:5], pytest.param(SHAPES[5], marks=pytest.mark.slow), SHAPES[6]], ids=str)
def test_a_rung_agrees_with_the_loops(rung, shape, compiler, poisoned, rng):
    """Within its precision of float64, every output written, and no problem found, also where tiles hang over the edges."""
    x, w, wanted = arguments(rng, *shape)
    with emulated(mode="check") as run:
        y = conv3x3.forward(rung, x, w, shape[-1])
    assert not run.problems
    assert y.shape == wanted.shape
    assert error(y, wanted) < limit(rung)


@pytest.mark.parametrize("shape", [(2, 9, 21, 1, 70, 1), (1, 4, 3, 1, 3, 0), (3, 1, 1, 2, 8, 1), (1, 7, 70, 3, 5, 2),
                                   (1, 8, 9, 4, 64, 0)], ids=str)  # fmt: skip
def test_the_first_layer_agrees_with_the_loops(shape, compiler, poisoned, monkeypatch, rng):
    """Forward and gradient by weight, for 1 to 4 channels; at most two blocks add, so that they have several pieces each."""
    monkeypatch.setattr(conv3x3, "_PARTS", 2)
    x, w, wanted = arguments(rng, *shape)
    dy = rng.standard_normal(wanted.shape, np.float32)
    with emulated(mode="check") as run:
        y, dw = conv3x3.forward("first_layer", x, w, shape[-1]), conv3x3.first_layer_grad_w(x, dy, shape[-1])
    assert not run.problems
    assert error(y, wanted) < 2e-6
    assert error(dw, loops.conv_grad_w(x.astype(np.float64), dy.astype(np.float64), 3, shape[-1])) < 2e-6


@pytest.mark.parametrize(("rung", "splits"), [*((rung, None) for rung in WITH_EPILOGUE), ("08_mma_tf32_pipe", 3),
                                              ("08_mma_3xtf32_pipe", 3)])  # fmt: skip
def test_bias_and_relu_come_for_free(rung, splits, compiler, poisoned, rng):
    """y = max(0, conv + b), either or both, in one pass or after the splits of 08 have been added; a NaN stays one."""
    for c, o in ((3, 9), (4, 12)):  # one float at a time, and four
        x, w, wanted = arguments(rng, 1, 6, 7, c, o, 1)
        b = rng.standard_normal(o, np.float32)
        with emulated(mode="check") as run:
            for bias, relu in ((b, False), (None, True), (b, True)):
                y = conv3x3.forward(rung, x, w, 1, bias, relu, splits)
                expected = wanted if bias is None else wanted + b
                assert error(y, np.maximum(expected, 0) if relu else expected) < limit(rung)
            x[0, 0, 0, 0] = np.nan
            y = conv3x3.forward(rung, x, w, 1, b, True, splits)
        assert not run.problems
        assert np.isnan(y[0, :2, :2]).all()
        assert not np.isnan(y[0, 2:]).any()


@every_rung
def test_every_order_of_threads_gives_the_same(rung, compiler, rng):
    """In index, reverse and random order: bit for bit one result."""
    x, w, wanted = arguments(rng, 2, 11, 19, 5, 9, 1)
    results = []
    for options in ({}, {"schedule": "reverse"}, *({"schedule": "random", "seed": s} for s in range(3))):
        with emulated(**options):
            results.append(conv3x3.forward(rung, x, w, 1))
    assert error(results[0], wanted) < limit(rung)
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.slow
def test_both_ways_of_switching_threads_give_the_same(compiler, monkeypatch, rng):
    """By ucontext, which other processors use, as by our own switch."""
    x, w, _ = arguments(rng, 2, 11, 19, 5, 9, 1)
    for rung in ("03_halo_tile", "08_mma_3xtf32_pipe"):
        y = conv3x3.forward(rung, x, w, 1)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "_emulator_module", lambda file: emulator.load(file, portable=True))
            np.testing.assert_array_equal(conv3x3.forward(rung, x, w, 1), y)


@pytest.mark.parametrize("splits", [2, 5, 9, 11])
def test_a_sum_in_splits_is_the_same_sum(splits, compiler, poisoned, rng):
    """18 pieces in 2, 5, 9 and 11 splits, some of them shorter, two of 11 empty; every split written; in any order the same."""
    x, w, wanted = arguments(rng, 1, 5, 6, 20, 70, 1)
    for rung in ("08_mma_tf32_pipe", "08_mma_3xtf32_pipe"):
        with emulated(mode="check", schedule="random", seed=1) as run:
            y = conv3x3.forward(rung, x, w, 1, splits=splits)
        assert not run.problems
        assert len(run.reports) == 2
        assert error(y, wanted) < limit(rung)
        np.testing.assert_array_equal(conv3x3.forward(rung, x, w, 1, splits=splits), y)


def test_3xtf32_has_the_accuracy_of_float32_also_where_nothing_cancels(compiler, rng):
    """Positive factors, as after a ReLU: what 3xTF32 leaves out has one sign, and still is no more than float32 rounds."""
    x, w = rng.random((1, 6, 7, 64), np.float32), rng.random((3, 3, 64, 8), np.float32)
    wanted = loops.conv_forward(x.astype(np.float64), w.astype(np.float64), 0)
    errors = {rung: error(conv3x3.forward(rung, x, w, 0), wanted) for rung in conv3x3.RUNGS}
    assert errors["08_mma_3xtf32_pipe"] < 1e-6
    assert errors["08_mma_tf32_pipe"] > 1e-5


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_3xtf32_takes_large_and_small_numbers(scale, compiler, rng):
    """The exponents of TF32 are those of float32."""
    x, w, wanted = arguments(rng, 1, 4, 4, 8, 8, 0)
    y = conv3x3.forward("08_mma_3xtf32_pipe", x * np.float32(scale), w, 0)
    assert error(y, wanted * scale) < 5e-6


def test_arrays_that_start_anywhere(compiler, rng):
    """Rules ask where arrays of a GPU start: 16 bytes at a time are moved only from multiples of 16."""
    x, w, wanted = arguments(rng, 1, 4, 4, 8, 8, 0)

    class OnGpu:
        """What the rule asks of an array of CuPy."""

        def __init__(self, shape, ptr):
            self.shape, self.data = shape, type("Memory", (), {"ptr": ptr})

    for ptr, wide in ((256, "true"), (260, "false")):
        launch = conv3x3.rule("05_register_tile", OnGpu(x.shape, ptr), OnGpu(w.shape, 512), wanted)
        assert launch.kernel == f"conv3x3<{wide}>"


def test_the_ladder_asks_less_of_the_memory_from_rung_to_rung(compiler, rng):
    """What the heads of the files claim, counted, for 128 pixels, 16 channels in and 128 out: full tiles everywhere."""
    x, w, _ = arguments(rng, 1, 10, 18, 16, 128, 0)
    products, inner, counts = 128 * 128 * 9 * 16, {}, {}
    for rung in conv3x3.RUNGS:
        with emulated(mode="trace") as run:
            conv3x3.forward(rung, x, w, 0, splits=1)
        (report,) = run.reports
        counts[rung] = report.totals.global_loads / products, report.totals.shared_loads / products
        inner[rung] = {line.array: line for line in report.lines if line.kind == "load"}
        if rung >= "02":  # no sector for nothing, and no bank twice; but 07 stores single floats, two lanes to a sector
            assert all(line.ratio == 1 for line in report.lines if (rung[:2], line.array) != ("07", "y")), report
    sectors = {rung: [inner[rung][a].sectors / inner[rung][a].requests for a in "xw"] for rung in conv3x3.RUNGS}
    assert counts["01_naive"] == counts["02_coalesced"] == (2, 0)
    assert sectors["01_naive"] == [32, 1]
    assert sectors["02_coalesced"] == [1, 4]
    assert counts["03_halo_tile"] == (2 * 4 * 100 * 16 / products + 1 / 8, 10 / 24)  # 2 tiles with halos for 4 groups of channels
    assert counts["04_implicit_gemm"] == (1 / 32, 12 / 32)
    assert counts["05_register_tile"] == counts["06_pipelined"] == (1 / 256, 4 / 64)
    assert counts["07_mma_tf32"] == (1 / 256, 24 / 512)
    assert counts["08_mma_tf32_pipe"] == (1 / 256, 32 / 1024)
    assert counts["08_mma_3xtf32_pipe"] == (1 / 256, 24 / 512)
    assert sectors["05_register_tile"] == sectors["08_mma_tf32_pipe"] == [16, 16]
    loads = [count[0] for count in counts.values()]
    assert loads == sorted(loads, reverse=True)


def test_the_first_layer_moves_each_result_once(compiler, rng):
    """Stores are whole sectors; of x, 10 loads serve 8 pixels of 4 channels for three taps."""
    x, w, wanted = arguments(rng, 1, 10, 18, 1, 64, 0)
    with emulated(mode="trace") as run:
        conv3x3.forward("first_layer", x, w, 0)
    lines = {(line.array, line.kind): line for line in run.reports[0].lines}
    assert (lines["y", "store"].sectors, lines["y", "store"].ratio) == (wanted.size * 4 // 32, 1)
    assert lines["x", "load"].lanes == wanted.size // 32 * 30


def test_what_is_picked():
    """The fastest with the accuracy of float32: tensor cores from sm_80 on, and the first layer's own kernel."""
    w, grey, deep = np.zeros((3, 3, 1, 64)), np.zeros((1, 9, 9, 1)), np.zeros((1, 9, 9, 64))
    assert [conv3x3.pick(deep, w, arch) for arch in (75, 80, 90, 120)] == ["06_pipelined", *["08_mma_3xtf32_pipe"] * 3]
    assert conv3x3.pick(grey, w, 75) == conv3x3.pick(grey, w, 90) == "first_layer"


def test_what_does_not_fit_is_refused(rng):
    """Before a kernel could read past an array: which shapes came, and what to do."""
    x, w, _ = arguments(rng, 1, 5, 5, 6, 3, 0)
    with pytest.raises(ConfigError, match=r"the rung '09_magic' is unknown. Choose one of: 01_naive, .*, first_layer\."):
        conv3x3.forward("09_magic", x, w, 0)
    with pytest.raises(ConfigError, match=r"'first_layer' is for 1 to 4 channels, x has 6. Use one of 01_naive, "):
        conv3x3.forward("first_layer", x, w, 0)
    with pytest.raises(ConfigError, match=r"'02_coalesced' adds no bias and takes no ReLU. .* use a rung from 04 on"):
        conv3x3.forward("02_coalesced", x, w, 0, relu=True)
    with pytest.raises(ShapeError, match=r"x has shape \(1, 5, 5, 6\), w \(3, 3, 5, 3\), b None. Give w of \(3, 3, 6, O\)"):
        conv3x3.forward("06_pipelined", x, w[:, :, 1:], 0)
    with pytest.raises(ShapeError, match=r"b \(2,\)"):
        conv3x3.forward("06_pipelined", x, w, 0, np.zeros(2, np.float32))
    for pad, pixels in ((3, x), (0, x[:, :2])):
        with pytest.raises(ShapeError, match=rf"with pad {pad} leave no output. Use pad 0, 1 or 2, and 3x3 pixels with it"):
            conv3x3.forward("06_pipelined", pixels, w, pad)


def test_the_readme_shows_what_is_true(compiler):
    """Its example runs, and the trace that it shows is the emulator's; benchmarks/trace_kernels.py --check looks at its table."""
    readme = (kernels_folder() / "README.md").read_text()
    names = {}
    exec(readme.split("```python\n")[1].split("```")[0].replace("print(report)", ""), names)
    assert names["report"].ok
    x, w = names["x"], names["w"]
    assert error(names["y"], loops.conv_forward(x.astype(np.float64), w.astype(np.float64), 0)) < 2e-6
    with emulated(mode="trace") as run:
        conv3x3.forward("01_naive", x, w, 0)
    assert str(run.reports[0]) in readme


def test_the_readme_plants_a_bug_that_is_found(compiler, tmp_path, monkeypatch, capsys):
    """The line that it leaves out is the barrier of which it speaks, and the report that it shows is the emulator's."""
    readme = (kernels_folder() / "README.md").read_text()
    number = int(re.search(r"`sed (\d+)d kernels/conv3x3/03_halo_tile.cu > mine.cu`", readme)[1])
    lines = (kernels_folder() / "conv3x3" / "03_halo_tile.cu").read_text().splitlines()
    barriers = [i for i, line in enumerate(lines, 1) if "__syncthreads()" in line]
    assert barriers[1] == number
    (tmp_path / "mine.cu").write_text("\n".join(lines[: number - 1] + lines[number:]))
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in readme.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    clean, planted = capsys.readouterr().out.split("conv3x3 (check): ")[1:]
    assert clean.startswith("no problems found")
    assert planted.startswith("2 problems found")
    assert planted.strip() in readme
    tile = np.arange(10 * 10 * 8).reshape(10, 10, 8)
    assert tile[3, 2, 0] * 4 == 1024  # the byte that the page takes apart
