"""Parts that several of the published networks share; each gives the same under vmap as one by one.

BatchNorm keeps running statistics and mixes the clips of a batch, so wherever a paper has it, :func:`norm` (GroupNorm,
same number of parameters) stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.errors import ConfigError
from recognizer.models.capsule_graph import route, squash

APEX_INPUTS: dict[str, int] = {"apex": 1, "change": 1, "both": 2}
"""What a network is shown of the view "apex", and how many channels that is."""


def check(
    section: str,
    config: Any,
    *,
    least: Mapping[str, int],
    shares: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise ConfigError unless fields hold numbers (or tuples of such) >= ``least``, shares in [0,1), known names."""
    for name, low in least.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(v < low for v in values):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"{section}.{name}={shown} must be at least {low}")
    for name in shares:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{section}.{name}={getattr(config, name):g} is outside [0, 1)")
    for name, known in (choices or {}).items():
        if getattr(config, name) not in known:
            raise ConfigError(f"{section}.{name}='{getattr(config, name)}' is unknown; choose from {', '.join(known)}")


def norm(channels: int) -> nn.GroupNorm:
    """Stand-in for BatchNorm: groups of up to 8 channels' worth, 2 * ``channels`` parameters."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def after(side: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Side of a map after a convolution or a pooling."""
    return (side + 2 * padding - kernel) // stride + 1


def resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    """[B,C,H,W] -> [B,C,side,side], bilinear; ``side`` 0 leaves the maps as they are."""
    if side in (0, maps.shape[-1]):
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False, antialias=False)


def apex_maps(view: torch.Tensor, kind: str) -> torch.Tensor:
    """Onset and apex [B,2,F,F] in [0,1] -> [B,APEX_INPUTS[kind],F,F] in [-1,1]: apex, apex minus onset, or both."""
    apex, change = 2 * view[:, 1:] - 1, view[:, 1:] - view[:, :1]
    return {"apex": apex, "change": change, "both": torch.cat([apex, change], 1)}[kind]


def he(module: nn.Module) -> None:
    """Weights of convolutions by He's rule, biases 0; for ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Lstm(nn.Module):
    """Long short-term memory, written out: nn.LSTM has no rule for vmap. [B,T,D] -> all states [B,T,H]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.seen = nn.Linear(inputs, 4 * hidden)
        self.held = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gates = self.seen(x)
        state = cell = torch.zeros_like(gates[:, 0, : gates.shape[-1] // 4])
        states = []
        for t in range(x.shape[1]):
            keep, write, show, content = (gates[:, t] + self.held(state)).chunk(4, -1)
            # A forget gate that begins open (Jozefowicz et al., 2015).
            cell = torch.sigmoid(keep + 1) * cell + torch.sigmoid(write) * torch.tanh(content)
            state = torch.sigmoid(show) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1)


class ClassCapsules(nn.Module):
    """Primary capsules [B,P,D] -> class capsules [B,C,dim] by dynamic routing (Sabour et al., 2017)."""

    def __init__(self, primaries: int, primary_dim: int, classes: int, dim: int, routings: int) -> None:
        super().__init__()
        self.dim, self.routings = dim, routings
        # sd .01 is published for 1152 primary capsules; fewer of them add up to as much.
        sd = 0.01 * math.sqrt(1152 / primaries)
        self.votes = nn.Parameter(torch.randn(primaries, primary_dim, classes * dim) * sd)

    def forward(self, primary: torch.Tensor) -> torch.Tensor:
        """See the class."""
        votes = torch.einsum("bpi,pio->bpo", squash(primary), self.votes)
        return route(votes.unflatten(2, (-1, self.dim)), self.routings)


def lengths(capsules: torch.Tensor) -> torch.Tensor:
    """[...,D] -> [...], safe to differentiate at 0."""
    return (capsules.square().sum(-1) + 1e-8).sqrt()
