"""Lesson 08: batch norm and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyunet import layers, ops
from tinyunet.backend import Array
from tinyunet.catalogue import Draw
from tinyunet.check import pair_of
from tinyunet.course.exercise import Mistake, catalogue, difference, equals, exercise
from tinyunet.errors import CheckError

AXES = (0, 1, 2)
"""Images and pixels."""


def _norm(x: Array, gamma: Array, beta: Array, eps: float | Array, axes: tuple[int, ...] | None = AXES) -> Array:
    """The formula; complex numbers may pass, so no np.var."""
    centred = x - x.mean(axis=axes, keepdims=True)
    var = (centred**2).mean(axis=axes, keepdims=True)
    return gamma * centred / np.sqrt(var + eps) + beta


def _forward(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    return _norm(x, gamma, beta, eps)


def _scaled(by: Callable[[Array, float, int], Array]) -> Callable[[Array, Array, Array, float], Array]:
    """The formula with another divisor: by(variance, eps, M)."""
    def formula(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        return gamma * (x - x.mean(axis=AXES)) / by(x.var(axis=AXES), eps, x[..., 0].size) + beta

    return formula


def _x(draw: Draw) -> Array:
    """Another mean and spread in every channel, no two sizes alike."""
    height, c = draw.integer(3, 4), draw.integer(2, 3)
    return draw.rng.standard_normal((2, height, height + 2, c)) * draw.rng.uniform(0.5, 2, c) + draw.rng.standard_normal(c)


def _arguments(draw: Draw) -> dict[str, Any]:
    x = _x(draw)
    c = x.shape[3]
    return {"x": x, "gamma": draw.rng.uniform(0.5, 2, c) * draw.rng.choice([-1, 1], c), "beta": draw.rng.standard_normal(c),
            "eps": draw.choice((0.01, 0.1))}  # fmt: skip


PER_PIXEL = ("You average over the images alone, for every pixel by itself. A convolution treats all pixels alike, so they "
             "share a mean: axis=(0, 1, 2).")  # fmt: skip
PER_IMAGE = "You average within each image. That is instance norm; batch norm averages over the images as well: axis=(0, 1, 2)."
ALL = "There is one mean for everything. Every channel has its own: axis=(0, 1, 2) leaves the channels apart."
OUTSIDE = "eps stands outside the root. It is added to the variance: np.sqrt(var + eps)."
UNBIASED = "You divide the sum of squares by M - 1. The batch is normalised by the biased variance, divided by M."
NORMS: dict[str, Callable[[Array, Array, Array, float], Array]] = {
    PER_PIXEL: lambda x, gamma, beta, eps: _norm(x, gamma, beta, eps, (0,)),
    PER_IMAGE: lambda x, gamma, beta, eps: _norm(x, gamma, beta, eps, (1, 2)),
    "You leave out an axis. Mean and variance run over images, rows and columns: axis=(0, 1, 2).":
        lambda x, gamma, beta, eps: _norm(x, gamma, beta, eps, (0, 1)),
    "eps is handed in. You use another number.": lambda x, gamma, beta, eps: _norm(x, gamma, beta, 1e-5),
    ALL: lambda x, gamma, beta, eps: _norm(x, gamma, beta, eps, None),
    OUTSIDE: _scaled(lambda var, eps, m: np.sqrt(var) + eps),
    UNBIASED: _scaled(lambda var, eps, m: np.sqrt(var * m / (m - 1) + eps)),
    "You divide by the variance. Take its root.": _scaled(lambda var, eps, m: var + eps),
    "eps is missing: sqrt(var + eps).": _scaled(lambda var, eps, m: np.sqrt(var)),
    "gamma and beta are exchanged: gamma scales, beta is added.": lambda x, gamma, beta, eps: _norm(x, beta, gamma, eps),
    "That is x_hat. Then y = gamma x_hat + beta.": lambda x, gamma, beta, eps: _norm(x, 1 + 0 * gamma, 0 * beta, eps),
    "beta is missing.": lambda x, gamma, beta, eps: _norm(x, gamma, 0 * beta, eps),
    "The mean is not subtracted.": lambda x, gamma, beta, eps: gamma * x / np.sqrt(x.var(axis=AXES) + eps) + beta,
}  # fmt: skip


def _constant_channel(draw: Draw, norm: Callable[..., Any]) -> None:
    """A dead channel has no variance, and becomes beta."""
    arguments = _arguments(draw)
    arguments["x"][..., 0] = value = draw.integer(-3, 5)
    with np.errstate(all="ignore"):
        y = np.asarray(norm(*arguments.values()))
    if wrong := difference("y of that channel", y[..., 0], np.full(y.shape[:3], arguments["beta"][0])):
        beta = f"{arguments['beta'][0]:.3g}"
        raise CheckError(f"A channel that is {value} everywhere, as a dead one is 0, should become beta = {beta}.\n{wrong}")


def _large_mean(draw: Draw, norm: Callable[..., Any]) -> None:
    """In float32, and a thousand spreads away from 0."""
    x = (draw.rng.standard_normal((2, 12, 15, 1)) + 1000).astype(np.float32)
    with np.errstate(all="ignore"):
        y = norm(x, np.ones(1, np.float32), np.zeros(1, np.float32), 1e-5)
    expected = _norm(x.astype(float), np.ones(1), np.zeros(1), 1e-5)
    if wrong := difference("y", y, expected, 5e-3):
        raise CheckError(f"Right in float64, but not in float32 for a channel with mean 1000 and deviation 1. {wrong}\n"
                         "Hint: mean(x^2) - mean(x)^2 subtracts 1000000 from 1000001, and float32 has seven digits. Subtract the "
                         "mean first, then square.")  # fmt: skip


exercise(
    "08.norm",
    "norm(x, gamma, beta, eps) -> y, batch norm in training",
    laws=(equals(_forward, _arguments, NORMS, what="y"), _constant_channel, _large_mean),
    mistakes=(
        Mistake(PER_PIXEL, edits=(("x.mean(axis=(0, 1, 2))", "x.mean(axis=0)"),
                                  ("** 2).mean(axis=(0, 1, 2))", "** 2).mean(axis=0)"))),
        Mistake(PER_IMAGE, edits=(("x.mean(axis=(0, 1, 2))", "x.mean(axis=(1, 2), keepdims=True)"),
                                  ("** 2).mean(axis=(0, 1, 2))", "** 2).mean(axis=(1, 2), keepdims=True)"))),
        Mistake(ALL, edits=(("x.mean(axis=(0, 1, 2))", "x.mean()"), ("** 2).mean(axis=(0, 1, 2))", "** 2).mean()"))),
        Mistake("Take its root", edits=(("np.sqrt(var + eps)", "(var + eps)"),)),
        Mistake("eps is missing", edits=((" + eps)", ")"),)),
        Mistake("exchanged", edits=(("gamma * x_hat + beta", "beta * x_hat + gamma"),)),
        Mistake("mean first, then square", edits=(("((x - mean) ** 2).mean(axis=(0, 1, 2))",
                                                   "(x ** 2).mean(axis=(0, 1, 2)) - mean ** 2"),)),
        Mistake("changes its argument x", edits=(("    mean = x.mean(axis=(0, 1, 2))\n",
                                                  "    mean = x.mean(axis=(0, 1, 2))\n    x -= mean\n    mean = 0\n"),)),
        Mistake(PER_PIXEL, bug="batch_norm_per_pixel"),
        Mistake(OUTSIDE, bug="eps_outside_the_root"),
        Mistake(UNBIASED, bug="batch_norm_unbiased"),
        Mistake("float32 has seven digits", bug="variance_cancels"),
    ),
    ours=lambda x, gamma, beta, eps: ops.batch_norm_forward(x, gamma, beta, eps)[0],
)  # fmt: skip


# Backward ------------------------------------------------------------------------------------------------------------


def _backward_arguments(draw: Draw) -> dict[str, Any]:
    x, gamma, _, eps = _arguments(draw).values()
    inv_std = 1 / np.sqrt(x.var(axis=AXES) + eps)
    dy = draw.rng.standard_normal(x.shape) + draw.rng.uniform(0.5, 1, x.shape[3])
    return {"dy": dy, "x_hat": (x - x.mean(axis=AXES)) * inv_std, "gamma": gamma, "inv_std": inv_std}


def _slopes(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
    """What the gradients are: slopes of the sum of dy y, by a complex step along every value. No backward formula in it."""
    x, beta = x_hat / inv_std, np.zeros(len(gamma))  # x has lost its mean, which does not matter
    eps = 1 / inv_std**2 - (x**2).mean(axis=AXES)

    def slope(at: int, k: int) -> float:
        moved: list[Array] = [v.astype(complex) for v in (x, gamma, beta)]
        moved[at].flat[k] += 1e-30j
        y = _norm(moved[0], moved[1], moved[2], eps)
        return float((dy * y).sum().imag / 1e-30)

    dx, dgamma, dbeta = (np.array([slope(at, k) for k in range(v.size)]).reshape(v.shape)
                         for at, v in enumerate((x, gamma, beta)))  # fmt: skip
    return dx, dgamma, dbeta


Gradients = Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]


def _roads(
    direct: float = 1, mean: float = -1, var: float = -1, gammas: int = 1, stds: int = 1, axes: tuple[int, ...] = AXES
) -> Gradients:
    """Backward with parts of it left out or turned round."""

    def formula(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
        by_mean = dy.mean(axis=axes, keepdims=True)
        by_var = x_hat * (dy * x_hat).mean(axis=axes, keepdims=True)
        dx = gamma**gammas * inv_std**stds * (direct * dy + mean * by_mean + var * by_var)
        return dx, (dy * x_hat).sum(axis=AXES), dy.sum(axis=AXES)

    return formula


def _with_sums(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
    dgamma, dbeta = (dy * x_hat).sum(axis=AXES), dy.sum(axis=AXES)
    return gamma * inv_std * (dy - dbeta - x_hat * dgamma), dgamma, dbeta


def _with_means(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
    return _roads()(dy, x_hat, gamma, inv_std)[0], (dy * x_hat).mean(axis=AXES), dy.mean(axis=AXES)


def _gamma_twice(dy: Array, x_hat: Array, gamma: Array, inv_std: Array) -> tuple[Array, Array, Array]:
    dx, dgamma, dbeta = _roads()(dy, x_hat, gamma, inv_std)
    return dx, gamma * dgamma, gamma * dbeta


DIRECT = "You walk the direct road alone, as if mean and variance were fixed numbers. They are made of x: two roads are missing."
NO_MEAN = "The road through the mean is missing: what every x loses because the mean rises with it."
NO_VAR = "The road through inv_std is missing. A dy of ones would never tell: its part is zero then."
NO_GAMMA = "gamma is missing in dx: the gradient that comes to x_hat is gamma dy."
ROADS: dict[str, Gradients] = {
    DIRECT: _roads(mean=0, var=0),
    NO_MEAN: _roads(mean=0),
    NO_VAR: _roads(var=0),
    NO_GAMMA: _roads(gammas=0),
    "inv_std is missing in dx: x enters divided by the deviation.": _roads(stds=0),
    "The road through the mean has the wrong sign.": _roads(mean=1),
    "The road through inv_std has the wrong sign.": _roads(var=1),
    "You average over the images alone. mean(...) is over images and pixels, as in forward: axis=(0, 1, 2).": _roads(axes=(0,)),
    "In dx stand means, sums divided by M. You subtract the sums.": _with_sums,
    "dgamma and dbeta come from dy itself. g = gamma dy is what comes to x_hat, further down the road.": _gamma_twice,
    "dgamma and dbeta are sums over all M values; yours are means.": _with_means,
}
IS_GRADIENT = equals(_slopes, _backward_arguments, ROADS, what="the result (dx, dgamma, dbeta)")


def _gradients(draw: Draw, norm_backward: Gradients) -> None:
    """Equal to the slopes; where no hint fits, the sum over a channel tells which way to look."""
    kept: list[Any] = []

    def watched(*arguments: Array) -> Any:
        kept[:] = [norm_backward(*arguments)]
        return kept[0]

    try:
        IS_GRADIENT(draw, watched)
    except CheckError as wrong:
        try:
            total = float(np.abs(np.asarray(kept[0][0]).sum(axis=AXES)).max())
        except (TypeError, ValueError, IndexError):
            raise wrong from None
        if "Hint" in str(wrong) or total < 1e-9:
            raise
        raise CheckError(f"{wrong}\nHint: over one channel your dx adds up to {total:.3g} (sign aside). It must be 0: adding a "
                         "number to all x of a channel changes nothing.") from None  # fmt: skip


exercise(
    "08.backward",
    "norm_backward(dy, x_hat, gamma, inv_std) -> dx, dgamma, dbeta",
    laws=(_gradients,),
    mistakes=(
        Mistake(DIRECT, edits=((" - dbeta / count - x_hat * dgamma / count", ""),)),
        Mistake(NO_GAMMA, edits=(("gamma * inv_std * (", "inv_std * ("),)),
        Mistake("inv_std is missing in dx", edits=(("gamma * inv_std * (", "gamma * ("),)),
        Mistake("The road through the mean has the wrong sign", edits=(("dy - dbeta / count", "dy + dbeta / count"),)),
        Mistake("You subtract the sums", edits=(("count = dy[..., 0].size", "count = 1"),)),
        Mistake("yours are means", edits=(("return dx, dgamma, dbeta", "return dx, dgamma / count, dbeta / count"),)),
        Mistake("come from dy itself", edits=(("return dx, dgamma, dbeta", "return dx, gamma * dgamma, gamma * dbeta"),)),
        Mistake("adds up to", edits=(("dy - dbeta / count", "dy - 2 * dbeta / count"),)),
        Mistake("expected 3 values", edits=(("return dx, dgamma, dbeta", "return dx"),)),
        Mistake("changes its argument x_hat", edits=((" - x_hat * dgamma / count",
                                                      " - np.multiply(x_hat, dgamma / count, out=x_hat)"),)),
        Mistake(NO_VAR, bug="batch_norm_no_variance_term"),
        Mistake(NO_MEAN, bug="batch_norm_no_mean_term"),
        Mistake(NO_GAMMA, bug="batch_norm_gamma_forgotten"),
        Mistake("changes its argument x_hat", bug="backward_eats_its_context"),
    ),
    ours=lambda dy, x_hat, gamma, inv_std: ops.batch_norm_backward(
        dy, ops.norm.BatchNormContext(x_hat, gamma, inv_std, inv_std, inv_std)
    ),
)  # fmt: skip


# Training and prediction ---------------------------------------------------------------------------------------------

Statistics = tuple[Array, Array, Array]


def _layer_arguments(draw: Draw, training: bool) -> dict[str, Any]:
    """Few values a channel, so that M and M - 1 are far apart; running statistics far from the batch's; no momentum of 0.5."""
    x, gamma, beta, _ = _arguments(draw).values()
    c = len(gamma)
    return {"x": x[:, :2, :3], "gamma": gamma, "beta": beta, "mean": draw.rng.standard_normal(c) + 3,
            "var": draw.rng.uniform(0.2, 0.4, c), "training": training, "momentum": draw.choice((0.1, 0.3))}  # fmt: skip


