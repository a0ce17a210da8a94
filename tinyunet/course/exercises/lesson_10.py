"""Lesson 10: the weight map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.catalogue.weight_map import draw_cells, two_nearest
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.data.instances import components
from tinyunet.data.weight_map import separate
from tinyunet.errors import CheckError

Pair = tuple[Array, Array]

# d1 and d2 ------------------------------------------------------------------------------------------------------------


def _to_cells(ids: Array, distance: Callable[[Array], Array]) -> list[Array]:
    """For every cell the (H, W) smallest `distance` of the steps (2, H, W, pixels of the cell) from every pixel to it."""
    here = np.indices(ids.shape)[..., None]
    return [distance(here - np.array(np.nonzero(ids == k))[:, None, None, :]).min(-1) for k in np.unique(ids[ids > 0])]


def _two(maps: list[Array]) -> Pair:
    none = np.full(maps[0].shape, np.inf)
    d1, d2 = np.sort([*maps, none, none], axis=0)[:2]
    return d1, d2


def _euclid(steps: Array) -> Array:
    return np.sqrt((steps**2.0).sum(0))


def _second_pixel(ids: Array) -> Pair:
    here = np.indices(ids.shape)[..., None]
    every = np.sort(_euclid(here - np.array(np.nonzero(ids))[:, None, None, :]), axis=-1)
    return every[..., 0], every[..., 1]


def _to_centres(ids: Array) -> Pair:
    here = np.indices(ids.shape)
    return _two([np.hypot(*(here - np.argwhere(ids == k).mean(0)[:, None, None])) for k in np.unique(ids[ids > 0])])


def _into_cells(ids: Array) -> Pair:
    """Also inside a cell something else than 0: the distance to its outside."""
    maps = []
    for k in np.unique(ids[ids > 0]):
        other = np.where(ids == k, 2, 1)  # two ids, so that there is something to measure to on both sides
        out, inside = _to_cells(np.where(other == 2, 1, 0), _euclid), _to_cells(np.where(other == 1, 1, 0), _euclid)
        maps.append(out[0] + inside[0])
    return _two(maps)


LOOKALIKES: dict[str, Callable[[Array], Pair]] = {
    "Your d2 is d1 once more. The nearest cell must not count twice: d2 belongs to another cell.":
        lambda ids: (two_nearest(ids)[0],) * 2,
    "Your d2 leads to the second nearest *pixel*, which mostly lies in the same cell. First one number for each cell, its "
    "smallest; then the two smallest of these.": _second_pixel,
    "d1 and d2 are exchanged: the smaller one comes first.": lambda ids: two_nearest(ids)[::-1],
    "These are squares of distances. Take the root.": lambda ids: _two(_to_cells(ids, lambda s: (s**2.0).sum(0))),
    "That counts steps along rows and columns. The distance is the straight line, sqrt(rows^2 + columns^2).":
        lambda ids: _two(_to_cells(ids, lambda s: np.abs(s).sum(0) * 1.0)),
    "That is the distance to the centre of a cell. Large cells would count as far away: take the cell's nearest pixel.":
        _to_centres,
    "You measure to the border between pixels or to the pixel before the cell: everything is a pixel too small. Measure to the "
    "centre of the cell's nearest pixel, so that a pixel beside a cell has distance 1.":
        lambda ids: _two(_to_cells(ids, lambda s: np.maximum(_euclid(s) - 1, 0))),
    "Background, number 0, is no cell. Leave it out.": lambda ids: two_nearest(ids + 1),
    "You measure to patches of cells that touch. What is a cell, say the numbers in ids: ids == k.":
        lambda ids: two_nearest(components(ids > 0)),
    "Inside a cell you measure to its outline. A pixel of a cell has distance 0 to it.": _into_cells,
}  # fmt: skip


def _same_distances(what: str, found: Any, expected: Array) -> str:
    """`difference`, for numbers some of which are infinite."""
    if not isinstance(found, np.ndarray) or found.shape != expected.shape:
        return difference(what, found, expected)
    odd = np.isinf(found) != np.isinf(expected)
    if odd.any():
        at = tuple(int(i) for i in np.argwhere(odd)[0])
        return f"{what} is {found[at]:.6g} at {list(at)}, expected {expected[at]:.6g}."
    finite = np.isfinite(expected)
    return difference(what, np.where(finite, found, 0), np.where(finite, expected, 0))


def _wrong(found: Any, expected: Pair) -> str:
    if not isinstance(found, tuple) or len(found) != 2:
        return "Return two arrays: return d1, d2."
    return next((text for text in map(_same_distances, ("d1", "d2"), found, expected) if text), "")


def _distances_by_pairs(draw: Draw, two_distances: Callable[[Array], Any]) -> None:
    """Three cells and more, under numbers with gaps, some touching."""
    ids = draw_cells(draw, least=3)
    kept = ids.copy()
    found = two_distances(ids)
    if wrong := _wrong(found, two_nearest(kept)):
        hints = (f"\nHint: {hint}" for hint, other in LOOKALIKES.items() if not _wrong(found, other(kept)))
        raise CheckError(f"{wrong}{next(hints, '')}\nCalled with ids of shape {kept.shape}, cells {np.unique(kept[kept > 0])}.")
    if not np.array_equal(ids, kept):
        raise CheckError("d1 and d2 are right, but your code changes the ids that it was given. Work on a copy.")


def _too_few_cells(draw: Draw, two_distances: Callable[[Array], Any]) -> None:
    """With one cell d2 is infinite, without any d1 is too."""
    ids = np.zeros((draw.integer(4, 6), draw.integer(7, 9)), np.int32)
    for cells, which in ((1, "With a single cell there is no second one, so d2 is infinite: np.inf."),
                         (0, "Without any cell both distances are infinite: np.inf.")):  # fmt: skip
        ids[1:3, 2:4] = 7 * cells
        if wrong := _wrong(two_distances(ids.copy()), two_nearest(ids)):
            raise CheckError(f"{wrong}\nHint: {which}")


exercise(
    "10.distances",
    "two_distances(ids) -> d1, d2, to the nearest and to the second nearest cell",
    laws=(_distances_by_pairs, _too_few_cells),
    mistakes=(
        Mistake("Your d2 is d1 once more", edits=(("return d1, d2", "return d1, d1"),)),
        Mistake("second nearest *pixel*", edits=(
            ("        maps.append(steps.min(axis=-1))\n", "        maps.extend(np.moveaxis(steps, -1, 0))\n"),
        )),
        Mistake("are exchanged", edits=(("return d1, d2", "return d2, d1"),)),
        Mistake("Take the root", edits=(("np.sqrt(", "("),)),
        Mistake("along rows and columns", edits=(
            ("np.sqrt((i - rows) ** 2 + (j - columns) ** 2)", "(abs(i - rows) + abs(j - columns)).astype(float)"),
        )),
        Mistake("the centre of a cell", edits=(
            ("rows, columns = np.nonzero(ids == k)",
             "rows, columns = (np.nonzero(ids == k)[a].mean(keepdims=True) for a in (0, 1))"),
        )),
        Mistake("a pixel too small",
                edits=(("maps.append(steps.min(axis=-1))", "maps.append(np.maximum(steps.min(axis=-1) - 1, 0))"),)),
        Mistake("Background, number 0", edits=(("np.unique(ids[ids > 0])", "np.unique(ids)"),)),
        Mistake("patches of cells that touch", edits=(
            ("    i, j = np.indices", "    from scipy.ndimage import label\n    ids = label(ids > 0)[0]\n    i, j = np.indices"),
        )),
        Mistake("With a single cell", edits=(("[np.full(ids.shape, np.inf)] * 2", "[np.full(ids.shape, 1e9)] * 2"),)),
        Mistake("Your code stops", edits=(("[np.full(ids.shape, np.inf)] * 2", "[np.full(ids.shape, np.inf)]"),)),
    ),
)  # fmt: skip


# The border term ------------------------------------------------------------------------------------------------------


def _border(d1: Array, d2: Array, background: Array, w0: float, sigma: float) -> Array:
    return np.where(background, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0.0)


def _some_cells(draw: Draw) -> dict[str, Any]:
    ids = draw_cells(draw, least=2)
    d1, d2 = two_nearest(ids)
    return {"d1": d1, "d2": d2, "background": ids == 0, "w0": float(draw.integer(5, 50)), "sigma": float(draw.integer(3, 6))}


def _lone_cell(draw: Draw, border_term: Callable[..., Any]) -> None:
    """d2 is infinite everywhere: no border term, and no NaN."""
    ids = np.zeros((7, 9), np.int32)
    ids[2:5, 3:6] = draw.integer(1, 9)
    with np.errstate(all="ignore"):
        found = border_term(*two_nearest(ids), ids == 0, 10.0, 5.0)
    if not np.array_equal(found, np.zeros(ids.shape)):
        raise CheckError(f"Around a lone cell, where d2 is infinite, the border term goes up to {np.max(found):.4g}, expected 0 "
                         "everywhere. exp(-inf) is 0 of itself: nothing has to be put in place of an infinite d2.")  # fmt: skip


exercise(
    "10.border",
    "border_term(d1, d2, background, w0, sigma) -> the second term of equation 2",
    laws=(equals(_border, _some_cells, {
        "sigma is not squared: the exponent is -(d1 + d2)^2 / (2 sigma^2).":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-((d1 + d2) ** 2) / (2 * s)), 0.0),
        "sigma^2 must stand below the line. a / 2 * b is (a / 2) * b: write (2 * sigma**2).":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-((d1 + d2) ** 2) / 2 * s**2), 0.0),
        "The 2 in the denominator is lacking: 2 sigma^2.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-((d1 + d2) ** 2) / s**2), 0.0),
        "(d1 + d2)^2 is not d1^2 + d2^2: add first, then square.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-(d1**2 + d2**2) / (2 * s**2)), 0.0),
        "The minus sign is lacking: the term must fall with distance.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp((d1 + d2) ** 2 / (2 * s**2)), 0.0),
        "The sum d1 + d2 is not squared.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-(d1 + d2) / (2 * s**2)), 0.0),
        "Your term also counts on the cells. There it must be 0: it is the background between them that is to be learnt.":
            lambda d1, d2, b, w0, s: w0 * np.exp(-((d1 + d2) ** 2) / (2 * s**2)),
        "That is large around every cell, with or without a neighbour: d2 does not enter. Use d1 + d2.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-(d1**2) / (2 * s**2)), 0.0),
        "That is what it would be with d2 equal to d1. Use d1 + d2.":
            lambda d1, d2, b, w0, s: np.where(b, w0 * np.exp(-((2 * d1) ** 2) / (2 * s**2)), 0.0),
        "Your largest weight is always w0, whatever the gap: do not divide by the maximum. In a wide gap the term is small.":
            lambda d1, d2, b, w0, s: w0 * _border(d1, d2, b, w0, s) / _border(d1, d2, b, w0, s).max(),
    }, what="the border term"), _lone_cell),
    mistakes=(
        Mistake("sigma is not squared", edits=(("sigma**2", "sigma"),)),
        Mistake("below the line", edits=(("/ (2 * sigma**2)", "/ 2 * sigma**2"),)),
        Mistake("The 2 in the denominator", edits=(("(2 * sigma**2)", "sigma**2"),)),
        Mistake("add first, then square", edits=(("(d1 + d2) ** 2", "(d1**2 + d2**2)"),)),
        Mistake("The minus sign", edits=(("-((d1 + d2) ** 2)", "((d1 + d2) ** 2)"),)),
        Mistake("also counts on the cells", edits=(("np.where(background, term, 0)", "term"),)),
        Mistake("d2 does not enter", edits=(("d1 + d2", "d1"),)),
        Mistake("d2 equal to d1", edits=(("d1 + d2", "d1 + d1"),)),
        Mistake("do not divide by the maximum",
                edits=(("np.where(background, term, 0)", "np.where(background, w0 * term / term[background].max(), 0)"),)),
        Mistake("Around a lone cell", edits=(("d1 + d2", "d1 + np.where(np.isinf(d2), 0, d2)"),)),
    ),
)  # fmt: skip


# The balance of classes -----------------------------------------------------------------------------------------------


def _balance(labels: Array) -> Array:
    classes, counts = np.unique(labels, return_counts=True)
    return (labels.size / (len(classes) * counts))[np.searchsorted(classes, labels)]


def _of_class(weight: Callable[[int, int, int], float]) -> Callable[[Array], Array]:
    """weight(n, K, n_k) at every pixel of class k"""

    def formula(labels: Array) -> Array:
        classes, counts = np.unique(labels, return_counts=True)
        each = np.array([weight(labels.size, len(classes), int(n_k)) for n_k in counts])
        return each[np.searchsorted(classes, labels)]

    return formula


def _absent_counted(labels: Array) -> Array:
    return _balance(labels) * len(np.unique(labels)) / (labels.max() + 1)


def _labels(draw: Draw) -> dict[str, Any]:
    """Three classes, or only 0 and 2 of them; the rare ones are rare."""
    shape = (draw.integer(6, 9), draw.integer(10, 13))
    present = draw.choice(((0, 1, 2), (0, 2)))
    labels = draw.rng.choice(present, shape, p=(0.75, 0.25) if len(present) == 2 else (0.7, 0.2, 0.1))
    labels.flat[: len(present)] = present
    return {"labels": labels.astype(np.int32)}


def _gap_in_classes(draw: Draw, class_balance: Callable[[Array], Any]) -> None:
    """A class that does not occur, below one that does."""
    labels = draw.rng.permutation(np.repeat([0, 2], [4 * draw.integer(5, 7), 4])).reshape(4, -1)
    found = class_balance(labels.copy())
    if wrong := difference("w_c", found, _balance(labels)):
        hint = ""
        if not difference("w_c", found, _absent_counted(labels)):
            hint = "\nHint: K counts the classes that occur, here 2: 0 and 2. Class 1 has no pixel that could weigh anything."
        raise CheckError(f"{wrong}{hint}\nCalled with labels that hold only the classes 0 and 2.")


exercise(
    "10.balance",
    "class_balance(labels) -> w_c of every pixel",
    laws=(equals(_balance, _labels, {
        "Your weights are not divided by K, the number of classes that occur: their mean is K and should be 1.":
            _of_class(lambda n, K, n_k: n / n_k),
        "That is the share of the class. It must be the inverse: what is rare is to weigh more.":
            _of_class(lambda n, K, n_k: n_k / n),
        "That is the inverse of w_c, large for the frequent class: n belongs above, K n_k below.":
            _of_class(lambda n, K, n_k: K * n_k / n),
        "n is lacking: with 1 / (K n_k) the weights are the smaller, the larger the image is. Their mean is to be 1.":
            _of_class(lambda n, K, n_k: 1 / (K * n_k)),
        "n and K are lacking. The mean of w_c over all pixels is to be 1.": _of_class(lambda n, K, n_k: 1 / n_k),
        "K counts the classes that occur, not the largest label plus 1.": _absent_counted,
    }, what="w_c"), _gap_in_classes),
    mistakes=(
        Mistake("not divided by K", edits=(("len(classes) * n_k", "n_k"),)),
        Mistake("the share of the class", edits=(("labels.size / (len(classes) * n_k)", "n_k / labels.size"),)),
        Mistake("n belongs above", edits=(("labels.size / (len(classes) * n_k)", "len(classes) * n_k / labels.size"),)),
        Mistake("Their mean is to be 1", edits=(("labels.size / ", "1 / "),)),
        Mistake("K counts the classes that occur", edits=(("len(classes) *", "(labels.max() + 1) *"),)),
        Mistake("w_c has shape", edits=(("return w_c", "return np.array([w_c[labels == k][0] for k in classes])"),)),
    ),
)  # fmt: skip


# The gap --------------------------------------------------------------------------------------------------------------


def _separate(ids: Array, also: Callable[[Array, Any], Array] = lambda window, own: (window > 0) & (window != own),
              beside: bool = False, scanning: bool = False) -> Array:
    """Each pixel's window of 3x3; `beside` leaves its corners out, `scanning` lets it see what was emptied before."""
    out, padded = ids.copy(), np.pad(ids, 1)
    for i, j in np.ndindex(ids.shape):
        window = padded[i : i + 3, j : j + 3]
        if beside:
            window = np.array([window[0, 1], window[1, 0], window[1, 2], window[2, 1]])
        if ids[i, j] > 0 and also(window, ids[i, j]).any():
            out[i, j] = 0
            if scanning:
                padded[i + 1, j + 1] = 0
    return out


