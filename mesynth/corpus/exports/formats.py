"""Forms of no release: what scripts, toolkits and libraries read.

- ``frames``: plain frames and a CSV in the layout that ``mesynth prepare generic`` reads and any script can;
  ``previews``: moving pictures for people, every clip as an MP4 (or WebM, GIF, APNG), slowed to 25 frames a second.
- ``meb``: the data frame of MEB (Varanka et al., micro-expression benchmark): one table, frames by subject and
  material, and one array of flow whose rows are the table's. Its validation asks that a clip's folder holds the frames
  from onset to offset and nothing else, each file name with one number, and ``n_frames`` of them; that flow is
  [N,3,64,64]: u, v and strain, each stretched to 0..1.
- ``flow-npy``: a ``.npy`` [2,H,W] float32 a clip (pixels, onset to apex, x right, y down) and a table.
- ``webdataset``: shards with everything of a clip in one sample. ``clips-000012.tar`` holds ``00000307.000.png`` ...,
  ``.flow.npy``, ``.landmarks.npy``, ``.valid.npy``, ``.cls`` (only of clips with a class) and ``.json``. The folder is
  a mesynth corpus as well: its manifest points into the shards.
- ``huggingface``: Parquet as the ``datasets`` library reads it: images as images, classes by name, flow as an array.
  The schema carries the library's own description of its columns under the key ``huggingface``; without it pictures
  would come back as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ManifestError
from mesynth.core.types import flow_planes
from mesynth.corpus.card import CardConfig, card_text, corpus_facts
from mesynth.corpus.exports.form import (
    AGAIN,
    AUS,
    EMOTION,
    FLOW,
    FRAMES,
    PROVENANCE_FILE,
    CellValue,
    ExportedClip,
    ExportedClips,
    Form,
    NamedForm,
    Options,
    SourceClip,
    array,
    au_cell,
    file_bytes,
    inside,
    numbers_of,
    picture_files,
    pictures,
    present_codes,
    record_of,
    safe,
    stored,
    with_files,
    write_csv,
)
from mesynth.corpus.previews import PREVIEW_FPS, VIDEOS, suffix_of, video_bytes
from mesynth.datasets.generic import CSV_NAME
from mesynth.store.manifest import SCHEMA, Manifest, Row, Span
from mesynth.store.run_folder import temporary_beside, write_bytes, write_text
from mesynth.store.shards import MASKS, ShardWriter, npy_array, npy_bytes, read_span
from mesynth.store.stage import Produced, journal

# ---------------------------------------------------------------- frames, and moving pictures


FRAMES_FOLDER = "frames"
_FRAMES_HEADER = (
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
            folder = f"{FRAMES_FOLDER}/{person}/{name}"
            numbers = numbers_of(clip.row)
            files = _frame_files(folder, numbers.each())
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
        files = _frame_files(place["video"], range(place["onset"], place["offset"] + 1))
        return Produced(row, frames=picture_files(root, row, files))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        write_csv(out / CSV_NAME, _FRAMES_HEADER, (_frame_line(one) for one in placed()))
        return {}


def _frame_files(folder: str, numbers: range) -> list[str]:
    return [f"{folder}/{number:06d}.png" for number in numbers]


def _frame_line(one: ExportedClip) -> tuple[CellValue, ...]:
    row, place = one.row, one.place
    return (
        place["video"], place["subject"], place["onset"], place["apex"], place["offset"], place["aus"], row.emotion,
        f"{row.fps:g}", place["clip"], row.expression, row.label, safe(row.database), row.provenance.licence,
    )  # fmt: skip


# ------------------------------------------------------------------- previews


PREVIEW_FOLDER, PREVIEW_INDEX = "previews", "index.csv"


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
        write_csv(out / PREVIEW_INDEX, header, rows)
        return {"shown at fps": PREVIEW_FPS}


# ---------------------------------------------------------------- MEB


MEB_TABLE, MEB_FLOWS = "data_frame.csv", "optical_flow.npy"
MEB_SIZE = 64


class MebForm(NamedForm):
    """``data_frame.csv``, ``frames/<subject>/<material>/<number>.png`` and ``optical_flow.npy``."""

    name = "meb"
    needs = (FRAMES, FLOW, AUS, EMOTION)
    accepts = ("size",)
    readable = True

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.size = options.size or MEB_SIZE

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        flows = []
        for clip in clips:
            person, name = self.names(clip)
            numbers = numbers_of(clip.row)
            files = _meb_files(person, name, numbers.each())
            for file, data in zip(files, clip.pngs(), strict=True):
                write_bytes(out / file, data)
            flows.append(np.stack([_unit(plane) for plane in flow_planes(clip.flow(), self.size)]))
            place: dict[str, str | int] = {
                "subject": person, "material": name, "onset": numbers.onset,
                "apex": numbers.onset + clip.row.apex_index, "offset": numbers.offset, "aus": au_cell(clip.row),
            }  # fmt: skip
            yield ExportedClip(with_files(clip.row, files), place)
        held = np.array(flows, np.float32).reshape(-1, 3, self.size, self.size)
        write_bytes(_flow_part(out, shard), npy_bytes(held))

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        """Frames alone: the array of flow is stretched and shrunk, and says nothing of pixels any more."""
        files = _meb_files(place["subject"], place["material"], range(place["onset"], place["offset"] + 1))
        return Produced(row, frames=picture_files(root, row, files))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        codes = sorted({code for one in placed() for code in present_codes(one.row)})
        header = (
            "", "subject", "material", "onset", "apex", "apexf", "offset", "AU", "emotion", "n_frames", "dataset",
            *(f"AU{code}" for code in codes),
        )  # fmt: skip
        write_csv(out / MEB_TABLE, header, (_meb_line(i, one, codes) for i, one in enumerate(placed())))
        self._join(sorted(journal(out, 0).parents[1].glob("*/flow.npy")), out / MEB_FLOWS)
        return {"AUs": len(codes)}

    def _join(self, parts: list[Path], target: Path) -> None:
        """The arrays of all shards as one; a shard's is held at a time (a memory map would count as memory)."""
        clips = sum(len(np.load(part, mmap_mode="r")) for part in parts)
        temporary = temporary_beside(target)
        with open(temporary, "wb") as file:
            shape = (clips, 3, self.size, self.size)
            header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.load(part).tobytes())
        temporary.replace(target)


