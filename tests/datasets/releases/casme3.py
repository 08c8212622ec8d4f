"""Tiny folders that look like CAS(ME)^3, parts A (whole videos, or clips cut out) and C. No real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

WORKBOOK = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
WORKBOOK_C = "CAS(ME)3_part_C_ME.xlsx"
HEADER = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
HEADER_C = ("sub", "count", "onset", "offset", "au", "PHY", "emotion")


@dataclass(frozen=True)
class ClipA:
    """One line of part A: all cells are strings."""

    subject: str = "spNO.1"
    video: str = "a"
    onset: str = "355"
    apex: str = "360"
    offset: str = "368"
    aus: str = "2+1"
    objective: str = "II"
    emotion: str = "surprise"

    @property
    def cells(self) -> Cells:
        return tuple(getattr(self, f.name) for f in fields(self))


CLIPS_A = (
    ClipA(),
    ClipA(onset="380", apex="380", offset="390", aus="4", objective="III", emotion="disgust"),
    ClipA(video="J", onset="20", apex="24", offset="30", aus="12", objective="I", emotion="happy"),
    ClipA(subject="spNO.10", video="e", onset="100", apex="104", offset="0", objective="VII", emotion="Others"),
    ClipA(subject="spNO.10", video="e", onset="5", apex="9", offset="3460", objective="VII", emotion="others"),
    ClipA(subject="spNO.217", video="m", onset="0", apex="0", offset="25", aus="1", objective="VII", emotion="sad"),
    ClipA(
        subject="spNO.217", video="b", onset="10", apex="90", offset="100", aus="43", objective="VII", emotion="fear"
    ),
)
LOST = frozenset({357, 358, 384, 95})
"""Frames that the camera dropped: about one in ten."""


def write_casme3(
    root: Path,
    clips: Sequence[ClipA] = CLIPS_A,
    *,
    cut_out: bool = False,
    depth: bool = True,
    header: Sequence[str] = HEADER,
    workbook: str = f"annotation/{WORKBOOK}",
) -> Path:
    """Part A below ``root``: ``part_A/spNO.1/a/color`` or, ``cut_out``, ``Part_A_ME_clip/frame/spNo.1_a_355``."""
    for clip in clips:
        onset, apex, offset = int(clip.onset), int(clip.apex), int(clip.offset)
        until = offset if onset < offset < 3000 else apex
        numbers = [n for n in range(max(1, onset - 3), until + 4) if n not in LOST]
        if cut_out:
            name = f"{clip.subject.replace('NO', 'No')}_{clip.video.lower()}_{clip.onset}"
            folders = (root / "Part_A_ME_clip/frame" / name, root / "Part_A_ME_clip/depth" / name)
            numbers = [n for n in numbers if onset <= n <= until]
        else:
            video = root / "part_A" / clip.subject / clip.video.lower()
            folders = (video / "color", video / "depth")
        write_frames(folders[0], numbers, "{}.jpg", junk=True)
        if depth:
            write_frames(folders[1], numbers, "{}.png")
    write_book(root / workbook, {"label": [header, *(clip.cells for clip in clips)], "Sheet2": []})
    return root


@dataclass(frozen=True)
class ClipC:
    """One line of part C: no apex; action units between full-width commas in one row."""

    subject: object = 1
    count: object = 1
    onset: object = 373
    offset: object = 380
    aus: object = "1，2"
    emotion: str = "negative"

    @property
    def cells(self) -> Cells:
        return (self.subject, self.count, self.onset, self.offset, self.aus, "p1", self.emotion)


CLIPS_C = (
    ClipC(),
    ClipC(count=2, onset=400, offset=410, aus=4, emotion="positive"),
    ClipC(subject=31, onset=1200, offset=1209, aus="4,7", emotion="surprise"),
)


def write_casme3_c(root: Path, clips: Sequence[ClipC] = CLIPS_C, header: Sequence[str] = HEADER_C) -> Path:
    """Part C below ``root``: ``part_C/part_C/01/a/color``."""
    for clip in clips:
        folder = root / f"part_C/part_C/{int(str(clip.subject)):02d}/a"
        numbers = range(int(str(clip.onset)) - 2, int(str(clip.offset)) + 3)
        write_frames(folder / "color", numbers, "{}.jpg", junk=True)
        write_frames(folder / "depth", numbers, "{}.png")
    write_book(root / WORKBOOK_C, {"Sheet1": [header, *(clip.cells for clip in clips)]})
    return root
