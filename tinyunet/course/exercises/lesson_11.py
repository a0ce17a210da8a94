"""Lesson 11: the whole network, its parameters, its wiring both ways, and what its pixels see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinyunet import shapes
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.catalogue.net import draw_image, network
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.errors import CheckError, TinyUNetError
from tinyunet.layers import CropConcat
from tinyunet.spec import PAPER, UNetSpec
from tinyunet.unet import UNet

# Parameters ----------------------------------------------------------------------------------------------------------


def _counted(channels: int, classes: int, base: int, depth: int) -> int:
    """Of the arrays of a real network."""
    return sum(p.size for p in UNet(UNetSpec(channels, classes, base, depth)).params().values())


def _miscounted(
    channels: int, classes: int, base: int, depth: int, bias: int = 1, up_taps: int = 4, joined: int = 2, bottom: bool = True,
    head: bool = True,
) -> int:  # fmt: skip
    """The same sum, with one of its rules changed."""
    total = (base + bias) * classes if head else 0
    for level in range(depth + bottom):
        c, o = base * 2 ** (level - 1) if level else channels, base * 2**level
        total += (9 * c + bias) * o + (9 * o + bias) * o
    for o in (base * 2**level for level in range(depth)):
        total += (up_taps * 2 * o + bias) * o + (9 * joined * o + bias) * o + (9 * o + bias) * o
    return total


def _some_net(draw: Draw) -> dict[str, Any]:
    ranges = {"channels": (2, 4), "classes": (2, 5), "base": (3, 6), "depth": (2, 3)}
    return {name: draw.integer(*ends) for name, ends in ranges.items()}


exercise(
    "11.count",
    "count(channels, classes, base, depth) -> the number of parameters",
    laws=(equals(_counted, _some_net, {
        "The biases are missing: every convolution has one for each output channel.": partial(_miscounted, bias=0),
        "An up-convolution has 2 x 2 taps, not 3 x 3.": partial(_miscounted, up_taps=9),
        "An up-convolution has 2 x 2 taps, each with weights of its own. You count one.": partial(_miscounted, up_taps=1),
        "The first convolution behind a concatenation reads twice as many channels: half from below, half from across.":
            partial(_miscounted, joined=1),
        "The bottom is missing: below the last pooling are two more convolutions.": partial(_miscounted, bottom=False),
        "The 1x1 convolution at the end is missing.": partial(_miscounted, head=False),
    }, what="the number of parameters", rtol=1e-12),),
    mistakes=(
        Mistake("The biases are missing", edits=(("c_in * c_out + c_out", "c_in * c_out"),)),
        Mistake("2 x 2 taps, not 3 x 3", edits=(("conv(2, 2 * width, width)", "conv(3, 2 * width, width)"),)),
        Mistake("half from below, half from across", edits=(("conv(3, 2 * width, width)", "conv(3, width, width)"),)),
        Mistake("The bottom is missing", edits=(("range(depth + 1)", "range(depth)"),)),
        Mistake("1x1 convolution at the end", edits=((" + conv(1, base, classes)", ""),)),
        Mistake("the number of parameters is", edits=(("total, c = 0, channels", "total, c = 0, 1"),)),
    ),
)  # fmt: skip

# Wiring --------------------------------------------------------------------------------------------------------------


class _Watched:
    """A concatenation that says what is wrong with what it is given."""

    def __init__(self, inner: CropConcat, skip: str, outputs: dict[str, Array]) -> None:
        self.inner, self.skip, self.outputs = inner, skip, outputs

    def forward(self, up: Array, skip: Array) -> Array:
        """up, skip -> y"""
        first, second = self._who(up), self._who(skip)
        if second != self.skip:
            swapped = " The two are exchanged: concat.forward(up, skip)." if first == self.skip else ""
            pooled = " That is behind the pooling." if second.endswith("pool") else ""
            raise CheckError(f"{self.inner.name}: its skip is {second}, expected {self.skip}, the last layer of "
                             f"that level's block.{swapped or pooled}")  # fmt: skip
        return self.inner.forward(up, skip)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """dy -> dup, dskip"""
        return self.inner.backward(dy)

    def _who(self, values: Any) -> str:
        """Which layer's output this is."""
        return next((f"what left {name}" for name, y in self.outputs.items() if np.array_equal(y, values)),
                    "nothing that a layer made")  # fmt: skip


