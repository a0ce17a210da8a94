"""For tests of kernels: a compiler or a skip, a cache of their own, and the rule by which each rung of the ladder is launched."""

from pathlib import Path

import numpy as np
import pytest

from tinyunet.cuda import emulator
from tinyunet.errors import BackendError

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Compiled kernels go to a folder of this run, and nothing is taken from an earlier one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYUNET_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.fixture(scope="session")
def compiler():
    """The C++ compiler of this machine; skips where the emulator cannot run."""
    try:
        return emulator.find_compiler()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kernel(compiler):
    """Loads a kernel of tests/cuda/kernels: kernel("warp", "shuffles")."""
    modules = {}

    def get(file, name):
        if file not in modules:
            modules[file] = emulator.load(HERE / "kernels" / f"{file}.cu")
        return modules[file].get(name)

    return get


@pytest.fixture(scope="session")
def conv3x3(compiler):
    """Runs a rung of the ladder: conv3x3("01_naive", x, w, pad, mode=...) -> y, report"""
    kernels = {}

    def run(rung, x, w, pad, portable=False, **options):
        if (rung, portable) not in kernels:
            kernels[rung, portable] = emulator.load(f"conv3x3/{rung}.cu", portable).get("conv3x3")
        n, height, width, c = x.shape
        o, rows, cols = w.shape[3], height + 2 * pad - 2, width + 2 * pad - 2
        grid, block = (-(-n * rows * cols * o // 256),), (256,)
        if rung == "03_halo_tile":
            grid, block = (-(-cols // 8), -(-rows // 8), n * -(-o // 32)), (32, 8)
        y = np.full((n, rows, cols, o), np.nan, np.float32)
        sizes = (np.int32(size) for size in (n, height, width, c, o, pad))
        return y, kernels[rung, portable](grid, block, (x, w, y, *sizes), **options)

    return run