def _meb_files(person: str, material: str, numbers: range) -> list[str]:
    return [f"{FRAMES_FOLDER}/{person}/{material}/{number:05d}.png" for number in numbers]


def _flow_part(out: Path, shard: int) -> Path:
    """Beside the shard's journal, which is written after it."""
    return journal(out, shard).parent / "flow.npy"


def _unit(plane: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 1; a flat plane is 0."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def _meb_line(index: int, one: ExportedClip, codes: list[int]) -> tuple[CellValue, ...]:
    row, place = one.row, one.place
    present = set(present_codes(row))
    return (
        index, place["subject"], place["material"], place["onset"], place["apex"], row.apex_index, place["offset"],
        place["aus"], row.emotion, row.n_frames, row.database, *(int(code in present) for code in codes),
    )  # fmt: skip


# ---------------------------------------------------------------- arrays of flow


FLOW_FOLDER, FLOW_INDEX = "flow", "index.csv"
_BESIDE_FLOW = ("landmarks.npy", *MASKS)
_FLOW_KINDS = tuple(name.removesuffix(".npy") for name in _BESIDE_FLOW)


class FlowNpyForm(NamedForm):
    """``flow/<subject>/<clip>.npy``; landmarks and masks (valid, new, still) beside it where the corpus has them."""

    name = "flow-npy"
    needs = (FLOW,)
    accepts = ("frame",)

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[SourceClip]) -> Iterator[ExportedClip]:
        for clip in clips:
            person, name = self.names(clip)
            members = clip.flow_members()
            place: dict[str, str | int] = {
                "subject": person,
                "clip": name,
                "file": f"{FLOW_FOLDER}/{person}/{name}.npy",
            }
            write_bytes(out / str(place["file"]), members["flow.npy"])
            for member in _BESIDE_FLOW:
                if member in members:
                    kind = member.removesuffix(".npy")
                    place[kind] = f"{kind}/{person}/{name}.npy"
                    write_bytes(out / str(place[kind]), members[member])
            yield ExportedClip(clip.row, place)

    @staticmethod
    def back(root: Path, row: Row, place: dict[str, Any]) -> Produced:
        files = {"flow": place["file"]} | {kind: place[kind] for kind in _FLOW_KINDS if kind in place}
        arrays = {
            kind: (str(root / file), array(file_bytes(root, file), str(root / file))) for kind, file in files.items()
        }
        return Produced(row, **stored(row, arrays))

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        header = (
            "file", *_FLOW_KINDS, "clip_id", "database", "subject", "clip", "label", "emotion", "aus", "height",
            "width", "fps",
        )  # fmt: skip
        rows = (
            (
                o.place["file"], *(o.place.get(kind, "") for kind in _FLOW_KINDS), o.row.clip_id, o.row.database,
                o.row.subject, o.row.clip, o.row.label, o.row.emotion, au_cell(o.row, letters=True), o.row.height,
                o.row.width, o.row.fps,
            )
            for o in placed()
        )  # fmt: skip
        write_csv(out / FLOW_INDEX, header, rows)
        return {}


# ---------------------------------------------------------------- WebDataset


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


# ---------------------------------------------------------------- Parquet of the datasets library


