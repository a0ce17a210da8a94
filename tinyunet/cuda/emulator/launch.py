"""Launching a kernel on NumPy arrays, by the call that CuPy has for a GPU."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyunet.cuda import source
from tinyunet.cuda.emulator.build import build
from tinyunet.cuda.emulator.report import FINDING, LINE, Index, Launched, Report, Totals, make_report
from tinyunet.cuda.source import Signature, Source
from tinyunet.errors import BackendError, ConfigError, short

MODES = ("fast", "check", "trace")
SCHEDULES = ("index", "reverse", "random")
_MARGIN = 64 << 10  # mapped before and after an array, so that a near miss is told from a wild one; as in memory.cpp
_LAUNCH = Lock()  # the runtime's state is global to a library, and so is the handler of crashes to the process


class Module:
    """A kernel file. `get` gives its kernels; they are compiled when they are first called."""

    def __init__(self, read: Source, portable: bool = False):
        self.source = read
        self._portable = portable
        self._libraries: dict[tuple[tuple[str, ...], bool], _Library] = {}

    def get(self, name: str) -> Kernel:
        """A kernel by its name, with its arguments if it is a template: "conv3x3", "gemm<8, 4>".

        Raises ConfigError if the file has no such kernel.
        """
        return Kernel(self, name, source.find(self.source, name))

    def library(self, name: str, checked: bool) -> tuple[_Library, int]:
        """The library that holds a kernel, and the kernel's number in it. All kernels that are no templates share one."""
        plain = tuple(s.name for s in self.source.kernels.values() if not s.template)
        exports = plain if name in plain else (name,)
        if (exports, checked) not in self._libraries:
            self._libraries[exports, checked] = _Library(build(self.source, exports, checked, self._portable))
        return self._libraries[exports, checked], exports.index(name)


