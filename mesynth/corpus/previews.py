"""Clips for people to look at: loose files beside a corpus, and sheets of onset, apex, what changed, and the flow."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.types import Sample
from mesynth.head.render import contact_sheet
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import npy_bytes, png_bytes, read_flow, read_frames

PREVIEW_FPS = 25.0


def loose_files(name: str, sample: Sample, video: str) -> dict[str, bytes]:
    """The clip as files for people: frames, moving picture (slowed to 25 fps), flow as array and picture."""
    files = {f"clips/{name}/frames/{i:03d}.png": png_bytes(f) for i, f in enumerate(sample.clip.frames)}
    files[f"clips/{name}/clip.{video}"] = video_bytes(sample.clip.frames, video)
    files[f"clips/{name}/flow.npy"] = npy_bytes(sample.flow.uv)
    files[f"clips/{name}/flow.png"] = png_bytes(flow_picture(sample.flow.uv))
    return files


def video_bytes(frames: np.ndarray, video: str = "gif", fps: float = PREVIEW_FPS) -> bytes:
    """[T,H,W,3] uint8 as a looping GIF or an MP4."""
    if video == "gif":
        from PIL import Image

        # One palette for all frames: a palette per frame flickers more than the expression moves.
        first = Image.fromarray(np.concatenate([frames[0], frames[len(frames) // 2]], 1)).quantize(256)
        images = [Image.fromarray(f).quantize(palette=first, dither=Image.Dither.NONE) for f in frames]
        buffer = io.BytesIO()
        images[0].save(
            buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, optimize=False
        )
        return buffer.getvalue()
    return _mp4_bytes(frames, fps)


def _mp4_bytes(frames: np.ndarray, fps: float) -> bytes:
    import tempfile

    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        size = (frames.shape[2], frames.shape[1])
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise MesynthError("this OpenCV build cannot write MP4; use --video gif")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        return path.read_bytes()


# ------------------------------------------------------------------- sheet


FLOW_SCALE = 3.0
"""Pixels of motion shown at full colour, the same for every picture."""
DIFFERENCE_GAIN = 4


def clip_column(manifest: Manifest, row: Row) -> np.ndarray:
    """[4H,W,3] uint8: onset, apex, apex - onset amplified around grey, flow at a fixed scale."""
    frames = read_frames(manifest.root, row)
    onset, apex = frames[0], frames[row.apex_index]
    difference = np.clip(128 + DIFFERENCE_GAIN * (apex.astype(int) - onset), 0, 255).astype(np.uint8)
    return np.vstack([onset, apex, difference, flow_picture(read_flow(manifest.root, row), FLOW_SCALE)])


def corpus_sheet(manifest: Manifest, rows: Iterable[Row]) -> np.ndarray:
    """The columns of ``rows`` side by side."""
    columns = [clip_column(manifest, row) for row in rows]
    return contact_sheet(columns, len(columns))
