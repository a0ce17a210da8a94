"""`tinyunet course`: the notebooks, for students, teachers and the browser."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tinyunet.cli.app import app
from tinyunet.cli.terminal import out_console, say, table_of
from tinyunet.course import editions, site
from tinyunet.errors import ConfigError

course = typer.Typer(no_args_is_help=True, help="The course: eighteen notebooks, from a first image to your own.")
app.add_typer(course, name="course")

Lesson = Annotated[str, typer.Option(help="one lesson alone, by its number", metavar="NN", show_default=False)]
Language = Annotated[str, typer.Option(help="of the notebooks", metavar="en")]


@course.command("list", epilog="Example: tinyunet course list")
def list_(language: Language = "en") -> None:
    """The lessons, with their times."""
    table = table_of("lesson", "title", "minutes", "after")
    for lesson in map(editions.about, editions.sources(language)):
        table.add_row(lesson.number, lesson.title, str(lesson.minutes), ", ".join(lesson.prerequisites))
    out_console.print(table)


@course.command("start", epilog="Example: tinyunet course start my-course --seed Ada")
def start(
    out: Annotated[Path, typer.Argument(help="folder for the notebooks; those that are there already are kept")] = Path(
        "tinyunet-course"
    ),
    lesson: Lesson = "",
    solutions: Annotated[bool, typer.Option("--solutions", help="with the solutions")] = False,
    seed: Annotated[str, typer.Option(help="your name: random numbers of your own", metavar="NAME", show_default=False)] = "",
    language: Language = "en",
    open_: Annotated[bool, typer.Option("--open/--no-open", help="open JupyterLab")] = True,
) -> None:
    """Copy the notebooks into a folder and open the first of them in JupyterLab."""
    paths = []
    for path, fresh in editions.copy_to(out, lesson, language, solutions=solutions, seed=seed):
        missed = [] if fresh else editions.kept_without(path, solutions=solutions, seed=seed)
        note = f"  (your work; {' and '.join(missed)} not applied: choose another folder)" if missed else ""
        say(f"{'written' if fresh else 'kept   '}  {path}{note}")
        paths.append((path, fresh))
    if not all(fresh for _, fresh in paths):
        say("What is kept is your work. For a fresh copy of a lesson, rename its file and run this again.")
    first = paths[0][0]
    say(f"Begin with {first.name}")
    if not open_:
        return
    if find_spec("jupyterlab") is None:
        raise ConfigError(
            f"course: JupyterLab is not installed. Install it with {editions.how_to_install('course')}, or open the notebooks in "
            f"{out} with another program."
        )
    code = subprocess.run([sys.executable, "-m", "jupyterlab", str(first)], check=False).returncode
    if code and getattr(os, "geteuid", lambda: 1)() == 0:  # Windows has no such number
        raise ConfigError(f"course: JupyterLab ended with code {code}. It does not start for root unless it is told to: "
                          f"jupyter lab {first} --allow-root")  # fmt: skip
    raise typer.Exit(code)


@course.command("build", epilog="Example: tinyunet course build --lesson 07")
def build(lesson: Lesson = "", language: Language = "en") -> None:
    """Execute the notebooks with solutions, write them beside their sources, and renew the table of lessons. For authors."""
    for path in editions.build(lesson, language):
        say(f"written  {path}  {path.stat().st_size / 1000:.0f} kB")


@course.command("release", epilog="Example: tinyunet course release handout.zip")
def release(
    out: Annotated[Path, typer.Argument(help="a folder, or a .zip file")],
    lesson: Lesson = "",
    language: Language = "en",
) -> None:
    """Write the notebooks without any answer, to hand out. For teachers."""
    say(f"written  {editions.release(out, lesson, language)}")


@course.command("site", epilog="Example: tinyunet course site public && python -m http.server -d public")
def site_(
    out: Annotated[Path, typer.Argument(help="folder for the site")] = Path("tinyunet-site"),
    language: Language = "en",
    pyodide: Annotated[Path | None, typer.Option(
        help="full release of Pyodide, archive or folder, to put on the site: for a room without internet")] = None,
) -> None:
    """Build a web page on which the course runs in the browser, with nothing installed. Needs the extra `site`."""
    say(f"written  {site.build(out, language, pyodide)}  serve it: python -m http.server -d {out}")
