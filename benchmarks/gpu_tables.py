"""Writes what was measured on a GPU into kernels/README.md, and into the `Measured gain` lines of the kernels.

    python benchmarks/gpu_tables.py [results/gpu-NAME.json]           the newest file there is, unless one is named
    python benchmarks/gpu_tables.py --check                           look whether the page holds the file's numbers
    python benchmarks/gpu_tables.py FILE --print                      the tables alone
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from common import RESULTS, fill

KERNELS = Path(__file__).parents[1] / "kernels"

NOT_MEASURED = "Speeds: not yet measured. No GPU has run these kernels; `bash benchmarks/gpu_all.sh` does, where there is one."

Row = dict[str, Any]


class Target(NamedTuple):
    """What a kernel shall reach: at least `least` times the speed of a baseline, over all layers."""

    section: str
    name: str
    direction: str
    baseline: str
    least: float


TARGETS = (
    Target("layers", "06_pipelined", "forward", "torch c", 0.85),
    Target("layers", "06_pipelined", "grad_x", "torch c", 0.85),
    Target("layers", "08_mma_tf32_pipe", "forward", "torch b", 0.65),
    Target("layers", "08_mma_tf32_pipe", "grad_x", "torch b", 0.65),
    Target("layers", "08_mma_tf32_pipe", "grad_w", "torch b", 0.65),
    Target("layers", "08_mma_3xtf32_pipe", "forward", "torch c", 1.6),
    Target("layers", "08_mma_3xtf32_pipe", "grad_x", "torch c", 1.6),
    Target("upconvs", "03_mma_tf32", "forward", "torch b", 1.0),
    Target("upconvs", "03_mma_tf32", "grad_x", "torch b", 1.0),
    Target("upconvs", "03_mma_tf32", "grad_w", "torch b", 1.0),
)


def geometric_mean(values: list[float]) -> float:
    """exp of the mean of logarithms; NaN of nothing"""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def ratio(rows: list[Row], name: str, other: str, **which: Any) -> float:
    """Geometric mean over layers of the time of `other` over that of `name`: above 1, `name` is faster. Layers that both have."""
    times: dict[str, dict[tuple[str, int], float]] = {name: {}, other: {}}
    for row in rows:
        if row["name"] in times and all(row.get(key) == value for key, value in which.items()):
            times[row["name"]][row["layer"], row["n"]] = row["ms"]
    return geometric_mean([times[other][key] / ms for key, ms in times[name].items() if key in times[other]])


def number(value: float, digits: int = 2) -> str:
    """A number of a table; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def tables(found: dict[str, Any]) -> str:
    """Everything that a file holds, as Markdown. Sections that it lacks are left out, and said to be."""
    m = found["machine"]
    text = [f"Measured on {m['gpu']}, {m['date']}: CUDA {m['cuda'] // 1000}.{m['cuda'] % 1000 // 10}, CuPy {m['cupy']}, "
            f"PyTorch {m['torch'] or 'not installed'}. Ratios are PyTorch's time over ours, above 1 where we are faster: (a) as "
            "it comes, NCHW and TF32; (b) channels_last, cudnn.benchmark and TF32; (c) as (b), in float32."]  # fmt: skip
    makers = {"checks": _checks, "ladder": _ladder, "layers": _layers, "upconvs": _layers, "maps": _maps, "steps": _steps}
    for section, make in makers.items():
        if found.get(section):
            text += ["", *make(section, found)]
        else:
            text += ["", f"{section}: not yet measured."]
    problems = [f"{section}: {problem}" for section, some in found.get("problems", {}).items() for problem in some]
    if problems:
        text += ["", f"Problems: {len(problems)}, all in the file of results; the first: {problems[0]}"]
    return "\n".join(text)


def _checks(section: str, found: dict[str, Any]) -> list[str]:
    rows = found[section]
    bad = [f"{row['op']} {row['rung']}".strip() for row in rows if not row["ok"]]
    return [f"{len(rows) - len(bad)} of {len(rows)} kernels agree with float64{'' if not bad else '; not: ' + ', '.join(bad)}."]


def _ladder(section: str, found: dict[str, Any]) -> list[str]:
    rows = found[section]
    out = ["| ladder, N = 1 | TFLOP/s | against (b) | against (c) | error |", "|---|---|---|---|---|"]
    for direction in ("forward", "grad_w"):
        for name in dict.fromkeys(row["name"] for row in rows if row["direction"] == direction):
            its = [row for row in rows if row["name"] == name and row["direction"] == direction]
            speed = geometric_mean([row["gflop"] / row["ms"] for row in its])
            against = [number(ratio(rows, name, f"torch {which}", direction=direction)) for which in "bc"]
            error = f"{max(row['error'] for row in its):.0e}" if "error" in its[0] else ""
            label = f"`{name}`" if direction == "forward" else f"`{name}`, by weight"
            out.append(f"| {label} | {speed:.1f} | {' | '.join(against)} | {error} |")
    return out


