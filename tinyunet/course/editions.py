"""From the one source of a lesson to its editions: for students, with solutions, executed, for a teacher's grader.

A source is a Python file in jupytext's percent format. Tags of its cells say what they are for: "setup", "exercise", "check",
"predict", "pitfalls". Solutions stand between nbgrader's marks:

    ### BEGIN SOLUTION: what is to be done
    ### END SOLUTION

In the student edition an exercise raises NotImplementedError there, and a prediction becomes None. Cells carry nbgrader's
metadata, and numbers for ids, so that building twice gives the same notebook.
"""

from __future__ import annotations

import ast
import base64
import copy
import json
import os
import posixpath
import re
import tempfile
import textwrap
import zipfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyunet.course.picture import smaller
from tinyunet.errors import ConfigError, TinyUNetError
from tinyunet.files import atomic_write, own_folder

KINDS = ("setup", "exercise", "check", "predict", "pitfalls")
"""Tags that mean something; a cell has one of them, or none."""

_BLOCK = re.compile(r"^(?P<indent> *)### BEGIN SOLUTION: (?P<todo>.+)\n(?P<code>(?:.*\n)*?)(?P=indent)### END SOLUTION *$", re.M)
_SECONDS = 300
"""A cell that takes longer is stopped; whole lessons take less than a minute, and some machines are slow."""

TABLE = ("<!-- lessons: begin -->", "<!-- lessons: end -->")
"""Between these marks of notebooks/README.md stands the table of lessons."""


class LessonError(TinyUNetError, RuntimeError):
    """A lesson did not run through."""


@dataclass(frozen=True)
class About:
    """What the header of a source says of its lesson."""

    name: str  # "02_convolution"
    title: str
    minutes: int
    goals: tuple[str, ...]
    prerequisites: tuple[str, ...]  # numbers of lessons

    @property
    def number(self) -> str:
        """ "02" """
        return self.name.partition("_")[0]


@dataclass(frozen=True)
class Lesson(About):
    """A lesson, read."""

    source: Any  # the notebook (nbformat), with solutions, without outputs


# Sources -------------------------------------------------------------------------------------------------------------


def folder(language: str = "en") -> Path:
    """Where the sources of a language lie: English ones in `notebooks/`, others in a folder of it that bears their name.

    Raises ConfigError for a language that there is none of.
    """
    root = own_folder("notebooks", "README.md")
    found = {"en": root, **{path.name: path for path in root.iterdir() if path.is_dir() and any(path.glob("[0-9]*_*.py"))}}
    if language not in found:
        raise ConfigError(f"course: there is no {language!r} edition. There are: {', '.join(sorted(found))}.")
    return found[language]


def sources(language: str = "en") -> list[Path]:
    """The sources of all lessons, in order."""
    return sorted(folder(language).glob("[0-9]*_*.py"))


def lessons(wanted: str = "", language: str = "en") -> list[Lesson]:
    """All lessons, or the one of a number: "07" or "7".

    Raises ConfigError for a number that there is none of, and as `read` does.
    """
    paths = sources(language)
    chosen = [path for path in paths if not wanted or path.name.startswith(f"{wanted.zfill(2)}_")]
    if not chosen:
        numbers = ", ".join(path.name.partition("_")[0] for path in paths)
        raise ConfigError(f"course: there is no lesson {wanted!r}. There are: {numbers}.")
    return [read(path) for path in chosen]


def about(path: Path) -> About:
    """What the header of a source says. It is YAML, but these few lines are read without a library: a list of lessons needs none.

    Raises ConfigError if a line is missing.
    """
    header = path.read_text(encoding="utf-8").partition("# %%")[0]
    said: dict[str, Any] = dict(re.findall(r"^#     (title|minutes|prerequisites): (.+)$", header, re.M))
    said["goals"] = tuple(re.findall(r"^#     - (.+)$", header, re.M))
    if missing := [key for key in ("title", "minutes", "goals", "prerequisites") if not said.get(key)]:
        raise ConfigError(f"{path.name}: its header lacks {', '.join(missing)}, under jupyter: tinyunet:.")
    numbers = tuple(json.loads(said["prerequisites"]))
    return About(path.stem, said["title"].strip('"'), int(said["minutes"]), said["goals"], numbers)


