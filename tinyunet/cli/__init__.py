"""The command `tinyunet`: demo, train, predict, evaluate, shapes, check, bench, course. The only part that prints.

Exit codes: 0 done; 1 training went wrong (the loss is not finite), or a check failed; 2 a wrong option, configuration or image;
130 stopped with Ctrl-C. What tinyunet refuses on purpose is one line on stderr, everything else a traceback.

Every command does its work through functions that notebooks and scripts can call as well. What is here is asking and telling.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from rich.text import Text

from tinyunet.cli import bench, check, course, demo, evaluate, predict, shapes, train  # noqa: F401  each registers its command
from tinyunet.cli.app import app
from tinyunet.cli.terminal import StopError, err_console, stop
from tinyunet.errors import TinyUNetError, TrainingError


def _refuse(text: str, code: int = 2) -> NoReturn:
    """One red line, and the end. What a terminal cannot show of a file's name is shown as its bytes."""
    text = " ".join(text.splitlines()).encode("utf-8", "backslashreplace").decode()
    err_console.print(Text("error: " + text, style="red"), soft_wrap=True)
    sys.exit(code)


def main() -> None:
    """Run the command line; `pyproject.toml` and `python -m tinyunet` point here."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        app(prog_name="tinyunet")
    except TinyUNetError as error:
        _refuse(str(error), 1 if isinstance(error, TrainingError) else 2)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{os.fsdecode(error.filename)}: {error.strerror}. Check the name, and whether you may read and write there.")
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # of Path.resolve before Python 3.13
            raise
        _refuse(f"{error}. Choose another path.")
    except MemoryError as error:
        _refuse(f"there is not enough memory ({error}). Use a smaller network, tile or batch, or cut the images.")
    except StopError:
        err_console.print("stopped.")
        sys.exit(130)
