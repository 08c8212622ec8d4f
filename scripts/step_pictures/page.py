"""A page of pictures laid out in whole pixels, in one font and one set of colours, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

WIDTH = 1040
"""Width of every page, pixels."""
EDGE, GAP, TITLE = 8, 12, 20
"""Margin of the page, space between panels, height of a panel's title; pixels."""
BAR = 48
"""Height of a colour scale with its numbers and label, pixels."""
BLUE, ORANGE, GREEN, RED, GREY = "#4c72b0", "#dd8452", "#2f8f5b", "#c44e52", "#777777"
"""Two methods or states, the truth, a third method, what is left as it was."""
MAX_BYTES = 150_000
_DPI = 100
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_REDUCTIONS = (
    (0, Image.Dither.NONE), (256, Image.Dither.FLOYDSTEINBERG), (256, Image.Dither.NONE), (96, Image.Dither.NONE),
    (48, Image.Dither.NONE),
)  # fmt: skip
"""Number of colours, 0 for all, and whether they are dithered; from the best picture to the smallest file."""


class Page:
    """WIDTH x ``height`` pixels, white; every coordinate is in pixels from the top left corner."""

    def __init__(self, height: int) -> None:
        self.height = height
        with rc_context(_STYLE):
            self.figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
            FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float, title: str = "", **settings: Any) -> Axes:
        """Axes whose drawing area is this box; ``title`` stands above it and is no part of it."""
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        with rc_context(_STYLE):
            axes = self.figure.add_axes(box)
            axes.set_title(title, pad=4, loc="left")
            axes.set(**settings)
        return axes

    def picture(
        self, left: float, top: float, width: float, image: np.ndarray, title: str = "", *,
        height: float | None = None, pixels: bool = False, **show: Any,
    ) -> Axes:  # fmt: skip
        """An image stretched to the box (square pixels where no height is given). ``pixels`` shows them as squares."""
        if height is None:
            height = width * image.shape[0] / image.shape[1]
        axes = self.axes(left, top, width, height, title)
        axes.imshow(image, aspect="auto", interpolation="nearest" if pixels else "bicubic", **show)
        axes.set_axis_off()
        return axes

    def row(
        self, top: float, images: Sequence[np.ndarray], titles: Sequence[str], *, left: float = EDGE,
        side: float | None = None, **show: Any,
    ) -> list[Axes]:  # fmt: skip
        """Pictures side by side; without ``side`` they fill the width."""
        side = side or column(len(images), left)
        pairs = enumerate(zip(images, titles, strict=True))
        return [self.picture(left + i * (side + GAP), top, side, image, title, **show) for i, (image, title) in pairs]

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        """Words whose top left corner is here."""
        with rc_context(_STYLE):
            self.figure.text(left / WIDTH, 1 - top / self.height, words, va=style.pop("va", "top"), **style)

    def bar(self, drawn: Axes, label: str, ticks: Sequence[float], names: Sequence[str] | None = None) -> None:
        """The colour scale of the image of ``drawn``, lying below it; BAR pixels high with its numbers and label."""
        box = drawn.get_position()
        left, bottom = box.x0 * WIDTH, (1 - box.y0) * self.height
        with rc_context(_STYLE):
            axes = self.axes(left, bottom + 6, box.width * WIDTH, 8)
            self.figure.colorbar(drawn.images[0], cax=axes, orientation="horizontal", ticks=list(ticks))
            axes.set_xlabel(label, labelpad=1, fontsize=8)
            if names is not None:
                axes.set_xticklabels(names)
            numbers = axes.get_xticklabels()
            numbers[0].set_horizontalalignment("left")  # else they reach into the neighbours
            numbers[-1].set_horizontalalignment("right")

    def clashes(self) -> list[str]:
        """Texts that overlap another one or leave the page; a page to be shown has none."""
        self.figure.canvas.draw()
        shown = [*self.figure.texts, *(text for axes in self.figure.axes for text in _texts(axes))]
        boxes = [(t.get_text(), t.get_window_extent()) for t in shown if t.get_visible() and t.get_text().strip()]
        out = [
            f"'{name}' leaves the page"
            for name, b in boxes
            if b.x0 < 0 or b.y0 < 0 or b.x1 > WIDTH or b.y1 > self.height
        ]
        for (a, first), (b, second) in combinations(boxes, 2):
            wide = min(first.x1, second.x1) - max(first.x0, second.x0)
            high = min(first.y1, second.y1) - max(first.y0, second.y0)
            if wide > 1 and high > 1:
                out.append(f"'{a}' lies on '{b}'")
        return out

    def png(self) -> bytes:
        """The page as a PNG in as many colours as fit MAX_BYTES, or in the fewest of _REDUCTIONS."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI)
        picture = Image.open(buffer).convert("RGB")
        for colours, dither in _REDUCTIONS:
            out = io.BytesIO()
            reduced = picture
            if colours:
                palette = picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
                reduced = _white(picture.quantize(palette=palette, dither=dither))
            reduced.save(out, "png", optimize=colours > 0)  # slow, and in all colours of little use
            if len(out.getvalue()) <= MAX_BYTES:
                break
        return out.getvalue()


def column(count: int, left: float = EDGE) -> float:
    """Width of one of ``count`` panels that fill the page from ``left``."""
    return (WIDTH - left - EDGE - (count - 1) * GAP) / count


def _white(picture: Image.Image) -> Image.Image:
    """A picture of a palette whose top left pixel, the page's margin, is pure white: a palette's white may be grey."""
    palette = picture.getpalette() or []
    index = picture.getpixel((0, 0))
    assert isinstance(index, int)
    palette[3 * index : 3 * index + 3] = (255, 255, 255)
    picture.putpalette(palette)
    return picture


def _texts(axes: Axes) -> list[Text]:
    """What is written in and about some axes: title, notes, legend, and where they are on, labels and numbers."""
    out = [child for child in axes.get_children() if isinstance(child, Text)]
    legend = axes.get_legend()
    if legend is not None:
        out += legend.get_texts()
    if axes.axison:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            numbers = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            out += [axis.label, *(label for where, label in numbers if low - 1e-9 <= where <= high + 1e-9)]
    return out
