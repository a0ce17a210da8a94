# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Batch norm and dropout
#     minutes: 90
#     prerequisites: ["03", "04"]
#     goals:
#     - write batch norm forward, and its backward pass along three roads
#     - say what differs between training and prediction, and which numbers are kept for it
#     - write dropout, and say why it divides and why it remembers its draw
# ---

# %% [markdown]
# # 08 Batch norm and dropout
#
# **What you can do afterwards**
#
# - write batch norm forward, and its backward pass along three roads;
# - say what differs between training and prediction, and which numbers are kept for it;
# - write dropout, and say why it divides and why it remembers its draw.
#
# **Before this**: lessons [03](03_convolution_backward.ipynb) and [04](04_relu_and_initialisation.ipynb). **Time**: 90 minutes.
#
# Section 3 of the paper wants the initial weights to be such that every feature map has about unit variance. Lesson [04](04_relu_and_initialisation.ipynb) did that. But
# it is a promise about the first step only: then the weights move. *Batch norm* (Ioffe and Szegedy, 2015) keeps the promise in every
# step, by computation. **The paper's network has no batch norm.** Most programs that call themselves U-Net do, so you have to know
# it; in tinyunet it is an option, `norm="batch"`.
#
# Dropout is in the paper: section 3.1 has it at the end of the contracting path, half a sentence, as augmentation without being asked
# for. The two have one thing in common that nothing before them had: they compute one thing in training, and another in prediction.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.check import check_grad
from tinyunet.course import begin, check, predicted, show
from tinyunet.errors import CheckError
from tinyunet.ops import batch_norm_backward, batch_norm_forward, conv2d_forward, dropout_backward, dropout_forward
from tinyunet.probe import probe

rng = begin("08")

# %% [markdown]
# ## How large are activations?
#
# Two networks with the same weights, as they were drawn; one of them with batch norm. A dash is a channel, and tells how much it varies, over
# two images and all their pixels. The images were normalised as in lesson [00](00_images_and_masks.ipynb), and then somebody forgot to do it: the second row has
# images with grey values of 0 to 255.

# %%
data = tu.synthetic("phase", 24, 64, rng)
grey = np.stack([s.image for s in data]).astype(np.float32)  # (24, 64, 64, 1), 0 to 255
images = np.stack([(g - g.mean()) / g.std() for g in grey])

figure = Figure(figsize=(9, 4), layout="constrained")
axes = figure.subplots(2, 2, sharex="col", sharey=True)
told = []
for column, norm in enumerate((None, "batch")):
    model = tu.UNet(tu.preset("paper", base=8, depth=2, norm=norm, dropout=0), rng=0)
    for row, (what, x) in enumerate((("normalised", images), ("0 to 255", grey))):
        with probe(model, "*.norm?" if norm else "*.conv?") as seen:
            model.forward(x[:2])
        ax = axes[row, column]
        for k, y in enumerate(seen.y.values()):
            spread = y.std(axis=(0, 1, 2))
            ax.plot(np.full(len(spread), k), spread, "_", color="#0072b2" if norm else "#d55e00", markersize=10)
        names = [name.replace("bottom.", "bot.") for name in seen.y]
        ax.set(yscale="log", xticks=range(len(names)), yticks=(0.5, 1, 2, 5, 10, 20, 50))
        ax.set_yticklabels(("0.5", "1", "2", "5", "10", "20", "50"))
        ax.minorticks_off()
        ax.set_xticklabels(names, rotation=60, ha="right", fontsize=7)
        spreads = np.concatenate([y.std(axis=(0, 1, 2)) for y in seen.y.values()])
        told.append(f"{what}, {'with' if norm else 'without'} batch norm from {spreads.min():.2g} to {spreads.max():.2g}")
        axes[row, 0].set_ylabel(f"{what}\ndeviation of a channel", fontsize=8)
for ax, title in zip(axes[0], ("convolutions, no batch norm", "batch norm behind each convolution")):
    ax.set_title(title, fontsize=9)
