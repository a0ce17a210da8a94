# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: The convolution backward, by hand
#     minutes: 90
#     prerequisites: ["01", "02"]
#     goals:
#     - derive the three gradients of a convolution from one product
#     - write them as loops, as taps, and as another convolution
#     - test a gradient to twelve digits with a complex step
# ---

# %% [markdown]
# # 03 The convolution backward, by hand
#
# **What you can do afterwards**
#
# - derive the three gradients of a convolution from one product;
# - write them as loops, as taps, and as another convolution;
# - test a gradient to twelve digits with a complex step.
#
# **Before this**: lessons [01](01_mirror_padding.ipynb) (the adjoint) and [02](02_convolution.ipynb). **Time**: 90 minutes.
#
# Section 3 of the paper says in one sentence that the network is trained by stochastic gradient descent, with the implementation of Caffe. That
# sentence hides half of the program: for each of 31 million weights one must know whether the loss rises or falls with it. The library
# knew how. In this lesson you write it.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.layers import Conv
from tinyunet.ops import conv2d_backward, conv2d_forward

rng = begin("03")

# %% [markdown]
# ## One product
#
# From lesson [02](02_convolution.ipynb), a valid convolution:
#
# $$y_{n,i,j,o} = b_o + \sum_{r,s,c} x_{n,\,i+r,\,j+s,\,c}\; w_{r,s,c,o}$$
#
# We are given dy, which says for every output pixel how much the loss L would change with it: $dy = \partial L / \partial y$. Wanted are dx, dw and db, in the shapes of x, w and b.
#
# The sum is long, but it is made of one thing only: a product of *one* pixel and *one* weight, added to *one* output. So look at a single one:
#
# $$y \;\mathrel{+}=\; x\,w$$
#
# If x grows by 1, y grows by w, and the loss by dy w. If w grows by 1, y grows by x, and the loss by dy x. So this product has two things to report:
#
# $$dx \mathrel{+}= dy\; w \qquad\qquad dw \mathrel{+}= dy\; x$$
#
# and the bias, added to every pixel of its channel, gets $db \mathrel{+}= dy$. Each pixel takes part in many products, and so does each weight. All their reports are *added*: that is the chain rule, and why
# it says += and not =. Nothing else is needed. The rest is keeping the indices in order.
#
# **Predict.** A kernel of 3 x 3, and x with 8 rows and 10 columns. How many output pixels read the corner x[0, 0]? How many read x[3, 4]?

# %% tags=["predict"]
### BEGIN SOLUTION: (readers of the corner, readers of x[3, 4])
guess = (1, 9)
### END SOLUTION

# %%
ones = np.ones((1, 8, 10, 1))
_, ctx = conv2d_forward(ones, np.ones((3, 3, 1, 1)), np.zeros(1))
readers = conv2d_backward(np.ones((1, 6, 8, 1)), ctx)[0][0, :, :, 0]
predicted(guess, (int(readers[0, 0]), int(readers[3, 4])), "With weights and dy of 1, dx counts the readers. The corner lies in one window, a pixel inside in nine.")

# %% [markdown]
# ## Exercise 1: loops
#
# Take your loops of lesson [02](02_convolution.ipynb), in which each step adds one product to y. Now each step sends its two reports back. As b is not needed, backward gets dy and what
# forward remembers: x and w.

# %% tags=["exercise"]
def backward_loops(dy, x, w):
    """(N, P, Q, O), (N, H, W, C), (K, K, C, O) -> dx (N, H, W, C), dw (K, K, C, O), db (O,)"""
    size, _, c_in, _ = w.shape
    ### BEGIN SOLUTION: three arrays of zeros; a loop over n, i, j, o and r, s, c that adds to them
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[3])
    for n, i, j, o in np.ndindex(dy.shape):
        db[o] += dy[n, i, j, o]
        for r, s, c in np.ndindex(size, size, c_in):
            dx[n, i + r, j + s, c] += dy[n, i, j, o] * w[r, s, c, o]
            dw[r, s, c, o] += dy[n, i, j, o] * x[n, i + r, j + s, c]
    return dx, dw, db
    ### END SOLUTION


