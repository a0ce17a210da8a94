# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: The weight map, and what each part is good for
#     minutes: 90
#     prerequisites: ["00", "09"]
#     goals:
#     - compute the weight of any pixel by equation 2, by hand and in code
#     - say where the distances are measured to, and what one cell alone gets
#     - open a gap between cells that touch, and balance classes
#     - read an ablation with several seeds, and say what it does not show
# ---

# %% [markdown]
# # 10 The weight map, and what each part is good for
#
# **What you can do afterwards**
#
# - compute the weight of any pixel by equation 2, by hand and in code;
# - say where the distances are measured to, and what one cell alone gets;
# - open a gap between cells that touch, and balance classes;
# - read an ablation with several seeds, and say what it does not show.
#
# **Before this**: lesson [00](00_images_and_masks.ipynb) (instances, SEG) and lesson [09](09_softmax_cross_entropy.ipynb) (the loss, with a weight for every pixel).
# **Time**: 90 minutes.
#
# Section 3 of the paper names the problem: cells of one class that touch. The loss of lesson [09](09_softmax_cross_entropy.ipynb) counts every pixel alike, and the few pixels
# between two cells hardly matter to it. The paper's answer is a weight for every pixel, computed once from the annotation:
#
# $$w(\mathbf x) = w_c(\mathbf x) + w_0 \exp\left(-\frac{(d_1(\mathbf x) + d_2(\mathbf x))^2}{2\sigma^2}\right) \qquad \text{(eq. 2)}$$
#
# $w_c$ balances the classes. $d_1$ is the distance to the nearest cell, $d_2$ that to the second nearest, both in pixels. $w_0 = 10$ and
# $\sigma \approx 5$ pixels are the paper's numbers. For $w_c$ it gives no formula, and for the gap between cells no more than the words
# "morphological operations"; there we have to choose, and say so.

# %% tags=["setup"]
import json
from importlib.resources import files
from time import perf_counter

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.data.weight_map import distances, separate, weight_parts

rng = begin("10")

# %% [markdown]
# ## Four distances make one weight
#
# Here are cells, and one background pixel (green). Two lines lead from it to the nearest pixel of the nearest cell, and to the nearest pixel of
# the second nearest. Their lengths are all that the second term of equation 2 needs. We call it the **border term**.

# %%
cells = np.zeros((36, 64), int)
i, j = np.indices(cells.shape)
cells[(i - 17) ** 2 + (j - 12) ** 2 < 90] = 1
cells[(i - 15) ** 2 + (j - 35) ** 2 < 120] = 2
cells[(i - 26) ** 2 + (j - 56) ** 2 < 40] = 3
show(plot.weight_at(cells, (18, 23)))

# %%
show(plot.weight_at(cells, (30, 42)))

# %% [markdown]
# The first pixel lies in a narrow gap: both distances are small, the term is near $w_0$. The second is not far from a cell, but far from a
# second one: hardly any weight. The term asks for *two* cells at once.
#
# **Measured to where?** The paper says "to the border" of the cell. An array has no border line, only pixels. We measure to the centre of
# the cell's nearest pixel: a pixel right beside a cell has distance 1, a pixel of the cell itself has 0. Others measure to the line between
# the two pixels, half a pixel less. Then $d_1 + d_2$ is one pixel less everywhere, and the term somewhat larger. Both are right; only say
# which it is.
#
# **Predict.** A gap of 4 pixels with straight, parallel sides. Where in it is the border term largest: in the "middle", at the "rim", or is
# it "equal" everywhere?

# %% tags=["predict"]
### BEGIN SOLUTION: "middle", "rim" or "equal"
guess = "equal"
### END SOLUTION

# %%
straight = np.repeat([[1, 1, 1, 0, 0, 0, 0, 2, 2, 2]], 6, axis=0)
d1, d2 = distances(straight, cutoff=30)
print("d1     ", d1[2, 3:7])
print("d2     ", d2[2, 3:7])
print("d1 + d2", (d1 + d2)[2, 3:7])
across = (d1 + d2)[2, 3:7]
predicted(guess, "equal" if np.ptp(across) == 0 else "not equal", "What one distance gains on the way across, the other loses. The term sees how "
          "wide a gap is, not where in it you are. A straight gap of g pixels has d1 + d2 = g + 1.")  # fmt: skip

