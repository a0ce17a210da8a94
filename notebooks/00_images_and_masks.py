# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   tinyunet:
#     title: Images, masks and a first segmentation
#     minutes: 60
#     prerequisites: []
#     goals:
#     - say what the arrays of a segmentation hold, with shape and dtype
#     - normalise an image and measure a segmentation
#     - compare a network with a threshold, and say what neither tells you
# ---

# %% [markdown]
# # 00 Images, masks and a first segmentation
#
# **What you can do afterwards**
#
# - say what the arrays of a segmentation hold, with shape and dtype;
# - normalise an image, and measure a segmentation by its IoU;
# - compare a network with a threshold, and say what neither tells you.
#
# **Before this**: Python, NumPy, and slices of arrays. **Time**: 60 minutes.
#
# Section 1 of the paper sets the task: where a classifier gives one label to a whole image, here *every pixel* is to get a class. Biologists
# want to know where each cell is, how large it is, and whether it touches its neighbour. This lesson looks at the arrays that this takes,
# and ends with a network that you train in seconds. The lessons after it open that network, part by part.
#
# **How these notebooks work.** Run the cells from top to bottom (Shift-Enter). Where it says *Predict*, write a guess before you
# run on: that is how one learns. In the exercises you replace the line `raise NotImplementedError(...)`; the cell below each checks
# your answer and says what is wrong with it.
#
# At its end, each lesson names files of tinyunet that do in earnest what you have just done, as in `tinyunet/ops/conv.py`. To read any function of the package,
# put two question marks behind its name, `tu.ops.conv2d_forward??`, or run `import inspect; print(inspect.getsource(tu.ops.conv2d_forward))`. The files
# themselves lie in the folder `tu.__path__[0]`.

# %% tags=["setup"]
import numpy as np

import tinyunet as tu
from tinyunet import plot
from tinyunet.course import begin, check, predicted, show

rng = begin("00")

# %% [markdown]
# ## An image is an array
#
# We have no microscope here, so tinyunet draws: cells as in phase contrast, grained, with a dark rim. What it draws it also knows,
# so the truth comes free. With your own images, somebody has to paint it.

# %%
data = tu.synthetic("phase", 8, 192, rng, cells=12)
train, test = data[:6], data[6:]
sample = test[0]
print("image    ", sample.image.shape, sample.image.dtype, "from", sample.image.min(), "to", sample.image.max())
print("labels   ", sample.labels.shape, sample.labels.dtype, "classes", np.unique(sample.labels))
print("instances", sample.instances.shape, sample.instances.dtype, "ids 0 to", sample.instances.max())
show(plot.overlay(sample.image, sample.instances, title="an image, and the outlines of its cells"))

# %% [markdown]
# (Where a cell is thick and round, dark turns to bright: that makes the bright discs with a black ring, if there are any in your image. The dots and threads between cells
# are dust, and what cells leave behind when they crawl. They belong to the background.)
#
# Three arrays:
#
# - the **image**, (H, W, C): H rows, W columns, C channels. Microscopes give 8 or 16 bits: whole numbers from 0 to 255, or to 65,535;
# - the **labels**, (H, W): the class of every pixel, 0 for background, 1 for cell. This is what the network predicts;
# - the **instances**, (H, W): 0 for background, and for every cell a number of its own. They know which pixel belongs to *which* cell.
#
# Rows come first: `image[10, 50]` is row 10, column 50. In a picture, rows count downwards.
#
# **Predict.** A pixel of a uint8 image is 250. The microscope's lamp gets brighter, and you add 10. What is the pixel then?

# %% tags=["predict"]
### BEGIN SOLUTION: the value of the pixel after adding 10
guess = 4
### END SOLUTION

# %%
pixel = np.array([250], np.uint8)
predicted(guess, int((pixel + 10)[0]), "8 bits end at 255 and begin again at 0, without a warning. So the first thing to do with an image is to "
          "make it floating-point.")  # fmt: skip

# %% [markdown]
# ## Exercise 1: normalise
#
# A network learns better if its inputs are of the size of 1, whatever the lamp and the camera did. So subtract the mean and divide by the standard
# deviation, both over all pixels and channels of the image:
#
# $$x = \frac{\text{image} - \mu}{\sigma}$$
#
# Networks compute in float32 and take several images at once: add an axis in front, so that (H, W, C) becomes (1, H, W, C).
# And think of the empty field of view, where all pixels are equal: it shall become 0 everywhere, not NaN.

