"""A plan's rows made into a corpus (:func:`run_plan`), complete and timed.

A finished corpus holds every row of its plan exactly once; one that the disk cut short stays valid and goes on. How
fast each process was is measured by part: seconds in the model, in making frames of its motion, in encoding, in
writing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypedDict

import numpy as np

from mesynth.core.errors import ManifestError, RunFolderError
from mesynth.core.framing import Framing, KnownFraming
from mesynth.core.process import Stopwatch, part
from mesynth.corpus.plan import PlanRow
from mesynth.store.manifest import Manifest, framing_meta
from mesynth.store.run_folder import claim_folder, only_writer, write_text
from mesynth.store.stage import Jobs, Produced, Progress, Skipped, Worker, run_stage

FILE_NAME = "throughput.json"
"""The only file of a corpus that differs from run to run; it is no part of what a seed decides."""
PARTS = ("model", "warp", "encode", "write", "other")
"""What a process' seconds on clips are divided into; see :class:`ProcessTimes`."""


@dataclass(frozen=True, kw_only=True)
class ProcessTimes:
    """One process: what it made, and in which seconds. Waiting for other processes is in none of them."""

    clips: int
    frames: int
    load: float
    """The generator read from disk, libraries included, once."""
    model: float
    """The network with what it reads and draws from, or the prior's fields."""
    warp: float
    """Frames and flow of what the model said: motion times profile, inverted, the picture warped, noise. Of painters:
    the change put onto the picture, and the flow estimated."""
    encode: float
    """Arrays to PNG and npy bytes."""
    write: float
    """Tars, their checksums, and the shards' manifests."""
    other: float
    """Faces read, rows, clips to look at."""

    @property
    def busy(self) -> float:
        """Seconds on clips: all but loading."""
        return sum(getattr(self, name) for name in PARTS)

    def shares(self) -> dict[str, float]:
        """Of the seconds on clips, by part; all 0 if there are none."""
        return {name: getattr(self, name) / self.busy if self.busy else 0.0 for name in PARTS}


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One run. A resumed run counts what it made itself."""

    wall: float
    processes: tuple[ProcessTimes, ...]

    @property
    def all(self) -> ProcessTimes:
        """The processes added up."""
        sums = {name: sum(getattr(p, name) for p in self.processes) for name in ("clips", "frames", "load", *PARTS)}
        return ProcessTimes(**sums)

    @property
    def rate(self) -> float:
        """Clips a second end to end, start of processes and merging included."""
        return self.all.clips / self.wall if self.wall > 0 else 0.0

    def text(self) -> str:
        """For people, a line a process and one for all."""
        each = [f"process {i}: {p.clips} clips, {_described(p)}" for i, p in enumerate(self.processes)]
        whole = self.all
        framed = f", {whole.frames} frames" if whole.frames else ""
        last = f"all: {whole.clips} clips{framed} in {self.wall:.1f} s, {self.rate:.1f} clips a second, "
        return "\n".join([*each, last + _described(whole)])

    def write(self, out: Path) -> None:
        """``throughput.json`` in ``out``."""
        whole = {"clips_per_second": self.rate, "all": asdict(self.all), "shares": self.all.shares()}
        write_text(out / FILE_NAME, json.dumps(asdict(self) | whole, indent=1) + "\n")


def joined(speeds: Sequence[Throughput]) -> Throughput:
    """Runs one after the other as one: process by process, in their order."""
    processes = []
    for parts in zip_longest(*(speed.processes for speed in speeds)):
        known = [p for p in parts if p is not None]
        processes.append(ProcessTimes(**{f.name: sum(getattr(p, f.name) for p in known) for f in fields(ProcessTimes)}))
    return Throughput(wall=sum(speed.wall for speed in speeds), processes=tuple(processes))


def _described(times: ProcessTimes) -> str:
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in times.shares().items())
    return f"{1000 * times.busy / max(times.clips, 1):.2f} ms a clip ({shares}), loading {times.load:.1f} s"


Report = Callable[[Throughput], object]


class Timed:
    """A worker whose process is listened to: from its first job until it is closed."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self.worker, self.folder = worker, folder
        self._watch: Stopwatch | None = None
        self._clips = self._frames = 0

    def __call__(self, job: Any) -> Produced | Skipped:
        if self._watch is None:
            self._watch = Stopwatch()
            self._watch.start()
        with part("other"):
            made = self.worker(job)
        self._clips += 1
        if isinstance(made, Produced) and made.frames is not None:
            self._frames += len(made.frames)
        return made

    def close(self) -> None:
        """Leave the times for the process that asked for the run."""
        if self._watch is not None:
            self._watch.stop()
        close = getattr(self.worker, "close", None)
        if close is not None:
            close()
        if self._watch is not None:
            seconds = {name: self._watch.seconds.get(name, 0.0) for name in ("load", *PARTS)}
            times = ProcessTimes(clips=self._clips, frames=self._frames, **seconds)
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


