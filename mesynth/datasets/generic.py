"""Anyone's own recordings: one CSV of annotated expressions beside videos or folders of frames.

``annotations.csv`` has a row an expression: ``video,subject,onset,apex,offset,aus,emotion`` and, where they are
needed, ``fps``, ``first_frame``, ``clip``, ``expression``, ``label``, ``database`` and ``licence``.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mesynth.core.emotions import CLASSES_3, plain_emotion
from mesynth.core.errors import DatasetLayoutError, MesynthError, WrongRoot
from mesynth.datasets.database import AnnotatedClip, Release, shipped
from mesynth.datasets.files import contents, frame_number, given_file
from mesynth.store.manifest import EXPRESSIONS
from mesynth.store.videos import is_video, video_fps

CSV_NAME = "annotations.csv"
HEADER = "video,subject,onset,apex,offset,aus,emotion"
"""What a new file begins with."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "video": ("video", "file", "filename", "path", "folder"),
    "subject": ("subject", "participant", "person", "sub"),
    "onset": ("onset", "onset frame", "onsetf", "start"),
    "apex": ("apex", "apex frame", "apexf", "peak"),
    "offset": ("offset", "offset frame", "offsetf", "end"),
    "aus": ("aus", "au", "action units"),
    "emotion": ("emotion", "estimated emotion"),
    "fps": ("fps", "frame rate", "frames per second"),
    "first_frame": ("first frame",),
    "label": ("label", "class"),
    "expression": ("expression", "expression type", "type"),
    "database": ("database", "dataset"),
    "licence": ("licence", "license"),
    "clip": ("clip", "clip name"),
}
"""Our column -> accepted names, compared without case, blanks and punctuation."""
_REQUIRED = ("video", "subject", "onset", "apex", "offset", "aus", "emotion")
_DELIMITERS = (",", ";", "\t")
_KNOWN = {
    "casme": "casme", "casme2": "casme2", "casmeii": "casme2", "casme3": "casme3", "casmeiii": "casme3",
    "casmesq": "casme_sq", "samm": "samm", "smic": "smic", "mmew": "mmew", "4dme": "4dme", "dfme": "dfme",
    "meview": "meview",
}  # fmt: skip
"""Databases whose people are subjects elsewhere: name without punctuation -> name in subject keys."""
_RESERVED = re.compile(r"generic|corpus|photo|megc.*|cmed.*|rendered.*|(casme|samm|smic).*")
"""Further names, without punctuation, that a folder may not give its database."""


@dataclass(frozen=True)
class Table:
    """A CSV as text: ``rows`` are (line of the file, our column -> cell, why the row is unusable)."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str], str], ...]


def is_release(folder: Path) -> bool:
    """Whether ``folder`` holds a CSV of this layout beside its recordings."""
    try:
        return bool(_header(_text(_find(folder, CSV_NAME))))
    except (MesynthError, OSError):
        return False


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The CSV's rows. Raises DatasetLayoutError when it is missing, unreadable, or lacks a column."""
    path = given_file(annotation) if annotation else _find(root, CSV_NAME)
    table = read_table(path)
    own = "" if all(cells.get("database") for _, cells, _ in table.rows) else _folder_database(root, path.name)
    return Release(lines=tuple(lines(root, table)), sources=(path.name,), database=own)


def lines(root: Path, table: Table) -> list[AnnotatedClip]:
    """One annotated clip a row; what is wrong with a row is its ``problem``."""
    videos = {_place(cells.get("video", ""))[0] for _, cells, _ in table.rows}
    stems = Counter(_stem(video) for video in videos)
    rates: dict[str, float] = {}
    return [_line(root, table.path.name, row, stems, rates) for row in table.rows]


# ---------------------------------------------------------------- the CSV


