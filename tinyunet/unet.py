"""The network, wired by hand, twice: `forward` goes down the page, `backward` takes the same lines in reverse order.

    image -> down.0 ---------------- skip ----------------> up.0 -> head -> logits
               pool -> down.1 ------ skip ------> up.1 -> upconv
                         pool -> ... skip ... -> upconv
                                   bottom

Where one map goes two ways, its two gradients meet again and add. That happens once a level: at the fork between the pooling
and the skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import numpy as np

from tinyunet import ops, shapes
from tinyunet.backend import Array, Device, choose, device_of, move, require_together
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.layers import BatchNorm, Conv, CropConcat, Dropout, Hook, Layer, MaxPool, ReLU, Unary, UpConv
from tinyunet.spec import UNetSpec


class DoubleConv:
    """Twice: 3x3 convolution, batch norm if the spec has it, ReLU. Then dropout, at the end of the contracting path."""

    def __init__(
        self, name: str, c_in: int, c_out: int, spec: UNetSpec, rng: np.random.Generator, dropout: bool = False
    ) -> None:
        self.layers: list[Unary] = []
        for i, c in ((1, c_in), (2, c_out)):
            self.layers.append(Conv(f"{name}.conv{i}", c, c_out, 3, spec.padding, rng))
            if spec.norm == "batch":
                self.layers.append(BatchNorm(f"{name}.norm{i}", c_out))
            self.layers.append(ReLU(f"{name}.relu{i}"))
        if dropout and spec.dropout > 0:
            self.layers.append(Dropout(f"{name}.dropout", spec.dropout, rng))

    def forward(self, x: Array) -> Array:
        """(N, H, W, C) -> (N, H - 4, W - 4, O), or the same H and W with same padding"""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array) -> Array:
        """dy -> dx"""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy


class Down:
    """One level of the contracting path. What leaves `block` goes two ways: through the pooling, and across as a skip."""

    def __init__(self, level: int, c_in: int, c_out: int, spec: UNetSpec, rng: np.random.Generator) -> None:
        self.block = DoubleConv(f"down.{level}", c_in, c_out, spec, rng, dropout=level == spec.depth - 1)
        self.pool = MaxPool(f"down.{level}.pool")

    @property
    def layers(self) -> list[Layer]:
        """In forward order."""
        return [*self.block.layers, self.pool]


class Up:
    """One level of the expansive path: up-convolution, crop and concatenate, two convolutions."""

    def __init__(self, level: int, c_in: int, c_out: int, spec: UNetSpec, rng: np.random.Generator) -> None:
        c_up = c_in if level == 0 and not spec.last_up_halves else c_in // 2
        self.upconv = UpConv(f"up.{level}.upconv", c_in, c_up, rng)
        self.relu = ReLU(f"up.{level}.relu") if spec.relu_after_up else None
        self.concat = CropConcat(f"up.{level}.concat")
        self.block = DoubleConv(f"up.{level}", c_up + c_out, c_out, spec, rng)

    @property
    def layers(self) -> list[Layer]:
        """In forward order."""
        return [self.upconv, *([self.relu] if self.relu else []), self.concat, *self.block.layers]


class UNet:
    """A U-Net made from a spec. Returns logits; `predict` gives probabilities for any image size.

    The weights are drawn from `rng`, a generator or a seed (0 unless given).
    """

    def __init__(self, spec: UNetSpec | None = None, rng: np.random.Generator | int = 0) -> None:
        self.spec = spec = spec if spec is not None else UNetSpec()
        rng = np.random.default_rng(rng)
        widths = [spec.base * 2**level for level in range(spec.depth + 1)]
        self.down = [Down(k, widths[k - 1] if k else spec.channels, widths[k], spec, rng) for k in range(spec.depth)]
        self.bottom = DoubleConv("bottom", widths[-2], widths[-1], spec, rng, dropout=True)
        self.up = [Up(k, widths[k + 1], widths[k], spec, rng) for k in reversed(range(spec.depth))]  # in forward order
        self.head = Conv("head", widths[0], spec.classes, 1, "valid", rng)

    # The lesson: two functions that mirror each other line by line --------------------------------------------------

    def forward(self, x: Array) -> Array:
        """(N, H, W, channels) -> (N, H - 2 margin, W - 2 margin, classes) logits

        With valid convolutions the output is smaller than the image (572 -> 388); `predict` hides that, training does not.

        Raises ShapeError with the nearest sizes that fit.
        """
        self._check_input(x)
        skips = []
        for down in self.down:
            x = down.block.forward(x)
            skips.append(x)
            x = down.pool.forward(x)
        x = self.bottom.forward(x)
        for up in self.up:
            x = up.upconv.forward(x)
            x = up.relu.forward(x) if up.relu else x
            x = up.concat.forward(x, skips.pop())
            x = up.block.forward(x)
        return self.head.forward(x)

    def backward(self, dy: Array) -> Array:
        """(N, H - 2 margin, W - 2 margin, classes) gradient of the logits -> (N, H, W, channels) gradient of the image

        Adds to the gradients of all parameters.

        Raises OrderError without a forward pass before it.
        """
        require_together("UNet.backward", "the network", self.head.params["w"], dy)
        dskips = []
        dx = self.head.backward(dy)
        for up in reversed(self.up):
            dx = up.block.backward(dx)
            dx, dskip = up.concat.backward(dx)
            dskips.append(dskip)
            dx = up.relu.backward(dx) if up.relu else dx
            dx = up.upconv.backward(dx)
        dx = self.bottom.backward(dx)
        for down in reversed(self.down):
            dx = down.pool.backward(dx)
            dx += dskips.pop()  # the map went two ways, so its gradients add
            dx = down.block.backward(dx)
        return dx

    # What training, checkpoints and visualisation need ---------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """Every layer in the order of the forward pass, named as in `tinyunet.shapes.layers`."""
        down = [layer for level in self.down for layer in level.layers]
        up = [layer for level in self.up for layer in level.layers]
        return [*down, *self.bottom.layers, *up, self.head]

    def params(self) -> dict[str, Array]:
        """All trained arrays by dotted name: "down.0.conv1.w"."""
        return {f"{layer.name}.{key}": value for layer in self.layers for key, value in layer.params.items()}

    def grads(self) -> dict[str, Array]:
        """Their gradients by the same names."""
        return {f"{layer.name}.{key}": value for layer in self.layers for key, value in layer.grads.items()}

    def state(self) -> dict[str, Array]:
        """All arrays that make up the network: parameters, and the running statistics of batch norm."""
        buffers = {f"{layer.name}.{key}": value for layer in self.layers for key, value in layer.buffers.items()}
        return {**self.params(), **buffers}

    def load_state(self, state: dict[str, Array]) -> None:
        """Copy arrays into the network.

        Raises ConfigError for names that are missing or unknown, ShapeError for a shape that differs; nothing is changed then.
        """
        mine = self.state()
        if missing := sorted(mine.keys() - state.keys()):
            raise ConfigError(f"UNet.load_state: {len(missing)} arrays are missing, first {missing[0]!r}. Is the spec the same?")
        if unknown := sorted(state.keys() - mine.keys()):
            raise ConfigError(f"UNet.load_state: {len(unknown)} arrays are unknown, first {unknown[0]!r}. Is the spec the same?")
        for name, array in mine.items():
            if state[name].shape != array.shape:
                raise ShapeError(f"UNet.load_state: {name} has shape {state[name].shape}, this network needs {array.shape}.")
        for name, array in mine.items():
            array[...] = move(state[name], device_of(array))

    def zero_grad(self) -> None:
        """Set all gradients to zero; they add up otherwise."""
        for grad in self.grads().values():
            grad[...] = 0

    def train(self) -> UNet:
        """Training mode: dropout on, batch statistics in batch norm, contexts remembered."""
        return self._mode(training=True, remembering=True)

    def eval(self, remember: bool = False) -> UNet:
        """Prediction mode: no dropout, running statistics, and nothing remembered unless a backward pass is wanted."""
        return self._mode(training=False, remembering=remember)

    @property
    def training(self) -> bool:
        """Whether the network is in training mode."""
        return self.head.training

    def seed_dropout(self, rng: np.random.Generator) -> None:
        """Let dropout draw from this generator from now on."""
        for layer in self.layers:
            if isinstance(layer, Dropout):
                layer.rng = rng

    def astype(self, dtype: str) -> UNet:
        """Convert all arrays in place: "float64" for gradient checks, "complex128" for complex steps."""
        for layer in self.layers:
            for arrays in (layer.params, layer.grads, layer.buffers):
                for key, value in arrays.items():
                    arrays[key] = value.astype(dtype)
        return self

    def to(self, device: str) -> UNet:
        """Move all arrays, in place: "cuda" for the GPU, "cpu" for back, "auto" for the GPU if there is one.

        It stays the same network, and its checkpoints stay the same. An optimizer's state follows at its next step.

        Raises BackendError if there is no GPU, or no CuPy, with what to do; ConfigError for another name.
        """
        target, _ = choose(device)
        for layer in self.layers:
            layer.forget()
            for arrays in (layer.params, layer.grads, layer.buffers):
                for key, value in arrays.items():
                    arrays[key] = move(value, target)
        return self

    @property
    def device(self) -> Device:
        """Where the arrays are: "cpu" or "cuda"."""
        return device_of(self.head.params["w"])

    def find(self, pattern: str) -> Iterator[Layer]:
        """Layers by name, `*` standing for anything: `find("down.*.relu2")`.

        Raises ConfigError if there is none.
        """
        found = [layer for layer in self.layers if fnmatchcase(layer.name, pattern)]
        if not found:
            raise ConfigError(f"no layer is called {pattern!r}. There are: {', '.join(layer.name for layer in self.layers)}.")
        return iter(found)

    def hook(self, pattern: str, hook: Hook) -> None:
        """Show what passes through the matching layers to a function; `unhook` ends it."""
        for layer in self.find(pattern):
            layer.hooks.append(hook)

    def unhook(self, hook: Hook) -> None:
        """Remove a function from all layers."""
        for layer in self.layers:
            layer.hooks[:] = [h for h in layer.hooks if h is not hook]

    def __repr__(self) -> str:
        return f"UNet({self.spec}, {shapes.count_params(self.spec):,} parameters)"

    def _mode(self, training: bool, remembering: bool) -> UNet:
        for layer in self.layers:
            layer.training, layer.remembering = training, remembering
            layer.forget()
        return self

    def _check_input(self, x: Array) -> None:
        ops.contract.as_map("UNet.forward", x)
        require_together("UNet.forward", "the network", self.head.params["w"], x)
        if x.shape[3] != self.spec.channels:
            raise ShapeError(
                f"UNet.forward: the image has {x.shape[3]} channels, the network takes {self.spec.channels}. "
                f"Convert the image, or make a network with channels={x.shape[3]}."
            )
        shapes.check_size(self.spec, x.shape[1], x.shape[2], "UNet.forward")
