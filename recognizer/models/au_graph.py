"""Action units as the nodes of a graph: which go together, and their features from a clip. For mer_gcn and au_gacn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from mesynth.core.emotions import PUBLISHED
from mesynth.core.facs import AU_INDEX
from mesynth.core.types import N_AUS
from recognizer.models.common import he, norm

_GRID = 4


def cooccurrence() -> np.ndarray:
    """[K,K] float32: row i, column j = P(AU j | AU i) over the emotions of the published tables; diagonal 1.

    Emotions count alike, and AUs are independent given the emotion. The papers count in the labels of their training
    set; published tables are the same for every fold and know nothing of the held-out subject. An AU that no table
    names is connected to itself alone.
    """
    share = np.zeros((len(PUBLISHED), N_AUS))
    for row, table in enumerate(PUBLISHED.values()):
        for code, probability in table.items():
            share[row, AU_INDEX[code]] = probability
    alone = share.mean(0)
    both = share.T @ share / len(share)
    out = np.divide(both, alone[:, None], out=np.zeros_like(both), where=alone[:, None] > 0)
    np.fill_diagonal(out, 1)
    return out.astype(np.float32)


class ClipTrunk(nn.Module):
    """Clips [B,T,F,F] in [0,1] -> maps [B,widths[-1],T',4,4] by 3D convolutions with residual blocks.

    The first layer halves the picture, every further stage halves picture and time.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, widths[0], (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False), norm(widths[0]), nn.ReLU()
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 3, 2, 1, bias=False), norm(b), nn.ReLU()) for a, b in pairwise(widths)
        )
        self.stay = nn.ModuleList(
            nn.Sequential(nn.Conv3d(b, b, 3, 1, 1, bias=False), norm(b), nn.ReLU()) for b in widths[1:]
        )
        self.pool = nn.AdaptiveAvgPool3d((None, _GRID, _GRID))
        self.apply(he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.stem(2 * x[:, None] - 1)
        for down, stay in zip(self.down, self.stay, strict=True):
            x = down(x)
            x = x + stay(x)
        out: torch.Tensor = self.pool(x)
        return out


class AuNodes(nn.Module):
    """Clips [B,T,F,F] -> a feature vector per AU [B,K,node] and AU logits [B,K*2] (left, right) read off it."""

    def __init__(self, widths: tuple[int, ...], node: int) -> None:
        super().__init__()
        self.trunk = ClipTrunk(widths)
        self.split = nn.Linear(widths[-1] * _GRID**2, N_AUS * node)
        self.norm = nn.LayerNorm(node)
        self.present = nn.Linear(node, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        nodes = self.norm(self.split(self.trunk(x).mean(2).flatten(1)).unflatten(1, (N_AUS, -1)))
        return nodes, self.present(nodes).flatten(1)
