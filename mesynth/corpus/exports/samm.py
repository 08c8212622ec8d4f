"""The layout of the SAMM release: ``SAMM/501/501_9_7/501_00012.jpg``, grey, beside the workbook of FACS codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesynth.corpus.exports.annotation import au_cell
from mesynth.corpus.exports.form import AUS, EMOTION, FRAMES, Clip, Form, Options, Placed, PlacedClips
from mesynth.corpus.exports.names import clip_names, people
from mesynth.corpus.exports.pictures import grey
from mesynth.corpus.exports.release import clip_back, write_clip
from mesynth.corpus.exports.tables import Cell, write_workbook
from mesynth.manifest import Manifest, Row
from mesynth.stage import Produced

FOLDER = "SAMM"
WORKBOOK = "SAMM_Micro_FACS_Codes_v2.xlsx"
SHEET = "MICRO_ONLY"
_HEADER = (
    "Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
    "Action Units", "Estimated Emotion", "Objective Classes", "Notes",
)  # fmt: skip
_PREAMBLE = (
    "Not SAMM: exported by mesynth in the layout of the SAMM release.",
    "People numbered 501 and on are in no release.",
    "provenance.jsonl says what every clip is, whom it shows and whom its generator has seen.",
    *["-"] * 10,
)
"""As many rows as the release has above its header: some loaders count them."""
assert len(_PREAMBLE) == 13
_OWN = {"samm": r"\d{3}"}

LOST = "frames were grey JPEG in the layout of SAMM"


class SammForm(Form):
    """People of SAMM keep their number, everyone else is 501 and on. A clip that is not named as in the release is
    ``<subject>_9_<row of the corpus>``: the release knows inducements 1 to 7."""

    name = "samm"
    needs = (FRAMES, AUS, EMOTION)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people = people(source, "{}", _OWN)
        self.clips = clip_names(source)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        for clip in clips:
            person = self.people[clip.row.subject_key]
            name = self.clips[clip.index]
            if not re.fullmatch(rf"{person}_[1-7]_\d+", name):
                name = f"{person}_9_{clip.index + 1}"
            place: dict[str, str | int] = {
                "subject": person, "clip": name, "aus": au_cell(clip.row, letters=True),
            }  # fmt: skip
            yield write_clip(out, *_files(place), clip, place, grey)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        return clip_back(root, *_files(place), row, place, LOST)

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        def rows() -> Iterator[tuple[Cell, ...]]:
            yield from ((line,) for line in _PREAMBLE)
            yield _HEADER
            yield from (_row(one) for one in placed())

        write_workbook(out / WORKBOOK, {SHEET: rows()})
        return {}


def _files(place: dict[str, Any]) -> tuple[str, str]:
    """Folder of a clip, and the names of its frames."""
    return f"{FOLDER}/{place['subject']}/{place['clip']}", f"{place['subject']}_{{:05d}}.jpg"


def _row(one: Placed) -> tuple[Cell, ...]:
    row, place = one.row, one.place
    text = str(place["aus"])
    kind = "Macro" if row.expression == "macro" else "Micro - 1/2"
    return (
        place["subject"], place["clip"], 1, place["onset"], place["apex"] if place["apex"] != "" else None,
        place["offset"], row.n_frames, kind, int(text) if text.isdigit() else text, row.emotion.capitalize(),
        row.objective_class, row.provenance.kind,
    )  # fmt: skip
