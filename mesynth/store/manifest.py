"""The manifest: one row per clip, with its annotation, where its arrays lie, and where it came from.

Every stage reads a manifest and writes a new one into a new folder. A manifest is a pyarrow table
(``manifest.parquet``) beside its tar shards; paths in it are relative to the folder it lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from itertools import pairwise
from json.encoder import encode_basestring_ascii as write_string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mesynth.core import emotions
from mesynth.core.errors import ConfigError, ManifestError, first_line
from mesynth.core.framing import KnownFraming
from mesynth.core.types import N_AUS, AUVector
from mesynth.store import digests
from mesynth.store.remote import is_remote, place
from mesynth.store.run_folder import temporary_beside

KINDS = ("real", "rendered", "synthetic")
EXPRESSIONS = ("micro", "macro")
EARLY = "early part"
"""How a warning of a clip begins that ends before its annotated apex: of the frames up to ``apex_index`` alone."""
FILE_NAME = "manifest.parquet"


@dataclass(frozen=True)
class Span:
    """Where one clip's files lie inside a tar shard: byte range and sha256 of that range."""

    shard: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a clip came from. ``subjects_seen`` is what leak safety rests on.

    It lists, as ``database/subject``, every subject whose frames or labels took part in making the
    clip: the face it shows, the subjects its generator learned from, those whose labels its AUs were taken from or
    fitted to.
    """

    kind: str
    database: str
    subject: str
    licence: str
    subjects_seen: tuple[str, ...]
    parents: tuple[str, ...] = ()
    """sha256 of the inputs (photo, source clip)."""
    generator: str = ""
    weights_sha256: str = ""
    plan_row: int = -1
    seed: int = -1
    aus_asked: str = ""
    aus_source: str = ""
    profile: str = ""
    code_version: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ManifestError(f"provenance kind '{self.kind}' is unknown; choose from {', '.join(KINDS)}")
        if not self.licence:
            raise ManifestError("provenance needs a licence; write 'unknown' if it is")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip. ``onset``, ``apex``, ``offset`` are frame numbers as annotated; ``apex_index`` counts
    from 0 in the stored frames. AU arrays are flattened [K*2], rows of facs.AU_CODES, sides (L, R)."""

    clip_id: str
    database: str
    subject: str
    clip: str
    onset: int
    apex: int | None
    offset: int
    fps: float
    n_frames: int
    apex_index: int
    height: int
    width: int
    expression: str = "micro"
    """"micro" or "macro"."""
    emotion: str = ""
    """The database's own word, in lower case."""
    label: str = ""
    """Class of the composite (negative, positive, surprise), or empty."""
    objective_class: str = ""
    au_text: str = ""
    au_intensity: tuple[float, ...] = (0.0,) * (N_AUS * 2)
    au_known: tuple[bool, ...] = (False,) * (N_AUS * 2)
    au_present: tuple[int, ...] = (-1,) * (N_AUS * 2)
    frame_files: tuple[str, ...] = ()
    frames: Span | None = None
    flow: Span | None = None
    warnings: tuple[str, ...] = ()
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.expression not in EXPRESSIONS:
            raise ManifestError(f"expression '{self.expression}' is unknown; choose from {', '.join(EXPRESSIONS)}")

    @property
    def subject_key(self) -> str:
        """``database/subject``: subject 01 of CASME and of CASME II are different people."""
        return f"{self.database}/{self.subject}"

    @property
    def aus(self) -> AUVector:
        """The AU intensities as [K,2]. Raises ManifestError when the row's are out of shape or range."""
        try:
            return AUVector(
                np.array(self.au_intensity, np.float32).reshape(N_AUS, 2),
                np.array(self.au_known, np.bool_).reshape(N_AUS, 2),
            )
        except ValueError as error:
            raise ManifestError(f"the AUs of clip {self.clip_id} are damaged ({error}); make it anew") from None

    @staticmethod
    def au_columns(vector: AUVector, present: np.ndarray | None = None) -> dict[str, Any]:
        """The three AU columns of a row, from a vector and an optional [K,2] presence.

        An AU that is lowered is neither present nor absent: the onset showed it, and the apex may still.
        """
        if present is None:
            told = vector.mask & (vector.intensity >= 0)
            present = np.where(told, (vector.intensity > 0).astype(np.int8), -1)
        return {
            "au_intensity": tuple(vector.intensity.ravel().tolist()),
            "au_known": tuple(vector.mask.ravel().tolist()),
            "au_present": tuple(np.asarray(present).astype(int).ravel().tolist()),
        }


