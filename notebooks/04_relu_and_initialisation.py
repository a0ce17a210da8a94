# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: ReLU, first weights and dead units
#     minutes: 75
#     prerequisites: ["02", "03"]
#     goals:
#     - write ReLU forward and backward, and say what each layer has to remember
#     - derive the first weights' standard deviation, and measure what happens with another one
#     - find dead units, and say what killed them
# ---

# %% [markdown]
# # 04 ReLU, first weights and dead units
#
# **What you can do afterwards**
#
# - write ReLU forward and backward, and say what each layer has to remember;
# - derive the standard deviation $\sqrt{2/N}$ of the first weights, and measure what happens with another one;
# - find dead units, and say what killed them.
#
# **Before this**: lesson [02](02_convolution.ipynb), and lesson [03](03_convolution_backward.ipynb), convolution backward. **Time**: 75 minutes.
#
# Section 2 of the paper puts a ReLU, a *rectified linear unit*, behind every 3x3 convolution. Section 3 says how the weights are drawn at
# first: from a Gaussian with standard deviation $\sqrt{2/N}$, where N is how many numbers one output adds up; its example is a 3x3
# convolution of 64 channels, $N = 9 \cdot 64 = 576$. It cites He and others for that. The two belong together: the 2 is there because
# of the ReLU.

# %% tags=["setup"]
import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import ops, plot
from tinyunet.course import begin, check, predicted, show
from tinyunet.probe import dead_share, probe

rng = begin("04")

# %% [markdown]
# ## Why anything between two convolutions?
#
# A convolution is linear (but for its bias). Linear after linear is linear: two 3x3 convolutions with nothing between them are one 5x5
# convolution. We can ask them for its kernel: send a single bright pixel through.

# %%
w1, w2 = rng.standard_normal((3, 3, 1, 8)), rng.standard_normal((3, 3, 8, 1))


def two(x):
    """Two convolutions with nothing between, 1 -> 8 -> 1 channels"""
    y, _ = ops.conv2d_forward(x, w1, np.zeros(8))
    return ops.conv2d_forward(y, w2, np.zeros(1))[0]


pixel = np.zeros((1, 9, 9, 1))
pixel[0, 4, 4, 0] = 1
kernel = two(pixel)[0, ::-1, ::-1, 0]  # a kernel meets a pixel with its last tap first, so the answer comes turned
x = rng.standard_normal((1, 12, 12, 1))
one = sum(kernel[r, s] * x[:, r : r + 8, s : s + 8] for r in range(5) for s in range(5))
print(f"72 + 72 weights do what these {kernel.size} do; largest difference {np.abs(two(x) - one).max():.1e}")

# %% [markdown]
# **Predict.** The paper's network has 18 such 3x3 convolutions. Put them in a row with nothing between. They are one convolution, with
# a K x K kernel. What is K?

# %% tags=["predict"]
### BEGIN SOLUTION: K, a whole number
guess = 37
### END SOLUTION

# %%
predicted(guess, 18 * (3 - 1) + 1, "Each adds 2 to the side. Depth alone buys no new function: one layer could do it all.")

# %% [markdown]
# The ReLU stands between, value by value:
#
# $$y = \max(x, 0)$$
#
# Here is what it buys, in the smallest case. A kernel that takes the left pixel from the right one finds edges. Edges from dark to bright come out
# positive, those from bright to dark negative. To find *both*, we want the absolute value of this difference d. No linear filter gives that: its answer to $-x$
# is minus its answer to $x$. Two channels and a ReLU give it.

# %%
image = tu.synthetic("phase", 1, 128, rng)[0].image[None].astype(float)  # (1, 128, 128, 1)
image = (image - image.mean()) / image.std()
difference = image[:, :, 2:] - image[:, :, :-2]
dark_to_bright, bright_to_dark = np.maximum(difference, 0), np.maximum(-difference, 0)
panels = {"image": image, "d: right less left": difference, "relu(d)": dark_to_bright, "relu(-d)": bright_to_dark,
          "relu(d) + relu(-d)": dark_to_bright + bright_to_dark}  # fmt: skip

