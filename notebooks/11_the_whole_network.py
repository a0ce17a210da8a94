# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: The whole network
#     minutes: 100
#     prerequisites: ["03", "05", "06", "07"]
#     goals:
#     - wire a U-Net of any depth from its layers, forward and backward
#     - say why gradients add at the fork of every level, and what happens if they do not
#     - count its parameters, compute what an output pixel sees, and say what a training step remembers
# ---

# %% [markdown]
# # 11 The whole network
#
# **What you can do afterwards**
#
# - wire a U-Net of any depth from its layers, forward and backward;
# - say why gradients add at the fork of every level, and what happens if they do not;
# - count its parameters, compute what an output pixel sees, and say what a training step remembers.
#
# **Before this**: lessons [03](03_convolution_backward.ipynb), [05](05_max_pooling.ipynb), [06](06_up_convolution.ipynb) and
# [07](07_crop_and_concatenate.ipynb). **Time**: 100 minutes.
#
# You have all the parts. Section 2 of the paper puts them together in one paragraph: a contracting path in which every level is
# two convolutions and a pooling, and the channels double; an expansive path in which every level is an up-convolution, the
# cropped map from across, and two convolutions; a 1x1 convolution at the end. Figure 1 draws it. Here it is once more, drawn
# from the code, every map to scale.

# %% tags=["setup"]
import tracemalloc
from contextlib import nullcontext

import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot, shapes
from tinyunet.bugs import plant
from tinyunet.check import check_complex_step
from tinyunet.course import begin, check, predicted, show
from tinyunet.probe import gradient_norms, influence, probe, skip_shares
from tinyunet.spec import PAPER

rng = begin("11")

# %%
show(plot.draw_unet(PAPER, 572))

# %% [markdown]
# The weights are spread over it unevenly. Every step down doubles the channels, and the weights of a convolution are the
# *product* of its channels in and out.
#
# **Predict.** The paper's network has 31,030,658 parameters. What share of them lies in the two convolutions at the bottom of
# the U, the deepest of five levels? Write a number between 0 and 1.

# %% tags=["predict"]
### BEGIN SOLUTION: the share of the bottom, 0 to 1
guess = 0.456
### END SOLUTION

# %%
inside = {}
for layer in shapes.layers(PAPER):
    part = layer.name.rpartition(".")[0] or layer.name
    inside[part] = inside.get(part, 0) + layer.params
predicted(guess, round(inside["bottom"] / shapes.count_params(PAPER), 3),
          "Nearly half of the weights see the image at a sixteenth of its resolution. Most of the pixels, and so most of the "
          "memory, are at the top.")  # fmt: skip

# %%
figure = Figure(figsize=(8, 2.6), layout="constrained")
ax = figure.subplots()
ax.bar(list(inside), [n / 1e6 for n in inside.values()], color="#0072B2", edgecolor="0.3")
ax.set_ylabel("million parameters")
show(figure, "Parameters of each part, in millions: " + ", ".join(f"{k} {n / 1e6:.2f}" for k, n in inside.items()) + ".")

# %% [markdown]
# ## Exercise 1: count
#
# Three rules give all the widths. Level k of the contracting path has base · 2^k channels; the level below the last pooling,
# the bottom, is one more of the kind. An up-convolution halves the channels. And where the paths join, channels add up: half of
# them came from below, half from across.
#
# A K x K convolution from C to O channels has K K C O weights and O biases; an up-convolution is counted as one with K = 2.

# %% tags=["exercise"]
def count(channels, classes, base, depth):
    """channels of the image, classes of the output, channels of the first level, number of poolings -> number of parameters"""
    ### BEGIN SOLUTION: add up down, bottom, up and head, weights and biases
    def conv(size, c_in, c_out):
        return size * size * c_in * c_out + c_out

    total, c = 0, channels
    for level in range(depth + 1):  # the last one is the bottom
        width = base * 2**level
        total += conv(3, c, width) + conv(3, width, width)
        c = width
    for level in range(depth):
        width = base * 2**level
        total += conv(2, 2 * width, width) + conv(3, 2 * width, width) + conv(3, width, width)
    return total + conv(1, base, classes)
    ### END SOLUTION


# %% tags=["check"]
print(check("11.count", count))
print(f"the paper's network: {count(1, 2, 64, 4):,}")