def _crowd(draw: Draw) -> dict[str, Any]:
    """Cells that share borders of all directions, with some background between others, and a corner that only meets a corner."""
    while True:
        shape = (draw.integer(15, 18), draw.integer(19, 23))
        count = draw.integer(4, 5)
        seeds = draw.rng.uniform(0, shape, (count, 2))
        gaps = np.hypot(*(np.indices(shape)[:, None] - seeds.T[:, :, None, None]))
        names = (draw.rng.permutation(count) * 3 + 2).astype(np.int32)
        ids = np.where(gaps.min(0) < 6.5, names[gaps.argmin(0)], 0).astype(np.int32)
        ids[:4, :4], ids[:2, :2], ids[2:4, 2:4] = 0, 40, 41
        ids[4:6, 2:4] = ids[2:4, 4:6] = 41
        ids[:4, -8:-4], ids[:4, -4:] = 42, 43  # they meet at the very edge
        apart = _separate(ids)
        others = (_separate(ids, beside=True), _separate(ids, scanning=True), _edge_forgotten(ids))
        if set(np.unique(apart)) == set(np.unique(ids)) and all((apart != other).any() for other in others):
            return {"ids": ids}


def _edge_forgotten(ids: Array) -> Array:
    """What slices that begin at -1 give: nothing in the first row and the first column."""
    out = _separate(ids)
    out[0], out[:, 0] = ids[0], ids[:, 0]
    return out


