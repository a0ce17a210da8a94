"""What `tinyunet check --device` does: every CUDA kernel, on a GPU or in the emulator."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tinyunet.backend import choose
from tinyunet.catalogue.kernels import KernelDevice, KernelOutcome, check_kernel, kernel_names
from tinyunet.cli.terminal import Meter, out_console, say, table_of
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError


def check_kernels(device: str, only: Sequence[str], seed: int) -> None:
    """Check the kernels of the operations in `only`, or all, and print a table. Exit code 1 if one fails.

    Raises ConfigError for another device or an unknown operation, BackendError without a GPU, or without a C++ compiler.
    """
    if device not in ("cuda", "emulator"):
        raise ConfigError(f"check: --device {device} is neither cuda nor emulator. Leave it out for the CPU.")
    names = [(op, rung) for op, rung in kernel_names() if not only or op in only]
    if unknown := [name for name in only if name not in dict(kernel_names())]:
        known = ", ".join(dict(kernel_names()))
        raise ConfigError(f"check: there are no kernels of {unknown[0]!r}. With --device, --only takes: {known}.")
    where: KernelDevice = "cuda" if device == "cuda" else "emulator"
    if where == "cuda":
        say(f"device: {choose('cuda')[1]}")
    else:
        from tinyunet.cuda.emulator import find_compiler  # the emulator is for Linux alone

        say(f"device: emulator, compiled by {find_compiler().path}")
    done: list[KernelOutcome] = []
    with Meter("checking", "kernel") as meter:
        for op, rung in names:
            done.append(check_kernel(op, rung, where, seed))
            meter.show(len(done), len(names))
    table = table_of("operation", "rung", "", "error / bound", "bound", "launches watched", left=3)
    for o in done:
        table.add_row(o.op, o.rung, "" if o.ok else "FAILS", f"{o.error:.2f}", f"{o.bound:.0e}", str(o.launches or ""))
    out_console.print(table)
    for o in done:
        for problem in o.problems[:3]:
            say(f"{o.op} {o.rung}: {problem}")
    say(f"{sum(o.ok for o in done)} of {counted(len(done), 'kernel')} agree with float64 (seed {seed})")
    if not all(o.ok for o in done):
        raise typer.Exit(1)
