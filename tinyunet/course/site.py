"""The course in a browser: a JupyterLite site with the student edition and tinyunet itself.

JupyterLite runs Python in the browser (Pyodide). What tinyunet needs there is part of Pyodide; tinyunet's own wheel lies on the
site. A wheel is a zip file of the package and its metadata, so it is packed here from the package that runs: no build tool, no
network, and without the notebooks that hold the solutions. The kernel itself asks for `comm`, which is not part of Pyodide: that
is packed in the same way, so that a site with a Pyodide of its own asks no other server.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from tinyunet.course import editions
from tinyunet.errors import ConfigError
from tinyunet.files import own_folder

NEEDS = ("jupyterlite_core", "jupyterlite_pyodide_kernel", "jupyter_server", "comm")


def build(out: Path, language: str = "en", pyodide: Path | None = None) -> Path:
    """Build the site in a folder: -> the folder.

    pyodide: a full release of Pyodide, its archive or the unpacked folder. It is put on the site, which then needs no other
    server; otherwise the browser loads it from the internet.
    Raises ConfigError where JupyterLite is not installed or fails, if the folder holds something already, and for what is no
    full release of Pyodide.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise ConfigError(f"course: {', '.join(missing)} is not installed. Install it: {editions.how_to_install('site')}.")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"course: {out} is not empty. Give another folder: a site should hold nothing else.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if pyodide is not None:
            _add_pyodide(pyodide, work / "static" / "pyodide")  # JupyterLite looks there
        wheels = [argument for path in (wheel(work), wheel_of("comm", work)) for argument in ("--piplite-wheels", str(path))]
        contents = work / "contents"
        for path, _ in editions.copy_to(contents, language=language):
            _for_browser(path)
        command = [sys.executable, "-m", "jupyter", "lite", "build", "--contents", str(contents), *wheels,
                   "--output-dir", str(work / "site")]  # fmt: skip
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"course: jupyter lite build fails: {_last_line(done.stdout + done.stderr)}")
        shutil.copytree(work / "site", out, dirs_exist_ok=True)
    return out


def _last_line(text: str) -> str:
    """Where a program says what is wrong, if it says anything."""
    return next(reversed(text.strip().splitlines()), "it does not say why")


def _add_pyodide(given: Path, to: Path) -> None:
    """Copy or unpack a release of Pyodide. Its core alone (npm's package) will not do: NumPy's wheel must be there."""
    if given.is_dir():
        shutil.copytree(given, to)
    elif given.is_file() and tarfile.is_tarfile(given):
        with tarfile.open(given) as archive:  # it holds one folder, pyodide/
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
            archive.extractall(to.parent)
    if not (to / "pyodide.mjs").is_file() or not any(to.glob("numpy-*.whl")):
        wanted = editions._library("jupyterlite_pyodide_kernel.constants").PYODIDE_VERSION  # what the kernel was made for
        raise ConfigError(
            f"course: {given} is no full release of Pyodide, with pyodide.mjs and numpy-*.whl. Give pyodide-{wanted}.tar.bz2 "
            "from Pyodide's releases, or the folder that it unpacks to."
        )


def _for_browser(path: Path) -> None:
    """Make a notebook open with the browser's kernel, and begin with a cell that installs tinyunet from the site."""
    nbformat = editions._library("nbformat")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
    # The comment has a line of its own: the browser's %pip takes every word after it for a package.
    cell = nbformat.v4.new_code_cell("# From this site; it takes half a minute.\n%pip install -q tinyunet", id="install")
    notebook.cells.insert(0, cell)
    editions.write(notebook, path)


def wheel(folder: Path) -> Path:
    """Pack the package that runs as a wheel, without solutions: -> tinyunet-VERSION-py3-none-any.whl in the folder.

    Raises ConfigError where tinyunet is not installed: its requirements are then unknown.
    """
    try:
        about = distribution("tinyunet").read_text("METADATA") or ""
    except PackageNotFoundError as error:
        raise ConfigError(
            "course: tinyunet is not installed, so that its requirements are unknown. Run pip install -e . first."
        ) from error
    package = Path(__file__).parents[1]
    files = {f"tinyunet/{path.relative_to(package).as_posix()}": path.read_bytes() for path in sorted(package.rglob("*"))
             if path.is_file() and "__pycache__" not in path.parts and "notebooks" not in path.parts}  # fmt: skip
    kernels = own_folder("kernels", "include")
    files |= {f"tinyunet/kernels/{path.relative_to(kernels).as_posix()}": path.read_bytes()
              for path in sorted(kernels.rglob("*")) if path.is_file()}  # fmt: skip
    return pack(folder, about, files)


def wheel_of(name: str, folder: Path) -> Path:
    """Pack an installed package of pure Python as a wheel: -> its path."""
    installed = distribution(name)
    files = {path.as_posix(): path.read_binary() for path in installed.files or ()
             if path.parts[0] == name and path.suffix != ".pyc"}  # fmt: skip
    return pack(folder, installed.read_text("METADATA") or "", files)


def pack(folder: Path, about: str, files: dict[str, bytes]) -> Path:
    """A wheel as PEP 427 has it: metadata, the files, and the list of them with their hashes."""
    name, version = (next(line.removeprefix(field) for line in about.splitlines() if line.startswith(field))
                     for field in ("Name: ", "Version: "))  # fmt: skip
    stem = f"{name}-{version}"
    info = f"{stem}.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: tinyunet course\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**files, f"{info}/METADATA": about.encode(), f"{info}/WHEEL": tags.encode()}
    lines = [f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
             for name, data in files.items()]  # fmt: skip
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode() + b"\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2015, 5, 18, 0, 0, 0)), data)  # no date of its own: same files, same bytes
    return path
