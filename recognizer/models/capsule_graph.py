"""Ours: cells of the face reason over a graph that starts from nearness and symmetry, then vote through capsules.

flow -> cells -> node features and a learned place -> graph reasoning (learned adjacency that starts from near cells and
from the mirrored side, residual, LayerNorm) -> one primary capsule a cell -> dynamic routing -> class capsules; an AU
head beside it. At test the scores of a clip and of its mirror image are averaged. Capsules, squash, routing and margin
loss: Sabour, Frosst and Hinton, 2017. Sizes and regularisation were chosen on real flow images (docs/decisions/019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, au_loss, margin_loss, route, squash


@dataclass(frozen=True, kw_only=True)
class CapsuleGraphConfig:
    """Sizes of the network (25745 parameters for 3 classes as they stand)."""

    cells: int = 7
    """Cells a side, each a node of the graph; where the flow image does not divide so, the next fewer that it does."""
    node: int = 32
    """Features of a node."""
    graph_layers: int = 1
    primary_dim: int = 6
    class_dim: int = 6
    routings: int = 2
    nearness: float = 2.0
    """Of the graph's logits at the start, nearness * exp(-distance in cells); 0 with symmetry 0: a full graph."""
    symmetry: float = 2.0
    """The same to the mirrored cell."""
    dropout: float = 0.3
    """Of whole nodes, while training."""
    au_weight: float = 0.3
    """Weight of the AU loss; 0 trains without the AU head. Clips without known AUs do not take part in it."""

    def __post_init__(self) -> None:
        for name in ("cells", "node", "graph_layers", "primary_dim", "class_dim", "routings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"capsule_graph.{name}={getattr(self, name)} must be at least 1")
        for name in ("nearness", "symmetry", "au_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"capsule_graph.{name}={getattr(self, name):g} must not be negative")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"capsule_graph.dropout={self.dropout:g} is outside [0, 1)")


def adjacency(cells: int, nearness: float, symmetry: float) -> np.ndarray:
    """[cells^2, cells^2] float32, the graph's logits before training; cells count row by row.

    >>> [round(float(value), 2) for value in adjacency(2, 1.0, 0.0)[0]]
    [1.0, 0.37, 0.37, 0.24]
    """
    row, column = (grid.ravel() for grid in np.indices((cells, cells)))
    near = np.hypot(row[:, None] - row, column[:, None] - column)
    mirrored = np.hypot(row[:, None] - row, cells - 1 - column[:, None] - column)
    return (nearness * np.exp(-near) + symmetry * np.exp(-mirrored)).astype(np.float32)


class CapsuleGraph(FlowNetwork):
    """See the module's first lines. Scores are the lengths of the class capsules, in [0,1)."""

    probability_gain = 8.0
    centre = 0.5
    mirrored = True

    def __init__(self, config: CapsuleGraphConfig, n_classes: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.cells = max(n for n in range(1, config.cells + 1) if size % n == 0)
        nodes = self.cells**2
        self.embed = nn.Linear(3 * (size // self.cells) ** 2, config.node)
        self.place = nn.Parameter(torch.randn(nodes, config.node) * 0.1)
        start = torch.from_numpy(adjacency(self.cells, config.nearness, config.symmetry))
        self.edges = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(config.graph_layers))
        self.messages = nn.ModuleList(nn.Linear(config.node, config.node) for _ in range(config.graph_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.node) for _ in range(config.graph_layers))
        self.drop = Dropout(config.dropout)
        self.primary = nn.Linear(config.node, config.primary_dim)
        self.votes = nn.Parameter(torch.randn(nodes, config.primary_dim, n_classes * config.class_dim) * 0.3)
        self.au = nn.Linear(nodes * config.primary_dim, N_AUS * 2) if config.au_weight > 0 else None

    def forward(self, x: torch.Tensor) -> Outputs:
        c, n = self.config, self.cells
        cells = self.scaled(x).unflatten(3, (n, -1)).unflatten(2, (n, -1))  # [B,3,n,k,n,k]
        nodes = self.embed(cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.place
        for edges, message, norm in zip(self.edges, self.messages, self.norms, strict=True):
            nodes = norm(nodes + F.gelu(message(edges.softmax(-1) @ nodes)))
        nodes = nodes * self.drop(torch.ones_like(nodes[..., :1]))
        primary = squash(self.primary(nodes))
        votes = torch.einsum("bpi,pio->bpo", primary, self.votes).unflatten(2, (-1, c.class_dim))
        lengths = (route(votes, c.routings) ** 2).sum(-1).add(1e-8).sqrt()
        features = primary.flatten(1)
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
