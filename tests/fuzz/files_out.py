"""Targets that write: disks that are full, folders that are locked, processes that are killed, two at once."""

import contextlib
import errno
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hostile import Target, World, u32, without_privileges
from hypothesis import strategies as st

from tinyunet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinyunet.config import RunConfig, read_tables, write_config
from tinyunet.data.images import read_image, read_mask, write_image, write_labels
from tinyunet.files import atomic_write
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

KINDS = ("image", "labels", "tiff", "settings", "checkpoint", "text")
SUFFIX = {"image": ".png", "labels": ".png", "tiff": ".tif", "settings": ".toml", "checkpoint": ".safetensors", "text": ".json"}
MODELS = {version: UNet(UNetSpec(base=2, depth=1), rng=version) for version in (0, 1)}


def write(kind: str, path: Path, version: int) -> None:
    """The old (0) or the new (1) content; a few thousand bytes."""
    rng = np.random.default_rng(version)
    match kind:
        case "image" | "tiff":
            write_image(path, rng.integers(0, 256, (50, 60), np.uint8))
        case "labels":
            write_labels(path, rng.integers(0, 999, (50, 60)))
        case "settings":
            write_config(path, RunConfig.from_tables({"train": {"steps": 1 + version}}))
        case "checkpoint":
            save_checkpoint(path, Checkpoint(MODELS[version], step=version))
        case "text":
            with atomic_write(path) as temporary:
                temporary.write_text(f"{version}" * 5000)


def version_of(kind: str, path: Path) -> int:
    """Which content a file holds; fails for half of one."""
    match kind:
        case "image" | "tiff":
            found = read_image(path)[..., 0]
            return next(v for v in (0, 1) if np.array_equal(found, np.random.default_rng(v).integers(0, 256, (50, 60), np.uint8)))
        case "labels":
            found = read_mask(path)
            return next(v for v in (0, 1) if np.array_equal(found, np.random.default_rng(v).integers(0, 999, (50, 60))))
        case "settings":
            return int(RunConfig.from_tables(read_tables(path)).train.steps) - 1
        case "checkpoint":
            return load_checkpoint(path).step
    text = path.read_text()
    assert text in ("0" * 5000, "1" * 5000)
    return int(text[0])


@contextlib.contextmanager
def full_disk(after: int) -> Any:
    """The system refuses every byte of a file behind the first so many: EFBIG, from the kernel, also in compiled libraries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@contextlib.contextmanager
def failing(module: Any, name: str, number: int) -> Any:
    """A call to the system that fails once."""
    plain = getattr(module, name)

    def fail(*args: Any, **options: Any) -> Any:
        setattr(module, name, plain)
        raise OSError(number, os.strerror(number))

    setattr(module, name, fail)
    try:
        yield
    finally:
        setattr(module, name, plain)


output_cases = st.tuples(
    st.sampled_from(KINDS), st.booleans(),
    st.sampled_from(["nothing", "full", "full", "full", "fsync", "replace", "chmod", "killed", "killed", "killed",
                     "locked folder", "missing folder", "file as folder", "target is a folder", "target is a pipe",
                     "target is a loop",
                     "long name", "null",
                     "surrogate", "name of dots", "loop above"]),
    u32,
)  # fmt: skip


def play_output(world: World, case: Any) -> None:
    kind, there, trouble, seed = case
    path = world.folder / ("result" + SUFFIX[kind])
    if there:
        write(kind, path, 0)
    match trouble:
        case "missing folder":
            path = world.folder / "missing" / path.name
        case "file as folder":
            (world.folder / "file").touch()
            path = world.folder / "file" / path.name
        case "target is a folder":
            path = world.folder / ("folder" + SUFFIX[kind])
            path.mkdir()
        case "target is a pipe":
            path = world.folder / ("pipe" + SUFFIX[kind])
            os.mkfifo(path)
        case "target is a loop":
            path = world.folder / ("loop" + SUFFIX[kind])
            path.symlink_to(path.name)
        case "loop above":
            (world.folder / "loop").symlink_to("loop")
            path = world.folder / "loop" / path.name
        case "long name":
            path = world.folder / ("x" * (200 + seed % 100) + SUFFIX[kind])
        case "null":
            path = world.folder / ("a\0b" + SUFFIX[kind])
        case "surrogate":
            path = world.folder / ("a\udcff" + SUFFIX[kind])
        case "name of dots":
            path = world.folder / (".." + SUFFIX[kind])
    names = (path, path.parent, path.name)
    if trouble == "killed":
        killed(kind, path, seed)
    elif trouble == "full":
        with full_disk(seed % 6000 if seed % 7 else 0):
            world.call(names, write, kind, path, 1)
    elif trouble in ("fsync", "replace", "chmod"):
        with failing(os, trouble, (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)[seed % 4]):
            world.call(names, write, kind, path, 1)
    elif trouble == "locked folder":
        world.folder.chmod(0o555)
        with without_privileges():
            world.call(names, write, kind, path, 1)
        world.folder.chmod(0o755)
    else:
        world.call(names, write, kind, path, 1)
    whole(world, kind, path, there, trouble)


def whole(world: World, kind: str, path: Path, there: bool, trouble: str) -> None:
    """Old content or new content, and nothing beside it; a killed process may leave a hidden file, which no reader takes."""
    result = world.folder / ("result" + SUFFIX[kind])
    if there or (path == result and result.exists()):
        version = version_of(kind, result)
        assert there or version == 1
        if path == result and trouble != "killed":
            assert version == (world.outcome == "accepted")
    if path != result and world.outcome == "accepted":
        assert version_of(kind, path) == 1
    left = {p.name for p in world.folder.iterdir()} - {result.name, path.name, "file", "loop"}
    if trouble == "killed":
        left = {name for name in left if not name.startswith(".")}
    assert not left, f"left behind: {left}"


def killed(kind: str, path: Path, seed: int) -> None:
    """The same in a process that is killed at some line of Python on its way."""
    child = os.fork()
    if child == 0:
        lines = 1 + seed % 400

        def count(frame: Any, event: str, arg: Any) -> Any:
            nonlocal lines
            lines -= event == "line"
            if lines <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

        try:
            sys.settrace(count)
            write(kind, path, 1)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status


TARGETS = (
    Target("results", output_cases, play_output, 600,
           "images, labels, settings, checkpoints: a full disk at any byte, failing system calls, SIGKILL at any line, "
           "locked and missing folders, impossible names"),
)  # fmt: skip
