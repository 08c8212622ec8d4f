"""Frames as networks see them: grey, of one size, and of one length in time."""

from __future__ import annotations

import cv2
import numpy as np

from mesynth.errors import ManifestError
from mesynth.manifest import Manifest, Row
from mesynth.shards import read_frames

FLOW, APEX, FRAMES = "flow", "apex", "frames"
VIEWS = (FLOW, APEX, FRAMES)


def frame_views(manifest: Manifest, row: Row, wanted: tuple[str, ...], size: int, length: int) -> dict[str, np.ndarray]:
    """``apex`` [2,F,F] (onset and apex) and ``frames`` [T,F,F] of one clip, uint8 grey, as far as they are wanted.

    A clip of any length becomes ``length`` frames by linear interpolation in time between its first and last frame,
    the usual stand-in for the temporal interpolation model of Zhou et al. (2011).

    Raises:
        ManifestError: the clip has no frames.
    """
    frames = read_frames(manifest.root, row)
    if len(frames) <= row.apex_index:
        raise ManifestError(f"clip {row.clip_id} has {len(frames)} frames and its apex at {row.apex_index}; prepare it")
    out = {}
    if APEX in wanted:
        out[APEX] = np.stack([_grey(frames[0], size), _grey(frames[row.apex_index], size)])
    if FRAMES in wanted:
        at = np.linspace(0, len(frames) - 1, length)
        below = np.floor(at).astype(int)
        above, share = np.minimum(below + 1, len(frames) - 1), at - below
        needed = {i: _grey(frames[i], size).astype(np.float32) for i in {*below.tolist(), *above.tolist()}}
        mixed = [(1 - s) * needed[a] + s * needed[b] for a, b, s in zip(below, above, share, strict=True)]
        out[FRAMES] = np.rint(np.stack(mixed)).astype(np.uint8)
    return out


def _grey(frame: np.ndarray, size: int) -> np.ndarray:
    """[H,W,3] uint8 RGB -> [size,size] uint8."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if min(grey.shape) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, (size, size), interpolation=how))
