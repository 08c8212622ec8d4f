"""WebDataset shards with everything of a clip in one sample: frames, flow, landmarks, class, annotation.

``clips-000012.tar`` holds ``00000307.000.png`` ..., ``.flow.npy``, ``.landmarks.npy``, ``.valid.npy``, ``.cls`` (only
of clips with a class) and ``.json``. The folder is a mesynth corpus as well: its manifest points into the shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesynth.core.emotions import CLASSES_3
from mesynth.corpus.exports.form import FRAMES, ExportedClip, ExportedClips, Form, SourceClip
from mesynth.corpus.exports.records import array, inside, pictures, record_of, stored
from mesynth.store.manifest import Row, Span
from mesynth.store.shards import ShardWriter, read_span
from mesynth.store.stage import Produced


class WebDatasetForm(Form):
    """Frames are copied byte for byte."""

    name = "webdataset"
    needs = (FRAMES,)
    readable = True

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        with ShardWriter(out / f"clips-{shard:06d}.tar") as writer:
            for clip in clips:
                yield _sample(writer, clip)

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        """A shard of which every clip was left out is no valid shard to a reader: it goes."""
        held = {str(one.place["shard"]) for one in placed()}
        for path in out.glob("clips-*.tar"):
            if path.name not in held:
                path.unlink()
        return {"shards": len(held)}

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """Everything, as the shard holds it."""
        span = Span(place["shard"], place["offset"], place["size"], place["sha256"])
        inside(root, span.shard)
        members = read_span(root, span, verify=True)
        where = f"{root / span.shard}: {place['key']}"
        frames = ((f"{where}.{name}", data) for name, data in sorted(members.items()) if name.endswith(".png"))
        arrays = {
            name.removesuffix(".npy"): (f"{where}.{name}", array(data, f"{where}.{name}"))
            for name, data in members.items()
            if name.endswith(".npy")
        }
        return Produced(row, frames=pictures(row, frames), **stored(row, arrays))


def _sample(writer: ShardWriter, clip: SourceClip) -> ExportedClip:
    row, key = clip.row, f"{clip.index:08d}"
    place: dict[str, str | int] = {"shard": writer.path.name, "key": key}
    members = {f"{i:03d}.png": data for i, data in enumerate(clip.pngs())}
    members |= clip.flow_members()
    if row.label in CLASSES_3:
        members["cls"] = str(CLASSES_3.index(row.label)).encode()
    members["json"] = json.dumps(record_of(ExportedClip(row, place))).encode()
    span = writer.add(key, members)
    place |= {"offset": span.offset, "size": span.size, "sha256": span.sha256}  # the way back is one seek
    return ExportedClip(replace(row, frames=span, flow=span if row.flow else None, frame_files=()), place)