show(figure, "Standard deviations of all channels, layer by layer: " + "; ".join(told) + ".")

# %% [markdown]
# To the left, channels differ widely, and they grow with the image. To the right, every channel has a deviation of 1,
# whatever came before.
#
# ## The formula
#
# Take one channel of x, over all images and all pixels of the batch: M = N H W numbers, $x_1$ to $x_M$. Then
#
# $$\text{mean} = \frac1M \sum_i x_i \qquad \text{var} = \frac1M \sum_i (x_i - \text{mean})^2$$
#
# $$\hat x_i = \frac{x_i - \text{mean}}{\sqrt{\text{var} + \text{eps}}} \qquad y_i = \gamma\, \hat x_i + \beta$$
#
# $\hat x$ has mean 0 and deviation 1. Perhaps the next layer would like something else, so each channel gets a scale $\gamma$ and a
# shift $\beta$ that are learnt; they begin as 1 and 0. And eps, 1e-5 here, stands *inside* the root: a channel that is the same
# everywhere has variance 0, and 0 / 0 is no number.
#
# Why over the pixels too? A convolution uses the same kernel at every pixel, so all pixels of a channel are of one kind.

# %%
x = rng.normal(2, 3, (2, 5, 6, 3))
gamma, beta = np.array([1.5, -1.0, 2.0]), np.array([0.5, 0.0, -1.0])
show(plot.norm_pixel(x, gamma, beta, at=(0, 2, 3, 0)))

# %% [markdown]
# **Predict.** x has shape (2, 5, 6, 3). How many means are there, and of how many numbers is each of them the mean?

# %% tags=["predict"]
### BEGIN SOLUTION: (number of means, M)
guess = (3, 60)
### END SOLUTION

# %%
_, ctx = batch_norm_forward(x, gamma, beta)
predicted(guess, (ctx.mean.size, x[..., 0].size), "One mean a channel, over 2 images of 5 x 6 pixels.")

# %% [markdown]
# ## Exercise 1: forward
#
# `x.mean(axis=(...))` takes several axes at once. Result: the shape of x. Mind float32: a mean of 1000 and a deviation of 1 must come
# out right, too.

# %% tags=["exercise"]
def norm(x, gamma, beta, eps=1e-5):
    """(N, H, W, C), (C,), (C,) -> (N, H, W, C)"""
    ### BEGIN SOLUTION: mean, variance, x_hat, y
    mean = x.mean(axis=(0, 1, 2))
    var = ((x - mean) ** 2).mean(axis=(0, 1, 2))
    x_hat = (x - mean) / np.sqrt(var + eps)
    return gamma * x_hat + beta
    ### END SOLUTION


# %% tags=["check"]
check("08.norm", norm)

# %% [markdown]
# ## What it does not see
#
# **Predict.** Multiply all of x by 100 and add 7. By how much does y change at most? (Two digits will do.)

# %% tags=["predict"]
### BEGIN SOLUTION: the largest change of y
guess = 0.00
### END SOLUTION

# %%
y, _ = batch_norm_forward(x, gamma, beta)
other, _ = batch_norm_forward(100 * x + 7, gamma, beta)
predicted(guess, round(float(np.abs(other - y).max()), 2), "The mean takes the 7 away, the deviation the 100. (Not to the last digit: next to a variance "
          f"of {x.var():.0f}, eps is small, but it is there. The change is {np.abs(other - y).max():.0e}.)")  # fmt: skip