def read(path: Path) -> Lesson:
    """A lesson from its source.

    Raises ConfigError without jupytext, and for a source that breaks the rules above: it names the cell.
    """
    jupytext = _library("jupytext")
    header = about(path)
    notebook = jupytext.read(path)
    notebook.metadata.pop("jupytext", None)  # who wrote it with which version is no part of it
    for number, cell in enumerate(notebook.cells):
        kinds = [tag for tag in cell.metadata.get("tags", []) if tag in KINDS]
        cell.metadata = type(cell.metadata)({"tags": kinds} if kinds else {})
        cell.id = f"cell-{number:03}"
    for cell, check in _exercises(path.name, notebook):
        points = check.source.count("check(")
        cell.metadata["nbgrader"] = _nbgrader(f"{cell.id}-answer", solution=True)
        check.metadata["nbgrader"] = {**_nbgrader(f"{check.id}-check", grade=True), "points": points}
    return Lesson(**vars(header), source=notebook)


def _nbgrader(name: str, *, solution: bool = False, grade: bool = False) -> dict[str, Any]:
    return {"schema_version": 3, "grade_id": name, "solution": solution, "grade": grade, "locked": not solution, "task": False}


def kind(cell: Any) -> str:
    """ "exercise", "check", ..., "" for a cell that only tells"""
    return next(iter(cell.metadata.get("tags", [])), "")


def _exercises(name: str, notebook: Any) -> Iterator[tuple[Any, Any]]:
    """Every exercise with the next check, after asking whether the marks are where they should be."""
    cells = notebook.cells
    for i, cell in enumerate(cells):
        marked = len(_BLOCK.findall(cell.source))
        place = f"{name}, cell {i} ({cell.source.strip().splitlines()[0] if cell.source.strip() else 'empty'})"
        if marked != cell.source.count("BEGIN SOLUTION") or marked != cell.source.count("END SOLUTION"):
            raise ConfigError(f"{place}: a solution stands between '### BEGIN SOLUTION: what to do' and '### END SOLUTION'.")
        if (marked > 0) != (kind(cell) in ("exercise", "predict")):
            raise ConfigError(f"{place}: solutions stand in cells tagged 'exercise' or 'predict', and these have one.")
        if kind(cell) == "exercise":
            if any(not match["indent"] for match in _BLOCK.finditer(cell.source)):
                raise ConfigError(f"{place}: a solution stands inside a function, so that only its check fails without it.")
            check = next((later for later in cells[i:] if kind(later) == "check"), None)
            if check is None:
                raise ConfigError(f"{place}: no cell tagged 'check' follows.")
            yield cell, check


# Editions ------------------------------------------------------------------------------------------------------------


def student(lesson: Lesson, seed: str = "") -> Any:
    """The notebook without solutions; with the student's name as the seed of its numbers, if there is one."""
    notebook = copy.deepcopy(lesson.source)
    for cell in notebook.cells:
        if kind(cell) == "exercise":
            cell.source = _BLOCK.sub(lambda m: f"{m['indent']}raise NotImplementedError({_quoted('your turn: ' + m['todo'])})",
                                     cell.source)  # fmt: skip
        elif kind(cell) == "predict":
            cell.source = _BLOCK.sub(_to_guess, cell.source)
        elif kind(cell) == "setup" and seed:
            cell.source = re.sub(r'begin\("(\w+)"\)', lambda m: f'begin("{m[1]}", {_quoted(seed)})', cell.source)
    return notebook


def _to_guess(match: re.Match[str]) -> str:
    """`guess = 4` -> `guess = None  # your turn: ...`"""
    names = [ast.unparse(node.targets[0]) for node in ast.parse(textwrap.dedent(match["code"])).body
             if isinstance(node, ast.Assign)]  # fmt: skip
    return "\n".join(f"{match['indent']}{name} = None  # your turn: {match['todo']}" for name in names)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def execute(notebook: Any, *, allow_errors: bool = False) -> Any:
    """Run a notebook in a kernel of its own, in an empty folder: -> the same with outputs, without what varies from run to run.

    Raises LessonError with the first cell that fails.
    """
    nbclient, exceptions = _library("nbclient"), _library("nbclient.exceptions")
    notebook = copy.deepcopy(notebook)
    package = str(Path(__file__).parents[2])  # in a checkout tinyunet need not be installed
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as empty:
        client = nbclient.NotebookClient(notebook, timeout=_SECONDS, allow_errors=allow_errors, record_timing=False,
                                         resources={"metadata": {"path": empty}}, kernel_name="python3")  # fmt: skip
        try:
            client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "Agg"})
        except exceptions.CellExecutionError as error:
            raise LessonError(f"a cell fails: {error}") from error
    notebook.metadata.pop("language_info", None)  # the version of Python is nobody's business
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidied(cell.outputs)
    return notebook


def _tidied(outputs: list[Any]) -> list[Any]:
    """Neighbouring pieces of one stream as one, since where the kernel cuts it is chance; and pictures in fewer bytes."""
    tidy: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and tidy and tidy[-1].get("name") == output.name:
            tidy[-1].text += output.text
            continue
        if png := output.get("data", {}).get("image/png"):
            output.data["image/png"] = base64.b64encode(smaller(base64.b64decode(png))).decode()
        tidy.append(output)
    return tidy


