"""LR-GACNN with our own sizes: graph attention over landmarks of three frames, and over patches of flow about them
(Kumar and Bhanu, CVPR Workshops 2021; after its abstract)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import GraphAttention
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check

FIRST = 17
"""Of the 68 landmarks; the contour of the face before it is left out."""
N_POINTS = 68 - FIRST
_FRAMES = 3
_OPEN = (range(17, 22), range(22, 27), range(27, 31), range(31, 36))
_CLOSED = (range(36, 42), range(42, 48), range(48, 60), range(60, 68))
_JOINS = (
    (21, 27), (22, 27), (27, 39), (27, 42), (17, 36), (26, 45), (30, 33), (33, 51), (48, 60), (54, 64), (51, 62),
    (57, 66),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LrGacnnConfig:
    """Patches of 10 pixels as published; other sizes are ours."""

    patch: int = 10
    """Side of the patch of flow about a landmark, pixels of the flow image."""
    magnify: float = 30.0
    """What a landmark's displacement since the onset is multiplied by, beside its place in crop widths."""
    width: int = 32
    """Features of a node."""
    heads: int = 4
    """Of the graph attention; they share ``width`` out among them."""
    rounds: int = 2
    dropout: float = 0.3

    def __post_init__(self) -> None:
        sizes = {"patch": 1, "magnify": 0, "width": 1, "heads": 1, "rounds": 1}
        check("lr_gacnn", self, least=sizes, shares=("dropout",))
        if self.width % self.heads:
            raise ConfigError(f"lr_gacnn.heads={self.heads} must divide lr_gacnn.width={self.width}")


def face_edges() -> torch.Tensor:
    """[51,51] bool, symmetric, with loops: neighbours on a contour, and where brows, eyes, nose and lips meet."""
    pairs = [pair for part in _OPEN for pair in pairwise(part)]
    pairs += [pair for part in _CLOSED for pair in pairwise((*part, part[0]))]
    edges = torch.eye(N_POINTS, dtype=torch.bool)
    for a, b in (*pairs, *_JOINS):
        edges[a - FIRST, b - FIRST] = edges[b - FIRST, a - FIRST] = True
    return edges


def triplet_edges() -> torch.Tensor:
    """[153,153] bool: the edges of a face in each of three frames, and each landmark with itself in the next frame."""
    here, beside = torch.eye(_FRAMES), torch.ones(_FRAMES, _FRAMES).tril(1).triu(-1)
    return (torch.kron(here, face_edges().float()) + torch.kron(beside, torch.eye(N_POINTS))) > 0


class _Graph(nn.Module):
    """Nodes [B,N,D] -> [B,2*width]: rounds of graph attention with skips, then mean and maximum over the nodes."""

    edges: torch.Tensor

    def __init__(self, inputs: int, edges: torch.Tensor, config: LrGacnnConfig) -> None:
        super().__init__()
        self.register_buffer("edges", edges, persistent=False)
        self.enter = nn.Linear(inputs, config.width)
        self.attend = nn.ModuleList(GraphAttention(config.width, config.heads) for _ in range(config.rounds))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.rounds))

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        nodes, edges = self.enter(nodes), self.edges.expand(len(nodes), -1, -1)
        for attend, norm in zip(self.attend, self.norms, strict=True):
            nodes = nodes + attend(norm(nodes), edges)
        return torch.cat([nodes.mean(1), nodes.amax(1)], 1)


def patches_about(flow: torch.Tensor, points: torch.Tensor, patch: int) -> torch.Tensor:
    """Squares of flow [B,3,S,S] about points [B,N,2] (crop widths from the centre) -> [B,N,3*patch*patch]. One that
    would leave the picture is moved inside."""
    side = flow.shape[-1]
    corner = ((points + 0.5) * side - patch / 2).round().clamp(0, side - patch).long()
    offset = torch.arange(patch, device=flow.device)
    rows, columns = corner[..., 1:] + offset, corner[..., :1] + offset
    index = (rows[..., :, None] * side + columns[..., None, :]).flatten(1)  # [B,N*patch*patch]
    found = flow.flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
    return found.unflatten(2, (points.shape[1], -1)).transpose(1, 2).flatten(2)


class LrGacnn(FlowNetwork):
    """Landmarks of the first, middle and last frame -> graph attention over all of them; patches of flow about the
    landmarks -> graph attention -> both read-outs -> classifier.

    Published (abstract): two streams of graph attention, one on the places of nodes in a triplet of frames and one on
    patches of optical flow about them, fused for classification. From descriptions by later work: 51 landmarks, patches
    of 10x10. Free: sizes, edges (contours, where parts meet, a landmark with itself in the next frame), the read-out.
    Deviations: the flow is that of onset -> apex alone; a place is given with its displacement since the onset,
    enlarged, in place of motion magnified by EVM.
    """

    needs = ("landmarks", "flow")
    stack = 4

    def __init__(self, config: LrGacnnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.patch > shape.size:
            raise ConfigError(f"lr_gacnn.patch={config.patch} is larger than data.size={shape.size}")
        self.config = config
        self.over_places = _Graph(4, triplet_edges(), config)
        self.over_patches = _Graph(3 * config.patch**2, face_edges(), config)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(4 * config.width, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,68,2] landmarks, [B,3,S,S] flow -> scores."""
        tracks = views[0][:, :, FIRST:]
        last = tracks.shape[1] - 1
        frames = torch.stack([tracks[:, t] for t in (0, last // 2, last)], 1)
        moved = self.config.magnify * (frames - frames[:, :1])
        places = self.over_places(torch.cat([frames, moved], -1).flatten(1, 2))
        patches = self.over_patches(patches_about(self.scaled(views[1]), frames[:, 0], self.config.patch))
        features = self.drop(torch.cat([places, patches], 1))
        return Outputs(self.classify(features), None, features)


def build(config: LrGacnnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: a patch is larger than the flow image.
    """
    return LrGacnn(config, n_classes, shape)
