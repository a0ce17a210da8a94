"""`tinyunet check`: every property of the catalogue, on our ops and their rungs, or on an op of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Annotated, TypeVar, get_args

import typer

from tinyunet.catalogue import CATALOGUE, OPS, SUBJECTS, Kind, Outcome, Property, check_on_rung, rungs_of
from tinyunet.catalogue.own import CALLS, LIMIT, OwnOutcome, check_own, guess_subject, split_target
from tinyunet.cli.app import app
from tinyunet.cli.kernels import check_kernels
from tinyunet.cli.terminal import Meter, out_console, say, table_of
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError

T = TypeVar("T")

KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which one would mend an op."""

SHOWN = 5
"""So many properties that fail in the same way are named."""

LINES = 3
"""So many lines are shown of what a property that fails has printed."""

CALLED = "\n\n".join(f"{subject}: {call.forward}{'; ' * bool(call.backward)}{call.backward}" for subject, call in CALLS.items())
"""How every subject is called."""


@app.command("check", epilog=f"SUBJECTS, and how an op of your own is called:\n\n{CALLED}\n\nforward returns the pair (y, ctx), "
             "as a method too; ctx is what your backward needs. docs/properties.md has more.\n\n"
             "Example: tinyunet check my_file.py:my_conv --kind gradient")  # fmt: skip
def check_(
    target: Annotated[
        str | None,
        typer.Argument(metavar="FILE:NAME", help="an op of your own: functions NAME_forward and NAME_backward, or a class NAME "
                       "with methods forward, which returns (y, ctx), and backward", show_default=False),
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
    show_output: Annotated[
        bool, typer.Option("--show-output", help=f"show what your op prints, not only {LINES} lines where a property fails")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="check the CUDA kernels, on a GPU or without one", metavar="cuda|emulator", show_default=False),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="say the properties, without checking")] = False,
) -> None:
    """Check what every part must keep to: gradients, adjoints, invariances, conventions.

    Without FILE:NAME, everything that comes with tinyunet, each op on all rungs of its ladder. Exit code 1 if a property fails.

    With FILE:NAME, the mathematics comes first, then the house rules (kind contract): dtype, layout, purity, refusals.

    Exit code 1 if the mathematics fails, or anything that --kind or --only asks for; house rules alone do not fail your op.

    FILE is run, with all your rights. That is no sandbox and no grader for people who cheat: check what you would run anyway.
    """
    if device is not None:
        if target is not None or kind or list_:
            raise ConfigError("check: --device checks tinyunet's own kernels. It goes with --only and --seed alone.")
        check_kernels(device, only or [], seed)
        return
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
        done = _gathered((check_on_rung(prop, rung, seed=seed, draws=draws) for prop, rung in plan), len(plan))
        _print_table(done, by_kind=False)
        _print_failures(done)
        what = "property holds" if len(done) == 1 else "properties hold"
        say(f"{_held(done)} {what} ({counted(draws, 'draw')} each, seed {seed})")
        failed = any(outcome.error for outcome in done)
    else:
        assert subject is not None
        _print_call(name, str(path), subject)
        own = _gathered(check_own(path, name, chosen, seed=seed, draws=draws, limit=limit), len(chosen))
        if show_output:
            _print_output(own)
        failed = _report_own(own, asked=bool(kind or only), tried=f"{counted(draws, 'draw')} each, seed {seed}")
    if failed:
        raise typer.Exit(1)


def _gathered(outcomes: Iterable[T], total: int) -> list[T]:
    """All outcomes, with a bar that shows how many there are already."""
    done = []
    with Meter("checking", "check") as meter:
        for outcome in outcomes:
            done.append(outcome)
            meter.show(len(done), total)
    return done


def _print_call(name: str, path: str, subject: str) -> None:
    call = CALLS[subject]
    says = [f"{call.forward} -> y, ctx", call.backward] if call.backward else [call.forward]
    say(f"{name} of {path} as {subject}: {'; '.join(says)}")
    if call.note:
        say(call.note)


