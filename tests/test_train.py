"""Training: every step by its definition, a run that is killed anywhere goes on as if nothing had happened, errors in words."""

import csv
import errno
import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyunet
from tinyunet import train
from tinyunet.checkpoint import load_checkpoint
from tinyunet.data.augment import Augment
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import IGNORE, Dataset, Sample
from tinyunet.data.weight_map import weight_map
from tinyunet.errors import ConfigError, DataError, TrainingError
from tinyunet.metrics import Scores
from tinyunet.ops.loss import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from tinyunet.optim import Adam, Optimizer, schedule
from tinyunet.shapes import fits, margin, output_size
from tinyunet.spec import PRESETS, UNetSpec
from tinyunet.train import energy, fit, make_batch, prepare, tile_size
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

ROOT = Path(tinyunet.__file__).parents[1]
SMALL = UNetSpec(base=2, depth=1)
QUICK = TrainConfig(steps=6, tile=8, batch=2, lr=1e-2, warmup=2, validate_every=2)


def cells(n=4, height=22, width=26, classes=2, seed=0, dtype="uint8"):
    """Images with two bright cells that touch and one by itself, in noise; with three classes that one is of the third."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        instances = np.zeros((height, width), np.int32)
        instances[3:11, 3:9], instances[3:11, 9:15], instances[14:20, 4 + i % 4 : 11 + i % 4] = 1, 2, 3
        labels = np.where((instances == 3) & (classes == 3), 2, instances > 0).astype(np.int32)
        image = (rng.normal(60, 10, (height, width, 1)) + 60 * labels[..., None]).clip(0, 255).astype(dtype)
        samples.append(Sample(f"image {i}", image, labels, instances))
    return Dataset(tuple(samples), ("background", "cell", "other")[:classes])


def run(model, data, config=QUICK, stop=None, **options):
    """Train on all images but the last, validate on that one; leave the loop after step `stop`. -> the records"""
    records = []
    for record in fit(model, data[:-1], data[-1:], config, **options):
        records.append(record)
        if record.step == stop:
            break
    return records


def files(folder):
    """What the two checkpoints of a run contain, and its log without times."""
    with (folder / "log.csv").open(newline="") as file:
        rows = [row[:3] + row[5:] for row in csv.reader(file)]
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in ("last", "best")} | {"log": rows}


def files_left(folder):
    """Every file in a folder with its bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def but(config, **changes):
    """The same settings with some changed."""
    return TrainConfig.from_dict(config.to_dict() | changes)


# Killed anywhere -----------------------------------------------------------------------------------------------------

# One process that forks a child for every attempt. A child trains with resume=True. It is killed by a signal, by itself at
# the k-th of all moments that matter (before a batch, around a line of the log, halfway through a file, before and after
# a rename), or by its parent at a random time.
KILLER = """
import json, os, signal, sys, time, traceback
from pathlib import Path
import numpy as np
import safetensors.numpy
from contextlib import nullcontext
from scipy import ndimage
from tinyunet import checkpoint, signals, train
from tinyunet.data.sample import Dataset, Sample
from tinyunet.spec import UNetSpec
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

base, job = Path(sys.argv[1]), json.loads(sys.argv[2])
rng = np.random.default_rng(0)
samples = []
for i in range(4):
    instances = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(24, 28)), 2) > 0.03)[0].astype(np.int32)
    image = (60 + 60 * (instances > 0) + rng.normal(0, 20, instances.shape)).clip(0, 255).astype(np.uint8)
    samples.append(Sample(f"s{i}", image[..., None], (instances > 0).astype(np.int32), instances))
data = Dataset(tuple(samples))
config = TrainConfig.from_dict(job["config"])
moments = 0


def around(owner, name, kill_at, half=None):
    real = getattr(owner, name)

    def watched(*args, **options):
        moment(kill_at, lambda: half and half(*args))
        result = real(*args, **options)
        moment(kill_at)
        return result

    setattr(owner, name, watched)


def moment(kill_at, first=lambda: None):
    global moments
    moments += 1
    if moments == kill_at:
        first()
        os.kill(os.getpid(), getattr(signal, job["signal"]))


def child(folder, kill_at):
    around(safetensors.numpy, "save_file", kill_at, half=lambda arrays, path: Path(path).write_bytes(b"half of a file" * 99))
    around(Path, "replace", kill_at)
    around(train.Log, "write", kill_at)
    around(train, "make_batch", kill_at)
    if job.get("plant") == "in place":
        checkpoint.atomic_write = nullcontext
    if job.get("plant") == "at once":
        train.deferred = lambda notice: nullcontext(signals.Deferral())
    for record in train.fit(UNet(UNetSpec(**job["spec"])), data[:3], data[3:], config, out=folder, resume=True):
        pass
    (base / "moments").write_text(str(moments))


def attempt(folder, kill_at=None, seconds=None):
    pid = os.fork()
    if pid == 0:
        try:
            child(base / folder, kill_at)
        except KeyboardInterrupt:
            last, log = base / folder / "last.safetensors", base / folder / "log.csv"
            saved = checkpoint.load_checkpoint(last).step if last.exists() else 0
            done = log.read_text().count("\\n") - 1 if log.exists() else 0
            os._exit(130 if saved == done else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    if os.WEXITSTATUS(status) == 130:
        return "interrupted"
    return "finished" if os.WEXITSTATUS(status) == 0 else "failed"


attempt("warm up")
start = time.perf_counter()
outcomes = {"undisturbed": [attempt("undisturbed")]}
seconds = time.perf_counter() - start
count = int((base / "moments").read_text())
for k in range(job["first"], count + 1, job["every"]):
    outcomes[f"at {k}"] = [attempt(f"at {k}", kill_at=k), attempt(f"at {k}")]
for r in range(job["random"]):
    kills = []
    while "finished" not in kills:
        # Wherever it is, then k moments after it went on: a run that is killed again and again.
        kills.append(attempt(f"random {r}", seconds=rng.uniform(0, seconds)) if len(kills) < 6 else attempt(f"random {r}"))
        kills.append(attempt(f"random {r}", kill_at=int(rng.integers(1, 25))) if len(kills) < 6 else attempt(f"random {r}"))
    outcomes[f"random {r}"] = kills
sys.stdout.write(json.dumps(outcomes))
"""


def killed_runs(base, spec, config, first=1, every=1, random=0, plant=None, by="SIGKILL"):
    """Folder -> what happened to the attempts in it: "killed", "interrupted" with all steps saved, "finished" or "failed"."""
    job = {"spec": spec.to_dict(), "config": config.to_dict(), "first": first, "every": every, "random": random, "plant": plant,
           "signal": by}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(base), json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


KILLED = TrainConfig(steps=5, tile=8, batch=2, lr=1e-2, warmup=2, validate_every=2, save_every=3, seed=3)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as on POSIX")


