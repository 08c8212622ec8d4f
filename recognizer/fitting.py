"""One door to all models: members in, trained members out, whatever kind the model is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mesynth.core.errors import ConfigError, LeakError, WeightsUnavailable
from mesynth.core.process import counted
from mesynth.core.seeds import derived
from recognizer import mixing, training
from recognizer.aus import AUS, BOTH, FIXED, INNER, chosen_threshold, shifted
from recognizer.config import (
    RunConfig,
    feature_of,
    is_closed,
    only_networks_learn_both,
    only_networks_pretrain,
    section,
    shape_of,
    skeleton,
    transform_of,
)
from recognizer.data import BYTES, FLOW, TOP, FlowSet, FlowTransform, Inputs
from recognizer.mixing import Member
from recognizer.models import FEATURES, LDA, SVM, TGSR, handcrafted, lda, svm, tgsr
from recognizer.models.common import FlowNetwork, is_estimator
from recognizer.protocol import Fold, leaks
from recognizer.training import Callback, Head, Progress, Task, Tensors
from recognizer.views import mirrored

_Read = Callable[[FlowNetwork, torch.Tensor], torch.Tensor]
Fitted = TypeVar("Fitted")


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
class _LinearMembers:
    """``weight`` [M,C,...] and ``bias`` [M,C] float64 are all that is learned."""

    weight: np.ndarray
    bias: np.ndarray

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}

    @property
    def n_parameters(self) -> int:
        return int(self.weight[0].size + self.bias[0].size)


@dataclass(frozen=True)
class LdaMembers(_LinearMembers):
    """Discriminants: ``weight`` [M,C,3,P,Q] (of flow as transformed) and ``bias`` [M,C] float64."""

    transform: FlowTransform = FlowTransform()
    prior_weight: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[M], of AUs [M,A]: what synthetic clips of a class counted (mix.prior_weight); nan where that plays no part."""
    multi: bool = False
    """A discriminant of its own for each AU, whose score is the log odds of present."""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        x = self.transform(_flow(clips))
        scores = lda.LdaModel(weight=self.weight[member], bias=self.bias[member]).scores(x)
        return svm.logistic(scores) if self.multi else _softmax(scores)


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
    """As transformed."""
    transform: FlowTransform = FlowTransform()
    multi: bool = False
    """A machine of its own for each AU."""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        used = np.flatnonzero(self.coefficients[member].any(0))
        a, b = (self.affine[member, k][None, :, None, None] for k in (0, 1))
        support = self.pool[used].astype(np.float64)
        support = np.where(self.added[used][:, None, None, None], a * support + b, support).reshape(len(used), -1)
        x = self.transform(_flow(clips))
        x = x.reshape(len(x), -1).astype(np.float64)
        distances = svm.squared_distances(x @ support.T, (x**2).sum(1), (support**2).sum(1))
        kernel = np.exp(-self.rate[member] * distances)
        scores = svm.GAIN * (kernel @ self.coefficients[member][:, used].T + self.bias[member])
        return svm.logistic(scores) if self.multi else _softmax(scores)

    def tensors(self) -> dict[str, torch.Tensor]:
        used = np.flatnonzero(self.coefficients.any((0, 1)))  # what no member leans on is not worth keeping
        arrays = {
            "coefficients": self.coefficients[..., used], "added": self.added[used].astype(np.uint8),
            "pool": self.pool[used], "bias": self.bias, "rate": self.rate, "affine": self.affine,
        }  # fmt: skip
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    @classmethod
    def of(
        cls, tensors: Mapping[str, torch.Tensor], transform: FlowTransform = FlowTransform(), *, multi: bool = False
    ) -> SvmMembers:
        """From :meth:`tensors`."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        return cls(**(arrays | {"added": arrays["added"].astype(np.bool_)}), transform=transform, multi=multi)

    @property
    def n_parameters(self) -> int:
        """Of the first member: its support vectors' coefficients, and one bias a class."""
        return int(np.count_nonzero(self.coefficients[0]) + self.bias[0].size)


