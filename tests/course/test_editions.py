"""One source, several editions: in step, executed, without solutions for students, with metadata that nbgrader reads."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tinyunet.course import editions
from tinyunet.course.exercises.lesson_15 import why_not_here
from tinyunet.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
QUICK = "02_convolution"
"""The lesson that the quick tests run as a whole."""


def committed(lesson):
    """The notebook that lies beside the source."""
    path = editions.folder() / f"{lesson.name}.ipynb"
    assert path.exists(), f"{path.name} is missing: run tinyunet course build --lesson {lesson.number}"
    return json.loads(path.read_text(encoding="utf-8"))


def text(source):
    return "".join(source)


# Every lesson --------------------------------------------------------------------------------------------------------


def test_source_and_notebook_are_in_step(lesson):
    """The committed notebook has the cells of the source, and has been executed."""
    cells = committed(lesson)["cells"]
    wanted = [(c.cell_type, c.source, json.loads(json.dumps(c.metadata)), c.id) for c in lesson.source.cells]
    found = [(c["cell_type"], text(c["source"]), c["metadata"], c["id"]) for c in cells]
    assert found == wanted, f"run tinyunet course build --lesson {lesson.number}"
    counts = [c["execution_count"] for c in cells if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_the_notebook_is_small_and_right(lesson):
    """Under a megabyte; no cell failed or wrote to stderr, and every exercise was solved."""
    path = editions.folder() / f"{lesson.name}.ipynb"
    assert path.stat().st_size < 1e6
    outputs = [o for c in committed(lesson)["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    said = "".join(text(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs)
    for cell in lesson.source.cells:
        for name in re.findall(r'check\("([^"]+)"', cell.source):
            assert f"{name}: right!" in said


def test_every_picture_has_words(lesson):
    """A PNG carries its text alternative, and the next output shows it."""
    for cell in committed(lesson)["cells"]:
        outputs = cell.get("outputs", [])
        for picture, after in pairwise([*outputs, {}]):
            if "image/png" in picture.get("data", {}):
                words = picture["metadata"]["image/png"]["alt"]
                assert len(words) > 20
                assert text(after["data"]["text/plain"]) == words
                assert "<details>" in text(after["data"]["text/html"])
        assert not re.search(r"!\[\]|<img(?![^>]*alt=)", text(cell["source"])), "a picture in Markdown without words"


def test_links_inside_the_project_resolve(lesson):
    """Every relative link of a text leads to a file; notebooks are linked as .ipynb."""
    for cell in lesson.source.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", cell.source):
                if "://" not in target:
                    assert (editions.folder() / target).resolve().exists(), f"{lesson.name}: {target}"


def test_a_lesson_has_what_a_lesson_needs(lesson):
    """Title, goals, time, prerequisites that exist, 2 to 5 exercises, predictions, pitfalls, a summary, where to read on."""
    words = "\n".join(c.source for c in lesson.source.cells if c.cell_type == "markdown")
    kinds = [editions.kind(c) for c in lesson.source.cells]
    assert words.startswith(f"# {lesson.number} {lesson.title}")
    assert f"{lesson.minutes} minutes" in words
    assert len(lesson.goals) >= 2
    numbers = {path.name.partition("_")[0] for path in editions.sources()}
    assert all(number < lesson.number for number in lesson.prerequisites)
    assert set(lesson.prerequisites) <= numbers
    assert kinds.count("setup") == 1
    assert 2 <= len(set(re.findall(r'\bcheck\("([^"]+)"', "\n".join(c.source for c in lesson.source.cells)))) <= 5
    assert kinds.count("predict") >= 2
    assert kinds.count("pitfalls") >= 1
    assert "## Summary" in words
    assert "**In the code**" in words
    assert "**In the paper**" in words


def test_the_student_edition_has_no_solution(lesson):
    """No mark and no line of a solution is left; what stood around it is; names of cells are unique."""
    notebook = editions.student(lesson)
    given = "\n".join(c.source for c in notebook.cells)
    assert "SOLUTION" not in given
    for cell, mine in zip(lesson.source.cells, notebook.cells, strict=True):
        for match in editions._BLOCK.finditer(cell.source):
            for line in match["code"].splitlines():
                if len(line.strip()) > 12:
                    assert line not in mine.source
    ids = [c.metadata["nbgrader"]["grade_id"] for c in notebook.cells if "nbgrader" in c.metadata]
    assert len(ids) == len(set(ids)) >= 4
    for cell in notebook.cells:
        if editions.kind(cell) == "exercise":
            assert "your turn" in cell.source
            assert cell.metadata["nbgrader"]["solution"]


def run_student(lesson):
    """A student who only presses "run all", past every error."""
    done = editions.execute(editions.student(lesson), allow_errors=True)
    checks = 0
    for cell in done.cells:
        failed = [o for o in cell.get("outputs", []) if o.output_type == "error"]
        if editions.kind(cell) == "check":
            checks += 1
            assert [o.ename for o in failed] == ["NotYetError"], cell.source
            assert "your turn. Write" in failed[0].evalue
            assert not any("Traceback" in line for line in failed[0].traceback)
        else:
            assert not failed, f"{cell.source}\n{failed}"
    assert checks


def run_solution(lesson):
    """A notebook with all solutions: nothing fails, nothing warns."""
    if lesson.number == "15" and (why := why_not_here()):
        pytest.skip(why)
    done = editions.execute(strict(lesson.source))
    assert not [o for c in done.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]


def strict(notebook):
    """The notebook, with every warning an error."""
    import copy

    notebook = copy.deepcopy(notebook)
    first = next(c for c in notebook.cells if editions.kind(c) == "setup")
    first.source = 'import warnings\nwarnings.simplefilter("error")\n' + first.source
    return notebook


@pytest.mark.slow
def test_the_student_edition_fails_at_its_checks_and_nowhere_else(lesson):
    """Every check says whose turn it is; all other cells run."""
    run_student(lesson)


@pytest.mark.slow
def test_lesson_15_goes_on_where_no_kernel_can_run():
    """In a browser, say: it prints why, and every cell but the checks runs."""
    lesson = editions.lessons("15")[0]
    setup = next(c for c in lesson.source.cells if editions.kind(c) == "setup")
    setup.source = setup.source.replace("here = ", 'import sys\nsys.platform = "emscripten"\nhere = ')
    done = editions.execute(editions.student(lesson), allow_errors=True)
    failed = {editions.kind(c) for c in done.cells for o in c.get("outputs", []) if o.output_type == "error"}
    assert failed == {"check"}
    assert "the emulator needs Linux" in str(done.cells)
    assert "image/png" not in str(done.cells)


@pytest.mark.slow
def test_the_solution_edition_runs(lesson):
    """Without an error or a warning."""
    run_solution(lesson)


def test_one_lesson_runs_in_both_editions():
    """The quick form of the two tests above."""
    lesson = editions.lessons(QUICK[:2])[0]
    run_student(lesson)
    run_solution(lesson)


# The course as a whole -----------------------------------------------------------------------------------------------


def test_the_table_of_lessons_is_that_of_the_sources():
    """notebooks/README.md lists the lessons with their times and goals."""
    readme = (editions.folder() / "README.md").read_text(encoding="utf-8")
    begin, end = editions.TABLE
    table = readme.partition(begin)[2].partition(end)[0].strip()
    assert table == editions.overview(), "run tinyunet course build"


def test_links_of_the_readme_resolve():
    """Every relative link of the overview leads to a file."""
    readme = (editions.folder() / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", readme):
        assert "://" in target or (editions.folder() / target).exists(), target


# Reading and writing -------------------------------------------------------------------------------------------------

HEADER = """# ---
# jupyter:
#   tinyunet:
#     title: A
#     minutes: 5
#     prerequisites: []
#     goals:
#     - x
# ---

