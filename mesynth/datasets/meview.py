"""MEVIEW (Husak, Cech and Matas, CVWW 2017): 31 video clips of 16 people at 25 frames a second, from the wild.

The layout of the release could not be verified, so its annotation is read from ``meview.csv`` beside the videos,
with the columns of :mod:`mesynth.datasets.generic`; docs/databases/meview.md says how to write it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mesynth.core.errors import WrongRoot
from mesynth.datasets.database import Release, shipped
from mesynth.datasets.files import contents, given_file
from mesynth.datasets.generic import HEADER, lines, read_table

CSV_NAME = "meview.csv"


def is_release(folder: Path) -> bool:
    """Whether ``folder`` holds the CSV by which MEVIEW is read."""
    return any(p.name.lower() == CSV_NAME for p in folder.iterdir())


def read(root: Path, part: str, frames: str, annotation: Path | None = None) -> Release:
    """The rows of ``meview.csv``. Raises DatasetLayoutError when it is missing or lacks a column."""
    found = [p for p in root.iterdir() if p.name.lower() == CSV_NAME] if root.is_dir() else []
    if annotation:
        found = [given_file(annotation)]
    if not found:
        raise WrongRoot(
            f"no {CSV_NAME} in {root}: {contents(root)}; write one row an expression below the header {HEADER}, or "
            "give it with --annotation FILE"
        )
    rows = lines(root, read_table(found[0]))
    return Release(
        # every row is MEVIEW's, whatever a column says: its people must have one key
        lines=tuple(replace(line, database="", licence="") for line in rows),
        sources=(found[0].name,),
        notes=(f"the layout of the release is not known to this package; {CSV_NAME} was written by its user",),
    )


MEVIEW = shipped("meview", is_release=is_release, read=read)