# %% [markdown]
# Keep this in mind, it is the key to what follows: **moving a channel, or stretching it, changes nothing.** What changes nothing has slope
# zero. So the gradient dx has no part in these two directions, whatever dy is:
#
# $$\sum_i dx_i = 0 \qquad \sum_i dx_i\, \hat x_i = 0$$
#
# (The second holds exactly for eps = 0, and nearly else.)
#
# ## Backward: three roads
#
# Write dv for the gradient of the loss by v. For one channel, let $g_i = \gamma\, dy_i$: the gradient that comes to $\hat x_i$. With
# $s = 1/\sqrt{\text{var} + \text{eps}}$, which is called `inv_std` in the code,
#
# $$\hat x_i = (x_i - \text{mean}) \cdot s$$
#
# x occurs in it three times: as itself, in the mean, and in s. Three roads lead from $x_i$ to the loss, and their gradients add.
#
# 1. **The direct road.** s is the factor: $\; s\, g_i$.
# 2. **Through the mean.** If $x_i$ rises by 1, the mean rises by 1/M. Then *every* $\hat x_j$ falls by s/M. So:
#    $\; -\frac{s}{M} \sum_j g_j = -s\, \text{mean}(g)$.
#    (The mean stands in the variance, too. But there it does no harm:
#    $\partial\, \text{var} / \partial\, \text{mean} = -\frac2M \sum_j (x_j - \text{mean}) = 0$.)
# 3. **Through s.** The chain has two links. How s moves with $x_i$:
#    $$\frac{\partial\, \text{var}}{\partial x_i} = \frac2M (x_i - \text{mean}) \qquad \frac{\partial s}{\partial\, \text{var}} = -\frac12 s^3 \qquad\Rightarrow\qquad
#    \frac{\partial s}{\partial x_i} = -\frac1M s^3 (x_i - \text{mean}) = -\frac1M s^2\, \hat x_i$$
#    And how every $\hat x_j$ moves with s: $\; \partial \hat x_j / \partial s = x_j - \text{mean} = \hat x_j / s$. Multiply, and add
#    up over j, as on road 2. The sum is yours to write. You will find a mean again, of another product.
#
# Here are the three, in numbers, for one pixel, added up; then the factors that they have in common, $\gamma$ and $s$.

# %%
dy = rng.normal(0.5, 1, x.shape)
show(plot.norm_pixel(x, gamma, beta, at=(0, 2, 3, 0), dy=dy))

# %% [markdown]
# gamma and beta are simpler: each is used M times, so their gradients are *sums*, $d\gamma = \sum_i dy_i\, \hat x_i$ and
# $d\beta = \sum_i dy_i$. Both occur again in dx.
#
# **Predict.** The upstream gradient dy is 1 everywhere. What is dx? (One number: it is the same everywhere.)

# %% tags=["predict"]
### BEGIN SOLUTION: dx for a dy of ones
guess = 0
### END SOLUTION

# %%
_, ctx = batch_norm_forward(x, gamma, beta)
dx, _, _ = batch_norm_backward(np.ones_like(x), ctx)
predicted(guess, round(float(np.abs(dx).max()), 6), "The sum of all y of a channel is M beta, whatever x is. A sum that cannot move has no slope. So a test whose dy "
          "is all ones accepts a backward pass that returns nothing but zeros.")  # fmt: skip

# %% [markdown]
# ## Exercise 2: backward
#
# All you need has been remembered from forward. M is the number of values of one channel: `dy[..., 0].size`.

# %% tags=["exercise"]
def norm_backward(dy, x_hat, gamma, inv_std):
    """(N, H, W, C), (N, H, W, C), (C,), (C,) -> dx (N, H, W, C), dgamma (C,), dbeta (C,)"""
    ### BEGIN SOLUTION: the two sums, then dx along three roads
    count = dy[..., 0].size
    dgamma = (dy * x_hat).sum(axis=(0, 1, 2))
    dbeta = dy.sum(axis=(0, 1, 2))
    dx = gamma * inv_std * (dy - dbeta / count - x_hat * dgamma / count)
    return dx, dgamma, dbeta
    ### END SOLUTION


# %% tags=["check"]
print(check("08.backward", norm_backward))
dx, _, _ = norm_backward(dy, ctx.x_hat, gamma, ctx.inv_std)
print("over each channel, dx adds up to         ", dx.sum(axis=(0, 1, 2)).round(12) + 0)
print("over each channel, dx times x_hat adds to", (dx * ctx.x_hat).sum(axis=(0, 1, 2)).round(4) + 0)