_SPAN = pa.struct([("shard", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("sha256", pa.string())])
_STRINGS = pa.list_(pa.string())
_PROVENANCE = pa.struct(
    [
        ("kind", pa.string()), ("database", pa.string()), ("subject", pa.string()), ("licence", pa.string()),
        ("subjects_seen", _STRINGS), ("parents", _STRINGS), ("generator", pa.string()),
        ("weights_sha256", pa.string()), ("plan_row", pa.int64()), ("seed", pa.int64()),
        ("aus_asked", pa.string()), ("aus_source", pa.string()), ("profile", pa.string()),
        ("code_version", pa.string()),
    ]
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()), ("database", pa.string()), ("subject", pa.string()), ("clip", pa.string()),
        ("onset", pa.int64()), ("apex", pa.int64()), ("offset", pa.int64()), ("fps", pa.float64()),
        ("n_frames", pa.int32()), ("apex_index", pa.int32()), ("height", pa.int32()), ("width", pa.int32()),
        ("expression", pa.string()), ("emotion", pa.string()), ("label", pa.string()), ("objective_class", pa.string()),
        ("au_text", pa.string()), ("au_intensity", pa.list_(pa.float32())), ("au_known", pa.list_(pa.bool_())),
        ("au_present", pa.list_(pa.int8())), ("frame_files", _STRINGS), ("frames", _SPAN), ("flow", _SPAN),
        ("warnings", _STRINGS), ("provenance", _PROVENANCE),
    ]
)  # fmt: skip
assert SCHEMA.names == [f.name for f in fields(Row)]
assert [f.name for f in _PROVENANCE] == [f.name for f in fields(Provenance)]


