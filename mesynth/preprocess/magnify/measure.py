"""How near a magnified clip is to the truly magnified one: displacement, pictures, noise."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mesynth.preprocess.magnify.common import luma
from mesynth.preprocess.tvl1 import tvl1

_BORDER = 8  # pixels left out: motion there comes from beyond the picture


def displacement_slope(onset: torch.Tensor, frames: torch.Tensor, flow: torch.Tensor) -> float:
    """Slope of displacement measured in ``frames`` on the known ``flow``, through the origin.

    onset, frames [N,C,H,W] in [0,1], flow [N,2,H,W] pixels on the onset's grid. Measured with TV-L1, which itself
    reads a little low: compare with the slope of a clip that truly shows the flow. A perfect magnifier by m has m
    times the slope of the clip it was given.
    """
    inside = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    found = tvl1(luma(onset)[:, 0], luma(frames)[:, 0])[inside].double()
    known = flow[inside].double()
    return float((found * known).sum() / known.square().sum().clamp(min=1e-12))


def psnr(picture: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of [N,C,H,W] in [0,1] in decibels, away from the border; mean over the pictures."""
    inside = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    error = (picture - truth)[inside].double().square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-12).log10()).mean())


def noise_gain(
    magnified: Callable[[torch.Tensor], torch.Tensor], video: torch.Tensor, sd: float, generator: torch.Generator
) -> float:
    """Standard deviation of what noise adds to the magnified frames, over that of the noise itself.

    video [B,T,C,H,W] in [0,1] without noise; ``sd``: of the noise on every frame, the onset too. 1 = not amplified.
    """
    noise = sd * torch.randn(video.shape, generator=generator).to(video)
    change = magnified(video + noise) - magnified(video)
    return float(change[:, 1:].std() / noise[:, 1:].std())
