"""ATNet, the apex-time network (Peng, Wang, Bi, Shi, Zhou and Chen, ACII 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.common import APEX_INPUTS, Dropout, FlowNetwork, Lstm, Outputs, ResNet10, Shape, apex_maps, check


@dataclass(frozen=True, kw_only=True)
class AtnetConfig:
    """Published sizes (8.3 million parameters)."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Of the apex stream's ResNet-10."""
    hidden: int = 512
    """Of both LSTMs."""
    grid: int = 8
    """The motion between two frames is described on grid x grid cells, two numbers each (8 gives the published 128)."""
    input: str = "apex"
    """apex (published), change (apex minus onset) or both."""
    gain: float = 10.0
    """Both embeddings have length 1; they are multiplied by this before the classifier."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check(
            "atnet", self, least={"widths": 1, "hidden": 1, "grid": 1, "gain": 0}, shares=("dropout",),
            choices={"input": tuple(APEX_INPUTS)},
        )  # fmt: skip


def cell_motion(frames: torch.Tensor, grid: int) -> torch.Tensor:
    """Motion along the brightness gradient, cell by cell: [B,T,F,F] -> [B,T-1,2*grid*grid], pixels per frame.

    From the constraint Ix u + Iy v + It = 0 (Horn and Schunck, 1981): per cell minus the mean of It (Ix, Iy) over the
    mean of the squared gradient, which is 0 where there is nothing to see.
    """
    earlier, later = frames[:, :-1], frames[:, 1:]
    middle = (earlier + later) / 2
    padded = F.pad(middle, (1, 1, 1, 1), mode="replicate")
    ix = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    iy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    it = later - earlier
    energy = F.adaptive_avg_pool2d(ix * ix + iy * iy, grid) + 1e-4
    along = [-F.adaptive_avg_pool2d(it * gradient, grid) / energy for gradient in (ix, iy)]
    return torch.stack(along, 2).flatten(2)


class Atnet(FlowNetwork):
    """Apex -> ResNet-10; motion from frame to frame -> two LSTMs, mean over time; both of length 1, joined.

    Published (authors' network definition): ResNet-10 with pre-activation, 64 time steps of 128 numbers, LSTMs of
    512, L2 normalisation, dropout .5.
    Deviations: the 128 numbers come from frame differences (:func:`cell_motion`), theirs from a dense flow; as many
    time steps as data.frames allows; ``gain`` as in micro_attention (1 is published).
    """

    needs = ("apex", "frames")
    stack = 1

    def __init__(self, config: AtnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResNet10(APEX_INPUTS[config.input], config.widths, attention=False)
        self.first = Lstm(2 * config.grid**2, config.hidden)
        self.second = Lstm(config.hidden, config.hidden)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.widths[-1] + config.hidden, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex, [B,T,F,F] frames -> scores."""
        apex, frames = views
        space = self.trunk(apex_maps(apex, self.config.input))
        time = self.second(self.first(cell_motion(frames, self.config.grid))).mean(1)
        features = self.drop(self.config.gain * torch.cat([space, F.normalize(time, dim=1)], 1))
        return Outputs(self.classify(features), None, features)


def build(config: AtnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Atnet(config, n_classes, shape)
