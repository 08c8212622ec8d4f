"""AMAN: every frame at several magnifications, attention over magnifications and over frames (Wei, Zheng, Zong, Jiang,
Lu and Liu, ICASSP 2022; authors' code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import ResNet18
from recognizer.models.common import FlowNetwork, Outputs, Shape, check, resized


@dataclass(frozen=True, kw_only=True)
class AmanConfig:
    """Published sizes (11.2 million parameters)."""

    side: int = 224
    """Frames are brought to this size; 0 leaves them at data.frame_size."""
    factors: tuple[float, ...] = (2.0, 3.25, 4.5, 5.75, 7.0, 8.25, 9.5, 10.75, 12.0)
    """Magnifications (nine published)."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    """Residual blocks of each width."""

    def __post_init__(self) -> None:
        for name in ("factors", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check("aman", self, least={"side": 0, "widths": 1, "blocks": 1})
        if not self.factors or min(self.factors) <= 0:
            raise ConfigError(f"aman.factors={list(self.factors)} must be positive numbers, at least one")


class Aman(FlowNetwork):
    """Frames x magnifications -> ResNet-18 each -> a weighted mean over magnifications, then over frames -> classifier.

    Published (authors' code): ResNet-18, 11 frames at 9 magnifications, a linear layer with a sigmoid for either
    weight, means by these weights.
    Deviations: linear magnification of what changed since the first frame in place of the pretrained magnification
    network (its demonstration goes from 2 to 12, as the factors here); the trunk up to its third stage is trained with
    the rest, for their frozen weights from FER+ do not come with this package, and running statistics are those of all
    pictures of a batch together; RMSprop is Adam.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: AmanConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNet18(1, config.widths, blocks=config.blocks)
        width = config.widths[-1]
        self.magnification, self.frame = nn.Linear(width, 1), nn.Linear(width, 1)
        self.classify = nn.Linear(width, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        frames, factors = resized(views[0], self.config.side), self.config.factors
        first = frames[:, :1]
        magnified = torch.stack([(first + a * (frames - first)).clamp(0, 1) for a in factors], 2)  # [B,T,M,F,F]
        seen = self.trunk(2 * magnified.flatten(0, 2)[:, None] - 1).unflatten(0, magnified.shape[:3])
        frame = _weighted(seen, torch.sigmoid(self.magnification(seen)), 2)
        features = _weighted(frame, torch.sigmoid(self.frame(frame)), 1)
        return Outputs(self.classify(features), None, features)


def _weighted(x: torch.Tensor, weight: torch.Tensor, dim: int) -> torch.Tensor:
    return (x * weight).sum(dim) / weight.sum(dim)


def build(config: AmanConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Aman(config, n_classes, shape)
