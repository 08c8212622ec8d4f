"""Manifests come back as written, refuse what they are not, and join without losing their shards."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.framing import GIVEN, OWN, Framing, KnownFraming
from mesynth.store import manifest as module
from mesynth.store.manifest import Manifest, Row, Span, framing_meta, write_tables
from tests.builders import provenance, row


def test_round_trip_keeps_every_field(tmp_path: Path) -> None:
    vector = facs.parse_annotation("4D+R12").vector()
    rows = [
        row("a", frames=Span("s.tar", 0, 512, "ab"), warnings=("w",), **Row.au_columns(vector)),
        row("b", apex=None, label="negative", frame_files=("x/1.jpg", "x/2.jpg")),
    ]
    Manifest.from_rows(rows, tmp_path).write(tmp_path)
    back = Manifest.read(tmp_path)
    assert list(back) == rows
    assert back.row(-1) == rows[1]
    np.testing.assert_array_equal(back.row(0).aus.intensity, vector.intensity)
    np.testing.assert_array_equal(back.row(0).aus.mask, vector.mask)


def test_hash_follows_content_and_not_the_place(tmp_path: Path) -> None:
    one = Manifest.from_rows([row("a")], tmp_path)
    assert one.hash() == Manifest.from_rows([row("a")], tmp_path / "elsewhere").hash()
    assert one.hash() != Manifest.from_rows([row("a", emotion="fear")], tmp_path).hash()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(0, 30), cuts=st.lists(st.integers(0, 30), max_size=6), group=st.sampled_from([1, 7, 10, 100]))
def test_a_file_does_not_depend_on_how_its_rows_come(
    rows: int, cuts: list[int], group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_ROWS", group)
    spans = (None, Span("s.tar", 0, 512, "ab"))
    whole = Manifest.from_rows(
        [
            row(f"{i}", frames=spans[i % 2], apex=None if i % 3 else 5, frame_files=("x",) * (i % 4))
            for i in range(rows)
        ],
        tmp_path,
    )
    edges = sorted({0, rows, *(min(c, rows) for c in cuts)})
    parts = [whole.table.slice(a, b - a) for a, b in pairwise(edges)]
    one = whole.write(tmp_path / "one").read_bytes()
    assert write_tables(tmp_path / "two", lambda: iter(parts), {}).read_bytes() == one
    assert not list(tmp_path.rglob("*.tmp"))
    back = Manifest.read(tmp_path / "two")
    assert list(back) == list(whole)
    assert back.meta == {"mesynth.hash": whole.hash()}
    assert pq.ParquetFile(tmp_path / "two" / "manifest.parquet").num_row_groups == max(-(-rows // group), 1)


def test_a_manifest_of_frame_numbers_of_32_bits_is_read(tmp_path: Path) -> None:
    """As 0.1 wrote them; the hash does not know how wide a number is stored."""
    manifest = Manifest.from_rows([row("a", onset=3, apex=None, offset=9)], tmp_path)
    narrow = manifest.table
    for name in ("onset", "apex", "offset"):
        at = narrow.schema.get_field_index(name)
        narrow = narrow.set_column(at, pa.field(name, pa.int32()), narrow[name].cast(pa.int32()))
    pq.write_table(narrow, tmp_path / "manifest.parquet")
    again = Manifest.read(tmp_path)
    assert again.hash() == manifest.hash()
    assert again.table.schema.field("onset").type == pa.int64()


def test_a_number_beyond_its_column_is_one_line(tmp_path: Path) -> None:
    assert Manifest.from_rows([row("a", onset=2**62, offset=2**63 - 1)], tmp_path).row(0).offset == 2**63 - 1
    with pytest.raises(ManifestError, match="too large for a manifest") as error:
        Manifest.from_rows([row("a", offset=2**63)], tmp_path)
    assert "\n" not in str(error.value)


def test_columns_and_subjects(tmp_path: Path) -> None:
    rows = [
        row("a"),
        row("b", subject="02", clip_id="db/02/b/0", provenance=provenance(subjects_seen=("db/02", "x/9"))),
    ]
    manifest = Manifest.from_rows(rows, tmp_path)
    assert manifest.column("provenance.kind").tolist() == ["real", "real"]
    assert manifest.subject_keys().tolist() == ["db/01", "db/02"]
    assert manifest.subjects_seen() == [("db/01",), ("db/02", "x/9")]
    with pytest.raises(ManifestError, match="no column 'colour'"):
        manifest.column("colour")


def test_labels_of_every_scheme(tmp_path: Path) -> None:
    rows = [
        row("a", database="casme2", emotion="sadness", label="negative", objective_class="V"),
        row("b", database="samm", emotion="contempt", label="negative"),
        row("c", database="casme3", emotion="others"),
    ]
    manifest = Manifest.from_rows(rows, tmp_path)
    assert list(manifest.labels()) == ["negative", "negative", ""]
    assert list(manifest.labels("4")) == ["negative", "negative", "others"]
    assert list(manifest.labels("5")) == ["", "contempt", "others"]
    assert list(manifest.labels("7")) == ["sadness", "contempt", "others"]
    assert list(manifest.labels("objective")) == ["V", "", ""]
    with pytest.raises(MesynthError, match="scheme '6'"):
        manifest.labels("6")
    with pytest.raises(ManifestError, match="expression 'mini'"):
        row("d", expression="mini")


def test_filter_and_join_keep_shards_reachable(tmp_path: Path) -> None:
    span = Span("frames-0.tar", 0, 512, "00")
    a = Manifest.from_rows([row("a", frames=span), row("b", frames=span)], tmp_path / "a")
    b = Manifest.from_rows([row("c", flow=span)], tmp_path / "deep" / "b")
    kept = a.filter(np.array([False, True]))
    assert [r.clip for r in kept] == ["b"]
    joined = Manifest.join([kept, b], tmp_path)
    spans = [r.frames or r.flow for r in joined]
    assert [s.shard for s in spans if s] == ["a/frames-0.tar", "deep/b/frames-0.tar"]
    with pytest.raises(ManifestError, match="filter mask"):
        a.filter(np.array([1, 0]))


def test_same_clip_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'db/01/a/0' occurs twice"):
        Manifest.from_rows([row("a"), row("a")], tmp_path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no manifest\.parquet in"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 this is not parquet")
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest.read(tmp_path)
    pq.write_table(pa.table({"clip_id": ["a"]}), tmp_path / "manifest.parquet")
    with pytest.raises(ManifestError, match="lacks the columns database"):
        Manifest.read(tmp_path)


def test_provenance_needs_a_kind_and_a_licence() -> None:
    with pytest.raises(ManifestError, match="kind 'fake' is unknown"):
        provenance(kind="fake")
    with pytest.raises(ManifestError, match="needs a licence"):
        provenance(licence="")


# ---------------------------------------------------------------- where faces lie


_TIGHT = KnownFraming(framing=Framing(eyes=0.57, height=0.46, row=0.25), origin=GIVEN)


def _recorded(folder: Path, known: KnownFraming | None, clip: str = "a") -> Manifest:
    replace(Manifest.from_rows([row(clip)], folder), meta=framing_meta(known)).write(folder)
    return Manifest.read(folder)


def test_a_recorded_framing_stays_with_the_rows(tmp_path: Path) -> None:
    made = _recorded(tmp_path / "a", _TIGHT)
    assert made.framing == _TIGHT
    assert made.filter(np.array([True])).framing == made[:1].framing == _TIGHT
    made.write(tmp_path / "b")
    assert Manifest.read(tmp_path / "b").framing == _TIGHT
    assert made.hash() == _recorded(tmp_path / "c", None).hash()  # the rows are the same
    assert _recorded(tmp_path / "d", None).framing is None


def test_joined_manifests_keep_a_framing_that_all_have(tmp_path: Path) -> None:
    a, b = _recorded(tmp_path / "a", _TIGHT), _recorded(tmp_path / "b", _TIGHT, "b")
    other, none = _recorded(tmp_path / "c", KnownFraming(framing=OWN), "c"), _recorded(tmp_path / "d", None, "d")
    assert Manifest.join([a, b], tmp_path).framing == _TIGHT
    for more in (other, none):
        assert Manifest.join([a, more], tmp_path).framing is None


def test_a_damaged_framing_is_one_line(tmp_path: Path) -> None:
    replace(Manifest.from_rows([row("a")], tmp_path), meta=framing_meta('{"framing": 3}')).write(tmp_path)
    with pytest.raises(ManifestError, match=r"^the framing recorded in .* is damaged .*; make it anew$"):
        Manifest.read(tmp_path).framing  # noqa: B018


_WORDS = st.sampled_from(["", "a", "ä%s", '"\\', "\u2028", "\U0001f600", "\x00\n"]) | st.text(max_size=3)
_FLOATS = st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 0.1, 1e-30]) | st.floats(width=32)


def _odd_rows(cells: list[list[object]]) -> pa.Table:
    """A table of the manifest's columns, of values that no writer of ours leaves."""
    floats, flags, numbers, words, spans = cells
    n = len(floats)
    one = {part.name: words if str(part.type).startswith("list") else None for part in module._PROVENANCE}
    columns = {name: [None] * n for name in module.SCHEMA.names}
    columns |= {"au_intensity": floats, "au_known": flags, "au_present": numbers, "clip_id": words}
    columns |= {"fps": [(f or [None])[0] for f in floats], "onset": [2**62 - i for i in range(n)], "frames": spans}
    columns |= {"warnings": [words] * n, "provenance": [one] * n}
    return pa.Table.from_pydict(columns, schema=module.SCHEMA)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_hash_is_that_of_the_rows_as_json(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 5))

    def column(entry: st.SearchStrategy[object]) -> list[object]:
        lists = st.none() | st.lists(st.none() | entry, max_size=3) | st.lists(entry, min_size=50, max_size=50)
        return data.draw(st.lists(lists, min_size=n, max_size=n))

    span = {"shard": _WORDS, "offset": st.integers(0, 2**60), "size": st.none(), "sha256": _WORDS}
    words = data.draw(st.lists(_WORDS, min_size=n, max_size=n))
    spans = data.draw(st.lists(st.none() | st.fixed_dictionaries(span), min_size=n, max_size=n))
    table = _odd_rows([column(_FLOATS), column(st.booleans()), column(st.integers(-128, 127)), words, spans])
    first = data.draw(st.integers(0, n - 1))
    for part in (table, table.slice(first), pa.concat_tables([table.slice(first), table])):
        rows = "".join(json.dumps(record, sort_keys=True) for record in part.to_pylist())
        assert module._hash([part]) == hashlib.sha256(rows.encode()).hexdigest()
