"""Properties of training and of what it is fed: batches, order, splits, normalisation, resuming, and that it learns."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet import checkpoint, shapes, train
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.data import splits
from tinyunet.data.augment import Augment
from tinyunet.data.normalize import HIGH, LOW, MODES, Mode, Normalization
from tinyunet.data.sample import IGNORE, Dataset, Sample
from tinyunet.errors import ConfigError, TrainingError
from tinyunet.optim import schedule
from tinyunet.spec import UNetSpec
from tinyunet.train import StepRecord
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

VALID = UNetSpec(base=2, depth=1, dropout=0.5)
SAME = UNetSpec(base=2, depth=1, padding="same", norm="batch")


def draw_data(draw: Draw, n: int = 3) -> Dataset:
    """Noisy images with two bright cells each that touch, some pixels of unknown class."""
    samples = []
    for i in range(n):
        instances = np.zeros((12, 14), np.int32)
        top = draw.integer(1, 3)
        instances[top : top + 5, 2:6], instances[top : top + 5, 6:11] = 1, 2
        labels = (instances > 0).astype(np.int32)
        image = (draw.rng.normal(60, 10, (12, 14, 1)) + 60 * labels[..., None]).clip(0, 255).astype(np.uint8)
        labels[11, draw.rng.integers(0, 14, 3)] = IGNORE
        samples.append(Sample(f"image {i}", image, labels, instances))
    return Dataset(tuple(samples))


def settings(**changes: Any) -> TrainConfig:
    """A short run."""
    return TrainConfig(**{"steps": 4, "tile": 6, "lr": 1e-2, "warmup": 1, "validate_every": 2, **changes})


def run(spec: UNetSpec, data: Dataset, config: TrainConfig, stop: int = 0, **options: Any) -> tuple[UNet, list[StepRecord]]:
    """Train a network of seed 1 on all images but the last, which validates; leave the loop after step `stop`."""
    model, records = UNet(spec, 1), []
    for record in train.fit(model, data[:-1], data[-1:], config, **options):
        records.append(record)
        if record.step == stop:
            break
    return model, records


def state_bytes(model: UNet) -> dict[str, bytes]:
    """The bytes of every array of a network."""
    return {name: value.tobytes() for name, value in model.state().items()}


# A step --------------------------------------------------------------------------------------------------------------


@holds("training", "reference")
def a_run_is_its_steps_written_out(_: None, draw: Draw) -> None:
    """`fit` is forward, loss, backward, w <- w - lr(step) v, from gradients of zero in every step, and nothing else."""
    data, momentum, batch = draw_data(draw), draw.integer(0, 9) / 10, draw.integer(1, 3)
    config = settings(optimizer="sgd", momentum=momentum, batch=batch, lr=0.1, weight_decay=0.01, steps=3)
    model, records = run(SAME, data, config)
    mine, normalization = UNet(SAME, 1).train(), Normalization()
    velocity = {name: np.zeros_like(w) for name, w in mine.params().items()}
    prepared = train.prepare(data[:-1], config, normalization)
    for step, record in enumerate(records, start=1):
        tile = train.tile_size(mine, data[:-1], config)
        rng = np.random.default_rng((config.seed, step))
        x, labels, weights, _names = train.make_batch(prepared, config, tile, step, rng)
        loss, dlogits = train.energy(mine.forward(x), labels, weights)
        mine.backward(dlogits)
        lr = 0.1 * schedule(config.schedule, step - 1, config.steps, config.warmup)
        require_close(f"the learning rate of step {step}", record.lr, lr)
        require_close(f"the loss of step {step}", record.loss, loss, rtol=1e-5)
        for name, w in mine.params().items():
            v = velocity[name]
            v[...] = momentum * v + mine.grads()[name] + (0.01 * w if w.ndim > 1 else 0)
            w -= lr * v
            mine.grads()[name][...] = 0
    for name, w in mine.params().items():
        gap = float(np.abs(model.params()[name] - w).max())  # no relative one: a bias before batch norm stays at rounding's size
        require(gap < 1e-5, f"{name} after three steps is {gap:.3g} away from where the steps written out lead")


@holds("training", "convention")
def the_loss_of_a_batch_is_a_mean_over_tiles(_: None, draw: Draw) -> None:
    """E divides by the annotated pixels of the batch: with all annotated, it is the mean of the tiles' losses."""
    n, size = draw.integer(2, 4), (draw.integer(1, 5), draw.integer(1, 5))
    logits = draw.rng.standard_normal((n, *size, draw.integer(1, 3)))
    labels = draw.rng.integers(0, max(logits.shape[-1], 2), (n, *size))
    weights = draw.rng.uniform(0, 3, labels.shape)
    loss, dlogits = train.energy(logits, labels, weights)
    parts = [train.energy(*(a[i : i + 1] for a in (logits, labels, weights))) for i in range(n)]
    require_close("the loss", loss, np.mean([part[0] for part in parts]))
    require_close("its gradient", dlogits, np.concatenate([part[1] for part in parts]) / n)


