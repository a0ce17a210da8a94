"""The profile of a training step: its parts add up, and each is where it belongs."""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import parallel, plot, profile, shapes
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.profile import PARTS, Entry, Peak, machine_peak, step_profile
from tinyunet.spec import PAPER, preset

PEAK = Peak(100e9, 10e9, 1)
SMALL = PAPER.but(base=4, depth=2)


@pytest.fixture(scope="module")
def taken():
    """A small step, taken apart."""
    return step_profile(SMALL, 60, batch=2, repeats=3, peak=PEAK)


def test_the_parts_add_up_to_the_step(taken):
    """No time is lost or counted twice: the entries sum to what the whole step took, but for reading the clock."""
    assert sum(e.seconds for e in taken.entries) == pytest.approx(taken.seconds, rel=0.03)
    assert sum(taken.total(part).seconds for part in PARTS) == pytest.approx(taken.total().seconds)
    assert sum(taken.total(layer=name).seconds for name in taken.layers) == pytest.approx(taken.total().seconds)
    assert taken.unaccounted == pytest.approx(1 - taken.total().seconds / taken.plain_seconds)
    assert all(e.seconds >= 0 for e in taken.entries)


def test_every_layer_is_there_in_order(taken):
    """All layers of the network between augmentation and loss; convolutions have all directions, the others are elementwise."""
    names = [layer.name for layer in shapes.layers(SMALL)]
    assert taken.layers == ("augmentation", *names, "loss", "optimizer")
    parts = {name: {e.part for e in taken.entries if e.layer == name} for name in names}
    for layer in shapes.layers(SMALL):
        if layer.kind in ("conv3x3", "upconv"):
            assert parts[layer.name] == {"forward", "by input", "by weight", "elementwise"}
        elif layer.kind == "conv1x1":
            assert parts[layer.name] == {"forward", "by input"}
        else:
            assert parts[layer.name] == {"elementwise"}


def test_multiply_adds_are_those_of_the_formula(taken):
    """Once forward and twice backward, for every image of the batch."""
    macs = 2 * sum(s.macs for s in shapes.trace(SMALL, 60))
    assert taken.total("forward").macs == macs
    assert taken.total().macs == 3 * macs


def test_time_goes_to_the_layer_that_took_it(monkeypatch):
    """A ReLU that dawdles on its way back, and a convolution that does so in its gradient by the weights, are found."""
    import time

    real = tu.ops.relu_backward

    def slow_relu(dy, ctx):
        time.sleep(0.05 if dy.shape[3] == 8 else 0)  # the two of down.1 and of up.1, and no other
        return real(dy, ctx)

    monkeypatch.setattr(tu.ops, "relu_backward", slow_relu)
    rung = tu.ladder._LADDERS["conv3x3"]["strips"]

    def slow_grad_w(x, dy, size, pad):
        time.sleep(0.05 if x.shape[3] == 1 else 0)
        return rung.grad_w(x, dy, size, pad)

    monkeypatch.setitem(tu.ladder._LADDERS["conv3x3"], "strips", rung._replace(grad_w=slow_grad_w))
    with tu.rung(conv3x3="strips"):
        found = [step_profile(SMALL, 60, repeats=1, peak=PEAK) for _ in range(3)]
    slow = [{(e.layer, e.part) for e in one.entries if e.seconds >= 0.05} for one in found]
    wanted = {(f"{where}.1.relu{i}", "elementwise") for where in ("down", "up") for i in (1, 2)}
    wanted |= {("down.0.conv1", "by weight")}
    assert set.intersection(*slow) == wanted  # on a busy machine others are slow once, not always


@pytest.mark.parametrize(
    ("name", "changes"), [("same_bn", {}), ("release", {"classes": 3}), ("paper", {"channels": 3, "classes": 1})]
)
def test_other_networks(name, changes):
    """Norm, ReLU behind up-convolutions, colours, one class and several, Adam."""
    spec = preset(name, base=2, depth=1, **changes)
    found = step_profile(spec, shapes.legal_size(spec, 24), repeats=1, optimizer="adam", peak=PEAK)
    assert set(found.layers) == {"augmentation", "loss", "optimizer", *(layer.name for layer in shapes.layers(spec))}
    assert found.total("optimizer").bytes == 8 * 4 * shapes.count_params(spec)


