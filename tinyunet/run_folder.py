"""The folder of a run: it belongs to one process at a time, holds a log, and says whether its run can be resumed."""

from __future__ import annotations

import csv
import errno
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np

from tinyunet.checkpoint import Checkpoint, load_checkpoint
from tinyunet.data.sample import Sample
from tinyunet.errors import ConfigError, DataError
from tinyunet.files import atomic_write
from tinyunet.train_config import RESUMABLE, TrainConfig
from tinyunet.unet import UNet


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block the folder, made if need be, is this run's alone; raises ConfigError if another is at work in it.

    The system lifts the lock when the process ends, however it ends. The file stays: to remove it would let two runs hold
    locks on two files of its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"fit: {folder} cannot be written ({error.strerror}). May you write there? Or give another folder."
        ) from error
    with file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            elif sys.platform != "emscripten":  # in a browser nobody else is there, and no locks are
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # any other: a file system that knows no locks
                raise ConfigError(
                    f"fit: another run is at work in {folder}. Wait for its end or stop it, then resume it; or give another "
                    "folder. A loop left in this Python session ends when the iterator of `fit` is closed: records.close()."
                ) from None
        yield


def saved_run(folder: Path, resume: bool, model: UNet, config: TrainConfig, data: str) -> Checkpoint | None:
    """The run in the folder to go on with, or None where a new one begins; raises for one that does not fit."""
    last = folder / "last.safetensors"
    if not last.exists():  # a new run; or one that was killed before its first checkpoint: nothing to lose, start anew
        return None
    if not resume:
        raise ConfigError(f"fit: {folder} already holds a run. Resume it, or give another folder.")
    saved = load_checkpoint(last)
    if saved.model.spec != model.spec:
        raise ConfigError(f"fit: {last} holds {saved.model.spec}, asked for is {model.spec}. Resume with the same network.")
    was = TrainConfig.from_dict(saved.config)
    for name in (f.name for f in fields(TrainConfig)):
        old, new = getattr(was, name), getattr(config, name)
        if old != new and name not in RESUMABLE:
            raise ConfigError(
                f"fit: the run in {folder} has {name} = {old!r}, asked for is {new!r}. Resume with the same settings "
                f"(only {' and '.join(RESUMABLE)} may change), or start a new run in another folder."
            )
    if config.steps < saved.step:
        raise ConfigError(
            f"fit: the run in {folder} has done {saved.step} steps, asked for are {config.steps}. Give at least {saved.step}, or "
            "start a new run in another folder."
        )
    if config.steps == saved.step < was.steps:
        raise ConfigError(
            f"fit: the run in {folder} has done {saved.step} of {was.steps} steps, asked for are {config.steps}. Give at least "
            f"{saved.step + 1}: a run ends with a step, after which it is validated."
        )
    if saved.data and saved.data != data:
        raise DataError(
            f"fit: the images or masks changed since the run in {folder} began. Bring the old ones back, or start a new run."
        )
    return saved


def digest(train: Sequence[Sample], val: Sequence[Sample]) -> str:
    """A fingerprint of all images, masks and names, in their order; that of other data differs."""
    fingerprint = hashlib.blake2b(digest_size=16)
    for samples in (train, val):
        fingerprint.update(f"{len(samples)} images".encode())
        for sample in samples:
            fingerprint.update(sample.name.encode("utf-8", "surrogateescape"))
            for array in (sample.image, sample.labels, sample.instances):
                if array is not None:
                    fingerprint.update(f"{array.shape} {array.dtype}".encode())
                    fingerprint.update(np.ascontiguousarray(array).data)
    return fingerprint.hexdigest()


class Log:
    """log.csv: one line a step; on resuming, lines after the checkpoint are dropped, for these steps are done again.

    path      of the file; None: nothing is kept
    columns   names, the first is "step"
    upto      the step after which the run goes on; 0 for a new log
    """

    def __init__(self, path: Path | None, columns: Sequence[str], upto: int) -> None:
        self.path, self.columns, self.upto = path, columns, upto

    def __enter__(self) -> Log:
        if self.path is not None:
            rows: list[list[str]] = []
            if self.upto and self.path.exists():
                with self.path.open(newline="", encoding="utf-8") as file:
                    whole = [row for row in csv.reader(file) if len(row) == len(self.columns)]  # a power cut may tear a line
                    rows = [row for row in whole if row[0].isdigit() and int(row[0]) <= self.upto]
            with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([self.columns, *rows])
            self.file = self.path.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        if self.path is not None:
            self.file.close()

    def write(self, cells: Sequence[object]) -> None:
        """Append a step and flush it, so that a crash loses nothing that was done. Columns without a cell stay empty."""
        if self.path is not None:
            csv.writer(self.file).writerow([*cells, *[""] * (len(self.columns) - len(cells))])
            self.file.flush()
