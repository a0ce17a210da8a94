"""The kernels around the convolutions, emulated: they agree with the ops in float64, in any order, and move each array once."""

import shutil
from typing import NamedTuple

import numpy as np
import pytest

from tinyunet import ops
from tinyunet.cuda import crop, head, loader, norm, optim, pool, relu, runtime, source, sums
from tinyunet.errors import BackendError

# N, H, W, C: one pixel, odd sizes, channels that are no multiples of 4 and of 32, several groups and several parts
SHAPES = [(1, 1, 1, 1), (3, 5, 7, 3), (1, 3, 9, 5), (2, 6, 5, 8), (1, 4, 5, 33), (1, 21, 31, 36), (1, 2, 3, 132)]
EPS = 1e-5


class Case(NamedTuple):
    """Something to compute, and what must come out."""

    run: object  # () -> arrays
    wanted: tuple  # in float64
    exact: bool = False


def double(*arrays):
    """The same values in float64, which the kernels do not take: ops on them are the formulas."""
    return tuple(a if a is None or a.dtype != np.float32 else a.astype(np.float64) for a in arrays)


def draw(rng, *shape):
    """Standard normal values."""
    return rng.standard_normal(shape, np.float32)


def column_sums(rng, shape):
    """A sum over pixels."""
    x = draw(rng, *shape)
    return Case(lambda: (sums.column_sums(x),), (double(x)[0].sum(axis=(0, 1, 2)),))


def relu_forward(rng, shape):
    """ReLU, with the zeros that decide about its derivative."""
    x = draw(rng, *shape) * rng.integers(0, 2, shape).astype(np.float32)
    y, _ = ops.relu_forward(*double(x))
    return Case(lambda: relu.forward(x), (y, y > 0), exact=True)


def bias_relu_forward(rng, shape):
    """Bias and ReLU."""
    x, b = draw(rng, *shape), draw(rng, shape[3])
    y, _ = ops.relu_forward(double(x + b)[0])  # rounded as a kernel rounds it
    return Case(lambda: relu.forward(x, b), (y, y > 0), exact=True)


def relu_backward(rng, shape):
    """The gradient of ReLU."""
    dy, positive = draw(rng, *shape), rng.random(shape) < 0.5
    return Case(lambda: (relu.backward(dy, positive),), (dy * positive,), exact=True)


def bias_relu_backward(rng, shape):
    """The gradients of bias and ReLU."""
    dy, positive = draw(rng, *shape), rng.random(shape) < 0.5
    dx = double(dy)[0] * positive
    return Case(lambda: relu.backward_bias(dy, positive), (dx, dx.sum(axis=(0, 1, 2))))


def affine(rng, shape):
    """x with a mean, gamma and beta; at least three pixels: of two, x_hat is 1 and -1, whatever they are."""
    n, h, w, c = shape
    return draw(rng, n if h * w > 1 else n + 2, h, w, c) + 2, draw(rng, c), draw(rng, c)


def norm_forward(rng, shape):
    """Batch norm with the statistics of the batch."""
    x, gamma, beta = affine(rng, shape)
    y, ctx = ops.batch_norm_forward(*double(x, gamma, beta), EPS)
    return Case(lambda: norm.forward(x, gamma, beta, EPS), (y, ctx.x_hat, ctx.inv_std, ctx.mean, ctx.var))


def norm_backward(rng, shape):
    """Its gradients."""
    x, gamma, beta = affine(rng, shape)
    dy, ctx = draw(rng, *x.shape), ops.batch_norm_forward(*double(x, gamma, beta), EPS)[1]
    x_hat, inv_std = ctx.x_hat.astype(np.float32), ctx.inv_std.astype(np.float32)
    wanted = ops.batch_norm_backward(*double(dy), ctx._replace(x_hat=double(x_hat)[0], inv_std=double(inv_std)[0]))
    return Case(lambda: norm.backward(dy, x_hat, gamma, inv_std), wanted)


