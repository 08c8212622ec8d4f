"""Compound micro-expressions after CMED (Zhao and Xu, Sensors 19(24), 2019): a reconstruction, not the database.

CMED joins CASME, CASME II, CAS(ME)^2, SMIC-HS and SAMM and adds clips synthesised from two basic ones; its list of
clips is not public. Here a real clip is compound when its emotion and its action units name two emotions at once, by
the rule of :func:`compound`. Counts therefore differ from the published ones, most of all in the compound classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesynth.core.emotions import CLASS_OF, PUBLISHED, label, plain_emotion
from mesynth.core.errors import WrongRoot
from mesynth.core.facs import parse_annotation
from mesynth.datasets.casme import CASME
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.casme_sq import CASME_SQ
from mesynth.datasets.database import (
    Member,
    Release,
    beside,
    composed,
    holds,
    never,
    read_members,
    shipped,
)
from mesynth.datasets.files import contents
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest

MEMBERS = (
    Member(database=CASME, folders=("CASME", "CASME1", "CASME_I")),
    Member(database=CASME2, folders=("CASME2", "CASMEII", "CASME_II", "CASME-II", "CASME II")),
    Member(database=CASME_SQ, folders=("CASME_SQ", "CASME_2", "CAS(ME)2", "CAS(ME)^2", "CASMESQ")),
    Member(database=SAMM, folders=("SAMM",)),
    Member(database=SMIC, folders=("SMIC", "SMIC-HS", "SMIC_HS")),
)
CLASSES: Mapping[str, int] = {
    "negative": 233,
    "positive": 82,
    "surprise": 70,
    "positive+surprise": 74,
    "negative+surprise": 236,
    "positive+negative": 197,
    "negative+negative": 158,
}
"""Class -> clips in the published database, whose compound clips are synthesised."""

# Action units that tell an emotion from the others; AU 4 says negative, but not which.
MARKS: Mapping[str, tuple[frozenset[int], ...]] = {
    "happiness": (frozenset({12}),),
    "surprise": (frozenset({1, 2}), frozenset({5})),
    "disgust": (frozenset({9}), frozenset({10})),
    "sadness": (frozenset({15}),),
    "fear": (frozenset({20}),),
    "anger": (frozenset({23}),),
    "contempt": (frozenset({14}),),
    "negative": (frozenset({4}),),
}
_USUAL = 0.2
_PAIRS = {frozenset(name.split("+")): name for name in CLASSES if "+" in name}


def compound(emotion: str, codes: Iterable[int]) -> str:
    """The class of a clip by its emotion and its certain action units, "" where neither names one.

    1. The emotion gives the first class (negative, positive, surprise), if it has one.
    2. Action units that go with that emotion anyway are set aside: its own marks, and those in at least a fifth of
       its published clips (:data:`mesynth.core.emotions.PUBLISHED`). A word without class (others) sets nothing aside.
    3. Each further emotion whose mark (:data:`MARKS`) is left names a class. Two classes make a compound; so do two
       different negative emotions. All three classes at once name none.

    >>> compound("happiness", [6, 12]), compound("happiness", [1, 2, 12]), compound("others", [4, 12])
    ('positive', 'positive+surprise', 'positive+negative')
    >>> compound("disgust", [4, 7, 9]), compound("disgust", [4, 9, 15]), compound("others", [4])
    ('negative', 'negative+negative', '')
    """
    word, present = plain_emotion(emotion), frozenset(codes)
    first = label(word)
    usual = {code for code, share in PUBLISHED.get(word, {}).items() if first and share >= _USUAL}
    usual |= {code for mark in MARKS.get(word, ()) for code in mark}
    told = {
        name
        for name, marks in MARKS.items()
        if name != word and any(mark <= present and not mark <= usual for mark in marks)
    }
    classes = {CLASS_OF[name] for name in told} | ({first} if first else set())
    if len(classes) == 2:
        return _PAIRS[frozenset(classes)]
    if len(classes) == 1 and first:
        # which negative emotions: the clip's own, if it is one, and those its marks tell
        kinds = {name for name in (word, *told) if CLASS_OF[name] == "negative" and name != "negative"}
        return "negative+negative" if first == "negative" and len(kinds) > 1 else first
    return ""


# ---------------------------------------------------------------- from manifests


@dataclass(frozen=True)
class Compound:
    """The rows that have a class, which is their label, and counts beside the published ones."""

    manifest: Manifest
    counts: dict[str, int]

    @property
    def beside(self) -> str:
        """``negative 120 (233), ...``."""
        return beside(self.counts, CLASSES)


def compose(manifests: Sequence[Manifest], root: Path | str) -> Compound:
    """Label the micro-expressions of prepared or loaded manifests by :func:`compound`; paths relative to ``root``."""
    kept = []
    for row in Manifest.join(manifests, root):
        name = compound(row.emotion, _codes(row.au_text)) if row.expression == "micro" else ""
        if name:
            kept.append(replace(row, label=name))
    return Compound(Manifest.from_rows(kept, Path(root)), _counts(row.label for row in kept))


def _codes(cell: object) -> tuple[int, ...]:
    annotation = parse_annotation(cell)
    return () if annotation.open else annotation.codes


def _counts(labels: Iterable[str]) -> dict[str, int]:
    found = Counter(labels)
    return {name: found[name] for name in CLASSES}


# ---------------------------------------------------------------- from the releases


def read(root: Path, part: str, frames: str) -> Release:
    """The lines that have a class, of the releases that are there. Raises DatasetLayoutError when none is."""
    releases = read_members(root, MEMBERS, frames, "CMED")
    if not releases:
        folders = ", ".join(member.folders[0] for member in MEMBERS)
        raise WrongRoot(f"none of the folders {folders} in {root}: {contents(root)}; put the releases there")
    lines = [line for release in releases.values() for line in release.lines]
    named = [compound(line.emotion, _codes(line.aus)) if line.expression == "micro" else "" for line in lines]
    kept = [replace(line, label=name) for line, name in zip(lines, named, strict=True) if name]
    absent = [member.database.title for member in MEMBERS if member.database.name not in releases]
    notes = ["a reconstruction by rule: the list of CMED is not public, and its compound clips are synthesised"]
    if absent:
        notes.append(f"without {', '.join(absent)}, which {root} does not hold")
    notes.append(f"classes, published in brackets: {beside(_counts(line.label or '' for line in kept), CLASSES)}")
    return composed(releases, kept, notes)


# 1050 clips are published, most of them synthesised: nothing to be complete by.
CMED = shipped("cmed", is_release=never, read=read, is_root=holds(MEMBERS))
