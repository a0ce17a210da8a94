"""The application that the commands register with."""

from __future__ import annotations

from typing import Annotated

import typer

import tinyunet
from tinyunet.cli.terminal import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"tinyunet {tinyunet.__version__}")
        raise typer.Exit


@app.callback(epilog="Start here: tinyunet demo --quick")
def tinyunet_(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """U-Net from scratch: train on your own microscope images, segment them, measure the result."""
