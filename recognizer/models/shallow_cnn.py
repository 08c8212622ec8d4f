"""Shallow CNN, published name with our own sizes: six layers on flow, the first of 1x1 kernels (Zhao and Xu, ICITBS
2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, he, norm


@dataclass(frozen=True, kw_only=True)
class ShallowCnnConfig:
    """All sizes are ours."""

    widths: tuple[int, int, int, int] = (16, 32, 32, 64)
    """Of the 1x1 and the three 3x3 convolutions."""
    dense: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check("shallow_cnn", self, least={"widths": 1, "dense": 1}, shares=("dropout",))
        if len(self.widths) != 4:
            raise ConfigError(f"shallow_cnn.widths={list(self.widths)} needs four numbers")


class ShallowCnn(FlowNetwork):
    """Flow -> 1x1 convolution -> three 3x3 convolutions, the last two pooled -> dense layer -> classifier.

    Published (a survey): flow as input, six layers, a 1x1 convolution right after the input. Free: all sizes, what the
    other layers are, the norm (GroupNorm), all of the training.
    """

    stack = 4

    def __init__(self, config: ShallowCnnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, config.widths[0], 1), nn.ReLU())
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm(b), nn.ReLU()) for a, b in pairwise(config.widths)
        ).apply(he)
        self.dense = nn.Linear(config.widths[-1] * (shape.size // 4) ** 2, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = self.first(self.scaled(views[0]))
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.max_pool2d(x, 2) if i else x
        features = self.drop(F.relu(self.dense(x.flatten(1))))
        return Outputs(self.classify(features), None, features)


def build(config: ShallowCnnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return ShallowCnn(config, n_classes, shape)
