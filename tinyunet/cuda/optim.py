"""Steps of the optimizers, in place: kernels/optim/."""

from __future__ import annotations

import numpy as np

from tinyunet.backend import Array
from tinyunet.cuda import runtime
from tinyunet.cuda.vectors import THREADS, blocks, ints, vector


def sgd(w: Array, g: Array, v: Array, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
    """v <- momentum v + g + weight_decay w,   w <- w - lr v

    any shape, the same for all
    """
    _run("sgd", (w, g, v), lr, momentum, weight_decay)


def adam(w: Array, g: Array, m: Array, s: Array, lr: float, beta1: float, beta2: float, eps: float, step: int,
         weight_decay: float = 0.0) -> None:  # fmt: skip
    """m <- b1 m + (1-b1) g,   s <- b2 s + (1-b2) g^2,   w <- w - lr (m / (1-b1^step)) / (sqrt(s / (1-b2^step)) + eps)

    any shape, the same for all; with weight_decay, g + weight_decay w stands for g
    """
    rate, correction = lr / (1 - beta1**step), 1 - beta2**step
    _run("adam", (w, g, m, s), rate, 1 - beta1, 1 - beta2, correction, eps, weight_decay)


def _run(name: str, arrays: tuple[Array, ...], *numbers: float) -> None:
    """One kernel over all values."""
    kind, width = vector(arrays[0].size, arrays=arrays)
    n = arrays[0].size // width
    runtime.run(f"optim/{name}.cu", f"{name}<{kind}>", blocks(n), (THREADS,), (*arrays, *ints(n), *map(np.float32, numbers)))