# %% [markdown]
# **Predict.** In a U-Net with batch norm, every 3x3 convolution has a bias b, and batch norm right behind it. Is the gradient of b as a rule
# "large", "small" or "zero"?

# %% tags=["predict"]
### BEGIN SOLUTION: "large", "small" or "zero"
guess = "zero"
### END SOLUTION

# %%
model.zero_grad()  # the network of the first figure, with batch norm
logits = model.forward(images[:2])
model.backward(rng.standard_normal(logits.shape).astype(np.float32))
size = {key: float(np.linalg.norm(model.grads()[f"down.0.{key}"])) for key in ("conv1.w", "conv1.b", "norm1.beta")}
print({key: f"{value:.1e}" for key, value in size.items()})
predicted(guess, "zero" if size["conv1.b"] < 1e-4 * size["conv1.w"] else "small",
          "b moves the whole channel, and the mean takes it away again. What is left above is float32 rounding; beta does b's work.")  # fmt: skip

# %% [markdown]
# ## Prediction is something else
#
# In training, y of an image depends on the other images of its batch. Below, one channel of one image, after a convolution with
# random kernels. From left to right: normalised in a batch with a second image; with another second image, of high contrast; and the
# difference. All three are drawn to one scale.

# %%
kernels = rng.normal(0, np.sqrt(2 / 9), (3, 3, 1, 8))
features, _ = conv2d_forward(images.astype(float), kernels, np.zeros(8))
neighbours = [np.stack([features[0], features[k] * contrast]) for k, contrast in ((1, 1), (2, 3))]
first, second = (batch_norm_forward(pair, np.ones(8), np.zeros(8))[0][:1, ..., :1] for pair in neighbours)
show(plot.maps({"y of one image": np.concatenate((first, second, first - second), axis=3)}, width=8,
               titles={"y of one image": ("with a second image", "with another one", "difference")}))  # fmt: skip

# %% [markdown]
# In training that is bearable, a kind of noise. In prediction it is not: the mask of your image would depend on what else is in the
# batch. So prediction (*eval mode*) uses fixed numbers, *running* means and variances that were collected in training. After each
# step, with the batch's statistic s,
#
# $$r \leftarrow (1 - \text{momentum})\; r + \text{momentum} \cdot s$$
#
# They begin as 0 and 1. With fixed numbers batch norm is a straight line, one for each channel, and can be folded into the
# convolution before it.
#
# **Two conventions for the momentum** are in use, and each is the other one's opposite:
#
# | | one step | default | the running variance takes |
# | --- | --- | --- | --- |
# | PyTorch, and tinyunet | $r \leftarrow (1-m)\,r + m\,s$ | m = 0.1 | the unbiased variance, $\frac{M}{M-1}\,\text{var}$ |
# | Keras | $r \leftarrow m\,r + (1-m)\,s$ | m = 0.99 | the biased one, var |
#
# Unbiased: M numbers scatter about their own mean a little less than about the true one; dividing by M - 1 makes up for it, on
# average. The *batch* is normalised by the biased variance everywhere. For M = 784, the bottom of the paper's network with its one
# image, the two differ by 0.13 %; for M = 4 by a third.
#
# **Predict.** A network from Keras was trained with momentum=0.99. Which momentum has to stand in ours?

# %% tags=["predict"]
### BEGIN SOLUTION: the momentum for tinyunet
guess = 0.01
### END SOLUTION

# %%
predicted(guess, 1 - 0.99, "1 - m. Keras also adds 1e-3 as eps, PyTorch and tinyunet 1e-5: who takes over weights must take over eps.")

# %% [markdown]
# How long does it take until the running numbers are right? After k steps, a share of $(1 - \text{momentum})^k$ of the beginning is
# still in there. Here is the running variance of one channel. It begins at 1, while batches of four images come by.

