"""Training, without autograd: forward, loss, backward, optimizer step, each a line that you can see in `fit`.

`fit` is a generator. Whoever drives it sees every step as it happens: the command line shows a progress bar, a notebook plots, a
test takes three steps and stops.

    for record in fit(model, train, val, TrainConfig(steps=500), out="runs/first"):
        print(record.step, record.loss)

Randomness: step s of a run draws from a generator seeded by (seed, s), and epoch e is shuffled by (seed, "epoch", e). So a
run that was killed and resumed draws what it would have drawn, and ends with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyunet import ops, shapes
from tinyunet.backend import Array, array_module, move
from tinyunet.checkpoint import Checkpoint, save_checkpoint
from tinyunet.data.augment import augment_tile
from tinyunet.data.masks import default_names
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import IGNORE, Dataset, Sample, counted
from tinyunet.data.weight_map import cached_weight_map, class_weights, separate, weight_map
from tinyunet.errors import ConfigError, DataError, TrainingError
from tinyunet.evaluation import evaluate, object_bytes
from tinyunet.inference import default_tile
from tinyunet.metrics import Scores
from tinyunet.optim import SGD, Adam, Optimizer, schedule
from tinyunet.parallel import each
from tinyunet.run_folder import Log, alone_in, digest, saved_run
from tinyunet.signals import deferred
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

_EPOCH = 0x45504F43  # keeps the seeds of epochs apart from those of steps

CONSTANT = 0.999
"""If one class takes more than this share of all validated pixels, the network is reported as constant."""

EMPTY = 1e-4
"""A training image with no more than this share of foreground among its annotated pixels is reported: 26 pixels of 512 x 512."""


class StepRecord(NamedTuple):
    """What one step did."""

    step: int  # steps done, so the first is 1
    loss: float
    lr: float
    seconds: float  # of the step: batch, forward, backward, update
    data_seconds: float  # of these, for cutting and augmenting tiles; on a GPU, for waiting until that is done
    samples: tuple[str, ...]  # names of the images
    scores: Scores | None = None  # of a validation after this step
    notes: tuple[str, ...] = ()  # what a person should know: empty masks, a new best, a constant output

    def cells(self) -> list[object]:
        """Its line in log.csv, under `log_columns`."""
        line: list[object] = [self.step, f"{self.loss:.8g}", f"{self.lr:.8g}", f"{self.seconds:.4f}", f"{self.data_seconds:.4f}"]
        if (s := self.scores) is not None:
            shares = s.confusion.sum(axis=0) / max(s.confusion.sum(), 1)
            line += [f"{v:.6f}" for v in (s.mean_iou, s.mean_dice, s.pixel_error, s.seg, *shares)]
        return line


def log_columns(class_names: Sequence[str]) -> list[str]:
    """The first line of log.csv. The columns from val_iou on are empty where a step was not followed by a validation."""
    return ["step", "loss", "lr", "seconds", "data_seconds", "val_iou", "val_dice", "val_pixel_error", "val_seg",
            *(f"val_predicted_{name}" for name in class_names)]  # fmt: skip


def fit(
    model: UNet,
    train: Sequence[Sample],
    val: Sequence[Sample] = (),
    config: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    begun: Callable[[], None] | None = None,
    notice: Callable[[], None] | None = None,
) -> Iterator[StepRecord]:
    """Train a network, on the device that it is on; yields a record after every step.

    With `out` the folder receives last.safetensors (after every validation, every `save_every` steps, at the end, and when
    the loop over the records is left early), best.safetensors (highest `quality` on `val`: the mean of IoU and SEG, or IoU
    alone where no objects are annotated), log.csv, and the weight maps' cache.

    Ctrl-C waits for the end of the step in progress: its record is yielded, and the next one asked for is a KeyboardInterrupt,
    with the run saved. `notice` is called, without arguments, when Ctrl-C comes, e.g. to say so in a notebook; the library
    itself never prints. A second Ctrl-C does not wait, and what was done since the last save is lost, as after an error in the
    middle of a step.

    While a run is at work its folder is locked by the file .lock, on file systems that know locks. The system lifts the lock
    when the process ends, however it ends; a loop that was left while `fit`'s iterator lives on keeps it until `close`. `begun`
    is called, without arguments, once the folder is locked: what it writes there, no other run is reading.

    `resume` continues from last.safetensors in that folder, and gives the same result as a run that was never interrupted.
    Two settings may change: `steps`, to go on with a finished run or to end earlier (but not without a step more, for a run
    ends with a validated step), and `lr`. The learning rate then follows the schedule of the new values from there on, so that
    all but "constant" jump: a finished cosine, extended, rises again.

    Settings and images, and whether the run in the folder may be resumed, are checked by the call itself, before anything is
    written.

    Raises ConfigError for settings that do not go together, too little memory to validate, a folder that already holds a
    run, or (at the first step) one that another run is at work in; DataError for images that do not suit the network, or are
    not those that the run began with; TrainingError when the loss or a weight is no longer finite; last.safetensors is then the
    state before things went wrong.
    """
    config = config or TrainConfig()
    folder = Path(out) if out is not None else None
    class_names = train.class_names if isinstance(train, Dataset) else default_names(model.spec.classes)
    _check_data(model, train, "training")
    _check_data(model, val, "validation")
    if len(class_names) != (classes := max(model.spec.classes, 2)):
        raise DataError(
            f"fit: the data name {len(class_names)} classes ({', '.join(class_names)}), the network has {classes}. "
            "Name every class in the data set, or make the network with as many classes."
        )
    if resume and out is None:
        raise ConfigError("fit: there is no run to resume without its folder. Give out=...")
    for sample in {sample.image.shape: sample for sample in val}.values():
        try:
            default_tile(model, sample.image, config.max_mem, object_bytes(sample))
        except ConfigError as error:
            raise ConfigError(f"fit: {sample.name} could not be validated. {error}") from None
    data = digest(train, val) if folder is not None else ""
    if folder is not None:
        saved_run(folder, resume, model, config, data)
    reading = dict(train.reading) if isinstance(train, Dataset) else {}
    return _steps(model, train, val, config, folder, resume, data, class_names, reading, begun, notice)


def _steps(
    model: UNet,
    train: Sequence[Sample],
    val: Sequence[Sample],
    config: TrainConfig,
    folder: Path | None,
    resume: bool,
    data: str,
    class_names: tuple[str, ...],
    reading: dict[str, Any],
    begun: Callable[[], None] | None,
    notice: Callable[[], None] | None,
) -> Iterator[StepRecord]:
    """The generator that `fit` returns."""
    with ExitStack() as leaving:
        optimizer = make_optimizer(model, config)
        start, best, saved = 0, None, None
        normalization = Normalization.fit(config.normalization, (sample.image for sample in train))
        if folder is not None:
            leaving.enter_context(alone_in(folder))
            saved = saved_run(folder, resume, model, config, data)  # once more: it may have gone on before the lock was ours
            for leftover in (*folder.glob(".last-*.safetensors"), *folder.glob(".best-*.safetensors")):
                leftover.unlink(missing_ok=True)  # half-written files of a run that was killed while saving
        if begun is not None:
            begun()
        if saved is not None:
            start, best, normalization = saved.step, saved.best, saved.normalization
            model.load_state(saved.model.state())
            optimizer.load_state(saved.optimizer, start)
        prepared = prepare(train, config, normalization, folder / "weights" if folder is not None else None)
        tile = tile_size(model, train, config)
        validate_every = config.validate_every or max(1, config.steps // 10)
        save_every = config.save_every or validate_every
        unsaved = False  # whether the network is that of a complete step, and last.safetensors is not

        def state() -> Checkpoint:
            return Checkpoint(model, normalization, class_names, step, best, config.to_dict(), reading=reading, data=data)

        def leave() -> None:
            """Whoever drives the run has had enough, or Ctrl-C came: keep what was done since the last checkpoint."""
            if folder is not None and unsaved:
                save_checkpoint(folder / "last.safetensors", state(), optimizer)

        log_file = folder / "log.csv" if folder is not None else None
        log = leaving.enter_context(Log(log_file, log_columns(class_names), upto=start))
        leaving.callback(leave)
        model.train()
        model.zero_grad()  # of whatever was done with the network before
        batches = _batches(prepared, config, tile, range(start + 1, config.steps + 1), ahead=model.device != "cpu")
        leaving.callback(batches.close)
        for step in range(start + 1, config.steps + 1):
            with deferred(notice) as interruption:
                unsaved = False
                began = time.perf_counter()
                (x, labels, weights, names), rng = next(batches)
                data_seconds = time.perf_counter() - began

                x, labels, weights = (move(part, model.device) for part in (x, labels, weights))
                model.seed_dropout(rng)
                optimizer.lr = config.lr * schedule(config.schedule, step - 1, config.steps, config.warmup)
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what overflows is found below, and named
                    logits = model.forward(x)
                    loss, dlogits = energy(logits, labels, weights)
                    if not math.isfinite(loss):
                        model.train()  # drops what the forward pass remembered
                        raise TrainingError(_not_finite(f"the loss is {loss}", step, optimizer.lr, names, folder))
                    model.backward(dlogits)
                    optimizer.step()
                    model.zero_grad()
                _check_finite({**model.state(), **optimizer.state()}, step, optimizer.lr, names, folder)
                seconds = time.perf_counter() - began

                scores, notes = None, _empty_masks(train) if step == 1 else []
                last = step == config.steps
                if last or step % validate_every == 0:
                    if len(val):
                        scores = evaluate(
                            model, val, normalization,
                            class_names=class_names, min_size=config.min_size, max_mem=config.max_mem,
                        )  # fmt: skip
                    if scores is not None:
                        notes += _constant_output(scores)
                        # NaN where there is no foreground, neither true nor predicted: nothing to be best at.
                        numbers = scores.as_dict()
                        if not math.isnan(quality(numbers)) and (best is None or quality(numbers) > quality(best)):
                            best = {"step": step, **numbers}
                            notes.append(f"best so far: {score_text(numbers, 4)}")
                record = StepRecord(step, loss, optimizer.lr, seconds, data_seconds, names, scores, tuple(notes))
                log.write(record.cells())  # before the checkpoint: a resumed run drops a line too many, but cannot add one
                due = last or scores is not None or step % save_every == 0
                if folder is not None and due:
                    if best is not None and best["step"] == step:
                        save_checkpoint(folder / "best.safetensors", state())
                    save_checkpoint(folder / "last.safetensors", state(), optimizer)
                unsaved = not due
            yield record
            interruption.deliver()  # not before the loop has seen the step that was finished for it


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a step
# ---------------------------------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """A sample made ready once: touching objects separated, weights computed, statistics taken."""

    name: str
    image: Array  # (H, W, C) as read
    labels: Array  # (H, W) int32
    weights: Array | None  # (H, W) float32; None for 1
    mean: Array  # (C,)
    std: Array  # (C,)


def prepare(
    samples: Sequence[Sample], config: TrainConfig, normalization: Normalization, cache: Path | None = None
) -> list[Prepared]:
    """What training needs of every sample. Weight maps are kept in the folder `cache`, if given.

    Class balance is that of all samples together, so that an image with a single small cell does not weigh it a hundredfold.

    Raises DataError for labels or instances of another size than their image.
    """
    settings = config.weights()
    instances: list[Array | None] = []
    labels: list[Array] = []
    for sample in samples:
        _check_shapes(sample, "prepare: image")
        opened = separate(sample.instances, config.border) if sample.instances is not None and config.border else sample.instances
        target = sample.labels
        if opened is not None and sample.instances is not None:
            target = np.where((sample.instances > 0) & (opened == 0) & (target != IGNORE), 0, target)
        instances.append(opened)
        labels.append(target.astype(np.int32))
    balance = class_weights(labels) if settings is not None and settings.balance == "frequency" else None

    def weights_of(i: int) -> Array | None:
        if settings is None:
            return None
        if cache is None:
            return weight_map(instances[i], labels[i], settings, balance)
        return cached_weight_map(instances[i], labels[i], settings, balance, folder=cache)

    return [
        Prepared(s.name, s.image, labels[i], weights_of(i), *normalization.stats(s.image)) for i, s in enumerate(samples)
    ]


Batch = tuple[Array, Array, Array, tuple[str, ...]]
"""x, labels, weights, and the names of the samples; see `make_batch`."""


def _batches(
    prepared: Sequence[Prepared], config: TrainConfig, tile: tuple[int, int], steps: range, ahead: bool
) -> Generator[tuple[Batch, np.random.Generator]]:
    """The batch of every step, with the generator of that step as the batch has left it: dropout goes on drawing from it.

    Each step has a generator of its own, so it does not matter when a batch is made. `ahead` makes the next one in a thread
    while a step is done: where the network is on a GPU, the host would wait otherwise, and then the GPU for the host.
    """

    def batch(step: int) -> tuple[Batch, np.random.Generator]:
        rng = np.random.default_rng((config.seed, step))
        return make_batch(prepared, config, tile, step, rng), rng

    if not ahead:
        yield from map(batch, steps)
        return
    with ThreadPoolExecutor(1, "tinyunet batch") as helper:
        begun = (helper.submit(batch, step) for step in steps)  # one after another, when it is asked for
        coming = next(begun, None)
        while coming is not None:
            ready, coming = coming.result(), next(begun, None)
            yield ready


def make_batch(
    prepared: Sequence[Prepared], config: TrainConfig, tile: tuple[int, int], step: int, rng: np.random.Generator
) -> Batch:
    """The tiles of one step (counted from 1), cut at random places and augmented.

    -> x (N, in, in, C) float32, labels (N, out, out) int32, weights (N, out, out) float32, names of the samples

    Samples are taken in an order that is shuffled anew in every epoch, so that all are seen equally often.
    """
    size_in, size_out = tile
    tiles, names = [], []
    for k in range((step - 1) * config.batch, step * config.batch):
        epoch, place = divmod(k, len(prepared))
        order = np.random.default_rng((config.seed, _EPOCH, epoch)).permutation(len(prepared))
        sample = prepared[order[place]]
        height, width = sample.labels.shape
        center = (_random_center(height, size_out, rng), _random_center(width, size_out, rng))
        one = augment_tile(
            sample.image, sample.labels, sample.weights, center, (size_in, size_in), (size_out, size_out), config.augment, rng,
            std=sample.std,
        )  # fmt: skip
        tiles.append((((one.image - sample.mean) / sample.std).astype(np.float32), one.labels, one.weights))
        names.append(sample.name)
    x, labels, weights = (np.stack(parts) for parts in zip(*tiles, strict=True))
    return x, labels, weights, tuple(names)


def energy(logits: Array, labels: Array, weights: Array | None) -> tuple[float, Array]:
    """The loss and its gradient by the logits: softmax for several classes, sigmoid for one. See `tinyunet.ops.loss`."""
    if logits.shape[-1] == 1:
        loss, ctx = ops.sigmoid_cross_entropy_forward(logits, labels, weights)
        return loss, ops.sigmoid_cross_entropy_backward(ctx)
    loss, ctx = ops.softmax_cross_entropy_forward(logits, labels, weights)
    return loss, ops.softmax_cross_entropy_backward(ctx)


def make_optimizer(model: UNet, config: TrainConfig) -> Optimizer:
    """The optimizer that the settings name."""
    if config.optimizer == "sgd":
        return SGD(model, config.lr, config.momentum, config.weight_decay)
    return Adam(model, config.lr, weight_decay=config.weight_decay)


def quality(scores: Mapping[str, Any]) -> float:
    """What makes a step the best: the mean of IoU and SEG, or IoU alone where no objects are annotated; NaN if unknown.

    `scores` is what `Scores.as_dict` gives. IoU alone would prefer a network that paints touching cells as one; SEG alone
    jumps while few objects match.
    """
    iou, seg = scores["mean_iou"], scores["seg"]
    if iou is None:
        return math.nan
    return float(iou if seg is None else (iou + seg) / 2)


def score_text(scores: Mapping[str, Any], digits: int = 3) -> str:
    """"IoU 0.757, SEG 0.552"; without SEG where no objects are annotated."""
    named = {"IoU": scores["mean_iou"], "SEG": scores["seg"]}
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in named.items() if value is not None) or "no cells to score"


def tile_size(model: UNet, samples: Sequence[Sample], config: TrainConfig) -> tuple[int, int]:
    """Sides of the network's input and output in training, in pixels: the smallest that fit `config.tile`."""
    wanted = config.tile or min(388, max(max(sample.labels.shape) for sample in samples))
    size_in = shapes.input_size(model.spec, wanted)
    return size_in, shapes.output_size(model.spec, size_in)


