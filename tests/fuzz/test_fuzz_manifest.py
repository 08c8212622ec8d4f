"""Damaged manifests and run folders: refused in one line, or the very table that was written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mesynth.core import facs
from mesynth.core.errors import ManifestError
from mesynth.store.manifest import FILE_NAME, SCHEMA, Manifest, Row, Span
from mesynth.store.run_folder import RUN_FILE, claim_folder
from mesynth.store.stage import NOTES_FILE, SKIPPED_FILE, Skipped, read_notes, read_skipped
from tests.builders import row
from tests.fuzz.damage import damaged, result


def _manifest(folder: Path) -> Manifest:
    aus = Row.au_columns(facs.parse_request("12=B,L4=0.2"))
    span = Span("s.tar", 0, 512, "ab")
    rows = [row(f"clip{i}", frames=span if i % 2 else None, warnings=("w",) * (i % 3), **aus) for i in range(40)]
    return Manifest.from_rows(rows, folder)


def test_damaged_manifests(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    whole = manifest.write(tmp_path).read_bytes()
    refused, file = 0, tmp_path / FILE_NAME
    for bad in damaged(whole, 600):
        file.write_bytes(bad)
        found = result(lambda: Manifest.read(tmp_path))
        refused += found is None
        if found is not None:
            assert found.table.equals(manifest.table)
            assert len(list(found)) == 40
    assert refused > 300


def _records(tmp_path: Path) -> list[dict[str, Any]]:
    return list(_manifest(tmp_path).table.to_pylist())


@pytest.mark.parametrize("column", [name for name in SCHEMA.names if name not in {"apex", "frames", "flow"}])
def test_blank_cells_are_refused(tmp_path: Path, column: str) -> None:
    records = _records(tmp_path)
    records[7][column] = None
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), tmp_path / FILE_NAME)
    with pytest.raises(ManifestError, match=f"blank cell in '{column}"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("provenance", "kind"), None, "provenance.kind"),
        (("frames",), {"shard": None, "offset": 0, "size": 1, "sha256": ""}, "frames.shard"),
        (("au_known",), [None] * 50, "blank entry"),
        (("frame_files",), ["a", None], "blank entry"),
    ],
)
def test_cells_that_no_writer_leaves(tmp_path: Path, path: tuple[str, ...], value: object, words: str) -> None:
    records = _records(tmp_path)
    target: Any = records[3]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), tmp_path / FILE_NAME)
    with pytest.raises(ManifestError, match=words):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("au_intensity", [0.5] * 3), ("au_known", []), ("au_intensity", [7.0] * 50), ("au_intensity", [math.nan] * 50)],
)
def test_aus_out_of_shape_or_range(tmp_path: Path, column: str, value: list[float]) -> None:
    """The row can be read, so that `mesynth verify` can list it; its AUs cannot be used."""
    records = _records(tmp_path)
    records[3][column] = value
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), tmp_path / FILE_NAME)
    found = Manifest.read(tmp_path)
    with pytest.raises(ManifestError, match="AUs of clip db/01/clip3"):
        print(found.row(3).aus)
    assert found.row(2).aus.intensity.any()


def test_an_empty_manifest_is_none_of_these(tmp_path: Path) -> None:
    Manifest.from_rows([], tmp_path).write(tmp_path)
    assert len(Manifest.read(tmp_path)) == 0


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1", b"\x80\x04K\x01.", b"{}"])
def test_files_that_are_no_manifest(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.read(tmp_path)


def test_damaged_run_folders(tmp_path: Path) -> None:
    """run.yaml, skipped.csv and notes.jsonl: an error that names the file, or what was written."""
    claim_folder(tmp_path / "run", {"a": 1})
    whole = (tmp_path / "run" / RUN_FILE).read_bytes()
    for bad in [*damaged(whole, 200), b"!!python/object/apply:os.system ['true']", b"\xff\xfe", b"[" * 5000]:
        (tmp_path / "run" / RUN_FILE).write_bytes(bad)
        result(lambda: claim_folder(tmp_path / "run", {"a": 1}))
    (tmp_path / SKIPPED_FILE).write_text('clip_id,reason\na,"x, y"\nb,z\n')
    for bad in [*damaged((tmp_path / SKIPPED_FILE).read_bytes(), 200), b"a\n1\n", b"clip_id,reason\na\n", b"\xff"]:
        (tmp_path / SKIPPED_FILE).write_bytes(bad)
        found = result(lambda: read_skipped(tmp_path))
        assert found is None or all(
            isinstance(s, Skipped) and isinstance(s.clip_id, str) and isinstance(s.reason, str) for s in found
        )
    (tmp_path / NOTES_FILE).write_text('{"clip_id": "a", "drift": 0.5}\n{"clip_id": "b"}\n')
    for bad in [*damaged((tmp_path / NOTES_FILE).read_bytes(), 200), b"[" * 100_000, b"3\n"]:
        (tmp_path / NOTES_FILE).write_bytes(bad)
        notes = result(lambda: read_notes(tmp_path))
        assert notes is None or all(isinstance(note, dict) for note in notes)