# %%
channel = features[..., features.var(axis=(0, 1, 2)).argmax()]
batches = [channel[rng.permutation(24)[:4]].var(ddof=1) for _ in range(200)]
figure = Figure(figsize=(7, 2.6), layout="constrained")
ax = figure.subplots()
ax.plot(range(1, 201), batches, ".", color="0.6", markersize=3, label="of the batch")
ends = []
for momentum, style, color in ((0.1, "-", "#0072b2"), (0.01, "--", "#d55e00")):
    r, line = 1.0, []
    for s in batches:
        r = (1 - momentum) * r + momentum * s
        line.append(r)
    ax.plot(range(1, 201), line, style, color=color, label=f"running, momentum {momentum}")
    ends.append(f"with momentum {momentum} it is {line[19]:.2f} after 20 steps and {line[-1]:.2f} after 200")
ax.set(xlabel="step", ylabel="variance of the channel", ylim=(0, None))
ax.legend(fontsize=8, loc="lower right")
show(figure, f"A running variance that begins at 1 and follows batches whose variance is about {np.mean(batches):.2f}: " + "; ".join(ends) + ".")

# %% [markdown]
# In our convention, a large momentum follows soon and trembles; a small one is steady and late. With Keras's default a network that
# has trained for 50 steps predicts with statistics that are still more than half zeros and ones. Its validation looks dreadful, and
# nothing is wrong with it but this.
#
# ## Exercise 3: training and prediction
#
# `batch_norm_forward(x, gamma, beta)` gives y and ctx; `ctx.mean` and `ctx.var` are those of the batch, var the biased one. In
# prediction, y is the formula with mean and var as they are handed in, and eps = 1e-5. Return y, and the running mean and variance
# after this call. Our convention, not Keras's.

# %% tags=["exercise"]
def norm_layer(x, gamma, beta, mean, var, training, momentum=0.1):
    """mean (C,) and var (C,): the running ones -> y (N, H, W, C), mean (C,), var (C,)"""
    ### BEGIN SOLUTION: the line in prediction; in training the batch's statistics, which the running ones follow
    if not training:
        return gamma * (x - mean) / np.sqrt(var + 1e-5) + beta, mean, var
    y, ctx = batch_norm_forward(x, gamma, beta)
    count = x[..., 0].size
    mean = (1 - momentum) * mean + momentum * ctx.mean
    var = (1 - momentum) * var + momentum * ctx.var * count / (count - 1)
    return y, mean, var
    ### END SOLUTION


# %% tags=["check"]
check("08.layer", norm_layer)

# %% [markdown]
# ## Small batches
#
# A network learns with the statistics of its batches, and predicts with running ones. The nearer they are, the better. So: one image,
# normalised within a batch of N images, and by the statistics of all 24. How far apart are the two y? Once for whole maps of 62 x 62
# pixels, once for pieces of 8 x 8 of the same maps. Forty drawn batches each; the bars reach from the tenth to the ninetieth
# percentile.

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
ax = figure.subplots()
told = []
for name, maps, color, marker in (("62 x 62", features, "#0072b2", "o"), ("8 x 8", features[:, 27:35, 27:35], "#d55e00", "s")):
    _, whole = batch_norm_forward(maps, np.ones(8), np.zeros(8))
    sizes, middle, low, high = [1, 2, 4, 8, 16], [], [], []
    for n in sizes:
        gaps = []
        for _ in range(40):
            batch = maps[rng.permutation(24)[:n]]
            y, _ = batch_norm_forward(batch, np.ones(8), np.zeros(8))
            gaps.append(np.sqrt(np.mean((y[0] - (batch[0] - whole.mean) * whole.inv_std) ** 2)))
        a, b, c = np.quantile(gaps, (0.1, 0.5, 0.9))
        low.append(b - a), middle.append(b), high.append(c - b)
    ax.errorbar(sizes, middle, (low, high), marker=marker, color=color, capsize=3, label=f"maps of {name} pixels")
    told.append(f"for maps of {name} pixels {middle[0]:.2f} with one image and {middle[-1]:.3f} with sixteen")
