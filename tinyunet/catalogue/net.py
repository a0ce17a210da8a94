"""Properties of the whole network: its sizes, its wiring, what it sees, its gradients and its modes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet import checkpoint, ops, shapes, train
from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.check import check_complex_step
from tinyunet.errors import CheckError, OrderError, ShapeError
from tinyunet.layers import BatchNorm, CropConcat
from tinyunet.spec import PAPER, PRESETS, RELEASE, SAME_BN, UNetSpec
from tinyunet.unet import UNet

ROUNDING = 1e-10
"""Allowed error of float64 numbers that went through a whole network in another order."""

SMALL = (
    PAPER.but(base=3, depth=1, dropout=0.0),
    PAPER.but(base=3, depth=2, channels=3, classes=3, dropout=0.0),
    RELEASE.but(base=3, depth=1, classes=4, dropout=0.0),
    SAME_BN.but(base=3, depth=1, channels=2),
    SAME_BN.but(base=2, depth=2),
)
"""Small relatives of the presets."""


def network(spec: UNetSpec, draw: Draw) -> UNet:
    """A float64 network, ready to train, in which no parameter and no statistic has a value that could hide a mistake.

    Biases lie above 0 and so does the sum of every filter, which keeps ReLUs alive: gradients end at a layer that is dead.
    """
    model = UNet(spec, draw.rng).astype("float64")
    for name, value in model.state().items():
        if name.endswith((".b", ".beta", ".mean")):
            value[...] = draw.rng.uniform(0.2, 1.0, value.shape)
        elif name.endswith((".gamma", ".var")):
            value[...] = draw.rng.uniform(0.5, 1.5, value.shape)
        else:
            inputs = (0, 1, 3) if name.endswith("upconv.w") else (0, 1, 2)
            value *= np.where(value.sum(inputs, keepdims=True) < 0, -1, 1)
    return model


def whole_numbers(spec: UNetSpec, draw: Draw) -> UNet:
    """A float64 network with weights -1, 0 and 1, in which every sum is exact, whatever its order."""
    model = UNet(spec).astype("float64").eval()
    for value in model.params().values():
        value[...] = draw.rng.choice([-1, 0, 1, 1], value.shape)
    return model


def whole_numbers_alive(spec: UNetSpec, height: int, width: int, draw: Draw) -> tuple[UNet, Array, Array]:
    """A network of `whole_numbers`, an image, and its logits, which take more than ten values.

    A network that is dead is drawn again. If fifty in a row are, it is no chance: CheckError.
    """
    for _attempt in range(50):
        model = whole_numbers(spec, draw)
        x = draw.rng.integers(-3, 4, (1, height, width, 1)).astype(float)
        logits = model.forward(x)
        if len(np.unique(logits)) > 10:
            return model, x, logits
    raise CheckError("the logits of fifty networks took ten values or fewer: something between image and logits is cut")


def draw_image(spec: UNetSpec, draw: Draw, n: int = 2) -> Array:
    """(n, H, W, channels) random values, of a size that fits, square or not."""
    smallest, step = shapes.legal_size(spec, 8), shapes.size_step(spec)  # so that a batch norm at the bottom has values
    height, width = (smallest + step * draw.integer(0, 1) for _axis in range(2))
    return draw.rng.standard_normal((n, height, width, spec.channels))


# Sizes ---------------------------------------------------------------------------------------------------------------


@holds("unet", "reference")
def sizes_follow_one_formula(_: None, draw: Draw) -> None:
    """Legal sizes are 2^depth a + 4 (2^depth - 1), from 188 on at depth 4, and the output is 12 2^depth - 8 smaller, 184."""
    depth = draw.integer(1, 5)
    spec, step = UNetSpec(base=1, depth=depth), 2**depth
    first, loss = {1: 18, 2: 44, 3: 92, 4: 188, 5: 380}[depth], 12 * step - 8
    for n in range(first - step - 2, first + 2 * step):
        legal = n >= first and (n - 4 * (step - 1)) % step == 0
        require(shapes.fits(spec, n) == legal, f"{n} px {'should' if legal else 'should not'} fit depth {depth}")
        if legal:
            found = shapes.output_size(spec, n)
            require(found == n - loss, f"depth {depth} makes {found} px of {n}, expected {n - loss}")


@holds("unet", "reference")
def the_network_keeps_to_the_formula(_: None, draw: Draw) -> None:
    """What comes out of a network is (N, H - 12 2^depth + 8, W - 12 2^depth + 8, classes), or H and W with same padding."""
    spec = draw.choice(SMALL)
    x = draw_image(spec, draw, n=draw.integer(1, 3))
    less = 12 * 2**spec.depth - 8 if spec.padding == "valid" else 0
    expected = (len(x), x.shape[1] - less, x.shape[2] - less, spec.classes)
    found = network(spec, draw).eval().forward(x).shape
    require(found == expected, f"{x.shape} becomes {found}, expected {expected}")


@holds("unet", "contract")
def sizes_that_do_not_fit_are_refused(_: None, draw: Draw) -> None:
    """An image between two legal sizes is refused with the nearest ones, whichever axis it is, before anything is computed."""
    spec = UNetSpec(base=1, depth=draw.integer(1, 2))
    first, step = shapes.smallest_size(spec), shapes.size_step(spec)
    good, bad = first + step, first + draw.integer(1, step - 1)
    for height, width in ((bad, good), (good, bad), (bad, bad)):
        try:
            y = UNet(spec).forward(np.zeros((1, height, width, 1), np.float32))
        except ShapeError as refusal:
            named = str(first) in str(refusal) and str(good) in str(refusal)
            require(named, f"the refusal of {bad} px must name {first} and {good}: {refusal}")
        else:
            require(False, f"{height}x{width} does not fit depth {spec.depth}, but gave {y.shape}")


@holds("unet", "reference")
def skips_are_cropped_about_their_centre(_: None, draw: Draw) -> None:
    """From the bottom up skips lose 4, 16, 40, 88 px on each side: c -> 2 c + 8."""
    spec = UNetSpec(base=1, depth=draw.integer(1, 4))
    c = 4
    for step in shapes.trace(spec, shapes.smallest_size(spec)):
        if step.crop:
            require(set(step.crop) == {c}, f"{step.layer.name} crops {tuple(step.crop)}, expected {c} on every side")
            c = 2 * c + 8


@holds("unet", "reference")
def parameters_are_counted_by_hand(_: None, draw: Draw) -> None:
    """The number of parameters is the sum of 9 C O + O for every 3x3, 4 C O + O for every up-convolution, and C K + K."""
    spec = UNetSpec(channels=draw.integer(1, 3), classes=draw.integer(1, 4), base=draw.integer(1, 6), depth=draw.integer(1, 3),
                    norm=draw.choice((None, "batch")), last_up_halves=bool(draw.integer(0, 1)))
    b, both = spec.base, 4 if spec.norm else 0  # gamma and beta of two norms
    count = b * spec.classes + spec.classes
    for level in range(spec.depth + 1):
        c, o = b * 2 ** (level - 1) if level else spec.channels, b * 2**level
        count += 9 * (c + o) * o + 2 * o + both * o  # contracting block, or bottom
        if level < spec.depth:
            up = o if level or spec.last_up_halves else 2 * o
            count += 4 * 2 * o * up + up + 9 * (up + o + o) * o + 2 * o + both * o
    found = {"shapes.count_params": shapes.count_params(spec), "the network": sum(p.size for p in UNet(spec).params().values())}
    for who, n in found.items():
        require(n == count, f"{who} has {n} parameters, expected {count}")


@holds("unet", "reference")
def layers_stand_where_the_list_says(_: None, draw: Draw) -> None:
    """A network has the layers of its list in that order, and dropout behind the last contracting level and the bottom only."""
    depth = draw.integer(1, 4)
    spec = draw.choice((PAPER, RELEASE, SAME_BN)).but(base=1 + draw.integer(1, 2), depth=depth)
    names = [layer.name for layer in UNet(spec).layers]
    listed = [layer.name for layer in shapes.layers(spec)]
    require(names == listed, f"the network has the layers {names}, its list {listed}")
    dropouts, expected = [name for name in names if "dropout" in name], [f"down.{depth - 1}.dropout", "bottom.dropout"]
    require(dropouts == (expected if spec.dropout else []), f"dropout stands at {dropouts}, expected {expected}")


# What an output pixel sees -------------------------------------------------------------------------------------------


@holds("unet", "reference")
def the_receptive_field_is_where_gradients_go(_: None, draw: Draw) -> None:
    """One logit depends on exactly the pixels that `receptive_field` says, for the phase at which it stands."""
    spec = UNetSpec(base=1, depth=draw.integer(1, 2), classes=1, padding=draw.choice(("valid", "same")))
    reach, margin, step = shapes.receptive_field(spec), shapes.margin(spec), shapes.size_step(spec)
    height = shapes.legal_size(spec, 2 * max(r.size for r in reach))
    size = (height, height + step)
    phases = (draw.integer(0, step - 1), draw.integer(0, step - 1))
    place = [(n - 2 * margin) // 2 // step * step + p for n, p in zip(size, phases, strict=True)]
    model = UNet(spec).astype("float64").eval(remember=True)
    for name, value in model.params().items():
        value[...] = 0.1 if name.endswith("w") else 0  # positive, so that nothing cancels and no ReLU is off
    spans = []
    for direction in (-1, 1):  # of an image that rises, the last pixel of each pooling window wins; of one that falls, the first
        ramp = direction * np.add(*np.indices(size)) + float(sum(size))
        dy = np.zeros_like(model.forward(ramp[None, :, :, None]))
        dy[0, place[0], place[1], 0] = 1
        dx = model.backward(dy)[0, :, :, 0]
        spans.append([np.flatnonzero(dx.any(axis=axis)) for axis in (1, 0)])
    for axis, name in enumerate(("rows", "columns")):
        here, field = place[axis] + margin, reach[phases[axis]]
        found = (here - int(spans[0][axis][0]), int(spans[1][axis][-1]) - here)
        require(found == tuple(field), f"phase {phases[axis]} sees {found} {name} before and after, expected {tuple(field)}")


@holds("unet", "reference")
def the_papers_receptive_field_has_two_sizes(_: None, draw: Draw) -> None:
    """With valid convolutions a logit sees 18, 44, 92 or 100, and at depth 4 188 px (4 of 16 phases) or 204 px."""
    depth, sizes = draw.choice(((1, {18: 2}), (2, {44: 4}), (3, {92: 4, 100: 4}), (4, {188: 4, 204: 12})))
    found: dict[int, int] = {}
    for reach in shapes.receptive_field(UNetSpec(base=1, depth=depth)):
        found[reach.size] = found.get(reach.size, 0) + 1
    require(found == sizes, f"at depth {depth} the sizes and how many phases have them are {found}, expected {sizes}")


@holds("unet", "invariance")
def a_shift_by_the_pooling_grid_shifts_the_output(_: None, draw: Draw) -> None:
    """Moving the image by 2^depth pixels moves the logits by as much, exactly; moving it by less gives other logits."""
    spec = UNetSpec(base=3, depth=draw.integer(1, 2))
    step, n = shapes.size_step(spec), shapes.legal_size(spec, 20) + shapes.size_step(spec)
    axis, shift = draw.integer(1, 2), draw.integer(1, step - 1)
    model, x, whole = whole_numbers_alive(spec, n + step, n + step, draw)

    def differs(by: int) -> bool:
        window = [slice(None)] * 4
        window[axis] = slice(by, by + n)
        part = model.forward(x[tuple(window)])
        window[axis] = slice(by, by + part.shape[axis])
        return bool((part != whole[tuple(window)]).any())

    require(not differs(step), f"a shift by 2^{spec.depth} = {step} px must shift the logits and change none of them")
    require(differs(shift), f"a shift by {shift} px left the logits as they were: then no pooling looks at a grid of its own")


# Wiring --------------------------------------------------------------------------------------------------------------


class _NoSkip(CropConcat):
    """A concatenation that sees zeros where the skip should be."""

    def forward(self, up: Array, skip: Array) -> Array:
        return super().forward(up, 0 * skip)


@holds("unet", "convention")
def every_skip_matters(_: None, draw: Draw) -> None:
    """Setting any skip to zero changes the logits."""
    spec = draw.choice(SMALL)
    model, x = network(spec, draw).eval(), draw_image(spec, draw)
    y = model.forward(x)
    for up in model.up:
        original, up.concat = up.concat, _NoSkip("none")
        change = float(np.abs(model.forward(x) - y).max())
        require(change > 1e-9, f"without the skip of {original.name} the logits are the same: does it arrive?")
        up.concat = original


@holds("unet", "gradient")
def gradients_come_back_through_the_skips(_: None, draw: Draw) -> None:
    """With the way through the bottom cut, the contracting path still learns through its skips."""
    spec = draw.choice(SMALL)
    model = network(spec, draw)
    model.up[-1].upconv.params["w"][...] = 0  # the top one: nothing from deeper down reaches the logits
    y = model.forward(draw_image(spec, draw))
    model.backward(draw.rng.standard_normal(y.shape))
    for name in ("conv1", "conv2"):
        grad = model.grads()[f"down.0.{name}.w"]
        require(bool(grad.any()), f"the gradient of down.0.{name}.w is zero: nothing came back through the skip")
    grad = model.grads()["bottom.conv1.w"]
    require(not grad.any(), "the bottom has a gradient, though it has no part in the logits")


@holds("unet", "gradient")
def gradients_reach_every_parameter(_: None, draw: Draw) -> None:
    """After one backward pass every parameter has a gradient that is not zero, but for a bias that a batch norm takes away."""
    spec = draw.choice(SMALL)
    model = network(spec, draw)
    y = model.forward(draw_image(spec, draw, n=3))
    dx = model.backward(draw.rng.standard_normal(y.shape))
    for name, grad in {"the image": dx, **model.grads()}.items():
        if not (spec.norm and ".conv" in name and name.endswith(".b")):
            require(bool(grad.any()), f"the gradient of {name} is zero everywhere")


def complex_step(spec: UNetSpec, draw: Draw, training: bool = True) -> dict[str, float]:
    """The network as a function of the image and of every parameter, held to the complex step."""
    model, x, seed = network(spec, draw), draw_image(spec, draw), draw.integer(0, 10**6)
    start, names = {name: value.copy() for name, value in model.state().items()}, list(model.params())

    def forward(x: Array, *params: Array) -> tuple[Array, UNet]:
        net = UNet(spec).astype(str(x.dtype))
        net.load_state({**start, **dict(zip(names, params, strict=True))})
        net.seed_dropout(np.random.default_rng(seed))
        net = net.train() if training else net.eval(remember=True)
        return net.forward(x), net

    def backward(dy: Array, net: UNet) -> tuple[Array, ...]:
        return net.backward(dy), *net.grads().values()

    free = [name for name in names if spec.norm and training and ".conv" in name and name.endswith(".b")]
    arguments = {"image": x, **{name: start[name] for name in names}}
    return check_complex_step(forward, backward, arguments, draw.rng, directions=1, zero_ok=free)


@holds("unet", "gradient")
def the_paper_passes_the_complex_step(_: None, draw: Draw) -> None:
    """All gradients of the paper's network, dropout included, agree with the complex step to 1e-12."""
    complex_step(PRESETS["paper"].but(base=3, depth=1), draw)


