"""Head-motion compensation: the drift that one transform per clip leaves, measured on rigid parts and taken out.

Every frame is registered to the onset on the regions that expressions hardly move (regions.rigid_mask), so that the
expression stays and the head stands still.

The solver for ecc is our own: cv2.findTransformECC with a mask strays by more than a pixel on a still, noisy pair in
OpenCV 5.0, and without one it follows the expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.preprocess.flow import grayscale
from mesynth.preprocess.regions import rigid_mask

_MARGIN = 12  # pixels about the rigid regions that take part in filtering
_IDENTITY = np.eye(2, 3)
_QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])  # a quarter turn: the derivative of a rotation at 0
_PEAK = 1.5  # standard deviation of the correlation peak, pixels


@dataclass(frozen=True, kw_only=True)
class StabiliseConfig:
    """How drift is estimated. Limits are shares of the crop's side, so that they hold at any size."""

    method: Literal["ecc", "phase"] = "ecc"
    """ecc: rotation and translation at the highest correlation (Evangelidis and Psarakis, TPAMI 2008), robustly;
    phase: translation by phase correlation."""
    iterations: int = 30
    """Most steps of either method."""
    tolerance: float = 0.003
    """Pixels; a step below it is the last."""
    blur: float = 1.0
    """Standard deviation of the Gaussian that the pictures are filtered with, pixels."""
    tukey: float = 4.685
    """Residuals above this many standard deviations are left out by ecc: no region is rigid for every expression."""
    max_shift: float = 0.08
    """A larger displacement of the rigid regions, share of the side, is taken for a failure."""
    max_rotation: float = 6.0
    """A larger rotation, degrees, is taken for a failure."""
    min_correlation: float = 0.5
    """A lower correlation of the rigid regions after registration is taken for a failure."""

    def __post_init__(self) -> None:
        if self.method not in ("ecc", "phase"):
            raise MesynthError(f"stabilise method '{self.method}' is unknown; choose from ecc, phase")
        if self.iterations < 1:
            raise MesynthError(f"stabilise iterations={self.iterations} must be at least 1")
        for name in ("tolerance", "blur", "tukey", "max_shift", "max_rotation"):
            if not getattr(self, name) > 0:
                raise MesynthError(f"stabilise {name}={getattr(self, name):g} must be positive")
        if not -1 <= self.min_correlation <= 1:
            raise MesynthError(f"stabilise min_correlation={self.min_correlation:g} must lie in [-1, 1]")


