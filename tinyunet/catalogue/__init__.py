"""The catalogue: what every part of a U-Net must keep to, as data. Many mistakes that no gradient check can see break it.

    for outcome in check_catalogue(["conv2d"]):
        print(outcome.property.name, outcome.rung, outcome.error or "holds")

`CATALOGUE` maps a subject, an op or another part, to its properties. One of an op takes the op as an argument, so that another
implementation can be put in the place of ours:

    mine = Op(my_conv_forward, my_conv_backward)
    outcomes = [check_property(p, mine) for p in properties(["conv2d"])]

`tinyunet check` does both on the command line; `check_own` is the second for a notebook, with a report of what to mend first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import numpy as np

from tinyunet import ladder
from tinyunet.catalogue import (  # noqa: F401  each enters its properties
    augment,
    conv,
    conv_float32,
    crop,
    dropout,
    loss,
    metrics,
    net,
    net_weights,
    norm,
    optim,
    pad,
    pool,
    relu,
    tiling,
    training,
    training_data,
    upconv,
    weight_map,
)
from tinyunet.catalogue.core import CATALOGUE, OPS, Draw, Kind, Op, Outcome, Property, check_property, properties
from tinyunet.catalogue.findings import Findings, check_own

SUBJECTS = tuple(dict.fromkeys((*OPS, *CATALOGUE)))
"""All subjects, ops first."""

LADDERS = {"conv2d": "conv3x3", "conv2d_float32": "conv3x3", "upconv": "upconv2x2"}
"""Subject -> the ladder that its op picks a rung from."""

IN_FLOAT32 = ("conv2d_float32",)
"""Subjects that are checked in float32 and not in float64."""


def rungs_of(subject: str) -> tuple[str, ...]:
    """The rungs that a subject is checked on, those that take its dtype; one without a name where there is no ladder."""
    if subject not in LADDERS:
        return ("",)
    dtype = np.float32 if subject in IN_FLOAT32 else np.float64
    able = ladder.able(LADDERS[subject], np.zeros((1, 3, 3, 1), dtype), np.zeros((3, 3, 1, 1), dtype))
    return tuple(name for name in ladder.rungs(LADDERS[subject]) if name in able)


def check_on_rung(prop: Property, rung: str = "", *, seed: int = 0, draws: int = 5) -> Outcome:
    """Run one property of ours, on one rung of its op's ladder."""
    with ladder.rung(**{LADDERS[prop.subject]: rung}) if rung else nullcontext():
        return check_property(prop, rung=rung, seed=seed, draws=draws)


def check_catalogue(
    subjects: Iterable[str] | None = None, *, kinds: Iterable[Kind] | None = None, seed: int = 0, draws: int = 5
) -> Iterator[Outcome]:
    """Run every property of some subjects, or of all, on every rung; of some kinds, or of all.

    Raises ConfigError for a subject that there is none of.
    """
    for subject in SUBJECTS if subjects is None else subjects:
        for rung in rungs_of(subject):
            for prop in properties([subject]):
                if kinds is None or prop.kind in kinds:
                    yield check_on_rung(prop, rung, seed=seed, draws=draws)


__all__ = [
    "CATALOGUE",
    "LADDERS",
    "OPS",
    "SUBJECTS",
    "Draw",
    "Findings",
    "Kind",
    "Op",
    "Outcome",
    "Property",
    "check_catalogue",
    "check_on_rung",
    "check_own",
    "check_property",
    "properties",
    "rungs_of",
]
