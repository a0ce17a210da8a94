"""Plant every bug of `tinyunet.bugs`, run every property of the catalogue against it, and write down who saw what.

    python benchmarks/kill_matrix.py            some minutes on two cores
    python benchmarks/kill_matrix.py --only kernel_flipped ties_to_all      these alone; the others stay as they were measured
    python benchmarks/kill_matrix.py --page     only write page and picture anew, from the results
    python benchmarks/kill_matrix.py --new      bugs that were not measured yet
    python benchmarks/kill_matrix.py --check    exit with 1 if docs/kill_matrix.md is not what the results give

Writes results/kill_matrix.json, docs/kill_matrix.md and docs/kill_matrix.png. All properties count, of all parts. Those that
never call the function that a bug is in cannot see it: a first run without bugs notes who calls what, and spares them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: one thread a process

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from common import RESULTS, save
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

import tinyunet
from tinyunet import rung
from tinyunet.bugs import BUGS, Bug, plant
from tinyunet.bugs.core import empty_caches, find
from tinyunet.catalogue import CATALOGUE, Property, check_on_rung
from tinyunet.catalogue.core import is_gradient_check
from tinyunet.data.sample import counted
from tinyunet.plot import save as save_figure

SOURCE = Path(tinyunet.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"

KINDS = ("gradient", "adjoint", "reference", "invariance", "convention", "contract")
TEXT = """# Who sees which bug

`tinyunet.bugs` holds {total} bugs, each a change of a few lines. Of {shipped} a thread of another project tells, as they
stand or in like manner. Each was planted by itself, and all {properties} properties of the catalogue were run against
it{earlier}.
`benchmarks/kill_matrix.py` writes this page; a test fails if a bug is not seen by any property of the parts that it names.

- Seen: {seen} of {total}. Not seen by anything: {survivors}.
- {differentiable} bugs lie in what a forward or a backward pass computes. A gradient check, which compares backward with how
  forward changes, sees **{checked}** of them, {differences} by the differences that everyone uses and the others by complex
  steps or through the whole network. Adjoints see {adjoint}. The other **{consistent}** get past both: forward and backward
  agree with each other and not with the formula, or what is wrong is not the gradient.
- The remaining {others} lie where there is nothing to differentiate: data, tiles, training, metrics, first weights, running
  statistics, tables of sizes.
- Seen by one kind of property alone: {only}.
- Seen by a single property: {single}.

![Bugs in rows, kinds of properties in columns, how many see the bug in each cell](kill_matrix.png)

The kinds: *gradient*, differences, complex steps and what else holds for gradients; *adjoint*, <Ax, y> = <x, A'y>; *reference*,
equal to a loop or to another library; *invariance*, a law that holds for any values; *convention*, a choice that is pinned;
*contract*, dtypes, layouts, purity, errors.

To see a bug, and to try it:

```python
from tinyunet.bugs import diff, plant

print(diff("kernel_flipped"))
with plant("kernel_flipped"):
    ...  # whatever runs here has the bug
```

`tinyunet check --plant kernel_flipped` does both, and shows who says what. Behind a bug's name stands the rung of the ladder that
it is in, if it is in one: planting it picks this rung. *loops* is written in Python and a hundred times slower than what usually
runs, so take small images; rungs of Winograd take float32 alone.