# %% tags=["check"]
check("03.loops", backward_loops)

# %% [markdown]
# ## One pixel, seen from below
#
# Your loops *scatter*: each output sends reports to nine pixels. Now take the place of one pixel, (h, v), and *gather*: who reports to me? Output (i, j) read me with the weight
# (r, s) if i + r = h and j + s = v. So for the weight (r, s) it is the output (h - r, v - s), if there is one:
#
# $$dx_{n,h,v,c} = \sum_{r,s,o} dy_{n,\,h-r,\,v-s,\,o}\; w_{r,s,c,o} \qquad (dy = 0 \text{ where there is no output})$$
#
# Note the minus. Forward, a larger r reads *lower* in x. Backward, a larger r reads *higher* in dy. To lay the kernel on dy, one must turn it by 180 degrees. Here is one pixel inside, and below
# it the corner, which has a single reader.

# %%
x = rng.integers(-3, 5, (1, 8, 10, 2)).astype(float)
w = rng.integers(-2, 3, (3, 3, 2, 2)).astype(float)
dy = rng.integers(-2, 3, (1, 6, 8, 2)).astype(float)
show(plot.conv_pixel_backward(dy, w, at=(0, 3, 4, 0)))
show(plot.conv_pixel_backward(dy, w, at=(0, 0, 0, 0)))

# %% [markdown]
# **Predict.** In lesson [02](02_convolution.ipynb) a single 1 in x gave a y that was the kernel *turned* by 180 degrees. Now dy has a single 1 in the middle, and again
#
# $$w = \begin{pmatrix} 1 & 2 & 3 \\ 4 & 5 & 6 \\ 7 & 8 & 9 \end{pmatrix}$$
#
# Which nine numbers are in dx, as three rows?

# %% tags=["predict"]
### BEGIN SOLUTION: the three rows of dx
guess = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
### END SOLUTION

# %%
_, ctx = conv2d_forward(np.zeros((1, 5, 5, 1)), np.arange(1.0, 10).reshape(3, 3, 1, 1), np.zeros(1))
impulse = np.zeros((1, 3, 3, 1))
impulse[0, 1, 1, 0] = 1
predicted(guess, conv2d_backward(impulse, ctx)[0][0, 1:4, 1:4, 0], "One output read nine pixels through the kernel as it is, so it reports through the kernel as it is.")

# %% [markdown]
# What forward turns, backward does not, and the other way round. The kernel is the same. The question is who asks: one input asks its outputs, or one output its inputs.
#
# ## The matrix behind it
#
# In x a convolution is linear, but for the bias. So there is a matrix W with y = W x, if x and y are written as long columns of numbers. Here it is for one channel, a kernel of 3 x 3, and an x of 4 x 5: a row for each of the 6 outputs, a column for each of
# the 20 inputs. To get column k, feed an image that is 1 at pixel k and 0 elsewhere.

# %%
kernel = np.arange(1.0, 10).reshape(3, 3, 1, 1)
units = np.eye(20).reshape(20, 4, 5, 1)  # twenty images, each with a single 1
W = conv2d_forward(units, kernel, np.zeros(1))[0].reshape(20, 6).T


def draw(ax, matrix, title):
    """A matrix with its entries; zeros are left blank"""
    ax.imshow(np.where(matrix == 0, np.nan, matrix), cmap=plot.diverging(), vmin=-18, vmax=18)
    for i, j in np.argwhere(matrix):
        ax.text(j, i, f"{matrix[i, j]:g}", ha="center", va="center", fontsize=7)
    ax.set(xticks=range(0, matrix.shape[1], 5), yticks=range(0, matrix.shape[0], 5 if len(matrix) > 10 else 1))
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=7)


