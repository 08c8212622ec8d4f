"""What the networks share: the contract with the trainer, dropout without a generator, the patch stem, losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.errors import ConfigError
from recognizer.models.regions import masks


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the views a network may need."""

    size: int = 28
    """S of "flow" [B,3,S,S]."""
    frame_size: int = 64
    """F of "apex" [B,2,F,F] and "frames" [B,T,F,F]."""
    frames: int = 10
    """T of "frames"."""


class Outputs(NamedTuple):
    """What a network says of a batch."""

    scores: torch.Tensor
    """[B,C]: larger is more likely"""
    au: torch.Tensor | None
    """[B,K*2] logits, or None without an AU head"""
    features: torch.Tensor | None = None
    """[B,D] what the classifier sees, for losses on distances; None: nothing of the kind"""


_MASK = 0xFFFFFFFF


class Dropout(nn.Module):
    """Dropout whose mask is a hash of ``key`` and the place of the number: no generator, so copies under vmap and one
    copy alone draw the same. ``key`` 0 (as saved, and at test) is the identity; the trainer hands in another each step.
    """

    key: torch.Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"dropout={p:g} is outside [0, 1)")
        self.p = p
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,...] of any shape."""
        if self.p == 0:
            return x
        place = torch.arange(x.numel(), device=x.device).reshape(x.shape)
        h = (place * 0x9E3779B1 + self.key * 0x85EBCA6B) & _MASK  # Murmur3's finalizer on 32 bits
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
        kept = ((h ^ (h >> 16)) >= int(self.p * 2**32)) | (self.key == 0)
        grown = torch.where(self.key == 0, 1.0, 1 / (1 - self.p))
        return x * (kept * grown).to(x.dtype)


class FlowNetwork(nn.Module):
    """Base of the networks. No running statistics and no generator: a vmap over copies is exact.

    ``scale`` [3] is the rms of each channel of the flow over the member's own training clips; the trainer sets it.
    """

    scale: torch.Tensor
    needs: tuple[str, ...] = ("flow",)
    """The views that ``forward`` takes, in this order; see :class:`recognizer.data.FlowSet`."""
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

    forward: Callable[..., Outputs]
    """(views in the order of ``needs``, each [B,...]) -> :class:`Outputs`."""

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


def margin_loss(
    length: torch.Tensor, y: torch.Tensor, *, high: float = 0.9, low: float = 0.1, absent: float = 0.5, power: int = 2
) -> torch.Tensor:
    """Mean over clips of Sabour et al., eq. 4: lengths [B,C], classes y [B]."""
    target = F.one_hot(y, length.shape[-1]).to(length.dtype)
    hit, miss = F.relu(high - length) ** power, F.relu(length - low) ** power
    return (target * hit + absent * (1 - target) * miss).sum(-1).mean()
