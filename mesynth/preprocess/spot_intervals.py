"""Spotting in a longer recording: every movement that comes and goes as fast as a micro-expression.

:mod:`mesynth.preprocess.spot` reads one expression from a clip that is known to hold one. Here nothing is known: a
recording may hold none or many, beside blinks, head motion and expressions that last longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.preprocess.flow import estimate_flows
from mesynth.preprocess.spot import (
    MIN_FRAMES,
    Regions,
    SpotConfig,
    Spotted,
    face_regions,
    require_frames,
    spot_apex,
    steady_light,
    without_affine,
)

_PAIRS = 16  # frames whose flow is estimated at once
_MEDIAN_FPS = 50.0  # below it a median of three frames would cut off a short movement's peak


@dataclass(frozen=True, kw_only=True)
class IntervalConfig:
    """When a movement counts. Pixels are those of a 128 px crop (51 px between the eyes)."""

    flow: str = "dis"
    """Flow method, see :mod:`mesynth.preprocess.flow`; "dis" is as good here as "tvl1" and twice as fast."""
    lag_s: float = 0.25
    """How far before and after a frame it is compared: half of the longest micro-expression."""
    smooth_s: float = 0.015
    """Standard deviation of the Gaussian over time."""
    factor: float = 5.0
    """A peak must stand this many times above the noise."""
    floor: float = 0.04
    """Pixels below which nothing counts, however little noise there is."""
    share: float = 0.25
    """A peak within half a second of another must reach this share of it: head motion leaves side lobes."""
    growth: float = 1.5
    """A movement is longer than a micro-expression where the signal grows by this factor when the lag is doubled:
    one of half a second has ended by then (about 1), one of 0.8 s has not."""
    blink: float = 5.0
    """A movement is a blink where the eyes move this many times more than the rest of the face."""
    longest_s: float = 0.6
    """Boundaries lie no further apart: 1/2 s, and some room for how well they can be read."""

    def __post_init__(self) -> None:
        for name in ("lag_s", "factor", "growth", "blink", "longest_s"):
            if not getattr(self, name) > 0:
                raise MesynthError(f"spotting {name}={getattr(self, name):g} must be positive")
        for name in ("smooth_s", "floor"):
            if not getattr(self, name) >= 0:
                raise MesynthError(f"spotting {name}={getattr(self, name):g} must not be negative")
        if not 0 <= self.share < 1:
            raise MesynthError(f"spotting share={self.share:g} is outside [0, 1)")

    def lag(self, fps: float) -> int:
        """``lag_s`` in frames."""
        return max(1, round(self.lag_s * fps))


@dataclass(frozen=True, eq=False)
class Movement:
    """``raw`` [N] float64 pixels: how far each frame departs from those one lag before and after, in one direction;
    ``noise``: the same over one frame, at some of the frames, which is what a still face would show."""

    raw: np.ndarray
    noise: np.ndarray


def movement(
    frames: np.ndarray,
    landmarks: np.ndarray | None,
    fps: float,
    at: Sequence[int] | None = None,
    config: IntervalConfig = IntervalConfig(),
) -> Movement:
    """The spotting signal of crops [T,H,W,3] uint8 under one transform, at the frames ``at`` (default: all).

    With x(t) the displacement of a pixel, a = x(t) - x(t - lag), b = x(t) - x(t + lag) and |.| the root mean square
    over the face, the signal is max(0, mean of a.b) / max(|a|, |b|): the smaller of the two movements, as far as they
    agree. It is large where the face went somewhere and came back within two lags. A steady drift has a = -b and an
    expression that stays has a = 0 or b = 0, so both give nothing. The frames to
    compare with are those of feature-difference spotting (Moilanen, Zhao and Pietikainen, ICPR 2014); the product
    replaces their distance to the mean of both. A head's affine motion is taken off both flows, and eyes are left out.

    Raises:
        MesynthError: frames that are no uint8 RGB video, fewer than MIN_FRAMES, unfit landmarks, or an fps that is
            not positive.
    """
    require_frames(frames, fps, f"{len(frames)} frames are too few to spot a movement")
    where = np.arange(len(frames)) if at is None else np.asarray(at, np.int64)
    regions = face_regions(frames.shape[1], frames.shape[2], landmarks)
    frames = steady_light(frames, regions)
    few = where[:: max(1, len(where) // 16)]
    few = few[(few > 0) & (few < len(frames) - 1)]  # a frame at the end has nothing on its other side
    return Movement(
        _there_and_back(frames, regions, where, config.lag(fps), config.flow)[0],
        _there_and_back(frames, regions, few, 1, config.flow)[0],
    )


def _there_and_back(frames: np.ndarray, regions: Regions, at: np.ndarray, lag: int, flow: str) -> np.ndarray:
    """[2,N] pixels: of the face without the eyes, of the eyes."""
    step = max(1, min(frames.shape[1:3]) // 64)  # flow is smooth: every other pixel of a 128 px crop will do
    face, eyes = (mask[::step, ::step] for mask in (regions.face, regions.eyes))
    u, v = (axis[::step, ::step][face] for axis in (regions.u, regions.v))
    out = [np.zeros((2, 0))]
    for start in range(0, len(at), _PAIRS):
        here = at[start : start + _PAIRS]
        skin, lids = [], []
        for other in (np.maximum(here - lag, 0), np.minimum(here + lag, len(frames) - 1)):
            fields = estimate_flows(frames[here], frames[other], flow)
            uv = np.stack([f.uv[:, ::step, ::step] for f in fields]).astype(np.float64)
            skin.append(without_affine(uv[:, :, face], u, v))  # minus the displacement since then; the sign cancels
            lids.append(uv[:, :, eyes])
        out.append(np.stack([_agreed(*skin), _agreed(*lids)]))
    return np.concatenate(out, 1) * (128 / frames.shape[1])


def _agreed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two movements [N,2,P] -> [N] pixels; see :func:`movement`."""
    larger = np.sqrt(np.maximum((a**2).sum(1).mean(1), (b**2).sum(1).mean(1)))
    return np.asarray(np.maximum((a * b).sum(1).mean(1), 0) / np.maximum(larger, 1e-12))


