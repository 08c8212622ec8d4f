"""MMEW (Ben et al., TPAMI 2022): 300 micro-expressions as face crops of 231x231 pixels at 90 frames a second.

Release layout: ``Micro_Expression/happiness/S01-01-001/1.jpg`` beside ``MMEW_Micro_Exp.xlsx``; a clip is named by
person, emotion and sample. A macro-expression of the release is one picture (``Macro_Expression/S01/anger/
S01-07-001.jpg``) without a neutral one beside it: it has no motion and cannot be a clip.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped

_AROUND = ("MMEW", "MMEW_Final", "MMEW_Final_cropped")
_MICRO = ("Micro_Expression", "MicroExpression", "Micro_Expressions")
_MACRO = ("Macro_Expression", "MacroExpression", "Macro_Expressions")
_COLUMNS = {
    **files.USUAL_COLUMNS,
    "aus": ("Action Units", "AUs", "AU"),
    "emotion": ("Estimated Emotion", "Emotion"),
}
_CLIP = re.compile(r"^s0*(\d+)-(\d+)-(\d+)$", re.IGNORECASE)


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of an MMEW release: its workbook, or micro- and macro-expressions side by side."""
    names = {p.name.lower() for p in folder.iterdir()}
    if any(re.match(r"mmew_micro.*\.xlsx?$", name) or name == "mmew_final" for name in names):
        return True
    plain = {name.replace("-", "_") for name in names}
    return {"micro_expression", "macro_expression"} <= plain


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the workbook, or what lies in the macro folder. Raises DatasetLayoutError."""
    if part == "micro":
        return _read_micro(root, annotation)
    if annotation:
        raise DatasetLayoutError(f"part macro of MMEW has no annotation file; leave out --annotation {annotation}")
    return _read_macro(root)


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    """``Micro_Expression`` in the root, however the archive was unpacked."""
    plain = {re.sub("[^a-z]", "", name.lower()) for name in names}
    found = [f for f in files.nested(root, *_AROUND, *names) if re.sub("[^a-z]", "", f.name.lower()) in plain]
    if not found:
        raise files.no_folder(names[0], root, "MMEW")
    # a folder may lie in one of the same name; the inner one holds the clips
    return max((f for f in found if f == found[0] or found[0] in f.parents), key=lambda f: len(f.parts))


# ---------------------------------------------------------------- micro-expressions


def _read_micro(root: Path, annotation: Path | None) -> Release:
    books = (book for book in files.nested_workbooks(root, *_AROUND) if "micro" in book.name.lower())
    book = files.annotation_file(annotation, next(books, None), "MMEW_Micro_Exp.xlsx", root)
    sheet = files.read_workbook(book, _COLUMNS)
    base = _folder(root, _MICRO)
    found = _clips(root, base)
    usual = base.relative_to(root).as_posix()
    return Release(
        lines=tuple(_line(usual, book, row, found) for row in sheet.rows),
        sources=(files.place_of(book, root),),
    )


def _clips(root: Path, base: Path) -> dict[str, list[str]]:
    """Clip name in lower case -> its folders relative to the root, whether they lie by emotion or by person."""
    found: dict[str, list[str]] = {}
    level = [base]
    for _ in range(3):
        deeper = []
        for folder in level:
            for name in sorted(files.subfolders(folder).values()):
                if _CLIP.match(name):
                    found.setdefault(name.lower(), []).append((folder / name).relative_to(root).as_posix())
                else:
                    deeper.append(folder / name)
        level = deeper
    return found


def _line(base: str, book: Path, row: dict[str, object], found: dict[str, list[str]]) -> AnnotatedClip:
    clip, emotion = files.text_of(row["clip"]), files.text_of(row["emotion"])
    match = _CLIP.match(clip)
    if match is None:
        problem = f"clip '{clip}' in {book.name} is not named as S01-01-001 (person, emotion, sample); repair the cell"
        return AnnotatedClip(
            subject=files.text_of(row["subject"]), clip=clip, folder=f"{base}/{emotion}/{clip}", problem=problem
        )
    subject = f"S{int(match[1]):02d}"
    warnings = []
    cell = re.sub(r"^[sS]?0*", "", files.text_of(row["subject"]))
    if cell and cell != str(int(match[1])):
        warnings.append(f"the workbook says subject {cell}, the clip's name {subject}; the name was believed")
    folders = found.get(clip.lower(), [])
    # some copies hold a clip of 'others' both there and in 'repression'
    own = [f for f in folders if emotion.lower() in f.lower().split("/")]
    if len(folders) > 1:
        warnings.append(f"the clip lies in {' and '.join(folders)}; {[*own, *folders][0]} was taken")
    place = [*own, *folders, f"{base}/{emotion}/{clip}"][0]
    return AnnotatedClip.of_cells(row, subject=subject, clip=clip, folder=place, warnings=tuple(warnings))


# ---------------------------------------------------------------- macro-expressions


def _read_macro(root: Path) -> Release:
    """Pictures are lines that cannot be used; folders of frames, which some copies have, are whole clips."""
    base = _folder(root, _MACRO)
    lines: list[AnnotatedClip] = []
    stills: Counter[str] = Counter()
    for person, emotion, folder in _emotion_folders(base):
        for name in sorted(files.subfolders(folder).values()):
            place = (folder / name).relative_to(root).as_posix()
            who = _person(name) or person
            line = AnnotatedClip(
                subject=who, clip=f"macro-{name}", folder=place, emotion=emotion, expression="macro", spans_folder=True
            )
            lines.append(line)
        for file in sorted(
            p for p in folder.iterdir() if p.suffix.lower() in files.IMAGE_SUFFIXES and p.stem[:1] != "."
        ):
            stills[emotion] += 1
            problem = (
                f"macro-expression {file.name} is one picture, no clip: it has no onset and no motion; take the micro "
                "part, or the macro part of casme_sq for macro-expressions that move"
            )
            who = _person(file.stem) or person
            place = file.relative_to(root).as_posix()
            lines.append(
                AnnotatedClip(subject=who, clip=f"macro-{file.stem}", folder=place, expression="macro", problem=problem)
            )
    if not lines:
        raise DatasetLayoutError(f"{base} holds no pictures as S01/anger/S01-07-001.jpg: {files.contents(base)}")
    counts = ", ".join(f"{emotion} {n}" for emotion, n in stills.most_common())
    return Release(lines=tuple(lines), notes=(f"single pictures: {counts}",) if counts else ())


def _emotion_folders(base: Path) -> list[tuple[str, str, Path]]:
    """(person, emotion, folder) of ``S01/anger``, or of ``anger/S01`` in copies sorted by emotion."""
    found = []
    for outer in sorted(files.subfolders(base).values()):
        for inner in sorted(files.subfolders(base / outer).values()):
            person, emotion = (outer, inner) if _person(outer) else (inner, outer)
            found.append((_person(person), emotion, base / outer / inner))
    return found


def _person(name: str) -> str:
    match = re.match(r"s0*(\d+)(?:-|$)", name, re.IGNORECASE)
    return f"S{int(match[1]):02d}" if match else ""


MMEW = shipped("mmew", is_release=is_release, read=read)
