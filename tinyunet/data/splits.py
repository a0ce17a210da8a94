"""Which images train and which validate.

Neighbours resemble each other: slice 12 of a stack shows nearly the cells of slice 11, frame 12 of a film the same cells a
little further on. Drawn at random, a validation image has a near twin among the training images, and its score measures
memory. A block at the end does not, but for the one seam between the parts. So `block_split` is the default, and
`random_split` is for images that have nothing to do with each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyunet.data.sample import Dataset
from tinyunet.errors import ConfigError, DataError

__all__ = ["block_split", "random_split"]


def block_split(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """n images, m = round(fraction n) -> (the first n - m to train on, the last m to validate on).

    Takes the order of the data set, which for slices and frames is the order of acquisition; no randomness.
    m is at least 1 and at most n - 1, so that neither part is empty.

    ConfigError: fraction not between 0 and 1. DataError: fewer than two images.
    """
    m = _share(dataset, fraction, "block_split")
    return dataset[:len(dataset) - m], dataset[len(dataset) - m:]


def random_split(dataset: Dataset, fraction: float, rng: np.random.Generator) -> tuple[Dataset, Dataset]:
    """n images, m = round(fraction n) -> (n - m to train on, m drawn without replacement to validate on).

    Only for images that are independent of each other: see the top of this file. Each part keeps the order of the data set.
    m is at least 1 and at most n - 1, so that neither part is empty. Same seed, same split.

    ConfigError: fraction not between 0 and 1. DataError: fewer than two images.
    """
    m = _share(dataset, fraction, "random_split")
    drawn = np.zeros(len(dataset), bool)
    drawn[rng.permutation(len(dataset))[:m]] = True
    return _pick(dataset, ~drawn), _pick(dataset, drawn)


def _share(dataset: Dataset, fraction: float, who: str) -> int:
    """How many of the images validate."""
    if not 0 < fraction < 1:  # NaN too
        raise ConfigError(f"{who}: fraction {fraction} is not between 0 and 1. Give the share to validate on, e.g. "
                          f"0.2.")
    n = len(dataset)
    if n < 2:
        raise DataError(f"{who}: {dataset.name!r} holds {n} image{'s' * (n != 1)}, and both parts need one. Add "
                        f"images, cut a large one into parts, or train without validation.")
    return min(max(round(fraction * n), 1), n - 1)


def _pick(dataset: Dataset, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Dataset:
    return replace(dataset, samples=tuple(sample for sample, kept in zip(dataset, keep, strict=True) if kept))
