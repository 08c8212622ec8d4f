"""Looking at clips in several processes: what collectors see of a clip is written down, and read in order later.

Showing clips to collectors: one side at a time, counting what was left out and why.

Several processes may look ahead (:mod:`mesynth.metrics.evaluate`): what their collectors saw of a clip lies in a
file, and :func:`feed` takes it from there instead of looking itself. It takes clip by clip in the order of the rows
either way, so no figure depends on who looked."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.metrics.clips import ClipData, walk
from mesynth.metrics.collectors import LEFT_OUT, Collector, Seen
from mesynth.store.manifest import Manifest
from mesynth.store.stage import WorkerDied, run_pool

Progress = Callable[[int, int], None]
_SLICE = 8
"""Clips that a process takes at a time."""


@dataclass
class Look:
    """What collectors saw of one clip, by the name of their class; ``unreadable`` says why none could look."""

    seen: dict[str, Seen] = field(default_factory=dict)
    unreadable: str = ""


def name_of(collector: Collector) -> str:
    """Under which a collector's looks are kept."""
    return type(collector).__name__


def see(collector: Collector, clip: ClipData) -> Seen:
    """What the collector sees, or why nothing."""
    try:
        return collector.see(clip)
    except MesynthError as error:
        return {LEFT_OUT: str(error).replace(clip.row.clip_id, "...")}


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Ahead:
    """What processes saw, in the order of the sides; its files end with the block."""

    files: list[list[Path]]

    def looks(self, side: int) -> Iterator[Look]:
        """A look for each clip of side number ``side``, in the order of its rows; a file in memory at a time."""
        for file in self.files[side]:
            yield from _read(file)

    def seconds(self, side: int) -> dict[str, float]:
        """The time of all processes together, by group."""
        spent: dict[str, float] = {}
        for file in self.files[side]:
            with np.load(file, allow_pickle=False) as arrays:
                for group, _, what in (key.partition("/") for key in arrays.files):
                    if what == "seconds":
                        spent[group] = spent.get(group, 0.0) + float(arrays[f"{group}/{what}"])
        return spent


@contextmanager
def looked_ahead(
    sides: Sequence[tuple[str, Manifest, np.ndarray]],
    load: Callable[[], Sequence[Collector]],
    workers: int,
    progress: Progress | None,
) -> Iterator[Ahead]:
    """Look at the clips of all ``sides`` (side, manifest, rows) in ``workers`` processes.

    ``load`` makes empty collectors; it is pickled, and called once in each process. What was seen lies in a temporary
    folder, as numpy files, until the end of the block. Memory is that of a slice of clips and the networks a process.

    Raises:
        MesynthError: whatever ``load`` raises, or a process died.
    """
    total = sum(len(rows) for _, _, rows in sides)
    report = progress or (lambda done, total: None)
    with tempfile.TemporaryDirectory(prefix="mesynth-measure-") as folder:
        files = [
            [Path(folder) / f"{number}-{first}.npz" for first in range(0, len(rows), _SLICE)]
            for number, (_, _, rows) in enumerate(sides)
        ]

        def jobs() -> Iterator[tuple[Path, str, Manifest, int]]:
            for (side, manifest, rows), parts in zip(sides, files, strict=True):
                for file, first in zip(parts, range(0, len(rows), _SLICE), strict=True):
                    part = manifest.table.take(pa.array(rows[first : first + _SLICE]))
                    yield file, side, Manifest(part, manifest.root), first

        workers = min(workers, sum(map(len, files)))
        try:
            run_pool(_Looker(load), jobs(), workers=workers, report=lambda done: report(done, total), where=folder)
        except WorkerDied:
            raise MesynthError(
                "a worker process died (out of memory, or killed); measure again with fewer --workers"
            ) from None
        yield Ahead(files)


