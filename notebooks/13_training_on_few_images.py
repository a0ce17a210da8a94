# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Training on few images
#     minutes: 100
#     prerequisites: ["01", "09", "10", "11", "12"]
#     goals:
#     - bend an image, its labels and its weight map by one smooth random field
#     - write SGD with momentum and the training step, without autograd
#     - see overfitting, and say from several runs and an interval whether augmentation helps
#     - look into a network while it learns, and tell healthy numbers from sick ones
# ---

# %% [markdown]
# # 13 Training on few images
#
# **What you can do afterwards**
#
# - bend an image, its labels and its weight map by one smooth random field;
# - write SGD with momentum and the training step, without autograd;
# - see overfitting, and say from several runs and an interval whether augmentation helps;
# - look into a network while it learns, and tell healthy numbers from sick ones.
#
# **Before this**: lessons [01](01_mirror_padding.ipynb) (mirrors), [09](09_softmax_cross_entropy.ipynb) (the loss), [10](10_weight_map.ipynb) (the weight map),
# [11](11_the_whole_network.ipynb) (the whole network) and [12](12_gradient_checks.ipynb) (its gradients). **Time**: 100 minutes.
#
# The paper had 30 images for one of its tasks, 35 and 20 for the others, and a network of 31 million weights. Section 3.1 says what makes that possible: the
# images are bent at random while training, and this "elastic" deformation is the key to training with very few of them. Smooth bending suits tissue,
# which does bend. Section 3 says how the weights are moved: stochastic gradient descent, one large tile a step, momentum 0.99.

# %% tags=["setup"]
from dataclasses import replace
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.data.augment import augment_tile, elastic_field
from tinyunet.probe import dead_share, gradient_norms, probe, skip_shares, update_ratios

rng = begin("13")

# %% [markdown]
# ## Very few images
#
# We take two small ones, and a small network that learns in seconds. The numbers are ours.

# %%
two = tu.synthetic("phase", 2, 64, rng)
spec = tu.preset("paper", base=6, depth=2, dropout=0)
show(plot.overlay(two[0].image, two[0].instances, title="one of two training images"))

# %% [markdown]
# **Predict.** Which are there more of: annotated pixels in the two images, or weights in the network? Say "pixels" or "weights".

# %% tags=["predict"]
### BEGIN SOLUTION: "pixels" or "weights"
guess = "weights"
### END SOLUTION

# %%
pixels, weights = 2 * 64 * 64, tu.shapes.count_params(spec)
predicted(guess, "weights" if weights > pixels else "pixels", f"{weights:,} weights, {pixels:,} pixels. Such a network can learn its images by heart. It is then said to *overfit*: right on what it has seen, wrong elsewhere.")

# %% [markdown]
# ## A smooth random field
#
# Section 3.1 gives a recipe. Lay a coarse grid of 3 x 3 nodes over the tile. At each node draw a displacement, two numbers, from a Gaussian with standard deviation 10 pixels. In between, interpolate *bicubically*.
# The result is a field: for each pixel, how far to go along rows and along columns to find the value that shall stand there.
#
# Here are such fields, drawn as a mesh that is pulled along. The tile has 140 x 140 pixels.

# %%
figure = Figure(figsize=(6, 2.1), layout="constrained")
for ax, std in zip(figure.subplots(1, 3), (3, 10, 25)):
    bend = elastic_field((140, 140), rng, grid=3, std=std)
    rows, cols = np.indices((140, 140)) + bend
    for k in [*range(0, 139, 20), 139]:
        ax.plot(cols[k], rows[k], color="#0072B2", linewidth=0.7)
        ax.plot(cols[:, k], rows[:, k], color="#0072B2", linewidth=0.7)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.invert_yaxis()
    ax.set_title(f"std {std} px", fontsize=9)
show(figure, "Three meshes of a tile of 140 pixels. With a deviation of 3 pixels it is hardly bent, with 10 pixels it waves, with 25 pixels it is badly distorted and may fold over itself.")

# %% [markdown]
# If the nodes are close together and pull in opposite directions, the mesh folds over itself: a piece of the image appears twice, once as in a mirror. Tissue does not do that. On the paper's tile of 572 pixels the nodes stand 286 pixels apart.
#
# **Predict.** Of 100 random fields of 10 pixels, how many fold somewhere on a tile of 572 pixels? On one of 64?

