"""Size arithmetic: what every layer of a U-Net makes of a size, which sizes fit, what is cropped, who sees what.

Everything here follows from one list, `layers(spec)`, by walking along it; there are no magic numbers. The 572 -> 388 of
figure 1, the crops 88, 40, 16, 4, the 92 px of context and the tile stride of 384 come out of the walk.

Sizes are in pixels, memory in bytes (`MIB` converts). Levels count from 0 at the top, as in the names of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from tinyunet.errors import ShapeError
from tinyunet.spec import UNetSpec

MIB = 2**20
"""Bytes in a MiB."""

Kind = Literal["conv3x3", "conv1x1", "norm", "relu", "dropout", "pool", "upconv", "concat"]


class LayerInfo(NamedTuple):
    """One line of the layer list. For "concat", c_in counts the up path alone and c_out includes the skip."""

    name: str  # dotted, as in the network: "down.0.conv1"
    kind: Kind
    level: int
    c_in: int
    c_out: int

    @property
    def params(self) -> int:
        """Trainable numbers: weights and biases, or gamma and beta."""
        per_output = {"conv3x3": 9 * self.c_in + 1, "conv1x1": self.c_in + 1, "upconv": 4 * self.c_in + 1, "norm": 2}
        return per_output.get(self.kind, 0) * self.c_out


@lru_cache(maxsize=64)
def layers(spec: UNetSpec) -> tuple[LayerInfo, ...]:
    """Every layer of the network in the order of the forward pass."""

    def block(where: str, level: int, c_in: int, c_out: int, dropout: bool = False) -> Iterator[LayerInfo]:
        for i, c in ((1, c_in), (2, c_out)):
            yield LayerInfo(f"{where}.conv{i}", "conv3x3", level, c, c_out)
            if spec.norm:
                yield LayerInfo(f"{where}.norm{i}", "norm", level, c_out, c_out)
            yield LayerInfo(f"{where}.relu{i}", "relu", level, c_out, c_out)
        if dropout:
            yield LayerInfo(f"{where}.dropout", "dropout", level, c_out, c_out)

    def walk() -> Iterator[LayerInfo]:
        c, width = spec.channels, spec.base
        for level in range(spec.depth):
            width = spec.base * 2**level
            yield from block(f"down.{level}", level, c, width, dropout=spec.dropout > 0 and level == spec.depth - 1)
            yield LayerInfo(f"down.{level}.pool", "pool", level, width, width)
            c = width
        yield from block("bottom", spec.depth, c, 2 * c, dropout=spec.dropout > 0)
        c = 2 * c
        for level in reversed(range(spec.depth)):
            width = spec.base * 2**level
            up = c if level == 0 and not spec.last_up_halves else c // 2
            yield LayerInfo(f"up.{level}.upconv", "upconv", level, c, up)
            if spec.relu_after_up:
                yield LayerInfo(f"up.{level}.relu", "relu", level, up, up)
            yield LayerInfo(f"up.{level}.concat", "concat", level, up, up + width)
            yield from block(f"up.{level}", level, up + width, width)
            c = width
        yield LayerInfo("head", "conv1x1", 0, c, spec.classes)

    return tuple(walk())


def count_params(spec: UNetSpec) -> int:
    """Trainable numbers of the whole network: 31,030,658 for the paper's."""
    return sum(layer.params for layer in layers(spec))


# ---------------------------------------------------------------------------------------------------------------------
# One size through the network
# ---------------------------------------------------------------------------------------------------------------------


class Crop(NamedTuple):
    """Pixels that a concatenation cuts off its skip. An odd difference cuts one pixel more at the bottom and right."""

    top: int
    bottom: int
    left: int
    right: int