def _in_training(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, training: bool, momentum: float) -> Statistics:
    y = _norm(x, gamma, beta, 1e-5)
    return y, (1 - momentum) * mean + momentum * x.mean(axis=AXES), (1 - momentum) * var + momentum * x.var(axis=AXES, ddof=1)


def _in_prediction(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, training: bool, momentum: float) -> Statistics:
    return gamma * (x - mean) / np.sqrt(var + 1e-5) + beta, mean, var


def _with_new_statistics(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, *rest: Any) -> Statistics:
    _, mean, var = _in_training(x, gamma, beta, mean, var, *rest)
    return _in_prediction(x, gamma, beta, mean, var, *rest)


def _counted(factor: Callable[[Array], float]) -> Callable[..., Statistics]:
    """Training, with another factor than M / (M - 1)."""

    def formula(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, training: bool, momentum: float) -> Statistics:
        y, mean, _ = _in_training(x, gamma, beta, mean, var, training, momentum)
        return y, mean, (1 - momentum) * var + momentum * factor(x) * x.var(axis=AXES)

    return formula


def _swapped(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, training: bool, momentum: float) -> Statistics:
    return _in_training(x, gamma, beta, mean, var, training, 1 - momentum)


MOMENTUM = "The momentum works the wrong way round: it is the share of the new batch, and the old value keeps 1 - momentum."
BIASED = "The running variance follows the biased one. It takes the unbiased: ctx.var M / (M - 1)."
RUNNING = "In training y comes from the statistics of this batch; the running ones only look on."
COUNT = "M counts the values of one channel, N H W. Yours is another number."
BATCH = "training is False, and you normalise by the statistics of this batch. Prediction takes mean and var as handed in."
LAYERS_TRAIN: dict[str, Callable[..., Statistics]] = {
    MOMENTUM: _swapped,
    BIASED: _counted(lambda x: 1),
    f"{COUNT} Do you count the channels as well?": _counted(lambda x: x.size / (x.size - 1)),
    f"{COUNT} Do you count the images alone?": _counted(lambda x: len(x) / (len(x) - 1)),
    f"{COUNT} Do you count the pixels of one image?": _counted(lambda x: x[0, ..., 0].size / (x[0, ..., 0].size - 1)),
    RUNNING: lambda x, gamma, beta, mean, var, *rest: (_in_prediction(x, gamma, beta, mean, var, *rest)[0],
                                                       *_in_training(x, gamma, beta, mean, var, *rest)[1:]),
    f"{RUNNING} (Yours are updated first, and then used.)": _with_new_statistics,
    "The running statistics do not move. In training they follow the batch.":
        lambda x, gamma, beta, mean, var, *rest: (_norm(x, gamma, beta, 1e-5), mean, var),
    "The running statistics jump to those of the batch. They keep a share of 1 - momentum of what they were.":
        lambda x, gamma, beta, *rest: (_norm(x, gamma, beta, 1e-5), x.mean(axis=AXES), x.var(axis=AXES, ddof=1)),
}  # fmt: skip
LAYERS_PREDICT: dict[str, Callable[..., Statistics]] = {
    BATCH: lambda x, gamma, beta, mean, var, *rest: (_norm(x, gamma, beta, 1e-5), mean, var),
    f"{BATCH} And it leaves them as they are.": _in_training,
    "In prediction the running statistics stay as they are: nobody learns from the images to be predicted.":
        lambda x, gamma, beta, mean, var, *rest: (_in_prediction(x, gamma, beta, mean, var, *rest)[0],
                                                  *_in_training(x, gamma, beta, mean, var, *rest)[1:]),
}  # fmt: skip


