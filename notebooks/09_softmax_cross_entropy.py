# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Softmax and cross-entropy, pixel by pixel
#     minutes: 75
#     prerequisites: ["00", "03"]
#     goals:
#     - turn logits into probabilities and a loss, without overflow
#     - derive the gradient of the loss, and say what each of its factors does
#     - recognise a wrong loss by its numbers
# ---

# %% [markdown]
# # 09 Softmax and cross-entropy, pixel by pixel
#
# **What you can do afterwards**
#
# - turn logits into probabilities and a loss, without overflow;
# - derive the gradient of the loss, and say what each of its factors does;
# - recognise a wrong loss by its numbers.
#
# **Before this**: lessons [00](00_images_and_masks.ipynb) and [03](03_convolution_backward.ipynb). **Time**: 75 minutes.
#
# The network's last layer gives K numbers for every pixel, one a class. What has to be done with them stands in section 3 of the
# paper, in two formulas: a softmax over the classes of each pixel, and then eq. 1, a weighted cross-entropy, added up over all
# pixels. This lesson takes the two apart. It is here that the backward pass begins.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops import sigmoid_cross_entropy_forward, softmax_cross_entropy_backward, softmax_cross_entropy_forward

rng = begin("09")

# %% [markdown]
# ## How wrong is each pixel?
#
# A small network after a few seconds of training, on an image that it has not seen. In the middle, the probability that it gives to
# "cell". To the right, what each pixel costs: $-\log$ of the probability that it gives to the pixel's true class.

# %%
data = tu.synthetic("phase", 6, 128, rng, cells=8)
model = tu.UNet(tu.preset("paper", base=8, depth=2, norm="batch", dropout=0), rng=rng)
settings = tu.TrainConfig(steps=120, tile=84, lr=3e-3, weight_map="none")
losses = [record.loss for record in tu.fit(model, data[:5], (), settings)]
sample = data[5]
p = tu.predict_proba(model, sample.image)  # (H, W, 2)
loss = -np.log(np.take_along_axis(p, sample.labels[..., None], axis=2)[..., 0])

figure = Figure(figsize=(8, 2.8), layout="constrained")
panels = (("image, and outlines of the cells", sample.image[..., 0], "gray", None), ("probability of cell", p[..., 1], "gray", (0, 1)),
          ("loss of each pixel", loss, "magma", (0, 2)))
for ax, (title, values, colours, limits) in zip(figure.subplots(1, 3), panels):
    shown = ax.imshow(values, cmap=colours, clim=limits)
    if values is not loss:
        ax.contour(sample.labels, (0.5,), colors="#e69f00", linewidths=0.8)
    ax.set(xticks=(), yticks=())
    ax.set_title(title, fontsize=9)
    if limits:
        figure.colorbar(shown, ax=ax, shrink=0.7, extend="max" if limits[1] > 1 else "neither")
costly = np.sort(loss.ravel())[::-1]
show(figure, f"An image, the network's probability of cell, and its loss for each pixel. The mean loss is {loss.mean():.2f}; the costliest tenth of "
     f"the pixels makes up {costly[: costly.size // 10].sum() / costly.sum():.0%} of it.")  # fmt: skip

# %% [markdown]
# Black pixels cost nothing. On the bright ones the network is sure of the wrong class, or of neither. The mean of the right
# picture is the number that training makes small.
#
# ## Softmax
#
# The K numbers of a pixel are called *logits*, here $a_1, \dots, a_K$. They may be anything, negative too. Softmax makes them
# positive and divides by the sum, so that they become probabilities:
#
# $$p_k = \frac{e^{a_k}}{\sum_j e^{a_j}}$$
#
# **Predict.** Two classes with the logits 0 and log 3. Which probabilities?

# %% tags=["predict"]
### BEGIN SOLUTION: the two probabilities
guess = (0.25, 0.75)
### END SOLUTION

# %%
predicted(guess, tu.ops.softmax(np.array([0, np.log(3)])).round(6), "e^0 = 1 and e^(log 3) = 3: one part to three parts.")

# %% [markdown]
# Add the same number c to all logits of a pixel: every $e^{a_k}$ is multiplied by $e^c$, the sum is, too, and p stays as it was.
# **Softmax sees differences only.** On paper, that is a remark. In floating point it is a rescue:

