# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Overlap-tile
#     minutes: 75
#     prerequisites: ["01", "07", "08", "11"]
#     goals:
#     - segment an image of any size in tiles, with bounded memory
#     - say when the tiles agree with one pass over the whole image, and prove it by measurement
#     - say what breaks it, from the stride to batch norm
# ---

# %% [markdown]
# # 14 Overlap-tile
#
# **What you can do afterwards**
#
# - segment an image of any size in tiles, with bounded memory;
# - say when the tiles agree with one pass over the whole image, and prove it by measurement;
# - say what breaks it, from the stride to batch norm.
#
# **Before this**: lessons [01](01_mirror_padding.ipynb), [07](07_crop_and_concatenate.ipynb),
# [08](08_batch_norm_and_dropout.ipynb) and [11](11_the_whole_network.ipynb). **Time**: 75 minutes.
#
# Images are larger than memory. Section 1 of the paper has an answer, and figure 2 draws it: since valid convolutions use real
# pixels only, every output pixel is computed from its full surroundings. So one may predict the image tile by tile, each from
# an input that is larger than its output, and lay the results side by side, *without seams*. Beyond the edge of the image there
# are no pixels; there the image is mirrored. The authors call it the overlap-tile strategy: inputs overlap, outputs do not.
#
# Is it true that there are no seams? Nearly. This lesson finds the condition that the paper does not spell out.

# %% tags=["setup"]
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot, shapes
from tinyunet.course import begin, check, predicted, show
from tinyunet.ops.loss import softmax
from tinyunet.ops.pad import mirror_index
from tinyunet.spec import PAPER

rng = begin("14")


def cut(x, top, bottom, left, right):
    """Rows top to bottom, columns left to right, as a batch of one; what lies outside the image is mirrored"""
    return x[np.ix_(mirror_index(top, bottom, x.shape[0]), mirror_index(left, right, x.shape[1]))][None]

# %% [markdown]
# The function `cut` above takes a piece out of an image, and mirrors what lies outside (lesson [01](01_mirror_padding.ipynb)). Next we need a network
# worth tiling, of depth 3, trained for a few seconds. (Its batch norm is not the paper's; it makes the few steps count, and
# will give us trouble later on.) Then one pass over a whole image, to which everything below is compared: the image, as much
# mirror around it as the network cuts off, forward.

# %%
spec = PAPER.but(base=4, depth=3, norm="batch", dropout=0.0)
data = tu.synthetic("phase", 7, 256, rng, cells=16)
model = tu.UNet(spec, rng=rng)
losses = [record.loss for record in tu.fit(model, data[:4], (), tu.TrainConfig(steps=80, tile=132, lr=5e-3))]
print(f"loss: {np.mean(losses[:10]):.2f} in the first ten steps, {np.mean(losses[-10:]):.2f} in the last ten")


def as_input(image):
    """(H, W, C), mean 0 and deviation 1, once for the whole image: tiles must not be normalised each by itself"""
    return ((image - image.mean()) / image.std()).astype(np.float32)


margin = shapes.margin(spec)  # pixels that the output lacks on each side
x = as_input(data[4].image)
fed = shapes.input_size(spec, 256)
whole = model.eval().forward(cut(x, -margin, fed - margin, -margin, fed - margin))[0, :256, :256]
print(f"margin {margin}: an input of {fed} pixels gives {shapes.output_size(spec, fed)}, of which we need 256")
show(plot.errors(data[4].image, whole.argmax(-1), data[4].labels, title="one pass over the whole image"))

# %% [markdown]
# ## When does a shift shift?
#
# A tile is the same image, looked at from another corner. So tiles agree with the whole if shifting the input shifts the output
# and does nothing else. Convolutions do that. A pooling looks at the image in cells of two pixels, and does it only if a cell
# comes to lie on a cell.
#
# **Predict.** The network has three poolings. We shift its input by 1, 2, ... 16 pixels, and shift the output back. For which
# shifts is it what it was?

# %% tags=["predict"]
### BEGIN SOLUTION: a list of shifts, from 1 to 16
guess = [8, 16]
### END SOLUTION

# %%
gaps = {}
for shift in range(1, 17):
    tile = model.forward(cut(x, shift - margin, shift - margin + 156, -margin, 156 - margin))[0]
    gaps[shift] = float(np.abs(tile - whole[shift : shift + 68, :68]).max())
