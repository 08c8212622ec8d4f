"""Folds, and one pool of clips with a weight per fold: nothing that saw a held-out subject gets in.

Every protocol ends in the same two things: the folds over the real clips, and a :class:`Mixture`, whose
``weights`` [folds, clips] say what each fold may learn from. Models see nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mesynth.errors import ConfigError, LeakError, ManifestError, MesynthError
from mesynth.seeds import stream
from recognizer.data import FlowSet

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PROTOCOLS = ("loso", "lovo", "kfold", "lodo")
LEAK_POLICIES = ("raise", "zero-weight")
ARMS = ("synthetic", "shuffled", "duplicates", "synthetic-only")


class PoolTooSmallError(MesynthError):
    """More synthetic clips were asked for than there are."""


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How the real clips are split."""

    kind: str = "loso"
    """loso: a subject per fold; lovo: a clip per fold (not subject-independent); kfold: groups of
    subjects; lodo: a database per fold."""
    groups: int = 5
    """Number of folds of kfold."""
    seed: int = 0
    """Which kfold split."""

    def __post_init__(self) -> None:
        if self.kind not in PROTOCOLS:
            raise ConfigError(f"protocol.kind='{self.kind}' is unknown; choose from {', '.join(PROTOCOLS)}")
        if self.groups < 2:
            raise ConfigError(f"protocol.groups={self.groups} must be at least 2")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One split of the real clips: positions to train and test on, and who must stay unseen."""

    name: str
    train_index: IntArray
    test_index: IntArray
    held_out: frozenset[str]
    """Subjects (``database/subject``) of the test clips."""
    subject_independent: bool = True
    """False for leave-one-video-out: real clips of the held-out subject are trained on by design."""

    def __post_init__(self) -> None:
        if set(self.train_index.tolist()) & set(self.test_index.tolist()):
            raise LeakError(f"fold {self.name} trains on its own test clips; make the folds with make_folds")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One pool for all folds, and what each clip counts in each of them.

    ``pool``: the real clips first, then the synthetic ones. ``weights`` [F,N] float64 >= 0. ``added``
    [N] bool marks the synthetic ones. ``blocked`` [F] counts the synthetic clips of weight 0 because they
    saw a held-out subject; ``n_real`` and ``n_added`` [F] count what is trained on.
    """

    pool: FlowSet
    folds: tuple[Fold, ...]
    weights: FloatArray
    added: BoolArray
    blocked: IntArray
    n_real: IntArray
    n_added: IntArray


# ---------------------------------------------------------------- folds


def make_folds(real: FlowSet, config: ProtocolConfig = ProtocolConfig()) -> tuple[Fold, ...]:
    """Split the real clips.

    Raises:
        ManifestError: the set holds synthetic clips (nothing is tested on those), or too few subjects
            or databases to split.
    """
    if real.synthetic.any():
        first = real.clip_ids[real.synthetic][0]
        raise ManifestError(
            f"{int(real.synthetic.sum())} clips to test on are synthetic, for example '{first}'; "
            "pass real clips as the manifest and synthetic ones with --synthetic"
        )
    if config.kind == "lovo":
        keys = [str(c) for c in real.clip_ids]
    elif config.kind == "lodo":
        keys = [str(d) for d in real.databases]
    elif config.kind == "kfold":
        keys = _grouped(real.subjects, config)
    else:
        keys = [str(s) for s in real.subjects]
    names = sorted(set(keys))
    if len(names) < 2:
        what = {"lovo": "clip", "lodo": "database"}.get(config.kind, "subject")
        raise ManifestError(
            f"{config.kind} needs at least two {what}s with a class; the manifest has one: {real.subjects[0]}"
        )
    array, out = np.array(keys), []
    for name in names:
        test = array == name
        held_out = frozenset(str(s) for s in real.subjects[test])
        independent = config.kind != "lovo"
        train = ~test
        if independent and (np.isin(real.subjects[train], list(held_out))).any():
            raise AssertionError("a subject is on both sides of a fold")
        out.append(
            Fold(
                name=name,
                train_index=np.flatnonzero(train),
                test_index=np.flatnonzero(test),
                held_out=held_out,
                subject_independent=independent,
            )
        )
    return tuple(out)


