"""OFF-ApexNet (Liong, Gan, Yau, Huang and Tan, Signal Processing: Image Communication, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check


@dataclass(frozen=True, kw_only=True)
class OffapexConfig:
    """Published sizes (2.66 million parameters on 28 pixels)."""

    filters: tuple[int, int] = (6, 16)
    dense: int = 1024
    """Units of each of the two hidden layers."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        check("offapex", self, least={"filters": 1, "dense": 1}, shares=("dropout",))


class Offapex(FlowNetwork):
    """u and v in two streams: [conv 5x5 -> ReLU -> max-pool 2] twice, concatenated, two dense layers, classifier.

    Published: the filters, the dense layers, dropout .5. Free: none that matters; the strain is not looked at.
    """

    stack = 2

    def __init__(self, config: OffapexConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        first, second = config.filters
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            )
            for _ in "uv"
        )  # fmt: skip
        self.dense = nn.ModuleList(
            [nn.Linear(2 * second * (shape.size // 4) ** 2, config.dense), nn.Linear(config.dense, config.dense)]
        )
        self.drops = nn.ModuleList(Dropout(config.dropout) for _ in self.dense)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = self.scaled(views[0])
        features = torch.cat([stream(x[:, i : i + 1]).flatten(1) for i, stream in enumerate(self.streams)], 1)
        for dense, drop in zip(self.dense, self.drops, strict=True):
            features = drop(F.relu(dense(features)))
        return Outputs(self.classify(features), None, features)


def build(config: OffapexConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Offapex(config, n_classes, shape)
