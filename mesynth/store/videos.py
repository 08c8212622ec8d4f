"""Pictures by name, whether they are image files or frames of video files, read exactly and one at a time.

A frame of a video is named ``clips/a.mp4#000012``: frame 12 of ``clips/a.mp4``, counted from 0 in the order in
which the file decodes. Containers state counts and seek positions that are often wrong, so nothing here seeks or
trusts a header: a frame's number is the number of pictures that decode before it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from mesynth.core.errors import ConfigError, DatasetLayoutError, UnreadableImageError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a damaged file is one line of ours, not a page of FFmpeg's

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
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


class _Silent:
    """While a thread is in it, OpenCV prints nothing; the last that leaves puts the level back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._level = cv2.utils.logging.getLogLevel()
                cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                cv2.utils.logging.setLogLevel(self._level)


_silent = _Silent()

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
        return swapped_channels(bgr)


def _open(path: Path) -> cv2.VideoCapture:
    # An absolute path: FFmpeg takes what stands before a colon in a relative one for a protocol.
    with _silent:
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
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


# ---------------------------------------------------------------- lossless


_LOSSLESS = "libx264rgb"
_EVERY = 64
"""Frames after which one is coded by itself, at the latest."""
_COUNT = "FRAMES"
"""Of a video's metadata: how many frames it has. A file that was cut off plays to where it ends."""
_GONE = "copy the corpus again or make it anew"


def check_lossless() -> None:
    """Raise ConfigError where this build of PyAV cannot write :func:`lossless_video` (each can read it)."""
    import av

    try:
        av.Codec(_LOSSLESS, "w")
    except (ValueError, av.FFmpegError):
        raise ConfigError(
            f"frames cannot be stored as video: PyAV {av.__version__} was built without the encoder {_LOSSLESS}; "
            "store them as png, or install PyAV's own wheel (pip install --force-reinstall av)"
        ) from None