@dataclass(frozen=True)
class FeatureMembers(_LinearMembers):
    """Linear machines on a hand-crafted feature: ``weight`` [M,C,D] and ``bias`` [M,C] float64."""

    config: handcrafted.Config
    transform: FlowTransform = FlowTransform()
    multi: bool = False
    """A machine of its own for each AU."""
    gap: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[M] of TGSR, where each member chose its own."""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        views = {FLOW: clips} if isinstance(clips, np.ndarray) else clips
        x = handcrafted.features(self.config, self.transform.of_views(views))
        if not len(x):
            return np.zeros((0, len(self.bias[member])))
        return handcrafted.LinearModel(weight=self.weight[member], bias=self.bias[member]).probabilities(
            x, multi=self.multi
        )


@dataclass(frozen=True)
class NetworkMembers:
    """Networks: one skeleton and the members' parameters."""

    model: FlowNetwork
    stacked: Tensors
    transform: FlowTransform = FlowTransform()
    top: float = 0.0
    """A mirrored u is this minus u: 0 for flow, 255 for bytes."""
    head: Head = Head(3)

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        return self._read(member, clips, self.head.probabilities)

    def au_probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        """N clips -> [N,A] float64 of the head's AUs."""
        return self._read(member, clips, self.head.au_probabilities)

    def _read(self, member: int, clips: Inputs, read: _Read) -> np.ndarray:
        views = {FLOW: clips} if isinstance(clips, np.ndarray) else dict(clips)
        found = self._scores(member, views, read)
        if self.model.mirrored and len(found):
            flipped = {name: mirrored(name, view, self.top) for name, view in views.items()}
            found = (found + self._scores(member, flipped, read)) / 2
        return found

    def _scores(self, member: int, views: dict[str, np.ndarray], read: _Read) -> np.ndarray:
        return training.scores(self.model, self.stacked, member, self.transform.of_views(views), read)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.stacked

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


@dataclass(frozen=True)
class EstimatorMembers:
    """Fitted scikit-learn classifiers, and the rms per channel [M,3] that the flow is divided by. They live as long as
    the process: without pickle there is no file for them."""

    estimators: Sequence[Sequence[Any]]
    """Of each member one, or one for each AU."""
    scale: np.ndarray
    n_classes: int
    transform: FlowTransform = FlowTransform()
    multi: bool = False

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        x = _flat(self.transform(_flow(clips)), self.scale[member])
        if self.multi:
            return np.stack([self._answers(one, x, 2)[:, 1] for one in self.estimators[member]], 1)
        return self._answers(self.estimators[member][0], x, self.n_classes)

    def _answers(self, estimator: Any, x: np.ndarray, n_classes: int) -> np.ndarray:
        out = np.zeros((len(x), n_classes))
        if not len(x):
            return out
        if hasattr(estimator, "predict_proba"):
            p = estimator.predict_proba(x)
        elif hasattr(estimator, "decision_function"):
            decision = np.asarray(estimator.decision_function(x), np.float64)
            p = _softmax(np.stack([np.zeros(len(x)), decision], 1) if decision.ndim == 1 else decision)
        else:
            p = estimator.predict(x)[:, None] == estimator.classes_
        if np.shape(p) != (len(x), len(estimator.classes_)):
            raise ConfigError(
                f"{type(estimator).__name__} gives {list(np.shape(p))} for {len(x)} clips of {len(estimator.classes_)} "
                "classes; expected one column a class (of an SVC: decision_function_shape='ovr')"
            )
        out[:, estimator.classes_] = p
        return out

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    @property
    def n_parameters(self) -> int:
        """Of the first member: learned arrays, which scikit-learn names with a trailing underscore; 0 without any."""
        ends = [
            getattr(one, "steps", [("", one)])[-1][1] for one in self.estimators[0]
        ]  # of a pipeline, the last one's
        learned = [v for end in ends for k, v in vars(end).items() if k.endswith("_") and isinstance(v, np.ndarray)]
        return sum(v.size for v in learned if np.issubdtype(v.dtype, np.floating))


