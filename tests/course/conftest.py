"""What the tests of the course share: every lesson there is, and its solutions as Python functions."""

import ast

import pytest

from tinyunet.course import editions
from tinyunet.course.exercise import EXERCISES
from tinyunet.course.exercises.lesson_15 import NotHereError

LESSONS = {path.stem: path for path in editions.sources()}


def checks_of(lesson):
    """exercise -> (index of the check's cell, the expression `check(...)`), in order"""
    found = {}
    for i, cell in enumerate(lesson.source.cells):
        if editions.kind(cell) == "check":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check":
                    found[ast.literal_eval(node.args[0])] = i, ast.unparse(node)
    return found


def pytest_generate_tests(metafunc):
    """`lesson_name`: every lesson; `exercise_name`: every exercise that a notebook checks."""
    if "lesson_name" in metafunc.fixturenames:
        metafunc.parametrize("lesson_name", LESSONS)
    if "exercise_name" in metafunc.fixturenames:
        find_all()
        metafunc.parametrize("exercise_name", sorted(EXERCISES))
    if "mistake" in metafunc.fixturenames:
        find_all()
        cases = [(name, k) for name in sorted(EXERCISES) for k in range(len(EXERCISES[name].mistakes))]
        metafunc.parametrize("mistake", cases, ids=[f"{name}-{k}" for name, k in cases])


def find_all():
    """Enter all exercises."""
    import tinyunet.course.exercises  # noqa: F401


_read = {}


def lesson_of(name):
    """A lesson, read once."""
    if name not in _read:
        _read[name] = editions.read(LESSONS[name])
    return _read[name]


@pytest.fixture
def lesson(lesson_name):
    """The lesson under test."""
    return lesson_of(lesson_name)


@pytest.fixture
def answer():
    """answer("02.taps", edits) -> what its check says of the solution, after these edits of its source."""

    def run(name, edits=(), seed=""):
        number = name.partition(".")[0]
        lesson = lesson_of(next(stem for stem in LESSONS if stem.startswith(f"{number}_")))
        last, call = checks_of(lesson)[name]
        cells = [c for c in lesson.source.cells[:last] if editions.kind(c) in ("setup", "exercise")]
        scope = {"__name__": "lesson"}
        for i, cell in enumerate(cells):
            source = cell.source
            if i == len(cells) - 1:
                for old, new in edits:
                    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in the solution of {name}"
                    source = source.replace(old, new)
            exec(compile(source.replace(f'begin("{number}")', f'begin("{number}", {seed!r})'), f"<{name}>", "exec"), scope)
        try:
            return eval(compile(call, f"<check of {name}>", "eval"), scope)
        except NotHereError as why:  # lesson 15 without a C++ compiler
            pytest.skip(str(why))

    return run
