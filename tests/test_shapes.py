"""Size arithmetic against a one-dimensional U-Net of bit masks that shares nothing with it, and against known numbers.

In that network a value is a Python integer, and bit k of it says "depends on input pixel k". A convolution ors three
neighbours, pooling two, and so on. What fits, what comes out, what is cropped and who sees what is read off the result.
"""

import threading
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinyunet import parallel, shapes
from tinyunet.errors import ShapeError
from tinyunet.spec import PAPER, PRESETS, RELEASE, SAME_BN, UNetSpec
from tinyunet.unet import UNet

DEPTHS = [1, 2, 3, 4, 5]
PADDINGS = ["valid", "same"]
SIDES = {1: 8, 2: 20, 3: 44, 4: 92, 5: 188}
"""Pixels that a valid network loses on each side, by depth."""

every_network = pytest.mark.parametrize(("depth", "padding"), [(d, p) for d in DEPTHS for p in PADDINGS])


class DoesNotFit(Exception):  # noqa: N818
    """A map vanished or had an odd side before pooling."""


def walk(depth, padding, x):
    """Send a list of bit masks through the network -> output, widths after each operation, crops from the bottom up."""
    widths, crops, skips = [], [], []

    def note(x):
        if not x:
            raise DoesNotFit
        widths.append(len(x))
        return x

    def conv(x):
        x = [0, *x, 0] if padding == "same" else x
        return note([a | b | c for a, b, c in zip(x, x[1:], x[2:], strict=False)])

    if not x:
        raise DoesNotFit
    for _ in range(depth):
        x = conv(conv(x))
        if len(x) % 2:
            raise DoesNotFit
        skips.append(x)
        x = note([a | b for a, b in zip(x[::2], x[1::2], strict=True)])
    x = conv(conv(x))
    while skips:
        x = note([v for v in x for _ in range(2)])
        skip = skips.pop()
        left, odd = divmod(len(skip) - len(x), 2)
        crops.append((left, left + odd))
        x = conv(conv([u | s for u, s in zip(x, skip[left : left + len(x)], strict=True)]))
    return x, widths, crops


def seen(mask):
    """The first and the last input pixel that a value depends on."""
    return (mask & -mask).bit_length() - 1, mask.bit_length() - 1


def inputs(n, start=0):
    """n input pixels, each depending on itself alone; pixel `start` has bit 0."""
    return [1 << (start + k) for k in range(n)]


def goes_through(depth, padding, n):
    """Whether the bit-mask network takes n pixels."""
    try:
        walk(depth, padding, [0] * n)
    except DoesNotFit:
        return False
    return True


# Sizes --------------------------------------------------------------------------------------------------------------


@every_network
def test_fitting_sizes_are_those_that_go_through(depth, padding):
    """`fits`, `smallest_size` and `size_step` tell exactly which sizes the network takes."""
    spec = UNetSpec(depth=depth, padding=padding)
    smallest, step = shapes.smallest_size(spec), shapes.size_step(spec)
    good = [n for n in range(smallest + 2 * step + 1) if goes_through(depth, padding, n)]
    assert good == [smallest, smallest + step, smallest + 2 * step]
    assert [n for n in range(smallest + 2 * step + 1) if shapes.fits(spec, n)] == good


@every_network
@pytest.mark.parametrize("preset", PRESETS)
def test_trace_has_the_widths_and_crops_of_the_walk(depth, padding, preset):
    """Every size after a convolution, pooling or up-convolution, and every crop, is the walk's; height and width apart."""
    spec = PRESETS[preset].but(depth=depth, padding=padding)
    high = shapes.smallest_size(spec)
    wide = high + 3 * shapes.size_step(spec)
    steps = shapes.trace(spec, high, wide)
    sized = [s for s in steps if s.layer.kind in ("conv3x3", "pool", "upconv")]
    for axis, n in enumerate((high, wide)):
        out, widths, crops = walk(depth, padding, [0] * n)
        assert [s.out_size[axis] for s in sized] == widths
        assert [s.crop[2 * axis : 2 * axis + 2] for s in steps if s.crop] == crops
        assert steps[-1].out_size[axis] == len(out) == shapes.output_size(spec, n)
    assert all(a.out_size == b.in_size for a, b in pairwise(steps))


