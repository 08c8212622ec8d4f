"""The face network: 128-d embeddings by which two pictures are of one person or of two."""

from __future__ import annotations

from typing import Any

import numpy as np

from mesynth.core.errors import WeightsUnavailable
from mesynth.metrics.networks import weights

CHIP, PADDING = 150, 0.25


class FaceEmbedder:
    """128-d embeddings of dlib's face ResNet (King, 2017; files of face-recognition-models, CC0).

    Raises:
        WeightsUnavailable: dlib-bin or face-recognition-models is not installed.
    """

    name = "dlib face ResNet, 128-d"

    def __init__(self) -> None:
        resnet, five = (
            weights.package_file("face_recognition_models", f) for f in (weights.DLIB_RESNET, weights.DLIB_FIVE)
        )
        if resnet is None or five is None:
            raise WeightsUnavailable(
                f"face ResNet: {weights.DLIB_RESNET} and {weights.DLIB_FIVE} were not found in an installed "
                "face-recognition-models; pip install dlib-bin face-recognition-models"
            )
        try:
            import dlib
        except ImportError:
            raise WeightsUnavailable("face ResNet: the package dlib is not installed; pip install dlib-bin") from None
        self._dlib: Any = dlib
        self._net: Any = dlib.face_recognition_model_v1(str(resnet))
        self._five: Any = dlib.shape_predictor(str(five))

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Frames [N,H,W,3] uint8 RGB of one clip and its onset landmarks [68,2] -> embeddings [N,128] float64.

        The chip is cut once, from the onset: a chip per frame would hide a drift of the face.
        """
        dlib = self._dlib
        low, high = landmarks.min(0), landmarks.max(0)
        # dlib's predictors expect their detector's box: brows to chin, about square.
        side, centre = float(np.max(high - low)), (low + high) / 2
        box = dlib.rectangle(*np.round([*(centre - side / 2), *(centre + side / 2)]).astype(int).tolist())
        shape = self._five(np.ascontiguousarray(frames[0]), box)
        chips = [dlib.get_face_chip(np.ascontiguousarray(f), shape, CHIP, PADDING) for f in frames]
        return np.asarray([np.array(v) for v in self._net.compute_face_descriptor(chips)], np.float64)
