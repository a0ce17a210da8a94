"""What a launch tells: problems with file, line, block and thread; and what every line of the kernel asks of the memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyunet.cuda.source import Source
from tinyunet.errors import CheckError

Index: TypeAlias = tuple[int, int, int]

# The tables of runtime.h; every field has 64 bits.
FINDING = np.dtype([(name, np.int64) for name in (
    "problem", "pc", "other_pc", "block", "thread", "other_block", "other_thread", "region", "offset", "size", "a", "b", "c",
    "count")])  # fmt: skip
LINE = np.dtype([(name, np.int64) for name in (
    "pc", "region", "kind", "size", "requests", "lanes", "sectors", "ideal_sectors", "passes", "ideal_passes")]
    + [("offsets", np.int64, 32)])  # fmt: skip
PROBLEMS = ("race", "uninitialised read", "cp.async not waited for", "out of bounds", "misaligned", "write to const",
            "divergent barrier", "return before barrier", "deadlock", "collective mismatch", "lane not in mask",
            "absent lane", "endless loop", "crash")  # fmt: skip
KINDS = ("load", "store", "atomic")


class Finding(NamedTuple):
    """A problem, at the first place where it showed."""

    kind: str  # one of PROBLEMS
    message: str
    file: str
    line: int  # 0 where unknown
    code: str  # that line
    block: Index  # x, y, z
    thread: Index
    other: tuple[str, int] | None  # the other place of two: file, line
    times: int  # how often these places had the problem

    def __str__(self) -> str:
        times = f" ({self.times} times)" if self.times > 1 else ""
        shown = f"\n    {self.line:>4} | {self.code.strip()}" if self.code else ""
        return f"{self.file}:{self.line}: {self.kind}: block {self.block}, thread {self.thread}: {self.message}{times}{shown}"


class Line(NamedTuple):
    """What one line of a kernel asks of one array, summed over the traced blocks."""

    file: str
    line: int
    code: str
    array: str  # the kernel's name for it, or "shared"
    kind: str  # "load", "store" or "atomic"
    size: int  # bytes of one access
    requests: int  # by whole warps: all lanes that do it together are one
    lanes: int  # accesses by single threads
    sectors: int  # of 32 bytes, that global memory moves for them; 0 for shared memory
    passes: int  # over the 32 banks of shared memory; 0 for global memory
    ideal: int  # the fewest sectors or passes that could do
    offsets: NDArray[np.int64]  # (32,) bytes from the start of the array, for each lane of the first request; -1 where none

    @property
    def ratio(self) -> float:
        """How many times the ideal number of sectors or passes."""
        return (self.sectors + self.passes) / self.ideal


class Totals(NamedTuple):
    """Loads, stores and atomic operations of all threads of all blocks, each counted one by one."""

    global_loads: int = 0
    global_stores: int = 0
    global_atomics: int = 0
    shared_loads: int = 0
    shared_stores: int = 0
    shared_atomics: int = 0


class Report(NamedTuple):
    """What a launch found. `print` it."""

    kernel: str
    mode: str
    findings: tuple[Finding, ...]
    lines: tuple[Line, ...]  # in trace mode
    totals: Totals  # in check and trace mode
    static_shared: int  # bytes of __shared__ variables with a size

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def require_ok(self) -> None:
        """Raises CheckError with the whole report if anything was found."""
        if self.findings:
            raise CheckError(str(self))

    def __str__(self) -> str:
        n = len(self.findings)
        text = [f"{self.kernel} ({self.mode}): {n or 'no'} problem{'s' * (n != 1)} found", *map(str, self.findings)]
        if self.lines:
            head = ("line", "", "array", "bytes", "requests", "cost", "ideal", "ratio")
            rows = [head, *(_row(line) for line in self.lines)]
            widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
            for row in rows:
                cells = enumerate(zip(row, widths, strict=True))
                text.append("  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in cells))
        if any(self.totals):
            text.append(", ".join(f"{n} {name.replace('_', ' ')}" for name, n in self.totals._asdict().items() if n))
        return "\n".join(text)


def _row(line: Line) -> tuple[str, ...]:
    """A line of the table of a trace."""
    cost = f"{line.sectors} sectors" if line.sectors else f"{line.passes} passes"
    return (f"{Path(line.file).name}:{line.line}", line.kind, line.array, str(line.size), str(line.requests), cost,
            str(line.ideal), f"{line.ratio:.2f}")  # fmt: skip


class Launched(NamedTuple):
    """What is needed to put the runtime's numbers into words."""

    source: Source
    kernel: str
    library: Path
    base: int  # where the library lies in memory
    arrays: dict[int, tuple[str, int, int]]  # by region: name, bytes of an element, bytes in all
    grid: Index
    block: Index


