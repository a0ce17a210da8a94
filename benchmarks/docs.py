"""Write what is generated into the docs; `--check` only looks whether it is there.

README.md gets the numbers of benchmarks/results between its markers, docs/properties.md the catalogue of properties.

    python benchmarks/docs.py
    python benchmarks/docs.py --check
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import RESULTS, fill

from tinyunet.catalogue import CATALOGUE, LADDERS, SUBJECTS, rungs_of

ROOT = Path(__file__).parents[1]


def numbers() -> str:
    """The README's paragraph and table of measurements."""
    step = json.loads((RESULTS / "step.json").read_text())
    real = json.loads((RESULTS / "real_data.json").read_text())["tasks"]
    demo = json.loads((RESULTS / "demo.json").read_text())
    m = step["machine"]
    full, small = step["paper_base64_572"], step["paper_base16_572"]
    augment, large = step["augmentation"], step["predict_4096"]
    rows = [
        (
            f"`tinyunet demo`: {demo['kind']} cells, {demo['steps']} steps, everything included",
            f"{demo['seconds']:.0f} s; held-out IoU {demo['iou']:.3f}, SEG {demo['seg']:.3f}",
        ),
    ]
    for name in ("dsb2018", "isbi2012", "u373"):
        r, a = real[name], real[name]["plain"]
        rows.append((
            f"{r['title']}, {r['images'][0]} images to train on, {r['images'][1]} held out",
            f"{r['train_seconds'] / 60:.1f} min; IoU {a['mean_iou']:.3f} (mean over images {a['mean_over_images']:.3f}), "
            f"SEG {a['seg']:.3f}, pixel error {a['pixel_error']:.3f}",
        ))  # fmt: skip
    rows += [
        (
            "one training step of the paper's network (base 64), 572x572",
            f"{full['seconds']:.1f} s, {full['peak_mib'] / 1024:.2f} GiB",
        ),
        ("the same with base 16", f"{small['seconds']:.2f} s, {small['peak_mib'] / 1024:.2f} GiB"),
        ("elastic deformation of a 572x572 image, labels and weights", f"{augment['elastic_seconds'] * 1000:.0f} ms"),
        ("share of a training step (base 16, depth 3) that augmentation takes", f"{step['augmentation_share']['share']:.0%}"),
        (f"weight map, 512x512 with {step['weight_map']['cells']} cells", f"{step['weight_map']['seconds'] * 1000:.0f} ms"),
        (
            f"`tinyunet predict` of a 4096x4096 image, objects included (base {large['base']}, depth 3), "
            f"budget {large['budget_mib']:.0f} MiB",
            f"{large['seconds']:.0f} s, peak {large['peak_mib']:.0f} MiB",
        ),
    ]
    matrix = json.loads((RESULTS / "kill_matrix.json").read_text())
    seen = matrix["seen_by"]
    rows.append((
        f"planted bugs that break one of {len(matrix['properties'])} properties",
        f"{sum(map(bool, seen.values()))} of {len(seen)}",
    ))  # fmt: skip
    lines = [
        f"Measured on {m['processor']}, {m['cores']} cores, with NumPy {m['numpy']} ({m['blas']}),",
        "by the scripts in `benchmarks/`:",
        "",
        "| what | measured |",
        "| --- | --- |",
        *(f"| {what} | {value} |" for what, value in rows),
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """A bar in a sentence is no border of a Markdown table."""
    return text.replace("|", "\\|")


def properties() -> str:
    """Every law of the catalogue, by subject."""
    count = sum(len(laws) for laws in CATALOGUE.values())
    lines = [f"{count} properties of {len(SUBJECTS)} subjects."]
    for subject in SUBJECTS:
        rungs = f" Checked on every rung of its ladder: {', '.join(rungs_of(subject))}." if subject in LADDERS else ""
        laws = CATALOGUE[subject]
        lines += ["", f"## {subject}", "", f"{len(laws)} properties.{rungs}", ""]
        lines += ["| property | kind | what must hold |", "| --- | --- | --- |"]
        lines += [f"| `{p.name}` | {p.kind} | {escaped(p.says)} |" for p in laws]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a page is not up to date")
    args = parser.parse_args()
    fill(ROOT / "README.md", numbers(), args.check)
    fill(ROOT / "docs" / "properties.md", properties(), args.check)


if __name__ == "__main__":
    main()
