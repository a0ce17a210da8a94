"""Exercises that check themselves: what the student writes, the laws it must keep, and the mistakes that people make.

A law is a function `law(draw, *answers)` that raises CheckError where an answer breaks it, and says what is wrong. The mistakes
are there for the tests: each is made, and the check must see it and give its hint. A check that was never seen to fail proves
nothing.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import CATALOGUE, OPS, Draw, Kind, Op, check_property
from tinyunet.catalogue.core import require
from tinyunet.course.student import generator
from tinyunet.errors import CheckError, ConfigError, TinyUNetError

Law = Callable[..., None]

DRAWS = 3
"""So many times every law is tried, on other numbers and shapes."""


class Mistake(NamedTuple):
    """A wrong answer: either edits (old, new) of the lesson's solution, or our own op with a planted bug of `tinyunet.bugs`."""

    hint: str  # a part of what `check` must say
    edits: tuple[tuple[str, str], ...] = ()
    bug: str = ""


class Exercise(NamedTuple):
    """One exercise of a lesson."""

    name: str  # "02.taps"
    writes: str  # what the student writes
    laws: tuple[Law, ...]  # the first that is broken is told
    mistakes: tuple[Mistake, ...]
    ours: tuple[Callable[..., Any], ...]  # our own answers, for planted bugs
    stops: Mapping[str, str] = {}  # a part of an error's message, of an answer that stops -> hint


EXERCISES: dict[str, Exercise] = {}
"""name -> exercise"""


def exercise(
    name: str,
    writes: str,
    *,
    laws: Iterable[Law],
    mistakes: Iterable[Mistake],
    ours: Callable[..., Any] | tuple[Callable[..., Any], ...] = (),
    stops: Mapping[str, str] | None = None,
) -> None:
    """Enter an exercise; the files in `tinyunet/course/exercises/` do so when they are imported."""
    if name in EXERCISES:
        raise ConfigError(f"exercise: there are two called {name!r}. Give one another name.")
    ours = ours if isinstance(ours, tuple) else (ours,)
    EXERCISES[name] = Exercise(name, writes, tuple(laws), tuple(mistakes), ours, stops or {})


# What a check says ---------------------------------------------------------------------------------------------------


class NotYetError(CheckError):
    """An answer that is not right yet. A notebook shows its text alone: a traceback through the checks helps nobody."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class Verdict(str):
    """A text that a notebook shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def check(name: str, *answers: Callable[..., Any]) -> Verdict:
    """Hold answers to the laws of an exercise: -> a line to be glad about.

    Raises NotYetError with what is wrong, and ConfigError for an exercise that there is none of.
    """
    task = find(name)
    for law in task.laws:
        for k in range(DRAWS):
            _try(task, law, Draw(generator(name, law.__name__, k)), answers)
    return Verdict(f"{name}: right! Tried on {DRAWS * len(task.laws)} drawings of numbers and shapes.")


def find(name: str) -> Exercise:
    """An exercise by its name. Raises ConfigError with the nearest names."""
    import tinyunet.course.exercises  # noqa: F401  enters them all

    if name not in EXERCISES:
        near = ", ".join(get_close_matches(name, EXERCISES, 3, 0.4) or EXERCISES)
        raise ConfigError(f"check: there is no exercise {name!r}. There are: {near}.")
    return EXERCISES[name]


def _try(task: Exercise, law: Law, draw: Draw, answers: tuple[Callable[..., Any], ...]) -> None:
    try:
        law(draw, *answers)
    except NotImplementedError as todo:
        what = str(todo).removeprefix("your turn: ")
        raise NotYetError(f"{task.name}: your turn. Write {task.writes}.\n    Still to do: {what}.") from None
    except CheckError as wrong:
        raise NotYetError(f"{task.name}: not yet.\n    " + str(wrong).replace("\n", "\n    ")) from None
    except Exception as failure:
        place = _place(failure, answers)
        if isinstance(failure, TinyUNetError) and not place:
            raise  # not from the student's code: a law that is wrong itself, or an exercise called wrongly
        told = next((f"\n    Hint: {hint}" for part, hint in task.stops.items() if part in str(failure)), "")
        what = f"{type(failure).__name__}: {failure}{place}{told}"
        raise NotYetError(f"{task.name}: not yet. Your code stops.\n    {what}") from failure


