"""GEME with our own sizes: the expression and the gender in two streams on a dynamic image (Nie, Takalkar, Duan, Zhang
and Xu, Neurocomputing 2021; after its abstract)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import ResNet18, focal
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, known_mean, resized


@dataclass(frozen=True, kw_only=True)
class GemeConfig:
    """Sizes are ours."""

    side: int = 112
    """The dynamic image is brought to this size; 0 leaves it at data.frame_size."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Of each stream, a ResNet."""
    blocks: int = 2
    """Residual blocks of each width."""
    gender: float = 0.3
    """Weight of the gender's loss."""
    gamma: float = 2.0
    """Of the focal loss."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"side": 0, "widths": 1, "blocks": 1, "gender": 0, "gamma": 0}
        check("geme", self, least=sizes, shares=("dropout",))


class Geme(FlowNetwork):
    """Dynamic image -> a ResNet for the expression and one for the gender -> the expression is told by the features of
    both, the gender by its own.

    Published (abstract): two streams, multi-task learning with the gender, dynamic images, a class-balanced focal loss.
    Free: all sizes; how the streams meet (concatenated, once). Deviations: a focal loss on classes that are drawn
    equally often (``train.balance``) in place of class-balanced weights. Subjects' genders come from ``train.genders``;
    where one is not known its term is off, and without any the second stream is one more on the expression.
    """

    needs = ("dynamic",)
    needs_meta = ("gender",)
    stack = 1

    def __init__(self, config: GemeConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, width = config, config.widths[-1]
        self.expression, self.gender = (ResNet18(3, config.widths, blocks=config.blocks) for _ in range(2))
        self.drop = Dropout(config.dropout)
        self.classify, self.classify_gender = nn.Linear(2 * width, n_classes), nn.Linear(width, 1)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,F,F] dynamic image -> scores."""
        x = resized(views[0], self.config.side)
        x = x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        gender = self.gender(x)
        features = self.drop(torch.cat([self.expression(x), gender], 1))
        return Outputs(self.classify(features), None, features, {"gender": self.classify_gender(gender)[:, 0]})

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """The focal loss."""
        return focal(outputs.scores, y, self.config.gamma)

    def meta_loss(
        self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor, meta: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """And the gender's, of those whose it is known."""
        assert outputs.more is not None
        logits, label = outputs.more["gender"], meta["gender"]
        each = F.binary_cross_entropy_with_logits(logits, label.clamp(min=0).to(logits.dtype), reduction="none")
        return self.loss(outputs, y, au) + self.config.gender * known_mean(each, label >= 0)


def build(config: GemeConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Geme(config, n_classes, shape)
