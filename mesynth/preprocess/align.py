"""Face alignment: one similarity transform per clip, from the onset's landmarks, for all of its frames.

A transform per frame would follow the expression itself (raised cheeks move eye landmarks) and so remove part
of the motion that is to be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mesynth.errors import MesynthError
from mesynth.preprocess.config import CROP_SIZE

IOD_SHARE = 0.40
"""Distance of the eye centres as a share of the crop's width."""
EYE_LINE = 0.35
"""Height of the eye centres as a share of the crop's height."""
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
"""iBUG-68 landmarks of the subject's right (image left) and left eye."""


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """[68,2] -> [2,2]: centres of the eye at image left, then at image right."""
    return np.stack([landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)])


@dataclass(frozen=True, eq=False)
class SimilarityCrop:
    """A similarity transform into a square crop: ``matrix`` [2,3] float64, source pixels -> crop pixels."""

    matrix: np.ndarray
    size: int

    @property
    def scale(self) -> float:
        """Crop pixels per source pixel."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @staticmethod
    def from_landmarks(landmarks: np.ndarray, size: int = CROP_SIZE) -> SimilarityCrop:
        """The canonical crop: eye centres level, IOD_SHARE of the width apart, EYE_LINE below the top.

        Raises:
            MesynthError: the landmarks are not [68,2], not finite, or both eyes lie on one point.
        """
        if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
            raise MesynthError(f"landmarks of shape {landmarks.shape} cannot be aligned; need 68 finite points (x, y)")
        right, left = eye_centres(landmarks.astype(np.float64))
        across = left - right
        iod = float(np.hypot(*across))
        if iod < 1:
            raise MesynthError(f"the eye centres are {iod:.2g} pixels apart; the landmarks do not show a face")
        scale = IOD_SHARE * size / iod
        cos, sin = across / iod * scale
        rotation = np.array([[cos, sin], [-sin, cos]])
        # Shares are of the pixel grid from edge to edge; pixel centres lie half a pixel inside.
        target = np.array([0.5, EYE_LINE]) * size - 0.5
        return SimilarityCrop(np.column_stack([rotation, target - rotation @ (right + left) / 2]), size)

    def padded(self, margin: int) -> SimilarityCrop:
        """The same crop with ``margin`` more pixels of the picture on every side."""
        matrix = self.matrix.copy()
        matrix[:, 2] += margin
        return SimilarityCrop(matrix, self.size + 2 * margin)

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """[T,H,W,3] uint8 -> [T,size,size,3] uint8; the border is replicated outside the picture.

        When the crop is smaller than the face, frames are low-passed first so that fine texture does not alias
        (cv2.warpAffine samples a 4x4 neighbourhood whatever the scale).
        """
        sigma = 0.5 * np.sqrt(max(1 / self.scale**2 - 1, 0))
        out = np.empty((len(frames), self.size, self.size, 3), np.uint8)
        for source, target in zip(frames, out, strict=True):
            if sigma > 0.3:
                source = cv2.GaussianBlur(source, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
            cv2.warpAffine(
                np.ascontiguousarray(source), self.matrix, (self.size, self.size), dst=target,
                flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
        return out

    def points(self, points: np.ndarray) -> np.ndarray:
        """[N,2] source pixels -> [N,2] float32 crop pixels."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2], np.float32)