# ---------------------------------------------------------------------------------------------------------------------
# Guards
# ---------------------------------------------------------------------------------------------------------------------


def _random_center(n: int, size: int, rng: np.random.Generator) -> int:
    """A place where the output tile lies inside the image; the middle if the image is the smaller of the two."""
    low, high = size // 2, n - size + size // 2
    return int(rng.integers(low, high + 1)) if low < high else n // 2


def _check_shapes(sample: Sample, who: str) -> None:
    """Labels and instances have a number for every pixel of the image."""
    for name in ("labels", "instances"):
        array = getattr(sample, name)
        if array is not None and array.shape != sample.image.shape[:2]:
            raise DataError(
                f"{who} {sample.name} is {sample.image.shape[:2]}, its {name} {array.shape}. "
                f"Give {name} (H, W) of the image's size."
            )


def _check_data(model: UNet, samples: Sequence[Sample], what: str) -> None:
    if what == "training" and not len(samples):
        raise DataError("fit: there are no training images.")
    classes = max(model.spec.classes, 2)
    for sample in samples:
        if sample.image.ndim != 3:
            raise DataError(
                f"fit: {what} image {sample.name} has shape {sample.image.shape}, expected (H, W, C). A grey image becomes one "
                "with image[..., None]."
            )
        if sample.image.shape[-1] != model.spec.channels:
            raise DataError(
                f"fit: {what} image {sample.name} has {sample.image.shape[-1]} channels, the network takes "
                f"{model.spec.channels}. Make the network with channels={sample.image.shape[-1]}."
            )
        _check_shapes(sample, f"fit: {what} image")
        if sample.labels.dtype.kind not in "iu" or int(sample.labels.min(initial=0)) < IGNORE:
            raise DataError(
                f"fit: {what} image {sample.name} has {sample.labels.dtype} labels from {sample.labels.min()} on. Give whole "
                f"numbers: 0 for background, 1, 2 ... for classes, {IGNORE} where unknown."
            )
        if sample.image.dtype.kind == "f" and not np.isfinite(sample.image).all():
            raise DataError(
                f"fit: {what} image {sample.name} holds NaN or infinite values. Replace them, e.g. with numpy.nan_to_num."
            )
        if (highest := int(sample.labels.max(initial=IGNORE))) >= classes:
            raise DataError(
                f"fit: {what} image {sample.name} has label {highest}, the network has classes 0 to {classes - 1}. "
                f"Make the network with classes={highest + 1}, or map the labels."
            )
    if what == "training" and all((sample.labels == IGNORE).all() for sample in samples):
        raise DataError("fit: not one training pixel is annotated.")


