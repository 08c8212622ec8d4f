"""Clips with flow at every key time to learn from, drawn by number: the data of ``flow_volume``.

Clips are rendered with exact flow, or recorded with estimated flow. A stage writes them as rows of an ordinary manifest
(onset and apex frame, flow between them) with three arrays beside the flow: ``keys`` [T,2,S,S] float16 pixels, ``seen``
[T,ceil(S*S/8)] uint8 (bits of [S,S]) and ``clock`` [4] (apex as a share of the clip, hold, 1 for an exponential decay,
seconds).

As :mod:`mesynth.training.data.pairs`: a draw number alone decides clip, mirroring, camera and the clip's seed.
Nothing is kept in memory; a draw reads its clip from the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import mesynth
from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.profiles import Profile, draw_profile
from mesynth.core.seeds import stream
from mesynth.core.types import AUVector
from mesynth.motion.key_times import KEYS, RISING, key_times, level
from mesynth.preprocess.align import SimilarityCrop, eye_centres
from mesynth.store.generator_folder import Source
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.run_folder import config_hash
from mesynth.store.shards import member_frames, npy_array, read_frames, read_span
from mesynth.store.stage import Produced, Progress, Skipped, run_stage
from mesynth.training.data.batches import Batch
from mesynth.training.data.camera import degrade, draw_seeds, uniforms
from mesynth.training.data.pack import locked, reduced, validation_subjects
from mesynth.training.data.rendered import (
    EMPTY,
    RENDER_SCALE,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    RenderConfig,
    SourceConfig,
    cropped_flow,
    draw_aus,
    person_key,
)

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


# ---------------------------------------------------------------- drawn by number


_RENDERED_ONLY = ("identities", "per_identity", "validation_identities", "lag", "ordered")


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(SourceConfig):
    """Source, size and augmentation of training clips. Flow of clips of prepared folders is estimated."""

    per_identity: int = 10
    """Clips of each person."""
    validation_identities: int = 12
    """Rendered people who validate."""
    lag: float = ClipsConfig.lag
    """How far at most an AU keeps from the clip's profile, a share of the clip; 0: all follow it."""
    ordered: float = ClipsConfig.ordered
    """Share of the lag that is the AU's habit; the rest is drawn for every clip."""

    def __post_init__(self) -> None:
        self.check_source("manifests")
        if not 0 <= self.validation_share <= 1:
            raise ConfigError(f"data.validation_share={self.validation_share:g} is no share; choose one in [0, 1]")
        if self.source == "manifest" and not self.manifests:
            raise ConfigError(EMPTY)
        self.check_idle()
        for validation in (False, True):
            self.clips(validation=validation)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        names = ("manifests", "validation_share") if self.source == "rendered" else _RENDERED_ONLY
        return dict.fromkeys(names, f"data.source={self.source} does not use it")

    def clips(self, *, validation: bool = False) -> ClipsConfig:
        """What is rendered for training, or for validation."""
        people = RenderConfig(
            first=(VALIDATION_SEEDS if validation else TRAIN_SEEDS).start,
            identities=self.validation_identities if validation else self.identities,
            per_identity=self.per_identity, size=self.size, neutral=0.0, single=0.2, emotional=0.3, still=1.0,
            blink=0.0,
        )  # fmt: skip
        return ClipsConfig(people=people, lag=self.lag, ordered=self.ordered)


