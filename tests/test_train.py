"""Training: every step by its definition, what a run gives, numbers that run away, errors in words."""

import csv
import math
import re
import signal
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import QUICK, SMALL, but, cells, changed, files, run

import tinyunet
from tinyunet import train
from tinyunet.checkpoint import load_checkpoint
from tinyunet.data.augment import Augment
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import IGNORE, Sample
from tinyunet.data.weight_map import weight_map
from tinyunet.errors import DataError, TrainingError
from tinyunet.metrics import Scores
from tinyunet.ops.loss import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from tinyunet.optim import Adam, schedule
from tinyunet.shapes import fits, margin, output_size
from tinyunet.spec import PRESETS, UNetSpec
from tinyunet.train import energy, fit, make_batch, prepare, tile_size
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

# Ctrl-C in a script or a notebook -------------------------------------------------------------------------------------


def test_ctrl_c_gives_the_step_first(tmp_path, monkeypatch):
    """The interrupted step is finished, said by `notice`, yielded and saved; the next one asked for is a KeyboardInterrupt."""
    noticed, seen = [], []

    def interrupted(prepared, config, tile, step, rng):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return make_batch(prepared, config, tile, step, rng)

    monkeypatch.setattr(train, "make_batch", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config = but(QUICK, save_every=100, validate_every=100)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  the loop is what is interrupted
            for record in fit(UNet(SMALL), cells(), (), config, out=tmp_path, notice=lambda: noticed.append(len(seen))):
                seen.append(record.step)  # noqa: PERF401  an interrupted `extend` would leave nothing to look at
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1, 2, 3]
    assert noticed == [2]
    assert load_checkpoint(tmp_path / "last.safetensors").step == 3


# Data that do not fit -------------------------------------------------------------------------------------------------

GOOD = cells(1)[0]
NAN = GOOD.image.astype(np.float32)
NAN[3, 4] = np.nan


