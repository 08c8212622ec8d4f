"""What CASME II- and SAMM-like exports share: a folder of JPEG frames a clip, numbered as annotated.

Frames come back as the JPEGs decode; flow does not, which `mesynth prepare corpus` estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.corpus.exports.annotation import numbers_of
from mesynth.corpus.exports.form import Clip, Placed, with_files, with_warning
from mesynth.corpus.exports.pictures import jpeg_bytes
from mesynth.corpus.exports.reading import picture_files
from mesynth.manifest import Row
from mesynth.run_folder import write_bytes
from mesynth.stage import Produced

RENUMBERED = "frames renumbered from the onset on: the clip had been thinned or resampled"


def write_clip(
    out: Path, folder: str, pattern: str, clip: Clip, place: dict[str, str | int], change: Callable[..., np.ndarray]
) -> Placed:
    """Write the frames of one clip into ``folder`` as ``pattern.format(number)``.

    ``change``: [H,W,3] -> the picture to write. ``place`` gains onset, apex ("" where none was annotated), offset.
    """
    numbers = numbers_of(clip.row)
    files = [f"{folder}/{pattern.format(number)}" for number in numbers.each()]
    for file, frame in zip(files, clip.frames(), strict=True):
        write_bytes(out / file, jpeg_bytes(change(frame)))
    apex = "" if numbers.apex is None else numbers.apex
    place |= {"onset": numbers.onset, "apex": apex, "offset": numbers.offset}
    if numbers.renumbered:
        place["note"] = RENUMBERED
    return Placed(with_files(clip.row, files), place)


def clip_back(root: Path, folder: str, pattern: str, row: Row, place: dict[str, Any], lost: str) -> Produced:
    """The clip that :func:`write_clip` wrote; ``lost`` is the warning of what it cost."""
    files = (f"{folder}/{pattern.format(number)}" for number in range(place["onset"], place["offset"] + 1))
    return Produced(with_warning(row, lost), frames=picture_files(root, row, files))