@dataclass(frozen=True, eq=False)
class SequenceBatch(Batch):
    """B clips. ``frame``, ``flow`` and ``valid`` are those of the apex' time; ``aus`` are each AU's at its own peak."""

    flows: torch.Tensor
    """[B,T,2,S,S] float32 pixels, onset -> each key time"""
    seen: torch.Tensor
    """[B,T,S,S] bool, as ``valid``"""
    has_keys: torch.Tensor
    """[B,T] bool: the flow at that time is known"""
    clock: np.ndarray
    """[B,4]: apex as a share of the clip, hold, 1 for an exponential decay, seconds"""

    def choices(self) -> dict[str, torch.Tensor]:
        """Those of pairs, and the clips of which the flow at some time is known."""
        return super().choices() | {"keys": self.has_keys.any(1)}

    def rows(self, which: np.ndarray) -> SequenceBatch:
        """The clips at these places [n] int64, in this order."""
        at = torch.from_numpy(which).to(self.onset.device)
        moved = {name: tensor[at] for name, tensor in self._tensors().items()}
        return replace(self, **moved, seeds=self.seeds[which], clock=self.clock[which])

    @staticmethod
    def joined(parts: Sequence[Batch]) -> SequenceBatch:
        """All clips of some batches of one picture size as one."""
        clips = [SequenceBatch.of_pairs(part) for part in parts]
        tensors = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in clips[0]._tensors()}
        seeds, clock = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("seeds", "clock"))
        return SequenceBatch(**tensors, seeds=seeds, clock=clock)

    @staticmethod
    def of_pairs(batch: Batch) -> SequenceBatch:
        """Pairs as clips of which the apex alone is known, in the middle of a third of a second."""
        if isinstance(batch, SequenceBatch):
            return batch
        n = len(batch)
        flows = batch.flow.new_zeros(n, KEYS, *batch.flow.shape[1:])
        seen = batch.valid.new_zeros(n, KEYS, *batch.valid.shape[1:])
        known = batch.has_flow.new_zeros(n, KEYS)
        flows[:, RISING - 1], seen[:, RISING - 1], known[:, RISING - 1] = batch.flow, batch.valid, batch.has_flow
        clock = np.tile([0.5, 0.0, 0.0, 1 / 3], (n, 1))
        own = {f.name: getattr(batch, f.name) for f in fields(Batch)}
        return SequenceBatch(**own, flows=flows, seen=seen, has_keys=known, clock=clock)


