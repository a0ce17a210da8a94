"""A student's numbers follow from the name, the lesson, and nothing else."""

import numpy as np

from tinyunet.course.student import begin, generator


def drawn(rng):
    return rng.integers(0, 2**62, 4).tolist()


def test_a_name_has_numbers_of_its_own():
    """The same name gives the same numbers, another name, another lesson, another purpose other ones."""
    first = drawn(begin("02", "Ada"))
    assert drawn(begin("02", "Ada")) == first
    assert drawn(generator("02")) == first
    others = [drawn(begin("02", "Bob")), drawn(begin("02")), drawn(begin("03", "Ada")), drawn(generator("02.taps", 0))]
    assert len({tuple(numbers) for numbers in [first, *others]}) == 5


def test_names_may_be_any_text():
    """Letters of any alphabet, and none."""
    assert isinstance(begin("02", "Łukasz 山田"), np.random.Generator)
    begin("02")
