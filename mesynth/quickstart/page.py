"""What the road has produced, as the report shows it.

``report.html``: one file, no network, no script; every figure on it comes from the study's results."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesynth import __version__
from mesynth.benchmark.result import DASH, Result
from mesynth.corpus.previews import DIFFERENCE_GAIN, FLOW_SCALE, clip_column, video_bytes
from mesynth.metrics.base import MeasureRow, format_number
from mesynth.metrics.report import MeasureReport
from mesynth.preprocess.flow import flow_picture
from mesynth.store.manifest import Manifest, Row
from mesynth.store.pages import render
from mesynth.store.run_folder import write_text
from mesynth.store.shards import png_bytes, read_flow, read_frames
from recognizer.ablation_result import AblationResult
from recognizer.report import tally
from recognizer.results import LosoResult
from recognizer.trained import Prediction, load, standing


@dataclass(frozen=True)
class Show:
    """One generator on one photo."""

    model: str
    clips: Manifest
    sweep: Manifest


@dataclass(frozen=True)
class Study:
    """What the report shows."""

    out: Path
    real: Manifest
    synthetic: Manifest
    matched: Manifest
    """The synthetic corpus with flow re-estimated from its frames, as the real clips' flow was."""
    shows: list[Show]
    """What each generator makes of the photo, the motion prior first."""
    answers: dict[str, Prediction]
    """What the recognizer that ships says of those clips, by generator."""
    comparison: Result
    measures: MeasureReport
    recognition: dict[str, LosoResult]
    ablation: AblationResult
    refusal: str
    photo_name: str
    seconds: dict[str, dict[str, float]]
    """Of each part: wall and processor."""


# ------------------------------------------------------------------- page


def write_page(study: Study) -> Path:
    """Write the report and return its path."""
    path = study.out / "report.html"
    write_text(path, render("mesynth.quickstart", "page.html", **_values(study)))
    return path


def _values(study: Study) -> dict[str, Any]:
    real, synthetic = study.real, study.synthetic
    return {
        "version": __version__,
        "answer": tally(study.ablation),
        "photo": study.photo_name,
        "counts": {
            "subjects": len(set(real.subject_keys())),
            "clips": len(real),
            "faces": len(set(synthetic.subject_keys())),
            "synthetic": len(synthetic),
            "frames": int(synthetic.column("n_frames").sum()),
            "shared": len(set(real.subject_keys()) & {s for seen in synthetic.subjects_seen() for s in seen}),
        },
        "classes": _classes(real),
        "shows": [
            {
                "model": show.model,
                "clips": [_moving(show.clips, row) for row in show.clips],
                "sweep": _columns(show.sweep, show.sweep),
            }
            for show in study.shows
        ],
        "answers": [_answers(show, study.answers[show.model]) for show in study.shows],
        "standing": standing(load("shipped")),
        "comparison": _comparison(study),
        "database": _columns(real, _spread(real, 8)),
        "corpus": _columns(synthetic, _spread(synthetic, 8)),
        "difference_gain": DIFFERENCE_GAIN,
        "flow_scale": FLOW_SCALE,
        "measures": [_measure(r) for r in study.measures.rows if _worth_showing(r)],
        "measure_notes": study.measures.notes,
        "plots": {name: _png_data(data) for name, data in study.measures.plots.items()},
        "recognition": [_recognition(name, result.to_dict()) for name, result in study.recognition.items()],
        "curve": _png_data(study.ablation.curve),
        "conditions": [_condition(asdict(s)) for s in study.ablation.summary],
        "comparisons": study.ablation.comparisons,
        "refusal": study.refusal,
        "provenance": _provenance(synthetic.row(0)),
        "seconds": study.seconds,
        "total": {key: sum(s[key] for s in study.seconds.values()) for key in ("wall", "processor")},
    }


# ---------------------------------------------------------------- pictures


