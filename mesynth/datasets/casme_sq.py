"""CAS(ME)^2 (Qu et al., IEEE TAC 2018): 57 micro- and 300 macro-expressions of 22 people at 30 frames a second.

Release layout: whole videos ``rawpic/s15/15_0101disgustingteeth/img001.jpg``, and the expressions alone as
``selectedpic/s15/anger1_1/img557.jpg`` and ``cropped/15/anger1_1/img557.jpg``; frame numbers are those of the video.
The workbook has no header: its columns are told by what they hold. Two further sheets translate the subject's
index to the folder (1 -> s15) and the video's name to its code (disgust1 -> 0101).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_FRAMES = {"raw": "rawpic", "selected": "selectedpic", "cropped": "cropped"}  # auto takes the first that is there
_TYPES = {"micro-expression": "micro", "macro-expression": "macro"}
_WORDS = frozenset({"positive", "negative", "surprise", "others"})
_WORKBOOK = re.compile(r"(cas\(?me\)?[\^_ ]?2.*code|^code)_?final.*\.xlsx?$", re.IGNORECASE)
_CLIP = re.compile(r"^([a-z]+\d)_\d+$", re.IGNORECASE)
# Where a copy lacks the naming sheets: people and films of the release, as public loaders list them.
_SUBJECTS = dict(enumerate((15, 16, *range(19, 28), *range(29, 39), 40), start=1))
_VIDEOS = {
    "disgust1": "0101", "disgust2": "0102", "anger1": "0401", "anger2": "0402", "happy1": "0502", "happy2": "0503",
    "happy3": "0505", "happy4": "0507", "happy5": "0508",
}  # fmt: skip

_Cells = Sequence[object]


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CAS(ME)^2 release: its workbook, or its whole and its selected frames."""
    names = {p.name.lower() for p in folder.iterdir()}
    return any(_WORKBOOK.search(n) for n in names) or ("rawpic" in names and bool({"selectedpic", "cropped"} & names))


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The workbook's lines of one expression type. Raises DatasetLayoutError."""
    book = _workbook(root, annotation)
    sheets = files.read_cells(book)
    table = _table(book, sheets)
    subjects, videos, notes = _naming(sheets)
    places = _Places(root, _frame_folder(root, frames))
    wanted = {"micro", "macro"} if part == "all" else {part}
    lines, left_out, skipped = [], set(), 0
    for cells in table.rows:
        if not _CLIP.match(files.text_of(cells[table.clip])) and files.frame_number(cells[table.clip + 1]) is None:
            skipped += 1
            continue
        line = _line(book, table, cells, subjects, videos, places)
        if _type(cells[table.type]) in {None, *wanted}:
            lines.append(line)
        else:
            left_out.add(line.folder)
    if skipped:
        notes.append(f"{skipped} rows of {book.name} hold text only and were left out")
    return Release(
        lines=tuple(lines),
        sources=(book.name,),
        notes=tuple(notes),
        left_out=tuple(sorted(left_out - {line.folder for line in lines})),
    )


# ---------------------------------------------------------------- the workbook


def _workbook(root: Path, annotation: Path | None) -> Path:
    found = [book for book in files.workbooks(root) if _WORKBOOK.search(book.name)]
    best = next((book for book in found if "updated" in book.name.lower()), found[-1] if found else None)
    return files.annotation_file(annotation, best, "CAS(ME)^2code_final.xlsx", root)


@dataclass(frozen=True)
class _Table:
    """The coding sheet without its empty columns, and where each kind of cell lies."""

    rows: tuple[_Cells, ...]
    clip: int
    aus: int | None
    type: int
    emotion: int | None


def _table(book: Path, sheets: dict[str, list[tuple[object, ...]]]) -> _Table:
    """Columns by content: clip names, then subject before and three frame numbers, AUs after; types; emotion words."""
    for rows in (rows for _, rows in sorted(sheets.items(), key=lambda item: "code" not in item[0].lower())):
        width = max((len(row) for row in rows), default=0)
        padded = [(*row, *(None,) * (width - len(row))) for row in rows]
        filled = [i for i in range(width) if any(row[i] is not None for row in padded)]
        table = [tuple(row[i] for i in filled) for row in padded]
        clip = _most(table, lambda cell: bool(_CLIP.match(files.text_of(cell))))
        kind = _most(table, lambda cell: _type(cell) is not None)
        if clip is None or kind is None or not 1 <= clip <= kind - 4:
            continue
        emotion = _most(table, lambda cell: files.text_of(cell).lower() in _WORDS)
        aus = None if clip + 4 in {emotion, kind} else clip + 4  # a column of which every cell is empty is gone
        return _Table(tuple(row for row in table if any(c is not None for c in row)), clip, aus, kind, emotion)
    raise DatasetLayoutError(
        f"workbook {book} has no sheet with clip names such as anger1_1, three frame numbers after them, and "
        "micro-expression or macro-expression; is it the coding file of CAS(ME)^2?"
    )


def _most(table: Sequence[_Cells], matches: Callable[[object], bool]) -> int | None:
    """The column where most cells match; None where no cell does."""
    counts: list[int] = [sum(map(matches, column)) for column in zip(*table, strict=True)]
    best: int = max(counts, default=0)
    return counts.index(best) if best else None


