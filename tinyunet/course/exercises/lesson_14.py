"""Lesson 14: predicting by tiles that agree with the whole image, and averaging over eight views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import shapes
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.catalogue.net import network
from tinyunet.course.exercise import Mistake, difference, exercise
from tinyunet.errors import CheckError
from tinyunet.spec import PAPER, UNetSpec
from tinyunet.unet import UNet

Part = tuple[int, int, int, int]

# The plan ------------------------------------------------------------------------------------------------------------


def _plan_is_exact(draw: Draw, plan: Callable[..., Any]) -> None:
    """For a network of three poolings at the least: with fewer, every output is a multiple of the grid."""
    spec = PAPER.but(depth=draw.integer(3, 4))
    step, margin = 2**spec.depth, shapes.margin(spec)
    for tiles, full in ((1, False), (draw.integer(2, 4), False), (2, True)):
        tile = shapes.legal_size(spec, step + 2 * margin) + step * draw.integer(1, 4)
        keep = shapes.output_size(spec, tile)
        stride = keep // step * step
        n = stride * tiles if full else stride * (tiles - 1) + draw.integer(keep - stride + 1, stride - 1)
        called = f"\nCalled with depth {spec.depth}, n {n}, tile {tile}; the margin is {margin}, the output {keep}."
        try:
            _judge(_parts(plan(spec, n, tile)), n, tile, step, margin, keep)
        except CheckError as wrong:
            raise CheckError(f"{wrong}{called}") from None


def _parts(found: Any) -> list[Part]:
    if not isinstance(found, list | tuple) or not found:
        raise CheckError(f"The plan is {found!r:.60}, expected a list of tuples (start, stop, in_start, in_stop).")
    for part in found:
        if len(part) != 4 or any(int(k) != k for k in part):
            raise CheckError(f"The plan has {part!r:.60}, expected four whole numbers: (start, stop, in_start, in_stop).")
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in found]


def _judge(parts: list[Part], n: int, tile: int, step: int, margin: int, keep: int) -> None:
    """The pixels of the result first, then what the network is fed."""
    done = 0
    for start, stop, in_start, in_stop in parts:
        name = f"The tile of pixels {start} to {stop}"
        if start != done:
            what = f"Pixels {done} to {start} are missing" if start > done else f"Pixels {start} to {done} are made twice"
            raise CheckError(f"{what}: one tile ends at {done}, the next starts at {start}. Each pixel is to be made once.")
        if stop <= start:
            raise CheckError(f"{name} makes no pixel.")
        if stop > n:
            raise CheckError(f"{name} goes beyond the result, which ends at {n}.")
        if stop - start > keep:
            raise CheckError(f"{name} shall make {stop - start} pixels, but the network's output has {keep}.")
        if start % step:
            hint = " You lay the outputs edge to edge." if start % keep == 0 else ""
            raise CheckError(f"{name} starts at {start}, which is no multiple of 2^depth = {step}: its poolings lie on another "
                             f"grid than those of the first tile, and it does not agree with the whole image.{hint}")  # fmt: skip
        if in_stop - in_start != tile:
            raise CheckError(f"{name} is fed pixels {in_start} to {in_stop}, which are {in_stop - in_start}, expected {tile}. "
                             "What lies outside the image is mirrored.")  # fmt: skip
        if in_start != start - margin:
            hint = " The output is smaller by the margin on both sides." if in_start == start else ""
            if in_start < start - margin:
                hint = " Do not push a tile back: let it reach beyond the edge, into the mirror."
            raise CheckError(f"{name} is fed pixels {in_start} to {in_stop}. So the first pixel of its output is the image's "
                             f"pixel {in_start + margin}, expected {start}.{hint}")  # fmt: skip
        done = stop
    if done < n:
        raise CheckError(f"Pixels {done} to {n} are missing: the plan ends before the image does.")
    enough = -(-n // (keep // step * step))
    if len(parts) > enough:
        raise CheckError(f"The plan has {len(parts)} tiles; {enough} are enough. How large may the stride be?")


exercise(
    "14.plan",
    "plan(spec, n, tile) -> tiles along one axis that agree with the whole image",
    laws=(_plan_is_exact,),
    mistakes=(
        Mistake("You lay the outputs edge to edge", edits=((" // step * step", ""),)),
        Mistake("goes beyond the result", edits=(("min(a + stride, n)", "a + stride"),)),
        Mistake("The output is smaller by the margin", edits=(("a - border, a - border + tile", "a, a + tile"),)),
        Mistake("no multiple of 2^depth", edits=(("step = 2**spec.depth", "step = spec.depth"),)),
        Mistake("Do not push a tile back", edits=(("a - border, a - border + tile) for a in range(0, n, stride)",
                                                   "b - border, b - border + tile) for a in range(0, n, stride) "
                                                   "for b in [max(0, min(a, n - stride))]"),)),
        Mistake("are enough", edits=(("range(0, n, stride)", "range(0, n, step)"), ("min(a + stride, n)", "min(a + step, n)"))),
        Mistake("the plan ends before the image does", edits=(("range(0, n, stride)", "range(0, max(n - stride, 1), stride)"),)),
        Mistake("are made twice", edits=(("min(a + stride, n)", "min(a + shapes.output_size(spec, tile), n)"),)),
        Mistake("expected a list", edits=(("return [(a", "[(a"),)),
        Mistake("You lay the outputs edge to edge", bug="stride_of_the_output"),
        Mistake("So the first pixel of its output is", bug="tile_one_pixel_off"),
    ),
    ours=lambda spec, n, tile: [(s.start, s.stop, s.in_start, s.in_stop) for s in shapes.tile_spans(spec, n, tile)],
)  # fmt: skip

# Stitching -----------------------------------------------------------------------------------------------------------

BEYOND = {
    "constant": "Beyond the edge your network sees zeros. It should see the mirror image.",
    "symmetric": "Your mirror repeats the edge pixel. mirror_index does not.",
    "edge": "Beyond the edge your network sees the last pixel over and over. It should see the mirror image.",
    "wrap": "Beyond the edge your network sees the opposite side of the image. It should see the mirror image.",
}
"""What else people let a network see outside the image, by the name that np.pad has for it."""


def _whole(model: UNet, x: Array, mode: Any) -> Array:
    """One pass over the whole image."""
    margin, (height, width, _) = shapes.margin(model.spec), x.shape
    sides = [(margin, shapes.input_size(model.spec, n) - margin - n) for n in (height, width)]
    return model.forward(np.pad(x, (*sides, (0, 0)), mode=mode)[None])[0, :height, :width]


def _scene(draw: Draw, norm: Any) -> tuple[UNet, Array, list[list[Part]]]:
    """A small network, an image that is not square, and two plans of unequal length whose last tiles are not full."""
    spec = UNetSpec(base=2, depth=draw.integer(1, 2), classes=3, channels=draw.integer(1, 2), norm=norm)
    step, margin = 2**spec.depth, shapes.margin(spec)
    tile = shapes.legal_size(spec, 2 * step + 2 * margin)
    stride = shapes.output_size(spec, tile) // step * step
    height = 2 * stride + draw.integer(1, stride - 1)
    size = (height, height + stride) if draw.choice((True, False)) else (height + stride, height)
    plans = [[(a, min(a + stride, n), a - margin, a - margin + tile) for a in range(0, n, stride)] for n in size]
    return network(spec, draw), draw.rng.standard_normal((*size, spec.channels)), plans


def _tiles_are_the_whole(draw: Draw, stitch: Callable[..., Any]) -> None:
    model, x, (rows, cols) = _scene(draw, None)
    kept, runs = x.copy(), []
    expected = _whole(model.eval(), x, "reflect")
    model.hook("head", lambda layer, event, y: runs.append(y.shape))
    found = stitch(model, x, list(rows), list(cols))
    called = f"\nCalled with an image of {x.shape[0]}x{x.shape[1]}, {len(rows)} rows of tiles and {len(cols)} columns."
    if wrong := difference("y", found, expected):
        if not difference("y", found, _each_by_itself(model, x, rows, cols)):
            raise CheckError(f"{wrong}\nHint: you mirror each tile at its own border. Around a tile lie pixels of the image; "
                             f"only what lies outside the image is mirrored.{called}")  # fmt: skip
        for mode, hint in BEYOND.items():
            if not difference("y", found, _whole(model, x, mode)):
                raise CheckError(f"{wrong}\nHint: {hint}{called}")
        raise CheckError(f"{wrong}{_wrong_tiles(found, expected, rows, cols)}{called}")
    if len(runs) != len(rows) * len(cols):
        raise CheckError(f"The logits are right, but the network ran {len(runs)} times, expected {len(rows) * len(cols)}: once "
                         f"for each tile. It is for images that do not fit into memory as a whole.{called}")  # fmt: skip
    if not np.array_equal(x, kept):
        raise CheckError("The logits are right, but your code changes the image.")


def _each_by_itself(model: UNet, x: Array, rows: list[Part], cols: list[Part]) -> Array:
    """Tiles that know nothing of the image around them."""
    y = np.zeros((*x.shape[:2], model.spec.classes))
    for top, bottom, *row in rows:
        for left, right, *col in cols:
            sides = [(a - start, stop - z) for a, z, (start, stop) in ((top, bottom, row), (left, right, col))]
            tile = np.pad(x[top:bottom, left:right], (*sides, (0, 0)), mode="reflect")
            y[top:bottom, left:right] = model.forward(tile[None])[0, : bottom - top, : right - left]
    return y


def _wrong_tiles(found: Any, expected: Array, rows: list[Part], cols: list[Part]) -> str:
    """Which tiles differ, if it is not all of them."""
    if np.shape(found) != expected.shape:
        return ""
    bad = [(r, c) for r in rows for c in cols
           if difference("", np.asarray(found)[r[0] : r[1], c[0] : c[1]], expected[r[0] : r[1], c[0] : c[1]])]  # fmt: skip
    (top, bottom, *_), (left, right, *_) = bad[0]
    empty = ", where nothing was written" if not np.asarray(found)[top:bottom, left:right].any() else ""
    return (f"\n{len(bad)} of {len(rows) * len(cols)} tiles are wrong, the first that of rows {top} to {bottom} and columns "
            f"{left} to {right}{empty}.")  # fmt: skip


def _mode_is_eval(draw: Draw, stitch: Callable[..., Any]) -> None:
    model, x, (rows, cols) = _scene(draw, "batch")
    expected = _whole(model.eval(), x, "reflect")
    before = {name: value.copy() for name, value in model.state().items()}
    found = stitch(model.train(), x, list(rows), list(cols))
    changed = [name for name, value in model.state().items() if not np.array_equal(value, before[name])]
    wrong = difference("y", found, expected)
    if wrong or changed:
        said = f"\nYour code also changed {changed[0]}, and {len(changed) - 1} other arrays of the network." if changed else ""
        raise CheckError("Without batch norm your tiles are right; with it they are not. The network came in training mode, "
                         "where batch norm takes the statistics of each tile. Call model.eval() first.\n"
                         f"{wrong}{said}")  # fmt: skip


CUT = "cut(x, in_top, in_bottom, in_left, in_right)"
PADDED = "np.pad(x, ((99, 99), (99, 99), (0, 0)), {})[None, in_top + 99 : in_bottom + 99, in_left + 99 : in_right + 99]"
KEPT = "tile[: bottom - top, : right - left]"

exercise(
    "14.stitch",
    "stitch(model, x, rows, cols) -> logits of the whole image, tile by tile",
    laws=(_tiles_are_the_whole, _mode_is_eval),
    mistakes=(
        Mistake("Call model.eval() first", edits=(("    model.eval()\n", ""),)),
        Mistake("Your code stops", edits=((KEPT, "tile"),)),
        Mistake("sees zeros", edits=((CUT, PADDED.format("'constant'")),)),
        Mistake("repeats the edge pixel", edits=((CUT, PADDED.format("'symmetric'")),)),
        Mistake("mirror each tile at its own border",
                edits=((CUT, "np.pad(x[top:bottom, left:right], ((top - in_top, in_bottom - bottom), "
                             "(left - in_left, in_right - right), (0, 0)), 'reflect')[None]"),)),
        Mistake("tiles are wrong, the first that of rows", edits=((CUT, "cut(x, in_left, in_right, in_top, in_bottom)"),)),
        Mistake("where nothing was written", edits=(("in cols:", "in cols[:-1]:"),)),
        Mistake("tiles are wrong", edits=((KEPT, "tile[top - bottom :, left - right :]"),)),
        Mistake("has shape", edits=(("return y", "return y[None]"),)),
        Mistake("once for each tile", edits=(("tile = model.forward", f"model.forward({CUT}); tile = model.forward"),)),
    ),
)  # fmt: skip

# Eight views ---------------------------------------------------------------------------------------------------------


def _views(f: Callable[[Array], Array], x: Array, turn_back: bool = True) -> list[Array]:
    """Transposed or not, then mirrored along either axis or not: all eight, in the order 00 01 10 11, and transposed."""
    answers = []
    for transpose in (False, True):
        for axes in ((), (0,), (1,), (0, 1)):
            view = np.flip(x.swapaxes(0, 1) if transpose else x, axes)
            y = f(view)
            if turn_back:
                y = np.flip(y, axes)
                y = y.swapaxes(0, 1) if transpose else y
            answers.append(y)
    return answers


def _eight_views_are_averaged(draw: Draw, average: Callable[..., Any]) -> None:
    """The square first, in which every mistake gives a result; then one that is not."""
    side, scale = draw.integer(4, 6), draw.rng.uniform(1, 2)

    def f(x: Array) -> Array:
        """Looks at where a pixel lies, by row and column at once: what treats a single mirror alike hides a missing flip."""
        rows, cols = np.indices(x.shape[:2])
        first, second = np.moveaxis(x, -1, 0)
        return np.stack([np.cumsum(first, axis=0) * (rows + 1) * (cols + 2) ** 2, second**2 + scale * rows * cols**2], -1)

    for shape in ((side, side, 2), (side, side + 2, 2)):
        x = draw.rng.standard_normal(shape)
        seen: list[Array] = []

        def watched(view: Array, seen: list[Array] = seen) -> Array:
            seen.append(view.copy())
            return f(view)

        found = average(watched, x.copy())
        views = _views(f, x)
        if wrong := difference("y", found, np.mean(views, axis=0)):
            raise CheckError(f"{wrong}{_why(f, x, found, views, seen)}\nCalled with an image of {shape[0]}x{shape[1]}.")


def _why(f: Callable[[Array], Array], x: Array, found: Any, views: list[Array], seen: list[Array]) -> str:
    different = {(view.shape, view.tobytes()) for view in seen}
    if not difference("", found, np.sum(views, axis=0)):
        return "\nHint: that is the sum of the eight. Divide by eight."
    if len(different) < 8:
        return (f"\nHint: f was shown {len(seen)} views, {len(different)} of them different. There are eight: four turns, each "
                "with a flip and without.")  # fmt: skip
    if x.shape[0] == x.shape[1] and not difference("", found, np.mean([f(view) for view in seen], axis=0)):
        return "\nHint: the views are right, but the answers are not turned back before they are added."
    return ("\nHint: the eight views are right, so the way back is not. A quarter turn is undone by one in the other direction; "
            "and what was done last must be undone first.")  # fmt: skip


exercise(
    "14.average",
    "average(f, x) -> the mean of f over the eight views of x, turned back",
    laws=(_eight_views_are_averaged,),
    mistakes=(
        Mistake("are not turned back", edits=(("y = np.rot90(y, -k)", "pass"), ("(y[::-1] if flip else y)", "y"))),
        Mistake("undone by one in the other direction", edits=(("np.rot90(y, -k)", "np.rot90(y, k)"),)),
        Mistake("what was done last must be undone first",
                edits=(("y = np.rot90(y, -k)", "y = np.rot90(y[::-1] if flip else y, -k)"),
                       ("+ (y[::-1] if flip else y)", "+ y"))),
        Mistake("4 of them different", edits=(("(False, True)", "(False,)"), ("/ 8", "/ 4"))),
        Mistake("4 of them different", edits=(("range(4)", "range(2)"), ("/ 8", "/ 4"))),
        Mistake("Divide by eight", edits=((" / 8", ""),)),
    ),
)  # fmt: skip
