# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Up-convolution, the adjoint and not the inverse
#     minutes: 75
#     prerequisites: ["02", "03"]
#     goals:
#     - compute an up-convolution by hand, and write it and its backward pass
#     - say why it is the transpose of a convolution of stride 2, and why that is not its inverse
#     - count where a kernel and a stride make a checkerboard, and say why 2x2 with stride 2 is even and still not safe
# ---

# %% [markdown]
# # 06 Up-convolution, the adjoint and not the inverse
#
# **What you can do afterwards**
#
# - compute an up-convolution by hand, and write it and its backward pass;
# - say why it is the transpose of a convolution of stride 2, and why that is not its inverse;
# - count where a kernel and a stride make a checkerboard, and say why 2x2 with stride 2 is even and still not safe.
#
# **Before this**: lessons [02](02_convolution.ipynb) and [03](03_convolution_backward.ipynb). **Time**: 75 minutes.
#
# Poolings and convolutions have made a map of 28 x 28 pixels out of 572 x 572, and a class is wanted for every pixel. So the map must grow again.
# Section 2 of the paper says how: each step of the expansive path begins with an upsampling followed by a 2x2 convolution, called
# up-convolution, which halves the number of channels. The authors' release makes both one layer, known elsewhere as "transposed
# convolution" or "deconvolution". The first of these names is right, and this lesson says why. The second is wrong, and it says why, too.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops import conv2d_forward, upconv_forward
from tinyunet.probe import probe

rng = begin("06")

# %% [markdown]
# ## Every pixel paints
#
# A convolution *collects*: for each output pixel it adds up a window of the input. An up-convolution *paints*: each input pixel takes
# the 2x2 kernel for a brush, multiplies it by its own value, and paints it into its own 2x2 block of the output. The blocks lie side by
# side and do not overlap.

# %%
x = np.zeros((1, 4, 6, 1))
x[0, 0, 0], x[0, 1, 3], x[0, 3, 1], x[0, 3, 5] = 1, 2, 3, -1
w = np.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1)
painted, _ = upconv_forward(x, w, np.zeros(1))
show(plot.maps({"x": x, "y": painted}, width=6))

# %% [markdown]
# With channels: x is (N, H, W, C), the weights w are (2, 2, O, C), the bias b has O numbers, and y is (N, 2H, 2W, O):
#
# $$y_{n,\,2i+a,\,2j+d,\,o} = b_o + \sum_{c} x_{n,i,j,c}\; w_{a,d,o,c} \qquad a, d \in \{0, 1\}$$
#
# Look at the axes of w: O stands *before* C, the other way round than in lesson [02](02_convolution.ipynb). The reason comes below. Here is one output pixel,
# with two channels: one input pixel, one tap of the kernel for each channel, and the bias.

# %%
some_x = rng.integers(-3, 5, (1, 3, 4, 2)).astype(float)
some_w = rng.integers(-2, 3, (2, 2, 3, 2)).astype(float)
show(plot.upconv_pixel(some_x, some_w, np.array([1.0, 0, -1]), at=(0, 3, 4, 0)))

# %% [markdown]
# **Predict.** In lesson [02](02_convolution.ipynb) a single pixel of value 1, convolved with a kernel, gave that kernel *turned by 180 degrees*. Now x is one
# pixel of value 1, and the kernel is
#
# $$w = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}$$
#
# What is y, as two rows?

# %% tags=["predict"]
### BEGIN SOLUTION: the two rows of y
guess = [[1, 2], [3, 4]]
### END SOLUTION

# %%
one_pixel, _ = upconv_forward(np.ones((1, 1, 1, 1)), w, np.zeros(1))
predicted(guess, one_pixel[0, :, :, 0], "The brush is laid on as it is. A convolution of an impulse turns the kernel, an up-convolution does not. "
          "Keep that in mind: the two are going to be each other's transpose.")  # fmt: skip

# %% [markdown]
# **Predict.** With which four weights does an up-convolution write every pixel four times, so that the map just grows? Two rows.

