"""Crop and concatenate, as a copy or inside the convolution that reads it: kernels/crop/, kernels/conv3x3/concat.cu."""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.loader import TENSOR_CORES
from tinyunet.cuda.vectors import THREADS, blocks, cpp, ints, vector
from tinyunet.errors import BackendError


def forward(up: Array, skip: Array, top: int, left: int) -> Array:
    """y[..., :C_up] = up,   y[..., C_up:] = skip[:, top : top+H, left : left+W]

    (N, H, W, C_up), (N, A, B, C_skip) -> (N, H, W, C_up + C_skip)
    """
    images, height, width, c_up = up.shape
    _, rows, columns, c_skip = skip.shape
    kind, at_once = vector(c_up, c_skip, arrays=(up, skip))
    y = array_module(up).empty((images, height, width, c_up + c_skip), up.dtype)
    n = y.size // at_once
    runtime.run("crop/forward.cu", f"crop_forward<{kind}>", blocks(n), (THREADS,),
                (up, skip, y, *ints(n, height, width, c_up // at_once, rows, columns, c_skip // at_once, top, left)))  # fmt: skip
    return y


def backward(dy: Array, c_up: int, skip_shape: tuple[int, ...], top: int, left: int) -> tuple[Array, Array]:
    """dup = dy[..., :C_up],   dskip = 0 except dskip[:, top : top+H, left : left+W] = dy[..., C_up:]

    (N, H, W, C_up + C_skip) -> (N, H, W, C_up), (N, A, B, C_skip)
    """
    return _backward(dy, (*dy.shape[:3], c_up), 0, 0, 0), _backward(dy, skip_shape, top, left, c_up)


def conv_forward(up: Array, skip: Array, top: int, left: int, w: Array, pad: int, b: Array | None = None, relu: bool = False,
                 precise: bool = True) -> Array:  # fmt: skip
    """The 3x3 convolution of forward(up, skip, top, left), which is never written; then + b, then max(0, .) if relu

    (N, H, W, C_up), (N, A, B, C_skip), (3, 3, C_up + C_skip, O), (O,) -> (N, H + 2 pad - 2, W + 2 pad - 2, O)

    In 3xTF32, with the accuracy of float32, or if not precise in TF32: on tensor cores, from sm_80 on.

    Raises BackendError for channels that the kernel does not take, and for an older GPU: see `conv_takes`.
    """
    n, height, width, c_up = up.shape
    _, rows, columns, c_skip = skip.shape
    c_out = w.shape[3]
    if not conv_takes(up, skip, w):
        raise BackendError(f"conv3x3/concat: {c_up} and {c_skip} channels to {c_out} on sm_{runtime.architecture(up)}. It needs "
                           "multiples of 16, and of 4, and sm_80. Concatenate with crop.forward, then convolve.")  # fmt: skip
    y = array_module(up).empty((n, height + 2 * pad - 2, width + 2 * pad - 2, c_out), up.dtype)
    channels = 64 if precise or c_out <= 64 else 128  # a block's tile, as `Block` of the kernel has it
    pixels = 256 if channels == 64 and not precise else 128
    threads = pixels // 64 * (channels // (32 if precise else 64)) * 32
    stage = 4 * (pixels * (16 + 4) + 16 * (channels + 8))
    grid = (-(-y.size // c_out // pixels), -(-c_out // channels))
    sizes = ints(n, height, width, c_up, rows, columns, c_skip, top, left, c_out, pad, relu)
    runtime.run("conv3x3/concat.cu", f"conv3x3_concat<{channels}, {cpp(precise)}>", grid, (threads,),
                (up, skip, w, b, y, *sizes), 4 * stage)  # fmt: skip
    return y


def conv_takes(up: Array, skip: Array, w: Array) -> bool:
    """Whether `conv_forward` can run: channels of both maps in multiples of 16, those out of 4, on tensor cores."""
    whole = up.shape[3] % 16 == skip.shape[3] % 16 == 0 and vector(w.shape[3], arrays=(up, skip, w)).width == 4
    return whole and runtime.architecture(up) >= TENSOR_CORES


def _backward(dy: Array, shape: tuple[int, ...], top: int, left: int, channel: int) -> Array:
    """What a map of some shape gets of dy."""
    _, rows, columns, channels = shape
    _, height, width, all_channels = dy.shape
    kind, at_once = vector(channels, all_channels, channel, arrays=(dy,))
    dx = array_module(dy).empty(shape, dy.dtype)
    n = dx.size // at_once
    runtime.run("crop/backward.cu", f"crop_backward<{kind}>", blocks(n), (THREADS,),
                (dy, dx, *ints(n, rows, columns, channels // at_once, height, width, all_channels // at_once,
                               top, left, channel // at_once)))  # fmt: skip
    return dx