@pytest.mark.parametrize("depth", DEPTHS)
def test_margin_and_smallest_size_by_depth(depth):
    """valid: 8, 20, 44, 92, 188 px are lost on each side, the smallest input is 18, 44, 92, 188, 380; same: 0 and 2^depth."""
    valid, same = UNetSpec(depth=depth), UNetSpec(depth=depth, padding="same")
    assert shapes.margin(valid) == SIDES[depth]
    assert shapes.smallest_size(valid) == {1: 18, 2: 44, 3: 92, 4: 188, 5: 380}[depth]
    assert (shapes.margin(same), shapes.smallest_size(same)) == (0, 2**depth)


@pytest.mark.parametrize("spec", [PAPER, RELEASE], ids=["paper", "release"])
def test_legal_sizes_of_the_paper(spec):
    """The paper's network takes 188 + 16 k pixels and gives 184 less; 572 gives 388 with crops of 4, 16, 40 and 88."""
    assert [n for n in range(600) if shapes.fits(spec, n)] == list(range(188, 600, 16))
    assert {n - shapes.output_size(spec, n) for n in range(188, 600, 16)} == {184}
    assert shapes.output_size(spec, 572) == 388
    assert [s.crop for s in shapes.trace(spec, 572) if s.crop] == [shapes.Crop(c, c, c, c) for c in (4, 16, 40, 88)]


def test_sizes_from_the_output():
    """`input_size` is the smallest input whose output covers what is wanted; `legal_size` the smallest fitting one."""
    assert [shapes.input_size(PAPER, n) for n in (1, 4, 5, 388, 389)] == [188, 188, 204, 572, 588]
    assert [shapes.legal_size(PAPER, n) for n in (-5, 1, 188, 189, 204, 205)] == [188, 188, 188, 204, 204, 220]
    assert [shapes.input_size(SAME_BN, n) for n in (1, 16, 17)] == [16, 16, 32]


@every_network
def test_nearest_sizes_are_the_neighbours(depth, padding):
    """The nearest sizes are the last fitting one below and the first above, or the size itself where it fits."""
    spec = UNetSpec(depth=depth, padding=padding)
    smallest, step = shapes.smallest_size(spec), shapes.size_step(spec)
    good = [smallest + k * step for k in range(4)]
    for n in range(good[-1]):
        below, above = [g for g in good if g < n][-1:], [g for g in good if g > n][:1]
        assert shapes.nearest_sizes(spec, n) == ((n,) if n in good else (*below, *above))


# Known numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "params"),
    [(PAPER, 31_030_658), (RELEASE, 31_100_354), (SAME_BN, 31_042_434),
     (UNetSpec(base=2, depth=1), 20 + 38 + 76 + 148 + 34 + 74 + 38 + 6),
     (UNetSpec(base=2, depth=1, norm="batch"), 20 + 38 + 76 + 148 + 34 + 74 + 38 + 6 + 2 * (2 + 2 + 4 + 4 + 2 + 2))],
)  # fmt: skip
def test_parameter_counts(spec, params):
    """31,030,658 for the paper, 31,100,354 for the release; a small one counted by hand, with and without batch norm."""
    assert shapes.count_params(spec) == params


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", [{}, {"channels": 3, "classes": 1, "depth": 2}, {"dropout": 0.1, "depth": 3}], ids=str)
def test_the_layer_list_is_the_networks(preset, changes):
    """Layers, their order and their parameter counts are those of the network that is built."""
    spec = PRESETS[preset].but(**{"base": 3, **changes})
    built = [(layer.name, sum(p.size for p in layer.params.values())) for layer in UNet(spec).layers]
    assert [(layer.name, layer.params) for layer in shapes.layers(spec)] == built


@pytest.mark.parametrize("preset", PRESETS)
def test_levels_are_those_of_the_names(preset):
    """The level of a layer is the number in its name; the bottom is below all, the head on top."""
    spec = PRESETS[preset].but(dropout=0.1, depth=3)
    for layer in shapes.layers(spec):
        where, _, rest = layer.name.partition(".")
        assert layer.level == (int(rest[0]) if where in ("down", "up") else {"bottom": 3, "head": 0}[where])


