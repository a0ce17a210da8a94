"""Runs CUDA kernels on the CPU, without a GPU, from the same .cu files and by the same call.

    from tinyunet.cuda import emulator

    kernel = emulator.load("conv3x3/03_halo_tile.cu").get("conv3x3")
    kernel(grid, block, (x, w, y, ...))                        # runs: y holds the result
    print(kernel(grid, block, (x, w, y, ...), mode="check"))   # races, barriers, bounds: file, line, block, thread
    print(kernel(grid, block, (x, w, y, ...), mode="trace"))   # sectors and bank passes of every line

Every CUDA thread is a fiber: a stack of its own, switched at barriers and warp collectives, on one thread of the system.
The kernel is compiled by g++ or clang++, which must be installed; compiled kernels are kept in the user's cache folder.

What it cannot tell: speed, registers and spills, the rounding inside tensor cores, and what only the GPU's compiler refuses.
Of races it knows barriers and atomics, not orders made by hand with __threadfence() and flags, which it reports. An index
past one __shared__ array that lands in another of the same kernel counts as that other.
"""

from tinyunet.cuda.emulator.build import cache_folder, find_compiler
from tinyunet.cuda.emulator.launch import Kernel, Module, load
from tinyunet.cuda.emulator.report import PROBLEMS, Finding, Line, Report, Totals

__all__ = ["PROBLEMS", "Finding", "Kernel", "Line", "Module", "Report", "Totals", "cache_folder", "find_compiler", "load"]
