"""ResNet-10 with pre-activation (He et al., 2016), the trunk of ATNet and of micro-attention.

Layer by layer after the network definitions that ATNet's authors published for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import he, norm


class MicroAttention(nn.Module):
    """x -> x * (1 + mask): one mask [B,1,h,w] from all maps of a residual block, concatenated.

    1x1 convolution to as many maps as the block has, their mean, a sigmoid (Wang et al., 2020).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps [B,C,h,w] of the block, and the parts they were made of."""
        mask = torch.sigmoid(self.gather(torch.cat(list(parts), 1)).mean(1, keepdim=True))
        return x + x * mask


class _Block(nn.Module):
    """norm, ReLU, conv 3x3 with the stride, norm, ReLU, conv 3x3; the skip leaves after the first ReLU."""

    def __init__(self, a: int, b: int, *, first: bool, attention: bool) -> None:
        super().__init__()
        stride = 1 if first else 2
        self.before = nn.Identity() if first else nn.Sequential(norm(a), nn.ReLU())
        self.one = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.between = nn.Sequential(norm(b), nn.ReLU())
        self.two = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.skip = nn.Identity() if first else nn.Conv2d(a, b, 1, stride, bias=False)
        self.attend = MicroAttention(3 * b, b) if attention else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        one = self.between(self.one(x))
        two, skip = self.two(one), self.skip(x)
        out = two + skip
        return out if self.attend is None else self.attend(out, (skip, one, two))


class ResNet10(nn.Module):
    """Pictures [B,C,F,F] -> embedding [B,widths[-1]] of length 1. Deviation: GroupNorm for BatchNorm.

    The norm of the picture itself makes each one of mean 0 and variance 1, where BatchNorm did that for a batch.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], *, attention: bool) -> None:
        super().__init__()
        self.picture = nn.GroupNorm(1, channels)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 7, 2, 3), norm(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        pairs = list(pairwise((widths[0], *widths)))
        self.blocks = nn.ModuleList(_Block(a, b, first=i == 0, attention=attention) for i, (a, b) in enumerate(pairs))
        self.last = norm(widths[-1])
        self.apply(he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps = self.stem(self.picture(x))
        for block in self.blocks:
            maps = block(maps)
        return F.normalize(F.relu(self.last(maps)).mean((2, 3)), dim=1)
