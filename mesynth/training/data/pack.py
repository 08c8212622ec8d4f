"""Clips of any manifest as memory-mapped arrays, so that a training step reads pairs and decodes nothing.

A clip is packed as training sees it: a few frames, how far each is on the way to the apex, flow at the apex. Flow
belongs to the apex alone. A share of it is never passed off as the flow of another frame: heads move and AUs lag, so
that F_t = alpha(t) F_apex holds for no recording. Flow is kept as float16: the error is at most 1/4096 of a component
(.002 px at 8 px).

A pack lies in a cache folder of its own, named after the manifest's hash and how it was made; it appears under that
name only when complete, and one that is damaged is made again. Writing needs the memory of one clip. Its subjects are
learned from or validate; for cross-fitting they are cut into groups.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, starmap
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from mesynth import __version__
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.facs import AU_CODES, raised
from mesynth.core.framing import OWN, KnownFraming
from mesynth.core.process import counted
from mesynth.core.profiles import PROFILES, Profile
from mesynth.core.seeds import stream
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import sequence_flows
from mesynth.store.generator_folder import UNTRAINED
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import file_lock, write_text
from mesynth.store.shards import member_frames, npy_array, read_span

# ---------------------------------------------------------------- one clip


MIN_SIZE, MAX_SIZE = 16, 512
LEAST_MOTION = 0.05
"""Pixels: below this root mean square of the apex flow, in-between frames have no measurable share of it."""
MOST_LEFT = 0.3
"""A frame's flow may differ from its share of the apex flow by this share of the apex flow's norm. On rendered faces
that drift by up to 2 % of the eye distance the level of what is kept is off by .03 in the mean; unfiltered, by .2."""

_MISFRAMED = 0.5
"""Pixels: a face this far from its canonical crop is cropped anew."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How clips are packed."""

    size: int = 64
    """Side of the pictures, pixels; larger ones are reduced."""
    frames: int = 6
    """Frames kept of a clip: onset, apex, and others at even distances; 1: its onset as a face alone."""

    def __post_init__(self) -> None:
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ConfigError(f"size={self.size} is outside {MIN_SIZE}..{MAX_SIZE} pixels")
        if not 1 <= self.frames <= 1000:
            raise ConfigError(f"frames={self.frames} is outside 1..1000; 1 keeps the onset alone")

    def record(self) -> dict[str, Any]:
        """Plain values, for the pack's hash."""
        return asdict(self)


@dataclass(frozen=True)
class Unusable:
    """A clip that training can make nothing of."""

    reason: str


@dataclass(frozen=True, eq=False)
class PackedClip:
    """One clip, shapes as in :class:`~mesynth.training.data.pack.Pack`: n frames, flow [2,S,S], valid [S,S] or None."""

    frames: np.ndarray
    apex: int
    alpha: np.ndarray
    aus: np.ndarray
    known: np.ndarray
    landmarks: np.ndarray
    label: int
    flow: np.ndarray | None
    valid: np.ndarray | None


def pack_clip(root: Path, row: Row, config: PackConfig) -> PackedClip | Unusable:
    """Read and reduce one clip, or with ``config.frames=1`` its onset: a face alone, of which no AU is known.

    Raises:
        ManifestError: a damaged shard, frames that are not square or smaller than ``config.size``.
    """
    if row.frames is None:
        raise ManifestError(
            f"clip {row.clip_id} has no aligned frames in {root}; run `mesynth prepare` (without --no-frames) first"
        )
    if config.frames == 1:
        return _face(root, row, config.size)
    if row.n_frames < 2:
        return Unusable("it is a single frame")
    if not 0 < row.apex_index < row.n_frames:
        return Unusable("its onset is its apex")
    _check_size(row, config.size, row.height)
    places = kept_frames(row.n_frames, row.apex_index, config.frames)
    frames = reduced(_read_frames(root, row, places), config.size)
    apex = int(np.flatnonzero(places == row.apex_index)[0])
    alpha, levels_ = levels(row, places, frames, apex)
    usable = np.isfinite(alpha)
    frames, alpha, levels_ = frames[usable], alpha[usable], levels_[usable]
    apex = int(usable[:apex].sum())
    flow, valid, points = _read_flow(root, row, config.size)
    vector = raised(row.aus)
    aus = np.clip(levels_[:, :, None] * vector.intensity, 0, 1).astype(np.float32)
    label = CLASSES_3.index(row.label) if row.label in CLASSES_3 else -1
    return PackedClip(frames, apex, alpha.astype(np.float32), aus, vector.mask, points, label, flow, valid)


