"""`tinyunet predict`: segment images of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import numpy as np
import typer

from tinyunet import plot
from tinyunet.backend import Array
from tinyunet.checkpoint import Checkpoint, load_checkpoint
from tinyunet.cli.app import app
from tinyunet.cli.inputs import check_checkpoint, grey_note, on_device
from tinyunet.cli.options import Averaging, CheckpointFile, Device, MaxMem, MinSize, TileIn
from tinyunet.cli.terminal import Meter, new_folder, say
from tinyunet.data.images import SUFFIXES, read_pages, write_image, write_labels
from tinyunet.data.instances import INSTANCE_BYTES
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError, DataError
from tinyunet.files import atomic_write
from tinyunet.inference import BASELINE, MAX_MEM, Average, Tiling, as_image, instances_of, predict, predict_proba
from tinyunet.shapes import MIB

WRITING = 4
"""Bytes a pixel for the copies that are made while a file is written."""

SHOWN = 2400
"""Pixels along the longer side of an overlay, at most. The number is ours: what a screen shows."""

OVERLAY = 128
"""Bytes for each of these pixels while Matplotlib draws it and the outlines, as measured."""


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
    min_size: MinSize = None,
    average: Averaging = "none",
    max_mem: MaxMem = MAX_MEM,
    tile_in: TileIn = None,
    device: Device = "cpu",
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
    check_checkpoint(checkpoint, "predict", "IMAGES")
    files = _image_files(images)
    _check_out(out, files)
    trained = on_device(load_checkpoint(checkpoint), device)
    channels = trained.model.spec.channels
    least = trained.min_size if min_size is None else min_size
    # All are looked at before the first result, for a result may take long.
    looked_at = [_look(file, channels) for file in files]
    if greyed := sum(grey for _, grey in looked_at):
        say(grey_note(greyed))
    names = _names(files, [count for count, _ in looked_at])
    for name in (name for pages in names for name in pages):
        _check_targets(wanted.paths(out, name), overwrite)
    new_folder(out)
    written: list[Path] = []
    with Meter(f"{len(files)} images" if len(files) > 1 else files[0].name, "image" if len(files) > 1 else "tile") as meter:
        for i, (file, pages) in enumerate(zip(files, names, strict=True)):
            for t, image in enumerate(_pages(file, channels)):

                def show(done: int, n: int, i: int = i, t: int = t, count: int = len(pages), name: str = file.name) -> None:
                    if len(files) > 1:
                        meter.show(i + (t + done / n) / count, len(files), name)
                    else:
                        meter.show(t * n + done, count * n)

                paths = wanted.paths(out, pages[t])
                tiling: Tiling = {
                    "tile_in": tile_in, "max_mem": max_mem, "average": cast(Average, average), "progress": show,
                }  # fmt: skip
                written += _segment(trained, image, paths, least, tiling)
    pages_done = sum(map(len, names))
    say(f"{counted(pages_done, 'image')} segmented; {counted(len(written), 'file')} in {out}, e.g. {written[0].name}")


def _segment(trained: Checkpoint, image: Array, paths: dict[str, Path], min_size: int, tiling: Tiling) -> list[Path]:
    """One image through the network, and what is wanted of it to files."""
    with_objects = "instances" in paths or "overlay" in paths
    tiling = {**tiling, "reserved": image.shape[0] * image.shape[1] * (INSTANCE_BYTES if with_objects else WRITING)}
    if "proba" in paths:
        proba = predict_proba(trained.model, image, trained.normalization, **tiling)
        with atomic_write(paths["proba"]) as temporary:
            np.save(temporary, proba)
        labels = np.empty(image.shape[:2], np.uint8 if proba.shape[-1] <= 256 else np.uint16)
        for row, p in zip(labels, proba, strict=True):  # by rows: argmax makes 8 bytes a pixel
            row[:] = p.argmax(-1)
        del proba
    else:
        labels = predict(trained.model, image, trained.normalization, **tiling)
    if "labels" in paths:
        write_labels(paths["labels"], labels)
    if with_objects:
        objects = instances_of(labels, min_size)
        if "instances" in paths:
            if (count := int(objects.max())) > 65535:
                raise DataError(
                    f"{paths['instances']}: {count} objects are more than 16 bits can number. Remove specks with --min-size."
                )
            write_image(paths["instances"], objects.astype(np.uint16))
        if "overlay" in paths:
            held = sum(array.nbytes for array in (image, labels, objects, *trained.model.state().values()))
            every = _every(objects.shape, tiling["max_mem"] * MIB - BASELINE - held)
            shown, ids = image[::every, ::every], objects[::every, ::every]
            plot.save(
                plot.overlay(shown if image.shape[-1] in (1, 3) else shown[..., :1], ids),
                paths["overlay"],
                dpi=max(max(ids.shape) / 4, 150),  # a panel is 4 inches: at least a dot for a pixel
            )
    return list(paths.values())


def _every(shape: tuple[int, ...], memory: float) -> int:
    """n -> an overlay shows every n-th row and column: all of them, unless it has more than `SHOWN`, or takes too much memory"""
    return next(n for n in range(-(-max(shape) // SHOWN), max(shape) + 1)
                if math.prod(-(-side // n) for side in shape) * OVERLAY <= memory or n == max(shape))  # fmt: skip


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Files and the image files of folders, each once."""
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
    return list(dict.fromkeys(files))


def _look(file: Path, channels: int) -> tuple[int, bool]:
    """Read a file to its end -> number of its pages, and whether they are grey saved as colour"""
    grey = [as_image(page, channels, f"predict: {file}").shape[-1] < page.shape[-1] for page in read_pages(file)]
    return len(grey), any(grey)


def _pages(file: Path, channels: int) -> Iterator[Array]:
    """The pages of a file, one in memory at a time: (H, W, channels)"""
    for page in read_pages(file):
        image = np.ascontiguousarray(as_image(page, channels, f"predict: {file}"))
        del page  # three times as large, if it was grey saved as colour
        yield image


def _names(files: Sequence[Path], counts: Sequence[int]) -> list[list[str]]:
    """What the pages of every file are called; two of the same name would be one result."""
    names = [
        [file.stem] if count == 1 else [f"{file.stem}_{t:03d}" for t in range(count)]
        for file, count in zip(files, counts, strict=True)
    ]
    by_name: dict[str, Path] = {}
    for file, pages in zip(files, names, strict=True):
        for name in pages:
            if (other := by_name.setdefault(name, file)) != file:
                raise DataError(f"predict: {other} and {file} would both be written as {name}. Segment them into two folders.")
    return names


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Results never lie among images: they would be segmented the next time, and could replace one."""
    if out.resolve() in {folder for file in inputs for folder in (file.parent.resolve(), file.resolve().parent)}:
        raise DataError(
            f"predict: --out {out} holds the images. Choose a folder for results alone, e.g. --out {out / 'predictions'}."
        )


def _check_targets(paths: dict[str, Path], overwrite: bool) -> None:
    """Results replace files only when told to."""
    for path in paths.values():
        if path.exists() and not overwrite:
            raise DataError(f"predict: {path} is there already. Give --overwrite, or another --out.")