def center_crop(skip: tuple[int, int], up: tuple[int, int]) -> Crop:
    """How to cut a skip map of (height, width) down to the centre that meets the up path's map.

    Raises ShapeError where the skip is the smaller of the two.
    """
    dh, dw = skip[0] - up[0], skip[1] - up[1]
    if dh < 0 or dw < 0:
        raise ShapeError(
            f"center_crop: a {skip[0]}x{skip[1]} skip cannot be cropped to {up[0]}x{up[1]}. The skip comes from the contracting "
            "path and must be at least as large as the map it is joined to."
        )
    return Crop(dh // 2, dh - dh // 2, dw // 2, dw - dw // 2)


class Step(NamedTuple):
    """What one layer makes of one size."""

    layer: LayerInfo
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    crop: Crop | None  # of the skip, for a concatenation

    @property
    def macs(self) -> int:
        """Multiply-adds of the forward pass on one image (2 FLOP each); 0 for layers without weights."""
        pixels = self.out_size[0] * self.out_size[1]
        taps = {"conv3x3": 9, "conv1x1": 1, "upconv": 1}  # an up-convolution reads one input pixel per output pixel
        return pixels * taps.get(self.layer.kind, 0) * self.layer.c_in * self.layer.c_out

    def remembered(self, itemsize: int = 4) -> int:
        """Bytes that training keeps of one image for the backward pass: an input, a mask, or which pixel won.

        Each array is counted once, at the layer that keeps it.
        """
        pixels_in, pixels_out = self.in_size[0] * self.in_size[1], self.out_size[0] * self.out_size[1]
        match self.layer.kind:
            case "conv3x3" | "conv1x1" | "upconv" | "norm":
                return pixels_in * self.layer.c_in * itemsize
            case "relu":
                return self.out_size[0] * -(-self.out_size[1] * self.layer.c_out // 8)  # one bit each, packed row by row
            case "dropout" | "pool":
                return pixels_out * self.layer.c_out  # one byte each: a bool, or the winner's index
            case _:
                return 0


class _MisfitError(Exception):
    """A size stopped fitting; the public functions turn this into a ShapeError that names the remedy."""


def _walk(spec: UNetSpec, height: int, width: int) -> Iterator[Step]:
    shrink = 2 if spec.padding == "valid" else 0
    size = (height, width)
    skips: list[tuple[int, int]] = []
    for layer in layers(spec):
        before, crop = size, None
        h, w = size
        match layer.kind:
            case "conv3x3":
                size = (h - shrink, w - shrink)
                if min(size) < 1:
                    raise _MisfitError(f"{layer.name} would be left with nothing of a {h}x{w} map")
            case "pool":
                if h % 2 or w % 2:
                    raise _MisfitError(f"level {layer.level} (down.{layer.level}) would pool an odd {h}x{w}")
                skips.append(size)
                size = (h // 2, w // 2)
            case "upconv":
                size = (2 * h, 2 * w)
            case "concat":
                crop = center_crop(skips.pop(), size)
        yield Step(layer, before, size, crop)


@lru_cache(maxsize=256)
def trace(spec: UNetSpec, height: int, width: int | None = None) -> tuple[Step, ...]:
    """Every layer with its sizes for one image of height x width pixels (square if one number is given).

    Raises ShapeError with the nearest sizes that fit if this one does not.
    """
    check_size(spec, height, height if width is None else width)
    return tuple(_walk(spec, height, height if width is None else width))


@lru_cache(maxsize=4096)
def fits(spec: UNetSpec, n: int) -> bool:
    """Whether an image side of n pixels goes through the network. Height and width are independent."""
    try:
        for _ in _walk(spec, n, n):
            pass
    except _MisfitError:
        return False
    return True


def check_size(spec: UNetSpec, height: int, width: int, who: str = "UNet") -> None:
    """Raise the ShapeError that a size deserves: where it stops fitting, and the nearest sizes that fit."""
    try:
        for _ in _walk(spec, height, width):
            pass
    except _MisfitError as misfit:
        if height == width:
            near = ", ".join(map(str, nearest_sizes(spec, height)))
        else:
            axes = (("height", height), ("width", width))
            near = "; ".join(f"{axis} {' or '.join(map(str, nearest_sizes(spec, n)))}" for axis, n in axes)
        raise ShapeError(
            f"{who}: a {height}x{width} image does not fit depth {spec.depth} with {spec.padding} convolutions: {misfit}. "
            f"Nearest sizes that work: {near}." + (" `predict` takes any size." if who != "tile_spans" else "")
        ) from None


@lru_cache(maxsize=64)
def smallest_size(spec: UNetSpec) -> int:
    """The smallest image side that fits: 188 at depth 4, valid; 16 at depth 4, same."""
    n = 1
    while not fits(spec, n):
        n += 1
    return n


def nearest_sizes(spec: UNetSpec, n: int) -> tuple[int, ...]:
    """The size itself if it fits, else the nearest fitting one below (if there is one) and the nearest above."""
    if fits(spec, n):
        return (n,)
    above = legal_size(spec, n)
    below = above - size_step(spec)
    return (below, above) if below >= smallest_size(spec) else (above,)


def size_step(spec: UNetSpec) -> int:
    """Fitting sizes are this far apart: 2^depth, because each pooling halves."""
    return int(2**spec.depth)


def legal_size(spec: UNetSpec, at_least: int) -> int:
    """The smallest fitting image side of at least this many pixels."""
    smallest, step = smallest_size(spec), size_step(spec)
    return smallest + step * max(0, -((smallest - at_least) // step))


def output_size(spec: UNetSpec, n: int) -> int:
    """Side of the output for an input side of n pixels: 572 -> 388. Raises ShapeError if n does not fit."""
    return trace(spec, n)[-1].out_size[0]


def input_size(spec: UNetSpec, at_least_out: int) -> int:
    """The smallest fitting input side whose output covers this many pixels: 388 -> 572."""
    return legal_size(spec, at_least_out + 2 * margin(spec))


def margin(spec: UNetSpec) -> int:
    """Pixels on each side of the input that the output does not have: 92 at depth 4, valid; 0 with same padding."""
    n = smallest_size(spec)
    return (n - output_size(spec, n)) // 2


# ---------------------------------------------------------------------------------------------------------------------
# Receptive field
# ---------------------------------------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """How far one output pixel sees, in pixels before and after its own place in the input."""

    before: int
    after: int

    @property
    def size(self) -> int:
        """Width of the receptive field in pixels."""
        return self.before + 1 + self.after


def receptive_field(spec: UNetSpec) -> tuple[Reach, ...]:
    """Exact reach of an output pixel along one axis, for each of the 2^depth phases of its position.

    It is not one number. Poolings see the image in cells of 2^depth pixels, and where a pixel lies in its cell decides how
    far it sees: at depth 4, 188 px for 4 of 16 phases and 204 px for the others. The walk goes from the output to the
    input and widens an interval; at a concatenation it splits, at the matching pooling it joins again.

    -> 2^depth values; phase p holds for every output index i with i mod 2^depth = p
    """
    conv = (0, 2) if spec.padding == "valid" else (-1, 1)
    crops = {s.layer.level: s.crop.left for s in trace(spec, smallest_size(spec)) if s.crop}
    shift = margin(spec)

    def reach(i: int) -> Reach:
        low = high = i
        pending: list[tuple[int, int]] = []  # intervals that wait on the skips
        for layer in reversed(layers(spec)):
            match layer.kind:
                case "conv3x3":
                    low, high = low + conv[0], high + conv[1]
                case "concat":
                    pending.append((low + crops[layer.level], high + crops[layer.level]))
                case "upconv":
                    low, high = low // 2, high // 2
                case "pool":
                    skip_low, skip_high = pending.pop()
                    low, high = min(2 * low, skip_low), max(2 * high + 1, skip_high)
        return Reach(i + shift - low, high - (i + shift))

    return tuple(reach(phase) for phase in range(size_step(spec)))


# ---------------------------------------------------------------------------------------------------------------------
# Tiles
# ---------------------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """One tile along one axis, in image coordinates; what lies outside the image is mirrored."""

    start: int  # pixels [start, stop) of the result come from this tile
    stop: int
    in_start: int  # the network is fed [in_start, in_stop)
    in_stop: int
    offset: int  # of `start` in the network's output


def tile_spans(spec: UNetSpec, n: int, tile: int) -> tuple[Span, ...]:
    """Cover n result pixels with inputs of `tile` pixels so that the tiles agree with the whole image exactly.

    Shifting the input of a U-Net shifts its output only if the shift is a multiple of 2^depth, the grid of its poolings.
    So tiles start at multiples of 2^depth. The 388-px outputs of the paper's network laid edge to edge would not agree
    with one another (388 is no multiple of 16); a stride of 384 does.

    valid padding: the input reaches `margin` pixels beyond the result on each side, into the mirrored border.
    same padding: a tile keeps only pixels that its own zero border cannot have reached; at the edge of the image the
    tile ends where the image (filled up to a multiple of 2^depth by mirroring) ends, as it does for the whole image.

    Raises ShapeError for a tile that does not fit the network or keeps no pixel.
    """
    if n < 1:
        raise ShapeError(f"tile_spans: an image side of {n} pixels cannot be tiled. Give at least 1.")
    check_size(spec, tile, tile, "tile_spans")
    step = size_step(spec)
    if spec.padding == "valid":
        border, keep = margin(spec), output_size(spec, tile)
        stride = keep // step * step
        if stride == 0 and keep < n:
            raise ShapeError(
                f"tile_spans: a tile of {tile} gives {keep} pixels, less than the {step} that keep tiles aligned. "
                f"Use at least {legal_size(spec, step + 2 * border)}."
            )
        starts = [0]
        while starts[-1] + keep < n:
            starts.append(starts[-1] + stride)
        stops = [*starts[1:], n]
        return tuple(Span(a, z, a - border, a - border + tile, 0) for a, z in zip(starts, stops, strict=True))

    whole = -(-n // step) * step
    if tile >= whole:
        return (Span(0, n, 0, whole, 0),)
    halo = -(-max(max(r) for r in receptive_field(spec)) // step) * step
    stride = (tile - 2 * halo) // step * step
    if stride < step:
        raise ShapeError(
            f"tile_spans: a tile of {tile} keeps nothing beside a halo of {halo} pixels on both sides. "
            f"Use at least {2 * halo + step}."
        )
    spans = []
    for start in range(0, n, stride):
        in_start, in_stop = max(0, start - halo), min(whole, start + stride + halo)
        spans.append(Span(start, min(n, start + stride), in_start, in_stop, start - in_start))
    return tuple(spans)


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------


def workspace_bytes(spec: UNetSpec, threads: int = 1) -> int:
    """Bytes in which convolutions work, beside their maps: 4 MiB and 0.1 MiB for each channel of the widest map, a thread.

    Each thread keeps the strips and transformed kernels of `tinyunet.rungs` that it has used. What they take is bounded by the
    sizes of strips and blocks there, and grows with the channels; the 0.1 is ours, and a test holds networks to it.
    """
    widest = max(layer.c_out for layer in layers(spec))
    return threads * (4 * MIB + widest * MIB // 10)


@lru_cache(maxsize=1024)
def forward_bytes(spec: UNetSpec, height: int, width: int | None = None, itemsize: int = 4, threads: int = 1) -> int:
    """Peak memory of predicting one image, in bytes: the maps that are alive at the worst layer, and the workspace.

    Alive at a layer are its input, its output, its mask (relu, dropout, pool) and the skips on the way.
    """
    peak = 0
    skips: list[int] = []
    for s in trace(spec, height, width):
        inputs = s.in_size[0] * s.in_size[1] * s.layer.c_in * itemsize
        outputs = s.out_size[0] * s.out_size[1] * s.layer.c_out * itemsize
        peak = max(peak, inputs + outputs + s.remembered(itemsize) * (s.layer.kind in ("relu", "dropout", "pool")) + sum(skips))
        if s.layer.kind == "pool":
            skips.append(inputs)
        elif s.layer.kind == "concat":
            skips.pop()
    return peak + workspace_bytes(spec, threads)


def training_bytes(
    spec: UNetSpec,
    height: int,
    width: int | None = None,
    batch: int = 1,
    moments: int = 1,
    threads: int = 1,
    workspace: int | None = None,
) -> int:
    """Peak memory of one training step in float32, in bytes: all arrays that are alive at its worst layer.

    maps at the worst layer, forward or backward + workspace + parameters, gradients and `moments` more of each (1 for SGD with
    momentum, 2 for Adam). Python and its libraries come on top, some 40 MiB.

    The workspace is bounded by `workspace_bytes` unless it is given; `tinyunet.planner.training_bytes` knows it exactly.
    """
    maps = batch * max(_maps_alive(trace(spec, height, width)))
    space = workspace_bytes(spec, threads) if workspace is None else workspace
    return maps + space + (2 + moments) * 4 * count_params(spec)


def _maps_alive(steps: tuple[Step, ...]) -> Iterator[int]:
    """Bytes of the maps of one image that are alive at every layer of a training step in float32, forward and then backward.

    Forward: what is remembered so far, input and output, and the skips on the way. Backward: what is still remembered, the
    gradients dy and dx, those of the skips on the way, and the dy that a block of two convolutions began with, which its caller
    holds. A convolution lets go of its input before it makes dx. Each array counts once.
    """

    def sizes(s: Step) -> tuple[int, int]:
        (h, w), (p, q) = s.in_size, s.out_size
        return 4 * h * w * s.layer.c_in, 4 * p * q * s.layer.c_out

    remembered = 0
    skips: list[int] = []
    for s in steps:
        before, after = sizes(s)
        own = 0 if s.layer.kind in ("conv3x3", "conv1x1", "upconv") else s.remembered()  # those remember their input itself
        centred = after if s.layer.kind == "norm" else 0  # x - mean
        yield remembered + before + after + own + centred + sum(skips)
        remembered += s.remembered()
        if s.layer.kind == "pool":
            skips.append(before)
        elif s.layer.kind == "concat":
            skips.pop()

    crossing = {s.layer.level: sizes(s)[0] for s in steps if s.layer.kind == "pool"}  # bytes of each skip
    dskips: list[int] = []
    block, held = "", 0
    for s in reversed(steps):
        before, after = sizes(s)
        if s.layer.kind == "concat":
            dskips.append(crossing[s.layer.level])
        where = s.layer.name.rpartition(".")[0] if s.layer.kind in ("conv3x3", "norm", "relu", "dropout") else ""
        dx = 0 if s.layer.kind in ("conv3x3", "conv1x1", "upconv") else before
        yield remembered + dx + after + sum(dskips) + (held if where == block else 0)
        remembered -= s.remembered()
        if s.layer.kind == "pool":
            dskips.pop()
        if where != block:
            block, held = where, after if where else 0
