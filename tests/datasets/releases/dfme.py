"""A tiny folder that looks like DFME: one folder and one workbook a set, frame rates a clip, padded names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

WORKBOOKS = {
    "train": "training_full_with_AU.xlsx",
    "testA": "testA_full_with_AU.xlsx",
    "testB": "testB_full_with_AU.xlsx",
}
FOLDERS = {"train": "DFME_train", "testA": "test_data_A/test_data_A", "testB": "test_data_B/test_data_B"}
HEADER = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU")


@dataclass(frozen=True)
class DfmeClip:
    """One line of a workbook."""

    subject: object = "sub0003"
    name: str = "sub0003_01"
    onset: object = 109
    apex: object = 115
    offset: object = 120
    emotion: str | None = "anger"
    emotion_id: object = 0
    fps: object = 500
    aus: object = "4+7+AD38"

    @property
    def cells(self) -> Cells:
        return (
            self.subject, self.name, self.onset, self.apex, self.offset, self.emotion, self.emotion_id, self.fps,
            self.aus,
        )  # fmt: skip


CLIPS: Mapping[str, Sequence[DfmeClip]] = {
    "train": (
        DfmeClip(),
        DfmeClip(name="sub0003_02", onset=8, apex=9, offset=12, emotion="Happiness", emotion_id=4, fps=300, aus=12),
        DfmeClip(
            subject="sub0170", name="sub0170_11", emotion="contempt", emotion_id=1, fps="200", aus="M57", offset="118"
        ),
    ),
    "testA": (DfmeClip(emotion=None, emotion_id=6, fps=200), DfmeClip(subject=7, name="sub0007_01", emotion_id=2)),
    "testB": (DfmeClip(subject=None, name="sub0009_03", emotion="fear", emotion_id=None),),
}


def write_dfme(
    root: Path,
    clips: Mapping[str, Sequence[DfmeClip]] = CLIPS,
    *,
    books: str = ".",
    header: Sequence[str | None] = HEADER,
    pattern: str = "{:05d}.png",
) -> Path:
    """Write the sets below ``root``; ``books`` is the folder of the workbooks."""
    for part, lines in clips.items():
        for clip in lines:
            numbers = range(int(str(clip.onset)), int(str(clip.offset)) + 1)
            write_frames(root / FOLDERS[part] / clip.name, numbers, pattern, junk=True)
        write_book(root / books / WORKBOOKS[part], {"Sheet1": [header, *(clip.cells for clip in lines)]})
    return root