# %% tags=["predict"]
### BEGIN SOLUTION: (of 100 on 572 pixels, of 100 on 64 pixels)
guess = (0, 50)
### END SOLUTION

# %%
def turned(size, std=10, points=64):
    """Whether the determinant of d(place)/d(pixel) is below 0 anywhere"""
    bend = elastic_field((points, points), rng, std=std) * (points - 1) / (size - 1)  # in steps of the places
    down, right = np.gradient(bend, axis=1), np.gradient(bend, axis=2)
    return bool(((1 + down[0]) * (1 + right[1]) - right[0] * down[1] < 0).any())


predicted(guess, tuple(sum(turned(size) for _ in range(100)) for size in (572, 64)), "On small tiles take less, in proportion. Ours have 76 pixels, and we take 4.")

# %% [markdown]
# ## Exercise 1: bicubic interpolation
#
# Along one axis first. There are n pixels and `grid` nodes, the first on pixel 0 and the last on pixel n - 1. So pixel i is at $t = i\,(\text{grid} - 1)/(n - 1)$, counted in nodes. Node k adds its value times a kernel of the distance, Keys' cubic:
#
# $$\text{keys}(t) = \begin{cases} \tfrac32 |t|^3 - \tfrac52 |t|^2 + 1 & |t| < 1 \\ -\tfrac12 |t|^3 + \tfrac52 |t|^2 - 4|t| + 2 & 1 \le |t| < 2 \\ 0 & \text{else} \end{cases}$$
#
# It is 1 at its own node and 0 at all others, with no corner anywhere. It reaches two nodes far. So near the edge of the tile there is one node missing on each side, k = -1 and k = grid: let the outermost node stand in for it, and take its share too. Collect all this in a matrix
# B, with B[i, k] the share of node k at pixel i.

# %% tags=["exercise"]
def keys(t):
    """array of any shape -> the kernel at each entry"""
    s = np.abs(t)
    ### BEGIN SOLUTION: two cubics, and 0 beyond
    return np.where(s < 1, 1.5 * s**3 - 2.5 * s**2 + 1, np.where(s < 2, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2, 0))
    ### END SOLUTION


def cubic(n, grid):
    """-> B (n, grid): what each node adds to each pixel; rows add up to 1"""
    ### BEGIN SOLUTION: for k = -1 ... grid, add the kernel of the distance to column k, or to the outermost one
    t = np.arange(n) * (grid - 1) / (n - 1)
    b = np.zeros((n, grid))
    for k in range(-1, grid + 1):
        b[:, min(max(k, 0), grid - 1)] += keys(t - k)
    return b
    ### END SOLUTION


# %% [markdown]
# In two dimensions the same is done along rows, then along columns: for the nodes' displacements V along one axis, (grid, grid), the field is $B_H\, V\, B_W^T$.

# %% tags=["check"]
print(check("13.cubic", keys, cubic))
figure = Figure(figsize=(7, 2.2), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(2, 1))
left.plot(cubic(140, 3))
left.set(xlabel="pixel", ylabel="share of a node")
nodes = 10 * rng.standard_normal((3, 3))
seen = right.imshow(cubic(24, 3) @ nodes @ cubic(24, 3).T, cmap=plot.diverging(), vmin=-25, vmax=25)
right.set(xticks=[], yticks=[])
figure.colorbar(seen, label="px along rows")
show(figure, f"Left, what each of three nodes adds to each of 140 pixels: smooth bumps with a peak of 1 at their own node. Right, a field of 24 x 24 pixels made of nine displacements between {nodes.min():.0f} and {nodes.max():.0f} pixels.")

# %% [markdown]
# ## One field for all three
#
# The image is bent, so its labels must be bent by *the same field*, and its weight map too. But they are not read in the same way. A pixel of the bent image comes from a place between pixels. For grey values one interpolates.
#
# **Predict.** On the left of an edge the label is 0, on the right it is 2 (another kind of cell). Linear interpolation, then rounding. Which label shows up that was not there?

# %% tags=["predict"]
### BEGIN SOLUTION: a label
guess = 1
### END SOLUTION

# %%
between = np.rint(map_coordinates(np.array([0.0, 0, 2, 2]), [np.linspace(0, 3, 13)], order=1)).astype(int)
predicted(guess, sorted(set(between.tolist()) - {0, 2})[0], f"{between.tolist()}: a rim of a third class around every cell. Half way between two classes there is no class. Labels take the *nearest* pixel.")

