"""A saved AU-ICGAN as a generator: every frame of a clip is painted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mesynth.generators.au_icgan.network import AUICGenerator
from mesynth.generators.base import ClipRequest
from mesynth.generators.painting import PaintingGenerator
from mesynth.store.generator_folder import load_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts


class AUICGAN(PaintingGenerator):
    """A saved AU-ICGAN as a generator; see :class:`mesynth.generators.base.Generator`."""

    family = "au_icgan"

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See :func:`mesynth.generators.painting.painted_clip` for sizes and errors."""
        return self.painted(self._paint, request)

    def _paint(self, onset: torch.Tensor, aus: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        pictures = onset.expand(len(aus), -1, -1, -1)
        out: torch.Tensor = self.network.forward(pictures, aus).picture - pictures
        return out


def load(folder: Path, facts: GeneratorFacts) -> AUICGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return AUICGAN(load_network(AUICGenerator, folder / "generator"), facts)