@pytest.mark.parametrize(
    ("train_on", "val", "choices", "text"),
    [
        ([], [], {}, r"there are no training images"),
        ([changed(GOOD, image=np.zeros((22, 26, 3)))], [], {}, r"training image image 0 has 3 channels, the network takes 1"),
        ([changed(GOOD, image=np.zeros((22, 26)))], [], {}, r"shape \(22, 26\), expected \(H, W, C\)\. A grey.*\[\.\.\., None\]"),
        ([GOOD], [GOOD], {"channels": 3}, r"has 1 channels, the network takes 3\. Make the network with channels=1"),
        ([GOOD], [changed(GOOD, name="v", image=GOOD.image[:9])], {}, r"validation image v is \(9, 26\), its labels \(22, 26\)"),
        (
            [changed(GOOD, instances=GOOD.instances[:9])], [], {},
            r"training image image 0 is \(22, 26\), its instances \(9, 26\)\. Give instances \(H, W\) of the image's size",
        ),
        ([changed(GOOD, labels=GOOD.labels * 4)], [], {}, r"has label 4, the network has classes 0 to 1\. .*classes=5"),
        ([changed(GOOD, labels=GOOD.labels * 2)], [], {"classes": 1}, r"has label 2, the network has classes 0 to 1"),
        ([changed(GOOD, labels=GOOD.labels * 0 + IGNORE)], [], {}, r"not one training pixel is annotated"),
        ([changed(GOOD, image=NAN)], [], {}, r"training image image 0 holds NaN or infinite values\. Replace them"),
        ([GOOD], [changed(GOOD, name="v", image=NAN)], {}, r"validation image v holds NaN or infinite values"),
        (cells(2), [], {"classes": 3}, r"the data name 2 classes \(background, cell\), the network has 3"),
    ],
)
@pytest.mark.parametrize("normalization", ["image", "none"])
def test_data_that_do_not_suit_the_network(tmp_path, train_on, val, choices, text, normalization):
    """All images are checked before the first step, the validation's too; the image and both values are named."""
    model = UNet(SMALL.but(**choices))
    with pytest.raises(DataError, match=text):
        next(fit(model, train_on, val, but(QUICK, normalization=normalization), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_prepare_says_which_map_does_not_fit():
    """By itself, too, `prepare` refuses objects of another size than the image, by name and with both sizes."""
    sample = changed(GOOD, instances=GOOD.instances[:, :9])
    with pytest.raises(DataError, match=r"prepare: image image 0 is \(22, 26\), its instances \(22, 9\)\. Give instances"):
        prepare([sample], QUICK, Normalization())


@pytest.mark.parametrize("labels", [np.full((20, 20), 0.9), np.full((20, 20), -7)])
def test_labels_must_be_classes(labels):
    """Masks divided by 255 would be trained on as zeros, and -7 is no class: both are refused before the first step."""
    sample = Sample("a", np.zeros((20, 20, 1), np.uint8), labels)
    with pytest.raises(DataError, match=r"training image a has \w+ labels from (0.9|-7) on. Give whole numbers"):
        list(fit(UNet(PRESETS["same_bn"].but(base=2, depth=1)), [sample], (), TrainConfig(steps=1)))


def test_gradients_from_before_do_not_enter_the_first_step():
    """Whatever was done with the network before, a run starts from gradients of zero."""
    sample = tinyunet.synthetic("dic", 1, 32, np.random.default_rng(0))[0]
    used, fresh = (UNet(PRESETS["same_bn"].but(base=2, depth=1)) for _ in range(2))
    for grad in used.grads().values():
        grad += 1
    for model in (used, fresh):
        list(fit(model, [sample], (), TrainConfig(steps=2)))
    for name, array in used.params().items():
        np.testing.assert_array_equal(array, fresh.params()[name])


# When numbers run away -----------------------------------------------------------------------------------------------


def is_sound(path):
    """Whether a checkpoint loads and holds finite numbers only."""
    saved = load_checkpoint(path)
    return all(np.isfinite(a).all() for arrays in (saved.model.state(), saved.optimizer) for a in arrays.values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("lr", [1e15, 1e30, 1e38, 1e39, 1e300])
def test_a_learning_rate_that_is_far_too_large(tmp_path, optimizer, lr):
    """The run stops with step, learning rate and images; no checkpoint ever holds NaN, not even one of a left loop."""
    config = but(QUICK, steps=50, lr=lr, optimizer=optimizer, save_every=1, warmup=0, schedule="constant")
    model = UNet(SMALL)
    seen = []

    def drive():
        for record in fit(model, cells()[:3], (), config, out=tmp_path):
            seen.append(record)
            assert is_sound(tmp_path / "last.safetensors")

    with pytest.raises(TrainingError) as caught:
        drive()
    assert f"at step {len(seen) + 1} (learning rate {lr:.3g}, images image " in str(caught.value)
    assert "Lower the learning rate, and look at these images." in str(caught.value)
    assert ("holds the last good state" in str(caught.value)) == (tmp_path / "last.safetensors").exists()
    assert len(seen) < 20
    assert all(math.isfinite(record.loss) for record in seen)
    if seen:
        assert load_checkpoint(tmp_path / "last.safetensors").step == len(seen)
    else:
        assert not (tmp_path / "last.safetensors").exists()


def test_an_image_that_is_far_too_bright(tmp_path):
    """A finite image whose numbers overflow in the network is named; the checkpoint before it is kept, byte for byte."""
    data = cells(5, dtype="float32")
    samples = [*data[:3], changed(data[3], name="the bright one", image=data[3].image * np.float32(1e36)), data[4]]
    config = but(QUICK, batch=1, normalization="none", save_every=1)
    saved = []

    def drive():
        saved.extend((tmp_path / "last.safetensors").read_bytes() for _ in fit(UNet(SMALL), samples, (), config, out=tmp_path))

    with pytest.raises(TrainingError) as caught:
        drive()
    assert saved
    assert re.search(rf"at step {len(saved) + 1} \(learning rate [\d.e-]+, images the bright one\)", str(caught.value))
    assert (tmp_path / "last.safetensors").read_bytes() == saved[-1]
    assert is_sound(tmp_path / "last.safetensors")


def test_weights_are_checked_without_a_folder():
    """Also where nothing is saved, the last step does not end well with weights that are infinite."""
    with pytest.raises(TrainingError, match=r"down\.0\.conv1\.w holds NaN or infinite values at step 1"):
        list(fit(UNet(SMALL), cells(), (), but(QUICK, steps=1, lr=1e39, warmup=0)))


def test_moments_are_checked_too(monkeypatch):
    """An infinite second moment would freeze its weight for good without a sign: the run stops."""
    real = train.energy
    monkeypatch.setattr(train, "energy", lambda *args: (real(*args)[0], real(*args)[1] * np.float32(1e22)))
    with pytest.raises(TrainingError, match=r"square\..* holds NaN or infinite values at step 1"):
        list(fit(UNet(SMALL), cells(), (), QUICK))


def test_nothing_is_remembered_after_an_error():
    """The memory of the failed step is given back, though the network lives on."""
    model = UNet(SMALL)
    with pytest.raises(TrainingError):
        list(fit(model, cells(), (), but(QUICK, lr=1e30)))
    assert all(layer._ctx is None for layer in model.layers)


def biased(towards):
    """A network that answers one class everywhere, and a learning rate that leaves it so."""
    model = UNet(SMALL)
    model.head.params["b"][towards] = 1000
    return model, but(QUICK, lr=1e-9, validate_every=1)


@pytest.mark.parametrize(("towards", "name"), [(0, "background"), (1, "cell")])
def test_a_constant_network_is_reported(towards, name):
    """A network that calls everything one class says so at every validation."""
    model, config = biased(towards)
    for record in run(model, cells(), config):
        assert f"the network calls 100.00% of all pixels '{name}'. Early on that passes; if it stays, lower" in record.notes[0]


def test_training_images_without_foreground_are_named():
    """In the first record, five of them at most; an image that nobody annotated counts, one with a small cell does not."""
    data = cells(9, 120, 120)
    empty = replace(data[0], labels=0 * data[0].labels, instances=None)
    speck = replace(empty, name="speck", labels=empty.labels.copy())
    speck.labels[5, 5] = 1
    unknown = replace(empty, name="unknown", labels=empty.labels - 1)
    small = replace(empty, name="small", labels=empty.labels.copy())
    small.labels[5, 5:7] = 1  # 2 of 14,400 pixels
    config = but(QUICK, steps=2, validate_every=5)

    def notes(samples):
        return [record.notes for record in fit(UNet(SMALL), samples, (), config)]

    assert notes([*data, small]) == [(), ()]
    assert notes([*data, empty]) == [(
        "1 of 10 training images has hardly any foreground: image 0. If there are cells in them, check their masks, or leave "
        "them out.",
    ), ()]  # fmt: skip
    many = [small, speck, unknown, *(replace(empty, name=f"e{i}") for i in range(5))]
    told = notes(many)[0][0]
    assert told.startswith("7 of 8 training images have hardly any foreground: speck, unknown, e0, e1, e2 and 2 more. If there")


def test_a_constant_truth_is_no_reason_to_worry():
    """Where the images hold background only, answering background is right: no note, no score, and no error."""
    model, config = biased(0)
    empty = [changed(GOOD, labels=np.zeros_like(GOOD.labels))]
    records = list(fit(model, cells(), empty, config))
    assert [record.notes for record in records] == [()] * 6
    assert all(math.isnan(record.scores.mean_iou) for record in records)


def test_a_first_score_that_is_undefined(tmp_path, monkeypatch):
    """NaN is no best score; the first number is one, and lower ones and NaN do not replace it."""
    hits = iter([None, 2, None, 1, 2, 3])  # of 4 pixels; None: an image without cells

    def evaluated(*_, **__):
        n = next(hits)
        return Scores(np.array([[9, 0], [0, 0]] if n is None else [[5, 4 - n], [0, n]]))

    monkeypatch.setattr(train, "evaluate", evaluated)
    records = run(UNet(SMALL), cells(), but(QUICK, validate_every=1), out=tmp_path)
    news = [note for record in records for note in record.notes if "best" in note]
    assert news == ["best so far: IoU 0.5000", "best so far: IoU 0.7500"]
    best = load_checkpoint(tmp_path / "best.safetensors")
    assert best.step == best.best["step"] == 6
    assert best.best["mean_iou"] == 0.75


def test_the_best_step_has_the_highest_mean_of_iou_and_seg(tmp_path, monkeypatch):
    """Where objects are annotated, SEG counts as much as IoU; a resumed run remembers both."""
    steps = iter([(3, 0.1), (2, 0.9), (3, 0.2), (2, 0.8), (3, 0.6), (3, 0.7)])  # means: 0.425 0.7 0.475 0.65 0.675 0.725

    def evaluated(*_, **__):
        n, seg = next(steps)
        return Scores(np.array([[5, 4 - n], [0, n]]), seg_scores=np.array([seg]))

    monkeypatch.setattr(train, "evaluate", evaluated)
    config = but(QUICK, validate_every=1)
    records = run(UNet(SMALL), cells(), config, out=tmp_path, stop=3)
    records += run(UNet(SMALL), cells(), config, out=tmp_path, resume=True)
    news = {record.step: note for record in records for note in record.notes if "best" in note}
    assert news == {
        1: "best so far: IoU 0.7500, SEG 0.1000", 2: "best so far: IoU 0.5000, SEG 0.9000",
        6: "best so far: IoU 0.7500, SEG 0.7000",
    }  # fmt: skip
    assert load_checkpoint(tmp_path / "best.safetensors").step == 6


# What a run gives ----------------------------------------------------------------------------------------------------


def test_records_and_files_of_a_run(tmp_path):
    """A record a step; last, best and log in the folder; a line a step in the log, with scores where it was validated."""
    model = UNet(SMALL)
    records = run(model, cells(), out=tmp_path)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.scores is not None for record in records] == [False, True] * 3
    for record in records:
        assert record.lr == QUICK.lr * schedule("cosine", record.step - 1, 6, 2)
        assert 0 <= record.data_seconds <= record.seconds
        assert len(record.samples) == 2
        assert set(record.samples) <= {"image 0", "image 1", "image 2"}

    last, best = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("last", "best"))
    scores = [record.scores.mean_iou + record.scores.seg for record in records if record.scores]
    assert last.step == 6
    assert best.step == 2 * (1 + int(np.argmax(scores)))
    assert last.best == best.best == {"step": best.step, **records[best.step - 1].scores.as_dict()}
    assert last.config == QUICK.to_dict()
    assert last.optimizer.keys() == Adam(model).state().keys()
    assert best.optimizer == {}
    for name, array in model.state().items():
        np.testing.assert_array_equal(last.model.state()[name], array)

    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, record in zip(rows, records, strict=True):
        assert float(row["loss"]) == pytest.approx(record.loss, rel=1e-6)
        if record.scores is None:
            assert row["val_iou"] == row["val_predicted_cell"] == ""
        else:
            assert float(row["val_iou"]) == pytest.approx(record.scores.mean_iou, abs=1e-6)
            assert float(row["val_predicted_background"]) + float(row["val_predicted_cell"]) == pytest.approx(1, abs=2e-6)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "best.safetensors", "last.safetensors", "log.csv", "weights"}


