"""What all commands share: help, exit codes, errors of one line, hostile paths and sizes."""

import re
import sys

import numpy as np
import pytest
from command import COMMANDS, TINY, one_line

import tinyunet as tu
from tinyunet import cli
from tinyunet.data.images import write_image
from tinyunet.errors import DataError

# ---- all commands ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_an_example(main, command):
    """--help of every command: what it does, every option documented, one example that starts with the command."""
    code, out, _ = main(*command.split(), "--help")
    assert code == 0
    assert f"Example: tinyunet {command} " in f"{one_line(out)} "


def test_every_option_is_documented():
    """No option and no argument goes without a word."""
    import typer

    def walk(group, before=""):  # a group's commands by their full names: "course start"
        for name, command in group.commands.items():
            yield from walk(command, f"{before}{name} ") if hasattr(command, "commands") else [(before + name, command)]

    commands = dict(walk(typer.main.get_command(cli.app)))
    assert set(commands) == set(COMMANDS)
    every = [(name, option) for name, command in commands.items() for option in command.params]
    assert len(every) > 60
    assert [f"{name} {option.name}" for name, option in every if not option.help] == []


def test_the_help_says_defaults_of_the_laptop_and_of_the_paper(main):
    """Where the default is not the paper's, both are said."""
    _, out, _ = main("train", "--help")
    assert "channels of the first level; the paper: 64 (default 16)" in one_line(out)
    assert "number of poolings; the paper: 4 (default 3)" in one_line(out)


def test_version_and_usage(main):
    """--version; an unknown command, option or number is Typer's usage error, code 2; nothing at all shows the help."""
    assert main("--version") == (0, f"tinyunet {tu.__version__}\n", "")
    for arguments in (["segment"], ["train", "--stepz", "3"], ["train", "x", "--steps", "three"], ["predict"]):
        code, _, err = main(*arguments)
        assert code == 2
        assert "Usage: tinyunet" in err
    code, out, err = main()
    assert "tinyunet demo --quick" in one_line(out + err)


def test_a_bug_shows_its_traceback(main, monkeypatch, tmp_path):
    """Only what is refused on purpose becomes one line; anything else is not hidden."""

    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.predict, "load_checkpoint", broken)
    write_image(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr(sys, "argv", ["tinyunet", "predict", "x", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_errors_stay_one_line_and_are_printed_as_they_are(main, monkeypatch):
    """A path with brackets is no colour, and a message of two lines becomes one."""

    def refuse(*args):
        raise DataError("no [bold]\nfile")

    monkeypatch.setattr(cli.predict, "_image_files", refuse)
    code, _, err = main("predict", "x", "y")
    assert (code, err) == (2, "error: no [bold] file\n")


# ---- hostile paths and sizes (found by tests/fuzz) ----


@pytest.mark.parametrize(("arguments", "says"), [
    (("predict", "a.safetensors", "x" * 300), "File name too long. Check the name, and whether you may read and write there."),
    (("evaluate", "x" * 300, "cells"), "File name too long. Check the name"),
    (("train", "cells", "--config", "/dev/zero"), "error: /dev/zero: no file. Give a TOML file"),
    (("train", "\udcff"), r"there is no file or folder \udcff"),
])  # fmt: skip
def test_names_that_the_system_refuses(main, monkeypatch, tmp_path, arguments, says):
    """Names that are too long, devices without end and names that are no Unicode: one line, exit code 2."""
    monkeypatch.chdir(tmp_path)
    code, _, err = main(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(("error", "says"), [
    (PermissionError(13, "Permission denied", "runs"),
        "error: runs: Permission denied. Check the name, and whether you may read"),
    (RuntimeError("Symlink loop from 'runs'"), "error: Symlink loop from 'runs'. Choose another path."),
    (MemoryError("Unable to allocate 9 TiB"),
        "error: there is not enough memory (Unable to allocate 9 TiB). Use a smaller network"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line(main, monkeypatch, error, says):
    """Permissions, loops of links and memory are no bugs of the program: no traceback."""
    def refuse(**_):
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    code, _, err = main()
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(says)


@pytest.mark.parametrize(("options", "says"), [
    (("--base", 10**6), "Use a smaller --base or --depth."),
    (("--batch", 10**9), "Use a smaller --tile, --batch, --base or --depth."),
    (("--tile", 10**7), "Use a smaller --tile, --batch, --base or --depth."),
])  # fmt: skip
def test_what_does_not_fit_in_memory_is_refused_at_once(work, main, monkeypatch, tmp_path, options, says):
    """A step that would take more than the machine has is refused before memory is taken, and before there is a folder."""
    monkeypatch.chdir(work)
    code, _, err = main("train", "cells", "--label-map", "0:0,255:1", *TINY, *options, "--out", tmp_path / "run")
    assert code == 2
    assert re.match(r"error: train: a step takes [\d,]+ MiB, and this machine has [\d,]+ MiB\. ", err)
    assert says in err
    assert not (tmp_path / "run").exists()
