"""What lies in a release: folders, frames and workbooks.

Folders are found whatever their case and padding, frames in numeric order, sizes from headers. Tables are found by
the names of their columns, whatever stands around them, and cells read for what they mean.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xlrd
from PIL import Image, UnidentifiedImageError

from mesynth.core.errors import DatasetLayoutError, UnreadableImageError, WrongRoot
from mesynth.store.videos import is_video, listing, video_frame, video_size

if TYPE_CHECKING:
    import pandas as pd

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
LAST_FRAME = 2**63 - 1
"""Frames may be named by the clock: milliseconds since 1970 have 13 digits, nanoseconds 19."""
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def contents(folder: Path, limit: int = 8) -> str:
    """What lies in ``folder``, for error messages."""
    if not folder.is_dir():
        return "it does not exist"
    names = sorted(p.name + ("/" if os.path.isdir(p) else "") for p in folder.iterdir() if not p.name.startswith("."))
    if not names:
        return "it is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"it holds {', '.join(names[:limit])}{more}"


def find_folder(parent: Path, *names: str) -> Path | None:
    """The first of ``names`` that is a folder in ``parent``, whatever the case of its letters."""
    if not parent.is_dir():
        return None
    found = {p.name.lower(): p for p in sorted(parent.iterdir(), reverse=True) if os.path.isdir(p)}
    return next((found[n.lower()] for n in names if n.lower() in found), None)


def release_folder(root: Path, names: Sequence[str], title: str) -> Path:
    """The first of ``names`` in ``root``; archives that unpack into a folder of the same name are followed.

    Raises WrongRoot when there is none.
    """
    found = find_folder(root, *names)
    if found is None:
        raise no_folder(names[0], root, title)
    return find_folder(found, *names) or found


def no_folder(what: str, root: Path, title: str, looked_in: Path | None = None) -> WrongRoot:
    """What a reader raises that does not find the folder ``what`` in ``root``; it tells what is there instead.

    ``looked_in``: the last folder on the way, where it was missed; usually the root.
    """
    there = contents(looked_in or root)
    return WrongRoot(f"no folder {what} in {root}: {there}; give the folder of the {title} release")


def below(root: Path, folder: Path) -> str:
    """``folder`` relative to ``root`` as the beginning of a path: with a slash, or empty for the root itself."""
    relative = folder.relative_to(root).as_posix()
    return "" if relative == "." else f"{relative}/"


def rendering(frames: str, raw: Sequence[str], cropped: Sequence[str]) -> tuple[str, ...]:
    """Names of the folder to look for: ``frames`` is "raw", "cropped" or "auto", which prefers raw."""
    return {"raw": (*raw,), "cropped": (*cropped,), "auto": (*raw, *cropped)}[frames]


def numbered_folders(folder: Path, prefix: str = "") -> dict[int, str]:
    """Number -> name of the folders ``<prefix><number>`` in ``folder``, whatever their case and padding."""
    pattern = re.compile(rf"{re.escape(prefix)}0*(\d+)", re.IGNORECASE)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_folder(entry))
    return {int(match[1]): name for name in reversed(names) if (match := pattern.fullmatch(name))}


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or leads to one; a link that leads to itself, or a disk that is gone, does not."""
    try:
        return entry.is_dir(follow_symlinks=True)
    except OSError:
        return False


