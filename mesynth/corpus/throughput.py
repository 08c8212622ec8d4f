"""How fast a run was, per process: time in the model, and in encoding and writing what it made."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mesynth.run_folder import write_text
from mesynth.stage import Produced, Skipped, Worker

FILE_NAME = "throughput.json"
"""The only file of a corpus that differs from run to run; it is no part of what a seed decides."""


@dataclass(frozen=True, kw_only=True)
class ProcessTimes:
    """One process: what it made, and seconds in the model and in encoding and writing."""

    clips: int
    frames: int
    model: float
    store: float


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One run. A resumed run counts what it made itself."""

    wall: float
    processes: tuple[ProcessTimes, ...]

    def text(self) -> str:
        """For people, a line a process and one for all."""
        clips, frames = sum(p.clips for p in self.processes), sum(p.frames for p in self.processes)
        lines = [
            f"process {i}: {p.clips} clips, model {p.model:.1f} s ({1000 * p.model / max(p.clips, 1):.2f} ms a clip), "
            f"encode and write {p.store:.1f} s"
            for i, p in enumerate(self.processes)
        ]
        rate = clips / self.wall if self.wall > 0 else 0.0
        framed = f", {frames} frames" if frames else ""
        return "\n".join([*lines, f"all: {clips} clips{framed} in {self.wall:.1f} s, {rate:.1f} clips a second"])

    def write(self, out: Path) -> None:
        """``throughput.json`` in ``out``."""
        write_text(out / FILE_NAME, json.dumps(asdict(self), indent=1) + "\n")


Report = Callable[[Throughput], object]


class Timed:
    """A worker that notes how long it takes, and how long the stage takes with what it returns."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self.worker, self.folder = worker, folder
        self._left = 0.0
        self._clips = self._frames = 0
        self._model = self._store = 0.0

    def __call__(self, job: Any) -> Produced | Skipped:
        came = time.perf_counter()
        if self._left:  # since the last call: its clip was encoded and written
            self._store += came - self._left
        made = self.worker(job)
        self._left = time.perf_counter()
        self._model += self._left - came
        self._clips += 1
        if isinstance(made, Produced) and made.frames is not None:
            self._frames += len(made.frames)
        return made

    def close(self) -> None:
        """Leave the times for the process that asked for the run."""
        close = getattr(self.worker, "close", None)
        if close is not None:
            close()
        if self._clips:
            times = ProcessTimes(clips=self._clips, frames=self._frames, model=self._model, store=self._store)
            write_text(self.folder / f"{os.getpid()}.json", json.dumps(asdict(times)))


@contextmanager
def timed(worker: Worker, report: Report | None) -> Iterator[Worker]:
    """The worker to run; ``report`` is called in the end if anything was made."""
    if report is None:
        yield worker
        return
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        yield Timed(worker, Path(folder))
        found = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]
    if found:
        wall = time.perf_counter() - started
        report(Throughput(wall=wall, processes=tuple(ProcessTimes(**times) for times in found)))