def test_multiply_adds_of_the_paper():
    """A 572 tile takes 150.428 GMAC forward, the release's network 157.29; a 3x3 kernel is nine multiply-adds."""
    assert sum(s.macs for s in shapes.trace(PAPER, 572)) == 150_428_424_448
    assert sum(s.macs for s in shapes.trace(RELEASE, 572)) / 1e9 == pytest.approx(157.29, abs=0.005)
    first = shapes.trace(PAPER, 572, 588)[0]
    assert (first.layer.name, first.macs) == ("down.0.conv1", 570 * 586 * 9 * 1 * 64)
    assert {s.layer.kind for s in shapes.trace(SAME_BN, 16) if s.macs == 0} == {"norm", "relu", "pool", "concat"}


# Receptive field ----------------------------------------------------------------------------------------------------


@every_network
def test_reach_of_every_phase_is_the_walks(depth, padding):
    """First and last pixel that an output pixel depends on, for all 2^depth phases, far from any border."""
    spec = UNetSpec(depth=depth, padding=padding)
    step, lost = 2**depth, SIDES[depth] if padding == "valid" else 0
    n = shapes.legal_size(spec, 2 * 256 + step)  # two times the farthest reach, 219 px at depth 5, and one of each phase
    out, _, _ = walk(depth, padding, inputs(n))
    first = len(out) // 2 // step * step
    expected = []
    for i in range(first, first + step):
        low, high = seen(out[i])
        expected.append(shapes.Reach(i + lost - low, high - (i + lost)))
    assert list(shapes.receptive_field(spec)) == expected


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("depth", "sizes", "nearest", "farthest"),
    [(1, {18: 2}, 8, 9), (2, {44: 4}, 20, 23), (3, {92: 4, 100: 4}, 44, 51), (4, {188: 4, 204: 12}, 92, 107)],
)
def test_receptive_field_table(depth, padding, sizes, nearest, farthest):
    """18 px at depth 1, 44 at 2, 92 or 100 at 3, 188 for 4 and 204 for 12 of 16 phases at depth 4, reaching 92 to 107 px."""
    field = shapes.receptive_field(UNetSpec(depth=depth, padding=padding))
    assert Counter(r.size for r in field) == sizes
    assert (min(min(r) for r in field), max(max(r) for r in field)) == (nearest, farthest)


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "size", "text"),
    [
        (PAPER, (570, 570),
         "UNet.forward: a 570x570 image does not fit depth 4 with valid convolutions: level 1 (down.1) would pool an odd "
         "279x279. Nearest sizes that work: 556, 572. `predict` takes any size."),
        (PAPER, (570, 572),
         "UNet.forward: a 570x572 image does not fit depth 4 with valid convolutions: level 1 (down.1) would pool an odd "
         "279x280. Nearest sizes that work: height 556 or 572; width 572. `predict` takes any size."),
        (PAPER, (3, 3),
         "UNet.forward: a 3x3 image does not fit depth 4 with valid convolutions: down.0.conv2 would be left with nothing of a "
         "1x1 map. Nearest sizes that work: 188. `predict` takes any size."),
        (SAME_BN, (250, 256),
         "UNet.forward: a 250x256 image does not fit depth 4 with same convolutions: level 1 (down.1) would pool an odd 125x128. "
         "Nearest sizes that work: height 240 or 256; width 256. `predict` takes any size."),
    ],
)  # fmt: skip
def test_a_size_that_does_not_fit(spec, size, text):
    """The error says where the size stops fitting and names the nearest sizes, for each axis if they differ."""
    with pytest.raises(ShapeError) as error:
        shapes.check_size(spec, *size, "UNet.forward")
    assert str(error.value) == text


def test_the_network_says_the_same():
    """`UNet.forward` refuses before its first convolution, with the text above."""
    with pytest.raises(ShapeError, match=r"UNet.forward: a 20x23 image .* Nearest sizes that work: height 20; width 22 or 24\."):
        UNet(UNetSpec(base=1, depth=1)).forward(np.zeros((1, 20, 23, 1), np.float32))