def _find(root: Path, usual: str) -> Path:
    """The CSV of the usual name, or the only one there is."""
    files = sorted(root.iterdir()) if root.is_dir() else []
    found = [p for p in files if p.suffix.lower() == ".csv" and not p.name.startswith((".", "~$"))]
    named = [p for p in found if p.name.lower() == usual]
    if named or len(found) == 1:
        return (named or found)[0]
    what = f"{len(found)} CSV files, none called {usual}," if found else "no CSV file"
    raise WrongRoot(
        f"{what} in {root}: {contents(root)}; write {usual} with the header {HEADER}, or give a file with --annotation"
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetLayoutError(f"{path} is not UTF-8; save it again as 'CSV UTF-8'") from None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _places(header: Sequence[str]) -> dict[str, int]:
    """Our column -> position; of several accepted names the one listed first."""
    plain = [_plain(name) for name in header]
    found = {ours: [plain.index(_plain(n)) for n in names if _plain(n) in plain] for ours, names in COLUMNS.items()}
    return {ours: positions[0] for ours, positions in found.items() if positions}


def _header(text: str) -> tuple[str, list[str], dict[str, int]] | None:
    """(delimiter, names, our columns) of the first line, None where no delimiter shows every required column."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter), [])
        places = _places(names)
        if all(column in places for column in _REQUIRED):
            return delimiter, names, places
    return None


def read_table(path: Path) -> Table:
    """A CSV in UTF-8 (a byte order mark does not matter), with commas, semicolons or tabs; blank rows are left out.

    Raises:
        DatasetLayoutError: another encoding, a missing column, or text that is no CSV.
    """
    text = _text(path)
    found = _header(text)
    if found is None:
        best = max((next(csv.reader(text.splitlines()[:1], delimiter=d), []) for d in _DELIMITERS), key=len)
        missing = [column for column in _REQUIRED if column not in _places(best)]
        raise DatasetLayoutError(
            f"{path} lacks the column '{missing[0]}' (accepted names: {', '.join(COLUMNS[missing[0]])}); "
            f"its first line has {', '.join(best) or 'nothing'}"
        )
    delimiter, names, places = found
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or cells == names:
                continue
            problem = ""
            if any(cell.strip() for cell in cells[len(names) :]):
                problem = (
                    f"line {reader.line_num} of {path.name} has {len(cells)} cells for {len(names)} columns; write "
                    "several action units as 4+7, or quote the cell"
                )
            row = {column: cells[i].strip() if i < len(cells) else "" for column, i in places.items()}
            rows.append((reader.line_num, row, problem))
    except csv.Error as error:
        raise DatasetLayoutError(f"line {reader.line_num} of {path} is no CSV ({error}); save it again") from None
    return Table(path, tuple(names), tuple(rows))


# ---------------------------------------------------------------- names


def _folder_database(root: Path, csv_name: str) -> str:
    """The folder's name as a database name, for rows without one.

    A name that this package knows is refused here, since different people would pass for one. In the column it is
    accepted, for people who are in that database.

    Raises:
        DatasetLayoutError: nothing is left of the name, or it is taken.
    """
    name = re.sub(r"[^\w]+", "-", root.resolve().name.lower()).strip("-_")
    if not name or _plain(name) in _KNOWN or _RESERVED.fullmatch(_plain(name)):
        what = f"is named like the database '{name}'" if name else "has no name to call its database by"
        raise DatasetLayoutError(f"folder {root} {what}; fill the column 'database' of {csv_name} or rename the folder")
    return name


def _database(cell: str) -> str:
    """A database cell as subject keys have it: ``CASME II`` is casme2, or leak checks would not know its people."""
    return _KNOWN.get(_plain(cell), cell.lower())


def _place(cell: str) -> tuple[str, str]:
    """(path relative to the root with forward slashes, why it is refused)."""
    text = cell.replace("\\", "/")
    if not text:
        return "", "names no video"
    if PurePosixPath(text).is_absolute() or PureWindowsPath(cell).drive:
        return text, f"names the absolute path '{cell}'; write it relative to the folder of the CSV"
    if ".." in PurePosixPath(text).parts:
        return text, f"names '{cell}', which leaves the folder of the CSV; copy the video into it"
    plain = PurePosixPath(text).as_posix()
    return ("" if plain == "." else plain), ""


def _stem(video: str) -> str:
    return os.path.splitext(video)[0] if is_video(video) else video


def _clip(video: str, stems: Mapping[str, int]) -> str:
    """``clips/a.mp4`` -> ``clips_a``; with its suffix where clips/a.avi lies beside it."""
    stem = _stem(video)
    return (stem if stems[stem] == 1 else video).replace("/", "_") or "clip"


# ---------------------------------------------------------------- one row


def _line(
    root: Path,
    file: str,
    row: tuple[int, dict[str, str], str],
    stems: Mapping[str, int],
    rates: dict[str, float],
) -> AnnotatedClip:
    number, cells, problem = row
    where = f"line {number} of {file}"
    folder, refused = _place(cells["video"])
    subject, clip = cells["subject"], cells.get("clip", "") or _clip(folder, stems)
    values: dict[str, object] = {}
    if not problem:
        try:
            values = _values(root, cells, folder, refused, rates)
        except MesynthError as error:
            problem = f"{where}: {error}"
    return AnnotatedClip(
        subject=subject,
        clip=clip,
        folder="" if refused else folder,
        aus=cells["aus"],
        emotion=cells["emotion"],
        database=_database(cells.get("database", "")),
        licence=cells.get("licence", ""),
        problem=problem,
        **values,  # type: ignore[arg-type]
    )


def _values(
    root: Path, cells: Mapping[str, str], folder: str, refused: str, rates: dict[str, float]
) -> dict[str, object]:
    """The fields of an AnnotatedClip that have to be worked out. Raises DatasetLayoutError: why the row is unusable."""
    if refused:
        raise DatasetLayoutError(f"it {refused}")
    for name in ("subject", "clip", "database"):
        if "/" in cells.get(name, "") or "\\" in cells.get(name, ""):
            raise DatasetLayoutError(f"{name} '{cells[name]}' holds a slash, which parts subject and clip in keys")
    if not cells["subject"]:
        raise DatasetLayoutError("it names no subject; folds need to know who is the same person")
    video = is_video(folder) and not (root / folder).is_dir()
    expression = cells.get("expression", "").lower() or "micro"
    if expression not in EXPRESSIONS:
        raise DatasetLayoutError(f"expression '{expression}' is unknown; choose from {', '.join(EXPRESSIONS)}")
    label = plain_emotion(cells.get("label", ""))
    if label and label not in CLASSES_3:
        raise DatasetLayoutError(f"label '{label}' is no class of {', '.join(CLASSES_3)}; empty takes the emotion's")
    return {
        "fps": _fps(root, cells.get("fps", ""), folder, video, rates),
        "expression": expression,
        "label": label or None,
        **_numbers(cells, video),
    }


def _fps(root: Path, cell: str, folder: str, video: bool, rates: dict[str, float]) -> float:
    if not cell:
        if not video:
            raise DatasetLayoutError("fps is empty; a folder of frames does not tell its frame rate")
        if folder not in rates:
            rates[folder] = video_fps(root / folder)
        return rates[folder]
    try:
        fps = float(cell.replace(",", "."))
    except ValueError:
        fps = -1.0
    if not 0 < fps < float("inf"):
        raise DatasetLayoutError(f"fps '{cell}' is no positive number")
    return fps


def _numbers(cells: Mapping[str, str], video: bool) -> dict[str, object]:
    """Onset, apex and offset as the frames are numbered on disk: file names as they are, videos from 0."""
    first = cells.get("first_frame", "")
    if first and not video:
        raise DatasetLayoutError(f"first_frame '{first}' is for videos; a folder's frames have numbers in their names")
    if first not in {"", "0", "1"}:
        raise DatasetLayoutError(f"first_frame '{first}' must be 0 or 1: the number of the video's first frame")
    names = ("onset", "apex", "offset")
    if bool(cells["onset"]) != bool(cells["offset"]):
        given, empty = ("onset", "offset") if cells["onset"] else ("offset", "onset")
        raise DatasetLayoutError(
            f"{given} is {cells[given]} and {empty} is empty; fill both, or neither for all frames"
        )
    values: dict[str, object] = {name: cells[name] or None for name in names}
    if first == "1":
        for name in names:
            number = frame_number(cells[name])
            if number == 0:
                raise DatasetLayoutError(f"{name} is 0, but first_frame says that the video begins with 1")
            values[name] = cells[name] or None if number is None else number - 1
    return values | {"spans_folder": not cells["onset"]}


GENERIC = shipped("generic", is_release=is_release, read=read)
