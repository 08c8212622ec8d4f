"""Rendered recordings with known micro-expressions, as videos and folders of frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mesynth.core.facs import parse_request
from mesynth.core.profiles import Profile
from mesynth.head import Subject

FPS = 60.0
Event = tuple[int, int, str]
"""First frame, number of frames, action units."""


@lru_cache(maxsize=16)
def recording(seed: int, n_frames: int, *events: Event, size: int = 96) -> np.ndarray:
    """[T,size,size,3] uint8: a still person with sensor noise whose face moves during the events alone."""
    au = np.zeros((n_frames, 25, 2), np.float32)
    for first, length, request in events:
        au[first : first + length] += Profile(apex=0.5).alpha(length)[:, None, None] * parse_request(request).intensity
    return Subject(seed, size=size, supersample=1).render(au, noise_seed=seed)


def write_video(file: Path, frames: np.ndarray, fps: float = FPS) -> Path:
    """Motion JPEG: every frame is coded alone, so noise stays noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    h, w = frames.shape[1:3]
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, (w, h))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return file


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    """img1.png, img2.png, ..., so that order by name is not order by number."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(folder / f"img{i}.png"), frame[..., ::-1])
    return folder


def write_study(root: Path, clips: Sequence[tuple[int, str, str]]) -> Path:
    """Own recordings with annotations.csv: 24 frames each, onset 2, apex 11, offset 21 of (seed, AUs, emotion)."""
    rows = ["video,subject,onset,apex,offset,aus,emotion"]
    for seed, request, emotion in clips:
        aus = "+".join(part.split("=")[0] for part in request.split(","))
        write_video(root / f"v{seed}.avi", recording(seed, 24, (2, 20, request)))
        rows.append(f"v{seed}.avi,s{seed},2,11,21,{aus},{emotion}")
    (root / "annotations.csv").write_text("\n".join(rows) + "\n")
    return root
