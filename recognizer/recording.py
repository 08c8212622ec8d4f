"""A recording: frames by name from a video or a folder, intervals of them, and what a model predicts of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mesynth.core.errors import DatasetLayoutError, MesynthError
from mesynth.store.videos import VIDEO_SUFFIXES, file_of, frame_count, frame_name, is_video, read_pictures, video_fps

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MIN_FPS, GOOD_FPS = 4.0, 50.0
"""Below the first, half a second holds fewer than two frames; below the second, short expressions may be missed."""
MIN_FRAMES = 5
"""Fewest frames in which a rise and a fall can be told from noise."""
_SPOT_FPS = 100.0


class RecordingError(MesynthError):
    """A recording in which no micro-expression can be recognized, and why."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Frames by name, in order; frame numbers count from 0."""

    name: str
    root: Path
    names: tuple[str, ...]
    fps: float
    height: int
    width: int

    @staticmethod
    def open(path: Path | str, fps: float | None = None) -> Recording:
        """A video file, or a folder of frames in the order of the numbers in their names.

        Raises:
            RecordingError: neither of the two, no frame rate or one at which nothing can be seen, too few frames.
            UnreadableImageError: a video or first frame that cannot be decoded.
        """
        path = Path(path)
        if path.is_dir():
            files = [p.name for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
            root, names = path, tuple(sorted(files, key=_by_number))
            if not names:
                raise RecordingError(
                    f"{path} holds no frames ({', '.join(PICTURES)}); give a video or a folder of frames"
                )
            if fps is None:
                raise RecordingError(f"{path} is a folder of frames, which does not tell its frame rate; pass --fps")
        elif not path.exists():
            raise RecordingError(f"recording {path} does not exist; check the path")
        elif not is_video(path):
            raise RecordingError(
                f"{path} is neither a folder of frames nor a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
            )
        else:
            root = path.parent
            names = tuple(frame_name(path.name, i) for i in range(frame_count(path)))
            fps = _stated_fps(path) if fps is None else fps
        if not MIN_FPS <= fps < float("inf"):
            raise RecordingError(
                f"{path} has {fps:g} frames a second: a micro-expression lasts half a second at most, and seeing "
                f"it takes at least {MIN_FPS:g} (200 is usual); pass --fps if that is not its rate"
            )
        if len(names) < MIN_FRAMES:
            raise RecordingError(
                f"{path} has {len(names)} frames; spotting an onset, an apex and an offset needs at least {MIN_FRAMES}"
            )
        height, width, _ = next(read_pictures(root, names[:1])).shape
        return Recording(name=path.name, root=root, names=names, fps=float(fps), height=height, width=width)

    @property
    def step(self) -> int:
        """Every which frame spotting looks at: more than 100 a second add time, and nothing to see."""
        return max(1, min(int(self.fps / _SPOT_FPS), len(self.names) // 40))

    def digest(self) -> str:
        """sha256 of the files' names and contents' sizes, and of a video's content."""
        out = hashlib.sha256(f"{self.fps}".encode())
        for file in dict.fromkeys(map(file_of, self.names)):
            out.update(f"{file} {(self.root / file).stat().st_size} ".encode())
            if is_video(file):
                with (self.root / file).open("rb") as handle:
                    out.update(hashlib.file_digest(handle, "sha256").digest())
        return out.hexdigest()

    def notes(self) -> list[str]:
        """What a user should know about it."""
        if self.fps >= GOOD_FPS:
            return []
        return [f"{self.fps:g} frames a second are few: micro-expressions shorter than a few frames are missed"]


def _stated_fps(path: Path) -> float:
    try:
        return video_fps(path)
    except DatasetLayoutError:
        raise RecordingError(f"{path} states no usable frame rate; pass --fps") from None


def _by_number(name: str) -> list[tuple[int, int | str]]:
    """img2.png before img10.png."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Frame numbers of the recording. ``apex`` None: to be spotted when the interval is prepared."""

    onset: int
    apex: int | None
    offset: int
    height: float = float("nan")
    """Of the spotting signal, pixels."""
    confidence: float = float("nan")
    """See :func:`mesynth.preprocess.spot.confidence`."""

    @staticmethod
    def parse(text: str, recording: Recording) -> Interval:
        """``onset,apex,offset`` or ``onset,offset``. Raises RecordingError."""
        parts = text.split(",")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"\s*\d+\s*", part) for part in parts):
            raise RecordingError(f"interval '{text}' is not onset,apex,offset or onset,offset in frame numbers from 0")
        onset, *apex, offset = map(int, parts)
        last = len(recording.names) - 1
        if not onset + 2 <= offset <= last or (apex and not onset < apex[0] <= offset):
            raise RecordingError(
                f"interval '{text}' does not rise from onset over apex to offset within the frames 0 to {last} of "
                f"{recording.name}, at least 3 of them"
            )
        return Interval(onset=onset, apex=apex[0] if apex else None, offset=offset)


# ---------------------------------------------------------------- predictions


NOTHING = "no micro-expression found"


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """What a model predicts of a recording; written as ``intervals.json`` (``facts``) and ``predictions.parquet``."""

    facts: dict[str, Any]
    table: pa.Table

    def lines(self) -> list[str]:
        """One line an interval, or that there is none."""
        return [line_of(found) for found in self.facts["intervals"]] or [NOTHING]


def table_of(classified: Sequence[dict[str, Any]], classes: Sequence[str]) -> pa.Table:
    """One row an interval: clip_id, frames, seconds, predicted, p_<class>, au_<side and AU>."""
    whole = [(name, pa.int32()) for name in ("onset", "apex", "offset")]
    real = ["onset_s", "apex_s", "offset_s", "movement_px", "confidence"]
    aus = list(classified[0]["aus"]) if classified else []
    numbers = [*real, *(f"p_{name}" for name in classes), *(f"au_{name}" for name in aus)]
    schema = pa.schema(
        [("clip_id", pa.string()), *whole, ("predicted", pa.string()), *((name, pa.float64()) for name in numbers)]
    )
    rows = [
        {name: found[name] for name in ("clip_id", "onset", "apex", "offset", "predicted", "movement_px", "confidence")}
        | {f"{name}_s": second for name, second in found["seconds"].items()}
        | {f"p_{name}": value for name, value in found["probabilities"].items()}
        | {f"au_{name}": value for name, value in found["aus"].items()}
        for found in classified
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def line_of(found: dict[str, Any]) -> str:
    """One interval for people."""
    seconds = found["seconds"]
    ranked = sorted(found["probabilities"].items(), key=lambda item: -item[1])
    classes = ", ".join(f"{name} {value:.2f}" for name, value in ranked)
    shown = sorted((item for item in found["aus"].items() if item[1] >= 0.5), key=lambda item: -item[1])
    aus = "; AUs " + ", ".join(f"{name} {value:.2f}" for name, value in shown) if shown else ""
    frames = f"frames {found['onset']}, {found['apex']}, {found['offset']}"
    return f"{seconds['onset']:.2f}-{seconds['offset']:.2f} s, apex {seconds['apex']:.2f} ({frames}): {classes}{aus}"
