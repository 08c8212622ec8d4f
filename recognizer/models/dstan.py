"""DSTAN, published name with our own sizes: appearance and motion streams with spatial, channel and temporal attention
(Wang, Huang, Liu, Gu, Yang, Wang and Zhang, Journal of Healthcare Engineering 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import ChannelAttention, SpatialAttention
from recognizer.models.common import Dropout, FlowNetwork, Lstm, Outputs, Shape, check, he, norm
from recognizer.models.fcnn3d import shown


@dataclass(frozen=True, kw_only=True)
class DstanConfig:
    """All sizes are ours."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of a stream's convolutions, frame by frame."""
    kernels: tuple[int, ...] = (3, 5, 7)
    """Of the multi-scale spatial attention."""
    reduction: int = 4
    """Of the channels inside the channel attention."""
    hidden: int = 64
    """Of a stream's LSTM."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("widths", "kernels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"widths": 1, "kernels": 1, "reduction": 1, "hidden": 1}
        check("dstan", self, least=sizes, shares=("dropout",))


class _Places(nn.Module):
    """Mean of spatial gates of several kernels: maps [N,C,H,W] -> [N,1,H,W] in (0,1)."""

    def __init__(self, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.gates = nn.ModuleList(SpatialAttention(kernel) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([gate(x) for gate in self.gates]).mean(0)


class _Spatial(nn.Module):
    """Pictures [N,C,H,W] -> [N,widths[-1]]: convolutions with stride 2, each refined by the channels' gates and by the
    mean of spatial gates of several kernels."""

    def __init__(self, channels: int, config: DstanConfig) -> None:
        super().__init__()
        pairs = list(pairwise((channels, *config.widths)))
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), norm(b), nn.ReLU()) for a, b in pairs
        ).apply(he)
        self.channels = nn.ModuleList(ChannelAttention(b, config.reduction) for _, b in pairs)
        self.places = nn.ModuleList(_Places(config.kernels) for _ in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, channel, places in zip(self.convs, self.channels, self.places, strict=True):
            x = conv(x)
            x = x * channel(x)
            x = x * places(x)
        return x.mean((2, 3))


class _Stream(nn.Module):
    """Sequences [B,T,C,H,W] -> [B,hidden]: each picture by itself, an LSTM, its states weighed by learned attention."""

    def __init__(self, channels: int, config: DstanConfig) -> None:
        super().__init__()
        self.spatial = _Spatial(channels, config)
        self.lstm = Lstm(config.widths[-1], config.hidden)
        self.weigh = nn.Sequential(
            nn.Linear(config.hidden, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.spatial(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        states = self.lstm(seen)
        weights = self.weigh(states).softmax(1)
        return (weights * states).sum(1)


class Dstan(FlowNetwork):
    """Frames through an appearance stream, flow of the whole clip through a motion stream, features joined, linear
    machine.

    Published (abstract): the two streams; spatial attention with kernels of several scales; channel attention from two
    poolings; attention over time; a linear machine (SVM) on the joined features. Free: all sizes, the norm (GroupNorm),
    the recurrent layer (LSTM: a survey), how kernels are combined (mean of gates), all of the training.
    Deviation: the machine is trained with the streams, by its squared hinge loss, not after them.
    """

    needs = ("frames", "flows")
    stack = 1

    def __init__(self, config: DstanConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.appearance, self.motion = _Stream(1, config), _Stream(3, config)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(2 * config.hidden, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames, [B,K,3,S,S] flow of the clip -> scores."""
        seen = [self.appearance(shown(views[0]).transpose(1, 2)), self.motion(self.scaled(views[1]))]
        features = self.drop(torch.cat(seen, 1))
        return Outputs(self.classify(features), None, features)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Squared hinge loss, one class against the rest."""
        side = 2 * F.one_hot(y, outputs.scores.shape[-1]).to(outputs.scores.dtype) - 1
        return F.relu(1 - side * outputs.scores).square().sum(-1).mean()


def build(config: DstanConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Dstan(config, n_classes, shape)
