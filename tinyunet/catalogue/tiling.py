"""Properties of prediction by tiles: that it equals one pass over the whole image, at any size, and why it does."""

from __future__ import annotations

import numpy as np

from tinyunet import inference, shapes
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.catalogue.net import network, whole_numbers_alive
from tinyunet.data.normalize import Normalization
from tinyunet.errors import ConfigError
from tinyunet.inference import Average
from tinyunet.ops.loss import softmax
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

ROUNDING = 1e-10
PLAIN = Normalization("none")


def draw_spec(draw: Draw) -> UNetSpec:
    """A small network of either padding."""
    spec = draw.choice((UNetSpec(depth=1), UNetSpec(depth=2), UNetSpec(depth=1, padding="same")))
    return spec.but(base=2, classes=draw.integer(1, 3))


def draw_tile(spec: UNetSpec, draw: Draw) -> int:
    """Side of an input tile that keeps some pixels."""
    step = shapes.size_step(spec)
    if spec.padding == "valid":
        least = shapes.legal_size(spec, step + 2 * shapes.margin(spec))
    else:
        least = 2 * (-(-max(max(r) for r in shapes.receptive_field(spec)) // step) * step) + step
    return least + step * draw.integer(0, 3)


def picture(draw: Draw, height: int, width: int) -> Array:
    """Random grey values."""
    return draw.rng.uniform(-1, 1, (height, width, 1))


# Where tiles lie -----------------------------------------------------------------------------------------------------


@holds("tiling", "convention")
def tiles_start_on_the_pooling_grid(_: None, draw: Draw) -> None:
    """Tiles start multiples of 2^depth apart: the paper's network keeps 384 px of each 388, no more."""
    spec, n = draw_spec(draw), draw.integer(1, 120)
    step = shapes.size_step(spec)
    spans = shapes.tile_spans(spec, n, draw_tile(spec, draw))
    for span in spans:
        apart = span.in_start - spans[0].in_start
        require(apart % step == 0, f"a tile is read {apart} px after the first, which is no multiple of {step}")
        shift = span.start - span.offset - span.in_start
        require(shift == shapes.margin(spec), f"a tile's first output pixel lies {shift} px inside its input, not at the margin")
    paper = shapes.tile_spans(UNetSpec(), 388 + draw.integer(1, 300), 572)
    require(paper[1].start == 384, f"the second 572-px tile of the paper's network starts at {paper[1].start}, expected 384")


@holds("tiling", "invariance")
def tiles_cover_every_pixel_once(_: None, draw: Draw) -> None:
    """The windows that tiles keep touch, do not overlap, and lie within the outputs that the network gives for legal inputs."""
    spec, n = draw_spec(draw), draw.integer(1, 120)
    at = 0
    for span in shapes.tile_spans(spec, n, draw_tile(spec, draw)):
        require(span.start == at and span.stop > at, f"a window is [{span.start}, {span.stop}), expected it to start at {at}")
        side = span.in_stop - span.in_start
        require(shapes.fits(spec, side), f"a tile of {side} px does not fit the network")
        end = span.offset + span.stop - span.start
        require(end <= shapes.output_size(spec, side), f"pixels up to {end} are kept of {shapes.output_size(spec, side)}")
        at = span.stop
    require(at == n, f"the windows end at {at}, the image at {n}")


@holds("tiling", "invariance")
def a_tile_on_the_grid_equals_the_whole(_: None, draw: Draw) -> None:
    """A crop of the image gives the logits of the whole image exactly if it starts at a multiple of 2^depth, and others if not.

    So 388-px outputs laid edge to edge are not what one pass over the image gives, and outputs 384 px apart are.
    """
    spec = UNetSpec(base=3, depth=draw.integer(1, 2))
    step, margin = shapes.size_step(spec), shapes.margin(spec)
    tile = shapes.legal_size(spec, 2 * step + 2 * margin)
    keep = shapes.output_size(spec, tile)
    model, x, whole = whole_numbers_alive(spec, tile, tile + 3 * step, draw)
    for at in (step, 2 * step, draw.integer(1, step - 1)):
        same = bool((model.forward(x[:, :, at : at + tile]) == whole[:, :, at : at + keep]).all())
        aligned = at % step == 0
        require(same == aligned, f"a tile {at} px to the right gives {'the same' if same else 'other'} logits as one pass, "
                f"expected {'the same' if aligned else 'other'} ones: 2^depth is {step}")


# What a prediction is ------------------------------------------------------------------------------------------------


@holds("tiling", "reference")
def tiles_equal_one_pass(_: None, draw: Draw) -> None:
    """Many small tiles give the probabilities of one tile over the whole image, each image normalised as a whole."""
    spec = draw_spec(draw)
    model = network(spec, draw)
    image = picture(draw, draw.integer(1, 40), draw.integer(1, 40))
    whole = shapes.input_size(spec, max(image.shape))
    one = inference.predict_proba(model, image, tile_in=whole)
    require_close("the probability by tiles", inference.predict_proba(model, image, tile_in=draw_tile(spec, draw)), one,
                  rtol=ROUNDING)


@holds("tiling", "reference")
def the_border_is_a_mirror(_: None, draw: Draw) -> None:
    """A prediction is the softmax of one forward pass over the image padded by NumPy's "reflect", cut to the image."""
    spec = draw_spec(draw).but(classes=3)
    model, margin = network(spec, draw), shapes.margin(spec)
    image = picture(draw, draw.integer(2, 20), draw.integer(2, 20))
    pads = [(margin, shapes.input_size(spec, n) - margin - n) for n in image.shape[:2]]
    logits = model.eval().forward(np.pad(image, [*pads, (0, 0)], mode="reflect")[None])
    expected = softmax(logits)[0, : image.shape[0], : image.shape[1]]
    tile = max(shapes.input_size(spec, n) for n in image.shape[:2])
    require_close("the probability", inference.predict_proba(model, image, PLAIN, tile_in=tile), expected, rtol=ROUNDING)


@holds("tiling", "reference")
def an_image_is_normalised_as_in_training(_: None, draw: Draw) -> None:
    """Prediction takes the mean off and divides by the deviation, as asked: it gives for x what it gives for (x - mean) / std."""
    model = network(draw_spec(draw), draw)
    image = 40 * picture(draw, draw.integer(4, 20), draw.integer(4, 20)) + 100
    mean, std = np.float32(draw.rng.uniform(90, 110)), np.float32(draw.rng.uniform(10, 30))
    for normalization, centre, spread in (
        (Normalization("dataset", (float(mean),), (float(std),)), mean, std),
        (Normalization("image"), image.mean(), image.std()),
    ):
        found = inference.predict_proba(model, image, normalization)
        expected = inference.predict_proba(model, (image - centre) / spread, PLAIN)
        require_close(f"the probability with normalization {normalization.mode!r}", found, expected, rtol=1e-4)


@holds("tiling", "contract")
def any_image_comes_back_in_its_size(_: None, draw: Draw) -> None:
    """An image of any size, down to one pixel, gives probabilities of that size that add up to 1, and their argmax as labels."""
    spec = draw_spec(draw)
    model = network(spec, draw).astype("float32")
    image = draw.rng.integers(0, 256, (draw.integer(1, 30), draw.integer(1, 30))).astype(np.uint8)
    proba, labels = inference.predict_proba(model, image), inference.predict(model, image)
    shape = (*image.shape, max(spec.classes, 2))
    require(proba.shape == shape, f"probabilities have shape {proba.shape}, expected {shape}")
    require(bool(((proba >= 0) & (proba <= 1)).all()), f"probabilities run from {proba.min():g} to {proba.max():g}")
    require_close("the sum over classes", proba.sum(-1), np.ones(image.shape), rtol=1e-5)
    require_close("the label", labels, proba.argmax(-1), rtol=0)


@holds("tiling", "convention")
def the_tile_comes_from_the_budget(_: None, draw: Draw) -> None:
    """The least memory that is enough gives smaller tiles than plenty, and the same probabilities; less than that is refused."""
    spec = draw_spec(draw)
    model, image = network(spec, draw), picture(draw, 60 + draw.integer(0, 30), 60)
    too_little, enough = 100.0, 400.0
    while enough - too_little > 0.01:
        middle = (too_little + enough) / 2
        try:
            inference.default_tile(model, image, middle)
            enough = middle
        except ConfigError:
            too_little = middle
    small, large = (inference.default_tile(model, image, mem) for mem in (enough, 1000.0))
    require(small < large and small[1] <= large[1], f"a tile is {small} with {enough:.1f} MiB and {large} with 1000 MiB")
    probas = [inference.predict_proba(model, image, max_mem=mem) for mem in (enough + 5, 1000.0)]
    require_close("the probability with less memory", probas[0], probas[1], rtol=ROUNDING)


@holds("tiling", "contract")
def predicting_gives_the_network_back(_: None, draw: Draw) -> None:
    """Whatever mode the network was in, it is in after predicting, with every parameter and statistic as it was."""
    spec, training = UNetSpec(base=2, depth=1, padding="same", norm="batch", dropout=0.5), bool(draw.integer(0, 1))
    model, image = network(spec, draw), picture(draw, 9, 11)
    model = model.train() if training else model.eval()
    before = {name: value.copy() for name, value in model.state().items()}
    one = inference.predict_proba(model, image)
    require(model.training == training, f"the network was {'training' if training else 'in eval mode'} and no longer is")
    for name, value in model.state().items():
        require_close(f"{name} after predicting", value, before[name], rtol=0)
    require_close("a second prediction", inference.predict_proba(model, image), one, rtol=0)


@holds("tiling", "convention")
def one_logit_gives_two_probabilities(_: None, draw: Draw) -> None:
    """A network with one logit a answers (1 - p, p), p = 1 / (1 + exp(-a)): background first."""
    spec = UNetSpec(base=2, depth=1, padding="same", classes=1)
    model, image = network(spec, draw), picture(draw, 2 * draw.integer(1, 6), 2 * draw.integer(1, 6))
    p = 1 / (1 + np.exp(-model.eval().forward(image[None])[0]))
    proba = inference.predict_proba(model, image, PLAIN)
    require_close("the probability", proba, np.concatenate((1 - p, p), -1), rtol=ROUNDING)


# Averages ------------------------------------------------------------------------------------------------------------

FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))