@dataclass(frozen=True)
class AveragedMembers:
    """Members that are several each, whose probabilities are averaged: the two sides of a late fusion (of the real and
    of the added clips, :func:`recognizer.mixing.sides`), the networks of an ensemble, or ensembles of both sides."""

    each: Trained
    """Several for each member, one after the other."""
    shares: tuple[float, ...]
    """What each of them counts; they add up to 1."""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        """N clips -> class probabilities [N,C] float64."""
        first = member * len(self.shares)
        found = (share * self.each.probabilities(first + i, clips) for i, share in enumerate(self.shares))
        return np.asarray(sum(found))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Of all, a member's own after one another along dimension 0."""
        return dict(self.each.tensors())

    @property
    def n_parameters(self) -> int:
        """Of all that a member is."""
        return len(self.shares) * self.each.n_parameters


@dataclass(frozen=True)
class ThresholdedMembers:
    """Members whose probabilities of AUs are moved so that the threshold chosen for each lies at .5."""

    each: Trained
    thresholds: np.ndarray
    """[M,A] float64"""

    def probabilities(self, member: int, clips: Inputs) -> np.ndarray:
        """N clips -> [N,A] float64."""
        return shifted(self.each.probabilities(member, clips), self.thresholds[member])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those of the members, and ``threshold``."""
        return self.each.tensors() | {_THRESHOLD: torch.from_numpy(self.thresholds)}

    @property
    def n_parameters(self) -> int:
        """Thresholds count."""
        return self.each.n_parameters + self.thresholds.shape[1]


_THRESHOLD = "threshold"


def shares_of(config: RunConfig) -> tuple[float, ...]:
    """What those count that a member is; one where it is no average."""
    fused = config.mix.mode == mixing.FUSE
    sides = (1 - config.mix.fuse_weight, config.mix.fuse_weight) if fused else (1.0,)
    copies = 1 if is_closed(config, config.model) else config.train.ensemble
    return tuple(side / copies for side in sides for _ in range(copies))


def restored(config: RunConfig, tensors: Tensors, file: Path | None = None) -> Trained:
    """Members made of saved tensors, fused if they were when they were saved.

    Raises:
        WeightsUnavailable: ``file`` lacks tensors that the model has today.
    """
    members: Trained
    transform, multi = transform_of(config), config.labels.multi
    thresholds, tensors = tensors.get(_THRESHOLD), {n: t for n, t in tensors.items() if n != _THRESHOLD}
    if config.model == LDA:
        members = LdaMembers(tensors["weight"].numpy(), tensors["bias"].numpy(), transform, multi=multi)
    elif config.model == SVM:
        members = SvmMembers.of(tensors, transform, multi=multi)
    elif config.model in FEATURES:
        weight, bias = tensors["weight"].numpy(), tensors["bias"].numpy()
        members = FeatureMembers(weight, bias, feature_of(config, config.model), transform, multi)
    else:
        model = skeleton(config)
        if missing := sorted(model.state_dict().keys() - tensors.keys()):
            raise WeightsUnavailable(
                f"{file or 'these weights'}: saved by another version of {config.model}, it lacks {missing[0]} (a norm "
                "that is BatchNorm today keeps running statistics); train it again"
            )
        members = NetworkMembers(model, tensors, transform, top_of(config), head_of(config))
    shares = shares_of(config)
    members = AveragedMembers(members, shares) if len(shares) > 1 else members
    return members if thresholds is None else ThresholdedMembers(members, thresholds.numpy())


def head_of(config: RunConfig) -> Head:
    """What a network's scores are."""
    classes = 0 if config.task == AUS else len(config.data.classes)
    return Head(classes, config.n_outputs - classes)


