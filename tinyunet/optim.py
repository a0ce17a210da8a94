"""Optimizers and learning-rate schedules.

The paper trains with momentum 0.99 and one image a step (section 3). It gives no learning rate and no schedule, nor does the
authors' release: every learning rate in tinyunet is our own choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

from tinyunet import cuda
from tinyunet.backend import Array, array_module, device_of, move
from tinyunet.errors import CheckpointError, ConfigError
from tinyunet.parallel import over_values


class Model(Protocol):
    """Whatever has parameters and gradients by the same names."""

    def params(self) -> dict[str, Array]: ...
    def grads(self) -> dict[str, Array]: ...


class Optimizer:
    """What both optimizers share: a learning rate that may be set before every step, and state arrays by name."""

    def __init__(self, model: Model, lr: float, weight_decay: float = 0.0) -> None:
        if not (lr > 0 and math.isfinite(lr)):
            raise ConfigError(f"{type(self).__name__}: the learning rate is {lr}. Give a positive number.")
        if not (weight_decay >= 0 and math.isfinite(weight_decay)):
            raise ConfigError(f"{type(self).__name__}: weight_decay is {weight_decay}. Give 0 or a positive number.")
        self.model = model
        self.lr = lr
        self.weight_decay = weight_decay
        self.steps = 0

    def step(self) -> None:
        """Change every parameter in place, by its gradient."""
        self.steps += 1
        params, grads = self.model.params(), self.model.grads()
        for name, w in params.items():
            g = grads[name]
            if self.weight_decay and w.ndim > 1:  # weights only: biases, gamma and beta are not decayed
                g = over_values(lambda w, g: g + self.weight_decay * w, w, g)
            self._update(name, w, g)

    def _update(self, name: str, w: Array, g: Array) -> None:
        raise NotImplementedError

    @staticmethod
    def _beside(w: Array, state: dict[str, Array], name: str) -> Array:
        """The state of a parameter, moved to its device: the network may have moved since the last step."""
        state[name] = move(state[name], device_of(w))
        return state[name]

    def state(self) -> dict[str, Array]:
        """Arrays to store in a checkpoint; `steps` is stored beside them."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Array], steps: int) -> None:
        """Go on where another run stopped.

        Raises CheckpointError if the arrays are not those of this optimizer.
        """
        mine = self.state()
        if mine.keys() != state.keys():
            odd = sorted(mine.keys() ^ state.keys())[0]
            raise CheckpointError(
                f"{type(self).__name__}: the stored state does not fit, see {odd!r}. Resume with the same optimizer and network."
            )
        for name, array in mine.items():
            if state[name].shape != array.shape:
                raise CheckpointError(
                    f"{type(self).__name__}: the stored {name} has shape {state[name].shape}, this network needs {array.shape}. "
                    "Resume with the same network."
                )
        for name, array in mine.items():
            array[...] = move(state[name], device_of(array))
        self.steps = steps


class SGD(Optimizer):
    """v <- momentum v + g,   w <- w - lr v

    Momentum 0.99 averages over about a hundred images, which stands in for a batch (section 3).
    """

    def __init__(self, model: Model, lr: float = 1e-3, momentum: float = 0.99, weight_decay: float = 0.0) -> None:
        super().__init__(model, lr, weight_decay)
        if not 0 <= momentum < 1:
            raise ConfigError(f"SGD: momentum is {momentum}. Give at least 0 and less than 1; the paper has 0.99.")
        self.momentum = momentum
        self.velocity = {name: array_module(w).zeros_like(w) for name, w in model.params().items()}

    def _update(self, name: str, w: Array, g: Array) -> None:
        v = self._beside(w, self.velocity, name)

        def formula(w: Array, g: Array, v: Array) -> None:
            v *= self.momentum
            v += g
            w -= self.lr * v

        if cuda.takes(w, g, v):
            cuda.optim.sgd(w, g, v, self.lr, self.momentum)
        else:
            over_values(formula, w, g, v)

    def state(self) -> dict[str, Array]:
        return {f"velocity.{name}": v for name, v in self.velocity.items()}


class Adam(Optimizer):
    """m <- b1 m + (1-b1) g,   s <- b2 s + (1-b2) g^2,   w <- w - lr (m / (1-b1^t)) / (sqrt(s / (1-b2^t)) + eps)

    Kingma, Ba 2015, algorithm 1. With weight decay lambda, w also shrinks through g + lambda w.
    """

    def __init__(
        self,
        model: Model,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(model, lr, weight_decay)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ConfigError(f"Adam: {name} is {beta}. Give at least 0 and less than 1.")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.mean = {name: array_module(w).zeros_like(w) for name, w in model.params().items()}
        self.square = {name: array_module(w).zeros_like(w) for name, w in model.params().items()}

    def _update(self, name: str, w: Array, g: Array) -> None:
        m, s = self._beside(w, self.mean, name), self._beside(w, self.square, name)
        # The corrections undo that m and s started at zero.
        rate = self.lr / (1 - self.beta1**self.steps)

        def formula(w: Array, g: Array, m: Array, s: Array) -> None:
            m += (1 - self.beta1) * (g - m)
            s += (1 - self.beta2) * (g * g - s)
            w -= rate * m / (array_module(s).sqrt(s / (1 - self.beta2**self.steps)) + self.eps)

        if cuda.takes(w, g, m, s):
            cuda.optim.adam(w, g, m, s, self.lr, self.beta1, self.beta2, self.eps, self.steps)
        else:
            over_values(formula, w, g, m, s)

    def state(self) -> dict[str, Array]:
        return {f"mean.{n}": m for n, m in self.mean.items()} | {f"square.{n}": s for n, s in self.square.items()}


ScheduleName = Literal["constant", "cosine", "poly", "step"]


def schedule(name: ScheduleName, step: int, steps: int, warmup: int = 0) -> float:
    """Factor on the learning rate at a step counted from 0, of `steps` in all; t = step / steps.

    constant   1
    cosine     (1 + cos(pi t)) / 2
    poly       (1 - t)^0.9
    step       1, then 0.1 from half of the steps on, then 0.01 from three quarters on

    During the first `warmup` steps the factor is also multiplied by (step + 1) / (warmup + 1), which grows to 1.

    Raises ConfigError for another name.
    """
    t = step / steps
    match name:
        case "constant":
            factor = 1.0
        case "cosine":
            factor = (1 + math.cos(math.pi * t)) / 2
        case "poly":
            factor = (1 - t) ** 0.9
        case "step":
            factor = 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01
        case _:
            raise ConfigError(f"there is no schedule {name!r}. Choose constant, cosine, poly or step.")
    return factor * min(1.0, (step + 1) / (warmup + 1))
