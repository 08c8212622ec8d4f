"""A tiny folder that looks like 4DME: several emotions a clip, static action units, an eye-blink column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

WORKBOOK = "4DME_Labelling_Micro_release v1.xlsx"
WORDS = ("Positive", "Negative", "Surprise", "Repression", "Others")
HEADER = ("sub_ID", "fold_name", "Emotion", "Onset", "Apex", "Offset", "AUs", "AU4", "eye blink", *WORDS)


@dataclass(frozen=True)
class FourClip:
    """One line of the workbook; ``marked`` are the emotion columns that hold 1, None for those of ``emotion``."""

    subject: str = "S01"
    name: str = "001_01_1"
    emotion: str | None = "Negative"
    onset: object = 2480
    apex: object = 2490
    offset: object = 2500
    aus: object = "4+7"
    blink: object = 0
    marked: tuple[str, ...] | None = None

    @property
    def cells(self) -> Cells:
        words = (self.emotion or "").split("+") if self.marked is None else self.marked
        marks = [int(word in words) for word in WORDS]
        return (
            self.subject, self.name, self.emotion, self.onset, self.apex, self.offset, self.aus, 1, self.blink, *marks,
        )  # fmt: skip


CLIPS = (
    FourClip(),
    FourClip(name="002_01_1", emotion="Surprise+Positive", aus="AU4(k)+L7", blink=1),
    FourClip(subject="S13", name="001_01_1", emotion="Repression", aus="AUR2+12(k)+45"),
    FourClip(subject="S13_1st", name="001_01_1", emotion="Others", aus=14, onset=10, apex=14, offset=20),
    FourClip(subject="S21", name="003_02_1-", emotion="Positive", aus="12", onset=1.0, apex=5.0, offset=9.0),
)


def write_fourdme(
    root: Path, clips: Sequence[FourClip] = CLIPS, *, folders: Sequence[str] = ("gray_micro",), last_row: bool = True
) -> Path:
    """Write the release below ``root``; the workbook ends in a row of sums, clip folders lack stray dashes."""
    for clip in clips:
        numbers = range(int(float(str(clip.onset))), int(float(str(clip.offset))) + 1)
        for folder in folders:
            write_frames(root / folder / clip.subject / clip.name.rstrip("-"), numbers, "image{:05d}.jpg", junk=True)
    rows: list[Cells] = [HEADER, *(clip.cells for clip in clips)]
    if last_row:
        rows.append((None, None, None, None, None, None, "Total", len(clips)))
    write_book(root / WORKBOOK, {"Sheet1": rows})
    return root
