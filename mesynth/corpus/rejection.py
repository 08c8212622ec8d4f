"""Clips out of several folders become one corpus: the shards that a stage would have written of these clips alone.

Rows of a plan drawn again: another seed for each try, everything else as the row says, until a clip passes.

What is drawn again is the row's seed alone, which decides style, head movement, blinks, noise, the lag between AUs, and
whatever a generator draws itself. Face, AUs, profile, length and strengths of nuisances stay: a clip that takes
another's place has its condition, so a plan's classes and factors stay balanced and its labels true.

A corpus whose every clip passes: rows of a plan whose clip is rejected are drawn again until one is accepted.

Rounds: each makes a clip of the rows that still have none (:class:`mesynth.corpus.rejection.Tries` draws again what
fails by its frames), then duplicates are looked for in the order of the plan, against the accepted clips of all
rounds. What is accepted is gathered into one corpus. A round is a stage: it resumes, and any number of processes
gives the same.

Clips on faces and flow images, made until they are accepted: what :func:`run_until_accepted` needs of each kind."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import heapq
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa

from mesynth.core import seeds
from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.corpus.faces import FaceSource, find_faces, prepare_faces
from mesynth.corpus.filters import REJECTED_FILE, Checks, Failure, Limits, Rejection, rejected_csv, rejections
from mesynth.corpus.flow_corpus import Batches, FlowRun, FlowWorker, flow_run
from mesynth.corpus.generate import GenerateWorker, Preview, choose, choose_for_rows, run_config
from mesynth.corpus.plan import Plan, PlanConfig, PlanRow, write_plan
from mesynth.corpus.plan_file import StoredPlan
from mesynth.corpus.throughput import ProcessTimes, Report, Throughput, timed, writable
from mesynth.generators.registry import Model
from mesynth.metrics.clips import ClipData, face_mask
from mesynth.motion.flow_prior import NAME as FLOW_PRIOR
from mesynth.motion.flow_prior import FlowNuisance
from mesynth.motion.prior import NAME
from mesynth.store.manifest import FILE_NAME, Manifest, Row, Span
from mesynth.store.run_folder import LOCK_FILE, claim_folder, config_hash, only_writer, write_text
from mesynth.store.shards import ShardWriter, read_flow, read_span
from mesynth.store.stage import (
    SKIPPED_FILE,
    Jobs,
    Produced,
    Progress,
    Skipped,
    Worker,
    read_notes,
    read_skipped,
    run_stage,
    shard_size,
)


def gather(out: Path, rounds: Sequence[Manifest], chosen: np.ndarray) -> Manifest:
    """Copy clips into ``out``, in the order of their plan rows; the manifest is written last.

    ``chosen`` [N] int: the round that has the clip of each plan row, -1 where there is none. In each round's manifest
    plan rows ascend. What was loose under ``clips/`` is copied too. Memory is that of one shard and the table; the same
    call again writes the same bytes.

    Raises:
        ManifestError: a round's shard is missing or damaged.
    """
    total = int((chosen >= 0).sum())
    size = shard_size(total)
    parts = [_of(made, chosen, number) for number, made in enumerate(rounds)]
    clips = heapq.merge(*parts, key=lambda clip: clip[0].provenance.plan_row)
    tables = [
        _write_shard(out, index, first, list(islice(clips, size))) for index, first in enumerate(range(0, total, size))
    ]
    table = pa.concat_tables(tables).combine_chunks() if tables else Manifest.from_rows([], out).table
    assert table.num_rows == total
    Manifest(table, out).write(out)
    return Manifest.read(out)


def _of(made: Manifest, chosen: np.ndarray, number: int) -> Iterator[tuple[Row, Path]]:
    return ((row, made.root) for row in made if chosen[row.provenance.plan_row] == number)


def _write_shard(out: Path, index: int, first: int, clips: list[tuple[Row, Path]]) -> pa.Table:
    rows = []
    with ExitStack() as stack:
        tars = {
            name: stack.enter_context(ShardWriter(out / f"{name}-{index:06d}.tar"))
            for name in ("frames", "flow")
            if any(getattr(row, name) for row, _ in clips)
        }
        for place, (row, root) in enumerate(clips, first):
            spans: dict[str, Any] = {
                name: _copied(tar, f"{place:08d}", root, getattr(row, name)) for name, tar in tars.items()
            }
            rows.append(replace(row, **spans))
            if (loose := root / "clips" / row.clip).is_dir():
                shutil.copytree(loose, out / "clips" / row.clip, dirs_exist_ok=True)
    return Manifest.from_rows(rows, out).table


def _copied(tar: ShardWriter, key: str, root: Path, span: Span | None) -> Span | None:
    return span and tar.add(key, read_span(root, span, verify=True))


# ------------------------------------------------------------------- tries


FIRST = 1
"""The first try is the row itself: where nothing is rejected, a corpus is the one that `mesynth generate` makes."""


def redrawn(row: PlanRow, attempt: int) -> PlanRow:
    """The row of the ``attempt``-th try, counted from FIRST; its seed depends on the row's and ``attempt`` alone."""
    return row if attempt == FIRST else replace(row, seed=seeds.derived(row.seed, "redraw", attempt))