class _Looker:
    """In a process: shows a slice of clips to collectors and writes down what they saw."""

    def __init__(self, load: Callable[[], Sequence[Collector]]) -> None:
        self._load = load
        self._collectors: Sequence[Collector] | None = None

    def __call__(self, file: Path, side: str, part: Manifest, first: int) -> Iterator[int]:
        torch.set_num_threads(1)
        if self._collectors is None:
            self._collectors = self._load()
        arrays: dict[str, Any] = {"clips": len(part)}
        spent: dict[str, float] = {}
        for number in range(len(part)):
            unreadable: dict[str, int] = {}
            for clip in walk(part, np.array([number]), side, unreadable):
                for collector in self._collectors:
                    # Beyond the limit a clip is wanted only where an earlier one cannot be used: then feed() looks.
                    if collector.limit is None or first + number < collector.limit:
                        with clock(spent, collector.group):
                            seen = see(collector, clip)
                        arrays[f"{number}/{name_of(collector)}"] = True  # seen, though it may be of no use
                        arrays |= {f"{number}/{name_of(collector)}/{what}": value for what, value in seen.items()}
            if unreadable:
                arrays[f"{number}/{_UNREADABLE}"] = next(iter(unreadable))
            yield number + 1
        arrays |= {f"{group}/seconds": value for group, value in spent.items()}
        np.savez(file, **arrays)


_UNREADABLE = "unreadable"


def _read(file: Path) -> list[Look]:
    with np.load(file, allow_pickle=False) as arrays:
        looks = [Look() for _ in range(int(arrays["clips"]))]
        for key in arrays.files:
            number, _, rest = key.partition("/")
            name, _, what = rest.partition("/")
            if not number.isdecimal():
                continue
            value = arrays[key]
            plain = value if value.ndim else value.item()
            if name == _UNREADABLE:
                looks[int(number)].unreadable = plain
            elif what:
                looks[int(number)].seen[name][what] = plain
            else:
                looks[int(number)].seen[name] = {}
    return looks


# ------------------------------------------------------------------- feeding


LeftOut = dict[str, dict[str, int]]
"""Group -> reason -> how many clips."""


