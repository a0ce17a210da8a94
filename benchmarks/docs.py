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

from tinyunet.catalogue import CATALOGUE, LADDERS, SUBJECTS, Property, rungs_of
from tinyunet.catalogue.laws import LAWS
from tinyunet.catalogue.own import CALLS

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
        over = f" (mean over images {a['mean_over_images']:.3f})" if "mean_over_images" in a else ""
        rows.append((
            f"{r['title']}, {r['images'][0]} images to train on, {r['images'][1]} held out",
            f"{r['train_seconds'] / 60:.1f} min; IoU {a['mean_iou']:.3f}{over}, "
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
    """How an op is called, the laws that ops have in common, and every other law of the catalogue by subject."""
    count = sum(len(laws) for laws in CATALOGUE.values())
    checks = sum(len(CATALOGUE[subject]) * len(rungs_of(subject)) for subject in SUBJECTS)
    ladders = " and ".join(f"those of {s} on each of {len(rungs_of(s))} rungs ({', '.join(rungs_of(s))})" for s in LADDERS)
    lines = [f"{count} properties of {len(SUBJECTS)} subjects. They make {checks} checks: {ladders}, all others once."]

    lines += ["", "## How an op of your own is called", ""]
    lines += ["| subject | forward | backward |", "| --- | --- | --- |"]
    for subject, call in CALLS.items():
        lines.append(f"| {subject} | `{call.forward}` | {f'`{call.backward}`' if call.backward else 'none'} |")

    by_law: dict[str, list[str]] = {name: [s for s in SUBJECTS if any(_is_common(p) and p.name == name for p in CATALOGUE[s])]
                                    for name in LAWS}  # fmt: skip
    every = [s for s in SUBJECTS if any(s in subjects for subjects in by_law.values())]
    lines += ["", "## Laws that ops have in common", "", f"All: {', '.join(every)}.", ""]
    lines += ["| property | kind | holds for | what must hold |", "| --- | --- | --- | --- |"]
    for name, subjects in by_law.items():
        says = next(p for p in CATALOGUE[subjects[0]] if p.name == name)
        lacking = [s for s in every if s not in subjects]
        few = "all" if not lacking else ", ".join(subjects) if len(subjects) <= len(lacking) else f"all but {', '.join(lacking)}"
        lines.append(f"| `{name}` | {says.kind} | {few} | {escaped(says.says)} |")

    for subject in SUBJECTS:
        own = [p for p in CATALOGUE[subject] if not _is_common(p)]
        common = len(CATALOGUE[subject]) - len(own)
        beside = f" of its own, and {common} of the common ones" if common else ""
        lines += ["", f"## {subject}", "", f"{'1 property' if len(own) == 1 else f'{len(own)} properties'}{beside}.", ""]
        lines += ["| property | kind | what must hold |", "| --- | --- | --- |"]
        lines += [f"| `{p.name}` | {p.kind} | {escaped(p.says)} |" for p in own]
    return "\n".join(lines)


def _is_common(prop: Property) -> bool:
    """Some parts keep a law of their own under the name of a common one; its sentence tells them apart."""
    return prop.name in LAWS and prop.says == (LAWS[prop.name][1].__doc__ or "").strip().splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a page is not up to date")
    args = parser.parse_args()
    fill(ROOT / "README.md", numbers(), args.check)
    fill(ROOT / "docs" / "properties.md", properties(), args.check)


if __name__ == "__main__":
    main()
