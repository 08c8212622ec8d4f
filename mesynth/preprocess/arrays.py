"""Between pictures as they are stored and tensors as they are computed with."""

from __future__ import annotations

import numpy as np
import torch

from mesynth.errors import MesynthError


def to_video(frames: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """[T,H,W,3] uint8 RGB -> [T,3,H,W] float32 in [0,1] on ``device``. Raises MesynthError on another kind of array."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float().div_(255)


def to_frames(video: torch.Tensor) -> np.ndarray:
    """[T,3,H,W] float in [0,1] (values outside are clipped) -> [T,H,W,3] uint8 RGB, rounded."""
    pictures = video.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pictures.cpu().numpy())


def require_video(video: torch.Tensor, name: str = "video") -> None:
    """Raise MesynthError unless ``video`` is float [B,T,C,H,W] (a batch of clips of one length)."""
    if video.ndim != 5 or not video.is_floating_point():
        raise MesynthError(f"{name} is {video.dtype} {tuple(video.shape)}; expected float of shape [B,T,C,H,W]")