@needs_fork
@pytest.mark.parametrize(
    ("spec", "config", "first", "every", "random"),
    [
        (SMALL, KILLED, 1, 1, 3),
        (SMALL, but(KILLED, optimizer="sgd", weight_decay=1e-3, schedule="poly", normalization="dataset"), 2, 4, 1),
        (PRESETS["same_bn"].but(base=2, depth=1, dropout=0.5), KILLED, 3, 4, 1),
    ],
    ids=["adam", "sgd", "same_bn"],
)
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, spec, config, first, every, random):
    """Killed at any moment, also within a save, and resumed: both checkpoints byte for byte, every step once in the log."""
    outcomes = killed_runs(tmp_path, spec, config, first, every, random)
    expected = files(tmp_path / "undisturbed")
    assert [row[0] for row in expected["log"]] == ["step", *map(str, range(1, config.steps + 1))]
    assert outcomes.pop("undisturbed") == ["finished"]
    assert len(outcomes) > 8
    for folder, what in outcomes.items():
        if folder.startswith("at"):
            assert what == ["killed", "finished"], folder
        else:
            assert "killed" in what
            assert "failed" not in what
        assert files(tmp_path / folder) == expected, folder


@needs_fork
def test_writing_in_place_would_be_seen(tmp_path):
    """Planted: without atomic writes, a kill within a save leaves half a file, and the run cannot be resumed."""
    outcomes = killed_runs(tmp_path, SMALL, but(KILLED, steps=2), plant="in place")
    assert ["killed", "failed"] in outcomes.values()


@needs_fork
def test_ctrl_c_at_any_moment_saves_the_steps_done(tmp_path):
    """SIGINT in a script, at any moment, also within a step: the step is finished and saved; resumed, the bytes are the same."""
    outcomes = killed_runs(tmp_path, SMALL, KILLED, by="SIGINT")
    expected = files(tmp_path / "undisturbed")
    assert outcomes.pop("undisturbed") == ["finished"]
    assert len(outcomes) > 20
    for folder, what in outcomes.items():
        assert what == ["interrupted", "finished"], folder
        assert files(tmp_path / folder) == expected, folder


@needs_fork
def test_a_ctrl_c_that_does_not_wait_would_be_seen(tmp_path):
    """Planted: raised at once, it leaves steps in the log that no checkpoint has."""
    outcomes = killed_runs(tmp_path, SMALL, but(KILLED, steps=3), plant="at once", by="SIGINT")
    assert "failed" in {what[0] for what in outcomes.values()}


# Left early and resumed ----------------------------------------------------------------------------------------------

VARIANTS = {
    "adam": (SMALL, QUICK),
    "sgd": (SMALL, but(QUICK, optimizer="sgd", lr=1e-3, weight_decay=1e-2)),
    "same_bn": (PRESETS["same_bn"].but(base=2, depth=1, dropout=0.3), but(QUICK, normalization="dataset")),
}


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
@pytest.mark.parametrize(("spec", "config"), VARIANTS.values(), ids=VARIANTS.keys())
def test_a_run_left_early_goes_on(tmp_path, spec, config, stop):
    """Leaving the loop after any step saves that step; resumed, the run ends with the same bytes as one never left."""
    run(UNet(spec), cells(), config, out=tmp_path / "whole")
    run(UNet(spec), cells(), config, out=tmp_path / "left", stop=stop)
    assert load_checkpoint(tmp_path / "left" / "last.safetensors").step == stop
    records = run(UNet(spec, rng=99), cells(), config, out=tmp_path / "left", resume=True)
    assert [record.step for record in records] == list(range(stop + 1, 7))
    assert files(tmp_path / "left") == files(tmp_path / "whole")


def test_an_error_of_the_driver_saves_too(tmp_path):
    """An exception in the loop that drives the run leaves it as a break does: the steps done are in the checkpoint."""


    def drive():
        for record in fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path):
            1 / (3 - record.step)

    with pytest.raises(ZeroDivisionError) as caught:
        drive()
    del caught  # the traceback holds the loop, and with it the run
    gc.collect()
    assert load_checkpoint(tmp_path / "last.safetensors").step == 3