# ------------------------------------------------------------------- complete


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """What the disk refuses becomes one line; what is finished stays, and nothing half-written has its final name.

    Raises:
        RunFolderError: a full disk, a quota, a file or folder that cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or out} cannot be written ({error.strerror}); finished clips stay in {out}, "
            "make it writable or make room and run the same command again"
        ) from None


def prove_complete(manifest: Manifest, n_rows: int) -> None:
    """Every row of the plan is exactly one clip.

    Raises:
        ManifestError: names the first row that is missing or there twice.
    """
    counts = np.bincount(manifest.column("provenance.plan_row"), minlength=n_rows)
    wrong = np.flatnonzero(counts != np.r_[np.ones(n_rows, np.int64), np.zeros(len(counts) - n_rows, np.int64)])
    if len(wrong):
        raise ManifestError(
            f"row {wrong[0]} of the plan is {counts[wrong[0]]} clips of {manifest.root} instead of one "
            f"({len(wrong)} such rows); remove the folder and generate anew"
        )


# ------------------------------------------------------------------- run


class CorpusRun(Protocol):
    """What a corpus is made of: a kind of clips, and the plan whose rows they are."""

    @property
    def rows(self) -> Sequence[PlanRow]: ...

    @property
    def config(self) -> dict[str, Any]:
        """What the corpus' bytes depend on."""
        ...

    @property
    def bars(self) -> tuple[str, ...]:
        """Names of what is waited for; the last are the clips."""
        ...

    @property
    def framing(self) -> Framing:
        """Where faces lie in what is made."""
        ...

    def prepare(self, out: Path, workers: int, progress: Progress | None) -> None:
        """Write what lies in the folder before there are clips: the plan, and faces."""
        ...

    def jobs(self, rows: Jobs) -> Jobs:
        """A job for each row, in order."""
        ...

    def worker(self, out: Path) -> Worker:
        """Makes the jobs."""
        ...


class Pace(TypedDict, total=False):
    """How a corpus is made and who is told; no byte of it depends on this."""

    workers: int
    """Processes, 0 for one per core; else 1. A script that asks for several keeps its calls under
    ``if __name__ == "__main__":``."""
    progress: Callable[[str], Progress] | None
    """Gives a bar for each named part of the work."""
    report: Report | None
    """Told how fast each process was."""


def run_plan(
    run: CorpusRun,
    out: Path,
    *,
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> Manifest:
    """One clip a row of the run's plan, in the new folder ``out``; the same call resumes. See :class:`Pace`.

    Raises:
        RunFolderError: ``out`` holds another run or cannot be written.
        MesynthError: whatever the worker raises.
    """
    claim_folder(out, run.config)
    with only_writer(out), writable(out):
        bars = [progress(name) if progress else None for name in run.bars]
        run.prepare(out, workers, bars[0])
        with timed(run.worker(out), report) as work:
            made = run_stage(
                out, run.jobs(run.rows), work, config=run.config, workers=workers, progress=bars[-1], held=True,
                meta=framing_meta(KnownFraming(framing=run.framing)),
            )  # fmt: skip
    prove_complete(made, len(run.rows))
    return made
