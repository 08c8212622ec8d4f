"""The clock of the benches."""

from __future__ import annotations

import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object], repeat: int = 5) -> float:
    """Best of ``repeat`` after one to warm up: the machine may be shared."""
    call()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)
