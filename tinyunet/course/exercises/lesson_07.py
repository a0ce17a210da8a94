"""Lesson 07: sizes, the centre crop, the concatenation, its backward pass, and the fork where gradients add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import ops, shapes
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.catalogue.core import require
from tinyunet.check import numerical_grad
from tinyunet.course.exercise import Law, Mistake, catalogue, difference, equals, exercise
from tinyunet.errors import CheckError, DTypeError, ShapeError
from tinyunet.ops.crop import CropConcatContext
from tinyunet.spec import UNetSpec

# Sizes ---------------------------------------------------------------------------------------------------------------


def _size(n: int, depth: int) -> int:
    spec = UNetSpec(depth=depth)
    return shapes.output_size(spec, n) if shapes.fits(spec, n) else 0


def _walk(n: int, depth: int) -> str:
    """Why a size gives what it gives: "100, 96, 48, 44, 22, ..." or what does not fit."""
    spec = UNetSpec(depth=depth)
    try:
        steps = shapes.trace(spec, n)
    except ShapeError as error:
        return f"{str(error).partition('convolutions: ')[2].partition('. Nearest')[0]}, so the size does not fit"
    named = [step for step in steps if step.layer.kind in ("pool", "upconv") or step.layer.name.endswith("conv2")]
    return "two convolutions, pooling, ...: " + ", ".join(map(str, [n, *(step.out_size[0] for step in named)]))


def _by(convs_down: int = 4, convs_up: int = 4, bottom: int = 4, odd: bool = False) -> Callable[[int, int], int]:
    """The sum with other numbers: what the usual mistakes give."""

    def size(n: int, depth: int) -> int:
        for _ in range(depth):
            n -= convs_down
            if n < 1 or (n % 2 and not odd):
                return 0
            n //= 2
        n -= bottom
        for _ in range(depth):
            if n < 1:
                return 0
            n = 2 * n - convs_up
        return max(n, 0)

    return size


_SIZES: dict[str, Callable[[int, int], int]] = {
    "Odd maps are pooled: n // 2 drops a row without a word. A map of odd size does not fit, the result is 0.": _by(odd=True),
    "A single convolution a level is counted. Each level has two: n - 4.": _by(2, 2, 2),
    "The two convolutions of the levels on the way up are missing.": _by(convs_up=0),
    "The two convolutions at the bottom are missing.": _by(bottom=0),
    "Your convolutions keep the size, as with same padding. The paper's lose 2 pixels each.": _by(0, 0, 0),
}


def _every_size(draw: Draw, answer: Callable[[int, int], Any]) -> None:
    """All sizes up to 260, all depths up to 4: a formula that is right for some is found out."""
    for depth in (1, 2, 3, 4):
        for n in range(1, 261):
            found, expected = answer(n, depth), _size(n, depth)
            if wrong := difference(f"output_size({n}, {depth})", found, expected):
                told = f"{wrong}\nFor n = {n}: {_walk(n, depth)}."
                for hint, other in _SIZES.items():
                    if all(answer(m, d) == other(m, d) for d in (1, 2, 3, 4) for m in range(1, 261)):
                        told += f"\nHint: {hint}"
                        break
                else:
                    if isinstance(found, int | np.integer) and found < 0:
                        told += "\nHint: A map cannot have a negative size. As soon as less than 1 is left, return 0."
                raise CheckError(told)


exercise(
    "07.size",
    "output_size(n, depth) -> side of the output, 0 if n does not fit",
    laws=(_every_size,),
    mistakes=(
        Mistake("Odd maps are pooled", edits=(("n < 1 or n % 2 == 1", "n < 1"),)),
        Mistake("A single convolution a level", edits=(
            ("        n = n - 4\n        if n < 1 or", "        n = n - 2\n        if n < 1 or"),
            ("    n = n - 4\n    if n < 1:", "    n = n - 2\n    if n < 1:"),
            ("2 * n - 4", "2 * n - 2"),
        )),
        Mistake("on the way up are missing", edits=(("2 * n - 4", "2 * n"),)),
        Mistake("Your convolutions keep the size", edits=(
            ("        n = n - 4\n        if n < 1 or", "        if n < 1 or"),
            ("    n = n - 4\n    if n < 1:", "    if n < 1:"),
            ("2 * n - 4", "2 * n"),
        )),
        Mistake("at the bottom are missing", edits=(("    n = n - 4\n    if n < 1:", "    if n < 1:"),)),
        Mistake("cannot have a negative size", edits=(
            ("    n = n - 4\n    if n < 1:\n        return 0\n", "    n = n - 4\n"),
            ("        n = 2 * n - 4\n        if n < 1:\n            return 0\n", "        n = 2 * n - 4\n"),
        )),
        Mistake("is None", edits=(("    return n\n", "    pass\n"),)),
    ),
)  # fmt: skip

# The crop ------------------------------------------------------------------------------------------------------------


def _crop(skip: Array, height: int, width: int) -> Array:
    """Row by row and column by column, each by its place."""
    top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
    return np.array([[[image[top + i, left + j] for j in range(width)] for i in range(height)] for image in skip])


def _sizes(draw: Draw, more_rows: int, more_cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) of the up path and (A, B) of the skip, neither square"""
    height = draw.integer(2, 4)
    width = height + draw.integer(1, 3)
    return (height, width), (height + more_rows, width + more_cols)


