"""The report's pictures, as PNG bytes. Scales are fixed or shared, so that real and synthetic compare."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.metrics.control import Control
from mesynth.metrics.identity import THRESHOLD
from mesynth.metrics.networks.judge import visible_aus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REAL, SYNTHETIC, OTHER = "#4c72b0", "#dd8452", "#8c8c8c"
MAGNITUDE_MAX = 4.0
"""Right end of the magnitude axis, pixels of the 128-pixel crop; motion beyond it is counted in the last bin."""


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure that belongs to no GUI backend and to no pyplot state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def control_plot(requested: np.ndarray, judged: np.ndarray, control: Control) -> bytes:
    """Requested against judged intensity (0-5), one small panel per AU asked for; [N,K,2] in [0,1]."""
    codes = [c for c in AU_CODES if c in control.per_au] or [AU_CODES[0]]
    columns = min(5, len(codes))
    rows = -(-len(codes) // columns)
    figure, axes = _figure(rows, columns, 2.1 * columns, 2.2 * rows + 0.3)
    want = visible_aus(requested)
    for axis in axes.flat[len(codes) :]:
        axis.set_visible(False)
    for axis, code in zip(axes.flat, codes, strict=False):
        row = AU_INDEX[code]
        trusted = code in control.trusted
        axis.plot([0, 5], [0, 5], color="0.8", lw=1, zorder=0)
        colour = SYNTHETIC if trusted else OTHER
        axis.plot(5 * want[:, row].ravel(), 5 * judged[:, row].ravel(), ".", ms=4, alpha=0.5, color=colour)
        found = control.per_au.get(code)
        label = f"AU {code}" + ("" if trusted else " (weak judge)")
        if found and found.icc is not None:
            label += f"\nICC {found.icc:.2f}, slope {found.slope:.2f}"
        axis.set(xlim=(-0.2, 5.2), ylim=(-0.2, 5.2), xticks=range(6), yticks=range(6), aspect="equal")
        axis.set_title(label, fontsize=8)
        axis.tick_params(labelsize=7)
    figure.supxlabel("requested (0-5)", fontsize=9)
    figure.supylabel("judged (0-5)", fontsize=9)
    return _png(figure)


def identity_plot(synthetic: np.ndarray, ceiling: np.ndarray, floor: np.ndarray) -> bytes:
    """Histograms of embedding distances: synthetic onset-frame, real onset-apex, different people."""
    figure, axes = _figure(1, 1, 6, 3.2)
    axis = axes[0, 0]
    top = max(1.0, *(float(v.max()) for v in (synthetic, ceiling, floor) if len(v)))
    bins = np.linspace(0, top, 61)
    for values, name, colour in (
        (floor, "different people", OTHER),
        (ceiling, "real onset-apex", REAL),
        (synthetic, "synthetic onset-frame", SYNTHETIC),
    ):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axis.hist(values, bins, weights=weights, alpha=0.6, color=colour, label=f"{name} ({len(values)})")
    axis.axvline(THRESHOLD, color="k", lw=1, ls="--")
    axis.text(THRESHOLD + 0.01, 0.95 * axis.get_ylim()[1], f"threshold {THRESHOLD:g}", va="top", fontsize=8)
    axis.set(xlabel="distance of face embeddings", ylabel="share", xlim=(0, top))
    axis.legend(fontsize=8, frameon=False)
    return _png(figure)


def flow_plot(real: tuple[np.ndarray, np.ndarray], synthetic: tuple[np.ndarray, np.ndarray]) -> bytes:
    """Histograms (magnitude [B], direction [D]) of face flow onset -> apex: see :class:`FlowHistogram`."""
    figure, axes = _figure(1, 2, 8, 3.2)
    for histogram, name, colour in ((real, "real", REAL), (synthetic, "synthetic", SYNTHETIC)):
        for axis, counts, edges in zip(axes[0], histogram, (MAGNITUDE_EDGES, DIRECTION_EDGES), strict=True):
            if counts.sum() > 0:
                share = counts / counts.sum()
                axis.stairs(share, edges, color=colour, fill=True, alpha=0.35)
                axis.stairs(share, edges, color=colour, label=name)
    axes[0, 0].set(xlabel="flow magnitude (px of the 128 px crop)", xlim=(0, MAGNITUDE_MAX))
    axes[0, 0].set_ylabel("share of face pixels")
    axes[0, 0].set_yscale("log")
    axes[0, 1].set(xlabel="direction in degrees where > 0.3 px\n(0 right, 90 down)", xticks=range(-180, 181, 90))
    axes[0, 0].legend(frameon=False, fontsize=8)
    return _png(figure)


MAGNITUDE_EDGES = np.linspace(0, MAGNITUDE_MAX, 41)
DIRECTION_EDGES = np.linspace(-180, 180, 37)


class FlowHistogram:
    """Running histograms of flow magnitude and direction; memory does not grow with the clips."""

    def __init__(self) -> None:
        self.magnitude = np.zeros(len(MAGNITUDE_EDGES) - 1)
        self.direction = np.zeros(len(DIRECTION_EDGES) - 1)

    def add(self, uv: np.ndarray, mask: np.ndarray, moving: float = 0.3) -> None:
        """Count the pixels of ``uv`` [2,H,W] inside ``mask`` [H,W]."""
        u, v = uv[:, mask]
        size = np.hypot(u, v)
        self.magnitude += np.histogram(np.minimum(size, MAGNITUDE_MAX - 1e-6), MAGNITUDE_EDGES)[0]
        self.direction += np.histogram(np.degrees(np.arctan2(v, u))[size > moving], DIRECTION_EDGES)[0]

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Magnitude and direction counts."""
        return self.magnitude, self.direction
