"""Ctrl-C that waits: a training step is finished first, so that what is saved is the state after a whole step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Deferral:
    """The handler in force while signals wait: it notes the first one, and hands the second on at once."""

    def __init__(self, notice: Callable[[], None] | None = None) -> None:
        self.notice = notice
        self.handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}  # those that it stands in for
        self.waiting: int | None = None  # the number of the signal that came

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.waiting is not None:
            self.handlers[number](number, frame)
            return
        self.waiting = number
        if self.notice is not None:
            with suppress(Exception):  # in the middle of a step, which must not fail because nobody could be told
                self.notice()

    def deliver(self) -> None:
        """Now do what the waiting signal would have done: of Ctrl-C usually KeyboardInterrupt."""
        if self.waiting is not None:
            self.handlers[self.waiting](self.waiting, None)


@contextmanager
def deferred(notice: Callable[[], None] | None = None) -> Iterator[Deferral]:
    """Within the block Ctrl-C and a polite kill (SIGINT, SIGTERM) wait; `notice` is called when one comes, and
    what it raises is dropped.

    After the block the old handlers are back, and it is up to the caller to look at `waiting` or to `deliver`. The second
    signal does not wait. Only handlers written in Python are put off: SIGTERM, which by default just ends the process, still
    does. Blocks nest, and the outermost one keeps the signal. Outside the main thread, where Python receives no signals,
    nothing changes.
    """
    deferral = Deferral(notice)
    number: int
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and not isinstance(handler, Deferral):
                deferral.handlers[number] = handler
    try:
        for number in deferral.handlers:
            signal.signal(number, deferral)
        yield deferral
    finally:
        for number, handler in deferral.handlers.items():
            signal.signal(number, handler)
