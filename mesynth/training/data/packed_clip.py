"""One clip of a manifest as training sees it: a few frames, how far each is on the way to the apex, flow at the apex.

Flow belongs to the apex alone. A share of it is never passed off as the flow of another frame: heads move and AUs
lag, so that F_t = alpha(t) F_apex holds for no recording.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.core.profiles import PROFILES, Profile
from mesynth.core.seeds import stream
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import sequence_flows
from mesynth.store.generator_folder import UNTRAINED
from mesynth.store.manifest import Row
from mesynth.store.shards import npy_array, read_span
from mesynth.store.videos import image_array

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
    vector = row.aus
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
    members = read_span(root, row.frames, verify=True)
    names = sorted(name for name in members if name.endswith(".png"))
    if len(names) != row.n_frames:
        raise ManifestError(f"clip {row.clip_id} holds {len(names)} frames, its row says {row.n_frames}; make it anew")
    frames = np.stack([image_array(members[names[t]], f"{row.clip_id}/{names[t]}") for t in places])
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
