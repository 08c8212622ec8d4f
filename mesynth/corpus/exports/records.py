"""One clip as plain JSON: what travels beside every export so that leak safety survives it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mesynth import facs
from mesynth.corpus.exports.form import Placed


def record_of(placed: Placed) -> dict[str, Any]:
    """One line of ``provenance.jsonl``: ``as`` are the names in the export, the rest is the clip's own.

    ``aus`` is the request that gives the intensities back, ``au_intensity`` holds them exactly ([K*2], rows of
    facs.AU_CODES, sides L and R).
    """
    row = placed.row
    return {
        "clip_id": row.clip_id, "as": placed.place, "database": row.database, "subject": row.subject, "clip": row.clip,
        "onset": row.onset, "apex": row.apex, "offset": row.offset, "apex_index": row.apex_index,
        "n_frames": row.n_frames, "fps": row.fps, "height": row.height, "width": row.width,
        "expression": row.expression, "emotion": row.emotion, "label": row.label,
        "objective_class": row.objective_class, "au_text": row.au_text, "aus": facs.format_vector(row.aus),
        "au_intensity": list(row.au_intensity), "au_known": list(row.au_known), "au_present": list(row.au_present),
        "warnings": list(row.warnings), "provenance": asdict(row.provenance),
    }  # fmt: skip