def lossless_video(frames: np.ndarray, keys: Collection[int] = ()) -> bytes:
    """[T,H,W,3] uint8 RGB as Matroska with H.264 of the High 4:4:4 profile in RGB, quantiser 0: every bit is kept, and
    the same frames give the same bytes.

    Frame 0, ``keys`` and at least every 64th are coded by themselves: :func:`lossless_frames` decodes them alone.

    >>> clip = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    >>> bool((lossless_frames(lossless_video(clip, [3]), "a clip") == clip).all())
    True
    """
    import av

    check_lossless()
    file = io.BytesIO()
    container: Any
    # bitexact: no version, no time of day and no random number in the file.
    with av.open(file, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        container.metadata[_COUNT] = str(len(frames))
        stream = container.add_stream(_LOSSLESS, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        codec = stream.codec_context
        codec.thread_count = 1  # slices and look-ahead of several threads change the bytes
        codec.gop_size = _EVERY
        # cpu-independent: the same bytes on another processor.
        codec.options = {
            "qp": "0", "preset": "ultrafast", "bf": "0", "forced-idr": "1", "x264-params": "cpu-independent=1",
        }  # fmt: skip
        codec.flags |= int(av.codec.context.Flags.bitexact)
        for number, picture in enumerate(frames):
            frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            if number in keys:
                frame.pict_type = 1  # I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def lossless_frames(
    data: bytes, name: str, places: Sequence[int] | None = None, total: int | None = None
) -> np.ndarray:
    """The pictures [N,H,W,3] uint8 RGB at ``places`` (None: all) of what :func:`lossless_video` wrote.

    Decoding starts at the last frame before each that is coded by itself. ``total``: how many there must be.

    Raises:
        UnreadableImageError: a truncated or damaged video, or one of another kind.
    """
    import av

    try:
        # The header says all there is to know; probing would decode frames, three quarters of the time of two.
        with av.open(io.BytesIO(data), format="matroska", options={"probesize": "32"}) as container:
            return _lossless(container, name, places, total)
    except (av.FFmpegError, OSError, ValueError, IndexError, EOFError, MemoryError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(f"{name} cannot be decoded as a video ({reason}); {_GONE}") from None


def _lossless(container: Any, name: str, places: Sequence[int] | None, total: int | None) -> np.ndarray:
    streams, stated = container.streams.video, container.metadata.get(_COUNT, "")
    codec = streams[0].codec_context if len(streams) == 1 else None
    if codec is None or codec.name != "h264" or codec.pix_fmt != "gbrp" or not stated.isdecimal():
        what = f"{codec.name} {codec.pix_fmt}" if codec else f"{len(streams)} video streams"
        raise UnreadableImageError(f"{name} is no lossless RGB video of mesynth's ({what}); {_GONE}")
    height, width = codec.height, codec.width
    packets = [packet for packet in container.demux(streams[0]) if packet.size]
    expected = int(stated) if total is None else total
    if not 0 < height * width * len(packets) <= _MOST_STORED or not len(packets) == expected == int(stated):
        raise UnreadableImageError(
            f"{name} holds {len(packets)} frames of {width}x{height} pixels, not {expected}; it is truncated: {_GONE}"
        )
    wanted = range(len(packets)) if places is None else places
    number = {packet.pts: i for i, packet in enumerate(packets)}
    codec.thread_count = 1
    codec.options = {"err_detect": "explode"}  # nothing is guessed where bits are wrong
    found: dict[int, np.ndarray] = {}

    def take(decoded: Iterable[Any]) -> None:
        for frame in decoded:
            place = number.get(frame.pts, -1)
            if place in needed:
                found[place] = frame.to_ndarray()  # planes G, B, R -> R, G, B

    needed, at = set(wanted), 0
    for place in sorted(needed):
        if not 0 <= place < len(packets):
            raise UnreadableImageError(f"{name} has no frame {place}: it holds {len(packets)}; {_GONE}")
        key = max((i for i in range(at, place + 1) if packets[i].is_keyframe), default=at)
        if key > at:
            if at:
                take(codec.decode(None))
                codec.flush_buffers()
            at = key
        for packet in packets[at : place + 1]:
            take(codec.decode(packet))
        at = place + 1
    take(codec.decode(None))
    shapes = {picture.shape for picture in found.values()}
    if len(found) != len(needed) or shapes != {(height, width, 3)}:
        raise UnreadableImageError(f"{len(needed) - len(found)} frames of {name} do not decode; it is damaged: {_GONE}")
    return np.stack([found[place] for place in wanted])


_MOST_STORED = 4_000_000_000
"""Pixels of one stored clip, all frames together: 12 GB of memory."""


# ---------------------------------------------------------------- pictures


def in_threads(
    task: Callable[[_Item], _Made], items: Iterable[_Item], size: Callable[[_Made], int] = lambda made: 0
) -> Generator[_Made, None, None]:
    """What ``task`` makes of each item, in their order; the next are made while one is worked on.

    For work that OpenCV does, which lets go of the interpreter: in as many threads as it may use, and in this one where
    that is one, as in a process beside others. ``size``: bytes of what was made; as many are held as there are threads,
    and more while they are small. The first error is raised in its turn.

    >>> list(in_threads(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    threads = min(cv2.getNumThreads(), _MOST_THREADS)
    if threads <= 1:
        yield from map(task, items)
        return
    pool, todo, waiting = ThreadPoolExecutor(threads, "pictures"), iter(items), deque[Future[_Made]]()

    def begin(most: int) -> None:
        waiting.extend(pool.submit(task, item) for item in islice(todo, max(most - len(waiting), 0)))

    try:
        begin(threads)
        while waiting:
            made = waiting.popleft().result()
            # Before it is handed on: whoever takes it may have long to do with it, as with the onset that a face is in.
            begin(min(max(_HELD // max(size(made), 1), threads), _MOST_HELD))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begun(task: Callable[[], _Made]) -> Callable[[], _Made]:
    """``task``, of which a thread beside this one has begun where OpenCV may use several; calling it waits for the end.

    >>> begun(lambda: 6 * 7)()
    42
    """
    if cv2.getNumThreads() <= 1:
        return task
    pool = ThreadPoolExecutor(1, "pictures")
    try:
        return pool.submit(task).result
    finally:
        pool.shutdown(wait=False)


_MOST_THREADS = 4
"""Pictures that are made at a time: whoever takes them does not keep up with more."""
_HELD, _MOST_HELD = 1 << 25, 32
"""Bytes, and number, of those that lie ready: a clip's first frames while the face in one is looked for."""


def swapped_channels(image: np.ndarray) -> np.ndarray:
    """[H,W,3] with its channels in the other order: RGB -> BGR, as OpenCV has them, or back. A new array.

    A view with a negative stride costs fifty times as much to copy, and OpenCV copies it.

    >>> swapped_channels(np.array([[[1, 2, 3]]], np.uint8)).tolist()
    [[[3, 2, 1]]]
    """
    return np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))


