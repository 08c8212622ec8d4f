"""A small corpus made until it is accepted, and a process that dies in the middle of making it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from mesynth.corpus import rejection
from mesynth.corpus.filters import Limits
from mesynth.corpus.generate import Preview
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.rejection import TopUp, Until, generate_until_accepted
from mesynth.motion.nuisance import Nuisance
from mesynth.store.shards import ShardWriter

CONFIG = PlanConfig(
    emotions=("negative", "positive", "surprise"), count=12, fps=25, duration=(0.2, 0.2), size=64,
    nuisance=Nuisance(style=1, head=1),
)  # fmt: skip
ALIKE = PlanConfig(au=("12=C", "4=C"), count=8, fps=25, duration=(0.2, 0.2), size=64, nuisance=Nuisance(style=1))
UNTIL_APART = Until(limits=Limits(identity=None, control=None, artefact=None, duplicate=0.25), attempts=20)
"""Clips of :data:`ALIKE` repeat each other by this, so there are several rounds."""


def alike(face: Path, out: Path) -> TopUp:
    """Several rounds, and previews."""
    return generate_until_accepted(ALIKE, out, UNTIL_APART, faces=face, preview=Preview(count=2))


def die_at(moment: str, out: Path) -> None:
    """From now on this process kills itself when it comes to ``moment``."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    add, remove = ShardWriter.add, shutil.rmtree
    folder, after = {"first round": ("rounds/000", 9), "second round": ("rounds/001", 0), "gathering": (".", 9)}.get(
        moment, ("", 0)
    )
    added: list[str] = []

    def add_or_die(self: ShardWriter, key: str, members: dict[str, bytes]) -> Any:
        added.append(self.path.parent.relative_to(out).as_posix())
        if added.count(folder) > after:
            die()
        return add(self, key, members)

    def remove_or_die(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name == rejection.ROUNDS:
            die()
        remove(path, *args, **options)

    if moment == "between":
        rejection._Rounds.take = die  # type: ignore[method-assign,assignment]
    elif moment == "tidying":
        shutil.rmtree = remove_or_die  # type: ignore[assignment]
    else:
        ShardWriter.add = add_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    face_, out_, moment_ = sys.argv[1:]
    die_at(moment_, Path(out_))
    alike(Path(face_), Path(out_))
