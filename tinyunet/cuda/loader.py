"""Compiles the kernels of `kernels/` for the GPU at hand, and launches them there. CuPy does both; what is here is the care.

CuPy's NVRTC compiles for the architecture of the current device, and keeps what it compiled in a cache on disk, by the text that
it gets. `source` has put all includes into that text, so that an edited header is compiled anew.

A GPU takes the bytes of its arguments as they come: float64 for float32, a slice with gaps for a whole array, or an array of
another GPU give wrong numbers, or end the process's use of the GPU. So all of it is checked before a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinyunet.backend import array_module, cupy
from tinyunet.cuda import source
from tinyunet.cuda.source import Signature, Source
from tinyunet.errors import BackendError, ConfigError, short

DTYPES = {
    "float": "float32", "float2": "float32", "float4": "float32", "double": "float64", "bool": "bool", "char": "int8",
    "signed char": "int8", "unsigned char": "uint8", "short": "int16", "unsigned short": "uint16", "int": "int32",
    "unsigned": "uint32", "unsigned int": "uint32", "long long": "int64", "unsigned long long": "uint64",
}  # fmt: skip
"""C++ -> NumPy, for the types that kernels declare. An argument of any other type, a struct say, is taken as it is."""

OLDEST = 75
"""Compute capability, times ten, that kernels need at least: CUDA 13 compiles for nothing older."""

TENSOR_CORES = 80
"""... and those that use TF32 tensor cores or asynchronous copies."""

_NULL = np.uint64(0)
"""What a pointer to nothing looks like among arguments, which CuPy passes on byte by byte."""

MOST_BLOCKS = (2**31 - 1, 65535, 65535)
WITHOUT_ASKING = 48 << 10
"""Bytes of dynamic shared memory that a kernel gets by default; for more it must be prepared once."""

MOST_VALUES = 2**31 - 1
"""Values of one array: the kernels count with 32 bits."""


class GpuKernel:
    """A kernel on a GPU: `kernel(grid, block, arguments)`, the call of the emulator's kernels and of `cupy.RawKernel`."""

    def __init__(self, read: Source, name: str):
        signature = source.find(read, name)
        self.name, self.file = name, read.name
        self._parameters = [(parameter, "*" in kind, dtype_of(kind)) for parameter, kind in _parameters(signature)]
        self._needs = needs(read)
        self._module = _module(read.text, name)
        self._prepared: dict[int, Any] = {}  # by device: CuPy's kernel
        self._allowed: dict[int, int] = {}  # by device: bytes of dynamic shared memory that it was prepared for

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0) -> None:
        """Launches grid blocks of block threads and does not wait; later work on the arrays does.

        Raises ConfigError for arguments that do not fit the kernel, BackendError for a GPU that is too old or has too little
        shared memory, and where the compiler, its headers or CuPy's own files are missing.
        """
        xp = cupy()
        device = xp.cuda.runtime.getDevice()
        self.check(args, device)
        if not all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=False)):
            raise ConfigError(f"{self.name}: grid is {tuple(grid)}. A GPU takes 1 to {', '.join(map(str, MOST_BLOCKS))} blocks: "
                              "use smaller tiles, or fewer images in a batch.")  # fmt: skip
        kernel = self._prepared.get(device) or self._prepare(xp, device)
        if shared_mem > max(WITHOUT_ASKING, self._allowed.get(device, 0)):
            has = attribute(device, "MaxSharedMemoryPerBlockOptin")
            if shared_mem > has:
                raise BackendError(f"{self.file}: {self.name} needs {shared_mem >> 10} KiB of shared memory for a block, GPU "
                                   f"{device} has {has >> 10} KiB. {_LOWER}")  # fmt: skip
            kernel.max_dynamic_shared_size_bytes = shared_mem
            self._allowed[device] = shared_mem
        kernel(tuple(grid), tuple(block), tuple(_NULL if value is None else value for value in args), shared_mem=shared_mem)

    def check(self, args: Sequence[Any], device: int) -> None:
        """Raise ConfigError unless the arguments are those that the kernel declares, in number, kind, dtype and layout.

        None is a pointer to nothing, for arrays that a kernel can do without.
        """
        if len(args) != len(self._parameters):
            names = ", ".join(name for name, _, _ in self._parameters)
            raise ConfigError(f"{self.name}: takes {len(self._parameters)} arguments ({names}), got {len(args)}.")
        for i, (value, (name, pointer, dtype)) in enumerate(zip(args, self._parameters, strict=True)):
            wrong = _wrong_array(value, dtype, device) if pointer else _wrong_value(value, dtype)
            if wrong is not None:
                raise ConfigError(f"{self.name}: argument {i} ({name}) {wrong}")

    def _prepare(self, xp: Any, device: int) -> Any:
        """Compile for a device, or take it from CuPy's cache; turn what can go wrong into something to act on."""
        has = architecture(device)
        if has < self._needs:
            raise BackendError(f"{self.file} needs a GPU of compute capability {self._needs / 10}, GPU {device} has {has / 10}. "
                               f"{_older(self._needs)}")  # fmt: skip
        try:
            kernel = self._module.get_function(self.name)
            _ = kernel.num_regs  # loads it now, so that what is wrong with it is not blamed on a later line
        except xp.cuda.compiler.CompileException as error:
            raise BackendError(f"{self.file}: {self.name} does not compile for sm_{has}: {_first_error(error)}. The kernels are "
                               "written for CUDA 12 and 13: is CuPy's NVRTC of these? Or report it.") from error  # fmt: skip
        except (RuntimeError, OSError) as error:
            if "header" in str(error).lower():
                raise BackendError(f"{self.file}: CuPy finds no CUDA headers, and compiles nothing without ({short(error)}). "
                                   f"Install them: {_toolkit(xp)}.") from error  # fmt: skip
            if "nvrtc" in str(error).lower():
                raise BackendError(f"{self.file}: CuPy finds no NVRTC, the compiler for GPUs ({short(error)}). "
                                   f"Install it: {_toolkit(xp)}.") from error  # fmt: skip
            raise BackendError(f"{self.file}: {self.name} cannot be loaded on sm_{has}: {short(error)}.") from error
        self._prepared[device] = kernel
        return kernel