def encoded(image: np.ndarray, suffix: str, how: Sequence[int] = ()) -> bytes:
    """[H,W,3] RGB or [H,W] grey as a picture file of that suffix; ``how``: OpenCV's writing parameters.

    >>> image_array(encoded(np.full((2, 2, 3), (9, 8, 7), np.uint8), ".png"), "a picture")[0, 0].tolist()
    [9, 8, 7]
    """
    done, buffer = cv2.imencode(suffix, swapped_channels(image) if image.ndim == 3 else image, list(how))
    assert done
    return bytes(buffer)


MOST_PIXELS = 150_000_000
"""Of one picture; a header that states more is taken for a mistake or a trap, and nothing is decoded."""
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits a sample of cameras. Files know 8 and 16 alone: the others are written into the low bits of 16."""


def used_bits(peak: int) -> int:
    """The least depth of a camera that holds the value ``peak``.

    >>> used_bits(200), used_bits(1023), used_bits(4000), used_bits(65535)
    (8, 10, 12, 16)
    """
    return next(bits for bits in _DEPTHS if peak < 1 << bits)


def _eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """[H,W,3] uint8 of values below 2**bits."""
    return image if image.dtype == np.uint8 else (image >> (bits - 8)).astype(np.uint8)


def _deep_note(bits: int) -> str:
    return f"16-bit frames use {bits} bits: all of them divided by {1 << (bits - 8)}"


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the header of an encoded picture, None where it is not found."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:3] == b"\xff\xd8\xff" and (size := _jpeg_size(data)) is not None:
        return size
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return picture.size
        except Image.DecompressionBombError:
            return MOST_PIXELS, MOST_PIXELS
        except Exception:  # a parser at what anyone may have written; the decoder says what is wrong
            return None


_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG after which height and width stand."""


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the first frame header of a JPEG file, None where its segments do not lead to one.

    Pillow finds the same, in a tenth of the time that decoding takes.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
        elif marker in _FRAME_HEADERS:
            return int.from_bytes(data[place + 7 : place + 9], "big"), int.from_bytes(
                data[place + 5 : place + 7], "big"
            )
        else:
            length = int.from_bytes(data[place + 2 : place + 4], "big")
            if marker < 0xC0 or 0xD0 <= marker <= 0xDA or length < 2:  # no segment that may precede the frame's
                return None
            place += 2 + length
    return None


def _decoded(data: bytes, name: str) -> np.ndarray:
    """[H,W,3] uint8 or uint16 RGB, upright, of an encoded picture. Raises UnreadableImageError."""
    if not data:
        raise UnreadableImageError(f"{name} cannot be read as an image: it is empty; replace it")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return _heif(data, name)
    size = _stated_size(data)
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise UnreadableImageError(
            f"{name} cannot be read: it states {size[0]}x{size[1]} pixels, more than {MOST_PIXELS:,}; make it smaller"
        )
    rgb = _IN_ORDER if data[:2] == _JPEG else 0
    try:
        with _silent:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), (rgb or cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH)
    except cv2.error:  # a header that asks for more than OpenCV or this machine has room for
        image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        why = "it may be truncated, replace it" if size is None else "it is truncated, or holds no 8 or 16 bit colours"
        raise UnreadableImageError(f"{name} cannot be read as an image; {why}")
    return image if rgb else swapped_channels(image)


