"""What was found in a recording, as one picture: the spotting signal over time, and each interval's frames and flow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
