"""The canonical face frame, and the map from a picture's pixels to it.

Origin between the eye centres, u to image right, v down, unit one inter-ocular distance (IOD, between
the means of landmarks 36-41 and 42-47). The subject's left side is u > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RBFInterpolator

from mesynth.preprocess.align import eye_centres

_GRID_STEP = 4  # the map is smooth: evaluating it every 4 pixels and interpolating loses nothing visible
# Far points that follow the similarity alone, so that the spline stays tame outside the landmarks.
_ANCHORS = np.array(
    [(u, v) for u in (-2, -1, 0, 1, 2) for v in (-2.2, -1.4)]
    + [(u, v) for u in (-2.2, 2.2) for v in (-0.5, 0.6, 1.6, 2.6)]
    + [(u, 2.8) for u in (-1, 0, 1)],
    np.float64,
)


@dataclass(frozen=True)
class FaceMap:
    """``uv`` [H,W,2] float32: canonical coordinates of each pixel; ``rotation`` [2,2] float32 turns a
    canonical displacement into image directions; ``iod`` is the inter-ocular distance in pixels."""

    uv: np.ndarray
    rotation: np.ndarray
    iod: float


def eye_frame(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(centre [2], rotation [2,2], IOD in pixels) of 68 landmarks [68,2]."""
    left_in_image, right_in_image = eye_centres(landmarks)
    axis = right_in_image - left_in_image
    iod = float(np.hypot(*axis))
    if not iod > 1:
        raise ValueError(f"the eye centres are {iod:.2f} px apart; these are no 68 landmarks of a face")
    c, s = axis / iod
    return (left_in_image + right_in_image) / 2, np.array([[c, -s], [s, c]]), iod


def face_map(landmarks: np.ndarray, height: int, width: int, canonical: np.ndarray) -> FaceMap:
    """Thin-plate map from image landmarks [68,2] (pixels) to ``canonical`` landmarks [68,2] (IOD units).

    Smoothing is 0.01 IOD: landmark jitter must not fold the face.
    """
    centre, rotation, iod = eye_frame(landmarks.astype(np.float64))
    sources = np.vstack([landmarks, _ANCHORS @ (rotation.T * iod) + centre])
    spline = RBFInterpolator(
        sources, np.vstack([canonical, _ANCHORS]), kernel="thin_plate_spline", smoothing=0.01 * iod
    )
    gy = np.arange(0, height + _GRID_STEP, _GRID_STEP)
    gx = np.arange(0, width + _GRID_STEP, _GRID_STEP)
    nodes = np.stack(np.meshgrid(gx, gy), -1).reshape(-1, 2).astype(np.float64)
    coarse = spline(nodes).reshape(len(gy), len(gx), 2)
    uv = _interpolate(_interpolate(coarse, height, 0), width, 1)
    return FaceMap(uv.astype(np.float32), rotation.astype(np.float32), iod)


def _interpolate(coarse: np.ndarray, n: int, axis: int) -> np.ndarray:
    position = np.arange(n) / _GRID_STEP
    low = position.astype(int)
    shape = [1, 1, 1]
    shape[axis] = n
    share = (position - low).reshape(shape)
    return np.take(coarse, low, axis) * (1 - share) + np.take(coarse, low + 1, axis) * share
