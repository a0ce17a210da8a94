"""Lesson 15: CUDA from zero. Answers are the texts of kernels; the emulator runs them, and watches every access."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, exercise
from tinyunet.errors import BackendError, CheckError, ConfigError

if TYPE_CHECKING:  # the emulator is for Linux alone
    from tinyunet.cuda.emulator import Finding, Kernel, Module, Report

Answer = Callable[[], str]
Hints = Callable[["Finding"], str]


class NotHereError(BackendError):
    """Kernels cannot be run on this computer. A notebook shows the reason alone."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


# What the notebook uses, too -----------------------------------------------------------------------------------------


def why_not_here() -> str:
    """Why no kernel can be run on this computer, "" where they can: the emulator needs Linux and a C++ compiler."""
    if sys.platform != "linux":
        return ("Kernels cannot be run here: the emulator needs Linux with g++ or clang++, and this is "
                f"{sys.platform}. Read on; the exercises wait for such a computer.")  # fmt: skip
    from tinyunet.cuda.emulator import find_compiler

    try:
        find_compiler()
    except BackendError as why:
        return f"Kernels cannot be run here. {why}"
    return ""


def raw_kernel(text: str, name: str) -> Kernel:
    """A kernel from its text, as `cupy.RawKernel(text, name)` makes it for a GPU: call it with grid, block and arguments.

    Raises NotHereError without an emulator, ConfigError if the text has no kernel of that name.
    """
    if why := why_not_here():
        raise NotHereError(why)
    return _module(text, name).get(name)


@lru_cache
def _module(text: str, name: str) -> Module:
    from tinyunet.cuda import emulator

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.cu"
        path.write_text(text, encoding="utf-8")
        return emulator.load(path)


# How answers are tried -----------------------------------------------------------------------------------------------


def _kernel(answer: Answer, name: str, declared: str) -> Kernel:
    """The answer's kernel, if it is declared as it should be."""
    text = answer()  # before the emulator is asked for: without one, an exercise that is not begun says so
    if not isinstance(text, str):
        raise CheckError(f"Your function gives {text!r}, not a text. It is to return the kernel: return \"\"\" ... \"\"\"")
    try:
        kernel = raw_kernel(text, name)
    except ConfigError as wrong:
        if "header of the system" in str(wrong):
            raise CheckError(f"{str(wrong).partition(', and')[0]}, which a GPU's compiler does not find.\n"
                             f"Hint: {NO_HEADER}") from None  # fmt: skip
        raise CheckError(f"{wrong}\nHint: begin with   extern \"C\" __global__ void {name}({declared})") from None
    signature = _module(text, name).source.kernels[name]
    both = zip(signature.types, signature.parameters, strict=True)
    found = [f"{kind} {parameter}".replace("* ", "*") for kind, parameter in both]
    if [part.split() for part in found] != [part.split() for part in declared.split(", ")]:
        raise CheckError(f"{name} takes ({', '.join(found)}).\nHint: declare it as ({declared}).")
    return kernel


def _launch(kernel: Kernel, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], hints: Hints,
            **options: Any) -> Report:  # fmt: skip
    """One launch in check mode, or another: what is found is an error, with a hint."""
    try:
        report = kernel(grid, block, args, **{"mode": "check", **options})
    except BackendError as wrong:
        if isinstance(wrong, NotHereError):
            raise
        raise CheckError(str(wrong).replace("emulator: ", "")) from None
    if report.findings:
        order = ("uninitialised read",)  # a consequence of a race, more often than not: told last
        first = min(report.findings, key=lambda finding: finding.kind in order)
        hint = hints(first)
        raise CheckError(f"grid {tuple(grid)}, block {tuple(block)}: {first}" + (f"\nHint: {hint}" if hint else ""))
    return report


