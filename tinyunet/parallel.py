"""Jobs on several threads, and the memory that each thread works in.

NumPy lets go of Python's lock while it computes, so threads are enough to use all cores. Three rules keep it simple and exact:

- How work is cut into jobs follows from the shapes alone, never from the number of threads, and partial sums are added in
  the order of the jobs. So one of our threads and twenty give the same bytes.
- While jobs run, BLAS is held to one thread a job. Two pools of threads that fight for the cores are slower than one.
- The caller works too. A job that itself asks for jobs therefore never waits for a thread that is not there.

BLAS is held by threadpoolctl. Where that is not installed, jobs run one after another on the calling thread: matrix products
still use all cores, in BLAS, and everything between them uses one. So they do where no thread can be started, as in a browser.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

STRIP_BYTES = 2**20
"""Bytes of one array in a strip of `over_rows`: with its temporaries it stays in the cache of one core."""

_BY_HAND: ContextVar[int | None] = ContextVar("number of threads set by hand", default=None)


# How many ------------------------------------------------------------------------------------------------------------


def count() -> int:
    """Threads that jobs run on: set by `threads`, or TINYUNET_THREADS, or OMP_NUM_THREADS, or else all cores that we may use.

    Raises ConfigError if TINYUNET_THREADS is no number of at least 1.
    """
    by_hand = _BY_HAND.get()
    if by_hand is not None:
        return by_hand
    ours, openmp = os.environ.get("TINYUNET_THREADS", ""), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if ours:
        if not ours.isdecimal() or int(ours) < 1:
            raise ConfigError(f"TINYUNET_THREADS is {ours!r}. Give a whole number of at least 1, or leave it out for all cores.")
        return int(ours)
    if openmp.isdecimal() and int(openmp) >= 1:
        return int(openmp)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use n threads inside a `with` block: `with tinyunet.threads(1): model.forward(x)`. The results are the same bytes.

    Raises ConfigError for a number below 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"threads: n is {n!r}. Give a whole number of at least 1.")
    token = _BY_HAND.set(n)
    try:
        yield
    finally:
        _BY_HAND.reset(token)


# The pool ------------------------------------------------------------------------------------------------------------


class _State:
    """What a forked child must make anew: threads do not survive a fork, and a lock may be held by one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pools: dict[int, ThreadPoolExecutor | None] = {}  # by number of threads; None where none can be started
        self.running = 0  # calls of `each` that hold BLAS now
        self.held: Any = None  # what gives BLAS its threads back


_state = _State()
_local = threading.local()