def _empty_masks(samples: Sequence[Sample]) -> list[str]:
    """Such images may be meant, as examples of what is no cell; more often, the masks were forgotten or read wrongly."""
    empty = [s.name for s in samples if (s.labels > 0).sum() <= EMPTY * (s.labels != IGNORE).sum()]
    if not empty:
        return []
    names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    return [
        f"{len(empty)} of {counted(len(samples), 'training image')} {'has' if len(empty) == 1 else 'have'} hardly any "
        f"foreground: {names}. If there are cells in them, check their masks, or leave them out."
    ]


def _constant_output(scores: Scores) -> list[str]:
    predicted = scores.confusion.sum(axis=0)
    truth = scores.confusion.sum(axis=1)
    k = int(predicted.argmax())
    if predicted.sum() == 0 or predicted[k] <= CONSTANT * predicted.sum() or truth[k] > CONSTANT * truth.sum():
        return []
    return [
        f"the network calls {predicted[k] / predicted.sum():.2%} of all pixels {scores.class_names[k]!r}. Early on that passes; "
        "if it stays, lower the learning rate, or check the labels."
    ]


def _check_finite(
    arrays: dict[str, Array], step: int, lr: float, names: tuple[str, ...], folder: Path | None
) -> None:
    """After every step, so that no checkpoint ever holds anything else."""
    if not _all_finite(list(arrays.values())):
        bad = next(name for name, a in arrays.items() if not _all_finite([a]))
        raise TrainingError(_not_finite(f"{bad} holds NaN or infinite values", step, lr, names, folder))


def _all_finite(arrays: list[Array]) -> bool:
    xp = array_module(*arrays)
    if xp is np:
        return all(each(lambda a: bool(np.isfinite(a).all()), arrays))
    return bool(xp.stack([xp.isfinite(a).all() for a in arrays]).all())  # on a GPU, one answer to wait for


def _not_finite(what: str, step: int, lr: float, names: tuple[str, ...], folder: Path | None) -> str:
    last = folder / "last.safetensors" if folder is not None else None
    kept = f" {last} holds the last good state." if last is not None and last.exists() else ""
    return (
        f"fit: {what} at step {step} (learning rate {lr:.3g}, images {', '.join(names)}). "
        f"Lower the learning rate, and look at these images.{kept}"
    )
