"""What the road has produced, as the report shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesynth.manifest import Manifest
from mesynth.quality.contest.result import Result
from mesynth.quality.report import MeasureReport
from recognizer.ablation import AblationResult
from recognizer.result import LosoResult


@dataclass(frozen=True)
class Show:
    """One generator on one photo."""

    model: str
    clips: Manifest
    sweep: Manifest


@dataclass(frozen=True)
class Study:
    """What the report shows."""

    out: Path
    real: Manifest
    synthetic: Manifest
    matched: Manifest
    """The synthetic corpus with flow re-estimated from its frames, as the real clips' flow was."""
    shows: list[Show]
    """What each generator makes of the photo, the motion prior first."""
    contest: Result
    measures: MeasureReport
    recognition: dict[str, LosoResult]
    ablation: AblationResult
    refusal: str
    photo_name: str
    seconds: dict[str, float]
