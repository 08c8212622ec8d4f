"""The pictures of the quality page, as data URIs: clips still and moving, best and worst, intensities, neighbours.

Every picture is WebP, at most SIDE pixels wide. A clip that cannot be read is listed, never dropped in silence.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from mesynth.errors import MesynthError
from mesynth.facs import AU_CODES
from mesynth.manifest import Manifest, Row
from mesynth.preprocess.flow import flow_picture
from mesynth.quality.per_clip import ClipFigures
from mesynth.shards import read_flow, read_frames

SIDE = 144
DIFFERENCE_GAIN = 5
FLOW_SCALE = 3.0
"""Pixels of motion shown at full colour: the same for real and synthetic clips."""
MOVING_FRAMES, MOVING_SECONDS = 16, 2.0
MIN_LEVELS = 3
"""An AU alone at this many intensities makes a grid."""
_QUALITY = 88
Card = dict[str, Any]


def data_uri(rgb: np.ndarray) -> str:
    """[H,W,3] uint8 RGB as WebP."""
    done, buffer = cv2.imencode(".webp", small(rgb)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    assert done
    return "data:image/webp;base64," + base64.b64encode(bytes(buffer)).decode()


def small(rgb: np.ndarray) -> np.ndarray:
    """The picture, reduced to at most SIDE pixels a side."""
    scale = SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def difference(onset: np.ndarray, apex: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8: apex - onset, DIFFERENCE_GAIN times, around grey."""
    return np.clip(128 + DIFFERENCE_GAIN * (apex.astype(int) - onset), 0, 255).astype(np.uint8)


