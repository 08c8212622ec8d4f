"""Graph-TCN: temporal convolutions over landmarks and the edges between them (Lei, Li, Chen and Li, ACM MM 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, he, norm
from recognizer.models.faces import BROWS, MOUTH, patch_index

POINTS = BROWS + MOUTH


@dataclass(frozen=True, kw_only=True)
class GraphTcnConfig:
    """Patches as published; other sizes are ours."""

    patch: int = 7
    """Side of a landmark's patch, pixels (7 published)."""
    magnify: float = 10.0
    """The apex is onset + magnify * (apex - onset)."""
    shape_width: int = 16
    """Filters of the layers that turn pictures into the shape map."""
    width: int = 64
    """Channels of the temporal convolutions."""
    dilations: tuple[int, ...] = (1, 2, 4)
    dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))
        sizes = {"patch": 1, "magnify": 1, "shape_width": 1, "width": 1, "dilations": 1}
        check("graph_tcn", self, least=sizes, shares=("dropout",))


def graph_edges() -> np.ndarray:
    """[E,2] int64: each landmark with the next along its contour, and with its mirror image."""
    points = np.array(POINTS)
    brow, outer, inner = range(10), range(10, 22), range(22, 28)
    pairs = [(i, i + 1) for i in brow[:-1] if i != 4]
    for contour in (outer, inner):
        pairs += list(zip(contour, [*contour[1:], contour[0]], strict=True))
    for i, (x, y) in enumerate(points):
        # Contours of the lips nearly touch, so a mirror image is sought on the landmark's own.
        own = next(part for part in (brow, outer, inner) if i in part)
        j = min(own, key=lambda j: float(np.hypot(points[j, 0] - (1 - x), points[j, 1] - y)))
        if i < j and (i, j) not in pairs:
            pairs.append((i, j))
    return np.array(pairs, np.int64)


def shape_map(width: int) -> nn.Sequential:
    """Layers from what :func:`magnified` gives [B,2,F,F] to one map [B,1,F,F]."""
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), norm(width), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1)
    ).apply(he)  # fmt: skip


def magnified(view: torch.Tensor, factor: float) -> torch.Tensor:
    """Onset and apex [B,2,F,F] -> the apex, its change from the onset ``factor`` times as large, and that change."""
    change = factor * (view[:, 1:] - view[:, :1])
    return torch.cat([2 * (view[:, :1] + change) - 1, change], 1)


class _Tcn(nn.Module):
    """Sequences [B,D,N] -> [B,width]: residual blocks of dilated convolutions of 3, then the mean."""

    def __init__(self, inputs: int, config: GraphTcnConfig) -> None:
        super().__init__()
        self.enter = nn.Conv1d(inputs, config.width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(config.width, config.width, 3, padding=d, dilation=d), norm(config.width), nn.ReLU(),
                Dropout(config.dropout),
            )
            for d in config.dilations
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return x.mean(2)


class GraphTcn(FlowNetwork):
    """Magnified apex -> shape map -> 7x7 patches at 28 landmarks -> TCN over nodes, TCN over edges -> classifier.

    Published (abstract, descriptions by later work): brows and mouth, 7x7 patches from the shape representation of a
    learned magnification, one TCN channel for nodes and one for edges, joined before the classifier. Free: the TCN's
    sizes, which landmarks are joined by edges (neighbours on a contour, mirror images) and an edge's feature (the
    difference of its ends' patches).
    Deviations: linear magnification and a small convolution trained with the rest replace the pretrained magnification
    network; positions are those of the mean face, for faces are aligned.
    """

    needs = ("apex",)
    stack = 1
    places: torch.Tensor
    edges: torch.Tensor

    def __init__(self, config: GraphTcnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.patch > shape.frame_size:
            raise ConfigError(f"graph_tcn.patch={config.patch} is larger than data.frame_size={shape.frame_size}")
        self.config = config
        self.shape_map = shape_map(config.shape_width)
        self.register_buffer(
            "places", torch.from_numpy(patch_index(POINTS, shape.frame_size, config.patch)), persistent=False
        )
        self.register_buffer("edges", torch.from_numpy(graph_edges()), persistent=False)
        self.over_nodes = _Tcn(config.patch**2, config)
        self.over_edges = _Tcn(config.patch**2, config)
        self.classify = nn.Linear(2 * config.width, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores."""
        shape = self.shape_map(magnified(views[0], self.config.magnify))
        nodes = shape.flatten(1)[:, self.places.flatten()].unflatten(1, self.places.shape)
        edges = nodes[:, self.edges[:, 1]] - nodes[:, self.edges[:, 0]]
        features = torch.cat([self.over_nodes(nodes.transpose(1, 2)), self.over_edges(edges.transpose(1, 2))], 1)
        features = F.relu(features)
        return Outputs(self.classify(features), None, features)


def build(config: GraphTcnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: a patch is larger than the frames.
    """
    return GraphTcn(config, n_classes, shape)
