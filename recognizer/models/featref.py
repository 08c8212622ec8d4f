"""FeatRef with our own sizes: expression-specific features, then their fusion (Zhou, Mao, Huang, Zhang and Zhang,
Pattern Recognition 2022; after its abstract)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, glorot
from recognizer.models.dual_inception import inception_stream


@dataclass(frozen=True, kw_only=True)
class FeatrefConfig:
    """Inception modules as in Dual-Inception, by the same group; other sizes are ours."""

    filters: tuple[int, int] = (6, 16)
    """Of every convolution of a stream's first and second Inception module."""
    shared: int = 512
    """Expression-shared features."""
    specific: int = 64
    """Features of each expression."""
    proposal: float = 0.5
    """Weight of the proposal loss."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        sizes = {"filters": 1, "shared": 1, "specific": 1, "proposal": 0}
        check("featref", self, least=sizes, shares=("dropout",))


class Featref(FlowNetwork):
    """u and v -> Inception streams -> shared features -> a branch for each expression: attention factors, features of
    its own, "is it this one?" -> all branches' features together -> classifier.

    Published (abstract): an Inception module on flow for expression-shared features; a proposal module with attention
    factors and a proposal loss; a classification branch on the fused expression-specific features. Free: all sizes, the
    attention (a softmax over the shared features, times their number), the proposal loss (binary cross-entropy of each
    expression against the others).
    Deviations: none known beyond what is free.
    """

    stack = 2

    def __init__(self, config: FeatrefConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleList(inception_stream(1, config.filters) for _ in "uv")
        self.share = nn.Linear(2 * 4 * config.filters[1] * (shape.size // 4) ** 2, config.shared)
        self.attend = nn.ModuleList(nn.Linear(config.shared, config.shared) for _ in range(n_classes))
        self.refine = nn.ModuleList(nn.Linear(config.shared, config.specific) for _ in range(n_classes))
        self.propose = nn.ModuleList(nn.Linear(config.specific, 1) for _ in range(n_classes))
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(n_classes * config.specific, n_classes)
        self.apply(glorot)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = self.scaled(views[0])
        maps = [stream(x[:, i : i + 1]).flatten(1) for i, stream in enumerate(self.streams)]
        shared = F.relu(self.share(torch.cat(maps, 1)))
        specific, proposals = [], []
        for attend, refine, propose in zip(self.attend, self.refine, self.propose, strict=True):
            factors = attend(shared).softmax(1) * self.config.shared
            specific.append(F.relu(refine(factors * shared)))
            proposals.append(propose(specific[-1]))
        features = self.drop(torch.cat(specific, 1))
        return Outputs(self.classify(features), None, features, {"proposals": torch.cat(proposals, 1)})

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus the proposal loss."""
        assert outputs.more is not None
        proposals = outputs.more["proposals"]
        own = F.one_hot(y, proposals.shape[1]).to(proposals.dtype)
        proposed = F.binary_cross_entropy_with_logits(proposals, own)
        return F.cross_entropy(outputs.scores, y) + self.config.proposal * proposed


def build(config: FeatrefConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Featref(config, n_classes, shape)
