"""What a loader declares: a database, and the annotated lines of a release before any frame was looked for.

Each database has one file that reads its workbook and knows its folders; everything that can go wrong afterwards
(missing frames, apexes outside their clip, corrections, counts) is told once, in :mod:`mesynth.datasets.load`.

Facts of the databases that ship are data: ``databases.csv`` has a row a database, ``editions.csv`` a row an edition of
an annotation (workbook, sheet, columns, rows, people, emotions, objective classes and where they stand, the hash of its
labels, the source of all this), ``edition_rows.csv`` the rows that are known to differ from an earlier edition or to be
faulty. An edition is recognised by what it counts and by its labels, never by its name: copies are renamed.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mesynth.core.emotions import plain_emotion
from mesynth.core.types import AUVector
from mesynth.datasets.files import roman_class, text_of


@dataclass(frozen=True, kw_only=True)
class AnnotatedClip:
    """One annotated expression: cells as the workbook has them, and where its frames should lie."""

    subject: str
    """Unique within the database whatever the part, so that folds never split a person."""
    clip: str
    folder: str
    """Of the frames, or a video file; relative to the root."""
    onset: object = None
    apex: object = None
    offset: object = None
    spans_folder: bool = False
    """The clip is its folder: onset and offset are its first and last frame (no onset column at all)."""
    aus: object = None
    emotion: str = ""
    label: str | None = None
    """Class of the composite where the release decides it; None derives it from the emotion."""
    objective: str = ""
    """Objective class of the file; empty derives it from the action units."""
    fps: float | None = None
    """None: the database's."""
    database: str = ""
    """Of this line, in a composite of several databases; empty: the release's."""
    licence: str = ""
    """As ``database``."""
    expression: str = "micro"
    warnings: tuple[str, ...] = ()
    problem: str = ""
    """Why the line cannot be used, if its own cells already show it (one sentence, with the way out)."""
    vector: AUVector | None = None
    """Exact action units, where frames were rendered from them."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Provenance that differ from the release's."""

    @classmethod
    def of_cells(cls, cells: Mapping[str, object], **told: Any) -> AnnotatedClip:
        """From a workbook's row, whose onset, apex, offset, aus, emotion and objective class are taken as they are;
        ``told``: the other fields, and those of them that are not."""
        values: dict[str, Any] = {name: cells.get(name) for name in ("onset", "apex", "offset", "aus")}
        values |= {"emotion": text_of(cells.get("emotion")), "objective": roman_class(cells.get("objective"))}
        return cls(**values | told)

    @property
    def name(self) -> str:
        """``subject/clip``, as messages and the corrections table name it."""
        return f"{self.subject}/{self.clip}"

    @property
    def full_name(self) -> str:
        """The name in messages: with its database in a composite, where sub01 may be several people."""
        return f"{self.database}/{self.name}" if self.database else self.name


@dataclass(frozen=True, kw_only=True)
class Published:
    """Counts in the paper or on the release's page; what is not known is left empty."""

    clips: int | None = None
    subjects: int | None = None
    emotions: Mapping[str, int] = field(default_factory=dict)
    """The database's words -> clips."""
    objective: Mapping[str, int] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything annotated in one release on disk."""

    lines: tuple[AnnotatedClip, ...]
    sources: tuple[str, ...] = ()
    """Annotation files read, relative to the root."""
    notes: tuple[str, ...] = ()
    """What the reader did that a user should know (text rows left out, an old edition, ...)."""
    left_out: tuple[str, ...] = ()
    """Clip folders that are annotated but left out on purpose; they do not count as unannotated."""
    sheet: str = ""
    """Of the workbook, by which an edition is told."""
    columns: tuple[str, ...] = ()
    """Of that sheet, as the file has them."""
    changed: tuple[tuple[str, str], ...] = ()
    """Clips that the annotation would have put in and a list leaves out: name, and why."""
    published: Published | None = None
    """Counts to be complete by, where the reader knows them better than the database (a list of clips it read)."""
    edition: str = ""
    """Where the reader tells it, and not what the lines count."""
    database: str = ""
    """First half of the subject keys, where it is not the database's name."""
    kind: str = "real"
    licence: str = ""
    fps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Database:
    """One database: its facts, how its root is told, and the function that reads a release."""

    name: str
    """Of the verb's argument, and first half of every subject key."""
    title: str
    fps: float
    licence: str
    paper: str
    is_release: Callable[[Path], bool]
    """Whether a folder is the root of a release; looks at that folder's listing alone."""
    read: Callable[..., Release]
    """``read(root, part, frames)``, with a fourth argument where ``annotation`` names one: the file (a path) to read
    instead of the usual one, or None. Raises DatasetLayoutError when the folder is not laid out like the release, and
    of that kind WrongRoot when it lacks what a root holds: another folder is looked for then."""
    layout: str = ""
    """What the root holds, for who gave another folder."""
    annotation: str = ""
    """Usual name of the annotation file, where another can be given (``--annotation``)."""
    is_root: Callable[[Path], bool] | None = None
    """Whether a folder is what ``--root`` takes, where that is another than ``is_release`` tells."""
    parts: tuple[str, ...] = ("all",)
    """Subsets that can be asked for; the first is the default."""
    frames: tuple[str, ...] = ("auto",)
    """Renderings of the same clips (raw, cropped); the first is the default."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """Counts by part."""


def shipped(name: str, *, is_release: Callable[[Path], bool], read: Callable[..., Release], **told: Any) -> Database:
    """A database that ships: its facts by ``databases.csv``, its counts by its editions, unless ``told`` otherwise.

    One without editions has nothing to be complete by; its paper is named all the same.
    """
    (row,) = (row for row in _table("databases.csv") if row["name"] == name)
    counts = published(name) or ({"all": Published(source=row["paper"])} if row["paper"] else {})
    facts: dict[str, Any] = dict(row) | {"fps": float(row["fps"]), "published": counts}
    facts |= {several: tuple(row[several].split("|")) for several in ("parts", "frames")}
    return Database(is_release=is_release, read=read, **facts | told)


# ---------------------------------------------------------------- editions


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


def plain_id(text: object) -> str:
    """A subject's or clip's name without case and padding, so that copies of a list agree.

    >>> plain_id("s01_ne_01"), plain_id("006_1_2"), plain_id("sub05"), plain_id("6.0")
    ('s1_ne_1', '6_1_2', 'sub5', '6')
    """
    plain = re.sub(r"\.0+$", "", str(text).strip().lower())
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)