@holds("training", "invariance")
def weights_and_unknown_pixels_are_respected(_: None, draw: Draw) -> None:
    """The loss is linear in the weights; a pixel that weighs nothing or is unknown has no gradient, whatever its logits."""
    shape = (2, draw.integer(2, 5), draw.integer(2, 5))
    logits, labels = draw.rng.standard_normal((*shape, draw.integer(1, 3))), draw.rng.integers(-1, 2, shape)
    labels[0, 0, 0] = 1
    one, two = draw.rng.uniform(0, 3, shape), draw.rng.uniform(0, 3, shape) * (draw.rng.random(shape) < 0.5)
    if logits.shape[-1] == 1:
        labels = np.minimum(labels, 1)
    labels = np.where(labels >= max(logits.shape[-1], 2), 0, labels)
    losses = [train.energy(logits, labels, w)[0] for w in (one, two, one + 2 * two)]
    require_close("the loss of w1 + 2 w2", losses[2], losses[0] + 2 * losses[1])
    _loss, dlogits = train.energy(logits, labels, two)
    silent = (labels == IGNORE) | (two == 0)
    require(not dlogits[silent].any(), "a pixel without weight, or without a label, has a gradient")
    require(bool(dlogits[~silent].any(axis=-1).all()), "a pixel with weight and label has no gradient")


@holds("training", "reference")
def a_batch_is_cut_from_its_images(_: None, draw: Draw) -> None:
    """Labels and weights of a tile are those of the image's pixels in the middle of x, which is normalised by its own image."""
    spec, side = draw.choice((UNetSpec(base=2, depth=1), SAME)), 20
    rows, cols = np.mgrid[:side, :side]
    image = np.stack([rows, cols], axis=-1).astype(np.float32)
    config = settings(augment=Augment.none(), batch=draw.integer(1, 3))
    mean, std = np.array([1.0, 2.0], np.float32), np.array([2.0, 0.5], np.float32)
    place = (side * rows + cols).astype(np.int32)
    prepared = [train.Prepared("ramp", image, place, place.astype(np.float32), mean, std)]
    size_in = shapes.input_size(spec, 6)
    tile = (size_in, shapes.output_size(spec, size_in))
    x, labels, weights, names = train.make_batch(prepared, config, tile, draw.integer(1, 9), draw.rng)
    require(x.shape == (config.batch, tile[0], tile[0], 2) and len(names) == config.batch, f"the batch has shape {x.shape}")
    margin = (tile[0] - tile[1]) // 2
    seen = (x * std + mean)[:, margin : margin + tile[1], margin : margin + tile[1]]
    require_close("the label", labels, np.round(side * seen[..., 0] + seen[..., 1]), rtol=0)
    require_close("the weight", weights, labels, rtol=1e-6)


@holds("training", "convention")
def each_tile_is_normalised_by_its_own_image(_: None, draw: Draw) -> None:
    """Two images that differ in brightness and contrast alone are the same to the network, also within one batch."""
    image, labels = draw.rng.uniform(10, 50, (8, 8, 1)).astype(np.float32), np.zeros((8, 8), np.int32)
    data = [Sample("dark", image, labels), Sample("bright", 3 * image + 90, labels)]
    config = settings(batch=2, augment=Augment.none())
    x, *_labels = train.make_batch(train.prepare(data, config, Normalization("image")), config, (8, 8), 1, draw.rng)
    require_close("the bright image as the network sees it", x[1], x[0], rtol=1e-5)