# %% [markdown]
# ## Exercise 1: d1 and d2
#
# By brute force: for every pixel (i, j) and every cell k, the distance to the *nearest* pixel of that cell,
#
# $$d(i, j, k) = \min_{(r, s)\ \text{in cell}\ k} \sqrt{(i - r)^2 + (j - s)^2}$$
#
# Then d1 is the smallest over all cells k, and d2 the second smallest. Inside a cell d1 is 0. If there is only one cell, d2 is infinite (`np.inf`);
# if there is none, d1 is too. The numbers of the cells need not be 1, 2, 3.

# %% tags=["exercise"]
def two_distances(ids):
    """(H, W) instances, 0 is background -> d1 (H, W), d2 (H, W) in pixels, inf where there is no such cell"""
    ### BEGIN SOLUTION: a map of distances for every cell, then the two smallest at every pixel
    i, j = np.indices(ids.shape)[..., None]
    maps = [np.full(ids.shape, np.inf)] * 2
    for k in np.unique(ids[ids > 0]):
        rows, columns = np.nonzero(ids == k)
        steps = np.sqrt((i - rows) ** 2 + (j - columns) ** 2)  # (H, W, pixels of the cell)
        maps.append(steps.min(axis=-1))
    d1, d2 = np.sort(maps, axis=0)[:2]
    return d1, d2
    ### END SOLUTION


# %% tags=["check"]
check("10.distances", two_distances)

# %% [markdown]
# ## Fast: distance transforms
#
# Brute force measures from every pixel to every pixel of every cell. For a real image that is far too much. A *distance transform* gives the distance
# to the nearest zero of an array, at all pixels, in time proportional to their number. SciPy has one. So: one transform for each cell, and as
# above the two smallest.

# %%
from scipy.ndimage import distance_transform_edt  # noqa: E402

sample = tu.synthetic("phase", 1, 192, rng, cells=14)[0]
ids = sample.instances

began = perf_counter()
transforms = np.sort([distance_transform_edt(ids != k) for k in range(1, ids.max() + 1)], axis=0)
whole = perf_counter() - began
d1, d2 = transforms[:2]

began = perf_counter()
cut1, cut2 = distances(ids, cutoff=32)
print(f"{ids.max()} cells, {ids.size} pixels. A transform of the image for each cell: {1000 * whole:.0f} ms; "
      f"tinyunet's `distances`: {1000 * (perf_counter() - began):.0f} ms")
near = d2 <= 32
print("largest difference of d2 where it is at most 32 pixels:", np.abs(cut2 - d2)[near].max())

# %% [markdown]
# `distances` does the same in the neighbourhood of each cell only. Beyond 32 pixels the border term is below 1e-8, so nobody needs to know
# $d_2$ there; it is set to infinity. The more cells an image has, the more that saves.
#
# ## Exercise 2: the border term
#
# $$w_0 \exp\left(-\frac{(d_1 + d_2)^2}{2\sigma^2}\right) \quad \text{on background}, \qquad 0 \quad \text{on cells}$$
#
# On a pixel of a cell $d_1$ is 0, so that the formula would go on into the cells. The term is there to teach the network the gap, so we count it on
# background only. (Equation 2 does not say it; the authors' later pipeline does the same.) `background` is True there.

# %% tags=["exercise"]
def border_term(d1, d2, background, w0, sigma):
    """d1, d2 (H, W) pixels, background (H, W) bool -> (H, W)"""
    ### BEGIN SOLUTION: the second term of equation 2, and 0 outside of the background
    term = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return np.where(background, term, 0)
    ### END SOLUTION


# %% tags=["check"]
check("10.border", border_term)

# %% [markdown]
# How wide does the term reach? The curve over $d_1 + d_2$, for the paper's $\sigma$ and for two others, and for $\sigma$ that was not squared,
# the commonest slip:

# %%
total = np.linspace(0, 25, 200)
figure = Figure(figsize=(7.5, 2.8), layout="constrained")
ax = figure.subplots()
for sigma, line in ((2.5, ":"), (5, "-"), (10, "--")):
    ax.plot(total, 10 * np.exp(-(total**2) / (2 * sigma**2)), line, color="black", label=f"$\\sigma$ = {sigma:g}")
ax.plot(total, 10 * np.exp(-(total**2) / (2 * 5)), color=plot.base.VERMILION, label="$\\sigma$ = 5, not squared")
ax.plot(3, 10 * np.exp(-9 / 50), "o", color=plot.base.BLUE, label="gap of 2 pixels")
ax.set(xlabel="$d_1 + d_2$ (pixels)", ylabel="border term, $w_0$ = 10")
ax.legend(fontsize=8)
show(figure, "The border term falls from 10 at d1 + d2 = 0 like a bell: with sigma 5 it is 8.35 at 3 pixels, 1.35 at 10 and nothing from 20 on; "
     "with sigma 10 twice as wide; with sigma not squared it is gone at 7.")  # fmt: skip