def _after_fork() -> None:
    global _state
    if _state.held is not None:
        _state.held.restore_original_limits()
    _state = _State()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def each(job: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """job(item) for every item, on `count()` threads: -> the results in the order of the items.

    Jobs must not write to the same memory. The first error of a job is raised, after all that had begun have ended.
    """
    todo = list(enumerate(items))
    if (rehearsal := _REHEARSAL.get()) is not None:
        return rehearsal.first(job, [item for _, item in todo])
    results: list[Any] = [None] * len(todo)
    queue = iter(todo)  # the interpreter's lock lets one thread at a time take from it

    def work() -> None:
        try:
            for i, item in queue:
                results[i] = job(item)
        except BaseException:
            for _ in queue:  # nobody starts another
                pass
            raise

    with _blas_on_one_thread() as alone:
        helpers = min(count(), len(todo)) - 1 if alone else 0
        futures: list[Future[None]] = []
        if helpers > 0 and (pool := _pool(helpers)) is not None:
            # A copy of the context each, so that np.errstate and the like hold inside the jobs too.
            futures = [pool.submit(copy_context().run, work) for _ in range(helpers)]
        try:
            work()
        finally:
            begun = [future for future in futures if not future.cancel()]  # the others came too late to help
            wait(begun)
        for future in begun:
            future.result()
    return results


def _pool(helpers: int) -> ThreadPoolExecutor | None:
    with _state.lock:
        if helpers not in _state.pools:
            _state.pools[helpers] = ThreadPoolExecutor(helpers, "tinyunet") if _threads_start() else None
        return _state.pools[helpers]


def _threads_start() -> bool:
    """Whether this system has threads: Python in a browser imports all that belongs to them, and refuses at the start of one."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True


def _blas() -> Any:
    """threadpoolctl's handle on the BLAS that NumPy has loaded, None where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def _blas_on_one_thread() -> Iterator[bool]:
    """Hold BLAS to one thread; -> whether that could be done.

    The number is one for the whole process, so the first of several callers sets it, and the last one gives it back.
    """
    if not hasattr(_local, "blas"):
        _local.blas = _blas()
    if _local.blas is None:
        yield False
        return
    state = _state
    with state.lock:
        state.running += 1
        if state.running == 1:
            state.held = _local.blas.limit(limits=1)
    try:
        yield True
    finally:
        with state.lock:
            state.running -= 1
            if state.running == 0:
                state.held.restore_original_limits()
                state.held = None


# Memory --------------------------------------------------------------------------------------------------------------


def workspace(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to work in, with whatever it held last; each thread has its own by every name, and keeps it.

    Fresh memory comes from the system page by page, which costs more than to compute with it. It is never returned by an op.
    """
    spaces: dict[str, Array] = _local.__dict__.setdefault("spaces", {})
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if (rehearsal := _REHEARSAL.get()) is not None:
        rehearsal.note(name, size)
    if name not in spaces or spaces[name].nbytes < size:
        spaces.pop(name, None)
        spaces[name] = np.empty(size, np.uint8)
    return spaces[name][:size].view(dtype).reshape(shape)


class Rehearsal:
    """Which workspaces would be kept: the largest of every name, by the thread that calls, and by one that helps it."""

    def __init__(self) -> None:
        self.caller: dict[str, int] = {}
        self.helper: dict[str, int] = {}
        self.helping = False

    def note(self, name: str, size: int) -> None:
        for spaces in (self.caller, self.helper) if self.helping else (self.caller,):
            spaces[name] = max(size, spaces.get(name, 0))

    def first(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """One job's result stands for those of all. The last job, which has what is left over, may be of another shape."""
        outer, self.helping = self.helping, self.helping or len(items) > 1
        try:
            with _blas_on_one_thread():
                return [job(item) for item in items[:1]] * len(items)
        finally:
            self.helping = outer

    def bytes(self, threads: int) -> int:
        """What so many threads keep."""
        return sum(self.caller.values()) + (threads - 1) * sum(self.helper.values())


_REHEARSAL: ContextVar[Rehearsal | None] = ContextVar("what workspaces would be kept", default=None)


@contextmanager
def rehearsal() -> Iterator[Rehearsal]:
    """Within the block only the first of the jobs that are alike is done, and the workspaces are noted.

    So it is known what memory a computation needs without doing it all; its results are of no use.
    """
    token = _REHEARSAL.set(noted := Rehearsal())
    try:
        with np.errstate(all="ignore"):  # what a job that was left out should have written may be any number
            yield noted
    finally:
        _REHEARSAL.reset(token)


# Strips of rows ------------------------------------------------------------------------------------------------------


def over_rows(formula: Callable[..., Any], *maps: Array, together: int = 1) -> Any:
    """formula(*maps), computed on strips of a few rows: what is between its steps stays in the cache, and strips are jobs.

    The maps are (N, H, ...), and the formula treats every row, or every `together` rows, by itself. It gets (1, h, ...) and
    gives one array or several whose second axes are in proportion to its arguments', or changes its arguments in place and
    gives None. Small arrays, and those of a device, go to the formula whole.
    """
    first = maps[0]
    if array_module(*maps) is not np:
        return formula(*maps)
    if first.nbytes <= STRIP_BYTES:
        with _blas_on_one_thread():  # else its own threads might cut a product, and add it up in another order
            return formula(*maps)
    images, height = first.shape[0], first.shape[1] // together
    step = max(1, STRIP_BYTES * images * height // first.nbytes)
    strips = [(n, start, min(start + step, height)) for n in range(images) for start in range(0, height, step)]

    wholes: list[Array] = []
    lock = threading.Lock()

    def rows(a: Array, n: int, start: int, stop: int) -> Array:
        scale = a.shape[1] // height
        return a[n : n + 1, start * scale : stop * scale]

    def job(strip: tuple[int, int, int]) -> None:
        found = formula(*(rows(a, *strip) for a in maps))
        results = found if isinstance(found, tuple) else () if found is None else (found,)
        h = strip[2] - strip[1]
        with lock:  # the first to come here tells how many results there are, and of which shape and dtype
            if not wholes:
                wholes.extend(np.empty((images, height * r.shape[1] // h, *r.shape[2:]), r.dtype) for r in results)
        for whole, result in zip(wholes, results, strict=True):
            rows(whole, *strip)[...] = result

    each(job, strips)
    return tuple(wholes) if len(wholes) > 1 else wholes[0] if wholes else None


def over_values(formula: Callable[..., Any], *arrays: Array) -> Any:
    """formula(*arrays), computed on pieces of the arrays: `over_rows` for formulas that treat every value by itself.

    All arrays have one shape, and so have the results.
    """
    if not all(a.flags.c_contiguous for a in arrays):
        return formula(*arrays)
    results = over_rows(formula, *(a.reshape(1, -1) for a in arrays))
    shape = arrays[0].shape
    if results is None:
        return None
    return tuple(r.reshape(shape) for r in results) if isinstance(results, tuple) else results.reshape(shape)


GROUPS = 8
"""Partial sums that a sum over many jobs is made of: enough for as many cores, few enough to hold them all."""


def groups(jobs: Sequence[Item]) -> list[Sequence[Item]]:
    """Split jobs whose results are to be added up into at most GROUPS runs of neighbours."""
    if _REHEARSAL.get() is not None:
        return [jobs[:1]] * min(len(jobs), GROUPS)
    step = max(1, -(-len(jobs) // GROUPS))
    return [jobs[start : start + step] for start in range(0, len(jobs), step)]
