# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Convolution by loops, taps and im2col
#     minutes: 75
#     prerequisites: ["00"]
#     goals:
#     - compute one pixel of a convolution by hand
#     - write the same convolution in three ways and say what each costs
#     - say why 572 pixels become 570
# ---

# %% [markdown]
# # 02 Convolution by loops, taps and im2col
#
# **What you can do afterwards**
#
# - compute one pixel of a convolution by hand;
# - write the same convolution in three ways, and say what each costs in time and memory;
# - say why 572 pixels become 570, and what "same" padding changes.
#
# **Before this**: lesson [00](00_images_and_masks.ipynb). **Time**: 75 minutes.
#
# Section 2 of the paper describes every level of the network in half a sentence: two 3x3 convolutions, *unpadded*, each followed
# by a ReLU (lesson [04](04_relu_and_initialisation.ipynb)). Eighteen of the network's 23 convolutions are of this kind, and they take nearly all of its time. This lesson is about
# one of them, forward. Its backward pass is lesson [03](03_convolution_backward.ipynb).

# %% tags=["setup"]
from time import perf_counter

import numpy as np

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops import conv2d_forward

rng = begin("02")

# %% [markdown]
# ## One pixel
#
# The input x has shape (N, H, W, C): N images, H rows, W columns, C channels. The weights w have shape (K, K, C, O): one kernel of
# K x K x C numbers for each of the O output channels. The bias b has O numbers. Then
#
# $$y_{n,i,j,o} = b_o + \sum_{r=0}^{K-1} \sum_{s=0}^{K-1} \sum_{c=0}^{C-1} x_{n,\,i+r,\,j+s,\,c}\; w_{r,s,c,o}$$
#
# Read it from the inside: lay the kernel on the image with its upper left corner at (i, j), multiply what lies on top of each other,
# add everything up. All channels go into one sum. Here is one pixel, with small whole numbers.

# %%
x = rng.integers(-3, 5, (1, 8, 10, 2)).astype(float)
w = rng.integers(-2, 3, (3, 3, 2, 4)).astype(float)
b = np.array([1.0, 0.0, -1.0, 2.0])
show(plot.conv_pixel(x, w, b, at=(0, 2, 3, 0)))

# %% [markdown]
# In such figures, and in those of maps, blue is positive, orange negative, and white 0. Maps without negative values are grey.
#
# **Predict.** x has 8 rows and 10 columns, the kernel 3 x 3 pixels. How many places are there for it? Write down how many rows and
# columns y has, then run the next cell.

# %% tags=["predict"]
### BEGIN SOLUTION: (rows, columns) of y
guess = (6, 8)
### END SOLUTION

# %%
y, _ = conv2d_forward(x, w, b)
predicted(guess, y.shape[1:3], "H - K + 1 rows and W - K + 1 columns: the kernel must lie on real pixels. So 572 becomes 570.")

# %% [markdown]
# ## What a kernel can see
#
# Before we compute, a look at what it is good for. Four kernels, each an output channel: the mean of nine pixels, the difference
# between right and left, between below and above, and the pixel less its neighbours. A network draws its kernels at random and
# learns better ones.

# %%
image = tu.synthetic("phase", 1, 96, rng)[0].image[None].astype(float)  # (1, 96, 96, 1)
image = (image - image.mean()) / image.std()
kernels = np.zeros((3, 3, 1, 4))
kernels[:, :, 0, 0] = 1 / 9
kernels[:, :, 0, 1] = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
kernels[:, :, 0, 2] = kernels[:, :, 0, 1].T
kernels[:, :, 0, 3] = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
seen, _ = conv2d_forward(image, kernels, np.zeros(4))
names = ("mean", "right less left", "below less above", "less neighbours")
show(plot.filters(kernels, width=5, titles=names))
show(plot.maps({"x": image, "y": seen}, titles={"y": names}))

# %% [markdown]
# **Predict.** Now the image is black, with a single pixel of value 1 in the middle. The kernel is
#
# $$w = \begin{pmatrix} 1 & 2 & 3 \\ 4 & 5 & 6 \\ 7 & 8 & 9 \end{pmatrix}$$
#
# What are the nine numbers of y, as three rows?

