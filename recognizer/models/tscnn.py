"""TSCNN with our own sizes: the apex, its parts and the motion of three key frames in three streams (Song, Li, Zong,
Zhu, Zheng, Shi and Zhao, IEEE Access 2019; after its abstract)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, he, norm, resized

_PLACES = 3  # a side of the maps that a stream's dense layer reads


@dataclass(frozen=True, kw_only=True)
class TscnnConfig:
    """Sizes are ours."""

    side: int = 48
    """Pictures and flow are brought to this size; 0 leaves them."""
    grid: int = 4
    """Parts a side that the local stream sees the apex in."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Of the convolutions of each stream; each ends with a max-pooling."""
    dense: int = 128
    """Features of a stream."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"side": 0, "grid": 2, "widths": 1, "dense": 1}
        check("tscnn", self, least=sizes, shares=("dropout",))


def _stream(channels: int, config: TscnnConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise((channels, *config.widths)):
        layers += [nn.Conv2d(a, b, 3, padding=1), norm(b), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
    made = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(_PLACES), nn.Flatten(), nn.Linear(config.widths[-1] * _PLACES**2, config.dense),
        nn.ReLU(),
    )  # fmt: skip
    return made.apply(he)


class Tscnn(FlowNetwork):
    """Apex (static-spatial), parts of the apex side by side as channels (local-spatial), flow onset -> apex and apex ->
    offset (dynamic-temporal): a stream of convolutions each, concatenated, one dense layer, classifier.

    Published (abstract): the three streams on three key frames. Free: all sizes, the norm (GroupNorm), the parts (a
    grid of 4x4). Deviations: flow apex -> offset is the difference of the flows onset -> offset and onset -> apex; no
    weights from FER2013; the apex is the annotated one, not their detector's.
    """

    needs = ("apex", "flow", "flows")
    stack = 1

    def __init__(self, config: TscnnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, side = config, config.side or shape.frame_size
        if side % config.grid:
            raise ConfigError(f"tscnn.grid={config.grid} must divide the picture's side, {side} (tscnn.side)")
        self.static, self.local, self.dynamic = (_stream(channels, config) for channels in (1, config.grid**2, 4))
        self.join = nn.Linear(3 * config.dense, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex, [B,3,S,S] flow, [B,K,3,S,S] flow of key frames -> scores."""
        config = self.config
        apex = 2 * resized(views[0], config.side)[:, 1:] - 1
        part = apex.shape[-1] // config.grid
        parts = apex[:, 0].unfold(1, part, part).unfold(2, part, part).flatten(1, 2)
        rise, whole = self.scaled(views[1])[:, :2], self.scaled(views[2][:, -1])[:, :2]
        motion = resized(torch.cat([rise, whole - rise], 1), config.side)
        seen = torch.cat([self.static(apex), self.local(parts), self.dynamic(motion)], 1)
        features = self.drop(F.relu(self.join(seen)))
        return Outputs(self.classify(features), None, features)


def build(config: TscnnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the grid does not divide the picture.
    """
    return Tscnn(config, n_classes, shape)
