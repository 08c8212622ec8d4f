"""The notebooks of the docs run from top to bottom, in an empty folder."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_cells_alternate_and_say_what_they_are(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "format_name: percent" in text.split("# ---")[1]
    assert text.count("# %% [markdown]\n# # ") == 1  # one title
    assert text.count("\n# %%\n") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    runpy.run_path(str(file))
    assert capsys.readouterr().out
    assert any(tmp_path.rglob("manifest.parquet"))