def by_chance(row: PlanRow) -> bool:
    """Whether a redraw may differ though the one before did not: a blink happens or not, all else always differs."""
    return row.nuisance.blink > 0


@dataclass(frozen=True)
class Turn:
    """A row that needs a clip, and the try to begin with."""

    row: PlanRow
    attempt: int


class Turns:
    """Some rows of a plan, each with the try to begin with. Rows are drawn or read when they are looked at."""

    def __init__(self, rows: Sequence[PlanRow], places: Sequence[int], attempts: Sequence[int] | None = None) -> None:
        """``places``: which of ``rows``; ``attempts``: FIRST for all without them."""
        self.rows, self.places, self.attempts = rows, places, attempts

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice, /) -> Turns:
        return Turns(self.rows, self.places[part], self.attempts and self.attempts[part])

    def __iter__(self) -> Iterator[Turn]:
        return map(self.turn, range(len(self)))

    def turn(self, i: int) -> Turn:
        """The ``i``-th."""
        return Turn(self.rows[self.places[i]], FIRST if self.attempts is None else self.attempts[i])

    def plain(self) -> list[object]:
        """What tells these turns from others at the same plan."""
        return [len(self)] if self.attempts is None else [list(self.places), list(self.attempts)]


class Redrawn(Sequence[PlanRow]):
    """:class:`Turns` as plan rows that say their try's seed, for makers that take rows in batches."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def __len__(self) -> int:
        return len(self._turns)

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> Redrawn: ...
    def __getitem__(self, index: int | slice) -> PlanRow | Redrawn:
        if isinstance(index, slice):
            return Redrawn(self._turns[index])
        turn = self._turns.turn(range(len(self))[index])
        return redrawn(turn.row, turn.attempt)


class MadeClip(ClipData):
    """A clip as its maker returns it; PNG and npy keep every bit, so its values are those of the stored clip."""

    def __init__(self, made: Produced) -> None:
        assert made.frames is not None
        assert made.flow is not None
        assert made.landmarks is not None
        self.side, self.row, self.frames = "synthetic", made.row, made.frames
        self.landmarks, self.emitted_flow = made.landmarks, made.flow
        mask = face_mask(made.landmarks, *made.frames.shape[1:3])
        self.face = mask if made.valid is None else mask & made.valid


@dataclass(frozen=True)
class Tried:
    """What became of a row: a line of a round's ``notes.jsonl``."""

    attempt: int
    """The last try."""
    rejected: tuple[tuple[int, str, float, float], ...]
    """Try, check, value and limit of every reason against a try."""
    same: bool = False
    """The last try showed what the one before did, and the next would."""

    @staticmethod
    def of(note: dict[str, object]) -> Tried:
        """From a note."""
        lines = note["rejected"]
        assert isinstance(lines, list)
        return Tried(int(str(note["attempt"])), tuple((a, c, v, x) for a, c, v, x in lines), bool(note["same"]))


class Tries:
    """Makes the clip of a row until its frames pass the checks, or no try is left: then the row comes without arrays.

    Duplicates are another matter: they depend on other rows.
    """

    def __init__(self, make: Callable[[PlanRow], Produced], checks: Checks, attempts: int) -> None:
        self._make, self._checks, self._attempts = make, checks, attempts

    def __call__(self, turn: Turn) -> Produced:
        rejected: list[tuple[int, str, float, float]] = []
        failed: list[Failure] = []
        before = ""
        for attempt in range(turn.attempt, self._attempts + 1):
            made = self._make(redrawn(turn.row, attempt))
            seen = _what_checks_see(made)
            same = seen == before
            if not same:
                with _one_thread():
                    failed = self._checks.failed(self._checks.measure(MadeClip(made)))
            if not failed:
                return replace(made, notes={"attempt": attempt, "rejected": rejected, "same": False})
            rejected += [(attempt, check, value, limit) for check, value, limit, _ in failed]
            stuck = same and not by_chance(turn.row)
            if stuck or attempt == self._attempts:
                return Produced(made.row, notes={"attempt": attempt, "rejected": rejected, "same": stuck})
            before = seen
        raise AssertionError("a turn has a try left")


