"""Databases by name, and whose frames a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.registry import DATABASES, database_of, require_database
from tests.datasets.releases.casme import write_casme
from tests.datasets.releases.casme2 import write_release
from tests.datasets.releases.casme3 import write_casme3
from tests.datasets.releases.casme_sq import write_casme_sq
from tests.datasets.releases.dfme import write_dfme
from tests.datasets.releases.fourdme import write_fourdme
from tests.datasets.releases.mmew import write_mmew
from tests.datasets.releases.samm import write_samm
from tests.datasets.releases.smic import write_smic

WRITERS: dict[str, Callable[[Path], Path]] = {
    "casme": write_casme,
    "casme2": write_release,
    "casme3": write_casme3,
    "casme_sq": write_casme_sq,
    "dfme": write_dfme,
    "4dme": write_fourdme,
    "mmew": write_mmew,
    "samm": write_samm,
    "smic": write_smic,
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_picture_of_a_release_is_known_as_its_own(tmp_path: Path, name: str) -> None:
    """Given to `generate` as plain faces, frames of a database would escape the leak check."""
    root = tmp_path / "some folder"
    WRITERS[name](root)
    pictures = [p for p in root.rglob("*") if p.suffix in {".jpg", ".png", ".bmp"}]
    assert pictures
    for picture in {p.parent for p in pictures}:
        found = database_of(picture)
        assert found is not None, picture
        assert found[0] == name


def test_a_folder_of_ones_own_pictures_is_of_no_database(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "me.png").write_bytes(b"x")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert database_of(tmp_path / "faces" / "me.png") is None


def test_a_parent_that_may_not_be_listed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "closed" / "faces"
    folder.mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "closed")
    (tmp_path / "closed" / "CASME2-coding-20140508.xlsx").write_bytes(b"x")
    assert database_of(folder) is None
    monkeypatch.undo()
    assert database_of(folder) == ("casme2", tmp_path / "closed")


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(DatasetLayoutError, match=r"'sam' is unknown; choose from casme, .*samm"):
        require_database("sam")
    assert all(database.name == name for name, database in ((n, DATABASES[n]) for n in DATABASES))
    assert all(database.parts and database.frames for database in (DATABASES[name] for name in DATABASES))
