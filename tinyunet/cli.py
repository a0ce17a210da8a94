"""The command `tinyunet`: demo, train, predict, evaluate, shapes. The only file that prints.

Exit codes: 0 done; 1 training went wrong (the loss is not finite); 2 a wrong option, configuration or image; 130 stopped with
Ctrl-C. What tinyunet refuses on purpose is one line on stderr, everything else a traceback.

Every command does its work through functions that notebooks and scripts can call as well. What is here is asking and telling.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import tinyunet
from tinyunet import plot, shapes
from tinyunet.backend import Array
from tinyunet.checkpoint import Checkpoint, load_checkpoint
from tinyunet.config import DataConfig, NetworkConfig, RunConfig, Tables, put, read_tables, write_config
from tinyunet.data.augment import Augment
from tinyunet.data.images import SUFFIXES, read_image, read_stack, write_image, write_labels
from tinyunet.data.instances import components
from tinyunet.data.sample import Sample
from tinyunet.demo import FULL, QUICK, Demo, Outcome
from tinyunet.errors import ConfigError, DataError, TinyUNetError, TrainingError
from tinyunet.files import atomic_write
from tinyunet.inference import MAX_MEM, Average, instances_of, predict, predict_proba
from tinyunet.metrics import Agreement, Scores, evaluate_pair, total, v_info, v_rand, warping_error
from tinyunet.spec import UNetSpec
from tinyunet.train import StepRecord, TrainConfig, fit, tile_size
from tinyunet.unet import UNet

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_WIDE = 100
"""Columns of a table that no terminal shows: a pipe has no width of its own."""

_out = Console(highlight=False, width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", _WIDE)))
_err = Console(highlight=False, stderr=True)


def main() -> None:
    """Run the command line; `pyproject.toml` and `python -m tinyunet` point here."""
    signal.signal(signal.SIGINT, _signals)
    signal.signal(signal.SIGTERM, _signals)
    try:
        app(prog_name="tinyunet")
    except TinyUNetError as error:
        _err.print(Text("error: " + " ".join(str(error).splitlines()), style="red"), soft_wrap=True)
        sys.exit(1 if isinstance(error, TrainingError) else 2)
    except _StopError:
        _err.print("stopped.")
        sys.exit(130)


def _say(text: str = "", style: str = "") -> None:
    """One line as it is: neither wrapped nor coloured by what it says."""
    _out.print(Text(text, style=style), soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C, and progress
# ---------------------------------------------------------------------------------------------------------------------


class _StopError(BaseException):
    """Ctrl-C, or a polite kill. No Exception, so that nothing on the way takes it for an error."""


class _Signals:
    """Ctrl-C and SIGTERM: stop at once; or, while `patient`, finish the step in progress first, unless asked twice."""

    patient = False
    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.patient or self.asked:
            raise _StopError
        self.asked = True
        # Not through Rich: a signal may come in the middle of its printing.
        os.write(2, b"\nfinishing the step in progress, then saving; press Ctrl-C again to stop at once\n")


_signals = _Signals()


class _Meter:
    """How far, how fast, how long still: a bar on a terminal; elsewhere a line every tenth of the way."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.started, self.before, self.tenth = 0.0, -1.0, -1
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}")]
        self.bar = Progress(*columns, console=_out) if _out.is_terminal else None

    def __enter__(self) -> _Meter:
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
        each = (time.perf_counter() - self.started) / max(done - self.before, 1e-9)  # seconds a unit
        left = f"{_time((total - done) * each)} left" if done < total else f"took {_time(time.perf_counter() - self.started)}"
        speed = f"{each:.2f} s/{self.unit}" if each > 0.5 else f"{1 / each:.1f} {self.unit}s/s"
        line = f"{int(done):>{len(str(total))}}/{total}  " + (f"{note}  " if note else "") + f"{speed}  {left}"
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, line=line)
        elif (tenth := int(10 * done / total)) > self.tenth:
            self.tenth = tenth
            _say(f"{self.what}  {line}")


def _time(seconds: float) -> str:
    """ "42 s", "3 min 05 s", "2 h 10 min" """
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


