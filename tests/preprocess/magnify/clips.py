"""Clips whose motion is known exactly, made without the code under test: another inverse, another interpolation.

Each is made once; whoever changes one copies it first.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch

from mesynth.motion.warp import backward_flow
from tests.preprocess.textures import SIDE, smooth_field, texture

NAMES = ("astronaut", "camera", "chelsea")


def moved(rgb: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The picture [H,W,3] after the flow ``field`` [2,H,W] on its own grid, [H,W,3] float32 in [0,1].

    Read half a pixel off the grid, so that a picture at rest is interpolated like a moved one.
    """
    forward = np.ascontiguousarray(field.transpose(1, 2, 0), np.float32)
    back = backward_flow(forward, 40) + 0.5
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]].astype(np.float32)
    picture = rgb.astype(np.float32) / 255
    out = cv2.remap(picture, x + back[..., 0], y + back[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT101)
    return np.asarray(out.clip(0, 1))


@lru_cache(None)
def fields(peak: float) -> np.ndarray:
    """[3,2,H,W]: one flow for each texture."""
    return np.stack([smooth_field(30 + i, peak, 16.0) for i in range(len(NAMES))])


@lru_cache(None)
def clip(peak: float, scales: tuple[float, ...] = (0.0, 0.5, 1.0), factor: float = 1.0) -> torch.Tensor:
    """[3,T,3,H,W]: three textures, each moved by ``factor * scale`` times its flow of ``peak`` pixels."""
    made = []
    for name, field in zip(NAMES, fields(peak), strict=True):
        made.append(np.stack([moved(texture(name), factor * scale * field) for scale in scales]))
    return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3).contiguous()


@lru_cache(None)
def flows(peak: float, scales: tuple[float, ...] = (0.5, 1.0)) -> torch.Tensor:
    """[3,T-1,2,H,W]: the flows of :func:`clip`, onset to the later frames."""
    return torch.from_numpy(np.stack([np.stack([s * field for s in scales]) for field in fields(peak)]))


@lru_cache(None)
def grating(wavelength: float, shifts: tuple[float, ...], angle: float = 0.0, side: int = SIDE) -> torch.Tensor:
    """[1,T,1,side,side]: a wave across ``angle`` (radians), moved by each shift in pixels along it; exact."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    along = np.cos(angle) * x + np.sin(angle) * y
    waves = [0.5 + 0.2 * np.cos(2 * np.pi * (along - shift) / wavelength) for shift in shifts]
    return torch.from_numpy(np.stack(waves)[None, :, None]).float()


def grating_shift(picture: torch.Tensor, wavelength: float, angle: float = 0.0, border: int = 24) -> float:
    """Shift in pixels of a grating [side,side] since the one at rest: least squares on its cosine and sine."""
    side = picture.shape[-1]
    y, x = np.mgrid[:side, :side].astype(np.float64)
    phase = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / wavelength
    inside = slice(border, -border)
    basis = np.stack([np.cos(phase), np.sin(phase), np.ones_like(phase)], -1)[inside, inside].reshape(-1, 3)
    cos, sin, _ = np.linalg.lstsq(basis, picture.double().numpy()[inside, inside].ravel(), rcond=None)[0]
    return float(np.arctan2(sin, cos) * wavelength / (2 * np.pi))
