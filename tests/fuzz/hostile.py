"""What every case of the fuzzer is held to, and the tools that spoil bytes.

A case calls public functions on hostile input. It must end in one of two ways: *accepted*, or *refused* with a
`TinyUNetError` of one paragraph that names the file or the option. It must end within `SECONDS`, take no more than `MIB` of
memory above what was there before, run no code out of a file, and leave no file behind but whole results.
"""

import contextlib
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tinyunet.errors import TinyUNetError

SECONDS, MIB, LETTERS = 5.0, 400.0, 3000
"""Most that one case may take, and most letters of a message. Seconds of the processor: others may be using it too."""

u32 = st.integers(0, 2**32 - 1)


class HangError(BaseException):
    """A case that does not come back. No Exception, so that nothing on the way takes it for a damaged file."""


@dataclass
class Tally:
    """What became of the cases of one target."""

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)  # "accepted", "refused"
    texts: Counter[str] = field(default_factory=Counter)  # first words of the refusals
    seconds: float = 0.0  # of the slowest case
    mib: float = 0.0  # of the case that took most memory
    total: float = 0.0  # seconds of all cases

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())


class World:
    """The folder in which one case plays, and the guard around the calls that it makes."""

    def __init__(self, tally: Tally, folder: Path) -> None:
        self.tally, self.folder = tally, folder
        self.evil = folder.parent / "evil"  # a payload that is run makes this file
        self.outcome = "accepted"

    def call(self, names: tuple[object, ...], function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The function's result; None if it refused, in words that hold one of `names`."""
        before, began = reset_peak(), time.process_time()
        try:
            with alarm():
                return function(*args, **options)
        except TinyUNetError as error:
            self.refused(str(error), names)
            return None
        finally:
            seconds, mib = time.process_time() - began, peak_mib() - before
            self.tally.seconds, self.tally.mib = max(self.tally.seconds, seconds), max(self.tally.mib, mib)
            assert seconds < SECONDS, f"{seconds:.1f} s"
            assert mib < MIB, f"{mib:.0f} MiB"
            assert not self.evil.exists(), "code from a file was run"

    def refused(self, text: str, names: tuple[object, ...]) -> None:
        """Holds a message to the rules."""
        self.outcome = "refused"
        self.tally.texts[" ".join(text.replace(str(self.folder), "").split()[:8])] += 1
        assert text.strip(), "an empty message"
        assert "\n\n" not in text, f"more than a paragraph: {text}"
        assert "Traceback" not in text
        assert len(text) < LETTERS, f"{len(text)} letters: {text[:300]}"
        assert any(str(name) in text for name in names), f"names none of {names}: {text}"


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """HangError after twelve times the time that a case may take, by the clock; on POSIX systems alone."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def hang(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reset_peak() -> float:
    """Resident memory in MiB, from which the peak is counted anew where the system (Linux) lets one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    """Peak of the resident memory in MiB. It counts what C libraries take, which tracemalloc does not see."""
    with contextlib.suppress(OSError, StopIteration), Path("/proc/self/status").open() as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass(frozen=True)
class Target:
    """One door to the library: what may be handed in, and what is then called."""

    name: str
    cases: st.SearchStrategy[Any]
    play: Callable[[World, Any], None]
    share: int  # cases of 10,000
    note: str  # what is tried, for the summary


def search(target: Target, cases: int, seed: int | None = None) -> Tally:
    """Play so many cases; without a seed the same ones every time. Fails with the smallest case that breaks a rule."""
    tally = Tally(target.name)

    def play(case: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
            Path(name).chmod(0o755)  # so that a case may go in without privileges
            folder = Path(name) / "w"
            folder.mkdir()
            world = World(tally, folder)
            target.play(world, case)
            tally.outcomes[world.outcome] += 1

    given_cases = given(target.cases)(play)
    if seed is not None:
        given_cases = seeded(seed)(given_cases)
    began = time.perf_counter()
    settings(
        report_multiple_bugs=True,
        max_examples=cases, derandomize=seed is None, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )(given_cases)()  # fmt: skip
    tally.total = time.perf_counter() - began
    return tally


# Spoiling bytes

mutations = st.lists(
    st.tuples(st.sampled_from(["cut", "flip", "set", "insert", "remove", "repeat", "append", "number", "swap"]), u32, u32),
    max_size=3,
)


def spoiled(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    """The bytes after some changes, each at a place and with a value that are taken modulo what there is."""
    for what, a, b in changes:
        at = a % max(len(data), 1)
        match what:
            case "cut":
                data = data[:at]
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ 1 << b % 8]) + data[at + 1 :]
            case "set" if data:
                data = data[:at] + bytes([b % 256]) + data[at + 1 :]
            case "insert":
                data = data[:at] + random.Random(b).randbytes(b % 40) + data[at:]
            case "remove":
                data = data[:at] + data[at + b % 40 :]
            case "repeat":
                data = data[:at] + data[at : at + b % 60] * 2 + data[at + b % 60 :]
            case "append":
                data += random.Random(b).randbytes(a % 40)
            case "number":  # a 32-bit number that somebody counts with
                value = EDGES[b % len(EDGES)]
                data = data[:at] + struct.pack("<I" if b % 2 else ">I", value) + data[at + 4 :]
            case "swap" if len(data) > 8:
                to = b % len(data)
                data = data[:at] + data[to : to + 8] + data[at + 8 :]
    return data


EDGES = (0, 1, 2, 3, 7, 8, 255, 256, 65535, 65536, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """A PNG as (kind, body) pairs."""
    out, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        out.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return out


def png(chunks: list[tuple[bytes, bytes]], lie: int = 0) -> bytes:
    """The PNG of such pairs, with checksums that are right; `lie` is added to the length of the second."""
    out = b"\x89PNG\r\n\x1a\n"
    for i, (kind, body) in enumerate(chunks):
        size = (len(body) + lie * (i == 1)) % 2**32
        out += struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def tiff_entries(data: bytes) -> list[int]:
    """The places of all 12-byte entries in the first directory of a classic TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    first = struct.unpack(order + "I", data[4:8])[0]
    count = struct.unpack(order + "H", data[first : first + 2])[0]
    return [first + 2 + 12 * i for i in range(count + 1)]  # the last is the offset of the next directory


@contextlib.contextmanager
def without_privileges() -> Iterator[bool]:
    """As a user who owns nothing; root may read and write everything otherwise. -> whether permissions count now"""
    if not hasattr(os, "geteuid"):
        yield False
        return
    if os.geteuid() != 0:
        yield True
        return
    os.seteuid(65534)
    try:
        yield True
    finally:
        os.seteuid(0)
