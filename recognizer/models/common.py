"""What the three networks share: the contract with the trainer, input scaling, the patch stem, losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.regions import masks


class Outputs(NamedTuple):
    """``scores`` [B,C]: larger is more likely. ``au`` [B,K*2] logits, or None without an AU head."""

    scores: torch.Tensor
    au: torch.Tensor | None


class FlowNetwork(nn.Module, ABC):
    """Base of the networks. No running statistics and no randomness: a vmap over copies is exact.

    ``scale`` [3] is the rms of each channel over the member's own training clips; the trainer sets it.
    """

    scale: torch.Tensor
    probability_gain = 1.0
    """softmax(probability_gain * scores) are the class probabilities."""
    stack = 16
    """How many members train fastest together on a CPU; see tests/bench/bench_folds.py."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] with unit rms per channel."""
        return x / self.scale[:, None, None]

    @abstractmethod
    def forward(self, x: torch.Tensor) -> Outputs:
        """[B,3,S,S] -> scores."""

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch: y [B] int64, au [B,K*2] with -1 unknown. Default: cross-entropy."""
        return F.cross_entropy(outputs.scores, y)


class RegionStem(nn.Module):
    """Overlapping 6x6 patches at stride 4 -> ``width`` features each -> soft regions with moments.

    The convolution is written as unfold + linear: the input needs no gradient, so the unfolding costs
    no backward pass, and a stack of networks becomes one batched matrix product.
    """

    pool: torch.Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * 6 * 6, width)
        self.register_buffer("pool", torch.from_numpy(masks(size // 4)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] -> [B,R,3*width]."""
        # Views and one copy: four times as fast as F.unfold on a CPU.
        patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
        features = F.gelu(self.patch(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)))
        pooled: torch.Tensor = self.pool @ features
        return pooled.reshape(len(x), -1, 3 * features.shape[-1])


def au_loss(logits: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over the AUs that are known; 0 when none is."""
    known = (au >= 0).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, au.clamp(min=0).to(logits.dtype), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)
