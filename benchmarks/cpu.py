"""tinyunet beside PyTorch on the same CPU; writes results/cpu.json, docs/cpu.md and docs/cpu.png.

    pip install "tinyunet[parity]"
    python benchmarks/cpu.py                      all sections but `rungs`: about 12 minutes on two quiet cores
    python benchmarks/cpu.py --only layers,steps  some sections; the others stay as they are in the file
    python benchmarks/cpu.py --quick --out X      everything small, into the file X: does it run?
    python benchmarks/cpu.py --docs               only write page and picture again
    python benchmarks/cpu.py --check              exit with 1 if docs/cpu.md does not hold these numbers

Sections: layers, peers, steps, sizes, predict, memory, profile, rungs. Minutes each on two quiet cores: 2, 1, 2, 1, 4, 1, 1;
`rungs` trains the demo twelve times, 15 to 20.

Both sides run in one process, in turn, with the same number of threads, float32 and the same random numbers. PyTorch runs in
both layouts, and the faster one counts. Times are medians, with the quartiles beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, fill, in_fresh_process, machine, peak_mib

import tinyunet as tu
from tinyunet import ladder, parallel, planner, shapes
from tinyunet.backend import Array
from tinyunet.demo import FULL, Demo
from tinyunet.profile import PARTS, step_profile

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "cpu.md"
OURS = "tinyunet"
LAYOUTS = ("nchw", "channels_last")


# Measuring -----------------------------------------------------------------------------------------------------------


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of every call: all in turn, so that a disturbance meets each alike; after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if k or repeats == 0:
                times[name].append(time.perf_counter() - began)
    return {name: spread(values) for name, values in times.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the quartiles around it."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def ratio(times: dict[str, dict[str, float]]) -> float:
    """Our time over PyTorch's in its better layout: below 1 we are faster."""
    return times[OURS]["median"] / best_of(times)


def layers(quick: bool) -> dict[str, Any]:
    """Every 3x3 convolution of the paper's network at 572 px, three directions; and how far the results are from PyTorch's."""
    import cpu_torch

    rng, rows = np.random.default_rng(0), []
    spec, size, repeats = (tu.PAPER.but(base=4), 188, 1) if quick else (tu.PAPER, 572, 5)
    done: dict[tuple[Any, ...], dict[str, Any]] = {}
    for s in shapes.trace(spec, size):
        if s.layer.kind != "conv3x3":
            continue
        key = (*s.in_size, s.layer.c_in, s.layer.c_out)
        if key not in done:
            done[key] = {d: one_layer(cpu_torch, s, d, repeats, rng) for d in planner.DIRECTIONS}
        rows.append({"layer": s.layer.name, "c_in": s.layer.c_in, "c_out": s.layer.c_out, "size": s.in_size[0], "macs": s.macs,
                     **done[key]})  # fmt: skip
    return {"rows": rows}


def one_layer(theirs: Any, s: shapes.Step, direction: ladder.Direction, repeats: int, rng: np.random.Generator) -> dict[str, Any]:
    x = rng.standard_normal((1, *s.in_size, s.layer.c_in), dtype=np.float32)
    w = rng.standard_normal((3, 3, s.layer.c_in, s.layer.c_out), dtype=np.float32)
    dy = rng.standard_normal((1, *s.out_size, s.layer.c_out), dtype=np.float32)
    rung = ladder.pick("conv3x3", x, w, direction)
    arguments = {"forward": (x, w, 0), "grad_x": (dy, w, 0), "grad_w": (x, dy, 3, 0)}[direction]
    calls = {OURS: lambda: getattr(rung, direction)(*arguments)}
    calls |= {layout: theirs.convolution(x, w, dy, layout)[direction] for layout in LAYOUTS}
    mine, other = calls[OURS](), calls["nchw"]()
    far = float(np.abs(mine - other).max() / np.abs(other).max())
    return {"rung": rung.name, "difference": far, **in_turn(calls, repeats)}


