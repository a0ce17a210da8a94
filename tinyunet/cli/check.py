"""`tinyunet check`: every property of the catalogue, on our ops and their rungs, or on an op of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from tinyunet.bugs import Bug, plant
from tinyunet.catalogue import CATALOGUE, LADDERS, OPS, SUBJECTS, Findings, Outcome, Property, check_on_rung, rungs_of
from tinyunet.catalogue.core import KINDS, order_of_mending
from tinyunet.catalogue.findings import cause_of, explained, headline, held, told_once
from tinyunet.catalogue.own import CALLS, LIMIT, OwnOutcome, check_file, guess_subject, split_target
from tinyunet.cli import planted
from tinyunet.cli.app import app
from tinyunet.cli.kernels import check_kernels
from tinyunet.cli.terminal import Meter, out_console, say, table_of
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError

T = TypeVar("T")

LINES = 3
"""So many lines are shown of what a property that fails has printed."""

CALLED = "\n\n".join(f"{subject}: {call.forward}{'; ' * bool(call.backward)}{call.backward}" for subject, call in CALLS.items())
"""How every subject is called."""


class _Check(TyperCommand):
    """The command, in which `--plant` may stand without a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        alone = [arg == "--plant" and (k + 1 == len(args) or args[k + 1].startswith("-")) for k, arg in enumerate(args)]
        return super().parse_args(ctx, ["--plant=" if nameless else arg for arg, nameless in zip(args, alone, strict=True)])


@app.command("check", cls=_Check,
             epilog=f"SUBJECTS, and how an op of your own is called:\n\n{CALLED}\n\nforward returns the pair (y, ctx), "
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
    plant_: Annotated[
        str | None,
        typer.Option("--plant", metavar="NAME", help="a bug to plant: show its diff, and which properties see it; without NAME, "
                     "say all bugs", show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="check the CUDA kernels, on a GPU or without one", metavar="cuda|emulator", show_default=False),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="say the properties, without checking")] = False,
) -> None:
    """Check what every part must keep to: gradients, adjoints, invariances, conventions.

    Without FILE:NAME, everything that comes with tinyunet, each op on all rungs of its ladder. Exit code 1 if a property fails.

    With FILE:NAME, the mathematics comes first, then the house rules (kind contract): dtype, layout, purity, refusals.

    With --plant NAME, what comes with tinyunet while a bug is in it, by the properties of the parts that the bug names.

    Exit code 1 if the mathematics fails, or anything that --kind or --only asks for; house rules alone do not fail your op.

    FILE is run, with all your rights. That is no sandbox and no grader for people who cheat: check what you would run anyway.
    """
    if device is not None:
        if target is not None or kind or list_:
            raise ConfigError("check: --device checks tinyunet's own kernels. It goes with --only and --seed alone.")
        check_kernels(device, only or [], seed)
        return
    if target is not None and plant_ is not None:
        raise ConfigError("check: --plant puts a bug into what comes with tinyunet, not into an op of your own. Leave one out.")
    path, name = split_target(target) if target is not None else (None, "")
    if target is None and subject is not None:
        raise ConfigError(f"check: --as says what an op of your own is. For ours use --only {subject}.")
    if target is not None and subject not in CALLS:
        subject = guess_subject(subject or name)
    bug = planted.bug_named(plant_) if plant_ else None
    if plant_ == "":
        planted.list_bugs()
        return
    subjects = bug.subjects if bug and not only else SUBJECTS if subject is None else [subject]
    chosen = _chosen(subjects, only or [], kind or [])
    if list_:
        _print_list(chosen)
        return
    if bug is not None:
        holds = _check_planted(bug, chosen, seed=seed, draws=draws)
    elif path is None:
        holds = _check_ours(chosen, seed=seed, draws=draws)
    else:
        assert subject is not None
        _print_call(name, str(path), subject)
        own = tuple(_gathered(check_file(path, name, chosen, seed=seed, draws=draws, limit=limit), len(chosen)))
        if show_output:
            _print_output(own)
        tried, cause = f"{counted(draws, 'draw')} each, seed {seed}", cause_of(own, seed=seed, draws=draws)
        findings = Findings(subject, own, asked=bool(kind or only), cause=cause, tried=tried)
        _report_own(findings)
        holds = findings.ok
    if not holds:
        raise typer.Exit(1)


def _check_ours(chosen: Sequence[Property], *, seed: int, draws: int) -> bool:
    """Each op on all its rungs. -> whether everything holds"""
    plan = [(prop, rung) for _, group in groupby(chosen, lambda p: p.subject) for rung, prop in _on_rungs(list(group))]
    done = _gathered((check_on_rung(prop, rung, seed=seed, draws=draws) for prop, rung in plan), len(plan))
    _print_table(done, by_kind=False)
    _print_failures(done)
    what = "property holds" if len(done) == 1 else "properties hold"
    say(f"{held(done)} {what} ({counted(draws, 'draw')} each, seed {seed})")
    return not any(outcome.error for outcome in done)


def _check_planted(bug: Bug, chosen: Sequence[Property], *, seed: int, draws: int) -> bool:
    """First the diff, then what fails while the bug is in. -> whether nothing does"""
    planted.show(bug)
    rungs = {prop.subject: bug.rungs.get(LADDERS.get(prop.subject, ""), "") for prop in chosen}
    with plant(bug.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bug may well divide by zero
        done = _gathered((check_on_rung(p, rungs[p.subject], seed=seed, draws=draws) for p in chosen), len(chosen))
    say()
    _print_failures(done)
    say(planted.verdict(bug, done), style="bold")
    return not any(outcome.error for outcome in done)


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


def _report_own(findings: Findings) -> None:
    """The mathematics first, then the house rules."""
    _print_table(findings.outcomes, by_kind=True)
    if not findings.asked and findings.failures:
        say("Go step by step: --kind reference for forward, then --kind gradient, then the others.")
        say()
    _print_failures(findings.failures)
    if findings.cause:
        say(f"cause?  {findings.cause}")
        say()
    if findings.rules:
        say("House rules: what an op must keep to in a network, beside its mathematics.")
        say()
        _print_failures(findings.rules)
    for o in findings.outcomes:
        if o.skipped:
            say(f"skipped  {o.property.subject}.{o.property.name}: {o.skipped}")
    say(findings.verdict)


def _print_output(outcomes: Sequence[OwnOutcome]) -> None:
    for o in outcomes:
        if o.output:
            say(f"{o.property.subject}.{o.property.name} prints", style="bold")
            for line in o.output.splitlines():
                say(f"    {line}")
            say()


def _chosen(subjects: Iterable[str], only: Sequence[str], kinds: Sequence[str]) -> list[Property]:
    """Properties of some subjects that are asked for, by kind; ConfigError for a name or a kind that there is none of."""
    every = [prop for subject in subjects for prop in sorted(CATALOGUE[subject], key=order_of_mending)]
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
    for group in told_once(outcomes):
        first = group[0]
        say(headline(first), style="bold")
        for line in explained(group):
            say(line, style="red" if line.startswith("    but") else "")
        if isinstance(first, OwnOutcome) and first.output:
            lines = first.output.splitlines()
            for k, line in enumerate(lines[:LINES]):
                say(f"    {'' if k else 'prints':<8} {line}")
            if len(lines) > LINES:
                say("             ... more with --show-output")
        say()