exercise(
    "10.separate",
    "separate(ids) -> ids with a gap of two pixels between cells that touch",
    laws=(equals(_separate, _crowd, {
        "Your window counts background as another cell, so that every cell loses its rim: ask for > 0, too.":
            lambda ids: _separate(np.pad(ids, 1, mode="edge"), lambda w, own: w != own)[1:-1, 1:-1],
        "Of two cells that touch only one gives way: the gap is one pixel wide and depends on the numbering. Both give one.":
            lambda ids: _separate(ids, lambda w, own: w > own),
        "Of two cells that touch only one gives way: the one with the larger number. Both give one pixel.":
            lambda ids: _separate(ids, lambda w, own: (w > 0) & (w < own)),
        "Pixels that you have emptied no longer count as a neighbour, so the gap lies on one side. Look at ids, write to a copy.":
            lambda ids: _separate(ids, scanning=True),
        "Corners count too: the window has 3 x 3 pixels, so look at eight neighbours, not four.":
            lambda ids: _separate(ids, beside=True),
        "The edge of the image is wrong. There the window is smaller. In NumPy a slice from -1 to 2 holds nothing: begin it at "
        "max(0, i - 1).": _edge_forgotten,
    }, what="the map of ids"),),
    mistakes=(
        Mistake("every cell loses its rim", edits=(("(window > 0) & ", ""),)),
        Mistake("Of two cells that touch only one", edits=(("window != ids[i, j]", "window > ids[i, j]"),)),
        Mistake("the larger number", edits=(("window != ids[i, j]", "window < ids[i, j]"),)),
        Mistake("write to a copy", edits=(("window = ids[", "window = out["),)),
        Mistake("The edge of the image is wrong", edits=(("max(0, i - 1)", "i - 1"), ("max(0, j - 1)", "j - 1"))),
        Mistake("look at eight neighbours", edits=(
            ("window = ids[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]",
             "window = np.pad(ids, 1)[[i, i + 1, i + 1, i + 2], [j + 1, j, j + 2, j + 1]]"),
        )),
        Mistake("only one gives way", bug="gap_on_one_side"),
    ),
    ours=separate,
)  # fmt: skip
