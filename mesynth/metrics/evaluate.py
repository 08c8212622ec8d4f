"""How measures meet clips: slices of clips, each evaluated by itself, merged in the order of the clips.

A slice is evaluated by new, empty measures: in a thread of this process, or in another process, which writes down their
states. Either way the parts are merged in the same order, so that no figure depends on who read the clips.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.metrics.base import METRICS, ClipData, Metric, PartlyUsed, Setup, walk
from mesynth.store import cluster
from mesynth.store.manifest import Manifest
from mesynth.store.processes import WorkerDied, run_pool
from mesynth.store.run_folder import temporary_beside

Progress = Callable[[int, int], None]
LeftOut = dict[str, dict[str, int]]
"""Label of a measure -> reason -> how many clips."""
Side = tuple[str, Manifest, np.ndarray]
"""real or synthetic, a corpus and the rows chosen from it."""
_SLICE = 8
"""Clips that are evaluated at a time."""


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Makers:
    """Makes empty measures by name; picklable, and cheap once the networks of ``setup`` are loaded."""

    setup: Setup
    names: tuple[str, ...]

    def __call__(self, names: Iterable[str] | None = None) -> dict[str, Metric]:
        """All of them, or some."""
        return {name: METRICS[name](self.setup) for name in (self.names if names is None else names)}


@dataclass
class Evaluation:
    """Measures by name with what they took in, how many clips each could use, what was left out and why, and the
    seconds it took, by label."""

    metrics: dict[str, Metric]
    used: dict[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def update(self, name: str, clip: ClipData) -> None:
        """Show a clip to a measure."""
        metric = self.metrics[name]
        with clock(self.seconds, metric.label):
            try:
                metric.update(clip)
            except MesynthError as error:
                reasons = self.left_out.setdefault(metric.label, {})
                why = str(error).replace(clip.row.clip_id, "...")
                reasons[why] = reasons.get(why, 0) + 1
                if not isinstance(error, PartlyUsed):
                    return
        self.used[name] = self.used.get(name, 0) + 1

    def merge(self, other: Evaluation) -> None:
        """Take in the clips of ``other`` after one's own; measures that are not here yet are taken over."""
        for name, metric in other.metrics.items():
            if name in self.metrics:
                self.metrics[name].merge(metric)
            else:
                self.metrics[name] = metric
            self.used[name] = self.used.get(name, 0) + other.used.get(name, 0)
        for label, found in other.left_out.items():
            _add(self.left_out.setdefault(label, {}), found)
        _add(self.unreadable, other.unreadable)
        _add(self.seconds, other.seconds)

    def save(self, file: Path) -> None:
        """As an npz without pickles; measures that have no ``state`` are not in it."""
        kept = {name: metric.state() for name, metric in self.metrics.items() if hasattr(metric, "state")}
        record = {"names": list(kept), "used": self.used, "left_out": self.left_out, "unreadable": self.unreadable,
                  "seconds": self.seconds}  # fmt: skip
        arrays = {f"{i}/{key}": value for i, state in enumerate(kept.values()) for key, value in state.items()}
        temporary = temporary_beside(file)
        try:
            with temporary.open("wb") as whole:
                np.savez(whole, record=np.array(json.dumps(record)), **arrays)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def read(file: Path, makers: Makers) -> Evaluation:
        """What :meth:`save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            record = json.loads(str(arrays["record"]))
            metrics = makers(record.pop("names"))
            states: list[dict[str, np.ndarray]] = [{} for _ in metrics]
            for key in arrays.files:
                number, _, rest = key.partition("/")
                if number.isdecimal():
                    states[int(number)][rest] = arrays[key]
        for metric, state in zip(metrics.values(), states, strict=True):
            metric.restore(state)  # type: ignore[attr-defined]
        return Evaluation(metrics, **record)


def _add(counts: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        counts[key] = counts.get(key, 0) + value


def evaluate_slice(
    metrics: dict[str, Metric],
    side: Side,
    first: int,
    tick: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Show up to _SLICE clips of a side, from place ``first`` on, to ``metrics``.

    A measure with a limit sees no clip beyond it: whether it needs more is known when the slices are merged.
    """
    torch.set_num_threads(1)  # slices are the parallelism; kernels this small only wait for each other
    out = Evaluation(metrics)
    kind, manifest, rows = side
    for place in range(first, min(first + _SLICE, len(rows))):
        for clip in walk(manifest, rows[place : place + 1], kind, out.unreadable):
            for name, metric in metrics.items():
                limit = getattr(metric, "limit", None)
                if limit is None or place < limit:
                    out.update(name, clip)
        tick()
    return out