class NoManifest(ManifestError):
    """There is no manifest where one was looked for. What lies near is looked for when somebody reads the message."""

    _NEAR = "mesynth.datasets.registry:corpus_near"
    """A room above this one: it knows what else a folder may be."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.path = place(path)

    def __str__(self) -> str:
        module, _, function = self._NEAR.partition(":")
        try:
            near = "" if is_remote(self.path) else getattr(import_module(module), function)(self.path)
        except OSError:  # a message says what is missing, whatever lies near
            near = ""
        way = near or "give a folder written by prepare, render or generate"
        return f"no {FILE_NAME} in {self.path}; {way}"


@dataclass(frozen=True)
class Manifest:
    """A table of rows, one a clip (:class:`Row`), and the folder its paths are relative to.

    ``len(manifest)``, iteration, ``manifest.column("label")`` [N], ``manifest.filter(mask)``. Raises ManifestError for
    a table of other columns.

    >>> import mesynth, tempfile
    >>> corpus = mesynth.generate(kind="flow", emotion=["surprise", "negative"], count=4, out=tempfile.mkdtemp() + "/c")
    >>> len(corpus), len(corpus.filter(corpus.column("label") == "surprise"))
    (4, 2)
    """

    table: pa.Table
    root: Path
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.table.schema.remove_metadata() != SCHEMA:
            missing = [n for n in SCHEMA.names if n not in self.table.schema.names]
            what = f"lacks the columns {', '.join(missing)}" if missing else "has columns of other types"
            raise ManifestError(f"the manifest in {self.root} {what}; make it anew with `mesynth prepare`")

    # ---------------------------------------------------------------- make, read, write

    @classmethod
    def from_rows(cls, rows: Sequence[Row], root: Path) -> Manifest:
        """Raises ManifestError when two rows share a clip_id, or a number is beyond its column (frames: 64 bits)."""
        ids = [row.clip_id for row in rows]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ManifestError(f"clip '{twice}' occurs twice; a clip's key is database/subject/clip/onset")
        try:
            table = pa.Table.from_pylist([_record(row) for row in rows], schema=SCHEMA)
        except (OverflowError, pa.ArrowInvalid) as error:
            reason = " ".join(str(error).split())
            raise ManifestError(f"a value of a clip is too large for a manifest ({reason}); correct it") from None
        return cls(table, Path(root))

    @classmethod
    def read(cls, path: Path | str, *, checked: bool = True) -> Manifest:
        """Read ``path`` (a folder that holds manifest.parquet, or the file itself; also an address, ``s3://...``).

        It is held against the folder's digest list, with the run, the plan and the lists of clips beside it; the bulk
        (shards, frames) when a clip is read, or by `mesynth verify`. ``checked=False``: not, where all is listed.

        Raises:
            ManifestError: there is none, or it cannot be read.
            DigestError: one of them is not the file that was written, or the list is damaged or gone.
        """
        path = place(path)
        file = path / FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise NoManifest(path)
        if checked and file.name == FILE_NAME:
            digests.check(file.parent, [FILE_NAME], beside=_TRUSTED, promised=says_sealed(file))
        try:
            # Not pq.read_table, which imports pyarrow.dataset: that takes longer than reading.
            with pq.ParquetFile(_source(file), page_checksum_verification=True) as stored:
                table = stored.read()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
            reason = first_line(error)
            raise ManifestError(f"{file} cannot be read ({reason}); make it anew") from None
        raw = table.schema.metadata or {}
        meta = {
            k.decode("utf-8", "replace"): v.decode("utf-8", "replace")
            for k, v in raw.items()
            if k.startswith(b"mesynth.") and k != _SEALED
        }
        manifest = cls(_widened(table.replace_schema_metadata(None)), file.parent, meta)
        if wrong := _damaged_column(manifest.table):
            raise ManifestError(f"{file} is damaged: {wrong}; make it anew")
        return manifest

    def write(self, folder: Path | str) -> Path:
        """Write manifest.parquet into ``folder`` (temporary name, then rename), list it there; return the file."""
        return write_tables(folder, lambda: [self.table], self.meta)

    # ---------------------------------------------------------------- look

    @property
    def framing(self) -> KnownFraming | None:
        """Where faces lie in these clips, as recorded; None where it is not. Raises ManifestError for a damaged record.

        >>> import mesynth, tempfile
        >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=2, out=tempfile.mkdtemp() + "/c")
        >>> corpus.framing.text()
        'eyes=0.4,height=0.4,row=0.35,column=0.5'
        """
        text = self.meta.get(FRAMING)
        try:
            return None if text is None else KnownFraming.of_json(text)
        except ConfigError as error:
            raise ManifestError(f"the framing recorded in {self.root} is damaged ({error}); make it anew") from None

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Row]:
        """Rows one batch at a time, so that a corpus of any size is walked in flat memory."""
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from map(_row, batch.to_pylist())

    def row(self, index: int) -> Row:
        """Row ``index`` (negative counts from the end)."""
        index = range(len(self))[index]
        return _row(self.table.slice(index, 1).to_pylist()[0])

    def __getitem__(self, part: slice) -> Manifest:
        """The rows of a slice, copied: what is sent to another process is the part, not the whole."""
        table = self.table.take(pa.array(range(len(self))[part], pa.int64()))
        return Manifest(table, self.root, self.meta)

    def column(self, name: str) -> np.ndarray:
        """One scalar column as numpy; nested ones with a dot: ``provenance.kind``."""
        array: Any = self.table
        head, *rest = name.split(".")
        if head not in array.schema.names:
            raise ManifestError(f"the manifest has no column '{head}'; it has {', '.join(array.schema.names)}")
        array = array[head]
        for part in rest:
            array = pc.struct_field(array, part)
        return np.asarray(array.to_numpy(zero_copy_only=False))

    def subject_keys(self) -> np.ndarray:
        """[N] of ``database/subject``."""
        joined = pc.binary_join_element_wise(self.table["database"], self.table["subject"], "/")
        return np.asarray(joined.to_numpy(zero_copy_only=False))

    def labels(self, scheme: str = "3") -> np.ndarray:
        """[N] class of each clip in a scheme of :mod:`mesynth.core.emotions`, or "objective"; "" where it has none.

        Scheme "3" is the column ``label``, which a loader may have decided by a rule of its own.
        """
        if scheme in {"3", "objective"}:
            return self.column("label" if scheme == "3" else "objective_class").astype(str)
        pairs = zip(self.column("emotion"), self.column("database"), strict=True)
        return np.array([emotions.label(emotion, scheme, database) for emotion, database in pairs], dtype=str)

    def subjects_seen(self) -> list[tuple[str, ...]]:
        """Per row, the subjects that took part in making the clip."""
        column = pc.struct_field(self.table["provenance"], "subjects_seen")
        return [tuple(v or ()) for v in column.to_pylist()]

    def saw(self, subjects: Collection[str]) -> np.ndarray:
        """[N] bool: the clip shows, or was made with the help of, one of ``subjects`` (``database/subject``).

        >>> import mesynth, tempfile
        >>> corpus = mesynth.generate(kind="flow", emotion="surprise", count=4, out=tempfile.mkdtemp() + "/c")
        >>> bool(corpus.saw(corpus.subject_keys()[:1]).any()), bool(corpus.saw(["casme2/01"]).any())
        (True, False)
        """
        sets, which = self.subject_sets()
        return met(subjects, self.subject_keys(), sets, which)

    def subject_sets(self) -> tuple[list[frozenset[str]], np.ndarray]:
        """The different sets of subjects seen and each clip's place among them [N]: a corpus repeats a few."""
        column = pc.struct_field(self.table["provenance"], "subjects_seen")
        places: dict[str, int] = {}
        which = np.empty(len(self), np.int64)
        done = 0
        for chunk in column.chunks:
            for first in range(0, len(chunk), 4096):
                joined = pc.binary_join(chunk.slice(first, 4096).fill_null([]), "\n").dictionary_encode()
                place = [places.setdefault(text, len(places)) for text in joined.dictionary.to_pylist()]
                codes = joined.indices.to_numpy()
                which[done : done + len(codes)] = np.array(place, np.int64)[codes]
                done += len(codes)
        return [frozenset(text.split("\n")) if text else frozenset() for text in places], which

    def hash(self) -> str:
        """sha256 over all rows: equal content, equal hash, wherever the folder lies."""
        return _hash([self.table])

    # ---------------------------------------------------------------- combine

    def filter(self, keep: np.ndarray) -> Manifest:
        """The rows where the boolean mask ``keep`` [N] is True."""
        keep = np.asarray(keep)
        if keep.dtype != np.bool_ or keep.shape != (len(self),):
            raise ManifestError(f"filter mask is {keep.dtype} {keep.shape}; expected bool ({len(self)},)")
        return Manifest(self.table.filter(pa.array(keep)), self.root, self.meta)

    @staticmethod
    def join(manifests: Sequence[Manifest], root: Path | str) -> Manifest:
        """All rows under one root; shard paths are rewritten relative to it. Clip ids must differ."""
        root = Path(root)
        rows = []
        for manifest in manifests:
            if is_remote(manifest.root) != is_remote(root):
                raise ManifestError(
                    f"{manifest.root} and {root} do not lie together, and a manifest names its shards from its own "
                    "place; copy the corpus to where the result goes"
                )
            prefix = os.path.relpath(manifest.root, root)
            rows += [_rebased(row, prefix) for row in manifest]
        recorded = {manifest.meta.get(FRAMING) for manifest in manifests}
        return replace(Manifest.from_rows(rows, root), meta=framing_meta(*recorded) if len(recorded) == 1 else {})


