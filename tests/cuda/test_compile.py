"""Every kernel compiles for the GPUs that it is for, without spills; those for tensor cores and cp.async do use them.

It needs no GPU: NVRTC, the compiler inside CuPy, and nvdisasm are wheels, `pip install "tinyunet[cuda-check]"`. What is asserted
of which kernel stands in kernels/manifest.toml.
"""

import ctypes
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tinyunet.cuda import source

ARCHITECTURES = (75, 80, 90, 120)
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")  # as CuPy has them
REMEDY = 'pip install "tinyunet[cuda-check]"'
MANIFEST = tomllib.loads((source.kernels_folder() / "manifest.toml").read_text(encoding="utf-8"))
LAUNCHES = [(file, arch) for file, entries in MANIFEST.items() for arch in ARCHITECTURES if arch >= entries[0]["arch"]]


def installed(pattern):
    """A file of NVIDIA's wheels; None if they are not installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).rglob(pattern))), None)


class Compiled(NamedTuple):
    """A kernel file for one architecture."""

    cubin: bytes
    names: dict[str, str]  # of its kernels: as in the manifest -> as in the cubin
    said: str  # by the assembler


@pytest.fixture(scope="session")
def compiled():
    """Compiles kernels with NVRTC: compiled(text, entries, arch); skips where it is not installed."""
    path = installed("libnvrtc.so.*")
    if path is None:
        pytest.skip(f"needs NVRTC: {REMEDY}")
    nvrtc = ctypes.CDLL(str(path))

    def get(program, what):
        size = ctypes.c_size_t()
        assert nvrtc[f"nvrtcGet{what}Size"](program, ctypes.byref(size)) == 0
        data = ctypes.create_string_buffer(size.value)
        assert nvrtc[f"nvrtcGet{what}"](program, data) == 0
        return data.raw

    def run(text, entries, arch):
        program, name = ctypes.c_void_p(), ctypes.c_char_p()
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None) == 0
        for entry in entries:
            assert nvrtc.nvrtcAddNameExpression(program, entry.encode()) == 0
        options = [option.encode() for option in (*OPTIONS, f"-arch=sm_{arch}")]
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        said = get(program, "ProgramLog").rstrip(b"\0").decode()
        assert not failed, f"sm_{arch}:\n{said}"
        names = {}
        for entry in entries:
            assert nvrtc.nvrtcGetLoweredName(program, entry.encode(), ctypes.byref(name)) == 0
            names[entry] = name.value.decode()
        result = Compiled(get(program, "CUBIN"), names, said)
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return result

    return run


def entries_of(file):
    """The names of a file's kernels, as the manifest has them."""
    return tuple(entry["entry"] for entry in MANIFEST[file])


def test_the_manifest_knows_every_kernel():
    """Every __global__ function of kernels/ has an entry, and every entry is one of them."""
    named = {(file, entry.split("<")[0]) for file in MANIFEST for entry in entries_of(file)}
    assert named == {(file, name) for file in source.kernel_files() for name in source.read(file).kernels}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "arch"), LAUNCHES)
def test_a_kernel_compiles_as_the_manifest_says(file, arch, compiled, tmp_path):
    """For its lowest architecture and those above: at most so many registers, no stack, no spills, no access to local memory,
    and every instruction that it is for. All in one test: workers do not share what they compile."""
    tool = installed("nvdisasm")
    if tool is None:
        pytest.skip(f"needs nvdisasm: {REMEDY}")
    done = compiled(source.read(file).text, entries_of(file), arch)
    (tmp_path / "kernel.cubin").write_bytes(done.cubin)
    code = subprocess.run([tool, "-c", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True).stdout
    sections = dict(re.findall(r"^\.text\.(\w+):\n(.*?)(?=^//-----|\Z)", code, re.MULTILINE | re.DOTALL))
    for entry in MANIFEST[file]:
        name = done.names[entry["entry"]]
        said = done.said.split(f"Compiling entry function '{name}'")[1].split("Compiling entry")[0]
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said, f"{entry['entry']}: {said}"
        assert int(re.search(r"Used (\d+) registers", said)[1]) <= entry["registers"], f"{entry['entry']}: {said}"
        assert [word for word in entry.get("sass", []) if not re.search(word, sections[name])] == [], entry["entry"]
        assert not re.search(r"\s(LDL|STL)\b", sections[name]), entry["entry"]


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in MANIFEST if MANIFEST[file][0]["arch"] == 80])
def test_the_manifest_says_the_lowest_architecture(file, compiled):
    """What it gives to sm_80 has TF32 or cp.async, and sm_75 has neither."""
    with pytest.raises(AssertionError, match=r"requires .*sm_80"):
        compiled(source.read(file).text, entries_of(file), 75)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensor", "warp", "access"])
def test_kernels_of_tests_compile(name, compiled):
    """What the emulator is tested with is CUDA."""
    read = source.read(Path(__file__).parent / "kernels" / f"{name}.cu")
    compiled(read.text, tuple(kernel.name for kernel in read.kernels.values() if not kernel.template), 90)
