"""Parquet as the ``datasets`` library reads it: images as images, classes by name, flow as an array.

The schema carries the library's own description of its columns under the key ``huggingface``; without it pictures
would come back as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ManifestError
from mesynth.corpus.card import CardConfig, card_text, corpus_facts
from mesynth.corpus.exports.form import (
    FRAMES,
    PROVENANCE_FILE,
    ExportedClip,
    ExportedClips,
    Form,
    Options,
    SourceClip,
    present_codes,
)
from mesynth.corpus.exports.records import AGAIN, inside, pictures, stored
from mesynth.store.manifest import SCHEMA, Manifest, Row
from mesynth.store.run_folder import temporary_beside, write_text
from mesynth.store.shards import npy_array
from mesynth.store.stage import Produced

FOLDER, SPLIT = "data", "train"
_FILES = (
    f"Files: `{FOLDER}/{SPLIT}-*.parquet` (a row a clip), `provenance.jsonl` (names, exact action units, provenance), "
    "`left_out.csv` (clips of the corpus that are not here, and why)."
)
_ARRAYS: dict[str, type[np.generic]] = {"flow": np.float32, "landmarks": np.float32, "valid": np.bool_}
_ROWS = 8  # clips a row group: what a reader holds at once
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_NEEDED = ("clip_id", "frames", *_ARRAYS)  # what the way back reads; the rest is in provenance.jsonl
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
        ("flow", pa.list_(pa.list_(pa.list_(pa.float32())))), ("landmarks", pa.list_(pa.list_(pa.float32()))),
        ("valid", pa.list_(pa.list_(pa.bool_()))), ("provenance", SCHEMA.field("provenance").type),
    ]  # fmt: skip
    columns = pa.schema(fields)
    features = {field.name: _feature(field.type) for field in columns}
    shapes = {"flow": (2, height, width), "valid": (height, width), "landmarks": (68, 2)} if height else {}
    for name, shape in shapes.items():
        place, leaf = columns.get_field_index(name), "bool" if name == "valid" else "float32"
        columns = columns.set(place, _fixed(columns.field(place), shape, leaf))
        features[name] = {"shape": list(shape), "dtype": leaf, "_type": f"Array{len(shape)}D"}
    features["label"] = {"names": list(labels), "_type": "ClassLabel"}
    features["frames"] = {"feature": {"_type": "Image"}, "_type": "Sequence"}
    return columns.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _fixed(field: pa.Field, shape: Sequence[int], leaf: str) -> pa.Field:
    """The column as the library's arrays of one shape: without its extension type in the file the library takes what
    the features say for nested lists, which it reads item by item."""
    name = f"datasets.features.features.Array{len(shape)}DExtensionType"
    about = {"ARROW:extension:name": name, "ARROW:extension:metadata": json.dumps([list(shape), leaf])}
    return field.with_metadata(about)


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

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        name = f"{SPLIT}-{shard:05d}-of-{shards:05d}.parquet"
        target = out / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        held: list[dict[str, Any]] = []
        with pq.ParquetWriter(temporary, self.schema, compression="zstd", write_page_checksum=True) as writer:
            for number, clip in enumerate(clips):
                held.append(self._record(clip))
                if len(held) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
                    held = []
                yield ExportedClip(clip.row, {"file": f"{FOLDER}/{name}", "row": number})
            writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
        temporary.replace(target)

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        data = [{"split": SPLIT, "path": f"{FOLDER}/{SPLIT}-*.parquet"}]
        config = CardConfig(data=({"config_name": "default", "data_files": data},), files=_FILES)
        write_text(out / "README.md", card_text(corpus_facts(one.row for one in placed()), config))
        return {}

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """Frames, flow, landmarks and the mask of valid pixels; further arrays are not in the export."""
        path = inside(root, place["file"])
        record = _parquet_row(path, place["row"])
        where = f"{path}: row {place['row']}"
        if record["clip_id"] != row.clip_id:
            raise ManifestError(f"{where} is clip {record['clip_id']}; {PROVENANCE_FILE} says {row.clip_id}; {AGAIN}")
        frames = ((f"{where}, frame {i}", image["bytes"]) for i, image in enumerate(record["frames"]))
        arrays = {
            kind: (f"{where}, {kind}", _array(record[kind], dtype))
            for kind, dtype in _ARRAYS.items()
            if record[kind] is not None
        }
        if "valid" in arrays and arrays["valid"][1].all():  # flow that is valid everywhere has no mask in a corpus
            del arrays["valid"]
        return Produced(row, frames=pictures(row, frames), **stored(row, arrays))

    def _record(self, clip: SourceClip) -> dict[str, Any]:
        row, members = clip.row, clip.flow_members()
        held = {kind: npy_array(members[f"{kind}.npy"]).tolist() for kind in _ARRAYS if f"{kind}.npy" in members}
        if "flow" in held:  # a mask for every clip: readers stack them
            held.setdefault("valid", np.ones((row.height, row.width), np.bool_).tolist())
        return {name: getattr(row, name) for name in _SCALARS} | {
            "label": self.labels.index(row.label) if row.label else -1,
            "aus": list(present_codes(row)),
            "au_intensity": list(row.au_intensity),
            "au_present": list(row.au_present),
            "frames": [{"bytes": data, "path": f"{i:03d}.png"} for i, data in enumerate(clip.pngs())],
            **{kind: held.get(kind) for kind in _ARRAYS},
            "provenance": asdict(row.provenance),
        }


def _parquet_row(path: Path, number: int) -> dict[str, Any]:
    """The columns of one clip that the way back needs. Raises ManifestError where the file does not hold them."""
    try:
        changed = path.stat().st_mtime_ns
        file = _open(path, changed)
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if 0 <= number - first < size:
                return _group(path, changed, group)[number - first]
            first += size
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read ({' '.join(str(error).split())}); {AGAIN}") from None
    raise ManifestError(f"{path} has {first} rows, {PROVENANCE_FILE} names row {number} (counted from 0); {AGAIN}")


# Clips are asked for in order: the file and the row group of the last one are kept, never more.
@lru_cache(maxsize=1)
def _open(path: Path, changed: int) -> pq.ParquetFile:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    held = file.schema_arrow.names
    if missing := [name for name in _NEEDED if name not in held]:
        raise ManifestError(f"{path} has no column '{missing[0]}'; {AGAIN}")
    return file


@lru_cache(maxsize=1)
def _group(path: Path, changed: int, group: int) -> list[dict[str, Any]]:
    table = _open(path, changed).read_row_group(group, columns=list(_NEEDED), use_threads=False)
    return list(table.to_pylist())


def _array(nested: Any, kind: type[np.generic]) -> np.ndarray:
    """Lists of lists as an array; without a shape where their lengths differ, which :func:`stored` then refuses."""
    try:
        return np.array(nested, kind)
    except (TypeError, ValueError):
        return np.empty((), kind)
