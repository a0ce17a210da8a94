"""Every check passes a right answer, and fails each known wrong one with the hint that helps."""

import numpy as np
import pytest

from tinyunet.bugs import plant
from tinyunet.course import NotYetError, check, predicted
from tinyunet.course.exercise import DRAWS, EXERCISES, Exercise, catalogue, difference, equals
from tinyunet.errors import CheckError, ConfigError
from tinyunet.ops import relu_backward, relu_forward

# Every exercise of every lesson --------------------------------------------------------------------------------------


def test_the_solution_passes(exercise_name, answer):
    """The notebook's own solution is right, for two students with other numbers."""
    for student in ("", "Ada"):
        assert str(answer(exercise_name, seed=student)).startswith(f"{exercise_name}: right!")


def test_a_known_mistake_fails_with_its_hint(mistake, answer):
    """A wrong answer, an edit of the solution or our own op with a planted bug, is seen and gets its hint."""
    name, k = mistake
    wrong = EXERCISES[name].mistakes[k]
    if wrong.bug:
        with plant(wrong.bug), pytest.raises(NotYetError) as error:
            check(name, *EXERCISES[name].ours)
    else:
        with pytest.raises(NotYetError) as error:
            answer(name, wrong.edits)
    assert wrong.hint in str(error.value)


def test_every_exercise_knows_three_mistakes(exercise_name):
    """Three or more, no two the same, and none both an edit and a planted bug."""
    mistakes = EXERCISES[exercise_name].mistakes
    assert len(set(mistakes)) == len(mistakes) >= 3
    assert all(bool(m.edits) != bool(m.bug) and m.hint for m in mistakes)


def test_our_own_answer_passes(exercise_name):
    """Without the planted bug, our op is a right answer: so what fails with it is the bug."""
    if ours := EXERCISES[exercise_name].ours:
        check(exercise_name, *ours)


# What a check says ---------------------------------------------------------------------------------------------------


@pytest.fixture
def double(monkeypatch):
    """An exercise: double an array."""
    def arguments(draw):
        return {"x": draw.rng.standard_normal((2, 3))}

    law = equals(lambda x: 2 * x, arguments, {"You square it.": lambda x: x * x}, what="y")
    stops = {"index 9": "There are two rows."}
    monkeypatch.setitem(EXERCISES, "00.double", Exercise("00.double", "double(x) -> y", (law,), (), (), stops))


def test_a_right_answer_is_told_so(double):
    """The verdict is shown without quotes."""
    assert repr(check("00.double", lambda x: x + x)) == f"00.double: right! Tried on {DRAWS} drawings of numbers and shapes."


def _todo(*arguments):
    raise NotImplementedError("your turn: double it")


def _changes(x):
    x *= 2
    return x.copy()


def _stops(x):
    return x[9]


def _misuses(x):
    return relu_backward(x, relu_forward(x[:1])[1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_todo, "00.double: your turn. Write double(x) -> y.\n    Still to do: double it."),
        (lambda x: None, "00.double: not yet.\n    y is None. Does your function return something?\n    Called with x (2, 3)."),
        (lambda x: x.T, "y has shape (3, 2), expected (2, 3)."),
        (lambda x: "x", "y is a str, expected an array of shape (2, 3)."),
        (lambda x: x * x, "Hint: You square it."),
        (lambda x: x * np.nan, "(6 of 6 entries are wrong)"),
        (_changes, "y is right, but your code changes its argument x."),
        (_stops, "Your code stops.\n    IndexError: index 9 is out of bounds"),
        (_stops, "of _stops's cell: return x[9]"),
        (_misuses, "Your code stops.\n    ShapeError: "),
        (_misuses, "of _misuses's cell: return relu_backward(x, relu_forward(x[:1])[1])"),
        (_stops, "cell: return x[9]\n    Hint: There are two rows."),
        (relu_forward, "y is a tuple: a forward pass returns (y, ctx). Take y, the first"),
        (lambda x: (x, x), "y is a tuple of 2, expected an array"),
    ],
    ids=["to do", "None", "shape", "type", "lookalike", "nan", "changes x", "stops", "where", "our error", "its place",
         "stops, with a hint", "with ctx", "pair"],
)
def test_a_wrong_answer_is_told_why(double, wrong, says):
    """What is wrong, with values, and where the code stopped; a notebook shows the text without a traceback."""
    with pytest.raises(NotYetError) as error:
        check("00.double", wrong)
    assert says in str(error.value)
    assert error.value._render_traceback_() == str(error.value).splitlines()
    assert isinstance(error.value, CheckError)


def test_an_unknown_exercise_is_refused():
    """With the names that are near."""
    with pytest.raises(ConfigError, match=r"^check: there is no exercise '02.tap'. There are: 02.taps"):
        check("02.tap", abs)