def met(subjects: Collection[str], shown: np.ndarray, sets: Sequence[frozenset[str]], which: np.ndarray) -> np.ndarray:
    """[N] bool, the one rule of leak safety: a clip meets ``subjects`` when it shows one of them, or when one of them
    took part in making it. ``shown`` [N]: whom it shows; ``sets[which[i]]``: who took part.

    >>> met({"db/a"}, np.array(["db/a", "db/b", "db/b"]), [frozenset(), frozenset({"db/a"})], np.array([0, 0, 1]))
    array([ True, False,  True])
    """
    held_out = frozenset(subjects)
    own = np.isin(shown.astype(str), np.array(sorted(held_out), str))
    seen = np.array([not held_out.isdisjoint(one) for one in sets], np.bool_)
    return np.asarray(own | seen[which]) if len(shown) else own


FRAMING = "mesynth.framing"
"""Key of :meth:`Manifest.framing` in a manifest's metadata."""


def framing_meta(known: KnownFraming | str | None) -> dict[str, str]:
    """A manifest's metadata that record ``known``; empty for None."""
    if known is None:
        return {}
    return {FRAMING: known if isinstance(known, str) else known.to_json()}


GROUP_ROWS = 16384
"""Rows a row group of the file: what :func:`write_tables` holds in memory."""


_TRUSTED = ("run.yaml", "plan.jsonl", "skipped.csv", "rejected.csv")
_SEALED = b"mesynth." + digests.KEY.encode()


def _source(file: Path) -> Any:
    """As pyarrow takes it."""
    return pa.BufferReader(file.read_bytes()) if is_remote(file) else file


