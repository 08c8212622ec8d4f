"""A tiny folder that looks like MMEW: micro-expressions by emotion, macro-expressions as single pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

WORKBOOK = "MMEW_Micro_Exp.xlsx"
HEADER = (
    "Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion", "remarks",
)  # fmt: skip
FOLDERS: Mapping[str, str] = {"others": "repression"}
"""Emotions whose clips lie in a folder of another name."""


@dataclass(frozen=True)
class MmewClip:
    """One line of the workbook."""

    subject: object = 1
    name: str = "S01-01-001"
    onset: object = 1
    apex: object = 8
    offset: object = 15
    aus: object = "6+12"
    emotion: str = "happiness"

    @property
    def cells(self) -> Cells:
        return (self.subject, self.name, self.onset, self.apex, self.offset, self.aus, self.emotion, None)


CLIPS = (
    MmewClip(),
    MmewClip(subject="01", name="S01-04-001", onset=9, apex=11, offset=14, aus=4, emotion="others"),
    MmewClip(subject="S13", name="S13-07-001", onset=2, apex=20, offset=15, aus="4+7", emotion="anger"),
    MmewClip(subject=30, name="S30-02-002", onset=1, apex=5, offset=12, aus="1+2", emotion="surprise"),
)
EMOTIONS = {"happiness": "01", "fear": "05", "anger": "07"}
"""Second number of a name; those of happiness and anger are the release's."""
STILLS = {"S01": {"anger": 2, "fear": 1}, "S02": {"happiness": 1}}


def write_mmew(
    root: Path, clips: Sequence[MmewClip] = CLIPS, *, by_person: bool = False, within: str = ".", stills: bool = True
) -> Path:
    """Write the release below ``root``; ``by_person`` puts the person's folder around the emotion's."""
    micro = root / within / "Micro_Expression"
    for clip in clips:
        person = micro / clip.name.split("-")[0] if by_person else micro
        folder = person / FOLDERS.get(clip.emotion, clip.emotion) / clip.name
        write_frames(folder, range(1, int(str(clip.offset)) + 4), "{}.jpg", junk=True)
    for person_name, emotions in STILLS.items() if stills else ():
        for emotion, n in emotions.items():
            write_frames(
                root / within / "Macro_Expression" / person_name / emotion,
                range(1, n + 1),
                f"{person_name}-{EMOTIONS[emotion]}" + "-{:03d}.jpg",
                junk=True,
            )
    write_book(root / WORKBOOK, {"Sheet1": [HEADER, *(clip.cells for clip in clips)]})
    return root
