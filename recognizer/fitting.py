"""One door to all models: members in, trained members out; and how synthetic clips take part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mesynth.core.errors import ConfigError
from recognizer import modes, training
from recognizer.data import FLOW, FlowSet
from recognizer.models import CLOSED, LDA, lda, svm
from recognizer.models.common import FlowNetwork, Shape
from recognizer.tasks import Task
from recognizer.training import Progress, Tensors, Watch

if TYPE_CHECKING:
    from recognizer.config import RunConfig


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


Inputs = np.ndarray | Mapping[str, np.ndarray]
"""Flow images [N,3,S,S] float32, or views by name (:meth:`recognizer.data.FlowSet.inputs`)."""


class Trained(Protocol):
    """Trained members."""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        """N clips -> class probabilities [N,C] float64."""

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

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        return _softmax(lda.LdaModel(weight=self.weight[member], bias=self.bias[member]).scores(_flow(clips)))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}

    @property
    def n_parameters(self) -> int:
        return int(self.weight[0].size + self.bias[0].size)


@dataclass(frozen=True)
class SvmMembers:
    """Machines over one pool of clips: ``coefficients`` [M,C,N], ``bias`` [M,C], ``rate`` [M], ``affine`` [M,2,3] of
    the clips that are ``added`` [N], all float64; ``pool`` [N,3,S,S] float32."""

    coefficients: np.ndarray
    bias: np.ndarray
    rate: np.ndarray
    affine: np.ndarray
    added: np.ndarray
    pool: np.ndarray

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        used = np.flatnonzero(self.coefficients[member].any(0))
        a, b = (self.affine[member, k][None, :, None, None] for k in (0, 1))
        support = self.pool[used].astype(np.float64)
        support = np.where(self.added[used][:, None, None, None], a * support + b, support).reshape(len(used), -1)
        x = _flow(clips).reshape(len(_flow(clips)), -1).astype(np.float64)
        distances = svm.squared_distances(x @ support.T, (x**2).sum(1), (support**2).sum(1))
        kernel = np.exp(-self.rate[member] * distances)
        return _softmax(svm.GAIN * (kernel @ self.coefficients[member][:, used].T + self.bias[member]))

    def tensors(self) -> dict[str, torch.Tensor]:
        used = np.flatnonzero(self.coefficients.any((0, 1)))  # what no member leans on is not worth keeping
        arrays = {
            "coefficients": self.coefficients[..., used], "added": self.added[used].astype(np.uint8),
            "pool": self.pool[used], "bias": self.bias, "rate": self.rate, "affine": self.affine,
        }  # fmt: skip
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> SvmMembers:
        """From :meth:`tensors`."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        return cls(**(arrays | {"added": arrays["added"].astype(np.bool_)}))

    @property
    def n_parameters(self) -> int:
        """Of the first member: its support vectors' coefficients, and one bias a class."""
        return int(np.count_nonzero(self.coefficients[0]) + self.bias[0].size)


@dataclass(frozen=True)
class NetworkMembers:
    """Networks: one skeleton and the members' parameters."""

    model: FlowNetwork
    stacked: Tensors

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        given = {FLOW: clips} if isinstance(clips, np.ndarray) else clips
        return training.scores(self.model, self.stacked, member, given)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.stacked

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def _flow(clips: Inputs) -> np.ndarray:
    return clips if isinstance(clips, np.ndarray) else clips[FLOW]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was learned before: parameters to begin with, and a teacher."""

    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    teacher: Callable[[Inputs], np.ndarray] | None = None
    """Views of N clips -> probabilities [N,C]."""


def shape_of(config: RunConfig) -> Shape:
    """The sizes a run's networks are built for."""
    data = config.data
    return Shape(size=data.size, frame_size=data.frame_size, frames=data.frames)


def skeleton(config: RunConfig, model: str | None = None) -> FlowNetwork:
    """A run's network with weights that mean nothing, to be given others."""
    name = model or config.model
    return training.build(name, getattr(config, name), len(config.data.classes), shape_of(config))


