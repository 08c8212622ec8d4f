"""A small baseline: region features, attention over the regions, a linear classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import FlowNetwork, Outputs, RegionStem, Shape
from recognizer.models.faces import MOMENTS, N_REGIONS


@dataclass(frozen=True, kw_only=True)
class RegionAttentionConfig:
    """Sizes of the network (about 8 thousand parameters as they stand)."""

    width: int = 24
    """Features of the patch convolution."""
    node: int = 32
    """Features of a region."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.node < 1:
            raise ConfigError(f"region_attention.width={self.width} and node={self.node} must be at least 1")


class RegionAttention(FlowNetwork):
    """Each region says what it saw and how much that matters; places differ by a learned offset."""

    def __init__(self, config: RegionAttentionConfig, n_classes: int, size: int) -> None:
        super().__init__()
        self.stem = RegionStem(size, config.width)
        self.embed = nn.Linear(config.width * MOMENTS, config.node)
        self.norm = nn.LayerNorm(config.node)
        self.place = nn.Parameter(torch.randn(N_REGIONS, config.node) * 0.1)
        # No bias: softmax ignores it, and Adam would blow up the rounding noise in its gradient.
        self.attend = nn.Linear(config.node, 1, bias=False)
        self.value = nn.Linear(config.node, config.node)
        self.classify = nn.Linear(N_REGIONS * config.node, n_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        nodes = self.norm(self.embed(self.stem(self.scaled(x)))) + self.place
        attention = self.attend(nodes).softmax(1) * N_REGIONS
        features = (attention * F.gelu(self.value(nodes))).flatten(1)
        return Outputs(self.classify(features), None, features)


def build(config: RegionAttentionConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return RegionAttention(config, n_classes, shape.size)