def _place(failure: BaseException, answers: tuple[Callable[..., Any], ...]) -> str:
    """Where in the student's code it happened, with the line: "" if it is not in it."""
    files = {answer.__code__.co_filename for answer in answers if hasattr(answer, "__code__")}
    found, frame = "", failure.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file in files:
            line = linecache.getline(file, frame.tb_lineno).strip()
            found = f"\n    in line {frame.tb_lineno} of {frame.tb_frame.f_code.co_name}'s cell: {line}"
        frame = frame.tb_next
    return found


def predicted(guess: object, truth: object, why: str = "") -> Verdict:
    """Lay a prediction beside what happened. Never fails: a wrong prediction is the more useful one.

    Text may be written as one likes: "Network", "95 %", "6 x 8". An estimate need not be exact: see `close`.
    """
    it = _told(truth)
    if guess is None or guess is ...:
        return Verdict(f"It is {it}. (No guess written down: with one, you would look twice.) {why}".rstrip())
    if same(guess, truth):
        return Verdict(f"Yes: {it}. {why}".rstrip())
    if close(guess, truth):
        return Verdict(f"Close: you said {_told(guess)}, it is {it}. {why}".rstrip())
    for wrote, true in product(_readings(guess)[:1], _readings(truth)[:1]):
        if wrote.size != true.size:
            many = f"{wrote.size} number{'s' * (wrote.size != 1)}, there {'is' if true.size == 1 else 'are'} {true.size}"
            return Verdict(f"You wrote {many}: {it}. {why}".rstrip())
    return Verdict(f"You said {_told(guess)}, it is {it}. {why}".rstrip())


def same(a: object, b: object) -> bool:
    """Equal: texts but for capitals and blanks, as many numbers in order, whole ones to the last digit, others to three."""
    def equal(x: Array, y: Array) -> bool:
        whole = y == np.round(y)
        return x.size == y.size and np.allclose(x, y, rtol=1e-3, atol=1e-12) and bool(np.all(~whole | (np.round(x) == y)))

    if any(equal(x, y) for x, y in product(_readings(a), _readings(b))):
        return True
    try:
        return bool(_plain(a) == _plain(b))
    except Exception:  # whatever a student writes: what cannot be compared is not equal
        return False


def close(guess: object, truth: object) -> bool:
    """Within a fifth of what is not a whole number: nobody computes 1562.4 in the head. A count is right or wrong."""
    def near(x: Array, y: Array) -> bool:
        return x.size == y.size and bool(np.all(np.abs(x - y) <= np.where(y == np.round(y), 1e-3, 0.2) * np.abs(y)))

    return any(near(x, y) for x, y in product(_readings(guess), _readings(truth)))


_YES_OR_NO = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def _readings(value: object) -> list[Array]:
    """A prediction as a row of numbers, in the ways that it may be meant: "95 %" is 0.95 or 95; none for what is no numbers."""
    if isinstance(value, str):
        text = _plain(value)
        if text in _YES_OR_NO:
            return [np.array([_YES_OR_NO[text]])]
        values = _readings(re.split(r"[\s,;x×()\[\]]+", text.replace("%", "").strip(" ,;()[]")))
        return [*values, *(v / 100 for v in values)] if "%" in text else values
    try:
        row = np.asarray(value)
        return [row.astype(float).ravel()] if row.dtype.kind in "biufU" else []
    except Exception:  # a ragged list, a word among numbers, an object of one's own
        return []


