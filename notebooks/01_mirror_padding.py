# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Mirror padding, and how it folds back
#     minutes: 60
#     prerequisites: ["00"]
#     goals:
#     - compute which pixel a mirror shows, however far beyond the edge
#     - measure what different borders do to a network
#     - write the adjoint of an operation, and test it without any derivative
# ---

# %% [markdown]
# # 01 Mirror padding, and how it folds back
#
# **What you can do afterwards**
#
# - compute which pixel a mirror shows, however far beyond the edge;
# - measure what different borders do to a network;
# - write the adjoint of an operation, and test it without any derivative.
#
# **Before this**: lesson [00](00_images_and_masks.ipynb). **Time**: 60 minutes.
#
# Figure 2 of the paper shows an image that goes on beyond its own edge: to segment the pixels near the border, the network needs to see
# what lies around them, and where the image ends, its mirror image is put. Section 2 says why there is a need: the convolutions are
# unpadded, so the map gets smaller on its way through the network. Section 3 adds that the loss is a border of constant width. This lesson is
# about that border: how wide it is, where its pixels come from, and where their gradients go.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops import mirror_index, mirror_pad_backward, mirror_pad_forward

rng = begin("01")

# %% [markdown]
# ## How wide is the border?
#
# **Predict.** Figure 1 of the paper gives the network 572 x 572 pixels and gets 388 x 388 back. You want a result for *every* pixel of
# an image of 388 x 388. How many pixels do you have to add on each side?

# %% tags=["predict"]
### BEGIN SOLUTION: pixels on each side
guess = 92
### END SOLUTION

# %%
predicted(guess, tu.shapes.margin(tu.preset("paper")), "(572 - 388) / 2. It is the same for every size of image. A network that halves its maps less often than four times "
          "needs less: " + ", ".join(f"{tu.shapes.margin(tu.preset('paper', depth=d))} with {d}" for d in (3, 2, 1)) + ".")  # fmt: skip

# %% [markdown]
# Here is what the network gets to see. The image is inside the box; all around it are its mirror images. Arrows lead from pixels of
# the border to the pixels that they show.

# %%
sample = tu.synthetic("phase", 1, 96, rng, cells=5)[0]
show(plot.mirror(sample.image, tu.shapes.margin(tu.preset("paper", depth=3)), arrows=8))

# %% [markdown]
# Look at a cell that the edge cuts in two. In the mirror it goes on, and closes. It is not the real other half, but it is made of
# the right material: the same grain, the same rim, the same grey.
#
# ## Which pixel does the mirror show?
#
# Take a single row of n pixels, a b c d. The edge *is* the mirror, so the edge pixel is not shown again:
#
# $$\underbrace{d\;c\;b}_{\text{border}}\;|\;\underbrace{a\;b\;c\;d}_{\text{image}}\;|\;\underbrace{c\;b\;a}_{\text{border}}$$
#
# NumPy calls this "reflect". If the mirror stood *between* pixels, the edge would come twice (c b a | a b c d): NumPy's "symmetric".
#
# **Predict.** Three pixels, 1 2 3, and a border of *four* on the left. Both edges are mirrors, as at the barber's. Which seven numbers are
# there, border and image?

# %% tags=["predict"]
### BEGIN SOLUTION: seven numbers
guess = [1, 2, 3, 2, 1, 2, 3]
### END SOLUTION

# %%
row = np.array([1, 2, 3])
predicted(guess, row[mirror_index(-4, 3, 3)], "Walk from the image to the left: 1, then 2, 3, and there the other mirror turns you round: 2, 1.")

# %% [markdown]
# So someone who walks along the padded row walks to and fro in the image. The figure draws it for n = 5: to the right the place i, upwards the pixel that is shown
# there. Inside the image, from 0 to n - 1, each place shows itself.

