"""A small corpus in which every clip lacks something else, and the shipped one in which none does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core import facs, seeds
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.stage import Produced, run_stage

SAMPLES = Path(__file__).parents[3] / "samples" / "corpus"
SIZE = 32
_VECTOR = facs.parse_request("12=C,L4=0.2")


def samples() -> Manifest:
    """Eight generated clips of three rendered people; every one has frames, flow, AUs, an emotion and a class."""
    return Manifest.read(SAMPLES)


def clip_row(clip: str, database: str = "photo", subject: str = "ann", **changes: Any) -> Row:
    """A complete clip of nine frames."""
    seen = changes.pop("seen", ())
    source = {
        "kind": "synthetic", "database": database, "subject": subject, "licence": "CC0-1.0", "parents": ("0" * 64,),
        "subjects_seen": (f"{database}/{subject}", *seen), "generator": "motion-prior", "seed": 7, "aus_source": "user",
        "aus_asked": "12=0.5,L4=0.2", "profile": "apex=0.5", "code_version": "0.1.0",
    } | changes.pop("source", {})  # fmt: skip
    onset = changes.pop("onset", 0)
    values: dict[str, Any] = {
        "clip_id": f"{database}/{subject}/{clip}/{onset}", "database": database, "subject": subject, "clip": clip,
        "onset": onset, "apex": onset + 4, "offset": onset + 8, "fps": 100.0, "n_frames": 9, "apex_index": 4,
        "height": SIZE, "width": SIZE, "emotion": "happiness", "label": "positive", "au_text": "L4=0.2,12=0.5",
        **Row.au_columns(_VECTOR), "provenance": Provenance(**source),
    }  # fmt: skip
    return Row(**(values | changes))


NO_AUS = {"au_text": "", **Row.au_columns(facs.AUVector(np.zeros((25, 2), np.float32)))}
MIXED: tuple[tuple[Row, tuple[str, ...]], ...] = (
    (clip_row("c0"), ()),
    (clip_row("EP02_01f", "casme2", "sub05", onset=46), ()),
    (clip_row("c2", subject="bob b", seen=("casme2/sub05",)), ()),
    (clip_row("c3", subject="ann"), ("flow",)),
    (clip_row("c4"), ("frames",)),
    (clip_row("c5", emotion="others", label=""), ()),
    (clip_row("c6", **NO_AUS), ()),
    (clip_row("c7", subject="bob b", emotion="", label=""), ()),
    (clip_row("c8", offset=30, apex=20, apex_index=5), ()),
    (clip_row("c9", apex=None, au_text="4D+ref(6)+R12"), ()),
    (clip_row("006_1_2", "samm", "006", onset=5562, label="negative", emotion="anger"), ()),
)
"""Rows and what is not stored of them."""


def make(job: tuple[Row, Sequence[str]]) -> Produced:
    """Frames and flow that depend on the clip's name alone."""
    row, without = job
    rng = seeds.stream(0, "exports-test", sum(map(ord, row.clip_id)))
    grid = np.linspace(0, 3, SIZE)
    u = np.sin(grid)[None] * np.cos(grid + rng.uniform(0, 3))[:, None] * rng.uniform(0.5, 2)
    v = np.cos(grid * rng.uniform(1, 2))[None] * np.sin(grid)[:, None]
    return Produced(
        row,
        frames=None if "frames" in without else rng.integers(0, 256, (row.n_frames, SIZE, SIZE, 3), dtype=np.uint8),
        flow=None if "flow" in without else np.stack([u, v]).astype(np.float32),
        landmarks=None if "flow" in without else rng.uniform(0, SIZE, (68, 2)).astype(np.float32),
    )


def mixed(out: Path) -> Manifest:
    """The corpus of :data:`MIXED`."""
    return run_stage(out, list(MIXED), make, config={"test": "mixed"})
