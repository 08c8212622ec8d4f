"""From one face's motion to a clip: temporal profile, nuisances, frames made from the very flow that is reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mesynth import facs, seeds
from mesynth.generators.formation import FaceMotion
from mesynth.motion.nuisance import Nuisance, add_noise, blink_curve, draw_style, head_basis, head_path
from mesynth.motion.prior import WARP_LIMIT
from mesynth.motion.warp import backward_flow, folding, stays_inside, warp_backward
from mesynth.stopwatch import part
from mesynth.types import AUVector, Clip, Flow, Sample

if TYPE_CHECKING:
    from mesynth.motion.face_map import FaceMap
    from mesynth.motion.prior import Face
    from mesynth.temporal import Profile


@part("warp")
def motion_clip(
    face: Face,
    motion: FaceMotion,
    aus: AUVector,
    profile: Profile,
    *,
    n_frames: int,
    fps: float,
    nuisance: Nuisance,
    seed: int,
) -> tuple[Sample, tuple[str, ...]]:
    """The clip with its onset -> apex flow, and warnings. Random streams are the motion prior's, by name."""
    height, width = face.image.shape[:2]
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    apex = profile.apex_index(n_frames)
    noise = seeds.stream(seed, "noise")
    apex_flow = np.zeros((height, width, 2), np.float32)
    for t, (flow, share) in enumerate(_flows(face, motion, aus, profile, n_frames, fps, nuisance, seed)):
        if t == apex:
            apex_flow = flow
        frame = warp_backward(face.image, backward_flow(flow)) + np.float32(255 * share) * motion.change
        # The onset keeps the photo's own noise: it is the frame the person took.
        frame = frame if t == 0 else add_noise(frame, nuisance.noise, noise)
        frames[t] = np.clip(frame + 0.5, 0, 255)
    determinant = folding(apex_flow)
    warnings = (f"flow folds at the apex (det {determinant:.2f})",) if determinant <= 0 else ()
    uv = np.ascontiguousarray(apex_flow.transpose(2, 0, 1))
    return Sample(Clip(frames, fps, apex), Flow(uv, stays_inside(uv)), aus), warnings


def _flows(
    face: Face,
    motion: FaceMotion,
    aus: AUVector,
    profile: Profile,
    n_frames: int,
    fps: float,
    nuisance: Nuisance,
    seed: int,
) -> Iterator[tuple[np.ndarray, float]]:
    """Forward flow onset -> frame t, [H,W,2] float32 pixels, and the share of the change of light."""
    lags = profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
    alpha = profile.alpha(n_frames, lags)
    asked = np.array([aus.intensity[cell] for cell in motion.cells], np.float32)
    rows = [k for k, _ in motion.cells]
    blink = np.minimum(blink_curve(n_frames, fps, nuisance.blink, seeds.stream(seed, "blink")), WARP_LIMIT[45])
    path = head_path(n_frames, nuisance.head, seeds.stream(seed, "head"))
    place = _place(face) if nuisance.head or nuisance.style else None
    fields, bend = motion.fields, motion.bend
    if nuisance.style and place is not None:
        fields, bend = _styled([*fields, bend], place, nuisance.style, seed)
    head = (head_basis(place.uv) @ place.rotation.T * np.float32(place.iod)) if nuisance.head and place else None
    for t in range(n_frames):
        weights = alpha[t, rows] * asked
        # What is not linear follows the AUs on average.
        share = float(weights.sum() / asked.sum()) if len(asked) else 0.0
        flow = np.einsum("a,ahwc->hwc", weights, fields) + np.float32(share) * bend + blink[t] * motion.blink
        if head is not None:
            flow = flow + np.einsum("a,ahwc->hwc", path[t], head)
        yield np.ascontiguousarray(flow, np.float32), share


def _place(face: Face) -> FaceMap:
    from mesynth.head.model import HeadModel
    from mesynth.motion.face_map import face_map

    model = HeadModel.load()
    height, width = face.image.shape[:2]
    return face_map(face.landmarks, height, width, model.uv[model.landmarks].astype(np.float64))


def _styled(fields: list[np.ndarray], place: FaceMap, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fields [H,W,2] with one clip's own places and directions of pull; the last is returned on its own."""
    import cv2

    style = draw_style(place.uv, strength, seeds.stream(seed, "style"))
    shift = style.shift @ place.rotation.T * np.float32(place.iod)
    height, width = style.turn.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    cos, sin = np.cos(style.turn), np.sin(style.turn)
    out = []
    for field in fields:
        read = cv2.remap(field, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out.append(np.stack([cos * read[..., 0] - sin * read[..., 1], sin * read[..., 0] + cos * read[..., 1]], -1))
    stacked = np.stack(out).astype(np.float32)
    return stacked[:-1], stacked[-1]