def _laid_out(model: UNet, seen: list[str], event: str) -> SimpleNamespace:
    """The parts of a network and nothing else; what runs is written down."""
    outputs: dict[str, Array] = {}

    def look(layer: Any, what: str, values: Array) -> None:
        if what == event:
            seen.append(layer.name)
        if what == "forward":
            outputs[layer.name] = values.copy()

    model.hook("*", look)
    ups = [SimpleNamespace(upconv=up.upconv, relu=None, block=up.block,
                           concat=_Watched(up.concat, f"what left {down.block.layers[-1].name}", outputs))
           for up, down in zip(model.up, reversed(model.down), strict=True)]  # fmt: skip
    downs = [SimpleNamespace(block=down.block, pool=down.pool) for down in model.down]
    return SimpleNamespace(down=downs, bottom=model.bottom, up=ups, head=model.head)


def _run(spec: UNetSpec, answer: Callable[..., Any], parts: Any, given: Array, seen: list[str], wanted: Sequence[str]) -> Any:
    """What the answer gives; an error, or layers in another order, are told with the place in the network."""
    where = f"In a network of depth {spec.depth}"
    kept, failed = given.copy(), None
    try:
        found = answer(parts, given)
    except NotImplementedError:
        raise
    except CheckError as wrong:
        failed = str(wrong)
    except (TinyUNetError, ValueError) as error:
        after = f"in or after {seen[-1]}" if seen else "in front of the first layer"
        comes = f"; {wanted[len(seen)]} comes next" if len(seen) < len(wanted) else ""
        failed = f"Your code stops {after}{comes}.\n{type(error).__name__}: {error}"
        if isinstance(error, ValueError) and "broadcast" in str(error):
            failed += ("\nHint: the two gradients that you add differ in shape. They meet behind the pooling's backward and "
                       "in front of the block's. And the stack gives back first what came last: pop().")  # fmt: skip
        if "upconv: dy" in failed:
            failed += "\nHint: concat.backward gives two gradients, dup and dskip, in this order. The first one goes on."
    for k, (name, expected) in enumerate(zip(seen, wanted, strict=False)):
        if name != expected:
            raise CheckError(f"{where}, you run {name} {f'after {seen[k - 1]}' if k else 'first'}, expected {expected}.")
    if failed:
        raise CheckError(f"{where}: {failed}")
    if len(seen) != len(wanted):
        rest = f"{wanted[len(seen)]} is next" if len(seen) < len(wanted) else f"{seen[len(wanted)]} is run once more"
        raise CheckError(f"{where}, your code ends after {len(seen)} of {len(wanted)} layers: {rest}.")
    if not np.array_equal(given, kept):
        raise CheckError(f"{where}, your code changes the array that it was given. Write x = x + ..., or work on a copy.")
    return found


Fork = Callable[[Array, Array], Array]


