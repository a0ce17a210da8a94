"""`tinyunet check --device`: every kernel against float64, in the emulator and, where there is one, on a GPU."""

import pytest
from typer.testing import CliRunner

from tinyunet.catalogue.kernels import check_kernel, kernel_names
from tinyunet.cli import app
from tinyunet.cuda import relu


@pytest.mark.parametrize("device", [
    pytest.param("emulator", marks=pytest.mark.slow),
    pytest.param("cuda", marks=pytest.mark.gpu),
])  # fmt: skip
@pytest.mark.parametrize(("op", "rung"), kernel_names())
def test_every_kernel_agrees_with_float64(op, rung, device, request):
    """Forward and every gradient, on odd sizes, one pixel and one channel; emulated, with no problem found in any launch."""
    request.getfixturevalue("compiler" if device == "emulator" else "real_cupy")
    outcome = check_kernel(op, rung, device, seed=3)
    assert outcome.ok, outcome
    assert device == "cuda" or outcome.launches


def test_the_kernels_of_cupy_are_checked_too(fake_cupy, compiler):
    """With device "cuda" arrays are CuPy's, and nothing is watched."""
    outcome = check_kernel("relu", "", "cuda")
    assert outcome.ok
    assert outcome.launches == 0
    assert fake_cupy.reports


def run(*args):
    """The command -> exit code and what it printed."""
    result = CliRunner().invoke(app, ["check", *args])
    return result.exit_code, result.stdout


def test_the_command_prints_a_table(compiler):
    """A line for every kernel, the compiler, and the sum."""
    code, text = run("--device", "emulator", "--only", "relu", "--seed", "1")
    assert code == 0
    assert f"device: emulator, compiled by {compiler.path}" in text
    assert "1 of 1 kernel agree with float64 (seed 1)" in text


def test_a_wrong_kernel_fails_the_check(compiler, monkeypatch):
    """A gradient that forgets the mask, and a launch that raises, are told, with exit code 1."""
    monkeypatch.setattr(relu, "backward", lambda dy, positive: dy)
    code, text = run("--device", "emulator", "--only", "relu")
    assert code == 1
    assert "FAILS" in text
    assert "0 of 1 kernel" in text

    def broken(dy, positive):
        raise ValueError("no such luck")

    monkeypatch.setattr(relu, "backward", broken)
    code, text = run("--device", "emulator", "--only", "relu")
    assert code == 1
    assert "relu : ValueError: no such luck" in text


@pytest.mark.parametrize(("args", "message"), [
    (("--device", "gpu"), "check: --device gpu is neither cuda nor emulator. Leave it out for the CPU."),
    (("--device", "emulator", "--only", "dropout"), "there are no kernels of 'dropout'. With --device, --only takes: conv3x3, "),
    (("--device", "emulator", "--list"), "--device checks tinyunet's own kernels. It goes with --only and --seed alone."),
])  # fmt: skip
def test_what_cannot_be_checked_is_refused(args, message):
    """Another device, an operation without kernels, options of the other check."""
    result = CliRunner().invoke(app, ["check", *args])
    assert message in str(result.exception)
