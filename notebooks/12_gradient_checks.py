# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: "Gradient checks: a clinic"
#     minutes: 105
#     prerequisites: ["03", "04", "05", "08", "09"]
#     goals:
#     - write a numerical gradient, and choose its step
#     - write a directional check and an adjoint check, and say what a gradient of ones would hide from them
#     - say which mistakes no gradient check can see, and write the test that sees them
# ---

# %% [markdown]
# # 12 Gradient checks: a clinic
#
# **What you can do afterwards**
#
# - write a numerical gradient, and choose its step;
# - write a directional check and an adjoint check, and say what a gradient of ones would hide from them;
# - say which mistakes no gradient check can see, and write the test that sees them.
#
# **Before this**: lessons [03](03_convolution_backward.ipynb) (the complex step), [04](04_relu_and_initialisation.ipynb) (ReLU), [05](05_max_pooling.ipynb) (max-pooling),
# [08](08_batch_norm_and_dropout.ipynb) (batch norm) and [09](09_softmax_cross_entropy.ipynb) (the loss). **Time**: 105 minutes.
#
# Section 3 of the paper trains with the gradients of a library, Caffe. Ours are written by hand. How do we know that they are right? The same
# section has a lesson for us: its eq. 1, as printed, lacks a minus sign. Whoever programs that formula and its derivative gets a network that
# learns to be wrong, and every gradient check passes. We shall see why, and what helps.
#
# A clinic needs patients. `tinyunet.bugs` has them: bugs that can be planted into the running library, and taken out again.

# %% tags=["setup"]
from contextlib import nullcontext

import numpy as np
from matplotlib.figure import Figure

import tinyunet as tu
from tinyunet import ops
from tinyunet.bugs import BUGS, diff, plant
from tinyunet.catalogue import CATALOGUE, Draw, check_own, check_property
from tinyunet.catalogue.laws import spaced
from tinyunet.check import check_adjoint, check_complex_step, check_grad, numerical_grad
from tinyunet.course import begin, check, predicted, show
from tinyunet.errors import CheckError
from tinyunet.probe import probe

rng = begin("12")

# %% [markdown]
# ## "But the loss goes down"
#
# Four small networks, alike but for one line. The first is right. In the second, max-pooling sends each gradient to the wrong one of the four pixels.
# In the third, convolutions send theirs back through a kernel that is not turned. In the fourth, no gradient comes back through the skips. Each is trained three times, 40 steps, on the same images
# and from the same first weights.

# %%
wrong = ("pool_gradient_misplaced", "dx_with_unflipped_kernel", "skip_gets_no_gradient")
for name in wrong:
    print(f"{name}: {BUGS[name].says}\n")
print(diff("skip_gets_no_gradient"))

# %% [markdown]
# **Predict.** In how many of the three wrong networks is the loss at the end lower than at the start, in all three runs?

# %% tags=["predict"]
### BEGIN SOLUTION: 0, 1, 2 or 3
guess = 3
### END SOLUTION

# %%
train = tu.synthetic("phase", 4, 64, rng, cells=3)
seeds = [int(s) for s in rng.integers(0, 10**6, 3)]
settings = {"steps": 40, "tile": 28, "lr": 5e-3, "weight_map": "none", "augment": tu.Augment.none(), "schedule": "constant"}
losses = {}
for name in ("right", *wrong):
    runs = []
    for seed in seeds:
        model = tu.UNet(tu.preset("paper", base=6, depth=1, dropout=0, norm="batch"), rng=seed)
        with plant(name) if name != "right" else nullcontext():
            runs.append([record.loss for record in tu.fit(model, train, (), tu.TrainConfig(seed=seed, **settings))])
    losses[name] = np.array(runs)  # (3 runs, 40 steps)

figure = Figure(figsize=(8, 2.9), layout="constrained")
ax = figure.subplots()
for (name, runs), style in zip(losses.items(), ("k-", "-", "--", ":")):
    smooth = np.array([np.convolve(run, np.ones(8) / 8, "valid") for run in runs])
    ax.plot(np.arange(8, 41), smooth.mean(axis=0), style, label=name)
ax.set(xlabel="step", ylabel="loss, mean of 3 runs")
ax.legend(fontsize=8)
last = {name: runs[:, -10:].mean(axis=1) for name, runs in losses.items()}
show(figure, "Loss of four networks over 40 steps. In the last ten steps: " + "; ".join(f"{name} {low.min():.2f} to {low.max():.2f}" for name, low in last.items()) + ".")
fell = sum(bool((losses[name][:, -10:].mean(axis=1) < losses[name][:, :5].mean(axis=1)).all()) for name in wrong)
predicted(guess, fell, "Something in the gradient still points downhill, and a network is forgiving. A falling loss proves nothing.")

