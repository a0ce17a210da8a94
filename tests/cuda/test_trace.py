"""Trace mode: sectors, bank passes and totals of one request, equal to what is counted by hand."""

import numpy as np
import pytest


def trace(kernel, name, *args, shared_mem=0):
    """The lines of one warp's launch, by array and kind."""
    report = kernel("access", name)((1,), (32,), args, shared_mem, mode="trace")
    return {(line.array, line.kind): line for line in report.lines}, report


# (stride, offset) in floats -> sectors, ideal: 32 lanes ask for 128 bytes, 4 sectors, if they ask for different ones
@pytest.mark.parametrize(("stride", "offset", "sectors", "ideal"), [
    (1, 0, 4, 4),      # coalesced
    (1, 1, 5, 4),      # the same, not aligned: a sector more
    (2, 0, 8, 4),      # every other float: half of each sector is wasted
    (8, 0, 32, 4),     # a sector for every lane
    (33, 5, 32, 4),
    (0, 3, 1, 1),      # one address for all: a broadcast
])  # fmt: skip
def test_sectors_of_global_loads(stride, offset, sectors, ideal, kernel):
    """A request moves every 32-byte sector that a lane touches, once."""
    x, y = np.zeros(1100, np.float32), np.zeros(32, np.float32)
    lines, report = trace(kernel, "global_strided", y, x, np.int32(stride), np.int32(offset))
    line = lines["x", "load"]
    assert (line.requests, line.lanes, line.sectors, line.passes, line.ideal) == (1, 32, sectors, 0, ideal)
    assert line.ratio == sectors / ideal
    np.testing.assert_array_equal(line.offsets, 4 * (np.arange(32) * stride + offset))
    assert lines["y", "store"].sectors == 4
    assert report.totals == (32, 32, 0, 0, 0, 0)
    assert (line.file, line.code.strip()) == ("access.cu", "float v = x[threadIdx.x * stride + offset];")


def test_a_vector_is_one_access_of_16_bytes(kernel):
    """float4: 32 lanes ask for 512 bytes, 16 sectors, in one load and one store each."""
    x = np.arange(128, dtype=np.float32)
    y = np.zeros_like(x)
    lines, report = trace(kernel, "global_float4", y, x)
    assert [(lines[key].size, lines[key].sectors, lines[key].ideal) for key in lines] == [(16, 16, 16)] * 2
    assert report.totals[:2] == (32, 32)
    np.testing.assert_array_equal(y, x)


# Word w lies in bank w % 32; lanes that want different words of one bank wait for one another
@pytest.mark.parametrize(("stride", "passes"), [(1, 1), (2, 2), (4, 4), (32, 32), (33, 1), (0, 1), (3, 1)])
def test_passes_over_the_banks(stride, passes, kernel):
    """1-, 2- and 32-way bank conflicts; an odd stride has none, and one word for all is a broadcast."""
    y = np.zeros(32, np.float32)
    lines, _ = trace(kernel, "shared_strided", y, np.int32(stride))
    line = lines["shared", "load"]
    assert (line.requests, line.passes, line.sectors, line.ideal) == (1, passes, 0, 1)
    assert lines["shared", "store"].passes == lines["shared", "store"].requests == 32
    np.testing.assert_array_equal(y, np.arange(32) * stride % 1024)


@pytest.mark.parametrize(("stride", "passes"), [(1, 4), (2, 8), (8, 32)])
def test_passes_of_vectors(stride, passes, kernel):
    """16 bytes a lane take four passes at best, a quarter of the warp each; every other vector takes twice as many."""
    lines, _ = trace(kernel, "shared_float4", np.zeros(32, np.float32), np.int32(stride))
    assert (lines["shared", "load"].passes, lines["shared", "load"].ideal) == (passes, 4)
    assert lines["shared", "load"].size == 16


def test_dynamic_shared_memory_has_the_same_banks(kernel):
    """A column of a 32-wide array is a 32-way conflict, of a 33-wide one none."""
    for stride, passes in ((32, 32), (33, 1)):
        lines, _ = trace(kernel, "shared_column", np.zeros(32, np.float32), np.int32(stride), shared_mem=33 * 32 * 4)
        assert lines["shared", "load"].passes == lines["shared", "store"].passes == passes


def test_one_block_or_all(kernel):
    """Lines count the traced block; totals count the launch."""
    x = np.zeros(256)
    scale = kernel("access", "scale<2>")
    both = [scale((4,), (64,), (x.copy(), x, np.int32(256)), mode="trace", **o) for o in ({}, {"trace_block": (2,)})]
    assert [r.lines[0].requests for r in both] == [8, 2]
    assert [r.totals.global_loads for r in both] == [256, 256]
    assert both[1].lines[0].offsets[0] == 2 * 64 * 8


def test_the_table(kernel):
    """str(report): a row for each line and array, with cost, ideal and their ratio."""
    _, report = trace(kernel, "global_strided", np.zeros(32, np.float32), np.zeros(1100, np.float32), np.int32(2), np.int32(0))
    rows = [row.split() for row in str(report).splitlines()]
    assert rows[1] == ["line", "array", "bytes", "requests", "cost", "ideal", "ratio"]
    assert rows[2] == ["access.cu:3", "load", "x", "4", "1", "8", "sectors", "4", "2.00"]
    assert str(report).splitlines()[-1] == "32 global loads, 32 global stores"
