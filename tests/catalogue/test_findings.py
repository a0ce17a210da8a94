"""`check_own`: what a notebook says of functions from the cell above."""

import sys
from functools import wraps

import numpy as np
import pytest

from tinyunet import ops
from tinyunet.bugs import BUGS, plant
from tinyunet.catalogue import CATALOGUE, OPS, Findings, check_own
from tinyunet.catalogue.findings import same_words
from tinyunet.catalogue.own import OwnOutcome
from tinyunet.errors import CheckError, ConfigError


def relu_forward(x):
    """Right."""
    return np.maximum(x, 0), x


def relu_backward(dy, x):
    """Wrong at zero."""
    return dy * (x >= 0)


def frozen(name, op):
    """Our op as it is with a bug planted, whatever is planted later."""

    def while_planted(function):
        @wraps(function)
        def call(*args):
            with plant(name):
                return function(*args)

        return call

    return map(while_planted, op)


# The report ---------------------------------------------------------------------------------------------------------


def test_a_wrong_op_is_told_what_to_mend_first():
    """The first failing law, what is wrong, the planted bug that fails alike, what waits, then the house rules."""
    found = check_own("relu", relu_forward, relu_backward)
    assert not found.ok
    assert found.first.property.name == "forward_and_backward_are_the_formula"
    assert [o.property.name for o in found.failures] == [found.first.property.name, "the_derivative_at_zero_is_zero"]
    assert [o.property.name for o in found.rules] == ["any_memory_layout", "an_image_of_bytes_is_refused"]
    lines = str(found).splitlines()
    assert lines[0] == "relu: the mathematics does not hold (8 of 10); 2 house rules of 19 do not (5 draws each, seed 0)"
    assert lines[2] == "Mend first: relu.forward_and_backward_are_the_formula (reference)"
    assert lines[3] == "    should   y is x where x > 0, else 0; dx is dy where x > 0, else 0."
    assert lines[4].startswith("    but      dx is ")
    assert lines[5].startswith("    cause    it fails exactly as the planted bug relu_passes_at_zero does: ")
    assert lines[5].endswith("See it: print(tinyunet.bugs.diff('relu_passes_at_zero'))")
    assert lines[7] == "Then: relu.the_derivative_at_zero_is_zero (convention)"
    assert lines[9] == "House rules: what an op must keep to in a network, beside its mathematics."
    assert repr(found) == str(found)
    with pytest.raises(CheckError, match=r"^relu: the mathematics does not hold"):
        found.require()


@pytest.mark.parametrize("op", OPS)
def test_ours_holds(op):
    """Our ops hand themselves in and pass, with nothing to mend."""
    forward, backward = OPS[op]
    found = check_own(op, forward, backward if op not in ("softmax", "sigmoid") else None, draws=2)
    assert found.ok
    assert (found.first, found.failures, found.rules, found.cause) == (None, (), (), "")
    assert "the mathematics holds" in str(found)
    found.require()


def test_house_rules_alone_fail_only_if_asked_for():
    """A right ReLU that refuses nothing is fine, unless its house rules are what was asked for."""

    def backward(dy, x):
        return np.where(x > 0, dy, 0)

    assert check_own("relu", relu_forward, backward).ok
    asked = check_own("relu", relu_forward, backward, kinds=["contract"])
    assert not asked.ok
    assert asked.first.property.name == "any_memory_layout"
    assert "mathematics" not in asked.verdict
    one = check_own("relu", relu_forward, backward, properties=["an_image_of_bytes_is_refused"])
    assert (one.ok, len(one.outcomes)) == (False, 1)
    assert str(one).startswith("relu: 1 house rule of 1 does not (5 draws each, seed 0)\n\nHouse rules")


@pytest.mark.parametrize("op", OPS)
def test_a_forward_without_a_backward(op):
    """What calls backward is skipped, and what remains sees a forward that is off by a thousandth."""

    @wraps(OPS[op].forward)
    def off(*args):
        result = OPS[op].forward(*args)
        return (result[0] * 1.001, result[1]) if isinstance(result, tuple) else result * 1.001

    right = check_own(op, OPS[op].forward, draws=2)
    assert right.ok
    skipped = [o for o in right.outcomes if o.skipped == "it needs a backward"]
    assert bool(skipped) == (op not in ("softmax", "sigmoid"))
    assert not check_own(op, off, draws=2, hints=False).ok


def test_a_backward_without_a_forward():
    """Our forward runs in front of it, and our ctx comes in."""
    seen = []

    def backward(dy, ctx):
        seen.append(type(ctx))
        return ops.relu_backward(dy, ctx)

    assert check_own("relu", backward=backward).ok
    assert set(seen) == {type(ops.relu_forward(np.zeros(1))[1])}


