"""A saved AU-ICGAN as a generator: every frame of a clip is painted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mesynth.generators.au_icgan.network import AUICGenerator
from mesynth.generators.painting import painted_clip
from mesynth.motion.nuisance import Nuisance
from mesynth.store.generator_folder import load_network

if TYPE_CHECKING:
    from mesynth.core.profiles import Profile
    from mesynth.core.types import AUVector, Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts


FAMILY = "au_icgan"


class AUICGAN:
    """A saved AU-ICGAN as a generator; see :class:`mesynth.generators.base.Generator`."""

    family = FAMILY

    def __init__(self, network: AUICGenerator, facts: GeneratorFacts) -> None:
        self.network, self.facts = network, facts
        self.size: int = network.config["size"]

    def generate(
        self,
        face: Face,
        aus: AUVector,
        profile: Profile,
        *,
        n_frames: int,
        fps: float,
        nuisance: Nuisance = Nuisance(),
        seed: int = 0,
    ) -> tuple[Sample, tuple[str, ...]]:
        """See the protocol, and :func:`mesynth.generators.painting.painted_clip` for sizes and errors."""
        return painted_clip(
            FAMILY, self.size, self._paint, face, aus, profile, n_frames=n_frames, fps=fps, nuisance=nuisance,
            seed=seed, device=self.network.device,
        )  # fmt: skip

    def _paint(self, onset: torch.Tensor, aus: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        pictures = onset.expand(len(aus), -1, -1, -1)
        out: torch.Tensor = self.network.forward(pictures, aus).picture - pictures
        return out


def load(folder: Path, facts: GeneratorFacts) -> AUICGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return AUICGAN(load_network(AUICGenerator, folder / "generator"), facts)
