"""ELRCN: enriched long-term recurrent convolutional network (Khor, See, Phan and Lin, FG 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Lstm, Outputs, Shape, check, he

ENRICHMENTS = ("spatial", "temporal")
CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class ElrcnConfig:
    """Published sizes: VGG-16 and an LSTM of 3000, on 224 pixels and 10 frames."""

    enrichment: str = "spatial"
    """spatial: the channels are stacked and seen by one VGG; temporal: one VGG each, their features joined."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    """Filters of VGG's stages; each ends with a max-pooling."""
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    """3x3 convolutions of each stage."""
    dense: tuple[int, ...] = (4096, 4096)
    hidden: int = 3000
    """Of the LSTM."""
    head: int = 128
    """Of the layer between LSTM and classifier."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "dense"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"widths": 1, "depths": 1, "dense": 1, "hidden": 1, "head": 1}
        check("elrcn", self, least=sizes, shares=("dropout",), choices={"enrichment": ENRICHMENTS})
        if len(self.widths) != len(self.depths):
            raise ConfigError(f"elrcn.depths={list(self.depths)} needs one number for each of elrcn.widths")


class Vgg(nn.Module):
    """VGG (Simonyan and Zisserman, 2015): pictures [N,C,F,F] -> [N,dense[-1]]."""

    def __init__(self, config: ElrcnConfig, channels: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (a, b), depth in zip(pairwise((channels, *config.widths)), config.depths, strict=True):
            for i in range(depth):
                layers += [nn.Conv2d(a if i == 0 else b, b, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.maps = nn.Sequential(*layers).apply(he)
        flat = config.widths[-1] * (side // 2 ** len(config.widths)) ** 2
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((flat, *config.dense)))
        self.drops = nn.ModuleList(Dropout(config.dropout) for _ in config.dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.maps(x).flatten(1)
        for dense, drop in zip(self.dense, self.drops, strict=True):
            x = drop(F.relu(dense(x)))
        return x


def enriched(frames: torch.Tensor) -> torch.Tensor:
    """[B,T,F,F] -> [B,T,3,F,F]: grey in [-1,1], change since the frame before, change since the first."""
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    return torch.stack([2 * frames - 1, frames - before, frames - frames[:, :1]], 2)


class Elrcn(FlowNetwork):
    """Every frame through VGG-16, the features through an LSTM, its last state through a dense layer.

    Published (paper, authors' code): VGG-16 with two layers of 4096, LSTM 3000, dense 128, 10 frames; enrichment by
    channels or by features.
    Deviations: the enriching channels are frame differences (theirs: dense flow and strain of every frame); no
    VGG-Face weights (none come with this package), He's initial weights instead; softmax instead of sigmoids.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: ElrcnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if shape.frame_size < 2 ** len(config.widths):
            raise ConfigError(
                f"elrcn.widths={list(config.widths)} halve the picture {len(config.widths)} times; "
                f"data.frame_size={shape.frame_size} is too small for that"
            )
        self.config = config
        nets, channels = (1, CHANNELS) if config.enrichment == "spatial" else (CHANNELS, 1)
        self.nets = nn.ModuleList(Vgg(config, channels, shape.frame_size) for _ in range(nets))
        self.lstm = Lstm(nets * config.dense[-1], config.hidden)
        self.head = nn.Linear(config.hidden, config.head)
        self.classify = nn.Linear(config.head, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        x = enriched(views[0])
        shown = [x] if len(self.nets) == 1 else x.split(1, 2)
        seen = [net(part.flatten(0, 1)) for net, part in zip(self.nets, shown, strict=True)]
        states = self.lstm(torch.cat(seen, 1).unflatten(0, (len(x), -1)))
        features = F.relu(self.head(states[:, -1]))
        return Outputs(self.classify(features), None, features)


def build(config: ElrcnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the frames are too small for the poolings.
    """
    return Elrcn(config, n_classes, shape)
