"""Files of an export on their way back, each checked against what ``provenance.jsonl`` says of its clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mesynth.errors import ManifestError
from mesynth.manifest import Row
from mesynth.shards import npy_array
from mesynth.videos import image_array

AGAIN = "export the corpus again, or copy the export again"


def inside(root: Path, name: str) -> Path:
    """The file ``name`` below ``root``. Raises ManifestError on a name that leads elsewhere."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ManifestError(f"{root} names the file '{name}', which does not lie in it; {AGAIN}")
    return root / path


def file_bytes(root: Path, name: str) -> bytes:
    """The bytes of a file of the export. Raises ManifestError where it is missing."""
    path = inside(root, name)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ManifestError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); {AGAIN}") from None


def picture_files(root: Path, row: Row, names: Iterable[str]) -> np.ndarray:
    """[T,H,W,3] uint8 RGB of loose picture files; see :func:`pictures`."""
    return pictures(row, ((str(inside(root, name)), file_bytes(root, name)) for name in names))


def pictures(row: Row, named: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """[T,H,W,3] uint8 RGB of encoded pictures and their names.

    Raises:
        UnreadableImageError: one is damaged.
        ManifestError: one has another size than its clip, or there are too few or too many.
    """
    images = []
    for name, data in named:
        image = image_array(data, name)
        if image.shape[:2] != (row.height, row.width):
            height, width = image.shape[:2]
            raise ManifestError(
                f"{name} is {width}x{height} pixels; clip {row.clip_id} has {row.width}x{row.height}; {AGAIN}"
            )
        images.append(image)
    if len(images) != row.n_frames or not images:
        raise ManifestError(f"clip {row.clip_id} has {row.n_frames} frames, {len(images)} of them here; {AGAIN}")
    return np.stack(images)


def array(data: bytes, name: str) -> np.ndarray:
    """An array of npy bytes, never unpickled. Raises ManifestError, which names it, where they are no npy."""
    try:
        return npy_array(data)
    except ManifestError as error:
        raise ManifestError(f"{name}: {error}") from None


def stored(row: Row, arrays: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, Any]:
    """What :class:`mesynth.stage.Produced` takes: ``flow``, ``landmarks``, ``valid``, and the rest as ``extra``.

    ``arrays``: kind -> (name for errors, array). Raises ManifestError on another shape or type than the row's.
    """
    size = (row.height, row.width)
    wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "flow": ((2, *size), np.float32), "landmarks": ((68, 2), np.float32), "valid": (size, np.bool_),
    }  # fmt: skip
    known = {kind: shaped(found, name, *wanted[kind]) for kind, (name, found) in arrays.items() if kind in wanted}
    return {**known, "extra": {kind: found for kind, (_, found) in arrays.items() if kind not in wanted}}


def shaped(found: np.ndarray, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """``found``. Raises ManifestError where it has another shape or type, or holds NaN or infinity."""
    if found.shape != shape or found.dtype != kind:
        raise ManifestError(f"{name} is {found.dtype} {found.shape}; expected {np.dtype(kind)} {shape}; {AGAIN}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ManifestError(f"{name} holds NaN or infinity; {AGAIN}")
    return found