def _what_checks_see(made: Produced) -> str:
    """sha256 of onset, apex and flow. Frames between them differ with the lag between AUs, which no check looks at."""
    assert made.frames is not None
    assert made.flow is not None
    return digest(made.frames[0], made.frames[made.row.apex_index], made.flow)


def digest(*arrays: np.ndarray) -> str:
    """sha256 of the values of arrays."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order whatever the number of processes: a value near its limit must not change sides."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------- until accepted


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


# ------------------------------------------------------------------- makers


@dataclass(frozen=True)
class _Clips:
    """Frames and flow on faces; each process checks what it makes."""

    rows: Plan | StoredPlan
    model: Model
    sources: list[FaceSource]
    size: int
    preview: Preview
    landmarker: str
    workers: int
    progress: Callable[[str], Progress] | None
    out: Path
    until: Until
    checks: Checks

    def prepare(self) -> None:
        bar = self.progress("faces") if self.progress else None
        prepare_faces(
            self.sources, self.out / "faces", self.size, landmarker=self.landmarker, workers=self.workers, progress=bar
        )
        write_plan(self.rows, self.out)

    def jobs(self, turns: Turns) -> Jobs:
        return turns

    def worker(self) -> Tries:
        make = GenerateWorker(self.model, self.out / "faces", self.size, self.preview)
        return Tries(make, Checks(self.until.limits), self.until.attempts)


def generate_until_accepted(
    rows: PlanConfig | StoredPlan,
    out: Path,
    until: Until = Until(),
    *,
    faces: Path | None = None,
    model: str = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> TopUp:
    """:func:`mesynth.corpus.generate.generate` or ``generate_plan``, with every rejected clip drawn again.

    The corpus is as theirs, with accepted clips alone; beside it lie ``rejected.csv`` (every reason against every
    rejected try) and, if there are such rows, ``skipped.csv`` (those that no try was accepted of, and why). Where
    nothing is rejected, clips and shards are theirs, byte for byte.

    Raises:
        WeightsUnavailable: a check's network is not on this machine.
        MesynthError: what they raise; no ``faces`` for rows that are no stored plan.
    """
    checks = Checks(until.limits)
    checks.load()
    if isinstance(rows, StoredPlan):
        chosen, sources, size = choose_for_rows(model, rows), rows.find(faces), rows.size
        plan: Plan | StoredPlan = rows
        planned: dict[str, Any] = {"stored_plan": rows.hash}
    else:
        if faces is None:
            raise ConfigError("give faces a picture, a folder of pictures or a manifest; or a stored plan")
        chosen, sources, size = choose(model, rows), find_faces(faces), rows.size
        plan = Plan(rows, len(sources))
        planned = {"plan": dataclasses.asdict(rows)}
    run = run_config(chosen, planned, sources, preview, landmarker) | until.plain()
    claim_folder(out, run)
    maker = _Clips(plan, chosen, sources, size, preview, landmarker, workers, progress, out, until, checks)
    return run_until_accepted(out, plan, maker, until, run, workers=workers, progress=progress, report=report)


@dataclass(frozen=True)
class _Flows:
    """Flow images: nothing but duplicates to look for."""

    run: FlowRun
    out: Path
    checks: Checks

    def prepare(self) -> None:
        write_plan(self.run.rows, self.out)

    def jobs(self, turns: Turns) -> Jobs:
        return Batches(Redrawn(turns))

    def worker(self) -> FlowWorker:
        return self.run.worker()


def generate_flow_until_accepted(
    rows: PlanConfig | StoredPlan,
    out: Path,
    until: Until,
    *,
    model: str = FLOW_PRIOR,
    people: int = 0,
    size: int = 28,
    nuisance: FlowNuisance = FlowNuisance(),
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> TopUp:
    """:func:`mesynth.corpus.flow_corpus.generate_flow`, with every duplicate drawn again; see
    :func:`generate_until_accepted`.

    Raises:
        ConfigError: a check of frames: there are none.
        MesynthError: what it raises.
    """
    if until.limits.of_frames:
        raise ConfigError(f"--keep {until.limits.of_frames[0]} needs frames; with --kind flow use --keep duplicate")
    flow = flow_run(rows, model=model, people=people, size=size, nuisance=nuisance)
    run = flow.config | until.plain()
    claim_folder(out, run)
    maker = _Flows(flow, out, Checks(until.limits))
    return run_until_accepted(out, flow.rows, maker, until, run, workers=workers, progress=progress, report=report)