@holds("unet", "gradient")
def the_release_passes_the_complex_step(_: None, draw: Draw) -> None:
    """All gradients of the authors' released network, with its ReLUs after up-convolutions, agree to 1e-12."""
    complex_step(PRESETS["release"].but(base=3, depth=1, classes=3), draw)


@holds("unet", "gradient")
def same_bn_passes_the_complex_step(_: None, draw: Draw) -> None:
    """All gradients of the widely taught network with batch norm agree to 1e-12, in training and in eval mode."""
    complex_step(PRESETS["same_bn"].but(base=2, depth=1), draw, training=bool(draw.integer(0, 1)))


@holds("unet", "gradient")
def two_levels_pass_the_complex_step(_: None, draw: Draw) -> None:
    """With two levels, each of two skips sends its own gradient back to its own level."""
    complex_step(UNetSpec(base=2, depth=2, padding="same"), draw)


@holds("unet", "invariance")
def channels_inside_may_be_renamed(_: None, draw: Draw) -> None:
    """Permuting the channels between two convolutions, on both sides, leaves the logits; on one side only, it does not."""
    spec = draw.choice([s for s in SMALL if s.base == 3])
    model, x = network(spec, draw).eval(), draw_image(spec, draw)
    y, state = model.forward(x), model.state()
    order = np.roll(np.arange(spec.base), draw.integer(1, 2))  # no permutation that is its own inverse
    state["down.0.conv1.w"][...] = state["down.0.conv1.w"][..., order]
    require(bool((model.forward(x) != y).any()), "permuting the outputs of one convolution changed nothing")
    for name, value in state.items():
        if name.startswith(("down.0.norm1.", "down.0.conv1.b")):
            value[...] = value[order]
    state["down.0.conv2.w"][...] = state["down.0.conv2.w"][:, :, order]
    require_close("the logit with permuted channels", model.forward(x), y, rtol=ROUNDING)


