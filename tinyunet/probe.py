"""What passes through the layers of a network: activations on the way down the page, gradients on the way back.

    with probe(model, "down.*.relu2") as seen:
        logits = model.forward(x)
        model.backward(dlogits)
    seen.y["down.0.relu2"], seen.dy["down.0.relu2"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tinyunet.backend import Array, array_module, move, to_numpy
from tinyunet.layers import Event, Layer
from tinyunet.unet import UNet


class Seen(NamedTuple):
    """What a probe saw last, by the names of the layers, in the order in which it came."""

    y: dict[str, Array]  # (N, H, W, C): what the layer gave
    dy: dict[str, Array]  # the same shape: the gradient of that


@contextmanager
def probe(model: UNet, *patterns: str) -> Iterator[Seen]:
    """Keep a copy of what leaves the matching layers, and of its gradient, while the block runs; of all layers without a pattern.

    A second forward pass replaces what was seen of the first.

    Raises ConfigError for a pattern that no layer's name fits.
    """
    seen = Seen({}, {})

    def look(layer: Layer, event: Event, values: Array) -> None:
        (seen.y if event == "forward" else seen.dy)[layer.name] = values.copy()

    wanted = {layer.name: layer for pattern in patterns or ("*",) for layer in model.find(pattern)}  # once, if two patterns fit
    for layer in wanted.values():
        layer.hooks.append(look)
    try:
        yield seen
    finally:
        model.unhook(look)


def dead_share(y: Array) -> float:
    """The share of a ReLU's channels that are 0 at every pixel of every image: they pass no gradient back.

    (N, H, W, C) -> 0 to 1
    """
    return 1.0 - float((y > 0).any(axis=(0, 1, 2)).mean())


def gradient_norms(seen: Seen) -> dict[str, float]:
    """layer -> the Euclidean norm of the gradient that came to it"""
    return {name: _norm(dy) for name, dy in seen.dy.items()}


def skip_shares(model: UNet, seen: Seen) -> dict[int, tuple[float, float]]:
    """level -> norms of the gradients that meet at its fork: through the skip, and from below through the pooling

    Needs "up.*.concat" and "down.*.pool" among what was seen. The way from below is what the pooling hands on; a maximum
    moves gradients and changes none, so its norm is that of the gradient that came to the pooling.
    """
    shares = {}
    for level, down in enumerate(model.down):
        joined = seen.dy[f"up.{level}.concat"]
        skip = joined[..., -down_channels(model, level) :]
        shares[level] = (_norm(skip), _norm(seen.dy[down.pool.name]))
    return shares


def down_channels(model: UNet, level: int) -> int:
    """Channels of a level's skip: the last ones of what is concatenated."""
    return model.spec.base * 2**level


def update_ratios(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
    """parameter -> |after - before| / |before| for weights, from two copies of `model.params()`

    About 1e-3 is what a step should change. Biases, which begin at 0, are left out.
    """
    return {name: _norm(after[name] - old) / _norm(old) for name, old in before.items()
            if name.endswith((".w", ".gamma")) and _norm(old) > 0}  # fmt: skip


def influence(model: UNet, shape: tuple[int, int], at: tuple[int, int], rng: np.random.Generator) -> Array:
    """|dy/dx|: how much each pixel of an image of random numbers moves one output pixel, added up over channels and classes.

    shape (H, W) of the image, at (row, column) of the output -> (H, W)

    Measured by a backward pass from that pixel alone. The network is left in eval mode, with its gradients as they were.
    """
    model.eval(remember=True)
    grads = {name: grad.copy() for name, grad in model.grads().items()}
    x = move(rng.standard_normal((1, *shape, model.spec.channels)).astype(model.head.params["w"].dtype), model.device)
    y = model.forward(x)
    total = np.zeros(shape)
    for k in range(y.shape[3]):
        dy = array_module(y).zeros_like(y)
        dy[0, at[0], at[1], k] = 1
        if k:
            model.forward(x)  # a backward pass uses up what forward remembered
        total += np.abs(to_numpy(model.backward(dy))[0]).sum(axis=-1)
    for name, grad in model.grads().items():
        grad[...] = grads[name]
    model.eval()
    return total


def _norm(values: Array) -> float:
    return float((values.astype("float64") ** 2).sum()) ** 0.5
