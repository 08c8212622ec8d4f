"""The stage between a database on disk and everything that learns: aligned crops, onset -> apex flow, landmarks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

import mesynth
from mesynth.errors import MesynthError, NoFaceError
from mesynth.manifest import FILE_NAME, Manifest, Row
from mesynth.preprocess.align import CROP_SIZE, SimilarityCrop
from mesynth.preprocess.flow import METHODS, estimate_flow
from mesynth.preprocess.landmarks import Landmarker, choose_landmarker, resolve_landmarker
from mesynth.shards import image_array, read_frames, read_landmarks
from mesynth.stage import Produced, Progress, claim_folder, run_stage, write_text

SKIPPED_FILE = "skipped.csv"
_SKIPPED_PARTS = "skipped"
MIN_SIZE = 32
STORED = "stored"
"""Landmarker name: use the landmarks that the input manifest already holds (generated and prepared corpora)."""


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out, and why."""

    clip_id: str
    reason: str


def prepare(
    manifest: Manifest,
    out: Path | str,
    *,
    size: int = CROP_SIZE,
    method: str = "tvl1",
    landmarker: str = "auto",
    workers: int = 1,
    keep_frames: bool = True,
    max_frames: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Align, crop and measure every clip of ``manifest``; write the result into ``out``.

    Landmarks are found once per clip, on its onset; one similarity transform serves all of its frames; flow goes
    from the onset to the apex (to the middle frame where no apex is annotated, as for SMIC).

    ``size``: side of the crops, pixels. ``landmarker``: see :func:`resolve_landmarker`, or "stored".
    ``workers``: processes, 0 for one per core. ``keep_frames=False`` stores flow and landmarks alone.
    ``max_frames``: longer clips are thinned evenly, keeping onset, apex and offset; their fps falls accordingly.

    A clip whose onset shows no face is left out and listed by :func:`read_skipped`; the same command resumes.

    Raises:
        MesynthError: an option out of range, unreadable frames.
        NoFaceError: not one clip shows a face.
        WeightsUnavailable, RunFolderError: see :func:`resolve_landmarker`, :func:`claim_folder`.
    """
    out = Path(out)
    if size < MIN_SIZE:
        raise MesynthError(f"size={size} is too small for a face crop; choose at least {MIN_SIZE}")
    if method not in METHODS:
        raise MesynthError(f"flow method '{method}' is unknown; choose from {', '.join(METHODS)}")
    if max_frames is not None and max_frames < 3:
        raise MesynthError(f"max_frames={max_frames} has no room for onset, apex and offset; choose at least 3")
    if len(manifest) == 0:
        raise MesynthError(f"the manifest of {manifest.root} holds no clips; nothing to prepare")
    name = landmarker if landmarker == STORED else resolve_landmarker(landmarker)
    config = {
        "stage": "prepare", "input": manifest.hash(), "size": size, "method": method, "landmarker": _identity(name),
        "keep_frames": keep_frames, "max_frames": max_frames, "version": mesynth.__version__,
    }  # fmt: skip
    if name != STORED and not (out / FILE_NAME).is_file():
        _landmarker(name, _identity(name))  # missing weights are found out before the folder is claimed
    claim_folder(out, config)
    if not (out / _SKIPPED_PARTS).exists() and not (out / SKIPPED_FILE).exists():
        (out / _SKIPPED_PARTS).mkdir()
    worker = _Worker(manifest.root, out, size, method, name, _identity(name), keep_frames, max_frames)
    result = run_stage(out, manifest, worker, config=config, workers=workers, progress=progress)
    _collect_skipped(out, manifest)
    if len(result) == 0:
        first = read_skipped(out)[0]
        raise NoFaceError(f"none of {len(manifest)} clips could be prepared; {first.clip_id}: {first.reason}")
    return result


def read_skipped(out: Path | str) -> list[Skipped]:
    """The clips a finished :func:`prepare` left out, in the order of its input."""
    file = Path(out) / SKIPPED_FILE
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as handle:
        return [Skipped(**row) for row in csv.DictReader(handle)]


def _identity(name: str) -> str:
    """What the result depends on: a network's name, or the content of a landmark table, not where it lies."""
    path = Path(name)
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else name


def _collect_skipped(out: Path, manifest: Manifest) -> None:
    parts = out / _SKIPPED_PARTS
    if not parts.is_dir():
        return
    found = [json.loads(p.read_text()) for p in parts.glob("*.json")]
    order = {clip_id: i for i, clip_id in enumerate(manifest.column("clip_id"))}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["clip_id", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(found, key=lambda entry: order[entry["clip_id"]]))
    write_text(out / SKIPPED_FILE, buffer.getvalue())
    shutil.rmtree(parts)


# ---------------------------------------------------------------- one clip


@lru_cache(maxsize=1)
def _landmarker(name: str, identity: str) -> Landmarker:
    """One per process: building one takes longer than a clip. ``identity`` tells edited tables apart."""
    return choose_landmarker(name)


@dataclass(frozen=True)
class _Worker:
    """Picklable; the landmarker is built in the process that needs it."""

    root: Path
    out: Path
    size: int
    method: str
    landmarker: str
    identity: str
    keep_frames: bool
    max_frames: int | None

    def __call__(self, row: Row) -> Produced | None:
        source = _Source.of(self.root, row)
        keep = thin(len(source.names), source.apex, self.max_frames)
        digest = hashlib.sha256()
        frames = source.frames(keep, digest)
        onset = next(frames)
        try:
            landmarks = self._landmarks(row, onset, source.names[0])
        except NoFaceError as error:
            entry = json.dumps({"clip_id": row.clip_id, "reason": str(error)})
            name = hashlib.sha256(row.clip_id.encode()).hexdigest()[:16]
            write_text(self.out / _SKIPPED_PARTS / f"{name}.json", entry)
            return None
        crop = SimilarityCrop.from_landmarks(landmarks, self.size)
        crops = np.concatenate([crop.frames(frame[None]) for frame in (onset, *frames)])
        apex = keep.index(source.apex)
        parent = row.frames.sha256 if row.frames else digest.hexdigest()
        thinned = [f"thinned from {len(source.names)} to {len(keep)} frames"] if len(keep) < len(source.names) else []
        made = replace(
            row,
            fps=row.fps * (len(keep) - 1) / (len(source.names) - 1),  # the clip still lasts as long
            n_frames=len(crops),
            apex_index=apex,
            height=self.size,
            width=self.size,
            frame_files=(),
            frames=None,
            flow=None,
            warnings=(*source.warnings, *thinned),
            provenance=replace(
                row.provenance,
                parents=(*row.provenance.parents, parent),
                code_version=mesynth.__version__,
            ),
        )
        return Produced(
            made,
            frames=crops if self.keep_frames else None,
            flow=estimate_flow(crops[0], crops[apex], self.method).uv,
            landmarks=crop.points(landmarks),
        )

    def _landmarks(self, row: Row, onset: np.ndarray, file: str) -> np.ndarray:
        if self.landmarker == STORED:
            return read_landmarks(self.root, row)
        return _landmarker(self.landmarker, self.identity).detect(onset, (row.clip_id, file, Path(file).name))


@dataclass(frozen=True)
class _Source:
    """A clip's frames wherever they lie, read one at a time: a raw clip at full resolution may be a gigabyte."""

    root: Path
    row: Row
    names: tuple[str, ...]
    apex: int
    warnings: tuple[str, ...]

    @staticmethod
    def of(root: Path, row: Row) -> _Source:
        """Missing files are left out; where one was annotated, the nearest frame takes its place with a warning."""
        warnings = list(row.warnings)
        # Without an annotated apex a loader points at the middle frame, or at nothing (0).
        apex = row.apex_index if row.apex is not None or row.apex_index else (row.n_frames - 1) // 2
        if row.frames is not None:
            return _Source(root, row, tuple(map(str, range(row.n_frames))), apex, tuple(warnings))
        if not row.frame_files:
            read_frames(root, row)  # raises the error that names the way out
        present = [i for i, file in enumerate(row.frame_files) if (root / file).is_file()]
        if len(present) < 2:
            raise MesynthError(
                f"clip {row.clip_id} has {len(present)} of its {len(row.frame_files)} frame files below {root}; "
                "load the database again from the folder where it lies now"
            )
        for what, index in (("onset", 0), ("apex", apex), ("offset", len(row.frame_files) - 1)):
            if index not in present:
                taken = min(present, key=lambda i: (abs(i - index), i))
                warnings.append(f"{what} file {row.frame_files[index]} is gone; {row.frame_files[taken]} taken")
        if missing := len(row.frame_files) - len(present):
            warnings.append(f"{missing} of {len(row.frame_files)} frame files are gone")
        apex = min(range(len(present)), key=lambda k: (abs(present[k] - apex), k))
        return _Source(root, row, tuple(row.frame_files[i] for i in present), apex, tuple(warnings))

    def frames(self, keep: list[int], digest: hashlib._Hash) -> Iterator[np.ndarray]:
        """The kept frames [H,W,3] in order; feeds the bytes of frame files to ``digest``."""
        if self.row.frames is not None:
            yield from read_frames(self.root, self.row)[keep]
            return
        for index in keep:
            data = (self.root / self.names[index]).read_bytes()
            digest.update(data)
            yield image_array(data, str(self.root / self.names[index]))


def thin(n: int, apex: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``n`` frames, evenly spread on both sides of the apex.

    >>> thin(11, 4, 5)
    [0, 2, 4, 7, 10]
    >>> thin(4, 1, None)
    [0, 1, 2, 3]
    """
    if limit is None or n <= limit:
        return list(range(n))
    before = round((limit - 1) * apex / (n - 1))  # intervals before the apex
    if apex > 0:
        before = max(before, 1)
    if apex < n - 1:
        before = min(before, limit - 2)
    rise = np.linspace(0, apex, before + 1)
    fall = np.linspace(apex, n - 1, limit - before)
    return sorted({round(float(t)) for t in (*rise, *fall)})