def _layers(section: str, found: dict[str, Any]) -> list[str]:
    rows = found[section]
    what = "3x3 convolutions" if section == "layers" else "up-convolutions"
    out = [f"| {what} | N | direction | (a) | (b) | (c) | error | aim |", "|---|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in rows if not row["name"].startswith("torch")):
        for n in sorted({row["n"] for row in rows}):
            for direction in ("forward", "grad_x", "grad_w"):
                its = [row for row in rows if (row["name"], row["n"], row["direction"]) == (name, n, direction)]
                if not its:
                    continue
                against = [number(ratio(rows, name, f"torch {which}", n=n, direction=direction)) for which in "abc"]
                aim = next((f"{t.least} of ({t.baseline[-1]})" for t in TARGETS
                            if (t.section, t.name, t.direction) == (section, name, direction)), "")  # fmt: skip
                error = max(row["error"] for row in its)
                out.append(f"| `{name}` | {n} | {direction} | {' | '.join(against)} | {error:.0e} | {aim} |")
    return out


def _maps(section: str, found: dict[str, Any]) -> list[str]:
    copy = next((row["gb_s"] for row in found[section] if row["op"] == "copy"), math.nan)
    out = ["| operation on a level-1 map | GB/s | of a copy |", "|---|---|---|"]
    return [*out, *(f"| {row['op']} | {row['gb_s']:.0f} | {number(row['gb_s'] / copy)} |" for row in found[section])]


def _steps(section: str, found: dict[str, Any]) -> list[str]:
    out = ["| a step of training, 572x572, base 64 | N | ms an image | (a) | (b) | (c) |", "|---|---|---|---|---|---|"]
    for row in found[section]:
        others = {r["name"]: r["ms"] for r in found[section] if r["n"] == row["n"]}
        against = [number(others.get(f"torch {which}", math.nan) / row["ms"]) for which in "abc"]
        out.append(f"| {row['name']} | {row['n']} | {row['ms'] / row['n']:.2f} | {' | '.join(against)} |")
    return out


def gains(found: dict[str, Any]) -> dict[str, str]:
    """Kernel file -> what its step brought, over the rung below, for its line `Measured gain`."""
    gpu, out = found["machine"]["gpu"], {}
    for section, folder, direction in (("ladder", "conv3x3", "forward"), ("ladder", "conv3x3_grad_w", "grad_w"),
                                       ("upconvs", "upconv2x2", "forward")):  # fmt: skip
        rows = found.get(section, [])
        names = [name for name in dict.fromkeys(row["name"] for row in rows if row["direction"] == direction)
                 if not name.startswith("torch") and "3xtf32" not in name]  # fmt: skip
        for below, name in zip([None, *names], names, strict=False):
            its = [row for row in rows if (row["name"], row["direction"]) == (name, direction)]
            speed = geometric_mean([row["gflop"] / row["ms"] for row in its])
            step = f"{ratio(rows, name, below, direction=direction):.2f}x over {below[:2]}; " if below else ""
            out[f"{folder}/{name}.cu"] = f"{step}{speed:.1f} TFLOP/s ({gpu})"
    return out


def write_gains(texts: dict[str, str], folder: Path = KERNELS) -> list[str]:
    """Put the gains into the heads of the kernels; -> the files that were changed"""
    changed = []
    for file, text in texts.items():
        path = folder / file
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = re.sub(r"^(// Measured gain:).*$", lambda match, text=text: f"{match[1]} {text}", old, count=1, flags=re.MULTILINE)
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(file)
    return changed


def newest() -> Path | None:
    """The file that was measured last, None if there is none."""
    files = sorted(RESULTS.glob("gpu-*.json"), key=lambda path: json.loads(path.read_text())["machine"]["date"])
    return files[-1] if files else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="a file of results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    parser.add_argument("--print", action="store_true", help="print the tables, and write nothing")
    args = parser.parse_args(arguments)
    path = args.file or newest()
    found = json.loads(path.read_text()) if path is not None else None
    text = tables(found) if found is not None else NOT_MEASURED
    if args.print:
        print(text)
        return
    fill(KERNELS / "README.md", text, args.check)
    if found is not None and not args.check:
        for file in write_gains(gains(found)):
            print(f"measured gain written to kernels/{file}")


if __name__ == "__main__":
    sys.exit(main())