# %% tags=["predict"]
### BEGIN SOLUTION: the two rows of w
guess = [[1, 1], [1, 1]]
### END SOLUTION

# %%
repeated, _ = upconv_forward(x, np.ones((2, 2, 1, 1)), np.zeros(1))
assert np.array_equal(repeated, x.repeat(2, axis=1).repeat(2, axis=2))
predicted(guess, [[1, 1], [1, 1]], "This is upsampling by the nearest neighbour. It is one of the things an up-convolution can learn.")

# %% [markdown]
# ## Exercise 1: paint
#
# All pixels (2i+a, 2j+d) of y, for one tap (a, d), are the slice `y[:, a::2, d::2]`, as large as x. So four matrix products do it. Mind
# which axis of `w[a, d]`, a matrix (O, C), meets the channels of x.

# %% tags=["exercise"]
def upconv(x, w, b):
    """(N, H, W, C), (2, 2, O, C), (O,) -> (N, 2H, 2W, O)"""
    n, height, width, _ = x.shape
    ### BEGIN SOLUTION: begin with the bias; for each tap (a, d), paint the pixels (2i+a, 2j+d)
    y = np.zeros((n, 2 * height, 2 * width, w.shape[2]), x.dtype) + b
    for a in range(2):
        for d in range(2):
            y[:, a::2, d::2] += x @ w[a, d].T
    return y
    ### END SOLUTION


# %% tags=["check"]
check("06.paint", upconv)

# %% [markdown]
# ## The convolution of stride 2
#
# Now the other direction. A convolution of *stride 2* lays the same 2x2 kernel on the image and moves it two pixels at a time, so that its
# windows are those same blocks. From v with O channels it makes a map of half the side with C channels:
#
# $$z_{n,i,j,c} = \sum_{a,d} \sum_{o} v_{n,\,2i+a,\,2j+d,\,o}\; w_{a,d,o,c}$$
#
# For this convolution O goes in and C comes out. That is why w has the shape (2, 2, O, C): it is laid out as lesson [02](02_convolution.ipynb)'s weights are,
# *for the convolution*, and the up-convolution uses it backward. One array, two maps.
#
# ## Exercise 2: collect

# %% tags=["exercise"]
def conv_stride2(v, w):
    """(N, 2H, 2W, O), (2, 2, O, C) -> (N, H, W, C)"""
    ### BEGIN SOLUTION: for each tap (a, d), take the pixels (2i+a, 2j+d) of v; add four products up
    z = 0
    for a in range(2):
        for d in range(2):
            z = z + v[:, a::2, d::2] @ w[a, d]
    return z
    ### END SOLUTION


# %% tags=["check"]
check("06.collect", conv_stride2)

# %% [markdown]
# The convolutions that you know have stride 1. One of stride 2 is the same, of which three pixels in four are thrown away. So let us take that, which owes nothing to your answers, and compare it
# with the up-convolution.

# %%
def stride_2_of_stride_1(v, w):
    """The convolution of stride 2, by one of stride 1; that has 3x3 taps here, the last ones 0"""
    kernel = np.pad(w, ((0, 1), (0, 1), (0, 0), (0, 0)))
    padded = np.pad(v, ((0, 0), (0, 1), (0, 1), (0, 0)))
    return conv2d_forward(padded, kernel, np.zeros(w.shape[3]))[0][:, ::2, ::2]


v = rng.standard_normal((1, 6, 8, 3))  # 3 channels out of the up-convolution, 2 into it
left = np.sum(upconv_forward(some_x, some_w, np.zeros(3))[0] * v)
right = np.sum(some_x * stride_2_of_stride_1(v, some_w))
print(f"<up(x), v> = {left:.12f}\n<x, conv(v)> = {right:.12f}")

