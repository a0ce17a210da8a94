"""What `predict` and `evaluate` are given: a checkpoint, and images whose channels have to suit it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.images import SUFFIXES
from tinyunet.data.sample import counted
from tinyunet.errors import CheckpointError, ShapeError


def check_checkpoint(path: Path, command: str, others: str) -> None:
    """Raises CheckpointError for a run's folder, and where CHECKPOINT and the arguments after it are swapped."""
    if path.is_dir() and (path / "best.safetensors").is_file():
        raise CheckpointError(f"{command}: {path} is a folder. Use {path / 'best.safetensors'}.")
    if path.is_dir() or path.suffix.lower() in (*SUFFIXES, ".npz"):
        raise CheckpointError(f"{command}: {path} is not a checkpoint. The order is: tinyunet {command} CHECKPOINT {others}")


def fit_channels(image: Array, channels: int, command: str, name: str | Path) -> Array:
    """(..., C) -> (..., channels): the image as it is, or one of three equal channels for a network that takes grey.

    Raises ShapeError for channels that do not suit the network.
    """
    has = image.shape[-1]
    if has == channels:
        return image
    if channels == 1 and np.array_equal(image[..., :1], image[..., 1:2]) and np.array_equal(image[..., 1:2], image[..., 2:]):
        return image[..., :1]
    kind = {1: "8-bit grey (in Fiji: Image > Type > 8-bit)", 3: "RGB (in Fiji: Image > Type > RGB Color)"}
    raise ShapeError(
        f"{command}: {name} has {has} channel{'s' * (has != 1)}, the network takes {channels}. "
        f"Convert it to {kind.get(channels, f'{channels} channels')}."
    )


def grey_note(count: int) -> str:
    """What to say of images that came with three equal channels."""
    return f"{counted(count, 'image')} of three equal channels taken as grey"