class Counter:
    """Clips done of all sides together, told to ``progress`` from whichever thread did one."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done, self._lock = total, progress, 0, threading.Lock()
        self.stopped = False
        """Whether what is still under way is of no use: Ctrl-C, or a side that cannot be read."""

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
    side: str,
    manifest: Manifest,
    rows: np.ndarray,
    collectors: Sequence[Collector],
    counter: Counter | None = None,
    looks: Iterator[Look] | None = None,
) -> tuple[LeftOut, dict[str, float]]:
    """Show the clips ``rows`` to every collector; returns, per group, what was left out and the seconds it took.

    ``looks``: one for each clip, by processes that looked ahead. What is wanted and not in it is looked at here.

    Raises:
        ManifestError: not one clip can be read.
    """
    torch.set_num_threads(1)  # the sides are the parallelism; kernels this small only wait for each other
    left_out: LeftOut = {}
    spent: dict[str, float] = {}
    unreadable: dict[str, int] = {}
    taken = dict.fromkeys(map(name_of, collectors), 0)
    for place in range(len(rows)):
        if counter and counter.stopped:
            break
        look = Look() if looks is None else next(looks)
        wanted = [c for c in collectors if c.limit is None or taken[name_of(c)] < c.limit]
        clip = None
        if look.unreadable:
            unreadable[look.unreadable] = unreadable.get(look.unreadable, 0) + 1
            continue
        if any(name_of(c) not in look.seen for c in wanted):
            clip = next(walk(manifest, rows[place : place + 1], side, unreadable), None)
            if clip is None:
                continue
        row = clip.row if clip else manifest.row(int(rows[place]))
        for collector in wanted:
            with clock(spent, collector.group):
                seen = look.seen.get(name_of(collector))
                if seen is None:
                    assert clip is not None
                    seen = see(collector, clip)
                if why := seen.pop(LEFT_OUT, None):
                    reasons = left_out.setdefault(collector.group, {})
                    reasons[str(why)] = reasons.get(str(why), 0) + 1
                if seen:
                    collector.take(side, row, seen)
                    taken[name_of(collector)] += 1
        if counter:
            counter.one()
    if sum(unreadable.values()) == len(rows):
        why = next(iter(unreadable))
        raise ManifestError(f"no clip of the {side} manifest in {manifest.root} can be read: {why}")
    return left_out | ({f"{side} clips": unreadable} if unreadable else {}), spent


def _merge(a: LeftOut, b: LeftOut) -> LeftOut:
    """Both counts together."""
    out = {group: dict(reasons) for group, reasons in a.items()}
    for group, reasons in b.items():
        mine = out.setdefault(group, {})
        for why, count in reasons.items():
            mine[why] = mine.get(why, 0) + count
    return out


def add(seconds: dict[str, float], more: Mapping[str, float]) -> None:
    """Add the times of ``more`` to ``seconds``, by group."""
    for group, value in more.items():
        seconds[group] = seconds.get(group, 0.0) + value


# ---------------------------------------------------------------- all sides

Side = tuple[str, Manifest, np.ndarray]
"""real or synthetic, a corpus and the rows chosen from it."""


@dataclass(frozen=True)
class Fed:
    """By corpus its collectors, what was left out and the seconds it took; and the seconds of the real clips."""

    collectors: dict[str, list[Collector]]
    left_out: dict[str, LeftOut]
    seconds: dict[str, dict[str, float]]
    real_seconds: dict[str, float]


def feed_all(
    real: Side,
    corpora: Mapping[str, Side],
    collectors: list[Collector],
    copied: Callable[[list[Collector]], list[Collector]],
    progress: Progress | None,
) -> Fed:
    """Show every chosen clip to the collectors of its corpus: ``collectors``, or of several each a copy.

    Two threads: collectors keep the sides apart, so the order of clips within each, and with it every figure, is
    the same as with a single thread. One corpus is read beside the real clips; of several, each goes on from a copy
    of the collectors that saw them.
    """
    counter = Counter(sum(len(rows) for _, _, rows in (real, *corpora.values())), progress)
    with _torch_threads(), ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(feed, *real, collectors, counter)
            if len(corpora) > 1:
                first.result()
            own = {name: collectors if len(corpora) == 1 else copied(collectors) for name in corpora}
            futures = {name: pool.submit(feed, *side, own[name], counter) for name, side in corpora.items()}
            found = first.result(), {name: future.result() for name, future in futures.items()}
        except BaseException:
            counter.stopped = True
            raise
    counter.finish()
    return _fed(own, *found)


def feed_ahead(
    real: Side,
    corpora: Mapping[str, Side],
    collectors: list[Collector],
    copied: Callable[[list[Collector]], list[Collector]],
    progress: Progress | None,
    *,
    load: Callable[[], Sequence[Collector]],
    workers: int,
) -> Fed:
    """:func:`feed_all` with processes that look ahead, each with the collectors of ``load``."""
    found: dict[str, tuple[LeftOut, dict[str, float]]] = {}
    with _torch_threads(), looked_ahead([real, *corpora.values()], load, workers, progress) as ahead:
        first = feed(*real, collectors, looks=ahead.looks(0))
        add(first[1], ahead.seconds(0))
        own = {name: collectors if len(corpora) == 1 else copied(collectors) for name in corpora}
        for number, (name, side) in enumerate(corpora.items(), 1):
            found[name] = feed(*side, own[name], looks=ahead.looks(number))
            add(found[name][1], ahead.seconds(number))
    return _fed(own, first, found)


def _fed(
    own: dict[str, list[Collector]],
    real: tuple[LeftOut, dict[str, float]],
    corpora: Mapping[str, tuple[LeftOut, dict[str, float]]],
) -> Fed:
    return Fed(
        collectors=own,
        left_out={name: _merge(real[0], left) for name, (left, _) in corpora.items()},
        seconds={name: spent for name, (_, spent) in corpora.items()},
        real_seconds=real[1],
    )


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Feeding takes one thread a kernel; afterwards there are as many as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
