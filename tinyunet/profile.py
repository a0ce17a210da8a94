"""Where the time of a training step goes: by layer and by part, beside what the machine can do.

    profile = step_profile(tu.PAPER.but(base=16), 572)
    for entry in profile.entries:
        print(entry.layer, entry.part, entry.seconds)

Layers tell their hooks when a forward pass leaves them and when a backward pass enters them. The time between two of these
events belongs to one layer, so all times add up to the step by themselves, and nothing has to be wrapped. Within a
convolution, the ladder tells how much of it the three products took.

The measure beside each time is what the machine does at best, found by `machine_peak`: matrix products for whatever multiplies,
copying for whatever moves. Multiply-adds are those of the formula. Winograd does fewer, so its share of the peak may be above 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from tinyunet import ladder, parallel, shapes
from tinyunet.backend import Array
from tinyunet.data.normalize import Normalization
from tinyunet.data.synthetic import synthetic
from tinyunet.errors import ConfigError
from tinyunet.ladder import Direction, Rung
from tinyunet.layers import Event, Layer
from tinyunet.optim import SGD, Adam
from tinyunet.spec import UNetSpec
from tinyunet.train import energy, make_batch, prepare
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

Part = Literal["augmentation", "forward", "by input", "by weight", "elementwise", "loss", "optimizer"]

PARTS: tuple[Part, ...] = ("augmentation", "forward", "by input", "by weight", "elementwise", "loss", "optimizer")
"""In the order of a table. Elementwise is all of a network that is no product: ReLU, norm, pooling, joining, adding, db."""

PART_OF: dict[Direction, Part] = {"forward": "forward", "grad_x": "by input", "grad_w": "by weight"}

FLOAT = 4
"""Bytes of a float32."""


class Peak(NamedTuple):
    """What the machine does at best on so many threads, measured."""

    flops: float  # a second, of matrix products in float32
    bandwidth: float  # bytes a second, read and written, of a large copy
    threads: int


class Entry(NamedTuple):
    """One part of one layer; what belongs to no layer has the name of its part."""

    layer: str
    part: Part
    seconds: float
    macs: int  # multiply-adds of the formula; 0 where nothing is multiplied
    bytes: int  # that must be read or written at least: every array once

    def of_peak(self, peak: Peak) -> float:
        """The speed of this part as a share of the machine's: of products by their multiply-adds, else by bytes."""
        if self.seconds == 0:
            return 0.0
        return (2 * self.macs / peak.flops if self.macs else self.bytes / peak.bandwidth) / self.seconds


class Profile(NamedTuple):
    """A step of median length, taken apart."""

    spec: UNetSpec
    size: int
    batch: int
    entries: tuple[Entry, ...]  # of one step; their times add up to `seconds`
    seconds: float  # of this step, with the profile's own clock
    plain_seconds: float  # median of steps without it
    peak: Peak

    def total(self, part: Part | None = None, layer: str | None = None) -> Entry:
        """All entries of a part, of a layer, or of both, as one."""
        chosen = [e for e in self.entries if part in (None, e.part) and layer in (None, e.layer)]
        sums = (sum(e.seconds for e in chosen), sum(e.macs for e in chosen), sum(e.bytes for e in chosen))
        return Entry(layer or "all", part or "elementwise", *sums)

    @property
    def unaccounted(self) -> float:
        """Share of the plain step's time that the parts do not add up to; negative if the profile's clock slowed it down."""
        return 1 - sum(e.seconds for e in self.entries) / self.plain_seconds

    @property
    def layers(self) -> tuple[str, ...]:
        """Names in the order of the forward pass."""
        return tuple(dict.fromkeys(e.layer for e in self.entries))


