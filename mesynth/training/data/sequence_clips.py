"""Clips with the motion from the onset to every key time: rendered with exact flow, or recorded with estimated flow.

A stage writes them as rows of an ordinary manifest (onset and apex frame, flow between them) with three arrays beside
the flow: ``keys`` [T,2,S,S] float16 pixels, ``seen`` [T,ceil(S*S/8)] uint8 (bits of [S,S]) and ``clock`` [4] (apex as a
share of the clip, hold, 1 for an exponential decay, seconds).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mesynth
from mesynth.core import facs
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.profiles import Profile, draw_profile
from mesynth.core.seeds import stream
from mesynth.core.types import AUVector
from mesynth.motion.key_times import RISING, key_times, level
from mesynth.preprocess.align import SimilarityCrop, eye_centres
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import read_frames
from mesynth.store.stage import Produced, Progress, Skipped, run_stage
from mesynth.training.data.packed_clip import reduced
from mesynth.training.data.rendered import RENDER_SCALE, RenderConfig, cropped_flow, draw_aus, person_key

if TYPE_CHECKING:
    from mesynth.head import Subject


MOST_LAG = 0.3
_FPS = 200.0
_SUPERSAMPLE = 2
_LEAST_FRAMES = 5
_FLOW = "dis"


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """Rendered clips whose head rests; the bytes depend on this alone."""

    people: RenderConfig
    """Who is rendered, and what they show at their peaks; head movement and blinks are left out."""
    lag: float = 0.15
    """How far at most an AU starts, peaks and ends before or after the clip's profile, a share of the clip."""
    ordered: float = 0.5
    """Share of the lag that is an AU's own in every clip of every person (the order :func:`habits` gives); the rest is
    drawn for every clip."""

    def __post_init__(self) -> None:
        if not 0 <= self.lag <= MOST_LAG:
            raise ConfigError(f"lag={self.lag:g} is outside 0..{MOST_LAG:g}, shares of the clip")
        if not 0 <= self.ordered <= 1:
            raise ConfigError(f"ordered={self.ordered:g} is no share; choose a number in [0, 1]")


def habits() -> np.ndarray:
    """[K] in [-1,1]: how late each AU is by habit, over the largest lag. A rule of this corpus, not of anatomy."""
    return stream(0, "au-habits").uniform(-1, 1, len(facs.AU_CODES))


