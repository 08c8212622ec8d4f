"""How the real clips are split: who is held out, and which clips a fold may learn from and is tested on.

Every protocol ends in the same two things: the folds over the real clips, and a :class:`Mixture`, one pool of clips
whose ``weights`` [folds, clips] say what each fold may learn from: nothing that saw a held-out subject. Models see
nothing else.

Copies of a fold's own clips may be mixed in where synthetic clips would be: what copies gain is no new information. A
copy carries its source clip's subject, and that it saw that subject, so the rule that keeps synthetic clips out of a
fold keeps copies out too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mesynth.core.errors import ConfigError, LeakError, ManifestError, MesynthError
from mesynth.core.seeds import stream
from mesynth.core.types import optical_strain
from mesynth.store.manifest import met
from recognizer.data import FlowSet, mirror, require_one_unit
from recognizer.views import mirrored

__all__ = [
    "ARMS",
    "BALANCES",
    "LEAK_POLICIES",
    "OWN_CLIPS",
    "PROTOCOLS",
    "Fold",
    "Mixture",
    "PoolTooSmallError",
    "ProtocolConfig",
    "check_leaks",
    "check_maker",
    "leaks",
    "make_folds",
    "mix",
]

# ---------------------------------------------------------------- copies of a fold's own clips


COPIES = ("mirror", "magnified", "augmented")
FLOW_ONLY = ("magnified", "augmented")
"""Copies that exist for flow alone: frames cannot be made to show them."""
MAKER = "control/"
"""What a copy's ``generators`` begins with."""
_ROUNDS = {"mirror": 1, "magnified": 8, "augmented": 8}
"""Different copies of one clip at most; they are counted again where more are asked for."""
MAGNIFICATION = (1.5, 3.0)
ROTATION_DEGREES, SCALE, SHIFT, NOISE = 10.0, (0.9, 1.1), 0.05, (0.05, 0.15)
"""Of augmented copies: largest angle, range of scales, largest shift (share of the side), and the range of the noise's
standard deviation (share of the clip's rms of u and v)."""


def rounds_for(kind: str, wanted: int) -> int:
    """How many different copies of each clip are made where ``wanted`` would be counted."""
    return max(min(wanted, _ROUNDS[kind]), 1)


def copies(real: FlowSet, kind: str, *, rounds: int = 1, seed: int = 0) -> FlowSet:
    """``rounds`` copies of every clip: clip i's copy in round r is clip ``r * len(real) + i``.

    mirror: left and right swapped, frames too. magnified: u, v and strain times 1.5 to 3. augmented: the image rotated,
    scaled and shifted a little, its vectors with it, noise added, and strain computed anew. A round is a function of
    (seed, round) alone.

    Raises:
        ConfigError: magnified or augmented copies of clips that have frames.
    """
    if kind not in COPIES:
        raise ConfigError(f"copies '{kind}' are unknown; choose from {', '.join(COPIES)}")
    if kind in FLOW_ONLY and real.views:
        raise ConfigError(
            f"{kind} copies exist for flow alone, and {', '.join(sorted(real.views))} of the clips are in use too; "
            f"leave the control {kind} out, or choose models that see flow alone"
        )
    made = [_round(real, kind, r, seed) for r in range(rounds)]
    x, au = (np.concatenate([part[i] for part in made]) for i in range(2))
    index = np.tile(np.arange(len(real)), rounds)
    names = [f"{clip}#{kind}{r}" for r in range(rounds) for clip in real.clip_ids]
    seen = [tuple(sorted({str(s), *more})) for s, more in zip(real.subjects, real.subjects_seen, strict=True)]
    taken = real.take(index)
    return replace(
        taken, x=x, au=au, clip_ids=np.array(names), kinds=np.full(len(index), "synthetic"),
        generators=np.full(len(index), MAKER + kind), subjects_seen=tuple(seen * rounds),
        views={name: mirrored(name, view) for name, view in taken.views.items()},
    )  # fmt: skip