# %% tags=["exercise"]
def normalise(image):
    """(H, W, C) of any dtype -> (1, H, W, C) float32 with mean 0 and standard deviation 1; 0 where the image is constant"""
    ### BEGIN SOLUTION: subtract the mean, divide by the deviation, add an axis, make it float32
    deviation = image.std() or 1.0
    x = (image - image.mean()) / deviation
    return x[None].astype(np.float32)
    ### END SOLUTION


# %% tags=["check"]
check("00.normalise", normalise)

# %% [markdown]
# ## How good is a segmentation?
#
# Somebody hands in a prediction, (H, W) with 0 and 1. How good is it? The obvious measure is the share of pixels that are right.
#
# **Predict.** In an image 5 % of the pixels are cells. A lazy program says "background" everywhere. What share of its pixels is right?

# %% tags=["predict"]
### BEGIN SOLUTION: the share of pixels that are right, 0 to 1
guess = 0.95
### END SOLUTION

# %%
truth = np.zeros((100, 100), int)
truth[:50, :10] = 1
lazy = np.zeros_like(truth)
predicted(guess, float((lazy == truth).mean()), "And it has not found a single cell. So nobody should report this number alone.")

# %% [markdown]
# The usual measure asks how well two areas cover each other. Of the pixels that are cell in the prediction *or* in the truth, how many are
# it in both?
#
# $$\text{IoU} = \frac{|\,\text{prediction} \cap \text{truth}\,|}{|\,\text{prediction} \cup \text{truth}\,|}$$
#
# "Intersection over union", between 0 and 1. The lazy program has 0. The paper's table 2 is made of such numbers.
#
# ## Exercise 2: IoU

# %% tags=["exercise"]
def iou(prediction, truth):
    """(H, W), (H, W) with 0 for background and 1 for cell -> intersection over union of the cells, a number"""
    ### BEGIN SOLUTION: count the pixels in both, and those in either
    both = (prediction == 1) & (truth == 1)
    either = (prediction == 1) | (truth == 1)
    return both.sum() / either.sum()
    ### END SOLUTION


# %% tags=["check"]
check("00.iou", iou)

# %% [markdown]
# ## A threshold
#
# The oldest segmentation is a threshold: cell is what is darker than some grey value. We are generous, try every grey value, and take the one
# that is best on this very image, which nobody could know beforehand.

# %%
def score(prediction, sample):
    """IoU of the cells"""
    return tu.metrics.iou(tu.metrics.confusion_matrix(prediction, sample.labels, 2))[1]


grey = sample.image[..., 0]
scores = [score((grey < t).astype(int), sample) for t in range(256)]
threshold = int(np.argmax(scores))
by_threshold = (grey < threshold).astype(int)
note = f" (that is every pixel: the brightest has {grey.max()})" if by_threshold.all() else ""
print(f"darker than {threshold}{note}: IoU {scores[threshold]:.3f}")
show(plot.errors(sample.image, by_threshold, sample.labels, title="the best threshold"))

# %% [markdown]
# The inside of a cell is about as bright as the background, so often the best that a threshold can do is to call everything a cell. A person sees the cells all the same: by their outline, their halo, what
# lies around. One pixel's grey does not say what it is; its neighbourhood does. How to look at neighbourhoods, and at which, is what the
# network learns.
#
# ## A U-Net
#
# Six images, 120 steps, a small network: a few seconds. Each step shows it a piece of an image, asks how wrong every pixel is (the *loss*), and
# moves every weight a little to where the loss is lower. How, is the matter of lessons [02](02_convolution.ipynb) to [13](13_training_on_few_images.ipynb).

# %%
small = tu.preset(
    "paper",  # the paper's network, but
    base=8,  # with 8 channels at the first level, where the paper has 64,
    depth=2,  # made half as large twice on its way, not four times,
    norm="batch",  # with batch norm behind each convolution (lesson 08),
    dropout=0,  # and without dropout (lesson 08 as well)
)
config = tu.TrainConfig(
    steps=120,  # so often the weights are moved,
    tile=84,  # each time for the classes of 84 x 84 pixels,
    lr=3e-3,  # by about this much: the learning rate
)
model = tu.UNet(small, rng=rng)
losses = [record.loss for record in tu.fit(model, train, val=(), config=config)]  # no images to validate on: lesson 13
print(f"loss: {np.mean(losses[:10]):.3f} in the first ten steps, {np.mean(losses[-10:]):.3f} in the last ten")

