"""Capsules and graph reasoning, the two modules that ICE-GAN is named for (Yu et al., 2020).

Capsules, squashing, routing by agreement: Sabour, Frosst and Hinton, 2017. Graph reasoning on feature maps: Chen et
al., "Graph-based global reasoning networks", 2019. Written from the descriptions in the papers.
"""

from __future__ import annotations

import torch
from torch import nn


def squash(s: torch.Tensor) -> torch.Tensor:
    """Capsules [...,D] to a length in [0,1) with their direction kept (Sabour et al., eq. 1)."""
    square = s.square().sum(-1, keepdim=True)
    return s * (square / (1 + square)) / (square + 1e-8).sqrt()


def route(votes: torch.Tensor, iterations: int) -> torch.Tensor:
    """Votes [B,P,C,D] of P primary capsules -> C capsules [B,C,D] by agreement (Sabour et al., procedure 1).

    Coupling coefficients carry no gradient: they are the result of routing, not parameters.
    """
    constant = votes.detach()
    logits = torch.zeros_like(constant[..., 0])
    for _ in range(iterations - 1):
        means = squash((logits.softmax(2)[..., None] * constant).sum(1, keepdim=True))
        logits = logits + (constant * means).sum(-1)
    return squash((logits.softmax(2)[..., None] * votes).sum(1))


def lengths(capsules: torch.Tensor) -> torch.Tensor:
    """[...,D] -> [...]: how sure each capsule is; safe to differentiate at 0."""
    return (capsules.square().sum(-1) + 1e-8).sqrt()


def margin_loss(length: torch.Tensor, present: torch.Tensor, absent_weight: float = 0.5) -> torch.Tensor:
    """Sabour et al., eq. 4, with margins .9 and .1: lengths and targets in [0,1], both [...] -> [...]."""
    short = (0.9 - length).clamp(min=0).square()
    long = (length - 0.1).clamp(min=0).square()
    return present * short + absent_weight * (1 - present) * long


class ClassCapsules(nn.Module):
    """Feature maps [B,C,h,w] -> output capsules [B,outputs,dim].

    The maps are cut into primary capsules of ``primary_dim`` channels, each with its own matrices to the outputs.
    """

    def __init__(
        self, channels: int, side: int, outputs: int, *, primary_dim: int = 8, dim: int = 16, iterations: int = 3
    ) -> None:
        super().__init__()
        assert channels % primary_dim == 0, "the feature maps are cut into whole capsules"
        self.primary_dim, self.iterations = primary_dim, iterations
        self.primaries = channels // primary_dim * side * side
        # Votes of one primary capsule add up over P of them: an sd that keeps the sum's length near 1/2.
        self.matrices = nn.Parameter(torch.randn(self.primaries, outputs, dim, primary_dim) * 0.1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """See the class."""
        n, c, h, w = maps.shape
        primary = maps.reshape(n, c // self.primary_dim, self.primary_dim, h * w).transpose(2, 3)
        primary = squash(primary.reshape(n, self.primaries, self.primary_dim))
        return route(torch.einsum("pcde,bpe->bpcd", self.matrices, primary), self.iterations)


class GraphReasoning(nn.Module):
    """Feature maps -> a small graph -> feature maps, added to the input: [B,C,H,W] -> [B,C,H,W].

    ``M = phi theta^T`` [B,nodes,states] gathers positions into C/4 nodes with C/4 states each; one convolution mixes
    nodes (residual, ReLU), one mixes states; phi carries the result back to the positions. M is divided by the number
    of positions (the paper: by C/4), so that it means the same at every picture size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.between_nodes = nn.Conv1d(inner, inner, 1)
        self.between_states = nn.Conv1d(inner, inner, 1)
        self.back = nn.Conv2d(inner, channels, 1)
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        phi = self.phi(x).flatten(2)
        graph = phi @ self.theta(x).flatten(2).transpose(1, 2) / phi.shape[-1]
        graph = torch.relu(graph + self.between_nodes(graph))
        graph = self.between_states(graph.transpose(1, 2))
        maps = (graph @ phi).reshape(len(x), -1, *x.shape[-2:])
        out: torch.Tensor = x + self.norm(self.back(maps))
        return out