@holds("training", "convention")
def every_epoch_takes_every_image_once(_: None, draw: Draw) -> None:
    """Each epoch is a permutation of the images, shuffled anew, whatever the batch; all are seen equally often."""
    n, batch, epochs = draw.integer(1, 6), draw.integer(1, 4), 6
    config, zero = settings(batch=batch, tile=2, augment=Augment.none()), np.zeros((4, 4), np.int32)
    prepared = [train.Prepared(str(i), np.zeros((4, 4, 1), np.uint8), zero, None, np.zeros(1), np.ones(1)) for i in range(n)]
    steps = range(1, math.ceil(epochs * n / batch) + 1)
    names = [name for step in steps for name in train.make_batch(prepared, config, (2, 2), step, draw.rng)[3]]
    orders = [tuple(names[n * e : n * (e + 1)]) for e in range(epochs)]
    for order in orders:
        require(sorted(order) == [p.name for p in prepared], f"an epoch took {order}, expected each of {n} images once")
    require(n < 4 or len(set(orders)) > 1, "all epochs take the images in one order")


@holds("training", "convention")
def every_step_draws_anew(_: None, draw: Draw) -> None:
    """No two steps place and bend their tile alike: a network that does not change has another loss in each."""
    data = draw_data(draw, n=1)
    config = settings(seed=draw.integer(0, 1000), optimizer="sgd", lr=1e-30, augment=Augment(elastic=2.0, shift=2.0))
    losses = [record.loss for record in train.fit(UNet(UNetSpec(base=2, depth=1), 1), data, (), config)]
    require(len(set(losses)) == config.steps, f"{config.steps} steps of a network that does not change have the losses {losses}")