def subfolders(folder: Path) -> dict[str, str]:
    """Lower-case name -> name of the folders in ``folder``, hidden ones left out; empty where it does not exist."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and is_folder(e))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name.lower(): name for name in reversed(names)}


def nested(root: Path, *names: str, depth: int = 4) -> list[Path]:
    """``root`` and the folders below it whose whole path has only ``names``, the nearest first.

    Archives are unpacked into folders of their own, one inside the other. Names are compared without case and
    punctuation; folders of other names are not entered.
    """
    wanted = {_letters(name) for name in names}
    found, level = [root], [root]
    for _ in range(depth):
        level = [f / name for f in level for name in sorted(subfolders(f).values()) if _letters(name) in wanted]
        found += level
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Frames(dict[int, str]):
    """Frame number -> file name, ascending."""

    def path(self, folder: str, number: int) -> str:
        """Of one frame, relative to what ``folder`` is relative to."""
        name = self[number]
        if "#" in name and (frame := video_frame(name)) and os.path.basename(folder) == frame[0]:
            folder = os.path.dirname(folder)  # a video's listing names the video itself
        return f"{folder}/{name}" if folder else name


def list_frames(folder: Path) -> Frames:
    """Frame number -> file name, ascending. The number is the last digit group of the name: img9 before img10.

    Files that are no images are ignored; nothing but the listing is read. Raises DatasetLayoutError when the
    folder is missing, holds no numbered image, or two files of one number. A path that names a video file lists
    its frames, numbered from 0; see :func:`mesynth.store.videos.frame_count` for the errors.
    """
    if is_video(folder) and not folder.is_dir():
        return _video_frames(folder)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetLayoutError(
            f"clip folder {folder} is missing; {folder.parent.name}: {contents(folder.parent)}"
        ) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise DatasetLayoutError(
            f"'{folder.name[:40]}...' is no name of a clip folder, with {len(folder.name)} letters; correct the cell"
        ) from None
    found: dict[int, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        match = _LAST_NUMBER.search(stem)
        if suffix.lower() not in IMAGE_SUFFIXES or name.startswith(".") or not match:
            continue
        number = int(match[1])
        if number > LAST_FRAME:
            raise DatasetLayoutError(
                f"{folder / name} has a frame number of {len(str(number))} digits, above 2^63; rename the frames"
            )
        if number in found:
            raise DatasetLayoutError(
                f"{folder} holds two files for frame {number}: {found[number]} and {name}; remove one"
            )
        found[number] = name
    if not found:
        raise DatasetLayoutError(f"clip folder {folder} holds no numbered images; {contents(folder)}")
    return Frames(sorted(found.items()))


def _video_frames(path: Path) -> Frames:
    if not path.is_file():
        raise DatasetLayoutError(f"video {path} is missing; {path.parent.name}: {contents(path.parent)}")
    return Frames(listing(path))


def picture_size(folder: Path, name: str) -> tuple[int, int]:
    """(height, width) of a picture from its header, or of a video's frame from its first one.

    Raises UnreadableImageError when there is none.
    """
    if frame := video_frame(name):
        return video_size(folder if folder.name == frame[0] else folder / frame[0])
    height, width, _ = _header(folder / name)
    return height, width


def _header(path: Path) -> tuple[int, int, int]:
    """(height, width, bits a sample) of an image file. Raises UnreadableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                bits = 16 if "16" in picture.mode else 8
                if picture.format == "PNG":  # Pillow says RGB of 16 bits too
                    with path.open("rb") as file:
                        bits = max(8, file.read(25)[24])
                elif picture.format == "TIFF":
                    bits = max(picture.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
                return picture.height, picture.width, bits
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(
            f"{path} claims more pixels than any frame has (over {Image.MAX_IMAGE_PIXELS:,}); replace it"
        ) from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, TypeError, OverflowError, EOFError):
        raise UnreadableImageError(f"{path} cannot be read as an image; it may be truncated, replace it") from None


def clip_size(folder: Path, names: Sequence[str], said: list[str]) -> tuple[int, int]:
    """(height, width) of a clip's frames, by the headers of those of ``names``.

    ``said`` is told of 16-bit files, whose depth is found out when they are read.

    Raises:
        UnreadableImageError: there is none, or they differ in size.
    """
    sizes = {name: picture_size(folder, name) for name in dict.fromkeys(names)}
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if other != size:
            raise UnreadableImageError(
                f"frames of one clip differ in size: {folder / name} has {other[1]}x{other[0]} pixels, {first} "
                f"{size[1]}x{size[0]}; one crop serves them all: export them anew, alike"
            )
    if not video_frame(first) and _header(folder / first)[2] > 8:
        said.append("frames have 16 bits: the depth that the clip uses is scaled to 8 when they are read")
    return size


def nearest(numbers: Sequence[int], wanted: int, what: str, warnings: list[str]) -> int:
    """``wanted`` if it is among ``numbers``, else the nearest of them (the earlier of two) and a warning."""
    best = min(numbers, key=lambda n: (abs(n - wanted), n))
    if best != wanted:
        warnings.append(f"{what} frame {wanted} is not on disk; frame {best} taken")
    return best


# ---------------------------------------------------------------- workbook


