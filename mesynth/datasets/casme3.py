"""CAS(ME)^3 (Li et al., TPAMI 2023), parts A (860 micro-expressions) and C (165), 30 frames a second, with depth.

Release layouts: whole videos ``part_A/spNO.1/a/color/355.jpg`` beside ``depth/355.png``, or the expressions cut out,
``Part_A_ME_clip/frame/spNO.1_a_355/355.jpg`` beside ``depth/``; part C ``part_C/01/a/color/373.jpg``. A video holds
several expressions, so a clip is named as the cut-out folders are: video and annotated onset (``a_355``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from mesynth.core.errors import WrongRoot
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Release, shipped
from mesynth.datasets.load import LONGEST_S

_BOOK_FOLDERS = ("part_A", "part_C", "annotation", "annotations", "partA", "partC")
_VIDEO_FOLDERS = ("part_A", "part_A_split", "data", "ME_A")
_CLIP_FOLDERS = ("part_A", "data", "Part_A_ME_clip", "frame", "color", "depth")
_C_FOLDERS = ("part_C", "data", "ME_C", "RGB_Depth")
_COLUMNS_A = {
    "subject": ("Subject", "sub"),
    "video": ("Filename", "seq"),
    "onset": ("Onset",),
    "apex": ("Apex",),
    "offset": ("Offset",),
    "aus": ("AU", "AUs", "Action Units"),
    "objective": ("Objective class", "Objective Classes"),
    "emotion": ("emotion",),
    "type": ("Expression type",),
}
_COLUMNS_C = {
    "subject": ("sub", "Subject"),
    "count": ("count",),
    "onset": ("onset",),
    "apex": ("apex",),
    "offset": ("offset",),
    "aus": ("au", "AUs"),
    "emotion": ("emotion",),
}
_PERSON = re.compile(r"^\s*spno\.?\s*0*(\d+)\s*$", re.IGNORECASE)
_CUT_OUT = re.compile(r"^spno\.?\d+_[a-z]\w*_\d+$", re.IGNORECASE)


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CAS(ME)^3 release: its workbooks, its part folders, or its people."""
    names = {p.name.lower() for p in folder.iterdir()}
    if any(re.match(r"cas\(?me\)?[\^_ ]?3.*part_?[abc].*\.xlsx?$", name) for name in names):
        return True
    if "part_a" in names and {"part_b", "part_c", "annotation"} & names:
        return True
    if folder.name.lower() == "part_c" and (names == {"part_c"} or any(re.fullmatch(r"\d\d", name) for name in names)):
        return True
    return "part_a_me_clip" in names or any(map(_PERSON.match, names))


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of one part's workbook. Raises DatasetLayoutError."""
    return _read_a(root, frames, annotation) if part == "a" else _read_c(root, frames, annotation)


def _book(
    root: Path, part: str, optional: tuple[str, ...], columns: dict[str, tuple[str, ...]], annotation: Path | None
) -> tuple[files.Sheet, str]:
    """The part's workbook of micro-expressions, the one of jpg indices and the newest edition first; a note."""
    if annotation:
        return files.read_workbook(files.given_file(annotation), columns, optional, sheets=("label",)), ""
    found = [
        b
        for b in files.nested_workbooks(root, *_BOOK_FOLDERS)
        if re.search(rf"part_?{part}", b.name, re.IGNORECASE) and "_mae" not in b.name.lower()
    ]
    if not found:
        usual = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx" if part == "a" else "CAS(ME)3_part_C_ME.xlsx"
        raise files.no_file(usual, root, " or its annotation folder")
    best = max(found, key=lambda b: ("jpgindex" in b.name.lower(), "_me" in b.name.lower(), b.name.lower()))
    note = "" if len(found) == 1 else f"{len(found)} workbooks of this part are there; {best.name} was read"
    return files.read_workbook(best, columns, optional, sheets=("label",)), note


# ---------------------------------------------------------------- part A


def _read_a(root: Path, frames: str, annotation: Path | None) -> Release:
    sheet, note = _book(root, "a", ("objective", "type"), _COLUMNS_A, annotation)
    notes = [note] if note else []
    rows = [row for row in sheet.rows if files.text_of(row.get("type", "micro")).lower().startswith("micro")]
    if len(rows) < len(sheet.rows):
        notes.append(f"{len(sheet.rows) - len(rows)} rows are no micro-expressions and were left out")
    places = _places(root, frames)
    lines = tuple(_line_a(sheet.path, row, places) for row in rows)
    other = "color" if frames == "depth" else "depth"
    beside = {f"{f.removesuffix('/' + frames)}/{other}" for line in lines if (f := line.folder).endswith("/" + frames)}
    return Release(
        lines=lines,
        sheet=sheet.name,
        columns=sheet.columns,
        sources=(files.place_of(sheet.path, root),),
        notes=tuple(notes),
        left_out=tuple(sorted(beside)),
    )


