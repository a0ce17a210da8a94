"""One pixel's arithmetic: which inputs, which weights, which sum. Forward and backward, for every kind of layer.

All figures are equations of small grids with the numbers in them. The functions compute with the formulas of `tinyunet.ops`, and
take the same arrays.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.errors import ShapeError
from tinyunet.ops.loss import IGNORE, softmax
from tinyunet.ops.norm import EPS
from tinyunet.plot.base import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANNELS = 3
"""So many channels are drawn; the sum has them all."""

_CELL = 0.42  # inches


class Grid(NamedTuple):
    """Numbers in a grid, one below another for several channels."""

    values: Array  # (C, H, W)
    title: str
    marked: tuple[tuple[int, int], ...] = ()  # (row, column), in every channel
    names: tuple[str, ...] = ()  # of the channels


def conv_pixel(x: Array, w: Array, b: Array, at: tuple[int, int, int, int], padding: str = "valid") -> Figure:
    """y[n,i,j,o] = b[o] + sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o]: window, kernel, products, sum

    x (N, H, W, C), w (K, K, C, O), b (O,), at (n, i, j, o)
    """
    n, i, j, o = at
    x, w, b = map(to_numpy, (x, w, b))
    size = w.shape[0]
    pad = size // 2 if padding == "same" else 0
    window = _padded(x[n], pad)[i : i + size, j : j + size]
    _need("conv_pixel", window, (size, size, x.shape[3]), at)
    kernel = w[..., o]
    y = float((window * kernel).sum() + b[o])
    title = f"x around ({i}, {j})" if pad else f"x[{i}:{i + size}, {j}:{j + size}]"
    return _equation(
        [Grid(_first(window), title), "×", Grid(_first(kernel), f"w[:, :, :, {o}]"), "=",
         Grid(_first(window * kernel), "products"), f"{_rest(x.shape[3])}sum {y - b[o]:.3g}\n+ bias {b[o]:.3g}\n= {y:.3g}"],
        f"y[{n}, {i}, {j}, {o}] of a {size}x{size} convolution: {window.size} products of the kernel and the window with its "
        f"upper left corner at ({i - pad}, {j - pad}), summed, and the bias",
        f"The pixel is {y:.3g}.",
    )  # fmt: skip


def conv_pixel_backward(dy: Array, w: Array, at: tuple[int, int, int, int], padding: str = "valid") -> Figure:
    """dx[n,h,v,c] = sum over r,s,o of dy[n, h-r+pad, v-s+pad, o] w[r,s,c,o]: the same kernel, turned by 180 degrees

    dy (N, P, Q, O), w (K, K, C, O), at (n, h, v, c)
    """
    n, h, v, c = at
    dy, w = to_numpy(dy), to_numpy(w)
    size = w.shape[0]
    pad = size // 2 if padding == "same" else 0
    window = _padded(dy[n], size - 1)[h + pad : h + pad + size, v + pad : v + pad + size]
    _need("conv_pixel_backward", window, (size, size, dy.shape[3]), at)
    kernel = w[::-1, ::-1, c]
    dx = float((window * kernel).sum())
    return _equation(
        [Grid(_first(window), f"dy that read ({h}, {v})"), "×", Grid(_first(kernel), f"w[::-1, ::-1, {c}]"), "=",
         Grid(_first(window * kernel), "products"), f"{_rest(dy.shape[3], 'o')}sum = {dx:.3g}"],
        f"dx[{n}, {h}, {v}, {c}] of a {size}x{size} convolution: every output that read the pixel sends its gradient back "
        "through the weight that it was read with; 0 where there is no output",
        f"The gradient is {dx:.3g}.",
    )  # fmt: skip


def upconv_pixel(x: Array, w: Array, b: Array, at: tuple[int, int, int, int]) -> Figure:
    """y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c]: one input pixel, one tap of the kernel

    x (N, H, W, C), w (2, 2, O, C), b (O,), at (n, row, column, o) of the output
    """
    n, row, column, o = at
    x, w, b = map(to_numpy, (x, w, b))
    (i, a), (j, d) = divmod(row, 2), divmod(column, 2)
    pixel = x[n, i : i + 1, j : j + 1]
    _need("upconv_pixel", pixel, (1, 1, x.shape[3]), at)
    kernel = w[:, :, o]
    y = float((pixel[0, 0] * kernel[a, d]).sum() + b[o])
    return _equation(
        [Grid(_first(pixel), f"x at ({i}, {j})"), "×", Grid(_first(kernel), f"w[:, :, {o}]", ((a, d),)), "=",
         Grid(_first(pixel * kernel), f"block at ({2 * i}, {2 * j})", ((a, d),)),
         f"{_rest(x.shape[3])}sum {y - b[o]:.3g}\n+ bias {b[o]:.3g}\n= {y:.3g}"],
        f"y[{n}, {row}, {column}, {o}] of an up-convolution: one input pixel, one tap of the kernel for each channel, and the "
        "bias; the other three taps make the rest of the block",
        f"The pixel is {y:.3g}.",
    )  # fmt: skip


def upconv_pixel_backward(dy: Array, w: Array, at: tuple[int, int, int, int]) -> Figure:
    """dx[n,i,j,c] = sum over a,d,o of dy[n, 2i+a, 2j+d, o] w[a,d,o,c]: the block that the pixel painted

    dy (N, 2H, 2W, O), w (2, 2, O, C), at (n, i, j, c)
    """
    n, i, j, c = at
    dy, w = to_numpy(dy), to_numpy(w)
    block, kernel = dy[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], w[..., c]
    _need("upconv_pixel_backward", block, (2, 2, dy.shape[3]), at)
    dx = float((block * kernel).sum())
    return _equation(
        [Grid(_first(block), f"dy of block ({2 * i}, {2 * j})"), "×", Grid(_first(kernel), f"w[..., {c}]"), "=",
         Grid(_first(block * kernel), "products"), f"{_rest(dy.shape[3], 'o')}sum = {dx:.3g}"],
        f"dx[{n}, {i}, {j}, {c}] of an up-convolution: the 2x2 block that the pixel painted comes back, a convolution of "
        "stride 2",
        f"The gradient is {dx:.3g}.",
    )  # fmt: skip


def pool_pixel(x: Array, at: tuple[int, int, int, int], dy: float | None = None) -> Figure:
    """y[n,i,j,c] = the largest of four; with the gradient dy of y, where it goes: to the first of the largest

    x (N, H, W, C), at (n, i, j, c) of the output
    """
    n, i, j, c = at
    window = to_numpy(x)[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
    _need("pool_pixel", window, (2, 2), at)
    won = divmod(int(window.argmax()), 2)
    grid = Grid(window[None], f"x of window ({i}, {j})", (won,))
    if dy is None:
        says = f"y[{n}, {i}, {j}, {c}] of a max-pooling: the largest of four"
        result = f"It stands at row {won[0]}, column {won[1]} of the window and is {window.max():.3g}."
        return _equation([grid, f"largest\n= {window.max():.3g}"], says, result)
    back = np.zeros((1, 2, 2))
    back[0][won] = dy
    return _equation(
        [grid, f"dy = {dy:.3g}\ngoes to\nthe winner", Grid(back, "dx", (won,))],
        f"The gradient of y[{n}, {i}, {j}, {c}] of a max-pooling goes to the pixel that won, and nowhere else",
        f"It won at row {won[0]}, column {won[1]} of the window and gets {dy:.3g}.",
    )  # fmt: skip


def norm_pixel(x: Array, gamma: Array, beta: Array, at: tuple[int, int, int, int], dy: Array | None = None) -> Figure:
    """y = gamma (x - mean) / sqrt(var + eps) + beta for one value; with dy (N, H, W, C), the three parts of its gradient

    x (N, H, W, C), gamma, beta (C,), at (n, i, j, c)
    """
    c = at[3]
    x = to_numpy(x)
    values = x[..., c].astype(float)
    mean, std = values.mean(), (values.var() + EPS) ** 0.5
    x_hat = (x[at] - mean) / std
    g, b = float(gamma[c]), float(beta[c])
    if dy is None:
        steps = [("x", "", x[at]), (f"less the mean of the channel's {values.size} values", _signed(-mean), x[at] - mean),
                 ("divided by the root of var + eps", f"/ {std:.3g}", x_hat), ("times gamma", f"× {g:.3g}", g * x_hat),
                 ("plus beta", _signed(b), g * x_hat + b)]  # fmt: skip
        return _steps(steps, f"y{list(at)} of a batch norm, step by step")
    dys = to_numpy(dy)[..., c].astype(float)
    hats = (values - mean) / std
    direct, by_mean, by_var = dys[at[:3]], -dys.mean(), -x_hat * (dys * hats).mean()
    dx = g / std * (direct + by_mean + by_var)
    steps = [("the direct road: its own dy", "", direct),
             ("through the mean: less the mean of dy", _signed(by_mean), direct + by_mean),
             ("through the variance: less x_hat times the mean of dy x_hat", _signed(by_var), direct + by_mean + by_var),
             ("times gamma", f"× {g:.3g}", g * (direct + by_mean + by_var)),
             ("divided by the root of var + eps", f"/ {std:.3g}", dx)]  # fmt: skip
    return _steps(steps, f"dx{list(at)} of a batch norm: three roads lead from x to the loss, and add up")


def loss_pixel(logits: Array, labels: Array, at: tuple[int, int, int], weights: Array | None = None) -> Figure:
    """w (-log p_label) of one pixel, and its gradient w/M (p - [k is the label]): logits, softmax, loss, gradient

    logits (N, H, W, K), labels (N, H, W), weights (N, H, W) or None for 1, at (n, i, j); M is the number of annotated pixels

    Raises ShapeError for a pixel that nobody annotated: it has no loss.
    """
    a = to_numpy(logits)[at].astype(float)
    labels = to_numpy(labels)
    label, m = int(labels[at]), int((labels != IGNORE).sum())
    if label == IGNORE:
        raise ShapeError(f"loss_pixel: nobody annotated pixel {tuple(at)}, its label is {IGNORE}. Choose another.")
    w = 1.0 if weights is None else float(weights[at])
    p = softmax(a)
    loss, gradient = -w * np.log(p[label]), w / m * (p - np.eye(len(a))[label])
    column = ((label, 0),)
    return _equation(
        [Grid(a[None, :, None], "logits", column), "→", Grid(p[None, :, None], "softmax", column),
         f"w (-log p)\n= {w:.3g} × {-np.log(p[label]):.3g}\n= {loss:.3g}",
         Grid(gradient[None, :, None] * m, "M × gradient", column)],
        f"The loss of pixel {list(at)}, whose class is {label}: the weight times -log of the probability of its class; back goes "
        "the weight times (probability - 1 for the true class, probability for the others), divided by M",
        f"The loss is {loss:.3g}; M is {m} pixels.",
    )  # fmt: skip


# Drawing -------------------------------------------------------------------------------------------------------------


def _equation(parts: Sequence[Grid | str], says: str, result: str) -> Figure:
    """Grids and words in a row, on one line of height; the sentence stands above and is the text alternative."""
    from matplotlib.figure import Figure

    widths = [part.values.shape[2] + 0.3 if isinstance(part, Grid) else 0.8 + 0.17 * max(map(len, part.split("\n")), default=0)
              for part in parts]  # fmt: skip
    grids = [part for part in parts if isinstance(part, Grid)]
    tall = max((g.values.shape[0] * (g.values.shape[1] + 0.4) for g in grids), default=1.5)
    wide = sum(widths)
    across = max(_CELL * wide, 5.0)
    lines = textwrap.wrap(says, int(13 * across))
    figure = Figure(figsize=(across, _CELL * (tall + 0.9) + 0.16 * len(lines)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_aspect("equal")
    width, height = (inches / _CELL for inches in figure.get_size_inches())
    ax.set(xlim=(0, width), ylim=(height, 0))
    middle = (height - tall) - 0.2 + tall / 2
    largest = max((float(np.abs(g.values).max()) for g in grids), default=1.0) or 1.0
    left = (width - wide) / 2
    for part, w in zip(parts, widths, strict=True):
        if isinstance(part, Grid):
            _draw_grid(ax, part, left + 0.15, middle, largest)
        else:
            ax.text(left + w / 2, middle, part, ha="center", va="center", fontsize=9)
        left += w
    ax.text(width / 2, 0.25, "\n".join(lines), ha="center", va="top", fontsize=9)
    figure.set_label(f"{says}. " + " ".join(_in_words(parts)) + f" {result}")
    return figure


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.3g}"


def _steps(steps: Sequence[tuple[str, str, float]], says: str) -> Figure:
    """A sum, one step a line: what is done, with which number, and what there is then."""
    from matplotlib.figure import Figure

    line, width = 0.27, 6.5  # inches
    height = line * (len(steps) + 1.3)
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - 0.5 * line / height, says, ha="center", va="center", fontsize=10)
    for k, (what, by, value) in enumerate(steps):
        y = 1 - (k + 1.6) * line / height
        last = "bold" if k == len(steps) - 1 else "normal"
        figure.text(0.04, y, what, va="center", fontsize=9)
        figure.text(0.78, y, by, va="center", ha="right", fontsize=9)
        figure.text(0.95, y, f"= {value:.3g}", va="center", ha="right", fontsize=9, weight=last)
    figure.set_label(f"{says}: " + "; ".join(f"{what} {by} = {value:.3g}".replace("  ", " ") for what, by, value in steps) + ".")
    return figure


def _draw_grid(ax: Axes, grid: Grid, left: float, middle: float, largest: float) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    c, h, w = grid.values.shape
    top = middle - c * (h + 0.4) / 2 + 0.2
    ax.text(left + w / 2, top - 0.12, grid.title, ha="center", va="bottom", fontsize=8)
    for k, i, j in np.ndindex(c, h, w):
        value = float(grid.values[k, i, j]) + 0.0  # -0.0 becomes 0.0
        share = min(abs(value) / largest, 1.0)
        tint = np.array(to_rgb(BLUE if value > 0 else ORANGE))
        y = top + k * (h + 0.4) + i
        ax.add_patch(Rectangle((left + j, y), 1, 1, facecolor=1 - 0.55 * share * (1 - tint), edgecolor="0.6", linewidth=0.5))
        ax.text(left + j + 0.5, y + 0.52, f"{value:.2g}", ha="center", va="center", fontsize=7)
    for k, (i, j) in ((k, place) for k in range(c) for place in grid.marked):
        ax.add_patch(Rectangle((left + j, top + k * (h + 0.4) + i), 1, 1, fill=False, edgecolor="black", linewidth=1.8))


def _in_words(parts: Iterable[Grid | str]) -> Iterable[str]:
    """The equation as text: "x around (2, 3): 1 2; 3 4." """
    for part in parts:
        if isinstance(part, Grid):
            rows = "; ".join(" ".join(f"{v + 0.0:.2g}" for v in row) for channel in part.values for row in channel)
            yield f"{part.title}: {rows}."
        elif len(part) > 1:
            yield part.replace("\n", " ") + "."


def _padded(image: Array, pad: int) -> Array:
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))


def _first(values: Array) -> Array:
    """(H, W, C) -> the first channels as (C, H, W)"""
    return np.moveaxis(values, 2, 0)[:CHANNELS]


def _rest(channels: int, name: str = "c") -> str:
    return f"(and {channels - CHANNELS} more {name})\n" if channels > CHANNELS else ""


def _need(who: str, window: Array, shape: tuple[int, ...], at: Sequence[int]) -> None:
    if window.shape != shape or min(at) < 0:
        raise ShapeError(f"{who}: there is no pixel {tuple(at)}: its window has shape {window.shape}, expected {shape}.")

