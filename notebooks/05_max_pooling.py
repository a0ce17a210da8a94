# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Max-pooling and ties
#     minutes: 60
#     prerequisites: ["02", "04"]
#     goals:
#     - write max-pooling forward and backward, as a scatter and as a gather
#     - say what happens at ties, at a NaN and at odd sizes, and why it must be fixed
#     - measure what pooling loses, and how much it cares about a shift
# ---

# %% [markdown]
# # 05 Max-pooling and ties
#
# **What you can do afterwards**
#
# - write max-pooling forward and backward, as a scatter and as a gather;
# - say what happens at ties, at a NaN and at odd sizes, and why it must be fixed;
# - measure what pooling loses, and how much it cares about a shift.
#
# **Before this**: lesson [02](02_convolution.ipynb) and lesson [04](04_relu_and_initialisation.ipynb). **Time**: 60 minutes.
#
# On the way down, section 2 of the paper ends each level with a 2x2 max-pooling of stride 2: of every four pixels the largest is kept. Rows and columns
# are halved, four times over. The last sentences of the section ask for something in return: tiles must be of such a size that every pooling meets an
# even number of rows and columns. This lesson says why.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import ops, plot
from tinyunet.bugs import plant
from tinyunet.course import begin, check, predicted, show
from tinyunet.probe import probe

rng = begin("05")

# %% [markdown]
# ## The largest of four
#
# $$y_{n,i,j,c} = \max_{a,\,b\, \in \{0, 1\}} x_{n,\,2i+a,\,2j+b,\,c}$$
#
# The windows do not overlap. Every channel is pooled by itself. There is nothing to learn: no weights.

# %%
x = rng.permutation(np.arange(-20.0, 28)).reshape(1, 6, 8, 1)
show(plot.pool_pixel(x, at=(0, 1, 2, 0)))

# %% [markdown]
# **Predict.** The four pixels of a window are -3, -1, -2, -5. What is y?

# %% tags=["predict"]
### BEGIN SOLUTION: y of this window
guess = -1
### END SOLUTION

# %%
window = np.array([-3.0, -1, -2, -5]).reshape(1, 2, 2, 1)
predicted(guess, float(ops.max_pool_forward(window)[0].item()), "The largest of the four, and nothing else. A search that starts from 0 would say 0; behind a ReLU "
          "nobody would notice, elsewhere it is wrong.")  # fmt: skip

# %% [markdown]
# ## What must be fixed before we write it
#
# **Which pixel won?** Backward will need it. We number the four places of a window in row-major order:
#
# | place | row a | column b |
# | --- | --- | --- |
# | 0 | 0 | 0 |
# | 1 | 0 | 1 |
# | 2 | 1 | 0 |
# | 3 | 1 | 1 |
#
# One byte an output is all that has to be remembered. The input would be 16: four pixels in float32.
#
# **Ties.** Of equal values, the first wins, in this order. NumPy's `argmax` has the same rule.
#
# **NaN.** A NaN wins over every number. If it lost, as it does in `if rival > largest`, an overflow further up would go unnoticed.
#
# **Odd sizes.** With 5 rows there is a row too many. Many frameworks drop it silently. Let us see where that leads.
#
# **Predict.** A map of 35 rows is pooled three times, and an odd row is dropped each time. On the way up it is doubled three times. How many rows
# does it have then?

# %% tags=["predict"]
### BEGIN SOLUTION: the number of rows after three halvings and three doublings
guess = 32
### END SOLUTION

