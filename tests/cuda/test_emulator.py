"""What a kernel may use means what CUDA says: against NumPy; and the call refuses what a GPU would silently get wrong."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tinyunet.cuda import conv3x3, emulated, emulator
from tinyunet.cuda.emulator.launch import _Library
from tinyunet.errors import BackendError, CheckError, ConfigError

LANES = np.arange(32)


def shuffled(x, source):
    """Each lane of each warp takes the value of lane `source[lane]` of its own warp."""
    return x.reshape(-1, 32)[:, source].reshape(-1)


@pytest.mark.parametrize(("by", "width"), [(1, 32), (5, 32), (31, 32), (0, 8), (3, 8), (1, 16), (6, 4)])
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_shuffles(by, width, mode, kernel, rng):
    """From a lane, up, down and across, in segments: past the end of its segment a lane keeps its own value."""
    x, y = rng.integers(-1000, 1000, 96, np.int32), np.zeros((4, 96), np.int32)
    kernel("warp", "shuffles")((1,), (96,), (y, x, np.int32(by), np.int32(width)), mode=mode)
    first = LANES // width * width
    up, down, across = LANES - by, LANES + by, LANES ^ by
    sources = (first + by % width, np.where(up < first, LANES, up), np.where(down >= first + width, LANES, down),
               np.where(across >= first + width, LANES, across))  # fmt: skip
    for got, source in zip(y, sources, strict=True):
        np.testing.assert_array_equal(got, shuffled(x, source))


def test_a_shuffle_moves_eight_bytes(kernel, rng):
    """A double goes whole."""
    x, y = rng.standard_normal(32), np.zeros(32)
    kernel("warp", "shuffle_double")((1,), (32,), (y, x))
    np.testing.assert_array_equal(y, shuffled(x, np.minimum(LANES + 1, 31)))


@pytest.mark.parametrize("truth", [0, 1, 2])
def test_votes(truth, kernel, rng):
    """Ballots by warp, counts by block; none true, all true, some true."""
    x = np.array([np.zeros(64), np.ones(64), rng.integers(0, 2, 64)][truth], np.int32)
    y = np.zeros((6, 64), np.uint32)
    kernel("warp", "votes")((1,), (64,), (y, x))
    warps = x.reshape(2, 32)
    ballot = (warps.astype(np.uint64) << LANES.astype(np.uint64)).sum(1)
    wanted = [np.repeat(v, 32) for v in (ballot, warps.any(1), warps.all(1))]
    wanted += [np.full(64, v) for v in (x.sum(), x.all(), x.any())]
    np.testing.assert_array_equal(y, np.array(wanted, np.uint32))


@pytest.mark.parametrize("alive", [32, 24, 16, 10])
def test_lanes_that_returned_are_not_waited_for(alive, kernel):
    """Half a warp by itself, and a whole warp of which some lanes are gone, both go on."""
    x, y = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    report = kernel("warp", "halves")((1,), (32,), (y, x, np.int32(alive)), mode="check")
    assert report.ok, report
    np.testing.assert_array_equal(y, np.where(alive > LANES, (LANES ^ 1) + 100, 0))


@pytest.mark.parametrize("schedule", ["index", "reverse", "random"])
def test_a_block_sum(schedule, kernel, rng):
    """Shuffles, shared memory, a barrier and atomics together, over three blocks: the sum, and no race."""
    x, y = rng.standard_normal(1000, np.float32), np.zeros(1, np.float32)
    report = kernel("warp", "block_sum")((3,), (128,), (y, x, np.int32(x.size)), mode="check", schedule=schedule)
    assert report.ok, report
    np.testing.assert_allclose(y[0], x.sum(dtype=np.float64), rtol=1e-5)
    assert report.totals.global_atomics == 3


def tf32(a, rounded):
    """float32 with 10 bits of mantissa: cut off, or rounded to nearest with ties away from zero."""
    bits = a.view(np.uint32) + np.uint32(0x1000 if rounded else 0)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("rounded", [0, 1])
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_mma_multiplies_tf32(rounded, mode, kernel, rng):
    """D = A B + D: every element from the lanes that PTX names; the low 13 bits of A and B do not count."""
    a, b, d = (rng.standard_normal(shape, np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    wanted = tf32(a, rounded) @ tf32(b, rounded) + d
    kernel("tensor", "mma")((1,), (32,), (d, a, b, np.int32(rounded)), mode=mode)
    np.testing.assert_allclose(d, wanted, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("valid", [12 * 32, 200])
def test_cp_async_lands_at_its_wait(valid, kernel, rng):
    """Each group holds its data after the wait that asks for it; a copy that does not read fills in zeros."""
    x, y = rng.standard_normal(12 * 32, np.float32), np.full(12 * 32, np.nan, np.float32)
    report = kernel("tensor", "copies")((1,), (32,), (y, x, np.int32(valid)), 12 * 32 * 4, mode="check")
    assert report.ok, report
    np.testing.assert_array_equal(y, np.where(np.arange(x.size) < valid, x, 0))


def test_cp_async_does_not_land_before(kernel):
    """A read without a wait gets NaN also in fast mode, however long it took to come there."""
    y = np.zeros(32, np.float32)
    kernel("tensor", "too_early")((1,), (32,), (y, np.ones(128, np.float32)))
    assert np.isnan(y).all()


@pytest.mark.parametrize("schedule", ["index", "reverse", "random"])
def test_a_pipeline_of_three_stages(schedule, kernel, rng):
    """Copies that run two rounds ahead, one barrier a round: right, and no false alarm."""
    x, y = rng.standard_normal((7, 128), np.float32), np.zeros(32, np.float32)
    report = kernel("tensor", "pipeline")((1,), (32,), (y, x, np.int32(7)), mode="check", schedule=schedule)
    assert report.ok, report
    wanted = sum(np.roll(row, -17).reshape(32, 4).sum(1) for row in x.astype(np.float64))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_a_template(kernel):
    """A kernel with template arguments, in double precision."""
    x, y = np.arange(70.0), np.zeros(70)
    kernel("access", "scale<3>")((2,), (64,), (y, x, np.int32(70)))
    np.testing.assert_array_equal(y, 3 * x)


def test_schedules_are_orders_of_threads(kernel):
    """Index counts up, reverse down, random is a permutation that the seed decides; also of the blocks."""

    def order(**options):
        y = np.zeros(128, np.int32)
        kernel("access", "order")((4,), (32,), (y, np.zeros(1, np.int32)), **options)
        return y.tolist()

    assert order() == list(range(128))
    assert order(schedule="reverse") == list(range(127, -1, -1))
    one = order(schedule="random", seed=1)
    assert sorted(one) == list(range(128))
    assert any(np.diff(one[:32]) != 1)  # the threads of the first block
    assert {i // 32 for i in one[:32]} != {0} or {i // 32 for i in one[32:64]} != {1}  # the blocks
    assert one == order(schedule="random", seed=1) != order(schedule="random", seed=2)


def test_one_array_as_two_arguments_is_one_memory(kernel):
    """In place: what is written through one pointer is read through the other."""
    y = np.arange(40.0)
    kernel("access", "scale<2>")((1,), (64,), (y, y, np.int32(40)))
    np.testing.assert_array_equal(y, 2 * np.arange(40.0))


X, Y, ONE = np.zeros(32, np.float32), np.zeros(32, np.float32), np.int32(1)


@pytest.mark.parametrize(("grid", "block", "args", "options", "words"), [
    ((1,), (32,), (Y, X, ONE), {}, r"takes 4 arguments \(y, x, stride, offset\), got 3"),
    ((1,), (32,), (Y, X, 1, ONE), {}, r"argument 2 \(stride\) is 1 \(int\), the kernel takes a value of dtype int32\..*np.int32"),
    ((1,), (32,), (Y, X, np.float32(1), ONE), {}, r"\(stride\) is .*float32\), the kernel takes a value of dtype int32"),
    ((1,), (32,), (Y, X.astype("f8"), ONE, ONE), {}, r"argument 1 \(x\) has dtype float64, the kernel takes float32"),
    ((1,), (32,), (Y, [1.0], ONE, ONE), {}, r"argument 1 \(x\) is \[1.0\] \(list\), the kernel takes a pointer"),
    ((1,), (32,), (Y[::2], X, ONE, ONE), {}, r"argument 0 \(y\) is not C-contiguous: strides \(8,\)"),
    ((1,), (32,), (Y[:20], Y[10:], ONE, ONE), {}, r"argument 1 \(x\) overlaps another argument"),
    ((1,), (2048,), (Y, X, ONE, ONE), {}, r"block is \(2048,\). Give one to three sizes, from 1 to 1024, 1024, 64"),
    ((1,), (64, 32), (Y, X, ONE, ONE), {}, r"block \(64, 32, 1\) has 2048 threads. No GPU takes more than 1024"),
    ((0,), (32,), (Y, X, ONE, ONE), {}, r"grid is \(0,\)"),
    (1, (32,), (Y, X, ONE, ONE), {}, r"grid is 1. Give a tuple"),
    ((1,), (32,), (Y, X, ONE, ONE), {"mode": "slow"}, r"mode 'slow' is unknown. Choose one of: fast, check, trace"),
    ((1,), (32,), (Y, X, ONE, ONE), {"schedule": "up"}, r"schedule 'up' is unknown. Choose one of: index, reverse, random"),
    ((1,), (32,), (Y, X, ONE, ONE), {"shared_mem": 1 << 18}, r"shared_mem is 262144 bytes"),
    ((1,), (32,), (Y, X, ONE, ONE), {"trace_block": (1,)}, r"trace_block \(1,\) is not in a grid of \(1, 1, 1\)"),
])  # fmt: skip
def test_a_launch_refuses_what_does_not_fit(grid, block, args, options, words, kernel):
    """Who, what came, what was expected."""
    with pytest.raises(ConfigError, match=words):
        kernel("access", "global_strided")(grid, block, args, **options)


def test_a_read_only_array_is_not_written(kernel):
    """An array that may not be written cannot be an output, but can be an input."""
    fixed = np.ones(32, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ConfigError, match=r"argument 0 \(y\) is read-only"):
        kernel("access", "global_strided")((1,), (32,), (fixed, X, ONE, ONE))
    kernel("access", "global_strided")((1,), (32,), (Y.copy(), fixed, ONE, np.int32(0)))


@pytest.mark.parametrize(("name", "words"), [
    ("nothing", r"access.cu: has no kernel 'nothing'. Its __global__ functions: global_strided, global_float4"),
    ("scale", r"scale is a template <int FACTOR>: give its arguments, e.g. 'scale<64>'"),
    ("order<1>", r"order is no template: give its name alone, e.g. 'order'"),
])  # fmt: skip
def test_a_kernel_that_is_not_there(name, words, kernel):
    """The error names those that are."""
    with pytest.raises(ConfigError, match=words):
        kernel("access", name)


def write(path, text):
    """A kernel file."""
    path.write_text(f'extern "C" __global__ void k(int *y) {{\n  {text}\n}}\n')
    return emulator.load(path).get("k")


def test_what_does_not_compile_is_told_with_its_line(compiler, tmp_path):
    """The compiler's own words, about the line of the kernel file."""
    with pytest.raises(BackendError, match=r"(?s)bad.cu does not compile with .*bad.cu:2.*no_such_thing"):
        write(tmp_path / "bad.cu", "y[0] = no_such_thing;")((1,), (1,), (np.zeros(1, np.int32),))


