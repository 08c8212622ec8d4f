"""Editions of the releases' annotation, as data: which one lies there, what it counts, and rows of it that are known.

Two tables ship: ``editions.csv`` has a row an edition (workbook, sheet, columns, rows, people, emotions, objective
classes and where they stand, the hash of its labels, the source of all this), ``edition_rows.csv`` the rows that are
known to differ from an earlier edition or to be faulty. An edition is recognised by what it counts and by its labels,
never by its name: copies are renamed.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mesynth.core.emotions import plain_emotion
from mesynth.datasets.database import AnnotatedClip, Published, Release
from mesynth.datasets.files import text_of


@dataclass(frozen=True, kw_only=True)
class Edition:
    """One edition of a database's annotation; what is not known is left empty."""

    database: str
    part: str
    name: str
    workbook: str
    sheet: str
    columns: tuple[str, ...]
    rows: int | None
    subjects: int | None
    emotions: Mapping[str, int]
    objective: Mapping[str, int]
    objective_in: str
    """The column with the objective classes, or the workbook of their own that belongs to this edition."""
    labels_sha256: str
    """See :func:`labels_hash`."""
    source: str

    @property
    def compared(self) -> dict[str, int]:
        """Clips of each emotion in plain words; empty where they do not add up to the rows, as a survey counts."""
        return plain_counts(self.emotions) if sum(self.emotions.values()) == self.rows else {}

    @property
    def published(self) -> Published:
        """Its counts."""
        return Published(
            clips=self.rows,
            subjects=self.subjects,
            emotions=self.emotions,
            objective=self.objective,
            source=f"{self.workbook}: {self.source}" if self.workbook else self.source,
        )


@dataclass(frozen=True)
class KnownRow:
    """A cell of an edition ("" for every one): ``value`` as it stands there, ``instead`` what stood or should stand."""

    database: str
    edition: str
    clip: str
    column: str
    value: str
    instead: str
    what: str
    source: str

    def __str__(self) -> str:
        value = f" is {self.value}" if self.value else ""
        return f"{self.clip}: {self.column}{value}{f' ({self.instead})' if self.instead else ''}; {self.what}"


@dataclass(frozen=True)
class Recognised:
    """What :func:`recognise` found: the edition, None where there is none of these counts, and what to tell."""

    edition: Edition | None
    labels_sha256: str
    known: tuple[KnownRow, ...] = ()
    """Known rows of it that the release holds."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the edition; "" where none was recognised."""
        return self.edition.name if self.edition else ""


