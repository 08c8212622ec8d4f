"""Spotting: apex, onset and offset of a clip whose annotation lacks them (SMIC), from its frames alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from mesynth.errors import MesynthError
from mesynth.preprocess.spot_measures import difference_curve, face_regions, flow_curve, frequency_curve, steady_light

METHODS = ("flow", "frequency", "difference")
PEAKS = ("maximum", "divide")
MIN_FRAMES = 5
"""Fewest frames in which a rise and a fall can be told from noise."""


@dataclass(frozen=True, kw_only=True)
class SpotConfig:
    """How curves are measured, smoothed and read."""

    flow: str = "tvl1"
    """Flow method of the measure "flow", see :mod:`mesynth.preprocess.flow`; "dis" finds apexes as well as "tvl1" and
    takes about half the time."""
    returns: bool = True
    """The clip begins and ends neutral, as a clip cut from onset to offset does; False for one that ends at an apex."""
    frequency_window_s: float = 0.1
    frequency_cutoff: float = 0.0
    """High-pass D0 of the measure "frequency", cycles per block."""
    difference_window_s: float = 0.5
    smooth_s: float = 0.015
    """Standard deviation of the Gaussian over time, seconds; a median of three frames comes before it."""
    peak: str = "maximum"
    """"maximum" of the smoothed curve, or "divide": divide and conquer (Liong et al., ACPR 2015)."""
    level: float = 0.3
    """An onset (offset) is sought where the curve crosses this share of the apex's height above the floor."""

    def __post_init__(self) -> None:
        for name in ("frequency_window_s", "difference_window_s"):
            if not getattr(self, name) > 0:
                raise MesynthError(f"spotting {name}={getattr(self, name):g} must be positive seconds")
        for name in ("frequency_cutoff", "smooth_s"):
            if not getattr(self, name) >= 0:
                raise MesynthError(f"spotting {name}={getattr(self, name):g} must not be negative")
        if self.peak not in PEAKS:
            raise MesynthError(f"peak rule '{self.peak}' is unknown; choose from {', '.join(PEAKS)}")
        if not 0 < self.level < 0.5:
            raise MesynthError(f"spotting level={self.level:g} is outside (0, 0.5)")


@dataclass(frozen=True, eq=False)
class Spotted:
    """What was found: frame indices ``onset < apex <= offset`` (``apex < offset`` in a clip that returns).

    ``curve`` [T] float64: the smoothed measure they were read from; ``confidence`` in [0,1]: how far the apex stands
    out (see :func:`confidence`), not a probability.
    """

    onset: int
    apex: int
    offset: int
    curve: np.ndarray
    confidence: float


