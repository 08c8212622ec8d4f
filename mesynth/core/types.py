"""The values that travel between rooms: checked once, when they are made, and never changed after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_AUS = 25  # rows of facs.AU_CODES; facs checks that the two agree
LOWERABLE_ROWS = (8, 18, 19, 20, 23, 24)
"""Rows that may be negative, of facs.LOWERABLE; facs checks that the two agree."""
_RAISED_ROWS = [row for row in range(N_AUS) if row not in LOWERABLE_ROWS]
LANDMARK_MIRROR = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
)  # fmt: skip
"""iBUG-68 landmark -> its mirror image."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Clip:
    """A video clip: ``frames`` [T,H,W,3] uint8 RGB, ``fps`` in 1/s, ``apex`` an index into the frames.

    Raises ValueError for other shapes or types.

    >>> Clip(np.zeros((9, 64, 64, 3), np.uint8), fps=200, apex=4).apex_frame.shape
    (64, 64, 3)
    >>> Clip(np.zeros((9, 64, 64, 3), np.uint8), fps=200, apex=9)
    Traceback (most recent call last):
    ValueError: apex 9 is outside the clip's 9 frames
    """

    frames: np.ndarray
    fps: float
    apex: int

    def __post_init__(self) -> None:
        f = self.frames
        _require(f.ndim == 4 and f.shape[-1] == 3, f"frames have shape {f.shape}; expected [T,H,W,3]")
        _require(f.dtype == np.uint8, f"frames are {f.dtype}; expected uint8 RGB")
        _require(len(f) >= 2, f"a clip needs at least 2 frames, got {len(f)}")
        _require(self.fps > 0, f"fps is {self.fps}; expected a positive number")
        _require(0 <= self.apex < len(f), f"apex {self.apex} is outside the clip's {len(f)} frames")

    @property
    def apex_frame(self) -> np.ndarray:
        """[H,W,3] uint8."""
        return self.frames[self.apex]


@dataclass(frozen=True)
class Flow:
    """Optical flow onset -> apex: ``uv`` [2,H,W] float32, pixels, x right and y down, on the onset's grid.

    ``valid`` [H,W] bool is False where the onset pixel is hidden at the apex or has left the picture; None means all
    valid. ``new`` [H,W] bool, on the apex's grid, is True where the apex shows what the onset hides (an eyeball or the
    inside of a mouth uncovered), ``still`` [H,W] bool where nothing but the head can move the onset's pixel
    (background, hair); None means not known. Raises ValueError for other shapes or types.

    >>> right = np.zeros((2, 64, 64), np.float32)
    >>> right[0] = 1.5  # pixels, everywhere the same: nothing is strained
    >>> float(Flow(right).strain().max())
    0.0
    """

    uv: np.ndarray
    valid: np.ndarray | None = None
    new: np.ndarray | None = None
    still: np.ndarray | None = None

    def __post_init__(self) -> None:
        _require(self.uv.ndim == 3 and self.uv.shape[0] == 2, f"flow has shape {self.uv.shape}; expected [2,H,W]")
        _require(self.uv.dtype == np.float32, f"flow is {self.uv.dtype}; expected float32 pixels")
        _require(bool(np.isfinite(self.uv).all()), "flow holds NaN or infinity")
        for name in ("valid", "new", "still"):
            mask = getattr(self, name)
            if mask is not None:
                _require(mask.shape == self.uv.shape[1:], f"{name} {mask.shape} does not fit {self.uv.shape}")
                _require(mask.dtype == np.bool_, f"{name} is {mask.dtype}; expected bool")

    def strain(self) -> np.ndarray:
        """Optical strain magnitude [H,W] float32 (Shreve et al., 2011), see :func:`optical_strain`."""
        return optical_strain(self.uv)


def optical_strain(uv: np.ndarray) -> np.ndarray:
    """``sqrt(ux^2 + vy^2 + (uy + vx)^2 / 2)`` of flow [...,2,H,W] -> [...,H,W] float32, per pixel.

    The norm of the symmetric gradient, as the published flow-image pipelines compute it.
    """
    u, v = uv[..., 0, :, :], uv[..., 1, :, :]
    uy, ux = np.gradient(u, axis=(-2, -1))
    vy, vx = np.gradient(v, axis=(-2, -1))
    return np.sqrt(ux**2 + vy**2 + 0.5 * (uy + vx) ** 2).astype(np.float32)