def peers(quick: bool) -> dict[str, Any]:
    """The forward pass of a layer in other ways that NumPy and SciPy offer."""
    rng, rows = np.random.default_rng(0), []
    for c_in, c_out, side in ((1, 4, 40),) if quick else ((1, 64, 572), (64, 64, 284), (256, 256, 68)):
        x = rng.standard_normal((1, side, side, c_in), dtype=np.float32)
        w = rng.standard_normal((3, 3, c_in, c_out), dtype=np.float32)
        calls = {OURS: lambda x=x, w=w: ladder.pick("conv3x3", x, w).forward(x, w, 0)}
        calls |= {name: lambda function=function, x=x, w=w: function(x, w) for name, function in PEERS.items()
                  if name != "scipy" or c_in == 1}  # fmt: skip  # a call for every pair of channels
        rows.append({"c_in": c_in, "c_out": c_out, "size": side, **in_turn(calls, 1 if quick else 3)})
    return {"rows": rows}


def im2col_as_taught(x: Array, w: Array) -> Array:
    """All windows of the whole image as one matrix."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # (N, P, Q, C, 3, 3)
    n, p, q = windows.shape[:3]
    return (windows.reshape(n * p * q, -1) @ w.transpose(2, 0, 1, 3).reshape(-1, w.shape[3])).reshape(n, p, q, -1)


def tensordot(x: Array, w: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.tensordot(windows, w, axes=((3, 4, 5), (2, 0, 1)))


def taps(x: Array, w: Array) -> Array:
    with tu.rung(conv3x3="taps"):
        return ladder.pick("conv3x3", x, w).forward(x, w, 0)


def with_scipy(x: Array, w: Array) -> Array:
    from scipy.signal import correlate2d

    return np.stack([correlate2d(x[0, ..., 0], w[..., 0, o], mode="valid") for o in range(w.shape[3])], axis=-1)[None]


PEERS = {"im2col": im2col_as_taught, "tensordot": tensordot, "taps": taps, "scipy": with_scipy}


def training(spec: tu.UNetSpec, size: int) -> Callable[[], None]:
    """Our step, as PyTorch's: forward, loss, backward, SGD."""
    rng = np.random.default_rng(0)
    model = tu.UNet(spec)
    optimizer = tu.SGD(model, lr=1e-9)
    x, labels = batch(spec, size, rng)

    def step() -> None:
        _, dlogits = tu.energy(model.forward(x), labels, None)
        model.backward(dlogits)
        optimizer.step()
        model.zero_grad()

    return step


def batch(spec: tu.UNetSpec, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    out = shapes.output_size(spec, size)
    return rng.standard_normal((1, size, size, 1), dtype=np.float32), rng.integers(0, 2, (1, out, out))


def one_step(base: int, size: int, repeats: int) -> dict[str, Any]:
    import cpu_torch

    spec = tu.PAPER.but(base=base)
    x, labels = batch(spec, size, np.random.default_rng(0))
    calls = {OURS: training(spec, size)}
    calls |= {layout: cpu_torch.training_step(spec, x, labels, layout) for layout in LAYOUTS}
    return {"base": base, "size": size, **in_turn(calls, repeats)}


def steps(quick: bool) -> dict[str, Any]:
    """Whole training steps at 572 px, by width."""
    bases = ((2, 1), (4, 1)) if quick else ((8, 9), (16, 9), (32, 7), (64, 5))
    return {"rows": [one_step(base, 188 if quick else 572, repeats) for base, repeats in bases]}


def sizes(quick: bool) -> dict[str, Any]:
    """Whole training steps of base 16, by the size of the image."""
    base, repeats, sides = (2, 1, (188, 204)) if quick else (16, 7, (188, 380, 572, 764, 1020))
    return {"rows": [one_step(base, size, repeats) for size in sides]}


def predict(quick: bool) -> dict[str, Any]:
    """An image of 2048 x 2048 px, base 64: ours by tiles, PyTorch's in one go and by the same tiles, whichever is faster."""
    import cpu_torch

    base, side, tile = (2, 300, 348) if quick else (64, 2048, 1212)
    spec = tu.PAPER.but(base=base)
    image = np.random.default_rng(0).standard_normal((side, side, 1), dtype=np.float32)
    model, around = tu.UNet(spec).eval(), shapes.input_size(spec, side)
    spans = [(a, b) for a in shapes.tile_spans(spec, side, tile) for b in shapes.tile_spans(spec, side, tile)]
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: tu.predict_proba(model, image, tile_in=tile)}
    for layout in LAYOUTS:
        cut = cpu_torch.prediction(spec, np.zeros((1, tile, tile, 1), np.float32), layout)
        calls[f"{layout} tiles"] = lambda cut=cut: [cut() for _ in spans]
        calls[f"{layout} whole"] = cpu_torch.prediction(spec, np.zeros((1, around, around, 1), np.float32), layout)
    times = in_turn(calls, 0)
    for layout in LAYOUTS:
        times[layout] = min((times.pop(f"{layout} {how}") for how in ("tiles", "whole")), key=lambda t: t["median"])
    done = len(spans) * multiplied(spec, tile, ("forward",))
    return {"rows": [{"base": base, "size": side, "tile": tile, "tiles": len(spans), "done_macs": done, **times}]}


