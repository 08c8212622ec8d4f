"""MERSiamC3D, published name with our own sizes: a 3D tower whose features are compared pair by pair, with the focal
loss (Zhao, Tao, Zhang, Xu, Zhang, Hao and Chen, Neurocomputing 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import focal
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check
from recognizer.models.fcnn3d import ClipStream, shown


@dataclass(frozen=True, kw_only=True)
class MersiamConfig:
    """All sizes are ours."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of the tower's 3D convolutions."""
    grid: int = 4
    dense: int = 128
    """Features that are compared and classified."""
    keys: int = 9
    """Key frames; at most data.frames."""
    pairs: float = 0.5
    """Weight of the siamese loss; 0 switches it off."""
    margin: float = 1.0
    """Features of two classes ought to lie this far apart."""
    gamma: float = 2.0
    """Of the focal loss."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"widths": 1, "grid": 1, "dense": 1, "keys": 2, "pairs": 0, "margin": 0, "gamma": 0}
        check("mersiam", self, least=sizes, shares=("dropout",))


def pair_loss(features: torch.Tensor, y: torch.Tensor, margin: float) -> torch.Tensor:
    """Contrastive loss (Hadsell et al., 2006) over all pairs of a batch, features [B,D], y [B] -> scalar.

    Squared distance within a class; between classes the square of what a distance lacks of ``margin``. 0 where there
    is no pair.
    """
    square = (features[:, None] - features[None]).square().sum(-1)
    lacking = F.relu(margin - (square + 1e-8).sqrt()).square()
    each = torch.where(y[:, None] == y[None], square, lacking)
    other = 1 - torch.eye(len(y), device=each.device, dtype=each.dtype)
    return (each * other).sum() / max(len(y) * (len(y) - 1), 1)


def with_pairs(
    loss: torch.Tensor, features: torch.Tensor | None, y: torch.Tensor, weight: float, margin: float
) -> torch.Tensor:
    """``loss`` plus ``weight`` times :func:`pair_loss` of the features [B,D], brought to length 1."""
    assert features is not None
    return loss + weight * pair_loss(F.normalize(features, dim=1, eps=1e-6), y, margin) if weight else loss


def key_frames(frames: torch.Tensor, keys: int) -> torch.Tensor:
    """[B,T,F,F] -> [B,keys,F,F]: the first frame, then those between which the clip changes by equal shares.

    The change of brightness from frame to frame is added up along the clip; frames are read off where the sum passes
    1/(keys-1), 2/(keys-1) and so on of its end, by linear interpolation. A still clip is read at even steps.
    """
    moved = (frames[:, 1:] - frames[:, :-1]).abs().mean((2, 3)) + 1e-6
    passed = F.pad(moved.cumsum(1), (1, 0))
    passed = passed / passed[:, -1:]  # [B,T], 0 to 1
    asked = torch.linspace(0, 1, keys, device=frames.device, dtype=frames.dtype)
    # Weight of frame t for a key: the hat function of its step on either side.
    rise = ((asked[None, :, None] - passed[:, None, :-1]) / (passed[:, 1:] - passed[:, :-1])[:, None]).clamp(0, 1)
    weights = F.pad(rise, (1, 0), value=1.0) - F.pad(rise, (0, 1))
    return torch.einsum("bkt,bthw->bkhw", weights, frames)


class Mersiam(FlowNetwork):
    """Key frames -> 3D convolutions -> features -> classifier; all pairs of a batch are the siamese pairs.

    Published (abstract): a siamese 3D convolutional network, a first stage that learns what is alike, a second with the
    focal loss, key frames that summarise the clip. Free: all sizes, the norm (GroupNorm), all of the training.
    Deviations: both losses are trained at once (two stages: train with ``mersiam.pairs`` and without classes first,
    then from those weights by ``train.start``, is the nearest); key frames are chosen by how much the clip changes
    (:func:`key_frames`), not by a network.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: MersiamConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.keys > shape.frames:
            raise ConfigError(f"mersiam.keys={config.keys} is more than data.frames={shape.frames}")
        self.config = config
        self.tower = ClipStream(1, config.widths, config.grid)
        self.dense = nn.Linear(self.tower.size, config.dense)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.dense, n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        features = F.relu(self.dense(self.tower(shown(key_frames(views[0], self.config.keys)))))
        return Outputs(self.classify(self.drop(features)), None, features)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Focal loss plus the siamese loss on features of length 1."""
        total = focal(outputs.scores, y, self.config.gamma)
        return with_pairs(total, outputs.features, y, self.config.pairs, self.config.margin)


def build(config: MersiamConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: more key frames than frames.
    """
    return Mersiam(config, n_classes, shape)