def _our_layer(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, training: bool, momentum: float) -> Statistics:
    layer = layers.BatchNorm("norm", len(gamma), momentum)
    layer.params.update(gamma=gamma, beta=beta)
    layer.buffers.update(mean=mean, var=var)
    layer.training = training
    return layer.forward(x), layer.buffers["mean"], layer.buffers["var"]


PARTS = "the result (y, mean, var)"

exercise(
    "08.layer",
    "norm_layer(x, gamma, beta, mean, var, training, momentum) -> y, mean, var",
    laws=(equals(_in_training, lambda draw: _layer_arguments(draw, True), LAYERS_TRAIN, what=PARTS),
          equals(_in_prediction, lambda draw: _layer_arguments(draw, False), LAYERS_PREDICT, what=PARTS)),
    mistakes=(
        Mistake(MOMENTUM, edits=(("(1 - momentum) * mean + momentum * ctx.mean", "momentum * mean + (1 - momentum) * ctx.mean"),
                                 ("(1 - momentum) * var + momentum * ctx.var", "momentum * var + (1 - momentum) * ctx.var"))),
        Mistake(BIASED, edits=((" * count / (count - 1)", ""),)),
        Mistake("count the images alone", edits=(("count = x[..., 0].size", "count = len(x)"),)),
        Mistake("count the channels as well", edits=(("count = x[..., 0].size", "count = x.size"),)),
        Mistake(RUNNING, edits=(("    y, ctx = batch_norm_forward(x, gamma, beta)\n",
                                 "    _, ctx = batch_norm_forward(x, gamma, beta)\n"
                                 "    y = gamma * (x - mean) / np.sqrt(var + 1e-5) + beta\n"),)),
        Mistake(BATCH, edits=(("if not training:", "if False:"),)),
        Mistake(BATCH, edits=(("return gamma * (x - mean) / np.sqrt(var + 1e-5) + beta,",
                               "return batch_norm_forward(x, gamma, beta)[0],"),)),
        Mistake("nobody learns from the images", edits=(
            ("return gamma * (x - mean) / np.sqrt(var + 1e-5) + beta, mean, var",
             "fixed = gamma * (x - mean) / np.sqrt(var + 1e-5) + beta"),
            ("    return y,", "    return y if training else fixed,"))),
        Mistake("changes its argument mean", edits=(("    mean = (1 - momentum) * mean + momentum * ctx.mean",
                                                     "    mean *= 1 - momentum\n    mean += momentum * ctx.mean"),)),
        Mistake("expected 3 values", edits=(("return y, mean, var", "return y"),)),
        Mistake(BIASED, bug="running_variance_biased"),
        Mistake(MOMENTUM, bug="momentum_the_wrong_way"),
        Mistake(BATCH, bug="eval_mode_ignored"),
    ),
    ours=_our_layer,
)  # fmt: skip


