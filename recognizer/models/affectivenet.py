"""AffectiveNet, published name with our own sizes: four receptive fields on a picture of the clip, features of two
depths (Verma, Vipparthi and Singh, IEEE MultiMedia 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, norm
from recognizer.models.learnet import Halving, check_paths, halved, stretched, triple


@dataclass(frozen=True, kw_only=True)
class AffectivenetConfig:
    """All sizes are ours."""

    input: str = "dynamic"
    """dynamic, active or difference."""
    kernels: tuple[int, ...] = (3, 5, 7, 11)
    """Of the parallel first convolutions; four of them are published."""
    widths: tuple[int, int, int] = (16, 96, 128)
    """Of a first convolution, and of the two depths."""
    dense: int = 128
    """Features of each depth."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_paths("affectivenet", self)
        triple("affectivenet", self.widths)


class Affectivenet(FlowNetwork):
    """Picture -> parallel convolutions of four kernels, joined (MICRoFeat) -> two convolutions; either one's maps give
    features by a dense layer of their own (MFL) -> classifier.

    Published (abstract; four paths: a survey): the two blocks, multi-scale features, features learned from two
    different convolutional layers. Free: all sizes, the norm (GroupNorm), strides, all of the training.
    Deviation: the clip's picture is the dynamic image (or the view ``input`` names), not the paper's own
    affective-motion image, whose formula the abstract does not give; it is stretched as in learnet.
    """

    stack = 1

    def __init__(self, config: AffectivenetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.needs = (config.input,)
        first, near, far = config.widths
        wide = first * len(config.kernels)
        self.scales = nn.ModuleList(
            nn.Sequential(Halving(3, first, kernel), norm(first), nn.ReLU()) for kernel in config.kernels
        )
        self.near = nn.Sequential(Halving(wide, near, 3), norm(near), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
        self.far = nn.Sequential(Halving(near, far, 3), norm(far), nn.ReLU())
        side = -(-halved(halved(shape.frame_size)) // 2)
        self.low = nn.Linear(near * side**2, config.dense)
        self.high = nn.Linear(far * halved(side) ** 2, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(2 * config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,F,F] picture of the clip -> scores."""
        x = stretched(views[0])
        near = self.near(torch.cat([scale(x) for scale in self.scales], 1))
        low, high = self.low(near.flatten(1)), self.high(self.far(near).flatten(1))
        features = self.drop(F.relu(torch.cat([low, high], 1)))
        return Outputs(self.classify(features), None, features)


def build(config: AffectivenetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Affectivenet(config, n_classes, shape)