def test_half_a_step_is_never_saved(tmp_path, monkeypatch):
    """An error in the middle of a step leaves the last checkpoint as it was: that of step 2, though step 3 was complete."""
    calls = []

    def step_and_fail(self, real=Adam.step):
        real(self)
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError

    monkeypatch.setattr(Adam, "step", step_and_fail)
    with pytest.raises(MemoryError):
        run(UNet(SMALL), cells(), but(QUICK, validate_every=100, save_every=2), out=tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors").step == 2


def without_moments(self, state, steps):
    """Planted: the optimizer starts with moments of 0."""
    self.steps = steps


def without_step_count(self, state, steps, real=Optimizer.load_state):
    """Planted: the optimizer believes that it starts."""
    real(self, state, 0)


def with_other_draws(prepared, config, tile, step, rng, real=make_batch):
    """Planted: the next step's random numbers."""
    return real(prepared, config, tile, step, np.random.default_rng((config.seed, step + 1)))


def with_other_order(prepared, config, tile, step, rng, real=make_batch):
    """Planted: the next step's images."""
    return real(prepared, config, tile, step + 1, rng)


def without_best(*args, real=train.saved_run):
    """Planted: the best score is forgotten."""
    return replace(real(*args), best=None)


def without_statistics(self, state, real=UNet.load_state):
    """Planted: batch norm starts with its first running statistics."""
    real(self, self.state() | {name: a for name, a in state.items() if name in self.params()})


def resumes(folder, variant, monkeypatch, owner=None, name=None, planted=None):
    """Whether a run left after step 3 and resumed equals one never left, if a bug is planted in the second half."""
    spec, config = VARIANTS[variant]
    falling = [0.9, 0.5, 0.4]  # mean IoU of the validations: the first is the best
    results = iter(falling * 2)

    def evaluate_falling(*_, **__):
        n = int(1000 * next(results))
        return Scores(np.array([[5000, 1000 - n], [0, n]]))

    monkeypatch.setattr(train, "evaluate", evaluate_falling)
    run(UNet(spec), cells(), config, out=folder / "whole")
    run(UNet(spec), cells(), config, out=folder / "left", stop=3)
    if planted:
        monkeypatch.setattr(owner, name, planted)
    run(UNet(spec), cells(), config, out=folder / "left", resume=True)
    return files(folder / "left") == files(folder / "whole")


@pytest.mark.parametrize(
    ("variant", "owner", "name", "planted"),
    [
        ("adam", Optimizer, "load_state", without_moments),
        ("sgd", Optimizer, "load_state", without_moments),
        ("adam", Optimizer, "load_state", without_step_count),
        ("adam", train, "make_batch", with_other_draws),
        ("adam", train, "make_batch", with_other_order),
        ("adam", train, "saved_run", without_best),
        ("same_bn", UNet, "load_state", without_statistics),
    ],
)
def test_bugs_in_resuming_are_seen(tmp_path, monkeypatch, variant, owner, name, planted):
    """The comparison passes, and fails for each of these bugs planted into the resumed half."""
    with monkeypatch.context() as patch:
        assert resumes(tmp_path / "good", variant, patch)
    with monkeypatch.context() as patch:
        assert not resumes(tmp_path / "bad", variant, patch, owner, name, planted)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    """There is nothing left to do: no step, the same files, and the network holds the trained weights."""
    trained = UNet(SMALL)
    run(trained, cells(), out=tmp_path)
    before, other = files(tmp_path), UNet(SMALL, rng=7)
    assert run(other, cells(), out=tmp_path, resume=True) == []
    assert files(tmp_path) == before
    for name, array in trained.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


def test_resuming_before_the_first_checkpoint_starts_anew(tmp_path):
    """A folder without last.safetensors, be it that the run was killed at once: the run starts, its log too."""
    run(UNet(SMALL), cells(), out=tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "log.csv").write_text("step,loss\r\n1,0.5\r\n2,0.")
    run(UNet(SMALL), cells(), out=tmp_path / "killed", resume=True)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_half_written_files_are_cleared_away(tmp_path):
    """What a run left that was killed while saving is removed when the folder is used again; other files stay."""
    run(UNet(SMALL), cells(), out=tmp_path, stop=2)
    names = {".last-x1.safetensors", ".best-x2.safetensors", "mine.safetensors"}
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    run(UNet(SMALL), cells(), out=tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} & names == {"mine.safetensors"}


def test_a_torn_line_of_the_log_is_dropped(tmp_path):
    """Half a line, or lines of steps after the checkpoint, do not survive resuming: every step is there once."""
    run(UNet(SMALL), cells(), out=tmp_path / "whole")
    run(UNet(SMALL), cells(), out=tmp_path / "torn", stop=4)
    with (tmp_path / "torn" / "log.csv").open("a", newline="") as file:
        file.write("5,0.1,0.1,0.1,0.1\r\n1")
    run(UNet(SMALL), cells(), out=tmp_path / "torn", resume=True)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run(tmp_path):
    """A run is never overwritten: resume it, or give another folder."""
    run(UNet(SMALL), cells(), out=tmp_path, stop=1)
    before = (tmp_path / "last.safetensors").read_bytes()
    text = re.escape(f"{tmp_path} already holds a run. Resume it, or give another folder.")
    with pytest.raises(ConfigError, match=text):
        run(UNet(SMALL), cells(), out=tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"warmup": 3}, r"has warmup = 2, asked for is 3\. Resume with the same settings \(only steps and lr may change\)"),
        ({"steps": 5}, r"has done 6 steps, asked for are 5\. Give at least 6, or start a new run in another folder"),
        ({"optimizer": "sgd"}, r"has optimizer = 'adam', asked for is 'sgd'"),
        ({"augment": {"flips": False}}, r"has augment = .*flips=True.*asked for is .*flips=False"),
        ({"w0": 3.0}, r"has w0 = None, asked for is 3\.0"),
    ],
)
def test_other_settings_do_not_resume(tmp_path, changes, text):
    """A run resumed with other settings would be neither run: both values are named, and nothing is touched."""
    run(UNet(SMALL), cells(), out=tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=text):
        run(UNet(SMALL), cells(), but(QUICK, **changes), out=tmp_path, resume=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("what", ["name", "image", "labels", "instances"])
@pytest.mark.parametrize("where", [0, 3])
def test_other_data_do_not_resume(tmp_path, what, where):
    """A changed name, pixel or mask, among the training images or the validation's, is no longer the run that began."""
    run(UNet(SMALL), cells(), out=tmp_path, stop=3)
    before = files(tmp_path)
    value = getattr(cells()[where], what)
    if what == "name":
        value = "another"
    else:
        value = value.copy()
        value.flat[0] += 1
    samples = [changed(s, **{what: value}) if i == where else s for i, s in enumerate(cells())]
    with pytest.raises(DataError, match=r"the images or masks changed since the run in .* began\. Bring the old ones back"):
        run(UNet(SMALL), Dataset(tuple(samples), ("background", "cell")), out=tmp_path, resume=True)
    assert files(tmp_path) == before


def test_a_run_is_not_ended_without_a_step(tmp_path):
    """Fewer steps than the run had, and none left to do: there would be no validation and no best, so one more is asked for."""
    run(UNet(SMALL), cells(), but(QUICK, validate_every=100), stop=3, out=tmp_path)
    before = files_left(tmp_path)
    with pytest.raises(ConfigError, match=r"has done 3 of 6 steps, asked for are 3\. Give at least 4: a run ends with a step"):
        fit(UNet(SMALL), cells()[:-1], cells()[-1:], but(QUICK, validate_every=100, steps=3), out=tmp_path, resume=True)
    assert files_left(tmp_path) == before
    records = run(UNet(SMALL), cells(), but(QUICK, validate_every=100, steps=4), out=tmp_path, resume=True)
    assert [(record.step, record.scores is not None) for record in records] == [(4, True)]
    assert load_checkpoint(tmp_path / "best.safetensors").step == 4


# One run a folder -----------------------------------------------------------------------------------------------------

HOLDER = """
import signal, sys
import numpy as np
import tinyunet as tu
data = tu.synthetic("phase", n=2, size=32, rng=np.random.default_rng(0))
config = tu.TrainConfig(steps=9, tile=8, validate_every=9)  # nothing is saved before it is killed
records = tu.fit(tu.UNet(tu.UNetSpec(base=2, depth=1), 0), data, (), config, out=sys.argv[1])
next(records)
print("at work", flush=True)
sys.stdin.read()
"""


def test_two_runs_in_one_folder_are_refused(tmp_path):
    """The second to begin is refused and touches nothing; when the first is closed, the second goes on from its last step."""
    first = fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path)
    next(first)
    (tmp_path / ".last-x.safetensors").write_bytes(b"half")
    before = files_left(tmp_path)
    second = fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path, resume=True)
    text = re.escape(f"fit: another run is at work in {tmp_path}. Wait for its end or stop it, then resume it; or give another")
    with pytest.raises(ConfigError, match=text):
        next(second)
    assert files_left(tmp_path) == before
    second = fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path, resume=True)  # checked before the first one's end
    first.close()
    assert next(second).step == 2
    second.close()


