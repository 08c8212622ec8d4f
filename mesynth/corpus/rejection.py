"""Rejection sampling: each row of a plan is drawn until its clip passes the checks, or its attempts are used up.

Attempt ``k`` of a row is the row with another seed, which decides style, head movement, blinks, noise, the lag between
AUs, and whatever a generator draws itself. Face, AUs, profile, length and strengths of nuisances stay: a clip that
takes another's place has its condition, so a plan's classes and factors stay balanced and its labels true.

Checks of a clip's own frames are made by the process that drew it (:class:`_Draw`), which draws again at once.
Duplicates depend on all other clips: they are looked for in rounds (:class:`_Rounds`), in the order of the plan, among
the accepted clips of all rounds; each round draws the rows that still have none. A round is a stage, so it resumes, and
any number of processes gives the same. What is accepted is gathered into one corpus, in the shards that a stage would
have written of these clips alone."""

from __future__ import annotations

import csv
import hashlib
import heapq
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from mesynth.core import seeds
from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.core.framing import KnownFraming
from mesynth.core.process import one_thread
from mesynth.corpus.faces import FaceSource
from mesynth.corpus.filters import REJECTED_FILE, Checks, Failure, Limits, Rejection, rejected_csv, rejections
from mesynth.corpus.flow_corpus import FlowRun
from mesynth.corpus.generate import CorpusRun, Pace, Preview, Throughput, face_run, joined, timed, writable
from mesynth.corpus.plan import PlanConfig, PlanRow, StoredPlan
from mesynth.generators.registry import Model
from mesynth.metrics.base import ClipData, face_mask
from mesynth.motion.prior import NAME
from mesynth.preprocess.config import LARGEST
from mesynth.preprocess.face_quality import FaceLimits
from mesynth.store import digests
from mesynth.store.cluster import do_once, engine, require_whole_share, unless, writer
from mesynth.store.manifest import FILE_NAME, Manifest, Row, Span, framing_meta, write_tables
from mesynth.store.run_folder import LOCK_FILE, claim_folder, config_hash, write_text
from mesynth.store.shards import PICTURES, ShardWriter, read_flow, read_span
from mesynth.store.stage import (
    ROUNDS,
    SKIPPED_FILE,
    Produced,
    Skipped,
    Worker,
    read_notes,
    read_skipped,
    run_stage,
    shard_size,
    skipped_csv,
)

ATTEMPTS = 5
MAX_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """When a clip is accepted, and how often a row is drawn, the first time included, before it is given up."""

    limits: Limits = Limits()
    attempts: int = ATTEMPTS

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise ConfigError(f"attempts={self.attempts} is outside 1..{MAX_ATTEMPTS}")

    def plain(self) -> dict[str, Any]:
        """As the run's configuration has it."""
        return {"until_accepted": {"limits": asdict(self.limits), "attempts": self.attempts}}