figure = Figure(figsize=(10, 2.3), layout="constrained")
for ax, (name, values) in zip(figure.subplots(1, 5), panels.items()):
    ax.imshow(values[0, :, :, 0], cmap="gray", vmin=-3 if values.min() < 0 else 0, vmax=3)
    ax.set_title(name, fontsize=9)
    ax.axis("off")
show(figure, "A cell, then the difference of the pixels right and left of each pixel, then edges from dark to bright alone, edges from bright to "
             "dark alone, and the sum of these two, in which the whole outline is bright.")  # fmt: skip
print("the sum is the absolute value:", np.array_equal(dark_to_bright + bright_to_dark, np.abs(difference)))

# %% [markdown]
# ## Backward
#
# The derivative of ReLU is 1 where x is positive, and 0 where it is negative. So the gradient passes, or it does not ($[\,x > 0\,]$ is 1 where
# that is true, else 0):
#
# $$\frac{\partial L}{\partial x} = \frac{\partial L}{\partial y} \cdot [x > 0], \qquad \text{dx = dy where x > 0, else 0}$$
#
# **At x = 0** there is a kink and no derivative. Any number from 0 to 1 would do; everybody takes 0, and so do we. What matters is that it is fixed: two
# implementations that differ in it give two different networks.
#
# **What must forward remember?** Not x: whether it was positive is enough. One bit a value
# would do, where x in float32 takes 32, and tinyunet packs eight of them into a byte. We call it the mask.
#
# **NaN must stay NaN.** Something went wrong further up, and a ReLU that turns it into 0 hides the evidence. Comparisons with NaN are
# all false: `x > 0` is, and `x <= 0` is too.
#
# **Complex numbers.** The complex step of lesson [03](03_convolution_backward.ipynb) sends $x + ih$ through forward, with $h = 10^{-30}$, and finds the derivative in the
# imaginary part. That tiny part must not decide anything: compare `x.real`. For real arrays `x.real` is x itself.
#
# **Predict.** NumPy compares complex numbers by the real part, and where that is equal by the imaginary part. What derivative at x = 0 does the complex step find for
# `np.maximum(x, 0)`?

# %% tags=["predict"]
### BEGIN SOLUTION: the derivative at 0 that np.maximum seems to have
guess = 1
### END SOLUTION

# %%
h = 1e-30
predicted(guess, float(np.maximum(np.array(0 + 1j * h), 0).imag / h), "0 + ih counts as larger than 0, so it passes. Our rule says 0.")

# %% [markdown]
# ## Exercise 1: ReLU, forward and backward

# %% tags=["exercise"]
def relu(x):
    """any shape -> y and the mask, both of the shape of x; NaN stays NaN; complex x are judged by their real part"""
    ### BEGIN SOLUTION: the mask says where x passes; y is x there and 0 elsewhere
    mask = ~(x.real <= 0)
    return np.where(mask, x, 0), mask
    ### END SOLUTION


def relu_back(dy, mask):
    """gradient of y, the mask from forward -> gradient of x"""
    ### BEGIN SOLUTION: let dy pass where x did
    return np.where(mask, dy, 0)
    ### END SOLUTION


# %% tags=["check"]
check("04.relu", relu, relu_back)

# %% [markdown]
# ## One mask for every layer
#
# Behind each convolution stands a ReLU. It has no weights, so why not make one object and use it everywhere? Because of the mask. Backward
# visits the layers in reverse, and each must find the mask of *its own* forward pass. Where two maps have different shapes, a mixed-up mask
# stops the program. Where they have the same shape, and that is so within each level of a network with same padding, nothing stops. The gradient is
# just wrong.
#
# ## Exercise 2: a chain of layers
#
# Take 1x1 convolutions, which need no more than `@`, each followed by a ReLU:
#
# $$h_0 = x, \qquad h_k = \mathrm{relu}(h_{k-1}\, w_k), \qquad y = h_n$$
#
# Write forward and backward for any number of layers. Backward gives dx only. (Going back through $h\,w$ multiplies by $w^T$, `w.T`, as in lesson [03](03_convolution_backward.ipynb). If
# exercise 1 is not done yet, `ops.relu_forward` and `ops.relu_backward` take its place.)

