"""Tiny folders that look like SMIC (the folders are the annotation) and SMIC-E (long videos and a workbook)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import Cells, write_book, write_frames

LONG_HEADER = (
    "Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", None,
    "FirstF", "LastF", "TotalMF1", "TotalVL", "Emotion",
)  # fmt: skip


@dataclass(frozen=True)
class SmicClip:
    """One clip folder."""

    subject: str = "s1"
    name: str = "s1_ne_01"
    emotion: str = "negative"
    first: int = 559740
    n: int = 6

    @property
    def numbers(self) -> Sequence[int]:
        return range(self.first, self.first + self.n)


CLIPS = (
    SmicClip(),
    SmicClip(name="s1_sur_01", emotion="surprise", first=99998),  # from five digits to six
    SmicClip(subject="s11", name="s11_po_02", emotion="positive", n=5),
    SmicClip(subject="s20", name="s20_po_10", emotion="positive"),
)
SLOW_CLIPS = (SmicClip(subject="s11", name="s11_ne_01", first=101, n=4),)


def write_smic(
    root: Path, clips: Sequence[SmicClip] = CLIPS, *, camera: str = "HS", cropped: bool = False, non_micro: bool = True
) -> Path:
    """Write one camera's folders below ``root`` and return it."""
    base = root / ("SMIC_all_cropped" if cropped else "SMIC_all_raw") / camera
    pattern = "reg_image{}.bmp" if cropped else "image{}.bmp"
    for clip in clips:
        folder = base / clip.subject / "micro" / clip.emotion / clip.name
        write_frames(folder, clip.numbers, pattern, junk=True)
        if non_micro:
            write_frames(base / clip.subject / "non_micro" / f"{clip.subject}_nonmicro_01", range(7, 10), pattern)
    (base / "Thumbs.db").write_bytes(b"junk")
    return root


@dataclass(frozen=True)
class LongVideo:
    """One row of the workbook of SMIC-E: a video and its one to three spans."""

    subject: object = 3
    name: str = "s3_ne_01"
    spans: Sequence[tuple[object, object]] = ((1010, 1016),)
    first: object = 1000
    last: object = 1030
    emotion: object = "negative"
    on_disk: bool = True

    @property
    def cells(self) -> Cells:
        """The row's cells."""
        spans = [cell for pair in self.spans for cell in pair]
        spans += [None] * (6 - len(spans))
        return (self.subject, self.name, None, *spans, None, self.first, self.last, 7, 31, self.emotion)


VIDEOS = (
    LongVideo(),
    LongVideo(name="s3_ne_03", first="original video lost", last=None, on_disk=False),
    LongVideo(subject=14, name="s14_sur_02", spans=((1004, 1008), (1020, 1025)), emotion="surprise"),
    LongVideo(subject=20, name="s20_po_01", spans=((1, 5), (7, 12), (14, 18)), first=0, last=20, emotion="positive"),
)
TEXT_ROWS: tuple[Cells, ...] = (
    (None, None),
    ("Note: OnsetF is the number of the first frame that shows the expression",),
    (None, "clips with two expressions are marked in Onset2F"),
)


def write_smic_long(
    root: Path,
    videos: Sequence[LongVideo] = VIDEOS,
    *,
    camera: str = "HS",
    inner: bool = False,
    workbook: str = "",
    text_rows: Sequence[Cells] = TEXT_ROWS,
) -> Path:
    """Write SMIC-E below ``root`` and return it; ``inner``: with the further folder that some archives make."""
    base = root / f"{camera}_long" / f"SMIC-{camera}-E"
    for video in videos:
        if video.on_disk:
            person = f"s{int(video.name[1:].split('_')[0]):02d}"
            folder = (base / camera if inner else base) / person / video.name
            numbers = range(int(str(video.first)), int(str(video.last)) + 1)
            write_frames(folder, numbers, "image{:08d}.jpg", junk=True)
    write_frames((base / camera if inner else base) / "s03/s3_calm", [1, 2], "image{:08d}.jpg")
    file = base / (workbook or f"SMIC-{camera}-E_annotation.xlsx")
    sheets = {camera: [LONG_HEADER, *(v.cells for v in videos), *text_rows]}
    if camera == "HS":
        sheets = {"VIS": [LONG_HEADER, LongVideo(subject=11, name="s11_ne_01").cells], **sheets}
    write_book(file, sheets)
    return root