def write(notebook: Any, path: Path) -> Path:
    """Write a notebook, whole or not at all."""
    text = _library("nbformat").writes(notebook, version=4)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return path


def overview(language: str = "en") -> str:
    """The table of lessons in Markdown."""
    rows = ["| lesson | minutes | after | what you can do then |", "| --- | --- | --- | --- |"]
    rows += [f"| [{lesson.number} {lesson.title}]({lesson.name}.ipynb) | {lesson.minutes} | "
             f"{', '.join(lesson.prerequisites) or '-'} | {'; '.join(lesson.goals)} |"
             for lesson in map(about, sources(language))]  # fmt: skip
    return "\n".join(rows)


def build(wanted: str = "", language: str = "en") -> Iterator[Path]:
    """Execute the solution editions of all lessons or one, write them beside their sources, and renew the table of lessons."""
    for lesson in lessons(wanted, language):
        yield write(execute(lesson.source), folder(language) / f"{lesson.name}.ipynb")
    readme = folder(language) / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(TABLE[0])
    after = rest.partition(TABLE[1])[2]
    with atomic_write(readme) as part:
        part.write_text(f"{before}{TABLE[0]}\n{overview(language)}\n{TABLE[1]}{after}", encoding="utf-8")


def copy_to(
    out: Path, wanted: str = "", language: str = "en", *, solutions: bool = False, seed: str = ""
) -> Iterator[tuple[Path, bool]]:
    """Write student editions, or the executed ones with solutions, into a folder: -> each path, and whether it was written.

    A notebook that is already there is left alone: it is somebody's work.
    """
    chosen = lessons(wanted, language)
    out.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in out.glob("*.ipynb")} | {f"{lesson.name}.ipynb" for lesson in chosen}
    for lesson in chosen:
        path = out / f"{lesson.name}.ipynb"
        fresh = not path.exists()
        if fresh:
            notebook = (_library("nbformat").read(folder(language) / path.name, as_version=4) if solutions
                        else student(lesson, seed))  # fmt: skip
            write(away_from_home(notebook, there), path)
        yield path, fresh


_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def away_from_home(notebook: Any, there: Container[str]) -> Any:
    """The notebook for a folder that holds the notebooks `there` and no repository: every link leads somewhere.

    Links to notebooks that are not there become plain text, and links to the code become its path, as code: Jupyter opens nothing
    outside the folder that it was started in.
    """
    def changed(link: re.Match[str]) -> str:
        text, target = link["text"], link["target"]
        if "://" in target or target.startswith("#") or target.partition("#")[0] in there:
            return link[0]
        path = posixpath.normpath(posixpath.join("notebooks", target.partition("#")[0]))
        if path.startswith("notebooks/"):
            return text
        bare = text.strip("`")
        return f"`{path}`" if path.endswith(bare) else f"{text} (`{path}`)"

    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(changed, cell.source)
    return notebook


def kept_without(path: Path, *, solutions: bool = False, seed: str = "") -> list[str]:
    """Which of these options a notebook that was there already does not show: ["--seed"]"""
    text = path.read_text(encoding="utf-8")
    shown = {"--solutions": not solutions or "BEGIN SOLUTION" in text,
             "--seed": not seed or json.dumps(_quoted(seed), ensure_ascii=False)[1:-1] in text}  # fmt: skip
    return [option for option, is_there in shown.items() if not is_there]


def release(out: Path, wanted: str = "", language: str = "en") -> Path:
    """Student editions without any answer, in a new folder or a new .zip file: -> its path.

    Raises ConfigError if it exists.
    """
    if out.exists():
        raise ConfigError(f"course: {out} exists. Choose another name: a release should hold nothing else.")
    if out.suffix != ".zip":
        list(copy_to(out, wanted, language))
        return out
    with tempfile.TemporaryDirectory() as there, atomic_write(out) as part, zipfile.ZipFile(part, "w") as archive:
        for path, _ in copy_to(Path(there), wanted, language):
            archive.write(path, f"{out.stem}/{path.name}", zipfile.ZIP_DEFLATED)
    return out


def how_to_install(extra: str) -> str:
    """The command for an extra: in a checkout it is installed from there."""
    if (Path(__file__).parents[2] / "pyproject.toml").exists():
        return f'pip install -e ".[{extra}]"'
    return f'pip install "tinyunet[{extra}]"'


def _library(name: str) -> Any:
    """A library of the extra `course`, when it is needed."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise ConfigError(f"course: {missing} is not installed. Install it: {how_to_install('course')}.") from error
