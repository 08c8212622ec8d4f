"""NMER: ResNet-18 on a picture of the flow, its upper and lower half apart, and a judge of macro- and micro-expressions
(EMR; Liu, Du, Zheng and Gedeon, FG 2019; authors' code)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import Mean, ResNet18, judged_loss, reversed_gradient, wheel
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, resized

INPUTS = ("wheel", "flow")
_HIDDEN = 64  # features of a half
_JUDGE = (64, 32)


@dataclass(frozen=True, kw_only=True)
class NmerConfig:
    """Published sizes (11.2 million parameters)."""

    input: str = "wheel"
    """wheel: the flow as a coloured picture (published); flow: u, v and strain."""
    side: int = 224
    """The picture is brought to this size; 0 leaves it at data.size."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    """Residual blocks of each width."""
    reverse: float = 0.325
    """How much of the judge's gradient is turned round."""
    dropout: float = 0.1
    """Of each half's features; the judge has .5."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"side": 0, "widths": 1, "blocks": 1, "reverse": 0}
        check("nmer", self, least=sizes, shares=("dropout",), choices={"input": INPUTS})


class Nmer(FlowNetwork):
    """Picture of the flow -> ResNet-18 -> the upper 3 of 7 rows, and the lower 4 -> 64 features each -> a classifier on
    both and one on each; a judge tells macro- from micro-expressions by the features, whose gradient is reversed.

    Published (authors' code): 224 pixels, ResNet-18, the rows, 64 features with tanh and dropout .1, four losses with
    equal weights, the judge 128-64-32-1 with dropout .5.
    Deviations: no weights from faces (none come with this package), hence one learning rate for all; the reversed
    gradient counts what it counts on average in 1,400 steps of their schedule; saturation 1 where theirs is the apex
    frame's (and bytes are not taken for shares of 1, which made their pictures overflow); flow comes as its length's
    share of the largest, so that magnifying micro- and reducing macro-expressions (EMR) changes nothing here; their
    random rotation and colour jitter are left to ``train.flip`` and ``train.shift``. Without macro-expressions among
    the clips the judge has nothing to tell apart and is off.
    """

    needs_meta = ("macro",)
    stack = 1

    def __init__(self, config: NmerConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config, side = config, config.side or shape.size
        rows = -(-side // 2 ** (len(config.widths) + 1))
        if rows < 2:
            raise ConfigError(
                f"nmer.side={config.side} leaves maps of one row, which has no upper half; set a larger side (224 is "
                "published) or fewer nmer.widths"
            )
        self.upper = 3 * rows // 7 or 1
        self.trunk = ResNet18(3, config.widths, blocks=config.blocks, pooled=False)
        self.mean = Mean()
        self.halves = nn.ModuleList(
            nn.Sequential(nn.Linear(config.widths[-1], _HIDDEN), nn.Tanh(), Dropout(config.dropout)) for _ in range(2)
        )
        self.classify = nn.Linear(2 * _HIDDEN, n_classes)
        self.classify_halves = nn.ModuleList(nn.Linear(_HIDDEN, n_classes) for _ in range(2))
        one, two = _JUDGE
        self.judge = nn.Sequential(
            nn.Linear(2 * _HIDDEN, one), nn.ReLU(), Dropout(0.5), nn.Linear(one, two), nn.ReLU(), Dropout(0.5),
            nn.Linear(two, 1),
        )  # fmt: skip
        for part in (self.halves, self.classify, self.classify_halves, self.judge):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_normal_(module.weight)
                    nn.init.zeros_(module.bias)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        flow = resized(self.scaled(views[0]), self.config.side)
        maps = self.trunk(2 * wheel(flow) - 1 if self.config.input == "wheel" else flow)
        parts = (maps[:, :, : self.upper], maps[:, :, self.upper :])
        halves = [half(self.mean(part)) for half, part in zip(self.halves, parts, strict=True)]
        features = torch.cat(halves, 1)
        scores = [classify(half) for classify, half in zip(self.classify_halves, halves, strict=True)]
        judged = self.judge(reversed_gradient(features, self.config.reverse))[:, 0]
        more = {"upper": scores[0], "lower": scores[1], "macro": judged}
        return Outputs(self.classify(features), None, features, more)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the whole and of each half."""
        assert outputs.more is not None
        all_scores = (outputs.scores, outputs.more["upper"], outputs.more["lower"])
        return torch.stack([F.cross_entropy(scores, y) for scores in all_scores]).sum()

    def meta_loss(
        self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor, meta: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """And the judge's, where the batch has macro- and micro-expressions."""
        assert outputs.more is not None
        return self.loss(outputs, y, au) + judged_loss(outputs.more["macro"], meta["macro"])


def build(config: NmerConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: the picture is too small to be halved.
    """
    return Nmer(config, n_classes, shape)
