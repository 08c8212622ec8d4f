"""BDCNN: pictures of flow divided into blocks, implicit augmentation of features (Chen, Liu, Xu, Wu and Yao, IEEE
Transactions on Multimedia 2022; authors' code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import wheel
from recognizer.models.common import FlowNetwork, Outputs, Shape, after, check, resized

_INPUTS = 4


@dataclass(frozen=True, kw_only=True)
class BdcnnConfig:
    """Published sizes for blocks of 10 pixels (10.9 million parameters)."""

    side: int = 120
    """The flow image is brought to this size; 0 leaves it at data.size."""
    block: int = 10
    """Side of a block, pixels; it divides the picture's."""
    filters: int = 8
    """Of the convolution that all blocks share."""
    joined: int = 512
    """Channels that the blocks of all pictures become together."""
    dense: tuple[int, int] = (1024, 128)
    augmentation: float = 0.25
    """How much of a class's covariance its features are spread by, on average over training; 0: cross-entropy."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", tuple(self.dense))
        least = {"side": 0, "block": 3, "filters": 1, "joined": 1, "dense": 1, "augmentation": 0}
        check("bdcnn", self, least=least)


def spread_logits(
    scores: torch.Tensor, features: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, strength: float
) -> torch.Tensor:
    """Scores [B,C] as if features [B,D] were drawn around each clip with the covariance of its class, infinitely often
    (ISDA; Wang et al., NeurIPS 2019): an upper bound of the mean cross-entropy, for a classifier's ``weight`` [C,D].

    Score c of a clip of class k grows by strength / 2 * (w_c - w_k)' S_k (w_c - w_k), S_k the batch's covariance.
    """
    own = F.one_hot(y, scores.shape[1]).to(scores.dtype)
    share = own / own.sum(0).clamp(min=1)  # [B,C], columns add up to 1
    fixed = features.detach()
    around = (fixed - own @ (share.T @ fixed)) @ weight.T  # [B,C] where each clip lies about its class's mean
    apart = around - (around * own).sum(1, keepdim=True)
    return scores + strength / 2 * (own @ (share.T @ apart.square()))


class Bdcnn(FlowNetwork):
    """u, v, strain and a coloured picture of the flow -> blocks -> one convolution for all blocks -> a 1x1 convolution
    over all blocks of all pictures -> two dense layers -> classifier.

    Published (authors' code): 120 pixels, 3x3 convolution of 8 filters and max-pooling 3 in every block, 512, 1024,
    128, ISDA with a strength that grows from 0 to .5.
    Deviations: the strength stays at the mean; class covariances are the batch's, not running ones (their weights count
    all clips alike from the first batch on); classes are drawn equally often in place of fixed class weights; a picture
    of one plane is repeated on three channels, as grey ones were there, and divided by its root mean square in place of
    their fixed colour norms; blocks of 10, which the released code leaves to the command line.
    """

    stack = 2

    def __init__(self, config: BdcnnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, side = config, config.side or shape.size
        if side % config.block:
            raise ConfigError(f"bdcnn.block={config.block} must divide the picture's side, {side} (bdcnn.side)")
        self.conv = nn.Conv2d(3, config.filters, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 3, 1)
        maps = after(config.block, 3, 3, 1)
        self.join = nn.Conv2d(_INPUTS * (side // config.block) ** 2 * config.filters, config.joined, 1)
        one, two = config.dense
        self.dense = nn.Sequential(nn.Linear(config.joined * maps**2, one), nn.ReLU(), nn.Linear(one, two), nn.ReLU())
        self.classify = nn.Linear(two, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        flow, block = resized(self.scaled(views[0]), self.config.side), self.config.block
        planes = [flow[:, i : i + 1].expand(-1, 3, -1, -1) for i in range(3)]
        pictures = torch.stack([*planes, 2 * wheel(flow) - 1], 1)  # [B,4,3,S,S]
        blocks = pictures.unfold(3, block, block).unfold(4, block, block)  # [B,4,3,n,n,b,b]
        blocks = blocks.permute(0, 1, 3, 4, 2, 5, 6)
        maps = self.pool(F.relu(self.conv(blocks.flatten(0, 3))))
        joined = F.relu(self.join(maps.unflatten(0, (len(flow), -1)).flatten(1, 2)))
        features = self.dense(joined.flatten(1))
        return Outputs(self.classify(features), None, features, {"weight": self.classify.weight})

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with features spread as :func:`spread_logits` says."""
        assert outputs.more is not None
        assert outputs.features is not None
        spread = spread_logits(outputs.scores, outputs.features, outputs.more["weight"], y, self.config.augmentation)
        return F.cross_entropy(spread, y)


def build(config: BdcnnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: blocks do not divide the picture.
    """
    return Bdcnn(config, n_classes, shape)