# Dropout -------------------------------------------------------------------------------------------------------------

Drop = Callable[..., Any]
DropBackward = Callable[[Array, Any], Any]


def _drawn(draw: Draw, drop: Drop, drop_backward: DropBackward) -> None:
    """Zero at random, the right share of it, the rest divided; another draw each time, and all of it from rng."""
    rate, seed = draw.choice((0.2, 0.3, 0.8)), draw.integer(0, 2**31)
    x = draw.rng.uniform(1, 2, (3, 12, 17, 6))
    given, rng = x.copy(), np.random.default_rng(seed)
    y, _ = pair_of(drop(given, rate, rng), "drop")
    _array("y", y, x.shape)
    if not np.array_equal(given, x):
        raise CheckError("drop changes its argument x. A skip may still need it: make a new array.")
    dropped = y == 0
    share = dropped.mean()
    if not dropped.any():
        raise CheckError(f"rate is {rate}, and no value of y is 0.")
    if abs(share - rate) > 0.1:
        turned = abs(share - (1 - rate)) < 0.1
        why = "\nHint: the rate is the share that is dropped, not the one that is kept." if turned else ""
        raise CheckError(f"rate is {rate}, and {share:.0%} of the values are 0.{why}")
    for axis, what in enumerate(("images", "rows", "columns", "channels")):
        if (np.diff(dropped, axis=axis) == 0).mean() > 0.95:  # at random, at most 0.68
            raise CheckError(f"All {what} lose the same places. Draw a number for every value: rng.random(x.shape).")
    factor, right = (y / x)[~dropped], 1 / (1 - rate)
    if difference("", factor, np.full(factor.shape, right)):
        how = next((hint for value, hint in ((1.0, "Kept values stay as they are, so the mean falls. Divide by 1 - rate."),
                                             (1 / rate, "You divide by the rate. Divide by what is kept, 1 - rate."),
                                             (1 - rate, "You multiply by 1 - rate. Divide by it."))
                    if not difference("", factor, np.full(factor.shape, value))), "Divide by 1 - rate.")  # fmt: skip
        raise CheckError(f"With rate {rate}, kept values are multiplied by {factor[0]:.4g}, expected {right:.4g}.\nHint: {how}")
    if np.array_equal(drop(x, rate, rng)[0], y):
        raise CheckError("A second call with the same generator drops the same places. Draw from rng anew in every call.")
    if not np.array_equal(drop(x, rate, np.random.default_rng(seed))[0], y):
        raise CheckError("The same seed drops other places: your numbers do not come from rng. Use rng.random, not "
                         "np.random.random.")


