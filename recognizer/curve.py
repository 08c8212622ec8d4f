"""UF1 against the ratio of synthetic clips, with confidence bands, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from recognizer.ablation import Summary

_STYLE = {"synthetic": "-", "shuffled": ":", "duplicates": "--", "synthetic-only": "-."}


def curve_png(summary: Sequence[Summary]) -> bytes:
    """One panel per number of real training subjects, one line per model and arm.

    The band is the 95 % interval of the bootstrap over subjects; the dotted level is ratio 0.
    """
    panels = sorted({s.train_subjects for s in summary})
    ratios = sorted({s.ratio for s in summary})
    place = {ratio: i for i, ratio in enumerate(ratios)}  # evenly spaced: ratios are chosen by doubling
    models = list(dict.fromkeys(s.model for s in summary))
    figure = Figure(figsize=(1.5 + 4.5 * len(panels), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, subjects in zip(axes, panels, strict=True):
        here = [s for s in summary if s.train_subjects == subjects]
        for colour, model in enumerate(models):
            base = next(s for s in here if s.model == model and s.ratio == 0)
            axis.axhline(base.uf1.value, color=f"C{colour}", linewidth=0.6, linestyle=(0, (1, 4)))
            for arm in dict.fromkeys(s.arm for s in here if s.model == model and s.ratio > 0):
                points = sorted((s for s in here if s.model == model and s.arm == arm), key=lambda s: s.ratio)
                points = [base, *points]
                x = np.array([place[p.ratio] for p in points])
                label = model if arm == "synthetic" else f"{model}, {arm}"
                line = _STYLE.get(arm, "-")
                axis.plot(x, [p.uf1.value for p in points], line, color=f"C{colour}", marker="o", ms=3, label=label)
                if arm == "synthetic":
                    low, high = [p.uf1.low for p in points], [p.uf1.high for p in points]
                    axis.fill_between(x, low, high, color=f"C{colour}", alpha=0.15, linewidth=0)
        axis.set_xticks(range(len(ratios)), [f"{r:g}" for r in ratios])
        axis.set_xlabel("synthetic clips per real training clip")
        axis.set_title(f"{subjects} real training subjects" if subjects else "all real training subjects")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("UF1 (band: 95 % bootstrap over subjects)")
    axes[-1].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
