"""Tar shards: a clip's arrays as a run of files in an uncompressed tar, read back with one seek.

A shard is a valid WebDataset (files of one clip share a key and stand together), and a clip's byte
range in it is a valid tar by itself, so map-style readers need the manifest's span and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import tarfile
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from mesynth.core.errors import ManifestError, UnreadableImageError
from mesynth.store.manifest import Row, Span
from mesynth.store.run_folder import temporary_beside
from mesynth.store.videos import image_array, read_pictures

_END = b"\0" * 1024  # two empty blocks end a tar
_PICTURE = [cv2.IMWRITE_PNG_COMPRESSION, 1]
# One filter for all lines, and run lengths in place of a search for repeats, which a face has not: written more than
# twice as fast, read half as fast again, and no larger (rendered faces at 128 px: 0 to 9 % smaller).
_FRAME = [*_PICTURE, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12; those before know one filter alone
    _FRAME += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]


class ShardWriter:
    """Writes one shard under a temporary name; the file appears only when it is closed without error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary_beside(path)
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
    path, data = root / span.shard, b""
    try:
        with open(path, "rb") as file:
            # A range beyond the file is not read: its size may be anything.
            if span.offset >= 0 and 0 < span.size <= os.fstat(file.fileno()).st_size - span.offset:
                file.seek(span.offset)
                data = file.read(span.size)
    except FileNotFoundError:
        raise ManifestError(f"shard {path} is missing; copy it beside its manifest or make the corpus anew") from None
    except (OSError, ValueError) as error:  # a folder, no permission, a name that no file can have
        raise ManifestError(f"shard {path} cannot be read ({error}); copy it beside its manifest") from None
    if not data or len(data) != span.size or (verify and hashlib.sha256(data).hexdigest() != span.sha256):
        raise ManifestError(f"shard {path} is damaged at byte {span.offset}; copy it again or make the corpus anew")
    try:
        return _members(data)
    except (tarfile.TarError, ValueError, LookupError, OSError) as error:
        raise ManifestError(f"shard {path} is no tar at byte {span.offset} ({error}); make the corpus anew") from None


def _members(data: bytes) -> dict[str, bytes]:
    """The plain files of a tar without its end blocks, all of them. Raises TarError and what tarfile raises besides."""
    members: dict[str, bytes] = {}
    end = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            name = info.name.partition(".")[2]
            # Sparse files and links say what they hold instead of holding it; paths are for unpacking.
            if not info.isreg() or info.issparse() or info.size < 0:
                raise tarfile.ReadError(f"{info.name!r} is no plain file")
            if not name or name in members or {"/", "\\", "\0"} & set(info.name):
                raise tarfile.ReadError(f"{info.name!r} is no name of a clip's file")
            handle = tar.extractfile(info)
            assert handle is not None
            members[name] = handle.read()
            end = info.offset_data + -(-info.size // 512) * 512
    if end != len(data):  # tarfile takes a damaged header for the end
        raise tarfile.ReadError(f"{len(data) - end} bytes after its last file")
    return members


# ---------------------------------------------------------------- arrays and pictures as bytes


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` in npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npy_array(data: bytes) -> np.ndarray:
    """The array of npy bytes; never unpickles, and allocates nothing that the bytes do not hold.

    Raises:
        ManifestError: they are no npy, or of another size than their header says.
    """
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(buffer)
    except Exception as error:  # numpy evaluates the header as a literal, which fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ManifestError(f"an array cannot be read ({reason}); make the corpus anew") from None
    held = len(data) - buffer.tell()
    if dtype.hasobject:
        raise ManifestError("an array holds pickled objects; they are never loaded (allow_pickle=False)")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise ManifestError(f"an array says it is {dtype} {shape} and holds {held} bytes; make the corpus anew")
    flat = np.frombuffer(data, dtype, offset=buffer.tell()) if held else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="A")


def png_bytes(rgb: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB as PNG (fast compression level)."""
    return _png(rgb, _PICTURE)


def _png(rgb: np.ndarray, how: list[int]) -> bytes:
    done, buffer = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), how)
    assert done
    return bytes(buffer)


def frames_members(frames: np.ndarray) -> dict[str, bytes]:
    """[T,H,W,3] uint8 -> ``000.png`` ... in order, written for speed."""
    return {f"{i:03d}.png": _png(frame, _FRAME) for i, frame in enumerate(frames)}


def read_frames(root: Path, row: Row) -> np.ndarray:
    """The clip's frames [T,H,W,3] uint8 RGB, from its shard or, before `prepare`, its image or video files."""
    if row.frames is not None:
        members = read_span(root, row.frames, verify=True)
        names = sorted(n for n in members if n.endswith(".png"))
        if not names:
            raise ManifestError(f"clip {row.clip_id} has no pictures in {row.frames.shard}; make the corpus anew")
        return _stacked(row, [image_array(members[n], f"{row.clip_id}/{n}") for n in names])
    if not row.frame_files:
        raise ManifestError(f"clip {row.clip_id} has no frames in this manifest; use the corpus it came from")
    return _stacked(row, list(read_pictures(root, row.frame_files)))


def _stacked(row: Row, images: list[np.ndarray]) -> np.ndarray:
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
    members = read_span(root, row.flow, verify=True)
    return npy_array(members["valid.npy"]) if "valid.npy" in members else None


STRETCHED = "stretched"
"""Name by which :func:`read_extra` gives a clip that was read from a flow image that image, [3,H,W] uint8: u, v and
strain as in the file."""


def read_extra(root: Path, row: Row, name: str) -> np.ndarray:
    """An array that `prepare --inputs` stored beside the flow. Raises ManifestError without it."""
    return _flow_member(root, row, f"input_{name}.npy")


def _flow_member(root: Path, row: Row, name: str) -> np.ndarray:
    if row.flow is None:
        raise ManifestError(f"clip {row.clip_id} has no flow; run `mesynth prepare` on its manifest first")
    members = read_span(root, row.flow, verify=True)
    if name not in members:
        raise ManifestError(f"clip {row.clip_id} has no {name} in {row.flow.shard}; run `mesynth prepare` again")
    return npy_array(members[name])
