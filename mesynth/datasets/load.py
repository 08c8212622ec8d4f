"""From annotated clips to a manifest: corrections applied, frames found, everything odd written down.

Corrections of faulty annotation rows are a declared table that ships with the package. A correction names the row by
database and clip and applies only where the cell still holds the old value, so a repaired edition of a workbook, or one
sorted differently, is left alone. The shipped table holds only faults whose old value was read in the original file.

A tree is scanned one folder listing at a time; no frame is opened but the onset's header.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import chain, pairwise
from pathlib import Path
from types import NoneType
from typing import TypedDict

import numpy as np

from mesynth.core import emotions
from mesynth.core.errors import ConfigError, DatasetLayoutError, MesynthError
from mesynth.core.facs import OBJECTIVE_CLASSES, parse_annotation
from mesynth.core.process import counted
from mesynth.datasets.database import AnnotatedClip, Database, Recognised, Release, plain_id, recognise
from mesynth.datasets.files import Frames, clip_size, frame_number, is_folder, list_frames, nearest, text_of
from mesynth.store.manifest import Manifest, Provenance, Row

_COLUMNS = ("database", "clip", "column", "old", "new", "reason")


@dataclass(frozen=True)
class Correction:
    """One cell: ``clip`` is ``subject/clip`` as the loader writes it, ``column`` our name of the column."""

    database: str
    clip: str
    column: str
    old: str
    new: str
    reason: str


def read_corrections(path: Path | None = None) -> tuple[Correction, ...]:
    """The shipped table, or another of the same columns. Raises DatasetLayoutError on other columns."""
    source = path or files("mesynth.datasets") / "corrections.csv"
    with source.open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise DatasetLayoutError(f"{source} has the columns {reader.fieldnames}; expected {', '.join(_COLUMNS)}")
        return tuple(Correction(**row) for row in reader)


def correct(
    row: dict[str, object], database: str, clip: str, corrections: Iterable[Correction]
) -> tuple[dict[str, object], list[str]]:
    """The row with every correction applied whose old value it holds, and a warning for each."""
    row, warnings = dict(row), []
    for fix in corrections:
        if (fix.database, fix.clip) == (database, clip) and text_of(row.get(fix.column)) == fix.old:
            row[fix.column] = fix.new
            warnings.append(f"{fix.column} corrected from {fix.old} to {fix.new}: {fix.reason}")
    return row, warnings


# ---------------------------------------------------------------- selection


Key = tuple[str, str, str, str]
"""Database, subject, clip, onset."""


@dataclass(frozen=True)
class Selection:
    """Which clips of a database are meant: of these people, of these names, and no more than so many of them.

    A person is named as the loader writes it, ``sub01``, or with the database, ``casme2/sub01``; a clip ``EP02_01f``,
    ``sub01/EP02_01f``, ``casme2/sub01/EP02_01f``, or with its onset behind. Case and padding with zeros do not matter.
    A number that is nobody's name, ``("3",)``, means the first so many people.
    ``limit``: the first of what is left, in the order of the annotation; None for all.

    >>> chosen = Selection(subjects=("sub1", "sub02"), limit=2)
    >>> chosen.of([("d", "sub01", "a", "3"), ("d", "sub01", "b", "9"), ("d", "sub02", "a", "1")], "D")
    [0, 1]
    >>> Selection(subjects=("sub3",)).of([("d", "sub01", "a", "3"), ("d", "sub02", "a", "1")], "D")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: subject 'sub3' is none of the 2 of D; nearest: sub02, sub01
    """

    subjects: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (not isinstance(self.limit, (int, np.integer)) or isinstance(self.limit, bool)):
            raise ConfigError(f"limit={self.limit!r} is no whole number; give 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit={self.limit} leaves no clip; give 1 or more")

    @classmethod
    def parse(
        cls,
        subjects: int | str | Collection[str] | None = (),
        clips: str | Collection[str] | None = (),
        limit: int | None = None,
    ) -> Selection:
        """Names in a list, or in one text with commas between them; None for all.

        Raises ConfigError for a text without a name, and for what is neither a name nor names.
        """
        subjects = str(subjects) if isinstance(subjects, (int, np.integer)) else subjects
        return cls(_names("subjects", subjects), _names("clips", clips), limit)

    def __bool__(self) -> bool:
        return bool(self.subjects or self.clips or self.limit is not None)

    def of(self, keys: Sequence[Key], title: str) -> list[int]:
        """Positions of the chosen clips among ``keys``, ascending.

        Raises:
            ConfigError: a name that nobody or nothing has (with the nearest), or that several have, or no clip left.
        """
        kept = list(range(len(keys)))
        if self.subjects:
            people = {i: _people(keys[i]) for i in kept}
            count = _count(self.subjects, people, title)
            kept = _named("subject", self.subjects, people, title) if count is None else _first(count, people, title)
        if self.clips:
            kept = _named("clip", self.clips, {i: _clips(keys[i]) for i in kept}, title)
        return kept[: self.limit]

    def rows(self, manifest: Manifest) -> Manifest:
        """The chosen rows of a manifest. Raises ConfigError as :meth:`of`."""
        if not self:
            return manifest
        columns = (manifest.column(name).tolist() for name in ("database", "subject", "clip", "onset"))
        keys = [(database, subject, clip, str(onset)) for database, subject, clip, onset in zip(*columns, strict=True)]
        mask = np.zeros(len(manifest), np.bool_)
        mask[self.of(keys, str(manifest.root))] = True
        return manifest.filter(mask)


_Names = list[tuple[str, tuple[str, ...]]]
"""Names of one line, the plain one first, each with who or what it means."""


def _people(key: Key) -> _Names:
    return [(key[1], key[:2]), ("/".join(key[:2]), key[:2])]


def _count(wanted: Sequence[str], people: Mapping[int, _Names], title: str) -> int | None:
    """How many people are meant; None where they are named. Raises ConfigError for a number that may be either."""
    if len(wanted) != 1 or not re.fullmatch("0|[1-9][0-9]*", wanted[0]):  # 03 is somebody, as in a workbook
        return None
    names = dict.fromkeys(names[0][0] for names in people.values())
    if wanted[0] in names:
        return None
    for name in names:
        if _plain_name(name) == _plain_name(wanted[0]):
            raise ConfigError(
                f"subjects '{wanted[0]}' of {title} may be {name} or {wanted[0]} people; write {name}, or name them all"
            )
    return int(wanted[0])


def _first(count: int, people: Mapping[int, _Names], title: str) -> list[int]:
    """The lines of the first ``count`` people."""
    owners = list(dict.fromkeys(names[0][1] for names in people.values()))
    if not 1 <= count <= len(owners):
        raise ConfigError(f"subjects={count}: {title} has {len(owners)}; give 1 to {len(owners)}, or names")
    return [i for i, names in people.items() if names[0][1] in owners[:count]]


def _clips(key: Key) -> _Names:
    whole: _Names = [("/".join(key[first:3]), key[:3]) for first in (2, 1, 0)]
    return whole + [("/".join(key[first:]), key) for first in (1, 0) if key[3]]


def _names(what: str, given: str | Collection[str] | None) -> tuple[str, ...]:
    if not isinstance(given, (str, Collection, NoneType)):
        raise ConfigError(f"{what}={given!r} is neither a name nor a list of names")
    texts = [given] if isinstance(given, str) else [str(one) for one in given or ()]
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if texts and not names:
        raise ConfigError(f"{what}: '{','.join(texts)}' names none; leave it out to take all")
    return tuple(dict.fromkeys(names))


def _named(what: str, wanted: Sequence[str], lines: Mapping[int, _Names], title: str) -> list[int]:
    """Those of ``lines`` that ``wanted`` names."""
    exact: dict[str, set[tuple[str, ...]]] = {}
    loose: dict[str, set[tuple[str, ...]]] = {}
    for name, owner in chain.from_iterable(lines.values()):
        exact.setdefault(name, set()).add(owner)
        loose.setdefault(_plain_name(name), set()).add(owner)
    unknown: list[str] = []
    chosen: set[tuple[str, ...]] = set()
    for name in wanted:
        own = exact.get(name) or loose.get(_plain_name(name), set())
        if len(own) > 1:
            full = sorted("/".join(owner) for owner in own)
            more = ", ..." if len(full) > 3 else ""
            raise ConfigError(f"{what} '{name}' is {len(own)} of {title}; write one of {', '.join(full[:3])}{more}")
        chosen |= own
        if not own:
            unknown.append(name)
    if unknown:
        plain = dict.fromkeys(names[0][0] for names in lines.values())
        near = difflib.get_close_matches(unknown[0], exact if "/" in unknown[0] else plain, n=3, cutoff=0.0)
        more = f" (nor are {', '.join(unknown[1:6])}{', ...' if len(unknown) > 6 else ''})" if unknown[1:] else ""
        count = len({names[0][1] for names in lines.values()})
        raise ConfigError(f"{what} '{unknown[0]}' is none of the {count} of {title}{more}; nearest: {', '.join(near)}")
    return [i for i, names in lines.items() if any(owner in chosen for _, owner in names)]


def _plain_name(name: str) -> str:
    return "/".join(plain_id(part) for part in name.split("/"))


# ---------------------------------------------------------------- load


_FOLDERS_KEPT = 64  # a video's expressions are neighbours in every workbook; long listings are not all kept
_SHOWN = 40
"""Letters of a cell that a message shows."""
LONGEST_S = 10.0
"""Seconds; no micro-expression comes near it, so a longer clip has a faulty offset."""
_CORRECTABLE = ("onset", "apex", "offset", "aus", "emotion")


@dataclass(frozen=True)
class ClipNote:
    """An annotated clip that cannot be used, and why."""

    clip: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """A release as found on disk: the usable clips, and an account of the others."""

    database: Database
    part: str
    frames: str
    release: Release
    manifest: Manifest
    problems: tuple[ClipNote, ...]
    corrected: tuple[ClipNote, ...]
    """Clips with a cell that the corrections table replaced, and how."""
    edition: Recognised
    """Of the annotation."""
    undecided: tuple[ClipNote, ...]
    """Clips whose action units are annotated but not all decided, and what is open."""
    missing_frames: dict[str, int]
    """Clip -> frames between onset and offset that are not on disk."""
    unannotated: tuple[str, ...]
    """Clip folders beside the annotated ones that no line names."""
    selected: bool = False
    """Only some clips were wanted: the counts are not those of the release."""


class Asked(TypedDict, total=False):
    """What of a release is read, and who is told; see :func:`load_release`."""

    part: str
    frames: str
    annotation: Path | str | None
    select: Selection
    progress: Callable[[int, int], None] | None


class _Bad(Exception):
    """One line is unusable; the message says why."""


def load_release(
    database: Database,
    root: Path | str,
    *,
    part: str = "",
    frames: str = "",
    annotation: Path | str | None = None,
    select: Selection = Selection(),
    corrections: Iterable[Correction] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Read a release, leaving out what cannot be used (see ``problems``); frames are files relative to ``root``.

    ``part``, ``frames``: one of the database's; empty for its default. ``annotation``: the annotation file, where it
    is not the usual one beside the frames. ``select``: whose and which clips; the frames of others are not looked at.

    Raises:
        DatasetLayoutError: the folder or its annotation file is not as in the release, or an unknown part.
        ConfigError: ``select`` names what is not there.
    """
    root = Path(root)
    part = _choice(part, database.parts, "part", database)
    frames = _choice(frames, database.frames, "frames", database)
    release = whole = _read(database, root, part, frames, annotation)
    if select:
        own = release.database or database.name
        keys = [(line.database or own, line.subject, line.clip, text_of(line.onset)) for line in release.lines]
        release = replace(release, lines=tuple(release.lines[i] for i in select.of(keys, database.title)))
        release = replace(release, notes=(*release.notes, _chosen(release, whole)))
    fixes = tuple(read_corrections() if corrections is None else corrections)
    engine = _Engine(root, database, release, fixes)
    rows: list[Row] = []
    problems: list[ClipNote] = []
    for line in counted(release.lines, len(release.lines), progress):
        try:
            rows.append(engine.row(line))
        except (_Bad, MesynthError) as error:
            problems.append(ClipNote(line.full_name, str(error)))
    rows, twice = _unique(rows)
    return Loaded(
        database=database,
        part=part,
        frames=frames,
        release=release,
        manifest=Manifest.from_rows(rows, root),
        problems=(*problems, *twice),
        corrected=tuple(engine.corrected),
        edition=_edition(database, part, whole, release),
        undecided=tuple(engine.undecided),
        missing_frames=engine.missing,
        unannotated=_unannotated(root, whole),
        selected=bool(select),
    )