# %% [markdown]
# ## The parts, laid out
#
# A layer of tinyunet is an op with a memory. Its `forward` keeps what its `backward` will need; its `backward` takes that out
# again, adds to the gradients of its parameters, and returns the gradient of its input. So the wiring needs to know nothing of
# convolutions. This is all that lies on the table:

# %%
spec = PAPER.but(base=4, depth=2, dropout=0.0)
model = tu.UNet(spec, rng=rng)
for k, down in enumerate(model.down):
    print(f"net.down[{k}]    .block   {', '.join(layer.name for layer in down.block.layers)}")
    print(f"               .pool    {down.pool.name}")
print(f"net.bottom              {', '.join(layer.name for layer in model.bottom.layers)}")
for k, up in enumerate(model.up):
    print(f"net.up[{k}]      .upconv  {up.upconv.name}\n               .concat  {up.concat.name}")
    print(f"               .block   {', '.join(layer.name for layer in up.block.layers)}")
print(f"net.head                {model.head.name}")

# %% [markdown]
# `net.up` stands in the order in which it is run: the deepest level comes first. Called, they look like this:
#
# | | forward | backward |
# | --- | --- | --- |
# | `block`, `pool`, `bottom`, `upconv`, `head` | `y = part.forward(x)` | `dx = part.backward(dy)` |
# | `concat` | `y = concat.forward(up, skip)` | `dup, dskip = concat.backward(dy)` |
#
# `concat` crops the skip by itself, as in lesson [07](07_crop_and_concatenate.ipynb).
#
# ## Exercise 2: forward
#
# On every level one map goes two ways: down through the pooling, and across. What goes across has to wait until the up path
# comes by, and the level that was left last is the first to be met again. Last in, first out: a Python list with `append` and
# `pop` does it. What goes across is what left the *block*, before the pooling: figure 1 shows it.

# %% tags=["exercise"]
def forward(net, x):
    """(N, H, W, C) image -> logits, for a net of any depth"""
    ### BEGIN SOLUTION: down with a stack of skips, through the bottom, up, and the head
    skips = []
    for down in net.down:
        x = down.block.forward(x)
        skips.append(x)
        x = down.pool.forward(x)
    x = net.bottom.forward(x)
    for up in net.up:
        x = up.upconv.forward(x)
        x = up.concat.forward(x, skips.pop())
        x = up.block.forward(x)
    return net.head.forward(x)
    ### END SOLUTION


# %% tags=["check"]
check("11.forward", forward)

# %% [markdown]
# ## The fork
#
# Backward is the same page read from the bottom to the top: whatever was run last goes first. One thing has no counterpart
# among the layers: the place where a map went two ways.
#
# Let s be a pixel that left the block. It moves the loss L on two ways, through the pooling p(s) and through the skip c(s), and
# the chain rule adds over all of them:
#
# $$\frac{\partial L}{\partial s} = \frac{\partial L}{\partial p}\frac{\partial p}{\partial s} +
# \frac{\partial L}{\partial c}\frac{\partial c}{\partial s}$$
#
# In words: what is read twice forward is added up backward. Nobody has to remember which of the two mattered more.
#
# **Predict.** L = (3 s)² + 5 s is a fork in small: s goes through a square, and past it. At s = 2, what is dL/ds?

# %% tags=["predict"]
### BEGIN SOLUTION: dL/ds at s = 2
guess = 41
### END SOLUTION

# %%
def loss_of(s):
    return (3 * s) ** 2 + 5 * s


predicted(guess, round((loss_of(2.001) - loss_of(1.999)) / 0.002, 6),
          "18 s = 36 on one way, 5 on the other, and their sum: not their mean, not the larger.")  # fmt: skip

# %% [markdown]
# ## Exercise 3: backward
#
# Write `backward` as the mirror image of your `forward`. You meet the concatenations first, and each hands you the gradient of
# its skip; it has to wait until you are back at that level's fork. So there is a second stack, and it fills the other way
# round.
#
# The check runs a forward pass, then your function, and looks at the gradient of the image and of every parameter. (Layers add to
# the gradients of their parameters by themselves; your function does not touch those.)