_RMS_TOLERANCE = 1e-4
"""Of float16 storage; flow in pixels comes this near to 1 in one clip of ten thousand."""


def in_own_rms(uv: np.ndarray) -> bool:
    """Whether flow [2,H,W] is in units of its own root mean square, as what is read from published flow images is.

    >>> in_own_rms(np.full((2, 4, 4), 1.0)), in_own_rms(np.full((2, 4, 4), 1.3))
    (True, False)
    """
    return bool(abs(np.sqrt(np.mean(np.square(uv, dtype=np.float64))) - 1) < _RMS_TOLERANCE)


def flow_planes(uv: np.ndarray, size: int) -> np.ndarray:
    """[3,S,S] float32: u, v and optical strain of flow [2,H,W], shrunk by area.

    u and v keep the pixels of the fine grid; strain is computed there, before shrinking, as in the published images.
    """
    import cv2  # the one thing here that needs it

    way = cv2.INTER_AREA if size < min(uv.shape[1:]) else cv2.INTER_LINEAR
    planes = (uv[0], uv[1], optical_strain(uv))
    return np.stack([cv2.resize(np.ascontiguousarray(p), (size, size), interpolation=way) for p in planes])


def stretched(plane: np.ndarray) -> np.ndarray:
    """uint8: minimum to 0, maximum to 255, rounded; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    if not high > low:
        return np.zeros(plane.shape, np.uint8)
    return np.round((plane.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)


@dataclass(frozen=True)
class AUVector:
    """AU intensities of one apex: ``intensity`` [K,2] float32, rows facs.AU_CODES, columns (L, R).

    They are changes from what the onset shows: in [0,1], or in [-1,1] where an AU may be lowered
    (:data:`LOWERABLE_ROWS`).

    ``known`` [K,2] bool says which entries are measured; the others carry no information (and are 0). Raises
    ValueError for other shapes, types or values; :func:`mesynth.parse_request` makes one of text.

    >>> still = AUVector(np.zeros((N_AUS, 2), np.float32))
    >>> still.intensity.shape, bool(still.mask.all())
    ((25, 2), True)
    """

    intensity: np.ndarray
    known: np.ndarray | None = None

    def __post_init__(self) -> None:
        a = self.intensity
        # Made for every row of a plan, several times: the texts are not.
        if a.shape != (N_AUS, 2):
            raise ValueError(f"AU intensities have shape {a.shape}; expected [{N_AUS},2]")
        if a.dtype != np.float32:
            raise ValueError(f"AU intensities are {a.dtype}; expected float32")
        low = float(a.min())
        if not (low >= 0 and a.max() <= 1) and not (low >= -1 and a.max() <= 1 and a[_RAISED_ROWS].min() >= 0):
            raise ValueError(f"AU intensities span [{low:g}, {a.max():g}]; expected [0,1]")
        if self.known is None:
            object.__setattr__(self, "known", np.ones(a.shape, np.bool_))
            return
        _require(self.known.shape == a.shape and self.known.dtype == np.bool_, "known must be bool of the same shape")
        _require(bool((a[~self.known] == 0).all()), "an unknown AU must have intensity 0")

    @property
    def mask(self) -> np.ndarray:
        """``known`` as an array (never None)."""
        assert self.known is not None
        return self.known


@dataclass(frozen=True)
class Sample:
    """One synthesized or prepared clip: frames, onset -> apex flow, and the AUs at the apex.

    Raises ValueError when frames and flow differ in size.

    >>> clip = Clip(np.zeros((9, 64, 64, 3), np.uint8), fps=200, apex=4)
    >>> Sample(clip, Flow(np.zeros((2, 32, 32), np.float32)), AUVector(np.zeros((N_AUS, 2), np.float32)))
    Traceback (most recent call last):
    ValueError: frames (64, 64) and flow (32, 32) differ in size
    """

    clip: Clip
    flow: Flow
    aus: AUVector

    def __post_init__(self) -> None:
        _require(
            self.clip.frames.shape[1:3] == self.flow.uv.shape[1:],
            f"frames {self.clip.frames.shape[1:3]} and flow {self.flow.uv.shape[1:]} differ in size",
        )