def test_same_seed_same_bytes_and_no_trace_of_validation(tmp_path):
    """A run is a function of its seed; validating more often, with dropout and batch norm, changes no weight."""
    spec = PRESETS["same_bn"].but(base=2, depth=1, dropout=0.5)
    data, results = cells(), []
    runs = [(QUICK, data[3:]), (QUICK, data[3:]), (but(QUICK, validate_every=1), data[3:]), (QUICK, ()), (but(QUICK, seed=1), ())]
    for i, (config, val) in enumerate(runs):
        model = UNet(spec)
        list(fit(model, data[:3], val, config, out=tmp_path / str(i)))
        results.append(b"".join(array.tobytes() for array in model.state().values()))
    assert results[0] == results[1] == results[2] == results[3]
    assert results[4] != results[0]
    assert files(tmp_path / "0") == files(tmp_path / "1")


@pytest.mark.parametrize(("preset", "classes"), [
    ("paper", 2), ("same_bn", 1),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [("paper", 1), ("paper", 3), ("same_bn", 2), ("same_bn", 3)]),
])  # fmt: skip
def test_it_learns(classes, preset):
    """With one logit, two classes and three: the loss falls to a fraction, and the images are segmented."""
    model = UNet(PRESETS[preset].but(base=6, depth=1, dropout=0.0, classes=classes))
    data = cells(3, classes=max(classes, 2))
    config = TrainConfig(steps=150, tile=16, lr=2e-2, warmup=0, weight_map="balance", border=0, augment=Augment.none())
    records = list(fit(model, data, data, config))
    first, last = (np.mean([record.loss for record in part]) for part in (records[:5], records[-5:]))
    assert last < 0.35 * first
    assert records[-1].scores.mean_iou > 0.75
    assert records[-1].scores.iou.min() > 0.7


