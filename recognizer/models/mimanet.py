"""MiMaNet with our own sizes: an apex stream and a sequence stream for micro-expressions, guided by the same for
macro-expressions (Xia and Wang, IJCAI 2021; after its abstract)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.blocks import ResNet18, guided_triplet, judged_loss, reversed_gradient
from recognizer.models.common import Dropout, FlowNetwork, Lstm, Outputs, Shape, check, known_mean, resized


@dataclass(frozen=True, kw_only=True)
class MimanetConfig:
    """Sizes are ours."""

    side: int = 112
    """The apex is brought to this size; 0 leaves it at data.frame_size."""
    frame_side: int = 56
    """The frames of the sequence are brought to this size; 0 leaves them."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Of the apex stream, a ResNet."""
    frame_widths: tuple[int, ...] = (16, 32, 64)
    """Of the sequence stream's ResNet, the same for every frame."""
    hidden: int = 64
    """Of the LSTM over the frames."""
    intervals: int = 3
    """Distances of two frames, 1 up to this, that are told by their features."""
    adversarial: float = 0.1
    relation: float = 0.1
    triplet: float = 0.1
    """Weights of the judge of macro- and micro-expressions, of the intervals, and of triplets."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for name in ("widths", "frame_widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"side": 0, "frame_side": 0, "widths": 1, "frame_widths": 1, "hidden": 1, "intervals": 2}
        weights = {"adversarial": 0, "relation": 0, "triplet": 0}
        check("mimanet", self, least=sizes | weights, shares=("dropout",))


class _TwoStreams(nn.Module):
    """Onset and apex [B,2,F,F], frames [B,T,F,F] -> features of the apex [B,D], of every frame [B,T,E], of both streams
    together, and scores."""

    def __init__(self, config: MimanetConfig, n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.spatial = ResNet18(2, config.widths, blocks=1)
        self.frame = ResNet18(2, config.frame_widths, blocks=1)
        self.temporal = Lstm(config.frame_widths[-1], config.hidden)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.widths[-1] + config.hidden, n_classes)

    def forward(self, pair: torch.Tensor, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        spatial = self.spatial(_with_change(pair[:, 1:], pair[:, :1]))
        n, t = frames.shape[:2]
        first = frames[:, :1].expand(-1, t, -1, -1)
        seen = _with_change(frames.flatten(0, 1)[:, None], first.flatten(0, 1)[:, None])
        each = self.frame(seen).unflatten(0, (n, t))
        features = torch.cat([spatial, self.temporal(each)[:, -1]], 1)
        return {
            "spatial": spatial, "each": each, "features": features, "scores": self.classify(self.drop(features)),
        }  # fmt: skip


def _with_change(picture: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """[N,1,F,F] in [0,1] each -> picture in [-1,1] and, enlarged, what has changed, [N,2,F,F]."""
    return torch.cat([2 * picture - 1, 20 * (picture - before)], 1)


class Mimanet(FlowNetwork):
    """MiNet and MaNet, each an apex stream and a sequence stream; MaNet guides MiNet, which answers.

    Published (abstract, a review of the paper): both networks of two streams; a judge of domains on the spatial
    features; classification of sampling intervals by the temporal features; a contrastive loss that brings clips of a
    class together across micro- and macro-expressions. Free: all sizes; the intervals (two frames of the clip, 1 to 3
    apart); the contrast (batch-hard triplets).
    Deviations: MaNet is trained in the same steps on the macro-expressions in the batch and counts as fixed in whatever
    guides MiNet; the interval classifier learns from both; no weights from elsewhere. Without macro-expressions MiNet
    learns alone, with the intervals of its own clips.
    """

    needs = ("apex", "frames")
    needs_meta = ("macro",)
    stack = 1

    def __init__(self, config: MimanetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        if config.intervals >= shape.frames:
            raise ConfigError(f"mimanet.intervals={config.intervals} must be below data.frames={shape.frames}")
        self.config = config
        self.micro, self.macro = _TwoStreams(config, n_classes), _TwoStreams(config, n_classes)
        width = config.widths[-1]
        self.judge = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        self.relate = nn.Linear(2 * config.frame_widths[-1], config.intervals)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex, [B,T,F,F] frames -> MiNet's scores."""
        pair, frames = resized(views[0], self.config.side), resized(views[1], self.config.frame_side)
        micro = self.micro(pair, frames)
        if not self.training:
            return Outputs(micro["scores"], None, micro["features"])
        macro = self.macro(pair, frames)
        more = {
            "micro": micro["scores"], "macro": macro["scores"], "guide": macro["features"].detach(),
            "judged micro": self.judge(reversed_gradient(micro["spatial"]))[:, 0],
            "judged macro": self.judge(macro["spatial"].detach())[:, 0],
            "related micro": self._related(micro["each"]), "related macro": self._related(macro["each"]),
        }  # fmt: skip
        return Outputs(micro["scores"], None, micro["features"], more)

    def _related(self, each: torch.Tensor) -> torch.Tensor:
        """Features of frames [B,T,E] -> cross-entropy [B] of the intervals of all pairs of frames that are not too far
        apart, intervals counting alike."""
        losses = []
        for k in range(1, self.config.intervals + 1):
            logs = self.relate(torch.cat([each[:, :-k], each[:, k:]], 2)).log_softmax(-1)
            losses.append(-logs[..., k - 1].mean(1))
        return torch.stack(losses).mean(0)

    def meta_loss(
        self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor, meta: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Each network's cross-entropy and intervals on its clips, and what guides MiNet."""
        config, more = self.config, outputs.more
        assert more is not None
        macro, total = meta["macro"] == 1, outputs.scores.new_zeros(())
        for name, mine in (("micro", ~macro), ("macro", macro)):
            each = F.cross_entropy(more[name], y, reduction="none") + config.relation * more[f"related {name}"]
            total = total + known_mean(each, mine)
        judged = torch.where(macro, more["judged macro"], more["judged micro"])
        total = total + config.adversarial * judged_loss(judged, meta["macro"])
        assert outputs.features is not None
        label = meta["macro"].clamp(min=0)
        return total + config.triplet * guided_triplet(outputs.features, more["guide"], y, label)


def build(config: MimanetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed.

    Raises:
        ConfigError: clips of fewer frames than the intervals need.
    """
    return Mimanet(config, n_classes, shape)
