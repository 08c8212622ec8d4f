"""Losses over class scores and over features, written so that a stack of networks can use them under vmap.

Each takes one network's batch; nothing here branches on values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError
from recognizer.models.common import FlowNetwork, Outputs, margin_loss

NATIVE = "native"
KINDS = (NATIVE, "cross_entropy", "focal", "margin")
CLASS_WEIGHTS = ("none", "inverse", "effective")
BETA = 0.999


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a network is trained with; 0 switches a term off."""

    kind: str = NATIVE
    """native: the network's own. cross_entropy; focal (Lin et al., ICCV 2017); margin (Sabour et al., 2017), for scores
    in [0,1) such as capsule lengths."""
    gamma: float = 2.0
    """Of the focal loss: how much less a clip counts that is already right."""
    class_weights: str = "none"
    """Of cross_entropy and focal: inverse of a class's clips in the fold, or of their effective number
    (Cui et al., CVPR 2019, beta .999)."""
    center: float = 0.0
    """Squared distance of features to the mean of their class in the batch (Wen et al., ECCV 2016, whose centres are
    learned; batch means need no state)."""
    triplet: float = 0.0
    """Batch-hard triplets with a soft margin (Hermans et al., 2017) on unit features."""
    contrastive: float = 0.0
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020), temperature .1, on unit features."""
    domain: float = 0.0
    """Adversarial domain adaptation (Ganin and Lempitsky, ICML 2015): a linear layer tells real from synthetic by the
    features, which learn, by this much of its reversed gradient, not to let it. Needs mix.mode=pool."""
    distil: float = 0.0
    """Cross-entropy to a teacher's probabilities (train.teacher)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"train.loss.kind='{self.kind}' is unknown; choose from {', '.join(KINDS)}")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ConfigError(
                f"train.loss.class_weights='{self.class_weights}' is unknown; choose from {', '.join(CLASS_WEIGHTS)}"
            )
        for name in ("gamma", "center", "triplet", "contrastive", "domain", "distil"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"train.loss.{name}={getattr(self, name):g} must be 0 or a positive number")

    @property
    def on_features(self) -> bool:
        """Whether the network has to show its features."""
        return bool(self.center or self.triplet or self.contrastive or self.domain)


def class_weights(labels: np.ndarray, weights: np.ndarray, n_classes: int, kind: str) -> np.ndarray:
    """[M,C] float32 per member, with mean 1 over the classes it has; labels [M,N] (-1: none), weights [M,N]."""
    if kind == "none":
        return np.ones((len(labels), n_classes), np.float32)
    counts = np.stack([((labels == c) * weights).sum(1) for c in range(n_classes)], 1)
    mass = counts if kind == "inverse" else (1 - BETA**counts) / (1 - BETA)
    raw = np.where(counts > 0, 1 / np.maximum(mass, 1e-12), 0)
    return np.asarray(raw / raw.sum(1, keepdims=True) * (counts > 0).sum(1, keepdims=True), np.float32)


def classification(
    model: FlowNetwork, out: Outputs, y: torch.Tensor, au: torch.Tensor, weights: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """The class term: y [B], au [B,K*2], weights [C] -> scalar."""
    if config.kind == NATIVE:
        return model.loss(out, y, au)
    if config.kind == "margin":
        return margin_loss(out.scores, y)
    logs = (out.scores * model.probability_gain).log_softmax(-1)
    own = (logs * F.one_hot(y, logs.shape[-1])).sum(-1)
    share = weights[y]
    if config.kind == "focal":
        share = share * (1 - own.exp()).clamp(min=1e-6) ** config.gamma
        return -(share * own).mean()
    return -(share * own).sum() / share.sum()


def on_features(features: torch.Tensor, y: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Center, triplet and contrastive terms: features [B,D], y [B] -> scalar."""
    total = features.new_zeros(())
    same = y[:, None] == y[None]
    if config.center:
        share = same.to(features.dtype) / same.sum(1, keepdim=True)
        total = total + config.center * (features - share @ features).square().sum(1).mean()
    if not (config.triplet or config.contrastive):
        return total
    unit = F.normalize(features, dim=-1, eps=1e-6)
    alike = unit @ unit.T
    others = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    positives, negatives = same & others, ~same
    if config.triplet:
        distance = (2 - 2 * alike).clamp(min=1e-6).sqrt()
        far = torch.where(positives, distance, -torch.inf).amax(1)
        near = torch.where(negatives, distance, torch.inf).amin(1)
        usable = positives.any(1) & negatives.any(1)
        each = F.softplus(torch.where(usable, far, 0.0) - torch.where(usable, near, 0.0))
        total = total + config.triplet * (each * usable).sum() / usable.sum().clamp(min=1)
    if config.contrastive:
        logits = torch.where(others, alike / 0.1, -torch.inf)
        logs = torch.where(positives, logits - logits.logsumexp(1, keepdim=True), 0.0)
        usable = positives.any(1)
        each = -logs.sum(1) / positives.sum(1).clamp(min=1)
        total = total + config.contrastive * (each * usable).sum() / usable.sum().clamp(min=1)
    return total


def domain(features: torch.Tensor, added: torch.Tensor, discriminator: torch.Tensor, strength: float) -> torch.Tensor:
    """A linear discriminator, real or synthetic: features [B,D], added [B] bool, discriminator [D+1] -> scalar.

    The discriminator learns to tell, and the features not to let it, by ``strength``: the reversed gradient written as
    two terms.
    """
    target = added.to(features.dtype)

    def error(shown: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(shown @ weight[:-1] + weight[-1], target)

    return error(features.detach(), discriminator) - strength * error(features, discriminator.detach())


def distillation(out: Outputs, teacher: torch.Tensor, gain: float) -> torch.Tensor:
    """Cross-entropy to a teacher's probabilities [B,C] -> scalar."""
    return -(teacher * (out.scores * gain).log_softmax(-1)).sum(-1).mean()
