"""What every mimicked release needs: frames that tell their number, workbooks cell by cell, junk files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from openpyxl import Workbook

Cells = Sequence[object]
JUNK = ("Thumbs.db", ".DS_Store", "img1.jpg.lnk", "desktop.ini")


def picture(number: int, h: int = 24, w: int = 32) -> np.ndarray:
    """[h,w,3] uint8: its grey level tells its frame number (mod 200)."""
    return np.full((h, w, 3), 20 + number % 200, np.uint8)


@lru_cache(None)
def _encoded(draw: Callable[[int], np.ndarray], grey: int, suffix: str) -> bytes:
    """The file of a picture; releases hold thousands of them, of 200 grey levels. Tests of documents draw faces."""
    done, data = cv2.imencode(suffix, draw(grey))
    assert done
    return bytes(data)


def write_frames(folder: Path, numbers: Iterable[int], pattern: str = "img{}.jpg", *, junk: bool = False) -> Path:
    """One small picture a number; ``pattern`` is a format string, for example ``"{:05d}.png"``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        file = folder / pattern.format(number)
        file.write_bytes(_encoded(picture, number % 200, file.suffix))
    for name in JUNK if junk else ():
        (folder / name).write_bytes(b"junk")
    return folder


_BOOKS: dict[str, bytes] = {}


def write_book(file: Path, sheets: Mapping[str, Iterable[Cells]]) -> Path:
    """A workbook of sheets, each a sequence of rows; None leaves a cell blank. Equal ones are made once."""
    cells = {title: [list(row) for row in rows] for title, rows in sheets.items()}
    key = repr(cells)  # 1, 1.0 and "1" are different cells
    file.parent.mkdir(parents=True, exist_ok=True)
    if key not in _BOOKS:
        book = Workbook()
        assert book.active is not None
        book.remove(book.active)
        for title, rows in cells.items():
            sheet = book.create_sheet(title)
            for row in rows:
                sheet.append(row)
        book.save(file)
        _BOOKS[key] = file.read_bytes()
    else:
        file.write_bytes(_BOOKS[key])
    return file
