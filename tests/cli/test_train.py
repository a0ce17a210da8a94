"""`tinyunet train`, mostly as people use it: real processes, real files, a real Ctrl-C."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from command import ENVIRONMENT, TINY, run, start
from rich.console import Console

import tinyunet as tu
from tinyunet import cli
from tinyunet.config import read_tables
from tinyunet.run_folder import alone_in
from tinyunet.shapes import count_params
from tinyunet.train import StepRecord


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
@pytest.mark.slow
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