def _there_and_back(model: UNet, x: Array, fork: Fork = np.add) -> tuple[Array, Callable[[Array], Array]]:
    """Every level holds all below it: no stack is needed, the recursion is one. -> y, and backward

    fork   what becomes of the gradients that come through the pooling, and through the skip
    """

    def level(k: int, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        if k == len(model.down):
            return model.bottom.forward(x), model.bottom.backward
        down, up = model.down[k], model.up[-1 - k]
        skip = down.block.forward(x)
        below, below_back = level(k + 1, down.pool.forward(skip))
        y = up.block.forward(up.concat.forward(up.upconv.forward(below), skip))

        def back(dy: Array) -> Array:
            dup, dskip = up.concat.backward(up.block.backward(dy))
            return down.block.backward(fork(down.pool.backward(below_back(up.upconv.backward(dup))), dskip))

        return y, back

    y, back = level(0, x)
    return model.head.forward(y), lambda dy: back(model.head.backward(dy))


def _small(depth: int, draw: Draw) -> tuple[UNet, Array]:
    """Deeper than one level, for a stack of one has no wrong end; never square, never as many channels in as out."""
    spec = PAPER.but(channels=draw.integer(1, 2), classes=3, base=3 if depth < 3 else 2, depth=depth, dropout=0.0)
    model, x = network(spec, draw), draw_image(spec, draw)
    return model, np.concatenate((x, x[:, :, : 2**depth]), axis=2) if x.shape[1] == x.shape[2] else x


def _forward_is_wired(draw: Draw, forward: Callable[..., Any]) -> None:
    for depth in (1, 2, 3):
        model, x = _small(depth, draw)
        expected, _ = _there_and_back(model, x)
        seen: list[str] = []
        names = [layer.name for layer in shapes.layers(model.spec)]
        found = _run(model.spec, forward, _laid_out(model, seen, "forward"), x, seen, names)
        if wrong := difference("y", found, expected):
            relu = not difference("y", found, np.maximum(expected, 0))
            hint = "\nHint: your logits are never negative. There is no ReLU behind the head." if relu else ""
            raise CheckError(f"In a network of depth {depth}, all layers run in the right order, but {wrong}{hint}")


exercise(
    "11.forward",
    "forward(net, x) -> logits, the wiring of a U-Net of any depth",
    laws=(_forward_is_wired,),
    mistakes=(
        Mistake("behind the pooling", edits=(("skips.append(x)\n        x = down.pool.forward(x)",
                                              "x = down.pool.forward(x)\n        skips.append(x)"),)),
        Mistake("expected what left down.1.relu2", edits=(("skips.pop()", "skips.pop(0)"),)),
        Mistake("The two are exchanged", edits=(("(x, skips.pop())", "(skips.pop(), x)"),)),
        Mistake("head is next", edits=(("net.head.forward(x)", "x"),)),
        Mistake("after bottom.relu2; up.1.upconv comes next", edits=(("in net.up:", "in reversed(net.up):"),)),
        Mistake("bottom.conv1 comes next", edits=(("x = net.bottom.forward(x)", "pass"),)),
        Mistake("no ReLU behind the head", edits=(("return net.head.forward(x)", "return np.maximum(net.head.forward(x), 0)"),)),
        Mistake("y is None", edits=(("return net.head", "net.head"),)),
    ),
)  # fmt: skip

FORKS: dict[str, Fork] = {
    "The gradient that came through the skip is missing. The map went two ways, so two gradients come back: add them.":
        lambda pooled, skip: pooled,
    "The gradient that came through the pooling is missing. The map went two ways, so two gradients come back: add them.":
        lambda pooled, skip: skip,
    "At the fork you take the mean of the two gradients. The chain rule wants their sum.":
        lambda pooled, skip: (pooled + skip) / 2,
    "At the fork you subtract. The chain rule wants the sum.": lambda pooled, skip: pooled - skip,
}  # fmt: skip


def _backward_is_wired(draw: Draw, backward: Callable[..., Any]) -> None:
    for depth in (1, 2, 3):
        model, x = _small(depth, draw)
        dy = draw.rng.standard_normal(_there_and_back(model, x)[0].shape)

        def gradients(backward: Callable[[Array], Any], model: UNet = model) -> dict[str, Any]:
            model.zero_grad()
            return {"the image": backward(dy), **{name: g.copy() for name, g in model.grads().items()}}  # noqa: B023

        def by(fork: Fork, model: UNet = model, x: Array = x) -> dict[str, Any]:
            return gradients(_there_and_back(model, x, fork)[1], model)

        expected = by(np.add)
        _there_and_back(model, x)
        seen: list[str] = []
        names = [layer.name for layer in reversed(shapes.layers(model.spec))]
        parts = _laid_out(model, seen, "backward")
        found = gradients(lambda dy: _run(model.spec, backward, parts, dy, seen, names), model)  # noqa: B023
        for name, value in expected.items():
            if wrong := difference(f"the gradient of {name}", found[name], value):
                text = f"In a network of depth {depth}, all layers run in the right order, but {wrong}"
                for hint, fork in FORKS.items():
                    if not any(difference("", found[key], other) for key, other in by(fork).items()):
                        text += f"\nHint: {hint}"
                raise CheckError(text)


exercise(
    "11.backward",
    "backward(net, dy) -> dx, the same wiring in the other direction",
    laws=(_backward_is_wired,),
    mistakes=(
        Mistake("through the skip is missing", edits=((" + dskips.pop()", ""),)),
        Mistake("through the pooling is missing", edits=(("dx = down.pool.backward(dx) + dskips.pop()",
                                                          "down.pool.backward(dx)\n        dx = dskips.pop()"),)),
        Mistake("you take the mean", edits=(("down.pool.backward(dx) + dskips.pop()",
                                                                           "(down.pool.backward(dx) + dskips.pop()) / 2"),)),
        Mistake("gives back first what came last", edits=(("dskips.pop()", "dskips.pop(0)"),)),
        Mistake("behind the pooling's backward", edits=(("down.pool.backward(dx) + dskips.pop()",
                                                              "down.pool.backward(dx + dskips.pop())"),)),
        Mistake("you run up.1.relu2 after head, expected up.0.relu2", edits=(("reversed(net.up)", "net.up"),)),
        Mistake("expected down.1.pool", edits=(("reversed(net.down)", "net.down"),)),
        Mistake("dup and dskip, in this order", edits=(("dx, dskip = up", "dskip, dx = up"),)),
        Mistake("through the skip is missing", bug="skip_gradient_not_added"),
        Mistake("gives back first what came last", bug="skip_gradients_in_wrong_order"),
    ),
    ours=UNet.backward,
)  # fmt: skip

# What a pixel sees ---------------------------------------------------------------------------------------------------


def _by_sets(i: int, depth: int) -> tuple[int, int]:
    """The set of input pixels behind every pixel of every map, carried forward as the bits of a whole number."""
    step = 2**depth
    n = -(-(i + 1 + 12 * step - 8 - 4 * (step - 1)) // step) * step + 4 * (step - 1)
    row = [1 << k for k in range(n)]

    def block(row: list[int]) -> list[int]:
        for _ in range(2):
            row = [a | b | c for a, b, c in zip(row, row[1:], row[2:], strict=False)]
        return row

    skips = []
    for _ in range(depth):
        row = block(row)
        skips.append(row)
        row = [a | b for a, b in zip(row[::2], row[1::2], strict=True)]
    row = block(row)
    for _ in range(depth):
        skip, row = skips.pop(), [bits for bits in row for _ in range(2)]
        off = (len(skip) - len(row)) // 2
        row = block([a | b for a, b in zip(row, skip[off:], strict=False)])
    return (row[i] & -row[i]).bit_length() - 1, row[i].bit_length() - 1


def _walked(i: int, depth: int, conv: int = 4, bottom: bool = True, last: int = 1, round_up: bool = False) -> tuple[int, int]:
    """The walk with one of its rules changed."""
    low = high = i
    for _ in range(depth):
        low, high = low // 2, (high + conv + round_up) // 2
    high += conv * bottom
    for _ in range(depth):
        low, high = 2 * low, 2 * high + last + conv
    return low, high


def _output_pixel(draw: Draw) -> dict[str, Any]:
    """Odd, so that it shows which way a half is rounded."""
    depth = draw.integer(2, 4)
    return {"i": 2**depth + 2 * draw.integer(0, 2**depth) + 1, "depth": depth}


exercise(
    "11.reach",
    "reach(i, depth) -> (low, high), the input pixels behind output pixel i",
    laws=(equals(_by_sets, _output_pixel, {
        "Pixel k of a pooled map is made of 2k and 2k + 1. Your interval ends at 2 high.": partial(_walked, last=0),
        "Every level has two convolutions, and each reads 2 pixels more.": partial(_walked, conv=2),
        "A 3x3 convolution reads 3 pixels for 1: that is 2 more, not 3.": partial(_walked, conv=6),
        "The two convolutions at the bottom are missing.": partial(_walked, bottom=False),
        "Back through an up-convolution, both ends are rounded down: 2k and 2k + 1 both come from k.":
            partial(_walked, round_up=True),
        "You return the width. Return the first and the last pixel.":
            lambda i, depth: _walked(i, depth)[1] - _walked(i, depth)[0] + 1,
        "That is right but for the place: count from the first pixel of the input, not from the pixel's own.":
            lambda i, depth: tuple(k - i - (6 * 2**depth - 4) for k in _walked(i, depth)),
    }, what="(low, high)", rtol=1e-12),),
    mistakes=(
        Mistake("Your interval ends at 2 high", edits=(("2 * high + 1", "2 * high"),)),
        Mistake("Every level has two convolutions", edits=(("high += 4  # two convolutions", "high += 2"),
                                                           ("    high += 4\n    for", "    high += 2\n    for"),
                                                           ("        high += 4\n    return", "        high += 2\n    return"))),
        Mistake("at the bottom are missing", edits=(("    high += 4\n    for", "    for"),)),
        Mistake("both ends are rounded down", edits=(("low // 2, high // 2", "low // 2, (high + 1) // 2"),)),
        Mistake("You return the width", edits=(("return low, high", "return high - low + 1"),)),
        Mistake("(low, high), part 1", edits=(("low, high = low // 2, high // 2", "low, high = 2 * low, 2 * high + 1"),)),
    ),
)  # fmt: skip