def norm_eval(rng, shape):
    """Batch norm with running statistics, and its gradients."""
    x, gamma, beta = affine(rng, shape)
    dy, mean, var = draw(rng, *x.shape), draw(rng, shape[3]), rng.random(shape[3], np.float32) + 0.5
    y, ctx = ops.batch_norm_eval_forward(*double(x, gamma, beta, mean, var), EPS)

    def run():
        y, x_hat = norm.eval_forward(x, gamma, beta, mean, var, EPS)
        return y, x_hat, *norm.eval_backward(dy, x_hat, ctx.slope.astype(np.float32))

    return Case(run, (y, ctx.x_hat, *ops.batch_norm_eval_backward(*double(dy), ctx)))


def norm_relu(rng, shape):
    """Batch norm and ReLU in one pass, and the gradients of both, which have nothing but x."""
    x, gamma, beta = affine(rng, shape)
    dy = draw(rng, *x.shape)
    between, ctx = ops.batch_norm_forward(*double(x, gamma, beta), EPS)
    y, mask = ops.relu_forward(between)
    wanted = ops.batch_norm_backward(ops.relu_backward(*double(dy), mask), ctx)

    def run():
        y, inv_std, mean, _ = norm.relu_forward(x, gamma, beta, EPS)
        return y, *norm.relu_backward(dy, x, gamma, beta, inv_std, mean)

    return Case(run, (y, *wanted))


def pool_forward(rng, shape):
    """Max-pooling, with equal values."""
    n, h, w, c = shape
    x = rng.integers(-2, 3, (n, 2 * h, 2 * w, c)).astype(np.float32)
    y, ctx = ops.max_pool_forward(*double(x))
    return Case(lambda: pool.forward(x), (y, ctx.winner), exact=True)


def pool_backward(rng, shape):
    """Its gradient."""
    dy, winner = draw(rng, *shape), rng.integers(0, 4, shape).astype(np.uint8)
    wanted = ops.max_pool_backward(*double(dy), ops.pool.MaxPoolContext(winner, np.float64))
    return Case(lambda: (pool.backward(dy, winner),), (wanted,), exact=True)


def pool_and_crop_backward(rng, shape):
    """Its gradient and that of the skip, which lies in the gradient of a concatenation: one map more, the crop off centre."""
    n, h, w, c = shape
    dy, winner = draw(rng, *shape), rng.integers(0, 4, shape).astype(np.uint8)
    joined = draw(rng, n, 2 * h - 1, 2 * w, 4 + c)
    wanted = ops.max_pool_backward(*double(dy), ops.pool.MaxPoolContext(winner, np.float64))
    wanted[:, 1:] += joined[..., 4:]
    return Case(lambda: (pool.backward(dy, winner, joined, top=1, left=0, channel=4),), (wanted,))


def crop_forward(rng, shape):
    """Crop and concatenate; of an odd difference the extra pixel is at the bottom and right."""
    n, h, w, c = shape
    up, skip = draw(rng, n, h, w, c + 4), draw(rng, n, h + 3, w + 2, c)
    y, ctx = ops.crop_concat_forward(*double(up, skip))
    return Case(lambda: (crop.forward(up, skip, ctx.crop.top, ctx.crop.left),), (y,), exact=True)


def crop_backward(rng, shape):
    """Its gradients."""
    n, h, w, c = shape
    dy = draw(rng, n, h, w, 2 * c + 4)
    _, ctx = ops.crop_concat_forward(np.zeros((n, h, w, c + 4)), np.zeros((n, h + 3, w + 2, c)))
    wanted = ops.crop_concat_backward(*double(dy), ctx)
    return Case(lambda: crop.backward(dy, c + 4, (n, h + 3, w + 2, c), ctx.crop.top, ctx.crop.left), wanted, exact=True)


