"""Exact flow as arrays: a ``.npy`` [2,H,W] float32 a clip (pixels, onset to apex, x right, y down) and a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesynth.corpus.exports.annotation import au_cell
from mesynth.corpus.exports.form import FLOW, Clip, Form, Options, Placed, PlacedClips
from mesynth.corpus.exports.names import clip_names, plain_people
from mesynth.corpus.exports.reading import array, file_bytes, stored
from mesynth.corpus.exports.tables import write_csv
from mesynth.manifest import Manifest, Row
from mesynth.run_folder import write_bytes
from mesynth.stage import Produced

FOLDER, INDEX = "flow", "index.csv"
_BESIDE = ("landmarks.npy", "valid.npy")


class FlowNpyForm(Form):
    """``flow/<subject>/<clip>.npy``; landmarks and the mask of valid pixels beside it where the corpus has them."""

    name = "flow-npy"
    needs = (FLOW,)

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people, self.clips = plain_people(source), clip_names(source)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        for clip in clips:
            person, name = self.people[clip.row.subject_key], self.clips[clip.index]
            members = clip.flow_members()
            place: dict[str, str | int] = {"subject": person, "clip": name, "file": f"{FOLDER}/{person}/{name}.npy"}
            write_bytes(out / str(place["file"]), members["flow.npy"])
            for member in _BESIDE:
                if member in members:
                    kind = member.removesuffix(".npy")
                    place[kind] = f"{kind}/{person}/{name}.npy"
                    write_bytes(out / str(place[kind]), members[member])
            yield Placed(clip.row, place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        files = {"flow": place["file"]} | {kind: place[kind] for kind in ("landmarks", "valid") if kind in place}
        arrays = {
            kind: (str(root / file), array(file_bytes(root, file), str(root / file))) for kind, file in files.items()
        }
        return Produced(row, **stored(row, arrays))

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        header = (
            "file", "landmarks", "valid", "clip_id", "database", "subject", "clip", "label", "emotion", "aus", "height",
            "width", "fps",
        )  # fmt: skip
        rows = (
            (
                o.place["file"], o.place.get("landmarks", ""), o.place.get("valid", ""), o.row.clip_id, o.row.database,
                o.row.subject, o.row.clip, o.row.label, o.row.emotion, au_cell(o.row, letters=True), o.row.height,
                o.row.width, o.row.fps,
            )
            for o in placed()
        )  # fmt: skip
        write_csv(out / INDEX, header, rows)
        return {}
