"""Check mode: each kernel of broken/ has one fault, and it is reported; without the fault nothing is."""

import re
from pathlib import Path

import numpy as np
import pytest

from tinyunet.cuda import emulator
from tinyunet.errors import CheckError

BROKEN = sorted((Path(__file__).parent / "broken").glob("*.cu"))
PROBLEM = re.compile(r"// problem: (.*)\n// launch: (\d+), (\d+)(?:, shared (\d+))?")
every_fault = pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)


@pytest.fixture
def launch(tmp_path):
    """Runs a kernel of broken/ as its second line says, as it is or mended: launch(file, right=False, mode=...)"""

    def run(file, right, **options):
        text = file.read_text()
        path = file
        if right:
            path = tmp_path / file.name
            path.write_text(text.replace("// launch", "#define RIGHT\n// launch"))
        _, grid, block, shared = PROBLEM.match(text).groups()
        n = {"one_too_far": 256, "return_before_barrier": 40}.get(file.stem, 64)
        y, x = np.zeros(256, np.float32), np.ones(260, np.float32)
        kernel = emulator.load(path).get("broken")
        return kernel((int(grid),), (int(block),), (y, x, np.int32(n)), int(shared or 0), **options)

    return run


def test_there_is_a_fault_for_every_kind_of_problem():
    """Whatever the checker can say has a kernel to which it must say it; a crash has tests of its own."""
    assert {PROBLEM.match(file.read_text())[1] for file in BROKEN} == set(emulator.PROBLEMS) - {"crash"}


@every_fault
def test_a_fault_is_reported_with_its_line(file, compiler, launch):
    """A problem of the right kind and no other, at the marked line, in any order of threads."""
    text = file.read_text()
    marked = 1 + text[: text.index("<-- here")].count("\n")
    for schedule in ("index", "reverse", "random"):
        report = launch(file, right=False, mode="check", schedule=schedule, seed=3)
        kind, kinds = PROBLEM.match(text)[1], {f.kind for f in report.findings}
        assert {kind} <= kinds <= {kind, "uninitialised read"}, report  # a race may let a read come before the first write
        places = [{(f.file, f.line), f.other} for f in report.findings if f.kind == kind]
        assert any((file.name, marked) in place for place in places), report
        assert all(f.code == text.splitlines()[f.line - 1] for f in report.findings)


@every_fault
def test_without_its_fault_a_kernel_is_not_accused(file, compiler, launch):
    """The same kernel, mended in the marked place: nothing is found, in any order of threads."""
    for schedule in ("index", "reverse", "random"):
        report = launch(file, right=True, mode="check", schedule=schedule, seed=3)
        assert report.ok, report


def finding(launch, name, **options):
    """The first finding in a broken kernel of the kind that it is there for."""
    file = next(f for f in BROKEN if f.stem == name)
    report = launch(file, right=False, mode="check", **options)
    return next(f for f in report.findings if f.kind == PROBLEM.match(file.read_text())[1])


@pytest.mark.parametrize(("name", "words"), [
    ("missing_barrier", r"writes shared memory at byte \d+, which thread \(\d+, 0, 0\) read at missing_barrier.cu:10"
                        r".*Is a __syncthreads\(\) missing\?"),
    ("missing_syncwarp", r"Is a __syncwarp\(\) missing\?"),
    ("blocks_add", r"reads y\[\d+\], which thread .* of block \(\d, 0, 0\).*use atomicAdd"),
    ("one_too_far", r"writes 4 bytes of y\[256\], which has elements 0 to 255"),
    ("minus_one", r"reads 4 bytes of x\[-1\], which has elements 0 to 259"),
    ("shared_too_small", r"writes 4 bytes of dynamic shared memory at byte 192: past the end"),
    ("wild_pointer", r"address 0x40, which is no memory of this kernel"),
    ("misaligned", r"reads 16 bytes at x\[1\], byte 4, which is no multiple of 16"),
    ("const_write", r"writes x\[0\], and the kernel declares it const"),
    ("uninitialised", r"reads shared memory at byte 252, which no thread of its block has written"),
    ("wait_too_few", r"a cp.async is still under way"),
    ("divergent_barrier", r"thread \(32, 0, 0\) of its block at the one at divergent_barrier.cu:11"),
    ("return_before_barrier", r"24 threads of its block have returned"),
    ("deadlock", r"32 threads wait at __syncthreads\(\), 32 in a warp collective at deadlock.cu:10"),
    ("two_masks", r"or with another mask"),
    ("absent_lane", r"needs lane 2[0-9] of its warp, which does not take part"),
    ("endless", r"20 million accesses"),
])  # fmt: skip
def test_a_message_says_what_and_what_to_do(name, words, compiler, launch):
    """The words: what was touched, who else did, and where, and what may be missing."""
    assert re.search(words, finding(launch, name).message), finding(launch, name)


