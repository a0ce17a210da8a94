"""Planted bugs: they go in, they come out, and the catalogue sees every one of them."""

import contextlib
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tinyunet as tu
from tinyunet import bugs, cli, ladder, ops
from tinyunet.bugs import BUGS, Bug, Edit, diff, plant
from tinyunet.bugs.core import bug as enter
from tinyunet.bugs.core import find
from tinyunet.catalogue import CATALOGUE, LADDERS, check_on_rung
from tinyunet.errors import ConfigError

ROOT = Path(tu.__file__).parents[1]
PAGE = ROOT / "docs" / "kill_matrix.md"
MATRIX = json.loads((ROOT / "benchmarks" / "results" / "kill_matrix.json").read_text(encoding="utf-8"))

every_bug = pytest.mark.parametrize("name", BUGS)


@pytest.fixture
def entered():
    """Enter bugs for one test: entered(edits...) -> the bug's name."""

    def make(*edits):
        BUGS["for_one_test"] = Bug("for_one_test", (), "", edits)
        return "for_one_test"

    yield make
    BUGS.pop("for_one_test", None)


def first_to_see(bug):
    """A property of the bug's subjects that fails under it, with the rung to run it on; None if all hold.

    Those that saw it when the kill matrix was measured come first: to try the others takes minutes.
    """
    known = MATRIX["seen_by"].get(bug.name, ())
    there = [prop for subject in bug.subjects for prop in CATALOGUE[subject]]
    for prop in sorted(there, key=lambda prop: f"{prop.subject}.{prop.name}" not in known):
        rung = bug.rungs.get(LADDERS.get(prop.subject, ""), "")
        if check_on_rung(prop, rung).error:
            return prop, rung
    return None


@every_bug
def test_the_catalogue_sees_the_bug(name):
    """A property of the subjects that a bug names fails while it is planted, and holds once it is gone."""
    with plant(name) as bug:
        seen = first_to_see(bug)
    assert seen is not None, f"{name} survives: no property of {' or '.join(bug.subjects)} sees it"
    assert not check_on_rung(*seen).error


@every_bug
def test_the_bug_fits_the_code(name):
    """What a bug replaces stands exactly once where the bug says: `diff` finds it and shows what changes, in a few lines."""
    shown = diff(name).splitlines()
    for edit in BUGS[name].edits:
        assert edit.old != edit.new
        assert any(line.startswith("--- a/" + edit.where.partition(":")[0].replace(".", "/")) for line in shown)
    changed = [line for line in shown if line[0] in "+-" and line[:3] not in ("---", "+++")]
    assert 1 <= len(changed) <= 12


@every_bug
def test_the_bug_explains_itself(name):
    """The lesson has one sentence for every bug, and the catalogue has its subjects."""
    bug = BUGS[name]
    assert bug.name == name
    assert bug.says.endswith(".")
    assert 40 < len(bug.says) <= 240
    assert ". " not in bug.says.replace("eq. ", "").replace("Eq. ", "")
    assert set(bug.subjects) <= set(CATALOGUE)
    assert bug.where == bug.edits[0].where


def test_there_are_many_bugs():
    """At least 65, and at least one for every subject that is more than a helper of another."""
    assert len(BUGS) >= 65
    named = {subject for bug in BUGS.values() for subject in bug.subjects}
    assert set(CATALOGUE) - named <= {"softmax", "sigmoid"}  # both are inside the losses


def test_what_is_to_be_differentiated():
    """Tables of sizes, first weights, running statistics, data and training are not what a gradient check could judge."""
    for name in ("legal_sizes_for_same_padding", "receptive_field_off_by_one", "receptive_field_without_itself",
                 "biases_not_counted", "fan_out_for_fan_in", "variance_for_deviation", "running_statistics_not_saved",
                 "momentum_the_wrong_way", "running_variance_biased", "dropout_at_the_top", "mean_of_means"):  # fmt: skip
        assert not BUGS[name].differentiable
    for name in ("kernel_flipped", "crop_at_the_corner", "skip_gradient_not_added", "eval_mode_ignored", "softmax_twice"):
        assert BUGS[name].differentiable


