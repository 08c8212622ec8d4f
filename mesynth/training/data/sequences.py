"""Clips with flow at every key time to learn from, drawn by number: the data of ``flow_volume``.

As :mod:`mesynth.training.data.pairs`: a draw number alone decides clip, mirroring, camera and the clip's seed.
Nothing is kept in memory; a draw reads its clip from the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mesynth import __version__
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from mesynth.motion.key_times import KEYS, RISING
from mesynth.store.generator_folder import Source
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import config_hash
from mesynth.store.shards import npy_array, read_span
from mesynth.store.stage import Progress
from mesynth.store.videos import image_array
from mesynth.training.data.batches import Batch
from mesynth.training.data.camera import CameraConfig, degrade, draw_seeds, uniforms
from mesynth.training.data.pack import locked
from mesynth.training.data.rendered import TRAIN_SEEDS, VALIDATION_SEEDS, RenderConfig, person_key
from mesynth.training.data.sequence_clips import ClipsConfig, record_clips, render_clips
from mesynth.training.data.subjects import validation_subjects

_RENDERED_ONLY = ("identities", "per_identity", "validation_identities", "lag", "ordered")


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Source, size and augmentation of training clips."""

    source: str = "rendered"
    """"rendered": people of the 3D head, made on first use; "manifest": clips of prepared folders, flow estimated."""
    size: int = 64
    """Side of the pictures, pixels."""
    manifests: tuple[Path, ...] = ()
    """Folders with a manifest of aligned frames, for source "manifest"."""
    validation_share: float = 0.1
    """Share of each database's subjects that validate (source "manifest")."""
    identities: int = 200
    """Rendered people to learn from."""
    per_identity: int = 10
    """Clips of each person."""
    validation_identities: int = 12
    """Rendered people who validate."""
    lag: float = ClipsConfig.lag
    """How far at most an AU keeps from the clip's profile, a share of the clip; 0: all follow it."""
    ordered: float = ClipsConfig.ordered
    """Share of the lag that is the AU's habit; the rest is drawn for every clip."""
    flip: bool = True
    """Mirror half of the clips."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Cameras that training onsets are seen by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifests", tuple(Path(p) for p in self.manifests))
        if self.source not in ("rendered", "manifest"):
            raise ConfigError(f"data.source '{self.source}' is unknown; choose rendered or manifest")
        if not 0 <= self.validation_share <= 1:
            raise ConfigError(f"data.validation_share={self.validation_share:g} is no share; choose one in [0, 1]")
        if self.source == "manifest" and not self.manifests:
            raise ConfigError(
                "data.manifests is empty; name the folders to learn from, as in data.manifests=[prepared]"
            )
        defaults = {f.name: f.default for f in fields(self)}
        for name, why in self.idle().items():
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"data.{name} has no effect: {why}; leave it out")
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

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in self._tensors()}
        return replace(self, **moved)

    def rows(self, which: np.ndarray) -> SequenceBatch:
        """The clips at these places [n] int64, in this order."""
        at = torch.from_numpy(which).to(self.onset.device)
        moved = {name: getattr(self, name)[at] for name in self._tensors()}
        return replace(self, **moved, seeds=self.seeds[which], clock=self.clock[which])

    @staticmethod
    def joined(parts: Sequence[Batch]) -> SequenceBatch:
        """All clips of some batches of one picture size as one."""
        clips = [SequenceBatch.of_pairs(part) for part in parts]
        tensors = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in clips[0]._tensors()}
        seeds, clock = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("seeds", "clock"))
        return SequenceBatch(**tensors, seeds=seeds, clock=clock)

    def _tensors(self) -> list[str]:
        return [f.name for f in fields(self) if f.name not in ("seeds", "clock")]

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
    """Some clips of some folders that :mod:`mesynth.training.data.sequence_clips` wrote."""

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
        aus, known = (np.stack([getattr(row.aus, name) for row in rows]) for name in ("intensity", "mask"))
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
        frames = np.stack([image_array(pictures[name], row.clip_id) for name in sorted(pictures)])
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
            record = {"manifest": Manifest.read(folder).hash(), "size": config.size, "version": __version__}
            place = cache / f"recorded-sequences-{config_hash(record)[:20]}"
            out.append(record_clips(place, folder, config.size, progress=progress and progress("flow")))
        return out
    for validation in (False, True):
        clips = config.clips(validation=validation)
        place = cache / f"sequences-{config_hash(asdict(clips) | {'version': __version__})[:20]}"
        bar = progress("render validation" if validation else "render") if progress else None
        out.append(render_clips(place, clips, workers=workers, progress=bar))
    return out


SOURCE = Source(SequenceConfig, open_pairs, list_subjects)
"""For the table of families."""
