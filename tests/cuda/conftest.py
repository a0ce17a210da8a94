"""For tests of kernels: a compiler or a skip, kernels with a bug in them, a CuPy without a GPU."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyunet import backend
from tinyunet.cuda import emulator, loader, runtime, source
from tinyunet.errors import BackendError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for fake_cupy


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


@pytest.fixture
def mutate(tmp_path, monkeypatch):
    """mutate(file, old, new, which=0): from here on, kernels are read from a copy in which that occurrence of old is new"""

    def change(file, old, new, which=0):
        folder = tmp_path / "kernels"
        shutil.copytree(source.kernels_folder(), folder)
        pieces = (folder / file).read_text().split(old)
        assert len(pieces) > which + 1, f"{file} has no {old!r}"
        (folder / file).write_text(old.join(pieces[: which + 1]) + new + old.join(pieces[which + 1 :]))
        monkeypatch.setattr(source, "kernels_folder", lambda: folder)

    runtime._emulator_module.cache_clear()
    yield change
    runtime._emulator_module.cache_clear()


@pytest.fixture
def poisoned(monkeypatch):
    """Every array that a launcher makes is full of NaN, so that a result not written shows."""
    empty = np.empty

    def poison(shape, dtype=float, **options):  # CuPy calls it too, for what it copies to the host
        a = empty(shape, dtype, **options)
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