def head_case(classes, forward_of, backward_of):
    """-> the cases of a head with so many classes: forward, backward, and both together with the loss"""

    def weights(rng, shape):
        return draw(rng, *shape), draw(rng, 1, 1, shape[3], classes), draw(rng, classes)

    def forward(rng, shape):
        x, w, b = weights(rng, shape)
        return Case(lambda: (head.forward(x, w, b),), ops.conv2d_forward(*double(x, w, b))[:1])

    def backward(rng, shape):
        x, w, b = weights(rng, shape)
        dy = draw(rng, *shape[:3], classes) + 1  # or db, a single sum, may be nearly zero
        return Case(lambda: head.backward(dy, x, w),
                    ops.conv2d_backward(*double(dy), ops.conv2d_forward(*double(x, w, b))[1]))

    def loss(rng, shape, weighted=True):
        x, w, b = weights(rng, shape)
        labels = rng.integers(-1, max(classes, 2), shape[:3])
        labels[0, 0, 0] = 1  # one at least is no "ignore"
        factors = rng.random(shape[:3], np.float32) + 0.5 if weighted else None
        logits, ctx = ops.conv2d_forward(*double(x, w, b))
        energy, loss_ctx = forward_of(logits, labels, *double(factors))
        wanted = (np.array([energy]), *ops.conv2d_backward(backward_of(loss_ctx), ctx))
        return Case(lambda: head.loss(x, w, b, labels, factors), wanted)

    return forward, backward, loss, lambda rng, shape: loss(rng, shape, weighted=False)


head_forward, head_backward, head_loss, head_loss_unweighted = head_case(
    2, ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward)
head5_forward, head5_backward, head5_loss, _ = head_case(
    5, ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward)
head1_forward, head1_backward, head1_loss, _ = head_case(
    1, ops.sigmoid_cross_entropy_forward, ops.sigmoid_cross_entropy_backward)


def sgd(rng, shape):
    """A step with momentum and weight decay."""
    w, g, v = (draw(rng, *shape) for _ in range(3))
    velocity = 0.9 * double(v)[0] + g + 0.01 * double(w)[0]

    def run():
        new, velocity = w.copy(), v.copy()
        optim.sgd(new, g, velocity, 0.1, 0.9, 0.01)
        return new, velocity

    return Case(run, (w - 0.1 * velocity, velocity))


def adam(rng, shape):
    """The third step of Adam."""
    w, g, m = (draw(rng, *shape) for _ in range(3))
    s = rng.random(shape, np.float32)
    gradient = g + 0.01 * double(w)[0]
    mean, square = 0.9 * double(m)[0] + 0.1 * gradient, 0.999 * double(s)[0] + 0.001 * gradient**2
    wanted = w - 0.1 / (1 - 0.9**3) * mean / (np.sqrt(square / (1 - 0.999**3)) + 1e-8)

    def run():
        new, means, squares = w.copy(), m.copy(), s.copy()
        optim.adam(new, g, means, squares, 0.1, 0.9, 0.999, 1e-8, 3, 0.01)
        return new, means, squares

    return Case(run, (wanted, mean, square))


CASES = (column_sums, relu_forward, bias_relu_forward, relu_backward, bias_relu_backward, norm_forward, norm_backward, norm_eval,
         norm_relu, pool_forward, pool_backward, pool_and_crop_backward, crop_forward, crop_backward, head_forward, head_backward,
         head_loss, head_loss_unweighted, head5_forward, head5_backward, head5_loss, head1_forward, head1_backward, head1_loss,
         sgd, adam)  # fmt: skip
BY_NAME = {name: case for name, case in globals().items() if case in CASES}
every_case = pytest.mark.parametrize("name", BY_NAME)


def wrong(got, case):
    """What is wrong with results: the first that is further off than 2e-6 of its norm, or not equal where it must be; or None."""
    for k, (a, b) in enumerate(zip(got, case.wanted, strict=True)):
        if a.shape != b.shape or not np.isfinite(a).all():
            return f"result {k} has the shape {a.shape}, or is not finite"
        error, size = np.linalg.norm((a.astype(np.float64) - b).ravel()), np.linalg.norm(b.astype(np.float64).ravel())
        if error > (0 if case.exact else 2e-6 * max(size, 1e-3)):
            return f"result {k} is off by {error:.1e} of {size:.1e}"
    return None


@pytest.fixture
def short_runs(monkeypatch):
    """At most three blocks add up one sum, so that in small maps, too, a block of a head has several tiles."""
    monkeypatch.setattr(head, "PARTS", 3)
    monkeypatch.setattr("tinyunet.cuda.vectors.PARTS", 3)