# %% tags=["setup"]
rng = begin("99")

"""
GOOD = '''# %% tags=["exercise"]
def f(x):
    """doc"""
    ### BEGIN SOLUTION: say "two"
    y = 2

    return y
    ### END SOLUTION

# %% tags=["check"]
check("99.f", f)

# %% tags=["predict"]
### BEGIN SOLUTION: how many
a = 1
b = (2, 3)
### END SOLUTION
'''


def write(tmp_path, body):
    """A source, read."""
    path = tmp_path / "99_test.py"
    path.write_text(HEADER + body, encoding="utf-8")
    return editions.read(path)


def test_solutions_become_tasks(tmp_path):
    """An exercise raises, a prediction is None, a seed is put in; the source stays as it is."""
    lesson = write(tmp_path, GOOD)
    before = [c.source for c in lesson.source.cells]
    given = [c.source for c in editions.student(lesson, 'A"da').cells]
    assert given[0] == 'rng = begin("99", "A\\"da")'
    assert given[1] == 'def f(x):\n    """doc"""\n    raise NotImplementedError("your turn: say \\"two\\"")'
    assert given[3] == "a = None  # your turn: how many\nb = None  # your turn: how many"
    assert [c.source for c in lesson.source.cells] == before


def test_cells_carry_what_nbgrader_needs(tmp_path):
    """The answer is a solution cell, its check a locked test with a point; ids do not depend on chance."""
    first, second = write(tmp_path, GOOD), write(tmp_path, GOOD)
    cells = first.source.cells
    assert cells[1].metadata["nbgrader"] == {"schema_version": 3, "grade_id": "cell-001-answer", "solution": True,
                                             "grade": False, "locked": False, "task": False}  # fmt: skip
    assert cells[2].metadata["nbgrader"] == {"schema_version": 3, "grade_id": "cell-002-check", "solution": False,
                                             "grade": True, "locked": True, "task": False, "points": 1}  # fmt: skip
    assert first.source == second.source


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (GOOD.replace("BEGIN SOLUTION: say", "BEGIN SOLUTION say"), "a solution stands between"),
        (GOOD.replace("### END SOLUTION\n\n# %% tags=[\"check\"]", "\n# %% tags=[\"check\"]"), "a solution stands between"),
        (GOOD.replace('["exercise"]', '["setup"]'), "solutions stand in cells tagged 'exercise' or 'predict'"),
        (GOOD.replace('["check"]', '["pitfalls"]'), "no cell tagged 'check' follows"),
        (GOOD.replace("def f(x):\n", "").replace("    ", ""), "a solution stands inside a function"),
    ],
    ids=["no task", "no end", "wrong tag", "no check", "outside a function"],
)
def test_a_source_that_breaks_the_rules_is_refused(tmp_path, body, says):
    """With the file, the cell, and the rule."""
    with pytest.raises(ConfigError) as error:
        write(tmp_path, body)
    assert says in str(error.value)
    assert str(error.value).startswith("99_test.py")


def test_a_header_without_goals_is_refused(tmp_path):
    """The missing keys are named."""
    path = tmp_path / "99_test.py"
    path.write_text("# ---\n# jupyter:\n#   tinyunet:\n#     title: A\n# ---\n\n# %%\n1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^99_test.py: its header lacks minutes, goals, prerequisites, under"):
        editions.read(path)


def test_the_header_is_read_as_yaml_reads_it(lesson):
    """Our reader of these few lines, and jupytext's of YAML, find the same."""
    said = editions._library("jupytext").read(editions.folder() / f"{lesson.name}.py").metadata["tinyunet"]
    assert {**said, "goals": tuple(said["goals"]), "prerequisites": tuple(said["prerequisites"])} == {
        key: getattr(lesson, key) for key in ("title", "minutes", "goals", "prerequisites")
    }