@pytest.mark.slow
def test_a_kernel_is_compiled_once(compiler, tmp_path, monkeypatch):
    """The second module with the same text takes the file that the first compiled; another text is compiled anew."""
    monkeypatch.setenv("TINYUNET_CACHE", str(tmp_path / "cache"))
    y = np.zeros(1, np.int32)
    write(tmp_path / "k.cu", "y[0] = 1;")((1,), (1,), (y,))
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    assert {p.suffix for p in files} == {".so", ".o"}
    write(tmp_path / "k.cu", "y[0] = 1;")((1,), (1,), (y,))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == files
    write(tmp_path / "k.cu", "y[0] = 2;")((1,), (1,), (y,))
    assert y[0] == 2
    assert len(list((tmp_path / "cache").iterdir())) == len(files) + 1


def test_a_file_that_another_process_replaces(compiler, tmp_path, monkeypatch):
    """Loaded, and then gone from its place: the kernel runs, and knows where it lies in memory."""
    monkeypatch.setenv("TINYUNET_CACHE", str(tmp_path / "cache"))
    load = ctypes.CDLL

    def replaced(path):
        library = load(path)
        Path(path).unlink()
        return library

    monkeypatch.setattr(ctypes, "CDLL", replaced)
    y = np.zeros(1, np.int32)
    write(tmp_path / "k.cu", "y[0] = 1;")((1,), (1,), (y,))
    assert y[0] == 1
    assert not list((tmp_path / "cache").glob("k*.so"))