@every_case
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_kernel_agrees_with_the_op(name, shape, compiler, poisoned, rng):
    """Within 2e-6 of float64, or equal where nothing is rounded; every value written; and the checker finds nothing."""
    case = BY_NAME[name](rng, shape)
    with runtime.emulated(mode="check") as emulation:
        got = case.run()
    assert not emulation.problems, emulation.problems[0]
    assert wrong(got, case) is None, wrong(got, case)


@every_case
def test_every_order_of_threads_gives_the_same(name, compiler, poisoned, short_runs, rng):
    """Index, reverse and random order, bit for bit one result: nothing is added in the order in which blocks happen to end."""
    case = BY_NAME[name](rng, (2, 19, 23, 12))
    results = []
    for schedule, seed in (("index", 0), ("reverse", 0), ("random", 1), ("random", 2)):
        with runtime.emulated(schedule=schedule, seed=seed):
            results.append([a.tobytes() for a in case.run()])
    assert all(result == results[0] for result in results)
    assert wrong(case.run(), case) is None


@pytest.fixture
def on_gpu(real_cupy, monkeypatch):
    """Kernels run on the GPU, on copies of their arguments, though these are NumPy's."""

    def run(file, kernel, grid, block, args, shared_mem=0):
        copies = [real_cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        loader.load(file, kernel)(grid, block, copies, shared_mem)
        for a, copy in zip(args, copies, strict=True):
            if isinstance(a, np.ndarray):
                a[...] = copy.get()

    monkeypatch.setattr(runtime, "run", run)


@pytest.mark.gpu
@every_case
@pytest.mark.parametrize("shape", [*SHAPES, (2, 190, 230, 64)], ids=str)
def test_a_kernel_agrees_on_a_gpu(name, shape, on_gpu, poisoned, rng):
    """The same on CUDA, and on a map that keeps all multiprocessors busy; twice, and bit for bit the same."""
    case = BY_NAME[name](rng, shape)
    got, again = case.run(), case.run()
    assert wrong(got, case) is None, wrong(got, case)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in again]


# N, H, W, C_up, C_skip, O, pad: one pixel of output, more than one tile of pixels and of channels, a crop off centre
CONCATENATED = [(1, 3, 3, 16, 16, 4, 0), (2, 9, 9, 32, 16, 68, 1), (1, 13, 14, 16, 48, 132, 0)]


every_concatenation = pytest.mark.parametrize("shape", CONCATENATED, ids=str)
every_precision = pytest.mark.parametrize("precise", [True, False])


def concatenated(rng, shape, precise):
    """-> how to compute the convolution of a concatenation, with bias and ReLU, and whether a result is right"""
    n, h, w, c_up, c_skip, c_out, pad = shape
    up, skip = draw(rng, n, h, w, c_up), draw(rng, n, h + 3, w + 2, c_skip)
    weights, b = draw(rng, 3, 3, c_up + c_skip, c_out), draw(rng, c_out)
    joined, ctx = ops.crop_concat_forward(*double(up, skip))
    wanted = np.maximum(ops.conv2d_forward(joined, *double(weights, b), "same" if pad else "valid")[0], 0)
    return (lambda: crop.conv_forward(up, skip, ctx.crop.top, ctx.crop.left, weights, pad, b, relu=True, precise=precise),
            lambda y: np.linalg.norm(y - wanted) < (5e-6 if precise else 6e-4) * np.linalg.norm(wanted))  # fmt: skip


@every_precision
@every_concatenation
def test_a_convolution_reads_two_maps(shape, precise, compiler, poisoned, rng):
    """conv_forward is the convolution of the concatenation, in 3xTF32 and in TF32, and no problem is found."""
    run, right = concatenated(rng, shape, precise)
    with runtime.emulated(mode="check") as emulation:
        y = run()
    assert not emulation.problems, emulation.problems[0]
    assert right(y)


@pytest.mark.gpu
@every_precision
@every_concatenation
def test_a_convolution_reads_two_maps_on_a_gpu(shape, precise, on_gpu, poisoned, rng):
    """The same on CUDA."""
    run, right = concatenated(rng, shape, precise)
    assert right(run())


