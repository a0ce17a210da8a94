"""`tinyunet train`: train on images with masks, stop, resume."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyunet import parallel, plot, shapes
from tinyunet.backend import choose, memory_of_gpu
from tinyunet.checkpoint import load_checkpoint
from tinyunet.cli.app import app
from tinyunet.cli.options import (
    ClassNames,
    Device,
    DropAlpha,
    Format,
    Instances,
    LabelMap,
    MaskKind,
    Masks,
    Partial,
    Sequence_,
    Source,
    given_options,
    of_augment,
    of_data,
    of_network,
    of_train,
)
from tinyunet.cli.terminal import described, follow, new_folder, say
from tinyunet.config import PATHS, DataConfig, RunConfig, Tables, put, read_tables, write_config
from tinyunet.data.augment import Augment
from tinyunet.data.sample import counted, describe
from tinyunet.errors import ConfigError
from tinyunet.train import fit, score_text, tile_size
from tinyunet.train_config import RESUMABLE, TrainConfig
from tinyunet.unet import UNet


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
        bool,
        typer.Option("--resume", help="go on with the run in --out, as its config.toml says; only --steps and --lr may change"),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="settings from a TOML file; options given here win", show_default=False)
    ] = None,
    device: Device = "cpu",
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
    val: Annotated[float | None, of_data("val", "share of the images that validates; 0: none", "FRACTION")] = None,
    split: Annotated[str | None, of_data("split", "which: the last ones, or drawn at random", "block|random")] = None,
    val_data: Annotated[str | None, of_data("val_data", "other images that validate", "PATH")] = None,
    val_masks: Annotated[str | None, of_data("val_masks", "their masks", "PATH")] = None,
    preset: Annotated[str | None, of_network("preset", "which U-Net: paper, release or same_bn", "NAME")] = None,
    channels: Annotated[int | None, of_network("channels", "of an image", default="the data's")] = None,
    classes: Annotated[int | None, of_network("classes", "with background; 1: one sigmoid", default="the data's")] = None,
    base: Annotated[int | None, of_network("base", "channels of the first level; the paper: 64")] = None,
    depth: Annotated[int | None, of_network("depth", "number of poolings; the paper: 4")] = None,
    padding: Annotated[str | None, of_network("padding", "of the 3x3 convolutions", "valid|same", "the preset's")] = None,
    norm: Annotated[
        str | None, of_network("norm", "small networks learn faster with batch", "none|batch", "the preset's")
    ] = None,
    dropout: Annotated[float | None, of_network("dropout", "rate at the bottom", default="the preset's; paper: 0.5")] = None,
    relu_after_up: Annotated[
        bool | None, of_network("relu_after_up", "ReLU after up-convolutions", "bool", "the preset's")
    ] = None,
    last_up_halves: Annotated[
        bool | None, of_network("last_up_halves", "the last up-convolution halves its channels", "bool", "the preset's")
    ] = None,
    steps: Annotated[int | None, of_train("steps", "optimizer steps in all")] = None,
    batch: Annotated[int | None, of_train("batch", "tiles a step")] = None,
    tile: Annotated[
        int | None, of_train("tile", "side of the network's output in pixels", default="the largest image's, at most 388")
    ] = None,
    optimizer: Annotated[str | None, of_train("optimizer", "how to step", "adam|sgd")] = None,
    lr: Annotated[float | None, of_train("lr", "learning rate; the paper gives none")] = None,
    momentum: Annotated[float | None, of_train("momentum", "of sgd")] = None,
    weight_decay: Annotated[float | None, of_train("weight_decay", "pull of the weights towards 0")] = None,
    schedule: Annotated[str | None, of_train("schedule", "of the learning rate: constant, cosine, poly or step", "NAME")] = None,
    warmup: Annotated[int | None, of_train("warmup", "steps in which the learning rate grows")] = None,
    weight_map: Annotated[
        str | None, of_train("weight_map", "which pixels count: ronneberger2015, falk2019, balance or none", "NAME")
    ] = None,
    w0: Annotated[float | None, of_train("w0", "its weight between touching cells", default="the map's; 2015: 10")] = None,
    sigma: Annotated[float | None, of_train("sigma", "its width in pixels", default="the map's; 2015: 5")] = None,
    balance: Annotated[
        str | None,
        of_train("balance", "how it balances classes; none lets rare ones be rare", "frequency|distance|none", "the map's"),
    ] = None,
    border: Annotated[int | None, of_train("border", "pixels to open between touching objects, even")] = None,
    normalization: Annotated[
        str | None, of_train("normalization", "of grey values; percentile for fluorescence", "image|percentile|dataset|none")
    ] = None,
    validate_every: Annotated[
        int | None, of_train("validate_every", "steps between validations", default="a tenth of the steps")
    ] = None,
    save_every: Annotated[int | None, of_train("save_every", "steps between checkpoints", default="at every validation")] = None,
    min_size: Annotated[int | None, of_train("min_size", "objects with fewer pixels do not count in SEG")] = None,
    max_mem: Annotated[float | None, of_train("max_mem", "MiB for a validation, beside the data set")] = None,
    seed: Annotated[int | None, of_train("seed", "of everything random")] = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="all of the following, or none (default yes)",
            rich_help_panel="Augmentation",
            show_default=False,
        ),
    ] = None,
    shift: Annotated[float | None, of_augment("shift", "pixels along each axis")] = None,
    rotation: Annotated[float | None, of_augment("rotation", "degrees; 180 is any angle")] = None,
    scale: Annotated[float | None, of_augment("scale", "up to this share larger or smaller")] = None,
    flips: Annotated[bool | None, of_augment("flips", "mirror each axis every second time")] = None,
    elastic: Annotated[float | None, of_augment("elastic", "pixels by which nodes of a grid move, standard deviation")] = None,
    grid: Annotated[int | None, of_augment("grid", "nodes of that grid along each axis")] = None,
    gain: Annotated[float | None, of_augment("gain", "contrast, up to this share")] = None,
    offset: Annotated[float | None, of_augment("offset", "brightness, in standard deviations")] = None,
    gamma: Annotated[float | None, of_augment("gamma", "grey values to a power of up to 1 + this")] = None,
    order: Annotated[int | None, of_augment("order", "interpolation: 1 linear, 3 cubic", "1|3")] = None,
) -> None:
    """Train a network on annotated images.

    The run's folder receives best.safetensors and last.safetensors, log.csv, curves.png, and config.toml, which repeats the
    run. The best step has the highest mean of IoU and SEG on the images that validate; IoU alone, if the masks tell no objects
    apart. Ctrl-C saves and says how to go on. The default network is small, for a laptop; the paper's is --base 64 --depth 4.
    """
    options = given_options(locals(), "out", "resume", "config", "augment", "device")
    device, where = choose(device)
    settings, folder, was = _open_run(out, resume, config, options, augment)
    train_data, val_data_ = settings.data.read_split(settings.train.seed)
    spec = settings.network.spec(train_data[0].image.shape[-1], len(train_data.class_names))
    moments = 1 + (settings.train.optimizer == "adam")
    _check_memory(shapes.count_params(spec) * 4 * (2 + moments), device, "a smaller --base or --depth")  # before any is taken
    model = UNet(spec, rng=settings.train.seed).to(device)
    tile_in, tile_out = tile_size(model, train_data, settings.train)
    memory = shapes.training_bytes(spec, tile_in, batch=settings.train.batch, moments=moments, threads=parallel.count())
    _check_memory(memory, device, "a smaller --tile, --batch, --base or --depth")
    pairs = [(name, getattr(was, name), getattr(settings.train, name)) for name in RESUMABLE] if was is not None else []
    changed = [f"{name} from {old} to {new}" for name, old, new in pairs if old != new]

    def write_settings() -> None:
        if was is None or changed:
            write_config(folder / "config.toml", RunConfig(settings.data, settings.network.filled(spec), settings.train))

    # Refuses before there is a folder; writes when the folder is this run's alone.
    records = fit(model, train_data, val_data_, settings.train, out=folder, resume=resume, begun=write_settings)
    new_folder(folder)

    names = ", ".join(train_data.class_names)
    say(f"data     {describe(train_data)}")
    if len(val_data_):
        say(f"held out {describe(val_data_)}")
    if settings.data.val_data is None and settings.data.val > 0.5:
        say(
            f"note     --val {settings.data.val:g} leaves {counted(len(train_data), 'image')} to train on, and {len(val_data_)} "
            "that only validate. The default is 0.2.",
            style="yellow",
        )
    say(f"classes  {names}")
    say(f"network  {described(spec)}: {shapes.count_params(spec):,} parameters")
    say(f"step     {settings.train.batch} x {tile_in} px in, {tile_out} px out, about {memory / shapes.MIB:,.0f} MiB")
    if where != "CPU":
        say(f"device   {where}")
    say(f"run      {folder}")
    if changed:
        say(f"changed  {', '.join(changed)}; from here on, the learning rate follows the new values")
    last = follow(records, "training", settings.train.steps, folder / "log.csv")

    if last is None:  # a finished run was resumed
        more = shlex.join(["tinyunet", "train", "--resume", "--out", str(folder), "--steps", str(2 * settings.train.steps)])
        say(f"This run has all its {settings.train.steps} steps. To go on: {more}")
        return
    plot.save(plot.training_curves(plot.read_log(folder / "log.csv")), folder / "curves.png")
    if last.step < settings.train.steps:
        say(f"Interrupted after step {last.step} of {settings.train.steps}. Saved {folder / 'last.safetensors'}. Go on with:")
        say(f"    {shlex.join(['tinyunet', 'train', '--resume', '--out', str(folder)])}")
        raise typer.Exit(130)
    best = folder / ("best.safetensors" if (folder / "best.safetensors").exists() else "last.safetensors")
    if last.scores is not None:
        found = load_checkpoint(best).best
        first = f"Best: step {found['step']}, {score_text(found)} ({best}). " if found else ""
        say(f"{first}Last: step {last.step}, {score_text(last.scores.as_dict())}. Curves: {folder / 'curves.png'}")
    say("Segment images with it:")
    say(f"    {shlex.join(['tinyunet', 'predict', str(best), 'IMAGES', '--out', str(folder / 'predictions')])}")


def _open_run(
    out: Path | None, resume: bool, config: Path | None, options: dict[str, Any], augment: bool | None
) -> tuple[RunConfig, Path, TrainConfig | None]:
    """Settings and folder of a run, and what [train] was if it is resumed: options win over the file, the file over defaults."""
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
    if resume:
        assert config is not None
        assert out is not None  # both were checked or set above
        was = RunConfig.from_tables(read_tables(config))
        _check_unchanged(was, settings)
        return settings, out, was.train
    folder = out or _free_folder(Path("runs") / Path(settings.data.path).resolve().stem)
    _check_folder(folder, settings.data)
    return settings, folder, None


def _check_unchanged(run: RunConfig, asked: RunConfig) -> None:
    """Options given with --resume may repeat the run's settings, and change those that may be changed."""
    old, new = run.to_tables(), asked.to_tables()
    for table in new:
        for name in {**old[table], **new[table]}:
            was, wanted = old[table].get(name), new[table].get(name)
            if name in PATHS:
                was, wanted = (value and str(Path(value).resolve()) for value in (was, wanted))
            if was != wanted and name not in RESUMABLE:
                option = "DATA" if name == "path" else "--" + name.replace("_", "-")
                raise ConfigError(
                    f"train: --resume goes on with {'' if name == 'path' else name + ' = '}{was}, asked for is {wanted}. "
                    f"Leave {option if table != 'augment' else f'{option} (or --augment, --no-augment)'} out (only "
                    f"{' and '.join('--' + name for name in RESUMABLE)} may change), or start a new run."
                )


