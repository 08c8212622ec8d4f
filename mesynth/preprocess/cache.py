"""Landmarks once found are not looked for again: a cache keyed by the picture's pixels and the detector.

Finding landmarks takes longer than everything else that `prepare` does to a clip; the key does not depend on file
names or settings, so another crop size, flow method or output folder finds them again.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np

from mesynth.errors import NoFaceError
from mesynth.run_folder import write_bytes

ENVIRONMENT = "MESYNTH_CACHE"


def default_folder() -> Path:
    """``$MESYNTH_CACHE``, else ``mesynth`` in the user's cache folder."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mesynth"


class LandmarkCache:
    """Landmarks [68,2] float32 by picture; a picture without a face is remembered too."""

    def __init__(self, folder: Path, detector: str) -> None:
        """``detector``: name and version of what finds them; another one never reads its entries."""
        self.folder, self.detector = folder, detector

    def _file(self, picture: np.ndarray) -> Path:
        digest = hashlib.sha256(f"{self.detector} {picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture).data)
        key = digest.hexdigest()
        return self.folder / "landmarks" / key[:2] / f"{key[2:]}.npy"

    def get(self, picture: np.ndarray) -> np.ndarray | None:
        """The landmarks of ``picture``, None if they were never looked for.

        Raises:
            NoFaceError: they were, and there was no face.
        """
        try:
            points = np.load(io.BytesIO(self._file(picture).read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or damaged: found anew and overwritten
            return None
        if points.shape == (0, 2):
            h, w = picture.shape[:2]
            raise NoFaceError(f"no face found in a {w}x{h} picture; give a frontal face, or landmarks by file")
        return points if points.shape == (68, 2) else None

    def put(self, picture: np.ndarray, points: np.ndarray | None) -> None:
        """Remember the landmarks, or with None that there is no face."""
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((0, 2), np.float32) if points is None else points, allow_pickle=False)
        write_bytes(self._file(picture), buffer.getvalue())
