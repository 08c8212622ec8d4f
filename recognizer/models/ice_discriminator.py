"""ICE-GAN's discriminator as a recognizer (Yu, Zhang, Song and Cai, IJCNN 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
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
    lengths,
    margin_loss,
)

_PRIMARY, _PRIMARY_DIM = 16, 8
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class IceDiscriminatorConfig(ApexCapsules):
    """Published sizes, on frames of 128 pixels."""

    width: int = 64
    """Filters of the first layer; the deeper ones have 2, 4 and 8 times as many."""
    class_dim: int = 32

    def __post_init__(self) -> None:
        self.check("ice_discriminator", {"width": 1})


def largest_singular_value(matrix: torch.Tensor) -> torch.Tensor:
    """Of [m,n], by power iteration; the gradient passes through the matrix, not through the vectors."""
    fixed = matrix.detach()
    # A fixed start keeps no state between calls; five rounds replace the one round a step of the usual norm.
    left = torch.cos(torch.arange(len(matrix), device=matrix.device, dtype=matrix.dtype) * 1.7)
    right = F.normalize(left @ fixed, dim=0)
    for _ in range(_ROUNDS):
        left = F.normalize(fixed @ right, dim=0)
        right = F.normalize(left @ fixed, dim=0)
    return left @ matrix @ right


class SpectralConv2d(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value (Miyato et al., 2018), without state."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] -> [B,C',H',W']."""
        weight = self.weight / largest_singular_value(self.weight.flatten(1))
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class IceDiscriminator(FlowNetwork):
    """Spectral-norm PatchGAN -> 16 primary capsules of 8 numbers a position -> class capsules.

    Published (paper, authors' code): the layers, 8x8x16 = 1024 primary capsules at 128 pixels, 3 routings, margins
    .9/.1 without squares, .5 for absent classes. The size of a class capsule is free.
    Deviations: coupling coefficients share a primary capsule out over the classes (the code
    normalises over the primary capsules); no authenticity capsule and no reconstruction, which serve the GAN.
    """

    needs = ("apex",)
    probability_gain = 8.0
    centre = 0.5
    stack = 1

    def __init__(self, config: IceDiscriminatorConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if shape.frame_size < 32:
            raise ConfigError(f"ice_discriminator needs data.frame_size of at least 32, not {shape.frame_size}")
        self.config = config
        w, side = config.width, shape.frame_size
        layers: list[nn.Module] = [SpectralConv2d(APEX_INPUTS[config.input], w, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b, stride in ((w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 1), (8 * w, 8 * w, 1)):
            layers += [SpectralConv2d(a, b, 4, stride, 1, bias=False), BatchNorm(b), nn.LeakyReLU(0.2)]
        layers += [SpectralConv2d(8 * w, w, 1, 2, 1), SpectralConv2d(w, _PRIMARY * _PRIMARY_DIM, 1)]
        self.patches = nn.Sequential(*layers)
        for stride in (2, 2, 2, 1, 1):
            side = after(side, 4, stride, 1)
        primaries = _PRIMARY * after(side, 1, 2, 1) ** 2
        self.capsules = ClassCapsules(primaries, _PRIMARY_DIM, n_classes, config.class_dim, config.routings)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> lengths of the class capsules, in [0,1)."""
        maps = self.patches(apex_maps(views[0], self.config.input)).permute(0, 2, 3, 1)
        capsules = self.capsules(maps.reshape(len(maps), -1, _PRIMARY_DIM))
        return Outputs(lengths(capsules), None, capsules.flatten(1))

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Margin loss as the authors' code has it."""
        return margin_loss(outputs.scores, y, power=1)


def build(config: IceDiscriminatorConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the frames are smaller than 32 pixels.
    """
    return IceDiscriminator(config, n_classes, shape)