def needs_of(config: RunConfig) -> tuple[str, ...]:
    """The views (:mod:`recognizer.data`) that a run's models see, the flow always among them."""
    needed = {FLOW}
    for model in config.used_models:
        with torch.device("meta"):  # nothing is allocated to be asked what it sees
            needed |= set() if model in CLOSED else set(skeleton(config, model).needs)
    return tuple(sorted(needed))


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
    pool: FlowSet,
    added: np.ndarray,
    members: Sequence[Member],
    config: RunConfig,
    progress: Progress | None = None,
    *,
    given: Given = Given(),
    watch: Watch | None = None,
    watched: int = 0,
) -> Trained:
    """Train ``config.model`` for every member. ``added`` [N] marks the pool's synthetic clips.

    Whoever passes ``given`` has made sure that it saw nobody whom a member holds out.
    """
    if config.mix.mode == modes.SYNTHETIC_ONLY:
        members = modes.without_real(members, added)
    weights = np.stack([member.weights for member in members])
    affine, scale = alignment(pool.x, added, weights)
    if not config.mix.align:
        identity = np.broadcast_to(np.array([1.0, 0.0])[:, None], affine.shape)
        affine, scale = identity.copy(), alignment(pool.x, np.zeros_like(added), weights)[1]
    if config.mix.mode != modes.FUSE or not added.any():
        return _fit(pool, added, members, config, affine, scale, progress, given, watch, watched)
    if watch is not None:
        raise ConfigError("the oracle watches one model a fold, and mix.mode=fuse has two; choose another mix.mode")
    # Both sides see the clips as the member does: the added ones aligned to its real ones.
    affine, scale = np.repeat(affine, 2, 0), np.repeat(scale, 2, 0)
    pairs = modes.sides(members, added)
    fitted = _fit(pool, added, pairs, config, affine, scale, progress, given, None, 0)
    return modes.FusedMembers(fitted, config.mix.fuse_weight)


def _fit(
    pool: FlowSet,
    added: np.ndarray,
    members: Sequence[Member],
    config: RunConfig,
    affine: np.ndarray,
    scale: np.ndarray,
    progress: Progress | None,
    given: Given,
    watch: Watch | None,
    watched: int,
) -> Trained:
    weights = np.stack([member.weights for member in members])
    if config.model == LDA:
        return _fit_lda(pool, added, members, config, affine, progress)
    if config.model in CLOSED:
        return _fit_svm(pool, added, members, config, affine, progress)
    task = Task(
        network=config.model, config=getattr(config, config.model), n_classes=len(pool.classes),
        shape=shape_of(config), inputs=pool.inputs(), au=pool.au, start=given.start,
        teacher=None if given.teacher is None else given.teacher(pool.inputs()).astype(np.float32),
        labels=np.stack([m.labels for m in members]), affine=affine, added=added, scale=scale,
        names=[m.name for m in members], seeds=[m.seed for m in members],
        stages=modes.stages(weights, added, config.mix, config.train.steps),
    )  # fmt: skip
    stacked = training.train(task, config.train, progress, watch=watch, watched=watched)
    return NetworkMembers(skeleton(config), stacked)


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


def _fit_svm(
    pool: FlowSet,
    added: np.ndarray,
    members: Sequence[Member],
    config: RunConfig,
    affine: np.ndarray,
    progress: Progress | None,
) -> SvmMembers:
    gram, models = lda.Gram(pool.x), []
    with threadpool_limits(limits=1):
        for i, member in enumerate(members):
            own = np.zeros((len(pool), 2, 3))
            own[:, 0] = 1.0
            own[added] = affine[i]
            weights = member.weights.astype(np.float64)
            if config.mix.mode == "prior" and (weights * added).any() and (weights * ~added).any():
                weights[added] *= config.mix.prior_weight / weights[added].sum()
            models.append(svm.fit(gram, member.labels, weights, len(pool.classes), config.svm, affine=own))
            if progress:
                progress(i + 1, len(members))
    return SvmMembers(
        coefficients=np.stack([m.coefficients for m in models]), bias=np.stack([m.bias for m in models]),
        rate=np.array([m.rate for m in models]), affine=affine, added=added, pool=pool.x,
    )  # fmt: skip