def spot_apex(
    frames: np.ndarray,
    landmarks: np.ndarray | None,
    fps: float,
    method: str = "flow",
    config: SpotConfig = SpotConfig(),
) -> Spotted:
    """Spot one expression in ``frames`` [T,H,W,3] uint8 RGB, crops under one transform for all frames.

    ``landmarks`` [68,2]: pixels in the first frame; None for the canonical crop of :mod:`mesynth.preprocess.align`.
    ``method``: one of METHODS. The apex is the peak of the smoothed measure; onset and offset are where a raised
    cosine through the curve's crossings of ``level`` and of one half would begin and end (:func:`boundaries`). They
    are good with "flow" only: the other measures look through windows, which blurs where a movement begins. An
    exponential decay ends, for this rule, before its long tail does.

    Raises:
        MesynthError: unknown method, frames that are no uint8 RGB video or fewer than MIN_FRAMES, an fps that is not
            positive, or unfit landmarks.
    """
    if method not in METHODS:
        raise MesynthError(f"spotting method '{method}' is unknown; choose from {', '.join(METHODS)}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
    if len(frames) < MIN_FRAMES:
        raise MesynthError(f"a clip of {len(frames)} frames is too short to spot an apex; need at least {MIN_FRAMES}")
    if not (math.isfinite(fps) and fps > 0):
        raise MesynthError(f"fps={fps:g} must be positive")
    regions = face_regions(frames.shape[1], frames.shape[2], landmarks)
    frames = steady_light(frames, regions)
    if method == "flow":
        raw = flow_curve(frames, regions, config.flow, config.returns)
    elif method == "frequency":
        raw = frequency_curve(
            frames, regions, fps, config.frequency_window_s, config.frequency_cutoff, config.returns
        )  # fmt: skip
    else:
        raw = difference_curve(frames, regions, fps, config.difference_window_s)
    curve = smooth(raw, config.smooth_s * fps)
    # An apex has an onset before it and, in a clip that returns, an offset after it.
    inner = curve[1:-1] if config.returns else curve[1:]
    apex = 1 + (divide_and_conquer(inner) if config.peak == "divide" else int(inner.argmax()))
    onset, offset = boundaries(curve, apex, config.level)
    onset, offset = min(onset, apex - 1), max(offset, min(apex + 1, len(curve) - 1))
    return Spotted(onset, apex, offset, curve, confidence(raw, curve, apex))


def smooth(curve: np.ndarray, sigma: float) -> np.ndarray:
    """Median of three, then a Gaussian of ``sigma`` frames, along a curve [T]; the ends are replicated."""
    steady = median_filter(curve, 3, mode="nearest")
    return np.asarray(gaussian_filter1d(steady, sigma, mode="nearest") if sigma > 0 else steady)


def divide_and_conquer(curve: np.ndarray) -> int:
    """Peak by repeatedly keeping the half with the larger sum (Liong et al., ACPR 2015); the first of equal halves."""
    low, high = 0, len(curve)
    while high - low > 1:
        middle = (low + high + 1) // 2
        low, high = (low, middle) if curve[low:middle].sum() >= curve[middle:high].sum() else (middle, high)
    return low


# A raised cosine reaches the share y of its height after arccos(1 - 2 y) / pi of its rise.
_HALF = 0.5


def boundaries(curve: np.ndarray, apex: int, level: float = 0.3) -> tuple[int, int]:
    """Onset and offset frame of a smoothed curve [T] around its apex.

    On either side of the apex the floor is the curve's lowest value there. Going outward from the apex, the curve
    first falls below one half of its height above the floor, then below ``level``; the boundary lies where a raised
    cosine with these two crossings reaches the floor, inside the clip. A side without a fall ends at the clip's end.
    """
    before = apex - _reach(curve[apex::-1], level)
    after = apex + _reach(curve[apex:], level)
    return max(0, round(before)), min(len(curve) - 1, round(after))


def _reach(side: np.ndarray, level: float) -> float:
    """Frames from the apex, side[0], to the boundary."""
    floor = side.min()
    height = side[0] - floor
    if len(side) < 2 or not height > 0:
        return len(side) - 1.0
    crossings = [_crossing(side, floor + share * height) for share in (_HALF, level)]
    rest = math.acos(1 - 2 * level) / math.pi  # the part of a rise that lies below the level
    return crossings[1] + (crossings[1] - crossings[0]) * rest / (0.5 - rest)


def _crossing(side: np.ndarray, value: float) -> float:
    """Where a curve that starts above ``value`` first reaches it, between frames."""
    i = int(np.argmax(side <= value))
    return i - 1 + float((side[i - 1] - value) / (side[i - 1] - side[i]))


def confidence(raw: np.ndarray, curve: np.ndarray, apex: int) -> float:
    """How far the apex stands out: its height above the curve's median over that height plus the noise, in [0,1].

    Noise is the spread (1.4826 MAD) of the raw curve about the smoothed one plus what the curve shows elsewhere: the
    highest other peak above the median.
    """
    base = float(np.median(curve))
    height = float(curve[apex]) - base
    if not height > 0:
        return 0.0
    jitter = 1.4826 * float(np.median(np.abs(raw - curve)))
    inner = curve[1:-1]
    tops = np.flatnonzero((inner > curve[:-2]) & (inner >= curve[2:])) + 1
    others = [float(curve[i]) - base for i in (*tops, 0, len(curve) - 1) if abs(i - apex) > 1]
    second = max([0.0, *others])
    return height / (height + 3 * jitter + min(second, height))
