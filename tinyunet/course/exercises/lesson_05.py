"""Lesson 05: max-pooling and ties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.course.exercise import Mistake, difference, equals, exercise
from tinyunet.errors import CheckError

Pool = Callable[[Array], Any]


def _size(draw: Draw) -> tuple[int, int, int, int]:
    """N, H/2, W/2, C: never square, more than one of everything"""
    height = draw.integer(2, 3)
    return draw.integer(2, 3), height, height + draw.integer(1, 2), draw.integer(2, 3)


def _windows(x: Array) -> Array:
    """(N, H, W, C) -> (N, H/2, W/2, C, 4), the pixels of every window in row-major order"""
    n, height, width, c = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, height // 2, width // 2, c, 4)


def _unwindowed(four: Array) -> Array:
    """The opposite."""
    n, height, width, c, _ = four.shape
    return four.reshape(n, height, width, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * height, 2 * width, c)


def _say(wrong: str, found: Any, lookalikes: dict[str, Any]) -> None:
    """Raise with the hint whose formula gives what was found."""
    if wrong:
        hint = next((f"\nHint: {hint}" for hint, other in lookalikes.items() if not difference("", found, other)), "")
        raise CheckError(wrong + hint)


# Forward -------------------------------------------------------------------------------------------------------------


def _pooled(pool: Pool, x: Array) -> tuple[Any, Any]:
    found = pool(x)
    if not isinstance(found, tuple) or len(found) != 2:
        raise CheckError("pool is to return two things: y, and the winner of each window: return y, winner.")
    return found


def _largest_and_its_place(draw: Draw, pool: Pool) -> None:
    """All values differ, half of them are negative."""
    n, height, width, c = _size(draw)
    x = draw.rng.permutation(np.arange(n * 4 * height * width * c) + 0.5).reshape(n, 2 * height, 2 * width, c)
    x -= np.median(x)
    four, handed = _windows(x), x.copy()
    y, winner = _pooled(pool, handed)
    largest, place = four.max(axis=-1), four.argmax(axis=-1)
    _say(difference("y", y, largest), y, {
        "That is the mean of each window. Take the largest.": four.mean(axis=-1),
        "That is the smallest of each window.": four.min(axis=-1),
        "Your maximum starts from 0: windows in which all is negative get 0. Start from a pixel of the window.":
            np.maximum(largest, 0),
        "The windows overlap, or are not 2x2: they begin at every second row and column.":
            np.maximum(x[:, :height, :width], x[:, 1 : height + 1, 1 : width + 1]),
        "That is the upper left pixel of each window.": four[..., 0],
        "Channels compete: each is to have its own maximum.": np.broadcast_to(largest.max(axis=-1, keepdims=True), largest.shape),
    })  # fmt: skip
    _say(difference("the winner", winner, place), winner, {
        "Places are numbered row by row, (0, 1) is place 1 and (1, 0) is place 2. Yours go down the column first.":
            np.array([0, 2, 1, 3])[place],
        "Places are numbered from 0.": place + 1,
        "Places are numbered from the upper left on; yours begin at the lower right.": 3 - place,
        "That is the place of the smallest.": four.argmin(axis=-1),
        "That is the value, not its place.": largest,
    })  # fmt: skip
    if not np.array_equal(handed, x):
        raise CheckError("All is right, but your code changes its argument x. Whoever called it may need it: work on a copy.")


def _the_first_of_equals(draw: Draw, pool: Pool) -> None:
    n, height, width, c = _size(draw)
    x = draw.rng.integers(0, 2, (n, 2 * height, 2 * width, c)).astype(float)
    four = _windows(x)
    y, winner = _pooled(pool, x.copy())
    if difference("", y, four.max(axis=-1)):
        raise CheckError("For an image of zeros and ones, with many ties, " + difference("y", y, four.max(axis=-1)))
    if difference("", winner, four.argmax(axis=-1)):
        at = tuple(np.argwhere(np.asarray(winner) != four.argmax(axis=-1))[0])
        raise CheckError(f"Of equal values the first wins: the window {four[at].astype(int).tolist()} was won by place "
                         f"{winner[at]}, expected place {four[at].argmax()}.")  # fmt: skip


def _nan_wins(draw: Draw, pool: Pool) -> None:
    four = draw.rng.standard_normal(4)
    place = draw.integer(0, 3)
    four[place] = np.nan
    with np.errstate(invalid="ignore"):
        y, winner = _pooled(pool, four.reshape(1, 2, 2, 1))
    told, won = f"the window {four.round(2).tolist()}", np.ravel(winner)[0]
    if not np.isnan(y).all():
        raise CheckError(f"For {told}, y is {np.ravel(y)[0]:.3g}, expected nan: it is hidden. Every comparison with NaN is "
                         "false. np.maximum and max() of an array let it through, > and np.fmax do not.")  # fmt: skip
    if won != place:
        raise CheckError(f"In {told} the winner is place {won}, expected that of the NaN, {place}.")


def _odd_is_refused(draw: Draw, pool: Pool) -> None:
    height, width = draw.choice(((5, 4), (4, 7), (3, 5)))
    for shape in ((1, height, width, 2), (1, width, height, 2)):
        size = f"{shape[1]}x{shape[2]}"
        try:
            found = pool(np.zeros(shape))
        except NotImplementedError:
            raise
        except Exception as refused:
            if size not in str(refused).replace(" ", ""):
                raise CheckError(f"A {size} map stops your code, but {type(refused).__name__}: {refused!s}\ndoes not tell the "
                                 f'reader why. Check first: raise ValueError("a {size} map is odd").') from refused  # fmt: skip
        else:
            went = np.shape(found[0]) if isinstance(found, tuple) else np.shape(found)
            raise CheckError(f"A {size} map came through, and y has shape {went}: a row or column was dropped, or used "
                             f'twice. Raise ValueError("a {size} map is odd").')  # fmt: skip


def _ours(x: Array) -> tuple[Array, Array]:
    y, ctx = ops.max_pool_forward(x)
    return y, ctx.winner


exercise(
    "05.pool",
    "pool(x) -> y, winner",
    laws=(_largest_and_its_place, _the_first_of_equals, _nan_wins, _odd_is_refused),
    mistakes=(
        Mistake("mean of each window", edits=(("four.max(axis=0)", "four.mean(axis=0)"),)),
        Mistake("smallest of each window", edits=(("four.max(axis=0)", "four.min(axis=0)"),)),
        Mistake("starts from 0", edits=(("four.max(axis=0)", "four.max(axis=0, initial=0)"),)),
        Mistake("down the column first", edits=(("x[:, 0::2, 1::2], x[:, 1::2, 0::2]", "x[:, 1::2, 0::2], x[:, 0::2, 1::2]"),)),
        Mistake("y has shape", edits=(("x[:, 0::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2], x[:, 1::2, 1::2]",
                                       "x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]"),)),
        Mistake("return y, winner", edits=((", four.argmax(axis=0)", ""),)),
        Mistake("Of equal values the first wins", edits=(("four.argmax(axis=0)", "3 - four[::-1].argmax(axis=0)"),)),
        Mistake("it is hidden", edits=(("four.max(axis=0)", "np.fmax.reduce(four, axis=0)"),)),
        Mistake("expected that of the NaN", edits=(("four.argmax(axis=0)", "np.nanargmax(four, axis=0)"),)),
        Mistake("reader why", edits=(('(f"a {height}x{width} map is odd: pad it or crop it")', "(four)"),)),
        Mistake("came through",
                edits=(('raise ValueError(f"a {height}x{width} map is odd: pad it or crop it")',
                        "x = x[:, : height - height % 2, : width - width % 2]"),)),
        Mistake("starts from 0", bug="pool_starts_from_zero"),
        Mistake("Of equal values the first wins", bug="ties_to_the_last"),
        Mistake("it is hidden", bug="pool_hides_nan"),
        Mistake("came through", bug="odd_row_dropped"),
        Mistake("the winner has shape", bug="ties_to_all"),
    ),
    ours=_ours,
)  # fmt: skip

# Backward ------------------------------------------------------------------------------------------------------------


def _sent(dy: Array, winner: Array) -> Array:
    dx = np.zeros((dy.shape[0], 2 * dy.shape[1], 2 * dy.shape[2], dy.shape[3]), dy.dtype)
    for m, i, j, k in np.ndindex(dy.shape):
        a, b = divmod(int(winner[m, i, j, k]), 2)
        dx[m, 2 * i + a, 2 * j + b, k] = dy[m, i, j, k]
    return dx


def _dy_and_winner(draw: Draw) -> dict[str, Any]:
    size = _size(draw)
    return {"dy": draw.rng.standard_normal(size), "winner": draw.rng.integers(0, 4, size)}


def _places(dy: Array) -> Array:
    """dy at all four places of its window"""
    return dy.repeat(2, axis=1).repeat(2, axis=2)


def _moved(dy: Array, winner: Array) -> Array:
    """The first quarter of dx is filled, as if windows were one pixel apart."""
    dx = np.zeros_like(_places(dy))
    for m, i, j, k in np.ndindex(dy.shape):
        a, b = divmod(int(winner[m, i, j, k]), 2)
        dx[m, i + a, j + b, k] = dy[m, i, j, k]
    return dx


LOST: dict[str, Callable[[Array, Array], Array]] = {
    "Place 1 is row 0, column 1, and place 2 is row 1, column 0. You exchange them: a = winner // 2, b = winner % 2.":
        lambda dy, winner: _sent(dy, np.array([0, 2, 1, 3])[winner]),
    "You begin to count at the lower right. Place 0 is the upper left pixel.": lambda dy, winner: _sent(dy, 3 - winner),
    "All four pixels get dy. Only the winner has moved y.": lambda dy, winner: _places(dy),
    "All four pixels get a quarter. That is average-pooling; here the winner gets all.": lambda dy, winner: _places(dy) / 4,
    "dy goes to the upper left pixel of each window, whoever has won.": lambda dy, winner: _sent(dy, 0 * winner),
    "That is 1 where a pixel has won. It should be dy.": lambda dy, winner: _sent(np.ones_like(dy), winner),
    "Window (i, j) begins at row 2i, column 2j, not at row i, column j.": _moved,
    "The losers get dy and the winners get 0.": lambda dy, winner: _places(dy) - _sent(dy, winner),
}  # fmt: skip


def _scattered(dy: Array, winner: Array) -> Array:
    return ops.max_pool_backward(dy, ops.pool.MaxPoolContext(winner.astype(np.uint8), dy.dtype))


exercise(
    "05.scatter",
    "pool_scatter(dy, winner) -> dx",
    laws=(equals(_sent, _dy_and_winner, LOST, what="dx"),),
    mistakes=(
        Mistake("You exchange them", edits=(("winner // 2", "winner % 2"), ("2 * j + winner % 2", "2 * j + winner // 2"))),
        Mistake("dy goes to the upper left pixel", edits=(("2 * i + winner // 2, 2 * j + winner % 2", "2 * i, 2 * j"),)),
        Mistake("begins at row 2i, column 2j", edits=(("2 * i + winner", "i + winner"), ("2 * j + winner", "j + winner"))),
        Mistake("It should be dy", edits=(("k] = dy", "k] = 1"),)),
        Mistake("has shape", edits=(("(n, 2 * height, 2 * width, c), dy.dtype", "(n, 2 * width, 2 * height, c), dy.dtype"),
                                    ("2 * i + winner // 2, 2 * j + winner % 2", "2 * j + winner % 2, 2 * i + winner // 2"))),
        Mistake("Your code stops", edits=(("(n, 2 * height, 2 * width, c)", "(n, height, width, c)"),)),
        Mistake("Does your function return something?", edits=(("    return dx", "    pass"),)),
        Mistake("count at the lower right", bug="pool_gradient_misplaced"),
    ),
    ours=_scattered,
)  # fmt: skip


def _fills_garbage(draw: Draw, pool_gather: Callable[..., Any]) -> None:
    """dx is handed over with numbers in it; every pixel must be written, none added to."""
    dy, winner = _dy_and_winner(draw).values()
    expected = _sent(dy, winner)
    garbage = 10 + draw.rng.random(expected.shape)
    dx, kept = garbage.copy(), (dy.copy(), winner.copy())
    pool_gather(dy, winner, dx)
    stale = dx == garbage
    if stale.all():
        raise CheckError("dx is as it was. Write into the array that you are given: dx[:, a::2, b::2] = ...; dx = ... only gives "
                         "a new array that name.")  # fmt: skip
    if not difference("", dx, garbage + expected):
        raise CheckError("You add to what was in dx before. It is garbage: write with =, not with +=.")
    if stale.any():
        at = [int(k) for k in np.argwhere(stale)[0]]
        raise CheckError(f"{int(stale.sum())} of {stale.size} pixels of dx were never written, {at} is the first: they still "
                         "hold what was in memory before. A pixel that has not won must be told so: 0.")  # fmt: skip
    _say(difference("dx", dx, expected), dx, {hint: other(dy, winner) for hint, other in LOST.items()})
    if not (np.array_equal(dy, kept[0]) and np.array_equal(winner, kept[1])):
        raise CheckError("dx is right, but your code changes dy or winner. Whoever called it may still need them.")


def _gathered(dy: Array, winner: Array, dx: Array) -> None:
    dx[...] = _scattered(dy, winner)


exercise(
    "05.gather",
    "pool_gather(dy, winner, dx), which writes dx",
    laws=(_fills_garbage,),
    mistakes=(
        Mistake("were never written", edits=(("dx[:, a::2, b::2] = np.where(winner == place, dy, 0)",
                                              "dx[:, a::2, b::2][winner == place] = dy[winner == place]"),)),
        Mistake("You add to what was in dx", edits=(("b::2] =", "b::2] +="),)),
        Mistake("dx is as it was", edits=(("for place in", "dx = np.zeros(dx.shape)\n    for place in"),)),
        Mistake("You exchange them", edits=(("a, b = divmod", "b, a = divmod"),)),
        Mistake("were never written", edits=(("range(4)", "range(3)"),)),
        Mistake("All four pixels get dy", edits=(("np.where(winner == place, dy, 0)", "dy"),)),
        Mistake("The losers get dy", edits=(("winner == place", "winner != place"),)),
        Mistake("It should be dy", edits=(("np.where(winner == place, dy, 0)", "winner == place"),)),
        Mistake("count at the lower right", bug="pool_gradient_misplaced"),
    ),
    ours=_gathered,
)  # fmt: skip

# Average-pooling -----------------------------------------------------------------------------------------------------


def _mean_is_the_mean(draw: Draw, mean_pool: Pool, mean_pool_back: Pool) -> None:
    n, height, width, c = _size(draw)
    x = draw.rng.standard_normal((n, 2 * height, 2 * width, c))
    four = _windows(x)
    y = mean_pool(x.copy())
    _say(difference("y", y, four.mean(axis=-1)), y, {
        "That is the sum of the four.": four.sum(axis=-1),
        "That is the largest of the four.": four.max(axis=-1),
        "You divide by 2. There are four pixels.": four.sum(axis=-1) / 2,
    })  # fmt: skip


def _is_its_adjoint(draw: Draw, mean_pool: Pool, mean_pool_back: Pool) -> None:
    n, height, width, c = _size(draw)
    x, dy = draw.rng.standard_normal((n, 2 * height, 2 * width, c)), draw.rng.standard_normal((n, height, width, c))
    handed = dy.copy()
    dx = mean_pool_back(handed)
    wrong = difference("dx", dx, _places(dy) / 4)
    if wrong and np.shape(dx) == x.shape:
        forward, back = np.sum(_windows(x).mean(axis=-1) * dy), np.sum(x * dx)
        wrong = f"<A x, dy> is {forward:.4g} and <x, A' dy> is {back:.4g}: not equal.\n{wrong}"
    _say(wrong, dx, {
        "Each pixel has a share of 1/4 in y, so it gets dy / 4, not dy.": _places(dy),
        "Divide by 4, not by 2.": _places(dy) / 2,
        "You divide twice: by 2 for each axis makes 4.": _places(dy) / 16,
        "You lay copies of dy beside each other (np.tile). Each value is to stand four times, close together: repeat.":
            np.tile(dy, (1, 2, 2, 1)) / 4,
        "You lay copies of dy beside each other (np.tile), and do not divide.": np.tile(dy, (1, 2, 2, 1)),
        "One pixel of each window gets all. All four had a share in y.": _sent(dy, np.zeros(dy.shape, int)),
        "One pixel of each window gets a quarter, three get nothing. All four had a share in y.":
            _sent(dy / 4, np.zeros(dy.shape, int)),
    })  # fmt: skip
    if not np.array_equal(handed, dy):
        raise CheckError("dx is right, but your code changes dy in place. Whoever called it may need it: dy / 4, not dy /= 4.")


exercise(
    "05.mean",
    "mean_pool(x) -> y, and mean_pool_back(dy) -> dx",
    laws=(_mean_is_the_mean, _is_its_adjoint),
    mistakes=(
        Mistake("That is the sum of the four", edits=((" / 4\n", "\n"),)),
        Mistake("gets dy / 4, not dy", edits=(("(dy / 4).repeat", "dy.repeat"),)),
        Mistake("(np.tile). Each value",
                edits=(("(dy / 4).repeat(2, axis=1).repeat(2, axis=2)", "np.tile(dy / 4, (1, 2, 2, 1))"),)),
        Mistake("dx has shape", edits=((".repeat(2, axis=2)", ""),)),
        Mistake("Divide by 4, not by 2", edits=(("(dy / 4)", "(dy / 2)"),)),
        Mistake("changes dy in place", edits=(("return (dy / 4).repeat", "dy /= 4\n    return dy.repeat"),)),
        Mistake("gets a quarter, three get nothing",
                edits=(("return (dy / 4).repeat(2, axis=1).repeat(2, axis=2)",
                        "dx = 0 * dy.repeat(2, axis=1).repeat(2, axis=2)\n    dx[:, ::2, ::2] = dy / 4\n    return dx"),)),
    ),
)  # fmt: skip
