"""What `predict` and `evaluate` are given: a checkpoint, and images that may be grey and saved as colour."""

from __future__ import annotations

from pathlib import Path

from tinyunet.backend import choose
from tinyunet.checkpoint import Checkpoint
from tinyunet.cli.terminal import say
from tinyunet.data.images import SUFFIXES
from tinyunet.data.sample import counted
from tinyunet.errors import CheckpointError


def check_checkpoint(path: Path, command: str, others: str) -> None:
    """Raises CheckpointError for a run's folder, and where CHECKPOINT and the arguments after it are swapped."""
    if path.is_dir() and (path / "best.safetensors").is_file():
        raise CheckpointError(f"{command}: {path} is a folder. Use {path / 'best.safetensors'}.")
    if path.is_dir() or path.suffix.lower() in (*SUFFIXES, ".npz"):
        raise CheckpointError(f"{command}: {path} is not a checkpoint. The order is: tinyunet {command} CHECKPOINT {others}")


def grey_note(count: int) -> str:
    """What to say of images that came with three equal channels."""
    return f"{counted(count, 'image')} of three equal channels taken as grey"



def on_device(checkpoint: Checkpoint, device: str) -> Checkpoint:
    """The checkpoint with its network on a device; says which, unless it was asked for by name and is the CPU."""
    device, where = choose(device)
    if where != "CPU":
        say(f"device: {where}")
    checkpoint.model.to(device)
    return checkpoint