# %% tags=["exercise"]
def chain(x, weights):
    """(N, H, W, C), [(C, C1), (C1, C2), ...] -> y and the masks, whatever chain_back needs of them"""
    ### BEGIN SOLUTION: multiply, take the ReLU, and keep every layer's mask
    masks = []
    for w in weights:
        x, mask = relu(x @ w)
        masks.append(mask)
    return x, masks
    ### END SOLUTION


def chain_back(dy, weights, masks):
    """gradient of y, the same weights, what chain remembered -> gradient of x"""
    ### BEGIN SOLUTION: walk back from the last layer to the first, through the ReLU, then through the weights
    for w, mask in zip(reversed(weights), reversed(masks)):
        dy = relu_back(dy, mask) @ w.T
    return dy
    ### END SOLUTION


# %% tags=["check"]
check("04.chain", chain, chain_back)

# %% [markdown]
# ## How large should the first weights be?
#
# Follow the size of the numbers through a layer. One output of a convolution adds up N products,
#
# $$z = \sum_{k=1}^{N} w_k x_k$$
#
# The weights are drawn independently, with mean 0 and standard deviation $\sigma$. Square, and take the mean over all possible draws: of the mixed products
# $w_k w_l$ nothing remains, of each $w_k^2$ there remains $\sigma^2$. So
#
# $$\overline{z^2} = N \sigma^2\, \overline{x^2}$$
#
# Then comes the ReLU. z is as often positive as negative, and as large.
#
# **Predict.** z is a Gaussian with mean 0 and mean square 1. What is the mean square of relu(z)?

# %% tags=["predict"]
### BEGIN SOLUTION: the mean of relu(z) squared
guess = 0.5
### END SOLUTION

# %%
y = np.maximum(rng.standard_normal(10**6), 0)
print(f"of a million numbers: mean square {np.mean(y**2):.4f}, mean {y.mean():.3f}, variance {y.var():.3f}")
predicted(guess, round(float(np.mean(y**2)), 2), "Half of the squares become 0, the others stay. This needs only that z and -z are equally "
          "likely, no Gaussian.")  # fmt: skip

# %% [markdown]
# Mind which number is halved: the mean square (the *second moment*), not the variance. Behind a ReLU the mean is no longer 0, so the
# two differ; and it is the mean square that enters the next layer's sum. Together:
#
# $$\overline{y^2} = \frac{N \sigma^2}{2}\; \overline{x^2}
# \qquad\Rightarrow\qquad \text{unchanged for}\quad \sigma = \sqrt{\frac{2}{N}}$$
#
# With another $\sigma$ every layer multiplies by the same factor again, and 18 layers make a power of it.
#
# **Predict.** $\sigma = 1$ and N = 576. The root mean square (rms) of the numbers is 1 at the input. After 18 layers it is $10^p$, about. What is p?

# %% tags=["predict"]
### BEGIN SOLUTION: p, a whole number
guess = 22
### END SOLUTION

# %%
factor = np.sqrt(576 / 2)
predicted(guess, round(18 * float(np.log10(factor))), f"Each layer multiplies the rms by the root of 576/2, {factor:.2f}.")

# %% [markdown]
# That was arithmetic. Now we measure: 18 real 3x3 convolutions of 64 channels, each with a ReLU, drawn four times for each of three $\sigma$.
# Then a gradient goes back through the same layers. Each of its numbers reaches 9 x 64 inputs, and the next mask lets half of them through: as there are as many
# channels going in as coming out, the factor is the same.

