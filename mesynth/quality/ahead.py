"""Looking at clips in several processes: what collectors see of a clip is written down, and read in order later."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mesynth.errors import MesynthError
from mesynth.manifest import Manifest
from mesynth.pool import run_pool
from mesynth.quality.clips import ClipData, walk
from mesynth.quality.collectors import LEFT_OUT, Collector, Seen

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
        except MesynthError as error:
            if isinstance(error.__context__, BrokenProcessPool):
                raise MesynthError(
                    "a worker process died (out of memory, or killed); measure again with fewer --workers"
                ) from None
            raise
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