# %% [markdown]
# The two numbers agree, for any x and v. Lesson [01](01_mirror_padding.ipynb) called two linear maps with this property *adjoint* to each other.
#
# ## As matrices
#
# A linear map of small images is a small matrix. Write a 2x2 map as 4 numbers and a 4x4 map as 16; feed each unit vector, and keep what
# comes out as a column. S is the convolution of stride 2, from 16 numbers to 4. W is the up-convolution, from 4 to 16.

# %%
def matrix(f, shape):
    """A linear map of arrays of this shape, as a matrix: column k is what becomes of the k-th unit vector"""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([f(unit).ravel() for unit in units], axis=1)


def panels(matrices, cell=0.22):
    """Matrices with their numbers, side by side, to one scale and in one scale of colours"""
    rows, columns = max(len(m) for m in matrices.values()), sum(m.shape[1] + 2 for m in matrices.values())
    top = max(np.abs(m).max() for m in matrices.values())
    width, height = cell * columns, cell * (rows + 2.5)
    figure, left = Figure(figsize=(width, height)), cell
    for name, m in matrices.items():
        across, down = cell * m.shape[1], cell * m.shape[0]
        ax = figure.add_axes((left / width, 1 - (2 * cell + down) / height, across / width, down / height))
        ax.imshow(m, cmap=plot.diverging(), vmin=-3 * top, vmax=3 * top)
        for i, j in np.argwhere(m):
            ax.text(j, i, f"{m[i, j]:.3g}", ha="center", va="center", fontsize=6)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{name} ({m.shape[0]}x{m.shape[1]})", fontsize=8)
        left += across + 2 * cell
    return figure


W = matrix(lambda x: upconv_forward(x, w, np.zeros(1))[0], (1, 2, 2, 1))
S = matrix(lambda v: stride_2_of_stride_1(v, w), (1, 4, 4, 1))
show(panels({"S, collects": S, "W": W}),
     "Two matrices. S has 4 rows and 16 columns; each row holds the four weights 1, 2, 3, 4 at the pixels of one block, and zeros. W has "
     "16 rows and 4 columns and is S turned over: each column holds the four weights of the block that one pixel paints.")  # fmt: skip
print("W equals the transpose of S:", np.array_equal(W, S.T))

# %% [markdown]
# S holds a kernel in each row, W the same kernel in each column: W = Sᵀ. Hence the name *transposed convolution*. Its weights are not
# transposed, nor turned. The matrix is.
#
# **Predict.** Paint one pixel of value 1 with the kernel 1, 2, 3, 4, then collect the block with the same kernel. If the one undid the
# other, you would get 1. What do you get?

# %% tags=["predict"]
### BEGIN SOLUTION: the number that comes back
guess = 1 * 1 + 2 * 2 + 3 * 3 + 4 * 4
### END SOLUTION

# %%
predicted(guess, float((W.T @ W)[0, 0]), "The sum of the squared weights. Paint and collect multiplies by it; nothing is undone.")

# %%
show(panels({"WᵀW": W.T @ W, "WWᵀ": W @ W.T}),
     "Two square matrices. Paint then collect, 4x4, has 30 on its diagonal and zeros elsewhere. Collect then paint, 16x16, has a full 4x4 "
     "pattern of products of weights for each block, from 1 to 16, and zeros elsewhere. Neither has ones on the diagonal and zeros beside it.")  # fmt: skip

# %% [markdown]
# ## Not the inverse
#
# Neither product is the identity I, which has ones on its diagonal and zeros elsewhere. They miss it for different reasons.
#
# **Paint, then collect: WᵀW.** With one channel it is 30 I: a factor, which one could divide out. With C channels it is a C x C matrix
# for each pixel,
#
# $$G_{c,c'} = \sum_{a,d,o} w_{a,d,o,c}\, w_{a,d,o,c'}$$
#
# and channels mix. Here is G for weights as the network draws them, 8 channels in and 4 out.
#
# **Collect, then paint: WWᵀ.** Here no factor helps. S makes 4 numbers out of 16, and what was thrown away is thrown away. WWᵀ has rank 4.