def _merged(parts: Iterable[Evaluation], makers: Makers, side: Side) -> Evaluation:
    """All slices of a side, in order; what the parts lack is evaluated here.

    Raises:
        ManifestError: not one clip can be read.
    """
    kind, manifest, rows = side
    out = Evaluation(makers())
    for part, first in zip(parts, _firsts(side), strict=True):
        if missing := [name for name in makers.names if name not in part.metrics]:
            more = evaluate_slice(makers(missing), side, first)
            more.unreadable = {}
            part.merge(more)
        out.merge(part)
    for name, metric in out.metrics.items():
        limit = getattr(metric, "limit", None)
        place = limit or 0
        while limit is not None and out.used.get(name, 0) < limit and place < len(rows):
            # In place of a clip that could not be used; seen as the first of a side, so within the limit.
            more = evaluate_slice(makers([name]), (kind, manifest, rows[place : place + 1]), 0)
            more.unreadable = {}
            out.merge(more)
            place += 1
    if sum(out.unreadable.values()) == len(rows):
        why = next(iter(out.unreadable))
        raise ManifestError(f"no clip of the {kind} manifest in {manifest.root} can be read: {why}")
    if out.unreadable:
        out.left_out[f"{kind} clips"] = out.unreadable
        out.unreadable = {}
    return out


def _firsts(side: Side) -> range:
    return range(0, len(side[2]), _SLICE)


# ------------------------------------------------------------------- all sides


def evaluate(
    real: Side, corpora: Mapping[str, Side], makers: Makers, *, workers: int = 1, progress: Progress | None = None
) -> tuple[dict[str, Evaluation], dict[str, float]]:
    """Evaluate every chosen clip: by corpus what its clips and the real ones came to, and the seconds of the real ones.

    The real clips are read once. ``workers``: processes, or with 1 two threads of this one; processes that write a
    folder together (:mod:`mesynth.store.cluster`) share the clips. Memory is that of what the
    measures keep and of two slices of clips a worker.

    Raises:
        ManifestError: no clip of a side can be read.
        MesynthError: a worker process died.
    """
    sides = [real, *corpora.values()]
    how = _together if cluster.innermost() is not None else _in_processes if workers > 1 else _in_threads
    with _torch_threads(), how(sides, makers, workers, progress) as parts:
        first, *others = (_merged(own, makers, side) for own, side in zip(parts, sides, strict=True))
    found = {}
    for name, own in zip(corpora, others, strict=True):
        found[name] = Evaluation(makers())
        found[name].merge(first)
        found[name].merge(own)
        found[name].seconds = own.seconds
    return found, first.seconds


@contextmanager
def _in_threads(
    sides: Sequence[Side], makers: Makers, _: int, progress: Progress | None
) -> Iterator[list[Iterator[Evaluation]]]:
    lock, stopped = threading.Lock(), threading.Event()
    done, total = 0, sum(len(rows) for _, _, rows in sides)
    if progress:
        progress(0, total)

    def tick() -> None:
        nonlocal done
        with lock:
            done += 1
            if progress:
                progress(done, total)

    def work(side: Side, first: int) -> Evaluation:
        return Evaluation({}) if stopped.is_set() else evaluate_slice(makers(), side, first, tick)

    with ThreadPoolExecutor(2) as pool:
        futures = [[pool.submit(work, side, first) for first in _firsts(side)] for side in sides]
        try:
            yield [(future.result() for future in own) for own in futures]
        except BaseException:  # Ctrl-C, or a side that cannot be read
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _in_processes(
    sides: Sequence[Side], makers: Makers, workers: int, progress: Progress | None
) -> Iterator[list[Iterator[Evaluation]]]:
    """What processes saw lies in a temporary folder until the end of the block; a slice in memory at a time."""
    total = sum(len(rows) for _, _, rows in sides)
    report = progress or (lambda done, total: None)
    with tempfile.TemporaryDirectory(prefix="mesynth-measure-") as folder:
        files = [
            [Path(folder) / f"{number}-{first}.npz" for first in _firsts(side)] for number, side in enumerate(sides)
        ]

        jobs = (_job(*place) for place in _places(sides, files))
        _pool(makers, jobs, min(workers, sum(map(len, files))), lambda done: report(done, total), folder)
        yield [(Evaluation.read(file, makers) for file in own) for own in files]


