"""Inputs of recognizers beside flow: a clip in one picture, tracks, parts of the face.

Videos are float [B,T,C,H,W]; every function returns [B,C,H,W] in the units of the input, on its device. Use
:func:`to_picture` to look at one.

| name | array | what |
|---|---|---|
| difference | int16 [H,W,3] | apex minus onset |
| dynamic | float16 [H,W,3] | dynamic image of the frames from onset to apex, in grey levels of [0,1] |
| active | float16 [H,W,3] | active image of the whole clip, in grey levels of [0,1] |
| flows | float16 [T-1,2,H,W] | flow from the onset to every later frame, pixels |
| landmarks | float32 [T,68,2] | the onset's landmarks carried along by those flows, pixels |
| eyes | uint8 [2,T,S,S,3] | the subject's left and right eye with its brow, S half the crop |
| mouth | uint8 [T,S,S,3] | the mouth |
| patches | uint8 [51,T,16,16,3] | squares about the landmarks 17..67 at the onset |

Landmarks over time are followed by flow or detected in every frame, freed from head motion, and read as displacements
(:func:`follow`, :func:`detect`, :func:`without_head_motion`, :func:`displacements`). Points are float [B,T,68,2]
tensors in iBUG order, pixels (x right, y down), (0, 0) the centre of the first pixel.

Strain, magnitude and orientation are functions of the flow (:mod:`mesynth.preprocess.warping`), regions and masks
functions of the landmarks (:mod:`mesynth.preprocess.regions`): they are computed where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import MesynthError, NoFaceError
from mesynth.preprocess.align import LEFT_EYE, RIGHT_EYE
from mesynth.preprocess.config import INPUTS, PrepareConfig
from mesynth.preprocess.flow import sequence_flows
from mesynth.preprocess.landmarks import Landmarker
from mesynth.preprocess.regions import eye_crop, landmark_patches, mouth_crop
from mesynth.preprocess.warping import require_video, to_video

_COEFFICIENTS = ("frames", "averages")


def rank_pooling_coefficients(n_frames: int, kind: str = "frames") -> np.ndarray:
    """Coefficients alpha [T] float64 of approximate rank pooling (Bilen et al., CVPR 2016), t = 1..T.

    "frames": ``alpha_t = 2 t - T - 1``, which is approximate rank pooling (one gradient step from zero) of the frames
    themselves; "averages": ``alpha_t = 2 (T - t + 1) - (T + 1) (H_T - H_{t-1})`` with the harmonic numbers H, the same
    step taken for the running averages of the frames, as in the paper's definition of a dynamic image. Both sum to 0,
    so that a still clip has an empty dynamic image.

    Raises:
        MesynthError: fewer than two frames, or an unknown kind.
    """
    if n_frames < 2:
        raise MesynthError(f"a dynamic image needs at least 2 frames, got {n_frames}")
    if kind not in _COEFFICIENTS:
        raise MesynthError(f"rank pooling coefficients '{kind}' are unknown; choose from {', '.join(_COEFFICIENTS)}")
    t = np.arange(1, n_frames + 1, dtype=np.float64)
    if kind == "frames":
        return np.asarray(2 * t - n_frames - 1)
    tail = np.cumsum((1 / t)[::-1])[::-1]  # H_T - H_{t-1}
    return np.asarray(2 * (n_frames - t + 1) - (n_frames + 1) * tail)


def dynamic_image(video: torch.Tensor, kind: str = "frames") -> torch.Tensor:
    """Dynamic image by approximate rank pooling, signed; see :func:`rank_pooling_coefficients` for ``kind``.

    The coefficients are divided by the sum of their absolute values over 2: the result is a weighted mean of later
    minus a weighted mean of earlier frames and does not grow with the number of frames. A clip from onset to offset
    returns to where it began and cancels out; use frames from onset to apex.

    Raises:
        MesynthError: unfit video, fewer than two frames, or an unknown kind.
    """
    require_video(video)
    alpha = rank_pooling_coefficients(video.shape[1], kind)
    return _weighted(video, alpha / (np.abs(alpha).sum() / 2))


def active_image(video: torch.Tensor, gain: float = math.pi) -> torch.Tensor:
    """What changed at any time, on top of the face: mean frame plus ``gain`` times the mean absolute deviation from it.

    After the idea of active imaging (Verma, Vipparthi and Singh, "Non-linearities improve OrigiNet based on active
    imaging", IJCNN 2020: active changes gathered in one frame while the appearance is kept). The formula is ours, not
    theirs: ``m + gain mean_t |x_t - m|``, ``m = mean_t x_t``. A pixel that rises and falls once as a raised cosine
    has a deviation of 1/pi of its change at the apex, which the default gain makes 1. A sum of differences between
    neighbouring frames would gather sensor noise with every frame. Values may exceed the range of the input.

    Raises:
        MesynthError: unfit video, fewer than two frames, or a negative gain.
    """
    require_video(video)
    if video.shape[1] < 2:
        raise MesynthError(f"an active image needs at least 2 frames, got {video.shape[1]}")
    if not gain >= 0:
        raise MesynthError(f"gain={gain:g} of an active image must not be negative")
    mean = mean_image(video)
    total = mean.clone()
    for t in range(video.shape[1]):
        total.add_((video[:, t] - mean).abs_(), alpha=gain / video.shape[1])
    return total


def difference_image(video: torch.Tensor, apex: int, onset: int = 0) -> torch.Tensor:
    """Apex minus onset, signed. Raises MesynthError on an unfit video or an index outside it."""
    require_video(video)
    for name, index in (("apex", apex), ("onset", onset)):
        if not 0 <= index < video.shape[1]:
            raise MesynthError(f"{name} {index} is outside the clip's frames 0..{video.shape[1] - 1}")
    return video[:, apex] - video[:, onset]


def mean_image(video: torch.Tensor) -> torch.Tensor:
    """Mean over the frames. Raises MesynthError on an unfit video."""
    require_video(video)
    if video.shape[1] < 1:
        raise MesynthError("a mean image needs at least 1 frame, got 0")
    return _weighted(video, np.full(video.shape[1], 1 / video.shape[1]))


def to_picture(image: torch.Tensor, half_range: float | None = 0.25, centre: float = 0.0) -> torch.Tensor:
    """An image [B,C,H,W] float -> uint8 [B,C,H,W] to look at or to store.

    With a number, ``centre`` becomes grey 127.5 and ``centre +- half_range`` become 0 and 255: one scale for all
    pictures, so that they compare; values beyond are cut off. With ``half_range=None`` each picture is stretched from
    its own minimum (0) to its own maximum (255), all channels alike, and a constant one becomes 128: the usual choice
    of published pipelines, which loses how strong the motion was. For means and active images of values in [0,1] use
    ``centre=0.5, half_range=0.5``.

    Raises:
        MesynthError: not a float [B,C,H,W], or a half range that is not positive.
    """
    if image.ndim != 4 or not image.is_floating_point():
        raise MesynthError(f"image is {image.dtype} {tuple(image.shape)}; expected float of shape [B,C,H,W]")
    if half_range is None:
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        share = torch.where(high > low, (image - low) / (high - low).clamp_min(torch.finfo(image.dtype).tiny), 0.5)
    else:
        if not half_range > 0:
            raise MesynthError(f"half_range={half_range:g} must be positive; None stretches each picture by itself")
        share = (image - centre) / (2 * half_range) + 0.5
    return share.clamp(0, 1).mul(255).round().to(torch.uint8)


def _weighted(video: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    """Sum over frames, one at a time: the same bits in any batch, and no second video in memory."""
    total = torch.zeros_like(video[:, 0])
    for t, weight in enumerate(weights):
        total.add_(video[:, t], alpha=float(weight))
    return total


# ---------------------------------------------------------------- inputs


_PATCH = 16


@dataclass(eq=False)
class _Clip:
    """What the inputs are made from; what two of them need is computed once."""

    frames: np.ndarray
    landmarks: np.ndarray
    apex: int
    method: str
    device: str

    @property
    def part(self) -> int:
        """Side of an eye or mouth crop."""
        return self.frames.shape[1] // 2

    @cached_property
    def video(self) -> torch.Tensor:
        return to_video(self.frames, self.device)[None]

    @cached_property
    def flows(self) -> np.ndarray:
        return sequence_flows(self.frames, self.method, self.device)

    def difference(self) -> np.ndarray:
        return self.frames[self.apex].astype(np.int16) - self.frames[0]

    def dynamic(self) -> np.ndarray:
        return _picture(dynamic_image(self.video[:, : max(self.apex, 1) + 1]))

    def tracks(self) -> np.ndarray:
        points, flows = torch.from_numpy(self.landmarks)[None], torch.from_numpy(self.flows)[None]
        return np.asarray(follow(points, flows)[0].numpy())

    def active(self) -> np.ndarray:
        return _picture(active_image(self.video))


def _picture(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image[0].permute(1, 2, 0).cpu().numpy().astype(np.float16))


_MAKERS: dict[str, Callable[[_Clip], np.ndarray]] = {
    "difference": _Clip.difference,
    "dynamic": _Clip.dynamic,
    "active": _Clip.active,
    "flows": lambda clip: clip.flows.astype(np.float16),
    "landmarks": _Clip.tracks,
    "eyes": lambda clip: eye_crop(clip.frames, clip.landmarks, clip.part),
    "mouth": lambda clip: mouth_crop(clip.frames, clip.landmarks, clip.part),
    "patches": lambda clip: landmark_patches(clip.frames, clip.landmarks, _PATCH),
}
assert set(_MAKERS) == set(INPUTS)


def make_inputs(
    config: PrepareConfig, frames: np.ndarray, landmarks: np.ndarray, apex: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """The arrays that ``config.inputs`` names, from crops [T,H,W,3] uint8 and the onset's landmarks [68,2]."""
    clip = _Clip(frames, landmarks, apex, config.method, device)
    return {f"input_{name}": np.ascontiguousarray(_MAKERS[name](clip)) for name in config.inputs}


# ---------------------------------------------------------------- landmarks over time


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
