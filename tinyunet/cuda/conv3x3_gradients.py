"""Launches the gradients of the 3x3 convolution: `kernels/conv3x3_grad_x` and the ladder in `kernels/conv3x3_grad_w`.

The one place that knows how these kernels are launched. Arrays are float32, NHWC, C-contiguous, of NumPy (emulated) or CuPy.
A rung whose name has `3xtf32` where a file has `tf32` is the same file in 3xTF32: three products of TF32 for one, and nearly
the accuracy of float32.
"""

from __future__ import annotations

from tinyunet.backend import Array, array_module
from tinyunet.cuda import conv3x3, runtime, sums, tiles
from tinyunet.cuda.vectors import cpp, ints, vector
from tinyunet.errors import ConfigError

GRAD_W = {"01_naive_atomics": 75, "02_block_reduction": 75, "03_split_k": 75, "04_mma_tf32": 80, "04_mma_3xtf32": 80,
          "05_mma_tf32_pipe": 80, "05_mma_3xtf32_pipe": 80}  # fmt: skip
"""Rung of the gradient by weight -> lowest architecture, from the one that teaches to the fastest."""

GRAD_W_OF = {"01_naive": "01_naive_atomics", "02_coalesced": "02_block_reduction", "03_halo_tile": "02_block_reduction",
             "04_implicit_gemm": "03_split_k", "05_register_tile": "03_split_k", "06_pipelined": "03_split_k",
             "07_mma_tf32": "04_mma_tf32", "08_mma_tf32_pipe": "05_mma_tf32_pipe",
             "08_mma_3xtf32_pipe": "05_mma_3xtf32_pipe"}  # fmt: skip
"""The rung of the gradient by weight that goes with a rung of forward: the same means, and the same accuracy."""


def pack(w: Array) -> Array:
    """packed[r,s,o,c] = w[2-r, 2-s, c, o]: a forward convolution by it is the gradient by input

    (3, 3, C, O) -> (3, 3, O, C)
    """
    _, _, c_in, c_out = w.shape
    packed = array_module(w).empty((3, 3, c_out, c_in), w.dtype)
    grid = (-(-c_out // 32), -(-c_in // 32), 9)
    runtime.run("conv3x3_grad_x/pack.cu", "pack", grid, (32, 8), (w, packed, *ints(c_in, c_out)))
    return packed


def grad_x(rung: str, dy: Array, w: Array, pad: int) -> Array:
    """dx[n,h,v,c] = sum over r,s,o of dy[n, h-r+pad, v-s+pad, o] w[r,s,c,o], by a rung of forward

    (N, P, Q, O), (3, 3, C, O) -> (N, H, W, C)
    """
    return conv3x3.forward(rung, dy, pack(w), 2 - pad)


def grad_w(rung: str, x: Array, dy: Array, pad: int, sms: int | None = None) -> Array:
    """dw[r,s,c,o] = sum over n,i,j of x[n, i+r-pad, j+s-pad, c] dy[n,i,j,o]

    (N, H, W, C), (N, P, Q, O) -> (3, 3, C, O)

    Rungs from 03 on split the sum into shares, by the number of multiprocessors. `sms` gives another than that of the GPU:
    the same number, the same bits. In 01 the order of the sum is that of the threads, and no two runs need agree.

    Raises ConfigError for a rung that there is not.
    """
    if rung not in GRAD_W:
        raise ConfigError(f"conv3x3: the gradient by weight has no rung {rung!r}. Choose one of: {', '.join(GRAD_W)}.")
    n, height, width, c_in = x.shape
    _, rows, cols, c_out = dy.shape
    xp, file = array_module(x), f"conv3x3_grad_w/{rung.replace('3xtf32', 'tf32')}.cu"
    sizes = ints(n, height, width, c_in, c_out, pad)
    if rung == "01_naive_atomics":
        dw = xp.zeros((3, 3, c_in, c_out), x.dtype)
        runtime.run(file, "grad_w", (-(-dy.size // 256),), (256,), (x, dy, dw, *sizes))
        return dw
    if rung == "02_block_reduction":
        dw = xp.empty((3, 3, c_in, c_out), x.dtype)
        runtime.run(file, "grad_w", (9 * c_in, -(-c_out // 32)), (32, 8), (x, dy, dw, *sizes))
        return dw

    kernel, tile, shared = _instance(rung, x, dy)
    down, across = tile.grid(9 * c_in, c_out)
    slots = tile.resident * (sms or runtime.multiprocessors(x))
    splits, steps = tiles.splits(-(-n * rows * cols // tiles.DEPTH), down * across, slots)
    partials = xp.empty((splits, 9 * c_in * c_out), x.dtype)
    args = (x, dy, partials, *sizes, *ints(steps * tiles.DEPTH))
    runtime.run(file, kernel, (down, across, splits), (tile.threads,), args, shared)
    return sums.add_parts(partials).reshape(3, 3, c_in, c_out)


def _instance(rung: str, x: Array, dy: Array) -> tuple[str, tiles.Tile, int]:
    """A template with its arguments for these arrays, its tile, and the bytes of dynamic shared memory"""
    c_in, c_out = x.shape[3], dy.shape[3]
    along_c, precise = vector(c_in, arrays=(x,)).width, "3xtf32" in rung
    widths = f"{along_c}, {vector(c_out, arrays=(dy,)).width}"
    if rung == "03_split_k":
        return f"grad_w<{widths}>", tiles.FMA, 0
    if rung.startswith("04"):
        return f"grad_w<{cpp(precise)}, {widths}>", tiles.Tile(64, 64, 128, 3), 0
    columns = 64 if c_out <= 64 and along_c == 4 else 128  # fewer threads could not have a column each, of single floats
    rows = 192 if columns == 64 else 128 if 9 * c_in > 64 else 64
    shared = 4 * 4 * tiles.DEPTH * (rows + columns + 16)  # 4 stages of floats
    return f"grad_w<{rows}, {columns}, {cpp(precise)}, {widths}>", tiles.mma(rows, columns, precise), shared
