"""The command line, mostly as people use it: real processes, real files, a real Ctrl-C."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import tinyunet as tu
from tinyunet import cli
from tinyunet.cli.demo import _options as demo_options
from tinyunet.config import RunConfig, put, read_tables
from tinyunet.data.images import read_mask, write_image
from tinyunet.demo import FULL, QUICK
from tinyunet.errors import DataError
from tinyunet.run_folder import alone_in
from tinyunet.shapes import count_params
from tinyunet.train import StepRecord

ROOT = Path(tu.__file__).parents[1]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "100",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
COMMANDS = ("demo", "train", "predict", "evaluate", "shapes", "check")
TINY = ("--base", "2", "--depth", "1", "--tile", "20", "--dropout", "0")


def start(*arguments, cwd):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "tinyunet", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, cwd, code=0):
    """Run the command to its end -> stdout; stderr if it was to fail."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out if code == 0 else err


@pytest.fixture
def main(monkeypatch, capsys):
    """The command in this process: quicker, for what needs no files. -> exit code, stdout, stderr"""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tinyunet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def one_line(text):
    """A text without the line breaks and frames that a narrow terminal puts in."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with five small images of cells, masks 0 and 255, and a run of six steps on them."""
    folder = tmp_path_factory.mktemp("cli")
    cells = tu.synthetic("phase", n=5, size=48, rng=np.random.default_rng(5))
    for name in ("images", "masks"):
        (folder / "cells" / name).mkdir(parents=True)
    for sample in cells:
        write_image(folder / "cells" / "images" / f"{sample.name}.png", sample.image)
        tu.write_labels(folder / "cells" / "masks" / f"{sample.name}.png", 255 * sample.labels)
    folder.joinpath("said").write_text(
        run("train", "cells", "--label-map", "0:0,255:1", "--instances", "components", *TINY, "--steps", 6, "--out", "runs/a",
            cwd=folder)
    )  # fmt: skip
    return folder


# ---- training ----


def test_training_tells_and_writes_what_it_should(work):
    """Data, network and a line with loss, speed and time left; checkpoints, log, curves and settings in the folder."""
    said = (work / "said").read_text()
    for line in ("data     4 images", "held out 1 image", "classes  background, cell"):
        assert line in said
    assert f"base 2, depth 1, valid padding: {count_params(tu.preset('paper', base=2, depth=1))} parameters" in said
    assert re.search(r"training  3/6  loss \d\.\d{4}  IoU \d\.\d{3}  [\d.]+ (steps/s|s/step)  \d+ s left", said)
    assert re.search(r"training  6/6  .* took \d+ s", said)
    assert "tinyunet predict runs/a/best.safetensors IMAGES" in said
    pair = r"IoU \d\.\d{3}, SEG \d\.\d{3}"
    assert re.search(rf"Best: step \d, {pair} \(runs/a/best.safetensors\)\. Last: step 6, {pair}\. Curves: runs/a/curves", said)
    names = {path.name for path in (work / "runs" / "a").iterdir()}
    assert names == {".lock", "best.safetensors", "last.safetensors", "config.toml", "curves.png", "log.csv", "weights"}
    assert len((work / "runs" / "a" / "log.csv").read_text().splitlines()) == 1 + 6
    assert tu.load_checkpoint(work / "runs" / "a" / "last.safetensors").step == 6


def test_the_written_settings_repeat_the_run_bit_for_bit(work, main, monkeypatch, tmp_path):
    """config.toml is complete: from another folder, it makes the same checkpoint. An option given beside it wins."""
    settings = work / "runs" / "a" / "config.toml"
    assert set(read_tables(settings)["network"]) == {"preset", *tu.UNetSpec().to_dict()}
    monkeypatch.chdir(tmp_path)
    assert main("train", "--config", settings, "--out", "again")[0] == 0
    assert (tmp_path / "again" / "last.safetensors").read_bytes() == (work / "runs" / "a" / "last.safetensors").read_bytes()
    assert (tmp_path / "again" / "config.toml").read_text() == settings.read_text()
    code, said, _ = main("train", "--config", settings, "--steps", 2, "--no-augment", "--val", 0)
    assert code == 0
    assert "run      runs/cells" in said
    again = tu.load_checkpoint(tmp_path / "runs" / "cells" / "last.safetensors")
    assert (again.step, again.config["tile"], again.config["augment"]["elastic"]) == (2, 20, 0)


def test_a_finished_run_has_nothing_to_resume(work):
    """Resuming it is no error, and changes nothing."""
    before = (work / "runs" / "a" / "last.safetensors").read_bytes()
    said = run("train", "--resume", "--out", "runs/a", cwd=work)
    assert "This run has all its 6 steps. To go on: tinyunet train --resume --out runs/a --steps 12" in said
    assert (work / "runs" / "a" / "last.safetensors").read_bytes() == before


