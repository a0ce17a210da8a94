"""Hostile input at every door of the library: how many cases, what became of them, and what the worst of them took.

    python benchmarks/fuzz.py                      10,000 cases, always the same
    python benchmarks/fuzz.py --cases 100000 --seed 7

Writes results/fuzz.json and docs/fuzz.md. A case that breaks a rule ends the run with the smallest input that does.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))

import files_in
import files_out
import hostile
import settings_in
from common import save

PAGE = Path(__file__).parents[1] / "docs" / "fuzz.md"

INTRODUCTION = """# Hostile input

Files come from strangers: from a disk that was full, a mail that was cut, a program that writes masks in its own way, or from
somebody who means harm. A fuzzer ({path}, built on Hypothesis) plays such files at every door of the library. A case
must end in one of two ways: it is *accepted*, or it is *refused* with an error of one paragraph that names the file or
the option. No traceback, no hang (at most {seconds:g} s of processor time), no memory beyond {mib:g} MiB above what was there
before, no code run out of a file, nothing left behind but whole results.

{cases:,} cases, {how}. None broke a rule.

| target | cases | refused with a clear error | accepted | slowest case | most memory |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

Memory is the peak of what is resident while the library works, so that it counts what compiled libraries take (Linux). More
cases: `python benchmarks/fuzz.py --cases 100000 --seed 1`.

What is tried:

{notes}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of all targets together (default 10000)")
    parser.add_argument("--seed", type=int, help="other cases than those of the tests")
    parser.add_argument("--target", help="only one of them; then nothing is written")
    args = parser.parse_args()
    warnings.simplefilter("error")  # as the tests do
    targets = [t for module in (files_in, settings_in, files_out) for t in module.TARGETS]
    if args.target and args.target not in [t.name for t in targets]:
        sys.exit(f"There is no target {args.target!r}. Choose one of: {', '.join(t.name for t in targets)}.")
    measured: dict[str, Any] = {}
    for target in targets:
        if args.target in (None, target.name):
            tally = hostile.search(target, max(1, target.share * args.cases // 10_000), args.seed)
            measured[target.name] = {
                "cases": tally.cases, "refused": tally.outcomes["refused"], "accepted": tally.outcomes["accepted"],
                "seconds": round(tally.seconds, 3), "mib": round(tally.mib, 1), "total_seconds": round(tally.total, 1),
            }  # fmt: skip
            print(target.name, measured[target.name])
    if args.target:
        return
    save("fuzz", {"seed": args.seed, "targets": measured})
    rows = "\n".join(f"| {name} | {m['cases']:,} | {m['refused']:,} | {m['accepted']:,} "
                     f"| {m['seconds']:.2f} s | {m['mib']:.0f} MiB |" for name, m in measured.items())  # fmt: skip
    notes = "\n".join(f"- **{t.name}**: {t.note}" for t in targets)
    how = "always the same" if args.seed is None else f"drawn with seed {args.seed}"
    PAGE.write_text(INTRODUCTION.format(path="`tests/fuzz`", seconds=hostile.SECONDS, mib=hostile.MIB, rows=rows, notes=notes,
                                        cases=sum(m["cases"] for m in measured.values()), how=how))  # fmt: skip


if __name__ == "__main__":
    main()
