"""MER-GCN: graph convolution over action units (Lo, Xie, Shuai and Cheng, MIPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.types import N_AUS
from recognizer.models.blocks import propagation
from recognizer.models.common import AuGraph, AuGraphConfig, Dropout, FlowNetwork, Outputs, Shape, cooccurrence


@dataclass(frozen=True, kw_only=True)
class MerGcnConfig(AuGraphConfig):
    """See the base class."""

    layers: int = 2
    """Graph convolutions (2 published)."""

    def __post_init__(self) -> None:
        self.check("mer_gcn", layers=1)


def connected(threshold: float) -> torch.Tensor:
    """[K,K]: the thresholded co-occurrence, made symmetric; its diagonal is 1."""
    likely = torch.from_numpy(cooccurrence())
    adjacency = torch.where(likely >= threshold, likely, 0)
    return (adjacency + adjacency.T) / 2


class MerGcn(AuGraph):
    """3D convolutions -> a node per AU -> two graph convolutions on co-occurring AUs -> classifier.

    Published (abstract): 3D ConvNets for AU features, GCN layers over AU nodes, trained end to end with AU and class
    labels. Free: all sizes, the norm (GroupNorm), how features become nodes (one linear map), the read-out (all nodes,
    side by side).
    Deviations: co-occurrence from published tables, not from training labels; all 25 AUs of this package, both
    sides.
    """

    propagate: torch.Tensor

    def __init__(self, config: MerGcnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__(config)
        self.register_buffer("propagate", propagation(connected(config.threshold), loops=False), persistent=False)
        self.layers = nn.ModuleList(nn.Linear(config.node, config.node) for _ in range(config.layers))
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(N_AUS * config.node, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores and AU logits."""
        nodes, au = self.nodes(views[0])
        for layer in self.layers:
            nodes = F.relu(layer(self.propagate @ nodes))
        features = self.drop(nodes.flatten(1))
        return Outputs(self.classify(features), au, features)


def build(config: MerGcnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return MerGcn(config, n_classes, shape)