# %%
n = 5
places = np.arange(-9, 14)
figure = Figure(figsize=(8, 2.4), layout="constrained")
ax = figure.subplots()
ax.axvspan(-0.5, n - 0.5, color="#f0e3c8", label="the image")
ax.plot(places, mirror_index(-9, 14, n), "o-", color="#0072b2", markersize=4)
ax.set(xticks=places, yticks=range(n), ylim=(-0.4, 5.6), xlabel="place i", ylabel="pixel shown")
ax.tick_params(labelsize=7)
ax.legend(loc="upper right", fontsize=8)
show(figure, "A zigzag of slopes 1 and -1 over places -9 to 13: from 0 to 4, inside the image, it rises from 0 to 4; it falls to 0 at place 8 and "
     "at place -8 it is 0 as well, so it repeats every 8 places.")  # fmt: skip

# %% [markdown]
# The zigzag repeats. One period goes there (n - 1 steps) and back (n - 1 steps):
#
# $$\text{period} = 2(n-1)$$
#
# A remainder therefore brings every place into one period: `i % period` is in 0, ..., 2(n-1) - 1, in Python also for negative i. What is left
# is to see that on the way back the pixel number falls.
#
# ## Exercise 1: the index
#
# Give the pixels that are shown at the places start, start + 1, ..., stop - 1. One case has no period: an image of a single pixel
# (n = 1) shows that pixel everywhere.

# %% tags=["exercise"]
def sources(start, stop, n):
    """-> (stop - start,) whole numbers from 0 to n - 1: the pixel shown at each place of range(start, stop)"""
    ### BEGIN SOLUTION: bring each place into one period; on the way back the pixel number falls
    if n == 1:
        return np.zeros(stop - start, int)
    period = 2 * (n - 1)
    i = np.arange(start, stop) % period
    return np.minimum(i, period - i)
    ### END SOLUTION


# %% tags=["check"]
check("01.index", sources)

# %% [markdown]
# ## Which images are too small?
#
# **Predict.** A library lets the border be mirrored once only: every border pixel must lie across *one* edge from a pixel of the
# image. What is the smallest side of an image for the paper's border of 92?

# %% tags=["predict"]
### BEGIN SOLUTION: the smallest side in pixels
guess = 93
### END SOLUTION

# %%
side = next(n for n in range(2, 200) if np.array_equal(mirror_index(-92, 0, n), np.arange(92, 0, -1)))
predicted(guess, side, "Place -92 shows pixel 92, and an image with a pixel 92 has at least 93. The authors' own release mirrors once, and beyond "
          "that it has zeros. With the period no image is too small.")  # fmt: skip

# %% [markdown]
# An image of 64 x 64 pixels is too small already. Here is a
# strip of 24 rows with a border of 44: the mirror turns round more than once, above and below.

# %%
show(plot.mirror(sample.image[30:54], 44, arrows=3))

# %% [markdown]
# ## Exercise 2: pad
#
# Rows and columns do not know of each other: y[n, i, j, c] = x[n, rows[i], cols[j], c]. So two lists of sources are all it takes. The
# amounts on the four sides may differ. From here on you have tinyunet's `mirror_index(start, stop, n)`, which is your `sources`.
# (`np.pad` has "reflect" too. Do without it: the indices will be needed for the way back.)

# %% tags=["exercise"]
def pad(x, top, bottom, left, right):
    """(N, H, W, C) -> (N, top + H + bottom, left + W + right, C)"""
    _, height, width, _ = x.shape
    ### BEGIN SOLUTION: the source of every row and of every column, and two lookups
    rows = mirror_index(-top, height + bottom, height)
    cols = mirror_index(-left, width + right, width)
    return x[:, rows][:, :, cols]
    ### END SOLUTION


# %% tags=["check"]
check("01.pad", pad)

# %% [markdown]
# ## Why a mirror, and not zeros?
#
# Zeros are what most code puts around an image. Do they do harm? We can measure it, for our images are drawn: take a large one, cut out its middle, and
# we *know* what really lies around. Three surroundings for the same 96 x 96 pixels: what is really there, a mirror, and zeros. (Zero after
# normalisation, that is the image's mean grey. Black would be worse.)

