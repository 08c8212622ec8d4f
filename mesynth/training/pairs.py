"""Pairs of frames to learn from: rendered people or the clips of manifests, drawn by number.

A draw number alone decides clip, frame, mirroring, camera and the pair's seed, so neither the batch, nor the process,
nor a resumption changes a pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mesynth import __version__
from mesynth.errors import ConfigError
from mesynth.facs import AU_CODES
from mesynth.manifest import Manifest
from mesynth.run_folder import config_hash
from mesynth.seeds import stream
from mesynth.stage import Progress
from mesynth.training import split
from mesynth.training.batch import Batch
from mesynth.training.degrade import OFF, CameraConfig, degrade
from mesynth.training.draws import draw_seeds, uniforms
from mesynth.training.mixed_pairs import MixedPairs
from mesynth.training.pack import Pack, locked, open_pack
from mesynth.training.packed_clip import PackConfig
from mesynth.training.pair_config import PairConfig
from mesynth.training.rendered_pairs import person_key, render_pairs

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
        self._purpose = purpose
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
        return self._make(clips, seeds, self._flip, self._apex_share, self._camera)

    def validation(self, n: int, batch: int = 16) -> Iterator[Batch]:
        """The first ``n`` clips of a fixed order (all, if there are fewer) with their apexes, ``batch`` at a time.

        Neither mirrored nor seen by a camera: figures of different runs compare.
        """
        order = self._order(-1)[:n]
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            yield self._make(part, draw_seeds(self._seed, f"validation-{self._purpose}", part), False, 1.0, OFF)

    def _permutation(self, epoch: int) -> np.ndarray:
        return stream(self._seed, "pair-order", epoch + 1).permutation(len(self))

    def _make(self, clips: np.ndarray, seeds: np.ndarray, flip: bool, apex_share: float, camera: CameraConfig) -> Batch:
        n, size = len(clips), self.size
        u = uniforms(seeds, "pair", 3)
        frames = np.empty((n, 2, size, size, 3), np.uint8)
        flow = np.zeros((n, 2, size, size), np.float32)
        valid = np.zeros((n, size, size), np.bool_)
        has_flow = np.zeros(n, np.bool_)
        aus = np.empty((n, len(AU_CODES), 2), np.float32)
        known = np.empty(aus.shape, np.bool_)
        label = np.empty(n, np.int64)
        for i, index in enumerate(clips):
            pack, clip = self._packs[self._pack[index]], int(self._clip[index])
            first, apex = int(pack.first[clip]), int(pack.apex[clip])
            place = _later_frame(int(pack.first[clip + 1]) - first, apex, u[i, 0], u[i, 1], apex_share)
            frames[i, 0], frames[i, 1] = pack.frames[first], pack.frames[first + place]
            aus[i], known[i], label[i] = pack.aus[first + place], pack.known[clip], pack.label[clip]
            if place == apex and pack.flow_at[clip] >= 0:
                stored = pack.flow_at[clip]
                flow[i], has_flow[i] = pack.flow[stored], True
                valid[i] = np.unpackbits(pack.valid[stored], count=size * size).reshape(size, size)
        frames = degrade(frames, seeds, camera)
        if flip:
            mirrored = u[:, 2] < 0.5
            frames[mirrored] = frames[mirrored, :, :, ::-1]
            flow[mirrored] = flow[mirrored, :, :, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
            valid[mirrored] = valid[mirrored, :, ::-1]
            aus[mirrored], known[mirrored] = aus[mirrored, :, ::-1], known[mirrored, :, ::-1]
        pictures = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float().div_(255)
        return Batch(
            onset=pictures[:, 0].contiguous(),
            frame=pictures[:, 1].contiguous(),
            flow=torch.from_numpy(flow),
            valid=torch.from_numpy(valid),
            has_flow=torch.from_numpy(has_flow),
            aus=torch.from_numpy(aus),
            known=torch.from_numpy(known),
            label=torch.from_numpy(label),
            seeds=seeds,
        )


def _later_frame(n: int, apex: int, u: float, v: float, apex_share: float) -> int:
    """Place of the later frame among ``n`` frames: the apex, or one of the others after the onset; a face has one."""
    if n <= 2 or u < apex_share:
        return apex
    place = 1 + int(v * (n - 2))
    return place + (place >= apex)


# ---------------------------------------------------------------- opening


def list_subjects(config: PairConfig) -> tuple[str, ...]:
    """``database/subject`` of everyone that training on ``config`` may show, sorted; nothing is rendered or packed.

    For :func:`mesynth.training.groups.subject_groups`: each of its groups can be given as ``exclude_subjects``.

    Raises:
        ManifestError: a folder without manifest.
    """
    rendered = [person_key(person) for person in config.render().people] if config.kind == "rendered" else []
    folders = (*(config.manifests if config.kind == "manifest" else ()), *config.faces)
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
        ManifestError: see :func:`mesynth.training.pack.open_pack`.
    """
    cache = Path(cache)
    excluded = frozenset(exclude_subjects)
    if config.kind == "rendered":
        packs = [_rendered_pack(config, cache, validation=v, workers=workers, progress=progress) for v in (False, True)]
    else:
        packs = _packs(config.manifests, config.pack(), cache, progress and progress("pack"))
    bar = progress("pack faces") if progress and config.faces else None
    faces = _packs(config.faces, config.pack_faces(), cache, bar)
    split.require_known(excluded, (*packs, *faces))
    people = split.people_left(packs, [split.allowed_clips(pack, excluded) for pack in packs])
    if config.kind == "rendered":
        validating = frozenset(packs[1].subjects)
    else:
        validating = split.validation_subjects(people, config.validation_share, seed) if packs else frozenset()
    pairs = _sides(packs, config, excluded, validating, seed) if packs else None
    if not faces:
        assert pairs is not None
        return pairs
    strangers = split.people_left(faces, [split.allowed_clips(pack, excluded) for pack in faces]) - people
    if pairs is None or len(strangers) > 1:
        validating |= split.validation_subjects(strangers, config.validation_share, seed)
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
    allowed = [split.allowed_clips(pack, excluded) for pack in packs]
    shown = [split.clips_of(pack, validating) for pack in packs]
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
