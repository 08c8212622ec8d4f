"""SMIC (Li et al., FG 2013): 164 clips of 16 people at 100 frames a second, and 71 at 25 in colour and near infrared.

Release layout: ``SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp`` (``SMIC_all_cropped/...`` with
``reg_image559740.bmp``), ``VIS`` and ``NIR`` beside ``HS``. There is no workbook: the folder decides the class, the
first and last frame are onset and offset, and no apex is annotated.

SMIC-E, the extended release, may lie under the same root: long videos in which a workbook marks one to three
micro-expressions. ``HS_long/SMIC-HS-E/s03/s3_ne_01/image00559700.jpg`` (sometimes with a further folder ``HS``
between) beside ``SMIC-HS-E_annotation.xlsx``: Subject, Filename, OnsetF, OffsetF, Onset2F, Offset2F, (Onset3F,
Offset3F), FirstF, LastF, Emotion; rows of text follow the data. Frames outside the marked spans show no
micro-expression.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError, WrongRoot
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_EMOTION_OF = {"ne": "negative", "po": "positive", "sur": "surprise"}
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
_LONG_CLIP = re.compile(r"s0*(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)


def _read_long(root: Path, camera: str, fps: float, annotation: Path | None) -> Release:
    """The marked expressions of one camera ("hs", "vis", "nir"). Raises DatasetLayoutError."""
    places = _places(root, camera)
    book = files.given_file(annotation) if annotation else _workbook(places, camera)
    base, people = _people(places, camera, root)
    sheet = files.read_workbook(book, _COLUMNS, _OPTIONAL, sheets=(camera, f"SMIC-{camera}-E"))
    lines: list[AnnotatedClip] = []
    left_out: list[str] = []
    text_rows = absent = 0
    for cells in sheet.rows:
        match = _LONG_CLIP.fullmatch(files.text_of(cells["clip"]))
        if not match:
            text_rows += 1
            continue
        person = int(match[1])
        folder = base / people.get(person, f"s{person:02d}") / files.text_of(cells["clip"])
        place = folder.relative_to(root).as_posix()
        if files.text_of(cells.get("first")) and files.frame_number(cells.get("first")) is None and not folder.is_dir():
            absent += 1  # the release says in words that this video was lost
            left_out.append(place)
            continue
        lines += _long_lines(match, cells, place, camera)
    notes = ["frames outside the marked spans, and folders no row names, hold no micro-expression"]
    if text_rows:
        notes.append(f"{text_rows} rows of text below the data left out")
    if absent:
        notes.append(f"{absent} rows left out: their FirstF says in words that the video is missing")
    return Release(
        lines=tuple(lines),
        sources=(files.place_of(book, root),),
        notes=tuple(notes),
        fps=fps,
        left_out=tuple(left_out),
    )


def _long_lines(match: re.Match[str], cells: dict[str, object], place: str, camera: str) -> list[AnnotatedClip]:
    subject, emotion = f"s{int(match[1]):02d}", _EMOTION_OF[match[2].lower()]
    prefix = "long_" if camera == "hs" else f"{camera}_long_"
    said, problem = files.text_of(cells.get("emotion")).lower(), ""
    warnings = []
    number = files.text_of(cells["subject"]).lower().removeprefix("s")
    if number.isdecimal() and int(number) != int(match[1]):
        problem = f"clip {match[0]} is listed under subject {files.text_of(cells['subject'])}; correct one of the cells"
    if said and _EMOTION_OF.get(said, said) != emotion:
        warnings.append(f"the clip's name says {emotion}, the column {said}; the name counts")
    lines = []
    for index, (onset, offset) in enumerate(_SPANS):
        if index and cells.get(onset) is None and cells.get(offset) is None:
            continue
        lines.append(
            AnnotatedClip(
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
    books = [book for place in places for book in files.workbooks(place) if book.stem.lower().startswith("smic")]
    named = {book: re.findall("|".join(_CAMERAS), book.stem.lower()) for book in books}
    for book in sorted(books, key=lambda b: (camera not in named[b], bool(named[b]))):
        if camera in named[book] or not named[book]:
            return book
        if camera in {sheet.lower() for sheet in files.read_cells(book)}:
            return book
    raise files.no_file(f"SMIC-{camera.upper()}-E_annotation.xlsx", places[0], f" or its {camera.upper()}_long")


def _places(root: Path, camera: str) -> list[Path]:
    """Folders that may hold the workbook or the people: the root, HS_long, SMIC-HS-E and the like."""
    names = (f"{camera}_long", f"{camera}-long", f"SMIC-{camera}-E", f"SMIC_{camera}_E", camera)
    extended = files.find_folder(root, "SMIC-E_raw image", "SMIC-E_raw_image", "SMIC-E")
    places = [root, extended] if extended else [root]
    for place in places:  # grows: each folder found is searched in turn
        places += [found for name in names if (found := files.find_folder(place, name)) and found not in places]
    return places


def _people(places: list[Path], camera: str, root: Path) -> tuple[Path, dict[int, str]]:
    """The deepest place that holds people's folders ``s03``, and their names."""
    for place in reversed(places):
        if place != root and (people := files.numbered_folders(place, "s")):
            return place, people
    side = camera.upper()
    raise files.no_folder(f"like {side}_long/SMIC-{side}-E/s03", root, "SMIC-E", places[-1])


