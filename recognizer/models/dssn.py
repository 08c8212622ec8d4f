"""DSSN: dual-stream shallow networks (Khor, See, Liong, Phan and Lin, ICIP 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, after, check, he, resized

FUSIONS = ("mul", "add", "cat")
STREAMS: dict[str, tuple[str, str]] = {"magnitude_strain": ("magnitude", "strain"), "u_v": ("u", "v")}
_LEAST = 63  # below that the second pooling has nothing to pool


@dataclass(frozen=True, kw_only=True)
class DssnConfig:
    """Published sizes (0.97 million parameters for five classes)."""

    fusion: str = "mul"
    """How the streams' maps are joined: multiplied (the best in the paper), added or concatenated."""
    streams: str = "magnitude_strain"
    """What the streams see: magnitude_strain (published) or u_v."""
    side: int = 227
    """The flow image is brought to this size; AlexNet's first layer strides over smaller ones too fast."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check("dssn", self, least={}, shares=("dropout",), choices={"fusion": FUSIONS, "streams": tuple(STREAMS)})
        if self.side < _LEAST:
            raise ConfigError(f"dssn.side={self.side} must be at least {_LEAST}; 227 is published")


class Dssn(FlowNetwork):
    """Two AlexNets cut off after their second convolution, their maps joined, one classifier.

    Published (paper, authors' code): AlexNet's conv 11x11 stride 4 (96) and conv 5x5 in two groups (256), each with
    max-pooling 3/2 and local response norm; magnitude and strain images; joining before the classifier; dropout .5.
    The code's zero border about the joined maps is kept: the published 0.97 M parameters count its weights.
    Deviations: no ImageNet weights (none come with this package), He's initial weights instead; a stream's image is
    repeated on three channels, as grey pictures were there.
    """

    stack = 1

    def __init__(self, config: DssnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.alexnets = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, 5e-4, k=2),
                nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.LocalResponseNorm(5, 5e-4, k=2), nn.ZeroPad2d(1),
            )
            for _ in range(2)
        ).apply(he)  # fmt: skip
        side = after(after(after(config.side, 11, 4), 3, 2), 3, 2) + 2
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear((2 if config.fusion == "cat" else 1) * 256 * side**2, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        u, v, strain = self.scaled(views[0]).unbind(1)
        seen = {"u": u, "v": v, "magnitude": ((u * u + v * v) / 2).sqrt(), "strain": strain}
        a, b = (
            net(resized(seen[name][:, None], self.config.side).expand(-1, 3, -1, -1))
            for net, name in zip(self.alexnets, STREAMS[self.config.streams], strict=True)
        )
        joined = {"mul": a * b, "add": a + b, "cat": torch.cat([a, b], 1)}[self.config.fusion]
        features = self.drop(joined.flatten(1))
        return Outputs(self.classify(features), None, features)


def build(config: DssnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Dssn(config, n_classes, shape)
