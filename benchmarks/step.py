"""What a step of training, its augmentation, a weight map and a large prediction take; writes results/step.json.

    python benchmarks/step.py          about two minutes on two cores

Every measurement that reports memory runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import in_fresh_process, peak_mib, save

import tinyunet as tu
from tinyunet import parallel
from tinyunet.data.augment import augment_tile
from tinyunet.data.images import write_image
from tinyunet.data.weight_map import separate


def median(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def training_step(base: int, size: int, repeats: int) -> dict[str, Any]:
    """One step of the paper's network on one image: forward, loss, backward, SGD."""
    spec = tu.PAPER.but(base=base)
    model, rng = tu.UNet(spec), np.random.default_rng(0)
    optimizer = tu.SGD(model, lr=1e-9)  # a step that changes next to nothing: random images teach nothing
    x = rng.standard_normal((1, size, size, 1), dtype=np.float32)
    out = tu.shapes.output_size(spec, size)
    labels = rng.integers(0, 2, (1, out, out))

    def step() -> None:
        _, dlogits = tu.energy(model.forward(x), labels, None)
        model.backward(dlogits)
        optimizer.step()
        model.zero_grad()

    seconds = median(step, repeats)
    predicted = tu.shapes.training_bytes(spec, size, threads=parallel.count()) / tu.shapes.MIB
    return {"base": base, "size": size, "seconds": seconds, "peak_mib": peak_mib(), "planned_mib": predicted}


def augmentation(repeats: int) -> dict[str, Any]:
    """A 572 x 572 image with labels and weights, all augmentations on, linear interpolation."""
    rng = np.random.default_rng(0)
    sample = tu.synthetic("dic", 1, 572, rng)[0]
    weights = np.ones(sample.labels.shape, np.float32)

    def timed(settings: tu.Augment) -> float:
        return median(
            lambda: augment_tile(sample.image, sample.labels, weights, (286, 286), (572, 572), (572, 572), settings, rng), repeats
        )

    only_elastic = tu.Augment(shift=0, rotation=0, flips=False, gain=0, offset=0, gamma=0)
    return {"elastic_seconds": timed(only_elastic), "all_seconds": timed(tu.Augment())}


def weights(repeats: int) -> dict[str, Any]:
    """The weight map of a 512 x 512 image with 400 cells."""
    row = np.arange(512)
    cells = 1 + 20 * (row // 26)[:, None] + row // 26  # 20 x 20 touching squares
    return {"cells": int(cells.max()), "seconds": median(lambda: tu.weight_map(separate(cells)), repeats)}


def large_prediction(base: int, size: int, max_mem: int) -> dict[str, Any]:
    """`tinyunet predict` on a large image within a memory budget, as people run it: classes, objects, progress, and files."""
    with tempfile.TemporaryDirectory() as folder:
        network, image, out = (str(Path(folder, name)) for name in ("net.safetensors", "large.png", "out"))
        tu.save_checkpoint(network, tu.Checkpoint(tu.UNet(tu.preset("paper", base=base, depth=3))))
        wave = np.sin(np.arange(size) / 9)
        write_image(image, (120 + 100 * wave * wave[:, None]).astype(np.uint8))
        options = ["--max-mem", str(max_mem), "--min-size", "50"]  # a network that has learned nothing paints specks
        command = [sys.executable, "-m", "tinyunet", "predict", network, image, "--out", out, *options]
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
    return {
        "base": base,
        "size": size,
        "budget_mib": max_mem,
        "peak_mib": peak_mib(resource.RUSAGE_CHILDREN),
        "seconds": seconds,
    }


def share_of_augmentation(steps: int) -> dict[str, Any]:
    """Share of a training step that cutting and augmenting tiles takes: base 16, depth 3, two tiles of 132 px."""
    data = tu.synthetic("dic", 4, 256, np.random.default_rng(0))
    model = tu.UNet(tu.preset("paper", base=16, depth=3))
    records = list(tu.fit(model, data, (), tu.TrainConfig(steps=steps, batch=2, tile=132)))[2:]
    return {
        "step_seconds": statistics.median(r.seconds for r in records),
        "share": sum(r.data_seconds for r in records) / sum(r.seconds for r in records),
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "paper_base64_572": lambda: training_step(64, 572, 1),
    "paper_base16_572": lambda: training_step(16, 572, 3),
    "augmentation": lambda: augmentation(15),
    "weight_map": lambda: weights(7),
    "predict_4096": lambda: large_prediction(16, 4096, 1500),
    "augmentation_share": lambda: share_of_augmentation(22),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), help="measure one part in this process and print JSON")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part]()))
        return
    results = {}
    for part in PARTS:
        results[part] = in_fresh_process(str(Path(__file__)), "--part", part)
        print(part, results[part], flush=True)
    print(f"wrote {save('step', results)}")


if __name__ == "__main__":
    main()
