"""benchmarks/cpu.py: page and picture follow from the stored numbers, and the targets are decided by them."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cpu  # noqa: E402


def times(ours, nchw, last):
    """Medians with quartiles a tenth off."""
    named = zip(("tinyunet", "nchw", "channels_last"), (ours, nchw, last), strict=True)
    return {name: {"median": t, "low": 0.9 * t, "high": 1.1 * t} for name, t in named}


@pytest.fixture
def results():
    """Made-up measurements: the step of base 64 and the wide layer meet their targets, base 16 does not."""
    layer = {"rung": "winograd", "difference": 3e-6, **times(0.01, 0.02, 0.016)}
    narrow = {"rung": "winograd1d", "difference": 1e-6, **times(0.03, 0.02, 0.015)}
    rows = [{"layer": "down.0.conv2", "c_in": 64, "c_out": 64, "size": 570, "macs": 10, **dict.fromkeys(cpu.TITLES, narrow)},
            {"layer": "down.2.conv2", "c_in": 256, "c_out": 256, "size": 138, "macs": 2e9, **dict.fromkeys(cpu.TITLES, layer)}]
    one = {"base": 16, "size": 572, "seconds": 0.6, "plain_seconds": 0.6, "parts": dict.fromkeys(cpu.PARTS, 0.6 / 7),
           "macs": 28e9, "done_macs": 14e9, "bytes": 1e9, "floor_formula": 0.7, "floor": 0.4}
    sections = {
        "layers": rows,
        "steps": [{"base": 16, "size": 572, **times(0.6, 0.3, 0.25)}, {"base": 64, "size": 572, **times(4.0, 4.5, 5.0)}],
        "sizes": [{"base": 16, "size": 188, **times(0.1, 0.1, 0.2)}],
        "predict": [{"base": 64, "size": 2048, "tile": 1212, "tiles": 4, "done_macs": 5e11, **times(30, 40, 50)}],
        "memory": [{"base": 64, "size": 572, "planned_mib": 1200, "tinyunet": {"imported_mib": 50, "peak_mib": 1300},
                    **{layout: {"imported_mib": 250, "peak_mib": 1500} for layout in cpu.LAYOUTS}}],
        "profile": [one],
        "peers": [{"c_in": 1, "c_out": 64, "size": 572, **times(0.01, 1, 1),
                   **dict.fromkeys(cpu.PEERS, times(0.05, 1, 1)["tinyunet"])}],
        "rungs": [{"seed": seed, "picked": {"iou": 0.94, "seg": 0.7}, "taps": {"iou": 0.93 + seed / 100, "seg": 0.7}}
                  for seed in (0, 1)],
    }  # fmt: skip
    about = {"processor": "abacus", "threads": 2, "numpy": "2", "blas": "beads", "torch": "2"}
    found = {"machine": about, **{name: {"date": "2026-01-02", "rows": rows} for name, rows in sections.items()}}
    found["profile"] |= {"gflops": 100.0, "gbytes": 10.0}
    return found


def test_targets_are_decided_by_the_better_layout(results):
    """Our median over the faster of PyTorch's two; memory beside what importing took; of wide layers the slowest."""
    got = {what: (round(value, 6), most) for what, value, most in cpu.targets(results)}
    assert got["training step, base 64, 572 px: time over PyTorch's"] == (round(4 / 4.5, 6), 1.0)
    assert got["training step, base 16, 572 px: time over PyTorch's"] == (2.4, 1.8)
    assert got["memory that a step adds at its peak, base 64: over PyTorch's"] == (1.0, 1.0)
    assert got["prediction of 2048 x 2048 px, base 64: time over PyTorch's"] == (0.75, 0.9)
    assert got["3x3 layers from 256 channels, forward, the slowest (down.2.conv2): time over PyTorch's"] == (0.625, 0.67)
    assert got["largest difference of a 3x3 layer from PyTorch's, over the largest output"] == (3e-6, 2e-5)
    assert len(got) == 8


def test_the_page_says_what_is_met_and_what_is_not(results):
    """A row a target; a missed one comes with its floor."""
    page = cpu.page(results)
    assert "| training step, base 64, 572 px: time over PyTorch's | 0.89 | 1.00 | yes |" in page
    assert "| training step, base 16, 572 px: time over PyTorch's | 2.40 | 1.80 | **no** |" in page
    assert "Base 16 misses its target: 0.60 s against PyTorch's 0.25 s. Its floor in NumPy is 0.40 s, 1.60 times" in page
    assert "From 256 channels 0 of 3 miss 0.67" in page
    assert "would take 10.0 s at the peak above, 0.25 of PyTorch's time" in page
    assert "| down.0.conv2 | 64 -> 64 | 570 | 2.00 (winograd1d, 30.0 ms)" in page
    assert "| 16 | 188 | 100.0 ms (90.0 to 110.0) |" in page
    assert "| 1 -> 64, 572 px | 10.0 ms (9.0 to 11.0) | 5.0 times |" in page
    assert "The IoU differs by +0.0050 on average, by 0.0100 at most; between seeds it differs by 0.0100" in page
    assert "2026-01-02. Times" in page


