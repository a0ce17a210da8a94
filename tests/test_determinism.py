"""Same seed, same bytes: for data, training and prediction, in other processes, on one thread and on two."""

import importlib
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tinyunet as tu

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import determinism  # noqa: E402


def claims():
    """What docs/determinism.md says of one thread and two: part -> the largest relative difference, 0 for the same bytes."""
    rows = {}
    for line in determinism.PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in determinism.PARTS.values():
            rows[cells[0]] = 0.0 if cells[-1] == "same bytes" else float(cells[-1].rpartition(" ")[2])
    return {part: rows[title] for part, title in determinism.PARTS.items()}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """arrays(threads, hash seed): what the work, done once, gives in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    return cache(lambda threads, hash_seed: determinism.run(threads, hash_seed, folder))


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_another_process_gives_the_same_bytes(arrays, threads):
    """Data, ops, training and prediction come out to the last bit, whatever the hash seed."""
    first, second = arrays(threads, 1), arrays(threads, 2)
    found = determinism.compare(first, second)
    assert first.keys() == second.keys()
    assert all(entry["arrays"] > 0 and entry["differ"] == 0 for entry in found.values()), found


def test_one_thread_and_two_are_close(arrays):
    """Where the page claims the same bytes they are the same, elsewhere differences are at most five times what it says."""
    found = determinism.compare(arrays(1, 1), arrays(2, 1))
    for part, claimed in claims().items():
        assert found[part]["largest"] <= 5 * claimed, part
        assert claimed or found[part]["differ"] == 0, part


def test_twice_in_one_process():
    """What ran before in a process leaves nothing behind, and the shared generator of NumPy is neither used nor moved."""
    np.random.seed(1)  # noqa: NPY002  it is the shared generator that must not matter
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = determinism.network("again", tu.preset("paper", base=2, depth=1))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    second = determinism.network("again", tu.preset("paper", base=2, depth=1))
    assert {name: a.tobytes() for name, a in first.items()} == {name: a.tobytes() for name, a in second.items()}


def test_another_seed_gives_other_bytes():
    """The comparison sees a difference where there is one: another seed of the training changes every weight."""
    a, b = (determinism.network("net", tu.preset("paper", base=2, depth=1), seed=seed) for seed in (0, 1))
    found = determinism.compare(a, b)
    assert found["prediction"]["differ"] == 0
    assert found["training"]["differ"] == found["training"]["arrays"] > 0
    assert found["training"]["largest"] > 1e-3
    assert found["trained"]["differ"] == 1


@pytest.mark.parametrize("script", ["determinism", "parity"])
def test_the_pages_hold_what_was_measured(script, monkeypatch):
    """docs/determinism.md and docs/parity.md hold the numbers of benchmarks/results."""
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    importlib.import_module(script).main()
