"""A saved ICE-GAN as a generator: a clip shows the onset plus the difference of two drawings of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mesynth.core import seeds
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import MesynthError
from mesynth.generators.base import ClipRequest
from mesynth.generators.ice_gan.network import N_CLASSES, ICEGenerator
from mesynth.generators.painting import PaintingGenerator
from mesynth.store.generator_folder import load_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts


class ICEGAN(PaintingGenerator):
    """A saved ICE-GAN as a generator; see :class:`mesynth.generators.base.Generator`.

    The network draws the whole picture, with errors that have nothing to do with the expression. A clip therefore
    shows the onset plus the difference of two drawings of it, with and without the expression (ours): no request
    gives the onset bit for bit, although the network itself promises no identity.
    """

    family = "ice_gan"

    def clip_of(self, request: ClipRequest, label: str = "") -> tuple[Sample, tuple[str, ...]]:
        """See :func:`mesynth.generators.painting.painted_clip` for sizes and errors.

        ``label``: one of classes.CLASSES_3 to ask for as well; it rises and falls with the profile.

        Raises:
            MesynthError: as there, or an unknown label.
        """
        classes = torch.zeros(N_CLASSES, device=self.network.device)
        if label:
            classes[class_index(label)] = 1
        z = seeds.stream(request.seed, "z").standard_normal((1, int(self.network.config["noise"])), np.float32)
        noise = torch.from_numpy(z).to(self.network.device)

        def paint(onset: torch.Tensor, asked: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
            n = len(asked)
            pictures, zs = onset.expand(n + 1, -1, -1, -1), noise.expand(n + 1, -1)
            # The plain drawing takes part in each block: convolutions of one batch agree to the last bit.
            amount = torch.cat([alpha.new_zeros(1), alpha])
            cells = torch.cat([torch.zeros_like(asked[:1]), asked])
            drawn = self.network.forward(pictures, zs, amount[:, None] * classes, cells)
            change: torch.Tensor = drawn[1:] - drawn[:1]
            rest = (asked.flatten(1).amax(1) == 0) & (amount[1:] * classes.sum() == 0)
            return change * ~rest.view(-1, 1, 1, 1)

        return self.painted(paint, request)


def class_index(label: str) -> int:
    """Of one of classes.CLASSES_3. Raises MesynthError."""
    if label not in CLASSES_3:
        raise MesynthError(f"class '{label}' is unknown; choose from {', '.join(CLASSES_3)}")
    return CLASSES_3.index(label)


def load(folder: Path, facts: GeneratorFacts) -> ICEGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return ICEGAN(load_network(ICEGenerator, folder / "generator"), facts)
