"""MER-auGCN, published name with our own sizes: AUs detected by attention, their features joined by a graph (Zhou, Mao
and Dong, arXiv 2012.13148, 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.types import N_AUS
from recognizer.models.blocks import GraphConv, Inception, propagation
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, norm
from recognizer.models.mer_gcn import connected


@dataclass(frozen=True, kw_only=True)
class MerAugcnConfig:
    """All sizes are ours."""

    width: int = 32
    """Of the first convolution."""
    branch: int = 16
    """Of each branch of the two Inception modules."""
    node: int = 32
    """Features of an AU."""
    layers: int = 2
    """Graph convolutions."""
    threshold: float = 0.1
    """AUs are connected where one makes the other at least this likely."""
    au_weight: float = 0.3
    """Weight of the AU loss; 0 leaves the AU head untrained."""
    gamma: float = 2.0
    """Of the AU loss: how much less an AU counts that is already right."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        sizes = {"width": 1, "branch": 1, "node": 1, "layers": 1, "threshold": 0, "au_weight": 0, "gamma": 0}
        check("mer_augcn", self, least=sizes, shares=("dropout",))


def balanced_au_loss(logits: torch.Tensor, au: torch.Tensor, gamma: float) -> torch.Tensor:
    """Focal loss over known AUs, both signs of an AU weighed alike: logits [B,A], au [B,A] with -1 unknown -> scalar.

    In each column of a batch a positive counts the share of negatives and the other way round, at least .05, so that a
    column of one sign still teaches a little. 0 when no AU is known.
    """
    known = (au >= 0).to(logits.dtype)
    present = au.clamp(min=0).to(logits.dtype)
    share = ((present * known).sum(0) / known.sum(0).clamp(min=1)).clamp(0.05, 0.95)
    weight = torch.where(au > 0, 1 - share, share) * known
    each = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    each = (1 - torch.exp(-each)).clamp(min=1e-6) ** gamma * each
    return (weight * each).sum() / weight.sum().clamp(min=1e-6)


class MerAugcn(FlowNetwork):
    """Flow -> convolution -> Inception modules -> an attention map an AU -> AU features and their detection -> graph
    convolutions over co-occurring AUs -> all AUs side by side -> classifier.

    Published (abstract, a survey): Inception modules on flow; AU features by attention without landmarks; a balanced
    detection loss (focal, its factor from the batch's own share of positives); graph convolution on an AU graph of the
    classes. Free: all sizes, the norm (GroupNorm), the read-out, all of the training.
    Deviations: the graph is the co-occurrence of the published tables, as in mer_gcn; all 25 AUs of this package, both
    sides. Clips without AU labels teach the classes alone.
    """

    propagate: torch.Tensor
    stack = 2

    def __init__(self, config: MerAugcnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        b, wide = config.branch, 4 * config.branch
        self.stem = nn.Sequential(nn.Conv2d(3, config.width, 3, padding=1), norm(config.width), nn.ReLU())
        self.inceptions = nn.ModuleList(
            Inception(a, one=b, reduce_three=b, three=b, reduce_five=b, five=b, pooled=b, norm=norm)
            for a in (config.width, wide)
        )
        self.attend = nn.Conv2d(wide, N_AUS, 1)
        self.node = nn.Sequential(nn.Linear(wide, config.node), nn.LayerNorm(config.node))
        self.name = nn.Parameter(torch.randn(N_AUS, config.node) * 0.1)
        self.present = nn.Linear(config.node, 2)
        self.register_buffer("propagate", propagation(connected(config.threshold), loops=False), persistent=False)
        self.graph = nn.ModuleList(GraphConv(config.node, config.node) for _ in range(config.layers))
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(N_AUS * config.node, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores and AU logits."""
        x = F.max_pool2d(self.stem(self.scaled(views[0])), 2)
        for module in self.inceptions:
            x = module(x)
        attention = self.attend(x).flatten(2).softmax(-1)  # [B,K,places]
        nodes = self.node(attention @ x.flatten(2).transpose(1, 2)) + self.name
        au = self.present(nodes).flatten(1)
        for layer in self.graph:
            nodes = F.relu(layer(nodes, self.propagate))
        features = self.drop(nodes.flatten(1))
        return Outputs(self.classify(features), au, features)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus the balanced AU loss over known AUs."""
        assert outputs.au is not None
        detection = balanced_au_loss(outputs.au, au, self.config.gamma)
        return F.cross_entropy(outputs.scores, y) + self.config.au_weight * detection


def build(config: MerAugcnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return MerAugcn(config, n_classes, shape)
