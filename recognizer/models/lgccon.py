"""LGCcon: the whole apex and its most telling region, seen by one VGG-16 (Li, Huang and Zhao, IEEE Trans. Image
Processing 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import APEX_INPUTS, Dropout, FlowNetwork, Outputs, Shape, apex_maps, check, he
from recognizer.models.faces import N_REGIONS, REGIONS


@dataclass(frozen=True, kw_only=True)
class LgcconConfig:
    """Published sizes: VGG-16 on 224 pixels."""

    input: str = "apex"
    """apex (published), change (apex minus onset) or both."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    """Filters of VGG's stages; all but the last end with a max-pooling."""
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    """3x3 convolutions of each stage."""
    cells: int = 7
    """Side of what is pooled of a region."""
    dense: tuple[int, int] = (4096, 4096)
    part_weight: float = 0.7
    """Weight of the losses of the whole face and of the regions beside that of their sum."""
    centre_weight: float = 0.0002
    """Of the centre loss; 0 switches it off."""
    dropout: float = 0.8

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "dense"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"widths": 1, "depths": 1, "cells": 1, "dense": 1, "part_weight": 0, "centre_weight": 0}
        check("lgccon", self, least=sizes, shares=("dropout",), choices={"input": tuple(APEX_INPUTS)})
        if len(self.widths) != len(self.depths):
            raise ConfigError(f"lgccon.depths={list(self.depths)} needs one number for each of lgccon.widths")
        if len(self.dense) != 2:
            raise ConfigError(f"lgccon.dense={list(self.dense)} needs two numbers")


def regions() -> np.ndarray:
    """[1 + R,4] x0, y0, x1, y1 as shares of the crop: the whole face, then the ten parts of :data:`REGIONS`, each as
    far as three times its width."""
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for x, y, wide, high in REGIONS.values():
        boxes.append((x - 1.5 * wide, y - 1.5 * high, x + 1.5 * wide, y + 1.5 * high))
    return np.clip(boxes, 0, 1)


def pooled_places(boxes: np.ndarray, side: int, cells: int) -> np.ndarray:
    """[N,cells*cells,P] int64: places of a flattened side x side map whose maximum is a cell of a box (Girshick, ICCV
    2015), a box's edges rounded to whole places; cells of fewer than P places name one of theirs again."""
    found = []
    for box in boxes:
        low = np.minimum(np.round(box[:2] * (side - 1)), side - 1).astype(int)
        high = np.maximum(np.round(box[2:] * (side - 1)).astype(int), low)
        spans = []
        for start, end in zip(low, high, strict=True):
            edges = np.arange(cells + 1) * (end - start + 1) / cells
            spans.append([
                np.arange(start + int(np.floor(a)), start + int(np.ceil(b))) for a, b in pairwise(edges)
            ])  # fmt: skip
        found += [(y[:, None] * side + x).ravel() for y in spans[1] for x in spans[0]]
    most = max(map(len, found))
    filled = np.stack([np.pad(cell, (0, most - len(cell)), mode="edge") for cell in found])
    return filled.reshape(len(boxes), cells**2, most).astype(np.int64)


class Lgccon(FlowNetwork):
    """Apex -> VGG-16 -> the whole face and ten regions pooled to 7x7, the same two dense layers for all -> a classifier
    for the face, one for regions, whose best region counts in each class; their sum is the score.

    Published (authors' network definition): layers, sizes, dropout .8, shared dense layers, maximum over ten regions,
    a second pair of classifiers on the same features with losses of weight .7 beside that of the sum, centre loss
    (weight .0002) on the summed scores. ``loss`` is the published one.
    Deviations: no VGG-Face weights (none come with this package), on which the paper's results rest; so no layer is
    frozen (they freeze the first two stages), and all learn at one rate; grey; regions are those of this package's
    aligned face, theirs lie in files beside the code; edges of a region are rounded on the map, theirs in the picture
    first; centres learn by their gradient; the apex is not magnified.
    """

    needs = ("apex",)
    stack = 1
    places: torch.Tensor

    def __init__(self, config: LgcconConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        side = shape.frame_size // 2 ** (len(config.widths) - 1)
        if side < 2:
            raise ConfigError(
                f"lgccon.widths={list(config.widths)} halve the picture {len(config.widths) - 1} times; "
                f"data.frame_size={shape.frame_size} is too small for that"
            )
        self.config = config
        layers: list[nn.Module] = []
        for (a, b), depth in zip(pairwise((APEX_INPUTS[config.input], *config.widths)), config.depths, strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            for i in range(depth):
                layers += [nn.Conv2d(a if i == 0 else b, b, 3, padding=1), nn.ReLU()]
        self.maps = nn.Sequential(*layers).apply(he)
        self.register_buffer("places", torch.from_numpy(pooled_places(regions(), side, config.cells)), persistent=False)
        first, second = config.dense
        self.dense = nn.Sequential(
            nn.Linear(config.widths[-1] * config.cells**2, first), nn.ReLU(), Dropout(config.dropout),
            nn.Linear(first, second), nn.ReLU(), Dropout(config.dropout),
        )  # fmt: skip
        self.face, self.part = nn.Linear(second, n_classes), nn.Linear(second, n_classes)
        self.own_face, self.own_part = nn.Linear(second, n_classes), nn.Linear(second, n_classes)
        self.centres = nn.Parameter(torch.empty(n_classes, n_classes))
        nn.init.xavier_uniform_(self.centres)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores; more: own scores of ``face`` and ``part``, squared distances to
        the ``centres``, all [B,C]."""
        maps = self.maps(apex_maps(views[0], self.config.input)).flatten(2)
        pooled = maps[..., self.places.flatten()].unflatten(2, self.places.shape).amax(-1)  # [B,D,1+R,cells]
        seen = self.dense(pooled.transpose(1, 2).flatten(2))
        face, parts = seen[:, 0], seen[:, 1:]
        scores = self.face(face) + self.part(parts).amax(1)
        # [B,C]: squared distance of the scores to each class's centre.
        far = (scores[:, None] - self.centres).square().sum(2)
        more = {"face": self.own_face(face), "part": self.own_part(parts).amax(1), "centres": far}
        return Outputs(scores, None, face, more)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the sum, of the face and of the regions, and half the squared distance to the centres."""
        more = outputs.more
        assert more is not None
        parts = F.cross_entropy(more["face"], y) + F.cross_entropy(more["part"], y)
        total = F.cross_entropy(outputs.scores, y) + self.config.part_weight * parts
        return total + self.config.centre_weight * more["centres"].gather(1, y[:, None]).mean() / 2


assert N_REGIONS == 10, "the regions are as many as published"


def build(config: LgcconConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the frames are too small for the poolings.
    """
    return Lgccon(config, n_classes, shape)