# %% [markdown]
# ## Exercise 2: warp
#
# Read all three at the places (i + bend[0, i, j], j + bend[1, i, j]): image and weights by linear interpolation, labels from the nearest pixel. Beyond the edge they go on as in a mirror that does not repeat the edge pixel (lesson [01](01_mirror_padding.ipynb)), as the network sees it when it predicts.
#
# `map_coordinates(plane, at, order=1, mode=...)` of SciPy reads a plane (H, W) at places `at` (2, H, W), linearly for order 1 and from the nearest pixel for order 0. Mind the mode: what NumPy calls "reflect" SciPy calls "mirror", and what SciPy calls "reflect" repeats the edge pixel. `np.indices((H, W))` gives all
# (i, j).

# %% tags=["exercise"]
def warp(image, labels, weights, bend):
    """(H, W, C) floating point, (H, W) integers, (H, W) floating point, (2, H, W) -> the three arrays, bent"""
    ### BEGIN SOLUTION: the places; each channel of the image, the labels and the weights, read there
    at = np.indices(labels.shape) + bend
    planes = [map_coordinates(image[:, :, c], at, order=1, mode="mirror") for c in range(image.shape[2])]
    y = map_coordinates(labels, at, order=0, mode="mirror")
    w = map_coordinates(weights, at, order=1, mode="mirror")
    return np.stack(planes, axis=2), y, w
    ### END SOLUTION


# %% tags=["check"]
print(check("13.warp", warp))
sample = tu.synthetic("dic", 1, 100, rng)[0]
map_ = tu.weight_map(sample.instances, sample.labels)
before = sample.image.astype(float), sample.labels, map_
after = warp(*before, elastic_field((100, 100), rng, std=7))
figure = Figure(figsize=(4.8, 3.3), layout="constrained")
for row, arrays in zip(figure.subplots(2, 3), (before, after)):
    for ax, array, name, cmap in zip(row, arrays, ("image", "labels", "weights"), ("gray", "gray", "magma")):
        ax.imshow(array, cmap=cmap)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
show(figure, "Above, an image of cells, its labels and its weight map; below, the same three bent by one field: outlines, labels and bright gaps still fit together.")

# %% [markdown]
# The field, with rotations, mirror images and shifts, is put into one set of places in tinyunet, so that each pixel is interpolated once and not three times. Grey values are varied at the end. `tu.Augment` holds how far each kind may go: [augment.py](../tinyunet/data/augment.py).
#
# ## Momentum
#
# A gradient of one tile says little about all the others. The paper takes one tile a step all the same, as large as possible, and lets the *velocity* v remember:
#
# $$v \leftarrow \mu\, v + g \qquad\qquad w \leftarrow w - \eta\, v$$
#
# g is the gradient, $\eta$ (`lr`) the learning rate, $\mu$ (`mu`) the momentum, 0.99 in section 3. A learning rate is not in the paper. Nor is it in the authors' release.
#
# **Predict.** The gradient is the same g in every step. How many times $\eta g$ is a step in the end?

# %% tags=["predict"]
### BEGIN SOLUTION: how many times lr g
guess = 100
### END SOLUTION

# %%
v = 0.0
for _ in range(3000):
    v = 0.99 * v + 1
predicted(guess, v, "1 + 0.99 + 0.99^2 + ... = 1 / (1 - 0.99). So a learning rate that suits plain descent is a hundred times too large. Compare lr / (1 - mu).")

# %% [markdown]
# ## Exercise 3: momentum
#
# Parameters, gradients and velocities come as dictionaries with the same names. The arrays in `params` are those that the layers compute with, so change them *in place*: `w -= ...` works on the array itself, while `w = w - ...` makes a new one that nobody else knows of. The same goes for the velocities, which the next step needs.

# %% tags=["exercise"]
def momentum_step(params, grads, velocity, lr, mu):
    """name -> array, three times; params and velocity are changed in place, grads are not"""
    for name, w in params.items():
        v = velocity[name]
        ### BEGIN SOLUTION: first the velocity, then the weight, both in place
        v *= mu
        v += grads[name]
        w -= lr * v
        ### END SOLUTION


