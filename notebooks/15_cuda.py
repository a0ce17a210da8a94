# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: CUDA
#     minutes: 90
#     prerequisites: ["02", "05"]
#     goals:
#     - write a CUDA kernel, and say which thread touches which address
#     - count the sectors and the bank passes that a warp asks for, and lower them
#     - find a missing barrier by its line, and say what such a check proves
# ---

# %% [markdown]
# # 15 CUDA
#
# **What you can do afterwards**
#
# - write a CUDA kernel, and say which thread touches which address;
# - count the sectors and the bank passes that a warp asks for, and lower them;
# - find a missing barrier by its line, and say what such a check proves.
#
# **Before this**: lessons [02](02_convolution.ipynb) and [05](05_max_pooling.ipynb). **Time**: 90 minutes.
#
# Section 4 of the paper names its machine: ten hours of training on an NVidia Titan with 6 GB; the abstract promises less than a
# second for an image of 512 x 512. Both rest on kernels for a GPU, of which the paper says nothing. Here you write some, in CUDA C++.
#
# You need no GPU. tinyunet has an *emulator*: it compiles a kernel with g++ or clang++, runs all its threads on the CPU, and watches
# every access to memory. It needs Linux. The next cell says whether it can run here; if not, read on, the cells go on without it.

# %% tags=["setup"]
import numpy as np

import tinyunet.cuda
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.course.exercises.lesson_15 import raw_kernel, why_not_here
from tinyunet.ops import max_pool_forward, relu_forward

rng = begin("15")
here = not why_not_here()
print(why_not_here() or "Kernels can be run here.")

# %% [markdown]
# ## A kernel is what one thread does
#
# A *kernel* is a function that very many threads run at once. Each has its own number and uses it to find its share of the work.
# Below is the max-pooling of lesson [05](05_max_pooling.ipynb), forward. One thread computes one value of y.
#
# - `extern "C" __global__ void` marks a kernel. It returns nothing; it writes into the arrays that it was given.
# - `const float *x` is where the array x begins. A kernel knows no shapes: `x[k]` is the k-th number, all axes flat. For an image
#   (H, W, C), pixel (h, v) and channel c lie at k = (h W + v) C + c.
# - Threads come in *blocks* of `blockDim.x`. A thread has the number `threadIdx.x` in its block, its block the number `blockIdx.x`.
#   So `blockIdx.x * blockDim.x + threadIdx.x` counts through all threads of all blocks.
# - All blocks together are the *grid*. Blocks are whole, so there may be more threads than values: these must do nothing.
# - The 32 threads with consecutive numbers are a *warp*. They go through the code together; a thread's place in it is its *lane*.

# %%
POOL = r"""
extern "C" __global__ void pool(const float *x, float *y, int H, int W, int C) {
  const int P = H / 2, Q = W / 2;
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= P * Q * C) return;
  const int c = thread % C, pixel = thread / C;
  const int i = pixel / Q, j = pixel % Q;
  const float *first = x + (2 * i * W + 2 * j) * C + c;  // the upper left one of the four
  const float upper = fmaxf(first[0], first[C]);
  const float lower = fmaxf(first[W * C], first[W * C + C]);
  y[pixel * C + c] = fmaxf(upper, lower);
}
"""

# %% [markdown]
# **Predict.** x has shape (10, 18, 32), so y has (5, 9, 32). With blocks of 256 threads, how many blocks does the grid need?

# %% tags=["predict"]
### BEGIN SOLUTION: a whole number
guess = 6
### END SOLUTION

