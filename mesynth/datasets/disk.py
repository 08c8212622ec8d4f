"""A release's folders: frames in numeric order, annotated frames found, sizes from headers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mesynth.errors import DatasetLayoutError, UnreadableImageError
from mesynth.videos import is_video, listing, video_frame, video_size

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


def release_folder(root: Path, names: Sequence[str], title: str) -> Path:
    """The first of ``names`` in ``root``; archives that unpack into a folder of the same name are followed.

    Raises DatasetLayoutError when there is none.
    """
    found = find_folder(root, *names)
    if found is None:
        raise DatasetLayoutError(
            f"no folder {names[0]} in {root}: {contents(root)}; give the folder of the {title} release"
        )
    return find_folder(found, *names) or found


def numbered_folders(folder: Path, prefix: str = "") -> dict[int, str]:
    """Number -> name of the folders ``<prefix><number>`` in ``folder``, whatever their case and padding."""
    pattern = re.compile(rf"{re.escape(prefix)}0*(\d+)", re.IGNORECASE)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return {int(match[1]): name for name in reversed(names) if (match := pattern.fullmatch(name))}


def subfolders(folder: Path) -> dict[str, str]:
    """Lower-case name -> name of the folders in ``folder``, hidden ones left out; empty where it does not exist."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=True))
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
    its frames, numbered from 0; see :func:`mesynth.videos.frame_count` for the errors.
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
