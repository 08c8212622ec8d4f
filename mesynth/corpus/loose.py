"""A clip as loose files for people to look at: frames, a moving picture, its flow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from mesynth.errors import MesynthError
from mesynth.preprocess.flow import flow_picture
from mesynth.shards import npy_bytes, png_bytes
from mesynth.types import Sample

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