def test_a_finished_run_can_be_given_more_steps(work, main, monkeypatch, tmp_path):
    """--steps and --lr may change: what changed is said, the settings are written anew, and the run goes on from there."""
    monkeypatch.chdir(work)
    shutil.copytree(work / "runs" / "a", tmp_path / "a")
    code, out, _ = main("train", "--resume", "--out", tmp_path / "a", "--steps", 9, "--lr", 0.01)
    assert code == 0
    assert "changed  steps from 6 to 9, lr from 0.001 to 0.01; from here on, the learning rate follows the new values" in out
    assert "training  7/9" in out
    assert {key: read_tables(tmp_path / "a" / "config.toml")["train"][key] for key in ("steps", "lr")} == {"steps": 9, "lr": 0.01}
    saved = tu.load_checkpoint(tmp_path / "a" / "last.safetensors")
    assert (saved.step, saved.config["steps"], saved.config["lr"]) == (9, 9, 0.01)
    assert len((tmp_path / "a" / "log.csv").read_text().splitlines()) == 1 + 9
    code, out, _ = main("train", "--resume", "--out", tmp_path / "a")
    assert "This run has all its 9 steps" in out
    assert "changed" not in out


def test_refused_changes_leave_the_settings_alone(work, main, monkeypatch):
    """A run that cannot end before the step it has reached keeps its config.toml."""
    monkeypatch.chdir(work)
    before = (work / "runs" / "a" / "config.toml").read_text()
    assert main("train", "--resume", "--out", "runs/a", "--steps", 2)[0] == 2
    assert (work / "runs" / "a" / "config.toml").read_text() == before


def test_a_run_at_work_keeps_its_settings(work, main, monkeypatch, tmp_path):
    """Who asks for more steps of a run that another process is at is refused, and config.toml stays as that one wrote it."""
    monkeypatch.chdir(work)
    shutil.copytree(work / "runs" / "a", tmp_path / "a")
    before = (tmp_path / "a" / "config.toml").read_text()
    with alone_in(tmp_path / "a"):
        code, _, err = main("train", "--resume", "--out", tmp_path / "a", "--steps", 9)
    assert code == 2
    assert "another run is at work in" in err
    assert (tmp_path / "a" / "config.toml").read_text() == before


@pytest.mark.parametrize(("share", "said"), [(0.99, "--val 0.99 leaves 1 image to train on, and 4 that only"), (0.4, "")])
def test_a_large_share_to_validate_is_said(work, main, monkeypatch, tmp_path, share, said):
    """More than half to validate on may be meant, but is not passed over: both numbers are said."""
    monkeypatch.chdir(work)
    arguments = ["cells", "--label-map", "0:0,255:1", *TINY, "--steps", 1, "--val", share, "--out", tmp_path / "run"]
    code, out, _ = main("train", *arguments)
    assert code == 0
    assert ("note     --val" in out) == bool(said)
    assert said in out


@pytest.mark.skipif(os.name == "nt", reason="a process on Windows cannot be sent Ctrl-C")
def test_ctrl_c_saves_and_says_how_to_go_on(work):
    """SIGINT: exit code 130, a checkpoint of the last step in the log, a command that goes on from there; SIGTERM likewise."""
    arguments = ["train", "cells", "--label-map", "0:0,255:1", *TINY, "--steps", 100_000, "--out", "runs/b c"]
    done = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with start(*arguments, cwd=work) as process:
            first = next(line for line in process.stdout if line.startswith("training"))
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert f"{done + 1}/100000" in first
        assert "finishing the step in progress" in err
        done = int(re.search(r"Interrupted after step (\d+) of 100000. Saved runs/b c/last.safetensors. Go on with:", out)[1])
        assert tu.load_checkpoint(work / "runs" / "b c" / "last.safetensors").step == done
        assert len((work / "runs" / "b c" / "log.csv").read_text().splitlines()) == 1 + done
        assert (work / "runs" / "b c" / "curves.png").stat().st_size > 0
        assert out.splitlines()[-1] == "    tinyunet train --resume --out 'runs/b c'"
        arguments = ["train", "--resume", "--out", "runs/b c"]


