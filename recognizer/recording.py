"""A recording: frames by name from a video or a folder, intervals of them, and what a model predicts of them.

What was found is drawn as one picture: the spotting signal over time, and each interval's frames and flow.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mesynth.core.errors import DatasetLayoutError, MesynthError
from mesynth.store.long_videos import PICTURES, pictures_in
from mesynth.store.videos import VIDEO_SUFFIXES, file_of, frame_count, frame_name, is_video, read_pictures, video_fps

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
            root, names = path, tuple(pictures_in(path))
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


# ---------------------------------------------------------------- the picture


MOST = 8
"""Intervals whose frames are shown; the signal shows all."""
_COLUMNS = 2  # intervals side by side
_WIDTH, _TOP, _STRIP, _SIDE, _FOOT = 12.6, 3.0, 2.02, 1.46, 0.25  # inches


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One interval."""

    seconds: tuple[float, float, float]
    """Onset, apex, offset."""
    frames: tuple[int, int, int]
    """The same as frame numbers of the recording."""
    label: str
    probability: float
    colour: int
    """Class index."""
    pictures: np.ndarray
    """[3,H,W,3] uint8 RGB: the aligned face at onset, apex and offset."""
    flow: np.ndarray
    """[H,W,3] uint8 RGB."""


def timeline_png(
    seconds: np.ndarray,
    signal: np.ndarray,
    threshold: float,
    shown: Sequence[Shown],
    *,
    title: str,
    flow_scale: float,
    wheel: np.ndarray | None = None,
) -> bytes:
    """PNG. ``seconds`` and ``signal`` [N]: the spotting signal, pixels, NaN where there is no face; ``threshold``: what
    a peak has to reach; ``flow_scale``: pixels at full colour; ``wheel`` [H,W,3]: the colour of each direction.

    Intervals are numbered in order of time; of more than MOST, those with the highest peaks are shown below.
    """
    peaks = [_peak(seconds, signal, s) for s in shown]
    chosen = sorted(np.argsort([-p for p in peaks], kind="stable")[:MOST].tolist())
    rows = -(-len(chosen) // _COLUMNS)
    height = _TOP + _STRIP * rows + (_FOOT if rows else 0)
    figure = Figure(figsize=(_WIDTH, height), dpi=110)
    FigureCanvasAgg(figure)

    def box(x: float, y: float, w: float, h: float) -> Axes:
        """Axes by inches from the left and the top (layout engines take seconds for so many)."""
        return figure.add_axes((x / _WIDTH, 1 - (y + h) / height, w / _WIDTH, h / height))

    axis = box(0.6, 0.32, _WIDTH - 1.35, _TOP - 0.85)
    _signal(axis, seconds, signal, threshold, shown)
    axis.set_title(title, fontsize=11, loc="left")
    for place, i in enumerate(chosen):
        x, y = 0.15 + place % _COLUMNS * (_WIDTH / _COLUMNS), _TOP + place // _COLUMNS * _STRIP
        colour = f"C{shown[i].colour}"
        figure.text(
            x / _WIDTH, 1 - (y + 0.02) / height, f"{i + 1}  {shown[i].label} {shown[i].probability:.2f}",
            color=colour, fontsize=10, fontweight="bold", va="top",
        )  # fmt: skip
        for k, (picture, caption) in enumerate(_pictures(shown[i])):
            cell = box(x + k * (_SIDE + 0.07), y + 0.4, _SIDE, _SIDE)
            cell.imshow(picture)
            cell.set_title(caption, fontsize=8, pad=3)
            cell.set_xticks([])
            cell.set_yticks([])
            for spine in cell.spines.values():
                spine.set_color(colour)
    if rows:
        left_out = f"{len(shown) - len(chosen)} weaker intervals are not pictured. " if len(chosen) < len(shown) else ""
        figure.text(
            0.15 / _WIDTH, 0.1 / height,
            f"{left_out}Flow from onset to apex: the wheel shows the direction, full colour is {flow_scale:g} px.",
            fontsize=8,
        )  # fmt: skip
        if wheel is not None:
            disc = box(_WIDTH - 0.68, _TOP - 1.15, 0.6, 0.6)
            disc.imshow(wheel)
            disc.set_axis_off()
            disc.set_title("flow", fontsize=7, pad=1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _peak(seconds: np.ndarray, signal: np.ndarray, interval: Shown) -> float:
    inside = signal[(seconds >= interval.seconds[0]) & (seconds <= interval.seconds[2])]
    inside = inside[np.isfinite(inside)]
    return float(inside.max()) if len(inside) else 0.0


def _signal(axis: Axes, seconds: np.ndarray, signal: np.ndarray, threshold: float, shown: Sequence[Shown]) -> None:
    known = signal[np.isfinite(signal)]
    high = max(float(known.max()) if len(known) else 0.0, threshold) * 1.1
    # Room for as many rows of labels as intervals crowd together.
    span = max(float(seconds[-1] - seconds[0]), 1e-6)
    rows = _label_rows([s.seconds[1] for s in shown], 0.17 * span)
    depth = 1 + max(rows, default=-1)
    ceiling = high * (1 + 0.13 * depth)
    axis.plot(seconds, signal, color="0.2", linewidth=1)
    axis.axhline(threshold, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
    axis.text(seconds[-1], threshold, "threshold ", fontsize=7, color="0.4", ha="right", va="bottom")
    for i, (interval, row) in enumerate(zip(shown, rows, strict=True)):
        onset, apex, offset = interval.seconds
        colour = f"C{interval.colour}"
        axis.axvspan(onset, offset, color=colour, alpha=0.22, linewidth=0)
        height = float(np.nan_to_num(np.interp(apex, seconds, signal)))
        axis.plot([apex, apex], [0, height], color=colour, linewidth=1, marker="o", markevery=[1], markersize=4)
        place, side = _anchored(apex, float(seconds[0]), span)
        axis.text(
            place, ceiling - high * 0.13 * (row + 0.15), f"{i + 1} {interval.label} {interval.probability:.2f}",
            color=colour, fontsize=9, fontweight="bold", ha=side, va="top",
        )  # fmt: skip
    missing = ~np.isfinite(signal)
    if missing.any():
        across = axis.get_xaxis_transform()
        axis.fill_between(
            seconds, 0, 1, where=missing, transform=across, facecolor="none", edgecolor="0.8", hatch="//", linewidth=0
        )
        for run in np.split(np.flatnonzero(missing), np.flatnonzero(np.diff(np.flatnonzero(missing)) > 1) + 1):
            middle = float(seconds[run].mean())
            axis.text(
                middle, 0.4, "no face found", transform=across, fontsize=8, color="0.4", rotation=90, ha="center",
                va="center", backgroundcolor="white",
            )  # fmt: skip
    axis.set_xlim(float(seconds[0]), float(seconds[-1]))
    axis.set_ylim(0, ceiling)
    axis.set_xlabel("time, s", fontsize=8)
    axis.set_ylabel("movement that comes and goes, px", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _label_rows(places: Sequence[float], width: float) -> list[int]:
    """The first row in which a label of ``width`` at each place meets no other; places ascend.

    >>> _label_rows([1.0, 1.1, 3.0], 0.5)
    [0, 1, 0]
    """
    ends: list[float] = []
    rows = []
    for place in places:
        row = next((r for r, end in enumerate(ends) if place - width / 2 >= end), len(ends))
        ends[row : row + 1] = [place + width / 2]
        rows.append(row)
    return rows


def _anchored(place: float, start: float, span: float) -> tuple[float, str]:
    """Labels near an end of the axis grow inwards."""
    share = (place - start) / span
    if share < 0.09:
        return start + 0.005 * span, "left"
    return (start + 0.995 * span, "right") if share > 0.91 else (place, "center")


def _pictures(interval: Shown) -> list[tuple[np.ndarray, str]]:
    names = ("onset", "apex", "offset")
    faces = [
        (picture, f"{name} {second:.2f} s ({frame})")
        for picture, name, second, frame in zip(
            interval.pictures, names, interval.seconds, interval.frames, strict=True
        )
    ]
    return [*faces, (interval.flow, "flow")]