# %% [markdown]
# ## Differences
#
# So ask the forward pass, which knows the slope. Move one number v by e, to both sides, and see what the loss f does:
#
# $$dv \approx \frac{f(v + e) - f(v - e)}{2e}$$
#
# How large is e? Two errors pull in opposite directions. Taylor's series says that the difference is off by $e^2 f'''/6$: the even terms cancel
# because we step to *both* sides, one-sided differences are off by $e f''/2$. And numbers in the computer are rounded: f is known to a relative u, about
# $10^{-16}$ in float64 and $6\cdot 10^{-8}$ in float32. Two nearly equal numbers are subtracted and the rest is divided by 2e, so the rounding grows to about $u/e$. Together, leaving out constants:
#
# $$\text{error}(e) = e^2 + \frac{u}{e}$$
#
# **Predict.** At which e is this sum least, with $u = 10^{-16}$? (Where its derivative is 0.)

# %% tags=["predict"]
### BEGIN SOLUTION: e
guess = (1e-16 / 2) ** (1 / 3)
### END SOLUTION

# %%
predicted(guess, (1e-16 / 2) ** (1 / 3), "The cube root of u/2. So 1e-5 is a good step in float64, with an error near 1e-10. In float32 the best step is 3e-3, and the error there 1e-5.")

# %% [markdown]
# The curve of error against step is a U as well. Here it is, measured, for batch norm, which is smooth: the slope of $L = \langle dy, y \rangle$ when x moves along a random direction.

# %%
x, gamma, beta = rng.standard_normal((2, 5, 6, 3)), rng.uniform(0.5, 1.5, 3), rng.standard_normal(3)
y, ctx = ops.batch_norm_forward(x, gamma, beta)
dy, u = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
true = np.sum(ops.batch_norm_backward(dy, ctx)[0] * u)


def slope_loss(x):
    """<dy, batch norm of x>, in the precision of x"""
    y, _ = ops.batch_norm_forward(x, gamma.astype(x.dtype), beta.astype(x.dtype))
    return np.sum(dy.astype(x.dtype) * y)


steps = 10.0 ** np.arange(0, -13, -0.5)
small = x.astype(np.float32), u.astype(np.float32)
curves = {
    "one-sided, float64": [(slope_loss(x + e * u) - slope_loss(x)) / e for e in steps],
    "both sides, float64": [(slope_loss(x + e * u) - slope_loss(x - e * u)) / (2 * e) for e in steps],
    "both sides, float32": [(slope_loss(small[0] + np.float32(e) * small[1]) - slope_loss(small[0] - np.float32(e) * small[1])) / (2 * e) for e in steps],
    "complex step": [slope_loss(x + 1j * e * u).imag / e for e in steps],
}
error = {name: np.maximum(np.abs(np.array(found) / true - 1), 1e-17) for name, found in curves.items()}
figure = Figure(figsize=(8, 3.3), layout="constrained")
ax = figure.subplots()
for (name, found), mark in zip(error.items(), ("^-", "o-", "s-", "x-")):
    ax.loglog(steps, found, mark, markersize=4, label=name)
ax.loglog(steps, steps, ":", color="0.5", label="e, and e squared")
ax.loglog(steps[steps > 1e-8], steps[steps > 1e-8] ** 2, ":", color="0.5")
ax.set(xlabel="step e", ylabel="relative error", ylim=(1e-17, 30))
ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
show(figure, "Relative error of a slope against the step e. " + "; ".join(f"{name}: least {found.min():.0e} at e = {steps[found.argmin()]:.0e}" for name, found in error.items()) + ".")

# %% [markdown]
# Read it from the right, where the step is large. Along the dotted lines theory rules, until rounding takes over and the curve climbs again. One-sided differences lose half of the digits. **float32 leaves five digits at best**,
# and at the step that suits float64 none: gradient checks are done in float64. The complex step of lesson [03](03_convolution_backward.ipynb) begins along e squared as well, but it subtracts nothing: no rounding brings it up again, and any tiny step will do.
#
# ## Exercise 1: the whole gradient
#
# Entry by entry, whatever the shape of v. (`np.ndindex(v.shape)` gives all indices; `v[i]` takes such an index.)

# %% tags=["exercise"]
def numerical_gradient(f, v, e):
    """f takes an array and gives a number; v an array, e the step -> dv, of the shape of v; v is left as it was"""
    ### BEGIN SOLUTION: for every entry, two calls of f, with that entry moved by e and by -e
    dv = np.zeros(v.shape)
    for i in np.ndindex(v.shape):
        step = np.zeros(v.shape)
        step[i] = e
        dv[i] = (f(v + step) - f(v - step)) / (2 * e)
    return dv
    ### END SOLUTION


