"""Small honest values for tests: rows, frames, flows. Not fixtures, so that worker processes can import them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesynth.core import seeds
from mesynth.core.errors import MesynthError
from mesynth.store.generator_folder import FAMILIES, Family
from mesynth.store.manifest import Provenance, Row
from mesynth.store.stage import Produced, Skipped


def provenance(**changes: Any) -> Provenance:
    values = {"kind": "real", "database": "db", "subject": "01", "licence": "CC0", "subjects_seen": ("db/01",)}
    return Provenance(**(values | changes))


def row(clip: str = "a", **changes: Any) -> Row:
    values = {
        "clip_id": f"db/01/{clip}/0",
        "database": "db",
        "subject": "01",
        "clip": clip,
        "onset": 0,
        "apex": 2,
        "offset": 4,
        "fps": 200.0,
        "n_frames": 5,
        "apex_index": 2,
        "height": 16,
        "width": 16,
        "provenance": provenance(),
    }
    return Row(**(values | changes))


class NumberWorker:
    """Jobs are integers; frames and flow are random but depend on the job alone."""

    def __init__(
        self,
        fail_at: int | None = None,
        interrupt_at: int | None = None,
        die_at: int | None = None,
        log: Path | None = None,
    ) -> None:
        self.fail_at, self.interrupt_at, self.die_at, self.log = fail_at, interrupt_at, die_at, log

    def __call__(self, job: int) -> Produced | Skipped:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{job}\n")
        if job == self.fail_at:
            raise MesynthError(f"job {job} cannot be done; leave it out")
        if job == self.die_at:
            os._exit(9)
        if job == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        if job == 13:
            return Skipped("db/01/013/0", "an unlucky number")
        rng = seeds.stream(0, "test", job)
        return Produced(
            row(f"{job:03d}"),
            frames=rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8),
            flow=rng.normal(size=(2, 16, 16)).astype(np.float32),
            landmarks=rng.normal(size=(68, 2)).astype(np.float32),
            extra={"input_mean": np.full(2, job, np.float32)},
            notes={} if job % 2 else {"job": job},
            files={f"clips/{job}.txt": b"x"} if job < 2 else {},
        )


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def with_family(monkeypatch: pytest.MonkeyPatch, name: str, family: Family) -> None:
    """A generator family that is known for as long as the test lasts."""
    monkeypatch.setitem(FAMILIES._added, name, family)
    monkeypatch.setitem(FAMILIES._loaded, name, family)