class SequenceSet:
    """Some clips of some folders that :mod:`mesynth.training.data.sequences` wrote."""

    def __init__(
        self,
        folders: Sequence[Manifest],
        keep: Sequence[np.ndarray],
        config: SequenceConfig,
        *,
        seed: int,
        train: bool,
    ) -> None:
        """``keep``: per folder, the indices of its rows. Only a set to train on is mirrored and seen by cameras."""
        self._config, self._seed, self._train, self.size = config, seed, train, config.size
        self._rows = [(folder.root, folder.row(int(i))) for folder, k in zip(folders, keep, strict=True) for i in k]
        self._order = lru_cache(maxsize=8)(
            lambda epoch: stream(seed, "sequence-order", epoch + 1).permutation(len(self))
        )
        self.subjects: tuple[str, ...] = tuple(sorted({row.subject_key for _, row in self._rows}))
        seen = {key for _, row in self._rows for key in (*row.provenance.subjects_seen, row.subject_key)}
        self.subjects_seen: tuple[str, ...] = tuple(sorted(seen))
        self.licences: tuple[str, ...] = tuple(sorted({row.provenance.licence for _, row in self._rows}))
        used = [[folder.hash(), np.asarray(k).tolist()] for folder, k in zip(folders, keep, strict=True)]
        self.data_hash: str = hashlib.sha256(json.dumps(used).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, draws: np.ndarray) -> SequenceBatch:
        """The clips of draw numbers [B] int64 >= 0, on the CPU: :meth:`~.pairs.PairSet.batch`."""
        epochs, places = np.divmod(np.asarray(draws, np.int64), len(self))
        clips = np.array([self._order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
        return self._make(clips, draw_seeds(self._seed, "sequences", np.asarray(draws)))

    def validation(self, n: int, batch: int = 16) -> Iterator[SequenceBatch]:
        """The first ``n`` clips of a fixed order (all, if there are fewer), ``batch`` at a time."""
        order = self._order(-1)[:n]
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            yield self._make(part, draw_seeds(self._seed, "validation-sequences", part))

    def _permutation(self, epoch: int) -> np.ndarray:
        return stream(self._seed, "sequence-order", epoch + 1).permutation(len(self))

    def _make(self, clips: np.ndarray, seeds: np.ndarray) -> SequenceBatch:
        read = [self._read(int(i)) for i in clips]
        frames, flows, seen, clock = (np.stack([r[j] for r in read]) for j in range(4))
        rows = [self._rows[i][1] for i in clips]
        aus, known = (np.stack([getattr(facs.raised(row.aus), name) for row in rows]) for name in ("intensity", "mask"))
        if self._train:
            frames = degrade(frames, seeds, self._config.camera)
        if self._train and self._config.flip:
            turned = uniforms(seeds, "sequence", 1)[:, 0] < 0.5
            frames[turned], seen[turned] = frames[turned, :, :, ::-1], seen[turned, ..., ::-1]
            flows[turned] = flows[turned, ..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
            aus[turned], known[turned] = aus[turned, :, ::-1], known[turned, :, ::-1]
        pictures = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float().div_(255)
        labels = [CLASSES_3.index(row.label) if row.label in CLASSES_3 else -1 for row in rows]
        whole, inside = torch.from_numpy(flows), torch.from_numpy(seen)
        return SequenceBatch(
            onset=pictures[:, 0].contiguous(),
            frame=pictures[:, 1].contiguous(),
            flow=whole[:, RISING - 1],
            valid=inside[:, RISING - 1],
            has_flow=torch.ones(len(rows), dtype=torch.bool),
            aus=torch.from_numpy(aus),
            known=torch.from_numpy(known),
            landmarks=torch.full((len(rows), 68, 2), torch.nan),
            label=torch.tensor(labels),
            seeds=seeds,
            flows=whole,
            seen=inside,
            has_keys=torch.ones(len(rows), KEYS, dtype=torch.bool),
            clock=clock,
        )

    def _read(self, index: int) -> tuple[np.ndarray, ...]:
        root, row = self._rows[index]
        assert row.frames is not None
        assert row.flow is not None
        pictures, arrays = read_span(root, row.frames), read_span(root, row.flow)
        frames = member_frames(pictures, row.clip_id)
        bits = np.unpackbits(npy_array(arrays["seen.npy"]), axis=1, count=self.size**2)
        flows = npy_array(arrays["keys.npy"]).astype(np.float32)
        return frames, flows, bits.reshape(-1, self.size, self.size).astype(np.bool_), npy_array(arrays["clock.npy"])


# ---------------------------------------------------------------- opening


def list_subjects(config: SequenceConfig) -> tuple[str, ...]:
    """``database/subject`` of everyone that training on ``config`` may show, sorted."""
    if config.source == "rendered":
        return tuple(sorted(person_key(person) for person in config.clips().people.people))
    return tuple(sorted({str(key) for folder in config.manifests for key in Manifest.read(folder).subject_keys()}))


def open_pairs(
    config: SequenceConfig,
    *,
    exclude_subjects: Collection[str] = (),
    cache: Path,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
) -> tuple[SequenceSet, SequenceSet]:
    """Clips to learn from and to validate on; they share no subject. As :func:`mesynth.training.data.pairs.open_pairs`.

    Raises:
        ConfigError: an excluded subject nobody knows, or nobody left to learn from or to validate.
        ManifestError: a folder without manifest, or clips that are too small.
    """
    excluded = frozenset(exclude_subjects)
    with locked(Path(cache)):
        folders = _folders(config, Path(cache), workers, progress)
    seen = [
        [frozenset((*s, str(k))) for s, k in zip(f.subjects_seen(), f.subject_keys(), strict=True)] for f in folders
    ]
    unknown = sorted(excluded - {key for each in seen for keys in each for key in keys})
    if unknown:
        raise ConfigError(f"excluded subject '{unknown[0]}' is not in the data; subjects are written database/subject")
    allowed = [np.array([excluded.isdisjoint(keys) for keys in each], np.bool_) for each in seen]
    if config.source == "rendered":
        validating = frozenset(map(str, folders[1].subject_keys()))
    else:
        left = {str(k) for f, a in zip(folders, allowed, strict=True) for k in f.subject_keys()[a]}
        validating = validation_subjects(left, config.validation_share, seed)
    held = [np.array([str(k) in validating for k in folder.subject_keys()], np.bool_) for folder in folders]
    sets = []
    for name, train in (("learn from", True), ("validate", False)):
        keep = [np.flatnonzero(a & (~h if train else h)) for a, h in zip(allowed, held, strict=True)]
        if not sum(map(len, keep)):
            raise ConfigError(f"nobody is left to {name} after excluding {len(excluded)} subjects; exclude fewer")
        sets.append(SequenceSet(folders, keep, config, seed=seed, train=train))
    return sets[0], sets[1]


def _folders(
    config: SequenceConfig, cache: Path, workers: int, progress: Callable[[str], Progress] | None
) -> list[Manifest]:
    out = []
    if config.source == "manifest":
        for folder in config.manifests:
            record = {"manifest": Manifest.read(folder).hash(), "size": config.size, "version": mesynth.__version__}
            place = cache / f"recorded-sequences-{config_hash(record)[:20]}"
            out.append(record_clips(place, folder, config.size, progress=progress and progress("flow")))
        return out
    for validation in (False, True):
        clips = config.clips(validation=validation)
        place = cache / f"sequences-{config_hash(asdict(clips) | {'version': mesynth.__version__})[:20]}"
        bar = progress("render validation" if validation else "render") if progress else None
        out.append(render_clips(place, clips, workers=workers, progress=bar))
    return out


SOURCE = Source(SequenceConfig, open_pairs, list_subjects)
"""For the table of families."""