def _png_data(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _png(rgb: np.ndarray) -> str:
    return _png_data(png_bytes(rgb))


def _moving(manifest: Manifest, row: Row) -> dict[str, str]:
    frames = read_frames(manifest.root, row)
    gif = base64.b64encode(video_bytes(frames[:: max(1, round(row.fps / 100))], "gif", fps=12.5)).decode()
    return {
        "emotion": row.emotion,
        "aus": row.au_text.replace(",", ", "),
        "gif": "data:image/gif;base64," + gif,
        "flow": _png(flow_picture(read_flow(manifest.root, row), FLOW_SCALE)),
        "facts": f"{row.n_frames} frames at {row.fps:g} fps, apex at frame {row.apex_index}",
    }


def _column(manifest: Manifest, row: Row) -> dict[str, str]:
    aus = row.au_text.replace(",", " ").replace("=0.", " .")
    return {"picture": _png(clip_column(manifest, row)), "emotion": row.emotion, "aus": aus}


def _columns(manifest: Manifest, rows: Iterable[Row]) -> list[dict[str, str]]:
    return [_column(manifest, row) for row in rows]


def _spread(manifest: Manifest, n: int) -> list[Row]:
    """``n`` rows with as many different people and emotions as there are."""
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for row in manifest:
        if (row.subject_key,) not in seen and (row.emotion, str(len(rows) // 4)) not in seen:
            seen |= {(row.subject_key,), (row.emotion, str(len(rows) // 4))}
            rows.append(row)
        if len(rows) == n:
            break
    return rows


# ---------------------------------------------------------------- tables


def _classes(manifest: Manifest) -> dict[str, int]:
    labels = [label or "others" for label in manifest.column("label")]
    return {name: labels.count(name) for name in sorted(set(labels))}


def _worth_showing(row: MeasureRow) -> bool:
    """Headlines, and whatever could not be measured; single AUs stay in measures/report.md."""
    return row.headline or (row.value is None and not row.name.startswith("AU "))


def _measure(row: MeasureRow) -> dict[str, str]:
    name, value, reference, n = row.text()
    return {"group": row.group, "name": name, "value": value, "reference": reference, "n": n, "note": row.note}


def _answers(show: Show, answers: Prediction) -> dict[str, Any]:
    """A generator's clips: what was asked for, and what was recognised."""
    rows = zip(show.clips.column("emotion").tolist(), answers.table.to_pylist(), strict=True)
    cells = [
        {"asked": f"{emotion} ({row['label']})", "answer": row["predicted"], "p": f"{row['p_' + row['predicted']]:.2f}"}
        for emotion, row in rows
    ]
    return {"model": show.model, "cells": cells}


_COMPARED = (
    "flow_epe", "of_zero_flow", "of_mean_flow", "au_slope_pooled", "spearman_over_intensities", "leakage",
    "identity_distance", "diversity", "seconds",
)  # fmt: skip
"""Figures of the comparison that fit a page, by their keys."""


def _comparison(study: Study) -> dict[str, Any]:
    standings = study.comparison.standings
    names = {f.key: f.name for s in standings for f in s.figures if f.key in _COMPARED}
    rows = []
    for key, name in names.items():
        found = [next((f for f in s.figures if f.key == key), None) for s in standings]
        unit = next((f.unit for f in found if f and f.unit), "")
        cells = [DASH if f is None or f.value is None else format_number(f.value) for f in found]
        rows.append({"name": f"{name.strip()} ({unit})" if unit else name.strip(), "cells": cells})
    rows.append({"name": "parameters", "cells": [f"{s.facts.get('parameters', 0):,}" for s in standings]})
    sheet = (study.out / "generators" / "sheet.png").read_bytes()
    people = study.comparison.settings["people"]
    return {"names": [s.name for s in standings], "rows": rows, "sheet": _png_data(sheet), "people": people}


def _recognition(name: str, result: dict[str, Any]) -> dict[str, str]:
    def interval(key: str) -> str:
        entry = result[key]
        return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"

    metrics = result["metrics"]
    return {
        "model": name,
        "uf1": interval("uf1"),
        "uar": interval("uar"),
        "accuracy": f"{metrics['accuracy']:.3f}",
        "f1": ", ".join(f"{k} {v:.2f}" for k, v in zip(metrics["classes"], metrics["f1"], strict=True)),
        "parameters": f"{result['n_parameters']:,}",
    }


def _condition(summary: dict[str, Any]) -> dict[str, str]:
    uf1 = summary["uf1"]
    subjects = summary["train_subjects"]
    return {
        "model": summary["model"],
        "subjects": str(subjects) if subjects else "all",
        "ratio": f"{summary['ratio']:g}",
        "uf1": f"{uf1['value']:.3f} [{uf1['low']:.3f}, {uf1['high']:.3f}]",
        "verdict": summary["verdict"],
    }


def _provenance(row: Row) -> dict[str, str]:
    fields = {"clip": row.clip_id, **asdict(row.provenance)}
    text = {k: ", ".join(map(str, v)) if isinstance(v, (tuple, list)) else str(v) for k, v in fields.items()}
    return {key: value for key, value in text.items() if value}