def _edition(database: Database, part: str, whole: Release, release: Release) -> Recognised:
    """That of the whole annotation; of the rows that are known to be odd, those of the chosen clips."""
    found = recognise(whole.database or database.name, part, whole)
    names = {line.name for line in release.lines}
    return replace(found, known=tuple(row for row in found.known if row.clip in names))


def _read(database: Database, root: Path, part: str, frames: str, annotation: Path | str | None) -> Release:
    if annotation is None:
        return database.read(root, part, frames)
    if not database.annotation:
        raise DatasetLayoutError(
            f"{database.title} has no annotation file of its own; leave out --annotation {annotation}"
        )
    return database.read(root, part, frames, Path(annotation))


def _chosen(release: Release, whole: Release) -> str:
    some, every = ((len(r.lines), len({(line.database, line.subject) for line in r.lines})) for r in (release, whole))
    return f"{some[0]} of {every[0]} annotated clips, {some[1]} of {every[1]} subjects were chosen"


def usable(loaded: Loaded, *, skip_bad: bool = False) -> Manifest:
    """The manifest, if every annotated clip is in it, or if ``skip_bad`` lets the others go.

    Raises:
        DatasetLayoutError: a clip cannot be used, or none can.
    """
    problems = loaded.problems
    if problems and (not skip_bad or not len(loaded.manifest)):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        hint = "" if skip_bad else "; --check lists all, --skip-bad goes on without them"
        raise DatasetLayoutError(f"{problems[0].reason}{more}{hint}")
    if not len(loaded.manifest):
        sources = ", ".join(loaded.release.sources) or loaded.manifest.root
        raise DatasetLayoutError(f"{sources} has a header but no rows; use the full release")
    return loaded.manifest