def test_a_convolution_of_odd_channels_is_refused(compiler, rng):
    """24 channels are no multiple of 16: who, how many, and what to do instead; likewise 6 channels out."""
    for c_skip, c_out in ((24, 8), (16, 6)):
        up, skip, w = draw(rng, 1, 4, 4, 16), draw(rng, 1, 4, 4, c_skip), draw(rng, 3, 3, 16 + c_skip, c_out)
        assert not crop.conv_takes(up, skip, w)
        with pytest.raises(BackendError, match=f"16 and {c_skip} channels to {c_out} on sm_90. .* Concatenate with crop.forward"):
            crop.conv_forward(up, skip, 0, 0, w, 0)


# Bytes loaded and stored for each value of the map, by the kernels' names of the arrays; what is not named, nowhere. A pooled
# map and its labels count as fractions: (2, 8, 8, 64) of pooled values, 64 channels to 2 classes.
TRAFFIC = {
    "relu_forward": {"x": (4, 0), "y": (0, 4), "positive": (0, 1)},
    "bias_relu_forward": {"x": (4, 0), "y": (0, 4), "positive": (0, 1)},
    "relu_backward": {"dy": (4, 0), "positive": (1, 0), "dx": (0, 4)},
    "bias_relu_backward": {"dy": (4, 0), "positive": (1, 0), "dx": (0, 4)},
    "norm_forward": {"x": (4 + 4, 0), "y": (0, 4), "x_hat": (0, 4)},  # statistics, then apply
    "norm_backward": {"x": (4 + 4, 0), "dy": (4 + 4, 0), "dx": (0, 4)},  # sums, then dx; x is x_hat
    "norm_relu": {"x": (8 + 8, 0), "y": (0, 4), "dy": (4 + 4, 0), "dx": (0, 4)},  # both ways, and neither x_hat nor a mask
    "pool_forward": {"x": (16, 0), "y": (0, 4), "winner": (0, 1)},
    "pool_backward": {"dy": (4, 0), "winner": (1, 0), "dx": (0, 16)},
    "pool_and_crop_backward": {"dy": (4, 0), "winner": (1, 0), "skip": (15, 0), "dx": (0, 16)},  # the skip lacks one row of 16
    "crop_forward": {"up": (4.25, 0), "skip": (4, 0), "y": (0, 8.25)},  # 68 channels come up; of the skip only what is kept
    "crop_backward": {"dy": (8.25, 0), "dx": (0, 4.25 + 4 * 11 * 10 / 64)},  # dup, and the whole of the larger dskip
    "head_forward": {"x": (4, 0), "y": (0, 0.125)},
    "head_backward": {"dy": (0.125, 0), "x": (4, 0), "dx": (0, 4)},
    "head_loss": {"x": (4, 0), "labels": (0.0625 + 0.0625, 0), "weights": (0.0625, 0), "dx": (0, 4)},  # labels: counted first
    "sgd": {"w": (4, 4), "g": (4, 0), "v": (4, 4)},
    "adam": {"w": (4, 4), "g": (4, 0), "m": (4, 4), "s": (4, 4)},
}
MAPS = {name for arrays in TRAFFIC.values() for name in arrays} - {"w"}  # w of the head is no map


@pytest.mark.parametrize("name", TRAFFIC)
def test_each_map_is_moved_once(name, compiler, rng):
    """What fusion claims, counted: every map is loaded as often as the file says, stored once, and in whole sectors."""
    shape = (2, 8, 8, 64)
    case = BY_NAME[name](rng, shape)
    with runtime.emulated(mode="trace") as emulation:
        case.run()
    moved, values = {}, np.prod(shape)
    for line in (line for report in emulation.reports for line in report.lines):
        if line.array in MAPS | TRAFFIC[name].keys():
            loads, stores = moved.get(line.array, (0, 0))
            more = line.lanes * line.size / values
            moved[line.array] = (loads + more, stores) if line.kind == "load" else (loads, stores + more)
            assert line.ratio < 1.07, line  # rows of 68 channels are no whole sectors
    assert moved == TRAFFIC[name]