@holds("unet", "convention")
def logits_are_not_squashed(_: None, draw: Draw) -> None:
    """The network ends with a plain 1x1 convolution: what is added to its bias is added to the logits, far below 0 too."""
    spec = draw.choice(SMALL)
    model, x = network(spec, draw).eval(), draw_image(spec, draw)
    y, far = model.forward(x), 1e4 * draw.rng.choice([-1.0, 1.0], spec.classes)
    model.params()["head.b"][...] += far
    require_close("the logit", model.forward(x) - y, np.broadcast_to(far, y.shape), rtol=ROUNDING)


@holds("unet", "invariance")
def one_logit_is_two_classes(_: None, draw: Draw) -> None:
    """A sigmoid network equals a two-class softmax network whose first logit is 0: loss, gradient of image and of weights."""
    one_spec = UNetSpec(base=2, depth=1, classes=1, padding="same")
    one = network(one_spec, draw)
    two = UNet(one_spec.but(classes=2)).astype("float64")
    for name, value in two.params().items():
        mine = one.params()[name]
        value[...] = np.concatenate((0 * mine, mine), axis=-1) if name.startswith("head") else mine
    x = draw_image(one_spec, draw)
    labels = draw.rng.integers(-1, 2, x.shape[:3])
    weights = draw.rng.uniform(0.5, 2, labels.shape)
    (loss, dlogits), (same_loss, same_dlogits) = (train.energy(model.forward(x), labels, weights) for model in (one, two))
    require_close("the loss of two classes", same_loss, loss, rtol=ROUNDING)
    require_close("the gradient of the image", two.backward(same_dlogits), one.backward(dlogits), rtol=ROUNDING)
    for name, grad in one.grads().items():
        same = two.grads()[name]
        require_close(f"the gradient of {name}", same[..., 1:] if name.startswith("head") else same, grad, rtol=ROUNDING)


