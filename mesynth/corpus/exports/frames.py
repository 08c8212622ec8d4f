"""Forms of pictures: plain frames and a CSV in the layout that ``mesynth prepare generic`` reads and any script can;
moving pictures for people, every clip as an MP4 (or WebM, GIF, APNG), slowed to 25 frames a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesynth.corpus.exports.form import (
    FRAMES,
    ExportedClip,
    ExportedClips,
    Options,
    SourceClip,
    au_cell,
    numbers_of,
    with_files,
)
from mesynth.corpus.exports.records import CellValue, NamedForm, picture_files, safe, write_csv
from mesynth.corpus.previews import PREVIEW_FPS, VIDEOS, suffix_of, video_bytes
from mesynth.datasets.generic import CSV_NAME
from mesynth.store.manifest import Manifest, Row
from mesynth.store.run_folder import write_bytes
from mesynth.store.stage import Produced

FOLDER = "frames"
_HEADER = (
    "video", "subject", "onset", "apex", "offset", "aus", "emotion", "fps", "clip", "expression", "label", "database",
    "licence",
)  # fmt: skip


class FramesForm(NamedForm):
    """``frames/<subject>/<clip>/000012.png``, byte for byte the corpus' own PNGs, and ``annotations.csv``."""

    name = "frames"
    needs = (FRAMES,)
    readable = True

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            person, name = self.names(clip)
            folder = f"{FOLDER}/{person}/{name}"
            numbers = numbers_of(clip.row)
            files = _files(folder, numbers.each())
            for file, data in zip(files, clip.pngs(), strict=True):
                write_bytes(out / file, data)
            place: dict[str, str | int] = {
                "subject": clip.row.subject, "clip": name, "video": folder, "onset": numbers.onset,
                "apex": "" if numbers.apex is None else numbers.apex, "offset": numbers.offset,
                "aus": au_cell(clip.row, letters=True),
            }  # fmt: skip
            yield ExportedClip(with_files(clip.row, files), place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        files = _files(place["video"], range(place["onset"], place["offset"] + 1))
        return Produced(row, frames=picture_files(root, row, files))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        write_csv(out / CSV_NAME, _HEADER, (_line(one) for one in placed()))
        return {}


def _files(folder: str, numbers: range) -> list[str]:
    return [f"{folder}/{number:06d}.png" for number in numbers]


def _line(one: ExportedClip) -> tuple[CellValue, ...]:
    row, place = one.row, one.place
    return (
        place["video"], place["subject"], place["onset"], place["apex"], place["offset"], place["aus"], row.emotion,
        f"{row.fps:g}", place["clip"], row.expression, row.label, safe(row.database), row.provenance.licence,
    )  # fmt: skip


# ------------------------------------------------------------------- previews


PREVIEW_FOLDER, INDEX = "previews", "index.csv"


class PreviewsForm(NamedForm):
    """``previews/<subject>/<clip>.mp4`` and a table of them. Nothing to learn from: grey levels are lost."""

    name = "previews"
    needs = (FRAMES,)
    accepts = ("video",)
    comes_back = False  # videos are coded with loss, a GIF has 256 colours and merges what hardly moves

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.video = options.video or VIDEOS[0]

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            person, name = self.names(clip)
            file = f"{PREVIEW_FOLDER}/{person}/{name}.{suffix_of(self.video)}"
            write_bytes(out / file, video_bytes(clip.frames(), self.video))
            yield ExportedClip(clip.row, {"subject": person, "clip": name, "file": file})

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        header = ("file", "clip_id", "emotion", "label", "au_text", "n_frames", "fps", "shown_at_fps")
        rows = (
            (
                str(o.place["file"]), o.row.clip_id, o.row.emotion, o.row.label, o.row.au_text, o.row.n_frames,
                o.row.fps, PREVIEW_FPS,
            )
            for o in placed()
        )  # fmt: skip
        write_csv(out / INDEX, header, rows)
        return {"shown at fps": PREVIEW_FPS}