ax.set(xscale="log", yscale="log", xticks=sizes, xlabel="images in the batch, N", ylabel="batch or all images:\ndifference of y (rms)")
ax.set_xticklabels(sizes)
ax.minorticks_off()
ax.legend(fontsize=8)
show(figure, "How far y moves when it is normalised by its batch instead of by all images; the median falls as the batch grows: " + "; ".join(told) + ".")

# %% [markdown]
# y has a deviation of 1, so on small maps with one image the difference is not much smaller than y itself: a whole piece may lie
# inside a cell. On large maps one image is enough for the statistics of these images, which are all of a kind. That is why batch norm often
# gets away with the paper's choice of one large tile a step (section 3), and why it fails first where maps are smallest, at the
# bottom.
#
# ## Dropout
#
# In training, set each value to 0 with probability `rate`, each by itself, anew in every step. The network cannot rely on any single
# one. What is kept is divided by the probability of being kept:
#
# $$y = \begin{cases} x / (1 - \text{rate}) & \text{kept} \\ 0 & \text{dropped} \end{cases}
# \qquad\Rightarrow\qquad \mathbb E[y] = (1 - \text{rate}) \cdot \frac{x}{1 - \text{rate}} + \text{rate} \cdot 0 = x$$
#
# On average nothing changes, so prediction needs no factor: it does nothing at all. (This is called *inverted* dropout. The other
# way, to multiply by 1 - rate in prediction, comes to the same, and has to be remembered everywhere.)
#
# **Predict.** The rate is 0.8, a value is 1, and it is kept. What does it become?

# %% tags=["predict"]
### BEGIN SOLUTION: the value after dropout
guess = 5
### END SOLUTION

# %%
y, _ = dropout_forward(np.ones(1000), 0.8, rng)
predicted(guess, float(y.max()), f"1 / 0.2. The mean of a thousand of them, kept or dropped, was {y.mean():.2f}.")

# %%
active = np.maximum(features[:1], 0)  # as behind a ReLU
busiest = np.argsort(-active.mean(axis=(0, 1, 2)))[:4]  # channels
row, column = (int(np.clip(k, 10, 52)) for k in np.argwhere(active[0].sum(axis=-1) == active[0].sum(axis=-1).max())[0])
small = active[:, row - 10 : row + 10, column - 10 : column + 10][..., busiest]
once, _ = dropout_forward(small, 0.5, rng)
twice, _ = dropout_forward(small, 0.5, rng)
show(plot.maps({"x": small, "dropped at 0.5": once, "dropped anew": twice}, width=7))

# %% [markdown]
# The paper says where, and gives no rate. The authors' release has a rate of 0.5 at two places: behind the last contracting level,
# before its pooling *and its skip*, and at the bottom. The preset "paper" follows it.
#
# **Predict.** In the paper's network there are 18 3x3 convolutions with their ReLUs. How many dropout layers has the preset?

# %% tags=["predict"]
### BEGIN SOLUTION: number of dropout layers
guess = 2
### END SOLUTION

# %%
narrow = tu.UNet(tu.preset("paper", base=2), rng=rng)  # as deep as the paper's, and narrow
names = [layer.name for layer in narrow.layers if isinstance(layer, tu.layers.Dropout)]
predicted(guess, len(names), f"{' and '.join(names)}. Where maps are small and channels many, that is; not behind each convolution.")

# %% [markdown]
# ## Backward, with the same draw
#
# For a given draw, dropout is linear: every value is multiplied by 0 or by 1 / (1 - rate). So backward multiplies dy by the *same*
# numbers. Drawing anew would send gradients to values that took no part.
#
# For the same reason a gradient check must hold the draw fixed. It compares two forward passes that differ by $10^{-5}$ in x, and
# divides by it. With another draw in each, it divides the noise:

