"""The catalogue in a notebook: which properties hold of two functions that were written a cell above, and what to mend first.

    from tinyunet.catalogue import check_own

    def my_relu_forward(x):
        return np.maximum(x, 0), x

    def my_relu_backward(dy, x):
        return dy * (x >= 0)            # 1 at zero, where it should be 0

    check_own("relu", my_relu_forward, my_relu_backward)

As the last line of a cell it shows the report; in a test of a solution, `check_own(...).require()` raises it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from math import isclose
from typing import Any

from tinyunet.bugs import BUGS, plant
from tinyunet.catalogue.core import CATALOGUE, KINDS, Kind, Outcome, Property, check_property, order_of_mending
from tinyunet.catalogue.own import CALLS, OwnOutcome, judged, op_of
from tinyunet.errors import CheckError, ConfigError

NAMED = 5
"""So many properties that wait behind the first one are named."""

COMPARED = 3
"""So many failures must be the same for a planted bug to be named as the cause."""


@dataclass(frozen=True, repr=False)
class Findings:
    """What came of checking an op of one's own; as text, the report. Outcomes stand in the order in which one would mend them."""

    subject: str
    outcomes: tuple[OwnOutcome, ...]
    asked: bool = False  # some properties or kinds were asked for by name: then house rules count too
    cause: str = ""  # a planted bug that fails in the same way, "" if none does
    tried: str = ""  # "5 draws each, seed 0"

    @property
    def ok(self) -> bool:
        """Whether the mathematics holds, and whatever else was asked for. House rules alone do not fail an op."""
        return not (self.failures or (self.asked and self.rules))

    @property
    def failures(self) -> tuple[OwnOutcome, ...]:
        """The mathematics that does not hold."""
        return tuple(o for o in self.maths if o.error)

    @property
    def rules(self) -> tuple[OwnOutcome, ...]:
        """The house rules, properties of the kind "contract", that do not hold."""
        return tuple(o for o in self.house if o.error)

    @property
    def first(self) -> OwnOutcome | None:
        """What to mend first, None where all is well."""
        return next(iter((*self.failures, *self.rules)), None)

    @property
    def maths(self) -> tuple[OwnOutcome, ...]:
        """All outcomes but house rules and what was skipped."""
        return tuple(o for o in self.outcomes if not o.skipped and o.property.kind != "contract")

    @property
    def house(self) -> tuple[OwnOutcome, ...]:
        """Outcomes of house rules, without what was skipped."""
        return tuple(o for o in self.outcomes if not o.skipped and o.property.kind == "contract")

    @property
    def verdict(self) -> str:
        """ "the mathematics holds (29 of 29); 2 house rules of 18 do not; 3 skipped (5 draws each, seed 0)" """
        says = []
        if self.maths:
            says.append(f"the mathematics {'does not hold' if self.failures else 'holds'} ({held(self.maths)})")
        if self.rules:
            n = len(self.rules)
            says.append(f"{n} house rule{'s' * (n > 1)} of {len(self.house)} {'does' if n == 1 else 'do'} not")
        elif self.house:
            says.append(f"the house rules hold ({held(self.house)})")
        if skipped := len(self.outcomes) - len(self.maths) - len(self.house):
            says.append(f"{skipped} skipped")
        return "; ".join(says) + f" ({self.tried})" * bool(self.tried)

    def require(self) -> None:
        """Raise CheckError with the report unless the op is `ok`: for tests of solutions."""
        if not self.ok:
            raise CheckError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.verdict}"]
        groups = told_once(self.failures)
        for group in groups[:1]:
            lines += ["", "Mend first: " + headline(group[0]), *explained(group)]
            lines += [f"    cause    {self.cause}"] * bool(self.cause)
        if waiting := groups[1:]:
            names = [headline(group[0]) for group in waiting]
            lines += ["", f"Then: {', '.join(names[:NAMED])}" + f" and {len(names) - NAMED} more" * (len(names) > NAMED)]
        if self.rules:
            lines += ["", "House rules: what an op must keep to in a network, beside its mathematics."]
            for group in told_once(self.rules):
                lines += [headline(group[0]), *explained(group)]
        for why in dict.fromkeys(o.skipped for o in self.outcomes if o.skipped):
            names = [o.property.name for o in self.outcomes if o.skipped == why]
            few = ", ".join(names) if len(names) <= NAMED else f"{len(names)} properties"
            lines += ["", f"Skipped, since {why}: {few}"]
        return "\n".join(lines)

    __repr__ = __str__