# %%
c_in, c_out = 8, 4
drawn = tu.UNet(tu.preset("paper", base=4, depth=1), rng=rng).up[0].upconv.params["w"].astype(float)
assert drawn.shape == (2, 2, c_out, c_in)
kernels = drawn.reshape(-1, c_in)  # (4 O, C): a column for each input channel
G = kernels.T @ kernels
print("G, rounded:")
print(np.round(G, 1))
print(f"mean of its diagonal {np.diag(G).mean():.2f}, largest number beside it {np.abs(G - np.diag(np.diag(G))).max():.2f}")
print("rank of W W^T:", np.linalg.matrix_rank(W @ W.T), "of", len(W))

# %% [markdown]
# The diagonal is about 4, and not by chance: the weights have variance 2/C (lesson [04](04_relu_and_initialisation.ipynb)), each number is a sum of 4 O squares, and O = C/2.
#
# The other order on a real image. We take the kernel with four weights 1/2, the best possible case: its squares add up to 1, so WᵀW = I
# exactly.

# %%
image = tu.synthetic("em", 1, 96, rng)[0].image[None].astype(float)
image = (image - image.mean()) / image.std()
half = np.full((2, 2, 1, 1), 0.5)
collected = stride_2_of_stride_1(image, half)
back, _ = upconv_forward(collected, half, np.zeros(1))
again = stride_2_of_stride_1(back, half)
dark = image.min()
show(plot.maps({"v and back": np.concatenate((image, back), axis=3) - dark, "collected": collected - collected.min(),
                "difference": image - back}, width=5.5, titles={"v and back": ("v", "painted back")}))  # fmt: skip
print(f"paint, then collect: off by {np.abs(again - collected).max():.1g}")
print(f"collect, then paint: {100 * ((image - back)**2).sum() / (image**2).sum():.0f} % of the image's energy is lost")

# %% [markdown]
# What is lost is the fine detail: grain, edges, everything that differs inside a block. No up-convolution can bring it back, whatever its
# weights: it is not in the small map. A U-Net gets the detail from elsewhere, through its skips, and that is lesson [07](07_crop_and_concatenate.ipynb).
#
# ## Backward
#
# By lesson [03](03_convolution_backward.ipynb), the backward pass of a linear map is its transpose. The transpose of W is S. So the gradient of x needs no new idea:
#
# $$dx_{n,i,j,c} = \sum_{a,d,o} dy_{n,\,2i+a,\,2j+d,\,o}\; w_{a,d,o,c}$$
#
# is the convolution of stride 2, of dy. And the backward pass of a convolution of stride 2 is an up-convolution. Each weight w[a,d,o,c] took
# part once for every pixel of every image, the bias b[o] once for every pixel of y:
#
# $$dw_{a,d,o,c} = \sum_{n,i,j} dy_{n,\,2i+a,\,2j+d,\,o}\; x_{n,i,j,c} \qquad\qquad db_o = \sum_{n,p,q} dy_{n,p,q,o}$$

# %%
some_dy = rng.integers(-2, 3, (1, 6, 8, 3)).astype(float)
show(plot.upconv_pixel_backward(some_dy, some_w, at=(0, 1, 2, 0)))

# %% [markdown]
# ## Exercise 3: backward
#
# You may use your `conv_stride2`. For dw, make both slices into matrices of N H W rows: `dy[:, a::2, d::2].reshape(-1, O)` and
# `x.reshape(-1, C)`. Their product, one of them transposed, sums over all pixels.

# %% tags=["exercise"]
def upconv_backward(dy, x, w):
    """(N, 2H, 2W, O), (N, H, W, C), (2, 2, O, C) -> dx, dw, db, shaped as x, w, b"""
    ### BEGIN SOLUTION: dx collects, dw is a matrix product for each tap, db a sum; return all three
    dx = conv_stride2(dy, w)
    dw = np.zeros_like(w)
    for a in range(2):
        for d in range(2):
            block = dy[:, a::2, d::2].reshape(-1, w.shape[2])
            dw[a, d] = block.T @ x.reshape(-1, w.shape[3])
    db = dy.sum(axis=(0, 1, 2))
    return dx, dw, db
    ### END SOLUTION


