"""Which implementation of a hot operation runs. The one place where that is decided.

A hot operation has a ladder of implementations, its rungs: the first is the formula written out, the last is the fastest,
and all give the same numbers up to rounding. `pick` takes the highest rung that can do what is asked. A lesson, a test or a
benchmark picks by hand:

    with tinyunet.rung(conv3x3="loops"):
        model.forward(x)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from tinyunet.backend import Array
from tinyunet.errors import BackendError, ConfigError


def any_array(x: Array, w: Array) -> str | None:
    """For rungs that can do everything: no reason to refuse."""
    return None


class Rung(NamedTuple):
    """One implementation: the operation and its two gradients, all linear in x and in w.

    The signatures are those of the operation's ladder; `tinyunet.rungs` documents them. `refuses` gives the reason why
    these arrays cannot be done, or None.
    """

    name: str
    forward: Callable[..., Array]
    grad_x: Callable[..., Array]
    grad_w: Callable[..., Array]
    refuses: Callable[[Array, Array], str | None] = any_array


_LADDERS: dict[str, dict[str, Rung]] = {}
_BY_HAND: ContextVar[dict[str, str] | None] = ContextVar("rungs picked by hand", default=None)


def register(op: str, rung: Rung) -> None:
    """Put a rung on top of the ladder of an operation."""
    _LADDERS.setdefault(op, {})[rung.name] = rung


def rungs(op: str) -> tuple[str, ...]:
    """Names of an operation's rungs, from the one that teaches to the fastest."""
    return tuple(_ladder(op))


def pick(op: str, x: Array, w: Array) -> Rung:
    """The rung picked by hand, or else the highest one that takes these arrays.

    Raises BackendError when a rung picked by hand cannot do it: there is no silent fallback.
    """
    ladder = _ladder(op)
    by_hand = (_BY_HAND.get() or {}).get(op)
    if by_hand is None:
        return next(rung for rung in reversed(ladder.values()) if rung.refuses(x, w) is None)
    reason = ladder[by_hand].refuses(x, w)
    if reason is not None:
        raise BackendError(f"{op}: the rung {by_hand!r} was picked by hand but cannot run this: {reason}.")
    return ladder[by_hand]


@contextmanager
def rung(**by_hand: str) -> Iterator[None]:
    """Pick rungs by hand inside a `with` block: `rung(conv3x3="taps", upconv2x2="loops")`.

    Raises ConfigError for an operation or a rung that does not exist.
    """
    for op, name in by_hand.items():
        if name not in _ladder(op):
            raise ConfigError(f"rung: {op} has no rung {name!r}. It has: {', '.join(rungs(op))}.")
    token = _BY_HAND.set({**(_BY_HAND.get() or {}), **by_hand})
    try:
        yield
    finally:
        _BY_HAND.reset(token)


def _ladder(op: str) -> dict[str, Rung]:
    if op not in _LADDERS:
        raise ConfigError(f"there is no ladder for {op!r}. There are: {', '.join(sorted(_LADDERS))}.")
    return _LADDERS[op]
