"""`tinyunet shapes`: the sizes of a network as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tinyunet import ladder, parallel, planner, plot, shapes
from tinyunet.cli.app import app
from tinyunet.cli.options import given_options, of_network
from tinyunet.cli.terminal import out_console, say, size_text, table_of
from tinyunet.config import RunConfig, put
from tinyunet.data.sample import counted

TITLES = {"forward": "forward", "grad_x": "by input", "grad_w": "by weight"}
"""What the directions of a convolution are called: the map, and its gradients."""


@app.command("shapes", epilog="Example: tinyunet shapes 572 --figure unet.png")
def shapes_(
    height: Annotated[int, typer.Argument(help="of the image in pixels", min=1)] = 572,
    width: Annotated[int | None, typer.Argument(help="if it is not square", min=1, show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="which U-Net: paper, release or same_bn", metavar="NAME")] = "paper",
    channels: Annotated[int, typer.Option(help="of the image")] = 1,
    classes: Annotated[int, typer.Option(help="with background")] = 2,
    base: Annotated[int, typer.Option(help="channels of the first level")] = 64,
    depth: Annotated[int, typer.Option(help="number of poolings")] = 4,
    padding: Annotated[str | None, of_network("padding", "of the 3x3 convolutions", "valid|same", "the preset's")] = None,
    norm: Annotated[str | None, of_network("norm", "normalisation layers", "none|batch", "the preset's")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="which implementation runs every convolution, and why")] = False,
    figure: Annotated[Path | None, typer.Option(help="draw the network to scale: .png, .svg or .pdf", show_default=False)] = None,
) -> None:
    """What every layer makes of an image's size: figure 1 of the paper as a table.

    A row of a convolution includes what follows it: ReLU, batch norm, dropout. Remembered are the maps that training keeps for
    the backward pass.
    """
    tables = put({}, given_options({"preset": preset, "base": base, "depth": depth, "padding": padding, "norm": norm}))
    spec = RunConfig.from_tables(tables, "options").network.spec(channels, classes)
    steps = shapes.trace(spec, height, width)
    (h, w), (p, q) = steps[0].in_size, steps[-1].out_size
    table = table_of("layer", "size", "channels", "crop", "parameters", "G mult-adds", "MiB remembered")
    for rows in _grouped(steps):
        s = rows[0]
        joined = s.layer.kind == "concat"
        before = f"{s.layer.c_in} + {s.layer.c_out - s.layer.c_in}" if joined else f"{s.layer.c_in}"
        params, macs = sum(r.layer.params for r in rows), sum(r.macs for r in rows)
        table.add_row(
            s.layer.name,
            size_text(s.out_size) if s.in_size == s.out_size else f"{size_text(s.in_size)} -> {size_text(s.out_size)}",
            before if before == str(s.layer.c_out) else f"{before} -> {s.layer.c_out}",
            (
                ""
                if s.crop is None or not any(s.crop)
                else str(s.crop.top)
                if s.crop.top == s.crop.left
                else f"{s.crop.top}, {s.crop.left}"
            ),
            f"{params:,}" if params else "",
            f"{macs / 1e9:.3f}" if macs else "",
            f"{sum(r.remembered() for r in rows) / shapes.MIB:.1f}" if any(r.remembered() for r in rows) else "",
        )
    params, macs = shapes.count_params(spec), sum(s.macs for s in steps)
    kept = sum(s.remembered() for s in steps) / shapes.MIB
    table.add_section()
    sizes = f"{size_text((h, w))} -> {size_text((p, q))}"
    table.add_row("total", sizes, "", "", f"{params:,}", f"{macs / 1e9:.2f}", f"{kept:,.1f}")
    out_console.print(table)
    say()
    threads = parallel.count()
    training = [planner.training_bytes(spec, h, w, moments=moments, threads=threads) / shapes.MIB for moments in (1, 2)]
    prediction = planner.forward_bytes(spec, h, w, threads) / shapes.MIB
    reach = sorted({r.size for r in shapes.receptive_field(spec)})
    say(f"margin           {shapes.margin(spec)} px on each side that the output does not have")
    seen = " to ".join(map(str, dict.fromkeys((reach[0], reach[-1]))))
    say(f"receptive field  {seen} px, by the pixel's place among the poolings")
    say(
        f"memory           {training[0]:,.0f} MiB for a training step with SGD, {training[1]:,.0f} MiB with Adam; "
        f"{prediction:,.0f} MiB for a prediction ({counted(threads, 'thread')})"
    )
    say("                 That is the peak of all arrays. Python and its libraries take about 40 MiB beside it,")
    say("                 and memory that was freed but not given back 10 to 90 MiB.")
    smallest, step = shapes.smallest_size(spec), shapes.size_step(spec)
    say(
        f"sizes that fit   {smallest} + {step} k; nearest to {size_text((h, w))}: "
        + ("; ".join(_neighbours(n, smallest, step) for n in dict.fromkeys((h, w))))
    )
    if plan:
        say()
        _print_plan(planner.plan(spec, h, w))
    if figure is not None:
        plot.save(plot.draw_unet(spec, h, w), figure)
        say(f"drawn            {figure}")


def _print_plan(rows: Sequence[planner.Choice]) -> None:
    """What `--plan` shows: expected times of all rungs with known costs; the fastest runs, unless one was picked by hand."""
    only = sorted({row.rung for row in rows if not _costs_known(row)})
    rows = [row for row in rows if _costs_known(row)]
    names = list(dict.fromkeys(name for row in rows for name, ms in row.able.items() if ms < math.inf))
    table = table_of("layer", "direction", "runs", *names, "why", left=3)
    for row in rows:
        expected = (f"{row.able[name]:,.1f} ms" if row.able.get(name, math.inf) < math.inf else "" for name in names)
        new = row.direction == planner.DIRECTIONS[0]
        table.add_row(row.layer if new else "", TITLES[row.direction], row.rung, *expected, _short_reason(row))
    out_console.print(table)
    say()
    by_hand = ladder.by_hand("conv3x3") is not None
    if rows and not by_hand:
        say(f"expected         {sum(row.milliseconds for row in rows):,.0f} ms for these, in a training step of one image")
    if only:
        say(f"not shown        up-convolutions: {', '.join(only)}, for which no other is fast")
    path = ladder.costs_in_use()
    say(
        f"costs            measured on this machine: {path}; delete the file to go back to those of tinyunet"
        if path == ladder.costs_file()
        else "costs            those that come with tinyunet; `tinyunet bench fit` measures this machine's"
    )
    say("                 ms = a + b bytes of the maps + c bytes of the kernel + d multiply-adds, for every rung and direction")


def _costs_known(row: planner.Choice) -> bool:
    return any(ms < math.inf for ms in row.able.values())


def _short_reason(row: planner.Choice) -> str:
    """`why` in the space that a table has."""
    if "times as long" not in row.why:
        return {"picked by hand": "by hand"}.get(row.why, "only one known")
    ratio, name = min((ms / row.milliseconds, name) for name, ms in row.able.items() if name != row.rung)
    return f"{name} {ratio:.2f}x"


def _grouped(steps: Sequence[shapes.Step]) -> list[list[shapes.Step]]:
    """A convolution together with the norm, ReLU and dropout behind it, everything else by itself."""
    groups: list[list[shapes.Step]] = []
    for step in steps:
        if step.layer.kind in ("norm", "relu", "dropout"):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _neighbours(n: int, smallest: int, step: int) -> str:
    return ", ".join(str(m) for m in (n - step, n, n + step) if m >= smallest)