# %% tags=["check"]
check("06.backward", upconv_backward)

# %% [markdown]
# ## Checkerboards
#
# Why 2x2 with stride 2? Nothing forbids a brush of 3x3 pixels that moves by 2. Then neighbouring blocks overlap, and what they paint on
# the same pixel adds up. Odena, Dumoulin and Olah showed in 2016 what comes of it, in
# [an article in Distill](https://distill.pub/2016/deconv-checkerboard/) that is worth reading for its pictures alone.
#
# **Predict.** Four pixels in a row, a brush of k = 3 pixels, stride s = 2. Pixel i paints the pixels 2i, 2i+1, 2i+2; the output has 9. How
# often is each of the nine painted?

# %% tags=["predict"]
### BEGIN SOLUTION: nine numbers
guess = [1, 1, 2, 1, 2, 1, 2, 1, 1]
### END SOLUTION

# %%
times_painted = [sum(0 <= p - 2 * i < 3 for i in range(4)) for p in range(9)]
predicted(guess, times_painted, "Every second pixel twice. In two directions the numbers multiply: 1, 2 and 4, a checkerboard.")

# %% [markdown]
# ## Exercise 4: any brush, any stride
#
# Write the up-convolution for a kernel of k x k and a stride s, without a bias. Pixel (i, j) paints on rows s i to s i + k - 1 and columns
# s j to s j + k - 1:
#
# $$y_{n,\,si+a,\,sj+d,\,o} \mathrel{+}= \sum_c x_{n,i,j,c}\; w_{a,d,o,c} \qquad 0 \le a, d < k$$
#
# The output has (H - 1) s + k rows. With k < s some of its pixels are never painted, and stay 0. If your answer is right, its check paints with 2000 random brushes and
# says how large y becomes.

# %% tags=["exercise"]
def paint(x, w, s):
    """(N, H, W, C), (k, k, O, C), stride s -> (N, (H-1)s + k, (W-1)s + k, O)"""
    n, height, width, _ = x.shape
    k = w.shape[0]
    ### BEGIN SOLUTION: begin with zeros; where brushes overlap, add
    y = np.zeros((n, (height - 1) * s + k, (width - 1) * s + k, w.shape[2]), x.dtype)
    for a in range(k):
        for d in range(k):
            y[:, a : a + (height - 1) * s + 1 : s, d : d + (width - 1) * s + 1 : s] += x @ w[a, d].T
    return y
    ### END SOLUTION


# %% tags=["check"]
print(check("06.any_stride", paint))
big = np.ones((1, 6, 6, 1))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
for k in (2, 3, 4):  # random brushes: how large is y on average, on a map that is 1 everywhere?
    squares = np.mean([paint(big, own.standard_normal((k, k, 1, 1)), 2)[0, 4:6, 4:6, 0] ** 2 for _ in range(2000)], axis=0)
    print(f"k={k}: mean of y^2 at the four places of a block, 2000 random kernels:", np.round(squares, 1).tolist())

# %% [markdown]
# In two directions the numbers of the prediction multiply. So often each pixel is painted:

# %%
def times(n, k):
    """How often each pixel of a row is painted, by n pixels with a brush of k and stride 2"""
    return [sum(0 <= p - 2 * i < k for i in range(n)) for p in range(2 * (n - 1) + k)]


show(panels({f"k={k}, s=2": np.outer(times(4, k), times(5, k)) for k in (2, 3, 4)}),
     "How often each pixel of the output is painted, for a map of 4x5 pixels. k=2: once everywhere. k=3: 1, 2 or 4 times, in a checkerboard. "
     "k=4: four times everywhere but in a border two pixels wide, where it is 1 or 2.")  # fmt: skip