def _back(draw: Draw, drop: Drop, drop_backward: DropBackward) -> None:
    """dx where forward kept, also where x itself was 0; twice the same, and forward passes in between do not matter."""
    rate, seed = draw.choice((0.2, 0.3, 0.8)), draw.integer(0, 2**31)
    x = np.maximum(draw.rng.standard_normal((2, 5, 7, 3)), 0)  # from a ReLU: half of it is 0
    kept = np.asarray(drop(np.ones_like(x), rate, np.random.default_rng(seed))[0]) != 0
    _, ctx = pair_of(drop(x, rate, np.random.default_rng(seed)), "drop")
    drop(x + 1, rate, np.random.default_rng(seed + 1))
    dy = draw.rng.uniform(1, 2, x.shape)
    dx = drop_backward(dy.copy(), ctx)
    _array("dx", dx, x.shape)
    if wrong := difference("dx", dx, np.where(kept, dy / (1 - rate), 0)):
        hints = ((np.where(kept, dy, 0), "dx is not divided by 1 - rate, y was."),
                 (np.where(kept & (x > 0), dy / (1 - rate), 0),
                  "dx is 0 where x was 0, though those values were kept. y != 0 is no mask: behind a ReLU many zeros are not "
                  "dropped. Remember what was drawn."),
                 (dy, "dx is dy: backward must drop what forward dropped."))  # fmt: skip
        why = next((hint for other, hint in hints if not difference("dx", dx, other)), "")
        if not why and np.any((dx != 0) != kept):
            why = "dx is 0 at other places than y. One draw serves both directions: remember it in what drop returns."
        raise CheckError(wrong + (f"\nHint: {why}" if why else ""))
    if difference("dx", drop_backward(dy, ctx), dx):
        raise CheckError("A second drop_backward with the same dy and ctx gives something else. It should not draw.")