def test_other_functions_refuse_too():
    """`trace` and `output_size` refuse a size that does not fit; `center_crop` a skip that is too small."""
    for refuses in (lambda: shapes.trace(PAPER, 570), lambda: shapes.output_size(PAPER, 570)):
        with pytest.raises(ShapeError, match="Nearest sizes that work: 556, 572"):
            refuses()
    with pytest.raises(ShapeError) as error:
        shapes.center_crop((10, 7), (9, 8))
    assert str(error.value) == (
        "center_crop: a 10x7 skip cannot be cropped to 9x8. The skip comes from the contracting path and must be at least as "
        "large as the map it is joined to."
    )


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_center_crop_leaves_the_centre(dh, dw, h, w):
    """What is cut adds up to the difference; an odd difference cuts one more at the bottom and right."""
    crop = shapes.center_crop((h + dh, w + dw), (h, w))
    assert (crop.top + crop.bottom, crop.left + crop.right) == (dh, dw)
    assert (crop.bottom - crop.top, crop.right - crop.left) == (dh % 2, dw % 2)


# Tiles --------------------------------------------------------------------------------------------------------------


@st.composite
def tilings(draw):
    """A network, an image side, and a tile that keeps something."""
    spec = UNetSpec(depth=draw(st.integers(1, 3)), padding=draw(st.sampled_from(PADDINGS)))
    step, lost = 2**spec.depth, {1: 8, 2: 20, 3: 44}[spec.depth]
    smallest = {"valid": 2 * lost + step, "same": 2 * (lost + 2 * step) + step}[spec.padding]
    tile = shapes.legal_size(spec, smallest) + step * draw(st.integers(0, 6))
    return spec, draw(st.integers(1, 300)), tile


@given(tilings())
def test_tiles_agree_with_the_whole_image(drawn):
    """Each pixel is taken from one tile, inside its output, and depends there on the pixels it depends on in the whole image."""
    spec, n, tile = drawn
    depth, padding, step = spec.depth, spec.padding, 2**spec.depth
    lost = shapes.margin(spec)
    spans = shapes.tile_spans(spec, n, tile)
    assert [p for s in spans for p in range(s.start, s.stop)] == list(range(n))

    far = 2 * tile  # no tile reaches farther beyond the image; bit 0 stands for pixel -far
    side = shapes.input_size(spec, n)
    whole, _, _ = walk(depth, padding, inputs(side, far - lost))
    for s in spans:
        assert s.start % step == 0
        assert 0 <= s.in_stop - s.in_start <= tile
        assert goes_through(depth, padding, s.in_stop - s.in_start)
        assert s.in_start + far >= 0
        out, _, _ = walk(depth, padding, inputs(s.in_stop - s.in_start, far + s.in_start))
        kept = out[s.offset : s.offset + s.stop - s.start]
        assert len(kept) == s.stop - s.start > 0
        assert kept == whole[s.start : s.stop]