@lru_cache
def load(file: str, name: str) -> GpuKernel:
    """A kernel by its file in `kernels/` and its name, with its arguments if it is a template: "gemm<8, 4>".

    It is compiled when it is first called. Raises ConfigError for a file or a kernel that is not there.
    """
    return GpuKernel(source.read(file), name)


@lru_cache
def _module(text: str, name: str) -> Any:
    """A kernel file as CuPy has it, with one of its kernels.

    CuPy is told the name as C++ writes it, and finds out what the compiler made of it: that of a template, and that of any kernel
    without extern "C", stands in the compiled code as another.
    """
    return cupy().RawModule(code=text, options=("--std=c++17",), name_expressions=(name,))


@lru_cache
def architecture(device: int) -> int:
    """Compute capability of a GPU, times ten: 90 for an H100."""
    return int(cupy().cuda.Device(device).compute_capability)


@lru_cache
def attribute(device: int, name: str) -> int:
    """A number that CUDA knows of a GPU, by its name without cudaDevAttr: "MultiProcessorCount"."""
    return int(cupy().cuda.Device(device).attributes[name])


def needs(read: Source) -> int:
    """The compute capability, times ten, that a kernel file needs: its own lines say which instructions it uses."""
    own = (line for name, lines in read.files.items() if not name.endswith("tu_device.cuh") for line in lines)
    modern = any(word in line for line in own for word in ("tu_mma", "tu_cp_", "tu_tf32"))
    return TENSOR_CORES if modern else OLDEST


def dtype_of(kind: str) -> np.dtype[Any] | None:
    """NumPy's dtype for a parameter's type, "const float *"; None for one that it has not."""
    words = [word for word in kind.replace("*", " ").replace("&", " ").split() if word not in ("const", "volatile")]
    name = DTYPES.get(" ".join(words))
    return np.dtype(name) if name else None


def _parameters(signature: Signature) -> list[tuple[str, str]]:
    return list(zip(signature.parameters, signature.types, strict=True))


def _wrong_value(value: object, dtype: np.dtype[Any] | None) -> str | None:
    """Why a kernel does not take this for a value, and what to do; None if it does."""
    if isinstance(value, np.generic | np.ndarray) and (dtype is None or value.dtype == dtype):
        return None
    return (f"is {_described(value)}, the kernel takes a value of dtype {dtype or 'its own'}. "
            "Say which: a GPU gets its bytes as they are, e.g. np.int32(3).")  # fmt: skip


def _wrong_array(value: Any, dtype: np.dtype[Any] | None, device: int) -> str | None:
    """Why a kernel on a device does not take this for a pointer, and what to do; None if it does."""
    if value is None:
        return None
    if array_module(value) is np:
        return f"is {_described(value)}, the kernel takes an array of the GPU. Use cupy.asarray."
    if dtype is not None and value.dtype != dtype:
        return f"has dtype {value.dtype}, the kernel takes {dtype}. Use .astype."
    if not value.flags.c_contiguous:
        return (f"is not C-contiguous: strides {value.strides} for shape {value.shape}. "
                "Convert it with cupy.ascontiguousarray.")  # fmt: skip
    if value.size > MOST_VALUES:
        return f"has {value.size} values, and kernels count with 32 bits. Use smaller tiles or batches."
    if value.device.id != device:
        has = value.device.id
        return f"is on GPU {has}, the current one is {device}. Run inside `with cupy.cuda.Device({has}):`."
    return None


def _described(value: object) -> str:
    """What was given, for messages."""
    dtype = getattr(value, "dtype", None)
    kind = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
    return f"{kind} of {dtype}" if dtype is not None else f"{short(value, 40)} ({type(value).__name__})"


_LOWER = 'Pick a lower rung, e.g. tinyunet.rung(conv3x3="06_pipelined").'


def _older(needed: int) -> str:
    """What to do with a GPU that is too old."""
    if needed == TENSOR_CORES:
        return _LOWER
    return "CUDA 13 knows none that old. Use the CPU."


def _first_error(error: Exception) -> str:
    """The first line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return short(next((line for line in lines if "error" in line), lines[0] if lines else "no message"))


def _toolkit(xp: Any) -> str:
    """How to get compiler and headers for the CuPy that is there."""
    version = xp.cuda.runtime.runtimeGetVersion() // 1000
    return f'pip install "cupy-cuda{version}x[ctk]", or a CUDA {version} toolkit and CUDA_PATH set to its folder'
