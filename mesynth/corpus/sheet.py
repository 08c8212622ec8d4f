"""Clips as pictures for people: onset, apex, what changed, and the flow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mesynth.head.sheet import contact_sheet
from mesynth.manifest import Manifest, Row
from mesynth.preprocess.flow import flow_picture
from mesynth.shards import read_flow, read_frames

FLOW_SCALE = 3.0
"""Pixels of motion shown at full colour, the same for every picture."""
DIFFERENCE_GAIN = 4


def clip_column(manifest: Manifest, row: Row) -> np.ndarray:
    """[4H,W,3] uint8: onset, apex, apex - onset amplified around grey, flow at a fixed scale."""
    frames = read_frames(manifest.root, row)
    onset, apex = frames[0], frames[row.apex_index]
    difference = np.clip(128 + DIFFERENCE_GAIN * (apex.astype(int) - onset), 0, 255).astype(np.uint8)
    return np.vstack([onset, apex, difference, flow_picture(read_flow(manifest.root, row), FLOW_SCALE)])


def corpus_sheet(manifest: Manifest, rows: Iterable[Row]) -> np.ndarray:
    """The columns of ``rows`` side by side."""
    columns = [clip_column(manifest, row) for row in rows]
    return contact_sheet(columns, len(columns))
