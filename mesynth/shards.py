"""Tar shards: a clip's arrays as a run of files in an uncompressed tar, read back with one seek.

A shard is a valid WebDataset (files of one clip share a key and stand together), and a clip's byte
range in it is a valid tar by itself, so map-style readers need the manifest's span and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from mesynth.errors import ManifestError, UnreadableImageError
from mesynth.manifest import Row, Span
from mesynth.videos import image_array as image_array
from mesynth.videos import read_image as read_image
from mesynth.videos import read_pictures

_END = b"\0" * 1024  # two empty blocks end a tar


class ShardWriter:
    """Writes one shard under a temporary name; the file appears only when it is closed without error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed in __exit__

    def add(self, key: str, members: dict[str, bytes]) -> Span:
        """Append the files ``key.name`` and return where they lie. Keys hold no dots (WebDataset)."""
        assert "." not in key
        assert members
        offset = self._file.tell()
        digest = hashlib.sha256()
        for name, data in members.items():
            info = tarfile.TarInfo(f"{key}.{name}")  # mtime, owner and mode stay 0: same bytes, same tar
            info.size = len(data)
            block = info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % 512)
            self._file.write(block)
            digest.update(block)
        return Span(self.path.name, offset, self._file.tell() - offset, digest.hexdigest())

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._file.write(_END)
            self._file.close()
            os.replace(self._temporary, self.path)
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def read_span(root: Path, span: Span, *, verify: bool = False) -> dict[str, bytes]:
    """The files of a clip by name (without key). ``verify`` checks the sha256.

    Raises:
        ManifestError: the shard is missing, too short, or not what the manifest says.
    """
    path = root / span.shard
    try:
        with open(path, "rb") as file:
            file.seek(span.offset)
            data = file.read(span.size)
    except FileNotFoundError:
        raise ManifestError(f"shard {path} is missing; copy it beside its manifest or make the corpus anew") from None
    if len(data) != span.size or (verify and hashlib.sha256(data).hexdigest() != span.sha256):
        raise ManifestError(f"shard {path} is damaged at byte {span.offset}; copy it again or make the corpus anew")
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                handle = tar.extractfile(info)
                if handle is not None:
                    members[info.name.partition(".")[2]] = handle.read()
    except tarfile.TarError as error:
        raise ManifestError(f"shard {path} is no tar at byte {span.offset} ({error}); make the corpus anew") from None
    return members


# ---------------------------------------------------------------- arrays and pictures as bytes


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` in npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npy_array(data: bytes) -> np.ndarray:
    """The array of npy bytes; never unpickles."""
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def png_bytes(rgb: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB as PNG (fast compression level)."""
    done, buffer = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return bytes(buffer)


def frames_members(frames: np.ndarray) -> dict[str, bytes]:
    """[T,H,W,3] uint8 -> ``000.png`` ... in order."""
    return {f"{i:03d}.png": png_bytes(frame) for i, frame in enumerate(frames)}


def read_frames(root: Path, row: Row) -> np.ndarray:
    """The clip's frames [T,H,W,3] uint8 RGB, from its shard or, before `prepare`, its image or video files."""
    if row.frames is not None:
        members = read_span(root, row.frames)
        names = sorted(n for n in members if n.endswith(".png"))
        return np.stack([image_array(members[n], f"{row.clip_id}/{n}") for n in names])
    if not row.frame_files:
        raise ManifestError(f"clip {row.clip_id} has no frames in this manifest; use the corpus it came from")
    images = list(read_pictures(root, row.frame_files))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UnreadableImageError(f"frames of clip {row.clip_id} differ in size: {sorted(shapes)}; re-extract them")
    return np.stack(images)


def read_flow(root: Path, row: Row) -> np.ndarray:
    """Flow onset -> apex [2,H,W] float32, pixels. Raises ManifestError if the clip has none."""
    return _flow_member(root, row, "flow.npy")


def read_landmarks(root: Path, row: Row) -> np.ndarray:
    """The onset's 68 landmarks [68,2] float32 in the stored frames' pixels."""
    return _flow_member(root, row, "landmarks.npy")


def read_valid(root: Path, row: Row) -> np.ndarray | None:
    """[H,W] bool: False where an onset pixel is hidden at the apex; None where the flow is valid everywhere."""
    if row.flow is None:
        return None
    members = read_span(root, row.flow)
    return npy_array(members["valid.npy"]) if "valid.npy" in members else None


def read_extra(root: Path, row: Row, name: str) -> np.ndarray:
    """An array that `prepare --inputs` stored beside the flow. Raises ManifestError without it."""
    return _flow_member(root, row, f"input_{name}.npy")


def _flow_member(root: Path, row: Row, name: str) -> np.ndarray:
    if row.flow is None:
        raise ManifestError(f"clip {row.clip_id} has no flow; run `mesynth prepare` on its manifest first")
    members = read_span(root, row.flow)
    if name not in members:
        raise ManifestError(f"clip {row.clip_id} has no {name} in {row.flow.shard}; run `mesynth prepare` again")
    return npy_array(members[name])
