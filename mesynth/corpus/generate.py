"""Make the clips of a plan: frames, exact flow, provenance, and a few of them loose to look at."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import __version__
from mesynth.core import emotions, facs
from mesynth.core.errors import MesynthError
from mesynth.core.process import part
from mesynth.core.types import Flow, Sample
from mesynth.corpus.faces import FaceSource, face_landmarker, find_faces, margin, prepare_faces
from mesynth.corpus.plan import Plan, PlanConfig, PlanRow, write_plan
from mesynth.corpus.plan_file import StoredPlan
from mesynth.corpus.previews import loose_files
from mesynth.corpus.throughput import Report, prove_complete, timed, writable
from mesynth.generators.base import Generator
from mesynth.generators.registry import Model, find_model
from mesynth.motion.prior import NAME, Face
from mesynth.motion.warp import stays_inside
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.run_folder import claim_folder
from mesynth.store.shards import read_frames, read_landmarks
from mesynth.store.stage import Produced, Progress, run_stage

_CACHED_FACES = 8


@dataclass(frozen=True, kw_only=True)
class Preview:
    """How many clips also lie loose under ``clips/``, and as what: "gif" or "mp4"."""

    count: int = 8
    video: str = "gif"

    def __post_init__(self) -> None:
        if self.video not in {"gif", "mp4"}:
            raise MesynthError(f"video '{self.video}' is unknown; choose gif or mp4")
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
            onset=0,
            apex=sample.clip.apex,
            offset=plan.n_frames - 1,
            fps=plan.fps,
            n_frames=plan.n_frames,
            apex_index=sample.clip.apex,
            height=self.size,
            width=self.size,
            emotion=plan.emotion,
            label=emotions.label(plan.emotion),
            objective_class=facs.objective_class(_active_codes(plan)),
            au_text=facs.format_vector(plan.aus),
            **Row.au_columns(plan.aus),
            warnings=warnings,
            provenance=Provenance(
                kind="synthetic",
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
                plan_row=plan.index,
                seed=plan.seed,
                aus_asked=facs.format_vector(plan.aus),
                aus_source=plan.au_source,
                profile=plan.profile.text(),
                code_version=__version__,
            ),
        )


def inner(sample: Sample, inset: int) -> Sample:
    """The sample without its outer ``inset`` pixels."""
    middle = slice(inset, -inset)
    clip = replace(sample.clip, frames=np.ascontiguousarray(sample.clip.frames[:, middle, middle]))
    uv = np.ascontiguousarray(sample.flow.uv[:, middle, middle])
    return Sample(clip, Flow(uv, stays_inside(uv)), sample.aus)


def _active_codes(plan: PlanRow) -> list[int]:
    return [facs.AU_CODES[k] for k in np.flatnonzero(plan.aus.intensity.max(1) > 0)]


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
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> Manifest:
    """Generate a corpus on ``faces`` into ``out``: manifest, shards, plan, faces, previews.

    ``model``: see :func:`mesynth.generators.registry.find_model`. The same call resumes an interrupted one; the same
    seed gives the same bytes for any ``workers`` (0: one process per core; a script that asks for several keeps
    its calls under ``if __name__ == "__main__":``). ``report`` is told how fast each process was.

    Raises:
        NoFaceError, UnreadableImageError, DatasetLayoutError: a face cannot be used (it is named).
        RunFolderError: ``out`` holds another run.
        PipelineError: ``model`` is no saved generator.
        MesynthError: a request or an option that the model is known to refuse.
    """
    chosen = choose(model, config)
    sources = find_faces(Path(faces)) if isinstance(faces, (str, Path)) else faces
    planned = {"plan": dataclasses.asdict(config)}
    rows = Plan(config, len(sources))
    return _run(chosen, rows, sources, config.size, planned, out, preview, landmarker, workers, progress, report)


def generate_plan(
    plan: StoredPlan,
    out: Path,
    *,
    faces: Path | None = None,
    model: str = NAME,
    preview: Preview = Preview(),
    landmarker: str = "auto",
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
    report: Report | None = None,
) -> Manifest:
    """Generate every row of a plan that ``mesynth plan`` wrote: exactly one clip a row. See :func:`generate`.

    ``faces``: where the planned faces are now, if not where the plan found them.

    Raises:
        ManifestError: a planned face is missing or another one now.
        MesynthError: what :func:`generate` refuses; a row that the model is known to refuse (it is named).
    """
    chosen = choose_for_rows(model, plan)
    sources = plan.find(faces)
    planned = {"stored_plan": plan.hash}
    return _run(chosen, plan, sources, plan.size, planned, out, preview, landmarker, workers, progress, report)


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


def _run(
    chosen: Model,
    rows: Plan | StoredPlan,
    sources: list[FaceSource],
    size: int,
    planned: dict[str, Any],
    out: Path,
    preview: Preview,
    landmarker: str,
    workers: int,
    progress: Callable[[str], Progress] | None,
    report: Report | None,
) -> Manifest:
    run = run_config(chosen, planned, sources, preview, landmarker)
    claim_folder(out, run)
    bars = [progress(name) if progress else None for name in ("faces", "clips")]
    with writable(out):
        prepare_faces(sources, out / "faces", size, landmarker=landmarker, workers=workers, progress=bars[0])
        write_plan(rows, out)
        worker = GenerateWorker(chosen, out / "faces", size, preview)
        with timed(worker, report) as work:
            made = run_stage(out, rows, work, config=run, workers=workers, progress=bars[1])
    prove_complete(made, len(rows))
    return made


def run_config(
    chosen: Model, planned: dict[str, Any], sources: list[FaceSource], preview: Preview, landmarker: str
) -> dict[str, Any]:
    """What the bytes of a corpus on faces depend on; ``planned`` tells the plan."""
    return {
        **chosen.identity,
        **planned,
        "faces": [s.identity for s in sources],
        "preview": dataclasses.asdict(preview),
        "landmarker": face_landmarker(sources, landmarker),
    }
