"""What a U-Net looks like, as plain data: `UNetSpec`, and the three networks that people mean by "the U-Net"."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from tinyunet.errors import ConfigError


@dataclass(frozen=True)
class UNetSpec:
    """Every choice that fixes a network's shapes and arithmetic. Stored in every checkpoint.

    channels         of the input image: 1 for grey, 3 for RGB
    classes          2 or more: softmax over that many logits; 1: one logit and a sigmoid
    base             channels of the first level; every level down doubles them
    depth            number of 2x2 poolings, hence of skips
    padding          "valid": 3x3 convolutions shrink the map by 2 px, skips are cropped (the paper);
                     "same": zero padding keeps sizes
    norm             None, or "batch" for batch norm between every 3x3 convolution and its ReLU
    dropout          rate after the last contracting level and after the bottom, in training ("at the end of the contracting
                     path", section 3.1; the paper gives no rate, the authors' release has 0.5 at these two places)
    relu_after_up    a ReLU behind every up-convolution (not in the paper's figure 1, but in the authors' release)
    last_up_halves   whether the last up-convolution halves its channels (the paper) or keeps them (the release)
    """

    channels: int = 1
    classes: int = 2
    base: int = 64
    depth: int = 4
    padding: Literal["valid", "same"] = "valid"
    norm: Literal["batch"] | None = None
    dropout: float = 0.0
    relu_after_up: bool = False
    last_up_halves: bool = True

    def __post_init__(self) -> None:
        for name in ("channels", "classes", "base", "depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"UNetSpec: {name} is {value!r}. Give a whole number of at least 1.")
        if self.depth > 12:
            raise ConfigError(f"UNetSpec: depth is {self.depth}. Give at most 12; even that needs images of 49,148 pixels.")
        if self.padding not in ("valid", "same"):
            raise ConfigError(f"UNetSpec: padding is {self.padding!r}. Choose 'valid' (the paper) or 'same'.")
        if self.norm not in (None, "batch"):
            raise ConfigError(f"UNetSpec: norm is {self.norm!r}. Choose None (the paper) or 'batch'.")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ConfigError(f"UNetSpec: dropout is {self.dropout!r}. Give a rate of at least 0 and below 1.")
        for name in ("relu_after_up", "last_up_halves"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"UNetSpec: {name} is {getattr(self, name)!r}. Give True or False.")

    def but(self, **changes: Any) -> UNetSpec:
        """The same network with some choices changed: `PAPER.but(base=16, classes=3)`.

        Raises ConfigError for a name that a spec does not have.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"UNetSpec has no {name!r}. It has: {', '.join(known)}.")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary of plain values, for JSON and TOML."""
        return asdict(self)


PAPER = UNetSpec(dropout=0.5)
"""Figure 1 of the paper: valid convolutions, 31,030,658 parameters, 572 -> 388 pixels."""

RELEASE = UNetSpec(dropout=0.5, relu_after_up=True, last_up_halves=False)
"""The network that the authors' release of 2015-10-02 really contains: 31,100,354 parameters."""

SAME_BN = UNetSpec(padding="same", norm="batch")
"""The widely taught Keras variant: zero padding, convolution -> batch norm -> ReLU. Not the paper's."""

PRESETS = {"paper": PAPER, "release": RELEASE, "same_bn": SAME_BN}


def preset(name: str, **changes: Any) -> UNetSpec:
    """One of `PRESETS` by name, with some choices changed: `preset("paper", base=16)`."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}. Choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name].but(**changes)