def test_a_run_that_ended_in_the_meantime_is_not_overwritten(tmp_path):
    """A folder that was free when `fit` was called, and holds a run when the loop begins, is refused then."""
    late = fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path)
    run(UNet(SMALL), cells(), out=tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        next(late)
    assert files(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_another_process_holds_the_folder_as_long_as_it_lives(tmp_path):
    """A run at work in another process is noticed; killed without a chance to clean up, it leaves no lock behind."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout.readline() == "at work\n"
            with pytest.raises(ConfigError, match="another run is at work in"):
                run(UNet(SMALL), cells(), out=tmp_path, resume=True)
        finally:
            other.kill()
    assert [record.step for record in run(UNet(SMALL), cells(), out=tmp_path, resume=True)] == [1, 2, 3, 4, 5, 6]


def test_without_locks_a_run_goes_on(tmp_path, monkeypatch):
    """A file system that knows no locks is no reason not to train."""
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert len(run(UNet(SMALL), cells(), out=tmp_path)) == 6


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file in the place of the folder is named, with the reason."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(DataError, match=r"fit: .*run cannot be written \(.+\)\. May you write there"):
        run(UNet(SMALL), cells(), out=tmp_path / "run")


# Ctrl-C in a script or a notebook -------------------------------------------------------------------------------------


def test_ctrl_c_gives_the_step_first(tmp_path, monkeypatch):
    """The interrupted step is finished, said by `notice`, yielded and saved; the next one asked for is a KeyboardInterrupt."""
    noticed, seen = [], []

    def interrupted(prepared, config, tile, step, rng):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return make_batch(prepared, config, tile, step, rng)

    monkeypatch.setattr(train, "make_batch", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config = but(QUICK, save_every=100, validate_every=100)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  the loop is what is interrupted
            for record in fit(UNet(SMALL), cells(), (), config, out=tmp_path, notice=lambda: noticed.append(len(seen))):
                seen.append(record.step)  # noqa: PERF401  an interrupted `extend` would leave nothing to look at
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1, 2, 3]
    assert noticed == [2]
    assert load_checkpoint(tmp_path / "last.safetensors").step == 3


# The log -------------------------------------------------------------------------------------------------------------


def test_the_log_is_utf8_whatever_the_locale(tmp_path):
    """Class names of any script reach log.csv, and come back on resuming, where the locale knows ASCII alone."""
    script = """
import sys
import numpy as np
import tinyunet as tu
from tinyunet.plot import read_log
data = tu.synthetic("phase", n=2, size=32, rng=np.random.default_rng(0))
data = tu.Dataset(data.samples, ("background", "\\u7d30\\u80de"))
for steps in (1, 2):
    config = tu.TrainConfig(steps=steps, tile=8)
    for _ in tu.fit(tu.UNet(tu.UNetSpec(base=2, depth=1), 0), data, (), config, out=sys.argv[1], resume=True):
        pass
assert len(read_log(sys.argv[1] + "/log.csv")) == 2
"""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, **ascii_only}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "val_predicted_\u7d30\u80de" in (tmp_path / "log.csv").read_text(encoding="utf-8")


# Longer, shorter, another rate ----------------------------------------------------------------------------------------


def test_a_longer_run_is_a_shorter_one_continued(tmp_path):
    """With a constant learning rate, a finished run that is given more steps ends with the bytes of one that had them at once."""
    config = but(QUICK, schedule="constant", steps=8)
    run(UNet(SMALL), cells(), config, out=tmp_path / "whole")
    run(UNet(SMALL), cells(), but(config, steps=4), out=tmp_path / "longer")
    records = run(UNet(SMALL), cells(), config, out=tmp_path / "longer", resume=True)
    assert [record.step for record in records] == [5, 6, 7, 8]
    assert files(tmp_path / "longer") == files(tmp_path / "whole")


def test_steps_and_learning_rate_may_change(tmp_path):
    """A finished cosine goes on where the new length and the new learning rate have it; the checkpoint holds these."""
    run(UNet(SMALL), cells(), out=tmp_path)
    config = but(QUICK, steps=9, lr=0.02)
    records = run(UNet(SMALL), cells(), config, out=tmp_path, resume=True)
    assert [record.lr for record in records] == [0.02 * schedule("cosine", step, 9, 2) for step in (6, 7, 8)]
    assert load_checkpoint(tmp_path / "last.safetensors").config == config.to_dict()


def test_what_cannot_be_validated_fails_at_once(tmp_path):
    """Memory for the validation is looked at by the call of `fit`, before any step and any folder; the remedy works."""
    model, out = UNet(SMALL), tmp_path / "run"
    with pytest.raises(ConfigError, match=r"fit: image 3 could not be validated\. .*give at least (\d+) MiB") as caught:
        fit(model, cells()[:3], cells()[3:], but(QUICK, max_mem=20.0), out=out)
    assert not out.exists()
    least = float(re.search(r"at least (\d+) MiB", str(caught.value))[1])
    assert len(run(model, cells(), but(QUICK, max_mem=least), out=out)) == 6


def test_another_network_does_not_resume(tmp_path):
    """Nor does a run go on with another network; both specs are named."""
    run(UNet(SMALL), cells(), out=tmp_path, stop=2)
    with pytest.raises(ConfigError, match=r"last\.safetensors holds UNetSpec\(.*base=2.*asked for is UNetSpec\(.*base=3"):
        run(UNet(SMALL.but(base=3)), cells(), out=tmp_path, resume=True)


def test_resuming_needs_a_folder():
    """resume=True without a folder is refused, rather than starting anew without a word."""
    with pytest.raises(ConfigError, match=r"there is no run to resume without its folder\. Give out="):
        next(fit(UNet(SMALL), cells(), (), QUICK, resume=True))


def changed(sample, **changes):
    """A sample with some fields changed."""
    return Sample(**{"name": sample.name, "image": sample.image, "labels": sample.labels} | changes)


GOOD = cells(1)[0]
NAN = GOOD.image.astype(np.float32)
NAN[3, 4] = np.nan


@pytest.mark.parametrize(
    ("train_on", "val", "choices", "text"),
    [
        ([], [], {}, r"there are no training images"),
        ([changed(GOOD, image=np.zeros((22, 26, 3)))], [], {}, r"training image image 0 has 3 channels, the network takes 1"),
        ([changed(GOOD, image=np.zeros((22, 26)))], [], {}, r"shape \(22, 26\), expected \(H, W, C\)\. A grey.*\[\.\.\., None\]"),
        ([GOOD], [GOOD], {"channels": 3}, r"has 1 channels, the network takes 3\. Make the network with channels=1"),
        ([GOOD], [changed(GOOD, name="v", image=GOOD.image[:9])], {}, r"validation image v is \(9, 26\), its labels \(22, 26\)"),
        (
            [changed(GOOD, instances=GOOD.instances[:9])], [], {},
            r"training image image 0 is \(22, 26\), its instances \(9, 26\)\. Give instances \(H, W\) of the image's size",
        ),
        ([changed(GOOD, labels=GOOD.labels * 4)], [], {}, r"has label 4, the network has classes 0 to 1\. .*classes=5"),
        ([changed(GOOD, labels=GOOD.labels * 2)], [], {"classes": 1}, r"has label 2, the network has classes 0 to 1"),
        ([changed(GOOD, labels=GOOD.labels * 0 + IGNORE)], [], {}, r"not one training pixel is annotated"),
        ([changed(GOOD, image=NAN)], [], {}, r"training image image 0 holds NaN or infinite values\. Replace them"),
        ([GOOD], [changed(GOOD, name="v", image=NAN)], {}, r"validation image v holds NaN or infinite values"),
        (cells(2), [], {"classes": 3}, r"the data name 2 classes \(background, cell\), the network has 3"),
    ],
)
@pytest.mark.parametrize("normalization", ["image", "none"])
def test_data_that_do_not_suit_the_network(tmp_path, train_on, val, choices, text, normalization):
    """All images are checked before the first step, the validation's too; the image and both values are named."""
    model = UNet(SMALL.but(**choices))
    with pytest.raises(DataError, match=text):
        next(fit(model, train_on, val, but(QUICK, normalization=normalization), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# When numbers run away -----------------------------------------------------------------------------------------------


def is_sound(path):
    """Whether a checkpoint loads and holds finite numbers only."""
    saved = load_checkpoint(path)
    return all(np.isfinite(a).all() for arrays in (saved.model.state(), saved.optimizer) for a in arrays.values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("lr", [1e15, 1e30, 1e38, 1e39, 1e300])
def test_a_learning_rate_that_is_far_too_large(tmp_path, optimizer, lr):
    """The run stops with step, learning rate and images; no checkpoint ever holds NaN, not even one of a left loop."""
    config = but(QUICK, steps=50, lr=lr, optimizer=optimizer, save_every=1, warmup=0, schedule="constant")
    model = UNet(SMALL)
    seen = []

    def drive():
        for record in fit(model, cells()[:3], (), config, out=tmp_path):
            seen.append(record)
            assert is_sound(tmp_path / "last.safetensors")

    with pytest.raises(TrainingError) as caught:
        drive()
    assert f"at step {len(seen) + 1} (learning rate {lr:.3g}, images image " in str(caught.value)
    assert "Lower the learning rate, and look at these images." in str(caught.value)
    assert ("holds the last good state" in str(caught.value)) == (tmp_path / "last.safetensors").exists()
    assert len(seen) < 20
    assert all(math.isfinite(record.loss) for record in seen)
    if seen:
        assert load_checkpoint(tmp_path / "last.safetensors").step == len(seen)
    else:
        assert not (tmp_path / "last.safetensors").exists()


def test_an_image_that_is_far_too_bright(tmp_path):
    """A finite image whose numbers overflow in the network is named; the checkpoint before it is kept, byte for byte."""
    data = cells(5, dtype="float32")
    samples = [*data[:3], changed(data[3], name="the bright one", image=data[3].image * np.float32(1e36)), data[4]]
    config = but(QUICK, batch=1, normalization="none", save_every=1)
    saved = []

    def drive():
        saved.extend((tmp_path / "last.safetensors").read_bytes() for _ in fit(UNet(SMALL), samples, (), config, out=tmp_path))

    with pytest.raises(TrainingError) as caught:
        drive()
    assert saved
    assert re.search(rf"at step {len(saved) + 1} \(learning rate [\d.e-]+, images the bright one\)", str(caught.value))
    assert (tmp_path / "last.safetensors").read_bytes() == saved[-1]
    assert is_sound(tmp_path / "last.safetensors")


def test_weights_are_checked_without_a_folder():
    """Also where nothing is saved, the last step does not end well with weights that are infinite."""
    with pytest.raises(TrainingError, match=r"down\.0\.conv1\.w holds NaN or infinite values at step 1"):
        list(fit(UNet(SMALL), cells(), (), but(QUICK, steps=1, lr=1e39, warmup=0)))


def test_moments_are_checked_too(monkeypatch):
    """An infinite second moment would freeze its weight for good without a sign: the run stops."""
    real = train.energy
    monkeypatch.setattr(train, "energy", lambda *args: (real(*args)[0], real(*args)[1] * np.float32(1e22)))
    with pytest.raises(TrainingError, match=r"square\..* holds NaN or infinite values at step 1"):
        list(fit(UNet(SMALL), cells(), (), QUICK))


def test_nothing_is_remembered_after_an_error():
    """The memory of the failed step is given back, though the network lives on."""
    model = UNet(SMALL)
    with pytest.raises(TrainingError):
        list(fit(model, cells(), (), but(QUICK, lr=1e30)))
    assert all(layer._ctx is None for layer in model.layers)


def biased(towards):
    """A network that answers one class everywhere, and a learning rate that leaves it so."""
    model = UNet(SMALL)
    model.head.params["b"][towards] = 1000
    return model, but(QUICK, lr=1e-9, validate_every=1)


@pytest.mark.parametrize(("towards", "name"), [(0, "background"), (1, "cell")])
def test_a_constant_network_is_reported(towards, name):
    """A network that calls everything one class says so at every validation."""
    model, config = biased(towards)
    for record in run(model, cells(), config):
        assert f"the network calls 100.00% of all pixels '{name}'. Early on that passes; if it stays, lower" in record.notes[0]


def test_a_constant_truth_is_no_reason_to_worry():
    """Where the images hold background only, answering background is right: no note, no score, and no error."""
    model, config = biased(0)
    empty = [changed(GOOD, labels=np.zeros_like(GOOD.labels))]
    records = list(fit(model, cells(), empty, config))
    assert [record.notes for record in records] == [()] * 6
    assert all(math.isnan(record.scores.mean_iou) for record in records)


def test_a_first_score_that_is_undefined(tmp_path, monkeypatch):
    """NaN is no best score; the first number is one, and lower ones and NaN do not replace it."""
    hits = iter([None, 2, None, 1, 2, 3])  # of 4 pixels; None: an image without cells

    def evaluated(*_, **__):
        n = next(hits)
        return Scores(np.array([[9, 0], [0, 0]] if n is None else [[5, 4 - n], [0, n]]))

    monkeypatch.setattr(train, "evaluate", evaluated)
    records = run(UNet(SMALL), cells(), but(QUICK, validate_every=1), out=tmp_path)
    news = [note for record in records for note in record.notes if "best" in note]
    assert news == ["best so far: IoU 0.5000", "best so far: IoU 0.7500"]
    best = load_checkpoint(tmp_path / "best.safetensors")
    assert best.step == best.best["step"] == 6
    assert best.best["mean_iou"] == 0.75


def test_the_best_step_has_the_highest_mean_of_iou_and_seg(tmp_path, monkeypatch):
    """Where objects are annotated, SEG counts as much as IoU; a resumed run remembers both."""
    steps = iter([(3, 0.1), (2, 0.9), (3, 0.2), (2, 0.8), (3, 0.6), (3, 0.7)])  # means: 0.425 0.7 0.475 0.65 0.675 0.725

    def evaluated(*_, **__):
        n, seg = next(steps)
        return Scores(np.array([[5, 4 - n], [0, n]]), seg_scores=np.array([seg]))

    monkeypatch.setattr(train, "evaluate", evaluated)
    config = but(QUICK, validate_every=1)
    records = run(UNet(SMALL), cells(), config, out=tmp_path, stop=3)
    records += run(UNet(SMALL), cells(), config, out=tmp_path, resume=True)
    news = {record.step: note for record in records for note in record.notes if "best" in note}
    assert news == {
        1: "best so far: IoU 0.7500, SEG 0.1000", 2: "best so far: IoU 0.5000, SEG 0.9000",
        6: "best so far: IoU 0.7500, SEG 0.7000",
    }  # fmt: skip
    assert load_checkpoint(tmp_path / "best.safetensors").step == 6


# What a run gives ----------------------------------------------------------------------------------------------------


def test_records_and_files_of_a_run(tmp_path):
    """A record a step; last, best and log in the folder; a line a step in the log, with scores where it was validated."""
    model = UNet(SMALL)
    records = run(model, cells(), out=tmp_path)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.scores is not None for record in records] == [False, True] * 3
    for record in records:
        assert record.lr == QUICK.lr * schedule("cosine", record.step - 1, 6, 2)
        assert 0 <= record.data_seconds <= record.seconds
        assert len(record.samples) == 2
        assert set(record.samples) <= {"image 0", "image 1", "image 2"}

    last, best = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("last", "best"))
    scores = [record.scores.mean_iou + record.scores.seg for record in records if record.scores]
    assert last.step == 6
    assert best.step == 2 * (1 + int(np.argmax(scores)))
    assert last.best == best.best == {"step": best.step, **records[best.step - 1].scores.as_dict()}
    assert last.config == QUICK.to_dict()
    assert last.optimizer.keys() == Adam(model).state().keys()
    assert best.optimizer == {}
    for name, array in model.state().items():
        np.testing.assert_array_equal(last.model.state()[name], array)

    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, record in zip(rows, records, strict=True):
        assert float(row["loss"]) == pytest.approx(record.loss, rel=1e-6)
        if record.scores is None:
            assert row["val_iou"] == row["val_predicted_cell"] == ""
        else:
            assert float(row["val_iou"]) == pytest.approx(record.scores.mean_iou, abs=1e-6)
            assert float(row["val_predicted_background"]) + float(row["val_predicted_cell"]) == pytest.approx(1, abs=2e-6)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "best.safetensors", "last.safetensors", "log.csv", "weights"}


def test_same_seed_same_bytes_and_no_trace_of_validation(tmp_path):
    """A run is a function of its seed; validating more often, with dropout and batch norm, changes no weight."""
    spec = PRESETS["same_bn"].but(base=2, depth=1, dropout=0.5)
    data, results = cells(), []
    runs = [(QUICK, data[3:]), (QUICK, data[3:]), (but(QUICK, validate_every=1), data[3:]), (QUICK, ()), (but(QUICK, seed=1), ())]
    for i, (config, val) in enumerate(runs):
        model = UNet(spec)
        list(fit(model, data[:3], val, config, out=tmp_path / str(i)))
        results.append(b"".join(array.tobytes() for array in model.state().values()))
    assert results[0] == results[1] == results[2] == results[3]
    assert results[4] != results[0]
    assert files(tmp_path / "0") == files(tmp_path / "1")


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("preset", ["paper", "same_bn"])
def test_it_learns(classes, preset):
    """With one logit, two classes and three: the loss falls to a fraction, and the images are segmented."""
    model = UNet(PRESETS[preset].but(base=6, depth=1, dropout=0.0, classes=classes))
    data = cells(3, classes=max(classes, 2))
    config = TrainConfig(steps=150, tile=16, lr=2e-2, warmup=0, weight_map="balance", border=0, augment=Augment.none())
    records = list(fit(model, data, data, config))
    first, last = (np.mean([record.loss for record in part]) for part in (records[:5], records[-5:]))
    assert last < 0.35 * first
    assert records[-1].scores.mean_iou > 0.75
    assert records[-1].scores.iou.min() > 0.7


def test_memory_of_training_returns():
    """After a run, left early or not, no layer remembers anything, and what training took is free again."""
    model, config = UNet(SMALL.but(base=4)), TrainConfig(steps=4, tile=100, weight_map="none", augment=Augment.none())
    data = [Sample("large", np.zeros((200, 200, 1), np.uint8), np.zeros((200, 200), np.int32))]
    run_through = [lambda: list(fit(model, data, (), config)), lambda: next(fit(model, data, (), config))]
    for through in run_through:
        through()  # what is imported and cached the first time does not count
        tracemalloc.start()
        try:
            through()
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(layer._ctx is None for layer in model.layers)
        assert peak > 1e6
        assert now < 0.02 * peak


# The parts of a step -------------------------------------------------------------------------------------------------


def ramp(name, height, width):
    """An image that holds its own coordinates, with labels and weights made of them."""
    i, j = np.mgrid[:height, :width]
    image = np.stack([i, j], -1).astype(np.float32)
    labels, weights = (i * 100 + j).astype(np.int32), (i + j / 128).astype(np.float32)
    return train.Prepared(name, image, labels, weights, mean=np.zeros(2, np.float32), std=np.ones(2, np.float32))


SIZES = st.integers(1, 40)


@given(SIZES, SIZES, st.sampled_from([(18, 2), (26, 10), (10, 10)]), st.integers(1, 3), st.integers(0, 999))
def test_tiles_are_aligned_and_inside(height, width, tile, batch, step):
    """Labels and weights are those of the image's pixels in the middle of x; a tile that fits lies inside the image."""
    config = TrainConfig(batch=batch, augment=Augment.none())
    size_in, size_out = tile
    x, labels, weights, names = make_batch([ramp("a", height, width)], config, tile, step + 1, np.random.default_rng(step))
    assert x.shape == (batch, size_in, size_in, 2)
    assert labels.shape == weights.shape == (batch, size_out, size_out)
    assert (x.dtype, labels.dtype, weights.dtype) == (np.float32, np.int32, np.float32)
    assert names == ("a",) * batch

    m = (size_in - size_out) // 2
    rows, cols = (x[:, m : m + size_out, m : m + size_out, k] for k in (0, 1))
    np.testing.assert_array_equal(labels, 100 * rows + cols)
    np.testing.assert_array_equal(weights, rows + cols / 128)
    for n, here in ((height, rows[:, :, 0]), (width, cols[:, 0, :])):
        if n >= size_out:  # consecutive pixels, hence nothing mirrored
            np.testing.assert_array_equal(np.diff(here, axis=1), 1)
        else:  # the whole image is in the tile, in its middle
            assert all(set(range(n)) == set(part.tolist()) for part in here)
            first = (size_out // 2) - n // 2
            np.testing.assert_array_equal(here[:, first : first + n], np.broadcast_to(np.arange(n), (batch, n)))


def test_tiles_reach_every_place():
    """Over many steps, tiles begin at the first possible pixel and at the last, and everywhere between."""
    config = TrainConfig(augment=Augment.none())
    starts = set()
    for step in range(1, 200):
        x, *_ = make_batch([ramp("a", 17, 12)], config, (10, 10), step, np.random.default_rng(step))
        starts.add((int(x[0, 0, 0, 0]), int(x[0, 0, 0, 1])))
    assert starts == {(i, j) for i in range(8) for j in range(3)}


def test_moved_tiles_stay_aligned():
    """Shifted, turned, mirrored and bent, x, labels and weights still show the same places."""
    config = TrainConfig(batch=4, augment=Augment(gain=0, offset=0, gamma=0, elastic=2))
    moved = 0
    for step in range(1, 6):
        x, labels, weights, _ = make_batch([ramp("a", 90, 90)], config, (42, 26), step, np.random.default_rng(step))
        rows, cols = x[:, 8:-8, 8:-8, 0], x[:, 8:-8, 8:-8, 1]
        np.testing.assert_allclose(weights, rows + cols / 128, atol=1e-3)
        assert np.abs(labels // 100 - rows).max() <= 0.501
        assert np.abs(labels % 100 - cols).max() <= 0.501
        moved += (np.abs(np.diff(rows, axis=1) - 1) > 0.01).any()
    assert moved


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_image_once_an_epoch(batch):
    """Whatever the batch, each epoch takes every image once, in another order than the epoch before."""
    images = [ramp(str(i), 4, 4) for i in range(5)]
    config = TrainConfig(batch=batch, seed=4, augment=Augment.none())
    names = []
    for step in range(1, 41):
        names += make_batch(images, config, (4, 4), step, np.random.default_rng(0))[3]
    epochs = [tuple(names[k : k + 5]) for k in range(0, len(names) - 4, 5)]
    assert all(sorted(epoch) == list("01234") for epoch in epochs)
    assert len(set(epochs)) > len(epochs) // 2


def test_a_batch_is_a_function_of_seed_and_step():
    """Same seed and step, same bytes; another step or seed, another batch."""

    def batch(seed, step):
        images, rng = [ramp(str(i), 30, 30) for i in range(3)], np.random.default_rng((seed, step))
        x, labels, weights, names = make_batch(images, TrainConfig(seed=seed, batch=2), (26, 10), step, rng)
        return x.tobytes(), labels.tobytes(), weights.tobytes(), names

    assert batch(1, 5) == batch(1, 5)
    assert len({batch(seed, step) for seed in (1, 2) for step in (5, 6, 7)}) == 6


def test_batches_are_normalised():
    """x = (image - mean) / std with the statistics of the whole image, not of the tile."""
    one = ramp("a", 30, 30)._replace(mean=np.array([3, 5], np.float32), std=np.array([2, 4], np.float32))
    config = TrainConfig(augment=Augment.none())
    x, labels, *_ = make_batch([one], config, (10, 10), 1, np.random.default_rng(0))
    np.testing.assert_allclose(x[..., 0], (labels // 100 - 3) / 2)
    np.testing.assert_allclose(x[..., 1], (labels % 100 - 5) / 4)


def test_energy_of_one_logit_is_that_of_two():
    """One logit a has the loss of the two logits (0, a), and the gradient of the second."""
    rng = np.random.default_rng(0)
    a, labels = rng.normal(size=(2, 3, 4, 1)), rng.integers(-1, 2, (2, 3, 4))
    weights = rng.random((2, 3, 4))
    loss, da = energy(a, labels, weights)
    two, ctx = softmax_cross_entropy_forward(np.concatenate([0 * a, a], -1), labels, weights)
    assert loss == pytest.approx(two, rel=1e-12)
    np.testing.assert_allclose(da, softmax_cross_entropy_backward(ctx)[..., 1:], atol=1e-15)
    assert energy(np.concatenate([0 * a, a], -1), labels, weights)[0] == two


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("tile", "sides", "wanted"), [(0, [(30, 20), (9, 41)], 41), (0, [(30, 999)], 388), (57, [(30, 20)], 57)])
def test_the_tile_is_the_smallest_that_covers(padding, tile, sides, wanted):
    """tile pixels of output, rounded up to what fits; 0 is the largest image, but at most the paper's 388."""
    model = UNet(UNetSpec(base=1, depth=3, padding=padding))
    samples = [Sample("a", np.zeros((h, w, 1)), np.zeros((h, w), np.int32)) for h, w in sides]
    size_in, size_out = tile_size(model, samples, TrainConfig(tile=tile))
    assert size_out == output_size(model.spec, size_in) >= wanted
    smaller = [n for n in range(1, size_in) if fits(model.spec, n) and n - 2 * margin(model.spec) >= wanted]
    assert not smaller


# Made ready once -----------------------------------------------------------------------------------------------------


def test_touching_cells_are_separated():
    """Between two cells that touch, labels become background and weigh more than any other; the sample stays as it was."""
    sample = cells(1)[0]
    labels = sample.labels.copy()
    (ready,) = prepare([sample], TrainConfig(), Normalization())
    np.testing.assert_array_equal(sample.labels, labels)
    gap = (ready.labels == 0) & (labels == 1)
    assert set(zip(*np.nonzero(gap), strict=True)) == {(i, j) for i in range(3, 11) for j in (8, 9)}  # two pixels wide
    assert ready.labels.dtype == np.int32
    assert (ready.labels[~gap] == labels[~gap]).all()
    assert ready.weights[gap].min() > ready.weights[~gap].max()
    (wide,) = prepare([sample], TrainConfig(border=4), Normalization())
    assert ((wide.labels == 0) & (labels == 1)).sum() == 2 * gap.sum()
    (together,) = prepare([sample], TrainConfig(border=0), Normalization())
    np.testing.assert_array_equal(together.labels, labels)


def test_unknown_pixels_stay_unknown():
    """IGNORE stays, also within a gap that is opened, and weighs 0; it does not count for the balance of classes."""
    sample = cells(1)[0]
    labels = sample.labels.copy()
    labels[5, 7:11] = labels[21] = IGNORE
    (ready,) = prepare([changed(sample, labels=labels, instances=sample.instances)], TrainConfig(), Normalization())
    np.testing.assert_array_equal(ready.labels == IGNORE, labels == IGNORE)
    np.testing.assert_array_equal(ready.weights == 0, labels == IGNORE)
    counts = [(ready.labels == k).sum() for k in (0, 1)]
    assert ready.weights[ready.labels == 1][0] == pytest.approx(sum(counts) / (2 * counts[1]))


@pytest.mark.parametrize("kept", [False, True])
def test_classes_are_balanced_over_all_images(tmp_path, kept):
    """w_c is that of the whole training set: an image with one small cell does not make that cell weigh a hundredfold."""
    few, many = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    few[0, 0], many[:10] = 1, 1
    samples = [Sample(str(k), np.zeros((20, 20, 1), np.uint8), labels) for k, labels in enumerate((few, many))]
    for ready in prepare(samples, TrainConfig(), Normalization(), tmp_path if kept else None):
        np.testing.assert_allclose(ready.weights, np.where(ready.labels == 1, 800 / (2 * 201), 800 / (2 * 599)), rtol=1e-6)


@pytest.mark.parametrize("name", ["ronneberger2015", "falk2019", "balance", "none"])
def test_weight_maps_by_name(name):
    """The setting chooses the formula; "balance" is that of the classes alone; "none" is no map."""
    sample = cells(1)[0]
    (ready,) = prepare([sample], TrainConfig(weight_map=name, border=0), Normalization())
    if name == "none":
        assert ready.weights is None
    elif name == "balance":
        assert len(np.unique(ready.weights)) == 2
    else:
        np.testing.assert_array_equal(ready.weights, weight_map(sample.instances, sample.labels, name))
    if name != "none":
        (own,) = prepare([sample], TrainConfig(weight_map=name, border=0, w0=30.0, sigma=2.0), Normalization())
        assert not np.array_equal(own.weights, ready.weights)


def test_weight_maps_are_kept(tmp_path, monkeypatch):
    """With a folder, maps are computed once: the second time none is, and they are the same."""
    data = cells(3)
    first = prepare(data, TrainConfig(), Normalization(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3

    def again(*_):
        pytest.fail("a weight map was computed again")

    monkeypatch.setattr("tinyunet.data.weight_map.weight_map", again)
    for one, two, plain in zip(first, prepare(data, TrainConfig(), Normalization(), tmp_path), first, strict=True):
        np.testing.assert_array_equal(one.weights, two.weights)
        assert two.name == plain.name
    monkeypatch.undo()
    for one, plain in zip(first, prepare(data, TrainConfig(), Normalization()), strict=True):
        np.testing.assert_array_equal(one.weights, plain.weights)


def test_statistics_come_from_the_normalisation():
    """mean and std of a prepared sample are those that the normalisation gives for its whole image."""
    data = cells(2)
    for mode in ("image", "dataset", "none"):
        normalization = Normalization.fit(mode, (sample.image for sample in data))
        for sample, ready in zip(data, prepare(data, TrainConfig(), normalization), strict=True):
            np.testing.assert_array_equal((ready.mean, ready.std), normalization.stats(sample.image))
            assert ready.image is sample.image


def test_how_masks_were_read_is_kept(tmp_path):
    """The checkpoint holds `Dataset.reading`; of plain samples nothing is known."""
    data, config = cells(2), TrainConfig(steps=1, tile=8, warmup=0)
    for samples, expected in ((replace(data, reading={"kind": "binary"}), {"kind": "binary"}), (list(data), {})):
        out = tmp_path / str(len(expected))
        assert len(list(fit(UNet(SMALL), samples, config=config, out=out))) == 1
        assert load_checkpoint(out / "last.safetensors").reading == expected


# Settings ------------------------------------------------------------------------------------------------------------


def test_settings_round_trip():
    """to_dict survives JSON, and from_dict makes the same settings of it; what is not given has its default."""
    config = TrainConfig(steps=7, lr=0.1 + 0.2, w0=3.0, optimizer="sgd", augment=Augment(rotation=10.0, flips=False), seed=5)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict({}) == TrainConfig()
    assert TrainConfig.from_dict({"augment": {"shift": 3}}) == TrainConfig(augment=Augment(shift=3))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"learning_rate": 1}, r"TrainConfig has no setting 'learning_rate'\. It has: steps, batch, tile, optimizer, lr,"),
        ({"augment": {"rotate": 1}}, r"Augment has no setting 'rotate'\. It has: shift, rotation,"),
        ({"steps": 0}, r"steps is 0\. Give a whole number of at least 1"),
        ({"batch": 1.5}, r"batch is 1\.5\. Give a whole number of at least 1"),
        ({"seed": -1}, r"seed is -1\. Give a whole number of at least 0"),
        ({"tile": True}, r"tile is True\. Give a whole number"),
        ({"optimizer": "lion"}, r"optimizer 'lion' is neither 'adam' nor 'sgd'"),
        ({"weight_map": "own"}, r"weight_map 'own' is none of ronneberger2015, falk2019, balance, none"),
        ({"schedule": "linear"}, r"there is no schedule 'linear'"),
        ({"lr": 0.0}, r"TrainConfig: lr is 0\.0\. Give a positive number"),
        ({"lr": math.nan}, r"lr is nan\. Give a positive number"),
        ({"max_mem": -1.0}, r"max_mem is -1\.0\. Give a positive number"),
        ({"momentum": 1.0}, r"momentum is 1\.0\. Give at least 0 and less than 1"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1\. Give 0 or a positive number"),
        ({"border": 3}, r"border is 3\. Give an even number"),
        ({"sigma": 0.0}, r"sigma 0\.0 must be a positive number of pixels"),
        ({"weight_map": "none", "w0": 5.0}, r"w0 is 5\.0, but weight_map 'none' has no w0\. Leave w0 out, or choose .*2015'"),
        ({"weight_map": "none", "sigma": 5.0}, r"sigma is 5\.0, but weight_map 'none' has no sigma"),
        ({"weight_map": "none", "balance": "none"}, r"balance is 'none', but weight_map 'none' has no balance.*e\.g\. 'balance'"),
        ({"weight_map": "balance", "sigma": 5.0}, r"sigma is 5\.0, but weight_map 'balance' has w0 = 0.*or give w0 as well"),
        ({"normalization": "rank"}, r"mode 'rank' is none of 'image'"),
        ({"augment": {"gain": 2}}, r"gain 2 could invert the contrast"),
    ],
)
def test_impossible_settings(values, text):
    """A name that does not exist, or a value that cannot be, is refused with what there is."""
    with pytest.raises(ConfigError, match=text):
        TrainConfig.from_dict(values)


def test_prepare_says_which_map_does_not_fit():
    """By itself, too, `prepare` refuses objects of another size than the image, by name and with both sizes."""
    sample = changed(GOOD, instances=GOOD.instances[:, :9])
    with pytest.raises(DataError, match=r"prepare: image image 0 is \(22, 26\), its instances \(22, 9\)\. Give instances"):
        prepare([sample], QUICK, Normalization())


@pytest.mark.parametrize("labels", [np.full((20, 20), 0.9), np.full((20, 20), -7)])
def test_labels_must_be_classes(labels):
    """Masks divided by 255 would be trained on as zeros, and -7 is no class: both are refused before the first step."""
    sample = Sample("a", np.zeros((20, 20, 1), np.uint8), labels)
    with pytest.raises(DataError, match=r"training image a has \w+ labels from (0.9|-7) on. Give whole numbers"):
        list(fit(UNet(PRESETS["same_bn"].but(base=2, depth=1)), [sample], (), TrainConfig(steps=1)))


def test_gradients_from_before_do_not_enter_the_first_step():
    """Whatever was done with the network before, a run starts from gradients of zero."""
    sample = tinyunet.synthetic("dic", 1, 32, np.random.default_rng(0))[0]
    used, fresh = (UNet(PRESETS["same_bn"].but(base=2, depth=1)) for _ in range(2))
    for grad in used.grads().values():
        grad += 1
    for model in (used, fresh):
        list(fit(model, [sample], (), TrainConfig(steps=2)))
    for name, array in used.params().items():
        np.testing.assert_array_equal(array, fresh.params()[name])
