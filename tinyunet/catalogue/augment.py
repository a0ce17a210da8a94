"""Properties of elastic deformation and of augmentation: one field for image, labels and weights, and no label made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue.core import Draw, holds, require, require_close
from tinyunet.data import augment
from tinyunet.data.augment import Augment, Tile
from tinyunet.data.sample import IGNORE

SINGLE = 1e-5
"""Allowed error of what was interpolated in float32."""

MOVES = Augment(shift=6.0, rotation=180.0, scale=0.2, flips=True, elastic=1.5, gain=0.0, offset=0.0, gamma=0.0)
"""Everything on that displaces pixels, and nothing that changes grey values."""

OVERSHOOT = 1.25
"""Bicubic interpolation along one axis exceeds its nodes by at most this factor: (-1, 9, 9, -1) / 16 in absolute values."""


def mirrored(i: int, n: int) -> int:
    """Where a mirror at both ends shows pixel i of n, step by step; left of pixel 0 things look as on its right."""
    at, step = 0, 1
    for _ in range(abs(i) if n > 1 else 0):
        if not 0 <= at + step < n:
            step = -step
        at += step
    return at


def draw_sizes(draw: Draw) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of a tile and of its centre."""
    out = (draw.integer(1, 9), draw.integer(1, 9))
    margins = (draw.integer(0, 4), draw.integer(0, 4))
    return (out[0] + 2 * margins[0], out[1] + 2 * margins[1]), out


def coordinates(height: int, width: int) -> tuple[Array, Array, Array]:
    """An image whose two channels are row and column of each pixel, labels that number the pixels, weights that are the row."""
    image = np.moveaxis(np.indices((height, width)), 0, -1).astype(np.float32)
    return image, np.arange(height * width, dtype=np.int32).reshape(height, width), image[..., 0].copy()


def noisy(draw: Draw, channels: int = 1) -> tuple[Array, Array, Array]:
    """A random image with labels, some unknown, and weights."""
    height, width = draw.integer(4, 14), draw.integer(4, 14)
    image = draw.rng.uniform(10, 200, (height, width, channels)).astype(np.float32)
    labels = draw.rng.choice(np.array([IGNORE, 0, 3, 200], np.int32), (height, width))
    return image, labels, draw.rng.uniform(0.5, 5, (height, width)).astype(np.float32)