@every_bug
def test_a_thread_can_be_followed(name):
    """What a project shipped is given as owner/repo#1 or owner/repo PR#1, so that it can be looked up."""
    links = re.findall(r"\S*#\d+", BUGS[name].shipped)
    assert bool(links) == bool(BUGS[name].shipped)
    whole = re.findall(r"[\w.-]+/[\w.-]+(?: PR)?#\d+", BUGS[name].shipped)
    assert len(whole) == len(links)
    assert "#" not in BUGS[name].known


def test_the_page_holds_what_was_measured(monkeypatch, tmp_path):
    """docs/kill_matrix.md is what benchmarks/results/kill_matrix.json gives; another page is told."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("kill_matrix")
    monkeypatch.setattr(sys, "argv", ["kill_matrix", "--check"])
    script.main()
    (tmp_path / "kill_matrix.md").write_text(PAGE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(script, "DOCS", tmp_path)
    with pytest.raises(SystemExit, match=r"is not what benchmarks/results/kill_matrix.json gives\. Run .* --page"):
        script.main()


def test_only_gradient_checks_count_as_gradient_checks(monkeypatch):
    """A property is one by its kind and its name, not by a word in its name alone."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("kill_matrix")
    kinds = {"a.gradient_by_differences": "gradient", "b.differences_are_even": "invariance", "c.reach_every": "gradient"}
    for prop, sees in zip(kinds, (True, False, False), strict=True):
        matrix = script.Matrix({"properties": kinds, "seen_by": {name: [prop] for name in BUGS}, "measured": {}})
        assert matrix.by_gradient_check("kernel_flipped") is sees
        assert matrix.judged("kernel_flipped") == ("seen" if sees else "missed")
        assert matrix.judged("biases_not_counted") == "none"


def test_the_page_says_what_was_measured_before(monkeypatch):
    """Bugs that met fewer properties than there are now are counted apart; one that was not measured is named."""
    monkeypatch.syspath_prepend(str(PAGE.parents[1] / "benchmarks"))
    script = importlib.import_module("kill_matrix")
    kinds = {"a.gradient_by_differences": "gradient", "b.law": "invariance"}
    measured = {name: {"date": "2026-01-01", "properties": 2 - (name == "ties_to_all")} for name in BUGS}
    results = {"properties": kinds, "seen_by": {name: ["b.law"] for name in BUGS}, "measured": measured}
    said = " ".join(script.page(script.Matrix(results)).split())
    assert "all 2 properties of the catalogue were run against it (1 bug when there were 1)." in said
    del results["seen_by"]["ties_to_all"]
    with pytest.raises(SystemExit, match=r"Not measured yet: ties_to_all\. Run benchmarks/kill_matrix\.py --new"):
        script.Matrix(results)


def test_the_page_lists_every_bug():
    """docs/kill_matrix.md was written for the bugs that there are: run benchmarks/kill_matrix.py after a change."""
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in BUGS if f"`{name}`" not in page] == []
    assert f"{len(BUGS)} bugs" in page


