"""`tinyunet evaluate`: measure a network on annotated images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import typer
from rich.text import Text

from tinyunet.backend import Array
from tinyunet.checkpoint import Checkpoint, load_checkpoint
from tinyunet.cli.app import app
from tinyunet.cli.inputs import check_checkpoint, grey_note, on_device
from tinyunet.cli.options import (
    Averaging,
    CheckpointFile,
    ClassNames,
    Device,
    DropAlpha,
    Format,
    Masks,
    MaxMemBeside,
    MinSize,
    Sequence_,
    Source,
    TileIn,
    TrainedInstances,
    TrainedKind,
    TrainedLabelMap,
    TrainedPartial,
    given_options,
)
from tinyunet.cli.terminal import Meter, number_text, out_console, say, table_of
from tinyunet.config import RunConfig, put
from tinyunet.data.instances import components
from tinyunet.data.readers import options_taken
from tinyunet.data.sample import Sample
from tinyunet.errors import ConfigError
from tinyunet.evaluation import image_for, measure
from tinyunet.files import atomic_write
from tinyunet.inference import MAX_MEM, Average, Tiling
from tinyunet.metrics import Agreement, Scores, total, v_info, v_rand, warping_error


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
    kind: TrainedKind = None,
    label_map: TrainedLabelMap = None,
    class_names: ClassNames = None,
    instances: TrainedInstances = None,
    partial: TrainedPartial = None,
    drop_alpha: DropAlpha = None,
    sequence: Sequence_ = None,
    source: Source = None,
    average: Averaging = "none",
    min_size: MinSize = None,
    max_mem: MaxMemBeside = MAX_MEM,
    tile_in: TileIn = None,
    device: Device = "cpu",
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
    needs masks that tell objects apart. Masks are read as in training (unless the format of DATA says what they hold), and said
    to be; --label-map, --instances and --partial change that one by one, and --kind changes all of it.
    """
    check_checkpoint(checkpoint, "evaluate", "DATA")
    not_data = ("checkpoint", "average", "min_size", "max_mem", "tile_in", "device", "em", "each", "json_file")
    given = given_options(locals(), *not_data, "not_data")
    trained = on_device(load_checkpoint(checkpoint), device)
    known = _as_in_training(trained, given)
    if known:  # before they are read, for they may not be like those of the training
        say(f"masks read as in training: {' '.join(_written(name, value) for name, value in known.items())}")
    data = RunConfig.from_tables(put({}, {**known, **given}), "options").data.read()
    # All before the first is measured, which may take long.
    if greyed := sum(image_for(trained.model, sample).shape[-1] < sample.image.shape[-1] for sample in data):
        say(grey_note(greyed))
    least = trained.min_size if min_size is None else min_size
    names = trained.class_names if class_names is None else data.class_names
    if len(names) != len(trained.class_names):
        raise ConfigError(
            f"evaluate: --class-names gives {len(names)} names, the network has {len(trained.class_names)} classes "
            f"({', '.join(trained.class_names)}). Name each of them, or leave --class-names out."
        )
    scores: dict[str, Scores] = {}
    topology: dict[str, _Topology] = {}
    if em and any(sample.instances is None for sample in data):
        raise ConfigError(
            "evaluate: --em compares objects, and these masks tell none apart. Add --instances components, "
            "or --kind instances if every object has its own number."
        )
    tiling: Tiling = {"tile_in": tile_in, "max_mem": max_mem, "average": cast(Average, average)}
    measured = measure(
        trained.model, data, trained.normalization, class_names=names, min_size=least, **tiling
    )  # fmt: skip
    with Meter("measuring", "image") as meter:
        for i, (one, sample) in enumerate(zip(measured, data, strict=True)):
            scores[one.name] = one.scores
            if em:
                topology[one.name] = _measure_topology(one.labels, sample)
            meter.show(i + 1, len(data))
    everything = total(scores.values())
    if each:
        _print_each(scores, topology)
    _print_scores(everything, topology)
    if json_file is not None:
        numbers: dict[str, Any] = {"checkpoint": str(checkpoint), "data": path, "images": {}, "all": everything.as_dict()}
        for name, its in scores.items():
            numbers["images"][name] = its.as_dict() | (_plain_topology([topology[name]]) if em else {})
        if em:
            numbers["all"] |= _plain_topology(list(topology.values()))
        with atomic_write(json_file) as temporary:
            temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        say(f"Written to {json_file}")


def _as_in_training(trained: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """How the masks of the training were read, as far as it is not given otherwise and the format takes it."""
    if "kind" in given:  # other masks: what is known of the training's does not hold of them
        return {}
    names = ("kind", "label_map", "instances", "partial")  # whatever else a file may say
    left = {name: trained.reading[name] for name in names if name in trained.reading and name not in given}
    named = {name: value for name, value in given.items() if name != "path"}
    taken = options_taken(given["path"], **{**left, **named})
    return {name: value for name, value in left.items() if name in taken}


def _written(name: str, value: object) -> str:
    option = "--" + name.replace("_", "-")
    return option if value is True else f"{option} {value}"


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
