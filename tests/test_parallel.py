"""Jobs on threads: order, errors, nesting, forks, BLAS, workspaces, and strips of rows."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import ops, parallel
from tinyunet.errors import ConfigError
from tinyunet.parallel import each, groups, over_rows, over_values, threads, workspace


@pytest.fixture
def small_strips(monkeypatch):
    """Strips of a few hundred bytes, so that small arrays have many."""
    monkeypatch.setattr(parallel, "STRIP_BYTES", 256)


@pytest.fixture
def blas(monkeypatch):
    """threadpoolctl's handle on every BLAS; skips where there is none that can be held. `each` finds them anew: other tests may
    have loaded SciPy's since it last looked."""
    monkeypatch.delattr(parallel._local, "blas", raising=False)
    controller = parallel._blas()
    if controller is None or not controller.lib_controllers:
        pytest.skip("threadpoolctl is not installed, or does not know this BLAS")
    return controller


def numbers(controller):
    """The threads of each BLAS."""
    return [library.num_threads for library in controller.lib_controllers]


# How many ------------------------------------------------------------------------------------------------------------


def test_the_number_of_threads(monkeypatch):
    """By hand before TINYUNET_THREADS before OMP_NUM_THREADS before all cores."""
    monkeypatch.delenv("TINYUNET_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= parallel.count() <= os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert parallel.count() == 5
    monkeypatch.setenv("TINYUNET_THREADS", "7")
    assert parallel.count() == 7
    with tu.threads(3):
        assert parallel.count() == 3
        with tu.threads(2):
            assert parallel.count() == 2
        assert parallel.count() == 3
    assert parallel.count() == 7


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_that_is_none(n, monkeypatch):
    """Less than one thread is refused, by hand and in the environment."""
    with pytest.raises(ConfigError, match=r"threads: n is .*\. Give a whole number of at least 1\."), threads(n):
        pass
    monkeypatch.setenv("TINYUNET_THREADS", str(n))
    with pytest.raises(ConfigError, match=r"TINYUNET_THREADS is .*\. Give a whole number of at least 1, or leave it out"):
        parallel.count()


# Jobs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_results_come_in_order(n):
    """Whoever ends first, the results are in the order of the items."""
    with threads(n):
        assert each(lambda i: (time.sleep(0.002 * (5 - i)), i)[1], range(5)) == [0, 1, 2, 3, 4]
        assert each(str, []) == []


def test_several_threads_work_at_once(blas):
    """Two jobs that wait for one another come to an end."""
    meeting = threading.Barrier(2, timeout=20)
    with threads(2):
        assert sorted(each(lambda _: meeting.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("n", [1, 3])
def test_an_error_of_a_job_is_raised(n):
    """It comes out as it is, no new job begins, and the next call works."""

    def job(i):
        if i == 3:
            raise ZeroDivisionError("job 3")
        time.sleep(0.001)
        done.append(i)

    done = []
    with threads(n):
        with pytest.raises(ZeroDivisionError, match="job 3"):
            each(job, range(1000))
        begun = len(done)
        assert begun < 100
        assert each(abs, [-1, -2]) == [1, 2]
    assert len(done) == begun


def test_jobs_may_ask_for_jobs():
    """Three levels deep, with more jobs than threads, all come to an end."""
    with threads(2):
        assert each(lambda i: sum(each(lambda j: sum(each(int, range(3))) + j, range(4))), range(5)) == [18] * 5


def test_several_callers_at_once():
    """Five threads that each hand out jobs get their own results."""
    found = {}

    def call(k):
        for _ in range(20):
            found[k] = each(lambda i: k * i, range(10))

    callers = [threading.Thread(target=call, args=(k,)) for k in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {k: [k * i for i in range(10)] for k in range(5)}


def test_settings_of_the_caller_hold_in_jobs(blas):
    """np.errstate and a number of threads set around the call are what the jobs see."""
    meeting = threading.Barrier(3, timeout=20)  # so that all three threads take a job

    def job(_):
        meeting.wait()
        return threading.get_ident(), parallel.count(), np.geterr()["divide"]

    with threads(3), np.errstate(divide="raise"):
        idents, counts, settings = zip(*each(job, range(3)), strict=True)
    assert len(set(idents)) == 3
    assert set(counts) == {3}
    assert set(settings) == {"raise"}


def test_blas_is_held_to_one_thread(blas):
    """During the jobs every BLAS has one thread; after them, also after an error, as many as before."""
    before = numbers(blas)
    blas.limit(limits=2)
    try:
        two = numbers(blas)
        with threads(2):
            assert all(set(seen) == {1} for seen in each(lambda _: numbers(blas), range(4)))
            assert numbers(blas) == two
            with pytest.raises(ZeroDivisionError):
                each(lambda i: 1 // i, range(3))
            each(lambda _: each(abs, [1, 2]), range(3))
        assert numbers(blas) == two
    finally:
        for library, n in zip(blas.lib_controllers, before, strict=True):
            library.set_num_threads(n)


def test_without_threadpoolctl_jobs_run_on_the_caller(monkeypatch):
    """Where BLAS cannot be held, one job runs after another, with the same results."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.delattr(parallel._local, "blas", raising=False)
    with threads(4):
        assert set(each(lambda _: threading.get_ident(), range(8))) == {threading.get_ident()}
    monkeypatch.delattr(parallel._local, "blas", raising=False)


def test_where_no_thread_starts_jobs_run_on_the_caller(blas, monkeypatch):
    """In a browser threads exist by name only: several are asked for, none starts, and all jobs are done all the same."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(parallel, "_state", parallel._State())  # without the threads that other tests have started
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with threads(3):
        assert each(lambda i: (i, threading.get_ident()), range(5)) == [(i, threading.get_ident()) for i in range(5)]
        assert each(lambda i: i, range(5)) == list(range(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(blas):
    """A child made by fork after the pool was used works on two threads too, and ends."""
    with threads(2):
        each(abs, range(10))
        child = multiprocessing.get_context("fork").Process(target=_in_the_child)
        child.start()
        child.join(30)
    assert child.exitcode == 0


def _in_the_child():
    meeting = threading.Barrier(2, timeout=20)
    assert sorted(each(lambda _: meeting.wait(), range(2))) == [0, 1]
    assert each(lambda i: i * i, range(50)) == [i * i for i in range(50)]


def test_the_pool_does_not_keep_python_running():
    """A program that used threads ends when it is done."""
    code = "import tinyunet as tu; from tinyunet.parallel import each\nwith tu.threads(3): print(sum(each(abs, range(-4, 4))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "16"


# Memory --------------------------------------------------------------------------------------------------------------


def test_a_workspace_is_kept():
    """The same name gives the same memory, in any shape and dtype that fits; a larger one is made when it does not."""
    first = workspace("test", (4, 5), np.float64)
    assert first.shape == (4, 5)
    assert np.shares_memory(first, workspace("test", (10,), np.float32))
    assert not np.shares_memory(first, workspace("other", (10,), np.float32))
    assert workspace("test", (100, 2), np.complex128).dtype == np.complex128
    assert workspace("test", (0, 3), np.float32).size == 0


def test_each_thread_has_its_own_workspace():
    """Another thread's memory by the same name is another."""
    mine, theirs = workspace("test", (8,), np.float32), []
    thread = threading.Thread(target=lambda: theirs.append(workspace("test", (8,), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, theirs[0])


# Strips --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_strips_give_what_the_whole_gives(n, small_strips, rng):
    """One result or several, of other dtypes, with half as many rows or twice as many."""
    x, z = rng.standard_normal((3, 10, 7, 2)), rng.standard_normal((3, 5, 7, 2))
    pairs = lambda x: (x[:, ::2] + x[:, 1::2], x[:, ::2] > 0)  # noqa: E731
    with threads(n):
        for got, wanted in zip(over_rows(pairs, x, together=2), pairs(x), strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(over_rows(lambda z: z.repeat(2, axis=1), z), z.repeat(2, axis=1))
        np.testing.assert_array_equal(over_rows(lambda x: x.sum(axis=2), x), x.sum(axis=2))
        np.testing.assert_array_equal(over_rows(lambda x, y: x * y, x, x[:, ::-1]), x * x[:, ::-1])


def test_all_strips_are_jobs(small_strips):
    """Two strips are done by two threads at once: neither is done before the other, to see what results look like."""
    meeting = threading.Barrier(2, timeout=20)

    def formula(x):
        meeting.wait()
        return x + 1

    with threads(2):
        np.testing.assert_array_equal(over_rows(formula, np.zeros((2, 4, 8, 1))), np.ones((2, 4, 8, 1)))


@pytest.mark.parametrize("strip_bytes", [2**30, 2**18])
def test_products_in_strips_have_the_same_bytes_on_any_number_of_blas_threads(strip_bytes, blas, rng, monkeypatch):
    """Also sums over so many channels that BLAS cuts them where its number of threads says, in small maps and in large ones."""
    monkeypatch.setattr(parallel, "STRIP_BYTES", strip_bytes)
    x, w = rng.standard_normal((1, 31, 33, 513)), rng.standard_normal((2, 2, 77, 513))
    head, dy = rng.standard_normal((1, 1, 513, 2)), rng.standard_normal((1, 62, 66, 77))
    seen = set()
    for n in (1, 2, 3):
        with blas.limit(limits=n):
            y, ctx = ops.upconv_forward(x, w, np.zeros(77))
            logits, _ = ops.conv2d_forward(x, head, np.zeros(2))
            seen.add(b"".join(a.tobytes() for a in (y, logits, *ops.upconv_backward(dy, ctx))))
    assert len(seen) == 1


def test_strips_never_cut_what_belongs_together(small_strips):
    """With `together`, each strip has whole pairs of rows, and never more than one image."""
    seen = []
    over_rows(lambda x: seen.append(x.shape), np.zeros((2, 10, 9, 1)), together=2)
    assert {shape[0] for shape in seen} == {1}
    assert all(shape[1] % 2 == 0 for shape in seen)
    assert sum(shape[1] for shape in seen) == 20
    assert len(seen) > 4


def test_changes_in_place(small_strips, rng):
    """A formula that gives nothing back has changed the array itself, also one with gaps in memory."""
    x = rng.standard_normal((40, 30))
    wanted = x + 1

    def formula(x):
        x += 1

    assert over_values(formula, x) is None
    np.testing.assert_array_equal(x, wanted)
    over_values(formula, x.T)
    np.testing.assert_array_equal(x, wanted + 1)


def test_values_of_any_shape(small_strips, rng):
    """Every number of axes, also none."""
    for shape in [(), (500,), (7, 80), (3, 4, 5, 6, 2)]:
        x = rng.standard_normal(shape)
        got = over_values(lambda x: (x * 2, x > 0), x)
        np.testing.assert_array_equal(got[0], x * 2)
        np.testing.assert_array_equal(got[1], x > 0)


def test_groups_keep_the_order():
    """At most GROUPS runs of neighbours, none lost."""
    for n in (0, 1, 7, 8, 9, 100):
        cut = groups(list(range(n)))
        assert [i for group in cut for i in group] == list(range(n))
        assert len(cut) <= parallel.GROUPS


@pytest.mark.parametrize("preset", ["paper", "same_bn"])
def test_a_step_has_the_same_bytes_on_any_number_of_threads(preset, rng, monkeypatch):
    """Forward, loss, backward and update of a whole network, for maps of many strips."""
    monkeypatch.setattr(parallel, "STRIP_BYTES", 2**12)
    x, seen = rng.standard_normal((2, 76, 76, 1)).astype(np.float32), set()
    for n in (1, 2, 3):
        model = tu.UNet(tu.preset(preset, base=8, depth=2), rng=0)
        optimizer = tu.Adam(model, weight_decay=0.1)
        with threads(n):
            y = model.forward(x)
            loss, dy = tu.energy(y, (y[..., 0] > y[..., 1]).astype(int), y[..., 0] ** 2)
            model.backward(dy)
            optimizer.step()
        seen.add(b"".join(np.asarray(a).tobytes() for a in (loss, y, dy, *model.state().values())))
    assert len(seen) == 1
