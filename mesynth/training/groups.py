"""Groups of subjects for cross-fitting: G generators, each of which never sees one group."""

from __future__ import annotations

from collections.abc import Sequence

from mesynth.errors import ConfigError
from mesynth.seeds import stream


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