def make_report(mode: str, findings: NDArray[Any], lines: NDArray[Any], totals: Totals, static_shared: int,
                launched: Launched) -> Report:  # fmt: skip
    """The report of a launch, from the runtime's tables."""
    addresses = {int(pc) for pc in (*findings["pc"], *findings["other_pc"], *lines["pc"]) if pc}
    places = find_places(launched, addresses)
    told = tuple(_tell(f, launched, places) for f in findings)
    return Report(launched.kernel, mode, told, _by_line(lines, launched, places), totals, static_shared)


def find_places(launched: Launched, addresses: set[int]) -> dict[int, tuple[str, int]]:
    """File and line of instructions: the innermost place in the kernel's own files, past what is only another spelling."""
    tools = (["addr2line"], ["llvm-addr2line"], ["llvm-symbolizer", "--output-style=GNU"])
    tool = next(([path, *rest] for name, *rest in tools if (path := shutil.which(name))), None)
    places: dict[int, tuple[str, int]] = dict.fromkeys(addresses, ("?", 0))
    if not addresses or tool is None:
        return places
    by_offset = {f"{pc - 1 - launched.base:#x}": pc for pc in addresses}  # pc is where the call returns to, one past it
    command = [*tool, "-a", "-i", "-e", str(launched.library), *by_offset]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    own = [name for name in launched.source.files if not name.endswith("tu_device.cuh")]
    pc = 0
    for line in said.stdout.splitlines():
        if re.fullmatch(r"0x[0-9a-f]+", line):
            pc = by_offset[f"{int(line, 16):#x}"]
            continue
        match = re.match(r"(.*):(\d+)", line)
        if match and not places[pc][1]:
            places[pc] = next(((name, int(match[2])) for name in own if match[1].endswith(f"/{name}")), places[pc])
    return places


def _code(launched: Launched, place: tuple[str, int]) -> str:
    """The text of a line."""
    file, line = place
    return launched.source.files[file][line - 1] if line else ""


def _spread(number: int, size: Index) -> Index:
    """A linear number as x, y, z: (x + y X + z X Y) -> (x, y, z)"""
    return number % size[0], number // size[0] % size[1], number // size[0] // size[1]


def _by_line(table: NDArray[Any], launched: Launched, places: dict[int, tuple[str, int]]) -> tuple[Line, ...]:
    """One row for each line, array, kind and size; a line that was unrolled has many instructions."""
    rows: dict[tuple[Any, ...], Line] = {}
    for row in table:
        file, number = places[int(row["pc"])]
        array = launched.arrays.get(int(row["region"]), ("shared", 0, 0))[0]
        kind, size = KINDS[row["kind"]], int(row["size"])
        requests, lanes, sectors, passes = (int(row[name]) for name in ("requests", "lanes", "sectors", "passes"))
        line = Line(file, number, _code(launched, (file, number)), array, kind, size, requests, lanes, sectors, passes,
                    int(row["ideal_sectors"] + row["ideal_passes"]), row["offsets"].copy())  # fmt: skip
        key = (file, number, array, kind, size)
        if old := rows.get(key):
            line = old._replace(requests=old.requests + requests, lanes=old.lanes + lanes, sectors=old.sectors + sectors,
                                passes=old.passes + passes, ideal=old.ideal + line.ideal)  # fmt: skip
        rows[key] = line
    return tuple(rows[key] for key in sorted(rows))


def _tell(f: Any, launched: Launched, places: dict[int, tuple[str, int]]) -> Finding:
    """A finding in words."""
    kind = PROBLEMS[f["problem"]]
    here, there = (places.get(int(f[name]), ("?", 0)) for name in ("pc", "other_pc"))
    if kind == "deadlock" and not here[1]:  # nobody waits at a barrier: the place is the collective's
        here, there = there, here
    block, thread = _spread(int(f["block"]), launched.grid), _spread(int(f["thread"]), launched.block)
    message = _MESSAGES[kind](f, launched, f"{there[0]}:{there[1]}")
    other = there if there[1] else None
    return Finding(kind, message, *here, _code(launched, here), block, thread, other, int(f["count"]))