class Kernel:
    """A kernel that can be called: `kernel(grid, block, arguments)`."""

    def __init__(self, module: Module, name: str, signature: Signature):
        self.name = name
        self.parameters = signature.parameters
        self._module = module

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0, *,
                 mode: str = "fast", schedule: str = "index", seed: int = 0,
                 trace_block: Sequence[int] | None = None) -> Report:  # fmt: skip
        """Runs grid blocks of block threads, (x,) or (x, y) or (x, y, z), as `cupy.RawKernel` would, and waits for the end.

        args are NumPy arrays for pointers, which the kernel writes in place, None for a null pointer, and NumPy scalars
        (`np.int32(3)`) for values, all of the very dtype that the kernel declares: CuPy does not convert them either, and no
        GPU would notice.
        shared_mem is the size of `extern __shared__` arrays in bytes. The order of threads and blocks is the schedule's:
        "index", "reverse", or "random", drawn from the seed.

        mode "fast" runs compiled code as it is; "check" looks at every access; "trace" counts what lines ask of the memory,
        over all blocks or in one `trace_block`.

        Raises ConfigError for arguments that do not fit, BackendError without a compiler, and in the modes other than
        "check" CheckError if the kernel cannot go on. In check mode what is found is in the report: see `Report.require_ok`.
        """
        for value, allowed, word in ((mode, MODES, "mode"), (schedule, SCHEDULES, "schedule")):
            if value not in allowed:
                raise ConfigError(f"{self.name}: {word} {value!r} is unknown. Choose one of: {', '.join(allowed)}.")
        blocks, threads = self._size(grid, "grid", (2**31 - 1, 65535, 65535)), self._size(block, "block", (1024, 1024, 64))
        if prod(threads) > 1024:
            raise ConfigError(f"{self.name}: block {threads} has {prod(threads)} threads. No GPU takes more than 1024.")
        if not 0 <= shared_mem <= 227 << 10:
            raise ConfigError(f"{self.name}: shared_mem is {shared_mem} bytes. A block has at most 232448 (227 KiB), on an H100.")
        traced = -1
        if trace_block is not None:
            x, y, z = (*trace_block, 0, 0)[:3]
            traced = x + blocks[0] * (y + blocks[1] * z)
            if not (0 <= x < blocks[0] and 0 <= y < blocks[1] and 0 <= z < blocks[2]):
                raise ConfigError(f"{self.name}: trace_block {tuple(trace_block)} is not in a grid of {blocks}.")
        library, number = self._module.library(self.name, checked=mode != "fast")
        numbers = (*threads, *blocks, mode == "check", mode == "trace", SCHEDULES.index(schedule), seed & 0xFFFFFFFF, traced)

        with _LAUNCH, ExitStack() as stack:
            shared = stack.enter_context(_Memory(shared_mem, guarded=mode == "fast"))
            placed, lows, highs, writable, names = self._place(args, library.parameters(number), stack, mode == "fast")
            library.prepare([shared.low, *lows], [shared.high, *highs], [True, *writable], mode == "check")
            library.launch(number, placed, numbers)
            findings, lines, totals, static_shared = library.results()
            launched = Launched(self._module.source, self.name, library.path, library.base, names, blocks, threads)
            report = make_report(mode, findings, lines, totals, static_shared, launched)
        if mode != "check":
            report.require_ok()
        return report

    def _size(self, size: Sequence[int], word: str, most: Index) -> Index:
        """A grid or block with all its three numbers."""
        try:
            given = tuple(int(n) for n in size)
        except TypeError:
            raise ConfigError(f"{self.name}: {word} is {short(size)}. Give a tuple of sizes, e.g. (16, 8).") from None
        if not 1 <= len(given) <= 3 or not all(1 <= n <= m for n, m in zip(given, most, strict=False)):
            raise ConfigError(f"{self.name}: {word} is {given}. Give one to three sizes, from 1 to {', '.join(map(str, most))}.")
        x, y, z = (*given, 1, 1)[:3]
        return x, y, z

    def _place(self, args: Sequence[Any], declared: list[tuple[str, str, int]], stack: ExitStack,
               guarded: bool) -> tuple[list[Any], list[int], list[int], list[bool], dict[int, tuple[str, int, int]]]:  # fmt: skip
        """Arguments as the kernel gets them: arrays are copied to memory with nothing around it, and copied back at the end.

        -> C values of all arguments; of the arrays: starts, ends, whether writable, and by region their names and sizes
        """
        if len(args) != len(declared):
            raise ConfigError(f"{self.name}: takes {len(declared)} arguments ({', '.join(self.parameters)}), got {len(args)}.")
        values: list[Any] = []
        memories: list[tuple[NDArray[Any], _Memory]] = []
        writable: list[bool] = []
        names: dict[int, tuple[str, int, int]] = {}
        for i, (value, name, (pointer, kind, size)) in enumerate(zip(args, self.parameters, declared, strict=True)):
            who = f"{self.name}: argument {i} ({name})"
            dtype = f"{kind}{size}" if kind != "V" else f"{size} bytes"
            if pointer == "-":
                if not isinstance(value, np.generic | np.ndarray) or value.size != 1 or value.dtype.itemsize != size or (
                        kind not in ("V", value.dtype.kind)):  # fmt: skip
                    raise ConfigError(f"{who} is {_describe(value)}, the kernel takes a value of dtype {_dtype_name(dtype)}. "
                                      "Say which: a GPU gets its bytes as they are, e.g. np.int32(3).")  # fmt: skip
                values.append(ctypes.create_string_buffer(value.tobytes(), size))
                continue
            if value is None:
                values.append(ctypes.c_void_p(None))
                continue
            if not isinstance(value, np.ndarray):
                raise ConfigError(f"{who} is {_describe(value)}, the kernel takes a pointer. Give a NumPy array, or None.")
            if kind != "V" and (value.dtype.kind, value.dtype.itemsize) != (kind, size):
                raise ConfigError(f"{who} has dtype {value.dtype}, the kernel takes {_dtype_name(dtype)}. Use .astype.")
            if not value.flags.c_contiguous:
                raise ConfigError(f"{who} is not C-contiguous: strides {value.strides} for shape {value.shape}. "
                                  "Convert it with np.ascontiguousarray.")  # fmt: skip
            if pointer == "w" and not value.flags.writeable:
                raise ConfigError(f"{who} is read-only, and the kernel may write to it. Give a copy.")
            at = next((j for j, (other, _) in enumerate(memories) if _same_memory(value, other, who)), None)
            if at is None:
                at = len(memories)
                memories.append((value, stack.enter_context(_Memory(value.nbytes, guarded))))
                memories[at][1].fill(value)
                writable.append(False)
                names[at + 2] = (name, size, value.nbytes)  # regions 0 and 1 are shared memory
            if pointer == "w" and not writable[at]:
                writable[at] = True
                stack.callback(memories[at][1].copy_to, value)
            values.append(ctypes.c_void_p(memories[at][1].low))
        return values, [m.low for _, m in memories], [m.high for _, m in memories], writable, names


def _same_memory(a: NDArray[Any], b: NDArray[Any], who: str) -> bool:
    """Whether two arrays are one piece of memory. Raises ConfigError if they share only a part of it."""
    if a.ctypes.data == b.ctypes.data and a.nbytes == b.nbytes:
        return True
    if np.may_share_memory(a, b):
        raise ConfigError(f"{who} overlaps another argument. The emulator copies every array: give the whole array, or copies.")
    return False


def _describe(value: object) -> str:
    """What was given, for messages."""
    dtype = getattr(value, "dtype", None)
    kind = type(value).__name__
    return f"{kind} of {dtype}" if isinstance(value, np.ndarray) else f"{short(value, 40)} ({kind})"


