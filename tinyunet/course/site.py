"""The course in a browser: a JupyterLite site with the student edition and tinyunet itself.

JupyterLite runs Python in the browser (Pyodide). What tinyunet needs there is part of Pyodide; tinyunet's own wheel lies on the
site. A wheel is a zip file of the package and its metadata, so it is packed here from the package that runs: no build tool, no
network, and without the notebooks that hold the solutions.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from tinyunet.course import editions
from tinyunet.errors import ConfigError
from tinyunet.files import own_folder

NEEDS = ("jupyterlite_core", "jupyterlite_pyodide_kernel", "jupyter_server")


def build(out: Path, language: str = "en") -> Path:
    """Build the site in a folder: -> the folder.

    Raises ConfigError where JupyterLite is not installed or fails, and if the folder holds something already.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise ConfigError(f"course: {', '.join(missing)} is not installed. Install it: pip install 'tinyunet[site]'.")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"course: {out} is not empty. Give another folder: a site should hold nothing else.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        own = wheel(work)
        contents = work / "contents"
        for path, _ in editions.copy_to(contents, language=language):
            _install_first(path)
        command = [sys.executable, "-m", "jupyter", "lite", "build", "--contents", str(contents), "--piplite-wheels", str(own),
                   "--output-dir", str(out.resolve())]  # fmt: skip
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"course: jupyter lite build fails: {done.stderr.strip().splitlines()[-1]}")
    return out


def _install_first(path: Path) -> None:
    """Begin a notebook with a cell that installs tinyunet from the site."""
    nbformat = editions._library("nbformat")
    notebook = nbformat.read(path, as_version=4)
    cell = nbformat.v4.new_code_cell("%pip install -q tinyunet  # from this site; it takes half a minute", id="install")
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


def pack(folder: Path, about: str, files: dict[str, bytes]) -> Path:
    """A wheel as PEP 427 has it: metadata, the files, and the list of them with their hashes."""
    version = next(line.partition(": ")[2] for line in about.splitlines() if line.startswith("Version: "))
    stem = f"tinyunet-{version}"
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