# %% tags=["predict"]
### BEGIN SOLUTION: the three rows of y
guess = [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
### END SOLUTION

# %%
impulse = np.zeros((1, 5, 5, 1))
impulse[0, 2, 2, 0] = 1
response, _ = conv2d_forward(impulse, np.arange(1.0, 10).reshape(3, 3, 1, 1), np.zeros(1))
predicted(guess, response[0, :, :, 0],
          "Where the kernel lies up and to the left of the pixel, its lower right corner touches it. So the response is the kernel "
          "turned by 180 degrees. Mathematicians turn the kernel first and call that convolution; ours they call correlation.")

# %% [markdown]
# ## Exercise 1: loops
#
# Write the formula as it stands: one loop for each index. It will be slow, and it will be right, and everything that follows is
# held to it.

# %% tags=["exercise"]
def conv_loops(x, w, b):
    """(N, H, W, C), (K, K, C, O), (O,) -> (N, H - K + 1, W - K + 1, O)"""
    n_images, height, width, c_in = x.shape
    size, _, _, c_out = w.shape
    ### BEGIN SOLUTION: make y, and fill it with a loop over n, i, j, o and a sum over r, s, c
    y = np.zeros((n_images, height - size + 1, width - size + 1, c_out), x.dtype)
    for n, i, j, o in np.ndindex(y.shape):
        total = 0
        for r, s, c in np.ndindex(size, size, c_in):
            total += x[n, i + r, j + s, c] * w[r, s, c, o]
        y[n, i, j, o] = b[o] + total
    return y
    ### END SOLUTION


# %% tags=["check"]
check("02.loops", conv_loops)

# %% [markdown]
# ## Taps: the same sum in another order
#
# Your loops ask, for every output pixel: which nine inputs do I need? Turn the question round and ask, for every tap (r, s) of the
# kernel: which pixels of x does it meet, over all output pixels? The answer is a slice of x as large as y, shifted by (r, s). So
#
# $$y = b + \sum_{r,s} x[:,\; r : r+P,\; s : s+Q] \;@\; w[r, s]$$
#
# with P x Q the size of y. Nine matrix products, each (N, P, Q, C) times (C, O), and no loop over pixels. Here are the slices of the four
# corner taps.

# %%
windows = {f"tap ({r}, {s})": image[:, r : r + 94, s : s + 94] for r, s in ((0, 0), (0, 2), (2, 0), (2, 2))}
moved = np.concatenate([np.abs(slice_ - windows["tap (0, 0)"]) for slice_ in windows.values()], axis=3)
show(plot.maps({"slices": np.concatenate(list(windows.values()), axis=3) - image.min(), "less the first": moved},
               titles={"slices": tuple(windows)}))  # fmt: skip

# %% [markdown]
# They look alike, and differ by two pixels: the second row shows by how much. A convolution makes its picture of such differences.
#
# ## Exercise 2: taps
#
# `a @ m` multiplies the last axis of an array `a` of any shape with a matrix `m`: (N, P, Q, C) @ (C, O) gives (N, P, Q, O).

# %% tags=["exercise"]
def conv_taps(x, w, b):
    """(N, H, W, C), (3, 3, C, O), (O,) -> (N, H - 2, W - 2, O)"""
    n_images, height, width, _ = x.shape
    rows, cols = height - 2, width - 2
    ### BEGIN SOLUTION: begin with the bias, and add nine shifted products
    y = np.zeros((n_images, rows, cols, w.shape[3]), x.dtype) + b
    for r in range(3):
        for s in range(3):
            y += x[:, r : r + rows, s : s + cols] @ w[r, s]
    return y
    ### END SOLUTION


# %% tags=["check"]
check("02.taps", conv_taps)

# %% [markdown]
# ## im2col: one large product
#
# Nine products are nine trips through memory. We can do with one. Write every window of the image out as a row of K K C numbers; w,
# with its first three axes made one, is a matrix (K K C, O); then a single product gives all of y:
#
# $$\text{columns}\ (NPQ,\; KKC) \;@\; w\ (KKC,\; O) = y\ (NPQ,\; O)$$
#
# This is called im2col. It is fast because a matrix product is what processors do best, and what libraries are tuned for. The price
# is memory: each pixel stands in nine windows, so it is written nine times.
#
# **Predict.** The second convolution of the paper's first level reads 64 channels of 570 x 570 pixels, in float32 (4 bytes). How
# many MiB (2^20 bytes) are all its columns?

# %% tags=["predict"]
### BEGIN SOLUTION: MiB of the columns; an estimate will do
guess = round(568 * 568 * 3 * 3 * 64 * 4 / 2**20)
### END SOLUTION

# %%
mib = 568 * 568 * 9 * 64 * 4 / 2**20
predicted(guess, mib, f"The map itself has {570 * 570 * 64 * 4 / 2**20:.0f} MiB. tinyunet makes the columns of a few rows at a time, and keeps "
          "none for the backward pass: it remembers x, and builds them again.")  # fmt: skip

# %% [markdown]
# ## Exercise 3: columns
#
# Rows in the order of the pixels: n slowest, then i, then j. Within a row the order of w's first three axes: r slowest, then s, then
# c. Loops over n, i, j are fine; `.ravel()` makes a slice flat.

# %% tags=["exercise"]
def columns(x, size):
    """(N, H, W, C) -> (N P Q, K K C) with K = size, P = H - K + 1, Q = W - K + 1"""
    n_images, height, width, c = x.shape
    ### BEGIN SOLUTION: cut out every window and make it a row
    rows = []
    for n in range(n_images):
        for i in range(height - size + 1):
            for j in range(width - size + 1):
                rows.append(x[n, i : i + size, j : j + size].ravel())
    return np.array(rows)
    ### END SOLUTION


# %% tags=["check"]
print(check("02.im2col", columns))
product = columns(x, 3) @ w.reshape(-1, 4) + b  # with your columns, a convolution is one line
print("largest difference to the other ways:", np.abs(product.reshape(y.shape) - y).max())

# %% [markdown]
# ## What each costs
#
# tinyunet has all three, and faster ones, as rungs of a ladder; `tu.rung(conv3x3="taps")` picks one. They do the same multiplications.
# (The times below are those of the computer on which this notebook was last run.)

# %%
small = rng.standard_normal((1, 64, 64, 16)).astype(np.float32)
weights, bias = rng.standard_normal((3, 3, 16, 16)).astype(np.float32), np.zeros(16, np.float32)
answers = {}
for name in ("loops", "taps", "im2col", "strips"):  # strips: im2col, but only as many rows at a time as fit into fast memory
    with tu.rung(conv3x3=name):
        times = []
        for _ in range(3):
            began = perf_counter()
            answers[name], _ = conv2d_forward(small, weights, bias)
            times.append(perf_counter() - began)
        print(f"{name:8} {1000 * min(times):8.2f} ms")
largest = max(np.abs(a - answers["loops"]).max() for a in answers.values())
print(f"largest difference: {largest:.0e}, and that is {largest / np.abs(answers['loops']).max():.0e} of the largest value")

# %% [markdown]
# The difference is not 0: floating-point sums depend on their order. A float32 has seven digits, and the last of them differ.
#
# ## Exercise 4: same padding
#
# The paper's convolutions are "valid": no pixel is invented, and the map shrinks by 2 each time. Most code that calls itself a U-Net
# uses "same" padding instead: zeros around the map, so that it keeps its size. Add it to your convolution. `np.pad` takes how many
# pixels to add before and after, for each axis.

# %% tags=["exercise"]
def conv_same(x, w, b):
    """(N, H, W, C), (3, 3, C, O), (O,) -> (N, H, W, O); x counts as zero outside"""
    ### BEGIN SOLUTION: put a border of zeros around x, then convolve
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return conv2d_forward(padded, w, b)[0]
    ### END SOLUTION


# %% tags=["check"]
check("02.same", conv_same)

# %% [markdown]
# **Predict.** Eighteen such layers follow one another. The mean of nine pixels, eighteen times over, of an image that is 1
# everywhere: with valid convolutions the result is 1 everywhere. What is it in the *corner*, with same padding? Write a guess between
# 0 and 1.

# %% tags=["predict"]
### BEGIN SOLUTION: the value in the corner
guess = 0.05
### END SOLUTION

# %%
ones = np.ones((1, 64, 64, 1))
mean = np.full((3, 3, 1, 1), 1 / 9)
for _ in range(18):
    ones, _ = conv2d_forward(ones, mean, np.zeros(1), padding="same")
show(plot.maps({"18 x same": ones}, width=4.5))
predicted(guess, round(float(ones[0, 0, 0, 0]), 2), "The zeros seep in, and the border of the image becomes another place than its "
          "inside. The paper shows the network real or mirrored pixels instead: lesson 01.")  # fmt: skip

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"My output is smaller than my image, is that a bug?"** It is H - K + 1 (jvanvugt/pytorch-unet issue 5, jakeret/tf_unet issue 41).
#   Code with "same" padding cannot turn 572 into 388, whatever its documentation says.
# - **Testing with square images only.** A kernel gradient was wrong for images that are not square, and all tests were square
#   (Maratyszcza/NNPACK issue 15). The checks here never draw a square image, nor as many channels in as out.
# - **Off by one axis in im2col.** Windows read along the row where they should go down it: ravin-d-27/PyDeepFlow, pull request 85.
#   `tinyunet.bugs` has that bug as "im2col_index": `print(tu.bugs.diff("im2col_index"))` after `import tinyunet.bugs`.
# - **A symmetric kernel in the test.** It does not notice whether you turn or transpose it. Use random numbers.
#
# ## Summary
#
# - A convolution adds up K K C products for each output pixel and channel; valid convolutions shrink the map by K - 1.
# - Loops over pixels, nine shifted products, and one product of columns are the same sum in three orders.
# - Columns cost nine times the memory of the map; so they are made strip by strip, and never kept.
# - Same padding keeps the size, and lets zeros in.
#
# **In the code**: [tinyunet/ops/conv.py](../tinyunet/ops/conv.py), and the rungs [loops.py](../tinyunet/rungs/loops.py),
# [taps.py](../tinyunet/rungs/taps.py), [im2col.py](../tinyunet/rungs/im2col.py).
# **In the paper**: section 2, and figure 1. **Next**: lesson [03](03_convolution_backward.ipynb) goes backward.
