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
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np

from mesynth.core.errors import ConfigError, ManifestError, UnreadableImageError, first_line
from mesynth.core.framing import LANDMARKS, Framing, KnownFraming, framing_of_eyes
from mesynth.store.manifest import Manifest, Row, Span
from mesynth.store.remote import place
from mesynth.store.run_folder import RUN_FILE, temporary_beside
from mesynth.store.videos import (
    check_lossless,
    encoded,
    image_array,
    in_threads,
    lossless_frames,
    lossless_video,
    read_pictures,
)

MASKS = ("valid.npy", "new.npy", "still.npy")
"""Masks [H,W] bool beside a flow, as :class:`mesynth.core.types.Flow` has them."""
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
            block = _header(f"{key}.{name}", len(data)) + data + b"\0" * (-len(data) % 512)
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


_PLAIN = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_PLAIN_SUM = sum(_PLAIN[:148]) + sum(_PLAIN[156:]) + 8 * ord(" ") - 11 * ord("0")
"""Of a header's bytes, its checksum as spaces, without name and size."""


def _header(name: str, size: int) -> bytes:
    """The ustar header of a plain file; mtime and owner stay 0: same bytes, same tar."""
    if name.isascii() and len(name) <= 100 and size < 8**11:
        return _plain_header(name.encode(), b"%011o" % size)
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _plain_header(name: bytes, digits: bytes) -> bytes:
    """Of a name of at most 100 ASCII letters and 11 octal digits of a size: tarfile takes ten times as long."""
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(name) + sum(digits))
    return b"".join((name.ljust(100, b"\0"), _PLAIN[100:124], digits, _PLAIN[135:148], checksum, _PLAIN[156:]))


def read_span(root: Path, span: Span, *, verify: bool = False) -> dict[str, bytes]:
    """The files of a clip by name (without key). ``verify`` checks the sha256.

    Raises:
        ManifestError: the shard is missing, too short, or not what the manifest says.
    """
    with ShardReader(root) as reader:
        return reader.read(span, verify=verify)


class ShardReader:
    """Reads the clips of a folder's shards one after the other; a shard stays open until one of another is read."""

    def __init__(self, root: Path) -> None:
        self.root = place(root)
        self._shard = ""
        self._file: BinaryIO | None = None
        self._size = 0

    def read(self, span: Span, *, verify: bool = False) -> dict[str, bytes]:
        """As :func:`read_span`."""
        path, data = self.root / span.shard, b""
        try:
            file = self._opened(span.shard)
            # A range beyond the file is not read: its size may be anything.
            if span.offset >= 0 and 0 < span.size <= self._size - span.offset:
                file.seek(span.offset)
                data = file.read(span.size)
        except FileNotFoundError:
            raise ManifestError(
                f"shard {path} is missing; copy it beside its manifest or make the corpus anew"
            ) from None
        except (OSError, ValueError) as error:  # a folder, no permission, a name that no file can have
            raise ManifestError(f"shard {path} cannot be read ({error}); copy it beside its manifest") from None
        if not data or len(data) != span.size or (verify and hashlib.sha256(data).hexdigest() != span.sha256):
            raise ManifestError(f"shard {path} is damaged at byte {span.offset}; copy it again or make the corpus anew")
        try:
            return _plain_members(data) or _members(data)
        except (tarfile.TarError, ValueError, LookupError, OSError) as error:
            raise ManifestError(
                f"shard {path} is no tar at byte {span.offset} ({error}); make the corpus anew"
            ) from None

    def _opened(self, shard: str) -> BinaryIO:
        if self._file is None or shard != self._shard:
            self.close()
            self._file = (self.root / shard).open("rb")
            self._shard, self._size = shard, self._file.seek(0, os.SEEK_END)
        return self._file

    def close(self) -> None:
        """Let go of the open shard."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain_members(data: bytes) -> dict[str, bytes] | None:
    """The files of a tar all of whose headers are, to the byte, :func:`_header` of an ASCII name; None for others.

    tarfile, ten times as slow, reads those, and says what is wrong with a damaged one.
    """
    members: dict[str, bytes] = {}
    place = 0
    while place < len(data):
        head = data[place : place + 512]
        name, digits = head[:100].rstrip(b"\0"), head[124:135]
        if digits.translate(None, b"01234567") or len(digits) != 11 or not name.isascii():
            return None
        if head != _plain_header(name, digits):
            return None
        short, size = name.partition(b".")[2].decode(), int(digits, 8)
        if not short or short in members or _NO_NAME & set(name):
            return None
        members[short] = data[place + 512 : place + 512 + size]
        place += 512 + -(-size // 512) * 512
    return members if place == len(data) else None


_NO_NAME = set(b"/\\\0")


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
            if not name or name in members or _NO_NAME & set(info.name.encode("utf-8", "replace")):
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
    try:
        start, shape, fortran, dtype = _npy_form(data)
    except Exception as error:  # numpy evaluates the header as a literal, which fails in many ways
        reason = first_line(error)
        raise ManifestError(f"an array cannot be read ({reason}); make the corpus anew") from None
    held = len(data) - start
    if dtype.hasobject:
        raise ManifestError("an array holds pickled objects; they are never loaded (allow_pickle=False)")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise ManifestError(f"an array says it is {dtype} {shape} and holds {held} bytes; make the corpus anew")
    flat = np.frombuffer(data, dtype, offset=start) if held else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="A")


_NpyForm = tuple[int, tuple[int, ...], bool, np.dtype]
"""Where the values begin, their shape, whether the first index runs fastest, their type."""


def _npy_form(data: bytes) -> _NpyForm:
    """What the header of npy bytes says; arrays of one form share a header, which is parsed once."""
    end = 10 + int.from_bytes(data[8:10], "little")
    usual = data[:8] == b"\x93NUMPY\x01\x00" and end <= 256
    return _parsed(data[:end]) if usual else _parsed.__wrapped__(data)


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> _NpyForm:
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = header(buffer)
    return buffer.tell(), shape, fortran, dtype


def png_bytes(rgb: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB as PNG (fast compression level)."""
    return _png(rgb, _PICTURE)


