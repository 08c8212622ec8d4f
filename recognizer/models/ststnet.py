"""STSTNet: three shallow streams over (u, v, strain) (Liong et al., FG 2019).

Deviations, both so that stacked folds equal single ones: GroupNorm with one group per stream replaces BatchNorm (no
running statistics), and dropout draws from a hash. The streams are one compiled pass (conv_pool).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mesynth.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape
from recognizer.models.conv_pool import conv_pool


@dataclass(frozen=True, kw_only=True)
class StstnetConfig:
    """Filters of the three streams."""

    filters: tuple[int, ...] = (3, 5, 8)
    dropout: float = 0.5
    """Before the classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        if not self.filters or min(self.filters) < 1:
            raise ConfigError(f"ststnet.filters={list(self.filters)} must be positive numbers")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"ststnet.dropout={self.dropout:g} is outside [0, 1)")


class Ststnet(FlowNetwork):
    """Conv 3x3 pad 2 -> ReLU -> norm -> MaxPool 3 s3 p1, three times in parallel -> AvgPool 2 -> dropout -> FC."""

    stack = 2

    def __init__(self, config: StstnetConfig, n_classes: int, size: int) -> None:
        super().__init__()
        total = sum(config.filters)
        bound = 1 / math.sqrt(27)
        self.weight = nn.Parameter(torch.empty(total, 27).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(total).uniform_(-bound, bound))
        self.gamma, self.beta = nn.Parameter(torch.ones(total)), nn.Parameter(torch.zeros(total))
        self.group = np.repeat(np.arange(len(config.filters)), config.filters)
        side = ((size + 2 + 2 - 3) // 3 + 1) // 2
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(total * side**2, n_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        pooled = conv_pool(self.scaled(x), self.weight, self.bias, self.gamma, self.beta, self.group)
        features = self.drop(pooled)
        return Outputs(self.classify(features), None, features)


def build(config: StstnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Ststnet(config, n_classes, shape.size)
