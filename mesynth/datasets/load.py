"""From annotated clips to a manifest: corrections applied, frames found, everything odd written down.

Corrections of faulty annotation rows are a declared table that ships with the package. A correction names the row by
database and clip and applies only where the cell still holds the old value, so a repaired edition of a workbook, or one
sorted differently, is left alone. The shipped table holds only faults whose old value was read in the original file.

A tree is scanned one folder listing at a time; no frame is opened but the onset's header.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from mesynth.core import emotions
from mesynth.core.errors import DatasetLayoutError, MesynthError
from mesynth.core.facs import objective_class, parse_annotation
from mesynth.datasets.database import AnnotatedClip, Database, Release
from mesynth.datasets.files import Frames, clip_size, frame_number, list_frames, nearest, text_of
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


# ---------------------------------------------------------------- load


_FOLDERS_KEPT = 64  # a video's expressions are neighbours in every workbook; long listings are not all kept
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
    missing_frames: dict[str, int]
    """Clip -> frames between onset and offset that are not on disk."""
    unannotated: tuple[str, ...]
    """Clip folders beside the annotated ones that no line names."""


class _Bad(Exception):
    """One line is unusable; the message says why."""


def load_release(
    database: Database,
    root: Path | str,
    *,
    part: str = "",
    frames: str = "",
    corrections: Iterable[Correction] | None = None,
) -> Loaded:
    """Read a release, leaving out what cannot be used (see ``problems``); frames are files relative to ``root``.

    ``part``, ``frames``: one of the database's; empty for its default.

    Raises:
        DatasetLayoutError: the folder or its annotation file is not as in the release, or an unknown part.
    """
    root = Path(root)
    part = _choice(part, database.parts, "part", database)
    frames = _choice(frames, database.frames, "frames", database)
    release = database.read(root, part, frames)
    fixes = tuple(read_corrections() if corrections is None else corrections)
    engine = _Engine(root, database, release, fixes)
    rows: list[Row] = []
    problems: list[ClipNote] = []
    for line in release.lines:
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
        missing_frames=engine.missing,
        unannotated=_unannotated(root, release),
    )


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
                names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=True)]
        except OSError:  # the folder is missing: its clips are problems already
            continue
        found += [path for name in sorted(names) if (path := f"{parent}/{name}" if parent else name) not in used]
    parents_of_clips = {os.path.dirname(folder) for folder in used}
    return tuple(path for path in found if path not in parents_of_clips)


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
        own = objective_class(annotation.codes) if annotation.complete else ""
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
            objective_class=line.objective or own,
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
                f"clip {line.name} has onset '{text_of(cells['onset'])}' and offset '{text_of(cells['offset'])}'; "
                "both must be frame numbers, in this order"
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
        # a release may number its frames in steps; only a gap wider than the usual one is a gap
        step = min(b - a for a, b in pairwise(numbers))
        annotated = (offset - onset) // step + 1
        absent = annotated - sum(onset <= n <= offset for n in inside)
        if absent > 0 and not line.spans_folder:
            self.missing[line.full_name] = self.missing.get(line.full_name, 0) + absent
            warnings.append(f"{absent} of {annotated} annotated frames are not on disk")
        return inside

    @staticmethod
    def _apex(
        line: AnnotatedClip, cell: object, apex: int | None, onset: int, inside: list[int], warnings: list[str]
    ) -> int:
        if apex is not None:
            if apex == onset:
                warnings.append("onset and apex are the same frame")
            return inside.index(nearest(inside, apex, "apex", warnings))
        if frame_number(cell) is None and not line.spans_folder:
            warnings.append(f"no apex annotated ('{text_of(cell)}'); the middle frame stands in")
        return (len(inside) - 1) // 2
