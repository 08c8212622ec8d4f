"""One clip as the measures see it: read once, with everything derived from it computed once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from mesynth.core import seeds
from mesynth.core.errors import ManifestError, MesynthError
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import npy_array, read_flow, read_frames, read_landmarks, read_span

CURVE_SIZE = 64
"""Side of the aligned crop in which motion over time is estimated: a quarter of the work of 128."""


def face_mask(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H,W] bool: the convex hull of 68 landmarks [68,2], raised by half a face for the forehead."""
    brow = landmarks[17:27]
    up = 0.25 * (landmarks[8] - landmarks[27])
    points = np.concatenate([landmarks, brow - up]).astype(np.float32)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, hull, 1)
    return mask.astype(bool)


class ClipData:
    """A clip of the real or the synthetic side (``side``). Arrays are read when first used.

    Missing landmarks or flow raise ManifestError at use, so that only the measures that need them leave
    the clip out.
    """

    def __init__(self, side: str, row: Row, root: Path) -> None:
        self.side, self.row, self._root = side, row, root
        self.frames = read_frames(root, row)
        if not 0 < row.apex_index < len(self.frames):
            raise ManifestError(f"clip {row.clip_id} has no apex after its onset (apex_index {row.apex_index})")

    @cached_property
    def landmarks(self) -> np.ndarray:
        """The onset's landmarks [68,2] float32, pixels of the stored frames."""
        return read_landmarks(self._root, self.row)

    @cached_property
    def emitted_flow(self) -> np.ndarray:
        """The flow stored with the clip [2,H,W] float32, pixels of the stored frames."""
        return read_flow(self._root, self.row)

    @cached_property
    def face(self) -> np.ndarray:
        """[H,W] bool: the face in the stored onset, without pixels the clip marks as hidden at the apex."""
        mask = face_mask(self.landmarks, *self.frames.shape[1:3])
        assert self.row.flow is not None  # or there were no landmarks
        valid = read_span(self._root, self.row.flow).get("valid.npy")
        return mask & npy_array(valid) if valid is not None else mask

    @cached_property
    def aligned_pair(self) -> np.ndarray:
        """Onset and apex in the canonical 128-pixel crop, [2,128,128,3] uint8."""
        from mesynth.preprocess.align import SimilarityCrop

        return SimilarityCrop.from_landmarks(self.landmarks).frames(self.frames[[0, self.row.apex_index]])

    @cached_property
    def apex_flow(self) -> np.ndarray:
        """TV-L1 flow of :attr:`aligned_pair`, [2,128,128] float32."""
        from mesynth.preprocess.flow import estimate_flow

        return estimate_flow(*self.aligned_pair).uv

    @cached_property
    def small(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole clip at CURVE_SIZE: frames [T,S,S,3], flows onset -> frame [T-1,2,S,S], face mask [S,S]."""
        from mesynth.preprocess.align import SimilarityCrop
        from mesynth.preprocess.flow import estimate_flows

        crop = SimilarityCrop.from_landmarks(self.landmarks, CURVE_SIZE)
        frames = crop.frames(self.frames)
        flows = estimate_flows(np.repeat(frames[:1], len(frames) - 1, 0), frames[1:])
        return frames, np.stack([f.uv for f in flows]), face_mask(crop.points(self.landmarks), CURVE_SIZE, CURVE_SIZE)


def subset(manifest: Manifest, clips: int, seed: int, purpose: str) -> np.ndarray:
    """Up to ``clips`` row numbers, drawn without replacement from the seed alone, in random order."""
    order = seeds.stream(seed, f"measure-{purpose}").permutation(len(manifest))
    return np.asarray(order[:clips])


def walk(manifest: Manifest, rows: np.ndarray, side: str, left_out: dict[str, int]) -> Iterator[ClipData]:
    """The clips of ``rows`` one at a time; unreadable ones are counted in ``left_out`` by reason."""
    for index in rows:
        row = manifest.row(int(index))
        try:
            yield ClipData(side, row, manifest.root)
        except MesynthError as error:
            reason = str(error).replace(row.clip_id, "...")
            left_out[reason] = left_out.get(reason, 0) + 1
