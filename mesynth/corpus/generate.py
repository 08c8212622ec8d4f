"""Make the clips of a plan: frames, exact flow, provenance, and a few of them loose to look at."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from mesynth.core import facs
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.framing import OWN
from mesynth.core.process import part
from mesynth.core.types import Flow, Sample
from mesynth.corpus.faces import (
    Examination,
    FaceSource,
    choose_faces,
    examine_planned,
    face_landmarker,
    margin,
    prepare_faces,
)
from mesynth.corpus.plan import Plan, PlanConfig, PlanRow, write_plan
from mesynth.corpus.plan_file import StoredPlan
from mesynth.corpus.previews import VIDEOS, check_video, loose_files
from mesynth.corpus.throughput import Pace, run_plan
from mesynth.generators.base import Generator
from mesynth.generators.registry import Model, find_model
from mesynth.motion.prior import NAME, Face
from mesynth.motion.warp import stays_inside
from mesynth.preprocess.config import LARGEST
from mesynth.preprocess.face_quality import FaceLimits
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import read_frames, read_landmarks
from mesynth.store.stage import Jobs, Produced, Progress

_CACHED_FACES = 8


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How many clips also lie loose under ``clips/``, and as what: one of :data:`mesynth.corpus.previews.VIDEOS`."""

    count: int = 8
    video: str = VIDEOS[0]

    def __post_init__(self) -> None:
        check_video(self.video)
        if self.count < 0:
            raise MesynthError(f"preview={self.count} must not be negative")


class GenerateWorker:
    """Makes one plan row. Picklable: faces are read lazily, each process keeps a few."""

    def __init__(self, model: Model, faces: Path, size: int, preview: Preview) -> None:
        self.model, self.faces, self.size, self.preview = model, faces, size, preview
        self._manifest: Manifest | None = None
        self._generator: Generator | None = None
        self._faces: OrderedDict[int, Face] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_manifest": None, "_generator": None, "_faces": OrderedDict()}

    def __call__(self, plan: PlanRow) -> Produced:
        if self._generator is None:
            with part("load"):
                self._generator = self.model.load()
        face, source = self._face(plan.face)
        with part("model"):  # makers of frames inside it take "warp" off
            sample, warnings = self._generator.generate(
                face,
                plan.aus,
                plan.profile,
                n_frames=plan.n_frames,
                fps=plan.fps,
                nuisance=plan.nuisance,
                seed=plan.seed,
            )
        inset = margin(self.size)
        sample = inner(sample, inset)
        row = self._row(plan, source, sample, warnings)
        files = loose_files(row.clip, sample, self.preview.video) if plan.index < self.preview.count else {}
        return Produced(
            row,
            frames=sample.clip.frames,
            flow=sample.flow.uv,
            landmarks=face.landmarks - np.float32(inset),
            valid=sample.flow.valid,
            extra=masks(sample.flow),
            files=files,
        )

    def _face(self, index: int) -> tuple[Face, Row]:
        if self._manifest is None:
            self._manifest = Manifest.read(self.faces)
        row = self._manifest.row(index)
        if index not in self._faces:
            image = read_frames(self._manifest.root, row)[0]
            self._faces[index] = Face(image, read_landmarks(self._manifest.root, row))
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
            **plan.columns(plan.aus, self.size, sample.clip.apex),
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


def inner(sample: Sample, inset: int) -> Sample:
    """The sample without its outer ``inset`` pixels."""
    middle = slice(inset, -inset)
    clip = replace(sample.clip, frames=np.ascontiguousarray(sample.clip.frames[:, middle, middle]))
    uv = np.ascontiguousarray(sample.flow.uv[:, middle, middle])
    valid, new, still = (
        None if mask is None else np.ascontiguousarray(mask[middle, middle])
        for mask in (sample.flow.valid, sample.flow.new, sample.flow.still)
    )
    inside = stays_inside(uv)
    return Sample(clip, Flow(uv, inside if valid is None else valid & inside, new, still), sample.aus)


def masks(flow: Flow) -> dict[str, np.ndarray]:
    """What a clip's shard holds beside ``valid.npy``, where it is known: ``new`` and ``still``; see :class:`Flow`."""
    named = {"new": flow.new, "still": flow.still}
    return {name: mask for name, mask in named.items() if mask is not None}