def draw_symmetric(draw: Draw) -> tuple[UNet, Array, int]:
    """A network, an image whose sides the pooling grid fits without rest, so that mirrors map the grid onto itself; a tile."""
    spec = draw_spec(draw).but(classes=2)
    step = shapes.size_step(spec)
    height, width = (shapes.output_size(spec, shapes.smallest_size(spec)) + step * draw.integer(0, 4) for _axis in range(2))
    return network(spec, draw), picture(draw, height, width), draw_tile(spec, draw)


@holds("tiling", "reference")
def averages_are_means_of_flips(_: None, draw: Draw) -> None:
    """mirror4 is the mean over an image and its mirror images, each turned back; dihedral8 also takes their transposes."""
    model, image, tile = draw_symmetric(draw)
    average: Average = draw.choice(("mirror4", "dihedral8"))
    parts = []
    for axes in FLIPS:
        view = np.flip(image, axes)
        parts.append(np.flip(inference.predict_proba(model, view, PLAIN), axes))
        if average == "dihedral8":
            parts.append(np.flip(inference.predict_proba(model, view.swapaxes(0, 1), PLAIN).swapaxes(0, 1), axes))
    found = inference.predict_proba(model, image, PLAIN, average=average, tile_in=tile)
    require_close(f"the {average} average", found, np.mean(parts, axis=0), rtol=ROUNDING)


@holds("tiling", "invariance")
def averages_do_not_care_which_way_is_up(_: None, draw: Draw) -> None:
    """The average over all flips of a flipped image is the flipped average, by whatever tiles."""
    model, image, tile = draw_symmetric(draw)
    average: Average = draw.choice(("mirror4", "dihedral8"))
    axes, transpose = draw.choice(FLIPS), average == "dihedral8" and bool(draw.integer(0, 1))

    def turn(a: Array) -> Array:
        a = np.flip(a, axes)
        return a.swapaxes(0, 1) if transpose else a

    proba = inference.predict_proba(model, image, average=average, tile_in=tile)
    turned = inference.predict_proba(model, turn(image), average=average, tile_in=tile)
    require_close("the average of the turned image", turned, turn(proba), rtol=ROUNDING)
