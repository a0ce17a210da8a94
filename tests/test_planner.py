"""The plan: what runs for every layer, and the costs that it is made from."""

import json
import math

import numpy as np
import pytest

from tinyunet import ladder, planner
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
            assert row[2:] == ("gemm", math.inf, "the highest rung that takes these arrays")
        else:
            assert row.rung in ("winograd", "winograd1d")
            assert 0 < row.milliseconds < 1e5
            assert "times as long" in row.why


def test_the_runner_up_is_never_faster():
    """What would have been the next choice takes at least as long."""
    for row in planner.plan(PAPER.but(base=16), 188):
        if "times as long" in row.why:
            assert float(row.why.split("take ")[1].split()[0]) >= 1


def test_twice_the_images_take_longer():
    """The expected time follows the batch."""
    one, four = (sum(r.milliseconds for r in planner.plan(PAPER, 188, n) if "upconv" not in r.layer) for n in (1, 4))
    assert 1.5 * one < four <= 4 * one


def test_the_plan_follows_what_is_picked_by_hand_and_the_dtype():
    """By hand it says so; in float64 one rung is left."""
    with ladder.rung(conv3x3="taps"):
        row = planner.plan(PAPER, 188)[0]
    assert (row.rung, row.milliseconds, row.why) == ("taps", math.inf, "picked by hand")
    row = planner.plan(PAPER, 188, dtype="float64")[0]
    assert (row.rung, row.why) == ("strips", "the only rung with known costs that takes these arrays")


def test_a_size_that_does_not_fit():
    """The error is that of the network."""
    with pytest.raises(ShapeError, match="a 570x570 image does not fit"):
        planner.plan(PAPER, 570)


def test_a_fit_finds_the_costs_again(own_costs, monkeypatch):
    """Where a direction takes 1 ms, and 2 ns a byte and 3 ps a multiply-add, these are the costs that are written and used."""
    monkeypatch.setattr(planner, "SIZES", ((2, 3, 12), (4, 4, 40), (8, 2, 24), (16, 16, 8), (1, 8, 60), (32, 8, 9)))
    sizes = iter([size for size in planner.SIZES for _ in range(9)])

    def pretend(function, arguments, repeats):
        c, o, side = next(sizes)
        x, w = np.empty((1, side, side, c), np.float32), np.empty((3, 3, c, o), np.float32)
        return float(np.dot((1e-3, 2e-9, 0, 3e-12), ladder.work(x, w)))

    monkeypatch.setattr(planner, "_fastest", pretend)
    heard = []
    costs = planner.fit(note=heard.append)
    assert len(heard) == 9 * 6
    np.testing.assert_allclose(costs["conv3x3"]["strips"]["grad_w"], (1e-3, 2e-9, 0, 3e-12), rtol=1e-3, atol=1e-15)
    assert json.loads(own_costs.read_text())["costs"] == ladder.costs() == costs


def test_a_fit_measures(monkeypatch):
    """With real measurements of small maps, every rung gets costs of at least zero, and some above."""
    monkeypatch.setattr(planner, "SIZES", ((2, 3, 12), (4, 4, 20), (8, 2, 16)))
    costs = planner.fit(repeats=1)["conv3x3"]
    assert set(costs) == {"strips", "winograd1d", "winograd"}
    for directions in costs.values():
        assert set(directions) == {"forward", "grad_x", "grad_w"}
        assert all(min(terms) >= 0 and max(terms) > 0 for terms in directions.values())
