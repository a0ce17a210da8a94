"""Writes into kernels/README.md what the rungs of the 3x3 convolution ask of the memory, from the emulator's trace.

    python benchmarks/trace_kernels.py
    python benchmarks/trace_kernels.py --check        look whether the page has these numbers
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import fill

from tinyunet.cuda import conv3x3, emulated
from tinyunet.cuda.emulator import Report

PAGE = Path(__file__).parents[1] / "kernels" / "README.md"
N, H, W, C, O, PAD = 1, 10, 18, 16, 128, 0  # noqa: E741  full tiles in every rung
IDEAS = {
    "01_naive": "one thread per output",
    "02_coalesced": "lanes over output channels",
    "03_halo_tile": "the block's piece of x in shared memory",
    "04_implicit_gemm": "one matrix product, tiles of both factors in shared memory",
    "05_register_tile": "8x8 outputs per thread, 16 bytes a load",
    "06_pipelined": "the next tiles are loaded meanwhile; the fp32 kernel of the network",
    "07_mma_tf32": "tensor cores, TF32",
    "08_mma_tf32_pipe": "copies run three tiles ahead, 64x64 outputs per warp, split sums",
    "08_mma_3xtf32_pipe": "the same file in 3xTF32, with the accuracy of fp32; the default from sm_80 on",
}


def trace(rung: str) -> Report:
    """One launch, counted."""
    x, w = np.ones((N, H, W, C), np.float32), np.ones((3, 3, C, O), np.float32)
    with emulated(mode="trace") as run:
        conv3x3.forward(rung, x, w, PAD, splits=1)
    return run.reports[0]


def table() -> str:
    """A row for every rung."""
    rows = [
        "| rung of `conv3x3/` | idea | global loads | bytes each | sectors a request: x, w | loads from shared memory |",
        "|---|---|---|---|---|---|",
    ]
    products = N * (H - 2) * (W - 2) * O * 9 * C
    for rung, idea in IDEAS.items():
        report = trace(rung)
        lines = {line.array: line for line in report.lines if line.kind == "load"}
        sectors = ", ".join(f"{lines[a].sectors / lines[a].requests:g}" for a in "xw")
        loads, shared = (n / products for n in (report.totals.global_loads, report.totals.shared_loads))
        rows.append(f"| `{rung}` | {idea} | {loads:.3g} | {lines['x'].size} | {sectors} | {f'{shared:.3g}' if shared else ''} |")
    rows.append(
        f"\nLoads are per multiply-add, of {N}x{H}x{W}x{C} values and {O} output channels, counted by the emulator; a load is\n"
        "one instruction of one thread, of 4 or 16 bytes. A sector is 32 bytes, a request what the 32 lanes of a warp ask for."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only look whether the page is up to date")
    fill(PAGE, table(), parser.parse_args().check, "loads")
