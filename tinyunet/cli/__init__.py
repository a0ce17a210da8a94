"""The command `tinyunet`: demo, train, predict, evaluate, shapes. The only part that prints.

Exit codes: 0 done; 1 training went wrong (the loss is not finite); 2 a wrong option, configuration or image; 130 stopped with
Ctrl-C. What tinyunet refuses on purpose is one line on stderr, everything else a traceback.

Every command does its work through functions that notebooks and scripts can call as well. What is here is asking and telling.
"""

from __future__ import annotations

import signal
import sys

from rich.text import Text

from tinyunet.cli import demo, evaluate, predict, shapes, train  # noqa: F401  each registers its command
from tinyunet.cli.app import app
from tinyunet.cli.terminal import StopError, err_console, signals
from tinyunet.errors import TinyUNetError, TrainingError


def main() -> None:
    """Run the command line; `pyproject.toml` and `python -m tinyunet` point here."""
    signal.signal(signal.SIGINT, signals)
    signal.signal(signal.SIGTERM, signals)
    try:
        app(prog_name="tinyunet")
    except TinyUNetError as error:
        err_console.print(Text("error: " + " ".join(str(error).splitlines()), style="red"), soft_wrap=True)
        sys.exit(1 if isinstance(error, TrainingError) else 2)
    except StopError:
        err_console.print("stopped.")
        sys.exit(130)