def _png(rgb: np.ndarray, how: list[int]) -> bytes:
    return encoded(rgb, ".png", how)


# ---------------------------------------------------------------- frames of a clip


PICTURES = ("png", "video")
"""How a clip's frames are stored: a PNG each, or one lossless video (:func:`mesynth.store.videos.lossless_video`)."""
VIDEO = "frames.mkv"


def check_pictures(form: str, option: str = "frames") -> str:
    """``form``, if frames can be stored so here. Raises ConfigError, which calls the option ``option``.

    >>> check_pictures("jpeg")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: frames 'jpeg' is unknown; choose png or video
    """
    if form not in PICTURES:
        raise ConfigError(f"{option} '{form}' is unknown; choose {' or '.join(PICTURES)}")
    if form == "video":
        check_lossless()
    return form


def frames_members(frames: np.ndarray, form: str = PICTURES[0], apex: int = 0) -> dict[str, bytes]:
    """[T,H,W,3] uint8 -> ``000.png`` ... in order, written for speed; or the video, whose frame ``apex`` is decoded
    without those before it."""
    if form == "video":
        return {VIDEO: lossless_video(frames, [apex])}
    return {f"{i:03d}.png": data for i, data in enumerate(in_threads(partial(_png, how=_FRAME), frames))}


def frame_names(members: Collection[str]) -> list[str]:
    """Those of a clip's files that hold its frames, in order.

    >>> frame_names({"001.png", "000.png", "json"}), frame_names(["frames.mkv"])
    (['000.png', '001.png'], ['frames.mkv'])
    """
    return [VIDEO] if VIDEO in members else sorted(name for name in members if name.endswith(".png"))


def member_frames(
    members: Mapping[str, bytes], clip_id: str, places: Sequence[int] | None = None, total: int | None = None
) -> np.ndarray:
    """The frames [N,H,W,3] uint8 RGB of a clip's files, those at ``places`` alone unless that is None.

    ``total``: how many the clip must have.

    Raises:
        ManifestError: it has another number, or none.
        UnreadableImageError: they are damaged, or differ in size.
    """
    names = frame_names(members)
    if not names:
        raise ManifestError(f"clip {clip_id} holds no frames; make the corpus anew")
    if names == [VIDEO]:
        return lossless_frames(members[VIDEO], f"{clip_id}/{VIDEO}", places, total)
    if total is not None and len(names) != total:
        raise ManifestError(f"clip {clip_id} holds {len(names)} frames, its row says {total}; make it anew")
    wanted = range(len(names)) if places is None else places
    if beyond := [place for place in wanted if not 0 <= place < len(names)]:
        raise ManifestError(f"clip {clip_id} has no frame {beyond[0]}: it holds {len(names)}; make it anew")
    return _stacked(clip_id, [image_array(members[names[i]], f"{clip_id}/{names[i]}") for i in wanted])