# %% tags=["check"]
print(check("13.momentum", momentum_step))
figure = Figure(figsize=(6.5, 2.2), layout="constrained")
ax = figure.subplots()
noisy = np.where(np.arange(400) < 200, 1.0, -1.0) + 3 * rng.standard_normal(400)  # a gradient of 1, then -1, and the noise of single tiles
for mu, color in ((0.0, "0.85"), (0.9, "#56B4E9"), (0.99, "#D55E00")):
    velocity, speeds = {"w": np.zeros(1)}, []
    for g in noisy:
        momentum_step({"w": np.zeros(1)}, {"w": np.array([g])}, velocity, 1.0, mu)
        speeds.append((1 - mu) * velocity["w"][0])
    ax.plot(speeds, color=color, linewidth=1, label=f"mu = {mu}")
ax.axhline(0, color="0.3", linewidth=0.5)
ax.set(xlabel="step", ylabel="(1 - mu) v", ylim=(-6, 6))
ax.legend(fontsize=8)
show(figure, "A gradient that is 1 for 200 steps and then -1, with strong noise. Without momentum the noise hides it; with 0.9 it can be guessed; with 0.99 it is plain, and the change of sign is noticed dozens of steps late.")

# %% [markdown]
# A velocity with 0.99 averages over about a hundred steps, which takes the place of a batch of a hundred tiles. The price is inertia: half of what it holds is older than 69 steps. In a run of 100 steps it has hardly begun, and that is why the short runs below use Adam, tinyunet's default.
#
# ## The step
#
# All the parts are there. `model.forward`, `model.backward` and the loss you have written yourself in earlier lessons, the optimizer just now. In tinyunet, `tu.energy(logits, labels, weights)` gives the loss and its gradient by the logits; softmax is inside. An optimizer, such as `tu.SGD(model, lr=..., momentum=...)`, knows its
# model and has one method, `step()`. `model.backward(dlogits)` *adds* to the gradients; `model.zero_grad()` sets them to 0.
#
# **Predict.** In which order do these belong? Write the numbers: 1 `optimizer.step()`, 2 `tu.energy(...)`, 3 `model.backward(...)`, 4 `model.forward(...)`.

# %% tags=["predict"]
### BEGIN SOLUTION: four numbers
guess = [4, 2, 3, 1]
### END SOLUTION

# %%
predicted(guess, [4, 2, 3, 1], "And the gradients are set to 0 after the step or before the next backward pass, but never between backward and step.")

# %% [markdown]
# ## Exercise 4: one training step

# %% tags=["exercise"]
def train_step(model, optimizer, x, labels, weights):
    """x (N, H, W, C), labels and weights (N, P, Q) of the size of the output -> the loss before the step, a number"""
    ### BEGIN SOLUTION: forward, loss, backward, step; gradients to zero
    logits = model.forward(x)
    loss, dlogits = tu.energy(logits, labels, weights)
    model.backward(dlogits)
    optimizer.step()
    model.zero_grad()
    return loss
    ### END SOLUTION


# %% tags=["check"]
print(check("13.step", train_step))
model = tu.UNet(spec, rng=rng)
optimizer = tu.SGD(model, lr=2e-3, momentum=0.99)
bent = replace(tu.Augment(), elastic=4.0, shift=8.0)
began, losses = perf_counter(), []
for step in range(60):
    sample = two[step % 2]
    tile = augment_tile(sample.image, sample.labels, None, (32, 32), (76, 76), (36, 36), bent, rng, std=sample.image.std())
    x = ((tile.image - sample.image.mean()) / sample.image.std()).astype(np.float32)
    losses.append(train_step(model, optimizer, x[None], tile.labels[None], tile.weights[None]))
print(f"60 steps in {perf_counter() - began:.1f} s; loss of the first ten {np.mean(losses[:10]):.3f}, of the last ten {np.mean(losses[-10:]):.3f}")

# %% [markdown]
# That is all of training. [train.py](../tinyunet/train.py) has the same lines, and around them what a long run needs: checkpoints, a learning rate that changes, validation, a stop when numbers are no longer finite.
#
# ## With and without
#
# Now the question of this lesson. Two ways to train on two images:
#
# - **as they are**: tiles of 36 x 36 output pixels from random places, no augmentation;
# - **augmented**: bent, turned, mirrored, shifted, grey values varied.
#
# After every 40 steps we ask for the loss on eight images that nobody trained on. One run proves nothing: first weights, training images and tiles are a matter of luck. So each way gets seven runs. Run k of each has the same two images, the same eight test images and the same first weights, so that they can be compared *pair by pair*.
#
# **Predict.** Which way has the lowest *training* loss in the end? Which the lowest loss on the other images?