def _check_size(row: Row, size: int, height: float) -> None:
    if row.height != row.width:
        raise ManifestError(f"clip {row.clip_id} is {row.width} x {row.height} pixels; training needs square crops")
    if height < size - 0.5:
        raise ManifestError(
            f"clip {row.clip_id} has {round(height)} px frames, fewer than size={size}; "
            f"prepare them again with --size {size} or train at a smaller size"
        )


def _face(root: Path, row: Row, size: int) -> PackedClip:
    """The onset in the canonical crop of its landmarks; a picture without landmarks is taken to be in it."""
    onset, side = _read_frames(root, row, np.zeros(1, np.int64)), float(row.height)
    members = read_span(root, row.flow, verify=True) if row.flow is not None else {}
    points = UNKNOWN
    if "landmarks.npy" in members and row.height == row.width:
        points = npy_array(members["landmarks.npy"])
        try:
            crop = SimilarityCrop.from_landmarks(points, size)
        except MesynthError as error:
            raise ManifestError(f"clip {row.clip_id}: {error}; prepare it again") from None
        # The faces of a generated corpus have a margin: what counts is the side of the face's crop within them.
        scale, side = size / row.width, size / crop.scale
        whole = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]])
        if (np.abs(crop.matrix - whole) @ [row.width, row.height, 1]).max() > _MISFRAMED:
            _check_size(row, size, side)
            onset, points = crop.frames(onset), crop.points(points)
        else:
            points = reduced_points(points, row.height, size)
    _check_size(row, size, side)
    cells = (len(AU_CODES), 2)
    return PackedClip(
        reduced(onset, size),
        apex=0,
        alpha=np.zeros(1, np.float32),
        aus=np.zeros((1, *cells), np.float32),
        known=np.zeros(cells, np.bool_),
        landmarks=points,
        label=-1,
        flow=None,
        valid=None,
    )


def kept_frames(n_frames: int, apex: int, keep: int) -> np.ndarray:
    """Ascending frame indices, at most ``keep``: 0, ``apex``, and others evenly over the clip.

    >>> kept_frames(60, 30, 6).tolist()
    [0, 12, 24, 30, 36, 48]
    """
    others = np.setdiff1d(np.arange(1, n_frames), [apex])
    n = min(keep - 2, len(others))
    # The places at i / (n + 1) of the others: the ends of a clip show the least.
    picked = others[((np.arange(1, n + 1) * len(others)) // (n + 1))] if n else others[:0]
    return np.unique(np.concatenate([[0, apex], picked]))


def reduced(frames: np.ndarray, size: int) -> np.ndarray:
    """[T,H,H,3] uint8 -> [T,size,size,3], by area."""
    if frames.shape[1] == size:
        return frames
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames])


UNKNOWN = np.full((68, 2), np.nan, np.float32)
"""Landmarks of a face of which there are none."""


def reduced_points(points: np.ndarray, side: int, size: int) -> np.ndarray:
    """Points [N,2] of a picture of ``side`` pixels in one of ``size``; pixel centres lie half a pixel inside."""
    return np.asarray((points + 0.5) * (size / side) - 0.5, np.float32)


