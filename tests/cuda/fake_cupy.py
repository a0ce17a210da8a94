"""A CuPy without a GPU: arrays that keep themselves apart from NumPy's as CuPy's do, and kernels that run in the emulator.

It finds what a machine without a GPU could not: an array of the host that got among those of the device, a NumPy function called
on what may be an array of the device, a launch with arguments that the loader should have refused, a name or an option that NumPy
has and CuPy 14 has not. Where CuPy does something quietly (`np.add` of one of its arrays stays there), so does this; where CuPy
refuses, so does this, by the same error. It counts how often the host waits for the device.
"""

import operator
import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from tinyunet.cuda import emulator, source

IMPLICIT = "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."


def host(value):
    """What NumPy computes with: the array inside; containers are gone through, arrays of NumPy refused."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(host(v) for v in value)
    return value


def device(value):
    """A result as the device has it: there are no scalars, only arrays of no axes."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(device(v) for v in value)
    return value


LACKING = {
    "asmatrix", "block", "bmat", "einsum_path", "errstate", "frompyfunc", "geomspace", "histogram_bin_edges", "insert", "matvec",
    "nanpercentile", "nanquantile", "ndenumerate", "nditer", "seterr", "spacing", "unstack", "vecdot", "vecmat",
}  # fmt: skip
"""Functions that NumPy has and CuPy 14.2 has not."""

ELSEWHERE = {"ctypes", "getfield", "resize", "setfield", "setflags", "to_device"}
"""The same for what arrays have."""


def call(function, *args, **options):
    """A NumPy function on arrays of the device."""
    if function.__name__ in LACKING or {"initial", "where"} & options.keys():
        raise TypeError(f"CuPy has no {function.__name__} with {sorted(options)}")
    return device(function(*host(args), **{key: host(value) for key, value in options.items()}))


class ndarray:  # noqa: N801  its name in CuPy
    """An array of the device."""

    device = SimpleNamespace(id=0)

    def __init__(self, a):
        self._a = a

    @property
    def data(self):
        """Where it lies, as `data.ptr`."""
        return SimpleNamespace(ptr=self._a.ctypes.data)

    def __dlpack__(self, **options):
        return self._a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._a.__dlpack_device__()

    def get(self):
        """A copy on the host."""
        sys.modules["cupy"].waits += 1
        copy = np.empty(self._a.shape, dtype=self._a.dtype, order="C")  # in these words, which a test may have replaced
        copy[...] = self._a
        return copy

    def item(self):
        """The only value, as a Python number."""
        return self.get().item()

    def tolist(self):
        """The values as Python numbers."""
        return self.get().tolist()

    def tobytes(self):
        """The bytes of the values."""
        return self.get().tobytes()

    def __array__(self, *args, **options):
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, ufunc, method, *args, **options):
        return call(getattr(ufunc, method), *args, **options)

    def __array_function__(self, function, types, args, options):
        return call(function, *args, **options)

    def __getattr__(self, name):
        if name.startswith("__") or name in ELSEWHERE | {"base"}:
            raise AttributeError(name)
        value = getattr(self._a, name)
        if callable(value):
            return lambda *args, **options: call(value, *args, **options)
        return device(value) if isinstance(value, np.ndarray) else value

    def __getitem__(self, key):
        return device(self._a[host(key)])

    def __setitem__(self, key, value):
        self._a[host(key)] = host(value)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (device(value) for value in self._a)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return f"fake {self._a!r}"


def _binary(function):
    return lambda self, other: call(function, self, other)


def _reflected(function):
    return lambda self, other: call(function, other, self)


def _unary(function):
    return lambda self: call(function, self)