# %%
network = tu.preset("paper", base=8, depth=2, norm="batch", dropout=0)
border = tu.shapes.margin(network)


def surroundings(sample):
    """Three times the middle of an image of 192 x 192 pixels, normalised, each with another border around it"""
    low, high = 48, 144
    middle = sample.image[low:high, low:high].astype(np.float32)
    image = (sample.image.astype(np.float32) - middle.mean()) / middle.std()
    cut = image[None, low:high, low:high]
    zeros = np.pad(cut, ((0, 0), (border, border), (border, border), (0, 0)))
    mirrored, _ = mirror_pad_forward(cut, border, border, border, border)
    real = image[None, low - border : high + border, low - border : high + border].copy()
    return {"what is really there": real, "mirror": mirrored, "zeros": zeros}


data = tu.synthetic("phase", 10, 192, rng, cells=12)
train, test = data[:6], data[6:]
figure = Figure(figsize=(8, 2.9), layout="constrained")
for ax, (name, x) in zip(figure.subplots(1, 3), surroundings(test[0]).items()):
    ax.imshow(x[0, :, :, 0], cmap="gray", vmin=-3, vmax=3)
    ax.plot([border, border + 95, border + 95, border, border], [border, border, border + 95, border + 95, border], color="#e69f00")
    ax.set(xticks=[], yticks=[], title=name)
show(figure, f"The same 96x96 pixels in a box, three times, with a border of {border} pixels: the real surroundings; a mirror image, whose cells go on "
     "at the edge; and even grey, where every cell ends at a straight line.")  # fmt: skip

# %% [markdown]
# A straight line around the whole image, where all cells end and all grain stops: nothing of the kind is in the training images, and the
# network has to make something of it.
#
# **Predict.** We train three small networks, each from another start, and segment four such images. Where does the invented border change the probabilities more, compared
# with the real surroundings: with "mirror" or with "zeros"?

# %% tags=["predict"]
### BEGIN SOLUTION: "mirror" or "zeros"
guess = "zeros"
### END SOLUTION


# %%
def cell_probability(model, x):
    """(1, H, W, 1) -> (P, Q), the probability of the class cell; softmax makes probabilities of what the network gives (lesson 09)"""
    return tu.ops.softmax(model.forward(x))[0, :, :, 1]


along = np.minimum(np.arange(96), 95 - np.arange(96))
distance = np.minimum(along[:, None], along)  # pixels from the edge
near = distance < 10
change = {"mirror": [], "zeros": []}  # for each network: the mean change of the probability at each distance
wrong = {"what is really there": [], "mirror": [], "zeros": []}  # for each network: share of wrong pixels near the edge
for _ in range(3):
    model = tu.UNet(network, rng=rng)
    for _ in tu.fit(model, train, (), tu.TrainConfig(steps=100, tile=84, lr=3e-3, seed=int(rng.integers(2**31)))):
        pass
    model.eval()  # from here on it predicts; batch norm does that differently (lesson 08)
    p = {name: [] for name in wrong}
    for one in test:
        for name, x in surroundings(one).items():
            p[name].append(cell_probability(model, x))
    truth = np.array([one.labels[48:144, 48:144] for one in test])
    for name in wrong:
        wrong[name].append(np.mean((np.array(p[name]) > 0.5)[:, near] != truth[:, near]))
    for name in change:
        moved = np.abs(np.array(p[name]) - np.array(p["what is really there"])).mean(axis=0)
        change[name].append([moved[distance == d].mean() for d in range(48)])
more = max(change, key=lambda name: np.mean(change[name]))
predicted(guess, more, "In the ten outermost pixels, wrong are: " + "; ".join(f"{name} " + ", ".join(f"{100 * w:.1f} %" for w in values)
          for name, values in wrong.items()) + " (one number for each network).")  # fmt: skip

