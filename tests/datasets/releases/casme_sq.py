"""A tiny folder that looks like CAS(ME)^2: a workbook without header, naming sheets, three renderings. No real data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

WORKBOOK = "CAS(ME)^2code_final.xlsx"
PEOPLE = {1: 15, 2: 16, 3: 19, 7: 23}
"""Index -> number of the folder, as far as the fixture has people."""
VIDEOS = {"disgust1": "0101disgustingteeth", "anger1": "0401girlcrashing", "happy1": "0502funnyerrors"}


@dataclass(frozen=True)
class SqClip:
    """One line of the coding sheet."""

    person: object = 1
    name: str = "anger1_1"
    onset: object = 557
    apex: object = 572
    offset: object = 580
    aus: object = "4+7"
    emotion: str = "negative"
    type: str = "micro-expression"
    report: object = "anger"

    @property
    def cells(self) -> Cells:
        return (
            self.person, self.name, self.onset, self.apex, self.offset, self.aus, self.emotion, self.type, self.report,
        )  # fmt: skip


CLIPS = (
    SqClip(),
    SqClip(name="anger1_2", onset=600, apex=606, offset=0, aus=4),
    SqClip(name="disgust1_1", onset=8, apex=11, offset=40, type="macro-expression", report="disgust"),
    SqClip(person=2, name="happy1_1", onset=95, apex=99, offset=104, aus=None, emotion="positive", report="happyiness"),
    SqClip(person=3, name="disgust1_10", onset=1, apex=5, offset=9, aus="R14", emotion="others", report="helpless"),
    SqClip(person=7, name="happy1_1", onset=20, apex=24, offset=30, aus="1+2", emotion="surprise", report=None),
)


def write_workbook(
    file: Path,
    clips: Iterable[SqClip] = CLIPS,
    *,
    sheet: str = "CASFEcode_final",
    naming: bool = True,
    rows_before: Sequence[Cells] = (),
    rows_after: Sequence[Cells] = (),
    blank_column: bool = False,
) -> Path:
    """The coding sheet and the two naming sheets; codes of videos are text in one row and a number in another."""
    rows = [*rows_before, *(clip.cells for clip in clips), *rows_after]
    if blank_column:
        rows = [(*row[:2], None, *row[2:]) for row in rows]
    sheets: dict[str, Iterable[Cells]] = {sheet: rows}
    if naming:
        sheets["naming rule1"] = [(number, f"s{number}", index) for index, number in PEOPLE.items()]
        codes = [(code[:4], name) for name, code in VIDEOS.items()]
        sheets["naming rule2"] = [(int(codes[0][0]), codes[0][1]), *codes[1:]]
    return write_book(file, sheets)


def video_folder(clip: SqClip, root: Path) -> Path:
    """Of the whole video; the one of s23 lies with s19, as in public copies of the release."""
    number = PEOPLE[int(str(clip.person))]
    holder = "s19" if number == 23 else f"s{number}"
    return root / "rawpic" / holder / f"{number}_{VIDEOS[clip.name.split('_')[0]]}"


def _until(clip: SqClip) -> int:
    return int(str(clip.offset)) or int(str(clip.apex))


def write_casme_sq(
    root: Path, clips: Sequence[SqClip] = CLIPS, *, renderings: Sequence[str] = ("raw",), workbook: str = WORKBOOK
) -> Path:
    """Write the release below ``root`` and return it; frame names have three digits, and four from 1000 on."""
    for clip in clips:
        around = range(max(1, int(str(clip.onset)) - 3), _until(clip) + 4)
        inside = range(int(str(clip.onset)), _until(clip) + 1)
        number = PEOPLE[int(str(clip.person))]
        if "raw" in renderings:
            write_frames(video_folder(clip, root), around, "img{:03d}.jpg", junk=True)
        if "selected" in renderings:
            write_frames(root / "selectedpic" / "selectedpic" / f"s{number}" / clip.name, inside, "img{}.jpg")
        if "cropped" in renderings:
            write_frames(root / "cropped" / f"{number}" / clip.name, inside, "img{}.jpg")
    write_workbook(root / workbook, clips)
    return root