@pytest.mark.parametrize(("name", "subject"), [("dx_is_mean_of_dy", "relu"), ("upconv_first_image_only", "upconv")])
def test_the_command_line_sees_a_bug(name, subject):
    """`tinyunet check` ends with 0, and with 1 while a bug is planted, also if it is in a rung that nobody would pick."""
    arguments = ["check", "--only", subject, "--draws", "2"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    with plant(name):
        assert CliRunner().invoke(cli.app, arguments).exit_code == 1


# ---- on the command line ----


@pytest.fixture
def check():
    """`tinyunet check` with arguments -> exit code, what it prints or the error that it ends in"""

    def call(*arguments):
        done = CliRunner().invoke(cli.app, ["check", *arguments])
        return done.exit_code, str(done.exception) if isinstance(done.exception, ConfigError) else done.output

    return call


def test_a_bug_is_shown_and_then_who_sees_it(check):
    """First the sentence and the diff, then the laws that fail with their messages, then the verdict; afterwards it is gone."""
    code, out = check("--plant", "dx_is_mean_of_dy")
    assert code == 1
    bug = BUGS["dx_is_mean_of_dy"]
    assert out.startswith(f"{bug.name}\n{bug.says}\n\n{diff(bug.name)}")
    after = out[len(diff(bug.name)) :]
    assert "relu.gradient_by_differences (gradient)\n    should   Every gradient equals" in after
    last = "6 of 29 properties see it: reference 1, gradient 2, invariance 2, convention 1. A gradient check sees it."
    assert out.splitlines()[-1] == last
    assert check("--only", "relu")[0] == 0


def test_the_page_shows_what_is_printed(check):
    """The output in docs/properties.md is that of the command."""
    page = (PAGE.parent / "properties.md").read_text(encoding="utf-8")
    shown = page.partition("```\ndx_is_mean_of_dy\n")[2].partition("```")[0]
    printed = check("--plant", "dx_is_mean_of_dy")[1].splitlines()
    assert len(shown.splitlines()) > 30
    assert [line for line in shown.splitlines() if line not in printed] == []


def test_a_bug_in_a_rung_is_checked_there(check):
    """The rung and what it costs are told; what is said of a gradient check counts only where there is one."""
    code, out = check("--plant", "upconv_first_image_only", "--kind", "reference")
    assert code == 1
    assert "\n# It is in the rung upconv2x2='loops', which planting picks: loops in Python, a hundred times slower" in out
    assert "upconv.forward_is_the_formula on loops (reference)" in out
    assert out.splitlines()[-1] == "1 of 3 properties see it: reference 1."
    assert "Known from: chelsea0x3b/dfdx#657" in out
    code, out = check("--plant", "kernel_flipped", "--only", "conv2d.gradient_by_differences")
    assert (code, out.splitlines()[-1]) == (0, "0 of 1 property sees it. No gradient check sees it.")


def test_without_a_name_all_bugs_are_listed(check):
    """By subject, each with its sentence, also in front of another option."""
    code, out = check("--plant")
    assert code == 0
    assert all(f"\n  {name}: {bug.says}\n" in out for name, bug in BUGS.items())
    assert out.startswith("conv2d\n  kernel_flipped: ")
    assert f"\n{len(BUGS)} bugs. tinyunet check --plant kernel_flipped shows" in out
    assert check("--plant", "--draws", "2") == (code, out)


def test_without_any_argument_everything_is_checked(check, monkeypatch):
    """All subjects, and no bug is planted."""
    asked = []
    module = importlib.import_module("tinyunet.cli.check")
    monkeypatch.setattr(module, "_check_ours", lambda chosen, **how: asked.append({p.subject for p in chosen}) is None)
    assert check()[0] == 0
    assert asked == [set(CATALOGUE)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ties_to_al"], r"there is no planted bug 'ties_to_al'\. Did you mean ties_to_all.*\? All \d+ are in: .* --plant$"),
        (["conv1x1"], r"there is no planted bug 'conv1x1'\. conv1x1 has: conv1x1_first_image_only\. All"),
        (["zzz"], r"there is no planted bug 'zzz'\. All"),
        (["ties_to_all", "my.py:my_pool"], r"--plant puts a bug into what comes with tinyunet, not into an op of your own"),
    ],
)
def test_a_bug_that_there_is_none_of(arguments, said, check):
    """The nearest names, or those of a subject, and where all are."""
    code, error = check("--plant", *arguments)
    assert code == 1
    assert re.search(said, error)


# ---- planting ----


def now_at(bug):
    """What stands at the places that a bug changes: the code and the defaults of a function, the value of a constant."""
    places = [find(edit.where) for edit in bug.edits]
    names = [edit.where.partition(":")[2] for edit in bug.edits]
    constants = [getattr(place.module, name) for place, name in zip(places, names, strict=True) if not place.target]
    targets = [place.target for place in places if place.target]
    return constants, [f.__code__ for f in targets], [f.__defaults__ for f in targets], targets


