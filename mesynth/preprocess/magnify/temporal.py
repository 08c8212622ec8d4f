"""Temporal filters: which change over time is magnified."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mesynth.errors import ConfigError

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