def top_of(config: RunConfig) -> float:
    """See :attr:`NetworkMembers.top`."""
    return TOP if config.data.input == BYTES else 0.0


def _flow(clips: Inputs) -> np.ndarray:
    return clips if isinstance(clips, np.ndarray) else clips[FLOW]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What was learned before and a run builds on: initial weights, a teacher, and whom those have seen."""

    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Initial weights by parameter."""
    teacher: Callable[[Inputs], np.ndarray] | None = None
    """Views of N clips -> probabilities [N,C]."""
    seen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By setting (train.start, train.teacher): every subject it, or the makers of its clips, had seen."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the weights, for the run's identity: a folder's name says nothing of what is in it."""

    @property
    def subjects(self) -> frozenset[str]:
        """All that any of them has seen."""
        return frozenset().union(*self.seen.values())

    def check(self, folds: Sequence[Fold]) -> None:
        """Raises LeakError if a fold holds out a subject that was seen. Also where the protocol is not
        subject-independent: nobody can say which of the subject's clips it was."""
        for setting, subjects in self.seen.items():
            for fold in folds:
                met = sorted(fold.held_out & subjects)
                if met:
                    raise LeakError(
                        f"{setting}: the recognizer there saw subject {met[0]}, whom fold {fold.name} holds out; "
                        "train one without the subjects that are tested"
                    )


def chosen_weights(trained: Trained, config: RunConfig) -> tuple[float, ...]:
    """What each member chose as its ``mix.prior_weight``, of AUs for each of them (nan: one without clips of both
    kinds), or of TGSR as its ``tgsr.gap``; empty where it was given, or plays no part."""
    trained = trained.each if isinstance(trained, ThresholdedMembers) else trained
    if isinstance(trained, FeatureMembers):
        return tuple(map(float, trained.gap))
    if config.mix.prior_weight is not None or not isinstance(trained, LdaMembers):
        return ()
    return () if np.isnan(trained.prior_weight).all() else tuple(map(float, trained.prior_weight.ravel()))


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
    pretrained: Pretrained = Pretrained(),
    callback: Callback | None = None,
    calls: int = 0,
) -> Trained:
    """Train ``config.model`` for every member. ``added`` [N] marks the pool's synthetic clips.

    Whoever passes ``pretrained`` has checked that it saw nobody whom a member holds out. ``callback`` is called
    ``calls`` times a member while networks train.

    Raises:
        ConfigError: a mixing mode that the model or the callback cannot do; as :func:`recognizer.training.train`.
    """
    if config.task == AUS and config.aus.threshold == INNER:
        return _with_thresholds(pool, added, members, config, progress, pretrained)
    if config.mix.mode == mixing.SYNTHETIC_ONLY:
        members = mixing.without_real(members, added)
    if pretrained.teacher is not None:  # it transforms flow in its own way
        taught = pretrained.teacher(pool.inputs())
        pretrained = replace(pretrained, teacher=lambda _: taught)
    x = transform_of(config)(pool.x)
    weights = np.stack([member.weights for member in members])
    affine, scale = alignment(x, added, weights)
    if not config.mix.align:
        identity = np.broadcast_to(np.array([1.0, 0.0])[:, None], affine.shape)
        affine, scale = identity.copy(), alignment(x, np.zeros_like(added), weights)[1]
    if not added.any() and config.mix.mode == mixing.FUSE:
        config = replace(config, mix=replace(config.mix, mode=mixing.POOL))
    shares = shares_of(config)
    if len(shares) == 1:
        return _fit(_Fit(pool, x, added, members, config, affine, scale, progress), pretrained, callback, calls)
    if callback is not None:
        raise ConfigError(
            f"the oracle watches one network a fold, and here it is {len(shares)}; set train.ensemble=1, and choose "
            "another mix.mode than fuse"
        )
    # All that a member is see the clips as the member does: the added ones aligned to its real ones.
    affine, scale = np.repeat(affine, len(shares), 0), np.repeat(scale, len(shares), 0)
    sides = mixing.sides(members, added) if config.mix.mode == mixing.FUSE else members
    copies = len(shares) * len(members) // len(sides)
    several = [replace(side, name=f"{side.name}/{k}" if k else side.name) for side in sides for k in range(copies)]
    fitted = _fit(_Fit(pool, x, added, several, config, affine, scale, progress), pretrained, None, 0)
    return AveragedMembers(fitted, shares)


