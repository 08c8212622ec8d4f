"""Pictures by name, whether they are image files or frames of video files, read exactly and one at a time.

A frame of a video is named ``clips/a.mp4#000012``: frame 12 of ``clips/a.mp4``, counted from 0 in the order in
which the file decodes. Containers state counts and seek positions that are often wrong, so nothing here seeks or
trusts a header: a frame's number is the number of pictures that decode before it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mesynth.core.errors import DatasetLayoutError, UnreadableImageError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a damaged file is one line of ours, not a page of FFmpeg's

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})
_COMPLETE = {".mp4": 1.0, ".m4v": 1.0, ".mov": 1.0, ".avi": 0.9}
"""Containers that state their number of pictures, and the share of it below which a file was cut off: AVI also
counts pictures that the camera dropped. The others state a duration, from which a number can only be guessed."""
_FRAME = re.compile(rf"(?P<video>.+(?:{'|'.join(re.escape(s) for s in sorted(VIDEO_SUFFIXES))}))#(?P<n>\d+)", re.I)
_MOST_FPS = 10_000.0  # files without a frame rate often state their time base: 90,000
_CHUNK = 1 << 20


# ---------------------------------------------------------------- names


def is_video(path: Path | str) -> bool:
    """Whether a path names a video file, by its suffix.

    >>> is_video("clips/a.MP4"), is_video("clips/a.mp4#000012"), is_video("clips/img1.jpg")
    (True, False, False)
    """
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frame_name(video: str, number: int) -> str:
    """The name of a video's frame.

    >>> frame_name("clips/a.mp4", 12)
    'clips/a.mp4#000012'
    """
    return f"{video}#{number:06d}"


def video_frame(name: str) -> tuple[str, int] | None:
    """(video, frame number) of a name, None where it names an image file.

    >>> video_frame("clips/a.mp4#000012"), video_frame("clips/a#1.jpg")
    (('clips/a.mp4', 12), None)
    """
    match = _FRAME.fullmatch(name)
    return (match["video"], int(match["n"])) if match else None


def file_of(name: str) -> str:
    """The file that holds the picture ``name``.

    >>> file_of("clips/a.mp4#000012"), file_of("clips/img1.jpg")
    ('clips/a.mp4', 'clips/img1.jpg')
    """
    frame = video_frame(name)
    return frame[0] if frame else name


# ---------------------------------------------------------------- one video


class _Decoder:
    """An open video, decoded forwards: the picture of a frame number that only ever grows."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DatasetLayoutError(f"video {path} is missing; check the path")
        self.path = path
        self._capture = _open(path)
        self._grabbed = -1

    def close(self) -> None:
        self._capture.release()

    def header(self, prop: int) -> float:
        return float(self._capture.get(prop))

    def advance(self) -> bool:
        """Decode the next picture; False at the end."""
        if not self._capture.grab():
            return False
        self._grabbed += 1
        return True

    def picture(self, number: int) -> np.ndarray:
        """[H,W,3] uint8 RGB of frame ``number``, which must not lie before the last one asked for."""
        assert number >= self._grabbed
        while self._grabbed < number:
            if not self.advance():
                raise UnreadableImageError(
                    f"{self.path} has no frame {number}: only {self._grabbed + 1} decode; "
                    "the number is wrong, or the video is truncated (copy it again)"
                )
        done, bgr = self._capture.retrieve()
        if not done or bgr is None:
            raise UnreadableImageError(f"frame {number} of {self.path} cannot be decoded; copy the video again")
        return np.ascontiguousarray(bgr[..., ::-1])


def _open(path: Path) -> cv2.VideoCapture:
    # An absolute path: FFmpeg takes what stands before a colon in a relative one for a protocol.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise UnreadableImageError(
            f"{path} cannot be decoded: it is empty, truncated, or its codec is not in this OpenCV; "
            "copy it again or convert it to H.264"
        )
    return capture


def _state(path: Path) -> tuple[str, int, int]:
    """What tells a file from an edited one, for caches."""
    try:
        found = os.stat(path)
    except OSError:
        raise DatasetLayoutError(f"video {path} is missing; check the path") from None
    return os.path.abspath(path), found.st_size, found.st_mtime_ns


def frame_count(path: Path | str) -> int:
    """How many pictures of a video decode (at least 1). The whole video is decoded, once per process and file.

    Raises:
        DatasetLayoutError: no such file.
        UnreadableImageError: nothing decodes, or the file was cut off.
    """
    return _count(*_state(Path(path)))