figure = Figure(figsize=(8.5, 4.6), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(20, 6))
draw(left, W, "W: forward, a row for each output, y = W x")
draw(right, W.T, "its transpose: dx = W$^T$ dy")
show(figure, "Left the matrix W, 6 rows and 20 columns: each row holds the kernel 1 2 3, 4 5 6, 7 8 9 in three groups with gaps of two zeros, one column farther right in each row, and three farther "
     "after the third row. Right its transpose, 20 rows and 6 columns.")  # fmt: skip

# %% [markdown]
# Read a row of W: these are the nine pixels that one output reads, with the kernel in its order, 1 to 9. Read a column, that is a row of the transpose, from left to right: these are the outputs
# that read one pixel, and the numbers fall. There is the turned kernel.
#
# By the chain rule, as in lesson [01](01_mirror_padding.ipynb), dx = W^T dy: **the backward pass of a convolution by its input is the adjoint of the forward pass.** Nobody stores W, of course.
#
# **Predict.** The second convolution of the paper's first level makes 568 x 568 x 64 numbers out of 570 x 570 x 64. If somebody did store its W, zeros and all, in float32 (4 bytes): how many TiB (2^40 bytes)?

# %% tags=["predict"]
### BEGIN SOLUTION: TiB of W
guess = 568**2 * 64 * 570**2 * 64 * 4 / 2**40
### END SOLUTION

# %%
entries = 568**2 * 64 * 570**2 * 64
predicted(guess, entries * 4 / 2**40, f"Of its entries {100 * 568**2 * 64 * 9 * 64 / entries:.4f} % are not zero, and these are copies of 36,864 weights.")

# %% [markdown]
# ## Exercise 2: taps
#
# Seven loops are slow. In lesson [02](02_convolution.ipynb) nine products did it: tap (r, s) reads the slice `x[:, r : r+P, s : s+Q]` and adds `slice @ w[r, s]` to y. So per tap there is *one* product of matrices, and its two reports are
#
# $$d(\text{slice}) \mathrel{+}= dy \;@\; w_{r,s}^T \qquad\qquad dw_{r,s} = \text{slice}^T \;@\; dy$$
#
# The slices of different taps overlap in dx, so these are added. In the second product, images and pixels must be summed over: `a.reshape(-1, C)` makes one long axis of them, and then `a.T @ b` sums over it.
#
# The check holds your answer to the formula and to the project's own laws: differences, the complex step, the adjoint, the matrix W. If it passes, it lets your gradient do its work. A kernel
# is hidden; only its result is known. From random weights, forty steps against dw and db should find it.

# %% tags=["exercise"]
def backward_taps(dy, x, w):
    """(N, P, Q, O), (N, H, W, C), (3, 3, C, O) -> dx (N, H, W, C), dw (3, 3, C, O), db (O,)"""
    _, rows, cols, c_out = dy.shape
    c_in = x.shape[3]
    ### BEGIN SOLUTION: for each of nine taps, add to a slice of dx, and compute one matrix of dw
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    for r in range(3):
        for s in range(3):
            dx[:, r : r + rows, s : s + cols] += dy @ w[r, s].T
            window = x[:, r : r + rows, s : s + cols]
            dw[r, s] = window.reshape(-1, c_in).T @ dy.reshape(-1, c_out)
    return dx, dw, dy.sum(axis=(0, 1, 2))
    ### END SOLUTION


# %% tags=["check"]
print(check("03.taps", backward_taps))
hidden = np.zeros((3, 3, 1, 2))
hidden[:, :, 0, 0] = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
hidden[:, :, 0, 1] = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
cells = tu.synthetic("phase", 1, 96, own, cells=5)[0].image[None].astype(float)
found = {}
for name, image in (("noise", own.standard_normal(cells.shape)), ("cells", (cells - cells.mean()) / cells.std())):
    wanted, _ = conv2d_forward(image, hidden, np.array([0.5, -0.2]))
    weights, bias = 0.2 * own.standard_normal(hidden.shape), np.zeros(2)
    for _ in range(40):
        seen, _ = conv2d_forward(image, weights, bias)
        # L = sum((seen - wanted)^2) / 2 / pixels, so its gradient is
        _, dw, db = backward_taps((seen - wanted) / (94 * 94), image, weights)
        weights, bias = weights - 0.2 * dw, bias - 0.2 * db
    found[name] = weights
    explained = 1 - ((seen - wanted) ** 2).mean(axis=(0, 1, 2)) / wanted.var(axis=(0, 1, 2))
    print(f"{name}: the weights are off by {np.abs(weights - hidden).max():.4f} at most; of the variance of y, "
          f"{100 * explained[0]:.2f} and {100 * explained[1]:.2f} % are explained")  # fmt: skip