PARQUET_FOLDER, PARQUET_SPLIT = "data", "train"
_PARQUET_FILES = (
    f"Files: `{PARQUET_FOLDER}/{PARQUET_SPLIT}-*.parquet` (a row a clip), `provenance.jsonl` (names, exact action "
    "units, provenance), `left_out.csv` (clips of the corpus that are not here, and why)."
)
_PARQUET_ARRAYS: dict[str, type[np.generic]] = {"flow": np.float32, "landmarks": np.float32, "valid": np.bool_}
_PARQUET_ROWS = 8  # clips a row group: what a reader holds at once
_PARQUET_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PARQUET_NEEDED = ("clip_id", "frames", *_PARQUET_ARRAYS)  # what the way back reads; the rest is in provenance.jsonl
_PARQUET_SCALARS = (
    "clip_id", "database", "subject", "clip", "onset", "apex", "offset", "apex_index", "n_frames", "fps", "height",
    "width", "expression", "emotion", "objective_class", "au_text",
)  # fmt: skip


def schema(height: int, width: int, labels: Sequence[str] = CLASSES_3) -> pa.Schema:
    """Columns of the export, with their features. ``height`` and ``width`` of all flows, 0 where they differ."""
    fields = [(name, SCHEMA.field(name).type) for name in _PARQUET_SCALARS]
    fields += [
        ("label", pa.int64()), ("aus", pa.list_(pa.int32())), ("au_intensity", pa.list_(pa.float32())),
        ("au_present", pa.list_(pa.int8())), ("frames", pa.list_(_PARQUET_IMAGE)),
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
        name = f"{PARQUET_SPLIT}-{shard:05d}-of-{shards:05d}.parquet"
        target = out / PARQUET_FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        held: list[dict[str, Any]] = []
        with pq.ParquetWriter(temporary, self.schema, compression="zstd", write_page_checksum=True) as writer:
            for number, clip in enumerate(clips):
                held.append(self._record(clip))
                if len(held) == _PARQUET_ROWS:
                    writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
                    held = []
                yield ExportedClip(clip.row, {"file": f"{PARQUET_FOLDER}/{name}", "row": number})
            writer.write_table(pa.Table.from_pylist(held, schema=self.schema))
        temporary.replace(target)

    def finish(self, out: Path, placed: ExportedClips) -> dict[str, object]:
        data = [{"split": PARQUET_SPLIT, "path": f"{PARQUET_FOLDER}/{PARQUET_SPLIT}-*.parquet"}]
        config = CardConfig(data=({"config_name": "default", "data_files": data},), files=_PARQUET_FILES)
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
            kind: (f"{where}, {kind}", _parquet_array(record[kind], dtype))
            for kind, dtype in _PARQUET_ARRAYS.items()
            if record[kind] is not None
        }
        if "valid" in arrays and arrays["valid"][1].all():  # flow that is valid everywhere has no mask in a corpus
            del arrays["valid"]
        return Produced(row, frames=pictures(row, frames), **stored(row, arrays))

    def _record(self, clip: SourceClip) -> dict[str, Any]:
        row, members = clip.row, clip.flow_members()
        held = {
            kind: npy_array(members[f"{kind}.npy"]).tolist() for kind in _PARQUET_ARRAYS if f"{kind}.npy" in members
        }
        if "flow" in held:  # a mask for every clip: readers stack them
            held.setdefault("valid", np.ones((row.height, row.width), np.bool_).tolist())
        return {name: getattr(row, name) for name in _PARQUET_SCALARS} | {
            "label": self.labels.index(row.label) if row.label else -1,
            "aus": list(present_codes(row)),
            "au_intensity": list(row.au_intensity),
            "au_present": list(row.au_present),
            "frames": [{"bytes": data, "path": f"{i:03d}.png"} for i, data in enumerate(clip.pngs())],
            **{kind: held.get(kind) for kind in _PARQUET_ARRAYS},
            "provenance": asdict(row.provenance),
        }


def _parquet_row(path: Path, number: int) -> dict[str, Any]:
    """The columns of one clip that the way back needs. Raises ManifestError where the file does not hold them."""
    try:
        changed = path.stat().st_mtime_ns
        file = _parquet_file(path, changed)
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if 0 <= number - first < size:
                return _parquet_group(path, changed, group)[number - first]
            first += size
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read ({' '.join(str(error).split())}); {AGAIN}") from None
    raise ManifestError(f"{path} has {first} rows, {PROVENANCE_FILE} names row {number} (counted from 0); {AGAIN}")


# Clips are asked for in order: the file and the row group of the last one are kept, never more.
@lru_cache(maxsize=1)
def _parquet_file(path: Path, changed: int) -> pq.ParquetFile:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    held = file.schema_arrow.names
    if missing := [name for name in _PARQUET_NEEDED if name not in held]:
        raise ManifestError(f"{path} has no column '{missing[0]}'; {AGAIN}")
    return file


@lru_cache(maxsize=1)
def _parquet_group(path: Path, changed: int, group: int) -> list[dict[str, Any]]:
    table = _parquet_file(path, changed).read_row_group(group, columns=list(_PARQUET_NEEDED), use_threads=False)
    return list(table.to_pylist())


def _parquet_array(nested: Any, kind: type[np.generic]) -> np.ndarray:
    """Lists of lists as an array; without a shape where their lengths differ, which :func:`stored` then refuses."""
    try:
        return np.array(nested, kind)
    except (TypeError, ValueError):
        return np.empty((), kind)
