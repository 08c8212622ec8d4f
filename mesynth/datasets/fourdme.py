"""4DME (Li et al., IEEE TAC 2023): 267 micro-expressions, read from the grey-level videos of its four modalities.

Release layout: ``gray_micro/{sub_ID}/{fold_name}/`` beside ``4DME_Labelling_Micro_release v1.xlsx``. A clip may have
several emotions (``Surprise+Positive``), also given as a column each; an action unit that is there throughout is
marked ``4(k)`` and is no part of the expression.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from mesynth.core.emotions import plain_emotion
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_FRAMES = {"raw": "gray_micro", "cropped": "gray_micro_crop"}
_AROUND = ("4DME", "4DMicro")
_EMOTIONS = ("positive", "negative", "surprise", "repression", "others")
_COLUMNS = {
    "subject": ("sub_ID", "Subject"),
    "clip": ("fold_name", "Filename"),
    "emotion": ("Emotion",),
    "onset": ("Onset",),
    "apex": ("Apex",),
    "offset": ("Offset",),
    "aus": ("AUs", "AU"),
    "blink": ("eye blink", "eye_blink", "blink"),
    **{word: (word,) for word in _EMOTIONS},
}


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a 4DME release: its workbook, or its grey-level frames."""
    names = {p.name.lower() for p in folder.iterdir()}
    return "gray_micro" in names or any(re.match(r"4dme_labell?ing.*\.xlsx?$", name) for name in names)


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the labelling workbook. Raises DatasetLayoutError."""
    books = [book for book in files.nested_workbooks(root, *_AROUND) if book.name.lower().startswith("4dm")]
    found = next((book for book in books if "micro" in book.name.lower()), next(iter(books), None))
    book = files.annotation_file(annotation, found, "4DME_Labelling_Micro_release v1.xlsx", root)
    sheet = files.read_workbook(book, _COLUMNS, ("blink", *_EMOTIONS))
    places = _Places(root, frames)
    rows = [row for row in sheet.rows if row["clip"] is not None]  # a last row counts the action units
    skipped = len(sheet.rows) - len(rows)
    return Release(
        lines=tuple(_line(row, places) for row in rows),
        sources=(files.place_of(book, root),),
        notes=(f"{skipped} rows of {book.name} name no clip and were left out",) if skipped else (),
    )


class _Places:
    """``gray_micro/{sub_ID}/{fold_name}``, in whatever case, with or without the stray dash some names end in."""

    def __init__(self, root: Path, frames: str) -> None:
        names = tuple(_FRAMES.values()) if frames == "auto" else (_FRAMES[frames],)
        inside = files.nested(root, *_AROUND, *names)
        # the innermost: an archive may lie in a folder of its own name
        found = next(([f for f in inside if f.name.lower() == n] for n in names if _named(inside, n)), [])
        if not found:
            raise files.no_folder(names[0], root, "4DME")
        folder = found[-1]
        self.base = folder.relative_to(root).as_posix()
        self.people = _plain_names(folder)
        self._inside = lru_cache(None)(lambda person: _plain_names(folder / person))

    def find(self, subject: str, clip: str) -> str:
        own = self.people.get(_plain(subject), subject)
        return f"{self.base}/{own}/{self._inside(own).get(_plain(clip), clip)}"


def _named(folders: list[Path], name: str) -> bool:
    return any(folder.name.lower() == name for folder in folders)


def _plain(name: str) -> str:
    return name.lower().rstrip("-'")


def _plain_names(folder: Path) -> dict[str, str]:
    return {_plain(name): real for name, real in files.subfolders(folder).items()}


# ---------------------------------------------------------------- one clip


def _line(row: dict[str, object], places: _Places) -> AnnotatedClip:
    identity, clip = files.text_of(row["subject"]).rstrip("'"), files.text_of(row["clip"]).rstrip("'")
    match = re.match(r"s?(?:ub)?0*(\d+)(.*)$", identity, re.IGNORECASE)
    if match is None:
        problem = f"sub_ID '{identity}' of clip '{clip}' holds no number; expected for example S01; repair the cell"
        return AnnotatedClip(subject=identity, clip=clip, folder=places.find(identity, clip), problem=problem)
    emotion, warnings = _emotion(row)
    if files.text_of(row.get("blink")).lower() not in {"", "0", "no", "n", "none"}:
        warnings.append("the subject blinks during the clip")
    # S13_1st and S13_2nd are recordings of one person: one subject, and names that tell the clips apart
    session = match[2].strip(" _-")
    return AnnotatedClip.of_cells(
        row,
        subject=f"S{int(match[1]):02d}",
        clip=f"{session}_{clip}" if session else clip,
        folder=places.find(identity, clip),
        aus=_without_static_slips(row["aus"]),
        emotion=emotion,
        warnings=tuple(warnings),
    )


def _emotion(row: dict[str, object]) -> tuple[str, list[str]]:
    """The word or words of the cell, or those of the columns where the cell is empty; a warning where they disagree."""
    cell = files.text_of(row["emotion"]).strip("'")
    words = [word.strip().lower() for word in re.split(r"[+,，/&]", cell) if word.strip()]
    marked = [word for word in _EMOTIONS if files.text_of(row.get(word)).lower() not in {"", "0", "no"}]
    if words and marked and set(map(plain_emotion, words)) != set(marked):
        warning = f"emotion {'+'.join(words)} but the columns mark {'+'.join(marked)}; the emotion was kept"
        return "+".join(words), [warning]
    return "+".join(words or marked), []


def _without_static_slips(cell: object) -> object:
    """``4（k）``, ``4(k)-`` and ``4(k`` as ``4(k)``: slips of the pen that would hide which action unit is static."""
    text = files.text_of(cell).replace("（", "(").replace("）", ")")
    return re.sub(r"\(\s*k\s*\)?[^+,，]*", "(k)", text, flags=re.IGNORECASE)


FOURDME = shipped("4dme", is_release=is_release, read=read)
