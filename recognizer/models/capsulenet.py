"""CapsuleNet for micro-expressions (Quang, Chun and Tokuyama, FG 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import ResidualBlock
from recognizer.models.common import (
    APEX_INPUTS,
    ApexCapsules,
    BatchNorm,
    ClassCapsules,
    FlowNetwork,
    Outputs,
    Shape,
    after,
    apex_maps,
    he,
    lengths,
    margin_loss,
    resized,
)


@dataclass(frozen=True, kw_only=True)
class _Trunk:
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: int
    kernel: int
    """Of the convolution before the capsules and of the one that makes them."""
    primary: int
    """Primary capsules of 8 numbers per position."""


TRUNKS: dict[str, _Trunk] = {
    "resnet18": _Trunk(widths=(64, 128, 256), strides=(1, 2, 2), blocks=2, kernel=9, primary=32),
    "small": _Trunk(widths=(16, 32, 64), strides=(1, 2, 1), blocks=1, kernel=5, primary=8),
}
_PRIMARY_DIM = 8


@dataclass(frozen=True, kw_only=True)
class CapsulenetConfig(ApexCapsules):
    """Published sizes (13.8 million parameters); ``trunk: small`` with ``side: 0`` trains on a CPU."""

    trunk: str = "resnet18"
    side: int = 224
    """The picture is brought to this size; 0 leaves it at data.frame_size."""

    def __post_init__(self) -> None:
        self.check("capsulenet", {"side": 0}, trunk=tuple(TRUNKS))


class Capsulenet(FlowNetwork):
    """ResNet18 up to its third layer -> conv 9x9 (256) -> 32 primary capsules a position -> class capsules.

    Published (paper, authors' code): ResNet18 without its max-pooling, so that 224 pixels leave 28x28 maps; kernels
    of 9; 8 and 16 numbers a capsule; 3 routings; margin loss .99/.01 with .5 for absent classes; apex frame alone.
    Deviations: no ImageNet or macro-expression weights (none come with this package); grey pictures;
    the four neighbour frames with which the authors fill up small classes are left to ``train.balance``.
    """

    needs = ("apex",)
    probability_gain = 8.0
    centre = 0.5
    stack = 1

    def __init__(self, config: CapsulenetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        trunk, side = TRUNKS[config.trunk], config.side or shape.frame_size
        widths = trunk.widths
        layers: list[nn.Module] = [
            nn.Conv2d(APEX_INPUTS[config.input], widths[0], 7, 2, 3, bias=False), BatchNorm(widths[0]), nn.ReLU(),
        ]  # fmt: skip
        maps = after(side, 7, 2, 3)
        for (a, b), stride in zip(pairwise((widths[0], *widths)), trunk.strides, strict=True):
            layers += [ResidualBlock(a, b, stride), *(ResidualBlock(b, b, 1) for _ in range(trunk.blocks - 1))]
            maps = after(maps, 3, stride, 1)
        maps = after(after(maps, trunk.kernel), trunk.kernel, 2)
        if maps < 1:
            raise ConfigError(
                f"capsulenet.side={config.side} leaves {side} pixels, too few for the kernels of trunk "
                f"'{config.trunk}'; set side: 224 (resnet18) or side: 64 (small)"
            )
        self.trunk = nn.Sequential(*layers).apply(he)
        self.conv = nn.Conv2d(widths[-1], widths[-1], trunk.kernel)
        self.primary = nn.Conv2d(widths[-1], trunk.primary * _PRIMARY_DIM, trunk.kernel, 2)
        self.capsules = ClassCapsules(
            trunk.primary * maps**2, _PRIMARY_DIM, n_classes, config.class_dim, config.routings
        )

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> lengths of the class capsules, in [0,1)."""
        x = resized(apex_maps(views[0], self.config.input), self.config.side)
        primary = self.primary(F.relu(self.conv(self.trunk(x)))).permute(0, 2, 3, 1)
        capsules = self.capsules(primary.reshape(len(x), -1, _PRIMARY_DIM))
        return Outputs(lengths(capsules), None, capsules.flatten(1))

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Margin loss with the published margins."""
        return margin_loss(outputs.scores, y, high=0.99, low=0.01)


def build(config: CapsulenetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the picture is too small for the trunk.
    """
    return Capsulenet(config, n_classes, shape)
