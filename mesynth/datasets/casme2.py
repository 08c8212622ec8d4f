"""CASME II (Yan et al., PLoS ONE 2014): 255 clips of 26 subjects at 200 frames a second.

Release layout: ``CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`` (or ``Cropped/sub01/EP02_01f/reg_img46.jpg``)
beside a coding workbook of which several editions exist. Frame numbers are unpadded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.facs import AU_CODES, parse_annotation
from mesynth.core.types import AUVector
from mesynth.datasets import files
from mesynth.datasets.database import AnnotatedClip, Published, Release, recognise, shipped
from mesynth.datasets.load import Correction, load_release, usable
from mesynth.datasets.registry import right_root
from mesynth.store import digests
from mesynth.store.manifest import Manifest

RENDERED_FILE = "mesynth-rendered.json"
"""Beside a rendered folder of this layout: what made it, and the exact action units of every clip."""

_RAW = ("CASME2_RAW_selected", "CASME2-RAW_selected", "CASME2_RAW", "CASME2-RAW", "RAW_selected")
_CROPPED = ("Cropped", "Cropped-updated", "CASME2_Cropped")
# Editions of the coding workbook in order of preference; objective classes lie in another file.
_WORKBOOKS = ("casme2-coding-20140508*", "casme2-coding-updated*", "casme2-coding-*", "casme2_label*", "casme2*")
_COLUMNS = {
    "subject": ("Subject", "Sub"),
    "clip": ("Filename", "File name", "Clip"),
    "onset": ("OnsetFrame", "Onset", "OnsetF"),
    "apex": ("ApexFrame", "Apex", "ApexF", "ApexFrame1"),
    "offset": ("OffsetFrame", "Offset", "OffsetF"),
    "aus": ("Action Units", "AUs", "AU"),
    "emotion": ("Estimated Emotion", "Emotion"),
    "objective": ("Objective Classes", "Objective Class"),
}
_OBJECTIVE = {
    "subject": _COLUMNS["subject"],
    "clip": _COLUMNS["clip"],
    "objective": ("Objective Class", "Objective Classes", "Class"),
}


@dataclass(frozen=True)
class _Origin:
    """Whose clips these are: the real release, or a rendered folder of the same layout."""

    kind: str = "real"
    database: str = ""
    fps: float = 0.0
    licence: str = ""
    seed: int = -1
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``subject/clip`` -> exact values of a rendered clip."""


def load_casme2(root: Path | str, *, frames: str = "", corrections: Iterable[Correction] | None = None) -> Manifest:
    """One row per line of the workbook; frames onset..offset as files relative to ``root``.

    ``frames``: "raw", "cropped", or "auto" (raw if present). Where ``root`` holds ``mesynth-rendered.json`` the
    rows are of kind "rendered" and carry exact action units.

    Raises:
        DatasetLayoutError: the folder, the workbook or a clip is not as in the release.
    """
    with right_root("casme2", Path(root)):
        return usable(load_release(CASME2, root, frames=frames, corrections=corrections))


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The lines of the coding workbook. Raises DatasetLayoutError."""
    folder = (
        files.release_folder(root, files.rendering(frames, _RAW, _CROPPED), "CASME II").relative_to(root).as_posix()
    )
    book, notes = _workbook(root, annotation)
    sheet = files.read_workbook(book, _COLUMNS, ("objective",))
    origin = _origin(root, sheet.path)
    made = None
    if origin.kind != "real":  # complete is what was rendered, not what was recorded
        people = {name.partition("/")[0] for name in origin.clips}
        made = Published(clips=len(origin.clips), subjects=len(people), source=RENDERED_FILE)
    release = Release(
        lines=tuple(_line(folder, sheet.path, cells, origin) for cells in sheet.rows),
        sheet=sheet.name,
        columns=sheet.columns,
        published=made,
        edition="" if made is None else "rendered",
        sources=(sheet.path.name,),
        notes=notes,
        database=origin.database,
        kind=origin.kind,
        licence=origin.licence,
        fps=origin.fps,
    )
    return _with_objective_classes(root, release) if origin.kind == "real" else release


# ---------------------------------------------------------------- finding files


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CASME II release, or of a rendered one."""
    raw = (name for name in _RAW if name.startswith("CASME2"))
    if (folder / RENDERED_FILE).is_file() or files.find_folder(folder, *raw):
        return True
    return any(p.suffix.lower() in {".xlsx", ".xls"} and p.name.lower().startswith("casme2") for p in folder.iterdir())


