"""Processes of this machine that take jobs as they are free for them: :func:`run_pool`, and :class:`Pool` under it.

A process is started for a job only, has the environment of who asks, and ends with its parent. What a job raises ends
the whole; one that dies without a word is told (:class:`WorkerDied`)."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pickletools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from types import TracebackType
from typing import Any, cast

from mesynth.core.errors import MesynthError

Task = Callable[..., Iterable[int]]
"""Makes one shard; yields how many of its clips are done. Picklable."""


class WorkerDied(MesynthError):
    """A worker process ended without a word: out of memory, or killed."""


def run_pool(
    task: Task,
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    report: Callable[[int], object],
    where: object,
    close: Callable[[], object] | None = None,
) -> None:
    """Run ``task(*job)`` over ``jobs``. A job is taken (and held) no earlier than a worker is free for it.

    ``report`` is told the number of clips done; ``where`` names the folder in errors; ``close`` is called in each
    worker in the end (pickled together with ``task``, so both may hold one object).

    Raises:
        WorkerDied: a worker process was killed or ran out of memory.
        MesynthError: whatever a task raised.
    """
    left = iter(jobs)
    first = list(islice(left, workers))  # a process is started for a job only
    with Pool(task, close, where) as pool:
        pool.start(len(first))
        pool.run(chain(first, left), report)


class Pool:
    """Worker processes, of which each asks for its next job; used as a context, which ends them all."""

    def __init__(self, task: Task, close: Callable[[], object] | None, where: object) -> None:
        self.task, self.close, self.where = task, close, where
        self._counter: Any = None
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    @property
    def done(self) -> int:
        """Clips that the processes have made."""
        return int(self._counter.value) if self._counter is not None else 0

    @property
    def is_started(self) -> bool:
        return bool(self._processes)

    def start(self, workers: int) -> None:
        """Start so many processes."""
        context = _context((self.task, self.close))
        self._counter = context.Value("q", 0)
        # One thread per worker: the processes are the parallelism. Children read this at import time.
        saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        os.environ.update(dict.fromkeys(saved, "1"))
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, (self.task, self.close), self._counter, dict(os.environ))
                )
                with _no_interrupt():
                    process.start()
                    self._processes.append(process)
                theirs.close()  # so that a worker's death ends the connection
                self._connections.append(ours)
        finally:
            for name, value in saved.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def serve(self, todo: Iterator[tuple[Any, ...]], timeout: float) -> bool:
        """Give work to who has asked for it within ``timeout`` seconds; False once nobody is left.

        Raises what ended a job, or WorkerDied.
        """
        try:
            for connection in cast("list[Connection]", wait(self._connections, timeout=timeout)):
                if not _hand_out(connection, todo):
                    self._connections.remove(connection)
        except (EOFError, ConnectionError):
            raise WorkerDied(
                f"a worker process died (out of memory, or killed); finished clips stay in {self.where}, "
                "go on with --workers 1"
            ) from None
        return bool(self._connections)

    def run(self, todo: Iterator[tuple[Any, ...]], report: Callable[[int], object]) -> None:
        """Serve until there is nothing left to do."""
        while self._connections:
            self.serve(todo, 0.2)
            report(self.done)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            _terminate(self._processes)
        for process in self._processes:
            process.join()


def _context(work: object) -> Any:
    """How processes are started: from a server that has imported what the work needs once, and runs no threads; where
    there is none (Windows), each anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    words = {str(word) for _, word, _ in pickletools.genops(pickle.dumps(work)) if isinstance(word, str)}
    context.set_forkserver_preload(sorted(words & {*sys.modules} - {"__main__"}))
    return context


def _terminate(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():  # asks: the number of one that has ended may be another process's by now
            process.terminate()


def _hand_out(connection: Connection, todo: Iterator[tuple[Any, ...]]) -> bool:
    """Give a worker that has said something its next job; False if there is none, which ends it.

    Raises what ended the worker's last job; EOFError or ConnectionError if the worker is dead.
    """
    if error := connection.recv():
        raise error
    job = next(todo, None)
    connection.send(job)
    return job is not None


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


def _serve(
    connection: Connection, work: tuple[Task, Callable[[], object] | None], counter: Any, environ: dict[str, str]
) -> None:
    """A worker's life: it says that it is free, or what ended its last job, and is told the next.

    ``environ``: of the process that asks for it now; the server that it was forked from has that of its own start.
    """
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)
    task, close = work
    try:
        connection.send(None)
        while (job := connection.recv()) is not None:
            error = _failure(task, job, counter)
            try:
                connection.send(error)
            except (TypeError, AttributeError, PicklingError):  # an error that cannot travel
                connection.send(RuntimeError("".join(traceback.format_exception(error))))
    except (EOFError, ConnectionError):  # the parent was killed
        os._exit(1)
    finally:
        if close is not None:
            close()


def _failure(task: Task, job: tuple[Any, ...], counter: Any) -> Exception | None:
    """Do a job; None, or what ended it."""
    told = 0
    try:
        for done in task(*job):
            with counter.get_lock():
                counter.value += done - told
            told = done
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return error
    return None


def _end_with_parent() -> None:
    """A worker whose parent was killed must not write on: the folder is the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
