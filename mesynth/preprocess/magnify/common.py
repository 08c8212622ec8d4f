"""What the magnifiers share: checks, temporal filters, and how near the truth a result is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.tvl1 import tvl1
from mesynth.preprocess.warping import require_video

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


# ---------------------------------------------------------------- temporal


KINDS = ("onset", "ideal", "butterworth")


@dataclass(frozen=True, kw_only=True)
class TemporalFilter:
    """``onset``: the difference to the first frame, for clips that begin at rest. ``ideal`` and ``butterworth``: a
    band in Hz, for longer recordings; ``ideal`` cuts the spectrum of the whole clip and takes it as periodic, so that
    a micro-expression of 10 to 100 frames rings; ``butterworth`` is causal and lags.
    """

    kind: str = "onset"
    low: float = 0.0
    high: float = 0.0
    """Band in Hz, 0 < low < high < fps / 2. Without effect, and refused, for ``onset``."""
    order: int = 2
    """Order of the Butterworth filter."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"temporal filter '{self.kind}' is unknown; choose from {', '.join(KINDS)}")
        if self.kind == "onset" and (self.low or self.high):
            raise ConfigError(f"a band of {self.low:g}..{self.high:g} Hz has no effect on 'onset'; choose ideal")
        if self.kind != "onset" and not 0 < self.low < self.high < math.inf:
            raise ConfigError(f"temporal band {self.low:g}..{self.high:g} Hz is none; 0 < low < high must hold")
        if not 1 <= self.order <= 8:
            raise ConfigError(f"Butterworth order={self.order} is outside 1..8")

    def apply(self, signal: torch.Tensor, fps: float | None) -> torch.Tensor:
        """The change of each value over time: [T,...] -> [T,...]. A constant signal gives exactly 0.

        Raises:
            ConfigError: fps is missing or not positive, the band exceeds fps / 2 or holds no frequency of the clip.
        """
        # A band holds no constant; taking the first value away makes that exact and starts the filters at rest.
        change = signal - signal[:1]
        if self.kind == "onset":
            return change
        rate = require_fps(fps, self.kind)
        if self.high >= rate / 2:
            raise ConfigError(f"temporal band up to {self.high:g} Hz reaches fps / 2 = {rate / 2:g} Hz; lower it")
        return self._ideal(change, rate) if self.kind == "ideal" else self._butterworth(change, rate)

    def _ideal(self, change: torch.Tensor, fps: float) -> torch.Tensor:
        """Ideal band-pass by the discrete Fourier transform (Wu et al., 2012)."""
        frames = len(change)
        bins = torch.fft.rfftfreq(frames, 1 / fps, device=change.device)
        keep = (bins >= self.low) & (bins <= self.high)
        if not bool(keep.any()):
            raise ConfigError(
                f"temporal band {self.low:g}..{self.high:g} Hz holds no frequency of {frames} frames at {fps:g} fps "
                f"(steps of {fps / frames:g} Hz); widen it or use kind=onset"
            )
        spectrum = torch.fft.rfft(change, dim=0) * keep.view(-1, *[1] * (change.ndim - 1))
        return torch.fft.irfft(spectrum, n=frames, dim=0)

    def _butterworth(self, change: torch.Tensor, fps: float) -> torch.Tensor:
        """Causal Butterworth band-pass as second-order sections, transposed direct form II."""
        from scipy.signal import butter

        sections = butter(self.order, [self.low, self.high], "bandpass", fs=fps, output="sos")
        for b0, b1, b2, _, a1, a2 in sections.tolist():
            first, second = torch.zeros_like(change[0]), torch.zeros_like(change[0])
            out = []
            for value in change:
                made = b0 * value + first
                first, second = b1 * value - a1 * made + second, b2 * value - a2 * made
                out.append(made)
            change = torch.stack(out)
        return change


def require_fps(fps: float | None, purpose: str) -> float:
    """Frames per second as a float. Raises ConfigError when missing, not finite or not positive."""
    if fps is None:
        raise ConfigError(f"temporal filter '{purpose}' has a band in Hz; give fps, the clip's frames per second")
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"fps={fps:g} must be a positive number of frames per second")
    return float(fps)


# ---------------------------------------------------------------- measure


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
