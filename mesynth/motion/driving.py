"""The motion of one clip on another face: measured as flow, carried over by the landmarks of both.

A driver's frames are compared with its onset; the head's own motion, fitted to what no expression moves, is taken off,
and what lids do is not carried: lids are layers (:mod:`mesynth.motion.layers`), which the driver's AUs move where they
are known. A thin-plate spline between the landmarks says which place of the driver's face a pixel of the
other one is; displacements turn with the heads and scale with the distances of the eyes. Frames are then formed as any
generator's, so that the reported flow is what they are made of, and intensity 0 gives the face back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Sample
from mesynth.motion.fields import face_gate
from mesynth.motion.layers import Step
from mesynth.motion.prior import Face, eye_frame, face_map, formed_clip
from mesynth.preprocess.flow import estimate_flows
from mesynth.preprocess.regions import hide_eyes_mask, rigid_mask
from mesynth.preprocess.warping import Model, remove_global_motion

MOST = 3.0
"""Largest factor of the driver's motion."""
LIDS = (5, 6, 7, 9, 12, 43, 45)
"""AUs of the driver that layers are told of: those that move lids, which the carried flow leaves out."""
_SMOOTH = 0.03
"""Standard deviation of the Gaussian that an estimated field is smoothed with, inter-ocular distances."""
_ACROSS = 0.15
"""The same across the eyes, which are filled in from around them."""
_PAIRS = 16


@dataclass(frozen=True, eq=False)
class Driver:
    """What a clip's face does: ``fields`` [T,H,W,2] float32 pixels, onset -> frame on the onset's grid, without the
    head's motion; ``share`` [T] float32: how much of the apex' motion each frame shows; landmarks [68,2] of the onset;
    the AUs of the apex."""

    fields: np.ndarray
    share: np.ndarray
    landmarks: np.ndarray
    apex: int
    fps: float
    aus: AUVector

    def __post_init__(self) -> None:
        if self.fields.ndim != 4 or self.fields.shape[-1] != 2 or len(self.fields) < 3:
            raise MesynthError(f"a driver has fields [T,H,W,2] of at least 3 frames, got {self.fields.shape}")
        if not 0 < self.apex < len(self.fields):
            raise MesynthError(f"the driver's apex, frame {self.apex}, is not after its onset and in its clip")


def measured(
    frames: np.ndarray,
    landmarks: np.ndarray,
    apex: int,
    fps: float,
    aus: AUVector | None = None,
    flow: str = "dis",
) -> Driver:
    """The motion in ``frames`` [T,H,W,3] uint8 RGB under one transform, from the first; see :class:`Driver`.

    Raises:
        MesynthError: fewer than 3 frames, an apex that is not among them, landmarks that show no face, an unknown
            flow method.
    """
    if len(frames) < 3 or not 0 < apex < len(frames):
        raise MesynthError(f"a driver needs 3 frames and an apex after the first, got {len(frames)} and apex {apex}")
    fields = np.zeros((len(frames), *frames.shape[1:3], 2), np.float32)
    for start in range(1, len(frames), _PAIRS):
        part = frames[start : start + _PAIRS]
        for i, found in enumerate(estimate_flows(np.repeat(frames[:1], len(part), 0), part, flow), start):
            fields[i] = skin_motion(np.asarray(found.uv), landmarks)
    return _driver(fields, landmarks, apex, fps, aus)


def of_flow(
    uv: np.ndarray, landmarks: np.ndarray, curve: np.ndarray, apex: int, fps: float, aus: AUVector | None = None
) -> Driver:
    """A driver of which only the flow [2,H,W] onset -> apex is known; ``curve`` [T]: the share of it in each frame."""
    field = skin_motion(uv, landmarks)
    return _driver(np.asarray(curve, np.float32)[:, None, None, None] * field, landmarks, apex, fps, aus)


def _driver(fields: np.ndarray, landmarks: np.ndarray, apex: int, fps: float, aus: AUVector | None) -> Driver:
    whole = float((fields[apex] ** 2).sum())
    share = np.einsum("thwc,hwc->t", fields, fields[apex]) / max(whole, 1e-12)
    known = aus if aus is not None else AUVector(np.zeros((len(facs.AU_CODES), 2), np.float32))
    return Driver(fields, np.clip(share, 0, 1).astype(np.float32), np.asarray(landmarks, float), apex, fps, known)


