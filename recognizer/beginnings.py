"""What a run was given that was learned before: weights to begin with, and a teacher; and whom those have seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesynth.core.errors import ConfigError, LeakError
from recognizer.config import RunConfig
from recognizer.fitting import Given, NetworkMembers
from recognizer.protocol import Fold
from recognizer.trained import WEIGHTS, Recognizer


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What :func:`begin` read."""

    given: Given = Given()
    seen: dict[str, frozenset[str]] = field(default_factory=dict)
    """By setting (train.start, train.teacher): every subject it, or the makers of its clips, had seen."""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of the weights, for the run's identity: a folder's name says nothing of what is in it."""

    @property
    def subjects(self) -> frozenset[str]:
        """All of them."""
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


def begin(config: RunConfig) -> Beginning:
    """Read what ``config.train`` names.

    Raises:
        WeightsUnavailable: no recognizer in a folder.
        ConfigError: weights to begin with of another model, or a teacher of other classes, sizes or views.
    """
    train, start, teacher = config.train, {}, None
    seen: dict[str, frozenset[str]] = {}
    digests: dict[str, str] = {}
    if train.start:
        found = _open("train.start", train.start, seen, digests)
        if found.config.model != config.model or not isinstance(found.members, NetworkMembers):
            raise ConfigError(
                f"train.start={train.start} holds model {found.config.model}; this run has {config.model}"
            )
        names = {name for name, _ in found.members.model.named_parameters()}
        start = {name: value[0] for name, value in found.members.stacked.items() if name in names}
    if train.teacher:
        master = _open("train.teacher", train.teacher, seen, digests)
        if (master.config.data.classes, master.config.data) != (config.data.classes, config.data):
            raise ConfigError(
                f"train.teacher={train.teacher} knows other data settings; train it with this run's data.*"
            )
        teacher = master.probabilities
    return Beginning(given=Given(start=start, teacher=teacher), seen=seen, digests=digests)


def _open(setting: str, folder: str, seen: dict[str, frozenset[str]], digests: dict[str, str]) -> Recognizer:
    found = Recognizer.load(folder)
    seen[setting] = found.subjects_seen
    digests[setting] = hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()
    return found
