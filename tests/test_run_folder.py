"""The folder of a run: which run is resumed, one at a time, and a log."""

import errno
import os
import re
import subprocess
import sys

import pytest
from small_runs import QUICK, ROOT, SMALL, but, cells, changed, files, files_left, run

from tinyunet.checkpoint import load_checkpoint
from tinyunet.data.sample import Dataset
from tinyunet.errors import ConfigError, DataError
from tinyunet.run_folder import alone_in
from tinyunet.train import fit
from tinyunet.unet import UNet

# What is not resumed -------------------------------------------------------------------------------------------------


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


def test_begun_is_called_when_the_folder_is_this_runs_alone(tmp_path):
    """Once, under the lock and before anything else is written; not by a run that is refused, though `fit` was called."""
    seen = []

    def begun():
        seen.append([path.name for path in tmp_path.iterdir()])
        with pytest.raises(ConfigError, match="another run is at work"):
            run(UNet(SMALL), cells(), out=tmp_path, begun=lambda: seen.append("refused"))

    first = fit(UNet(SMALL), cells(), (), QUICK, out=tmp_path, begun=begun)
    assert seen == []
    assert [record.step for record in first] == [1, 2, 3, 4, 5, 6]
    assert seen == [[".lock"]]


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


def test_a_browser_has_no_locks(tmp_path, monkeypatch):
    """Nor another process: the run goes on."""
    monkeypatch.setattr(sys, "platform", "emscripten")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file in the place of the folder is named, with the reason."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(DataError, match=r"fit: .*run cannot be written \(.+\)\. May you write there"):
        run(UNet(SMALL), cells(), out=tmp_path / "run")


# The log ---------------------------------------------------------------------------------------------------------------


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
