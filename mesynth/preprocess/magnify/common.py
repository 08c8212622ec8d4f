"""What every magnifier checks and shares: clips, factors, colour."""

from __future__ import annotations

import math

import torch

from mesynth.errors import MesynthError
from mesynth.preprocess.arrays import require_video

MIN_SIDE = 16
"""Smallest picture side, pixels: below it no band of motion is left (and TV-L1 refuses too)."""
MAX_FACTOR = 100.0

# ITU-R BT.601 luma, the weights of mesynth.preprocess.flow.grayscale.
_LUMA = (0.299, 0.587, 0.114)


def require_clip(video: torch.Tensor, name: str = "video") -> None:
    """Raise MesynthError unless ``video`` is a finite float [B,T,C,H,W] clip that can be magnified."""
    require_video(video, name)
    if video.dtype not in (torch.float32, torch.float64):
        raise MesynthError(f"{name} is {video.dtype}; faint motion needs float32, convert with .float()")
    _, frames, channels, height, width = video.shape
    if frames < 2:
        raise MesynthError(f"{name} has {frames} frame; magnification compares frames with the onset, give at least 2")
    if channels not in (1, 3):
        raise MesynthError(f"{name} has {channels} channels; give grey (1) or RGB (3)")
    if min(height, width) < MIN_SIDE:
        raise MesynthError(f"{name} is {width}x{height} pixels; each side must be >= {MIN_SIDE}")
    if not bool(torch.isfinite(video).all()):
        raise MesynthError(f"{name} holds NaN or infinity; give colours in [0, 1]")


def require_factor(factor: float) -> float:
    """The factor as a float in 1..MAX_FACTOR. Raises MesynthError otherwise."""
    value = float(factor)
    if not (math.isfinite(value) and 1 <= value <= MAX_FACTOR):
        raise MesynthError(f"factor {value:g} is outside 1..{MAX_FACTOR:g}; 1 leaves the motion as it is")
    return value


def luma(video: torch.Tensor) -> torch.Tensor:
    """[...,C,H,W] with C of 1 or 3 -> [...,1,H,W]."""
    if video.shape[-3] == 1:
        return video
    red, green, blue = video.unbind(-3)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(-3)
