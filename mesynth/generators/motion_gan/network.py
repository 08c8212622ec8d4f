"""Discriminators of motion, and the reader of AU intensities that guides a generator.

Spectral norm (Miyato et al., 2018) everywhere, no norm over the batch: a pair's score is its own.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mesynth.core.facs import AU_CODES
from mesynth.generators.formation import MAX_RESIDUAL
from mesynth.preprocess.warping import strain

K = len(AU_CODES)
_POOLED = 4
"""Side of the map an AU head sees: pooling further would lose the sides of the face."""


class MotionDiscriminator(ModelMixin, ConfigMixin):
    """Does this motion belong to this face? PatchGAN on (onset, frame, flow, strain), with an AU-intensity head."""

    @register_to_config
    def __init__(self, size: int = 64, width: int = 32, max_flow: float = 0.06) -> None:
        super().__init__()
        w = width
        steps = [(9, w, 2), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1)]
        layers: list[nn.Module] = []
        for a, b, stride in steps:
            layers += [spectral_norm(nn.Conv2d(a, b, 4 if stride == 2 else 3, stride, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.score = spectral_norm(nn.Conv2d(4 * w, 1, 3, padding=1))
        self.read = nn.Sequential(nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten(), nn.Linear(4 * w * _POOLED**2, 2 * K))

    def observe(
        self, onset: torch.Tensor, frame: torch.Tensor, flow: torch.Tensor, has_flow: torch.Tensor
    ) -> torch.Tensor:
        """What it looks at, [B,9,S,S]: pictures in [-1,1], change, flow and strain in units of the flow's limit.

        Pairs without a known flow (``has_flow`` [B] bool) show none, so that its absence is no sign of a real pair.
        """
        unit = self.config["max_flow"] * flow.shape[-1]
        seen = has_flow.view(-1, 1, 1, 1).to(flow.dtype)
        shown = torch.cat([flow / unit, strain(flow) / unit * 4], 1) * seen
        return torch.cat([2 * onset - 1, (frame - onset) / MAX_RESIDUAL, shown], 1)

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,9,S,S] of :meth:`observe` -> patch scores [B,1,h,w] and AU intensities [B,K,2]."""
        features = self.body(seen)
        return self.score(features), self.read(features).view(-1, K, 2)


class ActionReader(nn.Module):
    """AU intensities of the difference between two pictures: trained on real pairs, frozen for the generator.

    It sees pictures only, never the flow: a generator cannot please it with a flow that its frame does not show.
    No motion reads as 0 (biases are absent past the first product with the difference).
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.look = nn.Sequential(nn.Conv2d(3, w, 5, 2, 2), nn.SiLU())
        self.change = nn.Conv2d(3, w, 5, 2, 2, bias=False)
        self.body = nn.Sequential(
            nn.Conv2d(2 * w, 2 * w, 3, 2, 1, bias=False), nn.ReLU(),
            nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2 * _POOLED), nn.Flatten(), nn.Linear(4 * w * (2 * _POOLED) ** 2, 2 * K, bias=False),
        )  # fmt: skip

    def forward(self, onset: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] twice in [0,1] -> [B,K,2], unbounded."""
        change = self.change((frame - onset) / MAX_RESIDUAL)
        out: torch.Tensor = self.body(torch.cat([change, change * self.look(2 * onset - 1)], 1))
        return out.view(-1, K, 2)