def step_profile(
    spec: UNetSpec,
    size: int,
    batch: int = 1,
    repeats: int = 3,
    optimizer: Literal["sgd", "adam"] = "sgd",
    peak: Peak | None = None,
    seed: int = 0,
) -> Profile:
    """Train on drawn cells for `2 repeats` steps, every other one with a clock, after one to warm up.

    `size` is the side of the network's input in pixels. A step is that of `fit` without its bookkeeping: augment and cut tiles,
    forward, loss, backward, update, zero gradients.

    Raises ShapeError for a size that does not fit, ConfigError for a number below 1.
    """
    for name, value in (("batch", batch), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"step_profile: {name} is {value}. Give a whole number of at least 1.")
    side = shapes.output_size(spec, size)
    step = _Step(spec, size, side, batch, optimizer, seed)
    step.run()
    plain, profiled = [], []
    for _ in range(repeats):
        plain.append(step.run())
        profiled.append(step.watched())
    seconds, entries = sorted(profiled, key=lambda pair: pair[0])[(repeats - 1) // 2]
    return Profile(spec, size, batch, entries, seconds, statistics.median(plain), peak or machine_peak())


def machine_peak(side: int = 1536, mib: int = 64, repeats: int = 5) -> Peak:
    """How fast `tinyunet.parallel.count()` threads multiply side x side matrices, and copy arrays of `mib` MiB; the best of some.

    Each thread has matrices and arrays of its own, as the strips of a convolution have.
    """
    threads = parallel.count()
    rng = np.random.default_rng(0)
    matrices = [rng.random((3, side, side), dtype=np.float32) for _ in range(threads)]
    arrays = [np.ones((2, mib * shapes.MIB // FLOAT), np.float32) for _ in range(threads)]
    multiply = _best(lambda: parallel.each(lambda m: np.matmul(m[0], m[1], out=m[2]), matrices), repeats)
    copy = _best(lambda: parallel.each(lambda a: np.copyto(a[0], a[1]), arrays), repeats)
    return Peak(threads * 2 * side**3 / multiply, sum(a.nbytes for a in arrays) / copy, threads)


def _best(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest call after one to warm up."""
    function()
    return min(_timed(function) for _ in range(repeats))


def _timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


class _Step:
    """A network, cells to train it on, and what is done with them in a step."""

    def __init__(self, spec: UNetSpec, size: int, side: int, batch: int, optimizer: str, seed: int) -> None:
        self.spec, self.size, self.side, self.batch = spec, size, side, batch
        self.model = UNet(spec, rng=seed)
        # A step that changes next to nothing, so that all steps are alike.
        self.optimizer = SGD(self.model, lr=1e-9) if optimizer == "sgd" else Adam(self.model, lr=1e-9)
        self.config = TrainConfig(batch=batch, seed=seed)
        cells = synthetic("phase", 1, max(side, 64), np.random.default_rng(seed))
        sample = prepare(cells, self.config, Normalization(self.config.normalization))[0]
        image = np.repeat(sample.image, spec.channels, axis=2) if sample.image.shape[2] != spec.channels else sample.image
        mean, std = (np.resize(v, spec.channels) for v in (sample.mean, sample.std))
        self.prepared = [sample._replace(image=image, mean=mean, std=std)]
        self.count = 0
        self.clock = _Clock()

    def run(self) -> float:
        """One step -> its seconds. The clock is told where one part ends; it listens only if it is on."""
        self.count += 1
        rng = np.random.default_rng((self.config.seed, self.count))
        tile = (self.size, self.side)
        began = self.clock.start()
        x, labels, weights, _ = make_batch(self.prepared, self.config, tile, self.count, rng)
        self.clock.lap("augmentation", "augmentation")
        self.model.seed_dropout(rng)
        logits = self.model.forward(x)
        _, dlogits = energy(logits, labels, weights)
        self.clock.lap("loss", "loss")
        self.model.backward(dlogits)
        self.clock.backward_ends()
        self.optimizer.step()
        self.model.zero_grad()
        self.clock.lap("optimizer", "optimizer")
        return time.perf_counter() - began

    def watched(self) -> tuple[float, tuple[Entry, ...]]:
        """One step, taken apart."""
        self.clock.on = True
        self.model.hook("*", self.clock.hear)
        try:
            with ladder.watched(self.clock.watch):
                seconds = self.run()
        finally:
            self.model.unhook(self.clock.hear)
            self.clock.on = False
        return seconds, tuple(self._entries(self.clock.times))

    def _entries(self, times: dict[tuple[str, Part], float]) -> Iterable[Entry]:
        work = {(name, part): (macs, size) for name, part, macs, size in self._work()}
        names = ["augmentation", *(layer.name for layer in shapes.layers(self.spec)), "loss", "optimizer"]
        for (layer, part), seconds in sorted(times.items(), key=lambda item: (names.index(item[0][0]), PARTS.index(item[0][1]))):
            yield Entry(layer, part, seconds, *work.get((layer, part), (0, 0)))

    def _work(self) -> Iterable[tuple[str, Part, int, int]]:
        """(layer, part, multiply-adds, bytes) of everything."""
        for s in shapes.trace(self.spec, self.size):
            (h, w), (p, q) = s.in_size, s.out_size
            x, y = self.batch * h * w * s.layer.c_in * FLOAT, self.batch * p * q * s.layer.c_out * FLOAT
            if s.macs:
                once, both = self.batch * s.macs, s.layer.kind == "conv1x1"  # whose two gradients count as one
                for part in PART_OF.values():
                    yield s.layer.name, part, 2 * once if both and part != "forward" else once, x + y + FLOAT * s.layer.params
                # db, and what grads += dw moves; a bias is added on the way
                yield s.layer.name, "elementwise", 0, y + 3 * FLOAT * s.layer.params
            else:
                mask = self.batch * s.remembered() if s.layer.kind != "norm" else x
                joined = y if s.layer.kind == "concat" else x
                fork = 3 * x if s.layer.kind == "pool" else 0  # where the gradients of the two ways are added
                yield s.layer.name, "elementwise", 0, 2 * (joined + y + mask) + fork
        pixels, count = self.batch * self.side**2, shapes.count_params(self.spec)
        yield "loss", "loss", 0, pixels * FLOAT * (2 + 4 * self.spec.classes)  # labels, weights; logits, p, target, gradient
        moved = 6 if isinstance(self.optimizer, SGD) else 8  # w, v twice each, g; then zeros
        yield "optimizer", "optimizer", 0, moved * FLOAT * count


class _Clock:
    """Notes how long it was between events, as hooks of layers and watches of rungs tell of them."""

    def __init__(self) -> None:
        self.on = False
        self.times: dict[tuple[str, Part], float] = {}
        self.last = 0.0
        self.layer: Layer | None = None  # whose backward is under way
        self.parts: list[tuple[Part, float]] = []  # products since the last event, whose layer is not known yet

    def start(self) -> float:
        """Forget the last step -> the time now."""
        self.times, self.layer, self.parts = {}, None, []
        self.last = time.perf_counter()
        return self.last

    def hear(self, layer: Layer, event: Event, value: Array) -> None:
        """The hook of all layers."""
        if event == "forward":
            self._close(layer, "forward")
        else:
            self.backward_ends()
            self.layer = layer

    def watch(self, rung: Rung, direction: Direction) -> Rung:
        """The same rung, which notes its time."""

        def timed(function: Callable[..., Array]) -> Callable[..., Array]:
            def call(*arguments: Any) -> Array:
                began = time.perf_counter()
                result = function(*arguments)
                self.parts.append((PART_OF[direction], time.perf_counter() - began))
                return result

            return call

        changed: dict[str, Any] = {direction: timed(getattr(rung, direction))}
        if direction == "forward" and rung.fused is not None:
            changed["fused"] = timed(rung.fused)
        return rung._replace(**changed)

    def backward_ends(self) -> None:
        """The layer whose backward was under way, if any, is done."""
        if self.on and self.layer is not None:
            self._close(self.layer, "by input")
            self.layer = None

    def lap(self, name: str, part: Part) -> None:
        """What has passed since the last event is one part that belongs to no layer."""
        if self.on:
            self._add(name, part, self._passed())

    def _close(self, layer: Layer, direction: Part) -> None:
        """Give a layer the time since the last event: its products as the rungs noted them, the rest elementwise.

        The 1x1 head has no rungs, and its two gradients are not told apart: they count as the one by the input.
        """
        passed = self._passed()
        for part, seconds in self.parts:
            self._add(layer.name, part, seconds)
            passed -= seconds
        head = not self.parts and "w" in layer.params
        self.parts = []
        self._add(layer.name, direction if head else "elementwise", passed)

    def _passed(self) -> float:
        before, self.last = self.last, time.perf_counter()
        return self.last - before

    def _add(self, name: str, part: Part, seconds: float) -> None:
        self.times[name, part] = self.times.get((name, part), 0.0) + seconds
