"""What a process is asked (to stop) and where its seconds go.

Ctrl-C and termination requests become a question that a training loop asks between two updates. Code names the part of
the work it does, and a listener adds up the seconds by name; while nobody listens, a part costs the reading of one
variable. Parts nest, and a second counts once, for the innermost: what makes frames inside a generator's call is taken
off the generator's own time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import TypeVar

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
