"""One TOML file <-> everything that fixes a run: [data], [network], [train] and [augment].

    [data]
    path = "cells"
    label_map = "0:0,255:1"

    [network]
    base = 16

    [train]
    steps = 2000

What a file leaves out has its default; a name that does not exist is refused. `tinyunet train` writes the complete file into
the folder of every run, and that file alone repeats the run. The tables are flat, so that Python's tomllib reads them and the
thirty lines at the end of this file write them.
"""

from __future__ import annotations

import json
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from tinyunet.data.augment import Augment
from tinyunet.data.readers import Kind, parse_label_map, read_dataset
from tinyunet.data.sample import Dataset
from tinyunet.data.splits import block_split, random_split
from tinyunet.errors import ConfigError, DataError, short, shown
from tinyunet.files import atomic_write
from tinyunet.spec import UNetSpec, preset
from tinyunet.train_config import TrainConfig

Tables: TypeAlias = dict[str, dict[str, Any]]
"""What TOML is in Python: table -> key -> value."""

T = TypeVar("T")

LARGEST = 2**20
"""Bytes of a configuration file above which it is taken for something else. The number is ours; a complete one has 2000."""

PATHS = ("path", "masks", "val_data", "val_masks")
"""Settings that name files or folders."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, what the numbers in their masks mean, and which of them validate.

    path          a folder, an .npz file, or a multi-page TIFF; see `tinyunet.data.readers`
    format        "auto", or one of `tinyunet.data.readers.FORMATS`
    masks         folder or TIFF with the masks, if they do not lie with the images
    kind          "binary", "classes" or "instances": what a mask holds; None: the reader's default
    label_map     "0:0,255:1": number in the mask -> class, or "ignore"
    class_names   background first; () for the reader's
    instances     "ids" or "components": where objects come from
    partial       some objects carry no annotation
    drop_alpha    read partly transparent images as if they were not
    sequence      of a Cell Tracking Challenge set: "01" or "02"
    source        of its masks: "GT" or "ST"
    val           share of the images that validates; 0: none do
    split         "block": the last ones, "random": drawn with the run's seed
    val_data      images of their own to validate on, read like the others; `val` then does not count
    val_masks     their masks, if they do not lie with them
    """

    path: str = ""
    format: str = "auto"
    masks: str | None = None
    kind: Kind | None = None
    label_map: str | None = None
    class_names: tuple[str, ...] = ()
    instances: Literal["ids", "components"] | None = None
    partial: bool = False
    drop_alpha: bool = False
    sequence: str | None = None
    source: str | None = None
    val: float = 0.2
    split: Literal["block", "random"] = "block"
    val_data: str | None = None
    val_masks: str | None = None

    def read(self) -> Dataset:
        """All images at `path`."""
        return self._read(self.path, self.masks)

    def read_split(self, seed: int = 0) -> tuple[Dataset, Dataset]:
        """-> images to train on, images to validate on (perhaps none)

        Raises what the readers raise; DataError where the validation images have a class that the training images lack.
        """
        data = self.read()
        if self.val_data is not None:
            val = self._read(self.val_data, self.val_masks)
            if len(val.class_names) > len(data.class_names):
                raise DataError(
                    f"{self.val_data} has {len(val.class_names)} classes, the training images {len(data.class_names)}. "
                    "Name them all with class_names, or map the labels."
                )
            return data, Dataset(val.samples, data.class_names, val.name)
        if self.val == 0:
            return data, data[:0]
        if self.split == "random":
            return random_split(data, self.val, np.random.default_rng(seed))
        return block_split(data, self.val)

    def _read(self, path: str, masks: str | None) -> Dataset:
        if not path:
            raise ConfigError("no images are named. Give their folder, or path in the table [data].")
        given: dict[str, Any] = {
            "masks": masks, "kind": self.kind, "instances": self.instances, "sequence": self.sequence, "source": self.source,
            "label_map": None if self.label_map is None else parse_label_map(self.label_map),
            "class_names": self.class_names or None, "partial": self.partial or None, "drop_alpha": self.drop_alpha or None,
        }  # fmt: skip
        return read_dataset(path, self.format, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class NetworkConfig:
    """A preset with changes; None is the preset's choice, or what the data need (channels, classes). See `UNetSpec`.

    The default, base 16 and depth 3, is ours: 0.5 million parameters that a laptop trains in minutes. The paper has 64 and 4.
    """

    preset: str = "paper"
    channels: int | None = None
    classes: int | None = None
    base: int = 16
    depth: int = 3
    padding: Literal["valid", "same"] | None = None
    norm: Literal["none", "batch"] | None = None
    dropout: float | None = None
    relu_after_up: bool | None = None
    last_up_halves: bool | None = None

    def spec(self, channels: int = 1, classes: int = 2) -> UNetSpec:
        """The network for images of so many channels and classes."""
        given = {name: value for name, value in asdict(self).items() if name != "preset" and value is not None}
        if "norm" in given:
            given["norm"] = None if self.norm == "none" else self.norm
        return preset(self.preset, **{"channels": channels, "classes": classes, **given})

    def filled(self, spec: UNetSpec) -> NetworkConfig:
        """The same, with every choice written out."""
        return replace(self, **{**spec.to_dict(), "norm": spec.norm or "none"})


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run. `train` holds those of [train], and of [augment] as its `augment`."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_tables(cls, tables: Tables, where: str = "settings") -> RunConfig:
        """Raises ConfigError for a table, a name or a value that cannot be; `where` says whose fault it is."""
        for name in tables:
            if name not in _TABLES:
                raise ConfigError(f"{where}: there is no table [{short(name)}]. There are: {', '.join(_TABLES)}.")
            if not isinstance(tables[name], dict):
                raise ConfigError(f"{where}: {name} = {shown(tables[name])} is no table. Write [{name}] and its settings below.")
        values = {name: _checked(kind, tables.get(name, {}), f"{where}: [{name}]") for name, kind in _TABLES.items()}
        return cls(
            DataConfig(**values["data"]),
            NetworkConfig(**values["network"]),
            TrainConfig(**values["train"], augment=Augment(**values["augment"])),
        )

    def to_tables(self) -> Tables:
        """The inverse of `from_tables`; what is None is left out."""
        train = self.train.to_dict()
        augment = train.pop("augment")
        tables = {"data": asdict(self.data), "network": asdict(self.network), "train": train, "augment": augment}
        return {name: {key: value for key, value in table.items() if value is not None} for name, table in tables.items()}


_TABLES: dict[str, type] = {"data": DataConfig, "network": NetworkConfig, "train": TrainConfig, "augment": Augment}


def read_tables(path: str | Path) -> Tables:
    """A TOML file -> its tables, every name and value checked. Paths in it count from the folder that it lies in.

    Raises ConfigError for a file that is missing, no TOML, or holds something unknown.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # of a device one could read for ever
            raise ConfigError(f"{path}: no file. Give a TOML file, e.g. the config.toml of a run.")
        if (size := path.stat().st_size) > LARGEST:
            raise ConfigError(f"{path}: {size} bytes are no configuration; the limit is {LARGEST}. Is it the right file?")
        tables: Tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error.strerror}). Check the name.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError; tables in tables without end
        raise ConfigError(f"{path}: not a TOML file ({short(error)}).") from error
    try:
        RunConfig.from_tables(tables, str(path))
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {error}") from error  # of settings that do not go together
    data = tables.get("data", {})
    for name in PATHS:
        if data.get(name):
            data[name] = str(path.parent / data[name])
    return tables


def write_config(path: str | Path, config: RunConfig) -> None:
    """Write a TOML file that repeats the run from anywhere: paths in it are absolute. Whole or not at all."""
    tables = config.to_tables()
    for name in PATHS:
        if tables["data"].get(name):
            tables["data"][name] = str(Path(tables["data"][name]).absolute())
    with atomic_write(path) as temporary:
        temporary.write_text("# Settings of a tinyunet run. Repeat it: tinyunet train --config THIS_FILE --out NEW_FOLDER\n\n"
                             + to_toml(tables), encoding="utf-8")  # fmt: skip


def put(tables: Tables, options: Mapping[str, Any]) -> Tables:
    """Tables with single settings changed, each in the table where its name belongs (no two tables share a name).

    Raises ConfigError for a name that is in none.
    """
    changed = {name: dict(tables.get(name, {})) for name in _TABLES}
    for key, value in options.items():
        for name, kind in _TABLES.items():
            if key in _names(kind):
                changed[name][key] = value
                break
        else:
            raise ConfigError(f"there is no setting {key!r}.")
    return changed


def _names(kind: type) -> list[str]:
    return [f.name for f in fields(kind) if f.name != "augment"]  # a table of its own


def _checked(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values, if the dataclass has these names and takes values of these types; TOML says 1 where Python says 1.0."""
    hints, known = get_type_hints(kind), _names(kind)
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} has no setting {shown(name)}. It has: {', '.join(known)}.")
    return {name: _fitted(hints[name], value, f"{where} {name}") for name, value in values.items()}


