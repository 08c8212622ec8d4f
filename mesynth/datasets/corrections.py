"""Corrections of faulty annotation rows: a declared table that ships with the package.

A correction names the row by database and clip and applies only where the cell still holds the old value, so
a repaired edition of a workbook, or one sorted differently, is left alone. The shipped table holds only faults
whose old value was read in the original file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mesynth.datasets.workbook import text_of
from mesynth.errors import DatasetLayoutError

_COLUMNS = ("database", "clip", "column", "old", "new", "reason")


@dataclass(frozen=True)
class Correction:
    """One cell: ``clip`` is ``subject/clip`` as the loader writes it, ``column`` our name of the column."""

    database: str
    clip: str
    column: str
    old: str
    new: str
    reason: str


def read_corrections(path: Path | None = None) -> tuple[Correction, ...]:
    """The shipped table, or another of the same columns. Raises DatasetLayoutError on other columns."""
    source = path or files("mesynth.datasets") / "corrections.csv"
    with source.open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise DatasetLayoutError(f"{source} has the columns {reader.fieldnames}; expected {', '.join(_COLUMNS)}")
        return tuple(Correction(**row) for row in reader)


def correct(
    row: dict[str, object], database: str, clip: str, corrections: Iterable[Correction]
) -> tuple[dict[str, object], list[str]]:
    """The row with every correction applied whose old value it holds, and a warning for each."""
    row, warnings = dict(row), []
    for fix in corrections:
        if (fix.database, fix.clip) == (database, clip) and text_of(row.get(fix.column)) == fix.old:
            row[fix.column] = fix.new
            warnings.append(f"{fix.column} corrected from {fix.old} to {fix.new}: {fix.reason}")
    return row, warnings
