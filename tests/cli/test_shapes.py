"""`tinyunet shapes`: the paper's figure 1."""

import re

from command import one_line

import tinyunet as tu


def test_shapes_prints_figure_1(main):
    """Sizes, crops, parameters and multiply-adds of the paper's network, and the sizes near 572."""
    code, out, _ = main("shapes", 572)
    assert code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["down.0.conv1", "572 -> 570", "1 -> 64", "640", "0.187", "3.7"] in lines
    assert ["up.0.concat", "392", "64 + 64 -> 128", "88"] in lines
    assert ["head", "388", "64 -> 2", "130", "0.019", "36.8"] in lines
    assert [line[3] for line in lines if line[0].endswith("concat")] == ["4", "16", "40", "88"]
    assert ["total", "572 -> 388", "31,030,658", "150.43", "504.4"] in lines
    assert "margin           92 px" in out
    assert "188 + 16 k; nearest to 572: 556, 572, 588" in out
    assert "receptive field  188 to 204 px" in out


def test_shapes_sums_are_those_of_its_rows(main):
    """What the rows show adds up to the total: no layer is left out or counted twice."""
    _, out, _ = main("shapes", 92, 108, "--base", 8, "--depth", 2, "--preset", "same_bn", "--padding", "valid")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if re.match(r"(down|bottom|up|head)", line)]
    spec = tu.preset("same_bn", base=8, depth=2, padding="valid")
    with_parameters = [row for row in rows if "pool" not in row[0] and "concat" not in row[0]]
    assert sum(int(row[3].replace(",", "")) for row in with_parameters) == tu.shapes.count_params(spec)
    assert "92x108 -> 52x68" in next(line for line in out.splitlines() if line.startswith("total"))


def test_a_size_that_does_not_fit(main):
    """Exit code 2, where it stops fitting, and the nearest sizes that do."""
    code, _, err = main("shapes", 570)
    assert code == 2
    assert "level 1 (down.1) would pool an odd 279x279. Nearest sizes that work: 556, 572." in err


def test_shapes_draws(main, tmp_path):
    """--figure writes the U."""
    code, out, _ = main("shapes", 92, "--base", 4, "--depth", 2, "--figure", tmp_path / "u.svg")
    assert code == 0
    assert "u.svg" in out
    assert "<svg" in (tmp_path / "u.svg").read_text()


def test_shapes_explains_what_runs(main, monkeypatch, tmp_path):
    """--plan: the rung of every direction, what each would take, and whose costs these are."""
    monkeypatch.setenv("TINYUNET_COSTS", str(tmp_path / "costs.json"))
    tu.ladder.costs.cache_clear()
    options = ("shapes", 92, "--base", 8, "--depth", 2, "--plan")
    _, out, _ = main(*options)
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    first = next(line for line in lines if line[:2] == ["down.0.conv1", "forward"])
    expected = [float(cell.removesuffix(" ms")) for cell in first[3:7]]
    names = next(line for line in lines if line[:3] == ["layer", "direction", "runs"])[3:7]
    assert expected[names.index(first[2])] == min(expected)  # of what is shown, several may be equal
    row = tu.planner.plan(tu.preset("paper", base=8, depth=2), 92)[0]
    best, second = sorted((ms, name) for name, ms in row.able.items() if name in names)[:2]
    assert first[2] == best[1]
    assert first[7] == f"{second[1]} {second[0] / best[0]:.2f}x"
    assert sum(line[1:2] == ["by weight"] or line[0] == "by weight" for line in lines) == 10
    assert "costs            those that come with tinyunet" in out
    tu.planner.write_costs(tu.ladder.costs())
    _, out, _ = main(*options)
    assert f"measured on this machine: {tmp_path / 'costs.json'}; delete the file" in one_line(out)
    with tu.rung(conv3x3="taps"):
        _, out, _ = main(*options)
    assert "taps" in out
    assert out.count("by hand") == 30
    monkeypatch.undo()
    tu.ladder.costs.cache_clear()