# %% tags=["check"]
print(check("12.numeric", numerical_gradient))
print("batch norm, largest difference to its backward pass:", np.abs(numerical_gradient(slope_loss, x, 1e-5) - ops.batch_norm_backward(dy, ctx)[0]).max())

# %% [markdown]
# **Predict.** The paper's network has 31,030,658 parameters. How many forward passes does this function make for their gradient?

# %% tags=["predict"]
### BEGIN SOLUTION: forward passes
guess = 2 * 31_030_658
### END SOLUTION

# %%
count = 2 * tu.shapes.count_params(tu.preset("paper"))
predicted(guess, count, f"At a second each, that is {count / 3600 / 24 / 365:.1f} years. One backward pass takes as long as two forward passes.")

# %% [markdown]
# ## One direction is enough
#
# Move all entries at once, along a random direction u. The slope of the loss along u must be the gradient's part along u:
#
# $$\langle dv, u \rangle = \frac{f(v + e\,u) - f(v - e\,u)}{2e}$$
#
# That is one number for a whole array, and two forward passes. Can one number tell? If dv has an error $\delta$, the two sides differ by $\langle \delta, u \rangle$. For a random u that is practically never 0. Its typical
# size is the norm of $\delta$. So measure the gap by the norm of dv: an error of one percent shows as one percent.
#
# But a layer gives an array y, and no loss. Any loss will do: choose an array dy, and let $L = \langle dy, y \rangle$. Then dy is the gradient of y, which backward is handed.
#
# **Predict.** Many tests choose $L = \sum y$, in other words `y.sum().backward()`. This makes dy = 1 everywhere. Take batch norm in training. What is the largest entry of |dx|?

# %% tags=["predict"]
### BEGIN SOLUTION: the largest |dx|
guess = 0
### END SOLUTION

# %%
dx, _, _ = ops.batch_norm_backward(np.ones(y.shape), ctx)
predicted(guess, float(np.abs(dx).max()), "Each channel of y has the mean beta, whatever x is. So the sum of y does not depend on x, and a backward pass that returns zeros, or forgets a term, passes. "
          "It is the same with softmax, whose outputs add up to 1.")

# %% [markdown]
# So **dy is random. Always.** And so is u: with u = 1 only the sum of dx is tested, and max-pooling that hits the wrong pixel has the right sum. Parameters are random, too: gamma = 1, beta = 0 and b = 0, which every new
# network has, hide whatever forgets them.
#
# ## Exercise 2: a directional check
#
# Your check gets an op, and its arguments as a list. `backward(dy, ctx)` returns a tuple, one gradient for each argument. For each argument v compute
#
# $$\text{gap} = \frac{|\langle dv, u\rangle - s|}{\max(\|dv\|, |s|)}, \qquad s = \Big\langle dy, \frac{f(v + e\,u) - f(v - e\,u)}{2e} \Big\rangle$$
#
# with the other arguments as they are, and return the largest gap. It will be tried on backward passes that are right, and on some that are not. (`np.linalg.norm` gives the norm of an array of any shape.)

# %% tags=["exercise"]
def direction_gap(forward, backward, arguments, rng):
    """forward(*arguments) -> (y, ctx), backward(dy, ctx) -> one gradient for each argument; -> the largest gap, a number"""
    e = 1e-5
    ### BEGIN SOLUTION: draw dy; for each argument draw u, move it alone to both sides, and keep the largest gap
    y, ctx = forward(*arguments)
    dy = rng.standard_normal(y.shape)
    grads = backward(dy, ctx)
    worst = 0.0
    for k, (v, dv) in enumerate(zip(arguments, grads)):
        u = rng.standard_normal(v.shape)
        ahead, behind = list(arguments), list(arguments)
        ahead[k], behind[k] = v + e * u, v - e * u
        slope = np.sum(dy * (forward(*ahead)[0] - forward(*behind)[0])) / (2 * e)
        gap = abs(np.sum(dv * u) - slope) / max(np.linalg.norm(dv), abs(slope))
        worst = max(worst, gap)
    return worst
    ### END SOLUTION


# %% tags=["check"]
print(check("12.direction", direction_gap))
convolution = [rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((3, 3, 3, 2)), rng.standard_normal(2)]
for name in ("", "bias_gradient_is_a_mean", "dw_is_a_mean", "dx_with_unflipped_kernel", "wrong_only_if_square", "kernel_flipped"):
    with plant(name) if name else nullcontext():
        print(f"{name or 'no bug':26} gap {direction_gap(ops.conv2d_forward, ops.conv2d_backward, convolution, rng):.1e}")

