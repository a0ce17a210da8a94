"""What all benchmarks share: who measured, in which process, and where the result goes."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import tinyunet

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, versions and date: without these a number says nothing."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload,index]
    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "tinyunet": tinyunet.__version__,
    }


def peak_mib(who: int = resource.RUSAGE_SELF) -> float:
    """Peak resident memory of this process so far, or of its largest child (RUSAGE_CHILDREN), in MiB.

    Linux counts in ru_maxrss what the process was before it became another program, VmHWM does not.
    """
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**10
    peak = resource.getrusage(who).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def in_fresh_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark's script on its own, so that its peak memory is its own too; it prints JSON as its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def save(name: str, results: dict[str, Any]) -> Path:
    """Write results/NAME.json with the machine beside the numbers."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    return path


def fill(page: Path, text: str, check: bool, name: str = "numbers") -> None:
    """Write measured numbers into a page of the docs, between its two markers; with `check` only look whether they are there."""
    pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(\n<!-- {name}: end -->)", re.DOTALL)
    old = page.read_text()
    if not pattern.search(old):
        sys.exit(f"{page} has lost its markers <!-- {name}: begin --> and <!-- {name}: end -->.")
    new = pattern.sub(lambda match: f"{match[1]}{text}{match[2]}", old)
    if check and new != old:
        sys.exit(f"{page} does not hold the numbers that were measured. Run the script that writes it.")
    if not check:
        page.write_text(new)
