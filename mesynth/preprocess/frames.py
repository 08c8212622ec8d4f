"""A clip's frames wherever they lie, read one at a time: a raw clip at full resolution may be a gigabyte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_frames
from mesynth.store.videos import file_of, read_pictures


@dataclass(frozen=True)
class Source:
    """Names of the frames that are there, and the apex among them."""

    root: Path
    row: Row
    names: tuple[str, ...]
    apex: int
    warnings: tuple[str, ...]

    @staticmethod
    def of(root: Path, row: Row) -> Source:
        """Missing files are left out; where one was annotated, the nearest frame takes its place with a warning."""
        warnings = list(row.warnings)
        # Without an annotated apex a loader points at the middle frame, or at nothing (0).
        apex = row.apex_index if row.apex is not None or row.apex_index else (row.n_frames - 1) // 2
        if row.frames is not None:
            return Source(root, row, tuple(map(str, range(row.n_frames))), apex, tuple(warnings))
        if not row.frame_files:
            read_frames(root, row)  # raises the error that names the way out
        files = [file_of(name) for name in row.frame_files]
        there = {file for file in set(files) if (root / file).is_file()}
        present = [i for i, file in enumerate(files) if file in there]
        if len(present) < 2:
            raise MesynthError(
                f"clip {row.clip_id} has {len(present)} of its {len(row.frame_files)} frame files below {root}; "
                "load the database again from the folder where it lies now"
            )
        for what, index in (("onset", 0), ("apex", apex), ("offset", len(row.frame_files) - 1)):
            if index not in present:
                taken = min(present, key=lambda i: (abs(i - index), i))
                warnings.append(f"{what} file {row.frame_files[index]} is gone; {row.frame_files[taken]} taken")
        if missing := len(row.frame_files) - len(present):
            warnings.append(f"{missing} of {len(row.frame_files)} frame files are gone")
        apex = min(range(len(present)), key=lambda k: (abs(present[k] - apex), k))
        return Source(root, row, tuple(row.frame_files[i] for i in present), apex, tuple(warnings))

    def frames(self, keep: list[int], digest: hashlib._Hash) -> Iterator[np.ndarray]:
        """The kept frames [H,W,3] in order; feeds what their files hold to ``digest``."""
        if self.row.frames is not None:
            yield from read_frames(self.root, self.row)[keep]
            return
        yield from read_pictures(self.root, [self.names[index] for index in keep], digest)


def thin(n: int, apex: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``n`` frames, evenly spread on both sides of the apex.

    >>> thin(11, 4, 5)
    [0, 2, 4, 7, 10]
    >>> thin(4, 1, None)
    [0, 1, 2, 3]
    """
    if limit is None or n <= limit:
        return list(range(n))
    before = round((limit - 1) * apex / (n - 1))  # intervals before the apex
    if apex > 0:
        before = max(before, 1)
    if apex < n - 1:
        before = min(before, limit - 2)
    rise = np.linspace(0, apex, before + 1)
    fall = np.linspace(apex, n - 1, limit - before)
    return sorted({round(float(t)) for t in (*rise, *fall)})


def fingerprint(manifest: Manifest) -> str:
    """sha256 of what a run over ``manifest`` depends on: its rows, and the sizes of the image files they name.

    Sizes, not contents: a replaced frame is noticed without reading a database twice.
    """
    digest = hashlib.sha256(manifest.hash().encode())
    for row in manifest:
        for file in dict.fromkeys(map(file_of, row.frame_files)):
            try:
                digest.update(f"{(manifest.root / file).stat().st_size} ".encode())
            except OSError:  # gone; the clip says so when it is read
                digest.update(b"- ")
    return digest.hexdigest()