def memory(quick: bool) -> dict[str, Any]:
    """Peak memory of a process that does two training steps, and of one that only imports."""
    rows = []
    for base in (2,) if quick else (16, 32, 64):
        size = 188 if quick else 572
        row: dict[str, Any] = {"base": base, "size": size}
        for side in (OURS, *LAYOUTS):
            row[side] = in_fresh_process(__file__, "--process", f"{side} {base} {size}")
        row["planned_mib"] = planner.training_bytes(tu.PAPER.but(base=base), size, threads=parallel.count()) / shapes.MIB
        rows.append(row)
    return {"rows": rows}


def process(side: str, base: int, size: int) -> dict[str, float]:
    """What a process of its own does for `memory`."""
    spec = tu.PAPER.but(base=base)
    if side == OURS:
        imported, step = peak_mib(), training(spec, size)
    else:
        import cpu_torch
        import torch

        torch.set_num_threads(parallel.count())
        imported = peak_mib()
        step = cpu_torch.training_step(spec, *batch(spec, size, np.random.default_rng(0)), side)
    step()
    step()
    return {"imported_mib": imported, "peak_mib": peak_mib()}


def profile(quick: bool) -> dict[str, Any]:
    """Where our steps spend their time, what the machine can do, and the least time that their work takes at that."""
    rows, peak = [], None
    for base in (2,) if quick else (16, 32, 64):
        spec, size = tu.PAPER.but(base=base), 188 if quick else 572
        found = step_profile(spec, size, repeats=1 if quick else 3, peak=peak)
        peak = found.peak
        done = multiplied(spec, size)
        total = found.total()
        moved = sum(e.bytes for e in found.entries if not e.macs)
        rows.append({
            "base": base, "size": size, "seconds": found.seconds, "plain_seconds": found.plain_seconds,
            "parts": {part: found.total(part).seconds for part in PARTS}, "macs": total.macs, "done_macs": done,
            "bytes": moved, "floor_formula": 2 * total.macs / peak.flops + moved / peak.bandwidth,
            "floor": 2 * done / peak.flops + moved / peak.bandwidth,
        })  # fmt: skip
    assert peak is not None
    return {"gflops": peak.flops / 1e9, "gbytes": peak.bandwidth / 1e9, "rows": rows}


SAVED = {"winograd": 36 / 144, "winograd1d": 6 / 12}
"""Share of the formula's multiplications that a rung does."""


def multiplied(spec: tu.UNetSpec, size: int, directions: tuple[ladder.Direction, ...] = planner.DIRECTIONS) -> int:
    """Multiply-adds of a step, or of some of its directions, as the picked rungs do them, without their transforms."""
    macs = {s.layer.name: s.macs for s in shapes.trace(spec, size)}
    planned = [row for row in planner.plan(spec, size) if row.direction in directions]
    head = len(directions) * sum(s.macs for s in shapes.trace(spec, size) if s.layer.kind == "conv1x1")
    return head + int(sum(macs[row.layer] * SAVED.get(row.rung, 1) for row in planned))


