"""How a generator is told what to do: action units with their intensities, what is unknown, and noise."""

from __future__ import annotations

import math

import torch
from torch import nn

FREQUENCIES = 4
"""Octaves of the Fourier features: intensities half a FACS letter apart are still told apart."""


def fourier_intensity(intensity: torch.Tensor, frequencies: int = FREQUENCIES) -> torch.Tensor:
    """[...] in [0,1] -> [...,1+2*frequencies]: the value, sin(2^i pi a / 2), 1 - cos(2^i pi a / 2).

    All features are 0 at intensity 0, so that an AU that is not asked for adds nothing to a sum over AUs.
    """
    scales = 2.0 ** torch.arange(frequencies, device=intensity.device, dtype=intensity.dtype) * (math.pi / 2)
    angle = intensity[..., None] * scales
    return torch.cat([intensity[..., None], angle.sin(), 1 - angle.cos()], -1)


class AUCondition(nn.Module):
    """AU embedding times Fourier intensity, summed over AUs, with the unknown ones and noise -> [B,width].

    ``units`` entries are conditioned on (K for one side of a face, 2K for both). An unknown AU adds an embedding of
    its own: unknown is not absent. ``noise`` numbers may be 0.
    """

    def __init__(self, units: int, width: int, noise: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(units, width))
        self.unknown = nn.Parameter(0.1 * torch.randn(units, width))
        self.intensity = nn.Linear(1 + 2 * FREQUENCIES, width, bias=False)
        self.mix = nn.Sequential(nn.Linear(width + noise, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, intensity: torch.Tensor, known: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """``intensity`` [B,units] in [0,1], ``known`` [B,units] bool, ``z`` [B,noise]."""
        asked = intensity * known
        summed = (self.intensity(fourier_intensity(asked)) * self.embedding).sum(1)
        summed = summed + (~known).to(summed.dtype) @ self.unknown
        out: torch.Tensor = self.mix(summed if z is None else torch.cat([summed, z], 1))
        return out


class FiLM(nn.Module):
    """Scale and shift of feature maps by a condition (Perez et al., "FiLM", 2018); starts as the identity."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] and [B,condition] -> [B,C,H,W]."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift


class FiLMBlock(nn.Module):
    """Residual block: two 3x3 convolutions with GroupNorm and SiLU, modulated after the second norm."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.norm, self.film = group_norm(channels), FiLM(condition, channels)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] and [B,condition] -> [B,C,H,W]."""
        out: torch.Tensor = x + self.second(self.film(self.norm(self.first(x)), condition))
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least 4 channels, 8 groups at most: no statistics over the batch."""
    groups = next(g for g in (8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1)
    return nn.GroupNorm(groups, channels)