def member_pngs(members: Mapping[str, bytes], clip_id: str) -> list[bytes]:
    """A clip's frames as PNG: byte for byte the stored ones, or of a video those that would have been stored."""
    names = frame_names(members)
    if names != [VIDEO]:
        return [members[name] for name in names]
    return list(frames_members(member_frames(members, clip_id)).values())


def read_frames(root: Path, row: Row, places: Sequence[int] | None = None) -> np.ndarray:
    """The clip's frames [N,H,W,3] uint8 RGB, from its shard or, before `prepare`, its image or video files: all of
    them, or those at ``places`` alone, which is quicker."""
    with ShardReader(root) as reader:
        return frames_of(reader, row.clip_id, row.frames, row.frame_files, places)


def frames_of(
    reader: ShardReader, clip_id: str, span: Span | None, files: Sequence[str], places: Sequence[int] | None = None
) -> np.ndarray:
    """:func:`read_frames` by a reader that stays open, of a clip whose row was not made."""
    if span is not None:
        members = reader.read(span, verify=True)
        if not frame_names(members):
            raise ManifestError(f"clip {clip_id} has no pictures in {span.shard}; make the corpus anew")
        return member_frames(members, clip_id, places)
    if not files:
        raise ManifestError(f"clip {clip_id} has no frames in this manifest; use the corpus it came from")
    wanted = files if places is None else [files[place] for place in places]
    return _stacked(clip_id, list(read_pictures(reader.root, wanted)))


def _stacked(clip_id: str, images: list[np.ndarray]) -> np.ndarray:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UnreadableImageError(f"frames of clip {clip_id} differ in size: {sorted(shapes)}; re-extract them")
    return np.stack(images)


def read_flow(root: Path, row: Row) -> np.ndarray:
    """Flow onset -> apex [2,H,W] float32, pixels. Raises ManifestError if the clip has none."""
    with ShardReader(root) as reader:
        return _flow(reader, row.clip_id, row.flow)


def read_flows(manifest: Manifest) -> Iterator[np.ndarray]:
    """:func:`read_flow` of every clip in turn, one in memory; a shard is opened once, and no rows are made.

    >>> import mesynth, tempfile
    >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=3, out=tempfile.mkdtemp() + "/c")
    >>> [flow.shape for flow in read_flows(corpus)]
    [(2, 28, 28), (2, 28, 28), (2, 28, 28)]
    """
    with ShardReader(manifest.root) as reader:
        for batch in manifest.table.select(["clip_id", "flow"]).to_batches(max_chunksize=1024):
            for clip in batch.to_pylist():
                yield _flow(reader, clip["clip_id"], clip["flow"] and Span(**clip["flow"]))


FLOW_PARTS = ("flow", "valid", "landmarks")
"""What :func:`flow_parts` reads."""


