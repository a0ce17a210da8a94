"""Which implementation of a hot operation runs. The one place where that is decided.

A hot operation has a ladder of implementations, its rungs: the first is the formula written out, and all give the same
numbers up to rounding. Which one is fastest depends on the shape, so every direction (forward, and the gradients by input
and by weight) has a small cost model, measured once and stored as data:

    seconds = a + b (bytes of the maps) + c (bytes of the kernel) + d (multiply-adds) + e (bytes of the windows)

`pick` takes the rung that it finds cheapest; where no costs are known, the highest one. Rungs that are CUDA kernels come before
all others: where arrays are on a GPU, the highest of them that takes them runs. `tinyunet.planner` fits the model to a machine
and lists what is picked for a network. A lesson, a test or a benchmark picks by hand:

    with tinyunet.rung(conv3x3="loops"):
        model.forward(x)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from tinyunet.backend import Array
from tinyunet.errors import BackendError, ConfigError

Direction = Literal["forward", "grad_x", "grad_w"]
Costs = dict[str, dict[str, dict[str, list[float]]]]
"""operation -> rung -> direction -> a, b, c, d, e"""

Work = tuple[float, float, float, float, float]
"""What the costs are multiplied by: 1, and the four quantities in the order of the formula."""


def any_array(x: Array, w: Array) -> str | None:
    """For rungs that can do everything: no reason to refuse."""
    return None


class Rung(NamedTuple):
    """One implementation: the operation and its two gradients, all linear in x and in w.

    The signatures are those of the operation's ladder; `tinyunet.rungs` documents them. `refuses` gives the reason why
    these arrays cannot be done, or None. `fused` is forward with a bias that is added before a value is first written, where
    that saves a pass over the result: its arguments are those of forward, and b (O,).
    """

    name: str
    forward: Callable[..., Array]
    grad_x: Callable[..., Array]
    grad_w: Callable[..., Array]
    refuses: Callable[[Array, Array], str | None] = any_array
    fused: Callable[..., Array] | None = None
    kernel: bool = False  # of CUDA


_LADDERS: dict[str, dict[str, Rung]] = {}
_BY_HAND: ContextVar[dict[str, str] | None] = ContextVar("rungs picked by hand", default=None)
_WATCH: ContextVar[Callable[[Rung, Direction], Rung] | None] = ContextVar("who sees what is picked", default=None)


def register(op: str, rung: Rung) -> None:
    """Put a rung on top of the ladder of an operation."""
    _LADDERS.setdefault(op, {})[rung.name] = rung


def rungs(op: str) -> tuple[str, ...]:
    """Names of an operation's rungs, from the one that teaches to the fastest."""
    return tuple(_ladder(op))


def pick(op: str, x: Array, w: Array, direction: Direction = "forward") -> Rung:
    """The rung picked by hand, or else the cheapest one that takes these arrays; the highest where no costs are known, and of
    kernels.

    Raises BackendError when a rung picked by hand cannot do it: there is no silent fallback.
    """
    ladder, name = _ladder(op), by_hand(op)
    if name is None:
        name = _kernel(ladder, x, w) or _cheapest(op, x, w, direction)
    elif (reason := ladder[name].refuses(x, w)) is not None:
        raise BackendError(f"{op}: the rung {name!r} was picked by hand but cannot run this: {reason}.")
    watch = _WATCH.get()
    return watch(ladder[name], direction) if watch else ladder[name]


def able(op: str, x: Array, w: Array) -> list[str]:
    """Names of the rungs that take these arrays, the highest first."""
    return [rung.name for rung in reversed(_ladder(op).values()) if rung.refuses(x, w) is None]


def by_hand(op: str) -> str | None:
    """The name of the rung that was picked by hand here, None if none was."""
    return (_BY_HAND.get() or {}).get(op)


def work(x: Array, w: Array) -> Work:
    """What a direction's time is made of, for an input x: 1, bytes of both maps, bytes of the kernel, multiply-adds, bytes of all
    windows.

    The output is taken to be as large as the input: the model need not know the padding. The costs are those of float32; a
    multiply-add of numbers twice as long counts twice, as its bytes do.
    """
    c_in = x.shape[3]
    c_out = w.size // (w.shape[0] * w.shape[1] * c_in)
    pixels = x.size // c_in
    maps, windows = x.itemsize * pixels * (c_in + c_out), x.nbytes * w.shape[0] * w.shape[1]
    return 1.0, float(maps), float(w.nbytes), float(pixels * w.size * x.itemsize / 4), float(windows)


def seconds(op: str, name: str, direction: Direction, work: Work) -> float:
    """What the cost model expects; infinite for a rung that it does not know."""
    terms = costs().get(op, {}).get(name, {}).get(direction)
    return sum(a * b for a, b in zip(terms, work, strict=True)) if terms else float("inf")


@lru_cache(maxsize=1)
def costs() -> Costs:
    """The costs that `tinyunet.planner.fit` measured on this machine, or else those that come with tinyunet.

    Raises ConfigError if the file is damaged.
    """
    path = costs_in_use()
    try:
        found: Costs = json.loads(path.read_text(encoding="utf-8"))["costs"]
        for terms in (terms for rungs in found.values() for directions in rungs.values() for terms in directions.values()):
            if len(terms) != 5 or not all(isinstance(term, (int, float)) and term >= 0 for term in terms):
                raise ValueError(f"{terms} are not five numbers of at least 0")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds no costs of rungs: {error}. Delete it, or measure anew: tinyunet bench fit.") from None
    return found


def costs_in_use() -> Path:
    """The file that `costs` reads: that of this machine if there is one, else the one that comes with tinyunet."""
    measured = costs_file()
    return measured if measured.exists() else Path(__file__).with_name("costs.json")


def costs_file() -> Path:
    """Where the costs of this machine are kept: TINYUNET_COSTS, or costs.json in the user's cache folder."""
    by_hand = os.environ.get("TINYUNET_COSTS")
    if by_hand:
        return Path(by_hand)
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(cache) if cache else Path.home() / ".cache") / "tinyunet" / "costs.json"


@contextmanager
def rung(**names: str) -> Iterator[None]:
    """Pick rungs by hand inside a `with` block: `rung(conv3x3="taps", upconv2x2="loops")`.

    Raises ConfigError for an operation or a rung that does not exist.
    """
    for op, name in names.items():
        if name not in _ladder(op):
            raise ConfigError(f"rung: {op} has no rung {name!r}. It has: {', '.join(rungs(op))}.")
    token = _BY_HAND.set({**(_BY_HAND.get() or {}), **names})
    try:
        yield
    finally:
        _BY_HAND.reset(token)


@contextmanager
def watched(watch: Callable[[Rung, Direction], Rung]) -> Iterator[None]:
    """Inside a `with` block, run what `watch` makes of every rung that is picked, e.g. one that notes the time."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def _kernel(ladder: dict[str, Rung], x: Array, w: Array) -> str | None:
    """The highest of the CUDA kernels that take these arrays, None if none does."""
    return next((rung.name for rung in reversed(ladder.values()) if rung.kernel and rung.refuses(x, w) is None), None)


def _cheapest(op: str, x: Array, w: Array, direction: Direction) -> str:
    """Of equals, and where no costs are known, the highest."""
    size = work(x, w)
    return min(able(op, x, w), key=lambda name: seconds(op, name, direction, size))


def _ladder(op: str) -> dict[str, Rung]:
    if op not in _LADDERS:
        raise ConfigError(f"there is no ladder for {op!r}. There are: {', '.join(sorted(_LADDERS))}.")
    return _LADDERS[op]
