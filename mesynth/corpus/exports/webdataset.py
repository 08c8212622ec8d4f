"""WebDataset shards with everything of a clip in one sample: frames, flow, landmarks, class, annotation.

``clips-000012.tar`` holds ``00000307.000.png`` ..., ``.flow.npy``, ``.landmarks.npy``, ``.valid.npy``, ``.cls`` (only
of clips with a class) and ``.json``. The folder is a mesynth corpus as well: its manifest points into the shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mesynth.classes import CLASSES_3
from mesynth.corpus.exports.form import FRAMES, Clip, Form, Placed, PlacedClips
from mesynth.corpus.exports.records import record_of
from mesynth.shards import ShardWriter


class WebDatasetForm(Form):
    """Frames are copied byte for byte."""

    name = "webdataset"
    needs = (FRAMES,)
    readable = True

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        with ShardWriter(out / f"clips-{shard:06d}.tar") as writer:
            for clip in clips:
                yield _sample(writer, clip)

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        """A shard of which every clip was left out is no valid shard to a reader: it goes."""
        held = {str(one.place["shard"]) for one in placed()}
        for path in out.glob("clips-*.tar"):
            if path.name not in held:
                path.unlink()
        return {"shards": len(held)}


def _sample(writer: ShardWriter, clip: Clip) -> Placed:
    row, key = clip.row, f"{clip.index:08d}"
    place: dict[str, str | int] = {"shard": writer.path.name, "key": key}
    members = {f"{i:03d}.png": data for i, data in enumerate(clip.pngs())}
    members |= clip.flow_members()
    if row.label in CLASSES_3:
        members["cls"] = str(CLASSES_3.index(row.label)).encode()
    members["json"] = json.dumps(record_of(Placed(row, place))).encode()
    span = writer.add(key, members)
    return Placed(replace(row, frames=span, flow=span if row.flow else None, frame_files=()), place)