@lru_cache(maxsize=4096)
def _count(name: str, size: int, changed: int) -> int:
    path = Path(name)
    decoder = _Decoder(path)
    try:
        stated = decoder.header(cv2.CAP_PROP_FRAME_COUNT)
        count = 0
        while decoder.advance():
            count += 1
    finally:
        decoder.close()
    if count == 0:
        raise UnreadableImageError(
            f"no frame of {path} can be decoded; it is damaged, or its codec is not in this OpenCV: "
            "copy it again or convert it to H.264"
        )
    share = _COMPLETE.get(path.suffix.lower(), 0.0)
    if count < share * stated and (packets := _packets(path)) < share * stated:
        raise UnreadableImageError(
            f"{path} is truncated: its header states {stated:.0f} frames, {packets} are in the file; copy it again"
        )
    return count


def _packets(path: Path) -> int:
    """Coded pictures in the file. Fewer than stated: cut off. As many, of which some do not decode: trimmed."""
    capture = _open(path)
    try:
        capture.set(cv2.CAP_PROP_FORMAT, -1)  # hand out packets, decode nothing
        count = 0
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()


def video_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of a video's pictures as they are read, upright where the file says how it was held.

    Raises:
        DatasetLayoutError, UnreadableImageError: see :func:`frame_count`.
    """
    return _size(*_state(Path(path)))


@lru_cache(maxsize=4096)
def _size(name: str, size: int, changed: int) -> tuple[int, int]:
    decoder = _Decoder(Path(name))
    try:
        height, width, _ = decoder.picture(0).shape
    finally:
        decoder.close()
    return height, width


def video_fps(path: Path | str) -> float:
    """Frames a second as the file states them (the average, where they vary).

    Raises:
        DatasetLayoutError: no such file, or it states none.
        UnreadableImageError: it cannot be opened.
    """
    decoder = _Decoder(Path(path))
    try:
        fps = decoder.header(cv2.CAP_PROP_FPS)
    finally:
        decoder.close()
    if not math.isfinite(fps) or not 0 < fps <= _MOST_FPS:
        raise DatasetLayoutError(f"{path} states no usable frame rate ({fps:g}); write it into the fps column")
    return fps


def listing(path: Path | str) -> dict[int, str]:
    """Frame number -> name of the frame, without the folder: ``{0: "a.mp4#000000", ...}``.

    Raises:
        DatasetLayoutError, UnreadableImageError: see :func:`frame_count`.
    """
    path = Path(path)
    return {number: frame_name(path.name, number) for number in range(frame_count(path))}


# ---------------------------------------------------------------- pictures


def image_array(data: bytes, name: str) -> np.ndarray:
    """[H,W,3] uint8 RGB of an encoded picture. Raises UnreadableImageError."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # a header that asks for more pixels than OpenCV or this machine has room for
        image = None
    if image is None:
        raise UnreadableImageError(f"{name} cannot be read as an image; it may be truncated, replace it")
    return np.ascontiguousarray(image[..., ::-1])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"{path} cannot be read ({reason}); check the path") from None


def read_image(path: Path | str) -> np.ndarray:
    """[H,W,3] uint8 RGB. Raises UnreadableImageError on a missing, empty or damaged file."""
    path = Path(path)
    return image_array(_bytes(path), str(path))


def read_pictures(root: Path, names: Sequence[str], digest: hashlib._Hash | None = None) -> Iterator[np.ndarray]:
    """The pictures [H,W,3] uint8 RGB of ``names`` in order; image files and video frames may be mixed.

    A video is opened once for a run of its frames with numbers that do not fall, and decoded from its start;
    one picture is held at a time. ``digest`` is fed with the bytes of image files, and for a video frame with the
    sha256 of its file and its number: decoded pictures differ by a grey level between decoders, files do not.

    Raises:
        UnreadableImageError: a missing or damaged image, a damaged video, a frame past a video's end.
        DatasetLayoutError: a missing video.
    """
    decoder: _Decoder | None = None
    last, held = -1, np.empty(0)
    try:
        for name in names:
            frame = video_frame(name)
            if frame is None:
                data = _bytes(root / name)
                if digest is not None:
                    digest.update(data)
                yield image_array(data, str(root / name))
                continue
            path, number = root / frame[0], frame[1]
            if decoder is None or decoder.path != path or number < last:
                if decoder is not None:
                    decoder.close()
                decoder = _Decoder(path)
                last = -1
            if digest is not None:
                digest.update(f"{_file_hash(*_state(path))}#{number}\n".encode())
            if number != last:
                held = decoder.picture(number)
            last = number
            yield held.copy()
    finally:
        if decoder is not None:
            decoder.close()


@lru_cache(maxsize=4096)
def _file_hash(name: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(name, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