# %%
def sizes_through(std, layers=18, channels=64):
    """-> rms of the map behind each layer; norm of the gradient there, which is 1 behind the last"""
    x = rng.standard_normal((1, 44, 44, channels)).astype(np.float32)
    no_bias, kept, forward, backward = np.zeros(channels, np.float32), [], [], []
    for _ in range(layers):
        w = (std * rng.standard_normal((3, 3, channels, channels))).astype(np.float32)
        z, conv = ops.conv2d_forward(x, w, no_bias)
        x, gate = ops.relu_forward(z)
        kept.append((conv, gate))
        forward.append(np.sqrt(np.mean(x.astype(float) ** 2)))
    dy = rng.standard_normal(x.shape).astype(np.float32)
    dy /= np.linalg.norm(dy)
    for conv, gate in reversed(kept):
        backward.append(np.sqrt(np.sum(dy.astype(float) ** 2)))
        dy, _, _ = ops.conv2d_backward(ops.relu_backward(dy, gate), conv)
    return forward, backward[::-1]


stds = {"1": 1.0, "sqrt(2/576)": np.sqrt(2 / 576), "0.01": 0.01}
measured = {name: np.array([sizes_through(std) for _ in range(4)]) for name, std in stds.items()}  # (4 draws, 2, 18)

layer = np.arange(1, 19)
figure = Figure(figsize=(9, 3.2), layout="constrained")
axes = figure.subplots(1, 2)
words = "Two logarithmic plots over layers 1 to 18, marks for what is measured, dotted lines for the formula."
for side, (ax, what, power) in enumerate(zip(axes, ("rms of the map", "norm of the gradient"), (layer, 18 - layer))):
    words += f" {what}:"
    for (name, std), color, mark in zip(stds.items(), ("#D55E00", "#0072B2", "#009E73"), "^os"):
        low, high = measured[name][:, side].min(axis=0), measured[name][:, side].max(axis=0)
        ax.semilogy(layer, np.sqrt(288 * std**2) ** power, ":", color="0.4")
        ax.errorbar(layer, low, (0 * low, high - low), fmt=mark, color=color, markersize=4, label=f"std {name}")
        end = 0 if side else -1
        found = f"{low[end]:.1e} to {high[end]:.1e}"
        words += f" with std {name}, {found} behind layer {layer[end]};"
        print(f"{what:20} behind layer {layer[end]:2}, std {name:11}: {found}")
    ax.set(xlabel="layer", ylabel=what, xticks=range(2, 19, 4))
axes[0].legend(fontsize=7)
show(figure, words.rstrip(";") + ".")

# %% [markdown]
# The dotted lines are the formula, the marks are measured; the four draws lie so close together that their bars hide behind the marks. (On this axis. A factor
# of 2 is nothing here.) With $\sqrt{2/N}$ the numbers neither explode nor vanish, forward or backward. They do wander: the formula is about the mean over
# all draws, one network has one draw.
#
# ## Exercise 3: the first weights
#
# For a K x K convolution, N is not always 576. From how many numbers does *one* output add up its sum? Weights are float32, and drawn from the generator `rng` that
# your function is given, so that the same seed gives the same network. `rng.standard_normal(shape)` has standard deviation 1.

# %% tags=["exercise"]
def first_weights(shape, rng):
    """(K, K, C, O), a generator -> weights of that shape, Gaussian with mean 0 and standard deviation sqrt(2 / N), float32"""
    ### BEGIN SOLUTION: count the numbers that one output adds up, and scale
    size, _, c, _ = shape
    std = np.sqrt(2 / (size * size * c))
    return (std * rng.standard_normal(shape)).astype(np.float32)
    ### END SOLUTION


# %% tags=["check"]
print(check("04.weights", first_weights))
own = rng.spawn(1)[0]  # so that what follows does not depend on this cell
print("your standard deviation for the paper's example:", first_weights((3, 3, 64, 64), own).std(), "expected:", np.sqrt(2 / 576))

# %% [markdown]
# Biases are 0 at first. Why not all weights too? Because then all channels of a layer would compute the same, get the same gradient, and stay
# the same for ever. The draw is what makes them differ.
#
# **Predict.** A whole U-Net, four levels deep, all weights drawn with standard deviation 0.01. Its loss compares two classes in every pixel, and is the
# mean of $-\log p$, p being the probability that the network gives to the true class. About what is the loss before training? (Two
# decimals. What comes out at the end of so many small weights, and what does "no idea" between two classes mean for p?)

