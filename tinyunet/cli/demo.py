"""`tinyunet demo`: from nothing to a segmentation in two minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tinyunet import shapes
from tinyunet.cli.app import app
from tinyunet.cli.terminal import Meter, described, follow, number_text, out_console, say, table_of
from tinyunet.demo import FULL, QUICK, Demo, Outcome, Plan


@app.command("demo", epilog="Example: tinyunet demo --quick --out tinyunet-demo")
def demo_(
    quick: Annotated[bool, typer.Option("--quick", help="fewer and smaller steps: less than 40 seconds")] = False,
    out: Annotated[Path, typer.Option(help="folder for everything; that of an earlier demo is replaced")] = Path("tinyunet-demo"),
    kind: Annotated[
        str, typer.Option(help="which cells; dic are crowded, and two minutes are short for them", metavar="phase|dic|em")
    ] = "phase",
    seed: Annotated[int, typer.Option(help="other cells, other first weights", min=0)] = 0,
) -> None:
    """Draw cells, train on them for about two minutes, segment images that the network has not seen.

    Needs no images and no network connection.
    """
    demonstration = Demo(out, kind, seed, QUICK if quick else FULL)
    plan = demonstration.plan
    n_train, n_val, n_test = demonstration.draw()
    spec = demonstration.spec
    say(f"data     {n_train} drawn images ({kind}) of {plan.size} px to train on, {n_val} to validate, {n_test} to test")
    say(f"network  {described(spec)}: {shapes.count_params(spec):,} parameters; the paper's has 31,030,658")
    last = follow(demonstration.train(), "training", plan.train.steps, out / "run" / "log.csv")
    if last is None or last.step < plan.train.steps:
        say(f"Interrupted. Go on with: {shlex.join(['tinyunet', 'train', '--resume', '--out', str(out / 'run')])}")
        raise typer.Exit(130)
    with Meter("testing ", "image") as meter:
        outcome = demonstration.finish(meter.show)
    _print_outcome(outcome, plan.test)
    say()
    say(f"Look at  {outcome.pictures[0]}  (image, truth, loss weight, probability, prediction, errors)")
    say(f"         {outcome.pictures[1]}  (loss, learning rate, scores)")
    say()
    say(f"Your own images, laid out as in {out / 'data'} (masks that number their objects):")
    own = ["tinyunet", "train", "MY_FOLDER", "--kind", "instances", *_options(plan), "--out", "runs/first"]
    say(f"    {shlex.join(own)}")
    say("Segment images with the network just trained:")
    command = [
        "tinyunet",
        "predict",
        str(demonstration.best),
        str(out / "test" / "images"),
        "--overlay",
        "--out",
        str(out / "predictions"),
    ]
    say(f"    {shlex.join(command)}")


def _options(plan: Plan) -> list[str]:
    """The plan's network and training as options of `train`, as far as they are not the defaults."""
    options = []
    for settings in (plan.network, plan.train):
        for name, value in vars(settings).items():
            if value != getattr(type(settings)(), name):
                options += ["--" + name.replace("_", "-"), f"{value:g}" if isinstance(value, float) else str(value)]
    return options


def _print_outcome(outcome: Outcome, tested: int) -> None:
    names = outcome.scores.class_names
    table = table_of("not seen in training", *(f"IoU {name}" for name in names), "pixel error", "SEG", "objects")
    height, width = outcome.large_size
    for what, s in (
        (f"{tested} test images", outcome.scores),
        (f"1 of {height} x {width} px, in {outcome.tiles} tiles", outcome.large),
    ):
        table.add_row(what, *map(number_text, s.iou), number_text(s.pixel_error), number_text(s.seg), str(s.seg_scores.size))
    out_console.print(table)