figure = Figure(figsize=(7, 2.6), layout="constrained")
ax = figure.subplots()
ax.bar(list(gaps), [max(gap, 1e-7) for gap in gaps.values()], bottom=1e-7, color="#0072B2", edgecolor="0.3")
ax.set(yscale="log", ylim=(1e-7, 10), xlabel="shift in pixels", ylabel="largest difference of logits", xticks=range(1, 17))
show(figure, "Largest difference of the logits after a shift: " + ", ".join(f"{k} px {gap:.1e}" for k, gap in gaps.items()) + ".")
agree = [shift for shift, gap in gaps.items() if gap < 1e-4]
predicted(guess, agree, "Three poolings make cells of 2^3 = 8 pixels. What is left at 8 and 16 is the rounding of float32; "
          "all others are another computation.")  # fmt: skip

# %% [markdown]
# So here is the condition. **Tiles must lie a multiple of 2^depth pixels apart.** For the paper's network, 16.
#
# Now the outputs. An input of 2^d a + 4 (2^d - 1) pixels gives (lesson [07](07_crop_and_concatenate.ipynb))
#
# $$2^d\,(a - 8) + 4$$
#
# For one or two poolings that is a multiple of 2^d, whatever a is, and nobody notices anything. From three poolings on it never
# is: always four too many. 388 = 24 · 16 + 4.
#
# **Predict.** Tiles of 572 x 572 pixels, the paper's network. How far apart may they lie at the most, so that no pixel is
# missing, and the result is that of the whole image?

# %% tags=["predict"]
### BEGIN SOLUTION: pixels from one tile to the next
guess = 384
### END SOLUTION

# %%
predicted(guess, shapes.tile_spans(PAPER, 1000, 572)[1].start,
          "Of the 388 pixels 384 are kept. Figure 2 is usually read as tiles laid edge to edge, 388 apart; these do not "
          "agree with one another.")  # fmt: skip

# %% [markdown]
# ## Exercise 1: the plan
#
# Rows and columns are planned apart from each other, so one axis is enough. Cover the n pixels of the result, each once, with
# tiles that are fed with `tile` pixels. A tile makes pixels `start` to `stop` of the result; for them the network is given the
# image's pixels `in_start` to `in_stop`. As everywhere in Python, the stops are not included. Both may lie outside the image,
# where it is mirrored.
#
# The first pixel of a tile's output is its pixel `start`. `shapes.margin(spec)` and `shapes.output_size(spec, tile)` save you
# the arithmetic. The last tile makes no pixel beyond n, but is fed as many as the others.

# %% tags=["exercise"]
def plan(spec, n, tile):
    """pixels of the result, pixels fed -> [(start, stop, in_start, in_stop), ...] along one axis, from left to right"""
    ### BEGIN SOLUTION: the largest stride that is right, then a tuple for each start
    step = 2**spec.depth
    stride = shapes.output_size(spec, tile) // step * step
    border = shapes.margin(spec)
    return [(a, min(a + stride, n), a - border, a - border + tile) for a in range(0, n, stride)]
    ### END SOLUTION


# %% tags=["check"]
print(check("14.plan", plan))
print(plan(PAPER, 1000, 572))

# %% [markdown]
# ## Exercise 2: stitch
#
# Now do it: for every pair of a row's and a column's tile, cut its input out of the image with the mirror (`cut` does it), run
# the network, and put the pixels where they belong. Two things to think of. The last tiles make fewer pixels than the network
# gives. And put the network into eval mode first: you will see below why.

# %% tags=["exercise"]
def stitch(model, x, rows, cols):
    """(H, W, C) image, two plans as above -> (H, W, classes) logits"""
    y = np.zeros((*x.shape[:2], model.spec.classes), x.dtype)
    ### BEGIN SOLUTION: eval mode, then cut, forward and put, for every pair of tiles
    model.eval()
    for top, bottom, in_top, in_bottom in rows:
        for left, right, in_left, in_right in cols:
            tile = model.forward(cut(x, in_top, in_bottom, in_left, in_right))[0]
            y[top:bottom, left:right] = tile[: bottom - top, : right - left]
    return y
    ### END SOLUTION


# %% tags=["check"]
print(check("14.stitch", stitch))
mine = plan(spec, 256, 156)
print(f"{len(mine) ** 2} tiles; largest difference to the whole: {np.abs(stitch(model, x, mine, mine) - whole).max():.1e}")

# %% [markdown]
# ## Seams
#
# The same in tinyunet (`shapes.tile_spans`), and beside it what edge to edge does: tiles of 156 pixels give 68, and 68 is no
# multiple of 8. The colours are powers of ten.
#
# **Predict.** The logits here are a few units large. How large is the largest error of tiles laid edge to edge: about 1e-6,
# 1e-3 or 1?

# %% tags=["predict"]
### BEGIN SOLUTION: 1e-6, 1e-3 or 1
guess = 1
### END SOLUTION