# %% [markdown]
# **Predict.** An image with one single cell. How large is the border term where it is largest?

# %% tags=["predict"]
### BEGIN SOLUTION: the largest border term around a lone cell
guess = 0
### END SOLUTION

# %%
lone = np.where(cells == 1, 1, 0)
predicted(guess, float(weight_parts(lone).border.max()), "There is no second cell, d2 is infinite, and exp of minus infinity is 0. A map that is bright "
          "around a lone cell has d2 equal to d1.")  # fmt: skip

# %% [markdown]
# ## Exercise 3: balance the classes
#
# $w_c$ is to make up for rare classes. The paper does not say how. **Our choice**: with n pixels, of which $n_k$ have class k, and K classes
# that occur in the labels,
#
# $$w_c(\mathbf x) = \frac{n}{K\, n_k}, \qquad k = \text{the class of } \mathbf x$$
#
# Then all classes have the same weight in sum, and the mean over all pixels is 1: the loss keeps its size, and the learning rate its meaning.
#
# **Predict.** Two classes. Cells fill 10 % of the image. What is $w_c$ on a cell?

# %% tags=["predict"]
### BEGIN SOLUTION: w_c on a cell
guess = 5.0
### END SOLUTION

# %%
tenth = np.zeros((10, 10), int)
tenth[0] = 1
predicted(guess, float(weight_parts(None, tenth).w_c[0, 0]), "n / (K n_k) = 100 / (2 · 10). On background it is 100 / (2 · 90) = 0.56.")

# %% tags=["exercise"]
def class_balance(labels):
    """(H, W) classes, from 0 on; some may not occur -> w_c (H, W)"""
    ### BEGIN SOLUTION: n / (K n_k) at every pixel of class k, for the K classes that occur
    classes = np.unique(labels)
    w_c = np.zeros(labels.shape)
    for k in classes:
        n_k = (labels == k).sum()
        w_c[labels == k] = labels.size / (len(classes) * n_k)
    return w_c
    ### END SOLUTION


# %% tags=["check"]
check("10.balance", class_balance)

# %% [markdown]
# ## Exercise 4: make room
#
# The border term counts on background between two cells. Where cells touch, there is none! So before anything else a gap must be drawn into the
# annotation. The rule here, ours: a pixel of a cell becomes background if among its eight neighbours there is a pixel of **another cell**. Both
# cells give one pixel, and the gap is two pixels wide, whatever the cells' numbers are.
#
# (The authors' later plugin, Falk et al. 2019, goes over the pixels one by one and looks only at neighbours that came before: its gap is one pixel wide
# and taken from the cell that comes later.)

