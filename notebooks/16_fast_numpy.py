# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Making NumPy fast
#     minutes: 90
#     prerequisites: ["02", "03"]
#     goals:
#     - say whether a piece of NumPy waits for memory or for arithmetic, from two counts
#     - convolve in strips that fit the cache, and measure what that gains
#     - derive Winograd's F(2, 3) by hand, and get its gradient by transposing it
# ---

# %% [markdown]
# # 16 Making NumPy fast
#
# **What you can do afterwards**
#
# - say whether a piece of NumPy waits for memory or for arithmetic, from two counts;
# - convolve in strips that fit the cache, and measure what that gains;
# - derive Winograd's F(2, 3) by hand, and get its gradient by transposing it.
#
# **Before this**: lessons [02](02_convolution.ipynb) and [03](03_convolution_backward.ipynb). **Time**: 90 minutes.
#
# The paper's abstract says that a 512 x 512 image takes less than a second on a GPU of 2015, and section 4 that training took ten
# hours. Nothing is said of computers without a GPU. The network of figure 1 needs 150 billion multiply-adds for one tile; with the
# loops of lesson [02](02_convolution.ipynb) that is many hours. This lesson is about the distance from there to a few seconds, in NumPy alone. None of its
# methods is in the paper.
#
# Every time below was measured on the computer on which this notebook was last run, several times over; yours will differ. Compare
# times of one table, and not those of two computers.

# %% tags=["setup"]
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import planner, plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops import conv2d_backward, conv2d_forward
from tinyunet.profile import machine_peak, step_profile
from tinyunet.rungs import winograd

rng = begin("16")


def columns(rows):
    """Every 3x3 window as a row, as in lesson 02: (h, W, C) -> ((h - 2) (W - 2), 9 C)"""
    windows = np.lib.stride_tricks.sliding_window_view(rows, (3, 3), axis=(0, 1))  # (h - 2, W - 2, C, 3, 3), a view
    return windows.transpose(0, 1, 3, 4, 2).reshape(-1, 9 * rows.shape[2])  # here the numbers are copied