# %%
figure = Figure(figsize=(8, 2.6), layout="constrained")
ax = figure.subplots()
for (name, lines), color in zip(change.items(), ("#0072b2", "#d55e00")):
    for line in lines:
        ax.plot(range(48), line, color=color, linewidth=0.8, alpha=0.6)
    ax.plot(range(48), np.mean(lines, axis=0), color=color, linewidth=2.2, label=name)
ax.set(xlabel="pixels from the edge of the image", ylabel="mean change of p(cell)", xlim=(0, 30), ylim=(0, None))
ax.legend()
quiet = next(d for d in range(48) if max(line[k] for lines in change.values() for line in lines for k in range(d, 48)) < 1e-6)
show(figure, "Change of the probability against the distance from the edge, thin lines for three networks and a thick one for their mean: largest at the "
     f"edge, {np.mean(change['mirror'], 0)[0]:.2f} with a mirror and {np.mean(change['zeros'], 0)[0]:.2f} with zeros; 0 from {quiet} pixels on.")  # fmt: skip
print(f"{quiet} pixels from the edge and farther inside, no probability changes.")

# %% [markdown]
# Three things are to be seen. The mirror is no oracle: it changes the outermost pixels too. Zeros change them more. And from a certain distance on, printed above, nothing
# changes at all: so far a pixel of this network sees, and no farther (lesson [11](11_the_whole_network.ipynb)). Three networks and four drawn images are a small experiment, and
# these networks met mirrored borders in training, for tinyunet mirrors there as well. So: train and predict with the same border.
#
# ## The way back
#
# In training every operation is passed twice: forward with values, backward with gradients. L is the loss, a single number, and for any array v
# we write dv for its gradient $\partial L/\partial v$, which has the shape of v. Every operation of tinyunet is such a pair:
#
#     y, ctx = forward(x, ...)      # ctx, the context: what backward will need
#     dx = backward(dy, ctx)
#
# Backward is handed dy, how much the loss would change with each pixel of the output. Its task is dx: how much it would change with each pixel of
# the input.
#
# **Predict.** A row a b c d and a border of 2 on each side make c b a b c d c b. Somebody raises b by 1. The gradient dy of those eight pixels is
#
#     dy = 10  20  30  40  50  60  70  80
#
# By how much does the loss change, that is, what is dx for b?

# %% tags=["predict"]
### BEGIN SOLUTION: dx of b
guess = 20 + 40 + 80
### END SOLUTION

# %%
line = np.zeros((1, 1, 4, 1))
_, ctx = mirror_pad_forward(line, 0, 0, 2, 2)
dx = mirror_pad_backward(np.arange(10.0, 90, 10).reshape(1, 1, 8, 1), ctx)
predicted(guess, dx[0, 0, 1, 0], f"b stands in three places, and each of them changes: 20 + 40 + 80. All four: {dx.ravel().astype(int).tolist()}.")

# %% [markdown]
# That is the whole rule. Forward copies pixels to several places; backward adds up what comes from these places. The border is *folded* back
# onto the image.
#
# As a matrix: padding a row is y = P x, where P has a single 1 in every row, at the source. Then the chain rule says
#
# $$dx_r = \sum_i dy_i \frac{\partial y_i}{\partial x_r} = \sum_i P_{ir}\, dy_i \qquad\text{that is}\qquad dx = P^T dy$$
#
# The transpose of a linear map is called its **adjoint**. Here are both for n = 5 and a border of 3. Rows of P have one 1 each: a copy has one source. Rows of
# its transpose have one or three: a pixel has one or three copies.

# %%
P = (mirror_index(-3, 8, 5)[:, None] == np.arange(5)).astype(float)
figure = Figure(figsize=(7, 3.2), layout="constrained")
titles = ("P: forward, y = P x", "its transpose: backward, dx = P$^T$ dy")
for ax, matrix, name, (down, across) in zip(figure.subplots(1, 2, width_ratios=(5, 11)), (P, P.T), titles, ("yx", "xy")):
    ax.imshow(matrix, cmap="Blues", vmax=1.4)
    for i, j in np.argwhere(matrix):
        ax.text(j, i, "1", ha="center", va="center", fontsize=8)
    ax.set(xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]), xlabel=f"pixel of {across}", ylabel=f"pixel of {down}")
    ax.set_title(name, fontsize=9)
    ax.tick_params(labelsize=7)