def _workbook(root: Path, annotation: Path | None) -> tuple[Path, tuple[str, ...]]:
    """The coding workbook, and a note on others that lie beside it."""
    if annotation:
        return files.given_file(annotation), ()
    books = [p for p in files.workbooks(root) if "objective" not in p.name.lower()]
    found = [book for pattern in _WORKBOOKS for book in books if Path(book.name.lower()).match(pattern)]
    if not found:
        raise files.no_file("CASME2-coding-20140508.xlsx", root)
    others = [book.name for book in dict.fromkeys(found) if book != found[0]]
    return found[0], tuple(f"{name} lies beside it and was not read; --annotation takes it instead" for name in others)


def _with_objective_classes(root: Path, release: Release) -> Release:
    """The classes of CASME2-ObjectiveClasses.xlsx where the workbook has none and the file belongs to its edition.

    The file was made for one edition; action units that another changed would keep the class of the former ones.
    """
    book = next((p for p in files.workbooks(root) if "objective" in p.name.lower()), None)
    if book is None:
        return release
    found: dict[tuple[str, str], str] = {}
    for row in files.read_workbook(book, _OBJECTIVE).rows:
        key, name = (_subject(row["subject"], book), files.text_of(row["clip"])), files.roman_class(row["objective"])
        if found.setdefault(key, name) != name:
            raise DatasetLayoutError(
                f"{book} lists {'/'.join(key)} in class {found[key]} and in {name}; remove one row"
            )
    of_file = {line.name: found.get((line.subject, line.clip), "") for line in release.lines}
    edition = recognise("casme2", "all", release).edition
    own = "its workbook has a column of them" if any(line.objective for line in release.lines) else ""
    if not own and edition and not edition.objective_in.lower().endswith(".xlsx"):
        own = f"they are those of 20140508, and the workbook is edition {edition.name}"
    if own:
        ours = {line.name: line.objective or parse_annotation(line.aus).objective_class or "" for line in release.lines}
        unlike = [name for name in ours if of_file[name] and ours[name] and of_file[name] != ours[name]]
        some = f": {', '.join(unlike[:3])}{', ...' if len(unlike) > 3 else ''}" if unlike else ""
        note = f"{book.name} is not used: {own}; {len(unlike)} classes differ{some}"
        return replace(release, notes=(*release.notes, note))
    absent = sum(not name for name in of_file.values())
    notes = [f"objective classes of {book.name}" + (f", which lacks {absent} of the clips" if absent else "")]
    if edition is None:
        notes = [f"{notes[0]}; the edition of the workbook is not known, so they may belong to another"]
    return replace(
        release,
        lines=tuple(replace(line, objective=of_file[line.name]) for line in release.lines),
        sources=(*release.sources, book.name),
        notes=(*release.notes, *notes),
    )


def _origin(root: Path, book: Path) -> _Origin:
    file = root / RENDERED_FILE
    # Rendered clips whose sidecar was removed are none of CASME II; a release has no list of ours.
    digests.check(root, [RENDERED_FILE, *([book.name] if book.parent == root else [])], partly=not file.is_file())
    if not file.is_file():
        return _Origin()
    try:
        values = json.loads(file.read_text())
        return _Origin(**{name: values[name] for name in ("kind", "database", "fps", "licence", "seed", "clips")})
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetLayoutError(f"{file} is damaged ({error}); render the folder again") from None


# ---------------------------------------------------------------- one clip


def _subject(cell: object, book: Path) -> str:
    """``'01'``, ``1`` and ``sub01`` are all the folder ``sub01``."""
    text = files.text_of(cell).lower().removeprefix("sub")
    if not text.isdecimal():
        raise DatasetLayoutError(
            f"subject '{files.text_of(cell)}' in {book.name} is no number; expected for example 01"
        )
    return f"sub{int(text):02d}"


def _line(folder: str, book: Path, cells: dict[str, object], origin: _Origin) -> AnnotatedClip:
    clip = files.text_of(cells["clip"])
    try:
        subject = _subject(cells["subject"], book)
    except DatasetLayoutError as error:
        return AnnotatedClip(subject=files.text_of(cells["subject"]), clip=clip, folder="", problem=str(error))
    exact = origin.clips.get(f"{subject}/{clip}")
    line = AnnotatedClip.of_cells(cells, subject=subject, clip=clip, folder=f"{folder}/{subject}/{clip}")
    if exact is None:
        return replace(line, provenance={"seed": origin.seed})
    return replace(
        line,
        expression=str(exact.get("expression", "micro")),
        warnings=tuple(exact["warnings"]),
        vector=AUVector(np.array(exact["au_intensity"], np.float32).reshape(len(AU_CODES), 2)),
        provenance={
            "generator": "mesynth.head",
            "seed": int(exact["seed"]),
            "aus_asked": str(exact["aus"]),
            "aus_source": str(exact["aus_source"]),
            "profile": str(exact["profile"]),
        },
    )


CASME2 = shipped("casme2", is_release=is_release, read=read)
