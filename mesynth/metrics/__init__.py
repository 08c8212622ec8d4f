"""Measuring a synthetic corpus against a real one: pictures, identity, action units, motion, memory.

``from mesynth.metrics.measure import measure`` runs everything; a class decorated with
``@mesynth.metrics.register("name")`` stands in every report (:class:`mesynth.metrics.base.Metric`). The names below are
loaded when first used: importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesynth.metrics.base import METRICS, ClipMetric, MeasureConfig, MeasureRow, Metric, register
    from mesynth.metrics.control import intensity_sweep
    from mesynth.metrics.networks.judge import AUJudge
    from mesynth.metrics.report import MeasureReport

_HOME = {
    "METRICS": "base",
    "AUJudge": "networks.judge",
    "ClipMetric": "base",
    "MeasureConfig": "base",
    "MeasureReport": "report",
    "MeasureRow": "base",
    "Metric": "base",
    "intensity_sweep": "control",
    "register": "base",
}
__all__ = [
    "METRICS", "AUJudge", "ClipMetric", "MeasureConfig", "MeasureReport", "MeasureRow", "Metric", "intensity_sweep",
    "register",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
