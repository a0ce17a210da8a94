"""For tests of kernels: a compiler or a skip, a cache of their own, and the rule by which each rung of the ladder is launched."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tinyunet import backend
from tinyunet.cuda import emulator, loader
from tinyunet.errors import BackendError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for fake_cupy


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


@pytest.fixture
def poisoned(monkeypatch):
    """Every array that a launcher makes is full of NaN, so that a result not written shows."""
    empty = np.empty

    def poison(shape, dtype=float):
        a = empty(shape, dtype)
        a.fill(np.nan if a.dtype.kind == "f" else 255)
        return a

    monkeypatch.setattr(np, "empty", poison)
    monkeypatch.setattr(np, "empty_like", lambda a: poison(a.shape, a.dtype))


@pytest.fixture
def fake_cupy(monkeypatch):
    """A CuPy without a GPU, which runs kernels in the emulator; `import cupy` finds it."""
    from fake_cupy import FakeCuPy

    module = FakeCuPy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    caches = (loader.load, loader._module, loader.architecture, loader.attribute)
    for cache in caches:
        cache.cache_clear()
    yield module
    for cache in caches:  # they hold what belongs to this module
        cache.cache_clear()


@pytest.fixture
def real_cupy():
    """CuPy with a GPU; skips where there is none."""
    try:
        return backend.cupy()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy, without a GPU or with one."""
    return request.getfixturevalue("fake_cupy" if request.param == "fake" else "real_cupy")