show(figure, "The matrix P of 11 rows and 5 columns, a zigzag of ones: columns 3 2 1 0 1 2 3 4 3 2 1 from row to row. Beside it the transpose, 5 rows and "
     "11 columns: rows 0 and 4 have a single one, rows 1, 2 and 3 have three.")  # fmt: skip

# %% [markdown]
# P is mostly zeros, and nobody stores it. The list of sources says the same.
#
# ## Exercise 3: fold
#
# Backward of mirror padding. The context has `ctx.rows` and `ctx.cols`, the sources of all rows and columns of y, and `ctx.shape`, the shape of x.

# %% tags=["exercise"]
def fold(dy, ctx):
    """(N, top + H + bottom, left + W + right, C) -> (N, H, W, C), the gradient by x"""
    ### BEGIN SOLUTION: begin with zeros, and add every pixel of dy to the pixel that it is a copy of
    dx = np.zeros(ctx.shape, dy.dtype)
    for i, r in enumerate(ctx.rows):
        for j, s in enumerate(ctx.cols):
            dx[:, r, s] += dy[:, i, j]
    return dx
    ### END SOLUTION


# %% tags=["check"]
check("01.fold", fold)

# %% [markdown]
# **Predict.** An image of 5 x 5 pixels with a border of 3 on all sides, and a dy that is 1 everywhere. Then dx counts how often each pixel is shown. What
# are the counts of a corner pixel, and of the one in the middle?

# %% tags=["predict"]
### BEGIN SOLUTION: (corner, middle)
guess = (1, 9)
### END SOLUTION

# %%
y, ctx = mirror_pad_forward(np.zeros((1, 5, 5, 1)), 3, 3, 3, 3)
census = mirror_pad_backward(np.ones(y.shape), ctx)[0, :, :, 0]
predicted(guess, (int(census[0, 0]), int(census[2, 2])), "The edge is the mirror, and is shown once. The inner pixels have three places along each axis, and 3 x 3 in all.")

# %% [markdown]
# And the image of the first figure, 96 x 96 with a border of 44. Its middle lies too deep inside for the mirror to show it.

# %%
_, ctx = mirror_pad_forward(np.zeros((1, 96, 96, 1)), 44, 44, 44, 44)
census = mirror_pad_backward(np.ones((1, 184, 184, 1)), ctx)[0, :, :, 0]
figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
figure.colorbar(ax.imshow(census, cmap="viridis"), label="times shown", ticks=(1, 2, 4))
ax.set(xticks=(0, 44, 95), yticks=(0, 44, 95))
show(figure, "How often each pixel of a 96x96 image is shown with a border of 44: four times in four large squares, twice in the narrow cross between them and "
     "along the outermost rows and columns, once in the middle of the cross and at the corners.")  # fmt: skip

# %% [markdown]
# ## A test that needs no derivative
#
# How do you know that a backward pass is right? For linear maps there is a test that is exact. Write <a, b> for the sum of all products of two arrays of one shape. Then, for *any* x and *any* dy,
#
# $$\langle \text{pad}(x),\; dy\rangle = \langle x,\; \text{fold}(dy)\rangle$$
#
# Why? On the left stand the products of every padded pixel with its dy. A padded pixel is a copy, so each product has some pixel of x in it. Sort the products by that pixel: what is multiplied by $x_r$, is the sum of dy
# over the copies of $x_r$, and that is the fold. The same products, in another order.
#
# So draw x and dy at random, and compare two numbers. If they differ, fold is not the adjoint. As a number without units:
#
# $$\text{gap} = \frac{\left|\,\langle Ax, dy\rangle - \langle x, B\,dy\rangle\,\right|}{\sum |\,Ax \cdot dy\,|}$$
#
# Rounding makes it about 1e-16; a wrong B makes it about 0.01 to 1.
#
# ## Exercise 4: the adjoint test
#
# Write it for any pair: `forward(x)` gives Ax, `backward(dy)` gives B dy. (`np.vdot(a, b)` is the sum of all products.) The idea comes back in lessons [03](03_convolution_backward.ipynb), [06](06_up_convolution.ipynb) and [07](07_crop_and_concatenate.ipynb).

