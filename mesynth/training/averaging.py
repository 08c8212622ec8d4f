"""Exponential moving averages of networks, with a half-life in images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn


def keep_share(images: int, batch: int, half_life: float, ramp: float) -> float:
    """Share of the old average that an update by ``batch`` pairs keeps when the clock reads ``images`` after it.

    ``0.5 ** (batch / h)`` with h = min(half_life, ramp * images); so the average does not depend on the batch size,
    and the start of a run is forgotten (Karras et al. 2020, "Training Generative Adversarial Networks with Limited
    Data", whose ramp-up this is). ``half_life=0`` keeps nothing.

    >>> keep_share(1000, 10, 10, 0), keep_share(1000, 10, 0, 0)
    (0.5, 0.0)
    """
    half = min(half_life, ramp * images) if ramp else half_life
    return 0.5 ** (batch / half) if half > 0 else 0.0


class Averages:
    """Averaged copies of some networks: float parameters are averaged, buffers and counters copied."""

    def __init__(self, networks: Mapping[str, nn.Module], names: Sequence[str], half_life: float, ramp: float) -> None:
        """Copies the networks as they are, so it comes before anything is compiled."""
        self.networks: dict[str, nn.Module] = {
            name: copy.deepcopy(networks[name]).eval().requires_grad_(False) for name in names
        }
        self._half_life, self._ramp = half_life, ramp

    @torch.no_grad()
    def update(self, networks: Mapping[str, nn.Module], images: int, batch: int) -> None:
        """Move towards ``networks`` after an update by ``batch`` pairs; the clock reads ``images`` now."""
        keep = keep_share(images, batch, self._half_life, self._ramp)
        for name, average in self.networks.items():
            current = networks[name]
            torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
            for old, new in zip(average.buffers(), current.buffers(), strict=True):
                old.copy_(new)