def _choice(value: str, choices: tuple[str, ...], what: str, database: Database) -> str:
    if value and value not in choices:
        raise DatasetLayoutError(f"{database.title} has no {what} '{value}'; choose from {', '.join(choices)}")
    return value or choices[0]


def _unique(rows: list[Row]) -> tuple[list[Row], list[ClipNote]]:
    """Rows with distinct clip ids; a line that repeats an earlier one is a problem of its own."""
    seen: dict[str, Row] = {}
    twice = []
    for row in rows:
        if row.clip_id in seen:
            name = f"{row.subject}/{row.clip}"
            twice.append(ClipNote(name, f"clip {name}, onset {row.onset}, is annotated twice; remove one of the rows"))
        else:
            seen[row.clip_id] = row
    return list(seen.values()), twice


def _unannotated(root: Path, release: Release) -> tuple[str, ...]:
    """Folders beside annotated clip folders that no line names."""
    used = {line.folder for line in release.lines if line.folder} | set(release.left_out)
    found = []
    for parent in sorted({os.path.dirname(folder) for folder in used}):
        try:
            with os.scandir(root / parent) as entries:
                names = [e.name for e in entries if not e.name.startswith(".") and is_folder(e)]
        except OSError:  # the folder is missing: its clips are problems already
            continue
        found += [path for name in sorted(names) if (path := f"{parent}/{name}" if parent else name) not in used]
    parents_of_clips = {os.path.dirname(folder) for folder in used}
    return tuple(path for path in found if path not in parents_of_clips)


