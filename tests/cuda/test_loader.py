"""Kernels on a GPU, as far as can be seen without one: the call, its arguments, and what is said when something is missing."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import backend
from tinyunet.cuda import loader, runtime, source
from tinyunet.errors import BackendError, ConfigError

HERE = Path(__file__).parent
NAIVE = "conv3x3/01_naive.cu"
TEXT = """
extern "C" __global__ void add(const float *x, float *y, const unsigned char *mask, int n, float factor) {}
template <int T> __global__ void tile(float *y) {}
struct Two { int a, b; };
extern "C" __global__ void packed(Two two, float4 *y) {}
"""


@pytest.fixture
def file(tmp_path):
    """A file with a few kernels."""
    (tmp_path / "k.cu").write_text(TEXT)
    return tmp_path / "k.cu"


def convolved(xp, x, w):
    """The first rung on arrays of a module."""
    n, height, width, c = x.shape
    y = xp.full((n, height - 2, width - 2, w.shape[3]), xp.nan, xp.float32)
    sizes = [np.int32(v) for v in (n, height, width, c, w.shape[3], 0)]
    runtime.run(NAIVE, "conv3x3", (-(-y.size // 256),), (256,), (xp.asarray(x), xp.asarray(w), y, *sizes))
    return y


def test_the_same_call_runs_on_both_devices(cupy, compiler, rng):
    """An array of CuPy goes through CuPy's module, one of NumPy to the emulator, with one result."""
    x, w = rng.standard_normal((2, 7, 9, 5), np.float32), rng.standard_normal((3, 3, 5, 4), np.float32)
    there = convolved(cupy, x, w)
    assert isinstance(there, cupy.ndarray)
    np.testing.assert_allclose(there.get(), convolved(np, x, w), rtol=1e-5, atol=1e-5)


def test_what_comes_back_from_a_gpu_is_not_poisoned(fake_cupy, poisoned):
    """CuPy makes room on the host by `numpy.empty`, with words of its own, which tests of launchers replace."""
    np.testing.assert_array_equal(fake_cupy.asarray([[1, 2], [3, 4]]).get(), [[1, 2], [3, 4]])


@pytest.mark.parametrize(("change", "message"), [
    (lambda xp, a: a[:-1], r"add: takes 5 arguments \(x, y, mask, n, factor\), got 4\."),
    (lambda xp, a: [a[0].astype("float64"), *a[1:]], r"argument 0 \(x\) has dtype float64, the kernel takes float32\."),
    (lambda xp, a: [a[0], a[1][:, ::2], *a[2:]], r"argument 1 \(y\) is not C-contiguous: strides \(16, 8\) for shape \(3, 2\)\."),
    (lambda xp, a: [a[0].get(), *a[1:]], r"argument 0 \(x\) is numpy\.ndarray of float32, .* an array of the GPU\."),
    (lambda xp, a: [*a[:3], 3, a[4]], r"argument 3 \(n\) is 3 \(int\), .* value of dtype int32\. .*np\.int32\(3\)"),
    (lambda xp, a: [*a[:4], np.float64(1)], r"argument 4 \(factor\) is .* of float64, the kernel takes a value of dtype float32"),
])  # fmt: skip
def test_arguments_that_do_not_fit_never_reach_a_gpu(change, message, fake_cupy, file):
    """Number, dtype, layout, device and values are checked, with both what came and what the kernel takes."""
    good = [fake_cupy.zeros((3, 4), "float32"), fake_cupy.zeros((3, 4), "float32"), fake_cupy.zeros(12, "uint8"),
            np.int32(12), np.float32(2)]  # fmt: skip
    kernel = loader.GpuKernel(source.read(file), "add")
    kernel.check(good, 0)
    kernel.check([None, *good[1:]], 0)  # a pointer to nothing
    with pytest.raises(ConfigError, match=message):
        kernel.check(change(fake_cupy, good), 0)


