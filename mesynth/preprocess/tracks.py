"""Landmarks over time: followed or detected through a clip, freed from head motion, as displacements.

Points are float [B,T,68,2] tensors in iBUG order, pixels (x right, y down), (0, 0) the centre of the first pixel; the
device and type of the input are kept.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import MesynthError, NoFaceError
from mesynth.preprocess.align import LEFT_EYE, RIGHT_EYE
from mesynth.preprocess.landmarks import Landmarker

RIGID = (27, 28, 29, 30, 36, 39, 42, 45)
"""Points that move with the skull: bridge of the nose, corners of the eyes."""


def follow(points: torch.Tensor, flows: torch.Tensor) -> torch.Tensor:
    """Carry the onset's landmarks through a clip: points [B,68,2], flows [B,T-1,2,H,W] -> [B,T,68,2].

    ``flows`` go from the onset to each later frame, on the onset's grid, in pixels; they are sampled bilinearly at
    the points, so the result is as exact as they are. Points outside the picture take the flow of its border.

    Raises:
        MesynthError: shapes that do not fit.
    """
    if points.ndim != 3 or points.shape[1:] != (68, 2) or not points.is_floating_point():
        raise MesynthError(f"points are {points.dtype} {tuple(points.shape)}; expected float [B,68,2]")
    if flows.ndim != 5 or flows.shape[2] != 2 or len(flows) != len(points):
        raise MesynthError(f"flows have shape {tuple(flows.shape)}; expected [{len(points)},T-1,2,H,W]")
    height, width = flows.shape[-2:]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)], dtype=flows.dtype, device=flows.device)
    where = points.to(flows.dtype) * scale - 1  # [B,68,2]
    sampled = F.grid_sample(
        flows.flatten(1, 2), where[:, None], mode="bilinear", padding_mode="border", align_corners=True
    )  # [B,2(T-1),1,68]
    moved = sampled[:, :, 0].unflatten(1, (-1, 2)).transpose(2, 3)  # [B,T-1,68,2]
    return torch.cat([points[:, None], points[:, None] + moved.to(points.dtype)], 1)


def detect(frames: np.ndarray, landmarker: Landmarker) -> np.ndarray:
    """Landmarks of every frame by itself: [T,H,W,3] uint8 RGB -> [T,68,2] float32. Detectors jitter; see smooth().

    Raises:
        MesynthError: frames that are no uint8 RGB video.
        NoFaceError: a frame shows no face; the message names it.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
    found = []
    for t, frame in enumerate(frames):
        try:
            found.append(landmarker.detect(frame))
        except NoFaceError as error:
            raise NoFaceError(f"frame {t} of {len(frames)}: {error}") from error
    return np.stack(found).astype(np.float32)


def smooth(points: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian over time with ``sigma`` frames, [B,T,N,2] -> same; the ends are replicated, 0 changes nothing.

    Raises:
        MesynthError: unfit points or a negative sigma.
    """
    _require(points)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise MesynthError(f"smoothing by sigma={sigma:g} frames is impossible; choose 0 or more")
    if sigma == 0:
        return points
    radius = max(1, math.ceil(3 * sigma))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    last = points.shape[1] - 1
    out = torch.zeros_like(points)
    for i, weight in zip(range(-radius, radius + 1), weights, strict=True):
        shifted = [min(max(t + i, 0), last) for t in range(last + 1)]
        out.add_(points[:, shifted], alpha=weight / sum(weights))
    return out


def without_head_motion(points: torch.Tensor, rigid: tuple[int, ...] = RIGID) -> torch.Tensor:
    """Every frame brought onto the first by the similarity that fits its ``rigid`` points best, [B,T,68,2] -> same.

    Least squares in closed form (Procrustes analysis with rotation, scale and shift; Umeyama, PAMI 1991). A turn of
    the head out of the picture plane is a similarity only nearly: what is left of it stays in the points.

    Raises:
        MesynthError: unfit points, fewer than two rigid ones, or rigid points that lie on one spot.
    """
    _require(points)
    if len(rigid) < 2:
        raise MesynthError(f"{len(rigid)} rigid points fix no similarity; give at least 2")
    frame, onset = points[:, :, list(rigid)], points[:, :1, list(rigid)]
    centre, home = frame.mean(2, keepdim=True), onset.mean(2, keepdim=True)
    p, q = frame - centre, onset - home
    size = p.square().sum((2, 3), keepdim=True)
    if not bool((size > 0).all()):
        raise MesynthError("the rigid landmarks of a frame lie on one spot; the landmarks do not show a face")
    # As complex numbers: z -> a z with a = <p, q> / <p, p>.
    real = (p * q).sum((2, 3), keepdim=True) / size
    imaginary = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(2)[..., None, None] / size
    x, y = (points - centre).split(1, -1)
    turned = torch.cat([real * x - imaginary * y, imaginary * x + real * y], -1)
    return turned + home


def in_face_frame(points: torch.Tensor) -> torch.Tensor:
    """Pixels -> canonical face frame of the onset (origin between the eyes, u right, v down, unit one IOD).

    [B,T,68,2] -> same; one transform per clip, from the first frame.

    Raises:
        MesynthError: unfit points, or eyes on one point.
    """
    _require(points)
    right, left = points[:, 0, RIGHT_EYE].mean(1), points[:, 0, LEFT_EYE].mean(1)
    across = (left - right)[:, None, None]
    square = across.square().sum(-1, keepdim=True)
    if not bool((square > 0).all()):
        raise MesynthError("the eyes of an onset lie on one point; the landmarks do not show a face")
    d = points - ((right + left) / 2)[:, None, None]
    u = (d * across).sum(-1, keepdim=True)
    v = d[..., 1:] * across[..., :1] - d[..., :1] * across[..., 1:]
    return torch.cat([u, v], -1) / square


def displacements(points: torch.Tensor, sigma: float = 0.0, rigid: tuple[int, ...] = RIGID) -> torch.Tensor:
    """How far each landmark has moved since the onset, without the head: [B,T,68,2] pixels -> same, IOD units.

    Smoothed over time by ``sigma`` frames, brought onto the onset by its rigid points, in the canonical face frame,
    minus the onset. The first frame is 0.

    Raises:
        MesynthError: as :func:`smooth`, :func:`without_head_motion` and :func:`in_face_frame`.
    """
    face = in_face_frame(without_head_motion(smooth(points, sigma), rigid))
    return face - face[:, :1]


def _require(points: torch.Tensor) -> None:
    if points.ndim != 4 or points.shape[2:] != (68, 2) or not points.is_floating_point() or not points.shape[1]:
        raise MesynthError(f"points are {points.dtype} {tuple(points.shape)}; expected float [B,T,68,2]")
