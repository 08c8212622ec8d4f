"""KFC: flow and strain in two shallow ResNeSts, steered by where the parts of a face lie (Su, Zhang, Liu and Zhai, ICME
2021, "Key facial components guided micro-expression recognition"; authors' network definition)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import BatchNorm, FlowNetwork, Outputs, Shape, after, check, he, resized
from recognizer.models.faces import N_REGIONS, REGIONS

_EXPANSION = 4
_RADIX = 2
_REDUCED = 32  # least width of a split attention's hidden layer


@dataclass(frozen=True, kw_only=True)
class KfcConfig:
    """Published sizes (53.2 million parameters; 51.4 of them are one dense layer)."""

    side: int = 224
    """The flow image is brought to this size; 0 leaves it at data.size."""
    stem: int = 32
    """Filters of the first two convolutions; the third has twice as many."""
    widths: tuple[int, ...] = (64, 128)
    """Of the bottlenecks; a stage's output is four times as wide."""
    blocks: int = 2
    """Bottlenecks of each width."""
    dense: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check("kfc", self, least={"side": 0, "stem": 2, "widths": 2, "blocks": 1, "dense": 1})
        if self.stem % 2:
            raise ConfigError(f"kfc.stem={self.stem} must be even")


class SplitAttention(nn.Module):
    """3x3 convolution in two groups whose outputs are weighed against each other, channel by channel (ResNeSt, radix 2;
    Zhang et al., 2020). [B,D,h,w] -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(width * _RADIX // 4, _REDUCED)
        self.conv = nn.Conv2d(width, width * _RADIX, 3, padding=1, groups=_RADIX, bias=False)
        self.norm, self.norm_hidden = BatchNorm(width * _RADIX), BatchNorm(hidden)
        self.one, self.two = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width * _RADIX, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        splits = F.relu(self.norm(self.conv(x))).unflatten(1, (_RADIX, -1))
        gap = splits.sum(1).mean((2, 3), keepdim=True)
        weights = self.two(F.relu(self.norm_hidden(self.one(gap)))).unflatten(1, (_RADIX, -1)).softmax(1)
        return (weights * splits).sum(1)


class _Bottleneck(nn.Module):
    """1x1, split attention, average pooling where the side halves, 1x1, and a skip."""

    def __init__(self, a: int, width: int, stride: int) -> None:
        super().__init__()
        b = width * _EXPANSION
        shrink: list[nn.Module] = [nn.AvgPool2d(3, stride, 1)] if stride > 1 else []
        self.body = nn.Sequential(
            nn.Conv2d(a, width, 1, bias=False), BatchNorm(width), nn.ReLU(), SplitAttention(width), *shrink,
            nn.Conv2d(width, b, 1, bias=False), BatchNorm(b),
        )  # fmt: skip
        self.skip: nn.Module = nn.Identity()
        if a != b or stride > 1:
            halve = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.skip = nn.Sequential(halve, nn.Conv2d(a, b, 1, bias=False), BatchNorm(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.skip(x))


class _Stream(nn.Module):
    """A picture [B,3,S,S] and where the parts lie [1,R,S,S] -> maps: stem, a scale and a shift of every number by what
    is seen of the parts there (SFT; Wang et al., CVPR 2018), bottlenecks, average pooling."""

    def __init__(self, config: KfcConfig) -> None:
        super().__init__()
        narrow, wide = config.stem, 2 * config.stem
        self.stem = nn.Sequential(
            nn.Conv2d(3, narrow, 3, 2, 1, bias=False), BatchNorm(narrow), nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False), BatchNorm(narrow), nn.ReLU(),
            nn.Conv2d(narrow, wide, 3, 1, 1, bias=False), BatchNorm(wide), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        see: list[nn.Module] = [nn.Conv2d(N_REGIONS, wide, 4, 4), nn.LeakyReLU(0.1)]
        for _ in range(3):
            see += [nn.Conv2d(wide, wide, 1), nn.LeakyReLU(0.1)]
        self.see = nn.Sequential(*see, nn.Conv2d(wide, narrow, 1))
        self.scale, self.shift = (
            nn.Sequential(nn.Conv2d(narrow, narrow, 1), nn.LeakyReLU(0.1), nn.Conv2d(narrow, wide, 1)) for _ in range(2)
        )
        blocks = []
        for i, (a, width) in enumerate(pairwise((wide // _EXPANSION, *config.widths))):
            blocks += [_Bottleneck(a * _EXPANSION, width, 2 if i else 1)]
            blocks += [_Bottleneck(width * _EXPANSION, width, 1) for _ in range(config.blocks - 1)]
        self.blocks = nn.Sequential(*blocks, nn.AvgPool2d(3, 2, 1))
        self.apply(he)

    def forward(self, x: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        x, seen = self.stem(x), self.see(parts)
        out: torch.Tensor = self.blocks(x * (self.scale(seen) + 1) + self.shift(seen))
        return out


def parts_of_a_face(side: int) -> torch.Tensor:
    """[1,R,side,side] in [0,1]: how surely a place of an aligned face belongs to each region (largest 1)."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    maps = [np.exp(-0.5 * (((x - cx) / wx) ** 2 + ((y - cy) / wy) ** 2)) for cx, cy, wx, wy in REGIONS.values()]
    return torch.from_numpy(np.stack(maps)[None].astype(np.float32))