def _in_place(function):
    def method(self, other):
        self._a = function(self._a, host(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    _function = getattr(operator, f"{_name}_" if _name in ("and", "or") else _name)
    setattr(ndarray, f"__{_name}__", _binary(_function))
    setattr(ndarray, f"__r{_name}__", _reflected(_function))
    setattr(ndarray, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "invert", "abs"):
    setattr(ndarray, f"__{_name}__", _unary(getattr(operator, _name)))
ndarray.__hash__ = None


class RawModule:
    """A kernel file, which the emulator compiles: one of kernels/ or of the tests, with the text that `source` makes of it."""

    def __init__(self, *, code, options=(), name_expressions=None):
        self.name_expressions = name_expressions
        name = re.match(r'#line 1 "(.*)"', code)[1]
        own = Path(__file__).parent / "kernels" / name
        self.file, self.code = own if own.exists() else name, code

    def get_function(self, name):
        """A kernel; one without extern "C", as every template, is found among the name expressions alone."""
        if name not in (self.name_expressions or ()) and not re.search(EXTERN_C % re.escape(name), self.code):
            raise RuntimeError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        assert source.read(self.file).text == self.code
        return RawKernel(emulator.load(self.file).get(name), source.find(source.read(self.file), name).types)


EXTERN_C = r'extern\s*"C"\s*__global__\s+void\s+(__launch_bounds__\s*\([^()]*\)\s*)?%s\b'
VALUES = {np.dtype(code).type for code in "?bhilqBHILQefdFD"}
"""Types of arguments that CuPy passes on as they are; it makes 8 bytes of a number of Python's, whatever the kernel takes."""


class RawKernel:
    """A kernel that runs in the emulator on the arrays inside, and keeps its report."""

    num_regs = 32

    def __init__(self, kernel, types):
        self.kernel, self.types = kernel, types
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert isinstance(grid, tuple)
        assert isinstance(block, tuple)
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "a GPU would refuse the launch"
        odd = {type(a) for a in args} - VALUES - {ndarray}
        assert not odd, f"CuPy refuses {odd}, makes 8 bytes of them, or hands the driver an address of 0 (for None)"
        vectors = [a for a, kind in zip(args, self.types, strict=True) if kind.endswith("V *") and "<float4" in self.kernel.name]
        assert not any(a.data.ptr % 16 for a in vectors if isinstance(a, ndarray)), "misaligned address: the GPU is lost"
        args = [a._a if isinstance(a, ndarray) else None if isinstance(a, np.uint64) else a for a in args]
        module = sys.modules["cupy"]
        module.reports.append(self.kernel(grid, block, args, shared_mem, mode=module.mode))


class Device:
    """A GPU."""

    def __init__(self, number=0):
        self.id = number
        self.compute_capability = "90"
        self.attributes = {"MaxSharedMemoryPerBlockOptin": 227 << 10, "MultiProcessorCount": 132}


class Event:
    """A point in time; there is nothing to wait for."""

    def record(self):
        """Now."""
        self.at = time.perf_counter()

    def synchronize(self):
        """Done already."""


class FakeCuPy(ModuleType):
    """The module: NumPy's functions on arrays of the device."""

    def __init__(self, mode="fast"):
        super().__init__("cupy")
        self.__version__ = "14.2.0"
        self.ndarray, self.RawModule = ndarray, RawModule
        self.mode = mode  # of the emulator
        self.reports = []
        self.waits = 0  # how often the host waited for a value
        runtime = SimpleNamespace(
            getDevice=lambda: 0, getDeviceCount=lambda: 1, runtimeGetVersion=lambda: 13000, memGetInfo=lambda: (2**33, 2**33),
            getDeviceProperties=lambda number: {"name": b"No GPU"},
        )  # fmt: skip
        compiler = SimpleNamespace(CompileException=type("CompileException", (Exception,), {}))
        self.cuda = SimpleNamespace(
            is_available=lambda: True, runtime=runtime, Device=Device, compiler=compiler, Event=Event,
            get_elapsed_time=lambda began, ended: 1000 * (ended.at - began.at),
        )  # fmt: skip
        self.RawKernel = lambda code, name: lambda grid, block, args: None  # what a benchmark holds a GPU up with
        self.linalg = SimpleNamespace(norm=lambda a: call(np.linalg.norm, a))

    def asarray(self, a, dtype=None):
        """To the device; an array that is there comes back as it is."""
        if isinstance(a, ndarray):
            return a if dtype is None else a.astype(dtype, copy=False)
        return ndarray(np.array(a, dtype=dtype, order="C"))

    array = asarray

    def from_dlpack(self, a):
        """The same memory."""
        return ndarray(np.from_dlpack(a))

    def __getattr__(self, name):
        value = getattr(np, name)
        if name in LACKING:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        if name.startswith("__") or isinstance(value, type) or not callable(value):
            return value
        return lambda *args, **options: call(value, *args, **options)
