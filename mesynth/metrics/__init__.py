"""Measuring a synthetic corpus against a real one: pictures, identity, action units, motion, memory.

``from mesynth.metrics.measure import measure`` runs everything. The names below are loaded when first used:
importing the package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesynth.core.lazy import lazy_names

if TYPE_CHECKING:
    from mesynth.metrics.control import intensity_sweep
    from mesynth.metrics.measure import MeasureConfig
    from mesynth.metrics.networks.judge import AUJudge
    from mesynth.metrics.report import MeasureReport, MeasureRow

__all__ = ["AUJudge", "MeasureConfig", "MeasureReport", "MeasureRow", "intensity_sweep"]
_HOME = {
    "AUJudge": "networks.judge",
    "MeasureConfig": "measure",
    "MeasureReport": "report",
    "MeasureRow": "report",
    "intensity_sweep": "control",
}
__getattr__, __dir__ = lazy_names(__name__, _HOME)
