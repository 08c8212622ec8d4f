"""Showing clips to collectors: one side at a time, counting what was left out and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from mesynth.errors import ManifestError, MesynthError
from mesynth.manifest import Manifest
from mesynth.quality.clips import walk
from mesynth.quality.collectors import Collector

Progress = Callable[[int, int], None]
LeftOut = dict[str, dict[str, int]]
"""Group -> reason -> how many clips."""


class Counter:
    """Clips done of all sides together, told to ``progress`` from whichever thread did one."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done, self._lock = total, progress, 0, threading.Lock()

    def one(self) -> None:
        """One more clip is done."""
        with self._lock:
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)

    def finish(self) -> None:
        """All is done, though unreadable clips were never counted."""
        if self._progress:
            self._progress(self._total, self._total)


def feed(
    side: str, manifest: Manifest, rows: np.ndarray, collectors: Sequence[Collector], counter: Counter
) -> tuple[LeftOut, dict[str, float]]:
    """Show the clips ``rows`` to every collector; returns, per group, what was left out and the seconds it took.

    Raises:
        ManifestError: not one clip can be read.
    """
    torch.set_num_threads(1)  # the sides are the parallelism; kernels this small only wait for each other
    left_out: LeftOut = {}
    spent: dict[str, float] = {}
    unreadable: dict[str, int] = {}
    for clip in walk(manifest, rows, side, unreadable):
        for collector in collectors:
            with clock(spent, collector.group):
                try:
                    collector.add(clip)
                except MesynthError as error:
                    reasons = left_out.setdefault(collector.group, {})
                    why = str(error).replace(clip.row.clip_id, "...")
                    reasons[why] = reasons.get(why, 0) + 1
        counter.one()
    if sum(unreadable.values()) == len(rows):
        why = next(iter(unreadable))
        raise ManifestError(f"no clip of the {side} manifest in {manifest.root} can be read: {why}")
    return left_out | ({f"{side} clips": unreadable} if unreadable else {}), spent


def merge(a: LeftOut, b: LeftOut) -> LeftOut:
    """Both counts together."""
    out = {group: dict(reasons) for group, reasons in a.items()}
    for group, reasons in b.items():
        mine = out.setdefault(group, {})
        for why, count in reasons.items():
            mine[why] = mine.get(why, 0) + count
    return out


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