# ---------------------------------------------------------------- reading the signal


def smooth(raw: np.ndarray, fps: float, config: IntervalConfig = IntervalConfig()) -> np.ndarray:
    """The signal [N] without single frames that stand out; NaN (no face) stays NaN and does not spread."""
    from scipy.ndimage import gaussian_filter1d, median_filter

    known = np.isfinite(raw)
    out = np.where(known, raw, 0.0)
    if fps >= _MEDIAN_FPS:
        out = median_filter(out, 3, mode="nearest")
    sigma = config.smooth_s * fps
    if sigma > 0:
        out = gaussian_filter1d(out, sigma, mode="nearest")
    return np.where(known, out, np.nan)


def threshold(noise: np.ndarray, config: IntervalConfig = IntervalConfig()) -> float:
    """Pixels a peak must reach, from noise values [K] of the whole recording."""
    level = float(np.median(noise)) if len(noise) else 0.0
    return max(config.floor, config.factor * level)


def peaks(curve: np.ndarray, least: float, fps: float, config: IntervalConfig = IntervalConfig()) -> list[int]:
    """Where a smoothed curve [N] has peaks of at least ``least``, at least a lag apart, in order.

    >>> t = np.arange(200)
    >>> peaks(np.exp(-((t - 60) / 8) ** 2) + 0.5 * np.exp(-((t - 130) / 8) ** 2), 0.1, 100.0)
    [60, 130]
    """
    from scipy.signal import find_peaks

    lag = config.lag(fps)
    filled = np.pad(np.nan_to_num(curve), 1)  # a peak may be the first frame or the last
    found, facts = find_peaks(filled, height=least, distance=lag, prominence=least / 2)
    heights = facts["peak_heights"]
    kept = []
    for place, height in zip(found, heights, strict=True):
        near = heights[np.abs(found - place) <= 2 * lag]
        if height >= config.share * near.max():
            kept.append(int(place) - 1)
    return kept


def around(
    curve: np.ndarray, tops: Sequence[int], fps: float, config: IntervalConfig = IntervalConfig()
) -> list[range]:
    """Per peak the frames in which to look for its onset and offset: up to the lowest point before the next peak."""
    reach = max(MIN_FRAMES, math.ceil(1.6 * config.lag(fps)))
    filled = np.nan_to_num(curve)
    out = []
    for i, top in enumerate(tops):
        first, last = max(0, top - reach), min(len(curve) - 1, top + reach)
        if i:
            first = max(first, tops[i - 1] + int(filled[tops[i - 1] : top + 1].argmin()))
        if i + 1 < len(tops):
            last = min(last, top + int(filled[top : tops[i + 1] + 1].argmin()))
        while last - first + 1 < MIN_FRAMES:  # only where two peaks lie closer than any expression
            first, last = max(0, first - 1), min(len(curve) - 1, last + 1)
        out.append(range(first, last + 1))
    return out


@dataclass(frozen=True, kw_only=True)
class Character:
    """What a peak is like: by what its signal grows when the lag is doubled, and how many times more the eyes move."""

    growth: float
    eyes: float

    def problem(self, config: IntervalConfig = IntervalConfig()) -> str:
        """Why it is no micro-expression; empty if it may be one."""
        if self.eyes > config.blink:
            return "a blink"
        return "longer than a micro-expression" if self.growth > config.growth else ""


def character(
    frames: np.ndarray,
    landmarks: np.ndarray | None,
    fps: float,
    top: int,
    config: IntervalConfig = IntervalConfig(),
) -> Character:
    """Of the peak at frame ``top`` of crops [T,H,W,3] that reach two lags to either side of it, where there are any."""
    regions = face_regions(frames.shape[1], frames.shape[2], landmarks)
    frames = steady_light(frames, regions)
    at = np.clip(np.arange(top - 1, top + 2), 0, len(frames) - 1)
    (once, eyes), (twice, _) = (
        np.median(_there_and_back(frames, regions, at, n * config.lag(fps), config.flow), axis=1) for n in (1, 2)
    )
    if not once > 0:
        return Character(growth=math.inf, eyes=0.0)
    return Character(growth=float(twice / once), eyes=float(eyes / once))


def boundaries(
    frames: np.ndarray, landmarks: np.ndarray | None, fps: float, config: IntervalConfig = IntervalConfig()
) -> Spotted:
    """Onset, apex and offset in the frames [T,H,W,3] about one peak. Raises as :func:`movement` does."""
    found = spot_apex(frames, landmarks, fps, "flow", SpotConfig(flow=config.flow))
    most = config.longest_s * fps
    if found.offset - found.onset <= most:
        return found
    side = max(1, int(most / 2))  # noise hides where it began or ended
    onset, offset = max(found.onset, found.apex - side), min(found.offset, found.apex + side)
    return Spotted(onset, found.apex, offset, found.curve, found.confidence)
