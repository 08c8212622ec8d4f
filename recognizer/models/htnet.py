"""HTNet: a hierarchical transformer on four crops of the flow image (Wang, Zhang, Luo and Sankaranarayana,
Neurocomputing 2024; its trunk is the nested transformer of Zhang et al., AAAI 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check
from recognizer.models.faces import EYES, MOUTH_CORNERS

_GRID = 4  # patches along a side of the four crops together
PUBLISHED = (((9, 11), (21, 10)), ((10, 21), (20, 21)))
"""Centres (row, column) of the authors' four crops as they lie in the mosaic, pixels of 28.

Eyes at (9.53, 11.06) and (21.40, 10.92), lip corners at (10.26, 22.12) and (20.58, 22.26): the points that their code
falls back on where the detector finds no face in a picture of 28 pixels. It moves them so that crops lie inside, cuts
off decimals, and takes x for the row: the upper tiles show the left half of the face, the lower ones the right half."""
CROPS = ("published", "face")


@dataclass(frozen=True, kw_only=True)
class HtnetConfig:
    """Published sizes (140 million parameters)."""

    dim: int = 256
    """Of a patch; doubles at every level."""
    heads: int = 3
    """Of the attention; double at every level."""
    repeats: tuple[int, int, int] = (2, 2, 10)
    """Transformer blocks of each level, patches first."""
    mlp: int = 4
    """Width of the blocks' hidden layer in units of their input."""
    dropout: float = 0.0
    crops: str = "published"
    """published: where the authors' code crops published flow images. face: about the eyes and lip corners of a face as
    ``mesynth prepare`` aligns it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", tuple(self.repeats))
        check(
            "htnet", self, least={"dim": 1, "heads": 1, "repeats": 1, "mlp": 1}, shares=("dropout",),
            choices={"crops": CROPS},
        )  # fmt: skip
        if len(self.repeats) != 3:
            raise ConfigError(f"htnet.repeats={list(self.repeats)} needs three numbers, one for each level")
        if self.dim < self.heads:
            raise ConfigError(f"htnet.dim={self.dim} must not be below htnet.heads={self.heads}")


class _Block(nn.Module):
    """Attention within blocks of tokens and a two-layer network, both after a norm and with a skip."""

    def __init__(self, dim: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = dim // heads * heads
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ask = nn.Linear(dim, 3 * inner, bias=False)
        self.tell = nn.Sequential(nn.Linear(inner, dim), Dropout(dropout))
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp * dim), nn.GELU(), Dropout(dropout), nn.Linear(mlp * dim, dim), Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N,s,dim] -> [N,s,dim]."""
        split = self.ask(self.before_attention(x)).unflatten(2, (3, self.heads, -1)).transpose(1, 3)  # [N,h,3,s,d]
        query, key, value = split.unbind(2)
        attention = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.tell((attention @ value).transpose(1, 2).flatten(2))
        out: torch.Tensor = x + self.mlp(self.before_mlp(x))
        return out


class _Join(nn.Module):
    """Four neighbours become one: conv 3x3, norm over channels, max-pooling. [B,C,g,g] -> [B,C',g/2,g/2]."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(a, b, 3, padding=1), nn.LayerNorm(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.max_pool2d(x, 3, 2, 1)


def mosaic(flow: torch.Tensor, crops: str = "published") -> torch.Tensor:
    """[B,3,S,S] -> [B,3,S,S]: four crops of half the size, see ``htnet.crops``; of a face, both eyes above, both lip
    corners below.

    A crop that would leave the picture is moved inside, as published.
    """
    side = flow.shape[-1]
    half = side // 2
    shares = [[(y, x) for x, y in row] for row in (EYES, MOUTH_CORNERS)]
    if crops == "published":
        shares = [[(y / 28, x / 28) for y, x in row] for row in PUBLISHED]

    def crop(centre: tuple[float, float]) -> torch.Tensor:
        y, x = (min(max(round(share * side - half / 2), 0), side - half) for share in centre)
        return flow[:, :, y : y + half, x : x + half]

    return torch.cat([torch.cat([crop(p) for p in row], 3) for row in shares], 2)


class Htnet(FlowNetwork):
    """Four crops -> 4x4 patches -> three levels of transformer blocks, joined four to one in between -> classifier.

    Published (paper, authors' code): 14x14 crops of 28x28 (u, v, strain), patch 7, dimension 256, 3 heads, 2-2-10
    blocks, all doubling per level. With these numbers a block of the nested transformer holds one token, so the
    softmax of every attention is over one number and only its values act.
    Deviations: one set of crops for all pictures (the authors detect five points in each, where their detector finds a
    face); other sizes of the flow image take patches of a quarter of it.
    """

    stack = 1

    def __init__(self, config: HtnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.patch, self.crops = shape.size // _GRID, config.crops
        dims = [config.dim * 2**level for level in range(3)]
        self.embed = nn.Linear(3 * self.patch**2, dims[0])
        self.places = nn.Parameter(torch.randn(3, 1))  # one number per level and place in a block, as published
        self.levels = nn.ModuleList(
            nn.Sequential(*(_Block(dim, config.heads * 2**level, config.mlp, config.dropout) for _ in range(repeats)))
            for level, (dim, repeats) in enumerate(zip(dims, config.repeats, strict=True))
        )
        self.joins = nn.ModuleList(_Join(a, b) for a, b in pairwise(dims))
        self.last = nn.LayerNorm(dims[-1])
        self.classify = nn.Linear(dims[-1], n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        x = mosaic(self.scaled(views[0]), self.crops)
        patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)  # [B,3,4,4,p,p]
        maps = self.embed(patches.permute(0, 2, 3, 4, 5, 1).flatten(3)).permute(0, 3, 1, 2)
        for i, level in enumerate(self.levels):
            n, dim, side, _ = maps.shape
            # 4x4 places in 4x4 blocks, 2x2 in 2x2, 1 in 1: each block is one token.
            tokens = maps.permute(0, 2, 3, 1).reshape(n * side * side, 1, dim)
            maps = level(tokens + self.places[i]).reshape(n, side, side, dim).permute(0, 3, 1, 2)
            if i < len(self.joins):
                maps = self.joins[i](maps)
        features = self.last(maps.permute(0, 2, 3, 1)).mean((1, 2))
        return Outputs(self.classify(features), None, features)


def build(config: HtnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Htnet(config, n_classes, shape)