def _table(*columns: str, left: int = 1) -> Table:
    """A plain table; the first `left` columns are texts, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return table


def _new_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: the folder cannot be made ({error.strerror}). Choose another with --out.") from error
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Options that several commands share. Those that are settings say the default that the settings have.
# ---------------------------------------------------------------------------------------------------------------------


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


def _data(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(DataConfig, "Data", name, help, metavar, default)


def _network(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(NetworkConfig, "Network", name, help, metavar, default)


def _train(name: str, help: str, metavar: str | None = None, default: str = "") -> Any:
    return _setting(TrainConfig, "Training", name, help, metavar, default)


def _augment(name: str, help: str, metavar: str | None = None) -> Any:
    return _setting(Augment, "Augmentation", name, help, metavar)


Format = Annotated[str | None, _data("format", "layout: auto, folder, tiff, npz, isbi2012, ctc, dsb2018", "NAME")]
Masks = Annotated[str | None, _data("masks", "folder or TIFF of the masks, if they do not lie with the images", "PATH")]
MaskKind = Annotated[str | None, _data("kind", "what masks hold: binary, classes or instances", "NAME", "the format's")]
LabelMap = Annotated[str | None, _data("label_map", "what they mean: number:class, or number:ignore", "0:0,255:1", "as stored")]
ClassNames = Annotated[str | None, _data("class_names", "names, background first", "NAME,NAME,...", "the format's")]
Instances = Annotated[
    str | None,
    _data(
        "instances",
        "where objects come from: ids in the mask, or its connected pieces",
        "ids|components",
        "none, or the format's",
    ),
]
Partial = Annotated[bool | None, _data("partial", "some objects carry no annotation: the rest is unknown, not background")]
DropAlpha = Annotated[bool | None, _data("drop_alpha", "read partly transparent images as if they were not")]
Sequence_ = Annotated[str | None, _data("sequence", "of a Cell Tracking Challenge set", "01|02", "01")]
Source = Annotated[str | None, _data("source", "of its masks: drawn by people, or computed", "GT|ST", "GT")]

CheckpointFile = Annotated[Path, typer.Argument(help="best.safetensors or last.safetensors of a run", show_default=False)]
Averaging = Annotated[
    str,
    typer.Option(
        help="mean over views of the image: none; mirror4, its mirror images; dihedral8, flips and quarter turns; rotate7",
        metavar="NAME",
    ),
]
MaxMem = Annotated[float, typer.Option(help="MiB that the whole process may take; tiles are made to fit")]
Tile = Annotated[
    int | None,
    typer.Option(help="side of the network's input in pixels, instead of the largest that --max-mem allows", show_default=False),
]


def _given(values: dict[str, Any], *but: str) -> dict[str, Any]:
    """The options that were given, as settings."""
    given = {name: value for name, value in values.items() if value is not None and name not in but}
    if "class_names" in given:
        given["class_names"] = tuple(name.strip() for name in given["class_names"].split(","))
    return given


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet
# ---------------------------------------------------------------------------------------------------------------------


def _print_version(wanted: bool) -> None:
    if wanted:
        _say(f"tinyunet {tinyunet.__version__}")
        raise typer.Exit


@app.callback(epilog="Start here: tinyunet demo --quick")
def tinyunet_(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """U-Net from scratch: train on your own microscope images, segment them, measure the result."""


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet demo
# ---------------------------------------------------------------------------------------------------------------------


@app.command("demo", epilog="Example: tinyunet demo --quick --out tinyunet-demo")
def demo_(
    quick: Annotated[bool, typer.Option("--quick", help="fewer and smaller steps: less than 40 seconds")] = False,
    out: Annotated[Path, typer.Option(help="folder for everything; that of an earlier demo is replaced")] = Path("tinyunet-demo"),
    kind: Annotated[
        str, typer.Option(help="which cells; dic are crowded, and two minutes are short for them", metavar="phase|dic|em")
    ] = "phase",
    seed: Annotated[int, typer.Option(help="other cells, other first weights", min=0)] = 0,
) -> None:
    """Draw cells, train on them for about two minutes, segment images that the network has not seen.

    Needs no images and no network connection.
    """
    demonstration = Demo(out, kind, seed, QUICK if quick else FULL)
    plan = demonstration.plan
    n_train, n_val, n_test = demonstration.draw()
    spec = demonstration.spec
    _say(f"data     {n_train} drawn images ({kind}) of {plan.size} px to train on, {n_val} to validate, {n_test} to test")
    _say(f"network  {_described(spec)}: {shapes.count_params(spec):,} parameters; the paper's has 31,030,658")
    last = _follow(demonstration.train(), "training", plan.train.steps)
    if last is None or last.step < plan.train.steps:
        _say(f"Interrupted. Go on with: {shlex.join(['tinyunet', 'train', '--resume', '--out', str(out / 'run')])}")
        raise typer.Exit(130)
    with _Meter("testing ", "image") as meter:
        outcome = demonstration.finish(meter.show)
    _print_outcome(outcome, plan.test)
    _say()
    _say(f"Look at  {outcome.pictures[0]}  (image, truth, loss weight, probability, prediction, errors)")
    _say(f"         {outcome.pictures[1]}  (loss, learning rate, scores)")
    _say()
    _say(f"Your own images, laid out as in {out / 'data'} (masks that number their objects):")
    _say("    tinyunet train MY_FOLDER --kind instances --out runs/first")
    _say("Segment images with the network just trained:")
    command = [
        "tinyunet",
        "predict",
        str(demonstration.best),
        str(out / "test" / "images"),
        "--overlay",
        "--out",
        str(out / "predictions"),
    ]
    _say(f"    {shlex.join(command)}")


def _print_outcome(outcome: Outcome, tested: int) -> None:
    names = outcome.scores.class_names
    table = _table("not seen in training", *(f"IoU {name}" for name in names), "pixel error", "SEG", "objects")
    height, width = outcome.large_size
    for what, s in (
        (f"{tested} test images", outcome.scores),
        (f"1 of {height} x {width} px, in {outcome.tiles} tiles", outcome.large),
    ):
        table.add_row(what, *map(_number, s.iou), _number(s.pixel_error), _number(s.seg), str(s.seg_scores.size))
    _out.print(table)


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet train
# ---------------------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: tinyunet train cells --label-map 0:0,255:1 --steps 2000 --out runs/first")
def train(
    path: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="folder with images/ and masks/, .npz, TIFF, or data set", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the run (default runs/ and the name of DATA)", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in --out; its settings are in its config.toml")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="settings from a TOML file; options given here win", show_default=False)
    ] = None,
    format: Format = None,
    masks: Masks = None,
    kind: MaskKind = None,
    label_map: LabelMap = None,
    class_names: ClassNames = None,
    instances: Instances = None,
    partial: Partial = None,
    drop_alpha: DropAlpha = None,
    sequence: Sequence_ = None,
    source: Source = None,
    val: Annotated[float | None, _data("val", "share of the images that validates; 0: none", "FRACTION")] = None,
    split: Annotated[str | None, _data("split", "which: the last ones, or drawn at random", "block|random")] = None,
    val_data: Annotated[str | None, _data("val_data", "other images that validate", "PATH")] = None,
    val_masks: Annotated[str | None, _data("val_masks", "their masks", "PATH")] = None,
    preset: Annotated[str | None, _network("preset", "which U-Net: paper, release or same_bn", "NAME")] = None,
    channels: Annotated[int | None, _network("channels", "of an image", default="the data's")] = None,
    classes: Annotated[int | None, _network("classes", "with background; 1: one sigmoid", default="the data's")] = None,
    base: Annotated[int | None, _network("base", "channels of the first level; the paper: 64")] = None,
    depth: Annotated[int | None, _network("depth", "number of poolings; the paper: 4")] = None,
    padding: Annotated[str | None, _network("padding", "of the 3x3 convolutions", "valid|same", "the preset's")] = None,
    norm: Annotated[str | None, _network("norm", "small networks learn faster with batch", "none|batch", "the preset's")] = None,
    dropout: Annotated[float | None, _network("dropout", "rate at the bottom", default="the preset's; paper: 0.5")] = None,
    relu_after_up: Annotated[bool | None, _network("relu_after_up", "ReLU after up-convolutions", "bool", "the preset's")] = None,
    last_up_halves: Annotated[
        bool | None, _network("last_up_halves", "the last up-convolution halves its channels", "bool", "the preset's")
    ] = None,
    steps: Annotated[int | None, _train("steps", "optimizer steps in all")] = None,
    batch: Annotated[int | None, _train("batch", "tiles a step")] = None,
    tile: Annotated[
        int | None, _train("tile", "side of the network's output in pixels", default="the largest image's, at most 388")
    ] = None,
    optimizer: Annotated[str | None, _train("optimizer", "how to step", "adam|sgd")] = None,
    lr: Annotated[float | None, _train("lr", "learning rate; the paper gives none")] = None,
    momentum: Annotated[float | None, _train("momentum", "of sgd")] = None,
    weight_decay: Annotated[float | None, _train("weight_decay", "pull of the weights towards 0")] = None,
    schedule: Annotated[str | None, _train("schedule", "of the learning rate: constant, cosine, poly or step", "NAME")] = None,
    warmup: Annotated[int | None, _train("warmup", "steps in which the learning rate grows")] = None,
    weight_map: Annotated[
        str | None, _train("weight_map", "which pixels count: ronneberger2015, falk2019, balance or none", "NAME")
    ] = None,
    w0: Annotated[float | None, _train("w0", "its weight between touching cells", default="the map's; 2015: 10")] = None,
    sigma: Annotated[float | None, _train("sigma", "its width in pixels", default="the map's; 2015: 5")] = None,
    border: Annotated[int | None, _train("border", "pixels to open between touching objects, even")] = None,
    normalization: Annotated[str | None, _train("normalization", "of grey values", "image|dataset|none")] = None,
    validate_every: Annotated[
        int | None, _train("validate_every", "steps between validations", default="a tenth of the steps")
    ] = None,
    save_every: Annotated[int | None, _train("save_every", "steps between checkpoints", default="at every validation")] = None,
    min_size: Annotated[int | None, _train("min_size", "objects with fewer pixels do not count in SEG")] = None,
    max_mem: Annotated[float | None, _train("max_mem", "MiB for a validation")] = None,
    seed: Annotated[int | None, _train("seed", "of everything random")] = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="all of the following, or none (default yes)",
            rich_help_panel="Augmentation",
            show_default=False,
        ),
    ] = None,
    shift: Annotated[float | None, _augment("shift", "pixels along each axis")] = None,
    rotation: Annotated[float | None, _augment("rotation", "degrees; 180 is any angle")] = None,
    scale: Annotated[float | None, _augment("scale", "up to this share larger or smaller")] = None,
    flips: Annotated[bool | None, _augment("flips", "mirror each axis every second time")] = None,
    elastic: Annotated[float | None, _augment("elastic", "pixels by which nodes of a grid move, standard deviation")] = None,
    grid: Annotated[int | None, _augment("grid", "nodes of that grid along each axis")] = None,
    gain: Annotated[float | None, _augment("gain", "contrast, up to this share")] = None,
    offset: Annotated[float | None, _augment("offset", "brightness, in standard deviations")] = None,
    gamma: Annotated[float | None, _augment("gamma", "grey values to a power of up to 1 + this")] = None,
    order: Annotated[int | None, _augment("order", "interpolation: 1 linear, 3 cubic", "1|3")] = None,
) -> None:
    """Train a network on annotated images.

    The run's folder receives best.safetensors and last.safetensors, log.csv, curves.png, and config.toml, which repeats the
    run. Ctrl-C saves and says how to go on. The default network is small, for a laptop; the paper's is --base 64 --depth 4.
    """
    options = _given(locals(), "out", "resume", "config", "augment")
    settings, folder = _open_run(out, resume, config, options, augment)
    train_data, val_data_ = settings.data.read_split(settings.train.seed)
    spec = settings.network.spec(train_data[0].image.shape[-1], len(train_data.class_names))
    model = UNet(spec, rng=settings.train.seed)
    if not resume:
        _new_folder(folder)
        write_config(folder / "config.toml", RunConfig(settings.data, settings.network.filled(spec), settings.train))

    tile_in, tile_out = tile_size(model, train_data, settings.train)
    memory = shapes.training_bytes(spec, tile_in, batch=settings.train.batch, moments=1 + (settings.train.optimizer == "adam"))
    names = ", ".join(train_data.class_names)
    _say(f"data     {len(train_data)} images to train on, {len(val_data_)} to validate; classes {names}")
    _say(f"network  {_described(spec)}: {shapes.count_params(spec):,} parameters")
    _say(f"step     {settings.train.batch} x {tile_in} px in, {tile_out} px out, about {memory / shapes.MIB:,.0f} MiB")
    _say(f"run      {folder}")
    records = fit(model, train_data, val_data_, settings.train, out=folder, resume=resume)
    last = _follow(records, "training", settings.train.steps)

    if last is None:  # a finished run was resumed
        _say(f"This run has all its {settings.train.steps} steps. For more, start a new run with more --steps.")
        return
    if (folder / "log.csv").exists():
        plot.save(plot.training_curves(plot.read_log(folder / "log.csv")), folder / "curves.png")
    if last.step < settings.train.steps:
        _say(f"Interrupted after step {last.step} of {settings.train.steps}. Saved {folder / 'last.safetensors'}. Go on with:")
        _say(f"    {shlex.join(['tinyunet', 'train', '--resume', '--out', str(folder)])}")
        raise typer.Exit(130)
    best = folder / ("best.safetensors" if (folder / "best.safetensors").exists() else "last.safetensors")
    if last.scores is not None:
        _say(f"Last validation: IoU {last.scores.mean_iou:.4f}" + _seg(last.scores) + f". Curves: {folder / 'curves.png'}")
    _say("Segment images with it:")
    _say(f"    {shlex.join(['tinyunet', 'predict', str(best), 'IMAGES', '--out', str(folder / 'predictions')])}")


def _open_run(
    out: Path | None, resume: bool, config: Path | None, options: dict[str, Any], augment: bool | None
) -> tuple[RunConfig, Path]:
    """Settings and folder of a run: options win over the file, the file wins over defaults."""
    if resume:
        if out is None:
            raise ConfigError("train: --resume goes on with a run. Say which, e.g. --resume --out runs/first.")
        if config is not None:
            raise ConfigError(f"train: --resume takes its settings from {out / 'config.toml'}. Leave --config out.")
        if not (out / "config.toml").is_file():
            raise ConfigError(f"train: {out} holds no run: there is no {out / 'config.toml'}. Leave --resume out to start one.")
        config = out / "config.toml"
    tables: Tables = read_tables(config) if config is not None else {}
    if augment is not None:
        tables = {**tables, "augment": asdict(Augment() if augment else Augment.none())}
    settings = RunConfig.from_tables(put(tables, options), "options")
    folder = out or _free_folder(Path("runs") / Path(settings.data.path).resolve().stem)
    if not resume and (folder / "last.safetensors").exists():
        raise ConfigError(
            f"train: {folder} already holds a run. Go on with it by --resume --out {folder}, or choose another --out."
        )
    return settings, folder


def _free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that is not there yet."""
    n, free = 1, folder
    while free.exists():
        n += 1
        free = folder.with_name(f"{folder.name}-{n}")
    return free


