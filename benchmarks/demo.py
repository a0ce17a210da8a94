"""Run `tinyunet demo` as a user would; writes results/demo.json and the pictures of the README, docs/demo.png and docs/unet.png.

    python benchmarks/demo.py          about two minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import save

import tinyunet as tu

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tinyunet", "demo", "--out", str(out)], check=True)
        seconds = time.perf_counter() - began
        about = json.loads((out / "tinyunet-demo.json").read_text())
        shutil.copy(out / "results.png", DOCS / "demo.png")
    result = {key: about[key] for key in ("kind", "seed", "steps")}
    test = about["test"]
    path = save("demo", {**result, "seconds": round(seconds, 1), "iou": test["mean_iou"], "seg": test["seg"]})
    tu.plot.save(tu.plot.draw_unet(tu.PAPER, 572), DOCS / "unet.png", dpi=110)
    print(f"wrote {path} and the pictures in {DOCS}")


if __name__ == "__main__":
    main()
