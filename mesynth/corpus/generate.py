"""Make the clips of a plan, complete and timed: frames, exact flow, provenance, and a few of them loose to look at.

:func:`run_plan` makes a corpus of any plan's rows, :func:`generate_plan` clips on faces. A finished corpus holds every
row of its plan exactly once; one that the disk cut short stays valid and goes on. How fast each process was is measured
by part: seconds in the model, in making frames of its motion, in encoding, in writing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np

from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError, MesynthError, RunFolderError
from mesynth.core.framing import OWN, Framing, KnownFraming
from mesynth.core.process import Ahead, Stopwatch, part
from mesynth.core.types import Flow, Sample
from mesynth.corpus.faces import (
    WHOLE,
    Examination,
    FaceSource,
    choose_faces,
    examine_planned,
    face_landmarker,
    margin,
    prepare_faces,
)
from mesynth.corpus.plan import FILE_NAME as PLAN_FILE
from mesynth.corpus.plan import Plan, PlanConfig, PlanRow, StoredPlan, write_plan
from mesynth.corpus.previews import VIDEOS, check_video, loose_files
from mesynth.generators.base import ROWS_AT_ONCE, ClipRequest, Generator
from mesynth.generators.registry import Model, find_model
from mesynth.motion.onset import Onset, OnsetError
from mesynth.motion.prior import NAME, Face
from mesynth.preprocess.config import LARGEST
from mesynth.preprocess.face_quality import FaceLimits
from mesynth.preprocess.prepare import landmarker_identity
from mesynth.store.cluster import alone, do_once, engine, unfixed, writer
from mesynth.store.manifest import Manifest, Provenance, Row, framing_meta
from mesynth.store.run_folder import claim_folder, write_text
from mesynth.store.shards import PICTURES, check_pictures, read_frames, read_landmarks
from mesynth.store.stage import PARTS as JOURNALS
from mesynth.store.stage import Cost, Jobs, Produced, Progress, Skipped, Worker, run_stage

THROUGHPUT_FILE = "throughput.json"
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
        write_text(out / THROUGHPUT_FILE, json.dumps(asdict(self) | whole, indent=1) + "\n")


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
    def framing(self) -> Framing | None:
        """Where faces lie in what is made; None where they lie anywhere."""
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
    with writer(out), writable(out):
        bars = [progress(name) if progress else None for name in run.bars]
        with unfixed():
            run.prepare(out, workers, bars[0])
        with timed(run.worker(out), None if engine() else report) as work:  # tasks elsewhere leave no times here
            made = run_stage(
                out, run.jobs(run.rows), work, config=run.config, workers=workers, progress=bars[-1], held=True,
                meta=framing_meta(KnownFraming(framing=run.framing) if run.framing else None),
            )  # fmt: skip
    prove_complete(made, len(run.rows))
    return made


def cost(run: CorpusRun, rows: int) -> Cost:
    """Measured on the first ``rows`` of the run, made twice in a folder of the machine's own: libraries and weights are
    read, and code is compiled, the first time."""
    jobs = run.rows[:rows]
    speeds: list[Throughput] = []
    started = time.perf_counter()
    with TemporaryDirectory(prefix="mesynth-cost-") as folder, alone():
        run.prepare(Path(folder), 1, None)
        begun = time.perf_counter()
        for turn in ("first", "again"):
            out = Path(folder) / turn
            with timed(run.worker(Path(folder)), speeds.append) as work:
                run_stage(out, run.jobs(jobs), work, config=run.config)
        stored = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    first, again = (speed.wall for speed in speeds)
    return Cost(len(jobs), again / len(jobs), stored / len(jobs), max(begun - started + first - again, 0.0))


# ---------------------------------------------------------------- clips


_CACHED_FACES = 8
_AHEAD = 4
"""Clips that lie finished in memory while one is written."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How many clips also lie loose under ``clips/``, and as what: one of :data:`mesynth.corpus.previews.VIDEOS`."""

    count: int = 8
    video: str = VIDEOS[0]

    def __post_init__(self) -> None:
        check_video(self.video)
        if self.count < 0:
            raise MesynthError(f"preview={self.count} must not be negative")


@dataclass(frozen=True)
class Together:
    """One row, and the rows whose clips are made along with it."""

    rows: tuple[PlanRow, ...]
    place: int


class Blocks:
    """Rows as :class:`Together`, ``at_once`` of them at a time: they come one by one, as a stage wants them."""

    def __init__(self, rows: Jobs, at_once: int) -> None:
        self._rows, self._at_once = rows, at_once

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice, /) -> Blocks:
        return Blocks(self._rows[part], self._at_once)

    def __iter__(self) -> Iterator[Together]:
        rows = iter(self._rows)
        while together := tuple(islice(rows, self._at_once)):
            yield from (Together(together, place) for place in range(len(together)))


