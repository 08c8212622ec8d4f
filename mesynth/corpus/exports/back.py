"""Imports back: clips that a loader read from an export get their own names, truth and provenance again.

A loader of the field sees a further database with people of its own (sub501, 501, syn501). For leak safety that is
not enough: it does not know whom a generator has seen. The line of ``provenance.jsonl`` beside the files does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesynth.corpus.exports.form import PROVENANCE_FILE
from mesynth.corpus.exports.records import provenance_of
from mesynth.errors import ManifestError
from mesynth.manifest import Manifest, Row

_OWN = (
    "clip_id", "database", "subject", "clip", "emotion", "label", "objective_class", "au_text", "expression", "fps",
)  # fmt: skip
_ARRAYS = ("au_intensity", "au_known", "au_present")


def is_export(folder: Path | str) -> bool:
    """Whether ``folder`` was written by `mesynth export`."""
    return (Path(folder) / PROVENANCE_FILE).is_file()


def restored(loaded: Manifest, folder: Path | str) -> Manifest:
    """``loaded``, as a loader read it from the export ``folder``, with every clip's identity and provenance.

    Clips are told apart by the names they have in the export. Frames, flow and warnings stay the loader's.

    Raises:
        ManifestError: ``folder`` is no export, or holds a clip that its ``provenance.jsonl`` does not name.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise ManifestError(f"{folder} has no {PROVENANCE_FILE}; give a folder that `mesynth export` wrote")
    known = {_place(record["as"]): record for record in _records(folder)}
    rows = []
    for row in loaded:
        record = known.get((row.subject, row.clip))
        if record is None:
            raise ManifestError(
                f"clip {row.clip_id} is not in {folder / PROVENANCE_FILE}; export the corpus again, and keep clips of "
                "other sources elsewhere"
            )
        rows.append(_restore(row, record))
    return Manifest.from_rows(rows, loaded.root)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / PROVENANCE_FILE, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise ManifestError(
                    f"line {number} of {folder / PROVENANCE_FILE} is damaged; export the corpus again"
                ) from None


def _place(place: dict[str, Any]) -> tuple[str, str]:
    return str(place["subject"]), str(place.get("clip", place.get("material", "")))


def _restore(row: Row, record: dict[str, Any]) -> Row:
    values = {name: record[name] for name in _OWN} | {name: tuple(record[name]) for name in _ARRAYS}
    warnings = tuple(dict.fromkeys((*record["warnings"], *row.warnings)))
    return replace(row, **values, provenance=provenance_of(record), warnings=warnings)
