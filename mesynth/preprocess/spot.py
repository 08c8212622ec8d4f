"""Spotting apex, onset and offset from the frames alone: three published measures, and the search on them.

A measure says how much of an expression each frame shows. All take one clip of aligned uint8 crops and the
:class:`Regions` of its face, and return a curve [T] float64, not yet smoothed, of arbitrary scale. Eyes are left out
everywhere: a blink is no expression.

A clip that begins and ends neutral (``returns``) allows one more step, which matters more than the choice of measure:
whatever differs between its first and its last frames is head motion or light, and the line between the two is taken
off the flow (of the pixels, for the frequency measure) before anything is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, checked_eyes, eye_line
from mesynth.preprocess.flow import estimate_flows, grayscale

_BLOCKS = 6
"""Blocks along each side of the face (36 in all), as in the published measures."""
_PAIRS = 16  # pairs whose flow is estimated at once
_ENDS = 3  # frames whose mean is the neutral state at either end
_ROUNDING = 1e-6  # grey value in [0,1] below which there is nothing but the rounding of float32
_FITS = 4  # reweighted least squares
_LEAST_FACE = 0.25  # share of a block's pixels on the face below which it is left out


@dataclass(frozen=True, eq=False)
class Regions:
    """Where to look: ``face`` [H,W] bool without the eyes, ``eyes`` [H,W] bool; ``u`` and ``v`` [H,W] float64 are the
    canonical face frame: origin between the eyes, u to image right, v down, unit one inter-ocular distance."""

    face: np.ndarray
    eyes: np.ndarray
    u: np.ndarray
    v: np.ndarray


def face_regions(height: int, width: int, landmarks: np.ndarray | None = None) -> Regions:
    """Regions of a crop from its 68 landmarks [68,2] (pixels), or of the canonical crop of :mod:`.align` without them.

    Raises:
        MesynthError: landmarks that are not 68 finite points, or whose eyes lie on one point.
    """
    if landmarks is None:
        middle = np.array([0.5 * width, EYE_LINE * height]) - 0.5
        half = np.array([IOD_SHARE * width / 2, 0.0])
        right, left = middle - half, middle + half
    else:
        right, left = checked_eyes(landmarks, "used")
    across, iod = eye_line(right, left)
    middle = (right + left) / 2
    y, x = np.mgrid[:height, :width].astype(np.float64)
    u = ((x - middle[0]) * across[0] + (y - middle[1]) * across[1]) / iod**2
    v = ((y - middle[1]) * across[0] - (x - middle[0]) * across[1]) / iod**2
    oval = (u / 0.95) ** 2 + ((v - 0.45) / 1.25) ** 2 < 1
    # The lids, the crease above them and the bulge below, and what flow and blur carry from them to their neighbours.
    eyes = np.maximum(*(1 - ((u - s) / 0.48) ** 2 - ((v - 0.06) / 0.30) ** 2 for s in (-0.5, 0.5))) > 0
    face = oval & ~eyes
    if not face.any():
        raise MesynthError(f"the face lies outside the {width}x{height} picture; the landmarks belong to another one")
    return Regions(face=face, eyes=eyes, u=u, v=v)


def steady_light(frames: np.ndarray, regions: Regions) -> np.ndarray:
    """Frames [T,H,W,3] uint8 with the face as bright as in the first: lamps flicker at 100 or 120 Hz.

    One factor a frame, the ratio of mean luma; a frame that differs by less than half a grey level is left as it is,
    because rounding it again would add more noise than light.
    """
    level = np.array([grayscale(frame)[regions.face].mean(dtype=np.float64) for frame in frames]) * 255
    out = frames
    for t in np.flatnonzero((np.abs(level - level[0]) >= 0.5) & (level > 0)):
        if out is frames:
            out = frames.copy()
        out[t] = np.clip(np.round(frames[t] * (level[0] / level[t])), 0, 255)
    return out


# ---------------------------------------------------------------- optical flow


def flow_curve(frames: np.ndarray, regions: Regions, flow: str = "tvl1", returns: bool = True) -> np.ndarray:
    """Mean length of the flow from the first frame, pixels, after the motion of the whole head is taken off.

    Flow magnitude as in Liong et al. (ACPR 2015) and its successors. The head's motion is an affine field fitted
    to the face of each frame by reweighted least squares (Cauchy weights), so that moving features do not count.
    """
    step = max(1, min(frames.shape[1:3]) // 64)  # flow is smooth: every other pixel of a 128 px crop will do
    face = regions.face[::step, ::step]
    moved = []
    for start in range(0, len(frames), _PAIRS):
        part = frames[start : start + _PAIRS]
        fields = estimate_flows(np.repeat(frames[:1], len(part), 0), part, flow)
        moved += [f.uv[:, ::step, ::step][:, face] for f in fields]
    uv = np.stack(moved).astype(np.float64)  # [T,2,P]
    u, v = (axis[::step, ::step][face] for axis in (regions.u, regions.v))
    rest = without_affine(uv, u, v)
    if returns:
        rest = without_chord(rest)
    return np.asarray(np.hypot(rest[:, 0], rest[:, 1]).mean(1))


def without_affine(uv: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Flow vectors [T,2,P] at places (u, v) [P] minus a robustly fitted affine field of each frame."""
    rows = uv.reshape(-1, uv.shape[-1])
    basis = np.stack([np.ones_like(u), u, v], 1)
    products = (basis[:, :, None] * basis[:, None]).reshape(len(basis), 9)
    weights = np.ones_like(rows)
    residual = rows
    for _ in range(_FITS):
        left = (weights @ products).reshape(-1, 3, 3)
        right = (weights * rows) @ basis
        residual = rows - np.linalg.solve(left, right[..., None])[..., 0] @ basis.T
        spread = 1.4826 * np.median(np.abs(residual), 1, keepdims=True) + 1e-3  # pixels
        weights = 1 / (1 + (residual / (2 * spread)) ** 2)
    return residual.reshape(uv.shape)