def test_a_cache_that_cannot_be_written(compiler, tmp_path, monkeypatch):
    """The error says which variable to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYUNET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendError, match="Set TINYUNET_CACHE to a folder that you may write to"):
        write(tmp_path / "k.cu", "y[0] = 1;")((1,), (1,), (np.zeros(1, np.int32),))


def test_a_compiled_file_that_cannot_be_loaded(tmp_path):
    """As on a disk mounted noexec: the file, the reason, and the variable to set."""
    (tmp_path / "k.so").write_bytes(b"no library")
    text = r"emulator: .*k\.so cannot be loaded \(.+\)\. If that folder is mounted noexec, set TINYUNET_CACHE to another\."
    with pytest.raises(BackendError, match=text):
        _Library(tmp_path / "k.so")


def test_the_cache_is_the_users(monkeypatch):
    """By the XDG rule, unless the variable says otherwise; never in the package."""
    monkeypatch.delenv("TINYUNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert emulator.cache_folder().as_posix() == "/somewhere/tinyunet/emulator"


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    """Neither on PATH: what is needed, and how to get it; the same for a CXX that is no program, and for other systems."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackendError, match=r"emulator: found neither g\+\+ nor clang\+\+ on PATH.*apt install g\+\+"):
        emulator.find_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="CXX is 'no-such-compiler', which is no program"):
        emulator.find_compiler()
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(BackendError, match=r"runs on Linux, this is darwin\. Use a container"):
        emulator.find_compiler()


