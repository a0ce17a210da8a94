"""Talking to a terminal or a pipe: lines, tables, progress, Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tinyunet.errors import DataError
from tinyunet.plot import read_log
from tinyunet.signals import deferred
from tinyunet.spec import UNetSpec
from tinyunet.train import StepRecord

_WIDE = 100
"""Columns of a table that no terminal shows: a pipe has no width of its own."""

def _columns() -> int:
    wanted = os.environ.get("COLUMNS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else _WIDE


out_console = Console(highlight=False, width=None if sys.stdout.isatty() else _columns())
err_console = Console(highlight=False, stderr=True)


def say(text: str = "", style: str = "") -> None:
    """One line as it is: neither wrapped nor coloured by what it says."""
    out_console.print(Text(text, style=style), soft_wrap=True)


class StopError(BaseException):
    """Ctrl-C, or a polite kill. No Exception, so that nothing on the way takes it for an error."""


def stop(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT and SIGTERM wherever they are not deferred."""
    raise StopError


def _notice(text: str) -> None:
    """A line on stderr from within a handler; not through Rich, for the signal may have come in the middle of its printing."""
    if sys.__stderr__ is None:  # closed from the start: its number may by now be that of another file
        return
    with suppress(OSError, ValueError):  # closed, or a pipe that nobody reads; the step goes on all the same
        os.write(sys.__stderr__.fileno(), f"\n{text}; press Ctrl-C again to stop at once\n".encode())


class Meter:
    """How far, how fast, how long still: a bar on a terminal; elsewhere a line every tenth of the way."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.started, self.before, self.tenth = 0.0, -1.0, -1
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}")]
        self.bar = Progress(*columns, console=out_console) if out_console.is_terminal else None

    def __enter__(self) -> Meter:
        self.started = time.perf_counter()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=None, line="starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, done: float, total: int, note: str = "") -> None:
        """`done` of `total` units are done. A run that goes on from step 500 first shows 501."""
        if self.before < 0:
            self.before = max(0.0, np.ceil(done) - 1)
        took = time.perf_counter() - self.started
        each = took / max(done - self.before, 1e-9)  # seconds a unit
        left = f"{time_text((total - done) * each)} left" if done < total else f"took {time_text(took)}"
        speed = f"{each:.2f} s/{self.unit}" if each > 0.5 else f"{1 / each:.1f} {self.unit}s/s"
        line = f"{int(done):>{len(str(total))}}/{total}  " + (f"{note}  " if note else "") + f"{speed}  {left}"
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, line=line)
        elif (tenth := int(10 * done / total)) > self.tenth:
            self.tenth = tenth
            say(f"{self.what}  {line}")


def time_text(seconds: float) -> str:
    """ "42 s", "3 min 05 s", "2 h 10 min" """
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


def table_of(*columns: str, left: int = 1) -> Table:
    """A plain table; the first `left` columns are texts, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return table


def new_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: the folder cannot be made ({error.strerror}). Choose another with --out.") from error
    return path


def described(spec: UNetSpec) -> str:
    return (
        f"U-Net of base {spec.base}, depth {spec.depth}, {spec.padding} padding"
        + (", batch norm" if spec.norm else "")
        + (f", dropout {spec.dropout:g}" if spec.dropout else "")
    )


def follow(records: Iterator[StepRecord], what: str, steps: int, log: Path) -> StepRecord | None:
    """Show a run as it goes; on Ctrl-C let the step finish and close the run, which saves it. -> the last record

    The loss shown is a moving average. It begins with the losses in `log`, so that it does not jump in a resumed run.
    """
    last, loss, iou = None, None, ""

    def finishing() -> None:
        # Weight maps are made before the first step, and may take longer than it.
        first = last is None
        _notice("stopping after the first step, which is saved" if first else "finishing the step in progress, then saving")

    with deferred(finishing) as interruption, Meter(what, "step") as meter:
        for last in records:
            loss = moving_average(read_log(log)) if loss is None else 0.9 * loss + 0.1 * last.loss
            if last.scores is not None:
                iou = f"  IoU {last.scores.mean_iou:.3f}"
            meter.show(last.step, steps, f"loss {loss:.4f}{iou}")
            for note in last.notes:
                say(f"step {last.step}: {note}")
            if interruption.waiting is not None and last.step < steps:
                cast(Any, records).close()  # a generator; closing it saves
                break
    return last


def moving_average(log: Sequence[Mapping[str, float]]) -> float:
    """The loss that `follow` shows after the last of these steps: a <- 0.9 a + 0.1 loss, beginning with the first loss."""
    losses = [step["loss"] for step in log]
    return reduce(lambda average, loss: 0.9 * average + 0.1 * loss, losses)


def number_text(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def size_text(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