# %% tags=["exercise"]
def backward(net, dy):
    """gradient of the logits -> gradient of the image, as large as the image"""
    ### BEGIN SOLUTION: your forward in reverse order; a stack of skip gradients, added at the forks
    dskips = []
    dx = net.head.backward(dy)
    for up in reversed(net.up):
        dx = up.block.backward(dx)
        dx, dskip = up.concat.backward(dx)
        dskips.append(dskip)
        dx = up.upconv.backward(dx)
    dx = net.bottom.backward(dx)
    for down in reversed(net.down):
        dx = down.pool.backward(dx) + dskips.pop()
        dx = down.block.backward(dx)
    return dx
    ### END SOLUTION


# %% tags=["check"]
print(check("11.backward", backward))
start = tu.UNet(spec, rng=rng).astype("float64").params()


def run(x, *values):
    """The network as a function of its image and all its parameters: -> logits, and the network that remembers"""
    net = tu.UNet(spec).astype(str(x.dtype))
    net.load_state(dict(zip(start, values, strict=True)))
    return net.forward(x), net


arguments = {"image": rng.standard_normal((1, 44, 48, 1)), **start}
errors = check_complex_step(run, lambda dy, net: (backward(net, dy), *net.grads().values()), arguments, rng, zero_ok=arguments)
worst = max(errors, key=errors.get)
print(f"The image and {len(errors) - 1} parameters: the worst relative error is {errors[worst]:.1e}, of {worst}.")

# %% [markdown]
# The last line is a gradient check of the whole network: each array is moved along a random direction, by a tiny imaginary
# amount, and what becomes of the logits is laid beside what your backward says. How that is possible, and what such a check
# does *not* see, is the matter of lesson [12](12_gradient_checks.ipynb).
#
# ## Without the sum
#
# What if someone forgets the second stack? A much used U-Net for TensorFlow did: its crop passed no gradient back through
# the skips (jakeret/tf_unet issue 7). We plant that bug into tinyunet, and train with it and without, from the same first
# weights on the same tiles, three times.
#
# **Predict.** How will one notice? "it does not learn", "it learns, clearly worse", or "the losses look alike".

# %% tags=["predict"]
### BEGIN SOLUTION: "it does not learn", "it learns, clearly worse", or "the losses look alike"
guess = "the losses look alike"
### END SOLUTION

# %%
data = tu.synthetic("phase", 5, 160, rng, cells=9)
losses, trained = {"right": [], "bug": []}, None
for seed in rng.integers(0, 2**31, 3).tolist():
    for name in losses:
        with plant("skip_gradient_not_added") if name == "bug" else nullcontext():
            net = tu.UNet(spec, rng=seed)
            losses[name].append([r.loss for r in tu.fit(net, data, (), tu.TrainConfig(steps=60, tile=84, lr=3e-3, seed=seed))])
        trained = net if name == "right" else trained
first = {name: np.mean([run[:10] for run in runs], axis=1) for name, runs in losses.items()}
last = {name: np.mean([run[-10:] for run in runs], axis=1) for name, runs in losses.items()}
for name in losses:
    print(f"{name:6} first ten steps {np.round(first[name], 3)}, last ten {np.round(last[name], 3)}")
mean = {name: (first[name].mean(), last[name].mean()) for name in losses}
apart = abs(mean["bug"][1] - mean["right"][1]) / (mean["right"][0] - mean["right"][1])
learns = mean["bug"][1] < mean["bug"][0]
verdict = "it does not learn" if not learns else "it learns, clearly worse" if apart > 0.5 else "the losses look alike"
predicted(guess, verdict, f"On the mean of three runs, the bug changes the loss at the end by {100 * apart:.1f} % of what was "
          "learned. (A small network, 60 steps. Whether a long training ends as well, three such runs do not tell.)")  # fmt: skip

# %% [markdown]
# A falling loss is no proof of a right gradient. Look at the gradient itself: in the figure on the right, how much of it comes
# back to each fork on which way; in the lines below, how wrong the gradients of some weights are without the skip's part.

# %%
def as_input(image):
    return ((image - image.mean()) / image.std())[None].astype(np.float32)


x = as_input(data[0].image)[:, :84, :84]
grads = {}
for name in losses:
    with plant("skip_gradient_not_added") if name == "bug" else nullcontext():
        trained.train().zero_grad()
        with probe(trained) as seen:
            y = trained.forward(x)
            labels = data[0].labels[None, 20 : 20 + y.shape[1], 20 : 20 + y.shape[2]]
            trained.backward(tu.energy(y, labels, None)[1])
        grads[name] = {key: value.copy() for key, value in trained.grads().items()}
        if name == "right":
            watched, shares = seen, skip_shares(trained, seen)
