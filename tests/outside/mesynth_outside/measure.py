"""A measure of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mesynth.metrics.base import ClipData, ClipMetric, MeasureRow, Observation


# [measure]
class MotionShare(ClipMetric):
    """Share of a crop that moves by more than half a pixel from onset to apex."""

    label = "motion share"

    def observe(self, clip: ClipData) -> Observation:
        return {"share": float((np.hypot(*clip.emitted_flow) > 0.5).mean())}

    def compute(self) -> Sequence[MeasureRow]:
        return [self.median_row("pixels that move", "share", key="motion_share")]


# [end]
