"""One door to all models: members in, trained members out; and how synthetic clips take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mesynth.errors import ConfigError
from recognizer import training
from recognizer.data import FlowSet
from recognizer.models import LDA, lda
from recognizer.models.common import FlowNetwork
from recognizer.training import Progress, Stage, Task, Tensors

if TYPE_CHECKING:
    from recognizer.config import RunConfig

MODES = ("pool", "prior", "pretrain")


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How synthetic clips take part in training. Without synthetic clips none of it has an effect."""

    ratio: float = 1.0
    """Synthetic clips per real training clip of a fold."""
    mode: str = "prior"
    """pool: as if they were real. prior: their class statistics count as ``prior_weight`` clips in the
    discriminant; a network is pretrained on them and pulled back to that while it learns the real ones.
    pretrain: networks only, without the pull."""
    prior_weight: float = 40.0
    """Pseudo-clips the synthetic set is worth to the discriminant, over all classes."""
    pretrain_steps: int = 150
    """Steps before the real clips. Arms without synthetic clips take them on real ones: equal budgets."""
    finetune_lr: float = 0.5
    """Learning rate after pretraining, as a share of train.lr."""
    pull: float = 2.0
    """Strength of the pull towards the pretrained weights (prior)."""
    align: bool = True
    """Give the synthetic clips the mean and spread, per channel, of the fold's real training clips."""
    leak: str = "raise"
    """raise, or zero-weight: a clip that saw a held-out subject counts nothing in that fold."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mix.mode='{self.mode}' is unknown; choose from {', '.join(MODES)}")
        if not 0 <= self.ratio < float("inf"):
            raise ConfigError(f"mix.ratio={self.ratio:g} must be 0 or a positive number")
        if not self.prior_weight > 0:
            raise ConfigError(f"mix.prior_weight={self.prior_weight:g} must be positive; 40 is usual")
        if self.pretrain_steps < 1 or not 0 < self.finetune_lr <= 1 or self.pull < 0:
            raise ConfigError(
                f"mix.pretrain_steps={self.pretrain_steps} must be >= 1, finetune_lr={self.finetune_lr:g} in (0, 1], "
                f"pull={self.pull:g} >= 0"
            )
        if self.leak not in ("raise", "zero-weight"):
            raise ConfigError(f"mix.leak='{self.leak}' is unknown; choose raise or zero-weight")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training run: ``weights`` [N] and ``labels`` [N] over the pool (-1 where the weight is 0)."""

    name: str
    """The fold; random streams hang on it and on the seed."""
    seed: int
    weights: np.ndarray
    labels: np.ndarray

    @staticmethod
    def of(name: str, seed: int, weights: np.ndarray, y: np.ndarray) -> Member:
        """Hide every label the member may not learn from."""
        return Member(name=name, seed=seed, weights=weights, labels=np.where(weights > 0, y, -1))