def test_a_finding_names_block_and_thread(compiler, launch):
    """The first thread to go wrong, in x, y, z; and str(report) has it all, with the line of the source."""
    first = finding(launch, "one_too_far")
    assert (first.block, first.thread) == ((4, 0, 0), (0, 0, 0))
    report = launch(next(f for f in BROKEN if f.stem == "uninitialised"), right=False, mode="check")
    assert report.findings[0].thread == (63, 0, 0)
    assert str(report) == (
        "broken (check): 1 problem found\n"
        "uninitialised.cu:11: uninitialised read: block (0, 0, 0), thread (63, 0, 0): "
        "reads shared memory at byte 252, which no thread of its block has written.\n"
        "      11 | y[t] = s[t];  // <-- here\n"
        "63 global loads, 64 global stores, 64 shared loads, 63 shared stores")  # fmt: skip
    with pytest.raises(CheckError, match="1 problem found"):
        report.require_ok()


@pytest.mark.parametrize(("name", "kind"), [
    ("one_too_far", "crash"), ("wild_pointer", "crash"), ("const_write", None), ("shared_too_small", "crash"),
    ("deadlock", "deadlock"), ("two_masks", "collective mismatch"), ("absent_lane", "absent lane")])  # fmt: skip
def test_fast_mode_raises_where_a_kernel_cannot_go_on(name, kind, compiler, launch):
    """Without any check, the page behind an array still ends a run past it; a write to const does no harm outside."""
    file = next(f for f in BROKEN if f.stem == name)
    if kind is None:
        assert launch(file, right=False).ok
    else:
        with pytest.raises(CheckError, match=kind):
            launch(file, right=False)


def test_missing_barriers_are_silent_without_the_checker(compiler, launch):
    """Why check mode is there: in index order, fast mode gives no sign of a race."""
    assert launch(next(f for f in BROKEN if f.stem == "missing_second_barrier"), right=False).ok


def test_a_stack_that_overflows_is_told(kernel):
    """160 kB of local array do not fit; the message says so, and the next launch runs as if nothing had been."""
    deep = kernel("access", "deep")
    for _ in range(2):
        with pytest.raises(CheckError, match="stack overflowed: local arrays and recursion have 64 KiB"):
            deep((1,), (1,), (np.zeros(1, np.float32), np.int32(3)))
    y = np.zeros(64, np.float32)
    kernel("access", "global_strided")((1,), (64,), (y, np.arange(64, dtype=np.float32), np.int32(1), np.int32(0)))
    np.testing.assert_array_equal(y, np.arange(64))


def test_neighbouring_bytes_do_not_race(kernel):
    """Threads that write the four bytes of a word are not accused; every index of grid and block is seen once."""
    y = np.zeros(2 * 3 * 2 * 4 * 2 * 3, np.uint8)
    report = kernel("access", "neighbours")((2, 3, 2), (4, 2, 3), (y,), mode="check")
    assert report.ok, report
    np.testing.assert_array_equal(y, np.arange(y.size) % 256)


def test_a_copy_counts_as_written_when_it_is_waited_for(kernel):
    """A barrier between the start of a cp.async and its wait does not order it with a read by another thread."""
    y = np.zeros(64, np.float32)
    report = kernel("tensor", "early_barrier")((1,), (64,), (y, np.ones(256, np.float32)), mode="check")
    assert [f.kind for f in report.findings] == ["race"], report
    assert "wrote at tensor.cu" in report.findings[0].message


def test_a_vector_that_straddles_the_end_is_out_of_bounds(kernel):
    """Its first bytes lie inside the array, its last behind it."""
    report = kernel("access", "global_float4")((1,), (32,), (np.zeros(128, np.float32), np.zeros(126, np.float32)), mode="check")
    (finding,) = report.findings
    assert (finding.kind, finding.thread) == ("out of bounds", (31, 0, 0))
    assert "reads 16 bytes of x[31], which has elements 0 to 30" in finding.message