DIFFERENCES = ((4, 2), (0, 0), (3, 5), (2, 7), (0, 4))
"""Rows and columns by which the skip is larger: even and unequal, none, odd, mixed, one axis alone."""


def _ramp(more_rows: int, more_cols: int) -> Law:
    """A skip that holds its own coordinates, so that it can be said what was cut out."""

    def law(draw: Draw, answer: Callable[..., Any]) -> None:
        (height, width), (rows, cols) = _sizes(draw, more_rows, more_cols)
        ramps = np.indices((rows, cols)).transpose(1, 2, 0)[None].astype(float)
        skip = np.concatenate((ramps, ramps + 100))
        expected = _crop(skip, height, width)
        found = answer(skip.copy(), height, width)
        what = f"A {rows}x{cols} skip, cut to {height}x{width}:"
        wrong = difference("the crop", found, expected)
        if not wrong:
            return
        if not isinstance(found, np.ndarray) or found.shape != expected.shape:
            empty = isinstance(found, np.ndarray) and not found.size
            hint = "\nHint: [k:-k] is empty for k = 0. Say where the slice stops: top + height."
            raise CheckError(f"{what} {wrong}{hint if empty else ''}")
        first, wanted = found[0, 0, 0], expected[0, 0, 0]
        require(not np.array_equal(first, wanted), f"{what} it begins at the right place, but {wrong}")
        raise CheckError(f"{what} it begins at row {first[0]:g} and column {first[1]:g} of the skip, expected row {wanted[0]:g} "
                         f"and column {wanted[1]:g}.{_why(first, (more_rows, more_cols))}")  # fmt: skip

    law.__name__ = f"ramp_{more_rows}_{more_cols}"
    return law