def tile_of(draw: Draw, sample: tuple[Array, Array, Array | None], settings: Augment, seed: int | None = None,
            sizes: tuple[tuple[int, int], tuple[int, int]] | None = None) -> Tile:
    """A tile from the middle of a sample, by a generator of its own seed."""
    image, labels, weights = sample
    in_size, out_size = sizes or ((12, 10), (6, 8))
    seed = draw.integer(0, 10**6) if seed is None else seed
    center = (labels.shape[0] // 2, labels.shape[1] // 2)
    return augment.augment_tile(image, labels, weights, center, in_size, out_size, settings, np.random.default_rng(seed))


# The elastic field ---------------------------------------------------------------------------------------------------


@holds("elastic_field", "convention")
def no_deviation_is_no_displacement(_: None, draw: Draw) -> None:
    """With a standard deviation of 0 nothing moves."""
    field = augment.elastic_field((draw.integer(1, 20), draw.integer(1, 20)), draw.rng, std=0.0)
    require(not field.any(), f"displacements of up to {np.abs(field).max():g} px, expected 0")


@holds("elastic_field", "reference")
def it_is_bicubic_interpolation(_: None, draw: Draw) -> None:
    """The field is Keys' bicubic interpolation (a = -1/2) of random vectors at a coarse grid, edge nodes repeated."""
    shape, grid, std, seed = (draw.integer(2, 14), draw.integer(2, 14)), draw.integer(2, 5), 10.0, draw.integer(0, 10**6)
    nodes = std * np.random.default_rng(seed).standard_normal((2, grid, grid))

    def keys(t: float) -> float:
        t = abs(t)
        return 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    def weights(n: int) -> Array:
        b = np.zeros((n, grid))
        for i in range(n):
            for k in range(-1, grid + 1):
                b[i, min(max(k, 0), grid - 1)] += keys(i * (grid - 1) / (n - 1) - k)
        return b

    expected = weights(shape[0]) @ nodes @ weights(shape[1]).T
    require_close("the field", augment.elastic_field(shape, np.random.default_rng(seed), grid, std), expected, rtol=SINGLE)


@holds("elastic_field", "invariance")
def the_field_stays_near_its_nodes(_: None, draw: Draw) -> None:
    """Displacements are bounded: bicubic interpolation exceeds the largest vector of a node by less than 1.25 along each axis."""
    shape, grid, seed = (draw.integer(2, 30), draw.integer(2, 30)), draw.integer(2, 4), draw.integer(0, 10**6)
    largest = np.abs(10.0 * np.random.default_rng(seed).standard_normal((2, grid, grid))).max(axis=(1, 2))
    found = np.abs(augment.elastic_field(shape, np.random.default_rng(seed), grid, 10.0)).max(axis=(1, 2))
    require(bool((found <= OVERSHOOT**2 * largest + SINGLE).all()), f"{found} px, but no node moves by more than {largest} px")


@holds("elastic_field", "convention")
def a_node_moves_by_the_deviation(_: None, draw: Draw) -> None:
    """At the nodes the displacement is normal with the stated standard deviation, in pixels, along rows and along columns."""
    std = float(draw.integer(1, 20))
    corners = np.array([augment.elastic_field((9, 7), draw.rng, 3, std)[:, ::4, ::3] for _ in range(200)])  # 1800 an axis
    for axis, name in enumerate(("rows", "columns")):
        found = float(corners[:, axis].std())
        require(abs(found / std - 1) < 0.12, f"the deviation along {name} is {found:.3g} px, expected {std:g}")  # 7 sigma


@holds("elastic_field", "contract")
def same_seed_same_field(_: None, draw: Draw) -> None:
    """The same seed gives the same bytes, another seed another field, in float32."""
    shape, seed = (draw.integer(2, 12), draw.integer(2, 12)), draw.integer(0, 10**6)
    one, two, other = (augment.elastic_field(shape, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    require(one.dtype == np.float32 and one.shape == (2, *shape), f"got {one.dtype} {one.shape}, expected float32 {(2, *shape)}")
    require(one.tobytes() == two.tobytes(), "the same seed gave two different fields")
    require(one.tobytes() != other.tobytes(), "another seed gave the same field")


# Tiles ---------------------------------------------------------------------------------------------------------------


@holds("augment_tile", "reference")
def without_augmentation_a_tile_is_a_copy(_: None, draw: Draw) -> None:
    """Switched off, a tile is the image itself, continued as in a mirror, and labels and weights are those of its centre."""
    (image, labels, weights), (in_size, out_size) = noisy(draw, channels=2), draw_sizes(draw)
    center = (draw.integer(-5, labels.shape[0] + 5), draw.integer(-5, labels.shape[1] + 5))
    tile = augment.augment_tile(image, labels, weights, center, in_size, out_size, Augment.none(), draw.rng)
    index = [[mirrored(c - n // 2 + i, side) for i in range(n)]
             for c, n, side in zip(center, in_size, labels.shape, strict=True)]
    margins = [(a - b) // 2 for a, b in zip(in_size, out_size, strict=True)]
    inner = [rows[m : m + n] for rows, m, n in zip(index, margins, out_size, strict=True)]
    require_close("the image", tile.image, image[np.ix_(*index)], rtol=0)
    require_close("the label", tile.labels, labels[np.ix_(*inner)], rtol=0)
    require_close("the weight", tile.weights, weights[np.ix_(*inner)], rtol=0)


@holds("augment_tile", "convention")
def a_displacement_of_nothing_is_the_identity(_: None, draw: Draw) -> None:
    """A deformation too small to see gives the copy: interpolation by itself moves and changes nothing."""
    sample, sizes = noisy(draw), draw_sizes(draw)
    plain = tile_of(draw, sample, Augment.none(), seed=0, sizes=sizes)
    bent = tile_of(draw, sample, replace(Augment.none(), elastic=1e-9), seed=0, sizes=sizes)
    for name, found, expected in zip(Tile._fields, bent, plain, strict=True):
        require_close(f"{name} after a displacement of 1e-9 px", found, expected, rtol=SINGLE)


@holds("augment_tile", "convention")
def beyond_the_edge_is_a_mirror(_: None, draw: Draw) -> None:
    """Beyond 0 1 2 3 comes 2, not 3: the edge pixel is not repeated, with interpolation and without."""
    image = np.arange(4, dtype=np.float32)[None, :, None]
    expected = np.array([2, 1, 0, 1, 2, 3, 2, 1], np.float32)
    for settings in (Augment.none(), replace(Augment.none(), elastic=1e-9)):
        tile = augment.augment_tile(image, image[..., 0].astype(np.int32), None, (0, 2), (1, 8), (1, 8), settings, draw.rng)
        require_close("the image beyond the edges", tile.image[0, :, 0], expected, rtol=SINGLE)
        require_close("the label beyond the edges", tile.labels[0], expected, rtol=0)


@holds("augment_tile", "invariance")
def image_labels_and_weights_move_together(_: None, draw: Draw) -> None:
    """On an image of its own coordinates, each label and each weight was read at the very place that the image shows."""
    sample = coordinates(draw.integer(12, 30), draw.integer(12, 30))
    tile = tile_of(draw, sample, MOVES)
    place = tile.image[3:-3, 1:-1].astype(np.float64)  # the centre of 12 x 10 is 6 x 8
    width = sample[1].shape[1]
    read = np.stack(np.divmod(tile.labels, width), axis=-1)
    gap = float(np.abs(read - place).max())
    require(gap <= 0.5 + 1e-3, f"a label was read {gap:.3g} px from where the image was; the nearest pixel is within 0.5")
    require_close("the weight", tile.weights, place[..., 0], rtol=SINGLE)


@holds("augment_tile", "invariance")
def no_label_is_made_up(_: None, draw: Draw) -> None:
    """Deformed labels are a subset of the labels there were, IGNORE included; weights stay within the range of weights."""
    image, labels, weights = noisy(draw)
    tile = tile_of(draw, (image, labels, weights), Augment())
    strange = np.setdiff1d(tile.labels, labels)
    require(not strange.size, f"label {strange[:1]} was not there before; labels are taken from the nearest pixel")
    low, high = float(tile.weights.min()), float(tile.weights.max())
    require(weights.min() * (1 - SINGLE) <= low and high <= weights.max() * (1 + SINGLE),
            f"weights run from {low:g} to {high:g}, before from {weights.min():g} to {weights.max():g}")


@holds("augment_tile", "convention")
def unknown_pixels_weigh_nothing(_: None, draw: Draw) -> None:
    """Without a weight map every pixel weighs 1, and 0 where its label is IGNORE."""
    image, labels, _weights = noisy(draw)
    tile = tile_of(draw, (image, labels, None), draw.choice([MOVES, Augment.none()]))
    require_close("the weight", tile.weights, np.where(tile.labels == IGNORE, 0, 1), rtol=0)


@holds("augment_tile", "invariance")
def grey_values_are_for_the_image_alone(_: None, draw: Draw) -> None:
    """Changing contrast, brightness and gamma changes the image and not one label or weight."""
    sample, seed = noisy(draw), draw.integer(0, 10**6)
    plain = tile_of(draw, sample, MOVES, seed)
    grey = tile_of(draw, sample, replace(MOVES, gain=0.5, offset=0.5, gamma=0.5), seed)
    require(bool((plain.image != grey.image).any()), "the image did not change")
    require_close("the label", grey.labels, plain.labels, rtol=0)
    require_close("the weight", grey.weights, plain.weights, rtol=0)


@holds("augment_tile", "invariance")
def flips_flip_everything(_: None, draw: Draw) -> None:
    """With flips alone a tile is the plain one or one of its mirror images, labels and weights the same one."""
    sample, sizes = coordinates(20, 24), draw_sizes(draw)
    plain = tile_of(draw, sample, Augment.none(), seed=0, sizes=sizes)
    wanted = [[np.flip(a, axes) for a in plain] for axes in ((), (0,), (1,), (0, 1))]
    seen, first = set(), draw.integer(0, 10**6)
    for seed in range(first, first + 100):
        flipped = tile_of(draw, sample, replace(Augment.none(), flips=True), seed, sizes)
        matches = [k for k, views in enumerate(wanted)
                   if all(np.allclose(a, b, rtol=SINGLE) for a, b in zip(flipped, views, strict=True))]
        require(bool(matches), "the tile is none of its mirror images, or image, labels and weights are different ones")
        seen |= set(matches)
        if len(seen) == 4:
            break
    require(len(seen) == 4, "one of the four mirror images never came up")


@holds("augment_tile", "invariance")
def turning_keeps_distances(_: None, draw: Draw) -> None:
    """Under rotation steps along rows and columns stay at a right angle; scale multiplies both by one factor in its range."""
    scale = draw.integer(0, 5) / 10
    tile = tile_of(draw, coordinates(60, 60), replace(Augment.none(), rotation=180.0, scale=scale), sizes=((9, 9), (9, 9)))
    down, right = tile.image[1, 0] - tile.image[0, 0], tile.image[0, 1] - tile.image[0, 0]
    require(abs(float(down @ right)) < 1e-3, f"steps along rows and columns are not at a right angle: {down} and {right}")
    determinant = float(down[0] * right[1] - down[1] * right[0])
    lengths = np.linalg.norm([down, right], axis=1)
    require_close("the length of a step", lengths, np.full(2, np.sqrt(abs(determinant))), rtol=1e-3)
    require(determinant > 0, "rotation and scale must not mirror the tile")
    factor = float(lengths[0])
    require(1 / (1 + scale) - 1e-3 < factor < 1 + scale + 1e-3, f"a step is {factor:.4g} px, scale {scale} allows 1 / (1 + scale)"
            " to 1 + scale")


@holds("augment_tile", "convention")
def displacements_are_bounded(_: None, draw: Draw) -> None:
    """A shift moves all pixels alike, by at most `shift` along each axis; elastic deformation by what its field says."""
    shift, seed, sizes, sample = draw.integer(0, 9), draw.integer(0, 10**6), ((12, 10), (12, 10)), coordinates(60, 60)
    plain = tile_of(draw, sample, Augment.none(), 0, sizes).image
    moved = tile_of(draw, sample, replace(Augment.none(), shift=float(shift)), seed, sizes).image - plain
    require(float(np.ptp(moved, axis=(0, 1)).max()) < 1e-3, "a shift moved some pixels further than others")
    require(float(np.abs(moved).max()) <= shift + 1e-3, f"a shift of {np.abs(moved).max():.3g} px, at most {shift} were allowed")
    rng = np.random.default_rng(seed)
    rng.uniform(-1, 1, 9)  # shifts, angle, scale, flips and grey values are drawn before the nodes
    bent = tile_of(draw, sample, replace(Augment.none(), elastic=2.0), seed, sizes).image - plain
    require_close("the displacement", np.moveaxis(bent, -1, 0), augment.elastic_field((12, 10), rng, std=2.0), rtol=1e-3)


@holds("augment_tile", "contract")
def same_seed_same_tile(_: None, draw: Draw) -> None:
    """The same seed gives the same bytes, and switching one kind off leaves the draws of all others as they were."""
    sample, seed = noisy(draw), draw.integer(0, 10**6)
    one, two, other = (tile_of(draw, sample, Augment(), s) for s in (seed, seed, seed + 1))
    require(all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True)), "the same seed gave two different tiles")
    require(one.image.tobytes() != other.image.tobytes(), "another seed gave the same tile")
    states = []
    for settings in (Augment(), Augment.none(), MOVES):
        rng = np.random.default_rng(seed)
        augment.augment_tile(*sample, (3, 3), (4, 4), (2, 2), settings, rng)
        states.append(rng.random())
    require(len(set(states)) == 1, "how many numbers are drawn depends on what is switched on")


@holds("augment_tile", "contract")
def inputs_survive_and_types_are_fixed(_: None, draw: Draw) -> None:
    """A tile is float32, int32, float32 whatever came in, shares no memory with it, and leaves it as it was."""
    image, labels, weights = noisy(draw)
    image = image.astype(draw.choice(["uint8", "uint16", "float32", "float64"]))
    inputs = (image, labels.astype(draw.choice(["int16", "int64"])), weights)
    before = [a.copy() for a in inputs]
    tile = tile_of(draw, inputs, draw.choice([Augment(), Augment.none()]))
    for name, a, dtype in zip(Tile._fields, tile, (np.float32, np.int32, np.float32), strict=True):
        require(a.dtype == dtype, f"{name} is {a.dtype}, expected {np.dtype(dtype)}")
        require(not any(np.shares_memory(a, b) for b in inputs), f"{name} is a view of what was handed in")
    require(all(bool((a == b).all()) for a, b in zip(inputs, before, strict=True)), "an array that was handed in has changed")


@holds("augment_tile", "reference")
def grey_values_change_by_the_formula(_: None, draw: Draw) -> None:
    """v -> gain (v - mean) + mean + offset std keeps an image an affine copy of itself, within the range of both settings."""
    sample, gain, offset, std = noisy(draw), 0.4, 0.3, float(draw.integer(1, 50))
    image, labels, weights = sample
    plain = tile_of(draw, sample, Augment.none(), 0).image.astype(np.float64)
    grey = augment.augment_tile(image, labels, weights, (labels.shape[0] // 2, labels.shape[1] // 2), (12, 10), (6, 8),
                                replace(Augment.none(), gain=gain, offset=offset), draw.rng, std=std).image.astype(np.float64)
    slope = grey.std() / plain.std()
    added = grey.mean() - plain.mean()
    require_close("the grey value", grey, slope * (plain - plain.mean()) + plain.mean() + added, rtol=SINGLE)
    require(1 - gain - 1e-4 < slope < 1 + gain + 1e-4, f"contrast times {slope:.4g}, gain {gain} allows 1 - gain to 1 + gain")
    require(abs(added) <= offset * std + 1e-2, f"brightness plus {added:.4g}, offset {offset} allows {offset * std:g}")


@holds("augment_tile", "invariance")
def gamma_keeps_black_and_white(_: None, draw: Draw) -> None:
    """Gamma bends grey values between the darkest and the brightest of a tile; those two and the order of all stay."""
    sample, seed = noisy(draw), draw.integer(0, 10**6)
    plain = tile_of(draw, sample, Augment.none(), seed).image.ravel()
    bent = tile_of(draw, sample, replace(Augment.none(), gamma=1.0), seed).image.ravel()
    for name, a, b in (("darkest", plain.min(), bent.min()), ("brightest", plain.max(), bent.max())):
        require(abs(float(a - b)) <= 1e-4 * float(plain.max()), f"the {name} value went from {a:g} to {b:g}")
    order = np.argsort(plain, kind="stable")
    require(bool((np.diff(bent[order]) >= -1e-4).all()), "gamma changed which of two pixels is the brighter one")
    require(bool((np.abs(bent - plain) > 1e-3).any()), "gamma changed nothing")
