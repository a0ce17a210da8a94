"""`tinyunet check`: every property of the catalogue, on our ops and their rungs, or on an op of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Annotated, get_args

import typer

from tinyunet.catalogue import CATALOGUE, OPS, SUBJECTS, Kind, Outcome, Property, check_on_rung, rungs_of
from tinyunet.catalogue.own import CALLS, LIMIT, check_own, guess_subject, split_target
from tinyunet.cli.app import app
from tinyunet.cli.terminal import Meter, out_console, say, table_of
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError

KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which one would mend an op."""

SHOWN = 5
"""So many properties that fail in the same way are named."""


@app.command("check", epilog="Example: tinyunet check my_file.py:my_conv --kind gradient")
def check_(
    target: Annotated[
        str | None,
        typer.Argument(metavar="FILE:NAME", help="an op of your own: NAME_forward and NAME_backward, or a class with "
                       "forward and backward", show_default=False),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--as", metavar="SUBJECT", help="what your op is (default: guessed from its name)", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="a subject, a property or subject.property; repeatable", show_default=False),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help=f"properties of one kind: {', '.join(KINDS)}", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="other sizes, other values", min=0)] = 0,
    draws: Annotated[int, typer.Option(help="how often each property is tried, with other sizes and values", min=1)] = 5,
    limit: Annotated[float, typer.Option(help="seconds that a property of your own op may take", min=0.1)] = LIMIT,
    list_: Annotated[bool, typer.Option("--list", help="say the properties, without checking")] = False,
) -> None:
    """Check what every part must keep to: gradients, adjoints, invariances, conventions.

    Without FILE:NAME, everything that comes with tinyunet, each op on all rungs of its ladder. Exit code 1 if a property fails.
    """
    path, name = split_target(target) if target is not None else (None, "")
    if target is None and subject is not None:
        raise ConfigError(f"check: --as says what an op of your own is. For ours use --only {subject}.")
    if target is not None and subject not in CALLS:
        subject = guess_subject(subject or name)
    chosen = _chosen(SUBJECTS if subject is None else [subject], only or [], kind or [])
    if list_:
        _print_list(chosen)
        return
    if path is None:
        plan = [(prop, rung) for _, group in groupby(chosen, lambda p: p.subject) for rung, prop in _on_rungs(list(group))]
        outcomes: Iterator[Outcome] = (check_on_rung(prop, rung, seed=seed, draws=draws) for prop, rung in plan)
    else:
        assert subject is not None
        call = CALLS[subject]
        say(f"{name} of {path} as {subject}: {call.forward}" + (f" -> y, ctx; gradients {', '.join(call.gradients)}"
            if call.gradients else ""))  # fmt: skip
        plan = [(prop, "") for prop in chosen]
        outcomes = check_own(path, name, chosen, seed=seed, draws=draws, limit=limit)
    done = []
    with Meter("checking", "check") as meter:
        for outcome in outcomes:
            done.append(outcome)
            meter.show(len(done), len(plan))
    _print_table(done, by_kind=path is not None)
    _print_failures(done)
    failed = sum(bool(outcome.error) for outcome in done)
    say(f"{len(done) - failed} of {len(done)} properties hold ({counted(draws, 'draw')} each, seed {seed})")
    if failed:
        if path is not None and kind is None:
            say("Go step by step: --kind reference for forward, then --kind gradient, then the others.")
        raise typer.Exit(1)


def _chosen(subjects: Iterable[str], only: Sequence[str], kinds: Sequence[str]) -> list[Property]:
    """Properties of some subjects that are asked for, by kind; ConfigError for a name or a kind that there is none of."""
    every = [prop for subject in subjects for prop in sorted(CATALOGUE[subject], key=_order)]
    for one in kinds:
        if one not in KINDS:
            raise ConfigError(f"check: there is no kind {one!r}. There are: {', '.join(KINDS)}.")
    for one in only:
        known = list(dict.fromkeys(name for prop in every for name in _names(prop)))
        if one not in known:
            near = get_close_matches(one, known, 3)
            subjects_of = ", ".join(dict.fromkeys(prop.subject for prop in every))
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Subjects: {subjects_of}."
            raise ConfigError(f"check: there is no subject and no property {one!r}. {hint} All are in: tinyunet check --list")
    chosen = [prop for prop in every
              if (not kinds or prop.kind in kinds) and (not only or any(name in only for name in _names(prop)))]  # fmt: skip
    if not chosen:
        raise ConfigError("check: no property is left of this --only and this --kind. All are in: tinyunet check --list")
    return chosen


def _order(prop: Property) -> int:
    return KINDS.index(prop.kind)


def _names(prop: Property) -> tuple[str, str, str]:
    return prop.subject, prop.name, f"{prop.subject}.{prop.name}"


def _on_rungs(group: Sequence[Property]) -> Iterator[tuple[str, Property]]:
    for rung in rungs_of(group[0].subject):
        for prop in group:
            yield rung, prop


def _print_list(chosen: Sequence[Property]) -> None:
    for subject, group in groupby(chosen, lambda prop: prop.subject):
        rungs = [rung for rung in rungs_of(subject) if rung]
        what = f", an op on the rungs {', '.join(rungs)}" if rungs else ", an op" if subject in OPS else ""
        say(subject + what, style="bold")
        for prop in group:
            say(f"  {prop.kind:<10}  {prop.name}: {prop.says}")
    say(f"{len(chosen)} properties")


def _print_table(outcomes: Sequence[Outcome], by_kind: bool) -> None:
    """A line for every rung of every subject; for an op of one's own, for every kind."""
    heads: tuple[str, ...] = ("kind",) if by_kind else ("subject", "rung")
    table = table_of(*heads, "properties", "held", "seconds", left=len(heads))
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    if by_kind:
        groups = {(kind,): [] for kind in KINDS if any(o.property.kind == kind for o in outcomes)}
    for outcome in outcomes:
        key: tuple[str, ...] = (outcome.property.kind,) if by_kind else (outcome.property.subject, outcome.rung)
        groups.setdefault(key, []).append(outcome)
    for key, group in groups.items():
        held = sum(not outcome.error for outcome in group)
        table.add_row(*key, str(len(group)), str(held), f"{sum(outcome.seconds for outcome in group):.2f}",
                      style=None if held == len(group) else "red")  # fmt: skip
    table.add_section()
    held = sum(not outcome.error for outcome in outcomes)
    table.add_row("all", *heads[1:] and ("",), str(len(outcomes)), str(held), f"{sum(o.seconds for o in outcomes):.2f}")
    out_console.print(table)
    say()


def _print_failures(outcomes: Sequence[Outcome]) -> None:
    """The law and what is wrong with it; properties that fail with the same words are told once."""
    failures: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: _order(o.property)):
        if outcome.error:
            failures.setdefault((outcome.property.subject, outcome.error), []).append(outcome)
    for (subject, error), group in failures.items():
        first = group[0]
        say(f"{subject}.{first.property.name}" + (f" on {first.rung}" if first.rung else "") + f" ({first.property.kind})",
            style="bold")  # fmt: skip
        say(f"    should   {first.property.says}")
        say(f"    but      {' '.join(error.split()).rstrip('.')}.", style="red")
        if len(group) > 1:
            others = [o.property.name + (f" on {o.rung}" if o.rung else "") for o in group[1:]]
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            say(f"    as in    {', '.join(others[:SHOWN])}{more}")
        say()
