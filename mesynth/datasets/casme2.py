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
from mesynth.core.facs import AU_CODES
from mesynth.core.types import AUVector
from mesynth.datasets.database import AnnotatedClip, Database, Published, Release
from mesynth.datasets.files import contents, read_workbook, release_folder, rendering, roman_class, text_of, workbooks
from mesynth.datasets.load import Correction, load_release, usable
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
}
_OBJECTIVE = {"subject": _COLUMNS["subject"], "clip": _COLUMNS["clip"], "objective": ("Objective Class", "Class")}


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
    return usable(load_release(CASME2, root, frames=frames, corrections=corrections))


def read(root: Path, part: str, frames: str) -> Release:
    """The lines of the coding workbook. Raises DatasetLayoutError."""
    folder = release_folder(root, rendering(frames, _RAW, _CROPPED), "CASME II").relative_to(root).as_posix()
    sheet = read_workbook(_workbook(root), _COLUMNS)
    objective = _objective_classes(root)
    origin = _origin(root)
    return Release(
        lines=tuple(_line(folder, sheet.path, cells, origin, objective) for cells in sheet.rows),
        sources=(sheet.path.name,),
        database=origin.database,
        kind=origin.kind,
        licence=origin.licence,
        fps=origin.fps,
    )


# ---------------------------------------------------------------- finding files


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CASME II release, or of a rendered one."""
    if (folder / RENDERED_FILE).is_file():
        return True
    return any(p.suffix.lower() in {".xlsx", ".xls"} and p.name.lower().startswith("casme2") for p in folder.iterdir())


def _workbook(root: Path) -> Path:
    books = [p for p in workbooks(root) if "objective" not in p.name.lower()]
    for pattern in _WORKBOOKS:
        for book in books:
            if Path(book.name.lower()).match(pattern):
                return book
    raise DatasetLayoutError(f"no workbook like CASME2-coding-20140508.xlsx in {root}: {contents(root)}")


def _objective_classes(root: Path) -> dict[tuple[str, str], str]:
    """``(subject, clip)`` -> roman class, from CASME2-ObjectiveClasses.xlsx where it is present."""
    book = next((p for p in workbooks(root) if "objective" in p.name.lower()), None)
    if book is None:
        return {}
    found = {}
    for row in read_workbook(book, _OBJECTIVE).rows:
        found[_subject(row["subject"], book), text_of(row["clip"])] = roman_class(row["objective"])
    return found


def _origin(root: Path) -> _Origin:
    file = root / RENDERED_FILE
    if not file.is_file():
        return _Origin()
    digests.check(root, [RENDERED_FILE])
    try:
        values = json.loads(file.read_text())
        return _Origin(**{name: values[name] for name in ("kind", "database", "fps", "licence", "seed", "clips")})
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetLayoutError(f"{file} is damaged ({error}); render the folder again") from None


# ---------------------------------------------------------------- one clip


def _subject(cell: object, book: Path) -> str:
    """``'01'``, ``1`` and ``sub01`` are all the folder ``sub01``."""
    text = text_of(cell).lower().removeprefix("sub")
    if not text.isdigit():
        raise DatasetLayoutError(f"subject '{text_of(cell)}' in {book.name} is no number; expected for example 01")
    return f"sub{int(text):02d}"


def _line(
    folder: str, book: Path, cells: dict[str, object], origin: _Origin, objective: dict[tuple[str, str], str]
) -> AnnotatedClip:
    clip = text_of(cells["clip"])
    try:
        subject = _subject(cells["subject"], book)
    except DatasetLayoutError as error:
        return AnnotatedClip(subject=text_of(cells["subject"]), clip=clip, folder="", problem=str(error))
    exact = origin.clips.get(f"{subject}/{clip}")
    line = AnnotatedClip(
        subject=subject,
        clip=clip,
        folder=f"{folder}/{subject}/{clip}",
        onset=cells["onset"],
        apex=cells["apex"],
        offset=cells["offset"],
        aus=cells["aus"],
        emotion=text_of(cells["emotion"]),
        objective=objective.get((subject, clip), ""),
    )
    if exact is None:
        return replace(line, provenance={"seed": origin.seed})
    return replace(
        line,
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


CASME2 = Database(
    name="casme2",
    title="CASME II",
    fps=200.0,
    licence="CASME II licence agreement",
    paper="Yan et al., CASME II: an improved spontaneous micro-expression database, PLoS ONE 9(1), 2014",
    is_release=is_release,
    read=read,
    frames=("auto", "raw", "cropped"),
    published={
        "all": Published(
            clips=255,
            subjects=26,
            emotions={
                "others": 99,
                "disgust": 63,
                "happiness": 32,
                "repression": 27,
                "surprise": 25,
                "sadness": 7,
                "fear": 2,
            },
            objective={"I": 25, "II": 15, "III": 99, "IV": 26, "V": 20, "VI": 1, "VII": 69},
            source="CASME2-coding-20140508.xlsx; Davison et al. 2018",
        )
    },
)
