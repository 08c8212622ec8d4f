"""Damaged workbooks: one line that names the file; small files stay small in memory; nothing is executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import openpyxl
import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets import files
from mesynth.datasets.files import read_cells, read_workbook
from tests.fuzz.damage import damaged, result

WANTED = {"subject": ("Subject",), "onset": ("OnsetFrame",)}


def _xlsx(rows: int = 20) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Subject", "OnsetFrame", "Note"])
    for i in range(rows):
        sheet.append([f"{i:02d}", i * 10, None if i % 3 else "x"])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _with_sheet(xml: str, *, extra: dict[str, bytes] | None = None) -> bytes:
    """The workbook with its sheet's XML replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_xlsx())) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, xml if name == "xl/worksheets/sheet1.xml" else old.read(name))
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return buffer.getvalue()


def _sheet(cells: str) -> str:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<?xml version="1.0"?><worksheet xmlns="{space}"><sheetData>{cells}</sheetData></worksheet>'


def test_damaged_workbooks(tmp_path: Path) -> None:
    file = tmp_path / "coding.xlsx"
    refused = 0
    for bad in damaged(_xlsx(), 150):
        file.write_bytes(bad)
        found = result(lambda: read_workbook(file, WANTED))
        refused += found is None
        assert found is None or len(found.rows) == 20
    assert refused > 40


@pytest.mark.parametrize("suffix", [".xls", ".xlsx"])
@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 600, b"\t\x08\x10\x00\x00\x06\x05\x00" * 9,
     pickle.dumps({"a": 1}), b"<table><tr><td>Subject</td></tr></table>"],
)  # fmt: skip
def test_files_that_are_no_workbook(tmp_path: Path, suffix: str, data: bytes) -> None:
    file = tmp_path / f"coding{suffix}"
    file.write_bytes(data)
    with pytest.raises(DatasetLayoutError, match="coding"):
        read_workbook(file, WANTED)
    result(lambda: read_cells(file))


def test_damaged_old_workbooks(tmp_path: Path) -> None:
    """Records of the old format without its container: xlrd reads them from the first byte."""
    record = lambda kind, body: kind.to_bytes(2, "little") + len(body).to_bytes(2, "little") + body  # noqa: E731
    begin = record(0x0009, (0x0002).to_bytes(2, "little") + (0x0010).to_bytes(2, "little"))  # BIFF 2, a worksheet
    label = record(0x0004, bytes([0, 0, 0, 0, 0, 0, 0, 7]) + b"Subject")
    other = record(0x0004, bytes([0, 0, 1, 0, 0, 0, 0, 10]) + b"OnsetFrame")
    number = record(0x0002, bytes([1, 0, 1, 0, 0, 0, 0, 9, 0]))
    whole = begin + label + other + number + record(0x000A, b"")
    file = tmp_path / "coding.xls"
    file.write_bytes(whole)
    assert read_workbook(file, WANTED).rows == ({"subject": None, "onset": 9.0},)
    refused = 0
    for bad in damaged(whole, 300):
        file.write_bytes(bad)
        refused += result(lambda: read_workbook(file, WANTED)) is None
    assert refused > 50


def test_one_cell_far_out_does_not_make_a_table_of_all_before_it(tmp_path: Path) -> None:
    file = tmp_path / "coding.xlsx"
    file.write_bytes(_with_sheet(_sheet('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')))
    with pytest.raises(DatasetLayoutError, match="row 1048576"):
        read_workbook(file, WANTED)


def test_a_workbook_that_unpacks_into_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_BYTES", 1 << 20)
    file = tmp_path / "coding.xlsx"
    file.write_bytes(_with_sheet(_sheet("<row/>" * 200_000)))
    assert file.stat().st_size < 20_000
    with pytest.raises(DatasetLayoutError, match="unpacks into more"):
        read_workbook(file, WANTED)


def test_members_that_lead_out_of_the_archive_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "coding.xlsx"
    with zipfile.ZipFile(io.BytesIO(_xlsx())) as old:
        xml = old.read("xl/worksheets/sheet1.xml").decode()
    file.write_bytes(_with_sheet(xml, extra={"../../evil.txt": b"x", "/tmp/evil.txt": b"x"}))
    assert len(read_workbook(file, WANTED).rows) == 20
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["coding.xlsx", "in"]


def test_entities_do_not_multiply_or_reach_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    lines = ['<!ENTITY a "aaaaaaaaaa">'] + [f'<!ENTITY {x} "{"&" + y + ";"}">'.replace(f"&{y};", f"&{y};" * 10)
             for x, y in zip("bcdefghij", "abcdefghi", strict=True)]  # fmt: skip
    for doctype, entity in (("".join(lines), "&j;"), (f'<!ENTITY s SYSTEM "{secret.as_uri()}">', "&s;")):
        body = _sheet(f'<row r="1"><c r="A1" t="inlineStr"><is><t>{entity}</t></is></c></row>')
        head, rest = body.split("?>", 1)
        file = tmp_path / "coding.xlsx"
        file.write_bytes(_with_sheet(f"{head}?><!DOCTYPE worksheet [{doctype}]>{rest}"))
        found = result(lambda file=file: read_cells(file))  # type: ignore[misc]
        assert found is None or "secret" not in str(found)
