"""`tinyunet evaluate`: measure a network on annotated images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import typer
from rich.text import Text

from tinyunet.backend import Array
from tinyunet.checkpoint import load_checkpoint
from tinyunet.cli.app import app
from tinyunet.cli.inputs import check_checkpoint, fit_channels, grey_note
from tinyunet.cli.options import (
    Averaging,
    CheckpointFile,
    ClassNames,
    DropAlpha,
    Format,
    Instances,
    LabelMap,
    MaskKind,
    Masks,
    MaxMem,
    Partial,
    Sequence_,
    Source,
    TileIn,
    given_options,
)
from tinyunet.cli.terminal import Meter, number_text, out_console, say, table_of
from tinyunet.config import RunConfig, put
from tinyunet.data.instances import components
from tinyunet.data.sample import Sample
from tinyunet.errors import ConfigError
from tinyunet.files import atomic_write
from tinyunet.inference import MAX_MEM, Average, instances_of, predict
from tinyunet.metrics import Agreement, Scores, evaluate_pair, total, v_info, v_rand, warping_error


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
    tile_in: TileIn = None,
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
    check_checkpoint(checkpoint, "evaluate", "DATA")
    data_options = given_options(locals(), "checkpoint", "average", "min_size", "max_mem", "tile_in", "em", "each", "json_file")
    data = RunConfig.from_tables(put({}, data_options), "options").data.read()
    trained = load_checkpoint(checkpoint)
    # All before the first is measured, which may take long.
    channels = trained.model.spec.channels
    # Reading made one channel of three equal ones; a network of colour images gets them back.
    stored = [np.repeat(s.image, 3, -1) if (s.image.shape[-1], channels) == (1, 3) else s.image for s in data]
    images = [fit_channels(image, channels, "evaluate", f"image {s.name}") for image, s in zip(stored, data, strict=True)]
    if greyed := sum(image.shape != before.shape for image, before in zip(images, stored, strict=True)):
        say(grey_note(greyed))
    least = trained.config.get("min_size", 0) if min_size is None else min_size
    scores: dict[str, Scores] = {}
    topology: dict[str, _Topology] = {}
    if em and any(sample.instances is None for sample in data):
        raise ConfigError(
            "evaluate: --em compares objects, and these masks tell none apart. Add --instances components, "
            "or --kind instances if every object has its own number."
        )
    with Meter("measuring", "image") as meter:
        for i, (image, sample) in enumerate(zip(images, data, strict=True)):
            labels = predict(
                trained.model, image, trained.normalization, tile=tile_in, max_mem=max_mem, average=cast(Average, average)
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
        say(f"Written to {json_file}")


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
    table = table_of("class", "IoU", "Dice")
    for name, i, d in zip(scores.class_names, scores.iou, scores.dice, strict=True):
        table.add_row(Text(name), number_text(i), number_text(d))
    if len(scores.class_names) > 2:
        table.add_row("mean of foreground", number_text(scores.mean_iou), number_text(scores.mean_dice))
    out_console.print(table)
    say(f"pixel error  {scores.pixel_error:.4f} of {int(scores.confusion.sum()):,} annotated pixels")
    if scores.seg_scores.size:
        say(f"SEG          {scores.seg:.4f} of {scores.seg_scores.size:,} annotated objects")
    else:
        say("SEG          unknown: the masks tell no objects apart (see --kind and --instances)")
    if topology:
        means = _plain_topology(list(topology.values()))
        say(
            f"EM           V_Rand {number_text(means['v_rand'])}, V_Info {number_text(means['v_info'])}, warping error "
            f"{number_text(means['warping_error'], 6)}; means over images"
        )


def _print_each(scores: dict[str, Scores], topology: dict[str, _Topology]) -> None:
    table = table_of(
        "image", "IoU", "Dice", "pixel error", "SEG", "objects", *(["V_Rand", "V_Info", "warping"] if topology else [])
    )
    for name, s in scores.items():
        row = [*map(number_text, (s.mean_iou, s.mean_dice, s.pixel_error, s.seg)), str(s.seg_scores.size)]
        if topology:
            t = topology[name]
            row += [number_text(t.rand.f_score), number_text(t.info.f_score), number_text(t.warping, 6)]
        table.add_row(Text(name), *row)
    out_console.print(table)