@dataclass(frozen=True, eq=False)
class DriftReport:
    """Drift of the rigid regions relative to the onset, before and after, both measured on the pictures.

    It is motion in the plane: a head that turns in depth keeps what no such motion explains, unseen by ``after``.

    ``before``, ``after`` [T] float64: mean displacement of the rigid pixels; NaN where it could not be measured.
    ``rotation_before``, ``rotation_after`` [T] degrees, clockwise as seen. ``failed``: frames kept as they were;
    ``fallback``: frames for which ecc failed and the translation by phase correlation was taken.
    """

    before: np.ndarray
    after: np.ndarray
    rotation_before: np.ndarray
    rotation_after: np.ndarray
    failed: tuple[int, ...]
    fallback: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: means, maxima and each frame; None where nothing was measured."""
        out: dict[str, Any] = {"failed": list(self.failed), "fallback": list(self.fallback)}
        for name in ("before", "after", "rotation_before", "rotation_after"):
            values = getattr(self, name)
            known = np.abs(values[1:][np.isfinite(values[1:])])
            out[name] = {
                "mean": round(float(known.mean()), 5) if len(known) else None,
                "max": round(float(known.max()), 5) if len(known) else None,
                "frames": [round(float(v), 5) if np.isfinite(v) else None for v in values],
            }
        return out


@dataclass(frozen=True, eq=False)
class Stabilised:
    """``frames`` uint8 [T,H,W,3]; ``transforms`` [T,2,3] float64, onset pixel -> pixel of the frame as given."""

    frames: np.ndarray
    transforms: np.ndarray
    drift: DriftReport


@dataclass(frozen=True, eq=False)
class _Estimate:
    """``matrix`` [2,3], onset -> frame; None when no plausible one was found."""

    matrix: np.ndarray | None
    fallback: bool = False


def stabilise(frames: np.ndarray, landmarks: np.ndarray, config: StabiliseConfig = StabiliseConfig()) -> Stabilised:
    """Register every frame to the onset: square crops [T,S,S,3] uint8, the onset's ``landmarks`` [68,2] in the crop.

    The onset comes back bit for bit, and so does a frame whose estimate fails or is implausible. Frames do not depend
    on one another. The drift afterwards is estimated anew, by the same method, on the frames returned.

    Raises:
        MesynthError: unfit frames or landmarks, or rigid regions of which the crop shows too little.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or frames.shape[1] != frames.shape[2]:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected square uint8 RGB crops [T,S,S,3]")
    if len(frames) < 1:
        raise MesynthError("a clip of no frames cannot be stabilised; give at least the onset")
    registrar = _Registrar.of(frames[0], landmarks, config)
    found = [_Estimate(_IDENTITY), *(registrar.estimate(frame) for frame in frames[1:])]
    transforms = np.stack([_IDENTITY if e.matrix is None else e.matrix for e in found])
    moved = np.array([not np.array_equal(t, _IDENTITY) for t in transforms])
    out = frames.copy()
    if moved.any():
        out[moved] = resample(frames[moved], transforms[moved])
    # A frame that was kept still drifts as it did; only moved ones need a second look.
    again = [registrar.estimate(f) if m else e for f, m, e in zip(out, moved, found, strict=True)]
    report = DriftReport(
        before=np.array([registrar.drift(e.matrix) for e in found]),
        after=np.array([registrar.drift(e.matrix) for e in again]),
        rotation_before=np.array([_rotation(e.matrix) for e in found]),
        rotation_after=np.array([_rotation(e.matrix) for e in again]),
        failed=tuple(t for t, e in enumerate(found) if e.matrix is None),
        fallback=tuple(t for t, e in enumerate(found) if e.fallback),
    )
    return Stabilised(out, transforms, report)