# %% [markdown]
# Two of these bugs the check does not see. One is wrong only where the output is square, and ours has 4 x 5 pixels. For the other, `kernel_flipped`, see below.
#
# ## Shapes
#
# A square image cannot tell rows from columns, C = O cannot tell input from output channels, and N = 1 cannot tell a sum over images from a mean. So tests have H != W, C != O and N >= 2. Then all is well?
#
# **Predict.** Two bugs, `wrong_only_if_square` and `wrong_unless_square`. How many of the two does a check see that has unequal sides? And one that has both kinds of images?

# %% tags=["predict"]
### BEGIN SOLUTION: (with unequal sides alone, with both)
guess = (1, 2)
### END SOLUTION

# %%
def seen(ask, *arguments, **options):
    """Whether a check of tinyunet complains, or the op itself stops"""
    try:
        ask(*arguments, **options)
    except Exception:
        return True
    return False


def same(x, w, b):
    """The convolution with same padding"""
    return ops.conv2d_forward(x, w, b, "same")


kernel = {"w": rng.standard_normal((3, 3, 3, 2)), "b": rng.standard_normal(2)}
images = {"square": rng.standard_normal((2, 6, 6, 3)), "unequal": rng.standard_normal((2, 6, 7, 3))}
saw = {}
for name in ("wrong_only_if_square", "wrong_unless_square"):
    for form, image in images.items():
        with plant(name):
            saw[name, form] = seen(check_grad, same, ops.conv2d_backward, {"x": image, **kernel}, rng)
    print(f"{name:22} square: {'seen' if saw[name, 'square'] else '-':6} unequal: {'seen' if saw[name, 'unequal'] else '-'}")
predicted(guess, (sum(saw[name, "unequal"] for name in ("wrong_only_if_square", "wrong_unless_square")),
                  sum(saw[name, "square"] or saw[name, "unequal"] for name in ("wrong_only_if_square", "wrong_unless_square"))),
          "Whoever tests unequal sides only has a blind spot as well, and training uses square tiles.")

# %% [markdown]
# ## Kinks and ties
#
# At a kink there is no derivative, and a difference that straddles it measures neither side. ReLU has a kink at 0, max-pooling has one where the two largest values of a window are equal: a *tie*.
#
# **Predict.** A window holds
#
# $$\begin{pmatrix} 2 & 2 \\ 1 & 0 \end{pmatrix}$$
#
# y = 2, dy = 1. Backward gives all of it to the first of the two (our convention). What does the central difference say for the four entries?

# %% tags=["predict"]
### BEGIN SOLUTION: two rows of two slopes
guess = [[0.5, 0.5], [0, 0]]
### END SOLUTION

# %%
tie = np.array([[2.0, 2.0], [1.0, 0.0]]).reshape(1, 2, 2, 1)
slopes = np.zeros(4)
for k in range(4):
    one = np.zeros(4)
    one[k] = 1e-5
    one = one.reshape(tie.shape)
    slopes[k] = float(ops.max_pool_forward(tie + one)[0].item() - ops.max_pool_forward(tie - one)[0].item()) / 2e-5
predicted(guess, slopes.reshape(2, 2), "Ahead the slope is 1, behind it is 0, and the difference takes the mean. Backward is not wrong here, and the check would complain. Ours says what it is:")

# %%
try:
    numerical_grad(ops.max_pool_forward, {"x": tie}, np.ones((1, 1, 1, 1)))
except CheckError as error:
    print(error)
print(numerical_grad(ops.max_pool_forward, {"x": tie}, np.ones((1, 1, 1, 1)), kinks="nan")["x"][0, :, :, 0])

# %% [markdown]
# Do not loosen the tolerance until the complaint goes away. Two rules:
#
# - **Test away from kinks**, with values that are chosen for it.
# - **Test the convention at the kink by itself**: the exact value, on a tie made on purpose. `ties_to_all`, which gives dy to *every* equal pixel, is seen by no gradient check.
#
# ## Exercise 3: values without kinks
#
# Give values such that no two are closer to each other than `gap`, none is closer to 0 than gap / 2, about half are negative, and any may stand anywhere. (`rng.permutation(a)` shuffles a.)