# Batches, modes and bystanders ---------------------------------------------------------------------------------------


@holds("unet", "invariance")
def parts_of_a_batch_add_up(_: None, draw: Draw) -> None:
    """Without batch norm, loss and gradients of a batch are the means of those of its halves, and of its single images."""
    spec = draw.choice([s for s in SMALL if not s.norm])
    model, x = network(spec, draw), draw_image(spec, draw, n=4)
    labels = draw.rng.integers(0, spec.classes, model.forward(x).shape[:3])

    def gradients(size: int) -> tuple[float, dict[str, Array]]:
        model.zero_grad()
        total = 0.0
        for part in (slice(at, at + size) for at in range(0, 4, size)):
            loss, dlogits = train.energy(model.forward(x[part]), labels[part], None)
            model.backward(dlogits * size / 4)
            total += loss * size / 4
        return total, {name: g.copy() for name, g in model.grads().items()}

    loss, whole = gradients(4)
    for size in (2, 1):
        mean_loss, accumulated = gradients(size)
        require_close(f"the mean loss of parts of {size}", mean_loss, loss, rtol=ROUNDING)
        for name, grad in whole.items():
            require_close(f"the gradient of {name}, accumulated by {size}", accumulated[name], grad, rtol=ROUNDING)


@holds("unet", "invariance")
def images_of_a_batch_do_not_meet(_: None, draw: Draw) -> None:
    """In eval mode an image has the same logits alone, in a batch, and in another place of it."""
    spec = draw.choice(SMALL)
    model, x = network(spec, draw).eval(), draw_image(spec, draw, n=3)
    y = model.forward(x)
    for i in range(3):
        require_close(f"image {i} alone", model.forward(x[i : i + 1]), y[i : i + 1], rtol=ROUNDING)
    require_close("the batch in another order", model.forward(x[[1, 2, 0]]), y[[1, 2, 0]], rtol=ROUNDING)