def _predicting(draw: Draw, drop: Drop, drop_backward: DropBackward) -> None:
    """With training=False the identity, and the generator is left alone."""
    x, dy = draw.rng.standard_normal((2, 2, 4, 5, 3))
    rng = np.random.default_rng(draw.integer(0, 2**31))
    before = rng.bit_generator.state
    y, ctx = pair_of(drop(x.copy(), 0.4, rng, training=False), "drop")
    _array("y", y, x.shape)
    if wrong := difference("y", y, x):
        scaled = "" if difference("y", y, x / 0.6) and difference("y", y, 0.6 * x) else (
            "\nHint: the division belongs to training. It is made there so that prediction needs no factor.")  # fmt: skip
        raise CheckError(f"With training=False nothing is dropped, y should be x. {wrong}{scaled}")
    if wrong := difference("dx", drop_backward(dy, ctx), dy):
        raise CheckError(f"With training=False y is x, so dx should be dy. {wrong}")
    if rng.bit_generator.state != before:
        raise CheckError("With training=False the generator has moved on. A validation in the middle of a training would change "
                         "what the training draws after it: draw only if training.")  # fmt: skip


def _array(what: str, value: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.shape != shape:
        found = f"shape {value.shape}" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
        raise CheckError(f"{what} has {found}, expected an array of shape {shape}.")


exercise(
    "08.dropout",
    "drop(x, rate, rng, training) -> y, ctx and drop_backward(dy, ctx) -> dx",
    laws=(_drawn, _back, _predicting,
          catalogue("dropout", kinds=("reference", "gradient", "adjoint", "invariance", "convention"))),
    mistakes=(
        Mistake("not the one that is kept", edits=((">= rate", "< rate"),)),
        Mistake("so the mean falls", edits=(("x / (1 - rate)", "x"),)),
        Mistake("You divide by the rate", edits=(("x / (1 - rate)", "x / rate"),)),
        Mistake("Draw a number for every value", edits=(("rng.random(x.shape)", "rng.random((len(x), 1, 1, x.shape[3]))"),)),
        Mistake("All channels lose the same places", edits=(("rng.random(x.shape)", "rng.random(x.shape[:3])[..., None]"),)),
        Mistake("your numbers do not come from rng", edits=(("rng.random(x.shape)", "np.random.random(x.shape)"),)),
        Mistake("Draw from rng anew", edits=(("rng.random(x.shape)", "np.random.default_rng(0).random(x.shape)"),)),
        Mistake("y != 0 is no mask", edits=(("0), (kept, rate)", "0), (np.where(kept, x, 0) != 0, rate)"),)),
        Mistake("dx is not divided", edits=(("dy / (1 - rate)", "dy"),)),
        Mistake("backward must drop", edits=(("np.where(kept, dy / (1 - rate), 0)", "dy"),)),
        Mistake("One draw serves both", edits=(("    kept, rate = ctx\n", "    rate = ctx[1]\n"
                                                "    kept = np.random.default_rng(5).random(dy.shape) >= rate\n"),)),
        Mistake("nothing is dropped", edits=(("if not training:", "if False:"),)),
        Mistake("the generator has moved on", edits=(
            ("    if not training:\n        return x.copy(), (np.ones(x.shape, bool), 0.0)\n", ""),
            ("    kept = rng.random(x.shape) >= rate\n",
             "    kept = rng.random(x.shape) >= rate\n    if not training:\n        kept[...], rate = True, 0.0\n"))),
        Mistake("the division belongs to training", edits=(("return x.copy(), ", "return x / (1 - rate), "),)),
        Mistake("so the mean falls", bug="dropout_not_scaled"),
        Mistake("One draw serves both", bug="dropout_two_masks"),
        Mistake("not the one that is kept", bug="dropout_rate_inverted"),
    ),
    ours=(lambda x, rate, rng, training=True: ops.dropout_forward(x, rate if training else 0.0, rng), ops.dropout_backward),
)  # fmt: skip
