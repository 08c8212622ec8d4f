"""Shards by several processes: a few shards on their way at a time, progress by the clip."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mesynth.errors import MesynthError

Task = Callable[..., Iterable[int]]
"""Makes one shard; yields how many of its clips are done. Picklable."""

_task: Task | None = None
_counter: Any = None


def run_pool(
    task: Task,
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    report: Callable[[int], object],
    where: object,
    close: Callable[[], object] | None = None,
) -> None:
    """Run ``task(*job)`` over ``jobs``. A job is taken (and held) no earlier than a worker is nearly free for it.

    ``report`` is told the number of clips done; ``where`` names the folder in errors; ``close`` is called in each
    worker in the end (pickled together with ``task``, so both may hold one object).

    Raises:
        MesynthError: whatever a task raised, or a worker process died.
    """
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    # One thread per worker: the processes are the parallelism. Children read this at import time.
    saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    os.environ.update(dict.fromkeys(saved, "1"))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=((task, close), counter))
    pending: set[Future[None]] = set()
    try:
        for job in jobs:
            with _no_interrupt():
                pending.add(pool.submit(_run, job))
            while len(pending) >= 2 * workers:
                pending = _collect(pending)
                report(counter.value)
        while pending:
            pending = _collect(pending)
            report(counter.value)
    except BrokenProcessPool:
        raise MesynthError(
            f"a worker process died (out of memory, or killed); finished clips stay in {where}, go on with --workers 1"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _collect(pending: set[Future[None]]) -> set[Future[None]]:
    finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
    for future in finished:
        future.result()
    return pending


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until a process is started and known.

    A process that starts here inherits the mask, and stays silent before it can ask for it itself. The mask alone does
    not keep this thread: a signal goes to any thread without it, and Python then interrupts this one.
    """
    pressed = []
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True)) if here else None
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if here:
            signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
    if pressed:
        raise KeyboardInterrupt


# ---------------------------------------------------------------- in a worker


def _start(work: tuple[Task, Callable[[], object] | None], counter: Any) -> None:
    global _task, _counter
    task, close = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)
    _task, _counter = task, counter
    if close is not None:
        multiprocessing.util.Finalize(None, close, exitpriority=10)  # atexit does not run in children


def _end_with_parent() -> None:
    """A worker whose parent was killed must not write on: the folder is the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: tuple[Any, ...]) -> None:
    assert _task is not None
    told = 0
    for done in _task(*job):
        with _counter.get_lock():
            _counter.value += done - told
        told = done
