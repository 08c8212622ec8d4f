"""MTMNet with our own sizes: a network for micro-expressions guided by one for macro-expressions (Xia, Wang, Wang and
Chen, ACM MM 2020, "Learning from macro-expression"; after its abstract and an author's code for the losses)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from recognizer.models.blocks import (
    ResNet18,
    cosines,
    guided_triplet,
    judged_loss,
    of_class,
    reversed_gradient,
)
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape, check, known_mean, resized

_ALIKE = 0.1  # temperature of the identity loss


@dataclass(frozen=True, kw_only=True)
class MtmnetConfig:
    """Sizes are ours."""

    side: int = 112
    """Pictures are brought to this size; 0 leaves them at data.frame_size."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Of every encoder, a ResNet."""
    blocks: int = 2
    """Residual blocks of each width."""
    identity: float = 0.1
    """Weight of the two terms that keep identity out of the expression."""
    adversarial: float = 0.1
    """Weight of the judge of macro- and micro-expressions, whose gradient is reversed."""
    triplet: float = 0.1
    """Weight of triplets of a micro-expression and two macro-expressions."""
    inequality: float = 0.1
    """Weight of the part by which a macro-expression is harder to tell than a micro-expression."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        weights = {"identity": 0, "adversarial": 0, "triplet": 0, "inequality": 0}
        check("mtmnet", self, least={"side": 0, "widths": 1, "blocks": 1, **weights}, shares=("dropout",))


class _Disentangle(nn.Module):
    """Onset and apex [B,2,F,F] -> features of the expression [B,D], of who it is in the onset and in the apex [B,D]
    each, and scores [B,C]: one encoder for what changes, one for who it is."""

    def __init__(self, config: MtmnetConfig, n_classes: int) -> None:
        super().__init__()
        self.express = ResNet18(2, config.widths, blocks=config.blocks)
        self.identify = ResNet18(1, config.widths, blocks=config.blocks)
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.widths[-1], n_classes)

    def forward(self, pair: torch.Tensor) -> dict[str, torch.Tensor]:
        onset, apex = 2 * pair[:, :1] - 1, 2 * pair[:, 1:] - 1
        expression = self.express(torch.cat([apex, 10 * (apex - onset)], 1))
        who = self.identify(torch.cat([onset, apex]))
        return {
            "expression": expression, "before": who[: len(pair)], "after": who[len(pair) :],
            "scores": self.classify(self.drop(expression)),
        }  # fmt: skip


class Mtmnet(FlowNetwork):
    """MicroNet and MacroNet, both disentangling expression from identity; MacroNet guides MicroNet, which answers.

    Published (abstract): two expression-identity disentangling networks; MacroNet is fixed and guides MicroNet in
    feature space (adversarially and by triplets) and label space (loss inequality regularisation). From an author's
    code: the inequality (the micro-expression's loss is not to fall below the macro-expression's). Free: all sizes; how
    identity is kept apart (who it is must be told from onset and apex alike, by ``subject``, and share no linear
    relation with the expression).
    Deviations: MacroNet is trained in the same steps on the macro-expressions in the batch and counts as fixed in
    whatever guides MicroNet; a macro-expression is compared with as the mean of its class; no weights from elsewhere.
    Macro-expressions are clips whose ``expression`` says so; without any, MicroNet learns alone.
    """

    needs = ("apex",)
    needs_meta = ("macro", "subject")
    stack = 1

    def __init__(self, config: MtmnetConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.micro, self.macro = _Disentangle(config, n_classes), _Disentangle(config, n_classes)
        width = config.widths[-1]
        self.judge = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> MicroNet's scores."""
        pair = resized(views[0], self.config.side)
        micro = self.micro(pair)
        if not self.training:
            return Outputs(micro["scores"], None, micro["expression"])
        macro = self.macro(pair)
        more = {
            f"{name}/{key}": value for name, of in (("micro", micro), ("macro", macro)) for key, value in of.items()
        }
        more["judged micro"] = self.judge(reversed_gradient(micro["expression"]))[:, 0]
        more["judged macro"] = self.judge(macro["expression"].detach())[:, 0]
        return Outputs(micro["scores"], None, micro["expression"], more)

    def meta_loss(
        self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor, meta: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Each network's cross-entropy on its clips, identity, and what guides MicroNet."""
        config, more = self.config, outputs.more
        assert more is not None
        macro = meta["macro"] == 1
        losses = {name: F.cross_entropy(more[f"{name}/scores"], y, reduction="none") for name in ("micro", "macro")}
        total = known_mean(losses["micro"], ~macro) + known_mean(losses["macro"], macro)
        for name, mine in (("micro", ~macro), ("macro", macro)):
            own = {key: more[f"{name}/{key}"] for key in ("expression", "before", "after")}
            apart = _told_apart(own["before"], own["after"], meta["subject"], mine)
            total = total + config.identity * (apart + _related(own["expression"], own["after"], mine))
        judged = torch.where(macro, more["judged macro"], more["judged micro"])
        total = total + config.adversarial * judged_loss(judged, meta["macro"])
        guides = more["macro/expression"].detach()
        label = meta["macro"].clamp(min=0)
        total = total + config.triplet * guided_triplet(more["micro/expression"], guides, y, label)
        harder, there = of_class(losses["macro"].detach(), y, macro)
        return total + config.inequality * known_mean(F.relu(harder - losses["micro"]), there & ~macro)


def _told_apart(before: torch.Tensor, after: torch.Tensor, subject: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """Whose apex is it? Cross-entropy of the onsets [B,D] in the batch for every apex [B,D], counting ``mine`` alone
    and no other clip of the same subject."""
    n = len(subject)
    own = torch.eye(n, dtype=torch.bool, device=subject.device)
    other = mine[None] & (subject[:, None] != subject) & (subject >= 0)[None]
    logits = torch.where(own | other, cosines(after, before) / _ALIKE, -1e9)
    each = F.cross_entropy(logits, torch.arange(n, device=subject.device), reduction="none")
    return known_mean(each, mine & (subject >= 0))


def _related(one: torch.Tensor, two: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation of features [B,D] with others [B,D] over the clips that are ``mine``."""
    share = mine.to(one.dtype)[:, None]
    number = share.sum().clamp(min=1)
    units = []
    for part in (one, two):
        centred = (part - (part * share).sum(0) / number) * share
        units.append(centred / (centred.square().sum(0) + 1e-4).sqrt())
    return (units[0].T @ units[1]).square().mean()


def build(config: MtmnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Mtmnet(config, n_classes, shape)
