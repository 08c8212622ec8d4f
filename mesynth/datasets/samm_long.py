"""SAMM Long Videos (Yap, Kendrick and Yap, FG 2020): 147 videos of SAMM's people, 159 micro- and 343 macro-movements.

Release layout: a folder a video, ``SAMM_longvideos/006_1/006_1_0001.jpg`` (subject and stimulus; four or five digits, from
1 on, 200 frames a second), beside ``SAMM_LongVideos_V1_Release.xlsx`` (V2, V3), whose sheet FACS_Movement_Only has nine
rows above its header. The people are SAMM's and keep its keys: ``samm/006`` is one person, whatever release shows it.
"""  # noqa: E501

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped
from mesynth.datasets.samm import SAMM
from mesynth.datasets.samm import is_workbook as is_samm_workbook

_RAW = ("SAMM_longvideos", "SAMM_LongVideos", "SAMM Long Videos", "longvideos")
_CROPPED = ("cropped_SAMM_longvideos", "SAMM_longvideos_cropped", "Cropped")
_BOOK = re.compile(r"samm.*long.*\.xlsx?$", re.IGNORECASE)
_COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("Onset", "Onset Frame"),
    "apex": ("Apex", "Apex Frame"),
    "offset": ("Offset", "Offset Frame"),
    "duration": ("Duration",),
    "kind": ("Type", "Micro"),
    "aus": ("Action Units", "Action Unit", "AUs", "AU", "Action"),
}
_CLIP = re.compile(r"0*(\d+)_0*(\d+)_(\d+)")
_VIDEO = re.compile(r"0*(\d+)_0*(\d+)")
_NEITHER = ("other", "others")


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a SAMM Long Videos release; looks at its listing alone."""
    return any(_BOOK.match(p.name) for p in folder.iterdir())


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the sheet FACS_Movement_Only of one expression type, or of both. Raises DatasetLayoutError."""
    folder = _frame_folder(root, frames)
    sheet = files.read_workbook(
        _workbook(root, annotation), _COLUMNS, ("duration", "aus"), sheets=("FACS_Movement_Only",)
    )
    words, word_book = _words(root)
    places = _Places(files.below(root, folder), files.subfolders(folder))
    lines, left_out = [], set()
    text, neither = 0, Counter[str]()
    for cells in sheet.rows:
        name, kind = files.text_of(cells["clip"]), _kind(cells["kind"])
        if not _CLIP.fullmatch(name) and files.frame_number(cells["onset"]) is None:
            text += 1
        elif kind == "":
            neither[files.text_of(cells["kind"])] += 1
            left_out.add(places.of(name))
        elif kind in {None, part} or part == "all":
            lines.append(_line(sheet.path.name, cells, kind, places, words))
        else:
            left_out.add(places.of(name))
    notes = [f"{text} rows of {sheet.path.name} hold text only and were left out"] if text else []
    notes += [f"{n} rows are of type {word}, neither micro nor macro, and were left out" for word, n in neither.items()]
    if word_book:
        notes.append(f"emotions and objective classes of micro-movements are those of {word_book}")
    return Release(
        lines=tuple(lines),
        sheet=sheet.name,
        columns=sheet.columns,
        sources=(files.place_of(sheet.path, root), *filter(None, (word_book,))),
        notes=tuple(notes),
        left_out=tuple(sorted(left_out - {line.folder for line in lines} - {""})),
    )


def _workbook(root: Path, annotation: Path | None) -> Path:
    """The newest version, where several lie there."""
    found = [book for book in files.workbooks(root) if _BOOK.match(book.name)]
    return files.annotation_file(annotation, found[-1] if found else None, "SAMM_LongVideos_V3_Release.xlsx", root)


def _frame_folder(root: Path, frames: str) -> Path:
    """The folder of the videos' folders; the root itself where they lie beside the workbook."""
    names = files.rendering(frames, _RAW, _CROPPED)
    found = files.find_folder(root, *names)
    if found is not None:
        return files.find_folder(found, *names) or found
    if frames != "cropped" and any(map(_VIDEO.fullmatch, files.subfolders(root))):
        return root
    raise files.no_folder(f"{names[0]} and no video's folder like 006_1", root, "SAMM Long Videos")


class _Places:
    """Where a video's frames lie, whatever the padding of its folder's name."""

    def __init__(self, base: str, names: dict[str, str]) -> None:
        self.base = base
        self.names = {(int(m[1]), int(m[2])): name for low, name in names.items() if (m := _VIDEO.fullmatch(low))}

    def of(self, clip: str) -> str:
        """Folder of 006_1_2, "" where that names no clip; one that is not there gets its usual name."""
        match = _CLIP.fullmatch(clip)
        if not match:
            return ""
        key = int(match[1]), int(match[2])
        return f"{self.base}{self.names.get(key, f'{key[0]:03d}_{key[1]}')}"


