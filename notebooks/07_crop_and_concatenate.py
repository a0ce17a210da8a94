# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Crop and concatenate
#     minutes: 90
#     prerequisites: ["02", "05", "06"]
#     goals:
#     - say for any image size what comes out of a U-Net, and which sizes fit
#     - write the crop, the concatenation, and the backward pass of both
#     - follow the gradients of pooling and skip back to where they meet, and measure them
# ---

# %% [markdown]
# # 07 Crop and concatenate
#
# **What you can do afterwards**
#
# - say for any image size what comes out of a U-Net, and which sizes fit;
# - write the crop, the concatenation, and the backward pass of both;
# - follow the gradients of pooling and skip back to where they meet, and measure them.
#
# **Before this**: lessons [02](02_convolution.ipynb), [05](05_max_pooling.ipynb) and [06](06_up_convolution.ipynb). **Time**: 90 minutes.
#
# Section 2 of the paper: after each up-convolution comes a concatenation with the correspondingly cropped feature map from the contracting
# path. The crop is needed, it says, because every convolution loses border pixels. "Correspondingly cropped" is quickly said, and makes
# much trouble: why 572 becomes 388, and why sizes do not match, is what people ask most about U-Net code.

# %% tags=["setup"]
import numpy as np

import tinyunet as tu
import tinyunet.bugs
from tinyunet import ops, plot, shapes
from tinyunet.check import numerical_grad
from tinyunet.course import begin, check, predicted, show
from tinyunet.probe import probe, skip_shares

rng = begin("07")
paper = tu.preset("paper")

# %% [markdown]
# ## The picture
#
# Figure 1 of the paper, drawn to scale: one unit is one pixel on every level. Blue maps go down, orange ones come up. The skips go straight
# across, and the dashed rectangle on a blue map is what is kept of it.

# %%
show(plot.draw_unet(paper, 572))

# %% [markdown]
# ## From 572 to 388
#
# Three layers change the size n of a map, and each is simple:
#
# | layer | what becomes of n |
# | --- | --- |
# | 3x3 convolution, unpadded | n - 2 |
# | 2x2 max-pooling | n / 2; n must be even |
# | 2x2 up-convolution | 2 n |
#
# A concatenation changes the channels, not the size. Each level of the way down is conv, conv, pool. At the bottom: conv, conv. Each level of
# the way up is up-conv, concatenate, conv, conv. That is all; `tinyunet.shapes` walks along the list of layers and does this sum.

# %%
line = ["572"]
for step in shapes.trace(paper, 572):
    if step.layer.kind in ("conv3x3", "pool", "upconv"):
        line.append(f"{step.out_size[0]}")
    if step.layer.kind == "pool" or step.layer.name in ("bottom.relu2", "up.3.relu2", "up.2.relu2", "up.1.relu2", "up.0.relu2"):
        print(f"{step.layer.name.rpartition('.')[0]:8}", " -> ".join(line))
        line = line[-1:]

# %% [markdown]
# **Predict.** The electron microscope images of the paper have 512 x 512 pixels. Does such an image fit a network of depth 4? Walk down: write
# the first size that is pooled though it is odd, or 0 if there is none.

# %% tags=["predict"]
### BEGIN SOLUTION: an odd size, or 0
guess = 121
### END SOLUTION

# %%
try:
    shapes.check_size(paper, 512, 512)
except tu.errors.ShapeError as error:
    print(error)
predicted(guess, 121, "512, 508, 254, 250, 125, 121: the third pooling meets an odd map. The message names the sizes that fit; the paper only "
          "says that all poolings must see even sizes.")  # fmt: skip

# %% [markdown]
# ## Exercise 1: what comes out?
#
# Write the sum for any n and any depth. A size that does not fit gives 0: if a pooling meets an odd map, or if a convolution would leave less
# than one pixel.

# %% tags=["exercise"]
def output_size(n, depth):
    """image side n, number of poolings -> side of the output, 0 if n does not fit"""
    ### BEGIN SOLUTION: down (conv, conv, pool), bottom (conv, conv), up (up-conv, conv, conv); 0 as soon as something does not fit
    for _ in range(depth):
        n = n - 4
        if n < 1 or n % 2 == 1:
            return 0
        n = n // 2
    n = n - 4
    if n < 1:
        return 0
    for _ in range(depth):
        n = 2 * n - 4
        if n < 1:
            return 0
    return n
    ### END SOLUTION


