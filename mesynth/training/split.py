"""Who is learned from and who validates: subjects of packs, excluded ones left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mesynth.errors import ConfigError
from mesynth.seeds import stream
from mesynth.training.pack import Pack


def require_known(excluded: Collection[str], packs: Sequence[Pack]) -> None:
    """Raises ConfigError for an excluded subject that no clip shows or has seen."""
    known = {key for pack in packs for seen in pack.seen_sets for key in seen}
    unknown = sorted(set(excluded) - known)
    if unknown:
        near = ", ".join(sorted(known)[:3])
        raise ConfigError(
            f"excluded subject '{unknown[0]}' is not in the data; its subjects are written database/subject, as {near}"
        )


def allowed_clips(pack: Pack, excluded: frozenset[str]) -> np.ndarray:
    """[N] bool: the clip neither shows nor has seen an excluded subject (``seen`` holds the person shown)."""
    return np.array([excluded.isdisjoint(seen) for seen in pack.seen_sets])[pack.seen]


def clips_of(pack: Pack, subjects: Collection[str]) -> np.ndarray:
    """[N] bool: the clip shows one of ``subjects``."""
    return np.array([key in subjects for key in pack.subjects])[pack.subject]


def people_left(packs: Sequence[Pack], allowed: Sequence[np.ndarray]) -> set[str]:
    """``database/subject`` of everyone shown by an allowed clip."""
    return {p.subjects[s] for p, a in zip(packs, allowed, strict=True) for s in np.unique(p.subject[a])}


def validation_subjects(left: Collection[str], share: float, seed: int) -> frozenset[str]:
    """Of the subjects that are left, ``share`` of each database, at least one and never all in all.

    Raises:
        ConfigError: fewer than 2 subjects.
    """
    if len(left) < 2:
        raise ConfigError(f"{len(left)} subjects are left; at least 2 are needed, one to learn from, one to validate")
    picked: list[str] = []
    for database in sorted({key.partition("/")[0] for key in left}):
        people = sorted(key for key in left if key.partition("/")[0] == database)
        order = stream(seed, f"validation-subjects/{database}").permutation(len(people))
        picked += [people[i] for i in order[: round(share * len(people))]]
    if not picked:
        people = sorted(left)
        picked = [people[int(stream(seed, "validation-subjects").integers(len(people)))]]
    return frozenset(picked[: len(left) - 1])
