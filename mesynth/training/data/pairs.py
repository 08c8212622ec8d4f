"""Pairs of frames to learn from: rendered people or the clips of manifests, and faces alone, drawn by number.

A draw number alone decides clip, frame, mirroring, camera and the pair's seed, so neither the batch, nor the process,
nor a resumption changes a pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mesynth import __version__
from mesynth.config import check_share
from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_CODES
from mesynth.core.seeds import stream
from mesynth.preprocess.align import LEFT_EYE, MIRROR, RIGHT_EYE
from mesynth.store.generator_folder import Source
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import config_hash
from mesynth.store.stage import Progress
from mesynth.training.data.batches import Batch
from mesynth.training.data.camera import OFF, CameraConfig, degrade, draw_seeds, uniforms
from mesynth.training.data.pack import (
    Formed,
    Pack,
    PackConfig,
    allowed_clips,
    clips_of,
    locked,
    open_pack,
    people_left,
    require_known,
    validation_subjects,
)
from mesynth.training.data.rendered import (
    EMPTY,
    MAX_SIZE,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    RenderConfig,
    SourceConfig,
    person_key,
    render_pairs,
)

_RENDERED_ONLY = (
    "identities", "per_identity", "validation_identities", "neutral", "single", "emotional", "blink", "still", "head",
    "turn", "yaw", "rigs", "expressive", "glasses", "brow_hair", "focal", "jitter",
)  # fmt: skip
_MANIFEST_ONLY = ("manifests", "frames", "apex_share", "validation_share")
_PAIRS_ONLY = ("manifests", "frames", "apex_share", "faces_share")


@dataclass(frozen=True, kw_only=True)
class PairConfig(SourceConfig):
    """Source, size and augmentation of training pairs."""

    frames: int = 6
    """Frames kept of each clip: onset, apex, and others at even distances."""
    apex_share: float = 0.5
    """Share of pairs whose later frame is the apex; in the others it is any other kept frame."""
    per_identity: int = 30
    """Rendered pairs of each person."""
    validation_identities: int = 16
    """Rendered people who validate."""
    neutral: float = RenderConfig.neutral
    """Share of rendered pairs without AUs."""
    single: float = RenderConfig.single
    """Share of rendered pairs with one AU alone."""
    emotional: float = RenderConfig.emotional
    """Share of rendered pairs with the AUs of an emotion; only these have a class."""
    blink: float = RenderConfig.blink
    """Share of rendered pairs with part-closed lids at the later frame."""
    still: float = RenderConfig.still
    """Share of rendered pairs without head movement."""
    head: float = RenderConfig.head
    """Largest scale of the others' head movement."""
    turn: float = RenderConfig.turn
    """Standard deviation of the onset's head angles, degrees."""
    yaw: float = RenderConfig.yaw
    """Largest angle by which half of the onsets are turned to either side besides, degrees."""
    rigs: float = RenderConfig.rigs
    """Share of people whose muscles pull as a rig of their own says, drawn around several (mesynth.motion.fields)."""
    expressive: float = RenderConfig.expressive
    """Share of pairs whose onset shows AUs already; the pair's AUs come on top."""
    glasses: float = RenderConfig.glasses
    """Share of rendered people with glasses."""
    brow_hair: float = RenderConfig.brow_hair
    """Share of rendered people with hair over their brows."""
    focal: float = RenderConfig.focal
    """Share of rendered people whose camera is nearer or farther than usual."""
    jitter: float = RenderConfig.jitter
    """Standard deviation of the crop's landmark error, inter-ocular distances."""
    landmark_noise: float = 0.0
    """Standard deviation of each landmark's own error in training, inter-ocular distances, drawn anew each time."""
    faces: tuple[Path, ...] = ()
    """Folders with a manifest whose onsets are faces to learn from, whatever their clips show."""
    faces_share: float = 0.5
    """Share of the draws that are faces alone."""

    def __post_init__(self) -> None:
        self.check_source("manifests", "faces")
        self.pack()
        if self.frames < 2:
            raise ConfigError(f"data.frames={self.frames} is less than 2; onset and apex are always kept")
        if not 0 <= self.landmark_noise <= 0.1:
            raise ConfigError(f"data.landmark_noise={self.landmark_noise:g} is outside 0...1 of the eye distance")
        check_share("data.", self, "apex_share", "validation_share", "faces_share")
        self.check_idle()
        if self.faces and not 0 < self.faces_share < 1:
            less = "no face" if self.faces_share == 0 else "nothing but faces"
            raise ConfigError(
                f"data.faces_share={self.faces_share:g} draws {less}; choose a share between 0 and 1, leave out "
                "data.faces, or for faces alone set data.source=manifest without data.manifests"
            )
        for name in ("manifests", "faces"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ConfigError(f"data.{name} names a folder twice; name each once")
        if self.source == "rendered":
            if self.size > MAX_SIZE:
                raise ConfigError(f"data.size={self.size} is more than {MAX_SIZE}, the largest that is rendered")
            self.render(), self.render(validation=True)
        elif not self.manifests and not self.faces:
            raise ConfigError(EMPTY)

    @property
    def faces_alone(self) -> bool:
        """Whether faces are all there is to learn from."""
        return bool(self.faces) and self.source == "manifest" and not self.manifests

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        names = _MANIFEST_ONLY if self.source == "rendered" else _RENDERED_ONLY
        idle = dict.fromkeys(names, f"data.source={self.source} does not use it")
        if self.faces:
            idle.pop("validation_share", None)
        else:
            idle |= dict.fromkeys(("faces", "faces_share"), "data.faces names no folder")
        if self.faces_alone:
            idle |= dict.fromkeys(_PAIRS_ONLY, "there are faces alone to learn from")
        return idle

    def pack_faces(self) -> PackConfig:
        """How faces are packed."""
        return PackConfig(size=self.size, frames=1)

    def pack(self) -> PackConfig:
        """How clips are packed."""
        return PackConfig(size=self.size, frames=2 if self.source == "rendered" else self.frames)

    def render(self, *, validation: bool = False) -> RenderConfig:
        """What is rendered for training, or for validation."""
        return RenderConfig(
            first=(VALIDATION_SEEDS if validation else TRAIN_SEEDS).start,
            identities=self.validation_identities if validation else self.identities,
            **{name: getattr(self, name) for name in _RENDERED_ONLY if not name.endswith("identities")},
            size=self.size,
        )


# ------------------------------------------------------------------- mixed pairs


_BLOCK = 64
"""Draws within which the places of faces are drawn: at random, so that no process or part of a batch gets them all."""


class MixedPairs:
    """``share`` of the draws are faces; pairs and faces each go through their own epochs.

    Exactly ``floor(n * share)`` of the first n draws are faces wherever n is a multiple of the block.
    """

    def __init__(self, pairs: PairSet, faces: PairSet, share: float, seed: int) -> None:
        """``faces`` may be empty in a set that validates."""
        assert pairs.size == faces.size
        assert 0 < share < 1
        self._pairs, self._faces, self._share, self._seed = pairs, faces, share, seed
        self._places = lru_cache(maxsize=256)(self._draw_places)
        self.size = pairs.size
        self.subjects: tuple[str, ...] = tuple(sorted({*pairs.subjects, *faces.subjects}))
        self.subjects_seen: tuple[str, ...] = tuple(sorted({*pairs.subjects_seen, *faces.subjects_seen}))
        self.licences: tuple[str, ...] = tuple(sorted({*pairs.licences, *faces.licences}))
        known = json.dumps([pairs.data_hash, faces.data_hash, share])
        self.data_hash: str = hashlib.sha256(known.encode()).hexdigest()

    def __len__(self) -> int:
        """Pairs and faces."""
        return len(self._pairs) + len(self._faces)

    def faces_among(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which draws [B] are faces, and the number of each among its own kind: bool [B], int64 [B]."""
        blocks, places = np.divmod(np.asarray(draws, np.int64), _BLOCK)
        which = np.array([self._places(int(k))[p] for k, p in zip(blocks, places, strict=True)], np.bool_)
        before = np.array(
            [self._before(int(k)) + int(self._places(int(k))[:p].sum()) for k, p in zip(blocks, places, strict=True)],
            np.int64,
        )
        return which, np.where(which, before, draws - before)

    def batch(self, draws: np.ndarray) -> Batch:
        """The pairs and faces of draw numbers [B] int64 >= 0, on the CPU, in this order."""
        which, numbers = self.faces_among(draws)
        parts = [own.batch(numbers[rows]) for own, rows in self._by_kind(which)]
        return Batch.joined(parts).rows(_places(which))

    def validation(self, n: int, batch: int = 16) -> Iterator[Batch]:
        """``n`` fixed rows (all, if there are fewer), mixed as the draws are, so that a sheet's few show both.

        Pairs come in the order in which they come without faces; there is at least one.
        """
        total, faces = min(n, len(self)), 0
        which = np.zeros(total, np.bool_)
        for i in range(total):
            due = int((i + 1) * self._share) > faces  # never of the first row: the share is below 1
            which[i] = faces < len(self._faces) if due else i - faces == len(self._pairs)
            faces += int(which[i])
        kinds = [(own, int(rows.sum())) for own, rows in self._by_kind(which)]
        rows = Batch.joined([part for own, count in kinds for part in own.validation(count, batch)])
        mixed = rows.rows(_places(which))
        for start in range(0, total, batch):
            yield mixed.rows(np.arange(start, min(start + batch, total)))

    def _by_kind(self, which: np.ndarray) -> list[tuple[PairSet, np.ndarray]]:
        """Sets and the rows of each that has any, pairs first."""
        return [(own, rows) for own, rows in ((self._pairs, ~which), (self._faces, which)) if rows.any()]

    def _before(self, block: int) -> int:
        """Faces before a block."""
        return int(np.floor(block * _BLOCK * self._share))

    def _draw_places(self, block: int) -> np.ndarray:
        """[_BLOCK] bool."""
        places = np.zeros(_BLOCK, np.bool_)
        count = self._before(block + 1) - self._before(block)
        places[stream(self._seed, "face-places", block).permutation(_BLOCK)[:count]] = True
        return places


def _places(which: np.ndarray) -> np.ndarray:
    """For every row its place in "all pairs, then all faces"."""
    return np.argsort(np.concatenate([np.flatnonzero(~which), np.flatnonzero(which)]))


# ------------------------------------------------------------------- pairs


__all__ = ["PairConfig", "PairSet", "list_subjects", "open_pairs"]


class PairSet:
    """Some clips of some packs. See the module for what a draw decides; arrays stay on disk."""

    def __init__(
        self,
        packs: Sequence[Pack],
        keep: Sequence[np.ndarray],
        *,
        seed: int,
        flip: bool = False,
        apex_share: float = 1.0,
        camera: CameraConfig = OFF,
        landmark_noise: float = 0.0,
        purpose: str = "pairs",
    ) -> None:
        """``keep``: per pack, the indices of its clips. Every pack has the same size. Sets of another ``purpose``
        have other numbers for the same draw."""
        assert len(packs) == len(keep)
        assert len({pack.size for pack in packs}) == 1
        self._packs = tuple(packs)
        self._pack = np.concatenate([np.full(len(k), i, np.int32) for i, k in enumerate(keep)])
        self._clip = np.concatenate([np.asarray(k, np.int64) for k in keep])
        self._seed, self._flip, self._apex_share, self._camera = seed, flip, apex_share, camera
        self._landmark_noise = landmark_noise
        self._purpose = purpose
        self._formed: dict[int, Formed] = {}
        self._order = lru_cache(maxsize=8)(self._permutation)
        self.size = packs[0].size
        used = [(pack, np.asarray(k, np.int64)) for pack, k in zip(packs, keep, strict=True)]
        self.subjects: tuple[str, ...] = tuple(
            sorted({p.subjects[s] for p, k in used for s in np.unique(p.subject[k])})
        )
        """``database/subject`` of the people shown."""
        seen = {key for p, k in used for s in np.unique(p.seen[k]) for key in p.seen_sets[s]}
        self.subjects_seen: tuple[str, ...] = tuple(sorted(seen))
        """Everyone whose frames or labels are in the clips, the people shown included."""
        self.licences: tuple[str, ...] = tuple(sorted({name for p, k in used if len(k) for name in p.licences}))
        digest = hashlib.sha256()
        for pack, k in used:
            digest.update(json.dumps([pack.hash, len(k)]).encode() + np.asarray(k, "<i8").tobytes())
        self.data_hash: str = digest.hexdigest()
        """Of the clips and their packing, wherever they lie."""

    def __len__(self) -> int:
        return len(self._clip)

    def formed(self, make: Callable[[Pack], Formed]) -> PairSet:
        """The same pairs with frames in layers beside them; ``make`` says them of a pack.

        Raises:
            ConfigError: cameras see the pairs: a frame that is formed of a clean onset holds nothing of them.
        """
        refuse_camera(self._camera)
        made = copy(self)
        used = {int(i) for i in np.unique(self._pack)}
        made._formed = {i: make(pack) for i, pack in enumerate(self._packs) if i in used}
        known = json.dumps([self.data_hash, [made._formed[i].hash for i in sorted(used)]])
        made.data_hash = hashlib.sha256(known.encode()).hexdigest()
        return made

    def batch(self, draws: np.ndarray) -> Batch:
        """The pairs of draw numbers [B] int64 >= 0, on the CPU.

        Draw d is clip ``d % N`` of epoch ``d // N``'s own permutation of the N clips.
        """
        draws = np.asarray(draws, np.int64)
        assert draws.ndim == 1
        assert (draws >= 0).all()
        epochs, places = np.divmod(draws, len(self))
        clips = np.array([self._order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
        seeds = draw_seeds(self._seed, self._purpose, draws)
        return self._make(clips, seeds, self._flip, self._apex_share, self._camera, self._landmark_noise)

    def validation(self, n: int, batch: int = 16) -> Iterator[Batch]:
        """The first ``n`` clips of a fixed order (all, if there are fewer) with their apexes, ``batch`` at a time.

        Neither mirrored nor seen by a camera: figures of different runs compare.
        """
        order = self._order(-1)[:n]
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            yield self._make(part, draw_seeds(self._seed, f"validation-{self._purpose}", part), False, 1.0, OFF, 0.0)

    def _permutation(self, epoch: int) -> np.ndarray:
        return stream(self._seed, "pair-order", epoch + 1).permutation(len(self))

    def _make(
        self, clips: np.ndarray, seeds: np.ndarray, flip: bool, apex_share: float, camera: CameraConfig, noise: float
    ) -> Batch:
        n, size = len(clips), self.size
        u = uniforms(seeds, "pair", 3)
        frames = np.empty((n, 2, size, size, 3), np.uint8)
        flow = np.zeros((n, 2, size, size), np.float32)
        valid = np.zeros((n, size, size), np.bool_)
        has_flow = np.zeros(n, np.bool_)
        aus = np.empty((n, len(AU_CODES), 2), np.float32)
        known = np.empty(aus.shape, np.bool_)
        label = np.empty(n, np.int64)
        landmarks = np.empty((n, 68, 2), np.float32)
        formed = np.empty((n, size, size, 3), np.uint8) if self._formed else None
        share = np.empty((n, size, size), np.uint8) if self._formed else None
        for i, index in enumerate(clips):
            pack, clip = self._packs[self._pack[index]], int(self._clip[index])
            first, apex = int(pack.first[clip]), int(pack.apex[clip])
            landmarks[i] = pack.landmarks[clip]
            place = _later_frame(int(pack.first[clip + 1]) - first, apex, u[i, 0], u[i, 1], apex_share)
            frames[i, 0], frames[i, 1] = pack.frames[first], pack.frames[first + place]
            if formed is not None and share is not None:
                beside = self._formed[int(self._pack[index])]
                formed[i], share[i] = beside.frames[first + place], beside.share[clip]
            aus[i], known[i], label[i] = pack.aus[first + place], pack.known[clip], pack.label[clip]
            if place == apex and pack.flow_at[clip] >= 0:
                stored = pack.flow_at[clip]
                flow[i], has_flow[i] = pack.flow[stored], True
                valid[i] = np.unpackbits(pack.valid[stored], count=size * size).reshape(size, size)
        frames = degrade(frames, seeds, camera)
        if noise:
            landmarks = _inexact(landmarks, noise, seeds)
        if flip:
            mirrored = u[:, 2] < 0.5
            frames[mirrored] = frames[mirrored, :, :, ::-1]
            flow[mirrored] = flow[mirrored, :, :, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
            valid[mirrored] = valid[mirrored, :, ::-1]
            aus[mirrored], known[mirrored] = aus[mirrored, :, ::-1], known[mirrored, :, ::-1]
            for beside_ in (formed, share):
                if beside_ is not None:
                    beside_[mirrored] = beside_[mirrored][:, :, ::-1]
            turned = landmarks[mirrored][:, MIRROR]
            landmarks[mirrored] = turned * np.array([-1, 1], np.float32) + np.array([size - 1, 0], np.float32)
        pictures = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float().div_(255)
        return Batch(
            onset=pictures[:, 0].contiguous(),
            frame=pictures[:, 1].contiguous(),
            flow=torch.from_numpy(flow),
            valid=torch.from_numpy(valid),
            has_flow=torch.from_numpy(has_flow),
            aus=torch.from_numpy(aus),
            known=torch.from_numpy(known),
            landmarks=torch.from_numpy(landmarks),
            label=torch.from_numpy(label),
            seeds=seeds,
            formed=None if formed is None else torch.from_numpy(formed).permute(0, 3, 1, 2).float().div_(255),
            share=None if share is None else torch.from_numpy(share)[:, None].float().div_(255),
        )


def refuse_camera(camera: CameraConfig) -> None:
    """Raises ConfigError for cameras over pairs that have frames in layers beside them."""
    if camera.probability:
        raise ConfigError(
            f"data.camera.probability={camera.probability:g}: frames in layers are formed of onsets that no camera "
            "saw; set it to 0"
        )


def _inexact(landmarks: np.ndarray, sd: float, seeds: np.ndarray) -> np.ndarray:
    """Landmarks [B,68,2] with an error of their own each, ``sd`` of the distance between the eyes."""
    u = uniforms(seeds, "landmarks", 2 * 68 * 2).reshape(len(seeds), 2, 68, 2)
    normal = np.sqrt(-2 * np.log1p(-u[:, 0])) * np.cos(2 * np.pi * u[:, 1])  # Box and Muller, 1958
    iod = np.linalg.norm(landmarks[:, LEFT_EYE].mean(1) - landmarks[:, RIGHT_EYE].mean(1), axis=-1)
    return np.asarray(landmarks + sd * iod[:, None, None] * normal, np.float32)


def _later_frame(n: int, apex: int, u: float, v: float, apex_share: float) -> int:
    """Place of the later frame among ``n`` frames: the apex, or one of the others after the onset; a face has one."""
    if n <= 2 or u < apex_share:
        return apex
    place = 1 + int(v * (n - 2))
    return place + (place >= apex)


# ---------------------------------------------------------------- opening


def list_subjects(config: PairConfig) -> tuple[str, ...]:
    """``database/subject`` of everyone that training on ``config`` may show, sorted; nothing is rendered or packed.

    For :func:`mesynth.training.data.pack.subject_groups`: each of its groups can be given as ``exclude_subjects``.

    Raises:
        ManifestError: a folder without manifest.
    """
    rendered = [person_key(person) for person in config.render().people] if config.source == "rendered" else []
    folders = (*(config.manifests if config.source == "manifest" else ()), *config.faces)
    found = {str(key) for folder in folders for key in Manifest.read(folder).subject_keys()}
    return tuple(sorted({*rendered, *found}))


def open_pairs(
    config: PairConfig,
    *,
    exclude_subjects: Collection[str] = (),
    cache: Path,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
) -> tuple[PairSet | MixedPairs, PairSet | MixedPairs]:
    """Training and validation pairs; they share no subject.

    What is rendered or packed lies in ``cache`` and serves every later run; several processes may open the same pairs
    at once. A clip that shows or has seen a subject of ``exclude_subjects`` is in neither set. Validation subjects are
    people of their own (rendered), or ``validation_share`` of each database, drawn by ``seed``; training clips show
    none of them, though the maker of a synthetic one may have seen them (``PairSet.subjects_seen`` says so).
    A person of whom there are both pairs and faces is on one side with both; faces do not change how pairs are split.
    ``workers``: processes that render, 0 for one per core. ``progress(name)`` gives a callback for "render",
    "render validation", "pack" or "pack faces".

    Raises:
        ConfigError: an excluded subject nobody knows, or nobody left to learn from or to validate.
        ManifestError: see :func:`mesynth.training.data.pack.open_pack`.
    """
    cache = Path(cache)
    excluded = frozenset(exclude_subjects)
    if config.source == "rendered":
        packs = [_rendered_pack(config, cache, validation=v, workers=workers, progress=progress) for v in (False, True)]
    else:
        packs = _packs(config.manifests, config.pack(), cache, progress and progress("pack"))
    bar = progress("pack faces") if progress and config.faces else None
    faces = _packs(config.faces, config.pack_faces(), cache, bar)
    require_known(excluded, (*packs, *faces))
    people = people_left(packs, [allowed_clips(pack, excluded) for pack in packs])
    if config.source == "rendered":
        validating = frozenset(packs[1].subjects)
    else:
        validating = validation_subjects(people, config.validation_share, seed) if packs else frozenset()
    pairs = _sides(packs, config, excluded, validating, seed) if packs else None
    if not faces:
        assert pairs is not None
        return pairs
    strangers = people_left(faces, [allowed_clips(pack, excluded) for pack in faces]) - people
    if pairs is None or len(strangers) > 1:
        validating |= validation_subjects(strangers, config.validation_share, seed)
    alone = _sides(faces, config, excluded, validating, seed, purpose="faces", may_lack=pairs is not None)
    if pairs is None:
        return alone
    learned, held = (MixedPairs(p, f, config.faces_share, seed) for p, f in zip(pairs, alone, strict=True))
    return learned, held


def _packs(folders: Sequence[Path], config: PackConfig, cache: Path, bar: Progress | None) -> list[Pack]:
    return [open_pack(folder, cache, config, bar) for folder in folders]


def _sides(
    packs: Sequence[Pack],
    config: PairConfig,
    excluded: frozenset[str],
    validating: frozenset[str],
    seed: int,
    *,
    purpose: str = "pairs",
    may_lack: bool = False,
) -> tuple[PairSet, PairSet]:
    """Clips to learn from, and clips of the people who validate (``may_lack``: there may be none)."""
    allowed = [allowed_clips(pack, excluded) for pack in packs]
    shown = [clips_of(pack, validating) for pack in packs]
    train = [np.flatnonzero(a & ~s) for a, s in zip(allowed, shown, strict=True)]
    held = [np.flatnonzero(a & s) for a, s in zip(allowed, shown, strict=True)]
    for name, part, needed in (("learn from", train, True), ("validate", held, not may_lack)):
        if needed and not sum(map(len, part)):
            who = "nobody" if purpose == "pairs" else "no face"
            raise ConfigError(f"{who} is left to {name} after excluding {len(excluded)} subjects; exclude fewer")
    learned = PairSet(
        packs,
        train,
        seed=seed,
        flip=config.flip,
        apex_share=config.apex_share,
        camera=config.camera,
        landmark_noise=config.landmark_noise,
        purpose=purpose,
    )
    return learned, PairSet(packs, held, seed=seed, purpose=purpose)


def _rendered_pack(
    config: PairConfig, cache: Path, *, validation: bool, workers: int, progress: Callable[[str], Progress] | None
) -> Pack:
    render = config.render(validation=validation)
    # A version renders into a folder of its own: what older ones drew stays what it is.
    out = cache / f"rendered-{config_hash(asdict(render) | {'version': __version__})[:20]}"
    bar = progress("render validation" if validation else "render") if progress else None
    with locked(cache):
        render_pairs(out, render, workers=workers, progress=bar)
    return open_pack(out, cache, config.pack())


SOURCE = Source(PairConfig, open_pairs, list_subjects)
"""For the table of families."""