def _round(real: FlowSet, kind: str, r: int, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """x [N,3,S,S] and au [N,K*2] of one round."""
    if kind == "mirror":
        return mirror(real.x, real.au)
    rng = stream(seed, f"control/{kind}", r)
    if kind == "magnified":
        factor = rng.uniform(*MAGNIFICATION, len(real))
        return real.x * factor.astype(np.float32)[:, None, None, None], real.au
    return _augmented(real.x, rng), real.au


def _augmented(x: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    n, size = len(x), x.shape[-1]
    degrees = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, n)
    scale = rng.uniform(*SCALE, n)
    shift = rng.uniform(-SHIFT, SHIFT, (n, 2)) * size
    flow = similarity(x[:, :2].astype(np.float64), degrees, scale, shift)
    rms = np.sqrt((flow**2).mean((1, 2, 3), keepdims=True))
    level = rng.uniform(*NOISE, (n, 1, 1, 1))
    # A function of the round alone, whatever the clip: sizes of all draws are fixed by the real set.
    flow = flow + level * rms * rng.standard_normal(flow.shape)
    image = np.concatenate([flow, optical_strain(flow)[:, None]], 1)
    return image.astype(np.float32)


def similarity(
    flow: npt.NDArray[Any], degrees: npt.NDArray[Any], scale: npt.NDArray[Any], shift: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Flow [N,2,S,S] of faces that are rotated (positive: x towards y), scaled about the centre, then shifted.

    ``degrees`` and ``scale`` [N], ``shift`` [N,2] in pixels (x, y). A vector turns and grows with the face it moves.
    Edges repeat.
    """
    size = flow.shape[-1]
    angle = np.deg2rad(degrees)
    turn = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1
    )  # [N,2,2]
    # grid_sample asks where each target pixel comes from, in units in which the image spans [-1, 1].
    back = np.linalg.inv(turn)
    offset = -np.einsum("nij,nj->ni", back, shift * (2 / size))
    theta = torch.from_numpy(np.concatenate([back, offset[..., None]], 2))
    field = torch.from_numpy(np.ascontiguousarray(flow, dtype=np.float64))
    grid = torch.nn.functional.affine_grid(theta, list(field.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(field, grid, padding_mode="border", align_corners=False)
    return np.asarray(np.einsum("nij,njhw->nihw", turn, moved.numpy()))


# ---------------------------------------------------------------- folds


IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PROTOCOLS = ("loso", "lovo", "kfold", "lodo", "cde", "hde")


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How the real clips are split."""

    kind: str = "loso"
    """loso: a subject per fold; lovo: a clip per fold (not subject-independent); kfold: groups of
    subjects; lodo: a database per fold. Of the second grand challenge (See et al., 2019): cde, composite database
    evaluation, is loso over at least two databases; hde, holdout database evaluation, trains on one database and
    tests on another, for every ordered pair."""
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


def make_folds(real: FlowSet, config: ProtocolConfig = ProtocolConfig()) -> tuple[Fold, ...]:
    """Split the real clips.

    Raises:
        ManifestError: the set holds synthetic clips, or macro-expressions alone (nothing is tested on those), or too
            few subjects or databases to split.
    """
    macro = real.macro == 1
    if len(real) and macro.all():
        raise ManifestError(
            f"all {len(real)} clips to test on are macro-expressions, for example '{real.clip_ids[0]}'; these are "
            "learned from and never tested on: pass micro-expressions with --real, and these with --synthetic"
        )
    if real.synthetic.any():
        first = real.clip_ids[real.synthetic][0]
        raise ManifestError(
            f"{int(real.synthetic.sum())} clips to test on are synthetic, for example '{first}'; "
            "pass real clips as the manifest and synthetic ones with --synthetic"
        )
    if config.kind in ("cde", "lodo", "hde") and len(np.unique(real.databases)) < 2:
        raise ManifestError(
            f"{config.kind} needs at least two databases with a class; the manifest has one: {real.databases[0]}"
        )
    folds = tuple(_holdouts(real) if config.kind == "hde" else _by_key(real, config))
    for fold in folds:
        if fold.subject_independent and np.isin(real.subjects[fold.train_index], list(fold.held_out)).any():
            raise AssertionError("a subject is on both sides of a fold")
    return folds


def _by_key(real: FlowSet, config: ProtocolConfig) -> Iterator[Fold]:
    """Each key of the clips is held out in turn."""
    if config.kind == "kfold":
        keys = np.array(_grouped(real.subjects, config))
    else:
        keys = {"lovo": real.clip_ids, "lodo": real.databases}.get(config.kind, real.subjects)
    if len(np.unique(keys)) < 2:
        what = "clip" if config.kind == "lovo" else "subject"
        raise ManifestError(
            f"{config.kind} needs at least two {what}s with a class; the manifest has one: {real.subjects[0]}"
        )
    for name in np.unique(keys[real.macro != 1]):  # who has macro-expressions alone is learned from in every fold
        yield _fold(str(name), real, keys != name, keys == name, independent=config.kind != "lovo")


def _holdouts(real: FlowSet) -> Iterator[Fold]:
    """Each database is learned from, and each other one tested on."""
    names, tested = np.unique(real.databases), np.unique(real.databases[real.macro != 1])
    for source in names:
        for target in tested[tested != source]:
            yield _fold(f"{source}->{target}", real, real.databases == source, real.databases == target)


def _fold(name: str, real: FlowSet, train: BoolArray, test: BoolArray, *, independent: bool = True) -> Fold:
    test = test & (real.macro != 1)  # a macro-expression is not what is asked for
    return Fold(
        name=name, train_index=np.flatnonzero(train), test_index=np.flatnonzero(test),
        held_out=frozenset(str(s) for s in real.subjects[test]), subject_independent=independent,
    )  # fmt: skip


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


# ------------------------------------------------------------------- protocol


RAISE = "raise"
LEAK_POLICIES = (RAISE, "zero-weight")
BALANCES = ("same", "class")
ARMS = ("synthetic", "shuffled", "synthetic-only", "duplicates", *COPIES)
OWN_CLIPS = ("duplicates", *COPIES)
"""Arms that add the fold's own clips and no synthetic one."""


class PoolTooSmallError(MesynthError):
    """More synthetic clips were asked for than there are."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One pool for all folds, and what each clip counts in each of them.

    ``pool``: the real clips first, then the added ones (synthetic clips, or copies of real ones). ``weights`` [F,N]
    float64 >= 0. ``added`` [N] bool marks the added ones. ``blocked`` [F] counts the added clips of weight 0 because
    they saw a held-out subject; ``n_real`` and ``n_added`` [F] count what is trained on.
    """

    pool: FlowSet
    folds: tuple[Fold, ...]
    weights: FloatArray
    added: BoolArray
    blocked: IntArray
    n_real: IntArray
    n_added: IntArray
    free: FloatArray | None = None
    """[F,N] what clips count that are learned from without labels; None: there are none."""

    def free_of(self, f: int) -> FloatArray | None:
        """[N] of one fold."""
        return None if self.free is None else self.free[f]

    def lacking(self, f: int) -> list[str]:
        """Classes that fold ``f`` learns from no clip of; AUs that none of its clips shows."""
        if self.pool.multi:
            most = self.pool.targets[self.weights[f] > 0].max(0, initial=-1)
            return [name for name, found in zip(self.pool.outputs, most, strict=True) if found < 1]
        there = np.unique(self.pool.y[self.weights[f] > 0])
        return [name for c, name in enumerate(self.pool.classes) if c not in there]

    def subjects_seen(self, f: int, before: frozenset[str] = frozenset()) -> list[str]:
        """Every subject whose clips, or whose clips' makers, fold ``f`` learned from, and those seen ``before``."""
        out = set(before)
        learned = self.weights[f] > 0
        for i in np.flatnonzero(learned if self.free is None else learned | (self.free[f] > 0)):
            out |= {str(self.pool.subjects[i]), *self.pool.subjects_seen[i]}
        return sorted(out)


# ---------------------------------------------------------------- leaks


def leaks(pool: FlowSet, held_out: frozenset[str]) -> BoolArray:
    """[N] bool: the clip shows, or learned from, a held-out subject."""
    return met(held_out, pool.subjects, *pool.subject_sets)


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


def check_maker(name: str, subjects_seen: Sequence[str], fold: Fold) -> None:
    """Raise :class:`LeakError` for a generator whose clips must not enter the fold, before it makes any.

    >>> fold = Fold(name="s1", train_index=np.array([0]), test_index=np.array([1]), held_out=frozenset({"DB/s1"}))
    >>> check_maker("runs/a", ["DB/s2"], fold)
    >>> check_maker("runs/b", ["DB/s1", "DB/s2"], fold)
    Traceback (most recent call last):
    mesynth.core.errors.LeakError: generator runs/b saw subject DB/s1, whom fold s1 holds out; ...
    """
    if met := sorted(fold.held_out & set(subjects_seen)):
        raise LeakError(
            f"generator {name} saw subject {met[0]}, whom fold {fold.name} holds out; name its recipe (..._manifest) "
            "in its place, which a study fine-tunes without them, or a cross-fit (mesynth train --cross-fit)"
        )


# ---------------------------------------------------------------- mixing


def mix(
    real: FlowSet,
    synthetic: FlowSet | None,
    folds: Sequence[Fold],
    *,
    ratio: float = 0.0,
    count: int = 0,
    at_most: bool = False,
    seed: int = 0,
    policy: str = "raise",
    arm: str = "synthetic",
    train_subjects: int = 0,
    balance: str = "same",
    only_added: bool = False,
) -> Mixture:
    """The clips every fold learns from: its real ones, and added ones: ratio x as many, or ``count`` of every class.

    Which clips are added is a function of (seed, fold) alone; a larger ratio or count contains a smaller one's clips.

    Args:
        ratio: added clips per real training clip.
        count: added clips of each class, whatever the number of real ones; one of the two is 0.
        at_most: of classes that have fewer clips than ``count``, take all there are.
        policy: ``raise`` on a clip that saw a held-out subject, or ``zero-weight``: it counts nothing
            in that fold (one pool then serves all folds).
        arm: ``synthetic``; controls: ``shuffled`` permutes the synthetic clips' labels, ``synthetic-only`` is
            ``synthetic`` with ``only_added``. The others add the fold's own real clips, as many as the ratio asks:
            ``duplicates`` counts them again, ``mirror``, ``magnified`` and ``augmented`` add
            :func:`recognizer.protocol.copies` of them where synthetic clips would be.
        train_subjects: learn from only so many of the fold's real subjects, a nested seeded draw; 0 = all.
        balance: ``same``: the added clips' classes keep the shares of the fold's real training clips; ``class``: all
            classes in equal shares (all that the fold has clips of, where its own clips are added).
        only_added: the real training clips get weight 0 (where anything is added).

    Raises:
        LeakError: see ``policy``; a real training clip is held to the same rule.
        PoolTooSmallError: fewer clips of a class than are asked for.
        ManifestError: a clip is in both sets, or flow of one is in pixels and of another in units of its own rms.
        ConfigError: a value out of range, or copies that cannot be made of these clips.
    """
    _check_request(synthetic, ratio, count, policy, arm, train_subjects, balance)
    adds = ratio > 0 or count > 0
    require_one_unit(real, synthetic)
    own = arm in OWN_CLIPS
    trains = [_training_clips(real, fold, policy, train_subjects, seed) for fold in folds]
    if count:  # copies of clips that a fold has not do not exist
        wanted = [np.where((_present(real, train) > 0) | (not own), count, 0) for train in trains]
    else:
        shares = [_sharing(real, train, own, balance) for train in trains]
        wanted = [_class_sequence(one, round(ratio * len(train))) for one, train in zip(shares, trains, strict=True)]
    added_set = _own_copies(real, arm, trains, wanted, seed) if arm in COPIES else synthetic
    rounds = len(added_set) // len(real) if added_set is not None and arm in COPIES else 0
    pool = real
    if added_set is not None:  # also at ratio 0: runs that differ in the ratio alone then share one pool
        pool = FlowSet.concat([real, _shuffled(added_set, seed) if arm == "shuffled" else added_set])
    n, n_real = len(pool), len(real)
    added = np.arange(n) >= n_real
    weights = np.zeros((len(folds), n))
    counts = np.zeros((3, len(folds)), np.int64)
    for f, (fold, train, each) in enumerate(zip(folds, trains, wanted, strict=True)):
        weights[f, train] = 1.0
        forbidden = leaks(pool, fold.held_out)
        chosen = np.zeros(0, np.int64)
        if adds and own:
            chosen = _own_clips(real, rounds, train, each, seed, fold)
            _require_unseen(pool, fold, chosen, n_real)
            np.add.at(weights[f], chosen, 1.0)
        elif adds:
            if policy == "raise":
                check_leaks(pool.take(added & forbidden), fold)
            chosen = _draw(pool, np.flatnonzero(added & ~forbidden), added, each, seed, fold, at_most=at_most)
            weights[f, chosen] = 1.0
        if adds and (only_added or arm == "synthetic-only"):
            weights[f, :n_real] = 0.0
        assert not weights[f, fold.test_index].any()
        blocked = 0 if own else forbidden[n_real:].sum()
        counts[:, f] = blocked, (weights[f, :n_real] > 0).sum(), len(chosen)
    return Mixture(
        pool=pool, folds=tuple(folds), weights=weights, added=added, blocked=counts[0], n_real=counts[1],
        n_added=counts[2],
    )  # fmt: skip


def _check_request(
    synthetic: FlowSet | None, ratio: float, count: int, policy: str, arm: str, train_subjects: int, balance: str
) -> None:
    for key, value, known in (
        ("mix.leak", policy, LEAK_POLICIES),
        ("arm", arm, ARMS),
        ("mix.balance", balance, BALANCES),
    ):
        if value not in known:
            raise ConfigError(f"{key}='{value}' is unknown; choose from {', '.join(known)}")
    if not 0 <= ratio < float("inf"):
        raise ConfigError(f"mix.ratio={ratio:g} must be 0 or a positive number")
    if count < 0 or (count and ratio):
        raise ConfigError(f"mix.count={count} must be a positive number, and mix.ratio={ratio:g} be left out beside it")
    if train_subjects < 0:
        raise ConfigError(f"train_subjects={train_subjects} must be 0 (all) or a positive number")
    if (ratio > 0 or count) and arm not in OWN_CLIPS and synthetic is None:
        asked = f"a count of {count}" if count else f"a ratio of {ratio:g}"
        raise ConfigError(f"{asked} needs synthetic clips; pass --synthetic, or choose 0")


def _training_clips(real: FlowSet, fold: Fold, policy: str, train_subjects: int, seed: int) -> IntArray:
    """Positions of the real clips a fold learns from."""
    train = fold.train_index
    if fold.subject_independent:  # otherwise the real clips of the subject are trained on by design
        forbidden = leaks(real, fold.held_out)[train]
        if policy == "raise":
            check_leaks(real.take(train[forbidden]), fold)
        train = train[~forbidden]
    if train_subjects == 0:
        return train
    names = np.unique(real.subjects[train])
    if train_subjects > len(names):
        raise ConfigError(
            f"train_subjects={train_subjects} exceeds the {len(names)} subjects fold {fold.name} trains on"
        )
    kept = names[stream(seed, f"subjects/{fold.name}").permutation(len(names))[:train_subjects]]
    return train[np.isin(real.subjects[train], kept)]


def _present(real: FlowSet, train: IntArray) -> FloatArray:
    """[C] how many of a fold's real training clips each class has."""
    return np.bincount(real.y[train], minlength=len(real.classes)).astype(np.float64)


def _sharing(real: FlowSet, train: IntArray, own: bool, balance: str) -> FloatArray:
    """[C] the share of each class among a fold's added clips."""
    counts = _present(real, train)
    if balance == "class":
        # Synthetic clips of a class that the few real subjects never showed are news; copies of them do not exist.
        counts = (counts > 0).astype(np.float64) if own else np.ones(len(counts))
    return np.asarray(counts / max(counts.sum(), 1))


def _class_sequence(shares: FloatArray, total: int) -> IntArray:
    """[C] how many of ``total`` clips each class gets: the first ``total`` of one endless sequence.

    The j-th clip of a class with share s stands at time (j + .5) / s, so any prefix keeps the shares
    and a longer prefix contains a shorter one (which rounding each class by itself would not give).
    """
    times = [(np.arange(np.ceil(total * s) + 1) + 0.5) / s if s > 0 else np.zeros(0) for s in shares]
    owner = np.repeat(np.arange(len(shares)), [len(t) for t in times])
    order = np.argsort(np.concatenate(times), kind="stable")[:total]
    return np.asarray(np.bincount(owner[order], minlength=len(shares)))


def _draw(
    pool: FlowSet,
    allowed: IntArray,
    added: BoolArray,
    wanted: IntArray,
    seed: int,
    fold: Fold,
    *,
    at_most: bool,
) -> IntArray:
    out: list[IntArray] = []
    for c, count in enumerate(wanted):
        members = np.flatnonzero(added & (pool.y == c))
        # The permutation covers all clips of the class, allowed or not: it depends on (seed, fold) alone.
        order = members[stream(seed, f"mix/{fold.name}", c).permutation(len(members))]
        order = order[np.isin(order, allowed)]
        if at_most and count and not len(order):
            out_of_it = "make some without the subjects it holds out" if len(members) else "generate some"
            raise PoolTooSmallError(
                f"fold {fold.name} may use none of the {len(members)} synthetic clips{_of_class(pool, c)}; {out_of_it}"
            )
        if count > len(order) and not at_most:
            raise PoolTooSmallError(
                f"fold {fold.name} needs {count} synthetic clips{_of_class(pool, c)} and may use {len(order)}; "
                "generate more, or ask for fewer"
            )
        out.append(order[:count])
    return np.concatenate(out)


def _of_class(pool: FlowSet, c: int) -> str:
    return "" if pool.multi else f" of class {pool.classes[c]}"


def _shuffled(synthetic: FlowSet, seed: int) -> FlowSet:
    """The same clips under each other's labels (class and AUs together)."""
    order = stream(seed, "shuffled labels").permutation(len(synthetic))
    return replace(synthetic, y=synthetic.y[order], au=synthetic.au[order])


# ---------------------------------------------------------------- the fold's own clips


def _own_copies(real: FlowSet, arm: str, trains: Sequence[IntArray], wanted: Sequence[IntArray], seed: int) -> FlowSet:
    """Copies enough for every fold."""
    most = 1
    for train, count in zip(trains, wanted, strict=True):
        there = np.bincount(real.y[train], minlength=len(real.classes))
        most = max(most, int(np.ceil(count / np.maximum(there, 1)).max()))
    return copies(real, arm, rounds=rounds_for(arm, most), seed=seed)


def _own_clips(real: FlowSet, rounds: int, train: IntArray, wanted: IntArray, seed: int, fold: Fold) -> IntArray:
    """Pool positions of clips to add, ``wanted`` per class: the fold's clips in a seeded order, again and again.

    With ``rounds`` > 0 copies of the whole real set follow it in the pool, and time r takes the r-th copy, beginning
    anew after the last; else it takes the clips themselves.
    """
    out: list[IntArray] = []
    for c, count in enumerate(wanted):
        members = train[real.y[train] == c]
        order = members[stream(seed, f"duplicates/{fold.name}", c).permutation(len(members))]
        place = np.arange(count)
        chosen = order[place % len(order)] if count else order[:0]
        if rounds:
            chosen = chosen + (1 + place // max(len(order), 1) % rounds) * len(real)
        out.append(chosen)
    return np.concatenate(out)


def _require_unseen(pool: FlowSet, fold: Fold, chosen: IntArray, n_real: int) -> None:
    """Copies pass the rule for synthetic clips. Only leave-one-video-out trains on the subject, by design."""
    if fold.subject_independent:
        check_leaks(pool.take(np.unique(chosen)), fold)
    assert not np.isin(chosen % n_real, fold.test_index).any(), "a copy of a test clip was about to be trained on"