@holds("unet", "contract")
def looking_changes_nothing(_: None, draw: Draw) -> None:
    """Hooks on every layer see every map once each way, and neither logits nor gradients differ by a bit."""
    spec = draw.choice(SMALL)
    model, x = network(spec, draw), draw_image(spec, draw)
    seen: list[tuple[str, str]] = []

    def hook(layer: Any, event: str, _array: Array) -> None:
        seen.append((layer.name, event))

    dy, results = draw.rng.standard_normal(model.forward(x).shape), []
    for hooked in (False, True):
        model.zero_grad()
        if hooked:
            model.hook("*", hook)
        results.append([model.forward(x), model.backward(dy), *(g.copy() for g in model.grads().values())])
    names = [layer.name for layer in shapes.layers(spec)]
    wanted = [(name, "forward") for name in names] + [(name, "backward") for name in reversed(names)]
    require(seen == wanted, f"hooks saw {len(seen)} maps, expected each of {len(names)} layers once each way, in order")
    for plain, watched in zip(*results, strict=True):
        require_close("a result with hooks", watched, plain, rtol=0)


@holds("unet", "contract")
def predicting_leaves_the_network_alone(_: None, draw: Draw) -> None:
    """In eval mode two passes are equal, dropout is off and no array of the network changes; training drops and learns."""
    spec = draw.choice((PAPER.but(base=3, depth=1), SAME_BN.but(base=3, depth=1, dropout=0.5)))
    model, x = network(spec, draw).eval(), draw_image(spec, draw)
    before = {name: value.copy() for name, value in model.state().items()}
    require_close("a second prediction", model.forward(x), model.forward(x), rtol=0)
    for name, value in model.state().items():
        require_close(f"{name} after predicting", value, before[name], rtol=0)
    model.train()
    require(bool((model.forward(x) != model.forward(x)).any()), "two training passes are equal: is dropout on?")
    buffers = [name for name in before if name.endswith((".mean", ".var"))]
    stuck = [name for name in buffers if (model.state()[name] == before[name]).all()]
    require(not stuck, f"{stuck[:1]} did not move in training mode")


