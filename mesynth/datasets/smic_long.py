"""SMIC-E, the extended release of SMIC: long videos in which a workbook marks one to three micro-expressions.

``HS_long/SMIC-HS-E/s03/s3_ne_01/image00559700.jpg`` (sometimes with a further folder ``HS`` between) beside
``SMIC-HS-E_annotation.xlsx``: Subject, Filename, OnsetF, OffsetF, Onset2F, Offset2F, (Onset3F, Offset3F), FirstF,
LastF, Emotion; rows of text follow the data. Frames outside the marked spans show no micro-expression.
"""

from __future__ import annotations

import re
from pathlib import Path

from mesynth.datasets.database import Line, Release
from mesynth.datasets.disk import contents, find_folder, numbered_folders
from mesynth.datasets.workbook import frame_number, read_cells, read_workbook, text_of, workbooks
from mesynth.errors import DatasetLayoutError

EMOTION_OF = {"ne": "negative", "po": "positive", "sur": "surprise"}
"""Middle of a clip's name -> emotion."""

_CAMERAS = ("hs", "vis", "nir")
_COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("OnsetF", "Onset1F", "Onset"),
    "apex": ("ApexF", "Apex1F", "Apex"),
    "offset": ("OffsetF", "Offset1F", "Offset"),
    "onset2": ("Onset2F",),
    "offset2": ("Offset2F",),
    "onset3": ("Onset3F",),
    "offset3": ("Offset3F",),
    "first": ("FirstF",),
    "emotion": ("Emotion",),
}
_OPTIONAL = ("apex", "onset2", "offset2", "onset3", "offset3", "first", "emotion")
_SPANS = (("onset", "offset"), ("onset2", "offset2"), ("onset3", "offset3"))
_CLIP = re.compile(r"s0*(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)


def read(root: Path, camera: str, fps: float) -> Release:
    """The marked expressions of one camera ("hs", "vis", "nir"). Raises DatasetLayoutError."""
    places = _places(root, camera)
    book = _workbook(places, camera)
    base, people = _people(places, camera, root)
    sheet = read_workbook(book, _COLUMNS, _OPTIONAL, sheets=(camera, f"SMIC-{camera}-E"))
    lines: list[Line] = []
    left_out: list[str] = []
    text_rows = absent = 0
    for cells in sheet.rows:
        match = _CLIP.fullmatch(text_of(cells["clip"]))
        if not match:
            text_rows += 1
            continue
        person = int(match[1])
        folder = base / people.get(person, f"s{person:02d}") / text_of(cells["clip"])
        place = folder.relative_to(root).as_posix()
        if text_of(cells.get("first")) and frame_number(cells.get("first")) is None and not folder.is_dir():
            absent += 1  # the release says in words that this video was lost
            left_out.append(place)
            continue
        lines += _lines(match, cells, place, camera)
    notes = ["frames outside the marked spans, and folders no row names, hold no micro-expression"]
    if text_rows:
        notes.append(f"{text_rows} rows of text below the data left out")
    if absent:
        notes.append(f"{absent} rows left out: their FirstF says in words that the video is missing")
    return Release(
        lines=tuple(lines),
        sources=(book.relative_to(root).as_posix(),),
        notes=tuple(notes),
        fps=fps,
        left_out=tuple(left_out),
    )


def _lines(match: re.Match[str], cells: dict[str, object], place: str, camera: str) -> list[Line]:
    subject, emotion = f"s{int(match[1]):02d}", EMOTION_OF[match[2].lower()]
    prefix = "long_" if camera == "hs" else f"{camera}_long_"
    said, problem = text_of(cells.get("emotion")).lower(), ""
    warnings = []
    number = text_of(cells["subject"]).lower().removeprefix("s")
    if number.isdigit() and int(number) != int(match[1]):
        problem = f"clip {match[0]} is listed under subject {text_of(cells['subject'])}; correct one of the cells"
    if said and EMOTION_OF.get(said, said) != emotion:
        warnings.append(f"the clip's name says {emotion}, the column {said}; the name counts")
    lines = []
    for index, (onset, offset) in enumerate(_SPANS):
        if index and cells.get(onset) is None and cells.get(offset) is None:
            continue
        lines.append(
            Line(
                subject=subject,
                clip=prefix + match[0],
                folder=place,
                onset=cells.get(onset),
                apex=None if index else cells.get("apex"),
                offset=cells.get(offset),
                emotion=emotion,
                label=emotion,
                warnings=tuple(warnings),
                problem=problem,
            )
        )
    return lines


def _workbook(places: list[Path], camera: str) -> Path:
    """The camera's annotation: a workbook that names it, one that names no camera, or one with a sheet of it."""
    books = [book for place in places for book in workbooks(place) if book.stem.lower().startswith("smic")]
    named = {book: re.findall("|".join(_CAMERAS), book.stem.lower()) for book in books}
    for book in sorted(books, key=lambda b: (camera not in named[b], bool(named[b]))):
        if camera in named[book] or not named[book]:
            return book
        if camera in {sheet.lower() for sheet in read_cells(book)}:
            return book
    raise DatasetLayoutError(
        f"no workbook like SMIC-{camera.upper()}-E_annotation.xlsx in {places[0]} or its {camera.upper()}_long: "
        f"{contents(places[0])}; give the folder of the SMIC-E release"
    )


def _places(root: Path, camera: str) -> list[Path]:
    """Folders that may hold the workbook or the people: the root, HS_long, SMIC-HS-E and the like."""
    names = (f"{camera}_long", f"{camera}-long", f"SMIC-{camera}-E", f"SMIC_{camera}_E", camera)
    extended = find_folder(root, "SMIC-E_raw image", "SMIC-E_raw_image", "SMIC-E")
    places = [root, extended] if extended else [root]
    for place in places:  # grows: each folder found is searched in turn
        places += [found for name in names if (found := find_folder(place, name)) and found not in places]
    return places


def _people(places: list[Path], camera: str, root: Path) -> tuple[Path, dict[int, str]]:
    """The deepest place that holds people's folders ``s03``, and their names."""
    for place in reversed(places):
        if place != root and (people := numbered_folders(place, "s")):
            return place, people
    raise DatasetLayoutError(
        f"no folder like {camera.upper()}_long/SMIC-{camera.upper()}-E/s03 in {root}: {contents(places[-1])}; give "
        "the folder of the SMIC-E release"
    )
