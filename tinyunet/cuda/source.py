"""Reads a kernel file, with what it includes put in its place: one text, the same for a GPU's compiler and for the emulator.

Includes are put in by us for two reasons. NVRTC, CuPy's compiler, finds no header by itself; and CuPy's cache of compiled
kernels looks at the text alone, so that an edited header would silently run the old kernel. `#line` directives keep the names
and lines of the files, for compilers' messages and for the emulator's reports.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tinyunet.errors import ConfigError
from tinyunet.files import own_folder

_INCLUDE = re.compile(r'\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(r'(?:template\s*<([^{};]*)>\s*)?(?:extern\s*"C"\s*)?__global__\s+void\s+'
                     r"(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\(([^()]*)\)\s*\{")  # fmt: skip

_EXAMPLE = {"bool": "true", "class": "float", "typename": "float"}  # an argument for a template's parameter; of int: 64
_DECLARED = re.compile(r"(.*?)(\w+)", re.DOTALL)


class Signature(NamedTuple):
    """A kernel as its file declares it."""

    name: str
    parameters: tuple[str, ...]  # their names
    types: tuple[str, ...]  # and types: "const float *"
    template: str  # what it is a template of: "int CHANNELS, bool WIDE"; "" if it is none


class Source(NamedTuple):
    """A kernel file and all that it includes."""

    name: str
    text: str  # with the includes in their places
    files: dict[str, list[str]]  # the lines of each file, by the name under which `text` and reports know it
    kernels: dict[str, Signature]  # every __global__ function


def kernels_folder() -> Path:
    """Where the kernels lie. Raises ConfigError if they are nowhere."""
    return own_folder("kernels", "include")


def read(file: str | Path) -> Source:
    """A kernel file by its name in `kernels/` ("conv3x3/01_naive.cu"), or any other file by its path.

    Raises ConfigError for a file or an include that is not there, and for headers of the system.
    """
    folder = kernels_folder()
    path = next((p for p in (folder / file, Path(file)) if p.is_file()), None)
    if path is None:
        near = [name for name in kernel_files() if Path(name).name == Path(file).with_suffix(".cu").name]
        have = f"Do you mean {' or '.join(near)}?" if near else f"kernels/ has: {', '.join(kernel_files())}."
        raise ConfigError(f"{file}: no such kernel. {have} Or give the path of a file.")
    text, files = inline(path, folder)
    return Source(_name(path, folder), text, files, _signatures(text))


def find(read: Source, name: str) -> Signature:
    """The signature of a kernel by its name, with its arguments if it is a template: "conv3x3", "gemm<8, 4>".

    Raises ConfigError if the file has no such kernel.
    """
    signature = read.kernels.get(name.split("<")[0].strip())
    if signature is None:
        names = ", ".join(read.kernels) or "none"
        raise ConfigError(f"{read.name}: has no kernel {name!r}. Its __global__ functions: {names}.")
    if signature.template and "<" not in name:
        values = (_EXAMPLE.get(parameter.split()[0], "64") for parameter in signature.template.split(","))
        raise ConfigError(f"{read.name}: {signature.name} is a template <{signature.template}>: give its arguments, "
                          f"e.g. '{signature.name}<{', '.join(values)}>'.")  # fmt: skip
    if not signature.template and "<" in name:
        raise ConfigError(f"{read.name}: {signature.name} is no template: give its name alone, e.g. {signature.name!r}.")
    return signature


def kernel_files() -> list[str]:
    """Names of all kernel files in `kernels/`, as `read` takes them."""
    return sorted(_name(path, kernels_folder()) for path in kernels_folder().rglob("*.cu"))


def inline(path: Path, root: Path, system: bool = False) -> tuple[str, dict[str, list[str]]]:
    """The text of a file with its `#include "..."` put in, and the lines of every file by name (relative to root).

    An included file is looked for beside the file that includes it, then in root/include; it is put in once. Headers of the
    system stay as they are if `system`, else they raise ConfigError.
    """
    files: dict[str, list[str]] = {}

    def expand(path: Path) -> list[str]:
        name = _name(path, root)
        files[name] = path.read_text(encoding="utf-8").splitlines()
        out = [f'#line 1 "{name}"']
        for number, line in enumerate(files[name], 1):
            match = _INCLUDE.match(line)
            if match and match[1]:
                found = next((p for p in (path.parent / match[1], root / "include" / match[1]) if p.is_file()), None)
                if found is None:
                    raise ConfigError(f'{name}:{number}: "{match[1]}" is neither beside it nor in kernels/include.')
                if _name(found, root) not in files:
                    out += expand(found)
                out.append(f'#line {number + 1} "{name}"')
            elif match and not system:
                raise ConfigError(f"{name}:{number}: <{match[2]}> is a header of the system, and NVRTC finds none. "
                                  'Include "tu_device.cuh", or declare what is needed.')  # fmt: skip
            else:
                out.append("" if line.strip() == "#pragma once" else line)  # every file is put in once anyway
        return out

    return "\n".join(expand(path)) + "\n", files


def _name(path: Path, root: Path) -> str:
    """The name of a file in messages: relative to root if it lies in it."""
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _signatures(text: str) -> dict[str, Signature]:
    """Every __global__ function of a text."""
    found = {}
    for template, name, parameters in _KERNEL.findall(_COMMENT.sub(" ", text)):
        declared = [_DECLARED.fullmatch(p.replace("__restrict__", " ").strip()) for p in parameters.split(",") if p.strip()]
        types, names = zip(*((" ".join(m[1].split()), m[2]) for m in declared if m), strict=True) if declared else ((), ())
        found[name] = Signature(name, names, types, " ".join(template.split()))
    return found
