"""What every loader needs: frames in numeric order, workbooks read by column name, annotated frames found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mesynth.errors import DatasetLayoutError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_HEADER_ROWS = 30  # some releases put a preamble before the header


def contents(folder: Path, limit: int = 8) -> str:
    """What lies in ``folder``, for error messages."""
    if not folder.is_dir():
        return "it does not exist"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    if not names:
        return "it is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"it holds {', '.join(names[:limit])}{more}"


def find_folder(parent: Path, *names: str) -> Path | None:
    """The first of ``names`` that is a folder in ``parent``, whatever the case of its letters."""
    if not parent.is_dir():
        return None
    found = {p.name.lower(): p for p in sorted(parent.iterdir(), reverse=True) if p.is_dir()}
    return next((found[n.lower()] for n in names if n.lower() in found), None)


def list_frames(folder: Path) -> dict[int, Path]:
    """Frame number -> file, ascending. The number is the last digit group of the name: img9 before img10.

    Files that are no images are ignored. Raises DatasetLayoutError when the folder is missing, holds no
    numbered image, or two files of one number.
    """
    if not folder.is_dir():
        raise DatasetLayoutError(f"clip folder {folder} is missing; {folder.parent.name}: {contents(folder.parent)}")
    frames: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _LAST_NUMBER.search(file.stem)
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith(".") or not match:
            continue
        number = int(match[1])
        if number in frames:
            raise DatasetLayoutError(
                f"{folder} holds two files for frame {number}: {frames[number].name} and {file.name}; remove one"
            )
        frames[number] = file
    if not frames:
        raise DatasetLayoutError(f"clip folder {folder} holds no numbered images; {contents(folder)}")
    return dict(sorted(frames.items()))


def nearest(numbers: Sequence[int], wanted: int, what: str, warnings: list[str]) -> int:
    """``wanted`` if it is among ``numbers``, else the nearest of them (the earlier of two) and a warning."""
    best = min(numbers, key=lambda n: (abs(n - wanted), n))
    if best != wanted:
        warnings.append(f"{what} frame {wanted} is not on disk; frame {best} taken")
    return best


@dataclass(frozen=True)
class Sheet:
    """A workbook's table: ``rows`` map our column names to raw cells; ``columns`` are those of the file."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, object], ...]


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def read_workbook(path: Path, wanted: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> Sheet:
    """Read the first sheet whose header holds the ``wanted`` columns.

    ``wanted`` maps our name to accepted names, compared without case, blanks and punctuation. Blank columns,
    blank rows and a preamble above the header do not matter. Cells stay as they are ('01' is not 1).

    Raises:
        DatasetLayoutError: unreadable file, or no sheet has every column that is not ``optional``.
    """
    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object)
    except ImportError:
        raise DatasetLayoutError(f"{path.name} is an old .xls file; save it as .xlsx (or pip install xlrd)") from None
    except Exception as error:  # openpyxl and zipfile raise many kinds for a damaged file
        raise DatasetLayoutError(f"workbook {path} cannot be read ({error}); copy it again") from None
    best: tuple[int, tuple[str, ...], list[str]] | None = None
    for sheet in sheets.values():
        for index in range(min(len(sheet), _HEADER_ROWS)):
            header = tuple(str(cell) for cell in sheet.iloc[index] if not pd.isna(cell))
            places = _places(list(sheet.iloc[index]), wanted)
            missing = [name for name in wanted if name not in places and name not in optional]
            if not missing:
                return Sheet(path, header, _rows(sheet.iloc[index + 1 :], places))
            if places and (best is None or len(places) > best[0]):
                best = (len(places), header, missing)
    if best is None:
        raise DatasetLayoutError(f"workbook {path} has no header row with {', '.join(wanted)}; is it the right file?")
    _, header, missing = best
    accepted = ", ".join(wanted[missing[0]])
    raise DatasetLayoutError(
        f"workbook {path} lacks the column '{missing[0]}' (accepted names: {accepted}); it has {', '.join(header)}"
    )


def _places(header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Our column name -> position in the file; earlier accepted names win."""
    plain = ["" if pd.isna(cell) else _plain(cell) for cell in header]
    places = {}
    for name, accepted in wanted.items():
        position = next((plain.index(_plain(a)) for a in accepted if _plain(a) in plain), None)
        if position is not None:
            places[name] = position
    return places


def _rows(body: pd.DataFrame, places: dict[str, int]) -> tuple[dict[str, object], ...]:
    rows = []
    for cells in body.itertuples(index=False, name=None):
        row = {name: None if pd.isna(cells[i]) else cells[i] for name, i in places.items()}
        if any(value is not None for value in row.values()):
            rows.append(row)
    return tuple(rows)


def frame_number(cell: object) -> int | None:
    """A cell as a frame number; None where it holds none (``/``, blank)."""
    text = str(cell).strip() if cell is not None else ""
    match = re.fullmatch(r"(\d+)(?:\.0*)?", text)
    return int(match[1]) if match else None


def text_of(cell: object) -> str:
    """A cell as text; numbers without a trailing ``.0``."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