def check_own(
    op: str,
    forward: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
    *,
    properties: Iterable[str] | None = None,
    kinds: Iterable[Kind] | None = None,
    seed: int = 0,
    draws: int = 5,
    hints: bool = True,
) -> Findings:
    """Which properties of an op hold of functions of one's own, what is wrong, and what it looks like.

        check_own("relu", my_relu_forward, my_relu_backward)                    # all
        check_own("relu", my_relu_forward)                                      # what can be said of forward alone
        check_own("relu", backward=my_relu_backward)                            # behind our forward, with our ctx
        check_own("relu", my_relu_forward, my_relu_backward, kinds=["gradient"])

    op          what it is: "conv2d", "max_pool", ...; `catalogue.own.CALLS` has them all, and how each is called
    forward     -> (y, ctx), with any ctx; a plain function for softmax and sigmoid. Left out: ours
    backward    (dy, ctx) -> the gradients. Left out: what needs it is skipped
    properties  their names, or all
    kinds       "reference", "gradient", ...: those of some kinds, or all
    hints       name a planted bug of `tinyunet.bugs` that fails in the same way

    It runs in this process, so an interrupt ends a loop that does not; what the functions print is kept and not shown.

    Raises ConfigError for an op, a property or a kind that there is none of, and if there is nothing to check.
    """
    chosen = _chosen(op, properties, kinds)
    if forward is None and backward is None:
        calls = " or ".join(call for call in (CALLS[op].forward, CALLS[op].backward) if call)
        raise ConfigError(f"check_own: there is nothing to check. Give {calls}.")
    if backward is not None and not CALLS[op].gradients:
        raise ConfigError(f"check_own: {op} is a plain function without a backward. Give forward alone: {CALLS[op].forward}.")
    outcomes = tuple(judged(op_of(op, forward, backward), chosen, seed=seed, draws=draws))
    tried = f"{draws} draw{'s' * (draws != 1)} each, seed {seed}"
    cause = cause_of(outcomes, seed=seed, draws=draws) if hints else ""
    return Findings(op, outcomes, properties is not None or kinds is not None, cause, tried)


def cause_of(outcomes: Sequence[OwnOutcome], *, seed: int = 0, draws: int = 5) -> str:
    """The planted bug with which ours fails as an op of one's own does: in the same words, down to the numbers. "" if none does.

    The same seed gives the same geometry and the same values, so a wrong number that comes out twice has the same cause.
    """
    failures = [o for o in outcomes if o.error and o.property.kind != "contract"][:COMPARED]
    for name, bug in BUGS.items():
        if failures and failures[0].property.subject in bug.subjects:
            with plant(name), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")  # a bug may well divide by zero
                same = all(same_words(o.error, check_property(o.property, seed=seed, draws=draws).error) for o in failures)
            if same:
                return f"it fails exactly as the planted bug {name} does: {bug.says} See it: print(tinyunet.bugs.diff({name!r}))"
    return ""


NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def same_words(a: str, b: str) -> bool:
    """Whether two messages are equal, but for the rounding of their numbers."""
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    pairs = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(isclose(float(one), float(other), rel_tol=1e-6) for one, other in pairs)


def told_once(outcomes: Iterable[Outcome | OwnOutcome]) -> list[list[Outcome | OwnOutcome]]:
    """Those that fail, in the order in which one would mend them; what fails in the same words stands together."""
    groups: dict[tuple[str, str], list[Outcome | OwnOutcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: order_of_mending(o.property)):
        if outcome.error:
            words = outcome.error.partition("; called with")[0]  # the same mistake with other shapes is told once too
            groups.setdefault((outcome.property.subject, words), []).append(outcome)
    return list(groups.values())


def headline(outcome: Outcome | OwnOutcome) -> str:
    """ "conv2d.a_law on taps (reference)" """
    prop = outcome.property
    return f"{prop.subject}.{prop.name}" + f" on {outcome.rung}" * bool(outcome.rung) + f" ({prop.kind})"


def explained(group: Sequence[Outcome | OwnOutcome]) -> list[str]:
    """The law, what is wrong, and who else says so."""
    lines = [f"    should   {group[0].property.says}", f"    but      {' '.join(group[0].error.split()).rstrip('.')}."]
    if len(group) > 1:
        others = [o.property.name + f" on {o.rung}" * bool(o.rung) for o in group[1:]]
        lines.append(f"    as in    {', '.join(others[:NAMED])}" + f" and {len(others) - NAMED} more" * (len(others) > NAMED))
    return lines


def held(outcomes: Sequence[Outcome | OwnOutcome]) -> str:
    """ "3 of 4" """
    return f"{sum(not o.error for o in outcomes)} of {len(outcomes)}"


def _chosen(op: str, names: Iterable[str] | None, kinds: Iterable[str] | None) -> list[Property]:
    """The properties that are asked for, in the order in which one would mend them."""
    if op not in CALLS:
        near = get_close_matches(op, CALLS, 3)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"check_own: there is no op {op!r}. {hint}There are: {', '.join(CALLS)}.")
    chosen = sorted(CATALOGUE[op], key=order_of_mending)
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError(f"check_own: there is no kind {kind!r}. There are: {', '.join(KINDS)}.")
        chosen = [prop for prop in chosen if prop.kind in kinds]
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        known = [prop.name for prop in CATALOGUE[op]]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, 3)
                hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(known)}."
                raise ConfigError(f"check_own: {op} has no property {name!r}. {hint}")
        chosen = [prop for prop in chosen if prop.name in names]
    if not chosen:
        raise ConfigError(f"check_own: no property of {op} is left of these names and kinds.")
    return chosen
