"""CASME II (Yan et al., PLoS ONE 2014): 255 clips of 26 subjects at 200 frames a second.

Release layout: ``CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`` (or ``Cropped/sub01/EP02_01f/reg_img46.jpg``)
beside a coding workbook of which several editions exist. Frame numbers are unpadded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.datasets.common import contents, find_folder, frame_number, list_frames, nearest, read_workbook, text_of
from mesynth.datasets.corrections import Correction, correct, read_corrections
from mesynth.emotions import CLASS_OF
from mesynth.errors import DatasetLayoutError
from mesynth.facs import AU_CODES, objective_class, parse_annotation
from mesynth.manifest import Manifest, Provenance, Row
from mesynth.shards import read_image
from mesynth.types import AUVector

DATABASE, FPS, LICENCE = "casme2", 200.0, "CASME II licence agreement"
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
_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII")


@dataclass(frozen=True)
class _Origin:
    """Whose clips these are: the real release, or a rendered folder of the same layout."""

    kind: str = "real"
    database: str = DATABASE
    fps: float = FPS
    licence: str = LICENCE
    seed: int = -1
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``subject/clip`` -> exact values of a rendered clip."""


def load_casme2(root: Path | str, *, frames: str = "auto", corrections: Iterable[Correction] | None = None) -> Manifest:
    """One row per line of the workbook; frames onset..offset as files relative to ``root``.

    ``frames``: "raw", "cropped", or "auto" (raw if present). Where ``root`` holds ``mesynth-rendered.json`` the
    rows are of kind "rendered" and carry exact action units.

    Raises:
        DatasetLayoutError: the folder, the workbook or a clip is not as in the release.
        UnreadableImageError: a clip's onset is no readable image.
    """
    root = Path(root)
    folder = _frame_folder(root, frames)
    sheet = read_workbook(_workbook(root), _COLUMNS)
    objective = _objective_classes(root)
    origin = _origin(root)
    fixes = tuple(read_corrections() if corrections is None else corrections)
    rows = [_row(root, folder, sheet.path, cells, origin, objective, fixes) for cells in sheet.rows]
    if not rows:
        raise DatasetLayoutError(f"workbook {sheet.path} has a header but no rows; use the full release")
    return Manifest.from_rows(rows, root)


# ---------------------------------------------------------------- finding files


def is_release(folder: Path) -> bool:
    """Whether ``folder`` is the root of a CASME II release, or of a rendered one."""
    if (folder / RENDERED_FILE).is_file():
        return True
    return any(p.suffix.lower() in {".xlsx", ".xls"} and p.name.lower().startswith("casme2") for p in folder.iterdir())


def _frame_folder(root: Path, frames: str) -> Path:
    names = {"raw": _RAW, "cropped": _CROPPED, "auto": _RAW + _CROPPED}
    if frames not in names:
        raise DatasetLayoutError(f"frames='{frames}' is unknown; choose from {', '.join(names)}")
    found = find_folder(root, *names[frames])
    if found is None:
        raise DatasetLayoutError(
            f"no folder {names[frames][0]} in {root}: {contents(root)}; give the folder of the CASME II release"
        )
    # some archives unpack into a folder of the same name
    return find_folder(found, *names[frames]) or found


def _workbook(root: Path) -> Path:
    books = [p for p in sorted(root.iterdir()) if p.suffix.lower() in {".xlsx", ".xls"} and not p.name.startswith("~$")]
    books = [p for p in books if "objective" not in p.name.lower()]
    for pattern in _WORKBOOKS:
        for book in books:
            if Path(book.name.lower()).match(pattern):
                return book
    raise DatasetLayoutError(f"no workbook like CASME2-coding-20140508.xlsx in {root}: {contents(root)}")


