"""Warnings of many answers, in groups: the same sentence with other numbers is the same warning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SEPARATOR = "\n"
"""Between the warnings of one answer."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True, kw_only=True)
class Warned:
    """``count`` answers carried the warning; ``worst`` is the one whose first number lies farthest from 0."""

    count: int
    worst: str


def grouped(texts: Iterable[str]) -> dict[str, Warned]:
    """Texts of answers, each any number of warnings joined by SEPARATOR -> what they have in common, with ``#`` for
    numbers, the most frequent first.

    >>> grouped(["folds (det -0.10)", "folds (det -2.5)", "by tvl1"])
    {'folds (det #)': Warned(count=2, worst='folds (det -2.5)'), 'by tvl1': Warned(count=1, worst='by tvl1')}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        for warning in dict.fromkeys(w for w in text.split(SEPARATOR) if w):
            found.setdefault(_NUMBER.sub("#", warning), []).append(warning)
    order = sorted(found, key=lambda kind: (-len(found[kind]), kind))
    return {kind: Warned(count=len(found[kind]), worst=max(sorted(found[kind]), key=_size)) for kind in order}


def _size(warning: str) -> float:
    first = _NUMBER.search(warning)
    return abs(float(first.group())) if first else 0.0