@dataclass(frozen=True, kw_only=True)
class AcceptedCorpus:
    """A corpus whose every clip was accepted, and what it took."""

    manifest: Manifest
    """The accepted clips."""
    rejected: int
    """Attempts that were not accepted."""
    reasons: dict[str, int]
    """How many attempts each check rejected."""
    never: tuple[Skipped, ...]
    """Rows of which no attempt was accepted."""

    @staticmethod
    def read(out: Path) -> AcceptedCorpus:
        """Of a finished folder. Raises ManifestError and RunFolderError on a damaged one."""
        digests.check(out, [REJECTED_FILE])
        try:
            with open(out / REJECTED_FILE, newline="", encoding="utf-8") as file:
                lines = [(line["plan_row"], line["attempt"], line["check"]) for line in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunFolderError(f"{out / REJECTED_FILE} cannot be read ({error}); make the corpus anew") from None
        return AcceptedCorpus(
            manifest=Manifest.read(out),
            rejected=len({line[:2] for line in lines}),
            reasons=dict(Counter(line[2] for line in lines).most_common()),
            never=tuple(read_skipped(out)),
        )


# ---------------------------------------------------------------- attempts


@dataclass(frozen=True)
class Attempt:
    """The ``number``-th time, counted from 1, that a row of the plan is drawn."""

    planned: PlanRow
    number: int = 1

    @property
    def row(self) -> PlanRow:
        """The row to draw; its seed depends on the planned one's and the number alone. The first attempt is the planned
        row itself: where nothing is rejected, a corpus is the one that `mesynth generate` makes."""
        if self.number == 1:
            return self.planned
        return replace(self.planned, seed=seeds.derived(self.planned.seed, "redraw", self.number))

    def is_stuck(self, same: bool) -> bool:
        """Whether all further attempts would show what this one did; ``same``: it showed what the one before did. A
        blink happens or not, all else that a seed decides always differs."""
        return same and not self.planned.nuisance.blink > 0


class Attempts:
    """The attempts that a round begins with, drawn or read from the plan when they are looked at."""

    def __init__(self, plan: Sequence[PlanRow], places: Sequence[int], numbers: Sequence[int] | None = None) -> None:
        """``places``: which rows of ``plan``; ``numbers``: of their attempts, 1 for all without them."""
        self.plan, self.places, self.numbers = plan, places, numbers
        self._as_rows = False

    def rows(self) -> Attempts:
        """The same as rows to draw."""
        return self._of(self.places, self.numbers, as_rows=True)

    def _of(self, places: Sequence[int], numbers: Sequence[int] | None, as_rows: bool) -> Attempts:
        made = Attempts(self.plan, places, numbers)
        made._as_rows = as_rows
        return made

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice, /) -> Attempts:
        return self._of(self.places[part], self.numbers and self.numbers[part], self._as_rows)

    def __iter__(self) -> Iterator[Any]:
        for i, place in enumerate(self.places):
            attempt = Attempt(self.plan[place], 1 if self.numbers is None else self.numbers[i])
            yield attempt.row if self._as_rows else attempt

    def plain(self) -> list[object]:
        """What tells these attempts from others at the same plan."""
        return [len(self)] if self.numbers is None else [list(self.places), list(self.numbers)]


@dataclass(frozen=True)
class _Outcome:
    """What became of a row in a round: its line of the round's ``notes.jsonl``."""

    number: int
    """Of the last attempt."""
    failures: Sequence[tuple[int, str, float, float]] = ()
    """Attempt, check, value and limit of every reason against an attempt."""
    stuck: bool = False


class _Sampler:
    """A worker: draws a row, checks what came, keeps it or draws again. A row that it gives up comes without arrays."""

    def __init__(self, make: Worker, checks: Checks, most: int) -> None:
        self._make, self._checks, self._most = make, checks, most

    def __call__(self, first: Attempt) -> Produced:
        failures: list[tuple[int, str, float, float]] = []
        failed: list[Failure] = []
        before = ""
        for number in range(first.number, self._most + 1):
            attempt = Attempt(first.planned, number)
            made = self._make(attempt.row)
            assert isinstance(made, Produced)
            shown = _digest_of_checked(made)
            if shown != before:
                with one_thread():  # a value near its limit must not change sides
                    failed = self._checks.failed(self._checks.measure(_MadeClip(made)))
            if not failed:
                return replace(made, notes=asdict(_Outcome(number, failures)))
            failures += [(number, check, value, limit) for check, value, limit, _ in failed]
            stuck = attempt.is_stuck(shown == before)
            if stuck or number == self._most:
                return Produced(made.row, notes=asdict(_Outcome(number, failures, stuck)))
            before = shown
        raise AssertionError("a row has an attempt left")


class _MadeClip(ClipData):
    """A clip as its maker returns it; PNG and npy keep every bit, so its values are those of the stored clip."""

    def __init__(self, made: Produced) -> None:
        assert made.frames is not None
        assert made.flow is not None
        assert made.landmarks is not None
        self.side, self.row, self.frames = "synthetic", made.row, made.frames
        self.landmarks, self.emitted_flow = made.landmarks, made.flow
        mask = face_mask(made.landmarks, *made.frames.shape[1:3])
        self.face = mask if made.valid is None else mask & made.valid


def _digest_of_checked(made: Produced) -> str:
    """Of onset, apex and flow. Frames between them differ with the lag between AUs, which no check looks at."""
    assert made.frames is not None
    assert made.flow is not None
    return _digest(made.frames[0], made.frames[made.row.apex_index], made.flow)