def says_sealed(file: Path) -> bool:
    """Whether a manifest's metadata say that the list of its digests lies beside it; False where it cannot be read."""
    try:
        return (pq.read_schema(_source(file)).metadata or {}).get(_SEALED) == digests.LIST.encode()
    except (pa.ArrowException, OSError, ValueError):
        return False


def stated(folder: Path) -> tuple[int, str]:
    """(clips, hash) of the manifest in ``folder``, as its file states them; no row is read.

    Raises:
        ManifestError: there is none, it cannot be read, or it is not the one that was written.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise NoManifest(folder)
    digests.check(folder, [FILE_NAME], promised=says_sealed(file))
    try:
        found = pq.read_metadata(file)
        return found.num_rows, (found.metadata or {}).get(b"mesynth.hash", b"").decode()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{file} cannot be read ({' '.join(str(error).split())}); make it anew") from None


def write_tables(
    folder: Path | str,
    tables: Callable[[], Iterable[pa.Table]],
    meta: dict[str, str],
    *,
    finishes: Collection[str] | None = None,
) -> Path:
    """Write the rows of several tables as one manifest.parquet (temporary name, then rename); return the file.

    The folder's digest list has it before it has its name. ``finishes``: with it the folder is finished, all of whose
    files but those of these names are listed then.

    ``tables`` is called twice (the file begins with the hash of all rows) and may read each table when its turn comes:
    memory is that of a row group. The bytes depend on the rows alone, not on how they are cut into tables.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / FILE_NAME
    temporary = temporary_beside(target)
    schema = SCHEMA.with_metadata(meta | {"mesynth.hash": _hash(tables()), _SEALED.decode(): digests.LIST})
    with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(tables()):
            writer.write_table(group)
    ahead = {FILE_NAME: digests.file_sha256(temporary)}
    if finishes is None:
        digests.enter(folder, ahead)
    else:
        digests.seal(folder, ahead=ahead, without=finishes)
    os.replace(temporary, target)
    return target


def _hash(tables: Iterable[pa.Table]) -> str:
    """sha256 of the rows, each as ``json.dumps(row, sort_keys=True)`` writes it; by columns, in a third of the time."""
    digest = hashlib.sha256()
    for table in tables:
        for batch in table.to_batches(max_chunksize=1024):
            digest.update("".join(_json_texts(batch.to_struct_array())).encode())
    return digest.hexdigest()


def _json_texts(values: pa.Array) -> list[str]:
    """Each value as ``json.dumps(value.as_py(), sort_keys=True)`` writes it."""
    kind = values.type
    if pa.types.is_struct(kind):
        fields = sorted(zip((part.name for part in kind), values.flatten(), strict=True))
        columns = [_json_texts(part) for _, part in fields]
        pattern = ", ".join(f"{json.dumps(name)}: ".replace("%", "%%") + "%s" for name, _ in fields)
        texts = [f"{{{pattern}}}" % row for row in zip(*columns, strict=True)] if columns else ["{}"] * len(values)
    elif pa.types.is_list(kind):
        texts = _json_lists(values)
    elif pa.types.is_string(kind):
        texts = [write_string(value or "") for value in values.to_pylist()]
    elif pa.types.is_boolean(kind):
        texts = ["true" if value else "false" for value in values.to_pylist()]
    elif pa.types.is_integer(kind):
        texts = list(map(repr, values.to_pylist()))
    else:  # floats, of which JSON writes NaN and Infinity in its own way
        texts = [json.dumps(value, sort_keys=True) for value in values.to_pylist()]
    if values.null_count:
        texts = [text if there else "null" for text, there in zip(texts, values.is_valid().to_pylist(), strict=True)]
    return texts