def test_arrays_too_large_or_elsewhere(fake_cupy, file):
    """More values than 32 bits count, another GPU than the current one, and a grid that no GPU takes are refused."""
    kernel = loader.GpuKernel(source.read(file), "add")
    y = fake_cupy.zeros(4, "float32")
    large = fake_cupy.ndarray(np.broadcast_to(np.float32(0), (2**16, 2**15)))
    large.flags.c_contiguous  # noqa: B018  a view of one value, which is not contiguous: so it is put past that check
    large = type("Large", (fake_cupy.ndarray,), {"flags": y.flags})(large._a)
    rest = [fake_cupy.zeros(4, "uint8"), np.int32(4), np.float32(1)]
    with pytest.raises(ConfigError, match=r"argument 0 \(x\) has 2147483648 values, and kernels count with 32 bits\."):
        kernel.check([large, y, *rest], 0)
    with pytest.raises(ConfigError, match=r"argument 0 \(x\) is on GPU 0, the current one is 1\. Run inside `with cupy"):
        kernel.check([y, y, *rest], 1)
    with pytest.raises(ConfigError, match=r"grid is \(1, 70000\)\. A GPU takes 1 to 2147483647, 65535, 65535 blocks"):
        kernel((1, 70000), (32,), (y, y, *rest))


def test_values_of_a_type_of_their_own_are_taken_as_they_are(fake_cupy, file):
    """A struct is an array of one value; an array of float4 is one of float32."""
    two = np.zeros(1, np.dtype("i4,i4"))
    loader.GpuKernel(source.read(file), "packed").check([two, fake_cupy.zeros(8, "float32")], 0)


def test_kernels_are_named_as_cpp_has_them(fake_cupy, file, tmp_path):
    """CuPy hears of a kernel beforehand, with a template's arguments; an unknown name is refused with those there are."""
    seen = []
    fake_cupy.RawModule = lambda **options: seen.append((options["name_expressions"], options["options"]))
    loader.GpuKernel(source.read(file), "tile<8>")
    loader.GpuKernel(source.read(file), "add")
    loader.GpuKernel(source.read(file), "packed")
    assert seen == [((name,), ("--std=c++17",)) for name in ("tile<8>", "add", "packed")]
    with pytest.raises(ConfigError, match=r"k\.cu: has no kernel 'sub'\. Its __global__ functions: add, tile, packed"):
        loader.GpuKernel(source.read(file), "sub")


def test_a_kernel_without_extern_c_is_found(fake_cupy, compiler):
    """Its name in the compiled code is not that of the source: `count_labels` of the loss is such a kernel."""
    assert 'extern "C"' not in source.read("head/loss.cu").text
    labels, count = fake_cupy.asarray(np.array([0, -1, 1, -1, 1], np.int32)), fake_cupy.zeros(1, "int32")
    runtime.run("head/loss.cu", "count_labels", (1,), (256,), (labels, count, np.int32(5)))
    assert count.item() == 3


def test_shared_memory_beyond_48_kib_is_asked_for_once(fake_cupy, file):
    """CuPy's kernel is prepared for what a launch needs; more than the GPU has is refused."""
    launched = []

    class Kernel:
        num_regs, max_dynamic_shared_size_bytes = 32, 48 << 10

        def __call__(self, grid, block, args, shared_mem):
            assert shared_mem <= self.max_dynamic_shared_size_bytes
            launched.append(self.max_dynamic_shared_size_bytes)

    class Module:
        def __init__(self, **options):
            self.kernel = Kernel()

        def get_function(self, name):
            return self.kernel

    fake_cupy.RawModule = Module
    kernel = loader.GpuKernel(source.read(file), "tile<1>")
    for kib in (0, 48, 96, 64, 100):
        kernel((1,), (32,), (fake_cupy.zeros(1, "float32"),), shared_mem=kib << 10)
    assert [size >> 10 for size in launched] == [48, 48, 96, 96, 100]
    with pytest.raises(BackendError, match=r"tile<1> needs 300 KiB of shared memory for a block, GPU 0 has 227 KiB\."):
        kernel((1,), (32,), (fake_cupy.zeros(1, "float32"),), shared_mem=300 << 10)


@pytest.mark.parametrize(("line", "needs"), [("", 75), ("tu_mma_m16n8k8(d, a, b);", 80), ("tu_cp_commit();", 80)])
def test_the_architecture_that_a_file_needs_is_read_from_it(line, needs, tmp_path):
    """Tensor cores and asynchronous copies need 8.0; that a header offers them does not make a file need them."""
    (tmp_path / "k.cu").write_text(f'#include "tu_device.cuh"\n__global__ void k() {{ {line} }}\n')
    assert loader.needs(source.read(tmp_path / "k.cu")) == needs


