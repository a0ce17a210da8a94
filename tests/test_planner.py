"""The plan: what runs for every layer, and the costs that it is made from."""

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import ladder, parallel, planner, shapes
from tinyunet.errors import ShapeError
from tinyunet.spec import PAPER


@pytest.fixture(autouse=True)
def own_costs(monkeypatch, tmp_path):
    """The costs that come with tinyunet, whatever was measured on this machine; `fit` writes to a folder of the test."""
    monkeypatch.setenv("TINYUNET_COSTS", str(tmp_path / "deep" / "costs.json"))
    ladder.costs.cache_clear()
    yield tmp_path / "deep" / "costs.json"
    monkeypatch.undo()
    ladder.costs.cache_clear()


def test_a_plan_lists_every_direction_of_every_convolution():
    """18 convolutions and 4 up-convolutions in three directions, in the order of the network, and all that runs."""
    rows = planner.plan(PAPER, 572)
    assert len(rows) == 3 * (18 + 4)
    assert [row.direction for row in rows[:3]] == ["forward", "grad_x", "grad_w"]
    assert rows[0].layer == "down.0.conv1"
    assert rows[-1].layer == "up.0.conv2"
    for row in rows:
        if "upconv" in row.layer:
            assert row[2:5] == ("gemm", math.inf, "the highest rung that takes these arrays")
        else:
            assert row.rung in ("winograd", "winograd1d") if row.layer != "down.0.conv1" else row.rung == "planes"
            assert 0 < row.milliseconds < 1e5
            assert "times as long" in row.why


def test_a_plan_knows_every_rung_that_could_run():
    """All rungs of the CPU are listed with what they would take; the one that runs is the fastest, and `why` names the next."""
    row = planner.plan(PAPER, 188)[3]
    assert list(row.able) == ["winograd", "winograd1d", "planes", "strips", "im2col", "taps", "loops"]
    known = sorted((ms, name) for name, ms in row.able.items() if ms < math.inf)
    assert len(known) == 4
    assert known[0] == (row.milliseconds, row.rung)
    assert row.why.startswith(f"{known[1][1]} would take {known[1][0] / known[0][0]:.2f} times")


def test_the_runner_up_is_never_faster():
    """What would have been the next choice takes at least as long."""
    for row in planner.plan(PAPER.but(base=16), 188):
        if "times as long" in row.why:
            assert float(row.why.split("take ")[1].split()[0]) >= 1


def test_twice_the_images_take_longer():
    """The expected time follows the batch."""
    one, four = (sum(r.milliseconds for r in planner.plan(PAPER, 188, batch=n) if "upconv" not in r.layer) for n in (1, 4))
    assert 1.5 * one < four <= 4 * one


def test_the_plan_follows_what_is_picked_by_hand_and_the_dtype():
    """By hand it says so; in float64 those that are exact are left."""
    with ladder.rung(conv3x3="taps"):
        row = planner.plan(PAPER, 188)[0]
    assert (row.rung, row.milliseconds, row.why) == ("taps", math.inf, "picked by hand")
    row = planner.plan(PAPER, 188, dtype="float64")[0]
    assert list(row.able) == ["planes", "strips", "im2col", "taps", "loops"]


def test_a_size_that_does_not_fit():
    """The error is that of the network."""
    with pytest.raises(ShapeError, match="a 570x570 image does not fit"):
        planner.plan(PAPER, 570)


def test_a_fit_finds_the_costs_again(own_costs, monkeypatch):
    """Where a direction takes 1 ms, and 2 ns a byte and 3 ps a multiply-add, these are the costs that are written and used."""
    monkeypatch.setattr(planner, "SIZES", ((2, 3, 12), (4, 4, 40), (8, 2, 24), (16, 16, 8), (1, 8, 60), (32, 8, 9)))
    sizes = iter([size for size in planner.SIZES for _ in range(12)])

    def pretend(function, arguments, repeats):
        c, o, side = next(sizes)
        x, w = np.empty((1, side, side, c), np.float32), np.empty((3, 3, c, o), np.float32)
        return float(np.dot((1e-3, 2e-9, 0, 3e-12, 0), ladder.work(x, w)))

    monkeypatch.setattr(planner, "_fastest", pretend)
    heard = []
    costs = planner.fit(note=heard.append)
    assert len(heard) == 12 * 6
    np.testing.assert_allclose(costs["conv3x3"]["strips"]["grad_w"], (1e-3, 2e-9, 0, 3e-12, 0), rtol=1e-3, atol=1e-15)
    assert json.loads(own_costs.read_text())["costs"] == ladder.costs() == costs


def test_a_fit_measures(monkeypatch):
    """With real measurements of small maps, every rung gets costs of at least zero, and some above."""
    monkeypatch.setattr(planner, "SIZES", ((2, 3, 12), (4, 4, 20), (8, 2, 16)))
    costs = planner.fit(repeats=1)["conv3x3"]
    assert set(costs) == {"strips", "planes", "winograd1d", "winograd"}
    for directions in costs.values():
        assert set(directions) == {"forward", "grad_x", "grad_w"}
        assert all(min(terms) >= 0 and max(terms) > 0 for terms in directions.values())