class Trained(Protocol):
    """Trained members."""

    def probabilities(self, member: int, x: np.ndarray) -> np.ndarray:
        """[N,3,S,S] float32 -> class probabilities [N,C] float64."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """All there is to save, members along dimension 0."""

    @property
    def n_parameters(self) -> int:
        """Numbers learned per member."""


@dataclass(frozen=True)
class LdaMembers:
    """Discriminants: ``weight`` [M,C,3,S,S] and ``bias`` [M,C] float64."""

    weight: np.ndarray
    bias: np.ndarray

    def probabilities(self, member: int, x: np.ndarray) -> np.ndarray:
        scores = lda.LdaModel(weight=self.weight[member], bias=self.bias[member]).scores(x)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(scores / scores.sum(1, keepdims=True))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}

    @property
    def n_parameters(self) -> int:
        return int(self.weight[0].size + self.bias[0].size)


@dataclass(frozen=True)
class NetworkMembers:
    """Networks: one skeleton and the members' parameters."""

    model: FlowNetwork
    stacked: Tensors

    def probabilities(self, member: int, x: np.ndarray) -> np.ndarray:
        return training.scores(self.model, self.stacked, member, x)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.stacked

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def alignment(x: np.ndarray, added: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per member: the map (a, b) [M,2,3] of added clips, and the rms [M,3] of all clips after it.

    a*x + b gives the added clips, per channel, the mean and standard deviation of the member's other
    clips. A member with only one of the two kinds keeps a = 1, b = 0.
    """
    mean, square = x.mean((2, 3), dtype=np.float64), (x.astype(np.float64) ** 2).mean((2, 3))
    kinds = []
    for mask in (~added, added):
        w = weights * mask
        total = w.sum(1, keepdims=True)
        m, s = w @ mean / np.maximum(total, 1e-12), w @ square / np.maximum(total, 1e-12)
        kinds.append((total, m, s))
    (real_w, real_m, real_s), (add_w, add_m, add_s) = kinds
    both = (real_w > 0) & (add_w > 0)
    spread_real, spread_added = (np.sqrt(np.maximum(s - m**2, 1e-12)) for _, m, s in kinds)
    a = np.where(both, spread_real / spread_added, 1.0)
    b = np.where(both, real_m - a * add_m, 0.0)
    added_square = a**2 * add_s + 2 * a * b * add_m + b**2
    rms = np.sqrt((real_w * real_s + add_w * added_square) / np.maximum(real_w + add_w, 1e-12))
    return np.stack([a, b], 1), np.maximum(rms, 1e-6)


def fit(
    pool: FlowSet, added: np.ndarray, members: Sequence[Member], config: RunConfig, progress: Progress | None = None
) -> Trained:
    """Train ``config.model`` for every member. ``added`` [N] marks the pool's synthetic clips."""
    weights = np.stack([member.weights for member in members])
    affine, scale = alignment(pool.x, added, weights)
    if not config.mix.align:
        identity = np.broadcast_to(np.array([1.0, 0.0])[:, None], affine.shape)
        affine, scale = identity.copy(), alignment(pool.x, np.zeros_like(added), weights)[1]
    if config.model == LDA:
        return _fit_lda(pool, added, members, config, affine, progress)
    section = getattr(config, config.model)
    task = Task(
        network=config.model, config=section, n_classes=len(pool.classes), x=pool.x, au=pool.au,
        labels=np.stack([m.labels for m in members]), affine=affine, added=added, scale=scale,
        names=[m.name for m in members], seeds=[m.seed for m in members], stages=_stages(weights, added, config),
    )  # fmt: skip
    stacked = training.train(task, config.train, progress)
    return NetworkMembers(training.build(config.model, section, len(pool.classes), pool.x.shape[-1]), stacked)


def _stages(weights: np.ndarray, added: np.ndarray, config: RunConfig) -> list[Stage]:
    mix = config.mix
    if mix.mode == "pool" or not added.any():
        return [Stage(name="train", weights=weights, steps=config.train.steps)]
    # A member with only one kind of clip spends both stages on it, so that all arms get equal budgets.
    first, second = weights * added, weights * ~added
    first = np.where(first.any(1, keepdims=True), first, weights)
    second = np.where(second.any(1, keepdims=True), second, weights)
    pull = mix.pull if mix.mode == "prior" else 0.0
    return [
        Stage(name="pretrain", weights=first, steps=mix.pretrain_steps),
        Stage(name="finetune", weights=second, steps=config.train.steps, lr_factor=mix.finetune_lr, pull=pull),
    ]


def _fit_lda(
    pool: FlowSet,
    added: np.ndarray,
    members: Sequence[Member],
    config: RunConfig,
    affine: np.ndarray,
    progress: Progress | None,
) -> LdaMembers:
    used = np.flatnonzero(np.any([m.weights > 0 for m in members], axis=0))
    models = []
    # Small products shared out over threads that wait for each other are lost time on a busy machine.
    with threadpool_limits(limits=1 if len(used) < 1500 else None):
        gram = lda.Gram(pool.x[used])
        for i, member in enumerate(members):
            own = np.zeros((len(used), 2, 3))
            own[:, 0] = 1.0
            own[added[used]] = affine[i]
            models.append(
                lda.fit(
                    gram, member.labels[used], member.weights[used], added[used], len(pool.classes), config.lda,
                    affine=own, prior_weight=config.mix.prior_weight if config.mix.mode == "prior" else None,
                )
            )  # fmt: skip
            if progress:
                progress(i + 1, len(members))
    return LdaMembers(np.stack([m.weight for m in models]), np.stack([m.bias for m in models]))