def _grouped(subjects: npt.NDArray[np.str_], config: ProtocolConfig) -> list[str]:
    """Group names per clip: subjects, largest first in seeded order, go to the smallest group so far."""
    names, counts = np.unique(subjects, return_counts=True)
    if len(names) < config.groups:
        raise ManifestError(f"protocol.groups={config.groups} exceeds the {len(names)} subjects; choose fewer groups")
    order = stream(config.seed, "kfold").permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    load, group_of = np.zeros(config.groups), {}
    for i in order:
        group = int(load.argmin())
        group_of[str(names[i])] = f"group{group:02d}"
        load[group] += counts[i]
    return [group_of[str(s)] for s in subjects]


# ---------------------------------------------------------------- leaks


def leaks(pool: FlowSet, held_out: frozenset[str]) -> BoolArray:
    """[N] bool: the clip shows, or learned from, a held-out subject."""
    own = np.isin(pool.subjects, list(held_out))
    seen = np.array([not held_out.isdisjoint(s) for s in pool.subjects_seen], np.bool_)
    return np.asarray(own | seen.reshape(own.shape))


def check_leaks(pool: FlowSet, fold: Fold) -> None:
    """Raise :class:`LeakError` for the first clip that must not enter the fold."""
    found = np.flatnonzero(leaks(pool, fold.held_out))
    if len(found):
        i = int(found[0])
        met = sorted(fold.held_out & {*pool.subjects_seen[i], str(pool.subjects[i])})
        maker = f"{pool.kinds[i]}, made by {pool.generators[i]}" if pool.generators[i] else str(pool.kinds[i])
        raise LeakError(
            f"clip '{pool.clip_ids[i]}' ({maker}) saw subject {met[0]}, whom fold {fold.name} holds out "
            f"({len(found)} such clips); make it without that subject, or choose mix.leak=zero-weight"
        )


# ---------------------------------------------------------------- mixing


def mix(
    real: FlowSet,
    synthetic: FlowSet | None,
    folds: Sequence[Fold],
    *,
    ratio: float,
    seed: int = 0,
    policy: str = "raise",
    arm: str = "synthetic",
    train_subjects: int = 0,
) -> Mixture:
    """The clips every fold learns from: its real ones, and ratio x as many synthetic ones.

    Which synthetic clips is a function of (seed, fold) alone; a larger ratio contains a smaller one's
    clips, and the classes keep the shares they have among the fold's real training clips.

    Args:
        policy: ``raise`` on a clip that saw a held-out subject, or ``zero-weight``: it counts nothing
            in that fold (one pool then serves all folds).
        arm: ``synthetic``; controls: ``shuffled`` permutes the synthetic clips' labels, ``duplicates``
            counts the fold's own real clips again, as many as the ratio asks, ``synthetic-only`` gives
            the real training clips weight 0.
        train_subjects: learn from only so many of the fold's real subjects, a nested seeded draw; 0 = all.

    Raises:
        LeakError: see ``policy``; a real training clip is held to the same rule.
        PoolTooSmallError: fewer clips of a class than the ratio asks for.
        ManifestError: a clip is in both sets.
    """
    _check_request(synthetic, ratio, policy, arm, train_subjects)
    uses_pool = ratio > 0 and arm != "duplicates"
    pool = real
    if synthetic is not None:  # also at ratio 0: runs that differ in the ratio alone then share one pool
        pool = FlowSet.concat([real, _shuffled(synthetic, seed) if arm == "shuffled" else synthetic])
    n, n_real = len(pool), len(real)
    added = np.arange(n) >= n_real
    weights = np.zeros((len(folds), n))
    counts = np.zeros((3, len(folds)), np.int64)
    for f, fold in enumerate(folds):
        forbidden = _forbidden(pool, n_real, fold, policy, everything=uses_pool)
        train = fold.train_index[~forbidden[fold.train_index]]
        train = _some_subjects(real, train, train_subjects, seed, fold)
        weights[f, train] = 1.0
        wanted = _class_sequence(real.y[train], len(pool.classes), round(ratio * len(train)))
        if uses_pool:
            chosen = _draw(pool, np.flatnonzero(added & ~forbidden), added, wanted, seed, fold)
            weights[f, chosen] = 1.0
        elif ratio > 0:
            np.add.at(weights[f], _repeat(real.y, train, wanted, seed, fold), 1.0)
        if arm == "synthetic-only" and ratio > 0:
            weights[f, :n_real] = 0.0
        assert not weights[f, fold.test_index].any()
        counts[:, f] = forbidden[n_real:].sum(), (weights[f, :n_real] > 0).sum(), wanted.sum() if ratio > 0 else 0
    return Mixture(
        pool=pool, folds=tuple(folds), weights=weights, added=added, blocked=counts[0], n_real=counts[1],
        n_added=counts[2],
    )  # fmt: skip