@holds("unet", "convention")
def running_statistics_follow_the_batches(_: None, draw: Draw) -> None:
    """r <- 0.9 r + 0.1 s over (N, H, W), with the batch's mean and its unbiased variance; eval mode uses r instead of s."""
    c, shape = draw.integer(1, 3), (draw.integer(2, 3), draw.integer(1, 4), draw.integer(2, 5))
    norm = BatchNorm("norm", c)
    mean, var = np.zeros(c), np.ones(c)
    norm.buffers.update(mean=mean, var=var)
    norm.params.update(gamma=np.ones(c), beta=np.zeros(c))
    for _batch in range(3):
        x = draw.rng.normal(3.0, 2.0, (*shape, c))
        norm.forward(x)
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2))
        var = 0.9 * var + 0.1 * x.var((0, 1, 2), ddof=1)
    require_close("the running mean", norm.buffers["mean"], mean)
    require_close("the running variance", norm.buffers["var"], var)
    norm.training = False
    x = draw.rng.standard_normal((*shape, c))
    require_close("the result in eval mode", norm.forward(x), (x - mean) / np.sqrt(var + ops.norm.EPS), rtol=ROUNDING)


@holds("unet", "contract")
def a_context_is_used_once(_: None, draw: Draw) -> None:
    """Backward twice after one forward is refused, so that no stale map gives a wrong gradient; `zero_grad` starts anew."""
    spec = draw.choice(SMALL)
    model = network(spec, draw)
    dy = draw.rng.standard_normal(model.forward(draw_image(spec, draw)).shape)
    model.backward(dy)
    try:
        model.backward(dy)
    except OrderError:
        pass
    else:
        require(False, "a second backward pass went through without a forward pass before it")
    model.zero_grad()
    left = [name for name, grad in model.grads().items() if grad.any()]
    require(not left, f"after zero_grad the gradient of {left[:1]} is not zero")