norms = {key: value for key, value in gradient_norms(watched).items() if key.endswith(("conv1", "conv2", "upconv", "head"))}
show(plot.gradient_flow(norms, shares))
for key in ("up.0.conv1.w", "bottom.conv1.w", "down.1.conv1.w", "down.0.conv1.w"):
    gap = np.linalg.norm(grads["bug"][key] - grads["right"][key]) / np.linalg.norm(grads["right"][key])
    print(f"{key:16} wrong by {100 * gap:.0f} %")

# %% [markdown]
# Up path and bottom are right: no fork lies between them and the loss. Only the contracting path is wrong, and badly. But it
# still gets *some* gradient, and it holds few of the weights. So no layer stands still, no shape is wrong, no NaN appears. This
# is why one checks gradients.
#
# ## One image on its way
#
# The same network, after its 60 steps. Of each layer the channel that varies most, to scale. The convolutions lose a rim each,
# the poolings halve, and on the way up the concatenations bring back the detail that the poolings threw away. The chequered
# pattern comes from the up-convolutions: each of their four taps has weights of its own (lesson [06](06_up_convolution.ipynb)),
# and after 60 steps they do not agree yet.

# %%
picture = as_input(data[1].image)[:, :124, :124]
with probe(trained.eval(), "*.relu2", "*.pool", "*.upconv", "head") as seen:
    trained.forward(picture)
show(plot.film_strip(picture, seen.y, rows=2, width=5.6))

# %% [markdown]
# ## What one output pixel sees
#
# Ask of one output pixel: which pixels of the input can it depend on at all? That is its *receptive field*. Walk backward with
# an interval, from low to high, along one axis:
#
# - a valid 3x3 convolution reads, for its pixels low to high, pixels low to high + 2;
# - an up-convolution makes pixels 2k and 2k + 1 of pixel k;
# - a pooling makes pixel k of pixels 2k and 2k + 1.
#
# **Predict.** And the skips? They reach the output by a shorter way, past the poolings. Do they make the receptive field
# larger? True or False.

# %% tags=["predict"]
### BEGIN SOLUTION: True or False
guess = False
### END SOLUTION

