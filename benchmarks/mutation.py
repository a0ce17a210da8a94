"""Change one operator, number, name or argument at a time, and see whether a test notices; writes results/mutation.json and the
numbers of docs/mutation.md.

    pip install "mutmut==3.8.1"
    python benchmarks/mutation.py FOLDER          works in a new folder; half an hour on one core
    python benchmarks/mutation.py FOLDER --all    every mutant of shapes.py too, not a sample
    python benchmarks/mutation.py --docs          only write the numbers again
    python benchmarks/mutation.py --check         exit with 1 if docs/mutation.md does not hold these numbers

Two rounds, for time: every mutant meets the tests of its own part (`OWN_TESTS`); what survives meets the catalogue of properties
and the tests of the whole network too (`MORE_TESTS`). What survives both is sorted by `mutation_reasons.toml`. It names a change
by its file and lines, not by a number, so that a reason holds after the code around has moved. A survivor without a reason ends
the run with 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import RESULTS, fill, save

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mutation.md"
REASONS = Path(__file__).parent / "mutation_reasons.toml"

SAMPLE = {"tinyunet/shapes.py": 300}
"""Of so many mutants a seeded sample is taken, unless --all."""

LIMIT = 4 * 2**30
"""Bytes of address space: a loop that a mutant made endless fills the memory of the machine otherwise."""

MUTATED = ["tinyunet/ops/*.py", "tinyunet/shapes.py", "tinyunet/data/weight_map.py"]
OWN_TESTS = ["tests/ops", "tests/test_shapes.py", "tests/data/test_weight_map.py"]
MORE_TESTS = [*OWN_TESTS, "tests/catalogue/test_ops_properties.py", "tests/test_unet.py"]

OUTCOMES = {0: "survived", 33: "survived", 1: "killed", 3: "killed"} | dict.fromkeys((24, 36, 152, -9, -24), "timed out")
"""Exit status of pytest under mutmut; 33 is no test at all. Anything else is a fault of the run, and a KeyError."""


def prepare(folder: Path, tests: list[str]) -> None:
    """A copy of package and tests in which mutmut reaches what it would pass over, and no cache hides a mutant."""
    folder.mkdir(parents=True)
    for name in ("tinyunet", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in MUTATED:
        for path in folder.glob(pattern):
            path.write_text(without_decorators(path.read_text()))
    settings = f"""