def rungs(quick: bool) -> dict[str, Any]:
    """The demo, trained with three seeds by the picked rungs and by the exact `taps`: do fast rungs change what is learned?"""
    rows = []
    for seed in range(1 if quick else 6):
        row: dict[str, Any] = {"seed": seed}
        for name in ("picked", "taps"):
            with tempfile.TemporaryDirectory() as folder:
                plan = FULL if not quick else replace(FULL, test=1, images=2, val=1, size=140, large=(140, 140), tile=132,
                                                      train=replace(FULL.train, steps=2, validate_every=2))  # fmt: skip
                demo = Demo(Path(folder, "demo"), seed=seed, plan=plan)
                demo.draw()
                began = time.perf_counter()
                if name == "taps":
                    with tu.rung(conv3x3="taps"):
                        losses = [record.loss for record in demo.train()]
                else:
                    losses = [record.loss for record in demo.train()]
                scores = demo.finish().scores
                row[name] = {"iou": scores.mean_iou, "seg": scores.seg, "last_loss": statistics.mean(losses[-20:]),
                             "seconds": time.perf_counter() - began}  # fmt: skip
        rows.append(row)
    return {"rows": rows}


SECTIONS = {f.__name__: f for f in (layers, peers, steps, sizes, predict, memory, profile, rungs)}
USUAL = [name for name in SECTIONS if name != "rungs"]


# Telling -------------------------------------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> str:
    """What stands between the markers of docs/cpu.md."""
    if not results:
        return "Nothing has been measured yet: `python benchmarks/cpu.py`."
    m = results["machine"]
    texts = [
        f"Measured on {m['processor']}, {m['threads']} threads, with NumPy {m['numpy']} ({m['blas']}) and PyTorch {m['torch']}, "
        f"float32, by `benchmarks/cpu.py`; {dates(results)}. Times are medians, with the quartiles in brackets. A ratio is our "
        "time over PyTorch's in its better layout: below 1 we are faster."
    ]
    for name, tell in TELL.items():
        if name in results:
            texts.append(tell(results))
    return "\n\n".join(texts)


def dates(results: dict[str, Any]) -> str:
    days = sorted({results[name]["date"] for name in SECTIONS if name in results})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds_text(t: dict[str, float]) -> str:
    """"12.3 ms (12.1 to 12.9)", in seconds from one second on."""
    scale, unit, digits = (1, "s", 2) if t["median"] >= 1 else (1000, "ms", 1)
    return f"{t['median'] * scale:.{digits}f} {unit} ({t['low'] * scale:.{digits}f} to {t['high'] * scale:.{digits}f})"


