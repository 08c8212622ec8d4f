"""A tiny folder that looks like the CASME release: two cameras and paddings, two apexes, rows that miss frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import write_book, write_frames

HEADER = ("Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "AU", "Emotion")
WORKBOOK = "casme.xlsx"


@dataclass(frozen=True)
class CasmeClip:
    """One row of the workbook, and the frame numbers of its folder (default: two more on either side)."""

    subject: object = 1
    name: str = "EP01_5"
    onset: object = 7
    apex: object = 9
    apex2: object = None
    offset: object = 12
    aus: object = "4"
    emotion: str = "Disgust"
    on_disk: Sequence[int] | None = None
    padded: bool = False
    """Camera B: three digits."""

    @property
    def numbers(self) -> Sequence[int]:
        return self.on_disk or range(int(str(self.onset)) - 2, int(str(self.offset)) + 3)

    @property
    def person(self) -> str:
        return f"sub{int(str(self.subject)):02d}"


CLIPS = (
    CasmeClip(),
    CasmeClip(name="EP03_1", onset=8, apex=10, apex2=13, offset=15, aus=12, emotion="Happiness"),
    CasmeClip(subject=4, name="EP05_2", onset=98, apex=100, offset=104, aus="1+2", emotion="Surprise", padded=True),
    CasmeClip(subject=4, name="EP05_3", onset=3, apex=5, offset=9, aus="L14", emotion="Tense", padded=True),
    # the workbook's numbers miss the folder's frames altogether
    CasmeClip(subject=19, name="EP07_9", onset=1, apex=2, offset=5, emotion="Repression", on_disk=range(100, 110)),
    # an offset that ends before it begins
    CasmeClip(subject=19, name="EP07_8", onset=20, apex=23, offset=2, emotion="Tense", on_disk=range(20, 28)),
)


def write_casme(
    root: Path, clips: Sequence[CasmeClip] = CLIPS, *, cropped: bool = False, workbook: str = WORKBOOK
) -> Path:
    """Write the release below ``root`` and return it."""
    base, mark = root / ("Cropped" if cropped else "CASME_raw_selected"), "reg_" if cropped else ""
    for clip in clips:
        digits = "{:03d}" if clip.padded else "{}"
        folder = base / clip.person / clip.name
        write_frames(folder, clip.numbers, f"{mark}{clip.name}-{digits}.jpg", junk=True)
    rows = [(c.subject, c.name, None, c.onset, c.apex, c.apex2, c.offset, None, c.aus, c.emotion) for c in clips]
    write_book(root / workbook, {"Sheet1": [HEADER, *rows], "Sheet2": []})
    return root
