"""Dual-Inception (Zhou, Mao and Xue, FG 2019; authors' code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import Inception
from recognizer.models.common import FlowNetwork, Outputs, Shape, check, glorot


@dataclass(frozen=True, kw_only=True)
class DualInceptionConfig:
    """Published sizes (6.45 million parameters on 28 pixels)."""

    filters: tuple[int, int] = (6, 16)
    """Of every convolution of a stream's first and second Inception module."""
    dense: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        check("dual_inception", self, least={"filters": 1, "dense": 1})


def inception_stream(channels: int, filters: tuple[int, int]) -> nn.Sequential:
    """[B,channels,S,S] -> [B,4*filters[1],S/4,S/4]: two Inception modules of equally wide branches, each with
    max-pooling. FeatRef, by the same group, has them too."""
    layers: list[nn.Module] = []
    for n in filters:
        layers += [
            Inception(channels, one=n, reduce_three=n, three=n, reduce_five=n, five=n, pooled=n),
            nn.MaxPool2d(2),
        ]
        channels = 4 * n
    return nn.Sequential(*layers)


class DualInception(FlowNetwork):
    """u and v in two streams of two Inception modules, concatenated, one dense layer, classifier.

    Published (authors' code): 28 pixels, modules of four branches of 6 and of 16 filters, max-pooling after each, dense
    1024; neither norm nor dropout.
    Deviations: a component is repeated on the three channels of their pictures, which are grey; it is divided by its
    root mean square, where theirs are bytes over 255; the strain is not looked at.
    """

    stack = 2

    def __init__(self, config: DualInceptionConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.streams = nn.ModuleList(inception_stream(3, config.filters) for _ in "uv")
        self.dense = nn.Linear(2 * 4 * config.filters[1] * (shape.size // 4) ** 2, config.dense)
        self.classify = nn.Linear(config.dense, n_classes)
        self.apply(glorot)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = self.scaled(views[0])
        maps = [stream(x[:, i : i + 1].expand(-1, 3, -1, -1)) for i, stream in enumerate(self.streams)]
        features = F.relu(self.dense(torch.cat([m.flatten(1) for m in maps], 1)))
        return Outputs(self.classify(features), None, features)


def build(config: DualInceptionConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return DualInception(config, n_classes, shape)
