"""The ladder of 3x3 convolutions, emulated: each rung agrees with the loops, in any order, and the checker finds nothing."""

import numpy as np
import pytest

from tinyunet.cuda import emulator
from tinyunet.cuda.source import kernels_folder
from tinyunet.rungs import loops

RUNGS = ("01_naive", "02_coalesced", "03_halo_tile")
every_rung = pytest.mark.parametrize("rung", RUNGS)
# N, H, W, C, O, pad: sizes that are no multiples of the tile, one pixel, one channel, more than one group of 32 channels
SHAPES = [(2, 11, 19, 5, 9, 1), (1, 3, 3, 1, 1, 0), (3, 1, 1, 2, 3, 1), (2, 10, 7, 9, 33, 0), (1, 9, 18, 8, 40, 1)]


def arguments(rng, n, h, w, c, o, pad):
    """x and w in float32, and y of the loops in float64."""
    x, k = rng.standard_normal((n, h, w, c), np.float32), rng.standard_normal((3, 3, c, o), np.float32)
    return x, k, loops.conv_forward(x.astype(np.float64), k.astype(np.float64), pad)


def error(y, wanted):
    """||y - wanted|| / ||wanted||"""
    return np.linalg.norm(y - wanted) / np.linalg.norm(wanted)


@every_rung
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rung_agrees_with_the_loops(rung, shape, conv3x3, rng):
    """Within 2e-6 of float64, every output written, and no problem found, also where tiles hang over the edges."""
    x, w, wanted = arguments(rng, *shape)
    y, report = conv3x3(rung, x, w, shape[-1], mode="check")
    assert report.ok, report
    assert error(y, wanted) < 2e-6


@every_rung
def test_every_order_of_threads_gives_the_same(rung, conv3x3, rng):
    """Fast, in index, reverse and random order, by either way of switching threads: bit for bit one result."""
    x, w, wanted = arguments(rng, 2, 11, 19, 5, 9, 1)
    first, _ = conv3x3(rung, x, w, 1)
    assert error(first, wanted) < 2e-6
    for options in ({"schedule": "reverse"}, *({"schedule": "random", "seed": s} for s in range(3)), {"portable": True}):
        y, _ = conv3x3(rung, x, w, 1, **options)
        np.testing.assert_array_equal(y, first)


def test_the_ladder_asks_less_of_the_memory_from_rung_to_rung(conv3x3, rng):
    """What the files claim, counted: 01 moves 33 sectors for a warp's multiply-add, 02 moves 5; 03 loads about 1/16 as often."""
    x, w, _ = arguments(rng, 1, 18, 18, 32, 32, 0)  # 256 pixels: every warp is full, no lane outside
    inner, loads = {}, {}
    for rung in RUNGS:
        _, report = conv3x3(rung, x, w, 0, mode="trace")
        loads[rung] = report.totals.global_loads
        inner[rung] = {line.array: line for line in report.lines if line.kind == "load"}
    products = 16 * 16 * 32 * 9 * 32
    assert loads["01_naive"] == loads["02_coalesced"] == 2 * products
    assert [inner["01_naive"][a].sectors / inner["01_naive"][a].requests for a in "xw"] == [32, 1]
    assert [inner["02_coalesced"][a].sectors / inner["02_coalesced"][a].requests for a in "xw"] == [1, 4]
    assert loads["03_halo_tile"] == 4 * 100 * 32 + products // 8  # 4 tiles with their halos once, each weight for 8 outputs
    assert inner["03_halo_tile"]["shared"].lanes == products * 10 // 24
    assert inner["03_halo_tile"]["shared"].ratio == 1  # all lanes read one word: no bank conflict
    assert inner["03_halo_tile"]["x"].ratio == 1  # 8 channels are a sector


@pytest.mark.parametrize("barrier", [0, 1])
def test_a_barrier_less_in_the_halo_tile_is_reported(barrier, compiler, tmp_path, rng):
    """With either __syncthreads() deleted, the checker names the race, and one of the lines that the barrier stood between."""
    text = (kernels_folder() / "conv3x3/03_halo_tile.cu").read_text()
    before, between, after = text.split("__syncthreads();")
    first, second = (";", "__syncthreads();") if barrier == 0 else ("__syncthreads();", ";")
    (tmp_path / "mutant.cu").write_text(before + first + between + second + after)
    x, w, wanted = arguments(rng, 1, 8, 8, 16, 4, 1)
    y = np.empty(wanted.shape, np.float32)
    kernel = emulator.load(tmp_path / "mutant.cu").get("conv3x3")
    report = kernel((1, 1, 1), (32, 8), (x, w, y, *(np.int32(v) for v in (1, 8, 8, 16, 4, 1))), mode="check")
    races = [f for f in report.findings if f.kind == "race"]
    assert races
    assert all("__syncthreads" in f.message and "tile[" in f.code for f in races)


def test_the_readme_shows_what_is_true(conv3x3, rng):
    """Its example runs, and the tables of a trace and of the ladder are those of the emulator."""
    readme = (kernels_folder() / "README.md").read_text()
    names = {}
    exec(readme.split("```python\n")[1].split("```")[0].replace("print(report)", ""), names)
    assert names["report"].ok
    x, w, products = names["x"], names["w"], 16 * 16 * 32 * 9 * 32
    assert error(names["y"], loops.conv_forward(x.astype(np.float64), w.astype(np.float64), 0)) < 2e-6
    assert str(conv3x3("01_naive", x, w, 0, mode="trace")[1]) in readme
    totals = conv3x3("03_halo_tile", x, w, 0, mode="trace")[1].totals
    assert f"| {totals.global_loads / products:.3f} | 4, 4 | {totals.shared_loads / products:.3f} |" in readme