def _follow(records: Iterator[StepRecord], what: str, steps: int) -> StepRecord | None:
    """Show a run as it goes; on Ctrl-C let the step finish and close the run, which saves it. -> the last record"""
    last, loss, iou = None, float("nan"), ""
    _signals.patient, _signals.asked = True, False
    try:
        with _Meter(what, "step") as meter:
            for last in records:
                loss = last.loss if np.isnan(loss) else 0.9 * loss + 0.1 * last.loss
                if last.scores is not None:
                    iou = f"  IoU {last.scores.mean_iou:.3f}"
                meter.show(last.step, steps, f"loss {loss:.4f}{iou}")
                for note in last.notes:
                    _say(f"step {last.step}: {note}")
                if _signals.asked and last.step < steps:
                    cast(Any, records).close()  # a generator; closing it saves
                    break
    finally:
        _signals.patient = False
    return last


def _described(spec: UNetSpec) -> str:
    return (
        f"U-Net of base {spec.base}, depth {spec.depth}, {spec.padding} padding"
        + (", batch norm" if spec.norm else "")
        + (f", dropout {spec.dropout:g}" if spec.dropout else "")
    )


def _seg(scores: Scores) -> str:
    n = scores.seg_scores.size
    return f", SEG {scores.seg:.4f} of {n} object{'s' * (n != 1)}" if n else ""


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet predict
# ---------------------------------------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """Which files `predict` writes for an image, and how they are called."""

    labels: bool
    instances: bool
    proba: bool
    overlay: bool
    suffix: str

    def paths(self, folder: Path, name: str) -> dict[str, Path]:
        endings = {"labels": f".{self.suffix}", "instances": f".{self.suffix}", "proba": ".npy", "overlay": ".png"}
        return {what: folder / f"{name}_{what}{ending}" for what, ending in endings.items() if getattr(self, what)}


