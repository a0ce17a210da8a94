"""How well a network segments annotated images: the same overlap tiles as for any other image, then the measures of
`tinyunet.metrics`, image by image or of all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Unpack

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import INSTANCE_BYTES
from tinyunet.data.masks import default_names
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import Dataset, Sample
from tinyunet.inference import Tiling, as_image, instances_of, predict
from tinyunet.metrics import Scores, evaluate_pair, total
from tinyunet.unet import UNet


class Measured(NamedTuple):
    """What became of one image."""

    name: str
    labels: Array  # (H, W) predicted classes
    scores: Scores


def evaluate(
    model: UNet,
    samples: Sequence[Sample],
    normalization: Normalization | None = None,
    *,
    class_names: Sequence[str] | None = None,
    min_size: int = 0,
    **tiling: Unpack[Tiling],
) -> Scores:
    """IoU, Dice, pixel error and SEG of all images together: pixels are counted, and objects averaged, over the whole set.

    normalization  that of the training; "image" unless given, as for `predict`. `Checkpoint.evaluate` knows it
    class_names    of the scores; those of the data set, if it has any, unless given
    min_size       predicted objects with fewer pixels are removed before SEG is measured
    tiling         tile_in, max_mem, average, progress, reserved: as for `predict`. The other images and the masks are not in
                   `max_mem`; `reserved` can say what they take

    Raises what `predict` and `tinyunet.metrics.evaluate_pair` raise.
    """
    return total(one.scores for one in measure(
        model, samples, normalization, class_names=class_names, min_size=min_size, **tiling
    ))  # fmt: skip


def measure(
    model: UNet,
    samples: Sequence[Sample],
    normalization: Normalization | None = None,
    *,
    class_names: Sequence[str] | None = None,
    min_size: int = 0,
    **tiling: Unpack[Tiling],
) -> Iterator[Measured]:
    """Segment and measure one image after the other. Arguments as for `evaluate`."""
    names = tuple(class_names or (samples.class_names if isinstance(samples, Dataset) else default_names(model.spec.classes)))
    for sample in samples:
        options: Tiling = {**tiling, "reserved": tiling.get("reserved", 0) + object_bytes(sample)}
        labels = predict(model, image_for(model, sample), normalization, **options)
        objects = instances_of(labels, min_size) if sample.instances is not None else None
        scores = evaluate_pair(labels, sample.labels, sample.instances, instances=objects, class_names=names)
        yield Measured(sample.name, labels, scores)


def object_bytes(sample: Sample) -> int:
    """Memory that the objects predicted for an image take, in bytes; 0 where there are none to compare them with."""
    return 0 if sample.instances is None else sample.labels.size * INSTANCE_BYTES


def image_for(model: UNet, sample: Sample) -> Array:
    """The image with the channels that the network takes: reading a data set makes grey of colour images that have none.

    (H, W, C) -> (H, W, channels)

    Raises ShapeError if neither was colour taken for grey, nor grey for colour.
    """
    image, channels = sample.image, model.spec.channels
    if image.shape[2:] == (1,) and channels == 3:
        image = np.repeat(image, 3, axis=-1)
    return as_image(image, channels, f"evaluate: image {sample.name}")
