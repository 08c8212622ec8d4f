"""``report.html``: the answer, then pictures, then tables; how to reproduce is folded; one file, no network, no script.

Pictures are data URIs of WebP, at most SIDE pixels wide: clips still and moving, best and worst, intensities,
neighbours. A clip that cannot be read is listed, never dropped in silence.
"""

from __future__ import annotations

import base64
import io
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth import __version__
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.metrics.base import MeasureRow, subset
from mesynth.metrics.control import SOURCE_NOTE
from mesynth.metrics.report import ClipFigures, Comparison, Verdict, verdicts
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest, Row
from mesynth.store.pages import render
from mesynth.store.run_folder import write_text
from mesynth.store.shards import read_flow, read_frames
from mesynth.store.videos import encoded

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
    data = encoded(small(rgb), ".webp", [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return "data:image/webp;base64," + base64.b64encode(data).decode()


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
                cards.append(make(row, frames) | {"clip": row.clip_id, "target": target(row), "emotion": row.emotion})
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


def target(row: Row) -> str:
    """The AUs of a clip as a caption, of two digits: ``4 .25, L12 .1``."""
    text = re.sub(r"=(\d*\.?\d+)", lambda found: " " + f"{float(found[1]):.2g}".removeprefix("0"), row.au_text)
    return text.replace(",", ", ")


# ------------------------------------------------------------------- page


LIMIT = 5_000_000
"""Bytes of a page; pictures are left out until it is smaller."""
_PICTURES = (6, 4, 2, 1)
"""Clips of a kind per corpus: as many as LIMIT allows."""
_PACKAGES = ("torch", "numpy", "opencv-python", "pyarrow", "pillow")


def write_page(found: Comparison, folder: Path | str, *, command: str = "") -> Path:
    """Write ``folder/report.html`` and return its path. ``command``: what made it, for the last section."""
    path = Path(folder) / "report.html"
    write_text(path, page(found, command=command))
    return path


def page(found: Comparison, *, command: str = "") -> str:
    """The page of a measurement. Clips are read again for their pictures; one that cannot be read is listed."""
    words = _words(found, command)
    most = 12 // max(2, len(found.reports))
    text = ""
    for count in (n for n in _PICTURES if n <= max(most, _PICTURES[-1])):
        text = render("mesynth.metrics", "page.html", **words, **_shown(found, count))
        if len(text.encode()) <= LIMIT:
            break
    return text


# ---------------------------------------------------------------- pictures


def _shown(found: Comparison, count: int) -> dict[str, Any]:
    known = Gallery(found.training or found.real)
    real = Gallery(found.real)
    seed = int(next(iter(found.reports.values())).settings["seed"])
    clips = _drawn(found.real, "real", count, seed)
    shows = [_real_show(real, clips, count)]
    shows += [_show(found, name, known, count, seed) for name in found.synthetic]
    left = [(g, why) for show in shows for g, why in show["left_out"]] + sorted(known.left_out.items())
    plotted = any(show.get("plots") for show in shows)
    return {"shows": shows, "plotted": plotted, "left_out": list(dict.fromkeys(left))}


def _drawn(manifest: Manifest, side: str, count: int, seed: int) -> list[Any]:
    """Clips to show, drawn as the measured ones are, with as many people and emotions as there are."""
    rows = [manifest.row(int(i)) for i in subset(manifest, 8 * count, seed, side)]
    return spread(rows, count)


def _real_show(gallery: Gallery, clips: Sequence[Any], count: int) -> dict[str, Any]:
    stills, strips = gallery.stills(clips, count), gallery.strips(clips, count)
    return {
        "name": "real", "real": True, "stills": stills, "strips": strips, "left_out": sorted(gallery.left_out.items())
    }  # fmt: skip


def _show(found: Comparison, name: str, known: Gallery, count: int, seed: int) -> dict[str, Any]:
    gallery, figures = Gallery(found.synthetic[name]), found.clips[name]
    clips = _drawn(found.synthetic[name], "synthetic", count, seed)
    half = max(1, count // 2)
    extremes = []
    for column, title in (
        ("identity", "Identity: largest distance of a frame's face embedding to the onset's"),
        ("au_error", "AU control: mean error over the target action units, of 5"),
    ):
        best, worst = gallery.extremes(figures, column, half)
        measured = sum(getattr(f, column) is not None for f in figures)
        if best:
            extremes.append({"title": title, "best": best, "worst": worst, "n": measured})
    report = found.reports[name]
    return {
        "name": name,
        "real": False,
        "stills": gallery.stills(clips, count),
        "strips": gallery.strips(clips, count),
        "extremes": extremes,
        "grids": gallery.grids(half),
        "neighbours": neighbours(gallery, known, figures, count),
        "plots": {
            title: "data:image/png;base64," + base64.b64encode(report.plots[key]).decode()
            for key, title in _PLOTS.items()
            if key in report.plots and count > _PICTURES[-1]
        },
        "left_out": sorted(gallery.left_out.items()),
    }


_PLOTS = {
    "au_control": "Measured against target intensity",
    "identity": "Distances of face embeddings",
    "flow": "Size and direction of the motion",
}


# ---------------------------------------------------------------- words and tables


def _words(found: Comparison, command: str) -> dict[str, Any]:
    names = list(found.reports)
    answers = {name: verdicts(report) for name, report in found.reports.items()}
    questions = [
        {
            "question": answers[names[0]][i].question,
            "answers": [{"corpus": name, "answer": answers[name][i]} for name in names],
        }
        for i in range(len(answers[names[0]]))
    ]
    first = next(iter(found.reports.values()))
    corpora = {"real": first.corpora["real"]} | {n: r.corpora["synthetic"] for n, r in found.reports.items()}
    headline, others = _tables(found)
    return {
        "names": names,
        "questions": questions,
        "answers": [_answer(name, found) for name, found in answers.items()],
        "corpora": corpora,
        "tables": headline,
        "others": others,
        "known": found.known,
        "gain": DIFFERENCE_GAIN,
        "flow_scale": FLOW_SCALE,
        "min_levels": MIN_LEVELS,
        "judge": SOURCE_NOTE,
        "command": command,
        "versions": _versions(),
        "settings": first.settings,
        "notes": {name: report.notes for name, report in found.reports.items()},
        "shared_notes": [n for n in first.notes if all(n in r.notes for r in found.reports.values())],
        "training_hash": found.training.hash() if found.training is not None else "",
        "seconds": {name: sum(report.seconds.values()) for name, report in found.reports.items()},
    }


def _answer(name: str, found: Sequence[Verdict]) -> str:
    """One corpus in one sentence: how many questions come out well, which badly, and how many stay open."""
    kinds = [verdict.kind for verdict in found]
    bad = [
        f"{verdict.question} {verdict.verdict[0].upper()}{verdict.verdict[1:]}."
        for verdict in found
        if verdict.kind == "bad"
    ]
    text = f"{name}: {kinds.count('good')} of {len(found)} questions come out well, {len(bad)} badly"
    rest = len(found) - kinds.count("good") - len(bad)
    text += f", {rest} cannot be decided with these clips." if rest else "."
    return text + (f" Badly: {' '.join(bad)}" if bad else "")


def _tables(found: Comparison) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tables of headline rows (and of what was not measured), and of all others, per group."""
    tables: tuple[dict[str, list[Any]], dict[str, list[Any]]] = ({}, {})
    for group, name in found.measures():
        rows = {corpus: found.row(corpus, group, name) for corpus in found.reports}
        present = [r for r in rows.values() if r is not None]
        shown = any(r.headline or r.note.startswith("not measured") for r in present)
        line = {
            "name": name + (f" ({present[0].unit})" if present[0].unit else ""),
            "better": _BETTER[present[0].better],
            "note": "; ".join(dict.fromkeys(r.note for r in present if r.note and r.value is not None)),
            "cells": [_cell(r) for r in rows.values()],
        }
        tables[0 if shown else 1].setdefault(group, []).append(line)
    return tuple([{"group": g, "lines": lines} for g, lines in t.items()] for t in tables)  # type: ignore[return-value]


_BETTER = {"low": "lower is better", "high": "higher is better", "one": "1 is best", "zero": "0 is best", "": ""}


def _cell(row: MeasureRow | None) -> dict[str, str]:
    if row is None:
        return {"value": "–", "beside": "", "n": ""}
    if row.value is None:
        why = row.note.removeprefix("not measured: ")
        return {"value": "not measured", "beside": why, "n": ""}
    _, value, beside, n = row.text()
    value = value.replace(f" {row.unit}", "", 1) if row.unit else value
    return {"value": value, "beside": beside, "n": n}


def _versions() -> dict[str, str]:
    found = {"mesynth": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # another build of it (opencv-python-headless) goes by another name
    return found | {"machine": f"{platform.system()} {platform.machine()}"}