# %% [markdown]
# **Predict.** The best threshold had the truth of this image to help it; the network has never seen the image. Which has the higher IoU,
# "threshold" or "network"?

# %% tags=["predict"]
### BEGIN SOLUTION: "threshold" or "network"
guess = "network"
### END SOLUTION

# %%
probability = tu.predict_proba(model, sample.image)[..., 1]
by_network = tu.predict(model, sample.image)
better = "network" if score(by_network, sample) > scores[threshold] else "threshold"
predicted(guess, better, f"The network's IoU is {score(by_network, sample):.3f}, the threshold's {scores[threshold]:.3f}.")

# %%
row = plot.Row(sample.image, sample.instances, probability, tu.instances_of(by_network, min_size=20), iou=score(by_network, sample))
show(plot.results([row], side=2.5))

# %% [markdown]
# ## Cells that touch
#
# Look at the outlines. Pixels are mostly right, but where cells touch, the network sees one large cell. For a biologist who counts, that is
# wrong. Labels cannot say it: between two cells that touch there is no background, so their labels are one patch of ones. Only the instances
# know.
#
# **SEG** is a measure that asks for objects: for each true cell, the IoU with the predicted object that covers more than half of it, 0 if there is none; then the mean over
# all cells.

# %%
cells, patches = sample.instances.max(), tu.instances_of(sample.labels).max()
print(f"{cells} cells in the truth, but only {patches} patches of ones in its labels")
print(f"SEG of the network, over both test images: {tu.evaluate(model, test).seg:.3f}")

# %% [markdown]
# The paper's answer is the *weight map* (section 3, eq. 2): pixels between close cells count more in the loss. Lesson [10](10_weight_map.ipynb) is about it. To know where
# to put weights, one must know who touches whom.
#
# ## Exercise 3: who touches whom?
#
# Two cells touch if a pixel of one is the left, right, upper or lower neighbour of a pixel of the other. Give every such pair once, the smaller
# id first. (Slices that are shifted by one pixel lay each pixel beside its neighbour: `ids[:, :-1]` and `ids[:, 1:]`.)

# %% tags=["exercise"]
def touching(ids):
    """(H, W) instances -> a set of pairs (a, b) with 0 < a < b"""
    ### BEGIN SOLUTION: lay each pixel beside its right and its lower neighbour, and keep unequal pairs of cells
    pairs = set()
    for first, second in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        meet = (first != second) & (first > 0) & (second > 0)
        for a, b in zip(first[meet], second[meet]):
            pairs.add((int(min(a, b)), int(max(a, b))))
    return pairs
    ### END SOLUTION


# %% tags=["check"]
print(check("00.touching", touching))
print("in our image:", ", ".join(f"{a} and {b}" for a, b in sorted(touching(sample.instances))))

# %% [markdown] tags=["pitfalls"]
# ## What people get wrong
#
# - **Masks of 0 and 255.** Painting programs store black and white. A network with two classes has no class 255; and dividing by 255 makes
#   integers 0, so that everything is background (HasnainRaz/FC-DenseNet-TensorFlow issues 16 and 17). tinyunet refuses such masks until you say what
#   the numbers mean: `label_map`.
# - **Masks as JPEG.** JPEG invents grey values at every edge. Store masks as PNG or TIFF.
# - **"99 % accuracy!"** With few foreground pixels, doing nothing is 99 % right (jakeret/tf_unet issues 31 and 145). Report the IoU of the foreground.
# - **Rows and columns exchanged.** `image[x, y]` works as long as images are square. Try one that is not.
# - **Measuring on training images.** It says how well the network remembers. We trained on six images and measured on two others.
#
# ## Summary
#
# - An image is (H, W, C) in 8 or 16 bits; the network takes (N, H, W, C) in float32, normalised.
# - Labels give every pixel a class, instances give every pixel an object. Cells that touch are told apart by instances alone.
# - IoU measures pixels; SEG measures objects. A segmentation can be good in one and bad in the other.
# - A pixel's grey value is not enough. Its neighbourhood is: that is what convolutions are for.
#
# **In the code**: [tinyunet/data/sample.py](../tinyunet/data/sample.py), [tinyunet/data/normalize.py](../tinyunet/data/normalize.py),
# [tinyunet/metrics.py](../tinyunet/metrics.py). **In the paper**: section 1; section 4, table 2. **Next**: lesson [01](01_mirror_padding.ipynb) asks what
# a network should see beyond the edge of the image.