def _fitted(hint: Any, value: Any, where: str) -> Any:
    """The value as the type that the hint asks for; ConfigError for one that does not fit."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where} is {shown(value)}. Choose one of: {', '.join(map(str, get_args(hint)))}.")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f'{where} is {shown(value)}. Give a list of texts: ["background", "cell"].')
        return tuple(value)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}[hint]
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {shown(value)}. Give {wanted}.")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where} is {shown(value)}, with a null character in it. Leave that out.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # TOML's own limit
        raise ConfigError(f"{where} is {shown(value)}. Give a number of at most 64 bits.")
    return hint(value)


# ---------------------------------------------------------------------------------------------------------------------
# Writing TOML; Python reads it but does not write it
# ---------------------------------------------------------------------------------------------------------------------


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Flat tables of texts, numbers, booleans and lists of them as TOML; `tomllib.loads` gives the same back.

    Raises ConfigError for a value of another type.
    """
    return "\n".join(f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
                     for name, table in tables.items())  # fmt: skip


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return "nan" if math.isnan(value) else repr(value)
        case str():
            return _quoted(value)
        case list() | tuple():
            return _bracketed(value)
    raise ConfigError(f"TOML: {value!r} of type {type(value).__name__} cannot be written. Use texts, numbers, booleans or lists.")


def _quoted(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"TOML: {text!r} is no valid Unicode. Rename the file or folder.") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for this one


def _bracketed(values: Iterable[Any]) -> str:
    return "[" + ", ".join(_toml(value) for value in values) + "]"