def first_and_second(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow [B,3,S,S] -> first-order motion (u, v, magnitude) and second-order motion (e_xx, e_yy, e_xy), [B,3,S,S]
    each: derivatives by central differences, one-sided at the edge."""
    u, v = flow[:, 0], flow[:, 1]
    (u_y, u_x), (v_y, v_x) = ((_slope(part, 1), _slope(part, 2)) for part in (u, v))
    magnitude = (u.square() + v.square()).sqrt()
    return torch.stack([u, v, magnitude], 1), torch.stack([u_x, v_y, (u_y + v_x) / 2], 1)


def _slope(x: torch.Tensor, dim: int) -> torch.Tensor:
    n = x.shape[dim]
    ahead, behind = x.narrow(dim, 1, n - 1), x.narrow(dim, 0, n - 1)
    step = ahead - behind
    inner = (step.narrow(dim, 1, n - 2) + step.narrow(dim, 0, n - 2)) / 2
    return torch.cat([step.narrow(dim, 0, 1), inner, step.narrow(dim, n - 2, 1)], dim)


class Kfc(FlowNetwork):
    """First- and second-order motion in two ResNeSts of two stages, each steered by the parts of a face -> one dense
    layer -> classifier.

    Published (authors' network definition): 224 pixels, deep stem of 32, split attention of radix 2, stages of 64 and
    128, two bottlenecks each, one scale and shift after the stem, dense 256. The training is not public.
    Deviations: ten soft regions of the mean face in place of a parser's ten probability maps of each apex frame; strain
    is derived from the flow image and brought to unit rms in each picture, as theirs is stretched; no pretrained
    weights, which their names ask for. Everything macro-expressions could teach is left to ``train.start``.
    """

    stack = 1
    parts: torch.Tensor

    def __init__(self, config: KfcConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, side = config, config.side or shape.size
        maps = after(after(side, 3, 2, 1), 3, 2, 1)
        self.register_buffer("parts", parts_of_a_face(4 * maps), persistent=False)
        self.streams = nn.ModuleList(_Stream(config) for _ in range(2))
        for _ in config.widths:  # all stages but the first halve, and so does the pooling behind the last
            maps = after(maps, 3, 2, 1)
        self.dense = nn.Linear(2 * config.widths[-1] * _EXPANSION * maps**2, config.dense)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        orders = first_and_second(self.scaled(views[0]))
        maps = []
        for stream, motion in zip(self.streams, orders, strict=True):
            unit = motion / (motion.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            maps.append(stream(resized(unit, self.config.side), self.parts).flatten(1))
        features = F.relu(self.dense(torch.cat(maps, 1)))
        return Outputs(self.classify(features), None, features)


def build(config: KfcConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Kfc(config, n_classes, shape)
