"""Measuring a synthetic corpus against a real one: pictures, identity, action units, motion, memory.

``from mesynth.quality.measure import measure`` runs everything. The names below are loaded when first used:
importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesynth.quality.control import intensity_sweep
    from mesynth.quality.judge import AUJudge
    from mesynth.quality.measure import MeasureConfig
    from mesynth.quality.report import MeasureReport, MeasureRow

_HOME = {
    "AUJudge": "judge",
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
