"""Frames of a clip on several threads.

Plain threads round compiled code that releases the interpreter lock, instead of the compiler's own parallel loops:
those abort in a process forked after their first use (data-loader workers) and when two threads call them at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mesynth.errors import MesynthError

_limit: int | None = None


def available() -> int:
    """Processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def set_threads(count: int | None) -> int | None:
    """Use at most ``count`` threads from now on, None = one a processor; returns the limit used before.

    The pictures do not depend on it. Raises: MesynthError for a count below 1.
    """
    global _limit
    if count is not None and count < 1:
        raise MesynthError(f"{count} threads cannot render; give at least 1, or None for one a processor")
    before, _limit = _limit, count
    return before


def spread(task: Callable[[int], object], n: int) -> None:
    """Call task(0) .. task(n - 1), each once, in any order; the first exception is raised."""
    workers = min(n, _limit or available())
    if workers <= 1:
        for i in range(n):
            task(i)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(task, range(n)):
            pass