def _why(first: Array, more: tuple[int, int]) -> str:
    """What a wrong first pixel tells."""
    rows, cols = more
    hints = {
        (0, 0): "That is the upper left corner. The centre has as much cut off above as below.",
        (rows, cols): "That is the lower right corner. The centre has as much cut off above as below.",
        (cols // 2, rows // 2): "The offsets of rows and columns are exchanged; with square images nobody would see it.",
    }
    hint = hints.get((int(first[0]), int(first[1])))
    if not hint and all(int(k) in (d // 2, d - d // 2) for k, d in zip(first, more, strict=True)):
        hint = "Of an odd difference the extra pixel goes at the bottom and right: round down."
    return f"\nHint: {hint}" if hint else ""


exercise(
    "07.crop",
    "center_crop(skip, height, width) -> the centre of skip",
    laws=tuple(_ramp(*more) for more in DIFFERENCES),
    mistakes=(
        Mistake("That is the upper left corner", edits=(("(skip.shape[1] - height) // 2", "0"),
                                                        ("(skip.shape[2] - width) // 2", "0"))),
        Mistake("That is the lower right corner", edits=(("(skip.shape[1] - height) // 2", "skip.shape[1] - height"),
                                                         ("(skip.shape[2] - width) // 2", "skip.shape[2] - width"))),
        Mistake("rows and columns are exchanged", edits=(("skip[:, top : top + height, left : left + width]",
                                                          "skip[:, left : left + height, top : top + width]"),)),
        Mistake("is empty for k = 0", edits=(("skip[:, top : top + height, left : left + width]",
                                              "skip[:, top:-top, left:-left]"),)),
        Mistake("round down", edits=(("(skip.shape[1] - height) // 2", "(skip.shape[1] - height + 1) // 2"),
                                     ("(skip.shape[2] - width) // 2", "(skip.shape[2] - width + 1) // 2"))),
        Mistake("has shape", edits=(("left : left + width", "left : left + height"),)),
    ),
)  # fmt: skip

# Forward and backward ------------------------------------------------------------------------------------------------


def _join(up: Array, skip: Array) -> Array:
    return np.array([[[[*u, *v] for u, v in zip(*rows, strict=True)] for rows in zip(*images, strict=True)]
                     for images in zip(up, _crop(skip, *up.shape[1:3]), strict=True)])  # fmt: skip


def _up_skip(more_channels: int) -> Callable[[Draw], dict[str, Any]]:
    def arguments(draw: Draw) -> dict[str, Any]:
        small, large = _sizes(draw, draw.integer(1, 2) * 2, draw.integer(3, 5))
        n, c, normal = draw.integer(2, 3), draw.integer(2, 3), draw.rng.standard_normal
        return {"up": normal((n, *small, c)), "skip": normal((n, *large, c + more_channels))}

    return arguments


def _dy_shapes(draw: Draw) -> dict[str, Any]:
    up, skip = _up_skip(draw.integer(0, 1))(draw).values()
    dy = draw.rng.standard_normal((*up.shape[:3], up.shape[3] + skip.shape[3]))
    return {"dy": dy, "up_shape": up.shape, "skip_shape": skip.shape}


def _dskip(dy: Array, up_shape: tuple[int, ...], skip_shape: tuple[int, ...]) -> Array:
    """Pixel by pixel: what the crop took from here comes back here."""
    dskip = np.zeros(skip_shape, dy.dtype)
    top, left = (skip_shape[1] - up_shape[1]) // 2, (skip_shape[2] - up_shape[2]) // 2
    for n, i, j in np.ndindex(up_shape[:3]):
        dskip[n, top + i, left + j] = dy[n, i, j, up_shape[3] :]
    return dskip


def _at_the_corner(dy: Array, up_shape: tuple[int, ...], skip_shape: tuple[int, ...]) -> Array:
    dskip = np.zeros(skip_shape, dy.dtype)
    dskip[:, : up_shape[1], : up_shape[2]] = dy[..., up_shape[3] :]
    return dskip


def _of_the_first(dy: Array, up_shape: tuple[int, ...], skip_shape: tuple[int, ...]) -> Array:
    """dskip, if the skip came first"""
    return _dskip(np.roll(dy, -skip_shape[3], axis=3), up_shape, skip_shape)


def _part(k: int, name: str, formula: Callable[..., Array], lookalikes: dict[str, Callable[..., Array]]) -> Law:
    """One of the two gradients, so that the check says which."""
    one = equals(formula, _dy_shapes, lookalikes, what=name)

    def law(draw: Draw, answer: Callable[..., Any]) -> None:
        def part(*arguments: Any) -> Any:
            found = answer(*arguments)
            require(isinstance(found, tuple) and len(found) == 2, "Two gradients are wanted: return dup, dskip.")
            return found[k]

        one(draw, part)

    law.__name__ = name
    return law


_properties = catalogue("crop_concat", kinds=("adjoint", "invariance", "convention"))


def _whole(draw: Draw, answer: Callable[..., Any]) -> None:
    """The two together, as the backward half of our op."""
    _properties(draw, ops.crop_concat_forward, lambda dy, ctx: answer(dy, ctx.up_shape, ctx.skip_shape))


ADDED = "The two maps are added. A U-Net lays them side by side: the channels become more."
SKIP_FIRST = "The skip comes first. Ours, as the authors' release, has the up path first."
CORNER = "The skip is cut at its upper left corner. Your center_crop keeps the centre."
WIDTH = "The maps stand side by side as pictures do. They are to share their pixels: join along the last axis, the channels."

_JOINED = {
    SKIP_FIRST: lambda up, skip: np.concatenate((_crop(skip, *up.shape[1:3]), up), axis=3),
    CORNER: lambda up, skip: np.concatenate((up, skip[:, : up.shape[1], : up.shape[2]]), axis=3),
}
_JOINED_ALIKE = {  # where both have as many channels, some mistakes stop no code
    **_JOINED,
    ADDED: lambda up, skip: up + _crop(skip, *up.shape[1:3]),
    WIDTH: lambda up, skip: np.concatenate((up, _crop(skip, *up.shape[1:3])), axis=2),
}

exercise(
    "07.concat",
    "crop_concat(up, skip) -> y, the up path's channels and then those of the cropped skip",
    laws=(equals(_join, _up_skip(0), _JOINED_ALIKE, what="y"), equals(_join, _up_skip(1), _JOINED, what="y")),
    mistakes=(
        Mistake(SKIP_FIRST, edits=(("(up, center_crop(skip, up.shape[1], up.shape[2]))",
                                    "(center_crop(skip, up.shape[1], up.shape[2]), up)"),)),
        Mistake(CORNER, edits=(("center_crop(skip, up.shape[1], up.shape[2])", "skip[:, : up.shape[1], : up.shape[2]]"),)),
        Mistake(ADDED, edits=(("np.concatenate((up, center_crop(skip, up.shape[1], up.shape[2])), axis=3)",
                               "up + center_crop(skip, up.shape[1], up.shape[2])"),)),
        Mistake(WIDTH, edits=(("axis=3", "axis=2"),)),
        Mistake("Your code stops", edits=(("center_crop(skip, up.shape[1], up.shape[2])", "skip"),)),
        Mistake(SKIP_FIRST, bug="concat_order"),
        Mistake(CORNER, bug="crop_at_the_corner"),
    ),
    ours=lambda up, skip: ops.crop_concat_forward(up, skip)[0],
)  # fmt: skip


def _split(dy: Array, up_shape: tuple[int, ...], skip_shape: tuple[int, ...]) -> tuple[Array, Array]:
    crop = shapes.center_crop((skip_shape[1], skip_shape[2]), (up_shape[1], up_shape[2]))
    return ops.crop_concat_backward(dy, CropConcatContext(crop, up_shape, skip_shape, dy.dtype))


NO_GRADIENT = "dskip is 0 everywhere, and the level across would learn nothing from here. A library had that for long."

exercise(
    "07.split",
    "crop_concat_backward(dy, up_shape, skip_shape) -> dup, dskip",
    laws=(
        _part(0, "dup", lambda dy, up_shape, skip_shape: dy[..., : up_shape[3]], {
            "dup is dy of the last channels. Forward put the up path first, so its gradient is in the first.":
                lambda dy, up_shape, skip_shape: dy[..., -up_shape[3] :],
        }),
        _part(1, "dskip", _dskip, {
            NO_GRADIENT: lambda dy, up_shape, skip_shape: np.zeros(skip_shape),
            "dskip stands at the upper left corner. It belongs where forward cut it out: in the centre.": _at_the_corner,
            "dskip is dy of the first channels. Forward put the skip last, so its gradient is in the last.": _of_the_first,
            "dskip is not padded. It is as large as the skip was before it was cropped, with zeros on the border.":
                lambda dy, up_shape, skip_shape: dy[..., up_shape[3] :],
        }),
        _whole,
    ),
    mistakes=(
        Mistake(NO_GRADIENT, edits=(("= dy[..., c_up:]", "= 0"),)),
        Mistake("dskip stands at the upper left corner", edits=(("(skip_shape[1] - height) // 2", "0"),
                                                                ("(skip_shape[2] - width) // 2", "0"))),
        Mistake("dskip is not padded", edits=(("dy[..., :c_up].copy(), dskip", "dy[..., :c_up].copy(), dy[..., c_up:]"),)),
        Mistake("dskip is dy of the first channels", edits=(("= dy[..., c_up:]", "= dy[..., : skip_shape[3]]"),)),
        Mistake("dup is dy of the last channels", edits=(("dy[..., :c_up].copy()", "dy[..., -c_up:].copy()"),)),
        Mistake("Two gradients are wanted", edits=(("return dy[..., :c_up].copy(), dskip", "return dskip"),)),
        Mistake(NO_GRADIENT, bug="skip_gets_no_gradient"),
        Mistake("dup is dy of the last channels", bug="up_gets_the_gradient_of_the_skip"),
        Mistake("dskip stands at the upper left corner", bug="crop_at_the_corner"),
    ),
    ours=_split,
)  # fmt: skip

# The fork ------------------------------------------------------------------------------------------------------------


def _smallest_u(s: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> tuple[Array, tuple[Any, ...]]:
    """As in the lesson: pooling, convolution, up-convolution, concatenation with s."""
    p, pooled = ops.max_pool_forward(s)
    q, convolved = ops.conv2d_forward(p, w1, b1)
    up, raised = ops.upconv_forward(q, w2, b2)
    y, joined = ops.crop_concat_forward(up, s)
    return y, (pooled, convolved, raised, joined)


def _roads(dy: Array, pooled: Any, convolved: Any, raised: Any, joined: Any) -> tuple[Array, Array]:
    """What comes from below, and what comes through the skip."""
    dup, dskip = ops.crop_concat_backward(dy, joined)
    dq, _, _ = ops.upconv_backward(dup, raised)
    dp, _, _ = ops.conv2d_backward(dq, convolved)
    return ops.max_pool_backward(dp, pooled), dskip


_FORKS: dict[str, Callable[[Array, Array], Array]] = {
    "What comes through the skip is missing.": lambda below, skip: below,
    "What comes from below, through the pooling, is missing.": lambda below, skip: skip,
    "You take the mean of the two roads. The loss feels both in full: add them.": lambda below, skip: (below + skip) / 2,
    "You take the larger of the two. The loss feels both in full: add them.": np.maximum,
    "One road is subtracted from the other. Add them.": lambda below, skip: below - skip,
}


def _measured(draw: Draw, answer: Callable[..., Any]) -> None:
    """ds is what the difference quotients of <dy, y> say."""
    n, rows, c = draw.integer(1, 2), 2 * draw.integer(3, 4), draw.integer(1, 2)
    shape, normal = (n, rows, rows + 2, c), draw.rng.standard_normal
    s = 4 * draw.rng.permutation(int(np.prod(shape))).reshape(shape) / np.prod(shape) - 2  # no two alike: no ties in the pooling
    weights = [normal(k) for k in ((3, 3, c, 3), (3,), (2, 2, c, 3), (c,))]
    y, contexts = _smallest_u(s, *weights)
    dy = normal(y.shape)
    expected = numerical_grad(lambda s: _smallest_u(s, *weights), {"s": s}, dy)["s"]
    try:
        found = answer(dy.copy(), *contexts)
    except (ShapeError, DTypeError) as refused:
        raise CheckError(f"An op refuses what it is given. Which gradient goes where? It says:\n{refused}") from refused
    if wrong := difference("ds", found, expected, 1e-6):
        roads = _roads(dy, *contexts)
        hint = next((f"\nHint: {hint}" for hint, other in _FORKS.items() if not difference("ds", found, other(*roads), 1e-6)), "")
        raise CheckError(f"{wrong} Expected is what difference quotients of <dy, y> measure.{hint}")


exercise(
    "07.fork",
    "fork_backward(dy, pooled, convolved, raised, joined) -> ds",
    laws=(_measured,),
    mistakes=(
        Mistake("through the skip is missing", edits=(("return from_below + dskip", "return from_below"),)),
        Mistake("through the pooling, is missing", edits=(("return from_below + dskip", "return dskip"),)),
        Mistake("the mean of the two roads", edits=(("return from_below + dskip", "return (from_below + dskip) / 2"),)),
        Mistake("the larger of the two", edits=(("return from_below + dskip", "return np.maximum(from_below, dskip)"),)),
        Mistake("An op refuses", edits=(("upconv_backward(dup,", "upconv_backward(dskip,"),)),
        Mistake("ds has shape", edits=(("return from_below + dskip", "return np.concatenate((from_below, dskip), axis=3)"),)),
        Mistake("through the skip is missing", bug="skip_gets_no_gradient"),
    ),
    ours=lambda dy, *contexts: np.add(*_roads(dy, *contexts)),
)  # fmt: skip