def _compare(what: str, found: Array, expected: Array, lookalikes: Mapping[str, Array]) -> None:
    """Raises CheckError for values that were never written, or that are wrong."""
    if (never := int(np.isnan(found).sum())) and not np.isnan(expected).any():
        first = np.unravel_index(int(np.isnan(found).argmax()), found.shape)
        where = ", ".join(str(int(i)) for i in first)
        raise CheckError(
            f"{what} has {found.size} values, and {never} of them no thread has written (or it wrote NaN), "
            f"{what}[{where}] first.\n"
            f"Hint: {what} is full of NaN before the launch. Every value needs a thread that stores it, "
            "and a store that does not add to what was there."
        )
    if wrong := difference(what, found, expected, 1e-5):
        hint = next((hint for hint, other in lookalikes.items() if not difference(what, found, other, 1e-5)), "")
        raise CheckError(wrong + (f"\nHint: {hint}" if hint else ""))


def _nan(*shape: int) -> Array:
    """A result that was never written. Fresh memory is often zero, and hides who forgot to write."""
    return np.full(shape, np.nan, np.float32)


def _normal(draw: Draw, *shape: int) -> Array:
    return draw.rng.standard_normal(shape).astype(np.float32)


NO_HEADER = "Leave it out. fmaxf and the others are part of CUDA."
BARRIER_FOR_ALL = "A barrier is for all threads of a block. Keep it out of every if, and let no thread return before it."


# 1: bias and ReLU ----------------------------------------------------------------------------------------------------

BEYOND_N = "The last block has threads that there is no element for. Let them do nothing: if (i < n) ..."
CHANNEL = "The channel is the fastest axis of NHWC: element i belongs to channel i % C."
WHOSE_CHANNEL = "The channel follows from the element i, not from the thread's number in its block: i % C."
ALL_BLOCKS = "Does i count through all blocks? blockIdx.x * blockDim.x + threadIdx.x"


def _bias_relu_hint(finding: Finding) -> str:
    if finding.kind == "race":
        return ALL_BLOCKS
    if finding.kind == "out of bounds":
        return CHANNEL if " b[" in finding.message else BEYOND_N
    return ""