# %% tags=["predict"]
### BEGIN SOLUTION: twice "as they are" or "augmented"
guess = ("as they are", "augmented")
### END SOLUTION

# %%
ways = {"as they are": tu.Augment.none(), "augmented": replace(tu.Augment(), elastic=4.0, shift=8.0)}
RUNS, STEPS, EVERY = 7, 160, 40


def tiles_of(samples):
    """The middle of each image as the network takes it, and its labels"""
    tiles = [augment_tile(s.image, s.labels, None, (48, 48), (92, 92), (52, 52), tu.Augment.none(), rng) for s in samples]
    x = np.stack([(t.image - s.image.mean()) / s.image.std() for t, s in zip(tiles, samples)])
    return x.astype(np.float32), np.stack([t.labels for t in tiles])


trained, unseen, overlap = ({way: np.zeros((RUNS, STEPS // EVERY)) for way in ways} for _ in range(3))
for run in range(RUNS):
    train, seed = tu.synthetic("phase", 2, 64, rng), int(rng.integers(10**6))
    others, truth = tiles_of(tu.synthetic("phase", 8, 96, rng))
    for way, augment in ways.items():
        model = tu.UNet(spec, rng=seed)
        config = tu.TrainConfig(steps=STEPS, tile=36, lr=3e-3, schedule="constant", weight_map="none", border=0, augment=augment, seed=seed)
        losses = []
        for record in tu.fit(model, train, (), config):
            losses.append(record.loss)
            if record.step % EVERY == 0:
                k = record.step // EVERY - 1
                logits = model.eval().forward(others)
                trained[way][run, k] = np.mean(losses[-20:])
                unseen[way][run, k], _ = tu.energy(logits, truth, None)
                overlap[way][run, k] = tu.metrics.iou(tu.metrics.confusion_matrix(logits.argmax(axis=-1), truth, 2))[1]
                model.train()

figure = Figure(figsize=(6.5, 2.6), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
words = "Loss against steps, seven runs each."
for ax, way in zip(panels, ways):
    at = np.arange(EVERY, STEPS + 1, EVERY)
    ax.plot(at, trained[way].T, "--", color="#0072B2", linewidth=0.7, alpha=0.6)
    ax.plot(at, unseen[way].T, "-", color="#D55E00", linewidth=0.7, alpha=0.6)
    ax.plot(at, trained[way].mean(axis=0), "--", color="#0072B2", linewidth=2.5, label="training, mean")
    ax.plot(at, unseen[way].mean(axis=0), "-", color="#D55E00", linewidth=2.5, label="other images, mean")
    ax.set_title(way, fontsize=9)
    ax.set(xlabel="step", ylim=(0, 1.5))
    words += f" {way}: training {trained[way][:, 0].mean():.2f} to {trained[way][:, -1].mean():.2f}, other images {unseen[way][:, 0].mean():.2f} to {unseen[way][:, -1].mean():.2f}."
panels[0].set_ylabel("loss")
panels[0].legend(fontsize=7)
show(figure, words)
last = {way: (trained[way][:, -1].mean(), unseen[way][:, -1].mean()) for way in ways}
predicted(guess, (min(ways, key=lambda way: last[way][0]), min(ways, key=lambda way: last[way][1])), "The training loss says how well the two images are known by heart. A wide gap between the two lines is overfitting: see the first panel.")

# %% [markdown]
# How sure are we? Compare pair by pair. Losses differ by *factors*, and one run that is certain and wrong would rule a mean of differences. So take the logarithm of each pair's ratio: seven numbers. Their mean has an uncertainty, the standard deviation over $\sqrt{7}$, times 2.45. That number is from
# Student's t distribution, for seven values and 95 %. (With three runs it is 4.30.) If the interval of the factor contains 1, seven runs have not settled the matter. For the IoU we take differences, and the interval must not contain 0.

# %%
def interval(values):
    """-> both ends of the 95 % interval of the mean of seven numbers"""
    half = 2.447 * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def told(what, low, high, nothing):
    """The interval, and whether it settles anything"""
    print(f"{what}: {low:+.2f} to {high:+.2f}   " if nothing == 0 else f"{what}: times {low:.2f} to {high:.2f}   ", end="")
    print("not settled" if low < nothing < high else "settled, as far as 95 % go")


end = {way: np.log(unseen[way][:, -1]) for way in ways}
told("as they are, loss on other images against training loss", *np.exp(interval(end["as they are"] - np.log(trained["as they are"][:, -1]))), 1)
told("loss on other images, augmented against as they are", *np.exp(interval(end["augmented"] - end["as they are"])), 1)
told("IoU on other images, augmented less as they are", *interval(overlap["augmented"][:, -1] - overlap["as they are"][:, -1]), 0)

# %% [markdown]
# Read what it says and no more. Each line answers one question, and of twenty lines like these one says "settled" by luck. The loss punishes a network that is certain and wrong, and this is where a network that knows two images by heart is caught. The IoU asks only on which side of one half a pixel lies. It moves less,
# and differs so much from one pair of training images to the next that seven runs often cannot tell.
#
# And is it the *elastic* part that helps, the key of section 3.1? These are 160 steps of a small network on drawn images, whose cells are no tissue. Add a third way, `replace(tu.Augment.none(), elastic=4.0)`, and see what seven runs can say. Lesson [17](17_your_own_images.ipynb) shows how to put such a question to your own images.
#
# What augmentation does cost is time: the training loss falls more slowly, as the network is never shown the same tile twice.
#
# ## Looking inside
#
# A loss is one number. While a network learns, each layer has its own to tell. Here is one run (one, for looking, not for proof) as in the paper, with momentum 0.99, at two learning rates. Three things are written down:
#
# - the **update ratio** of each layer's weights, |change| / |weights| of one step. About 1e-3 is a good pace; 1e-2 is wild, 1e-5 is standing still. This is a rule of thumb and not the paper's;
# - **dead units** (lesson [04](04_relu_and_initialisation.ipynb)): the share of channels whose ReLU is 0 at every pixel of some fixed images;
# - the **norm of the gradient** at each layer.
#
# **Predict.** The rates are 0.002 and 0.01. At which of the two are there more dead units in the end?

# %% tags=["predict"]
### BEGIN SOLUTION: 0.002 or 0.01
guess = 0.01
### END SOLUTION

# %%
def watch(lr, seed=1, steps=120):
    """Train with momentum 0.99, and write down what the layers do"""
    model, x = tu.UNet(spec, rng=seed), others[:3, 8:84, 8:84]
    config = tu.TrainConfig(steps=steps, tile=36, optimizer="sgd", lr=lr, schedule="constant", weight_map="none", border=0,
                            augment=ways["augmented"], seed=seed)
    ratios, dead, losses, maps = {}, [], [], {}
    with probe(model) as seen:
        before = {name: w.copy() for name, w in model.params().items()}
        for record in tu.fit(model, two, (), config):
            losses.append(record.loss)
            for name, ratio in update_ratios(before, model.params()).items():
                ratios.setdefault(name, []).append(ratio)
            before = {name: w.copy() for name, w in model.params().items()}
            if record.step in (1, steps):
                maps[record.step] = gradient_norms(seen), skip_shares(model, seen), {n: y.copy() for n, y in seen.y.items()}, {n: dy.copy() for n, dy in seen.dy.items()}
            if record.step % 10 == 0:
                model.eval().forward(x)
                dead.append({name: dead_share(y) for name, y in seen.y.items() if "relu" in name})
                model.train()
    return ratios, dead, losses, maps


calm, wild = watch(2e-3), watch(1e-2)
shown = ("down.0.conv1.w", "bottom.conv2.w", "up.1.upconv.w", "up.0.conv2.w")
for name, run in (("lr 0.002", calm), ("lr 0.01", wild)):
    show(plot.over_time({layer: run[0][layer] for layer in shown}, f"update ratio, {name}", healthy=(1e-4, 1e-2)))
share = {name: float(np.mean(list(run[1][-1].values()))) for name, run in (("0.002", calm), ("0.01", wild))}
predicted(guess, 0.002 if share["0.002"] > share["0.01"] else 0.01, f"Of all channels {100 * share['0.002']:.0f} % are dead at 0.002, and {100 * share['0.01']:.0f} % at 0.01. With momentum 0.99 a rate of 0.01 is like 1 without.")

# %%
figure = Figure(figsize=(7, 2.3), layout="constrained")
left, right = figure.subplots(1, 2)
for (name, run), style in zip((("0.002", calm), ("0.01", wild)), ("-", "--")):
    left.plot(np.convolve(run[2], np.ones(10) / 10, "valid"), style, label=f"lr {name}")
    right.plot(np.arange(10, 121, 10), [np.mean(list(dead.values())) for dead in run[1]], style + "o", label=f"lr {name}", markersize=3)
left.set(xlabel="step", ylabel="loss, mean of 10 steps")
right.set(xlabel="step", ylabel="share of dead channels", ylim=(-0.02, 1))
left.legend(fontsize=8)
show(figure, f"One run each. Left the loss: {np.mean(calm[2][-10:]):.2f} in the last ten steps at 0.002, {np.mean(wild[2][-10:]):.2f} at 0.01. Right the share of dead channels over 120 steps: in the end {100 * share['0.002']:.0f} % and {100 * share['0.01']:.0f} %.")

# %% [markdown]
# In the first twenty steps the learning rate itself grows (the *warm-up* of `TrainConfig`, ours), and the velocity gathers speed for longer. The update ratios rise with both. At the larger rate they are several times as high and in places leave the band. More units die, and what has died does not come back: no gradient reaches it. The loss may look passable at first, which is why one looks at layers.
#
# Where does the gradient come from? At each fork of the U two gradients meet: one through the skip, one from below through the pooling. Here are both at the last step of the calm run.

# %%
norms, shares, activations, gradients = calm[3][120]
show(plot.gradient_flow({name: norms[name] for name in norms if name.endswith(("relu2", "pool", "upconv", "concat", "head"))}, shares))

# %% [markdown]
# And the maps themselves, on the last tile: what leaves some layers, and the gradient that comes back to the same place. White is 0 in the gradients.

# %%
layers = ("down.0.relu2", "down.1.relu2", "bottom.relu2", "up.0.relu2", "head")
show(plot.maps({name: activations[name] for name in layers}, channels=5, width=6))
show(plot.maps({f"d {name}": gradients[name] for name in layers}, channels=4, width=5))

# %% [markdown]
# At the head the gradient is probability less label, over the number of pixels: large where the network is wrong or not sure, nearly 0 where it is right. Two channels, two classes, opposite signs. Further back each layer's map asks: which of *my* numbers would have to change?
# Dark maps in the first figure are channels that say little about this tile, or are dead. Gradients do arrive at a dead map; its ReLU lets none of them through.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **Interpolated labels.** The most frequent mistake of augmentation: gvtulder/elasticdeform issue 10, kornia issue 2002, mdbloice/Augmentor pull request 226, MIC-DKFZ/batchgenerators issue 56. Count the classes before and after.
# - **A field of its own for the labels**, because the function that draws it is called twice. Draw once, use three times.
# - **Labels cropped at the wrong place.** The network predicts the middle of the tile. `[k:-k]` with k = 0 is empty (jakeret/tf_unet issue 211).
# - **10 pixels on a tile of 64.** The number belongs to the paper's tiles. Look at what you feed.
# - **Augmented validation images**, or bent copies of one image in training *and* validation. The first measures something else, the second is cheating without knowing it.
# - **Gradients that are never set to zero**, and the learning rate of plain SGD together with momentum 0.99.
# - **One lucky seed.** In the experiment above single runs differ by more than many published improvements. Pairs, several seeds, an interval; and say which numbers you looked at.
# - **Resuming without the optimizer's state** (milesial/Pytorch-UNet issue 376). With momentum 0.99 the velocity is a hundred steps of work.
#
# ## Summary
#
# - Few images and many weights: without augmentation the training loss falls and the loss on other images does not.
# - Elastic deformation: nine random vectors, bicubic interpolation, one field for image, labels and weights. Labels from the nearest pixel.
# - v = mu v + g, w = w - lr v. With mu = 0.99, lr counts a hundredfold.
# - Forward, loss, backward, step, zero. There is nothing else.
# - Say how sure you are: several runs, pair by pair, and an interval.
# - Update ratios near 1e-3, few dead units, gradients of similar size: so looks a network that learns.
#
# **In the code**: [tinyunet/data/augment.py](../tinyunet/data/augment.py), [tinyunet/optim.py](../tinyunet/optim.py), [tinyunet/train.py](../tinyunet/train.py), [tinyunet/probe.py](../tinyunet/probe.py),
# [tinyunet/plot/health.py](../tinyunet/plot/health.py). **In the paper**: section 3 (momentum, batch of one tile) and 3.1 (augmentation). **Next**: lesson [14](14_overlap_tile.ipynb) uses a trained network on images
# larger than its tile.