def _type(cell: object) -> str | None:
    return _TYPES.get(re.sub(r"[\s_-]+", "-", files.text_of(cell).lower()))


def _naming(sheets: dict[str, list[tuple[object, ...]]]) -> tuple[dict[int, int], dict[str, str], list[str]]:
    """Subject index -> number of the person's folder; video name -> code; what to tell."""
    subjects: dict[int, int] = {}
    videos: dict[str, str] = {}
    for name, rows in sheets.items():
        if "rule" not in name.lower():
            continue
        for row in rows:
            texts = [files.text_of(cell) for cell in row if cell is not None]
            folder = next((i for i, t in enumerate(texts) if re.fullmatch(r"s\d+", t, re.IGNORECASE)), None)
            if folder is not None:  # 15 | s15 | 1
                index = next((int(t) for t in texts[folder + 1 :] if t.isdecimal()), None)
                if index is not None:
                    subjects[index] = int(texts[folder][1:])
            elif len(texts) >= 2 and texts[0].isdecimal() and re.fullmatch(r"[a-z]+\d", texts[1], re.IGNORECASE):
                videos[texts[1].lower()] = texts[0].zfill(4)  # 0101 | disgust1, the code often stored as a number
    notes = []
    if not subjects or not videos:
        notes.append("a naming rule sheet is missing; the release's own numbering of people and videos was used")
    return subjects or dict(_SUBJECTS), videos or dict(_VIDEOS), notes


# ---------------------------------------------------------------- folders


def _frame_folder(root: Path, frames: str) -> Path:
    names = tuple(_FRAMES.values()) if frames == "auto" else (_FRAMES[frames],)
    found = files.find_folder(root, *names)
    if found is None:
        raise files.no_folder(names[0], root, "CAS(ME)^2")
    return files.find_folder(found, found.name) or found  # some archives unpack into a folder of the same name


class _Places:
    """Where the frames of a clip lie: a folder of the clip, or of the video it was taken from."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.base = folder.relative_to(root).as_posix()
        self.people = files.subfolders(folder)
        self.raw = folder.name.lower() == "rawpic"
        self._inside = lru_cache(None)(lambda person: files.subfolders(folder / person))

    def find(self, person: int, clip: str, code: str) -> tuple[str, str]:
        """(folder relative to the root, warning). A folder that is not there gets its usual name."""
        own = next((self.people[n] for n in (f"s{person}", f"{person}", f"s{person:02d}") if n in self.people), "")
        if own and clip in self._inside(own):
            return f"{self.base}/{own}/{self._inside(own)[clip]}", ""
        for holder in (own, *sorted(set(self.people.values()) - {own})):
            for name in self._inside(holder).values() if holder else ():
                if re.match(rf"0*{person}_{code}", name):  # the video's own name says whose it is
                    stray = "" if holder == own else f"the frames of s{person} lie in the folder {holder}"
                    return f"{self.base}/{holder}/{name}", stray
        return f"{self.base}/{own or f's{person}'}/{f'{person}_{code}' if self.raw else clip}", ""


# ---------------------------------------------------------------- one clip


def _line(
    book: Path, table: _Table, cells: _Cells, subjects: dict[int, int], videos: dict[str, str], places: _Places
) -> AnnotatedClip:
    clip, index = files.text_of(cells[table.clip]), files.text_of(cells[table.clip - 1])
    match, kind = _CLIP.match(clip), _type(cells[table.type])
    person = subjects.get(int(index)) if index.isdecimal() else None
    problem = ""
    if person is None:
        problem = f"subject '{index}' of clip {clip} in {book.name} has no folder in the sheet 'naming rule1'"
    elif match is None or match[1].lower() not in videos:
        problem = f"clip '{clip}' of subject s{person} in {book.name} names no video of the sheet 'naming rule2'"
    elif kind is None:
        problem = (
            f"clip s{person}/{clip} in {book.name} is of type '{files.text_of(cells[table.type])}'; "
            "expected micro-expression or macro-expression"
        )
    if problem or person is None or match is None:
        return AnnotatedClip(
            subject=f"s{person or index}",
            clip=clip,
            folder=f"{places.base}/s{person or index}/{clip}",
            expression=kind or "micro",
            problem=f"{problem}; repair the cell",
        )
    folder, stray = places.find(person, clip.lower(), videos[match[1].lower()])
    onset, apex, offset = cells[table.clip + 1 : table.clip + 4]
    warnings = [stray] if stray else []
    if files.frame_number(offset) == 0:
        offset = apex
        warnings.append("offset 0 means that none was seen; the clip ends at the apex")
    return AnnotatedClip(
        subject=f"s{person}",
        clip=clip,
        folder=folder,
        onset=onset,
        apex=apex,
        offset=offset,
        aus=None if table.aus is None else cells[table.aus],
        emotion="" if table.emotion is None else files.text_of(cells[table.emotion]),
        expression=kind or "micro",
        warnings=tuple(warnings),
    )


CASME_SQ = shipped("casme_sq", is_release=is_release, read=read)