def targets(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(what, measured, at most) of every target that was measured."""
    found = []
    for base, most in ((64, 1.0), (32, 1.3), (16, 1.8)):
        found += [(f"training step, base {base}, 572 px: time over PyTorch's", ratio(row), most)
                  for row in rows_of(results, "steps") if row["base"] == base]  # fmt: skip
    found += [(f"prediction of {row['size']} x {row['size']} px, base {row['base']}: time over PyTorch's", ratio(row), 0.9)
              for row in rows_of(results, "predict")]  # fmt: skip
    found += [(f"memory that a step adds at its peak, base {row['base']}: over PyTorch's",
               added(row[OURS]) / min(added(row[layout]) for layout in LAYOUTS), 1.0)
              for row in rows_of(results, "memory")]  # fmt: skip
    wide = [row for row in rows_of(results, "layers") if min(row["c_in"], row["c_out"]) >= 256]
    for direction, title in TITLES.items():
        if wide:
            slowest = max(wide, key=lambda row: ratio(row[direction]))
            found.append((f"3x3 layers from 256 channels, {title}, the slowest ({slowest['layer']}): time over PyTorch's",
                          ratio(slowest[direction]), 0.67))  # fmt: skip
    if every := [row[d]["difference"] for row in rows_of(results, "layers") for d in TITLES]:
        found.append(("largest difference of a 3x3 layer from PyTorch's, over the largest output", max(every), 2e-5))
    return found


def added(row: dict[str, float]) -> float:
    """MiB beside what importing took: PyTorch is a large library, which is not its network's fault."""
    return row["peak_mib"] - row["imported_mib"]


TITLES = {"forward": "forward", "grad_x": "by input", "grad_w": "by weight"}


def rows_of(results: dict[str, Any], section: str) -> list[dict[str, Any]]:
    return results.get(section, {}).get("rows", [])


def tell_targets(results: dict[str, Any]) -> str:
    rows = [[what, f"{got:.2g}" if most < 0.01 else f"{got:.2f}", f"{most:.0e}" if most < 0.01 else f"{most:.2f}",
             "yes" if got <= most else "**no**"] for what, got, most in targets(results)]  # fmt: skip
    return "## Targets\n\n" + table(["what", "measured", "at most", "met"], rows)


def tell_floors(results: dict[str, Any]) -> str:
    p = results["profile"]
    lines = [
        "## How much faster could it be",
        f"This machine multiplies {p['gflops']:,.0f} GFLOP/s in float32 matrix products (BLAS, all threads) and copies "
        f"{p['gbytes']:.1f} GB/s, read and written. A step whose products all ran at that peak, and whose other parts only "
        "moved every array once at that bandwidth, would take the floor: once with the multiply-adds of the formula, once with "
        "those that the picked rungs do, whose transforms are not counted.",
        table(["step", "G multiply-adds", "done", "GB moved beside", "floor, formula", "floor, rungs", "measured", "over it"],
              [[f"base {r['base']}, {r['size']} px", f"{r['macs'] / 1e9:.1f}", f"{r['done_macs'] / 1e9:.1f}",
                f"{r['bytes'] / 1e9:.2f}", *(f"{r[key]:.2f} s" for key in ("floor_formula", "floor", "plain_seconds")),
                f"{r['plain_seconds'] / r['floor']:.1f}"] for r in p["rows"]]),
        "Where the time goes:",
        table(["step", *PARTS], [[f"base {r['base']}", *(f"{r['parts'][part] / r['seconds']:.0%}" for part in PARTS)]
                                 for r in p["rows"]]),
    ]  # fmt: skip
    missed = [row for row in rows_of(results, "steps") if ratio(row) > {64: 1.0, 32: 1.3, 16: 1.8}.get(row["base"], np.inf)]
    for row in missed:
        floor = next((r["floor"] for r in p["rows"] if r["base"] == row["base"]), None)
        best = best_of(row)
        if floor is not None:
            lines.append(
                f"Base {row['base']} misses its target: {row[OURS]['median']:.2f} s against PyTorch's {best:.2f} s. Its floor in "
                f"NumPy is {floor:.2f} s, {floor / best:.2f} times PyTorch's time: what lies between is "
                + ("transforms and passes over memory that a fused kernel does not make." if floor < best else "out of reach.")
            )
    return "\n\n".join(lines)


def tell_layers(results: dict[str, Any]) -> str:
    rows = []
    for row in rows_of(results, "layers"):
        cells = [f"{ratio(row[d]):.2f} ({row[d]['rung']}, {1000 * row[d][OURS]['median']:.1f} ms)" for d in TITLES]
        rows.append([row["layer"], f"{row['c_in']} -> {row['c_out']}", str(row["size"]), *cells])
    return ("## The 3x3 layers of the paper's network\n\n![Time over PyTorch's, by layer and direction](cpu.png)\n\n"
            + table(["layer", "channels", "px", *TITLES.values()], rows) + floors_of_layers(results))  # fmt: skip


def floors_of_layers(results: dict[str, Any]) -> str:
    """What the wide layers would take if the products that are left did all their multiplying at the machine's peak."""
    wide = [(row, row[d]) for row in rows_of(results, "layers") for d in TITLES if min(row["c_in"], row["c_out"]) >= 256]
    if not wide or "profile" not in results:
        return ""
    floors = [at_peak(results, row["macs"] * SAVED.get(times["rung"], 1)) / best_of(times) for row, times in wide]
    missed = sum(ratio(times) > 0.67 for _, times in wide)
    return (f"\n\nFrom 256 channels {missed} of {len(wide)} miss 0.67. Their products alone, at the peak above, would take "
            f"{min(floors):.2f} to {max(floors):.2f} of PyTorch's time. The rest is transforms: of tiles, and at the bottom of "
            "the U of kernels, which are larger than the maps there.")  # fmt: skip


def at_peak(results: dict[str, Any], macs: float) -> float:
    """Seconds of so many multiply-adds at the machine's measured peak."""
    return 2 * macs / (1e9 * results["profile"]["gflops"])


def best_of(times: dict[str, Any]) -> float:
    """PyTorch's seconds, in its better layout."""
    return min(times[layout]["median"] for layout in LAYOUTS)


def tell_steps(results: dict[str, Any]) -> str:
    rows = [[str(r["base"]), str(r["size"]), *(seconds_text(r[name]) for name in (OURS, *LAYOUTS)), f"{ratio(r):.2f}"]
            for section in ("steps", "sizes") for r in rows_of(results, section)]  # fmt: skip
    title = "by width and by size" if "sizes" in results else "by width"
    return f"## Training steps, {title}\n\n" + table(["base", "px", OURS, *LAYOUTS, "ratio"], rows)


def tell_predict(results: dict[str, Any]) -> str:
    rows = [[f"{r['size']} x {r['size']} px, base {r['base']}, {r['tiles']} tiles of {r['tile']} px",
             *(f"{r[name]['median']:.1f} s" for name in (OURS, *LAYOUTS)), f"{ratio(r):.2f}"]
            for r in rows_of(results, "predict")]  # fmt: skip
    text = ("## Prediction\n\n" + table(["image", OURS, *LAYOUTS, "ratio"], rows)
            + "\n\nPyTorch's is the faster of the whole image in one go and the same tiles as ours.")  # fmt: skip
    for row in rows_of(results, "predict") if "profile" in results else ():
        floor = at_peak(results, row["done_macs"])
        text += (f" The products that our rungs do would take {floor:.1f} s at the peak above, {floor / best_of(row):.2f} of "
                 "PyTorch's time; the rest is transforms and passes over the widest maps.")  # fmt: skip
    return text


def tell_memory(results: dict[str, Any]) -> str:
    rows = [[f"base {r['base']}, {r['size']} px",
             *(f"{r[name]['peak_mib']:,.0f} ({r[name]['imported_mib']:,.0f})" for name in (OURS, *LAYOUTS)),
             f"{r['planned_mib']:,.0f}"] for r in rows_of(results, "memory")]  # fmt: skip
    return ("## Peak memory of a training step, MiB\n\n" + table(["step", OURS, *LAYOUTS, "planned, arrays alone"], rows)
            + "\n\nOf a whole process; in brackets what it took after importing its libraries.")  # fmt: skip


def tell_peers(results: dict[str, Any]) -> str:
    names = list(PEERS)
    rows = [[f"{r['c_in']} -> {r['c_out']}, {r['size']} px", seconds_text(r[OURS]),
             *(f"{r[name]['median'] / r[OURS]['median']:.1f} times" if name in r else "" for name in names)]
            for r in rows_of(results, "peers")]  # fmt: skip
    return ("## Other ways to do it in NumPy, forward\n\n" + table(["layer", OURS, *names], rows)
            + "\n\nim2col: all windows of the image as one matrix, as it is usually taught; tensordot: the same left to NumPy; "
            "taps: our rung of nine shifted products; scipy: `scipy.signal.correlate2d` for every output channel, where one "
            "channel goes in.")  # fmt: skip


def tell_rungs(results: dict[str, Any]) -> str:
    rows = rows_of(results, "rungs")
    cells = [[str(r["seed"]), *(f"{r[name][key]:.3f}" for name in ("picked", "taps") for key in ("iou", "seg"))] for r in rows]
    off = [r["picked"]["iou"] - r["taps"]["iou"] for r in rows]
    seeds = [r["taps"]["iou"] for r in rows]
    return ("## What is learned\n\nThe demo, trained by the picked rungs and by `taps`, which is exact to rounding.\n\n"
            + table(["seed", "IoU picked", "SEG picked", "IoU taps", "SEG taps"], cells)
            + f"\n\nThe IoU differs by {statistics.mean(off):+.4f} on average, by {max(map(abs, off)):.4f} at most; between "
            f"seeds it differs by {max(seeds) - min(seeds):.4f} with `taps` alone.")  # fmt: skip


TELL: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": tell_targets, "profile": tell_floors, "layers": tell_layers, "steps": tell_steps, "predict": tell_predict,
    "memory": tell_memory, "peers": tell_peers, "rungs": tell_rungs,
}  # fmt: skip
"""Section -> its part of the page, in the order of the page; the targets stand above all."""


