"""OrigiNet, published name with our own sizes: hybrid local receptive fields on active images, two dense layers side by
side (Verma, Vipparthi and Singh, IJCNN 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, norm
from recognizer.models.learnet import Halving, check_paths, halved, stretched


@dataclass(frozen=True, kw_only=True)
class OriginetConfig:
    """All sizes are ours."""

    input: str = "active"
    """active (published), dynamic or difference."""
    kernels: tuple[int, ...] = (3, 5, 7)
    """Of the parallel convolutions of a hybrid layer."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Of each of them, layer by layer."""
    dense: int = 128
    """Features of each of the parallel dense layers."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_paths("originet", self)


class _Hybrid(nn.Module):
    """Convolutions of several kernels side by side, stride 2: [B,a,H,W] -> [B,len(kernels)*b,ceil(H/2),ceil(W/2)]."""

    def __init__(self, a: int, b: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Halving(a, b, kernel) for kernel in kernels)
        self.norm = norm(b * len(kernels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.elu(self.norm(torch.cat([conv(x) for conv in self.convs], 1)))


class Originet(FlowNetwork):
    """Active image -> hybrid layers -> two dense layers side by side, joined -> classifier.

    Published (abstract): active images; a shallow network of hybrid local receptive fields; two parallel dense layers.
    Free: all sizes, the norm (GroupNorm), all of the training.
    Deviation: the formula of their refined rectifier is not in the abstract; ELU stands for it, which has gradients
    below zero, too. The image is stretched as in learnet.
    """

    stack = 1

    def __init__(self, config: OriginetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.needs = (config.input,)
        many, side = len(config.kernels), shape.frame_size
        widths = (3, *(many * width for width in config.widths))
        self.layers = nn.Sequential(*(_Hybrid(a, b // many, config.kernels) for a, b in pairwise(widths)))
        for _ in config.widths:
            side = halved(side)
        self.dense = nn.ModuleList(nn.Linear(widths[-1] * side**2, config.dense) for _ in range(2))
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(2 * config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,F,F] picture of the clip -> scores."""
        flat = self.layers(stretched(views[0])).flatten(1)
        features = self.drop(F.elu(torch.cat([dense(flat) for dense in self.dense], 1)))
        return Outputs(self.classify(features), None, features)


def build(config: OriginetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Originet(config, n_classes, shape)
