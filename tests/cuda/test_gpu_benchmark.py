"""The benchmark of a GPU, without one: what it makes of numbers, and every section once, on a CuPy without a GPU."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """benchmarks/gpu.py and gpu_tables.py, as scripts find each other."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu
    import gpu_tables

    return gpu, gpu_tables


def row(name, ms, layer="a", direction="forward", **more):
    """A measurement."""
    return {"name": name, "ms": ms, "layer": layer, "n": 1, "direction": direction, "gflop": 10.0, "error": 1e-6, **more}


FOUND = {
    "machine": {"gpu": "NVIDIA H200", "date": "2026-01-01", "cuda": 13000, "cupy": "14.2.0", "torch": "2.11.0"},
    "checks": [{"op": "conv3x3", "rung": "01_naive", "ok": True}, {"op": "relu", "rung": "", "ok": False}],
    "ladder": [row("01_naive", 8.0), row("02_coalesced", 2.0), row("01_naive", 2.0, "b"), row("02_coalesced", 2.0, "b"),
               row("torch c", 1.0), row("01_naive_atomics", 5.0, direction="grad_w")],
    "layers": [row("06_pipelined", 2.0), row("06_pipelined", 4.0, "b"), row("torch c", 1.0), row("torch c", 8.0, "b"),
               row("torch b", 1.0)],
    "maps": [{"op": "copy", "ms": 1.0, "gb_s": 4000.0}, {"op": "relu forward", "ms": 1.0, "gb_s": 3000.0}],
    "steps": [{"n": 1, "name": "3xtf32", "ms": 10.0}, {"n": 1, "name": "torch a", "ms": 5.0}],
    "problems": {"maps": ["head: OutOfMemoryError: 3 GB"]},
}  # fmt: skip


def test_ratios_are_geometric_means_over_layers_that_both_have(modules):
    """4x and 1x are 2x; a layer that one of them lacks does not count; of nothing there is no number."""
    _, tables = modules
    assert tables.ratio(FOUND["ladder"], "02_coalesced", "01_naive", direction="forward") == pytest.approx(2)
    assert tables.ratio(FOUND["layers"], "06_pipelined", "torch c") == pytest.approx(1)
    assert tables.ratio(FOUND["layers"], "06_pipelined", "torch b") == pytest.approx(0.5)
    assert tables.number(tables.ratio(FOUND["layers"], "06_pipelined", "torch a")) == ""


def test_the_tables_of_a_file(modules):
    """Machine, what failed, ratios with what was aimed at, bandwidths beside a copy's, steps; what is missing is said."""
    text = modules[1].tables(FOUND)
    assert "Measured on NVIDIA H200, 2026-01-01: CUDA 13.0, CuPy 14.2.0, PyTorch 2.11.0." in text
    assert "1 of 2 kernels agree with float64; not: relu." in text
    assert "| `02_coalesced` | 5.0 |  | 0.50 | 1e-06 |" in text
    assert "| `06_pipelined` | 1 | forward |  | 0.50 | 1.00 | 1e-06 | 0.85 of (c) |" in text
    assert "| relu forward | 3000 | 0.75 |" in text
    assert "| 3xtf32 | 1 | 10.00 | 0.50 |  |  |" in text
    assert "upconvs: not yet measured." in text
    assert "Problems: 1, all in the file of results; the first: maps: head: OutOfMemoryError: 3 GB" in text


def test_measured_gains_go_into_the_heads_of_the_files(modules, tmp_path):
    """Over the rung below, and the speed itself, where the line was blank or held an older number; other lines stay."""
    _, tables = modules
    (tmp_path / "conv3x3").mkdir()
    file = tmp_path / "conv3x3" / "02_coalesced.cu"
    file.write_text("// Predicted gain: 2x\n// Measured gain:\n// Limited by: x\n")
    texts = tables.gains(FOUND)
    assert texts["conv3x3/02_coalesced.cu"] == "2.00x over 01; 5.0 TFLOP/s (NVIDIA H200)"
    assert texts["conv3x3/01_naive.cu"] == "2.5 TFLOP/s (NVIDIA H200)"
    for _ in range(2):
        changed = tables.write_gains(texts, tmp_path)
    assert changed == []
    assert file.read_text() == f"// Predicted gain: 2x\n// Measured gain: {texts['conv3x3/02_coalesced.cu']}\n// Limited by: x\n"


def test_the_page_of_the_kernels_says_what_is_known(modules):
    """Its numbers are those of the newest file, or it says that there are none."""
    modules[1].main(["--check"])


def test_the_layers_are_those_of_the_paper(modules):
    """18 3x3 convolutions and 4 up-convolutions, which make 96 % and most of the rest of 300.857 GFLOP."""
    gpu, _ = modules
    convs, upconvs = gpu.layers_of("conv3x3", 572), gpu.layers_of("upconv", 572)
    assert (len(convs), len(upconvs)) == (18, 4)
    head = 2e-9 * 388**2 * 64 * 2
    assert sum(layer.gflop for layer in (*convs, *upconvs)) + head == pytest.approx(300.857, abs=1e-3)


def test_sections_without_time_are_left_out(modules, fake_cupy, tmp_path, capsys):
    """Each is said to have had none, and the command fails."""
    gpu, _ = modules
    assert gpu.main(["--seconds", "0", "--out", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().out.count("out of time; what it measured before is kept") == len(gpu.SECTIONS)


@pytest.mark.slow
def test_every_section_runs(modules, fake_cupy, compiler, tmp_path, monkeypatch):
    """On a tiny network, each call once: every section writes its rows, beside PyTorch if there is one, without a problem."""
    gpu, tables = modules
    monkeypatch.setattr(gpu, "SPEC", gpu.SPEC.but(depth=1))
    monkeypatch.setattr(gpu, "BATCHES", (1,))
    monkeypatch.setattr(gpu, "LADDER_LAYERS", ("down.0.conv2",))
    monkeypatch.setattr(gpu.Bench, "sets", lambda self, size: 2)
    timed, once = gpu.Bench.milliseconds, lambda self, call, *sets, ahead=True: (call(*sets[-1]), 1.0)[1]
    monkeypatch.setattr(gpu.Bench, "milliseconds", once)
    path = tmp_path / "gpu.json"
    for section in gpu.SECTIONS:
        if section != "checks":  # tests of their own, and long
            assert gpu.main(["--section", section, "--size", "20", "--base", "2", "--repeats", "1", "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    lacking = ["PyTorch is not installed: nothing to compare with"] if "torch" not in sys.modules else []
    assert set(found["problems"]) == {*gpu.SECTIONS} - {"checks"}
    assert [problem for some in found["problems"].values() for problem in some if problem not in lacking] == []
    for section in ("ladder", "layers", "upconvs"):
        assert all(0 <= r["error"] < (1e-3 if "_tf32" in r["name"] else 1e-5) for r in found[section] if "error" in r)
        assert all(r["ms"] > 0 for r in found[section])
    assert "| 3xtf32 | 1 |" in tables.tables(found)
    assert tables.gains(found)["conv3x3/08_mma_tf32_pipe.cu"].endswith("(No GPU)")
    bench = gpu.Bench(path, 20, 2, 3)
    assert timed(bench, fake_cupy.abs, (bench.draw(4),), (bench.draw(4),)) > 0
