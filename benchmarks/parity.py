"""How far every op, network and optimizer is from PyTorch; writes results/parity.json and the tables of docs/parity.md.

    python benchmarks/parity.py            needs PyTorch; half a minute on two cores
    python benchmarks/parity.py --docs     only write the tables again
    python benchmarks/parity.py --check    exit with 1 if docs/parity.md does not hold these numbers

The cases are those of the tests, see tests/parity/parity_cases.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, fill, save

import tinyunet as tu

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parity.md"
sys.path.insert(0, str(ROOT / "tests" / "parity"))

FORWARD = ("y", "p", "E", "logits", "running")


def measure() -> dict[str, Any]:
    """Of every case the largest relative error, forward and of gradients, in three comparisons with PyTorch in float64."""
    import parity_cases as cases
    import parity_oracle as oracle

    def worst(case: Any, got: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for name, error in cases.errors(got, wanted).items():
            part = "moves" if name.startswith("move") else "forward" if name.startswith(FORWARD) else "gradients"
            parts[part] = max(parts.get(part, 0.0), error)
        return parts

    def compare(case: Any, in_float64: bool = True) -> dict[str, dict[str, float]]:
        truth = oracle.theirs(case, "float64")
        exact = {"float64": worst(case, case.ours(**case.given("float64")), truth)} if in_float64 else {}
        return exact | {
            "float32": worst(case, case.ours(**case.given("float32")), truth),
            "PyTorch's float32": worst(case, oracle.theirs(case, "float32"), truth),
        }

    results: dict[str, Any] = {"torch": oracle.torch.__version__, "ops": {}, "networks": {}, "training": {}}
    for name, case in cases.OPS.items():
        for rung in cases.rungs(case, "float32"):
            with tu.rung(**({case.op: rung} if case.op else {})):
                in_float64 = rung in cases.rungs(case, "float64")
                results["ops"][f"{name}, {rung}" if rung else name] = compare(case, in_float64)
    for name, case in {**cases.NETWORKS, "paper in full": cases.network_case(tu.PAPER, (188, 188), 1)}.items():
        spec, (n, height, width, _) = case.inputs["spec"], case.inputs["x"].shape
        title = f"{name}: base {spec.base}, logits {spec.classes}, {n} x {height}x{width}x{spec.channels}"
        results["networks"][title] = compare(case)
    for name, case in cases.TRAINING.items():
        results["training"][name] = compare(case)
    return results


def tables(results: dict[str, Any]) -> str:
    """The three tables in Markdown."""
    m = results["machine"]
    lines = [
        f"Measured with PyTorch {results['torch']} and NumPy {m['numpy']} ({m['blas']}) on {m['processor']}, {m['date']}.",
    ]

    def table(title: str, key: str, parts: tuple[str, ...]) -> None:
        columns = [(precision, part) for precision in ("float64", "float32", "PyTorch's float32") for part in parts]
        lines.extend(["", f"| {title} | " + " | ".join(f"{a}: {b}" for a, b in columns) + " |"])
        lines.append("| --- |" + " --- |" * len(columns))
        for name, errors in results[key].items():
            cells = [number(errors.get(precision, {}).get(part)) for precision, part in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")

    table("op", "ops", ("forward", "gradients"))
    table("network", "networks", ("forward", "gradients"))
    table("ten steps", "training", ("forward", "moves"))
    return "\n".join(lines)


def number(error: float | None) -> str:
    """What is below a millionth of float64's rounding comes from probabilities that are nearly zero, and counts as zero."""
    return "" if error is None else "0" if error < 1e-22 else f"{error:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write the tables from results/parity.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 if docs/parity.md does not hold these numbers")
    args = parser.parse_args()
    if not (args.docs or args.check):
        print(f"wrote {save('parity', measure())}")
    fill(PAGE, tables(json.loads((RESULTS / "parity.json").read_text())), args.check)


if __name__ == "__main__":
    main()