def test_memory_of_training_returns():
    """After a run, left early or not, no layer remembers anything, and what training took is free again."""
    model, config = UNet(SMALL.but(base=4)), TrainConfig(steps=4, tile=100, weight_map="none", augment=Augment.none())
    data = [Sample("large", np.zeros((200, 200, 1), np.uint8), np.zeros((200, 200), np.int32))]
    run_through = [lambda: list(fit(model, data, (), config)), lambda: next(fit(model, data, (), config))]
    for through in run_through:
        through()  # what is imported and cached the first time does not count
        tracemalloc.start()
        try:
            through()
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(layer._ctx is None for layer in model.layers)
        assert peak > 1e6
        assert now < 0.02 * peak


# The parts of a step -------------------------------------------------------------------------------------------------


def ramp(name, height, width):
    """An image that holds its own coordinates, with labels and weights made of them."""
    i, j = np.mgrid[:height, :width]
    image = np.stack([i, j], -1).astype(np.float32)
    labels, weights = (i * 100 + j).astype(np.int32), (i + j / 128).astype(np.float32)
    return train.Prepared(name, image, labels, weights, mean=np.zeros(2, np.float32), std=np.ones(2, np.float32))


SIZES = st.integers(1, 40)


@given(SIZES, SIZES, st.sampled_from([(18, 2), (26, 10), (10, 10)]), st.integers(1, 3), st.integers(0, 999))
def test_tiles_are_aligned_and_inside(height, width, tile, batch, step):
    """Labels and weights are those of the image's pixels in the middle of x; a tile that fits lies inside the image."""
    config = TrainConfig(batch=batch, augment=Augment.none())
    size_in, size_out = tile
    x, labels, weights, names = make_batch([ramp("a", height, width)], config, tile, step + 1, np.random.default_rng(step))
    assert x.shape == (batch, size_in, size_in, 2)
    assert labels.shape == weights.shape == (batch, size_out, size_out)
    assert (x.dtype, labels.dtype, weights.dtype) == (np.float32, np.int32, np.float32)
    assert names == ("a",) * batch

    m = (size_in - size_out) // 2
    rows, cols = (x[:, m : m + size_out, m : m + size_out, k] for k in (0, 1))
    np.testing.assert_array_equal(labels, 100 * rows + cols)
    np.testing.assert_array_equal(weights, rows + cols / 128)
    for n, here in ((height, rows[:, :, 0]), (width, cols[:, 0, :])):
        if n >= size_out:  # consecutive pixels, hence nothing mirrored
            np.testing.assert_array_equal(np.diff(here, axis=1), 1)
        else:  # the whole image is in the tile, in its middle
            assert all(set(range(n)) == set(part.tolist()) for part in here)
            first = (size_out // 2) - n // 2
            np.testing.assert_array_equal(here[:, first : first + n], np.broadcast_to(np.arange(n), (batch, n)))


def test_tiles_reach_every_place():
    """Over many steps, tiles begin at the first possible pixel and at the last, and everywhere between."""
    config = TrainConfig(augment=Augment.none())
    starts = set()
    for step in range(1, 200):
        x, *_ = make_batch([ramp("a", 17, 12)], config, (10, 10), step, np.random.default_rng(step))
        starts.add((int(x[0, 0, 0, 0]), int(x[0, 0, 0, 1])))
    assert starts == {(i, j) for i in range(8) for j in range(3)}


def test_moved_tiles_stay_aligned():
    """Shifted, turned, mirrored and bent, x, labels and weights still show the same places."""
    config = TrainConfig(batch=4, augment=Augment(gain=0, offset=0, gamma=0, elastic=2))
    moved = 0
    for step in range(1, 6):
        x, labels, weights, _ = make_batch([ramp("a", 90, 90)], config, (42, 26), step, np.random.default_rng(step))
        rows, cols = x[:, 8:-8, 8:-8, 0], x[:, 8:-8, 8:-8, 1]
        np.testing.assert_allclose(weights, rows + cols / 128, atol=1e-3)
        assert np.abs(labels // 100 - rows).max() <= 0.501
        assert np.abs(labels % 100 - cols).max() <= 0.501
        moved += (np.abs(np.diff(rows, axis=1) - 1) > 0.01).any()
    assert moved


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_image_once_an_epoch(batch):
    """Whatever the batch, each epoch takes every image once, in another order than the epoch before."""
    images = [ramp(str(i), 4, 4) for i in range(5)]
    config = TrainConfig(batch=batch, seed=4, augment=Augment.none())
    names = []
    for step in range(1, 41):
        names += make_batch(images, config, (4, 4), step, np.random.default_rng(0))[3]
    epochs = [tuple(names[k : k + 5]) for k in range(0, len(names) - 4, 5)]
    assert all(sorted(epoch) == list("01234") for epoch in epochs)
    assert len(set(epochs)) > len(epochs) // 2


def test_a_batch_is_a_function_of_seed_and_step():
    """Same seed and step, same bytes; another step or seed, another batch."""

    def batch(seed, step):
        images, rng = [ramp(str(i), 30, 30) for i in range(3)], np.random.default_rng((seed, step))
        x, labels, weights, names = make_batch(images, TrainConfig(seed=seed, batch=2), (26, 10), step, rng)
        return x.tobytes(), labels.tobytes(), weights.tobytes(), names

    assert batch(1, 5) == batch(1, 5)
    assert len({batch(seed, step) for seed in (1, 2) for step in (5, 6, 7)}) == 6


def test_batches_are_normalised():
    """x = (image - mean) / std with the statistics of the whole image, not of the tile."""
    one = ramp("a", 30, 30)._replace(mean=np.array([3, 5], np.float32), std=np.array([2, 4], np.float32))
    config = TrainConfig(augment=Augment.none())
    x, labels, *_ = make_batch([one], config, (10, 10), 1, np.random.default_rng(0))
    np.testing.assert_allclose(x[..., 0], (labels // 100 - 3) / 2)
    np.testing.assert_allclose(x[..., 1], (labels % 100 - 5) / 4)


def test_energy_of_one_logit_is_that_of_two():
    """One logit a has the loss of the two logits (0, a), and the gradient of the second."""
    rng = np.random.default_rng(0)
    a, labels = rng.normal(size=(2, 3, 4, 1)), rng.integers(-1, 2, (2, 3, 4))
    weights = rng.random((2, 3, 4))
    loss, da = energy(a, labels, weights)
    two, ctx = softmax_cross_entropy_forward(np.concatenate([0 * a, a], -1), labels, weights)
    assert loss == pytest.approx(two, rel=1e-12)
    np.testing.assert_allclose(da, softmax_cross_entropy_backward(ctx)[..., 1:], atol=1e-15)
    assert energy(np.concatenate([0 * a, a], -1), labels, weights)[0] == two


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("tile", "sides", "wanted"), [(0, [(30, 20), (9, 41)], 41), (0, [(30, 999)], 388), (57, [(30, 20)], 57)])
def test_the_tile_is_the_smallest_that_covers(padding, tile, sides, wanted):
    """tile pixels of output, rounded up to what fits; 0 is the largest image, but at most the paper's 388."""
    model = UNet(UNetSpec(base=1, depth=3, padding=padding))
    samples = [Sample("a", np.zeros((h, w, 1)), np.zeros((h, w), np.int32)) for h, w in sides]
    size_in, size_out = tile_size(model, samples, TrainConfig(tile=tile))
    assert size_out == output_size(model.spec, size_in) >= wanted
    smaller = [n for n in range(1, size_in) if fits(model.spec, n) and n - 2 * margin(model.spec) >= wanted]
    assert not smaller


# Made ready once -----------------------------------------------------------------------------------------------------


def test_touching_cells_are_separated():
    """Between two cells that touch, labels become background and weigh more than any other; the sample stays as it was."""
    sample = cells(1)[0]
    labels = sample.labels.copy()
    (ready,) = prepare([sample], TrainConfig(), Normalization())
    np.testing.assert_array_equal(sample.labels, labels)
    gap = (ready.labels == 0) & (labels == 1)
    assert set(zip(*np.nonzero(gap), strict=True)) == {(i, j) for i in range(3, 11) for j in (8, 9)}  # two pixels wide
    assert ready.labels.dtype == np.int32
    assert (ready.labels[~gap] == labels[~gap]).all()
    assert ready.weights[gap].min() > ready.weights[~gap].max()
    (wide,) = prepare([sample], TrainConfig(border=4), Normalization())
    assert ((wide.labels == 0) & (labels == 1)).sum() == 2 * gap.sum()
    (together,) = prepare([sample], TrainConfig(border=0), Normalization())
    np.testing.assert_array_equal(together.labels, labels)


def test_unknown_pixels_stay_unknown():
    """IGNORE stays, also within a gap that is opened, and weighs 0; it does not count for the balance of classes."""
    sample = cells(1)[0]
    labels = sample.labels.copy()
    labels[5, 7:11] = labels[21] = IGNORE
    (ready,) = prepare([changed(sample, labels=labels, instances=sample.instances)], TrainConfig(), Normalization())
    np.testing.assert_array_equal(ready.labels == IGNORE, labels == IGNORE)
    np.testing.assert_array_equal(ready.weights == 0, labels == IGNORE)
    counts = [(ready.labels == k).sum() for k in (0, 1)]
    assert ready.weights[ready.labels == 1][0] == pytest.approx(sum(counts) / (2 * counts[1]))


@pytest.mark.parametrize("kept", [False, True])
def test_classes_are_balanced_over_all_images(tmp_path, kept):
    """w_c is that of the whole training set: an image with one small cell does not make that cell weigh a hundredfold."""
    few, many = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    few[0, 0], many[:10] = 1, 1
    samples = [Sample(str(k), np.zeros((20, 20, 1), np.uint8), labels) for k, labels in enumerate((few, many))]
    for ready in prepare(samples, TrainConfig(), Normalization(), tmp_path if kept else None):
        np.testing.assert_allclose(ready.weights, np.where(ready.labels == 1, 800 / (2 * 201), 800 / (2 * 599)), rtol=1e-6)


@pytest.mark.parametrize("name", ["ronneberger2015", "falk2019", "balance", "none"])
def test_weight_maps_by_name(name):
    """The setting chooses the formula; "balance" is that of the classes alone; "none" is no map."""
    sample = cells(1)[0]
    (ready,) = prepare([sample], TrainConfig(weight_map=name, border=0), Normalization())
    if name == "none":
        assert ready.weights is None
    elif name == "balance":
        assert len(np.unique(ready.weights)) == 2
    else:
        np.testing.assert_array_equal(ready.weights, weight_map(sample.instances, sample.labels, name))
    if name != "none":
        (own,) = prepare([sample], TrainConfig(weight_map=name, border=0, w0=30.0, sigma=2.0), Normalization())
        assert not np.array_equal(own.weights, ready.weights)


def test_weight_maps_are_kept(tmp_path, monkeypatch):
    """With a folder, maps are computed once: the second time none is, and they are the same."""
    data = cells(3)
    first = prepare(data, TrainConfig(), Normalization(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3

    def again(*_):
        pytest.fail("a weight map was computed again")

    monkeypatch.setattr("tinyunet.data.weight_map.weight_map", again)
    for one, two, plain in zip(first, prepare(data, TrainConfig(), Normalization(), tmp_path), first, strict=True):
        np.testing.assert_array_equal(one.weights, two.weights)
        assert two.name == plain.name
    monkeypatch.undo()
    for one, plain in zip(first, prepare(data, TrainConfig(), Normalization()), strict=True):
        np.testing.assert_array_equal(one.weights, plain.weights)


def test_statistics_come_from_the_normalisation():
    """mean and std of a prepared sample are those that the normalisation gives for its whole image."""
    data = cells(2)
    for mode in ("image", "dataset", "none"):
        normalization = Normalization.fit(mode, (sample.image for sample in data))
        for sample, ready in zip(data, prepare(data, TrainConfig(), normalization), strict=True):
            np.testing.assert_array_equal((ready.mean, ready.std), normalization.stats(sample.image))
            assert ready.image is sample.image


def test_how_masks_were_read_is_kept(tmp_path):
    """The checkpoint holds `Dataset.reading`; of plain samples nothing is known."""
    data, config = cells(2), TrainConfig(steps=1, tile=8, warmup=0)
    for samples, expected in ((replace(data, reading={"kind": "binary"}), {"kind": "binary"}), (list(data), {})):
        out = tmp_path / str(len(expected))
        assert len(list(fit(UNet(SMALL), samples, config=config, out=out))) == 1
        assert load_checkpoint(out / "last.safetensors").reading == expected
