"""A release's folders: frames in numeric order, annotated frames found, sizes from headers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mesynth.errors import DatasetLayoutError, UnreadableImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


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


class Frames(dict[int, str]):
    """Frame number -> file name, ascending."""

    def path(self, folder: str, number: int) -> str:
        """Of one frame, relative to what ``folder`` is relative to."""
        return f"{folder}/{self[number]}" if folder else self[number]


def list_frames(folder: Path) -> Frames:
    """Frame number -> file name, ascending. The number is the last digit group of the name: img9 before img10.

    Files that are no images are ignored; nothing but the listing is read. Raises DatasetLayoutError when the
    folder is missing, holds no numbered image, or two files of one number.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetLayoutError(
            f"clip folder {folder} is missing; {folder.parent.name}: {contents(folder.parent)}"
        ) from None
    found: dict[int, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        match = _LAST_NUMBER.search(stem)
        if suffix.lower() not in IMAGE_SUFFIXES or name.startswith(".") or not match:
            continue
        number = int(match[1])
        if number in found:
            raise DatasetLayoutError(
                f"{folder} holds two files for frame {number}: {found[number]} and {name}; remove one"
            )
        found[number] = name
    if not found:
        raise DatasetLayoutError(f"clip folder {folder} holds no numbered images; {contents(folder)}")
    return Frames(sorted(found.items()))


def picture_size(folder: Path, name: str) -> tuple[int, int]:
    """(height, width) of a picture from its header. Raises UnreadableImageError when it has none."""
    path = folder / name
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, UnidentifiedImageError):
        raise UnreadableImageError(f"{path} cannot be read as an image; it may be truncated, replace it") from None


def nearest(numbers: Sequence[int], wanted: int, what: str, warnings: list[str]) -> int:
    """``wanted`` if it is among ``numbers``, else the nearest of them (the earlier of two) and a warning."""
    best = min(numbers, key=lambda n: (abs(n - wanted), n))
    if best != wanted:
        warnings.append(f"{what} frame {wanted} is not on disk; frame {best} taken")
    return best