def test_a_cell_that_fails_is_named(tmp_path):
    """Building stops with the cell's error."""
    lesson = write(tmp_path, GOOD)
    with pytest.raises(editions.LessonError, match="name 'begin' is not defined"):
        editions.execute(lesson.source)


def test_outputs_do_not_depend_on_how_the_kernel_cuts_them():
    """Neighbouring pieces of one stream are one; another stream, or a picture, ends it."""
    nbformat = editions._library("nbformat")
    outputs = [nbformat.v4.new_output("stream", name=name, text=text)
               for name, text in (("stdout", "a\n"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d"))]  # fmt: skip
    words = nbformat.v4.new_output("display_data", {"text/plain": "words"})
    tidy = editions._tidied([*outputs, words, outputs[0].copy()])
    assert [output.get("text", "") for output in tidy] == ["a\nb", "c", "d", "", "a\n"]


def test_copies_leave_work_alone(tmp_path):
    """A notebook that is there stays; others are written; a lesson is found by its number."""
    mine = tmp_path / "02_convolution.ipynb"
    mine.write_text("mine", encoding="utf-8")
    assert list(editions.copy_to(tmp_path, "2")) == [(mine, False)]
    assert mine.read_text(encoding="utf-8") == "mine"
    mine.unlink()
    assert list(editions.copy_to(tmp_path, "02", seed="Ada")) == [(mine, True)]
    assert "your turn" in mine.read_text(encoding="utf-8")
    assert 'begin(\\"02\\", \\"Ada\\")' in mine.read_text(encoding="utf-8")
    mine.unlink()
    list(editions.copy_to(tmp_path, "02", solutions=True))
    assert "BEGIN SOLUTION" in mine.read_text(encoding="utf-8")


@pytest.mark.parametrize("solutions", [False, True])
@pytest.mark.parametrize("wanted", ["", "5"])
def test_every_link_of_a_copy_leads_somewhere(tmp_path, wanted, solutions):
    """Lessons that are there stay linked; others are named, and code is named by its path in the repository."""
    seen = []
    for path, _ in editions.copy_to(tmp_path, wanted, solutions=solutions):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(cell["source"]))
                seen += [target for target in targets if "://" not in target]
                code = re.findall(r"`((?:tinyunet|docs|benchmarks|kernels)/[\w./]+)`", text(cell["source"]))
                assert all((REPOSITORY / one).exists() for one in code), code
    assert all((tmp_path / target).exists() for target in seen), seen
    assert bool(seen) == (not wanted)
    five = text(json.loads((tmp_path / "05_max_pooling.ipynb").read_text(encoding="utf-8"))["cells"][-1]["source"])
    assert "**In the code**: `tinyunet/ops/pool.py`" in five


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[pool.py](../tinyunet/ops/pool.py)", "`tinyunet/ops/pool.py`"),
        ("[`pool.py`](../tinyunet/ops/pool.py#L3)", "`tinyunet/ops/pool.py`"),
        ("[The table](../docs/kill_matrix.md)", "The table (`docs/kill_matrix.md`)"),
        ("lesson [02](02_a.ipynb), [03](03_b.ipynb#x)", "lesson [02](02_a.ipynb), 03"),
        ("[a page](https://example.org/a.md)", "[a page](https://example.org/a.md)"),
        ("[above](#here)", "[above](#here)"),
    ],
)
def test_links_away_from_home(link, becomes):
    """To the web and to what is there they stay; to the code they become its path."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    home = new_notebook(cells=[new_markdown_cell(link), new_code_cell(f'"{link}"')])
    moved = editions.away_from_home(home, {"02_a.ipynb"})
    assert [c.source for c in moved.cells] == [becomes, f'"{link}"']
    assert home.cells[0].source == link


def test_an_extra_is_installed_from_where_tinyunet_is(tmp_path, monkeypatch):
    """By its name from an installed package; from the checkout, which has a pyproject.toml beside the package."""
    monkeypatch.setattr(editions, "__file__", str(tmp_path / "tinyunet" / "course" / "editions.py"))
    assert editions.how_to_install("course") == 'pip install "tinyunet[course]"'
    (tmp_path / "pyproject.toml").touch()
    assert editions.how_to_install("course") == 'pip install -e ".[course]"'


def test_an_unknown_lesson_or_language_is_refused():
    """With those that there are."""
    with pytest.raises(ConfigError, match=r"^course: there is no lesson '99'. There are: 0"):
        editions.lessons("99")
    with pytest.raises(ConfigError, match=r"^course: there is no 'xx' edition. There are: en"):
        editions.folder("xx")
