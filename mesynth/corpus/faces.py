"""Faces to generate on: one picture, a folder of pictures, or the onsets of a prepared manifest.

Each face becomes a row of its own small manifest (crop and landmarks), so landmarks are found once per
face, in parallel, and a generator process reads only the faces it needs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesynth import __version__
from mesynth.core.errors import DatasetLayoutError, LeakError, MesynthError
from mesynth.datasets.registry import database_of
from mesynth.datasets.rendered import read_card
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.config import STORED
from mesynth.preprocess.landmarks import Landmarker, choose_landmarker, resolve_landmarker
from mesynth.store.manifest import FILE_NAME, Manifest, Provenance, Row
from mesynth.store.shards import read_frames, read_landmarks
from mesynth.store.stage import Produced, Progress, run_stage
from mesynth.store.videos import read_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class FaceSource:
    """Where one face comes from: a picture file, or a row of a prepared manifest."""

    database: str
    subject: str
    licence: str
    sha256: str
    path: Path
    row: int = -1
    seen: tuple[str, ...] = ()
    """subjects_seen of the clip the face was taken from."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What the result depends on, without the machine's paths."""
        return (self.database, self.subject, self.sha256, self.row)


def find_faces(source: Path) -> list[FaceSource]:
    """The faces in ``source``, sorted by name; in a manifest, each subject's first onset.

    Raises:
        DatasetLayoutError: nothing there, or a folder without pictures.
        LeakError: the pictures are frames of a database; as plain files their subjects would go unnamed.
    """
    if found := database_of(source) if source.exists() else None:
        name, root = found
        raise LeakError(
            f"{source} lies in the {name} database {root}, whose people are subjects; run `mesynth prepare {name}` on "
            "it and give that folder as --faces, so that every clip names whom it shows"
        )
    if source.is_dir() and (source / FILE_NAME).is_file():
        return _manifest_faces(Manifest.read(source))
    if source.is_file():
        return [_picture(source, source.stem, read_card(source.parent))]
    if not source.is_dir():
        raise DatasetLayoutError(f"{source} does not exist; --faces takes a picture, a folder, or a manifest folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise DatasetLayoutError(f"{source} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); give a folder that does")
    card = read_card(source)
    return [_picture(f, f.relative_to(source).with_suffix("").as_posix().replace("/", "-"), card) for f in files]


def _picture(path: Path, subject: str, card: dict[str, str]) -> FaceSource:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MesynthError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if card:  # a folder written by `mesynth render --layout faces`
        return FaceSource(card["kind"], subject, card["licence"], digest, path)
    return FaceSource("photo", subject, "as the photo", digest, path)


def _manifest_faces(manifest: Manifest) -> list[FaceSource]:
    keys = manifest.subject_keys()
    _, first = np.unique(keys.astype(str), return_index=True)
    faces = []
    for index in first:
        row = manifest.row(int(index))
        digest = row.flow.sha256 if row.flow else ""
        p = row.provenance
        faces.append(
            FaceSource(row.database, row.subject, p.licence, digest, manifest.root, int(index), p.subjects_seen)
        )
    return faces


def margin(size: int) -> int:
    """Pixels kept around a crop: a chin that drops or a head that turns must come from the picture, not from
    beyond its border."""
    return round(0.08 * size)


class FaceWorker:
    """Crops one face to ``size`` plus a :func:`margin` and finds its landmarks (a prepared onset brings its own)."""

    def __init__(self, size: int, landmarker: str) -> None:
        self.size, self.landmarker = size, landmarker
        self._detector: Landmarker | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"size": self.size, "landmarker": self.landmarker, "_detector": None}

    def __call__(self, source: FaceSource) -> Produced:
        image, landmarks = self._load(source)
        crop = SimilarityCrop.from_landmarks(landmarks, self.size).padded(margin(self.size))
        key = f"{source.database}/{source.subject}"
        row = Row(
            clip_id=f"{key}/face",
            database=source.database,
            subject=source.subject,
            clip="face",
            onset=0,
            apex=None,
            offset=0,
            fps=1.0,
            n_frames=1,
            apex_index=0,
            height=crop.size,
            width=crop.size,
            provenance=Provenance(
                kind="rendered" if source.database == "rendered" else "real",
                database=source.database,
                subject=source.subject,
                licence=source.licence,
                subjects_seen=tuple(sorted({key, *source.seen})),
                parents=(source.sha256,) if source.sha256 else (),
                code_version=__version__,
            ),
        )
        points = crop.points(landmarks)
        return Produced(row, frames=crop.frames(image[None]), landmarks=points)

    def close(self) -> None:
        """Let go of the detector."""
        if self._detector is not None:
            self._detector.close()
            self._detector = None

    def _load(self, source: FaceSource) -> tuple[np.ndarray, np.ndarray]:
        if source.row >= 0:
            manifest = Manifest.read(source.path)
            row = manifest.row(source.row)
            return read_frames(manifest.root, row)[0], read_landmarks(manifest.root, row)
        image = read_image(source.path)
        if self._detector is None:
            self._detector = choose_landmarker(self.landmarker)
        try:
            return image, self._detector.detect(image)
        except MesynthError as error:
            raise type(error)(f"{source.path}: {error}") from None


def face_landmarker(sources: list[FaceSource], landmarker: str) -> str:
    """The landmarker these faces need: "stored" if they all bring landmarks, else what ``landmarker`` stands for."""
    return STORED if all(s.row >= 0 for s in sources) else resolve_landmarker(landmarker)


def prepare_faces(
    sources: list[FaceSource],
    out: Path,
    size: int,
    *,
    landmarker: str = "auto",
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """One row per face in ``out``: the crop with its margin [1,S+2M,S+2M,3], and its landmarks."""
    chosen = face_landmarker(sources, landmarker)
    config = {"faces": [s.identity for s in sources], "size": size, "landmarker": chosen}
    # Loading a detector costs as much as some forty faces: few faces are quicker in this process.
    workers = 1 if len(sources) < 40 else workers
    return run_stage(out, sources, FaceWorker(size, chosen), config=config, workers=workers, progress=progress)