def test_costs_are_assessed_by_what_was_measured():
    """Median relative errors, whom the costs would pick, and the time that their wrong picks lose."""
    timed = (("a", 0.0, 2.0), ("b", 0.0, 3.0), ("a", 1.0, 2.0), ("b", 1.0, 1.0))  # rung, multiply-adds, seconds
    measured = [planner.Measurement(name, "forward", (1.0, 0.0, 0.0, macs, 0.0), seconds) for name, macs, seconds in timed]
    found = planner.assess({"conv3x3": {"a": {"forward": [1, 0, 0, 0, 0]}, "b": {"forward": [6, 0, 0, 0, 0]}}}, measured)
    assert found.errors == {("a", "forward"): 0.5, ("b", "forward"): 3.0}  # |1/2 - 1|; the median of |6/3 - 1| and |6/1 - 1|
    assert found.picks == {("a", "forward"): 2, ("b", "forward"): 0}
    assert found.lost == pytest.approx((2 + 2) / (2 + 1) - 1)
    assert planner.assess({}, measured).errors == dict.fromkeys(found.errors, math.inf)


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "base", "batch"), [("paper", 8, 1), ("same_bn", 16, 2), ("release", 32, 1)])
def test_a_rehearsal_finds_the_workspaces(preset, base, batch):
    """What is said to be kept is what a new thread keeps after a real step, but for strips that are left over."""
    spec, kept = tu.preset(preset, base=base, depth=3), {}
    n = shapes.legal_size(spec, 140)

    def step():
        model = tu.UNet(spec)
        model.backward(np.ones_like(model.forward(np.ones((batch, n, n, 1), np.float32))))
        kept.update({name: array.nbytes for name, array in vars(parallel._local)["spaces"].items()})

    with parallel.threads(1):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    said = planner.workspace_bytes(spec, n, batch=batch)
    temporaries = (4 if spec.norm == "batch" else 1) * parallel.STRIP_BYTES
    assert said - temporaries == pytest.approx(sum(kept.values()), rel=0.02)
    assert planner.workspace_bytes(spec, n, batch=batch, training=False) <= said
    assert said + temporaries <= planner.workspace_bytes(spec, n, batch=batch, threads=2) <= 2 * said
    large = shapes.legal_size(spec, 400)  # of which every map has several strips, so that a second thread has work
    one, two = (planner.workspace_bytes(spec, large, batch=batch, threads=threads) for threads in (1, 2))
    assert 1.5 * one < two <= 2 * one


def test_a_rehearsal_is_over_with_its_block():
    """Afterwards all jobs are done again. Within, numbers that nobody wrote are no reason to warn."""
    with parallel.rehearsal():
        assert np.isnan(np.float32(np.inf) - np.float32(np.inf))
        assert parallel.each(str, [1, 2]) == ["1", "1"]
        assert parallel.groups([1, 2, 3]) == [[1]] * 3
    assert parallel.each(str, [1, 2]) == ["1", "2"]
    assert parallel.groups([1, 2, 3]) == [[1], [2], [3]]


STEP = """
import sys, tracemalloc
import numpy as np
import tinyunet as tu
preset, base, depth, size, batch, threads = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
tracemalloc.start()
with tu.threads(threads):
    model = tu.UNet(tu.preset(preset, base=base, depth=depth))
    optimizer = tu.Adam(model)
    x, peaks = rng.standard_normal((batch, size, size, 1), dtype=np.float32), []
    side = tu.shapes.output_size(model.spec, size)
    labels = rng.integers(0, 2, (batch, side, side))
    for _ in range(2):
        _, dlogits = tu.energy(model.forward(x), labels, None)
        model.backward(dlogits)
        optimizer.step()
    print(tracemalloc.get_traced_memory()[1])
    del model, optimizer, dlogits
    model = tu.UNet(tu.preset(preset, base=base, depth=depth)).eval()
    tu.parallel._local.__dict__.clear()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    model.forward(x)
    print(tracemalloc.get_traced_memory()[1] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [("paper", 16, 4, 572, 1, 2), ("paper", 16, 3, 204, 2, 2), ("paper", 8, 3, 316, 1, 1), ("same_bn", 16, 4, 256, 2, 1),
     ("release", 16, 4, 380, 1, 2), ("paper", 32, 4, 380, 1, 2), ("same_bn", 32, 4, 128, 4, 1)],
    ids=str,
)  # fmt: skip
def test_memory_is_planned_within_a_tenth(case):
    """The planned peak of a training step and the measured one of a process that does it differ by 10 % at most."""
    environment = {**os.environ, "PYTHONPATH": str(Path(tu.__file__).parents[1])}
    command = [sys.executable, "-c", STEP, *map(str, case)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    training, forward = map(int, done.stdout.split())
    preset, base, depth, size, batch, threads = case
    spec = tu.preset(preset, base=base, depth=depth)
    planned = planner.training_bytes(spec, size, batch=batch, moments=2, threads=threads)
    assert planned == pytest.approx(training, rel=0.1)
    if batch == threads == 1:
        assert planner.forward_bytes(spec, size) == pytest.approx(forward, rel=0.1)
