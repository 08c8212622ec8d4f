"""A finished corpus holds every row of its plan exactly once; one that the disk cut short stays valid and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mesynth.errors import ManifestError, RunFolderError
from mesynth.manifest import Manifest


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """What the disk refuses becomes one line; what is finished stays, and nothing half-written has its final name.

    Raises:
        RunFolderError: a full disk, a quota, a file or folder that cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or out} cannot be written ({error.strerror}); finished clips stay in {out}, "
            "make it writable or make room and run the same command again"
        ) from None


def prove_complete(manifest: Manifest, n_rows: int) -> None:
    """Every row of the plan is exactly one clip.

    Raises:
        ManifestError: names the first row that is missing or there twice.
    """
    counts = np.bincount(manifest.column("provenance.plan_row"), minlength=n_rows)
    wrong = np.flatnonzero(counts != np.r_[np.ones(n_rows, np.int64), np.zeros(len(counts) - n_rows, np.int64)])
    if len(wrong):
        raise ManifestError(
            f"row {wrong[0]} of the plan is {counts[wrong[0]]} clips of {manifest.root} instead of one "
            f"({len(wrong)} such rows); remove the folder and generate anew"
        )