# %% tags=["check"]
print(check("07.size", output_size))
for depth in (1, 2, 3, 4):
    fitting = [n for n in range(1, 640) if output_size(n, depth)]
    print(f"depth {depth}: {fitting[0]}, {fitting[1]}, {fitting[2]}, ..., {fitting[-1]}; "
          f"the output is {fitting[0] - output_size(fitting[0], depth)} smaller")  # fmt: skip

# %% [markdown]
# Let a be the size that enters the bottom level, and go back up the list. With D poolings,
#
# $$\text{in} = 2^D a + 4\,(2^D - 1) \qquad \text{out} = \text{in} - (12 \cdot 2^D - 8)$$
#
# For D = 4: in = 16 a + 60 and out = in - 184. Something is left for a of 8 and more. So the legal sizes are 188, 204, 220, ...: **188 + 16 k**,
# with outputs 4 + 16 k. 572 is 188 + 16 x 24, and nothing else is special about it. Height and width are independent of each other.
#
# The 184 pixels are missing for a reason: around the output there are 92 pixels on each side that the network must see to judge it.
# Lesson [01](01_mirror_padding.ipynb) says where they come from at the edge of an image.
#
# ## How much is cropped
#
# At the same level, the map on the way down is larger than the one that comes up. By how much is again a matter of counting, from the bottom
# up. Between pooling and up-convolution of the last level lie two convolutions. They take 2 pixels from each side, and the
# up-convolution makes 4 of these 2. So at level 3, 64 meets 56: 4 pixels are cropped on each side.
#
# One level higher, the same 4 count twice: 8. Two convolutions before the pooling and two after the concatenation of the level below have taken
# 4 more from each side, which count twice as well: 8. Together 16. Each level's crop is twice the crop below, plus 8.
#
# **Predict.** Go on: 4, 16, ... up to the 88 of the picture. And one step beyond it: with *five* poolings, how many pixels are cropped on each side at level 0?

# %% tags=["predict"]
### BEGIN SOLUTION: pixels on each side
guess = 2 * 88 + 8
### END SOLUTION

# %%
joins = [step for step in shapes.trace(paper, 572) if step.crop]
for step in joins:
    size = step.out_size[0]
    print(f"level {step.layer.level}: a skip of {size + step.crop.top + step.crop.bottom} meets {size}: {step.crop.top} pixels off on each side")
deeper = paper.but(depth=5)
*_, last = (step for step in shapes.trace(deeper, shapes.smallest_size(deeper)) if step.crop)
predicted(guess, last.crop.top, "4, 16, 40, 88, 184: each twice the one below, plus 8.")

# %% [markdown]
# Here are the maps of a small untrained network of depth 3, and what is kept of each.

# %%
image = tu.synthetic("dic", 1, 188, rng)[0].image[None].astype(np.float32)
image = (image - image.mean()) / image.std()
model = tu.UNet(tu.preset("paper", base=8, depth=3, dropout=0), rng=rng).eval()
with probe(model, "down.*.relu2", "up.*.upconv") as seen:
    model.forward(image)
kept = {}
for k in range(3):
    m = seen.y[f"down.{k}.relu2"][0]
    m = m[..., m.std(axis=(0, 1)).argmax()]  # the channel that varies most
    kept[f"level {k}"] = ((m / np.percentile(m[m > 0], 95)).clip(0, 1), seen.y[f"up.{k}.upconv"].shape[1:3])
show(plot.crops(kept))

# %% [markdown]
# ## Why the centre
#
# A concatenation puts two numbers side by side that shall speak of the same place. To see which places meet, send *coordinates* through the
# network: an image in which each pixel holds its own row. To keep the coordinates legible, take the mildest layer of each kind: a convolution
# that copies its middle pixel, a pooling that takes the mean, an up-convolution that repeats. What comes up is then the row of the input that
# each pixel speaks of; what waits on the skip is the same, sharper.

# %%
def convs(ramp):
    """two 3x3 convolutions that copy the middle pixel: two rows fewer on each side"""
    return ramp[2:-2]


skips, up = [], np.arange(572.0)  # one column of the image is enough
for _ in range(4):
    skips.append(convs(up))
    up = convs(up).reshape(-1, 2).mean(axis=1)
