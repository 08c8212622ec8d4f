"""A small prepared folder of random clips: enough of a manifest for packing and drawing, made in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core import seeds
from mesynth.core.facs import AU_CODES
from mesynth.core.types import AUVector
from mesynth.head.model import HeadModel
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.manifest import Manifest, Row
from mesynth.store.stage import Produced, run_stage
from tests.builders import provenance, row

SIZE, FRAMES, APEX = 32, 5, 2


@dataclass(frozen=True)
class Job:
    """One clip; ``changes`` are columns of its row, ``made`` changes of what is stored."""

    subject: str
    clip: int
    changes: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    seen: tuple[str, ...] = ()


@cache
def mean_landmarks() -> np.ndarray:
    """[68,2]: a mean face's in its crop."""
    points = 100 * HeadModel.load().uv[HeadModel.load().landmarks] + 200
    return SimilarityCrop.from_landmarks(points, SIZE).points(points)


def intensities(job: int) -> AUVector:
    """Exact in float32 and different for every clip; AU 4 is unknown on both sides."""
    rng = seeds.stream(1, "test-aus", job)
    known = np.ones((len(AU_CODES), 2), np.bool_)
    known[2] = False
    return AUVector(np.where(known, rng.random(known.shape), 0).astype(np.float32), known)


def produce(job: Job) -> Produced:
    """Frames are noise, flow is noise: a pair can be told from every other."""
    database, _, subject = job.subject.partition("/")
    rng = seeds.stream(2, f"test-clip-{job.subject}", job.clip)
    columns: dict[str, Any] = {
        "clip_id": f"{job.subject}/{job.clip}/0", "database": database, "subject": subject, "clip": str(job.clip),
        "height": SIZE, "width": SIZE, "n_frames": FRAMES, "apex_index": APEX, "label": "positive",
        "provenance": provenance(database=database, subject=subject, subjects_seen=(job.subject, *job.seen)),
        **Row.au_columns(intensities(job.clip)),
    }  # fmt: skip
    made = Produced(
        row(**(columns | job.changes)),
        frames=rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8),
        flow=rng.normal(size=(2, SIZE, SIZE)).astype(np.float32),
        valid=rng.random((SIZE, SIZE)) < 0.8,
        landmarks=mean_landmarks(),
    )
    return replace(made, **job.made)


def write(folder: Path, jobs: list[Job]) -> Manifest:
    """A manifest with shards in ``folder``."""
    return run_stage(folder, jobs, produce, config={"stage": "test", "jobs": repr(jobs)})


def jobs(*subjects: str, clips: int = 2) -> list[Job]:
    """``clips`` clips of each subject, numbered over all."""
    return [Job(subject, i * clips + c) for i, subject in enumerate(subjects) for c in range(clips)]