# %% tags=["predict"]
### BEGIN SOLUTION: the loss before training, two decimals
guess = 0.69
### END SOLUTION

# %%
sample = tu.synthetic("phase", 1, 236, rng)[0]
picture = ((sample.image - sample.image.mean()) / sample.image.std()).astype(np.float32)[None]
labels = sample.labels[None, 92:-92, 92:-92]  # what a network four levels deep gives of 236 pixels: 52
for name in ("sqrt(2/N)", "0.01"):
    found = []
    for _ in range(3):
        model = tu.UNet(tu.preset("paper", base=8, dropout=0), rng=rng)
        for key, value in model.params().items():
            if key.endswith(".w") and name == "0.01":
                value *= 0.01 / value.std()
        with probe(model, "*.relu2") as seen:
            loss, dlogits = tu.train.energy(model.forward(picture), labels, None)
            model.backward(dlogits)
        found.append((loss, np.sqrt(np.mean(seen.y["bottom.relu2"].astype(float) ** 2)), np.linalg.norm(model.grads()["bottom.conv1.w"].astype(float))))
    for what, values in zip(("loss", "rms of the bottom map", "norm of the gradient of bottom.conv1.w"), np.transpose(found)):
        print(f"std {name:9} {what:38} {', '.join(f'{v:.3g}' for v in values)}")
predicted(guess, round(loss, 2), "ln 2: the logits are 0, so both classes get 1/2. The loss looks harmless. It will hardly move: next to "
          "nothing of the image arrives at the bottom, and next to no gradient.")  # fmt: skip

# %% [markdown]
# Three draws each. With $\sqrt{2/N}$ the loss mostly begins above ln 2: the network has opinions, at random. That is soon unlearnt.

# %% [markdown]
# ## Dead units
#
# A ReLU passes no gradient where x is not positive. That is no harm as long as the unit, one channel of one layer, is positive *somewhere*. If it is not,
# at no pixel of any image, then the gradient of its weights is 0. It is dead.
#
# How does that happen? Take a single unit of the second layer: its input are eight channels that have been through a ReLU, so they are not negative. Suppose
# that its output should become smaller: the loss is the mean of y. We make one step of gradient descent, once small and once large.

# %%
layer1, _ = ops.conv2d_forward(image, np.sqrt(2 / 9) * rng.standard_normal((3, 3, 1, 8)), np.zeros(8))
layer1, _ = ops.relu_forward(layer1)


def step(w, b, lr):
    """One step down the mean of y -> weights, bias, norm of the gradient"""
    z, conv = ops.conv2d_forward(layer1, w, b)
    y, gate = ops.relu_forward(z)
    _, dw, db = ops.conv2d_backward(ops.relu_backward(np.full_like(y, 1 / y.size), gate), conv)
    return w - lr * dw, b - lr * db, float(np.sqrt(np.sum(dw**2) + np.sum(db**2)))


w, b = np.sqrt(2 / 72) * rng.standard_normal((3, 3, 8, 1)), np.full(1, 0.5)  # this bias: alive, whatever was drawn
units = {"before": (w, b), "after a step, lr 0.01": step(w, b, 0.01)[:2], "after a step, lr 10": step(w, b, 10)[:2]}

figure = Figure(figsize=(9, 2.4), layout="constrained")
words = "Histograms of z, the input of the ReLU, over the pixels of the image."
for ax, (name, unit) in zip(figure.subplots(1, 3, sharey=True), units.items()):
    z, _ = ops.conv2d_forward(layer1, *unit)
    bin_width = np.ptp(z) / 50
    edges = bin_width * np.arange(np.floor(z.min() / bin_width), np.ceil(z.max() / bin_width) + 1)  # one of them is 0
    _, _, bars = ax.hist(z.ravel(), bins=edges, color="0.7")
    for bar in bars:
        if bar.get_x() > -bin_width / 2:
            bar.set_color("#0072B2")
    ax.axvline(0, color="k", linewidth=1)
    ax.set_title(f"{name}: {100 * (z > 0).mean():.0f} % positive", fontsize=9)
    ax.set_xlabel("z")
    words += f" {name}: from {z.min():.2g} to {z.max():.2g}, {100 * (z > 0).mean():.0f} % positive."