USUAL_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "subject": ("Subject", "Sub"),
    "clip": ("Filename", "File name"),
    "onset": ("OnsetFrame", "Onset"),
    "apex": ("ApexFrame", "Apex"),
    "offset": ("OffsetFrame", "Offset"),
}
"""Names that several databases give the columns of a clip."""

_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII")
_HEADER_ROWS = 30  # some releases put a preamble before the header
_MOST_CELLS, _MOST_BYTES = 40_000_000, 1 << 28
"""A sheet's rows times its columns, and a workbook unpacked: far above any release, far below a machine's memory."""
_REFERENCE = re.compile(rb"""\sr=["']([A-Z]{1,4})([0-9]{1,9})["']""")


def workbooks(folder: Path) -> list[Path]:
    """Excel files of ``folder`` by name, without the lock files Excel leaves behind."""
    if not folder.is_dir():
        raise WrongRoot(f"folder {folder}: {contents(folder)}; give the folder of the release")
    books = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in {".xlsx", ".xls"})
    return [p for p in books if not p.name.startswith(("~$", "."))]


def nested_workbooks(root: Path, *names: str) -> list[Path]:
    """Excel files of the folders of :func:`nested`."""
    return [book for folder in nested(root, *names) if folder.is_dir() for book in workbooks(folder)]


def annotation_file(given: Path | None, found: Path | None, usual: str, root: Path) -> Path:
    """The file given by name, else the one that was ``found``.

    Raises DatasetLayoutError where neither is there; ``usual``: what it is usually called.
    """
    if given:
        return given_file(given)
    if found is None:
        raise no_file(usual, root)
    return found


def given_file(file: Path) -> Path:
    """An annotation file given by name (``--annotation``). Raises DatasetLayoutError where there is none."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise DatasetLayoutError(f"annotation file {file} {what}; give the file, beside the release or elsewhere")
    return file


RENAMED = "; if it has another name, give it with --annotation"


def no_file(usual: str, root: Path, where: str = "") -> WrongRoot:
    """What a reader raises that finds no annotation file: what it is usually called, and how to name another."""
    kinds = {".csv"} if usual.endswith(".csv") else {".xlsx", ".xls"}
    there = [p.name for p in root.iterdir() if p.suffix.lower() in kinds] if root.is_dir() else []
    one = f" (is it '{there[0]}'?)" if len(there) == 1 else ""
    return WrongRoot(
        f"no {'file' if usual.endswith('.csv') else 'workbook'} like {usual} in {root}{where}: {contents(root)}"
        f"{RENAMED} FILE{one}"
    )


def place_of(file: Path, root: Path) -> str:
    """Of an annotation file relative to the root; its name alone where it lies elsewhere."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


