"""Figures without a window, and what all of the report's pictures share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL, SYNTHETIC, OTHER = "#4c72b0", "#dd8452", "#8c8c8c"


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure that belongs to no GUI backend and to no pyplot state, and its axes [rows,columns]; inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def png(made: Figure) -> bytes:
    """The figure as PNG, 100 pixels an inch."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