def test_a_watch_ends_with_its_block():
    """Inside, what is picked is what the watch makes of it; afterwards it is the rung again."""
    x, w = np.ones((1, 5, 5, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
    with tu.ladder.watched(lambda rung, direction: rung._replace(name=f"seen {direction}")):
        assert tu.ladder.pick("conv3x3", x, w, "grad_w").name == "seen grad_w"
    assert tu.ladder.pick("conv3x3", x, w).name in tu.ladder.rungs("conv3x3")


def test_shares_of_the_peak():
    """Products are held to the speed of products, everything else to that of copies."""
    assert Entry("a", "forward", 0.5, 10**9, 0).of_peak(PEAK) == pytest.approx(0.04)
    assert Entry("a", "elementwise", 0.5, 0, 10**9).of_peak(PEAK) == pytest.approx(0.2)
    assert Entry("a", "elementwise", 0.0, 0, 10**9).of_peak(PEAK) == 0


def test_the_peak_is_measured():
    """Positive numbers, for as many threads as there are to be."""
    with parallel.threads(1):
        found = machine_peak(side=64, mib=1, repeats=1)
    assert found.flops > 1e6
    assert found.bandwidth > 1e6
    assert found.threads == 1


def test_a_bias_that_is_added_on_the_way_counts_as_forward(monkeypatch):
    """A rung is timed with the bias that it adds, and the rest of its layer is elementwise, forward as backward."""
    import time

    rung = tu.ladder._LADDERS["conv3x3"]["strips"]

    def slow(*arguments):
        time.sleep(0.05)
        return rung.fused(*arguments)

    clock = profile._Clock()
    clock.start()
    seen = clock.watch(rung._replace(fused=slow), "forward")
    seen.fused(np.ones((1, 5, 5, 1), np.float32), np.ones((3, 3, 1, 2), np.float32), 0, np.ones(2, np.float32))
    time.sleep(0.02)
    clock.hear(tu.layers.Conv("conv", 1, 2, 3, "valid", np.random.default_rng(0)), "forward", None)
    assert set(clock.times) == {("conv", "forward"), ("conv", "elementwise")}
    assert clock.times["conv", "forward"] >= 0.05
    assert clock.times["conv", "elementwise"] >= 0.02


def test_what_cannot_be_profiled():
    """Sizes that do not fit and numbers below 1 are refused before anything is done."""
    with pytest.raises(ShapeError, match="a 61x61 image does not fit"):
        step_profile(SMALL, 61, peak=PEAK)
    with pytest.raises(ConfigError, match=r"step_profile: repeats is 0\. Give a whole number of at least 1\."):
        step_profile(SMALL, 60, repeats=0, peak=PEAK)
    with pytest.raises(ConfigError, match=r"step_profile: batch is -1\."):
        step_profile(SMALL, 60, batch=-1, peak=PEAK)


def test_the_figure(taken, tmp_path):
    """A bar a row, as long as the row took; the text alternative has the shares and the longest."""
    figure = plot.step_profile(taken)
    ax = figure.axes[0]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == list(dict.fromkeys(plot.row_of(name) for name in taken.layers))
    assert "down.0.relu1" not in rows
    drawn = sum(patch.get_width() for patch in ax.patches)
    assert drawn == pytest.approx(1000 * taken.total().seconds)
    text = plot.description(figure)
    assert f"forward {taken.total('forward').seconds / taken.total().seconds:.0%}" in text
    assert "The longest bar is" in text
    plot.save(figure, tmp_path / "profile.svg")
    assert text[:40] in (tmp_path / "profile.svg").read_text()


def test_rows_of_the_figure():
    """What follows a convolution stands with it."""
    assert [plot.row_of(name) for name in ("down.0.relu1", "bottom.norm2", "bottom.dropout", "up.1.relu", "head", "loss")] == [
        "down.0.conv1", "bottom.conv2", "bottom.conv2", "up.1.relu", "head", "loss",
    ]  # fmt: skip
    assert profile.PARTS[0] == "augmentation"