class GenerateWorker:
    """Makes the clip of a plan row. Picklable: faces are read lazily, each process keeps a few.

    On the CPU rows come one by one. On another device they come as :class:`Together`: their clips are made by a thread,
    up to :data:`_AHEAD` of them while those before are encoded and written.
    """

    def __init__(self, model: Model, faces: Path, size: int, preview: Preview, pictures: str = PICTURES[0]) -> None:
        self.model, self.faces, self.size, self.preview, self.pictures = model, faces, size, preview, pictures
        self._manifest: Manifest | None = None
        self._generator: Generator | None = None
        self._faces: OrderedDict[int, Face] = OrderedDict()
        self._made: tuple[tuple[PlanRow, ...], Ahead[tuple[Sample, tuple[str, ...]]]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_manifest": None, "_generator": None, "_faces": OrderedDict(), "_made": None}

    def __call__(self, job: PlanRow | Together) -> Produced:
        if self._generator is None:
            with part("load"):
                self._generator = self.model.load()
        if isinstance(job, Together):
            plan, (sample, warnings) = job.rows[job.place], self._next(job.rows)
        else:
            plan = job
            ((sample, warnings),) = self._generator.generate_many([self._request(plan)])
        face, source = self._face(plan.face)
        row = self._row(plan, source, sample, (*self._missing(plan), *warnings))
        files = loose_files(row.clip, sample, self.preview.video) if plan.index < self.preview.count else {}
        return Produced(
            row,
            frames=sample.clip.frames,
            pictures=self.pictures,
            flow=sample.flow.uv,
            landmarks=face.landmarks - np.float32(face.margin),
            valid=sample.flow.valid,
            extra=masks(sample.flow),
            files=files,
        )

    def close(self) -> None:
        """End the thread that makes clips ahead, where there is one."""
        if self._made is not None:
            self._made[1].close()
            self._made = None

    def _next(self, rows: tuple[PlanRow, ...]) -> tuple[Sample, tuple[str, ...]]:
        """The next clip of ``rows``, which are asked for in their order."""
        assert self._generator is not None
        if self._made is None or self._made[0] is not rows:
            self.close()
            self._made = rows, Ahead(self._generator.generate_many([self._request(row) for row in rows]), _AHEAD)
        with part("model"):  # waiting for the device
            return next(self._made[1])

    def _request(self, plan: PlanRow) -> ClipRequest:
        face, _ = self._face(plan.face)
        aus = Onset.of(face.landmarks).answer(plan.aus).aus if _drawn(plan) else plan.aus
        return ClipRequest(face, aus, plan.profile, plan.n_frames, plan.fps, plan.nuisance, plan.seed)

    def _missing(self, plan: PlanRow) -> tuple[str, ...]:
        """What was drawn for the row and its face cannot show, in words: nobody asked for it on this face."""
        return Onset.of(self._face(plan.face)[0].landmarks).answer(plan.aus).refused if _drawn(plan) else ()

    def _face(self, index: int) -> tuple[Face, Row]:
        if self._manifest is None:
            self._manifest = Manifest.read(self.faces)
        row = self._manifest.row(index)
        if index not in self._faces:
            image = read_frames(self._manifest.root, row, [0])[0]
            points = read_landmarks(self._manifest.root, row)
            self._faces[index] = Face(image, points, margin(self.size))
            while len(self._faces) > _CACHED_FACES:
                self._faces.popitem(last=False)
        self._faces.move_to_end(index)
        return self._faces[index], row

    def _row(self, plan: PlanRow, face: Row, sample: Sample, warnings: tuple[str, ...]) -> Row:
        clip = f"syn{plan.index:07d}"
        learned = self.model.facts
        return Row(
            clip_id=f"{face.subject_key}/{clip}/0",
            database=face.database,
            subject=face.subject,
            clip=clip,
            **plan.columns(sample.aus, sample.clip.frames.shape[1:3], sample.clip.apex),
            warnings=(*face.warnings, *warnings),
            provenance=Provenance(
                database=face.database,
                subject=face.subject,
                licence="; ".join(dict.fromkeys((face.provenance.licence, *learned.licences))),
                # What this clip has seen: whose face it shows, whose labels gave its AUs (nobody's, for tables, which
                # are aggregates), and everyone its generator learned from (nobody, for the motion prior).
                subjects_seen=tuple(
                    dict.fromkeys((*face.provenance.subjects_seen, *plan.au_seen, *learned.subjects_seen))
                ),
                parents=face.provenance.parents,
                generator=self.model.described,
                weights_sha256=learned.weights_sha256,
                **plan.origin(),
            ),
        )


def _drawn(plan: PlanRow) -> bool:
    """Whether the AUs were drawn, for any face, and not asked for by a user."""
    return plan.au_source not in ("user", "fixed")


def masks(flow: Flow) -> dict[str, np.ndarray]:
    """What a clip's shard holds beside ``valid.npy``, where it is known: ``new`` and ``still``; see :class:`Flow`."""
    named = {"new": flow.new, "still": flow.still}
    return {name: mask for name, mask in named.items() if mask is not None}


def choose(model: str | Model, config: PlanConfig) -> Model:
    """The model, or that of the name, which takes its options and every request of ``config``, as far as is known
    beforehand.

    Raises:
        MesynthError: see :func:`generate`.
    """
    chosen = find_model(model) if isinstance(model, str) else model
    chosen.check_frames()
    for request in config.au:
        chosen.check_request(facs.parse_request(request))
    if chosen.options:
        chosen.load()  # before a folder is claimed: only the family knows its options
    return chosen


def generate(
    faces: Path | list[FaceSource],
    config: PlanConfig,
    out: Path,
    *,
    model: str | Model = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    face: str = LARGEST,
    face_limits: FaceLimits | None = None,
    whole: bool = False,
    pictures: str = PICTURES[0],
    **pace: Unpack[Pace],
) -> Manifest:
    """Generate a corpus on ``faces`` into ``out``: manifest, shards, plan, faces, previews.

    ``face``, ``face_limits``: see :func:`mesynth.corpus.faces.choose_faces`; ``out/faces/skipped.csv`` lists what was
    left out. ``pictures``: how frames are stored, of :data:`mesynth.store.shards.PICTURES`. ``whole``: frames are the
    whole pictures, at most :data:`mesynth.corpus.faces.LONGEST` pixels a side, not crops of ``config.size``. ``model``:
    see :func:`mesynth.generators.registry.find_model`, and :meth:`~mesynth.generators.registry.Model.on` for another
    device than the CPU. The same call resumes an
    interrupted one; the same seed gives the same bytes at any ``pace`` (:class:`mesynth.corpus.generate.Pace`: workers,
    progress, report).

    Raises:
        NoFaceError, UnreadableImageError, DatasetLayoutError: no face can be used (all reasons are named).
        RunFolderError: ``out`` holds another run.
        PipelineError: ``model`` is no saved generator.
        MesynthError: a request or an option that the model is known to refuse.
    """
    run = face_run(
        config, faces, model=model, preview=preview, landmarker=landmarker, face=face, face_limits=face_limits,
        whole=whole, pictures=pictures, progress=pace.get("progress"),
    )  # fmt: skip
    return run_plan(run, out, **pace)


def generate_plan(
    plan: StoredPlan,
    out: Path,
    *,
    faces: Path | None = None,
    model: str | Model = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    pictures: str = PICTURES[0],
    **pace: Unpack[Pace],
) -> Manifest:
    """Generate every row of a plan that ``mesynth plan`` wrote: exactly one clip a row. See :func:`generate`.

    ``faces``: where the planned faces are now, if not where the plan found them.

    Raises:
        ManifestError: a planned face is missing or another one now.
        MesynthError: what :func:`generate` refuses; a row that the model is known to refuse (it is named).
    """
    run = face_run(
        plan, faces, model=model, preview=preview, landmarker=landmarker, pictures=pictures,
        progress=pace.get("progress"),
    )  # fmt: skip
    return run_plan(run, out, **pace)


def choose_for_rows(model: str | Model, plan: StoredPlan) -> Model:
    """The model, or that of the name, if no row of the plan is known to be refused by it.

    Raises:
        MesynthError: names the first row that is.
    """
    chosen = find_model(model) if isinstance(model, str) else model
    chosen.check_frames()
    for row in plan:
        try:
            chosen.check_request(row.aus)
        except MesynthError as error:
            raise type(error)(f"row {row.index} of {plan.folder}: {error}") from None
    if chosen.options:
        chosen.load()
    return chosen


@dataclass(frozen=True)
class FaceRun:
    """A :class:`mesynth.corpus.generate.CorpusRun` of clips on faces."""

    rows: Plan | StoredPlan
    model: Model
    sources: list[FaceSource]
    size: int
    preview: Preview
    landmarker: str
    planned: dict[str, Any]
    """Tells the plan from others."""
    examination: Examination | None = None
    """How the faces were chosen, where they were not chosen before."""
    pictures: str = PICTURES[0]
    """How frames are stored."""

    bars = ("faces", "clips")

    @property
    def framing(self) -> Framing | None:
        return None if self.size == WHOLE else OWN

    @property
    def config(self) -> dict[str, Any]:
        return {
            **self.model.identity,
            **self.planned,
            "faces": [s.identity for s in self.sources],
            "preview": dataclasses.asdict(self.preview),
            "landmarker": landmarker_identity(face_landmarker(self.sources, self.landmarker)),
            **({"frame": "full"} if self.size == WHOLE else {}),
            **({"frames": self.pictures} if self.pictures != PICTURES[0] else {}),
        }

    def prepare(self, out: Path, workers: int, progress: Progress | None) -> None:
        prepare_faces(
            self.sources, out / "faces", self.size, landmarker=self.landmarker, workers=workers, progress=progress,
            examination=self.examination,
        )  # fmt: skip
        try:
            self._check_onsets(out / "faces")
        except OnsetError:
            if not (out / JOURNALS).exists():  # the request put right may have the folder
                shutil.rmtree(out / "faces", ignore_errors=True)
            raise
        if do_once(out, "plan", (out / PLAN_FILE).is_file):
            write_plan(self.rows, out)

    def _check_onsets(self, faces: Path) -> None:
        """Before any clip is made: what the rows ask for can be shown from their faces.

        Raises:
            OnsetError: names the row and the face.
        """
        if isinstance(self.rows, Plan) and not self.rows.config.au:
            return
        manifest, onsets, seen = Manifest.read(faces), dict[int, Onset](), set[tuple[int, Any]]()
        for row in self.rows:
            if _drawn(row) or (row.face, row.intensity) in seen:
                continue
            seen.add((row.face, row.intensity))
            of = manifest.row(row.face)
            if row.face not in onsets:
                onsets[row.face] = Onset.of(read_landmarks(manifest.root, of))
            for text in onsets[row.face].answer(row.aus).refused:
                raise OnsetError(f"row {row.index} on {of.clip_id}: {text}")

    def jobs(self, rows: Jobs) -> Jobs:
        return rows if self.model.device == "cpu" else Blocks(rows, ROWS_AT_ONCE)

    def worker(self, out: Path) -> GenerateWorker:
        return GenerateWorker(self.model, out / "faces", self.size, self.preview, self.pictures)


def few_faces(run: FaceRun, rows: int) -> FaceRun:
    """The first rows of a run on the faces that they need alone."""
    first = list(run.rows[:rows])
    used = list(dict.fromkeys(row.face for row in first))
    moved = [replace(row, face=used.index(row.face)) for row in first]
    return replace(run, rows=moved, sources=[run.sources[i] for i in used], examination=None)  # type: ignore[arg-type]


def face_run(
    rows: PlanConfig | StoredPlan,
    faces: Path | Sequence[FaceSource] | None,
    *,
    model: str | Model,
    preview: Preview,
    landmarker: str,
    face: str = LARGEST,
    face_limits: FaceLimits | None = None,
    whole: bool = False,
    pictures: str = PICTURES[0],
    progress: Callable[[str], Progress] | None = None,
) -> FaceRun:
    """See :func:`generate` and :func:`generate_plan`; raises as they do, and nothing is written."""
    check_pictures(pictures)
    if isinstance(rows, StoredPlan):
        assert faces is None or isinstance(faces, (str, Path)), "a stored plan knows its faces"
        chosen, sources = choose_for_rows(model, rows), rows.find(faces)
        bar = progress("look at faces") if progress else None
        planned_faces = examine_planned(sources, rows.faces_folder(faces), landmarker, bar)
        planned: dict[str, Any] = {"stored_plan": rows.hash}
        sources = sources if planned_faces is None else planned_faces.taken
        return FaceRun(rows, chosen, sources, rows.size, preview, landmarker, planned, planned_faces, pictures)
    if faces is None:
        raise ConfigError("give faces a picture, a folder of pictures or a manifest; or a stored plan")
    chosen = choose(model, rows)
    examination: Examination | None = None
    if isinstance(faces, (str, Path)):
        bar = progress("look at faces") if progress else None
        examination = choose_faces(Path(faces), face=face, limits=face_limits, landmarker=landmarker, progress=bar)
    sources = list(faces) if examination is None else examination.taken  # type: ignore[arg-type]
    planned, size = {"plan": dataclasses.asdict(rows)}, WHOLE if whole else rows.size
    return FaceRun(Plan(rows, len(sources)), chosen, sources, size, preview, landmarker, planned, examination, pictures)