[tool.mutmut]
source_paths = ["tinyunet"]
only_mutate = {json.dumps(MUTATED)}
pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--assert=plain"]
pytest_add_cli_args_test_selection = {json.dumps(tests)}
process_isolation = "forkserver"
track_dependencies = false
timeout_constant = 1.0
timeout_multiplier = 10.0
"""
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)
    with (folder / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(FOR_MUTANTS)


FOR_MUTANTS = '''

from hypothesis import Phase


@pytest.fixture(autouse=True)
def no_cached_sizes():
    """What was computed before the mutant was switched on, or by another test, must not answer for it."""
    from tinyunet import shapes

    for f in vars(shapes).values():
        if hasattr(f, "cache_clear"):
            f.cache_clear()


# A failing case is enough; to make it small takes a hundred times as long.
settings.register_profile("mutation", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutation")
'''


def without_decorators(source: str) -> str:
    """`@d def f` as `def f_of` and `f = d(f_of)`: the same, but mutmut leaves out every function that has a decorator."""
    lines = source.splitlines()
    decorated = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.decorator_list]
    for node in sorted(decorated, key=lambda node: -node.lineno):
        (decorator,) = node.decorator_list
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {ast.unparse(decorator)}({node.name}_of)")
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def {node.name}_of(")
        del lines[decorator.lineno - 1]
    return "\n".join(lines) + "\n"


def mutmut(folder: Path, *mutants: str) -> None:
    """Run these mutants, or all: one worker, one thread, low priority."""
    command = ["nice", sys.executable, "-m", "mutmut", "run", "--max-children", "1", *mutants]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "ci"}
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # noqa: E731
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, preexec_fn=limit)  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout[-3000:])


def codes(folder: Path) -> dict[str, dict[str, int | None]]:
    """file -> name of mutant -> exit status, None where it was not run"""
    made, found = folder / "mutants", {}
    for path in sorted((made / "tinyunet").rglob("*.py.meta")):
        if mutants := json.loads(path.read_text())["exit_code_by_key"]:
            found[path.relative_to(made).as_posix().removesuffix(".meta")] = mutants
    return found


def changes(folder: Path, mutants: list[tuple[str, str]]) -> list[dict[str, str]]:
    """(file, name) of mutants -> file, function, and the changed lines before and after"""
    program = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print(json.dumps([get_diff_for_mutant(name, path=file) for file, name in json.load(sys.stdin)]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, input=json.dumps(mutants), stdout=subprocess.PIPE,
                          text=True, check=True)  # fmt: skip
    found = []
    for (file, name), diff in zip(mutants, json.loads(done.stdout), strict=True):
        lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
        before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        found.append({"file": file, "function": function_of(name), "before": before, "after": after})
    return found


def function_of(mutant: str) -> str:
    """tinyunet.shapes.xǁStepǁmacs_of__mutmut_3 -> Step.macs;  tinyunet.ops.pad.x__fold__mutmut_27 -> _fold"""
    mangled = re.sub(r"(_of)?__mutmut_\d+$", "", mutant.rpartition(".")[2])
    return re.sub(r"^x(ǁ|_)", "", mangled).replace("ǁ", ".")


def survivors(found: dict[str, dict[str, int | None]]) -> list[tuple[str, str]]:
    """(file, name) of every mutant that was run and not seen."""
    ran = [(file, name, code) for file, mutants in found.items() for name, code in mutants.items() if code is not None]
    return [(file, name) for file, name, code in ran if OUTCOMES[code] == "survived"]


def measure(folder: Path, every: bool) -> dict[str, Any]:
    """Both rounds."""
    own, more = folder / "own", folder / "more"
    prepare(own, OWN_TESTS)
    files = [path.relative_to(ROOT).as_posix() for pattern in MUTATED for path in ROOT.glob(pattern)]
    mutmut(own, *(file.removesuffix(".py").replace("/", ".") + ".*" for file in files if every or file not in SAMPLE))
    for file, size in () if every else SAMPLE.items():
        names = list(codes(own)[file])
        mutmut(own, *random.Random(0).sample(names, min(size, len(names))))
    first = codes(own)
    alive = survivors(first)

    prepare(more, MORE_TESTS)
    mutmut(more, *(name for _, name in alive))
    second = codes(more)
    again = {name: code for mutants in second.values() for name, code in mutants.items() if code is not None}
    last = {file: {name: again.get(name, code) for name, code in mutants.items()} for file, mutants in first.items()}
    return {"tool": f"mutmut {version('mutmut')}", **summary(more, last)}


def summary(folder: Path, last: dict[str, dict[str, int | None]]) -> dict[str, Any]:
    """Numbers by file, and every survivor."""
    files = {}
    for file, mutants in last.items():
        ran = Counter(OUTCOMES[code] for code in mutants.values() if code is not None)
        files[file] = {"mutants": len(mutants), "run": ran.total(), "killed": ran["killed"], "timed out": ran["timed out"],
                       "survived": ran["survived"]}  # fmt: skip
    return {"files": files, "survivors": changes(folder, survivors(last))}


def reason_of(survivor: dict[str, str], reasons: list[dict[str, str]]) -> str | None:
    """The first kind of survivor in `mutation_reasons.toml` that this one belongs to."""
    line = f"{survivor['before']} -> {survivor['after']}"
    for reason in reasons:
        if fnmatch(survivor["file"], reason.get("file", "*")) and re.search(reason["change"], line):
            return reason["kind"]
    return None


def page(results: dict[str, Any]) -> str:
    """The numbers of docs/mutation.md."""
    toml = tomllib.loads(REASONS.read_text())
    kinds = Counter(reason_of(survivor, toml["change"]) for survivor in results["survivors"])
    files = results["files"]
    total = {key: sum(numbers[key] for numbers in files.values()) for key in next(iter(files.values()))}
    rows = [*files.items(), ("**all**", total)]
    columns = ("mutants", "run", "killed", "timed out", "survived")
    by = results["machine"]
    lines = [
        f"{results['tool']}, Python {by['python']}, NumPy {by['numpy']}, {by['date']}.",
        "",
        f"| file | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(f"| {file} | {' | '.join(str(numbers[key]) for key in columns)} |" for file, numbers in rows),
        "",
        "| why it may survive | mutants |",
        "| --- | --- |",
        *(f"| {text} | {kinds[kind]} |" for kind, text in toml["kinds"].items() if kinds[kind]),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder to make")
    parser.add_argument("--all", action="store_true", help="no sample")
    parser.add_argument("--docs", action="store_true", help="only write the numbers again")
    parser.add_argument("--check", action="store_true", help="only look whether the page holds the numbers")
    arguments = parser.parse_args()
    if not (arguments.docs or arguments.check):
        if arguments.folder is None:
            parser.error("name a folder to work in")
        save("mutation", measure(arguments.folder.resolve(), arguments.all))
    results = json.loads((RESULTS / "mutation.json").read_text())
    fill(PAGE, page(results), arguments.check)
    reasons = tomllib.loads(REASONS.read_text())["change"]
    unknown = [survivor for survivor in results["survivors"] if reason_of(survivor, reasons) is None]
    for survivor in unknown:
        print(f"no reason yet: {survivor['file']} {survivor['function']}\n  - {survivor['before']}\n  + {survivor['after']}")
    if unknown:
        sys.exit(1)


if __name__ == "__main__":
    main()