@dataclass(frozen=True)
class _Words:
    """Of a micro-movement of SAMM."""

    emotion: str
    objective: str


def _words(root: Path) -> tuple[dict[str, _Words], str]:
    """Emotions by clip, as SAMM's own workbook has them where it lies here too, and its name: this release has none."""
    book = next((p for p in files.workbooks(root) if is_samm_workbook(p)), None)
    if book is None:
        return {}, ""
    wanted = {"clip": ("Filename",), "emotion": ("Estimated Emotion", "Emotion"), "objective": ("Objective Classes",)}
    rows = files.read_workbook(book, wanted, ("objective",), sheets=("MICRO_ONLY",)).rows
    return {
        "_".join(str(int(n)) for n in match.groups()): _Words(
            files.text_of(row["emotion"]), files.roman_class(row.get("objective"))
        )
        for row in rows
        if (match := _CLIP.fullmatch(files.text_of(row["clip"])))
    }, book.name


def _kind(cell: object) -> str | None:
    """micro, macro, "" for what says that it is neither; None where the cell cannot be read.

    >>> _kind("Micro - 1/2"), _kind("Macro"), _kind("Other"), _kind(None)
    ('micro', 'macro', '', None)
    """
    text = files.text_of(cell).lower()
    found = next((kind for kind in ("micro", "macro") if text.startswith(kind)), None)
    return "" if text in _NEITHER else found


def _line(
    book: str, cells: dict[str, object], kind: str | None, places: _Places, words: dict[str, _Words]
) -> AnnotatedClip:
    subject, clip = files.text_of(cells["subject"]), files.text_of(cells["clip"])
    match = _CLIP.fullmatch(clip)
    if not subject.isdecimal() or not match:
        return _bad(
            subject, clip, f"row with subject '{subject}' and file name '{clip}' in {book} names no clip; expected for "
            "example 006 and 006_1_2"
        )  # fmt: skip
    person, folder = f"{int(subject):03d}", places.of(clip)
    clip = f"{int(match[1]):03d}_{int(match[2])}_{match[3]}"
    if int(match[1]) != int(subject):
        return _bad(person, clip, f"clip {clip} in {book} is listed under subject {person}; correct one of the cells")
    if kind is None:
        said = files.text_of(cells["kind"])
        return _bad(person, clip, f"clip {clip} in {book} is of type '{said}'; expected Micro - 1/2, Macro or Other")
    onset, offset, warnings = _ends(cells)
    word = words.get(f"{int(match[1])}_{int(match[2])}_{int(match[3])}") if kind == "micro" else None
    return AnnotatedClip.of_cells(
        cells, subject=person, clip=clip, folder=folder, onset=onset, offset=offset, expression=kind,
        database=SAMM.name, warnings=warnings,
        **({"emotion": word.emotion, "objective": word.objective} if word else {}),
    )  # fmt: skip


def _bad(subject: str, clip: str, problem: str) -> AnnotatedClip:
    return AnnotatedClip(subject=subject, clip=clip, folder="", database=SAMM.name, problem=problem)


def _ends(cells: dict[str, object]) -> tuple[object, object, tuple[str, ...]]:
    """Onset and offset; the apex for one that is 0 or negative, which no frame is: it was not seen. Without an apex it
    stays unknown, and the clip cannot be used: the video's first frame is no onset."""
    ends, said = {"onset": cells["onset"], "offset": cells["offset"]}, []
    apex = files.frame_number(cells.get("apex"))
    for name, verb in (("onset", "begins"), ("offset", "ends")):
        text = files.text_of(ends[name])
        if not re.fullmatch(r"-\d+|0+", text):
            continue
        ends[name] = apex or f"{text} (not seen)"
        if apex:
            said.append(f"{name} {text} means that none was seen; the clip {verb} at the apex")
    onset, offset = map(files.frame_number, ends.values())
    duration = files.frame_number(cells.get("duration"))
    if onset is not None and offset is not None and offset < onset and duration:
        ends["offset"] = onset + duration - 1
        said.append(f"offset {offset} lies before onset {onset}; {ends['offset']} taken, by duration {duration}")
    return ends["onset"], ends["offset"], tuple(said)


SAMM_LONG = shipped("samm_long", is_release=is_release, read=read)