def _digest(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


# ---------------------------------------------------------------- rounds


class _Rounds:
    """What is known between rounds: all of it follows from the rounds' folders, so a resumed run has it again."""

    def __init__(self, n_rows: int, acceptance: Acceptance, checks: Checks) -> None:
        self.acceptance, self.checks = acceptance, checks
        self.chosen = np.full(n_rows, -1, np.int32)
        self.rejected: list[Rejection] = []
        self.never: dict[int, Skipped] = {}
        self.made: list[Manifest] = []
        self._flows: dict[int, str] = {}
        """Of rows that repeat others: what their last attempt was, by plan row."""

    def take(self, made: Manifest, attempts: Attempts) -> Attempts:
        """Accept or reject the clips of a round; returns the attempts of the next."""
        notes = {note.pop("clip_id"): _Outcome(**note) for note in read_notes(made.root)}
        again: dict[int, int] = {}
        for row, attempt in zip(made, attempts, strict=True):
            index = row.provenance.plan_row
            assert index == attempt.planned.index
            outcome = notes.get(row.clip_id, _Outcome(attempt.number))
            for number, check, value, limit in outcome.failures:
                self.rejected += rejections(row, [(check, value, limit, "")], number)
            if row.flow is None:
                self._give_up(row, outcome)
                continue
            flow = read_flow(made.root, row)
            if repeats := self._repeats(flow):
                self.rejected += rejections(row, repeats, outcome.number)
                before, self._flows[index] = self._flows.get(index), _digest(flow)
                stuck = attempt.is_stuck(before == self._flows[index])
                if stuck or outcome.number >= self.acceptance.attempts:
                    self._give_up(row, replace(outcome, stuck=stuck))
                else:
                    again[index] = outcome.number + 1
            else:
                self.checks.keep(row.clip_id, flow)
                self.chosen[index] = len(self.made)
        self.made.append(made)
        return Attempts(attempts.plan, list(again), list(again.values()))

    def _repeats(self, flow: np.ndarray) -> list[Failure]:
        if self.checks.limits.duplicate is None:
            return []
        apart, of = self.checks.nearest(flow)
        return self.checks.failed({"duplicate": apart}, of)

    def _give_up(self, row: Row, outcome: _Outcome) -> None:
        index = row.provenance.plan_row
        last = next(r for r in reversed(self.rejected) if r.plan_row == index)
        why = "; another try would show the same, nothing that is checked depends on its seed" if outcome.stuck else ""
        tries = "1 try" if outcome.number == 1 else f"{outcome.number} tries"
        self.never[index] = Skipped(
            row.clip_id,
            f"row {index} was never accepted in {tries}; the last failed {last.check} ({last.value:.4g}, limit "
            f"{last.limit:g}){why}",
        )


def _run_rounds(
    out: Path,
    run: CorpusRun,
    acceptance: Acceptance,
    checks: Checks,
    **pace: Unpack[Pace],
) -> AcceptedCorpus:
    """Clips of a plan whose rows' indices count from 0.

    Raises:
        RunFolderError: ``out`` holds another run, another process is writing it, or it cannot be written.
        MesynthError: whatever a worker raises.
    """
    require_whole_share("--until-accepted, whose rounds are judged over all shares")
    plan, config = run.rows, run.config | acceptance.plain()
    workers, progress, report = pace.get("workers", 1), pace.get("progress"), pace.get("report")
    claim_folder(out, config)
    if (out / FILE_NAME).is_file():
        if (out / ROUNDS).exists() or (out / LOCK_FILE).exists():  # a kill came between the last two steps
            with writer(out), writable(out):
                shutil.rmtree(out / ROUNDS, ignore_errors=True)
        return AcceptedCorpus.read(out)
    speeds: list[Throughput] = []
    with writer(out) as member, writable(out):
        for temporary in out.glob("*.tmp") if member is None else ():  # left by a kill
            temporary.unlink(missing_ok=True)
        with unless((out / FILE_NAME).is_file):  # then another has gathered the rounds that were read here
            before = run.bars[:-1]
            run.prepare(out, workers, progress(before[0]) if progress and before else None)
            rounds = _Rounds(len(plan), acceptance, checks)
            attempts = Attempts(plan, range(len(plan)))
            while len(attempts):
                number = len(rounds.made)
                bar = progress("clips" if number == 0 else f"again, {number}") if progress else None
                identity = config | {"round": number, "attempts": config_hash({"attempts": attempts.plain()})}
                # Without checks of frames there is nothing that a worker could draw again.
                alone = acceptance.limits.of_frames
                worker = _Sampler(run.worker(out), checks, acceptance.attempts) if alone else run.worker(out)
                jobs = attempts if alone else run.jobs(attempts.rows())
                with timed(worker, speeds.append if report and not engine() else None) as work:
                    made = run_stage(
                        out / ROUNDS / f"{number:03d}", jobs, work, config=identity, workers=workers, progress=bar
                    )
                attempts = rounds.take(made, attempts)
            assert all((rounds.chosen[i] >= 0) != (i in rounds.never) for i in range(len(plan)))
            if do_once(out, "gather", (out / FILE_NAME).is_file):
                _close_rounds(out, run, rounds)
    if report and speeds:
        report(joined(speeds))
    return AcceptedCorpus.read(out)


# ---------------------------------------------------------------- one corpus of the rounds


def _close_rounds(out: Path, run: CorpusRun, rounds: _Rounds) -> None:
    rejected = sorted(rounds.rejected, key=lambda r: (r.plan_row, r.attempt))
    write_text(out / REJECTED_FILE, rejected_csv(rejected))
    if rounds.never:
        write_text(out / SKIPPED_FILE, skipped_csv(rounds.never[i] for i in sorted(rounds.never)))
    known = KnownFraming(framing=run.framing) if run.framing else None
    _gather(out, rounds.made, rounds.chosen, framing_meta(known))
    shutil.rmtree(out / ROUNDS)


def _gather(out: Path, rounds: Sequence[Manifest], chosen: np.ndarray, meta: dict[str, str]) -> None:
    """Copy clips into ``out``, in the order of their plan rows; the manifest is written last.

    ``chosen`` [N] int: the round that has the clip of each plan row, -1 where there is none. In each round's manifest
    plan rows ascend. What was loose under ``clips/`` is copied too. Memory is that of one shard and the table; the same
    call again writes the same bytes. Raises ManifestError where a round's shard is missing or damaged.
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
    write_tables(out, lambda: [table], meta, finishes=[ROUNDS])


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


# ---------------------------------------------------------------- of clips on faces, and of flow images


def generate_until_accepted(
    rows: PlanConfig | StoredPlan,
    out: Path,
    acceptance: Acceptance = Acceptance(),
    *,
    faces: Path | list[FaceSource] | None = None,
    model: str | Model = NAME,
    preview: Preview = Preview(),
    pictures: str = PICTURES[0],
    landmarker: str = "auto",
    face: str = LARGEST,
    face_limits: FaceLimits | None = None,
    **pace: Unpack[Pace],
) -> AcceptedCorpus:
    """:func:`mesynth.corpus.generate.generate` or ``generate_plan``, with every rejected clip drawn again.

    The corpus is as theirs, with accepted clips alone; beside it lie ``rejected.csv`` (every reason against every
    rejected attempt) and, if there are such rows, ``skipped.csv`` (those of which no attempt was accepted, and why).
    Where nothing is rejected, clips and shards are theirs, byte for byte.

    Raises:
        WeightsUnavailable: a check's network is not on this machine.
        MesynthError: what they raise; no ``faces`` for rows that are no stored plan.
    """
    checks = Checks(acceptance.limits)
    checks.load()
    run = face_run(
        rows, faces, model=model, preview=preview, landmarker=landmarker, face=face, face_limits=face_limits,
        pictures=pictures,
        progress=pace.get("progress"),
    )  # fmt: skip
    return _run_rounds(out, run, acceptance, checks, **pace)


def generate_flow_until_accepted(
    run: FlowRun, out: Path, acceptance: Acceptance, **pace: Unpack[Pace]
) -> AcceptedCorpus:
    """The flow images of ``run`` (:func:`mesynth.corpus.flow_corpus.flow_run`), with every duplicate drawn again; see
    :func:`generate_until_accepted`.

    Raises:
        ConfigError: a check of frames: there are none.
        RunFolderError, MesynthError: see :func:`mesynth.corpus.flow_corpus.generate_flow`.
    """
    if frames := acceptance.limits.of_frames:
        raise ConfigError(f"--keep {frames[0]} needs frames; with --kind flow use --keep duplicate")
    return _run_rounds(out, run, acceptance, Checks(acceptance.limits), **pace)
