"""Clips from generators that paint pictures: AU intensity follows the profile, the change is put onto the face.

A network knows only its own crop and size. What it changes is computed there and carried back to the face's picture
by the crop's transform: every pixel keeps the photo's own detail, and no change gives the photo back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from mesynth import facs, seeds
from mesynth.errors import MesynthError
from mesynth.motion.nuisance import Nuisance, add_noise, blink_curve
from mesynth.motion.prior import Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import estimate_flow
from mesynth.stopwatch import part
from mesynth.temporal import Profile
from mesynth.types import AUVector, Clip, Sample

FLOW_METHOD = "tvl1"
_BLOCK = 16  # frames painted at once: memory does not grow with the clip

Paint = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(onset [1,3,S,S] in [0,1], AU intensities [T,K,2], share of the apex [T]) -> change of the picture [T,3,S,S]."""


def intensities(
    aus: AUVector, profile: Profile, n_frames: int, fps: float, blink: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUs of every frame [T,K,2] float32, onset -> apex -> offset, and the profile without lags [T].

    A partial blink, where one is drawn, is AU 45; the onset has none.
    """
    lags = profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
    out = profile.alpha(n_frames, lags)[:, :, None] * aus.intensity
    closure = blink_curve(n_frames, fps, blink, seeds.stream(seed, "blink"))
    row = facs.AU_INDEX[45]
    out[:, row] = np.maximum(out[:, row], closure[:, None])
    return np.clip(out, 0, 1).astype(np.float32), profile.alpha(n_frames)


@part("warp")
def painted_clip(
    family: str,
    size: int,
    paint: Paint,
    face: Face,
    aus: AUVector,
    profile: Profile,
    *,
    n_frames: int,
    fps: float,
    nuisance: Nuisance,
    seed: int,
    device: torch.device,
    base: np.ndarray | None = None,
) -> tuple[Sample, tuple[str, ...]]:
    """The clip at ``face.image``'s size. Flow is estimated from its frames (TV-L1), and a warning says so.

    The face is cut out by its landmarks as preprocessing does (mesynth.preprocess.align), at ``size`` pixels. Changes
    are put onto ``face.image``, or onto the frames ``base`` [T,H,W,3] uint8 of a clip of the same request.

    Raises:
        MesynthError: AUs that exclude each other, or head motion and style, which a picture generator cannot draw.
    """
    facs.reject_conflicts(aus)
    for name, value in (("head-motion", nuisance.head), ("style", nuisance.style)):
        if value:
            raise MesynthError(f"{family} paints pictures and cannot draw {name}={value:g}; set {name} to 0")
    crop = SimilarityCrop.from_landmarks(face.landmarks, size)
    onset = torch.from_numpy(crop.frames(face.image[None])).permute(0, 3, 1, 2).to(device).float() / 255
    asked, alpha = intensities(aus, profile, n_frames, fps, nuisance.blink, seed)
    noise = seeds.stream(seed, "noise")
    frames = np.empty((n_frames, *face.image.shape), np.uint8)
    frames[0] = face.image
    for start in range(1, n_frames, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n_frames))
        with torch.inference_mode(), part("model"):
            now = (torch.from_numpy(x[rows]).to(device) for x in (asked, alpha))
            change = paint(onset, *now).float().permute(0, 2, 3, 1).cpu().numpy()
        for t, moved in enumerate(carried_back(change, crop, face.image.shape[:2]), start):
            under = face.image if base is None else base[t]
            frame = add_noise(under + 255 * moved, nuisance.noise, noise)
            frames[t] = np.clip(frame + 0.5, 0, 255)
    apex = profile.apex_index(n_frames)
    flow = estimate_flow(frames[0], frames[apex], FLOW_METHOD)
    return Sample(Clip(frames, fps, apex), flow, aus), (f"flow estimated by {FLOW_METHOD}",)


def carried_back(change: np.ndarray, crop: SimilarityCrop, shape: tuple[int, ...]) -> np.ndarray:
    """Changes in the crop [T,S,S,3] float32 -> in the face's picture [T,H,W,3]; 0 outside the crop."""
    out = np.zeros((len(change), *shape, 3), np.float32)
    inverse = cv2.invertAffineTransform(crop.matrix)
    for source, target in zip(change, out, strict=True):
        target[:] = cv2.warpAffine(
            np.ascontiguousarray(source), inverse, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
    return out