def test_the_readme_tells_the_bytes():
    """The column "bytes" of its table is the sum of what is counted here."""
    rows = {
        "relu/forward.cu": "bias_relu_forward", "relu/backward.cu": "bias_relu_backward", "norm/statistics.cu": "norm_forward",
        "norm/*.cu": "norm_relu", "pool/forward.cu": "pool_forward", "pool/backward.cu": "pool_and_crop_backward",
        "crop/forward.cu": "crop_forward", "head/loss.cu": "head_loss", "optim/sgd.cu": "sgd", "optim/adam.cu": "adam",
    }  # fmt: skip
    readme = (source.kernels_folder() / "README.md").read_text().splitlines()
    for file, name in rows.items():
        row = next(line for line in readme if line.startswith(f"| `{file}`")).split("|")
        assert float(row[3]) == sum(map(sum, TRAFFIC[name].values())) * (64 if name == "head_loss" else 1), file


def test_a_sum_is_one_pass_and_its_parts(compiler, rng):
    """x is loaded once; what the second pass loads is a part for every block."""
    x = draw(rng, 1, 40, 40, 64)
    with runtime.emulated(mode="trace") as emulation:
        sums.column_sums(x)
    first, second = (report.totals for report in emulation.reports)
    assert first.global_loads == x.size / 4  # 16 bytes each
    assert second.global_loads == first.global_stores == 13 * 64 / 4  # 1600 pixels: 16 at a time, 8 times
    assert second.global_stores == 64 / 4


def test_a_variance_survives_a_large_mean(compiler, rng):
    """At a mean of 3000 deviations the formula mean(x^2) - mean^2 has no digit left; a running mean has five."""
    x = draw(rng, 1, 40, 40, 5) + np.float32(3000)
    mean, var, _ = norm.statistics(x, EPS)
    wanted = double(x)[0].var(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, double(x)[0].mean(axis=(0, 1, 2)), rtol=2e-7)
    np.testing.assert_allclose(var, wanted, rtol=2e-5)
    naive = (x * x).mean(axis=(0, 1, 2)) - x.mean(axis=(0, 1, 2)) ** 2
    assert (abs(naive - wanted) > 0.1 * wanted).any()


def test_not_a_number_is_not_hidden(compiler):
    """A NaN passes ReLU and wins its window, the first of two; infinities are numbers."""
    nan, inf = np.nan, np.inf
    x = np.array([[nan, inf, -inf, 0], [-0.0, nan, 1, nan]], np.float32).reshape(1, 2, 4, 1)
    for run, op in ((relu.forward, ops.relu_forward), (pool.forward, ops.max_pool_forward)):
        y, second = run(x)
        wanted, ctx = op(*double(x))
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(second, ctx[0] if op is ops.max_pool_forward else ~(x <= 0))
    y, *_ = norm.relu_forward(x.repeat(2, axis=0), np.ones(1, np.float32), np.zeros(1, np.float32), EPS)
    assert np.isnan(y).all()


def test_without_labels_there_is_no_loss(compiler, rng):
    """Every pixel ignored: E = 0 and no gradient, as in the op; large logits stay finite."""
    x, w, b = draw(rng, 1, 4, 4, 8) * 1000, draw(rng, 1, 1, 8, 3), draw(rng, 3)
    energy, *gradients = head.loss(x, w, b, np.full((1, 4, 4), -1))
    assert energy == 0
    assert not any(g.any() for g in gradients)
    energy, *gradients = head.loss(x, w, b, np.ones((1, 4, 4), np.int64))
    assert all(np.isfinite(g).all() for g in (energy, *gradients))


def test_a_head_that_does_not_fit_is_refused(rng):
    """More than 8 classes, or a pixel too long for shared memory: who, how many, and what to do instead."""
    assert all(head.takes(*sizes) for sizes in ((64, 8), (256, 2), (1, 1)))
    for channels, classes in ((64, 9), (500, 2)):
        assert not head.takes(channels, classes)
        x, w = np.zeros((1, 1, 1, channels), np.float32), np.zeros((1, 1, channels, classes), np.float32)
        with pytest.raises(BackendError, match=f"head: {channels} channels to {classes} classes do not fit .* a matrix product"):
            head.forward(x, w, np.zeros(classes, np.float32))


