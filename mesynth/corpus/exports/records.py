"""One clip as plain JSON: what travels beside every export so that leak safety survives it, and the way back."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from mesynth import facs
from mesynth.corpus.exports.form import Placed
from mesynth.errors import ManifestError
from mesynth.manifest import SCHEMA, Manifest, Provenance, Row

_PLAIN = (
    "clip_id", "database", "subject", "clip", "onset", "apex", "offset", "apex_index", "n_frames", "fps", "height",
    "width", "expression", "emotion", "label", "objective_class", "au_text",
)  # fmt: skip
_LISTS = ("au_intensity", "au_known", "au_present", "warnings")


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


def row_of(record: dict[str, Any]) -> Row:
    """The row that :func:`record_of` was given, without its files.

    Raises:
        ManifestError: values that no row has.
        KeyError, TypeError, ValueError: a record that misses something, or holds something of another type.
    """
    values = {name: record[name] for name in _PLAIN} | {name: tuple(record[name]) for name in _LISTS}
    made = Row(**values, provenance=provenance_of(record))
    plain = vars(made) | {"provenance": vars(made.provenance)}
    row = Manifest(pa.Table.from_pylist([plain], SCHEMA), Path()).row(0)  # refuses values of other types
    if blank := _blank(values) or _blank(vars(row.provenance)):
        raise ManifestError(f"{blank} is blank")
    row.aus  # noqa: B018 - checked as it is made
    if len(row.au_present) != len(row.au_intensity):
        raise ManifestError(f"au_present has {len(row.au_present)} entries; expected {len(row.au_intensity)}")
    if not 0 <= row.apex_index < max(row.n_frames, 1):
        raise ManifestError(f"apex_index {row.apex_index} lies outside its {row.n_frames} frames")
    return row


def provenance_of(record: dict[str, Any]) -> Provenance:
    """The provenance of a line. Raises as :func:`row_of`."""
    source: dict[str, Any] = {field.name: record["provenance"][field.name] for field in fields(Provenance)}
    source |= {name: tuple(value) for name, value in source.items() if isinstance(value, list)}
    return Provenance(**source)


def _blank(values: dict[str, Any]) -> str:
    """The first value that is missing, or a list with a gap; an apex may be unknown."""
    gaps = (
        name
        for name, value in values.items()
        if (value is None and name != "apex") or (isinstance(value, (list, tuple)) and None in value)
    )
    return next(gaps, "")
