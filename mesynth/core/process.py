"""What a process is asked (to stop), how many others were started beside it, and where its seconds go.

Ctrl-C and termination requests become a question that a training loop asks between two updates. Code names the part of
the work it does, and a listener adds up the seconds by name; while nobody listens, a part costs the reading of one
variable. Parts nest, and a second counts once, for the innermost: what makes frames inside a generator's call is taken
off the generator's own time.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import Any, TypeVar

from mesynth.core.errors import ConfigError

Thing = TypeVar("Thing")


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination request sets, so that an update is never cut in two."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch sums in the same order whatever the number of threads and processes: each of several sums a part, and then
    the last bits depend on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counted(things: Iterable[Thing], total: int, progress: Callable[[int, int], None] | None) -> Iterator[Thing]:
    """``things``, of which ``progress`` is told (done, ``total``) before the first and after each.

    >>> list(counted("ab", 2, lambda done, total: print(f"{done} of {total}")))
    0 of 2
    1 of 2
    2 of 2
    ['a', 'b']
    """
    report = progress or (lambda done, total: None)
    report(0, total)
    for done, thing in enumerate(things, 1):
        yield thing
        report(done, total)


class Ahead(Iterator[Thing]):
    """``things`` made by a thread of its own, up to ``most`` of them before they are asked for.

    What making one raises is raised where it would have been handed out. :meth:`close` ends the thread.

    >>> list(Ahead((n * n for n in range(4)), 2))
    [0, 1, 4, 9]
    """

    def __init__(self, things: Iterable[Thing], most: int) -> None:
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(most)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(iter(things),), name="ahead", daemon=True)
        self._thread.start()

    def _make(self, things: Iterator[Thing]) -> None:
        try:
            for thing in things:
                if not self._hand("thing", thing):
                    return
            self._hand("end", None)
        except BaseException as error:
            self._hand("error", error)

    def _hand(self, kind: str, value: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Thing:
        if self._stopped.is_set():
            raise StopIteration
        kind, value = self._ready.get()
        if kind == "thing":
            thing: Thing = value
            return thing
        self._stopped.set()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Make no more; wait until the one that is being made is done."""
        self._stopped.set()
        self._thread.join()


# ---------------------------------------------------------------- launchers


_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Where torchrun and the launchers of MPI write them; the first that is set counts."""


def launched(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, number) of the processes that a launcher says it started; (0, 1) without one.

    ``environment``: None for that of this process.

    Raises:
        ConfigError: the launcher contradicts itself, or was asked for several processes and started one.

    >>> launched({"WORLD_SIZE": "4", "RANK": "3"}), launched({})
    ((3, 4), (0, 1))
    """
    given = os.environ if environment is None else environment
    count = _told(given, _COUNTS)
    if count is None:
        # Without a GPU accelerate launch starts one process, however many it was asked for; it names a meeting place
        # for them all the same.
        if "ACCELERATE_MIXED_PRECISION" in given and "MASTER_ADDR" in given:
            raise ConfigError(
                "accelerate launch was asked for several processes and has started one, as it does without GPUs or "
                "with --cpu; start them with accelerate launch --multi_gpu --num_processes N (also without GPUs), or "
                "with torchrun --nproc_per_node N (for one process, unset MASTER_ADDR)"
            )
        return 0, 1
    rank = _told(given, _RANKS)
    if rank is None and count == 1:
        rank = 0
    if rank is None or not 0 <= rank < count:
        which = "no RANK" if rank is None else f"RANK={rank}"
        raise ConfigError(
            f"the launcher says WORLD_SIZE={count} and {which}; start the processes with torchrun, or unset WORLD_SIZE"
        )
    return rank, count


def _told(given: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        if text := given.get(name, ""):
            try:
                return int(text)
            except ValueError:
                raise ConfigError(f"{name}={text} is no number of a launcher; unset it, or use torchrun") from None
    return None


# ---------------------------------------------------------------- stopwatch


_listener = threading.local()


class Stopwatch:
    """Seconds by name of part, of the thread that called :meth:`start`, until :meth:`stop`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def start(self) -> None:
        """Listen from now on, in place of any earlier stopwatch of this thread."""
        _listener.watch = self

    def stop(self) -> None:
        """Listen no more; :attr:`seconds` stays."""
        if getattr(_listener, "watch", None) is self:
            _listener.watch = None

    def _turn(self) -> None:
        """Seconds up to now belong to the innermost open part."""
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _enter(self, name: str) -> None:
        self._turn()
        self._open.append(name)

    def _leave(self) -> None:
        if self._open:  # else the stopwatch was started inside the part
            self._turn()
            self._open.pop()


class part(ContextDecorator):
    """What runs inside is the part ``name`` of the work. Not for bodies that yield: who waits would be counted."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        watch: Stopwatch | None = getattr(_listener, "watch", None)
        if watch is not None:
            watch._enter(self.name)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        watch: Stopwatch | None = getattr(_listener, "watch", None)
        if watch is not None:
            watch._leave()