def resample(frames: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """``out(x) = frame(M x)`` by cubic B-splines, border replicated: [T,H,W,3] uint8, [T,2,3] -> [T,H,W,3] uint8.

    The interpolator of the estimate: cubic convolution left 0.03 px on turned pictures, this 0.004 px.
    """
    from scipy import ndimage

    _, h, w, _ = frames.shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    grid = np.stack([x, y, np.ones_like(x)])
    out = np.empty_like(frames)
    for frame, matrix, target in zip(frames, transforms, out, strict=True):
        where = np.einsum("ij,jhw->ihw", matrix, grid)[::-1]
        for channel in range(3):
            value = ndimage.map_coordinates(frame[..., channel].astype(np.float64), where, order=3, mode="nearest")
            target[..., channel] = np.clip(np.round(value), 0, 255)
    return out


@dataclass(frozen=True, eq=False)
class _Registrar:
    """The onset's rigid regions, and the estimate of a frame against them. Coordinates are those of ``box``."""

    config: StabiliseConfig
    side: int
    box: tuple[slice, slice]
    onset: np.ndarray
    points: np.ndarray
    """[N,2] rigid pixels (x, y); the rotation is about their mean."""
    slope: np.ndarray
    """[N,2] the onset's gradient there."""
    window: np.ndarray

    @staticmethod
    def of(onset: np.ndarray, landmarks: np.ndarray, config: StabiliseConfig) -> _Registrar:
        side = len(onset)
        mask = rigid_mask(landmarks, side)
        y, x = np.nonzero(mask)
        if len(x) < 64:
            raise MesynthError(f"the crop shows {len(x)} pixels of the face's rigid regions; need 64 for registration")
        box = (
            slice(max(y.min() - _MARGIN, 0), y.max() + _MARGIN + 1),
            slice(max(x.min() - _MARGIN, 0), x.max() + _MARGIN + 1),
        )
        signal = _signal(onset, box, config.blur)
        grown = cv2.dilate(mask[box].astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float64)
        points = np.stack([x - box[1].start, y - box[0].start], 1).astype(np.float64)
        at = (y - box[0].start, x - box[1].start)
        slope = np.stack([np.gradient(signal, axis=axis)[at] for axis in (1, 0)], 1)
        return _Registrar(config, side, box, signal, points, slope, cv2.GaussianBlur(grown, (0, 0), side / 64))

    def estimate(self, frame: np.ndarray) -> _Estimate:
        """[S,S,3] uint8 -> the transform onset -> frame, in whole-crop pixels."""
        from scipy import ndimage

        signal = _signal(frame, self.box, self.config.blur)
        coefficients = ndimage.spline_filter(signal, mode="mirror")
        shift = self._phase(coefficients) if self.config.method == "phase" else None
        if self.config.method == "phase":
            return _Estimate(self._whole(shift))
        matrix = self._ecc(coefficients, _IDENTITY)
        if matrix is None:
            shift = self._phase(coefficients)
            matrix = None if shift is None else self._ecc(coefficients, shift)
        if matrix is None:
            return _Estimate(self._whole(shift), shift is not None)
        return _Estimate(self._whole(matrix))

    def _ecc(self, coefficients: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """Gauss-Newton with gain and offset as unknowns, which is where the correlation is highest.

        The gradient is the mean of both pictures' (Malis, ICRA 2004); Tukey's biweight leaves out what moves by itself.
        """
        centre = self.points.mean(0)
        arm = self.points - centre
        template = self._sample_onset()
        angle, shift = np.arctan2(start[1, 0], start[0, 0]), start[:, :2] @ centre + start[:, 2] - centre
        for _ in range(self.config.iterations):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            where = arm @ turn.T + centre + shift
            value = _sample(coefficients, where)
            # Central differences of the frame along the frame's axes; the onset's gradient is turned into them.
            half = 0.5 * np.eye(2)
            ahead = [_sample(coefficients, where + h) - _sample(coefficients, where - h) for h in half]
            slope = 0.5 * (np.stack(ahead, 1) + self.slope @ turn.T)
            spin = arm @ (turn @ _QUARTER).T
            design = np.column_stack([slope, (slope * spin).sum(1), value, np.ones_like(value)])
            weight = np.ones_like(value)
            for _ in range(3):
                solution = _weighted(design, template, weight)
                residual = template - design @ solution
                scale = 1.4826 * np.median(np.abs(residual)) + 1e-6
                weight = np.clip(1 - (residual / (self.config.tukey * scale)) ** 2, 0, None) ** 2
            gain = solution[3]
            if not np.isfinite(solution).all() or gain < 0.2:
                return None  # the pictures do not correspond
            step = solution[:3] / gain
            shift, angle = shift + step[:2], angle + step[2]
            if np.hypot(*shift) > self.side:
                return None
            if np.hypot(*step[:2]) + abs(step[2]) * np.abs(arm).max() < self.config.tolerance:
                break
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return self._plausible(coefficients, np.column_stack([turn, centre + shift - turn @ centre]))

    def _phase(self, coefficients: np.ndarray) -> np.ndarray | None:
        """Phase correlation (Kuglin and Hines, 1975) under a Gaussian: the peak is one too, its logarithm a parabola.

        Repeated on the shifted picture, because the window stands still and one estimate falls short of the motion.
        """
        from scipy import ndimage

        h, w = self.onset.shape
        spectrum = np.conj(np.fft.rfft2(self._windowed(self.onset)))
        low_pass = np.exp(-2 * (np.pi * _PEAK) ** 2 * (np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w) ** 2))
        matrix = _IDENTITY.copy()
        for _ in range(self.config.iterations):
            moved = ndimage.shift(coefficients, -matrix[::-1, 2], prefilter=False, mode="nearest")
            cross = spectrum * np.fft.rfft2(self._windowed(moved))
            surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9) * low_pass, (h, w))
            step = _peak(surface)
            matrix[:, 2] += step
            if np.hypot(*step) < self.config.tolerance or np.hypot(*matrix[:, 2]) > self.side:
                break
        return self._plausible(coefficients, matrix)

    def _windowed(self, signal: np.ndarray) -> np.ndarray:
        mean = (self.window * signal).sum() / self.window.sum()
        return np.asarray(self.window * (signal - mean))

    def _sample_onset(self) -> np.ndarray:
        at = self.points.astype(np.int64)
        return np.asarray(self.onset[at[:, 1], at[:, 0]])

    def _plausible(self, coefficients: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
        """The matrix, unless it moves or turns too far or the pictures still differ."""
        moved = self.points @ matrix[:, :2].T + matrix[:, 2]
        limit = self.config.max_shift * self.side
        if np.hypot(*(moved - self.points).T).mean() > limit or abs(_rotation(matrix)) > self.config.max_rotation:
            return None
        a, b = self._sample_onset(), _sample(coefficients, moved)
        a, b = a - a.mean(), b - b.mean()
        size = float(np.sqrt((a @ a) * (b @ b)))
        return matrix if size > 0 and float(a @ b) / size >= self.config.min_correlation else None

    def _whole(self, matrix: np.ndarray | None) -> np.ndarray | None:
        """From pixels of the box to pixels of the crop."""
        if matrix is None:
            return None
        corner = np.array([self.box[1].start, self.box[0].start], np.float64)
        out = matrix.copy()
        out[:, 2] += corner - matrix[:, :2] @ corner
        return out

    def drift(self, matrix: np.ndarray | None) -> float:
        """Mean displacement of the rigid pixels by a whole-crop matrix, pixels; NaN for no estimate."""
        if matrix is None:
            return float("nan")
        points = self.points + np.array([self.box[1].start, self.box[0].start])
        return float(np.hypot(*(points @ matrix[:, :2].T + matrix[:, 2] - points).T).mean())


def _signal(frame: np.ndarray, box: tuple[slice, slice], blur: float) -> np.ndarray:
    """The luma of a box in grey levels, low-passed so that sensor noise has no say."""
    return np.asarray(cv2.GaussianBlur(grayscale(frame[box]).astype(np.float64) * 255, (0, 0), blur))


def _sample(coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cubic B-spline at [N,2] positions (x, y)."""
    from scipy import ndimage

    return np.asarray(ndimage.map_coordinates(coefficients, points.T[::-1], prefilter=False, mode="mirror"))


def _weighted(design: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares, [N,P] and [N] -> [P]."""
    root = np.sqrt(weight)
    return np.asarray(np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0])


def _peak(surface: np.ndarray) -> np.ndarray:
    """Sub-pixel (x, y) of a periodic surface's highest point: parabolas through the logarithms of its neighbours."""
    h, w = surface.shape
    y, x = divmod(int(surface.argmax()), w)
    out = []
    for line, at, n in ((surface[y], x, w), (surface[:, x], y, h)):
        low, mid, high = np.log(np.maximum(line[[at - 1, at, (at + 1) % n]], 1e-12))
        bend = low - 2 * mid + high
        offset = 0.5 * (low - high) / bend if bend < 0 else 0.0
        out.append((at + n // 2) % n - n // 2 + offset)
    return np.array(out)


def _rotation(matrix: np.ndarray | None) -> float:
    return float("nan") if matrix is None else float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
