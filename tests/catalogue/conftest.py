"""A source of geometry that Hypothesis answers for, so that a failing case of a property shrinks."""

import numpy as np
import pytest
from hypothesis import strategies as st

from tinyunet.catalogue import Draw


class HypothesisDraw(Draw):
    """Geometry and the seed of the values are what Hypothesis says."""

    def __init__(self, data):
        self._data = data
        self.rng = np.random.default_rng(self.integer(0, 2**32 - 1))

    def integer(self, low, high):
        return self._data.draw(st.integers(low, high))


@pytest.fixture(scope="session")
def drawn_from():
    """data of Hypothesis -> a Draw"""
    return HypothesisDraw
