"""The spec: what it refuses and with which words, presets, changes by name, and the way to a dictionary and back."""

import json
from dataclasses import FrozenInstanceError

import pytest

from tinyunet.errors import ConfigError
from tinyunet.spec import PAPER, PRESETS, RELEASE, SAME_BN, UNetSpec, preset


@pytest.mark.parametrize("name", ["channels", "classes", "base", "depth"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "4", None, True])
def test_counts_are_whole_numbers_from_1(name, value):
    """Zero, negative numbers, floats, texts, None and booleans are refused, by name and value."""
    with pytest.raises(ConfigError) as error:
        UNetSpec(**{name: value})
    assert str(error.value) == f"UNetSpec: {name} is {value!r}. Give a whole number of at least 1."


def test_depth_ends_at_12():
    """Depth 12 is taken; 13 is refused with the size that even 12 needs."""
    assert UNetSpec(depth=12).depth == 12
    with pytest.raises(ConfigError) as error:
        UNetSpec(depth=13)
    assert str(error.value) == "UNetSpec: depth is 13. Give at most 12; even that needs images of 49,148 pixels."


@pytest.mark.parametrize(
    ("name", "value", "choice"),
    [("padding", "reflect", "Choose 'valid' (the paper) or 'same'."), ("padding", None, "Choose 'valid' (the paper) or 'same'."),
     ("norm", "layer", "Choose None (the paper) or 'batch'."), ("norm", True, "Choose None (the paper) or 'batch'."),
     ("dropout", 1.0, "Give a rate of at least 0 and below 1."), ("dropout", -0.1, "Give a rate of at least 0 and below 1."),
     ("dropout", float("nan"), "Give a rate of at least 0 and below 1."),
     ("dropout", "0.5", "Give a rate of at least 0 and below 1."), ("dropout", None, "Give a rate of at least 0 and below 1."),
     ("dropout", False, "Give a rate of at least 0 and below 1."),
     ("relu_after_up", 1, "Give True or False."), ("last_up_halves", "yes", "Give True or False.")],
)  # fmt: skip
def test_choices_are_refused_with_the_alternatives(name, value, choice):
    """A value that is no choice is refused with its name, what came, and what there is."""
    with pytest.raises(ConfigError) as error:
        UNetSpec(**{name: value})
    assert str(error.value) == f"UNetSpec: {name} is {value!r}. {choice}"


def test_legal_values_are_kept_as_given():
    """Every field takes its legal values and shows them again."""
    spec = UNetSpec(3, 5, 7, 2, "same", "batch", 0.25, True, False)
    assert spec.to_dict() == {
        "channels": 3, "classes": 5, "base": 7, "depth": 2, "padding": "same", "norm": "batch", "dropout": 0.25,
        "relu_after_up": True, "last_up_halves": False,
    }  # fmt: skip
    assert UNetSpec(dropout=0).dropout == 0


def test_a_spec_cannot_be_changed_but_can_be_a_key():
    """Assigning to a field fails; equal specs are equal keys, which the caches of `shapes` rely on."""
    with pytest.raises(FrozenInstanceError):
        PAPER.base = 32
    assert {PAPER: 1}[UNetSpec(dropout=0.5)] == 1


def test_but_changes_only_what_is_named():
    """`but` gives a new spec with the named fields changed and leaves the old one alone."""
    small = PAPER.but(base=16, classes=3)
    assert small == UNetSpec(base=16, classes=3, dropout=0.5)
    assert PAPER.base == 64


def test_but_refuses_unknown_names_and_bad_values():
    """A misspelt name gets the list of names; a bad value gets the same error as in the constructor."""
    with pytest.raises(ConfigError) as error:
        PAPER.but(width=16)
    assert str(error.value) == (
        "UNetSpec has no 'width'. It has: channels, classes, base, depth, padding, norm, dropout, relu_after_up, last_up_halves."
    )
    with pytest.raises(ConfigError, match="base is 0"):
        PAPER.but(base=0)


def test_presets_are_the_three_networks():
    """paper: valid, no norm; release: ReLU after up-convolutions, last one keeps its channels; same_bn: same padding, norm."""
    assert PRESETS == {"paper": PAPER, "release": RELEASE, "same_bn": SAME_BN}
    assert UNetSpec(1, 2, 64, 4, "valid", None, 0.5, False, True) == PAPER
    assert UNetSpec(1, 2, 64, 4, "valid", None, 0.5, True, False) == RELEASE
    assert UNetSpec(1, 2, 64, 4, "same", "batch", 0.0, False, True) == SAME_BN


def test_preset_by_name_takes_changes_and_refuses_unknown_names():
    """`preset` is a look-up followed by `but`; an unknown name gets the list of presets."""
    assert preset("release", base=8) == RELEASE.but(base=8)
    with pytest.raises(ConfigError) as error:
        preset("unet++")
    assert str(error.value) == "there is no preset 'unet++'. Choose one of: paper, release, same_bn."


@pytest.mark.parametrize("name", PRESETS)
def test_a_dictionary_gives_the_spec_back(name):
    """A spec survives the way through JSON."""
    assert UNetSpec(**json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]
