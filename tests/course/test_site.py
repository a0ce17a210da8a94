"""The course in a browser: a wheel that the browser's Python can install, and a site with the student edition."""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from tinyunet.course import site
from tinyunet.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
BROWSER = json.loads((Path(__file__).parent / "browser.json").read_text(encoding="utf-8"))
"""From the lock file of the Pyodide that JupyterLite's kernel runs (npm: pyodide, pyodide-lock.json): version and packages."""

ABOUT = "Metadata-Version: 2.4\nName: tinyunet\nVersion: 9.9\nRequires-Dist: numpy\n\n# A readme\n"


def requirements():
    """What tinyunet asks for in a browser."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    return [r for r in found if r.marker is None or r.marker.evaluate({"sys_platform": "emscripten"})]


def test_the_browser_has_what_tinyunet_needs():
    """Every requirement that counts there is in the browser kernel's lock file, in a version that will do."""
    asked = requirements()
    assert {r.name for r in asked} >= {"numpy", "scipy", "matplotlib", "pillow"}
    for requirement in asked:
        assert requirement.name in BROWSER["packages"], f"{requirement.name} is not in Pyodide"
        assert requirement.specifier.contains(BROWSER["packages"][requirement.name]), str(requirement)


def test_the_lock_file_is_that_of_the_kernel():
    """browser.json was taken from the Pyodide that the installed kernel runs."""
    why = "jupyterlite-pyodide-kernel, of the extra `site`, is not installed"
    constants = pytest.importorskip("jupyterlite_pyodide_kernel.constants", reason=why)
    assert BROWSER["pyodide"] == constants.PYODIDE_VERSION


def test_a_wheel_is_packed_as_pip_reads_it(tmp_path):
    """Name, tags, a record with true hashes, metadata as given; the same files give the same bytes."""
    files = {"tinyunet/__init__.py": b"x = 1\n"}
    path = site.pack(tmp_path, ABOUT, files)
    assert path.name == "tinyunet-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("tinyunet-9.9.dist-info/METADATA").decode() == ABOUT
        assert b"Root-Is-Purelib: true\nTag: py3-none-any" in archive.read("tinyunet-9.9.dist-info/WHEEL")
        record = archive.read("tinyunet-9.9.dist-info/RECORD").decode().splitlines()
        assert len(record) == len(archive.namelist()) == 4
        for line in record[:-1]:
            name, digest, size = line.rsplit(",", 2)
            data = archive.read(name)
            assert len(data) == int(size)
            assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    before = path.read_bytes()
    assert site.pack(tmp_path, ABOUT, files).read_bytes() == before
    assert list(files) == ["tinyunet/__init__.py"]


class Installed:
    """What pip knows."""

    def read_text(self, name):
        return ABOUT