# %% tags=["exercise"]
def apart(shape, gap, rng):
    """-> float64 values of that shape"""
    n = int(np.prod(shape))
    ### BEGIN SOLUTION: n multiples of gap, shifted so that 0 lies in the middle between two of them; shuffle, reshape
    values = gap * (np.arange(n) - n // 2 + 0.5)
    return rng.permutation(values).reshape(shape)
    ### END SOLUTION


# %% tags=["check"]
print(check("12.apart", apart))
for name, values in (("0, 1, 2, 3 at random", rng.integers(0, 4, (1, 8, 10, 2)).astype(float)), ("yours", apart((1, 8, 10, 2), 0.1, rng))):
    found = numerical_grad(ops.max_pool_forward, {"x": values}, rng.standard_normal((1, 4, 5, 2)), kinks="nan")["x"]
    print(f"{name:22} {np.isnan(found).sum()} of {found.size} entries have no derivative")

# %% [markdown]
# One layer can be fed such values, a whole network cannot: its inner maps are what they are. Here is the U-curve for a whole U-Net, whose parameters all move along one random direction of length 1. Below it, how many ReLUs change sides between v - e u and
# v + e u.

# %%
model = tu.UNet(tu.preset("paper", base=3, depth=2, dropout=0), rng=rng).astype("float64").eval(remember=True)
for name, value in model.params().items():
    if name.endswith(".b"):
        value[...] = rng.uniform(-0.2, 0.2, value.shape)
picture = rng.standard_normal((1, 52, 60, 1))
labels = rng.integers(0, 2, model.forward(picture).shape[:3])
here = {name: value.copy() for name, value in model.params().items()}
ways = {name: rng.standard_normal(value.shape) for name, value in here.items()}
length = np.sqrt(sum((way**2).sum() for way in ways.values()))
_, dlogits = tu.energy(model.forward(picture), labels, None)
model.zero_grad()
model.backward(dlogits)
slope = sum((model.grads()[name] * way / length).sum() for name, way in ways.items())
norm = np.sqrt(sum((grad**2).sum() for grad in model.grads().values()))
model.eval()


def moved(e):
    """-> the loss with all parameters moved by e, and which ReLUs are on"""
    for name, value in model.params().items():
        value[...] = here[name] + e / length * ways[name]
    with probe(model, "*relu*") as inside:
        loss, _ = tu.energy(model.forward(picture), labels, None)
    return loss, np.concatenate([(y.real > 0).ravel() for y in inside.y.values()])


gaps, flips = [], []
steps = 10.0 ** np.arange(0, -11, -0.5)
for e in steps:
    (loss_ahead, on_ahead), (loss_behind, on_behind) = moved(e), moved(-e)
    gaps.append(abs((loss_ahead - loss_behind) / (2 * e) - slope) / norm)
    flips.append(int((on_ahead != on_behind).sum()))
model.astype("complex128")
picture = picture.astype(complex)
exact = abs(moved(1e-30j)[0].imag / 1e-30 - slope) / norm

figure = Figure(figsize=(8, 4), layout="constrained")
above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
above.loglog(steps, gaps, "o-", label="both sides")
above.axhline(max(exact, 1e-17), color="#009E73", linestyle="--", label="complex step, h = 1e-30")
above.set(ylabel="gap / norm of gradient", ylim=(1e-18, 1))
above.legend(fontsize=8)
below.semilogx(steps, flips, "s-", color="#D55E00")
below.set_yscale("symlog")
below.set(xlabel="step e", ylabel="ReLUs that flip", ylim=(-0.3, None))
show(figure, f"Above, the gap of the whole network against the step: {gaps[0]:.0e} at 1, least {min(gaps):.0e} at {steps[int(np.argmin(gaps))]:.0e}, {gaps[-1]:.0e} at the smallest; the complex step has {exact:.0e}. "
     f"Below, how many of {on_ahead.size} ReLUs change sides: {flips[0]} at 1, none from {steps[flips.index(0)]:.0e} on.")

# %% [markdown]
# From the right: as long as some ReLUs flip, the gap is made of kinks and stays large. As soon as none flips it drops by many powers of ten, and from there on the curve is that of a smooth function. (A max-pool whose winner changes is a kink as well, and is not counted below.) A larger network has more ReLUs and needs a smaller step, until
# rounding leaves no room. The complex step moves by 1e-30. Nothing flips, and all of the network is checked in one forward pass, to the last digit.
#
# ## Adjoints: no step at all
#
# Many layers are linear in x: convolution, up-convolution, cropping, padding. For these, backward is the adjoint (lesson [01](01_mirror_padding.ipynb)), and
#
# $$\langle A x, dy \rangle = \langle x, A^T dy \rangle$$
#
# needs no derivative, has no kinks and no step, and must hold to twelve digits or more. It can be asked of anything that calls itself a transpose.
#
# ## Exercise 4: an adjoint check for layers
#
# In lesson [01](01_mirror_padding.ipynb) you were given x and dy. Now your check draws them. And a layer may have a bias, so it is y = A x + b, which is not linear. A alone is what remains if the answer to x = 0 is taken off. Return
#
# $$\text{gap} = \frac{|\langle A x, dy \rangle - \langle x, dx \rangle|}{\sum |A x \cdot dy| + \sum |x \cdot dx|}$$

# %% tags=["exercise"]
def adjoint_gap(forward, backward, shape, rng):
    """forward(x) -> (y, ctx) with y = A x + b, for x of that shape; backward(dy, ctx) -> dx; -> the gap, a number"""
    ### BEGIN SOLUTION: draw x and dy, take the bias off y, compare the two products
    x = rng.standard_normal(shape)
    y, ctx = forward(x)
    dy = rng.standard_normal(y.shape)
    ax, dx = y - forward(np.zeros(shape))[0], backward(dy, ctx)
    left, right = np.sum(ax * dy), np.sum(x * dx)
    return abs(left - right) / (np.abs(ax * dy).sum() + np.abs(x * dx).sum())
    ### END SOLUTION


# %% tags=["check"]
print(check("12.adjoint", adjoint_gap))
for factor in (1, 1 + 1e-12, 1 + 1e-9, 1 + 1e-6):
    found = adjoint_gap(lambda x: same(x, **kernel), lambda dy, ctx, times=factor: times * ops.conv2d_backward(dy, ctx)[0], (2, 6, 7, 3), rng)
    print(f"dx times 1 + {factor - 1:.0e}: gap {found:.1e}")

# %% [markdown]
# ## What no gradient check can see
#
# All of these ask one question: does backward fit forward? None asks whether *forward* is right. A bug that is in both, in the same way, is a perfectly good layer. It is only another one than you meant.

# %%
print(diff("kernel_flipped"))
print(diff("minus_sign_missing"))

# %% [markdown]
# The second is eq. 1 as it is printed. Its gradient is exactly the gradient of that loss.
#
# **Predict.** Which of these six does a gradient check see? Write True or False for each: `kernel_flipped` (see above), `batch_norm_gamma_forgotten` (backward leaves out gamma), `concat_order` (the skip in front of the up path, forward and backward alike),
# `weights_not_in_the_gradient` (the loss is weighted, its gradient is not), `symmetric_for_reflect` (the mirror repeats its edge, forward and backward alike), `padding_not_folded_back` (the mirror's backward overwrites where it should add).

# %% tags=["predict"]
### BEGIN SOLUTION: six times True or False, in this order
guess = [False, True, False, True, False, True]
### END SOLUTION

# %%
labels = rng.integers(0, 3, (2, 4, 5))
weights = rng.uniform(1, 3, labels.shape)
lattice = spaced(Draw(rng), (2, 4, 6, 2))  # no kinks near
arrays = {name: rng.standard_normal(shape) for name, shape in {"up": (2, 4, 5, 3), "skip": (2, 7, 9, 2), "x": (2, 5, 6, 3), "logits": (2, 4, 5, 3)}.items()}
patients = {  # subject: forward, backward, arguments
    "conv2d": (same, ops.conv2d_backward, {"x": arrays["x"], **kernel}),
    "relu": (ops.relu_forward, ops.relu_backward, {"x": lattice}),
    "max_pool": (ops.max_pool_forward, ops.max_pool_backward, {"x": lattice}),
    "batch_norm": (ops.batch_norm_forward, ops.batch_norm_backward, {"x": arrays["x"], "gamma": gamma, "beta": beta}),
    "crop_concat": (ops.crop_concat_forward, ops.crop_concat_backward, {"up": arrays["up"], "skip": arrays["skip"]}),
    "mirror_pad": (lambda x: ops.mirror_pad_forward(x, 2, 1, 0, 3), ops.mirror_pad_backward, {"x": arrays["x"]}),
    "softmax_cross_entropy": (lambda a: ops.softmax_cross_entropy_forward(a, labels, weights),
                              lambda dy, ctx: dy * ops.softmax_cross_entropy_backward(ctx), {"logits": arrays["logits"]}),
}


def summed(forward, backward):
    """The same op followed by a sum: a test that calls y.sum().backward()"""
    def total(*arguments):
        y, ctx = forward(*arguments)
        return np.sum(y), (np.shape(y), ctx)

    return total, lambda dy, ctx: backward(np.full(ctx[0], dy), ctx[1])


def kinds_that_see(subject, *kinds):
    """Whether a property of these kinds, of tinyunet's own catalogue, fails"""
    return any(check_property(law, seed=1, draws=3).error for law in CATALOGUE[subject] if law.kind in kinds)


def diagnosis(bug):
    """-> which examination sees the bug"""
    subject = BUGS[bug].subjects[0]
    forward, backward, arguments = patients[subject]
    with plant(bug):
        return {
            "y.sum()": seen(check_grad, *summed(forward, backward), arguments, rng, zero_ok=list(arguments)),
            "direction": seen(check_grad, forward, backward, arguments, rng),
            "complex step": seen(check_complex_step, forward, backward, arguments, rng),
            "adjoint": kinds_that_see(subject, "adjoint"),
            "reference": kinds_that_see(subject, "reference"),
            "all laws": kinds_that_see(subject, "reference", "gradient", "adjoint", "invariance", "convention", "contract"),
        }


asked = ("kernel_flipped", "batch_norm_gamma_forgotten", "concat_order", "weights_not_in_the_gradient", "symmetric_for_reflect", "padding_not_folded_back")
predicted(guess, [diagnosis(bug)["direction"] for bug in asked], "Backward alone is wrong in the second, the fourth and the sixth. In the others both passes agree.")

# %% [markdown]
# Here is the whole ward: bugs in rows, examinations in columns. Such a table is called a *kill matrix*.

# %%
ward = ("kernel_flipped", "wrong_unless_square", "accumulates_in_float32", "dw_is_a_mean", "dx_is_mean_of_dy", "relu_passes_at_zero", "relu_writes_upstream", "pool_gradient_misplaced", "ties_to_all",
        "batch_norm_no_variance_term", "batch_norm_gamma_forgotten", "eps_outside_the_root", "concat_order", "skip_gets_no_gradient", "padding_not_folded_back", "symmetric_for_reflect",
        "minus_sign_missing", "weights_not_in_the_gradient")
table = {bug: diagnosis(bug) for bug in ward}
columns = list(table[ward[0]])

figure = Figure(figsize=(8, 5.2), layout="constrained")
ax = figure.subplots()
ax.imshow([[table[bug][column] for column in columns] for bug in ward], cmap="Blues", vmin=0, vmax=2.5, aspect="auto")
for i, bug in enumerate(ward):
    for j, column in enumerate(columns):
        ax.text(j, i, "seen" if table[bug][column] else "", ha="center", va="center", fontsize=8)
ax.set_xticks(range(len(columns)), columns)
ax.set_yticks(range(len(ward)), ward, fontsize=8)
ax.set_xticks(np.arange(-0.5, len(columns)), minor=True)
ax.set_yticks(np.arange(-0.5, len(ward)), minor=True)
ax.grid(which="minor", color="0.8", linewidth=0.5)
ax.tick_params(which="both", length=0)
ax.xaxis.tick_top()
show(figure, f"Which of six examinations sees which of {len(ward)} bugs. " + " ".join(f"{column} sees {sum(row[column] for row in table.values())}, not {', '.join(bug for bug in ward if not table[bug][column]) or 'any less'};" for column in columns))

# %% [markdown]
# Read the columns.
#
# - **y.sum()** misses the ReLU that hands back a mean, and all that is wrong with batch norm.
# - **direction** and **complex step** see the same bugs. The complex step is sharper, and has no trouble with kinks.
# - **adjoint** asks linear layers alone, and sees there what the gradient checks see, without a step.
# - **reference**, a plain formula in loops or another library, sees where forward and backward agree on something wrong: `kernel_flipped`, `concat_order`, `symmetric_for_reflect`, `minus_sign_missing`. It sees nothing of a backward pass for which nobody
#   has written the formula out, as that of batch norm.
# - One is seen by none of these: `relu_writes_upstream`, whose numbers are right and which spoils an array that belongs to somebody else. That takes a law of its own.
#
# [The full table](../docs/kill_matrix.md) has all of them. No kind of test is enough by itself. And a test that nobody has seen fail proves nothing: *plant a bug*.
#
# ## Exercise 5: a test for forward
#
# Now write what no gradient check replaces. Your test is given a convolution, `conv(x, w, b) -> y`, valid, any kernel of 3 x 3. Choose x, w and b yourself, compute y in another way, as plainly as you can, and return the largest difference. It will be tried on convolutions that are wrong: flipped,
# transposed, without a bias, deaf to all images but the first, and with confused sizes. Choose your arrays such that none of them gets through.

# %% tags=["exercise"]
def forward_gap(conv, rng):
    """conv(x, w, b) -> y; -> the largest error of y, a number"""
    ### BEGIN SOLUTION: random x, w, b with N > 1, H != W, C != O; the formula pixel by pixel
    x, w, b = rng.standard_normal((2, 5, 7, 3)), rng.standard_normal((3, 3, 3, 2)), rng.standard_normal(2)
    y = conv(x, w, b)
    worst = 0.0
    for n, i, j, o in np.ndindex(y.shape):
        should = b[o] + np.sum(x[n, i : i + 3, j : j + 3] * w[:, :, :, o])
        worst = max(worst, abs(y[n, i, j, o] - should))
    return worst
    ### END SOLUTION


# %% tags=["check"]
check("12.forward", forward_gap)

# %% [markdown]
# ## Your own layers
#
# You need not write these tests again. `check_own` holds a pair of functions to all that tinyunet knows of an op. Here is a ReLU with a slip:

# %%
def slipped_forward(x):
    """y = max(x, 0), and x for backward"""
    return np.maximum(x, 0), x


def slipped_backward(dy, x):
    """dx = dy where y is positive, they said"""
    return dy * (x >= 0)


check_own("relu", slipped_forward, slipped_backward, kinds=["reference", "gradient", "convention"])

# %% [markdown]
# It passed the gradient checks, for these stay away from 0. The line that begins with "cause" compares with the planted bugs. In a terminal the same is
#
#     tinyunet check my_file.py:my_conv             all laws, on my_conv_forward and my_conv_backward of that file
#     tinyunet check my_file.py:my_conv --kind gradient
#     tinyunet check --plant                        all bugs that can be planted
#     tinyunet check --plant kernel_flipped         one of them: its diff, and which laws see it
#     tinyunet check                                everything that comes with tinyunet
#
# and in Python, for arrays of your own: `tu.check.check_grad`, `check_complex_step`, `check_adjoint`, `numerical_grad`. When `check_grad` finds an error, it looks at it and says of what kind it is:

# %%
with plant("batch_norm_gamma_forgotten"):
    try:
        check_grad(ops.batch_norm_forward, ops.batch_norm_backward, {"x": arrays["x"], "gamma": gamma, "beta": beta}, rng)
    except CheckError as error:
        print(error)
pad, fold, _ = patients["mirror_pad"]
y, ctx = pad(arrays["x"])
print("adjoint of mirror padding, gap:", check_adjoint(lambda x: pad(x)[0], lambda dy: fold(dy, ctx), arrays["x"], rng.standard_normal(y.shape)))

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **`y.sum().backward()`.** In TinyTorch every softmax test did it, and mutants of the softmax backward with +, * or / instead of - survived (pull request 2053); pull request 2056 tells the same of the losses.
# - **Square, symmetric, one image.** Maratyszcza/NNPACK issue 15 is a wrong kernel gradient in a library whose test cases were all square. In flexflow issue 1676 a transpose's backward used the forward permutation, which a test in two dimensions, where it is its own inverse, could not see.
# - **A tolerance that fits.** An absolute 1e-2 in float32 says nothing of gradients that are 1e-3, and a correct convolution may fail it. Use float64, and measure by the size of the gradient. A tolerance that is multiplied by the size of the array gets lax for
#   large ones.
# - **Kinks taken for bugs, or the other way round.** False alarms of gradient checks at ties and at zero: pytorch issues 114219, 114233 and 114234. Tests in float16 that fail now and then: chainer issue 7973.
# - **The reference that is the code.** A test whose "expected" comes from the function under test finds only that it is deterministic. There are published ones that compare the input with itself.
# - **A gradient of zero that nobody misses.** The most used TensorFlow U-Net once passed no gradient through its skips (jakeret/tf_unet issue 7). A check with a relative error may find 0/0 there; ask for a gradient that is not zero.
# - **Fresh memory.** A backward pass that adds to a buffer works as long as the buffer happens to be zero. Run it twice.
#
# ## Summary
#
# - A falling loss proves nothing.
# - Central differences are off by e squared plus u/e: step 1e-5, float64, ten digits. The complex step has no such choice, and no kinks.
# - One random direction is as good as all entries. dy is random, u is random, parameters are random.
# - Kinks: keep away from them, and test the convention there by itself.
# - Linear layers: <A x, dy> = <x, dx> to twelve digits.
# - Gradient checks compare backward with forward. Forward needs a reference that was written independently.
# - See every test fail once.
#
# **In the code**: [tinyunet/check.py](../tinyunet/check.py), [tinyunet/bugs/](../tinyunet/bugs/__init__.py), [tinyunet/catalogue/](../tinyunet/catalogue/__init__.py), [docs/properties.md](../docs/properties.md) and
# [docs/kill_matrix.md](../docs/kill_matrix.md). **In the paper**: section 3, eq. 1 (its sign), and the sentence on Caffe. **Next**: in lesson [13](13_training_on_few_images.ipynb) these gradients
# train a network on a handful of images.
