"""What a loader declares: a database, and the annotated lines of a release before any frame was looked for.

Each database has one file that reads its workbook and knows its folders; everything that can go wrong afterwards
(missing frames, apexes outside their clip, corrections, counts) is told once, in :mod:`mesynth.datasets.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesynth.core.types import AUVector


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