@every_bug
def test_nothing_is_left_behind(name):
    """After a bug was planted all code and all constants are the very objects that they were; inside they are not."""
    before = now_at(BUGS[name])
    with plant(name):
        assert [f.__code__ for f in before[3]] != before[1] or not before[3]
    for were, are in zip(before, now_at(BUGS[name]), strict=True):
        assert all(a is b for a, b in zip(were, are, strict=True))


def test_an_exception_takes_the_bug_out():
    """Also when the block ends in an error, the code is as it was."""
    before = ops.relu_forward.__code__
    with contextlib.suppress(ZeroDivisionError), plant("relu_passes_at_zero"):
        assert ops.relu_forward.__code__ is not before
        raise ZeroDivisionError
    assert ops.relu_forward.__code__ is before


def test_who_imported_by_name_sees_it():
    """A function keeps its identity, so names that were bound before the bug was planted have it too."""
    bound = ops.relu_backward
    x, dy = np.array([-1.0, 2.0]), np.array([3.0, 5.0])
    _, ctx = ops.relu_forward(x)
    with plant("dx_is_mean_of_dy"):
        assert bound is ops.relu_backward
        assert bound(dy, ctx).tolist() == [0, 4]
    assert bound(dy, ctx).tolist() == [0, 5]


def test_a_bug_in_a_rung_picks_the_rung(rng):
    """A flipped kernel in a rung that nobody uses would not be seen, so planting it picks that rung, for as long as it is in."""
    x, w = rng.standard_normal((1, 5, 5, 1)), rng.standard_normal((3, 3, 1, 1))
    usual = ladder.pick("conv3x3", x, w).name
    with plant("kernel_flipped") as bug:
        assert bug.rungs == {"conv3x3": "taps"}
        assert ladder.pick("conv3x3", x, w).name == "taps" != usual
        flipped, _ = ops.conv2d_forward(x, w, np.zeros(1))
    assert ladder.pick("conv3x3", x, w).name == usual
    turned, _ = ops.conv2d_forward(x, w[::-1, ::-1].copy(), np.zeros(1))
    np.testing.assert_allclose(flipped, turned, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "rungs"),
    [("upconv_first_image_only", {"upconv2x2": "loops"}), ("upconv_rows_exchanged", {"upconv2x2": "gemm"}),
     ("negative_index_wraps", {"conv3x3": "loops"}), ("ties_to_all", {})],
)  # fmt: skip
def test_which_rung_a_bug_is_in(name, rungs):
    """Two ladders have a rung called "loops"; the function tells them apart."""
    assert BUGS[name].rungs == rungs


def test_what_planting_does_besides_is_told():
    """The note names the rung, and that it is slow or takes float32 alone; `diff` has it in front."""
    assert BUGS["ties_to_all"].note == ""
    assert BUGS["kernel_flipped"].note == "It is in the rung conv3x3='taps', which planting picks."
    slow = BUGS["negative_index_wraps"]
    assert slow.note.endswith(": loops in Python, a hundred times slower, so take small images.")
    assert diff(slow.name).startswith(f"# {slow.note}\n--- a/tinyunet/rungs/loops.py\n")


def test_two_bugs_at_a_time():
    """Bugs in different functions go together, and come out in any case."""
    x = np.array([0.0, 1.0])
    with plant("relu_passes_at_zero"), plant("dx_is_mean_of_dy"):
        y, ctx = ops.relu_forward(x)
        assert ops.relu_backward(np.array([1.0, 3.0]), ctx).tolist() == [2, 2]
    y, ctx = ops.relu_forward(x)
    assert (y.tolist(), ops.relu_backward(np.array([1.0, 3.0]), ctx).tolist()) == ([0, 1], [0, 3])


def test_one_function_holds_one_bug():
    """A second bug in the same function is refused, and the first one stays until its block ends."""
    before = ops.relu_forward.__code__
    with plant("relu_passes_at_zero"):
        planted = ops.relu_forward.__code__
        with pytest.raises(ConfigError, match=r"tinyunet\.ops\.relu:relu_forward: .* Is a bug planted there already\?"):
            plant("relu_hides_nan").__enter__()
        assert ops.relu_forward.__code__ is planted
    assert ops.relu_forward.__code__ is before


