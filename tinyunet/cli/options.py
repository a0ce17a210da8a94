"""Options that several commands share. Those that are settings say the default that the settings have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyunet.config import DataConfig, NetworkConfig
from tinyunet.data.augment import Augment
from tinyunet.train_config import TrainConfig


def _setting(kind: type, panel: str, name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    """An option for one field of a settings class. It is None unless given, so that it is known what to change in a file."""
    value = getattr(kind(), name)
    if not default and value is not None and value != "" and value != ():
        default = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    flag = "--" + name.replace("_", "-")
    flags = f"{flag}/--no-{flag[2:]}" if isinstance(value, bool) or metavar == "bool" else flag
    text = f"{help} (default {default})" if default else help
    return typer.Option(
        flags, help=text, metavar=None if metavar == "bool" else metavar, rich_help_panel=panel, show_default=False
    )


def of_data(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(DataConfig, "Data", name, help, metavar, default)


def of_network(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(NetworkConfig, "Network", name, help, metavar, default)


def of_train(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(TrainConfig, "Training", name, help, metavar, default)


def of_augment(name: str, help: str, metavar: str | None = None) -> Any:
    return _setting(Augment, "Augmentation", name, help, metavar)


Format = Annotated[str | None, of_data("format", "layout: auto, folder, tiff, npz, isbi2012, ctc, dsb2018", "NAME")]
Masks = Annotated[str | None, of_data("masks", "folder or TIFF of the masks, if they do not lie with the images", "PATH")]
_KIND = ("kind", "what masks hold: binary, classes or instances", "NAME")
_LABEL_MAP = ("label_map", "what they mean: number:class, or number:ignore", "0:0,255:1")
_INSTANCES = ("instances", "where objects come from: ids in the mask, or its connected pieces", "ids|components")
_PARTIAL = ("partial", "some objects carry no annotation: the rest is unknown, not background")
MaskKind = Annotated[str | None, of_data(*_KIND, "the format's")]
LabelMap = Annotated[str | None, of_data(*_LABEL_MAP, "as stored")]
ClassNames = Annotated[str | None, of_data("class_names", "names, background first", "NAME,NAME,...", "the format's")]
Instances = Annotated[str | None, of_data(*_INSTANCES, "none, or the format's")]
Partial = Annotated[bool | None, of_data(*_PARTIAL)]
TrainedKind = Annotated[str | None, of_data(*_KIND, "as in training")]
TrainedLabelMap = Annotated[str | None, of_data(*_LABEL_MAP, "as in training")]
TrainedInstances = Annotated[str | None, of_data(*_INSTANCES, "as in training")]
TrainedPartial = Annotated[bool | None, of_data(*_PARTIAL, default="as in training")]
DropAlpha = Annotated[bool | None, of_data("drop_alpha", "read partly transparent images as if they were not")]
Sequence_ = Annotated[str | None, of_data("sequence", "of a Cell Tracking Challenge set", "01|02", "01")]
Source = Annotated[str | None, of_data("source", "of its masks: drawn by people, or computed", "GT|ST", "GT")]

CheckpointFile = Annotated[Path, typer.Argument(help="best.safetensors or last.safetensors of a run", show_default=False)]
Averaging = Annotated[
    str,
    typer.Option(
        help="mean over views of the image: none; mirror4, its mirror images; dihedral8, flips and quarter turns; rotate7",
        metavar="NAME",
    ),
]
MaxMem = Annotated[float, typer.Option(help="MiB that the process may take once an image is read; tiles are made to fit")]
MaxMemBeside = Annotated[float, typer.Option(help="MiB that the process may take beside the data set; tiles are made to fit")]
TileIn = Annotated[
    int | None,
    typer.Option(
        help="side of the network's input in pixels, instead of the largest that --max-mem allows; --tile of train is its output",
        show_default=False,
    ),
]
MinSize = Annotated[
    int | None,
    typer.Option(help="leave out objects with fewer pixels (default as in training)", min=0, show_default=False),
]


Device = Annotated[
    str,
    typer.Option(help="where the network runs: cpu, cuda (a GPU), or auto, the GPU if there is one", metavar="cpu|cuda|auto"),
]


def given_options(values: dict[str, Any], *but: str) -> dict[str, Any]:
    """The options that were given, as settings."""
    given = {name: value for name, value in values.items() if value is not None and name not in but}
    if "class_names" in given:
        given["class_names"] = tuple(name.strip() for name in given["class_names"].split(","))
    return given