figure.axes[0].set_ylabel("pixels")
show(figure, words)

# %% [markdown]
# Blue passes the ReLU, grey does not. The small step moved the unit a little. The large one pushed the bias down and, because no input is negative, every weight
# as well. No pixel reaches 0 any more.
#
# **Predict.** We now set the learning rate right, and go on training the dead unit. What is the norm of the gradient of its
# weights and bias?

# %% tags=["predict"]
### BEGIN SOLUTION: the norm of the gradient
guess = 0
### END SOLUTION

# %%
predicted(guess, step(*units["after a step, lr 10"], 0.01)[2], "Exactly 0, and so it remains, however long we train. Inside a network its inputs may "
          "still change, and then it may wake up. Do not count on it.")  # fmt: skip

# %% [markdown]
# So the usual killer is a step that is too large.
#
# To find dead units, look: `probe` keeps what leaves the layers whose names fit. A channel counts as dead if it is 0 at every pixel of every image that we
# showed. That is a statement about these images, so show more than one.
#
# ## Exercise 4: dead channels

# %% tags=["exercise"]
def dead_channels(y):
    """(N, H, W, C), the output of a ReLU -> (C,) bool: which channels are 0 at every pixel of every image?"""
    ### BEGIN SOLUTION: is there any value above 0, per channel?
    return ~(y > 0).any(axis=(0, 1, 2))
    ### END SOLUTION


# %% tags=["check"]
print(check("04.dead", dead_channels))
silent = int(dead_channels(seen.y["bottom.relu2"]).sum())
print(f"at the bottom of the U-Net from above, {silent} of 128 channels are 0 on our one image")

# %% [markdown]
# Are those dead? The map at the bottom of that network has 7 x 7 pixels, and we showed one image. Another image may wake them: 49 pixels are too few to say.
#
# Now in training. A small U-Net without batch norm, 20 steps of Adam, three learning rates, each with three seeds. (The learning rates are ours: the paper gives
# none.) Every five steps we count, over all layers, the channels that are dead on two images.

# %%
train = tu.synthetic("phase", 3, 96, rng)
probes = np.concatenate([(s.image[None, :92, :92] - s.image.mean()) / s.image.std() for s in tu.synthetic("phase", 2, 96, rng)])
probes = probes.astype(np.float32)
seeds = [int(seed) for seed in rng.integers(0, 10**6, 3)]


def dead_while_training(lr, seed):
    """-> share of dead channels before training and after every fifth step; shares by layer at the end"""
    net = tu.UNet(tu.preset("paper", base=8, depth=2, dropout=0), rng=seed)

    def look():
        with probe(net, "*relu*") as seen:
            net.forward(probes)
        return seen.y

    def share(maps):
        return float(np.mean(np.concatenate([(y == 0).all(axis=(0, 1, 2)) for y in maps.values()])))

    series = [share(look())]
    config = tu.TrainConfig(steps=20, tile=20, lr=lr, seed=seed, warmup=0, schedule="constant")
    for record in tu.fit(net, train, (), config):
        if record.step % 5 == 0:
            series.append(share(look()))
    return series, {key: dead_share(y) for key, y in look().items()}


rates = (0.001, 0.01, 0.03)
runs = {lr: [dead_while_training(lr, seed) for seed in seeds] for lr in rates}