# %%
rows = [35, 35 // 2, 35 // 2 // 2, 35 // 2 // 2 // 2]
predicted(guess, rows[-1] * 8, f"{' -> '.join(map(str, rows))}, then back. Three rows are missing. The skip from the first level still has 35, so the two do not fit; "
          "and if one cuts the skip to fit, at which end were the rows lost?")  # fmt: skip

# %% [markdown]
# Nor is a dropped row harmless by itself: nothing below the pooling ever sees it, and no gradient comes back to it. So tinyunet refuses odd sizes, and says
# so where it happens. In the paper's network each level first loses 4 rows to its two convolutions, then is halved:

# %%
for start in (570, 571, 572, 573, 588):
    size, story = start, f"{start}:"
    for _ in range(4):
        story += f" {size} - 4 = {size - 4}"
        if size % 2:
            story += " is odd!"
            break
        size = (size - 4) // 2
        story += f", halved {size};"
    else:
        story += " fits"
    print(story)

# %% [markdown]
# 572 is the paper's tile. The next one that fits is 16 = 2 x 2 x 2 x 2 further on. Lesson [07](07_crop_and_concatenate.ipynb) has more about that.
#
# ## Exercise 1: forward
#
# `x[:, a::2, b::2]` is place (a, b) of all windows at once. For an odd height or width, raise a ValueError whose text has the size in it, as in "5x4".

# %% tags=["exercise"]
def pool(x):
    """(N, H, W, C) -> y (N, H/2, W/2, C), and the winner of each window, of the same shape: 0, 1, 2 or 3"""
    _, height, width, _ = x.shape
    ### BEGIN SOLUTION: refuse odd sizes, lay the four places on top of each other, take the largest and its place
    if height % 2 or width % 2:
        raise ValueError(f"a {height}x{width} map is odd: pad it or crop it")
    four = np.stack([x[:, 0::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2], x[:, 1::2, 1::2]])
    return four.max(axis=0), four.argmax(axis=0)
    ### END SOLUTION


# %% tags=["check"]
check("05.pool", pool)

# %% [markdown]
# ## Backward: to the winner
#
# Change a pixel that lost by a little, and y stays. Change the winner, and y changes by as much. So the winner gets dy, the others get 0:

# %%
show(plot.pool_pixel(x, at=(0, 1, 2, 0), dy=7))

# %% [markdown]
# **Predict.** The four pixels of a window are equal, and dy is 7. What is dx at the four places, in row-major order?

# %% tags=["predict"]
### BEGIN SOLUTION: four numbers
guess = (7, 0, 0, 0)
### END SOLUTION

# %%
y, ctx = ops.max_pool_forward(np.full((1, 2, 2, 1), 2.0))
dx = ops.max_pool_backward(np.full((1, 1, 1, 1), 7.0), ctx)
predicted(guess, tuple(dx.ravel().tolist()), "The first of equal values has won. The sum of dx over a window is dy, ties or not.")

# %% [markdown]
# There are two ways to write this, and the difference returns in lesson [15](15_cuda.ipynb) on the GPU.
#
# - **Scatter**: begin with zeros. Every *output* looks up its winner, and sends its dy there.
# - **Gather**: every *input* pixel asks its window "was it me?", and takes dy or 0.
#
# Forward is a gather by nature: each output reads four inputs.
#
# ## Exercise 2: backward as a scatter
#
# Whole arrays of indices work: `dx[m, rows, columns, k] = dy` writes each dy to its own place. `np.indices(dy.shape)` gives you the four
# coordinates of all outputs.

# %% tags=["exercise"]
def pool_scatter(dy, winner):
    """(N, H/2, W/2, C), winners 0 to 3 of the same shape -> dx (N, H, W, C)"""
    ### BEGIN SOLUTION: zeros; then every output sends its dy to row 2i + a, column 2j + b of its winner
    n, height, width, c = dy.shape
    dx = np.zeros((n, 2 * height, 2 * width, c), dy.dtype)
    m, i, j, k = np.indices(dy.shape)
    dx[m, 2 * i + winner // 2, 2 * j + winner % 2, k] = dy
    return dx
    ### END SOLUTION


# %% tags=["check"]
check("05.scatter", pool_scatter)

# %% [markdown]
# Why gather? A scatter needs the zeros first, so that most of dx is written twice. On a GPU thousands of threads write at once; with a gather each
# owns one pixel of dx and nobody gets in anyone's way. (With windows that overlap, 3x3 with stride 2, two outputs may send to the same pixel. A scatter must then
# add, and threads must take turns.)
#
# Programs that care for speed also hand out memory that has been used before. What is in it is garbage. A gather writes each pixel once, so it
# needs no zeros.
#
# ## Exercise 3: backward as a gather
#
# Here `dx` is given to you, full of garbage. Fill it, with no zeros written beforehand: for each of the four places, all input pixels there take dy or 0.

# %% tags=["exercise"]
def pool_gather(dy, winner, dx):
    """(N, H/2, W/2, C), winners 0 to 3 of the same shape, dx (N, H, W, C) to be written -> nothing"""
    ### BEGIN SOLUTION: the pixels of each place ask whether it was them
    for place in range(4):
        a, b = divmod(place, 2)
        dx[:, a::2, b::2] = np.where(winner == place, dy, 0)
    ### END SOLUTION


# %% tags=["check"]
check("05.gather", pool_gather)

# %% [markdown]
# ## Ties in real images
#
# Two random numbers are hardly ever equal. Pixels are: they are whole numbers, and images have flat parts. We count the windows in which the largest value
# occurs more than once, in one 8-bit image, and in an untrained U-Net that looks at it.

# %%
def largest(x):
    return ops.max_pool_forward(x)[0]


def tied(x):
    """-> for each window, whether its largest value occurs more than once"""
    return sum((x[:, a::2, b::2] == largest(x)).astype(int) for a in (0, 1) for b in (0, 1)) > 1


def normalised(image):
    return ((image - image.mean()) / image.std()).astype(np.float32)[None]


def look(image, model):
    """Count ties in an image and in what the network makes of it"""
    with probe(model, "down.*.conv2", "down.*.relu2") as seen:
        model.forward(normalised(image))
    for name, values in {"image": image[None].astype(float), **seen.y}.items():
        zero = largest(values) == 0
        of_zeros, others = np.mean(tied(values) & zero), np.mean(tied(values) & ~zero)
        print(f"{name:13} ties of zeros {100 * of_zeros:5.1f} %, other ties {100 * others:5.2f} %")


image = tu.synthetic("phase", 1, 188, rng)[0].image
models = [tu.UNet(tu.preset("paper", base=8, depth=2, dropout=0), rng=rng) for _ in range(3)]
look(image, models[0])

# %% [markdown]
# Two kinds of ties. In the image itself, neighbours of the same grey. And behind a ReLU, windows of four zeros: a good part of all windows.
#
# So it must matter a great deal what we do at ties? A frequent mistake gives the *whole* dy to *each* of the equal pixels. In a window of
# zeros that is four times as much gradient as there should be. tinyunet has a registry of such bugs; inside `with plant(...)` it has the bug. We run the
# network backward with and without it.
#
# **Predict.** By how much, relatively, does the bug change the gradients of the contracting path's weights? (0.5 would mean: by half of their size.)

# %% tags=["predict"]
### BEGIN SOLUTION: the relative change of the gradients
guess = 0
### END SOLUTION

# %%
def gradients(model, image):
    """-> all gradients of the contracting path in one row, for a random gradient of the logits"""
    model.zero_grad()
    logits = model.forward(normalised(image))
    model.backward(np.random.default_rng(5).standard_normal(logits.shape).astype(np.float32) / logits.size)
    return np.concatenate([dw.ravel() for name, dw in model.grads().items() if name.startswith("down")]).astype(float)


def change(image, bug):
    """-> |wrong - right| / |right| for each of the three networks"""
    found = []
    for model in models:
        right = gradients(model, image)
        with plant(bug):
            found.append(float(np.linalg.norm(gradients(model, image) - right) / np.linalg.norm(right)))
    return found


predicted(guess, max(change(image, "ties_to_all")), "That is the largest of three networks. Before the pooling stands a ReLU. A pixel that is 0 behind it was not "
          "positive before it, so its mask is shut: whatever gradient arrives goes no further. In a tie of zeros all four are shut.")  # fmt: skip

# %% [markdown]
# Had you expected that? Behind a ReLU the ties of zeros take care of themselves, as long as relu'(0) = 0. A test that trains a network
# on such images will not find the bug. What remains are ties of *positive* values, and they come from flat images. Microscopists make them: subtract the
# background, and cut off what is negative. Then all empty parts are exactly 0, and a 3x3 window gives the same sum wherever it sees nothing else.

# %%
flat = np.clip(image.astype(float) - np.quantile(image, 0.6), 0, None).astype(np.uint8)
print(f"{100 * np.mean(flat == 0):.0f} % of the pixels are 0 now")
look(flat, models[0])
for bug in ("ties_to_all", "ties_to_the_last"):
    print(f"{bug + ':':17} gradients change by {', '.join(f'{c:.3f}' for c in change(flat, bug))} of their size, in three networks")

figure = Figure(figsize=(8, 2.8), layout="constrained")
for ax, (name, picture) in zip(figure.subplots(1, 3), {"image": image, "background cut off": flat}.items()):
    ax.imshow(np.sqrt(picture[..., 0]), cmap="gray")  # the root shows dark parts, too
    ax.set_title(f"{name} (square root)", fontsize=9)
with probe(models[0], "down.0.relu2") as seen:
    models[0].forward(normalised(flat))
y = seen.y["down.0.relu2"]
positive = (tied(y) & (largest(y) > 0))[0].sum(axis=-1)
counts = figure.axes[2].imshow(positive, cmap="gray")
figure.axes[2].set_title("channels with a tie that is not of zeros", fontsize=9)
figure.colorbar(counts, ax=figure.axes[2], ticks=range(positive.max() + 1), shrink=0.8)
for ax in figure.axes[:3]:
    ax.set(xticks=[], yticks=[])
show(figure, f"An image, the same with its background cut off to 0, and for each window of the first pooling in how many of 8 channels it has a tie that is not of "
             f"zeros: up to {positive.max()}, all in parts that are 0 now.")  # fmt: skip

# %% [markdown]
# Now the bug shows, and how much depends on the network. The other line is the rule "the last wins". It changes nothing here: pixels that are tied because all around
# them is flat have the same neighbourhood, so the weights get the same gradient from either. Then why insist on the first? Because it is the *one* answer: two
# programs, or a processor and a GPU, can be compared number by number, and a test can demand it.
#
# ## What pooling loses, and what it gives
#
# y says how large the largest pixel is, and no longer where it was. After four poolings, "somewhere within 16 x 16 pixels" is all that is known. That
# is why the network has skips: they bring the positions back (lesson [07](07_crop_and_concatenate.ipynb)). In return, the maps get small and the
# layers below see far: one step down there is two steps up here.
#
# **Predict.** A line, one pixel wide and 1 bright, on black. It is halved three times by taking the *mean* of four. How bright is it then?

# %% tags=["predict"]
### BEGIN SOLUTION: the brightness of the line after three mean-poolings
guess = 0.125
### END SOLUTION

# %%
def mean(x):
    n, height, width, c = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, c).mean(axis=(2, 4))


def every_second(x):
    return x[:, ::2, ::2]


ways = {"max": largest, "mean": mean, "every second": every_second}
line = np.zeros((1, 64, 64, 1))
line[0, :, 21] = 1
cell = tu.synthetic("phase", 1, 64, rng)[0].image[None].astype(float)
scene = np.concatenate([line, (cell - cell.min()) / (cell.max() - cell.min())], axis=3)
rows = {"before": scene}
for name, halve in ways.items():
    rows[f"3 x {name}"] = halve(halve(halve(scene)))
figure = Figure(figsize=(8, 4), layout="constrained")
axes = figure.subplots(2, 4)
for column, (name, maps) in enumerate(rows.items()):
    for channel in (0, 1):
        axes[channel, column].imshow(maps[0, :, :, channel], cmap="gray", vmin=0, vmax=1)
        axes[channel, column].set(xticks=[], yticks=[])
    axes[0, column].set_title(f"{name}, {maps.shape[1]} x {maps.shape[2]}", fontsize=9)
brightest = ", ".join(f"{name} {maps[..., 0].max():.3g}" for name, maps in rows.items())
show(figure, f"A bright line and a cell with a dark outline, before and after three halvings. Brightness of the line: {brightest}. The outline of the cell is "
             "wiped out by max, pale after mean, in pieces where every second pixel was taken.")  # fmt: skip
predicted(guess, float(rows["3 x mean"][..., 0].max()), f"One column of eight. Max keeps {rows['3 x max'][..., 0].max():g}, a thin membrane survives; taking every second pixel "
          f"keeps {rows['3 x every second'][..., 0].max():g}, by luck of the column.")  # fmt: skip

# %% [markdown]
# Max keeps what is thin and *bright*. What is thin and dark it wipes out; it is for the convolution before it to turn dark membranes into large numbers.
#
# It is often said that pooling makes a network invariant to shifts. Let us measure. Eight random filters and a ReLU give maps of an image. Pool
# them; shift them by s pixels and pool again. How much has changed? We divide by the difference between two maps that have nothing to do with each
# other, so that 1 means "another image".
#
# **Predict.** Halved three times. Which one changes least if the image moves by one pixel: "max", "mean", or "every second"?

# %% tags=["predict"]
### BEGIN SOLUTION: "max", "mean" or "every second"
guess = "mean"
### END SOLUTION

# %%
def changed(halve, times, shift, features):
    """-> rms of the change by a shift, relative to that between unrelated maps, which is sqrt(2) standard deviations"""
    a, b = features[:, :160, :160], features[:, shift : 160 + shift, :160]
    for _ in range(times):
        a, b = halve(a), halve(b)
    return float(np.sqrt(np.mean((a - b) ** 2) / (2 * a.var(axis=(0, 1, 2)).mean())))


def random_features(kind):
    x = normalised(tu.synthetic(kind, 1, 180, rng)[0].image).astype(float)
    z, _ = ops.conv2d_forward(x, np.sqrt(2 / 9) * rng.standard_normal((3, 3, 1, 8)), np.zeros(8))
    return ops.relu_forward(z)[0]


images = [random_features(kind) for kind in ("phase", "dic", "em") for _ in range(2)]
figure = Figure(figsize=(9, 2.8), layout="constrained")
words = "Relative change by a shift of 1 to 8 pixels, mean of six images, for three ways of halving."
for times, ax in zip((1, 2, 3), figure.subplots(1, 3, sharey=True)):
    for (name, halve), mark, color in zip(ways.items(), "o^s", ("#0072B2", "#E69F00", "#D55E00")):
        curve = [np.mean([changed(halve, times, s, f) for f in images]) for s in range(9)]
        ax.plot(range(9), curve, mark + "-", color=color, label=name, markersize=4)
        words += f" Halved {times} times, {name}: {curve[1]:.2f} for 1 pixel, {curve[8]:.2f} for 8."
    ax.set(xlabel="shift in pixels", title=f"halved {times} x", ylim=(0, 1.1))
    ax.title.set_fontsize(9)
ax.legend(fontsize=7)
figure.axes[0].set_ylabel("relative change")
show(figure, words)
by_one = {name: np.mean([changed(halve, 3, 1, f) for f in images]) for name, halve in ways.items()}
least = min(by_one, key=by_one.get)
predicted(guess, least, f"After three halvings: {', '.join(f'{name} {value:.2f}' for name, value in by_one.items())}. Not 0 for any.")

# %% [markdown]
# So a pooled map is *less sensitive* to a small shift than a thinned one, and the more so the oftener it was pooled. Invariant it is not. And the maximum
# has no monopoly on it.
#
# One thing holds exactly, for all three: a shift by 2 pixels before is a shift by 1 behind, by $2^k$ before it is 1 behind k poolings.

# %%
before, after = largest(images[0][:, :160]), largest(images[0][:, 2:162])
print("shifted by 2, then pooled, is pooled, then shifted by 1:", np.array_equal(before[:, 1:], after[:, :-1]))

# %% [markdown]
# Lesson [14](14_overlap_tile.ipynb) lives on that: tiles whose places differ by a multiple of 16 see the same grid of windows.
#
# ## A contrast: the mean of four
#
# Max-pooling picks; which pixel it picks, depends on x. Average-pooling is linear: y is x times a fixed matrix A, and going back is to multiply by its
# transpose. As in lesson [01](01_mirror_padding.ipynb), the transpose, or *adjoint*, is known by this, for any x and dy:
#
# $$\langle A x,\; dy \rangle = \langle x,\; A^T dy \rangle$$
#
# where the brackets multiply two arrays entry by entry and add everything up. No formula for the backward pass is needed to check it.
#
# ## Exercise 4: average-pooling, and its adjoint

# %% tags=["exercise"]
def mean_pool(x):
    """(N, H, W, C) with even H and W -> (N, H/2, W/2, C), the mean of each window"""
    ### BEGIN SOLUTION: add the four places, divide
    return (x[:, 0::2, 0::2] + x[:, 0::2, 1::2] + x[:, 1::2, 0::2] + x[:, 1::2, 1::2]) / 4
    ### END SOLUTION


def mean_pool_back(dy):
    """(N, H/2, W/2, C) -> (N, H, W, C), the adjoint; x is not needed"""
    ### BEGIN SOLUTION: each pixel of a window has its share in y, so it gets that share of dy
    return (dy / 4).repeat(2, axis=1).repeat(2, axis=2)
    ### END SOLUTION


# %% tags=["check"]
print(check("05.mean", mean_pool, mean_pool_back))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
u, v = own.standard_normal((1, 6, 8, 2)), own.standard_normal((1, 3, 4, 2))
print("<A x, dy> =", np.sum(mean_pool(u) * v), " <x, A' dy> =", np.sum(u * mean_pool_back(v)))

# %% [markdown]
# Why, then, max? The paper does not argue for it; it was the custom of its time. Others halve with means, or with convolutions of stride 2.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **All ties get the gradient.** As in riccardoandreoni0/CNN-from-scratch issue 1, and trained networks did not tell. Test with whole numbers, 0 and 1: ties
#   everywhere. The sum of dx over a window is dy.
# - **Right shape, wrong pixels.** HIPS/autograd pull request 245 mended a max-pooling whose gradient had the right shape and wrong content. A network still learns
#   with it. Convergence is no test.
# - **Finite differences at a tie.** They move the largest value whichever pixel they raise, and find dy at several places. The formula is right, the check is not at
#   home there. Draw values that are all different.
# - **Odd sizes.** The most asked question of all: "sizes of tensors must match" at the concatenation, far from the pooling that dropped the row
#   (milesial/Pytorch-UNet issues 17 and 32, meetps/pytorch-semseg issues 43 and 87).
# - **Backward into used memory.** Pooling backward added to memory that nobody had set to zero, or left pixels unwritten (executorch issues 21686 and
#   21878, burn issue 5308). In a test by itself it went unnoticed, as fresh memory is zero. Fill it with garbage first, as exercise 3 does.
# - **Changing what one was given.** An average-pooling backward that divides `dy` in place (DeZero). Someone else may need it.
#
# ## Summary
#
# - Max-pooling keeps the largest of four and remembers its place, one byte an output. Backward gives dy to that place.
# - Scatter: outputs send. Gather: inputs ask. Same numbers; a gather writes every pixel once.
# - First of equal values, NaN over all, no odd sizes: fixed, so that it can be tested. Ties of zeros behind a ReLU do no harm, ties of flat images do.
# - Pooling forgets where; it is less sensitive to shifts, not invariant. Shifts by two commute with it exactly.
#
# **In the code**: [tinyunet/ops/pool.py](../tinyunet/ops/pool.py), what it must keep in [tinyunet/catalogue/pool.py](../tinyunet/catalogue/pool.py), and the
# bugs of the registry in [tinyunet/bugs/layers.py](../tinyunet/bugs/layers.py). **In the paper**: section 2, the contracting path, and the sentence on even sizes at
# its end; figure 1. **Next**: lesson [06](06_up_convolution.ipynb) makes maps larger again.
