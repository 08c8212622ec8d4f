"""Motion: is the emitted flow the one the frames show, and does the clip rise and fall as asked?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mesynth.core.profiles import Profile
from mesynth.core.types import optical_strain

MOVING = 0.3
"""Angular error counts where the reference moves more than this many pixels."""


def face_mask(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H,W] bool: the convex hull of 68 landmarks [68,2], raised by half a face for the forehead."""
    brow = landmarks[17:27]
    up = 0.25 * (landmarks[8] - landmarks[27])
    points = np.concatenate([landmarks, brow - up]).astype(np.float32)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, hull, 1)
    return mask.astype(bool)


@dataclass(frozen=True, kw_only=True)
class FlowError:
    """Errors of one flow against a reference, means over the mask.

    ``epe`` pixels; ``relative`` = sum |F-G| / sum |G|; ``angle`` degrees between the vectors where
    |G| > MOVING (NaN if nowhere); ``strain`` mean |strain(F) - strain(G)| per pixel.
    """

    epe: float
    relative: float
    angle: float
    strain: float


def flow_error(flow: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> FlowError:
    """Compare ``flow`` [2,H,W] with ``reference`` [2,H,W], pixels. Raises ValueError on unfit shapes."""
    if flow.shape != reference.shape or flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flows have shapes {flow.shape} and {reference.shape}; give two [2,H,W]")
    inside = np.ones(flow.shape[1:], bool) if mask is None else mask
    if not inside.any():
        raise ValueError("the mask of a flow error is empty")
    f, g = (v.astype(np.float64)[:, inside] for v in (flow, reference))
    difference, size = np.hypot(*(f - g)), np.hypot(*g)
    moving = size > MOVING
    turn = np.arctan2(f[0] * g[1] - f[1] * g[0], (f * g).sum(0))
    angle = np.degrees(np.abs(turn[moving])).mean() if moving.any() else np.nan
    strain = np.abs(optical_strain(flow) - optical_strain(reference))[inside].mean()
    total = size.sum()
    return FlowError(
        epe=float(difference.mean()),
        relative=float(difference.sum() / total) if total > 0 else float("nan"),
        angle=float(angle),
        strain=float(strain),
    )


def without_rigid(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[N,2,H,W] flow minus its least-squares similarity motion over the mask: head movement is no expression."""
    y, x = np.nonzero(mask)
    height, width = mask.shape
    cx, cy = x.mean(), y.mean()

    def columns(px: np.ndarray, py: np.ndarray) -> np.ndarray:  # shift, scale, in-plane turn
        one, zero = np.ones_like(px), np.zeros_like(px)
        return np.stack([np.stack([one, zero, px, -py]), np.stack([zero, one, py, px])], 0)

    inside = columns(x - cx, y - cy).transpose(0, 2, 1).reshape(-1, 4)
    values = flow[:, :, y, x].reshape(len(flow), -1).astype(np.float64)
    coefficients = np.linalg.lstsq(inside, values.T, rcond=None)[0]
    gy, gx = np.mgrid[:height, :width].astype(np.float64)
    everywhere = columns(gx - cx, gy - cy)
    return np.asarray(flow - np.einsum("cphw,pn->nchw", everywhere, coefficients), np.float32)


def magnitude_curve(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean motion [N] of flows onset -> frame [N,2,H,W], head movement removed, pixels; smoothed by (1,2,1)/4."""
    moved = without_rigid(flow, mask)
    curve = np.hypot(moved[:, 0], moved[:, 1])[:, mask].mean(1)
    padded = np.concatenate([[0.0], curve, curve[-1:]])
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """``apex`` frame of the largest motion; ``rise`` and ``decay`` seconds between 10% and 90% of the peak
    (NaN when the curve does not cross them); ``jerk`` mean |third difference| over the peak, per frame^3."""

    apex: int
    rise: float
    decay: float
    jerk: float


def timing(curve: np.ndarray, fps: float) -> Timing:
    """Timing of a motion curve [T] whose first frame is the onset. Raises ValueError with fewer than 4 frames."""
    if curve.ndim != 1 or len(curve) < 4:
        raise ValueError(f"a motion curve of shape {curve.shape} is too short; need at least 4 frames")
    apex = int(np.argmax(curve))
    low, peak = float(curve.min()), float(curve[apex])
    if peak <= low:
        return Timing(apex=apex, rise=float("nan"), decay=float("nan"), jerk=0.0)
    share = (curve - low) / (peak - low)
    rise = _crossing(share[: apex + 1], 0.9) - _crossing(share[: apex + 1], 0.1)
    fall = share[apex:][::-1]
    decay = _crossing(fall, 0.9) - _crossing(fall, 0.1)
    jerk = float(np.abs(np.diff(curve, 3)).mean() / peak)
    return Timing(apex=apex, rise=rise / fps, decay=decay / fps, jerk=jerk)


def _crossing(rising: np.ndarray, level: float) -> float:
    """Position (in frames, linear between them) where a curve that ends at 1 last rises through ``level``."""
    below = np.nonzero(rising < level)[0]
    if not len(below):
        return float("nan")
    i = int(below[-1])
    if i + 1 >= len(rising):
        return float("nan")
    return i + float((level - rising[i]) / (rising[i + 1] - rising[i]))


def requested_timing(n_frames: int, apex_index: int, fps: float, profile: Profile) -> Timing:
    """Timing of the profile a clip was asked to follow, with its apex where the row says it is."""
    from dataclasses import replace

    share = float(np.clip(apex_index / max(n_frames - 1, 1), 0.1, 0.9))
    return timing(replace(profile, apex=share).alpha(n_frames).astype(np.float64), fps)


def warping_error(frames: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean |frame t pulled back to the onset - onset| and the same without pulling back, grey levels 0-255.

    frames [T,H,W,3] uint8, flow onset -> frame [T-1,2,H,W] pixels, over the mask (Lai et al., ECCV 2018, eq. 5,
    against the onset and without occlusion weights).
    """
    height, width = mask.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    onset = frames[0].astype(np.float32)
    pulled, plain = [], []
    for frame, uv in zip(frames[1:], flow, strict=True):
        back = cv2.remap(frame, x + uv[0], y + uv[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        pulled.append(np.abs(back.astype(np.float32) - onset)[mask].mean())
        plain.append(np.abs(frame.astype(np.float32) - onset)[mask].mean())
    return float(np.mean(pulled)), float(np.mean(plain))