@pytest.mark.parametrize(
    ("kinds", "behind_ours", "wrong", "says"),
    [
        (("reference", "gradient"), False, lambda dy, mask: dy * mask * 2, "It should hold: "),
        (("convention",), True, lambda dy, ctx: dy.copy(), "It should hold: "),
        (("reference",), True, _todo, "Still to do: double it."),
    ],
    ids=["pair", "behind ours", "to do"],
)
def test_the_catalogue_is_a_law(monkeypatch, kinds, behind_ours, wrong, says):
    """A right pair passes, a wrong backward is told the law that it breaks; alone it gets the context of our forward."""
    law = catalogue("relu", kinds=kinds, behind_ours=behind_ours)
    monkeypatch.setitem(EXERCISES, "04.relu", Exercise("04.relu", "relu", (law,), (), ()))
    forward = () if behind_ours else (lambda x: (np.where(x.real > 0, x, 0).astype(x.dtype), x.real > 0),)
    right = relu_backward if behind_ours else lambda dy, mask: dy * mask
    check("04.relu", *forward, right)
    with pytest.raises(NotYetError) as error:
        check("04.relu", *forward, wrong)
    assert says in str(error.value)


def test_an_unknown_property_is_refused():
    """When the exercise is entered, not when a student stands before it."""
    with pytest.raises(ConfigError, match=r"^catalogue: relu has no property learns\."):
        catalogue("relu", properties=["learns"])


def test_differences_name_the_worst_entry():
    """Index, both values and how many are wrong; parts of a tuple are numbered."""
    a = np.arange(4.0).reshape(2, 2)
    assert difference("y", a, a) == ""
    assert difference("y", a + np.eye(2), a) == "y is 1 at [0, 0], expected 0 (2 of 4 entries are wrong)."
    assert difference("y", (a, a + 1), (a, a)).startswith("y, part 2 is 1 at [0, 0], expected 0")
    assert difference("y", a, (a, a)) == "y is an array of shape (2, 2), expected 2 values: return a, b."
    assert difference("n", True, True) == ""
    assert difference("n", 3, 4) == "n is 3, expected 4."


class Strange:
    """Nothing can be asked of it."""

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None

    def __str__(self):
        return "strange"


SEVEN = np.arange(1, 8)


@pytest.mark.parametrize(
    ("guess", "truth", "says"),
    [
        ((6, 8), (6, 8), "Yes: (6, 8). Because."),
        ("6 x 8", (6, 8), "Yes: (6, 8). Because."),
        ("(6,8)", (6, 8), "Yes: (6, 8). Because."),
        (5, 7.0, "You said 5, it is 7. Because."),
        (None, np.array([1, 2]), "It is [1, 2]. (No guess written down: with one, you would look twice.) Because."),
        (..., 3, "It is 3. (No guess written down: with one, you would look twice.) Because."),
        ("up", "up", "Yes: up. Because."),
        (" Network", "network", "Yes: network. Because."),
        (["Up", "down"], ("up", "down"), "Yes: ('up', 'down'). Because."),
        ("up", 3, "You said up, it is 3. Because."),
        ("95%", 0.95, "Yes: 0.95. Because."),
        ("95 %", 95.0, "Yes: 95. Because."),
        ("95%", 0.5, "You said 95%, it is 0.5. Because."),
        ("Yes", True, "Yes: True. Because."),
        (False, "yes", "You said False, it is yes. Because."),
        (1600, 1562.4, "Close: you said 1600, it is 1562. Because."),
        (2000, 1562.4, "You said 2000, it is 1562. Because."),
        (0.6, 0.52, "Close: you said 0.6, it is 0.52. Because."),
        (1025, 1024, "Close: you said 1025, it is 1024. Because."),
        (31_030_658, 31_030_658, "Yes: 31030658. Because."),
        (float("inf"), np.inf, "Yes: inf. Because."),
        (4.999, 5, "Yes: 5. Because."),
        (91, 92, "You said 91, it is 92. Because."),
        (120, 140.0, "You said 120, it is 140. Because."),
        (0, 0.001, "You said 0, it is 0.001. Because."),
        ((240, 3), (240.0, 2.5), "Close: you said (240, 3), it is (240.0, 2.5). Because."),
        (-0.3, 0.3, "You said -0.3, it is 0.3. Because."),
        (float("nan"), 0.3, "You said nan, it is 0.3. Because."),
        ([1, 2, 3], SEVEN, "You wrote 3 numbers, there are 7: [1, 2, 3, 4, 5, 6, 7]. Because."),
        (1, np.ones(2), "You wrote 1 number, there are 2: [1.0, 1.0]. Because."),
        ((1, 2), 1, "You wrote 2 numbers, there is 1: 1. Because."),
        ([[1, 2], [3]], SEVEN, "You said [[1, 2], [3]], it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        ("seven numbers", SEVEN, "You said seven numbers, it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        ("", SEVEN, "You said , it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        ({1, 2}, SEVEN, "You said {1, 2}, it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        ([9, 8, 7, 6], np.array([[9, 8], [7, 6]]), "Yes: [[9, 8], [7, 6]]. Because."),
        (1j, SEVEN, "You said 1j, it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        (10**400, 7, f"You said {10**400}, it is 7. Because."),
        (Strange(), 7, "You said strange, it is 7. Because."),
        (Strange(), SEVEN, "You said strange, it is [1, 2, 3, 4, 5, 6, 7]. Because."),
        (np.array([Strange()]), "up", "it is up. Because."),
    ],
)
def test_a_prediction_never_fails(guess, truth, says):
    """Right, nearly, wrong, missing, of another type or length, or nonsense: it is laid beside the truth."""
    assert predicted(guess, truth, "Because.").endswith(says)
