"""How the real clips are split: who is held out, and which clips a fold may learn from and is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mesynth.errors import ConfigError, LeakError, ManifestError
from mesynth.seeds import stream
from recognizer.data import FlowSet

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
        ManifestError: the set holds synthetic clips (nothing is tested on those), or too few subjects
            or databases to split.
    """
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
    names = np.unique(keys)
    if len(names) < 2:
        what = "clip" if config.kind == "lovo" else "subject"
        raise ManifestError(
            f"{config.kind} needs at least two {what}s with a class; the manifest has one: {real.subjects[0]}"
        )
    for name in names:
        yield _fold(str(name), real, keys != name, keys == name, independent=config.kind != "lovo")


def _holdouts(real: FlowSet) -> Iterator[Fold]:
    """Each database is learned from, and each other one tested on."""
    names = np.unique(real.databases)
    for source in names:
        for target in names[names != source]:
            yield _fold(f"{source}->{target}", real, real.databases == source, real.databases == target)


def _fold(name: str, real: FlowSet, train: BoolArray, test: BoolArray, *, independent: bool = True) -> Fold:
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