@pytest.mark.parametrize("section", list(cpu.SECTIONS))
def test_sections_stand_alone(results, section):
    """Whatever has been measured so far makes a page and a picture."""
    some = {"machine": results["machine"], section: results[section]}
    assert "## Targets" in cpu.page(some)
    cpu.figure(some)


def test_nothing_measured():
    """Without results the page says so."""
    assert "Nothing has been measured yet" in cpu.page({})


def test_the_picture_says_what_it_shows(results):
    """The text alternative counts the layers that are faster, and names the steps."""
    text = tu.plot.description(cpu.figure(results))
    assert "3 of 6 layers and directions are faster" in text
    assert "base 16 2.40, base 64 0.89" in text


def test_the_page_holds_what_was_measured(monkeypatch):
    """docs/cpu.md holds the numbers of benchmarks/results, or says that there are none."""
    monkeypatch.setattr(sys, "argv", ["cpu", "--check"])
    importlib.import_module("cpu").main()


def test_turns():
    """Every call has its turn in every round, after one to warm up; quartiles enclose the median."""
    seen = []
    found = cpu.in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == ["a", "b"] * 4
    assert all(t["low"] <= t["median"] <= t["high"] for t in found.values())


def test_peers_compute_the_same(rng):
    """All ways to convolve that are compared give the same map."""
    x, w = rng.standard_normal((1, 9, 8, 1)), rng.standard_normal((3, 3, 1, 2))
    for name, function in cpu.PEERS.items():
        np.testing.assert_allclose(function(x, w), cpu.taps(x, w), atol=1e-12, err_msg=name)


def test_pytorch_computes_the_same(rng):
    """PyTorch's side does the same convolutions in both layouts, and a network of as many parameters and the same output size."""
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed: pip install 'tinyunet[parity]'")
    import cpu_torch

    x, w = rng.standard_normal((1, 9, 8, 3), dtype=np.float32), rng.standard_normal((3, 3, 3, 2), dtype=np.float32)
    dy = rng.standard_normal((1, 7, 6, 2), dtype=np.float32)
    with tu.rung(conv3x3="taps"):
        rung = tu.ladder.pick("conv3x3", x, w)
    mine = {"forward": rung.forward(x, w, 0), "grad_x": rung.grad_x(dy, w, 0), "grad_w": rung.grad_w(x, dy, 3, 0)}
    for layout in cpu.LAYOUTS:
        for direction, call in cpu_torch.convolution(x, w, dy, layout).items():
            np.testing.assert_allclose(call(), mine[direction], atol=1e-4, err_msg=f"{layout} {direction}")
        spec = tu.PAPER.but(base=2)
        assert sum(p.numel() for p in cpu_torch.network(spec, layout).parameters()) == tu.shapes.count_params(spec)
        assert cpu_torch.prediction(spec, np.zeros((1, 188, 188, 1), np.float32), layout)().shape == (1, 2, 4, 4)


@pytest.mark.slow
def test_a_quick_run(monkeypatch, tmp_path):
    """Every section runs, small, and what comes out makes a page; results of another machine are not mixed in."""
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed: pip install 'tinyunet[parity]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "cpu.json"
    monkeypatch.setattr(sys, "argv", ["cpu", "--quick", "--out", str(path)])
    cpu.main()
    results = json.loads(path.read_text())
    assert set(results) == {"machine", *cpu.USUAL}
    assert "## Targets" in cpu.page(results)
    results["machine"]["processor"] = "another"
    path.write_text(json.dumps(results))
    monkeypatch.setattr(sys, "argv", ["cpu", "--quick", "--out", str(path), "--only", "peers"])
    with pytest.raises(SystemExit, match="another machine"):
        cpu.main()


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--only", "layer"], "there is no section 'layer'"), (["--quick"], "give --out")]
)
def test_what_is_refused(monkeypatch, arguments, says):
    """Sections that do not exist, and quick numbers in the place of real ones."""
    monkeypatch.setattr(sys, "argv", ["cpu", *arguments])
    with pytest.raises(SystemExit, match=says):
        cpu.main()
