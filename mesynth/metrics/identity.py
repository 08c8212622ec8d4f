"""Identity: is the person at the apex still the person at the onset? Face embeddings beside ceiling and floor.

The ceiling is the same distance in real clips (an expression alone moves the embedding a little), the floor
the distance between different people. On rendered heads absolute distances mean little; compare with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mesynth.core.errors import WeightsUnavailable
from mesynth.metrics.networks import weights

THRESHOLD = 0.6
"""Distance below which the network's author calls two faces the same person (dlib's documentation)."""
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


@dataclass(frozen=True, kw_only=True)
class IdentityScore:
    """Distances of same-person pairs: mean, 1st and 99th percentile, share below THRESHOLD, and how many."""

    mean: float
    p1: float
    p99: float
    verified: float
    n: int


def distances(embeddings: np.ndarray) -> np.ndarray:
    """[N,D] of one clip, onset first -> [N-1]: Euclidean distance of each frame to the onset."""
    return np.asarray(np.linalg.norm(embeddings[1:] - embeddings[:1], axis=1))


def score(values: np.ndarray) -> IdentityScore:
    """Summary of [N] distances. Raises ValueError when there is none."""
    if not len(values):
        raise ValueError("no face pair to score")
    p1, p99 = np.percentile(values, [1, 99])
    share = float((values < THRESHOLD).mean())
    return IdentityScore(mean=float(values.mean()), p1=float(p1), p99=float(p99), verified=share, n=len(values))


def different_people(onsets: np.ndarray, subjects: list[str]) -> np.ndarray:
    """Distances [P] between onset embeddings [N,D] of different subjects: the floor; empty with one subject."""
    names = np.array(subjects)
    i, j = np.triu_indices(len(onsets), 1)
    keep = names[i] != names[j]
    return np.asarray(np.linalg.norm(onsets[i[keep]] - onsets[j[keep]], axis=1))


def sampled_frames(n_frames: int, apex: int, step: int) -> list[int]:
    """Onset, apex and each ``step``-th frame, ascending, onset first."""
    return sorted({0, apex, *range(step, n_frames, step)})