def _with_thresholds(
    pool: FlowSet,
    added: np.ndarray,
    members: Sequence[Member],
    config: RunConfig,
    progress: Progress | None,
    pretrained: Pretrained,
) -> ThresholdedMembers:
    """:func:`fit`, and thresholds by members that learn from some of each member's subjects and answer for the others.

    A member with no real clips to learn from, or of one subject, keeps .5.
    """
    plain = replace(config, aus=replace(config.aus, threshold=FIXED))
    asked: list[tuple[int, np.ndarray]] = []
    inner: list[Member] = []
    for m, member in enumerate(members):
        own = np.flatnonzero((member.weights > 0) & ~added)
        names, who, counts = np.unique(pool.subjects[own], return_inverse=True, return_counts=True)
        if len(names) < 2 or config.mix.mode == mixing.SYNTHETIC_ONLY:
            continue
        group = lda.spread(counts, config.aus.groups)[who]
        for g in np.unique(group):
            tested = own[group == g]
            # Whoever is answered for here is held out here: clips of them, and clips whose makers saw them.
            met = leaks(pool, frozenset(map(str, pool.subjects[tested])))
            weights = np.where(met, 0.0, member.weights)
            if (weights > 0).any():
                free = None if member.free is None else np.where(met, 0.0, member.free)
                inner.append(Member.of(f"{member.name}/inner{g}", member.seed, weights, pool.y, free))
                asked.append((m, tested))
    trained = fit(pool, added, members, plain, progress, pretrained=pretrained)
    thresholds = np.full((len(members), len(pool.aus)), 0.5)
    if inner:
        judges = fit(pool, added, inner, plain, progress, pretrained=pretrained)
        found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for k, (m, tested) in enumerate(asked):
            found.setdefault(m, []).append((judges.probabilities(k, pool.inputs(tested)), pool.targets[tested]))
        for m, parts in found.items():
            p, truth = (np.concatenate(each) for each in zip(*parts, strict=True))
            for a in range(truth.shape[1]):
                known = truth[:, a] >= 0
                thresholds[m, a] = chosen_threshold(p[known, a], truth[known, a])
    return ThresholdedMembers(trained, thresholds)


