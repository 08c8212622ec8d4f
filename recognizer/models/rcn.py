"""RCN-A, RCN-S, RCN-W and RCN-F: recurrent convolutions with modules that have no parameters of their own (Xia, Peng,
Khor, Feng and Zhao, IEEE TIP 2020, "Revealing the invisible with model and data shrinking"; authors' code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, Shape, check

VARIANTS = {"a": "attention", "s": "shortcuts", "w": "wide", "f": "fused"}


@dataclass(frozen=True, kw_only=True)
class RcnConfig:
    """Settings of the authors' training script (55,747 parameters for variant a)."""

    variant: str = "a"
    """a: attention of the classifier's own weights; s: dense shortcuts; w: three dilations side by side; f: w with
    shortcuts and attention in one block."""
    filters: int = 64
    pool: int = 7
    """Places a side of the maps that are classified."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check("rcn", self, least={"filters": 4, "pool": 1}, shares=("dropout",), choices={"variant": tuple(VARIANTS)})
        if self.filters % 4:
            raise ConfigError(f"rcn.filters={self.filters} must be a multiple of 4: the wide variants share it out")


def _conv(a: int, b: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, kernel, padding=kernel // 2), BatchNorm(b), nn.ReLU())


def activation(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Where classes look: maps [B,D,P,P] and a classifier's weights [C,D*P*P] on them -> [B,1,P,P] in [0,1].

    For each class the mean over channels of map times weight, brought to 0..1 in every picture; then the mean over the
    classes.
    """
    own = (maps[:, None] * weight.unflatten(1, maps.shape[1:])).mean(2)  # [B,C,P,P]
    own = own - own.amin((2, 3), keepdim=True)
    return (own / own.amax((2, 3), keepdim=True).clamp(min=1e-12)).mean(1, keepdim=True)


class _Recurrent(nn.Module):
    """One 1x1 and one 3x3 convolution; the latter goes over what came before two or three times, the same weights.

    ``dense``: every pass sees all earlier ones (the authors' dense and embedding blocks), else the input and the last
    pass. The 1x1 convolution's maps may be weighted by ``attention`` [B,1,P,P].
    """

    def __init__(self, filters: int, dropout: float, *, dense: bool) -> None:
        super().__init__()
        self.dense = dense
        self.enter, self.again = _conv(filters, filters, 1), _conv(filters, filters, 3)
        self.leave = nn.Sequential(nn.MaxPool2d(2), Dropout(dropout))

    def forward(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """[B,D,h,w] -> [B,D,h/2,w/2]."""
        y = self.enter(x)
        if attention is not None:
            y = F.interpolate(attention, y.shape[2:]) * y
        if self.dense:
            seen = x + y
            for _ in range(2):
                seen = seen + self.again(seen)
            y = self.again(seen)
        else:
            for _ in range(2):
                y = self.again(x + y)
        return self.leave(y)


class _Wide(nn.Module):
    """Dilations 1, 2 and 3 side by side with stride 3, half and a quarter twice of the filters: [B,3,S,S] -> S/3."""

    def __init__(self, filters: int, dropout: float) -> None:
        super().__init__()
        widths = (filters // 2, filters // 4, filters // 4)
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, width, 3, 3, padding=d, dilation=d), nn.ReLU(), BatchNorm(width), Dropout(dropout)
            )
            for d, width in enumerate(widths, 1)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([stream(x) for stream in self.streams], 1)


class Rcn(FlowNetwork):
    """Flow -> convolution -> a recurrent convolution -> maps of a fixed size -> one linear classifier.

    Published (authors' code): 5x5 convolution with max-pooling, or three dilated ones with stride 3; one recurrent
    block (1x1 and 3x3, two passes; three with dense shortcuts), max-pooling, dropout .5; average pooling to 7x7.
    Deviations: flow of unit rms for their pictures over 255; in RCN-F the third dilation is at work (their forward
    calls the second one twice, and the class does not build as released); a convolution that the dense block declares
    and never calls is left out; an activation map that is flat counts as 0 (theirs is 0/0).
    """

    stack = 8

    def __init__(self, config: RcnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, filters, drop = config, config.filters, config.dropout
        if config.variant in "as":
            self.stem: nn.Module = nn.Sequential(
                nn.Conv2d(3, filters, 5), BatchNorm(filters), nn.ReLU(), nn.MaxPool2d(2), Dropout(drop)
            )
        else:
            self.stem = _Wide(filters, drop)
        self.block = _Recurrent(filters, drop, dense=config.variant in "sf")
        self.pool = nn.AdaptiveAvgPool2d(config.pool)
        self.classify = nn.Linear(config.pool**2 * filters, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classify.weight, 0, 0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = self.stem(self.scaled(views[0]))
        looks = activation(self.pool(x), self.classify.weight) if self.config.variant in "af" else None
        maps = self.pool(self.block(x, looks if self.config.variant == "f" else None))
        features = (maps * looks if self.config.variant == "a" else maps).flatten(1)
        return Outputs(self.classify(features), None, features)


def build(config: RcnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Rcn(config, n_classes, shape)