def choose(model: str, config: PlanConfig) -> Model:
    """The model of that name, which takes its options and every request of ``config`` as far as is known beforehand.

    Raises:
        MesynthError: see :func:`generate`.
    """
    chosen = find_model(model)
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
    model: str = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    face: str = LARGEST,
    face_limits: FaceLimits | None = None,
    **pace: Unpack[Pace],
) -> Manifest:
    """Generate a corpus on ``faces`` into ``out``: manifest, shards, plan, faces, previews.

    ``face``, ``face_limits``: see :func:`mesynth.corpus.faces.choose_faces`; ``out/faces/skipped.csv`` lists what was
    left out. ``model``: see :func:`mesynth.generators.registry.find_model`. The same call resumes an interrupted
    one; the same seed gives the same bytes at any ``pace`` (:class:`mesynth.corpus.throughput.Pace`: workers, progress,
    report).

    Raises:
        NoFaceError, UnreadableImageError, DatasetLayoutError: no face can be used (all reasons are named).
        RunFolderError: ``out`` holds another run.
        PipelineError: ``model`` is no saved generator.
        MesynthError: a request or an option that the model is known to refuse.
    """
    run = face_run(
        config, faces, model=model, preview=preview, landmarker=landmarker, face=face, face_limits=face_limits,
        progress=pace.get("progress"),
    )  # fmt: skip
    return run_plan(run, out, **pace)


def generate_plan(
    plan: StoredPlan,
    out: Path,
    *,
    faces: Path | None = None,
    model: str = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    **pace: Unpack[Pace],
) -> Manifest:
    """Generate every row of a plan that ``mesynth plan`` wrote: exactly one clip a row. See :func:`generate`.

    ``faces``: where the planned faces are now, if not where the plan found them.

    Raises:
        ManifestError: a planned face is missing or another one now.
        MesynthError: what :func:`generate` refuses; a row that the model is known to refuse (it is named).
    """
    run = face_run(plan, faces, model=model, preview=preview, landmarker=landmarker, progress=pace.get("progress"))
    return run_plan(run, out, **pace)


def choose_for_rows(model: str, plan: StoredPlan) -> Model:
    """The model of that name, if no row of the plan is known to be refused by it.

    Raises:
        MesynthError: names the first row that is.
    """
    chosen = find_model(model)
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
    """A :class:`mesynth.corpus.throughput.CorpusRun` of clips on faces."""

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

    bars = ("faces", "clips")
    framing = OWN

    @property
    def config(self) -> dict[str, Any]:
        return {
            **self.model.identity,
            **self.planned,
            "faces": [s.identity for s in self.sources],
            "preview": dataclasses.asdict(self.preview),
            "landmarker": face_landmarker(self.sources, self.landmarker),
        }

    def prepare(self, out: Path, workers: int, progress: Progress | None) -> None:
        prepare_faces(
            self.sources, out / "faces", self.size, landmarker=self.landmarker, workers=workers, progress=progress,
            examination=self.examination,
        )  # fmt: skip
        write_plan(self.rows, out)

    def jobs(self, rows: Jobs) -> Jobs:
        return rows

    def worker(self, out: Path) -> GenerateWorker:
        return GenerateWorker(self.model, out / "faces", self.size, self.preview)


def face_run(
    rows: PlanConfig | StoredPlan,
    faces: Path | Sequence[FaceSource] | None,
    *,
    model: str,
    preview: Preview,
    landmarker: str,
    face: str = LARGEST,
    face_limits: FaceLimits | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> FaceRun:
    """See :func:`generate` and :func:`generate_plan`; raises as they do, and nothing is written."""
    if isinstance(rows, StoredPlan):
        assert faces is None or isinstance(faces, (str, Path)), "a stored plan knows its faces"
        chosen, sources = choose_for_rows(model, rows), rows.find(faces)
        bar = progress("look at faces") if progress else None
        planned_faces = examine_planned(sources, rows.faces_folder(faces), landmarker, bar)
        planned: dict[str, Any] = {"stored_plan": rows.hash}
        sources = sources if planned_faces is None else planned_faces.taken
        return FaceRun(rows, chosen, sources, rows.size, preview, landmarker, planned, planned_faces)
    if faces is None:
        raise ConfigError("give faces a picture, a folder of pictures or a manifest; or a stored plan")
    chosen = choose(model, rows)
    examination: Examination | None = None
    if isinstance(faces, (str, Path)):
        bar = progress("look at faces") if progress else None
        examination = choose_faces(Path(faces), face=face, limits=face_limits, landmarker=landmarker, progress=bar)
    sources = list(faces) if examination is None else examination.taken  # type: ignore[arg-type]
    planned = {"plan": dataclasses.asdict(rows)}
    return FaceRun(Plan(rows, len(sources)), chosen, sources, rows.size, preview, landmarker, planned, examination)
