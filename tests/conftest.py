"""Shared by all tests: derandomised Hypothesis, a generator with a fixed seed, and where real images and helpers may be found."""

import os
import signal
import sys
from pathlib import Path

WORKER = "PYTEST_XDIST_WORKER" in os.environ
BLAS_THREADS = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
if WORKER and not BLAS_THREADS & os.environ.keys():  # a worker has one core, and idle threads of BLAS turn in circles
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell; what tests interrupt inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("COLUMNS", None)  # workers get one from the readline of their parent; tables are for a pipe, which has no width

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ["MPLBACKEND"] = "Agg"  # not by Matplotlib itself: what needs no figure runs where it is not installed
sys.path.insert(0, str(Path(__file__).parent))  # for helpers that several files of tests import

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, max_examples=25,
                          suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, print_blob=True, max_examples=1000,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """Files are not flushed to the disk: no test pulls the plug, and to wait for the disk takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Compiled kernels go to a folder of this run, which all workers share; nothing is taken from an earlier run."""
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYUNET_CACHE", str((folder.parent if WORKER else folder) / "kernels"))
        yield


@pytest.fixture
def rng():
    """A generator that starts anew, from the same seed, in every test."""
    return np.random.default_rng(20150518)


@pytest.fixture
def real_data():
    """The folder with real images; skips where there is none."""
    folder = Path(os.environ.get("TINYUNET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set TINYUNET_DATA to a folder that holds them")
    return folder
