"""A family that takes options and gains: the motion prior, asked for some share of every AU, unsteady when hurried."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mesynth.core.seeds import stream
from mesynth.core.types import AUVector, Sample
from mesynth.generators.base import ClipRequest, calibrated
from mesynth.generators.registry import PriorGenerator
from mesynth.store.generator_folder import Family, GeneratorFacts, save_pipeline
from tests.builders import with_family
from tests.generators.saved import lively

FACTS = GeneratorFacts(
    name="toy", size=32, subjects_seen=("rendered/person0000920000",), licences=("CC0-1.0",), data_hash="d",
    config_hash="c", images=0, seed=0, code_version="0",
)  # fmt: skip
SHARE = 0.5
"""Of the intensity asked for, at guidance 1."""


class Toy(PriorGenerator):
    """Shows ``SHARE * guidance`` of what it is asked for, give or take a tenth over the square root of ``steps``."""

    size = 32

    def __init__(self, facts: GeneratorFacts, steps: int = 4, guidance: float = 1.0, gainless: bool = False) -> None:
        super().__init__()
        self.family = "toy"
        self.facts, self.steps, self.guidance, self.gainless = facts, steps, guidance, gainless

    def configured(self, *, steps: int = 4, guidance: float = 1.0) -> Toy:
        return Toy(self.facts, steps, guidance, self.gainless)

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        aus = request.aus
        asked = aus if self.gainless else calibrated(aus, self.facts)
        drawn = 1 + 0.1 / np.sqrt(self.steps) * stream(request.seed, "toy").standard_normal() if self.steps else 1.0
        shown = AUVector(np.clip(SHARE * self.guidance * drawn * asked.intensity, 0, 1).astype(np.float32))
        return super().clip_of(replace(request, aus=shown))


def load(folder: Path, facts: GeneratorFacts) -> Toy:
    """See mesynth.store.generator_folder."""
    return Toy(facts)


def save_toy(folder: Path, monkeypatch: pytest.MonkeyPatch, **facts: object) -> Path:
    """A saved toy, known to the table of families for as long as the test lasts."""
    with_family(monkeypatch, "toy", Family(pipeline=f"{__name__}:load"))
    save_pipeline(folder, {"generator": lively()}, asdict(FACTS) | facts, "# a toy\n", size=32)
    return folder
