"""Layers: state without maths. Each owns its parameters, their gradients, a dotted name and one remembered context.

A layer's forward calls an op and remembers the op's context; its backward recalls the context and hands it to the op's other
half. Recalling forgets: a context is used once, so memory falls as the backward pass proceeds.

Gradients of parameters accumulate with `+=`, so that several small batches can add up to a large one. `zero_grad` starts anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array, array_module
from tinyunet.errors import OrderError
from tinyunet.init import he_normal
from tinyunet.ops.conv import Padding

Event = Literal["forward", "backward"]
Hook = Callable[["Layer", Event, Array], None]
"""Called with the layer, "forward" and its output y, or "backward" and the gradient dy of that output."""


class Layer:
    """What all layers share. Subclasses add `forward` and `backward`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.params: dict[str, Array] = {}  # trained: "w", "b", "gamma", "beta"
        self.grads: dict[str, Array] = {}  # of params, by the same names
        self.buffers: dict[str, Array] = {}  # kept but not trained: running mean and variance
        self.hooks: list[Hook] = []
        self.training = True  # dropout and batch norm behave differently
        self.remembering = True  # contexts are kept for a backward pass
        self._ctx: Any = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key} {value.shape}" for key, value in self.params.items())
        return f"{type(self).__name__}({self.name!r}{', ' + sizes if sizes else ''})"

    def add_param(self, key: str, value: Array) -> None:
        """Own a parameter and a gradient of zeros for it."""
        self.params[key] = value
        self.grads[key] = array_module(value).zeros_like(value)

    def remember(self, ctx: Any, y: Array) -> Array:
        """End of forward: keep the context for backward, show y to the hooks, return y."""
        self._ctx = ctx if self.remembering else None
        for hook in self.hooks:
            hook(self, "forward", y)
        return y

    def recall(self, dy: Array) -> Any:
        """Start of backward: show dy to the hooks, give the context back and forget it.

        Raises OrderError if there is none: backward came before forward, or twice.
        """
        if self._ctx is None:
            why = "no forward pass came before it" if self.remembering else "the network is in eval mode, which remembers nothing"
            raise OrderError(
                f"{self.name}.backward: {why}. Call forward once for every backward, in train() mode or with eval(remember=True)."
            )
        ctx, self._ctx = self._ctx, None
        for hook in self.hooks:
            hook(self, "backward", dy)
        return ctx

    def forget(self) -> None:
        """Drop a context that no backward pass will use."""
        self._ctx = None

    def accumulate(self, **grads: Array) -> None:
        """Add to the gradients: `accumulate(w=dw, b=db)`."""
        for key, value in grads.items():
            self.grads[key] += value


class Unary(Layer, ABC):
    """A layer with one input and one output."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """x -> y"""

    @abstractmethod
    def backward(self, dy: Array) -> Array:
        """dy -> dx, adding to the gradients of the parameters"""


class Conv(Unary):
    """3x3 or 1x1 convolution with a bias; see `tinyunet.ops.conv`."""

    def __init__(self, name: str, c_in: int, c_out: int, size: int, padding: Padding, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.padding = padding
        self.add_param("w", he_normal((size, size, c_in, c_out), size * size * c_in, rng))
        self.add_param("b", np.zeros(c_out, np.float32))

    def forward(self, x: Array) -> Array:
        y, ctx = ops.conv2d_forward(x, self.params["w"], self.params["b"], self.padding)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        dx, dw, db = ops.conv2d_backward(dy, self.recall(dy))
        self.accumulate(w=dw, b=db)
        return dx


class UpConv(Unary):
    """2x2 up-convolution of stride 2 with a bias; see `tinyunet.ops.upconv`."""

    def __init__(self, name: str, c_in: int, c_out: int, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.add_param("w", he_normal((2, 2, c_out, c_in), c_in, rng))
        self.add_param("b", np.zeros(c_out, np.float32))

    def forward(self, x: Array) -> Array:
        y, ctx = ops.upconv_forward(x, self.params["w"], self.params["b"])
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        dx, dw, db = ops.upconv_backward(dy, self.recall(dy))
        self.accumulate(w=dw, b=db)
        return dx


class MaxPool(Unary):
    """2x2 max-pooling; see `tinyunet.ops.pool`."""

    def forward(self, x: Array) -> Array:
        y, ctx = ops.max_pool_forward(x)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        return ops.max_pool_backward(dy, self.recall(dy))


class ReLU(Unary):
    """max(x, 0); see `tinyunet.ops.relu`. It remembers a mask, so every place in a network needs a ReLU of its own."""

    def forward(self, x: Array) -> Array:
        y, ctx = ops.relu_forward(x)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        return ops.relu_backward(dy, self.recall(dy))


class BatchNorm(Unary):
    """Batch normalisation; see `tinyunet.ops.norm`.

    In training, running statistics follow those of the batches: r <- (1 - momentum) r + momentum s, where s is the batch's mean
    or its unbiased variance, M/(M-1) times the biased one that normalises the batch. (PyTorch's rule; Keras keeps the biased
    one and calls 1 - momentum the momentum.) In eval mode the running statistics are used and left alone.
    """

    def __init__(self, name: str, channels: int, momentum: float = 0.1) -> None:
        super().__init__(name)
        self.momentum = momentum
        self.add_param("gamma", np.ones(channels, np.float32))
        self.add_param("beta", np.zeros(channels, np.float32))
        self.buffers["mean"] = np.zeros(channels, np.float32)
        self.buffers["var"] = np.ones(channels, np.float32)

    def forward(self, x: Array) -> Array:
        gamma, beta = self.params["gamma"], self.params["beta"]
        if not self.training:
            y, fixed = ops.batch_norm_eval_forward(x, gamma, beta, self.buffers["mean"], self.buffers["var"])
            return self.remember(fixed, y)
        y, ctx = ops.batch_norm_forward(x, gamma, beta)
        count = x.shape[0] * x.shape[1] * x.shape[2]
        for key, batch in (("mean", ctx.mean), ("var", ctx.var * (count / (count - 1)))):
            running = self.buffers[key]
            self.buffers[key] = ((1 - self.momentum) * running + self.momentum * batch).astype(running.dtype)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        ctx = self.recall(dy)
        adjoint = ops.batch_norm_backward if isinstance(ctx, ops.norm.BatchNormContext) else ops.batch_norm_eval_backward
        dx, dgamma, dbeta = adjoint(dy, ctx)
        self.accumulate(gamma=dgamma, beta=dbeta)
        return dx


class Dropout(Unary):
    """Dropout in training, the identity in eval mode; see `tinyunet.ops.dropout`. `rng` may be set anew before a step."""

    def __init__(self, name: str, rate: float, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.rate = rate
        self.rng = rng

    def forward(self, x: Array) -> Array:
        rate = self.rate if self.training else 0.0
        y, ctx = ops.dropout_forward(x, rate, self.rng)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> Array:
        return ops.dropout_backward(dy, self.recall(dy))


class CropConcat(Layer):
    """Joins the up path with the cropped skip; see `tinyunet.ops.crop`."""

    def forward(self, up: Array, skip: Array) -> Array:
        """up, skip -> y"""
        y, ctx = ops.crop_concat_forward(up, skip)
        return self.remember(ctx, y)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """dy -> dup, dskip"""
        return ops.crop_concat_backward(dy, self.recall(dy))