show(plot.filters(np.concatenate([hidden, found["noise"], found["cells"]], axis=3), width=6.8,
                  titles=("hidden", "hidden", "from noise", "from noise", "from cells", "from cells")))  # fmt: skip

# %% [markdown]
# The figure has the two hidden kernels, what noise taught, and what the image of cells taught. With noise both kernels are found. With the cells the first y is nearly
# right, though its kernel is not, and the second kernel is far behind: see its percentage above. Neighbouring pixels of a smooth image are nearly equal: which of them gets the weight changes the loss little, so the gradient in that direction is small, and so are the
# steps. The gradient is right in both cases. Being right does not make learning fast.
#
# ## Backward is a convolution, too
#
# Look at the gather formula again. A sum over a window of dy, times the turned kernel: that *is* a convolution, from O channels to C. Two things are different from the one you know.
#
# - At the corner of x the window sticks out of dy, except for one pixel. So dy needs a border of zeros, K - 1 wide. Such a convolution, where kernel and map overlap by a single pixel at least, is called "full".
# - It sums over o where forward sums over c. So the last two axes of w change places.
#
# $$\text{valid forward} \;\longleftrightarrow\; \text{full backward}, \qquad \text{shape: } P + 2(K-1) - (K-1) = P + K - 1 = H$$
#
# **Predict.** Of the paper's eighteen 3x3 convolutions, how many have as many channels out as in? For these, nobody notices from a shape when the two axes have *not* changed places.

# %% tags=["predict"]
### BEGIN SOLUTION: how many of eighteen
guess = 9
### END SOLUTION

# %%
convolutions = [layer for layer in tu.shapes.layers(tu.preset("paper")) if layer.kind == "conv3x3"]
predicted(guess, sum(layer.c_in == layer.c_out for layer in convolutions), f"Of {len(convolutions)}: the second one of each level. A test with C = O is blind.")

# %% [markdown]
# ## Exercise 3: full
#
# Compute dx with a forward convolution. `conv2d_forward(x, w, b)` is yours to use; everything else is in how you call it. (`a.transpose(...)` or `a.swapaxes(k, l)` exchange axes, `a[::-1]` turns one round.)

# %% tags=["exercise"]
def grad_x_full(dy, w):
    """(N, P, Q, O), (3, 3, C, O) -> dx (N, P + 2, Q + 2, C)"""
    ### BEGIN SOLUTION: zeros around dy; w turned by 180 degrees, C and O exchanged; then one convolution
    padded = np.pad(dy, ((0, 0), (2, 2), (2, 2), (0, 0)))
    turned = w[::-1, ::-1].swapaxes(2, 3)
    return conv2d_forward(padded, turned, np.zeros(w.shape[2]))[0]
    ### END SOLUTION


# %% tags=["check"]
check("03.full", grad_x_full)

# %% [markdown]
# tinyunet takes this way where it is faster, and the other, taps or columns folded back, where that is faster: [im2col.py](../tinyunet/rungs/im2col.py) has both. They are one sum in two orders.
#
# **Predict.** Forward does M multiplications. How many times M does the whole backward pass do?

# %% tags=["predict"]
### BEGIN SOLUTION: how many times as many as forward
guess = 2
### END SOLUTION

