"""Writing files so that a reader sees the old content or the new, never half of one; and where our own files lie."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyunet.errors import ConfigError, DataError


def own_folder(name: str, file: str) -> Path:
    """A folder of the repository that is no Python: inside the installed package, or beside it in a checkout.

    file   lies in it, so that another folder of that name is not taken for it

    Raises ConfigError if it is in neither place.
    """
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if (folder / file).exists():
            return folder
    raise ConfigError(f"{name}: no folder with {file} in {package} or beside it. Install tinyunet again, from its wheel.")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write to the yielded path; when the block ends well, that file becomes `path` in one step.

    The temporary file lies in the same folder (a rename is atomic only within a file system), is flushed to disk before the
    rename, and is removed if anything goes wrong. Its name keeps the ending, from which some libraries choose a format.

    Raises DataError if the folder does not exist or cannot be written, and where something other than a file is there.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a rename would put a file in the place of a device
            raise DataError(f"{path}: cannot be written: it is a folder, a pipe or a device. Choose another name.")
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte, or what is no Unicode, in the name
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be written ({why}). Does the folder exist? May you write there?") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        temporary.chmod(0o600 | (0o066 & ~_umask()))  # mkstemp makes files private; a browser's umask would shut out us, too
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}). Is there space left?") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask; there is no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