def _plain(value: Any) -> Any:
    """For comparing: arrays and lists as tuples, text in small letters, without blanks around it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return " ".join(value.casefold().split()) if isinstance(value, str) else value


def _told(value: object) -> str:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Laws ----------------------------------------------------------------------------------------------------------------


def equals(
    formula: Callable[..., Any],
    arguments: Callable[[Draw], Mapping[str, Any]],
    lookalikes: Mapping[str, Callable[..., Any]] | None = None,
    *,
    what: str = "the result",
    rtol: float = 1e-9,
) -> Law:
    """The law that an answer gives what a formula gives, for arguments that are drawn.

    lookalikes   hint -> another formula: where the answer equals that one, the hint is told

    The answer may not change its arguments.
    """

    def law(draw: Draw, answer: Callable[..., Any]) -> None:
        drawn = arguments(draw)
        handed = {name: _copy(value) for name, value in drawn.items()}
        found, expected = answer(*handed.values()), formula(*map(_copy, drawn.values()))
        if wrong := difference(what, found, expected, rtol):
            for hint, other in (lookalikes or {}).items():
                if not difference(what, found, other(*map(_copy, drawn.values())), rtol):
                    wrong += f"\nHint: {hint}"
                    break
            raise CheckError(f"{wrong}\nCalled with {sizes(drawn)}.")
        for name, value in drawn.items():
            if isinstance(value, np.ndarray) and not np.array_equal(handed[name], value, equal_nan=value.dtype.kind == "f"):
                raise CheckError(f"{what} is right, but your code changes its argument {name}. Whoever called it may still need "
                                 f"it: work on a copy, {name}.copy().")  # fmt: skip

    law.__name__ = f"equals_{getattr(formula, '__name__', 'formula')}"
    return law


def catalogue(
    subject: str, *, kinds: Iterable[Kind] | None = None, properties: Iterable[str] | None = None, behind_ours: bool = False
) -> Law:
    """The law that an op keeps properties of the project's own catalogue: all, those of some kinds, or some by name.

    For answers (forward, backward); with behind_ours, for backward alone, which gets the context of our forward.
    """
    kinds = None if kinds is None else set(kinds)
    names = None if properties is None else set(properties)
    if unknown := (names or set()) - {p.name for p in CATALOGUE[subject]}:
        raise ConfigError(f"catalogue: {subject} has no property {', '.join(sorted(unknown))}.")
    wanted = [p for p in CATALOGUE[subject] if (not kinds or p.kind in kinds) and (not names or p.name in names)]

    def law(draw: Draw, *answers: Callable[..., Any]) -> None:
        forward, backward = (OPS[subject].forward, *answers) if behind_ours else answers
        for prop in wanted:
            outcome = check_property(prop, Op(forward, backward), seed=draw.integer(0, 2**31), draws=1)
            if outcome.error.startswith("NotImplementedError: "):
                raise NotImplementedError(outcome.error.partition(": ")[2])
            require(not outcome.error, f"It should hold: {prop.says}\nBut {outcome.error}")

    law.__name__ = f"catalogue_{subject}"
    return law


def difference(what: str, found: Any, expected: Any, rtol: float = 1e-9) -> str:
    """What tells a result from the expected one: its type, its shape, or its worst entry; "" if nothing does."""
    if isinstance(expected, tuple):
        if not isinstance(found, tuple) or len(found) != len(expected):
            return f"{what} is {_kind(found)}, expected {len(expected)} values: return a, b."
        parts = (difference(f"{what}, part {i + 1}", f, e, rtol) for i, (f, e) in enumerate(zip(found, expected, strict=True)))
        return next((part for part in parts if part), "")
    if found is None:
        return f"{what} is None. Does your function return something?"
    if isinstance(found, tuple) and found and hasattr(found[-1], "_fields"):
        return f"{what} is a tuple: a forward pass returns (y, ctx). Take y, the first of the two: [0]."
    if not isinstance(found, np.ndarray | np.generic | int | float | complex | list):
        return f"{what} is {_kind(found)}, expected {_kind(expected)}."
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape:
        return f"{what} has shape {a.shape}, expected {b.shape}."
    if not b.size:
        return ""
    gaps = np.abs(a.astype(complex) - b)  # complex takes every kind of number, bool too
    wrong = ~(gaps <= rtol * (float(np.abs(b).max()) or 1.0))  # "not <=" so that a NaN is wrong
    if not wrong.any():
        return ""
    worst = np.unravel_index(int(np.nan_to_num(gaps, nan=np.inf).argmax()), gaps.shape)
    where = f" at [{', '.join(str(int(i)) for i in worst)}]" if worst else ""
    share = f" ({int(wrong.sum())} of {b.size} entries are wrong)" if b.size > 1 else ""
    return f"{what} is {a[worst]:.6g}{where}, expected {b[worst]:.6g}{share}."


def sizes(arguments: Mapping[str, Any]) -> str:
    """ "x (2, 5, 5, 3), pad 1": arguments by name, arrays by their shape"""
    return ", ".join(f"{name} {value.shape if isinstance(value, np.ndarray) else value}" for name, value in arguments.items())


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"


def _copy(value: Array | Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
