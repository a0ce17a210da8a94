"""Drawn microscope images whose labels are exact: to learn on, to test with, and to have an answer that nobody can argue with.

Three kinds, after the paper's three data sets (section 4). Each file is one recipe, and says what the microscope does:

    em      dark membranes between bright cells; class 1 is the inside of a cell, class 0 the membrane
    phase   lone cells with bright halos and dark ruffled edges, hardly darker than the background
    dic     crowded cells in relief, lit from one side, many of which touch

All three follow one order: cells get their pixels first, then the picture is painted from those pixels. No number here is
the paper's: sizes and greys were chosen by eye and by histogram to resemble real images.
"""

from __future__ import annotations

import operator

import numpy as np

from tinyunet.data.sample import Dataset, Sample
from tinyunet.data.synthetic import dic, em, phase
from tinyunet.errors import ConfigError, DTypeError

KINDS = ("em", "phase", "dic")
SMALLEST = 32
"""Pixels a side: below, a cell has no inside left."""

_DRAW = {"em": em.draw, "phase": phase.draw, "dic": dic.draw}


def synthetic(kind: str, n: int, size: int | tuple[int, int], rng: np.random.Generator, *,
              cells: int | None = None) -> Dataset:
    """n images of one kind, named "dic-000", "dic-001", ...

    kind   one of `KINDS`
    size   pixels, (H, W) or one number for both; 32 or more, no multiple of anything
    cells  how many cells an image has, about; None for what the size of the kind's cells asks for (see `synthetic_image`)

    The images are drawn one after the other from `rng`: the first three of ten are those of `synthetic(kind, 3, ...)`
    with the same seed. Errors: `ConfigError` for a kind, n, size or number of cells that cannot be, `DTypeError` for an rng
    that is no Generator.
    """
    n = _whole("n", n, least=1)
    samples = tuple(synthetic_image(kind, size, rng, cells=cells, name=f"{kind}-{i:03d}") for i in range(n))
    names = ("membrane", "cell") if kind == "em" else ("background", "cell")
    return Dataset(samples, names, name=f"synthetic-{kind}")


def synthetic_image(kind: str, size: int | tuple[int, int], rng: np.random.Generator, *, cells: int | None = None,
                    name: str | None = None) -> Sample:
    """One image: image (H, W, 1) uint8, labels (H, W) int32 = instances > 0, instances (H, W) int32, ids 1..n.

    Every instance is one 4-connected part, also where the edge of the image cuts it. In `dic` and `phase` two instances
    may lie side by side with no background between them: that is what the weight map of section 3, eq. 2, is for.
    In `em` a membrane lies between any two.

    `cells`: in `dic` and `phase` cells keep their size, so that more of them crowd, and those that find no room are left out:
    there are never more than `cells`. In `em` cells fill the plane, so that more of them are smaller ones. In images too
    small for the usual size (a fifth of the shorter side is less than a cell's radius) all cells shrink.
    """
    if kind not in _DRAW:
        raise ConfigError(f"synthetic: kind {kind!r} is not one of {', '.join(KINDS)}.")
    if not isinstance(rng, np.random.Generator):
        raise DTypeError(f"synthetic: rng is of type {type(rng).__name__}, not a numpy.random.Generator. "
                         "Give np.random.default_rng(0), say.")
    shape = _shape(size)
    image, instances = _DRAW[kind](shape, rng, None if cells is None else _whole("cells", cells, least=1))
    return Sample(name or f"{kind}-000", image, (instances > 0).astype(np.int32), instances)


def _shape(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        raise ConfigError(f"synthetic: size {size!r} has {len(pair)} numbers, not 2. Give (height, width) in pixels, or one "
                          "number for both.")
    height, width = (_whole("size", side, least=SMALLEST) for side in pair)
    return height, width


def _whole(what: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"synthetic: {what} {value!r} is not a whole number of {least} or more.")
    return number