# ---------------------------------------------------------------- smic


_EMOTIONS = tuple(_EMOTION_OF.values())
_RAW = ("SMIC_all_raw", "SMIC_raw", "SMIC-raw")
_CROPPED = ("SMIC_all_cropped", "SMIC_cropped", "SMIC-cropped")
_CLIP = re.compile(r"s0*(\d+)_([a-z]+)_0*(\d+)", re.IGNORECASE)
_FPS = {"hs": 100.0, "vis": 25.0, "nir": 25.0}
_SIGN = re.compile(
    r"smic([_-]all)?[_-](raw|cropped)$|smic[_-](hs|vis|nir)[_-]e|(hs|vis|nir)[_-]long$|smic[_-]e([ _-]|$)",
    re.IGNORECASE,
)


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a SMIC or SMIC-E release, or one of its people's folders."""
    names = {p.name.lower() for p in folder.iterdir()}
    return any(map(_SIGN.match, names)) or {"micro", "non_micro"} <= names


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The clips of one camera: the folder tree is the annotation. Raises DatasetLayoutError."""
    camera, _, long = part.partition("-") if part != "long" else ("hs", "", "long")
    if long:
        return _read_long(root, camera, _FPS[camera], annotation)
    if annotation:
        raise DatasetLayoutError(
            f"part {part} of SMIC has no annotation file, its folders say the class; leave out --annotation "
            f"{annotation}, or take part {'long' if part == 'hs' else f'{part}-long'}"
        )
    base = _camera_folder(root, camera, frames)
    lines = tuple(_lines(root, base, "" if camera == "hs" else f"{camera}_"))
    if not lines:
        raise WrongRoot(f"{base} holds no clip like s1/micro/negative/s1_ne_01: {files.contents(base)}")
    return Release(lines=lines, fps=_FPS[camera])


def _camera_folder(root: Path, camera: str, frames: str) -> Path:
    names = files.rendering(frames, _RAW, _CROPPED)
    tried = [files.find_folder(root, name) for name in names]
    # archives that unpack into a folder of the same name; copies that hold HS beside nothing else
    bases = [files.find_folder(p, p.name) or p for p in tried if p] or ([root] if frames != "cropped" else [])
    for base in bases:
        if found := files.find_folder(base, camera, f"SMIC-{camera}", f"SMIC_{camera}"):
            return found
    raise files.no_folder(f"{names[0]}/{camera.upper()}", root, "SMIC", next(iter(bases), None))


def _lines(root: Path, base: Path, prefix: str) -> Iterator[AnnotatedClip]:
    for person, name in sorted(files.numbered_folders(base, "s").items()):
        # some copies leave out the level of micro and non_micro
        micro = files.find_folder(base / name, "micro") or base / name
        for emotion in _EMOTIONS:
            folder = files.find_folder(micro, emotion)
            if folder is None:
                continue
            with os.scandir(folder) as entries:
                clips = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            for clip in clips:
                yield _line(f"s{person:02d}", prefix, clip, emotion, (folder / clip).relative_to(root).as_posix())


def _line(subject: str, prefix: str, clip: str, emotion: str, place: str) -> AnnotatedClip:
    match = _CLIP.fullmatch(clip)
    warnings, problem = [], ""
    if match and f"s{int(match[1]):02d}" != subject:
        problem = f"clip folder {place} lies with subject {subject}; move it to the subject of its name"
    elif match and (named := _EMOTION_OF.get(match[2].lower())) and named != emotion:
        warnings.append(f"the clip's name says {named}, its folder {emotion}; the folder counts")
    return AnnotatedClip(
        subject=subject,
        clip=prefix + clip,
        folder=place,
        spans_folder=True,
        emotion=emotion,
        label=emotion,
        warnings=tuple(warnings),
        problem=problem,
    )


SMIC = shipped("smic", is_release=is_release, read=read)
