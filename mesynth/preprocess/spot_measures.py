"""How much of an expression each frame of a clip shows: three published measures, as curves over the frames.

All take one clip of aligned uint8 crops and the :class:`Regions` of its face, and return a curve [T] float64, not
yet smoothed, of arbitrary scale. Eyes are left out everywhere: a blink is no expression.

A clip that begins and ends neutral (``returns``) allows one more step, which matters more than the choice of measure:
whatever differs between its first and its last frames is head motion or light, and the line between the two is taken
off the flow (of the pixels, for the frequency measure) before anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.fft import fft, rfft2
from skimage.feature import local_binary_pattern

from mesynth.errors import MesynthError
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, eye_centres
from mesynth.preprocess.flow import estimate_flows, grayscale

BLOCKS = 6
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
        if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
            raise MesynthError(f"landmarks of shape {landmarks.shape} cannot be used; need 68 finite points (x, y)")
        right, left = eye_centres(landmarks.astype(np.float64))
    across = left - right
    iod = float(np.hypot(*across))
    if iod < 1:
        raise MesynthError(f"the eye centres are {iod:.2g} pixels apart; the landmarks do not show a face")
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
    grey = np.stack([cv2.GaussianBlur(g, (0, 0), 1.0) for g in grayscale(frames)])
    if returns:
        grey = without_chord(grey)
    grey = np.where(regions.face & (np.abs(grey) > _ROUNDING), grey, 0)
    length = _odd(window_s * fps)
    half = length // 2
    rows, columns = np.nonzero(regions.face.any(1))[0], np.nonzero(regions.face.any(0))[0]
    side = min(rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]) // BLOCKS
    if side < 2:
        raise MesynthError(f"a face of {len(columns)}x{len(rows)} pixels is too small for {BLOCKS}x{BLOCKS} blocks")
    part = grey[:, rows[0] : rows[0] + BLOCKS * side, columns[0] : columns[0] + BLOCKS * side]
    blocks = part.reshape(len(part), BLOCKS, side, BLOCKS, side).transpose(1, 3, 2, 4, 0)
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
    rows, columns = np.nonzero(regions.face.any(1))[0], np.nonzero(regions.face.any(0))[0]
    y = np.linspace(rows[0], rows[-1] + 1, BLOCKS + 1).astype(int)
    x = np.linspace(columns[0], columns[-1] + 1, BLOCKS + 1).astype(int)
    block = (np.repeat(np.arange(BLOCKS), np.diff(y))[:, None] * BLOCKS) + np.repeat(np.arange(BLOCKS), np.diff(x))
    face = regions.face[y[0] : y[-1], x[0] : x[-1]]
    bins = 59  # uniform patterns of 8 points, and one for all others
    counted = np.bincount(block[face], minlength=BLOCKS**2)
    kept = counted > _LEAST_FACE * np.bincount(block.ravel(), minlength=BLOCKS**2)
    out = np.empty((len(frames), BLOCKS**2, bins))
    for t, grey in enumerate(grayscale(frames)):
        # Sixteen steps a grey level keep what smoothing gained; LBP compares integers without ties by rounding.
        fine = np.round(cv2.GaussianBlur(grey, (0, 0), 1.0) * (255 * 16)).astype(np.int32)
        pattern = local_binary_pattern(fine, 8, 3, "nri_uniform").astype(int)[y[0] : y[-1], x[0] : x[-1]]
        out[t] = np.bincount(block[face] * bins + pattern[face], minlength=BLOCKS**2 * bins).reshape(-1, bins)
    return np.asarray((out / np.maximum(counted, 1)[:, None])[:, kept])


def _odd(length: float) -> int:
    """The odd number of frames nearest to ``length``, at least 3."""
    return max(3, 2 * round((length - 1) / 2) + 1)