# %% tags=["exercise"]
def adjoint_gap(forward, backward, x, dy):
    """-> a number >= 0, about 1e-16 if backward is the adjoint of forward"""
    ### BEGIN SOLUTION: two sums of products, their difference, and what to divide it by
    y = forward(x)
    left, right = np.vdot(y, dy), np.vdot(x, backward(dy))
    return abs(left - right) / np.abs(y * dy).sum()
    ### END SOLUTION


# %% tags=["check"]
print(check("01.adjoint", adjoint_gap))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
x = own.standard_normal((1, 6, 9, 2))
dy = own.standard_normal((1, 12, 16, 2))
_, ctx = mirror_pad_forward(x, 2, 4, 3, 4)
tested = {"tinyunet's fold": lambda dy: mirror_pad_backward(dy, ctx), "the border cut off": lambda dy: dy[:, 2:8, 3:12]}
for name, backward in tested.items():
    print(f"{name:20} gap {adjoint_gap(lambda x: mirror_pad_forward(x, 2, 4, 3, 4)[0], backward, x, dy):.1e}")

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"My output is smaller than my image."** With unpadded convolutions it is, by the border of this lesson (jakeret/tf_unet issues 41, 86, 138 and 175). Mirror the image
#   first; `tu.predict` does, and its result has the size of the image.
# - **The edge twice.** "reflect" and "symmetric" are one pixel apart. The names do not help: what SciPy calls "mirror" is NumPy's "reflect", and SciPy's "reflect" is NumPy's "symmetric".
# - **`dx[:, rows] += dy`.** It does not add up. Where an index occurs twice, NumPy computes both sums from the old value and keeps the last. Use a loop or `np.add.at`. (On the way
#   forward, `x[:, rows]` with an index twice is fine.)
# - **The border cut off.** `dy[:, top:-bottom, left:-right]` has the right shape, and forgets the copies. It also fails for bottom = 0, because `[0:-0]` is empty (jakeret/tf_unet issue 211 is of this kind).
# - **A test with a border of one size and a square image.** It does not see left and right exchanged, nor rows and columns.
# - **Mirroring image but not mask.** Where a mask is needed beyond the edge, it must be mirrored by the same indices. Lesson [13](13_training_on_few_images.ipynb) comes back to this.
#
# ## Summary
#
# - The paper's network loses 92 pixels on each side (a number that follows from its figure 1); a mirror image of the image's own border stands in for what cannot be seen.
# - A mirror shows a zigzag of period 2(n - 1); the edge pixel is not repeated, and no image is too small.
# - Zeros draw a line around the image that no training image has. The mirror disturbs less, and it is still a guess.
# - Copying forward means adding up backward: the adjoint. Every backward pass in this course is one, with more numbers in its matrix.
# - <A x, dy> = <x, B dy> for random x and dy tells whether B is the adjoint of A.
#
# **In the code**: [tinyunet/ops/pad.py](../tinyunet/ops/pad.py), `check_adjoint` in [tinyunet/check.py](../tinyunet/check.py), and the laws of mirror padding in
# [tinyunet/catalogue/pad.py](../tinyunet/catalogue/pad.py). `tu.predict` mirrors in [tinyunet/inference.py](../tinyunet/inference.py).
# **In the paper**: figure 2; section 1 (the overlap-tile strategy), section 2 (unpadded convolutions), section 3 (the constant border).
# **Next**: [lesson 02](02_convolution.ipynb) is about the convolutions that need all this context.
