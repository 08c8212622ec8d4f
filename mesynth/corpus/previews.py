"""Clips for people to look at: loose files beside a corpus, and sheets of onset, apex, what changed, and the flow."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.types import Sample
from mesynth.head.render import contact_sheet
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import npy_bytes, png_bytes, read_flow, read_frames, read_mask

PREVIEW_FPS = 25.0


def loose_files(name: str, sample: Sample, video: str) -> dict[str, bytes]:
    """The clip as files for people: frames, moving picture (slowed to 25 fps), flow as array and picture."""
    files = {f"clips/{name}/frames/{i:03d}.png": png_bytes(f) for i, f in enumerate(sample.clip.frames)}
    files[f"clips/{name}/clip.{suffix_of(video)}"] = video_bytes(sample.clip.frames, video)
    files[f"clips/{name}/flow.npy"] = npy_bytes(sample.flow.uv)
    files[f"clips/{name}/flow.png"] = png_bytes(flow_picture(sample.flow.uv))
    return files


VIDEOS = ("mp4", "webm", "gif", "apng")
"""Moving pictures that can be written; the first is what previews are unless something else is asked for."""
_CODECS = {"mp4": ("libx264", "libopenh264"), "webm": ("libvpx-vp9",)}
"""Encoders of a container, best first: H.264 and VP9 are what every browser plays."""
_OPTIONS = {
    # crf 12: what moves is a grey level or two, which the usual 23 would smooth away. No B-frames: pictures lie in the
    # file in the order they are shown in. cpu-independent: the same bytes on another processor.
    "libx264": {"crf": "12", "preset": "medium", "bf": "0", "x264-params": "cpu-independent=1"},
    "libopenh264": {"rc_mode": "off", "qmin": "12", "qmax": "18"},
    "libvpx-vp9": {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0"},
}
_PER_KEY = 12  # frames between those that a player can jump to
_BT709 = 1  # in the numbers of H.273


def check_video(video: str) -> str:
    """``video``, if it is one of :data:`VIDEOS`.

    >>> check_video("avi")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: video 'avi' is unknown; choose mp4, webm, gif or apng
    """
    if video not in VIDEOS:
        raise ConfigError(f"video '{video}' is unknown; choose {', '.join(VIDEOS[:-1])} or {VIDEOS[-1]}")
    return video


def suffix_of(video: str) -> str:
    """What a file of that kind is called: an animated PNG is a ``.png`` to every program that shows it.

    >>> suffix_of("mp4"), suffix_of("apng")
    ('mp4', 'png')
    """
    return "png" if video == "apng" else video


def video_bytes(frames: np.ndarray, video: str = VIDEOS[0], fps: float = PREVIEW_FPS) -> bytes:
    """The moving picture as a file: the same frames give the same bytes.

    "mp4" is H.264 (yuv420p, BT.709, index in front), "webm" VP9: every browser and office program plays them. Their
    colours are sampled at half the resolution, which takes even sides: an odd one gets its last row or column twice.
    "gif" (one palette of 256 colours, centiseconds a frame) and "apng" (lossless) loop for ever.

    Args:
        frames: [T,H,W,3] uint8 RGB, T at least 1.
        video: one of :data:`VIDEOS`.
        fps: frames a second that are shown.

    Raises:
        ConfigError: another name, or an encoder that this build of PyAV does not have (the way out is named).

    >>> len(video_bytes(np.zeros((3, 9, 8, 3), np.uint8))) > 500
    True
    """
    check_video(video)
    if video in _CODECS:
        return _coded(frames, video, fps)
    from PIL import Image

    options: dict[str, Any]
    if video == "gif":
        # One palette for all frames: a palette per frame flickers more than the expression moves.
        first = Image.fromarray(np.concatenate([frames[0], frames[len(frames) // 2]], 1)).quantize(256)
        images = [Image.fromarray(f).quantize(palette=first, dither=Image.Dither.NONE) for f in frames]
        options = {"format": "GIF", "optimize": False}
    else:
        images, options = [Image.fromarray(f) for f in frames], {"format": "PNG"}
    buffer = io.BytesIO()
    images[0].save(buffer, save_all=True, append_images=images[1:], duration=1000 / fps, loop=0, **options)
    return buffer.getvalue()


def _coded(frames: np.ndarray, video: str, fps: float) -> bytes:
    import tempfile
    from fractions import Fraction

    import av

    known = [name for name in _CODECS[video] if name in av.codec.codecs_available]
    if not known:
        others = [name for name in VIDEOS if name != video and (name not in _CODECS or _has_encoder(name))]
        raise ConfigError(
            f"PyAV {av.__version__} was built without {' or '.join(_CODECS[video])}, so no {video} can be written "
            f"here; choose --video {' or '.join(others)}, or install the wheel of av from the package index"
        )
    height, width = frames.shape[1:3]
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    even = np.pad(frames, odd, mode="edge") if height % 2 or width % 2 else frames
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{video}"
        # bitexact: no version, no time of day and no random number in the file.
        options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if video == "mp4" else {})
        container: Any
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(known[0], rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.thread_count = 1  # slices and look-ahead of several threads change the bytes
            codec.gop_size = _PER_KEY
            codec.options = _OPTIONS[known[0]]
            codec.flags |= int(av.codec.context.Flags.bitexact)
            codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
            codec.color_range = 1  # studio range
            for number, picture in enumerate(even):
                frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                frame.pts, frame.time_base = number, 1 / stream.average_rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


def padded_note(video: str, height: int, width: int) -> str:
    """What is to be said of a video with an odd side; "" for others.

    >>> padded_note("mp4", 65, 64)
    'previews are 64x66 pixels instead of 64x65: mp4 takes even sides, the last row or column is shown twice'
    """
    if video not in _CODECS or not (height % 2 or width % 2):
        return ""
    even = f"{width + width % 2}x{height + height % 2}"
    return (
        f"previews are {even} pixels instead of {width}x{height}: {video} takes even sides, the last row or column is "
        "shown twice"
    )


def _has_encoder(video: str) -> bool:
    import av

    return any(name in av.codec.codecs_available for name in _CODECS[video])


def moving_picture(corpus: Path) -> Path | None:
    """The moving picture of the first clip that lies loose in ``corpus``, None where none does."""
    names = [f"clip.{suffix_of(video)}" for video in VIDEOS]
    folders = sorted((corpus / "clips").glob("*/"))
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


# ------------------------------------------------------------------- sheet


FLOW_SCALE = 3.0
"""Pixels of motion shown at full colour, the same for every picture."""
DIFFERENCE_GAIN = 4


def clip_column(manifest: Manifest, row: Row) -> np.ndarray:
    """[4H,W,3] uint8: onset, apex, apex - onset amplified around grey, flow at a fixed scale (hatched: still)."""
    onset, apex = read_frames(manifest.root, row, [0, row.apex_index])
    difference = np.clip(128 + DIFFERENCE_GAIN * (apex.astype(int) - onset), 0, 255).astype(np.uint8)
    flow = flow_picture(read_flow(manifest.root, row), FLOW_SCALE)
    return np.vstack([onset, apex, difference, hatched(flow, read_mask(manifest.root, row, "still"))])


def hatched(picture: np.ndarray, still: np.ndarray | None) -> np.ndarray:
    """``picture`` [H,W,3] uint8 with fine oblique lines over ``still`` [H,W] bool and a line around it.

    What no expression moves (background, hair, clothes) is seen to be so, and a mask that is wrong is seen as well.
    None, where a clip has no such mask, changes nothing.

    >>> still = np.zeros((8, 8), bool); still[:, :4] = True
    >>> out = hatched(np.full((8, 8, 3), 255, np.uint8), still)
    >>> bool((out[:, 4:] == 255).all()), bool((out[:, 3] < 255).all())
    (True, True)
    """
    if still is None or still.shape != picture.shape[:2] or not still.any():
        return picture
    inner = np.pad(still, 1, mode="edge")
    inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    rows, columns = np.indices(still.shape)
    step = max(still.shape[0] // 24, 4)
    shade = np.where(still & ~inner, 0.45, np.where(inner & ((rows + columns) % step == 0), 0.8, 1.0))
    return np.asarray((picture * shade[..., None]).astype(np.uint8))


def corpus_sheet(manifest: Manifest, rows: Iterable[Row]) -> np.ndarray:
    """The columns of ``rows`` side by side."""
    columns = [clip_column(manifest, row) for row in rows]
    return contact_sheet(columns, len(columns))