def test_both_ways_to_switch_threads_agree(compiler, rng):
    """By our own few instructions and by ucontext: collectives, barriers, errors."""
    here = Path(__file__).parent
    portable = emulator.load(here / "kernels" / "warp.cu", portable=True)
    x, y = rng.integers(0, 9, 96, np.int32), np.zeros((2, 4, 96), np.int32)
    for module, out in zip((portable, emulator.load(here / "kernels" / "warp.cu")), y, strict=True):
        module.get("shuffles")((1,), (96,), (out, x, np.int32(3), np.int32(16)))
    np.testing.assert_array_equal(y[0], y[1])
    broken = emulator.load(here / "broken" / "one_too_far.cu", portable=True).get("broken")
    with pytest.raises(CheckError, match="crash"):
        broken((5,), (64,), (np.zeros(256, np.float32), np.ones(64, np.float32), np.int32(256)))


def test_kernels_do_not_use_up_the_mappings_of_the_process(compiler, rng):
    """Linux gives a process some 65,000 mappings, and a stack is two: those of one library are freed when another one runs."""
    x, w = rng.standard_normal((1, 8, 8, 8), np.float32), rng.standard_normal((3, 3, 8, 8), np.float32)
    stacks = []
    for mode in ("fast", "check", "fast", "check"):  # two libraries; 256 threads meet at a barrier, so each needs a stack
        with emulated(mode):
            conv3x3.forward("03_halo_tile", x, w, 1)
        stacks.append(Path("/proc/self/maps").read_text().count("---p 00000000 00:00 0"))  # their guard pages
    assert min(stacks) >= 256
    assert max(stacks) - min(stacks) < 200