# %% tags=["exercise"]
def separate_cells(ids):
    """(H, W) instances -> (H, W) instances, with 0 where a neighbour (of eight) belongs to another cell; ids is left as it is"""
    ### BEGIN SOLUTION: look at the window of 3 x 3 around every pixel, smaller at the edge of the image
    out = ids.copy()
    height, width = ids.shape
    for i in range(height):
        for j in range(width):
            window = ids[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            if ids[i, j] > 0 and ((window > 0) & (window != ids[i, j])).any():
                out[i, j] = 0
    return out
    ### END SOLUTION


# %% tags=["check"]
check("10.separate", separate_cells)

# %% [markdown]
# ## The whole map
#
# All four steps: open the gaps, in the instances and hence in the labels, measure, balance, add.

# %%
opened = separate(ids)
parts = weight_parts(opened)
touching = weight_parts(ids)
print(f"pixels with a border term above 5: {(touching.border > 5).sum()} as annotated, {(parts.border > 5).sum()} with gaps")
print(f"share of the whole weight that lies in the border term: {parts.border.sum() / parts.w.sum():.0%}, on {(parts.border > 1).mean():.1%} of the pixels")
show(plot.weight_map(sample.image, opened, parts.d1, parts.d2, parts.border, parts.w))

# %% [markdown]
# The ridges run where cells nearly meet, and nowhere else.
#
# # The ablation lab
#
# *Does it help?* The honest way to find out what a part is good for: leave it out, change nothing else, train again, compare. This is called an
# **ablation**. Two rules. First, one run proves nothing: with another seed both numbers change. So take several seeds, and look at the *differences*
# seed by seed, with an interval. Second, choose all settings before you look, and report what comes out.
#
# A tiny one, now: class balance alone, against class balance with border term. Four seeds, a very small network, 80 steps. Each seed has its own images;
# both variants of a seed see the same ones and begin with the same weights.

# %%
def tiny(weight_map, seed):
    """Train for 80 steps -> measures on three images that were held out"""
    data = tu.synthetic("phase", 9, 128, np.random.default_rng(seed), cells=10)
    train, test = data[:6], data[6:]
    model = tu.UNet(tu.preset("paper", base=8, depth=2, norm="batch", dropout=0), rng=seed)
    for _ in tu.fit(model, train, (), tu.TrainConfig(steps=80, tile=44, lr=5e-3, weight_map=weight_map)):
        pass
    found = [tu.instances_of(tu.predict(model, one.image), min_size=40) for one in test]
    scores = tu.evaluate(model, test, min_size=40)
    each = sum(ids.max() for ids in found) / sum(one.instances.max() for one in test)
    seen.append((test[0], found[0]))
    return {"IoU": scores.mean_iou, "SEG": scores.seg, "objects for each cell": each}


seeds = [int(seed) for seed in rng.integers(0, 2**31, 4)]
values, seen = {}, []
for name, weight_map in (("without border term", "balance"), ("with border term", "ronneberger2015")):
    runs = [tiny(weight_map, seed) for seed in seeds]
    values[name] = {measure: [run[measure] for run in runs] for measure in runs[0]}
    print(name, {measure: [round(float(v), 2) for v in found] for measure, found in values[name].items()})
show(plot.ablation(values, width=9))

# %% [markdown]
# And one image of the first seed: the cells, and the objects that the two networks make of them. One image of one seed is something to look at,
# not a result.

# %%
(one, without), (_, with_term) = seen[0], seen[len(seeds)]
colours = ListedColormap(["black", *plot.base.OBJECTS])
figure = Figure(figsize=(9, 2.6), layout="constrained")
axes = figure.subplots(1, 4)
axes[0].imshow(one.image[..., 0], cmap="gray")
for ax, objects in zip(axes[1:], (one.instances, without, with_term)):
    ax.imshow(np.where(objects > 0, (objects - 1) % len(plot.base.OBJECTS) + 1, 0), cmap=colours, vmin=0, vmax=len(plot.base.OBJECTS), interpolation="nearest")
for ax, title in zip(axes, ("image", f"{one.instances.max()} cells", f"without: {without.max()} objects", f"with: {with_term.max()} objects")):
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
show(figure, f"An image with {one.instances.max()} cells, in colours. Without the border term {without.max()} objects were found, with it {with_term.max()}.")

# %% [markdown]
# Each dot is one seed, each diamond the mean with its 95 % interval (Student's t). An interval that holds 0 is drawn hollow: *these runs do not show a
# difference*, which is not the same as showing that there is none. With four seeds only large effects are seen.
#
# Look at the objects: without the border term there are fewer than cells, because cells flow together. With it there are more, mostly more than there
# should be: after 80 steps the network cuts everywhere, and its IoU is lower. Heavy gaps take longer to learn. So here is the same in earnest.
#
# ## Six variants, six seeds
#
# `benchmarks/ablation.py` trains a small network for 200 steps on crowded synthetic cells:
#
# - **no border term**: $w = w_c$; **no weight map**: $w = 1$;
# - **no skips**: the skip's half of every concatenation is set to 0, forward and backward, so that all shapes and first weights stay;
# - **zeros for mirror**: beyond the image the network sees 0, in training and in prediction (lesson [01](01_mirror_padding.ipynb));
# - **same for valid**: every convolution pads with zeros, and the input tile is no larger than its output (lessons [02](02_convolution.ipynb) and [07](07_crop_and_concatenate.ipynb)).
#
# On held-out images it measures IoU, SEG, IoU in a strip of 16 pixels along the edge of the image, and **neighbours told apart**: of all pairs of cells
# that touch, the share that became two objects. All gaps were opened in the training labels of every variant.
#
# **Predict.** Which variant loses most SEG? Write one of: "no border term", "no weight map", "no skips", "zeros for mirror", "same for valid".

# %% tags=["predict"]
### BEGIN SOLUTION: the variant that loses most SEG
guess = "no weight map"
### END SOLUTION

# %%
lab = json.loads((files("tinyunet.course") / "ablation.json").read_text(encoding="utf-8"))
seg = {name: np.mean(found["SEG"]) for name, found in lab.items()}
predicted(guess, min(seg, key=seg.get), ", ".join(f"{name} {value:.3f}" for name, value in seg.items()) + ".")

# %%
show(plot.ablation(lab))

# %%
baseline = lab["baseline"]
for name, found in lab.items():
    print(f"{name:17}", *(f"{measure} {np.mean(v):.3f} ± {plot.t_interval(v).half:.3f}  " for measure, v in found.items()))
worse = [seed for seed, (a, b) in enumerate(zip(baseline["SEG"], lab["no border term"]["SEG"])) if a < b]
print(f"\nneighbours told apart by the baseline, seed by seed: {', '.join(f'{v:.2f}' for v in baseline['neighbours told apart'])}")
print(f"seeds with which the border term *lowers* SEG: {worse or 'none'}")

# %% [markdown]
# How to read it.
#
# - **The border term does what it was made for.** Without it hardly any neighbours are told apart. With it some are, and SEG, which counts objects, is higher.
# - **And it has a price.** The IoU of the pixels is *lower* with it: the network leaves gaps that are wider than needed, and the truth we measure with has no
#   gaps at all. Who needs areas and no counts is better off without. That is no contradiction to the paper, which reports measures of objects.
# - **The class balance alone changes little here**: with $w = 1$ the numbers are those with $w = w_c$. Our cells fill a good part of the image, so no class is rare.
# - **Without skips** the IoU falls, and varies a lot between seeds: outlines must come through the bottom of the U. Its many "neighbours told apart" are no
#   merit. Who cuts everything into pieces tells all neighbours apart; read this measure beside SEG.
# - **Zeros for mirror**: no difference seen, not at the edge either. The network was trained with zeros too, and could learn what they mean. Whoever trains with the
#   one and predicts with the other should expect worse.
# - **Same for valid**: SEG is a little lower, the IoU is not. The strip along the edge does not single itself out. Its tiles also show less of the
#   surroundings, so padding is not all that changed: an ablation can rarely change one thing only.
#
# How much do the seeds differ? Look at the baseline's neighbours told apart. One seed, taken alone, could have "proved" nearly anything. Of twenty
# 95 % intervals about one leaves out 0 by chance, so an interval that only just does is weak evidence. And all of this is one small network, 200 steps and synthetic
# cells; [docs/ablation.md](../docs/ablation.md) has all settings. With more steps the price in IoU may shrink, and with other cells other
# parts may matter.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **d2 equal to d1.** The second nearest *pixel* belongs to the same cell. Then every cell has a bright halo, alone or not. A published solution computed a wrong
#   d2 (neptune-ai/open-solution-mapping-challenge issue 200). Test with a lone cell: no border term.
# - **$\sigma$ not squared.** The ridge is less than half as wide, and nobody sees it in a picture. Test one pixel by hand: $d_1 + d_2 = 3$ gives 8.35.
# - **Distances inside cells.** Without the restriction to background, the rims of cells weigh as much as the gap, and they have the other class.
# - **Dividing by the maximum**, so that weights end at 1. Then an image whose narrowest gap is wide is treated like one whose cells nearly touch.
# - **Labels instead of instances.** In a class mask touching cells are one patch, and no distance transform can part them. Many ask how to get $d_1$ and $d_2$
#   (jakeret/tf_unet issues 70, 171 and 257); the answer begins with masks that number the cells.
# - **No gap.** The border term weighs background. Where cells touch there is none; `separate` first, in the labels too.
# - **Weights on the logits.** The weight multiplies the pixel's loss, not its scores (jakeret/tf_unet issue 8).
# - **Computed anew in every step.** It is slow (JunMa11/SegLossOdyssey issue 42) and the same each time. Compute it once, `cached_weight_map`, and let augmentation move it
#   with the labels.
#
# ## Summary
#
# - $w = w_c + w_0 \exp(-(d_1 + d_2)^2 / 2\sigma^2)$: large where *two* cells are near. A straight gap of g pixels has $d_1 + d_2 = g + 1$.
# - The paper gives $w_0$ and $\sigma$. Where distances end, $w_c$, and the gap between cells are for us to choose and to say.
# - A part is worth what is lost without it: an ablation, over several seeds, with intervals, settings chosen before. "No difference seen" is a result.
#
# **In the code**: [tinyunet/data/weight_map.py](../tinyunet/data/weight_map.py), [tinyunet/plot/ablation.py](../tinyunet/plot/ablation.py),
# [benchmarks/ablation.py](../benchmarks/ablation.py). **In the paper**: section 3, equation 2; figure 3 shows such a map. **Next**: lesson [11](11_the_whole_network.ipynb) puts all
# parts together, the whole network forward and backward.
