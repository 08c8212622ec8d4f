"""Make the clips of a plan: frames, exact flow, provenance, and a few of them loose to look at."""

from __future__ import annotations

import dataclasses
import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mesynth import __version__, classes, facs
from mesynth.corpus.faces import FaceSource, face_landmarker, find_faces, margin, prepare_faces
from mesynth.corpus.models import Model, find_model
from mesynth.corpus.plan import Plan, PlanConfig, PlanRow, write_plan
from mesynth.errors import MesynthError
from mesynth.generators.pipeline import Generator
from mesynth.manifest import Manifest, Provenance, Row
from mesynth.motion.prior import NAME, Face
from mesynth.motion.warp import stays_inside
from mesynth.preprocess.flow import flow_picture
from mesynth.shards import npy_bytes, png_bytes, read_frames, read_landmarks
from mesynth.stage import Produced, Progress, claim_folder, run_stage
from mesynth.types import Flow, Sample

PREVIEW_FPS = 25.0
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
            self._generator = self.model.load()
        face, source = self._face(plan.face)
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
            label=classes.label(plan.emotion),
            objective_class=facs.objective_class(_active_codes(plan)),
            au_text=facs.format_vector(plan.aus),
            **Row.au_columns(plan.aus),
            warnings=warnings,
            provenance=Provenance(
                kind="synthetic",
                database=face.database,
                subject=face.subject,
                licence="; ".join(dict.fromkeys((face.provenance.licence, *learned.licences))),
                # AU tables are aggregates: what this clip has seen is whose face it shows, and everyone its
                # generator learned from (nobody, for the motion prior).
                subjects_seen=tuple(dict.fromkeys((*face.provenance.subjects_seen, *learned.subjects_seen))),
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


def loose_files(name: str, sample: Sample, video: str) -> dict[str, bytes]:
    """The clip as files for people: frames, moving picture (slowed to 25 fps), flow as array and picture."""
    files = {f"clips/{name}/frames/{i:03d}.png": png_bytes(f) for i, f in enumerate(sample.clip.frames)}
    files[f"clips/{name}/clip.{video}"] = video_bytes(sample.clip.frames, video)
    files[f"clips/{name}/flow.npy"] = npy_bytes(sample.flow.uv)
    files[f"clips/{name}/flow.png"] = png_bytes(flow_picture(sample.flow.uv))
    return files


def video_bytes(frames: np.ndarray, video: str = "gif", fps: float = PREVIEW_FPS) -> bytes:
    """[T,H,W,3] uint8 as a looping GIF or an MP4."""
    if video == "gif":
        from PIL import Image

        # One palette for all frames: a palette per frame flickers more than the expression moves.
        first = Image.fromarray(np.concatenate([frames[0], frames[len(frames) // 2]], 1)).quantize(256)
        images = [Image.fromarray(f).quantize(palette=first, dither=Image.Dither.NONE) for f in frames]
        buffer = io.BytesIO()
        images[0].save(
            buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, optimize=False
        )
        return buffer.getvalue()
    return _mp4_bytes(frames, fps)


def _mp4_bytes(frames: np.ndarray, fps: float) -> bytes:
    import tempfile

    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        size = (frames.shape[2], frames.shape[1])
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise MesynthError("this OpenCV build cannot write MP4; use --video gif")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        return path.read_bytes()


def choose(model: str, config: PlanConfig) -> Model:
    """The model of that name, which takes its options and every request of ``config`` as far as is known beforehand.

    Raises:
        MesynthError: see :func:`generate`.
    """
    chosen = find_model(model)
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
) -> Manifest:
    """Generate a corpus on ``faces`` into ``out``: manifest, shards, plan, faces, previews.

    ``model``: see :func:`mesynth.corpus.models.find_model`. The same call resumes an interrupted one; the same
    seed gives the same bytes for any ``workers`` (0: one process per core; a script that asks for several keeps
    its calls under ``if __name__ == "__main__":``).

    Raises:
        NoFaceError, UnreadableImageError, DatasetLayoutError: a face cannot be used (it is named).
        RunFolderError: ``out`` holds another run.
        PipelineError: ``model`` is no saved generator.
        MesynthError: a request or an option that the model is known to refuse.
    """
    chosen = choose(model, config)
    sources = find_faces(Path(faces)) if isinstance(faces, (str, Path)) else faces
    rows = Plan(config, len(sources))
    run = {
        **chosen.identity,
        "plan": dataclasses.asdict(config),
        "faces": [s.identity for s in sources],
        "preview": dataclasses.asdict(preview),
        "landmarker": face_landmarker(sources, landmarker),
    }
    claim_folder(out, run)
    bars = [progress(name) if progress else None for name in ("faces", "clips")]
    prepare_faces(sources, out / "faces", config.size, landmarker=landmarker, workers=workers, progress=bars[0])
    write_plan(rows, out)
    worker = GenerateWorker(chosen, out / "faces", config.size, preview)
    return run_stage(out, rows, worker, config=run, workers=workers, progress=bars[1])