def _table(name: str) -> list[dict[str, str]]:
    with (files("mesynth.datasets") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _counts(cell: str) -> dict[str, int]:
    """``others 99; fear 2`` -> {"others": 99, "fear": 2}."""
    pairs = (entry.strip().rpartition(" ") for entry in cell.split(";") if entry.strip())
    return {word: int(number) for word, _, number in pairs}


@cache
def editions(database: str, part: str = "") -> tuple[Edition, ...]:
    """Of a database, and of one of its parts; the reference comes first.

    >>> [(edition.name, edition.emotions["surprise"]) for edition in editions("casme2")[:2]]
    [('20140508', 25), ('20190701', 28)]
    """
    return tuple(
        Edition(
            database=row["database"],
            part=row["part"],
            name=row["edition"],
            workbook=row["workbook"],
            sheet=row["sheet"],
            columns=tuple(filter(None, row["columns"].split("|"))),
            rows=int(row["rows"]) if row["rows"] else None,
            subjects=int(row["subjects"]) if row["subjects"] else None,
            emotions=_counts(row["emotions"]),
            objective=_counts(row["objective"]),
            objective_in=row["objective_in"],
            labels_sha256=row["labels_sha256"],
            source=row["source"],
        )
        for row in _table("editions.csv")
        if row["database"] == database and part in {"", row["part"]}
    )


def published(database: str) -> dict[str, Published]:
    """Part -> counts of its reference edition.

    >>> published("dfme")["train"].clips
    1856
    """
    return {one.part: one.published for one in reversed(editions(database))}


@cache
def known_rows(database: str) -> tuple[KnownRow, ...]:
    """Rows of a database that are known to be changed or faulty in one edition or in all."""
    return tuple(KnownRow(**row) for row in _table("edition_rows.csv") if row["database"] == database)


def labels_hash(lines: Iterable[AnnotatedClip]) -> str:
    """sha256 over ``subject/clip emotion`` of every line, sorted: equal labels, equal hash, whatever the row order."""
    said = sorted(f"{line.name} {plain_emotion(line.emotion)}" for line in lines)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def differences(found: Mapping[str, int], published: Mapping[str, int]) -> tuple[str, ...]:
    """``surprise 28 (25)``: every count that differs, the published one in brackets.

    >>> differences({"surprise": 28, "fear": 2}, {"surprise": 25, "fear": 2, "sadness": 7})
    ('sadness 0 (7)', 'surprise 28 (25)')
    """
    words = sorted(found.keys() | published.keys())
    return tuple(
        f"{word or 'none'} {found.get(word, 0)} ({published.get(word, 0)})"
        for word in words
        if found.get(word, 0) != published.get(word, 0)
    )


def emotion_counts(lines: Iterable[AnnotatedClip]) -> dict[str, int]:
    """Clips of each emotion, in plain words."""
    return dict(Counter(plain_emotion(line.emotion) for line in lines))


def plain_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Published counts in plain words, as :func:`emotion_counts` has them."""
    merged: Counter[str] = Counter()
    for word, n in counts.items():
        merged[plain_emotion(word)] += n
    return dict(merged)


def recognise(database: str, part: str, release: Release) -> Recognised:
    """Which edition the release's annotation is, by its rows, its emotions and the hash of its labels.

    Sheet and columns do not decide, since copies are saved anew without some of them; where they differ, it is told.
    """
    lines = release.lines
    labels, counts = labels_hash(lines), emotion_counts(lines)
    candidates = [one for one in editions(database, part) if one.rows == len(lines)]
    exact = [one for one in candidates if one.labels_sha256 == labels]
    alike = [one for one in candidates if not one.compared or one.compared == counts]
    found = next(iter((*exact, *alike)), None)
    notes = []
    if found is None:
        if candidates:
            near = min(candidates, key=lambda one: len(differences(counts, one.compared)))
            unlike = ", ".join(differences(counts, near.compared))
            notes.append(
                f"no edition is known with these emotions; {near.name} is nearest, published in brackets: {unlike}"
            )
    elif not found.compared and any(one.compared for one in editions(database, part)):
        notes.append(f"as many rows as edition {found.name}, of which no more is known: it may be another")
    elif found.labels_sha256 and not exact:
        notes.append(
            f"counts are those of edition {found.name}, but some labels are not (sha256 of the labels {labels[:12]}, "
            f"expected {found.labels_sha256[:12]})"
        )
    if found is not None and release.columns:
        there = set(map(_letters, release.columns))
        absent = [name for name in found.columns if _letters(name) not in there]
        other = found.sheet and release.sheet.lower() != found.sheet.lower()
        if absent or other:
            what = [f"its sheet is '{release.sheet}', not '{found.sheet}'"] if other else []
            what += [f"it lacks the columns {', '.join(absent)}"] if absent else []
            notes.append(f"the workbook is not quite as edition {found.name} came: {' and '.join(what)}")
    return Recognised(found, labels, _held(known_rows(database), found, lines), tuple(notes))


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _is_known(row: KnownRow, cell: str) -> bool:
    """Whether the cell is as the table says; where that value is not known, whether nobody has repaired it."""
    return cell.lower() == row.value.lower() if row.value else cell != row.instead


def _held(rows: Iterable[KnownRow], edition: Edition | None, lines: Iterable[AnnotatedClip]) -> tuple[KnownRow, ...]:
    """The known rows that the lines hold: of this edition, with the value that makes them known."""
    by_name = {line.name: line for line in lines}
    return tuple(
        row
        for row in rows
        if edition is not None
        and row.edition in {"", edition.name}
        and (line := by_name.get(row.clip))
        and _is_known(row, text_of(getattr(line, row.column)))
    )