def moving(frames: np.ndarray, apex: int) -> str:
    """[T,H,W,3] uint8 as an endless WebP of MOVING_SECONDS with up to MOVING_FRAMES frames, the apex among them."""
    from PIL import Image

    steps = np.unique(np.append(np.linspace(0, len(frames) - 1, MOVING_FRAMES).round().astype(int), apex))
    images = [Image.fromarray(small(frames[i])) for i in steps]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=round(1000 * MOVING_SECONDS / len(images)),
        loop=0, quality=_QUALITY, method=4,
    )  # fmt: skip
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Gallery:
    """Makes the cards of one manifest. ``left_out``: clips that could not be shown, and why."""

    manifest: Manifest
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {str(clip): i for i, clip in enumerate(self.manifest.column("clip_id"))}

    def row(self, clip_id: str) -> Row:
        """The clip's row. Raises KeyError."""
        return self.manifest.row(self._places[clip_id])

    def rows(self, ids: Iterable[str]) -> list[Row]:
        """Rows in the order of ``ids``."""
        return [self.row(clip) for clip in ids]

    def _cards(self, rows: Iterable[Row], make: Callable[[Row, np.ndarray], Card], most: int) -> list[Card]:
        cards: list[Card] = []
        for row in rows:
            if len(cards) == most:
                break
            try:
                frames = read_frames(self.manifest.root, row)
                if not 0 < row.apex_index < len(frames):
                    raise MesynthError(f"apex_index {row.apex_index} is no frame after the onset")
                cards.append(make(row, frames) | {"clip": row.clip_id, "asked": asked(row), "emotion": row.emotion})
            except MesynthError as error:
                self.left_out[row.clip_id] = str(error)
        return cards

    def stills(self, rows: Iterable[Row], most: int) -> list[Card]:
        """Onset, apex, difference and flow of each clip; no flow where the clip has none."""

        def make(row: Row, frames: np.ndarray) -> Card:
            onset, apex = frames[0], frames[row.apex_index]
            flow = "" if row.flow is None else data_uri(flow_picture(read_flow(self.manifest.root, row), FLOW_SCALE))
            return {
                "onset": data_uri(onset), "apex": data_uri(apex), "flow": flow,
                "difference": data_uri(difference(onset, apex)),
            }  # fmt: skip

        return self._cards(rows, make, most)

    def strips(self, rows: Iterable[Row], most: int) -> list[Card]:
        """Moving pictures, slowed to MOVING_SECONDS, with the apex for readers who want nothing to move."""

        def make(row: Row, frames: np.ndarray) -> Card:
            slower = MOVING_SECONDS / (len(frames) / row.fps) if row.fps > 0 else 0.0
            facts = f"{len(frames)} frames at {row.fps:g} fps, {slower:.0f} times slower"
            return {
                "moving": moving(frames, row.apex_index), "apex": data_uri(frames[row.apex_index]), "facts": facts,
            }  # fmt: skip

        return self._cards(rows, make, most)

    def extremes(self, figures: Sequence[ClipFigures], name: str, most: int) -> tuple[list[Card], list[Card]]:
        """The clips with the lowest and the highest ``identity`` or ``au_error``, best and worst first; no clip is
        in both lists."""
        measured = [(value, f.clip_id) for f in figures if (value := getattr(f, name)) is not None]
        ordered = sorted(measured)
        most = min(most, len(ordered) // 2)
        values = {clip: value for value, clip in ordered}

        def make(row: Row, frames: np.ndarray) -> Card:
            return {
                "onset": data_uri(frames[0]), "apex": data_uri(frames[row.apex_index]),
                "figure": f"{values[row.clip_id]:.2f}",
            }  # fmt: skip

        ids = [clip for _, clip in ordered]
        return (
            self._cards(self.rows(ids[:most]), make, most),
            self._cards(self.rows(ids[::-1][:most]), make, most),
        )

    def grids(self, most: int) -> list[tuple[str, list[Card]]]:
        """(title, cards from weak to strong) of each AU that stands alone at MIN_LEVELS intensities or more."""

        def make(row: Row, frames: np.ndarray) -> Card:
            apex = frames[row.apex_index]
            return {"apex": data_uri(apex), "difference": data_uri(difference(frames[0], apex))}

        found = []
        for code, subject, rows in sweeps(self.manifest)[:most]:
            found.append((f"AU {code} on {subject}", self._cards(rows, make, len(rows))))
        return [(title, cards) for title, cards in found if len(cards) >= MIN_LEVELS]


def neighbours(own: Gallery, known: Gallery, figures: Sequence[ClipFigures], most: int) -> list[tuple[Card, Card, str]]:
    """(synthetic clip, known clip with the nearest apex, distance), nearest first."""

    def make(row: Row, frames: np.ndarray) -> Card:
        return {"apex": data_uri(frames[row.apex_index])}

    pairs = sorted((f.distance, f.clip_id, f.nearest) for f in figures if f.distance is not None)
    out = []
    for distance, clip, nearest in pairs[:most]:
        cards = [g._cards([g.row(name)], make, 1) for g, name in ((own, clip), (known, nearest))]
        if all(cards):
            out.append((cards[0][0], cards[1][0], f"{distance:.3g}"))
    return out


def sweeps(manifest: Manifest) -> list[tuple[int, str, list[Row]]]:
    """(AU, face, rows by rising intensity) where one face shows one AU alone at MIN_LEVELS intensities; longest
    first. One row per intensity, the first in the manifest."""
    found: dict[tuple[int, str], dict[float, Row]] = {}
    for row in manifest:
        aus = row.aus
        active = [i for i in range(len(AU_CODES)) if aus.intensity[i].any()]
        if aus.mask.all() and len(active) == 1:
            level = round(float(aus.intensity[active[0]].max()), 2)
            found.setdefault((AU_CODES[active[0]], row.subject_key), {}).setdefault(level, row)
    grids = [(code, who, [rows[level] for level in sorted(rows)]) for (code, who), rows in found.items()]
    return sorted((g for g in grids if len(g[2]) >= MIN_LEVELS), key=lambda g: -len(g[2]))


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """``rows`` reordered so that the first ``most`` show as many people and emotions as there are; the rest after."""
    rest = list(rows)
    first: list[Row] = []
    while rest and len(first) < most:
        people, words = ([getattr(r, name) for r in first] for name in ("subject_key", "emotion"))
        best = min(rest, key=lambda r: people.count(r.subject_key) + words.count(r.emotion))
        first.append(best)
        rest.remove(best)
    return first + rest


def asked(row: Row) -> str:
    """The AUs of a clip as a caption, of two digits: ``4 .25, L12 .1``."""
    text = re.sub(r"=(\d*\.?\d+)", lambda found: " " + f"{float(found[1]):.2g}".removeprefix("0"), row.au_text)
    return text.replace(",", ", ")
