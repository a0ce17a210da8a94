"""A run that is killed or left anywhere goes on as if nothing had happened; longer, shorter and at another rate."""

import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_runs import QUICK, ROOT, SMALL, but, cells, files, run

from tinyunet import train
from tinyunet.checkpoint import load_checkpoint
from tinyunet.errors import ConfigError
from tinyunet.metrics import Scores
from tinyunet.optim import Adam, Optimizer, schedule
from tinyunet.spec import PRESETS
from tinyunet.train import fit, make_batch
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

# Killed anywhere -----------------------------------------------------------------------------------------------------

# One process that forks a child for every attempt. A child trains with resume=True. It is killed by a signal, by itself at
# the k-th of all moments that matter (before a batch, around a line of the log, halfway through a file, before and after
# a rename), or by its parent at a random time.
KILLER = """
import json, os, shutil, signal, sys, time, traceback
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
os.fsync = lambda number: None  # for power cuts alone; the system keeps what a killed process wrote
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
    # A run that is killed again and again: wherever it is, then k moments after it went on.
    folder, kills, limit = f"random {r}", [], seconds
    while "killed" not in kills:  # it came to its end before the signal did: once more from the start, and sooner
        shutil.rmtree(base / folder, ignore_errors=True)
        kills, limit = [attempt(folder, seconds=rng.uniform(0, limit))], limit / 2
    while "finished" not in kills:
        kills.append(attempt(folder, kill_at=int(rng.integers(1, 25))) if len(kills) < 6 else attempt(folder))
        kills.append(attempt(folder, seconds=rng.uniform(0, seconds)) if len(kills) < 6 else attempt(folder))
    outcomes[folder] = kills
sys.stdout.write(json.dumps(outcomes))
"""


def killed_runs(base, spec, config, first=1, every=1, random=0, plant=None, by="SIGKILL"):
    """Folder -> what happened to the attempts in it: "killed", "interrupted" with all steps saved, "finished" or "failed"."""
    job = {"spec": spec.to_dict(), "config": config.to_dict(), "first": first, "every": every, "random": random, "plant": plant,
           "signal": by}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(base), json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


KILLED = TrainConfig(steps=5, tile=8, batch=2, lr=1e-2, warmup=2, validate_every=2, save_every=3, seed=3)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as on POSIX")


@needs_fork
@pytest.mark.parametrize(
    ("spec", "config", "first", "every", "random"),
    [
        (SMALL, KILLED, 1, 3, 1),
        pytest.param(SMALL, KILLED, 1, 1, 3, marks=pytest.mark.slow),
        pytest.param(SMALL, but(KILLED, optimizer="sgd", weight_decay=1e-3, schedule="poly", normalization="dataset"), 2, 4, 1,
                     marks=pytest.mark.slow),
        pytest.param(PRESETS["same_bn"].but(base=2, depth=1, dropout=0.5), KILLED, 3, 4, 1, marks=pytest.mark.slow),
    ],
    ids=["adam", "adam, every moment", "sgd", "same_bn"],
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
@pytest.mark.slow
def test_writing_in_place_would_be_seen(tmp_path):
    """Planted: without atomic writes, a kill within a save leaves half a file, and the run cannot be resumed."""
    outcomes = killed_runs(tmp_path, SMALL, but(KILLED, steps=2), plant="in place")
    assert ["killed", "failed"] in outcomes.values()


@needs_fork
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_moment_saves_the_steps_done(tmp_path, every):
    """SIGINT in a script, at any moment, also within a step: the step is finished and saved; resumed, the bytes are the same."""
    outcomes = killed_runs(tmp_path, SMALL, KILLED, every=every, by="SIGINT")
    expected = files(tmp_path / "undisturbed")
    assert outcomes.pop("undisturbed") == ["finished"]
    assert len(outcomes) > 24 / every
    for folder, what in outcomes.items():
        assert what == ["interrupted", "finished"], folder
        assert files(tmp_path / folder) == expected, folder


@needs_fork
@pytest.mark.slow
def test_a_ctrl_c_that_does_not_wait_would_be_seen(tmp_path):
    """Planted: raised at once, it leaves steps in the log that no checkpoint has."""
    outcomes = killed_runs(tmp_path, SMALL, but(KILLED, steps=3), every=3, plant="at once", by="SIGINT")
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
