"""The generation plan: one explicit row per clip, from which alone the clip is made.

A row names the face, the AUs, the temporal profile and the seed. Rows are drawn from independent
streams, so a plan of 1,000 clips begins with the plan of 100 made by the same command.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np

from mesynth import __version__
from mesynth.core import emotions, facs, seeds
from mesynth.core.emotions import AUSampling
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import MAX_DURATION_S, MIN_DURATION_S, Profile, draw_profile, frame_count, require_profile
from mesynth.core.types import AUVector
from mesynth.motion.nuisance import Nuisance
from mesynth.store.manifest import Row
from mesynth.store.run_folder import temporary_beside

FILE_NAME = "plan.jsonl"


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a plan is drawn from. Either ``au`` (requests, taken in turn) or ``emotions`` (likewise) is given."""

    au: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()
    count: int = 1
    profile: str = "casme2"
    fps: float = 200.0
    duration: tuple[float, float] = (0.32, 0.32)
    """Seconds; drawn uniformly when the two differ."""
    size: int = 128
    seed: int = 0
    sampling: AUSampling = AUSampling()
    nuisance: Nuisance = Nuisance()

    def __post_init__(self) -> None:
        if bool(self.au) == bool(self.emotions):
            raise MesynthError('give either --au (for example "12=B,L4=0.2") or --emotion, one of the two')
        for request in self.au:
            facs.reject_conflicts(facs.parse_request(request))
        for emotion in self.emotions:
            emotions.require_emotion(emotion, self.sampling.source)
        if not 1 <= self.count <= 10_000_000:
            raise MesynthError(f"count={self.count} must be at least 1")
        if not 32 <= self.size <= 1024:
            raise MesynthError(f"size={self.size} px is outside [32, 1024]")
        require_profile(self.profile)
        if self.duration[0] > self.duration[1]:
            raise MesynthError(f"duration {self.duration[0]:g}:{self.duration[1]:g} must be ascending")
        for seconds in self.duration:
            frame_count(seconds, self.fps)


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One clip to make. ``face`` counts the rows of the faces' manifest."""

    index: int
    face: int
    emotion: str
    intensity: tuple[tuple[float, float], ...]
    """[K][L, R], rows of facs.AU_CODES."""
    au_source: str
    profile: Profile
    n_frames: int
    fps: float
    nuisance: Nuisance
    seed: int
    au_seen: tuple[str, ...] = ()
    """``database/subject`` of everyone whose labels took part in drawing the AUs; nobody for tables and requests."""

    @property
    def aus(self) -> AUVector:
        """The target AUs."""
        return AUVector(np.array(self.intensity, np.float32))

    def columns(self, shown: AUVector, size: int, apex: int) -> dict[str, Any]:
        """Of the manifest's row: what the plan says of a clip of ``size`` pixels that shows these AUs."""
        active = [facs.AU_CODES[k] for k in np.flatnonzero(shown.intensity.max(1) > 0)]
        return {
            "onset": 0,
            "apex": apex,
            "offset": self.n_frames - 1,
            "fps": self.fps,
            "n_frames": self.n_frames,
            "apex_index": apex,
            "height": size,
            "width": size,
            "emotion": self.emotion,
            "label": emotions.label(self.emotion),
            "objective_class": facs.objective_class(active),
            "au_text": facs.format_vector(shown),
        } | Row.au_columns(shown)

    def origin(self) -> dict[str, Any]:
        """Of the row's provenance: what the plan says of any clip made from it."""
        return {
            "kind": "synthetic",
            "plan_row": self.index,
            "seed": self.seed,
            "aus_asked": facs.format_vector(self.aus),
            "aus_source": self.au_source,
            "profile": self.profile.text(),
            "code_version": __version__,
        }


class Plan(Sequence["PlanRow"]):
    """The rows of ``config`` over ``n_faces`` faces, each drawn when it is looked at: a plan of any length is small.

    Emotions are taken in turn, faces in random order per round, so that classes and faces stay balanced; AUs
    come from aggregate tables, never from a subject.
    """

    def __init__(self, config: PlanConfig, n_faces: int, part: range | None = None) -> None:
        """Raises MesynthError without faces."""
        if n_faces < 1:
            raise MesynthError("there is no face to generate on")
        self.config, self.n_faces = config, n_faces
        self._part = range(config.count) if part is None else part

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> Plan: ...
    def __getitem__(self, index: int | slice) -> PlanRow | Plan:
        if isinstance(index, slice):
            return Plan(self.config, self.n_faces, self._part[index])
        return _draw_row(self.config, self.n_faces, self._part[index])


def _draw_row(config: PlanConfig, n_faces: int, index: int) -> PlanRow:
    rng = seeds.stream(config.seed, "plan", index)
    if config.au:
        emotion, vector, source = "", facs.parse_request(config.au[index % len(config.au)]), "user"
    else:
        wanted = config.emotions[index % len(config.emotions)].strip().lower()
        emotion = emotions.draw_emotion(wanted, rng, config.sampling.source)
        vector, source = emotions.sample_aus(emotion, rng, config.sampling), config.sampling.source
    seconds = float(rng.uniform(*config.duration))
    return PlanRow(
        index=index,
        face=face_of(index, n_faces, len(config.emotions or config.au), config.seed),
        emotion=emotion,
        intensity=tuple((float(left), float(right)) for left, right in vector.intensity),
        au_source=source,
        profile=draw_profile(config.profile, rng),
        n_frames=frame_count(float(np.clip(seconds, MIN_DURATION_S, MAX_DURATION_S)), config.fps),
        fps=config.fps,
        nuisance=config.nuisance,
        seed=int(rng.integers(2**31)),
    )


def face_of(index: int, n_faces: int, n_kinds: int, seed: int) -> int:
    """Row ``index``'s face: none is taken again before all were; and in every ``n_faces * n_kinds`` rows each face
    meets each emotion (or request; the kind of a row is ``index % n_kinds``) exactly once.

    A round of all faces keeps the order of its block, moved on by one whenever the kinds would fall on the same faces
    again: with g the greatest common divisor of both numbers, that is every ``n_kinds / g`` rounds.
    """
    block, rest = divmod(index, n_faces * n_kinds)
    turn, place = divmod(rest, n_faces)
    moved = turn // (n_kinds // math.gcd(n_faces, n_kinds))
    order = seeds.stream(seed, "faces", block).permutation(n_faces)
    return int(order[(place + moved) % n_faces])


def write_plan(rows: Iterable[PlanRow], folder: Path) -> Path:
    """``plan.jsonl``, one row a line, AUs in request form beside their exact values."""
    path = folder / FILE_NAME
    temporary = temporary_beside(path)
    with open(temporary, "w") as file:
        for row in rows:
            # Field by field: asdict() copies every intensity, which took longer than drawing a flow image.
            line = {f.name: getattr(row, f.name) for f in fields(row)}
            line |= {"profile": asdict(row.profile), "nuisance": asdict(row.nuisance)}
            line["au"] = facs.format_vector(row.aus)
            if not row.au_seen:
                del line["au_seen"]
            file.write(json.dumps(line) + "\n")
    os.replace(temporary, path)
    return path
