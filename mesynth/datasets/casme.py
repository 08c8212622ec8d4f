"""CASME (Yan et al., FG 2013): 195 clips of 19 people at 60 frames a second, from two cameras.

Release layout: ``CASME_raw_selected/sub01/EP01_5/EP01_5-7.jpg`` (or ``Cropped/sub01/EP01_5/reg_EP01_5-7.jpg``)
beside a workbook of 189 rows. Frame numbers are unpadded for camera A and of three digits for camera B.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_RAW = ("CASME_raw_selected", "CASME-raw-selected", "CASME_raw", "CASME_RAW_selected", "raw_selected")
_CROPPED = ("Cropped", "CASME_Cropped", "CASME-Cropped")
_BOOK = re.compile(r"casme(?![ _-]*(2|3|ii|sq|\^)).*\.xlsx?$", re.IGNORECASE)  # not of the later databases
_COLUMNS = {
    "subject": ("Subject", "Sub"),
    "clip": ("Filename", "File name", "Clip"),
    "onset": ("OnsetF", "OnsetFrame", "Onset"),
    "apex": ("ApexF1", "ApexF", "ApexFrame", "Apex"),
    "apex2": ("ApexF2",),
    "offset": ("OffsetF", "OffsetFrame", "Offset"),
    "aus": ("AU", "AUs", "Action Units"),
    "emotion": ("Emotion", "Estimated Emotion"),
}


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CASME release; looks at its listing alone."""
    names = {p.name.lower() for p in folder.iterdir()}
    return any(n.lower() in names for n in _RAW if n.startswith("CASME")) or any(map(_BOOK.match, names))


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the workbook. Raises DatasetLayoutError."""
    folder = files.release_folder(root, files.rendering(frames, _RAW, _CROPPED), "CASME")
    sheet = files.read_workbook(_workbook(root, annotation), _COLUMNS, optional=("apex2",))
    people = files.numbered_folders(folder, "sub")
    return Release(
        lines=tuple(_line(root, folder, people, sheet.path, cells) for cells in sheet.rows),
        sources=(sheet.path.name,),
    )


def _workbook(root: Path, annotation: Path | None) -> Path:
    books = files.workbooks(root)
    named = [p for p in books if _BOOK.match(p.name)] or (books if len(books) == 1 else [])
    return files.annotation_file(annotation, next(iter(named), None), "casme.xlsx", root)


def _line(root: Path, folder: Path, people: dict[int, str], book: Path, cells: dict[str, object]) -> AnnotatedClip:
    clip, text = files.text_of(cells["clip"]), files.text_of(cells["subject"]).lower().removeprefix("sub")
    if not text.isdecimal() or not clip:
        problem = (
            f"row with subject '{files.text_of(cells['subject'])}' and file name '{clip}' in {book.name} names no clip"
        )
        return AnnotatedClip(
            subject=text, clip=clip, folder="", problem=f"{problem}; expected for example 1 and EP01_5"
        )
    subject = f"sub{int(text):02d}"
    place = folder.relative_to(root) / people.get(int(text), subject) / clip
    line = AnnotatedClip.of_cells(cells, subject=subject, clip=clip, folder=place.as_posix())
    second = files.frame_number(cells.get("apex2"))
    if second is not None:
        line = replace(line, warnings=(f"a second apex is annotated at frame {second}; the first is taken",))
    return _mended(root, line)


def _mended(root: Path, line: AnnotatedClip) -> AnnotatedClip:
    """The line, or the whole folder where its numbers cannot be meant.

    A few rows of the workbook name frames that their clip folder does not hold at all. The folder holds the clip,
    so it decides.
    """
    try:
        numbers = list(files.list_frames(root / line.folder))
    except DatasetLayoutError:  # the engine says which folder is missing
        return line
    onset, offset = files.frame_number(line.onset), files.frame_number(line.offset)
    if onset is None or offset is None or len(numbers) < 2:
        return line
    if sum(onset <= n <= offset for n in numbers) > 1:
        return line
    said = (
        f"onset {onset} and offset {offset} do not enclose the folder's frames {numbers[0]} to {numbers[-1]}; "
        "the whole folder is taken"
    )
    apex = files.frame_number(line.apex)
    inside = apex is not None and numbers[0] < apex < numbers[-1]
    return replace(
        line,
        onset=numbers[0],
        apex=line.apex if inside else None,
        offset=numbers[-1],
        warnings=(*line.warnings, said),
    )


CASME = shipped("casme", is_release=is_release, read=read)