def timed(function, repeats=5):
    """Milliseconds of some calls, sorted, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        began = perf_counter()
        function()
        times.append(1000 * (perf_counter() - began))
    return sorted(times)


def normal(*shape):
    return rng.standard_normal(shape, dtype=np.float32)


# %% [markdown]
# ## Two speeds
#
# A processor has two speeds: how many operations it does in a second, and how many bytes it gets from memory in a second. Large matrix
# products, which NumPy hands to a BLAS library, show the first one. Large copies show the second. We let one core do both. (An
# operation is an addition or a multiplication, so that a multiply-add counts as two.)

# %%
with tu.threads(1):
    peak = machine_peak(side=768, mib=64, repeats=5)
print(f"matrix products  {peak.flops / 1e9:6.1f} billion operations a second")
print(f"copies           {peak.bandwidth / 1e9:6.1f} billion bytes a second, read and written")
print(f"so a byte from memory takes as long as {peak.flops / peak.bandwidth:.0f} operations")

# %% [markdown]
# The last line is the one to remember. `a + b` of two large float32 arrays reads 8 bytes, writes 4, and does one operation with
# them. Nearly all of its time the processor waits.
#
# **Arithmetic intensity** is the number of operations for each byte that comes from memory or goes there:
#
# $$\text{intensity} = \frac{\text{operations}}{\text{bytes}} \qquad\qquad
# \text{seconds} \;\ge\; \max\left(\frac{\text{operations}}{\text{peak}},\; \frac{\text{bytes}}{\text{bandwidth}}\right)$$
#
# Where it is smaller than the number above, code waits for memory, and doing less arithmetic does not help it.
#
# **Predict.** A 3x3 convolution from 64 to 64 channels, in float32, reads 64 numbers for each pixel and writes 64. What is its
# intensity (i) if nothing else moves, and (ii) with im2col, which also writes nine times 64 numbers as columns and reads them again?
# Forget the weights, they are few.

# %% tags=["predict"]
### BEGIN SOLUTION: (intensity without columns, intensity with columns)
guess = (2 * 9 * 64 * 64 / (4 * 128), 2 * 9 * 64 * 64 / (4 * (128 + 2 * 9 * 64)))
### END SOLUTION

# %%
operations = 2 * 9 * 64 * 64  # a pixel
predicted(guess, (operations / (4 * (64 + 64)), operations / (4 * (64 + 64 + 2 * 9 * 64))),
          "The arithmetic is the same, ten times as many bytes move.")  # fmt: skip

# %% [markdown]
# ## Order three codes by time
#
# Three convolutions of lesson [02](02_convolution.ipynb) do the same multiplications: *taps* adds up nine shifted products, *im2col* makes all columns of the
# image and one product, *strips* makes columns of a few rows at a time, multiplies, and goes on to the next few.
#
# **Predict.** A map of 254 x 254 pixels, 16 channels in and 16 out, one core. Which of them is the fastest, which the slowest?

# %% tags=["predict"]
### BEGIN SOLUTION: the three names, the fastest first
guess = ("strips", "taps", "im2col")
### END SOLUTION

# %%
x, w, b = normal(1, 254, 254, 16), normal(3, 3, 16, 16), normal(16)
names, times = ("taps", "im2col", "strips"), {}


def convolve(name):
    if name == "im2col":  # of the whole image: our rung of that name takes some rows at a time
        return columns(x[0]) @ w.reshape(-1, 16) + b
    with tu.rung(conv3x3=name):
        return conv2d_forward(x, w, b)[0]


for name in names:
    with tu.threads(1):
        times[name] = timed(lambda name=name: convolve(name), 7)
    print(f"{name:7} {times[name][0]:6.1f} ms at best, {times[name][3]:6.1f} in the middle, {times[name][-1]:6.1f} at worst of 7")
order = tuple(sorted(names, key=lambda name: times[name][0]))
predicted(guess, order, "Equal multiplications, unequal times: what differs is how often the map goes through memory.")

# %% [markdown]
# The best of several times is the one to compare: other programs can only make a run slower. But look at the others too. If the best
# and the middle are far apart, the computer is busy, and a difference as small as that is none.
#
# Here they are in one picture. The roof is what the two speeds allow at each intensity: a slope where memory is the limit, a flat part
# where arithmetic is. Bytes are counted as if nothing ever stayed in the cache. So a point above the roof is a code that the cache helped.

# %%
pixels, c, o = 252 * 252, 16, 16
flops = 2 * 9 * c * o * pixels
a, a2 = np.ones((2, 2**24), np.float32)
total = np.empty_like(a)
spots = {"a + b": (1 / 12, a.size / timed(lambda: np.add(a, a2, out=total))[0] / 1e6)}
moved = {"taps": 9 * (c + 4 * o), "im2col": c + o + 2 * 9 * c, "strips": c + o}  # numbers a pixel
for name in names:
    spots[name] = flops / (4 * moved[name] * pixels), flops / times[name][0] / 1e6
figure = Figure(figsize=(7, 3.4), layout="constrained")
ax = figure.subplots()
at = np.geomspace(0.04, 300, 200)
ax.plot(at, np.minimum(peak.flops, at * peak.bandwidth) / 1e9, color="black")
for (name, (intensity, speed)), marker in zip(spots.items(), "osD^", strict=True):
    ax.plot(intensity, speed, marker, color="#0072B2", markersize=8)
    ax.annotate(name, (intensity, speed), (9, -11), textcoords="offset points")
ax.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="billion operations a second")
ax.margins(y=0.25)
show(figure, "A roof of one core's two speeds over arithmetic intensity, and four measured codes: "
     + "; ".join(f"{name} with {i:.2g} operations a byte at {s:.1f} billion a second" for name, (i, s) in spots.items()) + ".")

# %% [markdown]
# Strips stand under the flat part, and not on it: the cache is fast but not free, and with 16 channels the matrices are too
# narrow for BLAS at its best. A roof is what cannot be passed, not what is reached.
#
# Two things can be done, and the rest of the lesson does them. Move to the *right*: fewer bytes for the same operations (strips). And
# under the flat part, where little can be gained by moving less: *fewer operations* (Winograd).
#
# ## Strips
#
# Between the processor and memory lie caches: a megabyte or so for each core, often some more that all cores share, and several times as fast.
# Columns that are made, used and overwritten before they leave them never go to memory. So do not make the columns of the whole image, but those of a few rows
# of the output, multiply, and go on.
#
# A strip of output rows [start, stop) needs two more rows of the input than it has: a 3x3 window that begins in row stop - 1 ends
# in row stop + 1. Neighbouring strips share these rows. And the last strip may be shorter than the others.
#
# ## Exercise 1: strips
#
# `columns` above makes the columns of some rows of one image; `columns(x[n, first:last])` is a matrix ((last - first - 2)(W - 2), 9 C).
# Write the convolution with strips of `height` output rows. Never hold the columns of more than one strip: the check looks
# at the memory, too.

# %% tags=["exercise"]
def conv_strips(x, w, b, height):
    """(N, H, W, C), (3, 3, C, O), (O,) -> (N, H - 2, W - 2, O), by strips of `height` rows of the output"""
    n_images, rows, cols = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    c_in, c_out = w.shape[2:]
    ### BEGIN SOLUTION: make y, and fill it strip by strip, image by image
    y = np.empty((n_images, rows, cols, c_out), x.dtype)
    matrix = w.reshape(9 * c_in, c_out)
    for n in range(n_images):
        for start in range(0, rows, height):
            stop = min(start + height, rows)
            product = columns(x[n, start : stop + 2]) @ matrix + b
            y[n, start:stop] = product.reshape(stop - start, cols, c_out)
    return y
    ### END SOLUTION


# %% tags=["check"]
print(check("16.strips", conv_strips))
heights = (1, 2, 4, 8, 16, 32, 64, 128, 252)
wide, kernel, bias = normal(1, 254, 254, 32), normal(3, 3, 32, 32), normal(32)
with tu.threads(1):
    runs = [timed(lambda h=h: conv_strips(wide, kernel, bias, h), 5) for h in heights]
mib = [h * 252 * 9 * 32 * 4 / 2**20 for h in heights]
figure = Figure(figsize=(7, 2.9), layout="constrained")
ax = figure.subplots()
best = np.array([run[0] for run in runs])
ax.errorbar(mib, best, yerr=[0 * best, [run[2] - run[0] for run in runs]], fmt="o-", color="#0072B2", capsize=3)
ax.set(xscale="log", xlabel="MiB of the columns of one strip", ylim=(0, 2 * best.max()), ylabel="ms (least and middle of 5)")
show(figure, f"The time of your convolution by strip size: {best[0]:.0f} ms at best with strips of one row, {best.min():.0f} ms with "
     f"{heights[best.argmin()]} rows, {best[-1]:.0f} ms with all rows at once.")

# %% [markdown]
# Where the curve rises, your caches end. On its left the products are short, and the two rows that neighbours share are most of a strip's
# input. Between the two it is flat: no need to tune it for every computer.
#
# Two rules follow, and tinyunet keeps both. Choose the strip by *bytes*, not by rows: `STRIP_BYTES` in [strips.py](../tinyunet/rungs/strips.py).
# And write each strip into the same memory. Fresh memory comes from the system page by page, filled with zeros, and that alone
# can take longer than the product: `workspace` in [parallel.py](../tinyunet/parallel.py).
#
# ## Threads, and whose they are
#
# Strips are independent, so they can be computed at the same time. NumPy lets go of Python's lock while it computes, and plain
# threads are enough. There is a trap: BLAS has threads of its own. If each of our four threads calls a product, and BLAS
# starts four for it, sixteen threads fight for four cores. So while our jobs run, BLAS is held to one thread each (by the package
# threadpoolctl). Why ours and not those of BLAS? Because BLAS's threads know the products alone: columns, transforms and bias
# would be left to one core.
#
# **Predict.** Sums depend on their order. With one thread and with two, does `conv2d_backward` give the same bytes?

# %% tags=["predict"]
### BEGIN SOLUTION: True or False
guess = True
### END SOLUTION

# %%
results = {}
x, w, b = normal(1, 190, 190, 64), normal(3, 3, 64, 64), normal(64)
for n in (1, 2):
    with tu.threads(n):
        y, ctx = conv2d_forward(x, w, b)
        runs = timed(lambda ctx=ctx, y=y: conv2d_backward(y, ctx), 5)
        results[n] = conv2d_backward(y, ctx)
    print(f"threads: {n}   backward {runs[0]:6.1f} ms at best, {runs[2]:6.1f} in the middle of 5")
equal = all(p.tobytes() == q.tobytes() for p, q in zip(results[1], results[2], strict=True))
predicted(guess, equal, "How the work is cut follows from the shapes alone, and partial sums are added in the order of the strips, "
          "whoever finished first. Cut it by the number of threads, and a result changes with the computer.")  # fmt: skip

# %% [markdown]
# If two threads took as long as one: is there a second core that has nothing else to do? Threads add no cores. Where threadpoolctl is missing, tinyunet
# runs jobs one after another, and the two lines mean the same.

# %% [markdown]
# ## Fewer multiplications: F(2, 3)
#
# Now the arithmetic itself. Take one dimension: two outputs of a kernel of three, from four inputs.
#
# $$y_0 = d_0 w_0 + d_1 w_1 + d_2 w_2 \qquad\qquad y_1 = d_1 w_0 + d_2 w_1 + d_3 w_2$$
#
# Six multiplications, and it looks as if none could be spared. Four are enough. The name is F(2, 3): two outputs, three taps.
# Here is how, in three moves.
#
# *First*, make the middle of both sums alike. With $s = w_0 + w_2$,
#
# $$y_0 = (d_0 - d_2)\, w_0 + \underbrace{d_1 w_1 + d_2 s}_{p} \qquad\qquad y_1 = \underbrace{d_1 s + d_2 w_1}_{q} - (d_1 - d_3)\, w_2$$
#
# Multiply it out: $-d_2 w_0$ meets the $d_2 w_0$ that is hidden in $d_2 s$, and $d_1 w_0 + d_1 w_2 - d_1 w_2$ is what it should be.
#
# *Second*, look at p and q. They are four products of the same four numbers, crosswise. Their sum and their difference are *one* product each:
#
# $$p + q = (d_1 + d_2)(s + w_1) \qquad\qquad p - q = (d_2 - d_1)(s - w_1)$$
#
# *Third*, go back: p is half of the sum of these two, q half of their difference. Put the halves on the side of w, and call the four products
#
# $$m_0 = (d_0 - d_2)\, w_0 \qquad m_1 = (d_1 + d_2)\, \tfrac{w_0 + w_1 + w_2}{2} \qquad m_2 = (d_2 - d_1)\, \tfrac{w_0 - w_1 + w_2}{2} \qquad m_3 = (d_1 - d_3)\, w_2$$
#
# $$y_0 = m_0 + m_1 + m_2 \qquad\qquad y_1 = m_1 - m_2 - m_3$$
#
# There are more additions than before. But what is done to w is done once for the whole image, and what is done to d once for all
# output channels. The products are done for every pixel and every *pair* of channels. So only they count when channels are many.
#
# All of it is linear except for the four products, so it can be written with three matrices, in the letters of the code:
#
# $$y = A^T \left[\, (G\, w) * (B^T d) \,\right]$$
#
# where * multiplies number by number.
#
# ## Exercise 2: three matrices
#
# Read them off the lines above. Row k of G and of B^T makes the two factors of m_k. Mind that the function returns A and B, and the
# formula uses A^T and B^T.

# %% tags=["exercise"]
def f23():
    """-> A (4, 2), B (4, 4), G (4, 3)"""
    ### BEGIN SOLUTION: write the three matrices down
    A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]]).T
    B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).T
    G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return A, B, G
    ### END SOLUTION


# %% tags=["check"]
check("16.matrices", f23)

# %% [markdown]
# ## Exercise 3: forward
#
# A whole row of an image, with channels: x is (W, C) with W even, w is (3, C, O), y is (W - 2, O). Two outputs need four inputs, and the next two
# begin two further on: tile t is x[2t : 2t + 4], so that tiles overlap by two. With T tiles:
#
# | step | shapes |
# | --- | --- |
# | d: cut the tiles out | (T, 4, C) |
# | v = B^T d | (T, 4, C) |
# | u = G w | (4, C, O) |
# | m: for each k of the four, v[:, k] times u[k], a matrix product that sums over the channels | (T, 4, O) |
# | A^T m, and the tiles one after another | (T, 2, O), (W - 2, O) |
#
# `B.T @ d` multiplies every (4, C) of d by B^T. `np.tensordot(G, w, 1)` sums over the last axis of G and the first of w. The matrices are handed to you: the check tries other
# ones too.

# %% tags=["exercise"]
def winograd_forward(x, w, A, B, G):
    """(W, C), (3, C, O), (4, 2), (4, 4), (4, 3) -> (W - 2, O)"""
    ### BEGIN SOLUTION: cut tiles, transform both sides, four matrix products, transform back
    d = np.array([x[start : start + 4] for start in range(0, len(x) - 2, 2)])
    v = B.T @ d
    u = np.tensordot(G, w, 1)
    m = np.stack([v[:, k] @ u[k] for k in range(4)], axis=1)
    return (A.T @ m).reshape(len(x) - 2, w.shape[2])
    ### END SOLUTION


# %% tags=["check"]
check("16.forward", winograd_forward)

# %% [markdown]
# ## Backward is the transpose
#
# How does one get the gradient of such a trick? One does not go back to the formula of the convolution, and one needs no new trick.
#
# y is linear in x. Each step of exercise 3 is linear, too, and the gradient of a linear step is its transpose: if y = M z, then dz = M^T dy, whatever M is
# (lessons [01](01_mirror_padding.ipynb) and [03](03_convolution_backward.ipynb)). Several steps one after another are a product of matrices, and
#
# $$(M_4 M_3 M_2 M_1)^T = M_1^T M_2^T M_3^T M_4^T$$
#
# So: **take the steps in reverse order, each transposed**. The last one, for example, is y = A^T m, and so dm = A dy. Nobody inverts anything, and
# there are as many multiplications as forward: backprop through a fast algorithm is as fast as the algorithm.
#
# What is the transpose of cutting tiles out? Cutting copies some pixels into two tiles. Think of mirror padding in lesson [01](01_mirror_padding.ipynb), which copies pixels too.
#
# **Predict.** A row of W = 10 pixels, with w = 1, 1, 1 and dy = 1 everywhere: dx counts how many outputs read each pixel. In how many *tiles* does each
# of the ten pixels lie? (T is 4.)

# %% tags=["predict"]
### BEGIN SOLUTION: ten whole numbers
guess = [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]
### END SOLUTION

# %%
tiles = np.zeros(10, int)
for start in (0, 2, 4, 6):
    tiles[start : start + 4] += 1
predicted(guess, tiles.tolist(), "Pixels in two tiles get two reports. What must happen to them?")

# %% [markdown]
# ## Exercise 4: backward
#
# dx from dy, by the transposes of the steps of exercise 3, last step first.

# %% tags=["exercise"]
def winograd_grad_x(dy, w, A, B, G):
    """(W - 2, O), (3, C, O), (4, 2), (4, 4), (4, 3) -> dx (W, C)"""
    ### BEGIN SOLUTION: the steps of forward, in reverse order, each transposed
    dm = A @ dy.reshape(-1, 2, w.shape[2])
    u = np.tensordot(G, w, 1)
    dv = np.stack([dm[:, k] @ u[k].T for k in range(4)], axis=1)
    dd = B @ dv
    dx = np.zeros((len(dy) + 2, w.shape[1]), dy.dtype)
    for t in range(len(dd)):
        dx[2 * t : 2 * t + 4] += dd[t]
    return dx
    ### END SOLUTION


# %% tags=["check"]
check("16.backward", winograd_grad_x)

# %% [markdown]
# The gradient of w is the same story: y is linear in w as well, so $dw = G^T\,[\,(B^T d) * (A\,dy)\,]$, summed over tiles. That is how tinyunet computes it. For dx
# there is a second road, from lesson [03](03_convolution_backward.ipynb): dx is a convolution of dy with the turned kernel, and that can be Winograd's, forward. tinyunet takes this one, because tiles of
# dx overlap and would have to be added up, and tiles of an output do not.
#
# ## Two dimensions: F(4x4, 3x3)
#
# A picture has two directions. Do it in one, and do the four products, which are convolutions along the other, in the same way again. In matrices that is one
# factor on each side:
#
# $$y = A^T \left[\, (G\, w\, G^T) * (B^T d\, B) \,\right] A$$
#
# tinyunet takes larger tiles, too: four outputs in each direction, from six inputs. F(m, r) needs m + r - 1 products.
#
# **Predict.** How many multiplications does a tile of 4 x 4 outputs take, for one pair of channels, (i) with Winograd and (ii) by the formula?

# %% tags=["predict"]
### BEGIN SOLUTION: (with Winograd, by the formula)
guess = (36, 144)
### END SOLUTION

# %%
predicted(guess, ((4 + 3 - 1) ** 2, 4 * 4 * 3 * 3), "A quarter. Winograd in one direction, F(4, 3) down and three taps across, takes 6 x 4 x 3 = 72: a half.")

# %% [markdown]
# Its matrices come from polynomials. These can be multiplied *point by point*: evaluate both at six points, multiply value by value, interpolate. Correlation is that
# with one map transposed: G evaluates the kernel, A evaluates a tile of outputs, the columns of B interpolate, and forward uses A^T and B^T. Yours, F(2, 3), has the points
# 0, 1, -1 and infinity, up to signs. These are the matrices of tinyunet, with the points 0, 3/4, -3/4, 3/2, -3/2 and infinity:

# %%
figure = Figure(figsize=(9, 3.1), layout="constrained")
parts = {"B$^T$ (input)": winograd.B.T, "G (kernel)": winograd.G, "A$^T$ (output)": winograd.A.T}
for ax, (name, matrix) in zip(figure.subplots(1, 3, width_ratios=[6, 3, 6]), parts.items(), strict=True):
    ax.imshow(matrix, cmap=plot.diverging(), vmin=-6, vmax=6)
    for (i, j), value in np.ndenumerate(matrix):
        ax.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8)
    ax.set(title=name, xticks=[], yticks=[])
show(figure, "The matrices of F(4, 3) with their numbers: B transposed (6 x 6) takes six inputs to six values, G (6 x 3) three taps to six values, A transposed "
     "(4 x 6) six products to four outputs. Inputs are multiplied by up to "
     f"{np.abs(winograd.B).max():.2g}, products by up to {np.abs(winograd.A).max():.2g}.")

# %% [markdown]
# ## What it costs: digits
#
# Numbers are made larger by B^T and A^T, and what was added is later subtracted. float32 has about seven digits, and some are lost on the way. How many depends on the points.
# Lavin and Gray (2015) use 0, 1, -1, 2, -2, for cheap additions. We compare with float64: ten drawings of 64 channels each.

# %%
def tile_error(points, draw):
    """The largest error of a 4x4 tile with 64 channels in float32, as a share of its largest output."""
    d, w = draw.standard_normal((200, 64, 6, 6)), draw.standard_normal((64, 3, 3))
    exact = sum(np.einsum("tcij,c->tij", d[:, :, r : r + 4, s : s + 4], w[:, r, s]) for r in range(3) for s in range(3))
    if points is None:
        d, w = d.astype(np.float32), w.astype(np.float32)
        found = sum(np.einsum("tcij,c->tij", d[:, :, r : r + 4, s : s + 4], w[:, r, s]) for r in range(3) for s in range(3))
    else:
        A, B, G = (m.astype(np.float32) for m in winograd.matrices(points))
        d, w = d.astype(np.float32), w.astype(np.float32)
        found = A.T @ ((G @ w @ G.T) * (B.T @ d @ B)).sum(axis=1) @ A
    return float(np.abs(found - exact).max() / np.abs(exact).max())


kinds = {"the formula": None, "Winograd, our points": winograd.POINTS, "Winograd, 0, 1, -1, 2, -2": (0, 1, -1, 2, -2)}
errors = {name: [tile_error(points, rng) for _ in range(10)] for name, points in kinds.items()}
figure = Figure(figsize=(7.5, 2), layout="constrained")
ax = figure.subplots()
for row, values in enumerate(errors.values()):
    ax.plot(values, [row] * 10, "o", color="#0072B2", alpha=0.6)
ax.set(xscale="log", yticks=range(3), yticklabels=errors, ylim=(2.5, -0.5), xlim=(1e-7, 2e-5),
       xlabel="largest error / largest output, in float32")
ax.tick_params(axis="x", which="minor", labelbottom=False)
middle = {name: float(np.median(values)) for name, values in errors.items()}
show(figure, "Errors of ten drawings each, middle value: " + "; ".join(f"{name} {value:.1e}" for name, value in middle.items()) + ".")

# %% [markdown]
# Is it too much? A gradient from one tile of one image is off by far more than that as an estimate of what it stands for. For training it is nothing. To
# *test* a gradient it is too much: the Winograd rungs refuse float64, so that whoever asks for exactness gets it.
#
# ## Which one runs
#
# Winograd does a quarter of the products, and pays with transforms, which are passes over the cache. With few channels the passes are what takes
# the time; with many it is the products. So no rung is the best for all layers. Here are three layers of a U-Net.

# %%
cases = {"1 -> 16 channels, 254 px": (254, 1, 16), "32 -> 32 channels, 126 px": (126, 32, 32), "256 -> 256 channels, 30 px": (30, 256, 256)}
for title, (side, c, o) in cases.items():
    x, w, b = normal(1, side, side, c), normal(3, 3, c, o), normal(o)
    print(title)
    for name in ("strips", "winograd1d", "winograd"):
        with tu.rung(conv3x3=name), tu.threads(1):
            runs = timed(lambda x=x, w=w, b=b: conv2d_forward(x, w, b), 7)
        print(f"    {name:10} {runs[0]:7.2f} ms at best, {runs[3]:7.2f} in the middle of 7")

# %% [markdown]
# tinyunet guesses these times from shapes, with five numbers for each rung and direction, and takes the cheapest: seconds = a + b (bytes of the maps) + c (bytes
# of the kernel) + d (multiply-adds) + e (bytes of all windows). Intensity again, made a table. `tinyunet shapes --plan` prints it; `tinyunet bench fit` measures the five numbers on your computer.

# %%
picks = planner.plan(tu.PAPER.but(base=16), 572)
for direction in planner.DIRECTIONS:
    mine = [pick for pick in picks if pick.direction == direction and ".conv" in pick.layer]
    counts = {name: sum(pick.rung == name for pick in mine) for name in ("strips", "winograd1d", "winograd")}
    print(f"{direction:8}", counts)
for pick in picks[:9:3]:
    print(f"{pick.layer}, {pick.direction}: {pick.rung}, {pick.milliseconds:.1f} ms expected; {pick.why}")

# %% [markdown]
# And then measure the *whole*. A step of training is more than its convolutions; a layer made infinitely fast saves only its own share.
# `tinyunet bench step --out bench.png` takes a step apart on your computer. Here is a small network.

# %%
profile = step_profile(tu.PAPER.but(base=8, depth=2), 188, repeats=3)
show(plot.step_profile(profile))

# %% [markdown]
# How far this goes, beside PyTorch on the same processor, and where it ends, is in [docs/cpu.md](../docs/cpu.md). What was tried without gain
# stands there too.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"Fewer operations is faster."** Only on the flat part of the roof. Count bytes first.
# - **Columns for everything.** On a GPU as on a CPU: in gabrieldemarmiesse/torch-mojo-backend, pull request 418, a backward pass on whole columns is about ten times slower
#   than cuDNN's, and the column buffer is 89 % of its time.
# - **Wrong at the size that nobody tests.** The last strip, and the rows that two strips share, are there in large images only. `tinyunet.bugs` has "strip_without_its_halo" and
#   "last_strip_forgotten". The check here draws heights that do not divide the rows.
# - **A gradient test on square images.** Maratyszcza/NNPACK issue 15, a library with Winograd's convolution: the kernel gradient was wrong for images that are not square, and all tests were square.
# - **The inverse where the transpose belongs.** Backward does not undo forward. `print(tu.bugs.diff("inverse_for_transpose"))` after `import tinyunet.bugs`.
# - **One measurement.** Say the best of several, how many, and on what. If a table shows 3 % between two codes and 10 % between two runs, it shows nothing.
#
# ## Summary
#
# - Operations for each byte decide whether code waits for memory or for arithmetic.
# - Strips keep columns in the cache; our threads take strips, and BLAS gets one thread in each.
# - F(2, 3) takes 4 products for 6, F(4x4, 3x3) 36 for 144; both pay with transforms and with digits.
# - The gradient of a fast linear algorithm is the algorithm transposed, and as fast.
# - Which rung is fastest depends on the shape. Measure, several times, and measure the whole step.
#
# **In the code**: [strips.py](../tinyunet/rungs/strips.py), [winograd1d.py](../tinyunet/rungs/winograd1d.py), [winograd.py](../tinyunet/rungs/winograd.py),
# [parallel.py](../tinyunet/parallel.py), [planner.py](../tinyunet/planner.py).
# **In the paper**: the abstract and section 4, for the times that a GPU took. Winograd's convolution: Lavin and Gray, arXiv 1509.09308, section 4.
# **Next**: lesson [17](17_your_own_images.ipynb), your own images.