@given(tilings())
def test_same_tiles_keep_away_from_borders_of_their_own(drawn):
    """same padding: a kept pixel is at least its exact reach away from any border that the whole image does not have."""
    spec, n, tile = drawn
    assume(spec.padding == "same")
    step = 2**spec.depth
    field = shapes.receptive_field(spec)
    whole = -(-n // step) * step
    for s in shapes.tile_spans(spec, n, tile):
        assert 0 <= s.in_start <= s.start
        assert s.stop <= s.in_stop <= whole
        for p in range(s.start, s.stop):
            assert s.in_start == 0 or p - s.in_start >= field[p % step].before
            assert s.in_stop == whole or s.in_stop - 1 - p >= field[p % step].after


def test_tiles_of_the_paper():
    """572-pixel tiles give 388 pixels of which 384 are used, because 388 is no multiple of 16; one alone gives all 388."""
    a, b, c = shapes.tile_spans(PAPER, 1000, 572)
    assert (a.start, b.start, c.start, c.stop) == (0, 384, 768, 1000)
    assert (b.in_start, b.in_stop, b.offset) == (384 - 92, 384 - 92 + 572, 0)
    assert shapes.tile_spans(PAPER, 388, 572) == (shapes.Span(0, 388, -92, 480, 0),)
    assert len(shapes.tile_spans(PAPER, 389, 572)) == 2


def test_a_tile_that_is_just_the_image():
    """The smallest tile, of which no multiple of 16 is left, does for an image of its own size; and so with same padding."""
    assert shapes.tile_spans(PAPER, 4, 188) == (shapes.Span(0, 4, -92, 96, 0),)
    assert shapes.tile_spans(SAME_BN, 16, 16) == (shapes.Span(0, 16, 0, 16, 0),)


def test_tiles_that_cannot_be():
    """An empty image, a tile that does not fit, and one that keeps nothing are refused with what to use instead."""
    cases = [
        (PAPER, 0, 572, "tile_spans: an image side of 0 pixels cannot be tiled. Give at least 1."),
        (PAPER, 512, 188,
         "tile_spans: a tile of 188 gives 4 pixels, less than the 16 that keep tiles aligned. Use at least 204."),
        (SAME_BN, 512, 224,
         "tile_spans: a tile of 224 keeps nothing beside a halo of 112 pixels on both sides. Use at least 240."),
    ]  # fmt: skip
    for spec, n, tile, text in cases:
        with pytest.raises(ShapeError) as error:
            shapes.tile_spans(spec, n, tile)
        assert str(error.value) == text
    with pytest.raises(ShapeError, match=r"^tile_spans: a 570x570 image does not fit .* 556, 572\."):
        shapes.tile_spans(PAPER, 512, 570)
    assert len(shapes.tile_spans(PAPER, 512, 204)) == 32
    assert len(shapes.tile_spans(SAME_BN, 512, 240)) == 32


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [UNetSpec(base=3, depth=2, dropout=0.5), UNetSpec(base=4, depth=2, relu_after_up=True, last_up_halves=False),
     UNetSpec(base=4, depth=2, padding="same", norm="batch", channels=3, classes=1)],
    ids=["valid", "release", "same_bn"],
)  # fmt: skip
def test_remembered_is_what_the_layers_keep(spec, rng):
    """The bytes counted for each layer are those of the arrays in its context; batch norm keeps some numbers a channel more."""
    height, width = shapes.legal_size(spec, 50), shapes.legal_size(spec, 70)
    model = UNet(spec)
    model.forward(rng.standard_normal((1, height, width, spec.channels)).astype(np.float32))
    counted = {id(a) for layer in model.layers for a in layer.params.values()}
    for layer, step in zip(model.layers, shapes.trace(spec, height, width), strict=True):
        kept = [a for a in layer._ctx or () if isinstance(a, np.ndarray) and id(a) not in counted]
        counted.update(map(id, kept))
        per_channel = sum(a.nbytes for a in kept if a.ndim == 1 or (a.ndim == 4 and a.shape[:3] == (1, 1, 1)))
        assert layer.name == step.layer.name
        assert sum(a.nbytes for a in kept) - per_channel == step.remembered()
        assert per_channel == 0 or step.layer.kind == "norm"


def test_remembered_of_other_dtypes():
    """Inputs double in float64; masks and winners stay as they are."""
    for s in shapes.trace(PAPER.but(norm="batch"), 188):
        doubled = s.layer.kind in ("conv3x3", "conv1x1", "upconv", "norm")
        assert s.remembered(8) == s.remembered(4) * (2 if doubled else 1)


@pytest.mark.parametrize(
    ("spec", "n"),
    [(UNetSpec(base=8, depth=2), 140), (UNetSpec(base=8, depth=2, padding="same", norm="batch"), 128)],
    ids=["valid", "same_bn"],
)
def test_forward_bytes_bounds_the_measured_peak(spec, n, rng):
    """A forward pass allocates at most `forward_bytes`, and the maps that it counts beside the workspace are really alive."""
    model = UNet(spec).eval()
    x = rng.standard_normal((1, n, n, 1)).astype(np.float32)
    model.forward(x)  # whatever is built once is built now
    tracemalloc.start()
    try:
        model.forward(x.copy())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert shapes.forward_bytes(spec, n) - shapes.workspace_bytes(spec) <= peak <= shapes.forward_bytes(spec, n)