def _check_request(synthetic: FlowSet | None, ratio: float, policy: str, arm: str, train_subjects: int) -> None:
    if policy not in LEAK_POLICIES:
        raise ConfigError(f"mix.leak='{policy}' is unknown; choose from {', '.join(LEAK_POLICIES)}")
    if arm not in ARMS:
        raise ConfigError(f"arm '{arm}' is unknown; choose from {', '.join(ARMS)}")
    if not 0 <= ratio < float("inf"):
        raise ConfigError(f"mix.ratio={ratio:g} must be 0 or a positive number")
    if train_subjects < 0:
        raise ConfigError(f"train_subjects={train_subjects} must be 0 (all) or a positive number")
    if ratio > 0 and arm != "duplicates" and synthetic is None:
        raise ConfigError(f"a ratio of {ratio:g} needs synthetic clips; pass --synthetic, or choose a ratio of 0")


def _forbidden(pool: FlowSet, n_real: int, fold: Fold, policy: str, *, everything: bool) -> BoolArray:
    """[N] bool: clips that must not be learned from in this fold (its own test clips included)."""
    out = leaks(pool, fold.held_out)
    if not fold.subject_independent:  # the real clips of the subject are trained on by design
        out[:n_real] = False
    suspicious = out.copy()
    suspicious[fold.test_index] = False
    if not everything:  # synthetic clips that are not used cannot leak
        suspicious[n_real:] = False
    if policy == "raise" and suspicious.any():
        check_leaks(pool.take(suspicious), fold)
    out[fold.test_index] = True
    return out


def _some_subjects(real: FlowSet, train: IntArray, count: int, seed: int, fold: Fold) -> IntArray:
    if count == 0:
        return train
    names = np.unique(real.subjects[train])
    if count > len(names):
        raise ConfigError(f"train_subjects={count} exceeds the {len(names)} subjects fold {fold.name} trains on")
    kept = names[stream(seed, f"subjects/{fold.name}").permutation(len(names))[:count]]
    return train[np.isin(real.subjects[train], kept)]


def _class_sequence(y: IntArray, n_classes: int, total: int) -> IntArray:
    """[C] how many of ``total`` clips each class gets: the first ``total`` of one endless sequence.

    The j-th clip of a class with share s stands at time (j + .5) / s, so any prefix keeps the shares
    and a longer prefix contains a shorter one (which rounding each class by itself would not give).
    """
    shares = np.bincount(y, minlength=n_classes) / max(len(y), 1)
    times = [(np.arange(np.ceil(total * s) + 1) + 0.5) / s if s > 0 else np.zeros(0) for s in shares]
    owner = np.repeat(np.arange(n_classes), [len(t) for t in times])
    order = np.argsort(np.concatenate(times), kind="stable")[:total]
    return np.asarray(np.bincount(owner[order], minlength=n_classes))


def _draw(pool: FlowSet, allowed: IntArray, added: BoolArray, wanted: IntArray, seed: int, fold: Fold) -> IntArray:
    out: list[IntArray] = []
    for c, count in enumerate(wanted):
        members = np.flatnonzero(added & (pool.y == c))
        # The permutation covers all clips of the class, allowed or not: it depends on (seed, fold) alone.
        order = members[stream(seed, f"mix/{fold.name}", c).permutation(len(members))]
        order = order[np.isin(order, allowed)]
        if count > len(order):
            raise PoolTooSmallError(
                f"fold {fold.name} needs {count} synthetic clips of class {pool.classes[c]} and may use {len(order)}; "
                "generate more, or lower the ratio"
            )
        out.append(order[:count])
    return np.concatenate(out)


def _repeat(y: IntArray, train: IntArray, wanted: IntArray, seed: int, fold: Fold) -> IntArray:
    """Positions of the fold's own clips to count again, ``wanted`` per class, round after round."""
    out: list[IntArray] = []
    for c, count in enumerate(wanted):
        members = train[y[train] == c]
        order = members[stream(seed, f"duplicates/{fold.name}", c).permutation(len(members))]
        out.append(np.resize(order, count) if count else order[:0])
    return np.concatenate(out)


def _shuffled(synthetic: FlowSet, seed: int) -> FlowSet:
    """The same clips under each other's labels (class and AUs together)."""
    order = stream(seed, "shuffled labels").permutation(len(synthetic))
    return replace(synthetic, y=synthetic.y[order], au=synthetic.au[order])