# %%
predicted(guess, 2, "Each product makes two reports, one for dx and one for dw. So a step of training costs about three forward passes. The first layer "
          "may save one of them: nobody needs the gradient by the image.")  # fmt: skip

# %% [markdown]
# ## Adding up, three times
#
# Gradients are added in three places, and each has been forgotten by somebody.
#
# 1. **Within dx**: windows overlap, and each pixel hears from up to nine.
# 2. **Within dw and db**: one kernel serves all pixels and all images of the batch. Sum, do not average: if the loss is a mean, dy has the division in it already.
# 3. **Between calls**: a layer *adds* to its gradient, so that two small batches can do the work of one large. Before a new step somebody must set it to zero.
#
# **Predict.** A layer is run forward and backward twice on the same x and dy, and nobody calls `zero_grad` in between. How many times dw is its gradient then?

# %% tags=["predict"]
### BEGIN SOLUTION: how many times dw
guess = 2
### END SOLUTION

# %%
layer = Conv("conv", 2, 2, 3, "valid", rng)
batch, upstream = x.astype(np.float32), dy.astype(np.float32)
for _ in range(2):
    layer.forward(batch)
    layer.backward(upstream)
_, ctx = conv2d_forward(batch, layer.params["w"], layer.params["b"])
_, dw, _ = conv2d_backward(upstream, ctx)
times = float(np.vdot(layer.grads["w"], dw) / np.vdot(dw, dw))
predicted(guess, round(times, 3), "A layer adds to its gradients what backward finds. model.zero_grad() begins anew; without it every step would drag "
          "all earlier ones along.")

# %% [markdown]
# ## Is it right?
#
# The loss falls with many a wrong gradient, only more slowly. So a gradient must be tested, and the test must not be the same derivation over again. Ask the forward pass. How fast does a function f of some array v change when v moves along u? With a
# small step e,
#
# $$\langle dv, u\rangle \;\approx\; \frac{f(v + e\,u) - f(v - e\,u)}{2e}$$
#
# One such number tests all entries of dv at once, if u is drawn at random. But how small is small? If e is large, f is not straight; if e is tiny, two nearly equal numbers are subtracted and their digits are lost.
#
# There is a way without subtraction. Step into the *imaginary* direction:
#
# $$f(v + i h u) = f(v) + i h \,\langle dv, u\rangle - \tfrac{h^2}{2}(\ldots) \qquad\Longrightarrow\qquad \langle dv, u\rangle = \frac{\operatorname{Im} f(v + i h u)}{h}$$
#
# The derivative stands alone in the imaginary part. Nothing is subtracted, so h may be 1e-30, and the neglected terms are far below the last digit. All it takes is a forward pass that computes with complex numbers, as NumPy does by itself. (The method is old: Squire and
# Trapp, 1998.)
#
# As f we take a loss that is smooth and not linear, as a function of the weights. (`conv2d_forward` takes arrays of one dtype, so all become complex with w.)

# %%
def loss(w):
    """L = sum of log(1 + exp(y / 4))"""
    y, _ = conv2d_forward(x.astype(w.dtype), w, np.zeros(2, w.dtype))
    return np.log(1 + np.exp(y / 4)).sum()


y, ctx = conv2d_forward(x, w, np.zeros(2))
dy = 0.25 / (1 + np.exp(-y / 4))  # the derivative of L by y
_, dw, _ = conv2d_backward(dy, ctx)
u = rng.standard_normal(w.shape)

# %% [markdown]
# ## Exercise 4: the complex step

# %% tags=["exercise"]
def slope(f, v, u):
    """f takes an array and gives a number; v and u are arrays of one shape -> how fast f changes when v moves along u"""
    ### BEGIN SOLUTION: a step of 1e-30 into the imaginary direction
    h = 1e-30
    return f(v + 1j * h * u).imag / h
    ### END SOLUTION


# %% tags=["check"]
print(check("03.slope", slope))
print(f"<dw, u>                    {np.vdot(dw, u):.15g}")
print(f"complex step               {slope(loss, w, u):.15g}")
print(f"<dw, u> with dw turned     {np.vdot(dw[::-1, ::-1], u):.15g}")

