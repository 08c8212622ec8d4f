"""Micro-attention on ResNet-10 (Wang, Peng, Bi and Chen, Neurocomputing 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from recognizer.models.common import APEX_INPUTS, FlowNetwork, Outputs, ResNet10, Shape, apex_maps, check


@dataclass(frozen=True, kw_only=True)
class MicroAttentionConfig:
    """Published sizes (5.9 million parameters)."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    input: str = "apex"
    """apex (published), change (apex minus onset) or both."""
    gain: float = 10.0
    """The embedding has length 1; it is multiplied by this before the classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check("micro_attention", self, least={"widths": 1, "gain": 0}, choices={"input": tuple(APEX_INPUTS)})


class MicroAttentionNet(FlowNetwork):
    """ResNet-10, each block followed by a micro-attention unit; global mean, length 1, classifier.

    Published (authors' network definition): widths 64 to 512, one block each, the units, L2 normalisation, grey
    pictures of 224 pixels; any size from 32 runs.
    Deviations: no weights from macro-expressions (none come with this package), on which the paper's results rest;
    the last unit comes before the last norm, like the others; ``gain``, for scores of a
    vector of length 1 stay too flat to be fitted in few steps (1 is published).
    """

    needs = ("apex",)
    stack = 1

    def __init__(self, config: MicroAttentionConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNet10(APEX_INPUTS[config.input], config.widths, attention=True)
        self.classify = nn.Linear(config.widths[-1], n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores."""
        features = self.config.gain * self.trunk(apex_maps(views[0], self.config.input))
        return Outputs(self.classify(features), None, features)


def build(config: MicroAttentionConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return MicroAttentionNet(config, n_classes, shape)
