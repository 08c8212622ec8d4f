"""A tiny folder that looks like the CASME II release: workbook quirks, unpadded names, junk files. No real data."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import write_book, write_frames

HEADER: tuple[str | None, ...] = (
    "Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units", "Estimated Emotion",
)  # fmt: skip
WORKBOOK = "CASME2-coding-20140508.xlsx"


@dataclass(frozen=True)
class ReleaseClip:
    """One line of the workbook and the frame numbers of its folder (default: 3 around onset..offset)."""

    subject: str = "01"
    name: str = "EP02_01f"
    onset: object = 46
    apex: object = 50
    offset: object = 55
    aus: object = "4+7"
    emotion: str = "disgust"
    on_disk: Sequence[int] | None = None

    @property
    def numbers(self) -> Sequence[int]:
        if self.on_disk is not None:
            return self.on_disk
        return range(int(str(self.onset)) - 3, int(str(self.offset)) + 4)


CLIPS = (
    ReleaseClip(),
    ReleaseClip(name="EP03_02", onset=8, apex=11, offset=12, aus=12, emotion="happiness"),
    ReleaseClip(subject="04", name="EP12_01f", onset=97, apex="/", offset=103, aus="?", emotion="disgust"),
    ReleaseClip(subject="05", name="EP09_05f", onset=20, apex=20, offset=26, aus="L1+L2", emotion="surprise"),
    ReleaseClip(subject="26", name="EP18_51", onset=10, apex=13, offset=15, aus="4+R10", emotion="others"),
)


def write_workbook(
    file: Path, clips: Iterable[ReleaseClip], header: Sequence[str | None] = HEADER, preamble: int = 0
) -> None:
    rows = [["Notes on the coding"]] * preamble + [list(header)]
    rows += [[c.subject, c.name, None, c.onset, c.apex, c.offset, None, c.aus, c.emotion] for c in clips]
    write_book(file, {"Sheet1": rows, "Sheet2": [], "Sheet3": []})


def write_label_ver_2(file: Path, clips: Iterable[ReleaseClip]) -> None:
    """The edition CASME2_label_Ver_2.xls: an old .xls, the same columns without blank ones between."""
    rows = [[name for name in HEADER if name]]
    rows += [[c.subject, c.name, c.onset, c.apex, c.offset, c.aus, c.emotion] for c in clips]  # type: ignore[list-item]
    write_xls(file, rows)


def write_xls(file: Path, rows: Sequence[Sequence[object]]) -> None:
    """One sheet in BIFF2, the oldest .xls: a record a cell (type, length, row, column, attributes, value)."""
    records = [(0x0009, struct.pack("<HH", 7, 0x10)), (0x0042, struct.pack("<H", 1252))]
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            place = struct.pack("<HH3x", y, x)
            if isinstance(cell, int):
                records.append((0x0003, place + struct.pack("<d", cell)))
            elif cell is not None:
                text = str(cell).encode("cp1252")
                records.append((0x0004, place + struct.pack("<B", len(text)) + text))
    records.append((0x000A, b""))
    file.write_bytes(b"".join(struct.pack("<HH", kind, len(data)) + data for kind, data in records))


def write_release(
    root: Path,
    clips: Sequence[ReleaseClip] = CLIPS,
    *,
    frames: str = "CASME2_RAW_selected",
    pattern: str = "img{}.jpg",
    workbook: str = WORKBOOK,
) -> Path:
    """Write the release below ``root`` and return it."""
    for clip in clips:
        write_frames(root / frames / f"sub{clip.subject}" / clip.name, clip.numbers, pattern)
    write_workbook(root / workbook, clips)
    (root / frames / "Thumbs.db").write_bytes(b"junk")
    first = root / frames / f"sub{clips[0].subject}" / clips[0].name
    (first / "img1.jpg.lnk").write_bytes(b"junk")
    (first / ".DS_Store").write_bytes(b"junk")
    return root