# %%
large = np.array([1000, 1000 + np.log(3)])
with np.errstate(over="ignore", invalid="ignore"):
    print("by the formula as it stands: ", np.exp(large) / np.exp(large).sum())
print("after subtracting 1000 first:", np.exp(large - 1000) / np.exp(large - 1000).sum())

# %% [markdown]
# $e^{710}$ is too large for float64, $e^{89}$ for float32. So a program subtracts something first. What? If it is the largest logit,
# then every exponent is at most 0 and one of them is 0. Nothing overflows, and the sum is at least 1.
#
# ## Exercise 1: softmax
#
# The classes are the last axis. `keepdims=True` lets `max` and `sum` keep an axis of length 1, which broadcasts.

# %% tags=["exercise"]
def softmax(a):
    """(N, H, W, K) logits -> (N, H, W, K) probabilities; right for logits of any size"""
    ### BEGIN SOLUTION: subtract the largest logit of each pixel, take exp, divide by the sum
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
    ### END SOLUTION


# %% tags=["check"]
check("09.softmax", softmax)

# %% [markdown]
# ## Cross-entropy, and the sign in the paper
#
# One probability of each pixel matters: that of its true class, $p_{\text{label}}$. If it is 1, the pixel shall cost nothing; the
# nearer to 0, the more. $-\log p_{\text{label}}$ does that. With a weight w for each pixel, eq. 1 of the paper reads
# $E = \sum w \log p_{\text{label}}$, *without* a minus sign, and calls E an energy. log p is negative or 0. Whoever minimised E as it
# is printed would get a network that is as wrong as can be. What is meant, and what everybody computes, is
#
# $$E = -\frac1M \sum_{\text{pixels}} w \,\log p_{\text{label}}$$
#
# The division by M is ours. The paper adds up; then a tile of twice the area has twice the gradient, and another learning rate would
# be needed. **M is the number of annotated pixels in the batch**; not the sum of the weights. Pixels that nobody annotated have the
# label -1. They have no loss and are not counted.
#
# **Predict.** Two logits, (0, 800), and the true class is the first. p of it is $e^{-800}$, which is 0 in floating point. What is
# $-\log p$, on paper? (A whole number.)

# %% tags=["predict"]
### BEGIN SOLUTION: the loss of this pixel
guess = 800
### END SOLUTION

# %%
logits = np.array([0.0, 800.0]).reshape(1, 1, 1, 2)
E, _ = softmax_cross_entropy_forward(logits, np.zeros((1, 1, 1), int))
with np.errstate(divide="ignore"):
    print("by way of p:              ", -np.log(tu.ops.softmax(logits)[0, 0, 0, 0]))
print("the usual patch, p + 1e-7:", round(-np.log(tu.ops.softmax(logits)[0, 0, 0, 0] + 1e-7), 1))
predicted(guess, E, "Insert p and take the logarithm on paper: -log p = log(e^0 + e^800) - 0.")

# %% [markdown]
# So the loss never needs p. With the logarithm taken on paper,
#
# $$-\log p_{\text{label}} = \log \sum_j e^{a_j} - a_{\text{label}}$$
#
# and, as before, the largest logit may be subtracted from all of them first. The patch has 16.1 for every pixel that is far wrong:
# the worse the network, the less it hears of it.
#
# ## Exercise 2: the energy
#
# `np.take_along_axis(a, index[..., None], axis=-1)[..., 0]` picks one number of each pixel. Mind that -1 is an index too. If no pixel
# is annotated, E is 0.

