"""A recognizer of one's own: any network or scikit-learn estimator does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from recognizer.models import Model


# [recognizer]
@dataclass(frozen=True)
class TwoLayersConfig:
    hidden: int = 32


class TwoLayers(nn.Module):
    """Flow [B,3,S,S] (u, v, strain) -> logits [B,C]."""

    def __init__(self, n_classes: int, size: int, config: TwoLayersConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * size * size, config.hidden)
        self.out = nn.Linear(config.hidden, n_classes)

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(flow.flatten(1))))


MODEL = Model(TwoLayers, config=TwoLayersConfig)
# [end]
