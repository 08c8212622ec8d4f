"""Recordings of one's own in a layout of one's own."""

from __future__ import annotations

import csv
from pathlib import Path

from mesynth.datasets.database import AnnotatedClip, Database, Release


# [database]
def is_release(folder: Path) -> bool:
    return (folder / "beach.csv").is_file()


def read(root: Path, part: str, frames: str) -> Release:
    with open(root / "beach.csv", encoding="utf-8", newline="") as file:
        clips = tuple(
            AnnotatedClip(
                subject=row["person"],
                clip=row["clip"],
                folder=row["clip"],
                onset=row["onset"],
                apex=row["apex"],
                offset=row["offset"],
                aus=row["aus"],
                emotion=row["emotion"],
            )
            for row in csv.DictReader(file)
        )
    return Release(lines=clips, sources=("beach.csv",))


BEACH = Database(
    name="beach",
    title="Beach recordings",
    fps=60.0,
    licence="CC-BY-4.0",
    paper="",
    is_release=is_release,
    read=read,
    layout="beach.csv and a folder of frames a clip",
)
# [end]
