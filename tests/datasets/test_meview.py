"""MEVIEW by a CSV its user writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.check import check
from mesynth.datasets.generic import HEADER
from mesynth.datasets.load import load_release, usable
from mesynth.datasets.meview import MEVIEW, is_release
from tests.datasets.releases.generic import ROWS, csv_text, write_recordings


def test_its_people_have_one_key_whatever_the_folder_and_the_columns_say(tmp_path: Path) -> None:
    rows = [{**row, "database": "mine", "licence": "x"} for row in ROWS]
    root = write_recordings(tmp_path / "poker", rows, name="MEVIEW.csv")
    loaded = load_release(MEVIEW, root)
    assert set(usable(loaded).subject_keys()) == {"meview/p01", "meview/p02"}
    assert {row.provenance.licence for row in loaded.manifest} == {"MEVIEW terms of use"}
    found = check(loaded)
    assert (found.annotated, found.published.clips, found.published.subjects) == (4, 31, 16)
    assert not found.complete
    assert "not known" in found.notes[0]
    assert is_release(root)


def test_without_its_csv(tmp_path: Path) -> None:
    root = write_recordings(tmp_path / "meview")
    assert not is_release(root)
    with pytest.raises(DatasetLayoutError, match=r"no meview\.csv in .*annotations\.csv.*below the header") as error:
        load_release(MEVIEW, root)
    assert HEADER in str(error.value)
    (root / "meview.csv").write_text(csv_text(ROWS).replace("emotion", "mood"), encoding="utf-8")
    with pytest.raises(DatasetLayoutError, match="lacks the column 'emotion'"):
        load_release(MEVIEW, root)
    with pytest.raises(DatasetLayoutError, match="does not exist"):
        load_release(MEVIEW, tmp_path / "nowhere")