def test_the_wheel_holds_the_package(tmp_path, monkeypatch):
    """Modules and kernels; and a fresh Python imports it from the wheel."""
    monkeypatch.setattr(site, "distribution", lambda name: Installed())
    path = site.wheel(tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert {"tinyunet/unet.py", "tinyunet/course/exercises/lesson_02.py", "tinyunet/kernels/conv3x3/01_naive.cu"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    code = f"import sys; sys.path.insert(0, {str(path)!r}); import tinyunet; print(tinyunet.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert path.name in done.stdout


def test_notebooks_of_an_installed_package_are_left_out(tmp_path, monkeypatch):
    """In a wheel they lie inside the package, with their solutions."""
    package = tmp_path / "tinyunet"
    for name in ("course/site.py", "notebooks/00_a.py", "kernels/a.cu"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("1", encoding="utf-8")
    monkeypatch.setattr(site, "__file__", str(package / "course" / "site.py"))
    monkeypatch.setattr(site, "distribution", lambda name: Installed())
    with zipfile.ZipFile(site.wheel(tmp_path)) as archive:
        names = archive.namelist()
    assert "tinyunet/course/site.py" in names
    assert not [name for name in names if "notebooks" in name]


def test_without_an_installation_the_wheel_is_refused(tmp_path, monkeypatch):
    """Its requirements are unknown then."""

    def nowhere(name):
        raise PackageNotFoundError

    monkeypatch.setattr(site, "distribution", nowhere)
    with pytest.raises(ConfigError, match=r"^course: tinyunet is not installed.*pip install -e"):
        site.wheel(tmp_path)


def test_a_site_needs_jupyterlite_and_an_empty_folder(tmp_path, monkeypatch):
    """Both refusals say what to do."""
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^course: jupyterlite_core, .* is not installed.*pip install .*\[site\]"):
        site.build(tmp_path)
    monkeypatch.setattr(site, "find_spec", lambda name: True)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        site.build(tmp_path)


@pytest.mark.parametrize(
    ("stdout", "stderr", "says"),
    [("", "a\nno space\n", "no space"), ("no port", " ", "no port"), ("", "", "it does not say why")],
)
def test_what_jupyterlite_says_last_is_told(tmp_path, monkeypatch, stdout, stderr, says):
    """Also where it fails without a word."""
    failed = SimpleNamespace(returncode=1, stdout=stdout, stderr=stderr)
    monkeypatch.setattr(site, "find_spec", lambda name: True)
    monkeypatch.setattr(site, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    monkeypatch.setattr(site, "wheel", lambda folder: folder / "a.whl")
    monkeypatch.setattr(site, "wheel_of", lambda name, folder: folder / "b.whl")
    monkeypatch.setattr(site.editions, "copy_to", lambda *_, **__: [])
    with pytest.raises(ConfigError, match=f"^course: jupyter lite build fails: {says}$"):
        site.build(tmp_path / "site")


def is_installed():
    """Whether tinyunet and JupyterLite are both here."""
    try:
        distribution("tinyunet")
    except PackageNotFoundError:
        return False
    return all(map(find_spec, site.NEEDS))


def test_the_first_cell_is_one_that_the_browser_understands(tmp_path):
    """The magic stands alone on its line: the browser's %pip takes every word after it, a comment's too, for a package."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat, of the extra `course`, is not installed")
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), path)
    site._for_browser(path)
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.splitlines()[-1] == "%pip install -q tinyunet"
    assert notebook.metadata.kernelspec.name == "python"  # the browser's only kernel: with another name it asks which to take


def test_an_installed_package_is_packed(tmp_path):
    """The kernel's `comm`, which Pyodide has not: its modules, its metadata, nothing compiled."""
    pytest.importorskip("comm", reason="comm, which ipykernel of the extra `course` brings, is not installed")
    path = site.wheel_of("comm", tmp_path)
    assert path.name == f"comm-{distribution('comm').version}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        assert {"comm/__init__.py", "comm/base_comm.py"} <= set(archive.namelist())
        assert not [name for name in archive.namelist() if name.endswith(".pyc") or name.startswith("..")]


def make_release(folder):
    """A folder like Pyodide's release."""
    folder.mkdir()
    for name in ("pyodide.mjs", "numpy-2.0-cp314-cp314-pyemscripten_2026_0_wasm32.whl"):
        (folder / name).touch()
    return folder


def test_a_release_of_pyodide_is_put_on_the_site(tmp_path):
    """From its folder, and from its archive."""
    release = make_release(tmp_path / "pyodide")
    with tarfile.open(tmp_path / "release.tar.bz2", "w:bz2") as archive:
        archive.add(release, "pyodide")
    for i, given in enumerate((release, tmp_path / "release.tar.bz2")):
        put = tmp_path / str(i) / "static" / "pyodide"
        site._add_pyodide(given, put)
        assert {path.name for path in put.iterdir()} == {path.name for path in release.iterdir()}


def test_the_core_of_pyodide_alone_is_refused(tmp_path, monkeypatch):
    """npm's package lacks NumPy; and a file that is no archive has nothing. The error names the file that is wanted."""
    constants = SimpleNamespace(PYODIDE_VERSION="9.9.9")
    monkeypatch.setitem(sys.modules, "jupyterlite_pyodide_kernel", SimpleNamespace(constants=constants))
    monkeypatch.setitem(sys.modules, "jupyterlite_pyodide_kernel.constants", constants)
    core, text = make_release(tmp_path / "core"), tmp_path / "a.txt"
    next(core.glob("numpy-*")).unlink()
    text.write_text("no archive", encoding="utf-8")
    for i, given in enumerate((core, text, tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match=r"is no full release of Pyodide.*Give pyodide-9\.9\.9\.tar\.bz2"):
            site._add_pyodide(given, tmp_path / f"site{i}")


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="tinyunet, or JupyterLite of the extra `site`, is not installed")
def test_a_site_is_built(tmp_path):
    """It has the notebooks without solutions, each beginning with the installation, and the wheel."""
    out = site.build(tmp_path / "site")
    notebook = json.loads((out / "files" / "02_convolution.ipynb").read_text(encoding="utf-8"))
    text = json.dumps(notebook)
    assert "SOLUTION" not in text
    assert "%pip install -q tinyunet" in "".join(notebook["cells"][0]["source"])
    assert json.loads((out / "pypi" / "all.json").read_text(encoding="utf-8")).keys() >= {"tinyunet", "comm"}
