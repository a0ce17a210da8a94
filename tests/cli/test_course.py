"""`tinyunet course`: notebooks for students, a release for teachers, a list, and refusals."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinyunet.cli import course
from tinyunet.cli.app import app
from tinyunet.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run():
    """run("start", ...) -> what it prints; errors come through."""

    def invoke(*words):
        done = CliRunner().invoke(app, ["course", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return invoke


def test_the_list_has_every_lesson(run):
    """Number, title, minutes."""
    text = run("list")
    assert "Images, masks and a first segmentation" in text
    assert "02" in text


def test_the_list_needs_no_library_of_the_course():
    """A plain installation has neither jupytext nor nbformat: a fresh Python that refuses them lists all the same."""
    code = "import sys; sys.modules.update(jupytext=None, nbformat=None, nbclient=None); from tinyunet.cli import main; main()"
    command = [sys.executable, "-c", code, "course", "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert "Your own images, start to finish" in done.stdout


def test_start_copies_and_keeps_work(run, tmp_path):
    """Twice: written, then kept."""
    out = tmp_path / "mine"
    assert run("start", out, "--lesson", "2", "--seed", "Ada", "--no-open").split()[0] == "written"
    notebook = json.loads((out / "02_convolution.ipynb").read_text(encoding="utf-8"))
    assert 'begin("02", "Ada")' in "".join(c for cell in notebook["cells"] for c in cell["source"])
    again = run("start", out, "--lesson", "02", "--seed", "Ada", "--no-open")
    assert again.split()[0] == "kept"
    assert "not applied" not in again  # it has that seed
    assert "rename its file and run this again" in " ".join(again.split())


def test_start_says_which_options_kept_notebooks_lack(run, tmp_path):
    """Solutions and another name do not reach what is there already; Python's own quotes do not matter."""
    run("start", tmp_path, "--lesson", "2", "--seed", 'A"da', "--no-open")
    def says(*words):
        return " ".join(run("start", tmp_path, "--lesson", "2", *words, "--no-open").split())

    assert "not applied" not in says("--seed", 'A"da')
    assert "(your work; --solutions not applied: choose another folder)" in says("--solutions")
    assert "(your work; --solutions and --seed not applied:" in says("--solutions", "--seed", "Bob")


def test_start_with_solutions_copies_the_executed_notebook(run, tmp_path):
    """With its outputs."""
    run("start", tmp_path, "--lesson", "02", "--solutions", "--no-open")
    notebook = json.loads((tmp_path / "02_convolution.ipynb").read_text(encoding="utf-8"))
    assert any(cell.get("outputs") for cell in notebook["cells"])


def test_start_opens_jupyterlab_or_says_how(run, tmp_path, monkeypatch):
    """In the folder, with this Python; without JupyterLab the notebooks are written and the error says what to install."""
    started = []

    class Done:
        """A process that ended well."""

        returncode = 0

    monkeypatch.setattr(course, "find_spec", lambda name: True)
    monkeypatch.setattr(course.subprocess, "run", lambda command, check: started.append(command) or Done())
    run("start", tmp_path, "--lesson", "02")
    assert started[0][1:] == ["-m", "jupyterlab", str(tmp_path / "02_convolution.ipynb")]
    assert "Begin with 00_images_and_masks.ipynb" in run("start", tmp_path)
    assert started[1][-1] == str(tmp_path / "00_images_and_masks.ipynb")
    monkeypatch.setattr(course, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'^course: JupyterLab is not installed\. .* pip install -e "\.\[course\]", or'):
        run("start", tmp_path, "--lesson", "00")
    assert (tmp_path / "00_images_and_masks.ipynb").exists()


@pytest.mark.parametrize("user", [0, 1000])
def test_start_as_root_says_what_jupyter_wants(tmp_path, monkeypatch, user):
    """JupyterLab refuses root, with its own advice for its own command; for others its exit code is ours."""
    class Failed:
        """A process that did not start."""

        returncode = 1

    monkeypatch.setattr(course, "find_spec", lambda name: True)
    monkeypatch.setattr(course.subprocess, "run", lambda command, check: Failed())
    monkeypatch.setattr(course.os, "geteuid", lambda: user, raising=False)
    done = CliRunner().invoke(app, ["course", "start", str(tmp_path), "--lesson", "2"])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit if user else ConfigError)
    assert user or f"jupyter lab {tmp_path / '02_convolution.ipynb'} --allow-root" in str(done.exception)


def test_a_release_has_no_answer(run, tmp_path):
    """As a folder and as a zip; an existing one is not touched."""
    run("release", tmp_path / "handout")
    run("release", tmp_path / "handout.zip")
    with zipfile.ZipFile(tmp_path / "handout.zip") as archive:
        texts = [archive.read(name).decode() for name in archive.namelist()]
    texts += [path.read_text(encoding="utf-8") for path in (tmp_path / "handout").iterdir()]
    assert len(texts) >= 4
    assert not any("SOLUTION" in text for text in texts)
    with pytest.raises(ConfigError, match=r"handout.zip exists\. Choose another name"):
        run("release", tmp_path / "handout.zip")
