"""DIKD, published name with our own sizes: a shallow network whose features follow those of a deep one that knows AUs
(Sun, Cao, Li, He and Yu, IEEE Trans. Affective Computing 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.types import N_AUS
from recognizer.models.blocks import Mean, ResNet18
from recognizer.models.common import (
    APEX_INPUTS,
    Dropout,
    FlowNetwork,
    Outputs,
    Shape,
    apex_maps,
    au_loss,
    check,
    he,
    known_mean,
    norm,
)


@dataclass(frozen=True, kw_only=True)
class DikdConfig:
    """All sizes are ours."""

    input: str = "change"
    """change (apex minus onset; theirs is a sequence's dynamics), apex or both."""
    teacher: tuple[int, ...] = (32, 64, 128, 256)
    """Of the deep residual network that learns AUs."""
    student: tuple[int, ...] = (16, 32, 64)
    """Of the shallow network that learns classes."""
    au_weight: float = 1.0
    """Weight of the teacher's AU loss."""
    hint: float = 1.0
    """Weight of the student's distance to the teacher's features; 0 switches it off."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("teacher", "student"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {"teacher": 1, "student": 1, "au_weight": 0, "hint": 0}
        check("dikd", self, least=sizes, shares=("dropout",), choices={"input": tuple(APEX_INPUTS)})


class Dikd(FlowNetwork):
    """Apex -> deep network -> AUs (teacher); apex -> shallow network -> features -> classes (student). The student's
    features, through one linear map, follow the teacher's.

    Published (abstract, a survey): a deep teacher for action units, a shallow student for micro-expressions, features
    of the teacher guide the student as in FitNets. Free: all sizes, both networks' layers, all of the training.
    Deviations: the teacher learns AUs of the same fold's training clips together with the student, for no teacher
    trained elsewhere comes with this package; where a batch knows no AU, both the teacher and the hint are silent and a
    plain shallow network is left; a linear classifier stands for their SVM on the student's features.
    """

    needs = ("apex",)
    stack = 1

    def __init__(self, config: DikdConfig, n_classes: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        channels = APEX_INPUTS[config.input]
        self.teacher = ResNet18(channels, config.teacher)
        self.present = nn.Linear(config.teacher[-1], N_AUS * 2)
        layers: list[nn.Module] = []
        for a, b in pairwise((channels, *config.student)):
            layers += [nn.Conv2d(a, b, 5 if not layers else 3, 2, 2 if not layers else 1), norm(b), nn.ReLU()]
        self.student = nn.Sequential(*layers, Mean()).apply(he)
        self.follow = nn.Linear(config.student[-1], config.teacher[-1])
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(config.student[-1], n_classes)

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,2,F,F] onset and apex -> scores, AU logits of the teacher; more: the ``teacher``'s features and the
        student's ``guess`` at them, both [B,D]."""
        apex = apex_maps(views[0], self.config.input)
        features, known = self.student(apex), self.teacher(apex)
        more = {"teacher": known, "guess": self.follow(features)}
        return Outputs(self.classify(self.drop(features)), self.present(known), features, more)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy; where AUs are known, the teacher's loss and the student's squared distance to its features."""
        assert outputs.au is not None
        assert outputs.more is not None
        each = (outputs.more["guess"] - outputs.more["teacher"].detach()).square().mean(1)
        hint = known_mean(each, (au >= 0).any(1))
        total = F.cross_entropy(outputs.scores, y) + self.config.au_weight * au_loss(outputs.au, au)
        return total + self.config.hint * hint


def build(config: DikdConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Dikd(config, n_classes, shape)