def _memory(f: Any, launched: Launched) -> str:
    """The element that a finding is about: "y[12]", or its place in shared memory."""
    region, offset = int(f["region"]), int(f["offset"])
    if region in launched.arrays:
        name, size, _ = launched.arrays[region]
        return f"{name}[{offset // size}]"
    where = {0: "shared memory", 1: "dynamic shared memory"}
    return f"{where[region]} at byte {offset}" if region in where else f"address {offset:#x}"


def _verb(writes: Any) -> str:
    return "writes" if writes else "reads"


def _race(f: Any, launched: Launched, there: str) -> str:
    other_thread = _spread(int(f["other_thread"]), launched.block)
    who, remedy = f"thread {other_thread}", "Is a __syncthreads() missing?"
    if f["other_block"] != f["block"]:
        who += f" of block {_spread(int(f['other_block']), launched.grid)}"
        remedy = "Blocks run in any order: give every element to one block, or use atomicAdd."
    elif f["other_thread"] // 32 == f["thread"] // 32:
        remedy = "Is a __syncwarp() missing?"
    return (f"{_verb(f['a'])} {_memory(f, launched)}, which {who} {'wrote' if f['b'] else 'read'} at {there}, "
            f"and nothing orders the two. {remedy}")  # fmt: skip


def _out_of_bounds(f: Any, launched: Launched, there: str) -> str:
    region, size = int(f["region"]), int(f["size"])
    what = f"{_verb(f['a'])} {size} bytes of {_memory(f, launched)}"
    if region in launched.arrays:
        _, element, total = launched.arrays[region]
        return f"{what}, which has elements 0 to {total // element - 1}. Check the index against the size."
    if region in (0, 1):
        return f"{what}: past the end. Check the index, or the shared_mem of the launch."
    return f"{what}, which is no memory of this kernel. Check the index."


def _deadlock(f: Any, launched: Launched, there: str) -> str:
    waiting = [f"{f['a']} threads wait at __syncthreads()"] if f["a"] else []
    if f["b"]:
        waiting.append(f"{f['b']} in a warp collective" + (f" at {there}" if f["a"] else ""))
    if f["c"]:
        waiting.append(f"{f['c']} have returned")
    return f"no thread can go on: {', '.join(waiting)}. All threads of a block, or of a mask, must come to the same place."


def _crash(f: Any, launched: Launched, there: str) -> str:
    if f["a"]:
        return "its stack overflowed: local arrays and recursion have 64 KiB."
    return f"touches {_memory(f, launched)}, which it may not. Run it with mode='check' for more."


_MESSAGES: dict[str, Callable[[Any, Launched, str], str]] = {
    "race": _race,
    "uninitialised read": lambda f, k, _: f"reads {_memory(f, k)}, which no thread of its block has written.",
    "cp.async not waited for": lambda f, k, _: f"{_verb(f['a'])} {_memory(f, k)}, to which a cp.async is still under way. "
    "Does tu_cp_wait leave one group too many?",
    "out of bounds": _out_of_bounds,
    "misaligned": lambda f, k, _: f"{_verb(f['a'])} {f['size']} bytes at {_memory(f, k)}, byte {f['offset']}, "
    f"which is no multiple of {f['size']}.",
    "write to const": lambda f, k, _: f"writes {_memory(f, k)}, and the kernel declares it const.",
    "divergent barrier": lambda f, k, there: f"waits at this __syncthreads(), and thread "
    f"{_spread(int(f['other_thread']), k.block)} of its block at the one at {there}. All threads must come to the same one.",
    "return before barrier": lambda f, k, _: f"waits at __syncthreads(), and {f['a']} threads of its block have returned. "
    "Let all threads come here, and guard the loads and stores instead.",
    "deadlock": _deadlock,
    "collective mismatch": lambda f, k, there: "is in a warp collective, and thread "
    f"{_spread(int(f['other_thread']), k.block)} of its mask in another one at {there}, or with another mask. "
    "All lanes of a mask must take part in the same.",
    "lane not in mask": lambda f, k, _: "takes part in a warp collective whose mask leaves out its own lane.",
    "absent lane": lambda f, k, _: f"needs lane {f['a']} of its warp, which does not take part.",
    "endless loop": lambda f, k, _: "has made 20 million accesses without waiting for another thread. Does its loop end?",
    "crash": _crash,
}  # fmt: skip
