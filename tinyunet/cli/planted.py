"""What `tinyunet check --plant` shows of a bug: what is wrong, the lines that change, and who sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from tinyunet.bugs import BUGS, Bug, diff
from tinyunet.catalogue import SUBJECTS, Outcome
from tinyunet.catalogue.core import KINDS, is_gradient_check
from tinyunet.cli.terminal import say
from tinyunet.errors import ConfigError

COLOURS = {"+++": "bold", "---": "bold", "@@ ": "cyan"}
"""Of the lines of a diff that begin so; others that begin with + or - are green or red."""


def list_bugs() -> None:
    """Every bug with its sentence, under the subject that it names first."""
    for subject in SUBJECTS:
        names = bugs_of(subject)
        if names:
            say(subject, style="bold")
        for name in names:
            say(f"  {name}: {BUGS[name].says}")
    say(f"{len(BUGS)} bugs. tinyunet check --plant {next(iter(BUGS))} shows one of them, and what sees it.")


def bugs_of(subject: str) -> list[str]:
    """Names of the bugs that name a subject first."""
    return [name for name, bug in BUGS.items() if bug.subjects[0] == subject]


def bug_named(name: str) -> Bug:
    """The bug; ConfigError with the nearest names where there is none."""
    if name in BUGS:
        return BUGS[name]
    near = get_close_matches(name, BUGS, 3)
    own = bugs_of(name)
    hint = f"{name} has: {', '.join(own)}. " if own else f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"check: there is no planted bug {name!r}. {hint}All {len(BUGS)} are in: tinyunet check --plant")


def show(bug: Bug) -> None:
    """The sentence, where else it is known from, and the diff."""
    say(bug.name, style="bold")
    say(bug.says)
    if known := bug.shipped or bug.known:
        say(f"Known from: {known}")
    say()
    for line in diff(bug.name).splitlines():
        colour = COLOURS.get(line[:3]) or {"+": "green", "-": "red"}.get(line[:1], "")
        say(line, style=colour)
    say()


def verdict(bug: Bug, outcomes: Sequence[Outcome]) -> str:
    """How many properties see the bug, of which kinds, and whether a gradient check is among them."""
    seen = [o.property for o in outcomes if o.error]
    kinds = Counter(prop.kind for prop in seen)
    by = ": " + ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind]) if seen else ""
    says = f"{len(seen)} of {len(outcomes)} {'property sees' if len(outcomes) == 1 else 'properties see'} it{by}."
    checks = [o for o in outcomes if is_gradient_check(o.property.kind, o.property.name)]
    if bug.differentiable and checks:
        says += " A gradient check sees it." if any(o.error for o in checks) else " No gradient check sees it."
    return says
