"""3D-FCNN, published name with our own sizes: three 3D streams for grey frames, horizontal and vertical flow (Li, Wang,
See and Liu, Pattern Analysis and Applications 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, he, norm


@dataclass(frozen=True, kw_only=True)
class Fcnn3dConfig:
    """All sizes are ours."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of a stream's 3D convolutions."""
    grid: int = 4
    """A stream ends with this many cells a side."""
    dense: int = 128
    """Features of a stream."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check("fcnn3d", self, least={"widths": 1, "grid": 1, "dense": 1}, shares=("dropout",))


class ClipStream(nn.Module):
    """Clips [B,C,T,H,W] -> [B,``size``]: 3x3x3 convolutions, each with norm, ReLU, ``gate(width)`` and a max-pooling of
    two (the first leaves time alone), then means over time and over grid x grid cells."""

    def __init__(
        self, channels: int, widths: tuple[int, ...], grid: int, gate: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 3, padding=1, bias=False), norm(b), nn.ReLU(), *([gate(b)] if gate else []))
            for a, b in pairwise((channels, *widths))
        )
        self.cells = nn.AdaptiveAvgPool3d((1, grid, grid))
        self.size = widths[-1] * grid**2
        self.apply(he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            time, side = (2 if i and x.shape[2] > 1 else 1), (2 if min(x.shape[3:]) > 1 else 1)
            x = F.max_pool3d(x, (time, side, side))
        out: torch.Tensor = self.cells(x).flatten(1)
        return out


def shown(frames: torch.Tensor) -> torch.Tensor:
    """Grey clips [B,T,H,W] in [0,1] -> [B,1,T,H,W], less the clip's own mean brightness."""
    return (frames - frames.mean((1, 2, 3), keepdim=True))[:, None]


class Fcnn3d(FlowNetwork):
    """A stream of 3D convolutions each for grey frames, u and v of the whole clip; joined before the classifier.

    Published (title; input and streams: a survey): 3D convolutions over flow, sub-streams for frames and flow
    components. Free: all sizes, the norm (GroupNorm), where the streams join, all of the training.
    """

    needs = ("frames", "flows")
    stack = 1

    def __init__(self, config: Fcnn3dConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.streams = nn.ModuleList(ClipStream(1, config.widths, config.grid) for _ in ("grey", "u", "v"))
        self.dense = nn.ModuleList(nn.Linear(config.widths[-1] * config.grid**2, config.dense) for _ in self.streams)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(len(self.streams) * config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames, [B,K,3,S,S] flow of the clip -> scores."""
        flows = self.scaled(views[1])
        clips = [shown(views[0]), *(flows[:, None, :, i] for i in (0, 1))]
        seen = [
            F.relu(dense(stream(clip))) for stream, dense, clip in zip(self.streams, self.dense, clips, strict=True)
        ]
        features = self.drop(torch.cat(seen, 1))
        return Outputs(self.classify(features), None, features)


def build(config: Fcnn3dConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Fcnn3d(config, n_classes, shape)
