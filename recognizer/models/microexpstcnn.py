"""MicroExpSTCNN: one 3D convolution over the whole face (Reddy, Karri, Dubey and Mukherjee, IJCNN 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check


@dataclass(frozen=True, kw_only=True)
class MicroexpstcnnConfig:
    """Published sizes (1.64 million parameters on 64 pixels and 18 frames)."""

    filters: int = 32
    depth: int = 15
    """Frames a kernel spans; fewer where a clip has fewer."""
    dense: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check("microexpstcnn", self, least={"filters": 1, "depth": 1, "dense": 1}, shares=("dropout",))


class SpaceTime(nn.Module):
    """Clips [B,T,H,H] -> [B,``size``]: conv 3x3 x depth, ReLU, max-pooling of 3, dropout, flat.

    The clip's mean brightness is taken off first; the authors took off that of the training set.
    """

    def __init__(self, filters: int, depth: int, side: int, frames: int, dropout: float) -> None:
        super().__init__()
        depth = min(depth, frames)
        left = frames - depth + 1
        self.conv = nn.Conv3d(1, filters, (depth, 3, 3))
        self.pool = nn.MaxPool3d((min(3, left), 3, 3))
        self.drop = Dropout(dropout)
        self.size = filters * (left // min(3, left)) * ((side - 2) // 3) ** 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = x - x.mean((1, 2, 3), keepdim=True)
        out: torch.Tensor = self.drop(self.pool(F.relu(self.conv(x[:, None])))).flatten(1)
        return out


class Microexpstcnn(FlowNetwork):
    """3D convolution, pooling, one dense layer, classifier.

    Published (paper, authors' code): 32 kernels of 3x3x15 on 64x64x18 (64x64x96 for CAS(ME)^2), pooling 3x3x3,
    dense 128, dropout .5 twice. Deviation: the clip's own mean is taken off, see :class:`SpaceTime`.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: MicroexpstcnnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.seen = SpaceTime(config.filters, config.depth, shape.frame_size, shape.frames, config.dropout)
        self.dense = nn.Linear(self.seen.size, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        features = self.drop(F.relu(self.dense(self.seen(views[0]))))
        return Outputs(self.classify(features), None, features)


def build(config: MicroexpstcnnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Microexpstcnn(config, n_classes, shape)