_JPEG = b"\xff\xd8"
_IN_ORDER = getattr(cv2, "IMREAD_COLOR_RGB", 0)
"""Has channels written in order as they are decoded, where this OpenCV can (4.11)."""
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def _heif(data: bytes, name: str) -> np.ndarray:
    """A HEIC or HEIF picture by pillow-heif, which is not installed with this package. Raises UnreadableImageError."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise UnreadableImageError(
            f"{name} is a HEIC picture, which needs pillow-heif: pip install pillow-heif, or save it as JPEG or PNG"
        ) from None
    from PIL import Image, ImageOps

    register_heif_opener()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UnreadableImageError(f"{name} states {picture.width}x{picture.height} pixels; make it smaller")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        why = "cannot be read as a HEIC picture: it is truncated or damaged; replace it, or save it as JPEG or PNG"
        raise UnreadableImageError(f"{name} {why}") from None


def image_array(data: bytes, name: str) -> np.ndarray:
    """[H,W,3] uint8 RGB of an encoded picture; 16 bits are scaled by the depth it uses. Raises UnreadableImageError."""
    image = _decoded(data, name)
    return _eight_bits(image, used_bits(int(image.max())))


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


def read_photo(path: Path | str) -> tuple[np.ndarray, list[str]]:
    """:func:`read_image` of what anyone may have saved, and what had to be decided to read it.

    Transparent parts become white; of an animation or of several pages the first picture is read.
    """
    path = Path(path)
    data = _bytes(path)
    image, notes = _decoded(data, str(path)), []
    if image.dtype != np.uint8:
        bits = used_bits(int(image.max()))
        image = _eight_bits(image, bits)
        notes.append(_deep_note(bits))
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                if getattr(picture, "is_animated", False):
                    notes.append("the first of its several pictures was read")
                if "A" in picture.getbands() or "transparency" in picture.info:
                    rgba = np.array(ImageOps.exif_transpose(picture).convert("RGBA"))
                    opacity = rgba[..., 3:].astype(np.float32) / 255
                    if opacity.min() < 1 and rgba.shape[:2] == image.shape[:2]:
                        image = np.rint(opacity * image + (1 - opacity) * 255).astype(np.uint8)
                        notes.append("transparent parts were made white")
        except Exception:  # Pillow does not know everything that OpenCV reads; what it would add is left out
            pass
    return image, notes


def read_pictures(
    root: Path, names: Sequence[str], digest: hashlib._Hash | None = None, notes: list[str] | None = None
) -> Iterator[np.ndarray]:
    """The pictures [H,W,3] uint8 RGB of a clip's ``names`` in order; image files and video frames may be mixed.

    Files of 16 bits are scaled by the depth that the brightest of them uses, all alike; ``notes`` is told. The files
    are then read twice, as the brightest has to be known first.

    A video is opened once for a run of its frames with numbers that do not fall, and decoded from its start;
    one picture is held at a time. ``digest`` is fed with the bytes of image files, and for a video frame with the
    sha256 of its file and its number: decoded pictures differ by a grey level between decoders, files do not.

    Raises:
        UnreadableImageError: a missing or damaged image, a damaged video, a frame past a video's end; pictures of
            different sizes or depths, which one transform cannot serve.
        DatasetLayoutError: a missing video.
    """
    alike: tuple[tuple[int, ...], np.dtype[Any]] | None = None
    bits = 8
    for name, picture in zip(names, _unscaled(root, names, digest), strict=True):
        form = picture.shape, picture.dtype
        if alike is None:
            alike = form
            if picture.dtype != np.uint8:
                bits = used_bits(max(int(found.max()) for found in _unscaled(root, names)))
                if notes is not None:
                    notes.append(_deep_note(bits))
        if form != alike:
            what = "size" if form[0] != alike[0] else "depth"
            raise UnreadableImageError(
                f"frames of one clip differ in {what}: {root / name} has {_form(*form)}, {names[0]} {_form(*alike)}; "
                "one crop and one scale serve them all: export them anew, alike"
            )
        yield _eight_bits(picture, bits)


def _form(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{shape[1]}x{shape[0]} pixels of {8 * dtype.itemsize} bits"


def _unscaled(root: Path, names: Sequence[str], digest: hashlib._Hash | None = None) -> Iterator[np.ndarray]:
    """The pictures of :func:`read_pictures` in the depth of their files."""

    def read(name: str) -> tuple[bytes, np.ndarray]:
        data = _bytes(root / name)
        return data, _decoded(data, str(root / name))

    files = [name for name in names if video_frame(name) is None]
    pictures = in_threads(read, files, lambda made: made[1].nbytes)
    decoder: _Decoder | None = None
    last, held = -1, np.empty(0)
    try:
        for name in names:
            frame = video_frame(name)
            if frame is None:
                data, picture = next(pictures)
                if digest is not None:
                    digest.update(data)
                yield picture
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
        pictures.close()
        if decoder is not None:
            decoder.close()


@lru_cache(maxsize=4096)
def _file_hash(name: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(name, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
