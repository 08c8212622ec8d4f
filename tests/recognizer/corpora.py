"""Small manifests whose classes can be told apart, so that a model that does not learn fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesynth.core import facs
from mesynth.core.emotions import CLASSES_3
from mesynth.core.seeds import stream
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import ShardWriter, npy_bytes

# Where and how each class moves: (height, sign of v), with the AUs it is coded as.
PATTERNS = {"negative": (0.22, 1.0, 4), "positive": (0.76, -1.0, 12), "surprise": (0.22, -1.0, 2)}


def flow_of(label: str, rng: np.random.Generator, noise: float, size: int = 64) -> np.ndarray:
    """[2,size,size] float32: two bumps at the class's height, plus smooth noise of the given strength."""
    height, sign, _ = PATTERNS[label]
    grid = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(grid, grid)
    bumps = sum(np.exp(-((x - c) ** 2 + (y - height) ** 2) / 0.01) for c in (0.3, 0.7))
    coarse = rng.normal(size=(2, 8, 8)).repeat(size // 8, 1).repeat(size // 8, 2)
    uv = noise * coarse
    uv[1] += sign * rng.uniform(0.4, 1.0) * bumps
    return np.asarray(uv * 2.0, np.float32)


def write_corpus(
    folder: Path,
    *,
    subjects: int = 8,
    clips: int = 6,
    kind: str = "real",
    database: str = "DB",
    noise: float = 0.5,
    seed: int = 0,
    labels: tuple[str, ...] = CLASSES_3,
    shuffled: bool = False,
    subjects_seen: tuple[str, ...] | None = None,
    generator: str = "",
    size: int = 64,
) -> Manifest:
    """Clips with classes in turn; with ``shuffled`` the labels say nothing about the flow."""
    folder.mkdir(parents=True)
    rng = stream(seed, f"corpus/{database}/{kind}")
    names = [labels[i % len(labels)] for i in range(subjects * clips)]
    shown = list(rng.permutation(names)) if shuffled else names
    rows = []
    with ShardWriter(folder / "flow-000000.tar") as shard:
        for i, (label, pattern) in enumerate(zip(names, shown, strict=True)):
            subject = f"{i // clips:02d}"
            present = np.zeros((N_AUS, 2), np.int8)
            present[facs.AU_INDEX[PATTERNS[label][2]]] = 1
            span = shard.add(f"{i:08d}", {"flow.npy": npy_bytes(flow_of(pattern, rng, noise, size))})
            own = f"{database}/{subject}"
            rows.append(
                Row(
                    clip_id=f"{database}/{subject}/{kind}{i:04d}/1", database=database, subject=subject,
                    clip=f"{kind}{i:04d}", onset=1, apex=5, offset=9, fps=100.0, n_frames=9, apex_index=4,
                    height=size, width=size, label=label, emotion=label, au_present=tuple(map(int, present.ravel())),
                    flow=span,
                    provenance=Provenance(
                        kind=kind, database=database, subject=subject, licence="CC0", generator=generator,
                        subjects_seen=(own,) if subjects_seen is None else subjects_seen,
                    ),
                )
            )  # fmt: skip
    manifest = Manifest.from_rows(rows, folder)
    manifest.write(folder)
    return Manifest.read(folder)