def _places(root: Path, frames: str) -> _Videos | _CutOuts:
    """Whole videos where the release has them, else the clips cut out. Raises DatasetLayoutError."""
    for folder in files.nested(root, *_VIDEO_FOLDERS):
        if any(map(_PERSON.match, files.subfolders(folder))):
            return _Videos(root, folder, frames)
    for folder in files.nested(root, *_CLIP_FOLDERS, depth=5):
        depth = "depth" in folder.relative_to(root).as_posix().lower().split("/")
        if depth == (frames == "depth") and any(map(_CUT_OUT.match, files.subfolders(folder))):
            return _CutOuts(root, folder)
    raise WrongRoot(
        f"no {frames} frames of part A in {root}: {files.contents(root)}; expected part_A/spNO.1/a/{frames}/ or "
        f"Part_A_ME_clip/{'depth' if frames == 'depth' else 'frame'}/spNO.1_a_355/"
    )


class _Videos:
    """``spNO.1/a/color``, in whatever case the folders are written."""

    def __init__(self, root: Path, folder: Path, frames: str) -> None:
        self.base, self.frames = files.below(root, folder), frames
        self.people = {int(m[1]): name for n, name in files.subfolders(folder).items() if (m := _PERSON.match(n))}
        self._inside = lru_cache(None)(lambda person: files.subfolders(folder / person))

    def find(self, person: int, video: str, onset: str) -> str:
        own = self.people.get(person, f"spNO.{person}")
        return f"{self.base}{own}/{self._inside(own).get(video, video)}/{self.frames}"


class _CutOuts:
    """``frame/spNO.1_a_355``."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.base, self.names = files.below(root, folder), files.subfolders(folder)

    def find(self, person: int, video: str, onset: str) -> str:
        usual = f"spNO.{person}_{video}_{onset}"
        return f"{self.base}{self.names.get(usual.lower(), usual)}"


def _line_a(book: Path, row: dict[str, object], places: _Videos | _CutOuts) -> AnnotatedClip:
    video, onset = files.text_of(row["video"]).lower(), files.text_of(row["onset"])
    match = _PERSON.match(files.text_of(row["subject"]))
    clip = f"{video}_{onset}"
    if match is None or not video:
        subject = files.text_of(row["subject"])
        problem = (
            f"subject '{subject}', video '{video}' in {book.name}: expected for example spNO.1, a; repair the cells"
        )
        return AnnotatedClip(
            subject=subject, clip=clip, folder=f"{places.base}{subject}/{video}/{clip}", problem=problem
        )
    offset, warnings = _offset(row)
    person = int(match[1])
    folder = places.find(person, video, onset)
    return AnnotatedClip.of_cells(
        row, subject=f"spNO.{person}", clip=clip, folder=folder, offset=offset, warnings=warnings
    )


def _offset(row: dict[str, object]) -> tuple[object, tuple[str, ...]]:
    """The offset cell, or the apex where the cell cannot be an offset (0, 3460 after onset 5), and a warning."""
    onset, apex, offset = (files.frame_number(row.get(name)) for name in ("onset", "apex", "offset"))
    if onset is None or apex is None or offset is None or apex <= onset:
        return row["offset"], ()
    if offset == 0:
        return apex, ("offset 0 means that none was seen; the clip ends at the apex",)
    if offset - onset > LONGEST_S * CASME3.fps:
        return apex, (
            f"offset {offset} is {(offset - onset) / CASME3.fps:.0f} s after the onset; the clip ends at the apex",
        )
    return row["offset"], ()


# ---------------------------------------------------------------- part C


def _read_c(root: Path, frames: str, annotation: Path | None) -> Release:
    """One long video a person; no apex is annotated, so the middle frame stands in."""
    sheet, note = _book(root, "c", ("apex", "emotion"), _COLUMNS_C, annotation)
    found = next((f for f in files.nested(root, *_C_FOLDERS) if any(n.isdecimal() for n in files.subfolders(f))), None)
    if found is None:
        raise WrongRoot(
            f"no {frames} frames of part C in {root}: {files.contents(root)}; expected part_C/01/a/{frames}/"
        )
    base = files.below(root, found)
    people = {int(n): name for n, name in files.subfolders(found).items() if n.isdecimal()}
    lines = []
    for row in sheet.rows:
        subject, count = files.text_of(row["subject"]), files.text_of(row["count"])
        if not subject.isdecimal():
            problem = f"subject '{subject}' in {sheet.path.name} is no number; expected for example 1; repair the cell"
            lines.append(
                AnnotatedClip(subject=subject, clip=f"C_{count}", folder=f"{base}{subject}/a/{frames}", problem=problem)
            )
            continue
        own = people.get(int(subject), f"{int(subject):02d}")
        inside = files.subfolders(found / own)
        # one video a person, "a"; copies that cut the expressions out have a folder a count
        video = inside.get("a") or inside.get(count) or (next(iter(inside.values())) if len(inside) == 1 else "a")
        lines.append(
            AnnotatedClip.of_cells(
                row, subject=f"C{int(subject):02d}", clip=f"C_{count}", folder=f"{base}{own}/{video}/{frames}"
            )
        )
    other = "color" if frames == "depth" else "depth"
    return Release(
        lines=tuple(lines),
        sheet=sheet.name,
        columns=sheet.columns,
        sources=(files.place_of(sheet.path, root),),
        notes=(note,) if note else (),
        left_out=tuple(sorted({f"{line.folder.rpartition('/')[0]}/{other}" for line in lines})),
    )


CASME3 = shipped("casme3", is_release=is_release, read=read)
