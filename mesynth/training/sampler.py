"""Which pairs an update sees: draw numbers counted over the whole run, dealt to processes and parts by stride."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from mesynth.errors import ConfigError
from mesynth.training.batch import Batch


class PairSet(Protocol):
    """Pairs to learn from. A draw number alone decides clip, frame, augmentation and the pair's seed."""

    subjects_seen: tuple[str, ...]
    """``database/subject`` of everyone whose frames or labels are in it."""
    data_hash: str
    licences: tuple[str, ...]
    size: int
    """Width and height of the pictures in pixels."""

    def __len__(self) -> int: ...

    def batch(self, draws: np.ndarray) -> Batch:
        """The pairs of these draw numbers ([B] int64), on the CPU. Called from other threads, several at once."""
        ...

    def validation(self, n: int) -> Iterable[Batch]:
        """``n`` fixed pairs in batches."""
        ...


def check_split(batch: int, processes: int, accumulate: int) -> None:
    """Raises ConfigError unless every process and part gets equally many pairs of a batch."""
    if batch % (processes * accumulate):
        raise ConfigError(
            f"run.batch={batch} does not split into {processes} processes x run.accumulate={accumulate}; "
            f"choose a multiple of {processes * accumulate}"
        )


def shares(images: int, batch: int, rank: int, processes: int, accumulate: int) -> list[np.ndarray]:
    """Draw numbers of this process's parts of the batch that begins after ``images`` pairs.

    >>> [part.tolist() for part in shares(8, 8, 1, 2, 2)]
    [[9, 13], [11, 15]]
    """
    own = np.arange(images, images + batch, dtype=np.int64)[rank::processes]
    return [own[part::accumulate] for part in range(accumulate)]


def batches(
    pairs: PairSet, start: int, end: int, batch: int, *, rank: int, processes: int, accumulate: int, prefetch: int
) -> Generator[list[tuple[int, Batch]], None, None]:
    """For every update from clock ``start`` to ``end``: its parts, each with its first draw number.

    ``prefetch`` updates are prepared ahead, each in a thread of its own; what comes out does not depend on it.
    """

    def make(images: int) -> list[tuple[int, Batch]]:
        parts = shares(images, batch, rank, processes, accumulate)
        return [(int(part[0]), pairs.batch(part)) for part in parts]

    clocks = iter(range(start, end, batch))
    if not prefetch:
        yield from map(make, clocks)
        return
    pool = ThreadPoolExecutor(min(prefetch, os.cpu_count() or 1), "pairs")
    try:
        waiting: deque[Future[list[tuple[int, Batch]]]] = deque()
        for images in clocks:
            waiting.append(pool.submit(make, images))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
