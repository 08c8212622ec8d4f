"""Linear Eulerian video magnification (Wu et al., SIGGRAPH 2012): grey values, not motion, are amplified.

Fast and free of estimation, right to first order only: where a band's wavelength is short against the magnified
motion the linearisation breaks, and noise is amplified with the signal. Both are what the bound per level is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify.common import TemporalFilter, luma, require_clip, require_factor

_COARSEST = 8  # pixels: side below which no further level is split off


@dataclass(frozen=True, kw_only=True)
class EulerianConfig:
    """Parameters of linear Eulerian magnification."""

    temporal: TemporalFilter = field(default_factory=TemporalFilter)
    lambda_c: float = 8.0
    """Spatial wavelength, pixels, from which on a band gets the full factor. The paper's bound
    (1 + alpha) delta < lambda / 8 holds for it at a motion of delta = lambda_c / (8 factor); a shorter wavelength gets
    the largest alpha at which the bound still holds for that motion. 0 switches the bound off."""
    chroma: float = 0.1
    """Share of the amplification that colour gets, beside luma: sensors' colour is noisier."""

    def __post_init__(self) -> None:
        if not 0 <= self.lambda_c < math.inf:
            raise ConfigError(f"lambda_c={self.lambda_c:g} must be a finite number of pixels, 0 for no bound")
        if not 0 <= self.chroma <= 1:
            raise ConfigError(f"chroma={self.chroma:g} is outside [0, 1]")


def eulerian(
    video: torch.Tensor, factor: float, config: EulerianConfig = EulerianConfig(), fps: float | None = None
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor``; same shape, clipped to [0,1].

    ``factor`` is 1 + alpha of the paper. Factor 1 returns the input; the onset comes back unchanged with the default
    temporal filter. The pyramid and the temporal filter are linear, so the bands of the change are amplified and
    added to the frames, which are never rebuilt from bands themselves.

    Raises:
        MesynthError: an unfit clip or factor, or a band without fps.
    """
    require_clip(video)
    alpha = require_factor(factor) - 1
    change = torch.stack([config.temporal.apply(clip, fps) for clip in video])
    if alpha == 0:
        return video.clone()
    if video.shape[2] == 3 and config.chroma < 1:
        grey = luma(change)
        change = grey + config.chroma * (change - grey)
    amplified = _amplified(change.flatten(0, 1), alpha, config.lambda_c).view_as(video)
    # Frames without any change keep their values, also those outside [0, 1].
    return torch.where(amplified == 0, video, (video + amplified).clamp(0, 1))


def level_alpha(level: int, alpha: float, lambda_c: float) -> float:
    """Amplification of a pyramid level, 0 the finest: at most alpha, at most what the paper's bound allows.

    The level's wavelength is taken as 2^level 2 sqrt(2) pixels, the middle of its octave (2 to 4 pixels for level 0).

    >>> [round(level_alpha(level, 3.0, 16.0), 2) for level in range(4)]
    [0.0, 0.41, 1.83, 3.0]
    """
    if lambda_c == 0:
        return alpha
    wavelength = 2 * math.sqrt(2) * 2**level
    delta = lambda_c / (8 * (1 + alpha))
    return min(max(wavelength / (8 * delta) - 1, 0.0), alpha)


def _amplified(change: torch.Tensor, alpha: float, lambda_c: float) -> torch.Tensor:
    """Sum of the Laplacian bands of [N,C,H,W], each times its alpha; recursion from fine to coarse."""

    def collapse(picture: torch.Tensor, level: int) -> torch.Tensor:
        if min(picture.shape[-2:]) < 2 * _COARSEST:
            return alpha * picture
        coarse = _reduce(picture)
        size = picture.shape[-2:]
        band = picture - _expand(coarse, size)
        return level_alpha(level, alpha, lambda_c) * band + _expand(collapse(coarse, level + 1), size)

    return collapse(change, 0)


def _reduce(picture: torch.Tensor) -> torch.Tensor:
    """Burt and Adelson's 5-tap blur and every second pixel. Sums of shifts: bitwise the same in any batch."""
    for axis in (-1, -2):
        padded = F.pad(picture, (2, 2, 0, 0) if axis == -1 else (0, 0, 2, 2), mode="reflect")
        length = picture.shape[axis]
        taps = [padded.narrow(axis, i, length) for i in range(5)]
        blurred = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
        picture = blurred[..., ::2] if axis == -1 else blurred[..., ::2, :]
    return picture


def _expand(coarse: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Twice the size by the same taps, cut to ``size``."""
    picture = coarse
    for axis in (-1, -2):
        padded = F.pad(picture, (1, 1, 0, 0) if axis == -1 else (0, 0, 1, 1), mode="replicate")
        length = picture.shape[axis]
        left, here, right = (padded.narrow(axis, i, length) for i in range(3))
        pair = torch.stack([(left + 6 * here + right) / 8, (here + right) / 2], dim=axis if axis == -1 else -2)
        picture = pair.flatten(-2) if axis == -1 else pair.flatten(-3, -2)
        picture = picture.narrow(axis, 0, size[axis])
    return picture
