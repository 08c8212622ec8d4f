"""What a diffusion network is told: one token per action unit and side, and their sum as one vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mesynth.core.types import N_AUS
from mesynth.generators.blocks import FREQUENCIES, fourier_intensity

DROP_ALL, DROP_AUS, DROP_ONE = 0.1, 0.1, 0.1
"""Shares of training rows that lose the whole condition, all AUs, single AUs."""
HIDDEN = 1 / 3
"""How many AUs those of the last kind lose."""


@dataclass(frozen=True, eq=False)
class Condition:
    """The condition of B rows, after what is left out was left out."""

    tokens: torch.Tensor
    """[B,2K,dim]: the subject's left and right of each AU in turn"""
    pooled: torch.Tensor
    """[B,dim]"""


class AUTokens(nn.Module):
    """AU intensities [B,K,2] -> :class:`Condition`.

    A token is the AU's embedding + the side's + the Fourier features of the intensity times an embedding of the AU's
    own, so that every AU says in its own way how much of it there is. An unknown AU has a learned token, and a row
    without condition a learned sequence: neither is the same as an AU at rest.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.unit = nn.Parameter(0.5 * torch.randn(N_AUS, 1, dim))
        self.scale = nn.Parameter(torch.randn(N_AUS, 1, dim))
        self.side = nn.Parameter(0.5 * torch.randn(1, 2, dim))
        self.intensity = nn.Linear(1 + 2 * FREQUENCIES, dim, bias=False)
        self.unknown = nn.Parameter(0.5 * torch.randn(dim))
        self.null = nn.Parameter(0.5 * torch.randn(2 * N_AUS, dim))
        self.null_pooled = nn.Parameter(0.5 * torch.randn(dim))
        self.pool = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, aus: torch.Tensor, known: torch.Tensor, null: torch.Tensor | None = None) -> Condition:
        """``aus`` [B,K,2] in [0,1]; ``known`` [B,K,2] bool; ``null`` [B] bool: rows without any condition."""
        amount = self.scale * self.intensity(fourier_intensity(aus * known))
        place = self.unit + self.side
        each = torch.where(known[..., None], place + amount, place + self.unknown)
        # An AU at rest adds nothing to the sum, whoever it is.
        added = torch.where(known[..., None], amount * (1 + self.side), self.unknown * self.scale / N_AUS)
        tokens, pooled = each.flatten(1, 2), self.pool(added.flatten(1, 2).sum(1))
        if null is not None:
            tokens = torch.where(null[:, None, None], self.null, tokens)
            pooled = torch.where(null[:, None], self.null_pooled, pooled)
        return Condition(tokens, pooled)


def dropped(known: torch.Tensor, rand: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What training hides: ``known`` [B,K,2] bool and uniform ``rand`` [B,1+2K] -> (known, null [B] bool).

    A row loses its whole condition, or all AUs, or each AU with the probability ``HIDDEN``, or (most rows) nothing.
    """
    which = rand[:, :1, None]
    holes = (which >= DROP_ALL + DROP_AUS) & (which < DROP_ALL + DROP_AUS + DROP_ONE)
    blind = (which >= DROP_ALL) & (which < DROP_ALL + DROP_AUS)
    hidden = (rand[:, 1:].view(known.shape) < HIDDEN) & holes
    return known & ~hidden & ~blind, rand[:, 0] < DROP_ALL