def without_chord(values: np.ndarray) -> np.ndarray:
    """Values [T,...] minus the line over time from the mean of the first frames to that of the last."""
    k = max(1, min(_ENDS, len(values) // 4))
    share = np.linspace(0, 1, len(values), dtype=values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values - (1 - share) * values[:k].mean(0) - share * values[-k:].mean(0))


# ---------------------------------------------------------------- frequency


def frequency_curve(
    frames: np.ndarray, regions: Regions, fps: float, window_s: float = 0.1, cutoff: float = 0.0, returns: bool = True
) -> np.ndarray:
    """Amplitude of the 3D spectrum in a window that slides over the frames, summed over the face's blocks.

    Li, Huang and Zhao, "Can micro-expression be recognized based on single apex frame?" (ICIP 2018): 3D FFT of 36
    blocks, high-pass, sum of amplitudes. ``cutoff`` is their D0: components nearer to the spectrum's centre than that
    many cycles per block are left out. Three departures, each of which lowered the error on clips of known apex: the
    temporally constant plane, which holds the face itself, is left out whatever the cutoff; windows are tapered
    (Hann), so that drift does not leak; pictures are smoothed by 1 px against sensor noise.
    """
    from scipy.fft import fft, rfft2

    grey = np.stack([cv2.GaussianBlur(g, (0, 0), 1.0) for g in grayscale(frames)])
    if returns:
        grey = without_chord(grey)
    grey = np.where(regions.face & (np.abs(grey) > _ROUNDING), grey, 0)
    length = _odd(window_s * fps)
    half = length // 2
    rows, columns = np.nonzero(regions.face.any(1))[0], np.nonzero(regions.face.any(0))[0]
    side = min(rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]) // _BLOCKS
    if side < 2:
        raise MesynthError(f"a face of {len(columns)}x{len(rows)} pixels is too small for {_BLOCKS}x{_BLOCKS} blocks")
    part = grey[:, rows[0] : rows[0] + _BLOCKS * side, columns[0] : columns[0] + _BLOCKS * side]
    blocks = part.reshape(len(part), _BLOCKS, side, _BLOCKS, side).transpose(1, 3, 2, 4, 0)
    # The spatial part of the transform is shared by all windows.
    spatial = np.pad(rfft2(blocks, axes=(2, 3)), [(0, 0)] * 4 + [(half, half)], mode="edge")
    fy, fx, ft = np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side, np.fft.fftfreq(length) * length
    passed = fy[:, None, None] ** 2 + fx[:, None] ** 2 + ft**2 >= cutoff**2
    weight = passed * np.where((fx == 0) | (2 * fx == side), 1.0, 2.0)[:, None]  # rfft holds half of the plane
    weight[..., 0] = 0
    taper = np.hanning(length + 2)[1:-1].astype(np.float32)
    windows = (spatial[..., t : t + length] * taper for t in range(len(frames)))
    return np.array([float((np.abs(fft(window, axis=-1)).sum((0, 1)) * weight).sum()) for window in windows])


# ---------------------------------------------------------------- feature difference


def difference_curve(frames: np.ndarray, regions: Regions, fps: float, window_s: float = 0.5) -> np.ndarray:
    """Chi-squared distance of each frame's LBP histograms to the mean of those half a window before and after.

    Moilanen, Zhao and Pietikainen (ICPR 2014) and Li et al. (IEEE T. Affective Computing 2018): uniform LBP in 36
    blocks, the third of the blocks that differ most. Frames beyond the clip are its first or last. Their contrast
    step (subtracting the neighbours' mean once more) finds expressions in long videos and hurts in a short clip, where
    it is left out. LBP has 8 points on radius 3 after smoothing by 1 px.
    """
    histograms = _block_histograms(frames, regions)  # [T,blocks,bins]
    t, last = np.arange(len(frames)), len(frames) - 1
    reach = max(1, round(window_s * fps / 2))
    around = (histograms[np.maximum(t - reach, 0)] + histograms[np.minimum(t + reach, last)]) / 2
    total = histograms + around
    distance = ((histograms - around) ** 2 / np.where(total > 0, total, 1)).sum(-1)
    most = np.sort(distance, 1)[:, ::-1][:, : max(1, distance.shape[1] // 3)]
    return np.asarray(most.mean(1))


def _block_histograms(frames: np.ndarray, regions: Regions) -> np.ndarray:
    from skimage.feature import local_binary_pattern

    rows, columns = np.nonzero(regions.face.any(1))[0], np.nonzero(regions.face.any(0))[0]
    y = np.linspace(rows[0], rows[-1] + 1, _BLOCKS + 1).astype(int)
    x = np.linspace(columns[0], columns[-1] + 1, _BLOCKS + 1).astype(int)
    block = (np.repeat(np.arange(_BLOCKS), np.diff(y))[:, None] * _BLOCKS) + np.repeat(np.arange(_BLOCKS), np.diff(x))
    face = regions.face[y[0] : y[-1], x[0] : x[-1]]
    bins = 59  # uniform patterns of 8 points, and one for all others
    counted = np.bincount(block[face], minlength=_BLOCKS**2)
    kept = counted > _LEAST_FACE * np.bincount(block.ravel(), minlength=_BLOCKS**2)
    out = np.empty((len(frames), _BLOCKS**2, bins))
    for t, grey in enumerate(grayscale(frames)):
        # Sixteen steps a grey level keep what smoothing gained; LBP compares integers without ties by rounding.
        fine = np.round(cv2.GaussianBlur(grey, (0, 0), 1.0) * (255 * 16)).astype(np.int32)
        pattern = local_binary_pattern(fine, 8, 3, "nri_uniform").astype(int)[y[0] : y[-1], x[0] : x[-1]]
        out[t] = np.bincount(block[face] * bins + pattern[face], minlength=_BLOCKS**2 * bins).reshape(-1, bins)
    return np.asarray((out / np.maximum(counted, 1)[:, None])[:, kept])


def _odd(length: float) -> int:
    """The odd number of frames nearest to ``length``, at least 3."""
    return max(3, 2 * round((length - 1) / 2) + 1)


# ---------------------------------------------------------------- spot


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


def require_frames(frames: np.ndarray, fps: float, too_few: str) -> None:
    """Raise MesynthError unless ``frames`` are uint8 RGB [T,H,W,3], T >= MIN_FRAMES, and ``fps`` is positive.

    ``too_few``: the message's beginning where there are fewer frames.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
    if len(frames) < MIN_FRAMES:
        raise MesynthError(f"{too_few}; need at least {MIN_FRAMES}")
    if not (math.isfinite(fps) and fps > 0):
        raise MesynthError(f"fps={fps:g} must be positive")


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
    require_frames(frames, fps, f"a clip of {len(frames)} frames is too short to spot an apex")
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
    from scipy.ndimage import gaussian_filter1d, median_filter

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