@pytest.mark.skipif(os.name == "nt", reason="a process on Windows cannot be sent Ctrl-C")
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "nobody reads"])
def test_ctrl_c_saves_where_nobody_can_be_told(work, closed):
    """The notice goes nowhere, not into another file that has got the number of stderr, and the step in progress is saved."""
    out = f"runs/deaf {closed}"
    command = [sys.executable, "-m", "tinyunet", "train", "cells", "--label-map", "0:0,255:1", *TINY, "--out", out]
    command = ["sh", "-c", f'exec "$@"{" 2>&-" if closed else ""}', "sh", *command, "--steps", "100000"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as process:
        next(line for line in process.stdout if line.startswith("training"))
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(60) == 130, said
    done = int(re.search(r"Interrupted after step (\d+) of 100000", said)[1])
    assert tu.load_checkpoint(work / out / "last.safetensors").step == done
    assert len((work / out / "log.csv").read_text().splitlines()) == 1 + done
    assert (work / out / ".lock").read_bytes() == b""


def test_runs_without_a_name_do_not_meet(work, main, monkeypatch, tmp_path):
    """Without --out the folder is called after the data, and the second run's gets a number; given names reach the data set."""
    shutil.copytree(work / "cells", tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    arguments = ["cells", "--label-map", "0:0,255:1", *TINY, "--steps", 1, "--class-names", "medium, nucleus"]
    for folder in ("runs/cells", "runs/cells-2", "runs/cells-3"):
        code, out, _ = main("train", *arguments)
        assert code == 0
        assert f"run      {folder}\n" in out
        assert "classes  medium, nucleus" in out
        assert tu.load_checkpoint(tmp_path / folder / "last.safetensors").class_names == ("medium", "nucleus")


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    """A terminal gets a bar with count, note and speed, drawn anew in place; a pipe gets lines."""
    screen = io.StringIO()
    monkeypatch.setattr(cli.terminal, "out_console", Console(file=screen, force_terminal=True, width=100))
    with cli.terminal.Meter("testing", "image") as meter:
        for done in (1, 2):
            meter.show(done, 2, "a.png")
    drawn = screen.getvalue()
    assert "\x1b[2K" in drawn  # a line is cleared, to be drawn again
    assert re.search(r"testing .*2/2  a\.png  .*took \d+ s", drawn)


def test_outside_of_training_ctrl_c_stops_at_once(main, monkeypatch):
    """Where no step has to be finished, SIGINT and SIGTERM end the work where it is: one word and code 130."""
    for number in (signal.SIGINT, signal.SIGTERM):
        monkeypatch.setattr(cli.shapes.shapes, "trace", lambda *_, number=number: signal.raise_signal(number))
        assert main("shapes") == (130, "", "stopped.\n")


def record(step, loss):
    """What `fit` yields of a step."""
    return StepRecord(step, loss, 0.1, 1.0, 0.1, ("a",))


@pytest.mark.parametrize(
    ("after", "says"),
    [(False, "stopping after the first step, which is saved"), (True, "finishing the step in progress, then saving")],
    ids=["in preparation", "in a step"],
)
def test_the_second_ctrl_c_stops_at_once(tmp_path, capfd, after, says):
    """While a run is followed the first is noted, and said; the second ends the work in the middle of a step."""
    reached = []
    (tmp_path / "log.csv").write_text("step,loss\n1,0.5\n")

    def steps():
        if after:
            yield record(1, 0.5)
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
        signal.raise_signal(signal.SIGINT)
        reached.append(2)
        yield record(2, 0.5)

    before = signal.signal(signal.SIGINT, cli.terminal.stop)
    try:
        with pytest.raises(cli.terminal.StopError):
            cli.terminal.follow(steps(), "training", 3, tmp_path / "log.csv")
        assert signal.getsignal(signal.SIGINT) is cli.terminal.stop
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == [1]
    assert f"\n{says}; press Ctrl-C again to stop at once\n" in capfd.readouterr().err


def test_the_loss_shown_goes_on_after_resuming(tmp_path, monkeypatch):
    """The moving average counts the log's earlier steps: a run resumed after step 3 shows what one never left shows."""
    losses, shown = [8.0, 4.0, 2.0, 6.0, 1.0], []
    monkeypatch.setattr(cli.terminal.Meter, "show", lambda self, done, total, note: shown.append(note))

    def steps(first):
        for i, loss in enumerate(losses[first:], first + 1):
            lines = [f"{n},{value}" for n, value in enumerate(losses[:i], 1)]
            (tmp_path / "log.csv").write_text("\n".join(["step,loss", *lines, ""]))
            yield record(i, loss)

    for first in (0, 3):
        cli.terminal.follow(steps(first), "training", 5, tmp_path / "log.csv")
    assert shown[0] == "loss 8.0000"
    assert shown[1] == "loss 7.6000"
    assert shown[5:] == shown[3:5]


def test_a_loss_that_is_not_finite_ends_with_code_1(work):
    """Training that goes wrong is told from wrong options: exit code 1, one line with step and remedy."""
    diverging = ["--steps", 50, "--optimizer", "sgd", "--lr", 1e30, "--out", "runs/nan"]
    arguments = ["train", "cells", "--label-map", "0:0,255:1", *TINY, *diverging]
    err = run(*arguments, cwd=work, code=1)  # where a warning would be an error of its own
    assert re.fullmatch(r"error: fit: .* at step \d+ \(learning rate .*Lower the learning rate.*\n", err)
    assert ("holds the last good state" in err) == (work / "runs" / "nan" / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cells", "--out", "runs/a"], "train: runs/a already holds a run. Go on with it by --resume --out runs/a"),
        (["--resume", "cells/images", "--out", "runs/a"], "cells/images. Leave DATA out (only --steps and --lr may"),
        (["--resume", "--steps", "5", "--out", "runs/a"], "has done 6 steps, asked for are 5. Give at least 6, or start"),
        (
            ["--resume", "--base", "3", "--out", "runs/a"],
            "goes on with base = 2, asked for is 3. Leave --base out (only --steps and --lr may change), or start a new run.",
        ),
        (["--resume", "--no-augment", "--out", "runs/a"], "(or --augment, --no-augment) out"),
        (["--resume", "--label-map", "0:0", "--out", "runs/a"], "label_map = 0:0,255:1, asked for is 0:0. Leave --label-map out"),
        (["cells", "--out", "cells"], "train: --out cells holds the data. Choose a folder for the run alone"),
        (["cells", "--out", "cells/masks"], "train: --out cells/masks holds the data."),
        (["cells", "--lr", "0", "--out", "o"], "TrainConfig: lr is 0.0. Give a positive number."),
        (["cells", "--weight-map", "none", "--w0", "3"], "TrainConfig: w0 is 3.0, but weight_map 'none' has no w0. Leave w0 out"),
        (["cells", "--border", "3", "--out", "o"], "TrainConfig: border is 3. Give an even number"),
        (["cells", "--label-map", "0:0,255:1", *TINY, "--max-mem", "20", "--out", "o"], "could not be validated"),
        (["--resume"], "train: --resume goes on with a run. Say which"),
        (["--resume", "--out", "runs/none"], "train: runs/none holds no run: there is no runs/none/config.toml"),
        (["--resume", "--out", "runs/a", "--config", "x.toml"], "Leave --config out"),
        (["cells", "--out", "o"], "--label-map 0:0,255:1"),
        ([], "no images are named"),
        (["cells", "--steps", "0"], "TrainConfig: steps is 0"),
        (["cells", "--optimizer", "adamw"], "options: [train] optimizer is 'adamw'. Choose one of: adam, sgd."),
        (["cells", "--label-map", "0:0,255:1", "--preset", "vnet"], "there is no preset 'vnet'"),
        (["cells", "--label-map", "0:0,255:1", "--out", "cells/images/phase-000.png"], "the folder cannot be made"),
    ],
)
def test_wrong_training_options_are_one_red_line_and_code_2(work, main, monkeypatch, arguments, says):
    """What is refused is said on stderr in one line, with what to do."""
    monkeypatch.chdir(work)
    code, _, err = main("train", *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert not (work / "o").exists()


def test_resume_may_repeat_the_settings(work, main, monkeypatch):
    """DATA and options that say what the run has anyway are no change."""
    monkeypatch.chdir(work)
    same = ["cells", "--steps", "6", "--base", "2", "--label-map", "0:0,255:1", "--augment"]
    code, out, _ = main("train", "--resume", *same, "--out", "runs/a")
    assert code == 0
    assert "This run has all its 6 steps" in out


@pytest.mark.parametrize("name", ["config.toml", "log.csv", "best.safetensors", "curves.png", "weights"])
def test_a_run_leaves_files_alone_that_it_did_not_make(work, main, monkeypatch, name, tmp_path):
    """A folder with any of the names that a run writes is refused; only settings may be those of a run killed early."""
    monkeypatch.chdir(work)
    (tmp_path / name).write_text("mine")
    code, _, err = main("train", "cells", "--label-map", "0:0,255:1", "--out", tmp_path)
    assert code == 2
    assert f"train: {tmp_path} already holds {name}. Choose another --out." in err
    assert (f"go on with --resume --out {tmp_path}" in err) == (name == "config.toml")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_killed_before_its_first_checkpoint_goes_on(work, main, monkeypatch, tmp_path):
    """Settings alone are enough for --resume, which then starts anew."""
    monkeypatch.chdir(work)
    settings = (work / "runs" / "a" / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(settings)
    assert main("train", "--resume", "--out", tmp_path)[0] == 0
    assert (tmp_path / "last.safetensors").read_bytes() == (work / "runs" / "a" / "last.safetensors").read_bytes()


# ---- prediction ----


def test_predict_writes_what_is_asked_for(work, tmp_path):
    """Labels, 16-bit instances, probabilities and overlays of a folder, the numbers being those of the library."""
    options = ["--out", tmp_path, "--proba", "--overlay", "--min-size", 5]
    said = run("predict", "runs/a/best.safetensors", "cells/images", *options, cwd=work)
    assert "5 images segmented; 20 files in" in said
    assert re.search(r"5 images  5/5  phase-004.png  .* took", said)
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    image = tu.read_image(work / "cells" / "images" / "phase-002.png")
    proba = np.load(tmp_path / "phase-002_proba.npy")
    labels, instances = (read_mask(tmp_path / f"phase-002_{what}.png") for what in ("labels", "instances"))
    np.testing.assert_array_equal(proba, best.predict_proba(image))
    np.testing.assert_array_equal(labels, proba.argmax(-1))
    np.testing.assert_array_equal(instances, tu.instances_of(labels, 5))
    assert (labels.dtype, instances.dtype) == (np.uint8, np.uint16)
    assert tu.read_image(tmp_path / "phase-002_overlay.png").shape[2] == 3


def test_predict_takes_stacks_and_leaves_files_alone(work, main, monkeypatch, tmp_path):
    """A TIFF of three pages gives three results; nothing is replaced unasked."""
    pages = [Image.fromarray(tu.read_image(work / "cells" / "images" / f"phase-00{i}.png")[..., 0]) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    checkpoint = work / "runs" / "a" / "last.safetensors"
    arguments = ["predict", checkpoint, "stack.tif", "--out", "out", "--no-labels", "--suffix", "tif"]
    monkeypatch.chdir(tmp_path)
    code, said, _ = main(*arguments, "--average", "mirror4")
    assert code == 0
    assert re.search(r"stack.tif  3/3  .*tiles/s", said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"stack_00{i}_instances.tif" for i in range(3)]
    last = tu.load_checkpoint(checkpoint)
    expected = tu.instances_of(last.predict(np.asarray(pages[1])[..., None], average="mirror4"))
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "stack_001_instances.tif"), expected)
    before = (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns
    code, _, err = main(*arguments)
    assert code == 2
    assert "stack_000_instances.tif is there already. Give --overwrite" in err
    assert (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns == before
    assert main(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "stack_000_instances.tif").stat().st_mtime_ns > before


def test_more_objects_than_16_bits_number_are_refused(work, main, monkeypatch, tmp_path):
    """The file, the number of objects and the option that helps; nothing is written."""
    monkeypatch.setattr(cli.predict, "instances_of", lambda labels, min_size: np.full(labels.shape, 65536, np.int32))
    image = work / "cells" / "images" / "phase-000.png"
    code, _, err = main("predict", work / "runs" / "a" / "last.safetensors", image, "--out", tmp_path, "--no-labels")
    assert code == 2
    said = f"{tmp_path / 'phase-000_instances.png'}: 65536 objects are more than 16 bits can number. Remove specks with --min-size."
    assert said in one_line(err)
    assert not [*tmp_path.iterdir()]


def test_a_page_is_not_written_over_an_image(work, main, tmp_path):
    """The first page of a.tif and the image a_000.png would be one result: refused before anything is written."""
    page = Image.fromarray(tu.read_image(work / "cells" / "images" / "phase-000.png")[..., 0])
    stack, image = tmp_path / "in" / "a.tif", tmp_path / "in" / "a_000.png"
    stack.parent.mkdir()
    page.save(stack, save_all=True, append_images=[page])
    page.save(image)
    code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", stack.parent, "--out", tmp_path / "out")
    assert code == 2
    assert f"{stack} and {image} would both be written as a_000. Segment them into two folders." in one_line(err)
    assert not (tmp_path / "out").exists()
    image.rename(image.with_name("a.png"))  # a.tif becomes a_000 and a_001
    assert main("predict", work / "runs" / "a" / "best.safetensors", stack.parent, "--out", tmp_path / "out")[0] == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a_labels.png", "a_000_labels.png", "a_001_labels.png"} <= written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.png"], "there is no file or folder nothing.png"),
        (["runs"], "runs holds no image files"),
        (["cells/images/phase-000.png", "cells/masks/phase-000.png"], "would both be written as phase-000"),
        (["cells/images", "--suffix", "jpg"], "--suffix jpg is neither png nor tif"),
        (["cells/images", "--no-labels", "--no-instances"], "nothing is to be written"),
        (["cells/images", "--average", "mirror"], "average 'mirror' is none of none, mirror4"),
        (["cells/images", "--max-mem", "20"], "max_mem of 20 MiB is too small."),
        (["cells/images", "--tile-in", "21"], "Nearest sizes that work: 20, 22.\n"),
    ],
)
def test_wrong_prediction_options_are_said(work, main, monkeypatch, arguments, says, tmp_path):
    """One line and code 2 again, and no result."""
    monkeypatch.chdir(work)
    code, _, err = main("predict", "runs/a/best.safetensors", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert says in err
    assert not [*tmp_path.glob("out/*")]


def test_predict_never_writes_over_its_own_input(work, main, tmp_path):
    """The folder of the images takes no results, not even with --overwrite; one inside it does."""
    for name in ("a.png", "a_labels.png"):
        (tmp_path / name).write_bytes((work / "cells" / "images" / "phase-000.png").read_bytes())
    before = (tmp_path / "a_labels.png").read_bytes()
    for images in (tmp_path, tmp_path / "a.png"):
        code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", images, "--out", tmp_path, "--overwrite")
        assert code == 2
        assert f"--out {tmp_path} holds the images. Choose a folder for results alone, e.g. --out {tmp_path}/predictions" in err
    assert (tmp_path / "a_labels.png").read_bytes() == before
    assert len([*tmp_path.iterdir()]) == 2
    checkpoint = work / "runs" / "a" / "best.safetensors"
    code, out, _ = main("predict", checkpoint, tmp_path / "a.png", "--out", tmp_path / "predictions")
    assert code == 0
    assert "1 image segmented; 2 files in" in out


def colours(folder, name, equal):
    """An image of three channels, equal or not; (H, W) of the first."""
    grey = np.arange(48 * 48).reshape(48, 48).astype(np.uint8)
    write_image(folder / name, np.stack([grey, grey, grey if equal else 255 - grey], axis=-1))
    return grey


def test_channels_are_checked_before_the_first_result(work, main, tmp_path):
    """Colour for a network of grey: the file is named with a remedy, and images before it gave no result either."""
    (tmp_path / "a.png").write_bytes((work / "cells" / "images" / "phase-000.png").read_bytes())
    colours(tmp_path, "b.png", equal=False)
    code, _, err = main("predict", work / "runs" / "a" / "best.safetensors", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert f"predict: {tmp_path / 'b.png'} has 3 channels, the network takes 1. Convert it to grey: Image > Type > 8-bit" in err
    assert not (tmp_path / "out").exists()


def test_three_equal_channels_are_grey(work, main, tmp_path):
    """Grey that was saved as RGB is segmented as grey, measured as grey, and said to be."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    grey = colours(tmp_path / "images", "b.png", equal=True)
    checkpoint = work / "runs" / "a" / "best.safetensors"
    code, out, _ = main("predict", checkpoint, tmp_path / "images", "--out", tmp_path / "out")
    assert code == 0
    assert "1 image of three equal channels taken as grey" in out
    expected = tu.load_checkpoint(checkpoint).predict(grey)
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "b_labels.png"), expected)
    tu.write_labels(tmp_path / "masks" / "b.png", expected)
    code, out, err = main("evaluate", checkpoint, tmp_path, "--label-map", "0:0,1:1")
    assert (code, err) == (0, "")
    assert "pixel error  0.0000" in out
    colours(tmp_path / "images", "b.png", equal=False)
    code, _, err = main("evaluate", checkpoint, tmp_path, "--label-map", "0:0,1:1")
    assert code == 2
    assert "evaluate: image b has 3 channels, the network takes 1. Convert it to grey: Image > Type > 8-bit" in err


def test_a_network_of_colours_measures_grey_images(work, main, tmp_path):
    """Grey images saved as RGB are read as one channel, and given to a network of three as they were."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    grey = colours(tmp_path / "images", "b.png", equal=True)
    model = tu.UNet(tu.preset("paper", base=2, depth=1, channels=3))
    tu.save_checkpoint(tmp_path / "rgb.safetensors", tu.Checkpoint(model))
    expected = tu.load_checkpoint(tmp_path / "rgb.safetensors").predict(np.stack([grey] * 3, axis=-1))
    tu.write_labels(tmp_path / "masks" / "b.png", np.where(np.indices(expected.shape)[0] < 24, expected, 1 - expected))
    code, out, err = main("evaluate", tmp_path / "rgb.safetensors", tmp_path)
    assert (code, err) == (0, "")
    assert "pixel error  0.5000" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "runs/a", "cells/images"], "predict: runs/a is a folder. Use runs/a/best.safetensors."),
        (["evaluate", "runs/a", "cells"], "evaluate: runs/a is a folder. Use runs/a/best.safetensors."),
        (["predict", "cells/images", "runs/a/best.safetensors"], "The order is: tinyunet predict CHECKPOINT IMAGES"),
        (["evaluate", "cells", "runs/a/best.safetensors"], "The order is: tinyunet evaluate CHECKPOINT DATA"),
        (["predict", "cells/images/phase-000.png", "runs/a/best.safetensors"], "phase-000.png is not a checkpoint."),
    ],
)
def test_what_is_no_checkpoint_is_said(work, main, monkeypatch, arguments, says):
    """The folder of a run, and arguments in the wrong order."""
    monkeypatch.chdir(work)
    code, _, err = main(*arguments)
    assert code == 2
    assert says in err


