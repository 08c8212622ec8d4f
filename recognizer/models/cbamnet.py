"""CBAMNet, published name with our own sizes: 3D convolutions refined by channel and spatial attention (Chen, Zhang,
Liu, Tan, Liu and Chen, Information 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import Cbam
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check
from recognizer.models.fcnn3d import ClipStream, shown


@dataclass(frozen=True, kw_only=True)
class CbamnetConfig:
    """All sizes are ours."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of the 3D convolutions."""
    reduction: int = 4
    """Of the channels inside the channel attention."""
    kernel: int = 7
    """Of the spatial attention."""
    grid: int = 4
    dense: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"widths": 1, "reduction": 1, "kernel": 1, "grid": 1, "dense": 1}
        check("cbamnet", self, least=sizes, shares=("dropout",))


class FramewiseCbam(nn.Module):
    """CBAM on every frame by itself: clips [B,C,T,H,W] -> the same shape."""

    def __init__(self, channels: int, reduction: int, kernel: int) -> None:
        super().__init__()
        self.attend = Cbam(channels, reduction, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        frames = self.attend(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Cbamnet(FlowNetwork):
    """Clip -> 3D convolutions, each refined by the convolutional block attention module -> dense layer -> classifier.

    Published (title, a survey): 3D convolutions on sequences, CBAM (channel attention, then spatial attention). Free:
    all sizes, the norm (GroupNorm), where the modules lie and that they attend frame by frame, all of the training.
    Deviation: no weights from the macro-expressions of Oulu-CASIA (none come with this package).
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: CbamnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()

        def gate(width: int) -> nn.Module:
            return FramewiseCbam(width, config.reduction, config.kernel)

        self.stream = ClipStream(1, config.widths, config.grid, gate)
        self.dense = nn.Linear(self.stream.size, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        features = self.drop(F.relu(self.dense(self.stream(shown(views[0])))))
        return Outputs(self.classify(features), None, features)


def build(config: CbamnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Cbamnet(config, n_classes, shape)
