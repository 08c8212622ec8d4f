"""AU-GACN: graph attention over action units (Xie, Lo, Shuai and Cheng, ACM Multimedia 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from recognizer.models.blocks import GraphAttention
from recognizer.models.common import AuGraph, AuGraphConfig, Dropout, FlowNetwork, Outputs, Shape, cooccurrence


@dataclass(frozen=True, kw_only=True)
class AuGacnConfig(AuGraphConfig):
    """See the base class."""

    heads: int = 4
    """Of the graph attention; they share ``node`` out among them."""
    rounds: int = 2
    """Graph attention and pooling, this often."""
    ratio: float = 0.5
    """Nodes that a pooling keeps."""

    def __post_init__(self) -> None:
        self.check("au_gacn", heads=1, rounds=1)
        if self.node % self.heads:
            raise ConfigError(f"au_gacn.heads={self.heads} must divide au_gacn.node={self.node}")
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"au_gacn.ratio={self.ratio:g} is outside (0, 1]")


class AttentionPool(nn.Module):
    """Self-attention graph pooling (Lee et al., 2019): the ``keep`` nodes of the highest score, times its tanh."""

    def __init__(self, node: int, keep: int) -> None:
        super().__init__()
        self.keep = keep
        self.score = nn.Linear(node, 1)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,N,D], [B,N,N] -> [B,keep,D], [B,keep,keep]."""
        weight = edges.to(nodes.dtype)
        around = weight @ nodes / weight.sum(2, keepdim=True)  # a node is scored with its neighbours
        score = torch.tanh(self.score(around)[..., 0])
        top, index = score.topk(self.keep, 1)
        chosen = nodes.gather(1, index[..., None].expand(-1, -1, nodes.shape[2])) * top[..., None]
        rows = edges.gather(1, index[..., None].expand(-1, -1, edges.shape[2]))
        return chosen, rows.gather(2, index[:, None].expand(-1, self.keep, -1))


class AuGacn(AuGraph):
    """3D convolutions -> a node per AU -> rounds of graph attention and pooling, each read out -> classifier.

    Published (abstract, descriptions by later work): 3D convolution, AU nodes, graph attention with self-attention
    pooling, AU and class labels trained together. Free: all sizes, the read-out (mean and maximum of the nodes left,
    added up over the rounds). Deviations: as in mer_gcn, where the edges come from too.
    """

    edges: torch.Tensor

    def __init__(self, config: AuGacnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__(config)
        likely = torch.from_numpy(cooccurrence())
        self.register_buffer("edges", torch.maximum(likely, likely.T) >= config.threshold, persistent=False)
        keep = [math.ceil(N_AUS * config.ratio ** (i + 1)) for i in range(config.rounds)]
        self.attend = nn.ModuleList(GraphAttention(config.node, config.heads) for _ in keep)
        self.pools = nn.ModuleList(AttentionPool(config.node, n) for n in keep)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(2 * config.node, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores and AU logits."""
        nodes, au = self.nodes(views[0])
        edges = self.edges.expand(len(nodes), -1, -1)
        read = torch.zeros_like(nodes[:, 0]).repeat(1, 2)
        for attend, pool in zip(self.attend, self.pools, strict=True):
            nodes, edges = pool(nodes + attend(nodes, edges), edges)
            read = read + torch.cat([nodes.mean(1), nodes.amax(1)], 1)
        features = self.drop(read)
        return Outputs(self.classify(features), au, features)


def build(config: AuGacnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return AuGacn(config, n_classes, shape)
