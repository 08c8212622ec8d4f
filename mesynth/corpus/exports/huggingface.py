"""Parquet as the ``datasets`` library reads it: images as images, classes by name, flow as an array.

The schema carries the library's own description of its columns under the key ``huggingface``; without it pictures
would come back as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.classes import CLASSES_3
from mesynth.corpus.card import CardConfig, card_text, gather
from mesynth.corpus.exports.annotation import present_codes
from mesynth.corpus.exports.form import FRAMES, Clip, Form, Options, Placed, PlacedClips
from mesynth.manifest import SCHEMA, Manifest
from mesynth.run_folder import write_text

FOLDER, SPLIT = "data", "train"
_FILES = (
    f"Files: `{FOLDER}/{SPLIT}-*.parquet` (a row a clip), `provenance.jsonl` (names, exact action units, provenance), "
    "`left_out.csv` (clips of the corpus that are not here, and why)."
)
_ROWS = 8  # clips a row group: what a reader holds at once
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCALARS = (
    "clip_id", "database", "subject", "clip", "onset", "apex", "offset", "apex_index", "n_frames", "fps", "height",
    "width", "expression", "emotion", "objective_class", "au_text",
)  # fmt: skip


def schema(height: int, width: int, labels: Sequence[str] = CLASSES_3) -> pa.Schema:
    """Columns of the export, with their features. ``height`` and ``width`` of all flows, 0 where they differ."""
    fields = [(name, SCHEMA.field(name).type) for name in _SCALARS]
    fields += [
        ("label", pa.int64()), ("aus", pa.list_(pa.int32())), ("au_intensity", pa.list_(pa.float32())),
        ("au_present", pa.list_(pa.int8())), ("frames", pa.list_(_IMAGE)),
        ("flow", pa.list_(pa.list_(pa.list_(pa.float32())))), ("provenance", SCHEMA.field("provenance").type),
    ]  # fmt: skip
    columns = pa.schema(fields)
    features = {field.name: _feature(field.type) for field in columns}
    features["label"] = {"names": list(labels), "_type": "ClassLabel"}
    features["frames"] = {"feature": {"_type": "Image"}, "_type": "Sequence"}
    if height:
        features["flow"] = {"shape": [2, height, width], "dtype": "float32", "_type": "Array3D"}
    return columns.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    """The library's description of a type. "Sequence" is the name of lists that its old and new versions know."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    name = {pa.float32(): "float32", pa.float64(): "float64"}.get(kind, str(kind))
    return {"dtype": name, "_type": "Value"}


class HuggingFaceForm(Form):
    """``data/train-00000-of-00012.parquet`` and a card. A clip without a class has the label -1."""

    name = "huggingface"
    needs = (FRAMES,)

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        sizes = {(int(h), int(w)) for h, w in zip(source.column("height"), source.column("width"), strict=True)}
        flows = source.table["flow"].null_count == 0
        further = sorted({str(name) for name in source.column("label") if name} - set(CLASSES_3))
        self.labels = (*CLASSES_3, *further)
        self.schema = schema(*(sizes.pop() if len(sizes) == 1 and flows else (0, 0)), self.labels)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        name = f"{SPLIT}-{shard:05d}-of-{shards:05d}.parquet"
        target = out / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(name + ".tmp")
        held: list[dict[str, Any]] = []
        with pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
            for number, clip in enumerate(clips):
                held.append(self._record(clip))
                if len(held) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
                    held = []
                yield Placed(clip.row, {"file": f"{FOLDER}/{name}", "row": number})
            writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
        temporary.replace(target)

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        data = [{"split": SPLIT, "path": f"{FOLDER}/{SPLIT}-*.parquet"}]
        config = CardConfig(data=({"config_name": "default", "data_files": data},), files=_FILES)
        write_text(out / "README.md", card_text(gather(one.row for one in placed()), config))
        return {}

    def _record(self, clip: Clip) -> dict[str, Any]:
        row = clip.row
        return {name: getattr(row, name) for name in _SCALARS} | {
            "label": self.labels.index(row.label) if row.label else -1,
            "aus": list(present_codes(row)),
            "au_intensity": list(row.au_intensity),
            "au_present": list(row.au_present),
            "frames": [{"bytes": data, "path": f"{i:03d}.png"} for i, data in enumerate(clip.pngs())],
            "flow": clip.flow().tolist() if row.flow else None,
            "provenance": asdict(row.provenance),
        }
