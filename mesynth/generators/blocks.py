"""Pieces that the image-space and flow-image GANs share: spectral norm, attention, critics without batch statistics."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mesynth.errors import ConfigError
from mesynth.types import N_AUS

CELLS = 2 * N_AUS
"""AU intensities of one face: per AU, the subject's left and right."""
_Layer = TypeVar("_Layer", bound=nn.Module)


def sn(layer: _Layer) -> _Layer:
    """``layer`` with its weight divided by its largest singular value (Miyato et al., 2018)."""
    spectral_norm(layer)
    return layer


def halvings(size: int, smallest: int, most: int) -> int:
    """How often ``size`` pixels can be halved evenly without falling below ``smallest``, at most ``most`` times.

    Raises:
        ConfigError: not once.
    """
    count = 0
    while count < most and size % 2 == 0 and size // 2 >= smallest:
        size, count = size // 2, count + 1
    if count == 0:
        raise ConfigError(f"size {size} cannot be halved down to {smallest}; choose an even size of more pixels")
    return count


class SelfAttention(nn.Module):
    """Every position looks at all others (Zhang et al., SAGAN, 2019); ``x + gamma * attended``, gamma from 0.

    Keys and values are pooled over 2x2 positions, as in the authors' code.
    """

    def __init__(self, channels: int, spectral: bool = True) -> None:
        super().__init__()
        wrap = sn if spectral else (lambda layer: layer)
        inner = max(channels // 8, 4)
        self.query = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.key = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.value = wrap(nn.Conv2d(channels, max(channels // 2, 4), 1, bias=False))
        self.out = wrap(nn.Conv2d(max(channels // 2, 4), channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] -> [B,C,H,W]. Unscaled dot products, as published."""
        near = (self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2))
        q, k, v = (maps.flatten(2).transpose(1, 2) for maps in near)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        maps = attended.transpose(1, 2).reshape(len(x), -1, *x.shape[-2:])
        out: torch.Tensor = x + self.gamma * self.out(maps)
        return out


class PatchTower(nn.Module):
    """Stride-2 4x4 convolutions with leaky ReLU: [B,in,S,S] -> [B,channels,S/2^layers,S/2^layers]. No normalisation."""

    def __init__(
        self, inputs: int, width: int, layers: int, *, spectral: bool, slope: float = 0.2, widest: int = 8
    ) -> None:
        super().__init__()
        wrap = sn if spectral else (lambda layer: layer)
        self.body = nn.Sequential()
        for i in range(layers):
            self.channels = width * min(2**i, widest)
            self.body.append(wrap(nn.Conv2d(inputs, self.channels, 4, 2, 1)))
            self.body.append(nn.LeakyReLU(slope))
            inputs = self.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.body(x)
        return out
