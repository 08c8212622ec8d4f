"""Measuring a synthetic corpus against a real one: pictures, identity, action units, motion, memory.

``from mesynth.metrics.measure import measure`` runs everything; a class decorated with
``@mesynth.metrics.register("name")`` stands in every report (:class:`mesynth.metrics.base.Metric`). The names below are
loaded when first used: importing the package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesynth.core import lazy_names

if TYPE_CHECKING:
    from mesynth.metrics.base import METRICS, ClipMetric, MeasureConfig, MeasureRow, Metric, register
    from mesynth.metrics.control import intensity_sweep
    from mesynth.metrics.networks.judge import AUJudge
    from mesynth.metrics.report import MeasureReport
    from mesynth.metrics.streams import AUErrors, FlowErrors, FrechetDistance, KernelDistance

__all__ = [
    "METRICS", "AUErrors", "AUJudge", "ClipMetric", "FlowErrors", "FrechetDistance", "KernelDistance", "MeasureConfig",
    "MeasureReport", "MeasureRow", "Metric", "intensity_sweep", "register",
]  # fmt: skip
_HOME = {
    "METRICS": "base",
    "AUErrors": "streams",
    "AUJudge": "networks.judge",
    "ClipMetric": "base",
    "FlowErrors": "streams",
    "FrechetDistance": "streams",
    "KernelDistance": "streams",
    "MeasureConfig": "base",
    "MeasureReport": "report",
    "MeasureRow": "base",
    "Metric": "base",
    "intensity_sweep": "control",
    "register": "base",
}
__getattr__, __dir__ = lazy_names(__name__, _HOME)