# %% [markdown]
# With k = 2 each pixel is painted once, and
# with k = 4 four times, two a direction: even, but for the border. With k = 3 it is 1, 2 and 4 times, and with random weights the mean of $y^2$ is larger where more
# is painted, in proportion (the check of exercise 4 measures it, with your brushes). The rule: the cover is even where s divides k. With k = s, as in the U-Net, nothing overlaps and nothing is left out.
#
# Distill's second point is about *gradients*. A convolution with k = 3 and stride 2 goes backward by painting with k = 3 and stride 2. So
# its gradient has a checkerboard, even where its output looks fine. The convolutions of a U-Net have stride 1, and it shrinks its maps by max-pooling.
# (Whose gradient is uneven in its own way: one pixel of four gets all of it.)
#
# ## Even, and still not safe
#
# An even cover says that no pixel is painted more often. It does not say that the four are painted *alike*. Each of the four taps has weights of its
# own, and until training makes them agree, a flat grey area comes out as a pattern of period 2. Upsampling first, then an
# ordinary 3x3 convolution, cannot do that: all pixels of a flat area see the same, and the four places share their weights. This is
# Distill's advice: resize, then convolve.
#
# We measure it. `pattern(y)` takes the mean of y at each of the four places of a block; how far these four differ, as a part of the size of y, is
# how strong the pattern is. The maps are real: what a first level of convolutions makes of our image. Bilinear upsampling
# is the nearest neighbour's, blurred by (1, 2, 1)/4 in both directions.

# %%
def pattern(y):
    """(N, 2H, 2W, C) -> how far the means of the four places of a block differ, relative to the size of y"""
    means = np.stack([y[:, a::2, d::2].mean(axis=(0, 1, 2)) for a in range(2) for d in range(2)])
    return float(np.sqrt(means.var(axis=0).sum() / (y**2).mean(axis=(0, 1, 2)).sum()))


def he(shape, fan_in):
    """Weights as the network draws them (lesson 04)"""
    return rng.standard_normal(shape) * np.sqrt(2 / fan_in)


