"""SETFNet, published name with our own sizes: three 3D streams for both eyes and the mouth with squeeze-and-excitation
(Yao, Xiao, Cao, Chen and Chen, ICCEA 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import SqueezeExcite
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check
from recognizer.models.fcnn3d import ClipStream, shown


@dataclass(frozen=True, kw_only=True)
class SetfnetConfig:
    """All sizes are ours."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of a stream's 3D convolutions."""
    reduction: int = 4
    """Of the channels inside a squeeze-and-excitation block."""
    grid: int = 2
    """A stream ends with this many cells a side."""
    dense: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check("setfnet", self, least={"widths": 1, "reduction": 1, "grid": 1, "dense": 1}, shares=("dropout",))


class Setfnet(FlowNetwork):
    """Crops about either eye with its brow and about the mouth -> a stream of 3D convolutions each, every layer gated
    by squeeze-and-excitation -> joined, dense layer, classifier.

    Published (title, abstract of the authors' thesis): three streams for left eye and brow, right eye and brow, mouth;
    3D convolutions; squeeze-and-excitation. Free: all sizes, the norm (GroupNorm), where the gates lie, the training.
    """

    needs = ("eyes", "mouth")
    stack = 1

    def __init__(self, config: SetfnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()

        def gate(width: int) -> nn.Module:
            return SqueezeExcite(width, config.reduction)

        self.streams = nn.ModuleList(ClipStream(1, config.widths, config.grid, gate) for _ in range(3))
        self.dense = nn.Linear(3 * config.widths[-1] * config.grid**2, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,T,E,E] eyes, [B,T,E,E] mouth -> scores."""
        eyes, mouth = views
        crops = (*eyes.unbind(1), mouth)
        seen = torch.cat([stream(shown(crop)) for stream, crop in zip(self.streams, crops, strict=True)], 1)
        features = self.drop(F.relu(self.dense(seen)))
        return Outputs(self.classify(features), None, features)


def build(config: SetfnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Setfnet(config, n_classes, shape)
