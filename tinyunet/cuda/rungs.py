"""The CUDA kernels as rungs of the ladders; `tinyunet.rungs` puts them on top of those of the CPU.

A rung of the 3x3 convolution is a file of `kernels/conv3x3/`. Its gradient by the input is the same kernel, on flipped weights;
its gradient by the weights, another sum, has a ladder of its own: `conv3x3_gradients.GRAD_W_OF` says which rung goes with which.

The precision is in the name. "fp32" adds in float32. "tf32" rounds the factors to 10 bits after the point for the tensor cores,
an error of about 3e-4. "3xtf32" splits each factor into two such numbers and is nearly as accurate as float32: what runs unless
you choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

from tinyunet import ladder
from tinyunet.backend import Array
from tinyunet.cuda import conv3x3, conv3x3_gradients, upconv2x2
from tinyunet.cuda.runtime import architecture, refusal
from tinyunet.errors import ConfigError
from tinyunet.ladder import Rung

Precision = Literal["fp32", "tf32", "3xtf32"]

WITH_EPILOGUE = tuple(name for name in conv3x3.RUNGS if name >= "04")
"""Rungs that add a bias before they write; the first three are the sum alone."""

FASTEST: dict[Precision, dict[str, str]] = {
    "fp32": {"conv3x3": "06_pipelined", "upconv2x2": "02_gemm"},
    "tf32": {"conv3x3": "08_mma_tf32_pipe", "upconv2x2": "03_mma_tf32"},
    "3xtf32": {"conv3x3": "08_mma_3xtf32_pipe", "upconv2x2": "03_mma_3xtf32"},
}


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Inside the block, convolutions run on the fastest kernels of a precision: "fp32", "tf32" or "3xtf32".

        with tinyunet.cuda.precision("tf32"):
            for record in tu.fit(model, train, val):

    Raises ConfigError for another name.
    """
    if name not in get_args(Precision):
        raise ConfigError(f"precision {name!r} is unknown. Choose one of: {', '.join(get_args(Precision))}.")
    with ladder.rung(**FASTEST[name]):
        yield


def _refuses(needs: int, x: Array, w: Array) -> str | None:
    reason = refusal(x, w)
    if reason is None and architecture(x) < needs:
        return f"it needs a GPU of compute capability {needs / 10}, this one has {architecture(x) / 10}"
    return reason


def _first_layer_refuses(x: Array, w: Array) -> str | None:
    channels = x.shape[3]
    return refusal(x, w) or (None if channels <= 4 else f"it is for images of up to 4 channels, not {channels}")


def _conv_rung(name: str, needs: int) -> Rung:
    grad_w = conv3x3_gradients.GRAD_W_OF[name]
    return Rung(
        name,
        forward=partial(conv3x3.forward, name),
        grad_x=partial(conv3x3_gradients.grad_x, name),
        grad_w=lambda x, dy, size, pad: conv3x3_gradients.grad_w(grad_w, x, dy, pad),
        refuses=partial(_refuses, needs),
        fused=partial(conv3x3.forward, name) if name in WITH_EPILOGUE else None,
        kernel=True,
    )


def _upconv_rung(name: str, needs: int) -> Rung:
    forward, grad_x, grad_w = (partial(f, name) for f in (upconv2x2.forward, upconv2x2.grad_x, upconv2x2.grad_w))
    return Rung(name, forward, grad_x, grad_w, partial(_refuses, needs), fused=forward, kernel=True)


FIRST_LAYER = Rung(
    conv3x3.FIRST_LAYER,
    forward=partial(conv3x3.forward, conv3x3.FIRST_LAYER),
    grad_x=partial(conv3x3_gradients.grad_x, "06_pipelined"),  # many channels in, one out: an ordinary convolution
    grad_w=lambda x, dy, size, pad: conv3x3.first_layer_grad_w(x, dy, pad),
    refuses=_first_layer_refuses,
    fused=partial(conv3x3.forward, conv3x3.FIRST_LAYER),
    kernel=True,
)

CONV = (*(_conv_rung(name, needs) for name, needs in conv3x3.RUNGS.items()), FIRST_LAYER)
UPCONV = tuple(_upconv_rung(name, needs) for name, needs in upconv2x2.RUNGS.items())
"""From the one that teaches to the one that runs unless another is picked."""