_Place = tuple[Path, Side, int]
"""A slice: where its states are written, of which side it is, and where it begins."""


def _places(sides: Sequence[Side], files: Sequence[Sequence[Path]]) -> Iterator[_Place]:
    for side, own in zip(sides, files, strict=True):
        for file, first in zip(own, _firsts(side), strict=True):
            yield file, side, first


def _job(file: Path, side: Side, first: int) -> tuple[Path, str, Manifest, int]:
    kind, manifest, rows = side
    return file, kind, Manifest(manifest.table.take(pa.array(rows[first : first + _SLICE])), manifest.root), first


def _pool(
    makers: Makers, jobs: Iterable[tuple[Any, ...]], workers: int, report: Callable[[int], object], where: object
) -> None:
    try:
        run_pool(_Worker(makers), jobs, workers=workers, report=report, where=where)
    except WorkerDied:
        raise MesynthError(
            "a worker process died (out of memory, or killed); measure again with fewer --workers"
        ) from None


@contextmanager
def _together(
    sides: Sequence[Side], makers: Makers, workers: int, progress: Progress | None
) -> Iterator[list[Iterator[Evaluation]]]:
    """Each process evaluates the slices that no other has, and reads what all of them wrote down."""
    member = cluster.innermost()
    assert member is not None
    of = hashlib.sha256(json.dumps([[kind, m.hash(), rows.tolist()] for kind, m, rows in sides]).encode()).hexdigest()
    folder = member.folder / f"slices-{of[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [[folder / f"{number}-{first}.npz" for first in _firsts(side)] for number, side in enumerate(sides)]
    places = list(_places(sides, files))
    report = progress or (lambda done, total: None)
    total = sum(len(rows) for _, _, rows in sides)

    def there() -> int:
        return sum(len(side[2][first : first + _SLICE]) for file, side, first in places if file.is_file())

    def taken() -> Iterator[tuple[Path, str, Manifest, int]]:
        for index in member.share.order(len(places)):
            if not places[index][0].is_file() and member.take(f"{folder.name}-{index}"):
                yield _job(*places[index])

    worker = _Worker(makers)
    for wait in cluster.waits():
        done = there()
        report(done, total)
        if done == total:
            break
        if workers > 1:
            _pool(makers, taken(), min(workers, len(places)), lambda _: report(there(), total), folder)
        else:
            for job in taken():
                for _ in worker(*job):
                    report(there(), total)
        if there() < total:
            time.sleep(wait)
    yield [(Evaluation.read(file, makers) for file in own) for own in files]


class _Worker:
    """In a process: evaluates slices of clips and writes down what the measures took in."""

    def __init__(self, makers: Makers) -> None:
        self._makers = makers

    def __call__(self, file: Path, kind: str, part: Manifest, first: int) -> Iterator[int]:
        # What is registered in the first process alone is evaluated there.
        metrics = {n: m for n, m in self._makers(n for n in self._makers.names if n in METRICS).items()
                   if hasattr(m, "state")}  # fmt: skip
        rows = np.concatenate([np.zeros(first, int), np.arange(len(part))])  # each clip at its place of the side
        evaluate_slice(metrics, (kind, part, rows), first).save(file)
        yield len(part)


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Slices take one thread a kernel; afterwards there are as many as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