def nearest(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def bilinear(x):
    c = x.shape[3]
    blur = np.outer([1, 2, 1], [1, 2, 1])[:, :, None, None] / 16 * np.eye(c)
    return conv2d_forward(nearest(x), blur, np.zeros(c))[0]


first = tu.UNet(tu.preset("paper", base=8, depth=1), rng=rng).astype("float64").eval()
with probe(first, "down.0.pool") as seen:
    first.forward(image)
small = seen.y["down.0.pool"]  # (1, 46, 46, 8)
ways = {
    "up-conv. 2x2": lambda: upconv_forward(small, he((2, 2, 4, 8), 8), np.zeros(4))[0],
    "nearest, then 3x3": lambda: conv2d_forward(nearest(small), he((3, 3, 8, 4), 72), np.zeros(4))[0],
    "bilinear, then 3x3": lambda: conv2d_forward(bilinear(small), he((3, 3, 8, 4), 72), np.zeros(4))[0],
}
shown = {}
for name, way in ways.items():
    strengths = [pattern(way()) for _ in range(30)]
    y = way()[:, 30:60, 30:60]
    top = np.percentile(np.abs(y), 97)  # the few largest values would leave the others pale
    shown[name.replace(", then", "\nthen")] = y.clip(-top, top)
    print(f"{name:20} pattern {np.mean(strengths):.3f}  (30 draws of weights: {min(strengths):.3f} to {max(strengths):.3f})")
show(plot.maps(shown, channels=4, width=7.5))

# %% [markdown]
# So untrained up-convolutions make a strong pattern although their cover is even. Does it matter to a U-Net? Behind the up-convolution come
# two 3x3 convolutions, which can smooth it, and training can make the taps agree. We look at three small networks (with batch norm, lesson [08](08_batch_norm_and_dropout.ipynb)),
# each drawn anew, before and after 60 steps on six images.

# %%
LAYERS = ("up.0.upconv", "up.0.relu2", "head")
data = tu.synthetic("phase", 7, 128, rng, cells=6)
held_out = data[6].image[None, :124, :124].astype(np.float32)
held_out = (held_out - held_out.mean()) / held_out.std()


def patterns(model):
    """The strength of the pattern at three layers, for an image that was not trained on"""
    model.eval()
    with probe(model, *LAYERS) as seen:
        model.forward(held_out)
    return [pattern(seen.y[name].astype(float)) for name in LAYERS]


table = []
for _ in range(3):
    model = tu.UNet(tu.preset("paper", base=8, depth=2, norm="batch", dropout=0), rng=rng)
    before = patterns(model)
    for _ in tu.fit(model, data[:6], (), tu.TrainConfig(steps=60, tile=60, lr=3e-3)):
        pass
    table.append((before, patterns(model)))
print(f"{'layer':12} {'before training':>24} {'after 60 steps':>24}    three networks each")
for k, name in enumerate(LAYERS):
    print(f"{name:12}", *(" " * 3 + "".join(f"{run[when][k]:7.2f}" for run in table) for when in range(2)))

# %% [markdown]
# Mostly, training weakens the pattern of the up-convolution. At the output it is mostly weaker than at the
# up-convolution, but not always weaker than before training, and not gone. Short runs of a small network prove no law. They do show that "s divides k, so there is no checkerboard" is too simple, and how to look.
#
# Why does the paper not resize? It does not say. An up-convolution is cheap: 4 taps for each input pixel, where resizing and a 3x3 convolution
# take 9 taps for each of 4 pixels, 36 in all.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"Deconvolution undoes a convolution."** It is the transpose. WᵀW is not I, and WWᵀ cannot be. Readers of a well-known
#   book asked about it, too (handson-ml2 issue 570).
# - **Which map is the input?** In the well-known animations of conv_arithmetic, the transposed convolution inserts zeros between the pixels and
#   convolves; people cannot tell which map is the input (issues 9, 30, 35). It is the small one. The animation is right; to compute it so would be to multiply zeros.
# - **"2x2 with stride 2 makes checkerboards"**: a quiz had it so (rohitg00/ai-engineering-from-scratch, pull request 374). Its cover is even. **"So it
#   cannot make any"** is wrong as well: the taps are not tied (mehta-lab/VisCy, pull request 37; alan-turing-institute/icenet-mp, pull
#   request 277, where a kernel that the stride divides was not enough).
# - **The axes of w.** (2, 2, O, C) here and in Keras, (C, O, 2, 2) in PyTorch. If O = C, a wrong order runs without an error. The checks here never
#   draw O = C.
# - **One image is not enough.** A transposed convolution was right on the CPU, and wrong on CUDA for batches (chelsea0x3b/dfdx issue 657).
# - **Testing the backward pass by the forward pass.** A wrong layer that agrees with itself passes every gradient check. That it must be the
#   adjoint of a *convolution* is a law from outside: it sees a kernel that is turned or moved, too.
#
# ## Summary
#
# - Each input pixel paints the kernel, times its value, into its own 2x2 block. H x W becomes 2H x 2W, and C channels become O.
# - As a matrix it is the transpose of the convolution of stride 2 with the same w. That convolution is its backward pass.
# - A transpose is not an inverse. Detail that was pooled away does not come back.
# - The cover is even where s divides k. An even cover prevents the worst; patterns of period 2 can still come from taps that differ.
#
# **In the code**: [tinyunet/ops/upconv.py](../tinyunet/ops/upconv.py), [tinyunet/rungs/gemm.py](../tinyunet/rungs/gemm.py) (two matrix
# products instead of four), and the laws in [tinyunet/catalogue/upconv.py](../tinyunet/catalogue/upconv.py). **In the paper**: section 2, and
# the green arrows of figure 1. **Next**: lesson [07](07_crop_and_concatenate.ipynb) fetches the detail through the skips.