def _gaps(numbers: Sequence[int], onset: int, offset: int) -> tuple[int, int]:
    """Of the frames from onset to offset: how many there should be, and how many are not among ``numbers``.

    A release may number its frames in steps, or by the clock, whose steps vary; only a gap wider than the usual one is
    a gap.

    >>> _gaps([0, 1, 2, 5], 0, 5), _gaps([0, 33, 67, 100, 133], 0, 133), _gaps([0, 33, 133], 0, 133)
    ((6, 2), (5, 0), (5, 2))
    """
    steps = [b - a for a, b in pairwise(numbers)]
    inside = [n for n in numbers if onset <= n <= offset]
    if min(steps) == 1:
        annotated = offset - onset + 1
        return annotated, annotated - len(inside)
    usual = sorted(steps)[(len(steps) - 1) // 2]
    absent = sum(round((b - a) / usual) - 1 for a, b in pairwise(inside))
    if inside:
        absent += (inside[0] - onset) // usual + (offset - inside[-1]) // usual
    return len(inside) + max(absent, 0), max(absent, 0)


def _objective(cell: str, of_aus: str, warnings: list[str]) -> str:
    """The annotated class, or where there is none of I to VII, with a warning, that of the action units."""
    if cell in OBJECTIVE_CLASSES:
        return cell
    if any(map(str.isalnum, cell)):
        instead = f"{of_aus}, that of the action units, stands in" if of_aus else "it is left out"
        warnings.append(f"objective class '{cell[:_SHOWN]}' is none of I to VII; {instead}")
    return of_aus


class _Engine:
    """Turns lines of one release into rows."""

    def __init__(self, root: Path, database: Database, release: Release, fixes: tuple[Correction, ...]) -> None:
        self.root, self.fixes = root, fixes
        self.release = replace(
            release,
            database=release.database or database.name,
            licence=release.licence or database.licence,
            fps=release.fps or database.fps,
        )
        self.corrected: list[ClipNote] = []
        self.undecided: list[ClipNote] = []
        self.missing: dict[str, int] = {}
        self._listed = lru_cache(_FOLDERS_KEPT)(lambda folder: list_frames(root / folder))

    def row(self, line: AnnotatedClip) -> Row:
        """Raises _Bad or MesynthError when the line cannot be used."""
        release = self.release
        cells: dict[str, object] = {name: getattr(line, name) for name in _CORRECTABLE}
        database = line.database or release.database
        cells, said = correct(cells, database, line.name, self.fixes)
        self.corrected += [ClipNote(line.full_name, text) for text in said]
        if line.problem:
            raise _Bad(line.problem)
        warnings = [*line.warnings, *said]
        files = self._listed(line.folder)
        onset, apex, offset = self._annotated(line, cells, files, warnings)
        inside = self._inside(line, onset, offset, files, warnings)
        apex_index = self._apex(line, cells["apex"], apex, onset, inside, warnings)
        shown = [files[inside[k]] for k in (0, min(max(apex_index, 0), len(inside) - 1), -1)]
        height, width = clip_size(self.root / line.folder, shown, warnings)
        emotion = text_of(cells["emotion"]).lower()
        annotation = parse_annotation(cells["aus"])
        aus = (
            Row.au_columns(annotation.vector(), annotation.presence())
            if line.vector is None
            else Row.au_columns(line.vector)
        )
        if line.vector is None and annotation.doubt:
            warnings.append(annotation.doubt)
            self.undecided.append(ClipNote(line.full_name, annotation.doubt))
        if said_of := emotions.doubt(emotion):
            warnings.append(f"{said_of}; it has no class")
        objective = _objective(line.objective, annotation.objective_class or "", warnings)
        source = {"kind": release.kind, "licence": line.licence or release.licence} | dict(line.provenance)
        return Row(
            clip_id=f"{database}/{line.subject}/{line.clip}/{onset}",
            database=database,
            subject=line.subject,
            clip=line.clip,
            onset=onset,
            apex=apex,
            offset=offset,
            fps=line.fps or release.fps,
            n_frames=len(inside),
            apex_index=apex_index,
            height=height,
            width=width,
            expression=line.expression,
            emotion=emotion,
            label=emotions.label(emotion) if line.label is None else line.label,
            objective_class=objective,
            au_text=annotation.text,
            frame_files=tuple(files.path(line.folder, n) for n in inside),
            warnings=tuple(warnings),
            provenance=Provenance(
                database=database,
                subject=line.subject,
                subjects_seen=(f"{database}/{line.subject}",),
                **source,
            ),
            **aus,
        )

    def _annotated(
        self, line: AnnotatedClip, cells: dict[str, object], files: Frames, warnings: list[str]
    ) -> tuple[int, int | None, int]:
        """Onset, apex (None where there is none to trust) and offset as frame numbers."""
        apex = frame_number(cells["apex"])
        if line.spans_folder:
            return min(files), apex, max(files)
        onset, offset = frame_number(cells["onset"]), frame_number(cells["offset"])
        if onset is None or offset is None or offset <= onset:
            raise _Bad(
                f"clip {line.name} has onset '{text_of(cells['onset'])[:_SHOWN]}' and offset "
                f"'{text_of(cells['offset'])[:_SHOWN]}'; both must be frame numbers, in this order"
            )
        if apex is not None and not onset <= apex <= offset:
            warnings.append(f"apex {apex} lies outside onset {onset} and offset {offset}; the middle frame stands in")
            apex = None
        return onset, apex, offset

    def _inside(self, line: AnnotatedClip, onset: int, offset: int, files: Frames, warnings: list[str]) -> list[int]:
        numbers = list(files)
        first = nearest(numbers, onset, "onset", warnings)
        last = nearest(numbers, offset, "offset", warnings)
        inside = [n for n in numbers if first <= n <= last]
        if len(inside) < 2 or not any(onset <= n <= offset for n in inside):
            raise _Bad(
                f"clip {line.name} has {len(inside)} frames between onset {onset} and offset {offset}; "
                f"its folder {line.folder} holds frames {numbers[0]} to {numbers[-1]}"
            )
        annotated, absent = _gaps(numbers, onset, offset)
        seconds = (max(annotated, len(inside)) - 1) / (line.fps or self.release.fps)
        if line.expression == "micro" and seconds > LONGEST_S:
            raise _Bad(
                f"clip {line.name} lasts {seconds:.4g} s from onset {onset} to offset {offset}; no micro-expression is "
                f"longer than {LONGEST_S:g} s, correct its offset"
            )
        if absent > 0 and not line.spans_folder:
            self.missing[line.full_name] = self.missing.get(line.full_name, 0) + absent
            warnings.append(f"{absent} of {annotated} annotated frames are not on disk")
        return inside

    @staticmethod
    def _apex(
        line: AnnotatedClip, cell: object, apex: int | None, onset: int, inside: list[int], warnings: list[str]
    ) -> int:
        if apex is not None:
            index = inside.index(nearest(inside, apex, "apex", warnings))
            if apex == onset or index == 0:
                warnings.append("onset and apex are the same frame")
            return index
        if frame_number(cell) is None and not line.spans_folder:
            warnings.append(f"no apex annotated ('{text_of(cell)[:_SHOWN]}'); the middle frame stands in")
        if len(inside) == 2:
            warnings.append("onset and apex are the same frame")
        return (len(inside) - 1) // 2