# %% tags=["exercise"]
def energy(logits, labels, weights):
    """(N, H, W, K), (N, H, W) classes or -1, (N, H, W) -> E, a number"""
    ### BEGIN SOLUTION: log of the sum less the true logit; times the weights; the mean over annotated pixels
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    counted = labels != -1
    true = np.take_along_axis(shifted, np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    loss = log_sum - true
    return (weights * loss)[counted].sum() / max(counted.sum(), 1)
    ### END SOLUTION


# %% tags=["check"]
check("09.energy", energy)

# %% [markdown]
# **Predict.** Five classes, and the network knows nothing: the five logits of each pixel are equal. What is E, with weights of 1?
# (Two decimals.)

# %% tags=["predict"]
### BEGIN SOLUTION: the loss of a network that knows nothing of five classes
guess = 1.61
### END SOLUTION

# %%
equal = np.full((1, 4, 5, 5), 0.3)
labels = rng.integers(0, 5, (1, 4, 5))
predicted(guess, round(softmax_cross_entropy_forward(equal, labels)[0], 2), "p is 1/5 everywhere, so E = log 5: log K in general, 0.69 for two classes.")

# %% [markdown]
# log K is the first number to look for in a new program. What do freshly drawn networks give? Ten of them, two classes, with the last
# layer as it was drawn and with its weights a hundred times smaller:

# %%
x = ((sample.image - sample.image.mean()) / sample.image.std())[None].astype(np.float32)
drawn, small = [], []
for seed in range(10):
    fresh = tu.UNet(tu.preset("paper", base=8, depth=2, dropout=0), rng=seed)
    a = fresh.forward(x)
    margin = (x.shape[1] - a.shape[1]) // 2
    truth = sample.labels[None, margin:-margin, margin:-margin]
    drawn.append(softmax_cross_entropy_forward(a, truth)[0])
    small.append(softmax_cross_entropy_forward(a / 100, truth)[0])
print(f"log 2 = {np.log(2):.3f}")
print(f"as drawn:              from {min(drawn):.2f} to {max(drawn):.2f}")
print(f"100 times smaller:     from {min(small):.3f} to {max(small):.3f}")

# %% [markdown]
# So an untrained network costs log K if its logits are near 0. If they are not, it is sure of things it made up, and costs more (or,
# by luck, a little less). That much more is normal here. A first loss *far below* log K is not, nor is one that stays at log K for
# good: look for a mistake.
#
# ## The gradient
#
# For one pixel, by its logit $a_k$. The first part of the loss:
#
# $$\frac{\partial}{\partial a_k} \log \sum_j e^{a_j} = \frac{e^{a_k}}{\sum_j e^{a_j}} = p_k$$
#
# The second part, $-a_{\text{label}}$, has slope -1 for the true class and 0 for the others. Together, and with the factors of E,
#
# $$da_k = \frac{w}{M} \left(p_k - [k = \text{label}]\right)$$
#
# where the bracket is 1 if it is true, else 0. What the network says, less what is true. Over the classes it adds up to 0: what one
# gains, the others lose.
#
# **Predict.** Three classes, p = (0.7, 0.2, 0.1), the true class is the second, w = M = 1. What is the gradient by the three logits?

# %% tags=["predict"]
### BEGIN SOLUTION: three numbers
guess = (0.7, -0.8, 0.1)
### END SOLUTION

# %%
three = np.log([0.7, 0.2, 0.1]).reshape(1, 1, 1, 3)
E, ctx = softmax_cross_entropy_forward(three, np.ones((1, 1, 1), int))
predicted(guess, softmax_cross_entropy_backward(ctx).ravel().round(6), "p, less 1 at the true class. A step against it lowers the first logit, and raises the second.")

# %%
logits = rng.integers(-2, 4, (1, 2, 3, 3)).astype(float)
labels = rng.integers(0, 3, (1, 2, 3))
show(plot.loss_pixel(logits, labels, at=(0, 1, 1), weights=np.full(labels.shape, 2.0)))

# %% [markdown]
# ## Exercise 3: the gradient
#
# Use your `softmax`. `labels[..., None] == np.arange(K)` compares each label with each class. Where E is 0 because nobody annotated
# anything, da is 0.

# %% tags=["exercise"]
def gradient(logits, labels, weights):
    """(N, H, W, K), (N, H, W) classes or -1, (N, H, W) -> da (N, H, W, K)"""
    ### BEGIN SOLUTION: p less what is true, times w / M, and 0 where the label is -1
    counted = labels != -1
    target = labels[..., None] == np.arange(logits.shape[-1])
    factor = np.where(counted, weights, 0) / max(counted.sum(), 1)
    return (softmax(logits) - target) * factor[..., None]
    ### END SOLUTION


# %% tags=["check"]
check("09.gradient", gradient)

# %% [markdown]
# ## One logit instead of two
#
# Softmax sees differences only, so of two logits one is superfluous: set the first to 0 and call the second a. Then
#
# $$p_1 = \frac{e^a}{e^0 + e^a} = \frac{1}{1 + e^{-a}}$$
#
# the *sigmoid*. A network with a sigmoid and a "binary cross-entropy" is a network with two classes, written otherwise; `classes=1`
# in tinyunet.
#
# ## Exercise 4: one logit
#
# All weights are 1, and every pixel is annotated, 0 or 1. It takes two lines if you use what you have.

# %% tags=["exercise"]
def one_logit(logits, labels):
    """(N, H, W, 1), (N, H, W) of 0 and 1 -> E, a number"""
    ### BEGIN SOLUTION: the energy of the two logits (0, a)
    two = np.concatenate((np.zeros_like(logits), logits), axis=-1)
    return energy(two, labels, np.ones(labels.shape))
    ### END SOLUTION


# %% tags=["check"]
print(check("09.one_logit", one_logit))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
a, truth = own.normal(0, 3, (2, 4, 5, 1)), own.integers(0, 2, (2, 4, 5))
print("yours, and the sigmoid cross-entropy of tinyunet:", one_logit(a, truth).round(6), round(sigmoid_cross_entropy_forward(a, truth)[0], 6))

# %% [markdown]
# ## Weights of classes
#
# Where cells are rare, background wins: a network that calls everything background is nearly always right. The w of eq. 1 can set
# that straight. Its first part, $w_c$, is there to balance the classes; the paper gives no formula. Ours is $w_c = n / (K\, n_k)$ for
# a class that has $n_k$ of all n pixels: then all classes weigh the same in total, and the mean weight is 1.
#
# Take the laziest of networks, which gives the same probability p of "cell" to every pixel. 5 % of the pixels are cells. The figure
# has its loss for every p. Without weights, it is lowest at p = 0.05: the network learns how frequent cells are, and nothing more.
#
# **Predict.** And with the balanced weights, $w_c$ = 10 for cells and 0.526 for background: which p has the lowest loss?

# %% tags=["predict"]
### BEGIN SOLUTION: the p of the lowest weighted loss
guess = 0.5
### END SOLUTION

# %%
share = 0.05
grid = np.linspace(0.005, 0.995, 199)
plain = -share * np.log(grid) - (1 - share) * np.log(1 - grid)
balanced = -0.5 * np.log(grid) - 0.5 * np.log(1 - grid)  # share / (2 share) = 1/2 of the weight for each class
figure = Figure(figsize=(6.5, 2.8), layout="constrained")
ax = figure.subplots()
for values, style, color, label in ((plain, "-", "#0072b2", "weights of 1"), (balanced, "--", "#d55e00", "balanced")):
    ax.plot(grid, values, style, color=color, label=label)
    ax.plot(grid[values.argmin()], values.min(), "o", color=color)
ax.set(xlabel="p, the same for all pixels", ylabel="E", ylim=(0, 2.5))
ax.legend(fontsize=8)
show(figure, f"The loss of a network that gives every pixel the same p, with 5 % cells: without weights lowest at p = {grid[plain.argmin()]:.2f}, where it is "
     f"{plain.min():.2f}, with balanced weights at {grid[balanced.argmin()]:.2f}, where it is {balanced.min():.2f}.")  # fmt: skip
predicted(guess, float(grid[balanced.argmin()].round(3)), "Half of the weight lies on each class, so knowing nothing means saying one half.")

# %% [markdown]
# The other side of it: a network that was trained so says "cell" too often, and outlines lie further out. Weights are a choice. They
# multiply the loss of a pixel, never its logits, and E is not divided by their sum, so E is linear in w: double all the weights, and
# E doubles. (PyTorch's weighted mean does divide by them. Both are sound; they want different learning rates.) The second part of w,
# for the gaps between cells, is lesson [10](10_weight_map.ipynb).
#
# ## Softmax twice
#
# Somebody's network ends in a softmax, and somebody's loss applies one, too. Nothing complains: probabilities are numbers like any
# other. It even learns, a little.
#
# **Predict.** Two classes, and the network is as right as can be: its probabilities are (1, 0). They are taken for logits. How low
# does the loss get? (Two decimals.)

# %% tags=["predict"]
### BEGIN SOLUTION: the lowest loss with softmax twice
guess = 0.31
### END SOLUTION

# %%
margins = np.linspace(-8, 8, 161)  # true logit less the other one
once = np.stack((margins, 0 * margins), axis=-1)[None, None]
p = tu.ops.softmax(once)[0, 0]
q = tu.ops.softmax(p)
curves = {"once": (-np.log(p[:, 0]), p[:, 0] - 1),  # (loss, slope)
          "twice": (-np.log(q[:, 0]), 2 * (q[:, 0] - 1) * p[:, 0] * p[:, 1])}  # by the chain rule: p_0 - p_1 has slope 2 p_0 p_1
figure = Figure(figsize=(8, 2.8), layout="constrained")
for ax, k, title in zip(figure.subplots(1, 2), (0, 1), ("loss of a pixel", "its slope by the margin")):
    for (name, values), style, color in zip(curves.items(), ("-", "--"), ("#0072b2", "#d55e00")):
        ax.plot(margins, values[k], style, color=color, label=f"softmax {name}")
    ax.set(xlabel="true logit less the other one")
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8)
show(figure, f"Loss and slope over the margin from -8 to 8. Once: the loss falls from {curves['once'][0][0]:.1f} to {curves['once'][0][-1]:.1f}, the slope goes from -1 to 0. Twice: "
     f"the loss stays between {curves['twice'][0][0]:.2f} and {curves['twice'][0][-1]:.2f}, and the slope is nearly 0 at both ends.")  # fmt: skip
