"""Array modules: NumPy by default, CuPy if an array is CuPy's, and no import of CuPy for it."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tinyunet.backend import array_module, to_numpy


class DeviceArray:
    """Stands in for cupy.ndarray: all that is asked of it is `get`."""

    def get(self):
        """The values on the host."""
        return np.array([1, 2])


@pytest.fixture
def device_module(monkeypatch):
    """A module named cupy that somebody has imported."""
    module = SimpleNamespace(ndarray=DeviceArray)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_numpy_arrays_belong_to_numpy():
    """One array or several, NumPy answers for them."""
    assert array_module(np.zeros(1)) is np
    assert array_module(np.zeros(1), np.zeros(2)) is np


def test_any_array_on_the_device_decides(device_module):
    """CuPy answers if one of the arrays is CuPy's; its presence alone changes nothing."""
    assert array_module(np.zeros(1)) is np
    assert array_module(DeviceArray()) is device_module
    assert array_module(np.zeros(1), DeviceArray()) is device_module


def test_to_numpy(device_module):
    """A NumPy array comes back as it is, one of the device is fetched."""
    a = np.zeros(3)
    assert to_numpy(a) is a
    np.testing.assert_array_equal(to_numpy(DeviceArray()), [1, 2])


def test_cupy_is_not_imported():
    """Nobody who uses NumPy arrays pays for CuPy."""
    code = "import sys, numpy, tinyunet.backend as b; b.array_module(numpy.zeros(1)); sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
