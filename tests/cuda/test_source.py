"""Kernel files are read whole: includes in their places, names and lines kept; every rung says what it is about."""

import re

import pytest

from tinyunet import files
from tinyunet.cuda import source
from tinyunet.errors import ConfigError


def test_includes_are_put_in_once_with_their_lines(tmp_path):
    """Beside the file or in kernels/include; a second time they are left out; #line says where each line is from."""
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("int b;\n")
    (tmp_path / "k.cu").write_text('#include "b.cuh"\n#include "a.cuh"\n#include "tu_device.cuh"\n__global__ void k() {}\n')
    read = source.read(tmp_path / "k.cu")
    assert list(read.files) == ["k.cu", "b.cuh", "a.cuh", "include/tu_device.cuh"]
    assert re.findall(r"^(?:int \w;|#line .*|__global__.*)$", read.text, re.MULTILINE) == [
        '#line 1 "k.cu"', '#line 1 "b.cuh"', "int b;", '#line 2 "k.cu"', '#line 1 "a.cuh"', '#line 3 "a.cuh"', "int a;",
        '#line 3 "k.cu"', '#line 1 "include/tu_device.cuh"', '#line 4 "k.cu"', "__global__ void k() {}"]  # fmt: skip
    assert "#include" not in read.text


def test_kernels_are_found_in_a_text(tmp_path):
    """Names, parameters, templates; not what stands in comments."""
    (tmp_path / "k.cu").write_text("""
// __global__ void no(int x) {
template <int A, int B = 2> __global__ void __launch_bounds__(32) t(const float *__restrict__ x /* in */, int n) {}
extern "C" __global__ void
k(float *y) {}
__device__ float f(float x) { return x; }
""")
    found = source.read(tmp_path / "k.cu").kernels
    assert found == {"t": ("t", ("x", "n"), ("const float *", "int"), "int A, int B = 2"),
                     "k": ("k", ("y",), ("float *",), "")}


@pytest.mark.parametrize(("text", "words"), [
    ("#include <stdint.h>\n", r"k.cu:1: <stdint.h> is a header of the system, and NVRTC finds none"),
    ('\n#include "none.cuh"\n', r'k.cu:2: "none.cuh" is neither beside it nor in kernels/include'),
])  # fmt: skip
def test_an_include_that_cannot_be(text, words, tmp_path):
    """Headers of the system, and files that are not there."""
    (tmp_path / "k.cu").write_text(text)
    with pytest.raises(ConfigError, match=words):
        source.read(tmp_path / "k.cu")


def test_a_file_that_is_not_there():
    """The error lists those that are."""
    with pytest.raises(ConfigError, match=r"conv3x3/0.cu: no such kernel. kernels/ has: conv3x3/01_naive.cu, "):
        source.read("conv3x3/0.cu")


@pytest.mark.parametrize("name", ["03_halo_tile.cu", "03_halo_tile", "conv/03_halo_tile.cu"])
def test_a_file_that_lies_in_another_folder(name):
    """Whoever knows the name of the file is told its folder, not all files."""
    with pytest.raises(ConfigError, match=rf"^{name}: no such kernel. Do you mean conv3x3/03_halo_tile.cu\? Or give the path"):
        source.read(name)


def test_arguments_of_a_template_are_named():
    """A template without arguments: the error says what it is a template of, and an example that can be called."""
    read = source.read("conv3x3/06_pipelined.cu")
    with pytest.raises(ConfigError, match=r"a template <int CHANNELS, bool WIDE>: give its arguments, e.g. 'conv3x3<64, true>'"):
        source.find(read, "conv3x3")
    assert source.find(read, "conv3x3<64, true>").parameters[:4] == ("x", "w", "b", "y")


def test_every_rung_says_what_it_changes():
    """The head of a file: its number and name, what changed, why, the gain predicted and measured, the limit, the launch."""
    for name in source.kernel_files():
        head = source.read(name).files[name]
        comment = "\n".join(line for line in head if line.startswith("//"))
        labels = ["Launch:"]
        if rung := re.fullmatch(r".*/(\d\d)_(\w+)\.cu", name):
            assert re.sub("[-_]", " ", head[0]).lower().startswith(f"// {rung[1]} {rung[2]}: ".replace("_", " "))
            labels += ["Changed since", "Predicted gain", "Measured gain:", "Limited by:"]
        assert [label for label in labels if label not in comment] == [], name


def test_an_installation_without_kernels(monkeypatch, tmp_path):
    """Where the .cu files lie neither in the package nor beside it, both places and the remedy are said."""
    monkeypatch.setattr(files, "__file__", str(tmp_path / "tinyunet" / "files.py"))
    text = f"kernels: no folder with include in {tmp_path / 'tinyunet'} or beside it. Install tinyunet again, from its wheel."
    with pytest.raises(ConfigError, match=re.escape(text)):
        source.kernels_folder()