@holds("training", "convention")
def touching_cells_are_opened_before_training(_: None, draw: Draw) -> None:
    """Between two cells that touch, labels become background and weigh more than anything else; unknown pixels weigh 0."""
    data, border = draw_data(draw, n=2), 2 * draw.integer(1, 2)
    kept = [sample.labels.copy() for sample in data]
    for sample, labels, ready in zip(data, kept, train.prepare(data, settings(border=border), Normalization()), strict=True):
        row = int(np.flatnonzero(labels[:, 5] == 1)[0]) + 2  # through the middle of both cells, which meet between 5 and 6
        opened = list(range(6 - border // 2, 6 + border // 2))
        line = [0 if c in opened or not 2 <= c < 11 else 1 for c in range(14)]
        require(ready.labels[row].tolist() == line, f"a row of labels is {ready.labels[row].tolist()}, expected {line}")
        weights = np.asarray(ready.weights)
        require(float(weights[row, opened].min()) > float(weights[ready.labels == 1].max()),
                "the gap between two cells does not weigh more than the cells")
        require(not weights[labels == IGNORE].any(), "a pixel of unknown class has a weight")
        require_close("the label of the sample itself", sample.labels, labels, rtol=0)


# A run ---------------------------------------------------------------------------------------------------------------


@holds("training", "convention")
def one_image_is_learnt_by_heart(_: None, draw: Draw) -> None:
    """A small network fits one image: in forty steps the loss falls to less than half of what guessing costs."""
    rows, cols = np.mgrid[:8, :10]
    labels = ((rows - draw.integer(2, 4)) ** 2 + (cols - draw.integer(3, 6)) ** 2 < 6).astype(np.int32)
    image = (labels[..., None] + 0.2 * draw.rng.standard_normal((8, 10, 1))).astype(np.float32)
    data = Dataset((Sample("disc", image, labels),))
    config = TrainConfig(steps=40, lr=0.05, tile=10, weight_map="none", augment=Augment.none(), schedule="constant")
    *_before, last = train.fit(UNet(SAME.but(base=4)), data, (), config)
    require(last.loss < math.log(2) / 2, f"after forty steps the loss is {last.loss:.3g}, guessing costs {math.log(2):.3g}")


@holds("training", "contract")
def same_seed_same_bytes(_: None, draw: Draw) -> None:
    """A run is a function of its seed: the same weights to the last bit, and others with another seed."""
    spec, data, seed = draw.choice((VALID, SAME)), draw_data(draw), draw.integer(0, 10**6)
    one, two, other = (state_bytes(run(spec, data, settings(seed=s, steps=2))[0]) for s in (seed, seed, seed + 1))
    require(one == two, "the same seed gave two different networks")
    require(one != other, "another seed gave the same network")


@holds("training", "contract")
def a_resumed_run_ends_with_the_same_bytes(_: None, draw: Draw) -> None:
    """A run left after any step and resumed writes the checkpoint of a run never left, byte for byte, momentum included."""
    spec, data, stop = draw.choice((VALID, SAME)), draw_data(draw), draw.integer(1, 3)
    config = settings(optimizer=draw.choice(("adam", "sgd")), momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        run(spec, data, config, out=whole)
        run(spec, data, config, stop, out=parts)
        _model, records = run(spec, data, config, out=parts, resume=True)
        require([r.step for r in records] == list(range(stop + 1, 5)), f"resumed steps are {[r.step for r in records]}")
        for name in ("last.safetensors", "best.safetensors"):
            written = [(f / name).read_bytes() if (f / name).exists() else b"" for f in (whole, parts)]
            require(written[0] == written[1], f"{name}, resumed after {stop} of 4 steps, differs from that of a whole run")


@holds("training", "contract")
def validating_changes_no_weight(_: None, draw: Draw) -> None:
    """Validating after every step, or only at the end, gives the same network: statistics, dropout and order are left alone."""
    spec, data = draw.choice((VALID, SAME)), draw_data(draw)
    often, once = (state_bytes(run(spec, data, settings(validate_every=k))[0]) for k in (1, 4))
    changed = [name for name in often if often[name] != once[name]]
    require(not changed, f"{changed[:1]} depends on how often the run validates")


@holds("training", "contract")
def a_run_starts_from_gradients_of_zero(_: None, draw: Draw) -> None:
    """What was done with the network before, a backward pass or predictions in eval mode, has no part in the run."""
    data, config = draw_data(draw), settings(steps=2)
    clean, used = UNet(SAME, 1), UNet(SAME, 1)
    for grad in used.grads().values():
        grad[...] = draw.rng.standard_normal(grad.shape)
    used.eval()
    for model in (clean, used):
        list(train.fit(model, data, (), config))
    require(state_bytes(clean) == state_bytes(used), "gradients from before the run moved its weights")


@holds("training", "convention")
def the_best_step_is_kept(_: None, draw: Draw) -> None:
    """best.safetensors is the first step of the highest quality, the mean of IoU and SEG; last.safetensors the last step."""
    data = draw_data(draw)
    with tempfile.TemporaryDirectory() as folder:
        model, records = run(SAME, data, settings(steps=5, lr=0.05, validate_every=1), out=folder)
        scores = [record.scores.as_dict() for record in records if record.scores is not None]
        quality = [math.nan if s["mean_iou"] is None else (s["mean_iou"] + s["seg"]) / 2 for s in scores]
        known = [q for q in quality if not math.isnan(q)]
        if known:
            best, step = checkpoint.load_checkpoint(Path(folder) / "best.safetensors").step, quality.index(max(known)) + 1
            require(best == step, f"best.safetensors is of step {best}, the highest quality is that of step {step}")
        last = checkpoint.load_checkpoint(Path(folder) / "last.safetensors")
        require(last.step == 5, f"last.safetensors is of step {last.step}, expected 5")
        require(state_bytes(last.model) == state_bytes(model), "last.safetensors does not hold the network that was trained")


@holds("training", "contract")
def a_run_that_overflows_stops(_: None, draw: Draw) -> None:
    """A loss that is not finite stops the run with step and learning rate, and the last checkpoint is finite."""
    data = draw_data(draw)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(UNetSpec(base=2, depth=1), data, settings(optimizer="sgd", lr=1e30, warmup=0, save_every=1), out=folder)
        except TrainingError as stopped:
            require("step" in str(stopped) and "learning rate" in str(stopped), f"the message names no step: {stopped}")
        else:
            require(False, "a run with a learning rate of 1e30 went through")
        last = Path(folder) / "last.safetensors"
        if last.exists():
            finite = all(np.isfinite(a).all() for a in checkpoint.load_checkpoint(last).model.state().values())
            require(finite, "the last checkpoint holds NaN or infinite weights")


# Splits --------------------------------------------------------------------------------------------------------------


def draw_split(draw: Draw) -> tuple[Dataset, float, int]:
    """Images that are only names, a share, and how many of them that is."""
    n, percent = draw.integer(2, 30), draw.integer(1, 99)
    blank = np.zeros((1, 1, 1), np.uint8)
    data = Dataset(tuple(Sample(str(i), blank, blank[..., 0].astype(np.int32)) for i in range(n)))
    return data, percent / 100, min(max(round(percent / 100 * n), 1), n - 1)


def names(data: Dataset) -> list[int]:
    """Which images these are."""
    return [int(sample.name) for sample in data]


@holds("splits", "reference")
def a_block_split_cuts_the_end_off(_: None, draw: Draw) -> None:
    """The last round(fraction n) images validate, at least one and not all; no image is in both parts."""
    data, fraction, m = draw_split(draw)
    train_part, val_part = splits.block_split(data, fraction)
    n = len(data)
    require(names(train_part) == list(range(n - m)), f"to train on are {names(train_part)}, expected the first {n - m} of {n}")
    require(names(val_part) == list(range(n - m, n)), f"to validate on are {names(val_part)}, expected the last {m} of {n}")


@holds("splits", "invariance")
def a_random_split_parts_all_images(_: None, draw: Draw) -> None:
    """Every image is in one part and one only, each part keeps its order, and round(fraction n) validate."""
    data, fraction, m = draw_split(draw)
    train_part, val_part = (names(part) for part in splits.random_split(data, fraction, draw.rng))
    require(sorted(train_part + val_part) == list(range(len(data))), f"{train_part} and {val_part} are not all images, each once")
    require(len(val_part) == m, f"{len(val_part)} images validate, expected {m}")
    require(train_part == sorted(train_part) and val_part == sorted(val_part), "a part is not in the order of the data set")


@holds("splits", "contract")
def a_random_split_follows_its_seed(_: None, draw: Draw) -> None:
    """The same seed gives the same split, and over many seeds every image validates about equally often."""
    n, seed = 6, draw.integer(0, 10**6)
    blank = np.zeros((1, 1, 1), np.uint8)
    data = Dataset(tuple(Sample(str(i), blank, blank[..., 0].astype(np.int32)) for i in range(n)))
    drawn = [names(splits.random_split(data, 0.5, np.random.default_rng(s))[1]) for s in (seed, seed)]
    require(drawn[0] == drawn[1], f"the same seed drew {drawn[0]} and {drawn[1]}")
    counts = Counter(i for _s in range(200) for i in names(splits.random_split(data, 0.5, draw.rng)[1]))
    far = max(abs(counts[i] - 100) for i in range(n))
    require(far < 50, f"of 200 splits into halves an image validates in {100 + far} or {100 - far}, not about 100")  # 7 sigma


@holds("splits", "contract")
def impossible_shares_are_refused(_: None, draw: Draw) -> None:
    """A share of 0, 1, more or NaN is refused with its value."""
    data, _fraction, _m = draw_split(draw)
    wrong = draw.choice((0.0, 1.0, 1.5, -0.2, math.nan))
    for rng in (None, draw.rng):
        try:
            _parts = splits.random_split(data, wrong, rng) if rng else splits.block_split(data, wrong)
        except ConfigError as refusal:
            require(str(wrong) in str(refusal), f"the refusal of {wrong} must name it: {refusal}")
        else:
            require(False, f"a share of {wrong} was taken")


# Normalisation -------------------------------------------------------------------------------------------------------


OF_AN_IMAGE: tuple[Mode, ...] = ("image", "percentile")
"""Modes whose statistics are those of the image itself."""


def draw_image(draw: Draw) -> Array:
    """An image whose channels differ in mean and contrast."""
    c = draw.integer(1, 3)
    return draw.rng.normal(draw.rng.uniform(-50, 50, c), draw.rng.uniform(1, 20, c), (draw.integer(2, 9), draw.integer(2, 9), c))


def normalised(normalization: Normalization, image: Array) -> Array:
    """(x - mean) / std"""
    mean, std = normalization.stats(image)
    return (image - mean) / std


@holds("normalization", "convention")
def an_image_gets_mean_0_and_deviation_1(_: None, draw: Draw) -> None:
    """Mode "image" takes mean and standard deviation of each channel of each image by itself."""
    image = draw_image(draw)
    x = normalised(Normalization("image"), image)
    require_close("the mean", x.mean((0, 1)) + 1, np.ones(x.shape[-1]), rtol=1e-4)
    require_close("the deviation", x.std((0, 1)), np.ones(x.shape[-1]), rtol=1e-4)


@holds("normalization", "invariance")
def brightness_and_contrast_do_not_matter(_: None, draw: Draw) -> None:
    """Modes "image" and "percentile" give a x + b, a > 0, the values of x; "none" gives x itself."""
    image, a, b = draw_image(draw), draw.integer(1, 20) / 4, float(draw.integer(-50, 50))
    for mode in OF_AN_IMAGE:
        one, two = (normalised(Normalization(mode), x) for x in (image, a * image + b))
        require_close(f"the normalised image, mode {mode}", two, one, rtol=1e-3)
    require_close("the image, mode none", normalised(Normalization("none"), image), image, rtol=0)


@holds("normalization", "reference")
def percentiles_are_counted(_: None, draw: Draw) -> None:
    """Mode "percentile" maps the 1st and the 99.8th percentile of each channel to -2 and 2."""
    image = draw_image(draw)
    x = normalised(Normalization("percentile"), image)
    for share, value in ((LOW, -2.0), (HIGH, 2.0)):
        ordered = np.sort(x.reshape(-1, x.shape[-1]), axis=0)
        at = share / 100 * (len(ordered) - 1)
        i = math.floor(at)
        between = ordered[i] + (at - i) * (ordered[min(i + 1, len(ordered) - 1)] - ordered[i])
        require_close(f"the {share:g} % percentile", between, np.full(x.shape[-1], value), rtol=1e-4)


@holds("normalization", "reference")
def a_data_set_is_one_heap_of_pixels(_: None, draw: Draw) -> None:
    """Mode "dataset" takes mean and deviation over all pixels of all training images, not the mean of the images' means."""
    c = draw.integer(1, 3)
    images = [draw.rng.normal(draw.integer(-20, 20), 1 + i, (draw.integer(1, 6), draw.integer(2, 6), c)) for i in range(3)]
    fitted = Normalization.fit("dataset", images)
    pixels = np.concatenate([image.reshape(-1, c) for image in images])
    require_close("the mean", fitted.mean, pixels.mean(0), rtol=1e-9)
    require_close("the deviation", fitted.std, pixels.std(0), rtol=1e-9)
    mean, std = fitted.stats(draw.rng.normal(500, 1, (2, 2, c)))
    require_close("the mean for another image", mean, fitted.mean, rtol=1e-6)
    require_close("the deviation for another image", std, fitted.std, rtol=1e-6)


@holds("normalization", "convention")
def only_training_images_count(_: None, draw: Draw) -> None:
    """The statistics in a checkpoint are those of the training images, whatever the validation's look like."""
    data = draw_data(draw)
    bright = Sample("bright", data[2].image // 4 + 190, data[2].labels, data[2].instances)
    with tempfile.TemporaryDirectory() as folder:
        run(SAME, Dataset((data[0], data[1], bright)), settings(steps=1, normalization="dataset"), out=folder)
        stored = checkpoint.load_checkpoint(Path(folder) / "last.safetensors").normalization
    pixels = np.concatenate([data[i].image.ravel() for i in range(2)]).astype(np.float64)
    require_close("the stored mean", stored.mean, [pixels.mean()], rtol=1e-9)
    require_close("the stored deviation", stored.std, [pixels.std()], rtol=1e-9)


@holds("normalization", "convention")
def a_constant_image_becomes_zero(_: None, draw: Draw) -> None:
    """A channel without contrast is divided by 1, so that it becomes 0 and not NaN or noise."""
    value = draw.choice((0.0, 0.1, 255.0, -3.7, 1e6))
    image = np.full((draw.integer(1, 9), draw.integer(1, 9), 1), value)
    for mode in OF_AN_IMAGE:
        x = normalised(Normalization(mode), image)
        require(float(np.abs(x).max()) <= 1e-6 * max(1.0, abs(value)), f"{value:g} everywhere becomes {np.abs(x).max():g}, not 0")


@holds("normalization", "contract")
def prediction_sees_what_training_saw(_: None, draw: Draw) -> None:
    """Written to a checkpoint and read back, a normalisation treats an image as in training, to the last bit."""
    data, mode = draw_data(draw), draw.choice(MODES)
    normalization = Normalization.fit(mode, [sample.image for sample in data])
    seen = []

    class Watched(UNet):
        def forward(self, x: Array) -> Array:
            seen.append(x.copy())
            return super().forward(x)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        checkpoint.save_checkpoint(path, checkpoint.Checkpoint(UNet(SAME), normalization))
        again = checkpoint.load_checkpoint(path)
    again = replace(again, model=Watched(SAME))
    for sample, ready in zip(data, train.prepare(data, settings(), normalization), strict=True):
        again.predict(sample.image)
        expected = (sample.image.astype(np.float32) - ready.mean) / ready.std
        require_close("the image that the network sees", seen.pop(), expected[None], rtol=0)