def _objective_classes(root: Path) -> dict[tuple[str, str], str]:
    """``(subject, clip)`` -> roman class, from CASME2-ObjectiveClasses.xlsx where it is present."""
    book = next((p for p in sorted(root.glob("*.xlsx")) if "objective" in p.name.lower() and p.name[:2] != "~$"), None)
    if book is None:
        return {}
    found = {}
    for row in read_workbook(book, _OBJECTIVE).rows:
        name = text_of(row["objective"]).upper()
        name = _ROMAN[int(name)] if name.isdigit() and 0 < int(name) < len(_ROMAN) else name
        found[_subject(row["subject"], book), text_of(row["clip"])] = name
    return found


def _origin(root: Path) -> _Origin:
    file = root / RENDERED_FILE
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
    text = text_of(cell).lower().removeprefix("sub")
    if not text.isdigit():
        raise DatasetLayoutError(f"subject '{text_of(cell)}' in {book.name} is no number; expected for example 01")
    return f"sub{int(text):02d}"


def _row(
    root: Path,
    folder: Path,
    book: Path,
    cells: dict[str, object],
    origin: _Origin,
    objective: dict[tuple[str, str], str],
    fixes: tuple[Correction, ...],
) -> Row:
    subject, clip = _subject(cells["subject"], book), text_of(cells["clip"])
    cells, warnings = correct(cells, origin.database, f"{subject}/{clip}", fixes)
    onset, apex, offset = (frame_number(cells[name]) for name in ("onset", "apex", "offset"))
    if onset is None or offset is None or offset <= onset:
        raise DatasetLayoutError(
            f"clip {subject}/{clip} has onset '{text_of(cells['onset'])}' and offset '{text_of(cells['offset'])}'; "
            "both must be frame numbers, in this order"
        )
    on_disk = list_frames(folder / subject / clip)
    numbers = list(on_disk)
    first = nearest(numbers, onset, "onset", warnings)
    last = nearest(numbers, offset, "offset", warnings)
    inside = [n for n in numbers if first <= n <= last]
    if len(inside) < 2:
        raise DatasetLayoutError(
            f"clip {subject}/{clip} has {len(inside)} frames between onset {onset} and offset {offset}; "
            f"its folder holds frames {numbers[0]} to {numbers[-1]}"
        )
    if apex is None:
        warnings.append(f"no apex annotated ('{text_of(cells['apex'])}'); the middle frame stands in")
        apex_index = (len(inside) - 1) // 2
    else:
        apex_index = inside.index(nearest(inside, apex, "apex", warnings))
        if apex == onset:
            warnings.append("onset and apex are the same frame")
    height, width = read_image(on_disk[first]).shape[:2]
    annotation = parse_annotation(cells["aus"])
    emotion = text_of(cells["emotion"]).lower()
    exact = origin.clips.get(f"{subject}/{clip}")
    if exact is None:
        aus = Row.au_columns(annotation.vector(), annotation.presence())
    else:
        warnings += exact["warnings"]
        aus = Row.au_columns(AUVector(np.array(exact["au_intensity"], np.float32).reshape(len(AU_CODES), 2)))
    own = objective_class(annotation.codes) if annotation.complete else ""
    return Row(
        clip_id=f"{origin.database}/{subject}/{clip}/{onset}",
        database=origin.database,
        subject=subject,
        clip=clip,
        onset=onset,
        apex=apex,
        offset=offset,
        fps=origin.fps,
        n_frames=len(inside),
        apex_index=apex_index,
        height=height,
        width=width,
        emotion=emotion,
        label=CLASS_OF.get(emotion, ""),
        objective_class=objective.get((subject, clip), own),
        au_text=annotation.text,
        frame_files=tuple(on_disk[n].relative_to(root).as_posix() for n in inside),
        warnings=tuple(warnings),
        provenance=Provenance(
            kind=origin.kind,
            database=origin.database,
            subject=subject,
            licence=origin.licence,
            subjects_seen=(f"{origin.database}/{subject}",),
            generator="" if exact is None else "mesynth.head",
            seed=origin.seed if exact is None else int(exact["seed"]),
            aus_asked="" if exact is None else str(exact["aus"]),
            aus_source="" if exact is None else str(exact["aus_source"]),
            profile="" if exact is None else str(exact["profile"]),
        ),
        **aus,
    )