def _dtype_name(code: str) -> str:
    """NumPy's name for a dtype code: "f4" -> "float32"; others stay."""
    return str(np.dtype(code)) if code[0] in "fiub" and code[1:].isdigit() else code


class _Memory:
    """A piece of memory with a margin on both sides, and one page behind it that must not be touched.

    guarded puts its end at that page: the first access past it is a crash, with no check at all (up to 15 bytes later,
    where the size is no multiple of 16). Else it starts at a multiple of 256 bytes, as all arrays of a GPU do.
    """

    def __init__(self, size: int, guarded: bool):
        page = mmap.PAGESIZE
        whole = -(-size // page) * page
        self._length = _MARGIN + whole + _MARGIN + page
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._start = _LIBC.mmap(None, self._length, protection, flags, -1, 0)
        if self._start == ctypes.c_void_p(-1).value:
            raise BackendError(f"emulator: no memory for an array of {size} bytes.")
        self.low = self._start + _MARGIN + (whole - -(-size // 16) * 16 if guarded else 0)
        self.high = self.low + size
        _LIBC.mprotect(self._start + _MARGIN + whole, _MARGIN + page, 0)

    def fill(self, a: NDArray[Any]) -> None:
        ctypes.memmove(self.low, a.ctypes.data, a.nbytes)

    def copy_to(self, a: NDArray[Any]) -> None:
        ctypes.memmove(a.ctypes.data, self.low, a.nbytes)

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        _LIBC.munmap(self._start, self._length)


_LIBC = ctypes.CDLL(None)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Library:
    """A compiled file, with the calls of the runtime in it."""

    ran_last: ClassVar[_Library | None] = None

    def __init__(self, path: Path):
        self.path = path
        try:
            self._c = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendError(f"emulator: {path} cannot be loaded ({error}). If that folder is mounted noexec, set "
                               "TINYUNET_CACHE to another.") from error  # fmt: skip
        # Another process that built the same at the same time may have put its file in the place of ours.
        maps = (line.removesuffix(" (deleted)") for line in Path("/proc/self/maps").read_text().splitlines())
        self.base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(str(path.resolve())))
        for name in ("tu_findings", "tu_lines", "tu_totals"):
            getattr(self._c, name).restype = ctypes.c_void_p
        self._c.tu_static_shared.restype = ctypes.c_int64

    def parameters(self, number: int) -> list[tuple[str, str, int]]:
        """What kernel `number` declares: (pointer 'r', 'w' or '-' for none; kind as NumPy's dtype.kind; bytes)"""
        tell = self._c[f"tu_parameters_{number}"]
        tell.restype = ctypes.c_void_p
        start = tell()
        found: list[tuple[str, str, int]] = []
        while (entry := ctypes.string_at(start + 4 * len(found), 4)) != b"\0\0\0\0":
            found.append((chr(entry[0]), chr(entry[1]), entry[2]))
        return found

    def prepare(self, lows: list[int], highs: list[int], writable: list[bool], check: bool) -> None:
        """Forgets the last launch, and says what memory there is."""
        n = len(lows)
        pointers, flags = ctypes.c_void_p * n, ctypes.c_int64 * n
        self._c.tu_prepare(pointers(*lows), pointers(*highs), flags(*writable), ctypes.c_int64(n), ctypes.c_int64(check))

    def launch(self, number: int, values: list[Any], numbers: Sequence[int]) -> None:
        """Runs kernel `number`. Only one library at a time keeps the stacks of its threads."""
        if _Library.ran_last is not None and _Library.ran_last is not self:
            _Library.ran_last._c.tu_free_stacks()
        _Library.ran_last = self
        addresses = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(v) for v in values))
        self._c.tu_launch(self._c[f"tu_kernel_{number}"], addresses, (ctypes.c_int64 * len(numbers))(*map(int, numbers)))

    def results(self) -> tuple[NDArray[Any], NDArray[Any], Totals, int]:
        """Findings, lines, totals, bytes of static shared memory of the last launch."""
        tables = []
        for call, dtype in ((self._c.tu_findings, FINDING), (self._c.tu_lines, LINE)):
            count = ctypes.c_int64()
            start = call(ctypes.byref(count))
            tables.append(np.frombuffer(ctypes.string_at(start, count.value * dtype.itemsize), dtype))
        totals = np.frombuffer(ctypes.string_at(self._c.tu_totals(), 8 * 6), np.int64)
        return tables[0], tables[1], Totals(*totals.tolist()), int(self._c.tu_static_shared())


def load(file: str | Path, portable: bool = False) -> Module:
    """A kernel file by its name in `kernels/` ("conv3x3/01_naive.cu"), or any other by its path.

    portable switches threads by ucontext, as it is done on processors other than x86-64: slower, same results.

    Raises ConfigError if there is no such file, or if it includes what kernels may not.
    """
    return Module(source.read(file), portable)