def test_an_old_gpu_is_named_with_what_it_needs(fake_cupy, tmp_path):
    """Both compute capabilities, and what runs instead."""
    (tmp_path / "k.cu").write_text("// tu_mma\nextern \"C\" __global__ void k() {}")
    fake_cupy.cuda.Device = lambda number: type("Old", (), {"compute_capability": "75"})
    message = r'k\.cu needs a GPU of compute capability 8\.0, GPU 0 has 7\.5\. Pick a lower rung'
    with pytest.raises(BackendError, match=message):
        loader.GpuKernel(source.read(tmp_path / "k.cu"), "k")((1,), (1,), ())
    loader.architecture.cache_clear()
    fake_cupy.cuda.Device = lambda number: type("Older", (), {"compute_capability": "61"})
    with pytest.raises(BackendError, match=r"needs .* 7\.5, GPU 0 has 6\.1\. CUDA 13 knows none that old\. Use the CPU"):
        loader.GpuKernel(source.read(NAIVE), "conv3x3")._prepare(fake_cupy, 0)


@pytest.mark.parametrize(("error", "message"), [
    (RuntimeError("Failed to find CUDA headers."), r'CuPy finds no CUDA headers, .*pip install "cupy-cuda13x\[ctk\]"'),
    (RuntimeError('Failure finding "libnvrtc.so.13"'), r'CuPy finds no NVRTC, .*pip install "cupy-cuda13x\[ctk\]"'),
    ("CompileException", r"conv3x3 does not compile for sm_90: 01_naive\.cu\(3\): error: no\. The kernels are written for"),
    (OSError("out of luck"), r"conv3x3 cannot be loaded on sm_90: out of luck"),
])  # fmt: skip
def test_what_compiling_lacks_is_named_with_its_remedy(error, message, fake_cupy, monkeypatch):
    """Headers, the compiler, or the compiler's own complaint."""
    if error == "CompileException":
        error = fake_cupy.cuda.compiler.CompileException("01_naive.cu(1): warning: x\n01_naive.cu(3): error: no\n1 error")

    def get_function(self, name):
        raise error

    monkeypatch.setattr(fake_cupy.RawModule, "get_function", get_function)
    with pytest.raises(BackendError, match=message):
        loader.load(NAIVE, "conv3x3")._prepare(fake_cupy, 0)


def test_cupy_that_is_not_there(monkeypatch):
    """The error says what to install, `auto` takes the CPU and says why."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r'device "cuda": CuPy is not installed\. Install it: pip install "tinyunet'):
        tu.UNet(tu.UNetSpec(base=2, depth=1)).to("cuda")
    assert backend.choose("auto") == ("cpu", "CPU (CuPy is not installed)")
    assert backend.choose("cpu") == ("cpu", "CPU")


def test_cupy_that_is_damaged(monkeypatch, tmp_path):
    """What its import raised is said."""
    (tmp_path / "cupy.py").write_text("raise ImportError('libcublas is missing')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"CuPy cannot be imported \(libcublas is missing\)"):
        backend.cupy()


def test_a_machine_without_a_driver(fake_cupy, monkeypatch):
    """What CUDA says is said, and what to look at."""
    def count():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    monkeypatch.setattr(fake_cupy.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fake_cupy.cuda.runtime, "getDeviceCount", count)
    message = r"CuPy 14\.2\.0 finds no GPU that it can use \(cudaErrorInsufficientDriver: .*\)\. nvidia-smi must list one"
    with pytest.raises(BackendError, match=message):
        backend.choose("cuda")
    assert backend.choose("auto")[1].startswith("CPU (CuPy 14.2.0 finds no GPU that it can use")


def test_auto_takes_the_gpu_and_says_which(fake_cupy):
    """Its number and its name; another word is refused."""
    assert backend.choose("auto") == backend.choose("cuda") == ("cuda", "GPU 0, No GPU")
    with pytest.raises(ConfigError, match=r"device 'gpu' is unknown\. Choose cpu, cuda or auto"):
        backend.choose("gpu")


def test_who_takes_which_arrays(fake_cupy):
    """float32 of the device, or of the host inside `emulated`; nothing else, and the reason is said."""
    single, double = np.zeros(3, np.float32), np.zeros(3)
    assert not runtime.takes(single)
    assert re.search("NumPy's inside tinyunet.cuda.emulated", runtime.refusal(single))
    with runtime.emulated():
        assert runtime.takes(single)
        assert runtime.refusal(single, double) == "kernels take float32, not float64"
    assert runtime.takes(fake_cupy.asarray(single))
    assert not runtime.takes(fake_cupy.asarray(double))
    assert runtime.architecture(fake_cupy.asarray(single)) == 90
    assert runtime.multiprocessors(single) == runtime.multiprocessors(fake_cupy.asarray(single)) == 132
