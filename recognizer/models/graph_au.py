"""GRAPH-AU: facial graph representation and action unit fusion (Lei, Chen, Li and Li, CVPR Workshops 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_INDEX
from recognizer.models.blocks import propagation
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, Shape, check, cooccurrence
from recognizer.models.faces import BROWS, MOUTH, MOUTH_INNER_CORNERS, patch_index
from recognizer.models.graph_tcn import magnified, shape_map

POINTS = (*BROWS, *MOUTH, *MOUTH_INNER_CORNERS)
"""30: ten on the brows, twenty on the mouth."""
AUS = (1, 2, 4, 10, 12, 14, 15, 17, 25)
"""Three of the brows, six of the mouth; which nine theirs are, the code does not say."""
BROW_AUS = 3


@dataclass(frozen=True, kw_only=True)
class GraphAuConfig:
    """Published sizes (0.67 million parameters that act)."""

    patch: int = 7
    """Side of a landmark's patch, pixels (7 published)."""
    magnify: float = 10.0
    """The apex is onset + magnify * (apex - onset)."""
    shape_width: int = 16
    """Filters of the layers that turn pictures into the shape map."""
    heads: int = 8
    head: int = 16
    """Features of a head."""
    inner: int = 128
    """Hidden layer of the encoder."""
    layers: int = 1
    """Encoders one after the other. Their code builds six and hands each the first one's input, so one acts."""
    dense: tuple[int, int] = (320, 160)
    """Layers after an encoder; the last is also the features of an AU."""
    embedding: int = 40
    hidden: int = 80
    """Of the graph convolutions over AUs."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", tuple(self.dense))
        sizes = {"patch": 1, "magnify": 1, "shape_width": 1, "heads": 1, "head": 1, "inner": 1, "layers": 1}
        sizes |= {"dense": 1, "embedding": 1, "hidden": 1}
        check("graph_au", self, least=sizes, shares=("dropout",))
        if len(self.dense) != 2:
            raise ConfigError(f"graph_au.dense={list(self.dense)} needs two numbers")


class Encoder(nn.Module):
    """Attention with heads of a size of their own, then two layers, each with a skip and a norm after it.

    [B,N,dim] -> the same shape. Attention weights are dropped by a tenth.
    """

    def __init__(self, dim: int, heads: int, head: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, heads * head, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head, dim, bias=False)
        self.one, self.two = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.drop_weights, self.drop_heard, self.drop_inner = Dropout(0.1), Dropout(dropout), Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = self.drop_weights((query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1))
        x = self.norms[0](x + self.drop_heard(self.out((weights @ value).transpose(1, 2).flatten(2))))
        out: torch.Tensor = self.norms[1](x + self.drop_inner(self.two(F.relu(self.one(x)))))
        return out


class _Part(nn.Module):
    """Patches of a part of the face [B,n,patch*patch] -> [B,dense[1]]."""

    def __init__(self, points: int, config: GraphAuConfig) -> None:
        super().__init__()
        dim = config.patch**2
        self.encoders = nn.Sequential(
            *(Encoder(dim, config.heads, config.head, config.inner, config.dropout) for _ in range(config.layers))
        )
        self.one, self.two = nn.Linear(points * dim, config.dense[0]), nn.Linear(*config.dense)
        self.drop = Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = F.relu(self.two(self.drop(F.relu(self.one(self.encoders(x).flatten(1))))))
        return out


class GraphAu(FlowNetwork):
    """Magnified apex -> shape map -> 7x7 patches at 30 landmarks -> depthwise convolution -> an encoder for the brows,
    one for the mouth -> compared with features of nine AUs, which graph convolutions make of learned names -> norm,
    classifier.

    Published (authors' code of the network): all from the patches on, sizes, dropout .5; its two layers of graph
    convolution; 3 AUs meet the brows, 6 the mouth. The file of the encoder layer is not among the code that could be
    read; the public transformer that the code takes it from is followed.
    Deviations: linear magnification and a small convolution trained with the rest replace the pretrained magnification
    network that gives their patches; landmarks are those of the mean face, for faces are aligned; AU co-occurrence from
    published tables (theirs: a file for each fold's training labels); the weights of five of six encoders, which never
    act there, are not made.
    """

    needs = ("apex",)
    stack = 1
    places: torch.Tensor
    propagate: torch.Tensor

    def __init__(self, config: GraphAuConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.patch > shape.frame_size:
            raise ConfigError(f"graph_au.patch={config.patch} is larger than data.frame_size={shape.frame_size}")
        self.config = config
        self.shape_map = shape_map(config.shape_width)
        self.register_buffer(
            "places", torch.from_numpy(patch_index(POINTS, shape.frame_size, config.patch)), persistent=False
        )
        self.depthwise = nn.Conv2d(len(POINTS), len(POINTS), 3, padding=1, groups=len(POINTS))
        self.norm = BatchNorm(len(POINTS))
        self.brows = _Part(len(BROWS), config)
        self.mouth = _Part(len(POINTS) - len(BROWS), config)
        rows = [AU_INDEX[code] for code in AUS]
        self.register_buffer("propagate", normalised(torch.from_numpy(cooccurrence()[rows][:, rows])), persistent=False)
        self.names = nn.Parameter(torch.randn(len(AUS), config.embedding) * 0.01)
        self.graph = nn.ModuleList(
            nn.Linear(a, b, bias=False)
            for a, b in ((config.embedding, config.hidden), (config.hidden, config.dense[1]))
        )
        self.last = nn.LayerNorm(len(AUS), eps=1e-6)
        self.classify = nn.Linear(len(AUS), n_classes)

    def from_patches(self, patches: torch.Tensor) -> Outputs:
        """[B,30,patch,patch] -> scores: the part that is published."""
        x = F.relu(self.norm(self.depthwise(patches))).flatten(2)
        n = len(BROWS)
        aus: torch.Tensor = self.names
        for layer in self.graph:
            aus = F.leaky_relu(self.propagate @ layer(aus), 0.2)
        met = [self.brows(x[:, :n]) @ aus[:BROW_AUS].T, self.mouth(x[:, n:]) @ aus[BROW_AUS:].T]
        features = self.last(torch.cat(met, 1))
        return Outputs(self.classify(features), None, features)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores."""
        shape = self.shape_map(magnified(views[0], self.config.magnify))
        patches = shape.flatten(1)[:, self.places.flatten()].unflatten(1, self.places.shape)
        return self.from_patches(patches.unflatten(2, (self.config.patch, self.config.patch)))


def normalised(likely: torch.Tensor) -> torch.Tensor:
    """[A,A]: D^-1/2 A^T D^-1/2 as their code has it, D the rows' sums of A, which is not symmetric."""
    return propagation(likely, loops=False).T


def build(config: GraphAuConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: a patch is larger than the frames.
    """
    return GraphAu(config, n_classes, shape)
