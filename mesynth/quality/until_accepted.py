"""A corpus whose every clip passes: rows of a plan whose clip is rejected are drawn again until one is accepted.

Rounds: each makes a clip of the rows that still have none (:class:`mesynth.quality.tries.Tries` draws again what fails
by its frames), then duplicates are looked for in the order of the plan, against the accepted clips of all rounds. What
is accepted is gathered into one corpus. A round is a stage: it resumes, and any number of processes gives the same.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mesynth.corpus.complete import writable
from mesynth.corpus.plan import PlanRow
from mesynth.corpus.throughput import ProcessTimes, Report, Throughput, timed
from mesynth.errors import ConfigError, RunFolderError
from mesynth.manifest import FILE_NAME, Manifest, Row
from mesynth.quality.checks import Checks, Limits
from mesynth.quality.filters import REJECTED_FILE, Rejection, rejected_csv, rejections
from mesynth.quality.gather import gather
from mesynth.quality.tries import Tried, Turns, by_chance, digest
from mesynth.run_folder import LOCK_FILE, config_hash, only_writer, write_text
from mesynth.shards import read_flow
from mesynth.stage import SKIPPED_FILE, Jobs, Progress, Skipped, Worker, read_notes, read_skipped, run_stage

ATTEMPTS = 5
MAX_ATTEMPTS = 1000
ROUNDS = "rounds"
"""Folder of the rounds, removed when they are gathered."""


@dataclass(frozen=True, kw_only=True)
class Until:
    """When a row's clip is accepted, and after how many tries, the first included, the row is given up."""

    limits: Limits = Limits()
    attempts: int = ATTEMPTS

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise ConfigError(f"attempts={self.attempts} is outside 1..{MAX_ATTEMPTS}")

    def plain(self) -> dict[str, Any]:
        """As the run's configuration has it."""
        return {"until_accepted": {"limits": asdict(self.limits), "attempts": self.attempts}}


