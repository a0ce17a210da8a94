"""PyTorch's side of benchmarks/cpu.py: the paper's network as one writes it there, and the gradients of one convolution.

Layouts: "nchw" is PyTorch's own, "channels_last" the one that its CPU kernels like better for many shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tinyunet import UNetSpec

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def to_torch(x: np.ndarray, layout: str) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), stored in the layout"""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).contiguous(memory_format=LAYOUTS[layout])


def convolution(x: np.ndarray, w: np.ndarray, dy: np.ndarray, layout: str) -> dict[str, Callable[[], np.ndarray]]:
    """Forward and both gradients of a valid 3x3 convolution without bias; each gives its result in our layout."""
    tx, tdy = to_torch(x, layout), to_torch(dy, layout)
    tw = torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))).contiguous(memory_format=LAYOUTS[layout])

    def backward(wanted: list[bool]) -> Tensor:
        found = torch.ops.aten.convolution_backward(tdy, tx, tw, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted)
        return found[wanted.index(True)]

    return {
        "forward": lambda: functional.conv2d(tx, tw).detach().permute(0, 2, 3, 1).numpy(),
        "grad_x": lambda: backward([True, False, False]).permute(0, 2, 3, 1).numpy(),
        "grad_w": lambda: backward([False, True, False]).permute(2, 3, 1, 0).numpy(),
    }


def double(c_in: int, c: int, drop: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (c_in, c):
        layers += [nn.Conv2d(before, c, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout(0.5)] if drop else []))


class Paper(nn.Module):
    """Figure 1 of the paper, with dropout at the end of the contracting path, as `tinyunet.PAPER` has it."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        c = [spec.base * 2**level for level in range(spec.depth + 1)]
        drop, levels = spec.dropout > 0, range(spec.depth)
        self.down = nn.ModuleList(
            double(c[k - 1] if k else spec.channels, c[k], drop and k == spec.depth - 1) for k in levels
        )
        self.bottom = double(c[-2], c[-1], drop)
        self.up = nn.ModuleList(nn.ConvTranspose2d(c[k + 1], c[k], 2, 2) for k in reversed(levels))
        self.join = nn.ModuleList(double(c[k + 1], c[k]) for k in reversed(levels))
        self.head = nn.Conv2d(c[0], spec.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join in zip(self.up, self.join, strict=True):
            x, skip = up(x), skips.pop()
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            x = join(torch.cat([x, skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]], 1))
        return self.head(x)


def network(spec: UNetSpec, layout: str) -> Any:
    return Paper(spec).to(memory_format=LAYOUTS[layout])


def training_step(spec: UNetSpec, x: np.ndarray, labels: np.ndarray, layout: str) -> Callable[[], None]:
    """Forward, loss, backward, SGD with momentum: what our step does, and no more."""
    model = network(spec, layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.99)
    tx, target = to_torch(x, layout), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(tx), target).backward()
        optimizer.step()

    return step


def prediction(spec: UNetSpec, x: np.ndarray, layout: str) -> Callable[[], np.ndarray]:
    """Probabilities of one batch."""
    model = network(spec, layout).eval()
    tx = to_torch(x, layout)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return model(tx).softmax(1).numpy()

    return predict