def reduced_flow(uv: np.ndarray, valid: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flow [2,H,H] and valid [H,H] on a grid of ``size``: mean vectors in its pixels, valid where all of them are."""
    if uv.shape[1] == size:
        return uv, valid
    scale = size / uv.shape[1]
    small = cv2.resize(np.ascontiguousarray(uv.transpose(1, 2, 0)), (size, size), interpolation=cv2.INTER_AREA)
    share = cv2.resize(valid.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1) * np.float32(scale)), share > 1 - 1e-4


# ---------------------------------------------------------------- how far on the way to the apex


def levels(row: Row, places: np.ndarray, frames: np.ndarray, apex: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha [n] of the frames at ``places`` of a clip, and each AU's own [n,K]; NaN where it cannot be told.

    A synthetic clip whose stored profile has its apex where the clip has it: the profile's curve, with the AUs'
    lags where a generator without training drew them (they follow from its seed). Every other clip: the projection
    ``<F_t, F_apex> / <F_apex, F_apex>`` clipped to [0,1] of flow measured onset -> t (DIS) with its median vector
    taken out, one number for all AUs. Where the rest of F_t is large (MOST_LEFT) something else moves too, a head
    that turns or another expression, and the level is not told.
    """
    profile = _profile(row)
    if profile is not None:
        alpha = profile.alpha(row.n_frames)[places]
        if profile.lag == 0 or row.provenance.generator not in UNTRAINED:
            return alpha, np.repeat(alpha[:, None], len(AU_CODES), 1)
        lags = profile.draw_lags(len(AU_CODES), stream(row.provenance.seed, "lags"))
        return alpha, profile.alpha(row.n_frames, lags)[places]
    alpha = measured_levels(frames, apex)
    return alpha, np.repeat(alpha[:, None], len(AU_CODES), 1)


def _profile(row: Row) -> Profile | None:
    text = row.provenance.profile
    # A bare name says which family of curves the clip's own was drawn from, not which curve it is.
    if row.provenance.kind != "synthetic" or text in PROFILES or not text or row.n_frames < 3:
        return None
    try:
        profile = Profile.parse(text)
    except MesynthError:
        raise ManifestError(f"clip {row.clip_id} has the profile '{text}', which cannot be read") from None
    return profile if profile.apex_index(row.n_frames) == row.apex_index else None


def measured_levels(frames: np.ndarray, apex: int) -> np.ndarray:
    """alpha [n] of frames [n,S,S,3] (onset first) by the projection rule of :func:`levels`."""
    alpha = np.full(len(frames), np.nan)
    alpha[0], alpha[apex] = 0, 1
    if len(frames) > 2:
        flows = sequence_flows(frames, "dis")
        flows = flows - np.median(flows, axis=(2, 3), keepdims=True)
        target = flows[apex - 1]
        energy = float((target**2).sum())
        if np.sqrt(energy / target[0].size) >= LEAST_MOTION:
            share = np.clip((flows * target).sum((1, 2, 3)) / energy, 0, 1)
            rest = ((flows - share[:, None, None, None] * target) ** 2).sum((1, 2, 3))
            alpha[1:] = np.where(rest <= MOST_LEFT**2 * energy, share, np.nan)
            alpha[apex] = 1
    return alpha


# ---------------------------------------------------------------- shards


def _read_frames(root: Path, row: Row, places: np.ndarray) -> np.ndarray:
    """The frames at ``places``, the others undecoded."""
    assert row.frames is not None
    frames = member_frames(read_span(root, row.frames, verify=True), row.clip_id, places.tolist(), row.n_frames)
    if frames.shape[1:3] != (row.height, row.width):
        raise ManifestError(
            f"frames of {row.clip_id} are {frames.shape[1:3]}, its row says {(row.height, row.width)}; make it anew"
        )
    return frames


def _read_flow(root: Path, row: Row, size: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Flow onset -> apex and its validity at ``size``, None both where the clip stores none, and the landmarks."""
    members = read_span(root, row.flow, verify=True) if row.flow is not None else {}
    points = UNKNOWN
    if "landmarks.npy" in members:
        points = npy_array(members["landmarks.npy"])
        if points.shape != UNKNOWN.shape:
            raise ManifestError(f"landmarks of {row.clip_id} have shape {points.shape}; prepare the clips again")
        points = reduced_points(points, row.height, size)
    if "flow.npy" not in members:
        return None, None, points
    uv = npy_array(members["flow.npy"])
    if uv.shape != (2, row.height, row.width) or not np.isfinite(uv).all():
        raise ManifestError(
            f"flow of {row.clip_id} is no finite [2,{row.height},{row.width}] array; prepare the clips again"
        )
    everywhere = np.ones(uv.shape[1:], np.bool_)
    valid = npy_array(members["valid.npy"]) if "valid.npy" in members else everywhere
    if valid.shape != uv.shape[1:] or valid.dtype != np.bool_:
        raise ManifestError(f"valid of {row.clip_id} does not fit its flow; prepare the clips again")
    return *reduced_flow(np.asarray(uv, np.float32), valid, size), points


# ---------------------------------------------------------------- packs


META = "pack.json"
_FORMAT = 2
_SMALL = ("first", "apex", "flow_at", "alpha", "aus", "known", "landmarks", "label", "subject", "seen")
_TYPES: dict[str, str] = {
    "frames": "u1", "flow": "<f2", "valid": "u1", "first": "<i8", "apex": "<i4", "flow_at": "<i8", "alpha": "<f4",
    "aus": "<f4", "known": "u1", "landmarks": "<f4", "label": "i1", "subject": "<i4", "seen": "<i4",
}  # fmt: skip
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Pack:
    """N clips of F frames in all, read-only arrays that stay on disk."""

    folder: Path
    frames: np.ndarray
    """[F,S,S,3] uint8, clip after clip, each onset first"""
    first: np.ndarray
    """[N+1] int64: clip i has the frames first[i] .. first[i+1]-1"""
    apex: np.ndarray
    """[N] int32: place of the apex among the clip's frames, at least 1; 0 for a face alone"""
    alpha: np.ndarray
    """[F] float32: share of the apex expression (see levels)"""
    aus: np.ndarray
    """[F,K,2] float32 intensities, 0 where unknown"""
    known: np.ndarray
    """[N,K,2] uint8, 1 where known"""
    landmarks: np.ndarray
    """[N,68,2] float32 pixels of the onset; NaN where there are none"""
    flow_at: np.ndarray
    """[N] int64: row of ``flow`` and ``valid``, -1 for a clip without flow"""
    flow: np.ndarray
    """[M,2,S,S] float16 pixels, onset -> apex"""
    valid: np.ndarray
    """[M,ceil(S*S/8)] uint8, bits of [S,S]"""
    label: np.ndarray
    """[N] int8 class of the composite, -1 for none"""
    subject: np.ndarray
    """[N] int32 index into ``subjects``"""
    seen: np.ndarray
    """[N] int32 index into ``seen_sets``"""
    subjects: tuple[str, ...]
    seen_sets: tuple[tuple[str, ...], ...]
    """What clips have seen (Provenance.subjects_seen, the person shown included)."""
    licences: tuple[str, ...]
    size: int
    hash: str
    """Of the manifest and the way it was packed."""
    unusable: dict[str, int]
    """Reasons for which clips were left out, with how many."""

    def __len__(self) -> int:
        return len(self.apex)


def open_pack(folder: Path | str, cache: Path, config: PackConfig, progress: Progress | None = None) -> Pack:
    """The pack of the manifest in ``folder``, made in ``cache`` unless it is there and whole.

    Several processes may ask for one pack at once: one makes it, the others wait.

    Raises:
        ManifestError: no manifest, no clips, none that can be used, or a damaged shard.
        MesynthError: the disk is full.
    """
    manifest = Manifest.read(folder)
    if len(manifest) == 0:
        raise ManifestError(f"the manifest of {manifest.root} holds no clips; nothing to learn from")
    own = KnownFraming(framing=OWN)
    if (known := manifest.framing) is not None and known.differs(own):
        raise ManifestError(
            f"faces of {manifest.root} lie at {known.text()}, and generators learn in our crop ({own.text()}); prepare "
            "the clips without --frame"
        )
    digest = _digest(manifest, config)
    target = Path(cache) / f"pack-{digest[:20]}"
    with locked(Path(cache)):
        found = _read(target, digest)
        if found is None:
            _build(manifest, target, digest, config, progress)
            found = _read(target, digest)
            assert found is not None
    return found


def _digest(manifest: Manifest, config: PackConfig) -> str:
    # The stored hash is of the rows as written; a table changed in memory has lost its claim to it.
    rows = manifest.meta.get("mesynth.hash") or manifest.hash()
    return hashlib.sha256(json.dumps([_FORMAT, rows, config.record()]).encode()).hexdigest()


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Exclusive use of a cache folder; waits for another process, and survives its death."""
    with ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(cache / ".lock", wait=True))
        except OSError as error:
            raise MesynthError(f"cache {cache} cannot be written ({error.strerror}); choose another folder") from None
        yield


# ---------------------------------------------------------------- writing


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` once everything is in it; what fails before leaves none."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        for old in (temporary, target):
            shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MesynthError(f"the disk of {target.parent} is full; make room or choose another cache") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _build(manifest: Manifest, target: Path, digest: str, config: PackConfig, progress: Progress | None) -> None:
    with _whole(target) as folder:
        meta = _write_arrays(manifest, folder, config, progress)
        write_text(folder / META, json.dumps(meta | {"format": _FORMAT, "hash": digest, "size": config.size}))


class _Writer:
    """Appends to one plain file an array; ordinary writes, because a full disk kills a process that maps memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.rows, self._dtype = name, 0, np.dtype(_TYPES[name])
        self._file: IO[bytes] = open(folder / f"{name}.bin", "wb")  # noqa: SIM115 - closed by _write_arrays

    def add(self, rows: np.ndarray) -> None:
        """Append [n,...]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        self._file.close()


def _write_arrays(manifest: Manifest, folder: Path, config: PackConfig, progress: Progress | None) -> dict[str, Any]:
    writers = {name: _Writer(folder, name) for name in _TYPES}
    subjects: dict[str, int] = {}
    seen_sets: dict[tuple[str, ...], int] = {}
    licences: set[str] = set()
    unusable: dict[str, int] = {}
    try:
        writers["first"].add(np.zeros(1))
        for row in counted(manifest, len(manifest), progress):
            clip = pack_clip(manifest.root, row, config)
            if isinstance(clip, Unusable):
                unusable[clip.reason] = unusable.get(clip.reason, 0) + 1
            else:
                seen = tuple(sorted({row.subject_key, *row.provenance.subjects_seen}))
                _write_clip(writers, clip)
                writers["subject"].add(np.array([subjects.setdefault(row.subject_key, len(subjects))]))
                writers["seen"].add(np.array([seen_sets.setdefault(seen, len(seen_sets))]))
                licences.add(row.provenance.licence)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers["apex"].rows:
        reason = max(unusable, key=lambda key: unusable[key])
        raise ManifestError(f"none of {len(manifest)} clips in {manifest.root} can be learned from: {reason}")
    return {
        "rows": {name: writer.rows for name, writer in writers.items()},
        "sha256": {name: _sha256(folder / f"{name}.bin") for name in _SMALL},
        "subjects": list(subjects), "seen": [list(s) for s in seen_sets], "licences": sorted(licences),
        "unusable": unusable,
    }  # fmt: skip


def _write_clip(writers: dict[str, _Writer], clip: PackedClip) -> None:
    writers["frames"].add(clip.frames)
    writers["first"].add(np.array([writers["frames"].rows]))
    writers["apex"].add(np.array([clip.apex]))
    writers["alpha"].add(clip.alpha)
    writers["aus"].add(clip.aus)
    writers["known"].add(clip.known[None])
    writers["landmarks"].add(clip.landmarks[None])
    writers["label"].add(np.array([clip.label]))
    writers["flow_at"].add(np.array([-1 if clip.flow is None else writers["flow"].rows]))
    if clip.flow is not None:
        assert clip.valid is not None
        writers["flow"].add(clip.flow[None])
        writers["valid"].add(np.packbits(clip.valid.ravel())[None])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---------------------------------------------------------------- reading


def _read(folder: Path, digest: str) -> Pack | None:
    """The pack in ``folder``; None where there is none or it is not whole (sizes, hashes of the small arrays)."""
    try:
        meta = json.loads((folder / META).read_text())
        if meta["format"] != _FORMAT or meta["hash"] != digest:
            return None
        arrays = {name: _map(folder / f"{name}.bin", name, meta["rows"][name], meta["size"]) for name in _TYPES}
        if any(_sha256(folder / f"{name}.bin") != meta["sha256"][name] for name in _SMALL):
            return None
        return Pack(
            folder,
            **arrays,
            subjects=tuple(meta["subjects"]),
            seen_sets=tuple(tuple(s) for s in meta["seen"]),
            licences=tuple(meta["licences"]),
            size=meta["size"],
            hash=digest,
            unusable=meta["unusable"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the cache is ours: what cannot be read is made again


def _map(file: Path, name: str, rows: int, size: int) -> np.ndarray:
    from mesynth.core.types import N_AUS

    tails: dict[str, tuple[int, ...]] = {
        "frames": (size, size, 3), "flow": (2, size, size), "valid": (-(-size * size // 8),), "aus": (N_AUS, 2),
        "known": (N_AUS, 2), "landmarks": (68, 2),
    }  # fmt: skip
    shape, dtype = (rows, *tails.get(name, ())), np.dtype(_TYPES[name])
    if file.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError(f"{file} is cut short")
    if name in _SMALL:
        return np.fromfile(file, dtype).reshape(shape)
    return np.memmap(file, dtype, "r", shape=shape) if rows else np.zeros(shape, dtype)


# ---------------------------------------------------------------- frames in layers


Form = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(onset [S,S,3] uint8, landmarks [68,2] pixels, AUs [n,K,2]) -> what a generator forms of it, [n,S,S,3] uint8, and the
share of each pixel that may be painted, [S,S] in [0,1]."""
_FORMED = 1


@dataclass(frozen=True, eq=False)
class Formed:
    """Beside a pack: each of its frames as a generator forms it of the clip's onset; read-only, on disk."""

    frames: np.ndarray
    """[F,S,S,3] uint8; onsets as they are"""
    share: np.ndarray
    """[N,S,S] uint8 of 255: what may be painted"""
    hash: str
    """Of the pack and of who formed them."""


def open_formed(
    pack: Pack,
    cache: Path,
    identity: Mapping[str, Any],
    form: Form,
    progress: Progress | None = None,
    *,
    workers: int = 1,
) -> Formed:
    """The frames of ``pack`` as ``form`` makes them, in ``cache`` unless they are there and whole.

    ``identity``: plain values that say who forms them; others give other frames. ``workers``: processes that form, 0
    for one per core; any number gives the same bytes (``form`` is pickled for more than one).

    Raises:
        ManifestError: a clip without landmarks.
    """
    text = json.dumps([_FORMED, pack.hash, dict(identity), __version__], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    target = Path(cache) / f"formed-{digest[:20]}"
    with locked(Path(cache)):
        found = _read_formed(target, pack, digest)
        if found is None:
            _build_formed(target, pack, digest, form, progress, workers)
            found = _read_formed(target, pack, digest)
            assert found is not None
    return found


def _onsets(pack: Pack) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What is formed of each clip: its onset, landmarks and AUs of its other frames."""
    for i in range(len(pack)):
        if not np.isfinite(pack.landmarks[i]).all():
            raise ManifestError(
                f"clip {i} of {pack.subjects[pack.subject[i]]} has no landmarks, which frames in layers need; "
                "prepare the clips again"
            )
        first, end = int(pack.first[i]), int(pack.first[i + 1])
        yield np.array(pack.frames[first]), pack.landmarks[i], pack.aus[first + 1 : end]


def _formed_by(
    form: Form, jobs: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In the order of ``jobs``, of which few are held at once."""
    if workers == 1:
        yield from starmap(form, jobs)
        return
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, get_context("spawn")) as pool:
        while block := list(islice(jobs, 512)):
            yield from pool.map(form, *zip(*block, strict=True), chunksize=8)


def _build_formed(target: Path, pack: Pack, digest: str, form: Form, progress: Progress | None, workers: int) -> None:
    with _whole(target) as folder:
        with (folder / "frames.bin").open("wb") as frames, (folder / "share.bin").open("wb") as shares:
            everything = _formed_by(form, _onsets(pack), workers)
            for first, (made, share) in zip(pack.first, counted(everything, len(pack), progress), strict=False):
                frames.write(pack.frames[int(first)].tobytes() + made.tobytes())
                shares.write(np.asarray(255 * share + 0.5, np.uint8).tobytes())
        write_text(folder / META, json.dumps({"hash": digest}))


def _read_formed(folder: Path, pack: Pack, digest: str) -> Formed | None:
    try:
        if json.loads((folder / META).read_text())["hash"] != digest:
            return None
        picture = (pack.size, pack.size)
        arrays: dict[str, np.ndarray] = {}
        for name, shape in (("frames", (*pack.frames.shape[:1], *picture, 3)), ("share", (len(pack), *picture))):
            file = folder / f"{name}.bin"
            if file.stat().st_size != int(np.prod(shape)):
                return None
            arrays[name] = np.memmap(file, np.uint8, "r", shape=shape)
        return Formed(arrays["frames"], arrays["share"], digest)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the cache is ours: what cannot be read is made again


# ---------------------------------------------------------------- groups of subjects


def subject_groups(subjects: Sequence[str], groups: int, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Cut ``subjects`` (``database/subject``) into ``groups`` disjoint groups that cover them, each sorted.

    Every database is dealt out evenly: group sizes differ by at most one, in total and in each database. Depends on
    the set of subjects, not on their order. Generator g learns from all but group g.

    Raises:
        ConfigError: fewer than 2 groups, more groups than subjects, a subject without database or named twice.

    >>> [len(g) for g in subject_groups([f"casme2/{i:02d}" for i in range(7)] + ["samm/006"], 3)]
    [3, 3, 2]
    """
    if groups < 2:
        raise ConfigError(f"{groups} groups cannot be cross-fitted; choose at least 2")
    if len(set(subjects)) != len(subjects):
        twice = next(s for s in subjects if list(subjects).count(s) > 1)
        raise ConfigError(f"subject '{twice}' is named twice; name each once")
    for subject in subjects:
        if "/" not in subject:
            raise ConfigError(f"'{subject}' is no subject; write database/subject, for example casme2/01")
    if groups > len(subjects):
        raise ConfigError(f"{groups} groups are more than the {len(subjects)} subjects; choose fewer groups")
    databases = sorted({s.partition("/")[0] for s in subjects})
    dealt: list[str] = []
    for database in databases:
        people = sorted(s for s in subjects if s.partition("/")[0] == database)
        order = stream(seed, f"subject-groups/{database}").permutation(len(people))
        dealt += [people[i] for i in order]
    # One round of dealing over all databases: each database's people are neighbours, so they spread evenly too.
    return tuple(tuple(sorted(dealt[g::groups])) for g in range(groups))


# ---------------------------------------------------------------- who validates


def require_known(excluded: Collection[str], packs: Sequence[Pack]) -> None:
    """Raises ConfigError for an excluded subject that no clip shows or has seen."""
    known = {key for pack in packs for seen in pack.seen_sets for key in seen}
    unknown = sorted(set(excluded) - known)
    if unknown:
        near = ", ".join(sorted(known)[:3])
        raise ConfigError(
            f"excluded subject '{unknown[0]}' is not in the data; its subjects are written database/subject, as {near}"
        )


def allowed_clips(pack: Pack, excluded: frozenset[str]) -> np.ndarray:
    """[N] bool: the clip neither shows nor has seen an excluded subject (``seen`` holds the person shown)."""
    return np.array([excluded.isdisjoint(seen) for seen in pack.seen_sets])[pack.seen]


def clips_of(pack: Pack, subjects: Collection[str]) -> np.ndarray:
    """[N] bool: the clip shows one of ``subjects``."""
    return np.array([key in subjects for key in pack.subjects])[pack.subject]


def people_left(packs: Sequence[Pack], allowed: Sequence[np.ndarray]) -> set[str]:
    """``database/subject`` of everyone shown by an allowed clip."""
    return {p.subjects[s] for p, a in zip(packs, allowed, strict=True) for s in np.unique(p.subject[a])}


def validation_subjects(left: Collection[str], share: float, seed: int) -> frozenset[str]:
    """Of the subjects that are left, ``share`` of each database, at least one and never all in all.

    Raises:
        ConfigError: fewer than 2 subjects.
    """
    if len(left) < 2:
        raise ConfigError(f"{len(left)} subjects are left; at least 2 are needed, one to learn from, one to validate")
    picked: list[str] = []
    for database in sorted({key.partition("/")[0] for key in left}):
        people = sorted(key for key in left if key.partition("/")[0] == database)
        order = stream(seed, f"validation-subjects/{database}").permutation(len(people))
        picked += [people[i] for i in order[: round(share * len(people))]]
    if not picked:
        people = sorted(left)
        picked = [people[int(stream(seed, "validation-subjects").integers(len(people)))]]
    return frozenset(picked[: len(left) - 1])
