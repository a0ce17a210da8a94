"""Ctrl-C that waits: the first to the end of the block, the second not, and everything is as before afterwards."""

import signal
import threading

import pytest

from tinyunet.signals import deferred


@pytest.fixture(autouse=True)
def handlers():
    """Python's own handler of Ctrl-C during a test, whatever runs the tests; afterwards that one again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_for_the_end():
    """In the block nothing is raised; after it the handler is Python's again, and `deliver` gives it the signal."""
    noticed, done = [], False
    with deferred(lambda: noticed.append(True)) as deferral:
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert noticed == [True]
    assert deferral.waiting == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        deferral.deliver()


def test_without_a_signal_nothing_is_delivered():
    """`deliver` does nothing where nothing came."""
    with deferred() as deferral:
        pass
    assert deferral.waiting is None
    deferral.deliver()


def test_a_notice_that_fails_does_no_harm():
    """A notice that nobody can be given, e.g. on a closed stderr, raises nothing in the middle of the block."""

    def fail():
        raise OSError("stderr is closed")

    done = False
    with deferred(fail) as deferral:
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert deferral.waiting == signal.SIGINT


def test_the_second_signal_does_not_wait():
    """Who asks twice means it: the old handler runs at once, in the middle of the block, and is in force again."""
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
        signal.raise_signal(signal.SIGINT)
        reached.append(2)
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_nest():
    """The outer block keeps the signal; at the end of the inner one nothing is raised."""
    with deferred() as outer:
        with deferred() as inner:
            signal.raise_signal(signal.SIGINT)
        inner.deliver()
        signal_in_between = outer.waiting
    assert inner.waiting is None
    assert signal_in_between == signal.SIGINT


def test_handlers_that_are_not_pythons_stay():
    """An ignored Ctrl-C stays ignored, and SIGTERM that simply ends the process still does; one in Python is put off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with deferred() as deferral:
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (signal.SIG_IGN, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    assert deferral.waiting is None
    came = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with deferred() as deferral:
        signal.raise_signal(signal.SIGTERM)
        assert came == []
    deferral.deliver()
    assert came == [signal.SIGTERM]


def test_another_thread_changes_nothing():
    """Only the main thread may set handlers: elsewhere the block just runs."""
    seen = []

    def work():
        with deferred() as deferral:
            seen.append((signal.getsignal(signal.SIGINT), deferral.handlers))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.default_int_handler, {})]
