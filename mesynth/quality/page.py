"""``report.html``: verdicts, then pictures, then tables, then how to reproduce; one file, no network, no script."""

from __future__ import annotations

import base64
import platform
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mesynth import __version__
from mesynth.manifest import Manifest
from mesynth.quality.clips import subset
from mesynth.quality.comparison import Comparison
from mesynth.quality.control import SOURCE_NOTE
from mesynth.quality.page_pictures import DIFFERENCE_GAIN, FLOW_SCALE, MIN_LEVELS, Gallery, neighbours, spread
from mesynth.quality.report import MeasureRow
from mesynth.quality.verdicts import verdicts
from mesynth.run_folder import write_text

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
    from jinja2 import Environment, StrictUndefined

    source = resources.files("mesynth.quality").joinpath("page.html").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    words = _words(found, command)
    most = 12 // max(2, len(found.reports))
    text = ""
    for count in (n for n in _PICTURES if n <= max(most, _PICTURES[-1])):
        text = template.render(**words, **_shown(found, count))
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
    return {"shows": shows, "left_out": list(dict.fromkeys(left))}


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
    for field, title in (
        ("identity", "Identity: largest distance of a frame's face embedding to the onset's"),
        ("au_error", "AU control: mean error over the action units asked for, of 5"),
    ):
        best, worst = gallery.extremes(figures, field, half)
        measured = sum(getattr(f, field) is not None for f in figures)
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
    "au_control": "Judged against asked intensity",
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