def test_constants_properties_caches_and_defaults(entered):
    """A constant, a property, a function behind a cache and one behind `contextmanager`, and a default value can all be wrong."""
    spec = tu.PAPER
    assert tu.shapes.receptive_field(spec)[0].size == 188
    with plant("receptive_field_without_itself"):
        assert tu.shapes.receptive_field(spec)[0].size == 187
    with plant("cut_off_too_early"):
        assert importlib.import_module("tinyunet.data.weight_map").REACH == 2
    assert importlib.import_module("tinyunet.data.weight_map").REACH > 6

    assert tu.shapes.smallest_size(spec) == 188
    with plant(entered(Edit("tinyunet.shapes:smallest_size", "n = 1", "n = 189"))):
        assert tu.shapes.smallest_size(spec) == 204  # not from the cache
    assert tu.shapes.smallest_size(spec) == 188  # nor from the cache of the bug

    with plant(entered(Edit("tinyunet.optim:schedule", "warmup: int = 0", "warmup: int = 3"))):
        assert tu.optim.schedule("constant", 0, 10) == 0.25
    assert tu.optim.schedule("constant", 0, 10) == 1

    with plant(entered(Edit("tinyunet.ladder:rung", "_BY_HAND.reset(token)", "pass"))):
        with contextlib.suppress(ConfigError), tu.rung(conv3x3="loops"):
            pass
        assert ladder._BY_HAND.get() == {"conv3x3": "loops"}
    ladder._BY_HAND.set(None)


def test_errors_of_planting(entered):
    """A bug that is not there, and one that no longer fits the code, say so; nothing is changed then."""
    with pytest.raises(ConfigError, match=r"there is no bug 'ties_to_al'. There are \d+ in tinyunet.bugs.BUGS, e.g. ties_to_all"):
        diff("ties_to_al")
    with pytest.raises(ConfigError, match="there is no bug 'xyz'"):
        plant("xyz").__enter__()
    before = ops.relu_forward.__code__, ops.relu_backward.__code__
    entered(Edit("tinyunet.ops.relu:relu_forward", "~(x.real <= 0)", "x > 0"),
            Edit("tinyunet.ops.relu:relu_backward", "not there", "anything"))
    with pytest.raises(ConfigError, match=r"'not there' occurs 0 times in tinyunet.ops.relu:relu_backward, expected once."):
        plant("for_one_test").__enter__()
    assert (ops.relu_forward.__code__, ops.relu_backward.__code__) == before
    entered(Edit("tinyunet.ops.relu:relu_forward", "x", "y"))
    with pytest.raises(ConfigError, match=r"'x' occurs \d+ times .* write the bug anew for what stands there now"):
        diff("for_one_test")
    entered(Edit("tinyunet.ops.relu:ReLUContext", "a", "b"))
    with pytest.raises(ConfigError, match=r"tinyunet.ops.relu:ReLUContext is neither a function nor a constant"):
        diff("for_one_test")
    with pytest.raises(ConfigError, match="there are two bugs called 'ties_to_all'"):
        enter("ties_to_all", "max_pool", "Twice.")


def test_diff_shows_the_lines_of_the_file():
    """The numbers in a diff are those of the file, its names too."""
    lines, start = inspect.getsourcelines(ops.relu_backward)
    wrong = start + next(i for i, line in enumerate(lines) if "keep(" in line)
    shown = diff("dx_is_mean_of_dy")
    assert shown.startswith("--- a/tinyunet/ops/relu.py\n+++ b/tinyunet/ops/relu.py\n")
    assert f"@@ -{wrong - 2},5 " in shown
    assert "\n+        keep(dy.mean() + 0 * dy, _unpack(positive, dy.shape[2]), out=dx)\n" in shown


def test_what_is_public():
    """`tinyunet.bugs` offers the registry, the two functions, and what they are made of."""
    assert bugs.__all__ == ["BUGS", "Bug", "Edit", "diff", "plant"]
