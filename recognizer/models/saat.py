"""SAAT, published name with our own sizes: a face and its style-free copy, whose attention is handed over (Zhou, Mao
and Xue, ICME Workshops 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import ResNet18
from recognizer.models.common import APEX_INPUTS, Dropout, FlowNetwork, Outputs, Shape, apex_maps, check


@dataclass(frozen=True, kw_only=True)
class SaatConfig:
    """All sizes are ours."""

    input: str = "apex"
    """apex, change (apex minus onset) or both."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Of either residual network."""
    window: int = 9
    """Brightness and contrast are taken off in windows of this many pixels a side."""
    transfer: float = 1.0
    """Weight of the attention transfer; 0 switches it off."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        sizes = {"widths": 1, "window": 1, "transfer": 0}
        check("saat", self, least=sizes, shares=("dropout",), choices={"input": tuple(APEX_INPUTS)})


def without_style(pictures: torch.Tensor, window: int) -> torch.Tensor:
    """[B,C,F,F] -> the same shape: every pixel less the mean about it, over the standard deviation about it."""
    pad = window // 2
    padded = F.pad(pictures, (pad, window - 1 - pad, pad, window - 1 - pad), mode="replicate")
    mean = F.avg_pool2d(padded, window, 1)
    # About the mean, not as a difference of large squares: micro-expressions change little.
    spread = F.avg_pool2d(padded.square(), window, 1) - mean.square()
    return (pictures - mean) / (spread.clamp(min=0) + 1e-4).sqrt()


def attention_of(maps: torch.Tensor) -> torch.Tensor:
    """Activation attention (Zagoruyko and Komodakis, ICLR 2017): [B,C,h,w] -> [B,h*w] of length 1."""
    return F.normalize(maps.square().mean(1).flatten(1), dim=1, eps=1e-6)


class Saat(FlowNetwork):
    """The apex through one residual network, its copy without local brightness and contrast through another; features
    joined, classifier; where the first looks ought to follow where the second does.

    Published (title, a survey): style-aggregated faces beside the faces themselves, attention handed over between the
    networks that see them. Free: all sizes, how features join, the form of the transfer (activation attention), all
    of the training.
    Deviations: faces lose their style by local normalisation, not by a CycleGAN (none comes with this package);
    attention is handed over inside the fold, not from a network of macro-expressions.
    """

    needs = ("apex",)
    stack = 1

    def __init__(self, config: SaatConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.nets = nn.ModuleList(
            ResNet18(APEX_INPUTS[config.input], config.widths, blocks=1, pooled=False) for _ in ("face", "copy")
        )
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(2 * config.widths[-1], n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores; more: where either network looks, ``face`` and ``copy`` [B,places]."""
        face = apex_maps(views[0], self.config.input)
        seen = [net(x) for net, x in zip(self.nets, (face, without_style(face, self.config.window)), strict=True)]
        features = self.drop(torch.cat([maps.mean((2, 3)) for maps in seen], 1))
        more = {name: attention_of(maps) for name, maps in zip(("face", "copy"), seen, strict=True)}
        return Outputs(self.classify(features), None, features, more)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus the squared distance between both attentions; the copy's is the teacher."""
        assert outputs.more is not None
        apart = (outputs.more["face"] - outputs.more["copy"].detach()).square().sum(1).mean()
        return F.cross_entropy(outputs.scores, y) + self.config.transfer * apart


def build(config: SaatConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Saat(config, n_classes, shape)
