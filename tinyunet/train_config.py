"""The settings of a training run: what `fit` takes, a checkpoint remembers and the table [train] of a TOML file holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from tinyunet.data.augment import Augment
from tinyunet.data.normalize import Mode, Normalization
from tinyunet.data.weight_map import PRESETS as WEIGHT_MAPS
from tinyunet.data.weight_map import WeightMap
from tinyunet.errors import ConfigError
from tinyunet.inference import MAX_MEM
from tinyunet.optim import ScheduleName, schedule

RESUMABLE = ("steps", "lr")
"""Settings that may change when a run is resumed; all others belong to the run."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. Every number here is our choice except where the paper is named.

    steps           optimizer steps in all
    batch           tiles a step (the paper: 1, "large input tiles over a large batch size")
    tile            side of the network's output in pixels, rounded up to a size that fits; 0: the size of the largest
                    image, but at most 388, the paper's
    optimizer       "adam", or "sgd" with momentum 0.99 as in the paper
    lr              learning rate (the paper gives none)
    momentum        for sgd
    weight_decay    lambda in g + lambda w
    schedule        "constant", "cosine", "poly" or "step", see `tinyunet.optim.schedule`
    warmup          steps in which the learning rate grows to its value
    weight_map      "ronneberger2015" (the paper's), "falk2019", "balance" (class balance only) or "none"
    w0, sigma, balance   of the weight map, if they shall differ from the preset's; balance "none" keeps the weight of the
                    borders, but lets rare classes be rare: outlines then lie where they are likeliest, not further out
    border          pixels of background to open between touching objects, even; 0 leaves them touching
    normalization   "image", "percentile" (for fluorescence), "dataset" or "none", see `Normalization`
    augment         see `Augment`
    validate_every  steps between validations; 0: ten in the run. The best one is that of the highest `quality`
    save_every      steps between checkpoints; 0: at every validation
    min_size        objects with fewer pixels are removed before SEG is measured, and by `tinyunet predict` unless told otherwise
    max_mem         MiB for a validation, beside the images and masks of the run, which are in memory all along
    seed            of the order of images, tiles, augmentation and dropout
    """

    steps: int = 1000
    batch: int = 1
    tile: int = 0
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.99
    weight_decay: float = 0.0
    schedule: ScheduleName = "cosine"
    warmup: int = 20
    weight_map: str = "ronneberger2015"
    w0: float | None = None
    sigma: float | None = None
    balance: Literal["frequency", "distance", "none"] | None = None
    border: int = 2
    normalization: Mode = "image"
    augment: Augment = field(default_factory=Augment)
    validate_every: int = 0
    save_every: int = 0
    min_size: int = 0
    max_mem: float = MAX_MEM
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("batch", 1), ("tile", 0), ("warmup", 0), ("validate_every", 0), ("save_every", 0),
                          ("min_size", 0), ("seed", 0), ("border", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"TrainConfig: {name} is {value!r}. Give a whole number of at least {low}.")
        if self.optimizer not in ("adam", "sgd"):
            raise ConfigError(f"TrainConfig: optimizer {self.optimizer!r} is neither 'adam' nor 'sgd'.")
        if self.weight_map not in (*WEIGHT_MAPS, "balance", "none"):
            names = ", ".join((*WEIGHT_MAPS, "balance", "none"))
            raise ConfigError(f"TrainConfig: weight_map {self.weight_map!r} is none of {names}.")
        for name in ("lr", "max_mem"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"TrainConfig: {name} is {getattr(self, name)}. Give a positive number.")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"TrainConfig: momentum is {self.momentum}. Give at least 0 and less than 1; the paper has 0.99.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"TrainConfig: weight_decay is {self.weight_decay}. Give 0 or a positive number.")
        if self.border % 2:
            raise ConfigError(f"TrainConfig: border is {self.border}. Give an even number: each of two objects gives half.")
        for name in ("w0", "sigma", "balance"):
            value = getattr(self, name)
            if value is not None and self.weight_map == "none":
                raise ConfigError(
                    f"TrainConfig: {name} is {value!r}, but weight_map 'none' has no {name}. Leave {name} out, or choose another "
                    f"weight_map, e.g. {'balance' if name == 'balance' else 'ronneberger2015'!r}."
                )
        if self.sigma is not None and self.weight_map == "balance" and not self.w0:
            raise ConfigError(
                f"TrainConfig: sigma is {self.sigma}, but weight_map 'balance' has w0 = 0, so that sigma changes nothing. "
                "Leave sigma out, or give w0 as well, e.g. 10."
            )
        # These raise for a name or a number that cannot be.
        schedule(self.schedule, 0, self.steps, self.warmup)
        Normalization(self.normalization)
        self.weights()

    def weights(self) -> WeightMap | None:
        """The weight map's settings, or None for weights of 1."""
        if self.weight_map == "none":
            return None
        settings = WeightMap(w0=0.0) if self.weight_map == "balance" else WEIGHT_MAPS[self.weight_map]
        changes = {key: getattr(self, key) for key in ("w0", "sigma", "balance") if getattr(self, key) is not None}
        return replace(settings, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; raises ConfigError for a name that does not exist."""
        return cls(**{**_known(cls, values), "augment": Augment(**_known(Augment, values.get("augment", {})))})


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{kind.__name__} has no setting {name!r}. It has: {', '.join(names)}.")
    return values