def _check_folder(folder: Path, data: DataConfig) -> None:
    """A run never writes over another, nor over files that it did not make, nor among the images."""
    if (folder / "last.safetensors").exists():
        raise ConfigError(
            f"train: {folder} already holds a run. Go on with it by --resume --out {folder}, or choose another --out."
        )
    read = [Path(path) for path in (data.path, data.masks, data.val_data, data.val_masks) if path]
    if folder.resolve() in {part.resolve() for path in read for part in (path, path / "images", path / "masks")}:
        raise ConfigError(f"train: --out {folder} holds the data. Choose a folder for the run alone, e.g. --out runs/first.")
    names = ("config.toml", "log.csv", "best.safetensors", "curves.png", "weights")
    if there := [name for name in names if (folder / name).exists()]:
        stopped = f" If it is a run that was stopped early, go on with --resume --out {folder}." if "config.toml" in there else ""
        raise ConfigError(f"train: {folder} already holds {', '.join(there)}. Choose another --out.{stopped}")


def _check_memory(needed: int, device: str, remedy: str) -> None:
    """Raises ConfigError where a step would take more than there is; the system might end the process without a word."""
    try:
        there = memory_of_gpu() if device == "cuda" else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    if needed > there:
        raise ConfigError(
            f"train: a step takes {needed / shapes.MIB:,.0f} MiB, and this {'GPU' if device == 'cuda' else 'machine'} has "
            f"{there / shapes.MIB:,.0f} MiB. "
            f"Use {remedy}."
        )


def _free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that is not there yet."""
    n, free = 1, folder
    while free.exists():
        n += 1
        free = folder.with_name(f"{folder.name}-{n}")
    return free