@holds("unet", "contract")
def a_checkpoint_brings_back_every_bit(_: None, draw: Draw) -> None:
    """Saved and loaded, a network has the same arrays and logits; saved again, the file has the same bytes."""
    spec = draw.choice(SMALL)
    model = network(spec, draw).astype("float32").eval()
    x = draw_image(spec, draw).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "first.safetensors", Path(folder) / "second.safetensors"]
        checkpoint.save_checkpoint(files[0], checkpoint.Checkpoint(model, class_names=tuple("abcd"[: spec.classes]), step=7))
        loaded = checkpoint.load_checkpoint(files[0])
        checkpoint.save_checkpoint(files[1], loaded)
        require(files[0].read_bytes() == files[1].read_bytes(), "saving what was loaded gave other bytes")
    require(loaded.model.spec == spec and loaded.step == 7, f"loaded {loaded.model.spec} at step {loaded.step}")
    for name, value in model.state().items():
        require_close(name, loaded.model.state()[name], value, rtol=0)
    require_close("the logit", loaded.model.forward(x), model.forward(x), rtol=0)


@holds("unet", "contract")
def a_trained_network_is_stored_whole(_: None, draw: Draw) -> None:
    """What training changes is in the checkpoint, running statistics too: a loaded network predicts as the one that was saved."""
    model = UNet(draw.choice((SAME_BN.but(base=2, depth=1), SAME_BN.but(base=2, depth=2, channels=2))), draw.rng)
    x = (3 * draw_image(model.spec, draw) + 1).astype(np.float32)
    model.train().forward(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        checkpoint.save_checkpoint(path, checkpoint.Checkpoint(model))
        loaded = checkpoint.load_checkpoint(path).model
    require_close("the logit after loading", loaded.forward(x), model.eval().forward(x), rtol=0)