def _report_own(outcomes: Sequence[OwnOutcome], *, asked: bool, tried: str) -> bool:
    """The mathematics first, then the house rules. -> whether the op fails"""
    asked_for = [o for o in outcomes if not o.skipped]
    maths = [o for o in asked_for if o.property.kind != "contract"]
    rules = [o for o in asked_for if o.property.kind == "contract"]
    _print_table(outcomes, by_kind=True)
    if not asked and any(o.error for o in maths):
        say("Go step by step: --kind reference for forward, then --kind gradient, then the others.")
        say()
    _print_failures(maths)
    if any(o.error for o in rules):
        say("House rules: what an op must keep to in a network, beside its mathematics.")
        say()
        _print_failures(rules)
    for o in outcomes:
        if o.skipped:
            say(f"skipped  {o.property.subject}.{o.property.name}: {o.skipped}")
    verdicts = []
    if maths:
        verdicts.append(f"the mathematics {'does not hold' if any(o.error for o in maths) else 'holds'} ({_held(maths)})")
    if rules:
        broken = sum(bool(o.error) for o in rules)
        verdicts.append(f"{counted(broken, 'house rule')} of {len(rules)} {'does' if broken == 1 else 'do'} not" if broken
                        else f"the house rules hold ({_held(rules)})")  # fmt: skip
    if len(asked_for) < len(outcomes):
        verdicts.append(f"{len(outcomes) - len(asked_for)} skipped")
    say(f"{'; '.join(verdicts)} ({tried})")
    return any(o.error for o in (asked_for if asked else maths))


def _held(outcomes: Sequence[Outcome | OwnOutcome]) -> str:
    return f"{sum(not o.error for o in outcomes)} of {len(outcomes)}"


def _print_output(outcomes: Sequence[OwnOutcome]) -> None:
    for o in outcomes:
        if o.output:
            say(f"{o.property.subject}.{o.property.name} prints", style="bold")
            for line in o.output.splitlines():
                say(f"    {line}")
            say()


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
            subjects_of = list(dict.fromkeys(prop.subject for prop in every))
            of_one, _, name = one.partition(".")
            if of_one in subjects_of and not get_close_matches(name, known, 1):
                hint = f"{of_one} has: {', '.join(prop.name for prop in every if prop.subject == of_one)}."
            else:
                hint = f"Did you mean {' or '.join(near)}?" if near else f"Subjects: {', '.join(subjects_of)}."
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
    say("1 property" if len(chosen) == 1 else f"{len(chosen)} properties")


def _print_table(outcomes: Sequence[Outcome | OwnOutcome], by_kind: bool) -> None:
    """A line for every rung of every subject; for an op of one's own, for every kind."""
    heads: tuple[str, ...] = ("kind",) if by_kind else ("subject", "rung")
    skipped = ("skipped",) if any(isinstance(o, OwnOutcome) and o.skipped for o in outcomes) else ()
    table = table_of(*heads, "properties", "held", *skipped, "seconds", left=len(heads))
    groups: dict[tuple[str, ...], list[Outcome | OwnOutcome]] = {}
    if by_kind:
        groups = {(kind,): [] for kind in KINDS if any(o.property.kind == kind for o in outcomes)}
    for outcome in outcomes:
        key: tuple[str, ...] = (outcome.property.kind,) if by_kind else (outcome.property.subject, outcome.rung)
        groups.setdefault(key, []).append(outcome)
    def add(key: Iterable[str], group: Sequence[Outcome | OwnOutcome]) -> None:
        left_out = sum(isinstance(o, OwnOutcome) and bool(o.skipped) for o in group)
        failed = sum(bool(o.error) for o in group)
        table.add_row(*key, str(len(group)), str(len(group) - failed - left_out), *[str(left_out)][: len(skipped)],
                      f"{sum(o.seconds for o in group):.2f}", style="red" if failed else None)  # fmt: skip

    for key, group in groups.items():
        add(key, group)
    table.add_section()
    add(("all", "")[: len(heads)], outcomes)
    out_console.print(table)
    say()


def _print_failures(outcomes: Sequence[Outcome | OwnOutcome]) -> None:
    """The law and what is wrong with it; properties that fail with the same words are told once."""
    failures: dict[tuple[str, str], list[Outcome | OwnOutcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: _order(o.property)):
        if outcome.error:
            words = outcome.error.partition("; called with")[0]  # the same mistake with other shapes is told once too
            failures.setdefault((outcome.property.subject, words), []).append(outcome)
    for (subject, _), group in failures.items():
        first = group[0]
        say(f"{subject}.{first.property.name}" + (f" on {first.rung}" if first.rung else "") + f" ({first.property.kind})",
            style="bold")  # fmt: skip
        say(f"    should   {first.property.says}")
        say(f"    but      {' '.join(first.error.split()).rstrip('.')}.", style="red")
        if len(group) > 1:
            others = [o.property.name + (f" on {o.rung}" if o.rung else "") for o in group[1:]]
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            say(f"    as in    {', '.join(others[:SHOWN])}{more}")
        if isinstance(first, OwnOutcome) and first.output:
            lines = first.output.splitlines()
            for k, line in enumerate(lines[:LINES]):
                say(f"    {'' if k else 'prints':<8} {line}")
            if len(lines) > LINES:
                say("             ... more with --show-output")
        say()
