"""A small corpus made until it is accepted, and a process that dies in the middle of making it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesynth.corpus import rejection
from mesynth.corpus.filters import Limits
from mesynth.corpus.generate import Preview
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.rejection import Acceptance, AcceptedCorpus, generate_until_accepted
from mesynth.motion.nuisance import Nuisance
from mesynth.store.shards import ShardWriter
from mesynth.store.stage import ROUNDS

# Emotions without AU 5 and 7: lids move alike whatever is drawn, so that no other attempt would be read otherwise.
CONFIG = PlanConfig(
    emotions=("positive", "contempt", "sadness"), count=12, fps=25, duration=(0.2, 0.2), size=64,
    nuisance=Nuisance(style=1, head=1),
)  # fmt: skip
ALIKE = PlanConfig(au=("12=C", "4=C"), count=8, fps=25, duration=(0.2, 0.2), size=64, nuisance=Nuisance(style=1))
APART = Acceptance(limits=Limits(identity=None, control=None, artefact=None, duplicate=0.25), attempts=20)
"""Clips of :data:`ALIKE` repeat each other by this, so there are several rounds."""


def alike(face: Path, out: Path) -> AcceptedCorpus:
    """Several rounds, and previews."""
    return generate_until_accepted(ALIKE, out, APART, faces=face, preview=Preview(count=2))


MOMENTS = ("first round", "between", "second round", "gathering", "tidying")


@contextmanager
def watched(out: Path, reached: Callable[[str], object]) -> Iterator[None]:
    """``reached`` is called at each of :data:`MOMENTS` while ``out`` is made, more than once maybe."""
    patch = pytest.MonkeyPatch()
    add, remove, take = ShardWriter.add, shutil.rmtree, rejection._Rounds.take
    added: Counter[str] = Counter()

    def watched_add(self: ShardWriter, key: str, members: dict[str, bytes]) -> Any:
        folder = self.path.parent.relative_to(out).as_posix()
        added[folder] += 1
        moment = {("rounds/000", 10): "first round", ("rounds/001", 1): "second round", (".", 10): "gathering"}
        if name := moment.get((folder, added[folder])):
            reached(name)
        return add(self, key, members)

    def watched_remove(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name == ROUNDS:
            reached("tidying")
        remove(path, *args, **options)

    def watched_take(*args: Any) -> Any:
        reached("between")
        return take(*args)

    patch.setattr(ShardWriter, "add", watched_add)
    patch.setattr(shutil, "rmtree", watched_remove)
    patch.setattr(rejection._Rounds, "take", watched_take)
    try:
        yield
    finally:
        patch.undo()


@contextmanager
def snapshots(out: Path, copies: Path) -> Iterator[None]:
    """Copies of ``out`` at all moments, as a kill would leave it: what is buffered in this process is not in them."""

    def copy(moment: str) -> None:
        if not (copies / moment).exists():
            shutil.copytree(out, copies / moment)

    with watched(out, copy):
        yield


if __name__ == "__main__":
    face_, out_, moment_ = sys.argv[1:]
    with watched(Path(out_), lambda moment: moment == moment_ and os.kill(os.getpid(), signal.SIGKILL)):
        alike(Path(face_), Path(out_))
