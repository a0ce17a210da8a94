"""On a GPU alone: layers of the paper's size, which the emulator would take hours for, and NVIDIA's own checkers."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.catalogue.kernels import BOUNDS, kernel_names, relative_error
from tinyunet.cuda import conv3x3, conv3x3_gradients, upconv2x2
from tinyunet.rungs import gemm, taps

pytestmark = pytest.mark.gpu

ROOT = Path(tu.__file__).parents[1]
# N, H, W, C, O, pad: layers of the paper's network, with few and many channels, with few and many pixels
LAYERS = [(1, 284, 284, 64, 128, 0), (2, 68, 68, 256, 512, 0), (3, 30, 30, 512, 1024, 1), (1, 572, 572, 1, 64, 0)]


def bound(name, terms):
    """What is asked of a rung on small arrays, wider with the terms of a sum: rounding adds up as a random walk does."""
    return max(3, (terms / 500) ** 0.5) * next(limit for word, limit in BOUNDS.items() if word in name)


def drawn(cupy, rng, *shape):
    """Normal values on the GPU, in float32."""
    return cupy.asarray(rng.standard_normal(shape, np.float32))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("name", [name for op, name in kernel_names() if op == "conv3x3"])
def test_convolutions_of_the_papers_size(name, layer, cupy, rng):
    """Forward and both gradients of every rung agree with nine matrix products in float64, on the GPU too."""
    n, height, width, c, o, pad = layer
    if name == conv3x3.FIRST_LAYER and c > 4:
        with pytest.raises(tu.errors.ConfigError, match="1 to 4 channels"):
            conv3x3.forward(name, cupy.zeros((1, 5, 5, c), "float32"), cupy.zeros((3, 3, c, o), "float32"), 0)
        return
    x, w = drawn(cupy, rng, n, height, width, c), drawn(cupy, rng, 3, 3, c, o)
    dy = drawn(cupy, rng, n, height + 2 * pad - 2, width + 2 * pad - 2, o)
    with tu.rung(conv3x3=name):
        rung = tu.ladder.pick("conv3x3", x, w)
    x64, w64, dy64 = (a.astype("float64") for a in (x, w, dy))
    assert relative_error(rung.forward(x, w, pad), taps.forward(x64, w64, pad).get()) < bound(name, 9 * c)
    assert relative_error(rung.grad_x(dy, w, pad), taps.grad_x(dy64, w64, pad).get()) < bound(name, 9 * o)
    assert relative_error(rung.grad_w(x, dy, 3, pad), taps.grad_w(x64, dy64, 3, pad).get()) < bound(name, dy.size // o)


@pytest.mark.parametrize("name", upconv2x2.RUNGS)
def test_up_convolutions_of_the_papers_size(name, cupy, rng):
    """Forward and both gradients."""
    x, w, dy = drawn(cupy, rng, 2, 56, 56, 256), drawn(cupy, rng, 2, 2, 128, 256), drawn(cupy, rng, 2, 112, 112, 128)
    x64, w64, dy64 = (a.astype("float64") for a in (x, w, dy))
    assert relative_error(upconv2x2.forward(name, x, w), gemm.forward(x64, w64).get()) < bound(name, 256)
    assert relative_error(upconv2x2.grad_x(name, dy, w), gemm.grad_x(dy64, w64).get()) < bound(name, 4 * 128)
    assert relative_error(upconv2x2.grad_w(name, x, dy), gemm.grad_w(x64, dy64).get()) < bound(name, 2 * 56 * 56)


@pytest.mark.parametrize("name", [name for name in conv3x3_gradients.GRAD_W if name != "01_naive_atomics"])
def test_sums_in_a_fixed_order_give_the_same_bytes(name, cupy, rng):
    """Twice the same gradient by weight, bit for bit: all rungs but the one with atomics."""
    x, dy = drawn(cupy, rng, 1, 140, 140, 64), drawn(cupy, rng, 1, 138, 138, 64)
    first, second = (conv3x3_gradients.grad_w(name, x, dy, 0) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_kernels_are_compiled_without_spills(cupy, rng):
    """The product kernels keep their sums in registers: no byte of local memory, seen by the driver."""
    from tinyunet.cuda import loader

    x, w = drawn(cupy, rng, 1, 40, 40, 64), drawn(cupy, rng, 3, 3, 64, 128)
    loader.load.cache_clear()
    for name in ("06_pipelined", "08_mma_tf32_pipe", "08_mma_3xtf32_pipe"):
        y = conv3x3.forward(name, x, w, 0)
        launch = conv3x3.rule(name, x, w, y)
        kernel = loader.load(f"conv3x3/{name.replace('3xtf32', 'tf32')}.cu", launch.kernel)
        assert kernel._prepared[x.device.id].local_size_bytes == 0


PASS = """
import cupy
cupy.cuda.set_allocator(None)  # every array a piece of memory of its own, with bounds that are seen
from tinyunet.catalogue.kernels import check_kernel
for op, rung in {kernels}:
    outcome = check_kernel(op, rung, "cuda")
    assert outcome.ok, outcome
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_nvidias_checker_finds_nothing(tool, cupy):
    """compute-sanitizer over every kernel on small arrays."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not on PATH")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", PASS.format(kernels=kernel_names())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=500)
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("compute-sanitizer does not support this device, as where it is virtual")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