@pytest.mark.parametrize(
    ("spec", "n"),
    [(UNetSpec(base=8, depth=3), 220), (UNetSpec(base=16, depth=4, padding="same", norm="batch"), 256),
     pytest.param(UNetSpec(base=64, depth=4), 380, marks=pytest.mark.slow)],
    ids=["narrow", "same_bn", "paper"],
)  # fmt: skip
def test_workspaces_stay_within_the_plan(spec, n, rng):
    """What a thread keeps to work in, after a step forward and back, is at most `workspace_bytes`."""
    kept = {}

    def step():
        model = UNet(spec, 0)
        model.backward(np.ones_like(model.forward(rng.standard_normal((1, n, n, 1), dtype=np.float32))))
        kept.update(vars(parallel._local).get("spaces", {}))

    with parallel.threads(1):
        thread = threading.Thread(target=step)  # a new one, whose workspaces are empty
        thread.start()
        thread.join()
    assert kept
    assert sum(array.nbytes for array in kept.values()) <= shapes.workspace_bytes(spec)
    assert shapes.workspace_bytes(spec, threads=3) == 3 * shapes.workspace_bytes(spec)


def test_forward_bytes_by_hand():
    """By hand: valid, the first convolution is the worst layer; same, the concatenation, while the skip is alive as well."""

    def maps(spec, *size, itemsize=4):
        return shapes.forward_bytes(spec, *size, itemsize=itemsize) - shapes.workspace_bytes(spec)

    early = 4 * (30 * 30 + 28 * 28)  # down.0.conv1 on 30 px: input, output
    joined = 4 * (2 * 2 + 2 * 2 * 2 + 2 * 2)  # up.0.concat on 2 px: from below, joined, the skip
    assert maps(UNetSpec(base=1, depth=1), 30) == early
    assert maps(UNetSpec(base=1, depth=1, padding="same"), 2) == joined
    colours = 8 * (30 * 34 * 3 + 28 * 32 * 2)  # down.0.conv1 of a colour image in float64: input, output
    assert maps(UNetSpec(base=2, depth=1, channels=3), 30, 34, itemsize=8) == colours
    upper = 4 * (4 * 4 + 4 * 4 * 2 + 4 * 4)  # up.0.concat on 4 px: the skip of the level below is gone by then
    assert maps(UNetSpec(base=1, depth=2, padding="same"), 4) == upper


def test_training_bytes_add_up():
    """Batch scales what belongs to images, moments what belongs to parameters; nothing else changes."""
    one = shapes.training_bytes(PAPER, 188)
    params = 4 * shapes.count_params(PAPER)
    assert shapes.training_bytes(PAPER, 188, moments=2) - one == params
    per_image = one - shapes.workspace_bytes(PAPER) - 3 * params
    assert per_image > sum(s.remembered() for s in shapes.trace(PAPER, 188))
    assert shapes.training_bytes(PAPER, 188, batch=3) == 3 * per_image + shapes.workspace_bytes(PAPER) + 3 * params


def test_training_bytes_by_hand():
    """One level on 2x2 px, all maps one channel wide or two: the worst layer is the head, where backward begins."""
    spec = UNetSpec(base=1, depth=1, padding="same", dropout=0)
    down = 16 + 2 + 16 + 2 + 1  # the image, a mask of two rows of a byte each, an input, a mask, the winner
    bottom = 4 + 1 + 8 + 1
    up = 8 + 32 + 2 + 16 + 2  # what comes up, what was joined, a mask, an input, a mask
    head = 16 + 32  # its input, or the gradient by it, and that by two logits
    params = 3 * 4 * shapes.count_params(spec)
    assert shapes.training_bytes(spec, 2, workspace=0) == down + bottom + up + head + params
    assert shapes.training_bytes(spec, 2) == shapes.training_bytes(spec, 2, workspace=shapes.workspace_bytes(spec))


def test_gradients_in_flight_by_hand():
    """The worst layer is the last ReLU: its mask, dy and dx. A convolution has let go of its input when it makes dx."""
    spec = UNetSpec(base=4, depth=1, padding="same", dropout=0, classes=1)
    n = 8 * 8  # pixels, and 16 at the bottom
    mask = 8 * 4  # rows of 8 pixels of 4 bits; at the bottom 4 rows of 4 pixels of 8
    down = 4 * n + mask + 16 * n + mask + 4 * 16
    bottom = 16 * 16 + mask // 2 + 32 * 16 + mask // 2
    up = 32 * 16 + 32 * n + mask + 16 * n  # what comes up, what was joined, a mask, the input
    flying = mask + 2 * 16 * n
    params = 3 * 4 * shapes.count_params(spec)
    assert shapes.training_bytes(spec, 8, workspace=0) == down + bottom + up + flying + params

