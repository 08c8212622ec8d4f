"""LEARNet: the lateral accretive hybrid network on dynamic images (Verma, Vipparthi, Singh and Murala, IEEE Trans. on
Image Processing 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, Shape, check

SUMMARIES = ("dynamic", "active", "difference")
"""Views that show a whole clip in one colour picture [B,3,F,F]."""


@dataclass(frozen=True, kw_only=True)
class LearnetConfig:
    """Published sizes (1.87 million parameters on 112 pixels)."""

    input: str = "dynamic"
    """dynamic (published), active or difference."""
    widths: tuple[int, int, int] = (16, 32, 64)
    """Of the stem and a stream's 1x1, 3x3 and 5x5 convolutions."""
    last: int = 256
    """Of the convolution over all streams."""
    dense: int = 256
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check(
            "learnet", self, least={"widths": 1, "last": 1, "dense": 1}, shares=("dropout",),
            choices={"input": SUMMARIES},
        )  # fmt: skip
        triple("learnet", self.widths)


def triple(section: str, widths: tuple[int, ...]) -> None:
    """Raises ConfigError unless there are three widths."""
    if len(widths) != 3:
        raise ConfigError(f"{section}.widths={list(widths)} needs three numbers")


def check_paths(section: str, config: Any) -> None:
    """Of a network whose ``kernels`` work side by side on one picture: lists of a recipe become tuples.

    Raises:
        ConfigError: a size below 1, a dropout that is no share, or an unknown picture.
    """
    for name in ("kernels", "widths"):
        object.__setattr__(config, name, tuple(getattr(config, name)))
    check(
        section, config, least={"kernels": 1, "widths": 1, "dense": 1}, shares=("dropout",),
        choices={"input": SUMMARIES},
    )  # fmt: skip


def halved(side: int) -> int:
    """Side of a map after a :class:`Halving`."""
    return -(-side // 2)


class Halving(nn.Conv2d):
    """Convolution with stride 2, padded as TensorFlow's ``same``: by as little as half the side needs, the odd pixel
    below and to the right. [B,a,H,W] -> [B,b,ceil(H/2),ceil(W/2)]."""

    def __init__(self, a: int, b: int, kernel: int) -> None:
        super().__init__(a, b, kernel, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        pads = []
        for side, kernel in ((x.shape[-1], self.kernel_size[1]), (x.shape[-2], self.kernel_size[0])):
            pad = max((halved(side) - 1) * 2 + kernel - side, 0)
            pads += [pad // 2, pad - pad // 2]
        return super().forward(F.pad(x, pads))


def stretched(picture: torch.Tensor) -> torch.Tensor:
    """Pictures [B,3,F,F] of any range, each from its least to its largest value -> [-1,1]. A still clip gives -1."""
    low, high = picture.amin((1, 2, 3), keepdim=True), picture.amax((1, 2, 3), keepdim=True)
    return 2 * (picture - low) / (high - low).clamp(min=1e-6) - 1


def keras_norm(channels: int) -> BatchNorm:
    """BatchNorm with Keras' epsilon, .001."""
    made = BatchNorm(channels)
    made.eps = 1e-3
    return made


class _Stream(nn.Module):
    """Maps [B,a,H,W] -> what the 1x1, the 3x3 and the 5x5 convolution give; with ``sums``, what the stream ``beside``
    gave by its first two is added, and normed, before the next."""

    def __init__(self, a: int, widths: tuple[int, int, int], *, sums: bool) -> None:
        super().__init__()
        first, second, third = widths
        self.one, self.two, self.three = Halving(a, first, 1), Halving(first, second, 3), Halving(second, third, 5)
        self.norms = nn.ModuleList([keras_norm(first), keras_norm(second)] if sums else [])

    def forward(self, x: torch.Tensor, beside: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        one = F.relu(self.one(x))
        one = self.norms[0](beside[0] + one) if self.norms else one
        two = F.relu(self.two(one))
        two = self.norms[1](beside[1] + two) if self.norms else two
        return one, two, F.relu(self.three(two))


class Learnet(FlowNetwork):
    """Stem, then four streams of 1x1, 3x3 and 5x5 convolutions, each with stride 2; streams two and four add what the
    streams one and three have at their side; all joined, one more convolution, dense layer, classifier.

    Published (authors' code): layers, widths, strides, where sums and BatchNorm lie, dropout .5, 112 pixels, eight
    classes there; pictures stretched from their least to their largest value. Deviations: their BatchNorm's running
    statistics have momentum .01, here .1; the dynamic image is of the frames from onset to apex, theirs of the running
    means of all. The training's settings are ours: neither code nor abstract has them.
    """

    stack = 1

    def __init__(self, config: LearnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.needs = (config.input,)
        first, _, third = config.widths
        self.stem = Halving(3, first, 3)
        self.streams = nn.ModuleList(_Stream(first, config.widths, sums=bool(i % 2)) for i in range(4))
        self.joined = keras_norm(4 * third)
        self.over = Halving(4 * third, config.last, 3)
        side = shape.frame_size
        for _ in range(5):
            side = halved(side)
        self.dense = nn.Linear(config.last * side**2, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,F,F] picture of the clip -> scores."""
        x = F.relu(self.stem(stretched(views[0])))
        ends = []
        beside: list[torch.Tensor] = []
        for stream in self.streams:
            *beside, end = stream(x, beside)
            ends.append(end)
        maps = F.relu(self.over(self.joined(torch.cat(ends, 1))))
        features = self.drop(F.relu(self.dense(maps.flatten(1))))
        return Outputs(self.classify(features), None, features)


def build(config: LearnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Learnet(config, n_classes, shape)