figure = Figure(figsize=(6, 2.8), layout="constrained")
ax = figure.subplots()
words = "Share of dead channels over 20 steps, three seeds for each learning rate."
for lr, color, line in zip(rates, ("#0072B2", "#E69F00", "#D55E00"), ("-", "--", "-.")):
    for k, (series, _) in enumerate(runs[lr]):
        ax.plot(range(0, 21, 5), series, line, color=color, label=None if k else f"lr {lr}")
    ends = [100 * series[-1] for series, _ in runs[lr]]
    words += f" lr {lr}: at the end {min(ends):.0f} to {max(ends):.0f} %."
    print(f"lr {lr}: {min(ends):.0f} to {max(ends):.0f} % dead after 20 steps")
ax.set(xlabel="step", ylabel="share of dead channels", ylim=(0, 1), xticks=range(0, 21, 5))
ax.legend(fontsize=8)
show(figure, words)

# %% [markdown]
# And where? By layer, for one run at the highest learning rate:

# %%
show(plot.dead_units(runs[0.03][0][1]))

# %% [markdown]
# The first layer fares best: its input, the normalised image, has both signs, and it is hard to turn all outputs negative. Behind it every input is positive
# or 0. And a unit that dies takes from those behind it: they get fewer inputs.
#
# What helps: a smaller learning rate; a warm-up, in which it grows to its
# value (tinyunet's default, 20 steps, is our choice); batch norm (lesson [08](08_batch_norm_and_dropout.ipynb)), which moves every channel so that about half of it is positive again;
# a ReLU that leaks. The authors' later Fiji plugin has one that passes a tenth of what is negative.
#
# Do not mistake zeros for death. At the start about half of all values behind a ReLU are 0. Which half, differs from pixel to pixel; that is the
# nonlinearity at work.

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **One ReLU object for several layers.** Harmless in frameworks that record every call, wrong for layers written by hand that remember a mask: the second forward overwrites the first's. tinyunet
#   knows it as the bug "one_relu_for_two_places": `print(tu.bugs.diff("one_relu_for_two_places"))` after `import tinyunet.bugs`.
# - **A gradient check with ones.** If dy is 1 everywhere, a backward pass that ignores dy looks right. Every softmax test of a course ended in `.sum().backward()`, and planted bugs went
#   unnoticed (TinyTorch pull request 2053). The checks here draw dy at random.
# - **A gradient check at the kink.** At x = 0 finite differences find 1/2, backward says 0, and both are right. Draw values away from 0, and test the
#   convention at 0 by itself. (False alarms of that kind: pytorch issues 114219, 114233 and 114234.)
# - **The variance where the deviation belongs.** `w *= 2 / N` instead of its root: the loss stays at ln 2.
# - **"xavier" in the authors' release.** So the filler is named there, but the file that comes along draws with $\sqrt{2/N}$. For up-convolutions it counts N as four
#   times the *output* channels. One output of a 2x2 up-convolution of stride 2 adds up C numbers, and that is our N.
# - **A ReLU on the logits.** Grey or constant output is a frequent question (zhixuhao/unet issues 84 and 148); a ReLU too many behind the last
#   convolution is one way to it. Where both logits are negative, it says 0 and 0, and no gradient comes back. The paper has none there.
#
# ## Summary
#
# - Without a nonlinearity, 18 convolutions are one. ReLU keeps what is positive; backward passes dy there, and nothing elsewhere, 0 included.
# - Every ReLU remembers a mask of its own.
# - A ReLU halves the mean square, a sum of N products multiplies it by $N\sigma^2$. So $\sigma = \sqrt{2/N}$ keeps it; any other $\sigma$ gives a factor, to the 18th power.
# - A unit that is never positive gets no gradient. Large steps make such units. A probe shows them, the loss does not.
#
# **In the code**: [tinyunet/ops/relu.py](../tinyunet/ops/relu.py), [tinyunet/init.py](../tinyunet/init.py), the layer in
# [tinyunet/layers.py](../tinyunet/layers.py), [tinyunet/probe.py](../tinyunet/probe.py), and what a ReLU must keep in
# [tinyunet/catalogue/relu.py](../tinyunet/catalogue/relu.py). **In the paper**: section 2 (the layers), section 3 (first weights, and the work of He and others
# that it cites). **Next**: lesson [05](05_max_pooling.ipynb) makes maps smaller.