@dataclass(frozen=True)
class _Fit:
    """What every kind of model is given: ``affine`` [M,2,3] and ``scale`` [M,3] as of :func:`alignment`."""

    pool: FlowSet
    x: np.ndarray
    """The pool's flow as the model's transform leaves it."""
    added: np.ndarray
    members: Sequence[Member]
    config: RunConfig
    affine: np.ndarray
    scale: np.ndarray
    progress: Progress | None

    @property
    def weights(self) -> np.ndarray:
        """[M,N]"""
        return np.stack([member.weights for member in self.members])

    @property
    def free(self) -> np.ndarray | None:
        """[M,N] what clips without labels count; a member without any has its own clips in their place."""
        if all(member.free is None for member in self.members):
            return None
        each = (member.weights if m is None or not m.any() else m for member in self.members for m in [member.free])
        return np.stack(list(each))

    def each(self, fit_one: Callable[[int, Member], Fitted]) -> list[Fitted]:
        """One member after the other."""
        members = counted(enumerate(self.members), len(self.members), self.progress)
        return [fit_one(i, member) for i, member in members]

    def own_affine(self, i: int, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[n,2,3] of each clip of ``index``: as it is, or member i's map where it is added."""
        added = self.added[index]
        own = np.zeros((len(added), 2, 3))
        own[:, 0] = 1.0
        own[added] = self.affine[i]
        return own

    def questions(self, member: Member) -> list[Member]:
        """What is asked of a model that answers one question: the member itself, or for each AU one whose labels are
        absent (0) and present (1), and that learns from clips alone of which it is known."""
        if not self.pool.multi:
            return [member]
        known = (self.pool.targets >= 0) & (member.weights > 0)[:, None]
        return [
            replace(
                member, weights=np.where(sure, member.weights, 0), labels=np.where(sure, truth.astype(np.int64), -1)
            )
            for sure, truth in zip(known.T, self.pool.targets.T, strict=True)
        ]

    def clip_weights(self, member: Member) -> np.ndarray:
        """[N] what the clips count; in mode prior the added ones of a class together as much as ``prior_weight``."""
        weights, added, mix = member.weights.astype(np.float64), self.added, self.config.mix
        if mix.mode == mixing.PRIOR and (weights * added).any() and (weights * ~added).any():
            worth = mixing.PRIOR_WEIGHT if mix.prior_weight is None else mix.prior_weight
            for c in np.unique(member.labels[added & (weights > 0)]):
                own = added & (member.labels == c)
                weights[own] *= worth / weights[own].sum()
        return weights


def _fit(data: _Fit, pretrained: Pretrained, callback: Callback | None, calls: int) -> Trained:
    config = data.config
    if config.task == BOTH and is_closed(config, config.model):
        raise ConfigError(only_networks_learn_both(config.model))
    if config.model == LDA:
        return _fit_lda(data)
    if config.model == SVM:
        return _fit_svm(data)
    if config.model in FEATURES:
        return _fit_features(data)
    model = skeleton(config)
    if is_estimator(model):
        if callback is not None:
            raise ConfigError(f"an oracle picks a point of training; model {config.model} is not trained in steps")
        return _fit_estimators(data, model)
    pool, members, as_bytes = data.pool, data.members, config.data.input == BYTES
    inputs = transform_of(config).of_views(pool.inputs()) | {FLOW: data.x}
    task = Task(
        network=config.model, config=section(config, config.model), n_classes=head_of(config).classes,
        shape=shape_of(config), inputs=inputs, au=pool.au, initial=pretrained.weights,
        teacher=None if pretrained.teacher is None else pretrained.teacher(inputs).astype(np.float32),
        labels=np.stack([m.labels for m in members]), affine=data.affine, added=data.added,
        scale=np.ones_like(data.scale) if as_bytes else data.scale, mirrored=top_of(config),
        names=[m.name for m in members], seeds=[m.seed for m in members],
        stages=mixing.stages(
            data.weights, data.added, config.mix, config.train.steps, transfer=config.transfer, free=data.free,
            taught=config.train.loss.uses(training.TAUGHT),
        ),
        free=data.free,
        meta=pool.meta(model.needs_meta, training.read_genders(config.train.genders, set(pool.subjects.tolist()))),
        targets=pool.targets if pool.aus else None, au_weight=1.0 if pool.multi else config.aus.weight,
    )  # fmt: skip
    stacked = training.train(task, config.train, data.progress, callback=callback, calls=calls)
    return NetworkMembers(model, stacked, transform_of(config), top_of(config), task.head)


def _fit_lda(data: _Fit) -> LdaMembers:
    config, added = data.config, data.added
    own = section(config, LDA)
    used = np.flatnonzero(np.any([m.weights > 0 for m in data.members], axis=0))
    multi = data.pool.multi
    classes = 2 if multi else len(data.pool.classes)

    def one(i: int, member: Member) -> tuple[lda.LdaModel, float]:
        affine, labels, weights = data.own_affine(i, used), member.labels[used], member.weights[used]
        mixed = bool((weights * added[used]).any() and (weights * ~added[used]).any())
        worth = config.mix.prior_weight if config.mix.mode == mixing.PRIOR and mixed else None
        if config.mix.mode == mixing.PRIOR and mixed and worth is None:
            worth = lda.chosen_prior_weight(
                gram, labels, weights, added[used], data.pool.subjects[used], classes, own, affine=affine,
                candidates=mixing.PRIOR_WEIGHTS,
            )  # fmt: skip
        model = lda.fit(gram, labels, weights, added[used], classes, own, affine=affine, prior_weight=worth)
        return model, np.nan if worth is None else worth

    def each_au(i: int, member: Member) -> tuple[lda.LdaModel, np.ndarray]:
        """One discriminant an AU, as its log odds."""
        found = []
        for question in data.questions(member):
            if len(there := np.unique(question.labels[question.weights > 0])) == 2:
                found.append(one(i, question))
            else:  # nothing to tell it from: what was never present is absent
                flat = np.zeros((2, *data.x.shape[1:]))
                always = bool(len(there) and there[0])
                found.append((lda.LdaModel(weight=flat, bias=np.array([0.0, np.inf if always else -np.inf])), np.nan))
        models, worth = zip(*found, strict=True)
        odds = lda.LdaModel(
            weight=np.stack([m.weight[1] - m.weight[0] for m in models]),
            bias=np.array([m.bias[1] - m.bias[0] for m in models]),
        )
        return odds, np.array(worth)

    # Small products shared out over threads that wait for each other are lost time on a busy machine.
    with threadpool_limits(limits=1 if len(used) < 1500 else None):
        gram = lda.Gram(data.x[used])
        fitted: list[tuple[lda.LdaModel, Any]] = data.each(each_au if multi else one)
    models, worth = zip(*fitted, strict=True)
    return LdaMembers(
        np.stack([m.weight for m in models]), np.stack([m.bias for m in models]), transform_of(config), np.array(worth),
        multi=multi,
    )  # fmt: skip


def _fit_svm(data: _Fit) -> SvmMembers:
    gram, multi, own = lda.Gram(data.x), data.pool.multi, section(data.config, SVM)

    def one(i: int, member: Member) -> svm.SvmModel:
        asked = data.questions(member)
        labels, weights = np.stack([q.labels for q in asked]), np.stack([data.clip_weights(q) for q in asked])
        n, affine = len(data.pool.classes), data.own_affine(i)
        if multi:
            return svm.fit(gram, labels, weights, 2, own, affine=affine)
        return svm.fit(gram, labels[0], weights[0], n, own, affine=affine)

    with threadpool_limits(limits=1):
        models = data.each(one)
    return SvmMembers(
        coefficients=np.stack([m.coefficients for m in models]), bias=np.stack([m.bias for m in models]),
        rate=np.array([m.rate for m in models]), affine=data.affine, added=data.added, pool=data.x,
        transform=transform_of(data.config), multi=multi,
    )  # fmt: skip


def _fit_features(data: _Fit) -> FeatureMembers:
    config, n_classes = feature_of(data.config, data.config.model), len(data.pool.classes)
    transform = transform_of(data.config)
    x = handcrafted.features(config, transform.of_views(data.pool.inputs()))
    multi = data.pool.multi

    def one(_: int, member: Member) -> tuple[handcrafted.LinearModel, float]:
        asked = [(q.labels, data.clip_weights(q)) for q in data.questions(member)]
        if data.config.model == TGSR:
            return carried(member, asked)
        if multi:
            return handcrafted.fit_aus(x, asked, config.c), np.nan
        return handcrafted.fit(x, *asked[0], n_classes, config.c), np.nan

    def carried(member: Member, asked: list[tuple[np.ndarray, np.ndarray]]) -> tuple[handcrafted.LinearModel, float]:
        own, group = section(data.config, TGSR), handcrafted.groups(config, x.shape[1])
        gap = own.gap
        if gap is None:
            gap = tgsr.chosen_gap(
                x, asked, data.added, data.pool.databases, data.pool.subjects, 2 if multi else n_classes, own, group
            )
        own = replace(own, gap=gap)
        if multi:
            return tgsr.fit_aus(x, asked, member.free, own, group), gap
        return tgsr.fit(x, *asked[0], member.free, n_classes, own, group), gap

    with threadpool_limits(limits=1):
        models, gaps = zip(*data.each(one), strict=True)
    weight, bias = np.stack([m.weight for m in models]), np.stack([m.bias for m in models])
    chose = data.config.model == TGSR and section(data.config, TGSR).gap is None
    return FeatureMembers(weight, bias, config, transform, multi, np.array(gaps if chose else (), float))


# ---------------------------------------------------------------- scikit-learn


def _fit_estimators(data: _Fit, estimator: Any) -> EstimatorMembers:
    """A clone for each member, on the flow of its clips [n,3*S*S]; where it has a random state, a seeded one."""
    from sklearn.base import clone
    from sklearn.dummy import DummyClassifier

    config = data.config
    if config.mix.mode == mixing.PRETRAIN and data.added.any():
        raise ConfigError(only_networks_pretrain(config.model))
    name = _weight_name(estimator)

    def fit_each(i: int, member: Member) -> list[Any]:
        return [fit_one(i, question) for question in data.questions(member)]

    def fit_one(i: int, member: Member) -> Any:
        weights, times = data.clip_weights(member), np.ones(len(member.weights), np.int64)
        if data.pool.multi:
            if not weights.any():  # the AU is known of no clip: never present
                return DummyClassifier(strategy="prior").fit(np.zeros((1, 1)), [0])
            if name is not None:
                for side in (0, 1):
                    own = member.labels == side
                    weights[own] *= 1 / max(weights[own].sum(), 1e-12)
                weights *= np.count_nonzero(weights) / weights.sum()
        if name is None:
            whole = np.allclose(weights, np.rint(weights))
            if not whole:
                warnings.warn(
                    f"model {config.model} takes no sample_weight: mix.prior_weight is left out, and synthetic clips "
                    "count as much as real ones",
                    stacklevel=2,
                )
            times = np.rint(weights if whole else member.weights).astype(np.int64)  # a clip that counts twice, twice
        index = np.repeat(np.flatnonzero(weights > 0), times[weights > 0])
        a, b = (data.own_affine(i, index)[:, k, :, None, None] for k in (0, 1))
        x, y = _flat(a * data.x[index] + b, data.scale[i]), member.labels[index]
        if len(np.unique(y)) < 2:  # nothing to tell apart: what most classifiers refuse
            return DummyClassifier(strategy="prior").fit(x, y)
        seed = derived(member.seed, f"init/{member.name}") % 2**32
        fresh = clone(estimator)
        states = [k for k, v in fresh.get_params().items() if k.split("__")[-1] == "random_state" and v is None]
        fresh.set_params(**dict.fromkeys(states, seed))
        return fresh.fit(x, y, **({} if name is None else {name: weights[index]}))

    return EstimatorMembers(
        data.each(fit_each), data.scale, len(data.pool.classes), transform_of(config), multi=data.pool.multi
    )


def _weight_name(estimator: Any) -> str | None:
    """The argument of ``fit`` for clip weights: ``sample_weight``, of a pipeline that of its last step."""
    from sklearn.utils.validation import has_fit_parameter

    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    steps = getattr(estimator, "steps", None)
    if steps and has_fit_parameter(steps[-1][1], "sample_weight"):
        return f"{steps[-1][0]}__sample_weight"
    return None


def _flat(flow: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Flow [N,3,S,S] -> [N,3*S*S] float64 with unit rms per channel."""
    return np.asarray(flow / scale[:, None, None], np.float64).reshape(len(flow), -1)
