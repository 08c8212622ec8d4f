"""A tiny folder that looks like SAMM Long Videos: nine rows above the header, a folder a video, both kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

HEADER = (
    "Subject", "Filename", "Inducement Code", "Onset", "Apex", "Offset", "Duration", "Type", "Action Units", "Notes",
)  # fmt: skip
WORKBOOK = "SAMM_LongVideos_V3_Release.xlsx"
SHEET = "FACS_Movement_Only"
PREAMBLE: tuple[Cells, ...] = (
    ("SAMM Long Videos - FACS Codes", None, None, None, "(please cite the paper)"),
    (),
    ("Symbol Key:",),
    ('"/" = or',),
    (),
    ("AU Help:",),
    ('"L2 or R2" = Unilateral AU 2',),
    (),
    (),
)


@dataclass(frozen=True)
class LongClip:
    """One row of the sheet; numbers are floats, as Excel has most of them."""

    subject: object = 6
    name: object = "006_1_2"
    onset: object = 10.0
    apex: object = 14.0
    offset: object = 20.0
    kind: object = "Micro - 1/2"
    aus: object = "4+7"
    duration: object = None

    @property
    def cells(self) -> Cells:
        code = str(self.name).split("_")[1:2]
        return (
            self.subject, self.name, int(code[0]) if code and code[0].isdecimal() else None, self.onset, self.apex,
            self.offset, self.duration, self.kind, self.aus, "Blinks",
        )  # fmt: skip


VIDEOS: Mapping[str, tuple[int, str]] = {
    "006_1": (60, "006_1_{:04d}.jpg"),
    "006_5": (40, "006_5_{:05d}.jpg"),  # longer videos have five digits
    "007_6": (30, "007_6_{:04d}.jpg"),
    "036_7": (25, "036_7_{:04d}.jpg"),  # nothing is marked in it
}
"""Folder -> frames, from 1 on, and the form of their names."""
CLIPS = (
    LongClip(),
    LongClip(name="006_1_1", onset=30.0, apex=41.0, offset=58.0, kind="Macro", aus="6+12"),
    LongClip(name="006_5_3", onset=5.0, apex=-1.0, offset=12.0, aus="R12 or R14"),
    LongClip(subject=7, name="007_6_1", onset=2.0, apex=9.0, offset=34.0, kind="Macro", aus=43),  # four frames too long
    LongClip(subject=7, name="007_6_2", onset=20.0, apex=22.0, offset=24.0, kind="Other", aus="C"),
)


def write_samm_long(
    root: Path,
    clips: Sequence[LongClip] = CLIPS,
    *,
    folder: str = "SAMM_longvideos",
    workbook: str = WORKBOOK,
    preamble: bool = True,
    header: Sequence[Cells] = (HEADER,),
    sheet: str = SHEET,
    videos: Mapping[str, tuple[int, str]] = VIDEOS,
) -> Path:
    """Write the release below ``root`` and return it; ``folder`` "" puts the videos beside the workbook."""
    for name, (count, pattern) in videos.items():
        write_frames(root / folder / name, range(1, count + 1), pattern, junk=True)
    write_book(
        root / workbook, {sheet: [*(PREAMBLE if preamble else ()), *header, *(clip.cells for clip in clips)], "Key": []}
    )
    return root