def skin_motion(uv: np.ndarray, landmarks: np.ndarray, model: Model = "similarity") -> np.ndarray:
    """Flow [2,H,W] pixels -> [H,W,2] float32: without the head's motion, smoothed, lids filled in from around.

    The head's motion is what the parts show that no expression moves much (nose, corners of the eyes); ``model``: see
    :func:`mesynth.preprocess.warping.remove_global_motion`.

    >>> from mesynth.head.model import HeadModel
    >>> model = HeadModel.load()
    >>> points = model.uv[model.landmarks] * 40 + [64, 50]
    >>> bool(np.abs(skin_motion(np.full((2, 128, 128), 1.5, np.float32), points)).max() < 1e-5)
    True
    """
    import torch

    points = np.asarray(landmarks, np.float32)
    side, (height, width) = max(uv.shape[1:]), uv.shape[1:]
    rigid = torch.from_numpy(rigid_mask(points, side)[:height, :width].astype(np.float32))
    local, _ = remove_global_motion(torch.from_numpy(np.ascontiguousarray(uv, np.float32))[None], rigid, model)
    rest = np.ascontiguousarray(local[0].numpy().transpose(1, 2, 0))
    iod = eye_frame(points.astype(np.float64))[2]
    skin = hide_eyes_mask(points, side)[:height, :width].astype(np.float32)[..., None]
    filled = _blur(rest * skin, _ACROSS * iod) / np.maximum(_blur(skin, _ACROSS * iod), 1e-3)
    return _blur(np.where(skin > 0, rest, filled), _SMOOTH * iod)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    out = cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(out.reshape(image.shape), np.float32)


class Carrier:
    """Carries fields of a driver over to ``face``; the spline is found once."""

    def __init__(self, driver: Driver, face: Face) -> None:
        height, width = face.image.shape[:2]
        centre, turn, iod = eye_frame(np.asarray(driver.landmarks, np.float64))
        own = (driver.landmarks - centre) @ turn / iod  # in the driver's own eye frame
        place = face_map(face.landmarks, height, width, own).uv @ turn.T * iod + centre
        self._x, self._y = (np.ascontiguousarray(place[..., i], np.float32) for i in (0, 1))
        self._turn = (turn @ face.place.rotation.T.astype(np.float64) * (face.place.iod / iod)).astype(np.float32)
        self._gate = face_gate(face.place.uv)[..., None]

    def carry(self, field: np.ndarray) -> np.ndarray:
        """[h,w,2] pixels on the driver's onset -> [H,W,2] float32 pixels on the face's picture."""
        read = cv2.remap(field, self._x, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray((read @ self._turn) * self._gate, np.float32)


def shown_aus(driver: Driver, intensity: float) -> AUVector:
    """The AUs that the driven clip shows at its apex: the driver's, scaled; unknown ones stay unknown."""
    return AUVector(np.clip(driver.aus.intensity * intensity, -1, 1).astype(np.float32), driver.aus.known)


def drive(
    face: Face, driver: Driver, intensity: float = 1.0, noise: float = 0.0, seed: int = 0
) -> tuple[Sample, tuple[str, ...]]:
    """``face`` with the driver's motion, ``intensity`` times as strong: clip, exact flow onset -> apex, and warnings.

    Frames, rate and apex are the driver's; the first frame is the face. ``noise``: of later frames, grey levels.

    Raises:
        MesynthError: an intensity outside 0..3, negative noise.
    """
    if not 0 <= intensity <= MOST:
        raise MesynthError(f"intensity={intensity:g} is outside 0..{MOST:g} times the driver's motion")
    if not 0 <= noise < float("inf"):
        raise MesynthError(f"noise={noise:g} grey levels must be finite and not negative")
    told = np.zeros_like(driver.aus.intensity)
    rows = [facs.AU_INDEX[code] for code in LIDS]
    told[rows] = np.maximum(shown_aus(driver, intensity).intensity[rows], 0)
    steps = _Driven(Carrier(driver, face), driver, intensity, told)
    clip, flow, warnings = formed_clip(face, steps, len(driver.fields), driver.fps, driver.apex, noise, seed)
    return Sample(clip, flow, shown_aus(driver, intensity)), warnings


@dataclass(frozen=True, eq=False)
class _Driven:
    """The driver's motion on a face, frame by frame."""

    carrier: Carrier
    driver: Driver
    intensity: float
    told: np.ndarray
    """[K,2]: AUs of the lids at the apex"""

    def step(self, t: int) -> Step:
        skin = np.float32(self.intensity if t else 0) * self.carrier.carry(self.driver.fields[t])
        return Step(skin, (self.told * self.driver.share[t] if t else 0 * self.told).astype(np.float32))

    def __iter__(self) -> Iterator[Step]:
        return (self.step(t) for t in range(len(self.driver.fields)))
