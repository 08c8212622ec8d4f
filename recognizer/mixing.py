"""How synthetic clips take part in training: the mixing modes, and what each member learns from when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError, ManifestError
from recognizer.data import FlowSet, require_one_unit
from recognizer.protocol import BALANCES, LEAK_POLICIES, RAISE, Fold, Mixture, check_leaks, leaks, mix
from recognizer.training import Stage
from recognizer.transfer import NONE, TransferConfig

POOL, PRIOR, PRETRAIN, FUSE, SYNTHETIC_ONLY = "pool", "prior", "pretrain", "fuse", "synthetic-only"
MODES = (POOL, PRIOR, PRETRAIN, FUSE, SYNTHETIC_ONLY)
MOST = 1000
"""Synthetic clips of a class that are mixed in where nothing is said; more of them change nothing that was measured."""
PRIOR_WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""What lda chooses ``mix.prior_weight`` from."""
PRIOR_WEIGHT = 10.0
"""``mix.prior_weight`` of models that do not choose it."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How synthetic clips take part in training. Without synthetic clips none of it has an effect."""

    count: int | None = None
    """Synthetic clips of each class, whatever the number of real ones. null: all there are, at most 1,000."""
    ratio: float | None = None
    """Instead of a count: synthetic clips per real training clip of a fold."""
    mode: str = PRIOR
    """pool: as if they were real. prior: their class statistics count as ``prior_weight`` clips of each class in the
    discriminant; a network is pretrained on them and pulled back to that while it learns the real ones.
    pretrain: networks only, without the pull. fuse: one model learns the real clips and one the synthetic ones, their
    probabilities are averaged. synthetic-only: no real clip is learned from."""
    balance: str = "same"
    """With a ratio, classes of the synthetic clips. same: in the shares of the fold's real training clips. class: equal
    shares."""
    prior_weight: float | None = None
    """Real clips that the synthetic ones of a class are worth together (0: nothing). null: lda chooses it in every fold
    by that fold's training subjects alone (:data:`PRIOR_WEIGHTS`); svm and scikit-learn classifiers take 10, and
    networks have none (``pull``)."""
    pretrain_steps: int = 150
    """Steps before the real clips. Arms without synthetic clips take them on real ones: equal budgets."""
    finetune_lr: float = 0.5
    """Learning rate after pretraining, as a share of train.lr."""
    pull: float = 2.0
    """Strength of the pull towards the pretrained weights (prior)."""
    fuse_weight: float = 0.5
    """Share of the model that learned the synthetic clips in the averaged probabilities (fuse)."""
    align: bool = True
    """Give the synthetic clips the mean and spread, per channel, of the fold's real training clips. There are none in
    synthetic-only, and nothing is aligned."""
    leak: str = "raise"
    """raise, or zero-weight: a clip that saw a held-out subject counts nothing in that fold."""

    def __post_init__(self) -> None:
        for key, known in (("mode", MODES), ("balance", BALANCES), ("leak", LEAK_POLICIES)):
            if getattr(self, key) not in known:
                raise ConfigError(f"mix.{key}='{getattr(self, key)}' is unknown; choose from {', '.join(known)}")
        if self.ratio is not None and not 0 <= self.ratio < float("inf"):
            raise ConfigError(f"mix.ratio={self.ratio:g} must be 0 or a positive number")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"mix.count={self.count} must be at least 1; 1000 is usual")
        if self.count is not None and self.ratio is not None:
            raise ConfigError(f"mix.count={self.count} and mix.ratio={self.ratio:g} both say how many; leave one out")
        if self.prior_weight is not None and not 0 <= self.prior_weight < float("inf"):
            raise ConfigError(f"mix.prior_weight={self.prior_weight:g} must be 0 or a positive number; 10 is usual")
        if not 0 < self.fuse_weight < 1:
            raise ConfigError(f"mix.fuse_weight={self.fuse_weight:g} is outside (0, 1); .5 weighs both models alike")
        if self.pretrain_steps < 1 or not 0 < self.finetune_lr <= 1 or self.pull < 0:
            raise ConfigError(
                f"mix.pretrain_steps={self.pretrain_steps} must be >= 1, finetune_lr={self.finetune_lr:g} in (0, 1], "
                f"pull={self.pull:g} >= 0"
            )

    @property
    def amount(self) -> dict[str, Any]:
        """How many are added, as :func:`recognizer.protocol.mix` is told."""
        if self.ratio is not None:
            return {"ratio": self.ratio}
        return {"count": self.count or MOST, "at_most": self.count is None}

    @property
    def only_added(self) -> bool:
        """Whether real training clips are left out, as :func:`recognizer.protocol.mix` is told."""
        return self.mode == SYNTHETIC_ONLY


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training run: ``weights`` [N] and ``labels`` [N] over the pool (-1 where the weight is 0)."""

    name: str
    """The fold; random streams hang on it and on the seed."""
    seed: int
    weights: np.ndarray
    labels: np.ndarray
    free: np.ndarray | None = None
    """[N] what clips count that are learned from without labels; None: there are none."""

    @staticmethod
    def of(name: str, seed: int, weights: np.ndarray, y: np.ndarray, free: np.ndarray | None = None) -> Member:
        """Hide every label the member may not learn from."""
        return Member(name=name, seed=seed, weights=weights, labels=np.where(weights > 0, y, -1), free=free)


def members_of(mixtures: Sequence[Mixture], seeds: Sequence[int]) -> list[Member]:
    """Seeds x folds, in that order."""
    return [
        Member.of(fold.name, seed, mixture.weights[f], mixture.pool.y, mixture.free_of(f))
        for mixture, seed in zip(mixtures, seeds, strict=True)
        for f, fold in enumerate(mixture.folds)
    ]


def mixed(real: FlowSet, made: FlowSet | None, folds: Sequence[Fold], config: MixConfig, seed: int) -> Mixture:
    """The clips every fold learns from, as ``config`` says. Raises what :func:`recognizer.protocol.mix` does."""
    return mix(
        real, made, folds, **({} if made is None else config.amount), seed=seed, policy=config.leak,
        balance=config.balance, only_added=config.only_added,
    )  # fmt: skip


def apart(real: FlowSet, made: FlowSet | None, transfer: TransferConfig) -> tuple[FlowSet, FlowSet | None]:
    """The real clips and those that are mixed in, among these the real macro-expressions where transfer.macro asks it.

    Raises:
        ManifestError: there are none, or nothing else.
    """
    if not transfer.macro:
        return real, made
    macro = real.macro == 1
    if not macro.any() or macro.all():
        what = "all of the" if macro.all() else "none of the"
        way = "give micro-expressions with --real, too" if macro.all() else "`mesynth prepare --part all` reads both"
        raise ManifestError(
            f"transfer.macro=true: {what} {len(real)} real clips are macro-expressions; {way} (macro-expressions of "
            "another database go with --synthetic)"
        )
    more = real.take(macro)
    return real.take(~macro), more if made is None else FlowSet.concat([made, more])


def with_unlabelled(mixture: Mixture, clips: FlowSet | None, config: MixConfig, transfer: TransferConfig) -> Mixture:
    """``mixture`` with the clips that its folds learn from without labels: ``clips``, and a fold's own test clips if
    it is transductive.

    Raises:
        LeakError: one of ``clips`` saw a held-out subject, and mix.leak is raise.
    """
    if clips is None and not transfer.transductive:
        return mixture
    pool, n = mixture.pool, len(mixture.pool)
    if clips is not None:
        require_one_unit(pool, clips)
        # What is not known cannot leak: no label, no AU and no gender of theirs is anywhere in the pool.
        hidden = replace(clips, y=np.full(len(clips), -1), au=np.full_like(clips.au, -1))
        pool = FlowSet.concat([pool, hidden])
    more = len(pool) - n
    free, blocked = np.zeros((len(mixture.folds), len(pool))), mixture.blocked.copy()
    new = np.arange(len(pool)) >= n
    for f, fold in enumerate(mixture.folds):
        met = leaks(pool, fold.held_out) & new
        if config.leak == RAISE:
            check_leaks(pool.take(met), fold)
        free[f] = new & ~met
        blocked[f] += int(met.sum())
        if transfer.transductive:
            free[f, fold.test_index] = 1.0
    return replace(
        mixture, pool=pool, weights=np.pad(mixture.weights, ((0, 0), (0, more))), free=free, blocked=blocked,
        added=np.pad(mixture.added, (0, more)),
    )  # fmt: skip


def stages(
    weights: np.ndarray,
    added: np.ndarray,
    config: MixConfig,
    steps: int,
    *,
    transfer: TransferConfig = TransferConfig(),
    free: np.ndarray | None = None,
    taught: bool = False,
) -> list[Stage]:
    """What networks of M members (``weights`` [M,N]) draw from, and when; ``steps`` on the fold's own clips.

    ``free`` [M,N]: what counts without labels. ``taught``: the pretrained network is the teacher of what follows.
    """
    before = []
    if transfer.pretext != NONE:
        every = weights if free is None else np.maximum(weights, free)
        before = [Stage(name="pretext", weights=every, steps=transfer.pretext_steps, pretext=transfer.pretext)]
    if config.mode not in (PRIOR, PRETRAIN) or not added.any():
        return [*before, Stage(name="train", weights=weights, steps=steps)]
    # A member with only one kind of clip spends both stages on it, so that all arms get equal budgets.
    first, second = one_kind(weights, added), one_kind(weights, ~added)
    pull = config.pull if config.mode == PRIOR else 0.0
    return [
        *before,
        Stage(name="pretrain", weights=first, steps=config.pretrain_steps),
        Stage(name="finetune", weights=second, steps=steps, lr_factor=config.finetune_lr, pull=pull, taught=taught),
    ]


def one_kind(weights: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """``weights`` [M,N] of clips of one ``kind`` [N]; members without any keep all they have."""
    only = weights * kind
    return np.where(only.any(1, keepdims=True), only, weights)


def sides(members: Sequence[Member], added: np.ndarray) -> list[Member]:
    """Two members for each: one of its real clips, one of its added ones, in turn.

    A member with one kind of clip gets two that learn it with different random numbers: a fusion is an ensemble of
    two, and an arm without synthetic clips must not be denied that.
    """
    out = []
    for member in members:
        for kind, suffix in ((~added, ""), (added, "/added")):
            weights = one_kind(member.weights[None], kind)[0]
            labels = np.where(weights > 0, member.labels, -1)
            out.append(replace(member, name=member.name + suffix, weights=weights, labels=labels))
    return out


def without_real(members: Sequence[Member], added: np.ndarray) -> list[Member]:
    """Members that have added clips forget their real ones (as a mixture with ``only_added`` has done before)."""
    out = []
    for member in members:
        weights = one_kind(member.weights[None], added)[0]
        out.append(replace(member, weights=weights, labels=np.where(weights > 0, member.labels, -1)))
    return out
