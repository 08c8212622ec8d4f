"""Measuring a synthetic corpus against a real one: pictures, identity, action units, motion, memory.

``from mesynth.metrics.measure import measure`` runs everything. The names below are loaded when first used:
importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesynth.metrics.control import intensity_sweep
    from mesynth.metrics.measure import MeasureConfig
    from mesynth.metrics.networks.judge import AUJudge
    from mesynth.metrics.report import MeasureReport, MeasureRow


_HOME = {
    "AUJudge": "networks.judge",
    "MeasureConfig": "measure",
    "MeasureReport": "report",
    "MeasureRow": "report",
    "intensity_sweep": "control",
}
__all__ = ["AUJudge", "MeasureConfig", "MeasureReport", "MeasureRow", "intensity_sweep"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