up = convs(up)
for level in (3, 2, 1, 0):
    up, skip = up.repeat(2), skips[level]
    cut = len(skip) - len(up)
    centre, corner, late = (skip[top : top + len(up)] for top in (cut // 2, 0, cut // 2 + 1))
    print(f"level {level}, rows of the input: centre crop off by {(centre - up).mean():+.0f} on average, "
          f"one pixel too late {(late - up).mean():+.0f}, corner crop {(corner - up).mean():+.0f}")  # fmt: skip
    up = convs(centre)
print(f"the output speaks of the rows {up[0]:.0f} to {up[-1]:.0f} of the 572")

# %% [markdown]
# The centre crop is right on average to the pixel, at every level. One pixel too late is one pixel off at level 0, and 8 pixels of the input at
# level 3. A crop at the corner is off by 32 pixels of the input at level 3, and by 88 at level 0: the network gets sharp detail of some other
# place.
#
# ## Exercise 2: crop
#
# The crop must work for any size, with height and width apart, for a difference of 0, and for an odd one. (In a U-Net of the paper's kind the
# difference is always even. Others are not so lucky.) Of an odd difference, the extra pixel is cut at the bottom or right: `top` is the
# difference divided by 2, rounded down.

# %% tags=["exercise"]
def center_crop(skip, height, width):
    """(N, A, B, C) -> (N, height, width, C), the centre of skip"""
    ### BEGIN SOLUTION: find the first row and the first column; cut from there, height rows and width columns
    top = (skip.shape[1] - height) // 2
    left = (skip.shape[2] - width) // 2
    return skip[:, top : top + height, left : left + width]
    ### END SOLUTION


# %% tags=["check"]
check("07.crop", center_crop)

# %% [markdown]
# ## Exercise 3: concatenate
#
# Now lay the two side by side, along the channels. The paper does not say which comes first. The authors' release has the up path first, then the skip,
# and so do we. Both orders learn equally well; but weights trained with one are wrong for the other.

# %% tags=["exercise"]
def crop_concat(up, skip):
    """(N, H, W, C_up), (N, A, B, C_skip) -> (N, H, W, C_up + C_skip): up first, then the centre of skip"""
    ### BEGIN SOLUTION: crop the skip to the size of up, and join along the last axis
    return np.concatenate((up, center_crop(skip, up.shape[1], up.shape[2])), axis=3)
    ### END SOLUTION


# %% tags=["check"]
check("07.concat", crop_concat)

# %% [markdown]
# ## Back: split, and pad with zeros
#
# Each number of y is a copy of one number of up or of skip. So the gradient of that number is a copy as well. Those of the first C_up channels belong to
# up. The others belong to the centre of the skip. The border that was cut off had no influence on y, and its gradient is 0:
#
# $$dup = dy_{\ldots,\,:C_{up}} \qquad dskip = \begin{cases} dy_{\ldots,\,C_{up}:} & \text{inside the window} \\ 0 & \text{on the border} \end{cases}$$
#
# The adjoint of a crop is padding with zeros, just as the adjoint of padding with zeros is a crop.
#
# **Predict.** At level 0 of the paper's network: which share of the 568 x 568 pixels of the skip gets no gradient from the concatenation? A number from 0
# to 1.

# %% tags=["predict"]
### BEGIN SOLUTION: the share without a gradient, 0 to 1
guess = 1 - 392**2 / 568**2
### END SOLUTION

# %%
joined, ctx = ops.crop_concat_forward(np.zeros((1, 392, 392, 1), np.float32), np.zeros((1, 568, 568, 1), np.float32))
_, border = ops.crop_concat_backward(np.ones_like(joined), ctx)
predicted(guess, float((border == 0).mean()), "Less than half of the map is used, (392/568)^2 or 48 %. The border still learns something: through the pooling "
          "and the bottom of the U.")  # fmt: skip

# %% [markdown]
# ## Exercise 4: split
#
# `up_shape` and `skip_shape` are the shapes of the two arrays of the forward pass: all that backward needs to know.

# %% tags=["exercise"]
def crop_concat_backward(dy, up_shape, skip_shape):
    """(N, H, W, C_up + C_skip) -> dup of up_shape, dskip of skip_shape"""
    ### BEGIN SOLUTION: dup is the first channels; dskip is zeros, with the other channels in its centre
    _, height, width, c_up = up_shape
    top = (skip_shape[1] - height) // 2
    left = (skip_shape[2] - width) // 2
    dskip = np.zeros(skip_shape, dy.dtype)
    dskip[:, top : top + height, left : left + width] = dy[..., c_up:]
    return dy[..., :c_up].copy(), dskip
    ### END SOLUTION


# %% tags=["check"]
print(check("07.split", crop_concat_backward))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
dy = own.standard_normal((1, 20, 20, 2))
dup, dskip = crop_concat_backward(dy, (1, 20, 20, 1), (1, 36, 36, 1))
show(plot.maps({"dy": dy, "dup": dup, "dskip": dskip}, width=4))

# %% [markdown]
# ## Two roads from one map
#
# The map s at the end of a level goes two ways: into the pooling and down, and across. Here is the smallest network with such a fork, one
# level and no ReLU:
#
#     s -+-> max-pooling -> 3x3 convolution -> up-convolution -> up -+-> concatenate -> y
#        +------------------------- skip ----------------------------+

# %%
def smallest_u(s, w1, b1, w2, b2):
    """y, and the contexts of the four layers in the order of the forward pass"""
    p, pooled = ops.max_pool_forward(s)
    q, convolved = ops.conv2d_forward(p, w1, b1)
    up, raised = ops.upconv_forward(q, w2, b2)
    y, joined = ops.crop_concat_forward(up, s)
    return y, (pooled, convolved, raised, joined)


s = (rng.permutation(160) / 40 - 2).reshape(1, 8, 10, 2)  # all different, so that no pooling has a tie
weights = [rng.standard_normal(shape) for shape in ((3, 3, 2, 3), (3,), (2, 2, 2, 3), (2,))]
y, _ = smallest_u(s, *weights)
dy = rng.standard_normal(y.shape)
print("s", s.shape, "  y", y.shape)

# %% [markdown]
# A loss changes by <dy, y' - y> when y becomes y'. We nudge one pixel of s and measure. To tell the two roads apart, we cut them: once only the
# pooling gets the nudged map, once only the skip, once both.
#
# **Predict.** The pixel's nudge changes the loss by some slope A through the pooling alone, and by B through the skip alone. By how much if both get it?
# Write "mean", "larger" or "sum".

# %% tags=["predict"]
### BEGIN SOLUTION: "mean", "larger" or "sum"
guess = "sum"
### END SOLUTION

# %%
def slope(below, across, eps=1e-5):
    """By how much <dy, y> changes with the pixel that won its pooling window, where that goes below, across, or both"""
    window = s[0, 4:6, 4:6, 0]
    i, j = np.unravel_index(window.argmax(), (2, 2))
    values = []
    for sign in (1, -1):
        moved = s.copy()
        moved[0, 4 + i, 4 + j, 0] += sign * eps
        up = smallest_u(moved if below else s, *weights)[0][..., :2]  # the first channels of y come from below
        skip = smallest_u(moved if across else s, *weights)[0][..., 2:]  # the last ones from the skip
        values.append(np.sum(np.concatenate((up, skip), axis=3) * dy))
    return (values[0] - values[1]) / (2 * eps)


a, b, both = slope(True, False), slope(False, True), slope(True, True)
print(f"through the pooling {a:+.6f}   through the skip {b:+.6f}   through both {both:+.6f}")
closest = min({"mean": (a + b) / 2, "larger": max(a, b), "sum": a + b}.items(), key=lambda rule: abs(rule[1] - both))[0]
predicted(guess, closest, "The loss is a function of two arguments that happen to be the same map. The chain rule takes the derivative by each and adds them.")

# %% [markdown]
# In general: **where a map is used twice, its gradients add.** Where the forward pass copies, the backward pass sums; copy and sum are each other's
# adjoint. In tinyunet it is one line of `UNet.backward`: `dx += dskips.pop()`.
#
# ## Exercise 5: back through the fork
#
# Write the backward pass of `smallest_u` by the ops: `ops.crop_concat_backward(dy, joined)` gives dup and dskip;
# `ops.upconv_backward(dup, raised)` and `ops.conv2d_backward(dq, convolved)` give three gradients each, of which you need the first;
# `ops.max_pool_backward(dp, pooled)` gives one.

# %% tags=["exercise"]
def fork_backward(dy, pooled, convolved, raised, joined):
    """the gradient of y, and the four contexts -> ds, the gradient of s"""
    ### BEGIN SOLUTION: back through the concatenation, then down one road; add what came by the other
    dup, dskip = ops.crop_concat_backward(dy, joined)
    dq, _, _ = ops.upconv_backward(dup, raised)
    dp, _, _ = ops.conv2d_backward(dq, convolved)
    from_below = ops.max_pool_backward(dp, pooled)
    return from_below + dskip
    ### END SOLUTION


# %% tags=["check"]
print(check("07.fork", fork_backward))
measured = numerical_grad(smallest_u, {"s": s, "w1": weights[0], "b1": weights[1], "w2": weights[2], "b2": weights[3]}, dy)["s"]
print("largest difference to the measured gradient:", np.abs(fork_backward(dy, *smallest_u(s, *weights)[1]) - measured).max())

# %% [markdown]
# ## What comes through the skips
#
# Now a whole network, of depth 3. At each fork we measure the norm of the gradient that comes through the skip, and of that which comes from
# below, through the pooling. Eight untrained networks, each with its own weights, noise for an image, and a random gradient at the output.

# %%
def gradients(model, image):
    """What arrives at every layer for a random gradient of the output"""
    with probe(model, "*.relu2", "*.pool", "*.concat") as seen:
        y = model.forward(image)
        model.backward(rng.standard_normal(y.shape).astype(np.float32))
    return seen


shares = []
for _ in range(8):
    model = tu.UNet(tu.preset("paper", base=8, depth=3, dropout=0), rng=rng)
    seen = gradients(model, rng.standard_normal((1, 108, 108, 1)).astype(np.float32))
    shares.append({k: skip / (skip + below) for k, (skip, below) in skip_shares(model, seen).items()})
for k in range(3):
    at_k = [share[k] for share in shares]
    print(f"level {k}: {100 * np.mean(at_k):.0f} % of the two norms come through the skip ({100 * min(at_k):.0f} to {100 * max(at_k):.0f} % in 8 networks)")
norms = {name: norm for name, norm in tu.probe.gradient_norms(seen).items() if name.endswith("relu2")}
show(plot.gradient_flow(norms, skip_shares(model, seen)))

# %% [markdown]
# The figure shows the last of the eight networks. The road across is short: from the fork of level 0 to the output it passes two convolutions and the head;
# the road below passes the whole network. Both carry gradients of the same order. So the first levels learn from both, and the skip's part is direct:
# each pixel of the output answers to the pixels around the same place.
#
# In the forward direction the roles are clear from what they hold. Here are the channels that meet at level 0 of a network trained for 80 steps: the
# up path's first, then the skip's.

# %%
data = tu.synthetic("phase", 7, 128, rng, cells=6)
trained = tu.UNet(tu.preset("paper", base=8, depth=2, norm="batch", dropout=0), rng=rng)
for _ in tu.fit(trained, data[:6], (), tu.TrainConfig(steps=80, tile=60, lr=3e-3)):
    pass
new = data[6].image[None, :124, :124].astype(np.float32)
new = (new - new.mean()) / new.std()
with probe(trained.eval(), "up.0.concat") as seen:
    trained.forward(new)
y = seen.y["up.0.concat"][:, 10:-10, 10:-10]
y = y / (np.percentile(np.abs(y), 97, axis=(0, 1, 2)) + 1e-6)  # every channel on a scale of its own, without its few largest values
y = y.clip(-1, 1)
show(plot.maps({"from below": y[..., :8], "through the skip": y[..., 8:]}, channels=5))

# %% [markdown]
# From below comes what has seen a wide surrounding, and every 2 x 2 block of it was painted by a single pixel (the pattern is that of lesson [06](06_up_convolution.ipynb)).
# Through the skip comes what is sharp to the pixel, and has seen 5 x 5 pixels of the image. The two convolutions behind the concatenation combine
# them.
#
# ## A bug that nobody sees
#
# A much-used library passed no gradient through its skips at all (jakeret/tf_unet issue 7). `tinyunet.bugs` can plant that into our code, and the crop
# at the corner as well. We train with each, from the same weights and on the same tiles, three times.
#
# **Predict.** Does a network whose skips get no gradient still learn? Write "yes" if its loss falls in all three runs, "no" if not.

# %% tags=["predict"]
### BEGIN SOLUTION: "yes" or "no"
guess = "yes"
### END SOLUTION

# %%
def train(seed):
    """Mean loss of the first and of the last ten of 50 steps"""
    model = tu.UNet(tu.preset("paper", base=8, depth=2, norm="batch", dropout=0), rng=seed)
    losses = [record.loss for record in tu.fit(model, data[:6], (), tu.TrainConfig(steps=50, tile=60, lr=3e-3))]
    return np.mean(losses[:10]), np.mean(losses[-10:])


seeds = [int(seed) for seed in rng.integers(0, 2**31, 3)]
runs = {"right": [train(seed) for seed in seeds]}
for bug in ("skip_gets_no_gradient", "crop_at_the_corner"):
    with tu.bugs.plant(bug):
        runs[bug] = [train(seed) for seed in seeds]
for name, losses in runs.items():
    print(f"{name:22}", "   ".join(f"{first:.2f} -> {last:.2f}" for first, last in losses))
ends = {name: np.array([last for _, last in losses]) for name, losses in runs.items()}
print(f"right runs differ from one another by up to {np.ptp(ends['right']):.2f}")
for bug in ("skip_gets_no_gradient", "crop_at_the_corner"):
    print(f"{bug} changes a run by {np.abs(ends[bug] - ends['right']).mean():.2f}, on average of the three")
learns = all(last < first for first, last in runs["skip_gets_no_gradient"])
predicted(guess, "yes" if learns else "no", "Compare the columns: the same weights and tiles, with and without the bug.")

# %% [markdown]
# In runs as short as these the missing gradient changes less than luck does. The up path and the bottom learn as ever, the first levels still learn from below,
# and what they send across is useful even so. The damage grows with training and with depth; but who has no right run beside the wrong one sees a
# falling curve, and is content.
#
# That is why the checks of this lesson do not ask whether a network learns. They ask whether <dy, y> changes as backward says. We ask so of a
# whole network too, along a random direction of one layer's weights.

# %%
small = tu.UNet(tu.preset("paper", base=2, depth=2, dropout=0), rng=rng).astype("float64")
x = rng.standard_normal((1, 44, 44, 1))
dy = rng.standard_normal(small.forward(x).shape)
w = small.down[0].block.layers[0].params["w"]
direction = rng.standard_normal(w.shape)


def loss_at(eps):
    w[...] += eps * direction
    value = np.sum(small.forward(x) * dy)
    w[...] -= eps * direction
    return value


measured = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6


def by_backward():
    small.zero_grad()
    small.forward(x)
    small.backward(dy)
    return np.sum(small.grads()["down.0.conv1.w"] * direction)


print(f"measured              {measured:+.6f}")
print(f"our backward          {by_backward():+.6f}")
with tu.bugs.plant("skip_gets_no_gradient"):
    print(f"skip without gradient {by_backward():+.6f}")

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **Any size goes in.** It does not: an odd map at some pooling, and the concatenation fails, or worse, a row is dropped silently
#   (milesial/Pytorch-UNet issues 17 and 32, qubvel-org/segmentation_models.pytorch issue 57). Check the size before the first convolution, and say
#   which sizes fit. tinyunet's `predict` takes any size: it mirrors and tiles (lesson [14](14_overlap_tile.ipynb)).
# - **No gradient through the skip.** jakeret/tf_unet issue 7. The network learns all the same.
# - **Rows and columns exchanged, or an odd difference.** Right for square images, and for no others (hayashimasa/UNet-PyTorch issue 3).
# - **`skip[:, k:-k, k:-k]`.** For k = 0 it is empty: a network with valid convolutions works, the same code with "same" padding does not
#   (jakeret/tf_unet issue 211). Write start and stop.
# - **Magic offsets.** Numbers such as 92, typed into the code, hold for 3x3 kernels, two convolutions a level, and one depth (jakeret/tf_unet issues 39 and
#   235). Derive them from the list of layers.
# - **Adding instead of concatenating.** Some lectures draw the skip as an addition. That is another kind of network. In a U-Net forward concatenates; it is the
#   *gradients* at the fork that add.
# - **Cropping the wrong map**, or padding the small one instead. Zeros are then taken for image. Which map is to be cropped is asked
#   often (lmb-freiburg/Unet-Segmentation issue 78, of a Keras port): the one from the contracting path, the left one.
#
# ## Summary
#
# - n - 2 for a convolution, n/2 for a pooling, 2n for an up-convolution. At depth 4: 188 + 16 k goes in, 184 less comes out.
# - The crops are 4, 16, 40, 88 pixels on each side, from the deepest level to the first: twice the one below, plus 8.
# - The crop keeps the centre, since there skip and up path speak of the same place.
# - Backward splits the channels, and pads the skip's part with zeros. At the fork the gradients of both roads add.
# - A network whose skips are wrong learns all the same. Only a check finds it.
#
# **In the code**: [tinyunet/ops/crop.py](../tinyunet/ops/crop.py), [tinyunet/shapes.py](../tinyunet/shapes.py), and `forward` and `backward` in
# [tinyunet/unet.py](../tinyunet/unet.py). **In the paper**: section 2, and the grey arrows of figure 1. **Next**: lesson
# [08](08_batch_norm_and_dropout.ipynb) adds two layers, one of which the paper does not have.