# %%
blocks = -(-5 * 9 * 32 // 256)
predicted(guess, blocks, "1440 values / 256 is 5.6, and a block is whole. 96 threads of the last block find nothing to do.")

# %% [markdown]
# `raw_kernel(text, name)` takes the text. The kernel is then called with grid, block and arguments: arrays for pointers, and
# numbers of exactly the declared type. `cupy.RawKernel(text, name)` is called in the same way on a GPU. `mode="check"` watches every
# load and store.

# %%
x = rng.standard_normal((10, 18, 32)).astype(np.float32)
sizes = np.int32(10), np.int32(18), np.int32(32)
if here:
    y = np.full((5, 9, 32), np.nan, np.float32)  # what nobody writes stays NaN
    print(raw_kernel(POOL, "pool")((blocks,), (256,), (x, y, *sizes), mode="check"))
    print("as in lesson 05:", np.array_equal(y, max_pool_forward(x[None])[0][0]))

# %% [markdown]
# Now without the guard. The last block goes on past the end. On a GPU such a kernel may give the right result for years, and spoil
# somebody else's memory. The emulator knows where each array ends.

# %%
if here:
    careless = POOL.replace("  if (thread >= P * Q * C) return;\n", "")
    print(raw_kernel(careless, "pool")((blocks,), (256,), (x, y, *sizes), mode="check"))

# %% [markdown]
# ## Exercise 1: bias and ReLU
#
# After each convolution the network adds a bias to every channel and takes the ReLU: y = max(x + b, 0). Write this kernel. x and y
# are maps in NHWC with n values in all, channels are the fastest axis, b has one number for each of the C channels. Your function
# returns the kernel's text, `return r"""..."""`. The head must be
#
#     extern "C" __global__ void bias_relu(const float *x, const float *b, float *y, int n, int C)
#
# It is launched with blocks of 64 threads, one thread a value, and the last block is not full. `fmaxf(a, 0.0f)` is the larger
# of two floats.

# %% tags=["exercise"]
def bias_relu():
    """-> the text of the kernel"""
    ### BEGIN SOLUTION: which value is this thread's, is there one, and which channel does it belong to?
    return r"""
extern "C" __global__ void bias_relu(const float *x, const float *b, float *y, int n, int C) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = fmaxf(x[i] + b[i % C], 0.0f);
}
"""
    ### END SOLUTION


# %% tags=["check"]
check("15.bias_relu", bias_relu)

# %% [markdown]
# ## Who touches which address
#
# Memory hands out *sectors* of 32 bytes, that is 8 floats. When a warp loads, the hardware looks at its 32 addresses and
# moves each sector that any of them lies in, whole. 32 neighbouring floats are 4 sectors. This is called a *coalesced* access.
#
# In our pooling kernel neighbouring lanes have neighbouring channels c. Suppose we number the threads the other way round, pixels
# first:
#
#     const int pixel = thread % (P * Q), c = thread / (P * Q);
#
# The results are the same: every value still has its thread.
#
# **Predict.** x has 32 channels. How many sectors does a warp then ask for, to load `first[0]`?

# %% tags=["predict"]
### BEGIN SOLUTION: sectors of one request of 32 lanes
guess = 32
### END SOLUTION

# %% [markdown]
# `mode="trace"` counts, for each line of the kernel and each array, the requests of whole warps and their sectors. "ideal" is the
# fewest sectors that could hold what was asked for.

# %%
if here:
    pixels_first = POOL.replace("const int c = thread % C, pixel = thread / C;",
                                "const int pixel = thread % (P * Q), c = thread / (P * Q);")  # fmt: skip
    loads = []
    for text in (POOL, pixels_first):
        report = raw_kernel(text, "pool")((blocks,), (256,), (x, y, *sizes), mode="trace")
        print(report, end="\n\n")
        loads.append(report.lines[0])
    show(plot.warps(loads))

# %%
sectors = loads[1].sectors // loads[1].requests if here else 32
predicted(guess, sectors, "Neighbouring lanes are 2 pixels of 32 channels of 4 bytes apart. So each has a sector of its own, and uses 4 bytes "
          "of it. In the figure the lanes are yellow, the bytes they asked for blue, and what is moved for nothing pale.")  # fmt: skip

# %% [markdown]
# That is also the whole difference between the first two convolutions of tinyunet, `01_naive.cu` and `02_coalesced.cu`: 32 sectors for
# a request of x in the first; 1 for x and 4 for w in the second, whose lanes lie over output channels and share their pixel.
#
# ## Shared memory, and a missing barrier
#
# A block has a small memory of its own, *shared memory*: `__shared__ float s[64];`. All its threads see it, and it answers much sooner
# than global memory, where x and y live. The usual plan: all threads together load a piece of x into it, then each
# reads from it what it needs, which other threads may have loaded.
#
# But warps do not run in step. `__syncthreads()` is a *barrier*: no thread of the block goes on before all have come to it. Here
# is a kernel that turns 64 numbers round, and somebody forgot it.

# %%
TURN = r"""
extern "C" __global__ void turn(const float *x, float *y) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[63 - t];
}
"""

# %% [markdown]
# **Predict.** The emulator lets thread 0 run first, to its end, then thread 1, and so on. How many of the 64 numbers does it get
# right?

# %% tags=["predict"]
### BEGIN SOLUTION: from 0 to 64
guess = 32
### END SOLUTION

# %%
right = sum(63 - t <= t for t in range(64))  # thread t reads what thread 63 - t wrote, if that has run by then
predicted(guess, right, "Only the threads of the second half find what they need. In reverse order it is the others. "
          "And on a GPU it may be all 64, today.")  # fmt: skip

# %%
if here:
    for schedule in ("index", "reverse"):
        z = np.full(64, np.nan, np.float32)
        report = raw_kernel(TURN, "turn")((1,), (64,), (np.arange(64, dtype=np.float32), z), mode="check", schedule=schedule)
        print(schedule, "->", np.isfinite(z).sum(), "right: y =", z[:3], "...", z[-3:])
    print(report)

# %% [markdown]
# That is why nobody should test for races by looking at results. The check does not look at them: it remembers who wrote and
# read each byte, and asks whether a barrier lies between. It names the line, the block and the threads. Shared memory is counted
# in bytes: byte 128 is `s[32]`. A missing barrier is reported from both sides: a write of what another thread had read already, and
# a read of what another thread wrote with nothing to wait for it. The first problem of the three is only a consequence: what was
# read before anybody wrote it.
#
# Two rules. Between a write to shared memory and another thread's read of it, or the other way round, stands a `__syncthreads()`. And
# *all* threads of the block must come to it: never in a branch that some of them skip, and never after some have returned.
#
# ## Exercise 2: a convolution along a row
#
# A convolution loads its values again and again: for 64 outputs of a kernel with three taps that is 192 loads, of only 66
# different values. Load each of them once for the block. Those beyond the block's own 64 are its *halo*.
#
# $$y_i = w_0\, x_i + w_1\, x_{i+1} + w_2\, x_{i+2}, \qquad i = 0, \dots, L - 3$$
#
#     extern "C" __global__ void conv_row(const float *x, const float *w, float *y, int L)
#
# x has L values, y has L - 2. Blocks have 64 threads, the last one may have fewer outputs. The check counts your loads of x.

# %% tags=["exercise"]
def conv_row():
    """-> the text of the kernel"""
    ### BEGIN SOLUTION: fill a tile in shared memory together, halo included; wait; then one output a thread
    return r"""
extern "C" __global__ void conv_row(const float *x, const float *w, float *y, int L) {
  __shared__ float tile[66];
  const int t = threadIdx.x, start = blockIdx.x * 64, i = start + t;
  for (int k = t; k < 66; k += 64)
    if (start + k < L) tile[k] = x[start + k];
  __syncthreads();
  if (i < L - 2) y[i] = tile[t] * w[0] + tile[t + 1] * w[1] + tile[t + 2] * w[2];
}
"""
    ### END SOLUTION


# %% tags=["check"]
check("15.conv_row", conv_row)

# %% [markdown]
# ## Banks
#
# Shared memory has 32 *banks*. Word k (4 bytes) lies in bank k mod 32. In one *pass* each bank serves one word, to all the lanes that
# want it. If a warp asks one bank for several different words, it waits for as many passes: a *bank conflict*.
#
# In the next kernel lane t reads `s[t * stride]`: a column of a matrix whose rows have `stride` floats.
#
# **Predict.** With rows of 32 floats, how many passes does a warp wait to read a column?

# %% tags=["predict"]
### BEGIN SOLUTION: passes, from 1 to 32
guess = 32
### END SOLUTION

# %%
COLUMN = r"""
extern "C" __global__ void column(const float *x, float *y, int stride) {
  __shared__ float s[32 * 34];
  for (int k = threadIdx.x; k < 32 * 34; k += 32) s[k] = x[k];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x * stride];
}
"""
if here:
    found = {}
    values, z = rng.standard_normal(32 * 34).astype(np.float32), np.empty(32, np.float32)
    for stride in (1, 2, 4, 8, 16, 32, 34):
        report = raw_kernel(COLUMN, "column")((1,), (32,), (values, z, np.int32(stride)), mode="trace")
        found[stride] = next(line for line in report.lines if line.array == "shared" and line.kind == "load")
        print(f"stride {stride:2}, passes {found[stride].passes:2}")
    show(plot.warps([found[2], found[8]]))

# %%
banks = [lane * 32 % 32 for lane in range(32)]
predicted(guess, max(banks.count(bank) for bank in range(32)),
          "All 32 words lie in bank 0. In the figure, for strides 2 and 8, a column is a bank and a row a pass; the numbers are lanes, "
          "and every red cell is a wait. Which strides have none at all?")  # fmt: skip

# %% [markdown]
# ## Exercise 3: transposition
#
# Other libraries keep images with channels first, (C, H W); ours have them last, (H W, C). The way from one to the other is a
# transposition, y = x^T, and it has a catch. If neighbouring lanes read neighbours in x, they write to y far apart, or the other way
# round. The way out is shared memory: read a tile of 32 x 32 by rows, and write it by rows, too. The turn happens in the tile.
#
#     extern "C" __global__ void transpose(const float *x, float *y, int R, int C)
#
# x has shape (R, C), y has (C, R). Now blocks are two-dimensional, of (32, 32) threads: a warp is the 32 threads with one `threadIdx.y`,
# and its lane is `threadIdx.x`. The grid has ceil(C / 32) blocks along `blockIdx.x`, ceil(R / 32) along `blockIdx.y`. R and C
# are not always multiples of 32. A tile is declared as `__shared__ float tile[..][..];`. The check wants every access to global memory
# in whole sectors, and no bank conflict.

# %% tags=["exercise"]
def transpose():
    """-> the text of the kernel"""
    ### BEGIN SOLUTION: a tile by rows from x; wait; the same tile by rows to y, from where it lands
    return r"""
extern "C" __global__ void transpose(const float *x, float *y, int R, int C) {
  __shared__ float tile[32][33];  // rows of 33: a column lies in 32 banks
  const int row = blockIdx.y * 32 + threadIdx.y, column = blockIdx.x * 32 + threadIdx.x;
  if (row < R && column < C) tile[threadIdx.y][threadIdx.x] = x[row * C + column];
  __syncthreads();
  const int r = blockIdx.y * 32 + threadIdx.x, c = blockIdx.x * 32 + threadIdx.y;
  if (r < R && c < C) y[c * R + r] = tile[threadIdx.x][threadIdx.y];
}
"""
    ### END SOLUTION


# %% tags=["check"]
check("15.transpose", transpose)

# %% [markdown]
# ## The order of a sum
#
# A last trap. `atomicAdd(y, v)` adds without a race: no sum is lost, whoever comes first. The check has nothing to say.
#
# **Predict.** 1024 random numbers are added like this, in three different orders of threads and blocks. How many different results
# are there, of three?

# %% tags=["predict"]
### BEGIN SOLUTION: 1, 2 or 3
guess = 3
### END SOLUTION

# %%
SUM = r"""
extern "C" __global__ void sum(const float *x, float *y) {
  atomicAdd(y, x[blockIdx.x * blockDim.x + threadIdx.x]);
}
"""
if here:
    values, results = rng.standard_normal(1024).astype(np.float32), []
    for schedule in ("index", "reverse", "random"):
        total = np.zeros(1, np.float32)
        raw_kernel(SUM, "sum")((4,), (256,), (values, total), mode="check", schedule=schedule).require_ok()
        results.append(float(total[0]))
        print(f"{schedule:8} {total[0]:.7f}")
    print(predicted(guess, len(set(results)), "Floating-point addition is not associative. On a GPU the order is the scheduler's, so two runs "
                    "differ in their last digits."))  # fmt: skip

# %% [markdown]
# So tinyunet's kernels add no floats with atomics, except in one file that is there to be read: blocks write partial sums, and a
# second kernel adds these in a fixed order. Every run gives the same bits.
#
# ## The ladder
#
# You know enough now to read [kernels/conv3x3](../kernels/README.md). Each file, or *rung*, is the convolution of lesson [02](02_convolution.ipynb), one idea better
# than the file before. Loads for one multiply-add, counted by the emulator (taken from that page, for 1 x 10 x 18 x 16 values and
# 128 output channels):
#
# | file | idea | loads from global memory | sectors a request: x, w | loads from shared memory |
# | --- | --- | --- | --- | --- |
# | `01_naive` | a thread an output | 2, of 4 bytes | 32, 1 | |
# | `02_coalesced` | lanes over output channels | 2, of 4 bytes | 1, 4 | |
# | `03_halo_tile` | tile and halo of x in shared memory: your exercise 2, in two dimensions | 0.13, of 4 bytes | 4, 4 | 0.417 |
# | `06_pipelined` | 8x8 outputs a thread, kept in registers; the next tiles are loaded meanwhile | 0.00391, of 16 bytes | 16, 16 | 0.0625 |
# | `08_mma_3xtf32_pipe` | tensor cores; copies run three tiles ahead | 0.00391, of 16 bytes | 16, 16 | 0.0469 |
#
# Some words of that table. *Registers* are where a thread keeps its own variables, such
# as a sum: nothing is faster, and nobody else sees them. *Tensor cores* are units of newer GPUs that multiply small matrices;
# they take factors in *TF32*, a float32 with 10 of its 23 bits after the point. *3xTF32* splits each factor into two such numbers and
# takes three products, and has nearly the accuracy of float32.
#
# Read it downwards. 01 to 02: the same loads, of fewer sectors. 02 to 03: each value of x is loaded once a block, and each weight
# serves eight outputs. 03 to 06: a value, once in a register, serves eight outputs; the sum is im2col's matrix product, cut into tiles.
# (16 sectors are no waste: 32 lanes load 16 bytes each.) 06 to 08: the multiplications move to other hardware, and loads are hidden
# behind them.
#
# Try it: [that page](../kernels/README.md) shows how to copy a rung, delete one of its barriers, and read what the check says.
#
# These are counts, not speeds. No GPU has run these kernels yet, and nothing here says how many times faster one is than another.
# The emulator knows nothing of time, registers or caches.
#
# Inside `tinyunet.cuda.emulated()` the ordinary operations run through the kernels, so a whole network can be checked:

# %%
if here:
    with tinyunet.cuda.emulated(mode="check") as run:
        y, _ = relu_forward(x[None])
    print(*run.reports, sep="\n")
    print("same as NumPy:", np.array_equal(y, relu_forward(x[None])[0]))

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"It gives the right result, so it is right."** `turn` may do so on your card, and fail on the next. Look for races, not at results.
# - **A barrier inside an `if`**, or after a `return` for threads beyond the edge. Some threads never come to it. Guard the
#   loads and the stores, not the barrier.
# - **Testing with sizes that divide.** Without an edge, no guard is missed. The checks here draw sizes that are no multiples of 32.
# - **The tile is turned, but not its place.** In a transposition the block's indices change places, too.
# - **float64 or int64 passed to a kernel of float and int.** A GPU takes the bytes as they come. The emulator and tinyunet's loader refuse.
# - **Counts taken for times.** 8 times the sectors is not 8 times the time: caches help, and other things may be slower still.
#
# ## Summary
#
# - A thread finds its value by its numbers in block and grid; threads without a value do nothing.
# - What counts is what a warp asks for at once: sectors of global memory, passes over the banks of shared memory.
# - Shared memory lets a block load a value once. Between write and read stands a barrier, for all threads.
# - Sums in the order of arrival differ from run to run. Add in an order that is fixed.
# - The emulator shows races, bounds and counts. A clean check holds for the sizes that were run, and says nothing about speed.
#
# **In the code**: [kernels/](../kernels/README.md), from [01_naive.cu](../kernels/conv3x3/01_naive.cu) to
# [03_halo_tile.cu](../kernels/conv3x3/03_halo_tile.cu), then [06_pipelined.cu](../kernels/conv3x3/06_pipelined.cu) and
# [08_mma_tf32_pipe.cu](../kernels/conv3x3/08_mma_tf32_pipe.cu); the emulator, [tinyunet/cuda/emulator](../tinyunet/cuda/emulator/__init__.py).
# `tinyunet check --device emulator` holds every kernel to the project's laws without a GPU, and `--device cuda` does so on one, through
# CuPy. **In the paper**: the abstract and section 4, for the time on a GPU. **Next**: lesson [16](16_fast_numpy.ipynb), which makes NumPy fast.