# %% [markdown]
# How good is the usual difference, with steps e from 1e-1 to 1e-12? And how large may h be?

# %%
true = np.vdot(dw, u)
steps = 10.0 ** -np.arange(1, 13)
central = [abs((loss(w + e * u) - loss(w - e * u)) / (2 * e) / true - 1) for e in steps]
imaginary = [abs(loss(w + 1j * e * u).imag / e / true - 1) for e in steps]
figure = Figure(figsize=(8, 2.8), layout="constrained")
ax = figure.subplots()
ax.loglog(steps, np.maximum(central, 1e-17), "o-", color="#d55e00", label="difference")
ax.loglog(steps, np.maximum(imaginary, 1e-17), "s-", color="#0072b2", label="complex step")
ax.set(xlabel="step e or h", ylabel="relative error")
ax.invert_xaxis()
ax.legend()
show(figure, f"Relative error against the step. The difference falls to {min(central):.0e} near a step of {steps[int(np.argmin(central))]:.0e} and rises again to {central[-1]:.0e} at 1e-12; "
     f"the complex step is as good down to there, falls on, and is {max(imaginary[-3:]):.0e} or less from 1e-10 on.")  # fmt: skip

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **The kernel not turned** where dx is computed as a convolution. Shapes are right and training goes on, worse. `tinyunet.bugs` has it as "dx_with_unflipped_kernel".
# - **C and O not exchanged.** An error message where they differ, silence where they are equal: in half of U-Net's 3x3 convolutions.
# - **db summed over the batch only.** `dy.sum(axis=0)` has the shape (P, Q, O); added to b of shape (O,) by broadcasting, it makes a bias for every pixel. Sum over everything but o.
# - **dw assigned where it should be added to**, so that the last image or the last pixel counts (a bug of this kind: LBANN/lbann, pull request 1022); or divided by N once more.
# - **A test with dy = 1.** `y.sum()` as the loss makes every dy equal, and with equal dy nobody can tell a kernel from a turned one inside the image. Draw dy at random. (In TinyTorch, pull request 2053, wrong signs in a softmax backward passed all tests for this reason.)
# - **Square images, C = O, one image** in the test: Maratyszcza/NNPACK issue 15 is a wrong kernel gradient that only other shapes show.
# - **A forward pass that is wrong as well.** Every gradient check asks your own forward. If that turns the kernel, and backward knows of it, they agree. Forward needs a test of its own: lesson [02](02_convolution.ipynb).
# - **Complex steps through `abs`, `max` or `.astype`.** They drop the imaginary part or compare complex numbers. Compare real parts.
#
# ## Summary
#
# - y += x w reports dx += dy w and dw += dy x. All three gradients of a convolution are these reports, added up.
# - dx is the adjoint: W^T dy. As loops it scatters with the kernel as it is; as a gather it convolves with the kernel turned, C and O exchanged, and a border of zeros K - 1 wide.
# - Per tap, backward is two matrix products. It costs twice as much as forward.
# - Sum over images and pixels; begin anew with zeros before each step.
# - A complex step tests any gradient to about 1e-15, with no step size to choose. It does not test forward.
#
# **In the code**: `conv2d_backward` in [tinyunet/ops/conv.py](../tinyunet/ops/conv.py); [loops.py](../tinyunet/rungs/loops.py), [taps.py](../tinyunet/rungs/taps.py) and
# [im2col.py](../tinyunet/rungs/im2col.py) with `grad_x` and `grad_w`; the checks in [tinyunet/check.py](../tinyunet/check.py); the laws in [tinyunet/catalogue/conv.py](../tinyunet/catalogue/conv.py).
# **In the paper**: section 3, its first sentences. It takes the gradients for granted. **Next**: lesson [04](04_relu_and_initialisation.ipynb) puts a ReLU behind every convolution, and asks with which weights to begin.