# A bug, where it is planted, and a case that must see it
BUGS = {
    "relu lets zero through": ("relu_forward", "relu/forward.cu", "!(at(value, k) <= 0)", "!(at(value, k) < 0)"),
    "bias by the wrong channel": ("bias_relu_forward", "relu/forward.cu", "b[i % vectors]", "b[0]"),
    "mask not used": ("relu_backward", "relu/backward.cu", "if (!at(mask, k)) at(value, k) = 0;", ""),
    "a part is left out": ("column_sums", "include/tu_columns.cuh", "rows > 1; rows = ", "rows > 3; rows = "),
    "the last run is cut short": ("column_sums", "include/tu_columns.cuh",
        "(pixels + gridDim.y - 1) / gridDim.y", "pixels / gridDim.y"),
    "Welford with the old mean twice": ("norm_forward", "norm/statistics.cu",
        "before * (at(x, k) - at(mean, k))", "before * before"),
    "Chan without the distance": ("norm_forward", "norm/statistics.cu", " + distance * distance * (count * share)", ""),
    "biased by one": ("norm_forward", "norm/statistics.cu", "at(m.m2, k) /= m.count", "at(m.m2, k) /= m.count - 1"),
    "no gradient through the mean": ("norm_backward", "norm/backward.cu", "at(g, k) - at(dbeta, k) * share -", "at(g, k) -"),
    "mask of a batch norm without beta": ("norm_relu", "norm/backward.cu", "at(g, k), at(b, k)) <= 0", "at(g, k), 0) <= 0"),
    "the last of equal values wins": ("pool_forward", "pool/forward.cu",
        "!(at(rival, k) <= at(best, k))", "!(at(rival, k) < at(best, k))"),
    "rows and columns of a window swapped": ("pool_backward", "pool/backward.cu",
        "p / 2, v = 2 * j + p % 2", "p % 2, v = 2 * j + p / 2"),
    "the skip's crop not shifted": ("pool_and_crop_backward", "include/tu_concat.cuh", "i = h - top", "i = h"),
    "the seam one channel off": ("crop_forward", "include/tu_concat.cuh", "c < up_channels ?", "c <= up_channels ?"),
    "dskip from the up path's channels": ("crop_backward", "include/tu_concat.cuh", "* channels + channel + c", "* channels + c"),
    "bias forgotten": ("head_forward", "include/tu_head.cuh", "a[k] = b[k]", "a[k] = 0"),
    "a slice of pixels twice": ("head_backward", "include/tu_head.cuh", "pixel = slice;", "pixel = 0;"),
    "a warp's db lost": ("head_backward", "include/tu_head.cuh", "warp < warps; warp++) sum +=", "warp < 1; warp++) sum +="),
    "ignored pixels are counted": ("head_loss", "head/loss.cu", "i < n && labels[i] != IGNORE", "i < n"),
    "loss without weights": ("head_loss", "head/loss.cu", "weights ? weights[pixel] : 1.0f", "1.0f"),
    "sigmoid of the wrong sign": ("head1_loss", "head/loss.cu", "a[0] > 0 ? 1.0f : small", "a[0] < 0 ? 1.0f : small"),
    "momentum on the gradient": ("sgd", "optim/sgd.cu", "momentum * at(velocity, k) + (", "momentum * (at(velocity, k) + "),
    "Adam without correction": ("adam", "optim/adam.cu", "sqrtf(at(square, k) / correction)", "sqrtf(at(square, k))"),
}  # fmt: skip


@pytest.fixture
def mutate(tmp_path, monkeypatch):
    """mutate(file, old, new): kernels are read from a copy in which the text stands there instead"""

    def change(file, old, new):
        folder = tmp_path / "kernels"
        shutil.copytree(source.kernels_folder(), folder)
        text = (folder / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (folder / file).write_text(text.replace(old, new, 1))
        monkeypatch.setattr(source, "kernels_folder", lambda: folder)

    runtime._emulator_module.cache_clear()
    yield change
    runtime._emulator_module.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_seen(bug, compiler, mutate, poisoned, short_runs, rng):
    """Each bug, planted in a copy of the kernels, makes the comparison fail or the checker object."""
    name, *edit = BUGS[bug]
    case = BY_NAME[name](rng, (1, 29, 47, 12))
    mutate(*edit)
    with runtime.emulated(mode="check") as emulation:
        got = case.run()
    assert emulation.problems or wrong(got, case)