@dataclass(frozen=True, kw_only=True)
class TopUp:
    """What came of it."""

    manifest: Manifest
    """The accepted clips."""
    rejected: int
    """Tries that were not."""
    reasons: dict[str, int]
    """How many tries each check rejected."""
    never: tuple[Skipped, ...]
    """Rows that no try was accepted of."""

    @staticmethod
    def read(out: Path) -> TopUp:
        """Of a finished folder."""
        try:
            with open(out / REJECTED_FILE, newline="", encoding="utf-8") as file:
                lines = [(line["plan_row"], line["attempt"], line["check"]) for line in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunFolderError(f"{out / REJECTED_FILE} cannot be read ({error}); make the corpus anew") from None
        return TopUp(
            manifest=Manifest.read(out),
            rejected=len({line[:2] for line in lines}),
            reasons=dict(Counter(line[2] for line in lines).most_common()),
            never=tuple(read_skipped(out)),
        )


class Maker(Protocol):
    """A kind of corpus: what a round makes, and by what. Notes of its clips are those of :class:`Tried`, if any."""

    @property
    def checks(self) -> Checks:
        """For duplicates; the others are the worker's."""
        ...

    def prepare(self) -> None:
        """What lies in the folder before there are clips: the plan, and faces."""
        ...

    def jobs(self, turns: Turns) -> Jobs:
        """A job for each turn, in order."""
        ...

    def worker(self) -> Worker:
        """Makes the jobs. A row that it gives up has no flow."""
        ...


class _Rounds:
    """The state between rounds: all of it follows from the rounds' folders, so a resumed run has it again."""

    def __init__(self, n_rows: int, until: Until, checks: Checks) -> None:
        self.until, self.checks = until, checks
        self.chosen = np.full(n_rows, -1, np.int32)
        self.rejected: list[Rejection] = []
        self.never: dict[int, Skipped] = {}
        self.made: list[Manifest] = []
        self._flows: dict[int, str] = {}
        """Of rows that repeat others: what their last try was, by plan row."""

    def take(self, made: Manifest, turns: Turns) -> Turns:
        """Judge a round; returns the turns of the next."""
        notes = {note["clip_id"]: Tried.of(note) for note in read_notes(made.root)}
        again: dict[int, int] = {}
        for row, turn in zip(made, turns, strict=True):
            index = row.provenance.plan_row
            assert index == turn.row.index
            tried = notes.get(row.clip_id, Tried(turn.attempt, ()))
            for attempt, check, value, limit in tried.rejected:
                self.rejected += rejections(row, [(check, value, limit, "")], attempt)
            if row.flow is None:
                self._give_up(row, tried.attempt, tried.same)
                continue
            flow = read_flow(made.root, row)
            repeats = []
            if self.checks.limits.duplicate is not None:
                apart, of = self.checks.nearest(flow)
                repeats = self.checks.failed({"duplicate": apart}, of)
            if not repeats:
                self.checks.keep(row.clip_id, flow)
                self.chosen[index] = len(self.made)
                continue
            self.rejected += rejections(row, repeats, tried.attempt)
            before, self._flows[index] = self._flows.get(index), digest(flow)
            stuck = before == self._flows[index] and not by_chance(turn.row)
            if stuck or tried.attempt >= self.until.attempts:
                self._give_up(row, tried.attempt, stuck)
            else:
                again[index] = tried.attempt + 1
        self.made.append(made)
        return Turns(turns.rows, list(again), list(again.values()))

    def _give_up(self, row: Row, attempts: int, stuck: bool) -> None:
        index = row.provenance.plan_row
        last = next(r for r in reversed(self.rejected) if r.plan_row == index)
        why = "; another try would show the same, nothing that is checked depends on its seed" if stuck else ""
        tries = "1 try" if attempts == 1 else f"{attempts} tries"
        self.never[index] = Skipped(
            row.clip_id,
            f"row {index} was never accepted in {tries}; the last failed {last.check} ({last.value:.4g}, limit "
            f"{last.limit:g}){why}",
        )


def run_until_accepted(
    out: Path,
    rows: Sequence[PlanRow],
    maker: Maker,
    until: Until,
    config: dict[str, Any],
    *,
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> TopUp:
    """Clips of ``rows``, whose indices count from 0, into the claimed folder ``out``; see the module.

    Raises:
        RunFolderError: another process is writing ``out``, or it cannot be written.
        MesynthError: whatever the worker raises.
    """
    if (out / FILE_NAME).is_file():
        if (out / ROUNDS).exists() or (out / LOCK_FILE).exists():  # a kill came between the last two steps
            with only_writer(out), writable(out):
                shutil.rmtree(out / ROUNDS, ignore_errors=True)
        return TopUp.read(out)
    speeds: list[Throughput] = []
    with only_writer(out), writable(out):
        for temporary in out.glob("*.tmp"):  # left by a kill
            temporary.unlink(missing_ok=True)
        maker.prepare()
        state = _Rounds(len(rows), until, maker.checks)
        turns = Turns(rows, range(len(rows)))
        while len(turns):
            number = len(state.made)
            bar = progress("clips" if number == 0 else f"again, {number}") if progress else None
            identity = config | {"round": number, "turns": config_hash({"turns": turns.plain()})}
            folder = out / ROUNDS / f"{number:03d}"
            with timed(maker.worker(), speeds.append if report else None) as work:
                made = run_stage(folder, maker.jobs(turns), work, config=identity, workers=workers, progress=bar)
            turns = state.take(made, turns)
        assert all((state.chosen[i] >= 0) != (i in state.never) for i in range(len(rows)))
        rejected = sorted(state.rejected, key=lambda r: (r.plan_row, r.attempt))
        write_text(out / REJECTED_FILE, rejected_csv(rejected))
        if state.never:
            write_text(out / SKIPPED_FILE, _skipped_csv([state.never[i] for i in sorted(state.never)]))
        gather(out, state.made, state.chosen)
        shutil.rmtree(out / ROUNDS)
    if report and speeds:
        report(joined(speeds))
    return TopUp.read(out)


def _skipped_csv(never: list[Skipped]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Skipped)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in never)
    return buffer.getvalue()


def joined(speeds: list[Throughput]) -> Throughput:
    """Rounds as one run: process by process, in their order."""
    processes = []
    for parts in zip_longest(*(speed.processes for speed in speeds)):
        known = [p for p in parts if p is not None]
        processes.append(ProcessTimes(**{f.name: sum(getattr(p, f.name) for p in known) for f in fields(ProcessTimes)}))
    return Throughput(wall=sum(speed.wall for speed in speeds), processes=tuple(processes))