def figure(results: dict[str, Any]) -> Any:
    """Time over PyTorch's: of every 3x3 layer by direction, and of whole steps."""
    from matplotlib.figure import Figure

    from tinyunet.plot.base import BLUE, GREEN, VERMILION

    fig = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(2.4, 1))
    rows = rows_of(results, "layers")
    for (direction, title), colour, marker in zip(TITLES.items(), (BLUE, VERMILION, GREEN), "os^", strict=True):
        left.plot([ratio(row[direction]) for row in rows], marker, color=colour, label=title, markersize=6, alpha=0.9)
    left.set_xticks(range(len(rows)), [f"{row['layer']}\n{row['c_in']}-{row['c_out']}" for row in rows], rotation=90, fontsize=7)
    left.set_title("3x3 layers of the paper's network", loc="left", fontsize=10, weight="bold")
    left.legend(frameon=False, fontsize=8)
    for section, style, title in (("steps", "o-", "572 px"), ("sizes", "s--", "base 16, by size")):
        of = rows_of(results, section)
        if section == "steps" and of:
            right.plot([row["base"] for row in of], [ratio(row) for row in of], style, color=BLUE, label=title)
            right.set_xticks([row["base"] for row in of], [str(row["base"]) for row in of])
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    right.set_xlabel("base width")
    right.set_title("whole training steps", loc="left", fontsize=10, weight="bold")
    for ax in (left, right):
        ax.axhline(1, color="black", linewidth=1)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.grid(axis="y", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("time over PyTorch's (below 1: faster)")
    steps_text = ", ".join(f"base {row['base']} {ratio(row):.2f}" for row in rows_of(results, "steps"))
    fast = sum(ratio(row[d]) < 1 for row in rows for d in TITLES)
    of_all = f"{fast} of {len(rows) * len(TITLES)} layers and directions are faster"
    fig.set_label(f"Our time over PyTorch's. {of_all}. Steps: {steps_text}.")
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sections, with commas between them", default=",".join(USUAL))
    parser.add_argument("--quick", action="store_true", help="everything small, to see whether it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json", help="where the results go; sections not run are kept")
    parser.add_argument("--docs", action="store_true", help="write page and picture from results/cpu.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 if docs/cpu.md does not hold these numbers")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        side, base, size = args.process.split()
        print(json.dumps(process(side, int(base), int(size))))
        return
    if not (args.docs or args.check):
        measure(args.only.split(","), args.quick, args.out)
        if args.out != RESULTS / "cpu.json":
            return
    results = json.loads((RESULTS / "cpu.json").read_text()) if (RESULTS / "cpu.json").exists() else {}
    fill(PAGE, page(results), args.check)
    if "layers" in results and not args.check:
        tu.plot.save(figure(results), DOCS / "cpu.png", dpi=130)


def measure(names: list[str], quick: bool, path: Path) -> None:
    """Run sections, and put each into the file as soon as it is done."""
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.exit(f"there is no section {unknown[0]!r}. There are: {', '.join(SECTIONS)}.")
    if quick and path == RESULTS / "cpu.json":
        sys.exit("--quick measures nothing worth keeping: give --out, a file of your own.")
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: pip install 'tinyunet[parity]'")
    torch.set_num_threads(parallel.count())
    results = json.loads(path.read_text()) if path.exists() else {}
    about = {**machine(), "torch": version("torch"), "threads": parallel.count()}
    about.pop("date")
    if results and results.get("machine") not in (None, about):
        sys.exit(f"{path} holds results of another machine or other versions. Move it away, and measure all sections.")
    results["machine"] = about
    for name in names:
        began = time.perf_counter()
        found = SECTIONS[name](quick)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        results[name] = {"date": date.today().isoformat(), "load": load, "minutes": (time.perf_counter() - began) / 60, **found}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {results[name]['minutes']:.1f} min, load {load:.1f} -> {path}" if load is not None else name, flush=True)


if __name__ == "__main__":
    main()