def _bias_relu(draw: Draw, answer: Answer) -> None:
    kernel = _kernel(answer, "bias_relu", "const float *x, const float *b, float *y, int n, int C")
    channels = draw.choice((3, 5, 7))
    n = channels * draw.integer(30, 40)
    n += channels * (n % 64 == 0)  # the last block is never full
    x, b, y = _normal(draw, n), _normal(draw, channels), _nan(n)
    _launch(kernel, (-(-n // 64),), (64,), (x, b, y, np.int32(n), np.int32(channels)), _bias_relu_hint)
    biases = b[np.arange(n) % channels]
    _compare("y", y, np.maximum(x + biases, 0), {
        "The bias comes before the ReLU: max(x + b, 0).": np.maximum(x, 0) + biases,
        "The ReLU is missing: max(x + b, 0).": x + biases,
        "That is the smaller of the two: negative values become 0, positive ones stay.": np.minimum(x + biases, 0),
        CHANNEL: np.maximum(x + b[np.arange(n) // channels % channels], 0),
        WHOSE_CHANNEL: np.maximum(x + b[np.arange(n) % 64 % channels], 0),
    })  # fmt: skip


exercise(
    "15.bias_relu",
    "bias_relu() -> the text of a kernel: y[i] = max(x[i] + b[channel of i], 0)",
    laws=(_bias_relu,),
    mistakes=(
        Mistake(BEYOND_N, edits=(("if (i < n) ", ""),)),
        Mistake(BEYOND_N, edits=(("i < n", "i <= n"),)),
        Mistake(ALL_BLOCKS, edits=(("blockIdx.x * blockDim.x + ", ""),)),
        Mistake(CHANNEL, edits=(("i % C", "i / C"),)),
        Mistake(WHOSE_CHANNEL, edits=(("i % C", "threadIdx.x % C"),)),
        Mistake(NO_HEADER, edits=(('extern "C"', '#include <math.h>\nextern "C"'),)),
        Mistake("The bias comes before the ReLU", edits=(("fmaxf(x[i] + b[i % C], 0.0f)", "fmaxf(x[i], 0.0f) + b[i % C]"),)),
        Mistake("no thread has written", edits=(("y[i] = ", "y[i] += "),)),
        Mistake("does not compile", edits=(("0.0f);", "0.0f)"),)),
        Mistake('begin with   extern "C" __global__ void bias_relu(', edits=(("void bias_relu", "void relu_bias"),)),
    ),
)


# 2: a convolution along a row ----------------------------------------------------------------------------------------

TILE_FULL = "The tile is filled by many threads and read by others: between the two stands a __syncthreads()."
HALO = "64 outputs need 66 values: the two beyond the block's own are the halo, and somebody must load them."
ROW_END = "A row of L values has L - 2 outputs. Guard the load by the values that there are, the store by the outputs."
REUSE = "Load each value of x once into shared memory, and let the three outputs that need it read it from there."
TURNED = "The kernel is turned round: w[0] meets the left value, x[i]."


def _conv_row_hint(finding: Finding) -> str:
    return {
        "race": TILE_FULL,
        "out of bounds": ROW_END if " x[" in finding.message or " y[" in finding.message else HALO,
        "uninitialised read": HALO,
        "divergent barrier": BARRIER_FOR_ALL, "return before barrier": BARRIER_FOR_ALL, "deadlock": BARRIER_FOR_ALL,
    }.get(finding.kind, "")  # fmt: skip


def _conv_row(draw: Draw, answer: Answer) -> None:
    kernel = _kernel(answer, "conv_row", "const float *x, const float *w, float *y, int L")
    length = draw.choice((100, 131, 150, 187))  # 98, 129, 148 and 185 outputs: two or three blocks, the last one not full
    x, w, y = _normal(draw, length), _normal(draw, 3), _nan(length - 2)
    blocks = -(-(length - 2) // 64)
    arguments = (x, w, y, np.int32(length))
    for schedule in ("index", "random"):
        _launch(kernel, (blocks,), (64,), arguments, _conv_row_hint, schedule=schedule, seed=5)
    _compare("y", y, np.correlate(x, w, "valid"), {TURNED: np.convolve(x, w, "valid")})
    report = _launch(kernel, (blocks,), (64,), arguments, _conv_row_hint, mode="trace")
    loads = sum(line.lanes for line in report.lines if line.array == "x" and line.kind == "load")
    if loads > blocks * 66:
        raise CheckError(f"y is right, but your threads load {loads} values of x, which has {length}. {blocks} blocks of 66 are "
                         f"{66 * blocks}.\nHint: {REUSE}")  # fmt: skip


exercise(
    "15.conv_row",
    "conv_row() -> the text of a kernel: a convolution along a row, each value of x loaded once for a block",
    laws=(_conv_row,),
    mistakes=(
        Mistake(TILE_FULL, edits=(("  __syncthreads();\n", ""),)),
        Mistake(HALO, edits=(("k < 66", "k < 64"),)),
        Mistake(HALO, edits=(("tile[66]", "tile[64]"),)),
        Mistake(ROW_END, edits=(("if (start + k < L) ", ""),)),
        Mistake(ROW_END, edits=(("i < L - 2", "i < L"),)),
        Mistake(BARRIER_FOR_ALL, edits=(("  for (int k", "  if (i >= L - 2) return;\n  for (int k"),)),
        Mistake(TURNED, edits=(("tile[t] * w[0] + tile[t + 1] * w[1] + tile[t + 2] * w[2]",
                                "tile[t] * w[2] + tile[t + 1] * w[1] + tile[t + 2] * w[0]"),)),
        Mistake(REUSE, edits=(("tile[t] * w[0] + tile[t + 1] * w[1] + tile[t + 2] * w[2]",
                               "x[i] * w[0] + x[i + 1] * w[1] + x[i + 2] * w[2]"),)),
    ),
)  # fmt: skip


# 3: transposition ----------------------------------------------------------------------------------------------------

EDGE = "R and C need not be multiples of 32. Guard the load by the shape of x, (R, C), and the store by that of y, (C, R)."
NEIGHBOURS = "The lanes of a warp differ in threadIdx.x. In x and in y, neighbouring lanes are to touch neighbours in memory."
PADDING = "The lanes read a column of the tile, 32 floats apart: all from one bank. Make its rows one float longer."
NOT_MOVED = "The tile itself has to move, too: the block at (blockIdx.x, blockIdx.y) of x lands at (blockIdx.y, blockIdx.x) of y."
WHICH = "What belongs to y[c, r] is x[r, c]. In which row and column of the tile was it put? No other place holds it."


def _transpose_hint(finding: Finding) -> str:
    return {
        "race": NOT_MOVED if " of block " in finding.message.partition("which")[2] else TILE_FULL,
        "out of bounds": EDGE,
        "uninitialised read": WHICH,
        "divergent barrier": BARRIER_FOR_ALL, "return before barrier": BARRIER_FOR_ALL, "deadlock": BARRIER_FOR_ALL,
    }.get(finding.kind, "")  # fmt: skip


def _transpose(draw: Draw, answer: Answer) -> None:
    kernel = _kernel(answer, "transpose", "const float *x, float *y, int R, int C")
    rows, columns = draw.integer(33, 50), draw.integer(66, 90)
    x, y = _normal(draw, rows, columns), _nan(columns, rows)
    grid = -(-columns // 32), -(-rows // 32)
    for schedule in ("index", "reverse"):
        _launch(kernel, grid, (32, 32), (x, y, np.int32(rows), np.int32(columns)), _transpose_hint, schedule=schedule)
    _compare("y", y, x.T, {"That is x itself, in the shape of y.": x.reshape(columns, rows)})


def _transpose_traffic(draw: Draw, answer: Answer) -> None:
    kernel = _kernel(answer, "transpose", "const float *x, float *y, int R, int C")
    rows, columns = draw.choice(((64, 32), (32, 64), (64, 64)))  # no edges: there the counts are exact
    x, y = _normal(draw, rows, columns), _nan(columns, rows)
    arguments = (x, y, np.int32(rows), np.int32(columns))
    report = _launch(kernel, (columns // 32, rows // 32), (32, 32), arguments, _transpose_hint, mode="trace")
    for line in sorted(report.lines, key=lambda line: line.array == "shared"):
        if line.ratio > 1:
            where = f"Line {line.line}, {line.code.strip()}\n{line.kind} of {line.array}: "
            if line.array == "shared":
                raise CheckError(f"y is right, but {where}{line.passes} passes over the banks where {line.ideal} would do.\n"
                                 f"Hint: {PADDING}")  # fmt: skip
            raise CheckError(f"y is right, but {where}{line.sectors} sectors where {line.ideal} would do.\nHint: {NEIGHBOURS}")


exercise(
    "15.transpose",
    "transpose() -> the text of a kernel: y = x^T, in whole sectors and without bank conflicts",
    laws=(_transpose, _transpose_traffic),
    mistakes=(
        Mistake(PADDING, edits=(("tile[32][33]", "tile[32][32]"),)),
        Mistake(NEIGHBOURS, edits=(("y[c * R + r] = tile[threadIdx.x][threadIdx.y]", "y[column * R + row] = x[row * C + column]"),
                                   ("if (r < R && c < C)", "if (row < R && column < C)"))),
        Mistake(TILE_FULL, edits=(("  __syncthreads();\n", ""),)),
        Mistake(EDGE, edits=(("if (r < R && c < C) ", ""),)),
        Mistake(EDGE, edits=(("if (row < R && column < C) ", ""),)),
        Mistake(WHICH, edits=(("tile[threadIdx.x][threadIdx.y];", "tile[threadIdx.y][threadIdx.x];"),)),
        Mistake(EDGE, edits=(("y[c * R + r]", "y[c * C + r]"),)),
    ),
)  # fmt: skip
