"""Hostile input at every door: whatever comes, it is accepted or refused in words, in bounded time and memory.

Quick: 500 cases. Slow: 10,000. More: TINYUNET_FUZZ_CASES=100000 python -m pytest tests/fuzz -m slow, or benchmarks/fuzz.py.
"""

import os
import pickle

import files_in
import files_out
import hostile
import numpy as np
import pytest
import settings_in
from hypothesis import strategies as st

from tinyunet.errors import DataError

TARGETS = {t.name: t for module in (files_in, settings_in, files_out) for t in module.TARGETS}
CASES = int(os.environ.get("TINYUNET_FUZZ_CASES", "10000"))
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, permissions and limits of files are those of POSIX")


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_hostile_cases(name):
    """A twentieth of the cases of every target, in seconds: no traceback, no hang, no code run, no half-written file."""
    count = max(10, TARGETS[name].share // 20)
    assert hostile.search(TARGETS[name], count).cases >= count


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_hostile_cases(name):
    """All cases of every target; so many were really played, and both ends were seen."""
    count = TARGETS[name].share * CASES // 10_000
    tally = hostile.search(TARGETS[name], count)
    assert tally.cases >= count
    assert set(tally.outcomes) == {"accepted", "refused"}


def test_there_are_ten_thousand_cases():
    """All targets together: at least 500 quick cases, and at least 10,000 slow ones."""
    assert sum(t.share for t in TARGETS.values()) >= 10_000
    assert sum(max(10, t.share // 20) for t in TARGETS.values()) >= 500


# The fuzzer itself: it must see what it is there to see


def caught(function, tmp_path, *names):
    """What the fuzzer says of a function that breaks a rule."""
    world = hostile.World(hostile.Tally("x"), tmp_path / "w")
    with pytest.raises(AssertionError) as error:
        world.call(names, function)
    return str(error.value)


def refusing(text):
    def function():
        raise DataError(text)

    return function


def test_the_fuzzer_sees_messages_that_do_not_help(tmp_path):
    """No file named, two paragraphs, too long, empty."""
    assert "names none of" in caught(refusing("something is wrong"), tmp_path, "a.png")
    assert "more than a paragraph" in caught(refusing("a.png: bad\n\nvery bad"), tmp_path, "a.png")
    assert "letters" in caught(refusing("a.png" * 1000), tmp_path, "a.png")
    assert "empty" in caught(refusing(" "), tmp_path, "a.png")


def test_the_fuzzer_sees_time_memory_and_code(tmp_path, monkeypatch):
    """Six seconds of work, 500 MiB that are used, and a payload that ran."""
    monkeypatch.setattr(hostile, "SECONDS", 0.05)

    def slow():
        while hostile.time.process_time() < end:
            pass

    end = hostile.time.process_time() + 0.1
    assert "0.1 s" in caught(slow, tmp_path)
    monkeypatch.setattr(hostile, "SECONDS", 5.0)
    assert "MiB" in caught(lambda: np.ones(500 * 2**17).sum(), tmp_path)
    assert "code from a file was run" in caught(lambda: pickle.loads(pickle.dumps(files_in.Payload(tmp_path / "evil"))), tmp_path)


@pytest.mark.skipif(not hasattr(hostile.signal, "setitimer"), reason="no timer on this system")
def test_the_fuzzer_sees_a_hang(tmp_path, monkeypatch):
    """What waits for ever is stopped, even where every Exception is caught."""
    monkeypatch.setattr(hostile, "SECONDS", 0.02)
    with pytest.raises(hostile.HangError):
        hostile.World(hostile.Tally("x"), tmp_path).call((), hostile.signal.pause)


def test_the_fuzzer_finds_a_bug_and_shows_it_small():
    """A planted bug is found, and shrunk to the smallest case that shows it."""

    def play(world, case):
        world.call((), lambda: [1] * 5 if case < 1000 else 1 // 0)

    with pytest.raises(ZeroDivisionError) as error:
        hostile.search(hostile.Target("x", st.integers(0, 10**6), play, 1, ""), 200)
    assert "case=1000" in "".join(error.value.__notes__)
