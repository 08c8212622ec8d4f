"""Ours: regions of the face reason over a graph that starts from FACS, then vote through capsules.

flow -> shared patch convolution -> region nodes -> graph reasoning (learned adjacency + FACS prior,
residual) -> primary capsules per region -> dynamic routing -> class capsules; an AU head beside it.
Capsules, squash, routing and margin loss: Sabour, Frosst and Hinton, 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from recognizer.models.common import FlowNetwork, Outputs, RegionStem, Shape, au_loss, margin_loss, route, squash
from recognizer.models.faces import MOMENTS, N_REGIONS, facs_adjacency


@dataclass(frozen=True, kw_only=True)
class CapsuleGraphConfig:
    """Sizes of the network (about 29 thousand parameters as they stand)."""

    width: int = 24
    """Features of the patch convolution."""
    node: int = 32
    """Features of a region node."""
    graph_layers: int = 2
    primary: int = 2
    """Primary capsules per region."""
    primary_dim: int = 8
    class_dim: int = 8
    routings: int = 2
    facs_prior: float = 2.0
    """Weight of the FACS adjacency in the graph's logits at the start; 0 starts from a full graph."""
    au_weight: float = 0.3
    """Weight of the AU loss; 0 trains without the AU head."""

    def __post_init__(self) -> None:
        for name in ("width", "node", "graph_layers", "primary", "primary_dim", "class_dim", "routings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"capsule_graph.{name}={getattr(self, name)} must be at least 1")
        if self.au_weight < 0:
            raise ConfigError(f"capsule_graph.au_weight={self.au_weight:g} must not be negative")


class CapsuleGraph(FlowNetwork):
    """See the module's first lines. Scores are the lengths of the class capsules, in [0,1)."""

    probability_gain = 8.0
    facs: torch.Tensor

    def __init__(self, config: CapsuleGraphConfig, n_classes: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.stem = RegionStem(size, config.width)
        self.embed = nn.Linear(config.width * MOMENTS, config.node)
        self.norm = nn.LayerNorm(config.node)
        self.register_buffer("facs", torch.from_numpy(facs_adjacency()), persistent=False)
        self.edges = nn.ParameterList(
            nn.Parameter(config.facs_prior * self.facs.clone()) for _ in range(config.graph_layers)
        )
        self.messages = nn.ModuleList(nn.Linear(config.node, config.node) for _ in range(config.graph_layers))
        self.primary = nn.Linear(config.node, config.primary * config.primary_dim)
        n_primary = N_REGIONS * config.primary
        self.votes = nn.Parameter(torch.randn(n_primary, config.primary_dim, n_classes * config.class_dim) * 0.3)
        self.au = nn.Linear(N_REGIONS * config.node, N_AUS * 2) if config.au_weight > 0 else None

    def forward(self, x: torch.Tensor) -> Outputs:
        c = self.config
        nodes = self.norm(self.embed(self.stem(self.scaled(x))))
        for edges, message in zip(self.edges, self.messages, strict=True):
            nodes = nodes + F.gelu(message(edges.softmax(-1) @ nodes))
        primary = squash(self.primary(nodes).reshape(len(x), -1, c.primary_dim))
        votes = torch.einsum("bpi,pio->bpo", primary, self.votes).reshape(*primary.shape[:2], -1, c.class_dim)
        lengths = (route(votes, c.routings) ** 2).sum(-1).add(1e-8).sqrt()
        features = nodes.flatten(1)
        return Outputs(lengths, self.au(features) if self.au is not None else None, features)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Margin loss .9/.1, lambda .5 (Sabour et al., eq. 4), plus the masked AU loss."""
        margin = margin_loss(outputs.scores, y)
        if outputs.au is None:
            return margin
        return margin + self.config.au_weight * au_loss(outputs.au, au)


def build(config: CapsuleGraphConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return CapsuleGraph(config, n_classes, shape.size)
