"""STSTNet: three shallow streams over (u, v, strain) (Liong et al., FG 2019).

Deviations, both so that stacked folds equal single ones: GroupNorm with one group replaces BatchNorm
(no running statistics), and the dropout before the classifier is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.errors import ConfigError
from recognizer.models.common import FlowNetwork, Outputs


@dataclass(frozen=True, kw_only=True)
class StstnetConfig:
    """Filters of the three streams."""

    filters: tuple[int, ...] = (3, 5, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        if not self.filters or min(self.filters) < 1:
            raise ConfigError(f"ststnet.filters={list(self.filters)} must be positive numbers")


class Ststnet(FlowNetwork):
    """Conv 3x3 pad 2 -> ReLU -> norm -> MaxPool 3 s3 p1, three times in parallel -> AvgPool 2 -> FC."""

    stack = 1  # grouped convolutions are slower than plain ones on a CPU

    def __init__(self, config: StstnetConfig, n_classes: int, size: int) -> None:
        super().__init__()
        self.streams = nn.ModuleList(nn.Conv2d(3, f, 3, padding=2) for f in config.filters)
        self.norms = nn.ModuleList(nn.GroupNorm(1, f) for f in config.filters)
        side = ((size + 2 + 2 - 3) // 3 + 1) // 2
        self.classify = nn.Linear(sum(config.filters) * side**2, n_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        x = self.scaled(x)
        streams = [
            F.max_pool2d(norm(F.relu(stream(x))), 3, 3, 1)
            for stream, norm in zip(self.streams, self.norms, strict=True)
        ]
        return Outputs(self.classify(F.avg_pool2d(torch.cat(streams, 1), 2).flatten(1)), None)


def build(config: StstnetConfig, n_classes: int, size: int) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and S = ``size``; weights from torch's current seed."""
    return Ststnet(config, n_classes, size)