# %%
values, seed = rng.standard_normal((1, 4, 5, 2)), int(rng.integers(2**32))
going_on = np.random.default_rng(seed)
for name, forward in (("the same draw in each pass", lambda x: dropout_forward(x, 0.5, np.random.default_rng(seed))),
                      ("another draw in each pass ", lambda x: dropout_forward(x, 0.5, going_on))):
    try:
        print(f"{name}: right, to {check_grad(forward, dropout_backward, {'x': values}, rng)['x']:.0e}")
    except CheckError as wrong:
        print(f"{name}: {str(wrong).split(';')[0]}")

# %% [markdown]
# A quotient of hundreds of thousands: the check takes it for a kink. Nothing is wrong with backward; the question was wrong.
#
# ## Exercise 4: dropout
#
# `rng.random(shape)` gives numbers from 0 to 1, evenly. `ctx` is whatever you need to remember. In prediction (`training=False`) y is
# x, dx is dy, and nothing is drawn.

# %% tags=["exercise"]
def drop(x, rate, rng, training=True):
    """any shape -> y, the same shape, and ctx"""
    ### BEGIN SOLUTION: draw what is kept, divide it by 1 - rate, remember the draw
    if not training:
        return x.copy(), (np.ones(x.shape, bool), 0.0)
    kept = rng.random(x.shape) >= rate
    return np.where(kept, x / (1 - rate), 0), (kept, rate)
    ### END SOLUTION


def drop_backward(dy, ctx):
    """-> dx, the same shape"""
    ### BEGIN SOLUTION: the same factors again
    kept, rate = ctx
    return np.where(kept, dy / (1 - rate), 0)
    ### END SOLUTION


# %% tags=["check"]
check("08.dropout", drop, drop_backward)

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **Batch norm taught as a part of U-Net.** The paper has none, nor has the authors' release. It is a useful option; say that you use it.
# - **`eval()` forgotten.** Then masks depend on the batch, and tiles of one image do not fit together (milesial/Pytorch-UNet issue 31,
#   qubvel-org/segmentation_models.pytorch issue 128). `tu.predict` switches over and back by itself.
# - **A batch of one.** With small maps, training and prediction are two different networks, as you saw. With a single value a
#   channel, M = 1, $\hat x$ is 0 and so is dx: tinyunet refuses it.
# - **Testing with a dy of ones.** numpy-ml's test of this very layer does it, and so cannot see a wrong dx: dx is zero for
#   a constant dy. Random dy, random gamma and beta.
# - **One mean for each pixel.** Taking `x.reshape(N, -1)` and averaging over N is batch norm for plain vectors. It even has a right
#   gradient: only comparison with another forward can find it.
# - **Weights taken over, running statistics not.** They are no parameters, no optimiser moves them, yet without them the network predicts
#   nonsense. In tinyunet `model.state()` has them, `model.params()` has not.
# - **Dropout at the bottom only.** The release has it upstream of the deepest skip as well.
# - **Dropout in prediction.** Each prediction differs from the last, and nobody can repeat a result.
#
# ## Summary
#
# - Batch norm gives every channel mean beta and deviation gamma, over images and pixels. Moving or stretching a channel changes nothing.
# - Backward walks three roads: directly, through the mean, through the deviation. dx adds up to 0, and so does dx times x_hat.
# - Training uses the batch's statistics, prediction running ones; the momentum says how fast they follow, in one of two conventions.
# - The smaller M = N H W, the less the two agree.
# - Dropout sets values to 0 and divides the others; backward uses the same draw; prediction does nothing.
#
# **In the code**: [tinyunet/ops/norm.py](../tinyunet/ops/norm.py), [tinyunet/ops/dropout.py](../tinyunet/ops/dropout.py), their
# layers in [tinyunet/layers.py](../tinyunet/layers.py), and what they must keep:
# [tinyunet/catalogue/norm.py](../tinyunet/catalogue/norm.py). **In the paper**: section 3 (unit variance; one large tile), section
# 3.1 (dropout). **Next**: lesson [09](09_softmax_cross_entropy.ipynb) asks how wrong a pixel is.
