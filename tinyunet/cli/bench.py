"""`tinyunet bench`: where a training step's time goes, and the costs that implementations are picked by, measured here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyunet import ladder, parallel, planner, plot
from tinyunet.cli.app import app
from tinyunet.cli.options import given_options, of_network
from tinyunet.cli.shapes import TITLES
from tinyunet.cli.terminal import described, out_console, say, size_text, table_of
from tinyunet.config import RunConfig, put
from tinyunet.data.sample import counted
from tinyunet.errors import ConfigError
from tinyunet.profile import PARTS, Profile, step_profile

bench = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(bench, name="bench", epilog="Example: tinyunet bench step --base 16 --out bench.png")


@bench.callback()
def bench_() -> None:
    """Measure this machine: a training step taken apart, or the costs that implementations are picked by."""


@bench.command("step", epilog="Example: tinyunet bench step --base 16 --out bench.png")
def step_(
    size: Annotated[int, typer.Argument(help="side of the network's input in pixels", min=1)] = 572,
    preset: Annotated[str, typer.Option(help="which U-Net: paper, release or same_bn", metavar="NAME")] = "paper",
    channels: Annotated[int, typer.Option(help="of the image", min=1)] = 1,
    classes: Annotated[int, typer.Option(help="with background", min=1)] = 2,
    base: Annotated[int, typer.Option(help="channels of the first level")] = 16,
    depth: Annotated[int, typer.Option(help="number of poolings")] = 4,
    padding: Annotated[str | None, of_network("padding", "of the 3x3 convolutions", "valid|same", "the preset's")] = None,
    norm: Annotated[str | None, of_network("norm", "normalisation layers", "none|batch", "the preset's")] = None,
    batch: Annotated[int, typer.Option(help="tiles a step", min=1)] = 1,
    optimizer: Annotated[str, typer.Option(help="that updates the weights", metavar="sgd|adam")] = "sgd",
    repeats: Annotated[int, typer.Option(help="steps that are timed; the median is shown", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="draw it: .png, .svg or .pdf", show_default=False)] = None,
) -> None:
    """Where the time of a training step goes, by layer and by part, beside what the machine can do.

    Multiply-adds are those of the formula; Winograd does fewer, so its share of the BLAS peak may be above 100 %. Elementwise is
    all of the network that is no product: ReLU, norm, pooling, biases, joining and adding gradients.
    """
    tables = put({}, given_options({"preset": preset, "base": base, "depth": depth, "padding": padding, "norm": norm}))
    spec = RunConfig.from_tables(tables, "options").network.spec(channels, classes)
    if optimizer not in ("sgd", "adam"):
        raise ConfigError(f"bench: optimizer {optimizer!r} is neither 'sgd' nor 'adam'.")
    chosen: Literal["sgd", "adam"] = "adam" if optimizer == "adam" else "sgd"
    if out is not None:
        plot.check_kind(out)  # before minutes are spent
    profile = step_profile(spec, size, batch, repeats, chosen)
    say(f"{described(spec)}; {counted(batch, 'tile')} of {size_text((size, size))} px, {optimizer}, "
        f"{counted(profile.peak.threads, 'thread')}")  # fmt: skip
    say()
    _print_layers(profile)
    say()
    _print_parts(profile)
    say()
    say(f"BLAS peak        {profile.peak.flops / 1e9:,.0f} GFLOP/s, measured with matrix products in float32")
    say(f"copy bandwidth   {profile.peak.bandwidth / 1e9:,.1f} GB/s read and written, measured with large copies")
    off = profile.unaccounted
    say(
        f"step             {1000 * profile.plain_seconds:,.0f} ms without this clock (median of {repeats}); the parts add up to "
        f"{1 - off:.1%} of it, so that {abs(off):.1%} are {'not accounted for' if off > 0 else 'the clock, or other work'}"
    )
    if out is not None:
        plot.save(plot.step_profile(profile), out)
        say(f"drawn            {out}")


def _print_layers(profile: Profile) -> None:
    """A row a convolution with what follows it, in milliseconds."""
    columns = ("forward", "by input", "by weight", "elementwise")
    table = table_of("layer", *(f"{name}" for name in columns), "ms", "share", "GFLOP/s", "of peak")
    rows: dict[str, list[str]] = {}
    for name in profile.layers:
        if name not in PARTS:
            rows.setdefault(plot.row_of(name), []).append(name)
    for row, names in rows.items():
        entries = [entry for entry in profile.entries if entry.layer in names]
        by_part = {part: sum(1000 * e.seconds for e in entries if e.part == part) for part in columns}
        products = [entry for entry in entries if entry.macs]
        flops, seconds = 2 * sum(e.macs for e in products), sum(e.seconds for e in products)
        taken = sum(by_part.values())
        table.add_row(
            row,
            *(f"{ms:,.1f}" if ms else "" for ms in by_part.values()),
            f"{taken:,.1f}",
            f"{taken / 1000 / profile.seconds:.1%}",
            f"{flops / seconds / 1e9:,.0f}" if products else "",
            f"{flops / seconds / profile.peak.flops:.0%}" if products else "",
        )
    out_console.print(table)


def _print_parts(profile: Profile) -> None:
    """A row a part, with the measure that suits it: multiply-adds for products, bytes for the others."""
    table = table_of("part", "ms", "share", "G mult-adds", "GFLOP/s", "of BLAS peak", "GB moved", "GB/s", "of copying")
    for part in PARTS:
        total = profile.total(part)
        if not total.seconds:
            continue
        speed = f"{total.of_peak(profile.peak):.0%}"
        work = (f"{total.macs / 1e9:,.2f}", f"{2 * total.macs / total.seconds / 1e9:,.0f}", speed) if total.macs else ("", "", "")
        moved = not total.macs and total.bytes
        bytes_ = (f"{total.bytes / 1e9:,.2f}", f"{total.bytes / total.seconds / 1e9:,.1f}", speed) if moved else ("", "", "")
        share = f"{total.seconds / profile.seconds:.1%}"
        table.add_row(part, f"{1000 * total.seconds:,.1f}", share, *work, *bytes_)
    out_console.print(table)


@bench.command("fit", epilog="Example: tinyunet bench fit --repeats 5")
def fit_(
    repeats: Annotated[int, typer.Option(help="calls of everything that is timed; the fastest counts", min=1)] = 3,
) -> None:
    """Measure the implementations of the 3x3 convolution here, and pick by what was measured from now on.

    Takes one to three minutes; other programs disturb it.
    """
    path = ladder.costs_file()
    came_from = "those of the last fit" if ladder.costs_in_use() == path else "those that come with tinyunet"
    try:
        before = ladder.costs()
    except ConfigError:  # a damaged file is a reason to measure
        before, came_from = {}, "none that could be read"
    say(f"measuring {len(planner.SIZES)} convolutions on {counted(parallel.count(), 'thread')}")
    measured = planner.measure(repeats, note=say)
    costs = planner.fit_costs(measured)
    old, new = planner.assess(before, measured), planner.assess(costs, measured)
    planner.write_costs(costs)
    table = table_of("rung", "direction", "error before", "error now", "picks before", "picks now", left=2)
    for (name, direction), error in new.errors.items():
        was = old.errors[name, direction]
        table.add_row(
            name,
            TITLES[direction],
            "unknown" if math.isinf(was) else f"{was:.0%}",
            f"{error:.0%}",
            str(old.picks[name, direction]),
            str(new.picks[name, direction]),
        )
    say()
    out_console.print(table)
    say()
    say("error            median of |expected / measured - 1|")
    say(f"picks            of how many of the {len(planner.SIZES)} convolutions it is the one that is expected to be fastest")
    say(f"before           {came_from}" + (f"; their picks take {old.lost:.1%} longer than the fastest rungs" if before else ""))
    say(f"now              picks take {new.lost:.1%} longer than the fastest rungs")
    say(f"written          {path}; delete it to go back to the costs that come with tinyunet")