def flow_parts(reader: ShardReader, clip_id: str, span: Span | None, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Those of FLOW_PARTS that are wanted, with one read: flow [2,H,W], valid [H,W] bool (missing where the flow is
    valid everywhere), landmarks [68,2]. Raises ManifestError for a clip without flow, or a damaged one."""
    members = _members_of(reader, clip_id, span)
    found = {}
    for name in wanted:
        if name != "valid" or "valid.npy" in members:
            found[name] = _one(members, clip_id, span, f"{name}.npy")
    if "flow" in found:
        _check_flow(clip_id, found["flow"])
    return found


def _flow(reader: ShardReader, clip_id: str, span: Span | None) -> np.ndarray:
    flow = _member(reader, clip_id, span, "flow.npy")
    _check_flow(clip_id, flow)
    return flow


def _check_flow(clip_id: str, flow: np.ndarray) -> None:
    if flow.ndim != 3 or flow.shape[0] != 2 or not flow.size or flow.dtype.kind != "f":
        raise ManifestError(f"flow of clip {clip_id} is {flow.dtype} {flow.shape}, not [2,H,W]; make the corpus anew")


def read_landmarks(root: Path, row: Row) -> np.ndarray:
    """The onset's 68 landmarks [68,2] float32 in the stored frames' pixels."""
    return _flow_member(root, row, "landmarks.npy")


def read_valid(root: Path, row: Row) -> np.ndarray | None:
    """[H,W] bool: False where an onset pixel is hidden at the apex; None where the flow is valid everywhere."""
    return read_mask(root, row, "valid")


def read_mask(root: Path, row: Row, name: str) -> np.ndarray | None:
    """[H,W] bool: ``valid``, ``new`` or ``still`` of :class:`mesynth.core.types.Flow`; None where it is not stored."""
    if row.flow is None:
        return None
    members = read_span(root, row.flow, verify=True)
    return npy_array(members[f"{name}.npy"]) if f"{name}.npy" in members else None


STRETCHED = "stretched"
"""Name by which :func:`read_extra` gives a clip that was read from a flow image that image, [3,H,W] uint8: u, v and
strain as in the file."""


def read_extra(root: Path, row: Row, name: str) -> np.ndarray:
    """An array that `prepare --inputs` stored beside the flow. Raises ManifestError without it."""
    return _flow_member(root, row, f"input_{name}.npy")


def read_extras(root: Path, row: Row, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of :func:`read_extra`'s arrays that the clip has, with one read."""
    with ShardReader(root) as reader:
        members = _members_of(reader, row.clip_id, row.flow)
    return {name: npy_array(members[f"input_{name}.npy"]) for name in names if f"input_{name}.npy" in members}


def _flow_member(root: Path, row: Row, name: str) -> np.ndarray:
    with ShardReader(root) as reader:
        return _member(reader, row.clip_id, row.flow, name)


def _member(reader: ShardReader, clip_id: str, span: Span | None, name: str) -> np.ndarray:
    return _one(_members_of(reader, clip_id, span), clip_id, span, name)


def _members_of(reader: ShardReader, clip_id: str, span: Span | None) -> dict[str, bytes]:
    if span is None:
        raise ManifestError(f"clip {clip_id} has no flow; run `mesynth prepare` on its manifest first")
    return reader.read(span, verify=True)


def _one(members: dict[str, bytes], clip_id: str, span: Span | None, name: str) -> np.ndarray:
    assert span is not None
    if name not in members:
        raise ManifestError(f"clip {clip_id} has no {name} in {span.shard}; run `mesynth prepare` again")
    return npy_array(members[name])


def _drawn(root: Path) -> KnownFraming | None:
    """Of a corpus of flow images from before framings were recorded: its run says where it drew faces."""
    from mesynth.config import read_yaml

    try:
        run = read_yaml((root / RUN_FILE).read_text(encoding="utf-8"))["config"]
        return KnownFraming(framing=Framing(**run.get("framing", {}))) if run["kind"] == "flow" else None
    except (OSError, TypeError, KeyError, AttributeError, ValueError, OverflowError, ConfigError):
        return None


_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)  # iBUG-68; as mesynth.preprocess.align has them
_LOOKED_AT = 64


def known_framing(manifest: Manifest) -> KnownFraming | None:
    """Where faces lie in a manifest's clips: as recorded, else by the run that drew flow images, else by the landmarks
    of up to 64 clips; None without any of these.

    Raises:
        ManifestError: a damaged record, shard or array.
    """
    recorded = manifest.framing or _drawn(manifest.root)
    if recorded is not None or not len(manifest):
        return recorded
    chosen = np.zeros(len(manifest), np.bool_)
    chosen[:: -(-len(manifest) // _LOOKED_AT)] = True
    eyes, sizes = [], set()
    with ShardReader(manifest.root) as reader:
        for row in manifest.filter(chosen):
            data = {} if row.flow is None else reader.read(row.flow, verify=True)
            if "landmarks.npy" not in data:
                return None
            points = npy_array(data["landmarks.npy"])
            if points.shape != (68, 2) or not np.isfinite(points).all():
                raise ManifestError(f"landmarks of clip {row.clip_id} are no [68,2] numbers; prepare it again")
            eyes.append([points[_RIGHT_EYE].mean(0), points[_LEFT_EYE].mean(0)])
            sizes.add((row.height, row.width))
    if len(sizes) != 1:
        return None  # shares of crops of several sizes, each other: no one framing
    try:
        framing = framing_of_eyes(np.array(eyes, np.float64), *sizes.pop())
    except ConfigError:  # faces that fill no crop, such as raw frames
        return None
    return KnownFraming(framing=framing, origin=LANDMARKS, images=len(eyes))
