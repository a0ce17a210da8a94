"""One safetensors file that holds everything: weights, optimizer, step, spec, normalisation, classes, settings,
how masks were read, best score.

Arrays are stored by their dotted names under "model." and "optimizer."; all else is JSON in the file's metadata. A checkpoint
can therefore be read by anything that reads safetensors, and loading one never runs code. There is no random state to store:
every step of a run draws from a generator seeded by (seed, step), see `tinyunet.train`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import Sample
from tinyunet.errors import CheckpointError, DataError, TinyUNetError, short
from tinyunet.evaluation import evaluate
from tinyunet.files import atomic_write
from tinyunet.inference import Tiling, predict, predict_proba
from tinyunet.metrics import Scores
from tinyunet.optim import Optimizer
from tinyunet.shapes import count_params
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

FORMAT = 1
"""Raised when files of an older version could no longer be read."""


@dataclass(frozen=True)
class Checkpoint:
    """A network together with what it needs to be used, and to be trained further."""

    model: UNet
    normalization: Normalization = field(default_factory=Normalization)
    class_names: tuple[str, ...] = ("background", "cell")
    step: int = 0  # steps done
    best: dict[str, Any] | None = None  # validation scores of the best step so far, with that step
    config: dict[str, Any] = field(default_factory=dict)  # settings of the run, see `tinyunet.train_config.TrainConfig`
    optimizer: dict[str, Array] = field(default_factory=dict)  # its state, see `Optimizer.state`
    reading: dict[str, Any] = field(default_factory=dict)  # how the masks of the run were read, see `Dataset`; {} if unknown
    data: str = ""  # digest of the images and masks of the run; "" if unknown

    @property
    def min_size(self) -> int:
        """Objects of fewer pixels did not count when the network was validated."""
        size: int = self.config.get("min_size", 0)
        return size

    def predict(self, image: Array, **tiling: Unpack[Tiling]) -> Array:
        """(H, W) or (H, W, C) -> (H, W) classes, normalised as in training.

        tiling: tile_in, max_mem, average, progress, reserved: as for `tinyunet.predict`
        """
        return predict(self.model, image, self.normalization, **tiling)

    def predict_proba(self, image: Array, **tiling: Unpack[Tiling]) -> Array:
        """(H, W) or (H, W, C) -> (H, W, K) probabilities, normalised as in training. `tiling` as for `predict`."""
        return predict_proba(self.model, image, self.normalization, **tiling)

    def evaluate(self, samples: Sequence[Sample], *, min_size: int | None = None, **tiling: Unpack[Tiling]) -> Scores:
        """IoU, Dice, pixel error and SEG on annotated images, normalised as in training and by the class names of training.

        min_size  predicted objects with fewer pixels are removed before SEG is measured; that of the training unless given
        tiling    as for `predict`
        """
        least = self.min_size if min_size is None else min_size
        return evaluate(
            self.model, samples, self.normalization, class_names=self.class_names, min_size=least, **tiling
        )  # fmt: skip


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, optimizer: Optimizer | None = None) -> None:
    """Write a checkpoint in one step: a crash leaves the old file or the new one. Same content, same bytes.

    With `optimizer` its state is stored, instead of what `checkpoint.optimizer` holds.

    Raises DataError if the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    moments = checkpoint.optimizer if optimizer is None else optimizer.state()
    arrays = {f"model.{name}": a for name, a in checkpoint.model.state().items()}
    arrays |= {f"optimizer.{name}": a for name, a in moments.items()}
    arrays = {name: np.ascontiguousarray(to_numpy(a)) for name, a in arrays.items()}  # safetensors stores memory, not values
    about = {
        "format": FORMAT,
        "spec": checkpoint.model.spec.to_dict(),
        "normalization": checkpoint.normalization.to_dict(),
        "class_names": list(checkpoint.class_names),
        "step": checkpoint.step,
        "best": checkpoint.best,
        "config": checkpoint.config,
        "reading": checkpoint.reading,
        "data": checkpoint.data,
    }
    try:
        with atomic_write(path) as temporary:
            save_file(arrays, temporary, metadata={"tinyunet": json.dumps(about, sort_keys=True)})
    except SafetensorError as error:
        raise DataError(f"{path}: cannot be written ({error}). Is there space left?") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint and build its network, in eval mode.

    Raises CheckpointError for a file that is missing, damaged, not one of ours, or from a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint. Training writes best.safetensors and last.safetensors.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({short(error)}). Is it complete?") from error
    if "tinyunet" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not one of tinyunet: it has no 'tinyunet' metadata.")
    try:
        about = json.loads(metadata["tinyunet"])
        if about["format"] > FORMAT:
            raise CheckpointError(f"{path}: written by a newer tinyunet (format {about['format']}, known {FORMAT}). Upgrade.")
        spec = UNetSpec(**about["spec"])
        state = {name[6:]: a for name, a in arrays.items() if name.startswith("model.")}
        if count_params(spec) > sum(a.size for a in state.values()):  # before memory is taken for what a spec merely claims
            raise CheckpointError(f"{path}: the spec asks for {count_params(spec):,} parameters, the file holds fewer.")
        if odd := next((name for name, a in state.items() if a.dtype.kind != "f"), None):
            raise TypeError(f"{odd} is {state[odd].dtype}, not floating point")
        if odd := next((name for name, a in state.items() if not np.isfinite(a).all()), None):  # all would be class 0
            raise CheckpointError(f"{path}: {odd} holds NaN or infinite numbers. Take an earlier checkpoint, or train again.")
        reading = about.get("reading", {})  # older files have none
        if not (isinstance(about["config"], dict) and isinstance(about["best"], dict | None) and isinstance(reading, dict)):
            raise TypeError("settings, best scores and the reading of masks are not dictionaries")
        if not all(isinstance(name, str) for name in about["class_names"]):
            raise TypeError(f"class names are {about['class_names']}")
        for what, number in (("step", about["step"]), ("min_size", about["config"].get("min_size", 0))):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise TypeError(f"{what} is {number!r}")
        model = UNet(spec).eval()
        model.load_state(state)
        return Checkpoint(
            model=model,
            normalization=Normalization.from_dict(about["normalization"]),
            class_names=tuple(about["class_names"]),
            step=about["step"],
            best=about["best"],
            config=about["config"],
            optimizer={name[10:]: a for name, a in arrays.items() if name.startswith("optimizer.")},
            reading=reading,
            data=str(about.get("data", "")),
        )
    except CheckpointError:
        raise
    except (TinyUNetError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: the description in this checkpoint is damaged ({short(error)}).") from error