def _json_lists(values: pa.Array) -> list[str]:
    bounds = values.offsets.to_numpy()  # those of a slice, into the entries of the whole
    first, last = int(bounds[0]), int(bounds[-1])
    entries = values.values.slice(first, last - first)
    places = (bounds - first).tolist()
    if pa.types.is_string(entries.type) or entries.null_count:
        texts = _json_texts(entries)
        return [f"[{', '.join(texts[a:b])}]" for a, b in pairwise(places)]
    # Numbers: most lists occur again, and most entries of the others; by their bits, as 0.0 == -0.0.
    numbers = entries.to_numpy(zero_copy_only=False)
    bits = numbers.view(f"u{numbers.itemsize}") if numbers.dtype.kind == "f" else numbers
    known: dict[bytes, str] = {}
    written: dict[int, str] = {}
    texts = []
    for a, b in pairwise(places):
        key = bits[a:b].tobytes()
        text = known.get(key)
        if text is None:
            own = bits[a:b].tolist()
            for bit, value in zip(own, numbers[a:b].tolist(), strict=True):
                if bit not in written:
                    written[bit] = json.dumps(value)
            text = known[key] = f"[{', '.join([written[bit] for bit in own])}]"
        texts.append(text)
    return texts


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows cut anew into tables of GROUP_ROWS in one piece, the last one shorter (or, of no rows, empty)."""
    waiting = SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table.cast(SCHEMA)])
        while len(waiting) > GROUP_ROWS:
            yield waiting.slice(0, GROUP_ROWS).combine_chunks()
            waiting = waiting.slice(GROUP_ROWS)
    yield waiting.combine_chunks()


def _widened(table: pa.Table) -> pa.Table:
    """Frame numbers of manifests of 0.1, which had 32 bits, in 64."""
    for name in ("onset", "apex", "offset"):
        if name in table.schema.names and table.schema.field(name).type == pa.int32():
            index = table.schema.get_field_index(name)
            table = table.set_column(index, SCHEMA.field(name), table[name].cast(pa.int64()))
    return table


def _damaged_column(table: pa.Table) -> str:
    """What no writer of ours leaves in a table: a blank cell or entry; empty if there is none."""
    for name in SCHEMA.names:
        column = table[name]
        parts = {name: column}
        if pa.types.is_struct(column.type):
            given = column.filter(column.is_valid())
            parts = {name: column} | {f"{name}.{f.name}": pc.struct_field(given, f.name) for f in column.type}
        for part, values in parts.items():
            if part not in _MAY_BE_BLANK and values.null_count:
                return f"a blank cell in '{part}'"
            if pa.types.is_list(values.type) and pc.list_flatten(values).null_count:
                return f"a blank entry in '{part}'"
    return ""


_MAY_BE_BLANK = frozenset({"apex", "frames", "flow"})


def _rebased(row: Row, prefix: str) -> Row:
    def move(span: Span | None) -> Span | None:
        return span and Span(os.path.join(prefix, span.shard), span.offset, span.size, span.sha256)

    values = {f.name: getattr(row, f.name) for f in fields(Row)}
    values |= {
        "frames": move(row.frames),
        "flow": move(row.flow),
        "frame_files": tuple(os.path.join(prefix, f) for f in row.frame_files),
    }
    return Row(**values)


def _record(row: Row) -> dict[str, Any]:
    """A row as the table takes it. Not asdict(), which copies every AU: that took longer than drawing a flow image."""
    nested = {name: part and vars(part) for name, part in vars(row).items() if name in ("provenance", "frames", "flow")}
    return vars(row) | nested


def _row(record: dict[str, Any]) -> Row:
    provenance: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["provenance"].items()}
    spans: dict[str, Any] = {name: Span(**record[name]) if record[name] else None for name in ("frames", "flow")}
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    return Row(**(plain | spans | {"provenance": Provenance(**provenance)}))


# ---------------------------------------------------------------- who is held out


def held_out(subjects: str | Collection[str]) -> frozenset[str]:
    """``exclude_subjects`` as given. Raises ConfigError for one that is no ``database/subject``."""
    given = (subjects,) if isinstance(subjects, str) else tuple(map(str, subjects))
    for name in given:
        database, slash, person = name.partition("/")
        if not (database and slash and person):
            raise ConfigError(f"exclude_subjects: '{name}' is no subject; write database/subject, such as casme2/sub01")
    return frozenset(given)


def _plain(subject: str) -> tuple[str, str]:
    """What two spellings of one subject have in common."""
    database, _, person = subject.casefold().partition("/")
    digits = re.sub(r"\D", "", person)
    return database, digits.lstrip("0") or person if digits else person


def require_spelt(excluded: Collection[str], known: Collection[str]) -> None:
    """A subject that is nowhere excludes nobody, which is right for another database's, and a leak for a misspelt.

    >>> require_spelt(["casme2/sub1"], ["casme2/sub01"])
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: exclude_subjects: no clip has 'casme2/sub1'; is 'casme2/sub01' meant?
    """
    near = {_plain(name): name for name in sorted(known)}
    for name in sorted(set(excluded) - set(known)):
        if meant := near.get(_plain(name)):
            raise ConfigError(f"exclude_subjects: no clip has '{name}'; is '{meant}' meant?")