def render_clips(out: Path, config: ClipsConfig, *, workers: int = 1, progress: Progress | None = None) -> Manifest:
    """Render the clips of ``config`` into ``out``; the same call resumes, any ``workers`` gives the same bytes.

    Raises:
        RunFolderError: ``out`` holds something else.
    """
    people = config.people
    jobs = [(person, i) for person in people.people for i in range(people.per_identity)]
    record = {"stage": "training-sequences", **asdict(config), "version": mesynth.__version__}
    shard_clips = people.per_identity * max(1, people.identities // 32)
    return run_stage(
        out, jobs, _Renderer(config), config=record, workers=workers, shard_clips=shard_clips, progress=progress
    )


def record_clips(out: Path, folder: Path, size: int, *, progress: Progress | None = None) -> Manifest:
    """The same of the clips in ``folder``'s manifest, with flow estimated (DIS) from the onset to each key frame.

    Raises:
        ManifestError: no manifest, or frames that are not square or smaller than ``size``.
    """
    manifest = Manifest.read(folder)
    record = {"stage": "recorded-sequences", "manifest": manifest.hash(), "size": size, "version": mesynth.__version__}
    jobs = list(range(len(manifest)))
    return run_stage(out, jobs, _Recorded(Path(folder), size), config=record, progress=progress)


# ---------------------------------------------------------------- rendered


@dataclass(frozen=True, eq=False)
class Moves:
    """What a rendered clip's face does."""

    aus: np.ndarray
    """[K,2] float32, each at its own peak"""
    profile: Profile
    seconds: float
    shift: np.ndarray
    """[K]: how much later than the profile each AU is"""

    def shown(self, at: np.ndarray) -> np.ndarray:
        """AUs [T,K,2] float32 at times ``at`` [T]."""
        levels = level(np.asarray(at)[:, None], self.profile, self.shift)
        return np.asarray(levels[:, :, None] * self.aus, np.float32)


def draw_moves(config: ClipsConfig, person: int, index: int, rng: np.random.Generator) -> Moves:
    """The AUs of a training pair, with a profile as in CASME II and a lag for every AU."""
    aus, _ = draw_aus(config.people, person, index, rng)
    profile = replace(draw_profile("casme2", rng), lag=0.0)
    own = rng.uniform(-1, 1, len(facs.AU_CODES))
    shift = config.lag * (config.ordered * habits() + (1 - config.ordered) * own)
    return Moves(aus, profile, float(rng.uniform(0.1, 0.5)), shift)


@lru_cache(maxsize=1)
def _subject(person: int, size: int) -> Subject:
    from mesynth.head import Subject

    return Subject(person, size=size, supersample=_SUPERSAMPLE)


@dataclass(frozen=True, eq=False)
class Stand:
    """A person as a clip's camera sees them: the head rests, and every flow lies on the crop's grid."""

    subject: Subject
    pose: np.ndarray
    crop: SimilarityCrop

    @staticmethod
    def drawn(config: RenderConfig, person: int, rng: np.random.Generator) -> Stand:
        """A resting pose, and a crop that misses the face by as much as a detector does."""
        pose = np.zeros(6)
        pose[:3] = np.clip(rng.normal(0, np.radians(config.turn), 3), -0.3, 0.3)
        subject = _subject(person, round(config.size * RENDER_SCALE))
        landmarks = _missed(subject.landmarks(pose=pose), config.jitter, rng)
        return Stand(subject, pose, SimilarityCrop.from_landmarks(landmarks, config.size))

    def frames(self, aus: np.ndarray) -> np.ndarray:
        """AUs [T,K,2] -> [T,S,S,3] uint8."""
        return self.crop.frames(self.subject.render(aus, np.repeat(self.pose[None], len(aus), 0)))

    def flows(self, aus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact flow from the face at rest to AUs [T,K,2]: [T,2,S,S] float32 pixels, and where it is known."""
        rest = np.zeros(aus.shape[1:], np.float32)
        each = [cropped_flow(self.crop, self.subject.flow(rest, a, self.pose, self.pose)) for a in aus]
        return np.stack([uv for uv, _ in each]), np.stack([seen for _, seen in each])


def _missed(landmarks: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Landmarks [68,2] with one error of place and scale, in inter-ocular distances, as a detector's are."""
    error = rng.normal(0, 1, 3) * sd
    right, left = eye_centres(landmarks)
    centre = landmarks.mean(0)
    return np.asarray((landmarks - centre) * np.exp(error[0]) + centre + error[1:] * np.hypot(*(left - right)), "f4")


@dataclass(frozen=True)
class _Renderer:
    config: ClipsConfig

    def __call__(self, job: tuple[int, int]) -> Produced:
        from mesynth.datasets.rendered import LICENCE  # here, because it brings the readers of workbooks

        person, index = job
        people = self.config.people
        rng = stream(people.seed, f"training-sequence-{person}", index)
        moves = draw_moves(self.config, person, index, rng)
        stand = Stand.drawn(people, person, rng)
        shown = moves.shown(key_times(moves.profile.apex))
        flows, seen = stand.flows(shown)
        frames = stand.frames(np.stack([np.zeros_like(moves.aus), shown[RISING - 1]]))
        key, clip = person_key(person), f"sequence{index:05d}"
        database, _, subject = key.partition("/")
        row = Row(
            clip_id=f"{key}/{clip}/0", database=database, subject=subject, clip=clip, onset=0, apex=1, offset=1,
            fps=_FPS, n_frames=2, apex_index=1, height=people.size, width=people.size,
            **Row.au_columns(AUVector(moves.aus)),
            provenance=Provenance(
                kind="rendered", database=database, subject=subject, licence=LICENCE, subjects_seen=(key,),
                generator="mesynth.head", seed=person, aus_asked=facs.format_vector(AUVector(moves.aus)),
                aus_source="training sequences", profile=moves.profile.text(), code_version=mesynth.__version__,
            ),
        )  # fmt: skip
        return _produced(row, frames, flows, seen, moves.profile, moves.seconds)


def _produced(
    row: Row, frames: np.ndarray, flows: np.ndarray, seen: np.ndarray, profile: Profile, seconds: float
) -> Produced:
    clock = np.array([profile.apex, profile.hold, profile.decay == "exponential", seconds])
    bits = np.asarray(np.packbits(seen.reshape(len(seen), -1), axis=1))
    extra: dict[str, np.ndarray] = {"keys": flows.astype(np.float16), "seen": bits, "clock": clock}
    return Produced(row, frames=frames, flow=flows[RISING - 1], valid=seen[RISING - 1], extra=extra)


# ---------------------------------------------------------------- recorded


@dataclass(frozen=True)
class _Recorded:
    folder: Path
    size: int

    def __call__(self, job: int) -> Produced | Skipped:
        from mesynth.preprocess.flow import sequence_flows

        row = Manifest.read(self.folder).row(job)
        if row.n_frames < _LEAST_FRAMES or not 0 < row.apex_index < row.n_frames - 1:
            return Skipped(row.clip_id, f"no onset, apex and offset among {row.n_frames} frames")
        if row.height != row.width or row.height < self.size:
            raise ManifestError(
                f"clip {row.clip_id} is {row.width} x {row.height} pixels; training needs square crops of at least "
                f"{self.size}: prepare them again with --size {self.size} or train at a smaller size"
            )
        frames = reduced(read_frames(self.folder, row), self.size)
        last = row.n_frames - 1
        profile = Profile(apex=float(np.clip(row.apex_index / last, 0.1, 0.9)))
        places = np.clip(np.round(key_times(profile.apex) * last).astype(int), 1, last)
        places[RISING - 1] = row.apex_index
        flows = sequence_flows(frames[np.concatenate([[0], places])], _FLOW)
        pair = frames[[0, row.apex_index]]
        made = replace(row, n_frames=2, apex_index=1, height=self.size, width=self.size, frames=None, flow=None)
        everywhere = np.ones((len(flows), self.size, self.size), np.bool_)
        return _produced(made, pair, flows, everywhere, profile, last / row.fps)
