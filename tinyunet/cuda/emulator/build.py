"""Compiles a kernel for the CPU, with g++ or clang++, and keeps what it compiled.

A kernel becomes one shared library: CUDA's vocabulary (device.h), the kernel, and the runtime (scheduler.cpp, memory.cpp).
Libraries are kept in the user's cache folder under a hash of everything they depend on: the text, the flags, the compiler.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tinyunet.cuda.source import Source, inline
from tinyunet.errors import BackendError
from tinyunet.files import atomic_write

_HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-w",
          "-fno-optimize-sibling-calls", "-fstack-clash-protection", "-U_FORTIFY_SOURCE")  # fmt: skip
_CLANG = ("-mllvm", "-tsan-instrument-read-before-write=1")  # or of y += x, the load of y would not be seen
# In checked code every load and store of the source is a call: little is optimised, so that the source is what is counted.
_FAST, _CHECKED = ("-O2", "-gdwarf-4"), ("-O1", "-gdwarf-4", "-fsanitize=thread", "-DTU_CHECKED")
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?(\w[\w ]*?)\s+(\w+)\s*\[\s*\]\s*;")


class Compiler(NamedTuple):
    """A C++ compiler: its path, and the line in which it tells its version."""

    path: str
    version: str


def find_compiler() -> Compiler:
    """g++ or clang++: the one that the variable CXX names, or else the first on PATH.

    Raises BackendError if there is none, and on systems other than Linux.
    """
    if sys.platform != "linux":
        raise BackendError(f"emulator: runs on Linux, this is {sys.platform}. Use a container, or WSL on Windows.")
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("g++", "clang++"):
        path = shutil.which(name)
        if path:
            return _identify(path)
    if asked:
        raise BackendError(f"emulator: CXX is {asked!r}, which is no program. Set it to the path of g++ or clang++, or unset it.")
    raise BackendError("emulator: found neither g++ nor clang++ on PATH, and one is needed to compile kernels for the CPU. "
                       "Install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), "
                       "or set CXX to its path.")  # fmt: skip


@cache
def _identify(path: str) -> Compiler:
    """Asks a compiler for its version."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Compiler(path, done.stdout.split("\n")[0])


def cache_folder() -> Path:
    """Where compiled kernels are kept: $TINYUNET_CACHE, or else tinyunet/emulator in the user's cache folder."""
    own = os.environ.get("TINYUNET_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyunet" / "emulator"


def build(source: Source, exports: tuple[str, ...], checked: bool, portable: bool) -> Path:
    """The shared library of a kernel file, from the cache if it was compiled before.

    `exports` are the kernels to be called, as C++ writes them: "conv3x3", "gemm<8, 4>". `checked` makes every load and store
    a call. `portable` switches threads by ucontext also where a faster way is known.

    Raises BackendError if there is no compiler, or with what the compiler says if the file does not compile.
    """
    compiler = find_compiler()
    device, _ = inline(_HERE / "device.h", _HERE.parent)
    calls = "".join(f"TU_EXPORT({i}, {name})\n" for i, name in enumerate(exports))
    kernel = _DYNAMIC.sub(r"\1 *\2 = (\1 *)tu_emu::dynamic_shared();", source.text)  # `extern static thread_local` is no C++
    runtime = _compile(compiler, inline(_HERE / "runtime.cpp", _HERE.parent, system=True)[0], "emulator/runtime.cpp",
                       (*_FLAGS, "-O2", *(("-DTU_UCONTEXT",) if portable else ())))  # fmt: skip
    flags = (*_FLAGS, *(_CHECKED if checked else _FAST), *(_CLANG if checked and "clang" in compiler.version else ()))
    text = f'{device}{kernel}\n#line 1 "exports"\n{calls}'
    library = cache_folder() / f"{_key(compiler, text, *flags, runtime.name)}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory() as folder, atomic_write(library) as part:
            compiled = Path(folder) / "kernel.o"
            _run(compiler, source.name, [*flags, "-c", "-x", "c++", "-", "-o", str(compiled)], text)
            # linked in a second step: with -fsanitize=thread on the line, ThreadSanitizer would be linked as well
            _run(compiler, source.name, ["-shared", str(compiled), str(runtime), "-o", str(part)])
    return library


def _compile(compiler: Compiler, text: str, name: str, flags: tuple[str, ...]) -> Path:
    """An object file, from the cache if it was compiled before."""
    path = cache_folder() / f"{_key(compiler, text, *flags)}.o"
    if not path.is_file():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies here is run: it must be the user's own
        except OSError as error:
            raise BackendError(f"emulator: no folder for compiled kernels at {path.parent} ({error.strerror}). "
                               "Set TINYUNET_CACHE to a folder that you may write to.") from error  # fmt: skip
        with atomic_write(path) as part:
            _run(compiler, name, [*flags, "-c", "-x", "c++", "-", "-o", str(part)], text)
    return path


def _key(compiler: Compiler, *parts: str) -> str:
    """The name under which a compiled file is kept."""
    return hashlib.sha256("\0".join((*compiler, *parts)).encode()).hexdigest()[:24]


def _run(compiler: Compiler, name: str, arguments: list[str], text: str = "") -> None:
    """Runs the compiler; its first errors become ours."""
    done = subprocess.run([compiler.path, *arguments], input=text, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((i for i, line in enumerate(lines) if "error" in line), 0)
        said = "\n".join(lines[first : first + 12])
        raise BackendError(f"emulator: {name} does not compile with {Path(compiler.path).name}. It says:\n{said}")
