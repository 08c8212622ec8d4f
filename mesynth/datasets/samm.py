"""SAMM (Davison et al., IEEE TAC 2018): 159 micro-movements of 29 people, grey, 200 frames a second.

Release layout: ``SAMM/006/006_1_2/006_05562.jpg`` (four or five digits) beside ``SAMM_Micro_FACS_Codes_v2.xlsx``,
whose sheet MICRO_ONLY has a preamble above its header; copies without it exist.
"""

from __future__ import annotations

import re
from pathlib import Path

from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_RAW = ("SAMM", "SAMM_raw", "SAMM_RAW_selected", "SAMM_micro", "raw")
_CROPPED = ("SAMM_cropped", "SAMM_CROP", "Cropped", "SAMM_crop_align")
_BOOK = re.compile(r"samm.*(micro|facs).*\.xlsx?$", re.IGNORECASE)
_COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("Onset Frame", "Onset"),
    "apex": ("Apex Frame", "Apex"),
    "offset": ("Offset Frame", "Offset"),
    "duration": ("Duration",),
    "kind": ("Micro", "Type"),
    "aus": ("Action Units", "AUs", "AU"),
    "emotion": ("Estimated Emotion", "Emotion"),
    "objective": ("Objective Classes", "Objective Class"),
}
_OPTIONAL = ("duration", "kind", "objective")
_SECOND = 200  # frames; coded movements last half of it at most
_CLIP = re.compile(r"0*(\d+)(_\d+_\d+)")


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a SAMM release; looks at its listing alone."""
    return any(map(is_workbook, folder.iterdir()))


def is_workbook(file: Path) -> bool:
    """Whether a file is called like the workbook of micro-movements."""
    return _BOOK.match(file.name) is not None


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the sheet MICRO_ONLY. Raises DatasetLayoutError."""
    folder = _frame_folder(root, frames)
    sheet = files.read_workbook(_workbook(root, annotation), _COLUMNS, _OPTIONAL, sheets=("MICRO_ONLY",))
    people = files.numbered_folders(folder)
    rows = [cells for cells in sheet.rows if files.text_of(cells["subject"]) or files.text_of(cells["clip"])]
    notes = []
    if len(rows) < len(sheet.rows):
        notes.append(f"{len(sheet.rows) - len(rows)} rows without subject and file name left out")
    place = folder.relative_to(root).as_posix().removeprefix(".")
    return Release(
        lines=tuple(_line(place, people, sheet.path, cells) for cells in rows),
        sheet=sheet.name,
        columns=sheet.columns,
        sources=(sheet.path.name,),
        notes=tuple(notes),
    )


def _frame_folder(root: Path, frames: str) -> Path:
    """The folder of the subjects' folders; the root itself where they lie beside the workbook."""
    names = files.rendering(frames, _RAW, _CROPPED)
    found = files.find_folder(root, *names)
    if found is not None:
        return files.find_folder(found, *names) or found
    if frames != "cropped" and root.is_dir() and any(re.fullmatch(r"\d{3}", p.name) for p in root.iterdir()):
        return root
    raise files.no_folder(f"{names[0]} and no subject folder like 006", root, "SAMM")


def _workbook(root: Path, annotation: Path | None) -> Path:
    book = next((p for p in files.workbooks(root) if is_workbook(p)), None)
    return files.annotation_file(annotation, book, "SAMM_Micro_FACS_Codes_v2.xlsx", root)


def _line(place: str, people: dict[int, str], book: Path, cells: dict[str, object]) -> AnnotatedClip:
    subject, clip = files.text_of(cells["subject"]), files.text_of(cells["clip"])
    match = _CLIP.fullmatch(clip)
    if not subject.isdecimal() or not match:
        problem = f"row with subject '{subject}' and file name '{clip}' in {book.name} names no clip"
        return AnnotatedClip(
            subject=subject, clip=clip, folder="", problem=f"{problem}; expected for example 006 and 006_1_2"
        )
    subject, clip = f"{int(subject):03d}", f"{int(match[1]):03d}{match[2]}"
    if not clip.startswith(subject):
        problem = f"clip {clip} in {book.name} is listed under subject {subject}; correct one of the cells"
        return AnnotatedClip(subject=subject, clip=clip, folder="", problem=problem)
    folder = "/".join(filter(None, (place, people.get(int(subject), subject), clip)))
    offset, warnings = _offset(cells)
    return AnnotatedClip.of_cells(
        cells,
        subject=subject,
        clip=clip,
        folder=folder,
        offset=offset,
        expression="macro" if files.text_of(cells.get("kind")).lower().startswith("macro") else "micro",
        warnings=warnings,
    )


def _offset(cells: dict[str, object]) -> tuple[object, tuple[str, ...]]:
    """The offset cell, or onset + duration - 1 where it cannot be meant.

    The sheet's duration counts frames. An offset before the onset or more than a second after it is a slip of the
    pen; a smaller contradiction is only told, since it may be the duration that is wrong.
    """
    onset, offset, duration = (files.frame_number(cells.get(name)) for name in ("onset", "offset", "duration"))
    if onset is None or not duration or offset == onset + duration - 1:
        return cells["offset"], ()
    said = f"offset {files.text_of(cells['offset'])} contradicts onset {onset} and duration {duration}"
    if offset is not None and onset < offset <= onset + _SECOND:
        return cells["offset"], (said,)
    return onset + duration - 1, (f"{said}; {onset + duration - 1} taken",)


SAMM = shipped("samm", is_release=is_release, read=read)