@app.command("predict", epilog="Example: tinyunet predict runs/first/best.safetensors images --out segmented --min-size 50")
def predict_(
    checkpoint: CheckpointFile,
    images: Annotated[
        list[Path], typer.Argument(help="image files, and folders of them; a TIFF may have many pages", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("predictions"),
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="NAME_labels: class of every pixel, 0, 1, ... (8 bits)")
    ] = True,
    instances: Annotated[
        bool, typer.Option("--instances/--no-instances", help="NAME_instances: object of every pixel (16 bits)")
    ] = True,
    proba: Annotated[bool, typer.Option("--proba", help="NAME_proba.npy: probabilities (H, W, classes) in float32")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="NAME_overlay.png: the image with outlines, to look at")] = False,
    suffix: Annotated[str, typer.Option(help="format of labels and instances", metavar="png|tif")] = "png",
    min_size: Annotated[int, typer.Option(help="remove objects with fewer pixels", min=0)] = 0,
    average: Averaging = "none",
    max_mem: MaxMem = MAX_MEM,
    tile: Tile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace results that are there already")] = False,
) -> None:
    """Segment images of any size.

    Large images go through the network in tiles that agree with one another exactly; there are no seams. Labels look black in
    most viewers, since their numbers are small: --overlay makes a picture for people.
    """
    wanted = _Wanted(labels, instances, proba, overlay, suffix)
    if not (labels or instances or proba or overlay):
        raise ConfigError("predict: nothing is to be written. Ask for --labels, --instances, --proba or --overlay.")
    if suffix not in ("png", "tif"):
        raise ConfigError(f"predict: --suffix {suffix} is neither png nor tif, which lose nothing.")
    files = _image_files(images)
    for file in files:
        for name in (file.stem, _page_name(file, 0)):
            _check_targets(wanted.paths(out, name), files, overwrite)
    trained = load_checkpoint(checkpoint)
    _new_folder(out)
    written: list[Path] = []
    pages = 0
    with _Meter(f"{len(files)} images" if len(files) > 1 else files[0].name, "image" if len(files) > 1 else "tile") as meter:
        for i, file in enumerate(files):
            stack = read_stack(file) if file.suffix.lower() in (".tif", ".tiff") else read_image(file)[None]
            pages += len(stack)
            for t, image in enumerate(stack):
                paths = wanted.paths(out, file.stem if len(stack) == 1 else _page_name(file, t))
                _check_targets(paths, files, overwrite)

                def show(done: int, n: int, i: int = i, t: int = t, count: int = len(stack), name: str = file.name) -> None:
                    if len(files) > 1:
                        meter.show(i + (t + done / n) / count, len(files), name)
                    else:
                        meter.show(t * n + done, count * n)

                memory = max_mem - (stack.nbytes - image.nbytes) / shapes.MIB
                written += _segment(trained, image, paths, cast(Average, average), memory, tile, min_size, show)
    plural = "s" * (pages != 1)
    _say(f"{pages} image{plural} segmented; {len(written)} files in {out}, e.g. {written[0].name}")


