"""SMA-STN, published name with our own sizes: dynamic images of a clip's segments, attention over places and segments
(Liu, Zheng and Zong, arXiv 2010.09342, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import NonLocal, ResNet18
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check
from recognizer.models.mersiam import with_pairs


@dataclass(frozen=True, kw_only=True)
class SmaStnConfig:
    """All sizes are ours."""

    segments: int = 4
    """Of the clip; their dynamic images stand beside that of the whole clip."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Of the residual network that sees each of them."""
    deviation: float = 0.1
    """Weight of the loss on features; 0 switches it off."""
    margin: float = 1.0
    """Features of two classes ought to lie this far apart."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"segments": 1, "widths": 1, "deviation": 0, "margin": 0}
        check("sma_stn", self, least=sizes, shares=("dropout",))


def rank_pooled(frames: torch.Tensor) -> torch.Tensor:
    """Dynamic image by approximate rank pooling (Bilen et al., CVPR 2016): [B,T,F,F] -> [B,F,F] with unit rms.

    Frame t of T counts 2t - T - 1, so what does not change adds up to nothing.
    """
    length = frames.shape[1]
    weights = 2 * torch.arange(1, length + 1, device=frames.device, dtype=frames.dtype) - length - 1
    image = torch.einsum("t,bthw->bhw", weights / length, frames)
    return image / (image.square().mean((1, 2), keepdim=True) + 1e-8).sqrt()


def segmented(frames: torch.Tensor, segments: int) -> torch.Tensor:
    """[B,T,F,F] -> [B,1+segments,F,F]: dynamic images of the whole clip and of equal segments, which share the frame
    where they meet."""
    last = frames.shape[1] - 1
    cuts = [round(i * last / segments) for i in range(segments + 1)]
    parts = [frames, *(frames[:, a : b + 1] for a, b in pairwise(cuts))]
    return torch.stack([rank_pooled(part) for part in parts], 1)


class SmaStn(FlowNetwork):
    """Dynamic images of segments and of the whole clip -> residual network -> non-local attention over places ->
    a learned weight a segment -> classifier.

    Published (abstract): dynamic images of segments as local and global descriptors; attention that relates far places
    and weighs segments; a loss that sharpens deviations of features. Free: all sizes (theirs begins from weights of
    WIDER FACE, which do not come with this package), how segments are cut, all of the training.
    Deviations: every frame of a segment counts, where they sample; what their deviation enhancement loss is, the
    abstract does not say: here it is the contrastive loss over pairs of a batch, on features of length 1.
    """

    needs = ("frames",)
    stack = 1

    def __init__(self, config: SmaStnConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.segments >= shape.frames:
            raise ConfigError(
                f"sma_stn.segments={config.segments} needs more frames than data.frames={shape.frames}: a segment "
                "takes two, one of them shared"
            )
        self.config = config
        self.trunk = ResNet18(1, config.widths, blocks=1, pooled=False)
        self.places = NonLocal(config.widths[-1])
        # At zero, as blocks begin it, its query and key would learn nothing in the first step.
        nn.init.normal_(self.places.out.weight, std=0.01)
        self.weigh = nn.Linear(config.widths[-1], 1, bias=False)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.widths[-1], n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,T,F,F] frames -> scores."""
        images = segmented(views[0], self.config.segments)
        maps = self.places(self.trunk(images.flatten(0, 1)[:, None]))
        seen = maps.mean((2, 3)).unflatten(0, images.shape[:2])
        features = (self.weigh(seen).softmax(1) * seen).sum(1)
        return Outputs(self.classify(self.drop(features)), None, features)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus the loss on features."""
        total = F.cross_entropy(outputs.scores, y)
        return with_pairs(total, outputs.features, y, self.config.deviation, self.config.margin)


def build(config: SmaStnConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: more segments than frames.
    """
    return SmaStn(config, n_classes, shape)
