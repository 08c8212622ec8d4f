"""A tiny folder that looks like SAMM: preamble, four and five digits, the AU grammar, impossible numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.releases.common import write_book, write_frames

HEADER = (
    "Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
    "Action Units", "Estimated Emotion", "Objective Classes", "Notes",
)  # fmt: skip
WORKBOOK = "SAMM_Micro_FACS_Codes_v2.xlsx"
PREAMBLE: tuple[tuple[str | None, ...], ...] = (
    ("SAMM Dataset - Master FACS Codes", None, None, None, "(Note to the users: please cite the paper)"),
    (),
    ("New updates with Emotional and Objective Classes",),
    (None, None, None, None, "(please cite the paper on the Subject's classes)"),
    (),
    ("Symbol Key:",),
    ('"/" = or',),
    ('"?" = some AU\'s continue for a while and have unclear offset',),
    (),
    ("AU Help:",),
    ('"L2 or R2" = Unilateral AU 2',),
    ('"A2" = Asymmetric AU 2',),
    (),
)


@dataclass(frozen=True)
class SammClip:
    """One row of the sheet, and the frame numbers of its folder (default: onset to offset)."""

    subject: object = "006"
    name: str = "006_1_2"
    onset: object = 5310
    apex: object = 5313
    offset: object = 5318
    aus: object = "4+7"
    emotion: str = "Anger"
    objective: object = 3
    duration: object = "from the frames"
    on_disk: Sequence[int] | None = None
    digits: int = 5
    kind: str = "Micro - 1/2"

    @property
    def frames(self) -> object:
        """The duration cell: a count of frames, both ends in it."""
        if self.duration != "from the frames":
            return self.duration
        return int(str(self.offset)) - int(str(self.onset)) + 1

    @property
    def numbers(self) -> Sequence[int]:
        return self.on_disk or range(int(str(self.onset)), int(str(self.offset)) + 1)


CLIPS = (
    SammClip(),
    SammClip(name="006_1_3", onset=98, apex=100, offset=104, aus=12, emotion="Happiness", objective=1, digits=4),
    SammClip(subject=7, name="007_6_5", onset=649, apex=652, offset=655, aus="(R6 or R12) + R15", objective="VII"),
    SammClip(subject="011", name="011_6_1", onset=11, apex=13, offset=18, aus="10A/B", emotion="Disgust", objective=4),
    SammClip(subject="026", name="026_2_2", onset=20, apex=24, offset=30, aus="4D+ref(6)+7C+43E"),
    SammClip(subject="026", name="026_5_1", onset=40, apex=44, offset=50, aus="R14+17+soft focus", emotion="Contempt"),
    SammClip(subject="025", name="025_4_1", onset=9, apex=12, offset=16, aus="T18+39", emotion="Other", objective=7),
    # an apex after the offset
    SammClip(subject="028", name="028_4_1", onset=1201, apex=1290, offset=1210, aus="A14C", emotion="Contempt"),
    # an offset that the duration shows to be wrong
    SammClip(subject="013", name="013_1_9", onset=5401, apex=5403, offset=573, duration=8, on_disk=range(5401, 5409)),
)


def row_of(clip: SammClip) -> tuple[object, ...]:
    """The row's cells."""
    return (
        clip.subject, clip.name, 1, clip.onset, clip.apex, clip.offset, clip.frames, clip.kind, clip.aus,
        clip.emotion, clip.objective, "Blinks",
    )  # fmt: skip


def write_samm(
    root: Path,
    clips: Sequence[SammClip] = CLIPS,
    *,
    preamble: bool = True,
    frames: str = "SAMM",
    workbook: str = WORKBOOK,
    sheet: str = "MICRO_ONLY",
) -> Path:
    """Write the release below ``root`` and return it; ``frames`` "" puts the subjects beside the workbook."""
    for clip in clips:
        person = f"{int(str(clip.subject)):03d}"
        pattern = f"{person}_{{:0{clip.digits}d}}.jpg"
        name = "_".join([person, *clip.name.split("_")[1:]])  # folders are padded, whatever Excel made of the cell
        write_frames(root / frames / person / name, clip.numbers, pattern, junk=True)
    rows = [HEADER, *(row_of(clip) for clip in clips)]
    other = [HEADER, ("006", "006_9_9", 1, 1, 2, 3, 3, "Macro", "12", "Happiness", 1, None)]
    sheets = {sheet: [*(PREAMBLE if preamble else ()), *rows]}
    write_book(root / workbook, {"ALL": other} | sheets if sheet == "MICRO_ONLY" else sheets)
    return root