In the tables, *seen by* counts properties of all parts; *gradient check* and *adjoint* say whether one of these would have been
enough, a dash that there is nothing to differentiate. Behind a project's name # is an issue, PR# a pull request.
"""

AREAS = {
    "Convolution": ("conv2d", "conv1x1"),
    "Convolution in float32": ("conv2d_float32",),
    "Up-convolution": ("upconv",),
    "Max-pooling": ("max_pool",),
    "ReLU": ("relu",),
    "Batch norm": ("batch_norm", "batch_norm_eval", "batch_norm_layer"),
    "Dropout": ("dropout",),
    "Crop and concatenate": ("crop_concat",),
    "Mirror padding": ("mirror_pad",),
    "Loss": ("softmax_cross_entropy", "sigmoid_cross_entropy"),
    "The network": ("unet", "init"),
    "Tiles": ("tiling",),
    "Augmentation": ("augment_tile", "elastic_field"),
    "Weight map": ("weight_map",),
    "Normalisation and splits": ("normalization", "splits"),
    "Optimizers and schedules": ("optim", "schedule"),
    "Training": ("training",),
    "Metrics": ("metrics",),
}
"""Headings, and the subjects under them: a bug stands where the first subject that it names stands."""

MARKS = {"seen": "●", "missed": "○", "none": "–"}
"""In the picture, what a gradient check says of a bug."""

REFUSED = "was picked by hand but cannot run this: it takes float32"
"""In the error of a rung that has no answer in float64."""

Calls = dict[str, set[CodeType]]
"""Property, as "subject.name" -> the code of tinyunet that it runs"""


def properties() -> dict[str, Property]:
    """Every property by "subject.name"."""
    return {f"{subject}.{prop.name}": prop for subject, props in CATALOGUE.items() for prop in props}


def calls_without_bug(rungs: dict[str, str]) -> Calls:
    """Run every property on some rungs and note what it calls; ends the program if one fails.

    A rung that takes float32 alone refuses what is about float64: those properties do not meet its bugs.
    """
    calls: Calls = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_filename.startswith(str(SOURCE)):
            called.add(frame.f_code)

    with rung(**rungs):
        for name, prop in properties().items():
            called = calls[name] = set()
            empty_caches()  # what is remembered is not called
            sys.setprofile(note)
            outcome = check_on_rung(prop)
            sys.setprofile(None)
            if REFUSED in outcome.error:
                del calls[name]
            elif outcome.error:
                raise SystemExit(f"Without any bug {name} fails: {outcome.error}. Mend it first.")
    return calls


def concerned(name: str, calls: Calls) -> list[str]:
    """The properties that call what a bug changes; of a constant, anything in its file."""
    places = [find(edit.where) for edit in BUGS[name].edits]
    changed = {place.target.__code__ for place in places if place.target is not None}
    files = {place.module.__file__ for place in places if place.target is None}
    return [by for by, called in calls.items() if called & changed or any(code.co_filename in files for code in called)]


def seen_by(name: str, candidates: list[str]) -> list[str]:
    """Those of some properties that fail under a bug."""
    every = properties()
    with plant(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bug may well divide by zero
        return [by for by in candidates if check_on_rung(every[by]).error]


def area_of(name: str) -> str:
    """The heading that a bug stands under."""
    return next(area for area, subjects in AREAS.items() if BUGS[name].subjects[0] in subjects)


def measure(jobs: int, names: Sequence[str], before: dict[str, Any]) -> dict[str, Any]:
    """Run everything that some bugs can reach against them; of the others keep what was measured before.

    -> properties by name and kind; by bug, the properties that see it, and when it was measured with how many properties
    """
    began = time.perf_counter()
    calls = {str(rungs): calls_without_bug(rungs) for rungs in _different(BUGS[name].rungs for name in names)}
    print(f"{time.perf_counter() - began:6.0f} s  {len(properties())} properties hold without a bug", flush=True)
    candidates = [concerned(name, calls[str(BUGS[name].rungs)]) for name in names]
    kinds = {name: prop.kind for name, prop in properties().items()}
    seen = {name: [by for by in found if by in kinds] for name, found in before["seen_by"].items() if name in BUGS}
    measured = {name: how for name, how in before["measured"].items() if name in BUGS}
    now = {"date": time.strftime("%Y-%m-%d"), "properties": len(kinds)}
    with ProcessPoolExecutor(jobs) as pool:
        for name, tried, by in zip(names, candidates, pool.map(seen_by, names, candidates), strict=True):
            seen[name], measured[name] = by, now
            print(f"{time.perf_counter() - began:6.0f} s  {name}: seen by {len(by)} of {len(tried)} that meet it", flush=True)
    return {"properties": kinds, "seen_by": {name: seen[name] for name in BUGS if name in seen},
            "measured": {name: measured[name] for name in BUGS if name in measured}}  # fmt: skip


def _different(rungs: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return list({str(one): one for one in rungs}.values())


class Matrix:
    """The results, as page and picture need them."""

    def __init__(self, results: dict[str, Any]) -> None:
        if missing := [name for name in BUGS if name not in results["seen_by"]]:
            raise SystemExit(f"Not measured yet: {', '.join(missing)}. Run benchmarks/kill_matrix.py --new.")
        self.kind: dict[str, str] = results["properties"]
        self.seen_by: dict[str, list[str]] = {name: results["seen_by"][name] for name in BUGS}
        counts = [how["properties"] for how in results["measured"].values()]
        self.earlier = {n: counts.count(n) for n in sorted(set(counts)) if n != len(self.kind)}
        self.areas = {area: [name for name in BUGS if area_of(name) == area] for area in AREAS}

    def count(self, name: str, kind: str) -> int:
        """How many properties of a kind see a bug."""
        return sum(self.kind[by] == kind for by in self.seen_by[name])

    def by_gradient_check(self, name: str, *ways: str) -> bool:
        """Whether a gradient check of any sort, or of some, sees a bug."""
        return any(is_gradient_check(self.kind[by], by, *ways) for by in self.seen_by[name])

    def judged(self, name: str) -> str:
        """What a gradient check says: "seen", "missed", or "none" where there is nothing to differentiate."""
        if not BUGS[name].differentiable:
            return "none"
        return "seen" if self.by_gradient_check(name) else "missed"

    def only(self, kind: str) -> list[str]:
        """Bugs that one kind of property sees and no other."""
        return [name for name, by in self.seen_by.items() if by and {self.kind[b] for b in by} == {kind}]


def page(m: Matrix) -> str:
    """docs/kill_matrix.md"""
    differentiable = [name for name, bug in BUGS.items() if bug.differentiable]
    checked = [name for name in BUGS if m.judged(name) == "seen"]
    adjoint = [name for name in differentiable if m.count(name, "adjoint")]
    text = TEXT.format(
        total=len(BUGS),
        shipped=sum(bool(bug.shipped) for bug in BUGS.values()),
        properties=len(m.kind),
        earlier="".join(f" ({counted(bugs, 'bug')} when there were {n})" for n, bugs in m.earlier.items()),
        seen=sum(map(bool, m.seen_by.values())),
        survivors=", ".join(f"`{name}`" for name, by in m.seen_by.items() if not by) or "none",
        differentiable=len(differentiable),
        checked=len(checked),
        differences=sum(m.by_gradient_check(name, "differences") for name in checked),
        adjoint=len(adjoint),
        consistent=len(set(differentiable) - set(checked) - set(adjoint)),
        others=len(BUGS) - len(differentiable),
        only=", ".join(f"{kind} {len(m.only(kind))}" for kind in KINDS),
        single=sum(len(by) == 1 for by in m.seen_by.values()),
    )
    lines = []
    for area, names in m.areas.items():
        lines += ["", f"## {area}", "", "| bug | what is wrong | seen by | gradient check | adjoint |"]
        lines += ["| --- | --- | ---: | :---: | :---: |"]
        for name in names:
            bug = BUGS[name]
            known = f" *({bug.shipped or bug.known})*" if bug.shipped or bug.known else ""
            alone = [answer(bug, sees) for sees in (m.by_gradient_check(name), m.count(name, "adjoint"))]
            rungs = "".join(f" ({rung})" for rung in bug.rungs.values())
            lines.append(f"| `{name}`{rungs} | {bug.says}{known} | {len(m.seen_by[name])} | {' | '.join(alone)} |")
    return text + "\n".join(lines) + "\n"


def answer(bug: Bug, sees: int) -> str:
    """In a table: whether a check sees a bug that has to do with gradients."""
    return "-" if not bug.differentiable else "yes" if sees else ""


def picture(m: Matrix) -> Figure:
    """Bugs in rows, kinds in columns; the darker a cell, the more properties see the bug."""
    columns = _columns(m, 3)
    rows = max(sum(len(names) + 1.6 for _, names in column) for column in columns)
    figure, axes = plt.subplots(1, len(columns), figsize=(16, 0.185 * rows + 1.5), layout="constrained")
    shades = mpl.colormaps["Blues"]  # one hue, light to dark: reads the same without colour
    norm = LogNorm(1, max(m.count(name, kind) for name in BUGS for kind in KINDS) * 1.6)
    for axis, column in zip(axes, columns, strict=True):
        y = 0.0
        beside = blended_transform_factory(axis.transAxes, axis.transData)
        for area, names in column:
            y += 1.5
            axis.text(-0.02, y, area, transform=beside, ha="right", va="center", fontsize=8.5, fontweight="bold")
            y += 0.1
            for name in names:
                y += 1
                label = f"{name.replace('_', ' ')} {MARKS[m.judged(name)]}"
                axis.text(-0.02, y, label, transform=beside, ha="right", va="center", fontsize=7.5)
                for x, kind in enumerate(KINDS):
                    n = m.count(name, kind)
                    colour = shades(0.15 + 0.8 * norm(n)) if n else "white"
                    axis.add_patch(Rectangle((x, y - 0.5), 1, 1, facecolor=colour, edgecolor="#c8c8c8", linewidth=0.5))
                    if n:
                        ink = "white" if norm(n) > 0.5 else "black"
                        axis.text(x + 0.5, y, str(n), ha="center", va="center", fontsize=7, color=ink)
        axis.set(xlim=(-0.02, len(KINDS) + 0.02), ylim=(rows + 0.7, 0.3))
        axis.set_xticks([x + 0.5 for x in range(len(KINDS))], KINDS, rotation=40, ha="left", fontsize=8.5)
        axis.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False, labelleft=False, length=0)
        axis.spines[:].set_visible(False)
    seen, missed, none = (sum(m.judged(name) == how for name in BUGS) for how in MARKS)
    figure.suptitle(
        f"How many properties of each kind see each of {len(BUGS)} planted bugs\n"
        f"{MARKS['seen']}  a gradient check sees it ({seen})     {MARKS['missed']}  it does not ({missed})     "
        f"{MARKS['none']}  nothing to differentiate ({none})",
        fontsize=11,
    )
    figure.set_label(
        f"Table of {len(BUGS)} planted bugs by six kinds of properties. Each cell holds the number of properties that see the "
        f"bug. A gradient check sees {seen} of the {seen + missed} that have to do with gradients. The same is told in "
        "docs/kill_matrix.md."
    )
    return figure


def _columns(m: Matrix, n: int) -> list[list[tuple[str, list[str]]]]:
    """Areas in n columns of about equal height, in order."""
    heights = {area: len(names) + 1.6 for area, names in m.areas.items()}
    columns: list[list[tuple[str, list[str]]]] = [[] for _ in range(n)]
    done = 0.0
    for area, names in m.areas.items():
        middle = done + heights[area] / 2
        columns[min(n - 1, int(n * middle / sum(heights.values())))].append((area, names))
        done += heights[area]
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write page and picture anew")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not what the results give")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", nargs="+", metavar="BUG", help="measure these bugs; the others stay as they are")
    chosen.add_argument("--new", action="store_true", help="measure the bugs that were not measured yet")
    args = parser.parse_args()
    if not (args.page or args.check):
        path = RESULTS / "kill_matrix.json"
        before = json.loads(path.read_text()) if args.only or args.new else {"seen_by": {}, "measured": {}}
        names = args.only or [name for name in BUGS if name not in before["seen_by"]]
        if unknown := [name for name in names if name not in BUGS]:
            parser.error(f"there is no bug {', '.join(unknown)}; tinyunet check --plant lists them")
        save("kill_matrix", measure(args.jobs, names, before))
    matrix = Matrix(json.loads((RESULTS / "kill_matrix.json").read_text()))
    path = DOCS / "kill_matrix.md"
    if args.check:
        if path.read_text(encoding="utf-8") != page(matrix):
            sys.exit(f"{path} is not what benchmarks/results/kill_matrix.json gives. Run benchmarks/kill_matrix.py --page.")
        return
    path.write_text(page(matrix), encoding="utf-8")
    save_figure(picture(matrix), DOCS / "kill_matrix.png", dpi=130)


if __name__ == "__main__":
    main()
