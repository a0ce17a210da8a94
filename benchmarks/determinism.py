"""Same seed, same bytes? Runs the same work in processes with one and two threads; writes results/determinism.json and the table
of docs/determinism.md.

    python benchmarks/determinism.py             half a minute on two cores
    python benchmarks/determinism.py --docs      only write the table again
    python benchmarks/determinism.py --check     exit with 1 if docs/determinism.md does not hold these numbers
    python benchmarks/determinism.py --once X    do the work once, in this process, and store its arrays in X (.npz)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, fill, save

import tinyunet as tu
from tinyunet import ops
from tinyunet.backend import Array

PAGE = Path(__file__).parents[1] / "docs" / "determinism.md"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

PARTS = {
    "data": "synthetic images and labels, weight maps, augmented tiles",
    "forward": "outputs of convolutions and up-convolutions",
    "dx": "their gradients by the input",
    "dw": "their gradients by the weights",
    "db": "their gradients by the biases",
    "prediction": "probabilities of an untrained network, by tiles",
    "training": "weights after ten steps",
    "trained": "probabilities of the trained network",
}


def work() -> dict[str, Array]:
    """Everything that could depend on threads, small: "part/what" -> array."""
    paper = network("paper, Adam", tu.preset("paper", base=8, depth=2))
    same_bn = network("same_bn, SGD", tu.preset("same_bn", base=8, depth=2), optimizer="sgd")
    return {**data(), **layers(), **paper, **same_bn}


def data() -> dict[str, Array]:
    result = {}
    for kind in ("em", "phase", "dic"):
        sample = tu.synthetic(kind, 1, 96, np.random.default_rng(0))[0]
        result |= {f"data/{kind} image": sample.image, f"data/{kind} labels": sample.labels}
    config, rng = tu.TrainConfig(), np.random.default_rng(1)
    prepared = tu.train.prepare([sample], config, tu.Normalization())
    x, labels, weights, _ = tu.train.make_batch(prepared, config, (92, 52), 1, rng)
    return {**result, "data/tile": x, "data/tile labels": labels, "data/tile weights": weights}


def layers() -> dict[str, Array]:
    """Channels and sizes as in a network of base 16 that halves its maps level by level."""
    rng, result = np.random.default_rng(2), {}

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    def both_ways(name: str, forward: tuple[Array, Any], backward: Callable[..., tuple[Array, ...]]) -> None:
        y, ctx = forward
        for part, array in zip(("forward", "dx", "dw", "db"), (y, *backward(draw(*y.shape), ctx)), strict=True):
            result[f"{part}/{name}"] = array

    for c_in, c, size in ((1, 16, 92), (16, 16, 92), (32, 32, 44), (64, 64, 20), (128, 128, 8)):
        x = draw(1, size, size, c_in)
        w3, w1, w2 = draw(3, 3, c_in, c), draw(1, 1, c_in, 2), draw(2, 2, c, c_in)
        both_ways(f"conv 3x3, {c_in} -> {c}, {size} px", ops.conv2d_forward(x, w3, draw(c), "same"), ops.conv2d_backward)
        both_ways(f"conv 1x1, {c_in} -> 2, {size} px", ops.conv2d_forward(x, w1, draw(2)), ops.conv2d_backward)
        both_ways(f"upconv, {c_in} -> {c}, {size} px", ops.upconv_forward(x, w2, draw(c)), ops.upconv_backward)
    return result


def network(name: str, spec: tu.UNetSpec, **settings: Any) -> dict[str, Array]:
    """Predict, train for ten steps, predict again. Biases in front of batch norm are left out: they are rounding alone."""
    samples = tu.synthetic("dic", 2, 96, np.random.default_rng(0))
    model, result = tu.UNet(spec), {}
    result[f"prediction/{name}"] = tu.predict_proba(model, samples[0].image)
    for _ in tu.fit(model, samples, (), tu.TrainConfig(steps=10, batch=2, tile=52, **settings)):
        pass
    for key, array in model.state().items():
        if not (spec.norm and key.endswith((".conv1.b", ".conv2.b"))):
            result[f"training/{name}: {key}"] = array
    result[f"trained/{name}"] = tu.predict_proba(model, samples[0].image)
    return result


def run(threads: int, hash_seed: int, folder: Path) -> dict[str, Array]:
    """The work in a process of its own, which is told how many threads to take."""
    path = folder / f"{threads}-{hash_seed}.npz"
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONHASHSEED": str(hash_seed)}
    environment["PYTHONPATH"] = str(Path(tu.__file__).parents[1])  # the tinyunet of this process, installed or not
    subprocess.run([sys.executable, __file__, "--once", str(path)], env=environment, check=True)
    with np.load(path) as file:
        return dict(file)


def compare(a: dict[str, Array], b: dict[str, Array]) -> dict[str, dict[str, Any]]:
    """Of each part: how many arrays there are, how many have other bytes, and the largest relative difference."""
    result: dict[str, dict[str, Any]] = {part: {"arrays": 0, "differ": 0, "largest": 0.0} for part in PARTS}
    for name, array in a.items():
        entry = result[name.split("/")[0]]
        entry["arrays"] += 1
        if array.tobytes() != b[name].tobytes():
            entry["differ"] += 1
            difference = np.abs(array.astype(np.float64) - b[name]).max() / np.abs(array).max()
            entry["largest"] = max(entry["largest"], float(difference))
    return result


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        runs = {(threads, seed): run(threads, seed, Path(folder)) for threads in (1, 2) for seed in (1, 2)}
    return {
        "1 thread, twice": compare(runs[1, 1], runs[1, 2]),
        "2 threads, twice": compare(runs[2, 1], runs[2, 2]),
        "1 and 2 threads": compare(runs[1, 1], runs[2, 1]),
    }


def table(results: dict[str, Any]) -> str:
    m = results["machine"]
    comparisons = [key for key in results if key != "machine"]
    lines = [
        f"Measured with NumPy {m['numpy']} ({m['blas']}) on {m['processor']}, {m['date']}.",
        "",
        "| what | arrays | " + " | ".join(comparisons) + " |",
        "| --- | --- |" + " --- |" * len(comparisons),
    ]
    for part, title in PARTS.items():
        entries = [results[key][part] for key in comparisons]
        cells = [f"{e['differ']} differ, by up to {e['largest']:.0e}" if e["differ"] else "same bytes" for e in entries]
        lines.append(f"| {title} | {entries[0]['arrays']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", metavar="X", help="do the work once and store its arrays")
    parser.add_argument("--docs", action="store_true", help="write the table from results/determinism.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 if docs/determinism.md does not hold these numbers")
    args = parser.parse_args()
    if args.once:
        np.savez(args.once, **work())
        return
    if not (args.docs or args.check):
        print(f"wrote {save('determinism', measure())}")
    fill(PAGE, table(json.loads((RESULTS / "determinism.json").read_text())), args.check)


if __name__ == "__main__":
    main()