@dataclass(frozen=True)
class Sheet:
    """A workbook's table: ``rows`` map our column names to raw cells; ``columns`` are those of the file."""

    path: Path
    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, object], ...]


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def read_cells(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every sheet's cells as they are ('01' is not 1), row by row; None where a cell is blank.

    Raises:
        DatasetLayoutError: an unreadable file.
    """
    import pandas as pd

    return {
        name: [
            tuple(None if pd.isna(cell) else cell for cell in row) for row in sheet.itertuples(index=False, name=None)
        ]
        for name, sheet in _read_sheets(path).items()
    }


def _read_sheets(path: Path) -> dict[str, pd.DataFrame]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".xls":
            return _read_xls(path)
        _check_extent(path)
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except Exception as error:  # openpyxl, xlrd and zipfile raise many kinds for a damaged file
        if path.suffix.lower() not in {".xlsx", ".xls"}:
            raise DatasetLayoutError(f"{path} is no workbook; save it as .xlsx, its columns as they are") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetLayoutError(f"workbook {path} cannot be read ({reason}); copy it again") from None
    return {str(name): sheet for name, sheet in sheets.items()}


def _check_extent(path: Path) -> None:
    """Raise DatasetLayoutError for an .xlsx that unpacks into more than it should: a single cell in the last row and
    column makes a table of all cells before it."""
    with zipfile.ZipFile(path) as book:
        if sum(entry.file_size for entry in book.infolist()) > _MOST_BYTES:
            raise DatasetLayoutError(f"it unpacks into more than {_MOST_BYTES >> 20} MiB")
        for name in book.namelist():
            if not (name.startswith("xl/worksheets/") and name.endswith(".xml")):
                continue
            rows = columns = 0
            for letters, digits in _REFERENCE.findall(book.read(name)):
                column = 0
                for letter in letters:
                    column = 26 * column + letter - 64
                rows, columns = max(rows, int(digits)), max(columns, column)
            if rows * columns > _MOST_CELLS:
                raise DatasetLayoutError(f"{name} has a cell in row {rows} and one in column {columns}")


def _read_xls(path: Path) -> dict[str, pd.DataFrame]:
    """The old binary format, whose numbers are all floats."""
    import pandas as pd

    tables = {}
    for sheet in xlrd.open_workbook(path).sheets():
        if sheet.nrows * sheet.ncols > _MOST_CELLS:
            raise DatasetLayoutError(f"sheet {sheet.name} has {sheet.nrows} rows and {sheet.ncols} columns")
        rows = [[None if cell == "" else cell for cell in sheet.row_values(i)] for i in range(sheet.nrows)]
        tables[str(sheet.name)] = pd.DataFrame(rows, dtype=object)
    return tables


def read_workbook(
    path: Path, wanted: Mapping[str, Sequence[str]], optional: Sequence[str] = (), *, sheets: Sequence[str] = ()
) -> Sheet:
    """Read the first sheet whose header holds the ``wanted`` columns.

    ``wanted`` maps our name to accepted names, compared without case, blanks and punctuation. Blank columns,
    blank rows and a preamble above the header do not matter. Cells stay as they are ('01' is not 1).
    ``sheets``: names to read, where they are there at all; empty for every sheet.

    Raises:
        DatasetLayoutError: unreadable file, or no sheet has every column that is not ``optional``.
    """
    import pandas as pd

    found = _read_sheets(path)
    named = {name: sheet for name, sheet in found.items() if _plain(name) in {_plain(s) for s in sheets}}
    best: tuple[int, tuple[str, ...], list[str]] | None = None
    for name, sheet in (named or found).items():
        for index in range(min(len(sheet), _HEADER_ROWS)):
            header = tuple(str(cell) for cell in sheet.iloc[index] if not pd.isna(cell))
            places = _places(list(sheet.iloc[index]), wanted)
            missing = [ours for ours in wanted if ours not in places and ours not in optional]
            if not missing:
                return Sheet(path, name, header, _rows(sheet.iloc[index + 1 :], places))
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
    import pandas as pd

    plain = ["" if pd.isna(cell) else _plain(cell) for cell in header]
    places = {}
    for name, accepted in wanted.items():
        position = next((plain.index(_plain(a)) for a in accepted if _plain(a) in plain), None)
        if position is not None:
            places[name] = position
    return places


def _rows(body: pd.DataFrame, places: dict[str, int]) -> tuple[dict[str, object], ...]:
    import pandas as pd

    rows = []
    for cells in body.itertuples(index=False, name=None):
        row = {name: None if pd.isna(cells[i]) else cells[i] for name, i in places.items()}
        if any(value is not None for value in row.values()):
            rows.append(row)
    return tuple(rows)


def frame_number(cell: object) -> int | None:
    """A cell as a frame number; None where it holds none (``/``, blank, more than 64 bits).

    >>> frame_number("46"), frame_number(1561983045123.0), frame_number("/"), frame_number("9" * 20)
    (46, 1561983045123, None, None)
    """
    if isinstance(cell, float) and cell.is_integer():  # 2.01907011230451e+16
        cell = int(cell)
    text = str(cell).strip() if cell is not None else ""
    match = re.fullmatch(r"0*(\d{1,19})(?:\.0*)?", text)
    return int(match[1]) if match and int(match[1]) <= LAST_FRAME else None


def text_of(cell: object) -> str:
    """A cell as text; numbers without a trailing ``.0``."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def roman_class(cell: object) -> str:
    """A cell as the roman numeral of an objective class; other words in capitals.

    >>> roman_class(3.0), roman_class("iii"), roman_class("12"), roman_class(None)
    ('III', 'III', '12', '')
    """
    name = text_of(cell).upper()
    return _ROMAN[int(name)] if name.isdecimal() and 0 < int(name) < len(_ROMAN) else name
