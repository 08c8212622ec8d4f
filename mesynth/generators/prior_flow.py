"""The motion prior's flow for any AUs on the mean face of an aligned crop: where an AU moves skin, and which way.

Painters see it and the picture's change under it, and draw a change of the picture (docs/decisions/014).
"""

from __future__ import annotations

import torch
from torch import nn

from mesynth.facs import AU_CODES, MIDLINE
from mesynth.generators.motion_gan import canonical_fields, crop_frame, read_canonical
from mesynth.generators.warping import warp
from mesynth.head.model import SIDE_SOFTNESS
from mesynth.preprocess.align import IOD_SHARE

_SIDE = 48
CHANGE_GAIN = 10.0
"""A painter sees the picture's change times this: micro-expressions change little."""
_EDGE = 1 / 510
"""Half a grey level: black and white have no logit."""


class PriorFlow(nn.Module):
    """AUs [B,K,2], also negative (a change), -> flow [B,2,S,S] in pixels of an S x S crop. Nothing to learn."""

    fields: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        uv = crop_frame(size, torch.zeros(1, device="cpu"))  # numbers, also where a network is only being counted
        left = torch.sigmoid(uv[:, :1] / SIDE_SOFTNESS)
        share = torch.cat([left, 1 - left], 1)
        midline = torch.tensor([code in MIDLINE for code in AU_CODES], device="cpu").view(-1, 1, 1, 1, 1)
        whole = read_canonical(canonical_fields(_SIDE), uv) * (IOD_SHARE * size)
        fields = whole.view(len(AU_CODES), 1, 2, size, size) * torch.where(midline, 0.5, share[0, None, :, None])
        self.register_buffer("fields", fields.contiguous(), persistent=False)

    def forward(self, aus: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.einsum("bks,kschw->bchw", aus.to(self.fields.dtype), self.fields)


def moved_change(prior: PriorFlow, picture: torch.Tensor, aus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The prior's flow [B,2,S,S] and what it changes, to first order, in pictures [B,3,S,S] in [0,1], times 10."""
    flow = prior(aus)
    return flow, CHANGE_GAIN * (warp(picture, -flow) - picture)


def logit(picture: torch.Tensor) -> torch.Tensor:
    """Of pictures in [0,1]; black and white are moved by half a grey level."""
    return picture.clamp(_EDGE, 1 - _EDGE).logit()
