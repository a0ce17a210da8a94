"""The whole network on another device: on a GPU where there is one, and on a CuPy without a GPU everywhere.

That one runs NumPy behind walls as high as CuPy's: what these tests find without a GPU is an array of one device among those of
the other, and a copy from one to the other that no line of ours asked for.
"""

import threading
import time

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import train
from tinyunet.backend import array_module, device_of, to_numpy
from tinyunet.cuda import runtime
from tinyunet.errors import BackendError
from tinyunet.ops import softmax_cross_entropy_backward, softmax_cross_entropy_forward

SPECS = {
    "paper": tu.preset("paper", base=2, depth=2),
    "release": tu.preset("release", base=2, depth=2),
    "same_bn": tu.preset("same_bn", base=2, depth=2, channels=3, classes=3),
}


def model_of(name, dtype="float64"):
    """A small network of a preset."""
    return tu.UNet(SPECS[name], rng=1).astype(dtype)


def one_pass(model, rng, xp=np):
    """Logits, the gradient of the image, and all of the parameters, as NumPy arrays, of a step on images of one device."""
    side = tu.shapes.input_size(model.spec, 4)
    dtype = model.head.params["w"].dtype
    x = rng.standard_normal((2, side, side, model.spec.channels)).astype(dtype)
    model.seed_dropout(np.random.default_rng(3))
    model.train()
    model.zero_grad()
    logits = model.forward(xp.asarray(x))
    labels = rng.integers(-1, model.spec.classes, logits.shape[:3])
    weights = rng.uniform(0, 2, labels.shape).astype(dtype)
    energy, ctx = softmax_cross_entropy_forward(logits, xp.asarray(labels), xp.asarray(weights))
    dx = model.backward(softmax_cross_entropy_backward(ctx))
    found = {"logits": logits, "dx": dx, **model.grads()}
    assert all(array_module(a) is xp for a in found.values())
    return energy, {name: to_numpy(a) for name, a in found.items()}


@pytest.mark.parametrize("name", SPECS)
def test_a_pass_is_that_of_numpy(name, cupy, rng):
    """Logits, loss and every gradient, in float64, where the formulas run and no kernel does."""
    wanted_energy, wanted = one_pass(model_of(name), np.random.default_rng(5))
    energy, found = one_pass(model_of(name).to("cuda"), np.random.default_rng(5), cupy)
    assert energy == pytest.approx(wanted_energy, rel=1e-12)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12, err_msg=key)


def test_a_network_moves_there_and_back(cupy):
    """All of its arrays do, the values stay, and `device` says where they are."""
    model = model_of("same_bn", "float32")
    before = {name: a.copy() for name, a in model.state().items()}
    assert model.device == "cpu"
    assert model.to("cuda") is model
    assert model.device == "cuda"
    assert {device_of(a) for a in (*model.state().values(), *model.grads().values())} == {"cuda"}
    assert model.to("cpu").device == "cpu"
    for name, array in model.state().items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("kind", [tu.SGD, tu.Adam])
def test_the_optimizer_follows_the_network(kind, cupy):
    """Two steps here and two there are four steps here; its state lies beside the parameters."""
    def steps(model, optimizer, n, xp):
        for k in range(n):
            for name, grad in sorted(model.grads().items()):
                draws = np.random.default_rng(optimizer.steps + 7 * k + len(name))
                grad[...] = xp.asarray(draws.standard_normal(grad.shape))
            optimizer.step()

    one, two = model_of("paper"), model_of("paper")
    here, moved = kind(one, weight_decay=1e-3), kind(two, weight_decay=1e-3)
    steps(one, here, 2, np)
    steps(one, here, 2, np)
    steps(two, moved, 2, np)
    two.to("cuda")
    steps(two, moved, 2, cupy)
    assert {device_of(a) for a in moved.state().values()} == {"cuda"}
    for name, array in one.params().items():
        np.testing.assert_allclose(to_numpy(two.params()[name]), array, rtol=1e-12, atol=1e-14)
    moved.load_state(here.state(), steps=4)  # of the host, into arrays of the device
    assert {device_of(a) for a in moved.state().values()} == {"cuda"}


def settings(steps):
    """Of a short run. With SGD, whose steps go with the gradients: Adam's are as large where rounding decides."""
    return tu.TrainConfig(steps=steps, batch=2, tile=20, validate_every=5, optimizer="sgd", momentum=0.9, lr=1e-2)