# %%
def tiled(net, x, tile, stride):
    """Tiles of the same input size, so many pixels apart; the order is such that later ones write over earlier ones"""
    keep, border = shapes.output_size(net.spec, tile), shapes.margin(net.spec)
    y = np.zeros((x.shape[0] + keep, x.shape[1] + keep, net.spec.classes), np.float32)
    for i in range(0, x.shape[0], stride):
        for j in range(0, x.shape[1], stride):
            y[i : i + keep, j : j + keep] = net.forward(cut(x, i - border, i - border + tile, j - border, j - border + tile))[0]
    return y[: x.shape[0], : x.shape[1]]


def error_maps(errors, words):
    """|tiled - whole|, the largest over the classes, on one logarithmic scale"""
    figure = Figure(figsize=(3.2 * len(errors) + 0.6, 3.0), layout="constrained")
    axes = figure.subplots(1, len(errors), squeeze=False)[0]
    for ax, (title, error) in zip(axes, errors.items(), strict=True):
        worst = error.max(axis=-1)
        drawn = ax.imshow(np.maximum(worst, 1e-6), norm=LogNorm(1e-6, 1), cmap="magma", interpolation="nearest")
        ax.set_title(f"{title}\nlargest {worst.max():.1e}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, shrink=0.85, label="|tiled - whole|")
    listed = (f"{title}: largest error {error.max():.1e}, more than 1e-4 at {100 * (error.max(-1) > 1e-4).mean():.0f} % of the "
              "pixels" for title, error in errors.items())  # fmt: skip
    show(figure, f"{words} {'; '.join(listed)}.")


model.eval()
errors = {f"{stride} px apart": np.abs(tiled(model, x, 156, stride) - whole) for stride in (68, 64)}
error_maps(errors, "Maps of the difference between tiles and the whole image, in powers of ten.")
predicted(guess, float(10 ** min((-6, -3, 0), key=lambda power: abs(np.log10(errors["68 px apart"].max()) - power))),
          "Tiles begin at 0, 68, 136, 204. Those at 68 and 204 lie four pixels beside the grid of the whole.")  # fmt: skip

# %% [markdown]
# Two things are to be seen on the left. The error is not only *at* the seams: a tile off the grid is another computation
# everywhere. And the third tile in a row, at 136 pixels, is right again, because 136 is a multiple of 8. On the right there is
# nothing but rounding: in float32 sums in another order differ in the seventh digit.
#
# Whoever blends overlapping tiles averages such differences away. With valid convolutions and the right stride there is nothing
# to blend.
#
# ## Batch norm in training mode
#
# Batch norm divides by the deviation of what it sees. In training mode that is the batch: here, the tile. Each tile is then
# normalised by itself, and a pixel depends on *all* the pixels of its tile, however far away.
#
# **Predict.** The same tiles, 64 pixels apart, but someone forgot `model.eval()`. Does it still agree with the whole image,
# passed in training mode as well? True or False.

# %% tags=["predict"]
### BEGIN SOLUTION: True or False
guess = False
### END SOLUTION

# %%
kept = {name: value.copy() for name, value in model.state().items()}
model.train()
whole_training = model.forward(cut(x, -margin, fed - margin, -margin, fed - margin))[0, :256, :256]
forgotten = np.abs(tiled(model, x, 156, 64) - whole_training)
changed = sum(not np.array_equal(value, kept[name]) for name, value in model.state().items())
model.load_state(kept)
model.eval()
error_maps({"64 px apart, training mode": forgotten}, "Tiles against the whole image, both in training mode.")
predicted(guess, bool(forgotten.max() < 1e-4),
          f"Every tile has another mean. And looking at the image has changed the network: {changed} arrays of running "
          "statistics are others now. (We put them back.)")  # fmt: skip

# %% [markdown]
# ## Beyond the edge
#
# At the edge of the image the network sees its mirror. That is an invention, but a good one? Here we can ask: we predict the
# inner 128 x 128 pixels of larger images, once with the real pixels around them, once with a mirror, once with zeros, and look
# how far the probabilities are off, by distance from the edge. One network, three images that it was not trained on.

# %%
around = (256 - 128) // 2
apart = np.minimum(*np.minimum(np.indices((128, 128)), 127 - np.indices((128, 128))))  # pixels from the edge
need = shapes.input_size(spec, 128)
off = {"mirror": np.zeros(64), "zeros": np.zeros(64)}
for sample in data[4:]:
    full = as_input(sample.image)
    inner = full[around:-around, around:-around]
    fill = {
        "real": full[around - margin : around - margin + need, around - margin : around - margin + need][None],
        "mirror": cut(inner, -margin, need - margin, -margin, need - margin),
        "zeros": np.pad(inner, ((margin, need - margin - 128), (margin, need - margin - 128), (0, 0)))[None],
    }
    p = {name: softmax(model.forward(values))[0, :128, :128, 1] for name, values in fill.items()}
    for name in off:
        off[name] += [np.abs(p[name] - p["real"])[apart == k].mean() / len(data[4:]) for k in range(64)]
figure = Figure(figsize=(7, 2.8), layout="constrained")
ax = figure.subplots()
for (name, curve), style, color in zip(off.items(), ("-", "--"), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(curve, style, color=color, label=name)
ax.set(xlabel="pixels from the edge", ylabel="mean error of the probability", ylim=(0, None))
ax.legend()
show(figure, "Error of the probability by distance from the edge. " + "; ".join(
    f"{name} {curve[0]:.3f} at the edge, {curve[10]:.3f} ten pixels inside" for name, curve in off.items()) + ".")  # fmt: skip
print(f"within ten pixels of the edge: mirror {off['mirror'][:10].mean():.3f}, zeros {off['zeros'][:10].mean():.3f}")

# %% [markdown]
# How much the mirror gains depends on the images and on the network; run the lesson under another name and see. Zeros are grey
# here, for the image has mean 0; in an image that was not normalised they would be black. The error can reach as far inside as
# the network looks outside, about 50 pixels; most of it lies within ten.
#
# ## What a tile costs
#
# Small tiles need little memory, and waste time: the margins are computed again and again. The waste is the pixels fed for
# every pixel kept, (tile / stride)².
#
# **Predict.** The smallest tile of the paper's network that keeps anything is 204: it gives 20 pixels, of which 16 are kept.
# How many pixels are fed for each pixel kept?

# %% tags=["predict"]
### BEGIN SOLUTION: pixels fed for a pixel kept, a whole number
guess = 163
### END SOLUTION

# %%
sides = list(range(204, 1500, 16))
stride_of = {side: shapes.output_size(PAPER, side) // 16 * 16 for side in sides}
mib = [shapes.forward_bytes(PAPER, side) / 2**20 for side in sides]
waste = [(side / stride_of[side]) ** 2 for side in sides]
figure = Figure(figsize=(7, 2.9), layout="constrained")
ax = figure.subplots()
ax.plot(sides, waste, color="#D55E00")
ax.set(yscale="log", xlabel="tile, pixels fed", yticks=[1, 2, 5, 10, 50, 150], yticklabels=["1", "2", "5", "10", "50", "150"])
ax.set_ylabel("pixels fed for one kept", color="#D55E00")
other = ax.twinx()
other.plot(sides, mib, "--", color="#0072B2")
other.set_ylim(0, None)
other.set_ylabel("MiB", color="#0072B2")
ax.axvline(572, color="0.6", linewidth=0.8)
at = sides.index(572)
show(figure, f"The paper's network: tiles of 204 px feed {waste[0]:.0f} pixels for one kept and take {mib[0]:.0f} MiB; 572 px, "
     f"marked, {waste[at]:.1f} pixels and {mib[at]:.0f} MiB; {sides[-1]} px {waste[-1]:.1f} and {mib[-1]:.0f} MiB.")  # fmt: skip
predicted(guess, round(waste[0]),
          f"At 572 pixels it is {waste[at]:.1f}, and {mib[at]:.0f} MiB. So: the largest tile that fits into memory. "
          "`tu.predict(model, image, max_mem=...)` looks for it.")  # fmt: skip

# %% [markdown]
# The 512 x 512 images of section 4 need no tiles at all: an input of 700 pixels gives 516. Or four tiles of 572.
#
# ## And with same padding?
#
# Then a tile has no margin, but an edge of zeros, and whatever that reaches is wrong. The cure is the paper's, in other
# clothes: feed more than you keep. Let tiles overlap by a halo as wide as the receptive field reaches, and throw the halo away.
# On the left tiles edge to edge; on the right with a halo, 24 pixels for a depth of 2. Random weights will do.

# %%
same = tu.UNet(PAPER.but(base=4, depth=2, padding="same", dropout=0.0), rng=rng).eval()
square = x[:192, :192]
expected = same.forward(square[None])[0]
edge, halo = np.zeros_like(expected), np.zeros_like(expected)
for i in range(0, 192, 64):
    for j in range(0, 192, 64):
        edge[i : i + 64, j : j + 64] = same.forward(square[None, i : i + 64, j : j + 64])[0]
spans = shapes.tile_spans(same.spec, 192, 112)
for r in spans:
    for c in spans:
        y = same.forward(square[None, r.in_start : r.in_stop, c.in_start : c.in_stop])[0]
        halo[r.start : r.stop, c.start : c.stop] = y[r.offset : r.offset + r.stop - r.start, c.offset : c.offset + c.stop - c.start]
error_maps({"64 px, edge to edge": np.abs(edge - expected), "64 px of 112 kept": np.abs(halo - expected)},
           "Maps of the difference between tiles and the whole image for a network with same padding.")  # fmt: skip

# %% [markdown]
# ## Aside: eight views
#
# For its results on EM images the paper averages over seven rotated versions of the image (section 4). The angles are not
# given; the authors' release averages over four mirror images instead. Whoever rotates by other than quarter turns must
# interpolate. Flips and quarter turns move pixels and change none: there are eight of them, the dihedral group of the square.
#
# ## Exercise 3: average
#
# Show `f` the image in all eight ways, turn every answer back, take the mean. `np.rot90(x, k)` turns the first two axes by k
# quarter turns; `x[::-1]` turns an array upside down. Turning back means: undo what was done last, first. The image need not be
# square.

# %% tags=["exercise"]
def average(f, x):
    """f makes (H, W, K) of (H, W, C), for any H and W -> the mean over the eight views of x, turned back: (H, W, K)"""
    ### BEGIN SOLUTION: two flips, four turns each; undo the turn, then the flip
    total = 0
    for flip in (False, True):
        for k in range(4):
            y = f(np.rot90(x[::-1] if flip else x, k))
            y = np.rot90(y, -k)
            total = total + (y[::-1] if flip else y)
    return total / 8
    ### END SOLUTION


# %% tags=["check"]
print(check("14.average", average))
for sample in data[4:]:
    single = tu.predict(model, sample.image)
    mean = average(lambda view: tu.predict_proba(model, view), sample.image).argmax(-1)
    scores = [tu.metrics.iou(tu.metrics.confusion_matrix(labels, sample.labels, 2))[1] for labels in (single, mean)]
    print(f"IoU of one view {scores[0]:.3f}, of the mean of eight {scores[1]:.3f}")

# %% [markdown]
# That is one small network on three images, and it costs eight times as much: look at your own numbers before you pay. In
# tinyunet it is `tu.predict(model, image, average="dihedral8")`.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **"Where is the overlap-tile strategy?"** In most re-implementations nowhere (milesial/Pytorch-UNet issue 145): with same
#   padding and whole images they have no use for it, until the image is too large.
# - **"My result is smaller than my image."** The raw output of a valid network is (jakeret/tf_unet issues 41, 86, 138, 175).
#   Predicting needs the mirrored border.
# - **Seams, and blending them away.** Tiles of a same-padded network without a halo, or blended without dividing by the sum of
#   the weights (Project-MONAI/MONAI issue 298, MIC-DKFZ/nnUNet issue 325, BloodAxe/pytorch-toolbelt issues 23 and 41).
# - **Laying the outputs edge to edge.** With one or two poolings that is right by luck, so a test with a small network does not
#   see it. That crops must be multiples of 2^depth was proved by Rumberger and others at ICCV 2021 (arXiv 2101.05846).
# - **Pushing the last tile back** so that it ends with the image. Then it lies off the grid, unless the image's side happens to
#   suit. Let it reach over the edge instead, into the mirror.
# - **Normalising each tile by itself**, or leaving batch norm in training mode (milesial/Pytorch-UNet issue 31): then what a
#   pixel gets depends on which tile it fell into.
# - **Out of memory** on a large image (jakeret/tf_unet issue 104, lmb-freiburg/Unet-Segmentation issues 24 and 63). Take
#   smaller tiles; the result is the same.
#
# ## Summary
#
# - Inputs overlap, outputs do not; beyond the edge the image is mirrored.
# - Tiles give what the whole image gives if they lie a multiple of 2^depth pixels apart: 384, not 388. Then the difference is
#   rounding.
# - Anything that looks beyond the receptive field breaks it: batch statistics, normalisation by tile. Same padding needs a halo.
# - Take the largest tile that fits into memory: small ones compute margins over and over.
#
# **In the code**: [tinyunet/inference.py](../tinyunet/inference.py), `tile_spans` in
# [tinyunet/shapes.py](../tinyunet/shapes.py), and the properties that hold it to all this,
# [tinyunet/catalogue/tiling.py](../tinyunet/catalogue/tiling.py). **In the paper**: section 1 and figure 2; the last sentence
# of section 2; section 4 for the rotated versions. **Next**: lesson [15](15_cuda.ipynb) takes the convolution to the GPU.