# %%
def seen_columns(with_skips):
    """Columns of the image that an output pixel depends on, in a network in which no ReLU is off and nothing cancels"""
    net = tu.UNet(PAPER.but(base=2, depth=2, dropout=0.0), rng=rng)
    for name, value in net.params().items():
        value[...] = np.abs(value) if name.endswith(".w") else 10
        if not with_skips and name.startswith("up.") and name.endswith("conv1.w"):
            value[:, :, value.shape[2] // 2 :] = 0  # the channels that came across
    some = sum(influence(net, (64, 64), (10, 10), rng) for _ in range(8))  # poolings pass on one pixel of four: several images
    return int(np.ptp(np.flatnonzero(some.any(axis=0)))) + 1


fields = seen_columns(True), seen_columns(False)
predicted(guess, fields[0] > fields[1], f"{fields[0]} columns with skips, {fields[1]} without them. What comes across has seen "
          "less of the image than what comes from below, and lies inside it. Skips bring detail, not width.")  # fmt: skip

# %% [markdown]
# ## Exercise 4: the reach
#
# So the walk may leave the skips out. Write it, for one axis of the paper's kind of network (valid convolutions, two a level).
# The output's pixel 0 and the input's pixel 0 are both the first; whole numbers only, `//` rounds down.

# %% tags=["exercise"]
def reach(i, depth):
    """output pixel i -> (low, high), the first and the last input pixel that it depends on"""
    ### BEGIN SOLUTION: from the output back to the input: up levels, bottom, down levels
    low = high = i
    for _ in range(depth):
        high += 4  # two convolutions
        low, high = low // 2, high // 2
    high += 4
    for _ in range(depth):
        low, high = 2 * low, 2 * high + 1
        high += 4
    return low, high
    ### END SOLUTION


# %% tags=["check"]
print(check("11.reach", reach))
print("the paper's network, from output pixel 0 on:", *(high - low + 1 for low, high in (reach(i, 4) for i in range(32))))

# %% [markdown]
# It is not one number. What a pixel sees depends on where it lies in the grid of the poolings, its *phase*: its index modulo
# 2^depth. Here are the sixteen phases of the paper's network; the reach is counted from the pixel's own place.

# %%
reaches = shapes.receptive_field(PAPER)
figure = Figure(figsize=(8, 2.8), layout="constrained")
ax = figure.subplots()
for phase, r in enumerate(reaches):
    color = "#0072B2" if r.size == 188 else "#E69F00"
    ax.barh(phase, r.size, left=-r.before, height=0.75, color=color, edgecolor="0.3", linewidth=0.5)
    ax.text(111, phase, str(r.size), fontsize=7, va="center")
ax.axvline(0, color="black", linewidth=0.8)
ax.set(xlabel="pixels before and after its own place", ylabel="phase", yticks=range(0, 16, 3), xlim=(-112, 122))
ax.invert_yaxis()
show(figure, "Reach of an output pixel for the sixteen phases of its place: "
     + "; ".join(f"phase {k}: {r.before} before, {r.after} after, {r.size} in all" for k, r in enumerate(reaches)))  # fmt: skip

# %% [markdown]
# 188 pixels for four phases, 204 for twelve, and never as far before as after. A pixel *may* see so far. How far *does* it
# look? That can be measured: put a gradient of 1 on one output pixel, go backward, and see what arrives at the image. Four
# networks of depth 3 with random weights:

# %%
deep = PAPER.but(base=4, depth=3, dropout=0.0)
at = (36, 36)  # phase 4 of 8
measured = sum(influence(tu.UNet(deep, rng=rng), (156, 156), at, rng) for _ in range(4))
show(plot.receptive(deep, measured, at))

# %% [markdown]
# **Predict.** The box is 100 pixels wide. How wide is the square around the pixel that holds nine tenths of the influence?

# %% tags=["predict"]
### BEGIN SOLUTION: the side of the square, in pixels
guess = 61
### END SOLUTION

# %%
place = [k + shapes.margin(deep) for k in at]
held = [measured[place[0] - r : place[0] + r + 1, place[1] - r : place[1] + r + 1].sum() / measured.sum() for r in range(60)]
side = 2 * int(np.argmax(np.array(held) >= 0.9)) + 1
predicted(guess, side, "The rim counts little: few ways lead there, and many to the middle. These are random weights; training can "
          "change it, but not beyond the box.")  # fmt: skip

# %% [markdown]
# ## What a training step remembers
#
# Backward needs what forward saw: a convolution its input, a ReLU its mask, a pooling its winners. So the forward pass of a
# *training* step keeps nearly every map; prediction needs the current map and the waiting skips alone. A context is used once
# and then forgotten, so memory falls again as backward goes on. We measure it, after every layer, in a small network.

# %%
def memory(net, x, train):
    """MiB of arrays alive after each layer, on the way there and, in training, back"""
    marks = []
    net = net.train() if train else net.eval()

    def mark(layer, event, values):
        marks.append((layer.name, event, (tracemalloc.get_traced_memory()[0] - before) / 2**20))

    net.hook("*", mark)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = net.forward(x)
    if train:
        net.backward(y)
    tracemalloc.stop()
    net.unhook(mark)
    return marks


small = tu.UNet(spec, rng=rng)
x = rng.standard_normal((1, 188, 188, 1)).astype(np.float32)
small.backward(small.forward(x))  # once, so that work arrays are there
training, predicting = memory(small, x, True), memory(small, x, False)
figure = Figure(figsize=(8, 3.2), layout="constrained")
ax = figure.subplots()
ax.plot([m for *_, m in training], color="#0072B2", label="training: forward, then backward")
ax.plot([m for *_, m in predicting], "--", color="#D55E00", label="predicting")
turn = len(predicting) - 0.5
ax.axvline(turn, color="0.6", linewidth=0.8)
ticks = [k for k, (name, _, _) in enumerate(training) if name.endswith(("pool", "upconv", "head"))]
ax.set_xticks(ticks, [training[k][0] for k in ticks], rotation=90, fontsize=7)
ax.set(ylabel="MiB", ylim=(0, None))
ax.legend(fontsize=8, loc="upper left")
peak = max(training, key=lambda mark: mark[2])
show(figure, f"Memory after every layer. Training rises to {peak[2]:.1f} MiB around the head, where forward ends and backward "
     f"begins, and falls from there to {training[-1][2]:.1f} MiB at the first layer; predicting never takes more than "
     f"{max(m for *_, m in predicting):.1f} MiB.")  # fmt: skip

# %% [markdown]
# Up to the head, and down again. The small saw-teeth are maps in flight; what stays is what is remembered.
#
# **Predict.** Now the paper's network, one tile of 572 x 572 pixels, float32. How many MiB does the forward pass leave behind
# for the backward pass? (One map of the first level, 570 x 570 x 64 numbers, takes 79 MiB. The mask of a ReLU takes
# one bit a number, not four bytes.)

# %% tags=["predict"]
### BEGIN SOLUTION: MiB, as a whole number
guess = 504
### END SOLUTION

# %%
steps = shapes.trace(PAPER, 572)
kinds = {}
for step in steps:
    kinds[step.layer.kind] = kinds.get(step.layer.kind, 0) + step.remembered() / 2**20
print(", ".join(f"{kind} {mib:.0f}" for kind, mib in kinds.items() if mib))
step, single = shapes.training_bytes(PAPER, 572) / 2**20, shapes.forward_bytes(PAPER, 572) / 2**20
predicted(guess, round(sum(kinds.values())), "With weights, their gradients, one momentum for each and the maps in flight, a step "
          f"takes about {step:.0f} MiB; predicting the same tile takes {single:.0f}.")  # fmt: skip

# %% [markdown]
# That is our code's number. In 2015 the authors had 6 GB (section 4) and a framework that kept more. Memory grows with the
# pixels, N H W; section 3 of the paper spends it on large tiles and a batch of one image, and makes up for the noise of such
# small batches by a momentum of 0.99.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **No gradient through the skips.** jakeret/tf_unet issue 7. You saw how little the loss says about it.
# - **"The model still converges"**, said of a pooling whose backward was wrong. Convergence is no test; a gradient check is.
# - **Is there a skip at all, and why is it cropped?** chinakook/U-Net issue 4, milesial/Pytorch-UNet issues 252 and 488. Some
#   notes even call the skip an addition. It is a crop and a concatenation: channels add up, values do not. What *does* add are
#   the gradients at the fork.
# - **The wrong end of the stack.** With one level nothing shows: a stack of one has no wrong end. Test with two levels or more.
# - **One ReLU object in several places.** In a framework that records operations that is fine. A layer that remembers *its*
#   mask remembers the last one only, and all places but one get it wrong.
# - **A ReLU behind the head.** Then logits cannot be negative, and where both are 0 the network has no opinion: grey images, no
#   more learning (jakeret/tf_unet issue 191, zhixuhao/unet issue 148).
# - **The receptive field as one number.** dlmbl/unet's course code computes 22, 64, 164, 396 for one to four poolings; it is
#   18, 44, 92 or 100, 188 or 204.
# - **Out of memory** (jakeret/tf_unet issue 104). For training take smaller tiles; for predicting, lesson [14](14_overlap_tile.ipynb).
#
# ## Summary
#
# - Forward is a page read downward, with a stack for what goes across; backward is the same page read upward, with a stack for
#   the gradients that come back.
# - Where a map is read twice, its gradients add. Without that sum our network still learned: the loss does not tell, a gradient
#   check does.
# - 31,030,658 parameters, nearly half of them at the bottom; memory, on the other hand, is at the top.
# - An output pixel sees 188 or 204 pixels, depending on its phase, and mostly the middle of them.
# - A training step remembers nearly all maps, most of all where forward turns into backward.
#
# **In the code**: [tinyunet/unet.py](../tinyunet/unet.py), whose two functions you have just written;
# [tinyunet/layers.py](../tinyunet/layers.py) for what remembers and forgets; [tinyunet/shapes.py](../tinyunet/shapes.py) for
# all the counting; [tinyunet/bugs/network.py](../tinyunet/bugs/network.py) for what can go wrong. **In the paper**: section 2
# and figure 1; the first paragraph of section 3. **Next**: lesson [12](12_gradient_checks.ipynb) asks which bugs a gradient
# check finds, and which it cannot.