def test_the_next_batch_is_made_while_a_step_is_done(cupy, monkeypatch):
    """On a device a thread makes it, on the host nobody. A fault in it is raised when its step comes, and the thread ends."""
    data = tu.synthetic("dic", n=2, size=64, rng=np.random.default_rng(0))
    made, make_batch = [], train.make_batch

    def watched(prepared, config, tile, step, rng):
        made.append((step, threading.current_thread().name.rpartition("_")[0]))
        if step == 3:
            raise ValueError("no third batch")
        return make_batch(prepared, config, tile, step, rng)

    monkeypatch.setattr(train, "make_batch", watched)
    for device, ahead, who in (("cpu", 0, ""), ("cuda", 1, "tinyunet batch")):
        made.clear()
        run = tu.fit(tu.UNet(tu.preset("paper", base=2, depth=1)).to(device), data, data[:0], settings(4))
        for step in (1, 2):
            assert next(run).step == step
            deadline = time.monotonic() + 5
            while len(made) < step + ahead and time.monotonic() < deadline:
                time.sleep(0.01)
            assert made == [(k, who) for k in range(1, step + ahead + 1)]
        with pytest.raises(ValueError, match="no third batch"):
            next(run)
        assert not any(thread.name.startswith("tinyunet batch") for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.parametrize("rungs", [{"conv3x3": "taps", "upconv2x2": "gemm"}, {}], ids=["CuPy's products", "kernels"])
def test_ten_steps_and_a_checkpoint_are_those_of_numpy(rungs, cupy, compiler, tmp_path):
    """The losses of ten steps, the scores, the checkpoint's arrays; and each device goes on with the other's checkpoint."""
    data = tu.synthetic("dic", n=4, size=64, rng=np.random.default_rng(0))
    spec = tu.preset("same_bn", base=2, depth=2, dropout=0.5)
    train, val = data[:3], data[3:]
    wanted = list(tu.fit(tu.UNet(spec, rng=1), train, val, settings(10), out=tmp_path / "cpu"))
    with tu.rung(**rungs):
        found = list(tu.fit(tu.UNet(spec, rng=1).to("cuda"), train, val, settings(10), out=tmp_path / "cuda"))
    np.testing.assert_allclose([r.loss for r in found], [r.loss for r in wanted], rtol=1e-4)
    assert [r.samples for r in found] == [r.samples for r in wanted]
    assert found[-1].scores.mean_iou == pytest.approx(wanted[-1].scores.mean_iou, abs=0.02)
    here, there = (tu.load_checkpoint(tmp_path / folder / "last.safetensors") for folder in ("cpu", "cuda"))
    assert here.model.device == there.model.device == "cpu"
    for name, array in here.model.state().items():
        np.testing.assert_allclose(there.model.state()[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    for model, folder in ((tu.UNet(spec).to("cuda"), "cpu"), (tu.UNet(spec), "cuda")):
        with tu.rung(**rungs):
            records = list(tu.fit(model, train, val, settings(11), out=tmp_path / folder, resume=True))
        assert [r.step for r in records] == [11]


def test_a_checkpoint_of_the_device_is_that_of_the_host(cupy, tmp_path):
    """The same arrays give the same bytes."""
    model = model_of("same_bn", "float32")
    tu.save_checkpoint(tmp_path / "cpu", tu.Checkpoint(model), tu.SGD(model))
    model.to("cuda")
    tu.save_checkpoint(tmp_path / "cuda", tu.Checkpoint(model), tu.SGD(model))
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()


@pytest.mark.parametrize("average", ["none", "dihedral8", "rotate7"])
def test_prediction_is_that_of_numpy(average, cupy, rng):
    """Tiles go to the device one by one, and what comes back is an array of the host. In float64, so that no kernel runs."""
    model, image = model_of("paper").eval(), rng.standard_normal((50, 60))
    wanted = tu.predict_proba(model, image, tile_in=tu.shapes.input_size(model.spec, 24), average=average)
    found = tu.predict_proba(model.to("cuda"), image, tile_in=tu.shapes.input_size(model.spec, 24), average=average)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_one_logit_is_predicted_and_measured(cupy, rng):
    """A network with a sigmoid too."""
    spec = tu.preset("paper", base=2, depth=1, classes=1)
    image = rng.standard_normal((30, 30))
    wanted = tu.predict_proba(tu.UNet(spec), image)
    np.testing.assert_allclose(tu.predict_proba(tu.UNet(spec).astype("float64").to("cuda"), image), wanted, rtol=1e-4)


def test_weights_of_others_go_into_a_network_on_the_device(cupy):
    """`from_torch` reads arrays of the host into it, `to_torch` gives such arrays."""
    model = model_of("same_bn", "float32")
    state = tu.to_torch(model)
    there = tu.UNet(SPECS["same_bn"], rng=2).to("cuda")
    tu.from_torch(there, state)
    for name, array in tu.to_torch(there).items():
        np.testing.assert_array_equal(array, state[name])


def test_nothing_is_copied_to_the_other_device_unasked(cupy, rng):
    """An image, a gradient, labels and weights of the other device are refused, with what to do."""
    model = model_of("paper").to("cuda")
    side = tu.shapes.input_size(model.spec, 4)
    x = rng.standard_normal((1, side, side, 1))
    message = r"UNet\.forward: the network is on the GPU \(CuPy\) and the input is on the CPU \(NumPy\)\. Move one of them"
    with pytest.raises(BackendError, match=message):
        model.forward(x)
    logits = model.forward(cupy.asarray(x))
    with pytest.raises(BackendError, match=r"UNet\.backward: the network is on the GPU"):
        model.backward(np.zeros(logits.shape))
    labels, weights = np.zeros(logits.shape[:3], int), np.ones(logits.shape[:3])
    with pytest.raises(BackendError, match=r"softmax_cross_entropy: an array of labels is on the CPU"):
        softmax_cross_entropy_forward(logits, labels)
    with pytest.raises(BackendError, match=r"softmax_cross_entropy: an array of weights is on the CPU"):
        softmax_cross_entropy_forward(logits, cupy.asarray(labels), weights)
    with pytest.raises(BackendError, match=r"conv2d: w is on the CPU .* the input is on the GPU"):
        tu.ops.conv2d_forward(cupy.asarray(x), np.zeros((3, 3, 1, 2)), np.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_a_step_through_emulated_kernels_is_that_of_numpy(name, compiler):
    """Every gradient of a small network in float32, within 1e-5 of float64, and the checker finds nothing in any launch."""
    _, wanted = one_pass(model_of(name), np.random.default_rng(5))
    with tu.cuda.emulated(mode="check") as run:
        _, found = one_pass(model_of(name, "float32"), np.random.default_rng(5))
    assert run.problems == []
    assert len(run.reports) > 50
    for key, value in wanted.items():
        error = np.linalg.norm(found[key] - value)
        # Of a bias in front of batch norm the gradient is zero, and rounding is all that there is.
        assert error <= 1e-5 * np.linalg.norm(value) + 1e-6, (key, error, np.linalg.norm(value))


def test_a_rung_picked_by_hand_runs_in_the_whole_network(compiler, monkeypatch):
    """Inside `emulated`, every 3x3 convolution of a pass is that rung; outside, NumPy's arrays are refused, with the reason."""
    files, run = [], runtime.run
    monkeypatch.setattr(runtime, "run", lambda file, *args: (files.append(file), run(file, *args)))
    with tu.cuda.emulated(), tu.rung(conv3x3="03_halo_tile", upconv2x2="01_naive"):
        one_pass(model_of("paper", "float32"), np.random.default_rng(5))
    assert {file for file in files if file.startswith("conv3x3/")} == {"conv3x3/03_halo_tile.cu"}
    assert {file for file in files if file.startswith("upconv2x2/")} == {"upconv2x2/01_naive.cu"}
    assert files.count("conv3x3/03_halo_tile.cu") == 2 * 10  # forward, and gradient by input, of ten convolutions
    with tu.rung(conv3x3="03_halo_tile"), pytest.raises(BackendError, match=r"kernels take CuPy's arrays, or NumPy's inside"):
        one_pass(model_of("paper", "float32"), np.random.default_rng(5))
    with tu.cuda.emulated(), tu.rung(conv3x3="03_halo_tile"), pytest.raises(BackendError, match=r"float32, not float64"):
        one_pass(model_of("paper"), np.random.default_rng(5))