def test_the_demo_gives_its_own_options(work, main, monkeypatch, tmp_path):
    """The command that the demo ends with has the demo's network and training."""
    for plan in (FULL, QUICK):
        options = demo_options(plan)
        given = {name[2:].replace("-", "_"): value for name, value in zip(options[::2], options[1::2], strict=True)}
        plain = put({}, {name: value if name == "norm" else json.loads(value) for name, value in given.items()})
        config = RunConfig.from_tables(plain)
        assert config.network == plan.network
        assert config.train == plan.train
    assert options[:6] == ["--base", "8", "--norm", "batch", "--dropout", "0"]
    monkeypatch.chdir(work)
    command = ["train", "cells", "--label-map", "0:0,255:1", *options, "--steps", 1, "--base", 2, "--depth", 1, "--tile", 20]
    assert main(*command, "--out", tmp_path / "own")[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no wait4")
def test_a_large_image_stays_within_the_memory_budget(tmp_path):
    """4096 x 4096 with --max-mem 1500: the whole process takes less at its peak, and the tiles are counted on the way."""
    wave = np.sin(np.arange(4096) / 9)
    write_image(tmp_path / "large.png", (120 + 100 * wave * wave[:, None]).astype(np.uint8))
    tu.save_checkpoint(tmp_path / "small.safetensors", tu.Checkpoint(tu.UNet(tu.preset("paper", base=4, depth=2))))
    options = ["--max-mem", 1500, "--min-size", 9, "--out", "out"]
    with start("predict", "small.safetensors", "large.png", *options, cwd=tmp_path) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.stderr.read()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20  # bytes there, KiB on Linux
    assert 300 < peak < 1500  # less than 300 MiB would mean that something else was measured
    assert re.search(r"large.png  2/4  .* left", said)
    assert read_mask(tmp_path / "out" / "large_instances.png").shape == (4096, 4096)


# ---- evaluation ----


def test_evaluate_measures_as_the_library_does(work, tmp_path):
    """A table by class and one by image; the numbers of the JSON file are those of `evaluate`."""
    options = ["--label-map", "0:0,255:1", "--instances", "components"]
    options += ["--each", "--em", "--json", tmp_path / "s.json"]
    said = run("evaluate", "runs/a/best.safetensors", "cells", *options, cwd=work)
    data = tu.read_dataset(work / "cells", label_map={0: 0, 255: 1}, instances="components")
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    expected = tu.evaluate(best.model, data, best.normalization)
    numbers = json.loads((tmp_path / "s.json").read_text())
    assert {k: v for k, v in numbers["all"].items() if k in expected.as_dict()} == expected.as_dict()
    assert [*numbers["images"]] == [sample.name for sample in data]
    assert f"cell         {expected.iou[1]:.4f}" in said
    assert f"SEG          {expected.seg:.4f} of {expected.seg_scores.size} annotated objects" in said
    third = data[2]
    labels = best.predict(third.image)
    assert numbers["images"][third.name]["v_rand"] == tu.metrics.v_rand(tu.instances_of(labels), third.instances).f_score
    assert numbers["images"][third.name]["warping_error"] == tu.metrics.warping_error(labels, third.labels)
    assert said.count("phase-00") == 5


def test_evaluate_by_other_class_names(work, main, monkeypatch):
    """Names given are those of the scores; without them, the training's. Too many or too few are refused before measuring."""
    monkeypatch.chdir(work)
    arguments = ["evaluate", "runs/a/best.safetensors", "cells", "--label-map", "0:0,255:1"]
    assert re.search(r"^background +\d.*\ncell +\d", main(*arguments)[1], re.MULTILINE)
    code, out, _ = main(*arguments, "--class-names", "medium, nucleus")
    assert code == 0
    assert re.search(r"^medium +\d.*\nnucleus +\d", out, re.MULTILINE)
    code, _, err = main(*arguments, "--kind", "classes", "--class-names", "medium, nucleus, other")
    assert code == 2
    assert "--class-names gives 3 names, the network has 2 classes (background, cell)." in err


def test_evaluate_without_objects(work, main, monkeypatch):
    """Plain masks know no objects: SEG is unknown, and --em says what to add."""
    monkeypatch.chdir(work)
    code, out, _ = main("evaluate", "runs/a/best.safetensors", "cells", "--kind", "binary", "--label-map", "0:0,255:1")
    assert code == 0
    assert "SEG          unknown" in out
    code, _, err = main("evaluate", "runs/a/best.safetensors", "cells", "--kind", "binary", "--label-map", "0:0,255:1", "--em")
    assert code == 2
    assert "Add --instances components" in err


def test_evaluate_reads_masks_as_in_training(work, main, monkeypatch, tmp_path):
    """Label map and objects are those of the training, and said to be; an option changes one of them, --kind all."""
    monkeypatch.chdir(work)
    best, scores = "runs/a/best.safetensors", tmp_path / "scores.json"

    def measured(*options):
        code, out, err = main("evaluate", best, "cells", "--json", scores, *options)
        assert code == 0, err
        return out.splitlines()[0], json.loads(scores.read_text())["all"]

    said, as_trained = measured()
    assert said == "masks read as in training: --kind binary --label-map 0:0,255:1 --instances components"
    data = tu.read_dataset("cells", label_map={0: 0, 255: 1}, instances="components")
    assert as_trained == tu.load_checkpoint(best).evaluate(data).as_dict()
    said, other = measured("--label-map", "0:1,255:0")
    assert said == "masks read as in training: --kind binary --instances components"
    assert other["pixel_error"] == pytest.approx(1 - as_trained["pixel_error"])
    said, plain = measured("--kind", "binary", "--label-map", "0:0,255:1")
    assert "as in training" not in said
    assert plain == {**as_trained, "seg": None, "objects": 0}
    saved = tu.load_checkpoint(best)
    tu.save_checkpoint(tmp_path / "odd.safetensors", replace(saved, reading={**saved.reading, "path": "x", "kind": 3}))
    code, _, err = main("evaluate", tmp_path / "odd.safetensors", "cells")
    assert (code, "kind is 3. Choose one of" in err) == (2, True)
    code, _, err = main("evaluate", best, "cells", "--kind", "binary")
    assert (code, "255" in err) == (2, True)
    for help_text in (main("evaluate", "--help")[1], main("predict", "--help")[1]):
        assert "default as in training" in " ".join(help_text.replace("│", " ").split())


def test_a_format_that_says_what_masks_hold_is_not_told(work, main, tmp_path):
    """A Cell Tracking Challenge set is read as such, whatever the masks of the training were."""
    grey = tu.read_image(work / "cells" / "images" / "phase-000.png")
    for folder in ("01", "01_GT/SEG"):
        (tmp_path / folder).mkdir(parents=True)
    write_image(tmp_path / "01" / "t000.tif", grey)
    cells = tu.data.instances.components(read_mask(work / "cells" / "masks" / "phase-000.png") > 0)
    tu.write_labels(tmp_path / "01_GT" / "SEG" / "man_seg000.tif", cells)
    code, out, err = main("evaluate", work / "runs" / "a" / "best.safetensors", tmp_path)
    assert (code, err) == (0, "")
    assert f"of {cells.max()} annotated objects" in out


def test_small_objects_go_as_in_training(work, main, tmp_path):
    """Without --min-size, `predict` and `evaluate` leave out what the training left out."""
    best = tu.load_checkpoint(work / "runs" / "a" / "best.safetensors")
    image = work / "cells" / "images" / "phase-000.png"
    labels = best.predict(tu.read_image(image))
    sizes = np.bincount(tu.instances_of(labels).ravel())[1:]
    least = int(sizes.max())
    assert (sizes < least).any()
    checkpoint = tmp_path / "strict.safetensors"
    tu.save_checkpoint(checkpoint, replace(best, config={**best.config, "min_size": least}))
    for options, expected in (([], least), (["--min-size", 0], 0)):
        assert main("predict", checkpoint, image, "--out", tmp_path / "out", "--overwrite", *options)[0] == 0
        objects = read_mask(tmp_path / "out" / "phase-000_instances.png")
        np.testing.assert_array_equal(objects, tu.instances_of(labels, expected))


def test_the_budget_is_that_of_a_page(work, main, tmp_path):
    """A stack needs as much memory as one of its pages, and what the message advises is enough."""
    pages = [Image.fromarray(np.full((700, 900), 10 * i, np.uint8)) for i in range(6)]
    pages[0].save(tmp_path / "page.tif")
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    advised = []
    for name in ("page.tif", "stack.tif"):
        command = ["predict", work / "runs" / "a" / "best.safetensors", tmp_path / name, "--out", tmp_path / "out"]
        code, _, err = main(*command, "--max-mem", 20)
        assert code == 2
        advised.append(int(re.search(r"give at least (\d+) MiB", err)[1]))
        code, _, err = main(*command, "--max-mem", advised[-1])
        assert (code, err) == (0, "")
    assert advised[0] == advised[1]
    assert len([*tmp_path.glob("out/*_instances.png")]) == 7


def test_overlays_of_large_images_are_smaller():
    """Every pixel is shown if it may be; every n-th where there are too many, or where they take too much memory."""
    assert cli.predict._every((2400, 1), math.inf) == 1
    assert cli.predict._every((100, 2401), math.inf) == 2
    assert cli.predict._every((100, 100), 100 * 100 * cli.predict.OVERLAY) == 1
    assert cli.predict._every((100, 100), 100 * 100 * cli.predict.OVERLAY - 1) == 2
    assert cli.predict._every((100, 100), -5) == 100


# ---- shapes ----


def test_shapes_prints_figure_1(main):
    """Sizes, crops, parameters and multiply-adds of the paper's network, and the sizes near 572."""
    code, out, _ = main("shapes", 572)
    assert code == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["down.0.conv1", "572 -> 570", "1 -> 64", "640", "0.187", "21.1"] in lines
    assert ["up.0.concat", "392", "64 + 64 -> 128", "88"] in lines
    assert ["head", "388", "64 -> 2", "130", "0.019", "36.8"] in lines
    assert [line[3] for line in lines if line[0].endswith("concat")] == ["4", "16", "40", "88"]
    assert ["total", "572 -> 388", "31,030,658", "150.43", "600.1"] in lines
    assert "margin           92 px" in out
    assert "188 + 16 k; nearest to 572: 556, 572, 588" in out
    assert "receptive field  188 to 204 px" in out


def test_shapes_sums_are_those_of_its_rows(main):
    """What the rows show adds up to the total: no layer is left out or counted twice."""
    _, out, _ = main("shapes", 92, 108, "--base", 8, "--depth", 2, "--preset", "same_bn", "--padding", "valid")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if re.match(r"(down|bottom|up|head)", line)]
    spec = tu.preset("same_bn", base=8, depth=2, padding="valid")
    with_parameters = [row for row in rows if "pool" not in row[0] and "concat" not in row[0]]
    assert sum(int(row[3].replace(",", "")) for row in with_parameters) == tu.shapes.count_params(spec)
    assert "92x108 -> 52x68" in next(line for line in out.splitlines() if line.startswith("total"))


def test_a_size_that_does_not_fit(main):
    """Exit code 2, where it stops fitting, and the nearest sizes that do."""
    code, _, err = main("shapes", 570)
    assert code == 2
    assert "level 2 (down.1) would pool an odd 279x279. Nearest sizes that work: 556, 572." in err


def test_shapes_draws(main, tmp_path):
    """--figure writes the U."""
    code, out, _ = main("shapes", 92, "--base", 4, "--depth", 2, "--figure", tmp_path / "u.svg")
    assert code == 0
    assert "u.svg" in out
    assert "<svg" in (tmp_path / "u.svg").read_text()


# ---- all commands ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_an_example(main, command):
    """--help of every command: what it does, every option documented, one example that starts with the command."""
    code, out, _ = main(command, "--help")
    assert code == 0
    assert f"Example: tinyunet {command} " in one_line(out)


def test_every_option_is_documented():
    """No option and no argument goes without a word."""
    import typer

    group = typer.main.get_command(cli.app)
    assert set(group.commands) == set(COMMANDS)
    every = [(name, option) for name, command in group.commands.items() for option in command.params]
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