predicted(guess, round(float(np.log(1 + np.exp(-1))), 2), "log(1 + e^-1). A loss that will not go below 0.31 is how you recognise it.")

# %% [markdown]
# Look at the left ends. Where the network is most wrong, the right loss pulls with full force. With softmax twice there is no pull at all.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **Softmax twice, or some other function on the logits.** NVIDIA/DeepLearningExamples issue 468, jakeret/tf_unet issue 191,
#   vanvalenlab/deepcell-tf issue 624; well answered in milesial/Pytorch-UNet issue 181. A ReLU in front of the softmax is of the same
#   kind: logits must be free to be negative. In tinyunet the network gives logits, the loss takes logits, and `predict_proba` does
#   the softmax.
# - **Softmax over the wrong axis.** In arrays (N, K, H, W) the classes are axis 1, in ours the last. Over the wrong axis p is still
#   between 0 and 1. `p.sum(axis=-1)` tells.
# - **log 0.** One pixel with p = 0 makes the loss infinite. An added 1e-7 hides it; the cure is the logarithm on paper. Not every NaN
#   comes from there: half precision and too large a learning rate are others (milesial/Pytorch-UNet issues 346, 479, 506, 518).
# - **The mean over the wrong count.** Over N H W K numbers instead of pixels, over ignored pixels as well, over a batch that was
#   averaged before: each is a constant or nearly constant factor, so training works, and the learning rate of others does not.
# - **Class weights multiplied to the logits** (jakeret/tf_unet issue 8). Then heavy pixels look surer, instead of counting more.
# - **Labels of 0 and 255.** There is no class 255. Programs that do not check it read beyond the array, or take -1 for the last
#   class. Ours refuses.
# - **A check that adds up.** p adds up to 1 whatever the logits are, so the gradient of its sum is 0: tests with an upstream gradient
#   of ones let wrong softmaxes pass (TinyTorch pull request 2053 found it by planting bugs).
# - **"My loss is low, so it is good."** With 5 % cells, the lazy network has 0.20 instead of log 2 = 0.69, and has found nothing.
#   Look at IoU, and at the picture.
#
# ## Summary
#
# - Softmax sees differences of logits. Subtract the largest, and nothing overflows.
# - E is the mean of $-w \log p_{\text{label}}$ over annotated pixels: the paper's eq. 1 with its minus sign, divided by our M.
# - Take the logarithm on paper: log of the sum less the true logit.
# - The gradient is $w/M$ times what the network says less what is true.
# - One logit with a sigmoid is two logits, one of them 0.
# - Numbers to know: log K for a network that knows nothing, 0.31 for softmax twice.
#
# **In the code**: [tinyunet/ops/loss.py](../tinyunet/ops/loss.py); `class_weights` in
# [tinyunet/data/weight_map.py](../tinyunet/data/weight_map.py); what the loss must keep:
# [tinyunet/catalogue/loss.py](../tinyunet/catalogue/loss.py). **In the paper**: section 3, the softmax and eq. 1. **Next**: lesson
# [10](10_weight_map.ipynb) says where w comes from.
