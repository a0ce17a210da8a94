"""`tinyunet bench`: a step taken apart, and costs measured anew."""

import json
import re

import pytest
from command import one_line

import tinyunet as tu


def test_bench_step_takes_a_step_apart(main, tmp_path):
    """Rows of layers and parts, the machine's peak, what is not accounted for, and a picture."""
    code, out, _ = main("bench", "step", 60, "--base", 2, "--depth", 2, "--repeats", 1, "--out", tmp_path / "step.png")
    assert code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    layers = [line[0] for line in lines if re.match(r"(down|bottom|up|head)", line[0])]
    assert layers[:3] == ["down.0.conv1", "down.0.conv2", "down.0.pool"]
    assert layers[-1] == "head"
    shares = [float(line[2].removesuffix("%")) for line in lines if line[0] in tu.profile.PARTS]
    assert sum(shares) == pytest.approx(100, abs=4)
    assert re.search(r"BLAS peak +[\d,]+ GFLOP/s", out)
    assert re.search(r"the parts add up to \d+\.\d% of it", out)
    assert (tmp_path / "step.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "says"),
    [((61, "--depth", 2), "a 61x61 image does not fit depth 2"),
     ((60, "--depth", 2, "--optimizer", "lion"), "neither 'sgd' nor 'adam'"),
     ((60, "--depth", 2, "--out", "x.jpg"), "cannot write a figure as 'x.jpg'"), ((60, "--preset", "vnet"), "vnet")],
)  # fmt: skip
def test_bench_step_refuses(main, options, says):
    """What cannot be measured is refused before anything is."""
    code, out, err = main("bench", "step", *options)
    assert code == 2
    assert out == ""
    assert says in err


def test_bench_fit_writes_costs_and_says_how_to_undo_it(main, monkeypatch, tmp_path):
    """The errors of old and new costs, where the new ones are, and that deleting the file brings the old ones back."""
    path = tmp_path / "deep" / "costs.json"
    monkeypatch.setenv("TINYUNET_COSTS", str(path))
    monkeypatch.setattr(tu.planner, "SIZES", ((2, 3, 12), (4, 4, 20), (8, 2, 16), (3, 9, 24)))
    tu.ladder.costs.cache_clear()
    code, out, _ = main("bench", "fit", "--repeats", 1)
    assert code == 0
    assert len(re.findall(r"^(strips|planes|winograd1d|winograd) .*%.*%", out, re.MULTILINE)) == 12
    assert f"written          {path}; delete it to go back" in one_line(out).replace("written ", "written" + 10 * " ")
    assert "those that come with tinyunet; their picks take" in out
    assert json.loads(path.read_text())["costs"] == tu.ladder.costs()
    _, out, _ = main("bench", "fit", "--repeats", 1)
    assert "those of the last fit; their picks take" in out
    path.write_text("{}")
    tu.ladder.costs.cache_clear()
    code, _, err = main("shapes", 92, "--base", 2, "--depth", 2, "--plan")
    assert code == 2
    assert "Delete it, or measure anew: tinyunet bench fit." in err
    _, out, _ = main("bench", "fit", "--repeats", 1)
    assert "none that could be read" in out
    assert out.count("unknown") == 12
    assert json.loads(path.read_text())["costs"] == tu.ladder.costs()
    monkeypatch.undo()
    tu.ladder.costs.cache_clear()
