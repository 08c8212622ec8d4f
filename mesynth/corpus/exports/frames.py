"""Plain frames and a CSV, in the layout that ``mesynth prepare generic`` reads and any script can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesynth.corpus.exports.annotation import au_cell, numbers_of
from mesynth.corpus.exports.form import FRAMES, Clip, Form, Options, Placed, PlacedClips, with_files
from mesynth.corpus.exports.names import clip_names, plain_people, safe
from mesynth.corpus.exports.reading import picture_files
from mesynth.corpus.exports.tables import Cell, write_csv
from mesynth.datasets.generic import CSV_NAME
from mesynth.manifest import Manifest, Row
from mesynth.run_folder import write_bytes
from mesynth.stage import Produced

FOLDER = "frames"
_HEADER = (
    "video", "subject", "onset", "apex", "offset", "aus", "emotion", "fps", "clip", "expression", "label", "database",
    "licence",
)  # fmt: skip


class FramesForm(Form):
    """``frames/<subject>/<clip>/000012.png``, byte for byte the corpus' own PNGs, and ``annotations.csv``."""

    name = "frames"
    needs = (FRAMES,)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people, self.clips = plain_people(source), clip_names(source)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        for clip in clips:
            folder = f"{FOLDER}/{self.people[clip.row.subject_key]}/{self.clips[clip.index]}"
            numbers = numbers_of(clip.row)
            files = _files(folder, numbers.each())
            for file, data in zip(files, clip.pngs(), strict=True):
                write_bytes(out / file, data)
            place: dict[str, str | int] = {
                "subject": clip.row.subject, "clip": self.clips[clip.index], "video": folder, "onset": numbers.onset,
                "apex": "" if numbers.apex is None else numbers.apex, "offset": numbers.offset,
                "aus": au_cell(clip.row, letters=True),
            }  # fmt: skip
            yield Placed(with_files(clip.row, files), place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        files = _files(place["video"], range(place["onset"], place["offset"] + 1))
        return Produced(row, frames=picture_files(root, row, files))

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        write_csv(out / CSV_NAME, _HEADER, (_line(one) for one in placed()))
        return {}


def _files(folder: str, numbers: range) -> list[str]:
    return [f"{folder}/{number:06d}.png" for number in numbers]


def _line(one: Placed) -> tuple[Cell, ...]:
    row, place = one.row, one.place
    return (
        place["video"], place["subject"], place["onset"], place["apex"], place["offset"], place["aus"], row.emotion,
        f"{row.fps:g}", place["clip"], row.expression, row.label, safe(row.database), row.provenance.licence,
    )  # fmt: skip
