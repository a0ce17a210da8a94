"""The catalogue's own tools: what they accept, what they refuse, and in which words."""

import numpy as np
import pytest

from tinyunet import catalogue, ladder
from tinyunet.catalogue import CATALOGUE, OPS, SUBJECTS, Draw, Op, Property, check_catalogue, check_property, properties, rungs_of
from tinyunet.catalogue.core import holds, require, require_close
from tinyunet.catalogue.laws import (
    HARD_VALUES,
    Case,
    geometry,
    gradients_of,
    hard,
    keep_laws,
    require_equal,
    require_refused,
    spaced,
)
from tinyunet.check import pair_of
from tinyunet.errors import CheckError, ConfigError


@pytest.fixture
def draw(rng):
    """Where a property gets its numbers from."""
    return Draw(rng)


def raises(error):
    """A function that raises."""

    def call():
        raise error

    return call


# Drawing ------------------------------------------------------------------------------------------------------------


def test_a_draw_gives_both_ends_and_every_option(draw):
    """Whole numbers include both ends, every option comes up, and the values do not depend on how many sizes were drawn."""
    assert {draw.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert {draw.choice("abc") for _ in range(100)} == set("abc")
    one, other = Draw(np.random.default_rng(1)), Draw(np.random.default_rng(1))
    one.integer(0, 9)
    assert one.rng.random() == other.rng.random()


def test_geometry_covers_what_tests_need(draw):
    """One image and several, square and not, one channel and several, both ends of the sides."""
    shapes = [geometry(draw, 2, 4) for _ in range(200)]
    assert {n for n, _, _, _ in shapes} == {1, 2, 3}
    assert {h for _, h, _, _ in shapes} == {w for _, _, w, _ in shapes} == {2, 3, 4}
    assert {h == w for _, h, w, _ in shapes} == {True, False}
    assert {c for *_, c in shapes} == {1, 2, 3, 4}


def test_spaced_values_are_far_apart_and_off_zero(draw):
    """No two are nearer than 0.01 and none is nearer to zero than 0.002, so that no small step crosses a kink."""
    values = np.sort(spaced(draw, (2, 5, 3)).ravel())
    assert np.diff(values).min() > 0.0099
    assert np.abs(values).min() >= 0.0019
    assert values[0] < 0 < values[-1]


def test_hard_values_are_all_there(draw):
    """Zeros of both signs, ties, large values and denormals."""
    assert set(hard(draw, (1000,)).tolist()) == set(HARD_VALUES)
    assert any(0 < abs(v) < np.finfo(float).tiny for v in HARD_VALUES)


# Requirements -------------------------------------------------------------------------------------------------------


def test_require():
    """A law that does not hold is a CheckError with the message."""
    require(True, "never")
    with pytest.raises(CheckError, match="broken"):
        require(np.bool_(False), "broken")


def test_require_close_names_the_worst_entry():
    """Within the tolerance nothing happens; beyond it the worst entry is given with both values."""
    require_close("y", [1.0, 2.0 + 1e-13], [1.0, 2.0])
    require_close("y", np.zeros((0, 3)), np.zeros((0, 3)))
    require_close("y", [1e-13], [0.0], scale=1.0)
    for found, expected, words in (
        ([[1.0, 2.0], [3.0, 4.5]], [[1.0, 2.0], [3.1, 4.0]], r"y is 4\.5 at \[1, 1\], expected 4$"),
        ([1.0, np.nan], [1.0, 2.0], r"y is nan at \[1\], expected 2$"),
        ([1.0], [1.0, 2.0], r"y has shape \(1,\), expected \(2,\)"),
        ([1e-11], [0.0], r"y is 1e-11 at \[0\], expected 0$"),
    ):
        with pytest.raises(CheckError, match=words):
            require_close("y", found, expected)


def test_require_equal_takes_every_bit():
    """The last bit counts, two NaN are equal, a NaN and a number are not."""
    require_equal("y", [1.0, np.nan, -0.0], [1.0, np.nan, 0.0])
    for found, expected, words in (
        ([1.0, 1.0 + 2e-16], [1.0, 1.0], r"y is 1\.0000000000000002 at \[1\], expected 1\.0$"),
        ([1.0, np.nan], [1.0, 1.0], r"y is nan at \[1\], expected 1\.0$"),
        ([1.0, 1.0], [1.0, np.nan], r"y is 1\.0 at \[1\], expected nan$"),
        ([1.0], 1.0, r"y has shape \(1,\), expected \(\)"),
    ):
        with pytest.raises(CheckError, match=words):
            require_equal("y", found, expected)


def test_require_refused_wants_a_reason():
    """A ValueError or a TypeError that names what came; not silence, not an accident, not a message that says nothing."""
    require_refused("a 3x5 map", raises(ValueError("3 is odd")), "3")
    require_refused("a 3x5 map", raises(TypeError("3x5")), "3", "5")
    for call, words in (
        (lambda: 0, r"a 3x5 map is accepted\. Refuse it with a ValueError that says what came"),
        (raises(IndexError("list index out of range")), r"a 3x5 map ends in IndexError: list index out of range\. Refuse it"),
        (raises(ValueError("no")), r"a 3x5 map is refused, but the message does not name 3 and 5: no"),
        (raises(CheckError("forward returned an array")), r"^forward returned an array"),
    ):
        with pytest.raises(CheckError, match=words):
            require_refused("a 3x5 map", call, "3", "5")


def test_what_a_pair_returns_is_looked_at():
    """Forward gives a pair; backward an array for every argument."""
    assert pair_of((1, 2)) == (1, 2)
    for result, words in ((np.zeros(2), "an array"), (None, "a NoneType"), ((1, 2, 3), "a tuple of 3")):
        with pytest.raises(CheckError, match=rf"forward returned {words}, expected the pair \(y, ctx\)"):
            pair_of(result)
    x = np.zeros((1, 2))

    def case(gradients):
        return Case({"x": x, "w": x}, lambda x, w: (x, None), lambda dy, ctx: gradients, (1, 2))

    assert len(gradients_of(case([x, x]), x, None)) == 2
    for gradients, words in (
        (x, "backward returned 1 gradients, expected dx, dw"),
        ((x, x, x), "backward returned 3 gradients, expected dx, dw"),
        ((x, None), "backward returned a NoneType as dw, expected an array"),
        (None, "backward returned a NoneType as dx, expected an array"),
    ):
        with pytest.raises(CheckError, match=words):
            gradients_of(case(gradients), x, None)


# The catalogue ------------------------------------------------------------------------------------------------------


def test_every_property_is_told_in_a_sentence():
    """The law is one sentence, names are unique within a subject, and all subjects are listed."""
    for prop in properties():
        assert prop.says.endswith("."), prop
        assert len(prop.says) < 130, prop
    assert set(SUBJECTS) == set(CATALOGUE)
    assert set(OPS) <= set(CATALOGUE)
    for subject, entered in CATALOGUE.items():
        assert len({p.name for p in entered}) == len(entered)
        assert {p.subject for p in entered} == {subject}


def test_a_property_needs_a_law_and_a_name(monkeypatch):
    """One without a docstring, and a second of the same name, are refused."""
    monkeypatch.delitem(CATALOGUE, "new", raising=False)

    def law(op, draw):
        """It holds."""

    assert holds("new", "invariance")(law) is law
    assert CATALOGUE["new"] == [Property("new", "law", "invariance", "It holds.", law)]
    with pytest.raises(ConfigError, match=r"catalogue: new\.law needs a docstring and a name of its own"):
        holds("new", "invariance")(law)
    with pytest.raises(ConfigError, match=r"catalogue: new\.<lambda> needs a docstring"):
        holds("new", "invariance")(lambda op, draw: None)
    del CATALOGUE["new"]


def test_checking_stops_at_the_first_draw_that_fails():
    """An error of any kind is a failure with its words; other draws have other numbers, and the same seed the same ones."""
    seen = []

    def run(op, draw):
        seen.append(draw.rng.random())
        if op is not None:
            raise op

    prop = Property("new", "law", "invariance", "It holds.", run)
    assert check_property(prop, draws=3).error == ""
    assert len(set(seen)) == 3
    again, seen[:] = list(seen), []
    assert check_property(prop, CheckError("y is 1, expected 2"), draws=3).error == "y is 1, expected 2"
    assert check_property(prop, IndexError("too far"), rung="top").error == "IndexError: too far"
    assert seen == [again[0], again[0]]


def test_without_an_op_ours_is_checked():
    """A property of an op runs on ours unless another is handed over; where there is none of ours, the error says what to do."""
    law = next(p for p in properties(["relu"]) if p.name == "idempotent_and_homogeneous")
    assert check_property(law).error == ""
    assert check_property(law, Op(lambda x: (x + 1, None), None)).error.startswith("relu(relu(x)) is ")
    nobody = Property("new", "law", "invariance", "It holds.", lambda op, draw: op.forward(1))
    said = "we have no op 'new'. Hand yours over: check_property(prop, Op(forward, backward))"
    assert check_property(nobody).error == said
    assert check_property(nobody, Op(lambda x: x, None)).error == ""
    other = Property("new", "law", "invariance", "It holds.", lambda op, draw: draw.nothing)
    assert check_property(other).error == "AttributeError: 'Draw' object has no attribute 'nothing'"


def test_a_law_says_in_which_way_of_calling_it_fails(monkeypatch):
    """Of an op that can be called in several ways, the message names the one that fails; an accident keeps its name."""
    monkeypatch.setitem(CATALOGUE, "new", [])
    x = np.ones((1, 2, 2, 1))

    def cases(op, draw):
        yield Case({"x": x}, lambda x: (x + 0, x), lambda dy, x: dy + 0, x.shape, name="a=1")
        yield Case({"x": x}, op.forward, lambda dy, x: dy + 0, x.shape, name="a=2")

    keep_laws("new", cases, without=["the_dtype_survives"])
    by_name = {p.name: p for p in CATALOGUE["new"]}
    assert "the_dtype_survives" not in by_name
    assert check_property(by_name["shapes_of_the_results"], Op(lambda x: (x + 0, x), None)).error == ""
    short = check_property(by_name["shapes_of_the_results"], Op(lambda x: (x[:, 1:], x), None))
    assert short.error == "with a=2: y has shape (1, 1, 2, 1), expected (1, 2, 2, 1)"
    accident = check_property(by_name["shapes_of_the_results"], Op(lambda x: 1 / 0, None))
    assert accident.error == "with a=2: ZeroDivisionError: division by zero"


def test_the_catalogue_runs_on_every_rung():
    """Each property of an op with a ladder comes up once for every rung of the CPU, with that rung picked."""
    outcomes = list(check_catalogue(["upconv", "relu"], kinds=["reference"], draws=1))
    assert {o.rung for o in outcomes if o.property.subject == "upconv"} == {"loops", "gemm"}
    assert {o.rung for o in outcomes if o.property.subject == "relu"} == {""}
    assert {o.property.kind for o in outcomes} == {"reference"}
    assert not any(o.error for o in outcomes)
    assert rungs_of("conv2d") == ("loops", "taps", "im2col", "strips", "planes")  # those that run in float64
    without_kernels = ("loops", "taps", "im2col", "strips", "planes", "winograd1d", "winograd")
    assert rungs_of("conv2d_float32") == without_kernels


def test_the_rung_is_really_picked(monkeypatch):
    """A rung that is wrong fails, and only that one."""
    rungs = ladder._LADDERS["upconv2x2"]
    wrong = rungs["gemm"]._replace(forward=lambda x, w: 2 * rungs["loops"].forward(x, w), fused=None)
    monkeypatch.setitem(rungs, "gemm", wrong)
    failed = {o.rung for o in check_catalogue(["upconv"], kinds=["reference"], draws=1) if o.error}
    assert failed == {"gemm"}


def test_a_subject_that_there_is_none_of():
    """The message lists those that exist."""
    with pytest.raises(ConfigError, match=r"catalogue: there is no 'conv4d'\. There are: .*conv2d"):
        list(check_catalogue(["conv4d"]))


def test_probabilities_have_no_backward_pass():
    """Softmax and sigmoid are plain functions; their op says so when asked."""
    with pytest.raises(NotImplementedError, match="probabilities have no backward pass"):
        OPS["softmax"].backward(1.0, None)


def test_public_names():
    """Everything in `__all__` exists."""
    assert all(hasattr(catalogue, name) for name in catalogue.__all__)