def _segment(
    trained: Checkpoint,
    image: Array,
    paths: dict[str, Path],
    average: Average,
    max_mem: float,
    tile: int | None,
    min_size: int,
    show: Any,
) -> list[Path]:
    """One image through the network, and what is wanted of it to files."""
    how: dict[str, Any] = {"tile": tile, "max_mem": max_mem, "average": average, "progress": show}
    if "proba" in paths:
        proba = predict_proba(trained.model, image, trained.normalization, **how)
        with atomic_write(paths["proba"]) as temporary:
            np.save(temporary, proba)
        labels = np.empty(image.shape[:2], np.uint8 if proba.shape[-1] <= 256 else np.uint16)
        for row, p in zip(labels, proba, strict=True):  # by rows: argmax makes 8 bytes a pixel
            row[:] = p.argmax(-1)
        del proba
    else:
        labels = predict(trained.model, image, trained.normalization, **how)
    if "labels" in paths:
        write_labels(paths["labels"], labels)
    if "instances" in paths or "overlay" in paths:
        objects = instances_of(labels, min_size)
        if "instances" in paths:
            if (count := int(objects.max())) > 65535:
                raise DataError(
                    f"{paths['instances']}: {count} objects are more than 16 bits can number. Remove specks with --min-size."
                )
            write_image(paths["instances"], objects.astype(np.uint16))
        if "overlay" in paths:
            side = max(image.shape[:2])  # a panel is 4 inches: at least a dot for a pixel, up to 2400
            plot.save(
                plot.overlay(image if image.shape[-1] in (1, 3) else image[..., :1], objects),
                paths["overlay"],
                dpi=min(max(side / 4, 150), 600),
            )
    return list(paths.values())


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Files and the image files of folders, each once; two with the same name would be one result."""
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            found = sorted(
                f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file() and not f.name.startswith(".")
            )
            if not found:
                raise DataError(f"predict: {path} holds no image files ({', '.join(SUFFIXES)}).")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"predict: there is no file or folder {path}. Check the name.")
    files = list(dict.fromkeys(files))
    by_name: dict[str, Path] = {}
    for file in files:
        if (other := by_name.setdefault(file.stem, file)) != file:
            raise DataError(f"predict: {other} and {file} would both be written as {file.stem}. Segment them into two folders.")
    return files


def _page_name(file: Path, t: int) -> str:
    return f"{file.stem}_{t:03d}"


def _check_targets(paths: dict[str, Path], inputs: Sequence[Path], overwrite: bool) -> None:
    """Results never replace an image that is read, and other files only when told to."""
    sources = {file.resolve() for file in inputs}
    for path in paths.values():
        if path.resolve() in sources:
            raise DataError(f"predict: {path} is one of the images, and a result would be written over it. Choose another --out.")
        if path.exists() and not overwrite:
            raise DataError(f"predict: {path} is there already. Give --overwrite, or another --out.")


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet evaluate
# ---------------------------------------------------------------------------------------------------------------------


class _Topology(NamedTuple):
    """The measures of the EM challenge, of one image."""

    rand: Agreement
    info: Agreement
    warping: float


@app.command(epilog="Example: tinyunet evaluate runs/first/best.safetensors test --label-map 0:0,255:1 --each --json scores.json")
def evaluate(
    checkpoint: CheckpointFile,
    path: Annotated[str, typer.Argument(metavar="DATA", help="annotated images, as for train", show_default=False)],
    format: Format = None,
    masks: Masks = None,
    kind: MaskKind = None,
    label_map: LabelMap = None,
    class_names: ClassNames = None,
    instances: Instances = None,
    partial: Partial = None,
    drop_alpha: DropAlpha = None,
    sequence: Sequence_ = None,
    source: Source = None,
    average: Averaging = "none",
    min_size: Annotated[
        int | None,
        typer.Option(help="predicted objects with fewer pixels do not count (default as in training)", min=0, show_default=False),
    ] = None,
    max_mem: MaxMem = MAX_MEM,
    tile: Tile = None,
    em: Annotated[
        bool, typer.Option("--em", help="also the EM challenge's: foreground-restricted Rand and information, warping error")
    ] = False,
    each: Annotated[bool, typer.Option("--each", help="a line for every image")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write all numbers to a file", metavar="FILE", show_default=False)
    ] = None,
) -> None:
    """Measure a network on annotated images: IoU and Dice by class, pixel error, SEG.

    Pixels and objects of all images count together. SEG (the mean over annotated objects of their IoU, 0 where none matches)
    needs masks that tell objects apart.
    """
    data_options = _given(locals(), "checkpoint", "average", "min_size", "max_mem", "tile", "em", "each", "json_file")
    data = RunConfig.from_tables(put({}, data_options), "options").data.read()
    trained = load_checkpoint(checkpoint)
    least = trained.config.get("min_size", 0) if min_size is None else min_size
    scores: dict[str, Scores] = {}
    topology: dict[str, _Topology] = {}
    if em and any(sample.instances is None for sample in data):
        raise ConfigError(
            "evaluate: --em compares objects, and these masks tell none apart. Add --instances components, "
            "or --kind instances if every object has its own number."
        )
    with _Meter("measuring", "image") as meter:
        for i, sample in enumerate(data):
            labels = predict(
                trained.model, sample.image, trained.normalization, tile=tile, max_mem=max_mem, average=cast(Average, average)
            )
            objects = instances_of(labels, least)
            scores[sample.name] = evaluate_pair(
                labels,
                sample.labels,
                sample.instances,
                class_names=trained.class_names,
                instances=objects if sample.instances is not None else None,
            )
            if em:
                topology[sample.name] = _measure_topology(labels, sample)
            meter.show(i + 1, len(data))
    everything = total(scores.values())
    if each:
        _print_each(scores, topology)
    _print_scores(everything, topology)
    if json_file is not None:
        numbers: dict[str, Any] = {"checkpoint": str(checkpoint), "data": path, "images": {}, "all": everything.as_dict()}
        for name, one in scores.items():
            numbers["images"][name] = one.as_dict() | (_plain_topology([topology[name]]) if em else {})
        if em:
            numbers["all"] |= _plain_topology(list(topology.values()))
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        _say(f"Written to {json_file}")


def _measure_topology(labels: Array, sample: Sample) -> _Topology:
    predicted = components(labels > 0)
    assert sample.instances is not None
    return _Topology(
        v_rand(predicted, sample.instances),
        v_info(predicted, sample.instances),
        warping_error(labels > 0, np.where(sample.labels > 0, 1, sample.labels)),
    )


def _plain_topology(measured: Sequence[_Topology]) -> dict[str, float | None]:
    """Means over images; JSON knows no NaN."""
    means = {
        "v_rand": np.mean([m.rand.f_score for m in measured]),
        "v_info": np.mean([m.info.f_score for m in measured]),
        "warping_error": np.mean([m.warping for m in measured]),
    }
    return {name: None if np.isnan(value) else float(value) for name, value in means.items()}


def _print_scores(scores: Scores, topology: dict[str, _Topology]) -> None:
    table = _table("class", "IoU", "Dice")
    for name, i, d in zip(scores.class_names, scores.iou, scores.dice, strict=True):
        table.add_row(Text(name), _number(i), _number(d))
    if len(scores.class_names) > 2:
        table.add_row("mean of foreground", _number(scores.mean_iou), _number(scores.mean_dice))
    _out.print(table)
    _say(f"pixel error  {scores.pixel_error:.4f} of {int(scores.confusion.sum()):,} annotated pixels")
    if scores.seg_scores.size:
        _say(f"SEG          {scores.seg:.4f} of {scores.seg_scores.size:,} annotated objects")
    else:
        _say("SEG          unknown: the masks tell no objects apart (see --kind and --instances)")
    if topology:
        means = _plain_topology(list(topology.values()))
        _say(
            f"EM           V_Rand {_number(means['v_rand'])}, V_Info {_number(means['v_info'])}, warping error "
            f"{_number(means['warping_error'], 6)}; means over images"
        )


def _print_each(scores: dict[str, Scores], topology: dict[str, _Topology]) -> None:
    table = _table(
        "image", "IoU", "Dice", "pixel error", "SEG", "objects", *(["V_Rand", "V_Info", "warping"] if topology else [])
    )
    for name, s in scores.items():
        row = [_number(s.mean_iou), _number(s.mean_dice), _number(s.pixel_error), _number(s.seg), str(s.seg_scores.size)]
        if topology:
            t = topology[name]
            row += [_number(t.rand.f_score), _number(t.info.f_score), _number(t.warping, 6)]
        table.add_row(Text(name), *row)
    _out.print(table)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


# ---------------------------------------------------------------------------------------------------------------------
# tinyunet shapes
# ---------------------------------------------------------------------------------------------------------------------


@app.command("shapes", epilog="Example: tinyunet shapes 572 --figure unet.png")
def shapes_(
    height: Annotated[int, typer.Argument(help="of the image in pixels", min=1)] = 572,
    width: Annotated[int | None, typer.Argument(help="if it is not square", min=1, show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="which U-Net: paper, release or same_bn", metavar="NAME")] = "paper",
    channels: Annotated[int, typer.Option(help="of the image")] = 1,
    classes: Annotated[int, typer.Option(help="with background")] = 2,
    base: Annotated[int, typer.Option(help="channels of the first level")] = 64,
    depth: Annotated[int, typer.Option(help="number of poolings")] = 4,
    padding: Annotated[str | None, _network("padding", "of the 3x3 convolutions", "valid|same", "the preset's")] = None,
    norm: Annotated[str | None, _network("norm", "normalisation layers", "none|batch", "the preset's")] = None,
    figure: Annotated[Path | None, typer.Option(help="draw the network to scale: .png, .svg or .pdf", show_default=False)] = None,
) -> None:
    """What every layer makes of an image's size: figure 1 of the paper as a table.

    A row of a convolution includes what follows it: ReLU, batch norm, dropout. Remembered are the maps that training keeps for
    the backward pass.
    """
    tables = put({}, _given({"preset": preset, "base": base, "depth": depth, "padding": padding, "norm": norm}))
    spec = RunConfig.from_tables(tables, "options").network.spec(channels, classes)
    steps = shapes.trace(spec, height, width)
    (h, w), (p, q) = steps[0].in_size, steps[-1].out_size
    table = _table("layer", "size", "channels", "crop", "parameters", "G mult-adds", "MiB remembered")
    for rows in _grouped(steps):
        s = rows[0]
        joined = s.layer.kind == "concat"
        before = f"{s.layer.c_in} + {s.layer.c_out - s.layer.c_in}" if joined else f"{s.layer.c_in}"
        params, macs = sum(r.layer.params for r in rows), sum(r.macs for r in rows)
        table.add_row(
            s.layer.name,
            _size(s.out_size) if s.in_size == s.out_size else f"{_size(s.in_size)} -> {_size(s.out_size)}",
            before if before == str(s.layer.c_out) else f"{before} -> {s.layer.c_out}",
            (
                ""
                if s.crop is None or not any(s.crop)
                else str(s.crop.top)
                if s.crop.top == s.crop.left
                else f"{s.crop.top}, {s.crop.left}"
            ),
            f"{params:,}" if params else "",
            f"{macs / 1e9:.3f}" if macs else "",
            f"{sum(r.remembered() for r in rows) / shapes.MIB:.1f}" if any(r.remembered() for r in rows) else "",
        )
    params, macs = shapes.count_params(spec), sum(s.macs for s in steps)
    kept = sum(s.remembered() for s in steps) / shapes.MIB
    table.add_section()
    table.add_row("total", f"{_size((h, w))} -> {_size((p, q))}", "", "", f"{params:,}", f"{macs / 1e9:.2f}", f"{kept:,.1f}")
    _out.print(table)
    _say()
    training = [shapes.training_bytes(spec, h, w, moments=moments) / shapes.MIB for moments in (1, 2)]
    reach = sorted({r.size for r in shapes.receptive_field(spec)})
    _say(f"margin           {shapes.margin(spec)} px on each side that the output does not have")
    seen = " to ".join(map(str, dict.fromkeys((reach[0], reach[-1]))))
    _say(f"receptive field  {seen} px, by the pixel's place among the poolings")
    _say(
        f"memory           {training[0]:,.0f} MiB for a training step with SGD, {training[1]:,.0f} MiB with Adam; "
        f"{shapes.forward_bytes(spec, h, w) / shapes.MIB:,.0f} MiB for a prediction"
    )
    smallest, step = shapes.smallest_size(spec), shapes.size_step(spec)
    _say(
        f"sizes that fit   {smallest} + {step} k; nearest to {_size((h, w))}: "
        + ("; ".join(_neighbours(n, smallest, step) for n in dict.fromkeys((h, w))))
    )
    if figure is not None:
        plot.save(plot.draw_unet(spec, h, w), figure)
        _say(f"drawn            {figure}")


def _grouped(steps: Sequence[shapes.Step]) -> list[list[shapes.Step]]:
    """A convolution together with the norm, ReLU and dropout behind it, everything else by itself."""
    groups: list[list[shapes.Step]] = []
    for step in steps:
        if step.layer.kind in ("norm", "relu", "dropout"):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _neighbours(n: int, smallest: int, step: int) -> str:
    return ", ".join(str(m) for m in (n - step, n, n + step) if m >= smallest)


def _size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
