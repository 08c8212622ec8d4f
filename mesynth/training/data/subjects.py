"""Groups of subjects for cross-fitting: G generators, each of which never sees one group.

Who is learned from and who validates: subjects of packs, excluded ones left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from mesynth.training.data.pack import Pack


def subject_groups(subjects: Sequence[str], groups: int, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Cut ``subjects`` (``database/subject``) into ``groups`` disjoint groups that cover them, each sorted.

    Every database is dealt out evenly: group sizes differ by at most one, in total and in each database. Depends on
    the set of subjects, not on their order. Generator g learns from all but group g.

    Raises:
        ConfigError: fewer than 2 groups, more groups than subjects, a subject without database or named twice.

    >>> [len(g) for g in subject_groups([f"casme2/{i:02d}" for i in range(7)] + ["samm/006"], 3)]
    [3, 3, 2]
    """
    if groups < 2:
        raise ConfigError(f"{groups} groups cannot be cross-fitted; choose at least 2")
    if len(set(subjects)) != len(subjects):
        twice = next(s for s in subjects if list(subjects).count(s) > 1)
        raise ConfigError(f"subject '{twice}' is named twice; name each once")
    for subject in subjects:
        if "/" not in subject:
            raise ConfigError(f"'{subject}' is no subject; write database/subject, for example casme2/01")
    if groups > len(subjects):
        raise ConfigError(f"{groups} groups are more than the {len(subjects)} subjects; choose fewer groups")
    databases = sorted({s.partition("/")[0] for s in subjects})
    dealt: list[str] = []
    for database in databases:
        people = sorted(s for s in subjects if s.partition("/")[0] == database)
        order = stream(seed, f"subject-groups/{database}").permutation(len(people))
        dealt += [people[i] for i in order]
    # One round of dealing over all databases: each database's people are neighbours, so they spread evenly too.
    return tuple(tuple(sorted(dealt[g::groups])) for g in range(groups))


# ------------------------------------------------------------------- split


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