def test_what_is_printed_is_kept(capsys):
    """Nothing of it shows in the notebook; it is with the outcome."""

    def loud(x):
        sys.stdout.write("a line\n")
        return relu_forward(x)

    found = check_own("relu", loud, properties=["idempotent_and_homogeneous"], draws=1)
    assert found.outcomes[0].output.startswith("a line\n")
    assert capsys.readouterr() == ("", "")


def test_an_exception_in_a_cell_is_told_with_its_line():
    """A cell is no file: the function and its line are named; a wrong signature is told with the right one."""
    scope = {}
    code = "def broken_forward(x):\n    y = x + 1\n    return y / zero, x\n\ndef narrow_backward(dy):\n    return dy\n"
    exec(compile(code, "/tmp/ipykernel_1/99.py", "exec"), scope)
    error = check_own("relu", scope["broken_forward"], properties="idempotent_and_homogeneous").first.error
    assert error.startswith("NameError: name 'zero' is not defined (broken_forward, line 3 of its cell; called with x (")
    error = check_own("relu", backward=scope["narrow_backward"], kinds="gradient").first.error
    assert "(narrow_backward, where it must fit backward(dy, ctx) -> dx; called with dy (" in error


def test_methods_and_callable_objects_will_do():
    """Whatever can be called."""

    class Relu:
        def forward(self, x):
            return relu_forward(x)

        def __call__(self, dy, x):
            return dy * self.nothing

    found = check_own("relu", Relu().forward, Relu(), kinds=["gradient"])
    assert "'Relu' object has no attribute 'nothing' (test_findings.py, line " in found.first.error


# The cause ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "dx_is_mean_of_dy",
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in ("ties_to_the_last", "upconv_rows_exchanged", "dw_of_the_last_pixel")),
])  # fmt: skip
def test_a_planted_bug_is_recognised(name):
    """An op that has a bug of the registry is told which."""
    op = BUGS[name].subjects[0]
    found = check_own(op, *frozen(name, OPS[op]), draws=2)
    assert f"as the planted bug {name} does: {BUGS[name].says}" in found.cause
    assert check_own(op, *frozen(name, OPS[op]), draws=2, hints=False).cause == ""


def test_an_unknown_mistake_has_no_cause():
    """Nobody guesses."""
    found = check_own("relu", lambda x: (np.maximum(x, 0.01), x), relu_backward)
    assert not found.ok
    assert found.cause == ""


def test_words_are_the_same_but_for_rounding():
    """Numbers may differ in the seventh digit; texts and counts of numbers may not."""
    assert same_words("y is -1.5e-3 at [0, 1], expected 2.0", "y is -1.5000000001e-3 at [0, 1], expected 2")
    assert not same_words("y is 1.5 at [0, 1]", "y is 1.6 at [0, 1]")
    assert not same_words("y is 1.5", "dx is 1.5")
    assert not same_words("y is 1.5", "")


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("relu6", relu_forward), r"check_own: there is no op 'relu6'\. Did you mean relu\? There are: conv2d, "),
        (("weight_map", relu_forward), r"there is no op 'weight_map'\. There are: conv2d"),
        (("relu",), r"there is nothing to check\. Give forward\(x\) or backward\(dy, ctx\) -> dx\."),
        (("softmax",), r"there is nothing to check\. Give softmax\(logits\) -> p\."),
        (("softmax", relu_forward, relu_backward), r"softmax is a plain function without a backward\. Give forward alone"),
    ],
)
def test_what_cannot_be_checked(arguments, said):
    """The message says what there is."""
    with pytest.raises(ConfigError, match=said):
        check_own(*arguments)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"kinds": ["gradients"]}, r"there is no kind 'gradients'\. There are: reference, gradient"),
        ({"properties": ["a_nan_is_hidden"]}, r"relu has no property 'a_nan_is_hidden'\. Did you mean a_nan_is_not_hidden"),
        ({"properties": ["xyz"]}, r"relu has no property 'xyz'\. It has: .*any_number_of_axes"),
        ({"properties": ["any_number_of_axes"], "kinds": ["adjoint"]}, r"no property of relu is left of these names and kinds"),
    ],
)
def test_properties_that_there_are_none_of(wanted, said):
    """Names and kinds are looked up before anything runs."""
    with pytest.raises(ConfigError, match=said):
        check_own("relu", relu_forward, **wanted)


def test_findings_of_nothing_are_fine():
    """One that holds and one that was skipped make an op that is ok."""
    first, second = CATALOGUE["relu"][:2]
    found = Findings("relu", (OwnOutcome(first), OwnOutcome(second, skipped="it needs a backward")))
    assert found.ok
    assert str(found).endswith(f"1 skipped\n\nSkipped, since it needs a backward: {second.name}")
